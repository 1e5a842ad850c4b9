//! Bugs that logs and disks have shipped before, each by its number in the project's list of them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, batches, header, payload, settle, small};
use logdrive_wal::{
    AppendError, DamageKind, Fault, FaultKind, Health, OpKind, Options, ReadError, SimDisk, SimOptions,
    SimPlatter, StreamId, StreamSlot, Ticket, Wal,
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

/// Appends entries one batch each, and waits for each.
fn append(wal: &mut Log, stream: u64, indexes: std::ops::RangeInclusive<u64>, len: usize) -> Streams {
    let mut model = Streams::default();
    let slot = wal.stream(StreamId(stream));
    let mut now = 0;
    for index in indexes {
        let payload = payload(stream, index, len);
        wal.append(slot, header(index), &payload).unwrap();
        model.append(stream, header(index), &payload);
        settle(wal, &mut now);
    }
    model
}

fn put(wal: &mut Log, slot: StreamSlot, index: u64, len: usize) -> Ticket {
    wal.append(slot, header(index), &payload(0, index, len)).unwrap()
}

#[test]
fn field_03_after_a_failed_write_nothing_later_is_acknowledged() {
    let (mut wal, platter) = new_log(small());
    let model = append(&mut wal, 1, 1..=3, 100);
    platter.inject(Fault::next(OpKind::Write, FaultKind::Errno(libc::EIO)));
    let slot = wal.stream(StreamId(1));
    let acknowledged = wal.durable();
    put(&mut wal, slot, 4, 100);
    wal.submit(1);
    wal.poll(1);
    assert!(matches!(wal.health(), Health::Poisoned(error) if error.errno == libc::EIO));
    for now in 2..10 {
        assert!(matches!(wal.append(slot, header(5), b"later"), Err(AppendError::Poisoned(_))));
        assert!(matches!(wal.put_state(slot, b"later"), Err(AppendError::Poisoned(_))));
        assert!(matches!(wal.admit(1), Err(AppendError::Poisoned(_))));
        wal.submit(now);
        wal.poll(now);
    }
    assert_eq!(wal.durable(), acknowledged);
    drop(wal);
    assert_eq!(reopen(&platter, small()).1, model);
}

#[test]
fn field_03_a_failed_sync_of_a_new_segment_is_not_repeated() {
    let (mut wal, platter) = new_log(small());
    platter.inject(Fault::next(OpKind::Sync, FaultKind::Errno(libc::EIO)));
    let slot = wal.stream(StreamId(1));
    let mut now = 0;
    for index in 1.. {
        // Crossing into the segment that was ready starts to prepare another one.
        if wal.append(slot, header(index), &[7; 4000]).is_err() {
            break;
        }
        now += 1000;
        wal.submit(now);
        wal.poll(now);
        assert!(index < 100);
    }
    assert!(matches!(wal.health(), Health::Poisoned(error) if error.op == "sync"));
}

#[test]
fn field_03_a_failed_write_ends_even_if_the_next_one_is_complete() {
    let (mut wal, platter) = new_log(small());
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    platter.inject(Fault::next(OpKind::Write, FaultKind::Errno(libc::EIO)));
    for index in 1..=2 {
        put(&mut wal, slot, index, 10);
        wal.submit(1);
    }
    // The second completes first, then the first fails.
    assert!(wal.disk().run_at(1) && wal.disk().run_at(0));
    wal.poll(2);
    assert_eq!(wal.durable(), Ticket(0));
    assert!(matches!(wal.health(), Health::Poisoned(_)));
}

#[test]
fn field_23_nothing_in_a_new_segment_counts_before_the_old_one_and_the_header() {
    let (mut wal, platter) = new_log(small());
    let slot = wal.stream(StreamId(1));
    // Fill the segment until one more batch crosses into the next.
    let mut index = 0;
    let mut now = 0;
    let first = platter.list()[0].0.clone();
    while batches(&platter).iter().map(|(_, offset, _)| *offset).max().unwrap_or(0) < (64 << 10) - 3 * 4096 {
        index += 1;
        put(&mut wal, slot, index, 4000);
        settle(&mut wal, &mut now);
    }
    wal.disk().release();
    wal.disk().run();
    wal.poll(now);
    let before = wal.durable();
    wal.disk().hold();
    for step in 1..=3 {
        put(&mut wal, slot, index + step, 4000);
        wal.submit(now);
    }
    let log_writes = |wal: &mut Log| -> Vec<(usize, String, Option<u64>)> {
        let list = wal.disk().under_way().into_iter().enumerate();
        let list = list.filter(|(_, (kind, name, _))| *kind == OpKind::Write && name.ends_with(".seg"));
        list.map(|(place, (_, name, offset))| (place, name, offset)).collect()
    };
    let writes = log_writes(&mut wal);
    assert!(writes.iter().any(|(_, name, _)| *name == first), "{writes:?}");
    let header_at = writes.iter().position(|(_, name, offset)| *name != first && *offset == Some(0)).unwrap();
    assert!(writes.len() > header_at + 1, "a batch follows the header: {writes:?}");
    // The batch behind the header first, then the header, last the batches of the old segment.
    for _ in 0..writes.len() - header_at - 1 {
        let last = log_writes(&mut wal).last().unwrap().0;
        wal.disk().run_at(last);
        wal.poll(now);
        assert_eq!(wal.durable(), before);
    }
    let place = log_writes(&mut wal).last().unwrap().0;
    wal.disk().run_at(place);
    wal.poll(now);
    assert_eq!(wal.durable(), before, "the old segment is not durable yet");
    wal.disk().run();
    wal.poll(now);
    assert_eq!(wal.durable(), wal.last_ticket());
    // What was acknowledged includes the new name in the directory.
    drop(wal.into_disk().power_loss());
    assert_eq!(reopen(&platter, small()).1.entries[&1].len() as u64, index + 3);
}

#[test]
fn field_25_old_batches_of_a_recycled_segment_are_not_replayed() {
    let (mut wal, platter) = new_log(small());
    let slot = wal.stream(StreamId(1));
    append(&mut wal, 1, 1..=60, 3900);
    wal.compact(slot, 60).unwrap();
    let mut now = 1_000_000_000;
    for index in 61..=106 {
        put(&mut wal, slot, index, 3900);
        now += 20_000_000;
        settle(&mut wal, &mut now);
        wal.submit(now);
        wal.poll(now);
    }
    assert!(wal.stats().segments_recycled > 0);
    let current = batches(&platter).pop().unwrap();
    let bytes = platter.read_file(&current.0).unwrap();
    let stale = bytes[current.1 as usize + 8192..].chunks(4096).any(|block| block.starts_with(b"LDB2"));
    assert!(stale, "the segment holds batches of its former life behind the new ones");
    drop(wal.into_disk().power_loss());
    let (_, found) = reopen(&platter, small());
    assert_eq!(found.entries[&1].keys().copied().collect::<Vec<_>>(), (61..=106).collect::<Vec<_>>());
}

fn append_one(wal: &mut Log, stream: u64, index: u64, now: &mut u64) {
    let slot = wal.stream(StreamId(stream));
    wal.append(slot, header(index), &payload(stream, index, 100)).unwrap();
    settle(wal, now);
}

/// Opens and keeps what is told.
fn told(platter: &SimPlatter, options: Options) -> (Log, Told) {
    let mut told = Told::default();
    let wal = Wal::open(platter.open().unwrap(), options, 0, &mut told).unwrap();
    (wal, told)
}

#[test]
fn field_26_a_flipped_bit_in_acknowledged_data_is_named_and_nothing_behind_it_is_truncated() {
    let (mut wal, platter) = new_log(small());
    let model = append(&mut wal, 1, 1..=30, 5000);
    wal.close(1).unwrap();
    let places = batches(&platter);
    assert_eq!(places.len(), 30);
    // The last one as well: the mark knows of it.
    for (number, (name, offset, len)) in places.iter().enumerate() {
        for at in [0u64, 5, 9, 17, 33, 37, 49, 66, 100, u64::from(*len) / 2, u64::from(*len) - 1] {
            let copy = platter.copy(number as u64);
            copy.flip(name, offset + at, 0x10);
            let (mut wal, told) = told(&copy, small());
            let what = format!("batch {number}, byte {at}");
            let index = number as u64 + 1;
            // A flipped bit of the header or of the repeated directory alone costs nothing.
            let lost = at >= 100;
            assert_eq!(told.missing(&model, &what), usize::from(lost), "{what}");
            let expected: &[(u64, u64, u64)] = if lost { &[(1, index, index)] } else { &[] };
            assert_eq!(told.damaged, expected, "{what}");
            assert!(told.in_doubt.is_empty() && !told.unknown, "{what}");
            let damage = &wal.recovered().damage;
            assert_eq!((damage.len(), &damage[0].segment, damage[0].offset), (1, name, *offset), "{what}");
            assert!(damage[0].is_exact, "{what}");
            let slot = wal.stream(StreamId(1));
            assert_eq!(wal.entries(slot), Some((1, 30)), "{what}");
        }
    }
    assert_eq!(reopen(&platter, small()).1, model);
}

#[test]
fn field_26_a_damaged_segment_header_costs_nothing_and_is_named() {
    let (mut wal, platter) = new_log(small());
    let model = append(&mut wal, 1, 1..=40, 3900);
    wal.close(1).unwrap();
    for number in [0, 20, 39] {
        let name = batches(&platter)[number].0.clone();
        for damage in ["checksum", "magic", "zeros"] {
            let copy = platter.copy(number as u64);
            let _ = match damage {
                "checksum" => copy.flip(&name, 41, 1),
                "magic" => copy.flip(&name, 0, 1),
                _ => copy.overwrite(&name, 0, &[0; 4096]),
            };
            let (wal, told) = told(&copy, small());
            assert_eq!(told.streams, model, "{name}, {damage}");
            assert!(told.is_calm());
            let found = &wal.recovered().damage;
            assert_eq!((found.len(), &found[0].segment, found[0].kind), (1, &name, DamageKind::Header));
        }
    }
}

#[test]
fn field_26_a_read_of_damaged_bytes_is_an_error_and_the_log_runs_on() {
    let (mut wal, platter) = new_log(small());
    append(&mut wal, 1, 1..=10, 3000);
    let (name, offset, _) = batches(&platter)[4].clone();
    platter.flip(&name, offset + 1000, 2);
    let slot = wal.stream(StreamId(1));
    let mut read = |first, last| {
        wal.read(9, slot, first, last, u32::MAX);
        loop {
            wal.submit(1);
            wal.poll(1);
            if let Some(done) = wal.poll_read() {
                return done.result;
            }
        }
    };
    assert_eq!(read(1, 4).unwrap().len(), 4);
    match read(1, 10) {
        Err(ReadError::Corrupt { segment, expected_crc, found_crc, .. }) => {
            assert_eq!(segment, name);
            assert_ne!(expected_crc, found_crc);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(read(6, 10).unwrap().len(), 5);
    assert_eq!(*wal.health(), Health::Running);
}

#[test]
fn field_27_a_batch_in_the_wrong_place_is_named_a_misdirected_write() {
    let (mut wal, platter) = new_log(small());
    append(&mut wal, 1, 1..=12, 3000);
    let places = batches(&platter);
    let bytes = platter.read_file(&places[2].0).unwrap();
    let batch = bytes[places[2].1 as usize..places[2].1 as usize + 4096].to_vec();
    let (name, offset, _) = places[7].clone();
    platter.overwrite(&name, offset, &batch);
    // A reader of the single record notices, too: the record is valid, and belongs elsewhere.
    let slot = wal.stream(StreamId(1));
    wal.read(1, slot, 8, 8, 4096);
    let done = loop {
        wal.submit(1);
        wal.poll(1);
        if let Some(done) = wal.poll_read() {
            break done;
        }
    };
    assert!(matches!(done.result, Err(ReadError::Corrupt { .. })), "{done:?}");
    let mut now = 1;
    append_one(&mut wal, 1, 13, &mut now);
    drop(wal);
    let (wal, told) = self::told(&platter, small());
    assert_eq!(told.damaged, [(1, 8, 8)]);
    let damage = &wal.recovered().damage;
    assert_eq!((damage[0].offset, damage[0].kind), (offset, DamageKind::Misdirected));
}

#[test]
fn field_34_several_writes_are_in_flight_and_acknowledged_in_order() {
    let (mut wal, _) = new_log(Options { writes_in_flight: 4, ..small() });
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    let mut tickets = Vec::new();
    for index in 1..=6 {
        tickets.push(put(&mut wal, slot, index, 10));
        wal.submit(index);
    }
    // Four are under way; the rest share a batch that goes on growing.
    assert_eq!(wal.disk().in_flight(), 4);
    assert_eq!(tickets[4], tickets[5]);
    assert!(wal.backlog_bytes() > 0);
    for place in [3, 2, 1] {
        wal.disk().run_at(place);
        wal.poll(10);
        assert_eq!(wal.durable(), Ticket(0));
    }
    wal.disk().run_at(0);
    wal.poll(11);
    assert_eq!(wal.durable(), tickets[3]);
    assert_eq!(wal.oldest_write_nanos(), None);
    wal.submit(12);
    assert_eq!(wal.oldest_write_nanos(), Some(12));
    wal.disk().run();
    wal.poll(13);
    assert_eq!((wal.durable(), wal.last_write_nanos()), (tickets[5], Some(13)));
}

#[test]
fn field_35_an_entry_takes_few_bytes_of_memory() {
    let options = Options { budget_bytes: 512 << 20, segment_bytes: 8 << 20, ..small() };
    let (mut wal, _) = new_log(options);
    let slots: Vec<StreamSlot> = (0..1024).map(|id| wal.stream(StreamId(id))).collect();
    let mut now = 0;
    let count = 600;
    for index in 1..=count {
        for slot in &slots {
            wal.append(*slot, header(index), &[1; 16]).unwrap();
        }
        settle(&mut wal, &mut now);
    }
    let per_entry = wal.index_bytes() as f64 / (count * 1024) as f64;
    assert!(per_entry <= 7.0, "{per_entry} bytes per entry");
}

#[test]
fn field_39_a_stale_batch_behind_a_cut_tail_is_not_replayed() {
    let (mut wal, platter) = new_log(small());
    let mut model = append(&mut wal, 1, 1..=3, 100);
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    for index in 4..=5 {
        put(&mut wal, slot, index, 100);
        wal.submit(1);
    }
    // Batch n is under way and never lands; n + 1 behind it is complete.
    assert!(wal.disk().run_at(1));
    let disk = wal.into_disk();
    drop(disk.power_loss());
    // Whatever became of batch n, it is not there now.
    let torn = batches(&platter).iter().find(|(_, offset, _)| *offset == 4096 * 4).cloned();
    if let Some((name, offset, _)) = torn {
        platter.overwrite(&name, offset, &[0; 4096]);
    }
    let (mut wal, found) = reopen(&platter, small());
    assert_eq!(found, model);
    // A new batch n of the same size.
    let slot = wal.stream(StreamId(1));
    let new = payload(9, 4, 100);
    wal.append(slot, header(4), &new).unwrap();
    model.append(1, header(4), &new);
    let mut now = 2;
    settle(&mut wal, &mut now);
    drop(wal.into_disk().power_loss());
    assert_eq!(reopen(&platter, small()).1, model);
}

#[test]
fn field_39_a_batch_that_followed_another_predecessor_ends_the_log() {
    // Two lives that differ in one batch: the same place, the same size, the same segment.
    let life = |text: &[u8]| {
        let (mut wal, platter) = new_log(small());
        let slot = wal.stream(StreamId(1));
        let mut now = 0;
        for (index, payload) in [b"one".as_slice(), text, b"three"].into_iter().enumerate() {
            wal.append(slot, header(index as u64 + 1), payload).unwrap();
            settle(&mut wal, &mut now);
        }
        drop(wal);
        platter
    };
    let (old, new) = (life(b"old"), life(b"new"));
    let (name, offset, _) = batches(&old)[2].clone();
    let stale = old.read_file(&name).unwrap()[offset as usize..offset as usize + 4096].to_vec();
    new.overwrite(&name, offset, &stale);
    let (wal, found) = reopen(&new, small());
    let payloads: Vec<_> = found.entries[&1].values().map(|(_, _, p)| p.as_slice()).collect();
    assert_eq!(payloads, [b"one".as_slice(), b"new"]);
    assert_eq!(wal.recovered().cut, Some((name, offset)));
}

#[test]
fn field_40_a_write_of_a_killed_process_that_lands_late_changes_nothing() {
    for seed in 0..200 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let platter = disk.platter();
        let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
        let base = append(&mut wal, 1, 1..=3, 100);
        let slot = wal.stream(StreamId(1));
        wal.disk().hold();
        for index in 4..=6 {
            put(&mut wal, slot, index, 100);
            wal.submit(1);
        }
        // Three writes are under way when the process dies; they land at once, later, or never.
        drop(wal.into_disk().crash_kill());
        let (mut wal, found) = reopen(&platter, small());
        let recovered = found.entries[&1].len() as u64;
        assert!((3..=6).contains(&recovered));
        let mut model = base;
        for index in 4..=recovered {
            model.append(1, header(index), &payload(0, index, 100));
        }
        assert_eq!(found, model);
        let slot = wal.stream(StreamId(1));
        for index in recovered + 1..=recovered + 4 {
            let new = payload(77, index, 100);
            wal.append(slot, header(index), &new).unwrap();
            model.append(1, header(index), &new);
            let mut now = 2;
            settle(&mut wal, &mut now);
        }
        drop(wal.into_disk().power_loss());
        assert_eq!(reopen(&platter, small()).1, model, "seed {seed}");
    }
}

#[test]
fn field_41_what_recovery_read_from_the_cache_is_flushed_before_it_is_used() {
    let mut unacknowledged_came_back = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let platter = disk.platter();
        let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
        append(&mut wal, 1, 1..=2, 100);
        let slot = wal.stream(StreamId(1));
        wal.disk().hold();
        put(&mut wal, slot, 3, 100);
        wal.submit(1);
        drop(wal.into_disk().crash_kill());
        // The write may have reached the device's cache, where recovery sees it.
        let (wal, found) = reopen(&platter, small());
        unacknowledged_came_back += u32::from(found.entries[&1].len() == 3);
        drop(wal.into_disk().power_loss());
        assert_eq!(reopen(&platter, small()).1, found, "seed {seed}");
    }
    assert!(unacknowledged_came_back > 0);
}

#[test]
fn a_small_batch_waits_a_little_while_a_write_is_under_way_if_that_is_wanted() {
    let (mut wal, _) = new_log(Options { batch_bytes_min: 8 << 10, segment_bytes: 1 << 20, ..small() });
    let slot = wal.stream(StreamId(1));
    // Writes take 160 us here.
    let mut now = 0;
    for index in 1..=64 {
        wal.disk().hold();
        put(&mut wal, slot, index, 10);
        wal.submit(now);
        assert_eq!(wal.disk().in_flight(), 1, "nothing is under way: it goes at once");
        now += 160_000;
        wal.disk().run();
        wal.poll(now);
    }
    put(&mut wal, slot, 65, 10);
    wal.submit(now);
    put(&mut wal, slot, 66, 10);
    wal.submit(now + 20_000);
    assert_eq!(wal.disk().in_flight(), 1, "the second waits");
    wal.submit(now + 100_000);
    assert_eq!(wal.disk().in_flight(), 2, "half a write later it goes");
    for index in 67..=80 {
        put(&mut wal, slot, index, 700);
    }
    wal.submit(now + 110_000);
    assert_eq!(wal.disk().in_flight(), 3, "a large one goes at once");
}

#[test]
fn a_long_turn_is_divided_so_that_the_disk_works_meanwhile() {
    let options = Options { segment_bytes: 2 << 20, batch_bytes_max: 256 << 10, ..small() };
    let (mut wal, _) = new_log(options);
    let slot = wal.stream(StreamId(1));
    let (mut index, mut now) = (0, 0);
    // What was asked for in the middle of a turn, and how many writes are under way at its end.
    let mut turn = |wal: &mut Wal<SimDisk>, entries: u64| {
        let mut asked = 0;
        wal.disk().hold();
        for _ in 0..entries {
            index += 1;
            now += 1_000;
            put(wal, slot, index, 1000);
            if wal.wants_submit() {
                asked += 1;
                wal.submit(now);
            }
        }
        wal.submit(now);
        let in_flight = wal.disk().in_flight();
        while wal.durable() < wal.last_ticket() {
            wal.disk().run();
            wal.poll(now);
            wal.submit(now);
        }
        (asked, in_flight)
    };
    assert_eq!(turn(&mut wal, 40), (0, 1), "nobody knows yet how long turns are");
    for _ in 0..5 {
        assert_eq!(turn(&mut wal, 40), (1, 2));
    }
    assert_eq!(turn(&mut wal, 5), (0, 1), "a small one is no two writes");
    // A part of that would be less than a write is worth.
    assert_eq!(turn(&mut wal, 7), (0, 1));
    // Of a long one as much goes to the idle disk; then one write at a time keeps up.
    turn(&mut wal, 250);
    assert_eq!(turn(&mut wal, 250), (1, 2));
}

#[test]
fn where_the_disk_is_waited_for_another_write_goes_while_others_are_under_way() {
    let options = Options { segment_bytes: 4 << 20, batch_bytes_max: 256 << 10, ..small() };
    let (mut wal, _) = new_log(options);
    let slot = wal.stream(StreamId(1));
    let (mut index, mut now) = (0, 0);
    // A write takes twice as long as what comes meanwhile: two are always under way.
    wal.disk().set_latency(190_000..190_001);
    for _ in 0..300 {
        for _ in 0..20 {
            index += 1;
            put(&mut wal, slot, index, 1000);
        }
        wal.submit(now);
        now += 100_000;
        wal.disk().advance(now);
        wal.poll(now);
    }
    assert!(wal.durable() < wal.last_ticket());
    for _ in 0..60 {
        index += 1;
        put(&mut wal, slot, index, 1000);
        assert!(!wal.wants_submit(), "not worth a write yet");
    }
    for _ in 0..10 {
        index += 1;
        put(&mut wal, slot, index, 1000);
    }
    assert!(wal.wants_submit(), "64 KiB, while another is under way");
}

#[test]
fn what_is_full_goes_as_soon_as_a_write_has_ended() {
    let options =
        Options { segment_bytes: 1 << 20, batch_bytes_max: 16 << 10, writes_in_flight: 2, ..small() };
    let (mut wal, _) = new_log(options);
    let slot = wal.stream(StreamId(1));
    wal.disk().hold();
    for index in 1..=100 {
        put(&mut wal, slot, index, 1000);
    }
    wal.submit(0);
    assert_eq!(wal.disk().in_flight(), 2);
    let waiting = wal.backlog_bytes();
    wal.disk().run();
    wal.disk().hold();
    // Between two turns, while the owner does something else.
    wal.poll(0);
    assert_eq!(wal.disk().in_flight(), 2, "two more");
    assert!(wal.backlog_bytes() < waiting, "{} of {waiting}", wal.backlog_bytes());
    for _ in 0..4 {
        wal.disk().run();
        wal.poll(0);
    }
    assert!(wal.durable() < wal.last_ticket() && wal.disk().in_flight() == 0, "the open one may still grow");
    wal.submit(0);
    wal.disk().run();
    wal.poll(0);
    assert_eq!(wal.durable(), wal.last_ticket());
}
