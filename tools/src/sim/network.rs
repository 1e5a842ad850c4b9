//! Connections between cores of different nodes, with what a network does to each direction: whole frames, mostly in order, late,
//! cut off, held back, and with a bad link lost, doubled, overtaken or damaged.
//!
//! Every connection begins with the product's handshake: both sides judge each other's `Hello` by the product's rules.

use std::collections::VecDeque;

use logdrive::core::{Event as CoreEvent, LinkId};
use logdrive::node::{Own, judge};
use logdrive::wire::{FrameView, Handshake, Hello, VERSION_MAX, Versions};
use logdrive_shard::NodeId;

use super::clock::{MILLISECOND, Nanos};
use super::faults::LinkTrouble;
use super::node::CoreAt;
use super::observer::{Broken, Verdict, ensure};
use super::queue::Event;
use super::random::{chance, within};
use super::world::{CLUSTER, World};

/// Buffers of frames that are kept for reuse.
const SPARES_MAX: usize = 256;

/// What the network does from one node to another at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Nothing passes, and no connection can be made.
    pub(super) is_cut: bool,
    /// Nothing passes.
    pub(super) is_clogged: bool,
    pub(super) trouble: LinkTrouble,
}

/// What travels.
pub(super) enum Packet {
    /// An encoded handshake message with the sender's groups.
    Groups(Vec<u8>),
    /// One frame. `damaged`: it differs from what was sent.
    Frame { bytes: Vec<u8>, damaged: bool },
}

impl Packet {
    fn len(&self) -> usize {
        match self {
            Packet::Groups(bytes) | Packet::Frame { bytes, .. } => bytes.len(),
        }
    }
}

/// One connection, and the next ones after it.
pub(super) struct Connection {
    /// Cores; side 0 belongs to the node with the lower id.
    pub(super) ends: [CoreAt; 2],
    pub(super) is_open: bool,
    /// Counts the connections made; events of earlier ones are void.
    pub(super) generation: u32,
    /// The link of a side that has finished the handshake.
    pub(super) links: [Option<LinkId>; 2],
    /// What is on the way **to** a side, with the time of its arrival.
    queues: [VecDeque<(Nanos, Packet)>; 2],
    bytes: [usize; 2],
    /// Frames went astray on it: a stream that lost some does not go on for ever.
    pub(super) is_astray: bool,
    /// The last handshake was refused.
    pub(super) is_refused: bool,
}

impl Connection {
    pub(super) fn new(ends: [CoreAt; 2]) -> Connection {
        Connection {
            ends,
            is_open: false,
            generation: 0,
            links: [None; 2],
            queues: [VecDeque::new(), VecDeque::new()],
            bytes: [0; 2],
            is_astray: false,
            is_refused: false,
        }
    }

    /// Puts a packet on the way to a side, behind what is on the way already unless it `overtakes` that. Returns when it arrives.
    fn put(&mut self, to: usize, arrival: Nanos, packet: Packet, overtakes: bool) -> Nanos {
        let queue = &mut self.queues[to];
        self.bytes[to] += packet.len();
        if overtakes && queue.back().is_some_and(|last| matches!(last.1, Packet::Frame { .. })) {
            let arrival = queue.back().map_or(arrival, |last| last.0);
            let at = queue.len() - 1;
            queue.insert(at, (arrival, packet));
            return arrival;
        }
        let arrival = queue.back().map_or(arrival, |last| last.0.max(arrival));
        queue.push_back((arrival, packet));
        arrival
    }

    /// Nothing that is on the way arrives any more.
    fn close(&mut self) {
        self.is_open = false;
        self.is_astray = false;
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.bytes = [0; 2];
    }

    /// Whether the sender's socket takes nothing more: so many bytes are on the way.
    pub(super) fn is_stuffed(&self, to: usize, socket_bytes: usize) -> bool {
        self.bytes[to] >= socket_bytes
    }
}

