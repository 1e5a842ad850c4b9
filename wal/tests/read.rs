//! Reading entries back: from memory, from writes under way, from the disk.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{
    EntryHeader, Fault, FaultKind, Health, OpKind, Options, ReadDone, ReadError, SimDisk, SimOptions,
    StreamId, StreamSlot, Wal,
};

type Log = Wal<SimDisk>;

fn new_log(options: Options) -> Log {
    Wal::open(SimDisk::new(SimOptions::default()), options, 0, &mut Streams::default()).unwrap()
}

fn put(wal: &mut Log, slot: StreamSlot, index: u64, len: usize) {
    wal.append(slot, header(index), &payload(3, index, len)).unwrap();
}

fn finish(wal: &mut Log) -> ReadDone {
    for _ in 0..10_000 {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            return done;
        }
    }
    panic!("the read does not end");
}

fn read(
    wal: &mut Log,
    slot: StreamSlot,
    first: u64,
    last: u64,
    max: u32,
) -> Result<Vec<(EntryHeader, Vec<u8>)>, ReadError> {
    wal.read(5, slot, first, last, max);
    let done = finish(wal);
    assert_eq!(done.token, 5);
    done.result
}

fn assert_entries(entries: &[(EntryHeader, Vec<u8>)], first: u64, last: u64, len: usize) {
    assert_eq!(entries.len() as u64, last + 1 - first);
    for (index, (h, p)) in (first..).zip(entries) {
        assert_eq!(*h, header(index));
        assert_eq!(*p, payload(3, index, len));
    }
}

#[test]
fn entries_of_the_open_batch_are_read_before_they_are_written() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    for index in 1..=3 {
        put(&mut wal, slot, index, 50);
    }
    wal.read(1, slot, 1, 3, u32::MAX);
    // A poll is enough: nothing has to come from the disk.
    wal.poll(1);
    assert_entries(&wal.poll_read().unwrap().result.unwrap(), 1, 3, 50);
}

#[test]
fn entries_under_way_are_read_when_their_write_is_complete() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    put(&mut wal, slot, 1, 50);
    wal.submit(1);
    put(&mut wal, slot, 2, 50);
    wal.submit(1);
    put(&mut wal, slot, 3, 50);
    wal.read(1, slot, 1, 3, u32::MAX);
    for _ in 0..5 {
        wal.poll(1);
        assert!(wal.poll_read().is_none());
    }
    wal.disk().release();
    assert_entries(&finish(&mut wal).result.unwrap(), 1, 3, 50);
}

#[test]
fn scattered_entries_of_a_stream_are_read_in_order() {
    let mut wal = new_log(Options { budget_bytes: 512 << 20, ..small() });
    let slots: Vec<_> = (0..40).map(|id| wal.stream(StreamId(id))).collect();
    let mut now = 0;
    for index in 1..=200 {
        for slot in &slots {
            put(&mut wal, *slot, index, 700);
        }
        settle(&mut wal, &mut now);
    }
    for slot in &slots[..5] {
        assert_entries(&read(&mut wal, *slot, 1, 200, u32::MAX).unwrap(), 1, 200, 700);
        assert_entries(&read(&mut wal, *slot, 150, 151, u32::MAX).unwrap(), 150, 151, 700);
    }
    // Many reads at once, more than may be under way.
    for token in 0..600u64 {
        wal.read(token, slots[token as usize % 40], 1 + token % 100, 100 + token % 100, u32::MAX);
    }
    let mut seen = vec![false; 600];
    while seen.iter().any(|s| !s) {
        let done = finish(&mut wal);
        assert!(!std::mem::replace(&mut seen[done.token as usize], true));
        assert_entries(&done.result.unwrap(), 1 + done.token % 100, 100 + done.token % 100, 700);
    }
}

