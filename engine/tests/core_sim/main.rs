//! `Core` under a first simulation: whole clusters in one thread, over simulated disks, a simulated network and a simulated clock, with
//! the real log and the real codecs.
//!
//! Every run is made from a seed. When one fails it prints the command that repeats it; `LOGDRIVE_SIM_SEED` runs one seed,
//! `LOGDRIVE_SIM_SEEDS` changes how many are run, `LOGDRIVE_SIM_TRACE=1` tells what happens.

mod chaos;
mod checker;
mod clients;
mod cores;
mod machine;
mod network;
mod stories;
mod world;

use world::Plan;

/// Prints how to repeat a run if it ends in a panic.
struct Replay {
    test: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { test, seed } = self;
            eprintln!(
                "repeat with: LOGDRIVE_SIM_SEED={seed} cargo test -p logdrive --test core_sim -- {test}"
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs many seeds, or the one that was asked for.
fn for_seeds(test: &'static str, from: u64, count: u64, run: impl Fn(u64)) {
    let count = number("LOGDRIVE_SIM_SEEDS").unwrap_or(count);
    let seeds = match number("LOGDRIVE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + count,
    };
    for seed in seeds {
        let _replay = Replay { test, seed };
        run(seed);
    }
}

fn plan(seed: u64, nodes: u32) -> Plan {
    Plan {
        seed,
        nodes,
        groups: 5,
        clients: 8,
        three_voter_groups: nodes > 3,
        disks_fail: false,
        log_bytes: 64 << 20,
    }
}

/// What runs have exercised; printed, so that one sees whether they still do.
#[derive(Debug, Default)]
#[allow(dead_code)]
struct Sums {
    acknowledged: u64,
    indeterminate: u64,
    refused: u64,
    reads: u64,
    cold_entries: u64,
    dropped: u64,
    held_back: u64,
    busy: u64,
}

fn chaos(test: &'static str, nodes: u32, disks_fail: bool, from: u64, count: u64) {
    let sums = std::cell::RefCell::new(Sums::default());
    for_seeds(test, from, count, |seed| {
        let world = chaos::run(Plan { disks_fail, ..plan(seed, nodes) }, 12);
        let (checker, totals, mut sums) = (world.checker.borrow(), world.totals(), sums.borrow_mut());
        sums.acknowledged += checker.acknowledged;
        sums.indeterminate += checker.indeterminate;
        sums.refused += checker.refused;
        sums.reads += checker.reads;
        sums.cold_entries += totals[0];
        sums.dropped += totals[1];
        sums.held_back += totals[2];
        sums.busy += totals[3];
    });
    println!("{nodes} nodes: {:?}", sums.into_inner());
}

#[test]
fn five_nodes_in_chaos() {
    chaos("five_nodes_in_chaos", 5, false, 1, 60);
}

#[test]
fn three_nodes_in_chaos() {
    chaos("three_nodes_in_chaos", 3, false, 1_000, 70);
}

#[test]
fn disks_fail_in_chaos() {
    chaos("disks_fail_in_chaos", 3, true, 2_000, 70);
}

#[test]
fn a_seed_repeats() {
    for seed in 1..4 {
        let digests = [(); 2].map(|()| chaos::run(plan(seed, 3), 6).digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}
