//! The node's identity, between its data directory and its handshakes.
//!
//! The directory's files are written through a ring, which belongs to one thread, and writing blocks: a thread of its own does
//! it, the keeper. What is remembered of the peers lives in memory for all cores; the keeper writes it down when told to, and
//! once a second if it changed.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use logdrive_shard::NodeId;
use logdrive_wal::{RingDisk, RingOptions};

use crate::api::CoreSettings;
use crate::core::{CoreId, Disks, GroupSetup, Slot};
use crate::node::{
    ADDED_MAX, DirectoryLock, Identity, NodeDirectory, NodeError, Own, PeersMemory, Placement, Remember,
    Roster, Start, has_subdirectories, judge,
};
use crate::wire::{BootName, Hello, Reject, Versions};

use super::reply::{Reply, reply};
use super::roll::Roll;
use super::settings::{NodeSettings, PeerAddress};
use super::shared::Place;
use super::start_error::StartError;

/// What the data directory says.
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) memory: Memory,
    pub(crate) keeper: Keeper,
    /// By group id, from 1 on.
    pub(crate) places: Vec<Option<Place>>,
    /// By core, by slot.
    pub(crate) groups: Vec<Vec<GroupSetup>>,
    /// By core.
    pub(crate) dirs: Vec<Disks<PathBuf>>,
    pub(crate) roll: Arc<Roll>,
}

/// A number that nobody can foresee, from the randomness that the standard library takes from the system.
pub(crate) fn random(salt: u64) -> u64 {
    RandomState::new().hash_one(salt)
}

/// Locks and opens the data directory (or makes it, at a first start), and counts this boot. Blocks.
pub(crate) fn open(settings: &NodeSettings) -> Result<Opened, StartError> {
    let peers = Arc::new(Peers::default());
    let (orders, inbox) = channel();
    let (sender, opened) = channel();
    let (thread_settings, thread_peers) = (settings.clone(), peers.clone());
    let thread = std::thread::Builder::new()
        .name(format!("logdrive-{}-keeper", settings.node))
        .spawn(move || keep(&thread_settings, &thread_peers, &sender, &inbox))
        .map_err(|error| StartError::Directory { dir: settings.dir.clone(), error })?;
    let keeper = Keeper { orders: orders.clone(), thread: Some(thread) };
    // The thread answers once, or it panicked.
    let Ok(opened) = opened.recv() else {
        let error = io::Error::other("the thread that opens the directory panicked");
        return Err(StartError::Directory { dir: settings.dir.clone(), error });
    };
    let (identity, placement, roster) = opened?;
    let dirs = core_dirs(settings, &identity)?;
    let (places, groups) = groups(&placement, &roster.founders, &settings.core);
    let roll = Arc::new(Roll::new(&settings.nodes, &roster.added));
    let memory = Memory { identity, cores: settings.cores, roll: roll.clone(), peers, orders };
    Ok(Opened { identity, memory, keeper, places, groups, dirs, roll })
}

/// Where each group lives, and the groups of each core. Every group has a place on every node, member or not, so that a node can be
/// made a member at any time. Every founder was a voter of every group; preferred leaders go round among those that are wanted most.
fn groups(
    placement: &Placement,
    founders: &[NodeId],
    settings: &CoreSettings,
) -> (Vec<Option<Place>>, Vec<Vec<GroupSetup>>) {
    let leaders = settings.most_wanted(founders);
    let mut places = vec![None; placement.groups() as usize];
    let of_core = |core: u16| {
        let setups = placement.groups_of(CoreId(core)).zip(0..).map(|(id, slot)| {
            places[(id.0 - 1) as usize] = Some(Place { core: CoreId(core), slot: Slot(slot) });
            let turn = (id.0 - 1).checked_rem(leaders.len() as u64);
            let preferred_leader = turn.map_or(NodeId::NONE, |turn| leaders[turn as usize]);
            GroupSetup { id, founders: founders.to_vec(), preferred_leader }
        });
        setups.collect()
    };
    let groups = (0..placement.cores()).map(of_core).collect();
    (places, groups)
}

