//! What two cores say to each other about a snapshot that one of them sends.
//!
//! The **offer** carries the header of the file; it asks the receiver where it is, so it is also what is said after a reconnect and when
//! nothing was heard for a while. The **answer** tells the first byte that is missing. **Parts** of chunks follow. All three name the
//! snapshot and the term of the leader on whose behalf it is sent: what belongs to another snapshot, or to a leader of the past, is
//! refused.

use logdrive_shard::{LogIndex, NodeId, Term};

use crate::snapshot::{HEADER_BYTES, SnapshotId};

/// Bytes of a part of a chunk, at most.
pub const PART_BYTES_MAX: u32 = 64 << 10;
/// Chunks are not longer than this, so no offset in one is.
pub(super) const OFFSET_MAX: u32 = 16 << 20;
/// Bytes of the header in an offer, at most.
pub(super) const OFFER_BYTES_MAX: u32 = HEADER_BYTES as u32;

/// A leader offers a snapshot, or asks how far the receiver is with it. The file's header comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The leader's term.
    pub term: Term,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Counts the offers of a transfer: the answer repeats it, so that an old one is not taken for that to a new one. The top bit says
    /// that the sender is not the leader, but sends on its behalf.
    pub attempt: u32,
}

impl SnapshotOffer {
    /// Set in `attempt` if it is sent on the leader's behalf.
    pub const ON_BEHALF: u32 = 1 << 31;

    /// Whether the sender is not the leader.
    pub fn is_on_behalf(&self) -> bool {
        self.attempt & SnapshotOffer::ON_BEHALF != 0
    }
}

/// A leader has a follower send a snapshot in its place, and what that says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRelay {
    /// The leader's term.
    pub term: Term,
    /// Who needs it.
    pub to: NodeId,
    /// What it must stand for at least.
    pub at_least: LogIndex,
    /// What is said.
    pub word: RelayWord,
}

/// What a leader and a follower say about a snapshot that the follower sends. In a frame they have the form of an answer with these
/// numbers for a verdict; `next` is the index then, and `window` the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RelayWord {
    /// The leader: send it.
    Send = 16,
    /// The follower: it goes on.
    Going = 17,
    /// The follower: it is with the receiver.
    Done = 18,
    /// The follower: it has none, no place for it, or it came to nothing.
    Failed = 19,
}

impl RelayWord {
    pub(super) fn from_number(number: u32) -> Option<RelayWord> {
        use RelayWord::{Done, Failed, Going, Send};
        [Send, Going, Done, Failed].into_iter().find(|word| *word as u32 == number)
    }
}

/// A part of a chunk. Its bytes come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The leader's term.
    pub term: Term,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The chunk.
    pub number: u64,
    /// Where in the chunk.
    pub offset: u32,
}

/// What a receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SnapshotVerdict {
    /// Go on with the first byte that is missing.
    Going = 0,
    /// All of it is here and is being checked or installed.
    Here = 1,
    /// The log here is as far, or the term is over.
    Unneeded = 2,
    /// As much as may be is being received: ask again.
    Busy = 3,
    /// There is no room for it.
    NoRoom = 4,
    /// It cannot be received: its header makes no sense here, or what was received was not good.
    Failed = 5,
    /// Nothing is known of it: it must be offered (again).
    Unknown = 6,
    /// It was here, complete, and the state machine could make nothing of it.
    Refused = 7,
}

impl SnapshotVerdict {
    pub(super) fn from_number(number: u32) -> Option<SnapshotVerdict> {
        use SnapshotVerdict::{Busy, Failed, Going, Here, NoRoom, Refused, Unknown, Unneeded};
        let all = [Going, Here, Unneeded, Busy, NoRoom, Failed, Unknown, Refused];
        all.into_iter().find(|v| *v as u32 == number)
    }
}

/// How far a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAnswer {
    /// The term that the offer or the part named.
    pub term: Term,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Of the last offer that came.
    pub attempt: u32,
    /// What to do.
    pub verdict: SnapshotVerdict,
    /// The first chunk that is missing, or only partly here.
    pub next: u64,
    /// Bytes of that chunk that are here.
    pub offset: u32,
    /// Bytes behind that place that the receiver has room for.
    pub window: u32,
}
