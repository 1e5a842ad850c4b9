//! Reads under leases and on followers, through whole cores: real pulses, real links.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use std::time::Duration;

use common::{Cluster, MS, Setup, ms};
use logdrive::api::{Error, ReadPolicy};
use logdrive_shard::{LogIndex, NodeId};

fn one_group() -> Setup {
    Setup { groups: 1, preferred: false, ..Setup::default() }
}

/// A cluster that has come to rest, its leader, and a lease.
fn leased() -> (Cluster, u32) {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    assert!(cluster.write(1, b"first").result.is_ok());
    cluster.settle();
    let leader = cluster.leader(1);
    lease_read(&mut cluster, leader).0.unwrap();
    (cluster, leader)
}

fn lease_read(cluster: &mut Cluster, node: u32) -> (Result<LogIndex, Error>, Vec<u8>) {
    let token = cluster.read(node, 1, ReadPolicy::LeaderLease);
    let answer = cluster.wait(node, token);
    (answer.result, answer.reply)
}

fn served_by_lease(cluster: &mut Cluster, node: u32) -> u64 {
    cluster.core(node).counters().lease_reads
}

#[test]
fn the_first_read_asks_for_a_round_and_later_ones_ask_nobody() {
    let (mut cluster, leader) = leased();
    assert_eq!(served_by_lease(&mut cluster, leader), 0, "the first one brought the lease");
    cluster.run_for(ms(200));
    for n in 1..=50 {
        let started = cluster.now;
        let (result, reply) = lease_read(&mut cluster, leader);
        assert!(result.is_ok() && reply[8..] == *b"first");
        assert_eq!(cluster.now, started, "served in its turn");
        assert_eq!(served_by_lease(&mut cluster, leader), n);
        cluster.run_for(ms(37));
    }
    let token = cluster.read(leader % 3 + 1, 1, ReadPolicy::LeaderLease);
    let refused = cluster.wait(leader % 3 + 1, token).result;
    assert_eq!(refused, Err(Error::NotLeader { leader: NodeId(leader) }));
}

/// The process of the leader stands still for longer than the lease, and others elect another and write. The read that comes
/// when it goes on must not be served from the old state, whatever moment its event was handled at.
#[test]
fn field_44_a_paused_leader_serves_no_read_under_a_lease_that_ended() {
    let (mut cluster, old) = leased();
    let paused_at = cluster.now;
    let others: Vec<u32> = (1..=3).filter(|&node| node != old).collect();
    // Frames neither reach it nor leave it, and its turns do not run: it is stopped.
    for &other in &others {
        cluster.hold(old, other);
        cluster.hold(other, old);
    }
    let stopped = cluster.node(old).core.take();
    cluster.run_for(ms(20));
    let mut new = 0;
    for _ in 0..200 {
        cluster.run_for(ms(20));
        if let Some(&led) = others.iter().find(|&&node| cluster.core(node).is_leader(Cluster::slot(1))) {
            new = led;
            break;
        }
    }
    assert!(others.contains(&new), "the others elect a leader");
    let token = cluster.propose(new, 1, b"second");
    assert!(cluster.wait(new, token).result.is_ok());

    cluster.node(old).core = stopped;
    let now = cluster.now;
    assert!(now - paused_at > 150 * MS);
    // The event is handled with the time that was read before the pause; the turn reads it anew.
    cluster.now = paused_at;
    let token = cluster.read(old, 1, ReadPolicy::LeaderLease);
    cluster.now = now;
    for &other in &others {
        cluster.unhold(old, other);
        cluster.unhold(other, old);
    }
    let answer = cluster.wait(old, token);
    assert!(answer.result.is_err() || answer.reply[8..] == *b"second", "a stale read: {answer:?}");
}

