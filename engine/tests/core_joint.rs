//! Nodes that lose power in the middle of a joint change: at every turn from proposing it to leaving it.
mod common;
#[path = "common/members.rs"]
mod members;

use std::collections::BTreeMap;

use common::{Cluster, Setup, ms, payload};
use logdrive_shard::{MemberStep, MembershipChange, NodeId, Term};

const GROUP: u64 = 1;

/// A change under way, and what was seen of it.
struct Story {
    cluster: Cluster,
    /// Who led in which term.
    leaders: BTreeMap<Term, u32>,
    /// Proposals: node, token, payload.
    sent: Vec<(u32, u64, Vec<u8>)>,
    /// Who was asked for the change, and the token of it.
    leader: u32,
    token: u64,
    change: MembershipChange,
    before: String,
    after: String,
    /// Turns since time went on.
    stuck: u32,
}

impl Story {
    /// Three founders of which one stays, two learners that become voters: the change is proposed.
    fn begin(leader_stays: bool) -> Story {
        let mut setup = Setup { nodes: 5, founders: 3, groups: 1, preferred: false, ..Setup::default() };
        setup.settings.balance_leaders = false;
        let mut cluster = Cluster::new(setup);
        cluster.run_until(ms(60_000), |cluster| cluster.find_leader(GROUP).is_some());
        let learn: Vec<MemberStep> = [4, 5].map(|node| MemberStep::AddLearner(NodeId(node))).into();
        cluster.must_change(GROUP, &MembershipChange::of(&learn));
        for n in 0..5 {
            assert!(cluster.write(GROUP, &payload(n)).result.is_ok());
        }
        cluster.settle();
        let leader = cluster.leader(GROUP);
        let stays = if leader_stays { leader } else { leader % 3 + 1 };
        let mut steps: Vec<MemberStep> = [4, 5].map(|node| MemberStep::Promote(NodeId(node))).into();
        steps.extend((1..=3).filter(|&node| node != stays).map(|node| MemberStep::Remove(NodeId(node))));
        let change = MembershipChange::of(&steps);
        let before = cluster.membership(leader, GROUP);
        assert_eq!(before, "voters 1 2 3, learners 4 5");
        let token = cluster.change(leader, GROUP, &change);
        assert!(
            cluster.membership(leader, GROUP).contains("outgoing"),
            "{}",
            cluster.membership(leader, GROUP)
        );
        let after = format!("voters {stays} 4 5");
        let (leaders, sent) = (BTreeMap::new(), Vec::new());
        Story { cluster, leaders, sent, leader, token, change, before, after, stuck: 0 }
    }

    /// The next moment at which anything happens. At most one node leads in a term.
    fn turn(&mut self) {
        let end = self.cluster.now + 5 * common::MS;
        let before = self.cluster.now;
        self.cluster.advance(end);
        if self.cluster.now == before {
            self.stuck += 1;
            assert!(self.stuck < 2000, "time stands still at {before}");
        } else {
            self.stuck = 0;
        }
        let slot = Cluster::slot(GROUP);
        for node in self.cluster.running() {
            if self.cluster.core(node).is_leader(slot) {
                let term = self.cluster.core(node).group_status(slot).raft.term;
                let leader = *self.leaders.entry(term).or_insert(node);
                assert_eq!(leader, node, "two leaders of {term:?}");
            }
        }
    }

    /// A client writes to whoever leads.
    fn propose(&mut self) {
        let Some(leader) = self.cluster.find_leader(GROUP) else { return };
        let payload = payload(100 + self.sent.len() as u64);
        let token = self.cluster.propose(leader, GROUP, &payload);
        self.sent.push((leader, token, payload));
    }

    /// The configuration that all members have, when it is not a joint one and they all have applied the same.
    fn rests(&mut self) -> Option<String> {
        let leader = self.cluster.find_leader(GROUP)?;
        let slot = Cluster::slot(GROUP);
        let status = self.cluster.core(leader).group_status(slot);
        let membership = status.raft.membership.to_string();
        let has_settled = |cluster: &mut Cluster, node: NodeId| {
            cluster.is_up(node.0)
                && cluster.membership(node.0, GROUP) == membership
                && cluster.core(node.0).applied(slot) == status.raft.last
        };
        let mut members = status.raft.membership.voters().to_vec();
        members.extend(status.raft.membership.learners());
        let rests = status.raft.membership.is_joint() || status.applied != status.raft.last;
        let rests = !rests && members.into_iter().all(|node| has_settled(&mut self.cluster, node));
        rests.then_some(membership)
    }

    /// Runs until the change is done or undone on all members; the configuration.
    fn rest(&mut self) -> String {
        let end = self.cluster.now + 60_000 * common::MS;
        loop {
            if let Some(membership) = self.rests() {
                return membership;
            }
            assert!(self.cluster.now < end, "neither done nor undone");
            self.turn();
        }
    }
}

