//! Damage in logs whose streams were rewritten: in copies, in what they are copies of, in the begin and end of a rewrite, in
//! trim records and headers. Nothing is wrong, nothing is missing in silence, and the log opens (FIELD 24, 26).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Streams, Told, append, batches, settle};
use logdrive_wal::{Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal};

/// The stream that writes on and is compacted.
const HOT: u64 = 100;
const COLD_STREAMS: u64 = 6;

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        batch_bytes_max: 8 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: 8 * (64 << 10),
        reclaim_patience_ms: 100,
        ..Options::default()
    }
}

/// A log whose cold streams were rewritten `rewrites` times in all and more, as a power loss leaves it, and what it holds.
fn rewritten(rewrites: u64) -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let mut wal = Wal::open(disk, options(), 1, &mut Streams::default()).unwrap();
    let (mut model, mut now) = (Streams::default(), 1);
    for index in 1..=4 {
        for stream in 1..=COLD_STREAMS {
            append(&mut wal, &mut model, stream, index, 400).unwrap();
        }
        settle(&mut wal, &mut now);
    }
    let (hot, cold) = (wal.stream(StreamId(HOT)), wal.stream(StreamId(1)));
    let mut index = 0;
    while wal.stats().rewrites < rewrites {
        index += 1;
        assert!(index < 5000, "{:?}", wal.stats());
        while append(&mut wal, &mut model, HOT, index, 2500).is_err() {
            now += 20_000_000;
            wal.submit(now);
            wal.poll(now);
        }
        if index % 8 == 0 {
            wal.compact(hot, index - 4).unwrap();
            model.compact(HOT, index - 4);
        }
        if index % 40 == 0 {
            // Cold, and not dead.
            let (_, last) = wal.entries(cold).unwrap();
            let _ = append(&mut wal, &mut model, 1, last + 1, 400);
        }
        for _ in 0..4 {
            now += 5_000_000;
            wal.submit(now);
            wal.poll(now);
        }
    }
    settle(&mut wal, &mut now);
    now += 3_000_000;
    wal.submit(now);
    wal.poll(now);
    drop(wal.into_disk().power_loss());
    (platter, model)
}

/// Entries of the model that are missing from what was told, every one of them in the open.
fn missing(told: &Told, model: &Streams, what: &str) -> BTreeSet<(u64, u64)> {
    told.missing(model, what);
    let mut missing = BTreeSet::new();
    for (stream, entries) in &model.entries {
        let found = told.streams.entries.get(stream);
        let lost = entries.keys().filter(|&index| found.is_none_or(|found| !found.contains_key(index)));
        missing.extend(lost.map(|index| (*stream, *index)));
    }
    missing
}

/// Opens a damaged copy: it opens, and nothing is wrong or missing in silence. Writes on, lets it run, and opens what that left,
/// three times over: what was found at first is found again, for nothing was damaged since. Returns how many entries are
/// missing.
fn check(copy: &SimPlatter, model: &Streams, what: &str) -> usize {
    let (mut model, mut first, mut now) = (model.clone(), None, 1);
    for round in 1..=3 {
        let what = format!("{what}, opened for the {round}. time");
        let mut told = Told::default();
        let opened = Wal::open(copy.open().unwrap(), options(), now, &mut told);
        let mut wal = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        let lost = missing(&told, &model, &what);
        let (first, unknown) = first.get_or_insert((lost.clone(), told.unknown));
        assert!(*unknown || !told.unknown, "{what}: what is lost was known at first: {told:?}");
        let new: Vec<_> = lost.difference(first).collect();
        assert!(new.is_empty(), "{what}: missing only now: {new:?}; told {:?}", told.damaged);
        append(&mut wal, &mut model, HOT + 1, round, 100).unwrap();
        for _ in 0..20 {
            settle(&mut wal, &mut now);
            now += 20_000_000;
            wal.submit(now);
            wal.poll(now);
        }
        drop(wal.into_disk().power_loss());
    }
    first.map_or(0, |(first, _)| first.len())
}

#[test]
fn field_26_each_damaged_batch_of_a_log_with_rewrites_is_named_or_harmless() {
    for rewrites in [3, COLD_STREAMS, 2 * COLD_STREAMS + 2] {
        let (platter, model) = rewritten(rewrites);
        assert_eq!(check(&platter.copy(1), &model, "sound"), 0);
        let places = batches(&platter);
        for (number, (name, offset, len)) in places.iter().enumerate() {
            for at in [0, 41, 100, u64::from(*len) / 2, u64::from(*len) - 9] {
                let copy = platter.copy(number as u64);
                copy.flip(name, offset + at, 0x10);
                let what = format!("{rewrites} rewrites, batch {number} of {}, byte {at}", places.len());
                let missing = check(&copy, &model, &what);
                assert!(missing <= 40, "{what}: {missing} entries are missing");
            }
        }
    }
}

#[test]
fn field_26_two_damaged_batches_and_damaged_headers_of_a_log_with_rewrites_are_named_or_harmless() {
    let (platter, model) = rewritten(COLD_STREAMS + 3);
    let places = batches(&platter);
    // With headers that are right, or wrong, too: then nothing tells where a batch ends.
    for (number, pair) in places.windows(2).enumerate() {
        for headers in [false, true] {
            let copy = platter.copy(number as u64);
            for (name, offset, _) in pair {
                for sector in 0..8 {
                    copy.flip(name, offset + sector * 512 + 70, 1);
                }
                if headers {
                    copy.flip(name, offset + 8, 0x80);
                }
            }
            let what = format!("batches at {:?} and behind, headers {headers}", (&pair[0].0, pair[0].1));
            check(&copy, &model, &what);
        }
    }
    for (name, _) in platter.list().iter().filter(|(name, _)| places.iter().any(|place| place.0 == *name)) {
        let copy = platter.copy(8);
        copy.flip(name, 82, 1);
        check(&copy, &model, &format!("the header of {name}"));
    }
}
