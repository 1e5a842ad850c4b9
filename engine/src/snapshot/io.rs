//! The disk and what is under way on it.

use std::collections::BTreeMap;

use logdrive_wal::{Completion, Disk, FileId, Op, Token};

/// What a write should have written; nothing of the other operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What an operation was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A file that is being written.
    Output { output: u64, place: Place },
    /// A chunk of a file that is being written, for its verification.
    Verify { output: u64 },
    /// A file that is being read.
    Read { read: u64 },
    /// A chunk of it.
    Chunk { read: u64, number: u64 },
    /// A file whose owner is gone.
    Close,
    /// A file that is not needed any more.
    Removal { name: String },
    /// The directory, after removals.
    Removed,
}

pub(super) struct Io<D: Disk> {
    pub(super) disk: D,
    under_way: BTreeMap<u64, For>,
    next: u64,
    /// Something was submitted since the disk was last polled.
    pub(super) fresh: bool,
}

impl<D: Disk> Io<D> {
    pub(super) fn new(disk: D) -> Io<D> {
        Io { disk, under_way: BTreeMap::new(), next: 0, fresh: false }
    }

    pub(super) fn submit(&mut self, what: For, op: Op) {
        let token = self.next;
        self.next += 1;
        self.under_way.insert(token, what);
        self.fresh = true;
        self.disk.submit(Token(token), op);
    }

    /// Closes a file that nobody waits for.
    pub(super) fn close(&mut self, file: FileId) {
        self.submit(For::Close, Op::Close { file });
    }

    /// What the operation that ended was for.
    pub(super) fn ended(&mut self, completion: &Completion) -> For {
        let what = self.under_way.remove(&completion.token.0);
        what.expect("a disk completes each operation once, and no other")
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }
}
