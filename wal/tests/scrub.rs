//! Damage that a running log finds, by reads and by the scrubber: named exactly, told once, repaired without a restart; and the end
//! of repairing where the disk does not keep what is written to it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Streams, Told, batches, header, payload, settle, small};
use logdrive_wal::{
    AppendError, DamageKind, Fault, FaultKind, Health, LostEntries, OpKind, Options, ReadError, SimDisk,
    SimOptions, SimPlatter, StreamId, Wal,
};

type Log = Wal<SimDisk>;

const SECOND: u64 = 1_000_000_000;

fn options() -> Options {
    Options { scrub_bytes_per_s: 1 << 20, scrub_interval_s: 1, ..small() }
}

fn open(platter: &SimPlatter, now: u64) -> (Log, Told) {
    let mut told = Told::default();
    let wal = Wal::open(platter.open().unwrap(), options(), now, &mut told).unwrap();
    (wal, told)
}

/// Three streams, an entry of each in every batch, over several segments; states in the first.
fn log(rounds: u64, len: usize) -> (Log, SimPlatter, Streams, u64) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options(), 0, &mut Streams::default()).unwrap();
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=rounds {
        for stream in 1..=3 {
            let slot = wal.stream(StreamId(stream));
            let bytes = payload(stream, index, len);
            wal.append(slot, header(index), &bytes).unwrap();
            model.append(stream, header(index), &bytes);
            if index == 2 {
                wal.put_state(slot, &payload(stream, 0, 9)).unwrap();
                model.states.insert(stream, payload(stream, 0, 9));
            }
        }
        settle(&mut wal, &mut now);
    }
    (wal, platter, model, now)
}

/// Turns of an idle owner, that wakes when the log wants it to.
fn turn(wal: &mut Log, now: &mut u64) {
    let due = [wal.scrub_due_nanos(), wal.mark_due_nanos()].into_iter().flatten().min();
    *now = due.unwrap_or(*now).max(*now + 1);
    wal.submit(*now);
    wal.poll(*now);
}

/// Runs until the scrubber has gone over everything once more.
fn pass(wal: &mut Log, now: &mut u64) -> Vec<LostEntries> {
    let passes = wal.stats().scrub_passes;
    while wal.stats().scrub_passes == passes {
        turn(wal, now);
    }
    // What it came upon is looked at entry by entry.
    (0..100).for_each(|_| turn(wal, now));
    std::iter::from_fn(|| wal.poll_damage()).collect()
}

fn read(wal: &mut Log, stream: u64, index: u64) -> Result<Vec<u8>, ReadError> {
    let slot = wal.stream(StreamId(stream));
    wal.read(9, slot, index, index, u32::MAX);
    loop {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            return done.result.map(|mut entries| entries.remove(0).1);
        }
    }
}

/// What was told: stream, first, last.
fn ranges(wal: &mut Log, lost: &[LostEntries]) -> BTreeSet<(u64, u64, u64)> {
    let streams: Vec<_> = (1..=3).map(|stream| (wal.stream(StreamId(stream)), stream)).collect();
    let name = |lost: &LostEntries| streams.iter().find(|(slot, _)| *slot == lost.stream).unwrap().1;
    lost.iter().map(|lost| (name(lost), lost.first, lost.last)).collect()
}

#[test]
fn the_scrubber_finds_what_nobody_reads_and_what_is_repaired_is_whole_without_a_restart() {
    let (mut wal, platter, model, mut now) = log(40, 1500);
    assert_eq!(pass(&mut wal, &mut now), []);
    assert!(wal.stats().scrub_bytes > 100_000, "all sealed segments were read");
    let (name, offset, _) = batches(&platter)[10].clone();
    // In the second entry of the batch: the two others are as they were.
    platter.flip(&name, offset + 64 + 1500 + 300, 4);
    let lost = pass(&mut wal, &mut now);
    assert_eq!(ranges(&mut wal, &lost), BTreeSet::from([(2, 11, 11)]));
    let place = &lost[0].place;
    assert_eq!((&place.segment, place.kind, lost[0].came_back), (&name, DamageKind::Checksum, false));
    assert!(place.offset > offset && place.offset < offset + 4096, "{place}");
    assert_ne!(place.expected_crc, place.found_crc);
    assert!(matches!(read(&mut wal, 2, 11), Err(ReadError::Damaged { stream: 2, index: 11 })));
    assert_eq!(pass(&mut wal, &mut now), [], "it is told once");

    let slot = wal.stream(StreamId(2));
    assert_eq!(wal.damaged_ranges(slot), [(11, 11)]);
    wal.repair(slot, header(11), &payload(2, 11, 1500)).unwrap();
    settle(&mut wal, &mut now);
    assert_eq!(read(&mut wal, 2, 11).unwrap(), payload(2, 11, 1500));
    assert_eq!(pass(&mut wal, &mut now), []);
    assert_eq!((wal.damaged_ranges(slot), wal.failing()), (&[][..], None));
    drop(wal);
    let (_, told) = open(&platter, now);
    assert_eq!(told.streams, model);
    assert_eq!((told.damaged, told.repaired), (vec![(2, 11, 11)], vec![(2, 11)]));
}

