//! What is beside the usual course of sending: members that ask by themselves, and those that do not take what they are offered.

use logdrive_shard::{LogIndex, Moment, NodeId, SnapshotWanted};
use logdrive_wal::Disk;

use super::send::{Cause, Outgoing};
use super::transfer::{Refused, TransferStatus, TransferStep};
use crate::api::StateMachine;
use crate::core::Core;
use crate::wire::SnapshotVerdict;

/// Receivers that did not take a snapshot and are told of in the status, at most.
const REFUSED_MAX: usize = 1024;
/// A member that asks by itself and refused what it was offered is not offered anything before: in heartbeat intervals.
const REFUSED_FOR: u32 = 30;

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// A member asked for entries that only a snapshot has. It asks again as long as it lacks them, and has acknowledged them long ago:
    /// to the group it is a member like others, so this is between the two cores.
    pub(super) fn want_for_missed(&mut self, slot: u32, at: usize) {
        let Some(link) = self.io.links.get(at).filter(|link| link.up) else { return };
        let (to, generation) = (link.node, link.generation);
        let Some(remote) = link.remote(slot) else { return };
        let group = &self.groups[slot as usize];
        if !group.is_leader() || !group.membership().contains(to) {
            return;
        }
        let wanted = SnapshotWanted { term: group.term(), at_least: LogIndex(group.first_index().0 - 1) };
        let pause = self.beats(REFUSED_FOR);
        let transfers = &mut self.snapshots.transfers;
        let is_of = |outgoing: &Outgoing| {
            (outgoing.slot, outgoing.to, outgoing.link, outgoing.generation) == (slot, to, at, generation)
        };
        let refused = transfers.refused.get(&(slot, to));
        let was_refused = refused.is_some_and(|refused| self.io.now.since(refused.at) < pause);
        if was_refused || transfers.outgoing.iter().any(is_of) {
            return;
        }
        transfers.is_stirred = true;
        transfers.line.entry((slot, to)).or_insert(Outgoing {
            slot,
            life: self.lives[slot as usize],
            to,
            wanted,
            link: at,
            remote,
            generation,
            cause: Cause::Heals,
            relay_from: Moment(0),
            broken_at: None,
            reported: self.io.now,
            file: None,
        });
    }

    pub(super) fn note_refused(&mut self, at: usize, verdict: SnapshotVerdict) {
        let now = self.io.now;
        let transfers = &mut self.snapshots.transfers;
        let Some(outgoing) = transfers.outgoing.get(at) else { return };
        let Outgoing { slot, to, wanted, file: Some(file), .. } = outgoing else { return };
        let term = wanted.term;
        let (slot, to, index, bytes) = (*slot, *to, file.header.index, file.total());
        transfers.counters.refused += 1;
        let is_known = transfers.refused.contains_key(&(slot, to));
        if transfers.refused.len() < REFUSED_MAX || is_known {
            transfers.refused.insert((slot, to), Refused { index, bytes, term, at: now });
        }
        let of = slot as usize;
        let has_news = self.io.lanes[of].applied > self.snapshots.groups[of].index;
        if verdict == SnapshotVerdict::Refused && has_news && self.groups[of].is_leader() {
            // The same one would not be taken again.
            self.want_snapshot(slot, true);
        }
        if !is_known {
            let group = self.group_name(slot);
            tracing::warn!(
                %group, node = %to, %index, ?verdict,
                "a snapshot is not taken by the member that needs it, whose log says why; it is offered again from time to time"
            );
        }
    }

    /// Who did not take what this node, which leads the group, offered.
    pub(super) fn refused_transfers(&self, slot: u32) -> impl Iterator<Item = TransferStatus> {
        let transfers = &self.snapshots.transfers;
        let group = &self.groups[slot as usize];
        let refused = transfers.refused.range((slot, NodeId(0))..=(slot, NodeId(u32::MAX)));
        let refused = refused.filter(move |(of, refused)| {
            let is_tried = |outgoing: &Outgoing| (outgoing.slot, outgoing.to) == **of;
            let leads = group.is_leader() && group.term() == refused.term;
            leads && !transfers.outgoing.iter().any(is_tried) && !transfers.line.contains_key(*of)
        });
        refused.map(|((_, peer), refused)| TransferStatus {
            peer: *peer,
            outgoing: true,
            step: TransferStep::Refused,
            index: refused.index,
            bytes: 0,
            bytes_total: refused.bytes,
        })
    }
}
