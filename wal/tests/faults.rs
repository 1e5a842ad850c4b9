//! The faults of the simulated disk: each does what it says, what chance decided can be replayed, and a failure can be made small.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{
    Completion, Disk, Done, Fault, FaultKind, FileId, Op, OpKind, OpenMode, SimDisk, SimOptions, SimPlatter,
    StreamId, Token, Wal, list_faults, minimise,
};

const BLOCK: usize = 4096;

fn perform(disk: &mut SimDisk, op: Op) -> Completion {
    disk.submit(Token(1), op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        disk.wait(&mut completions);
    }
    completions.pop().unwrap()
}

fn create(disk: &mut SimDisk, name: &str) -> FileId {
    match perform(disk, Op::Open { name: name.to_owned(), mode: OpenMode::CreateNew }).result {
        Ok(Done::Opened { file, .. }) => file,
        other => panic!("{other:?}"),
    }
}

/// Writes blocks of one byte each; the errno if it fails.
fn write(disk: &mut SimDisk, file: FileId, block: u64, fill: &[u8], durable: bool) -> Result<u32, i32> {
    let mut buffer = disk.buffer(fill.len() * BLOCK);
    for (bytes, fill) in buffer.as_mut_slice().chunks_mut(BLOCK).zip(fill) {
        bytes.fill(*fill);
    }
    let len = (fill.len() * BLOCK) as u32;
    let op = Op::Write { file, offset: block * BLOCK as u64, buffer, len, durable };
    match perform(disk, op).result {
        Ok(Done::Transferred(bytes)) => Ok(bytes),
        Err(error) => Err(error.errno),
        other => panic!("{other:?}"),
    }
}

fn read(disk: &mut SimDisk, file: FileId, block: u64, blocks: usize) -> Result<Vec<u8>, i32> {
    let buffer = disk.buffer(blocks * BLOCK);
    let op = Op::Read { file, offset: block * BLOCK as u64, buffer, len: (blocks * BLOCK) as u32 };
    let completion = perform(disk, op);
    match completion.result {
        Ok(Done::Transferred(bytes)) => Ok(completion.buffer.unwrap().as_slice()[..bytes as usize].to_vec()),
        Err(error) => Err(error.errno),
        other => panic!("{other:?}"),
    }
}

/// A calm disk with a durable file of eight blocks, filled with 1 to 8.
fn calm() -> (SimDisk, SimPlatter, FileId) {
    let mut disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let file = create(&mut disk, "a");
    write(&mut disk, file, 0, &[1, 2, 3, 4, 5, 6, 7, 8], true).unwrap();
    perform(&mut disk, Op::SyncDir);
    (disk, platter, file)
}

fn bytes(platter: &SimPlatter) -> Vec<u8> {
    platter.read_file("a").unwrap()
}

/// First byte of each sector of a block.
fn sectors(platter: &SimPlatter, block: usize) -> Vec<u8> {
    bytes(platter)[block * BLOCK..][..BLOCK].chunks(512).map(|s| s[0]).collect()
}

#[test]
fn a_torn_write_reaches_the_sectors_it_names() {
    for errno in [0, libc::EIO] {
        let (mut disk, platter, file) = calm();
        platter.inject(Fault::next(OpKind::Write, FaultKind::Torn { sectors: 0b1010_0101, errno }));
        let result = write(&mut disk, file, 1, &[9], true);
        assert_eq!(result, if errno == 0 { Ok(4096) } else { Err(errno) });
        drop(disk.power_loss());
        assert_eq!(sectors(&platter, 1), [9, 2, 9, 2, 2, 9, 2, 9]);
    }
}

#[test]
fn a_lost_write_is_reported_as_done_and_leaves_the_stale_block() {
    let (mut disk, platter, file) = calm();
    platter.inject(Fault::next(OpKind::Write, FaultKind::Lost));
    write(&mut disk, file, 2, &[9], true).unwrap();
    assert_eq!(sectors(&platter, 2), [3; 8]);
}

