//! Executors that park with tasks that are ready: a machine that puts a core's thread aside between its look at the rings and its first task
//! does that to it now and then, and a very short preemption timer all the time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod engine_common;

use std::time::Duration;

use engine_common::{Cluster, eventually};

#[test]
fn a_node_that_nobody_sends_anything_turns_though_its_executor_parks_with_work_to_do() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.settings(1).runtime.preempt_timer = Duration::from_micros(20);
    cluster.start_node(1);
    for round in 0..20 {
        cluster.set(1, "a", &round.to_string());
    }
    eventually("it was roused", || (cluster.engine(1).counters().executors_roused > 0).then_some(()));
    cluster.set(1, "a", "and goes on");
}
