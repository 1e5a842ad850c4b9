//! A running node, as the program that embeds it holds it.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use logdrive_shard::{GroupId, NodeId, VOTERS_MAX};

use crate::api::{Error, StateMachine};
use crate::core::{CoreId, CoreOptions, CoreStatus, Fatal};

use super::connect::Connector;
use super::group::Group;
use super::identity::{self, AddNodeError, Keeper, Opened};
use super::inbox::Item;
use super::reply::{Reply, Waiting, reply};
use super::settings::{NodeSettings, PeerAddress};
use super::shared::Node;
use super::start_error::{SettingsError, StartError};
use super::thread::{self, CoreStart};
use super::watch::Watch;
use super::{PeerStatus, RuntimeCounters, Service};

/// Groups of one cluster, at most: what one handshake can list for one core.
pub const GROUPS_MAX: u64 = crate::wire::handshake::HELLO_GROUPS_MAX as u64;

/// A running node. Dropped without [`Engine::shutdown`], it stops at once, as if the process had crashed.
pub struct Engine {
    node: Arc<Node>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
    _watch: Watch,
    /// Dropped last: it holds the lock of the directory.
    _keeper: Keeper,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("node", &self.node.settings.node)
            .field("address", &self.address)
            .finish()
    }
}

impl Engine {
    /// Starts the node's cores; returns when every core has opened its log. `machine` makes the state machine of each core, on
    /// its thread; every service is called once on every core.
    ///
    /// A panic on a core's thread (the state machine's included) ends the process.
    pub fn start<M: StateMachine>(
        settings: NodeSettings,
        machine: impl Fn(CoreId) -> M + Send + Sync + 'static,
        services: Vec<Box<Service>>,
    ) -> Result<Engine, StartError> {
        check(&settings)?;
        check_memlock(&settings)?;
        let Opened { identity, memory, keeper, places, mut groups, dirs, roll } = identity::open(&settings)?;
        let listener = listen(&settings)?;
        let address =
            listener.local_addr().map_err(|error| StartError::Listen { address: settings.listen, error })?;
        let node = Arc::new(Node::new(settings, places, roll));
        let connector = Arc::new(Connector::new(memory));
        let (services, machine) = (Arc::new(services), Arc::new(machine));
        let mut listener = Some(listener);
        let mut starting = Starting::new(node.clone());
        for (core, dirs) in (0..node.settings.cores).zip(dirs) {
            let options = CoreOptions {
                node: node.settings.node,
                core: CoreId(core),
                cluster: node.settings.cluster,
                boot: identity.boot,
                seed: identity::random(u64::from(core)),
                groups: std::mem::take(&mut groups[usize::from(core)]),
                settings: node.settings.core.clone(),
            };
            let (go_sender, go) = channel();
            let start = CoreStart {
                node: node.clone(),
                connector: connector.clone(),
                id: CoreId(core),
                options,
                dirs,
                services: services.clone(),
                listener: listener.take(),
                opened: starting.opened_sender.clone(),
                go,
            };
            let machine = machine.clone();
            starting.spawn(core, go_sender, move || thread::run(start, |id| machine(id)))?;
        }
        let watch = Watch::start(node.clone()).map_err(|error| StartError::Executor { core: 0, error })?;
        let threads = starting.finish()?;
        Ok(Engine { node, address, threads, _keeper: keeper, _watch: watch })
    }

    /// A handle to a group, from any thread.
    pub fn group(&self, id: GroupId) -> Result<Group, Error> {
        Group::new(self.node.clone(), id)
    }

    /// Where peers reach this node.
    pub fn peer_address(&self) -> SocketAddr {
        self.address
    }

    /// Counts of the cores, by core. Blocks until they answer; not on an executor's thread (see
    /// [`super::CoreClient::node_status`]). Cores that ended are left out.
    pub fn status(&self) -> Vec<CoreStatus> {
        self.ask_all(Item::Status).into_iter().flatten().filter_map(Waiting::wait).collect()
    }

    /// Moves all leaders off this node and keeps them off, or with `false` lets them come back; as
    /// [`super::CoreClient::drain`]. Blocks until the cores know; not on an executor's thread.
    pub fn drain(&self, draining: bool) {
        for waiting in self.ask_all(|reply| Item::Drain(draining, reply)).into_iter().flatten() {
            waiting.wait();
        }
    }

    /// Makes a node known to this one, durably: its connections are accepted from now on, and it is dialled. A node that is known
    /// already gets this address. Every node of the cluster has to be told. Blocks; not on an executor's thread.
    pub fn add_node(&self, node: PeerAddress) -> Result<(), AddNodeError> {
        let (sender, waiting) = reply();
        let item = Item::AddNode(node, sender);
        self.node.inboxes[0].put(item).map_err(|_| AddNodeError::Stopped)?;
        waiting.wait().unwrap_or(Err(AddNodeError::Stopped))
    }

