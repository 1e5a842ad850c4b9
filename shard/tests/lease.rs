//! Reads under a lease, and what the lease must not survive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::node::Start;
use common::{Cluster, Message, config, ms};
use logdrive_shard::{Config, LeaseRefused, LogIndex, NodeId, Role};

/// Nodes in contact, node 1 leads term 1, and a round has shown it that all follow.
fn leased(nodes: u32) -> Cluster {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(nodes, config(), 7, &start);
    cluster.connect_all();
    cluster.lead(1);
    cluster.pulse_all();
    confirm(&mut cluster, 1);
    cluster
}

/// A round of ReadIndex: the leader learns under which support it is followed.
fn confirm(cluster: &mut Cluster, leader: u32) {
    cluster.read(leader).unwrap();
    cluster.stabilize();
}

const NO_LEASE: Result<LogIndex, LeaseRefused> = Err(LeaseRefused::NoLease);

#[test]
fn a_lease_serves_reads_without_a_message() {
    let mut cluster = leased(3);
    for _ in 0..50 {
        cluster.now = cluster.now.after(ms(100));
        cluster.pulse_all();
        assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
        assert!(cluster.network.is_empty());
    }
    assert_eq!(cluster.lease_read(2), Err(LeaseRefused::NotLeader { leader: NodeId(1) }));
}

#[test]
fn a_lease_runs_from_the_sending_of_the_pulse_and_not_from_its_answer() {
    let mut cluster = leased(3);
    cluster.now = cluster.now.after(ms(500));
    cluster.pulse(1, 2);
    cluster.now = cluster.now.after(ms(900));
    assert_eq!(cluster.lease_read(1), NO_LEASE, "the last lease has ended");
    cluster.answer(2, 1);
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
    // 950 ms after it was sent: the base less 50 thousandths.
    cluster.now = cluster.now.after(ms(49));
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
    cluster.now = cluster.now.after(ms(1));
    assert_eq!(cluster.lease_read(1), NO_LEASE);
}

#[test]
fn a_lease_needs_a_round_in_its_own_term_and_a_quorum() {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(5, config(), 7, &start);
    cluster.connect_all();
    cluster.pulse_all();
    cluster.lead(1);
    assert_eq!(cluster.lease_read(1), NO_LEASE, "answered pulses alone say nothing about this group");
    confirm(&mut cluster, 1);
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
    cluster.now = cluster.now.after(ms(950));
    cluster.pulse(1, 2);
    cluster.answer(2, 1);
    assert_eq!(cluster.lease_read(1), NO_LEASE, "two of five");
    cluster.pulse(1, 3);
    cluster.answer(3, 1);
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
}

#[test]
fn a_new_connection_carries_no_old_evidence() {
    let mut cluster = leased(3);
    for peer in [2, 3] {
        cluster.reroute(1, peer);
    }
    cluster.stabilize();
    cluster.pulse_all();
    assert_eq!(cluster.lease_read(1), NO_LEASE, "the members may be in another term by now");
    confirm(&mut cluster, 1);
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(1)));
}

#[test]
fn a_drift_of_everything_means_no_leases() {
    let start = Start { fresh: true, ..Start::default() };
    let config = Config { clock_drift_permille: 1_000, ..config() };
    let mut cluster = Cluster::dark(3, config, 7, &start);
    cluster.connect_all();
    cluster.lead(1);
    cluster.pulse_all();
    confirm(&mut cluster, 1);
    assert_eq!(cluster.lease_read(1), NO_LEASE);
}

#[test]
fn field_16_a_member_that_restarts_does_not_break_what_it_promised() {
    let mut cluster = leased(3);
    cluster.crash(3, 9);
    cluster.cut(1, 2);
    cluster.restart(3);
    cluster.cut(1, 3);
    // Nodes 2 and 3 are a majority that the leader does not see; it reads its clock only now.
    cluster.now = cluster.now.after(ms(940));
    cluster.plain(2, |group, env| group.campaign(env));
    cluster.stabilize();
    assert_ne!(cluster.group(2).role(), Role::Leader, "the lease of node 1 may be in force");
}

#[test]
fn a_follower_is_bound_to_the_leader_it_left() {
    let mut cluster = leased(3);
    let promised = cluster.now;
    cluster.now = cluster.now.after(ms(300));
    for other in [2, 3] {
        cluster.set_contact(1, other, false);
        cluster.discard(|_| true);
    }
    // Both have lost the leader, and both are bound until a base after its last pulse.
    for id in [2, 3] {
        cluster.plain(id, |group, env| group.campaign(env));
    }
    cluster.deliver(|e| e.to.0 != 1);
    cluster.deliver(|e| e.to.0 != 1);
    for id in [2, 3] {
        assert_eq!(cluster.group(id).role(), Role::PreCandidate);
        assert!(cluster.group(id).next_deadline() >= promised.after(ms(1_000)));
    }
    while cluster.leader().is_none_or(|leader| leader == 1) {
        let up = [2, 3].map(|id| (cluster.group(id).next_deadline(), id));
        cluster.fire_deadline(up.iter().min().unwrap().1);
        for _ in 0..4 {
            (2..=3).for_each(|id| cluster.complete_writes(id));
            cluster.deliver(|e| e.to.0 != 1);
        }
    }
    assert!(cluster.now >= promised.after(ms(1_000)));
}

