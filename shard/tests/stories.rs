//! What users ask about, each by its name: partitions, divergence, slow members, long links, retries. Stories that are best read
//! message by message are scripts (`testdata/*.txt`): figures 2 to 13 of the Raft paper, split votes, late heartbeats,
//! stale pre-votes, joint changes during partitions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod clients;
mod common;
mod timed;

use std::collections::BTreeMap;
use std::time::Duration;

use clients::history::Op;
use clients::machine::{Command, Machine, Work};
use common::node::Start;
use common::{Cluster, config, ms};
use logdrive_shard::{Config, LogIndex, Role, Term};
use timed::Timed;

#[test]
fn replicated_but_not_committed_the_next_leader_commits_what_a_majority_has() {
    let mut cluster = Cluster::led(3);
    let before = cluster.group(1).commit();
    let at = cluster.propose(1, 1, 10).unwrap().first;
    cluster.deliver(|e| e.to.0 == 2);
    cluster.complete_writes(2);
    // On the disk of node 2, and its answer is on the way; the leader crashes before it hears it, and before its own write.
    assert_eq!(cluster.group(1).commit(), before);
    cluster.crash(1, 0);
    let next = cluster.elect();
    assert_eq!(next, 2, "node 3 lacks the entry and gets no vote of node 2");
    assert!(cluster.group(2).commit() > at, "committed by the no-op behind it, not by counting copies");
    cluster.restart(1);
    cluster.run_for(ms(10_000));
    assert_eq!(cluster.terms(1), cluster.terms(2), "the write that its leader never confirmed has come back");
}

#[test]
fn replicated_to_nobody_a_write_is_gone_with_its_leader_and_was_never_confirmed() {
    let mut cluster = Cluster::led(3);
    let at = cluster.propose(1, 1, 10).unwrap().first;
    let data = cluster.nodes[&1].log[at.0 as usize - 1].data;
    cluster.complete_writes(1);
    cluster.crash(1, 9);
    cluster.elect();
    cluster.restart(1);
    cluster.run_for(ms(10_000));
    let has = |id: u32| cluster.nodes[&id].log.iter().any(|entry| entry.data == data);
    assert!((1..=3).all(|id| !has(id)));
}

#[test]
fn logs_of_three_nodes_that_diverged_twice_come_together() {
    let mut cluster = Cluster::led(3);
    cluster.partition(&[&[1], &[2, 3]]);
    // Node 1 does not know yet that it leads alone: contact ends later than the connection.
    cluster.run_for(ms(10_000));
    let second = cluster.leader().unwrap();
    let third = 5 - second;
    // The second leader writes what reaches nobody, then it is cut off as well.
    cluster.propose(second, 3, 1).unwrap();
    cluster.crash(second, 9);
    cluster.connect(1, third);
    let now = cluster.elect();
    cluster.propose(now, 2, 1).unwrap();
    cluster.run_for(ms(5_000));
    let committed = cluster.group(now).commit();
    cluster.restart(second);
    cluster.connect_all();
    cluster.run_for(ms(20_000));
    for id in 1..=3 {
        assert_eq!(cluster.terms(id), cluster.terms(now), "node {id}");
        assert!(cluster.group(id).applicable() >= committed);
    }
}

#[test]
fn partition_2_3_of_five_the_minority_appends_and_cannot_commit_the_majority_goes_on() {
    let mut cluster = Cluster::led(5);
    let before = cluster.group(1).commit();
    cluster.cut(1, 3);
    cluster.cut(1, 4);
    // With three of five in contact it leads on; with two it does not.
    assert_eq!(cluster.group(1).role(), Role::Leader);
    let lost = cluster.propose(1, 2, 1).unwrap();
    cluster.network.clear();
    cluster.partition(&[&[1, 2], &[3, 4, 5]]);
    assert_eq!(
        cluster.group(1).role(),
        Role::Follower,
        "check-quorum: it steps down, its proposals are indeterminate"
    );
    assert_eq!(cluster.nodes[&1].lost.len(), 1);
    cluster.run_for(ms(20_000));
    assert!(cluster.group(1).leader().0 == 0 && cluster.group(2).leader().0 == 0);
    assert_eq!(cluster.group(2).commit(), before);
    let leader = cluster.leader().unwrap();
    assert!(leader >= 3);
    cluster.propose(leader, 1, 1).unwrap();
    cluster.run_for(ms(1_000));
    let term = cluster.group(leader).term();
    assert!(cluster.group(leader).commit() > lost.first);
    cluster.connect_all();
    cluster.run_for(ms(20_000));
    assert_eq!(
        (cluster.leader(), cluster.group(1).term()),
        (Some(leader), term),
        "healing costs no election: the minority's term has not moved"
    );
    assert_eq!(cluster.terms(1), cluster.terms(leader));
}

