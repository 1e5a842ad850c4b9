//! What opening tells of damage, stream by stream; told again until it is dealt with; repaired, given up or healed.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, batches, header, payload, settle, small};
use logdrive_wal::{AppendError, EntryHeader, ReadError, SimDisk, SimOptions, SimPlatter, StreamId, Wal};

type Log = Wal<SimDisk>;

fn new_log() -> (Log, SimPlatter) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    (Wal::open(disk, small(), 0, &mut Streams::default()).unwrap(), platter)
}

fn open(platter: &SimPlatter) -> (Log, Told) {
    let mut told = Told::default();
    let wal = Wal::open(platter.open().unwrap(), small(), 0, &mut told).unwrap();
    (wal, told)
}

/// One entry, in a batch of its own.
fn append(wal: &mut Log, model: &mut Streams, stream: u64, index: u64, now: &mut u64) {
    let slot = wal.stream(StreamId(stream));
    let bytes = payload(stream, index, 900);
    wal.append(slot, header(index), &bytes).unwrap();
    model.append(stream, header(index), &bytes);
    settle(wal, now);
}

fn put_state(wal: &mut Log, model: &mut Streams, stream: u64, what: u64, now: &mut u64) {
    let slot = wal.stream(StreamId(stream));
    wal.put_state(slot, &payload(stream, what, 16)).unwrap();
    model.states.insert(stream, payload(stream, what, 16));
    settle(wal, now);
}

fn destroy(platter: &SimPlatter, batch: &(String, u64, u32)) {
    let (name, offset, len) = batch;
    let len = (*len as usize).next_multiple_of(4096);
    assert!(platter.overwrite(name, *offset, &vec![0xa5; len]));
}

fn read(wal: &mut Log, stream: u64, index: u64) -> Result<(EntryHeader, Vec<u8>), ReadError> {
    let slot = wal.stream(StreamId(stream));
    wal.read(3, slot, index, index, u32::MAX);
    loop {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            return done.result.map(|mut entries| entries.remove(0));
        }
    }
}

/// Three streams. The last entry of stream 2 is in batch 12 (from 0), its last state in batch 13; the others go on behind.
fn log(behind: u64) -> (SimPlatter, Streams) {
    let (mut wal, platter) = new_log();
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=4 {
        (1..=3).for_each(|stream| append(&mut wal, &mut model, stream, index, &mut now));
    }
    append(&mut wal, &mut model, 2, 5, &mut now);
    put_state(&mut wal, &mut model, 2, 1, &mut now);
    for index in 5..5 + behind {
        append(&mut wal, &mut model, 1, index, &mut now);
    }
    wal.close(now).unwrap();
    (platter, model)
}

#[test]
fn field_43_the_damaged_last_record_of_a_stream_is_told_by_what_stands_behind_it() {
    // By the next batch, by the seal and the next segment's first batch, and at the end of the log by the mark.
    for behind in 0..20 {
        let (platter, model) = log(behind);
        let places = batches(&platter);
        let copy = platter.copy(1);
        destroy(&copy, &places[12]);
        let (wal, told) = open(&copy);
        assert_eq!(told.damaged, [(2, 5, 5)], "{behind} behind");
        assert_eq!(told.missing(&model, "entry"), 1);
        assert!(told.in_doubt.is_empty() && !told.unknown);
        assert!(wal.recovered().damage[0].is_exact);

        let copy = platter.copy(1);
        destroy(&copy, &places[13]);
        let (wal, told) = open(&copy);
        assert_eq!((told.in_doubt.as_slice(), told.damaged.len()), (&[2][..], 0), "{behind} behind");
        assert_eq!(told.missing(&model, "state"), 0);
        assert_eq!(wal.recovered().damage[0].states, [2]);

        let last = places.last().unwrap();
        let copy = platter.copy(1);
        destroy(&copy, last);
        let (_, told) = open(&copy);
        let (stream, index) = if behind == 0 { (2, 0) } else { (1, 4 + behind) };
        match behind {
            0 => assert_eq!(told.in_doubt, [2]),
            _ => assert_eq!(told.damaged, [(stream, index, index)]),
        }
    }
}

