//! What is written is read, whatever its length; what is kept and what is refused.

use logdrive::snapshot::{BeginError, Compression, SnapshotFileSettings, SnapshotStore};
use logdrive_shard::{GroupId, LogIndex, Moment, Term};

use crate::common::{Bench, meta, settings, sim, state};

fn name_count(bench: &mut Bench<logdrive_wal::SimDisk>) -> usize {
    bench.store.disk().platter().list().len()
}

#[test]
fn what_is_written_is_read_after_a_reopen_whatever_its_length() {
    for compression in [Compression::Off, Compression::Lz4] {
        // Around the ends of chunks, which hold 4064 bytes.
        let first = 4064 - meta(3, 90).sessions.len();
        for len in [0, 1, first - 1, first, first + 1, first + 4063, first + 4064, 70_000, 500_000] {
            let mut bench =
                Bench::open(sim(len as u64 + 1), SnapshotFileSettings { compression, ..settings() });
            let mut content = state(3, 90, len);
            // The half that compresses well.
            content[len / 2..].fill(7);
            let id = bench.write(meta(3, 90), &content).unwrap();
            bench.settle();
            let platter = bench.store.close().platter();
            let mut bench = Bench::open(platter.open().unwrap(), settings());
            let header = bench.store.newest(GroupId(3), 0).unwrap().unwrap().clone();
            assert_eq!((header.id, header.index, header.term), (id, LogIndex(90), Term(7)));
            assert_eq!(
                (header.membership_index, &header.membership),
                (LogIndex(45), &meta(3, 90).membership)
            );
            assert_eq!(bench.read(id).unwrap(), (meta(3, 90).sessions, content), "{compression:?} {len}");
            if compression == Compression::Lz4 && len == 500_000 {
                assert!(header.file_bytes() < 300_000, "half of it compresses: {}", header.file_bytes());
            }
        }
    }
}

#[test]
fn content_without_sessions_and_state_is_a_snapshot_too() {
    let mut bench = Bench::open(sim(1), settings());
    let id =
        bench.write(logdrive::snapshot::SnapshotMeta { sessions: Vec::new(), ..meta(1, 1) }, &[]).unwrap();
    assert_eq!(bench.store.header(id).unwrap().file_bytes(), 4096);
    assert_eq!(bench.read(id).unwrap(), (Vec::new(), Vec::new()));
}

#[test]
fn older_snapshots_go_when_newer_ones_are_durable_and_settings_say_how_many_stay() {
    for kept in 0..3_u32 {
        let mut bench = Bench::open(sim(9), SnapshotFileSettings { snapshots_kept: kept, ..settings() });
        for index in 1..=5 {
            bench.write(meta(1, index * 10), &state(1, index * 10, 10_000)).unwrap();
            bench.write(meta(2, index * 10), &state(2, index * 10, 10_000)).unwrap();
        }
        bench.settle();
        assert_eq!(name_count(&mut bench), 2 * (kept as usize + 1));
        let left: Vec<u64> =
            bench.store.snapshots().filter(|h| h.group == GroupId(1)).map(|h| h.index.0).collect();
        assert_eq!(left, (0..=u64::from(kept)).rev().map(|n| 50 - 10 * n).collect::<Vec<_>>());
    }
}

#[test]
fn a_new_life_of_a_group_does_not_see_the_snapshots_of_the_old_one() {
    let mut bench = Bench::open(sim(2), settings());
    bench.write(meta(1, 500), &state(1, 500, 5000)).unwrap();
    assert!(bench.store.newest(GroupId(1), 1).unwrap().is_none());
    let new = logdrive::snapshot::SnapshotMeta { life: 1, ..meta(1, 3) };
    let id = bench.write(new, &state(1, 3, 5000)).unwrap();
    assert_eq!(bench.store.newest(GroupId(1), 1).unwrap().unwrap().id, id);
    bench.store.forget(GroupId(1), 0);
    bench.settle();
    assert_eq!(name_count(&mut bench), 1);
    assert!(bench.store.newest(GroupId(1), 0).unwrap().is_none());
    assert_eq!(bench.read(id).unwrap().1, state(1, 3, 5000));
}

#[test]
fn limits_are_said_by_name_and_several_writes_go_on_at_once() {
    let mut bench = Bench::open(sim(3), SnapshotFileSettings { writes_max: 3, reads_max: 1, ..settings() });
    let writes: Vec<_> = (1..=3).map(|group| bench.store.begin_write(meta(group, 10), 0).unwrap()).collect();
    let error = bench.store.begin_write(meta(4, 10), 0).unwrap_err();
    assert!(matches!(error, BeginError::TooMany { setting: "writes_max", under_way: 3, .. }), "{error}");
    for part in 0..10 {
        for (group, write) in (1..).zip(&writes) {
            bench.feed(*write, &state(group, 10, 50_000)[part * 5000..(part + 1) * 5000]);
        }
    }
    for write in &writes {
        bench.store.finish(*write).unwrap();
    }
    let ids: Vec<_> = writes.iter().map(|write| bench.wait(*write).unwrap()).collect();
    for (group, id) in (1..).zip(&ids) {
        assert_eq!(bench.read(*id).unwrap().1, state(group, 10, 50_000));
    }
    bench.store.begin_read(ids[0]).unwrap();
    let error = bench.store.begin_send(ids[1]).unwrap_err();
    assert!(matches!(error, BeginError::TooMany { setting: "reads_max", .. }), "{error}");
    assert_eq!(bench.store.stats().too_many, 2);
}

#[test]
fn an_aborted_write_leaves_nothing() {
    let mut bench = Bench::open(sim(4), settings());
    bench.write(meta(1, 10), &state(1, 10, 9000)).unwrap();
    for polls in 0..30 {
        let write = bench.store.begin_write(meta(1, 20), 0).unwrap();
        bench.feed(write, &state(1, 20, 9000));
        let _ = bench.store.finish(write);
        (0..polls).for_each(|_| bench.poll());
        let aborted = bench.store.abort(write).is_ok();
        bench.settle();
        assert_eq!(name_count(&mut bench), if aborted { 1 } else { 2 }, "after {polls} polls");
        if !aborted {
            return;
        }
        assert_eq!(bench.newest_index(1), Some(10));
    }
    panic!("30 polls were not enough to write a file");
}

#[test]
fn bytes_per_second_are_kept_to_and_the_store_says_when_it_goes_on() {
    let limited = SnapshotFileSettings { snapshot_bytes_per_s: 1_000_000, ..settings() };
    let (mut store, _) = SnapshotStore::open(sim(5), limited).unwrap();
    let write = store.begin_write(meta(1, 10), 0).unwrap();
    let content = state(1, 10, 2_000_000);
    let (mut now, mut events, mut at, mut finished) = (Moment(0), Vec::new(), 0, false);
    while !events.iter().any(|event| matches!(event, logdrive::snapshot::StoreEvent::Durable { .. })) {
        if at < content.len() {
            at += store.write(write, &content[at..]).unwrap();
        } else if !std::mem::replace(&mut finished, true) {
            store.finish(write).unwrap();
        }
        if !store.poll(now, &mut events) && store.next_wake() != Moment::NEVER {
            now = now.max(store.next_wake());
        }
    }
    let seconds = now.0 as f64 / 1e9;
    assert!((1.9..2.1).contains(&seconds), "2 MB at 1 MB/s took {seconds} s");
    assert!(store.stats().paced > 100);
}
