//! A leader whose words do not arrive in one group, while everything else does.
//!
//! Whether nodes are alive is one exchange per pair of cores, for all groups that they share. So a follower may be gone from the leader of
//! one group without anything between the two nodes telling of it but the number that pulses carry for that.

use logdrive_shard::GroupId;

use super::muted::Muted;
use crate::sim::observer::Verdict;
use crate::sim::ops::OpKind;
use crate::sim::world::World;

/// The step in which the follower leaves.
const LEAVES_AT: u64 = 8;

impl World {
    pub(super) fn unheard(&mut self, active: usize, step: u64, group: GroupId, leader: usize) -> Verdict {
        if step == 0 {
            let mut others = self.other_voters(group, leader);
            if others.len() < 2 {
                return Ok(());
            }
            // With the one that leaves, those who do not hear the leader at all are a quorum, and without it the leader has one.
            let deaf: Vec<usize> = others.drain(..others.len() / 2).collect();
            self.cut_off(active, leader, &deaf);
            self.active[active].sprung.others = others;
        }
        let Some(&deserter) = self.active[active].sprung.others.first() else { return Ok(()) };
        if step < LEAVES_AT {
            // Rounds are what a lease begins with.
            return self.ask_if_up(OpKind::ReadLinearizable, group, leader);
        }
        if step == LEAVES_AT {
            self.active[active].sprung.muted = Some(Muted::Leader { from: leader, to: deserter, group });
            self.work_out_ways();
        }
        self.order_campaign(group, deserter);
        Ok(())
    }
}