/// How many turns it takes until the change is done everywhere when nothing goes wrong.
fn turns_of(leader_stays: bool) -> usize {
    let mut story = Story::begin(leader_stays);
    for turns in 0.. {
        let (leader, after) = (story.cluster.find_leader(GROUP), story.after.clone());
        if leader.is_some_and(|leader| story.cluster.membership(leader, GROUP) == after)
            && story.rests() == Some(after)
        {
            return turns;
        }
        story.propose_sometimes(turns);
        story.turn();
        assert!(turns < 10_000, "the change is never left");
    }
    unreachable!()
}

impl Story {
    fn propose_sometimes(&mut self, turn: usize) {
        // Not so often that the members never have the same.
        if turn < 40 && turn.is_multiple_of(4) {
            self.propose();
        }
    }

    /// The victims lose power after so many turns and come back. Whether the change was done.
    fn with_power_loss(leader_stays: bool, turns: usize, victims: &[u32]) -> bool {
        let mut story = Story::begin(leader_stays);
        for turn in 0..turns {
            story.propose_sometimes(turn);
            story.turn();
        }
        // Numbered from the leader of before on: 0 is that leader, 1 and 2 are the other founders, 3 and 4 the new voters.
        let leader = story.leader;
        let victims = victims.iter().map(|&n| if n < 3 { (leader + n - 1) % 3 + 1 } else { n + 1 });
        let victims: Vec<u32> = victims.collect();
        victims.iter().for_each(|&victim| story.cluster.power_loss(victim));
        let until = story.cluster.now + 400 * common::MS;
        while story.cluster.now < until {
            story.turn();
        }
        victims.iter().for_each(|&victim| story.cluster.start(victim));
        let membership = story.rest();
        let what = format!("leader stays: {leader_stays}, {victims:?} lose power after {turns} turns");
        let is_done = membership == story.after;
        assert!(is_done || membership == story.before, "{what}: {membership}");
        let answer = story.cluster.answer(leader, story.token);
        if answer.is_some_and(|answer| answer.result.is_ok()) {
            assert!(is_done, "{what}: it was said to be done");
        }
        story.nothing_acknowledged_is_lost(&what);
        if !is_done {
            let change = story.change.clone();
            story.cluster.must_change(GROUP, &change);
            assert_eq!(story.rest_as_changed(), story.after, "{what}: it can be asked for again");
        }
        story.nothing_acknowledged_is_lost(&what);
        is_done
    }

    /// Runs until the change that was asked for again is done.
    fn rest_as_changed(&mut self) -> String {
        let end = self.cluster.now + 60_000 * common::MS;
        while self.rest() != self.after && self.cluster.now < end {
            self.turn();
        }
        self.rest()
    }

    fn nothing_acknowledged_is_lost(&mut self, what: &str) {
        let leader = self.cluster.leader(GROUP);
        let entries: Vec<Vec<u8>> =
            self.cluster.core(leader).machine().entries[0].iter().map(|entry| entry.1.clone()).collect();
        for n in 0..5 {
            assert!(entries.contains(&payload(n)), "{what}: payload {n} is lost");
        }
        for (node, token, payload) in self.sent.clone() {
            let acknowledged = self.cluster.answer(node, token).is_some_and(|answer| answer.result.is_ok());
            let times = entries.iter().filter(|entry| **entry == payload).count();
            let text = String::from_utf8_lossy(&payload).into_owned();
            assert!(times <= 1 && (times == 1 || !acknowledged), "{what}: {text}, applied {times} times");
        }
    }
}

/// Every third turn, another third for each set of victims; `LOGDRIVE_JOINT=all` takes every turn for every set.
fn turns_to_try(turns: usize, set: usize) -> Vec<usize> {
    let stride = if std::env::var("LOGDRIVE_JOINT").is_ok_and(|value| value == "all") { 1 } else { 3 };
    let mut chosen: Vec<usize> = (0..=turns).filter(|turn| (turn + set).is_multiple_of(stride)).collect();
    chosen.extend([0, turns]);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[test]
fn power_lost_at_any_turn_of_a_joint_change_leaves_it_done_or_undone_everywhere() {
    for leader_stays in [true, false] {
        let turns = turns_of(leader_stays);
        assert!(turns > 10, "only {turns} turns: not much of a story");
        let sets = [&[0][..], &[1], &[3], &[0, 3], &[1, 4], &[0, 1, 2, 3, 4]];
        for (set, victims) in sets.into_iter().enumerate() {
            let mut done = Vec::new();
            for after in turns_to_try(turns, set) {
                done.push(Story::with_power_loss(leader_stays, after, victims));
            }
            assert_eq!(done.last(), Some(&true), "{victims:?}: it was done before");
            // Without the leader's word nobody else knows of it; all its own disk had was undone.
            if victims.contains(&0) {
                assert_eq!(done.first(), Some(&false), "{victims:?}: nobody had heard of it");
            }
        }
    }
}
