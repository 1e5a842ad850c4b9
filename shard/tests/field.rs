//! What others have paid for: bugs that Raft implementations shipped, each by a test that says its name. The numbers are those of
//! the project's list; the sources are public issue trackers.
//!
//! The items that concern the protocol, the tests beside those named `field_NN`, and the mutants that put the bug back:
//!
//! | item | also shown by | mutants |
//! |---|---|---|
//! | 1 | `testdata/persistence.txt`, `explore.rs` | `own_copy_early` |
//! | 2 | `testdata/persistence.txt`; that callers park is shown where the engine parks | `own_vote_early` |
//! | 5 | `testdata/matched.txt`, `explore.rs` (diverged logs) | `reports_last`, `commits_last` |
//! | 6 | `testdata/figure_8.txt`, `explore.rs` (figure 8) | `commits_older_term` |
//! | 7 | `explore.rs` (first reads), `linear.rs` | `reads_before_commit` |
//! | 8 | `testdata/read_index.txt`, `testdata/forwarded_reads.txt`, `linear.rs` | |
//! | 9 | `field_members.rs`, `members.rs`, `testdata/members_truncated.txt` | `members_not_undone` |
//! | 10 | `testdata/inside_snapshot.txt` | |
//! | 11 | `testdata/aba.txt`, `explore.rs` | `aba` |
//! | 12 | `field_members.rs`, `testdata/members_partition.txt`, `explore.rs` (joint change) | `members_at_commit` |
//! | 13 | `field_members.rs`, `testdata/members_two_changes.txt`, `explore.rs` (two leaders) | `two_changes`, `change_before_commit` |
//! | 14 | `testdata/snapshot_and_crash.txt` | |
//! | 15 | `testdata/election.txt`; every step of every cluster here, and of the explorer | `vote_unsaved` |
//! | 16 | `lease.rs`, `testdata/restart.txt` | `votes_after_restart`, `promise_broken` |
//! | 17 | `lease.rs`, `testdata/leases.txt`, `field_members.rs`, `random.rs`, `explore.rs` (leases) | `lease_after_transfer`, `lease_ignores_withdrawal` |
//! | 18 | `testdata/one_way.txt` | |
//! | 19 | `testdata/slow_disk.txt` | |
//! | 20 | `testdata/read_index.txt`, `lease.rs`, `linear.rs` | |
//! | 21 | `testdata/snapshots.txt` | `snapshot_twice` |
//! | 22 | `testdata/elevated_term.txt`, `testdata/pre_vote_mixed.txt` | `elevated_term` |
//! | 42 | `lost.rs`, `testdata/lost_vote.txt`, `explore.rs` (lost vote) | `doubt_ignored`, `named_ignored` |
//! | 44 | `lease.rs`, `testdata/leases.txt`; where the clock is read is shown where the engine reads it | |
//! | 45 | `testdata/undurable_leader.txt` | |
//!
//! Items 3 and 4 are about the log and shown there; 33 is in `smoke.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::node::{Entry, Start};
use common::{Cluster, Envelope, Message, config, ms};
use logdrive_shard::{
    Append, AppendOutcome, AppendReply, Config, HeartbeatReply, LogIndex, Moment, NodeId, Role,
    SnapshotStatus, Term, VoteReply, VoteRequest,
};

/// Three nodes, all quiet, node 1 leads term 1.
fn led_by_one() -> Cluster {
    Cluster::led(3)
}

/// Nodes with the given logs, restarted long enough ago to vote.
fn with_logs(logs: &[&[u64]], commit: u64) -> Cluster {
    let mut start = Start { commit, ..Start::default() };
    for (at, log) in logs.iter().enumerate() {
        start.logs.insert(at as u32 + 1, log.to_vec());
        start.term = start.term.max(log.last().copied().unwrap_or(0));
    }
    let mut cluster = Cluster::dark(logs.len() as u32, config(), 7, &start);
    cluster.connect_all();
    cluster.now = cluster.now.after(config().election_base);
    cluster
}

fn from(from: u32, to: u32, message: Message) -> Envelope {
    Envelope { from: NodeId(from), to: NodeId(to), message }
}

