//! Nodes, their cores, disks and connections, in one thread and on one clock. Everything random comes from the seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use logdrive::api::{Completions, CoreSettings, ReadPolicy, TimingPreset};
use logdrive::core::{Core, CoreId, CoreOptions, Event, GroupSetup, LinkId, PortId, Slot};
use logdrive::node::{Own, PeersMemory, judge};
use logdrive::wire::{FrameView, Handshake, Hello, VERSION_MAX, Versions, frame_len};
use logdrive_shard::{AppendOutcome, GroupId, LogIndex, Moment, NodeId, Random};
use logdrive_wal::{SimDisk, SimOptions, SimPlatter};

use super::checker::{Checker, Kind};
use super::machine::Register;
use super::network::{Connection, Packet};

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
const CLUSTER: u64 = 0x5EED;
/// After so long a client asks elsewhere.
const CLIENT_PATIENCE: u64 = 1_500 * MILLISECOND;
/// Disk operations take so long when the disk is well.
const DISK_LATENCY: std::ops::Range<u64> = 50 * MICROSECOND..800 * MICROSECOND;

/// What kind of world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: u32,
    pub(crate) groups: u64,
    pub(crate) clients: u32,
}

/// A core that runs.
struct Live {
    core: Core<SimDisk, Register>,
    port: PortId,
    /// The connection behind each link.
    connections: Vec<usize>,
}

/// A core of a node, over all its lives.
struct Actor {
    node: usize,
    id: CoreId,
    platter: SimPlatter,
    groups: Vec<GroupSetup>,
    live: Option<Live>,
    /// When its loop turns next; `u64::MAX` if it does not run.
    turn_at: u64,
    /// Turns without the clock having moved.
    spins: u32,
}

/// A node, over all its lives.
struct Member {
    id: NodeId,
    actors: Vec<usize>,
    boot: u64,
    memory: PeersMemory,
    alive: bool,
    /// The process gets no CPU until then.
    paused_until: u64,
}

#[derive(Default)]
struct Client {
    op: Option<u64>,
    since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
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
    settings: CoreSettings,
    actors: Vec<Actor>,
    members: Vec<Member>,
    connections: Vec<Connection>,
    /// `[from][to]`, by node: nothing passes.
    blocked: Vec<Vec<bool>>,
    clients: Vec<Client>,
    pub(crate) clients_run: bool,
    happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    sequence: u64,
    /// Digest of everything that happened, to show that a seed repeats.
    pub(crate) digest: u64,
    trace: bool,
    frames: Vec<u8>,
    answers: Completions,
}

