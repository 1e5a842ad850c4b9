//! Where leaders are, what an idle core does, and two stories of the field.
mod common;
#[path = "common/members.rs"]
mod members;

use std::time::Duration;

use common::{Cluster, MS, Setup, ms};
use logdrive::api::{Busy, Error, ReadPolicy};
use logdrive::core::Event;
use logdrive_shard::{LogIndex, MemberStep, MembershipChange, Moment, NodeId};

/// 0 where there is none.
fn leaders(cluster: &mut Cluster) -> Vec<u32> {
    let groups = cluster.setup.groups;
    (1..=groups).map(|group| cluster.find_leader(group).unwrap_or(0)).collect()
}

fn misplaced(cluster: &mut Cluster) -> usize {
    let leaders = leaders(cluster);
    leaders.iter().enumerate().filter(|(n, leader)| (*n as u32 + 1) % 3 + 1 != **leader).count()
}

#[test]
fn leaders_are_spread_and_spread_again_when_a_node_returns() {
    let mut cluster = Cluster::new(Setup { groups: 90, ..Setup::default() });
    cluster.elect();
    cluster.run_until(ms(5_000), |cluster| misplaced(cluster) == 0);
    cluster.kill(2);
    cluster.elect();
    assert_eq!(misplaced(&mut cluster), 30);
    cluster.start(2);
    cluster.elect();
    cluster.run_until(ms(10_000), |cluster| misplaced(cluster) == 0);
    cluster.elect();
    for group in [1, 2, 3] {
        assert!(cluster.write(group, b"x").result.is_ok());
    }
}

#[test]
fn leadership_moves_when_it_is_ordered_and_proposals_meanwhile_are_not_lost() {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let old = cluster.leader(1);
    let to = old % 3 + 1;
    let token = cluster.propose(old, 1, b"in flight");
    let order = cluster.transfer(old, 1, to);
    let during = cluster.propose(old, 1, b"during");
    cluster.run_until(ms(1_000), |cluster| cluster.core(to).is_leader(Cluster::slot(1)));
    assert!(cluster.wait(old, token).result.is_ok(), "it was committed before the successor campaigned");
    assert!(matches!(cluster.wait(old, during).result, Err(Error::Busy { .. })));
    let answer = cluster.wait(old, order);
    assert_eq!((answer.result, answer.reply), (Ok(LogIndex(0)), to.to_le_bytes().to_vec()));
    cluster.elect();
    cluster.settle();
}

/// One group on three nodes whose leader stays where it is.
fn unbalanced() -> (Cluster, u32) {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    (cluster, leader)
}