/// The directories of the cores. Those of the logs are made at the first start, never again: a log that is gone must be noticed.
/// Snapshots that are gone are noticed by the logs that begin behind them.
fn core_dirs(settings: &NodeSettings, identity: &Identity) -> Result<Vec<Disks<PathBuf>>, StartError> {
    let failed = |dir: &Path, error| StartError::Directory { dir: dir.to_owned(), error };
    let of_core = |core| Disks {
        log: settings.dir.join(format!("core-{core}")),
        snapshots: settings.dir.join(format!("snapshots-{core}")),
    };
    let dirs: Vec<Disks<PathBuf>> = (0..settings.cores).map(of_core).collect();
    for Disks { log, snapshots } in &dirs {
        if !log.is_dir() && identity.boot > 1 {
            let gone = "this log is gone. Give the node back its data, or bring it back as a new member with a new id \
                        (if only its first start was interrupted: remove the whole data directory)";
            return Err(failed(log, io::Error::new(io::ErrorKind::NotFound, gone)));
        }
        for dir in [log, snapshots].into_iter().filter(|dir| !dir.is_dir()) {
            std::fs::create_dir(dir).map_err(|error| failed(dir, error))?;
        }
    }
    std::fs::File::open(&settings.dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed(&settings.dir, error))?;
    Ok(dirs)
}

// -- the keeper -------------------------------------------------------------------------------------------------------

