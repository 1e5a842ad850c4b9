//! A disk in memory that fails like a real one: deterministic from a seed and from what is asked of it.
//!
//! [`SimDisk`] is a handle of one process to a platter that outlives it. Writes that are complete and not durable sit in
//! the device's cache: they survive [`SimDisk::crash_kill`] (the process dies) and are kept, lost or torn, each by itself and
//! sector by sector, at [`SimDisk::power_loss`]. Operations under way when a process dies may happen, never happen, or
//! happen *later*, until the file is flushed next. Directory changes that were not synced survive as a prefix.
//!
//! By default every operation completes at the next poll, in random order. [`SimDisk::hold`] leaves that to the test,
//! [`SimDisk::set_latency`] to a simulated clock. Faults are values ([`Fault`]) that are injected and listed.

mod fault;
mod platter;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub use self::fault::{Fault, FaultKind, OpKind};
use self::platter::{DirChange, Orphan, Platter};
use crate::buffer::{Buffer, Spares};
use crate::disk::{ALIGNMENT, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};

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
        let orphans = self.orphans();
        {
            let mut platter = self.platter.borrow_mut();
            platter.orphans.extend(orphans);
            platter.land_some();
        }
        self.platter()
    }

    /// The power goes, for the process and the device.
    pub fn power_loss(mut self) -> SimPlatter {
        let orphans = self.orphans();
        self.platter.borrow_mut().power_loss(orphans);
        self.platter()
    }

    fn orphans(&mut self) -> Vec<Orphan> {
        let files = &self.files;
        let orphan = |p: Pending| match p.op {
            Op::Write { file, offset, buffer, len, .. } => {
                let inode = files.get(&file.0)?.inode;
                Some(Orphan { inode, offset, bytes: buffer.as_slice()[..len as usize].to_vec() })
            }
            _ => None,
        };
        std::mem::take(&mut self.pending).into_iter().filter_map(orphan).collect()
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
            let choice = match self.pending.len() {
                0 => return,
                n => self.platter.borrow_mut().random.below(n as u64) as usize,
            };
            let pending = self.pending.swap_remove(choice);
            self.perform(pending);
        }
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
    /// [`SimDisk::advance`] moves.
    pub fn set_latency(&mut self, nanos: std::ops::Range<u64>) {
        self.pace = Pace::Timed(nanos.start, nanos.end.max(nanos.start + 1));
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
        self.platter.borrow_mut().faults.push(fault);
    }

    fn submit_fault(&mut self, op: &Op) -> Option<FaultKind> {
        let (kind, durable) = kind_of(op);
        let name = self.name_of(op);
        let mut platter = self.platter.borrow_mut();
        for fault in &mut platter.faults {
            if fault.hits(kind, &name, durable) {
                return Some(fault.what);
            }
        }
        None
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

    fn perform(&mut self, pending: Pending) {
        let alive = {
            let mut platter = self.platter.borrow_mut();
            let alive = platter.owner == Some(self.generation) && !platter.halted();
            platter.performed += u64::from(alive);
            alive
        };
        if !alive {
            // The process is dead and does not know it: it hears of nothing, and what it asked for stays under way.
            let (kind, _) = kind_of(&pending.op);
            let name = self.name_of(&pending.op);
            let error = DiskError { op: kind.name(), name, offset: None, errno: libc::ESHUTDOWN };
            let buffer = self.copy_buffer(&pending.op);
            self.complete.push(Completion { token: pending.token, result: Err(error), buffer });
            if self.platter.borrow().owner == Some(self.generation) {
                let orphan = self.orphan_of(&pending.op);
                self.platter.borrow_mut().orphans.extend(orphan);
            }
            return;
        }
        let completion = self.perform_alive(pending);
        self.complete.push(completion);
    }

    fn copy_buffer(&mut self, op: &Op) -> Option<Buffer> {
        match op {
            Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(Buffer::heap(buffer.capacity())),
            _ => None,
        }
    }

    fn orphan_of(&self, op: &Op) -> Option<Orphan> {
        let Op::Write { file, offset, buffer, len, .. } = op else { return None };
        let inode = self.files.get(&file.0)?.inode;
        Some(Orphan { inode, offset: *offset, bytes: buffer.as_slice()[..*len as usize].to_vec() })
    }

    fn perform_alive(&mut self, pending: Pending) -> Completion {
        let Pending { token, op, fault, .. } = pending;
        let (kind, _) = kind_of(&op);
        let name = self.name_of(&op);
        let offset = match &op {
            Op::Write { offset, .. } | Op::Read { offset, .. } => Some(*offset),
            _ => None,
        };
        let error = |errno: i32| DiskError { op: kind.name(), name: name.clone(), offset, errno };
        if let Some(FaultKind::Errno(errno)) = fault {
            let buffer = match op {
                Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            return Completion { token, result: Err(error(errno)), buffer };
        }
        let mut returned = None;
        let platter_rc = self.platter.clone();
        let mut platter = platter_rc.borrow_mut();
        let result = match op {
            Op::Open { name, mode } => self.open(&mut platter, name, mode),
            Op::Close { file } => match self.files.remove(&file.0) {
                Some(_) => Ok(Done::Ok),
                None => Err(libc::EBADF),
            },
            Op::Write { file, offset, buffer, len, durable } => {
                let result = self.write(
                    &mut platter,
                    file,
                    offset,
                    &buffer.as_slice()[..len as usize],
                    durable,
                    fault,
                );
                returned = Some(buffer);
                result
            }
            Op::Read { file, offset, mut buffer, len } => {
                let result =
                    self.read(&platter, file, offset, &mut buffer.as_mut_slice()[..len as usize], fault);
                returned = Some(buffer);
                result
            }
            Op::Sync { file } => match self.files.get(&file.0) {
                Some(handle) => {
                    let inode = handle.inode;
                    platter.settle(inode);
                    if let Some(file) = platter.inodes.get_mut(&inode) {
                        file.sync();
                    }
                    Ok(Done::Ok)
                }
                None => Err(libc::EBADF),
            },
            Op::Rename { from, to } => match platter.names.contains_key(&from) {
                true => {
                    for handle in self.files.values_mut().filter(|h| h.name == from) {
                        handle.name.clone_from(&to);
                    }
                    platter.change(DirChange::Rename { from, to });
                    Ok(Done::Ok)
                }
                false => Err(libc::ENOENT),
            },
            Op::Unlink { name } => match platter.names.contains_key(&name) {
                true => {
                    platter.change(DirChange::Unlink { name });
                    Ok(Done::Ok)
                }
                false => Err(libc::ENOENT),
            },
            Op::SyncDir => {
                platter.sync_dir();
                Ok(Done::Ok)
            }
            Op::List => Ok(Done::Listed(
                platter
                    .names
                    .iter()
                    .map(|(name, inode)| (name.clone(), platter.inodes.get(inode).map_or(0, |f| f.len)))
                    .collect(),
            )),
        };
        Completion { token, result: result.map_err(error), buffer: returned }
    }

    fn open(&mut self, platter: &mut Platter, name: String, mode: OpenMode) -> Result<Done, i32> {
        if name.is_empty() || name.contains('/') || name.contains('\0') {
            return Err(libc::EINVAL);
        }
        let inode = match (platter.names.get(&name), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(libc::EEXIST),
            (Some(&inode), _) => inode,
            (None, OpenMode::CreateNew) => platter.create(&name),
            (None, _) => return Err(libc::ENOENT),
        };
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Handle { inode, name, writable: mode != OpenMode::ReadOnly });
        let len = platter.inodes.get(&inode).map_or(0, |f| f.len);
        Ok(Done::Opened { file: FileId(id), len })
    }

    fn write(
        &mut self,
        platter: &mut Platter,
        file: FileId,
        offset: u64,
        bytes: &[u8],
        durable: bool,
        fault: Option<FaultKind>,
    ) -> Result<Done, i32> {
        let Some(handle) = self.files.get(&file.0) else { return Err(libc::EBADF) };
        if !handle.writable {
            return Err(libc::EBADF);
        }
        if !offset.is_multiple_of(ALIGNMENT as u64) || !bytes.len().is_multiple_of(ALIGNMENT) {
            return Err(libc::EINVAL);
        }
        let mut len = bytes.len();
        match fault {
            Some(FaultKind::Short(short)) => len = len.min(short as usize),
            Some(FaultKind::Lost) => return Ok(Done::Transferred(len as u32)),
            _ => {}
        }
        let free = platter.capacity.saturating_sub(platter.used_bytes());
        let Some(data) = platter.inodes.get_mut(&handle.inode) else { return Err(libc::EBADF) };
        let longer = (offset + len as u64).saturating_sub(data.len);
        if longer > free {
            let fits = (len as u64 - (longer - free)) / ALIGNMENT as u64 * ALIGNMENT as u64;
            if fits == 0 {
                return Err(libc::ENOSPC);
            }
            len = fits as usize;
        }
        data.write(offset, &bytes[..len], durable && len == bytes.len());
        Ok(Done::Transferred(len as u32))
    }

    fn read(
        &self,
        platter: &Platter,
        file: FileId,
        offset: u64,
        out: &mut [u8],
        fault: Option<FaultKind>,
    ) -> Result<Done, i32> {
        let Some(handle) = self.files.get(&file.0) else { return Err(libc::EBADF) };
        let Some(data) = platter.inodes.get(&handle.inode) else { return Err(libc::EBADF) };
        if !offset.is_multiple_of(ALIGNMENT as u64) || !out.len().is_multiple_of(ALIGNMENT) {
            return Err(libc::EINVAL);
        }
        let len = match fault {
            Some(FaultKind::Short(short)) => out.len().min(short as usize),
            _ => out.len(),
        };
        Ok(Done::Transferred(data.read(offset, &mut out[..len]) as u32))
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

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let fault = self.submit_fault(&op);
        let mut due = match self.pace {
            Pace::Timed(from, to) => self.now + from + self.platter.borrow_mut().random.below(to - from),
            _ => 0,
        };
        if let Some(FaultKind::Delay(nanos)) = fault {
            due += nanos;
        }
        self.pending.push(Pending { token, op, due, fault });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        if !self.platter.borrow().orphans.is_empty() {
            self.platter.borrow_mut().land_some();
        }
        if let Pace::Poll = self.pace {
            self.run();
        }
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
                _ => self.run_some(1),
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
        let orphans = self.orphans();
        let mut platter = self.platter.borrow_mut();
        platter.orphans.extend(orphans);
        if platter.owner == Some(self.generation) {
            platter.owner = None;
        }
    }
}

