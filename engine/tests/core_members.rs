//! Members that come and go, over cores with a simulated network and simulated disks: what the engine does with configurations.
mod common;
#[path = "common/members.rs"]
mod members;

use common::{Answer, Cluster, Setup, ms, payload};
use logdrive::api::{Error, ReadPolicy};
use logdrive_shard::{LogIndex, MemberStep, MembershipChange, NodeId, Role, Term, Transition};

const LEARN: &[MemberStep] = &[MemberStep::AddLearner(NodeId(4))];
const PROMOTE: &[MemberStep] = &[MemberStep::Promote(NodeId(4))];

/// Three founders and one node that waits to be made a member.
fn with_a_spare(groups: u64) -> Cluster {
    let mut cluster = Cluster::new(Setup { nodes: 4, founders: 3, groups, ..Setup::default() });
    elect(&mut cluster);
    cluster
}

/// Every group has a leader; the spare need not know it.
fn elect(cluster: &mut Cluster) {
    let groups = cluster.setup.groups;
    cluster.run_until(ms(60_000), |cluster| (1..=groups).all(|group| cluster.find_leader(group).is_some()));
}

fn write(cluster: &mut Cluster, group: u64, from: u64, count: u64) {
    for n in from..from + count {
        let Answer { result, .. } = cluster.write(group, &payload(n));
        assert!(result.is_ok(), "payload {n} of group {group}: {result:?}");
    }
}

fn change(steps: &[MemberStep]) -> MembershipChange {
    MembershipChange::of(steps)
}

/// A node has applied what the leader has.
fn await_applied(cluster: &mut Cluster, group: u64, node: u32) {
    cluster.run_until(ms(20_000), |cluster| {
        let slot = Cluster::slot(group);
        let Some(leader) = cluster.find_leader(group) else { return false };
        let last = cluster.core(leader).group_status(slot).raft.last;
        cluster.core(node).applied(slot) == last
    });
}

#[test]
fn a_node_that_was_not_there_does_nothing_until_it_is_made_a_member_and_then_catches_up() {
    let mut cluster = with_a_spare(4);
    write(&mut cluster, 2, 0, 50);
    let idle = cluster.core(4).group_status(Cluster::slot(2));
    assert_eq!((idle.raft.role, idle.raft.term, idle.raft.last), (Role::Follower, Term(0), LogIndex(0)));
    let index = cluster.must_change(2, &change(LEARN));
    await_applied(&mut cluster, 2, 4);
    assert_eq!(cluster.membership(4, 2), "voters 1 2 3, learners 4");
    assert_eq!(cluster.core(4).machine().entries[1].len(), 50);
    let next = cluster.must_change(2, &change(PROMOTE));
    assert!(next > index);
    write(&mut cluster, 2, 50, 10);
    // The other groups have not heard of it.
    assert_eq!(cluster.membership(1, 3), "voters 1 2 3");
    // With two of four dead nothing is committed, with one of four it is.
    let leader = cluster.leader(2);
    let (victim, other) = match leader {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    };
    cluster.kill(victim);
    elect(&mut cluster);
    write(&mut cluster, 2, 60, 10);
    let leader = cluster.leader(2);
    let other = if leader == other { 10 - 4 - victim - leader } else { other };
    cluster.kill(other);
    let token = cluster.propose(leader, 2, b"too few");
    cluster.run_for(ms(1_000));
    assert!(cluster.answer(leader, token).is_none_or(|answer| answer.result.is_err()));
}

