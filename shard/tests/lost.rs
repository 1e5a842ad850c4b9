//! Members whose disk lost what they had vouched for: what they refuse until it is made up for, and that they make up for it by themselves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::node::Start;
use common::{Cluster, Message, config, ms};
use logdrive_shard::{
    HistoryEvent, LogEnd, LogIndex, MemberStep, MembershipChange, NodeId, Role, StepDown, Term,
};

/// Three nodes led by node 1, with `entries` committed everywhere.
fn led_by_one(entries: u32) -> Cluster {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(3, config(), 7, &start);
    cluster.connect_all();
    cluster.lead(1);
    for _ in 0..entries {
        cluster.propose(1, 1, 10).unwrap();
    }
    cluster.stabilize();
    cluster.plain(1, |group, env| group.flush_commit(env));
    cluster.run_for(ms(2_000));
    cluster
}

fn damage(cluster: &mut Cluster, id: u32, keep: usize, vague: bool, back: Option<usize>) {
    cluster.crash(id, usize::MAX);
    if back.is_some() {
        cluster.checks.forget_own_votes(id);
    }
    cluster.nodes.get_mut(&id).unwrap().disk.damage(keep, vague, back);
}

#[test]
fn a_damaged_range_is_asked_of_the_leader_and_filled() {
    let mut cluster = led_by_one(8);
    damage(&mut cluster, 3, 4, false, None);
    cluster.restart(3);
    let floor = LogEnd { term: Term(1), index: LogIndex(9) };
    assert_eq!(cluster.group(3).lost().log, Some(floor));
    cluster.run_for(ms(100));
    assert!(!cluster.group(3).lost().is_any());
    assert_eq!(cluster.terms(3), cluster.terms(1));
    assert!(!cluster.nodes[&3].disk.hard_state.lost.is_any(), "that it is whole is durable");
}

#[test]
fn a_follower_that_does_not_know_how_much_it_lost_is_whole_with_its_leaders_commit() {
    let mut cluster = led_by_one(8);
    damage(&mut cluster, 3, 4, true, None);
    cluster.restart(3);
    assert_eq!(cluster.group(3).lost().log.unwrap().index, LogIndex(u64::MAX));
    cluster.run_for(ms(100));
    assert!(!cluster.group(3).lost().is_any());
    assert_eq!(cluster.terms(3), cluster.terms(1));
}

#[test]
fn a_member_with_a_gap_neither_campaigns_nor_elects_who_lacks_what_it_acknowledged() {
    let mut cluster = led_by_one(4);
    // Entries that nodes 1 and 3 have and node 2 has not.
    cluster.cut(1, 2);
    cluster.cut(2, 3);
    cluster.propose(1, 2, 10).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(1).commit(), LogIndex(7));
    damage(&mut cluster, 3, 4, false, None);
    cluster.crash(1, usize::MAX);
    cluster.restart(3);
    // Node 2 has five entries, more than the four that node 3 has left, and lacks two that are committed.
    cluster.run_for(ms(30_000));
    assert_eq!(cluster.leader(), None, "a majority's copies are not there: the group is down and says so");
    assert!(cluster.group(3).lost().is_any());
    assert_eq!(cluster.group(3).role(), Role::Follower);
    cluster.restart(1);
    assert_eq!(cluster.elect(), 1);
    cluster.run_for(ms(1_000));
    assert!(!cluster.group(3).lost().is_any());
    assert_eq!(cluster.terms(3), cluster.terms(1));
    // And it counts again: without node 2 it commits what node 1 proposes.
    cluster.cut(1, 2);
    cluster.propose(1, 1, 10).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last_index());
}

#[test]
fn a_member_with_a_gap_may_elect_whoever_reaches_its_floor() {
    let mut cluster = led_by_one(4);
    damage(&mut cluster, 3, 2, false, None);
    cluster.crash(1, usize::MAX);
    cluster.restart(3);
    assert_eq!(cluster.elect(), 2, "node 2 has all that node 3 ever acknowledged");
}

#[test]
fn field_42_a_voter_whose_vote_may_be_lost_waits_for_every_other_voters_term() {
    let mut cluster = led_by_one(2);
    // Node 3 votes for node 2 in term 2; then its newest hard state is gone.
    cluster.plain(2, |group, env| group.campaign(env));
    cluster.crash(1, usize::MAX);
    cluster.set_contact(2, 3, true);
    cluster.run_for(ms(5_000));
    let term = cluster.group(3).term();
    assert!(term > Term(1));
    damage(&mut cluster, 3, usize::MAX, false, Some(0));
    cluster.cut(2, 3);
    cluster.restart(3);
    cluster.cut(2, 3);
    cluster.restart(1);
    cluster.cut(2, 1);
    // Node 1 asks for its vote, again and again, and node 2, who has the vote, cannot be asked.
    cluster.run_for(ms(60_000));
    assert!(cluster.group(3).lost().state);
    assert!(!cluster.group(1).is_leader(), "node 3 does not vote while it may have voted");
    cluster.propose(1, 1, 10).unwrap_err();
    cluster.connect(2, 3);
    cluster.run_for(ms(5_000));
    assert!(!cluster.group(3).lost().is_any(), "both others have reported");
    assert!(cluster.group(3).term() >= term);
    assert!(cluster.leader().is_some());
}