/// What outlives the processes that work on a simulated disk.
#[derive(Clone)]
pub struct SimPlatter {
    platter: Rc<RefCell<Platter>>,
}

impl SimPlatter {
    /// A new process opens the directory; refused while another has it open.
    pub fn open(&self) -> Result<SimDisk, DiskError> {
        let platter = self.platter.borrow();
        if platter.owner.is_some() {
            let (op, name, errno) = ("lock", "LOCK".to_owned(), libc::EWOULDBLOCK);
            return Err(DiskError { op, name, offset: None, errno });
        }
        drop(platter);
        Ok(SimDisk::attach(self.platter.clone()))
    }

    /// After so many more operations nothing is performed any more: every further one ends with ESHUTDOWN, as if the
    /// process had died there. [`SimPlatter::revive`] lifts it.
    pub fn halt_after(&self, operations: u64) {
        let mut platter = self.platter.borrow_mut();
        platter.halt_after = Some(platter.performed + operations);
    }

    /// Whether the halt was reached.
    pub fn halted(&self) -> bool {
        self.platter.borrow().halted()
    }

    /// Lifts a halt.
    pub fn revive(&self) {
        self.platter.borrow_mut().halt_after = None;
    }

    /// Operations performed so far.
    pub fn performed(&self) -> u64 {
        self.platter.borrow().performed
    }