#[test]
fn a_leader_cut_off_serves_reads_only_as_long_as_its_lease_lasts() {
    let (mut cluster, leader) = leased();
    let others: Vec<u32> = (1..=3).filter(|&node| node != leader).collect();
    for &other in &others {
        cluster.hold(other, leader);
    }
    let cut_at = cluster.now;
    while cluster.now < cut_at + 2_000 * MS {
        let before = served_by_lease(&mut cluster, leader);
        let token = cluster.read(leader, 1, ReadPolicy::LeaderLease);
        cluster.run_for(ms(10));
        if served_by_lease(&mut cluster, leader) > before {
            // 150 ms less 50 thousandths, from the last pulse that was answered.
            assert!(cluster.now - cut_at < 153 * MS, "{} ms", (cluster.now - cut_at) / MS);
            assert!(cluster.answer(leader, token).unwrap().result.is_ok());
        }
    }
    assert!(others.iter().any(|&node| cluster.core(node).is_leader(Cluster::slot(1))));
}

#[test]
fn a_lease_is_off_while_leadership_is_handed_over_and_starts_anew() {
    let (mut cluster, leader) = leased();
    let to = leader % 3 + 1;
    let slot = Cluster::slot(1);
    cluster.transfer(leader, 1, to);
    let token = cluster.read(leader, 1, ReadPolicy::LeaderLease);
    let before = served_by_lease(&mut cluster, leader);
    cluster.run_until(ms(2_000), |cluster| cluster.core(to).is_leader(slot));
    assert_eq!(served_by_lease(&mut cluster, leader), before);
    cluster.run_until(ms(2_000), |cluster| cluster.answer(leader, token).is_some());
    lease_read(&mut cluster, to).0.unwrap();
    cluster.run_for(ms(200));
    lease_read(&mut cluster, to).0.unwrap();
    assert!(served_by_lease(&mut cluster, to) > 0);
}

#[test]
fn a_follower_serves_linearizable_reads_of_its_own() {
    let (mut cluster, leader) = leased();
    for n in 0..20_u64 {
        let payload = n.to_le_bytes();
        assert!(cluster.write(1, &payload).result.is_ok());
        for node in 1..=3 {
            let token = cluster.read(node, 1, ReadPolicy::Follower);
            let answer = cluster.wait(node, token);
            assert!(answer.result.is_ok(), "node {node}: {answer:?}");
            assert_eq!(answer.reply[8..], payload, "node {node} of a group led by {leader}");
        }
    }
}

#[test]
fn reads_on_a_follower_share_one_question() {
    let (mut cluster, leader) = leased();
    let follower = leader % 3 + 1;
    let frames = cluster.core(follower).counters().frames_out;
    let reads: Vec<u64> = (0..1000).map(|_| cluster.read(follower, 1, ReadPolicy::Follower)).collect();
    cluster.run_for(ms(8));
    for read in reads {
        assert!(cluster.answer(follower, read).expect("answered").result.is_ok());
    }
    assert!(cluster.core(follower).counters().frames_out - frames <= 6);
}

#[test]
fn reads_on_a_follower_end_when_their_leader_is_lost() {
    let (mut cluster, leader) = leased();
    let follower = leader % 3 + 1;
    cluster.hold(leader, follower);
    let token = cluster.read(follower, 1, ReadPolicy::Follower);
    cluster.kill(leader);
    let answer = cluster.wait(follower, token);
    assert!(matches!(answer.result, Ok(_) | Err(Error::NotLeader { .. })), "{answer:?}");
    cluster.elect();
    let token = cluster.read(follower, 1, ReadPolicy::Follower);
    assert!(cluster.wait(follower, token).result.is_ok());
}

#[test]
fn a_local_read_waits_for_its_index_as_long_as_it_may() {
    let (mut cluster, leader) = leased();
    let follower = leader % 3 + 1;
    let written = cluster.write(1, b"second").result.unwrap();
    let policy = |min_index, wait| ReadPolicy::Local { min_index, max_wait: Duration::from_millis(wait) };
    let token = cluster.read(follower, 1, policy(written, 500));
    let answer = cluster.wait(follower, token);
    assert_eq!((answer.result, &answer.reply[8..]), (Ok(written), &b"second"[..]));
    let asked = cluster.now;
    let token = cluster.read(follower, 1, policy(written.next(), 100));
    let answer = cluster.wait(follower, token);
    assert_eq!(answer.result, Err(Error::CommitLagging { have: written, want: written.next() }));
    assert!((100 * MS..105 * MS).contains(&(cluster.now - asked)), "{} ns", cluster.now - asked);
    assert_eq!(cluster.core(follower).requests_waiting(), 0);
}
