//! While streams are rewritten the process is killed, or power is lost, at every operation of the disk (FIELD 24).
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/ordered.rs"]
mod ordered;

use common::{Op, Streams, header, payload, random};
use logdrive_wal::{Health, Options, SimDisk, SimOptions, SimPlatter, StreamId, Ticket, Wal};
use ordered::{HOT, Ordered, same, summary};

type Log = Wal<SimDisk>;

fn crash_options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        batch_bytes_max: 4 << 10,
        payload_bytes_max: 3 << 10,
        budget_bytes: 14 * (32 << 10),
        writes_in_flight: 3,
        reclaim_patience_ms: 0,
        ..Options::default()
    }
}

struct Life {
    base: Streams,
    journal: Vec<(Ticket, Op)>,
    acknowledged: Ticket,
    rewrites: u64,
    recycled: u64,
}

/// The next thing that a random owner does: cold streams 1 to 4 are never compacted and seldom written, hot ones often.
fn next_op(wal: &mut Log, model: &Streams, rng: &mut u64, turn: u64) -> Op {
    let cold = random(rng, 8) == 0;
    let stream = if cold { 1 + random(rng, 4) } else { HOT + random(rng, 3) };
    let slot = wal.stream(StreamId(stream));
    let compacted = model.compacted.get(&stream).copied().unwrap_or(0);
    match (random(rng, 10), wal.entries(slot)) {
        (0, _) => Op::State(stream, payload(stream, turn, random(rng, 60) as usize)),
        (1..=4, Some((first, last))) if !cold && last > first + 2 => {
            Op::Compact(stream, last - random(rng, 2))
        }
        (5, Some((first, last))) => {
            // Seldom the whole stream.
            let first = if random(rng, 4) == 0 { first } else { last.saturating_sub(2).max(first) };
            let index = first + random(rng, last - first + 1);
            Op::Append(stream, header(index), payload(stream, turn, 200))
        }
        (_, entries) => {
            let index = entries.map_or(compacted, |(_, last)| last) + 1;
            let len = if cold { 200 } else { 500 + random(rng, 2000) as usize };
            Op::Append(stream, header(index), payload(stream, turn + index, len))
        }
    }
}

fn live(wal: &mut Log, base: &Streams, seed: u64, turns: u64) -> Life {
    let mut model = base.clone();
    let mut life =
        Life { base: base.clone(), journal: Vec::new(), acknowledged: Ticket(0), rewrites: 0, recycled: 0 };
    let mut rng = seed;
    wal.disk().hold();
    for turn in 1..=turns {
        let now = turn * 20_000_000;
        for _ in 0..random(&mut rng, 4) {
            let op = next_op(wal, &model, &mut rng, turn);
            let ticket = match &op {
                Op::Append(stream, header, payload) => {
                    let slot = wal.stream(StreamId(*stream));
                    wal.append(slot, *header, payload)
                }
                Op::State(stream, state) => {
                    let slot = wal.stream(StreamId(*stream));
                    wal.put_state(slot, state)
                }
                Op::Compact(stream, index) => {
                    let slot = wal.stream(StreamId(*stream));
                    wal.compact(slot, *index)
                }
            };
            // A full log refuses, and goes on.
            let Ok(ticket) = ticket else { continue };
            op.apply(&mut model);
            life.journal.push((ticket, op));
        }
        wal.submit(now);
        let count = 2 + random(&mut rng, 6) as usize;
        wal.disk().run_some(count);
        wal.poll(now);
        life.acknowledged = wal.durable();
        (life.rewrites, life.recycled) = (wal.stats().rewrites, wal.stats().segments_recycled);
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
    panic!(
        "{what}: {acknowledged} of {} operations were acknowledged, and the streams\n{}\nwere recovered instead of\n{}",
        life.journal.len(),
        summary(found),
        summary(&model)
    );
}

fn reopen(platter: &SimPlatter, what: &str) -> (Log, Streams) {
    let mut found = Ordered::default();
    let wal = Wal::open(platter.open().unwrap(), crash_options(), 0, &mut found);
    (wal.unwrap_or_else(|e| panic!("{what}: {e}")), found.0)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    Kill,
    Power,
}

/// Lives until `at` operations of the disk were performed; whether it came that far.
fn live_until(
    platter: &SimPlatter,
    base: &Streams,
    seed: u64,
    at: u64,
    turns: u64,
    how: Crash,
) -> (Life, bool) {
    let mut life =
        Life { base: base.clone(), journal: Vec::new(), acknowledged: Ticket(0), rewrites: 0, recycled: 0 };
    platter.halt_after(at);
    match Wal::open(platter.open().unwrap(), crash_options(), 0, &mut Ordered::default()) {
        Ok(mut wal) => {
            life = live(&mut wal, base, seed, turns);
            match how {
                Crash::Kill => drop(wal.into_disk().crash_kill()),
                Crash::Power => drop(wal.into_disk().power_loss()),
            }
        }
        Err(error) => {
            assert!(platter.halted(), "seed {seed} at {at}: {error}");
            if how == Crash::Power {
                platter.power_loss();
            }
        }
    }
    let halted = platter.halted();
    platter.revive();
    (life, halted)
}

/// How many seeds: more with `LOGDRIVE_SEEDS`.
fn seeds() -> u64 {
    std::env::var("LOGDRIVE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1)
}

fn sweep(how: Crash) {
    let turns = 400;
    for seed in 1..=seeds() {
        // The whole life once, to know how many operations it takes and that it rewrites at all.
        let fresh = |disk_seed| {
            let disk = SimDisk::new(SimOptions { seed: disk_seed, ..SimOptions::default() });
            disk.platter()
        };
        let platter = fresh(seed * 1000);
        let (whole, _) = live_until(&platter, &Streams::default(), seed, u64::MAX / 2, turns, how);
        assert!(whole.rewrites > 5 && whole.recycled > 5, "seed {seed}: {} rewrites", whole.rewrites);
        let mut crashes = 0;
        // Every operation of the later part of the life, when the log turns; the beginning is another test's.
        for at in 100.. {
            let platter = fresh(seed * 1000 + at);
            let what = format!("{how:?}, seed {seed}, operation {at}");
            let (life, halted) = live_until(&platter, &Streams::default(), seed, at, turns, how);
            if !halted {
                break;
            }
            crashes += 1;
            let (wal, found) = reopen(&platter, &what);
            check(&life, &found, &what);
            drop(wal);
            // A second life that ends with a crash of the other kind somewhere, and a third.
            let other = if how == Crash::Kill { Crash::Power } else { Crash::Kill };
            let (second, _) = live_until(&platter, &found, seed + 77, at * 7 % 300, turns, other);
            let (wal, found) = reopen(&platter, &format!("{what}, second life"));
            check(&second, &found, &format!("{what}, second life"));
            drop(wal);
        }
        assert!(crashes > 300, "only {crashes} crashes");
    }
}

#[test]
fn field_24_a_kill_at_every_operation_while_streams_are_rewritten_loses_nothing() {
    sweep(Crash::Kill);
}

#[test]
fn field_24_a_power_loss_at_every_operation_while_streams_are_rewritten_loses_nothing() {
    sweep(Crash::Power);
}
