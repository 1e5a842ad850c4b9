//! Reading entries back: from batches that are still in memory, or from the disk, with the checksum of every record
//! checked. A read of scattered entries has several reads of the disk under way.

use std::collections::VecDeque;

use super::hole::kind_of;
use super::losses::Place;
use super::writer::FlightBytes;
use super::{
    CLASS_READ, Damage, DamageKind, EntryHeader, Health, ReadDone, ReadError, StreamSlot, Wal, token,
};
use crate::buffer::Buffer;
use crate::disk::{Completion, Disk, DiskError, Done, Op};
use crate::format::{
    BLOCK, BatchHeader, Incarnation, Kind, Lsn, RECORD_ALIGN, Record, RecordFault, decode_record,
};

/// One read of the disk covers entries that lie within so many bytes.
const WINDOW_BYTES_MAX: u64 = 64 << 10;
/// Bytes that are read and not wanted at most, between two entries of one window.
const WINDOW_GAP_MAX: u64 = 12 << 10;
/// Guess at the size of a record, for the end of a window.
const RECORD_BYTES_GUESS: u64 = 1024;
/// Windows of one read under way at once.
const WINDOWS_MAX: usize = 16;
/// Bits of a token for the number of a window.
const WINDOW_BITS: u32 = 24;

/// Entries that lie near each other, read together.
struct Window {
    number: u64,
    first: u64,
    last: u64,
    incarnation: Incarnation,
    file_offset: u64,
    /// Position of the byte at `file_offset`.
    lsn: Lsn,
    len: u32,
    arrived: Option<Result<(Buffer, u32), DiskError>>,
}

struct Job {
    token: u64,
    stream: StreamSlot,
    /// Of the log itself, which rewrites the stream.
    own: bool,
    /// The stream was rewritten while this was read, or an entry is to be read again: windows under way are of no use.
    moved: bool,
    /// An entry whose record was damaged when it was read first: it is read again, alone.
    tried: Option<u64>,
    /// Of the scrubber: nothing is handed out, and damaged entries are passed over. What stands where they were.
    check: Option<DamageKind>,
    /// Next entry to hand out.
    next: u64,
    /// Next entry to plan a window for.
    plan: u64,
    last: u64,
    bytes_max: u64,
    bytes: u64,
    entries: Vec<(EntryHeader, Vec<u8>)>,
    windows: VecDeque<Window>,
    /// Windows under way.
    pending: u32,
    next_window: u64,
    error: Option<ReadError>,
    ended: bool,
}

/// What a read of the log itself came to.
type OwnDone = Result<Vec<(EntryHeader, Vec<u8>)>, ReadError>;

/// All reads of a log.
#[derive(Default)]
pub(super) struct Reader {
    /// Under way, by slot; `None` is free.
    jobs: Vec<Option<Job>>,
    /// Waiting for a slot.
    queue: VecDeque<Job>,
    done: VecDeque<ReadDone>,
    own_done: Option<OwnDone>,
    reads_in_flight: u32,
    /// Something can be done for some job.
    stirred: bool,
}

/// Jobs under way at once; further ones wait.
const JOBS_MAX: usize = 256;

impl Reader {
    pub(super) fn begin(&mut self, token: u64, stream: StreamSlot, first: u64, last: u64, bytes_max: u32) {
        let job = Job {
            token,
            stream,
            own: false,
            moved: false,
            tried: None,
            check: None,
            next: first,
            plan: first,
            last,
            bytes_max: u64::from(bytes_max),
            bytes: 0,
            entries: Vec::new(),
            windows: VecDeque::new(),
            pending: 0,
            next_window: 0,
            error: None,
            ended: false,
        };
        self.queue.push_back(job);
        self.stirred = true;
    }

    /// A read of the log itself; one at a time.
    pub(super) fn begin_own(&mut self, stream: StreamSlot, first: u64, last: u64, bytes_max: u32) {
        self.begin(0, stream, first, last, bytes_max);
        if let Some(job) = self.queue.back_mut() {
            job.own = true;
        }
    }

    /// Reads entries to see whether they can be read: those that cannot are damaged from then on.
    pub(super) fn begin_check(&mut self, stream: StreamSlot, first: u64, last: u64, kind: DamageKind) {
        self.begin(0, stream, first, last, u32::MAX);
        if let Some(job) = self.queue.back_mut() {
            job.check = Some(kind);
        }
    }

