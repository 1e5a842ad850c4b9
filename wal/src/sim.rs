//! A disk in memory that fails like a real one: deterministic from a seed and from what is asked of it.
//!
//! [`SimDisk`] is a handle of one process to a platter that outlives it. Writes that are complete and not durable sit in
//! the device's cache: they survive [`SimDisk::crash_kill`] (the process dies) and are kept, lost or torn, each by itself and
//! sector by sector, at [`SimDisk::power_loss`]. Operations under way when a process dies may happen, never happen, or
//! happen *later*, until the file is flushed next. Directory changes that were not synced survive as a prefix.
//!
//! By default every operation completes at the next poll, in random order. [`SimDisk::hold`] leaves that to the test,
//! [`SimDisk::set_latency`] to a simulated clock.
//!
//! Faults are values ([`Fault`]). What chance decides is made of the same values: [`SimPlatter::record`] writes it down,
//! [`SimPlatter::calm`] turns chance off, and what was recorded, injected into a calm disk, makes the same things happen again, so
//! that [`minimise`] can leave out what does not matter.

mod fate;
mod fault;
mod follow;
mod handle;
mod minimise;
mod perform;
mod platter;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub use self::fault::{Fault, FaultKind, OpKind, list_faults};
pub use self::follow::{DurableLog, Untrue};
pub use self::handle::SimPlatter;
pub use self::minimise::minimise;
use self::platter::Platter;
use crate::buffer::{Buffer, Spares};
use crate::disk::{Completion, Disk, Op, Token};

/// Settings of a simulated disk.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Seed of everything random.
    pub seed: u64,
    /// Size of the disk; writes that make files longer than it fail with ENOSPC.
    pub capacity_bytes: u64,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions { seed: 1, capacity_bytes: 1 << 30 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    /// At the next poll.
    Poll,
    /// When the test says so.
    Held,
    /// After a time, uniform between two bounds in nanoseconds.
    Timed(u64, u64),
}

struct Pending {
    token: Token,
    op: Op,
    /// Nanoseconds of the simulated clock; 0 without one.
    due: u64,
    /// Polls in which it is left out, without a clock.
    stalled: u32,
    /// What goes wrong with it, decided when it was submitted.
    fault: Option<FaultKind>,
}

struct Handle {
    inode: u64,
    name: String,
    writable: bool,
}

/// A process's handle to a simulated disk.
pub struct SimDisk {
    platter: Rc<RefCell<Platter>>,
    generation: u64,
    files: BTreeMap<u32, Handle>,
    next_file: u32,
    pending: Vec<Pending>,
    complete: Vec<Completion>,
    pace: Pace,
    now: u64,
    spares: Spares,
}

impl SimDisk {
    /// A new, empty disk.
    pub fn new(options: SimOptions) -> SimDisk {
        let platter = Platter::new(options.seed, options.capacity_bytes);
        SimDisk::attach(Rc::new(RefCell::new(platter)))
    }

    fn attach(platter: Rc<RefCell<Platter>>) -> SimDisk {
        let generation = {
            let mut platter = platter.borrow_mut();
            platter.generation += 1;
            platter.owner = Some(platter.generation);
            platter.generation
        };
        SimDisk {
            platter,
            generation,
            files: BTreeMap::new(),
            next_file: 0,
            pending: Vec::new(),
            complete: Vec::new(),
            pace: Pace::Poll,
            now: 0,
            spares: Spares::default(),
        }
    }

    /// What is left of the disk when its process is gone; opens again with [`SimPlatter::open`]. Keep one aside to crash a disk
    /// that something else owns.
    pub fn platter(&self) -> SimPlatter {
        SimPlatter { platter: self.platter.clone() }
    }

    /// The process dies. What is complete stays in the device's cache, what is under way may land until the next flush.
    pub fn crash_kill(mut self) -> SimPlatter {
        self.leave();
        self.platter.borrow_mut().land_some();
        self.platter()
    }

    /// The power goes, for the process and the device.
    pub fn power_loss(mut self) -> SimPlatter {
        self.leave();
        self.platter.borrow_mut().power_loss();
        self.platter()
    }

