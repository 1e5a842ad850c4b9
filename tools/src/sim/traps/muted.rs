//! Frames that are lost because of what they say, as long as a trap wants that. A network that loses frames may lose just these.

use logdrive::wire::FrameView;
use logdrive_shard::GroupId;

use crate::sim::node::CoreAt;
use crate::sim::world::World;

/// Which frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Muted {
    /// In which a node says to another one that it leads a group.
    Leader { from: usize, to: usize, group: GroupId },
    /// That bring a node entries which its disk has lost.
    Repairs { to: usize },
}

impl World {
    /// Whether a frame from a node to a core is one of those.
    pub(in crate::sim) fn is_muted(&self, from: usize, to: CoreAt, frame: &[u8]) -> bool {
        self.muted.iter().any(|muted| {
            let is_meant = match *muted {
                Muted::Leader { from: speaker, to: hearer, .. } => {
                    (speaker, hearer) == (from, self.node_of(to))
                }
                Muted::Repairs { to: hearer } => hearer == self.node_of(to),
            };
            is_meant && World::read_own(frame).is_ok_and(|frame| self.says(muted, to, &frame))
        })
    }

    fn says(&self, muted: &Muted, to: CoreAt, frame: &FrameView<'_>) -> bool {
        match *muted {
            Muted::Leader { group, .. } => {
                let (at, slot) = self.home(self.node_of(to), group);
                at == to && speaks_for(frame, slot.0)
            }
            Muted::Repairs { .. } => frame.fetched().next().is_some(),
        }
    }
}

/// Whether the frame says to a slot that its sender leads.
fn speaks_for(frame: &FrameView<'_>, slot: u32) -> bool {
    frame.appends().any(|(to, ..)| to.slot == slot)
        || frame.heartbeats().any(|(to, _)| to.slot == slot)
        || frame.snapshot_offers().any(|(to, ..)| to.slot == slot)
}
