//! What goes wrong, and a whole run: a time of chaos, then everything is healed and must come to rest.

use std::time::Duration;

use logdrive_shard::GroupId;
use logdrive_wal::{Fault, FaultKind, OpKind};

use super::cores::Stop;
use super::world::{MILLISECOND, Plan, World};

/// Between two troubles, on average, in a calm run and in one of three others.
const PAUSES_MS: [u64; 3] = [250, 80, 25];

impl World {
    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn any_node(&mut self) -> usize {
        self.random.below(u64::from(self.plan.nodes)) as usize
    }

    /// One trouble.
    pub(crate) fn trouble(&mut self) {
        let node = self.any_node();
        if self.plan.disks_fail && self.chance(3) {
            return self.trouble_with_disk(node);
        }
        match self.random.below(14) {
            0..3 => {
                let how = [Stop::Kill, Stop::PowerLoss, Stop::Clean][self.random.below(3) as usize];
                self.fell(node, how);
            }
            3..5 => self.split(),
            5 => {
                let to = self.any_node();
                self.note(|| format!("nothing passes from node {} to node {}", node + 1, to + 1));
                self.block(node, to);
            }
            6 => {
                let connection = self.random.below(self.connections() as u64) as usize;
                let notice = [(); 2].map(|()| self.random.below(50 * MILLISECOND));
                self.note(|| format!("connection {connection} is reset"));
                self.reset(connection, notice);
            }
            7 => {
                let until = self.now + self.random.below(600 * MILLISECOND);
                self.note(|| format!("node {} gets no CPU until {}", node + 1, until / MILLISECOND));
                self.pause(node, until);
            }
            8 => {
                let slowest = [5, 50, 400][self.random.below(3) as usize] * MILLISECOND;
                self.note(|| format!("the disks of node {} take up to {slowest} ns", node + 1));
                self.set_disk_latency(node, MILLISECOND..slowest);
            }
            9 => {
                let group = GroupId(1 + self.random.below(self.plan.groups));
                let voters = self.voters(group);
                let to = voters[self.random.below(voters.len() as u64) as usize];
                self.transfer(group, to);
            }
            10..12 => self.fell_leader(),
            12 if self.chance(4) => {
                for node in 0..self.plan.nodes as usize {
                    self.fell(node, Stop::PowerLoss);
                }
            }
            _ => {
                self.note(|| "the network and the disks heal".to_owned());
                self.unblock_all();
                self.heal_disks();
            }
        }
    }

    /// A failed write or sync, a full disk, a damaged frame.
    fn trouble_with_disk(&mut self, node: usize) {
        let skip = self.random.below(20) as u32;
        let fault = |on, what| Fault { skip, ..Fault::next(on, what) };
        match self.random.below(6) {
            0 => self.break_disk(node, &fault(OpKind::Write, FaultKind::Errno(libc::EIO))),
            1 => self.break_disk(node, &fault(OpKind::Sync, FaultKind::Errno(libc::EIO))),
            2 => self.break_disk(node, &fault(OpKind::Write, FaultKind::Short(4096))),
            3 => self.break_disk(node, &fault(OpKind::Read, FaultKind::Errno(libc::EIO))),
            4 => {
                let left = self.random.below(64) * 4096;
                self.note(|| format!("the disks of node {} have {left} bytes left", node + 1));
                self.fill_disk(node, left);
            }
            _ => {
                let connection = self.random.below(self.connections() as u64) as usize;
                self.damage(connection);
            }
        }
    }

    /// Ends a node, if it runs, and has it back some time later.
    fn fell(&mut self, node: usize, how: Stop) {
        if self.is_alive(node) {
            self.stop(node, how);
            let at = self.now + 20 * MILLISECOND + self.random.below(800 * MILLISECOND);
            self.restart_at(node, at);
        }
    }

    /// A leader's disk is slower than those of its followers; then it is lost, and maybe one of them with it.
    fn fell_leader(&mut self) {
        let group = GroupId(1 + self.random.below(self.plan.groups));
        let voters = self.voters(group);
        let asked = voters[self.random.below(voters.len() as u64) as usize];
        let leader = self.leader_seen_by(asked, group);
        if !leader.is_some() || !self.is_alive(leader.0 as usize - 1) {
            return;
        }
        let slowest = MILLISECOND + self.random.below(40 * MILLISECOND);
        self.set_disk_latency(leader.0 as usize - 1, MILLISECOND / 2..slowest);
        let wait = self.random.below(2 * slowest);
        self.run_for(Duration::from_nanos(wait));
        let how = if self.chance(4) { Stop::Kill } else { Stop::PowerLoss };
        self.fell(leader.0 as usize - 1, how);
        if self.chance(2) {
            let other = voters[self.random.below(voters.len() as u64) as usize];
            self.fell(other.0 as usize - 1, how);
        }
    }

    /// Parts the nodes in two; with connections that hang, or that break.
    fn split(&mut self) {
        let minority = u64::from(self.plan.nodes) / 2;
        let mut inside: Vec<usize> = Vec::new();
        while (inside.len() as u64) < minority {
            let node = self.any_node();
            if !inside.contains(&node) {
                inside.push(node);
            }
        }
        self.part(&inside);
        if self.chance(2) {
            self.break_blocked();
        }
    }

    /// Nothing passes between these nodes and the others.
    pub(crate) fn part(&mut self, inside: &[usize]) {
        self.note(|| format!("nodes {inside:?} (from 0) are cut off"));
        for a in 0..self.plan.nodes as usize {
            for b in 0..self.plan.nodes as usize {
                if inside.contains(&a) != inside.contains(&b) {
                    self.block(a, b);
                }
            }
        }
    }

    /// Connections over which nothing passes break.
    pub(crate) fn break_blocked(&mut self) {
        for connection in 0..self.connections() {
            if self.crosses_block(connection) {
                let notice = [(); 2].map(|()| self.random.below(50 * MILLISECOND));
                self.reset(connection, notice);
            }
        }
    }

    /// Everything is well again from now on.
    pub(crate) fn heal(&mut self) {
        self.note(|| "everything heals".to_owned());
        self.unblock_all();
        self.heal_disks();
        for node in 0..self.plan.nodes as usize {
            self.pause(node, 0);
            if !self.is_alive(node) {
                self.restart(node);
            }
        }
    }
}

/// Chaos, healing, rest. Returns the world as it is then.
pub(crate) fn run(plan: Plan, troubles: u32) -> World {
    let mut world = World::new(plan);
    world.run_for(Duration::from_millis(600));
    let pause_ms = PAUSES_MS[(plan.seed % 3) as usize];
    for _ in 0..u64::from(troubles) * (PAUSES_MS[0] + pause_ms) / (2 * pause_ms) {
        world.trouble();
        let pause = world.random.below(2 * pause_ms * 1_000);
        world.run_for(Duration::from_micros(pause));
    }
    world.heal();
    world.run_for(Duration::from_millis(500));
    world.clients_run = false;
    world.settle(Duration::from_secs(20));
    every_group_takes_a_write(&mut world);
    world
}

/// After the healing every group takes writes at the leader that all agree on. One that is just being moved to where it
/// belongs may refuse a few.
pub(crate) fn every_group_takes_a_write(world: &mut World) {
    for group in (1..=world.plan.groups).map(GroupId) {
        let voters = world.voters(group);
        world.write_somewhere(group, &voters, Duration::from_secs(1));
    }
    world.settle(Duration::from_secs(1));
}