/// A member whose core goes on answering pulses is led by another: the answers must not count.
#[test]
fn answers_of_a_core_whose_member_has_left_are_no_lease() {
    let mut cluster = leased(3);
    // The group on node 1 hears nothing any more, while the pulses of its core are answered.
    for other in [2, 3] {
        cluster.set_contact_one_way(other, 1, false);
    }
    let end = cluster.now.after(ms(20_000));
    while cluster.leader() == Some(1) && cluster.now < end {
        let at = [2, 3].map(|id| (cluster.group(id).next_deadline(), id)).into_iter().min().unwrap();
        cluster.now = cluster.now.max(at.0);
        cluster.pulse_all();
        for (a, b) in [(1, 2), (1, 3)] {
            cluster.pulse(a, b);
            cluster.answer(b, a);
        }
        cluster.fire_deadline(at.1);
        for _ in 0..6 {
            (2..=3).for_each(|id| cluster.complete_writes(id));
            cluster.discard(|e| e.to.0 == 1);
            cluster.deliver(|_| true);
        }
        // Checked against what is committed anywhere.
        let _ = cluster.lease_read(1);
    }
    let leader = cluster.leader().unwrap();
    assert_ne!(leader, 1);
    cluster.propose(leader, 1, 1).unwrap();
    for _ in 0..6 {
        (2..=3).for_each(|id| cluster.complete_writes(id));
        cluster.discard(|e| e.to.0 == 1);
        cluster.deliver(|_| true);
    }
    for _ in 0..5 {
        assert!(cluster.group(1).is_leader(), "it has not heard of it");
        cluster.pulse(1, 2);
        cluster.pulse(1, 3);
        cluster.answer(2, 1);
        cluster.answer(3, 1);
        assert_eq!(cluster.lease_read(1), NO_LEASE);
        cluster.now = cluster.now.after(ms(100));
    }
}

#[test]
fn field_17_a_lease_does_not_survive_the_order_to_campaign() {
    let mut cluster = leased(3);
    cluster.transfer(1, 3).unwrap();
    assert_eq!(cluster.lease_read(1), NO_LEASE);
    // The order is on its way. The transfer times out, the leader leads on, and the order arrives late.
    let order = cluster.network.iter().find(|e| matches!(e.message, Message::TimeoutNow(_))).unwrap().clone();
    cluster.discard(|_| true);
    let until = cluster.now.after(ms(1_100));
    while cluster.now < until {
        cluster.now = cluster.now.after(ms(100));
        cluster.pulse_all();
        cluster.plain(1, |group, env| group.on_deadline(env));
        cluster.discard(|_| true);
    }
    assert_eq!(cluster.group(1).transferring(), None);
    cluster.pulse_all();
    let _ = cluster.lease_read(1);
    cluster.hand_over(order);
    for _ in 0..6 {
        (2..=3).for_each(|id| cluster.complete_writes(id));
        cluster.discard(|e| e.to.0 == 1);
        cluster.deliver(|_| true);
    }
    assert!(cluster.group(3).is_leader() && cluster.group(1).is_leader());
    cluster.propose(3, 1, 1).unwrap();
    for _ in 0..6 {
        (2..=3).for_each(|id| cluster.complete_writes(id));
        cluster.discard(|e| e.to.0 == 1);
        cluster.deliver(|_| true);
    }
    assert_eq!(cluster.lease_read(1), NO_LEASE, "node 3 has committed something else");
}

#[test]
fn a_transfer_that_gave_no_order_leaves_the_lease() {
    let mut cluster = leased(3);
    cluster.propose(1, 1, 1).unwrap();
    cluster.discard(|e| e.to.0 == 3);
    cluster.transfer(1, 3).unwrap();
    cluster.discard(|e| e.to.0 == 3);
    assert_eq!(cluster.lease_read(1), NO_LEASE, "while it is under way");
    for _ in 0..11 {
        cluster.now = cluster.now.after(ms(100));
        cluster.pulse_all();
        cluster.plain(1, |group, env| group.on_deadline(env));
        cluster.discard(|e| e.to.0 == 3);
        cluster.stabilize();
    }
    assert_eq!(cluster.group(1).transferring(), None);
    assert_eq!(cluster.lease_read(1), Ok(LogIndex(2)));
}

#[test]
fn field_20_a_lease_serves_nothing_before_a_commit_in_the_own_term() {
    let mut cluster = leased(3);
    cluster.propose(1, 1, 1).unwrap();
    cluster.stabilize();
    cluster.transfer(1, 2).unwrap();
    for _ in 0..3 {
        cluster.deliver(|_| true);
        (1..=3).for_each(|id| while !cluster.group(id).is_leader() && cluster.complete_write(id) {});
    }
    cluster.deliver(|e| matches!(e.message, Message::VoteReply(_)));
    assert!(cluster.group(2).is_leader() && cluster.group(2).commit() < LogIndex(2));
    cluster.pulse_all();
    assert_eq!(cluster.lease_read(2), NO_LEASE);
    assert!(cluster.read(2).is_ok(), "it waits for a round, which waits for the commit");
}

#[test]
fn field_44_a_pause_longer_than_the_lease_ends_it() {
    let mut cluster = leased(3);
    cluster.pulse_all();
    assert!(cluster.lease_read(1).is_ok());
    // The process stands still for a second. Its first look at the clock afterwards says so.
    cluster.now = cluster.now.after(ms(1_000));
    assert_eq!(cluster.lease_read(1), NO_LEASE);
}