impl World {
    pub(super) fn make_connections(&mut self) {
        for a in 0..self.cores.len() {
            for b in a + 1..self.cores.len() {
                if self.cores[a].node != self.cores[b].node {
                    self.connections.push(Connection::new([CoreAt(a), CoreAt(b)]));
                    let connection = self.connections.len() as u32 - 1;
                    self.queue.put(self.now + MILLISECOND, Event::Connect { connection });
                }
            }
        }
    }

    pub(super) fn nodes_of(&self, connection: usize) -> [usize; 2] {
        self.connections[connection].ends.map(|core| self.cores[core.0].node)
    }

    pub(super) fn way(&self, from: usize, to: usize) -> &Way {
        &self.ways[from * self.nodes.len() + to]
    }

    // -- connecting ------------------------------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, connection: usize) -> Verdict {
        let nodes = self.nodes_of(connection);
        let [a, b] = nodes;
        let state = &self.connections[connection];
        if state.is_open {
            return Ok(());
        }
        let passes = !self.way(a, b).is_cut && !self.way(b, a).is_cut;
        let ready = nodes.iter().all(|&node| self.nodes[node].responds(self.now));
        if !passes || !ready || state.links != [None, None] {
            self.connect_later(connection, 10 * MILLISECOND..30 * MILLISECOND);
            return Ok(());
        }
        let hellos = [self.hello(connection, 0), self.hello(connection, 1)];
        for side in [0, 1] {
            if !self.judge(connection, side, &hellos[1 - side])? {
                self.connections[connection].is_refused = true;
                self.connect_later(connection, 200 * MILLISECOND..2_000 * MILLISECOND);
                return Ok(());
            }
        }
        self.connections[connection].is_open = true;
        self.connections[connection].is_refused = false;
        self.connections[connection].generation += 1;
        for side in [0, 1] {
            let core = self.connections[connection].ends[side];
            let Some(live) = &self.cores[core.0].live else { continue };
            let mut bytes = Vec::new();
            Handshake::Groups(live.core.hello()).encode(&mut bytes);
            self.send(connection, 1 - side, Packet::Groups(bytes), false);
        }
        Ok(())
    }

    fn connect_later(&mut self, connection: usize, pause: std::ops::Range<Nanos>) {
        let at = self.now + within(&mut self.random.network, pause);
        self.queue.put(at, Event::Connect { connection: connection as u32 });
    }

    fn hello(&mut self, connection: usize, side: usize) -> Hello {
        let ends = self.connections[connection].ends;
        let [here, there] = [ends[side], ends[1 - side]].map(|core| {
            let state = &self.cores[core.0];
            (state.node, state.id)
        });
        let (to_node, node) = (self.nodes[there.0].id, &self.nodes[here.0]);
        let (boot, names, incarnation) = (node.boot, node.names, node.incarnation);
        let cores = node.cores.len() as u16;
        let (id, remembered) = (node.id, node.memory.remembered(to_node, there.1));
        let live = self.cores[ends[side].0].live.as_mut();
        let hello = Hello {
            versions: Versions::OURS,
            cluster: CLUSTER,
            node: id,
            core: here.1,
            cores,
            incarnation,
            boot,
            names,
            durable_end: live.map_or(0, |live| live.core.wal().durable_end()),
            to_node,
            to_core: there.1,
            remembered,
        };
        // As it comes out of the bytes.
        let mut bytes = Vec::new();
        Handshake::Hello(hello).encode(&mut bytes);
        match Handshake::decode(&bytes) {
            Ok(Handshake::Hello(read)) => read,
            _ => hello,
        }
    }

    /// Whether a side takes the other one. Nobody may take a node that came back with less than it had, and nobody may refuse another.
    fn judge(&mut self, connection: usize, side: usize, hello: &Hello) -> Result<bool, Box<Broken>> {
        let own_hello = self.hello(connection, side);
        let members: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let own = Own {
            cluster: CLUSTER,
            node: own_hello.node,
            incarnation: own_hello.incarnation,
            boot: own_hello.boot,
            names: &own_hello.names,
            cores: own_hello.cores,
            durable_end: own_hello.durable_end,
            members: &members,
            dialled: (side == 0).then_some((hello.node, hello.core)),
        };
        let nodes = self.nodes_of(connection);
        let is_spoiled = nodes.iter().any(|&node| self.nodes[node].is_spoiled);
        let node = &mut self.nodes[nodes[side]];
        match judge(&own, &node.memory, hello) {
            Ok(_) if is_spoiled => Err(Broken::new(
                "nobody is taken who came back with less than it had",
                format!("node {} takes node {} in boot {}", own.node, hello.node, hello.boot),
            )
            .on_node(own.node)),
            Ok(_) => {
                let _ = node.memory.remember(hello);
                Ok(true)
            }
            Err(reject) if is_spoiled => {
                let reject = reject.to_string();
                self.reach("handshakes refused");
                if !self.connections[connection].is_refused {
                    let told = own.node.0 as usize - 1;
                    self.note(Some(told), || format!("refuses node {}: {reject}", hello.node));
                }
                Ok(false)
            }
            Err(reject) => Err(Broken::new(
                "nobody is refused who lost nothing",
                format!("node {} refuses node {}: {reject}", own.node, hello.node),
            )
            .on_node(own.node)),
        }
    }

    // -- frames ----------------------------------------------------------------------------------------------------------

    fn send(&mut self, connection: usize, to: usize, packet: Packet, overtakes: bool) {
        let takes = self.shape.frame_takes(&mut self.random.network);
        let [a, b] = self.nodes_of(connection);
        let (from_node, to_node) = if to == 1 { (a, b) } else { (b, a) };
        let slow = self.way(from_node, to_node).trouble.delay;
        let extra = if slow > 0 { self.random.network.below(slow) } else { 0 };
        let state = &mut self.connections[connection];
        let arrival = state.put(to, self.now + takes + extra, packet, overtakes);
        let generation = state.generation;
        let (connection, to) = (connection as u32, to as u8);
        self.queue.put(arrival, Event::Arrive { connection, generation, to });
    }

    /// A frame leaves a core; what becomes of it is up to the link.
    pub(super) fn send_frame(&mut self, connection: usize, to: usize, frame: &[u8]) {
        let [a, b] = self.nodes_of(connection);
        let trouble = if to == 1 { self.way(a, b).trouble } else { self.way(b, a).trouble };
        if self.is_muted(if to == 1 { a } else { b }, self.connections[connection].ends[to], frame) {
            self.reach("frames lost");
            self.connections[connection].is_astray = true;
            return;
        }
        let mut bytes = self.scratch.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame);
        if trouble == LinkTrouble::default() {
            self.send(connection, to, Packet::Frame { bytes, damaged: false }, false);
            return;
        }
        let random = &mut self.random.network;
        let mut strikes = |permille: u16| random.below(1_000) < u64::from(permille);
        let (lost, twice) = (strikes(trouble.lost_permille), strikes(trouble.twice_permille));
        let (overtakes, damaged) = (strikes(trouble.overtakes_permille), strikes(trouble.damaged_permille));
        let count = |world: &mut World, happened: bool, what| {
            if happened {
                world.reach(what);
                world.connections[connection].is_astray = true;
            }
        };
        count(self, lost, "frames lost");
        count(self, twice, "frames doubled");
        count(self, overtakes, "frames reordered");
        if lost {
            return;
        }
        if twice {
            self.send(connection, to, Packet::Frame { bytes: bytes.clone(), damaged: false }, false);
        }
        if damaged {
            let bit = self.random.network.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.reach("frames damaged");
        }
        self.send(connection, to, Packet::Frame { bytes, damaged }, overtakes);
    }

    pub(super) fn arrive(&mut self, connection: usize, generation: u32, to: usize) -> Verdict {
        let nodes = self.nodes_of(connection);
        let state = &self.connections[connection];
        if !state.is_open || state.generation != generation {
            return Ok(());
        }
        let way = self.way(nodes[1 - to], nodes[to]);
        if way.is_cut || way.is_clogged {
            return Ok(()); // It comes when the way is free again.
        }
        let paused_until = self.nodes[nodes[to]].paused_until;
        if paused_until > self.now {
            return Ok(()); // It comes when the process goes on.
        }
        let was_stuffed = state.is_stuffed(to, self.shape.socket_bytes);
        let core = state.ends[to];
        loop {
            let state = &mut self.connections[connection];
            if !state.is_open || state.queues[to].front().is_none_or(|first| first.0 > self.now) {
                break;
            }
            let Some((_, packet)) = state.queues[to].pop_front() else { break };
            state.bytes[to] -= packet.len();
            match packet {
                Packet::Groups(bytes) => self.link_up(connection, to, &bytes)?,
                Packet::Frame { bytes, damaged } => self.take_frame(connection, to, core, bytes, damaged)?,
            }
        }
        let state = &self.connections[connection];
        if was_stuffed && state.is_open && !state.is_stuffed(to, self.shape.socket_bytes) {
            let sender = state.ends[1 - to];
            if self.cores[sender.0].live.is_some() {
                self.wake(sender);
            }
        }
        Ok(())
    }

    fn take_frame(
        &mut self,
        connection: usize,
        to: usize,
        core: CoreAt,
        bytes: Vec<u8>,
        damaged: bool,
    ) -> Verdict {
        let Some(link) = self.connections[connection].links[to] else {
            return Err(Broken::new("the handshake comes first", "a frame arrived before it"));
        };
        let from = self.connections[connection].ends[1 - to];
        if !damaged {
            self.tell(|observer, world| observer.frame_comes(world, from, core, &bytes))?;
        }
        let taken = self.input(core, CoreEvent::Frame { link, bytes: &bytes });
        if !taken {
            // A peer that sends garbage loses its connection.
            ensure(damaged, "a frame is taken as it was sent", || "it was refused".to_owned())?;
            self.reach("damaged frames refused");
            self.reset(connection, [0, 0]);
            return Ok(());
        }
        ensure(!damaged, "a damaged frame is refused", || "it was taken".to_owned())?;
        self.tell(|observer, world| observer.frame_taken(world, from, core, &bytes))?;
        if self.scratch.spare.len() < SPARES_MAX {
            self.scratch.spare.push(bytes);
        }
        self.remember_end(core, connection, to, link);
        Ok(())
    }

    fn link_up(&mut self, connection: usize, side: usize, bytes: &[u8]) -> Verdict {
        let core = self.connections[connection].ends[side];
        let Ok(Handshake::Groups(hello)) = Handshake::decode(bytes) else {
            return Err(Broken::new("handshakes can be read", "a table of groups cannot"));
        };
        self.input(core, CoreEvent::LinkUp { hello: &hello });
        let Some(live) = &mut self.cores[core.0].live else { return Ok(()) };
        let Some(link) = live.core.link_of(hello.node, hello.core) else {
            return Err(Broken::new(
                "a link comes up",
                format!("to core {} of node {}", hello.core.0, hello.node),
            ));
        };
        if live.connections.len() <= usize::from(link.0) {
            live.connections.resize(usize::from(link.0) + 1, usize::MAX);
        }
        live.connections[usize::from(link.0)] = connection;
        self.connections[connection].links[side] = Some(link);
        Ok(())
    }

    fn remember_end(&mut self, core: CoreAt, connection: usize, side: usize, link: LinkId) {
        let peer = &self.cores[self.connections[connection].ends[1 - side].0];
        let (peer_node, peer_core) = (peer.node, peer.id);
        let (peer_id, boot) = (self.nodes[peer_node].id, self.nodes[peer_node].boot);
        let state = &self.cores[core.0];
        let Some(live) = &state.live else { return };
        let end = live.core.peer_durable_end(link);
        let _ = self.nodes[state.node].memory.remember_end(peer_id, peer_core, boot, end);
    }

    // -- ends of connections -----------------------------------------------------------------------------------------------

    /// Both sides learn of the end, each in its time, and connect again.
    pub(super) fn reset(&mut self, connection: usize, notice: [Nanos; 2]) {
        let state = &mut self.connections[connection];
        if !state.is_open {
            return;
        }
        state.close();
        let generation = state.generation;
        for (side, notice) in notice.into_iter().enumerate() {
            let event = Event::Down { connection: connection as u32, generation, side: side as u8 };
            self.queue.put(self.now + notice, event);
        }
        let first = notice[0].max(notice[1]);
        self.connect_later(connection, first..first + 30 * MILLISECOND);
    }

    pub(super) fn side_down(&mut self, connection: usize, generation: u32, side: usize) -> Verdict {
        let node = self.nodes_of(connection)[side];
        let state = &mut self.connections[connection];
        if state.generation != generation || state.is_open || !self.nodes[node].is_up {
            return Ok(());
        }
        if self.nodes[node].paused_until > self.now {
            return Ok(()); // It learns of it when it goes on.
        }
        if let Some(link) = state.links[side].take() {
            let core = state.ends[side];
            self.input(core, CoreEvent::LinkDown { link });
        }
        Ok(())
    }

    /// A node that ended has no connections: the others learn of it sooner (its system says so) or later (it is gone as well).
    pub(super) fn node_is_gone(&mut self, node: usize, silently: bool) {
        for connection in 0..self.connections.len() {
            let nodes = self.nodes_of(connection);
            let Some(side) = (0..2).find(|&side| nodes[side] == node) else { continue };
            let slow = match self.slow_to_notice {
                Some(slow) => nodes[1 - side] == slow,
                None => silently && chance(&mut self.random.network, 2),
            };
            let patience = if slow { 400 * MILLISECOND } else { 2 * MILLISECOND };
            let mut notice = [0; 2];
            notice[1 - side] = self.random.network.below(patience);
            if self.slow_to_notice.is_some() && slow {
                notice[1 - side] = patience;
            }
            self.reset(connection, notice);
            self.connections[connection].links[side] = None;
        }
    }

    /// A node goes on after a pause, or ways are free again: what waited comes.
    pub(super) fn deliver_what_waited(&mut self) {
        for connection in 0..self.connections.len() {
            let state = &self.connections[connection];
            let (generation, is_open) = (state.generation, state.is_open);
            let hung = state.links.map(|link| link.is_some());
            for to in [0, 1_usize] {
                let at = self.now + self.random.network.below(MILLISECOND);
                let connection = connection as u32;
                if is_open {
                    self.queue.put(at, Event::Arrive { connection, generation, to: to as u8 });
                } else if hung[to] {
                    self.queue.put(at, Event::Down { connection, generation, side: to as u8 });
                }
            }
        }
    }

    /// Connections over which nothing passes break.
    pub(super) fn break_what_is_cut(&mut self) {
        for connection in 0..self.connections.len() {
            let [a, b] = self.nodes_of(connection);
            if self.way(a, b).is_cut || self.way(b, a).is_cut {
                let notice = [(); 2].map(|()| self.random.network.below(50 * MILLISECOND));
                self.reset(connection, notice);
            }
        }
    }

    /// A frame as its receiver will see it; frames of ours can always be read.
    pub(super) fn read_own(frame: &[u8]) -> Result<FrameView<'_>, Box<Broken>> {
        FrameView::parse(frame, VERSION_MAX)
            .map_err(|error| Broken::new("frames can be read by their sender", error.to_string()))
    }
}
