//! A follower sends a snapshot in the place of its leader.
//!
//! The leader orders it when it sends as many as it may, and a follower in contact has what the snapshot must stand for. What the follower
//! sends are parts of its own file, with the leader's term, while it follows that leader; the receiver takes them on behalf of the
//! leader that it knows in that term, and of no other. Whatever becomes of it, the leader learns from the receiver's log that it has
//! what it needs, as from any other transfer. If the follower has nothing that helps, comes to no end, or is not heard any more,
//! the leader sends by itself when it has a place, or asks once more after a while.

use logdrive_shard::{LogIndex, Moment, NodeId, SnapshotWanted};
use logdrive_wal::Disk;

use super::send::{Cause, Outgoing, SILENCE_MAX};
use super::transfer::{TransferStatus, TransferStep};
use crate::api::StateMachine;
use crate::core::Core;
use crate::wire::{Address, RelayWord, SnapshotRelay};

/// If a follower's sending came to nothing, one is asked again after so many heartbeats: it may have had no connection to the receiver yet.
const RELAY_AGAIN: u32 = 10;

/// What followers are to be told, or leaders, in one turn at most.
const WORDS_MAX: usize = 64;

/// A follower that sends in the place of this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relay {
    node: NodeId,
    link: usize,
    generation: u32,
    /// It is not waited for any longer.
    until: Moment,
}

