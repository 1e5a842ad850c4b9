//! Faults at work: what each kind does when it strikes, and what happens when it ends.
//!
//! Several of them may be active at once. What the network does and how slow disks are is worked out anew from all that are
//! active whenever one begins or ends, so that they end in any order.

use logdrive::core::Event as CoreEvent;
use logdrive_shard::{GroupId, MemberStep, MembershipChange, NodeId};

use super::clock::{MILLISECOND, Nanos};
use super::faults::{Fault, FaultKind, Stop, TurnPoint, Ways, Whom};
use super::network::Way;
use super::node::CoreAt;
use super::observer::Verdict;
use super::operators::change_token;
use super::queue::Event;
use super::shape::DISK_BYTES;
use super::trace::What;
use super::traps::Sprung;
use super::turn::NOBODYS;
use super::world::World;

/// A fault that has struck.
pub(super) struct Active {
    pub(super) fault: Fault,
    pub(super) is_over: bool,
    /// The node it was found to be about.
    pub(super) node: usize,
    /// What a trap has done so far, and what of it lasts.
    pub(super) sprung: Sprung,
}

impl World {
    pub(super) fn strike_listed(&mut self, at: usize) -> Verdict {
        let fault = self.faults[at].clone();
        self.strike(fault)
    }

    /// A fault strikes now.
    pub fn strike(&mut self, mut fault: Fault) -> Verdict {
        self.aim(&mut fault.what);
        let Some(node) = self.who_is_hit(&fault.what) else { return Ok(()) };
        let name = fault.what.name();
        self.trace.tell(self.now, NodeId::NONE, None, What::Strikes(fault.id, name));
        self.settle_damage();
        if !fault.what.counts_when_it_is_met() {
            // Those count when an operation or a block is really hit.
            *self.injected.entry(name).or_default() += 1;
        }
        self.tell(|observer, world| observer.struck(world, &fault))?;
        let (span, what) = (fault.span, fault.what.clone());
        let active = self.active.len();
        let is_over = span == 0;
        self.active.push(Active { fault, is_over, node, sprung: Sprung::default() });
        if span > 0 {
            self.queue.put(self.now + span, Event::Ends { active: active as u32 });
        }
        self.begin_fault(&what, node, span, active)
    }

    /// The node that a fault is about (0 if it is about none), or `None` if there is nothing to hit.
    fn who_is_hit(&self, what: &FaultKind) -> Option<usize> {
        let nodes = self.nodes.len() as u32;
        let resolve = |whom: &Whom| match *whom {
            Whom::Node(node) => Some((node % nodes) as usize),
            Whom::LeaderOf(group) => self.leader_of(self.group(group)),
        };
        match what {
            FaultKind::Crash { whom, .. }
            | FaultKind::CrashInTurn { whom, .. }
            | FaultKind::CrashInStart { whom, .. }
            | FaultKind::Pause { whom } => resolve(whom).filter(|&node| self.nodes[node].is_up),
            FaultKind::CrashSlowLeader { group, .. } => self.leader_of(self.group(*group)),
            FaultKind::Restore { node } | FaultKind::Wipe { node } => {
                let node = (node % nodes) as usize;
                let is_wipe = matches!(what, FaultKind::Wipe { .. });
                let fits = self.can_do_without(node) && (!is_wipe || self.all_have_met(node));
                fits.then_some(node)
            }
            FaultKind::SlowCore { node, .. }
            | FaultKind::Bridge { node, .. }
            | FaultKind::ClockStep { node, .. }
            | FaultKind::ClockDrift { node, .. }
            | FaultKind::DiskSlow { node, .. }
            | FaultKind::DiskFull { node, .. }
            | FaultKind::DiskGone { node }
            | FaultKind::Rot { node, .. }
            | FaultKind::SnapshotRot { node, .. }
            | FaultKind::SnapshotDisk { node, .. }
            | FaultKind::Snapshots { node, .. }
            | FaultKind::Disk { node, .. } => Some((node % nodes) as usize),
            FaultKind::Transfer { group, .. }
            | FaultKind::Change { group, .. }
            | FaultKind::Trap { group, .. } => {
                self.leader_of(self.group(*group)).filter(|&node| self.nodes[node].responds(self.now))
            }
            FaultKind::Cut { from, to } | FaultKind::Link { from, to, .. } | FaultKind::Clog { from, to } => {
                (from % nodes != to % nodes).then_some(0)
            }
            FaultKind::Reset { .. } => (!self.connections.is_empty()).then_some(0),
            FaultKind::Blackout | FaultKind::Partition { .. } => Some(0),
        }
    }

