//! The log of one core, shared by all its streams.

pub(crate) mod batch;
mod damage;
mod follow;
mod hole;
mod losses;
mod marks;
mod mend;
mod moved;
mod pace;
mod reader;
mod reclaim;
mod recovery;
mod resume;
mod rewrite;
mod scan;
mod scrub;
mod settle;
mod space;
mod tail;
mod taken;
mod types;
mod vital;
mod writer;

use std::collections::VecDeque;

use self::batch::Batch;
use self::damage::FoundDamage;
use self::losses::Losses;
use self::marks::Marks;
use self::moved::Moved;
use self::pace::Pace;
use self::reader::Reader;
use self::reclaim::Reclaim;
pub(crate) use self::recovery::verify_log;
use self::scrub::Scrub;
use self::space::Segments;
pub use self::types::{
    AppendError, Damage, DamageKind, EntryHeader, Health, LostEntries, OpenError, Options, ReadDone,
    ReadError, Recovered, Recovery, Space, Stats, StreamId, StreamSlot, Ticket,
};
use self::writer::Flight;
use crate::disk::{Completion, Disk, DiskError, Token};
use crate::format::{Directory, Kind, Lsn, RECORD_OVERHEAD_MAX, RecordHeader};
use crate::index::Index;

/// Tokens of the log have this bit; tokens of the owner of the disk have not.
const TOKEN_WAL: u64 = 1 << 63;
/// Which part of the log an operation belongs to.
const TOKEN_CLASS_SHIFT: u32 = 56;
/// A batch or a segment header.
const CLASS_WRITE: u64 = 1;
/// A read of entries.
const CLASS_READ: u64 = 2;
/// Preparing and reclaiming segments.
const CLASS_SPACE: u64 = 3;
/// Marks.
const CLASS_MARK: u64 = 5;
/// Opening.
const CLASS_OPEN: u64 = 4;
/// The scrubber's reads.
const CLASS_SCRUB: u64 = 6;

fn token(class: u64, number: u64) -> Token {
    Token(TOKEN_WAL | class << TOKEN_CLASS_SHIFT | number)
}

fn token_parts(token: Token) -> (u64, u64) {
    let number = token.0 & ((1 << TOKEN_CLASS_SHIFT) - 1);
    (token.0 >> TOKEN_CLASS_SHIFT & 0x7f, number)
}

/// The log of one disk. See the crate's documentation for the order of calls.
pub struct Wal<D: Disk> {
    disk: D,
    options: Options,
    log_id: u64,
    index: Index,
    /// What opening found damaged.
    losses: Losses,
    /// The batch that takes records.
    open: Option<Batch>,
    /// Full batches that found no free write, oldest first.
    closed: VecDeque<Batch>,
    /// Payload, header and padding bytes in `open` and `closed`.
    closed_bytes: u64,
    /// Bytes that the owner may let in, see [`Wal::admit`].
    entry_room: u64,
    /// Bytes that entries may still take: more than `entry_room`, so that what was let in is not refused.
    append_room: u64,
    /// Bytes that states and compactions may still take; the reserve included.
    vital_room: u64,
    /// Where the next batch goes.
    next_lsn: Lsn,
    next_ticket: Ticket,
    /// Headers and batches under way, in the order of the log.
    flights: VecDeque<Flight>,
    /// Number of the first of `flights`.
    flight_base: u64,
    /// Batches among `flights` that are not complete.
    batches_in_flight: u32,
    /// Bytes of these.
    flight_bytes: u64,
    pace: Pace,
    /// Set while a flight waits to be repeated.
    retry_at: Option<u64>,
    /// Checksum of the last batch or segment header: the link that the next one names.
    chain: u32,
    /// What the newest batch does, for the one behind it.
    directory: Directory,
    /// Where the newest batch begins; `None` if `directory` is not known to be its.
    previous_batch: Option<Lsn>,
    /// States put, and entries replaced, since the log began; they wrap.
    states: u32,
    replaced: u32,
    /// The stream from which on states wait for their second copy.
    copy_from: Option<StreamSlot>,
    marks: Marks,
    durable: Ticket,
    durable_end: Lsn,
    segments: Segments,
    reclaim: Reclaim,
    reader: Reader,
    scrub: Scrub,
    damage: FoundDamage,
    health: Health,
    /// Something happened that the owner has not been told by `poll`.
    news: bool,
    stats: Stats,
    last_write_nanos: Option<u64>,
    last_submit_nanos: u64,
    mean_write_nanos: u64,
    recovered: Recovered,
    completions: Vec<Completion>,
    /// Completions of the owner's own operations on the disk.
    others: VecDeque<Completion>,
}

