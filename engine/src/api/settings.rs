//! Settings of the engine's cores.

use std::time::Duration;

use logdrive_shard::{Config as ShardConfig, LogIndex, NodeId};

use crate::snapshot::SnapshotFileSettings;

/// How a read may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPolicy {
    /// Sees every write acknowledged before it began (ReadIndex, batched).
    Linearizable,
    /// From the leader's state: as fresh as `Linearizable`, and without asking anybody while the leader has a lease, which
    /// rests on clocks that go at nearly the same speed (`clock_drift_permille`). Without one it is confirmed as
    /// `Linearizable` is.
    LeaderLease,
    /// As fresh as `Linearizable`, from this node's state whoever leads: a follower asks its leader for a confirmed index, and
    /// waits until it has applied so far. Not for ever: if it gets no further (it was removed, and not told), the answer is
    /// [`crate::api::Error::NotLeader`].
    Follower,
    /// From this node's state, which may be stale, if it applied `min_index`; answers without a leader too. A client that
    /// asks for the highest index it has seen never sees time go back.
    Local {
        /// What must be applied here; 0 takes any state.
        min_index: LogIndex,
        /// How long to wait for that before the answer is [`crate::api::Error::CommitLagging`].
        max_wait: Duration,
    },
}

/// Named timing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimingPreset {
    /// 1 s + random(0, 1 s), heartbeat 100 ms.
    #[default]
    Default,
    /// 150 ms + random(0, 150 ms), heartbeat 30 ms.
    Lan,
    /// 500 ms + random(0, 500 ms), heartbeat 100 ms.
    CrossZone,
    /// 2 s + random(0, 2 s), heartbeat 100 ms.
    Wan,
}

impl TimingPreset {
    /// Sets the three times.
    pub fn apply_to(self, config: &mut ShardConfig) {
        let (base, heartbeat) = match self {
            TimingPreset::Default => (1000, 100),
            TimingPreset::Lan => (150, 30),
            TimingPreset::CrossZone => (500, 100),
            TimingPreset::Wan => (2000, 100),
        };
        config.election_base = Duration::from_millis(base);
        config.election_spread = Duration::from_millis(base);
        config.heartbeat_interval = Duration::from_millis(heartbeat);
    }
}

/// Settings of every core. Every bound has a counter that says when it was hit.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// Raft timing and windows.
    pub shard: ShardConfig,
    /// The log.
    pub wal: logdrive_wal::Options,
    /// Largest proposal, bytes.
    pub payload_bytes_max: u32,
    /// Proposals and reads waiting on one core.
    pub requests_max: u32,
    /// Payload bytes of them.
    pub request_bytes_max: u64,
    /// Reads waiting on one group.
    pub group_reads_max: u32,
    /// Entry cache of a core, bytes.
    pub cache_bytes_max: u64,
    /// Payload bytes in flight to one peer core, over all groups.
    pub peer_inflight_bytes_max: u64,
    /// Bytes queued towards one peer core before appends to it are held back.
    pub outbox_bytes_max: u64,
    /// Payload bytes applied in one turn.
    pub apply_bytes_per_turn: u64,
    /// Bytes waiting for the log above which no input is taken.
    pub log_backlog_bytes_max: u64,
    /// A commit index that no append has carried is sent on its own after this time.
    pub commit_delay: Duration,
    /// Sessions that were not used for so long end, by the time of the log: the leader's entries carry it.
    pub session_expiry: Duration,
    /// Move leadership to the preferred node of each group when it is in contact and caught up.
    pub balance_leaders: bool,
    /// How much each node is wanted as the leader of any group; 0 for those not named. A member campaigns one election base later for
    /// each voter in contact that is wanted more (three at most), and leads all the same when those cannot; leaders are spread
    /// over those that are wanted most. All nodes should have the same.
    pub priorities: Vec<(NodeId, u8)>,
    /// Snapshots, and what of the logs goes with them.
    pub snapshots: SnapshotSettings,
    /// The disk counts as stuck when its oldest write is under way for so long: this core then says it is not alive.
    pub disk_stall: Duration,
}

