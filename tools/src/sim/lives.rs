//! The lives of nodes: where groups live, how processes start, end and come back.

use std::collections::BTreeMap;
use std::rc::Rc;

use logdrive::core::{Core, CoreId, CoreOptions, Disks, GroupSetup, OpenError, Slot};
use logdrive::mesh::Mesh;
use logdrive::node::PeersMemory;
use logdrive::wire::{BootName, BootNames};
use logdrive_shard::{GroupId, Moment, NodeId};
use logdrive_wal::{SimDisk, SimOptions, SimPlatter};

use super::buggify::Whims;
use super::clock::{MICROSECOND, MILLISECOND, NEVER, Nanos, NodeClock, SECOND};
use super::disk::WatchedDisk;
use super::faults::Stop;
use super::machine::Machine;
use super::node::{Backup, CoreAt, CoreState, Live, Node};
use super::observer::{Broken, Verdict};
use super::queue::Event;
use super::random::{Purpose, chance, stream, within};
use super::shape::DISK_BYTES;
use super::world::{CLUSTER, World};

/// The disk of a core's snapshots, beside that of its log.
fn snapshot_platter(log: SimOptions) -> SimPlatter {
    SimDisk::new(SimOptions { seed: log.seed ^ 0x5eed, ..log }).platter()
}

/// Writes of a life whose blocks are remembered in the next one.
const LAST_WRITES: usize = 12;
/// A node that its damaged disks refused so often in a row is given up.
const REFUSALS_MAX: u32 = 5;

impl World {
    /// Makes the nodes and their cores; each group lives on a core of its own choice on each node, in a slot of its own choice.
    pub(super) fn place(&mut self) {
        let mut random = stream(self.plan.seed, Purpose::Placement, 0);
        let nodes = self.plan.nodes as usize;
        for node in 0..nodes {
            let first = self.cores.len();
            for core in 0..self.plan.cores {
                let options = SimOptions { seed: random.next_u64(), capacity_bytes: DISK_BYTES };
                self.cores.push(CoreState {
                    node,
                    id: CoreId(core as u16),
                    platter: SimDisk::new(options.clone()).platter(),
                    snapshots: snapshot_platter(options),
                    last_blocks: Vec::new(),
                    groups: Vec::new(),
                    live: None,
                    read_clock: Moment(0),
                    turn_at: NEVER,
                    turns_alone: 0,
                    turn_takes: 0,
                });
            }
            self.nodes.push(Node {
                id: NodeId(node as u32 + 1),
                cores: first..self.cores.len(),
                clock: NodeClock::new(self.now, within(&mut random, SECOND..1_000 * SECOND)),
                lanes: Vec::new(),
                boot: 0,
                names: BootNames::default(),
                incarnation: random.next_u64() | 1,
                memory: PeersMemory::default(),
                is_up: false,
                paused_until: 0,
                is_spoiled: false,
                disk_is_suspect: false,
                doomed: None,
                stumbles: None,
                backup: None,
                starts_at: NEVER,
                refusals: 0,
                stays_down: false,
            });
        }
        self.homes = vec![(CoreAt(0), Slot(0)); nodes * self.plan.groups as usize];
        for group in 1..=u64::from(self.plan.groups) {
            let founders = self.choose_founders(&mut random);
            let preferred_leader = founders[random.below(founders.len() as u64) as usize];
            for node in 0..nodes {
                let cores = self.nodes[node].cores.clone();
                let core = cores.start + random.below(cores.len() as u64) as usize;
                let is_founder = founders.contains(&self.nodes[node].id);
                let setup = GroupSetup {
                    id: GroupId(group),
                    founders: if is_founder { founders.clone() } else { Vec::new() },
                    preferred_leader: if is_founder { preferred_leader } else { NodeId::NONE },
                };
                let groups = &mut self.cores[core].groups;
                let slot = random.below(groups.len() as u64 + 1) as usize;
                groups.insert(slot, setup);
            }
            self.founders.push(founders);
        }
        for (at, core) in self.cores.iter().enumerate() {
            for (slot, setup) in core.groups.iter().enumerate() {
                let home = core.node * self.plan.groups as usize + setup.id.0 as usize - 1;
                self.homes[home] = (CoreAt(at), Slot(slot as u32));
            }
        }
    }

