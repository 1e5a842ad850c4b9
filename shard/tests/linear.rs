//! Linearizability, judged by a checker of others (`todc-utils`: Wing and Gong's algorithm as extended by Lowe): clients write,
//! add and read during random runs, by all policies, some in sessions and with retries, and what they saw must be explained
//! by one order of all operations that respects time.
//!
//! `LOGDRIVE_SEED=n` runs one seed with its trace, `LOGDRIVE_SEEDS=n` so many.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod clients;
mod common;

use clients::history::Expected;
use clients::{Clients, Counted};
use common::chaos::{Chaos, for_seeds_of};

const STEPS: u32 = 1_500;

#[test]
fn what_clients_see_is_linearizable() {
    judge(Chaos::new, 1_000, |_| None, Chaos::heal);
}

/// While members come and go, disks are damaged, and nodes fail and return.
#[test]
fn what_clients_see_is_linearizable_with_everything_at_once() {
    let faults = |chaos: &mut Chaos| match chaos.dice.below(80) {
        0..8 => Some(chaos.change()),
        8 => Some(chaos.fail_and_return()),
        _ => None,
    };
    judge(Chaos::with_everything, 400, faults, Chaos::heal_members);
}

/// Runs with clients; `faults` may take a turn of theirs.
fn judge(
    new: fn(u64) -> Chaos,
    seeds: u64,
    faults: impl Fn(&mut Chaos) -> Option<Option<()>>,
    heal: fn(&mut Chaos),
) {
    let (mut counted, mut runs) = (Counted::default(), 0);
    for_seeds_of(new, "linear", seeds, |chaos| {
        let mut clients = Clients::new(4);
        for _ in 0..STEPS {
            chaos.step(&mut |chaos| faults(chaos).unwrap_or_else(|| clients.turn(chaos)));
            clients.watch(chaos);
        }
        heal(chaos);
        clients.watch(chaos);
        clients.assert_linearizable();
        counted.add(&clients.counted);
        runs += 1;
    });
    println!("{runs} runs: {counted:?}");
    if runs > 1 {
        assert!(counted.all_happened(runs), "too little happens to prove anything: {counted:?}");
    }
}

#[test]
fn the_checker_would_notice_a_stale_read() {
    assert!(Expected::sees_through_a_stale_read());
}
