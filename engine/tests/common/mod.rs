//! A small cluster of [`Core`]s in one thread: simulated disks, a network of delayed frames, a clock that jumps to the next
//! event. The same calls give the same run.
#![allow(dead_code, unreachable_pub)]

mod journal;
mod network;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use logdrive::api::{Completions, CoreSettings, Error, ReadPolicy, TimingPreset};
use logdrive::core::{Core, CoreId, CoreOptions, Disks, Event, Fatal, GroupSetup, PortId, Slot};
use logdrive_shard::{GroupId, LogIndex, Moment, NodeId, SessionOp};
use logdrive_wal::{SimDisk, SimOptions, SimPlatter};

pub use journal::Journal;

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub result: Result<LogIndex, Error>,
    pub reply: Vec<u8>,
}

pub type TestCore = Core<SimDisk, Journal>;

/// A node: alive, or only its disk.
pub struct Node {
    pub core: Option<TestCore>,
    pub platter: SimPlatter,
    /// The disk of its snapshots.
    pub snapshots: SimPlatter,
    pub boot: u64,
    pub port: PortId,
    /// By token.
    pub answers: BTreeMap<u64, Answer>,
    pub fatal: Option<Fatal>,
    /// What the last start told of its progress.
    pub told: Vec<(u64, u64)>,
    disk_due: Option<u64>,
    snapshot_due: Option<u64>,
    dirty: bool,
    pub timed: Option<Timed>,
}

/// Slices of the work on snapshots between turns, and the clock that times them.
pub struct Timed {
    clock: Rc<Cell<u64>>,
    pub slices: Vec<Slice>,
    is_busy: bool,
}

/// A slice: when it began, how long it took by its clock, and how many frames had left in the turn before it.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub at: u64,
    pub took: u64,
    pub frames: usize,
}

struct Packet {
    from: u32,
    connection: u64,
    bytes: Vec<u8>,
}

/// What a cluster is made of.
#[derive(Clone)]
pub struct Setup {
    pub nodes: u32,
    /// The first so many nodes found the groups; 0: all. The others host them and are no members yet.
    pub founders: u32,
    pub groups: u64,
    pub seed: u64,
    pub settings: CoreSettings,
    pub disk_latency: std::ops::Range<u64>,
    pub disk_bytes: u64,
    /// Group `n` should be led by node `n % nodes + 1`.
    pub preferred: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        let mut settings = CoreSettings::default();
        TimingPreset::Lan.apply_to(&mut settings.shard);
        // On order only, unless a test is about them.
        (settings.snapshots.every_entries, settings.snapshots.every_bytes) = (0, 0);
        settings.wal.segment_bytes = 1 << 20;
        settings.wal.budget_bytes = 64 << 20;
        settings.wal.payload_bytes_max = 128 << 10;
        settings.wal.batch_bytes_max = 64 << 10;
        Setup {
            nodes: 3,
            founders: 0,
            groups: 64,
            seed: 1,
            settings,
            disk_latency: 100_000..300_000,
            disk_bytes: 256 << 20,
            preferred: true,
        }
    }
}

/// The cluster.
pub struct Cluster {
    pub setup: Setup,
    pub now: u64,
    pub nodes: Vec<Node>,
    /// In flight, by direction; each direction delivers in order.
    wires: BTreeMap<(u32, u32), VecDeque<(u64, Packet)>>,
    delay: BTreeMap<(u32, u32), Duration>,
    held: BTreeSet<(u32, u32)>,
    connections: BTreeMap<(u32, u32), u64>,
    next_connection: u64,
    next_token: u64,
    /// Directions whose frames stay with the sender: its socket is full.
    pub stuffed: BTreeSet<(u32, u32)>,
    /// What becomes of a frame that leaves a node for another one: none, another one, several.
    pub tamper: Option<Tamper>,
}

/// Gets the time, the direction and the frame.
pub type Tamper = Box<dyn FnMut(u64, (u32, u32), Vec<u8>) -> Vec<Vec<u8>>>;