    /// All nodes, or in a larger cluster now and then three or five of them.
    fn choose_founders(&self, random: &mut logdrive_shard::Random) -> Vec<NodeId> {
        let mut founders: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let few = match random.below(3) {
            _ if self.shape.everybody_votes => founders.len(),
            0 => 3,
            1 => 5,
            _ => founders.len(),
        };
        while founders.len() > few {
            founders.remove(random.below(founders.len() as u64) as usize);
        }
        founders
    }

    // -- beginnings ------------------------------------------------------------------------------------------------------

    /// The node starts after a pause, unless it is to start before that anyway: there is one start at a time to be waited for, however
    /// many faults ended its process meanwhile.
    pub(super) fn start_later(&mut self, node: usize, pause: Nanos) {
        let at = self.now + pause;
        if at < self.nodes[node].starts_at {
            self.nodes[node].starts_at = at;
            self.queue.put(at, Event::Start { node: node as u32 });
        }
    }

    /// A start that was put off; void if there was another one meanwhile.
    pub(super) fn start_if_due(&mut self, node: usize) -> Verdict {
        let state = &mut self.nodes[node];
        if state.starts_at != self.now {
            return Ok(());
        }
        state.starts_at = NEVER;
        match state.is_up || state.stays_down {
            true => Ok(()),
            false => self.start_node(node),
        }
    }

    /// Starts a node's process on its directories.
    pub fn start_node(&mut self, node: usize) -> Verdict {
        self.note(Some(node), || "starts".to_owned());
        self.reach("starts");
        // The boot counter and the boot's name are durable before anything else.
        let name = BootName(self.random.boots.next_u64().max(1));
        let state = &mut self.nodes[node];
        state.boot += 1;
        state.names = state.names.begin(name);
        state.is_up = true;
        state.starts_at = NEVER;
        state.paused_until = 0;
        state.doomed = None;
        let shown = state.clock.shows(self.now);
        if chance(&mut self.random.lives, 4) {
            // The machine was started as well: its clock begins anew.
            state.clock =
                NodeClock::new(self.now, within(&mut self.random.lives, SECOND..shown.max(2 * SECOND)));
        }
        let stumbles = self.stumbles_at(node);
        self.begin_mesh(node);
        for at in self.nodes[node].cores.clone() {
            self.cores[at].platter.revive();
            self.cores[at].snapshots.revive();
            if let Some((_, operations, _)) = stumbles.filter(|(core, ..)| *core == at) {
                self.cores[at].platter.halt_after(operations);
            }
            match (self.open_core(CoreAt(at))?, stumbles) {
                (Ok(()), _) => {}
                (Err(_), Some((.., how))) if self.cores[at].platter.halted() => {
                    return self.ends_while_it_starts(node, how);
                }
                (Err(error), _) => return self.does_not_start(node, &error),
            }
        }
        self.nodes[node].refusals = 0;
        Ok(())
    }

    /// Which core's disk performs how many operations while the node starts, if it is to end meanwhile, and how it ends.
    fn stumbles_at(&mut self, node: usize) -> Option<(usize, u64, Stop)> {
        let state = &mut self.nodes[node];
        let (operations, how, times) = state.stumbles.take()?;
        state.stumbles = (times > 1).then(|| (operations + 3, how, times - 1));
        let core = state.cores.start + usize::from(operations) % state.cores.len();
        Some((core, operations.into(), how))
    }