impl<D: Disk> Wal<D> {
    /// Opens (or creates, if the directory has no log) the log of a disk: reads everything back into `recovery`, flushes what
    /// was read, prepares a fresh segment. Blocks on [`Disk::wait`]; a start-up operation. On an error nothing was changed,
    /// except that a failed disk may have been left in the middle of preparing a segment, which the next open clears away.
    pub fn open(
        disk: D,
        options: Options,
        now_nanos: u64,
        recovery: &mut dyn Recovery,
    ) -> Result<Wal<D>, OpenError> {
        recovery::open(disk, options, now_nanos, recovery)
    }

    /// The handle of a stream, made if it is new. Hashes; once per stream.
    pub fn stream(&mut self, id: StreamId) -> StreamSlot {
        let known = self.index.streams.len();
        let slot = self.index.slot(id);
        if self.losses.unknown && slot.0 as usize == known {
            self.accuse_stranger(slot);
        }
        slot
    }

    /// The id of a stream.
    pub fn stream_id(&self, stream: StreamSlot) -> StreamId {
        self.index.stream(stream).id
    }

    // -- writing: into the open batch ---------------------------------------------------------------------------------

    /// Copies an entry into the open batch. The index follows the stream's last one, or replaces the stream from there on;
    /// the first entry of an empty stream may have any index that was not compacted.
    ///
    /// An entry without payload is vital, as a state is (the no-op of a new leader: reads go on when space is used up): the
    /// reserve may be used. What [`Wal::admit`] let in is not refused.
    #[inline]
    pub fn append(
        &mut self,
        stream: StreamSlot,
        header: EntryHeader,
        payload: &[u8],
    ) -> Result<Ticket, AppendError> {
        let bytes = payload.len() + RECORD_OVERHEAD_MAX;
        let room = if payload.is_empty() { self.vital_room } else { self.append_room };
        if bytes as u64 > room || payload.len() > self.options.payload_bytes_max as usize {
            return Err(self.refuse(payload.len() as u64, true));
        }
        let (id, accepts, replaces) = {
            let stream = self.index.stream(stream);
            (stream.id, stream.accepts(header.index), header.index < stream.next)
        };
        if !accepts {
            return Err(self.out_of_order(stream, header.index));
        }
        let record = RecordHeader {
            kind: Kind::Entry,
            stream: id.0,
            index: header.index,
            tag: header.tag,
            note: header.note,
        };
        let replaced = if replaces { self.note_replaced(stream, header.index) } else { None };
        let (lsn, ticket) = self.put(&record, payload);
        self.replaced = self.replaced.wrapping_add(u32::from(replaces));
        if let Some(dead_until) = replaced {
            self.reclaim.note_moved(Moved { slot: stream, begin: lsn, end: lsn, dead_until });
        }
        self.index.push(stream, header.index, lsn);
        if !self.losses.is_empty() {
            self.losses.replaced(stream, header.index);
        }
        Ok(ticket)
    }

    /// A hint that an append to this stream comes soon, a few others before it: asks the processor for its cache lines.
    #[inline]
    pub fn prefetch(&self, stream: StreamSlot) {
        crate::index::prefetch(self.index.stream(stream));
    }

    /// The second half of the hint, some appends later: asks for the end of the stream's index, which the lines asked for by
    /// [`Wal::prefetch`] name.
    #[inline]
    pub fn prefetch_end(&self, stream: StreamSlot) {
        if let Some(end) = self.index.stream(stream).end_of_index() {
            crate::index::prefetch(end);
        }
    }

    /// Copies the stream's state into the open batch (vital: the reserve may be used). The log keeps a copy in memory, so
    /// states are meant to be small.
    pub fn put_state(&mut self, stream: StreamSlot, state: &[u8]) -> Result<Ticket, AppendError> {
        self.admit_vital(state.len())?;
        let id = self.index.stream(stream).id;
        let record = RecordHeader { kind: Kind::State, stream: id.0, index: 0, tag: 0, note: 0 };
        let (lsn, ticket) = self.put(&record, state);
        self.states = self.states.wrapping_add(1);
        let stream = self.index.stream_mut(stream);
        stream.state.clear();
        stream.state.extend_from_slice(state);
        (stream.state_at, stream.state_copy_at) = (Some(lsn), None);
        Ok(ticket)
    }

