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

/// Three streams with so many entries each, in turn; then an entry of stream 2, its last, and a state of it; then stream 1 goes on.
/// The batch of that entry has the number `3 * each`, counted from 0, the one of the state comes next.
fn log_of(each: u64, behind: u64) -> (SimPlatter, Streams) {
    let (mut wal, platter) = new_log();
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=each {
        (1..=3).for_each(|stream| append(&mut wal, &mut model, stream, index, &mut now));
    }
    append(&mut wal, &mut model, 2, each + 1, &mut now);
    put_state(&mut wal, &mut model, 2, 1, &mut now);
    for index in each + 1..=each + behind {
        append(&mut wal, &mut model, 1, index, &mut now);
    }
    wal.close(now).unwrap();
    (platter, model)
}

fn log(behind: u64) -> (SimPlatter, Streams) {
    log_of(1, behind)
}

#[test]
fn field_43_the_damaged_last_record_of_a_stream_is_told_by_what_stands_behind_it() {
    // By the next batch, by the seal and the next segment's first batch, and at the end of the log by the mark.
    for behind in 0..20 {
        let (platter, model) = log(behind);
        let places = batches(&platter);
        let copy = platter.copy(1);
        destroy(&copy, &places[3]);
        let (wal, told) = open(&copy);
        assert_eq!(told.damaged, [(2, 2, 2)], "{behind} behind");
        assert_eq!(told.missing(&model, "entry"), 1);
        assert!(told.in_doubt.is_empty() && !told.unknown && told.before_unknown.is_empty());
        assert!(wal.recovered().damage[0].is_exact);

        // A state is written once more as soon as the next segment has begun: until then the directory tells of it.
        let is_copied = places.iter().filter(|place| place.0 != places[4].0).count() >= 2;
        let copy = platter.copy(1);
        destroy(&copy, &places[4]);
        let (wal, told) = open(&copy);
        let in_doubt: &[u64] = if is_copied { &[] } else { &[2] };
        assert_eq!((told.in_doubt.as_slice(), told.damaged.len()), (in_doubt, 0), "{behind} behind");
        assert_eq!(told.missing(&model, "state"), 0);
        assert_eq!(wal.recovered().damage[0].states, [2]);
        assert_eq!(told.streams.states.contains_key(&2), is_copied);

        let copy = platter.copy(1);
        destroy(&copy, places.last().unwrap());
        let (_, told) = open(&copy);
        match behind {
            0 => assert_eq!(told.in_doubt, [2]),
            _ => assert_eq!(told.damaged, [(1, 1 + behind, 1 + behind)]),
        }
    }
}

#[test]
fn field_43_where_a_batch_and_the_copy_of_its_directory_are_lost_every_stream_without_a_later_record_is_tainted()
 {
    let (platter, model) = log(6);
    let places = batches(&platter);
    // Stream 2's last entry, and the batch behind it, which says so (and holds its state).
    for number in [3, 4] {
        destroy(&platter, &places[number]);
    }
    let (mut wal, told) = open(&platter);
    // Stream 1 goes on without a gap behind it: it lost nothing. Nobody knows that of the others.
    assert_eq!(told.damaged, [(2, 2, u64::MAX), (3, 2, u64::MAX)]);
    // Of the second batch the directory is there: the state was stream 2's, and the only one.
    assert_eq!(told.in_doubt, [2]);
    assert!(told.unknown, "a stream may have had its only record there");
    // That is said in its place: what comes behind it may speak of entries that replaced those before it.
    assert_eq!(told.before_unknown, [3]);
    assert_eq!(told.missing(&model, "two batches"), 1);
    assert!(!wal.recovered().damage[0].is_exact);
    // A stream that the log never named may have lost everything.
    let stranger = wal.stream(StreamId(77));
    assert_eq!((wal.is_tainted(stranger), wal.is_state_in_doubt(stranger)), (Some(0), true));
}

#[test]
fn an_entry_that_replaced_nothing_is_not_taken_for_the_replacement_that_was_lost_before_it() {
    let (mut wal, platter) = new_log();
    let (mut model, mut now) = (Streams::default(), 0);
    // Another leader replaces the last three.
    for index in [1, 2, 3, 4, 5, 3, 4, 5] {
        append(&mut wal, &mut model, 2, index, &mut now);
    }
    append(&mut wal, &mut model, 1, 1, &mut now);
    wal.close(now).unwrap();
    // All three, so that it is known of the last one alone what it was.
    for place in &batches(&platter)[5..8] {
        destroy(&platter, place);
    }
    let (_, told) = open(&platter);
    assert_eq!(told.damaged[0], (2, 5, 5));
    assert!(told.damaged.contains(&(2, 1, u64::MAX)), "3 and 4 are not what they were: {:?}", told.damaged);
    assert_eq!(told.before_unknown, [5]);
}

