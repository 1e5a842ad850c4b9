//! Snapshots: who asks for them, what a receiver makes of them, and where it starts from when its process ended in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::node::Start;
use common::snapshots::{Request, Snapshot};
use common::{Cluster, Envelope, Message, config, ms};
use logdrive_shard::{
    Append, AppendOutcome, HistoryEvent, LogIndex, MemberStep, Membership, MembershipChange, NodeId,
    SnapshotStatus, Term,
};

/// Nodes 1 to 3 found the group, and node 1 leads it.
fn led_by_one(nodes: u32) -> Cluster {
    let start = Start { voters: vec![1, 2, 3], fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(nodes, config(), 1, &start);
    cluster.connect_all();
    cluster.lead(1);
    cluster
}

/// Node 1 leads three; node 3 was away while the others went on to index 10 and forgot everything up to it.
fn one_is_behind() -> Cluster {
    let mut cluster = led_by_one(3);
    cluster.propose(1, 2, 1).unwrap();
    cluster.stabilize();
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.propose(1, 7, 1).unwrap();
    cluster.stabilize();
    assert!(cluster.take_snapshot(1, Some(10), 0));
    cluster
}

fn reconnect(cluster: &mut Cluster) -> Request {
    cluster.connect(1, 3);
    cluster.connect(2, 3);
    cluster.stabilize();
    assert_eq!(cluster.requests.len(), 1, "asked for once");
    cluster.requests.pop().unwrap()
}

fn state_of(cluster: &Cluster, leader: u32, peer: u32) -> (&'static str, LogIndex) {
    let report = cluster.group(leader).report();
    let peer = report.peers.iter().find(|p| p.node.0 == peer).unwrap();
    (peer.state, peer.matched)
}

fn snapshot_of(cluster: &Cluster, id: u32) -> Snapshot {
    cluster.nodes[&id].disk.snapshot.clone().unwrap()
}

fn outcomes(cluster: &Cluster, from: u32) -> Vec<AppendOutcome> {
    let replies = cluster.network.iter().filter(|e| e.from.0 == from);
    let outcome = |e: &Envelope| match &e.message {
        Message::AppendReply(reply) => Some(reply.outcome),
        _ => None,
    };
    replies.filter_map(outcome).collect()
}

#[test]
fn a_follower_that_is_too_far_behind_gets_a_snapshot_and_then_the_log() {
    let mut cluster = one_is_behind();
    let request = reconnect(&mut cluster);
    assert_eq!((request.wanted.term, request.wanted.at_least), (Term(1), LogIndex(10)));
    assert_eq!(state_of(&cluster, 1, 3).0, "snapshot");
    cluster.propose(1, 2, 1).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(1).commit(), LogIndex(12), "the others do not wait for it");
    assert!(cluster.send_snapshot(1, request));
    cluster.stabilize();
    assert_eq!(state_of(&cluster, 1, 3), ("replicate", LogIndex(12)));
    let group = cluster.group(3);
    assert_eq!((group.first_index(), group.last_index()), (LogIndex(11), LogIndex(12)));
    let installed = |entry: logdrive_shard::HistoryEntry| {
        entry.event == HistoryEvent::SnapshotInstalled { index: LogIndex(10) }
    };
    assert!(group.history().any(installed));
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(3).commit(), LogIndex(12));
}

#[test]
fn field_9_a_snapshot_of_the_wrong_term_or_without_its_configuration_is_refused() {
    let mut cluster = one_is_behind();
    let request = reconnect(&mut cluster);
    let good = snapshot_of(&cluster, 1);
    let mut refused = 0;
    let mut offer = |cluster: &mut Cluster, change: fn(&mut Snapshot)| {
        let mut bad = good.clone();
        change(&mut bad);
        cluster.install_snapshot(NodeId(1), 3, request.wanted.term, &bad);
        refused += 1;
        assert_eq!(cluster.group(3).refused_messages(), refused);
        assert_eq!(cluster.group(3).first_index(), LogIndex(1));
    };
    offer(&mut cluster, |bad| bad.meta.membership = Membership::default());
    offer(&mut cluster, |bad| bad.meta.membership_index = LogIndex(11));
    offer(&mut cluster, |bad| bad.meta.term = Term(2));
    offer(&mut cluster, |bad| bad.meta.term = Term(0));
    // One that contradicts what is committed here.
    offer(&mut cluster, |bad| {
        bad.entries.truncate(2);
        (bad.meta.index, bad.meta.term) = (LogIndex(2), Term(0));
    });
}

