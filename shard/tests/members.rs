//! Random changes of the configuration under random faults: nodes come and go, are learners, voters and again nobody, while
//! messages get lost and nodes crash. After every step the safety properties are checked (`common/checks.rs`, which counts
//! copies by the configuration in force); at the end all faults are lifted, and the members must come together.
//!
//! `LOGDRIVE_SEED=n` runs one seed with its trace, `LOGDRIVE_SEEDS=n` so many.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::Cluster;
use common::chaos::{Chaos, for_seeds_of};
use logdrive_shard::{
    Config, Group, HardState, LogIndex, LogState, MemberStep, Members, Membership, MembershipChange, Moment,
    NodeId, Random, Role, Setup, Term,
};

const STEPS: u32 = 800;

#[test]
fn nodes_come_and_go_under_faults_and_nothing_committed_is_lost() {
    let (mut runs, mut changes) = (0, 0);
    for_seeds_of(Chaos::with_few_founders, "members", 1_000, |chaos| {
        for _ in 0..STEPS {
            chaos.step(&mut |chaos| match chaos.dice.below(12) {
                0..5 => chaos.change(),
                5..7 => {
                    let id = chaos.addressee()?;
                    chaos.cluster.read(id).ok().map(drop)
                }
                _ => {
                    let (id, count) = (chaos.addressee()?, 1 + chaos.dice.below(3) as u32);
                    let _ = chaos.cluster.propose(id, count, 1);
                    Some(())
                }
            });
        }
        chaos.heal_with_strangers();
        runs += 1;
        changes += chaos.changes;
    });
    println!("{runs} runs, {changes} changes");
    assert!(runs < 10 || changes > runs, "changes happen");
}

fn voters(ids: &[u32]) -> Membership {
    Membership::founding(&ids.iter().copied().map(NodeId).collect::<Vec<_>>()).unwrap()
}

/// A group whose log begins at 6, behind a snapshot, and ends at 9.
fn recovered(memberships: &[(LogIndex, Membership)], commit: u64) -> Group {
    let term_runs = vec![(LogIndex(6), Term(2))];
    let log = LogState { first: LogIndex(6), last: LogIndex(9), prev_term: Term(1), term_runs };
    let hard_state =
        HardState { term: Term(2), vote: NodeId::NONE, commit: LogIndex(commit), ..HardState::default() };
    let setup = Setup {
        me: NodeId(1),
        memberships,
        hard_state,
        log: &log,
        applied: LogIndex(5),
        fresh: false,
        preferred_leader: NodeId::NONE,
        ..Setup::default()
    };
    Group::new(Moment(0), &Config::default(), &mut Random::new(1), &setup)
}

/// FIELD 9: a snapshot without its configuration.
#[test]
fn the_configuration_of_a_snapshot_is_in_force_until_the_log_has_another() {
    let of_snapshot = (LogIndex(3), voters(&[1, 2, 3]));
    let group = recovered(std::slice::from_ref(&of_snapshot), 5);
    assert_eq!((group.membership(), group.membership_index()), (&of_snapshot.1, LogIndex(3)));
    assert!(group.membership_is_settled());
    let nodes: Vec<NodeId> = group.report().peers.iter().map(|peer| peer.node).collect();
    assert_eq!(nodes, [NodeId(2), NodeId(3)]);

    let in_log = (LogIndex(8), voters(&[1, 2, 3, 4]));
    let group = recovered(&[of_snapshot.clone(), in_log.clone()], 5);
    assert_eq!((group.membership(), group.membership_index()), (&in_log.1, LogIndex(8)));
    assert!(!group.membership_is_settled(), "8 is not known to be committed");
    let group = recovered(&[of_snapshot, in_log], 8);
    assert!(group.membership_is_settled());
}

#[test]
#[should_panic(expected = "a configuration of index 10 behind the log's last 9")]
fn a_configuration_behind_the_log_is_not_built_upon() {
    recovered(&[(LogIndex(10), voters(&[1]))], 5);
}

/// The founding configuration of nine, the most there can be; nine more cannot join it.
#[test]
fn nine_voters_elect_commit_and_are_the_most_there_can_be() {
    let mut cluster = Cluster::new(9, Config::default(), 1);
    let leader = cluster.elect();
    let others: Vec<u32> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    for &id in &others[..4] {
        cluster.crash(id, 0);
    }
    let proposed = cluster.propose(leader, 1, 1).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(leader).commit(), proposed.first, "by five of nine");
    let tenth = MembershipChange::of(&[MemberStep::AddVoter(NodeId(10))]);
    let refused = cluster.change(leader, &tenth).unwrap_err();
    assert_eq!(refused.to_string(), "10 voters and 10 members would be more than 9 and 14");
    cluster.crash(others[4], 0);
    assert_eq!(cluster.group(leader).role(), Role::Follower, "four of nine lead nothing");
    let nine: Vec<NodeId> = (1..=9).map(NodeId).collect();
    assert!(Membership::new(Members { voters: nine, ..Members::default() }).is_ok());
}