#[test]
fn field_42_a_voter_in_doubt_acknowledges_nothing_and_members_in_doubt_do_not_answer_each_other() {
    let mut cluster = led_by_one(2);
    for id in [2, 3] {
        damage(&mut cluster, id, usize::MAX, false, Some(0));
    }
    cluster.restart(2);
    cluster.restart(3);
    let leaves = |cluster: &Cluster, id: u32| {
        cluster.network.iter().filter(|e| e.from == NodeId(id)).map(|e| e.message.kind()).collect::<Vec<_>>()
    };
    for _ in 0..20 {
        for id in [2, 3] {
            cluster.complete_writes(id);
            assert!(
                leaves(&cluster, id).iter().all(|&kind| kind == "term-query"),
                "{:?}",
                leaves(&cluster, id)
            );
        }
        cluster.deliver(|_| true);
    }
    cluster.run_for(ms(60_000));
    assert!(cluster.group(2).lost().state && cluster.group(3).lost().state);
    assert!(!cluster.network.iter().any(|e| matches!(e.message, Message::TermReport(_))));
    assert_eq!(cluster.leader(), None);
}

/// The vote went to a node that only a newer configuration knows, and that configuration is lost as well.
#[test]
fn field_42_a_voter_that_lost_its_vote_and_a_configuration_asks_the_voters_of_the_newer_one() {
    let start = Start { voters: vec![1, 2, 3], fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(4, config(), 7, &start);
    cluster.connect_all();
    cluster.lead(1);
    cluster.change(1, &MembershipChange::of(&[MemberStep::AddLearner(NodeId(4))])).unwrap();
    cluster.run_for(ms(1_000));
    let known = cluster.terms(3).len();
    cluster.change(1, &MembershipChange::replace(NodeId(2), NodeId(4))).unwrap();
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(3).membership().to_string(), "voters 1 3 4");
    // Node 4 is elected with the vote of node 3; nobody else hears of that term, and no entry of it leaves node 4.
    cluster.partition(&[&[3, 4], &[1], &[2]]);
    let before = cluster.group(3).term();
    while !cluster.group(4).is_leader() {
        cluster.discard(|envelope| envelope.from == NodeId(4) && envelope.message.kind() == "append");
        cluster.plain(4, |group, env| group.campaign(env));
        for _ in 0..20 {
            cluster.complete_writes(3);
            cluster.complete_writes(4);
            cluster.deliver(|envelope| envelope.message.kind() != "append");
        }
        cluster.now = cluster.now.after(ms(100));
    }
    let term = cluster.group(4).term();
    assert!(term > before && cluster.group(3).term() == term);
    // The disk of node 3 has what was there before the joint change.
    cluster.cut(3, 4);
    let back = cluster.nodes[&3].disk.older_states.len() - 1;
    let back = (0..=back).find(|&n| {
        let older = cluster.nodes[&3].disk.older_states.iter().rev().nth(n);
        older.is_some_and(|state| state.term <= before)
    });
    damage(&mut cluster, 3, known, false, Some(back.unwrap()));
    cluster.boot(3, false);
    cluster.connect(1, 3);
    cluster.connect(2, 3);
    cluster.connect(1, 2);
    assert_eq!(cluster.group(3).membership().to_string(), "voters 1 2 3, learners 4");
    cluster.run_for(ms(60_000));
    assert!(cluster.group(3).lost().state, "node 4 has to be asked, and cannot be");
    assert_eq!(cluster.leader(), None, "node 4 has no quorum any more, and nobody else leads in its place");
    cluster.connect(3, 4);
    cluster.run_for(ms(60_000));
    assert!(!cluster.group(3).lost().is_any());
    assert!(cluster.group(3).term() >= term);
    cluster.connect_all();
    cluster.run_for(ms(60_000));
    assert!(cluster.leader().is_some());
}

#[test]
fn losses_are_remembered_over_further_restarts() {
    let mut cluster = led_by_one(6);
    cluster.partition(&[&[1, 2], &[3]]);
    damage(&mut cluster, 3, 3, true, None);
    for _ in 0..3 {
        cluster.boot(3, false);
        cluster.run_for(ms(5_000));
        assert!(cluster.group(3).lost().is_any());
        cluster.crash(3, usize::MAX);
    }
    cluster.restart(3);
    cluster.run_for(ms(1_000));
    assert!(!cluster.group(3).lost().is_any());
}

