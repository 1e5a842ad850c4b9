//! Old segments: which are needed, what holds them, and how they become free.
//!
//! The log is a queue of segments: the oldest ones go when no stream needs a byte of them, and what is live and holds them
//! is written again at the head. So whatever kills a record (an overwrite, a compaction, a rewrite) lies behind it in the log, and
//! goes after it: no tombstone is given up before what it buries.
//!
//! Streams that hold the oldest segment are first asked to compact ([`Wal::poll_pressure`]); what has not moved after a while,
//! or at once when space is short, is rewritten (`rewrite.rs`). Then states and compaction marks that alone hold the segment are
//! written again. When all that is durable a trim record says which segment is the first that is needed, and when that is durable,
//! the files before it are free. `moved.rs` has the argument why recovery always finds one complete copy.

use std::collections::VecDeque;

use super::batch::Batch;
use super::moved::Moved;
use super::rewrite::Rewriter;
use super::space::{Segment, Segments, Spare};
use super::{Kind, StreamSlot, Ticket, Wal};
use crate::disk::Disk;
use crate::format::{Incarnation, Lsn, MOVE_BYTES, RecordHeader, encode_moves};
use crate::mutant;

/// Streams whose state is written again in one turn at most.
const STATES_PER_TURN: usize = 1024;
/// Between two looks at all streams for segments that can be reclaimed, and more for each stream: looking takes a small part
/// of the core's time whatever their number.
const RECLAIM_NANOS: u64 = 10_000_000;
/// See [`RECLAIM_NANOS`].
const RECLAIM_NANOS_PER_STREAM: u64 = 5_000;
/// Between two rounds of which nothing comes, at most, while writers are about to be refused.
const CRITICAL_PAUSE_NANOS: u64 = 100_000_000;
/// Requests to compact that wait for the owner at most; what finds no place is asked in the next round.
const REQUESTS_MAX: usize = 4096;

/// How short space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    /// Less than half of what entries may use is used.
    Calm,
    /// Owners are asked, and after a while what is live is rewritten if a quarter of the log is garbage.
    Asking,
    /// More than three quarters: what is live is rewritten as soon as the owner has heard of it.
    Urgent,
    /// More than seven eighths: at once, and not even the rate is limited, for the alternative is to refuse writers.
    Critical,
}

/// Where giving up segments stands.
#[derive(Debug)]
enum Stage {
    /// Nothing is free.
    Watch,
    /// Segments before this one are not needed, once the ticket is durable; and what the trim record will say of rewrites. That
    /// is kept from now: later ones are not covered by the ticket.
    Settle(Ticket, Incarnation, Vec<u8>),
    /// The trim record that says so is on its way.
    Trim(Ticket, Lsn, Incarnation),
}

/// The streams that held the oldest segment when they were looked at, and about how many bytes of each are live.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) oldest: Incarnation,
    pub(super) pins: Vec<(StreamSlot, u64)>,
    pub(super) since_nanos: u64,
    /// One of them moved, by its owner or by a rewrite.
    pub(super) moved_one: bool,
    /// Live bytes of those that are still to be rewritten. Writers are not kept off the room for them: the less of it there is, the
    /// more haste is made.
    pub(super) debt_bytes: u64,
}

/// Everything about reclaiming.
pub(super) struct Reclaim {
    /// Bytes that reclaim may still take: all of the reserve.
    pub(super) room: u64,
    /// Something happened that may have freed a segment.
    pub(super) wanted: bool,
    look_at: u64,
    /// When streams may be asked again, if nothing came of the last time; else 0.
    next_round_at: u64,
    /// A stream whose oldest entry was in the oldest segment when this was looked at last.
    pinned_by: Option<StreamSlot>,
    stage: Stage,
    /// Position of the newest trim record that is durable; 0 if there is none.
    pub(super) trimmed_at: Lsn,
    /// Last rewrites: one per stream at most.
    pub(super) moved: Vec<Moved>,
    pub(super) requests: VecDeque<(StreamSlot, u64)>,
    pub(super) round: Option<Round>,
    pub(super) rewriter: Rewriter,
}

