//! What clients wait for: ports with their answers, proposals by index, reads by round.

use std::time::Duration;

use logdrive_shard::{LogIndex, Moment};

use super::lane::{Lane, NIL};
use super::types::PortId;
use crate::api::{Busy, Completions, Error};

/// What a client is advised to wait after [`Error::Busy`].
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// The error for a bound that was hit.
pub(super) fn busy(why: Busy) -> Error {
    Error::Busy { why, retry_after: RETRY_AFTER }
}

#[derive(Debug, Default)]
struct Port {
    open: bool,
    /// Is in the list of ports with answers.
    listed: bool,
    /// Requests that wait for their answer.
    outstanding: u32,
    answers: Completions,
}

/// The consumers of answers.
#[derive(Debug, Default)]
pub(super) struct Ports {
    ports: Vec<Port>,
    free: Vec<u32>,
    with_answers: Vec<PortId>,
}

impl Ports {
    pub(super) fn add(&mut self) -> PortId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.ports.push(Port::default());
            (self.ports.len() - 1) as u32
        });
        self.ports[id as usize].open = true;
        PortId(id)
    }

    pub(super) fn remove(&mut self, port: PortId) {
        let gone = &mut self.ports[port.0 as usize];
        assert!(gone.open, "port {} is removed twice", port.0);
        gone.open = false;
        gone.answers.clear();
        if gone.outstanding == 0 {
            self.free.push(port.0);
        }
    }

    /// Whether answers to `port` reach anybody.
    pub(super) fn is_open(&self, port: PortId) -> bool {
        self.ports.get(port.0 as usize).is_some_and(|port| port.open)
    }

    /// Expects an answer for `port`.
    pub(super) fn expect(&mut self, port: PortId) {
        self.ports[port.0 as usize].outstanding += 1;
    }

    /// Answers a request that was never expected: refused on the spot.
    pub(super) fn refuse(&mut self, port: PortId, token: u64, error: Error) {
        self.expect(port);
        self.answer(port, token, Err(error), &[]);
    }

    pub(super) fn answer(&mut self, port: PortId, token: u64, result: Result<LogIndex, Error>, reply: &[u8]) {
        let to = &mut self.ports[port.0 as usize];
        to.outstanding -= 1;
        if !to.open {
            if to.outstanding == 0 {
                self.free.push(port.0);
            }
            return;
        }
        to.answers.push(token, result, reply);
        if !to.listed {
            to.listed = true;
            self.with_answers.push(port);
        }
    }

    pub(super) fn with_answers(&mut self, ports: &mut Vec<PortId>) {
        for port in self.with_answers.drain(..) {
            let from = &mut self.ports[port.0 as usize];
            from.listed = false;
            if from.open && !from.answers.is_empty() {
                ports.push(port);
            }
        }
    }

    pub(super) fn take(&mut self, port: PortId, answers: &mut Completions) {
        assert!(answers.is_empty(), "answers are swapped into an empty array");
        std::mem::swap(&mut self.ports[port.0 as usize].answers, answers);
    }
}

/// A proposal that is appended and not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) token: u64,
    pub(super) index: u64,
    pub(super) port: PortId,
    pub(super) bytes: u32,
    next: u32,
}

/// All proposals of a core that wait, as one queue per group in one slab; [`Lane`] has the ends.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    slab: Vec<Pending>,
    free: Vec<u32>,
}

impl Proposals {
    /// Adds at the end of a group's queue.
    pub(super) fn push(&mut self, lane: &mut Lane, port: PortId, token: u64, index: u64, bytes: u32) {
        let pending = Pending { token, index, port, bytes, next: NIL };
        let at = match self.free.pop() {
            Some(free) => {
                self.slab[free as usize] = pending;
                free
            }
            None => {
                self.slab.push(pending);
                (self.slab.len() - 1) as u32
            }
        };
        if lane.pending_head == NIL {
            lane.pending_head = at;
        } else {
            self.slab[lane.pending_tail as usize].next = at;
        }
        lane.pending_tail = at;
    }