    /// A group of the list, as a group of this world.
    pub(super) fn group(&self, group: u32) -> GroupId {
        GroupId(1 + u64::from(group % self.plan.groups))
    }

    fn begin_fault(&mut self, what: &FaultKind, node: usize, span: Nanos, active: usize) -> Verdict {
        match *what {
            FaultKind::Crash { how, .. } => {
                self.stop_node(node, how)?;
                self.start_later(node, span);
            }
            FaultKind::CrashInTurn { point, how, .. } => self.doom(node, point, how, span),
            FaultKind::CrashInStart { how, operations, times, .. } => {
                self.nodes[node].stumbles = Some((operations, how, times));
                self.stop_node(node, how)?;
                self.start_later(node, span);
            }
            FaultKind::Trap { .. } => self.spring(active)?,
            FaultKind::CrashSlowLeader { slow, .. } => {
                self.slow_disks();
                let wait = self.random.strike.below(2 * slow);
                self.queue.put(self.now + wait, Event::Second { active: active as u32 });
            }
            FaultKind::Blackout => {
                for node in 0..self.nodes.len() {
                    self.stop_node(node, Stop::PowerLoss)?;
                    let pause = self.random.strike.below(span.max(1));
                    self.start_later(node, pause);
                }
            }
            FaultKind::Pause { .. } => self.pause(node, self.now + span),
            FaultKind::SlowCore { .. } => self.slow_cores(),
            FaultKind::Restore { .. } => self.back_up(node),
            FaultKind::Wipe { .. } => self.wipe(node)?,
            FaultKind::Partition { .. } | FaultKind::Bridge { .. } => {
                self.work_out_ways();
                if !matches!(what, FaultKind::Partition { breaks: false, .. }) {
                    self.break_what_is_cut();
                }
            }
            FaultKind::Cut { .. } | FaultKind::Link { .. } | FaultKind::Clog { .. } => self.work_out_ways(),
            FaultKind::Reset { connection } => {
                let connection = connection as usize % self.connections.len();
                let notice = [(); 2].map(|()| self.random.strike.below(50 * MILLISECOND));
                self.reset(connection, notice);
            }
            FaultKind::ClockStep { ahead, .. } => {
                self.nodes[node].clock.step(self.now, ahead);
                self.clock_changed(node);
            }
            FaultKind::ClockDrift { ppm, .. } => {
                self.nodes[node].clock.drift(self.now, ppm.into());
                self.clock_changed(node);
            }
            FaultKind::Transfer { group, to } => self.transfer(self.group(group), node, to),
            FaultKind::Change { group, choice } => {
                if let Some(after) = self.order_change(self.group(group), node, choice) {
                    self.queue.put(self.now + after, Event::Second { active: active as u32 });
                }
            }
            FaultKind::DiskSlow { .. } => self.slow_disks(),
            FaultKind::DiskFull { left, .. } => self.fill_disks(node, left.into()),
            FaultKind::Disk { core, ref fault, .. } => {
                self.spoil_operation(node, core, fault);
            }
            FaultKind::DiskGone { .. } => self.lose_disk(node),
            FaultKind::Rot { core, place, what, .. } => self.rot(node, core, place, what),
            FaultKind::SnapshotDisk { core, ref fault, .. } => {
                self.spoil_snapshot_operation(node, core, fault);
            }
            FaultKind::SnapshotRot { core, place, what, .. } => self.rot_snapshot(node, core, place, what),
            FaultKind::Snapshots { group, count, .. } => self.order_snapshots(node, group, count),
        }
        Ok(())
    }

    /// The later half of a fault that has two.
    pub(super) fn second_part(&mut self, active: usize) -> Verdict {
        let Active { fault, node, is_over, .. } = &self.active[active];
        let (node, span) = (*node, fault.span);
        if let FaultKind::Change { group, choice } = fault.what {
            self.change(self.group(group), node, choice / 3);
            return Ok(());
        }
        if let FaultKind::Trap { .. } = fault.what {
            return self.spring(active);
        }
        let FaultKind::CrashSlowLeader { how, companion, .. } = fault.what else { return Ok(()) };
        if *is_over {
            return Ok(());
        }
        let companion = companion.map(|node| node as usize % self.nodes.len());
        for node in [Some(node), companion].into_iter().flatten() {
            if self.nodes[node].is_up {
                self.stop_node(node, how)?;
                self.start_later(node, span);
            }
        }
        Ok(())
    }

