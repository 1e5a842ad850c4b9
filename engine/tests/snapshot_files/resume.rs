//! What was received when the process ended is gone on with by the next one.

use logdrive::snapshot::{Received, SnapshotFileSettings, SnapshotId, SnapshotStore, StoreEvent, WriteId};
use logdrive_shard::{GroupId, Random};
use logdrive_wal::{SimDisk, SimPlatter};

use crate::common::{Bench, meta, settings, sim, state};

const LEN: usize = 60_000;

/// A snapshot of group 1 at an index, as another node sends it.
fn sent(index: u64) -> (SnapshotId, Vec<u8>, Vec<Vec<u8>>) {
    let mut from = Bench::open(sim(index), SnapshotFileSettings { id_seed: index, ..settings() });
    let id = from.write(meta(1, index), &state(1, index, LEN)).unwrap();
    let (header, chunks) = from.chunks(id);
    (id, header, chunks)
}

fn reopen(platter: &SimPlatter) -> (Bench<SimDisk>, Vec<String>) {
    let (store, opened) = SnapshotStore::open(platter.open().unwrap(), settings()).unwrap();
    assert_eq!(opened.damaged, []);
    (Bench::of(store), opened.half_received)
}

/// Offers it again and waits until it is known how far it is.
fn resume(bench: &mut Bench<SimDisk>, header: &[u8]) -> (WriteId, u64) {
    let write = bench.store.begin_receive(header, 0).unwrap();
    if bench.store.is_resuming(write) {
        bench
            .until(|event| matches!(event, StoreEvent::Writable { write: of } if *of == write).then_some(()));
    }
    (write, bench.store.progress(write).unwrap().next)
}

fn rest(chunks: &[Vec<u8>], next: u64) -> impl Iterator<Item = (u64, &Vec<u8>)> {
    (0..).zip(chunks).skip(next as usize)
}

/// Takes in the first so many chunks, and lets the disk have them.
fn begun(chunks: &[Vec<u8>], header: &[u8], id: SnapshotId, count: u64) -> (Bench<SimDisk>, SimPlatter) {
    let disk = sim(99);
    let platter = disk.platter();
    let mut bench = Bench::open(disk, settings());
    let write = bench.store.begin_receive(header, 0).unwrap();
    for (number, chunk) in rest(chunks, 0).take(count as usize) {
        assert_eq!(bench.give(write, id, number, chunk).unwrap(), Received::Taken);
    }
    (0..20).for_each(|_| bench.poll());
    (bench, platter)
}

#[test]
fn what_a_killed_process_received_is_gone_on_with_where_it_stopped() {
    let (id, header, chunks) = sent(10);
    for count in [0, 1, 5, chunks.len() as u64 - 1] {
        let (bench, platter) = begun(&chunks, &header, id, count);
        drop(bench);
        let (mut bench, half) = reopen(&platter);
        assert_eq!(half.len(), 1);
        let (write, next) = resume(&mut bench, &header);
        assert_eq!(next, count, "all that the disk had");
        assert_eq!(bench.store.stats().resumed, 1);
        for (number, chunk) in rest(&chunks, next) {
            assert_eq!(bench.give(write, id, number, chunk).unwrap(), Received::Taken);
        }
        assert_eq!(bench.wait(write).unwrap(), id);
        assert_eq!(bench.read(id).unwrap().1, state(1, 10, LEN));
        drop(bench);
        assert_eq!(reopen(&platter).1, [""; 0]);
    }
}

#[test]
fn what_is_not_good_of_it_comes_again_whatever_happened_to_the_file() {
    let (id, header, chunks) = sent(10);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let count = random.below(chunks.len() as u64);
        let (bench, platter) = begun(&chunks, &header, id, count);
        drop(bench);
        let name = platter.list().into_iter().find(|(name, _)| name.ends_with("-part")).unwrap();
        match random.below(3) {
            0 => platter.power_loss(),
            // The header, or a chunk.
            _ => drop(platter.flip(&name.0, random.below(name.1), 1 << random.below(8))),
        }
        let (mut bench, _) = reopen(&platter);
        let (write, next) = resume(&mut bench, &header);
        assert!(next <= count, "seed {seed}: {next} of {count}");
        for (number, chunk) in rest(&chunks, next) {
            assert_eq!(bench.give(write, id, number, chunk).unwrap(), Received::Taken, "seed {seed}");
        }
        assert_eq!(bench.wait(write).unwrap(), id, "seed {seed}");
        assert_eq!(bench.read(id).unwrap().1, state(1, 10, LEN), "seed {seed}");
    }
}

#[test]
fn what_was_received_goes_when_another_snapshot_takes_its_place() {
    let (id, header, chunks) = sent(10);
    let (other, other_header, other_chunks) = sent(12);
    let is_there = |platter: &SimPlatter| platter.list().iter().any(|(name, _)| name.ends_with("-part"));
    // Another one is offered.
    let (bench, platter) = begun(&chunks, &header, id, 5);
    drop(bench);
    let (mut bench, _) = reopen(&platter);
    let write = bench.store.begin_receive(&other_header, 0).unwrap();
    for (number, chunk) in rest(&other_chunks, 0) {
        assert_eq!(bench.give(write, other, number, chunk).unwrap(), Received::Taken);
    }
    assert_eq!(bench.wait(write).unwrap(), other);
    bench.settle();
    assert!(!is_there(&platter));
    // This node has a newer one of its own.
    let (bench, platter) = begun(&chunks, &header, id, 5);
    drop(bench);
    let (mut bench, _) = reopen(&platter);
    bench.write(meta(1, 11), b"newer").unwrap();
    bench.settle();
    assert!(!is_there(&platter));
    // The group begins anew.
    let (bench, platter) = begun(&chunks, &header, id, 5);
    drop(bench);
    let (mut bench, _) = reopen(&platter);
    bench.store.forget(GroupId(1), 0);
    bench.settle();
    assert!(!is_there(&platter));
}

#[test]
fn a_process_that_ends_in_order_keeps_what_it_received_and_one_that_gives_up_does_not() {
    let (id, header, chunks) = sent(10);
    let (bench, platter) = begun(&chunks, &header, id, 5);
    drop(bench.store.close());
    let (mut bench, _) = reopen(&platter);
    let (write, next) = resume(&mut bench, &header);
    assert_eq!(next, 5);
    bench.store.abort(write).unwrap();
    bench.settle();
    assert_eq!(platter.list(), []);
}

#[test]
fn a_reception_can_be_given_up_while_it_is_read_how_far_it_is() {
    let (id, header, chunks) = sent(10);
    let (bench, platter) = begun(&chunks, &header, id, 5);
    drop(bench);
    let (mut bench, _) = reopen(&platter);
    let write = bench.store.begin_receive(&header, 0).unwrap();
    assert!(bench.store.is_resuming(write));
    assert_eq!(bench.store.receive(write, id, 5, &chunks[5]).unwrap(), Received::Full);
    bench.poll();
    bench.store.abort(write).unwrap();
    bench.settle();
    assert_eq!(platter.list(), []);
}
