//! What members of a group say to each other: one type per message, no payloads.
//!
//! The caller adds the addressing (the receiver's slot, the group's history id) and, for [`Append`], the
//! payloads of the entries. `from` is handed to the receiving group beside the message.

use crate::{LogIndex, NodeId, Term};

/// AppendEntries (Raft paper, 5.3): `count` entries, all of term `entry_term`, after `prev_index`.
///
/// A run of entries that spans terms is sent as several messages, so that one term describes all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first one carried.
    pub prev_index: LogIndex,
    /// The term of that entry.
    pub prev_term: Term,
    /// The term of every entry carried. Equal to `term` if `count` is 0.
    pub entry_term: Term,
    /// How many entries follow; 0 asks only whether `prev_index` matches (a probe).
    pub count: u32,
    /// The leader's commit index. The receiver commits to `min(commit, prev_index + count)`: what it matched here.
    pub commit: LogIndex,
}

/// The answer to [`Append`]. Sent only when everything it vouches for is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendReply {
    /// The follower's term.
    pub term: Term,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// The log equals the leader's up to here, durably: `prev_index + count` of the append that is answered, never the
    /// follower's own last index.
    Matched(LogIndex),
    /// `prev_index` did not match.
    Rejected {
        /// The `prev_index` that was refused.
        prev_index: LogIndex,
        /// The follower's best guess: the last index, at most `prev_index`, whose term is at most the leader's `prev_term`.
        hint_index: LogIndex,
        /// The follower's term at `hint_index`.
        hint_term: Term,
    },
}

/// Leader to follower: "I lead this term", a commit index, and a round of ReadIndex to confirm (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// `min(commit, matched of this follower)`: safe to commit to without a log check.
    pub commit: LogIndex,
    /// Round of leadership confirmation, returned in the reply. 0 if none is wanted: then no reply is sent unless
    /// the follower's term is higher.
    pub round: u64,
}

/// The answer to [`Heartbeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeartbeatReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the heartbeat that is answered.
    pub round: u64,
}

/// Follower to leader: which index is confirmed from now on? (Dissertation, 6.4: reads on followers.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadIndexRequest {
    /// The follower's term.
    pub term: Term,
    /// Returned with the answer. Never used twice by one member, not even after a restart.
    pub id: u64,
}

/// The answer to [`ReadIndexRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadIndexReply {
    /// The sender's term.
    pub term: Term,
    /// Of the question.
    pub id: u64,
    /// The leader's commit index at the start of a round that began after the question came, and was confirmed. `None`: the
    /// sender does not lead.
    pub index: Option<LogIndex>,
}

/// RequestVote, or its rehearsal: PreVote (dissertation, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// Whether this only asks if a vote would be given. Then `term` is the term the candidate *would* campaign in.
    pub pre_vote: bool,
    /// The campaign was ordered by the leader (TimeoutNow): stickiness does not apply.
    pub transfer: bool,
    /// The candidate's term (for a pre-vote: one more).
    pub term: Term,
    /// The candidate's last index.
    pub last_index: LogIndex,
    /// The term of that entry.
    pub last_term: Term,
}

/// The answer to [`VoteRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteReply {
    /// Whether this answers a pre-vote.
    pub pre_vote: bool,
    /// Granted or refused.
    pub granted: bool,
    /// If granted, the term of the request; otherwise the voter's own term.
    pub term: Term,
}

/// A member whose hard state is in doubt asks for the receiver's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TermQuery {
    /// The term that the sender knows of.
    pub term: Term,
}

/// The answer to [`TermQuery`], from members whose disks lost nothing. Sent only when the term is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermReport {
    /// The sender's term.
    pub term: Term,
    /// Who takes part in decisions by the sender's configuration in force: they are to be asked as well.
    pub voters: Vec<NodeId>,
}

/// The leader orders its successor to campaign at once (dissertation, 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
}