impl Reclaim {
    pub(super) fn new(trimmed_at: Lsn, moved: Vec<Moved>) -> Reclaim {
        Reclaim {
            room: 0,
            wanted: true,
            look_at: 0,
            next_round_at: 0,
            pinned_by: None,
            stage: Stage::Watch,
            trimmed_at,
            moved,
            requests: VecDeque::new(),
            round: None,
            rewriter: Rewriter::default(),
        }
    }

    /// Bytes that what is being rewritten still needs.
    pub(super) fn debt_bytes(&self) -> u64 {
        self.round.as_ref().map_or(0, |round| round.debt_bytes)
    }

    /// A stream was rewritten, or replaced from its first entry on.
    pub(super) fn note_moved(&mut self, moved: Moved) {
        self.moved.retain(|other| other.slot != moved.slot);
        self.moved.push(moved);
    }

    pub(super) fn request(&mut self, stream: StreamSlot, bytes: u64) {
        if self.requests.len() < REQUESTS_MAX {
            self.requests.push_back((stream, bytes));
        }
    }
}

impl<D: Disk> Wal<D> {
    /// A stream that the owner is asked to compact, because its entries hold old segments, and about how many bytes of its
    /// entries are in the log. Streams that are not compacted within [`Options::reclaim_patience_ms`](crate::Options) are
    /// rewritten, or asked again if they have more than [`Options::rewrite_bytes_max`](crate::Options).
    pub fn poll_pressure(&mut self) -> Option<(StreamSlot, u64)> {
        loop {
            let (stream, bytes) = self.reclaim.requests.pop_front()?;
            if self.segments.front().is_some_and(|oldest| self.pins(stream, oldest.end)) {
                return Some((stream, bytes));
            }
        }
    }

    pub(super) fn pressure(&self) -> Pressure {
        if self.segments.blocked_until.is_some() {
            // The disk is full before the budget is used.
            return Pressure::Urgent;
        }
        let limit = self.segments.budget_bytes - self.segments.reserve_bytes();
        let used = match self.segments.used_bytes().saturating_mul(8) / limit.max(1) {
            0..4 => Pressure::Calm,
            4..6 => Pressure::Asking,
            6 => Pressure::Urgent,
            _ => Pressure::Critical,
        };
        // A round that began early may still have to be fast: what writers leave of the room must do for it.
        let (round, left) = (self.reclaim.debt_bytes(), self.segments.room(limit, 0));
        match () {
            () if round == 0 || left > round + round / 2 => used,
            () if left > round => used.max(Pressure::Urgent),
            () => Pressure::Critical,
        }
    }

    /// Whether to rewrite is worth what it costs: it cannot free more than what is dead.
    fn is_worth_rewriting(&self) -> bool {
        let dead = self.segments.dead_bytes();
        let enough = self.pressure() >= Pressure::Urgent || dead >= self.segments.used_bytes() / 4;
        self.pressure() > Pressure::Calm && enough && dead >= self.segments.segment_bytes
    }

    /// Where the oldest record of the stream's entries lies that is needed.
    fn first_needed(&self, stream: StreamSlot) -> Option<Lsn> {
        self.index.stream(stream).first_at()
    }

    /// Where a rewrite began, as long as a copy of it is needed: the begin record is needed as well.
    fn begin_needed(&self, moved: &Moved) -> Option<Lsn> {
        let first = self.first_needed(moved.slot)?;
        (moved.begin < first && first < moved.end).then_some(moved.begin)
    }

    /// Whether the stream's entries, or the begin of the rewrite that copied them, hold the segments before a position.
    pub(super) fn pins(&self, stream: StreamSlot, before: Lsn) -> bool {
        let begin = |moved: &Moved| self.begin_needed(moved).filter(|_| moved.slot == stream);
        self.first_needed(stream).is_some_and(|at| at < before)
            || self.reclaim.moved.iter().filter_map(begin).any(|begin| begin < before)
    }

