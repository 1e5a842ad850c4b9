//! The end of a run: troubles stop for a quorum chosen by the seed, and everything must come to rest in bounded time. Then the others
//! come back as well.

use logdrive_shard::{GroupId, NodeId};

use super::clock::{MILLISECOND, Nanos, SECOND};
use super::faults::Stop;
use super::node::CoreAt;
use super::observer::{Broken, Verdict, ensure};
use super::ops::OpKind;
use super::random::chance;
use super::world::World;

/// How often the world is looked at while it comes to rest.
const LOOK: Nanos = 20 * MILLISECOND;

impl World {
    /// Stops all troubles for a quorum, and starts whoever is down. Who is not in the quorum stays down, or frozen.
    pub fn heal_a_quorum(&mut self) -> Verdict {
        self.end_all_faults()?;
        self.whims.end();
        let broken = self.choose_broken();
        for node in 0..self.nodes.len() {
            if broken == Some(node) {
                self.break_for_good(node)?;
            } else if !self.nodes[node].is_up && !self.nodes[node].stays_down {
                self.nodes[node].disk_is_suspect = self.disk_lied(node);
                self.start_node(node)?;
            }
        }
        self.replace_failing_disks()?;
        self.note(None, || format!("troubles stop; stays broken: {broken:?} (from 0)"));
        Ok(())
    }

    /// Stops all troubles, and starts whoever is down.
    pub fn heal(&mut self) -> Verdict {
        self.end_all_faults()?;
        self.whims.end();
        self.heal_the_rest()
    }

    /// One node of at least three, if none has lost its directories already; nobody in a third of the runs.
    fn choose_broken(&mut self) -> Option<usize> {
        let nodes = self.nodes.len();
        let random = &mut self.random.heal;
        if nodes < 3 || chance(random, 3) {
            return None;
        }
        let mut node = random.below(nodes as u64) as usize;
        self.settle_damage();
        if let Some(damaged) = (0..nodes).find(|&node| self.holds_damage(node)) {
            // A group stands one loss: this one is it.
            node = damaged;
        }
        self.nodes.iter().all(|node| !node.is_spoiled).then_some(node)
    }

    fn break_for_good(&mut self, node: usize) -> Verdict {
        if self.nodes[node].is_up && chance(&mut self.random.heal, 2) {
            self.reach("healed with a node frozen");
            self.pause(node, Nanos::MAX);
            return Ok(());
        }
        self.reach("healed with a node down");
        self.nodes[node].stays_down = true;
        self.stop_node(node, Stop::Kill)
    }

    /// The nodes that stayed broken come back. Who lost its directories does not count any more.
    pub fn heal_the_rest(&mut self) -> Verdict {
        self.note(None, || "everybody comes back".to_owned());
        for node in 0..self.nodes.len() {
            self.nodes[node].stays_down = self.nodes[node].is_spoiled && !self.nodes[node].is_up;
            if self.nodes[node].stays_down {
                continue;
            }
            if !self.nodes[node].is_up {
                self.nodes[node].disk_is_suspect = self.disk_lied(node);
                self.start_node(node)?;
            } else if self.nodes[node].paused_until > self.now {
                self.resume(node);
            }
        }
        self.replace_failing_disks()
    }

    /// Who has given up a disk repairs nothing more and says so: its operator starts it anew on a sound one. They are sound from here on.
    fn replace_failing_disks(&mut self) -> Verdict {
        for node in 0..self.nodes.len() {
            let gave_up = |at| self.core(CoreAt(at)).is_some_and(|core| core.status().disk_failing);
            if self.is_well(node) && self.nodes[node].cores.clone().any(gave_up) {
                self.reach("disks given up and replaced");
                self.stop_node(node, Stop::Clean)?;
                self.nodes[node].disk_is_suspect = self.disk_lied(node);
                self.start_node(node)?;
            }
        }
        Ok(())
    }

    /// Whether a node takes part: it runs, has CPU, and lost nothing.
    fn is_well(&self, node: usize) -> bool {
        self.nodes[node].responds(self.now) && !self.nodes[node].is_spoiled
    }

    /// The members of a group that are well, as its leader sees the members.
    fn well_members(&self, group: GroupId) -> Result<(usize, Vec<usize>), String> {
        let Some(leader) = self.leader_of(group).filter(|&leader| self.is_well(leader)) else {
            return Err(format!("group {group} has no leader"));
        };
        let Some((at, slot)) = self.live_home(leader, group) else {
            return Err(format!("group {group}: the leader is down"));
        };
        let Some(core) = self.core(at) else { return Err(format!("group {group}: the leader is down")) };
        let status = core.group_status(slot);
        let members = status.raft.membership.members().map(|node| node.0 as usize - 1);
        Ok((leader, members.filter(|&node| self.is_well(node)).collect()))
    }