    /// Takes a group's first proposal if it is the one at `index`.
    pub(super) fn pop_at(&mut self, lane: &mut Lane, index: u64) -> Option<Pending> {
        let at = lane.pending_head;
        if at == NIL || self.slab[at as usize].index != index {
            return None;
        }
        let pending = self.slab[at as usize];
        lane.pending_head = pending.next;
        self.free.push(at);
        Some(pending)
    }

    /// Takes the proposals up to `index` off a group's queue, each into `gone`.
    pub(super) fn cut_until(&mut self, lane: &mut Lane, index: u64, mut gone: impl FnMut(Pending)) {
        while lane.pending_head != NIL && self.slab[lane.pending_head as usize].index <= index {
            let at = lane.pending_head;
            let pending = self.slab[at as usize];
            lane.pending_head = pending.next;
            self.free.push(at);
            gone(pending);
        }
    }

    /// Takes the proposals behind `index` off a group's queue, each into `gone`.
    pub(super) fn cut_after(&mut self, lane: &mut Lane, index: u64, mut gone: impl FnMut(Pending)) {
        let mut kept = NIL;
        let mut at = lane.pending_head;
        while at != NIL && self.slab[at as usize].index <= index {
            kept = at;
            at = self.slab[at as usize].next;
        }
        if kept == NIL {
            lane.pending_head = NIL;
        } else {
            self.slab[kept as usize].next = NIL;
        }
        lane.pending_tail = kept;
        while at != NIL {
            let pending = self.slab[at as usize];
            self.free.push(at);
            gone(pending);
            at = pending.next;
        }
    }
}

/// A linearizable read that waits.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) port: PortId,
    pub(super) token: u64,
    pub(super) request: Vec<u8>,
    /// When it came.
    since: Moment,
    round: u64,
    /// What must be applied; `u64::MAX` until the round is confirmed.
    index: u64,
    next: u32,
}

/// A group's reads, in the order of their rounds.
#[derive(Clone, Copy, Debug)]
struct ReadQueue {
    head: u32,
    tail: u32,
    count: u32,
    confirmed_round: u64,
    confirmed_index: u64,
}

/// All reads of a core that wait, one queue per group in one slab.
#[derive(Debug)]
pub(super) struct Reads {
    queues: Vec<ReadQueue>,
    slab: Vec<Read>,
    free: Vec<u32>,
}

impl Reads {
    pub(super) fn new(slots: usize) -> Reads {
        let empty = ReadQueue { head: NIL, tail: NIL, count: 0, confirmed_round: 0, confirmed_index: 0 };
        Reads { queues: vec![empty; slots], slab: Vec::new(), free: Vec::new() }
    }

    /// Reads that wait for a group.
    pub(super) fn count(&self, slot: usize) -> u32 {
        self.queues[slot].count
    }

