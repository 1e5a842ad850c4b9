//! Applies what is read back from the log, in large batches.

use logdrive_shard::{GroupId, LogIndex, Moment};

use super::recovery::TailEntry;
use super::sessions::Sessions;
use crate::api::{ApplyEntry, Replies, StateMachine};
use crate::wire::EntryKind;

/// Payload bytes applied in one call.
const REPLAY_BYTES: usize = 256 << 10;

/// The state machine while the log is read back, and what waits to be applied to it.
pub(super) struct Applier<M> {
    pub(super) machine: M,
    bytes: Vec<u8>,
    /// Slot, index, end of the payload in `bytes`.
    pub(super) entries: Vec<(u32, u64, usize)>,
    replies: Replies,
    pub(super) sessions: Sessions,
    now: Moment,
    pub(super) applied: u64,
}

impl<M: StateMachine> Applier<M> {
    pub(super) fn new(machine: M, sessions: Sessions, now: Moment) -> Applier<M> {
        let replies = Replies::default();
        Applier { machine, bytes: Vec::new(), entries: Vec::new(), replies, sessions, now, applied: 0 }
    }

    pub(super) fn push(&mut self, ids: &[GroupId], slot: u32, index: u64, entry: &TailEntry) {
        let payload = match entry.kind {
            EntryKind::Payload => &entry.payload[..],
            EntryKind::Session => {
                match self.sessions.admit(slot, index, &entry.payload, self.entries.len(), self.now) {
                    Some(command) => command,
                    None => return,
                }
            }
            EntryKind::Empty | EntryKind::Config => return,
        };
        self.bytes.extend_from_slice(payload);
        self.entries.push((slot, index, self.bytes.len()));
        if self.bytes.len() + self.entries.len() * 64 >= REPLAY_BYTES {
            self.flush(ids);
        }
    }

    /// What was applied of a group is void.
    pub(super) fn forget(&mut self, ids: &[GroupId], slot: u32) {
        self.flush(ids);
        self.machine.forget(slot);
        self.sessions.forget(slot);
    }

    pub(super) fn flush(&mut self, ids: &[GroupId]) {
        let mut start = 0;
        let entries = self.entries.iter().map(|&(slot, index, end)| {
            let payload = &self.bytes[start..end];
            start = end;
            ApplyEntry { slot, group: ids[slot as usize], index: LogIndex(index), payload }
        });
        let entries: Vec<_> = entries.collect();
        if !entries.is_empty() {
            self.machine.apply(&entries, &mut self.replies);
        }
        if self.sessions.has_unsettled() {
            // Nobody waits for the answers; the replies are kept as they were in the life before.
            for n in 0..entries.len() {
                while self.sessions.next_before(n).is_some() {}
                self.sessions.executed(n, self.replies.get(n));
            }
            while self.sessions.next_before(entries.len()).is_some() {}
            self.sessions.end_batch();
        }
        self.applied += entries.len() as u64;
        self.replies.clear();
        self.entries.clear();
        self.bytes.clear();
    }
}
