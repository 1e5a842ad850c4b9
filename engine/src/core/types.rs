//! What goes into a core and what it tells about itself.

use logdrive_shard::{GroupId, LogIndex, NodeId, SessionOp};

use crate::api::{CoreSettings, ReadPolicy};
use crate::wire::PeerHello;

/// A core of a node, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// A connection to a peer core, dense; reused for the same peer core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

/// A consumer of answers on a core (a client connection, another core, the bench's driver), dense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A group's dense slot on this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// A group that lives on this core.
#[derive(Clone, Debug)]
pub struct GroupSetup {
    /// Its id.
    pub id: GroupId,
    /// The voters that it was founded with. Empty: this node was not there, and learns who the members are from the leader that
    /// makes it one; until then the group does nothing here.
    pub founders: Vec<NodeId>,
    /// The founder that should lead when all are well; `NONE` if nobody should. When the voters change, the
    /// turn goes on among them.
    pub preferred_leader: NodeId,
}

/// What a core is opened with.
pub struct CoreOptions {
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// Random numbers and history ids start from these.
    pub cluster: u64,
    /// This boot of the node: higher than every earlier one.
    pub boot: u64,
    /// Seed of the core's random numbers (the runtime takes it from the system; the simulator from its seed).
    pub seed: u64,
    /// The groups, by slot.
    pub groups: Vec<GroupSetup>,
    /// Settings.
    pub settings: CoreSettings,
}

/// One thing that happened. `handle` steps the groups it touches; nothing leaves before [`Core::turn`](crate::core::Core::turn).
#[derive(Debug)]
pub enum Event<'a> {
    /// One whole frame (header included) arrived on a link.
    Frame {
        /// From.
        link: LinkId,
        /// The bytes, read in place.
        bytes: &'a [u8],
    },
    /// A connection to a peer core finished its handshake.
    LinkUp {
        /// The peer, its boot and the groups it hosts.
        hello: &'a PeerHello,
    },
    /// A connection ended.
    LinkDown {
        /// Which.
        link: LinkId,
    },
    /// A client proposes.
    Propose {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// Payload.
        payload: &'a [u8],
    },
    /// A client opens, uses or ends a session. The answer to [`SessionOp::Open`] is the session's number, as the index and as 8 bytes
    /// little-endian.
    Session {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// What is asked.
        op: SessionOp<'a>,
    },
    /// A client reads.
    Read {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// How it may be answered.
        policy: ReadPolicy,
        /// For [`StateMachine::query`](crate::api::StateMachine::query).
        request: &'a [u8],
    },
    /// The log's disk has completions.
    Disk,
    /// The disk of the snapshots has completions.
    SnapshotDisk,
    /// An operator or embedder wants a group's leadership moved. Answered when the group tells how that ended: with index 0 and the
    /// number of the node that leads now (4 bytes, little-endian), or with why it did not come about.
    Transfer {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// To whom; `NONE`: to the best.
        to: NodeId,
    },
    /// An operator or embedder calls a leader transfer off, whoever began it. Answered at once, with index 0 and the number of the node
    /// that leadership was being handed to (4 bytes, little-endian; `NONE` if no transfer was under way). Those who wait for the
    /// transfer are told [`TransferCancelled`](crate::api::Error::TransferCancelled).
    CancelTransfer {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
    },
    /// A client wants another configuration. Answered when the one that the change ends with is committed, with its index (also in
    /// the 8 bytes of the reply): a joint one that is left by itself was left then.
    Change {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// The change.
        change: &'a logdrive_shard::MembershipChange,
    },
    /// An operator or embedder wants a snapshot of a group's state here. Answered when one of what is applied now is durable, with its
    /// index (also in the 8 bytes of the reply).
    Snapshot {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
    },
    /// This member campaigns now, for tests and repair. Where a leader is in contact with a quorum, nobody votes for it.
    Campaign {
        /// The group.
        slot: Slot,
    },
    /// An operator wants all leaders moved off this core, and none to come back until the same is told with `false`. Whoever is elected
    /// here meanwhile, because nobody else can be, leads until somebody else can.
    Drain(bool),
    /// The node is about to stop: hand leadership of all groups over; refuse new proposals with `NotLeader` once handed over.
    HandOver,
}

