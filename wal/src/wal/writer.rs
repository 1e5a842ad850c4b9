//! Group commit: batches and segment headers on their way to the disk, acknowledged in the order of the log.

use super::batch::Batch;
use super::{
    CLASS_MARK, CLASS_OPEN, CLASS_READ, CLASS_SCRUB, CLASS_SPACE, CLASS_WRITE, Health, Kind, StreamSlot,
    TOKEN_WAL, Ticket, Wal, token, token_parts,
};
use crate::buffer::Buffer;
use crate::buggify::CUT_BATCH;
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, Incarnation, Lsn, RECORD_OVERHEAD_MAX, RecordHeader,
    SegmentHeader, decode_record, digest_append,
};
use crate::mutant;

/// How long the log waits before it repeats a write that found the disk full.
pub(super) const RETRY_NANOS: u64 = 100_000_000;
/// Batches that were cut short and wait, at most, and the room for entries that must be left when one is.
const CUT_BATCHES_MAX: usize = 8;
const CUT_ROOM_BYTES: u64 = 64 * BLOCK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Header,
    /// The end of a segment: its last batch's directory once more.
    Seal,
    Batch {
        ticket: Ticket,
        end: Lsn,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Done,
    /// The disk was full: to be written again, the same bytes at the same place.
    Repeat,
}

/// A write under way, or complete and waiting for one before it.
#[derive(Debug)]
pub(crate) struct Flight {
    what: What,
    state: State,
    file: FileId,
    offset: u64,
    len: u32,
    lsn: Lsn,
    /// Here only while the write waits to be repeated.
    buffer: Option<Buffer>,
    repeated: bool,
    submitted_nanos: u64,
    pub(super) first_submitted_nanos: u64,
}

impl Flight {
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

impl<D: Disk> Wal<D> {
    /// Whether the open batch is closed before it is full. Each batch begins a block of its own, for which there is room.
    #[inline(always)]
    pub(super) fn is_cut_here(&mut self) -> bool {
        if !self.disk.strikes(CUT_BATCH) || self.closed.len() >= CUT_BATCHES_MAX {
            return false;
        }
        let has_room = self.entry_room >= CUT_ROOM_BYTES;
        if has_room {
            let rooms =
                [&mut self.entry_room, &mut self.append_room, &mut self.vital_room, &mut self.reclaim.room];
            rooms.into_iter().for_each(|room| *room = room.saturating_sub(BLOCK));
        }
        has_room
    }

    /// Closes the open batch and opens one that has room for a record of so much payload.
    #[cold]
    pub(super) fn next_batch(&mut self, payload_bytes: usize) {
        if let Some(batch) = self.open.take() {
            self.stats.batches_full += 1;
            self.closed_bytes += batch.len as u64;
            self.closed.push_back(batch);
        }
        let lsn = self.closed.back().map_or(self.next_lsn, Batch::end);
        let previous = self.previous_batch.replace(lsn);
        // What the batch before it did is known by now, and is said again where that batch's damage does not reach.
        let directory = if previous.is_some() { self.directory.finish() } else { &[] };
        let need = BATCH_HEADER_BYTES + directory.len() + payload_bytes + 2 * RECORD_OVERHEAD_MAX;
        let limit = need.max(self.options.batch_bytes_max as usize).min(self.segments.batch_bytes_max());
        assert!(need <= limit, "a record of {payload_bytes} bytes was admitted and fits into no segment");
        let buffer = self.disk.buffer(limit);
        let mut batch = Batch::new(buffer, limit, lsn, self.next_ticket);
        (batch.states, batch.replaced) = (self.states, self.replaced);
        let index = previous.map_or(0, |p| lsn.since(p));
        batch.put(&RecordHeader { kind: Kind::Directory, stream: 0, index, tag: 0, note: 0 }, directory);
        self.directory.clear();
        let bytes = batch.len as u64;
        self.entry_room = self.entry_room.saturating_sub(bytes);
        self.append_room = self.append_room.saturating_sub(bytes);
        self.vital_room = self.vital_room.saturating_sub(bytes);
        self.open = Some(batch);
        self.next_ticket.0 += 1;
    }

