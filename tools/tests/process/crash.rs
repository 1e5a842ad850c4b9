//! Nodes are killed with `kill -9` under load: nothing that was acknowledged is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::Commands;

use crate::cluster::{Addresses, Cluster, Shape, wait_for};

const WRITERS: u64 = 8;
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

/// Writes new keys until told to stop; returns the numbers of those that were acknowledged. What failed has an unknown
/// outcome and is not written again.
fn write(cluster: &Addresses, writer: u64, acknowledged: &AtomicU64, stop: &AtomicBool) -> Vec<u64> {
    let mut client = cluster.client();
    let mut done = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match client.set::<_, _, ()>(key(writer, n), format!("value {n} of {writer}")) {
            Ok(()) => {
                done.push(n);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => client = cluster.client(),
        }
    }
    done
}

fn wait_for_writes(acknowledged: &AtomicU64) {
    let from = acknowledged.load(Ordering::Relaxed);
    wait_for("writes to be acknowledged", || {
        (acknowledged.load(Ordering::Relaxed) >= from + WRITES_BETWEEN).then_some(())
    });
}

/// Every acknowledged write, as one connection sees it.
fn check_all(connection: &mut impl redis::ConnectionLike, written: &[Vec<u64>], where_: &str) {
    for (writer, numbers) in (0..).zip(written) {
        for chunk in numbers.chunks(PIPELINE) {
            let mut pipe = redis::pipe();
            for n in chunk {
                pipe.get(key(writer, *n));
            }
            let values: Vec<Option<String>> = pipe.query(connection).unwrap();
            for (n, value) in chunk.iter().zip(values) {
                let expected = format!("value {n} of {writer}");
                assert_eq!(value, Some(expected), "acknowledged, but not {where_}: {}", key(writer, *n));
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_random_nodes_are_killed() {
    let mut cluster = Cluster::start(Shape::default());
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut random = SEED;
    // The writers know only the addresses, which stay the same while nodes come and go.
    let addresses = cluster.addresses();
    let written: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let stop_at_end = StopGuard(&stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (addresses, acknowledged, stop) = (&addresses, &acknowledged, &stop);
                scope.spawn(move || write(addresses, writer, acknowledged, stop))
            })
            .collect();
        for _ in 0..ROUNDS {
            wait_for_writes(&acknowledged);
            let victim = (next_random(&mut random) % u64::from(cluster.shape.nodes)) as usize;
            cluster.nodes[victim].kill();
            wait_for_writes(&acknowledged);
            cluster.nodes[victim].spawn(false);
            cluster.nodes[victim].wait_ready();
        }
        wait_for_writes(&acknowledged);
        drop(stop_at_end);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests();
    check_all(&mut addresses.client(), &written, "in the cluster");
    for node in &cluster.nodes {
        let mut connection = node.connect().unwrap();
        redis::cmd("READONLY").exec(&mut connection).unwrap();
        check_all(&mut connection, &written, &format!("on node {}", node.id));
    }
}

/// Ends the writers when the test ends, however it does: the scope waits for them.
struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
