//! Runs of the simulator: the same seed is the same run.

use logdrive_tools::sim::plan::{Plan, Profile};
use logdrive_tools::sim::run::run;

#[test]
fn the_same_seed_is_the_same_run() {
    for (seed, profile) in Profile::ALL.into_iter().filter(|profile| *profile != Profile::Scale).enumerate() {
        let plan = Plan { ticks: 3_000, ..Plan::new(profile, 50 + seed as u64) };
        let [one, other] = [(); 2].map(|()| run(&plan));
        assert_eq!((one.hash, one.turns), (other.hash, other.turns), "{profile} seed {}", plan.seed);
    }
}