    /// Submits closed and open batches while fewer than `writes_in_flight` are under way; otherwise the open batch goes on
    /// growing. Once per turn, after the turn's appends. Returns whether [`Wal::poll`] has news already: then do not sleep
    /// before calling it, for the disk announces nothing twice.
    pub fn submit(&mut self, now_nanos: u64) -> bool {
        if matches!(self.health, Health::Poisoned(_)) {
            return self.news;
        }
        self.repeat_writes(now_nanos);
        if self.has_unwritten_verdicts() {
            self.write_verdicts();
        }
        self.maybe_reclaim(now_nanos);
        self.copy_states();
        self.submit_batches(now_nanos);
        self.maybe_mark(now_nanos);
        self.maybe_prepare(now_nanos);
        self.step_reads();
        self.maybe_scrub(now_nanos);
        self.update_room();
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.poll(&mut completions);
        self.completions = completions;
        self.handle_completions(now_nanos);
        self.news
    }

    /// Whether an owner in the middle of a long turn had better call [`Wal::submit`] now and then go on: the disk is idle, or what
    /// the owner waits for, and enough for a write is there.
    #[inline]
    pub fn wants_submit(&self) -> bool {
        let Some(open) = &self.open else { return false };
        self.batches_in_flight < self.options.writes_in_flight
            && self.pace.is_worth_a_write(open.len as u64, open.records, self.batches_in_flight)
    }

    /// Takes the disk's completions, and gives it batches that are full; returns whether [`Wal::durable`] moved, a read ended,
    /// an operation of the owner's ended or the health changed. Call [`Wal::submit`] afterwards, and both at least every 100 ms while the log is out of space.
    pub fn poll(&mut self, now_nanos: u64) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.disk.poll(&mut completions);
        self.completions = completions;
        self.handle_completions(now_nanos);
        self.submit_full(now_nanos);
        std::mem::take(&mut self.news)
    }

    /// As [`Wal::poll`], but waits for a completion if there is no news and operations are under way. The clock is asked once
    /// the wait is over: what completed meanwhile was not complete before. For programs without a loop of their own
    /// (benchmarks, tools); never from a running core.
    pub fn wait(&mut self, now_nanos: impl FnOnce() -> u64) -> bool {
        if !self.news {
            self.wait_for_disk();
            let now_nanos = now_nanos();
            self.handle_completions(now_nanos);
            self.submit_full(now_nanos);
        }
        std::mem::take(&mut self.news)
    }

    /// Gives the disk what cannot grow any more: it need not wait for the owner's turn to end.
    fn submit_full(&mut self, now_nanos: u64) {
        if self.closed.is_empty() || matches!(self.health, Health::Poisoned(_)) {
            return;
        }
        let closed = self.closed.len();
        self.submit_batches_while(now_nanos, |log| !log.closed.is_empty());
        if self.closed.len() < closed {
            let mut completions = std::mem::take(&mut self.completions);
            self.disk.poll(&mut completions);
            self.completions = completions;
            self.handle_completions(now_nanos);
        }
    }

    pub(super) fn submit_batches(&mut self, now_nanos: u64) {
        self.submit_batches_while(now_nanos, |_| true);
    }

    fn submit_batches_while(&mut self, now_nanos: u64, wanted: impl Fn(&Wal<D>) -> bool) {
        while wanted(self)
            && self.retry_at.is_none()
            && self.batches_in_flight < self.options.writes_in_flight
        {
            let Some(batch) = self.closed.front().or(self.open.as_ref()) else { return };
            if self.closed.is_empty() && self.worth_waiting(batch.len, now_nanos) {
                return;
            }
            let padded = batch.padded();
            if self.segments.active_room() < padded && !self.rotate(now_nanos) {
                return;
            }
            let batch = match self.closed.pop_front() {
                Some(batch) => {
                    self.closed_bytes -= batch.len as u64;
                    batch
                }
                None => match self.open.take() {
                    Some(batch) => batch,
                    None => return,
                },
            };
            self.submit_batch(batch, now_nanos);
        }
    }

    /// Whether the open batch, of so many bytes, had better grow a little. Its acknowledgement waits for the writes before it
    /// anyway.
    fn worth_waiting(&self, bytes: usize, now_nanos: u64) -> bool {
        self.batches_in_flight > 0
            && bytes < self.options.batch_bytes_min as usize
            && now_nanos.saturating_sub(self.last_submit_nanos) < self.mean_write_nanos / 2
    }

