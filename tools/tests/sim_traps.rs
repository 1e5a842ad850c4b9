//! Traps strike in simulated runs, production code does its worst where it is told to, and what hardly ever happens is reached.

use logdrive_tools::sim::buggify::PLACES;
use logdrive_tools::sim::many::{Manner, run_many};
use logdrive_tools::sim::plan::{Plan, Profile};
use logdrive_tools::sim::traps::Trap;

/// What must be met in the seeds below.
const PATHS: [&str; 3] = ["crashes while starting", "sockets full", "cache evictions"];

#[test]
fn every_trap_strikes_and_every_place_does_its_worst_and_nothing_is_lost() {
    let plan = |seed| Plan {
        ticks: 9_000,
        ..Plan::new([Profile::Membership, Profile::Disk][seed as usize % 2], seed)
    };
    let mut told = Vec::new();
    let manner = Manner { jobs: 2, until_broken: false, json: false };
    let (summary, first, _) = run_many(104..130, manner, &plan, &mut told);
    assert!(first.is_none(), "{}", String::from_utf8_lossy(&told));
    let table = summary.table();
    for trap in Trap::ALL {
        let struck = summary.struck.get(trap.name()).copied().unwrap_or(0);
        assert!(struck > 0, "{} never struck:\n{table}", trap.name());
    }
    for path in PLACES.iter().map(|(_, path, _)| *path).chain(PATHS) {
        assert!(summary.reached.get(path).is_some_and(|count| *count > 0), "{path} was never met:\n{table}");
    }
}
