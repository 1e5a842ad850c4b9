//! SIGTERM: leaders are handed over, the process ends with 0, and the next start is quick.

use std::ops::Range;
use std::time::Duration;

use crate::cluster::{Cluster, Shape, now, patience, wait_for};

/// With this preset nobody would campaign before two seconds are over.
const ELECTION_BASE: Duration = Duration::from_secs(2);

/// Writes keys through a new client, which learns of the nodes that are there.
fn set(cluster: &Cluster, keys: Range<u32>) {
    let mut client = cluster.addresses().client();
    for n in keys {
        redis::cmd("SET").arg(format!("key:{n}")).arg(n).exec(&mut client).unwrap();
    }
}

#[test]
fn sigterm_hands_leaders_over_and_ends_with_0() {
    let mut cluster = Cluster::start(Shape { timing: "wan", ..Shape::default() });
    wait_for("node 1 to lead something", || cluster.nodes[0].count("leaders").filter(|leaders| *leaders > 0));
    set(&cluster, 0..100);

    cluster.nodes[0].stop();
    let stopped = now();
    cluster.wait_for_leaders();
    let took = stopped.elapsed();
    assert!(
        took < ELECTION_BASE,
        "leaders were found after {took:?}, by elections: they were not handed over"
    );
    set(&cluster, 100..200);

    let started = now();
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    assert!(started.elapsed() < patience() / 4, "a clean start took {:?}", started.elapsed());
    cluster.wait_for_equal_digests();
    wait_for("node 1 to lead again", || cluster.nodes[0].count("leaders").filter(|leaders| *leaders > 0));
    cluster.nodes.iter_mut().for_each(|node| node.stop());
}

#[test]
fn a_whole_cluster_stops_and_starts_with_everything_it_had() {
    let mut cluster = Cluster::start(Shape::default());
    set(&cluster, 0..500);
    cluster.nodes.iter_mut().for_each(|node| node.stop());
    cluster.nodes.iter_mut().for_each(|node| node.spawn(false));
    cluster.nodes.iter_mut().for_each(|node| node.wait_ready());
    cluster.wait_for_leaders();
    let mut client = cluster.addresses().client();
    for n in 0..500 {
        let value: Option<u32> = redis::cmd("GET").arg(format!("key:{n}")).query(&mut client).unwrap();
        assert_eq!(value, Some(n));
    }
}