    /// Entries up to `index` are not needed any more. Their segments are reclaimed when no stream needs a byte of them.
    pub fn compact(&mut self, stream: StreamSlot, index: u64) -> Result<Ticket, AppendError> {
        if self.reclaim.room < self.segments.segment_bytes / 2 {
            self.admit_vital(0)?;
        }
        if index > self.index.stream(stream).compacted {
            self.note_dead(stream, 0, index.saturating_add(1));
        }
        if !self.index.compact(stream, index) {
            return Ok(self.last_ticket());
        }
        let id = self.index.stream(stream).id;
        let record = RecordHeader { kind: Kind::Compacted, stream: id.0, index, tag: 0, note: 0 };
        let (lsn, ticket) = self.put(&record, &[]);
        self.index.stream_mut(stream).compacted_at = Some(lsn);
        self.losses.compacted(stream, index);
        self.reclaim.wanted = true;
        Ok(ticket)
    }

    /// Puts an admitted record into the open batch, opening the next one if it does not fit.
    #[inline]
    fn put(&mut self, record: &RecordHeader, payload: &[u8]) -> (Lsn, Ticket) {
        let fits = self.open.as_ref().is_some_and(|b| b.fits(payload.len())) && !self.directory.is_full();
        if !fits || self.is_cut_here() {
            self.next_batch(payload.len());
        }
        let batch = self.open.as_mut().expect("next_batch opens one");
        let before = batch.len;
        let lsn = batch.put(record, payload);
        self.directory.push(record.kind, record.stream, record.index);
        let bytes = (batch.len - before) as u64;
        self.entry_room = self.entry_room.saturating_sub(bytes);
        self.append_room = self.append_room.saturating_sub(bytes);
        self.vital_room = self.vital_room.saturating_sub(bytes);
        self.reclaim.room = self.reclaim.room.saturating_sub(bytes);
        self.stats.records += 1;
        (lsn, batch.ticket)
    }

    #[cold]
    fn refuse(&mut self, payload_bytes: u64, entry: bool) -> AppendError {
        if let Health::Poisoned(error) = &self.health {
            return AppendError::Poisoned(error.clone());
        }
        let limit = u64::from(self.options.payload_bytes_max);
        if payload_bytes > limit {
            return AppendError::PayloadTooLarge { bytes: payload_bytes, limit };
        }
        self.stats.refused += 1;
        self.no_space(entry)
    }

    fn no_space(&self, entry: bool) -> AppendError {
        let Space { used_bytes, budget_bytes: budget } = self.space();
        // What the reserve keeps back counts as used for entries.
        let reserve = if entry { self.segments.reserve_bytes() } else { 0 };
        AppendError::OutOfSpace { used: (used_bytes + reserve).min(budget), budget }
    }

    #[cold]
    fn out_of_order(&self, stream: StreamSlot, index: u64) -> AppendError {
        let stream = self.index.stream(stream);
        AppendError::OutOfOrder {
            index,
            first: stream.first.max(stream.compacted + 1),
            last: stream.next.saturating_sub(1).max(stream.compacted),
        }
    }

    fn admit_vital(&mut self, payload_bytes: usize) -> Result<(), AppendError> {
        let too_large = payload_bytes > self.options.payload_bytes_max as usize;
        if too_large || (payload_bytes + RECORD_OVERHEAD_MAX) as u64 > self.vital_room {
            return Err(self.refuse(payload_bytes as u64, false));
        }
        Ok(())
    }

    /// Ticket of the last record appended: what is parked now waits for this. `Ticket(0)` is durable from the start.
    pub fn last_ticket(&self) -> Ticket {
        Ticket(self.next_ticket.0 - 1)
    }

    /// Everything up to this ticket is durable, in order.
    pub fn durable(&self) -> Ticket {
        self.durable
    }

    /// Bytes waiting in batches that are not submitted: the owner stops taking input above a bound of its own.
    pub fn backlog_bytes(&self) -> u64 {
        self.closed_bytes + self.open.as_ref().map_or(0, |b| b.len as u64)
    }

