//! What a step costs: 1,024 groups of three, one proposal after the other, each in a group that is no longer in the nearest cache.
//! `cargo run --release -p logdrive-shard --example step_cost`

#[path = "../tests/steady/mod.rs"]
mod steady;

use steady::Trio;

const GROUPS: usize = 1_024;
const ROUNDS: u64 = 300;

#[allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn main() {
    let mut trios: Vec<Trio> = (0..GROUPS).map(|_| Trio::elected()).collect();
    let steps = |trios: &[Trio]| trios.iter().map(|trio| trio.steps).sum::<u64>();
    for width in [1, 2, 4, 16] {
        let (before, start) = (steps(&trios), std::time::Instant::now());
        for _ in 0..ROUNDS {
            for trio in &mut trios {
                trio.commit_pipelined(width);
            }
        }
        let nanos = start.elapsed().as_nanos() as u64;
        let steps = steps(&trios) - before;
        let proposals = ROUNDS * GROUPS as u64 * u64::from(width);
        println!(
            "{width:>2} in flight: {} ns per step, {} ns and {:.1} steps per proposal on three members",
            nanos / steps,
            nanos / proposals,
            steps as f64 / proposals as f64
        );
    }
}