    /// When [`Wal::submit`] wants to be called for reclaim to go on, though nothing is appended. `None` if there is nothing to do
    /// before something happens: an operation of the disk ends, or the owner comes.
    pub fn reclaim_due_nanos(&self) -> Option<u64> {
        if self.retry_at.is_some() || matches!(self.health, super::Health::Poisoned(_)) {
            return None;
        }
        let watches = matches!(self.reclaim.stage, Stage::Watch) && !self.reclaim.rewriter.is_busy();
        let Reclaim { look_at, next_round_at, .. } = self.reclaim;
        let look = (watches && self.reclaim.wanted).then_some(look_at);
        let asks_again = watches && next_round_at > 0 && self.is_pressed();
        let round = asks_again.then_some(next_round_at.max(look_at));
        [look, round, self.rewrite_due_nanos()].into_iter().flatten().min()
    }

    /// The round is over. If nothing came of it the next one has time: its owners were asked just now.
    pub(super) fn end_round(&mut self) {
        let Some(round) = self.reclaim.round.take() else { return };
        self.reclaim.wanted = true;
        if !round.moved_one {
            let pause = match self.pressure() {
                Pressure::Critical => self.patience_nanos().min(CRITICAL_PAUSE_NANOS),
                _ => self.patience_nanos(),
            };
            self.reclaim.next_round_at = round.since_nanos.saturating_add(pause);
        }
    }

    pub(super) fn patience_nanos(&self) -> u64 {
        self.options.reclaim_patience_ms.saturating_mul(1_000_000)
    }

    /// Whether streams might have to move and nobody was asked.
    fn is_pressed(&self) -> bool {
        self.reclaim.round.is_none() && self.pressure() > Pressure::Calm
    }

    /// Looks for segments that no stream needs and takes the steps to free them. Once per turn.
    pub(super) fn maybe_reclaim(&mut self, now_nanos: u64) {
        self.maybe_trim();
        self.step_rewrites(now_nanos);
        if !matches!(self.reclaim.stage, Stage::Watch)
            || !(self.reclaim.wanted || self.is_pressed())
            || self.reclaim.rewriter.is_busy()
            || now_nanos < self.reclaim.look_at
        {
            return;
        }
        let pause = RECLAIM_NANOS + RECLAIM_NANOS_PER_STREAM * self.index.streams.len() as u64;
        self.reclaim.look_at = now_nanos.saturating_add(pause);
        self.reclaim.wanted = false;
        self.look(now_nanos);
    }

    fn look(&mut self, now_nanos: u64) {
        let Some(oldest) = self.segments.front() else { return };
        let (oldest, limit) = (oldest.incarnation, oldest.end);
        if let Some(round) = &self.reclaim.round {
            if round.oldest == oldest && round.pins.iter().any(|(stream, _)| self.pins(*stream, limit)) {
                return;
            }
            // Its room is free again.
            self.reclaim.round = None;
        }
        if now_nanos >= self.reclaim.next_round_at {
            self.reclaim.next_round_at = 0;
        }
        if self.segments.count() < 2 {
            return;
        }
        let rewrites = self.is_worth_rewriting();
        if !rewrites && self.reclaim.pinned_by.is_some_and(|stream| self.pins(stream, limit)) {
            return;
        }
        let mut pins = Vec::new();
        let head = self.open.as_ref().or(self.closed.back()).map_or(self.next_lsn, |b| b.lsn);
        let mut low = head.min(self.losses.oldest_verdict().unwrap_or(head));
        for (slot, stream) in (0..).map(StreamSlot).zip(&self.index.streams) {
            let first = stream.first_at().unwrap_or(head);
            if first < limit {
                self.reclaim.pinned_by = Some(slot);
                if !rewrites {
                    return;
                }
                pins.push((slot, 0));
            }
            low = low
                .min(first)
                .min(stream.state_low().unwrap_or(head))
                .min(stream.compacted_at.filter(|_| !mutant::TOMBSTONES_LOST).unwrap_or(head));
        }
        // Rewrites that begin here, of which a copy is needed.
        let begun =
            |moved: &Moved| self.begin_needed(moved).filter(|&begin| begin < limit).map(|_| moved.slot);
        let begun: Vec<StreamSlot> = self.reclaim.moved.iter().filter_map(begun).collect();
        if let Some(&slot) = begun.first() {
            self.reclaim.pinned_by = Some(slot);
            if !rewrites {
                return;
            }
        }
        for slot in begun {
            if pins.iter().all(|&(pin, _)| pin != slot) {
                pins.push((slot, 0));
            }
        }
        if !pins.is_empty() {
            if self.reclaim.next_round_at == 0 {
                self.begin_round(oldest, pins, now_nanos);
            }
            return;
        }
        self.free(low, limit, now_nanos);
    }