impl World {
    pub(crate) fn new(plan: Plan) -> World {
        let mut random = Random::new(plan.seed);
        let settings = settings(&mut random);
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
    fn place_groups(&mut self) {
        let nodes = self.plan.nodes;
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        for node in 0..nodes as usize {
            let cores = 1 + self.random.below(2);
            let first = self.actors.len();
            for core in 0..cores {
                let options = SimOptions { seed: self.random.next_u64(), capacity_bytes: 256 << 20 };
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
            let (id, actors) = (ids[node], (first..self.actors.len()).collect());
            let (boot, memory) = (0, PeersMemory::default());
            self.members.push(Member { id, actors, boot, memory, alive: false, paused_until: 0 });
        }
        for group in 1..=self.plan.groups {
            // In a larger cluster some groups have three voters only.
            let mut voters = ids.clone();
            let few = nodes > 3 && self.random.below(3) == 0;
            while few && voters.len() > 3 {
                let out = self.random.below(voters.len() as u64) as usize;
                voters.remove(out);
            }
            let preferred_leader = voters[self.random.below(voters.len() as u64) as usize];
            for voter in &voters {
                let actors = &self.members[voter.0 as usize - 1].actors;
                let actor = actors[self.random.below(actors.len() as u64) as usize];
                let setup = GroupSetup { id: GroupId(group), voters: voters.clone(), preferred_leader };
                let groups = &mut self.actors[actor].groups;
                let slot = self.random.below(groups.len() as u64 + 1) as usize;
                groups.insert(slot, setup);
            }
        }
    }

    fn make_connections(&mut self) {
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

    fn schedule(&mut self, at: u64, what: Happening) {
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

    fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value ^ self.now).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn happen(&mut self, what: Happening) {
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

    // -- the network --------------------------------------------------------------------------------------------------

    fn nodes_of(&self, connection: usize) -> [usize; 2] {
        self.connections[connection].ends.map(|actor| self.actors[actor].node)
    }

    fn latency(&mut self) -> u64 {
        match self.random.below(200) {
            0 => self.random.below(30 * MILLISECOND),
            _ => 30 * MICROSECOND + self.random.below(MILLISECOND),
        }
    }

    fn send(&mut self, connection: usize, to: usize, packet: Packet) {
        let arrival = self.now + self.latency();
        let arrival = self.connections[connection].send(to, arrival, packet);
        let generation = self.connections[connection].generation;
        self.schedule(arrival, Happening::Arrive { connection, generation, to });
    }

    fn connect(&mut self, connection: usize) {
        let nodes = self.nodes_of(connection);
        let [a, b] = nodes;
        let ready = |node: usize| self.members[node].alive && self.members[node].paused_until <= self.now;
        let state = &self.connections[connection];
        if state.open {
            return;
        }
        let passes = !self.blocked[a][b] && !self.blocked[b][a];
        if !passes || !ready(a) || !ready(b) || state.links != [None, None] {
            let at = self.now + 10 * MILLISECOND + self.random.below(20 * MILLISECOND);
            self.schedule(at, Happening::Connect { connection });
            return;
        }
        self.connections[connection].open = true;
        self.connections[connection].generation += 1;
        let hellos = [self.hello(connection, 0), self.hello(connection, 1)];
        for side in [0, 1] {
            self.judge(connection, side, &hellos[1 - side]);
            let actor = self.connections[connection].ends[side];
            let peer = self.members[nodes[1 - side]].id;
            let live = self.actors[actor].live.as_ref().expect("alive");
            let mut bytes = Vec::new();
            Handshake::Groups(live.core.hello_for(peer)).encode(&mut bytes);
            self.send(connection, 1 - side, Packet::Groups(bytes));
        }
    }

    fn hello(&mut self, connection: usize, side: usize) -> Hello {
        let ends = self.connections[connection].ends;
        let [here, there] =
            [ends[side], ends[1 - side]].map(|actor| (self.actors[actor].node, self.actors[actor].id));
        let (to_node, member) = (self.members[there.0].id, &self.members[here.0]);
        let live = self.actors[ends[side]].live.as_mut().expect("alive");
        Hello {
            versions: Versions::OURS,
            cluster: CLUSTER,
            node: member.id,
            core: here.1,
            cores: member.actors.len() as u16,
            incarnation: u64::from(member.id.0),
            boot: member.boot,
            durable_end: live.core.wal().durable_end(),
            to_node,
            to_core: there.1,
            remembered: member.memory.remembered(to_node, there.1),
        }
    }

    /// No disk is ever wiped or replaced here: every `Hello` must be accepted.
    fn judge(&mut self, connection: usize, side: usize, hello: &Hello) {
        let own_hello = self.hello(connection, side);
        let members: Vec<NodeId> = self.members.iter().map(|member| member.id).collect();
        let own = Own {
            cluster: CLUSTER,
            node: own_hello.node,
            incarnation: own_hello.incarnation,
            boot: own_hello.boot,
            cores: own_hello.cores,
            durable_end: own_hello.durable_end,
            members: &members,
            dialled: (side == 0).then_some((hello.node, hello.core)),
        };
        let member = &mut self.members[own_hello.node.0 as usize - 1];
        match judge(&own, &member.memory, hello) {
            Ok(accepted) => assert_eq!(accepted.version, VERSION_MAX),
            Err(reject) => panic!("node {} refuses node {}: {reject}", own.node, hello.node),
        }
        let _ = member.memory.remember(hello);
    }

    fn arrive(&mut self, connection: usize, generation: u64, to: usize) {
        let nodes = self.nodes_of(connection);
        let state = &self.connections[connection];
        if !state.open || state.generation != generation || self.blocked[nodes[1 - to]][nodes[to]] {
            return;
        }
        let paused_until = self.members[nodes[to]].paused_until;
        if paused_until > self.now {
            self.schedule(paused_until, Happening::Arrive { connection, generation, to });
            return;
        }
        let actor = state.ends[to];
        while self.connections[connection].queues[to].front().is_some_and(|first| first.0 <= self.now) {
            let packet = self.connections[connection].queues[to].pop_front();
            match packet.expect("looked at").1 {
                Packet::Groups(bytes) => self.link_up(connection, to, &bytes),
                Packet::Frame(bytes) => {
                    let link = self.connections[connection].links[to].expect("the handshake comes first");
                    self.input(actor, Event::Frame { link, bytes: &bytes });
                    self.remember_end(actor, connection, to, link);
                }
            }
        }
    }

    fn link_up(&mut self, connection: usize, side: usize, bytes: &[u8]) {
        let actor = self.connections[connection].ends[side];
        let Ok(Handshake::Groups(hello)) = Handshake::decode(bytes) else {
            panic!("a bad handshake message")
        };
        self.input(actor, Event::LinkUp { hello: &hello });
        let live = self.actors[actor].live.as_mut().expect("alive");
        let link = live.core.link_of(hello.node, hello.core).expect("a link that came up");
        if live.connections.len() <= usize::from(link.0) {
            live.connections.resize(usize::from(link.0) + 1, usize::MAX);
        }
        live.connections[usize::from(link.0)] = connection;
        self.connections[connection].links[side] = Some(link);
    }

    fn remember_end(&mut self, actor: usize, connection: usize, side: usize, link: LinkId) {
        let peer = &self.actors[self.connections[connection].ends[1 - side]];
        let (peer_node, peer_core) = (peer.node, peer.id);
        let (peer_id, boot) = (self.members[peer_node].id, self.members[peer_node].boot);
        let live = self.actors[actor].live.as_ref().expect("alive");
        let end = live.core.peer_durable_end(link);
        let memory = &mut self.members[self.actors[actor].node].memory;
        let _ = memory.remember_end(peer_id, peer_core, boot, end);
    }

    /// Both sides learn of the end, each in its time, and connect again.
    pub(crate) fn reset(&mut self, connection: usize, notice: [u64; 2]) {
        let state = &mut self.connections[connection];
        if !state.open {
            return;
        }
        state.close();
        let generation = state.generation;
        for (side, notice) in notice.into_iter().enumerate() {
            self.schedule(self.now + notice, Happening::Down { connection, generation, side });
        }
        let at = self.now + notice[0].max(notice[1]) + self.random.below(30 * MILLISECOND);
        self.schedule(at, Happening::Connect { connection });
    }

    fn side_down(&mut self, connection: usize, generation: u64, side: usize) {
        let node = self.nodes_of(connection)[side];
        let state = &mut self.connections[connection];
        let paused_until = self.members[node].paused_until;
        if state.generation != generation || !self.members[node].alive {
            return;
        }
        if paused_until > self.now {
            self.schedule(paused_until, Happening::Down { connection, generation, side });
            return;
        }
        if let Some(link) = state.links[side].take() {
            let actor = state.ends[side];
            self.input(actor, Event::LinkDown { link });
        }
    }

    pub(crate) fn block(&mut self, from: usize, to: usize) {
        self.blocked[from][to] = true;
    }

    pub(crate) fn unblock_all(&mut self) {
        self.blocked.iter_mut().for_each(|row| row.fill(false));
        for connection in 0..self.connections.len() {
            let generation = self.connections[connection].generation;
            for to in [0, 1] {
                let at = self.now + self.random.below(MILLISECOND);
                self.schedule(at, Happening::Arrive { connection, generation, to });
            }
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn crosses_block(&self, connection: usize) -> bool {
        let [a, b] = self.nodes_of(connection);
        self.blocked[a][b] || self.blocked[b][a]
    }

    // -- the cores ----------------------------------------------------------------------------------------------------

    /// An event for a core; its loop turns soon after, with whatever else has come by then.
    fn input(&mut self, actor: usize, event: Event<'_>) {
        let (now, delay) = (Moment(self.now), self.random.below(40 * MICROSECOND));
        let state = &mut self.actors[actor];
        let live = state.live.as_mut().expect("only for cores that run");
        live.core.handle(now, event).expect("frames arrive as they were sent");
        state.turn_at = state.turn_at.min(self.now + delay);
    }

    fn turn(&mut self, actor: usize) {
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
        live.core.turn(now).expect("no disk fails here");
        let due = live.core.wal().disk().next_due().unwrap_or(u64::MAX);
        state.turn_at = live.core.next_deadline().0.min(due).max(self.now);
        self.check_groups(actor);
        self.send_frames(actor);
        self.take_answers(actor);
    }

    fn check_groups(&mut self, actor: usize) {
        let state = &mut self.actors[actor];
        let node = self.members[state.node].id;
        let live = state.live.as_mut().expect("just turned");
        for (slot, group) in state.groups.iter().enumerate() {
            let status = live.core.group_status(Slot(slot as u32));
            self.checker.borrow_mut().on_state(node, group.voters.len(), &status);
        }
        let mut changes = Vec::new();
        live.core.leadership_changes(&mut changes);
        for (slot, leader) in changes {
            let group = self.actors[actor].groups[slot.0 as usize].id;
            self.note(|| format!("node {node}: group {group} is led by {leader}"));
        }
    }

    fn send_frames(&mut self, actor: usize) {
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
    fn inspect(&self, from: usize, to: usize, frame: &[u8]) {
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
        let (id, boot) = (self.members[node].id, self.members[node].boot);
        for actor in self.members[node].actors.clone() {
            let seed = self.random.next_u64();
            let state = &mut self.actors[actor];
            let disk = state.platter.open().expect("no other process has it");
            let options = CoreOptions {
                node: id,
                core: state.id,
                cluster: CLUSTER,
                boot,
                seed,
                groups: state.groups.clone(),
                settings: self.settings.clone(),
            };
            let machine = Register::new(id, self.checker.clone());
            let opened = Core::open(Moment(self.now), options, disk, machine, &mut |_, _| {});
            let mut core = opened.unwrap_or_else(|error| panic!("node {id} does not start: {error}"));
            for (slot, group) in state.groups.iter().enumerate() {
                let status = core.group_status(Slot(slot as u32));
                let mut checker = self.checker.borrow_mut();
                checker.on_restart(id, group.id, status.raft.term, status.raft.last);
                checker.on_state(id, group.voters.len(), &status);
            }
            core.wal().disk().set_latency(DISK_LATENCY);
            core.wal().disk().advance(self.now);
            let port = core.add_port();
            state.live = Some(Live { core, port, connections: Vec::new() });
            state.turn_at = self.now;
        }
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
                Stop::Clean => live.core.close(Moment(self.now)).expect("no disk fails here"),
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

    pub(crate) fn heal_disks(&mut self) {
        for node in 0..self.members.len() {
            self.set_disk_latency(node, DISK_LATENCY);
        }
    }

    pub(crate) fn transfer(&mut self, group: GroupId, to: NodeId) {
        for actor in 0..self.actors.len() {
            let slot = self.actors[actor].groups.iter().position(|setup| setup.id == group);
            let runs = self.members[self.actors[actor].node].paused_until <= self.now;
            if let (Some(slot), Some(live), true) = (slot, &self.actors[actor].live, runs)
                && live.core.is_leader(Slot(slot as u32))
            {
                self.input(actor, Event::Transfer { slot: Slot(slot as u32), to });
            }
        }
    }

    // -- clients ------------------------------------------------------------------------------------------------------

    pub(crate) fn voters(&self, group: GroupId) -> Vec<NodeId> {
        let mut setups = self.actors.iter().flat_map(|actor| &actor.groups);
        setups.find(|setup| setup.id == group).expect("a group of the plan").voters.clone()
    }

    /// The core of a node that holds a group, and its slot there.
    fn home(&self, node: NodeId, group: GroupId) -> (usize, Slot) {
        let actors = &self.members[node.0 as usize - 1].actors;
        let slot = |actor: usize| self.actors[actor].groups.iter().position(|setup| setup.id == group);
        let found = actors.iter().find_map(|&actor| Some((actor, slot(actor)?)));
        let (actor, slot) = found.expect("the node is a voter of the group");
        (actor, Slot(slot as u32))
    }

    /// Who leads, as a node sees it; `NONE` if it does not run.
    pub(crate) fn leader_seen_by(&self, node: NodeId, group: GroupId) -> NodeId {
        let (actor, slot) = self.home(node, group);
        self.actors[actor].live.as_ref().map_or(NodeId::NONE, |live| live.core.leader_of(slot))
    }

    /// Begins an operation at a node that runs. Returns its number.
    pub(crate) fn begin(&mut self, kind: Kind, group: GroupId, node: NodeId, client: u32) -> u64 {
        let (actor, slot) = self.home(node, group);
        let token = self.checker.borrow_mut().begin(kind, group, node, client);
        let port = self.actors[actor].live.as_ref().expect("a node that runs").port;
        match kind {
            Kind::Propose => {
                let mut payload = token.to_le_bytes().to_vec();
                let padding = self.random.below(300) as usize;
                payload.resize(8 + padding, token as u8);
                self.input(actor, Event::Propose { port, token, slot, payload: &payload });
            }
            Kind::ReadLinearizable => {
                let policy = ReadPolicy::Linearizable;
                self.input(actor, Event::Read { port, token, slot, policy, request: b"" });
            }
            Kind::ReadLocal => {
                let policy = ReadPolicy::Local { min_index: LogIndex(0) };
                self.input(actor, Event::Read { port, token, slot, policy, request: b"" });
            }
        }
        token
    }

    fn client_acts(&mut self, client: usize) {
        let Client { op, since } = self.clients[client];
        if !self.clients_run || (op.is_some() && self.now < since + CLIENT_PATIENCE) {
            return;
        }
        self.clients[client].op = None;
        let group = GroupId(1 + self.random.below(self.plan.groups));
        let voters = self.voters(group);
        let asked = voters[self.random.below(voters.len() as u64) as usize];
        let leader = self.leader_seen_by(asked, group);
        let known = leader.is_some() && self.random.below(10) > 0;
        let node = if known { leader } else { asked };
        let member = &self.members[node.0 as usize - 1];
        if !member.alive || member.paused_until > self.now {
            let at = self.now + MILLISECOND + self.random.below(20 * MILLISECOND);
            self.schedule(at, Happening::Client { client });
            return;
        }
        let kind = match self.random.below(10) {
            0..6 => Kind::Propose,
            6..9 => Kind::ReadLinearizable,
            _ => Kind::ReadLocal,
        };
        let op = self.begin(kind, group, node, client as u32);
        self.clients[client] = Client { op: Some(op), since: self.now };
        self.schedule(self.now + CLIENT_PATIENCE, Happening::Client { client });
    }

    fn take_answers(&mut self, actor: usize) {
        let live = self.actors[actor].live.as_mut().expect("just turned");
        let mut ports = Vec::new();
        live.core.ports_with_answers(&mut ports);
        if ports.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        answers.clear();
        live.core.take_answers(live.port, &mut answers);
        for (completion, reply) in answers.iter() {
            let counter = reply.try_into().ok().map(u64::from_le_bytes);
            let op = self.checker.borrow_mut().on_answer(completion.token, completion.result, counter);
            let client = op.client as usize;
            if self.clients.get(client).is_some_and(|client| client.op == Some(completion.token)) {
                self.clients[client].op = None;
                let pause = match completion.result {
                    Ok(_) => self.random.below(6 * MILLISECOND),
                    Err(_) => 2 * MILLISECOND + self.random.below(20 * MILLISECOND),
                };
                self.schedule(self.now + pause, Happening::Client { client });
            }
        }
        self.answers = answers;
    }

    /// The connection of clients to a node that ended is gone: they will never know.
    fn give_up_on(&mut self, node: usize) {
        let id = self.members[node].id;
        for client in 0..self.clients.len() {
            let at_node = |op: u64| self.checker.borrow().ops[op as usize].node == id;
            if self.clients[client].op.is_some_and(at_node) {
                self.clients[client].op = None;
                let at = self.now + self.random.below(20 * MILLISECOND);
                self.schedule(at, Happening::Client { client });
            }
        }
    }

    // -- the end ------------------------------------------------------------------------------------------------------

    /// Why the cluster is not at rest and equal everywhere; `None` if it is.
    pub(crate) fn unrest(&self) -> Option<String> {
        for group in (1..=self.plan.groups).map(GroupId) {
            let voters = self.voters(group);
            let leader = self.leader_seen_by(voters[0], group);
            let mut states = Vec::new();
            for voter in voters {
                let (actor, slot) = self.home(voter, group);
                let Some(live) = &self.actors[actor].live else {
                    return Some(format!("node {voter} is down"));
                };
                let status = live.core.group_status(slot);
                if !leader.is_some() || status.raft.leader != leader {
                    return Some(format!("group {group}: node {voter} follows {}", status.raft.leader));
                }
                if live.core.requests_waiting() > 0 {
                    return Some(format!("node {voter}: requests wait"));
                }
                let count = live.core.machine().count(slot.0);
                states.push((status.applied, status.raft.last, status.digest, count));
            }
            let (applied, last, _, count) = states[0];
            let whole = applied == last && count == self.checker.borrow().count(group);
            if !whole || states.iter().any(|state| *state != states[0]) {
                return Some(format!("group {group}: {states:?}"));
            }
        }
        None
    }

    /// Runs until the cluster is at rest. What every group's members hold is then equal.
    pub(crate) fn settle(&mut self, limit: Duration) {
        let end = self.now + limit.as_nanos() as u64;
        while let Some(why) = self.unrest() {
            assert!(self.now < end, "not at rest {limit:?} after everything was healed: {why}");
            self.run_for(Duration::from_millis(20));
        }
    }

    /// Sums over all cores that run, to see what a run has exercised.
    pub(crate) fn totals(&self) -> [u64; 4] {
        let mut totals = [0; 4];
        for live in self.actors.iter().filter_map(|actor| actor.live.as_ref()) {
            let counters = live.core.counters();
            let some = [counters.cold_entries, counters.dropped, counters.held_back, counters.busy];
            totals.iter_mut().zip(some).for_each(|(total, some)| *total += some);
        }
        totals
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Clean,
    Kill,
    PowerLoss,
}

/// Short timing, small segments, and now and then bounds so tight that they are met.
fn settings(random: &mut Random) -> CoreSettings {
    let mut settings = CoreSettings::default();
    TimingPreset::Lan.apply_to(&mut settings.shard);
    let mut rarely = |value: u64, tight: u64| if random.below(4) == 0 { tight } else { value };
    settings.wal.segment_bytes = 128 << 10;
    settings.wal.payload_bytes_max = 16 << 10;
    settings.wal.budget_bytes = 64 << 20;
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
