//! Directories that do not open, and what is cut where a log was torn.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, header, payload, settle, small};
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