#[test]
fn field_9_a_new_empty_member_has_the_configuration_of_its_snapshot() {
    let mut four = led_by_one(4);
    four.propose(1, 4, 1).unwrap();
    four.stabilize();
    assert!(four.take_snapshot(1, None, 0));
    let add = MembershipChange::of(&[MemberStep::AddLearner(NodeId(4))]);
    four.change(1, &add).unwrap();
    four.stabilize();
    assert!(four.take_snapshot(1, None, 0), "with the learner");
    four.serving = true;
    four.run_for(ms(5_000));
    assert_eq!(state_of(&four, 1, 4).0, "replicate");
    let group = four.group(4);
    assert_eq!(group.membership().learners(), [NodeId(4)]);
    assert_eq!(group.membership_index(), LogIndex(6));
    // And keeps it over a restart, whatever is lost of the log's writes.
    four.crash(4, 0);
    four.restart(4);
    assert_eq!(four.group(4).membership().learners(), [NodeId(4)]);
}

#[test]
fn field_9_a_stale_configuration_does_not_come_with_a_snapshot_of_entries_that_are_here() {
    let mut cluster = led_by_one(3);
    cluster.change(1, &MembershipChange::of(&[MemberStep::Remove(NodeId(2))])).unwrap();
    cluster.deliver(|e| e.to.0 == 3);
    cluster.complete_writes(3);
    let stale = cluster.group(3).last_index();
    assert!(cluster.group(3).commit() < stale && cluster.group(3).membership_index() == stale);
    cluster.complete_writes(1);
    cluster.deliver(|e| e.to.0 == 1);
    assert_eq!(cluster.group(1).commit(), stale);
    assert!(cluster.take_snapshot(1, None, 0));
    let mut bad = snapshot_of(&cluster, 1);
    assert_eq!(bad.meta.membership_index, stale);
    bad.meta.membership_index = LogIndex(0);
    cluster.install_snapshot(NodeId(1), 3, Term(1), &bad);
    assert_eq!((cluster.group(3).refused_messages(), cluster.group(3).first_index()), (1, LogIndex(1)));
}

#[test]
fn field_10_appends_that_lie_inside_an_installed_snapshot_are_answered_with_what_matched() {
    let mut cluster = one_is_behind();
    let request = reconnect(&mut cluster);
    assert!(cluster.send_snapshot(1, request));
    cluster.stabilize();
    let entries = cluster.nodes[&1].log.clone();
    for (prev, count, matched) in [(2_u64, 3, 5), (4, 6, 10), (9, 1, 10), (10, 0, 10)] {
        let of = entries[prev as usize..prev as usize + count].to_vec();
        let (prev_index, prev_term) = (LogIndex(prev), Term(1));
        let append = Append {
            term: Term(1),
            prev_index,
            prev_term,
            entry_term: Term(1),
            count: count as u32,
            commit: LogIndex(10),
        };
        cluster.hand_over(Envelope { from: NodeId(1), to: NodeId(3), message: Message::Append(append, of) });
        cluster.complete_writes(3);
        assert_eq!(outcomes(&cluster, 3), [AppendOutcome::Matched(LogIndex(matched))]);
        cluster.network.clear();
    }
    assert_eq!((cluster.group(3).last_index(), cluster.group(3).refused_messages()), (LogIndex(10), 0));
}

#[test]
fn field_14_a_crash_between_any_two_steps_leaves_no_gap_between_snapshot_and_log() {
    for step in 0..4 {
        let mut cluster = one_is_behind();
        let request = reconnect(&mut cluster);
        let snapshot = snapshot_of(&cluster, 1);
        match step {
            // The snapshot is durable, the log as it was.
            0 => drop(cluster.receive_snapshot(3, &snapshot)),
            // The group has moved its log, nothing of that is written.
            1 => cluster.install_snapshot(NodeId(1), 3, request.wanted.term, &snapshot),
            // It is written; the answer has not left, or has.
            _ => {
                cluster.install_snapshot(NodeId(1), 3, request.wanted.term, &snapshot);
                cluster.complete_writes(3);
            }
        }
        if step == 3 {
            cluster.deliver(|e| e.to.0 == 1);
        }
        cluster.crash_unnoticed(3, 0);
        cluster.restart(3);
        let group = cluster.group(3);
        assert_eq!(
            (group.first_index(), group.last_index(), group.commit()),
            (LogIndex(11), LogIndex(10), LogIndex(10))
        );
        cluster.requests.clear();
        cluster.propose(1, 1, 1).unwrap();
        cluster.stabilize();
        assert_eq!(state_of(&cluster, 1, 3), ("replicate", LogIndex(11)), "step {step}");
        assert!(cluster.requests.is_empty(), "step {step}: it has what it needs");
    }
}

