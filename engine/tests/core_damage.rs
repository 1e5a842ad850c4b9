//! Disks that lose what they had made durable: the node opens, its groups make up for what is missing, nothing acknowledged is lost.
mod common;

use std::collections::BTreeMap;

use common::{Cluster, Setup, ms, payload};
use logdrive_shard::Random;

const GROUPS: u64 = 16;

/// A cluster with writes in every group, and what of them was acknowledged, by group.
fn written(seed: u64, writes: u64) -> (Cluster, BTreeMap<u64, Vec<Vec<u8>>>) {
    let mut cluster = Cluster::new(Setup { groups: GROUPS, seed, ..Setup::default() });
    cluster.elect();
    let mut acknowledged: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for n in 0..writes {
        let group = n % GROUPS + 1;
        let answer = cluster.write(group, &payload(n));
        assert!(answer.result.is_ok());
        acknowledged.entry(group).or_default().push(payload(n));
    }
    cluster.settle();
    (cluster, acknowledged)
}

/// The used part of a node's segments: file names with the end of their last batch.
fn used(cluster: &mut Cluster, node: u32) -> Vec<(String, u64)> {
    let platter = &cluster.node(node).platter;
    let segments = platter.list().into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let end = |name: &str| {
        let bytes = platter.read_file(name).expect("it was listed");
        bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
    };
    segments.map(|(name, _)| (name.clone(), end(&name))).filter(|(_, end)| *end > 4096).collect()
}

/// Everybody has everything that was acknowledged, and nobody misses anything.
fn assert_whole(cluster: &mut Cluster, acknowledged: &BTreeMap<u64, Vec<Vec<u8>>>) {
    cluster.settle();
    for node in 1..=3 {
        assert_eq!(cluster.core(node).status().damaged, 0, "node {node}");
        for (&group, writes) in acknowledged {
            let applied = &cluster.core(node).machine().entries[group as usize - 1];
            let mut found = applied.iter().map(|(_, payload)| payload);
            for write in writes {
                assert!(found.any(|payload| payload == write), "node {node}, group {group} lost a write");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_middle_of_a_log_is_made_up_for_by_the_leaders() {
    let (mut cluster, acknowledged) = written(3, 320);
    cluster.kill(2);
    let (name, end) = used(&mut cluster, 2).remove(0);
    // In the middle of what is used: batches lie before it and behind it.
    assert!(cluster.node(2).platter.flip(&name, (end / 2) / 4096 * 4096 + 100, 0x10));
    cluster.start(2);
    assert!(cluster.core(2).status().damaged > 0, "somebody's bytes were there");
    cluster.elect();
    cluster.run_for(ms(5_000));
    assert_whole(&mut cluster, &acknowledged);
    // And it holds: the next start finds nothing.
    cluster.kill(2);
    cluster.start(2);
    assert_eq!(cluster.core(2).status().damaged, 0);
    cluster.elect();
    assert_whole(&mut cluster, &acknowledged);
}

#[test]
fn groups_without_a_byte_in_the_damaged_place_run_on() {
    let (mut cluster, _) = written(4, 64);
    cluster.kill(2);
    let (name, end) = used(&mut cluster, 2).remove(0);
    assert!(cluster.node(2).platter.flip(&name, end - 4096 * 20, 0x01));
    cluster.start_alone(2);
    let status = cluster.core(2).status();
    assert!(
        status.damaged > 0 && status.damaged < GROUPS as u32,
        "{} of {GROUPS} are damaged",
        status.damaged
    );
}

#[test]
fn whatever_one_disk_loses_nothing_acknowledged_is_lost_and_all_come_together() {
    let seeds = std::env::var("LOGDRIVE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let (mut cluster, mut acknowledged) = written(seed, 100 + random.below(200));
        let victim = random.below(3) as u32 + 1;
        cluster.kill(victim);
        let files = used(&mut cluster, victim);
        for _ in 0..=random.below(4) {
            let (name, end) = &files[random.below(files.len() as u64) as usize];
            let at = 4096 + random.below(end - 4096);
            cluster.node(victim).platter.flip(name, at, 1 << random.below(8));
        }
        cluster.start(victim);
        cluster.elect();
        for n in 1_000..1_032 {
            let group = n % GROUPS + 1;
            let answer = cluster.write(group, &payload(n));
            assert!(answer.result.is_ok(), "seed {seed}: {answer:?}");
            acknowledged.entry(group).or_default().push(payload(n));
        }
        cluster.run_for(ms(10_000));
        assert_whole(&mut cluster, &acknowledged);
        for node in 1..=3 {
            cluster.kill(node);
        }
        for node in 1..=3 {
            cluster.start(node);
        }
        cluster.elect();
        assert_whole(&mut cluster, &acknowledged);
    }
}
