//! Old segments become free whatever holds them: owners are asked, and cold streams are rewritten (FIELD 24, 38). Crashes meanwhile are
//! in `reclaim_crash.rs`.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/ordered.rs"]
mod ordered;

use std::collections::BTreeMap;

use common::{Streams, append, header, payload, settle};
use logdrive_wal::{AppendError, EntryHeader, Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal};
use ordered::{HOT, Ordered, same, summary};

type Log = Wal<SimDisk>;

fn options(segments: u64) -> Options {
    Options {
        segment_bytes: 32 << 10,
        batch_bytes_max: 8 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: segments * (32 << 10),
        writes_in_flight: 3,
        reclaim_patience_ms: 100,
        ..Options::default()
    }
}

fn new_log(options: Options) -> (Log, SimPlatter) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    (Wal::open(disk, options, 0, &mut Streams::default()).unwrap(), platter)
}

fn turn(wal: &mut Log, now: &mut u64) {
    *now += 20_000_000;
    // The disk is faster than the owner's loop.
    for _ in 0..4 {
        wal.submit(*now);
        wal.poll(*now);
    }
}

fn read(wal: &mut Log, stream: u64, first: u64, last: u64, now: &mut u64) -> Vec<(EntryHeader, Vec<u8>)> {
    let slot = wal.stream(StreamId(stream));
    let mut all = Vec::new();
    while all.len() as u64 <= last - first {
        wal.read(1, slot, first + all.len() as u64, last, u32::MAX);
        let done = loop {
            wal.submit(*now);
            wal.poll(*now);
            if let Some(done) = wal.poll_read() {
                break done;
            }
        };
        all.extend(done.result.unwrap());
    }
    all
}

fn files_bytes(platter: &SimPlatter) -> u64 {
    platter.list().iter().map(|(_, len)| len).sum()
}

/// One hot stream writes, and keeps its last few entries.
fn run_hot(
    wal: &mut Log,
    model: &mut Streams,
    bytes: u64,
    now: &mut u64,
    mut each: impl FnMut(&mut Log, u64),
) {
    let slot = wal.stream(StreamId(HOT));
    let start = wal.entries(slot).map_or(1, |(_, last)| last + 1);
    for index in start..start + bytes / 3000 {
        // A writer that is refused tries again.
        let mut tries = 0;
        while let Err(error) = append(wal, model, HOT, index, 3000) {
            tries += 1;
            assert!(tries < 50, "entry {index} of the hot stream: {error}; {:?}", wal.stats());
            turn(wal, now);
        }
        if index % 8 == 0 {
            wal.compact(slot, index - 4).unwrap();
            model.compact(HOT, index - 4);
        }
        turn(wal, now);
        each(wal, index);
    }
}

#[test]
fn field_38_cold_streams_are_asked_then_rewritten_and_the_disk_stays_in_its_budget() {
    let options = options(16);
    let budget = options.budget_bytes;
    let (mut wal, platter) = new_log(options.clone());
    let (mut model, mut now) = (Streams::default(), 0);
    for stream in 1..=20 {
        for index in 1..=6 {
            append(&mut wal, &mut model, stream, index, 300).unwrap();
        }
        turn(&mut wal, &mut now);
    }
    let mut asked = BTreeMap::new();
    run_hot(&mut wal, &mut model, 20 * budget, &mut now, |wal, _| {
        while let Some((slot, bytes)) = wal.poll_pressure() {
            *asked.entry(wal.stream_id(slot)).or_insert(0u64) += 1;
            assert!((1000..20_000).contains(&bytes), "{bytes}");
        }
        let used = files_bytes(&platter);
        assert!(used <= budget, "{used} bytes of files");
    });
    let stats = wal.stats();
    // Whatever was rewritten, its owner was asked before.
    assert!((1..=20).all(|stream| asked.contains_key(&StreamId(stream))), "{asked:?}");
    let times: u64 = asked.values().sum();
    assert!(times >= stats.rewrites, "asked {times} times: {stats:?}");
    assert!(stats.rewrites >= 40, "every cold stream again and again: {stats:?}");
    assert_eq!((stats.refused, stats.rewrites_abandoned), (0, 0), "{stats:?}");
    for stream in 1..=20 {
        let found = read(&mut wal, stream, 1, 6, &mut now);
        for (place, bytes) in found {
            assert_eq!((place, &bytes), (header(place.index), &payload(stream, place.index, 300)));
        }
    }
    settle(&mut wal, &mut now);
    drop(wal.into_disk().power_loss());
    let mut found = Ordered::default();
    drop(Wal::open(platter.open().unwrap(), options, 0, &mut found).unwrap());
    assert!(same(&model, &found.0), "{}\n{}", summary(&found.0), summary(&model));
}