#[test]
fn field_43_where_a_batch_and_the_copy_of_its_directory_are_lost_every_stream_without_a_later_record_is_tainted()
 {
    let (platter, model) = log(8);
    let places = batches(&platter);
    // Stream 2's last entry, and the batch behind it, which says so (and holds its state).
    for number in [12, 13] {
        destroy(&platter, &places[number]);
    }
    let (mut wal, told) = open(&platter);
    // Stream 1 goes on without a gap behind it: it lost nothing. Nobody knows that of the others.
    assert_eq!(told.damaged, [(2, 5, u64::MAX), (3, 5, u64::MAX)]);
    assert_eq!(told.in_doubt, [1, 2, 3], "a state was among them, and none came later");
    assert!(told.unknown, "a stream may have had its only record there");
    assert_eq!(told.missing(&model, "two batches"), 1);
    assert!(!wal.recovered().damage[0].is_exact);
    // A stream that the log never named may have lost everything.
    let stranger = wal.stream(StreamId(77));
    assert_eq!((wal.is_tainted(stranger), wal.is_state_in_doubt(stranger)), (Some(0), true));

    // Damage that leaves a gap in a stream is told exactly, also without a directory.
    let (platter, model) = log(8);
    let places = batches(&platter);
    for number in [9, 10, 11] {
        destroy(&platter, &places[number]);
    }
    let (_, told) = open(&platter);
    assert!(told.damaged.contains(&(2, 4, 4)) && told.damaged.contains(&(1, 4, 4)), "{:?}", told.damaged);
    assert!(told.damaged.contains(&(3, 4, u64::MAX)), "{:?}", told.damaged);
    assert_eq!(told.missing(&model, "three batches"), 3);
}

#[test]
fn verdicts_are_told_at_every_open_until_the_owner_has_dealt_with_them() {
    let (platter, mut model) = log(8);
    let places = batches(&platter);
    for number in [12, 13] {
        destroy(&platter, &places[number]);
    }
    let mut now = 0;
    for round in 0..4 {
        let (mut wal, told) = open(&platter);
        // What was written to them since is no evidence.
        assert_eq!(told.damaged, [(2, 5, u64::MAX), (3, 5, u64::MAX)], "round {round}");
        assert_eq!(told.in_doubt, [1, 2, 3], "round {round}");
        assert!(told.unknown, "round {round}");
        append(&mut wal, &mut model, 3, 5 + round, &mut now);
        append(&mut wal, &mut model, 1, 13 + round, &mut now);
        match round % 2 {
            0 => wal.close(now).unwrap(),
            _ => drop(wal.into_disk().power_loss()),
        }
    }
    // The owner deals with one after the other.
    for healed in 1..=3 {
        let (mut wal, told) = open(&platter);
        assert_eq!(told.in_doubt, (healed..=3).collect::<Vec<_>>());
        put_state(&mut wal, &mut model, healed, 50, &mut now);
        let slot = wal.stream(StreamId(healed));
        wal.heal(slot).unwrap();
        assert_eq!((wal.is_tainted(slot), wal.is_state_in_doubt(slot)), (None, false));
        settle(&mut wal, &mut now);
        drop(wal.into_disk().power_loss());
    }
    let (_, told) = open(&platter);
    assert_eq!((told.damaged.len(), told.in_doubt.len()), (0, 0));
    for stream in 1..=3 {
        assert_eq!(told.streams.states[&stream], payload(stream, 50, 16));
    }
    assert_eq!(told.streams.entries[&3].len(), 8);
}

