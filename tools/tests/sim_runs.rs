//! Runs of the simulator over a few seeds of each profile; the same seed is the same run.
//!
//! `LOGDRIVE_SIM_SEEDS` changes how many seeds each test runs.

use logdrive_tools::sim::plan::{Plan, Profile};
use logdrive_tools::sim::report;
use logdrive_tools::sim::run::run;

fn seeds(default: u64) -> u64 {
    std::env::var("LOGDRIVE_SIM_SEEDS").ok().map_or(default, |text| text.parse().expect("a number"))
}

fn all_go_well(profile: Profile, from: u64, count: u64, ticks: u64) {
    for seed in from..from + seeds(count) {
        let outcome = run(&Plan { ticks, ..Plan::new(profile, seed) });
        assert!(outcome.broken.is_none(), "{}", report::failure(&outcome));
        assert!(outcome.simulated > ticks * 1_000_000);
    }
}

#[test]
fn a_little_of_everything() {
    all_go_well(Profile::Default, 1, 4, 10_000);
}

#[test]
fn disks_fail() {
    all_go_well(Profile::Disk, 1, 4, 6_000);
}

#[test]
fn networks_fail() {
    all_go_well(Profile::Network, 1, 4, 6_000);
}

#[test]
fn members_come_and_go() {
    all_go_well(Profile::Membership, 1, 4, 6_000);
}

#[test]
fn many_groups() {
    all_go_well(Profile::Scale, 1, 1, 2_000);
}

#[test]
fn swarms() {
    all_go_well(Profile::Swarm, 1, 8, 6_000);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for (seed, profile) in Profile::ALL.into_iter().filter(|profile| *profile != Profile::Scale).enumerate() {
        let plan = Plan { ticks: 3_000, ..Plan::new(profile, 50 + seed as u64) };
        let [one, other] = [(); 2].map(|()| run(&plan));
        assert_eq!((one.hash, one.turns), (other.hash, other.turns), "{profile} seed {}", plan.seed);
    }
}
