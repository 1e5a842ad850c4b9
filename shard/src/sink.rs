//! What a step produces. The sink is owned by the caller and shared by all its groups; a step allocates nothing.

use crate::{
    Append, AppendReply, HardState, Heartbeat, HeartbeatReply, LogIndex, Membership, Moment, NodeId,
    ReadIndexReply, ReadIndexRequest, Role, Route, SnapshotWanted, Support, Term, TermQuery, TermReport,
    TimeoutNow, TransferEnd, VoteReply, VoteRequest,
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

/// Places where a group may be made to do less at a time than it could, or sooner than it would: see [`Sink::strikes`].
pub(crate) mod places {
    /// A window of several messages is taken for full with one.
    pub(crate) const WINDOW_OF_ONE: &str = "replication windows of one";
    /// An append carries one entry.
    pub(crate) const APPEND_OF_ONE: &str = "appends of one entry";
    /// An election timeout is much shorter than the shortest.
    pub(crate) const EARLY_ELECTION: &str = "early election timeouts";
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

    /// Immediate. By default it is lost, as on a lossy network: then a member in doubt stays so.
    fn term_query(&mut self, to: Route, message: TermQuery) {
        let _ = (to, message);
    }
    /// Parked. By default it is lost.
    fn term_report(&mut self, to: Route, message: TermReport) {
        let _ = (to, message);
    }

    /// Immediate. By default it is lost, as on a lossy network: then reads on followers end with their leader.
    fn read_index_request(&mut self, to: Route, message: ReadIndexRequest) {
        let _ = (to, message);
    }
    /// Immediate: what it names is committed by a quorum. By default it is lost.
    fn read_index_reply(&mut self, to: Route, message: ReadIndexReply) {
        let _ = (to, message);
    }

    /// The hard state changed: write it, with the caller's batch of this turn.
    fn save_hard_state(&mut self, state: HardState);
    /// The group, now leader, appends an entry without payload (the no-op of its term) at `index`: write it.
    /// `epoch` belongs to the write: see [`crate::Group::on_durable`]. The same step goes on to ask [`Sink::fit`] for it.
    fn append_empty(&mut self, index: LogIndex, term: Term, epoch: u32);
    /// The group, leading, appends a configuration at `index`: write it as an entry of its own kind with the payload
    /// [`Membership::encode`], like [`Sink::append_empty`]. It happens in [`crate::Group::change_membership`], and on the
    /// leader's own account when a joint configuration is left.
    fn append_membership(&mut self, index: LogIndex, term: Term, epoch: u32, membership: &Membership);
    /// The caller is asked to call [`crate::Group::on_vote_durable`] once everything written so far is durable: the
    /// candidate then counts its own vote.
    fn own_vote_written(&mut self, term: Term);

    /// The commit index moved to `commit`. Apply up to `min(commit, durable here)`; see [`crate::Group::applicable`].
    fn committed(&mut self, commit: LogIndex);
    /// Reads that got a round at or below `round` from [`crate::Group::read_index`] or [`crate::Group::forward_read`] may be
    /// served once `index` is applied.
    fn reads_confirmed(&mut self, round: u64, index: LogIndex);
    /// Leadership was lost: all reads waiting for a round end as `NotLeader`, all proposals that were appended and not
    /// committed end as indeterminate.
    fn leadership_lost(&mut self, new_term: Term);
    /// A follower lost its leader: all reads waiting since [`crate::Group::forward_read`] end as `NotLeader`. By default nothing
    /// happens.
    fn forwarded_reads_lost(&mut self) {}
    /// A leader transfer to `to` that [`crate::Group::transfer_leadership`] accepted ended; told exactly once for each, unless
    /// the process ends. By default nothing happens.
    fn transfer_ended(&mut self, to: NodeId, end: TransferEnd) {
        let _ = (to, end);
    }
    /// Whether [`crate::Group::transfer_to_best`] may choose `node`, which is in contact: one that is about to stop gives away
    /// what it is given. By default it may.
    fn takes_leadership(&mut self, node: NodeId) -> bool {
        let _ = node;
        true
    }
    /// The role or the known leader changed.
    fn role_changed(&mut self, role: Role, leader: NodeId, term: Term);

    /// Leader: the youngest answer of the peer's core to a pulse of this core, on the present connection; `None` without one.
    /// By default there is none, and hence no lease.
    fn support(&mut self, from: Route) -> Option<Support> {
        let _ = from;
        None
    }
    /// Follower: until when the promise lasts that this core made to cores of `to` with its answers to their pulses: the youngest
    /// pulse heard that was answered or will be with the present epoch, plus the election base that the answers name. Outlives
    /// connections. By default no answer promises anything.
    fn promised(&mut self, to: NodeId) -> Moment {
        let _ = to;
        Moment(0)
    }
    /// Follower: the group leaves its leader on `from`: answers to pulses of that node's cores that are built from now on bear a
    /// later epoch of support.
    fn withdraw_support(&mut self, from: NodeId) {
        let _ = from;
    }

    /// How many of this group's entries `first ..= last`, sent in this order, fit into `bytes_max`; at least one if any
    /// is at hand. Called while a step prepares an append to `to`: `Loading` also says that the way there is full, and
    /// [`crate::Group::on_entries_loaded`] is called when it has drained.
    fn fit(&mut self, to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit;

    /// Another configuration is in force: it was appended here, or a later one was cut off. `index` is that of its entry. The
    /// caller calls [`crate::Group::on_route`] and [`crate::Group::on_contact`], in this order, for each member that it has
    /// a way to; calls that say nothing new do no harm. By default nothing happens.
    fn members_changed(&mut self, index: LogIndex, membership: &Membership) {
        let _ = (index, membership);
    }

    /// The follower `to` needs entries that the log no longer has: send it a snapshot, and tell
    /// [`crate::Group::on_snapshot_report`] how that goes. Asked once per attempt; a caller that is asked again while it is at it goes
    /// on, if what it sends is still enough. By default nothing happens.
    fn snapshot_wanted(&mut self, to: NodeId, route: Route, wanted: SnapshotWanted) {
        let _ = (to, route, wanted);
    }
    /// What [`Sink::snapshot_wanted`] asked for has arrived, or is not needed any more: `to` has what it needs. By default nothing happens.
    fn snapshot_unneeded(&mut self, to: NodeId) {
        let _ = to;
    }

    /// For simulators: whether a place is to do its worst this time: to do less at once than it could, or sooner than it would. What
    /// strikes is always something that settings or load could bring about as well. By default never, known at compile time.
    #[inline(always)]
    fn strikes(&mut self, place: &'static str) -> bool {
        let _ = place;
        false
    }
}
