//! Applying what is committed and durable here, one call per turn for all groups; serving reads.

use logdrive_shard::LogIndex;
use logdrive_wal::Disk;

use super::Core;
use super::buggify::APPLY_ONE;
use super::cache::Cache;
use super::lane::{Flags, Lane};
use super::loads::{Loads, Purpose, Want};
use super::prefetch::{AHEAD, prefetch};
use super::record::note_kind;
use super::requests::{Ports, Proposals};
use super::sessions::{Answer, Sessions};
use crate::api::{ApplyEntry, Error, StateMachine};
use crate::mutant;
use crate::wire::EntryKind;

/// What an entry costs of the turn's budget beside its payload.
const ENTRY_COST_BYTES: u64 = 64;
/// Payload bytes read back at once to be applied.
const LOAD_BYTES_MAX: u32 = 1 << 20;

/// Makes an array for other lifetimes out of an empty one; its memory is reused.
fn recycle<'b>(mut entries: Vec<ApplyEntry<'_>>) -> Vec<ApplyEntry<'b>> {
    entries.clear();
    entries.into_iter().map(|_| unreachable!("the array is empty")).collect()
}

/// Entries of one slot that are applied in a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    slot: u32,
    first: u64,
    last: u64,
    /// Of the log, about.
    bytes: u64,
}

/// The entry at `index`, cached or loaded.
fn entry_at<'a>(
    cache: &'a Cache,
    loads: &'a Loads,
    lane: &Lane,
    slot: u32,
    index: u64,
) -> Option<(EntryKind, &'a [u8])> {
    cache.get(&lane.window, index).or_else(|| {
        let (header, payload) = loads.get(slot, Purpose::Apply, index)?;
        Some((note_kind(header.note), payload.as_slice()))
    })
}

/// What answering touches of a core, while the entries of the batch are borrowed from its cache.
struct Answering<'a> {
    lanes: &'a mut [Lane],
    proposals: &'a mut Proposals,
    ports: &'a mut Ports,
    requests: &'a mut u32,
    request_bytes: &'a mut u64,
}