#[test]
fn field_38_an_owner_that_compacts_when_asked_spares_the_log_the_rewrite() {
    let options = Options { reclaim_patience_ms: 2_000, ..options(24) };
    let (mut wal, _) = new_log(options);
    let (mut model, mut now) = (Streams::default(), 0);
    for stream in 1..=20 {
        for index in 1..=6 {
            append(&mut wal, &mut model, stream, index, 300).unwrap();
        }
    }
    run_hot(&mut wal, &mut model, 5 * 24 * (32 << 10), &mut now, |wal, _| {
        while let Some((slot, _)) = wal.poll_pressure() {
            let (_, last) = wal.entries(slot).unwrap();
            wal.compact(slot, last).unwrap();
        }
    });
    assert_eq!(wal.stats().rewrites, 0);
    assert!(wal.stats().segments_recycled > 50, "{:?}", wal.stats());
}

#[test]
fn field_38_a_stream_that_is_too_large_to_be_rewritten_is_asked_for_again() {
    let options = Options { rewrite_bytes_max: 20 << 10, ..options(24) };
    let (mut wal, _) = new_log(options);
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=20 {
        append(&mut wal, &mut model, 1, index, 3000).unwrap();
    }
    let (large, mut asked, mut compacted) = (wal.stream(StreamId(1)), 0, false);
    run_hot(&mut wal, &mut model, 3 * 24 * (32 << 10), &mut now, |wal, _| {
        while let Some((slot, bytes)) = wal.poll_pressure() {
            if slot != large || compacted {
                continue;
            }
            assert!(bytes > 20 << 10, "{bytes}");
            asked += 1;
            if asked == 3 {
                wal.compact(slot, 19).unwrap();
                compacted = true;
            }
        }
    });
    assert!(compacted, "asked {asked} times");
    assert!(wal.stats().rewrites_refused >= 1, "{:?}", wal.stats());
    assert!(wal.stats().segments_recycled > 30);
}