#[test]
fn verdicts_outlive_the_segments_they_are_written_in() {
    let (platter, _) = log(8);
    let places = batches(&platter);
    for number in [12, 13] {
        destroy(&platter, &places[number]);
    }
    let (mut wal, _) = open(&platter);
    let (mut model, mut now) = (Streams::default(), 0);
    // The old segments go, with the damage and with the verdicts as they were written first.
    for stream in [1, 2, 3] {
        let slot = wal.stream(StreamId(stream));
        let last = wal.entries(slot).map_or(0, |(_, last)| last);
        wal.compact(slot, last).unwrap();
    }
    for index in 100..400 {
        append(&mut wal, &mut model, 9, index, &mut now);
        let slot = wal.stream(StreamId(9));
        wal.compact(slot, index - 1).unwrap();
        now += 30_000_000;
        wal.submit(now);
        wal.poll(now);
    }
    assert!(wal.stats().segments_recycled > 0);
    drop(wal.into_disk().power_loss());
    let (_, told) = open(&platter);
    assert_eq!(told.in_doubt, [1, 2, 3]);
    assert!(told.damaged.iter().any(|lost| (lost.0, lost.2) == (2, u64::MAX)), "{:?}", told.damaged);
}

#[test]
fn damaged_entries_are_repaired_in_any_order_and_stay_repaired() {
    let (platter, model) = log(20);
    let places = batches(&platter);
    for number in [3, 4, 5, 12] {
        destroy(&platter, &places[number]);
    }
    let lost = [(1, 2), (2, 2), (2, 5), (3, 2)];
    let mut now = 0;
    for (round, done) in (0..=lost.len()).enumerate() {
        let (mut wal, told) = open(&platter);
        assert_eq!(told.repaired.len(), done, "round {round}");
        // The damaged place is told for as long as it is there, and what is back in it as well.
        assert!(lost.iter().all(|&(stream, index)| {
            told.damaged.iter().any(|&(s, first, last)| s == stream && (first..=last).contains(&index))
        }));
        if done == lost.len() {
            assert_eq!(told.streams, model);
        }
        for (number, &(stream, index)) in lost.iter().rev().enumerate() {
            let slot = wal.stream(StreamId(stream));
            let bytes = payload(stream, index, 900);
            if number < done {
                assert_eq!(read(&mut wal, stream, index).unwrap(), (header(index), bytes.clone()));
                let again = wal.repair(slot, header(index), &bytes);
                assert_eq!(again, Err(AppendError::NotDamaged { stream, index }));
            } else {
                let found = read(&mut wal, stream, index);
                assert_eq!(found, Err(ReadError::Damaged { stream, index }));
            }
            if number == done {
                wal.repair(slot, header(index), &bytes).unwrap();
                settle(&mut wal, &mut now);
            }
        }
        drop(wal.into_disk().power_loss());
    }
}

#[test]
fn damaged_entries_are_given_up_by_replacing_or_compacting_them() {
    let (platter, mut model) = log(20);
    let places = batches(&platter);
    for number in [3, 4, 5] {
        destroy(&platter, &places[number]);
    }
    let (mut wal, told) = open(&platter);
    assert_eq!(told.missing(&model, "second entries"), 3);
    let mut now = 0;
    append(&mut wal, &mut model, 1, 2, &mut now);
    let slot = wal.stream(StreamId(2));
    wal.compact(slot, 2).unwrap();
    settle(&mut wal, &mut now);
    for (stream, ranges) in [(1, 0), (2, 0), (3, 1)] {
        let slot = wal.stream(StreamId(stream));
        assert_eq!(wal.damaged_ranges(slot).len(), ranges, "stream {stream}");
    }
    let slot = wal.stream(StreamId(1));
    assert_eq!(wal.entries(slot), Some((1, 2)), "replaced from there on");
    drop(wal.into_disk().power_loss());
    let (mut wal, _) = open(&platter);
    for (stream, ranges) in [(1, 0), (2, 0), (3, 1)] {
        let slot = wal.stream(StreamId(stream));
        assert_eq!(wal.damaged_ranges(slot).len(), ranges, "stream {stream}");
    }
}