#[test]
fn a_single_voter_that_lost_entries_stays_down() {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(1, config(), 7, &start);
    cluster.elect();
    cluster.propose(1, 3, 10).unwrap();
    cluster.stabilize();
    damage(&mut cluster, 1, 2, false, None);
    cluster.restart(1);
    cluster.run_for(ms(60_000));
    assert_eq!(cluster.leader(), None);
    assert!(cluster.group(1).lost().is_any());
}

#[test]
fn a_member_that_cannot_read_all_of_its_log_follows_and_votes_and_does_not_campaign() {
    let mut cluster = led_by_one(4);
    for id in [2, 3] {
        cluster.set_unreadable(id, 3);
    }
    cluster.propose(1, 1, 10).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(2).last_index(), LogIndex(6), "they take what comes");
    assert_eq!(cluster.group(1).commit(), LogIndex(5), "and no commit rests on them");
    cluster.crash(1, usize::MAX);
    cluster.run_for(ms(20_000));
    cluster.plain(2, |group, env| group.campaign(env));
    cluster.run_for(ms(5_000));
    assert!([2, 3].iter().all(|&id| !cluster.group(id).is_leader()));
    assert_eq!(cluster.group(2).term(), Term(1), "nobody even tried");
    // Node 3 has got its entries back: node 2 votes for it.
    cluster.set_unreadable(3, 1);
    cluster.run_for(ms(20_000));
    assert!(cluster.group(3).is_leader());
    assert_eq!(cluster.group(2).leader(), NodeId(3));
    let last = cluster.group(3).last_index();
    assert!(cluster.group(3).commit() < last);
    cluster.set_unreadable(2, 1);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.group(3).commit(), last, "node 2 answers for all that it has");
}

/// What node 2 took while it could not read all of its log is replaced by the next leader before the range is back.
#[test]
fn what_an_unreadable_member_took_is_acknowledged_to_whoever_leads_when_it_is_repaired() {
    let mut cluster = led_by_one(4);
    cluster.set_unreadable(2, 3);
    cluster.propose(1, 3, 10).unwrap();
    cluster.deliver(|envelope| envelope.to.0 == 2);
    cluster.complete_writes(2);
    assert_eq!(cluster.group(2).last_index(), LogIndex(8));
    cluster.crash(1, usize::MAX);
    cluster.plain(3, |group, env| group.campaign(env));
    cluster.run_for(ms(20_000));
    assert!(!cluster.group(3).is_leader(), "node 2 has more, and may not be the only one");
    // Back without what was not durable there: node 3 leads, with node 1 alone to rest on.
    cluster.restart(1);
    cluster.run_for(ms(20_000));
    let leader = cluster.leader().expect("two of three are sound");
    assert_ne!(leader, 2);
    let last = cluster.group(leader).last_index();
    assert_eq!(cluster.group(leader).commit(), last);
    cluster.crash(4 - leader, usize::MAX);
    cluster.propose(leader, 1, 10).unwrap();
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(leader).commit(), last, "nothing rests on node 2");
    cluster.set_unreadable(2, 1);
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(leader).commit(), cluster.group(leader).last_index());
    assert_eq!(cluster.terms(2), cluster.terms(leader));
}

#[test]
fn a_leader_that_cannot_read_all_of_its_log_goes_on_until_it_hands_over_and_is_not_handed_to() {
    let mut cluster = led_by_one(4);
    cluster.set_unreadable(1, 3);
    cluster.propose(1, 1, 10).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(1).commit(), LogIndex(6), "both of the others have it");
    cluster.plain(1, |group, env| group.transfer_leadership(env, NodeId(2)).unwrap());
    cluster.run_for(ms(1_000));
    assert!(cluster.group(2).is_leader());
    cluster.plain(2, |group, env| group.transfer_leadership(env, NodeId(1)).unwrap());
    cluster.run_for(ms(5_000));
    assert!(cluster.group(2).is_leader(), "the order to campaign is not followed");
    cluster.set_unreadable(1, 1);
    cluster.plain(2, |group, env| group.transfer_leadership(env, NodeId(1)).unwrap());
    cluster.run_for(ms(1_000));
    assert!(cluster.group(1).is_leader());
}

#[test]
fn a_single_voter_leads_whatever_it_can_read() {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(1, config(), 7, &start);
    cluster.set_unreadable(1, 3);
    cluster.run_for(ms(5_000));
    assert!(cluster.group(1).is_leader());
}