pub const MS: u64 = 1_000_000;

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Cluster {
    /// All nodes started and connected.
    pub fn new(setup: Setup) -> Cluster {
        let platter = |node: u32| {
            let seed = setup.seed * 1000 + u64::from(node);
            SimDisk::new(SimOptions { seed, capacity_bytes: setup.disk_bytes }).platter()
        };
        let nodes = (1..=setup.nodes).map(|node| Node {
            core: None,
            platter: platter(node),
            snapshots: platter(500 + node),
            boot: 0,
            port: PortId(0),
            answers: BTreeMap::new(),
            fatal: None,
            told: Vec::new(),
            disk_due: None,
            snapshot_due: None,
            dirty: false,
            timed: None,
        });
        let nodes = nodes.collect();
        let mut cluster = Cluster {
            now: 1_000 * MS,
            nodes,
            wires: BTreeMap::new(),
            delay: BTreeMap::new(),
            held: BTreeSet::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            next_token: 1,
            stuffed: BTreeSet::new(),
            tamper: None,
            setup,
        };
        for node in 1..=cluster.setup.nodes {
            cluster.start(node);
        }
        cluster
    }

    pub fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    pub fn core(&mut self, node: u32) -> &mut TestCore {
        self.node(node).core.as_mut().unwrap_or_else(|| panic!("node {node} is down"))
    }

    pub fn is_up(&self, node: u32) -> bool {
        self.nodes[node as usize - 1].core.is_some()
    }

    pub fn running(&self) -> Vec<u32> {
        (1..=self.setup.nodes).filter(|&node| self.is_up(node)).collect()
    }

    /// Starts a node on what its disk has, and connects it to all others that run.
    pub fn start(&mut self, node: u32) {
        self.start_alone(node);
        for other in self.running() {
            if other != node {
                self.connect(node, other);
            }
        }
    }

    /// Starts a node without connecting it.
    pub fn start_alone(&mut self, node: u32) {
        let founders = if self.setup.founders == 0 { self.setup.nodes } else { self.setup.founders };
        let voters: Vec<NodeId> = (1..=founders).filter(|_| node <= founders).map(NodeId).collect();
        let preferred = |group: u64| match self.setup.preferred && node <= founders {
            true => NodeId((group % u64::from(founders)) as u32 + 1),
            false => NodeId::NONE,
        };
        let groups = (1..=self.setup.groups).map(|group| GroupSetup {
            id: GroupId(group),
            founders: voters.clone(),
            preferred_leader: preferred(group),
        });
        let options = CoreOptions {
            node: NodeId(node),
            core: CoreId(0),
            cluster: 7,
            boot: self.nodes[node as usize - 1].boot + 1,
            seed: self.setup.seed * 77 + u64::from(node) + self.now,
            groups: groups.collect(),
            settings: self.setup.settings.clone(),
        };
        let latency = self.setup.disk_latency.clone();
        let now = self.now;
        let this = self.node(node);
        assert!(this.core.is_none(), "node {node} runs already");
        this.boot += 1;
        let open = |platter: &SimPlatter| platter.open().expect("the disk opens");
        let disks = Disks { log: open(&this.platter), snapshots: open(&this.snapshots) };
        this.told.clear();
        let mut tell = |done, total| this.told.push((done, total));
        let mut core = Core::open(Moment(now), options, disks, Journal::default(), &mut tell)
            .unwrap_or_else(|error| panic!("node {node} does not open: {error}"));
        core.wal().disk().advance(now);
        core.wal().disk().set_latency(latency.clone());
        core.snapshot_disk().advance(now);
        core.snapshot_disk().set_latency(latency);
        this.port = core.add_port();
        this.core = Some(core);
        this.dirty = true;
    }

    /// `kill -9`: the process is gone, its connections break.
    pub fn kill(&mut self, node: u32) {
        drop(self.node(node).core.take());
        self.node(node).timed = None;
        for other in 1..=self.setup.nodes {
            if other != node {
                self.disconnect(node, other);
            }
        }
    }

    /// The power of a node fails: what its disk had not made durable may be gone.
    pub fn power_loss(&mut self, node: u32) {
        self.kill(node);
        self.node(node).platter.power_loss();
        self.node(node).snapshots.power_loss();
    }

    // -- clients ------------------------------------------------------------------------------------------------------

    pub fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub fn slot(group: u64) -> Slot {
        Slot(group as u32 - 1)
    }

    /// Asks a node for something; the answer comes under the token returned.
    pub fn ask<'e>(&mut self, node: u32, event: impl FnOnce(PortId, u64) -> Event<'e>) -> u64 {
        let token = self.token();
        let (port, now) = (self.node(node).port, Moment(self.now));
        self.core(node).handle(now, event(port, token)).expect("no frame");
        self.wake(node);
        token
    }

    /// Proposes at a node; the answer comes under the token returned.
    pub fn propose(&mut self, node: u32, group: u64, payload: &[u8]) -> u64 {
        self.ask(node, |port, token| Event::Propose { port, token, slot: Cluster::slot(group), payload })
    }

    /// Asks a session's operation of a node; the answer comes under the token returned.
    pub fn session(&mut self, node: u32, group: u64, op: SessionOp<'_>) -> u64 {
        self.ask(node, |port, token| Event::Session { port, token, slot: Cluster::slot(group), op })
    }

    /// Orders a leader transfer, to the best if `to` is 0; the answer comes under the token returned.
    pub fn transfer(&mut self, node: u32, group: u64, to: u32) -> u64 {
        let slot = Cluster::slot(group);
        self.ask(node, |port, token| Event::Transfer { port, token, slot, to: NodeId(to) })
    }

    /// Opens a session at the leader.
    pub fn open_session(&mut self, group: u64) -> u64 {
        let leader = self.leader(group);
        let token = self.session(leader, group, SessionOp::Open);
        let answer = self.wait(leader, token);
        let id = u64::from_le_bytes(answer.reply[..].try_into().expect("8 bytes"));
        assert_eq!(answer.result, Ok(LogIndex(id)));
        id
    }

    pub fn read(&mut self, node: u32, group: u64, policy: ReadPolicy) -> u64 {
        let slot = Cluster::slot(group);
        self.ask(node, |port, token| Event::Read { port, token, slot, policy, request: b"all" })
    }

    /// The answer to `token` at `node`, if it came.
    pub fn answer(&mut self, node: u32, token: u64) -> Option<Answer> {
        self.node(node).answers.get(&token).cloned()
    }

    /// Runs until the answer came.
    pub fn wait(&mut self, node: u32, token: u64) -> Answer {
        self.run_until(ms(20_000), |cluster| cluster.node(node).answers.contains_key(&token));
        self.answer(node, token).expect("it came")
    }

    /// Proposes at the leader and waits for the answer.
    pub fn write(&mut self, group: u64, payload: &[u8]) -> Answer {
        let leader = self.leader(group);
        let token = self.propose(leader, group, payload);
        self.wait(leader, token)
    }

    // -- time ---------------------------------------------------------------------------------------------------------

    /// Runs for a time.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration.as_nanos() as u64;
        while self.advance(end) {}
    }

    /// Runs until `done`, or panics after `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Cluster) -> bool) {
        let end = self.now + limit.as_nanos() as u64;
        loop {
            if done(self) {
                return;
            }
            assert!(self.advance(end), "it did not happen within {limit:?}");
        }
    }

    /// Runs until every group has a leader that all running nodes know.
    pub fn elect(&mut self) {
        self.run_until(ms(60_000), |cluster| {
            let running = cluster.running();
            (1..=cluster.setup.groups).all(|group| {
                let slot = Cluster::slot(group);
                let leader = cluster.core(running[0]).leader_of(slot);
                leader.is_some()
                    && running.contains(&leader.0)
                    && cluster.core(leader.0).is_leader(slot)
                    && running.iter().all(|&node| cluster.core(node).leader_of(slot) == leader)
            })
        });
    }

    /// The running node that leads the group in the highest term.
    pub fn leader(&mut self, group: u64) -> u32 {
        self.find_leader(group).unwrap_or_else(|| panic!("group {group} has no leader"))
    }

    /// The same, if there is one.
    pub fn find_leader(&mut self, group: u64) -> Option<u32> {
        let slot = Cluster::slot(group);
        let leaders = self.running().into_iter().filter(|&node| self.core(node).is_leader(slot));
        let leaders: Vec<u32> = leaders.collect();
        let term = |cluster: &mut Cluster, node| cluster.core(node).group_status(slot).raft.term;
        leaders.into_iter().max_by_key(|&node| term(self, node))
    }

    /// Runs until all running nodes have applied the same in every group, and checks that they did.
    pub fn settle(&mut self) {
        self.run_until(ms(60_000), |cluster| {
            let running = cluster.running();
            (1..=cluster.setup.groups).all(|group| {
                let slot = Cluster::slot(group);
                let Some(leader) = cluster.find_leader(group) else { return false };
                let last = cluster.core(leader).group_status(slot).raft.last;
                running.iter().all(|&node| cluster.core(node).applied(slot) == last)
            })
        });
        let running = self.running();
        for group in 1..=self.setup.groups {
            let slot = group as usize - 1;
            let first = self.core(running[0]).machine().entries[slot].clone();
            for &node in &running[1..] {
                assert_eq!(self.core(node).machine().entries[slot], first, "group {group} on node {node}");
            }
        }
    }

    /// Everything at the next moment at which anything happens; false if that is after `end` (the clock then stands at it).
    pub fn advance(&mut self, end: u64) -> bool {
        let at = self.next_event().max(self.now);
        if at > end {
            self.now = end;
            return false;
        }
        self.now = at;
        self.deliver();
        for node in self.running() {
            self.turn(node);
        }
        true
    }

    fn next_event(&self) -> u64 {
        let mut next = u64::MAX;
        for node in &self.nodes {
            let Some(core) = &node.core else { continue };
            if node.dirty {
                return self.now;
            }
            next = next.min(core.next_deadline().0).min(node.disk_due.unwrap_or(u64::MAX));
            next = next.min(node.snapshot_due.unwrap_or(u64::MAX));
        }
        for (direction, wire) in &self.wires {
            if let Some((at, _)) = wire.front()
                && !self.held.contains(direction)
            {
                next = next.min(*at);
            }
        }
        next
    }

    fn deliver(&mut self) {
        let directions: Vec<(u32, u32)> = self.wires.keys().copied().collect();
        for (from, to) in directions {
            if self.held.contains(&(from, to)) {
                continue;
            }
            while let Some(wire) = self.wires.get_mut(&(from, to))
                && wire.front().is_some_and(|packet| packet.0 <= self.now)
            {
                let Some((_, packet)) = wire.pop_front() else { break };
                assert_eq!(packet.from, from);
                if self.connections.get(&Cluster::pair(from, to)) == Some(&packet.connection) {
                    self.receive(to, from, &packet.bytes, self.now);
                }
            }
        }
    }

    /// Something happened at a node: it has a turn at once.
    pub fn wake(&mut self, node: u32) {
        self.node(node).dirty = true;
    }

    /// Hands a frame to a node as if it read its clock at `now`.
    pub fn receive(&mut self, node: u32, from: u32, bytes: &[u8], now: u64) {
        let link = self.link(node, from);
        self.core(node).handle(Moment(now), Event::Frame { link, bytes }).expect("a sound frame");
        self.node(node).dirty = true;
    }

    /// One turn of a node, if it has anything to do.
    pub fn turn(&mut self, node: u32) {
        let now = self.now;
        let this = self.node(node);
        let Some(core) = this.core.as_mut() else { return };
        let disk_is_due = [this.disk_due, this.snapshot_due].into_iter().flatten().any(|due| due <= now);
        if !this.dirty && !disk_is_due && core.next_deadline().0 > now {
            return;
        }
        this.dirty = false;
        core.wal().disk().advance(now);
        if this.snapshot_due.is_some_and(|due| due <= now) {
            core.snapshot_disk().advance(now);
        }
        let looks = this.timed.as_ref().map(|timed| timed.clock.get());
        if let Err(fatal) = core.turn(Moment(now)) {
            this.fatal = Some(fatal);
            self.kill(node);
            return;
        }
        assert_eq!(looks, this.timed.as_ref().map(|timed| timed.clock.get()), "a slice within a turn");
        this.disk_due = core.wal().disk().next_due();
        this.snapshot_due = core.snapshot_disk().next_due();
        let frames = self.collect(node);
        self.slice(node, frames);
    }

    /// From now on slices of the work on snapshots are timed at a node, by a clock that goes on by `step` at every look.
    pub fn time_slices(&mut self, node: u32, step: Duration) {
        let clock = Rc::new(Cell::new(self.now));
        let (reads, step) = (Rc::clone(&clock), step.as_nanos() as u64);
        self.core(node).time_slices(move || {
            reads.set(reads.get() + step);
            Moment(reads.get())
        });
        self.node(node).timed = Some(Timed { clock, slices: Vec::new(), is_busy: false });
    }

    /// As [`Cluster::time_slices`], and whenever a slice may be due there was something else to do a moment before.
    pub fn time_slices_when_busy(&mut self, node: u32, step: Duration) {
        self.time_slices(node, step);
        self.node(node).timed.as_mut().expect("it was just made").is_busy = true;
    }

    /// A slice between turns, if one is due.
    fn slice(&mut self, node: u32, frames: usize) {
        let now = self.now;
        let this = self.node(node);
        let (Some(core), Some(timed)) = (this.core.as_mut(), this.timed.as_mut()) else { return };
        if timed.is_busy {
            core.handle(Moment(now), Event::Disk).expect("no frame");
        }
        if core.wants_slice(Moment(now)) {
            timed.clock.set(now);
            core.work_on_snapshots(Moment(now));
            timed.slices.push(Slice { at: now, took: timed.clock.get() - now, frames });
            this.disk_due = core.wal().disk().next_due();
            this.snapshot_due = core.snapshot_disk().next_due();
        }
    }

    /// Takes a node's frames and answers; how many frames.
    fn collect(&mut self, node: u32) -> usize {
        let mut taken = 0;
        let this = self.node(node);
        let Some(core) = this.core.as_mut() else { return taken };
        let (mut ports, mut links, mut answers) = (Vec::new(), Vec::new(), Completions::default());
        core.ports_with_answers(&mut ports);
        for port in ports {
            core.take_answers(port, &mut answers);
            for (completion, reply) in answers.iter() {
                let answer = Answer { result: completion.result, reply: reply.to_vec() };
                let twice = this.answers.insert(completion.token, answer);
                assert!(twice.is_none(), "token {} was answered twice", completion.token);
            }
            answers.clear();
        }
        core.links_with_frames(&mut links);
        for other in 1..=self.setup.nodes {
            let Some(&connection) = self.connections.get(&Cluster::pair(node, other)) else { continue };
            if other == node || self.stuffed.contains(&(node, other)) {
                continue;
            }
            let link = self.link(node, other);
            let mut bytes = Vec::new();
            while links.contains(&link) && self.core(node).take_frames(link, &mut bytes) {
                let bytes = std::mem::take(&mut bytes);
                taken += 1;
                let delay = self.delay.get(&(node, other)).copied().unwrap_or(Duration::from_micros(200));
                let wire = self.wires.entry((node, other)).or_default();
                let at = self.now + delay.as_nanos() as u64;
                let at = wire.back().map_or(at, |last| last.0.max(at));
                let frames = match &mut self.tamper {
                    Some(tamper) => tamper(self.now, (node, other), bytes),
                    None => vec![bytes],
                };
                wire.extend(frames.into_iter().map(|bytes| (at, Packet { from: node, connection, bytes })));
            }
        }
        taken
    }
}

pub fn payload(n: u64) -> Vec<u8> {
    format!("payload {n}").into_bytes()
}