#[test]
fn partition_1_2_2_of_five_nobody_leads_no_term_rises_and_healing_elects_once() {
    let mut cluster = Cluster::led(5);
    cluster.propose(1, 3, 1).unwrap();
    cluster.run_for(ms(1_000));
    cluster.plain(1, |group, env| group.flush_commit(env));
    cluster.run_for(ms(1_000));
    let (commit, term) = (cluster.group(1).commit(), cluster.group(1).term());
    cluster.partition(&[&[1], &[2, 3], &[4, 5]]);
    cluster.run_for(ms(600_000));
    for id in 1..=5 {
        let group = cluster.group(id);
        assert!(!group.is_leader() && group.term() == term && group.commit() == commit, "node {id}");
    }
    cluster.connect_all();
    let leader = cluster.elect();
    cluster.run_for(ms(20_000));
    assert!(cluster.group(leader).term() <= Term(term.0 + 2), "ten minutes apart have not inflated the term");
    assert!((1..=5).all(|id| cluster.terms(id) == cluster.terms(leader)));
}

/// Messages that the leader sends to node 3 until node 3 has all of its log; `theirs` is what node 3 begins with.
fn messages_to_catch_up(leaders: &[u64], theirs: &[u64], per_append: u32) -> usize {
    let start = Start {
        fresh: true,
        logs: [(1, leaders.to_vec()), (2, leaders.to_vec()), (3, theirs.to_vec())].into(),
        ..Start::default()
    };
    let settings = Config { append_bytes_max: per_append, inflight_messages_max: 8, ..config() };
    let mut cluster = Cluster::dark(3, settings, 1, &start);
    cluster.connect_all();
    cluster.partition(&[&[1, 2], &[3]]);
    cluster.elect();
    cluster.run_for(ms(2_000));
    cluster.discard(|_| true);
    cluster.connect_all();
    let leader = cluster.leader().unwrap();
    let mut messages = 0;
    while cluster.terms(3) != cluster.terms(leader) {
        // What is under way when node 3 answers is under way to node 3: nothing is sent before its answers come.
        let to_three = cluster.network.iter().filter(|e| e.to.0 == 3 && e.from.0 == leader).count();
        assert!(to_three <= 8, "{to_three} messages at once");
        messages += to_three;
        assert!(messages < 500, "it does not come to an end");
        for id in 1..=3 {
            cluster.complete_writes(id);
        }
        cluster.deliver(|_| true);
    }
    messages
}

/// A new one, one that is far behind, and one whose log parted from the leader's, term by term: each is asked where it is a few
/// times, and gets each entry once. An entry is a byte here, an append takes a hundred, and the terms are runs of ten.
#[test]
fn a_new_a_far_behind_and_a_diverged_follower_are_caught_up_without_storms() {
    let leaders: Vec<u64> = (0..1_000).map(|n| 2 + n / 10 * 2).collect();
    let appends = |entries: u64, runs: u64| (entries / 100 + runs) as usize;
    let new = messages_to_catch_up(&leaders, &[], 100);
    assert!(new <= appends(1_000, 100) + 4, "a new one: {new}");
    let behind = messages_to_catch_up(&leaders, &leaders[..400], 100);
    assert!(behind <= appends(600, 60) + 4, "one that is behind: {behind}");
    // Its last three hundred are of terms that the leader has never had, one for each ten.
    let parted: Vec<u64> = (0..1_000).map(|n| 2 + n / 10 * 2 - u64::from(n >= 700)).collect();
    let diverged = messages_to_catch_up(&leaders, &parted, 100);
    assert!(diverged <= appends(300, 30) + 4 + 30, "one that parted: {diverged}");
    println!(
        "{new} messages for a thousand entries, {behind} for six hundred, {diverged} where the last three hundred differ"
    );
}

/// How long the leader (node 1) needs to commit one entry, when peer `i + 2` answers after `answers[i]`.
fn commit_latency(answers: &[Option<u64>]) -> Duration {
    let nodes = answers.len() as u32 + 1;
    let mut cluster = Cluster::led(nodes);
    for (peer, answer) in (2..).zip(answers) {
        if answer.is_none() {
            cluster.crash(peer, 9);
        }
    }
    let answers: Vec<Option<u64>> = answers.to_vec();
    let delay = move |from: u32, _to: u32| match from {
        1 => Duration::ZERO,
        peer => ms(answers[peer as usize - 2].unwrap_or(0)),
    };
    let mut timed = Timed::new(cluster, delay);
    timed.run_for(ms(5_000));
    let begin = timed.cluster.now;
    let at = timed.cluster.propose(1, 1, 10).unwrap().first;
    while timed.cluster.group(1).commit() < at {
        assert!(timed.advance(), "nothing is under way and {at} is not committed");
    }
    timed.cluster.now.since(begin)
}

