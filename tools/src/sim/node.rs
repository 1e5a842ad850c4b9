//! Nodes and their cores, over all their lives.

use std::collections::BTreeMap;

use logdrive::api::Error;
use logdrive::core::{Core, CoreId, GroupSetup, GroupSummary, PortId};
use logdrive::mesh::Mesh;
use logdrive::node::PeersMemory;
use logdrive::wire::BootNames;
use logdrive_shard::{Moment, NodeId};
use logdrive_wal::SimPlatter;

use super::clock::{Nanos, NodeClock};
use super::disk::{DiskEvents, WatchedDisk};
use super::faults::{Stop, TurnPoint};
use super::machine::{AppliedLog, Machine};
use super::mesh::SimLane;

/// A core of the product, as it is simulated.
pub type SimCore = Core<WatchedDisk, Machine>;

/// A core of a node, counted over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoreAt(pub usize);

/// A core that runs.
pub(super) struct Live {
    pub(super) core: SimCore,
    /// Of the embedding program: operators, and requests that come from no connection.
    pub(super) port: PortId,
    /// Its end of the mesh; clients are numbers of doors.
    pub(super) mesh: Mesh<u32>,
    /// The attempts that it works on for other cores, by what it knows them by.
    pub(super) works: BTreeMap<(CoreId, u64), u64>,
    /// What the mesh had no room for since the last turn: door, attempt.
    pub(super) refusals: Vec<(u32, u64, Error)>,
    /// The connection behind each link.
    pub(super) connections: Vec<usize>,
    pub(super) applied: AppliedLog,
    pub(super) disk_events: Option<DiskEvents>,
    /// The state of all groups after the last turn, by slot.
    pub(super) summaries: Vec<GroupSummary>,
    /// The core's count of steps then: nothing changes without one.
    pub(super) steps: [u64; 3],
    /// Up to where its log was durable then: it moves without a step when what is live is moved out of old segments.
    pub(super) durable_end: u64,
}

/// A core of a node, over all its lives.
pub(super) struct CoreState {
    /// Its node, from 0.
    pub(super) node: usize,
    pub(super) id: CoreId,
    pub(super) platter: SimPlatter,
    /// The disk of its snapshots.
    pub(super) snapshots: SimPlatter,
    /// Blocks of its log that the last life wrote to last.
    pub(super) last_blocks: Vec<(String, u64)>,
    pub(super) groups: Vec<GroupSetup>,
    pub(super) live: Option<Live>,
    /// What the node's clock showed when the core read it last.
    pub(super) read_clock: Moment,
    /// When its loop turns next; never if it does not run.
    pub(super) turn_at: Nanos,
    /// Turns since something was put in from outside.
    pub(super) turns_alone: u32,
    /// What a turn takes.
    pub(super) turn_takes: Nanos,
}

/// What a backup holds.
pub(super) struct Backup {
    pub(super) boot: u64,
    pub(super) names: BootNames,
    pub(super) memory: PeersMemory,
    /// By core of the node: that of its log, that of its snapshots.
    pub(super) platters: Vec<(SimPlatter, SimPlatter)>,
}

/// A node, over all its lives.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) cores: std::ops::Range<usize>,
    pub(super) clock: NodeClock,
    /// By the core that fills it and the core that takes from it; none while the node is down.
    pub(super) lanes: Vec<SimLane>,
    pub(super) boot: u64,
    /// The names of that boot and of those before it.
    pub(super) names: BootNames,
    /// Of its data directory.
    pub(super) incarnation: u64,
    pub(super) memory: PeersMemory,
    pub(super) is_up: bool,
    /// The process gets no CPU until then.
    pub(super) paused_until: Nanos,
    /// It came back with less than it had: nobody talks to it any more.
    pub(super) is_spoiled: bool,
    /// A fault hit its disks in this life or before it: its log may be poisoned, or full, or refuse to open.
    pub(super) disk_is_suspect: bool,
    /// It ends at this point of a turn, and comes back so long after it.
    pub(super) doomed: Option<(TurnPoint, Stop, Nanos)>,
    /// While it starts, it ends after so many operations of a disk, so and so often.
    pub(super) stumbles: Option<(u16, Stop, u8)>,
    pub(super) backup: Option<Backup>,
    /// When it starts, if it is down and that is known; never otherwise.
    pub(super) starts_at: Nanos,
    /// How often its disks refused it in a row.
    pub(super) refusals: u32,
    /// It is not started before it is told to: broken while the others heal.
    pub(super) stays_down: bool,
}

impl Node {
    /// Runs, and gets CPU.
    pub(super) fn responds(&self, now: Nanos) -> bool {
        self.is_up && self.paused_until <= now
    }
}
