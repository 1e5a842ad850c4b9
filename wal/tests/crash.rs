//! A log workload with a crash at every operation of the disk, by kill and by power loss: afterwards everything that was
//! acknowledged is there, in order, and nothing was invented.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Op, Streams, header, payload, random};
use logdrive_wal::{Health, Options, SimDisk, SimOptions, SimPlatter, StreamId, Ticket, Wal};

const STREAMS: u64 = 5;

fn options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        batch_bytes_max: 8 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: 2 << 20,
        writes_in_flight: 3,
        ..Options::default()
    }
}

/// What one life of the log wrote, and how much of it was acknowledged.
struct Life {
    base: Streams,
    journal: Vec<(Ticket, Op)>,
    acknowledged: Ticket,
}

/// Appends, overwrites, states and compactions, until `turns` are over or the disk halts. Completions come in random order.
fn live(wal: &mut Wal<SimDisk>, base: &Streams, seed: u64, turns: u64) -> Life {
    let mut life = Life { base: base.clone(), journal: Vec::new(), acknowledged: Ticket(0) };
    let mut model = base.clone();
    let mut rng = seed;
    wal.disk().hold();
    for turn in 1..=turns {
        let now = turn * 20_000_000;
        for _ in 0..random(&mut rng, 6) {
            let stream = random(&mut rng, STREAMS) + 1;
            let slot = wal.stream(StreamId(stream));
            let entries = wal.entries(slot);
            let compacted = model.compacted.get(&stream).copied().unwrap_or(0);
            let op = match (random(&mut rng, 12), entries) {
                (0, _) => Op::State(stream, payload(stream, turn, random(&mut rng, 60) as usize)),
                (1, Some((first, last))) => Op::Compact(stream, first + random(&mut rng, last - first + 1)),
                (2, Some((first, last))) => {
                    let index = first + random(&mut rng, last - first + 1);
                    Op::Append(stream, header(index), payload(stream, turn, 700))
                }
                (_, entries) => {
                    let index = entries.map_or(compacted, |(_, last)| last) + 1;
                    let len = random(&mut rng, 2000) as usize * (1 + random(&mut rng, 3) as usize);
                    Op::Append(stream, header(index), payload(stream, turn + index, len))
                }
            };
            let ticket = match &op {
                Op::Append(_, header, payload) => wal.append(slot, *header, payload),
                Op::State(_, state) => wal.put_state(slot, state),
                Op::Compact(_, index) => wal.compact(slot, *index),
            };
            let Ok(ticket) = ticket else { return life };
            op.apply(&mut model);
            life.journal.push((ticket, op));
        }
        wal.submit(now);
        let count = random(&mut rng, 5) as usize;
        wal.disk().run_some(count);
        wal.poll(now);
        life.acknowledged = wal.durable();
        if *wal.health() != Health::Running {
            return life;
        }
    }
    life
}

/// The recovered streams are those after some prefix of the journal that contains everything acknowledged.
fn check(life: &Life, found: &Streams, what: &str) {
    let mut model = life.base.clone();
    let acknowledged = life.journal.iter().take_while(|(ticket, _)| *ticket <= life.acknowledged).count();
    for (_, op) in &life.journal[..acknowledged] {
        op.apply(&mut model);
    }
    for (number, step) in (acknowledged..=life.journal.len()).enumerate() {
        if number > 0 {
            life.journal[step - 1].1.apply(&mut model);
        }
        if same(&model, found) {
            return;
        }
    }
    eprintln!("model {:?}\nfound {:?}", brief(&model), brief(found));
    panic!(
        "{what}: nothing between the {acknowledged} acknowledged of {} operations was recovered",
        life.journal.len()
    );
}

/// First and last entries, lengths of states, compactions.
fn brief(streams: &Streams) -> String {
    let entries: Vec<_> =
        streams.entries.iter().map(|(id, e)| (id, e.first_key_value().map(|(k, _)| *k), e.len())).collect();
    let states: Vec<_> = streams.states.iter().map(|(id, s)| (id, s.len())).collect();
    format!("{entries:?} {states:?} {:?}", streams.compacted)
}

fn same(model: &Streams, found: &Streams) -> bool {
    let live = |s: &Streams| -> Vec<_> {
        s.entries.iter().filter(|(_, e)| !e.is_empty()).map(|(k, v)| (*k, v.clone())).collect()
    };
    live(model) == live(found) && model.states == found.states && model.compacted == found.compacted
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    Kill,
    Power,
}

fn crash(disk: SimDisk, how: Crash) -> SimPlatter {
    match how {
        Crash::Kill => disk.crash_kill(),
        Crash::Power => disk.power_loss(),
    }
}

fn reopen(platter: &SimPlatter, what: &str) -> (Wal<SimDisk>, Streams) {
    let mut found = Streams::default();
    let wal = Wal::open(platter.open().unwrap(), options(), 0, &mut found);
    (wal.unwrap_or_else(|e| panic!("{what}: {e}")), found)
}

/// Lives, crashes after `at` operations of the disk or at the end, and returns what was written and whether it came that far.
fn live_until(platter: &SimPlatter, base: &Streams, seed: u64, at: u64, how: Crash) -> (Life, bool) {
    let empty = || Life { base: base.clone(), journal: Vec::new(), acknowledged: Ticket(0) };
    platter.halt_after(at);
    let mut found = Streams::default();
    let life = match Wal::open(platter.open().unwrap(), options(), 0, &mut found) {
        Ok(mut wal) => {
            let life = live(&mut wal, base, seed, 60);
            crash(wal.into_disk(), how);
            life
        }
        Err(error) => {
            assert!(platter.halted(), "seed {seed} at {at}: {error}");
            if how == Crash::Power {
                platter.power_loss();
            }
            empty()
        }
    };
    let halted = platter.halted();
    platter.revive();
    (life, halted)
}

fn sweep(how: Crash, seeds: std::ops::Range<u64>) {
    let mut crashes = 0;
    for seed in seeds {
        for at in 0.. {
            let disk = SimDisk::new(SimOptions { seed: seed * 1000 + at, ..SimOptions::default() });
            let platter = disk.platter();
            drop(disk);
            let what = format!("{how:?}, seed {seed}, operation {at}");
            let (life, halted) = live_until(&platter, &Streams::default(), seed, at, how);
            if !halted {
                break;
            }
            crashes += 1;
            // A second life from what the first left, with a crash of the other kind somewhere in it.
            let (wal, found) = reopen(&platter, &what);
            check(&life, &found, &what);
            drop(wal);
            let other = if how == Crash::Kill { Crash::Power } else { Crash::Kill };
            let (second, _) = live_until(&platter, &found, seed + 77, at * 7 % 120, other);
            let (mut wal, third) = reopen(&platter, &what);
            check(&second, &third, &format!("{what}, second life"));
            // And what was recovered is durable: it survives a power loss right away.
            wal.disk().hold();
            platter.halt_after(0);
            crash(wal.into_disk(), Crash::Power);
            platter.revive();
            let (_, fourth) = reopen(&platter, &what);
            assert!(same(&third, &fourth), "{what}: what was recovered was not durable");
        }
    }
    assert!(crashes > 100, "only {crashes} crashes");
}

#[test]
fn a_kill_at_every_operation_loses_nothing_acknowledged() {
    sweep(Crash::Kill, 1..7);
}

#[test]
fn a_power_loss_at_every_operation_loses_nothing_acknowledged() {
    sweep(Crash::Power, 1..7);
}
