//! The simulated disk from outside: crashes, damage, what is on it.

use std::cell::RefCell;
use std::rc::Rc;

use super::SimDisk;
use super::fault::Fault;
use super::platter::{DirChange, Platter};
use crate::disk::DiskError;

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
