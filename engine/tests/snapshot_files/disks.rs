//! The same on a real disk: io_uring in a temporary directory.

use std::os::fd::BorrowedFd;

use logdrive::snapshot::{Compression, SnapshotFileSettings, SnapshotStore};
use logdrive_shard::GroupId;
use logdrive_wal::{RingDisk, RingOptions};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::common::{Bench, meta, settings, state};

/// Waits until the ring has completions, or for a moment if it has nothing to do.
fn pause(disk: &RingDisk) {
    if disk.in_flight() == 0 {
        return;
    }
    // SAFETY: the descriptor is the disk's, which outlives this function.
    let event = unsafe { BorrowedFd::borrow_raw(disk.event_fd()) };
    let mut wanted = [PollFd::new(&event, PollFlags::IN)];
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut wanted, Some(&limit)).unwrap(), 1, "the disk does not answer");
    rustix::io::read(event, &mut [0; 8]).unwrap();
}

#[test]
fn on_io_uring_snapshots_are_written_kept_copied_and_found_again() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ring = |dir: &tempfile::TempDir| RingDisk::open(dir.path(), RingOptions::default()).unwrap();
    for compression in [Compression::Off, Compression::Lz4] {
        let settings = SnapshotFileSettings { chunk_bytes: 64 << 10, compression, ..settings() };
        let mut bench = Bench { pause, ..Bench::open(ring(&dir), settings.clone()) };
        let mut ids = Vec::new();
        for index in [10, 20, 30] {
            ids.push(bench.write(meta(1, index), &state(1, index, 700_000)).unwrap());
        }
        bench.settle();
        drop(bench.store.close());
        std::fs::write(dir.path().join("0-0-0-0.snapshot-tmp"), b"half").unwrap();
        let (store, opened) = SnapshotStore::open(ring(&dir), settings.clone()).unwrap();
        assert_eq!((opened.snapshots, opened.half_written.len(), opened.damaged.len()), (2, 1, 0));
        let mut bench = Bench { pause, ..Bench::of(store) };
        assert_eq!(bench.newest_index(1), Some(30));
        assert_eq!(bench.read(ids[2]).unwrap(), (meta(1, 30).sessions, state(1, 30, 700_000)));
        let (header, chunks) = bench.chunks(ids[2]);
        let mut copy = Bench { pause, ..Bench::open(ring(&other), settings.clone()) };
        let write = copy.store.begin_receive(&header, 0).unwrap();
        for (number, chunk) in (0..).zip(&chunks).take(6) {
            copy.give(write, ids[2], number, chunk).unwrap();
        }
        // It is gone on with after a restart.
        (0..100).for_each(|_| copy.poll());
        drop(copy.store.close());
        let mut copy = Bench { pause, ..Bench::open(ring(&other), settings.clone()) };
        let write = copy.store.begin_receive(&header, 0).unwrap();
        while copy.store.is_resuming(write) {
            copy.poll();
        }
        assert_eq!(copy.store.progress(write).unwrap().next, 6);
        for (number, chunk) in (0..).zip(&chunks).skip(6) {
            copy.give(write, ids[2], number, chunk).unwrap();
        }
        copy.wait(write).unwrap();
        let name = format!("{:016x}-{:08x}-{:016x}-{:016x}.snapshot", 1, 0, 30, ids[2].0);
        let bytes = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(&name)).unwrap();
        assert_eq!(bytes(&dir), bytes(&other), "the copy is the same file");
        bench.store.forget(GroupId(1), 0);
        copy.store.forget(GroupId(1), 0);
        bench.settle();
        copy.settle();
    }
    let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("snapshot")).collect();
    assert!(left.is_empty(), "{left:?}");
}