#[test]
fn field_21_snapshots_that_come_twice_or_in_the_wrong_order_change_nothing() {
    let mut cluster = one_is_behind();
    let older = snapshot_of(&cluster, 1);
    cluster.propose(1, 3, 1).unwrap();
    cluster.stabilize();
    assert!(cluster.take_snapshot(1, None, u64::MAX));
    let newer = snapshot_of(&cluster, 1);
    let request = reconnect(&mut cluster);
    for (snapshot, matched) in [(&older, 10), (&older, 10), (&newer, 13), (&older, 13), (&newer, 13)] {
        cluster.install_snapshot(NodeId(1), 3, request.wanted.term, snapshot);
        cluster.complete_writes(3);
        assert_eq!(outcomes(&cluster, 3), [AppendOutcome::Matched(LogIndex(matched))]);
        cluster.deliver(|e| e.from.0 == 3);
        cluster.network.clear();
    }
    assert_eq!(cluster.installed, 2);
    assert_eq!(state_of(&cluster, 1, 3), ("replicate", LogIndex(13)));
    assert_eq!(cluster.group(3).refused_messages(), 0);
}

#[test]
fn a_deposed_leaders_snapshot_is_refused_and_it_learns_why() {
    let mut cluster = one_is_behind();
    let request = reconnect(&mut cluster);
    let snapshot = snapshot_of(&cluster, 1);
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.lead(2);
    let term = cluster.group(3).term();
    assert!(
        term > request.wanted.term && !cluster.group(3).needs_snapshot(request.wanted.term, LogIndex(10))
    );
    cluster.reroute(1, 3);
    cluster.network.clear();
    cluster.install_snapshot(NodeId(1), 3, request.wanted.term, &snapshot);
    cluster.complete_writes(3);
    assert_eq!(cluster.group(3).first_index(), LogIndex(1));
    let told =
        |e: &Envelope| matches!(&e.message, Message::AppendReply(reply) if e.to.0 == 1 && reply.term == term);
    assert!(cluster.network.iter().any(told));
}

#[test]
fn a_snapshot_of_entries_that_are_here_keeps_what_follows_them() {
    let mut cluster = led_by_one(3);
    cluster.propose(1, 7, 1).unwrap();
    cluster.deliver(|e| e.to.0 == 3);
    cluster.complete_writes(3);
    cluster.complete_writes(1);
    cluster.deliver(|e| e.to.0 == 1);
    let last = cluster.group(1).commit();
    assert!(cluster.group(3).commit().0 < last.0 - 3 && cluster.group(3).last_index() == last);
    assert!(cluster.take_snapshot(1, Some(last.0 - 3), 0));
    let snapshot = snapshot_of(&cluster, 1);
    cluster.install_snapshot(NodeId(1), 3, Term(1), &snapshot);
    let group = cluster.group(3);
    assert_eq!((group.last_index(), group.durable()), (last, last), "it has acknowledged them");
    assert_eq!((group.first_index().0, group.commit().0), (last.0 - 2, last.0 - 3));
    cluster.stabilize();
    cluster.run_for(ms(1_000));
    assert_eq!(state_of(&cluster, 1, 3), ("replicate", last));
}

#[test]
fn a_member_that_cannot_read_its_log_takes_a_snapshot_of_what_is_committed_there() {
    let mut cluster = led_by_one(3);
    cluster.propose(1, 7, 1).unwrap();
    cluster.stabilize();
    cluster.plain(1, |group, env| group.flush_commit(env));
    cluster.stabilize();
    let last = cluster.group(3).commit();
    assert_eq!(last, cluster.group(1).commit());
    assert!(cluster.take_snapshot(1, Some(last.0 - 3), 0));
    let snapshot = snapshot_of(&cluster, 1);
    let is_needed = |cluster: &Cluster| cluster.group(3).needs_snapshot(Term(1), LogIndex(last.0 - 3));
    assert!(!is_needed(&cluster));
    cluster.plain(3, |group, env| group.set_fit(env, false));
    assert!(is_needed(&cluster));
    cluster.install_snapshot(NodeId(1), 3, Term(1), &snapshot);
    let group = cluster.group(3);
    assert_eq!((group.first_index().0, group.commit(), group.durable()), (last.0 - 2, last, last));
    assert!(!is_needed(&cluster), "what it stands for is gone from the log");
}