impl Answering<'_> {
    /// Answers whoever proposed the entry at `index`, if somebody here did.
    #[inline]
    fn proposal(&mut self, slot: u32, index: u64, result: Result<LogIndex, Error>, reply: &[u8]) {
        let lane = &mut self.lanes[slot as usize];
        if let Some(pending) = self.proposals.pop_at(lane, index) {
            *self.requests -= 1;
            *self.request_bytes -= u64::from(pending.bytes);
            self.ports.answer(pending.port, pending.token, result, reply);
        }
    }

    /// Answers the session entries that come before entry `n` of the batch.
    fn sessions(&mut self, sessions: &mut Sessions, n: usize) {
        while let Some(Answer { slot, index, result, reply }) = sessions.next_before(n) {
            self.proposal(slot, index, result, reply);
        }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Applies the entries that may be, within the budget of a turn; what is left comes next turn.
    pub(super) fn apply_committed(&mut self) {
        if self.io.queues.apply.is_empty() {
            return;
        }
        let mut ranges = std::mem::take(&mut self.scratch.ranges);
        self.choose_ranges(&mut ranges);
        let mut entries = recycle(std::mem::take(&mut self.scratch.entries));
        // Hardly ever one.
        let mut configs = Vec::new();
        let io = &mut self.io;
        for &Range { slot, first, last, .. } in &ranges {
            let (lane, group) = (&io.lanes[slot as usize], self.ids[slot as usize]);
            for index in first..=last {
                let entry = entry_at(&io.cache, &io.loads, lane, slot, index);
                let (kind, payload) = entry.expect("the ranges were chosen from what is at hand");
                let payload = match kind {
                    EntryKind::Payload => payload,
                    EntryKind::Session => {
                        let command = self.sessions.admit(slot, index, payload, entries.len(), io.now);
                        let Some(command) = command else { continue };
                        command
                    }
                    EntryKind::Config => {
                        configs.push((slot, LogIndex(index), payload.to_vec()));
                        continue;
                    }
                    EntryKind::Empty => continue,
                };
                entries.push(ApplyEntry { slot, group, index: LogIndex(index), payload });
            }
        }
        let replies = &mut self.scratch.replies;
        if !entries.is_empty() {
            self.machine.apply(&entries, replies);
            assert_eq!(replies.len(), entries.len(), "the state machine gives one reply per entry");
        }
        io.counters.applied += entries.len() as u64;
        let has_sessions = self.sessions.has_unsettled();
        let mut answering = Answering {
            lanes: &mut io.lanes,
            proposals: &mut io.proposals,
            ports: &mut io.ports,
            requests: &mut io.requests,
            request_bytes: &mut io.request_bytes,
        };
        for (n, entry) in entries.iter().enumerate() {
            if has_sessions {
                answering.sessions(&mut self.sessions, n);
                self.sessions.executed(n, replies.get(n));
            }
            answering.proposal(entry.slot, entry.index.0, Ok(entry.index), replies.get(n));
        }
        if has_sessions {
            answering.sessions(&mut self.sessions, entries.len());
            self.sessions.end_batch();
        }
        self.scratch.entries = recycle(entries);
        replies.clear();
        for (slot, index, bytes) in configs {
            self.note_membership(slot, index, &bytes);
        }
        for range in ranges.drain(..) {
            self.end_range(range);
        }
        self.scratch.ranges = ranges;
    }

    /// Takes slots off the queue and chooses what of each is applied now.
    fn choose_ranges(&mut self, ranges: &mut Vec<Range>) {
        let io = &mut self.io;
        let mut budget = io.settings.apply_bytes_per_turn.max(1);
        if io.strikes(APPLY_ONE) {
            budget = 1;
        }
        // What is put back comes next turn.
        for _ in 0..io.queues.apply.len() {
            if budget == 0 {
                break;
            }
            let Some(slot) = io.queues.apply.pop_front() else { break };
            if let Some(&next) = io.queues.apply.get(AHEAD) {
                prefetch(&io.lanes[next as usize]);
                prefetch(&self.groups[next as usize]);
            }
            let lane = &mut io.lanes[slot as usize];
            let group = &self.groups[slot as usize];
            let limit = if mutant::APPLIES_UNDURABLE { group.commit() } else { group.applicable() }.0;
            let first = lane.applied.0 + 1;
            let (mut next, mut bytes) = (first, 0);
            let mut is_cold = false;
            while next <= limit && budget > 0 {
                let len = io
                    .cache
                    .len_of(&lane.window, next)
                    .map(u64::from)
                    .or_else(|| Some(io.loads.get(slot, Purpose::Apply, next)?.1.len() as u64));
                let Some(len) = len else {
                    is_cold = true;
                    break;
                };
                bytes += len + ENTRY_COST_BYTES;
                budget = budget.saturating_sub(len + ENTRY_COST_BYTES);
                next += 1;
            }
            if next > first {
                ranges.push(Range { slot, first, last: next - 1, bytes });
            }
            if is_cold && next == first {
                // Read back and applied later; nobody else waits for it.
                io.loads.drop_load(slot, Purpose::Apply);
                let last = lane.window.first().map_or(limit, |cached| limit.min(cached.max(next + 1) - 1));
                let want =
                    Want { slot, purpose: Purpose::Apply, first: next, last, bytes_max: LOAD_BYTES_MAX };
                if lane.flags.raise(Flags::APPLY_LOAD) {
                    io.loads.want(want);
                }
            }
            if next <= limit && (next > first || !is_cold) {
                io.queues.apply.push_back(slot);
            } else {
                lane.flags.lower(Flags::APPLY);
            }
        }
    }

    /// The entries of a range are applied.
    fn end_range(&mut self, range: Range) {
        let Range { slot, first, last, bytes } = range;
        self.groups[slot as usize].on_applied(LogIndex(last));
        self.io.lanes[slot as usize].applied = LogIndex(last);
        self.count_applied(slot, first, last, bytes);
        if !self.io.changes.is_empty() {
            self.io.finish_changes(slot, LogIndex(last));
        }
        self.io.loads.drop_applied(slot, last);
        self.release_cache(slot);
        if self.io.lanes[slot as usize].flags.has(Flags::HAS_READS) {
            self.io.queue_reads(slot);
        }
    }

    /// Releases cached entries that are applied here and known to every voter.
    pub(super) fn release_cache(&mut self, slot: u32) {
        let lane = &mut self.io.lanes[slot as usize];
        if !lane.window.is_empty() {
            let done = lane.applied.next().min(self.groups[slot as usize].needed_from());
            self.io.cache.release(&mut lane.window, done.0);
        }
    }

    /// Gives up local reads whose time is over.
    pub(super) fn give_up_local_reads(&mut self) {
        while let Some((slot, want, read)) = self.io.local_reads.pop_late(self.io.now) {
            let have = self.io.lanes[slot as usize].applied;
            self.io.requests -= 1;
            self.io.request_bytes -= read.request.len() as u64;
            let error = Error::CommitLagging { have, want };
            self.io.ports.answer(read.port, read.token, Err(error), &[]);
        }
    }

    /// Answers the reads whose round is confirmed and whose index is applied.
    pub(super) fn serve_reads(&mut self) {
        while let Some(slot) = self.io.queues.reads.pop() {
            let io = &mut self.io;
            let lane = &mut io.lanes[slot as usize];
            lane.flags.lower(Flags::READS);
            while let Some(at) = io.reads.pop_served(slot as usize, lane.applied) {
                let read = io.reads.get(at);
                let reply = &mut self.scratch.reply;
                reply.clear();
                self.machine.query(slot, &read.request, reply);
                io.requests -= 1;
                io.request_bytes -= read.request.len() as u64;
                io.ports.answer(read.port, read.token, Ok(lane.applied), reply);
                io.reads.recycle(at);
            }
            while let Some(read) = io.local_reads.pop_served(slot, lane.applied) {
                let reply = &mut self.scratch.reply;
                reply.clear();
                self.machine.query(slot, &read.request, reply);
                io.requests -= 1;
                io.request_bytes -= read.request.len() as u64;
                io.ports.answer(read.port, read.token, Ok(lane.applied), reply);
            }
            if io.reads.count(slot as usize) == 0 && !io.local_reads.wait_for(slot) {
                lane.flags.lower(Flags::HAS_READS);
            }
        }
    }
}