    /// The process ends before it has started.
    fn ends_while_it_starts(&mut self, node: usize, how: Stop) -> Verdict {
        self.reach("crashes while starting");
        self.note(Some(node), || format!("ends while it starts: {how:?}"));
        self.nodes[node].is_up = false;
        for at in self.nodes[node].cores.clone() {
            self.count_disk_faults(CoreAt(at));
            self.count_snapshot_faults(CoreAt(at));
            let state = &mut self.cores[at];
            (state.live, state.turn_at) = (None, NEVER);
            state.platter.revive();
            if how == Stop::PowerLoss {
                state.platter.power_loss();
                state.snapshots.power_loss();
            }
        }
        self.drop_lies(node);
        self.start_later(node, MILLISECOND);
        self.tell(|observer, world| observer.stopped(world, node))
    }

    fn does_not_start(&mut self, node: usize, error: &OpenError) -> Verdict {
        let id = self.nodes[node].id;
        if !self.nodes[node].disk_is_suspect {
            return Err(Broken::new("a node starts on its directories", error.to_string()).on_node(id));
        }
        self.reach("starts refused by a disk");
        self.note(Some(node), || format!("does not start: {error}"));
        self.nodes[node].is_up = false;
        for at in self.nodes[node].cores.clone() {
            self.count_disk_faults(CoreAt(at));
            self.count_snapshot_faults(CoreAt(at));
            self.cores[at].live = None;
            self.cores[at].turn_at = NEVER;
            self.cores[at].platter.clear_faults();
            self.cores[at].snapshots.clear_faults();
        }
        self.nodes[node].refusals += 1;
        if self.nodes[node].refusals >= REFUSALS_MAX && self.holds_damage(node) {
            // Its operator replaces it. That it is not there is what its peers see of it.
            self.reach("nodes given up for their disks");
            let state = &mut self.nodes[node];
            (state.is_spoiled, state.stays_down) = (true, true);
            return Ok(());
        }
        self.start_later(node, 200 * MILLISECOND);
        Ok(())
    }

    fn open_core(&mut self, at: CoreAt) -> Result<Result<(), OpenError>, Box<Broken>> {
        let seed = self.random.lives.next_u64();
        let state = &mut self.cores[at.0];
        let node = &self.nodes[state.node];
        let opened = state.platter.open().and_then(|log| Ok((log, state.snapshots.open()?)));
        let (disk, snapshots) = match opened {
            Ok(disks) => disks,
            Err(error) => return Err(Broken::new("nobody else has the directories", error.to_string())),
        };
        let options = CoreOptions {
            node: node.id,
            core: state.id,
            cluster: CLUSTER,
            boot: node.boot,
            seed,
            groups: state.groups.clone(),
            settings: self.settings.clone(),
        };
        let applied = Rc::default();
        let disk_events = self.watch_disks.then(Rc::default);
        let machine = Machine::new(self.plan.machine, self.shape.filler_bytes, Rc::clone(&applied));
        let whims = Whims::of_core(&self.whims, at.0, node.boot);
        let log = WatchedDisk::new(disk, disk_events.clone()).with_whims(whims);
        let disks = Disks { log, snapshots: WatchedDisk::new(snapshots, None) };
        let now = Moment(node.clock.shows(self.now));
        let mut core = match Core::open(now, options, disks, machine, &mut |_, _| {}) {
            Ok(core) => core,
            Err(error) => return Ok(Err(error)),
        };
        core.wal().disk().inner.set_latency(self.shape.disk_takes.clone());
        core.wal().disk().inner.advance(self.now);
        core.snapshot_disk().inner.set_latency(self.shape.disk_takes.clone());
        core.snapshot_disk().inner.advance(self.now);
        let port = core.add_port();
        let mesh = Mesh::new(self.plan.cores as u16, self.shape.mesh, port, || core.add_port());
        let mut summaries = Vec::new();
        core.group_list(&mut summaries);
        let (connections, steps) = (Vec::new(), [0; 3]);
        let durable_end = core.log().durable_end();
        let (works, refusals) = (BTreeMap::new(), Vec::new());
        let live = Live {
            core,
            port,
            mesh,
            works,
            refusals,
            connections,
            applied,
            disk_events,
            summaries,
            steps,
            durable_end,
        };
        let replayed = std::mem::take(&mut *live.applied.borrow_mut());
        state.live = Some(live);
        state.read_clock = now;
        state.turn_at = self.now;
        state.turns_alone = 0;
        self.show_disk(at)?;
        for applied in &replayed {
            self.tell(|observer, world| observer.applied(world, at, applied))?;
        }
        self.count_snapshot_start(at);
        self.count_losses(at);
        self.tell(|observer, world| observer.opened(world, at))?;
        self.slow_disks_again(self.cores[at.0].node);
        Ok(Ok(()))
    }

