//! Directories written by earlier versions are read for ever. `LOGDRIVE_WRITE_FIXTURE=1 cargo test -p logdrive-wal --test fixture`
//! writes the one of this version, into a directory that does not exist yet.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Streams, header, payload, settle};
use logdrive_wal::offline::Log;
use logdrive_wal::{
    Disk, Done, EntryHeader, Op, OpenError, OpenMode, Options, SimDisk, SimOptions, StreamId, Token, Wal,
};

fn options() -> Options {
    Options {
        segment_bytes: 24 << 10,
        batch_bytes_max: 4 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: 1 << 20,
        log_id: 0x1f1f_2e2e_3d3d_4c4c,
        ..Options::default()
    }
}

fn path(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

/// What the fixture holds: entries, overwrites, states, compactions, streams and fields of every width, several segments.
fn write(wal: &mut Wal<SimDisk>) -> Streams {
    let mut model = Streams::default();
    let mut now = 0;
    for index in 1..=14u64 {
        for stream in [1, 300, 70_000, u64::MAX] {
            let slot = wal.stream(StreamId(stream));
            let place = EntryHeader { index, tag: index << 40, note: u64::MAX - index };
            let payload = payload(stream % 1000, index, (index * 37 % 400) as usize);
            wal.append(slot, place, &payload).unwrap();
            model.append(stream, place, &payload);
        }
        settle(wal, &mut now);
    }
    let slot = wal.stream(StreamId(1));
    for (index, len) in [(9, 0), (10, 6000), (11, 5)] {
        let payload = payload(1, index, len);
        wal.append(slot, header(index), &payload).unwrap();
        model.append(1, header(index), &payload);
    }
    wal.put_state(slot, b"a state").unwrap();
    model.states.insert(1, b"a state".to_vec());
    settle(wal, &mut now);
    let slot = wal.stream(StreamId(300));
    wal.compact(slot, 5).unwrap();
    model.compact(300, 5);
    wal.put_state(slot, b"").unwrap();
    model.states.insert(300, Vec::new());
    settle(wal, &mut now);
    model
}

fn fresh() -> (Wal<SimDisk>, logdrive_wal::SimPlatter) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    (Wal::open(disk, options(), 0, &mut Streams::default()).unwrap(), platter)
}

/// A simulated disk with the files of a directory.
fn load(directory: &Path) -> SimDisk {
    let mut disk = SimDisk::new(SimOptions::default());
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        let mut completions = Vec::new();
        let name = entry.file_name().into_string().unwrap();
        disk.submit(Token(1), Op::Open { name, mode: OpenMode::CreateNew });
        disk.wait(&mut completions);
        let Ok(Done::Opened { file, .. }) = completions[0].result else { panic!("{completions:?}") };
        let mut buffer = disk.buffer(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        disk.submit(Token(2), Op::Write { file, offset: 0, buffer, len: bytes.len() as u32, durable: true });
        disk.submit(Token(3), Op::SyncDir);
        disk.wait(&mut completions);
    }
    disk
}

#[test]
fn a_directory_of_version_2_is_read() {
    let (mut wal, platter) = fresh();
    let model = write(&mut wal);
    wal.close(0).unwrap();
    let directory = path(2);
    if std::env::var_os("LOGDRIVE_WRITE_FIXTURE").is_some() {
        std::fs::create_dir(&directory).unwrap();
        for (name, _) in platter.list() {
            std::fs::write(directory.join(&name), platter.read_file(&name).unwrap()).unwrap();
        }
    }
    let mut found = Streams::default();
    let wal = Wal::open(load(&directory), options(), 0, &mut found).unwrap();
    assert_eq!(found, model);
    assert!(wal.recovered().segments > 2);
    let summary = Log::open(&directory).unwrap().verify();
    assert!(summary.is_sound(), "{summary:?}");
    assert_eq!((summary.records, summary.streams), (14 * 4 + 3 + 1 + 2, 4));
}

#[test]
fn this_version_still_writes_the_same_bytes() {
    let (mut wal, platter) = fresh();
    write(&mut wal);
    wal.close(0).unwrap();
    for entry in std::fs::read_dir(path(2)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let same = platter.read_file(&name) == Some(std::fs::read(entry.path()).unwrap());
        assert!(same, "{name} differs: a change of the format needs a new version and a new fixture");
    }
}

#[test]
fn a_directory_of_version_1_is_refused_by_its_version() {
    let opened = Wal::open(load(&path(1)), options(), 0, &mut Streams::default());
    let Err(OpenError::Version { found: 1, supported: 2, .. }) = opened else { panic!("{:?}", opened.err()) };
}

/// Sixty lines of another language read the fixture, from FORMAT.md's description alone.
#[test]
fn a_reader_in_python_reads_the_fixture() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py");
    let lines = std::fs::read_to_string(&script).unwrap().lines().count();
    assert!(lines <= 60, "{lines} lines: the format is not simple any more");
    let output = std::process::Command::new("python3").arg(&script).arg(path(2)).output();
    let output = output.expect("python3 runs: install it (apt-get install python3), this test needs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = Streams::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let hex = words[5].as_bytes().chunks(2);
        let payload: Vec<u8> =
            hex.map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap()).collect();
        match words[0] {
            "entry" => {
                let header = EntryHeader { index: number(2), tag: number(3), note: number(4) };
                found.append(number(1), header, &payload);
            }
            "state" => {
                found.states.insert(number(1), payload);
            }
            _ => found.compact(number(1), number(2)),
        }
    }
    let (mut wal, _) = fresh();
    assert_eq!(found, write(&mut wal));
}
