//! What cores of different nodes say to each other.
//!
//! - [`frame`]: the frame, one per link and turn, that carries the messages of all groups two cores share.
//! - [`handshake`]: what is said before the first frame; [`boots`]: how the boots of a node are told apart.

pub mod boots;
pub(crate) mod bytes;
pub mod frame;
pub mod handshake;
mod records;
mod snapshots;
mod view;

pub use boots::{BOOT_NAMES_MAX, BootName, BootNames};
pub use frame::{Address, EntryKind, FRAME_BYTES_MAX, FrameBuilder, HEADER_LEN, Pulse};
pub use handshake::{
    HANDSHAKE_HEADER_LEN, HELLO_BYTES_MAX, HELLO_GROUPS_MAX, Handshake, HandshakeError, Hello, Reject,
    Remembered, Versions, handshake_len,
};
pub use snapshots::{
    PART_BYTES_MAX, RelayWord, SnapshotAnswer, SnapshotOffer, SnapshotPart, SnapshotRelay, SnapshotVerdict,
};
pub use view::{AppendReplies, Appends, Entries, FrameView, frame_len};

use logdrive_shard::{GroupId, NodeId};

use crate::core::CoreId;

/// Lowest version of frames that this build speaks.
///
/// A version stands for the arrays of a frame and for every word in them: what a build could not read, or would close the connection
/// for, is a new version, and is said only to a peer that speaks it. `Hello` and `Reject` have no version and grow at their end.
/// Frames of version 1 had no snapshots in them; their arrays are others, and they are not read any more.
pub const VERSION_MIN: u16 = 2;
/// Highest version of frames that this build speaks.
pub const VERSION_MAX: u16 = 2;

/// What one core tells another when they connect, beside the identity exchange: boot and the groups they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The sender.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
    /// Its boot counter.
    pub boot: u64,
    /// Every group the sender hosts on that core of which the receiver is a voter: id, the sender's slot, history id.
    pub groups: Vec<HelloGroup>,
}

/// A group in a [`PeerHello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloGroup {
    /// The group.
    pub id: GroupId,
    /// The sender's slot.
    pub slot: u32,
    /// History id: differs when a group of the same id was created anew.
    pub history: u32,
}

/// Why bytes of a peer were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not the start of a frame.
    #[error("bad magic {found:#010x}: not a logdrive frame")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// Longer than the limit.
    #[error("a frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Announced length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// A version outside the negotiated range.
    #[error("frame version {found}, expected {expected}")]
    Version {
        /// Found.
        found: u16,
        /// Negotiated.
        expected: u16,
    },
    /// Checksum mismatch.
    #[error("frame checksum {found:#010x}, expected {expected:#010x}")]
    Crc {
        /// Computed.
        found: u32,
        /// Stored.
        expected: u32,
    },
    /// The archive does not validate, or its arrays do not fit each other.
    #[error("frame body is malformed: {what}")]
    Malformed {
        /// Which check failed.
        what: &'static str,
    },
}
