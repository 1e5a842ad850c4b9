//! Faults as values: they can be listed, written down as source text, replayed and left out one by one.

use std::fmt;

/// Kinds of operations, to say which one a fault hits; and the moments at which a disk decides something by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// [`crate::Op::Open`]
    Open,
    /// [`crate::Op::Close`]
    Close,
    /// [`crate::Op::Write`]
    Write,
    /// [`crate::Op::Read`]
    Read,
    /// [`crate::Op::Sync`]
    Sync,
    /// [`crate::Op::Rename`]
    Rename,
    /// [`crate::Op::Unlink`]
    Unlink,
    /// [`crate::Op::SyncDir`]
    SyncDir,
    /// [`crate::Op::List`]
    List,
    /// Which of the operations under way is performed next: [`FaultKind::Overtakes`].
    Turn,
    /// How long an operation takes, with a latency: [`FaultKind::Delay`] beyond the least.
    Latency,
    /// A write that was under way when its process died: [`FaultKind::Lands`].
    Orphan,
    /// A block that was written and not durable when the power went: [`FaultKind::Keeps`].
    CachedBlock,
    /// A file whose length was not durable when the power went: [`FaultKind::KeepsLength`].
    CachedLength,
    /// The directory when the power went: [`FaultKind::KeepsNames`].
    CachedNames,
}

impl OpKind {
    /// How many there are.
    pub(super) const COUNT: usize = OpKind::CachedNames as usize + 1;

    pub(super) fn name(self) -> &'static str {
        match self {
            OpKind::Open => "open",
            OpKind::Close => "close",
            OpKind::Write => "write",
            OpKind::Read => "read",
            OpKind::Sync => "sync",
            OpKind::Rename => "rename",
            OpKind::Unlink => "unlink",
            OpKind::SyncDir => "sync directory",
            OpKind::List => "list",
            OpKind::Turn | OpKind::Latency => "wait",
            OpKind::Orphan | OpKind::CachedBlock | OpKind::CachedLength | OpKind::CachedNames => "crash",
        }
    }
}

/// What goes wrong. Offsets and sectors that lie outside of the operation are taken modulo its size, so that every value means
/// something for every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The operation fails with this errno and changes nothing.
    Errno(i32),
    /// A sync fails with this errno, and the device's cache takes for clean what it had not written: the next sync succeeds,
    /// readers see the bytes, and the next power loss shows that they were never durable.
    Forgets(i32),
    /// A write or read transfers only so many bytes (a multiple of the sector size is usual).
    Short(u32),
    /// The operation takes so many nanoseconds longer (only with a latency, see [`crate::SimDisk::set_latency`]).
    Delay(u64),
    /// The operation is left out of so many polls (without a latency).
    Stall(u32),
    /// A write is reported as done and never reaches the platter, not even its cache: what was there before stays, the blocks
    /// of a recycled file among them.
    Lost,
    /// A write of which only some sectors reach the platter: sector `n` if bit `n % 64` is set. It ends with the errno, or as if
    /// all were well if that is 0.
    Torn {
        /// The sectors.
        sectors: u64,
        /// How it ends.
        errno: i32,
    },
    /// One bit, or several of one byte, of a write or read are flipped on the way.
    Flip {
        /// Byte of the transfer.
        at: u32,
        /// Bits.
        mask: u8,
    },
    /// A sector of a write or read is replaced by garbage on the way.
    Garbage {
        /// Sector of the transfer.
        sector: u32,
        /// Seed of the garbage.
        seed: u32,
    },
    /// A write goes to this block of its file instead, or a read comes from there.
    Misdirected {
        /// Number of the block.
        block: u32,
    },
    /// A read finds the blocks as they were before they were last written.
    Stale,
    /// The operation that is so many places behind the oldest is performed first.
    Overtakes(u32),
    /// A dead process's write lands after so many polls of its successors, at the latest when its file is flushed. Without
    /// this it never lands.
    Lands(u32),
    /// Of a block in the cache these sectors reach the medium. Without this none does.
    Keeps {
        /// A bit for each sector.
        sectors: u8,
    },
    /// The length of a file in the cache reaches the medium. Without this the file is as long as it durably was.
    KeepsLength,
    /// The first so many changes of the directory that were not synced reach the medium. Without this none does.
    KeepsNames(u32),
}

/// One fault: it hits matching operations after `skip` of them, `times` times. Its text (`Display`) is an expression of the language
/// that makes it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of operation.
    pub on: OpKind,
    /// Only files whose name contains this; empty for all.
    pub name_contains: String,
    /// Only durable writes (`Some(true)`), only others (`Some(false)`).
    pub durable: Option<bool>,
    /// Matching operations that are let through first.
    pub skip: u32,
    /// Operations that are hit; `u32::MAX` for all.
    pub times: u32,
    /// What happens to them.
    pub what: FaultKind,
}

impl Fault {
    /// A fault of the next operation of a kind.
    pub fn next(on: OpKind, what: FaultKind) -> Fault {
        Fault { on, name_contains: String::new(), durable: None, skip: 0, times: 1, what }
    }

    /// A fault of the operation of a kind that comes after so many others of that kind.
    pub fn at(on: OpKind, skip: u32, what: FaultKind) -> Fault {
        Fault { skip, ..Fault::next(on, what) }
    }

    /// Whether an operation is hit; counts. One that another fault has hit already only counts.
    pub(super) fn hits(&mut self, on: OpKind, name: &str, durable: bool, taken: bool) -> bool {
        let matches = self.on == on
            && (self.name_contains.is_empty() || name.contains(&self.name_contains))
            && self.durable.is_none_or(|wanted| on != OpKind::Write || wanted == durable);
        if !matches || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if taken {
            return false;
        }
        if self.times != u32::MAX {
            self.times -= 1;
        }
        true
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { on, name_contains, durable, skip, times, what } = self;
        let plain = name_contains.is_empty() && durable.is_none() && *times == 1;
        if plain {
            return write!(f, "Fault::at(OpKind::{on:?}, {skip}, FaultKind::{what:?})");
        }
        write!(
            f,
            "Fault {{ on: OpKind::{on:?}, name_contains: {name_contains:?}.to_owned(), durable: {durable:?}, skip: {skip}, \
             times: {times}, what: FaultKind::{what:?} }}"
        )
    }
}

/// The faults as a list to be pasted into a test.
pub fn list_faults(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(|fault| format!("    {fault},\n")).collect();
    format!("[\n{}]", lines.concat())
}
