//! Nodes are killed with `kill -9` under load: nothing that was acknowledged is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::Commands;
use rustix::process::Signal;

use crate::cluster::{Addresses, Cluster, Node, Shape, wait_for};

pub(crate) const WRITERS: u64 = 8;
/// Kills, each of a random node.
const ROUNDS: u64 = 5;
/// Writes acknowledged between two events: with all nodes, and with one of them dead.
const WRITES_BETWEEN: u64 = 300;
/// A fixed seed: which node is killed when is the same in every run, what happens is not.
const SEED: u64 = 0x5eed;
/// Keys read in one pipeline.
const PIPELINE: usize = 256;

/// A small generator for the choice of the victim.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn key(writer: u64, n: u64) -> String {
    format!("w{writer}:{n}")
}

fn value(writer: u64, n: u64) -> String {
    format!("value {n} of {writer}")
}

/// Writes new keys until told to stop; returns the numbers of those that were acknowledged. What failed has an unknown
/// outcome and is not written again.
pub(crate) fn write(
    cluster: &Addresses,
    writer: u64,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<u64> {
    let mut client = cluster.client();
    let mut done = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match client.set::<_, _, ()>(key(writer, n), value(writer, n)) {
            Ok(()) => {
                done.push(n);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => client = cluster.client(),
        }
    }
    done
}

pub(crate) fn wait_for_writes(acknowledged: &AtomicU64) {
    let from = acknowledged.load(Ordering::Relaxed);
    wait_for("writes to be acknowledged", || {
        (acknowledged.load(Ordering::Relaxed) >= from + WRITES_BETWEEN).then_some(())
    });
}

/// Every acknowledged write, as a node has it, whoever leads.
pub(crate) fn check_node(node: &Node, written: &[Vec<u64>]) {
    let mut connection = node.connect().unwrap();
    redis::cmd("READONLY").exec(&mut connection).unwrap();
    for (writer, numbers) in (0..).zip(written) {
        for chunk in numbers.chunks(PIPELINE) {
            let mut pipe = redis::pipe();
            for n in chunk {
                pipe.get(key(writer, *n));
            }
            let values: Vec<Option<String>> = pipe.query(&mut connection).unwrap();
            for (n, found) in chunk.iter().zip(values) {
                let lost = format!("acknowledged, but not on node {}: {}", node.id, key(writer, *n));
                assert_eq!(found, Some(value(writer, *n)), "{lost}");
            }
        }
    }
}

/// Every acknowledged write, as the cluster's leaders answer.
pub(crate) fn check_cluster(addresses: &Addresses, written: &[Vec<u64>]) {
    let mut client = addresses.client();
    for (writer, numbers) in (0..).zip(written) {
        for n in numbers {
            let found: Option<String> = client.get(key(writer, *n)).unwrap();
            assert_eq!(found, Some(value(writer, *n)), "acknowledged and lost: {}", key(writer, *n));
        }
    }
}

/// Writes under load while `events` happen, and then looks for every acknowledged write: through the leaders, and on each node
/// once all have caught up.
fn check_under_load(shape: Shape, events: impl FnOnce(&mut Cluster, &AtomicU64)) {
    let mut cluster = Cluster::start(shape);
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // The writers know only the addresses, which stay the same while nodes come and go.
    let addresses = cluster.addresses();
    let written: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let stop_at_end = StopGuard(&stop);
        let start = |writer| {
            let (addresses, acknowledged, stop) = (&addresses, &acknowledged, &stop);
            scope.spawn(move || write(addresses, writer, acknowledged, stop))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        events(&mut cluster, &acknowledged);
        wait_for_writes(&acknowledged);
        drop(stop_at_end);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests();
    check_cluster(&addresses, &written);
    cluster.nodes.iter().for_each(|node| check_node(node, &written));
}

/// Ends the writers when the test ends, however it does: the scope waits for them.
pub(crate) struct StopGuard<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_random_nodes_are_killed() {
    check_under_load(Shape::default(), |cluster, acknowledged| {
        let mut random = SEED;
        for _ in 0..ROUNDS {
            wait_for_writes(acknowledged);
            let victim = (next_random(&mut random) % u64::from(cluster.shape.nodes)) as usize;
            cluster.nodes[victim].kill();
            wait_for_writes(acknowledged);
            cluster.nodes[victim].spawn(false);
            cluster.nodes[victim].wait_ready();
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once() {
    check_under_load(Shape { cores: 2, ..Shape::default() }, |cluster, acknowledged| {
        for _ in 0..ROUNDS {
            wait_for_writes(acknowledged);
            cluster.nodes.iter().for_each(|node| node.signal(Signal::KILL));
            cluster.nodes.iter_mut().for_each(|node| _ = node.wait_end());
            cluster.nodes.iter_mut().for_each(|node| node.spawn(false));
            cluster.nodes.iter_mut().for_each(Node::wait_ready);
        }
    });
}

#[test]
fn with_two_of_three_killed_stale_reads_go_on_and_one_restart_restores_writes() {
    let mut cluster = Cluster::start(Shape::default());
    cluster.addresses().client().set::<_, _, ()>("key", "value").unwrap();
    cluster.wait_for_equal_digests();
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let mut survivor = cluster.nodes[2].connect().unwrap();
    let mut last = String::new();
    let refused = wait_for("the survivor to know that it is alone", || {
        let set: redis::RedisResult<()> = redis::cmd("SET").arg("key").arg("lost?").query(&mut survivor);
        let error = set.expect_err("one of three acknowledged a write");
        if error.to_string() != last {
            last = error.to_string();
            println!("the survivor says: {last}");
        }
        // A redirect to a leader that is dead is an answer as well, until its death is noticed.
        error.code().filter(|code| *code != "MOVED").map(str::to_owned)
    });
    assert!(["CLUSTERDOWN", "INDETERMINATE"].contains(&refused.as_str()), "{refused}");
    redis::cmd("READONLY").exec(&mut survivor).unwrap();
    assert_eq!(survivor.get::<_, String>("key").unwrap(), "value");
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    cluster.wait_for_leaders();
    cluster.addresses().client().set::<_, _, ()>("key", "new").unwrap();
}