#[test]
fn large_records_that_span_windows_and_pieces_are_read() {
    let options = Options {
        segment_bytes: 8 << 20,
        payload_bytes_max: 2 << 20,
        batch_bytes_max: 64 << 10,
        budget_bytes: 1 << 30,
        ..small()
    };
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options.clone(), 0, &mut Streams::default()).unwrap();
    let slot = wal.stream(StreamId(1));
    let sizes = [10, 2 << 20, 1, 70_000, 65_536 - 64, 1 << 20, 0, 300_000];
    let mut now = 0;
    for (index, size) in (1..).zip(sizes) {
        put(&mut wal, slot, index, size);
    }
    settle(&mut wal, &mut now);
    let check = |wal: &mut Log, slot| {
        let entries = read(wal, slot, 1, 8, u32::MAX).unwrap();
        assert_eq!(entries.iter().map(|(_, p)| p.len()).collect::<Vec<_>>(), sizes);
        assert!(
            (1..)
                .zip(&entries)
                .all(|(index, (h, p))| *h == header(index) && *p == payload(3, index, p.len()))
        );
    };
    check(&mut wal, slot);
    drop(wal);
    let mut found = Streams::default();
    let mut wal = Wal::open(platter.open().unwrap(), options, 0, &mut found).unwrap();
    assert_eq!(found.entries[&1].values().map(|(_, _, p)| p.len()).collect::<Vec<_>>(), sizes);
    let slot = wal.stream(StreamId(1));
    check(&mut wal, slot);
}

#[test]
fn a_read_is_bounded_in_bytes_and_gives_at_least_one_entry() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    for index in 1..=20 {
        put(&mut wal, slot, index, 1000);
        if index % 3 == 0 {
            settle(&mut wal, &mut now);
        }
    }
    for (max, count) in
        [(0, 1), (1, 1), (1000, 1), (1999, 1), (2000, 2), (5500, 5), (20_000, 20), (u32::MAX, 20)]
    {
        assert_entries(&read(&mut wal, slot, 1, 20, max).unwrap(), 1, count, 1000);
    }
}

#[test]
fn what_is_not_in_the_log_is_not_found() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    assert_eq!(read(&mut wal, slot, 1, 1, 100), Err(ReadError::NotFound { index: 1 }));
    let mut now = 0;
    for index in 1..=10 {
        put(&mut wal, slot, index, 100);
    }
    settle(&mut wal, &mut now);
    wal.compact(slot, 4).unwrap();
    assert_eq!(read(&mut wal, slot, 4, 6, 1000), Err(ReadError::NotFound { index: 4 }));
    assert_eq!(read(&mut wal, slot, 11, 12, 1000), Err(ReadError::NotFound { index: 11 }));
    // The end of the log ends a read early.
    assert_entries(&read(&mut wal, slot, 5, 99, u32::MAX).unwrap(), 5, 10, 100);
}

#[test]
fn a_replaced_entry_is_never_read_as_it_was() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    for index in 1..=10 {
        put(&mut wal, slot, index, 2000);
        settle(&mut wal, &mut now);
    }
    wal.disk().hold();
    wal.read(9, slot, 1, 10, u32::MAX);
    wal.submit(1);
    // While the read is under way entries from 5 on are replaced.
    wal.append(slot, EntryHeader { index: 5, tag: 99, note: 0 }, b"new").unwrap();
    wal.disk().release();
    let entries = finish(&mut wal).result.unwrap();
    assert_entries(&entries[..4], 1, 4, 2000);
    assert!(entries[4..].iter().all(|(h, p)| h.tag == 99 && p == b"new"), "{}", entries.len());
    let entries = read(&mut wal, slot, 1, 5, u32::MAX).unwrap();
    assert_eq!((entries[4].0.tag, entries[4].1.as_slice()), (99, b"new".as_slice()));
    assert_eq!(read(&mut wal, slot, 6, 6, 1000), Err(ReadError::NotFound { index: 6 }));
}

#[test]
fn a_failed_read_is_an_error_of_that_read_only() {
    let mut wal = new_log(small());
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    put(&mut wal, slot, 1, 100);
    settle(&mut wal, &mut now);
    for (what, errno) in [(FaultKind::Errno(libc::ENOMEM), libc::ENOMEM), (FaultKind::Short(0), libc::EIO)] {
        wal.disk().inject(Fault::next(OpKind::Read, what));
        match read(&mut wal, slot, 1, 1, 1000) {
            Err(ReadError::Disk(error)) => assert_eq!((error.op, error.errno), ("read", errno)),
            other => panic!("{other:?}"),
        }
        assert_entries(&read(&mut wal, slot, 1, 1, 1000).unwrap(), 1, 1, 100);
    }
    assert_eq!(*wal.health(), Health::Running);
}

