//! Opening while the disk is full, whatever operation it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{
    AppendError, Fault, FaultKind, Health, OpKind, OpenError, Options, SimDisk, SimOptions, SimPlatter,
    StreamId, Wal,
};

type Log = Wal<SimDisk>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    Kill,
    Power,
}

fn options() -> Options {
    Options { budget_bytes: 16 * (64 << 10), ..small() }
}

fn refuse(platter: &SimPlatter, on: OpKind, name: &str, skip: u32, times: u32, what: FaultKind) {
    platter.inject(Fault { on, name_contains: name.to_owned(), durable: None, skip, times, what });
}

/// A log of so many entries, and how its process ended. An unfinished file is left over.
fn log(seed: u64, entries: u64, end: End) -> SimPlatter {
    let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options(), 0, &mut Streams::default()).unwrap();
    let mut now = 0;
    append(&mut wal, 1, entries, &mut now);
    match end {
        End::Close => wal.close(now).unwrap(),
        End::Kill => drop(wal.into_disk().crash_kill()),
        End::Power => drop(wal.into_disk().power_loss()),
    }
    platter
}

fn append(wal: &mut Log, first: u64, last: u64, now: &mut u64) {
    let slot = wal.stream(StreamId(1));
    for index in first..=last {
        wal.append(slot, header(index), &payload(1, index, 3000)).unwrap();
        settle(wal, now);
    }
}

fn open(platter: &SimPlatter, what: &str) -> (Log, u64) {
    let mut found = Streams::default();
    let wal = Wal::open(platter.open().unwrap(), options(), 0, &mut found)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let entries = found.entries.get(&1).map_or(0, |entries| {
        assert!(entries.iter().all(|(index, entry)| entry.2 == payload(1, *index, 3000)), "{what}");
        entries.len() as u64
    });
    (wal, entries)
}

/// Space returns: the log goes on by itself, and is whole afterwards.
fn recovers(mut wal: Log, platter: &SimPlatter, entries: u64, what: &str) {
    platter.clear_faults();
    let mut now = 0;
    for _ in 0..100 {
        now += 20_000_000;
        wal.submit(now);
        wal.poll(now);
    }
    assert_eq!(*wal.health(), Health::Running, "{what}");
    append(&mut wal, entries + 1, entries + 20, &mut now);
    drop(wal.into_disk().power_loss());
    let (wal, found) = open(platter, what);
    assert_eq!(found, entries + 20, "{what}");
    drop(wal.into_disk().crash_kill());
}

#[test]
fn field_28_opening_survives_a_full_disk_whatever_it_refuses() {
    // Opening a file that is there allocates nothing.
    let kinds = [
        (OpKind::Open, ".new"),
        (OpKind::Write, ""),
        (OpKind::Rename, ""),
        (OpKind::Unlink, ""),
        (OpKind::SyncDir, ""),
        (OpKind::Sync, ".new"),
    ];
    let errno = FaultKind::Errno(libc::ENOSPC);
    for end in [End::Close, End::Kill, End::Power] {
        for (seed, entries) in [(1, 3), (2, 40), (3, 100)] {
            // One after the other, each once and for ever; then all of them together.
            for (number, &(kind, name)) in kinds.iter().enumerate() {
                for (skip, times) in [(0, 1), (1, 1), (2, 1), (3, 2), (0, u32::MAX), (1, u32::MAX)] {
                    let what = format!("{end:?}, {entries} entries, {kind:?} {number} {skip} {times}");
                    let platter = log(seed, entries, end);
                    refuse(&platter, kind, name, skip, times, errno);
                    let (wal, found) = open(&platter, &what);
                    assert_eq!(found, entries, "{what}");
                    recovers(wal, &platter, entries, &what);
                }
            }
            let what = format!("{end:?}, {entries} entries, everything");
            let platter = log(seed, entries, end);
            kinds.iter().for_each(|&(kind, name)| refuse(&platter, kind, name, 0, u32::MAX, errno));
            let (mut wal, found) = open(&platter, &what);
            assert_eq!(found, entries, "{what}");
            let refused = wal.admit(5000);
            assert!(matches!(refused, Err(AppendError::OutOfSpace { .. })), "{what}: {refused:?}");
            // Reads go on.
            let slot = wal.stream(StreamId(1));
            wal.read(1, slot, entries, entries, u32::MAX);
            let read = loop {
                wal.submit(1);
                wal.poll(1);
                if let Some(done) = wal.poll_read() {
                    break done.result.unwrap();
                }
            };
            assert_eq!(read[0].1, payload(1, entries, 3000));
            recovers(wal, &platter, entries, &what);
        }
    }
}