/// An append of `count` entries as a leader of `term` would send it.
fn append(term: u64, prev: (u64, u64), entry_term: u64, count: u32, commit: u64) -> Message {
    let append = Append {
        term: Term(term),
        prev_index: LogIndex(prev.0),
        prev_term: Term(prev.1),
        entry_term: Term(entry_term),
        count,
        commit: LogIndex(commit),
    };
    let entry = |at| Entry {
        term: Term(entry_term),
        data: (1 << 40) + entry_term * 1000 + prev.0 + at,
        bytes: 1,
        members: None,
    };
    Message::Append(append, (0..u64::from(count)).map(entry).collect())
}

fn last_reply(cluster: &Cluster, from: u32) -> AppendReply {
    let replies = cluster.network.iter().filter(|envelope| envelope.from.0 == from);
    match replies
        .filter_map(|e| if let Message::AppendReply(r) = e.message { Some(r) } else { None })
        .next_back()
    {
        Some(reply) => reply,
        None => panic!("node {from} answered nothing"),
    }
}

#[test]
fn field_01_even_a_single_voter_commits_only_what_its_own_disk_holds() {
    let mut cluster = Cluster::new(1, config(), 1);
    cluster.run_for(ms(0));
    assert_eq!(cluster.group(1).role(), Role::Leader);
    cluster.propose(1, 1, 10).unwrap();
    assert_eq!(cluster.group(1).commit(), LogIndex(1), "written and not durable is not committed");
    cluster.complete_writes(1);
    assert_eq!(cluster.group(1).applicable(), LogIndex(2));
}

#[test]
fn field_01_the_leaders_copy_counts_only_when_durable() {
    let mut cluster = led_by_one();
    cluster.propose(1, 1, 10).unwrap();
    cluster.deliver(|e| e.to.0 == 2);
    cluster.complete_writes(2);
    cluster.deliver(|e| e.from.0 == 2);
    assert_eq!(cluster.group(1).commit(), LogIndex(1), "one durable copy of three");
    cluster.complete_writes(1);
    assert_eq!(cluster.group(1).commit(), LogIndex(2));
}

#[test]
fn field_02_no_reply_and_no_vote_leaves_before_its_bytes_are_durable() {
    let mut cluster = led_by_one();
    cluster.propose(1, 1, 10).unwrap();
    cluster.deliver(|e| e.to.0 == 2);
    assert!(!cluster.network.iter().any(|e| e.from.0 == 2), "the append reply waits for the disk");
    cluster.complete_writes(2);
    assert_eq!(last_reply(&cluster, 2).outcome, AppendOutcome::Matched(LogIndex(2)));

    // A vote that was given and lost in a crash never left, so the other vote in the same term is no second one.
    let mut cluster = with_logs(&[&[1], &[1], &[1]], 0);
    let request = |transfer| {
        Message::VoteRequest(VoteRequest {
            pre_vote: false,
            transfer,
            term: Term(2),
            last_index: LogIndex(1),
            last_term: Term(1),
        })
    };
    cluster.hand_over(from(1, 3, request(false)));
    assert!(cluster.network.is_empty());
    cluster.crash(3, 0);
    cluster.restart(3);
    cluster.now = cluster.now.after(config().election_base);
    cluster.hand_over(from(2, 3, request(false)));
    cluster.complete_writes(3);
    let votes: Vec<_> =
        cluster.network.iter().filter(|e| matches!(e.message, Message::VoteReply(_))).collect();
    assert_eq!((votes.len(), votes[0].to), (1, NodeId(2)));
}

#[test]
fn field_02_a_candidate_counts_its_own_vote_only_when_durable() {
    let mut cluster = with_logs(&[&[1], &[1], &[1]], 0);
    cluster.plain(1, |group, env| group.campaign(env));
    cluster.deliver(|e| e.to.0 == 2);
    cluster.deliver(|e| e.from.0 == 2);
    assert_eq!(cluster.group(1).role(), Role::Candidate);
    // However it came about: a vote arrives before the own one is durable.
    let vote = Message::VoteReply(VoteReply { pre_vote: false, granted: true, term: Term(2) });
    cluster.hand_over(from(2, 1, vote));
    assert_eq!(cluster.group(1).role(), Role::Candidate);
    cluster.plain(1, |group, env| group.on_vote_durable(env, Term(1)));
    assert_eq!(cluster.group(1).role(), Role::Candidate, "the vote of another term is not this one");
    cluster.plain(1, |group, env| group.on_vote_durable(env, Term(2)));
    assert_eq!(cluster.group(1).role(), Role::Leader);
}

