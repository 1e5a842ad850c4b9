//! What a client is told when a request did not succeed.

use std::time::Duration;

use logdrive_shard::{BadChange, LogIndex, NodeId};

/// Whether and how to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Nothing was appended; send it to this node (`NONE`: unknown, ask again after a pause).
    At(NodeId),
    /// Nothing was appended; send it again after this pause.
    After(Duration),
    /// It may or may not take effect: retry only what is idempotent, or in a session.
    OnlyIfIdempotent,
    /// The same request will fail again.
    Never,
}

/// Which bound was hit. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// Entries or bytes of this group that are proposed and not committed.
    GroupUncommitted,
    /// Proposals and reads waiting on this core.
    CoreRequests,
    /// Bytes held for clients on this core.
    CoreBytes,
    /// The group's log is as long as it may be: a snapshot is being taken, or cannot be (see the group's status).
    GroupLog,
    /// Reads waiting for this group.
    GroupReads,
    /// Bytes waiting for the log.
    LogBacklog,
    /// Requests on their way from one core of this node to another, or their bytes.
    Mesh,
    /// Requests of the embedding API that the core has not taken yet, or their bytes.
    Queue,
    /// A leader transfer is under way.
    Transferring,
    /// The last change of the configuration is not committed yet, or the leader is new and does not know whether it is.
    ChangePending,
}

