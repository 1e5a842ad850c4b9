//! Settings shared by all groups of a core, and the state a group starts from.

use std::time::Duration;

use crate::{LogIndex, Lost, Membership, NodeId, Term};

/// Timing and limits. One per core, borrowed by every step.
#[derive(Clone, Debug)]
pub struct Config {
    /// Election timeout: `election_base + random(0, election_spread)`, times 1.5 for each failed campaign, capped at 8 x.
    pub election_base: Duration,
    /// The random part.
    pub election_spread: Duration,
    /// How often a leader repeats what got no answer (probes, unacknowledged appends, open read rounds).
    pub heartbeat_interval: Duration,
    /// Ask before campaigning.
    pub pre_vote: bool,
    /// A leader without contact to a quorum steps down; followers in contact with their leader refuse votes.
    pub check_quorum: bool,
    /// The most by which the clocks of two nodes may differ in speed, in thousandths. A lease is so much shorter than the
    /// election base. At 1000 this node neither relies on leases nor promises any.
    pub clock_drift_permille: u16,
    /// Payload bytes of one append message (at least one entry is sent whatever its size).
    pub append_bytes_max: u32,
    /// Appends in flight to one peer of one group.
    pub inflight_messages_max: u16,
    /// Payload bytes in flight to one peer of one group.
    pub inflight_bytes_max: u32,
    /// Entries proposed and not committed, per group; beyond it proposals are `Busy`.
    pub uncommitted_entries_max: u32,
    /// Payload bytes proposed and not committed, per group; a proposal is let in while the sum is below.
    pub uncommitted_bytes_max: u32,
    /// A node may become a voter when it is known to lack at most so many entries.
    pub promotion_lag_max: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            election_base: Duration::from_secs(1),
            election_spread: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            pre_vote: true,
            check_quorum: true,
            clock_drift_permille: 50,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 8 << 20,
            uncommitted_entries_max: 16_384,
            uncommitted_bytes_max: 16 << 20,
            promotion_lag_max: 1_000,
        }
    }
}

/// What must be durable before a message that depends on it leaves (Raft paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Candidate voted for in `term`, or nobody.
    pub vote: NodeId,
    /// A commit index known at the time of writing; may lag, never ahead.
    pub commit: LogIndex,
    /// What the member's disk lost of all this, and is not made up for yet. Set by whoever opens a damaged log, **written before**
    /// the group takes its first step; the group clears it.
    pub lost: Lost,
}

/// The log as recovery found it: `first ..= last` is readable, terms by run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// First index in the log; `last + 1` if the log is empty. 1 for a new group.
    pub first: LogIndex,
    /// Last index in the log; `first - 1` if empty.
    pub last: LogIndex,
    /// Term of the entry at `first - 1` (from the snapshot; 0 for a new group; see [`crate::Start::join`] for when it is not known).
    pub prev_term: Term,
    /// `(first index of the run, term)`, ascending in both; covers `first ..= last`.
    pub term_runs: Vec<(LogIndex, Term)>,
}

/// What a group is created from.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// This node.
    pub me: NodeId,
    /// The configurations, each with its index, ascending: first the one in force where the log begins (of the snapshot, or the
    /// founding one, whose index is 0), then those that were found in the log. None: this node was told to host the
    /// group and has not heard of it yet; it waits for a leader that does.
    pub memberships: &'a [(LogIndex, Membership)],
    /// Recovered, or default.
    pub hard_state: HardState,
    /// Recovered, or empty with `first = 1`.
    pub log: &'a LogState,
    /// Entries up to here are applied already. At least `log.first - 1`.
    pub applied: LogIndex,
    /// The group has never run on this node: no lease granted by an earlier life can still be in force.
    pub fresh: bool,
    /// The node that should lead when all are equal; it campaigns at once, others give it a head start. `NONE`: no preference.
    pub preferred_leader: NodeId,
    /// How much each node is wanted as the leader; 0 for those not named. A member campaigns one election base later for each
    /// voter in contact that is wanted more (three at most), so it still does when those fail.
    pub priorities: &'a [(NodeId, u8)],
}

impl Default for Setup<'_> {
    /// Of nobody, with an empty log.
    fn default() -> Self {
        static EMPTY: LogState =
            LogState { first: LogIndex(1), last: LogIndex(0), prev_term: Term(0), term_runs: Vec::new() };
        Setup {
            me: NodeId::NONE,
            memberships: &[],
            hard_state: HardState::default(),
            log: &EMPTY,
            applied: LogIndex(0),
            fresh: false,
            preferred_leader: NodeId::NONE,
            priorities: &[],
        }
    }
}
