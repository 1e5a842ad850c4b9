//! The glommio glue: one executor per core, TCP, timers, the wake-ups between cores, the await on the ring. The interface that
//! embedding programs, the Redis front door and the bench use.
//!
//! - [`Engine`] starts and stops a node; [`Group`] is one group, from any thread.
//! - [`CoreClient`] and [`Port`] are the batched API of one core, for a [`Service`] that runs on its executor.
//!
//! How it is built: `thread` is the life of one core's thread, `cell` what happens in a turn, `links` the connections of a core
//! and `connect` how they come about, `inbox` what other threads bring (among it the lanes of [`crate::mesh`]), `identity` what
//! the data directory says.
//!
//! What is deliberately absent: any decision. Which messages are sent, what is written, who is answered, is the business of
//! [`crate::core`], and where a request goes that of [`crate::mesh`]; here is only what a deterministic state machine cannot have.

mod campaign;
mod cell;
mod client;
mod clock;
mod connect;
mod embedded;
mod engine;
mod fd;
mod group;
mod identity;
mod inbox;
mod links;
mod notify;
mod port;
mod reply;
mod roll;
mod session;
mod settings;
mod shared;
mod start_error;
mod tasks;
mod thread;
mod watch;

use std::future::Future;
use std::pin::Pin;

pub use client::{CoreClient, Port};
pub use engine::{Engine, GROUPS_MAX};
pub use group::Group;
pub use identity::AddNodeError;
pub use settings::{EXIT_FATAL, Hooks, NodeSettings, PeerAddress, RuntimeSettings};
pub use start_error::{SettingsError, StartError};

/// What runs beside the groups on every core: the Redis front door, the bench's clients. Called once on each core's executor.
pub type Service = dyn Fn(CoreClient) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// How the connections to another node are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeerStatus {
    /// The node.
    pub node: u32,
    /// Cores of that node, as it said in the last handshake; 0 before the first.
    pub cores: u16,
    /// Connections that are up between its cores and the cores of this node.
    pub links: u32,
    /// Why the last handshake was refused, by either side; cleared by one that succeeds.
    pub refused: Option<String>,
}

/// Counts of a node's connections since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RuntimeCounters {
    /// Connections that came in at the address for peers.
    pub connections_accepted: u64,
    /// Of those, the ones whose handshake did not end in a link: strangers, refusals, timeouts.
    pub handshakes_failed: u64,
    /// Connections closed at once because too many handshakes were under way.
    pub handshakes_over_limit: u64,
    /// Connections closed because the peer sent garbage.
    pub frames_refused: u64,
    /// Dials that did not end in a link.
    pub dials_failed: u64,
    /// Times that a link's socket was full: its frames waited.
    pub writes_blocked: u64,
    /// Times that a core over its bounds kept the links from being read.
    pub reads_paused: u64,
    /// Times that a core was not awake when it was to be, and was woken from outside: it had gone to sleep with work to do, or the
    /// machine did not let it run.
    pub executors_roused: u64,
}
