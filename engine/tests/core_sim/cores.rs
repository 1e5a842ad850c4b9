//! Turning the loops of cores, and the lives of their processes.

use logdrive::core::{Core, CoreOptions, Event, Slot};
use logdrive::wire::{FrameView, VERSION_MAX, frame_len};
use logdrive_shard::{AppendOutcome, GroupId, Moment, NodeId};
use logdrive_wal::{Fault, OpenError};

use super::machine::Register;
use super::network::Packet;
use super::world::{CLUSTER, DISK_BYTES, DISK_LATENCY, Happening, Live, MICROSECOND, MILLISECOND, World};

/// The token of leader transfers, which no client waits for.
pub(super) const TRANSFER: u64 = u64::MAX;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Clean,
    Kill,
    PowerLoss,
}

impl World {
    /// An event for a core; its loop turns soon after, with whatever else has come by then.
    /// False if it was garbage.
    pub(super) fn input(&mut self, actor: usize, event: Event<'_>) -> bool {
        let (now, delay) = (Moment(self.now), self.random.below(40 * MICROSECOND));
        let state = &mut self.actors[actor];
        let live = state.live.as_mut().expect("only for cores that run");
        let taken = live.core.handle(now, event);
        state.turn_at = state.turn_at.min(self.now + delay);
        taken.is_ok()
    }

    pub(super) fn turn(&mut self, actor: usize) {
        let now = Moment(self.now);
        let node = self.actors[actor].node;
        if self.members[node].paused_until > self.now {
            self.actors[actor].turn_at = self.members[node].paused_until;
            return;
        }
        self.mix(5 << 20 | actor as u64);
        let state = &mut self.actors[actor];
        state.spins += 1;
        assert!(state.spins < 1_000, "core {} of node {} spins", state.id.0, self.members[node].id);
        let live = state.live.as_mut().expect("turns are for cores that run");
        live.core.wal().disk().advance(self.now);
        live.core.handle(now, Event::Disk).expect("not a frame");
        if let Err(fatal) = live.core.turn(now) {
            self.note(|| fatal.to_string());
            assert!(self.plan.disks_fail, "node {}: {fatal}", node + 1);
            // The process ends with this message and is started again.
            self.stop(node, Stop::Kill);
            let at = self.now + 50 * MILLISECOND + self.random.below(200 * MILLISECOND);
            self.restart_at(node, at);
            return;
        }
        let due = live.core.wal().disk().next_due().unwrap_or(u64::MAX);
        state.turn_at = live.core.next_deadline().0.min(due).max(self.now);
        self.check_groups(actor);
        self.send_frames(actor);
        self.take_answers(actor);
    }

    pub(super) fn check_groups(&mut self, actor: usize) {
        let state = &mut self.actors[actor];
        let node = self.members[state.node].id;
        let live = state.live.as_mut().expect("just turned");
        for (slot, group) in state.groups.iter().enumerate() {
            let status = live.core.group_status(Slot(slot as u32));
            self.checker.borrow_mut().on_state(node, group.founders.len(), &status);
        }
        let mut changes = Vec::new();
        live.core.leadership_changes(&mut changes);
        for (slot, leader) in changes {
            let group = self.actors[actor].groups[slot.0 as usize].id;
            self.note(|| format!("node {node}: group {group} is led by {leader}"));
        }
    }

    pub(super) fn send_frames(&mut self, actor: usize) {
        let mut links = Vec::new();
        let mut frames = std::mem::take(&mut self.frames);
        self.actors[actor].live.as_mut().expect("just turned").core.links_with_frames(&mut links);
        for link in links {
            let live = self.actors[actor].live.as_mut().expect("just turned");
            frames.clear();
            live.core.take_frames(link, &mut frames);
            let connection = live.connections[usize::from(link.0)];
            let ends = self.connections[connection].ends;
            let to = usize::from(ends[0] == actor);
            let mut rest = &frames[..];
            while !rest.is_empty() {
                let (frame, later) = rest.split_at(frame_len(rest, VERSION_MAX).expect("our own frame"));
                rest = later;
                self.inspect(actor, ends[to], frame);
                if self.connections[connection].open {
                    self.send(connection, to, Packet::Frame(frame.to_vec()));
                }
            }
        }
        self.frames = frames;
    }

    /// Tells the checker of promises that leave a node.
    pub(super) fn inspect(&self, from: usize, to: usize, frame: &[u8]) {
        let frame = FrameView::parse(frame, VERSION_MAX).expect("our own frame");
        let [node, peer] = [from, to].map(|actor| self.members[self.actors[actor].node].id);
        let group = |slot: u32| self.actors[to].groups[slot as usize].id;
        let mut checker = self.checker.borrow_mut();
        for (address, vote) in frame.vote_requests().filter(|(_, vote)| !vote.pre_vote) {
            checker.on_vote(node, group(address.slot), vote.term, node);
        }
        for (address, vote) in frame.vote_replies().filter(|(_, vote)| vote.granted && !vote.pre_vote) {
            checker.on_vote(node, group(address.slot), vote.term, peer);
        }
        for (address, reply) in frame.append_replies() {
            if let AppendOutcome::Matched(index) = reply.outcome {
                checker.on_matched(node, group(address.slot), reply.term, index);
            }
        }
    }

    // -- lives --------------------------------------------------------------------------------------------------------

    pub(crate) fn is_alive(&self, node: usize) -> bool {
        self.members[node].alive
    }

