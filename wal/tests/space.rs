//! The end of space, and its return.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{
    AppendError, Fault, FaultKind, Health, OpKind, Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal,
};

type Log = Wal<SimDisk>;

fn new_log(options: Options) -> (Log, SimPlatter) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    (Wal::open(disk, options, 0, &mut Streams::default()).unwrap(), platter)
}

fn reopen(platter: &SimPlatter, options: Options) -> (Log, Streams) {
    let mut found = Streams::default();
    let wal = Wal::open(platter.open().unwrap(), options, 0, &mut found).unwrap();
    (wal, found)
}

/// One turn of the owner's loop, 20 ms long.
fn turn(wal: &mut Log, now: &mut u64) {
    *now += 20_000_000;
    wal.poll(*now);
    wal.submit(*now);
    wal.poll(*now);
    // It is asked to compact, and does not.
    while wal.poll_pressure().is_some() {}
}

fn read(wal: &mut Log, stream: u64, first: u64, last: u64) -> usize {
    let slot = wal.stream(StreamId(stream));
    wal.read(1, slot, first, last, u32::MAX);
    for _ in 0..1000 {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            return done.result.unwrap().len();
        }
    }
    panic!("the read does not end");
}

/// Appends until it is refused; returns how many were taken.
fn fill(wal: &mut Log, stream: u64, first: u64, now: &mut u64) -> u64 {
    let slot = wal.stream(StreamId(stream));
    for index in first.. {
        let bytes = payload(stream, index, 3900);
        // As an owner does: ask first, and what was let in is taken.
        match wal.admit(bytes.len() as u64 + 64) {
            Ok(()) => {
                wal.append(slot, header(index), &bytes).unwrap();
                turn(wal, now);
            }
            Err(AppendError::OutOfSpace { used, budget }) => {
                assert!(used <= budget && budget > 0);
                return index - first;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(index < 100_000);
    }
    unreachable!()
}

/// Bytes of segments: the budget does not count the marks.
fn segment_bytes(platter: &SimPlatter) -> u64 {
    platter.list().iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, len)| len).sum()
}

/// Batches of one block in a segment: not its header, and not its seal.
const SEGMENT_BATCHES: u64 = 14;

fn budget(segments: u64) -> Options {
    Options { budget_bytes: segments * (64 << 10), ..small() }
}

#[test]
fn at_the_budget_entries_are_refused_and_the_reserve_is_for_states_and_compactions() {
    let (mut wal, platter) = new_log(budget(8));
    let mut now = 0;
    let taken = fill(&mut wal, 1, 1, &mut now);
    // All but the reserve of three segments, and what the log needs for itself of the last.
    assert!((4 * SEGMENT_BATCHES..5 * SEGMENT_BATCHES).contains(&taken), "{taken}");
    assert!(matches!(wal.admit(4064), Err(AppendError::OutOfSpace { .. })));
    for _ in 0..100 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(wal.durable(), wal.last_ticket());
    let files = segment_bytes(&platter);
    assert!(files <= wal.space().budget_bytes, "{files} bytes of files");
    // Votes, no-ops and truncations go on; reads, too.
    let slot = wal.stream(StreamId(1));
    for number in 0..20u64 {
        wal.put_state(slot, &number.to_le_bytes()).unwrap();
        turn(&mut wal, &mut now);
    }
    wal.append(slot, header(taken + 1), b"").unwrap();
    turn(&mut wal, &mut now);
    assert_eq!(read(&mut wal, 1, 1, taken + 1) as u64, taken + 1);
    // A compaction frees segments, and appends go on.
    wal.compact(slot, taken).unwrap();
    for _ in 0..10 {
        turn(&mut wal, &mut now);
    }
    assert!(wal.admit(1000).is_ok());
    // The first of these entries share a segment with old states. So they are moved when space becomes short, writers are refused
    // meanwhile, and then go on.
    let mut more = fill(&mut wal, 1, taken + 2, &mut now);
    for _ in 0..20 {
        turn(&mut wal, &mut now);
    }
    assert!(wal.stats().rewrites == 1 || more + SEGMENT_BATCHES > taken, "{more}: {:?}", wal.stats());
    more += fill(&mut wal, 1, taken + 2 + more, &mut now);
    // In the end as many fit as before, but for less than a segment of the log's own records.
    assert!(more + SEGMENT_BATCHES > taken, "{more} after {taken}");
    let written = wal.stats().write_bytes;
    for _ in 0..100 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(wal.stats().write_bytes, written, "nothing is moved in circles");
    assert_eq!(fill(&mut wal, 1, taken + 2 + more, &mut now), 0);
    drop(wal.into_disk().power_loss());
    let (_, found) = reopen(&platter, budget(8));
    assert_eq!(found.entries[&1].len() as u64, more + 1);
    assert_eq!(found.states[&1], 19u64.to_le_bytes());
}

