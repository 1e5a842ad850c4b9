//! Which nodes there are beside the configured ones, and who founded the groups.

use logdrive_shard::{NodeId, VOTERS_MAX};

use crate::runtime::PeerAddress;
use crate::wire::bytes::{Put, Reader};

/// Nodes that were added while the cluster ran, at most.
pub const ADDED_MAX: usize = 64;
/// An address, at most; names of hosts are shorter.
const ADDRESS_BYTES_MAX: usize = 1024;

/// Written at the first start and whenever a node is added, so that neither depends on what the configuration lists later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// The voters that every group was founded with, ascending. Empty: this node joined a cluster that was there already, and
    /// learns from the groups' leaders who their members are.
    pub founders: Vec<NodeId>,
    /// Nodes that were made known to this one while it ran.
    pub added: Vec<PeerAddress>,
}

impl Roster {
    /// The roster of a first start.
    pub fn founded_by(founders: &[NodeId]) -> Roster {
        let mut founders = founders.to_vec();
        founders.sort_unstable();
        Roster { founders, added: Vec::new() }
    }

    /// Adds a node, or gives it another address. False if there are too many, or the address is too long.
    #[must_use]
    pub fn add(&mut self, node: PeerAddress) -> bool {
        if node.peer.len() > ADDRESS_BYTES_MAX || node.client.len() > ADDRESS_BYTES_MAX {
            return false;
        }
        let is_full = self.added.len() >= ADDED_MAX;
        match self.added.iter_mut().find(|known| known.node == node.node) {
            Some(known) => *known = node,
            None if is_full => return false,
            None => self.added.push(node),
        }
        true
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u16(self.founders.len() as u16);
        self.founders.iter().for_each(|node| out.put_u32(node.0));
        out.put_u16(self.added.len() as u16);
        for node in &self.added {
            out.put_u32(node.node.0);
            for text in [&node.peer, &node.client] {
                out.put_u16(text.len() as u16);
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Roster> {
        let mut body = Reader::new(body);
        let count = usize::from(body.u16()?);
        let mut founders = Vec::new();
        for _ in 0..count {
            founders.push(NodeId(body.u32()?));
        }
        let is_ascending = founders.windows(2).all(|pair| pair[0] < pair[1]);
        if count > VOTERS_MAX || !is_ascending || founders.first() == Some(&NodeId::NONE) {
            return None;
        }
        let count = usize::from(body.u16()?);
        let mut roster = Roster { founders, added: Vec::new() };
        for _ in 0..count {
            let node = NodeId(body.u32()?);
            let mut text = || {
                let len = usize::from(body.u16()?);
                String::from_utf8(body.bytes(len)?.to_vec()).ok()
            };
            let (peer, client) = (text()?, text()?);
            if !roster.add(PeerAddress { node, peer, client }) {
                return None;
            }
        }
        (body.left() == 0 && roster.added.len() == count).then_some(roster)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(node: u32, host: &str) -> PeerAddress {
        PeerAddress { node: NodeId(node), peer: format!("{host}:1"), client: format!("{host}:2") }
    }

    #[test]
    fn a_node_is_added_once_and_may_move() {
        let mut roster = Roster::founded_by(&[NodeId(3), NodeId(1)]);
        assert_eq!(roster.founders, [NodeId(1), NodeId(3)]);
        assert!(roster.add(address(4, "here")) && roster.add(address(4, "there")));
        assert_eq!(roster.added, [address(4, "there")]);
        assert!(!roster.add(address(5, &"x".repeat(2000))));
        for node in 5..200 {
            assert_eq!(
                roster.add(address(node, "h")),
                roster.added.len() < ADDED_MAX || node < 4 + ADDED_MAX as u32
            );
        }
        assert_eq!(roster.added.len(), ADDED_MAX);
    }

    proptest! {
        #[test]
        fn rosters_are_read_back(
            founders in prop::collection::btree_set(1..99_u32, 0..VOTERS_MAX),
            added in prop::collection::vec((1..9_u32, "[a-z.]{0,20}"), 0..6),
        ) {
            let founders: Vec<NodeId> = founders.into_iter().map(NodeId).collect();
            let mut roster = Roster::founded_by(&founders);
            for (node, host) in added {
                prop_assert!(roster.add(address(node, &host)));
            }
            let mut bytes = roster.encode();
            prop_assert_eq!(Roster::decode(&bytes), Some(roster));
            bytes.push(0);
            prop_assert_eq!(Roster::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_bytes_are_no_roster_or_one(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Roster::decode(&bytes);
        }
    }
}
