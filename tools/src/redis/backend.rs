//! What the front door asks of a core of the engine, behind a trait so that ordering, parking and timeouts are tested without one.

use logdrive::api::ReadPolicy;
use logdrive::runtime::PeerAddress;
use logdrive_shard::{GroupId, NodeId};

use super::slots::SlotMap;

/// The engine as one core's front door sees it. Every request is answered exactly once, with its token.
pub(crate) trait Backend {
    /// The leader of a group as last known, `NONE` if unknown.
    fn leader_of(&self, group: GroupId) -> NodeId;
    /// Changes whenever a leader changes.
    fn leadership_epoch(&self) -> u64;
    /// Proposes a command.
    fn propose(&mut self, token: u64, group: GroupId, payload: &[u8]);
    /// Asks a query.
    fn read(&mut self, token: u64, group: GroupId, policy: ReadPolicy, request: &[u8]);
}

/// A node as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) node: NodeId,
    /// 40 hex digits.
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where the other nodes reach it; clients only print it.
    pub(crate) peer_port: u16,
}

/// What does not change while a node runs: the nodes, who we are, whose slots are whose.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    nodes: Vec<NodeInfo>,
    me: usize,
    slots: SlotMap,
}

impl Topology {
    /// `None` if `me` is not among the nodes or the groups cannot share the slots.
    pub(crate) fn new(cluster: u64, me: NodeId, nodes: &[PeerAddress], groups: u64) -> Option<Topology> {
        let mut infos: Vec<NodeInfo> = nodes.iter().map(|node| NodeInfo::new(cluster, node)).collect();
        infos.sort_by_key(|info| info.node);
        let me = infos.iter().position(|info| info.node == me)?;
        Some(Topology { nodes: infos, me, slots: SlotMap::new(groups)? })
    }

    /// All nodes, by id.
    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// The position of this node among them.
    pub(crate) fn me(&self) -> usize {
        self.me
    }

    pub(crate) fn my_id(&self) -> NodeId {
        self.nodes[self.me].node
    }

    pub(crate) fn slots(&self) -> SlotMap {
        self.slots
    }

    /// The position of a node, `None` for nobody and strangers.
    pub(crate) fn position(&self, node: NodeId) -> Option<usize> {
        // Nodes usually are 1, 2, 3...
        let guess = (node.0 as usize).wrapping_sub(1);
        if self.nodes.get(guess).is_some_and(|info| info.node == node) {
            return Some(guess);
        }
        self.nodes.iter().position(|info| info.node == node)
    }

    /// All groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=u64::from(self.slots.groups())).map(GroupId)
    }
}

impl NodeInfo {
    fn new(cluster: u64, address: &PeerAddress) -> NodeInfo {
        let (host, port) = split_address(&address.client);
        NodeInfo {
            node: address.node,
            id: client_id(cluster, address.node),
            host,
            port,
            peer_port: split_address(&address.peer).1,
        }
    }
}

/// `host:port`, the host without the brackets of an IPv6 address: Redis and its clients split at the last colon.
fn split_address(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host.to_owned(), port.parse().unwrap_or(0))
}

/// The name clients know a node by, the same on all nodes: cluster, a check, node.
fn client_id(cluster: u64, node: NodeId) -> String {
    // Clients compare these by a few leading digits in their output: spread the node over all of them.
    let mixed =
        (cluster ^ u64::from(node.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    format!("{mixed:016x}{cluster:016x}{:08x}", node.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(node: u32, client: &str) -> PeerAddress {
        PeerAddress { node: NodeId(node), peer: format!("peer:{}", 9000 + node), client: client.to_owned() }
    }

    #[test]
    fn nodes_have_distinct_ids_of_40_digits_and_their_client_addresses() {
        let nodes = [address(3, "[::1]:7003"), address(1, "10.0.0.1:7001"), address(7, "db.example:7007")];
        let topology = Topology::new(9, NodeId(3), &nodes, 16).unwrap();
        let hosts: Vec<_> = topology.nodes().iter().map(|n| (n.host.as_str(), n.port, n.peer_port)).collect();
        assert_eq!(hosts, [("10.0.0.1", 7001, 9001), ("::1", 7003, 9003), ("db.example", 7007, 9007)]);
        assert_eq!((topology.me(), topology.my_id()), (1, NodeId(3)));
        assert_eq!(topology.position(NodeId(7)), Some(2));
        assert_eq!(topology.position(NodeId::NONE), None);
        let ids: Vec<&str> = topology.nodes().iter().map(|n| n.id.as_str()).collect();
        assert!(ids.iter().all(|id| id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit())));
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        assert!(Topology::new(9, NodeId(2), &nodes, 16).is_none());
    }
}