    pub(super) fn end_fault(&mut self, active: usize) -> Verdict {
        let ended = &mut self.active[active];
        if std::mem::replace(&mut ended.is_over, true) {
            return Ok(());
        }
        let (id, what, node) = (ended.fault.id, ended.fault.what.clone(), ended.node);
        self.trace.tell(self.now, NodeId::NONE, None, What::Ends(id, what.name()));
        match what {
            FaultKind::Pause { .. } if self.nodes[node].paused_until <= self.now => self.resume(node),
            FaultKind::SlowCore { .. } => self.slow_cores(),
            FaultKind::Restore { .. } if self.can_do_without(node) && self.all_would_know(node) => {
                self.restore(node)?;
            }
            FaultKind::Restore { .. } => self.nodes[node].backup = None,
            FaultKind::Partition { .. }
            | FaultKind::Bridge { .. }
            | FaultKind::Cut { .. }
            | FaultKind::Clog { .. } => {
                self.work_out_ways();
                self.deliver_what_waited();
            }
            FaultKind::Link { .. } => {
                self.work_out_ways();
                self.reset_what_went_astray();
            }
            FaultKind::ClockDrift { .. } => {
                self.nodes[node].clock.drift(self.now, 0);
                self.clock_changed(node);
            }
            FaultKind::CrashSlowLeader { .. } | FaultKind::DiskSlow { .. } => self.slow_disks(),
            FaultKind::DiskFull { .. } => self.empty_disks(node),
            FaultKind::Trap { .. } => self.release(active),
            _ => {}
        }
        Ok(())
    }

    /// The node ends when it comes to a point of a turn.
    pub(super) fn doom(&mut self, node: usize, point: TurnPoint, how: Stop, span: Nanos) {
        self.nodes[node].doomed = Some((point, how, span));
        let (TurnPoint::InDisk(operations) | TurnPoint::InSnapshotDisk(operations)) = point else { return };
        let cores = self.nodes[node].cores.clone();
        let at = cores.start + operations as usize % cores.len();
        match point {
            TurnPoint::InSnapshotDisk(_) => self.cores[at].snapshots.halt_after(operations.into()),
            _ => self.cores[at].platter.halt_after(operations.into()),
        }
    }

    /// The node reads its clock again, and decides anew when it turns next.
    fn clock_changed(&mut self, node: usize) {
        for at in self.cores_of(node) {
            if self.cores[at.0].live.is_some() {
                self.wake(at);
            }
        }
    }

    // -- what follows from all faults that are active ----------------------------------------------------------------------

    fn active_kinds(&self) -> impl Iterator<Item = (&FaultKind, usize)> {
        self.active.iter().filter(|active| !active.is_over).map(|active| (&active.fault.what, active.node))
    }

    pub(super) fn work_out_ways(&mut self) {
        let nodes = self.nodes.len();
        let mut ways = vec![Way::default(); nodes * nodes];
        let is_inside = |inside: u16, node: usize| inside >> node & 1 == 1;
        for (what, node) in self.active_kinds() {
            for (at, way) in ways.iter_mut().enumerate() {
                let (from, to) = (at / nodes, at % nodes);
                let is = |f: u32, t: u32| (f as usize % nodes, t as usize % nodes) == (from, to);
                match *what {
                    FaultKind::Partition { inside, ways, .. } => {
                        let (out, inward) = match (is_inside(inside, from), is_inside(inside, to)) {
                            (true, false) => (true, false),
                            (false, true) => (false, true),
                            _ => (false, false),
                        };
                        way.is_cut |= match ways {
                            Ways::Both => out || inward,
                            Ways::Outward => out,
                            Ways::Inward => inward,
                        };
                    }
                    FaultKind::Bridge { inside, .. } => {
                        let apart = is_inside(inside, from) != is_inside(inside, to);
                        way.is_cut |= apart && from != node && to != node;
                    }
                    FaultKind::Cut { from, to } => way.is_cut |= is(from, to),
                    FaultKind::Clog { from, to } => way.is_clogged |= is(from, to),
                    FaultKind::Link { from, to, trouble } if is(from, to) => way.trouble = trouble,
                    _ => {}
                }
            }
        }
        for &(from, to) in self.active.iter().filter(|active| !active.is_over).flat_map(|a| &a.sprung.cuts) {
            ways[from * nodes + to].is_cut = true;
        }
        self.ways = ways;
        let trapped = self.active.iter().filter(|active| !active.is_over);
        self.muted = trapped.filter_map(|active| active.sprung.muted).collect();
    }

