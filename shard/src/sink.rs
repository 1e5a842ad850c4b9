//! What a step produces. The sink is owned by the caller and shared by all its groups; a step allocates nothing.

use crate::{
    Append, AppendReply, HardState, Heartbeat, HeartbeatReply, LogIndex, NodeId, Role, Route, Term,
    TimeoutNow, VoteReply, VoteRequest,
};

/// How much of a run of entries fits into one append message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// So many entries (at least one) of so many payload bytes are at hand.
    Ready {
        /// Entries that fit.
        count: u32,
        /// Their payload bytes together.
        bytes: u32,
    },
    /// The first of them is no longer in memory, or the way is full. The caller has begun to read it and calls
    /// [`crate::Group::on_entries_loaded`] when it is there: then every peer that was told to wait is tried again.
    Loading,
}

/// Receives what a step of a group produces, in order.
///
/// The methods with a `to` are messages. **Immediate** ones may leave at once. **Parked** ones must wait until everything
/// that the caller has written to the log so far, the present step included, is durable: they vouch for it.
///
/// Which group is being stepped is known to the caller; a sink is usually a short-lived borrow of the core's
/// outboxes, log and caches that carries the slot.
pub trait Sink {
    /// Immediate. The caller attaches the payloads of entries `prev_index + 1 ..= prev_index + count`.
    fn append(&mut self, to: Route, message: Append);
    /// Immediate.
    fn heartbeat(&mut self, to: Route, message: Heartbeat);
    /// Parked if the group changed its hard state in a write that is not durable yet; the caller may simply park it always.
    fn heartbeat_reply(&mut self, to: Route, message: HeartbeatReply);
    /// Parked.
    fn append_reply(&mut self, to: Route, message: AppendReply);
    /// Parked, unless it is a pre-vote.
    fn vote_request(&mut self, to: Route, message: VoteRequest);
    /// Parked, unless it answers a pre-vote.
    fn vote_reply(&mut self, to: Route, message: VoteReply);
    /// Immediate.
    fn timeout_now(&mut self, to: Route, message: TimeoutNow);

    /// The hard state changed: write it, with the caller's batch of this turn.
    fn save_hard_state(&mut self, state: HardState);
    /// The group, now leader, appends an entry without payload (the no-op of its term) at `index`: write it.
    /// `epoch` belongs to the write: see [`crate::Group::on_durable`]. The same step goes on to ask [`Sink::fit`] for it.
    fn append_empty(&mut self, index: LogIndex, term: Term, epoch: u32);
    /// The caller is asked to call [`crate::Group::on_vote_durable`] once everything written so far is durable: the
    /// candidate then counts its own vote.
    fn own_vote_written(&mut self, term: Term);

    /// The commit index moved to `commit`. Apply up to `min(commit, durable here)`; see [`crate::Group::applicable`].
    fn committed(&mut self, commit: LogIndex);
    /// Reads that got a round at or below `round` from [`crate::Group::read_index`] may be served once `index` is applied.
    fn reads_confirmed(&mut self, round: u64, index: LogIndex);
    /// Leadership was lost: all reads waiting for a round end as `NotLeader`, all proposals that were appended and not
    /// committed end as indeterminate.
    fn leadership_lost(&mut self, new_term: Term);
    /// The role or the known leader changed.
    fn role_changed(&mut self, role: Role, leader: NodeId, term: Term);

    /// How many of this group's entries `first ..= last`, sent in this order, fit into `bytes_max`; at least one if any
    /// is at hand. Called while a step prepares an append to `to`: `Loading` also says that the way there is full, and
    /// [`crate::Group::on_entries_loaded`] is called when it has drained.
    fn fit(&mut self, to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit;

    /// The follower `to` needs entries that the log no longer has: send it a snapshot, then call
    /// [`crate::Group::on_snapshot_report`]. Asked once per attempt. By default nothing happens.
    fn snapshot_wanted(&mut self, to: NodeId, route: Route) {
        let _ = (to, route);
    }
}
