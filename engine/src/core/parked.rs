//! What waits for the log: messages that vouch for something written, and writes whose groups want to know.
//!
//! Both are queues in the order of their tickets, for tickets become durable in order.

use std::collections::VecDeque;

use logdrive_shard::{AppendReply, HeartbeatReply, Route, Term, TermReport, VoteReply, VoteRequest};
use logdrive_wal::Ticket;

use super::lane::Lane;

/// What leaves, or is told, when its ticket is durable.
#[derive(Clone, Debug)]
pub(super) enum ParkedBody {
    AppendReply(AppendReply),
    HeartbeatReply(HeartbeatReply),
    VoteRequest(VoteRequest),
    VoteReply(VoteReply),
    TermReport(TermReport),
    /// The candidate's vote for itself.
    OwnVote(Term),
}

/// Something parked by a step.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) ticket: Ticket,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// The connection it was meant for.
    pub(super) generation: u32,
    pub(super) to: Route,
    pub(super) body: ParkedBody,
}

/// Messages parked at most; further ones are dropped, as a lossy network would, and what they answer is asked again. While the
/// disk is full peers go on asking, and nothing that was parked may leave.
const PARKED_MAX: usize = 1 << 17;

impl Parked {
    /// The vote of the candidate in `slot` for itself.
    pub(super) fn own_vote(slot: u32, term: Term) -> Parked {
        let (ticket, to, body) = (Ticket(u64::MAX), Route::NONE, ParkedBody::OwnVote(term));
        Parked { ticket, slot, history: 0, generation: 0, to, body }
    }
}

/// A write of a group that is under way: entries up to `last`, of one epoch, in the batch of one ticket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    ticket: Ticket,
    pub(super) slot: u32,
    pub(super) epoch: u32,
    pub(super) last: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    parked: VecDeque<Parked>,
    /// Parked by the step under way: their ticket is given when it ends.
    open: usize,
    touches: VecDeque<Touch>,
    /// Running number of the first touch, wrapping.
    base: u32,
}

impl Waiting {
    /// Whether no further message should be parked.
    pub(super) fn is_full(&self) -> bool {
        self.parked.len() >= PARKED_MAX
    }

    /// Messages parked.
    pub(super) fn parked(&self) -> u64 {
        self.parked.len() as u64
    }

    /// So many at most: the bound is asked before a message is taken, and each group has some of its own that are not asked.
    pub(super) fn parked_max(&self, groups: u64) -> u64 {
        PARKED_MAX as u64 + 4 * groups
    }

    /// Parks something until the writes of the step under way are durable.
    pub(super) fn park(&mut self, parked: Parked) {
        self.parked.push_back(parked);
        self.open += 1;
    }

    /// The step ended; its writes are covered by `ticket`.
    pub(super) fn seal(&mut self, ticket: Ticket) {
        if self.open > 0 {
            let end = self.parked.len();
            for parked in self.parked.range_mut(end - self.open..) {
                parked.ticket = ticket;
            }
            self.open = 0;
        }
    }

    /// The step ended, but the log refused something of it: what it parked must not leave. Returns how many were dropped.
    pub(super) fn drop_open(&mut self) -> u64 {
        let dropped = self.open;
        self.parked.truncate(self.parked.len() - dropped);
        self.open = 0;
        dropped as u64
    }

    /// The next thing parked that may go.
    pub(super) fn pop_parked(&mut self, durable: Ticket) -> Option<Parked> {
        if self.parked.front()?.ticket > durable {
            return None;
        }
        self.parked.pop_front()
    }

    /// Notes that entries up to `last` were written under `ticket`.
    pub(super) fn touch(&mut self, lane: &mut Lane, slot: u32, ticket: Ticket, epoch: u32, last: u64) {
        let at = lane.touch.wrapping_sub(self.base) as usize;
        if let Some(touch) = self.touches.get_mut(at)
            && (touch.slot, touch.ticket, touch.epoch) == (slot, ticket, epoch)
        {
            touch.last = last;
            return;
        }
        lane.touch = self.base.wrapping_add(self.touches.len() as u32);
        self.touches.push_back(Touch { ticket, slot, epoch, last });
    }

    /// The slot of the write behind the next `ahead` ones.
    pub(super) fn peek_touch(&self, ahead: usize) -> Option<u32> {
        Some(self.touches.get(ahead)?.slot)
    }

    /// The next write that is durable.
    pub(super) fn pop_touch(&mut self, durable: Ticket) -> Option<Touch> {
        if self.touches.front()?.ticket > durable {
            return None;
        }
        self.base = self.base.wrapping_add(1);
        self.touches.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use logdrive_shard::LogIndex;
    use logdrive_wal::StreamSlot;

    use super::*;

    fn vote(slot: u32) -> Parked {
        let body = ParkedBody::OwnVote(Term(1));
        Parked { ticket: Ticket(u64::MAX), slot, history: 0, generation: 0, to: Route::NONE, body }
    }

    #[test]
    fn what_is_parked_waits_for_the_ticket_of_the_end_of_its_step() {
        let mut waiting = Waiting::default();
        waiting.park(vote(1));
        waiting.park(vote(2));
        waiting.seal(Ticket(5));
        waiting.park(vote(3));
        waiting.seal(Ticket(6));
        assert!(waiting.pop_parked(Ticket(4)).is_none());
        assert_eq!(waiting.pop_parked(Ticket(5)).expect("due").slot, 1);
        assert_eq!(waiting.pop_parked(Ticket(5)).expect("due").slot, 2);
        assert!(waiting.pop_parked(Ticket(5)).is_none());
        waiting.park(vote(4));
        assert_eq!(waiting.drop_open(), 1);
        assert_eq!(waiting.pop_parked(Ticket(9)).expect("due").slot, 3);
        assert!(waiting.pop_parked(Ticket(9)).is_none());
    }

    #[test]
    fn the_last_write_of_a_slot_in_a_batch_stands_for_all_of_its_epoch() {
        let mut waiting = Waiting::default();
        let mut lanes: Vec<Lane> = (0..2).map(|n| Lane::new(StreamSlot(n), 1, LogIndex(0))).collect();
        for (slot, ticket, epoch, last) in
            [(0, 1, 0, 1), (1, 1, 0, 1), (0, 1, 0, 2), (0, 1, 1, 2), (0, 1, 1, 3), (1, 2, 0, 2), (0, 2, 1, 4)]
        {
            waiting.touch(&mut lanes[slot as usize], slot, Ticket(ticket), epoch, last);
        }
        let mut popped = Vec::new();
        while let Some(touch) = waiting.pop_touch(Ticket(1)) {
            popped.push((touch.slot, touch.epoch, touch.last));
        }
        assert_eq!(popped, [(0, 0, 2), (1, 0, 1), (0, 1, 3)]);
        // Positions of what is gone are not mistaken for others.
        waiting.touch(&mut lanes[1], 1, Ticket(2), 0, 3);
        waiting.touch(&mut lanes[1], 1, Ticket(3), 0, 4);
        let mut popped = Vec::new();
        while let Some(touch) = waiting.pop_touch(Ticket(9)) {
            popped.push((touch.slot, touch.epoch, touch.last));
        }
        assert_eq!(popped, [(1, 0, 3), (0, 1, 4), (1, 0, 4)]);
    }
}