    fn leave(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.orphan(&pending.op);
        }
    }

    /// Operations complete only when [`SimDisk::run`] lets them.
    pub fn hold(&mut self) {
        self.pace = Pace::Held;
    }

    /// Operations complete at the next poll again.
    pub fn release(&mut self) {
        self.pace = Pace::Poll;
    }

    /// Performs everything under way, in random order; completions come with the next poll.
    pub fn run(&mut self) {
        self.run_some(usize::MAX);
    }

    /// Performs at most so many operations, chosen at random.
    pub fn run_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some(pending) = self.take_next() else { return };
            self.perform(pending);
        }
    }

    /// One of the operations under way that are not stalled: the oldest, or one that overtakes it.
    fn take_next(&mut self) -> Option<Pending> {
        let free = self.pending.iter().filter(|p| p.stalled == 0).count();
        let mut place = 0;
        if free > 1 {
            let draw = |random: &mut fate::Random| match random.below(free as u64) {
                0 => None,
                place => Some(FaultKind::Overtakes(place as u32)),
            };
            let fate = &mut self.platter.borrow_mut().fate;
            if let Some(FaultKind::Overtakes(places)) = fate.decide(OpKind::Turn, "", false, draw) {
                place = places as usize % free;
            }
        }
        let mut free = (0..self.pending.len()).filter(|n| self.pending[*n].stalled == 0);
        let place = free.nth(place)?;
        drop(free);
        Some(self.pending.remove(place))
    }

    /// Performs the operation under way that was submitted at this place (0 is the oldest); false if there is none.
    pub fn run_at(&mut self, place: usize) -> bool {
        if place >= self.pending.len() {
            return false;
        }
        let pending = self.pending.remove(place);
        self.perform(pending);
        true
    }

    /// What is under way, oldest first: kind, file, offset of reads and writes.
    pub fn under_way(&self) -> Vec<(OpKind, String, Option<u64>)> {
        let describe = |p: &Pending| {
            let offset = match &p.op {
                Op::Write { offset, .. } | Op::Read { offset, .. } => Some(*offset),
                _ => None,
            };
            (kind_of(&p.op).0, self.name_of(&p.op), offset)
        };
        self.pending.iter().map(describe).collect()
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// From now on each operation takes a random time between two bounds, in nanoseconds of the clock that
    /// [`SimDisk::advance`] moves. Those under way end within these bounds as well, unless they have a fault of their own: a disk
    /// that is well again does what it was asked for.
    pub fn set_latency(&mut self, nanos: std::ops::Range<u64>) {
        let latest = nanos.end.max(nanos.start + 1);
        self.pace = Pace::Timed(nanos.start, latest);
        for pending in self.pending.iter_mut().filter(|pending| pending.fault.is_none()) {
            pending.due = pending.due.min(self.now + latest);
        }
    }

    /// Operations under way that met a fault take no longer than others from now on, be it that the fault delays them, or that the disk was
    /// slow when they began.
    pub fn end_delays(&mut self) {
        let Pace::Timed(_, latest) = self.pace else { return };
        for pending in self.pending.iter_mut().filter(|pending| pending.fault.is_some()) {
            pending.due = pending.due.min(self.now + latest);
        }
    }

    /// Moves the clock and performs what is due by then, in order. Returns when the next operation is due.
    pub fn advance(&mut self, now_nanos: u64) -> Option<u64> {
        self.now = self.now.max(now_nanos);
        while let Some(first) = (0..self.pending.len()).min_by_key(|&i| self.pending[i].due) {
            if self.pending[first].due > self.now {
                break;
            }
            let pending = self.pending.remove(first);
            self.perform(pending);
        }
        self.next_due()
    }

    /// When the next operation is due, with a latency set.
    pub fn next_due(&self) -> Option<u64> {
        self.pending.iter().map(|p| p.due).min()
    }

    /// Adds a fault.
    pub fn inject(&mut self, fault: Fault) {
        self.platter.borrow_mut().fate.faults.push(fault);
    }

    /// What an operation takes beyond the least, below a bound.
    fn latency(&self, bound: u64) -> u64 {
        let draw = |random: &mut fate::Random| Some(FaultKind::Delay(random.below(bound)));
        match self.platter.borrow_mut().fate.decide(OpKind::Latency, "", false, draw) {
            Some(FaultKind::Delay(nanos)) => nanos,
            _ => 0,
        }
    }

    fn submit_fault(&mut self, op: &Op) -> Option<FaultKind> {
        let (kind, durable) = kind_of(op);
        let name = self.name_of(op);
        self.platter.borrow_mut().fate.of(kind, &name, durable)
    }

    fn name_of(&self, op: &Op) -> String {
        match op {
            Op::Open { name, .. } | Op::Unlink { name } => name.clone(),
            Op::Rename { from, .. } => from.clone(),
            Op::Close { file } | Op::Sync { file } | Op::Write { file, .. } | Op::Read { file, .. } => {
                self.files.get(&file.0).map_or_else(|| format!("file {}", file.0), |h| h.name.clone())
            }
            Op::SyncDir | Op::List => ".".to_owned(),
        }
    }
}