    /// Starts the next segment: its header goes out like a batch, and nothing behind it is acknowledged before it.
    pub(super) fn rotate(&mut self, now_nanos: u64) -> bool {
        let Some(prepared) = self.segments.take_prepared() else { return false };
        self.seal_segment(now_nanos);
        let predecessor = self.segments.last_incarnation();
        let mut header = SegmentHeader {
            log_id: self.log_id,
            incarnation: prepared.incarnation,
            segment_bytes: prepared.bytes,
            start: self.next_lsn,
            predecessor,
            previous_crc: self.chain,
            durable_end: self.durable_end,
            first_live: self.segments.first_incarnation().unwrap_or(prepared.incarnation),
            trim: self.reclaim.trimmed_at,
            crc: 0,
        };
        let mut buffer = self.disk.buffer(BLOCK as usize);
        header.crc = header.encode(buffer.as_mut_slice());
        self.chain = header.crc;
        let (file, lsn) = (prepared.file, self.next_lsn);
        self.segments.start(prepared, header);
        self.fly(What::Header, file, 0, BLOCK as u32, lsn, buffer, now_nanos);
        self.copy_states_from(StreamSlot(0));
        true
    }

    /// Writes the last batch's directory behind it, for the segment is full: with the copy in the next batch, which goes to
    /// the next segment, it is in two places.
    fn seal_segment(&mut self, now_nanos: u64) {
        let (true, Some(next)) = (self.segments.is_active(), self.closed.front().or(self.open.as_ref()))
        else {
            return;
        };
        // The next batch would have been here, so the record fits as it is, position and all.
        let Some(last) = self.segments.last() else { return };
        let Ok(directory) = decode_record(&next.buffer.as_slice()[BATCH_HEADER_BYTES..next.len], None) else {
            unreachable!("the first record of a batch is its directory")
        };
        let len = BATCH_HEADER_BYTES + directory.bytes;
        let padded = (len as u64).next_multiple_of(BLOCK);
        let (file, offset) = (last.file, last.offset(last.end));
        assert!(offset + padded <= last.bytes, "no room for the seal at {offset} of {}", last.bytes);
        let mut buffer = self.disk.buffer(padded as usize);
        let header = BatchHeader {
            incarnation: last.incarnation,
            lsn: self.next_lsn,
            durable_end: self.durable_end,
            previous_crc: self.chain,
            states: next.states,
            replaced: next.replaced,
            ..BatchHeader::default()
        };
        put_seal(header, &next.buffer.as_slice()[BATCH_HEADER_BYTES..len], buffer.as_mut_slice());
        self.segments.note_seal();
        self.fly(What::Seal, file, offset, padded as u32, self.next_lsn, buffer, now_nanos);
    }

    fn submit_batch(&mut self, mut batch: Batch, now_nanos: u64) {
        assert_eq!(batch.lsn, self.next_lsn, "batches are submitted in the order of the log");
        let padded = batch.padded();
        let (file, incarnation, offset): (FileId, Incarnation, u64) = self.segments.place(padded);
        self.segments.count_entries(batch.entries, batch.dead, batch.entry_bytes.into());
        let header = BatchHeader {
            length: batch.len as u32,
            incarnation,
            lsn: batch.lsn,
            durable_end: self.durable_end,
            previous_crc: self.chain,
            records: batch.records,
            states: batch.states,
            replaced: batch.replaced,
            digest: batch.digest,
            seal: false,
            crc: 0,
        };
        let len = batch.len;
        let bytes = batch.buffer.as_mut_slice();
        bytes[len..padded as usize].fill(0);
        self.chain = header.seal(bytes);
        self.next_lsn = batch.end();
        let what = What::Batch { ticket: batch.ticket, end: batch.end() };
        self.batches_in_flight += 1;
        self.flight_bytes += padded;
        self.pace.on_submitted(self.flight_bytes + self.closed_bytes);
        self.last_submit_nanos = now_nanos;
        self.fly(what, file, offset, padded as u32, batch.lsn, batch.buffer, now_nanos);
    }

    #[allow(clippy::too_many_arguments)]
    fn fly(&mut self, what: What, file: FileId, offset: u64, len: u32, lsn: Lsn, buffer: Buffer, now: u64) {
        let number = self.flight_base + self.flights.len() as u64;
        self.flights.push_back(Flight {
            what,
            state: State::UnderWay,
            file,
            offset,
            len,
            lsn,
            buffer: None,
            repeated: false,
            submitted_nanos: now,
            first_submitted_nanos: now,
        });
        self.disk.submit(token(CLASS_WRITE, number), Op::Write { file, offset, buffer, len, durable: true });
    }