#[test]
fn every_group_moves_from_one_node_to_another_while_it_is_written() {
    let groups = 12;
    let mut cluster = with_a_spare(groups);
    for (round, steps) in [LEARN, PROMOTE, &[MemberStep::Remove(NodeId(1))]].into_iter().enumerate() {
        for group in 1..=groups {
            write_when_led(&mut cluster, group, 10 * round as u64, 5);
            cluster.must_change(group, &change(steps));
            write_when_led(&mut cluster, group, 10 * round as u64 + 5, 5);
        }
    }
    cluster.run_until(ms(20_000), |cluster| {
        (1..=groups).all(|group| cluster.find_leader(group).is_some_and(|leader| leader != 1))
    });
    for group in 1..=groups {
        let leader = cluster.leader(group);
        assert_eq!(cluster.membership(leader, group), "voters 2 3 4");
        for node in 2..=4 {
            await_applied(&mut cluster, group, node);
            let entries = &cluster.core(node).machine().entries[group as usize - 1];
            assert_eq!(entries.len(), 30, "group {group} on node {node}");
        }
    }
    // The new node leads its share, and a restart finds the configuration in the log.
    cluster.run_until(ms(20_000), |cluster| (1..=groups).any(|group| cluster.leader(group) == 4));
    for node in 2..=4 {
        cluster.power_loss(node);
        cluster.start(node);
        assert_eq!(cluster.membership(node, 5), "voters 2 3 4");
        cluster.run_for(ms(500));
        elect(&mut cluster);
        write_when_led(&mut cluster, 5, 100 + u64::from(node), 1);
    }
}

/// Writes, after a leader has left perhaps.
fn write_when_led(cluster: &mut Cluster, group: u64, from: u64, count: u64) {
    for n in from..from + count {
        loop {
            cluster.run_until(ms(20_000), |cluster| cluster.find_leader(group).is_some());
            match cluster.write(group, &payload(n)).result {
                Ok(_) => break,
                Err(Error::NotLeader { .. } | Error::Busy { .. }) => cluster.run_for(ms(20)),
                Err(error) => panic!("payload {n} of group {group}: {error}"),
            }
        }
    }
}

#[test]
fn a_change_that_was_not_committed_is_undone_on_the_old_leader() {
    let mut cluster = with_a_spare(1);
    write(&mut cluster, 1, 0, 3);
    let old = cluster.leader(1);
    let others: Vec<u32> = (1..=4).filter(|&node| node != old).collect();
    // It believes in its followers still, but nothing of it reaches them any more.
    others.iter().for_each(|&other| cluster.hold(old, other));
    let token = cluster.change(old, 1, &change(LEARN));
    assert_eq!(cluster.membership(old, 1), "voters 1 2 3, learners 4", "in force when it is appended");
    cluster.partition(&[&[old], &others]);
    others.iter().for_each(|&other| cluster.unhold(old, other));
    cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some_and(|leader| leader != old));
    assert_eq!(cluster.wait(old, token).result, Err(Error::Indeterminate));
    write_when_led(&mut cluster, 1, 3, 3);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| cluster.membership(old, 1) == "voters 1 2 3");
    await_applied(&mut cluster, 1, old);
    // Undone on disk as well.
    cluster.power_loss(old);
    cluster.start(old);
    assert_eq!(cluster.membership(old, 1), "voters 1 2 3");
    let spare = cluster.core(4).group_status(Cluster::slot(1));
    assert!(spare.raft.membership.is_empty(), "it was never told: {}", spare.raft.membership);
}

