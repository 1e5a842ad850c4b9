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
use common::chaos::for_seeds;

const STEPS: u32 = 1_500;

#[test]
fn what_clients_see_is_linearizable() {
    let mut counted = Counted::default();
    let mut runs = 0;
    for_seeds("linear", 1_000, |chaos| {
        let mut clients = Clients::new(4);
        for _ in 0..STEPS {
            chaos.step(&mut |chaos| clients.turn(chaos));
            clients.watch(chaos);
        }
        chaos.heal();
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
