//! The nodes that this one knows: the configured ones and those that were added. Shared by all cores, and by those who judge handshakes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use logdrive_shard::NodeId;

use super::settings::PeerAddress;

/// See the module.
#[derive(Debug)]
pub(crate) struct Roll {
    nodes: RwLock<Arc<[PeerAddress]>>,
    /// Counts the changes.
    epoch: AtomicU64,
}

impl Roll {
    /// The configured nodes, and of the added ones those that the configuration does not list.
    pub(crate) fn new(configured: &[PeerAddress], added: &[PeerAddress]) -> Roll {
        let is_new = |node: &&PeerAddress| !configured.iter().any(|known| known.node == node.node);
        let nodes = configured.iter().chain(added.iter().filter(is_new)).cloned().collect();
        Roll { nodes: RwLock::new(nodes), epoch: AtomicU64::new(0) }
    }

    pub(crate) fn nodes(&self) -> Arc<[PeerAddress]> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the peers of a node reach it.
    pub(crate) fn peer_address(&self, node: NodeId) -> Option<String> {
        self.nodes().iter().find(|known| known.node == node).map(|known| known.peer.clone())
    }

    /// Changes whenever a node is added or moves.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Adds a node, or gives it another address.
    pub(crate) fn add(&self, node: PeerAddress) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = nodes.to_vec();
        match list.iter_mut().find(|known| known.node == node.node) {
            Some(known) => *known = node,
            None => list.push(node),
        }
        *nodes = list.into();
        drop(nodes);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}