    /// Whether nobody reads or wants to.
    pub(super) fn is_idle(&self) -> bool {
        self.reads_in_flight == 0 && self.queue.is_empty()
    }

    /// Whether a read of the log's own has ended and was not taken.
    pub(super) fn has_own(&self) -> bool {
        self.own_done.is_some()
    }

    pub(super) fn take_own(&mut self) -> Option<OwnDone> {
        self.own_done.take()
    }

    pub(super) fn take_done(&mut self) -> Option<ReadDone> {
        self.done.pop_front()
    }

    /// Moves waiting jobs to free slots.
    fn seat(&mut self) {
        while !self.queue.is_empty() {
            let free = match self.jobs.iter().position(Option::is_none) {
                Some(free) => free,
                None if self.jobs.len() < JOBS_MAX => {
                    self.jobs.push(None);
                    self.jobs.len() - 1
                }
                None => return,
            };
            self.jobs[free] = self.queue.pop_front();
        }
    }

    fn finish(&mut self, job: Job) {
        let result = match job.error {
            // Damage that this read found is news, and worth more than what was read before it.
            Some(error) => match error {
                ReadError::NotFound { .. } | ReadError::Damaged { .. } if !job.entries.is_empty() => {
                    Ok(job.entries)
                }
                error => Err(error),
            },
            None => Ok(job.entries),
        };
        if job.check.is_some() {
            return;
        }
        if job.own {
            self.own_done = Some(result);
        } else {
            self.done.push_back(ReadDone { token: job.token, result });
        }
    }
}

impl Job {
    fn fail(&mut self, error: ReadError) {
        self.error.get_or_insert(error);
        self.ended = true;
    }

    fn take(&mut self, record: &Record<'_>) {
        if self.check.is_some() {
            return self.pass();
        }
        let header =
            EntryHeader { index: record.header.index, tag: record.header.tag, note: record.header.note };
        self.entries.push((header, record.payload.to_vec()));
        self.bytes += record.payload.len() as u64;
        self.next += 1;
        self.plan = self.plan.max(self.next);
        if self.next > self.last || self.bytes >= self.bytes_max {
            self.ended = true;
        }
    }

    /// Leaves an entry out that was only to be checked.
    fn pass(&mut self) {
        self.next += 1;
        self.plan = self.plan.max(self.next);
        self.ended |= self.next > self.last;
    }

    /// Whether a record with so much payload would go over the bound.
    fn over(&self, payload_bytes: usize) -> bool {
        !self.entries.is_empty() && self.bytes + payload_bytes as u64 > self.bytes_max
    }
}

impl<D: Disk> Wal<D> {
    /// Does for all reads what can be done now.
    pub(super) fn step_reads(&mut self) {
        if !self.reader.stirred {
            return;
        }
        self.reader.stirred = false;
        self.reader.seat();
        for slot in 0..self.reader.jobs.len() {
            let Some(mut job) = self.reader.jobs[slot].take() else { continue };
            self.step_job(slot, &mut job);
            if job.ended && job.pending == 0 {
                for window in job.windows.drain(..) {
                    if let Some(Ok((buffer, _))) = window.arrived {
                        self.disk.recycle(buffer);
                    }
                }
                self.reader.finish(job);
                self.news = true;
                self.reader.stirred |= !self.reader.queue.is_empty();
            } else {
                self.reader.jobs[slot] = Some(job);
            }
        }
    }

    fn step_job(&mut self, slot: usize, job: &mut Job) {
        while !job.ended {
            if job.windows.front().is_some_and(|w| w.arrived.is_some()) {
                if let Some(window) = job.windows.pop_front() {
                    self.consume(slot, job, window);
                }
                continue;
            }
            if job.moved && job.windows.is_empty() {
                (job.moved, job.plan) = (false, job.next);
            }
            if job.windows.is_empty() && self.take_from_memory(job) {
                continue;
            }
            break;
        }
        while !job.ended && !job.moved && job.windows.len() < WINDOWS_MAX && self.plan_window(slot, job) {}
        // Entries may lie in a batch that the disk has at the moment: its completion stirs the reads, unless it failed.
        if let (Health::Poisoned(error), true) = (&self.health, job.windows.is_empty()) {
            job.fail(ReadError::Disk(error.clone()));
        }
    }

