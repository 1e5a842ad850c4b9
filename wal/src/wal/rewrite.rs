//! Rewriting a stream at the head of the log: read its entries, put copies of all of them between a begin and an end record.
//!
//! One stream at a time, piece by piece, in the background. The stream's index moves to the copies only with the end record, in one
//! step, so readers and writers never see a half. A stream that is overwritten or compacted meanwhile is given up and left for
//! the next round (its copies are garbage then); entries appended meanwhile are copied too.

use std::collections::VecDeque;

use super::reclaim::Pressure;
use super::{EntryHeader, Kind, StreamSlot, Wal};
use crate::disk::Disk;
use crate::format::{BLOCK, Lsn, RECORD_OVERHEAD_MAX, RecordHeader};
use crate::wal::moved::Moved;

/// Payload bytes that are read and put at a time: small enough not to hold up the batches of writers.
const PIECE_BYTES: u32 = 64 << 10;
/// Pieces that are put in one turn at most.
const PIECES_PER_TURN: u32 = 4;
/// Unused allowance that is kept at most, in nanoseconds of the rate.
const BURST_NANOS: u64 = 10_000_000;

/// Orders that wait at most.
const ORDERS_MAX: usize = 1024;

/// Entries as read.
type Piece = Vec<(EntryHeader, Vec<u8>)>;

/// A stream that is being rewritten.
#[derive(Debug)]
struct Job {
    stream: StreamSlot,
    first: u64,
    /// The last entry known so far, and where it was.
    last: u64,
    last_at: Lsn,
    begin: Option<Lsn>,
    /// Of the copies put so far.
    positions: Vec<Lsn>,
    bytes: u64,
    /// What the round counts for it.
    debt_bytes: u64,
    piece: Piece,
}

impl Job {
    /// The next entry to be copied.
    fn next(&self) -> u64 {
        self.first + self.positions.len() as u64
    }
}

/// The job, its reads and its rate.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// Streams whose owner ordered it.
    orders: VecDeque<StreamSlot>,
    job: Option<Job>,
    /// A read is under way; whether it is of the present job.
    reading: Option<bool>,
    /// Bytes that may be put now; below 0 after a piece that was larger.
    allowance: i64,
    allowed_at: u64,
}

impl Rewriter {
    /// Whether a stream is being rewritten.
    pub(super) fn is_busy(&self) -> bool {
        self.job.is_some()
    }
}

enum Step {
    /// Goes on at once.
    More,
    /// Waits for a read, for the rate or for room.
    Wait,
    /// Over, one way or another.
    Over,
}

impl<D: Disk> Wal<D> {
    /// Whether a stream with so many live bytes is rewritten: not if it is too large, and not if it lost entries, which its
    /// owner repairs first.
    pub(super) fn may_rewrite(&self, stream: StreamSlot, bytes: u64) -> bool {
        bytes <= self.options.rewrite_bytes_max && !self.losses.contains(stream)
    }

    /// Goes on with the streams of the round.
    pub(super) fn step_rewrites(&mut self, now_nanos: u64) {
        self.allow(now_nanos);
        let mut pieces = 0;
        while self.retry_at.is_none() && pieces < PIECES_PER_TURN {
            let Some(mut job) = self.reclaim.rewriter.job.take() else {
                if self.next_job(now_nanos) {
                    continue;
                }
                return;
            };
            match self.step_job_of(&mut job) {
                Step::More => pieces += 1,
                Step::Over => {
                    self.pay(job.debt_bytes);
                    continue;
                }
                Step::Wait => pieces = PIECES_PER_TURN,
            }
            self.reclaim.rewriter.job = Some(job);
        }
    }

    fn allow(&mut self, now_nanos: u64) {
        let rate = self.options.reclaim_bytes_per_s;
        let rewriter = &mut self.reclaim.rewriter;
        let nanos = now_nanos.saturating_sub(rewriter.allowed_at).min(1_000_000_000);
        rewriter.allowed_at = now_nanos;
        let bytes = |nanos: u64| i64::try_from(u128::from(rate) * u128::from(nanos) / 1_000_000_000);
        let (more, most) = (bytes(nanos).unwrap_or(i64::MAX), bytes(BURST_NANOS).unwrap_or(i64::MAX));
        rewriter.allowance = rewriter.allowance.saturating_add(more).min(most.max(1));
    }

    /// Orders a stream to be written again at the head of the log, in the background, whatever the policy says: for an owner that knows
    /// better which streams stay as they are. Not done if the stream is too large for
    /// [`Options::rewrite_bytes_max`](crate::Options) or for the room, lost entries, or changes meanwhile; nothing depends on it.
    /// Returns false if too many orders wait.
    pub fn rewrite(&mut self, stream: StreamSlot) -> bool {
        let orders = &mut self.reclaim.rewriter.orders;
        let accepted = orders.len() < ORDERS_MAX || orders.contains(&stream);
        if accepted && !orders.contains(&stream) {
            orders.push_back(stream);
        }
        accepted
    }

