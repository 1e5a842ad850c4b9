//! Room in the logs: in this core's, and in those of the members whose copies a proposal needs.
//!
//! A log that reached its budget takes no more entries. Logs do not fill evenly (each has its own batches), so that without care a leader
//! with room would go on to append what a quorum of full followers can never acknowledge: its clients would wait for
//! ever, and after its next restart the group could not even be read, because what was appended stands before the first
//! entry of the new term. Hence a core tells its peers in its pulses that its log is about to be full, a headroom
//! before it is. Proposals end at the headroom; entries that other leaders have let in before they heard of it use it.

use logdrive_shard::NodeId;
use logdrive_wal::Disk;

use super::lane::Flags;
use super::requests::busy;
use super::step::RECORD_BYTES;
use super::{Core, Slot};
use crate::api::{Busy, CoreSettings, Error, StateMachine};

/// The headroom at most: what is on the way when a leader hears that it must stop.
const HEADROOM_BYTES_MAX: u64 = 16 << 20;

/// What a core knows of room beside its own log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Bytes of the log that are left to what other leaders send.
    headroom: u64,
    /// The peers were told that this log is about to be full.
    told_full: bool,
    /// Some peer said so of its own.
    any_peer_full: bool,
}

impl Room {
    pub(super) fn new(settings: &CoreSettings, budget_bytes: u64) -> Room {
        let share = (budget_bytes / 16).min(settings.wal.segment_bytes / 2);
        Room { headroom: share.min(HEADROOM_BYTES_MAX), ..Room::default() }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Whether this log takes no more proposals.
    pub(super) fn is_log_full(&self) -> bool {
        self.io.wal.admit(self.room.headroom).is_err()
    }

    /// Whether this log refuses proposals of so many bytes.
    pub(super) fn refuses_proposals_of(&self, bytes: u32) -> bool {
        self.io.wal.admit(u64::from(bytes) + self.room.headroom).is_err()
    }

    /// Whether there is room for one more proposal of so many bytes, here and on a quorum.
    pub(super) fn admit_entry(&mut self, slot: Slot, bytes: u64) -> Result<(), Error> {
        let needed = bytes + RECORD_BYTES + self.room.headroom;
        self.io.wal.admit(needed).map_err(|error| self.log_error(&error))?;
        let flags = self.io.lanes[slot.0 as usize].flags;
        if flags.has(Flags::LOG_FULL) {
            // The one that is due may have come to nothing. Nothing is applied that would make anybody look again.
            self.want_snapshot(slot.0, true);
            return Err(busy(Busy::GroupLog));
        }
        let unwritten = flags.has(Flags::UNWRITTEN);
        if unwritten || (self.room.any_peer_full && !self.quorum_has_room(slot)) {
            return Err(self.out_of_space());
        }
        Ok(())
    }

    /// Whether enough voters could take an entry. Voters out of contact count only when one of the others is full: until then
    /// whether they come back is not a question of room.
    fn quorum_has_room(&self, slot: Slot) -> bool {
        let membership = self.groups[slot.0 as usize].membership();
        [membership.voters(), membership.outgoing()]
            .into_iter()
            .all(|voters| self.majority_has_room(slot, voters))
    }

    fn majority_has_room(&self, slot: Slot, voters: &[NodeId]) -> bool {
        let link_to = |voter: NodeId| {
            self.io.links.iter().find(|link| link.node == voter && link.up && link.shared.has(slot.0))
        };
        let me = self.io.me;
        let (mut able, mut full) = (usize::from(voters.contains(&me)), false);
        for link in voters.iter().filter(|voter| **voter != me).filter_map(|voter| link_to(*voter)) {
            full |= link.peer_full;
            able += usize::from(link.contact && !link.peer_full);
        }
        !full || able > voters.len() / 2
    }

    /// A pulse arrived: which peers are full may have changed.
    pub(super) fn see_peers_room(&mut self) {
        self.room.any_peer_full = self.io.links.iter().any(|link| link.peer_full);
    }

    /// Tells all peers at once when this log fills up or has room again.
    pub(super) fn tell_room(&mut self) {
        let full = self.is_log_full();
        if full != self.room.told_full {
            self.room.told_full = full;
            for link in 0..self.io.links.len() {
                if self.io.links[link].up {
                    self.send_pulse(link);
                }
            }
        }
    }
}