#[test]
fn field_05_a_follower_reports_what_it_matched_and_not_its_own_last_index() {
    let mut cluster = with_logs(&[&[1, 2, 2], &[1, 1, 1, 1, 1], &[1]], 0);
    cluster.hand_over(from(1, 2, append(2, (1, 1), 2, 0, 0)));
    cluster.complete_writes(2);
    assert_eq!(last_reply(&cluster, 2).outcome, AppendOutcome::Matched(LogIndex(1)));
    assert_eq!(cluster.group(2).last_index(), LogIndex(5), "nothing contradicts the rest, so it stays");
}

#[test]
fn field_05_a_follower_commits_only_up_to_what_it_matched() {
    let mut cluster = with_logs(&[&[1, 2, 2], &[1, 1, 1, 1, 1], &[1, 2, 2]], 0);
    // Three entries are committed in the leader's log; this append matches only the first.
    cluster.hand_over(from(1, 2, append(2, (1, 1), 2, 0, 3)));
    assert_eq!(cluster.group(2).commit(), LogIndex(1));
    cluster.hand_over(from(1, 2, append(2, (1, 1), 2, 2, 2)));
    assert_eq!((cluster.group(2).commit(), cluster.terms(2)), (LogIndex(2), vec![1, 2, 2]));
}

#[test]
fn field_06_an_entry_of_an_older_term_is_not_committed_by_counting_copies() {
    let mut cluster = with_logs(&[&[1, 2], &[1, 2], &[1]], 0);
    cluster.plain(1, |group, env| group.campaign(env));
    cluster.deliver(|e| e.to.0 == 2);
    cluster.deliver(|e| e.from.0 == 2);
    cluster.complete_writes(1);
    cluster.deliver(|e| e.to.0 == 2);
    cluster.complete_writes(2);
    cluster.deliver(|e| e.from.0 == 2);
    assert_eq!(cluster.group(1).role(), Role::Leader);
    cluster.complete_writes(1);
    // Node 2 has entry 2, which is of term 2; the leader's term is 3. Durable on two of three, and not committed.
    let matched = AppendReply { term: Term(3), outcome: AppendOutcome::Matched(LogIndex(2)) };
    cluster.hand_over(from(2, 1, Message::AppendReply(matched)));
    assert_eq!(cluster.group(1).commit(), LogIndex(0));
    cluster.stabilize();
    assert_eq!(
        cluster.group(1).commit(),
        LogIndex(3),
        "with an entry of its own term everything before it is"
    );
}

#[test]
fn field_07_no_read_is_confirmed_before_a_commit_in_the_own_term() {
    let mut cluster = with_logs(&[&[1, 1], &[1, 1], &[1, 1]], 1);
    cluster.plain(1, |group, env| group.campaign(env));
    while cluster.group(1).role() != Role::Leader {
        cluster.complete_writes(1);
        cluster.complete_writes(2);
        cluster.deliver(|e| !matches!(e.message, Message::Append(..)));
    }
    let round = cluster.read(1).unwrap();
    let is_heartbeat = |e: &Envelope| matches!(e.message, Message::Heartbeat(_));
    assert!(!cluster.network.iter().any(is_heartbeat), "the round does not even start");
    let reply = HeartbeatReply { term: Term(2), round };
    cluster.hand_over(from(2, 1, Message::HeartbeatReply(reply)));
    assert!(cluster.nodes[&1].reads_confirmed.is_empty());
    cluster.stabilize();
    assert_eq!(cluster.nodes[&1].reads_confirmed, [(round, LogIndex(3))]);
}

#[test]
fn field_08_a_late_answer_to_an_earlier_round_confirms_no_read() {
    let mut cluster = led_by_one();
    let first = cluster.read(1).unwrap();
    let late: Vec<Envelope> = {
        cluster.deliver(|e| e.to.0 == 2);
        cluster.complete_writes(2);
        cluster.network.iter().filter(|e| e.from.0 == 2).cloned().collect()
    };
    assert_eq!(late.len(), 1);
    // The leader is cut off; another leads, commits, and hands leadership back. Rounds go on counting.
    cluster.partition(&[&[1], &[2, 3]]);
    cluster.run_for(ms(5_000));
    let other = cluster.leader().unwrap();
    cluster.propose(other, 1, 1).unwrap();
    cluster.run_for(ms(5_000));
    cluster.connect_all();
    cluster.run_for(ms(5_000));
    cluster.transfer(other, 1).unwrap();
    cluster.run_for(ms(5_000));
    assert!(cluster.group(1).is_leader());
    let second = cluster.read(1).unwrap();
    assert!(second > first, "a round's number is never used again");
    for envelope in late {
        cluster.hand_over(envelope);
    }
    let term = cluster.group(1).term();
    let old = HeartbeatReply { term, round: first };
    cluster.hand_over(from(2, 1, Message::HeartbeatReply(old)));
    assert!(cluster.nodes[&1].reads_confirmed.is_empty());
    cluster.stabilize();
    assert_eq!(cluster.nodes[&1].reads_confirmed.len(), 1);
}