#[test]
fn what_stands_in_a_damaged_place_is_told_apart() {
    let (wal, platter, ..) = log(40, 1500);
    drop(wal);
    let places = batches(&platter);
    let (name, offset, _) = places[12].clone();
    let stale = places.iter().rfind(|(other, at, _)| *other == name && *at != offset).unwrap();
    let stale = platter.read_file(&stale.0).unwrap()[stale.1 as usize..stale.1 as usize + 8192].to_vec();
    let mut former = platter.read_file(&name).unwrap()[offset as usize..offset as usize + 8192].to_vec();
    former[8] ^= 0x40;
    let crc = crc32c::crc32c(&former[..36]);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &[0; 4]), &former[40..64]);
    former[36..40].copy_from_slice(&crc.to_le_bytes());
    type Spoil<'a> = Box<dyn Fn(&SimPlatter) -> bool + 'a>;
    let kinds: [(DamageKind, Spoil<'_>); 5] = [
        (
            DamageKind::Checksum,
            Box::new(|p| p.damage(&name, offset, FaultKind::Garbage { sector: 0, seed: 7 })),
        ),
        (DamageKind::LostWrite, Box::new(|p| p.overwrite(&name, offset, &[0; 8192]))),
        (DamageKind::Misdirected, Box::new(|p| p.overwrite(&name, offset, &stale))),
        (DamageKind::Recycled, Box::new(|p| p.overwrite(&name, offset, &former))),
        (
            DamageKind::Unreadable,
            Box::new(|p| (0..2).all(|n| p.damage(&name, offset + n * 4096, FaultKind::Errno(libc::EIO)))),
        ),
    ];
    for (kind, spoil) in kinds {
        for by_read in [false, true] {
            let copy = platter.copy(1);
            let mut now = 100 * SECOND;
            let (mut wal, _) = open(&copy, now);
            assert!(spoil(&copy));
            if by_read {
                match read(&mut wal, 1, 13) {
                    Err(ReadError::Corrupt { segment, kind: found, .. }) => {
                        assert_eq!((&segment, found), (&name, kind));
                    }
                    // All of this one's bytes are as they were.
                    Ok(_) if kind == DamageKind::Recycled => {}
                    other => panic!("{kind}: {other:?}"),
                }
            }
            let lost = pass(&mut wal, &mut now);
            if kind == DamageKind::Recycled {
                // Only the header is another one: it is named, and nothing is lost.
                assert_eq!((lost.len(), wal.stats().scrub_damage), (0, 1));
                continue;
            }
            assert!(!lost.is_empty(), "{kind}");
            for lost in &lost {
                assert_eq!((&lost.place.segment, lost.place.kind), (&name, kind), "by read: {by_read}");
            }
            assert!(ranges(&mut wal, &lost).contains(&(1, 13, 13)), "{kind}: {lost:?}");
            assert_eq!(*wal.health(), Health::Running);
        }
    }
}

#[test]
fn states_and_marks_in_a_damaged_place_are_written_again_at_once() {
    let (mut wal, platter, mut model, mut now) = log(40, 1500);
    let slot = wal.stream(StreamId(3));
    wal.compact(slot, 1).unwrap();
    model.compact(3, 1);
    settle(&mut wal, &mut now);
    for stream in 1..=3 {
        for index in 41..=60 {
            let slot = wal.stream(StreamId(stream));
            let bytes = payload(stream, index, 1500);
            wal.append(slot, header(index), &bytes).unwrap();
            model.append(stream, header(index), &bytes);
            settle(&mut wal, &mut now);
        }
    }
    // The states are in the second batch, and were copied into the next segment. Everything in both goes.
    let places = batches(&platter);
    let second = &places.iter().find(|(name, ..)| *name != places[0].0).unwrap().0;
    let marked = &places[40];
    for (name, offset, len) in places.iter().filter(|(name, ..)| name == second || *name == places[0].0) {
        platter.overwrite(name, *offset, &vec![0xaa; *len as usize]);
    }
    platter.overwrite(&marked.0, marked.1, &[0x55; 64]);
    let lost = pass(&mut wal, &mut now);
    assert!(lost.len() >= 3);
    wal.submit(now);
    settle(&mut wal, &mut now);
    drop(wal.into_disk().power_loss());
    let (_, told) = open(&platter, now);
    assert_eq!(told.streams.states, model.states);
    assert_eq!(told.in_doubt, []);
    assert_eq!(told.streams.compacted, model.compacted);
}

