//! One Raft group.

use std::time::Duration;

use crate::{
    Append, AppendReply, Config, Heartbeat, HeartbeatReply, LogIndex, Moment, NodeId, Random, Route, Setup,
    Sink, Term, TimeoutNow, VoteReply, VoteRequest,
};

/// Voters of one group, at most.
pub const VOTERS_MAX: usize = 7;

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
    /// Of the write, for [`Group::on_durable`].
    pub epoch: u32,
}

/// Why a proposal, a read or a transfer was refused. Nothing was appended.
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
}

/// What of an append the caller has to write and keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Skip so many entries of the message (present already).
    pub skip: u32,
    /// Then write so many (0: nothing to write). The first of them **replaces** the log from its index on.
    pub take: u32,
    /// Of the write, for [`Group::on_durable`].
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
    /// In contact.
    pub alive: bool,
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
    /// All other voters.
    pub peers: Vec<PeerReport>,
}

/// One member of one Raft group.
pub struct Group {
    /// Placeholder.
    _todo: (),
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Group {
    /// A group as recovery found it. Routes are unknown and nobody is in contact: the caller reports both.
    pub fn new(now: Moment, config: &Config, random: &mut Random, setup: &Setup<'_>) -> Group {
        todo!()
    }

    // -- inputs: clients ------------------------------------------------------------------------------------------

    /// Appends `count` entries of `bytes` payload bytes together, if this node leads. The caller writes them, then calls
    /// [`Group::flush`] once per turn and group.
    pub fn propose<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        count: u32,
        bytes: u32,
    ) -> Result<Proposed, Refused> {
        todo!()
    }

    /// Registers a linearizable read and returns its round. All reads registered while a round is in flight share the
    /// next one. Confirmed through [`Sink::reads_confirmed`]. Call [`Group::flush`] before the turn ends.
    pub fn read_index<S: Sink>(&mut self, env: &mut Env<'_, S>) -> Result<u64, Refused> {
        todo!()
    }

    /// Hands leadership to `to` as soon as it has caught up; gives up after one election timeout.
    pub fn transfer_leadership<S: Sink>(&mut self, env: &mut Env<'_, S>, to: NodeId) -> Result<(), Refused> {
        todo!()
    }

    /// Campaigns now (with a pre-vote), as an operator may order.
    pub fn campaign<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        todo!()
    }

    // -- inputs: peers --------------------------------------------------------------------------------------------

    pub fn on_append<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &Append) -> Accepted {
        todo!()
    }
    pub fn on_append_reply<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &AppendReply) {
        todo!()
    }
    pub fn on_heartbeat<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &Heartbeat) {
        todo!()
    }
    pub fn on_heartbeat_reply<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        message: &HeartbeatReply,
    ) {
        todo!()
    }
    pub fn on_vote_request<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &VoteRequest) {
        todo!()
    }
    pub fn on_vote_reply<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &VoteReply) {
        todo!()
    }
    pub fn on_timeout_now<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &TimeoutNow) {
        todo!()
    }

    // -- inputs: the world ----------------------------------------------------------------------------------------

    /// The way to `peer` changed. With a way known, whatever was in flight on the old one is taken as lost: progress goes
    /// back to `Probe`, and a leader announces itself.
    pub fn on_route<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: NodeId, route: Route) {
        todo!()
    }

    /// Liveness of `peer`, from the one exchange that its core has with ours: in contact means it hears us and we hear it,
    /// its loop turns and its disk writes. While a follower is in contact with its leader it has no deadline and refuses
    /// votes; when contact ends it takes a random election deadline. A leader without contact to a quorum steps down.
    pub fn on_contact<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: NodeId, alive: bool) {
        todo!()
    }

    /// Everything this group wrote up to the write of `epoch` that ended at `last` is durable. Completions of an epoch that
    /// ended (the log was truncated since) are ignored: the truncating write's own completion covers what stayed.
    pub fn on_durable<S: Sink>(&mut self, env: &mut Env<'_, S>, epoch: u32, last: LogIndex) {
        todo!()
    }

    /// Answer to [`Sink::own_vote_written`]: the vote for itself in `term` is durable.
    pub fn on_vote_durable<S: Sink>(&mut self, env: &mut Env<'_, S>, term: Term) {
        todo!()
    }

    /// Entries that [`Sink::fit`] reported as loading are in memory.
    pub fn on_entries_loaded<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        todo!()
    }

    /// The deadline passed. May be called early or late; late calls only delay.
    pub fn on_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        todo!()
    }

    /// Sends what the turn left to send: appends to every peer whose window is open, the open read round. Once per turn
    /// for each group that was proposed to or read from.
    pub fn flush<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        todo!()
    }

    /// Tells followers the commit index if no append has told them since it moved. The caller calls it ~5 ms after
    /// [`Sink::committed`] on a leader.
    pub fn flush_commit<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        todo!()
    }

    /// The caller applied up to `index`.
    pub fn on_applied(&mut self, index: LogIndex) {
        todo!()
    }

    // -- questions ------------------------------------------------------------------------------------------------

    /// When [`Group::on_deadline`] wants to be called; [`Moment::NEVER`] for a quiet group.
    pub fn next_deadline(&self) -> Moment {
        todo!()
    }
    /// The last index that may be applied: `min(commit, durable here)`.
    pub fn applicable(&self) -> LogIndex {
        todo!()
    }
    pub fn role(&self) -> Role {
        todo!()
    }
    pub fn is_leader(&self) -> bool {
        todo!()
    }
    /// The leader, if known; this node itself if it leads.
    pub fn leader(&self) -> NodeId {
        todo!()
    }
    pub fn term(&self) -> Term {
        todo!()
    }
    pub fn commit(&self) -> LogIndex {
        todo!()
    }
    pub fn last_index(&self) -> LogIndex {
        todo!()
    }
    /// The term of the entry at `index`; `None` outside the log.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        todo!()
    }
    /// Lowest index that some voter is not known to have (leader), for the caller's entry cache.
    pub fn needed_from(&self) -> LogIndex {
        todo!()
    }
    /// Whether this node leads, is in contact with `peer` and knows its log to be equal up to the commit index at least: it
    /// could take over at once. For balancing leaders; cheap.
    pub fn peer_caught_up(&self, peer: NodeId) -> bool {
        todo!()
    }
    /// The peer's leader transfer for `timeout`-bound callers: whether one is under way.
    pub fn transferring(&self) -> Option<NodeId> {
        todo!()
    }
    pub fn report(&self) -> Report {
        todo!()
    }
}

/// So that the skeleton names every type of the interface.
#[allow(dead_code)]
type Unused = Duration;
