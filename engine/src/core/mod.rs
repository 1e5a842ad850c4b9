//! The loop of one core over all its groups: a deterministic state machine. No async, no clock, no socket.
//!
//! # Order of calls
//!
//! [`Core::open`] once. Then, for ever: [`Core::handle`] for each thing that happened, and one [`Core::turn`] with a `now`
//! that was read after the things were collected; then the frames ([`Core::links_with_frames`], [`Core::take_frames`]),
//! the answers ([`Core::ports_with_answers`], [`Core::take_answers`]) and the changes of leadership
//! ([`Core::leadership_changes`]) of the turn. If nothing happens, the next turn is due at [`Core::next_deadline`].
//! [`Core::close`] ends it.
//!
//! # What is where
//!
//! | file | |
//! |---|---|
//! | `types` | what goes in and out |
//! | `ingress` | `handle`: requests and events; `frames`: messages of peers |
//! | `turn` | `turn`: what a turn does, in which order |
//! | `step` | stepping one group; the sink its steps write through |
//! | `lane`, `cache`, `requests`, `parked`, `loads` | what the core keeps beside the groups |
//! | `timers`, `prefetch` | deadlines of all groups; asking for memory ahead |
//! | `links`, `peers` | links, pulses, contact, routes |
//! | `apply`, `waits` | applying and serving reads; `patience`: reads that get no further; `sessions`: exactly-once commands |
//! | `members`, `retire` | changes of configurations, and what follows from them; groups that left this node |
//! | `balance` | leader placement, hand-over; `transfers`: orders to hand over |
//! | `room` | room in the logs of a group's members; `pressure`: what the log asks to be given up |
//! | `held` | what is bounded, beside its bounds |
//! | `heal` | entries that the disk lost while the node runs |
//! | `snapshots` | when they are taken, writing, loading, installing; what of the log may go then |
//! | `open`, `recovery`, `record` | opening, reading the log back, and what its records mean |
//! | `lives` | the beginnings of a group's log |
//!
//! # Deliberately absent
//!
//! Clocks, sockets, entropy, threads. Consensus (that is `logdrive-shard`) and the format of the log (`logdrive-wal`).

mod applier;
mod apply;
mod balance;
mod buggify;
mod cache;
mod frames;
mod gap;
mod heal;
mod held;
mod ingress;
mod lane;
mod links;
mod lives;
mod loads;
mod members;
mod open;
mod parked;
mod patience;
mod peers;
mod prefetch;
mod pressure;
mod record;
mod recovery;
mod requests;
mod retire;
mod room;
mod sessions;
mod snapshots;
mod status;
mod step;
mod timers;
mod transfers;
mod turn;
mod types;
mod unanswered;
mod waits;

use std::collections::VecDeque;
use std::fmt;

use logdrive_shard::{Config as ShardConfig, Group, GroupId, Moment, NodeId, Random};
use logdrive_wal::{Disk, Wal};

use crate::api::{Completions, Replies, StateMachine};
use balance::Balance;
use lives::Life;
use room::Room;
use sessions::Sessions;
use snapshots::Snapshots;
use step::Io;

pub use held::Held;
pub use open::{Disks, OpenError};
pub(crate) use prefetch::prefetch_bytes;
pub use snapshots::{
    Offered, SnapshotCounters, SnapshotStatus, TransferCounters, TransferStatus, TransferStep,
};
pub use status::Counters;
pub use timers::TimerWheel;
pub use types::{
    CoreId, CoreOptions, CoreStatus, Event, Fatal, GroupDigest, GroupSetup, GroupStatus, GroupSummary,
    LinkId, PortId, Slot,
};

/// Buffers that a turn needs for a moment, kept for their memory.
#[derive(Default)]
struct Scratch {
    memberships: Vec<(logdrive_shard::LogIndex, logdrive_shard::Membership)>,
    slots: Vec<u32>,
    replies: Replies,
    reply: Vec<u8>,
    /// A session's entry under construction.
    entry: Vec<u8>,
    ranges: Vec<apply::Range>,
    entries: Vec<crate::api::ApplyEntry<'static>>,
}

