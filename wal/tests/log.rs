//! The log on the simulated disk and on the ring: what was acknowledged comes back.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{Disk, RingDisk, RingOptions, SimDisk, SimOptions, StreamId, Wal};

fn fill<D: Disk>(wal: &mut Wal<D>, model: &mut Streams, rounds: std::ops::Range<u64>) {
    let mut now = 0;
    for index in rounds {
        for stream in 1..=20u64 {
            let slot = wal.stream(StreamId(stream));
            let payload = payload(stream, index, (stream * 13) as usize);
            wal.append(slot, header(index), &payload).unwrap();
            model.append(stream, header(index), &payload);
            if index % 10 == stream % 10 {
                let state = payload.clone();
                wal.put_state(slot, &state).unwrap();
                model.states.insert(stream, state);
            }
        }
        now += 1000;
        wal.poll(now);
        wal.submit(now);
    }
    settle(wal, &mut now);
}

fn check_reads<D: Disk>(wal: &mut Wal<D>, model: &Streams) {
    for (number, (stream, entries)) in model.entries.iter().enumerate() {
        let slot = wal.stream(StreamId(*stream));
        let (first, last) = (*entries.keys().next().unwrap(), *entries.keys().last().unwrap());
        assert_eq!(wal.entries(slot), Some((first, last)));
        wal.read(number as u64, slot, first, last, u32::MAX);
    }
    let mut done = 0;
    while done < model.entries.len() {
        wal.submit(1);
        wal.poll(1);
        while let Some(read) = wal.poll_read() {
            let stream = *model.entries.keys().nth(read.token as usize).unwrap();
            let entries = read.result.unwrap();
            let expected = &model.entries[&stream];
            assert_eq!(entries.len(), expected.len());
            for ((h, p), (index, (tag, note, payload))) in entries.iter().zip(expected) {
                assert_eq!((h.index, h.tag, h.note, p), (*index, *tag, *note, payload));
            }
            done += 1;
        }
    }
}

#[test]
fn what_was_acknowledged_comes_back_on_the_simulated_disk() {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut model = Streams::default();
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    fill(&mut wal, &mut model, 1..100);
    check_reads(&mut wal, &model);
    drop(wal);
    platter.power_loss();
    for round in 1..4 {
        let mut found = Streams::default();
        let mut wal = Wal::open(platter.open().unwrap(), small(), 0, &mut found).unwrap();
        assert_eq!(found, model);
        check_reads(&mut wal, &model);
        fill(&mut wal, &mut model, round * 100..(round + 1) * 100);
        check_reads(&mut wal, &model);
        wal.close(0).unwrap();
    }
}

#[test]
fn what_was_acknowledged_comes_back_from_a_real_disk() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut model = Streams::default();
    for round in 0..3u64 {
        let disk = RingDisk::open(directory.path(), RingOptions::default()).unwrap();
        let mut found = Streams::default();
        let mut wal = Wal::open(disk, small(), 0, &mut found).unwrap();
        assert_eq!(found, model);
        fill(&mut wal, &mut model, round * 100 + 1..(round + 1) * 100 + 1);
        check_reads(&mut wal, &model);
        wal.close(0).unwrap();
    }
}

fn closed_with_an_open_batch<D: Disk>(mut wal: Wal<D>) {
    let slot = wal.stream(StreamId(1));
    for index in 1..=3 {
        wal.append(slot, header(index), b"not submitted yet").unwrap();
        if index < 3 {
            wal.submit(5);
        }
    }
    wal.close(5).unwrap();
}

#[test]
fn closing_writes_what_is_open() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ring = || RingDisk::open(directory.path(), RingOptions::default()).unwrap();
    closed_with_an_open_batch(Wal::open(ring(), small(), 0, &mut Streams::default()).unwrap());
    let mut found = Streams::default();
    Wal::open(ring(), small(), 0, &mut found).unwrap();
    assert_eq!(found.entries[&1].len(), 3);

    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    closed_with_an_open_batch(Wal::open(disk, small(), 0, &mut Streams::default()).unwrap());
    let mut found = Streams::default();
    Wal::open(platter.open().unwrap(), small(), 0, &mut found).unwrap();
    assert_eq!(found.entries[&1].len(), 3);
}