#[test]
fn states_are_refused_when_the_reserve_is_used_up_too_and_nothing_breaks() {
    let (mut wal, platter) = new_log(budget(5));
    let mut now = 0;
    let taken = fill(&mut wal, 1, 1, &mut now);
    let slot = wal.stream(StreamId(1));
    let mut states = 0u64;
    let state = vec![3; 4000];
    while wal.put_state(slot, &state).is_ok() {
        states += 1;
        turn(&mut wal, &mut now);
        assert!(states < 10_000);
    }
    assert!(states > 10, "{states} states in the reserve");
    for _ in 0..50 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(wal.durable(), wal.last_ticket(), "what was taken is written");
    drop(wal.into_disk().power_loss());
    let (_, found) = reopen(&platter, budget(5));
    assert_eq!(found.entries[&1].len() as u64, taken);
    assert_eq!(found.states[&1], state);
}

#[test]
fn restarts_at_the_budget_leave_room_for_votes() {
    let (mut wal, platter) = new_log(budget(8));
    let mut now = 0;
    let taken = fill(&mut wal, 1, 1, &mut now);
    wal.close(now).unwrap();
    for restart in 0..20u64 {
        let (mut wal, found) = reopen(&platter, budget(8));
        assert_eq!(found.entries[&1].len() as u64, taken);
        let slot = wal.stream(StreamId(1));
        wal.put_state(slot, &restart.to_le_bytes()).unwrap();
        turn(&mut wal, &mut now);
        assert_eq!(wal.durable(), wal.last_ticket());
        let files = segment_bytes(&platter);
        assert!(files <= (8 + 3) * (64 << 10), "restart {restart}: {files} bytes of files");
        if restart % 2 == 0 {
            drop(wal.into_disk().power_loss());
        }
    }
}

#[test]
fn restarts_do_not_fill_the_disk() {
    let (wal, platter) = new_log(small());
    drop(wal);
    let mut now = 0;
    for restart in 1..=60u64 {
        let (mut wal, found) = reopen(&platter, small());
        assert_eq!(found.entries.get(&1).map_or(0, |e| e.len()) as u64, restart - 1);
        let slot = wal.stream(StreamId(1));
        wal.append(slot, header(restart), b"one entry per life").unwrap();
        settle(&mut wal, &mut now);
        drop(wal.into_disk().crash_kill());
    }
    // A segment of 14 blocks is left behind when it is almost half full.
    assert!(platter.list().len() <= 60 / 6 + 4, "{:?}", platter.list());
}

