//! The places at which a run is looked at. A check implements [`Observer`] and says what it saw that must not be.

use logdrive::wire::FrameView;
use logdrive_shard::{GroupId, NodeId};

use super::clock::Nanos;
use super::disk::DiskEvent;
use super::faults::Fault;
use super::machine::Applied;
use super::node::CoreAt;
use super::world::World;

/// Something that must never be was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{assertion}: {what}")]
pub struct Broken {
    /// The assertion's name: stays the same when its text tells other numbers, so that a smaller run can be compared with a larger one.
    pub assertion: &'static str,
    /// What was seen.
    pub what: String,
    /// In which group.
    pub group: Option<GroupId>,
    /// On which node.
    pub node: Option<NodeId>,
    /// When; filled in by the run.
    pub at: Nanos,
}

/// Whether all is well.
pub type Verdict = Result<(), Box<Broken>>;

impl Broken {
    /// An assertion that does not hold.
    pub fn new(assertion: &'static str, what: impl Into<String>) -> Box<Broken> {
        Box::new(Broken { assertion, what: what.into(), group: None, node: None, at: 0 })
    }

    /// In this group.
    pub fn in_group(mut self: Box<Broken>, group: GroupId) -> Box<Broken> {
        self.group = Some(group);
        self
    }

    /// On this node.
    pub fn on_node(mut self: Box<Broken>, node: NodeId) -> Box<Broken> {
        self.node = Some(node);
        self
    }
}

/// `Ok` if it holds; otherwise the assertion's name and what `what` says.
pub fn ensure(holds: bool, assertion: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Broken::new(assertion, what())) }
}

/// A check. All hooks have access to the whole world: all cores, their state, their disks, the network, the history of all clients. A hook
/// sees the world as it is right after what it is told of. It must not draw random numbers or change anything.
#[allow(unused_variables)]
pub trait Observer {
    /// For the report.
    fn name(&self) -> &'static str;

    /// Whether [`Observer::disk`] is wanted: it costs time.
    fn wants_disk(&self) -> bool {
        false
    }

    /// A fault strikes.
    fn struck(&mut self, world: &World, fault: &Fault) -> Verdict {
        Ok(())
    }

    /// A core was opened: it shows what it recovered.
    fn opened(&mut self, world: &World, core: CoreAt) -> Verdict {
        Ok(())
    }

    /// A node ended. Its cores are gone.
    fn stopped(&mut self, world: &World, node: usize) -> Verdict {
        Ok(())
    }

    /// A core turned. `changed` are the slots whose state differs from what it was after the turn before; the state itself is in
    /// [`World::core`], in short form in [`World::summaries`] and `before`.
    fn turned(&mut self, world: &World, core: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        Ok(())
    }

    /// A core applied an entry, in the turn that just ended.
    fn applied(&mut self, world: &World, core: CoreAt, applied: &Applied) -> Verdict {
        Ok(())
    }

    /// A frame leaves a core for another one.
    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        Ok(())
    }

    /// A core is about to take a frame.
    fn frame_comes(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &[u8]) -> Verdict {
        Ok(())
    }

    /// A core took a frame.
    fn frame_taken(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &[u8]) -> Verdict {
        Ok(())
    }

    /// An attempt at an operation was handed to a core.
    fn asked(&mut self, world: &World, attempt: u64) -> Verdict {
        Ok(())
    }

    /// An attempt was answered; the answer is in the history.
    fn answered(&mut self, world: &World, attempt: u64, reply: &[u8]) -> Verdict {
        Ok(())
    }

    /// Something happened on a core's disk, in the turn that just ended.
    fn disk(&mut self, world: &World, core: CoreAt, event: &DiskEvent) -> Verdict {
        Ok(())
    }

    /// Everything is healed and at rest: the last word.
    fn finished(&mut self, world: &World) -> Verdict {
        Ok(())
    }
}

/// A slot whose state changed in a turn.
#[derive(Clone, Copy, Debug)]
pub struct ChangedSlot {
    /// The slot.
    pub slot: logdrive::core::Slot,
    /// Its state after the turn before.
    pub before: logdrive::core::GroupSummary,
    /// Its state now.
    pub now: logdrive::core::GroupSummary,
}
