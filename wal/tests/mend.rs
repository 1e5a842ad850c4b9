//! Damage to what holds no records: headers and seals of segments, and marks. The scrubber names it and writes it again, once.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Told, batches, header, payload, settle, small};
use logdrive_wal::{
    Damage, DamageKind, FaultKind, Health, Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal,
};

type Log = Wal<SimDisk>;

/// Bytes of a slot of the marks.
const SLOT: u64 = 64 << 10;

fn options() -> Options {
    Options { scrub_bytes_per_s: 1 << 20, scrub_interval_s: 1, ..small() }
}

fn open(platter: &SimPlatter) -> (Log, Told) {
    let mut told = Told::default();
    let wal = Wal::open(platter.open().unwrap(), options(), 0, &mut told).unwrap();
    (wal, told)
}

/// Entries of one stream over several segments.
fn log(entries: u64) -> (Log, SimPlatter, u64) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options(), 0, &mut Told::default()).unwrap();
    let mut now = 0;
    append(&mut wal, 1..=entries, &mut now);
    (wal, platter, now)
}

fn append(wal: &mut Log, indexes: std::ops::RangeInclusive<u64>, now: &mut u64) {
    let slot = wal.stream(StreamId(1));
    for index in indexes {
        wal.append(slot, header(index), &payload(1, index, 3000)).unwrap();
        settle(wal, now);
    }
}

fn turn(wal: &mut Log, now: &mut u64) {
    let due = [wal.scrub_due_nanos(), wal.mark_due_nanos()].into_iter().flatten().min();
    *now = due.unwrap_or(*now).max(*now + 1);
    wal.submit(*now);
    wal.poll(*now);
}

/// Runs until the scrubber has gone over everything twice, and so once from beginning to end; what it named.
fn pass(wal: &mut Log, now: &mut u64) -> Vec<Damage> {
    let passes = wal.stats().scrub_passes + 2;
    while wal.stats().scrub_passes < passes {
        turn(wal, now);
    }
    (0..20).for_each(|_| turn(wal, now));
    assert_eq!(wal.poll_damage(), None);
    std::iter::from_fn(|| wal.poll_damaged_place()).collect()
}

fn file(platter: &SimPlatter, name: &str) -> Vec<u8> {
    platter.read_file(name).unwrap()
}

/// Segments, by number, and where the seal of each stands: behind its last batch, if another segment follows.
fn segments(platter: &SimPlatter) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for (name, offset, bytes) in batches(platter) {
        let end = (offset + u64::from(bytes)).next_multiple_of(4096);
        match found.last_mut().filter(|(last, _)| *last == name) {
            Some(last) => last.1 = end,
            None => found.push((name, end)),
        }
    }
    found
}

#[test]
fn a_damaged_header_is_named_and_written_again_as_it_was() {
    let (mut wal, platter, mut now) = log(60);
    let segments = segments(&platter);
    let (active, sealed) = (&segments.last().unwrap().0, &segments[1].0);
    assert_eq!(pass(&mut wal, &mut now), []);
    for (name, spoil) in [(active, 90), (sealed, 45), (&segments[2].0, 3)] {
        let before = file(&platter, name);
        platter.flip(name, spoil, 2);
        let named = pass(&mut wal, &mut now);
        assert_eq!(named.len(), 1, "{named:?}");
        assert_eq!((&named[0].segment, named[0].offset, named[0].kind), (name, 0, DamageKind::Header));
        assert_eq!(file(&platter, name)[..4096], before[..4096]);
        if spoil == 3 {
            // What comes back after that is not mended a second time.
            platter.flip(name, spoil, 2);
            assert_eq!(pass(&mut wal, &mut now).len(), 1);
            assert_eq!(pass(&mut wal, &mut now), []);
            assert!(wal.failing().unwrap().to_string().contains(name));
            assert_ne!(file(&platter, name)[..4096], before[..4096]);
            platter.overwrite(name, 0, &before[..4096]);
        }
    }
    assert_eq!((wal.stats().scrub_mended, wal.health()), (3, &Health::Running));
    drop(wal.into_disk().power_loss());
    let (wal, told) = open(&platter);
    assert_eq!((wal.recovered().damage.len(), told.streams.entries[&1].len()), (0, 60));
    assert!(told.is_calm());
}

#[test]
fn a_header_that_cannot_be_read_is_mended_too_and_one_that_was_lost_before_is_named_at_every_open() {
    let (mut wal, platter, mut now) = log(60);
    let name = segments(&platter)[1].0.clone();
    platter.damage(&name, 0, FaultKind::Errno(libc::EIO));
    let named = pass(&mut wal, &mut now);
    assert_eq!((named.len(), named[0].kind), (1, DamageKind::Header));
    assert_eq!(pass(&mut wal, &mut now), [], "the device has a good block there now");
    platter.flip(&name, 20, 1);
    drop(wal.into_disk().crash_kill());
    for _ in 0..3 {
        let (mut wal, told) = open(&platter);
        let damage = wal.recovered().damage.clone();
        assert_eq!((damage.len(), &damage[0].segment, damage[0].kind), (1, &name, DamageKind::Header));
        assert!(told.is_calm() && told.streams.entries[&1].len() == 60);
        assert_eq!(pass(&mut wal, &mut now), [], "nobody knows what it said, and it was told");
        drop(wal.into_disk().crash_kill());
    }
}

