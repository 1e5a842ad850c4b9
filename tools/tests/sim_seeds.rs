//! Seeds of all profiles run clean, and what they are made of is not nothing.

use std::collections::BTreeSet;

use logdrive_tools::sim::many::{Manner, run_many};
use logdrive_tools::sim::plan::{Plan, Profile};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// `LOGDRIVE_SIM_ALL_SEEDS` says how many seeds, `LOGDRIVE_SIM_FROM` the first one, `LOGDRIVE_SIM_TICKS` how long troubles go on in each.
#[test]
fn seeds_of_all_profiles_run_clean() {
    let (from, seeds) = (number("LOGDRIVE_SIM_FROM", 0), number("LOGDRIVE_SIM_ALL_SEEDS", 8));
    let ticks = number("LOGDRIVE_SIM_TICKS", 3_000);
    let profile = |seed: u64| match Profile::ALL[(seed % Profile::ALL.len() as u64) as usize] {
        // A thousand groups take longer than a test may.
        Profile::Scale if seeds < 100 => Profile::Disk,
        profile => profile,
    };
    let plan = |seed| Plan { ticks, ..Plan::new(profile(seed), seed) };
    let mut told = Vec::new();
    let manner = Manner { jobs: 2, until_broken: false, json: false };
    let (summary, first, took) = run_many(from..from + seeds, manner, &plan, &mut told);
    println!("{}\n{}", summary.table(), summary.rates(took.as_secs_f64()));
    assert!(first.is_none(), "{}", String::from_utf8_lossy(&told));
    assert_eq!(summary.runs, seeds);
    let struck: BTreeSet<_> = summary.struck.keys().collect();
    assert!(struck.len() >= 10, "hardly anything struck: {struck:?}");
}