#[test]
fn a_member_that_cannot_read_its_log_takes_a_snapshot_from_before_its_configuration() {
    let mut cluster = led_by_one(4);
    cluster.propose(1, 4, 1).unwrap();
    cluster.stabilize();
    assert!(cluster.take_snapshot(1, None, 0));
    let (snapshot, from) = (snapshot_of(&cluster, 1), cluster.group(1).commit());
    cluster.change(1, &MembershipChange::of(&[MemberStep::AddLearner(NodeId(4))])).unwrap();
    cluster.propose(1, 2, 1).unwrap();
    cluster.stabilize();
    cluster.plain(1, |group, env| group.flush_commit(env));
    cluster.stabilize();
    let (last, changed) = (cluster.group(3).commit(), cluster.group(3).membership_index());
    assert!(changed > from && last > changed, "{from:?} {changed:?} {last:?}");
    cluster.plain(3, |group, env| group.set_fit(env, false));
    cluster.install_snapshot(NodeId(1), 3, Term(1), &snapshot);
    let group = cluster.group(3);
    assert_eq!((group.first_index(), group.commit(), group.durable()), (LogIndex(from.0 + 1), last, last));
    assert_eq!((group.membership_index(), group.membership().learners()), (changed, &[NodeId(4)][..]));
}

#[test]
fn nothing_waits_for_ever() {
    let wanted = |cluster: &Cluster| cluster.requests.len();
    // The word that it is installed is lost; the leader asks.
    let mut cluster = one_is_behind();
    let request = reconnect(&mut cluster);
    assert!(cluster.send_snapshot(1, request));
    cluster.deliver(|_| true);
    cluster.complete_writes(3);
    assert_eq!(cluster.discard(|e| e.from.0 == 3), 1);
    cluster.run_for(ms(3_500));
    assert_eq!((state_of(&cluster, 1, 3).0, wanted(&cluster)), ("replicate", 0));

    // Nothing is heard of the attempt: another one, but not while it is said to go on.
    let mut cluster = one_is_behind();
    reconnect(&mut cluster);
    for _ in 0..5 {
        cluster.run_for(ms(20_000));
        let moving = SnapshotStatus::Moving;
        cluster.plain(1, |group, env| group.on_snapshot_report(env, NodeId(3), moving));
    }
    assert_eq!((state_of(&cluster, 1, 3).0, wanted(&cluster)), ("snapshot", 0));
    cluster.run_for(ms(35_000));
    assert_eq!((state_of(&cluster, 1, 3).0, wanted(&cluster)), ("snapshot", 1));

    // It broke off: again soon. It was refused: again later.
    for (status, early, late) in
        [(SnapshotStatus::Failed, 100, 1_000), (SnapshotStatus::Refused, 2_500, 5_000)]
    {
        let mut cluster = one_is_behind();
        reconnect(&mut cluster);
        cluster.plain(1, |group, env| group.on_snapshot_report(env, NodeId(3), status));
        cluster.run_for(ms(early));
        assert_eq!(wanted(&cluster), 0, "{status:?}");
        cluster.run_for(ms(late));
        assert_eq!(wanted(&cluster), 1, "{status:?}");
    }

    // The receiver starts anew in the middle.
    let mut cluster = one_is_behind();
    reconnect(&mut cluster);
    cluster.crash_unnoticed(3, 9);
    cluster.restart(3);
    cluster.stabilize();
    assert_eq!(wanted(&cluster), 1);
    cluster.serving = true;
    cluster.run_for(ms(1_000));
    assert_eq!(state_of(&cluster, 1, 3).0, "replicate");
}

#[test]
fn a_snapshot_that_reaches_beyond_the_damage_makes_a_member_whole() {
    let mut cluster = one_is_behind();
    let disk = |cluster: &mut Cluster, keep| {
        cluster.crash_unnoticed(3, 9);
        cluster.nodes.get_mut(&3).unwrap().disk.damage(keep, false, None);
        cluster.restart(3);
    };
    disk(&mut cluster, 1);
    assert!(cluster.group(3).lost().is_any());
    cluster.serving = true;
    cluster.run_for(ms(1_000));
    assert!(!cluster.group(3).lost().is_any());
    assert!(!cluster.nodes[&3].disk.hard_state.lost.is_any(), "that it is whole is durable");
}

#[test]
fn what_may_be_forgotten_is_applied_durable_and_no_more_than_the_snapshot() {
    let mut cluster = one_is_behind();
    cluster.plain(1, |group, env| group.flush_commit(env));
    cluster.stabilize();
    let group = cluster.group(2);
    assert_eq!(group.compactable(LogIndex(10), 3), Some(LogIndex(7)));
    assert_eq!(group.compactable(LogIndex(99), 0), Some(group.applicable()));
    assert_eq!(group.compactable(LogIndex(10), 10), None);
    assert_eq!(cluster.group(1).compactable(LogIndex(10), 1), None, "forgotten already");
}
