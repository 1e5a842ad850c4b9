//! A log beside a trivial model. Random operations, a crash at every operation of the disk that they lead to, and what comes back
//! is what was acknowledged, then some of what was not, in order, and nothing else. A failure is made small and printed as
//! something to be pasted.
//!
//! `LOGDRIVE_SEEDS` seeds (20 by default) from `LOGDRIVE_SEED` (1) on.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Streams, payload};
use logdrive_wal::{
    EntryHeader, Fault, FaultKind, Health, OpKind, Options, ReadError, SimDisk, SimOptions, SimPlatter,
    StreamId, Ticket, Wal, list_faults, minimise,
};

/// What is done to a log. Numbers that choose something are taken modulo what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next entry of a stream.
    Append {
        stream: u64,
        len: usize,
    },
    /// An entry again, so many behind the first, which replaces what follows it.
    Overwrite {
        stream: u64,
        behind: u64,
        len: usize,
    },
    /// Forgets entries, all but so many.
    Compact {
        stream: u64,
        keep: u64,
    },
    /// Forgets all entries and empties the state: what an owner does with a stream that it gives up.
    Drop {
        stream: u64,
    },
    State {
        stream: u64,
        len: usize,
    },
    /// Has a stream written again at the head of the log. Nobody may notice.
    Rewrite {
        stream: u64,
    },
    /// Reads a stream back and compares.
    Read {
        stream: u64,
    },
    /// Submits, performs so many operations of the disk, polls.
    Turn {
        operations: usize,
    },
    /// Time passes: what runs in the background may begin.
    Pause,
    /// Everything becomes durable.
    Settle,
    /// Closes the log in order and opens it again.
    Reopen,
    /// The process dies, or the power goes; the log opens again.
    Crash {
        power: bool,
    },
}

/// A stream's record as the model knows it.
#[derive(Clone)]
enum Done {
    Append(u64, EntryHeader, Vec<u8>),
    State(u64, Vec<u8>),
    Compact(u64, u64),
}

fn apply(model: &mut Streams, done: &Done) {
    match done {
        Done::Append(stream, header, payload) => model.append(*stream, *header, payload),
        Done::State(stream, state) => {
            model.states.insert(*stream, state.clone());
        }
        Done::Compact(stream, index) => model.compact(*stream, *index),
    }
}

/// What a log ought to give back, whatever it keeps beside that: entries, states, and how far streams were compacted.
fn seen(streams: &Streams) -> Streams {
    let mut seen = streams.clone();
    seen.entries.retain(|_, entries| !entries.is_empty());
    seen.states.retain(|_, state| !state.is_empty());
    seen
}

const STREAMS: u64 = 4;

fn options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        batch_bytes_max: 8 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: 12 * (32 << 10),
        writes_in_flight: 3,
        ..Options::default()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut step = || {
        let stream = random.below(STREAMS) + 1;
        let len = (random.below(1500) * (1 + random.below(4))) as usize;
        match random.below(44) {
            0..=14 => Step::Append { stream, len },
            15..=17 => Step::Overwrite { stream, behind: random.below(20), len },
            18..=19 => Step::Compact { stream, keep: random.below(4) },
            20 => Step::Drop { stream },
            21..=22 => Step::State { stream, len: len % 90 },
            23..=25 => Step::Read { stream },
            26..=35 => Step::Turn { operations: random.below(5) as usize },
            36..=37 => Step::Pause,
            40..=43 => Step::Rewrite { stream },
            38 if random.below(3) == 0 => Step::Reopen,
            38 if random.below(2) == 0 => Step::Crash { power: random.below(2) == 0 },
            _ => Step::Settle,
        }
    };
    (0..count).map(|_| step()).collect()
}

/// One process's log, and what the model says.
struct Life {
    wal: Wal<SimDisk>,
    now: u64,
    /// What the log began with.
    base: Streams,
    journal: Vec<(Ticket, Done)>,
    /// All of it applied.
    model: Streams,
    acknowledged: Ticket,
}

type Failure = String;

impl Life {
    fn open(platter: &SimPlatter, now: u64, expect: &[Streams]) -> Result<Option<Life>, Failure> {
        let mut found = Streams::default();
        let disk = platter.open().map_err(|e| format!("the disk does not open: {e}"))?;
        let mut wal = match Wal::open(disk, options(), now, &mut found) {
            Ok(wal) => wal,
            Err(_) if platter.halted() => return Ok(None),
            Err(error) => return Err(format!("the log does not open: {error}")),
        };
        let found = seen(&found);
        if !expect.contains(&found) {
            return Err(format!(
                "what came back is none of the {} states from the acknowledged one on: {}",
                expect.len(),
                difference(&expect[0], &found)
            ));
        }
        wal.disk().hold();
        let acknowledged = Ticket(0);
        Ok(Some(Life { wal, now, model: found.clone(), base: found, journal: Vec::new(), acknowledged }))
    }

