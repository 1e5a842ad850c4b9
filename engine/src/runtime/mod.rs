//! The glommio glue: one executor per core, TCP, timers, the mesh between cores, the await on the ring. Skeleton of the
//! interface that the embedding API, the Redis front door and the bench use.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use logdrive_shard::{GroupId, NodeId};

use crate::api::{Completions, CoreSettings, Error, ReadPolicy, StateMachine};
use crate::core::{CoreId, CoreStatus, GroupStatus};

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its id.
    pub node: NodeId,
    /// Where its cores are reached, `host:port`.
    pub peer: String,
    /// Where its clients are sent, `host:port` (for redirects).
    pub client: String,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The cluster; never changes.
    pub cluster: u64,
    /// This node; never changes.
    pub node: NodeId,
    /// The data directory.
    pub dir: PathBuf,
    /// Listens here for peers. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// All nodes, this one included.
    pub nodes: Vec<PeerAddress>,
    /// Groups 1 ..= groups.
    pub groups: u64,
    /// Executors of this node.
    pub cores: u16,
    /// Pin executors to CPUs from this one on; `None`: unpinned (nodes share cores).
    pub pin_from: Option<usize>,
    /// Spin so long before parking, microseconds.
    pub spin_us: u64,
    /// The directory may be new: this is the first start of this member.
    pub bootstrap: bool,
    /// Settings of every core.
    pub core: CoreSettings,
}

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
}

/// A running node.
pub struct Engine {
    _skeleton: (),
}

/// Why a node did not start. What happened, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Placeholder of the skeleton.
    #[error("not implemented")]
    Skeleton,
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
