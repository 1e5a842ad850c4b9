//! The requests of one connection that are not answered yet, in their order, with what the engine was or will be asked.

use std::collections::VecDeque;

use logdrive_shard::{GroupId, Moment};

use super::reply::Protocol;

/// The position of a request in its connection's order; wraps around.
pub(crate) type Seq = u32;

/// Encoded requests kept allocated by a connection that has none waiting.
const BODIES_KEPT: usize = 16 * 1024;
/// Encoded requests that may lie in front of the oldest one before the rest is moved down.
const BODIES_SLACK: usize = 64 * 1024;

/// What a request needs from the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered here; it waits only for its turn.
    Plain,
    /// Starts when everything before it is answered; nothing after it starts before it is answered.
    Barrier,
    /// A proposal.
    Write,
    /// A linearizable read.
    Read,
    /// A read from this node's state, after READONLY.
    StaleRead,
}

/// Why a request came back without having been appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No leader is known.
    NoLeader,
    /// The engine is over a limit.
    Busy,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits in its lane's queue.
    Held,
    /// With the engine.
    Flying,
    /// Came back without having been appended, waits for the rest of its lane.
    Returned,
    /// Has its answer; `true` if the engine may have executed it.
    Done(bool),
}

/// One request.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) protocol: Protocol,
    pub(crate) lane: u8,
    pub(crate) slot: u16,
    pub(crate) group: GroupId,
    /// Why it is held, if it came back or found no leader.
    pub(crate) reason: Reason,
    /// Not held for a leader beyond this.
    pub(crate) deadline: Moment,
    /// Values the reply will have, whose sizes nobody knows yet.
    pub(crate) values: u32,
    /// The next one in the lane's queue, if it is held and not the last.
    pub(crate) next: Seq,
    /// The encoded reply, once `Done` and not the oldest.
    pub(crate) answer: Vec<u8>,
    body: (u64, u32),
}

impl Pending {
    /// A request that the engine need not be asked for.
    pub(crate) fn plain(kind: Kind, protocol: Protocol) -> Pending {
        Pending {
            kind,
            state: if kind == Kind::Plain { State::Done(false) } else { State::Held },
            protocol,
            lane: 0,
            slot: 0,
            group: GroupId(0),
            reason: Reason::NoLeader,
            deadline: Moment::NEVER,
            values: 0,
            next: 0,
            answer: Vec::new(),
            body: (0, 0),
        }
    }

    /// A request for the engine.
    pub(crate) fn asked(
        kind: Kind,
        protocol: Protocol,
        lane: u8,
        slot: u16,
        group: GroupId,
        deadline: Moment,
    ) -> Pending {
        Pending { state: State::Held, lane, slot, group, deadline, ..Pending::plain(kind, protocol) }
    }

    /// Bytes of its encoded form.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.body.1)
    }
}

/// All requests of a connection.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    items: VecDeque<Pending>,
    first: Seq,
    /// Encoded requests in the order of `items`. Invariant: positions below `freed` belong to nobody.
    bodies: Vec<u8>,
    /// The position of `bodies[0]`.
    base: u64,
    freed: u64,
}

impl Ring {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Encoded bytes of all requests.
    pub(crate) fn bytes(&self) -> u64 {
        self.base + self.bodies.len() as u64 - self.freed
    }

    /// The oldest request.
    pub(crate) fn first(&self) -> Seq {
        self.first
    }

    /// Adds a request.
    pub(crate) fn push(&mut self, pending: Pending) -> Seq {
        let seq = self.first.wrapping_add(self.items.len() as u32);
        self.items.push_back(pending);
        seq
    }

    /// Adds a request with what the engine is to be asked, which `encode` appends.
    pub(crate) fn push_encoded(&mut self, mut pending: Pending, encode: impl FnOnce(&mut Vec<u8>)) -> Seq {
        let start = self.bodies.len();
        encode(&mut self.bodies);
        pending.body = (self.base + start as u64, (self.bodies.len() - start) as u32);
        self.push(pending)
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Pending> {
        self.items.get(seq.wrapping_sub(self.first) as usize)
    }

    pub(crate) fn get_mut(&mut self, seq: Seq) -> Option<&mut Pending> {
        self.items.get_mut(seq.wrapping_sub(self.first) as usize)
    }

    /// A request that is known to wait.
    pub(crate) fn expect(&mut self, seq: Seq) -> &mut Pending {
        self.get_mut(seq).expect("lanes and answers name requests that wait")
    }

    /// What the engine is asked for a request.
    pub(crate) fn body(&self, pending: &Pending) -> &[u8] {
        let start = (pending.body.0 - self.base) as usize;
        &self.bodies[start..start + pending.body.1 as usize]
    }

    /// The requests from the newest to the oldest.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (Seq, &Pending)> {
        self.items.iter().enumerate().rev().map(|(n, item)| (self.first.wrapping_add(n as u32), item))
    }

    /// Removes the oldest request.
    pub(crate) fn pop(&mut self) -> Option<Pending> {
        let pending = self.items.pop_front()?;
        self.first = self.first.wrapping_add(1);
        if pending.body.1 > 0 {
            self.freed = pending.body.0 + u64::from(pending.body.1);
        }
        if self.items.is_empty() {
            self.base += self.bodies.len() as u64;
            self.freed = self.base;
            self.bodies.clear();
            self.bodies.shrink_to(BODIES_KEPT);
        } else {
            let free = (self.freed - self.base) as usize;
            if free > BODIES_SLACK && free > self.bodies.len() / 2 {
                self.bodies.drain(..free);
                self.base = self.freed;
            }
        }
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_stay_readable_while_the_ring_moves() {
        let mut ring = Ring::default();
        let mut waiting = VecDeque::new();
        for n in 0..5_000u32 {
            let body = vec![n as u8; (n % 97) as usize];
            let seq =
                ring.push_encoded(Pending::plain(Kind::Write, Protocol::Resp2), |out| out.extend(&body));
            waiting.push_back((seq, body));
            if n % 3 != 0 || n > 4_000 {
                let (seq, body) = waiting.pop_front().unwrap();
                assert_eq!(ring.first(), seq);
                assert_eq!(ring.body(ring.get(seq).unwrap()), body);
                ring.pop().unwrap();
            }
            for (seq, body) in waiting.iter().step_by(50) {
                assert_eq!(ring.body(ring.get(*seq).unwrap()), body);
            }
            assert_eq!(ring.bytes(), waiting.iter().map(|(_, body)| body.len() as u64).sum::<u64>());
        }
        while let Some((seq, body)) = waiting.pop_front() {
            assert_eq!(ring.body(ring.get(seq).unwrap()), body);
            ring.pop().unwrap();
        }
        assert_eq!((ring.bytes(), ring.len()), (0, 0));
    }
}