#[test]
fn field_28_a_new_log_opens_on_a_full_disk_and_begins_when_there_is_space() {
    let errno = FaultKind::Errno(libc::ENOSPC);
    for kinds in [&[OpKind::Open][..], &[OpKind::Write], &[OpKind::Sync], &[OpKind::Write, OpKind::Unlink]] {
        let disk = SimDisk::new(SimOptions::default());
        let platter = disk.platter();
        kinds.iter().for_each(|&kind| refuse(&platter, kind, "", 0, u32::MAX, errno));
        let wal = Wal::open(disk, options(), 0, &mut Streams::default());
        recovers(
            wal.unwrap_or_else(|error| panic!("{kinds:?}: {error}")),
            &platter,
            0,
            &format!("{kinds:?}"),
        );
    }
}

#[test]
fn what_a_full_disk_refuses_to_flush_is_written_once_more_before_it_counts() {
    for seed in 0..20 {
        for entries in [1, 12, 40] {
            // The last entries were written by a process that died before anything attested them.
            let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
            let platter = disk.platter();
            let mut wal = Wal::open(disk, options(), 0, &mut Streams::default()).unwrap();
            let mut now = 0;
            append(&mut wal, 1, entries, &mut now);
            let slot = wal.stream(StreamId(1));
            for index in entries + 1..=entries + 4 {
                wal.append(slot, header(index), &payload(1, index, 3000)).unwrap();
                wal.submit(now);
            }
            drop(wal.into_disk().crash_kill());
            // The flush fails, and what the cache held is forgotten with it.
            refuse(&platter, OpKind::Sync, ".seg", 0, u32::MAX, FaultKind::Forgets(libc::ENOSPC));
            let what = format!("seed {seed}, {entries} entries");
            let (wal, found) = open(&platter, &what);
            assert!(found >= entries, "{what}");
            drop(wal.into_disk().power_loss());
            platter.clear_faults();
            let (wal, again) = open(&platter, &what);
            assert_eq!(again, found, "{what}: what opening told is durable");
            drop(wal.into_disk().crash_kill());
        }
    }
}

#[test]
fn a_disk_that_takes_neither_a_flush_nor_a_write_opens_no_log_that_might_forget() {
    let platter = log(5, 30, End::Kill);
    // Nothing attests the last batch: it may be in a cache.
    let errno = FaultKind::Errno(libc::ENOSPC);
    refuse(&platter, OpKind::Sync, "", 0, u32::MAX, errno);
    refuse(&platter, OpKind::Write, "", 0, u32::MAX, errno);
    let refused = Wal::open(platter.open().unwrap(), options(), 0, &mut Streams::default());
    assert!(matches!(&refused, Err(OpenError::Disk(error)) if error.is_out_of_space()));
    drop(refused);
    platter.clear_faults();
    let (wal, found) = open(&platter, "with space");
    assert_eq!(found, 30);
    drop(wal.into_disk().crash_kill());
    // Where everything is attested there is nothing to flush.
    let platter = log(5, 30, End::Close);
    refuse(&platter, OpKind::Sync, "", 0, u32::MAX, errno);
    refuse(&platter, OpKind::Write, "", 0, u32::MAX, errno);
    let (wal, found) = open(&platter, "closed in order");
    assert_eq!(found, 30);
    recovers(wal, &platter, 30, "closed in order");
}