/// The memory of the peers, as the cores and the keeper share it.
#[derive(Default)]
struct Peers {
    memory: Mutex<PeersMemory>,
    /// There is something to save when convenient.
    changed: AtomicBool,
    /// Counts changes that must be saved before the handshake that brought them goes on; and how many of them are.
    urgent: AtomicU64,
    urgent_saved: AtomicU64,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, PeersMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Order {
    Save(Reply<bool>),
    AddNode(PeerAddress, Reply<Result<(), AddNodeError>>),
    Stop,
}

/// The keeper's thread; ended when this is dropped. It holds the lock of the directory.
pub(crate) struct Keeper {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It may have ended by itself: the directory did not open.
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long to wait for a process that was just killed to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// What merely changed is saved this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

type OpenedDirectory = Result<(Identity, Placement, Roster), StartError>;

fn keep(settings: &NodeSettings, peers: &Peers, opened: &Sender<OpenedDirectory>, orders: &Receiver<Order>) {
    let (_lock, mut directory) = match open_directory(settings) {
        Ok(open) => open,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    *peers.lock() = directory.peers().clone();
    let found = (directory.identity(), directory.placement().clone(), directory.roster().clone());
    if opened.send(Ok(found)).is_err() {
        return;
    }
    loop {
        let order = orders.recv_timeout(SAVE_INTERVAL);
        let mut saved = true;
        if peers.changed.swap(false, Ordering::AcqRel) || matches!(order, Ok(Order::Save(_))) {
            let urgent = peers.urgent.load(Ordering::Acquire);
            let memory = peers.lock().clone();
            match directory.save_peers(&memory) {
                Ok(()) => peers.urgent_saved.store(urgent, Ordering::Release),
                Err(error) => {
                    tracing::error!(%error, "what is known of the peers could not be saved");
                    saved = false;
                }
            }
        }
        match order {
            Ok(Order::Save(reply)) => reply.send(saved),
            Ok(Order::AddNode(node, reply)) => reply.send(add_node(&mut directory, node)),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn add_node(directory: &mut NodeDirectory<RingDisk>, node: PeerAddress) -> Result<(), AddNodeError> {
    let mut roster = directory.roster().clone();
    if !roster.add(node) {
        return Err(AddNodeError::TooMany { max: ADDED_MAX });
    }
    directory.save_roster(&roster).map_err(|error| {
        tracing::error!(%error, "a node that was added could not be saved");
        AddNodeError::NotSaved
    })
}

fn open_directory(settings: &NodeSettings) -> Result<(DirectoryLock, NodeDirectory<RingDisk>), StartError> {
    let lock = DirectoryLock::acquire(&settings.dir, LOCK_PATIENCE)?;
    let occupied = has_subdirectories(&settings.dir)?;
    // A few small files at start and now and then: no registered memory, and nothing that a probe would be worth.
    let durable_writes = logdrive_wal::DurableWrites::Dsync;
    let options = RingOptions { buffers: 0, queue_entries: 8, durable_writes, ..RingOptions::default() };
    let disk = RingDisk::open(&settings.dir, options).map_err(|error| StartError::ring(0, error))?;
    let founders: Vec<NodeId> = match settings.join {
        true => Vec::new(),
        false => settings.nodes.iter().map(|n| n.node).collect(),
    };
    let start = Start {
        cluster: settings.cluster,
        node: settings.node,
        cores: settings.cores,
        groups: settings.groups,
        bootstrap: settings.bootstrap || settings.join,
        founders: &founders,
        incarnation: random(0) | 1,
        boot_name: BootName(random(1).max(1)),
        occupied,
    };
    Ok((lock, NodeDirectory::open(disk, &start)?))
}

// -- the handshakes' side ---------------------------------------------------------------------------------------------

/// Who this node is and what it remembers of others, for the handshakes of all cores.
pub(crate) struct Memory {
    identity: Identity,
    cores: u16,
    roll: Arc<Roll>,
    peers: Arc<Peers>,
    orders: Sender<Order>,
}

/// Why a node could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddNodeError {
    /// Too many nodes were added, or the address is far too long.
    #[error(
        "{max} nodes can be added at most, with addresses of ordinary length: list them in the configuration instead"
    )]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// It could not be made durable.
    #[error("the node could not be saved in the data directory: look at this node's log")]
    NotSaved,
    /// Node 0, or addresses that are none.
    #[error("node {node}: a node has an id from 1 on and addresses of the form host:port")]
    Invalid {
        /// The node.
        node: NodeId,
    },
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopped,
}

/// What is known of the peers could not be made durable: nobody can be accepted.
#[derive(Debug, thiserror::Error)]
#[error("what is known of the peers could not be saved")]
pub(crate) struct NotSaved;

impl Memory {
    /// What a core says of itself to a peer core.
    pub(crate) fn hello(&self, core: CoreId, durable_end: u64, to_node: NodeId, to_core: CoreId) -> Hello {
        Hello {
            versions: Versions::OURS,
            cluster: self.identity.cluster,
            node: self.identity.node,
            core,
            cores: self.cores,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            names: self.identity.names,
            durable_end,
            to_node,
            to_core,
            remembered: self.peers.lock().remembered(to_node, to_core),
        }
    }

    /// Makes it durable that a node was added.
    pub(crate) async fn add_node(&self, node: PeerAddress) -> Result<(), AddNodeError> {
        let (sender, saved) = reply();
        self.orders.send(Order::AddNode(node, sender)).map_err(|_| AddNodeError::NotSaved)?;
        saved.await.unwrap_or(Err(AddNodeError::NotSaved))
    }

    /// Judges a peer's `Hello`; the version to speak if it is accepted.
    pub(crate) fn judge(
        &self,
        hello: &Hello,
        durable_end: u64,
        dialled: Option<(NodeId, CoreId)>,
    ) -> Result<u16, Reject> {
        let members: Vec<NodeId> = self.roll.nodes().iter().map(|node| node.node).collect();
        let own = Own {
            cluster: self.identity.cluster,
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            names: &self.identity.names,
            cores: self.cores,
            durable_end,
            members: &members,
            dialled,
        };
        judge(&own, &self.peers.lock(), hello).map(|accepted| accepted.version)
    }

    /// Remembers a peer that was judged well; durably, where that must come before it is accepted.
    pub(crate) async fn remember(&self, hello: &Hello) -> Result<(), NotSaved> {
        {
            let mut memory = self.peers.lock();
            match memory.remember(hello) {
                Remember::Unchanged => {}
                Remember::Later => self.peers.changed.store(true, Ordering::Release),
                Remember::Now => {
                    self.peers.urgent.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        // Another core's handshake may have brought the change and be waiting for it to be saved: so must this one.
        let urgent = self.peers.urgent.load(Ordering::Acquire);
        if self.peers.urgent_saved.load(Ordering::Acquire) >= urgent {
            return Ok(());
        }
        let (sender, saved) = reply();
        self.orders.send(Order::Save(sender)).map_err(|_| NotSaved)?;
        if saved.await == Some(true) { Ok(()) } else { Err(NotSaved) }
    }

    /// Remembers how far a peer's log was durable.
    pub(crate) fn remember_end(&self, hello: &Hello, durable_end: u64) {
        let change = self.peers.lock().remember_end(hello.node, hello.core, hello.boot, durable_end);
        if change != Remember::Unchanged {
            self.peers.changed.store(true, Ordering::Release);
        }
    }
}

impl From<NodeError> for StartError {
    fn from(error: NodeError) -> StartError {
        StartError::Node(Box::new(error))
    }
}
