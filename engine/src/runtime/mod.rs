//! The glommio glue: one executor per core, TCP, timers, the mesh between cores, the await on the ring. Skeleton of the
//! interface that the embedding API, the Redis front door and the bench use.

mod settings;
mod start_error;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use logdrive_shard::{GroupId, NodeId};

pub use settings::{EXIT_FATAL, Hooks, NodeSettings, PeerAddress, RuntimeSettings};
pub use start_error::{SettingsError, StartError};

use crate::api::{Completions, Error, ReadPolicy, StateMachine};
use crate::core::{CoreId, CoreStatus, GroupStatus};

/// What runs beside the groups on every core: the Redis front door, the bench's clients. Called once on each core's executor.
pub type Service = dyn Fn(CoreClient) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// The batched API of one core, for what runs on its executor (not `Send`; cheap to clone).
///
/// Requests to a group on another core of this node go through the mesh; answers come back to the same port in the order in which
/// they come about.
#[derive(Clone)]
pub struct CoreClient {
    _skeleton: std::rc::Rc<()>,
}

/// A consumer of answers on a core. Dropping it closes the port.
pub struct Port {
    _skeleton: std::rc::Rc<()>,
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl CoreClient {
    pub fn core(&self) -> CoreId {
        todo!()
    }
    pub fn node(&self) -> NodeId {
        todo!()
    }
    pub fn cores(&self) -> u16 {
        todo!()
    }
    /// The number of groups of the cluster: ids 1 ..= groups.
    pub fn groups(&self) -> u64 {
        todo!()
    }
    /// All nodes with their addresses.
    pub fn nodes(&self) -> &[PeerAddress] {
        todo!()
    }
    /// The leader of any group of this node, as last known here (shared table, no mesh round trip). `NONE` if unknown.
    pub fn leader_of(&self, group: GroupId) -> NodeId {
        todo!()
    }
    /// Counts the changes of leadership seen by this node: cached answers about leaders are valid while it stays the same.
    pub fn leadership_epoch(&self) -> u64 {
        todo!()
    }
    pub fn open_port(&self) -> Port {
        todo!()
    }
    /// Status of this node's cores (through the mesh).
    pub async fn node_status(&self) -> Vec<CoreStatus> {
        todo!()
    }
    pub async fn group_status(&self, group: GroupId) -> Result<GroupStatus, Error> {
        todo!()
    }
    /// How the connections to the other nodes are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        todo!()
    }
    /// Sleeps (so that users need not depend on the runtime's timers).
    pub async fn sleep(&self, duration: std::time::Duration) {
        todo!()
    }
    /// The engine stops: services end their connections and return.
    pub fn is_stopping(&self) -> bool {
        todo!()
    }
    /// Nanoseconds of the monotonic clock, for latency.
    pub fn now_nanos(&self) -> u64 {
        todo!()
    }
    /// Runs a task on this core's executor, at the front door's share.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Port {
    /// Queues a proposal; the answer carries `token`. Taken with this turn; never blocks; over a bound the answer is `Busy`.
    pub fn propose(&self, token: u64, group: GroupId, payload: &[u8]) {
        todo!()
    }
    /// Queues a read.
    pub fn read(&self, token: u64, group: GroupId, policy: ReadPolicy, request: &[u8]) {
        todo!()
    }
    /// Waits until there are answers and swaps them into `answers` (cleared first).
    pub async fn answers(&self, answers: &mut Completions) {
        todo!()
    }
    /// As [`Port::answers`], for a future of one's own that waits for other things too. One waiter per port.
    pub fn poll_answers(&self, context: &mut Context<'_>, answers: &mut Completions) -> Poll<()> {
        todo!()
    }
}

/// A running node.
pub struct Engine {
    _skeleton: (),
}

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

/// One group, from any thread.
#[derive(Clone)]
pub struct Group {
    _skeleton: (),
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Engine {
    /// Starts the node's cores; returns when every core has opened its log. `machine` makes the state machine of each core.
    pub fn start<M: StateMachine>(
        settings: NodeSettings,
        machine: impl Fn(CoreId) -> M + Send + Sync + 'static,
        services: Vec<Box<Service>>,
    ) -> Result<Engine, StartError> {
        todo!()
    }
    pub fn group(&self, id: GroupId) -> Result<Group, Error> {
        todo!()
    }
    /// Where peers reach this node.
    pub fn peer_address(&self) -> SocketAddr {
        todo!()
    }
    pub fn status(&self) -> Vec<CoreStatus> {
        todo!()
    }
    /// How the connections to the other nodes are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        todo!()
    }
    /// The leader of any group of this node, as last known here. `NONE` if unknown.
    pub fn leader_of(&self, group: GroupId) -> NodeId {
        todo!()
    }
    /// Hands leaders over, stops accepting, drains, closes the logs, joins the threads.
    pub fn shutdown(self) -> Result<(), crate::core::Fatal> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Group {
    /// Proposes and waits for the reply of the state machine. From any thread and async runtime.
    pub async fn propose(&self, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        todo!()
    }
    /// Proposes several at once; one answer each, in order.
    pub async fn propose_batch(&self, payloads: Vec<Vec<u8>>) -> Vec<Result<Vec<u8>, Error>> {
        todo!()
    }
    pub async fn read(&self, policy: ReadPolicy, request: Vec<u8>) -> Result<Vec<u8>, Error> {
        todo!()
    }
    pub async fn status(&self) -> Result<GroupStatus, Error> {
        todo!()
    }
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), Error> {
        todo!()
    }
}
