//! A vote that a disk forgets.

use logdrive_shard::{GroupId, MemberKind, MemberStep};

use crate::sim::clock::{MILLISECOND, Nanos};
use crate::sim::disk_faults::Rot;
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
            let outsider = self.outsider(group, leader).filter(|_| !choice.is_multiple_of(4));
            if let [member, heir, ..] = others[..] {
                self.transfer(group, leader, heir as u32);
                self.active[active].sprung.others = [member, heir].into_iter().chain(outsider).collect();
            }
            return Ok(());
        }
        match self.active[active].sprung.others[..] {
            [member, heir] => self.forgets_its_vote(active, step, group, [member, heir, leader]),
            [member, _, outsider] => self.knows_not_whom_to_ask(active, step, group, [member, outsider]),
            _ => Ok(()),
        }
    }

    /// The follower cannot ask whom it voted for, and is asked for its vote by another one.
    fn forgets_its_vote(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        [member, heir, candidate]: [usize; 3],
    ) -> Verdict {
        match step {
            1 if self.comes_back_without_its_last(active, member, group)? => {
                self.cut_off(active, heir, &[member, candidate]);
            }
            2.. => self.order_campaign(group, candidate),
            _ => {}
        }
        Ok(())
    }

    /// The follower is away while a voter joins the group, and cannot ask that one when it comes back.
    fn knows_not_whom_to_ask(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        [member, outsider]: [usize; 2],
    ) -> Verdict {
        match step {
            1 => {
                let all: Vec<usize> = (0..self.nodes.len()).filter(|&node| node != member).collect();
                self.cut_off(active, member, &all);
            }
            2..COMES_BACK_AT => {
                if let Some(leader) = self.leader_of(group) {
                    self.bring_in(group, leader, outsider);
                }
            }
            COMES_BACK_AT if self.comes_back_without_its_last(active, member, group)? => {
                self.active[active].sprung.cuts.clear();
                self.cut_off(active, outsider, &[member]);
                self.deliver_what_waited();
            }
            _ => {}
        }
        Ok(())
    }

    /// A node stops in order and comes back, and what it wrote last cannot be read any more, if the atlas allows that. (It is not too new: the
    /// last mark says that it is there.)
    fn comes_back_without_its_last(
        &mut self,
        active: usize,
        node: usize,
        group: GroupId,
    ) -> Result<bool, Box<crate::sim::observer::Broken>> {
        if !self.nodes[node].is_up || !self.may_damage(node) {
            self.active[active].sprung.others.clear();
            return Ok(false);
        }
        self.stop_node(node, Stop::Clean)?;
        self.rot_newest(node, group);
        self.start_later(node, super::LOOK);
        Ok(true)
    }

    fn rot_newest(&mut self, node: usize, group: GroupId) {
        let (at, _) = self.home(node, group);
        let blocks = self.cores[at.0].last_blocks.clone();
        for (file, block) in blocks.into_iter().filter(|(file, _)| file.ends_with(".seg")) {
            let rot = Rot::Unreadable;
            if self.cores[at.0].platter.damage(&file, block * logdrive_wal::ALIGNMENT as u64, rot.kind()) {
                self.note_damage(at, &file, block, rot.name());
                *self.injected.entry(rot.name()).or_default() += 1;
            }
        }
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