#[test]
fn segments_that_are_read_are_not_recycled_under_the_reader() {
    let options = Options { budget_bytes: 8 * (64 << 10), ..small() };
    let mut wal = new_log(options);
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    for index in 1..=40 {
        put(&mut wal, slot, index, 3900);
        settle(&mut wal, &mut now);
    }
    // One read stays under way while everything it reads is compacted and the log turns over.
    wal.disk().hold();
    wal.read(9, slot, 1, 3, u32::MAX);
    wal.submit(now);
    let reads = |wal: &mut Log| -> Vec<usize> {
        let list = wal.disk().under_way().into_iter().enumerate();
        list.filter(|(_, (kind, _, _))| *kind == OpKind::Read).map(|(place, _)| place).collect()
    };
    let under_way = reads(&mut wal).len();
    assert!(under_way > 0);
    wal.compact(slot, 39).unwrap();
    for index in 41..=55 {
        put(&mut wal, slot, index, 3900);
        for _ in 0..6 {
            now += 20_000_000;
            wal.submit(now);
            // Everything but the reads completes.
            while let Some(place) = (0..wal.disk().in_flight()).find(|p| !reads(&mut wal).contains(p)) {
                wal.disk().run_at(place);
            }
            wal.poll(now);
        }
    }
    assert_eq!(reads(&mut wal).len(), under_way);
    assert_eq!(wal.stats().segments_recycled, 0);
    wal.disk().release();
    assert!(matches!(finish(&mut wal).result, Err(ReadError::NotFound { index: 1 })));
    for _ in 0..10 {
        now += 20_000_000;
        wal.submit(now);
        wal.poll(now);
    }
    assert!(wal.stats().segments_recycled > 0);
}

/// Performs everything that the disk has been given but its reads.
fn run_all_but_reads(wal: &mut Log) {
    loop {
        let under_way = wal.disk().under_way();
        let Some(place) = under_way.iter().position(|(kind, _, _)| *kind != OpKind::Read) else { return };
        assert!(wal.disk().run_at(place));
    }
}

#[test]
fn a_lagging_reader_of_one_stream_never_blocks_the_writer() {
    let mut wal = new_log(small());
    let (lagging, other) = (wal.stream(StreamId(1)), wal.stream(StreamId(2)));
    let mut now = 0;
    for index in 1..=200 {
        put(&mut wal, lagging, index, 2000);
        settle(&mut wal, &mut now);
    }
    wal.disk().hold();
    for token in 0..4 {
        wal.read(token, lagging, 1, 200, u32::MAX);
    }
    wal.submit(now);
    let reads =
        |wal: &mut Log| wal.disk().under_way().iter().filter(|(kind, ..)| *kind == OpKind::Read).count();
    assert!(reads(&mut wal) > 1, "the reads are with the disk");
    // Not one of them ends, and the writer goes on through several times as many segments as the readers hold.
    let recycled = wal.stats().segments_recycled + wal.stats().segments_created;
    for index in 1..=600 {
        put(&mut wal, other, index, 4000);
        if index % 20 == 0 {
            wal.compact(other, index - 10).unwrap();
        }
        for turn in 0.. {
            assert!(turn < 100, "entry {index} does not become durable while a reader lags");
            if wal.durable() == wal.last_ticket() {
                break;
            }
            now += 1_000_000;
            wal.submit(now);
            run_all_but_reads(&mut wal);
            wal.poll(now);
        }
        assert!(wal.poll_read().is_none());
    }
    assert!(wal.stats().segments_recycled + wal.stats().segments_created > recycled + 30);
    wal.disk().release();
    let mut entries = 0;
    for _ in 0..4 {
        entries += finish(&mut wal).result.unwrap().len();
    }
    assert_eq!(entries, 4 * 200);
}
