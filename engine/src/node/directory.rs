//! Opening and bootstrapping a data directory.

use logdrive_shard::NodeId;
use logdrive_wal::Disk;

use super::files::{Files, Format};
use super::{NodeError, PeersMemory, Placement, Roster};
use crate::wire::bytes::{Put, Reader};
use crate::wire::{BootName, BootNames};

/// From version 2 on with the names of the last boots.
const IDENTITY: Format =
    Format { name: "identity", temporary: "identity.new", magic: *b"LDI\x1a", version: 2, oldest: 1 };
const PLACEMENT: Format =
    Format { name: "placement", temporary: "placement.new", magic: *b"LDP\x1a", version: 1, oldest: 1 };
const NODES: Format =
    Format { name: "nodes", temporary: "nodes.new", magic: *b"LDN\x1a", version: 1, oldest: 1 };
/// From version 2 on with the names of the boots in which peers were met.
const PEERS: Format =
    Format { name: "peers", temporary: "peers.new", magic: *b"LDM\x1a", version: 2, oldest: 1 };
/// The first version of those two that knows names of boots.
const WITH_NAMES: u16 = 2;

/// Who a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The node.
    pub node: NodeId,
    /// Drawn at random when the directory was bootstrapped; never 0. A wiped and bootstrapped directory has another one.
    pub incarnation: u64,
    /// Counts the starts of the node; 1 in the first.
    pub boot: u64,
    /// The names of this boot and of those before it.
    pub names: BootNames,
}

/// How a node is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// As configured.
    pub cluster: u64,
    /// As configured.
    pub node: NodeId,
    /// As configured.
    pub cores: u16,
    /// As configured.
    pub groups: u64,
    /// The directory may be empty: it becomes that of this node. An existing one is opened as without.
    pub bootstrap: bool,
    /// Who founds the groups, for a new directory; empty if this node joins a cluster that has them already. Directories of
    /// earlier versions did not say: theirs were founded by these nodes.
    pub founders: &'a [NodeId],
    /// Random, for a new directory. Not 0.
    pub incarnation: u64,
    /// Random: the name of the boot that begins.
    pub boot_name: BootName,
    /// Things are in the directory that its disk does not list: logs of cores. Then it is not empty.
    pub occupied: bool,
}

/// An open data directory. Its methods block on the disk: not for a core's executor.
pub struct NodeDirectory<D: Disk> {
    files: Files<D>,
    identity: Identity,
    placement: Placement,
    roster: Roster,
    peers: PeersMemory,
}

impl<D: Disk> NodeDirectory<D> {
    /// Checks or bootstraps the directory, and counts this boot durably.
    pub fn open(disk: D, start: &Start<'_>) -> Result<NodeDirectory<D>, NodeError> {
        assert!(start.incarnation != 0, "0 means that a node was never met");
        assert!(start.boot_name.is_some(), "0 means that a boot has no name");
        let mut files = Files::new(disk);
        let mut names = files.list()?;
        if !names.iter().any(|name| name == IDENTITY.name) {
            bootstrap(&mut files, start, &names)?;
            names = files.list()?;
        }
        let mut identity = read_identity(&mut files)?;
        check_identity(&files, start, &identity)?;
        let placement = read_placement(&mut files, start)?;
        let roster = read_roster(&mut files, start, &names)?;
        let (version, peers) = files.read(&PEERS)?;
        let peers = PeersMemory::decode(&peers, version >= WITH_NAMES)
            .ok_or_else(|| files.damaged(&PEERS, "contradictory"))?;
        identity.boot += 1;
        identity.names = identity.names.begin(start.boot_name);
        files.write(&IDENTITY, &encode_identity(&identity))?;
        Ok(NodeDirectory { files, identity, placement, roster, peers })
    }

    /// Who this is, with the boot of this start.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The core of every group.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Who founded the groups, and which nodes were added.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Makes another roster durable.
    pub fn save_roster(&mut self, roster: &Roster) -> Result<(), NodeError> {
        if self.roster != *roster {
            self.files.write(&NODES, &roster.encode())?;
            self.roster = roster.clone();
        }
        Ok(())
    }

    /// What is remembered of the peers, as of the start and the last [`NodeDirectory::save_peers`].
    pub fn peers(&self) -> &PeersMemory {
        &self.peers
    }