    /// Takes the next entry from a batch in memory, if it is there. Also ends the job if the entry is nowhere.
    fn take_from_memory(&mut self, job: &mut Job) -> bool {
        let lsn = match self.place_of(job.stream, job.next) {
            Place::At(lsn) => lsn,
            Place::Damaged if job.check.is_some() => {
                job.pass();
                return true;
            }
            Place::Damaged => {
                let stream = self.index.stream(job.stream).id.0;
                job.fail(ReadError::Damaged { stream, index: job.next });
                return true;
            }
            Place::Nowhere => {
                job.fail(ReadError::NotFound { index: job.next });
                return true;
            }
        };
        let batches = self.closed.iter().chain(self.open.as_ref());
        let bytes = match batches.filter_map(|b| b.bytes_at(lsn)).next() {
            Some(bytes) => bytes,
            None => match self.flight_at(lsn) {
                FlightBytes::InMemory(bytes) => bytes,
                FlightBytes::OnDisk | FlightBytes::UnderWay => return false,
            },
        };
        match decode_record(bytes, Some(lsn)) {
            Ok(record) if job.over(record.payload.len()) => job.ended = true,
            Ok(record) => job.take(&record),
            Err(fault) => unreachable!("record at {lsn} in memory: {fault:?}"),
        }
        true
    }

    /// Submits a read for the next entries that are on disk. Returns whether it did.
    fn plan_window(&mut self, slot: usize, job: &mut Job) -> bool {
        let planned: u64 = job.windows.iter().map(|w| u64::from(w.len)).sum();
        let enough = !job.windows.is_empty() && (job.bytes + planned >= job.bytes_max || job.check.is_some());
        if job.plan > job.last || enough || self.reader.reads_in_flight >= self.options.reads_in_flight {
            // A completion stirs the reads again.
            return false;
        }
        let stream = self.index.stream(job.stream);
        // Repairs lie elsewhere than their neighbours, so a stream that has some is read entry by entry.
        let again = job.tried == Some(job.plan);
        let alone = again || self.losses.contains(job.stream);
        // What is read again is read for itself: a neighbour's damage is not its own.
        let guess = if again { 1 } else { RECORD_BYTES_GUESS };
        let Place::At(lsn) = self.place_of(job.stream, job.plan) else { return false };
        if lsn >= self.next_lsn || !matches!(self.flight_at(lsn), FlightBytes::OnDisk) {
            return false;
        }
        let Some(number) = self.segments.at(lsn) else { return false };
        let segment = self.segments.get(number);
        let offset = segment.offset(lsn);
        let file_offset = offset / BLOCK * BLOCK;
        let (first, mut last, mut end) = (job.plan, job.plan, offset + guess);
        while last < job.last && !alone {
            let Some(next) = stream.lsn(last + 1) else { break };
            let same = next >= segment.start && next < segment.end;
            if !same || !matches!(self.flight_at(next), FlightBytes::OnDisk) {
                break;
            }
            let offset = segment.offset(next);
            if offset > end + WINDOW_GAP_MAX || offset + RECORD_BYTES_GUESS > file_offset + WINDOW_BYTES_MAX {
                break;
            }
            last += 1;
            end = offset + RECORD_BYTES_GUESS;
        }
        let written = segment.offset(segment.end);
        let end = end.next_multiple_of(BLOCK).min(written);
        let window = Window {
            number: job.next_window,
            first,
            last,
            incarnation: segment.incarnation,
            file_offset,
            lsn: Lsn(lsn.0 - (offset - file_offset)),
            len: (end - file_offset) as u32,
            arrived: None,
        };
        job.next_window += 1;
        job.plan = last + 1;
        self.submit_window(slot, job, &window);
        job.windows.push_back(window);
        true
    }