#[test]
fn field_08_a_deposed_leader_that_was_paused_confirms_no_read() {
    let mut cluster = led_by_one();
    // Node 1 is stopped: it handles nothing, and its own judgement of contact stands still. The others replace it.
    for other in [2, 3] {
        cluster.set_contact_one_way(other, 1, false);
    }
    for _ in 0..100 {
        cluster.deliver(|e| e.to.0 != 1);
        (2..=3).for_each(|id| cluster.complete_writes(id));
        if (2..=3).any(|id| cluster.group(id).is_leader()) {
            break;
        }
        let id = if cluster.group(2).next_deadline() < cluster.group(3).next_deadline() { 2 } else { 3 };
        if cluster.network.iter().all(|e| e.to.0 == 1) {
            cluster.fire_deadline(id);
        }
    }
    let leader = (2..=3).find(|&id| cluster.group(id).is_leader()).unwrap();
    cluster.propose(leader, 1, 1).unwrap();
    for _ in 0..10 {
        cluster.deliver(|e| e.to.0 != 1);
        (2..=3).for_each(|id| cluster.complete_writes(id));
    }
    assert_eq!(cluster.group(leader).commit(), LogIndex(3));
    // It wakes up and believes that it leads.
    assert!(cluster.group(1).is_leader());
    cluster.read(1).unwrap();
    cluster.stabilize();
    assert!(cluster.nodes[&1].reads_confirmed.is_empty());
    assert_eq!(cluster.nodes[&1].lost.len(), 1);
}

#[test]
fn field_10_an_append_that_begins_inside_the_snapshot_is_answered_not_rejected() {
    let mut cluster = with_logs(&[&[1, 1, 1, 1, 1, 1], &[1, 1, 1, 1, 1]], 5);
    cluster.compact(2, LogIndex(4));
    // Entirely inside, reaching to its end, and beyond it.
    for (prev, count, matched) in [(1, 2, 3), (2, 2, 4), (2, 4, 6)] {
        cluster.hand_over(from(1, 2, append(1, (prev, 1), 1, count, 0)));
        cluster.complete_writes(2);
        assert_eq!(last_reply(&cluster, 2).outcome, AppendOutcome::Matched(LogIndex(matched)));
    }
    assert_eq!(cluster.group(2).last_index(), LogIndex(6));
    assert_eq!(cluster.group(2).refused_messages(), 0);
}

#[test]
fn field_11_an_old_write_does_not_make_what_replaced_it_durable() {
    let mut cluster = with_logs(&[&[1], &[1], &[1]], 0);
    cluster.hand_over(from(1, 3, append(1, (1, 1), 1, 2, 0)));
    cluster.hand_over(from(2, 3, append(2, (1, 1), 2, 2, 0)));
    assert_eq!((cluster.terms(3), cluster.group(3).durable()), (vec![1, 2, 2], LogIndex(1)));
    assert!(cluster.complete_write(3), "entries 2 and 3 of term 1");
    assert_eq!(cluster.group(3).durable(), LogIndex(1));
    assert!(cluster.network.iter().all(|e| e.to.0 != 2), "the leader of term 2 hears nothing yet");
    assert!(cluster.complete_write(3), "entries 2 and 3 of term 2");
    assert_eq!(cluster.group(3).durable(), LogIndex(3));
    assert!(cluster.network.iter().any(|e| e.to.0 == 2));
}

