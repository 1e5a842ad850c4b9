//! A vote that a disk forgets.

use logdrive_shard::{GroupId, MemberKind, MemberStep};

use super::LOOK;
use crate::sim::clock::{MILLISECOND, Nanos};
use crate::sim::faults::Stop;
use crate::sim::observer::{Broken, Verdict};
use crate::sim::world::World;

/// A follower has voted so long after the order to hand over; with few writes since.
pub(super) const VOTES_WITHIN: Nanos = 10 * MILLISECOND;
/// The step in which a follower comes back that has not heard of a new voter.
const COMES_BACK_AT: u64 = 10;

impl World {
    /// The leader hands over to another one, for whom a follower votes.
    pub(super) fn doubt(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        leader: usize,
        choice: u32,
    ) -> Verdict {
        if step == 0 {
            let others = self.other_voters(group, leader);
            let outsider = self.outsider(group, leader).filter(|_| !choice.is_multiple_of(3));
            if let [member, heir, ..] = others[..] {
                self.transfer(group, leader, heir as u32);
                self.active[active].sprung.others = [member, heir].into_iter().chain(outsider).collect();
            }
            return Ok(());
        }
        let caught = self.active[active].sprung.others.clone();
        let Some(&member) = caught.first() else { return Ok(()) };
        if step == 1 {
            // The segment that the next life begins with says that the vote was written, and that life does not hear of anything.
            let all: Vec<usize> = (0..self.nodes.len()).filter(|&node| node != member).collect();
            self.cut_off(active, member, &all);
            self.stop_node(member, Stop::Kill)?;
            self.start_later(member, LOOK);
            return Ok(());
        }
        match caught[..] {
            [member, heir] => match step {
                2 if self.comes_back_without_its_vote(active, member, group)? => {
                    // It cannot ask whom it voted for, and is asked for its vote by another one.
                    self.cut_off(active, heir, &[member, leader]);
                    self.deliver_what_waited();
                }
                3.. => self.order_campaign(group, leader),
                _ => {}
            },
            [member, _, outsider] => match step {
                ..COMES_BACK_AT => {
                    if let Some(leader) = self.leader_of(group) {
                        self.bring_in(group, leader, outsider);
                    }
                }
                COMES_BACK_AT if self.comes_back_without_its_vote(active, member, group)? => {
                    self.cut_off(active, outsider, &[member]);
                    self.deliver_what_waited();
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// A node comes back once more, and what it wrote in the life in which it voted cannot be read any more, if the atlas allows that.
    fn comes_back_without_its_vote(
        &mut self,
        active: usize,
        node: usize,
        group: GroupId,
    ) -> Result<bool, Box<Broken>> {
        self.active[active].sprung.cuts.clear();
        if !self.nodes[node].is_up || !self.may_damage(node) {
            self.active[active].sprung.others.clear();
            self.work_out_ways();
            self.deliver_what_waited();
            return Ok(false);
        }
        self.rot_last_life(node, group);
        self.stop_node(node, Stop::Kill)?;
        self.start_later(node, LOOK);
        Ok(true)
    }

    /// A node that is no member of a group, as its leader knows the members.
    pub(super) fn outsider(&self, group: GroupId, leader: usize) -> Option<usize> {
        let (at, slot) = self.home(leader, group);
        let membership = self.core(at)?.membership(slot).0;
        (0..self.nodes.len()).find(|&node| {
            let state = &self.nodes[node];
            state.responds(self.now) && !state.is_spoiled && !membership.contains(state.id)
        })
    }

    /// A node is to become a voter: a learner first, whose log is known to the leader then.
    fn bring_in(&mut self, group: GroupId, leader: usize, node: usize) {
        let (at, slot) = self.home(leader, group);
        let id = self.nodes[node].id;
        let step = match self.core(at).map(|core| core.membership(slot).0.kind(id)) {
            Some(MemberKind::Stranger) => MemberStep::AddLearner(id),
            Some(MemberKind::Learner) => MemberStep::Promote(id),
            _ => return,
        };
        self.order_steps(group, leader, &[step]);
    }
}