    /// The power goes while no process has the disk open, or after it was dropped.
    pub fn power_loss(&self) {
        self.platter.borrow_mut().power_loss(Vec::new());
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.platter.borrow_mut().faults.push(fault);
    }

    /// The faults, as far as they are used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.platter.borrow().faults.clone()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.platter.borrow_mut().faults.clear();
    }

    /// Changes the size of the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.platter.borrow_mut().capacity = bytes;
    }

    /// Names and lengths of all files.
    pub fn list(&self) -> Vec<(String, u64)> {
        let platter = self.platter.borrow();
        let len = |inode: &u64| platter.inodes.get(inode).map_or(0, |f| f.len);
        platter.names.iter().map(|(name, inode)| (name.clone(), len(inode))).collect()
    }

    /// The bytes of a file, as a reader would see them; nothing if there is no such file.
    pub fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        let platter = self.platter.borrow();
        let file = platter.inodes.get(platter.names.get(name)?)?;
        let mut bytes = vec![0; usize::try_from(file.len).ok()?];
        file.read(0, &mut bytes);
        Some(bytes)
    }

    /// Removes a file, durably. False if there is no such file.
    pub fn remove(&self, name: &str) -> bool {
        let mut platter = self.platter.borrow_mut();
        let known = platter.names.contains_key(name);
        platter.change(DirChange::Unlink { name: name.to_owned() });
        platter.sync_dir();
        known
    }

    /// Replaces bytes of a file, in the cache and on the medium: misdirected writes, stale blocks, garbage. Bytes beyond its
    /// end are dropped. False if there is no such file.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        let mut platter = self.platter.borrow_mut();
        let Some(&inode) = platter.names.get(name) else { return false };
        let Some(file) = platter.inodes.get_mut(&inode) else { return false };
        for (place, byte) in (offset..file.len).zip(bytes) {
            let old = file.byte(place);
            file.flip(place, old ^ byte);
        }
        true
    }

    /// Flips bits of one byte, in the cache and on the medium. False if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut platter = self.platter.borrow_mut();
        let Some(&inode) = platter.names.get(name) else { return false };
        match platter.inodes.get_mut(&inode) {
            Some(file) if offset < file.len => {
                file.flip(offset, mask);
                true
            }
            _ => false,
        }
    }
}