#[test]
fn field_11_what_stayed_before_a_truncation_becomes_durable_with_the_write_that_truncates() {
    let mut cluster = with_logs(&[&[1], &[1], &[1]], 0);
    cluster.hand_over(from(1, 3, append(1, (1, 1), 1, 3, 0)));
    cluster.hand_over(from(2, 3, append(2, (2, 1), 2, 1, 0)));
    assert_eq!(cluster.terms(3), [1, 1, 2]);
    cluster.complete_write(3);
    assert_eq!(cluster.group(3).durable(), LogIndex(1), "its epoch ended, though entry 2 is the same");
    cluster.complete_write(3);
    assert_eq!(cluster.group(3).durable(), LogIndex(3));
}

#[test]
#[should_panic(expected = "commit 5 behind the log's last 3")]
fn field_14_a_log_that_ends_before_what_was_committed_is_not_built_upon() {
    with_logs(&[&[1, 1, 1]], 5);
}

#[test]
fn field_15_every_change_of_term_or_vote_is_handed_to_the_log_in_its_step() {
    // The cluster asserts it after each step; here are the ways to change them.
    let mut cluster = led_by_one();
    let higher = AppendReply { term: Term(5), outcome: AppendOutcome::Matched(LogIndex(0)) };
    cluster.hand_over(from(2, 1, Message::AppendReply(higher)));
    let reply = HeartbeatReply { term: Term(6), round: 0 };
    cluster.hand_over(from(2, 1, Message::HeartbeatReply(reply)));
    let refusal = VoteReply { pre_vote: true, granted: false, term: Term(7) };
    cluster.hand_over(from(2, 1, Message::VoteReply(refusal)));
    cluster.hand_over(from(2, 1, append(8, (1, 1), 8, 0, 0)));
    let heartbeat = logdrive_shard::Heartbeat { term: Term(9), commit: LogIndex(0), round: 0 };
    cluster.hand_over(from(2, 1, Message::Heartbeat(heartbeat)));
    let (last_index, last_term) = (LogIndex(1), Term(1));
    let request = VoteRequest { pre_vote: false, transfer: true, term: Term(10), last_index, last_term };
    cluster.hand_over(from(3, 1, Message::VoteRequest(request)));
    cluster.hand_over(from(3, 1, Message::TimeoutNow(logdrive_shard::TimeoutNow { term: Term(11) })));
    assert_eq!(cluster.group(1).term(), Term(12));
    cluster.complete_writes(1);
    assert_eq!(cluster.nodes[&1].disk.hard_state.term, Term(12));
    assert_eq!(cluster.nodes[&1].disk.hard_state.vote, NodeId(1));
}

#[test]
fn field_15_a_vote_in_a_term_that_was_adopted_and_saved_before_is_saved_too() {
    let mut cluster = led_by_one();
    // Node 3 learns of term 9 without voting in it, and that is durable before anybody asks for the vote.
    let refusal = VoteReply { pre_vote: false, granted: false, term: Term(9) };
    cluster.hand_over(from(2, 3, Message::VoteReply(refusal)));
    cluster.complete_writes(3);
    let on_disk = cluster.nodes[&3].disk.hard_state;
    assert_eq!((on_disk.term, on_disk.vote), (Term(9), NodeId::NONE));
    let (last_index, last_term) = (LogIndex(9), Term(9));
    let request = VoteRequest { pre_vote: false, transfer: true, term: Term(9), last_index, last_term };
    cluster.hand_over(from(2, 3, Message::VoteRequest(request)));
    cluster.complete_writes(3);
    assert_eq!(cluster.nodes[&3].disk.hard_state.vote, NodeId(2), "a vote that is given is on disk");
}

#[test]
fn field_16_no_vote_and_no_campaign_within_one_election_timeout_after_a_restart() {
    let mut cluster = led_by_one();
    cluster.crash(3, 0);
    cluster.restart(3);
    let request = |pre_vote| {
        let (last_index, last_term) = (LogIndex(9), Term(9));
        Message::VoteRequest(VoteRequest { pre_vote, transfer: false, term: Term(10), last_index, last_term })
    };
    let granted = |cluster: &mut Cluster| {
        cluster.network.clear();
        cluster.hand_over(from(2, 3, request(true)));
        cluster.hand_over(from(2, 3, request(false)));
        cluster.complete_writes(3);
        let grants = |e: &&Envelope| matches!(&e.message, Message::VoteReply(reply) if reply.granted);
        cluster.network.iter().filter(grants).count()
    };
    cluster.now = cluster.now.after(ms(999));
    cluster.plain(3, |group, env| group.campaign(env));
    assert_eq!(cluster.group(3).role(), Role::Follower);
    assert!(cluster.group(3).next_deadline() >= Moment::default().after(ms(1_000)));
    assert_eq!(granted(&mut cluster), 0);
    cluster.now = cluster.now.after(ms(1));
    assert_eq!(granted(&mut cluster), 1, "the pre-vote's term is over by now, the vote is given");
}

