//! Directories that do not open, and what is cut where a log was torn.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, batches, header, payload, settle, small};
use logdrive_wal::{
    OpenError, Options, RingDisk, RingError, RingOptions, SimDisk, SimOptions, SimPlatter, StreamId, Wal,
};

fn log(entries: u64) -> (SimPlatter, Streams) {
    log_with(entries, small(), 0)
}

fn log_with(entries: u64, options: Options, now: u64) -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options, now, &mut Streams::default()).unwrap();
    let mut model = Streams::default();
    let mut clock = now;
    let slot = wal.stream(StreamId(1));
    for index in 1..=entries {
        let payload = payload(1, index, 3000);
        wal.append(slot, header(index), &payload).unwrap();
        model.append(1, header(index), &payload);
        settle(&mut wal, &mut clock);
    }
    wal.close(clock).unwrap();
    (platter, model)
}

fn open(platter: &SimPlatter, options: Options) -> Result<(Wal<SimDisk>, Streams), OpenError> {
    let mut found = Streams::default();
    Wal::open(platter.open().unwrap(), options, 0, &mut found).map(|wal| (wal, found))
}

fn refused(platter: &SimPlatter, options: Options) -> OpenError {
    let contents = || -> Vec<_> {
        platter.list().into_iter().map(|(name, _)| (platter.read_file(&name).unwrap(), name)).collect()
    };
    let before = contents();
    let error = match open(platter, options) {
        Ok(_) => panic!("the log opened"),
        Err(error) => error,
    };
    assert!(contents() == before, "a log that is refused is not changed");
    error
}

fn used(platter: &SimPlatter) -> Vec<String> {
    let is_used = |name: &String| {
        if !name.ends_with(".seg") {
            return false;
        }
        let bytes = platter.read_file(name).unwrap();
        let number = u64::from_str_radix(&name[4..20], 16).unwrap();
        bytes[..8] == *b"LDSEGMNT" && bytes[24..32] == number.to_le_bytes()
    };
    platter.list().into_iter().map(|(name, _)| name).filter(is_used).collect()
}

