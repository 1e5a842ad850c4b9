//! Small models, explored to the end: see `explorer/mod.rs`.
//!
//! `LOGDRIVE_EXPLORE=n` looks at up to n million states of each model, with larger budgets than by default.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod explorer;

use explorer::search::{explore, report};
use explorer::world::{Budget, Model};

/// Explores a model. It must have at least so many states: a model in which nothing happens proves nothing.
#[allow(clippy::disallowed_methods, reason = "the duration is printed, nothing depends on it")]
fn visit(mut model: Model, large: Budget, at_least: u64) {
    let begin = std::time::Instant::now();
    let millions: u64 = std::env::var("LOGDRIVE_EXPLORE").map_or(0, |n| n.parse().unwrap());
    if millions > 0 {
        model.budget = large;
    }
    let seen = explore(&model, if millions > 0 { millions } else { 4 } * 1_000_000);
    report(&model, seen, begin.elapsed());
    assert!(seen.states >= at_least, "only {} states of {}", seen.states, model.name);
    assert!(millions > 0 || seen.complete, "{} is too large to be explored by default", model.name);
}

/// Two campaigns against each other, with a crash that loses what was not durable.
#[test]
fn explore_elections_with_a_crash() {
    let budget = Budget { deadlines: 2, crashes: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, crashes: 1, losses: 1, ..Budget::default() };
    visit(Model::new("elections, crash", budget), large, 100_000);
}

/// Two campaigns, with messages lost, doubled, late.
#[test]
fn explore_elections_on_bad_links() {
    let budget = Budget { deadlines: 2, duplicates: 1, ..Budget::default() };
    let large = Budget { deadlines: 3, losses: 1, duplicates: 1, reorders: 1, ..Budget::default() };
    visit(Model::new("elections, bad links", budget), large, 100_000);
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
    let model = Model { logs, commit: 1, term_max: 5, ..Model::new("figure 8", budget) };
    visit(model, large, 60_000);
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
    visit(Model { led: true, ..Model::new("reads", budget) }, large, 80_000);
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