    fn repeat_writes(&mut self, now_nanos: u64) {
        if self.retry_at.is_none_or(|at| now_nanos < at) {
            return;
        }
        // Until all have succeeded no new batch is submitted.
        self.retry_at = Some(now_nanos.saturating_add(RETRY_NANOS));
        for (number, flight) in (self.flight_base..).zip(self.flights.iter_mut()) {
            if flight.state != State::Repeat {
                continue;
            }
            let Some(buffer) = flight.buffer.take() else { continue };
            flight.state = State::UnderWay;
            flight.repeated = true;
            flight.submitted_nanos = now_nanos;
            self.stats.writes_repeated += 1;
            let Flight { file, offset, len, .. } = *flight;
            self.disk
                .submit(token(CLASS_WRITE, number), Op::Write { file, offset, buffer, len, durable: true });
        }
    }

    pub(super) fn handle_completions(&mut self, now_nanos: u64) {
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            if completion.token.0 & TOKEN_WAL == 0 {
                self.others.push_back(completion);
                self.news = true;
                continue;
            }
            match token_parts(completion.token) {
                (CLASS_WRITE, number) => self.on_written(number, completion, now_nanos),
                (CLASS_READ, number) => self.on_read(number, completion),
                (CLASS_SPACE, number) => self.on_space(number, completion, now_nanos),
                (CLASS_SCRUB, 0) => self.on_scrubbed(completion, now_nanos),
                (CLASS_SCRUB, _) => self.on_part(completion, now_nanos),
                (CLASS_MARK, _) => self.on_marked(completion, now_nanos),
                (CLASS_OPEN, _) | (_, _) => {
                    if let Some(buffer) = completion.buffer {
                        self.disk.recycle(buffer);
                    }
                }
            }
        }
        self.completions = completions;
        self.advance();
        let reads = self.stats.reads;
        self.step_reads();
        // The disk gets them with the next `submit` or `poll`: the owner must not sleep before that.
        self.news |= self.stats.reads != reads;
    }

    fn on_written(&mut self, number: u64, completion: Completion, now_nanos: u64) {
        let place = number.checked_sub(self.flight_base).and_then(|n| usize::try_from(n).ok());
        let Some(flight) = place.and_then(|p| self.flights.get_mut(p)) else {
            unreachable!("write {number} completed, the oldest under way is {}", self.flight_base)
        };
        let (what, len, offset) = (flight.what, flight.len, flight.offset);
        let wrong = match completion.result {
            Ok(Done::Transferred(bytes)) if bytes == len => None,
            // A short write is how some file systems say that they are full.
            Ok(_) => Some(DiskError {
                op: "write",
                name: String::new(),
                offset: Some(offset),
                errno: libc::ENOSPC,
            }),
            Err(error) => Some(error),
        };
        match wrong {
            None => {
                flight.state = State::Done;
                let nanos = now_nanos.saturating_sub(flight.submitted_nanos);
                self.stats.writes += 1;
                self.stats.write_bytes += u64::from(len);
                self.stats.write_nanos += nanos;
                // The mean of about the last sixteen.
                self.mean_write_nanos = self.mean_write_nanos - self.mean_write_nanos / 16 + nanos / 16;
                self.last_write_nanos = Some(now_nanos);
                if matches!(what, What::Batch { .. }) {
                    self.batches_in_flight -= 1;
                    self.flight_bytes -= u64::from(len);
                    let (under_way, may_be) = (self.batches_in_flight, self.options.writes_in_flight);
                    self.pace.on_written(nanos, under_way, may_be, now_nanos);
                }
                if let Some(buffer) = completion.buffer {
                    self.disk.recycle(buffer);
                }
                self.stir_reads();
            }
            Some(error) if error.is_out_of_space() || mutant::FAILED_WRITE_REPEATED => {
                flight.state = State::Repeat;
                flight.buffer = completion.buffer;
                self.retry_at = Some(now_nanos.saturating_add(RETRY_NANOS));
                self.set_health(Health::OutOfSpace);
            }
            Some(error) => self.poison(error),
        }
    }

    /// Acknowledges the contiguous prefix.
    fn advance(&mut self) {
        if matches!(self.health, Health::Poisoned(_)) {
            return;
        }
        while self.flights.front().is_some_and(Flight::is_done) {
            let Some(flight) = self.flights.pop_front() else { break };
            self.flight_base += 1;
            match flight.what {
                What::Batch { ticket, end } => {
                    self.durable = ticket;
                    self.durable_end = end;
                    self.news = true;
                }
                What::Header => self.segments.spares.extend(self.segments.held.drain(..)),
                What::Seal => {}
            }
        }
        if mutant::OLD_SEGMENT_UNSYNCED {
            let newest = self.flights.back().map(|f| f.file);
            let done = self.flights.iter().filter(|f| Some(f.file) == newest).take_while(|f| f.is_done());
            for flight in done {
                if let What::Batch { ticket, .. } = flight.what {
                    self.durable = self.durable.max(ticket);
                }
            }
        }
        let unsettled = |f: &Flight| f.state == State::Repeat || (f.repeated && f.state == State::UnderWay);
        if self.retry_at.is_some() && !self.flights.iter().any(unsettled) {
            self.retry_at = None;
        }
        self.update_room();
    }

    /// The log position up to which everything is on disk or on its way, and the bytes of what waits to be repeated.
    pub(super) fn flight_at(&self, lsn: Lsn) -> FlightBytes<'_> {
        let after = self.flights.partition_point(|f| f.lsn <= lsn);
        for flight in self.flights.iter().take(after).rev() {
            let What::Batch { end, .. } = flight.what else { continue };
            if lsn >= end {
                break;
            }
            return match (flight.state, &flight.buffer) {
                (State::Done, _) => FlightBytes::OnDisk,
                (_, Some(buffer)) => FlightBytes::InMemory(
                    &buffer.as_slice()[lsn.since(flight.lsn) as usize..flight.len as usize],
                ),
                (_, None) => FlightBytes::UnderWay,
            };
        }
        FlightBytes::OnDisk
    }

    pub(super) fn set_health(&mut self, health: Health) {
        if self.health == health || matches!(self.health, Health::Poisoned(_)) {
            return;
        }
        match &health {
            Health::Running => tracing::info!("the log runs again"),
            Health::OutOfSpace => tracing::warn!(
                used_bytes = self.segments.used_bytes(),
                budget_bytes = self.segments.budget_bytes,
                "the log is out of space: writes wait, reads go on"
            ),
            Health::Poisoned(error) => {
                tracing::error!(%error, "the log is poisoned: nothing more is acknowledged")
            }
        }
        self.health = health;
        self.news = true;
    }

    /// A write or sync failed: what the disk holds is unknown, and asking again would not tell (a failed fsync marks pages
    /// clean). Nothing later is acknowledged.
    pub(super) fn poison(&mut self, error: DiskError) {
        self.set_health(Health::Poisoned(error));
        (self.entry_room, self.append_room, self.vital_room, self.reclaim.room) = (0, 0, 0, 0);
        self.news = true;
        self.stir_reads();
    }

    pub(super) fn out_of_space_error(&self) -> DiskError {
        DiskError { op: "write", name: self.disk.root(), offset: None, errno: libc::ENOSPC }
    }
}

/// Writes a seal to the beginning of `out`: a header of which the fields that come from the directory's record are not set, and
/// that record. Returns its bytes on disk.
pub(super) fn put_seal(header: BatchHeader, record: &[u8], out: &mut [u8]) -> u32 {
    let length = BATCH_HEADER_BYTES + record.len();
    let padded = length.next_multiple_of(BLOCK as usize);
    out[BATCH_HEADER_BYTES..length].copy_from_slice(record);
    out[length..padded].fill(0);
    let record_crc = u32::from_le_bytes([0, 1, 2, 3].map(|n| record[n]));
    let digest = digest_append(0, record_crc);
    BatchHeader { length: length as u32, records: 1, digest, seal: true, ..header }.seal(out);
    padded as u32
}

/// Where the bytes of a submitted batch are.
pub(super) enum FlightBytes<'a> {
    /// Complete: readable.
    OnDisk,
    /// Waiting to be written again: the bytes from the position asked for.
    InMemory(&'a [u8]),
    /// The disk has them.
    UnderWay,
}