#[test]
fn a_segment_of_another_version_is_refused() {
    let (platter, _) = log(3);
    let name = used(&platter)[0].clone();
    let mut block = platter.read_file(&name).unwrap()[..4096].to_vec();
    block[8] = 9;
    // As a later version would write it: with a checksum that is right.
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &block[16..128]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    platter.overwrite(&name, 0, &block);
    match refused(&platter, small()) {
        OpenError::Version { segment, found, supported } => {
            assert_eq!((segment, found, supported), (name, 9, 2))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_foreign_file_with_the_name_of_a_segment_is_refused() {
    let (platter, _) = log(3);
    let name = platter.list().into_iter().rfind(|(name, _)| name.ends_with(".seg")).unwrap().0;
    platter.overwrite(&name, 0, b"#!/bin/sh\n");
    assert!(matches!(refused(&platter, small()), OpenError::ForeignFile { name: n, .. } if n == name));
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (platter, _) = log_with(3, small(), 1);
    let (other, _) = log_with(3, small(), 2);
    let name = used(&platter)[0].clone();
    platter.overwrite(&name, 0, &other.read_file(&name).unwrap()[..4096]);
    // It is the only segment in use, so the directory looks like the other log, unless the owner knows its number.
    let (wanted, _) = log_with(1, Options { log_id: 77, ..small() }, 1);
    assert!(matches!(refused(&platter, Options { log_id: 77, ..small() }), OpenError::ForeignFile { .. }));
    assert!(open(&wanted, Options { log_id: 77, ..small() }).is_ok());
    let (long, _) = log_with(40, small(), 1);
    let middle = used(&long)[1].clone();
    let (foreign, _) = log_with(40, small(), 2);
    long.overwrite(&middle, 0, &foreign.read_file(&middle).unwrap()[..4096]);
    assert!(matches!(refused(&long, small()), OpenError::ForeignFile { name, .. } if name == middle));
}

#[test]
fn a_missing_segment_is_refused() {
    for missing in 0..3 {
        let (platter, _) = log(60);
        let names = used(&platter);
        assert!(names.len() > 3);
        platter.remove(&names[missing]);
        match refused(&platter, small()) {
            OpenError::MissingSegment { segment } => assert_eq!(segment, names[missing]),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_unfinished_segment_is_removed_and_other_files_stay() {
    let (platter, model) = log(3);
    let mut disk = platter.open().unwrap();
    for name in ["wal-00000000000000ff.new", "snapshot-7", "wal-readme.seg"] {
        use logdrive_wal::{Disk, Op, OpenMode, Token};
        disk.submit(Token(1), Op::Open { name: name.to_owned(), mode: OpenMode::CreateNew });
        disk.poll(&mut Vec::new());
    }
    drop(disk);
    let (_, found) = open(&platter, small()).unwrap();
    assert_eq!(found, model);
    let names: Vec<_> = platter.list().into_iter().map(|(name, _)| name).collect();
    assert!(!names.contains(&"wal-00000000000000ff.new".to_owned()));
    assert!(names.contains(&"snapshot-7".to_owned()) && names.contains(&"wal-readme.seg".to_owned()));
}

#[test]
fn impossible_options_are_refused_with_the_reason() {
    let cases = [
        Options { segment_bytes: 5000, ..small() },
        Options { payload_bytes_max: 64 << 10, ..small() },
        Options { budget_bytes: 100_000, ..small() },
        Options { writes_in_flight: 0, ..small() },
    ];
    for options in cases {
        let disk = SimDisk::new(SimOptions::default());
        match Wal::open(disk, options, 0, &mut Streams::default()) {
            Err(OpenError::Options { why }) => assert!(why.len() > 20, "{why}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("opened"),
        }
    }
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_directory() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let _first = RingDisk::open(directory.path(), RingOptions::default()).unwrap();
    let options = RingOptions { lock_wait_ms: 100, ..RingOptions::default() };
    match RingDisk::open(directory.path(), options) {
        Err(error @ RingError::Locked { .. }) => {
            assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened twice"),
    }
}

#[test]
fn the_last_batch_torn_at_each_sector_is_cut_as_a_whole() {
    let (platter, _) = log(5);
    // Three more batches of 6 KiB, two blocks each: the last one is torn at every sector, forwards and backwards.
    let mut wal = open(&platter, small()).unwrap().0;
    let slot = wal.stream(StreamId(1));
    let mut clock = 1;
    for index in 6..=8 {
        wal.append(slot, header(index), &payload(1, index, 6000)).unwrap();
        settle(&mut wal, &mut clock);
    }
    drop(wal);
    let name = used(&platter).pop().unwrap();
    let full = platter.read_file(&name).unwrap();
    let last = (4096..full.len()).step_by(4096).filter(|at| full[*at..].starts_with(b"LDB2")).max().unwrap();
    for sector in 0..12 {
        for backwards in [false, true] {
            let mut torn = full.clone();
            let edge = last + sector * 512;
            let range = if backwards { last..edge } else { edge..last + 6144 };
            torn[range].fill(0);
            let intact = torn == full;
            let copy = SimDisk::new(SimOptions::default());
            let torn_platter = copy.platter();
            restore(copy, &platter, &name, &torn);
            let (wal, found) = open(&torn_platter, small()).unwrap();
            assert_eq!(found.entries[&1].len(), if intact { 8 } else { 7 }, "sector {sector}");
            if !intact {
                assert_eq!(wal.recovered().cut, Some((name.clone(), last as u64)));
            }
        }
    }
}

/// Copies a directory to another disk, with one file's bytes replaced.
fn restore(mut disk: SimDisk, from: &SimPlatter, changed: &str, bytes: &[u8]) {
    use logdrive_wal::{Disk, Done, Op, OpenMode, Token};
    for (name, len) in from.list() {
        let source = if name == changed { bytes.to_vec() } else { from.read_file(&name).unwrap() };
        let mut completions = Vec::new();
        disk.submit(Token(1), Op::Open { name, mode: OpenMode::CreateNew });
        disk.wait(&mut completions);
        let Ok(Done::Opened { file, .. }) = completions[0].result else { panic!("{completions:?}") };
        let mut buffer = disk.buffer(len as usize);
        buffer.as_mut_slice()[..len as usize].copy_from_slice(&source);
        disk.submit(Token(2), Op::Write { file, offset: 0, buffer, len: len as u32, durable: true });
        disk.submit(Token(3), Op::SyncDir);
        disk.wait(&mut completions);
    }
}

#[test]
fn every_flipped_byte_is_a_cut_named_damage_or_harmless_and_never_a_wrong_entry() {
    let options =
        Options { segment_bytes: 24 << 10, batch_bytes_max: 4096, payload_bytes_max: 4000, ..small() };
    for marked in [false, true] {
        let disk = SimDisk::new(SimOptions::default());
        let platter = disk.platter();
        let mut wal = Wal::open(disk, options.clone(), 0, &mut Streams::default()).unwrap();
        let mut prefixes = vec![Streams::default()];
        let mut clock = 0;
        for index in 1..=7u64 {
            let mut model = prefixes[prefixes.len() - 1].clone();
            let slot = wal.stream(StreamId(index % 2));
            let payload = payload(index % 2, index, 300);
            let place = header(index.div_ceil(2));
            wal.append(slot, place, &payload).unwrap();
            model.append(index % 2, place, &payload);
            wal.put_state(slot, &[index as u8; 5]).unwrap();
            model.states.insert(index % 2, vec![index as u8; 5]);
            settle(&mut wal, &mut clock);
            prefixes.push(model);
        }
        if marked {
            wal.close(clock).unwrap();
        } else {
            drop(wal);
        }
        let (mut cut, mut named, mut refusals, mut harmless) = (0, 0, 0, 0);
        for (name, len) in platter.list() {
            for offset in (0..len).step_by(7) {
                let flipped = platter.copy(offset);
                flipped.flip(&name, offset, 1 << (offset % 8));
                let what = format!("{name} {offset}");
                let mut told = Told::default();
                match Wal::open(flipped.open().unwrap(), options.clone(), 0, &mut told) {
                    Ok(wal) if !told.is_calm() => {
                        named += 1;
                        assert!(!wal.recovered().damage.is_empty(), "{what}");
                        let missing = told.missing(prefixes.last().unwrap(), &what);
                        assert!(missing <= 1 && !told.unknown, "{what}: {told:?}");
                    }
                    Ok(_) if Some(&told.streams) == prefixes.last() => harmless += 1,
                    Ok(_) => {
                        // Only the newest batch, if no mark knows of it.
                        assert!(!marked && told.streams == prefixes[prefixes.len() - 2], "{what}");
                        cut += 1;
                    }
                    Err(OpenError::ForeignFile { .. }) => refusals += 1,
                    Err(other) => panic!("{what}: {other}"),
                }
            }
        }
        println!("marked {marked}: {cut} cut, {named} named, {refusals} refused, {harmless} harmless");
        assert!((cut > 50) != marked && named > 100 && harmless > 1000 && refusals < 20);
    }
}

/// A log whose last open cut off a batch that landed afterwards, and wrote nothing: only the header of its empty segment tells
/// that the batch does not count. Returns what counts.
fn cut_and_landed_late() -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    let slot = wal.stream(StreamId(1));
    let (mut model, mut clock) = (Streams::default(), 0);
    // More than half a segment, so that opening does not move it.
    for index in 1..=11 {
        let payload = payload(1, index, 3000);
        wal.append(slot, header(index), &payload).unwrap();
        if index <= 10 {
            model.append(1, header(index), &payload);
        }
        settle(&mut wal, &mut clock);
    }
    drop(wal);
    let (name, offset, _) = batches(&platter).pop().unwrap();
    let late = platter.read_file(&name).unwrap()[offset as usize..][..4096].to_vec();
    // The write was under way when the process died, was not there when the next one looked, and landed before it flushed.
    platter.overwrite(&name, offset, &[0; 4096]);
    let (wal, found) = open(&platter, small()).unwrap();
    assert_eq!(wal.recovered().cut, Some((name.clone(), offset)));
    assert_eq!(found, model);
    wal.into_disk().crash_kill();
    platter.overwrite(&name, offset, &late);
    let newest = used(&platter).pop().unwrap();
    assert!(newest > name);
    let without = platter.copy(1);
    without.overwrite(&newest, 0, &[0; 4096]);
    let brought_back = open(&without, small()).unwrap().1;
    assert_eq!(brought_back.entries[&1].len(), 11, "nothing but a header keeps the batch away");
    (platter, model)
}

#[test]
fn a_tail_that_was_cut_stays_cut_through_crashes_while_the_log_opens() {
    let (origin, model) = cut_and_landed_late();
    let larger = Options { segment_bytes: 128 << 10, ..small() };
    let full = origin.list().iter().map(|(_, len)| len).sum();
    // A new segment follows, or the last one moves to a larger file, or the disk has no room for a file more.
    for (options, capacity) in [(small(), 1 << 30), (larger, 1 << 30), (small(), full)] {
        let mut crashes = 0;
        for power in [false, true] {
            for at in 0.. {
                let platter = origin.copy(at);
                platter.set_capacity(capacity);
                // Three opens die one after the other, the first one after each of its operations.
                let mut done = false;
                for (life, until) in [at, at * 7 % 40, at * 11 % 60].into_iter().enumerate() {
                    platter.halt_after(until);
                    match open(&platter, options.clone()) {
                        Ok((wal, found)) => {
                            assert_eq!(found, model, "power {power}, operation {at}, life {life}");
                            drop(wal.into_disk());
                        }
                        Err(error) => {
                            assert!(platter.halted(), "power {power}, operation {at}, life {life}: {error}")
                        }
                    }
                    done |= life == 0 && !platter.halted();
                    if power {
                        platter.power_loss();
                    }
                    platter.revive();
                }
                let found = open(&platter, options.clone()).unwrap().1;
                assert_eq!(found, model, "power {power}, operation {at}");
                crashes += 1;
                if done {
                    break;
                }
            }
        }
        assert!(crashes > 40, "only {crashes} crashes");
    }
}
