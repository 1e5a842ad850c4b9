//! Full disks and full budgets: nobody waits, votes and compactions are written all the same, the log opens on what there is, and
//! what it compacts is enough to go on.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle};
use logdrive_wal::{
    AppendError, Fault, FaultKind, Health, OpKind, Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal,
};

type Log = Wal<SimDisk>;

const SEGMENT: u64 = 1 << 20;

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT,
        batch_bytes_max: 16 << 10,
        payload_bytes_max: 8 << 10,
        budget_bytes: 64 << 20,
        ..Options::default()
    }
}

fn reopen(platter: &SimPlatter, options: Options, what: &str) -> (Log, Streams) {
    let mut found = Streams::default();
    let wal = Wal::open(platter.open().unwrap(), options, 0, &mut found);
    (wal.unwrap_or_else(|error| panic!("{what}: {error}")), found)
}

fn turn(wal: &mut Log, now: &mut u64) {
    *now += 20_000_000;
    wal.poll(*now);
    wal.submit(*now);
    wal.poll(*now);
    while wal.poll_pressure().is_some() {}
}

/// Appends until it is refused, at most so often; the next index.
fn fill(wal: &mut Log, first: u64, most: u64, now: &mut u64) -> u64 {
    let slot = wal.stream(StreamId(1));
    for index in first..first + most {
        let bytes = payload(1, index, 3900);
        // As an owner does: what was let in is taken.
        match wal.admit(bytes.len() as u64 + 64) {
            Ok(()) => {
                wal.append(slot, header(index), &bytes).unwrap();
                turn(wal, now);
            }
            Err(AppendError::OutOfSpace { used, budget }) => {
                assert!(used <= budget && budget == wal.space().budget_bytes, "{used} of {budget}");
                return index;
            }
            Err(error) => panic!("{error}"),
        }
    }
    first + most
}