    fn begin_round(&mut self, oldest: Incarnation, mut pins: Vec<(StreamSlot, u64)>, now_nanos: u64) {
        let mut debt_bytes = 0;
        for (stream, bytes) in &mut pins {
            *bytes = self.live_bytes(*stream);
            if self.may_rewrite(*stream, *bytes) {
                debt_bytes += *bytes;
            }
            self.reclaim.request(*stream, *bytes);
        }
        self.news = true;
        self.reclaim.round =
            Some(Round { oldest, pins, since_nanos: now_nanos, moved_one: false, debt_bytes });
    }

    /// No entry lies before `limit`; what does not lie before `low` is all that is needed.
    fn free(&mut self, low: Lsn, limit: Lsn, now_nanos: u64) {
        let begins = self.reclaim.moved.iter().filter_map(|moved| self.begin_needed(moved));
        let low = begins.min().map_or(low, |begin| begin.min(low));
        let first_live = self.segments.first_needed(low);
        if Some(first_live) > self.segments.first_incarnation() {
            let start = self.segments.start_of(first_live);
            // Rewrites whose superseded entries are all gone need not be named, and those without a copy not be known.
            let index = &self.index;
            let copied =
                |m: &Moved| index.stream(m.slot).first_at().is_some_and(|at| m.begin < at && at < m.end);
            self.reclaim.moved.retain(|m| m.dead_until >= start || copied(m));
            let named = self.reclaim.moved.iter().filter(|m| m.dead_until >= start);
            let payload = encode_moves(named.map(|m| (self.index.stream(m.slot).id.0, m.begin)));
            self.reclaim.stage = Stage::Settle(self.last_ticket(), first_live, payload);
            self.reclaim.wanted = true;
            return;
        }
        // No entry holds the oldest segment back, only states and marks.
        self.rewrite_states(limit);
        self.reclaim.look_at = now_nanos.saturating_add(RECLAIM_NANOS);
    }

    /// Writes states and compaction marks from before `limit` again, a bounded number at a time.
    fn rewrite_states(&mut self, limit: Lsn) {
        let (mut rewritten, mut lacks_room) = (0, false);
        for slot in 0..self.index.streams.len() as u32 {
            let stream = &self.index.streams[slot as usize];
            let state_old = stream.state_low().is_some_and(|at| at < limit);
            let mark_old = stream.compacted_at.is_some_and(|at| at < limit);
            if !state_old && !mark_old {
                continue;
            }
            lacks_room = self.reclaim.room < (stream.state.len() + 4096) as u64;
            if rewritten == STATES_PER_TURN || lacks_room {
                break;
            }
            rewritten += 1;
            let slot = StreamSlot(slot);
            let (id, index) = (stream.id, stream.compacted);
            if mark_old {
                let record = RecordHeader { kind: Kind::Compacted, stream: id.0, index, tag: 0, note: 0 };
                let (lsn, _) = self.put(&record, &[]);
                self.index.stream_mut(slot).compacted_at = Some(lsn);
            }
            if state_old {
                self.copy_state(slot);
            }
        }
        // Otherwise there is nothing to be done before something happens.
        self.reclaim.wanted = rewritten > 0 || lacks_room;
    }

