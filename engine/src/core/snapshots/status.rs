//! What is told about snapshots.

use logdrive_shard::LogIndex;
use logdrive_wal::Disk;

use crate::api::StateMachine;
use crate::core::{Core, Slot};

/// Counters of a core's snapshots since it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotCounters {
    /// Begun.
    pub begun: u64,
    /// Written and durable.
    pub written: u64,
    /// That could not be written: tried again.
    pub failed: u64,
    /// Times that a group's log was cut behind one.
    pub logs_cut: u64,
    /// From other nodes, installed.
    pub installed: u64,
    /// Of these, so many that the log went on behind: they stand for what could not be read of it.
    pub fast_forwards: u64,
    /// From other nodes, complete, and not to be used.
    pub installs_failed: u64,
    /// Times that a group's log came to its bound, and the group took no proposals until a snapshot was durable.
    pub logs_full: u64,
}

/// A group's snapshots on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The newest durable one stands for the log up to here; 0 if there is none.
    pub index: LogIndex,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// How long ago it became durable, in nanoseconds; nothing if that was in an earlier life of the process.
    pub nanos_ago: Option<u64>,
    /// About how many bytes of entries were applied that it does not stand for.
    pub log_bytes: u64,
    /// First index of the log: what is before it is gone.
    pub log_first: LogIndex,
    /// One is being written or installed.
    pub is_busy: bool,
    /// Why the last one came to nothing; nothing if it did not.
    pub failure: Option<String>,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// A group's snapshots.
    pub fn snapshot_status(&self, slot: Slot) -> SnapshotStatus {
        let at = slot.0 as usize;
        let state = &self.snapshots.groups[at];
        SnapshotStatus {
            index: state.index,
            file_bytes: state.file_bytes,
            nanos_ago: state.at.map(|at| self.io.now.since(at).as_nanos() as u64),
            log_bytes: state.log_bytes,
            log_first: self.groups[at].first_index(),
            is_busy: state.is_busy,
            failure: state.failure.as_deref().map(str::to_owned),
        }
    }

    /// Counters since the core opened.
    pub fn snapshot_counters(&self) -> SnapshotCounters {
        self.snapshots.counters
    }
}
