//! A vote that a disk forgets.

use logdrive_shard::{GroupId, MemberKind, MemberStep};

use super::LOOK;
use crate::sim::clock::{MILLISECOND, Nanos};
use crate::sim::faults::Stop;
use crate::sim::observer::Verdict;
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
            return self.loses_its_vote(active, member, group);
        }
        match caught[..] {
            [member, heir] => match step {
                2 => {
                    // It cannot ask whom it voted for, and is asked for its vote by another one.
                    self.cut_off(active, heir, &[member, leader]);
                    self.start_later(member, LOOK);
                }
                3.. => self.order_campaign(group, leader),
                _ => {}
            },
            [_, _, outsider] => match step {
                ..COMES_BACK_AT => {
                    if let Some(leader) = self.leader_of(group) {
                        self.bring_in(group, leader, outsider);
                    }
                }
                COMES_BACK_AT => {
                    // Nobody leads, and without these two nobody can be elected who would tell it of the new voter.
                    let rest = |&node: &usize| node != outsider;
                    let others: Vec<usize> = (0..self.nodes.len()).filter(rest).collect();
                    self.cut_off(active, outsider, &others);
                    for node in others {
                        self.stop_node(node, Stop::Kill)?;
                        self.start_later(node, LOOK);
                    }
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// A node ends, and what it wrote last cannot be read any more, if the atlas allows that. The segment that the next life begins with says that
    /// it was written. That life ends before it does anything else: it would write the newest states once more.
    fn loses_its_vote(&mut self, active: usize, node: usize, group: GroupId) -> Verdict {
        self.stop_node(node, Stop::Kill)?;
        if !self.nodes[node].stays_down {
            self.start_node(node)?;
        }
        if !self.may_damage(node) {
            self.active[active].sprung.others.clear();
            return Ok(());
        }
        self.rot_last_life(node, group);
        self.stop_node(node, Stop::Kill)
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