    /// Adds a read that got `round`; whether it is confirmed already.
    pub(super) fn push(
        &mut self,
        slot: usize,
        (port, token): (PortId, u64),
        round: u64,
        request: &[u8],
        now: Moment,
    ) -> bool {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slab.push(Read::default());
            (self.slab.len() - 1) as u32
        });
        let queue = &mut self.queues[slot];
        let confirmed = round <= queue.confirmed_round;
        let read = &mut self.slab[at as usize];
        read.port = port;
        read.token = token;
        read.since = now;
        read.request.clear();
        read.request.extend_from_slice(request);
        read.round = round;
        read.index = if confirmed { queue.confirmed_index } else { u64::MAX };
        read.next = NIL;
        if queue.head == NIL {
            queue.head = at;
        } else {
            self.slab[queue.tail as usize].next = at;
        }
        queue.tail = at;
        queue.count += 1;
        confirmed
    }

    /// Adds a read that only waits for `index` to be applied.
    pub(super) fn push_confirmed(
        &mut self,
        slot: usize,
        from: (PortId, u64),
        index: LogIndex,
        request: &[u8],
        now: Moment,
    ) {
        self.push(slot, from, 0, request, now);
        let tail = self.queues[slot].tail;
        self.slab[tail as usize].index = index.0;
    }

    /// Rounds up to `round` are confirmed: their reads wait for `index` to be applied.
    pub(super) fn confirm(&mut self, slot: usize, round: u64, index: LogIndex) {
        let queue = &mut self.queues[slot];
        queue.confirmed_round = round;
        queue.confirmed_index = index.0;
        let mut at = queue.head;
        while at != NIL {
            let read = &mut self.slab[at as usize];
            if read.round > round {
                break;
            }
            if read.index == u64::MAX {
                read.index = index.0;
                // Whatever the rounds of a later leadership are, this one is past.
                read.round = 0;
            }
            at = read.next;
        }
    }

    /// The group's first read, if what is applied serves it: then it is out of the queue, to be given back with
    /// [`Reads::recycle`].
    pub(super) fn pop_served(&mut self, slot: usize, applied: LogIndex) -> Option<u32> {
        let head = self.queues[slot].head;
        if head == NIL || self.slab[head as usize].index > applied.0 {
            return None;
        }
        let queue = &mut self.queues[slot];
        queue.head = self.slab[head as usize].next;
        queue.count -= 1;
        Some(head)
    }

    /// Leadership was lost: takes the reads that no round has confirmed off the queue, each into `gone`. Those that are
    /// confirmed only wait for an index that is committed.
    pub(super) fn cut_unconfirmed(&mut self, slot: usize, mut gone: impl FnMut(PortId, u64, usize)) {
        let queue = &mut self.queues[slot];
        queue.confirmed_round = 0;
        let (mut kept, mut at) = (NIL, queue.head);
        while at != NIL && self.slab[at as usize].index != u64::MAX {
            kept = at;
            at = self.slab[at as usize].next;
        }
        match kept {
            NIL => queue.head = NIL,
            kept => self.slab[kept as usize].next = NIL,
        }
        queue.tail = kept;
        self.drop_from(slot, at, &mut gone);
    }

    /// This node is no member of the group any more: what a read waits for, confirmed or not, may never come here.
    pub(super) fn cut_all(&mut self, slot: usize, mut gone: impl FnMut(PortId, u64, usize)) {
        let queue = &mut self.queues[slot];
        let first = queue.head;
        (queue.head, queue.tail, queue.confirmed_round) = (NIL, NIL, 0);
        self.drop_from(slot, first, &mut gone);
    }

    /// Takes the reads off the front of the queue that came until `until`, each into `gone` with the index that it waits for, if that is
    /// known: those that are confirmed, and of the others only if `all`.
    pub(super) fn cut_older(
        &mut self,
        slot: usize,
        until: Moment,
        all: bool,
        mut gone: impl FnMut(&Read, Option<LogIndex>),
    ) {
        loop {
            let queue = &mut self.queues[slot];
            let head = queue.head;
            if head == NIL {
                queue.tail = NIL;
                return;
            }
            let read = &self.slab[head as usize];
            let is_confirmed = read.index != u64::MAX;
            if read.since > until || !(is_confirmed || all) {
                return;
            }
            queue.head = read.next;
            queue.count -= 1;
            gone(read, is_confirmed.then_some(LogIndex(read.index)));
            self.recycle(head);
        }
    }

    fn drop_from(&mut self, slot: usize, mut at: u32, gone: &mut impl FnMut(PortId, u64, usize)) {
        while at != NIL {
            let read = &self.slab[at as usize];
            gone(read.port, read.token, read.request.len());
            let next = read.next;
            self.queues[slot].count -= 1;
            self.recycle(at);
            at = next;
        }
    }

    pub(super) fn get(&self, read: u32) -> &Read {
        &self.slab[read as usize]
    }

    /// Takes a read's memory back for the next one.
    pub(super) fn recycle(&mut self, read: u32) {
        let request = &mut self.slab[read as usize].request;
        if request.capacity() > 4096 {
            *request = Vec::new();
        }
        self.free.push(read);
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