    /// How the connections to the other nodes are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.node.peer_status()
    }

    /// Counts of the node's connections.
    pub fn counters(&self) -> RuntimeCounters {
        self.node.counters()
    }

    /// The leader of any group of this node, as last known here. `NONE` if unknown.
    pub fn leader_of(&self, group: GroupId) -> NodeId {
        self.node.leader_of(group)
    }

    /// Counts the changes of leadership seen by this node.
    pub fn leadership_epoch(&self) -> u64 {
        self.node.leadership_epoch()
    }

    /// Why the node's cores ended by themselves, if they did (see [`super::Hooks::on_fatal`]).
    pub fn failure(&self) -> Option<Fatal> {
        self.node.fatal()
    }

    /// Hands leaders over, tells services to stop, answers what is under way, closes the logs, joins the threads. Each step takes
    /// no longer than its bound in [`super::RuntimeSettings`]. Not on an executor's thread.
    pub fn shutdown(mut self) -> Result<(), Fatal> {
        for waiting in self.ask_all(Item::HandOver).into_iter().flatten() {
            waiting.wait();
        }
        for waiting in self.ask_all(Item::StopServices).into_iter().flatten() {
            waiting.wait();
        }
        let closing = self.ask_all(Item::Close);
        let mut result = self.node.fatal().map_or(Ok(()), Err);
        for waiting in closing.into_iter().flatten() {
            if let Some(Err(fatal)) = waiting.wait() {
                result = result.and(Err(fatal));
            }
        }
        self.join();
        result
    }

    fn ask_all<T>(&self, item: impl Fn(Reply<T>) -> Item) -> Vec<Option<Waiting<T>>> {
        let ask = |inbox: &super::inbox::Inbox| {
            let (sender, waiting) = reply();
            inbox.put(item(sender)).is_ok().then_some(waiting)
        };
        self.node.inboxes.iter().map(ask).collect()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic on a core's thread aborts the process: there is none to report here.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        abandon(&self.node);
        self.join();
    }
}

fn abandon(node: &Node) {
    for inbox in &node.inboxes {
        // A core that ended already has nothing to abandon.
        let _ = inbox.put(Item::Abandon);
    }
}

/// Threads that are opening their cores. Dropped half-way, all of them end.
struct Starting {
    node: Arc<Node>,
    opened_sender: Sender<Result<(), StartError>>,
    opened: Receiver<Result<(), StartError>>,
    go: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Starting {
    fn new(node: Arc<Node>) -> Starting {
        let (opened_sender, opened) = channel();
        Starting { node, opened_sender, opened, go: Vec::new(), threads: Vec::new() }
    }

    fn spawn(
        &mut self,
        core: u16,
        go: Sender<()>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let name = format!("logdrive-{}-{core}", self.node.settings.node);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|error| StartError::Executor { core, error })?;
        self.threads.push(thread);
        self.go.push(go);
        Ok(())
    }

    /// Waits until all cores are open, then lets them run.
    fn finish(mut self) -> Result<Vec<JoinHandle<()>>, StartError> {
        for _ in 0..self.threads.len() {
            // Every thread answers once before it ends.
            if let Ok(Err(error)) = self.opened.recv() {
                return Err(error);
            }
        }
        for go in self.go.drain(..) {
            // A thread waits for this.
            let _ = go.send(());
        }
        Ok(std::mem::take(&mut self.threads))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // Those that wait for the word to go see that it will not come.
        self.go.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn check(settings: &NodeSettings) -> Result<(), SettingsError> {
    if settings.node == NodeId::NONE || settings.nodes.iter().any(|n| n.node == NodeId::NONE) {
        return Err(SettingsError::NodeZero);
    }
    if settings.cluster == 0 {
        return Err(SettingsError::ClusterZero);
    }
    if !settings.nodes.iter().any(|n| n.node == settings.node) {
        return Err(SettingsError::SelfMissing { node: settings.node });
    }
    let mut ids: Vec<NodeId> = settings.nodes.iter().map(|n| n.node).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(SettingsError::DuplicateNode { node: twice[0] });
    }
    if ids.len() > VOTERS_MAX {
        return Err(SettingsError::TooManyNodes { nodes: ids.len(), max: VOTERS_MAX });
    }
    if settings.cores == 0 {
        return Err(SettingsError::NoCores);
    }
    if !(1..=GROUPS_MAX).contains(&settings.groups) {
        return Err(SettingsError::Groups { groups: settings.groups, max: GROUPS_MAX });
    }
    if let Some(first) = settings.pin_from {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if first + usize::from(settings.cores) > cpus {
            return Err(SettingsError::Pinning { first, cores: settings.cores, cpus });
        }
    }
    Ok(())
}

/// Under this limit glommio makes no executor.
const MEMLOCK_MIN: u64 = 512 << 10;

fn check_memlock(settings: &NodeSettings) -> Result<(), StartError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let Some(limit) = limit else { return Ok(()) };
    // Each executor registers its memory with three rings; the log's ring registers buffers of its own.
    let ring = logdrive_wal::RingOptions::default();
    let log = u64::from(ring.buffers) * u64::from(ring.buffer_bytes);
    let needed = u64::from(settings.cores) * (3 * settings.runtime.io_memory_bytes as u64 + log);
    if limit < MEMLOCK_MIN {
        return Err(StartError::Memlock { limit, needed: needed.max(MEMLOCK_MIN) });
    }
    if limit < needed && !rustix::process::geteuid().is_root() {
        tracing::warn!(
            limit,
            needed,
            "the limit on locked memory is low: buffers are not registered, I/O costs more CPU; raise it with `ulimit -l`"
        );
    }
    Ok(())
}

/// How long an address may stay in use: the kernel needs a moment to end the operations of an engine that just stopped here.
const LISTEN_PATIENCE: Duration = Duration::from_secs(1);
const LISTEN_RETRY: Duration = Duration::from_millis(20);

fn listen(settings: &NodeSettings) -> Result<TcpListener, StartError> {
    let mut tries = LISTEN_PATIENCE.as_millis() / LISTEN_RETRY.as_millis();
    let listener = loop {
        let bound = match &settings.listener {
            Some(listener) => listener.try_clone(),
            None => TcpListener::bind(settings.listen),
        };
        match bound {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries > 0 => {
                tries -= 1;
                std::thread::sleep(LISTEN_RETRY);
            }
            bound => break bound,
        }
    };
    let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|error| StartError::Listen { address: settings.listen, error })
}
