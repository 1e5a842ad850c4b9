//! Bugs that logs and disks have shipped before, continued from `field.rs`: writes that overlap, directories that are not what they
//! were.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{EntryHeader, OpenError, Options, SimDisk, SimOptions, SimPlatter, StreamId, Ticket, Wal};

type Log = Wal<SimDisk>;

fn new_log(seed: u64) -> (Log, SimPlatter) {
    let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
    let platter = disk.platter();
    (Wal::open(disk, small(), 0, &mut Streams::default()).unwrap(), platter)
}

fn reopen(platter: &SimPlatter) -> Streams {
    let mut found = Streams::default();
    Wal::open(platter.open().unwrap(), small(), 0, &mut found).unwrap();
    found
}

/// Tags of a stream's entries, by index.
fn tags(streams: &Streams) -> BTreeMap<u64, u64> {
    streams
        .entries
        .get(&1)
        .map_or_else(BTreeMap::new, |e| e.iter().map(|(i, (tag, ..))| (*i, *tag)).collect())
}

#[test]
fn field_04_a_truncation_that_overlaps_a_write_leaves_one_history_or_the_other() {
    let mut seen = BTreeMap::new();
    for seed in 0..120 {
        let (mut wal, platter) = new_log(seed);
        let slot = wal.stream(StreamId(1));
        let mut now = 0;
        let put = |wal: &mut Log, index: u64, tag: u64| {
            wal.append(slot, EntryHeader { index, tag, note: 0 }, &payload(1, tag, 900)).unwrap();
        };
        put(&mut wal, 1, 1);
        put(&mut wal, 2, 1);
        settle(&mut wal, &mut now);
        wal.disk().hold();
        // Entries 3 to 6 are under way when 4 is replaced, which is under way when 5 is appended to it.
        let histories = [vec![(3, 1), (4, 1), (5, 1), (6, 1)], vec![(4, 2)], vec![(5, 2)]];
        let mut model: BTreeMap<u64, u64> = [(1, 1), (2, 1)].into();
        let mut allowed = vec![model.clone()];
        for batch in &histories {
            for (index, tag) in batch {
                put(&mut wal, *index, *tag);
                model.split_off(index);
                model.insert(*index, *tag);
            }
            wal.submit(now);
            allowed.push(model.clone());
        }
        wal.disk().run_some(seed as usize % 4);
        wal.poll(now);
        let durable = wal.durable();
        let crash = wal.into_disk();
        drop(if seed % 2 == 0 { crash.power_loss() } else { crash.crash_kill() });
        let found = tags(&reopen(&platter));
        let history = allowed.iter().position(|model| *model == found);
        let history = history.unwrap_or_else(|| panic!("seed {seed}: {found:?} is no history"));
        assert!(history as u64 + 1 >= durable.0, "seed {seed}: {durable:?} was acknowledged");
        *seen.entry(history).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 4, "every history came up: {seen:?}");
}

#[test]
fn field_11_the_completion_of_an_old_write_does_not_vouch_for_the_entry_that_replaced_it() {
    let (mut wal, platter) = new_log(1);
    platter.calm();
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    let put = |wal: &mut Log, tag: u64| -> Ticket {
        let ticket = wal.append(slot, EntryHeader { index: 1, tag, note: 0 }, b"the same index").unwrap();
        wal.submit(tag);
        ticket
    };
    // Three times the same index; the third like the first.
    let tickets = [put(&mut wal, 1), put(&mut wal, 2), put(&mut wal, 1)];
    assert!(tickets[0] < tickets[1] && tickets[1] < tickets[2]);
    // The header of the segment is durable already: these are the three batches.
    assert_eq!(wal.disk().in_flight(), 3);
    assert!(wal.disk().run_at(2));
    wal.poll(4);
    assert_eq!(wal.durable(), Ticket(0), "the newest is complete, and nothing before it");
    assert!(wal.disk().run_at(0));
    wal.poll(5);
    assert_eq!(wal.durable(), tickets[0], "the oldest vouches for itself alone");
    let copy = wal.into_disk();
    drop(copy.power_loss());
    assert_eq!(tags(&reopen(&platter)), [(1, 1)].into());
}

fn log_of(id: u64, entries: u64) -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, Options { log_id: id, ..small() }, 0, &mut Streams::default()).unwrap();
    let slot = wal.stream(StreamId(1));
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=entries {
        wal.append(slot, header(index), &payload(1, index, 4000)).unwrap();
        model.append(1, header(index), &payload(1, index, 4000));
        settle(&mut wal, &mut now);
    }
    wal.close(now + 1).unwrap();
    (platter, model)
}

fn open_as(platter: &SimPlatter, id: u64) -> Result<Streams, OpenError> {
    let mut found = Streams::default();
    Wal::open(platter.open().unwrap(), Options { log_id: id, ..small() }, 0, &mut found)?;
    Ok(found)
}

#[test]
fn field_29_a_directory_of_another_log_is_refused() {
    let (platter, model) = log_of(5, 40);
    match open_as(&platter, 6) {
        Err(OpenError::ForeignFile { why, .. }) => {
            assert!(why.contains("0x5") && why.contains("0x6"), "{why}")
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(open_as(&platter, 5).unwrap(), model);
}

#[test]
fn field_29_a_directory_that_lost_a_file_is_refused_or_says_what_it_lost() {
    let (platter, model) = log_of(5, 40);
    let count = model.entries[&1].len();
    let used = |bytes: &[u8]| bytes.get(4096..4100).is_some_and(|magic| magic == b"LDB2");
    let files: Vec<(String, bool)> = platter
        .list()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".seg"))
        .map(|(name, _)| (name.clone(), used(&platter.read_file(&name).unwrap())))
        .collect();
    let newest = files.iter().rposition(|(_, used)| *used).unwrap();
    assert!(newest >= 2);
    for (number, (name, _)) in files.iter().enumerate() {
        let copy = platter.copy(1);
        assert!(copy.remove(name));
        match open_as(&copy, 5) {
            Ok(found) => {
                assert!(number > newest, "without {name} the log opened");
                assert_eq!(found.entries[&1].len(), count, "without {name}, which was only prepared");
            }
            Err(OpenError::MissingSegment { segment }) => assert_eq!(segment, *name),
            Err(OpenError::Corrupt { .. }) => assert!(number < newest, "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}
