//! What outlives a process: files with what is durable and what is only in the device's cache.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::fate::{Fate, Random};
use super::fault::{FaultKind, OpKind};
use crate::disk::ALIGNMENT;

/// What the device writes atomically.
pub(super) const SECTOR: usize = 512;

type Page = Rc<[u8; ALIGNMENT]>;

/// One file: its pages as readers see them, its pages as they are on the medium, and the writes between the two. Pages that
/// are missing are zeros.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) len: u64,
    durable_len: u64,
    pages: BTreeMap<u64, Page>,
    durable: BTreeMap<u64, Page>,
    /// Completed and not durable, in order.
    cached: Vec<(u64, Page)>,
    /// What readers saw before the last write to a page.
    previous: BTreeMap<u64, Page>,
    /// Blocks that cannot be read, with the errno of the try, until they are written again.
    unreadable: BTreeMap<u64, i32>,
}

impl File {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        self.read_from(&self.pages, offset, out)
    }

    /// As [`File::read`], but only what is on the medium.
    fn read_durable(&self, offset: u64, out: &mut [u8]) -> usize {
        let left = usize::try_from(self.durable_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = out.len().min(left);
        self.read_from(&self.durable, offset, &mut out[..len])
    }

    /// As [`File::read`], but the pages as they were before they were last written.
    pub(super) fn read_stale(&self, offset: u64, out: &mut [u8]) -> usize {
        self.read_from(&self.previous, offset, out)
    }

    fn read_from(&self, pages: &BTreeMap<u64, Page>, offset: u64, out: &mut [u8]) -> usize {
        let len = out.len().min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        for (number, chunk) in out[..len].chunks_mut(ALIGNMENT).enumerate() {
            match pages.get(&(offset / ALIGNMENT as u64 + number as u64)) {
                Some(page) => chunk.copy_from_slice(&page[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
        len
    }

    /// The block there cannot be read from now on.
    pub(super) fn spoil(&mut self, offset: u64, errno: i32) {
        self.unreadable.insert(offset / ALIGNMENT as u64, errno);
    }

    /// What a read of these bytes fails with, if it does.
    pub(super) fn unreadable(&self, offset: u64, len: usize) -> Option<i32> {
        let blocks = offset / ALIGNMENT as u64..(offset + len as u64).div_ceil(ALIGNMENT as u64);
        self.unreadable.range(blocks).next().map(|(_, errno)| *errno)
    }

    /// A completed write of whole sectors.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        for (number, chunk) in bytes.chunks(ALIGNMENT).enumerate() {
            let at = offset / ALIGNMENT as u64 + number as u64;
            self.unreadable.remove(&at);
            let page = merge(self.pages.get(&at), chunk);
            self.put(at, &page);
            if durable {
                // Only what this write carries: a flush of the whole cache is not promised.
                let page = merge(self.durable.get(&at), chunk);
                set(&mut self.durable, at, &page);
                self.cached.retain(|(cached, _)| *cached != at);
            } else {
                self.cached.push((at, page));
            }
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        if durable {
            self.durable_len = self.durable_len.max(self.len);
        }
    }

    fn put(&mut self, at: u64, page: &Page) {
        match self.pages.get(&at) {
            Some(old) => self.previous.insert(at, old.clone()),
            None => self.previous.remove(&at),
        };
        set(&mut self.pages, at, page);
    }

    pub(super) fn sync(&mut self) {
        for (at, page) in self.cached.drain(..) {
            set(&mut self.durable, at, &page);
        }
        self.durable_len = self.len;
    }

    /// A sync that failed: what it should have written is taken for clean.
    pub(super) fn forget(&mut self) {
        self.cached.clear();
    }

    /// The power goes: each cached write is kept, lost or torn by itself.
    fn power_loss(&mut self, name: &str, fate: &mut Fate) {
        for (at, page) in std::mem::take(&mut self.cached) {
            let draw = |random: &mut Random| Some(FaultKind::Keeps { sectors: tear(random) });
            if let Some(FaultKind::Keeps { sectors }) = fate.decide(OpKind::CachedBlock, name, false, draw) {
                let torn = mix(self.durable.get(&at), &page, sectors);
                set(&mut self.durable, at, &torn);
            }
        }
        let draw = |random: &mut Random| (random.below(2) == 0).then_some(FaultKind::KeepsLength);
        if self.durable_len != self.len && fate.decide(OpKind::CachedLength, name, false, draw).is_some() {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        self.durable.retain(|at, _| at * (ALIGNMENT as u64) < self.durable_len);
        self.pages = self.durable.clone();
        self.previous.clear();
    }

    /// Replaces bytes inside the file, in the cache and on the medium.
    pub(super) fn replace(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() && at < self.len {
            let (number, from) = (at / ALIGNMENT as u64, (at % ALIGNMENT as u64) as usize);
            let inside = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let take = rest.len().min(ALIGNMENT - from).min(inside);
            let mut page = self.pages.get(&number).map_or([0; ALIGNMENT], |p| **p);
            page[from..from + take].copy_from_slice(&rest[..take]);
            let page = Rc::new(page);
            set(&mut self.pages, number, &page);
            set(&mut self.durable, number, &page);
            (at, rest) = (at + take as u64, &rest[take..]);
        }
    }

    /// The byte at an offset inside the file.
    pub(super) fn byte(&self, offset: u64) -> Option<u8> {
        let page = self.pages.get(&(offset / ALIGNMENT as u64));
        (offset < self.len).then(|| page.map_or(0, |p| p[(offset % ALIGNMENT as u64) as usize]))
    }
}

fn set(pages: &mut BTreeMap<u64, Page>, at: u64, page: &Page) {
    if page.iter().all(|&b| b == 0) {
        pages.remove(&at);
    } else {
        pages.insert(at, page.clone());
    }
}

/// A page with its first bytes replaced.
fn merge(old: Option<&Page>, bytes: &[u8]) -> Page {
    let mut page = old.filter(|_| bytes.len() < ALIGNMENT).map_or([0; ALIGNMENT], |p| **p);
    page[..bytes.len()].copy_from_slice(bytes);
    Rc::new(page)
}

/// Which sectors of a page reach the medium: often all or none.
fn tear(random: &mut Random) -> u8 {
    match random.below(4) {
        0 => 0,
        1 => 0xff,
        _ => random.next() as u8,
    }
}

fn mix(old: Option<&Page>, new: &Page, sectors: u8) -> Page {
    let mut page = old.map_or([0; ALIGNMENT], |p| **p);
    for sector in 0..ALIGNMENT / SECTOR {
        if sectors >> sector & 1 == 1 {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            page[range.clone()].copy_from_slice(&new[range]);
        }
    }
    Rc::new(page)
}

/// A change of the directory that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum DirChange {
    Link { name: String, inode: u64 },
    Unlink { name: String },
    Rename { from: String, to: String },
}

fn apply(names: &mut BTreeMap<String, u64>, change: &DirChange) {
    match change {
        DirChange::Link { name, inode } => {
            names.insert(name.clone(), *inode);
        }
        DirChange::Unlink { name } => {
            names.remove(name);
        }
        DirChange::Rename { from, to } => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

/// A write that was under way when its process died.
#[derive(Clone)]
pub(super) struct Orphan {
    pub(super) inode: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// After so many polls, or at the next flush; `None`: never.
    lands: Option<u32>,
}

/// The medium, its cache and its directory.
pub(super) struct Platter {
    pub(super) fate: Fate,
    pub(super) inodes: BTreeMap<u64, File>,
    next_inode: u64,
    pub(super) names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// In order; a journal keeps a prefix of them.
    changes: Vec<DirChange>,
    /// Writes of dead processes that may still land.
    pub(super) orphans: Vec<Orphan>,
    pub(super) capacity: u64,
    /// The process that has the directory open; others are refused.
    pub(super) owner: Option<u64>,
    pub(super) generation: u64,
    /// Operations performed, ever.
    pub(super) performed: u64,
    /// After so many operations nothing is performed or answered any more.
    pub(super) halt_after: Option<u64>,
}

impl Platter {
    pub(super) fn new(seed: u64, capacity: u64) -> Platter {
        Platter {
            fate: Fate::new(seed),
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            orphans: Vec::new(),
            capacity,
            owner: None,
            generation: 0,
            performed: 0,
            halt_after: None,
        }
    }

    /// The same files and names, without processes, faults and history. Pages are shared until they are written.
    pub(super) fn copy(&self, seed: u64) -> Platter {
        Platter {
            inodes: self.inodes.clone(),
            next_inode: self.next_inode,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            changes: self.changes.clone(),
            ..Platter::new(seed, self.capacity)
        }
    }

    pub(super) fn halted(&self) -> bool {
        self.halt_after.is_some_and(|n| self.performed >= n)
    }

    pub(super) fn create(&mut self, name: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, File::default());
        self.change(DirChange::Link { name: name.to_owned(), inode });
        inode
    }

    pub(super) fn change(&mut self, change: DirChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    pub(super) fn sync_dir(&mut self) {
        self.changes.clear();
        self.durable_names = self.names.clone();
    }

    /// Names and lengths of all files.
    pub(super) fn list(&self) -> Vec<(String, u64)> {
        let len = |inode: &u64| self.inodes.get(inode).map_or(0, |f| f.len);
        self.names.iter().map(|(name, inode)| (name.clone(), len(inode))).collect()
    }

    /// The names that a loss of power leaves, whatever else it leaves.
    pub(super) fn durable_names(&self) -> impl Iterator<Item = &String> {
        self.durable_names.keys()
    }

    /// Reads what is on the medium, of a file whose name is.
    pub(super) fn read_durable(&self, name: &str, offset: u64, out: &mut [u8]) -> usize {
        let file = self.durable_names.get(name).and_then(|inode| self.inodes.get(inode));
        file.map_or(0, |file| file.read_durable(offset, out))
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|inode| self.inodes.get(inode)).map(|f| f.len).sum()
    }

    /// A process died with this write under way.
    pub(super) fn orphan(&mut self, inode: u64, offset: u64, bytes: Vec<u8>) {
        let draw = |random: &mut Random| match random.below(8) {
            0 => Some(FaultKind::Lands(0)),
            1 | 2 => Some(FaultKind::Lands(1 + random.below(20) as u32)),
            3 | 4 => Some(FaultKind::Lands(u32::MAX)),
            _ => None,
        };
        let lands = match self.fate.decide(OpKind::Orphan, "", false, draw) {
            Some(FaultKind::Lands(polls)) => Some(polls),
            _ => None,
        };
        self.orphans.push(Orphan { inode, offset, bytes, lands });
    }

    /// Writes of dead processes whose time has come land; the time of the others comes nearer.
    pub(super) fn land_some(&mut self) {
        for mut orphan in std::mem::take(&mut self.orphans) {
            match &mut orphan.lands {
                Some(0) => self.land(&orphan),
                polls => {
                    if let Some(polls) = polls.as_mut().filter(|polls| **polls != u32::MAX) {
                        *polls -= 1;
                    }
                    self.orphans.push(orphan);
                }
            }
        }
    }

    /// A flush of a file settles what was under way: it has happened or never will.
    pub(super) fn settle(&mut self, inode: u64) {
        let (settled, others) = std::mem::take(&mut self.orphans).into_iter().partition(|o| o.inode == inode);
        self.orphans = others;
        self.land_all(settled);
    }

    fn land_all(&mut self, orphans: Vec<Orphan>) {
        orphans.iter().filter(|o| o.lands.is_some()).for_each(|o| self.land(o));
    }

    fn land(&mut self, orphan: &Orphan) {
        if let Some(file) = self.inodes.get_mut(&orphan.inode) {
            file.write(orphan.offset, &orphan.bytes, false);
        }
    }

    pub(super) fn power_loss(&mut self) {
        // What was under way may have reached the cache, and from there the medium, like anything else.
        let orphans = std::mem::take(&mut self.orphans);
        self.land_all(orphans);
        for (inode, file) in &mut self.inodes {
            let name = self.names.iter().find(|(_, n)| *n == inode).map_or("", |(name, _)| name);
            file.power_loss(name, &mut self.fate);
        }
        let unsynced = self.changes.len() as u32;
        let mut kept = 0;
        if unsynced > 0 {
            let draw = |random: &mut Random| {
                Some(FaultKind::KeepsNames(random.below(u64::from(unsynced) + 1) as u32))
            };
            if let Some(FaultKind::KeepsNames(count)) =
                self.fate.decide(OpKind::CachedNames, ".", false, draw)
            {
                kept = count.min(unsynced);
            }
        }
        let mut names = std::mem::take(&mut self.durable_names);
        self.changes.drain(..).take(kept as usize).for_each(|change| apply(&mut names, &change));
        self.names = names.clone();
        self.durable_names = names;
        let live: Vec<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| live.contains(inode));
    }
}
