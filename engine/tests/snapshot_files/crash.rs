//! The process is killed or the power goes after any operation: what was said to be durable is there, or something newer; nothing
//! damaged is; nothing half-written stays.

use std::collections::BTreeMap;

use logdrive::snapshot::{Compression, SnapshotFileSettings, SnapshotStore, StoreEvent};
use logdrive_shard::GroupId;
use logdrive_wal::{SimDisk, SimPlatter};

use crate::common::{Bench, meta, settings, sim, state};

/// Header and chunks of a snapshot of another node.
type Foreign = (u64, Vec<u8>, Vec<Vec<u8>>);

/// Bytes of a state: some files have one chunk, some have several.
fn len(index: u64) -> usize {
    (index as usize * 911) % 14_000
}

fn content(group: u64, index: u64) -> Vec<u8> {
    state(group, index, len(index))
}

fn foreign() -> Vec<Foreign> {
    let mut other = Bench::open(sim(77), SnapshotFileSettings { snapshots_kept: 9, ..settings() });
    let of = |other: &mut Bench<SimDisk>, index| {
        let id = other.write(meta(2, index), &content(2, index)).unwrap();
        let (header, chunks) = other.chunks(id);
        (index, header, chunks)
    };
    [5, 12, 23, 34].map(|index| of(&mut other, index)).into()
}

/// Group 1 writes, group 2 receives, side by side; the highest index of each that was said to be durable. Ends with the last
/// snapshot, or when the disk does.
fn run(bench: &mut Bench<SimDisk>, platter: &SimPlatter, foreign: &[Foreign]) -> BTreeMap<u64, u64> {
    let mut durable = BTreeMap::new();
    for (at, (index, header, chunks)) in foreign.iter().enumerate() {
        let mine = 10 + 10 * at as u64;
        let (Ok(write), Ok(reception)) =
            (bench.store.begin_write(meta(1, mine), 0), bench.store.begin_receive(header, 0))
        else {
            return durable;
        };
        let id = bench.store.progress(reception).unwrap().snapshot;
        let (content, mut fed, mut given, mut ended) = (content(1, mine), 0, 0, 0);
        let mut finished = false;
        while ended < 2 {
            fed += bench.store.write(write, &content[fed..]).unwrap_or(0);
            if fed == content.len() && !finished {
                finished = bench.store.finish(write).is_ok();
            }
            if let Some(chunk) = chunks.get(given)
                && bench.store.receive(reception, id, given as u64, chunk)
                    == Ok(logdrive::snapshot::Received::Taken)
            {
                given += 1;
            }
            bench.poll();
            for event in std::mem::take(&mut bench.events) {
                match event {
                    StoreEvent::Durable { write: which, .. } => {
                        let (group, index) = if which == write { (1, mine) } else { (2, *index) };
                        durable.insert(group, index);
                        ended += 1;
                    }
                    StoreEvent::WriteFailed { .. } => ended += 1,
                    _ => {}
                }
            }
            if platter.halted() {
                return durable;
            }
        }
    }
    bench.settle();
    durable
}

fn check(platter: &SimPlatter, durable: &BTreeMap<u64, u64>, place: &str) {
    let (store, opened) = SnapshotStore::open(platter.open().unwrap(), settings()).unwrap();
    assert_eq!(opened.damaged, [], "{place}");
    let mut bench = Bench::of(store);
    for (name, _) in platter.list() {
        let is_known = name.ends_with(".snapshot") || opened.half_received.contains(&name);
        assert!(is_known, "{place}: {name} stayed");
    }
    for group in [1, 2] {
        let newest = bench.store.newest(GroupId(group), 0).unwrap().cloned();
        let index = newest.as_ref().map_or(0, |header| header.index.0);
        let promised = durable.get(&group).copied().unwrap_or(0);
        assert!(index >= promised, "{place}: group {group} has {index} and was promised {promised}");
    }
    let all: Vec<_> = bench.store.snapshots().cloned().collect();
    for header in all {
        let (group, index) = (header.group.0, header.index.0);
        let read = bench.read(header.id);
        assert_eq!(read.unwrap(), (meta(group, index).sessions, content(group, index)), "{place}");
    }
    // And it goes on from there.
    bench.write(meta(1, 100), &content(1, 100)).unwrap();
    bench.settle();
    assert_eq!(bench.newest_index(1), Some(100), "{place}");
}

#[test]
fn a_crash_after_any_operation_leaves_good_snapshots_alone() {
    let seeds = std::env::var("LOGDRIVE_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let foreign = foreign();
    for seed in 0..seeds {
        let compression = if seed % 2 == 0 { Compression::Off } else { Compression::Lz4 };
        let settings = SnapshotFileSettings { compression, snapshots_kept: seed as u32 % 3, ..settings() };
        let mut operations = 0;
        while (0..3).all(|how| crash_at(seed, &settings, operations, how, &foreign)) {
            operations += 1;
        }
        assert!(operations > 60, "the sequence has only {operations} operations");
    }
}

/// A process that dies after so many operations; then its successors find what it left. False if it came to its end before.
fn crash_at(
    seed: u64,
    settings: &SnapshotFileSettings,
    operations: u64,
    how: u32,
    foreign: &[Foreign],
) -> bool {
    let disk = sim(1000 + seed);
    let platter = disk.platter();
    let mut bench = Bench::open(disk, settings.clone());
    platter.halt_after(operations);
    let durable = run(&mut bench, &platter, foreign);
    let halted = platter.halted();
    // The process ends with the halt, and not in order: what it asked for may still happen.
    drop(bench);
    platter.revive();
    if how > 0 {
        platter.power_loss();
    }
    check(&platter, &durable, &format!("seed {seed}, operation {operations}, crash {how}"));
    if how > 1 {
        // Once more: the power goes while the successor that cleaned up and wrote is at rest.
        platter.power_loss();
        check(&platter, &BTreeMap::from([(1, 100)]), &format!("seed {seed}, operation {operations}, again"));
    }
    if !halted {
        assert_eq!(durable, BTreeMap::from([(1, 40), (2, 34)]));
    }
    halted
}
