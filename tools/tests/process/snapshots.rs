//! A node that takes snapshots all the time: its log stays within bounds, and a `kill -9` loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::Commands;

use crate::admin::{DONE, ask};
use crate::cluster::{Addresses, Cluster, Node, Shape, logdrive, text, wait_for};
use crate::crash::StopGuard;

/// Far below the defaults, so that all of it happens in seconds: the log holds 10 MiB at most.
const OFTEN: &str = "[log]\nsegment_bytes = \"1 MiB\"\nbatch_bytes = \"64 KiB\"\nbudget_bytes = \"10 MiB\"\n\
     [limits]\npayload_bytes = \"16 KiB\"\ncache_bytes = \"1 MiB\"\n\
     [snapshots]\nevery_entries = 100\nevery_bytes = \"512 KiB\"\nkeep_trailing_entries = 20\n";
const BUDGET_BYTES: u64 = 10 << 20;
/// Beside the segments: a segment that is being made, small files.
const SLACK_BYTES: u64 = 2 << 20;
const WRITERS: u64 = 4;
/// Written again and again, so that the state is much smaller than what goes through the log.
const KEYS_PER_WRITER: u64 = 100;
const VALUE_BYTES: usize = 4 << 10;
/// What goes through the log between two kills, in all more than it holds.
const BYTES_BETWEEN: u64 = 6 << 20;
const ROUNDS: u64 = 3;

fn key(writer: u64, n: u64) -> String {
    format!("w{writer}:{}", n % KEYS_PER_WRITER)
}

fn value(writer: u64, n: u64) -> String {
    let mut value = format!("{n} of {writer} ");
    while value.len() < VALUE_BYTES {
        value.push_str("and so on ");
    }
    value
}

/// What a key may be: the last write that was acknowledged, or a later one whose outcome is unknown.
#[derive(Default)]
struct Written {
    acknowledged: Option<u64>,
    unknown: Vec<u64>,
}

/// Sets keys one after the other, around and around, until told to stop.
fn write(addresses: &Addresses, writer: u64, stop: &AtomicBool) -> BTreeMap<u64, Written> {
    let mut client = addresses.client();
    let mut written: BTreeMap<u64, Written> = BTreeMap::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let entry = written.entry(n % KEYS_PER_WRITER).or_default();
        match client.set::<_, _, ()>(key(writer, n), value(writer, n)) {
            Ok(()) => *entry = Written { acknowledged: Some(n), unknown: Vec::new() },
            Err(_) => {
                entry.unknown.push(n);
                client = addresses.client();
            }
        }
    }
    written
}

/// Every key as the node answers it.
fn check(node: &Node, written: &[BTreeMap<u64, Written>]) {
    let mut connection = node.connect().unwrap();
    for (writer, keys) in (0..).zip(written) {
        for (&n, entry) in keys {
            let found: Option<String> = connection.get(key(writer, n)).unwrap();
            let may_be = [entry.acknowledged].into_iter().chain(entry.unknown.iter().copied().map(Some));
            let known = may_be.map(|n| n.map(|n| value(writer, n))).any(|value| found == value);
            let found = found.map(|value| value.chars().take(20).collect::<String>());
            assert!(known, "{} is {found:?}, acknowledged was {:?}", key(writer, n), entry.acknowledged);
        }
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let size = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        // It may be gone already: old files are removed all the time.
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    std::fs::read_dir(dir).unwrap().filter_map(Result::ok).map(size).sum()
}

#[test]
fn a_node_under_load_that_takes_snapshots_and_is_killed_serves_all_keys_in_a_bounded_log() {
    let shape = Shape { nodes: 1, groups: 4, more: OFTEN, ..Shape::default() };
    let mut cluster = Cluster::start(shape);
    let addresses = cluster.addresses();
    let stop = AtomicBool::new(false);
    let mut through_the_log = 0;
    let written: Vec<_> = std::thread::scope(|scope| {
        let stop_at_end = StopGuard(&stop);
        let start = |writer| {
            let (addresses, stop) = (&addresses, &stop);
            scope.spawn(move || write(addresses, writer, stop))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        for _ in 0..ROUNDS {
            let node = &mut cluster.nodes[0];
            let taken = wait_for("megabytes to be written, and snapshots of them", || {
                let (bytes, taken) = (node.count("log_write_bytes")?, node.count("snapshots_written")?);
                (bytes >= BYTES_BETWEEN && taken > 0).then_some(bytes)
            });
            through_the_log += taken;
            let log = bytes_below(&node.dir.join("core-0"));
            assert!(log <= BUDGET_BYTES + SLACK_BYTES, "the log takes {log} bytes");
            node.kill();
            node.spawn(false);
            node.wait_ready();
        }
        drop(stop_at_end);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(through_the_log > BUDGET_BYTES, "{through_the_log} bytes are less than the log holds");
    cluster.wait_for_leaders();
    check(&cluster.nodes[0], &written);

    // What the log begins with is in snapshots, and only there.
    let (code, groups) = ask(&cluster, &["group", "show", "all"]);
    assert_eq!(code, DONE, "{groups}");
    for group in groups.as_array().unwrap() {
        let (index, first) = (group["snapshot"]["index"].as_u64(), group["snapshot"]["log_first"].as_u64());
        assert!(first.unwrap() > 1 && index.unwrap() + 1 >= first.unwrap(), "{group}");
    }
    let (code, digests) = ask(&cluster, &["group", "digest", "all"]);
    assert_eq!((code, &digests["equal"]), (DONE, &4.into()), "{digests}");

    cluster.nodes[0].kill();
    let dir = cluster.nodes[0].dir.to_str().unwrap().to_owned();
    let verified = logdrive(&["snapshot", "verify", &dir]);
    let said = text(&verified.stdout) + &text(&verified.stderr);
    assert_eq!(verified.status.code(), Some(DONE), "{said}");
    assert!(said.contains(" 0 damaged"), "{said}");
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    cluster.wait_for_leaders();
    check(&cluster.nodes[0], &written);
    cluster.nodes[0].stop();
}