    /// Takes the next stream that was ordered.
    fn next_order(&mut self) -> bool {
        let Some(stream) = self.reclaim.rewriter.orders.pop_front() else { return false };
        let bytes = self.live_bytes(stream);
        let (Some(limit), true) = (self.segments.front().map(|s| s.end), self.may_rewrite(stream, bytes))
        else {
            self.stats.rewrites_refused += 1;
            return true;
        };
        if !self.begin_job(stream, bytes, limit, 0) {
            self.stats.rewrites_refused += 1;
        }
        true
    }

    /// Begins to rewrite a stream, unless it has no entries, or there is no room for so many bytes or for its name in trim records.
    fn begin_job(&mut self, stream: StreamSlot, bytes: u64, limit: Lsn, debt_bytes: u64) -> bool {
        let named = self.reclaim.moved.iter().filter(|moved| moved.dead_until >= limit).count();
        let entries = self.index.stream(stream);
        let (first, last) = (entries.first, entries.next.saturating_sub(1));
        let last_at = entries.lsn(last).filter(|_| !entries.is_empty());
        let fits = self.has_room_to_move(bytes) && named < self.moves_max();
        let Some(last_at) = last_at.filter(|_| fits) else { return false };
        let (positions, piece) = (Vec::new(), Vec::new());
        let job = Job { stream, first, last, last_at, begin: None, positions, bytes: 0, debt_bytes, piece };
        self.reclaim.rewriter.job = Some(job);
        if let Some(reading) = &mut self.reclaim.rewriter.reading {
            *reading = false;
        }
        true
    }

    /// Whether there is room for copies of so many bytes. Writers are not kept off the room for a round, so there may not be enough
    /// for all of it any more. What is moved then frees nothing for now, and must not touch the reserve.
    fn has_room_to_move(&self, bytes: u64) -> bool {
        let room = self.reclaim.room;
        let more = self.reclaim.round.as_ref().map_or(0, |round| round.pins.len() as u64);
        // Each stream may take a batch of its own.
        let round = self.reclaim.debt_bytes().saturating_add(more * BLOCK);
        bytes <= room && (round <= room || bytes.saturating_add(self.segments.reserve_bytes()) <= room)
    }

    /// Takes the next stream that was ordered, or of the round if it is time.
    fn next_job(&mut self, now_nanos: u64) -> bool {
        if self.next_order() {
            return true;
        }
        let pressure = self.pressure();
        let Some(limit) = self.segments.front().map(|oldest| oldest.end) else { return false };
        let patience = self.patience_nanos();
        let heard = self.reclaim.requests.is_empty();
        let Some(round) = &mut self.reclaim.round else { return false };
        let may_begin = match pressure {
            Pressure::Critical => true,
            Pressure::Urgent => heard || now_nanos >= round.since_nanos.saturating_add(patience),
            Pressure::Calm | Pressure::Asking => now_nanos >= round.since_nanos.saturating_add(patience),
        };
        if !may_begin {
            return false;
        }
        let Some((stream, bytes)) = round.pins.pop() else {
            self.end_round();
            return false;
        };
        let rewrites = self.may_rewrite(stream, bytes);
        let debt_bytes = if rewrites { bytes } else { 0 };
        if !self.pins(stream, limit) {
            self.note_moved_one();
            self.pay(debt_bytes);
            return true;
        }
        if !rewrites || !self.begin_job(stream, bytes, limit, debt_bytes) {
            self.pay(debt_bytes);
            self.reclaim.request(stream, bytes);
            self.stats.rewrites_refused += 1;
        }
        true
    }

