//! A real file system of 64 MiB, filled to the brim: writes stop, reads go on, the log opens, and when space returns it goes on.
//! Needs root for the loop-back mount; without it the test says so and passes. `LOGDRIVE_LOOPBACK=required` makes that a failure.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Streams, header, payload};
use logdrive_wal::{
    AppendError, DurableWrites, Health, Options, RingDisk, RingOptions, StreamId, StreamSlot, Ticket, Wal,
};

type Log = Wal<RingDisk>;

/// A mounted file system, gone with this value.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    fn new() -> Result<Mounted, String> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
        let mounted = Mounted { directory };
        std::fs::create_dir(mounted.root()).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mounted.root()])?;
        Ok(mounted)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the kernel ends a ring's hold on its files at its leisure. Not mounted if `new` failed: nothing to undo then.
        let _ = run("umount", &["-l".as_ref(), &self.root()]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {stderr}")) }
}

fn open(root: &Path, durable_writes: DurableWrites) -> (Log, Streams) {
    let disk = RingDisk::open(root, RingOptions { durable_writes, ..RingOptions::default() }).unwrap();
    let options = Options {
        segment_bytes: 1 << 20,
        batch_bytes_max: 64 << 10,
        payload_bytes_max: 32 << 10,
        budget_bytes: 1 << 30,
        ..Options::default()
    };
    let mut found = Streams::default();
    (Wal::open(disk, options, 0, &mut found).unwrap(), found)
}

/// Appends until the disk is full, and notes each entry's ticket.
fn fill(wal: &mut Log, slot: StreamSlot, tickets: &mut Vec<Ticket>, now: &mut u64) {
    loop {
        let index = wal.entries(slot).map_or(1, |(_, last)| last + 1);
        let appended = wal.append(slot, header(index), &payload(1, index, 20_000));
        *now += 1_000_000;
        wal.submit(*now);
        wal.poll(*now);
        for _ in 0..1000 {
            if wal.backlog_bytes() < 256 << 10 || *wal.health() != Health::Running {
                break;
            }
            *now += 1_000_000;
            wal.submit(*now);
            wal.wait(|| *now);
        }
        match appended {
            Ok(ticket) => tickets.push(ticket),
            Err(AppendError::OutOfSpace { .. }) => return,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Gives the disk time to make durable what it has room for; the last index that is.
fn settle(wal: &mut Log, tickets: &[Ticket], now: &mut u64) -> u64 {
    for _ in 0..200 {
        if wal.durable() == wal.last_ticket() {
            break;
        }
        *now += 100_000_000;
        wal.submit(*now);
        wal.wait(|| *now);
        assert!(!matches!(wal.health(), Health::Poisoned(_)), "{:?}", wal.health());
    }
    tickets.iter().filter(|ticket| **ticket <= wal.durable()).count() as u64
}

fn read(wal: &mut Log, slot: StreamSlot, index: u64) {
    wal.read(index, slot, index, index, u32::MAX);
    let done = loop {
        wal.submit(1);
        wal.wait(|| 1);
        if let Some(done) = wal.poll_read() {
            break done;
        }
    };
    assert_eq!(done.result.unwrap()[0].1, payload(1, index, 20_000));
}

fn brim(durable_writes: DurableWrites) {
    let mounted = match Mounted::new() {
        Ok(mounted) => mounted,
        Err(why) if std::env::var("LOGDRIVE_LOOPBACK").is_err() => return eprintln!("skipped: {why}"),
        Err(why) => panic!("{why}"),
    };
    // What somebody else has on the disk, and later takes away.
    let filler = mounted.root().join("filler");
    std::fs::write(&filler, vec![7; 24 << 20]).unwrap();
    let log = mounted.root().join("log");
    std::fs::create_dir(&log).unwrap();
    let mut now = 1;
    let (mut wal, _) = open(&log, durable_writes);
    let slot = wal.stream(StreamId(1));
    let mut tickets = Vec::new();
    fill(&mut wal, slot, &mut tickets, &mut now);
    // The last bytes, too.
    let mut rest = std::fs::File::create(mounted.root().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[1; 4096]).is_ok() {}
    drop(rest);
    // What found no segment any more waits, and was not acknowledged.
    let acknowledged = settle(&mut wal, &tickets, &mut now);
    assert!(acknowledged > 500, "{acknowledged}");
    for index in [1, acknowledged / 2, acknowledged] {
        read(&mut wal, slot, index);
    }
    drop(wal);
    // It opens on the full disk, with everything.
    let (mut wal, found) = open(&log, durable_writes);
    let recovered = found.entries[&1].len() as u64;
    assert!(recovered >= acknowledged, "{recovered} of {acknowledged}");
    let slot = wal.stream(StreamId(1));
    read(&mut wal, slot, recovered);
    // Tickets begin anew; what came back is durable.
    let mut tickets = vec![Ticket(0); recovered as usize];
    fill(&mut wal, slot, &mut tickets, &mut now);
    let before = tickets.len() as u64;
    // Space returns, and the log goes on by itself, with what waited first.
    std::fs::remove_file(&filler).unwrap();
    for _ in 0..1000 {
        now += 100_000_000;
        wal.submit(now);
        wal.wait(|| now);
        if wal.admit(100_000).is_ok() {
            break;
        }
    }
    fill(&mut wal, slot, &mut tickets, &mut now);
    let acknowledged = settle(&mut wal, &tickets, &mut now);
    assert!(acknowledged > before + 300, "{before} {acknowledged}, {:?}", wal.health());
    drop(wal);
    let (wal, found) = open(&log, durable_writes);
    assert!(found.entries[&1].len() as u64 >= acknowledged);
    drop(wal);
}

#[test]
fn a_real_disk_filled_to_the_brim_with_dsync_writes() {
    brim(DurableWrites::Dsync);
}

#[test]
fn a_real_disk_filled_to_the_brim_with_linked_syncs() {
    brim(DurableWrites::Fsync);
}
