//! A disk that fails while a snapshot is written: this snapshot is lost, and nothing else.

use logdrive::snapshot::{BeginError, SnapshotFileSettings, WriteFailure};
use logdrive_wal::{Fault, FaultKind, OpKind};

use crate::common::{Bench, meta, settings, sim, state};

/// Every operation of a write fails once, and of a reception as well.
#[test]
fn whichever_operation_fails_the_older_snapshot_stays_and_the_next_one_succeeds() {
    let mut source = Bench::open(sim(9), settings());
    let id = source.write(meta(1, 20), &state(1, 20, 20_000)).unwrap();
    let (header, chunks) = source.chunks(id);
    let kinds = [
        OpKind::Open,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Read,
        OpKind::Close,
        OpKind::Rename,
        OpKind::SyncDir,
    ];
    let mut hits = 0;
    for received in [false, true] {
        for kind in kinds {
            for what in [FaultKind::Errno(libc::EIO), FaultKind::Forgets(libc::EIO), FaultKind::Short(512)] {
                for skip in 0..8 {
                    let mut bench = Bench::open(sim(skip.into()), settings());
                    bench.write(meta(1, 10), &state(1, 10, 9_000)).unwrap();
                    let platter = bench.store.disk().platter();
                    platter.inject(Fault::at(kind, skip, what));
                    let result = if received {
                        let write = bench.store.begin_receive(&header, 0).unwrap();
                        for (number, chunk) in (0..).zip(&chunks) {
                            if bench.give(write, id, number, chunk).is_err() {
                                break;
                            }
                        }
                        bench.wait(write)
                    } else {
                        bench.write(meta(1, 20), &state(1, 20, 20_000))
                    };
                    platter.clear_faults();
                    bench.settle();
                    let place = format!("{kind:?} {skip} {what:?}, received: {received}");
                    match result {
                        Ok(_) => assert_eq!(platter.list().len(), 2, "{place}"),
                        Err(failure) => {
                            hits += 1;
                            assert!(failure.to_string().contains("removed"), "{place}: {failure}");
                            assert_eq!(bench.newest_index(1), Some(10), "{place}");
                            assert_eq!(platter.list().len(), 1, "{place}: {:?}", platter.list());
                            let old = bench.store.snapshots().next().unwrap().id;
                            assert_eq!(bench.read(old).unwrap().1, state(1, 10, 9_000));
                        }
                    }
                    bench.write(meta(1, 30), &state(1, 30, 9_000)).unwrap();
                    assert_eq!(bench.newest_index(1), Some(30), "{place}");
                }
            }
        }
    }
    assert!(hits > 40, "only {hits} faults made a write fail");
}

#[test]
fn a_disk_that_runs_full_ends_the_write_with_its_name_and_the_space_comes_back() {
    // With a reserve the store stops before the disk does; without one the disk says so.
    for reserve in [0, 40_960] {
        let mut bench =
            Bench::open(sim(1), SnapshotFileSettings { space_reserve_bytes: reserve, ..settings() });
        bench.write(meta(1, 10), &state(1, 10, 9_000)).unwrap();
        let platter = bench.store.disk().platter();
        let used: u64 = platter.list().iter().map(|(_, len)| len).sum();
        platter.set_capacity(used + reserve + 50_000);
        let write = bench.store.begin_write(meta(1, 20), 20_000).unwrap();
        bench.feed(write, &state(1, 20, 200_000));
        let failure = bench.wait(write).unwrap_err();
        assert!(failure.is_out_of_space(), "{failure}");
        bench.settle();
        assert_eq!(platter.list().iter().map(|(_, len)| len).sum::<u64>(), used);
        let error = bench.store.begin_write(meta(1, 20), 200_000).unwrap_err();
        assert!(matches!(error, BeginError::NoSpace { .. }), "{error}");
        bench.write(meta(1, 20), &state(1, 20, 20_000)).unwrap();
    }
}

#[test]
fn a_short_write_is_named_with_its_place() {
    let mut bench = Bench::open(sim(1), settings());
    bench.store.disk_mut().inject(Fault::at(OpKind::Write, 2, FaultKind::Short(512)));
    bench.store.disk().platter().calm();
    let failure = bench.write(meta(1, 10), &state(1, 10, 30_000)).unwrap_err();
    let WriteFailure::Short { file, offset, asked, written } = &failure else { panic!("{failure}") };
    assert_eq!((*offset, *asked, *written), (4096 * 3, 4096, 512));
    assert!(file.ends_with(".snapshot-tmp") && failure.to_string().contains(file), "{failure}");
}

#[test]
fn others_go_on_while_one_write_fails() {
    let mut bench = Bench::open(sim(1), settings());
    let writes: Vec<_> = (1..=4).map(|group| bench.store.begin_write(meta(group, 10), 0).unwrap()).collect();
    let platter = bench.store.disk().platter();
    let name_contains = "0000000000000002-".to_owned();
    let what = FaultKind::Errno(libc::EIO);
    platter.inject(Fault { name_contains, ..Fault::at(OpKind::Write, 3, what) });
    for part in 0..20 {
        for (group, write) in (1..).zip(&writes) {
            bench.feed(*write, &state(group, 10, 60_000)[part * 3000..(part + 1) * 3000]);
        }
    }
    for (group, write) in (1..).zip(&writes) {
        let finished = bench.store.finish(*write);
        match bench.wait(*write) {
            Ok(id) => assert_eq!(bench.read(id).unwrap().1, state(group, 10, 60_000)),
            Err(WriteFailure::Disk(error)) => assert_eq!((group, error.errno), (2, libc::EIO)),
            Err(other) => panic!("group {group}: {other}, {finished:?}"),
        }
    }
    assert_eq!((bench.store.stats().durable, bench.store.stats().failed), (3, 1));
}
