//! Snapshots happen in simulated runs, all of their steps, and nothing is lost by it.

use logdrive_tools::sim::many::{Manner, run_many};
use logdrive_tools::sim::plan::{Plan, Profile};

/// What must be met in the seeds below; a run of which one is missing tests less than it seems to.
const PATHS: [&str; 8] = [
    "snapshots written",
    "logs cut",
    "starts from a snapshot",
    "transfers begun",
    "snapshots installed",
    "snapshots failed",
    "crashes between steps of a snapshot",
    "snapshot parts taken",
];

#[test]
fn snapshots_are_written_sent_installed_and_damaged_and_all_members_end_equal() {
    let plan =
        |seed| Plan { ticks: 12_000, ..Plan::new([Profile::Disk, Profile::Swarm][seed as usize % 2], seed) };
    let mut told = Vec::new();
    let manner = Manner { jobs: 2, until_broken: false, json: false };
    let (summary, first, _) = run_many(0..24, manner, &plan, &mut told);
    assert!(first.is_none(), "{}", String::from_utf8_lossy(&told));
    let table = summary.table();
    for path in PATHS {
        assert!(summary.reached.get(path).is_some_and(|count| *count > 0), "{path} was never met:\n{table}");
    }
    for fault in ["snapshots ordered", "snapshot damaged", "snapshot disk fault"] {
        assert!(summary.struck.get(fault).is_some_and(|count| *count > 0), "{fault} never struck:\n{table}");
    }
}
