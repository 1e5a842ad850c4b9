//! Membership in random runs: changes of the configuration, who may lose what while they go on, and how a cluster whose members
//! have changed comes together.

use logdrive_shard::{
    LogIndex, MemberKind, MemberStep, Membership, MembershipChange, Moment, NodeId, Random, Refused,
    Transition,
};

use super::chaos::Chaos;
use super::node::{Entry, Node};
use super::{Cluster, ms};

/// Something that may be possible, or anything at all.
pub fn any_change(
    dice: &mut Random,
    nodes: u32,
    membership: &Membership,
    index: LogIndex,
) -> MembershipChange {
    let mut steps = Vec::new();
    for _ in 0..=dice.below(3) {
        let node = NodeId(1 + dice.below(u64::from(nodes)) as u32);
        let step = match (membership.kind(node), dice.below(4)) {
            (MemberKind::Stranger, 0) => MemberStep::AddVoter(node),
            (MemberKind::Stranger, _) => MemberStep::AddLearner(node),
            (MemberKind::Learner, 0) => MemberStep::Remove(node),
            (MemberKind::Learner, _) => MemberStep::Promote(node),
            (_, 0) => MemberStep::Demote(node),
            _ => MemberStep::Remove(node),
        };
        steps.push(step);
    }
    let transition = [Transition::Auto, Transition::Auto, Transition::Joint, Transition::JointUntilLeft];
    let mut change = MembershipChange {
        expected: (dice.below(2) == 0).then_some(index),
        steps,
        transition: transition[dice.below(4) as usize],
        even_if_behind: dice.below(4) == 0,
    };
    if membership.is_joint() {
        change.steps.clear();
    }
    change
}

/// The index of the last configuration in a log; 0: the founding one.
fn last_configuration(log: &[Entry]) -> usize {
    log.iter().rposition(|entry| entry.members.is_some()).map_or(0, |at| at + 1)
}

fn is_lost(node: &Node) -> bool {
    node.disk.hard_state.lost.is_any() || node.group.as_ref().is_some_and(|group| group.lost().is_any())
}

/// Whether the disk of `id` may lose what it had made durable, and nothing is lost for good by it: one disk at a time, three voters at
/// least, and no change under way, so that a majority of the same voters has it all the time.
pub fn may_be_damaged(cluster: &Cluster, id: u32) -> bool {
    if cluster.nodes.values().any(is_lost) {
        return false;
    }
    let node = &cluster.nodes[&id];
    let at = last_configuration(&node.disk.log);
    let in_log = at.checked_sub(1).and_then(|at| node.disk.log[at].members);
    let Some(membership) = in_log.or(node.founding.as_ref()) else { return false };
    let has_it = |log: &[Entry]| at == 0 || log.get(at - 1) == node.disk.log.get(at - 1);
    let is_same = |other: &Node| {
        let is_behind = !has_it(&other.disk.log);
        let knows_more = [&other.disk.log, &other.log].into_iter().any(|log| last_configuration(log) > at);
        !(knows_more || is_behind && membership.contains(other.id))
    };
    let is_settled = membership.voters().len() >= 3 && !membership.is_joint();
    let is_member = membership.is_voter(NodeId(id));
    is_settled && is_member && cluster.nodes.values().all(is_same)
}

impl Chaos {
    /// Another configuration is asked for. Not while a disk is damaged: nobody could tell any more who has to have what it lost.
    pub fn change(&mut self) -> Option<()> {
        let id = self.addressee()?;
        if self.cluster.nodes.values().any(is_lost) {
            return None;
        }
        let group = self.cluster.group(id);
        let (membership, index) = (group.membership().clone(), group.membership_index());
        let change = any_change(&mut self.dice, self.nodes, &membership, index);
        self.changes += u64::from(self.cluster.change(id, &change).is_ok());
        Some(())
    }

    /// All faults end, and whoever is no member is switched off. The members come together and are silent.
    pub fn heal_members(&mut self) {
        self.mend();
        self.cluster.elect();
        self.cluster.run_for(ms(60_000));
        let leader = self.cluster.leader().unwrap_or_else(|| self.cluster.elect());
        let membership = self.cluster.group(leader).membership().clone();
        for id in (1..=self.nodes).filter(|&id| !membership.contains(NodeId(id))) {
            self.cluster.crash(id, usize::MAX);
        }
        // Terms into which those had drawn members without check-quorum show themselves with the first proposal.
        for _ in 0..2 {
            self.cluster.run_for(ms(60_000));
            let leader = self.cluster.leader().unwrap_or_else(|| self.cluster.elect());
            let _ = self.cluster.propose(leader, 1, 1);
        }
        self.cluster.run_for(ms(60_000));
        let leader = self.cluster.leader().unwrap_or_else(|| self.cluster.elect());
        self.come_together(leader);
    }

    /// All faults end, and whoever is no member stays and disturbs nobody; unless it was never told, and the members have switched off
    /// what would keep it from that.
    pub fn heal_with_strangers(&mut self) {
        self.mend();
        self.cluster.elect();
        self.cluster.run_for(ms(60_000));
        let leader = self.cluster.leader().expect("somebody leads");
        if !self.cluster.config.pre_vote || !self.cluster.config.check_quorum {
            return;
        }
        self.come_together(leader);
        for id in 1..=self.nodes {
            assert_eq!(self.cluster.group(id).next_deadline(), Moment::NEVER, "node {id} is silent");
        }
        let stale = MembershipChange { expected: Some(LogIndex(u64::MAX)), ..MembershipChange::leave() };
        let refused = self.cluster.change(leader, &stale);
        assert!(matches!(refused, Err(Refused::MembershipMismatch { .. })));
    }

    /// The members have everything that `leader` has, know who they are, and are silent.
    fn come_together(&mut self, leader: u32) {
        let term = self.cluster.group(leader).term();
        self.cluster.propose(leader, 1, 1).expect("a healthy leader accepts proposals");
        self.cluster.stabilize();
        self.cluster.plain(leader, |group, env| group.flush_commit(env));
        self.cluster.run_for(ms(60_000));
        let group = self.cluster.group(leader);
        assert!(group.is_leader() && group.term() == term, "nobody disturbs");
        assert!(group.commit() >= group.membership_index());
        let (last, membership) = (group.last_index(), group.membership().clone());
        assert!(!membership.auto_leave(), "a joint configuration that leaves by itself is left");
        assert!(membership.is_voter(NodeId(leader)) && last > LogIndex(1));
        for node in membership.members() {
            let group = self.cluster.group(node.0);
            assert_eq!(group.leader(), NodeId(leader), "node {node} follows");
            assert_eq!((group.last_index(), group.applicable()), (last, last), "node {node} has everything");
            assert_eq!(group.membership(), &membership, "node {node} knows the configuration");
            assert_eq!(group.next_deadline(), Moment::NEVER, "node {node} is silent");
            assert!(!group.lost().is_any(), "node {node} is whole");
        }
    }
}
