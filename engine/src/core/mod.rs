//! The loop of one core over all its groups: a deterministic state machine. No async, no clock, no socket.
//!
//! Skeleton of the interface.

mod timers;

pub use timers::TimerWheel;

use std::fmt;

use logdrive_shard::{GroupId, LogIndex, Moment, NodeId};
use logdrive_wal::{Disk, OpenError};

use crate::api::{Completions, CoreSettings, ReadPolicy, StateMachine};
use crate::wire::{FrameError, PeerHello};

/// A core of a node, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// A connection to a peer core, dense; reused for the same peer core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

/// A consumer of answers on a core (a client connection, another core, the bench's driver), dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A group's dense slot on this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// A group that lives on this core.
#[derive(Clone, Debug)]
pub struct GroupSetup {
    /// Its id.
    pub id: GroupId,
    /// Its voters, this node included.
    pub voters: Vec<NodeId>,
    /// The voter that should lead when all are well.
    pub preferred_leader: NodeId,
}

/// What a core is opened with.
pub struct CoreOptions {
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// Random numbers and history ids start from these.
    pub cluster: u64,
    /// This boot of the node: higher than every earlier one.
    pub boot: u64,
    /// Seed of the core's random numbers (the runtime takes it from the system; the simulator from its seed).
    pub seed: u64,
    /// The groups, by slot.
    pub groups: Vec<GroupSetup>,
    /// Settings.
    pub settings: CoreSettings,
}

/// One thing that happened. `handle` steps the groups it touches; nothing leaves before [`Core::turn`].
#[derive(Debug)]
pub enum Event<'a> {
    /// One whole frame (header included) arrived on a link.
    Frame {
        /// From.
        link: LinkId,
        /// The bytes, read in place.
        bytes: &'a [u8],
    },
    /// A connection to a peer core finished its handshake.
    LinkUp {
        /// The peer, its boot and the groups it hosts.
        hello: &'a PeerHello,
    },
    /// A connection ended.
    LinkDown {
        /// Which.
        link: LinkId,
    },
    /// A client proposes.
    Propose {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// Payload.
        payload: &'a [u8],
    },
    /// A client reads.
    Read {
        /// Where the answer goes.
        port: PortId,
        /// Returned with the answer.
        token: u64,
        /// The group.
        slot: Slot,
        /// How it may be answered.
        policy: ReadPolicy,
        /// For [`StateMachine::query`].
        request: &'a [u8],
    },
    /// The log's disk has completions.
    Disk,
    /// An operator or embedder wants a group's leadership moved.
    Transfer {
        /// The group.
        slot: Slot,
        /// To whom.
        to: NodeId,
    },
    /// The node is about to stop: hand leadership of all groups over; refuse new proposals with `NotLeader` once handed over.
    HandOver,
}

/// Why a core cannot go on. The process ends with this message; restart is recovery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// A write or sync failed.
    #[error(
        "core {core}: the log is poisoned, nothing more is acknowledged: {error}. Look at the disk, then restart this node"
    )]
    LogPoisoned {
        /// Which core.
        core: u16,
        /// What failed.
        error: logdrive_wal::DiskError,
    },
}

/// Counts of a core, for status, metrics and benchmarks.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub struct CoreStatus {
    pub core: u16,
    pub groups: u32,
    pub leaders: u32,
    pub followers: u32,
    pub candidates: u32,
    pub leaderless: u32,
    /// Sum over groups of `last known commit - applied`.
    pub apply_lag: u64,
    /// Sum over groups led here of `last - commit`.
    pub commit_lag: u64,
    pub applied: u64,
    pub proposals: u64,
    pub reads: u64,
    pub busy: u64,
    pub log_used_bytes: u64,
    pub log_budget_bytes: u64,
    pub log_out_of_space: bool,
    pub log_writes: u64,
    pub log_write_bytes: u64,
    pub log_records: u64,
    pub cache_bytes: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    pub links_alive: u32,
}

/// One group's state on this core, for status and tests.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub id: GroupId,
    /// The consensus state.
    pub raft: logdrive_shard::Report,
    /// Applied up to.
    pub applied: LogIndex,
    /// The state machine's digest.
    pub digest: u64,
}

