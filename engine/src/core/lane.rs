//! What the core itself keeps of a group: one cache line per slot, beside the 256 bytes of `shard`.

use logdrive_shard::{LogIndex, Route};
use logdrive_wal::StreamSlot;

use super::cache::Window;
use super::types::LinkId;

/// "None" for positions in slabs.
pub(super) const NIL: u32 = u32::MAX;

/// One bit per queue that a slot may be in, so that it is in each at most once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags(u16);

impl Flags {
    /// Waits for [`logdrive_shard::Group::flush`] at the end of the turn.
    pub(super) const FLUSH: Flags = Flags(1);
    /// Has entries to apply.
    pub(super) const APPLY: Flags = Flags(1 << 1);
    /// Waits for its commit index to be told.
    pub(super) const NOTICE: Flags = Flags(1 << 2);
    /// Has reads to be looked at.
    pub(super) const READS: Flags = Flags(1 << 3);
    /// Its leader changed since the last report.
    pub(super) const LEADER_CHANGED: Flags = Flags(1 << 4);
    /// Is led here and should not be.
    pub(super) const MISPLACED: Flags = Flags(1 << 5);
    /// Cold entries are being read to be sent.
    pub(super) const SEND_LOAD: Flags = Flags(1 << 6);
    /// Cold entries are being read to be applied.
    pub(super) const APPLY_LOAD: Flags = Flags(1 << 7);
    /// The log refused something vital of this group, which is repeated before anything else of it is written.
    pub(super) const UNWRITTEN: Flags = Flags(1 << 8);

    /// Is looked at again, whether it can be given up.
    pub(super) const RETIRING: Flags = Flags(1 << 10);
    /// Has reads that wait.
    pub(super) const HAS_READS: Flags = Flags(1 << 9);

    /// Its log is as long as it may be: no proposals are taken until a snapshot is durable.
    pub(super) const LOG_FULL: Flags = Flags(1 << 11);

    /// Its reads are looked at again after a while.
    pub(super) const WATCHED: Flags = Flags(1 << 12);

    /// Sets a bit; whether it was clear.
    pub(super) fn raise(&mut self, flag: Flags) -> bool {
        let was_clear = self.0 & flag.0 == 0;
        self.0 |= flag.0;
        was_clear
    }

    pub(super) fn lower(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }

    pub(super) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
}

/// Hot state of the core for one slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Lane {
    /// Handle of the group's stream in the log.
    pub(super) stream: StreamSlot,
    /// Which creation of the group this is; a message for another one is not for us.
    pub(super) history: u32,
    /// Applied up to here.
    pub(super) applied: LogIndex,
    /// Queues this slot is in.
    pub(super) flags: Flags,
    /// Bytes of entries applied that its growth does not count yet.
    pub(super) uncounted_bytes: u16,
    /// Where this slot's last write is in the list of writes under way (a running number, wrapping).
    pub(super) touch: u32,
    /// Proposals to be answered, in index order: first and last in the slab.
    pub(super) pending_head: u32,
    pub(super) pending_tail: u32,
    /// Cached entries.
    pub(super) window: Window,
}

const _: () = assert!(size_of::<Lane>() == 64);

impl Lane {
    pub(super) fn new(stream: StreamSlot, history: u32, applied: LogIndex) -> Lane {
        Lane {
            stream,
            history,
            applied,
            flags: Flags::default(),
            uncounted_bytes: 0,
            touch: 0,
            pending_head: NIL,
            pending_tail: NIL,
            window: Window::default(),
        }
    }
}

/// Packs the way to a group's peer.
pub(super) fn route(link: LinkId, remote_slot: u32) -> Route {
    Route(u64::from(link.0) << 32 | u64::from(remote_slot))
}

/// The link and the remote slot of a route; `None` for [`Route::NONE`].
pub(super) fn unpack(route: Route) -> Option<(usize, u32)> {
    (route != Route::NONE).then_some(((route.0 >> 32) as usize, route.0 as u32))
}