fn write_faults(fault: FaultKind) {
    let (mut wal, platter) = new_log(small());
    let mut now = 0;
    let slot = wal.stream(StreamId(1));
    wal.append(slot, header(1), b"before").unwrap();
    settle(&mut wal, &mut now);
    let durable = wal.durable();
    let full = Fault { durable: Some(true), times: u32::MAX, ..Fault::next(OpKind::Write, fault) };
    platter.inject(full);
    // Two batches under way, more behind them.
    for index in 2..=3 {
        wal.append(slot, header(index), format!("entry {index}").as_bytes()).unwrap();
        wal.submit(now);
    }
    wal.append(slot, header(4), b"entry 4").unwrap();
    for _ in 0..40 {
        turn(&mut wal, &mut now);
        assert_eq!(*wal.health(), Health::OutOfSpace);
        assert_eq!(wal.durable(), durable, "nothing was acknowledged");
    }
    // It tries again ten times a second, not at every turn.
    assert!((2..=24).contains(&wal.stats().writes_repeated), "{}", wal.stats().writes_repeated);
    assert!(matches!(wal.admit(10), Err(AppendError::OutOfSpace { .. })));
    assert_eq!(read(&mut wal, 1, 1, 1), 1);
    // What waits to be written is read from memory.
    assert_eq!(read(&mut wal, 1, 1, 4), 4);
    // Space returns: the log goes on by itself, nothing is lost or written twice.
    platter.clear_faults();
    for _ in 0..10 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(*wal.health(), Health::Running);
    assert_eq!(wal.durable(), wal.last_ticket());
    wal.append(slot, header(5), b"entry 5").unwrap();
    settle(&mut wal, &mut now);
    drop(wal.into_disk().power_loss());
    let (_, found) = reopen(&platter, small());
    let payloads: Vec<_> = found.entries[&1].values().map(|(_, _, p)| p.clone()).collect();
    assert_eq!(
        payloads,
        [
            b"before".to_vec(),
            b"entry 2".to_vec(),
            b"entry 3".to_vec(),
            b"entry 4".to_vec(),
            b"entry 5".to_vec()
        ]
    );
}

#[test]
fn field_28_a_full_disk_stops_writes_keeps_reads_and_the_log_goes_on_by_itself() {
    write_faults(FaultKind::Errno(libc::ENOSPC));
}

#[test]
fn field_28_a_short_write_is_a_full_disk_and_is_repeated_at_the_same_place() {
    write_faults(FaultKind::Short(512));
}