    fn submit_window(&mut self, slot: usize, job: &mut Job, window: &Window) {
        let Some(segment) = self.segments.by_incarnation(window.incarnation) else {
            unreachable!("a segment with readers is not given away: {:?}", window.incarnation)
        };
        segment.readers += 1;
        let file = segment.file;
        job.pending += 1;
        self.reader.reads_in_flight += 1;
        self.stats.reads += 1;
        let buffer = self.disk.buffer(window.len as usize);
        let number = (slot as u64) << WINDOW_BITS | (window.number & ((1 << WINDOW_BITS) - 1));
        let (offset, len) = (window.file_offset, window.len);
        self.disk.submit(token(CLASS_READ, number), Op::Read { file, offset, buffer, len });
    }

    pub(super) fn on_read(&mut self, number: u64, completion: Completion) {
        let (slot, window) = ((number >> WINDOW_BITS) as usize, number & ((1 << WINDOW_BITS) - 1));
        self.reader.reads_in_flight -= 1;
        self.reader.stirred = true;
        // The owner must come back to `submit`, where the reads are taken further.
        self.news = true;
        let Some(Some(job)) = self.reader.jobs.get_mut(slot) else { unreachable!("read {slot} has ended") };
        job.pending -= 1;
        let found = job.windows.iter_mut().find(|w| w.number & ((1 << WINDOW_BITS) - 1) == window);
        let Some(window) = found else { unreachable!("window {window} of read {slot} has ended") };
        window.arrived = Some(match (completion.result, completion.buffer) {
            (Ok(Done::Transferred(bytes)), Some(buffer)) => Ok((buffer, bytes)),
            (Err(error), buffer) => {
                if let Some(buffer) = buffer {
                    self.disk.recycle(buffer);
                }
                Err(error)
            }
            (done, _) => unreachable!("a read ended as {done:?}"),
        });
        let incarnation = window.incarnation;
        if let Some(segment) = self.segments.by_incarnation(incarnation) {
            segment.readers -= 1;
        }
    }

    /// Hands out the entries of a window that arrived.
    fn consume(&mut self, slot: usize, job: &mut Job, mut window: Window) {
        let (buffer, bytes) = match window.arrived.take() {
            Some(Ok(arrived)) => arrived,
            Some(Err(_)) if job.moved => return,
            Some(Err(error)) if error.is_unreadable() => {
                let kind = DamageKind::Unreadable;
                return self.distrust(job, &window, Bad { kind, expected_crc: 0, found_crc: 0 });
            }
            Some(Err(error)) => return job.fail(ReadError::Disk(error)),
            None => unreachable!("only windows that arrived are consumed"),
        };
        if job.moved {
            return self.disk.recycle(buffer);
        }
        let (mut again, mut bad) = (None, None);
        {
            let data = &buffer.as_slice()[..bytes.min(window.len) as usize];
            while !job.ended && job.next <= window.last {
                match self.entry_in(job, &window, data) {
                    Ok(record) if job.over(record.payload.len()) => job.ended = true,
                    Ok(record) => job.take(&record),
                    Err(Trouble::Longer(len)) if bytes == window.len => {
                        again = Some(len);
                        break;
                    }
                    Err(Trouble::Longer(_)) => {
                        let name = window.incarnation.file_name();
                        let offset = Some(window.file_offset + u64::from(bytes));
                        job.fail(ReadError::Disk(DiskError { op: "read", name, offset, errno: libc::EIO }));
                    }
                    Err(Trouble::Moved) => {
                        job.moved = true;
                        break;
                    }
                    Err(Trouble::Damaged(found)) => {
                        bad = Some(found);
                        break;
                    }
                    Err(Trouble::Error(error)) => job.fail(error),
                }
            }
        }
        self.disk.recycle(buffer);
        if let Some(bad) = bad {
            return self.distrust(job, &window, bad);
        }
        if let Some(len) = again {
            // A record goes on behind the window: the same window once more, longer.
            window.first = job.next;
            window.len = len;
            self.submit_window(slot, job, &window);
            job.windows.push_front(window);
        }
    }