    /// Whether entries of `bytes` together (payloads plus 64 for each entry's header) would be taken now; the owner asks
    /// before it lets a proposal in.
    pub fn admit(&self, bytes: u64) -> Result<(), AppendError> {
        match &self.health {
            Health::Poisoned(error) => Err(AppendError::Poisoned(error.clone())),
            _ if bytes > self.entry_room => Err(self.no_space(true)),
            _ => Ok(()),
        }
    }

    /// Whether states, compactions and entries without payload of `bytes` together (payloads plus 64 for each) would be taken
    /// now: they may use the reserve, but a disk that is really full has none.
    pub fn has_vital_room(&self, bytes: u64) -> bool {
        bytes <= self.vital_room
    }

    // -- reading ------------------------------------------------------------------------------------------------------

    /// Begins to read entries `first ..= last` of a stream (written ones, durable or not), at most `bytes_max` but at least
    /// one. The reads go to the disk with the next [`Wal::submit`].
    pub fn read(&mut self, token: u64, stream: StreamSlot, first: u64, last: u64, bytes_max: u32) {
        self.reader.begin(token, stream, first, last, bytes_max);
    }

    /// A read that ended.
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        self.reader.take_done()
    }

    // -- questions ----------------------------------------------------------------------------------------------------

    /// How the log is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Space used and allowed.
    pub fn space(&self) -> Space {
        Space { used_bytes: self.segments.used_bytes(), budget_bytes: self.segments.budget_bytes }
    }

    /// Counters since open.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes of memory that the positions of entries take. Counts them: not for every turn.
    pub fn index_bytes(&self) -> u64 {
        self.index.position_bytes()
    }

    /// The exclusive end (LSN, bytes) of the prefix known durable: peers remember it.
    pub fn durable_end(&self) -> u64 {
        self.durable_end.0
    }

    /// When the oldest write under way was submitted (nanoseconds of the caller's clock): the disk's part of liveness.
    pub fn oldest_write_nanos(&self) -> Option<u64> {
        let batch = self.flights.iter().find(|f| !f.is_done()).map(|f| f.first_submitted_nanos);
        batch.into_iter().chain(self.marks.under_way_since()).min()
    }

    /// When the last durable write completed, marks included: a log that has nothing to write is heard of once a second, if
    /// [`Wal::submit`] is called at [`Wal::mark_due_nanos`]. `None` before the first.
    pub fn last_write_nanos(&self) -> Option<u64> {
        self.last_write_nanos
    }

    /// What opening found.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The first and last entry of a stream in the log, durable or not; `None` if it has none.
    pub fn entries(&self, stream: StreamSlot) -> Option<(u64, u64)> {
        let stream = self.index.stream(stream);
        (!stream.is_empty()).then(|| (stream.first, stream.next - 1))
    }

    /// Entries of a stream up to here were given up; 0 if none were.
    pub fn compacted(&self, stream: StreamSlot) -> u64 {
        self.index.stream(stream).compacted
    }

    /// The disk, for the owner's own files and for its eventfd. Tokens of the owner's operations must be below 2^63; their
    /// completions come through [`Wal::poll_completion`].
    pub fn disk(&mut self) -> &mut D {
        &mut self.disk
    }

    /// A completion of an operation that the owner submitted to the disk itself.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.others.pop_front()
    }

    /// Waits for the disk; false if nothing completed.
    fn wait_once(&mut self, now_nanos: u64) -> bool {
        let any = self.wait_for_disk();
        self.handle_completions(now_nanos);
        any
    }

    /// Waits for the disk and keeps what completed.
    fn wait_for_disk(&mut self) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.wait(&mut completions);
        self.completions = completions;
        !self.completions.is_empty()
    }

    /// Gives the disk back as it is, with operations under way: for simulations of a crash.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Writes what is open, waits until all is durable, syncs, and closes. Blocks; for a clean shutdown.
    pub fn close(mut self, now_nanos: u64) -> Result<(), DiskError> {
        while self.durable < self.last_ticket() {
            let before = self.durable;
            self.submit(now_nanos);
            if let Health::Poisoned(error) = &self.health {
                return Err(error.clone());
            }
            if self.health == Health::OutOfSpace {
                return Err(self.out_of_space_error());
            }
            if !self.wait_once(now_nanos) && self.durable == before {
                return Err(self.nothing_comes());
            }
        }
        self.finish_background(now_nanos)?;
        self.mark_closed(now_nanos)
    }
}