/// Node 1 leads, it alone has its last two entries, and its disk loses all it has.
fn the_only_copies_are_lost(nodes: u32) -> Cluster {
    let start = Start { fresh: true, ..Start::default() };
    let mut cluster = Cluster::dark(nodes, config(), 7, &start);
    cluster.connect_all();
    cluster.lead(1);
    cluster.propose(1, 2, 10).unwrap();
    cluster.run_for(ms(2_000));
    let committed = cluster.group(1).commit();
    cluster.propose(1, 2, 10).unwrap();
    cluster.discard(|envelope| envelope.message.kind() == "append");
    cluster.complete_writes(1);
    cluster.set_unreadable(1, 100);
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(1).commit(), committed, "nobody can be sent the last two");
    assert!(cluster.group(1).is_leader());
    cluster
}

#[test]
fn a_leader_whose_followers_wait_for_what_it_cannot_read_makes_way_if_they_can_do_without_it() {
    let mut cluster = the_only_copies_are_lost(3);
    cluster.plain(1, |group, env| group.transfer_leadership(env, NodeId(2)).unwrap());
    cluster.run_for(ms(20_000));
    let leader = cluster.leader().unwrap();
    assert_ne!(leader, 1, "one of the others leads, although contact with node 1 never ended");
    let stepped_down = HistoryEvent::SteppedDown { why: StepDown::Unreadable };
    assert!(cluster.group(1).history().any(|entry| entry.event == stepped_down));
    cluster.propose(leader, 1, 10).unwrap();
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.group(leader).commit(), cluster.group(leader).last_index());
    assert_eq!(cluster.terms(1), cluster.terms(leader), "what only node 1 had is replaced");
}

#[test]
fn a_leader_whose_followers_need_its_vote_leads_on_and_serves_reads() {
    let mut cluster = the_only_copies_are_lost(3);
    cluster.crash(3, usize::MAX);
    for _ in 0..3 {
        cluster.plain(1, |group, env| group.transfer_leadership(env, NodeId(2)).unwrap());
        cluster.run_for(ms(20_000));
        assert!(cluster.group(1).is_leader(), "node 2 could not be elected: node 3 may have what it lacks");
    }
    let round = cluster.read(1).unwrap();
    cluster.stabilize();
    assert!(cluster.nodes[&1].reads_confirmed.iter().any(|confirmed| confirmed.0 >= round));
    // Node 3 is back and has not got the two entries either: now it is known that they were not committed.
    cluster.restart(3);
    cluster.run_for(ms(5_000));
    cluster.plain(1, |group, env| group.transfer_leadership(env, NodeId(2)).unwrap());
    cluster.run_for(ms(20_000));
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

#[test]
fn a_leader_that_still_commits_leads_on_whatever_it_cannot_read() {
    let mut cluster = Cluster::led(5);
    cluster.propose(1, 4, 10).unwrap();
    cluster.run_for(ms(1_000));
    for id in [1, 2] {
        cluster.set_unreadable(id, 4);
    }
    for _ in 0..3 {
        cluster.plain(1, |group, env| group.transfer_leadership(env, NodeId(2)).unwrap());
        cluster.run_for(ms(5_000));
        assert!(cluster.group(1).is_leader(), "node 2 cannot lead");
        cluster.propose(1, 1, 10).unwrap();
        cluster.run_for(ms(5_000));
        assert_eq!(cluster.group(1).commit(), cluster.group(1).last_index());
    }
}

#[test]
fn where_a_majority_cannot_read_its_logs_reads_are_served_and_writes_wait_for_the_repair() {
    let mut cluster = led_by_one(4);
    for id in [1, 2, 3] {
        cluster.set_unreadable(id, 4);
    }
    cluster.propose(1, 1, 10).unwrap();
    cluster.run_for(ms(20_000));
    assert!(cluster.group(1).is_leader(), "nobody else could lead");
    let round = cluster.read(1).unwrap();
    cluster.run_for(ms(1_000));
    assert!(cluster.nodes[&1].reads_confirmed.iter().any(|confirmed| confirmed.0 >= round));
    let committed = cluster.group(1).commit();
    assert!(committed < cluster.group(1).last_index());
    cluster.set_unreadable(3, 1);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.group(1).commit(), committed, "one of three");
    cluster.set_unreadable(1, 1);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last_index());
}

/// One of five that cannot read all of its log leads, and loses contact with all but one, who does not notice that it leads no more.
#[test]
fn a_leader_that_cannot_read_all_of_its_log_and_steps_down_tells_who_still_follows_it() {
    let mut cluster = Cluster::led(5);
    cluster.set_unreadable(1, 2);
    cluster.crash(5, usize::MAX);
    cluster.cut(1, 3);
    cluster.cut(1, 4);
    assert!(!cluster.group(1).is_leader());
    assert_eq!(cluster.group(2).leader(), NodeId(1));
    cluster.run_for(ms(20_000));
    let leader = cluster.leader().expect("2, 3 and 4 are a majority of five");
    assert_eq!(cluster.group(2).leader(), NodeId(leader));
}
