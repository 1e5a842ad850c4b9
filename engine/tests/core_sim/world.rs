//! Nodes, their cores, disks and connections, in one thread and on one clock. Everything random comes from the seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use logdrive::api::{Completions, CoreSettings, TimingPreset};
use logdrive::core::{Core, CoreId, GroupSetup, PortId};
use logdrive::node::PeersMemory;
use logdrive_shard::{GroupId, NodeId, Random};
use logdrive_wal::{SimDisk, SimOptions, SimPlatter};

use super::checker::Checker;
use super::machine::Register;
use super::network::Connection;

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(super) const CLUSTER: u64 = 0x5EED;
/// After so long a client asks elsewhere.
pub(super) const CLIENT_PATIENCE: u64 = 1_500 * MILLISECOND;
/// Disk operations take so long when the disk is well.
pub(super) const DISK_LATENCY: std::ops::Range<u64> = 50 * MICROSECOND..800 * MICROSECOND;

/// Size of a disk.
pub(super) const DISK_BYTES: u64 = 256 << 20;

/// What kind of world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: u32,
    pub(crate) groups: u64,
    pub(crate) clients: u32,
    /// In a cluster of more than three nodes some groups have three voters only.
    pub(crate) three_voter_groups: bool,
    /// Disks fail and fill up, and frames are damaged on their way.
    pub(crate) disks_fail: bool,
    /// Budget of a core's log.
    pub(crate) log_bytes: u64,
}

/// A core that runs.
pub(super) struct Live {
    pub(super) core: Core<SimDisk, Register>,
    pub(super) port: PortId,
    /// The connection behind each link.
    pub(super) connections: Vec<usize>,
}

/// A core of a node, over all its lives.
pub(super) struct Actor {
    pub(super) node: usize,
    pub(super) id: CoreId,
    pub(super) platter: SimPlatter,
    pub(super) groups: Vec<GroupSetup>,
    pub(super) live: Option<Live>,
    /// When its loop turns next; `u64::MAX` if it does not run.
    pub(super) turn_at: u64,
    /// Turns without the clock having moved.
    pub(super) spins: u32,
}

/// A node, over all its lives.
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) actors: Vec<usize>,
    pub(super) boot: u64,
    pub(super) memory: PeersMemory,
    pub(super) alive: bool,
    /// The process gets no CPU until then.
    pub(super) paused_until: u64,
    pub(super) disk_is_full: bool,
}

#[derive(Default)]
pub(super) struct Client {
    pub(super) op: Option<u64>,
    pub(super) since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    Arrive { connection: usize, generation: u64, to: usize },
    Down { connection: usize, generation: u64, side: usize },
    Connect { connection: usize },
    Client { client: usize },
    Restart { node: usize },
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) checker: Rc<RefCell<Checker>>,
    pub(super) settings: CoreSettings,
    pub(super) actors: Vec<Actor>,
    pub(super) members: Vec<Member>,
    pub(super) connections: Vec<Connection>,
    /// `[from][to]`, by node: nothing passes.
    pub(super) blocked: Vec<Vec<bool>>,
    pub(super) clients: Vec<Client>,
    pub(crate) clients_run: bool,
    pub(super) happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    pub(super) sequence: u64,
    /// Digest of everything that happened, to show that a seed repeats.
    pub(crate) digest: u64,
    pub(super) trace: bool,
    pub(super) frames: Vec<u8>,
    pub(super) answers: Completions,
}

impl World {
    pub(crate) fn new(plan: Plan) -> World {
        let mut random = Random::new(plan.seed);
        let mut settings = settings(&mut random);
        settings.wal.budget_bytes = plan.log_bytes;
        let nodes = plan.nodes as usize;
        let mut world = World {
            plan,
            now: 1_000 * MILLISECOND,
            checker: Rc::default(),
            settings,
            actors: Vec::new(),
            members: Vec::new(),
            connections: Vec::new(),
            blocked: vec![vec![false; nodes]; nodes],
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            clients_run: true,
            happenings: BinaryHeap::new(),
            sequence: 0,
            digest: 0,
            trace: std::env::var_os("LOGDRIVE_SIM_TRACE").is_some(),
            frames: Vec::new(),
            answers: Completions::default(),
            random,
        };
        world.place_groups();
        world.make_connections();
        for node in 0..nodes {
            world.restart(node);
        }
        for client in 0..world.clients.len() {
            let at = world.now + world.random.below(100 * MILLISECOND);
            world.schedule(at, Happening::Client { client });
        }
        world
    }

