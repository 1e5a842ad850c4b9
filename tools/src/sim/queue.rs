//! What happens when: the events of the world. Of those that are due at once the seed decides which comes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use logdrive_shard::Random;

use super::clock::Nanos;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// Something may arrive at a side of a connection.
    Arrive { connection: u32, generation: u32, to: u8 },
    /// A side learns that its connection ended.
    Down { connection: u32, generation: u32, side: u8 },
    /// A connection is made.
    Connect { connection: u32 },
    /// A core looks into a lane of the mesh.
    Lane { node: u32, lane: u32 },
    /// A client acts.
    Client { client: u32 },
    /// A node starts.
    Start { node: u32 },
    /// A fault of the list begins.
    Strike { fault: u32 },
    /// One that is active ends.
    Ends { active: u32 },
    /// The rest of a fault that has two parts.
    Second { active: u32 },
}

/// Sorted by time, then by chance.
#[derive(Debug)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Nanos, u32, u64, Event)>>,
    number: u64,
    random: Random,
}

impl Queue {
    pub(super) fn new(random: Random) -> Queue {
        Queue { heap: BinaryHeap::new(), number: 0, random }
    }

    pub(super) fn put(&mut self, at: Nanos, event: Event) {
        self.number += 1;
        let chance = self.random.next_u64() as u32;
        self.heap.push(Reverse((at, chance, self.number, event)));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Nanos {
        self.heap.peek().map_or(Nanos::MAX, |Reverse(first)| first.0)
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(first)| first.3)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
