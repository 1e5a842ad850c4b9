//! Small models, explored to the end: see `explorer/mod.rs`.
//!
//! `LOGDRIVE_EXPLORE=n` looks at up to n million states of each model, with larger budgets than by default.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod explorer;

use explorer::model::{Action, Budget, Model};
use explorer::search::{explore, report};
use logdrive_shard::{MemberStep, MembershipChange, NodeId};

/// Explores a model. It must have at least so many states: a model in which nothing happens proves nothing.
#[allow(clippy::disallowed_methods, reason = "the duration is printed, nothing depends on it")]
fn visit(mut model: Model, large: Budget, at_least: u64) {
    let begin = std::time::Instant::now();
    let millions: u64 = std::env::var("LOGDRIVE_EXPLORE").map_or(0, |n| n.parse().unwrap());
    if millions > 0 {
        model.budget = large;
    }
    let states_max = match model.first_states {
        _ if millions > 0 => millions * 1_000_000,
        Some(first) => first,
        None => 4_000_000,
    };
    let seen = explore(&model, states_max);
    report(&model, seen, begin.elapsed());
    assert!(seen.states >= at_least, "only {} states of {}", seen.states, model.name);
    let may_stop = millions > 0 || model.first_states.is_some();
    assert!(may_stop || seen.complete, "{} is too large to be explored by default", model.name);
}

// Of two campaigns the first is member 0's, and for the second it makes no difference whether 1 or 2 is the other member.

/// Two campaigns against each other, with a crash that loses what was not durable.
#[test]
fn explore_elections_with_a_crash() {
    let budget = Budget { deadlines: 2, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, crashes: 1, losses: 1, ..Budget::default() };
    visit(Model { campaigners: vec![0, 1], ..Model::new("elections, crash", budget) }, large, 60_000);
}

/// Two campaigns, with messages lost, doubled, late.
#[test]
fn explore_elections_on_bad_links() {
    let budget = Budget { deadlines: 2, duplicates: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, losses: 1, duplicates: 1, reorders: 1, ..Budget::default() };
    visit(Model { campaigners: vec![0, 1], ..Model::new("elections, bad links", budget) }, large, 60_000);
}

/// A leader, its entries, a crash of anybody at any moment, and the next leader.
#[test]
fn explore_replication_with_a_crash() {
    let budget = Budget { deadlines: 1, proposals: 1, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, proposals: 2, crashes: 2, losses: 1, ..Budget::default() };
    let model = Model { led: true, append_entries_max: 1, ..Model::new("replication, crash", budget) };
    visit(model, large, 50_000);
}

/// Raft paper, figure 8, with three members: (c), before anybody campaigns for term 4.
#[test]
fn explore_figure_8() {
    let logs = vec![vec![1, 2], vec![1], vec![1, 3]];
    let budget = Budget { deadlines: 2, ..Budget::default() };
    let large = Budget { deadlines: 3, losses: 1, crashes: 1, ..Budget::default() };
    let model =
        Model { logs, commit: 1, term_max: 5, campaigners: vec![0, 2], ..Model::new("figure 8", budget) };
    visit(model, large, 20_000);
}

/// Three logs that went apart, and whoever is elected brings them together.
#[test]
fn explore_logs_that_diverged() {
    let logs = vec![vec![1, 2, 2], vec![1, 1, 1, 1], vec![1]];
    let budget = Budget { deadlines: 3, losses: 1, ..Budget::default() };
    let large = Budget { deadlines: 4, crashes: 1, losses: 1, ..Budget::default() };
    let model = Model { logs, commit: 1, term_max: 3, ..Model::new("diverged logs", budget) };
    visit(model, large, 60_000);
}

/// A read, while leadership changes.
#[test]
fn explore_reads() {
    let budget = Budget { deadlines: 1, reads: 1, proposals: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, reads: 2, proposals: 1, losses: 1, ..Budget::default() };
    let model = Model { led: true, readers: vec![0], campaigners: vec![1], ..Model::new("reads", budget) };
    visit(model, large, 20_000);
}

/// A follower's read, while leadership changes.
#[test]
fn explore_forwarded_reads() {
    let budget = Budget { deadlines: 1, reads: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, reads: 2, proposals: 1, losses: 1, ..Budget::default() };
    let model = Model {
        led: true,
        readers: vec![1, 2],
        campaigners: vec![1],
        ..Model::new("forwarded reads", budget)
    };
    visit(model, large, 1_000);
}

/// A new leader is asked before it committed anything.
#[test]
fn explore_first_reads() {
    let logs = vec![vec![1, 1], vec![1, 1], vec![1]];
    let budget = Budget { deadlines: 1, reads: 1, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, reads: 1, crashes: 1, losses: 1, ..Budget::default() };
    visit(Model { logs, commit: 1, ..Model::new("first reads", budget) }, large, 3_000);
}