    /// Nodes with one or two cores, each group on a core of its own choice on each of its voters.
    pub(super) fn place_groups(&mut self) {
        let nodes = self.plan.nodes;
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        for (node, &id) in ids.iter().enumerate() {
            let cores = 1 + self.random.below(2);
            let first = self.actors.len();
            for core in 0..cores {
                let options = SimOptions { seed: self.random.next_u64(), capacity_bytes: DISK_BYTES };
                let platter = SimDisk::new(options).platter();
                let (id, groups) = (CoreId(core as u16), Vec::new());
                self.actors.push(Actor {
                    node,
                    id,
                    platter,
                    groups,
                    live: None,
                    turn_at: u64::MAX,
                    spins: 0,
                });
            }
            let actors = (first..self.actors.len()).collect();
            let (boot, memory) = (0, PeersMemory::default());
            self.members.push(Member {
                id,
                actors,
                boot,
                memory,
                alive: false,
                paused_until: 0,
                disk_is_full: false,
            });
        }
        for group in 1..=self.plan.groups {
            let mut voters = ids.clone();
            let few = self.plan.three_voter_groups && self.random.below(3) == 0;
            while few && voters.len() > 3 {
                let out = self.random.below(voters.len() as u64) as usize;
                voters.remove(out);
            }
            let preferred_leader = voters[self.random.below(voters.len() as u64) as usize];
            for voter in &voters {
                let actors = &self.members[voter.0 as usize - 1].actors;
                let actor = actors[self.random.below(actors.len() as u64) as usize];
                let setup = GroupSetup { id: GroupId(group), founders: voters.clone(), preferred_leader };
                let groups = &mut self.actors[actor].groups;
                let slot = self.random.below(groups.len() as u64 + 1) as usize;
                groups.insert(slot, setup);
            }
        }
    }

    pub(super) fn make_connections(&mut self) {
        for a in 0..self.actors.len() {
            for b in a + 1..self.actors.len() {
                if self.actors[a].node != self.actors[b].node {
                    self.connections.push(Connection::new([a, b]));
                    let connection = self.connections.len() - 1;
                    self.schedule(self.now + MILLISECOND, Happening::Connect { connection });
                }
            }
        }
    }

    // -- time ---------------------------------------------------------------------------------------------------------

    pub(super) fn schedule(&mut self, at: u64, what: Happening) {
        self.sequence += 1;
        self.happenings.push(Reverse((at, self.sequence, what)));
    }

    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12.3} ms  {}", self.now as f64 / 1e6, text());
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration.as_nanos() as u64);
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        loop {
            let turn = (0..self.actors.len()).min_by_key(|&actor| self.actors[actor].turn_at);
            let turn_at = turn.map_or(u64::MAX, |actor| self.actors[actor].turn_at);
            let next = self.happenings.peek().map_or(u64::MAX, |Reverse(first)| first.0);
            if next.min(turn_at) > end {
                self.now = end;
                return;
            }
            if self.now < next.min(turn_at) {
                self.actors.iter_mut().for_each(|actor| actor.spins = 0);
            }
            self.now = self.now.max(next.min(turn_at));
            if next <= turn_at {
                let Some(Reverse((_, _, what))) = self.happenings.pop() else { unreachable!() };
                self.happen(what);
            } else if let Some(actor) = turn {
                self.turn(actor);
            }
        }
    }

    pub(super) fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value ^ self.now).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    pub(super) fn happen(&mut self, what: Happening) {
        self.mix(match what {
            Happening::Arrive { connection, to, .. } => (connection * 2 + to) as u64,
            Happening::Down { connection, side, .. } => 1 << 20 | (connection * 2 + side) as u64,
            Happening::Connect { connection } => 2 << 20 | connection as u64,
            Happening::Client { client } => 3 << 20 | client as u64,
            Happening::Restart { node } => 4 << 20 | node as u64,
        });
        match what {
            Happening::Arrive { connection, generation, to } => self.arrive(connection, generation, to),
            Happening::Down { connection, generation, side } => self.side_down(connection, generation, side),
            Happening::Connect { connection } => self.connect(connection),
            Happening::Client { client } => self.client_acts(client),
            Happening::Restart { node } if !self.members[node].alive => self.restart(node),
            Happening::Restart { .. } => {}
        }
    }
}

/// Short timing, small segments, and now and then bounds so tight that they are met.
fn settings(random: &mut Random) -> CoreSettings {
    let mut settings = CoreSettings::default();
    TimingPreset::Lan.apply_to(&mut settings.shard);
    let mut rarely = |value: u64, tight: u64| if random.below(4) == 0 { tight } else { value };
    settings.wal.segment_bytes = 128 << 10;
    settings.wal.payload_bytes_max = 16 << 10;
    settings.wal.batch_bytes_max = rarely(64 << 10, 4096) as u32;
    settings.wal.writes_in_flight = rarely(4, 1) as u32;
    settings.payload_bytes_max = 8 << 10;
    settings.cache_bytes_max = rarely(1 << 20, 4 << 10);
    settings.shard.append_bytes_max = rarely(64 << 10, 512) as u32;
    settings.shard.inflight_messages_max = rarely(256, 2) as u16;
    settings.shard.inflight_bytes_max = rarely(1 << 20, 1024) as u32;
    settings.shard.uncommitted_entries_max = rarely(10_000, 2) as u32;
    settings.peer_inflight_bytes_max = rarely(32 << 20, 16 << 10);
    settings.outbox_bytes_max = rarely(8 << 20, 4 << 10);
    settings.apply_bytes_per_turn = rarely(4 << 20, 256);
    settings.balance_leaders = rarely(1, 0) == 1;
    settings.disk_stall = Duration::from_millis(200);
    settings
}