#[test]
fn five_nodes_with_one_slow_commit_at_the_speed_of_the_quorum() {
    assert_eq!(commit_latency(&[Some(10), Some(20), Some(30), Some(2_000)]), ms(20));
}

#[test]
fn nine_nodes_answering_in_10_50_100_30_ms_with_one_dead_commit_at_the_speed_of_the_quorum() {
    let answers = [Some(10), Some(50), Some(100), Some(30), Some(10), Some(50), Some(100), None];
    // The leader and the four fastest.
    assert_eq!(commit_latency(&answers), ms(50));
    // Without the ones that answer in 10 ms it would be as slow as the slow ones.
    let answers = [None, Some(50), Some(100), Some(30), None, Some(50), Some(100), None];
    assert_eq!(commit_latency(&answers), ms(100));
}

/// Elections in so many simulated minutes with seven nodes, 200 ms from each to each, 1 % of all messages lost, and outages of a
/// second: every minute a node is cut off from all others, and each fourth
/// time it is the leader.
fn elections_far_apart(config: Config, seed: u64, minutes: u64) -> u64 {
    let mut cluster = Cluster::new(7, config, seed);
    cluster.elect();
    let first = highest_term(&cluster);
    let mut timed = Timed::new(cluster, |_, _| ms(200));
    timed.lose_permille = 10;
    timed.pulses();
    for minute in 0..minutes {
        timed.outage(ms(1_000), timed.cluster.leader().filter(|_| minute % 4 == 3));
        for _ in 0..60 {
            timed.run_for(ms(1_000));
            if let Some(leader) = timed.cluster.leader() {
                let _ = timed.cluster.propose(leader, 1, 10);
            }
        }
    }
    highest_term(&timed.cluster) - first
}

fn highest_term(cluster: &Cluster) -> u64 {
    cluster.ids().into_iter().map(|id| cluster.group(id).term().0).max().unwrap()
}

#[test]
fn seven_nodes_far_apart_elect_less_than_once_an_hour_with_wan_settings() {
    let wan = Config { election_base: ms(2_000), election_spread: ms(2_000), ..config() };
    let elections = elections_far_apart(wan, 1, 60);
    println!("wan settings: {elections} elections in an hour");
    assert_eq!(elections, 0);
    let elections = elections_far_apart(config(), 1, 5);
    assert!(elections > 0, "the same network does cost leaders when a second of silence is too much");
}

#[test]
fn seven_nodes_far_apart_cannot_be_led_with_settings_for_one_room() {
    let lan =
        Config { election_base: ms(150), election_spread: ms(150), heartbeat_interval: ms(30), ..config() };
    let mut cluster = Cluster::new(7, lan, 1);
    cluster.elect();
    let mut timed = Timed::new(cluster, |_, _| ms(200));
    timed.pulses();
    timed.run_for(ms(60_000));
    assert!(timed.cluster.leader().is_none(), "no round trip fits into the election base: nobody may lead");
}

#[test]
fn a_retry_after_a_lost_reply_is_applied_once_in_a_session_and_twice_outside() {
    for in_session in [true, false] {
        let mut cluster = Cluster::led(3);
        let mut work = BTreeMap::new();
        let mut propose = |cluster: &mut Cluster, leader: u32, command: Command| {
            let at = cluster.propose(leader, 1, 1).unwrap().first;
            work.insert(cluster.nodes[&leader].log[at.0 as usize - 1].data, Work { client: 0, command });
            cluster.run_for(ms(100));
            at.0
        };
        let session = in_session.then(|| propose(&mut cluster, 1, Command::Open));
        let command = Command::Do { op: Op::Add(5, None), session: session.map(|session| (session, 1)) };
        // Committed and executed; then the leader dies, and its answer with it. The client asks the next one.
        propose(&mut cluster, 1, command);
        cluster.crash(1, 9);
        let next = cluster.elect();
        let last = propose(&mut cluster, next, command);
        assert!(cluster.group(next).applicable() >= LogIndex(last));
        let mut machine = Machine::default();
        machine.apply(&cluster.nodes[&next].log, last, &work);
        assert_eq!(machine.value().1, if in_session { 5 } else { 10 });
    }
}