fn read_all(wal: &mut Log, first: u64, last: u64) {
    let slot = wal.stream(StreamId(1));
    let mut next = first;
    while next <= last {
        wal.read(1, slot, next, last, u32::MAX);
        let done = loop {
            wal.submit(1);
            wal.poll(1);
            if let Some(done) = wal.poll_read() {
                break done;
            }
        };
        for (found, bytes) in done.result.unwrap() {
            assert!(found == header(next) && bytes == payload(1, next, 3900), "{found:?} at {next}");
            next += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    Kill,
    Power,
}

fn end(wal: Log, how: End, now: u64) {
    match how {
        End::Close => wal.close(now).unwrap(),
        End::Kill => drop(wal.into_disk().crash_kill()),
        End::Power => drop(wal.into_disk().power_loss()),
    }
}

/// The sum of all files: nothing more fits.
fn is_full(platter: &SimPlatter) {
    platter.set_capacity(platter.list().iter().map(|(_, len)| len).sum());
}

/// A disk filled by entries, a few segments behind the beginning, and the next index.
fn full_disk(seed: u64) -> (Log, SimPlatter, u64, u64) {
    let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options(), 0, &mut Streams::default()).unwrap();
    let mut now = 0;
    let next = fill(&mut wal, 1, 600, &mut now);
    settle(&mut wal, &mut now);
    is_full(&platter);
    let next = fill(&mut wal, next, 10_000, &mut now);
    assert_eq!(*wal.health(), Health::OutOfSpace);
    (wal, platter, next, now)
}

#[test]
fn field_28_a_log_opens_on_a_full_disk_without_a_spare_segment_again_and_again() {
    for (seed, how) in [(1, End::Close), (2, End::Kill), (3, End::Power)] {
        let (mut wal, platter, next, mut now) = full_disk(seed);
        settle(&mut wal, &mut now);
        end(wal, how, now);
        for restart in 0..20u64 {
            let what = format!("{how:?}, restart {restart}");
            let (mut wal, found) = reopen(&platter, options(), &what);
            assert_eq!(found.entries[&1].len() as u64, next - 1, "{what}");
            let slot = wal.stream(StreamId(1));
            assert!(matches!(wal.admit(65), Err(AppendError::OutOfSpace { .. })), "{what}");
            let vote = wal.put_state(slot, &restart.to_le_bytes());
            let ticket = vote.unwrap_or_else(|error| panic!("{what}: {error}, {:?}", platter.list()));
            for _ in 0..10 {
                turn(&mut wal, &mut now);
            }
            assert!(wal.durable() >= ticket, "{what}: the vote is not written, {:?}", wal.health());
            end(wal, how, now);
        }
        // No space returns from outside: what the owner gives up is enough.
        let (mut wal, found) = reopen(&platter, options(), "the last time");
        assert_eq!(found.states[&1], 19u64.to_le_bytes());
        read_all(&mut wal, 1, next - 1);
        let slot = wal.stream(StreamId(1));
        wal.compact(slot, next - 5).unwrap();
        for _ in 0..100 {
            turn(&mut wal, &mut now);
        }
        assert_eq!(*wal.health(), Health::Running, "{how:?}: {:?}", wal.stats());
        let more = fill(&mut wal, next, 150, &mut now);
        assert_eq!(more, next + 150, "{how:?}");
        settle(&mut wal, &mut now);
        end(wal, how, now);
        let (mut wal, _) = reopen(&platter, options(), "afterwards");
        read_all(&mut wal, next - 4, more - 1);
    }
}

#[test]
fn field_28_a_log_whose_last_segment_is_full_to_its_end_opens_and_goes_on_when_there_is_space() {
    let (mut wal, platter, mut next, mut now) = full_disk(4);
    let slot = wal.stream(StreamId(1));
    // With the owner's votes and compactions, which do not give up a segment, the reserve goes, too.
    let mut compacted = 0;
    loop {
        let vote = wal.put_state(slot, &[7; 4000]);
        turn(&mut wal, &mut now);
        if vote.is_err() {
            compacted += 1;
            if wal.compact(slot, compacted).is_err() {
                break;
            }
        }
        assert!(compacted < 240, "the reserve lasts for ever");
    }
    settle(&mut wal, &mut now);
    drop(wal.into_disk().crash_kill());
    is_full(&platter);
    let (mut wal, found) = reopen(&platter, options(), "full to the end");
    let entries = &found.entries[&1];
    let (first, end) = (*entries.first_key_value().unwrap().0, *entries.last_key_value().unwrap().0);
    next = next.min(end + 1);
    read_all(&mut wal, first, next - 1);
    assert_eq!(*wal.health(), Health::OutOfSpace);
    platter.set_capacity(1 << 30);
    for _ in 0..40 {
        turn(&mut wal, &mut now);
    }
    assert_eq!(*wal.health(), Health::Running);
    assert_eq!(fill(&mut wal, next, 200, &mut now), next + 200);
}

#[test]
fn field_28_no_space_for_any_operation_is_no_end() {
    // A directory needs blocks, too, and a file system that copies on write needs some to delete.
    let kinds = [OpKind::Open, OpKind::Write, OpKind::Sync, OpKind::Rename, OpKind::SyncDir, OpKind::Unlink];
    for (number, kind) in kinds.into_iter().enumerate() {
        for times in [1, 5] {
            for nth in 0..12 {
                let what = format!("{kind:?} {nth}, {times} times");
                let disk = SimDisk::new(SimOptions { seed: number as u64, ..SimOptions::default() });
                let platter = disk.platter();
                let small = Options { budget_bytes: 12 * (64 << 10), segment_bytes: 64 << 10, ..options() };
                let mut wal = Wal::open(disk, small.clone(), 0, &mut Streams::default()).unwrap();
                let (mut now, mut refused) = (0, 0);
                let fault = Fault::at(kind, nth, FaultKind::Errno(libc::ENOSPC));
                platter.inject(Fault { times, ..fault });
                let slot = wal.stream(StreamId(1));
                let mut index = 1;
                while index <= 200 {
                    match wal.append(slot, header(index), &payload(1, index, 3900)) {
                        Ok(_) => index += 1,
                        Err(AppendError::OutOfSpace { .. }) => refused += 1,
                        Err(error) => panic!("{what}: {error}"),
                    }
                    if index % 10 == 0 && index > 20 {
                        wal.compact(slot, index - 20).unwrap();
                    }
                    turn(&mut wal, &mut now);
                    assert!(refused < 500, "{what}: {:?}", wal.health());
                }
                settle(&mut wal, &mut now);
                for _ in 0..20 {
                    turn(&mut wal, &mut now);
                }
                assert_eq!(*wal.health(), Health::Running, "{what}");
                drop(wal.into_disk().power_loss());
                platter.clear_faults();
                let (mut wal, found) = reopen(&platter, small, &what);
                assert_eq!(*found.entries[&1].last_key_value().unwrap().0, 200, "{what}");
                read_all(&mut wal, 190, 200);
            }
        }
    }
}

#[test]
fn a_writer_at_the_budget_is_refused_at_once_and_everything_taken_is_written() {
    let disk = SimDisk::new(SimOptions::default());
    let small = Options { budget_bytes: 6 * SEGMENT, ..options() };
    let mut wal = Wal::open(disk, small, 0, &mut Streams::default()).unwrap();
    let (mut now, mut next, mut refusals) = (0, 1, 0);
    let slot = wal.stream(StreamId(1));
    // The owner compacts late, each time after it was refused: no turn is longer for it, nothing taken waits.
    while refusals < 40 {
        next = fill(&mut wal, next, 10_000, &mut now);
        refusals += 1;
        for _ in 0..3 {
            turn(&mut wal, &mut now);
        }
        assert_eq!(wal.durable(), wal.last_ticket(), "what was taken is written, refused or not");
        let vote = wal.put_state(slot, &next.to_le_bytes()).unwrap();
        let truncation = wal.append(slot, header(next - 1), b"").unwrap();
        for _ in 0..3 {
            turn(&mut wal, &mut now);
        }
        assert!(wal.durable() >= vote && wal.durable() >= truncation);
        wal.compact(slot, next - 2).unwrap();
        for _ in 0..20 {
            turn(&mut wal, &mut now);
        }
        assert!(wal.space().used_bytes <= wal.space().budget_bytes);
    }
    assert!(next > 40 * 100, "{next}");
}
