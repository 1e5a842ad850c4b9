//! The disk of a core: the log's simulated one, and what happens on it as a list for the checks.

use std::cell::RefCell;
use std::rc::Rc;

use logdrive_wal::{Buffer, Completion, Disk, DiskError, Done, FileId, Op, SimDisk, Token};

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

/// A [`SimDisk`] that tells what happens on it.
pub struct WatchedDisk {
    /// The disk.
    pub inner: SimDisk,
    events: Option<DiskEvents>,
    /// Files that are being opened, by token.
    opening: Vec<(Token, String)>,
}

impl WatchedDisk {
    /// Tells into `events`, or nobody.
    pub fn new(inner: SimDisk, events: Option<DiskEvents>) -> WatchedDisk {
        WatchedDisk { inner, events, opening: Vec::new() }
    }

    fn tell_of(&mut self, token: Token, op: &Op) {
        let Some(events) = &self.events else { return };
        let event = match op {
            Op::Open { name, .. } => {
                self.opening.push((token, name.clone()));
                return;
            }
            &Op::Write { file, offset, len, durable, .. } => {
                DiskEvent::Writes { token, file, offset, len, durable }
            }
            &Op::Read { file, offset, len, .. } => DiskEvent::Reads { token, file, offset, len },
            &Op::Sync { file } => DiskEvent::Syncs { token, file },
            Op::Rename { from, to } => DiskEvent::Renames { token, from: from.clone(), to: to.clone() },
            Op::Unlink { name } => DiskEvent::Unlinks { token, name: name.clone() },
            Op::Close { .. } | Op::SyncDir | Op::List => return,
        };
        events.borrow_mut().push(event);
    }

    fn tell_of_ends(&mut self, ended: &[Completion]) {
        let Some(events) = &self.events else { return };
        let mut events = events.borrow_mut();
        for completion in ended {
            let token = completion.token;
            if let Ok(Done::Opened { file, .. }) = completion.result
                && let Some(at) = self.opening.iter().position(|(opening, _)| *opening == token)
            {
                events.push(DiskEvent::Opened { file, name: self.opening.swap_remove(at).1 });
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

impl Disk for WatchedDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.tell_of(token, &op);
        self.inner.submit(token, op);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.inner.poll(completions);
        self.tell_of_ends(&completions[before..]);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.inner.wait(completions);
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