#[test]
fn field_28_a_crash_while_the_disk_is_full_loses_nothing_acknowledged() {
    for seed in 0..50 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let platter = disk.platter();
        let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
        let mut now = 0;
        let slot = wal.stream(StreamId(1));
        wal.append(slot, header(1), b"before").unwrap();
        settle(&mut wal, &mut now);
        platter.inject(Fault { times: 3, ..Fault::next(OpKind::Write, FaultKind::Short(1024)) });
        for index in 2..=4 {
            wal.append(slot, header(index), &payload(1, index, 3000)).unwrap();
            wal.submit(now);
        }
        turn(&mut wal, &mut now);
        drop(if seed % 2 == 0 { wal.into_disk().power_loss() } else { wal.into_disk().crash_kill() });
        let (_, found) = reopen(&platter, small());
        assert_eq!(found.entries[&1].keys().copied().collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn field_28_a_log_on_a_full_disk_closes_whatever_was_refused() {
    let mut refused = 0;
    for skip in 0..40 {
        for appends in [0, 1, 40] {
            let (wal, platter) = new_log(small());
            wal.close(0).unwrap();
            let errno = FaultKind::Errno(libc::ENOSPC);
            platter.inject(Fault { times: u32::MAX, ..Fault::at(OpKind::Write, skip, errno) });
            let Ok(mut wal) = Wal::open(platter.open().unwrap(), small(), 0, &mut Streams::default()) else {
                continue;
            };
            let mut now = 0;
            let slot = wal.stream(StreamId(1));
            let mut acknowledged = 0;
            for index in 1..=appends {
                if wal.append(slot, header(index), &payload(1, index, 3000)).is_err() {
                    break;
                }
                turn(&mut wal, &mut now);
                acknowledged = if wal.durable() == wal.last_ticket() { index } else { acknowledged };
            }
            if let Err(error) = wal.close(now) {
                assert!(error.is_out_of_space(), "{skip} writes, {appends} appends: {error}");
                refused += 1;
            }
            platter.clear_faults();
            let (_, found) = reopen(&platter, small());
            let found = found.entries.get(&1).map_or(0, |entries| entries.len());
            assert!(
                found as u64 >= acknowledged,
                "{skip} writes, {appends} appends: {found} of {acknowledged}"
            );
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn field_28_a_disk_too_full_for_another_segment_refuses_entries_and_recovers() {
    let (mut wal, platter) = new_log(small());
    let mut now = 0;
    // Two segments are there already; a third does not fit, by a few blocks.
    platter.set_capacity((2 + 3) * (64 << 10) - 20_000);
    let taken = fill(&mut wal, 1, 1, &mut now);
    assert!(taken >= 15, "{taken}");
    assert_eq!(*wal.health(), Health::OutOfSpace);
    for _ in 0..20 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(wal.durable(), wal.last_ticket());
    assert!(platter.list().iter().all(|(name, _)| !name.ends_with(".new")), "{:?}", platter.list());
    assert_eq!(read(&mut wal, 1, 1, taken) as u64, taken);
    platter.set_capacity(1 << 30);
    for _ in 0..40 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(*wal.health(), Health::Running);
    let slot = wal.stream(StreamId(1));
    wal.append(slot, header(taken + 1), b"after").unwrap();
    settle(&mut wal, &mut now);
}

#[test]
fn field_28_a_log_opens_on_a_full_disk() {
    let (mut wal, platter) = new_log(small());
    let mut now = 0;
    let slot = wal.stream(StreamId(1));
    for index in 1..=40 {
        wal.append(slot, header(index), &payload(1, index, 4000)).unwrap();
        settle(&mut wal, &mut now);
    }
    wal.close(now).unwrap();
    // The prepared segment is lost, and there is no room for another one.
    let spare = platter.list().into_iter().rfind(|(name, _)| name.ends_with(".seg")).unwrap().0;
    platter.remove(&spare);
    platter.set_capacity(platter.list().iter().map(|(_, len)| len).sum());
    let (mut wal, found) = reopen(&platter, small());
    assert_eq!(found.entries[&1].len(), 40);
    assert_eq!(read(&mut wal, 1, 1, 40), 40);
    let slot = wal.stream(StreamId(1));
    assert!(matches!(wal.append(slot, header(41), b"x"), Err(AppendError::OutOfSpace { .. })));
    assert_eq!(*wal.health(), Health::OutOfSpace);
    platter.set_capacity(1 << 30);
    for _ in 0..40 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(*wal.health(), Health::Running);
    wal.append(slot, header(41), b"x").unwrap();
    settle(&mut wal, &mut now);
    wal.close(now).unwrap();
    assert_eq!(reopen(&platter, small()).1.entries[&1].len(), 41);
}

#[test]
fn cold_states_do_not_pin_segments_and_survive() {
    let (mut wal, platter) = new_log(budget(8));
    let mut now = 0;
    for stream in 100..150u64 {
        let slot = wal.stream(StreamId(stream));
        wal.put_state(slot, &stream.to_le_bytes()).unwrap();
        wal.compact(slot, stream).unwrap();
    }
    // One hot stream writes twenty times the budget and compacts as it goes.
    let slot = wal.stream(StreamId(1));
    for index in 1..=2400u64 {
        wal.append(slot, header(index), &payload(1, index, 4000)).unwrap();
        if index % 20 == 0 {
            wal.compact(slot, index - 5).unwrap();
        }
        turn(&mut wal, &mut now);
        turn(&mut wal, &mut now);
    }
    assert!(wal.stats().segments_recycled > 100, "{:?}", wal.stats());
    assert!(wal.stats().segments_created <= 8);
    drop(wal.into_disk().power_loss());
    let (_, found) = reopen(&platter, budget(8));
    for stream in 100..150u64 {
        assert_eq!(found.states[&stream], stream.to_le_bytes());
        assert_eq!(found.compacted[&stream], stream);
    }
    assert_eq!(found.entries[&1].keys().copied().collect::<Vec<_>>(), (2396..=2400).collect::<Vec<_>>());
}