#[test]
fn changes_are_refused_with_what_to_do() {
    let mut setup = Setup { nodes: 4, founders: 3, groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    elect(&mut cluster);
    write(&mut cluster, 1, 0, 1);
    let leader = cluster.leader(1);
    let ask = |cluster: &mut Cluster, change: &MembershipChange| {
        let token = cluster.change(leader, 1, change);
        cluster.wait(leader, token).result
    };
    let index = cluster.must_change(1, &change(LEARN));
    let meant = |expected| MembershipChange { expected: Some(LogIndex(expected)), ..change(PROMOTE) };
    assert_eq!(
        ask(&mut cluster, &meant(0)),
        Err(Error::MembershipMismatch { expected: LogIndex(0), actual: index })
    );
    assert!(matches!(ask(&mut cluster, &change(LEARN)), Err(Error::BadChange(_))));
    let stranger = change(&[MemberStep::AddVoter(NodeId(9))]);
    assert_eq!(ask(&mut cluster, &stranger), Err(Error::LearnerUnknown { node: NodeId(9) }));
    let follower = if leader == 1 { 2 } else { 1 };
    let token = cluster.change(follower, 1, &change(PROMOTE));
    assert_eq!(cluster.wait(follower, token).result, Err(Error::NotLeader { leader: NodeId(leader) }));
    await_applied(&mut cluster, 1, 4);
    cluster.run_for(ms(100));
    let promoted = ask(&mut cluster, &meant(index.0));
    assert!(promoted.is_ok(), "{promoted:?}");
}

#[test]
fn a_dead_voter_is_replaced_in_one_change() {
    let mut setup = Setup { nodes: 4, founders: 3, groups: 3, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    elect(&mut cluster);
    for group in 1..=3 {
        write(&mut cluster, group, 0, 20);
    }
    cluster.kill(3);
    elect(&mut cluster);
    cluster.run_for(ms(1_000));
    for group in 1..=3 {
        cluster.must_change(group, &change(LEARN));
        cluster.must_change(group, &MembershipChange::replace(NodeId(3), NodeId(4)));
    }
    for group in 1..=3 {
        cluster.run_until(ms(20_000), |cluster| {
            let leader = cluster.find_leader(group);
            leader.is_some_and(|leader| cluster.membership(leader, group) == "voters 1 2 4")
        });
        write_when_led(&mut cluster, group, 20, 5);
        await_applied(&mut cluster, group, 4);
    }
    // The dead one comes back: it learns that it is no member any more, and disturbs nobody.
    let terms: Vec<Term> =
        (1..=3).map(|group| cluster.core(1).group_status(Cluster::slot(group)).raft.term).collect();
    cluster.start(3);
    cluster.run_for(ms(3_000));
    for group in 1..=3 {
        let term = cluster.core(1).group_status(Cluster::slot(group)).raft.term;
        assert_eq!(term, terms[group as usize - 1], "the term of group {group}");
        write_when_led(&mut cluster, group, 25, 1);
    }
}

/// Four nodes, of which the first three are voters, the last a learner that has caught up; leaders stay.
fn with_a_learner() -> (Cluster, u32) {
    let mut setup = Setup { nodes: 4, founders: 3, groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    elect(&mut cluster);
    write(&mut cluster, 1, 0, 3);
    cluster.must_change(1, &change(LEARN));
    await_applied(&mut cluster, 1, 4);
    cluster.run_for(ms(100));
    let leader = cluster.leader(1);
    (cluster, leader)
}

#[test]
fn a_joint_change_is_answered_when_the_joint_configuration_was_left() {
    let (mut cluster, leader) = with_a_learner();
    let slot = Cluster::slot(1);
    let gone = leader % 3 + 1;
    let token = cluster.change(leader, 1, &MembershipChange::replace(NodeId(gone), NodeId(4)));
    let joint = cluster.core(leader).group_status(slot).raft;
    assert!(joint.membership.is_joint());
    let answer = cluster.wait(leader, token);
    let index = answer.result.expect("the change is done");
    assert_eq!(answer.reply, index.0.to_le_bytes());
    let raft = cluster.core(leader).group_status(slot).raft;
    assert_eq!(index, joint.membership_index.next(), "the entry that leaves the joint configuration");
    assert!(!raft.membership.is_joint() && raft.membership_index == index && raft.commit >= index);
    // It is what a next change expects.
    let back = MembershipChange {
        expected: Some(index),
        ..change(&[MemberStep::AddLearner(NodeId(gone)), MemberStep::Demote(NodeId(4))])
    };
    let token = cluster.change(leader, 1, &back);
    let last = cluster.wait(leader, token).result;
    assert!(last.is_ok_and(|last| last > index), "{last:?}");
}

#[test]
fn a_joint_change_that_is_to_be_left_on_request_is_answered_when_it_was_entered() {
    let (mut cluster, leader) = with_a_learner();
    let gone = leader % 3 + 1;
    let enter = MembershipChange {
        transition: Transition::JointUntilLeft,
        ..MembershipChange::replace(NodeId(gone), NodeId(4))
    };
    let token = cluster.change(leader, 1, &enter);
    let joint = cluster.wait(leader, token).result.expect("entered");
    assert!(cluster.membership(leader, 1).contains("outgoing"));
    let leave = MembershipChange { expected: Some(joint), ..MembershipChange::leave() };
    let token = cluster.change(leader, 1, &leave);
    assert!(cluster.wait(leader, token).result.is_ok_and(|index| index > joint));
    assert!(!cluster.membership(leader, 1).contains("outgoing"));
}

#[test]
fn a_joint_change_whose_leader_is_lost_before_it_was_left_is_indeterminate() {
    let (mut cluster, old) = with_a_learner();
    let slot = Cluster::slot(1);
    let gone = old % 3 + 1;
    let others: Vec<u32> = (1..=4).filter(|&node| node != old).collect();
    let token = cluster.change(old, 1, &MembershipChange::replace(NodeId(gone), NodeId(4)));
    let joint = cluster.core(old).group_status(slot).raft.membership_index;
    cluster.run_until(ms(5_000), |cluster| cluster.core(old).group_status(slot).raft.commit >= joint);
    // The entry that leaves it is appended, and reaches nobody.
    assert!(cluster.core(old).group_status(slot).raft.last > joint);
    assert_eq!(cluster.answer(old, token), None);
    others.iter().for_each(|&other| cluster.lose(old, other));
    cluster.partition(&[&[old], &others]);
    assert_eq!(cluster.wait(old, token).result, Err(Error::Indeterminate));
    // Whoever leads next leaves it.
    cluster.run_until(ms(20_000), |cluster| {
        let leader = cluster.find_leader(1).filter(|&leader| leader != old);
        leader.is_some_and(|leader| !cluster.membership(leader, 1).contains("outgoing"))
    });
}

#[test]
fn a_removed_member_gives_its_log_up_keeps_its_vote_and_can_learn_again_from_the_start() {
    let mut setup = Setup { groups: 2, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    elect(&mut cluster);
    write(&mut cluster, 1, 0, 30);
    write(&mut cluster, 2, 0, 5);
    let gone = cluster.leader(1) % 3 + 1;
    let remove = change(&[MemberStep::Remove(NodeId(gone))]);
    cluster.must_change(1, &remove);
    write_when_led(&mut cluster, 1, 30, 5);
    let blank = |cluster: &mut Cluster| {
        let status = cluster.core(gone).group_status(Cluster::slot(1));
        let is_blank = status.raft.last == LogIndex(0) && status.raft.membership.is_empty();
        (is_blank, status.raft.term, cluster.core(gone).machine().entries[0].len())
    };
    assert!(!blank(&mut cluster).0, "not at once: it may be made a member again");
    let before = blank(&mut cluster).1;
    cluster.run_until(ms(20_000), |cluster| blank(cluster).0);
    assert_eq!(blank(&mut cluster), (true, before, 0), "the term stays");
    // Once that is durable. The other group of the same log is not touched, and a restart finds both as they were.
    cluster.run_for(ms(200));
    for lose_power in [false, true] {
        if lose_power {
            cluster.power_loss(gone);
        } else {
            cluster.kill(gone);
        }
        cluster.start(gone);
        assert_eq!(blank(&mut cluster), (true, before, 0));
        await_applied(&mut cluster, 2, gone);
        assert_eq!(cluster.core(gone).machine().entries[1].len(), 5);
    }
    let leader = cluster.leader(1);
    assert_eq!(cluster.core(leader).group_status(Cluster::slot(1)).raft.term, before, "nobody was disturbed");
    cluster.must_change(1, &change(&[MemberStep::AddLearner(NodeId(gone))]));
    await_applied(&mut cluster, 1, gone);
    cluster.must_change(1, &change(&[MemberStep::Promote(NodeId(gone))]));
    assert_eq!(cluster.core(gone).machine().entries[0].len(), 35);
    cluster.power_loss(gone);
    cluster.start(gone);
    await_applied(&mut cluster, 1, gone);
    assert_eq!(cluster.core(gone).machine().entries[0].len(), 35, "its second life is what counts");
}

#[test]
fn a_read_at_a_member_that_was_removed_is_refused_and_keeps_nothing_waiting() {
    let mut cluster = with_a_spare(1);
    write(&mut cluster, 1, 0, 5);
    let gone = cluster.leader(1) % 3 + 1;
    cluster.must_change(1, &change(&[MemberStep::Remove(NodeId(gone))]));
    cluster.run_until(ms(10_000), |cluster| {
        let status = cluster.core(gone).group_status(Cluster::slot(1));
        !status.raft.membership.contains(NodeId(gone))
    });
    let token = cluster.read(gone, 1, ReadPolicy::Follower);
    let answer = cluster.wait(gone, token);
    assert!(matches!(answer.result, Err(Error::NotLeader { .. })), "{answer:?}");
    assert_eq!(cluster.core(gone).requests_waiting(), 0);
}