    /// Makes the memory of the peers durable, if it differs from what is on disk.
    pub fn save_peers(&mut self, peers: &PeersMemory) -> Result<(), NodeError> {
        if self.peers != *peers {
            self.files.write(&PEERS, &peers.encode())?;
            self.peers = peers.clone();
        }
        Ok(())
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.files.into_disk()
    }
}

/// Makes an empty directory that of a node. The identity is written last: without it the rest counts as nothing.
fn bootstrap<D: Disk>(files: &mut Files<D>, start: &Start<'_>, names: &[String]) -> Result<(), NodeError> {
    // What a bootstrap that was interrupted leaves.
    let ours = [&IDENTITY, &PLACEMENT, &NODES, &PEERS];
    let is_ours = |name: &String| ours.iter().any(|format| *name == format.name || *name == format.temporary);
    let other = names.iter().find(|name| !is_ours(name)).cloned();
    if let Some(found) = other.or_else(|| start.occupied.then(|| "the log of a core".to_owned())) {
        return Err(NodeError::NotANode { dir: files.root(), found });
    }
    if !start.bootstrap {
        return Err(NodeError::NotBootstrapped { dir: files.root() });
    }
    files.write(&PLACEMENT, &Placement::round_robin(start.groups, start.cores).encode())?;
    files.write(&NODES, &Roster::founded_by(start.founders).encode())?;
    files.write(&PEERS, &PeersMemory::default().encode())?;
    let Start { cluster, node, incarnation, .. } = *start;
    let names = BootNames::default();
    files.write(&IDENTITY, &encode_identity(&Identity { cluster, node, incarnation, boot: 0, names }))
}

fn read_identity<D: Disk>(files: &mut Files<D>) -> Result<Identity, NodeError> {
    let (version, body) = files.read(&IDENTITY)?;
    decode_identity(&body, version >= WITH_NAMES).ok_or_else(|| files.damaged(&IDENTITY, "contradictory"))
}

fn check_identity<D: Disk>(files: &Files<D>, start: &Start<'_>, found: &Identity) -> Result<(), NodeError> {
    let dir = files.root();
    if found.cluster != start.cluster {
        return Err(NodeError::ForeignCluster { dir, found: found.cluster, expected: start.cluster });
    }
    if found.node != start.node {
        return Err(NodeError::OtherNode { dir, found: found.node, expected: start.node });
    }
    Ok(())
}

fn read_placement<D: Disk>(files: &mut Files<D>, start: &Start<'_>) -> Result<Placement, NodeError> {
    let (_, body) = files.read(&PLACEMENT)?;
    let placement = Placement::decode(&body).ok_or_else(|| files.damaged(&PLACEMENT, "contradictory"))?;
    let dir = files.root();
    if placement.cores() != start.cores {
        return Err(NodeError::CoresChanged { dir, found: placement.cores(), expected: start.cores });
    }
    if placement.groups() != start.groups {
        return Err(NodeError::GroupsChanged { dir, found: placement.groups(), expected: start.groups });
    }
    Ok(placement)
}

/// The roster; that of a directory which an earlier version made is written now.
fn read_roster<D: Disk>(
    files: &mut Files<D>,
    start: &Start<'_>,
    names: &[String],
) -> Result<Roster, NodeError> {
    if !names.iter().any(|name| name == NODES.name) {
        let roster = Roster::founded_by(start.founders);
        files.write(&NODES, &roster.encode())?;
        return Ok(roster);
    }
    let (_, body) = files.read(&NODES)?;
    Roster::decode(&body).ok_or_else(|| files.damaged(&NODES, "contradictory"))
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64(identity.cluster);
    out.put_u32(identity.node.0);
    out.put_u64(identity.incarnation);
    out.put_u64(identity.boot);
    identity.names.encode(&mut out);
    out
}

fn decode_identity(body: &[u8], has_names: bool) -> Option<Identity> {
    let mut body = Reader::new(body);
    let identity = Identity {
        cluster: body.u64()?,
        node: NodeId(body.u32()?),
        incarnation: body.u64().filter(|incarnation| *incarnation != 0)?,
        boot: body.u64()?,
        names: if has_names { BootNames::decode(&mut body)? } else { BootNames::default() },
    };
    (body.left() == 0).then_some(identity)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