#[test]
fn damage_that_comes_back_after_its_repair_ends_the_repairing_and_names_the_disk() {
    let (mut wal, platter, _, mut now) = log(40, 1500);
    let (name, offset, _) = batches(&platter)[5].clone();
    platter.flip(&name, offset + 500, 1);
    assert!(matches!(read(&mut wal, 1, 6), Err(ReadError::Corrupt { .. })));
    let slot = wal.stream(StreamId(1));
    assert!(!wal.poll_damage().unwrap().came_back);
    wal.repair(slot, header(6), &payload(1, 6, 1500)).unwrap();
    settle(&mut wal, &mut now);
    let (name, offset, _) = batches(&platter).pop().unwrap();
    platter.flip(&name, offset + 500, 1);
    assert!(matches!(read(&mut wal, 1, 6), Err(ReadError::Corrupt { .. })));
    let lost = wal.poll_damage().unwrap();
    assert!(lost.came_back);
    assert_eq!(lost.place.segment, name);
    let refused = wal.repair(slot, header(6), &payload(1, 6, 1500));
    assert_eq!(refused, Err(AppendError::RepairInVain { stream: 1, index: 6 }));
    let failing = wal.failing().unwrap().to_string();
    assert!(failing.contains(&name) && failing.contains("stream 1 lost entries 6 to 6"), "{failing}");
    // The owner may still give the entries up.
    wal.append(slot, header(6), b"another").unwrap();
    settle(&mut wal, &mut now);
    assert_eq!(read(&mut wal, 1, 6).unwrap(), b"another");
}

#[test]
fn what_was_only_spoilt_on_the_way_is_read_again_and_no_damage() {
    let (mut wal, platter, _, mut now) = log(40, 1500);
    let way = [
        FaultKind::Flip { at: 700, mask: 8 },
        FaultKind::Errno(libc::EIO),
        FaultKind::Misdirected { block: 5 },
        FaultKind::Stale,
    ];
    for what in way {
        platter.inject(Fault::next(OpKind::Read, what));
        let repeated = wal.stats().reads_repeated;
        assert_eq!(read(&mut wal, 1, 8).unwrap(), payload(1, 8, 1500), "{what:?}");
        assert_eq!(wal.stats().reads_repeated, repeated + 1, "{what:?}");
    }
    for what in way {
        for skip in [0, 3] {
            platter.inject(Fault::at(OpKind::Read, skip, what));
            assert_eq!(pass(&mut wal, &mut now), [], "{what:?}");
        }
    }
    assert_eq!((wal.stats().scrub_damage, wal.damaged_entries()), (0, 0));
}

#[test]
fn an_unreadable_block_costs_the_entries_in_it_and_no_others() {
    let (mut wal, platter, _, _) = log(40, 1000);
    let (name, offset, _) = batches(&platter)[7].clone();
    platter.damage(&name, offset, FaultKind::Errno(libc::EIO));
    let slot = wal.stream(StreamId(1));
    wal.read(4, slot, 1, 20, u32::MAX);
    let done = loop {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            break done.result;
        }
    };
    let Err(ReadError::Corrupt { kind, segment, .. }) = done else { panic!("{done:?}") };
    assert_eq!((kind, &segment), (DamageKind::Unreadable, &name));
    let lost = wal.poll_damage().unwrap();
    assert_eq!((lost.stream, lost.first, lost.last), (slot, 8, 8));
    for index in (1..=40).filter(|index| *index != 8) {
        assert_eq!(read(&mut wal, 1, index).unwrap(), payload(1, index, 1000));
    }
}