    /// Streams that a trim record has to name may be so many.
    pub(super) fn moves_max(&self) -> usize {
        (self.options.payload_bytes_max.min(self.options.batch_bytes_max) as usize / MOVE_BYTES).max(1)
    }

    /// Takes what is free one step further: everything settled, so the trim record; that durable, so the files.
    fn maybe_trim(&mut self) {
        if let Stage::Settle(ticket, first_live, payload) = &mut self.reclaim.stage
            && (self.durable >= *ticket || mutant::TRIM_UNSETTLED)
        {
            let (first_live, payload) = (*first_live, std::mem::take(payload));
            let record = RecordHeader { kind: Kind::Trim, stream: 0, index: first_live.0, tag: 0, note: 0 };
            let (lsn, ticket) = self.put(&record, &payload);
            self.reclaim.stage = Stage::Trim(ticket, lsn, first_live);
        }
        let Stage::Trim(ticket, lsn, first_live) = self.reclaim.stage else { return };
        if self.durable < ticket {
            return;
        }
        self.reclaim.trimmed_at = lsn;
        while let Some(front) = self.segments.front() {
            if front.incarnation >= first_live {
                self.reclaim.stage = Stage::Watch;
                return;
            }
            if front.readers > 0 {
                return;
            }
            let Some(segment) = self.segments.pop_front() else { return };
            self.stats.segments_recycled += 1;
            let Segment { incarnation, file, bytes, .. } = segment;
            self.segments.spares.push_back(Spare { name: incarnation.file_name(), file, bytes });
        }
    }

    // -- what is live -------------------------------------------------------------------------------------------------

    /// About how many bytes of the log a stream's entries take.
    pub(super) fn live_bytes(&self, stream: StreamSlot) -> u64 {
        let stream = self.index.stream(stream);
        let mut bytes = 0;
        stream.each_lsn(stream.first, stream.next, &mut |lsn| bytes += self.segments.mean_entry_bytes(lsn));
        bytes
    }

    /// Entries `first .. end` of a stream do not count any more.
    pub(super) fn note_dead(&mut self, stream: StreamSlot, first: u64, end: u64) {
        let (segments, closed, open) = (&mut self.segments, &mut self.closed, &mut self.open);
        let stream = self.index.stream(stream);
        stream.each_lsn(first, end, &mut |lsn| note_dead(segments, closed, open, lsn));
    }

    /// Entries from `index` on are about to be replaced. If that is all of them, returns where the newest one is.
    #[cold]
    pub(super) fn note_replaced(&mut self, stream: StreamSlot, index: u64) -> Option<Lsn> {
        self.note_dead(stream, index, u64::MAX);
        let stream = self.index.stream(stream);
        if index <= stream.first { stream.lsn(stream.next - 1) } else { None }
    }

    /// The entry or copy at a position does not count any more.
    pub(super) fn note_dead_at(&mut self, lsn: Lsn) {
        note_dead(&mut self.segments, &mut self.closed, &mut self.open, lsn);
    }

    /// Counts what is dead in the segments that opening found.
    pub(super) fn count_dead(&mut self) {
        self.segments.all_dead();
        for stream in &self.index.streams {
            stream.each_lsn(stream.first, stream.next, &mut |lsn| self.segments.note_live(lsn));
        }
    }
}

/// One entry fewer is live: in its segment, or in its batch while that has no segment.
fn note_dead(segments: &mut Segments, closed: &mut VecDeque<Batch>, open: &mut Option<Batch>, lsn: Lsn) {
    if segments.note_dead(lsn) {
        return;
    }
    if let Some(batch) = closed.iter_mut().chain(open).find(|batch| batch.bytes_at(lsn).is_some()) {
        batch.dead += 1;
    }
}
