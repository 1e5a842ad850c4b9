//! A node's data directory: who it is, which core holds which group, what it remembers of its peers.
//!
//! ```text
//! identity    cluster, node, incarnation, boot counter, names of the last boots
//! placement   the core of every group
//! nodes       who founded the groups; nodes that were added since
//! peers       of every peer node: incarnation, boot and its name, durable ends of its logs
//! core-N/     the log of core N (not this module's)
//! ```
//!
//! Order of calls at the start of a node: [`DirectoryLock::acquire`], then [`NodeDirectory::open`], which bootstraps an empty directory or
//! checks an existing one and counts the boot durably, and only then the cores' logs. In the handshake
//! ([`crate::wire::handshake`]): [`judge`] a peer's `Hello`, [`PeersMemory::remember`] it, [`NodeDirectory::save_peers`] if that says so,
//! and only then accept.
//!
//! All files are written whole under another name, synced, renamed, and the directory is synced: a crash leaves the old
//! or the new one. Each has a magic, a version, a length and a checksum; a damaged or newer one is refused, never guessed at.
//!
//! Deliberately absent: entropy (the incarnation of a new directory and the name of a boot are arguments) and clocks.

mod directory;
mod error;
mod files;
mod lock;
mod peers;
mod placement;
mod roster;
mod rules;

pub use directory::{Identity, NodeDirectory, Start};
pub use error::NodeError;
pub use lock::{DirectoryLock, has_subdirectories};
pub use peers::{PeerMemory, PeersMemory, Remember};
pub use placement::Placement;
pub use roster::{ADDED_MAX, Roster};
pub use rules::{Accepted, Own, judge};