/// One core: its groups, their log, their state machine.
pub struct Core<D: Disk, M: StateMachine> {
    _skeleton: std::marker::PhantomData<(D, M)>,
}

impl<D: Disk, M: StateMachine> fmt::Debug for Core<D, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Opens the log, replays what is known committed into `machine`, and creates the groups. Blocks on the disk: start-up.
    pub fn open(
        now: Moment,
        options: CoreOptions,
        disk: D,
        machine: M,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        todo!()
    }
    /// Takes one event. An error means: the peer sent garbage; drop it and close that connection.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Result<(), FrameError> {
        todo!()
    }
    /// Ends a turn: due deadlines, flush of touched groups, log submission, release of what became durable, apply, answers, one
    /// frame per link. `now` is read after the inputs of the turn were taken.
    pub fn turn(&mut self, now: Moment) -> Result<(), Fatal> {
        todo!()
    }
    /// When [`Core::turn`] must be called at the latest if nothing happens.
    pub fn next_deadline(&self) -> Moment {
        todo!()
    }
    /// Takes the bytes to send on a link: whole frames, appended to `out`. False if there are none.
    pub fn take_frames(&mut self, link: LinkId, out: &mut Vec<u8>) -> bool {
        todo!()
    }
    /// Links that have frames to send since the last call.
    pub fn links_with_frames(&mut self, links: &mut Vec<LinkId>) {
        todo!()
    }
    /// Registers a consumer of answers.
    pub fn add_port(&mut self) -> PortId {
        todo!()
    }
    /// Removes a consumer: answers to it are dropped from now on; its id may be reused once all of them came.
    pub fn remove_port(&mut self, port: PortId) {
        todo!()
    }
    /// Ports that have answers since the last call.
    pub fn ports_with_answers(&mut self, ports: &mut Vec<PortId>) {
        todo!()
    }
    /// Swaps a port's answers into `answers` (which must be empty).
    pub fn take_answers(&mut self, port: PortId, answers: &mut Completions) {
        todo!()
    }
    /// Groups whose known leader changed since the last call, with the leader now known (`NONE` if none is). Appended to
    /// `changes`, each group at most once. All leaders are unknown when the core opens.
    pub fn leadership_changes(&mut self, changes: &mut Vec<(Slot, NodeId)>) {
        todo!()
    }
    /// Proposals and reads that were taken and are not answered yet: a clean stop waits for them.
    pub fn requests_waiting(&self) -> usize {
        todo!()
    }
    /// The highest `durable_end` that the pulses of a link told of the peer core's log; remembered by the node to refuse a peer
    /// that comes back with less.
    pub fn peer_durable_end(&self, link: LinkId) -> u64 {
        todo!()
    }
    /// Over a bound on bytes: the runtime takes no more input from sockets until it is false.
    pub fn is_saturated(&self) -> bool {
        todo!()
    }
    /// The table the peer needs: every group here that `peer` is a voter of, with its slot.
    pub fn hello_for(&self, peer: NodeId) -> PeerHello {
        todo!()
    }
    /// The link to a peer core, after [`Event::LinkUp`].
    pub fn link_of(&self, node: NodeId, core: CoreId) -> Option<LinkId> {
        todo!()
    }
    pub fn slot_of(&self, group: GroupId) -> Option<Slot> {
        todo!()
    }
    /// Whether this node leads, and who leads, cheap.
    pub fn leader_of(&self, slot: Slot) -> NodeId {
        todo!()
    }
    pub fn applied(&self, slot: Slot) -> LogIndex {
        todo!()
    }
    pub fn is_leader(&self, slot: Slot) -> bool {
        todo!()
    }
    pub fn status(&self) -> CoreStatus {
        todo!()
    }
    pub fn group_status(&self, slot: Slot) -> GroupStatus {
        todo!()
    }
    pub fn machine(&self) -> &M {
        todo!()
    }
    pub fn wal(&mut self) -> &mut logdrive_wal::Wal<D> {
        todo!()
    }
    /// Everything appended is written and durable, the log is closed clean. Blocks.
    pub fn close(self, now: Moment) -> Result<(), Fatal> {
        todo!()
    }
}
