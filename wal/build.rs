//! Declares the mutants: bugs that can be compiled in, so that the tests can be shown to catch them (`src/mutant.rs`).
//! `LOGDRIVE_MUTANT=<name>` turns one on for this crate alone; `--cfg mutant_<name>` does the same for everything.

const MUTANTS: [&str; 10] = [
    "failed_write_repeated",
    "old_segment_unsynced",
    "directory_unsynced",
    "cut_acknowledged",
    "unchained",
    "recovery_unflushed",
    "empty_segment_recycled",
    "rewrite_not_atomic",
    "tombstones_lost",
    "trim_unsettled",
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
        println!("cargo::warning=logdrive-wal is built with the bug `{chosen}`");
    }
}