#[test]
fn the_scrubber_keeps_to_its_rate_and_goes_behind_writers_and_readers() {
    let (mut wal, _platter, _, mut now) = log(200, 1500);
    now += SECOND;
    wal.disk().hold();
    let reads =
        |wal: &mut Log| wal.disk().under_way().iter().filter(|(kind, ..)| *kind == OpKind::Read).count();
    // A batch waits for a free write: it is the disk's turn.
    let slot = wal.stream(StreamId(1));
    for index in 201..=230 {
        wal.append(slot, header(index), &payload(1, index, 8000)).unwrap();
    }
    wal.submit(now);
    assert_eq!((reads(&mut wal), wal.scrub_due_nanos()), (0, None));
    wal.disk().release();
    settle(&mut wal, &mut now);
    wal.disk().hold();
    now += SECOND;
    // Somebody reads.
    wal.read(1, slot, 1, 1, 100);
    wal.submit(now);
    assert_eq!((reads(&mut wal), wal.scrub_due_nanos()), (1, None));
    wal.disk().run();
    wal.poll(now);
    wal.submit(now);
    assert_eq!(reads(&mut wal), 1, "now it is the scrubber's");
    wal.disk().release();
    let (began, bytes) = (now, wal.stats().scrub_bytes);
    for _ in 0..20 {
        turn(&mut wal, &mut now);
    }
    let (rate, read) = (1u64 << 20, wal.stats().scrub_bytes - bytes);
    let allowed = rate * (now - began) / SECOND + (256 << 10);
    assert!(read > 0 && read <= allowed, "{read} bytes in {} ns", now - began);
}

#[test]
fn a_rate_of_nothing_turns_the_scrubber_off() {
    let (wal, platter, ..) = log(60, 1500);
    drop(wal);
    let off = Options { scrub_bytes_per_s: 0, ..options() };
    let mut wal = Wal::open(platter.open().unwrap(), off, 0, &mut Streams::default()).unwrap();
    for second in 1..100 {
        assert_eq!(wal.scrub_due_nanos(), None);
        wal.submit(second * SECOND);
        wal.poll(second * SECOND);
    }
    assert_eq!(wal.stats().scrub_bytes, 0);
}

#[test]
fn a_segment_that_is_scrubbed_is_not_given_away_meanwhile() {
    let (mut wal, _platter, _, mut now) = log(60, 1500);
    now += SECOND;
    wal.disk().hold();
    wal.submit(now);
    assert!(wal.disk().under_way().iter().any(|(kind, ..)| *kind == OpKind::Read));
    for stream in 1..=3 {
        let slot = wal.stream(StreamId(stream));
        wal.compact(slot, 60).unwrap();
    }
    // All but the read goes on: nothing is recycled under it.
    for _ in 0..200 {
        now += 20_000_000;
        wal.submit(now);
        let other = |(kind, ..): &(OpKind, String, Option<u64>)| *kind != OpKind::Read;
        while let Some(place) = wal.disk().under_way().iter().position(other) {
            wal.disk().run_at(place);
        }
        wal.poll(now);
    }
    assert_eq!(wal.stats().segments_recycled, 0);
    wal.disk().release();
    for _ in 0..200 {
        now += 20_000_000;
        wal.submit(now);
        wal.poll(now);
    }
    assert!(wal.stats().segments_recycled > 0);
    assert_eq!(wal.damaged_entries(), 0);
}

/// The repair outlives what it repaired: the entry was let go, and its segment is another one by now.
#[test]
fn a_repair_of_an_entry_that_was_let_go_since_keeps_no_log_from_opening() {
    let (mut wal, platter, mut model, mut now) = log(40, 1500);
    let (name, offset, _) = batches(&platter)[10].clone();
    platter.flip(&name, offset + 64 + 1500 + 300, 4);
    let lost = pass(&mut wal, &mut now);
    assert_eq!(ranges(&mut wal, &lost), BTreeSet::from([(2, 11, 11)]));
    let slot = wal.stream(StreamId(2));
    wal.repair(slot, header(11), &payload(2, 11, 1500)).unwrap();
    settle(&mut wal, &mut now);
    for index in 41..=100 {
        for stream in 1..=3 {
            let slot = wal.stream(StreamId(stream));
            let bytes = payload(stream, index, 1500);
            wal.append(slot, header(index), &bytes).unwrap();
            model.append(stream, header(index), &bytes);
            if index == 50 {
                wal.put_state(slot, &payload(stream, 0, 9)).unwrap();
                wal.compact(slot, 35).unwrap();
                model.compact(stream, 35);
            }
        }
        settle(&mut wal, &mut now);
    }
    assert!(!batches(&platter).iter().any(|(other, ..)| *other == name), "its segment is gone");
    drop(wal);
    let (_, told) = open(&platter, now);
    assert_eq!(told.streams, model);
    assert_eq!((told.damaged, told.repaired), (vec![], vec![]));
}
