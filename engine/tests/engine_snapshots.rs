//! Snapshots on real files: a node that crashed and one that was stopped go on from them.

#![allow(clippy::unwrap_used)]

mod engine_common;

use engine_common::{Cluster, eventually, log_to_stderr};
use futures_lite::future::block_on;
use logdrive_shard::LogIndex;

/// Files of snapshots below the cluster's directory.
fn files(cluster: &Cluster) -> usize {
    let (mut dirs, mut found) = (vec![cluster.path().to_owned()], 0);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found += usize::from(path.extension().is_some_and(|extension| extension == "snapshot"));
            dirs.extend(path.is_dir().then_some(path));
        }
    }
    found
}

#[test]
fn a_crashed_node_goes_on_from_its_snapshots_and_a_log_that_was_cut() {
    log_to_stderr();
    let mut cluster = Cluster::new(3, 1, 4);
    for id in 1..=3 {
        let snapshots = &mut cluster.settings(id).core.snapshots;
        (snapshots.every_entries, snapshots.keep_trailing_entries) = (64, 8);
        cluster.start_node(id);
    }
    cluster.await_leaders();
    for n in 0..200 {
        for group in 1..=4 {
            cluster.set(group, &format!("key {}", n % 50), &format!("value {n}"));
        }
    }
    for group in 1..=4 {
        let taken = block_on(cluster.group(2, group).snapshot()).unwrap();
        assert!(taken > LogIndex(100));
        let status = || Some(block_on(cluster.group(2, group).status()).unwrap().snapshot);
        let status = eventually("the log is cut", || status().filter(|s| s.log_first > LogIndex(50)));
        assert!(status.index >= taken && status.file_bytes > 0);
    }
    assert!(files(&cluster) >= 4);
    cluster.crash(2);
    cluster.shutdown(3);
    cluster.start_node(2);
    cluster.start_node(3);
    cluster.await_leaders();
    for group in 1..=4 {
        assert_eq!(cluster.get(group, "key 49").as_deref(), Some("value 199"));
        cluster.set(group, "after", "that");
    }
    cluster.await_equal();
    for group in 1..=4 {
        let status = block_on(cluster.group(2, group).status()).unwrap().snapshot;
        assert!(status.log_first > LogIndex(50), "{status:?}");
    }
}
