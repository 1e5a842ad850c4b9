//! Declares the mutants: bugs that can be compiled in, so that the tests can be shown to catch them (`src/mutant.rs`).
//! `LOGDRIVE_MUTANT=<name>` turns one on for this crate alone; `--cfg mutant_<name>` does the same for everything.

const MUTANTS: [&str; 28] = [
    "own_copy_early",
    "own_vote_early",
    "reports_last",
    "commits_last",
    "commits_older_term",
    "reads_before_commit",
    "aba",
    "votes_after_restart",
    "lease_after_transfer",
    "lease_ignores_withdrawal",
    "promise_broken",
    "elevated_term",
    "vote_unsaved",
    "snapshot_twice",
    "snapshot_wrong_term",
    "snapshot_without_members",
    "snapshot_drops_log",
    "members_at_commit",
    "members_not_undone",
    "two_changes",
    "change_before_commit",
    "doubt_ignored",
    "named_ignored",
    "floor_ignored",
    "matched_remembered",
    "unreadable_leads",
    "vouches_unreadable",
    "term_behind",
];

fn main() {
    println!("cargo::rerun-if-env-changed=LOGDRIVE_MUTANT");
    println!("cargo::rerun-if-changed=build.rs");
    for mutant in MUTANTS {
        println!("cargo::rustc-check-cfg=cfg(mutant_{mutant})");
    }
    if let Ok(chosen) = std::env::var("LOGDRIVE_MUTANT") {
        assert!(MUTANTS.contains(&chosen.as_str()), "no such mutant: {chosen}; there are {MUTANTS:?}");
        println!("cargo::rustc-cfg=mutant_{chosen}");
        println!("cargo::warning=logdrive-shard is built with the bug `{chosen}`");
    }
}