impl CoreSettings {
    /// Those of the voters that are wanted most as leaders, in their order.
    pub(crate) fn most_wanted(&self, voters: &[NodeId]) -> Vec<NodeId> {
        let priority = |node: &NodeId| {
            self.priorities.iter().find(|(named, _)| named == node).map_or(0, |&(_, priority)| priority)
        };
        let most = voters.iter().map(priority).max();
        voters.iter().copied().filter(|node| Some(priority(node)) == most).collect()
    }
}

impl Default for CoreSettings {
    fn default() -> CoreSettings {
        CoreSettings {
            shard: ShardConfig::default(),
            wal: logdrive_wal::Options::default(),
            payload_bytes_max: 1 << 20,
            requests_max: 65_536,
            request_bytes_max: 64 << 20,
            group_reads_max: 4_096,
            cache_bytes_max: 64 << 20,
            peer_inflight_bytes_max: 32 << 20,
            outbox_bytes_max: 8 << 20,
            apply_bytes_per_turn: 4 << 20,
            log_backlog_bytes_max: 8 << 20,
            commit_delay: Duration::from_millis(5),
            session_expiry: Duration::from_secs(3600),
            balance_leaders: true,
            priorities: Vec::new(),
            snapshots: SnapshotSettings::default(),
            disk_stall: Duration::from_secs(1),
        }
    }
}

/// When snapshots are taken, and how fast.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// Entries applied since the last one after which a group takes another; 0: they do not count. Groups are spread over the last
    /// quarter of this.
    pub every_entries: u64,
    /// The same in bytes of the log; 0: they do not count.
    pub every_bytes: u64,
    /// Entries that a snapshot stands for and that stay in the log, for followers that are a little behind.
    pub keep_trailing_entries: u64,
    /// About so many bytes of them at most, going by what the group's entries took on average since its snapshot before.
    pub keep_trailing_bytes: u64,
    /// Being written on one core.
    pub at_once: u32,
    /// Bytes of entries that no snapshot stands for, above which a group takes no proposals until one does.
    pub group_log_bytes_max: u64,
    /// Bytes of a state that are written, or built from a snapshot, in one go (a "slice"), at most.
    pub slice_bytes: u32,
    /// Time of a core that a slice takes, at most: it ends when that is used, however far it came. Only a runtime with a clock can see
    /// to it; in a simulation slices are bounded by their bytes alone.
    pub slice_time: Duration,
    /// Slices take at most `slice_time` of each such interval of a core; if it is shorter than two of them, of two. A core that has had
    /// nothing else to do for an interval takes slices of four times as long one after the other, with short rests.
    pub slice_interval: Duration,
    /// Snapshots loaded at the same time when a core opens.
    pub loads_at_once: u32,
    /// Snapshots that are sent to other nodes at the same time, for each core. Others wait for their turn.
    pub transfers_max: u32,
    /// Bytes of snapshots that a core sends per second, to all nodes together; 0: no limit but the windows.
    pub transfer_bytes_per_s: u64,
    /// Bytes of one snapshot that are sent and not known to have arrived; also what a receiver holds of one that its disk is too slow
    /// for.
    pub transfer_window_bytes: u32,
    /// Bytes of snapshots that leave in one turn, behind everything else.
    pub transfer_bytes_per_turn: u32,
    /// The files.
    pub files: SnapshotFileSettings,
}

impl Default for SnapshotSettings {
    fn default() -> SnapshotSettings {
        SnapshotSettings {
            every_entries: 10_000,
            every_bytes: 64 << 20,
            keep_trailing_entries: 1_000,
            keep_trailing_bytes: 8 << 20,
            at_once: 2,
            group_log_bytes_max: 256 << 20,
            slice_bytes: 64 << 10,
            slice_time: Duration::from_micros(10),
            slice_interval: Duration::from_micros(50),
            loads_at_once: 4,
            transfers_max: 4,
            transfer_bytes_per_s: 64 << 20,
            transfer_window_bytes: 1 << 20,
            transfer_bytes_per_turn: 256 << 10,
            files: SnapshotFileSettings::default(),
        }
    }
}
