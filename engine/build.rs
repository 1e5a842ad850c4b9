//! Declares the mutants: bugs that can be compiled in, so that the tests can be shown to catch them (`src/mutant.rs`).
//! `LOGDRIVE_ENGINE_MUTANT=<name>` turns one on for this crate alone; `--cfg mutant_<name>` does the same for everything.

const MUTANTS: [&str; 10] = [
    "durable_when_written",
    "vouches_early",
    "lease_by_old_clock",
    "applies_undurable",
    "loss_unnoticed",
    "retired_forgets_vote",
    "joint_answered_early",
    "lane_reordered",
    "port_life_ignored",
    "refusal_keeps_room",
];

fn main() {
    println!("cargo::rerun-if-env-changed=LOGDRIVE_ENGINE_MUTANT");
    println!("cargo::rerun-if-changed=build.rs");
    for mutant in MUTANTS {
        println!("cargo::rustc-check-cfg=cfg(mutant_{mutant})");
    }
    if let Ok(chosen) = std::env::var("LOGDRIVE_ENGINE_MUTANT") {
        assert!(MUTANTS.contains(&chosen.as_str()), "no such mutant: {chosen}; there are {MUTANTS:?}");
        println!("cargo::rustc-cfg=mutant_{chosen}");
        println!("cargo::warning=logdrive is built with the bug `{chosen}`");
    }
}
