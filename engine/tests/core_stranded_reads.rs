//! Linearizable reads that get no further: they end, and say where to ask.
mod common;
#[path = "common/members.rs"]
mod members;

use std::cell::Cell;
use std::rc::Rc;

use common::{Cluster, MS, Setup, ms, payload};
use logdrive::api::{Error, ReadPolicy, Retry};
use logdrive::wire::{FrameView, VERSION_MAX};
use logdrive_shard::{MemberStep, MembershipChange, NodeId};

/// No read waits longer than six of the longest election timeouts, which are 300 ms here, if nothing is applied meanwhile.
const LONGEST_MS: u64 = 6 * 300;

fn three() -> (Cluster, u32) {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    assert!(cluster.write(1, &payload(0)).result.is_ok());
    cluster.settle();
    let leader = cluster.leader(1);
    (cluster, leader)
}

/// Appends to `node` are lost from now on, until told otherwise; everything else arrives.
fn lose_appends_to(cluster: &mut Cluster, node: u32) -> Rc<Cell<bool>> {
    let loses = Rc::new(Cell::new(true));
    let told = loses.clone();
    cluster.tamper = Some(Box::new(move |_, (_, to), frame| {
        let view = FrameView::parse(&frame, VERSION_MAX).expect("a core's own frame");
        let has_appends = view.appends().next().is_some();
        if told.get() && to == node && has_appends { Vec::new() } else { vec![frame] }
    }));
    loses
}

/// A read at a node that is behind: its leader has said what it waits for.
fn confirmed_read(cluster: &mut Cluster, leader: u32, follower: u32) -> u64 {
    let written = cluster.propose(leader, 1, b"the follower does not get this");
    let written = cluster.wait(leader, written).result.expect("the others are a majority");
    let token = cluster.read(follower, 1, ReadPolicy::Follower);
    cluster.run_for(ms(20));
    assert!(
        cluster.answer(follower, token).is_none()
            && cluster.core(follower).applied(Cluster::slot(1)) < written
    );
    token
}

#[track_caller]
fn ends_and_says_whom_to_ask(cluster: &mut Cluster, node: u32, token: u64) {
    let asked = cluster.now;
    cluster.run_until(ms(20_000), |cluster| cluster.answer(node, token).is_some());
    let answer = cluster.answer(node, token).expect("it came");
    let took = (cluster.now - asked) / MS;
    assert!(matches!(answer.result, Err(Error::NotLeader { .. })), "{answer:?}");
    assert!(matches!(answer.result.map_err(|error| error.retry()), Err(Retry::At(_))), "{answer:?}");
    assert!(took <= LONGEST_MS + 10, "after {took} ms");
    assert_eq!(cluster.core(node).requests_waiting(), 0);
}

/// The leader answers a follower's question, removes it, and hands over to one that never heard of it: nobody sends it what the read
/// waits for, and nobody tells it that it was removed.
#[test]
fn reads_at_a_follower_that_was_removed_and_not_told_end() {
    let (mut cluster, leader) = three();
    let (gone, next) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let slot = Cluster::slot(1);
    let loses = lose_appends_to(&mut cluster, gone);
    let token = confirmed_read(&mut cluster, leader, gone);
    let remove = MembershipChange::of(&[MemberStep::Remove(NodeId(gone))]);
    let removed = cluster.change(leader, 1, &remove);
    assert!(cluster.wait(leader, removed).result.is_ok());
    cluster.transfer(leader, 1, next);
    cluster.run_until(ms(2_000), |cluster| cluster.core(next).is_leader(slot));
    cluster.run_for(ms(5));
    loses.set(false);
    assert!(cluster.answer(gone, token).is_none());
    ends_and_says_whom_to_ask(&mut cluster, gone, token);
    let believes = cluster.membership(gone, 1);
    assert!(believes.contains(&gone.to_string()), "it was told: {believes}");
    // One whose question nobody answers any more ends as well, and those after it.
    for _ in 0..2 {
        let token = cluster.read(gone, 1, ReadPolicy::Follower);
        ends_and_says_whom_to_ask(&mut cluster, gone, token);
    }
    assert_eq!(cluster.core(gone).counters().reads_given_up, 3);
    // A member again, it serves them.
    cluster.must_change(1, &MembershipChange::of(&[MemberStep::AddLearner(NodeId(gone))]));
    cluster.settle();
    let token = cluster.read(gone, 1, ReadPolicy::Follower);
    let answer = cluster.wait(gone, token);
    assert!(answer.result.is_ok(), "{answer:?}");
}

#[test]
fn a_confirmed_read_at_a_follower_that_gets_nothing_ends_and_one_that_gets_on_waits() {
    let (mut cluster, leader) = three();
    let follower = leader % 3 + 1;
    let loses = lose_appends_to(&mut cluster, follower);
    let token = confirmed_read(&mut cluster, leader, follower);
    ends_and_says_whom_to_ask(&mut cluster, follower, token);
    // What comes late, but comes, is worth waiting for.
    let token = confirmed_read(&mut cluster, leader, follower);
    cluster.run_for(ms(500));
    loses.set(false);
    let answer = cluster.wait(follower, token);
    assert!(answer.result.is_ok(), "{answer:?}");
    assert_eq!(cluster.core(follower).counters().reads_given_up, 1);
}

/// A leader does not know what its own log will make of the entry that a read waits for. It says so, and leads on.
#[test]
fn a_confirmed_read_at_a_leader_whose_log_hangs_ends() {
    let (mut cluster, leader) = three();
    let slot = Cluster::slot(1);
    let latency = 60_000 * MS;
    cluster.core(leader).wal().disk().set_latency(latency..latency + 1);
    let written = cluster.propose(leader, 1, b"durable on the others only");
    let before = cluster.core(leader).group_status(slot).raft.commit;
    cluster.run_until(ms(500), |cluster| cluster.core(leader).group_status(slot).raft.commit > before);
    let token = cluster.read(leader, 1, ReadPolicy::Linearizable);
    cluster.run_until(ms(20_000), |cluster| cluster.answer(leader, token).is_some());
    let answer = cluster.answer(leader, token).expect("it came").result;
    assert!(matches!(answer, Err(Error::CommitLagging { .. } | Error::NotLeader { .. })), "{answer:?}");
    assert!(cluster.answer(leader, written).is_none_or(|answer| answer.result.is_err()));
}