/// Why a proposal or read did not succeed. Small and `Copy`: thousands a turn are answered through one array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This node does not lead the group; nothing was appended.
    #[error("not the leader of the group (leader: node {leader}, 0 if unknown); nothing was appended")]
    NotLeader {
        /// The leader, if known.
        leader: NodeId,
    },
    /// Over a limit; nothing was appended.
    #[error("busy ({why:?}); nothing was appended, retry after {} ms", retry_after.as_millis())]
    Busy {
        /// Which limit.
        why: Busy,
        /// When to try again.
        retry_after: Duration,
    },
    /// Appended, then leadership was lost: it may or may not commit.
    #[error("leadership was lost after the proposal was appended: it may or may not commit")]
    Indeterminate,
    /// A local read asked for a later index than this node applied.
    #[error("applied up to {have} here, but {want} was asked for")]
    CommitLagging {
        /// Applied here.
        have: LogIndex,
        /// Asked for.
        want: LogIndex,
    },
    /// The payload is larger than the limit; nothing was appended.
    #[error("a payload of {bytes} bytes is over the limit of {limit}; nothing was appended")]
    PayloadTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The target of a leader transfer is not another voter of the group.
    #[error("node {to} cannot take over: it is not another voter of the group")]
    BadTransferee {
        /// The target.
        to: NodeId,
    },
    /// Nobody can take leadership over: no other voter is in contact, or all that are are being drained.
    #[error("no other voter is in contact that takes leadership")]
    NobodyToTakeOver,
    /// A leader transfer was given up: the target did not take over in time.
    #[error("node {to} did not take over in time: this node leads on and takes proposals again")]
    TransferTimedOut {
        /// The target.
        to: NodeId,
    },
    /// A leader transfer was called off, or its target is no voter any more.
    #[error("the transfer to node {to} was called off: this node leads on and takes proposals again")]
    TransferCancelled {
        /// The target.
        to: NodeId,
    },
    /// Leadership was lost during a transfer, and not to its target.
    #[error("leadership went elsewhere than to node {to} (leader: node {leader}, 0 if unknown)")]
    TransferElsewhere {
        /// The target.
        to: NodeId,
        /// The leader, if known.
        leader: NodeId,
    },
    /// The configuration is another one than the change was meant for; nothing was appended.
    #[error("the configuration is that of index {actual}, not {expected}: look at it again and decide anew")]
    MembershipMismatch {
        /// Named by the request.
        expected: LogIndex,
        /// The index of the configuration in force.
        actual: LogIndex,
    },
    /// A node that is to be a voter lacks too much of the log; nothing was appended.
    #[error("node {node} lacks {lag} entries, {limit} may be missing: let it catch up as a learner first")]
    LearnerBehind {
        /// The node.
        node: NodeId,
        /// Entries that it is not known to have.
        lag: u64,
        /// So many may be missing.
        limit: u64,
    },
    /// A node that is to be a voter is out of contact, or is no learner yet; nothing was appended.
    #[error("nothing is known of the log of node {node} at present: is it a learner, and in contact?")]
    LearnerUnknown {
        /// The node.
        node: NodeId,
    },
    /// Too many voters of the new configuration are out of contact; nothing was appended.
    #[error(
        "with the change the group could not commit: too many voters are out of contact; nothing was appended"
    )]
    NoQuorum,
    /// The change does not fit the configuration; nothing was appended.
    #[error("{0}; nothing was appended")]
    BadChange(BadChange),
    /// This node does not host the group.
    #[error("no such group on this node")]
    NoSuchGroup,
    /// The session is not open: it was closed, it expired, others pushed it out, or it never was. The command was not executed by
    /// this request; whether by an earlier one is not known any more.
    #[error(
        "session {session} is not open (closed, expired, pushed out by others, or never opened); open another one"
    )]
    UnknownSession {
        /// The session.
        session: u64,
    },
    /// A number that the client may not use in its session now. Nothing was executed.
    #[error(
        "number {sequence} cannot be used in its session now: it must be at least {from} and less than {} above it",
        logdrive_shard::SESSION_WINDOW
    )]
    SessionSequence {
        /// The number.
        sequence: u64,
        /// The lowest that may be used.
        from: u64,
    },
    /// The entry of a session was written by another version of this software. Nothing was executed.
    #[error("the entry of the session is of another version; nothing was executed")]
    SessionFormat,
    /// The group's log is damaged here, and no other member that could make up for it leads; nothing was appended. It passes when the
    /// group has a leader; it stays when the copies of a majority are damaged.
    #[error(
        "the group's log is damaged on this node and it has no leader; nothing was appended. See its status on all its \
         nodes: if a majority of the copies is damaged, a backup is needed"
    )]
    GroupCorrupt,
    /// A snapshot could not be written, or not be taken now. The group goes on, and so does its log.
    #[error(
        "the snapshot could not be written; the group's status and the node's log say why. It is tried again after a pause"
    )]
    SnapshotFailed,
    /// The log reached its budget or the disk is full; nothing was appended; reads go on.
    #[error("the log is out of space ({used} of {budget} bytes used); nothing was appended; reads go on")]
    OutOfSpace {
        /// Bytes used.
        used: u64,
        /// The budget.
        budget: u64,
    },
    /// The engine is stopping; nothing was appended.
    #[error("the engine is stopping; nothing was appended")]
    Stopped,
    /// The caller's time ran out; a proposal may or may not commit.
    #[error("timed out; a proposal may or may not commit")]
    Timeout,
}

impl Error {
    /// Whether and how to retry.
    pub fn retry(&self) -> Retry {
        match *self {
            Error::NotLeader { leader } | Error::TransferElsewhere { leader, .. } => Retry::At(leader),
            Error::Busy { retry_after, .. } => Retry::After(retry_after),
            Error::CommitLagging { .. } => Retry::After(Duration::from_millis(5)),
            Error::LearnerBehind { .. }
            | Error::LearnerUnknown { .. }
            | Error::NoQuorum
            | Error::NobodyToTakeOver
            | Error::TransferTimedOut { .. } => Retry::After(Duration::from_millis(100)),
            Error::OutOfSpace { .. } | Error::GroupCorrupt | Error::SnapshotFailed => {
                Retry::After(Duration::from_secs(1))
            }
            Error::Indeterminate | Error::Timeout => Retry::OnlyIfIdempotent,
            Error::PayloadTooLarge { .. }
            | Error::BadTransferee { .. }
            | Error::TransferCancelled { .. }
            | Error::MembershipMismatch { .. }
            | Error::BadChange(_)
            | Error::NoSuchGroup
            | Error::UnknownSession { .. }
            | Error::SessionSequence { .. }
            | Error::SessionFormat
            | Error::Stopped => Retry::Never,
        }
    }
}
