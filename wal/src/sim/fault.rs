//! Faults as values: they can be listed, replayed and left out one by one.

/// Kinds of operations, to say which one a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl OpKind {
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
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The operation fails with this errno and changes nothing.
    Errno(i32),
    /// A write or read transfers only so many bytes (a multiple of the sector size is usual).
    Short(u32),
    /// The operation takes so many nanoseconds longer (only with a latency, see [`crate::SimDisk::set_latency`]).
    Delay(u64),
    /// A write is reported as done and never reaches the platter, not even its cache.
    Lost,
}

/// One fault: it hits matching operations after `skip` of them, `times` times.
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

    /// Whether an operation is hit; counts.
    pub(super) fn hits(&mut self, on: OpKind, name: &str, durable: bool) -> bool {
        let matches = self.on == on
            && name.contains(&self.name_contains)
            && self.durable.is_none_or(|wanted| on != OpKind::Write || wanted == durable);
        if !matches || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times != u32::MAX {
            self.times -= 1;
        }
        true
    }
}
