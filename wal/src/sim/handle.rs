//! The simulated disk from outside: crashes, damage, what is on it.

use std::cell::RefCell;
use std::rc::Rc;

use super::SimDisk;
use super::fault::{Fault, FaultKind, OpKind};
use super::perform::spoil;
use super::platter::{DirChange, Platter, SECTOR};
use crate::disk::{ALIGNMENT, DiskError};

/// What outlives the processes that work on a simulated disk.
#[derive(Clone)]
pub struct SimPlatter {
    pub(super) platter: Rc<RefCell<Platter>>,
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
        self.platter.borrow_mut().power_loss();
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.platter.borrow_mut().fate.faults.push(fault);
    }

    /// Nothing happens by chance any more: operations are performed in the order in which they came, and at a crash what was not
    /// durable is lost. Only faults make a difference.
    pub fn calm(&self) {
        self.platter.borrow_mut().fate.calm = true;
    }

    /// From now on every fault that strikes and every decision that chance takes is recorded, as a fault.
    pub fn record(&self) {
        self.platter.borrow_mut().fate.record();
    }

    /// What was recorded: injected into a calm disk at the place where the recording began, before the same operations, it makes
    /// the same things happen.
    pub fn recorded(&self) -> Vec<Fault> {
        self.platter.borrow().fate.recorded()
    }

    /// The injected faults that operations met since this was asked last, in order, each with the kind of the operation.
    pub fn take_struck(&self) -> Vec<(OpKind, FaultKind)> {
        self.platter.borrow_mut().fate.take_struck()
    }

    /// Injects a list of faults.
    pub fn inject_all(&self, faults: &[Fault]) {
        self.platter.borrow_mut().fate.faults.extend_from_slice(faults);
    }

    /// The faults, as far as they are not used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.platter.borrow().fate.faults.clone()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.platter.borrow_mut().fate.faults.clear();
    }

    /// Changes the size of the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.platter.borrow_mut().capacity = bytes;
    }

    /// Names and lengths of all files.
    pub fn list(&self) -> Vec<(String, u64)> {
        self.platter.borrow().list()
    }

    /// The bytes of a file, as a reader would see them; nothing if there is no such file.
    pub fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        let platter = self.platter.borrow();
        let file = platter.inodes.get(platter.names.get(name)?)?;
        let mut bytes = vec![0; usize::try_from(file.len).ok()?];
        file.read(0, &mut bytes);
        Some(bytes)
    }

    /// The names of files that a loss of power would leave, whatever else it would.
    pub fn durable_names(&self) -> Vec<String> {
        self.platter.borrow().durable_names().cloned().collect()
    }

    /// Reads from `offset` on what a loss of power would leave of a file for certain. Returns how many bytes there are; none if
    /// the name is not durable.
    pub fn read_durable(&self, name: &str, offset: u64, out: &mut [u8]) -> usize {
        self.platter.borrow().read_durable(name, offset, out)
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
        file.replace(offset, bytes);
        true
    }

    /// Damages the bytes at rest from `offset` on, in the cache and on the medium: [`FaultKind::Flip`] of a byte,
    /// [`FaultKind::Garbage`] in a sector, [`FaultKind::Lost`] (zeros in a block), [`FaultKind::Misdirected`] (the block there is
    /// replaced by another one), [`FaultKind::Stale`] (the block is as it was before it was last written), [`FaultKind::Torn`] (only these of
    /// its sectors are as they were last written), [`FaultKind::Errno`] (the block cannot be read until it is written again). Others do nothing.
    /// False if there is no such place.
    pub fn damage(&self, name: &str, offset: u64, what: FaultKind) -> bool {
        if let FaultKind::Errno(errno) = what {
            let mut platter = self.platter.borrow_mut();
            let Some(&inode) = platter.names.get(name) else { return false };
            let Some(file) = platter.inodes.get_mut(&inode).filter(|file| offset < file.len) else {
                return false;
            };
            file.spoil(offset, errno);
            return true;
        }
        let Some(file) = self.read_file(name) else { return false };
        let Some(from) = usize::try_from(offset).ok().filter(|from| *from < file.len()) else { return false };
        let mut bytes = file[from..(from + ALIGNMENT).min(file.len())].to_vec();
        match what {
            FaultKind::Lost => bytes.fill(0),
            FaultKind::Stale => self.revert(name, offset, &mut bytes, 0),
            FaultKind::Torn { sectors, .. } => self.revert(name, offset, &mut bytes, sectors),
            FaultKind::Misdirected { block } => {
                let at = block as usize * ALIGNMENT % file.len();
                bytes.iter_mut().zip(&file[at..]).for_each(|(old, new)| *old = *new);
            }
            what => spoil(&mut bytes, what),
        }
        self.overwrite(name, offset, &bytes)
    }

    /// Puts the sectors of a block back to what they held before they were last written, but for those in `keep`.
    fn revert(&self, name: &str, offset: u64, bytes: &mut [u8], keep: u64) {
        let platter = self.platter.borrow();
        let Some(file) = platter.names.get(name).and_then(|inode| platter.inodes.get(inode)) else { return };
        let mut before = vec![0; bytes.len()];
        let len = file.read_stale(offset, &mut before);
        let sectors = bytes[..len].chunks_mut(SECTOR).zip(before[..len].chunks(SECTOR));
        for (_, (now, before)) in sectors.enumerate().filter(|(sector, _)| keep >> (sector % 64) & 1 == 0) {
            now.copy_from_slice(before);
        }
    }

    /// A copy of the files and names as they are now, on a disk of its own that nobody has open: to try many damages on one log.
    pub fn copy(&self, seed: u64) -> SimPlatter {
        SimPlatter { platter: Rc::new(RefCell::new(self.platter.borrow().copy(seed))) }
    }

    /// Flips bits of one byte, in the cache and on the medium. False if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut platter = self.platter.borrow_mut();
        let Some(&inode) = platter.names.get(name) else { return false };
        let Some(file) = platter.inodes.get_mut(&inode) else { return false };
        let Some(byte) = file.byte(offset) else { return false };
        file.replace(offset, &[byte ^ mask]);
        true
    }
}