#[test]
fn field_18_a_lasting_broken_link_to_the_leader_does_not_livelock_elections() {
    for cut in [vec![(1, 3)], vec![(1, 4), (1, 5)], vec![(2, 3), (3, 4), (1, 5)]] {
        let mut cluster = Cluster::led(5);
        for &(a, b) in &cut {
            cluster.cut(a, b);
        }
        for _ in 0..60 {
            cluster.run_for(ms(1_000));
            cluster.propose(1, 1, 1).expect("the leader leads on");
        }
        assert_eq!(cluster.group(1).term(), Term(1), "with {cut:?}");
    }
    // The leader loses so many that it is none any more: one of those who see a majority takes over, and stays.
    let mut cluster = Cluster::led(5);
    for other in [3, 4, 5] {
        cluster.cut(1, other);
    }
    cluster.run_for(ms(20_000));
    let (leader, term) = (cluster.leader().unwrap(), cluster.group(2).term());
    assert!(leader != 1);
    cluster.run_for(ms(60_000));
    assert_eq!((cluster.leader(), cluster.group(leader).term()), (Some(leader), term));
}

#[test]
fn field_18_messages_one_way_only_do_not_livelock_elections() {
    // Node 3 hears nobody, everybody hears node 3. Contact needs both directions, so there is none; its questions arrive.
    let mut cluster = led_by_one();
    for other in [1, 2] {
        cluster.set_contact(3, other, false);
    }
    for _ in 0..100 {
        cluster.now = cluster.now.after(ms(100));
        if cluster.group(3).next_deadline() <= cluster.now {
            cluster.fire_deadline(3);
        }
        cluster.plain(3, |group, env| group.campaign(env));
        cluster.discard(|e| e.to.0 == 3);
        cluster.stabilize();
    }
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::Leader, Term(1)));
}

#[test]
fn field_19_a_leader_whose_disk_stands_still_is_replaced() {
    // Contact says "my disk has written lately": without it, it ends, though messages still go both ways.
    let mut cluster = led_by_one();
    cluster.propose(1, 1, 1).unwrap();
    for other in [2, 3] {
        cluster.set_contact(1, other, false);
    }
    assert_eq!(cluster.group(1).role(), Role::Follower);
    let mut nodes_2_and_3 = || {
        for _ in 0..200 {
            cluster.deliver(|_| true);
            (2..=3).for_each(|id| cluster.complete_writes(id));
            if let Some(id) = (2..=3).find(|&id| cluster.group(id).is_leader()) {
                return id;
            }
            if cluster.network.is_empty() {
                let id =
                    if cluster.group(2).next_deadline() < cluster.group(3).next_deadline() { 2 } else { 3 };
                cluster.fire_deadline(id);
            }
        }
        panic!("nobody replaces the leader");
    };
    assert_ne!(nodes_2_and_3(), 1);
}

#[test]
fn field_20_a_read_waits_for_a_round_that_began_after_it() {
    let mut cluster = led_by_one();
    let first = cluster.read(1).unwrap();
    cluster.propose(1, 1, 1).unwrap();
    cluster.complete_writes(1);
    cluster.deliver(|e| e.to.0 == 2);
    let second = cluster.read(1).unwrap();
    cluster.complete_writes(2);
    // A commit is no proof that the leader still leads when the read came: it serves no read.
    cluster.deliver(|e| matches!(e.message, Message::AppendReply(_)));
    assert_eq!(cluster.group(1).commit(), LogIndex(2));
    assert!(cluster.nodes[&1].reads_confirmed.is_empty());
    // The answer to the first round serves the first read, at the commit index of its start, and not the second.
    cluster.deliver(|e| e.from.0 == 2);
    assert_eq!(cluster.nodes[&1].reads_confirmed, [(first, LogIndex(1))]);
    cluster.stabilize();
    assert_eq!(cluster.nodes[&1].reads_confirmed, [(first, LogIndex(1)), (second, LogIndex(2))]);
}

