//! Leaders to where they belong, and away from a node that stops or is drained.
//!
//! A group that is led here and should be led elsewhere is put in a queue when it gets its leader; a few times a second a
//! bounded number of them is looked at. Groups that are in place cost nothing.

use std::time::Duration;

use logdrive_shard::{Moment, NodeId};
use logdrive_wal::Disk;

use super::lane::Flags;
use super::{Core, Slot};
use crate::api::StateMachine;

/// How often the queue is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// Groups looked at each time.
const LOOKED_AT_MAX: usize = 256;
/// Transfers under way.
const TRANSFERS_MAX: usize = 64;
/// Transfers under way when the node is about to stop.
const HAND_OVERS_MAX: usize = 1024;

/// State of the balancing.
#[derive(Debug)]
pub(super) struct Balance {
    next: Moment,
    transfers: Vec<u32>,
}

impl Balance {
    pub(super) fn new() -> Balance {
        Balance { next: Moment(0), transfers: Vec::new() }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    pub(super) fn on_campaign(&mut self, slot: Slot) {
        let slot = slot.0;
        if (slot as usize) < self.groups.len() {
            self.step(slot, |group, env| group.campaign(env));
            self.end_step(slot);
        }
    }

    /// The voter that could take over at once with the longest log; the preferred one if it is able. `None` if nobody is.
    fn best_successor(&self, slot: Slot) -> Option<NodeId> {
        let group = &self.groups[slot.0 as usize];
        let able =
            |node: NodeId| node != self.io.me && self.io.takes_leadership(node) && group.peer_caught_up(node);
        let preferred = self.io.preferred[slot.0 as usize];
        if preferred.is_some() && able(preferred) {
            return Some(preferred);
        }
        let peers = group.report().peers;
        peers.iter().filter(|peer| able(peer.node)).max_by_key(|peer| peer.matched).map(|peer| peer.node)
    }

    pub(super) fn on_drain(&mut self, draining: bool) {
        if self.io.draining == draining {
            return;
        }
        self.io.draining = draining;
        // The peers hear of it at once: none of them hands anything over to a node that is being drained.
        for link in 0..self.io.links.len() {
            if self.io.links[link].up {
                self.send_pulse(link);
            }
        }
        if draining {
            self.give_away();
        }
    }

    /// Nothing should be led here any more; the peers hear of it at once.
    pub(super) fn shed_leaders(&mut self) {
        for link in 0..self.io.links.len() {
            if self.io.links[link].up {
                self.send_pulse(link);
            }
        }
        self.give_away();
    }

    pub(super) fn on_hand_over(&mut self) {
        self.io.handing_over = true;
        self.give_away();
    }

    /// Whatever is led here is to be led elsewhere.
    fn give_away(&mut self) {
        self.balance.next = self.io.now;
        for slot in 0..self.groups.len() as u32 {
            if self.groups[slot as usize].is_leader()
                && self.io.lanes[slot as usize].flags.raise(Flags::MISPLACED)
            {
                self.io.queues.misplaced.push_back(slot);
            }
        }
    }

    /// Whether this node is about to stop and leads nothing any more. Its peers are told that it is not well, so that none of
    /// them gives leadership back to it.
    pub(super) fn has_handed_over(&self) -> bool {
        self.io.handing_over && self.io.queues.misplaced.is_empty() && self.balance.transfers.is_empty()
    }

    /// When the queue is looked at next.
    pub(super) fn next_balance(&self) -> Moment {
        if self.io.queues.misplaced.is_empty() && self.balance.transfers.is_empty() {
            return Moment::NEVER;
        }
        self.balance.next
    }

    pub(super) fn balance_when_due(&mut self) {
        if self.io.now < self.next_balance() {
            return;
        }
        self.balance.next = self.io.now.after(INTERVAL);
        let groups = &self.groups;
        self.balance.transfers.retain(|&slot| {
            let group = &groups[slot as usize];
            group.is_leader() && group.transferring().is_some()
        });
        let (looked_at_max, transfers_max) = match self.io.gives_away() {
            true => (usize::MAX, HAND_OVERS_MAX),
            false => (LOOKED_AT_MAX, TRANSFERS_MAX),
        };
        for _ in 0..self.io.queues.misplaced.len().min(looked_at_max) {
            if self.balance.transfers.len() >= transfers_max {
                break;
            }
            let Some(slot) = self.io.queues.misplaced.pop_front() else { break };
            if self.is_misplaced(slot) {
                self.maybe_transfer(slot);
                // It stays in the queue until it is led elsewhere.
                self.io.queues.misplaced.push_back(slot);
            } else {
                self.io.lanes[slot as usize].flags.lower(Flags::MISPLACED);
            }
        }
    }

    pub(super) fn is_misplaced(&self, slot: u32) -> bool {
        let preferred = self.io.preferred[slot as usize];
        let elsewhere = preferred.is_some() && preferred != self.io.me;
        let unfit = self.io.heal.is_wounded(slot);
        self.groups[slot as usize].is_leader() && (elsewhere || unfit || self.io.gives_away())
    }

    /// Begins a transfer to the preferred node, or when leadership is given away to any node that could take over at once.
    fn maybe_transfer(&mut self, slot: u32) {
        let gives_away = self.io.gives_away() || self.io.heal.is_wounded(slot);
        let group = &self.groups[slot as usize];
        if group.transferring().is_some() || !(gives_away || self.io.settings.balance_leaders) {
            return;
        }
        let preferred = self.io.preferred[slot as usize];
        let able = |node: &NodeId| {
            *node != self.io.me && self.io.takes_leadership(*node) && group.peer_caught_up(*node)
        };
        let to = Some(preferred)
            .filter(able)
            .or_else(|| gives_away.then(|| self.best_successor(Slot(slot))).flatten());
        let Some(to) = to else { return };
        let begun = self.step(slot, |group, env| group.transfer_leadership(env, to)).is_ok();
        self.end_step(slot);
        if begun {
            self.balance.transfers.push(slot);
        }
    }
}
