//! What all cores of a node, and the handles of the embedding program, share.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use logdrive_shard::{GroupId, NodeId};

use crate::api::Error;
use crate::core::{CoreId, Fatal, Slot};

use super::inbox::Inbox;
use super::roll::Roll;
use super::settings::{NodeSettings, PeerAddress};
use super::{PeerStatus, RuntimeCounters};

/// Where a group lives on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) core: CoreId,
    pub(crate) slot: Slot,
}

/// Another node.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) cores: AtomicU16,
    pub(crate) links: AtomicU32,
    refused: Mutex<Option<String>>,
}

impl Peer {
    fn new(node: NodeId) -> Peer {
        Peer { node, cores: AtomicU16::new(0), links: AtomicU32::new(0), refused: Mutex::new(None) }
    }

    /// Notes why a handshake was refused. True if that is news.
    pub(crate) fn refuse(&self, reason: &str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.as_deref() == Some(reason) {
            return false;
        }
        *refused = Some(reason.to_owned());
        true
    }

    /// A handshake succeeded. True if the last one did not.
    pub(crate) fn accept(&self) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn status(&self) -> PeerStatus {
        PeerStatus {
            node: self.node.0,
            cores: self.cores.load(Ordering::Relaxed),
            links: self.links.load(Ordering::Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) handshakes_over_limit: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) dials_failed: AtomicU64,
    pub(crate) writes_blocked: AtomicU64,
    pub(crate) reads_paused: AtomicU64,
    pub(crate) executors_roused: AtomicU64,
}

/// Adds one; nobody orders anything by these.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) struct Node {
    pub(crate) settings: NodeSettings,
    /// By group id, from 1 on; `None`: not on this node.
    places: Vec<Option<Place>>,
    /// Leader of each group as last seen here, by group id. Written only by the core that hosts the group.
    leaders: Vec<AtomicU32>,
    leadership_epoch: AtomicU64,
    /// By core.
    pub(crate) inboxes: Vec<Inbox>,
    /// All nodes with their addresses.
    pub(crate) roll: Arc<Roll>,
    peers: RwLock<Vec<Arc<Peer>>>,
    pub(crate) counters: Counters,
    /// Services end.
    stopping: AtomicBool,
    fatal: Mutex<Option<Fatal>>,
}

impl Node {
    pub(crate) fn new(settings: NodeSettings, places: Vec<Option<Place>>, roll: Arc<Roll>) -> Node {
        let runtime = &settings.runtime;
        let inboxes = (0..settings.cores)
            .map(|_| Inbox::new(settings.cores, runtime.queue_requests_max, runtime.queue_bytes_max))
            .collect();
        let nodes = roll.nodes();
        let others = nodes.iter().filter(|n| n.node != settings.node);
        let peers = RwLock::new(others.map(|n| Arc::new(Peer::new(n.node))).collect());
        Node {
            leaders: (0..places.len()).map(|_| AtomicU32::new(0)).collect(),
            places,
            leadership_epoch: AtomicU64::new(0),
            inboxes,
            roll,
            peers,
            counters: Counters::default(),
            stopping: AtomicBool::new(false),
            fatal: Mutex::new(None),
            settings,
        }
    }

    pub(crate) fn place(&self, group: GroupId) -> Option<Place> {
        *self.places.get(usize::try_from(group.0.checked_sub(1)?).ok()?)?
    }

    pub(crate) fn leader_of(&self, group: GroupId) -> NodeId {
        let index = group.0.wrapping_sub(1);
        let leader = usize::try_from(index).ok().and_then(|index| self.leaders.get(index));
        NodeId(leader.map_or(0, |leader| leader.load(Ordering::Acquire)))
    }

    /// The owner of the group tells its leader.
    pub(crate) fn set_leader(&self, group: GroupId, leader: NodeId) {
        self.leaders[(group.0 - 1) as usize].store(leader.0, Ordering::Release);
    }

    /// After one or more [`Node::set_leader`].
    pub(crate) fn leaders_changed(&self) {
        self.leadership_epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leadership_epoch(&self) -> u64 {
        self.leadership_epoch.load(Ordering::Acquire)
    }

    pub(crate) fn inbox(&self, core: CoreId) -> &Inbox {
        &self.inboxes[usize::from(core.0)]
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|peer| peer.node == node)
            .cloned()
    }

    /// A node that this one did not know, or an address that it did not know. `Some`: the peer is new.
    pub(crate) fn add_peer(&self, address: PeerAddress) -> Option<Arc<Peer>> {
        let node = address.node;
        self.roll.add(address);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if node == self.settings.node || peers.iter().any(|peer| peer.node == node) {
            return None;
        }
        let peer = Arc::new(Peer::new(node));
        peers.push(peer.clone());
        Some(peer)
    }

    pub(crate) fn peer_status(&self) -> Vec<PeerStatus> {
        self.peers().iter().map(|peer| peer.status()).collect()
    }

    pub(crate) fn counters(&self) -> RuntimeCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RuntimeCounters {
            connections_accepted: read(&self.counters.accepted),
            handshakes_failed: read(&self.counters.handshakes_failed),
            handshakes_over_limit: read(&self.counters.handshakes_over_limit),
            frames_refused: read(&self.counters.frames_refused),
            dials_failed: read(&self.counters.dials_failed),
            writes_blocked: read(&self.counters.writes_blocked),
            reads_paused: read(&self.counters.reads_paused),
            executors_roused: read(&self.counters.executors_roused),
        }
    }

    pub(crate) fn stop_services(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A core cannot go on. The first one counts.
    pub(crate) fn set_fatal(&self, fatal: &Fatal) {
        let mut first = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| fatal.clone());
    }

    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where an error must be one of the caller's doing: the group is not here.
    pub(crate) fn hosted(&self, group: GroupId) -> Result<Place, Error> {
        self.place(group).ok_or(Error::NoSuchGroup)
    }
}