/// Why a core cannot go on. The process ends with this message; restart is recovery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// A write or sync failed.
    #[error(
        "core {core}: the log is poisoned, nothing more is acknowledged: {error}. Look at the disk, then restart this node"
    )]
    LogPoisoned {
        /// Which core.
        core: u16,
        /// What failed.
        error: logdrive_wal::DiskError,
    },
}

/// Counts of a core, for status, metrics and benchmarks.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub struct CoreStatus {
    pub core: u16,
    /// Places for groups; the counts of roles and lags are of those that this node is a member of.
    pub groups: u32,
    pub leaders: u32,
    pub followers: u32,
    pub candidates: u32,
    pub leaderless: u32,
    /// Groups whose disk lost something here that the other members have not made up for yet.
    pub damaged: u32,
    /// Sum over groups of `last known commit - applied`.
    pub apply_lag: u64,
    /// Sum over groups led here of `last - commit`.
    pub commit_lag: u64,
    pub applied: u64,
    pub proposals: u64,
    pub reads: u64,
    pub busy: u64,
    pub log_used_bytes: u64,
    pub log_budget_bytes: u64,
    pub log_out_of_space: bool,
    pub log_writes: u64,
    pub log_write_bytes: u64,
    pub log_records: u64,
    pub cache_bytes: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    pub links_alive: u32,
    /// Leaders are moved off and stay off.
    pub draining: bool,
    /// The disk of the log was damaged again where it had been repaired: nothing more is repaired, and leaders are moved off.
    pub disk_failing: bool,
    /// Files of snapshots, and their bytes.
    pub snapshots: u64,
    pub snapshot_bytes: u64,
    pub snapshots_written: u64,
    pub snapshots_failed: u64,
    pub snapshots_installed: u64,
    /// Bytes of snapshots that were sent to other nodes, and taken from them.
    pub transfer_bytes_sent: u64,
    pub transfer_bytes_taken: u64,
    /// Transfers that went on behind their first byte, that a follower was asked to send, and that the receiver did not take.
    pub transfers_resumed: u64,
    pub transfers_relayed: u64,
    pub transfers_refused: u64,
    /// Times that a group's log came to its bound.
    pub group_logs_full: u64,
}

/// One group in a list of many: what costs nothing to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group.
    pub id: GroupId,
    /// This member's role.
    pub role: logdrive_shard::Role,
    /// Its term.
    pub term: logdrive_shard::Term,
    /// The leader it knows, `NONE` if none.
    pub leader: NodeId,
    /// Committed up to.
    pub commit: LogIndex,
    /// Applied here up to.
    pub applied: LogIndex,
    /// The log's end.
    pub last: LogIndex,
    /// Durable here up to.
    pub durable: LogIndex,
}

/// What a group's state is on this core, in a number: the same on nodes that applied the same entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupDigest {
    /// Applied up to.
    pub applied: LogIndex,
    /// The digest of the state machine, and of the group's sessions if it ever had any.
    pub digest: u64,
}

/// One group's state on this core, for status and tests: what is known without looking into the state machine.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub id: GroupId,
    /// The consensus state.
    pub raft: logdrive_shard::Report,
    /// Applied up to.
    pub applied: LogIndex,
    /// The first entries, and the last of them, that the disk lost while the node ran, and that are not put back yet. What it had lost
    /// before the node started is in `raft`.
    pub unreadable: Option<(LogIndex, LogIndex)>,
    /// Sessions open.
    pub sessions: u32,
    /// Its snapshots on this node.
    pub snapshot: super::SnapshotStatus,
    /// Snapshots of it on their way to or from other nodes.
    pub transfers: Vec<super::TransferStatus>,
    /// The member that should lead when all are well; `NONE` if that is nobody in particular.
    pub preferred_leader: NodeId,
    /// How long ago each peer node of the group was heard, in nanoseconds; nodes that are not connected are left out.
    pub heard_nanos_ago: Vec<(NodeId, u64)>,
    /// The last campaigns, votes, refusals, step-downs and transfers of this member, oldest first, each with how long ago it was in
    /// nanoseconds.
    pub history: Vec<(u64, logdrive_shard::HistoryEntry)>,
}