    /// Why the groups are not at rest and equal everywhere, and which one; `None` if they are.
    pub fn unrest(&self) -> Option<(Option<GroupId>, String)> {
        let down = self.nodes.iter().find(|node| !node.is_up && !node.stays_down);
        if let Some(node) = down {
            return Some((None, format!("node {} is down", node.id)));
        }
        let unrest = self.groups().find_map(|group| self.group_unrest(group).map(|why| (Some(group), why)));
        let unrest = unrest.or_else(|| self.waiting_requests().map(|why| (None, why)));
        let mut well = (0..self.nodes.len()).filter(|&node| self.is_well(node));
        unrest.or_else(|| well.find_map(|node| self.mesh_unrest(node)))
    }

    fn group_unrest(&self, group: GroupId) -> Option<String> {
        let (leader, members) = match self.well_members(group) {
            Ok(found) => found,
            Err(why) => return Some(why),
        };
        let mut first = None;
        for node in members {
            let (at, slot) = self.home(node, group);
            let (Some(core), Some(summary)) = (self.core(at), self.summaries(at).get(slot.0 as usize)) else {
                return Some(format!("node {} does not run", self.nodes[node].id));
            };
            let id = self.nodes[node].id;
            if summary.leader != self.nodes[leader].id {
                return Some(format!("node {id} follows {}", summary.leader));
            }
            let status = core.group_status(slot);
            let state = (
                status.applied,
                status.raft.last,
                core.group_digest(slot).digest,
                core.machine().count(slot.0),
            );
            if state.0 != state.1 {
                return Some(format!("node {id} applied {} of {}", state.0, state.1));
            }
            match first {
                None => first = Some((id, state)),
                Some((other, expected)) if expected != state => {
                    return Some(format!("node {other} has {expected:?}, node {id} has {state:?}"));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// A core with requests that nobody has answered. They end everywhere, at nodes that are no members any more as well.
    fn waiting_requests(&self) -> Option<String> {
        self.cores().find_map(|at| {
            let node = self.cores[at.0].node;
            let waiting = self.core(at).filter(|_| self.is_well(node))?.requests_waiting();
            (waiting > 0).then(|| format!("node {}: {waiting} requests wait", self.nodes[node].id))
        })
    }

    /// Runs until the groups are at rest and equal.
    pub fn settle(&mut self, limit: Nanos) -> Verdict {
        let end = self.now + limit;
        while let Some((group, why)) = self.unrest() {
            if self.now >= end {
                let limit = limit / MILLISECOND;
                let mut broken = Broken::new(
                    "everything comes to rest",
                    format!("not {limit} ms after the troubles stopped: {why}"),
                );
                broken.group = group;
                return Err(broken);
            }
            self.run_for(LOOK)?;
        }
        Ok(())
    }

    /// Every group takes a write at the leader that it has.
    pub fn every_group_takes_a_write(&mut self, limit: Nanos) -> Verdict {
        let end = self.now + limit;
        let mut open: Vec<(GroupId, Option<u64>)> = self.groups().map(|group| (group, None)).collect();
        loop {
            let mut left = Vec::new();
            for (group, attempt) in open {
                match attempt.map(|attempt| self.answer(attempt)) {
                    Some(Some(Ok(_))) => continue,
                    Some(None) => left.push((group, attempt)),
                    Some(Some(Err(_))) | None => left.push((group, self.write_at_leader(group)?)),
                }
            }
            let Some(&(group, _)) = left.first() else { return Ok(()) };
            let waiting = left.len();
            if self.now >= end {
                let what = format!(
                    "{waiting} groups took no write within {} ms, this one first",
                    limit / MILLISECOND
                );
                return Err(Broken::new("every group takes a write", what).in_group(group));
            }
            open = left;
            self.run_for(LOOK / 4)?;
        }
    }

    fn write_at_leader(&mut self, group: GroupId) -> Result<Option<u64>, Box<Broken>> {
        match self.leader_of(group).filter(|&leader| self.is_well(leader)) {
            Some(leader) => self.ask_somewhere(OpKind::Propose, group, NodeId(leader as u32 + 1)).map(Some),
            None => Ok(None),
        }
    }

    /// Clients stop; what they began ends.
    pub fn stop_clients(&mut self) {
        self.clients_run = false;
    }

    /// Nothing but the clients' load for a while, then rest.
    pub(super) fn come_to_rest(&mut self) -> Verdict {
        self.clients_run = true;
        for client in 0..self.clients.len() {
            let pause = self.random.clients.below(100 * MILLISECOND);
            self.client_acts_later(client, pause);
        }
        self.run_for(2 * self.unit() + SECOND)?;
        self.stop_clients();
        let limit = self.longest_heal();
        self.settle(limit)?;
        self.every_group_takes_a_write(limit)?;
        self.settle(limit)?;
        ensure(
            self.groups().all(|group| self.leader_of(group).is_some()),
            "every group has a leader",
            String::new,
        )
    }
}
