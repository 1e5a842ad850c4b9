//! What goes in and out of a [`crate::Group`] beside messages and effects.

use crate::{BadChange, Config, LogIndex, Lost, MemberKind, Membership, Moment, NodeId, Random, Sink, Term};

/// What every step is given.
pub struct Env<'a, S: Sink> {
    /// The time, read after the inputs of this turn were collected.
    pub now: Moment,
    /// Settings of the core.
    pub config: &'a Config,
    /// The core's random numbers.
    pub random: &'a mut Random,
    /// Receives what the step produces.
    pub sink: &'a mut S,
}

/// Role of a group's member, as told to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// Entries that a proposal was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Index of the first.
    pub first: LogIndex,
    /// Their term.
    pub term: Term,
    /// Of the write, for [`crate::Group::on_durable`].
    pub epoch: u32,
}

/// Why a proposal, a read, a transfer or a change of the configuration was refused. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not the leader.
    #[error("not the leader (leader: node {leader}, 0 if unknown)")]
    NotLeader {
        /// The leader, if known.
        leader: NodeId,
    },
    /// Too much is uncommitted.
    #[error("{entries} entries of {bytes} bytes are uncommitted")]
    TooMuchUncommitted {
        /// Entries uncommitted.
        entries: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A leader transfer is under way.
    #[error("leadership is being transferred to node {to}")]
    Transferring {
        /// The successor.
        to: NodeId,
    },
    /// The target of a transfer is not a voter of the group, or is this node.
    #[error("node {to} cannot take over")]
    BadTransferee {
        /// The target.
        to: NodeId,
    },
    /// No other voter is in contact and can be reached.
    #[error("no other voter is in contact that could take over")]
    NobodyToTakeOver,
    /// The configuration is another one than the change was meant for.
    #[error("the configuration is that of index {actual}, not {expected}: read it again and decide anew")]
    MembershipMismatch {
        /// The index that the request named.
        expected: LogIndex,
        /// The index of the configuration in force.
        actual: LogIndex,
    },
    /// The last change is not committed yet: one at a time.
    #[error("the change at index {index} is not committed yet")]
    ChangePending {
        /// Its index.
        index: LogIndex,
    },
    /// The leader is new: it does not know yet whether an earlier leader's change is committed. It will soon.
    #[error("the leader has not committed an entry of its term yet: try again")]
    NotCommittedInTerm,
    /// A node that is to be a voter lacks too much of the log.
    #[error("node {node} lacks {lag} entries, {limit} may be missing: let it catch up as a learner")]
    LearnerBehind {
        /// The node.
        node: NodeId,
        /// Entries that it is not known to have.
        lag: u64,
        /// See [`Config::promotion_lag_max`].
        limit: u64,
    },
    /// A node that is to be a voter is out of contact, or its log is not known yet.
    #[error("nothing is known of the log of node {node} at present: is it a learner, and in contact?")]
    LearnerUnknown {
        /// The node.
        node: NodeId,
    },
    /// The voters that are in contact would not be a majority of the new configuration.
    #[error("with the change the group could not commit: too many voters are out of contact")]
    NoQuorum,
    /// The change does not fit the configuration.
    #[error(transparent)]
    BadChange(BadChange),
}

/// What of an append the caller has to write and keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Skip so many entries of the message (present already).
    pub skip: u32,
    /// Then write so many (0: nothing to write). The first of them **replaces** the log from its index on.
    pub take: u32,
    /// Of the write, for [`crate::Group::on_durable`].
    pub epoch: u32,
}

/// A peer as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// The peer.
    pub node: NodeId,
    /// Known to be equal up to here.
    pub matched: LogIndex,
    /// Next index to send.
    pub next: LogIndex,
    /// `probe`, `replicate` or `snapshot`; empty if this node does not lead.
    pub state: &'static str,
    /// Appends in flight.
    pub inflight: u32,
    /// Their payload bytes.
    pub inflight_bytes: u32,
    /// In contact.
    pub alive: bool,
    /// What it is in the configuration in force. A leader also lists removed members that it still tells of their removal.
    pub kind: MemberKind,
}

/// A group's state, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Role.
    pub role: Role,
    /// Term.
    pub term: Term,
    /// Leader, if known.
    pub leader: NodeId,
    /// Commit index.
    pub commit: LogIndex,
    /// Durable here up to.
    pub durable: LogIndex,
    /// Last index.
    pub last: LogIndex,
    /// While it campaigns: whose votes it counts, its own among them as soon as that counts.
    pub votes: Vec<NodeId>,
    /// What this member's disk lost and is not made up for yet.
    pub lost: Lost,
    /// The configuration in force.
    pub membership: Membership,
    /// Its index.
    pub membership_index: LogIndex,
    /// All other members.
    pub peers: Vec<PeerReport>,
}