fn kind_of(op: &Op) -> (OpKind, bool) {
    match op {
        Op::Open { .. } => (OpKind::Open, false),
        Op::Close { .. } => (OpKind::Close, false),
        Op::Write { durable, .. } => (OpKind::Write, *durable),
        Op::Read { .. } => (OpKind::Read, false),
        Op::Sync { .. } => (OpKind::Sync, false),
        Op::Rename { .. } => (OpKind::Rename, false),
        Op::Unlink { .. } => (OpKind::Unlink, false),
        Op::SyncDir => (OpKind::SyncDir, false),
        Op::List => (OpKind::List, false),
    }
}

impl crate::Buggify for SimDisk {}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let fault = self.submit_fault(&op);
        let mut due = match self.pace {
            Pace::Timed(from, to) => self.now + from + self.latency(to - from),
            _ => 0,
        };
        let mut stalled = 0;
        match fault {
            Some(FaultKind::Delay(nanos)) => due += nanos,
            Some(FaultKind::Stall(polls)) => stalled = polls,
            _ => {}
        }
        self.pending.push(Pending { token, op, due, stalled, fault });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        if !self.platter.borrow().orphans.is_empty() {
            self.platter.borrow_mut().land_some();
        }
        if let Pace::Poll = self.pace {
            self.run();
        }
        self.pending.iter_mut().for_each(|p| p.stalled = p.stalled.saturating_sub(1));
        completions.append(&mut self.complete);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        self.poll(completions);
        if completions.is_empty() && !self.pending.is_empty() {
            // Whoever waits has no clock to move: what is due first is performed, what was held is let go.
            match self.pace {
                Pace::Timed(..) => {
                    let first = (0..self.pending.len()).min_by_key(|&i| self.pending[i].due);
                    self.run_at(first.unwrap_or(0));
                }
                _ => {
                    let least = self.pending.iter().map(|p| p.stalled).min().unwrap_or(0);
                    self.pending.iter_mut().for_each(|p| p.stalled = p.stalled.saturating_sub(least));
                    self.run_some(1);
                }
            }
            completions.append(&mut self.complete);
        }
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        self.spares.take(len).unwrap_or_else(|| Buffer::heap(len))
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.spares.put(buffer);
    }

    fn free_bytes(&mut self) -> u64 {
        let platter = self.platter.borrow();
        platter.capacity.saturating_sub(platter.used_bytes())
    }

    fn total_bytes(&mut self) -> u64 {
        self.platter.borrow().capacity
    }

    fn describe(&self) -> String {
        "simulated disk in memory: loses what is not durable when told to".to_owned()
    }

    fn root(&self) -> String {
        "simulated".to_owned()
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        // A process that ends in order has waited for its operations; one that did not is as good as killed.
        self.leave();
        let mut platter = self.platter.borrow_mut();
        if platter.owner == Some(self.generation) {
            platter.owner = None;
        }
    }
}
