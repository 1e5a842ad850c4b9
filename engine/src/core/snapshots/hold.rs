//! A transfer ends, and the log behind its snapshot stays for a while: the member continues with that.

use logdrive_shard::{LogIndex, Moment, NodeId};
use logdrive_wal::Disk;

use super::send::{KEEP_FOR, Outgoing};
use crate::api::StateMachine;
use crate::core::Core;

/// Logs that stay for members that were just brought up, at most.
const HOLDS_MAX: usize = 1024;

/// The log behind a snapshot that a member has just got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    slot: u32,
    index: LogIndex,
    until: Moment,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    pub(super) fn end_unneeded(&mut self, slot: u32, to: NodeId) {
        let transfers = &mut self.snapshots.transfers;
        let waiting = transfers.line.remove(&(slot, to));
        let relayed = transfers.relays.remove(&(slot, to)).and(waiting);
        transfers.refused.remove(&(slot, to));
        let is_of = |outgoing: &Outgoing| (outgoing.slot, outgoing.to) == (slot, to);
        let ended = transfers.outgoing.iter().position(is_of).map(|at| self.remove_outgoing(at));
        self.snapshots.transfers.counters.ended += u64::from(ended.is_some());
        let index = ended.and_then(|ended| ended.file).map(|file| file.header.index);
        let Some(index) = index.or(relayed.map(|relayed| relayed.wanted.at_least)) else { return };
        let (now, until) = (self.io.now, self.io.now.after(self.beats(KEEP_FOR)));
        let holds = &mut self.snapshots.transfers.holds;
        holds.retain(|hold| hold.until > now);
        if holds.len() < HOLDS_MAX {
            holds.push(Hold { slot, index, until });
        }
    }

    /// The log behind this index stays for those who continue with it.
    pub(super) fn held_for_transfers(&self, slot: u32) -> LogIndex {
        let transfers = &self.snapshots.transfers;
        let held = transfers.holds.iter().filter(|hold| hold.slot == slot && hold.until > self.io.now);
        let sent = transfers.outgoing.iter().filter(|outgoing| outgoing.slot == slot);
        let sent = sent.filter_map(|outgoing| outgoing.file.as_deref()).map(|file| file.header.index);
        let relayed = transfers.line.range((slot, NodeId(0))..=(slot, NodeId(u32::MAX)));
        let relayed = relayed.filter(|(of, _)| transfers.relays.contains_key(*of));
        let relayed = relayed.map(|(_, waiting)| waiting.wanted.at_least);
        held.map(|hold| hold.index).chain(sent).chain(relayed).min().unwrap_or(LogIndex(u64::MAX))
    }
}