#[test]
fn a_transfer_to_a_node_that_cannot_catch_up_times_out_and_proposals_go_on() {
    let (mut cluster, leader) = unbalanced();
    let (slow, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // Its disk takes longer than an election: what it is sent it does not acknowledge in time.
    cluster.core(slow).wal().disk().set_latency(700 * MS..701 * MS);
    assert!(cluster.write(1, b"not there yet").result.is_ok(), "the other two are a majority");
    let term = cluster.core(leader).group_status(Cluster::slot(1)).raft.term;
    let (order, begun) = (cluster.transfer(leader, 1, slow), cluster.now);
    let again = cluster.transfer(leader, 1, slow);
    let elsewhere = cluster.transfer(leader, 1, other);
    let during = cluster.propose(leader, 1, b"during");
    assert!(matches!(cluster.wait(leader, during).result, Err(Error::Busy { why: Busy::Transferring, .. })));
    assert!(matches!(
        cluster.wait(leader, elsewhere).result,
        Err(Error::Busy { why: Busy::Transferring, .. })
    ));
    assert_eq!(cluster.answer(leader, order), None);
    let to = NodeId(slow);
    assert_eq!(cluster.wait(leader, order).result, Err(Error::TransferTimedOut { to }));
    assert_eq!(
        cluster.wait(leader, again).result,
        Err(Error::TransferTimedOut { to }),
        "who joined it as well"
    );
    let took = Duration::from_nanos(cluster.now - begun);
    assert!((ms(140)..ms(250)).contains(&took), "one election timeout: {took:?}");
    assert!(cluster.write(1, b"after").result.is_ok());
    assert_eq!(cluster.leader(1), leader);
    assert_eq!(cluster.core(leader).group_status(Cluster::slot(1)).raft.term, term);
    assert_eq!(cluster.core(leader).requests_waiting(), 0);
    // The one that has everything takes over: the best is chosen.
    let best = cluster.transfer(leader, 1, 0);
    assert_eq!(cluster.wait(leader, best).reply, other.to_le_bytes());
    cluster.core(slow).wal().disk().set_latency(100_000..300_000);
    cluster.run_for(ms(1_000));
    cluster.settle();
}

#[test]
fn transfers_that_cannot_begin_are_refused_and_one_that_loses_its_leader_ends_too() {
    let (mut cluster, leader) = unbalanced();
    let (one, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let mut ask = |node, to| {
        let token = cluster.transfer(node, 1, to);
        cluster.wait(node, token).result
    };
    assert_eq!(ask(one, other), Err(Error::NotLeader { leader: NodeId(leader) }));
    assert_eq!(ask(leader, 9), Err(Error::BadTransferee { to: NodeId(9) }));
    assert_eq!(ask(leader, leader), Ok(LogIndex(0)), "it leads already");
    // Neither a node that is being drained nor one that is dead is chosen.
    let now = Moment(cluster.now);
    cluster.core(one).handle(now, Event::Drain(true)).expect("no frame");
    cluster.wake(one);
    cluster.run_for(ms(100));
    let best = cluster.transfer(leader, 1, 0);
    assert_eq!(cluster.wait(leader, best).reply, other.to_le_bytes());
    cluster.elect();
    cluster.kill(leader);
    cluster.run_for(ms(100));
    let nobody = cluster.transfer(other, 1, 0);
    assert_eq!(cluster.wait(other, nobody).result, Err(Error::NobodyToTakeOver));
    // Its followers are gone, and with them its leadership: it does not know to whom.
    let lost = cluster.transfer(other, 1, one);
    cluster.kill(one);
    let elsewhere = Error::TransferElsewhere { to: NodeId(one), leader: NodeId::NONE };
    assert_eq!(cluster.wait(other, lost).result, Err(elsewhere));
    assert_eq!(cluster.core(other).requests_waiting(), 0);
}

#[test]
fn a_transfer_that_is_called_off_ends_for_all_who_wait_for_it_and_proposals_go_on() {
    let (mut cluster, leader) = unbalanced();
    let slow = leader % 3 + 1;
    let slot = Cluster::slot(1);
    let cancel = |cluster: &mut Cluster, node| {
        let token = cluster.ask(node, |port, token| Event::CancelTransfer { port, token, slot });
        cluster.wait(node, token)
    };
    let nothing = cancel(&mut cluster, leader);
    assert_eq!((nothing.result, &nothing.reply[..]), (Ok(LogIndex(0)), &[0; 4][..]), "there is none");
    let refused = cancel(&mut cluster, slow).result;
    assert_eq!(refused, Err(Error::NotLeader { leader: NodeId(leader) }));

    cluster.core(slow).wal().disk().set_latency(700 * MS..701 * MS);
    assert!(cluster.write(1, b"not there yet").result.is_ok());
    let begun = cluster.now;
    let orders = [cluster.transfer(leader, 1, slow), cluster.transfer(leader, 1, slow)];
    let cancelled = cancel(&mut cluster, leader);
    assert_eq!((cancelled.result, cancelled.reply), (Ok(LogIndex(0)), slow.to_le_bytes().to_vec()));
    for order in orders {
        let to = NodeId(slow);
        assert_eq!(cluster.wait(leader, order).result, Err(Error::TransferCancelled { to }));
    }
    assert!(cluster.write(1, b"at once").result.is_ok());
    assert!(cluster.now - begun < 100 * MS, "nobody waited for the end of the transfer's time");
    assert_eq!(cluster.core(leader).requests_waiting(), 0);
    cluster.core(slow).wal().disk().set_latency(100_000..300_000);
    cluster.run_for(ms(2_000));
    assert_eq!(cluster.leader(1), leader, "it was not told to campaign");
    cluster.settle();
}

/// The target of a transfer is an outgoing voter, out of reach when the joint configuration is left: it is a member no longer.
#[test]
fn a_transfer_to_a_node_that_is_removed_meanwhile_is_cancelled_and_proposals_go_on() {
    let mut setup = Setup { nodes: 4, founders: 3, groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    // Long enough not to end the transfer first.
    setup.settings.shard.election_base *= 10;
    let mut cluster = Cluster::new(setup);
    cluster.run_until(ms(60_000), |cluster| cluster.find_leader(1).is_some());
    cluster.must_change(1, &MembershipChange::of(&[MemberStep::AddLearner(NodeId(4))]));
    cluster.run_for(ms(100));
    let leader = cluster.leader(1);
    let (gone, others) = (leader % 3 + 1, (1..=4).filter(|&node| node != leader));
    others.clone().for_each(|other| cluster.hold(other, leader));
    let change = cluster.change(leader, 1, &MembershipChange::replace(NodeId(gone), NodeId(4)));
    let token = cluster.transfer(leader, 1, gone);
    cluster.run_for(ms(5));
    let busy = cluster.propose(leader, 1, b"meanwhile");
    assert!(matches!(cluster.wait(leader, busy).result, Err(Error::Busy { why: Busy::Transferring, .. })));
    cluster.disconnect(leader, gone);
    others.for_each(|other| cluster.unhold(other, leader));
    assert!(cluster.wait(leader, change).result.is_ok());
    assert_eq!(cluster.wait(leader, token).result, Err(Error::TransferCancelled { to: NodeId(gone) }));
    assert_eq!(cluster.leader(1), leader);
    assert!(cluster.write(1, b"after").result.is_ok());
}

#[test]
fn a_node_that_stops_hands_all_its_leaders_over_and_takes_no_proposals() {
    let mut cluster = Cluster::new(Setup::default());
    cluster.elect();
    cluster.run_until(ms(5_000), |cluster| misplaced(cluster) == 0);
    let now = Moment(cluster.now);
    cluster.core(1).handle(now, Event::HandOver).expect("no frame");
    let token = cluster.propose(1, 3, b"x");
    assert!(matches!(cluster.wait(1, token).result, Err(Error::NotLeader { .. })));
    cluster.run_until(ms(1_000), |cluster| cluster.core(1).status().leaders == 0);
    cluster.elect();
    assert!(leaders(&mut cluster).iter().all(|&leader| leader != 1));
    cluster.run_for(ms(2_000));
    assert_eq!(cluster.core(1).status().leaders, 0, "nobody gives them back");
}

#[test]
fn ten_thousand_idle_groups_are_not_touched() {
    let mut setup = Setup { groups: 10_000, ..Setup::default() };
    setup.settings.wal.budget_bytes = 128 << 20;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.run_until(ms(60_000), |cluster| misplaced(cluster) == 0);
    cluster.settle();
    cluster.run_for(ms(2_000));
    let steps: Vec<u64> = (1..=3).map(|node| cluster.core(node).counters().steps).collect();
    let frames = cluster.core(1).counters().frames_out;
    cluster.run_for(Duration::from_secs(180));
    let later: Vec<u64> = (1..=3).map(|node| cluster.core(node).counters().steps).collect();
    assert_eq!(steps, later, "steps of idle groups in three minutes");
    let frames = cluster.core(1).counters().frames_out - frames;
    let pulses = 2 * 180_000 / 30;
    assert!(frames <= pulses + 2, "{frames} frames; one pulse per link and interval is {pulses}");
    assert!(cluster.write(5_000, b"awake").result.is_ok());
}

/// `now` read before a pause serves a lease, or a round, that ended during it.
#[test]
fn field_44_a_read_after_a_pause_is_confirmed_only_by_what_was_answered_after_it() {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    assert!(cluster.write(1, b"old").result.is_ok());
    cluster.settle();
    let old = cluster.leader(1);
    let others: Vec<u32> = (1..=3).filter(|&node| node != old).collect();
    for &other in &others {
        cluster.set_delay(old, other, ms(2));
        cluster.set_delay(other, old, ms(2));
    }
    // A first read sends its round; the answers are on their way when the process stops for five seconds.
    let before = cluster.read(old, 1, ReadPolicy::Linearizable);
    cluster.run_for(ms(3));
    assert_eq!(cluster.answer(old, before), None);
    for &other in &others {
        cluster.hold(other, old);
        cluster.hold(old, other);
    }
    let stale_now = cluster.now;
    let paused = cluster.node(old).core.take();
    cluster.run_until(ms(5_000), |cluster| {
        others.iter().any(|&node| cluster.core(node).is_leader(Cluster::slot(1)))
    });
    assert!(cluster.write(1, b"new").result.is_ok());
    cluster.node(old).core = paused;
    // It wakes with a clock read before the pause, takes a read, and finds the old answers in its sockets.
    let after = cluster.token();
    let port = cluster.node(old).port;
    let read = Event::Read {
        port,
        token: after,
        slot: Cluster::slot(1),
        policy: ReadPolicy::Linearizable,
        request: b"all",
    };
    cluster.core(old).handle(Moment(stale_now), read).expect("no frame");
    let now = cluster.now;
    for &other in &others {
        cluster.unhold(other, old);
    }
    cluster.now = stale_now + 300_000;
    cluster.turn(old);
    cluster.now = now;
    cluster.run_for(ms(20));
    for &other in &others {
        cluster.unhold(old, other);
    }
    let first = cluster.wait(old, before);
    assert!(first.result.is_err() || first.reply[8..] == *b"old", "it began before the write: {first:?}");
    let answer = cluster.wait(old, after);
    assert!(matches!(answer.result, Err(Error::NotLeader { .. })), "{answer:?}");
}

/// A leader that commits through its followers applies an index that its own log does not hold durably yet.
#[test]
fn field_45_a_leader_does_not_apply_what_its_own_log_does_not_hold() {
    let mut cluster = Cluster::new(Setup { groups: 1, ..Setup::default() });
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    cluster.core(leader).wal().disk().set_latency(500 * MS..501 * MS);
    let token = cluster.propose(leader, 1, b"durable elsewhere first");
    cluster.run_for(ms(100));
    let status = cluster.core(leader).group_status(Cluster::slot(1));
    assert_eq!(status.raft.commit, LogIndex(2), "both followers have it");
    assert_eq!((status.raft.durable, status.applied), (LogIndex(1), LogIndex(1)));
    assert_eq!(cluster.answer(leader, token), None);
    cluster.run_for(ms(500));
    assert_eq!(cluster.answer(leader, token).expect("durable here too").result, Ok(LogIndex(2)));
    assert_eq!(cluster.core(leader).applied(Cluster::slot(1)), LogIndex(2));
}
