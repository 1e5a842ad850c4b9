//! Connections between cores of different nodes: whole messages, in order, late, cut off or held back.

use std::collections::VecDeque;

use logdrive::core::{Event, LinkId};
use logdrive::node::{Own, judge};
use logdrive::wire::{Handshake, Hello, VERSION_MAX, Versions};
use logdrive_shard::NodeId;

use super::world::{CLUSTER, Happening, MICROSECOND, MILLISECOND, World};

/// What travels.
pub(crate) enum Packet {
    /// An encoded handshake message with the sender's groups.
    Groups(Vec<u8>),
    /// One frame.
    Frame(Vec<u8>),
}

/// One connection, and the next ones after it.
pub(crate) struct Connection {
    /// Actors; side 0 belongs to the node with the lower id.
    pub(crate) ends: [usize; 2],
    pub(crate) open: bool,
    /// Counts the connections made; events of earlier ones are void.
    pub(crate) generation: u64,
    /// The link of a side that has finished the handshake.
    pub(crate) links: [Option<LinkId>; 2],
    /// What is on the way **to** a side, with the time of its arrival.
    pub(crate) queues: [VecDeque<(u64, Packet)>; 2],
}

impl Connection {
    pub(crate) fn new(ends: [usize; 2]) -> Connection {
        Connection {
            ends,
            open: false,
            generation: 0,
            links: [None; 2],
            queues: [VecDeque::new(), VecDeque::new()],
        }
    }

    /// Puts a packet on the way to a side, behind what is on the way already. Returns when it arrives.
    pub(crate) fn send(&mut self, to: usize, arrival: u64, packet: Packet) -> u64 {
        let arrival = self.queues[to].back().map_or(arrival, |last| last.0.max(arrival));
        self.queues[to].push_back((arrival, packet));
        arrival
    }

    /// Nothing that is on the way arrives any more.
    pub(crate) fn close(&mut self) {
        self.open = false;
        self.queues.iter_mut().for_each(VecDeque::clear);
    }
}

impl World {
    pub(super) fn nodes_of(&self, connection: usize) -> [usize; 2] {
        self.connections[connection].ends.map(|actor| self.actors[actor].node)
    }

    pub(super) fn latency(&mut self) -> u64 {
        match self.random.below(200) {
            0 => self.random.below(30 * MILLISECOND),
            _ => 30 * MICROSECOND + self.random.below(MILLISECOND),
        }
    }

    pub(super) fn send(&mut self, connection: usize, to: usize, packet: Packet) {
        let arrival = self.now + self.latency();
        let arrival = self.connections[connection].send(to, arrival, packet);
        let generation = self.connections[connection].generation;
        self.schedule(arrival, Happening::Arrive { connection, generation, to });
    }

    pub(super) fn connect(&mut self, connection: usize) {
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
            let live = self.actors[actor].live.as_ref().expect("alive");
            let mut bytes = Vec::new();
            Handshake::Groups(live.core.hello()).encode(&mut bytes);
            self.send(connection, 1 - side, Packet::Groups(bytes));
        }
    }

    pub(super) fn hello(&mut self, connection: usize, side: usize) -> Hello {
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
    pub(super) fn judge(&mut self, connection: usize, side: usize, hello: &Hello) {
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

    pub(super) fn arrive(&mut self, connection: usize, generation: u64, to: usize) {
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
                    if !self.input(actor, Event::Frame { link, bytes: &bytes }) {
                        // A peer that sends garbage loses its connection.
                        assert!(self.plan.disks_fail, "a frame arrived as it was sent and was refused");
                        self.reset(connection, [0, 0]);
                        return;
                    }
                    self.remember_end(actor, connection, to, link);
                }
            }
        }
    }

    pub(super) fn link_up(&mut self, connection: usize, side: usize, bytes: &[u8]) {
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

    pub(super) fn remember_end(&mut self, actor: usize, connection: usize, side: usize, link: LinkId) {
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

    pub(super) fn side_down(&mut self, connection: usize, generation: u64, side: usize) {
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

    /// Flips a bit of the next frame on its way.
    pub(crate) fn damage(&mut self, connection: usize) {
        for queue in &mut self.connections[connection].queues {
            if let Some((_, Packet::Frame(bytes))) = queue.front_mut() {
                let bit = self.random.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
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
}