#[test]
fn field_43_damage_that_leaves_a_gap_in_a_stream_is_told_exactly_without_a_directory() {
    for (round, later) in [(2, true), (3, false)] {
        let (platter, model) = log_of(3, 2);
        let places = batches(&platter);
        let first = 3 * (round as usize - 1);
        for place in &places[first..first + 3] {
            destroy(&platter, place);
        }
        let (_, told) = open(&platter);
        assert_eq!(told.missing(&model, "three batches"), 3);
        for stream in [1, 2] {
            assert!(told.damaged.contains(&(stream, round, round)), "{:?}", told.damaged);
        }
        // The last of the three is known by its directory. Stream 3 has an entry behind the damage, or it has none.
        assert!(told.damaged.contains(&(3, round, round)), "{:?}", told.damaged);
        assert_eq!(told.damaged.contains(&(3, round + 1, u64::MAX)), !later, "{:?}", told.damaged);
    }
}

#[test]
fn verdicts_are_told_at_every_open_until_the_owner_has_dealt_with_them() {
    let (platter, mut model) = log(6);
    let places = batches(&platter);
    for number in [3, 4] {
        destroy(&platter, &places[number]);
    }
    let mut now = 0;
    for round in 0..4 {
        let (mut wal, told) = open(&platter);
        // What was written to them since is no evidence.
        assert_eq!(told.damaged, [(2, 2, u64::MAX), (3, 2, u64::MAX)], "round {round}");
        assert_eq!(told.in_doubt, [2], "round {round}");
        assert!(told.unknown, "round {round}");
        append(&mut wal, &mut model, 3, 2 + round, &mut now);
        append(&mut wal, &mut model, 1, 8 + round, &mut now);
        match round % 2 {
            0 => wal.close(now).unwrap(),
            _ => drop(wal.into_disk().power_loss()),
        }
    }
    // The owner deals with one after the other.
    for healed in 1..=3 {
        let (mut wal, told) = open(&platter);
        assert_eq!(told.in_doubt, if healed <= 2 { vec![2] } else { vec![] });
        let tainted: Vec<u64> = told.damaged.iter().map(|lost| lost.0).collect();
        assert_eq!(tainted, (healed.max(2)..=3).collect::<Vec<_>>());
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
    assert_eq!(told.streams.entries[&3].len(), 5);
}

#[test]
fn verdicts_outlive_the_segments_they_are_written_in() {
    let (platter, _) = log(6);
    let places = batches(&platter);
    for number in [3, 4] {
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
    // Stream 9 was a stranger to a log that had lost strangers' records.
    assert_eq!(told.in_doubt, [2, 9]);
    assert!(told.damaged.iter().any(|lost| (lost.0, lost.2) == (2, u64::MAX)), "{:?}", told.damaged);
}

#[test]
fn damaged_entries_are_repaired_in_any_order_and_stay_repaired() {
    let (platter, model) = log_of(4, 20);
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
    let (platter, mut model) = log_of(4, 20);
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

#[test]
fn a_place_that_was_judged_accuses_nobody_when_what_came_before_it_is_recycled() {
    let (mut wal, platter) = new_log();
    let (mut model, mut now) = (Streams::default(), 0);
    // Stream 1 begins in the oldest segment.
    let oldest = platter.list()[0].0.clone();
    let index = 4;
    (1..=index).for_each(|index| append(&mut wal, &mut model, 1, index, &mut now));
    for filler in 1.. {
        append(&mut wal, &mut model, 5, filler, &mut now);
        if batches(&platter).last().is_some_and(|batch| batch.0 != oldest) {
            break;
        }
    }
    // The next one has an entry that stays, the place that will be damaged, and stream 1 goes on.
    append(&mut wal, &mut model, 2, 1, &mut now);
    let before = batches(&platter).len();
    append(&mut wal, &mut model, 3, 1, &mut now);
    append(&mut wal, &mut model, 3, 2, &mut now);
    append(&mut wal, &mut model, 3, 3, &mut now);
    append(&mut wal, &mut model, 1, index + 1, &mut now);
    wal.close(now).unwrap();
    let places = batches(&platter);
    for place in &places[before..before + 2] {
        destroy(&platter, place);
    }
    let (mut wal, told) = open(&platter);
    assert!(told.unknown && told.damaged.iter().all(|lost| lost.0 != 1), "{:?}", told.damaged);
    let streams: Vec<_> = [1, 2, 3].map(|stream| wal.stream(StreamId(stream))).into();
    for &stream in &streams {
        wal.heal(stream).unwrap();
    }
    // What stream 1 had before the place is given up, which is noted behind what it has since.
    append(&mut wal, &mut model, 1, index + 2, &mut now);
    wal.compact(streams[0], index).unwrap();
    let filler = wal.stream(StreamId(5));
    let last = wal.entries(filler).unwrap().1;
    wal.compact(filler, last).unwrap();
    settle(&mut wal, &mut now);
    let other = wal.stream(StreamId(4));
    let mut written = 0;
    while platter.list().iter().any(|(name, _)| *name == oldest) {
        written += 1;
        assert!(written < 1_000, "{:?}: the oldest is never recycled", platter.list());
        append(&mut wal, &mut model, 4, written, &mut now);
        wal.compact(other, written - 1).unwrap();
        now += 30_000_000;
        wal.submit(now);
        wal.poll(now);
    }
    wal.close(now).unwrap();
    let (wal, told) = open(&platter);
    assert!(told.damaged.iter().all(|lost| lost.0 != 1), "{:?}", told.damaged);
    assert!(!told.in_doubt.contains(&1));
    assert_eq!(wal.recovered().damage.len(), 1, "the damage is still there");
}
