//! A cluster with much in it: a node that was away while a large part was written anew, and a new and empty one, are brought up by
//! snapshots while clients write, and every key is the same everywhere.
//!
//! How much is up to the environment: `LOGDRIVE_GROWN_MIB` of values of 1 KiB (16), half as much written while the node is away, in
//! `LOGDRIVE_GROWN_GROUPS` groups (32). The times are printed; `LOGDRIVE_PATIENCE_S` is what each step may take.

use crate::admin::{DONE, ask};
use crate::catchup::{logs, wait_for_cuts};
use crate::cluster::{Addresses, Cluster, Shape, now, wait_for};
use crate::crash::{check_cluster, check_node, wait_for_writes};
use crate::members::{has_voters, join_another, under_load};

const VALUE_BYTES: usize = 1024;
/// Keys in one pipeline.
const PIPELINE: u64 = 256;
/// Threads that write and read in bulk.
const THREADS: u64 = 4;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

struct Size {
    groups: u64,
    keys: u64,
}

impl Size {
    fn get() -> Size {
        let mib = from_environment("LOGDRIVE_GROWN_MIB", 16);
        Size {
            groups: from_environment("LOGDRIVE_GROWN_GROUPS", 32),
            keys: mib * (1 << 20) / VALUE_BYTES as u64,
        }
    }

    /// A group's log is cut after a fifth of what the group holds, so that the second half of the writing cuts it beyond its end.
    fn shape(&self) -> Shape {
        let every = (self.keys * VALUE_BYTES as u64 / self.groups / 5).max(4096);
        let more =
            format!("[snapshots]\nevery_entries = 0\nevery_bytes = {every}\nkeep_trailing_entries = 5\n");
        Shape { groups: self.groups, more: more.leak(), ..Shape::default() }
    }
}

fn key(n: u64) -> String {
    format!("grown:{n}")
}

/// What does not compress, and tells where it belongs.
fn value(n: u64, version: u64) -> String {
    let mut text = format!("{n} {version} ");
    let mut state = n ^ (version << 40);
    while text.len() < VALUE_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:016x}", state ^ (state >> 29)));
    }
    text.truncate(VALUE_BYTES);
    text
}

/// Cuts the keys into pipelines and works on them with some threads; what fails is done again, for it may be done twice.
fn in_bulk(
    addresses: &Addresses,
    keys: std::ops::Range<u64>,
    work: impl Fn(&mut redis::cluster::ClusterConnection, std::ops::Range<u64>) -> redis::RedisResult<()> + Sync,
) {
    let run = |thread: u64| {
        let mut client = addresses.client();
        let mut first = keys.start + thread * PIPELINE;
        while first < keys.end {
            let part = first..(first + PIPELINE).min(keys.end);
            wait_for("a pipeline to be answered", || match work(&mut client, part.clone()) {
                Ok(()) => Some(()),
                Err(error) => {
                    eprintln!("keys {part:?}: {error}");
                    client = addresses.client();
                    None
                }
            });
            first += THREADS * PIPELINE;
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|thread| _ = scope.spawn(move || run(thread))));
}

fn write(addresses: &Addresses, keys: std::ops::Range<u64>, version: u64) {
    in_bulk(addresses, keys, |client, part| {
        let mut pipe = redis::cluster::cluster_pipe();
        for n in part {
            pipe.set(key(n), value(n, version)).ignore();
        }
        pipe.query(client)
    });
}

fn check(addresses: &Addresses, keys: std::ops::Range<u64>, version: u64) {
    in_bulk(addresses, keys, |client, part| {
        let mut pipe = redis::cluster::cluster_pipe();
        for n in part.clone() {
            pipe.get(key(n));
        }
        let values: Vec<Option<String>> = pipe.query(client)?;
        for (n, found) in part.zip(values) {
            assert_eq!(found, Some(value(n, version)), "acknowledged and lost: {}", key(n));
        }
        Ok(())
    });
}

/// Does it, and says how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = now();
    let result = work();
    println!("{:8.1} s  {what}", begin.elapsed().as_secs_f64());
    result
}

/// So many snapshots were installed, and nothing is on its way any more.
fn wait_until_brought_up(cluster: &Cluster, node: usize) {
    let groups = cluster.shape.groups;
    wait_for("every group to be brought up by a snapshot", || {
        cluster.nodes[node].count("snapshots_installed").filter(|installed| *installed >= groups)
    });
}

#[test]
fn a_node_that_was_away_and_a_new_one_are_brought_up_by_snapshots_while_clients_write() {
    let size = Size::get();
    let mut cluster = Cluster::start(size.shape());
    let addresses = cluster.addresses();
    println!("{} groups, {} keys of {VALUE_BYTES} bytes", size.groups, size.keys);
    timed("all keys are written", || write(&addresses, 0..size.keys, 0));
    let anew = 0..size.keys / 2;
    let written = under_load(&mut cluster, |cluster, acknowledged| {
        cluster.nodes[2].kill();
        let before = logs(cluster);
        timed("half of them are written anew while node 3 is away", || write(&addresses, anew.clone(), 1));
        timed("all logs are cut beyond its end", || wait_for_cuts(cluster, &before));
        cluster.nodes[2].spawn(false);
        timed("node 3 starts", || cluster.nodes[2].wait_ready());
        timed("node 3 is brought up", || wait_until_brought_up(cluster, 2));
        wait_for_writes(acknowledged);
        join_another(cluster);
        cluster.nodes[1].kill();
        timed("node 4 replaces node 2", || {
            let (code, outcome) = ask(cluster, &["group", "replace", "all", "2", "4", "--wait"]);
            assert_eq!((code, &outcome["done"]), (DONE, &size.groups.into()), "{outcome}");
        });
        wait_until_brought_up(cluster, 3);
        wait_for_writes(acknowledged);
    });
    assert!(has_voters(&cluster, &[1, 3, 4]));
    cluster.wait_for_leaders();
    timed("the digests of all groups are equal", || cluster.wait_for_equal_digests_of(&[0, 2, 3]));
    timed("every key is read back", || {
        check(&addresses, anew.clone(), 1);
        check(&addresses, anew.end..size.keys, 0);
    });
    check_cluster(&addresses, &written);
    check_node(&cluster.nodes[2], &written);
    check_node(&cluster.nodes[3], &written);
}