    pub(crate) fn restart(&mut self, node: usize) {
        self.note(|| format!("node {} starts", node + 1));
        self.members[node].boot += 1;
        self.members[node].alive = true;
        for actor in self.members[node].actors.clone() {
            self.actors[actor].platter.clear_faults();
            if let Err(error) = self.open_core(actor) {
                self.note(|| format!("node {} does not start: {error}", node + 1));
                assert!(self.members[node].disk_is_full, "node {} does not start: {error}", node + 1);
                self.members[node].alive = false;
                self.members[node].actors.iter().for_each(|&actor| {
                    self.actors[actor].live = None;
                    self.actors[actor].turn_at = u64::MAX;
                });
                self.restart_at(node, self.now + 200 * MILLISECOND);
                return;
            }
        }
    }

    fn open_core(&mut self, actor: usize) -> Result<(), OpenError> {
        let seed = self.random.next_u64();
        let state = &mut self.actors[actor];
        let member = &self.members[state.node];
        let disk = state.platter.open().expect("no other process has it");
        let options = CoreOptions {
            node: member.id,
            core: state.id,
            cluster: CLUSTER,
            boot: member.boot,
            seed,
            groups: state.groups.clone(),
            settings: self.settings.clone(),
        };
        let machine = Register::new(member.id, self.checker.clone());
        let mut core = Core::open(Moment(self.now), options, disk, machine, &mut |_, _| {})?;
        for (slot, group) in state.groups.iter().enumerate() {
            let status = core.group_status(Slot(slot as u32));
            let mut checker = self.checker.borrow_mut();
            checker.on_restart(member.id, group.id, status.raft.term, status.raft.last);
            checker.on_state(member.id, group.founders.len(), &status);
        }
        core.wal().disk().set_latency(DISK_LATENCY);
        core.wal().disk().advance(self.now);
        let port = core.add_port();
        state.live = Some(Live { core, port, connections: Vec::new() });
        state.turn_at = self.now;
        Ok(())
    }

    /// Ends a node's process: in order, by a kill, or by a loss of power.
    pub(crate) fn stop(&mut self, node: usize, how: Stop) {
        self.note(|| format!("node {} ends: {how:?}", node + 1));
        self.members[node].alive = false;
        self.members[node].paused_until = 0;
        for actor in self.members[node].actors.clone() {
            let state = &mut self.actors[actor];
            state.turn_at = u64::MAX;
            let live = state.live.take().expect("a node that runs");
            match how {
                Stop::Clean => {
                    let closed = live.core.close(Moment(self.now));
                    assert!(closed.is_ok() || self.plan.disks_fail, "{closed:?}");
                }
                Stop::Kill | Stop::PowerLoss => drop(live),
            }
            if how == Stop::PowerLoss {
                state.platter.power_loss();
            }
        }
        for connection in 0..self.connections.len() {
            let nodes = self.nodes_of(connection);
            if let Some(side) = (0..2).find(|&side| nodes[side] == node) {
                let slow = how == Stop::PowerLoss && self.random.below(2) == 0;
                let patience = if slow { 400 * MILLISECOND } else { 2 * MILLISECOND };
                let mut notice = [0; 2];
                notice[1 - side] = self.random.below(patience);
                self.reset(connection, notice);
                self.connections[connection].links[side] = None;
            }
        }
        self.give_up_on(node);
    }

    pub(crate) fn restart_at(&mut self, node: usize, at: u64) {
        self.schedule(at, Happening::Restart { node });
    }

    /// The node's process gets no CPU for a while.
    pub(crate) fn pause(&mut self, node: usize, until: u64) {
        self.members[node].paused_until = until;
    }

    /// Sets how long the disks of a node take.
    pub(crate) fn set_disk_latency(&mut self, node: usize, latency: std::ops::Range<u64>) {
        for actor in self.members[node].actors.clone() {
            if let Some(live) = &mut self.actors[actor].live {
                live.core.wal().disk().set_latency(latency.clone());
            }
        }
    }

    /// An operation of one of a node's disks will fail.
    pub(crate) fn break_disk(&mut self, node: usize, fault: &Fault) {
        for &actor in &self.members[node].actors {
            self.actors[actor].platter.inject(fault.clone());
        }
    }

    /// The disks of a node have this much room left.
    pub(crate) fn fill_disk(&mut self, node: usize, left: u64) {
        self.members[node].disk_is_full = true;
        for &actor in &self.members[node].actors {
            let platter = &self.actors[actor].platter;
            let used: u64 = platter.list().iter().map(|file| file.1).sum();
            platter.set_capacity(used + left);
        }
    }

    pub(crate) fn heal_disks(&mut self) {
        for node in 0..self.members.len() {
            self.set_disk_latency(node, DISK_LATENCY);
            self.members[node].disk_is_full = false;
            for &actor in &self.members[node].actors {
                self.actors[actor].platter.set_capacity(DISK_BYTES);
                self.actors[actor].platter.clear_faults();
            }
        }
    }

    pub(crate) fn transfer(&mut self, group: GroupId, to: NodeId) {
        for actor in 0..self.actors.len() {
            let slot = self.actors[actor].groups.iter().position(|setup| setup.id == group);
            let runs = self.members[self.actors[actor].node].paused_until <= self.now;
            if let (Some(slot), Some(live), true) = (slot, &self.actors[actor].live, runs)
                && live.core.is_leader(Slot(slot as u32))
            {
                let (port, slot) = (live.port, Slot(slot as u32));
                self.input(actor, Event::Transfer { port, token: TRANSFER, slot, to });
            }
        }
    }
}