#[test]
fn field_21_a_snapshot_reported_twice_or_late_moves_nothing() {
    let mut cluster = led_by_one();
    cluster.cut(1, 3);
    cluster.propose(1, 4, 1).unwrap();
    cluster.stabilize();
    cluster.compact(1, LogIndex(4));
    cluster.connect(1, 3);
    cluster.stabilize();
    assert_eq!(cluster.nodes[&1].snapshots_wanted, [NodeId(3)]);
    let progress = |cluster: &Cluster| cluster.group(1).report().peers[1];
    let report = |cluster: &mut Cluster, index| {
        cluster.plain(1, |group, env| {
            group.on_snapshot_report(env, NodeId(3), SnapshotStatus::Installed(LogIndex(index)))
        });
    };
    report(&mut cluster, 4);
    assert_eq!((progress(&cluster).state, progress(&cluster).next), ("probe", LogIndex(5)));
    report(&mut cluster, 4);
    report(&mut cluster, 2);
    assert_eq!((progress(&cluster).state, progress(&cluster).next), ("probe", LogIndex(5)));
    let matched = AppendReply { term: Term(1), outcome: AppendOutcome::Matched(LogIndex(5)) };
    cluster.hand_over(from(3, 1, Message::AppendReply(matched)));
    report(&mut cluster, 5);
    assert_eq!((progress(&cluster).state, progress(&cluster).next), ("replicate", LogIndex(6)));
}

#[test]
fn field_22_an_elevated_term_of_a_healed_minority_does_not_depose_the_leader() {
    let mut cluster = Cluster::led(5);
    cluster.partition(&[&[1, 2, 3], &[4, 5]]);
    cluster.run_for(ms(60_000));
    assert_eq!(cluster.group(5).term(), Term(1), "with pre-vote there is no elevated term");
    cluster.connect_all();
    cluster.run_for(ms(20_000));
    assert_eq!(
        (cluster.leader(), cluster.group(1).term(), cluster.nodes[&1].lost.len()),
        (Some(1), Term(1), 0)
    );
}

#[test]
fn field_22_nodes_that_disagree_whether_pre_vote_is_on_come_to_rest() {
    let mut cluster = led_by_one();
    cluster.cut(1, 3);
    // Node 3 runs without pre-vote: it campaigns in term 2, and the others stick to their leader.
    let on = std::mem::replace(&mut cluster.config, Config { pre_vote: false, ..config() });
    cluster.fire_deadline(3);
    cluster.config = on;
    cluster.stabilize();
    assert_eq!((cluster.group(2).term(), cluster.group(3).term()), (Term(1), Term(2)));
    assert!(cluster.group(1).is_leader());
    // When the link heals, its term has to be entered, once; then there is a leader again, and silence.
    cluster.connect_all();
    cluster.run_for(ms(20_000));
    let leader = cluster.leader().unwrap();
    let term = cluster.group(leader).term();
    cluster.run_for(ms(60_000));
    assert_eq!((cluster.leader(), cluster.group(leader).term()), (Some(leader), term));
}

#[test]
fn field_32_a_hibernating_follower_of_a_leader_that_leads_no_more_wakes_up() {
    for seed in 0..20 {
        // All restart so quickly that nobody's contact ends; nobody leads, and everybody is in contact with everybody.
        let mut cluster = Cluster::new(3, config(), seed);
        let leader = cluster.elect();
        cluster.run_for(ms(10_000));
        cluster.crash_unnoticed(leader, 9);
        cluster.restart(leader);
        assert!(cluster.leader().is_none());
        cluster.run_for(ms(10_000));
        assert!(cluster.leader().is_some(), "seed {seed}");
    }
}

#[test]
fn field_45_a_leader_that_commits_through_its_followers_does_not_apply_what_it_does_not_hold_durably() {
    let mut cluster = led_by_one();
    cluster.propose(1, 3, 1).unwrap();
    for id in [2, 3] {
        cluster.deliver(|e| e.to.0 == id);
        cluster.complete_writes(id);
    }
    cluster.deliver(|e| e.to.0 == 1);
    assert_eq!((cluster.group(1).commit(), cluster.group(1).applicable()), (LogIndex(4), LogIndex(1)));
    cluster.complete_writes(1);
    assert_eq!(cluster.group(1).applicable(), LogIndex(4));
}