    // -- ends ------------------------------------------------------------------------------------------------------------

    /// Ends a node's process: in order, by a kill, or by a loss of power.
    pub fn stop_node(&mut self, node: usize, how: Stop) -> Verdict {
        if !self.nodes[node].is_up {
            return Ok(());
        }
        self.note(Some(node), || format!("ends: {how:?}"));
        self.reach("stops");
        self.nodes[node].is_up = false;
        self.nodes[node].paused_until = 0;
        self.nodes[node].doomed = None;
        // Its operator has read why it was refused.
        self.nodes[node].stays_down |= self.nodes[node].is_spoiled;
        for at in self.nodes[node].cores.clone() {
            self.stop_core(CoreAt(at), how)?;
        }
        self.node_is_gone(node, how == Stop::PowerLoss);
        self.end_mesh(node);
        self.give_up_on(node);
        self.drop_lies(node);
        self.tell(|observer, world| observer.stopped(world, node))
    }

    fn stop_core(&mut self, at: CoreAt, how: Stop) -> Verdict {
        self.show_disk(at)?;
        self.keep_counts(at);
        self.forget_changes(at);
        self.count_disk_faults(at);
        self.count_snapshot_faults(at);
        let state = &mut self.cores[at.0];
        let node = &self.nodes[state.node];
        state.turn_at = NEVER;
        let Some(mut live) = state.live.take() else { return Ok(()) };
        state.last_blocks = live.core.wal().disk().newest_blocks(LAST_WRITES);
        let mut closed = Ok(());
        match how {
            Stop::Clean => closed = live.core.close(Moment(node.clock.shows(self.now))),
            Stop::Kill | Stop::PowerLoss => drop(live),
        }
        if how == Stop::PowerLoss {
            state.platter.power_loss();
            state.snapshots.power_loss();
        }
        match closed {
            Err(error) if !node.disk_is_suspect && !state.platter.halted() => {
                Err(Broken::new("a log is closed in order", error.to_string()).on_node(node.id))
            }
            _ => Ok(()),
        }
    }

    /// Counts the groups of a core that know of a loss when they start.
    fn count_losses(&mut self, at: CoreAt) {
        let Some(core) = self.core(at) else { return };
        let slots = (0..self.cores[at.0].groups.len() as u32).map(Slot);
        let lost: Vec<_> = slots.map(|slot| core.group_status(slot).raft.lost).collect();
        for lost in lost {
            if lost.state {
                self.reach("members in doubt about their vote");
            }
            if lost.log.is_some() {
                self.reach("members with entries lost");
            }
        }
    }

    /// What the core's counters say goes into the report.
    pub(super) fn keep_counts(&mut self, at: CoreAt) {
        let Some(live) = &self.cores[at.0].live else { return };
        let counters = live.core.counters();
        let (evictions, read_errors) = live.core.cache_evictions_and_read_errors();
        let counts = [
            ("entries applied", counters.applied),
            ("proposals", counters.proposals),
            ("reads", counters.reads),
            ("lease reads", counters.lease_reads),
            ("busy", counters.busy),
            ("frames", counters.frames_out),
            ("frames ignored", counters.ignored),
            ("messages dropped", counters.dropped),
            ("appends held back", counters.held_back),
            ("appends refused", counters.appends_refused),
            ("groups retired", counters.retired),
            ("reads given up", counters.reads_given_up),
            ("cold entries", counters.cold_entries),
            ("cache evictions", evictions),
            ("read errors", read_errors),
            ("losses healed while running", counters.healed),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            *self.reached.entry(name).or_default() += count;
        }
        self.keep_snapshot_counts(at);
    }