    /// The states that may be found after a crash now: the acknowledged one first.
    fn allowed(&self) -> Vec<Streams> {
        let mut model = self.base.clone();
        let mut allowed = Vec::new();
        let acknowledged = self.journal.iter().take_while(|(t, _)| *t <= self.acknowledged).count();
        for (number, (_, done)) in self.journal.iter().enumerate() {
            if number >= acknowledged {
                allowed.push(seen(&model));
            }
            apply(&mut model, done);
        }
        allowed.push(seen(&model));
        allowed
    }

    fn turn(&mut self, operations: usize) -> Result<(), Failure> {
        self.now += 1_000_000;
        self.wal.submit(self.now);
        self.wal.disk().run_some(operations);
        self.wal.poll(self.now);
        if self.wal.durable() < self.acknowledged {
            return Err(format!(
                "durable went back from {:?} to {:?}",
                self.acknowledged,
                self.wal.durable()
            ));
        }
        self.acknowledged = self.wal.durable();
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..10_000 {
            if self.wal.durable() == self.wal.last_ticket() || *self.wal.health() != Health::Running {
                return Ok(());
            }
            self.turn(usize::MAX)?;
        }
        Err("what was appended does not become durable".to_owned())
    }

    fn write(&mut self, done: Done) {
        let slot = |life: &mut Life, stream: u64| life.wal.stream(StreamId(stream));
        let ticket = match &done {
            Done::Append(stream, header, payload) => {
                let slot = slot(self, *stream);
                self.wal.append(slot, *header, payload)
            }
            Done::State(stream, state) => {
                let slot = slot(self, *stream);
                self.wal.put_state(slot, state)
            }
            Done::Compact(stream, index) => {
                let slot = slot(self, *stream);
                self.wal.compact(slot, *index)
            }
        };
        // Refused for want of space, or because the disk died: not written, and the model knows nothing of it.
        if let Ok(ticket) = ticket {
            apply(&mut self.model, &done);
            self.journal.push((ticket, done));
        }
    }

    /// First and last entry and what was compacted, as the model has them.
    fn range(&self, stream: u64) -> (Option<(u64, u64)>, u64) {
        let entries = self.model.entries.get(&stream);
        let range = entries.and_then(|e| Some((*e.keys().next()?, *e.keys().last()?)));
        (range, self.model.compacted.get(&stream).copied().unwrap_or(0))
    }

    fn append(&mut self, stream: u64, index: u64, len: usize) {
        let number = self.journal.len() as u64 + self.now;
        let header = EntryHeader { index, tag: number, note: index * 3 };
        self.write(Done::Append(stream, header, payload(stream, number, len)));
    }

    fn read(&mut self, stream: u64) -> Result<(), Failure> {
        let slot = self.wal.stream(StreamId(stream));
        let (range, _) = self.range(stream);
        if self.wal.entries(slot) != range {
            return Err(format!(
                "stream {stream} has {:?} and should have {range:?}",
                self.wal.entries(slot)
            ));
        }
        let Some((first, last)) = range else { return Ok(()) };
        self.wal.read(7, slot, first, last, u32::MAX);
        for _ in 0..10_000 {
            self.turn(usize::MAX)?;
            let Some(done) = self.wal.poll_read() else { continue };
            let found = match done.result {
                Ok(entries) => entries,
                // The process is dead and does not know it.
                Err(ReadError::Disk(error)) if error.errno == libc::ESHUTDOWN => return Ok(()),
                Err(error) => return Err(format!("reading stream {stream}: {error}")),
            };
            let found: Vec<_> = found.into_iter().map(|(h, p)| (h.index, (h.tag, h.note, p))).collect();
            let wanted: Vec<_> = self.model.entries[&stream].iter().map(|(i, e)| (*i, e.clone())).collect();
            return if found == wanted { Ok(()) } else { Err(format!("stream {stream} reads differently")) };
        }
        Err(format!("a read of stream {stream} does not end"))
    }

    fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Append { stream, len } => {
                let (range, compacted) = self.range(stream);
                self.append(stream, range.map_or(compacted, |(_, last)| last) + 1, len);
            }
            Step::Overwrite { stream, behind, len } => {
                if let (Some((first, last)), _) = self.range(stream) {
                    self.append(stream, first + behind % (last - first + 1), len);
                }
            }
            Step::Compact { stream, keep } => {
                if let (Some((first, last)), _) = self.range(stream)
                    && last - first >= keep
                {
                    self.write(Done::Compact(stream, last - keep));
                }
            }
            Step::Drop { stream } => {
                if let (Some((_, last)), _) = self.range(stream) {
                    self.write(Done::Compact(stream, last));
                    self.write(Done::State(stream, Vec::new()));
                }
            }
            Step::State { stream, len } => {
                self.write(Done::State(stream, payload(stream, self.now + self.journal.len() as u64, len)));
            }
            Step::Rewrite { stream } => {
                let slot = self.wal.stream(StreamId(stream));
                self.wal.rewrite(slot);
            }
            Step::Read { stream } => return self.read(stream),
            Step::Turn { operations } => return self.turn(operations),
            Step::Pause => {
                self.now += 3_000_000_000;
                return self.turn(1);
            }
            Step::Settle => return self.settle(),
            Step::Reopen | Step::Crash { .. } => unreachable!("these end a life"),
        }
        Ok(())
    }
}

/// The first stream that differs, for people.
fn difference(wanted: &Streams, found: &Streams) -> String {
    let text = |s: &Streams, id: u64| {
        let entries = s.entries.get(&id).map(|e| (e.keys().next().copied(), e.keys().last().copied()));
        format!("entries {entries:?}, state {:?}, compacted {:?}", s.states.get(&id), s.compacted.get(&id))
    };
    let differs = |id: &u64| {
        wanted.entries.get(id) != found.entries.get(id)
            || wanted.states.get(id) != found.states.get(id)
            || wanted.compacted.get(id) != found.compacted.get(id)
    };
    match (1..=STREAMS).find(differs) {
        Some(id) => format!("stream {id}: acknowledged {}; found {}", text(wanted, id), text(found, id)),
        None => "a stream that was never written".to_owned(),
    }
}

/// When the disk stops, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stop {
    after: u64,
    power: bool,
}

/// Rewrites in all lives: the tests are about them, too.
static REWRITES: AtomicU64 = AtomicU64::new(0);

fn end(life: Life, power: bool) {
    REWRITES.fetch_add(life.wal.stats().rewrites, Ordering::Relaxed);
    let disk = life.wal.into_disk();
    drop(if power { disk.power_loss() } else { disk.crash_kill() });
}

/// Runs the steps on a disk, with a crash where it says so, and checks what comes back. Returns the operations of the disk.
fn run(platter: &SimPlatter, steps: &[Step], stop: Option<Stop>) -> Result<u64, Failure> {
    let run = || -> Result<u64, Failure> {
        if let Some(stop) = stop {
            platter.halt_after(stop.after);
        }
        let mut expect = vec![Streams::default()];
        let mut now = 0;
        let mut life = Life::open(platter, now, &expect)?;
        for (number, step) in steps.iter().enumerate() {
            let Some(this) = &mut life else { break };
            match step {
                Step::Reopen | Step::Crash { .. } => {
                    let Some(mut this) = life.take() else { break };
                    now = this.now;
                    expect = this.allowed();
                    if let Step::Crash { power } = step {
                        end(this, *power);
                    } else {
                        this.settle()?;
                        expect = this.allowed();
                        this.wal.disk().release();
                        let closed = this.wal.close(now);
                        if closed.is_ok() && !platter.halted() {
                            expect.drain(..expect.len() - 1);
                        }
                    }
                    if platter.halted() {
                        break;
                    }
                    life = Life::open(platter, now, &expect).map_err(|e| format!("step {number}: {e}"))?;
                }
                step => this.step(*step).map_err(|e| format!("step {number}: {e}"))?,
            }
            if platter.halted() {
                break;
            }
        }
        let power = stop.is_some_and(|stop| stop.power);
        if let Some(this) = life {
            (now, expect) = (this.now, this.allowed());
            end(this, power);
        } else if power {
            platter.power_loss();
        }
        let performed = platter.performed();
        platter.revive();
        // What comes back is durable from then on: a power loss that loses all that is not changes nothing.
        let Some(again) = Life::open(platter, now, &expect)? else { unreachable!("nothing halts") };
        expect = vec![again.model.clone()];
        platter.calm();
        end(again, true);
        Life::open(platter, now, &expect).map_err(|e| format!("a power loss after recovery: {e}"))?;
        Ok(performed)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}

/// A wild disk, unless there are faults: then a calm one with these.
fn disk(seed: u64, faults: Option<&[Fault]>) -> SimPlatter {
    let platter = SimDisk::new(SimOptions { seed, ..SimOptions::default() }).platter();
    match faults {
        Some(faults) => {
            platter.calm();
            platter.inject_all(faults);
        }
        None => platter.record(),
    }
    platter
}

/// A failure, and all that is needed to see it again.
#[derive(Debug)]
struct Found {
    steps: Vec<Step>,
    stop: Option<Stop>,
    faults: Vec<Fault>,
    failure: Failure,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(|s| format!("    Step::{s:?},\n")).collect();
        write!(
            f,
            "{}\nsteps: [\n{}]\nstop: {:?}\nfaults: {}",
            self.failure,
            steps.concat(),
            self.stop,
            list_faults(&self.faults)
        )
    }
}