#[test]
fn flipped_bits_and_garbage_are_on_the_medium_or_only_on_the_way() {
    for (on, stays) in [(OpKind::Write, true), (OpKind::Read, false)] {
        for what in [FaultKind::Flip { at: 700, mask: 4 }, FaultKind::Garbage { sector: 1, seed: 3 }] {
            let (mut disk, platter, file) = calm();
            platter.inject(Fault::next(on, what));
            write(&mut disk, file, 3, &[9], true).unwrap();
            let found = read(&mut disk, file, 3, 1).unwrap();
            let wrong: Vec<usize> = (0..BLOCK).filter(|at| found[*at] != 9).collect();
            match what {
                FaultKind::Flip { .. } => assert_eq!((wrong.as_slice(), found[700]), ([700].as_slice(), 13)),
                _ => {
                    assert!(wrong.len() > 400 && wrong.iter().all(|at| (512..1024).contains(at)));
                }
            }
            let again = read(&mut disk, file, 3, 1).unwrap();
            assert_eq!(again == found, stays);
            assert_eq!(again == [9; BLOCK], !stays);
        }
    }
}

#[test]
fn a_misdirected_write_and_read_meet_another_block() {
    let (mut disk, platter, file) = calm();
    platter.inject(Fault::next(OpKind::Write, FaultKind::Misdirected { block: 6 }));
    write(&mut disk, file, 1, &[9], true).unwrap();
    let firsts: Vec<u8> = bytes(&platter).chunks(BLOCK).map(|b| b[0]).collect();
    assert_eq!(firsts, [1, 2, 3, 4, 5, 6, 9, 8]);
    platter.inject(Fault::next(OpKind::Read, FaultKind::Misdirected { block: 4 }));
    assert_eq!(read(&mut disk, file, 0, 1).unwrap(), [5; BLOCK]);
    assert_eq!(read(&mut disk, file, 0, 1).unwrap(), [1; BLOCK]);
}

#[test]
fn a_stale_read_finds_what_was_there_before() {
    let (mut disk, platter, file) = calm();
    write(&mut disk, file, 1, &[9], true).unwrap();
    platter.inject(Fault::next(OpKind::Read, FaultKind::Stale));
    assert_eq!(read(&mut disk, file, 1, 1).unwrap(), [2; BLOCK]);
    assert_eq!(read(&mut disk, file, 1, 1).unwrap(), [9; BLOCK]);
}

#[test]
fn errors_short_transfers_and_a_full_disk() {
    let (mut disk, platter, file) = calm();
    platter.inject_all(&[
        Fault::next(OpKind::Read, FaultKind::Errno(libc::EIO)),
        Fault::next(OpKind::Write, FaultKind::Errno(libc::EIO)),
        Fault::next(OpKind::Write, FaultKind::Errno(libc::ENOSPC)),
        Fault::next(OpKind::Write, FaultKind::Short(1024)),
    ]);
    assert_eq!(read(&mut disk, file, 0, 1), Err(libc::EIO));
    assert_eq!(write(&mut disk, file, 0, &[9], true), Err(libc::EIO));
    assert_eq!(write(&mut disk, file, 0, &[9], true), Err(libc::ENOSPC));
    assert_eq!(sectors(&platter, 0), [1; 8]);
    assert_eq!(write(&mut disk, file, 0, &[9], true), Ok(1024));
    assert_eq!(sectors(&platter, 0), [9, 9, 1, 1, 1, 1, 1, 1]);
    assert_eq!(platter.faults().iter().map(|f| f.times).sum::<u32>(), 0);
    platter.set_capacity(9 * BLOCK as u64);
    assert_eq!(write(&mut disk, file, 8, &[1, 2, 3], true), Ok(4096));
    assert_eq!(write(&mut disk, file, 9, &[1], true), Err(libc::ENOSPC));
}

#[test]
fn a_sync_that_failed_is_followed_by_one_that_lies() {
    let (mut disk, platter, file) = calm();
    platter.inject(Fault::next(OpKind::Sync, FaultKind::Forgets(libc::EIO)));
    write(&mut disk, file, 0, &[9], false).unwrap();
    assert_eq!(perform(&mut disk, Op::Sync { file }).result.unwrap_err().errno, libc::EIO);
    assert!(perform(&mut disk, Op::Sync { file }).result.is_ok());
    assert_eq!(read(&mut disk, file, 0, 1).unwrap(), [9; BLOCK], "readers see it");
    drop(disk.power_loss());
    assert_eq!(sectors(&platter, 0), [1; 8], "and it was never durable");
}