/// With pre-vote and check-quorum, while contact comes and goes.
#[test]
fn explore_contact() {
    let budget = Budget { deadlines: 1, contacts: 2, proposals: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, contacts: 3, proposals: 1, crashes: 1, ..Budget::default() };
    let model = Model { led: true, pre_vote: true, check_quorum: true, ..Model::new("contact", budget) };
    visit(model, large, 20_000);
}

/// Leadership is handed over, with the old leader going on.
#[test]
fn explore_transfers() {
    let budget = Budget { transfers: 1, proposals: 1, crashes: 1, ..Budget::default() };
    let large =
        Budget { deadlines: 2, transfers: 2, proposals: 1, losses: 1, crashes: 1, ..Budget::default() };
    visit(Model { led: true, ..Model::new("transfer", budget) }, large, 40_000);
}

/// A leader with a lease of two ticks, while its followers lose contact with it one by one, and one of them campaigns. In every state a read
/// under the lease would be fresh.
#[test]
fn explore_a_lease() {
    let budget = Budget { deadlines: 1, contacts: 2, ticks: 4, pulses: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, contacts: 3, ticks: 5, pulses: 2, proposals: 1, ..Budget::default() };
    let model = Model {
        led: true,
        leased: true,
        check_quorum: true,
        campaigners: vec![1],
        ..Model::new("lease", budget)
    };
    visit(model, large, 5_000);
}

/// Leadership is handed over while there is a lease.
#[test]
fn explore_a_lease_and_a_transfer() {
    let budget = Budget { transfers: 1, ticks: 1, pulses: 1, ..Budget::default() };
    let large = Budget { transfers: 1, ticks: 4, pulses: 2, crashes: 1, deadlines: 1, ..Budget::default() };
    let model =
        Model { led: true, leased: true, check_quorum: true, ..Model::new("lease, transfer", budget) };
    visit(model, large, 1_000);
}

/// One disk loses entries that were acknowledged, and the next leader may lack them.
#[test]
fn explore_a_damaged_log() {
    let logs = vec![vec![1, 1], vec![1], vec![1, 1]];
    let budget = Budget { deadlines: 1, damages: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, damages: 1, ..Budget::default() };
    let model =
        Model { logs, commit: 2, term_max: 3, campaigners: vec![0, 1], ..Model::new("damaged log", budget) };
    visit(model, large, 500);
}

/// Member 0 was given the vote of member 2, which is on its way. The disk of member 2 loses its newest hard state, perhaps, and
/// member 1 campaigns.
#[test]
fn explore_a_lost_vote() {
    let budget = Budget { deadlines: 1, damages: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, damages: 1, losses: 1, ..Budget::default() };
    let prefix = vec![
        Action::Deadline(0),
        Action::Write(0),
        Action::Deliver { from: 0, to: 2, at: 0, keep: false },
        Action::Write(2),
    ];
    let model = Model { campaigners: vec![1], damaged: vec![2], prefix, ..Model::new("lost vote", budget) };
    visit(model, large, 500);
}

/// From two members to three and back, one voter at a time, while anybody crashes and another one campaigns.
#[test]
fn explore_simple_changes() {
    let changes = vec![
        MembershipChange { even_if_behind: true, ..MembershipChange::of(&[MemberStep::AddVoter(NodeId(3))]) },
        MembershipChange::of(&[MemberStep::Remove(NodeId(2))]),
    ];
    let budget = Budget { deadlines: 1, changes: 1, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 2, crashes: 1, ..Budget::default() };
    let model = Model { led: true, founders: 2, changes, ..Model::new("simple changes", budget) };
    visit(model, large, 50_000);
}

/// A leader that is asked to remove both of the others, one after the other, while one of them campaigns.
#[test]
fn explore_two_changes() {
    let changes = vec![
        MembershipChange::of(&[MemberStep::Remove(NodeId(3))]),
        MembershipChange::of(&[MemberStep::Remove(NodeId(2))]),
    ];
    let budget = Budget { deadlines: 1, changes: 2, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 2, crashes: 1, ..Budget::default() };
    let model = Model { led: true, changes, campaigners: vec![1], ..Model::new("two changes", budget) };
    visit(model, large, 50_000);
}

/// One member takes the place of another through a joint configuration.
#[test]
fn explore_a_joint_change() {
    let change = MembershipChange { even_if_behind: true, ..MembershipChange::replace(NodeId(2), NodeId(3)) };
    let budget = Budget { deadlines: 1, changes: 1, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 2, crashes: 1, losses: 1, ..Budget::default() };
    let model = Model { led: true, founders: 2, changes: vec![change], ..Model::new("joint change", budget) };
    visit(model, large, 50_000);
}

