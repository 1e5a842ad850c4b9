//! The disk of a core: the log's simulated one, and what happens on it as a list for the checks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use logdrive_wal::{
    ALIGNMENT, Buffer, Buggify, Completion, Disk, DiskError, Done, FileId, Op, Point, SimDisk, Token,
};

use super::buggify::CoreWhims;

/// What a core asked of its disk, or was told by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// A file was opened under this id.
    Opened {
        /// Id.
        file: FileId,
        /// Its name.
        name: String,
    },
    /// A write was submitted.
    Writes {
        /// Returned with the end.
        token: Token,
        /// Where.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u32,
        /// As with O_DSYNC.
        durable: bool,
    },
    /// A read was submitted.
    Reads {
        /// Returned with the end.
        token: Token,
        /// Where.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// A file is made durable.
    Syncs {
        /// Returned with the end.
        token: Token,
        /// Which.
        file: FileId,
    },
    /// A file gets another name.
    Renames {
        /// Returned with the end.
        token: Token,
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// A name is removed.
    Unlinks {
        /// Returned with the end.
        token: Token,
        /// Which.
        name: String,
    },
    /// An operation ended; `transferred` bytes, if it was a write or read that went well.
    Ended {
        /// Which.
        token: Token,
        /// Bytes, or why it failed.
        transferred: Result<u32, DiskError>,
    },
}

/// What happened on a disk since it was asked last.
pub type DiskEvents = Rc<RefCell<Vec<DiskEvent>>>;

/// Writes that are remembered.
const WRITES_KEPT: usize = 512;
/// The newest writes: what they wrote may not be attested by anything later yet. More than a log has under way at once, marks included.
const WRITES_FRESH: usize = 48;

/// Blocks of a file that one write went to.
#[derive(Clone, Copy, Debug)]
struct Written {
    file: FileId,
    first: u64,
    blocks: u64,
}

/// A [`SimDisk`] that tells what happens on it, and remembers where was written.
pub struct WatchedDisk {
    /// The disk.
    pub inner: SimDisk,
    events: Option<DiskEvents>,
    whims: Option<CoreWhims>,
    /// Files that are being opened, by token.
    opening: Vec<(Token, String)>,
    /// Names of the files that were opened.
    files: Vec<(FileId, String)>,
    written: VecDeque<Written>,
}

impl WatchedDisk {
    /// Tells into `events`, or nobody.
    pub fn new(inner: SimDisk, events: Option<DiskEvents>) -> WatchedDisk {
        let written = VecDeque::with_capacity(WRITES_KEPT);
        WatchedDisk { inner, events, whims: None, opening: Vec::new(), files: Vec::new(), written }
    }

    /// Whoever owns the disk does its worst now and then.
    pub fn with_whims(self, whims: CoreWhims) -> WatchedDisk {
        WatchedDisk { whims: Some(whims), ..self }
    }

    /// A block that was written before the newest writes: mostly one of a write that is remembered, now and then any block of any
    /// file. Which one, `place` says. `None` if too little was written.
    pub fn settled_block(&self, place: u32) -> Option<(String, u64)> {
        let settled = self.written.len().checked_sub(WRITES_FRESH).filter(|settled| *settled > 0)?;
        let (any, place) = (place & 3 == 0, (place >> 2) as usize);
        let (name, block) = if any {
            let files: Vec<(String, u64)> = self.inner.platter().list();
            let (name, bytes) = files.get(place % files.len().max(1))?;
            let blocks = bytes / ALIGNMENT as u64;
            (name.clone(), (place as u64 / files.len() as u64) % blocks.max(1))
        } else {
            let Written { file, first, blocks } = self.written[place % settled];
            (self.name(file)?.to_owned(), first + (place / settled) as u64 % blocks.max(1))
        };
        let is_fresh = |written: &Written| {
            let within = written.first..written.first + written.blocks;
            within.contains(&block) && self.name(written.file) == Some(&name)
        };
        (!self.written.iter().skip(settled).any(is_fresh)).then_some((name, block))
    }

    /// The blocks of the newest writes.
    pub fn newest_blocks(&self, writes: usize) -> Vec<(String, u64)> {
        let newest = self.written.iter().rev().take(writes);
        let blocks = newest.filter_map(|written| {
            let name = self.name(written.file)?.to_owned();
            Some((written.first..written.first + written.blocks).map(move |block| (name.clone(), block)))
        });
        blocks.flatten().collect()
    }

    /// Whether a block was written since the disk was opened, as far as is remembered.
    pub fn was_written(&self, name: &str, block: u64) -> bool {
        self.written.iter().any(|written| {
            (written.first..written.first + written.blocks).contains(&block)
                && self.name(written.file) == Some(name)
        })
    }

    /// A block of any complete file of snapshots. All of it is checked whenever it is read, so that none is too new.
    pub fn snapshot_block(&self, place: u32) -> Option<(String, u64)> {
        let mut files: Vec<(String, u64)> = self.inner.platter().list();
        files.retain(|(name, bytes)| name.ends_with(".snapshot") && *bytes > 0);
        let (name, bytes) = files.get((place as usize).checked_rem(files.len())?)?;
        let block = u64::from(place) / files.len() as u64 % bytes.div_ceil(ALIGNMENT as u64);
        Some((name.clone(), block))
    }

    fn name(&self, file: FileId) -> Option<&str> {
        self.files.iter().find(|(id, _)| *id == file).map(|(_, name)| name.as_str())
    }

    fn remember(&mut self, token: Token, op: &Op) {
        match op {
            Op::Open { name, .. } => self.opening.push((token, name.clone())),
            &Op::Write { file, offset, len, .. } => {
                if self.written.len() == WRITES_KEPT {
                    self.written.pop_front();
                }
                let (first, blocks) = (offset / ALIGNMENT as u64, u64::from(len) / ALIGNMENT as u64);
                self.written.push_back(Written { file, first, blocks });
            }
            Op::Rename { from, to } => {
                let named = self.files.iter_mut().filter(|(_, name)| name == from);
                named.for_each(|(_, name)| name.clone_from(to));
            }
            Op::Close { file } => self.files.retain(|(id, _)| id != file),
            _ => {}
        }
    }

    fn remember_opened(&mut self, ended: &[Completion]) {
        if self.opening.is_empty() {
            return;
        }
        for completion in ended {
            let Some(at) = self.opening.iter().position(|(token, _)| *token == completion.token) else {
                continue;
            };
            let (_, name) = self.opening.swap_remove(at);
            if let Ok(Done::Opened { file, .. }) = completion.result {
                self.files.push((file, name.clone()));
                if let Some(events) = &self.events {
                    events.borrow_mut().push(DiskEvent::Opened { file, name });
                }
            }
        }
    }

    fn tell_of(&mut self, token: Token, op: &Op) {
        let Some(events) = &self.events else { return };
        let event = match op {
            &Op::Write { file, offset, len, durable, .. } => {
                DiskEvent::Writes { token, file, offset, len, durable }
            }
            &Op::Read { file, offset, len, .. } => DiskEvent::Reads { token, file, offset, len },
            &Op::Sync { file } => DiskEvent::Syncs { token, file },
            Op::Rename { from, to } => DiskEvent::Renames { token, from: from.clone(), to: to.clone() },
            Op::Unlink { name } => DiskEvent::Unlinks { token, name: name.clone() },
            Op::Open { .. } | Op::Close { .. } | Op::SyncDir | Op::List => return,
        };
        events.borrow_mut().push(event);
    }

    fn tell_of_ends(&mut self, ended: &[Completion]) {
        let Some(events) = &self.events else { return };
        let mut events = events.borrow_mut();
        for completion in ended {
            let token = completion.token;
            if matches!(completion.result, Ok(Done::Opened { .. })) {
                continue;
            }
            let transferred = match &completion.result {
                Ok(Done::Transferred(bytes)) => Ok(*bytes),
                Ok(_) => Ok(0),
                Err(error) => Err(error.clone()),
            };
            events.push(DiskEvent::Ended { token, transferred });
        }
    }
}

impl Buggify for WatchedDisk {
    fn strikes(&mut self, point: Point) -> bool {
        self.whims.as_mut().is_some_and(|whims| whims.strikes(point))
    }
}

impl Disk for WatchedDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.remember(token, &op);
        self.tell_of(token, &op);
        self.inner.submit(token, op);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.inner.poll(completions);
        self.remember_opened(&completions[before..]);
        self.tell_of_ends(&completions[before..]);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.inner.wait(completions);
        self.remember_opened(&completions[before..]);
        self.tell_of_ends(&completions[before..]);
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        self.inner.buffer(len)
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.inner.recycle(buffer);
    }

    fn free_bytes(&mut self) -> u64 {
        self.inner.free_bytes()
    }

    fn total_bytes(&mut self) -> u64 {
        self.inner.total_bytes()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn root(&self) -> String {
        self.inner.root()
    }
}