/// One core: its groups, their log, their state machine.
pub struct Core<D: Disk, M: StateMachine> {
    core: CoreId,
    boot: u64,
    /// By slot, and the same sorted by id.
    ids: Vec<GroupId>,
    sorted: Vec<(GroupId, u32)>,
    /// By slot: whether the group has a preferred leader, or has one as soon as its members are known.
    prefers: Vec<bool>,
    /// By slot: which beginning of the group's log is the present one.
    lives: Vec<Life>,
    /// Groups that this node is no member of, and when to look whether they can be given up. Each at most once.
    retiring: VecDeque<(Moment, u32)>,
    groups: Vec<Group>,
    config: ShardConfig,
    random: Random,
    timers: TimerWheel,
    io: Io<D>,
    machine: M,
    sessions: Sessions,
    balance: Balance,
    room: Room,
    snapshots: Snapshots<D, M>,
    /// When the next pulses are due; `NEVER` without links.
    next_pulse: Moment,
    /// When a log that is out of space is tried again.
    next_log_retry: Moment,
    /// The log has finished something that the next turn takes.
    log_news: bool,
    scratch: Scratch,
}

impl<D: Disk, M: StateMachine> fmt::Debug for Core<D, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("core", &self.core).field("groups", &self.groups.len()).finish()
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Registers a consumer of answers.
    pub fn add_port(&mut self) -> PortId {
        self.io.ports.add()
    }

    /// Removes a consumer: answers to it are dropped from now on; its id may be reused once all of them came.
    pub fn remove_port(&mut self, port: PortId) {
        self.io.ports.remove(port);
    }

    /// Ports that have answers since the last call, added to `ports`.
    pub fn ports_with_answers(&mut self, ports: &mut Vec<PortId>) {
        self.io.ports.with_answers(ports);
    }

    /// Swaps a port's answers into `answers` (which must be empty).
    pub fn take_answers(&mut self, port: PortId, answers: &mut Completions) {
        self.io.ports.take(port, answers);
    }

    /// Groups whose known leader changed since the last call, with the leader now known (`NONE` if none is). Appended to
    /// `changes`, each group at most once. All leaders are unknown when the core opens.
    pub fn leadership_changes(&mut self, changes: &mut Vec<(Slot, NodeId)>) {
        for slot in self.io.queues.leader_changes.drain(..) {
            self.io.lanes[slot as usize].flags.lower(lane::Flags::LEADER_CHANGED);
            changes.push((Slot(slot), self.groups[slot as usize].leader()));
        }
    }

    /// A hint that a proposal for this group comes soon, a few others before it.
    pub fn prefetch(&self, slot: Slot) {
        self.prefetch_slot(slot.0);
        self.prefetch_log(slot.0);
    }

    #[inline(always)]
    fn prefetch_slot(&self, slot: u32) {
        if let (Some(group), Some(lane)) = (self.groups.get(slot as usize), self.io.lanes.get(slot as usize))
        {
            prefetch::prefetch(group);
            prefetch::prefetch(lane);
        }
    }

    #[inline(always)]
    fn prefetch_log(&self, slot: u32) {
        if let Some(&stream) = self.io.streams.get(slot as usize) {
            self.io.wal.prefetch(stream);
        }
    }

    #[inline(always)]
    fn prefetch_log_end(&self, slot: u32) {
        if let Some(&stream) = self.io.streams.get(slot as usize) {
            self.io.wal.prefetch_end(stream);
        }
    }

    /// The slot of a group, if it lives here.
    pub fn slot_of(&self, group: GroupId) -> Option<Slot> {
        find(&self.sorted, group).map(Slot)
    }

    /// The id of a group.
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.ids[slot.0 as usize]
    }

    /// Proposals and reads that were taken and are not answered yet: a clean stop waits for them.
    pub fn requests_waiting(&self) -> usize {
        self.io.requests as usize
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The log.
    pub fn wal(&mut self) -> &mut Wal<D> {
        &mut self.io.wal
    }

    /// Everything appended is written and durable, the log is closed clean. The commit indexes go with it, so that the next
    /// start applies all that is known to be committed without asking anybody. Blocks.
    pub fn close(mut self, now: Moment) -> Result<(), Fatal> {
        let core = self.core.0;
        for (slot, group) in self.groups.iter().enumerate() {
            if self.io.lanes[slot].applied.0 > 0 {
                // Without space the commit index is found out again from the others.
                self.io.write_state(slot as u32, group.hard_state());
            }
        }
        self.snapshots.store.close();
        self.io.wal.close(now.0).map_err(|error| Fatal::LogPoisoned { core, error })
    }
}

/// The slot of `group` in a table sorted by id.
fn find(sorted: &[(GroupId, u32)], group: GroupId) -> Option<u32> {
    // Ids are dense as a rule: then the place is known without a search.
    let first = sorted.first()?.0;
    let guess = group.0.checked_sub(first.0)? as usize;
    if let Some(&(id, slot)) = sorted.get(guess)
        && id == group
    {
        return Some(slot);
    }
    let at = sorted.binary_search_by_key(&group, |&(id, _)| id).ok()?;
    Some(sorted[at].1)
}