    pub(super) fn reset_what_went_astray(&mut self) {
        for connection in 0..self.connections.len() {
            if self.connections[connection].is_astray {
                let notice = [(); 2].map(|()| self.random.strike.below(50 * MILLISECOND));
                self.reset(connection, notice);
            }
        }
    }

    fn slow_cores(&mut self) {
        self.cores.iter_mut().for_each(|core| core.turn_takes = 0);
        let slow: Vec<_> = self
            .active_kinds()
            .filter_map(|(what, node)| match *what {
                FaultKind::SlowCore { core, turn, .. } => Some((node, core, turn)),
                _ => None,
            })
            .collect();
        for (node, core, turn) in slow {
            let cores = self.nodes[node].cores.clone();
            self.cores[cores.start + core as usize % cores.len()].turn_takes = turn;
        }
    }

    pub(super) fn slow_disks(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.slow_disks_again(node));
    }

    /// Sets the latency of a node's disks, from the faults that are active.
    pub(super) fn slow_disks_again(&mut self, node: usize) {
        let slowest =
            self.active_kinds().filter(|(_, hit)| *hit == node).filter_map(|(what, _)| match *what {
                FaultKind::DiskSlow { up_to, .. } => Some(up_to),
                FaultKind::CrashSlowLeader { slow, .. } => Some(slow),
                _ => None,
            });
        let trapped = self.active.iter().filter(|active| !active.is_over).filter_map(|a| a.sprung.slow);
        let trapped = trapped.filter(|(hit, _)| *hit == node).map(|(_, slow)| slow);
        let takes = match slowest.chain(trapped).max() {
            Some(slowest) => slowest / 10..slowest,
            None => self.shape.disk_takes.clone(),
        };
        for at in self.nodes[node].cores.clone() {
            if let Some(live) = &mut self.cores[at].live {
                live.core.wal().disk().inner.set_latency(takes.clone());
                live.core.snapshot_disk().inner.set_latency(takes.clone());
                // What is under way may be due earlier than it was.
                self.wake(CoreAt(at));
            }
        }
    }

    /// The disks of a node have this much room left.
    pub(super) fn fill_disks(&mut self, node: usize, left: u64) {
        self.nodes[node].disk_is_suspect = true;
        for at in self.nodes[node].cores.clone() {
            for platter in [&self.cores[at].platter, &self.cores[at].snapshots] {
                let used: u64 = platter.list().iter().map(|file| file.1).sum();
                platter.set_capacity(used + left);
            }
        }
    }

    pub(super) fn empty_disks(&mut self, node: usize) {
        for at in self.nodes[node].cores.clone() {
            self.cores[at].platter.set_capacity(DISK_BYTES);
            self.cores[at].snapshots.set_capacity(DISK_BYTES);
        }
    }

    // -- orders ------------------------------------------------------------------------------------------------------------

    pub(super) fn transfer(&mut self, group: GroupId, leader: usize, to: u32) {
        let to = self.nodes[to as usize % self.nodes.len()].id;
        let (at, slot) = self.home(leader, group);
        if let Some(port) = self.cores[at.0].live.as_ref().map(|live| live.port) {
            self.input(at, CoreEvent::Transfer { port, token: NOBODYS, slot, to });
        }
    }

    /// Changes the members of a group: one of the changes that leave it at least as many voters as a group of three has (or all nodes,
    /// where there are fewer).
    pub(super) fn change(&mut self, group: GroupId, leader: usize, choice: u32) {
        let (at, slot) = self.home(leader, group);
        let Some(live) = &self.cores[at.0].live else { return };
        let (port, status) = (live.port, live.core.group_status(slot));
        let membership = &status.raft.membership;
        let change = if membership.is_joint() {
            MembershipChange::leave()
        } else {
            let voters = membership.voters();
            let outsiders = self.nodes.iter().filter(|node| !node.is_spoiled).map(|node| node.id);
            let mut changes: Vec<Vec<MemberStep>> = Vec::new();
            for outsider in outsiders.filter(|&node| !membership.contains(node)) {
                changes.push(vec![MemberStep::AddLearner(outsider)]);
                changes.push(vec![MemberStep::AddVoter(outsider)]);
                changes.extend(
                    voters.iter().map(|&out| vec![MemberStep::AddVoter(outsider), MemberStep::Remove(out)]),
                );
            }
            for &learner in membership.learners() {
                changes.push(vec![MemberStep::Promote(learner)]);
                // Joint: a voter whose log is behind is not taken.
                changes.extend(
                    voters.iter().map(|&out| vec![MemberStep::Promote(learner), MemberStep::Remove(out)]),
                );
                changes.push(vec![MemberStep::Remove(learner)]);
            }
            if voters.len() > 3 {
                changes.extend(voters.iter().map(|&voter| vec![MemberStep::Remove(voter)]));
                changes.extend(voters.iter().map(|&voter| vec![MemberStep::Demote(voter)]));
            }
            if changes.is_empty() {
                return;
            }
            MembershipChange::of(&changes[choice as usize % changes.len()])
        };
        self.change_asked(at, group);
        self.input(at, CoreEvent::Change { port, token: change_token(group), slot, change: &change });
    }

    /// Orders this change of the members of a group.
    pub(super) fn order_steps(&mut self, group: GroupId, leader: usize, steps: &[MemberStep]) {
        let (at, slot) = self.home(leader, group);
        let Some(port) = self.cores[at.0].live.as_ref().map(|live| live.port) else { return };
        let change = MembershipChange::of(steps);
        self.change_asked(at, group);
        self.input(at, CoreEvent::Change { port, token: change_token(group), slot, change: &change });
    }

    /// Whether every group keeps a quorum of nodes that lost nothing if this one is lost for ever as well.
    fn can_do_without(&self, node: usize) -> bool {
        let spoiled = self.nodes.iter().filter(|node| node.is_spoiled).count();
        // Groups of three voters stand one loss, whoever their members are later.
        let others_are_whole = (0..self.nodes.len()).all(|other| other == node || !self.holds_damage(other));
        self.nodes.len() >= 3 && spoiled == 0 && !self.nodes[node].is_spoiled && others_are_whole
    }

    /// Whether all others have met a node. Somebody who never did cannot know that it came back with less than it had.
    fn all_have_met(&self, node: usize) -> bool {
        let others = self.nodes.iter().filter(|other| other.id != self.nodes[node].id);
        others.map(|other| other.memory.of(self.nodes[node].id)).all(|known| known.is_some())
    }

    /// Whether all others have met a later boot of the node than the one that its backup is of. (Who has not cannot know what the node
    /// did later in that one: see the README.)
    fn all_would_know(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        let Some(boot) = self.nodes[node].backup.as_ref().map(|backup| backup.boot) else { return false };
        let others = self.nodes.iter().filter(|other| other.id != id);
        others.map(|other| other.memory.of(id)).all(|known| known.is_some_and(|known| known.boot > boot))
    }

    /// Ends all faults that are active, at once.
    pub(super) fn end_all_faults(&mut self) -> Verdict {
        for active in 0..self.active.len() {
            match self.active[active].fault.what {
                FaultKind::Restore { .. } => self.active[active].is_over = true,
                _ => self.end_fault(active)?,
            }
        }
        for node in 0..self.nodes.len() {
            (self.nodes[node].doomed, self.nodes[node].stumbles) = (None, None);
            for at in self.nodes[node].cores.clone() {
                for platter in [&self.cores[at].platter, &self.cores[at].snapshots] {
                    platter.clear_faults();
                    platter.revive();
                }
                if let Some(live) = &mut self.cores[at].live {
                    live.core.wal().disk().inner.end_delays();
                    live.core.snapshot_disk().inner.end_delays();
                    self.wake(CoreAt(at));
                }
            }
            if self.nodes[node].is_up && self.nodes[node].paused_until > 0 {
                self.resume(node);
            }
        }
        self.reset_what_went_astray();
        Ok(())
    }

    /// The core of a node that a group lives on, if it runs.
    pub(super) fn live_home(&self, node: usize, group: GroupId) -> Option<(CoreAt, logdrive::core::Slot)> {
        let (at, slot) = self.home(node, group);
        self.cores[at.0].live.as_ref().map(|_| (at, slot))
    }
}