#[test]
fn a_damaged_seal_is_named_and_written_again() {
    for restart in [false, true] {
        let (mut wal, platter, mut now) = log(60);
        let (name, offset) = segments(&platter)[1].clone();
        if restart {
            drop(wal.into_disk().crash_kill());
            (wal, _) = open(&platter);
        }
        assert_eq!(&file(&platter, &name)[offset as usize..][..4], b"LDS2", "a seal");
        // Of a magic, a length, a position, a directory.
        for at in [1, 5, 17, 78] {
            platter.flip(&name, offset + at, 8);
            let named = pass(&mut wal, &mut now);
            assert_eq!(named.len(), 1, "byte {at}: {named:?}");
            assert_eq!(
                (&named[0].segment, named[0].offset, named[0].kind),
                (&name, offset, DamageKind::Seal)
            );
            assert!(named[0].to_string().contains("seal"), "{}", named[0]);
            assert_eq!(pass(&mut wal, &mut now), []);
            drop(wal.into_disk().crash_kill());
            (wal, _) = open(&platter);
        }
        // It does what a seal is for: the batch in front of it and the next segment's first one go.
        drop(wal.into_disk().crash_kill());
        let places = batches(&platter);
        let last = places.iter().rposition(|(other, ..)| *other == name).unwrap();
        let lost: Vec<u64> = [last, last + 1].map(|place| place as u64 + 1).to_vec();
        for (name, offset, _) in &places[last..=last + 1] {
            platter.overwrite(name, *offset, &[0; 4096]);
        }
        let (_, told) = open(&platter);
        assert_eq!((told.damaged, told.unknown), (vec![(1, lost[0], lost[0]), (1, lost[1], lost[1])], false));
    }
}

#[test]
fn a_segment_that_never_had_a_seal_lacks_none() {
    let (mut wal, platter, mut now) = log(5);
    // Every process leaves a segment behind that is not full.
    for life in 1..=6 {
        append(&mut wal, 5 + 8 * (life - 1) + 1..=5 + 8 * life, &mut now);
        drop(wal.into_disk().power_loss());
        (wal, _) = open(&platter);
        assert_eq!(pass(&mut wal, &mut now), []);
    }
    assert_eq!((wal.stats().scrub_damage, wal.failing()), (0, None));
}

#[test]
fn a_damaged_mark_is_named_and_the_next_marks_take_its_place() {
    let (mut wal, platter, mut now) = log(20);
    assert_eq!(pass(&mut wal, &mut now), []);
    for (slot, what) in [(0, FaultKind::Garbage { sector: 0, seed: 3 }), (1, FaultKind::Errno(libc::EIO))] {
        // Marks come every second, which is a pass: damage them when the scrubber is about to look.
        let mut named = Vec::new();
        while named.is_empty() {
            platter.damage("wal.marks", slot * SLOT, what);
            named = pass(&mut wal, &mut now);
        }
        assert_eq!((named[0].segment.as_str(), named[0].offset), ("wal.marks", slot * SLOT));
        assert_eq!(named[0].kind, DamageKind::Mark);
        (0..20).for_each(|_| turn(&mut wal, &mut now));
        assert_eq!(pass(&mut wal, &mut now), []);
    }
    assert_eq!((wal.stats().scrub_mended, wal.failing()), (2, None));
    drop(wal.into_disk().power_loss());
    let (wal, told) = open(&platter);
    assert!(told.is_calm() && wal.recovered().damage.is_empty());
}

#[test]
fn opening_names_marks_that_are_damaged_for_certain_and_no_others() {
    let (wal, platter, now) = log(20);
    wal.close(now).unwrap();
    let newest = |platter: &SimPlatter| {
        let bytes = file(platter, "wal.marks");
        let number = |slot: usize| u64::from_le_bytes(bytes[slot * 65536 + 24..][..8].try_into().unwrap());
        u64::from(number(1) > number(0))
    };
    let damage = |platter: &SimPlatter, slots: &[u64]| {
        let copy = platter.copy(2);
        for slot in slots {
            copy.flip("wal.marks", slot * SLOT + 40, 1);
        }
        let (wal, told) = open(&copy);
        assert!(told.is_calm() && told.streams.entries[&1].len() == 20);
        let named = wal.recovered().damage.clone();
        assert!(named.iter().all(|damage| damage.kind == DamageKind::Mark), "{named:?}");
        named.len()
    };
    let last = newest(&platter);
    assert_eq!(damage(&platter, &[1 - last]), 1, "the log was closed: nobody was writing it");
    assert_eq!(damage(&platter, &[last]), 0, "the last mark may have been torn");
    assert_eq!(damage(&platter, &[0, 1]), 2, "they are not written at the same time");
}

#[test]
fn states_that_no_entry_shares_its_block_with_are_named_and_kept() {
    let (mut wal, platter, mut now) = log(4);
    let slot = wal.stream(StreamId(7));
    wal.put_state(slot, b"vote").unwrap();
    settle(&mut wal, &mut now);
    let (name, offset, _) = batches(&platter).pop().unwrap();
    append(&mut wal, 5..=40, &mut now);
    platter.flip(&name, offset + 10, 1);
    let named = pass(&mut wal, &mut now);
    assert_eq!((named.len(), &named[0].segment, named[0].offset), (1, &name, offset));
    settle(&mut wal, &mut now);
    drop(wal.into_disk().power_loss());
    let (_, told) = open(&platter);
    assert_eq!((told.streams.states[&7].as_slice(), told.in_doubt.len()), (&b"vote"[..], 0));
}