/// Something to be said to another node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    slot: u32,
    node: NodeId,
    relay: SnapshotRelay,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    fn say(&mut self, slot: u32, node: NodeId, relay: SnapshotRelay) {
        let words = &mut self.snapshots.transfers.words;
        if words.len() < WORDS_MAX {
            words.push(Word { slot, node, relay });
        }
    }

    pub(super) fn say_words(&mut self) {
        for Word { slot, node, relay } in std::mem::take(&mut self.snapshots.transfers.words) {
            let history = self.io.lanes[slot as usize].history;
            let Some(at) = self.link_to(slot, node) else { continue };
            let link = &mut self.io.links[at];
            let Some(remote) = link.remote(slot).filter(|_| link.has_room()) else { continue };
            link.builder.snapshot_relay(Address { slot: remote, history }, &relay);
        }
    }

    /// The way to a node that has the group.
    fn link_to(&self, slot: u32, node: NodeId) -> Option<usize> {
        self.io.links.iter().position(|link| link.node == node && link.up && link.shared.has(slot))
    }

    // -- the leader ---------------------------------------------------------------------------------------------------

    /// Whether a follower sends what waits in line here. If this node has no place for it, one is asked.
    pub(super) fn is_relayed(&mut self, waiting: &mut Outgoing, has_place: bool) -> bool {
        let now = self.io.now;
        let of = (waiting.slot, waiting.to);
        if let Some(relay) = self.snapshots.transfers.relays.get(&of) {
            let link = self.io.links.get(relay.link);
            let has_way = link.is_some_and(|link| link.up && link.generation == relay.generation);
            if has_way && now < relay.until {
                return true;
            }
            self.snapshots.transfers.relays.remove(&of);
            waiting.relay_from = now.after(self.beats(RELAY_AGAIN));
        }
        if has_place || now < waiting.relay_from || waiting.cause != Cause::Behind {
            return false;
        }
        let Some((node, link)) = self.relay_for(waiting) else { return false };
        let SnapshotWanted { term, at_least } = waiting.wanted;
        let until = now.after(self.beats(SILENCE_MAX));
        let generation = self.io.links[link].generation;
        let transfers = &mut self.snapshots.transfers;
        transfers.counters.relayed += 1;
        transfers.relays.insert(of, Relay { node, link, generation, until });
        let relay = SnapshotRelay { term, to: waiting.to, at_least, word: RelayWord::Send };
        self.say(waiting.slot, node, relay);
        true
    }

    /// A follower that has what is needed and does not send too many already.
    fn relay_for(&self, waiting: &Outgoing) -> Option<(NodeId, usize)> {
        let (slot, group) = (waiting.slot, &self.groups[waiting.slot as usize]);
        let places = self.io.settings.snapshots.transfers_max.max(1) as usize;
        let relays = &self.snapshots.transfers.relays;
        let is_free = |node: NodeId| relays.values().filter(|relay| relay.node == node).count() < places;
        let links = self.io.links.iter().enumerate();
        let able = links.filter(|(_, link)| {
            link.up && link.shared.has(slot) && link.node != waiting.to && is_free(link.node)
        });
        let able: Vec<(usize, NodeId)> = able.map(|(at, link)| (at, link.node)).collect();
        if able.is_empty() || self.snapshots.transfers.words.len() >= WORDS_MAX {
            return None;
        }
        let report = group.report();
        let has_it = |node: NodeId| {
            report.peers.iter().any(|p| p.node == node && p.alive && p.matched >= waiting.wanted.at_least)
        };
        able.into_iter().find(|(_, node)| has_it(*node)).map(|(link, node)| (node, link))
    }

    pub(super) fn status_in_line(&self, waiting: &Outgoing) -> TransferStatus {
        let status = waiting.status();
        match self.snapshots.transfers.relays.contains_key(&(waiting.slot, waiting.to)) {
            true => TransferStatus { step: TransferStep::Relayed, ..status },
            false => status,
        }
    }

    // -- both ---------------------------------------------------------------------------------------------------------

    pub(in crate::core) fn on_snapshot_relay(&mut self, link: usize, slot: u32, relay: &SnapshotRelay) {
        self.snapshots.more = true;
        let from = self.io.links[link].node;
        if relay.word == RelayWord::Send {
            return self.send_on_behalf(from, slot, relay);
        }
        let (now, silence) = (self.io.now, self.beats(SILENCE_MAX));
        let transfers = &mut self.snapshots.transfers;
        let of = (slot, relay.to);
        let is_of_term = transfers.line.get(&of).is_some_and(|waiting| waiting.wanted.term == relay.term);
        let known = transfers.relays.get_mut(&of).filter(|known| known.node == from && is_of_term);
        let Some(known) = known else {
            self.io.counters.ignored += 1;
            return;
        };
        transfers.is_stirred = true;
        known.until = match relay.word {
            // It is being installed, if all goes well.
            RelayWord::Going | RelayWord::Done => now.after(silence),
            _ => now,
        };
    }

    // -- the follower -------------------------------------------------------------------------------------------------

    /// A leader asks this node to send in its place.
    fn send_on_behalf(&mut self, leader: NodeId, slot: u32, relay: &SnapshotRelay) {
        let SnapshotRelay { term, to, at_least, .. } = *relay;
        let group = &self.groups[slot as usize];
        let follows = group.term() == term && group.leader() == leader && leader != self.io.me;
        let transfers = &self.snapshots.transfers;
        let is_sending = transfers.outgoing.iter().any(|outgoing| (outgoing.slot, outgoing.to) == (slot, to));
        let places = self.io.settings.snapshots.transfers_max.max(1) as usize;
        let has_place = transfers.outgoing.len() < places;
        let has_it = self.snapshots.groups[slot as usize].index >= at_least && at_least > LogIndex(0);
        let way = self.link_to(slot, to).filter(|_| follows && has_place && has_it && !is_sending);
        let remote = way.and_then(|way| Some((way, self.io.links[way].remote(slot)?)));
        let wanted = SnapshotWanted { term, at_least };
        let begun = remote.and_then(|remote| Some((remote, self.begin_file(slot, wanted)?)));
        let Some(((link, remote), file)) = begun else {
            if !is_sending {
                self.say(slot, leader, SnapshotRelay { word: RelayWord::Failed, ..*relay });
            }
            return;
        };
        let outgoing = Outgoing {
            slot,
            life: self.lives[slot as usize],
            to,
            wanted,
            link,
            remote,
            generation: self.io.links[link].generation,
            cause: Cause::OnBehalf(leader),
            relay_from: Moment(0),
            broken_at: None,
            reported: self.io.now,
            file: Some(Box::new(file)),
        };
        self.snapshots.transfers.outgoing.push(outgoing);
    }

    /// Tells the leader that it goes on.
    pub(super) fn report_on_behalf(&mut self, slot: u32, to: NodeId) {
        let outgoing = &self.snapshots.transfers.outgoing;
        let sent = outgoing.iter().find(|outgoing| (outgoing.slot, outgoing.to) == (slot, to));
        let Some(&Outgoing { cause: Cause::OnBehalf(leader), wanted, .. }) = sent else { return };
        let SnapshotWanted { term, at_least } = wanted;
        self.say(slot, leader, SnapshotRelay { term, to, at_least, word: RelayWord::Going });
    }

    /// Tells the leader how it ended.
    pub(super) fn end_on_behalf(&mut self, outgoing: &Outgoing, is_there: bool) {
        let Outgoing { slot, to, wanted: SnapshotWanted { term, at_least }, cause, .. } = *outgoing;
        if let Cause::OnBehalf(leader) = cause {
            let word = if is_there { RelayWord::Done } else { RelayWord::Failed };
            self.say(slot, leader, SnapshotRelay { term, to, at_least, word });
        }
    }
}
