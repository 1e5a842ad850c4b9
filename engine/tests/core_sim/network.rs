//! Connections between cores of different nodes: whole messages, in order, late, cut off or held back.

use std::collections::VecDeque;

use logdrive::core::LinkId;

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