/// Without a crash, then with one at every operation, by kill and by power loss.
fn sweep(seed: u64, steps: &[Step]) -> Result<u64, Found> {
    let one = |stop: Option<Stop>, disk_seed: u64| {
        let platter = disk(disk_seed, None);
        run(&platter, steps, stop).map_err(|failure| {
            let faults = platter.recorded();
            Found { steps: steps.to_vec(), stop, faults, failure }
        })
    };
    let operations = one(None, seed)?;
    for after in 0..operations {
        for power in [false, true] {
            one(Some(Stop { after, power }), seed * 10_000 + after)?;
        }
    }
    Ok(operations * 2)
}

/// Fewer steps, then fewer faults, as long as something fails.
fn smaller(seed: u64, found: Found) -> Found {
    let steps = minimise(&found.steps, |steps| sweep(seed, steps).is_err());
    let Err(found) = sweep(seed, &steps) else { return found };
    let fails = |faults: &[Fault]| run(&disk(0, Some(faults)), &found.steps, found.stop).is_err();
    // The wild disk's seed is in no way part of the replay: the faults are all that happened.
    let faults = minimise(&found.faults, fails);
    Found { faults, ..found }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_crash_at_every_write_of_random_operations_leaves_what_the_model_says() {
    let (first, count) = (number("LOGDRIVE_SEED", 1), number("LOGDRIVE_SEEDS", 20));
    let mut crashes = 0;
    for seed in first..first + count {
        match sweep(seed, &steps(seed, 60)) {
            Ok(more) => crashes += more,
            Err(found) => panic!("seed {seed}: {}", smaller(seed, found)),
        }
    }
    assert!(crashes > 20 * count, "only {crashes} crashes");
    let rewrites = REWRITES.load(Ordering::Relaxed);
    assert!(rewrites > crashes / 4, "only {rewrites} streams were rewritten in {crashes} lives");
}

#[test]
fn long_sequences_agree_with_the_model_without_a_crash_at_every_write() {
    for seed in 1000..1000 + number("LOGDRIVE_SEEDS", 20) {
        let steps = steps(seed, 1500);
        let platter = disk(seed, None);
        if let Err(failure) = run(&platter, &steps, None) {
            panic!("seed {seed}: {failure}");
        }
    }
}

#[test]
fn a_disk_that_lies_is_noticed_and_the_failure_is_made_small() {
    // The log cannot help it when an acknowledged write is lost for good; the model must see it.
    let lie = Fault { durable: Some(true), ..Fault::at(OpKind::Write, 6, FaultKind::Lost) };
    let fails = |steps: &[Step], faults: &[Fault]| run(&disk(0, Some(faults)), steps, None);
    let sequence = |seed| {
        let mut steps = steps(seed, 40);
        // Nothing that makes the log read or move the write before its end.
        steps.retain(|s| !matches!(s, Step::Crash { .. } | Step::Reopen | Step::Rewrite { .. }));
        for stream in 1..=3 {
            steps.extend([Step::Append { stream, len: 100 }, Step::Settle]);
        }
        steps
    };
    let needs_it = |steps: &Vec<Step>| fails(steps, std::slice::from_ref(&lie)).is_err();
    let steps = (1..20).map(sequence).find(needs_it).unwrap();
    let noise = (0..30).map(|n| Fault::at(OpKind::Turn, n, FaultKind::Overtakes(n)));
    let faults: Vec<Fault> = noise.chain([lie.clone()]).collect();
    let failure = fails(&steps, &faults).unwrap_err();
    let noticed = ["came back", "does not open", "is damaged"];
    assert!(noticed.iter().any(|text| failure.contains(text)), "{failure}");
    let few = minimise(&steps, |steps| fails(steps, &faults).is_err());
    assert!(few.len() < steps.len() / 2, "{few:?}");
    assert_eq!(minimise(&faults, |faults| fails(&few, faults).is_err()), [lie]);
}
