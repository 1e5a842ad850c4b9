//! Members that come and go: changes that clients ask for, and what follows when another configuration is in force.

use logdrive_shard::{LogIndex, Membership, MembershipChange, NodeId, Refused};
use logdrive_wal::Disk;

use super::lane::{Flags, route};
use super::requests::busy;
use super::step::Io;
use super::{Core, LinkId, PortId, Slot};
use crate::api::{Busy, Error, StateMachine};
use crate::mutant;

/// Changes that were appended and are not answered, at most. One per group at a time is possible.
const CHANGES_MAX: usize = 65_536;
/// A configuration's entry is let in like a payload of this size, at most.
const MEMBERSHIP_BYTES: u64 = logdrive_shard::MEMBERSHIP_BYTES_MAX as u64;

/// A change that was appended; answered when the configuration that it ends with is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    slot: u32,
    /// The entry of the configuration that is waited for.
    index: LogIndex,
    /// That one is joint and will be left by itself: the entry that leaves it is waited for instead, once it is appended.
    leaves: bool,
    port: PortId,
    token: u64,
}

impl<D: Disk> Io<D> {
    /// A configuration is appended on the leader's own account, or because it was asked for: the change before it, if one is waited
    /// for, ends with it.
    pub(super) fn leave_joint(&mut self, slot: u32, index: LogIndex) {
        for change in self.changes.iter_mut().filter(|change| change.slot == slot && change.leaves) {
            (change.index, change.leaves) = (index, false);
        }
    }

    /// Answers the changes of a group up to `applied`.
    pub(super) fn finish_changes(&mut self, slot: u32, applied: LogIndex) {
        self.end_changes(slot, |change| {
            (change.index <= applied && !change.leaves).then_some(Ok(change.index))
        });
    }

    /// Leadership was lost: what is behind `commit` may or may not be, and who will leave a joint configuration is not known.
    pub(super) fn fail_changes(&mut self, slot: u32, commit: LogIndex) {
        self.end_changes(slot, |change| {
            (change.index > commit || change.leaves).then_some(Err(Error::Indeterminate))
        });
    }

    fn end_changes(&mut self, slot: u32, outcome: impl Fn(&Change) -> Option<Result<LogIndex, Error>>) {
        let Io { changes, ports, requests, .. } = self;
        changes.retain(|change| {
            let Some(result) = outcome(change).filter(|_| change.slot == slot) else { return true };
            *requests -= 1;
            ports.answer(change.port, change.token, result, &change.index.0.to_le_bytes());
            false
        });
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    pub(super) fn on_change(&mut self, port: PortId, token: u64, slot: Slot, change: &MembershipChange) {
        if !self.io.ports.is_open(port) {
            return;
        }
        if let Err(error) = self.change_membership(port, token, slot, change) {
            self.refuse(port, token, error);
        }
    }

    fn change_membership(
        &mut self,
        port: PortId,
        token: u64,
        slot: Slot,
        change: &MembershipChange,
    ) -> Result<(), Error> {
        let at = slot.0;
        let group = self.groups.get(at as usize).ok_or(Error::NoSuchGroup)?;
        if !group.is_leader() || self.io.handing_over {
            return Err(Error::NotLeader { leader: self.other_leader(at) });
        }
        self.admit_request(0)?;
        if self.io.changes.len() >= CHANGES_MAX {
            return Err(busy(Busy::CoreRequests));
        }
        self.admit_entry(slot, MEMBERSHIP_BYTES)?;
        let appended = self.step(at, |group, env| {
            let appended = group.change_membership(env, change)?;
            Ok((appended.first, group.membership().auto_leave() && !mutant::JOINT_ANSWERED_EARLY))
        });
        if let Ok((index, leaves)) = appended {
            self.expect(port, 0);
            self.io.changes.push(Change { slot: at, index, leaves, port, token });
        }
        self.end_step(at);
        appended.map_err(refused_change)?;
        self.io.queue_flush(at);
        Ok(())
    }

    /// The configurations among the entries of an append go into `scratch.memberships`. False if one cannot be read.
    pub(super) fn read_memberships<'e>(
        &mut self,
        first: LogIndex,
        configs: impl Iterator<Item = (usize, &'e [u8])>,
    ) -> bool {
        self.scratch.memberships.clear();
        for (n, bytes) in configs {
            match Membership::decode(bytes) {
                Ok(membership) => self.scratch.memberships.push((first.plus(n as u64), membership)),
                Err(error) => {
                    tracing::error!(%error, "a leader sent a configuration that cannot be read: its append is not taken");
                    return false;
                }
            }
        }
        true
    }

    /// Another configuration is in force: its members are told of the ways there are, and leadership may belong elsewhere.
    pub(super) fn on_members_changed(&mut self, slot: u32) {
        self.tell_ways(slot);
        self.prefer_a_voter(slot);
        self.maybe_retire(slot);
    }

    /// Tells a group of all ways and contacts there are.
    pub(super) fn tell_ways(&mut self, slot: u32) {
        for at in 0..self.io.links.len() {
            let link = &self.io.links[at];
            let Some(remote) = link.remote(slot).filter(|_| link.up) else { continue };
            let (node, contact, to) = (link.node, link.contact, route(LinkId(at as u16), remote));
            self.step(slot, |group, env| group.on_route(env, node, to));
            self.end_step(slot);
            self.step(slot, |group, env| group.on_contact(env, node, contact));
            self.end_step(slot);
        }
    }

    /// The preferred leader is a voter, one of those that are wanted most: by turns, as when the groups were founded.
    pub(super) fn prefer_a_voter(&mut self, slot: u32) {
        let at = slot as usize;
        let group = &mut self.groups[at];
        let membership = group.membership();
        // The founders' turn is given.
        let is_founding = group.membership_index() == LogIndex(0);
        if is_founding || membership.is_joint() || membership.voters().is_empty() {
            return;
        }
        let voters = self.io.settings.most_wanted(membership.voters());
        let turn = self.ids[at].0.wrapping_sub(1) % voters.len() as u64;
        let preferred = voters[turn as usize];
        if preferred == self.io.preferred[at] || !self.prefers[at] {
            return;
        }
        self.io.preferred[at] = preferred;
        group.prefer(preferred);
        self.maybe_misplaced(slot);
    }

    /// Queues a group that is led here and should not be.
    pub(super) fn maybe_misplaced(&mut self, slot: u32) {
        if self.is_misplaced(slot) && self.io.lanes[slot as usize].flags.raise(Flags::MISPLACED) {
            self.io.queues.misplaced.push_back(slot);
        }
    }
}

/// What a group's refusal of a change means to whoever asked.
fn refused_change(refused: Refused) -> Error {
    match refused {
        Refused::NotLeader { leader } => Error::NotLeader { leader },
        Refused::Transferring { .. } => busy(Busy::Transferring),
        Refused::MembershipMismatch { expected, actual } => Error::MembershipMismatch { expected, actual },
        Refused::ChangePending { .. } | Refused::NotCommittedInTerm => busy(Busy::ChangePending),
        Refused::LearnerBehind { node, lag, limit } => Error::LearnerBehind { node, lag, limit },
        Refused::LearnerUnknown { node } => Error::LearnerUnknown { node },
        Refused::NoQuorum => Error::NoQuorum,
        Refused::BadChange(change) => Error::BadChange(change),
        _ => Error::NotLeader { leader: NodeId::NONE },
    }
}