    /// The record of a job's next entry is damaged as it came: it is read once more, alone. Then it is damaged.
    fn distrust(&mut self, job: &mut Job, window: &Window, bad: Bad) {
        job.moved = true;
        if job.tried != Some(job.next) {
            job.tried = Some(job.next);
            self.stats.reads_repeated += 1;
            return;
        }
        let Place::At(lsn) = self.place_of(job.stream, job.next) else { return };
        let Some(offset) = self.segments.at(lsn).map(|n| self.segments.get(n).offset(lsn)) else { return };
        let Bad { kind, expected_crc, found_crc } = bad;
        // The scrubber has seen the whole batch.
        let kind = job.check.filter(|_| kind == DamageKind::Checksum).unwrap_or(kind);
        let segment = window.incarnation.file_name();
        let place = Damage {
            segment: segment.clone(),
            offset,
            bytes: RECORD_ALIGN as u64,
            kind,
            expected_crc,
            found_crc,
            entries: Vec::new(),
            states: Vec::new(),
            is_exact: true,
        };
        self.lose_entry(job.stream, job.next, place);
        if job.check.is_some() {
            job.pass();
        } else {
            self.scrub.hurry(window.incarnation);
            job.fail(ReadError::Corrupt { kind, segment, offset, expected_crc, found_crc });
        }
    }

    /// The next entry of a job, in a window's bytes.
    fn entry_in<'a>(&self, job: &Job, window: &Window, data: &'a [u8]) -> Result<Record<'a>, Trouble> {
        let stream = self.index.stream(job.stream);
        let not_found = Trouble::Error(ReadError::NotFound { index: job.next });
        let Place::At(lsn) = self.place_of(job.stream, job.next) else { return Err(not_found) };
        let written = match self.segments.at(lsn).map(|n| self.segments.get(n)) {
            Some(segment) if segment.incarnation == window.incarnation && lsn >= window.lsn => segment,
            // The entry was replaced or rewritten while it was read: it is somewhere else now.
            _ => return Err(Trouble::Moved),
        };
        let at = lsn.since(window.lsn) as usize;
        if at >= window.len as usize {
            return Err(Trouble::Moved);
        }
        let limit = written.offset(written.end) - window.file_offset;
        let corrupt = |expected_crc, found_crc| {
            let kind = kind_at(data, at, window);
            Trouble::Damaged(Bad { kind, expected_crc, found_crc })
        };
        match decode_record(data.get(at..).unwrap_or(&[]), Some(lsn)) {
            Ok(record) => {
                let wrong = !matches!(record.header.kind, Kind::Entry | Kind::Repair | Kind::Copy)
                    || record.header.stream != stream.id.0
                    || record.header.index != job.next;
                if wrong { Err(corrupt(0, 0)) } else { Ok(record) }
            }
            Err(RecordFault::Short { bytes }) => {
                let len = ((at + bytes) as u64).next_multiple_of(BLOCK);
                // A length that leads out of the written part of the segment is damage, too; a read that came back short
                // is the disk's failure.
                let short = data.len() < window.len as usize;
                if !short && (len > limit || len <= u64::from(window.len)) {
                    Err(corrupt(0, 0))
                } else {
                    Err(Trouble::Longer(len as u32))
                }
            }
            Err(RecordFault::Crc { stored, computed }) => Err(corrupt(stored, computed)),
            Err(RecordFault::Kind(_)) => Err(corrupt(0, 0)),
        }
    }

    /// A write completed, so entries that were under way can be read.
    pub(super) fn stir_reads(&mut self) {
        self.reader.stirred |= self.reader.jobs.iter().any(Option::is_some) || !self.reader.queue.is_empty();
    }
}

/// What stands in the block that a damaged record begins in.
fn kind_at(data: &[u8], at: usize, window: &Window) -> DamageKind {
    let block = at / BLOCK as usize * BLOCK as usize;
    let Some(bytes) = data.get(block..block + BLOCK as usize) else { return DamageKind::Checksum };
    match BatchHeader::decode(bytes).filter(|header| header.check_header(bytes).is_ok()) {
        Some(header) if header.incarnation != window.incarnation => DamageKind::Recycled,
        Some(header) if header.lsn != window.lsn.plus(block as u64) => DamageKind::Misdirected,
        Some(_) => DamageKind::Checksum,
        None => kind_of(bytes),
    }
}

/// What is wrong with a record.
struct Bad {
    kind: DamageKind,
    expected_crc: u32,
    found_crc: u32,
}

enum Trouble {
    /// The record goes on: so many bytes of the window are needed.
    Longer(u32),
    /// The entry is not where it was when the window was planned.
    Moved,
    Damaged(Bad),
    Error(ReadError),
}
