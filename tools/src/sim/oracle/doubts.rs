//! A member whose disk may have lost its term and vote: it vouches for nothing until everybody has told it their terms who may have been elected with
//! its vote, and those are all who are named as voters by anybody that it asked.

use std::collections::{BTreeMap, BTreeSet};

use logdrive::core::Slot;
use logdrive::wire::FrameView;
use logdrive_shard::{GroupId, NodeId};

use super::acknowledged;
use crate::sim::node::CoreAt;
use crate::sim::observer::{ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// What a member in doubt was told.
#[derive(Clone, Debug, Default)]
struct Told {
    reported: BTreeSet<NodeId>,
    named: BTreeSet<NodeId>,
}

impl Told {
    fn take(&mut self, from: NodeId, voters: &[NodeId]) {
        self.reported.insert(from);
        self.named.extend(voters);
    }

    /// It takes part again.
    fn settles(&self, me: NodeId) -> Verdict {
        let missing: Vec<NodeId> =
            self.named.difference(&self.reported).copied().filter(|&node| node != me).collect();
        ensure(missing.is_empty(), "who was in doubt has asked everybody who is named", || {
            format!("{missing:?} did not report; {self:?}")
        })
    }
}

/// The check.
#[derive(Default)]
pub struct Doubts {
    /// Members in doubt, since their node was started.
    members: BTreeMap<(CoreAt, Slot), (GroupId, Told)>,
}

impl Doubts {
    fn is_in_doubt(&self, world: &World, at: CoreAt, slot: Slot) -> bool {
        self.members.contains_key(&(at, slot))
            && world.core(at).is_some_and(|core| core.group_status(slot).raft.lost.state)
    }
}

impl Observer for Doubts {
    fn name(&self) -> &'static str {
        "doubts"
    }

    fn opened(&mut self, world: &World, at: CoreAt) -> Verdict {
        self.members.retain(|(core, _), _| *core != at);
        let Some(core) = world.core(at).filter(|_| !world.is_spoiled(world.node_of(at))) else {
            return Ok(());
        };
        for (slot, setup) in (0..).map(Slot).zip(world.groups_of(at)) {
            if core.group_status(slot).raft.lost.state {
                self.members.insert((at, slot), (setup.id, Told::default()));
            }
        }
        Ok(())
    }

    fn frame_comes(&mut self, world: &World, from: CoreAt, to: CoreAt, bytes: &[u8]) -> Verdict {
        if self.members.is_empty() {
            return Ok(());
        }
        let Ok(frame) = World::read_own(bytes) else { return Ok(()) };
        for (address, report) in frame.term_reports() {
            if let Some((_, told)) = self.members.get_mut(&(to, Slot(address.slot))) {
                told.take(world.node_id(from), &report.voters);
            }
        }
        Ok(())
    }

    fn turned(&mut self, world: &World, at: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        for changed in changed {
            let place = (at, changed.slot);
            if !self.members.contains_key(&place) || self.is_in_doubt(world, at, changed.slot) {
                continue;
            }
            let Some((group, told)) = self.members.remove(&place) else { continue };
            if changed.now.last.0 > 0 {
                let me = world.node_id(at);
                told.settles(me).map_err(|broken| broken.in_group(group).on_node(me))?;
            }
        }
        Ok(())
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        if self.members.is_empty() {
            return Ok(());
        }
        for (group, slot, term, index) in acknowledged(world, (from, to), frame) {
            ensure(
                !self.is_in_doubt(world, from, slot),
                "who is in doubt about its vote acknowledges nothing",
                || format!("{index} is acknowledged in term {term}"),
            )
            .map_err(|broken| broken.in_group(group).on_node(world.node_id(from)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_part_again_before_all_who_are_named_have_reported_is_seen() {
        let mut told = Told::default();
        told.take(NodeId(2), &[NodeId(1), NodeId(2), NodeId(4)]);
        let broken = told.settles(NodeId(1)).unwrap_err();
        assert_eq!(broken.assertion, "who was in doubt has asked everybody who is named");
        told.take(NodeId(4), &[NodeId(1), NodeId(2), NodeId(4)]);
        told.settles(NodeId(1)).unwrap();
    }
}