#[test]
fn a_log_full_of_live_entries_refuses_writers_and_is_not_rewritten_in_circles() {
    let (mut wal, _) = new_log(options(16));
    let (mut model, mut now) = (Streams::default(), 0);
    let mut index = 0;
    let error = loop {
        index += 1;
        // Seven to a batch, so that little is lost.
        match append(&mut wal, &mut model, 1 + index % 10, 1 + index / 10, 1100) {
            Ok(()) if index % 7 == 0 => turn(&mut wal, &mut now),
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    let AppendError::OutOfSpace { used, budget } = error else { panic!("{error}") };
    assert!(used <= budget && used * 2 > budget, "{used} of {budget}");
    let written = wal.stats().write_bytes;
    for _ in 0..2_000 {
        turn(&mut wal, &mut now);
    }
    assert!(wal.stats().write_bytes <= written + (64 << 10), "{:?}", wal.stats());
    // Votes go on.
    let slot = wal.stream(StreamId(1));
    let ticket = wal.put_state(slot, b"vote").unwrap();
    turn(&mut wal, &mut now);
    turn(&mut wal, &mut now);
    assert!(wal.durable() >= ticket);
    // The owner compacts, and writers go on.
    for stream in 1..=9 {
        let slot = wal.stream(StreamId(stream));
        let (_, last) = wal.entries(slot).unwrap();
        wal.compact(slot, last).unwrap();
    }
    for _ in 0..200 {
        turn(&mut wal, &mut now);
    }
    assert!(wal.stats().rewrites > 0, "the tenth stream holds every segment: {:?}", wal.stats());
    append(&mut wal, &mut model, 50, 1, 4000).unwrap();
}

#[test]
fn field_24_readers_of_a_stream_that_is_rewritten_meanwhile_get_every_entry() {
    for seed in 0..30 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let options = Options { reclaim_patience_ms: 0, ..options(16) };
        let mut wal = Wal::open(disk, options, 0, &mut Streams::default()).unwrap();
        let (mut model, mut now) = (Streams::default(), 0);
        for index in 1..=60 {
            append(&mut wal, &mut model, 1, index, 500).unwrap();
            if index % 3 == 0 {
                append(&mut wal, &mut model, 2, index / 3, 2000).unwrap();
            }
            turn(&mut wal, &mut now);
        }
        let reader = wal.stream(StreamId(1));
        let (mut begun, mut done) = (0, 0);
        run_hot(&mut wal, &mut model, 16 * (32 << 10), &mut now, |wal, index| {
            begun += 1;
            wal.read(index, reader, 1, 60, u32::MAX);
            while let Some(read) = wal.poll_read() {
                done += 1;
                let entries = read.result.unwrap();
                assert_eq!(entries.len(), 60, "seed {seed}");
                for (place, bytes) in entries {
                    assert!(bytes == payload(1, place.index, 500));
                }
            }
        });
        assert!(wal.stats().rewrites > 0 && done > begun / 2, "{done} of {begun}: {:?}", wal.stats());
    }
}

#[test]
fn field_24_a_stream_that_is_overwritten_or_compacted_while_it_is_rewritten_is_given_up_and_left_whole() {
    // A slow rate, so that the rewrite of a stream takes many turns.
    let options = Options { reclaim_patience_ms: 0, reclaim_bytes_per_s: 256 << 10, ..options(48) };
    let (mut wal, platter) = new_log(options.clone());
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=100 {
        for stream in [1, 2, HOT + 3] {
            append(&mut wal, &mut model, stream, index, 1000).unwrap();
        }
        turn(&mut wal, &mut now);
    }
    let (mut changes, mut last) = (0, 100);
    let mut copies = model.clone();
    run_hot(&mut wal, &mut model, 2 * 48 * (32 << 10), &mut now, |wal, index| {
        if index % 30 != 0 || wal.stats().rewritten_bytes == 0 {
            return;
        }
        changes += 1;
        match changes % 3 {
            0 => {
                let index = last - changes % 7;
                append(wal, &mut copies, 1, index, 1000).unwrap();
            }
            1 if changes < 90 => {
                let slot = wal.stream(StreamId(HOT + 3));
                wal.compact(slot, changes).unwrap();
                copies.compact(HOT + 3, changes);
            }
            _ => {
                last += 1;
                let slot = wal.stream(StreamId(1));
                let (_, end) = wal.entries(slot).unwrap();
                append(wal, &mut copies, 1, end + 1, 1000).unwrap();
                last = end + 1;
            }
        }
    });
    assert!(wal.stats().rewrites_abandoned > 0, "{:?}", wal.stats());
    assert!(wal.stats().rewrites > 0, "{:?}", wal.stats());
    for stream in [1, 2, HOT + 3] {
        model.entries.insert(stream, copies.entries[&stream].clone());
    }
    model.compacted = copies.compacted.into_iter().chain(model.compacted).collect();
    settle(&mut wal, &mut now);
    drop(wal.into_disk().crash_kill());
    let mut found = Ordered::default();
    drop(Wal::open(platter.open().unwrap(), options, 0, &mut found).unwrap());
    assert!(same(&model, &found.0), "{}\n{}", summary(&found.0), summary(&model));
}

#[test]
fn an_idle_log_goes_on_reclaiming_when_it_says_that_it_wants_to_and_then_says_no_more() {
    let options = Options { reclaim_patience_ms: 5_000, ..options(16) };
    let (mut wal, _) = new_log(options);
    let (mut model, mut now) = (Streams::default(), 0);
    for stream in 1..=20 {
        for index in 1..=6 {
            append(&mut wal, &mut model, stream, index, 300).unwrap();
        }
    }
    // Somewhat more than half of what entries may use.
    run_hot(&mut wal, &mut model, 5 * (32 << 10), &mut now, |_, _| {});
    settle(&mut wal, &mut now);
    let before = wal.stats();
    assert_eq!(before.rewrites, 0, "owners have time: {before:?}");
    let mut turns = 0;
    while let Some(due) = wal.reclaim_due_nanos() {
        turns += 1;
        assert!(turns < 1_000, "at {now}, due {due}: {:?}", wal.stats());
        now = now.max(due) + 1;
        wal.submit(now);
        while wal.poll(now) {
            wal.submit(now);
        }
    }
    let after = wal.stats();
    assert!(
        after.rewrites >= 20 && after.segments_recycled > before.segments_recycled,
        "{turns} turns: {after:?}"
    );
    assert!(now > 5_000_000_000);
}

#[test]
fn a_rewrite_that_began_in_the_oldest_segment_does_not_hold_it_for_ever() {
    // Large entries: often the begin of a rewrite is the last thing in a segment, and its copies are in the next one.
    let options = Options { reclaim_patience_ms: 0, ..options(24) };
    let bytes = 10 * options.budget_bytes;
    let (mut wal, _) = new_log(options);
    let (mut model, mut now) = (Streams::default(), 0);
    for stream in 1..=10 {
        for index in 1..=2 {
            append(&mut wal, &mut model, stream, index, 5500).unwrap();
        }
        turn(&mut wal, &mut now);
    }
    run_hot(&mut wal, &mut model, bytes, &mut now, |wal, _| while wal.poll_pressure().is_some() {});
    assert!(wal.stats().rewrites > 50, "{:?}", wal.stats());
}

#[test]
fn writers_are_refused_only_when_the_budget_is_used_and_not_for_what_is_to_be_rewritten() {
    for (patience, streams, len) in [(100, 10, 300), (0, 10, 300), (5_000, 6, 1_000)] {
        let options = Options { reclaim_patience_ms: patience, ..options(8) };
        let what = format!("{streams} streams with entries of {len} bytes, patience {patience}");
        let (mut wal, platter) = new_log(options.clone());
        let (mut model, mut now, mut refused) = (Streams::default(), 0, 0);
        for index in 1..=6 {
            for stream in 1..=streams {
                append(&mut wal, &mut model, stream, index, len).unwrap();
            }
            turn(&mut wal, &mut now);
        }
        let slot = wal.stream(StreamId(HOT));
        for index in 1..=1_500 {
            let mut tries = 0;
            while let Err(AppendError::OutOfSpace { used, budget }) = wal.admit(1064) {
                let all = wal.space().used_bytes + 3 * (32 << 10);
                assert!(
                    all >= budget && used == budget,
                    "{what}: entry {index} is refused at {used} of {budget}"
                );
                (tries, refused) = (tries + 1, refused + 1);
                assert!(tries < 400, "{what}: entry {index}: {:?}", wal.stats());
                turn(&mut wal, &mut now);
            }
            append(&mut wal, &mut model, HOT, index, 1000).unwrap();
            if index % 8 == 0 {
                wal.compact(slot, index - 4).unwrap();
                model.compact(HOT, index - 4);
            }
            // Votes always go.
            if index % 50 == 0 {
                wal.put_state(slot, &index.to_le_bytes()).unwrap();
                model.states.insert(HOT, index.to_le_bytes().to_vec());
            }
            turn(&mut wal, &mut now);
            while wal.poll_pressure().is_some() {}
        }
        assert!(wal.stats().rewrites > 0, "{what}: {:?}", wal.stats());
        assert!(refused > 0, "{what}: the budget is hit now and then");
        settle(&mut wal, &mut now);
        drop(wal.into_disk().power_loss());
        let mut found = Ordered::default();
        drop(Wal::open(platter.open().unwrap(), options, 0, &mut found).unwrap());
        assert!(same(&model, &found.0), "{what}: {}\n{}", summary(&found.0), summary(&model));
    }
}
