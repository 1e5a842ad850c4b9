//! Files written by earlier versions are read for ever. `LOGDRIVE_WRITE_FIXTURE=1 cargo test -p logdrive --test snapshot_files
//! fixture` writes those of this version, into a directory that does not exist yet.

use std::path::{Path, PathBuf};

use logdrive::snapshot::{Compression, SnapshotFileSettings};
use logdrive_shard::{GroupId, LogIndex};
use logdrive_wal::{Disk, Done, FileId, Op, OpenMode, SimDisk, Token};

use crate::common::{Bench, meta, settings, sim, state};

const VERSION: u32 = 1;

fn path(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/snapshot-v{version}"))
}

/// What is in the fixture: group, and content that does and that does not compress.
fn content(group: u64) -> Vec<u8> {
    let mut content = state(group, 33, 9000);
    content[2000..7000].fill(5);
    content
}

fn write() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (group, compression) in [(1, Compression::Off), (2, Compression::Lz4)] {
        let settings = SnapshotFileSettings { compression, id_seed: 0x1234, ..settings() };
        let mut bench = Bench::open(sim(1), settings);
        bench.write(meta(group, 33), &content(group)).unwrap();
        bench.settle();
        let platter = bench.store.close().platter();
        files.extend(
            platter.list().into_iter().map(|(name, _)| (name.clone(), platter.read_file(&name).unwrap())),
        );
    }
    files
}

fn perform(disk: &mut SimDisk, op: Op) -> Done {
    disk.submit(Token(0), op);
    let mut ended = Vec::new();
    disk.wait(&mut ended);
    ended.pop().unwrap().result.unwrap()
}

fn put(disk: &mut SimDisk, name: &str, bytes: &[u8]) {
    let opened = perform(disk, Op::Open { name: name.to_owned(), mode: OpenMode::CreateNew });
    let Done::Opened { file, .. } = opened else { panic!("{opened:?}") };
    let mut buffer = disk.buffer(bytes.len());
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    let file: FileId = file;
    perform(disk, Op::Write { file, offset: 0, buffer, len: bytes.len() as u32, durable: true });
    perform(disk, Op::Close { file });
}

#[test]
fn snapshots_of_all_versions_are_read() {
    if std::env::var_os("LOGDRIVE_WRITE_FIXTURE").is_some() && !path(VERSION).exists() {
        std::fs::create_dir_all(path(VERSION)).unwrap();
        for (name, bytes) in write() {
            std::fs::write(path(VERSION).join(name), bytes).unwrap();
        }
    }
    for version in 1..=VERSION {
        let mut disk = sim(1);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path(version)).unwrap() {
            let entry = entry.unwrap();
            names.push(entry.file_name().into_string().unwrap());
            put(&mut disk, names.last().unwrap(), &std::fs::read(entry.path()).unwrap());
        }
        let mut bench = Bench::open(disk, settings());
        for group in [1, 2] {
            let header = bench.store.newest(GroupId(group), 0).unwrap().unwrap().clone();
            assert_eq!((header.index, header.membership_index), (LogIndex(33), LogIndex(16)));
            assert_eq!(header.membership, meta(group, 33).membership);
            assert_eq!(bench.read(header.id).unwrap(), (meta(group, 33).sessions, content(group)));
        }
        assert_eq!(names.len(), 2);
    }
}

/// A change of what is written is a change of the format, and wants a new version and a new fixture.
#[test]
fn what_is_written_today_is_the_fixture_of_this_version() {
    for (name, bytes) in write() {
        let fixture = std::fs::read(path(VERSION).join(&name)).unwrap();
        // How well the compressor does may change with its version; what it wrote is read all the same.
        if name.starts_with("0000000000000001") {
            assert!(fixture == bytes, "{name} is written differently");
        }
    }
}

/// A program in another language reads the fixture, from FORMAT.md's description alone.
#[test]
fn a_reader_in_python_reads_the_fixture() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshot_files/reader.py");
    let mut said = Vec::new();
    for entry in std::fs::read_dir(path(1)).unwrap() {
        let output = std::process::Command::new("python3").arg(&script).arg(entry.unwrap().path()).output();
        let output = output.expect("python3 runs: install it (apt-get install python3), this test needs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        said.push(String::from_utf8(output.stdout).unwrap());
    }
    said.sort();
    // Group, life, index, term, configuration's index, voters, bytes of the sessions, bytes of the state.
    assert_eq!(said, ["1 0 33 7 16 (1, 2, 3) 148 9000\n", "2 0 33 7 16 (1, 2, 3) 148 9000\n"]);
}