/// A log that is cut at once behind what is committed: snapshots are taken, sent, received and started from, while anybody crashes and
/// another one campaigns.
#[test]
fn explore_snapshots() {
    let logs = vec![vec![1, 1], vec![1, 1], vec![]];
    let budget = Budget { deadlines: 1, snapshots: 1, crashes: 1, ..Budget::default() };
    let large =
        Budget { deadlines: 2, snapshots: 2, crashes: 1, losses: 1, proposals: 1, ..Budget::default() };
    let model = Model { logs, commit: 1, campaigners: vec![0, 1], ..Model::new("snapshots", budget) };
    visit(model, large, 10_000);
}

/// A member whose log parted from what is committed gets a snapshot instead, perhaps twice.
#[test]
fn explore_snapshots_of_what_diverged() {
    let logs = vec![vec![1, 3], vec![1, 3], vec![1, 2, 2]];
    let budget = Budget { deadlines: 1, snapshots: 1, duplicates: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, snapshots: 2, duplicates: 1, crashes: 1, ..Budget::default() };
    let model = Model {
        logs,
        commit: 1,
        term_max: 4,
        campaigners: vec![0],
        ..Model::new("snapshots, diverged", budget)
    };
    visit(model, large, 2_000);
}

/// A learner gets the log, becomes a voter, and another one campaigns meanwhile.
#[test]
fn explore_a_learner() {
    let changes = vec![
        MembershipChange::of(&[MemberStep::AddLearner(NodeId(3))]),
        MembershipChange { even_if_behind: true, ..MembershipChange::of(&[MemberStep::Promote(NodeId(3))]) },
    ];
    let budget = Budget { deadlines: 1, changes: 2, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 2, crashes: 1, losses: 1, ..Budget::default() };
    let model =
        Model { led: true, founders: 2, changes, campaigners: vec![1, 2], ..Model::new("learner", budget) };
    visit(model, large, 10_000);
}

/// A voter is removed; the disk of the one that has to agree loses the new configuration, or its newest hard state, and the removed
/// one campaigns by the old configuration.
#[test]
fn explore_a_removal_and_a_damaged_log() {
    let changes = vec![MembershipChange::of(&[MemberStep::Remove(NodeId(3))])];
    let budget = Budget { deadlines: 1, changes: 1, damages: 1, ..Budget::default() };
    // All of it are a million states: with LOGDRIVE_EXPLORE.
    let model = Model {
        led: true,
        changes,
        campaigners: vec![2],
        damaged: vec![1],
        first_states: Some(100_000),
        ..Model::new("removal, damaged log", budget)
    };
    visit(model, budget, 100_000);
}

/// One member takes the place of another through a joint configuration, and the disk of one that stays is damaged meanwhile.
#[test]
fn explore_a_joint_change_and_a_damaged_log() {
    let change = MembershipChange { even_if_behind: true, ..MembershipChange::replace(NodeId(3), NodeId(4)) };
    let budget = Budget { deadlines: 1, changes: 1, damages: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 1, damages: 1, proposals: 1, ..Budget::default() };
    let model = Model {
        led: true,
        members: 4,
        logs: vec![Vec::new(); 4],
        changes: vec![change],
        campaigners: vec![2],
        damaged: vec![1],
        first_states: Some(100_000),
        ..Model::new("joint change, damaged log", budget)
    };
    visit(model, large, 100_000);
}

/// Four members, two leaders, each of which removes one: what single changes went wrong with in 2015.
#[test]
fn explore_changes_of_two_leaders() {
    let changes = vec![
        MembershipChange::of(&[MemberStep::Remove(NodeId(4))]),
        MembershipChange::of(&[MemberStep::Remove(NodeId(1))]),
    ];
    let budget = Budget { deadlines: 1, changes: 1, ..Budget::default() };
    let large = Budget { deadlines: 2, changes: 1, losses: 1, ..Budget::default() };
    let deliver = |from, to| Action::Deliver { from, to, at: 0, keep: false };
    let prefix = vec![
        // The first removal reaches nobody else before its leader crashes.
        Action::Change { member: 0, which: 0 },
        Action::Write(0),
        Action::Crash { member: 0, writes: 0, late: false },
        // The next leader is elected by the others.
        Action::Deadline(1),
        Action::Write(1),
        deliver(1, 2),
        deliver(1, 3),
        Action::Write(2),
        Action::Write(3),
        deliver(2, 1),
        deliver(3, 1),
    ];
    let model = Model {
        members: 4,
        founders: 4,
        logs: vec![Vec::new(); 4],
        led: true,
        term_max: 3,
        campaigners: vec![0],
        changes,
        prefix,
        first_states: Some(100_000),
        ..Model::new("changes of two leaders", budget)
    };
    visit(model, large, 100_000);
}
