//! What a node remembers of its peers.
//!
//! It exists to notice a peer that comes back with less than it once had: a wiped disk, a restored backup. Such a peer may have
//! forgotten a vote, or entries that others count as durable on it, and must not take part under its old name.
//!
//! When it is saved: the incarnation and boot of a peer, with the boot's name, **before** the handshake that first showed them is accepted, so that a peer
//! which was accepted once can never come back in an earlier boot, or in another one of the same number. Durable ends only now and then (with each handshake, and at
//! most once a second while pulses move them): an end that is remembered too low makes the check weaker, never wrong.
//!
//! Each node judges by what it saw itself: a restored backup is refused by those that were connected to the original after the copy was
//! made, and by nobody else.

use std::collections::BTreeMap;

use logdrive_shard::NodeId;

use crate::core::CoreId;
use crate::wire::bytes::{Put, Reader};
use crate::wire::{BootName, Hello, Remembered};

/// Peers remembered at most; there are far fewer in a cluster.
const PEERS_MAX: usize = 4096;

/// What is remembered of one peer node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMemory {
    /// Of its data directory.
    pub incarnation: u64,
    /// Highest boot counter.
    pub boot: u64,
    /// The name of that boot; none if an earlier version of this software met it or was met.
    pub name: BootName,
    /// By core: the highest end of its log that it reported as durable, and the boot in which it did.
    ends: Vec<DurableEnd>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DurableEnd {
    boot: u64,
    end: u64,
}

/// What [`PeersMemory::remember`] changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub enum Remember {
    /// Nothing.
    Unchanged,
    /// A durable end: save it when convenient.
    Later,
    /// An incarnation or a boot: save it before the handshake is accepted.
    Now,
}

/// What is remembered of all peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersMemory {
    peers: BTreeMap<NodeId, PeerMemory>,
}

impl PeersMemory {
    /// What is remembered of a node.
    pub fn of(&self, node: NodeId) -> Option<&PeerMemory> {
        self.peers.get(&node)
    }

    /// What is remembered of a core of a node, in the form that a [`Hello`] to it carries; all zero if it was never met.
    pub fn remembered(&self, node: NodeId, core: CoreId) -> Remembered {
        let Some(peer) = self.peers.get(&node) else { return Remembered::default() };
        let DurableEnd { boot: durable_end_boot, end: durable_end } =
            peer.ends.get(usize::from(core.0)).copied().unwrap_or_default();
        let PeerMemory { incarnation, boot, name, .. } = *peer;
        Remembered { incarnation, boot, name, durable_end_boot, durable_end }
    }

    /// Whether the sender of a `Hello` had another number of cores when it was met last.
    pub(super) fn cores_changed(&self, hello: &Hello) -> bool {
        self.peers.get(&hello.node).is_some_and(|peer| peer.ends.len() != usize::from(hello.cores))
    }

    /// Remembers what a `Hello` says of its sender. Only after [`super::judge`] accepted it: nothing is checked here.
    pub fn remember(&mut self, hello: &Hello) -> Remember {
        let peer = self.peers.entry(hello.node).or_default();
        let mut change = Remember::Unchanged;
        let met = (hello.incarnation, hello.boot, hello.names.newest());
        if (peer.incarnation, peer.boot, peer.name) != met {
            (peer.incarnation, peer.boot, peer.name) = met;
            change = Remember::Now;
        }
        if peer.ends.len() != usize::from(hello.cores) {
            // With another number of cores it has other logs: what is known of the old ones says nothing about them.
            peer.ends.clear();
            peer.ends.resize(hello.cores.into(), DurableEnd::default());
        }
        change.max(self.remember_end(hello.node, hello.core, hello.boot, hello.durable_end))
    }

    /// Remembers a durable end, as a pulse or a `Hello` of the peer's boot `boot` reports it.
    pub fn remember_end(&mut self, node: NodeId, core: CoreId, boot: u64, durable_end: u64) -> Remember {
        let known = self.peers.get_mut(&node).and_then(|peer| peer.ends.get_mut(usize::from(core.0)));
        match known {
            Some(known) if (known.boot, known.end) < (boot, durable_end) => {
                *known = DurableEnd { boot, end: durable_end };
                Remember::Later
            }
            _ => Remember::Unchanged,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        assert!(self.peers.len() <= PEERS_MAX, "{} peers are remembered", self.peers.len());
        let mut out = Vec::new();
        out.put_u32(self.peers.len() as u32);
        for (node, peer) in &self.peers {
            out.put_u32(node.0);
            out.put_u64(peer.incarnation);
            out.put_u64(peer.boot);
            out.put_u64(peer.name.0);
            out.put_u16(peer.ends.len() as u16);
            for known in &peer.ends {
                out.put_u64(known.boot);
                out.put_u64(known.end);
            }
        }
        out
    }

    pub(super) fn decode(body: &[u8], has_names: bool) -> Option<PeersMemory> {
        let mut body = Reader::new(body);
        let count = body.u32().filter(|count| *count as usize <= PEERS_MAX)?;
        let mut peers = BTreeMap::new();
        for _ in 0..count {
            let (node, incarnation, boot) = (NodeId(body.u32()?), body.u64()?, body.u64()?);
            let name = if has_names { BootName(body.u64()?) } else { BootName::NONE };
            let cores = body.u16()?;
            let mut ends = Vec::with_capacity(cores.into());
            for _ in 0..cores {
                ends.push(DurableEnd { boot: body.u64()?, end: body.u64()? });
            }
            peers.insert(node, PeerMemory { incarnation, boot, name, ends });
        }
        (body.left() == 0 && peers.len() == count as usize).then_some(PeersMemory { peers })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn memories_are_read_back(
            peers in prop::collection::vec((1..9_u32, any::<u64>(), any::<u64>(), 0..4_u16, any::<u64>()), 0..6),
        ) {
            let mut memory = PeersMemory::default();
            for (node, incarnation, boot, cores, end) in peers {
                let ends = vec![DurableEnd { boot, end }; cores.into()];
                let name = BootName(boot ^ incarnation);
                memory.peers.insert(NodeId(node), PeerMemory { incarnation, boot, name, ends });
            }
            let mut bytes = memory.encode();
            prop_assert_eq!(PeersMemory::decode(&bytes, true), Some(memory));
            bytes.push(0);
            prop_assert_eq!(PeersMemory::decode(&bytes, true), None);
        }

        #[test]
        fn arbitrary_bytes_are_no_memory_or_one(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = PeersMemory::decode(&bytes, true);
            let _ = PeersMemory::decode(&bytes, false);
        }
    }
}