    // -- other lives -----------------------------------------------------------------------------------------------------

    /// Copies what is on a node's disks and what it remembers, as a backup program would while it runs.
    pub(super) fn back_up(&mut self, node: usize) {
        let platters = self.nodes[node].cores.clone().map(|at| {
            let seed = self.random.lives.next_u64();
            (self.cores[at].platter.copy(seed), self.cores[at].snapshots.copy(seed ^ 1))
        });
        let platters = platters.collect();
        let state = &mut self.nodes[node];
        let (boot, names, memory) = (state.boot, state.names, state.memory.clone());
        state.backup = Some(Backup { boot, names, memory, platters });
    }

    /// The node comes back on its backup.
    pub(super) fn restore(&mut self, node: usize) -> Verdict {
        let Some(backup) = self.nodes[node].backup.take() else { return Ok(()) };
        self.stop_node(node, Stop::Kill)?;
        self.forget_damage(node);
        let cores = self.nodes[node].cores.clone();
        for (at, (platter, snapshots)) in cores.zip(backup.platters) {
            // It goes to disks with room, however full those were that it is of.
            platter.set_capacity(DISK_BYTES);
            snapshots.set_capacity(DISK_BYTES);
            (self.cores[at].platter, self.cores[at].snapshots) = (platter, snapshots);
        }
        let state = &mut self.nodes[node];
        (state.boot, state.names, state.memory) = (backup.boot, backup.names, backup.memory);
        state.is_spoiled = true;
        self.start_later(node, 20 * MILLISECOND);
        Ok(())
    }

    /// The node comes back with empty directories.
    pub(super) fn wipe(&mut self, node: usize) -> Verdict {
        self.stop_node(node, Stop::Kill)?;
        self.forget_damage(node);
        for at in self.nodes[node].cores.clone() {
            let options = SimOptions { seed: self.random.lives.next_u64(), capacity_bytes: DISK_BYTES };
            self.cores[at].platter = SimDisk::new(options.clone()).platter();
            self.cores[at].snapshots = snapshot_platter(options);
        }
        let incarnation = self.random.lives.next_u64() | 1;
        let state = &mut self.nodes[node];
        (state.boot, state.memory, state.incarnation) = (0, PeersMemory::default(), incarnation);
        state.names = BootNames::default();
        state.is_spoiled = true;
        self.start_later(node, 20 * MILLISECOND);
        Ok(())
    }

    /// The node's process gets no CPU for a while.
    pub(super) fn pause(&mut self, node: usize, until: Nanos) {
        self.nodes[node].paused_until = until;
    }

    /// It goes on.
    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused_until = 0;
        for at in self.nodes[node].cores.clone() {
            let state = &mut self.cores[at];
            if state.live.is_some() {
                state.turn_at = self.now + self.random.schedule.below(40 * MICROSECOND);
            }
        }
        self.call_again(node);
        self.deliver_what_waited();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::{Plan, Profile};
    use crate::sim::trace::Trace;

    #[test]
    fn a_node_that_is_refused_is_started_once_more_however_often_that_was_ordered() {
        let only = Some("none".parse().unwrap());
        let plan = Plan { clients: 0, only, ..Plan::new(Profile::Default, 1) };
        let mut world = World::new(plan.clone(), Trace::new(plan.groups as usize, None));
        world.start().unwrap();
        world.run_for(SECOND).unwrap();
        world.stop_node(0, Stop::Kill).unwrap();
        world.lose_disk(0);
        let boot = world.nodes[0].boot;
        for pause in [3, 1, 5, 2] {
            world.start_later(0, pause * MILLISECOND);
        }
        world.run_for(100 * MILLISECOND).unwrap();
        assert_eq!((world.nodes[0].boot, world.nodes[0].is_up), (boot + 1, false), "the disk refused it");
        world.run_for(SECOND).unwrap();
        assert_eq!((world.nodes[0].boot, world.nodes[0].is_up), (boot + 2, true));
    }
}
