//! The roles of a member, each with the data that only it has.

use crate::LogIndex;
use crate::Role;
use crate::inflights::Ring;
use crate::lease::Lease;
use crate::progress::Progress;
use crate::quorum::{PEERS_MAX, PeerSet};
use crate::read_index::Reads;
use crate::transfer::Transfer;

/// Peers whose progress is part of the hot state. A group of more than five voters keeps the rest in the cold part.
pub(crate) const INLINE_PEERS: usize = 4;

/// What this member is, with the data that goes with it.
///
/// The tag hides in a spare value of the first peer's [`crate::progress::State`], or the group would not fit into four
/// cache lines; the assertion on its size guards that.
#[derive(Clone, Hash)]
pub(crate) enum RoleState {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

/// Follows a leader, or waits for one.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Follower {
    /// The leader was heard on its present route and since contact with it began. While that holds and contact lasts,
    /// there is no deadline.
    pub(crate) heard: bool,
}

/// Asks whether it would be elected.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct PreCandidate {
    /// Peers that would.
    pub(crate) granted: PeerSet,
}

/// Campaigns.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Candidate {
    /// Peers that voted for this node.
    pub(crate) granted: PeerSet,
    /// The own vote is durable; before that it does not count.
    pub(crate) own_vote: bool,
}

/// Leads: the part that every proposal touches.
#[derive(Clone, Hash)]
pub(crate) struct Leader {
    /// Of the first peers; the rest is in [`LeaderCold`].
    pub(crate) progress: [Progress; INLINE_PEERS],
}

/// Leads: the part that the steady path does not need. Kept between leaderships for its buffers; cleared at the start.
#[derive(Clone, Hash)]
pub(crate) struct LeaderCold {
    /// Progress of the peers that are not inline.
    pub(crate) more_progress: [Progress; PEERS_MAX - INLINE_PEERS],
    /// Messages in flight beyond two, per peer.
    pub(crate) rings: [Ring; PEERS_MAX],
    /// Rounds of ReadIndex.
    pub(crate) reads: Reads,
    /// What its lease rests on.
    pub(crate) lease: Lease,
    /// The leader transfer under way.
    pub(crate) transfer: Option<Transfer>,
    /// Payload bytes of the older part of what is uncommitted, and where that part ends: see `uncommitted.rs`.
    pub(crate) older_bytes: u32,
    pub(crate) older_end: LogIndex,
}

impl LeaderCold {
    pub(crate) fn new() -> LeaderCold {
        LeaderCold {
            more_progress: [Progress::probe(LogIndex(1)); PEERS_MAX - INLINE_PEERS],
            rings: std::array::from_fn(|_| Ring::new()),
            reads: Reads::new(),
            lease: Lease::new(),
            transfer: None,
            older_bytes: 0,
            older_end: LogIndex(0),
        }
    }
}

impl Leader {
    /// Progress of one peer, inline or not, and its ring.
    pub(crate) fn progress<'a>(
        &'a mut self,
        cold: &'a mut LeaderCold,
        peer: usize,
    ) -> (&'a mut Progress, &'a mut Ring) {
        let ring = &mut cold.rings[peer];
        match peer.checked_sub(INLINE_PEERS) {
            None => (&mut self.progress[peer], ring),
            Some(spilled) => (&mut cold.more_progress[spilled], ring),
        }
    }
}

impl RoleState {
    pub(crate) fn name(&self) -> Role {
        match self {
            RoleState::Follower(_) => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }
}

/// One-bit facts of the hot state, so that the steady path need not look at the cold one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags(u8);

impl Flags {
    /// Term or vote changed in this step and were not handed to the sink yet.
    pub(crate) const UNSAVED: Flags = Flags(1);
    /// Reads wait for the next round.
    pub(crate) const READS_WAIT: Flags = Flags(2);
    /// A round is out.
    pub(crate) const ROUND_OPEN: Flags = Flags(4);
    /// A leader transfer is under way.
    pub(crate) const TRANSFER: Flags = Flags(8);
    /// `LeaderCold::older_bytes` and `older_end` are valid.
    pub(crate) const OLDER_BYTES: Flags = Flags(16);
    /// The caller asked for the commit index to be told since it moved: who matches late is told at once.
    pub(crate) const COMMIT_FLUSHED: Flags = Flags(32);
    /// Follower: reads wait for the leader's answer, or for the next question to it.
    pub(crate) const FORWARD: Flags = Flags(64);
    /// Decisions cannot be taken by counting peers: the configuration is joint, has learners, is without this node or not
    /// committed yet, or there are peers that are no members (see `members.rs`); or this node cannot read its log (`lost.rs`).
    pub(crate) const SPECIAL: Flags = Flags(128);
    /// The disk lost something that this member had vouched for: see `lost.rs`. It has the bit of [`Flags::ROUND_OPEN`], because such a
    /// member never leads and no bit was left: ask [`crate::Group::has_losses`].
    pub(crate) const LOST: Flags = Flags(4);
    /// All that end with leadership.
    pub(crate) const LEADERSHIP: Flags = Flags(2 | 4 | 8 | 16 | 32);

    pub(crate) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }

    pub(crate) fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }

    pub(crate) fn put(&mut self, flag: Flags, on: bool) {
        if on { self.set(flag) } else { self.clear(flag) }
    }
}
