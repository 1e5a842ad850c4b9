//! Entries that a disk loses, and that come back late.
//!
//! What a disk loses while its node runs is found when it is read, and as a rule the other members have given it back some milliseconds
//! later. What a member must not do meanwhile it has hardly time for.

use logdrive_shard::GroupId;

use super::LOOK;
use super::muted::Muted;
use crate::sim::clock::Nanos;
use crate::sim::faults::Stop;
use crate::sim::observer::Verdict;
use crate::sim::ops::OpKind;
use crate::sim::world::World;

/// Writes before the follower ends.
const WRITES: u64 = 3;
/// Groups that take writes meanwhile, of each core.
const WRITTEN_MAX: usize = 4;

impl World {
    pub(super) fn wounds(&mut self, active: usize, step: u64, group: GroupId, leader: usize) -> Verdict {
        if step < WRITES {
            return self.ask_if_up(OpKind::Propose, group, leader);
        }
        if step == WRITES {
            let others = self.other_voters(group, leader);
            let Some(&follower) = others.first() else { return Ok(()) };
            self.active[active].sprung.others = vec![follower];
            // What it does not know to be committed it has not applied when it comes back, and has to read.
            self.stop_node(follower, Stop::Kill)?;
            self.start_later(follower, LOOK);
            return Ok(());
        }
        let [follower] = self.active[active].sprung.others[..] else { return Ok(()) };
        if self.active[active].sprung.muted.is_none() {
            if self.nodes[follower].is_up {
                self.rot_last_life(follower, group);
                self.active[active].sprung.forgets = self.home_alone(follower, group);
                self.empty_caches();
                self.active[active].sprung.muted = Some(Muted::Repairs { to: follower });
                self.work_out_ways();
            }
            return Ok(());
        }
        for group in self.wounded(follower) {
            let leader = self.leader_of(group).filter(|&leader| self.nodes[leader].responds(self.now));
            if let Some(leader) = leader {
                self.ask_if_up(OpKind::Propose, group, leader)?;
            }
        }
        Ok(())
    }

    /// Time to the step after this one.
    pub(super) fn wounds_pause(&self, active: usize, step: u64) -> Nanos {
        match step {
            WRITES.. if self.active[active].sprung.muted.is_none() => LOOK,
            ..WRITES => 2 * LOOK,
            _ => self.unit() / 8,
        }
    }

    /// Some groups of which a node cannot read all that it has.
    fn wounded(&self, node: usize) -> Vec<GroupId> {
        let on_core = |at| {
            let cannot_read = move |slot| self.core(at).is_some_and(|core| core.unreadable(slot).is_some());
            let slots = (0..).map(logdrive::core::Slot).zip(self.groups_of(at));
            slots.filter(move |(slot, _)| cannot_read(*slot)).map(|(_, setup)| setup.id).take(WRITTEN_MAX)
        };
        self.cores_of(node).flat_map(on_core).collect()
    }
}