    /// When the rewriter goes on by itself.
    pub(super) fn rewrite_due_nanos(&self) -> Option<u64> {
        let rewriter = &self.reclaim.rewriter;
        let Some(job) = &rewriter.job else {
            if !rewriter.orders.is_empty() {
                return Some(0);
            }
            let round = self.reclaim.round.as_ref()?;
            let heard = self.reclaim.requests.is_empty();
            return match self.pressure() {
                Pressure::Critical => Some(0),
                Pressure::Urgent if heard => Some(0),
                _ => Some(round.since_nanos.saturating_add(self.patience_nanos())),
            };
        };
        let reads = rewriter.reading.is_some() && !self.reader.has_own();
        if reads || (!job.piece.is_empty() && !self.closed.is_empty()) {
            return None;
        }
        let lacks = rewriter.allowance.min(1).abs_diff(1);
        let rate = self.options.reclaim_bytes_per_s;
        let nanos = (u128::from(lacks) * 1_000_000_000).checked_div(rate.into())?;
        Some(rewriter.allowed_at.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn note_moved_one(&mut self) {
        if let Some(round) = &mut self.reclaim.round {
            round.moved_one = true;
        }
    }

    /// What was to be rewritten is, or will not be.
    fn pay(&mut self, bytes: u64) {
        if let Some(round) = &mut self.reclaim.round {
            round.debt_bytes = round.debt_bytes.saturating_sub(bytes);
        }
    }

    fn step_job_of(&mut self, job: &mut Job) -> Step {
        if !self.is_same(job) || job.bytes > self.options.rewrite_bytes_max.saturating_mul(2) {
            return self.abandon(job);
        }
        if job.next() > job.last {
            return self.finish(job);
        }
        if job.piece.is_empty() {
            match (self.reader.take_own(), self.reclaim.rewriter.reading) {
                (Some(result), reading) => {
                    self.reclaim.rewriter.reading = None;
                    if reading != Some(true) {
                        return Step::More;
                    }
                    match result {
                        Ok(piece) => job.piece = piece,
                        Err(error) => {
                            tracing::warn!(%error, "a stream that holds old segments cannot be rewritten");
                            return self.abandon(job);
                        }
                    }
                }
                (None, Some(_)) => return Step::Wait,
                (None, None) => {
                    self.reclaim.rewriter.reading = Some(true);
                    self.reader.begin_own(job.stream, job.next(), job.last, PIECE_BYTES);
                    return Step::Wait;
                }
            }
        }
        self.put_piece(job)
    }

    /// Puts what was read, if the rate and the room allow.
    fn put_piece(&mut self, job: &mut Job) -> Step {
        let record_bytes =
            |(_, payload): &(EntryHeader, Vec<u8>)| (payload.len() + RECORD_OVERHEAD_MAX) as u64;
        let bytes: u64 = job.piece.iter().map(record_bytes).sum();
        if bytes + 2 * RECORD_OVERHEAD_MAX as u64 > self.reclaim.room {
            return self.abandon(job);
        }
        if self.pressure() < Pressure::Critical
            && (self.reclaim.rewriter.allowance <= 0 || !self.closed.is_empty())
        {
            return Step::Wait;
        }
        let stream = self.index.stream(job.stream).id.0;
        if job.begin.is_none() {
            let (kind, index) = (Kind::RewriteBegin, job.first);
            let record = RecordHeader { kind, stream, index, tag: job.last, note: 0 };
            job.begin = Some(self.put(&record, &[]).0);
        }
        for (header, payload) in std::mem::take(&mut job.piece) {
            assert_eq!(header.index, job.next(), "copies are put in the order of the indexes");
            let EntryHeader { index, tag, note } = header;
            let record = RecordHeader { kind: Kind::Copy, stream, index, tag, note };
            let (lsn, _) = self.put(&record, &payload);
            job.positions.push(lsn);
        }
        job.bytes += bytes;
        self.reclaim.rewriter.allowance = self.reclaim.rewriter.allowance.saturating_sub(bytes as i64);
        self.stats.rewritten_bytes += bytes;
        Step::More
    }

    /// Whether the stream's entries are those that the job began with, and perhaps more behind them, which it takes in. Every
    /// overwrite puts a new last entry, so the old last one tells.
    fn is_same(&self, job: &mut Job) -> bool {
        let stream = self.index.stream(job.stream);
        if stream.first != job.first || stream.lsn(job.last) != Some(job.last_at) {
            return false;
        }
        job.last = stream.next - 1;
        match stream.lsn(job.last) {
            Some(at) => job.last_at = at,
            None => return false,
        }
        true
    }

    /// All entries are copied, and nothing was put since that was seen: the end record, and the index moves.
    fn finish(&mut self, job: &mut Job) -> Step {
        let Some(begin) = job.begin else { return self.abandon(job) };
        if self.reclaim.room < RECORD_OVERHEAD_MAX as u64 {
            return self.abandon(job);
        }
        let id = self.index.stream(job.stream).id.0;
        let record =
            RecordHeader { kind: Kind::RewriteEnd, stream: id, index: job.first, tag: job.last, note: 0 };
        let (end, _) = self.put(&record, &[]);
        self.note_dead(job.stream, job.first, job.last + 1);
        for (index, lsn) in (job.first..).zip(&job.positions) {
            self.index.push(job.stream, index, *lsn);
        }
        let moved = Moved { slot: job.stream, begin, end, dead_until: job.last_at };
        self.reclaim.note_moved(moved);
        self.note_moved_one();
        self.stats.rewrites += 1;
        Step::Over
    }

    /// The copies are garbage.
    fn abandon(&mut self, job: &mut Job) -> Step {
        for lsn in &job.positions {
            self.note_dead_at(*lsn);
        }
        self.stats.rewrites_abandoned += 1;
        Step::Over
    }
}
