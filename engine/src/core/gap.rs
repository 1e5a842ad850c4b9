//! What is missing at the end of a group's log while it is read back, and what lies behind.

use std::collections::BTreeMap;

use logdrive_shard::Term;
use logdrive_wal::EntryHeader;

/// Bytes of entries behind damage that are kept for each group while the log is read back, for the case that what is missing was put
/// back later.
const HELD_BYTES_MAX: usize = 16 << 20;
/// What keeping an entry costs beside its payload.
const HELD_ENTRY_BYTES: usize = 64;

/// Damage in a group's log, from its end on.
#[derive(Default)]
pub(super) struct Gap {
    /// The last index that was acknowledged; `u64::MAX` if nothing tells.
    pub(super) last: u64,
    /// Its term, if that can be read.
    pub(super) term: Option<Term>,
    /// Entries behind the damage, and those in it that were put back: of use if in the end none is missing.
    pub(super) held: BTreeMap<u64, (EntryHeader, Box<[u8]>)>,
    held_bytes: usize,
}

impl Gap {
    /// Keeps an entry that cannot be used yet, and none behind it. More than the bound is not kept: then the leader sends them all.
    pub(super) fn hold(&mut self, header: EntryHeader, payload: &[u8]) {
        self.held_bytes += payload.len() + HELD_ENTRY_BYTES;
        if self.held_bytes > HELD_BYTES_MAX {
            self.held.clear();
            return;
        }
        self.held.insert(header.index, (header, payload.into()));
    }
}