#[test]
fn a_stalled_write_is_overtaken() {
    let (mut disk, platter, file) = calm();
    platter.inject(Fault::next(OpKind::Write, FaultKind::Stall(3)));
    let mut completions = Vec::new();
    for token in 0..2 {
        let buffer = disk.buffer(BLOCK);
        let op = Op::Write { file, offset: 0, buffer, len: BLOCK as u32, durable: true };
        disk.submit(Token(token), op);
    }
    let mut order = Vec::new();
    for poll in 0..5 {
        disk.poll(&mut completions);
        order.extend(completions.drain(..).map(|c| (poll, c.token.0)));
    }
    assert_eq!(order, [(0, 1), (3, 0)]);
}

#[test]
fn a_calm_disk_loses_what_is_not_durable_and_faults_say_what_it_keeps() {
    let (mut disk, platter, file) = calm();
    write(&mut disk, file, 0, &[9], false).unwrap();
    write(&mut disk, file, 1, &[9], false).unwrap();
    create(&mut disk, "b");
    let copy = |disk: SimDisk, faults: &[Fault]| {
        platter.inject_all(faults);
        drop(disk.power_loss());
    };
    // The second write survives in part, the first one not at all: order does not count.
    copy(disk, &[Fault::at(OpKind::CachedBlock, 1, FaultKind::Keeps { sectors: 0b11 })]);
    assert_eq!(sectors(&platter, 0), [1; 8]);
    assert_eq!(sectors(&platter, 1), [9, 9, 2, 2, 2, 2, 2, 2]);
    assert_eq!(platter.list().len(), 1);
    let mut disk = platter.open().unwrap();
    create(&mut disk, "b");
    create(&mut disk, "c");
    copy(disk, &[Fault::next(OpKind::CachedNames, FaultKind::KeepsNames(1))]);
    assert_eq!(platter.list().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

fn lands(faults: &[Fault]) -> Vec<u8> {
    let (mut disk, platter, file) = calm();
    platter.inject_all(faults);
    disk.hold();
    let mut buffer = disk.buffer(BLOCK);
    buffer.as_mut_slice().fill(9);
    disk.submit(Token(0), Op::Write { file, offset: 0, buffer, len: BLOCK as u32, durable: true });
    drop(disk.crash_kill());
    let mut seen = vec![bytes(&platter)[0]];
    let mut disk = platter.open().unwrap();
    for _ in 0..3 {
        disk.poll(&mut Vec::new());
        seen.push(bytes(&platter)[0]);
    }
    let opened = perform(&mut disk, Op::Open { name: "a".to_owned(), mode: OpenMode::ReadWrite });
    let Ok(Done::Opened { file, .. }) = opened.result else { panic!("{opened:?}") };
    perform(&mut disk, Op::Sync { file });
    seen.push(bytes(&platter)[0]);
    seen
}

#[test]
fn a_dead_process_may_still_write() {
    let at = |polls| lands(&[Fault::next(OpKind::Orphan, FaultKind::Lands(polls))]);
    assert_eq!(lands(&[]), [1, 1, 1, 1, 1]);
    assert_eq!(at(0), [9, 9, 9, 9, 9]);
    assert_eq!(at(2), [1, 1, 9, 9, 9]);
    assert_eq!(at(u32::MAX), [1, 1, 1, 1, 9]);
}

#[test]
fn damage_at_rest_is_a_value_too() {
    let (disk, platter, _) = calm();
    drop(disk);
    let copy = platter.copy(7);
    assert!(copy.damage("a", 5000, FaultKind::Flip { at: 0, mask: 1 }));
    assert!(copy.damage("a", 8192, FaultKind::Lost));
    assert!(copy.damage("a", 12288, FaultKind::Misdirected { block: 7 }));
    assert!(copy.damage("a", 16384, FaultKind::Garbage { sector: 0, seed: 1 }));
    assert!(!copy.damage("a", 8 * BLOCK as u64, FaultKind::Lost) && !copy.damage("b", 0, FaultKind::Lost));
    assert_eq!(bytes(&copy)[5000], 3);
    assert_eq!((sectors(&copy, 2), sectors(&copy, 3)), (vec![0; 8], vec![8; 8]));
    assert_ne!(bytes(&copy)[16384..16896], [5; 512]);
    assert_eq!(sectors(&platter, 2), [3; 8], "the original is as it was");
}

#[test]
fn the_text_of_a_fault_makes_it_again() {
    let plain = Fault::at(OpKind::Write, 3, FaultKind::Torn { sectors: 5, errno: 0 });
    assert_eq!(plain.to_string(), "Fault::at(OpKind::Write, 3, FaultKind::Torn { sectors: 5, errno: 0 })");
    let full = Fault { durable: Some(true), name_contains: ".seg".to_owned(), ..plain.clone() };
    assert_eq!(
        full.to_string(),
        "Fault { on: OpKind::Write, name_contains: \".seg\".to_owned(), durable: Some(true), skip: 3, times: 1, \
         what: FaultKind::Torn { sectors: 5, errno: 0 } }"
    );
    assert_eq!(list_faults(std::slice::from_ref(&plain)), format!("[\n    {plain},\n]"));
}

/// Two lives of a log, with a kill and a power loss.
fn two_lives(platter: &SimPlatter) {
    let mut now = 0;
    for life in 0..2u64 {
        let mut found = Streams::default();
        let mut wal = Wal::open(platter.open().unwrap(), small(), 0, &mut found).unwrap();
        let slot = wal.stream(StreamId(1));
        wal.disk().hold();
        for _ in 0..20 {
            let next = wal.entries(slot).map_or(1, |(_, last)| last + 1);
            wal.append(slot, header(next), &payload(1, next, 3000)).unwrap();
            now += 1000;
            wal.submit(now);
            wal.disk().run_some(1 + next as usize % 2);
            wal.poll(now);
        }
        drop(if life == 0 { wal.into_disk().crash_kill() } else { wal.into_disk().power_loss() });
    }
}

fn contents(platter: &SimPlatter) -> Vec<(String, Vec<u8>)> {
    platter.list().into_iter().map(|(name, _)| (name.clone(), platter.read_file(&name).unwrap())).collect()
}

#[test]
fn what_chance_decided_is_replayed_by_the_faults_it_recorded() {
    let mut different = 0;
    for seed in 0..40 {
        let wild = SimDisk::new(SimOptions { seed, ..SimOptions::default() }).platter();
        wild.record();
        two_lives(&wild);
        let faults = wild.recorded();
        assert!(!faults.is_empty());
        let calm = SimDisk::new(SimOptions { seed: 99, ..SimOptions::default() }).platter();
        calm.calm();
        calm.inject_all(&faults);
        two_lives(&calm);
        assert!(contents(&wild) == contents(&calm), "seed {seed}: {}", list_faults(&faults));
        let without = SimDisk::new(SimOptions::default()).platter();
        without.calm();
        two_lives(&without);
        different += u32::from(contents(&wild) != contents(&without));
    }
    assert!(different > 20, "chance made a difference: {different}");
}

/// Whether a log under these faults, on a calm disk, loses an entry that it acknowledged.
fn loses(faults: &[Fault]) -> bool {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    platter.inject_all(faults);
    let Ok(mut wal) = Wal::open(disk, small(), 0, &mut Streams::default()) else { return false };
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    for index in 1..=30 {
        wal.append(slot, header(index), &payload(1, index, 500)).unwrap();
        settle(&mut wal, &mut now);
    }
    drop(wal.into_disk().power_loss());
    platter.clear_faults();
    let mut found = Streams::default();
    let opened = Wal::open(platter.open().unwrap(), small(), 0, &mut found);
    opened.is_err() || found.entries.get(&1).is_none_or(|entries| entries.len() != 30)
}

#[test]
fn a_failure_under_many_faults_is_made_small() {
    let mut faults: Vec<Fault> =
        (0..24).map(|n| Fault::at(OpKind::Write, 3 * n, FaultKind::Stall(n % 3))).collect();
    faults.extend((0..24).map(|n| Fault::at(OpKind::Turn, n, FaultKind::Overtakes(1))));
    assert!(!loses(&faults), "waiting loses nothing");
    let culprit = Fault { durable: Some(true), ..Fault::at(OpKind::Write, 10, FaultKind::Lost) };
    faults.insert(17, culprit.clone());
    assert!(loses(&faults));
    assert_eq!(minimise(&faults, loses), [culprit]);
}

#[test]
fn minimising_finds_what_is_needed_together_and_no_more() {
    let mut asked = 0;
    let needed = [3, 57, 58, 91];
    let small = minimise(&(0..100).collect::<Vec<_>>(), |list| {
        asked += 1;
        needed.iter().all(|n| list.contains(n))
    });
    assert_eq!(small, needed);
    assert!(asked < 200, "{asked}");
    assert_eq!(minimise(&[1, 2, 3], |_| false), [1, 2, 3]);
    assert_eq!(minimise(&[1, 2, 3], |_| true), []);
    assert_eq!(minimise(&[] as &[i32], |_| true), []);
}
