//! The fault atlas: which blocks of which disks hold damage, and whether more of it may come.
//!
//! Every group must keep enough good copies, or else nothing could be demanded of it. A damaged block of a log may put every group of
//! its core in doubt (without a directory nobody can say what it held, and then every member that has nothing later asks the others
//! before it votes), and a member in doubt does not help another one out of it. So what may be damaged at a time are blocks
//! of **one node**, any number of them, and only while no other node has lost its directories: groups of three voters then
//! keep two whole copies, whoever their members are. When the damage is settled (the node has read its whole log anew since, no group of
//! it lacks anything, its peers have given back what was lost), another node may be next.
//!
//! What makes a process end (a write that fails, a disk without room) is no damage: it may hit all nodes, at any time.

use std::collections::BTreeMap;

use logdrive::core::Slot;

use super::node::CoreAt;
use super::world::World;

/// A damaged block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// What was done to it.
    pub(super) what: &'static str,
    /// In this boot of its node.
    boot: u64,
}

/// Where damage is.
#[derive(Debug, Default)]
pub(super) struct Atlas {
    /// By core (over all nodes), file, and block in it.
    blocks: BTreeMap<(usize, String, u64), Damage>,
    /// Nodes that had damage at any time.
    lied: Vec<bool>,
}

impl World {
    /// Whether blocks of a node may be damaged now.
    pub(super) fn may_damage(&self, node: usize) -> bool {
        let others_are_whole = (0..self.nodes.len())
            .filter(|&other| other != node)
            .all(|other| !self.nodes[other].is_spoiled && !self.holds_damage(other));
        self.nodes.len() >= 3 && self.nodes[node].is_up && others_are_whole
    }

    /// Notes a damaged block.
    pub(super) fn note_damage(&mut self, at: CoreAt, file: &str, block: u64, what: &'static str) {
        let node = self.cores[at.0].node;
        let boot = self.nodes[node].boot;
        self.nodes[node].disk_is_suspect = true;
        self.atlas.lied.resize(self.nodes.len(), false);
        self.atlas.lied[node] = true;
        self.atlas.blocks.insert((at.0, file.to_owned(), block), Damage { what, boot });
        self.note(Some(node), || format!("block {block} of {file} on core {}: {what}", at.0));
    }

    /// Strikes out the damage of nodes that have got over it.
    pub(super) fn settle_damage(&mut self) {
        for node in 0..self.nodes.len() {
            if self.holds_damage(node) && self.is_over_its_damage(node) {
                let cores = self.nodes[node].cores.clone();
                self.atlas.blocks.retain(|(core, ..), _| !cores.contains(core));
                self.reach("damage settled");
            }
        }
    }

    fn is_over_its_damage(&self, node: usize) -> bool {
        let state = &self.nodes[node];
        let cores = state.cores.clone();
        let read_since = self
            .atlas
            .blocks
            .iter()
            .all(|((core, ..), damage)| !cores.contains(core) || damage.boot < state.boot);
        let is_whole = |at: usize| {
            self.core(CoreAt(at)).is_some_and(|core| {
                let status = core.status();
                // A state that no snapshot stands for and whose log was cut has been brought back by luck.
                let stands = |slot| {
                    let snapshot = core.snapshot_status(Slot(slot));
                    snapshot.log_first <= snapshot.index.next()
                };
                status.damaged == 0
                    && !status.disk_failing
                    && (0..self.cores[at].groups.len() as u32).all(stands)
            })
        };
        read_since && cores.into_iter().all(is_whole)
    }

    /// A node's directories are gone, and with them what was damaged in them.
    pub(super) fn forget_damage(&mut self, node: usize) {
        let cores = self.nodes[node].cores.clone();
        self.atlas.blocks.retain(|(core, ..), _| !cores.contains(core));
    }

    /// Whether a node's disks hold damage that it has not got over, as far as can be told.
    pub fn holds_damage(&self, node: usize) -> bool {
        let cores = &self.nodes[node].cores;
        self.atlas.blocks.keys().any(|(core, ..)| cores.contains(core))
    }

    /// Whether a node's disks ever held damage: what is on them is not what they were told.
    pub fn disk_lied(&self, node: usize) -> bool {
        self.atlas.lied.get(node).copied().unwrap_or(false)
    }
}
