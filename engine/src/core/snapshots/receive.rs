//! A member is brought up by its leader: the receiving end.

use std::collections::VecDeque;

use logdrive_shard::{Moment, NodeId, Term};
use logdrive_wal::Disk;

use super::install::Offered;
use super::transfer::{Place, TransferStatus, TransferStep};
use crate::api::StateMachine;
use crate::core::{Core, Slot};
use crate::snapshot::{BeginError, Received, SnapshotHeader, SnapshotId, WriteFailure, WriteId};
use crate::wire::{Address, SnapshotAnswer, SnapshotOffer, SnapshotPart, SnapshotVerdict};

/// Answers to what belongs to nothing, in one turn at most; more of the kind is not answered.
const STRAYS_MAX: usize = 64;

// Times, in heartbeat intervals.

/// A reception of which nothing was heard for so long makes room for another one.
const IDLE_AFTER: u32 = 100;
/// A reception of which nothing was heard for so long is given up.
const GIVE_UP_AFTER: u32 = 3_000;

/// A snapshot that is being received.
pub(super) struct Receiving {
    pub(super) slot: u32,
    link: usize,
    generation: u32,
    from: NodeId,
    term: Term,
    header: SnapshotHeader,
    attempt: u32,
    write: WriteId,
    /// The chunk whose parts are coming, as far as it is here.
    open: (u64, Vec<u8>),
    /// Whole chunks that the store had no room for, and their bytes.
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: u64,
    wants_answer: bool,
    heard: Moment,
}

/// An answer to what belongs to nothing that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stray {
    slot: u32,
    link: usize,
    generation: u32,
    answer: SnapshotAnswer,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    // -- what the sender says -----------------------------------------------------------------------------------------

    pub(in crate::core) fn on_snapshot_offer(
        &mut self,
        link: usize,
        slot: u32,
        offer: &SnapshotOffer,
        encoded: &[u8],
    ) {
        let (from, generation, now) = (self.io.links[link].node, self.io.links[link].generation, self.io.now);
        let header = match SnapshotHeader::decode(encoded) {
            Ok(header) if header.id == offer.snapshot => header,
            Ok(_) => return self.io.counters.ignored += 1,
            Err(error) => {
                tracing::warn!(group = %self.group_name(slot), node = %from, %error, "a snapshot that is offered cannot be read here");
                return self.answer_stray(link, slot, offer, SnapshotVerdict::NoRoom);
            }
        };
        let group = &self.groups[slot as usize];
        let leader = if offer.is_on_behalf() { group.leader() } else { from };
        if offer.is_on_behalf() && (group.term() != offer.term || !leader.is_some() || leader == from) {
            // Whoever leads in that term will be heard, and the offer comes again.
            let is_over = group.term() > offer.term || leader == from;
            let verdict = if is_over { SnapshotVerdict::Unneeded } else { SnapshotVerdict::Busy };
            return self.answer_stray(link, slot, offer, verdict);
        }
        let receiving = &mut self.snapshots.transfers.receiving;
        if let Some(at) = receiving.iter().position(|receiving| receiving.slot == slot) {
            let known = &receiving[at];
            let is_other = known.header.id != header.id;
            let is_second = known.term == offer.term && known.from != from && offer.is_on_behalf();
            if known.term > offer.term || is_second {
                return self.answer_stray(link, slot, offer, SnapshotVerdict::Unneeded);
            }
            if is_other {
                // Its leader prefers another one, or leads no more.
                let given_up = receiving.swap_remove(at);
                self.give_up_reception(&given_up);
            }
        }
        let verdict = match self.offer_snapshot(Slot(slot), leader, offer.term, encoded) {
            Ok(Offered::Receive(write)) => {
                let receiving = &mut self.snapshots.transfers.receiving;
                if let Some(known) = receiving.iter_mut().find(|known| known.write == write) {
                    let goes_on =
                        (known.link, known.generation, known.term) == (link, generation, offer.term);
                    if !goes_on {
                        known.open = Default::default();
                    }
                    (known.link, known.generation, known.from) = (link, generation, from);
                    (known.term, known.attempt, known.heard) = (offer.term, offer.attempt, now);
                    known.wants_answer = true;
                    return;
                }
                receiving.push(Receiving {
                    slot,
                    link,
                    generation,
                    from,
                    term: offer.term,
                    header,
                    attempt: offer.attempt,
                    write,
                    open: Default::default(),
                    waiting: VecDeque::new(),
                    waiting_bytes: 0,
                    wants_answer: true,
                    heard: now,
                });
                return;
            }
            Ok(Offered::Here) => SnapshotVerdict::Here,
            Ok(Offered::Unneeded) => SnapshotVerdict::Unneeded,
            Ok(Offered::Refused) => SnapshotVerdict::Refused,
            Err(BeginError::TooMany { .. }) => {
                self.make_room_for_receptions();
                SnapshotVerdict::Busy
            }
            Err(error) => {
                tracing::warn!(group = %self.group_name(slot), node = %from, %error, "a snapshot that is offered is not taken");
                SnapshotVerdict::NoRoom
            }
        };
        self.answer_stray(link, slot, offer, verdict);
    }

    pub(in crate::core) fn on_snapshot_part(
        &mut self,
        link: usize,
        slot: u32,
        part: &SnapshotPart,
        bytes: &[u8],
    ) {
        let generation = self.io.links[link].generation;
        let group_term = self.groups[slot as usize].term();
        let transfers = &mut self.snapshots.transfers;
        let known = transfers.receiving.iter().position(|receiving| {
            (receiving.slot, receiving.link, receiving.generation) == (slot, link, generation)
                && (receiving.term, receiving.header.id) == (part.term, part.snapshot)
        });
        if group_term > part.term {
            // Of a leader of the past.
            transfers.counters.parts_refused += 1;
            return;
        }
        let Some(at) = known else {
            transfers.counters.parts_refused += 1;
            let offer = SnapshotOffer { term: part.term, snapshot: part.snapshot, attempt: 0 };
            return self.answer_stray(link, slot, &offer, SnapshotVerdict::Unknown);
        };
        let receiving = &mut transfers.receiving[at];
        receiving.heard = self.io.now;
        receiving.wants_answer = true;
        let end = u64::from(part.offset) + bytes.len() as u64;
        let is_in = part.number < receiving.header.chunks()
            && end <= u64::from(receiving.header.len_of(part.number))
            && !bytes.is_empty();
        if !is_in {
            transfers.counters.parts_refused += 1;
            return;
        }
        let is_whole = end == u64::from(receiving.header.len_of(part.number));
        transfers.counters.parts_taken += 1;
        transfers.counters.bytes_taken += bytes.len() as u64;
        let open = &mut receiving.open;
        if part.offset == 0 && is_whole {
            return self.take_chunk(at, part.number, bytes.to_vec());
        }
        if part.offset == 0 {
            open.0 = part.number;
            open.1.clear();
        } else if open.0 != part.number || open.1.len() != part.offset as usize {
            // What was before it was lost, or this came twice.
            transfers.counters.parts_dropped += 1;
            return;
        }
        open.1.extend_from_slice(bytes);
        if is_whole {
            let whole = std::mem::take(&mut open.1);
            self.take_chunk(at, part.number, whole);
        }
    }

    /// A whole chunk is here.
    fn take_chunk(&mut self, at: usize, number: u64, bytes: Vec<u8>) {
        let super::Snapshots { store, transfers, more, .. } = &mut self.snapshots;
        let receiving = &mut transfers.receiving[at];
        *more = true;
        match store.receive(receiving.write, receiving.header.id, number, &bytes) {
            Ok(Received::Taken | Received::Duplicate) => {}
            Ok(Received::Full) => {
                let chunk = u64::from(receiving.header.chunk_bytes);
                let room = u64::from(self.io.settings.snapshots.transfer_window_bytes) + chunk;
                if receiving.waiting_bytes + bytes.len() as u64 > room {
                    transfers.counters.parts_dropped += 1;
                    return;
                }
                receiving.waiting_bytes += bytes.len() as u64;
                receiving.waiting.push_back((number, bytes));
            }
            Err(error) => {
                // The chunk comes again when the sender asks what is missing.
                tracing::warn!(group = %receiving.header.group, %error, "a part of a snapshot is not taken");
                transfers.counters.parts_refused += 1;
            }
        }
    }

    // -- what the store says ------------------------------------------------------------------------------------------

    pub(super) fn on_reception_writable(&mut self, write: WriteId) {
        let Some(at) = self.reception(write) else { return };
        let receiving = &mut self.snapshots.transfers.receiving[at];
        receiving.wants_answer = true;
        receiving.waiting_bytes = 0;
        for (number, bytes) in std::mem::take(&mut receiving.waiting) {
            self.take_chunk(at, number, bytes);
        }
    }

    pub(super) fn on_reception_durable(&mut self, write: WriteId) {
        self.end_reception(write, SnapshotVerdict::Here);
    }

    pub(super) fn on_reception_failed(&mut self, write: WriteId, failure: &WriteFailure) {
        if let Some(at) = self.reception(write) {
            let group = self.snapshots.transfers.receiving[at].header.group;
            tracing::error!(%group, %failure, "receiving a snapshot came to nothing");
        }
        let is_full = failure.is_out_of_space();
        let verdict = if is_full { SnapshotVerdict::NoRoom } else { SnapshotVerdict::Failed };
        self.end_reception(write, verdict);
    }

    /// Whether a snapshot of the group is coming in, and its sender was heard lately.
    pub(super) fn is_receiving(&self, slot: u32) -> bool {
        let idle = self.beats(IDLE_AFTER);
        self.snapshots.transfers.receiving.iter().any(|receiving| {
            let link = self.io.links.get(receiving.link);
            receiving.slot == slot
                && link.is_some_and(|link| link.up && link.generation == receiving.generation)
                && self.io.now.since(receiving.heard) < idle
        })
    }

    fn reception(&self, write: WriteId) -> Option<usize> {
        self.snapshots.transfers.receiving.iter().position(|receiving| receiving.write == write)
    }

    fn end_reception(&mut self, write: WriteId, verdict: SnapshotVerdict) {
        let Some(at) = self.reception(write) else { return };
        let Receiving { slot, link, generation, term, header, attempt, .. } =
            self.snapshots.transfers.receiving.swap_remove(at);
        let offer = SnapshotOffer { term, snapshot: header.id, attempt };
        if self.link_of_transfer(link, generation).is_some() {
            self.answer_stray(link, slot, &offer, verdict);
        }
    }

    /// What came from a leader could not be loaded.
    pub(super) fn tell_refusal(&mut self, slot: u32, from: NodeId, term: Term, snapshot: SnapshotId) {
        let link =
            self.io.links.iter().position(|link| link.node == from && link.up && link.shared.has(slot));
        if let Some(link) = link {
            let offer = SnapshotOffer { term, snapshot, attempt: 0 };
            self.answer_stray(link, slot, &offer, SnapshotVerdict::Refused);
        }
    }

    fn give_up_reception(&mut self, receiving: &Receiving) {
        // It may be over already.
        let _ = self.snapshots.store.abort(receiving.write);
        self.snapshots.more = true;
    }

    /// As much as may be is being received: what nothing was heard of for long goes.
    fn make_room_for_receptions(&mut self) {
        let idle = self.beats(IDLE_AFTER);
        let transfers = &mut self.snapshots.transfers;
        let longest = (0..transfers.receiving.len()).min_by_key(|&at| transfers.receiving[at].heard);
        if let Some(at) = longest
            && self.io.now.since(transfers.receiving[at].heard) >= idle
        {
            let given_up = transfers.receiving.swap_remove(at);
            self.give_up_reception(&given_up);
        }
    }

    // -- a turn -------------------------------------------------------------------------------------------------------

    fn answer_stray(&mut self, link: usize, slot: u32, offer: &SnapshotOffer, verdict: SnapshotVerdict) {
        let strays = &mut self.snapshots.transfers.strays;
        if strays.len() >= STRAYS_MAX {
            self.io.counters.dropped += 1;
            return;
        }
        let answer = SnapshotAnswer {
            term: offer.term,
            snapshot: offer.snapshot,
            attempt: offer.attempt,
            verdict,
            next: 0,
            offset: 0,
            window: 0,
        };
        let is_same = |stray: &&mut Stray| {
            (stray.slot, stray.link, stray.answer.snapshot) == (slot, link, offer.snapshot)
        };
        let generation = self.io.links[link].generation;
        match strays.iter_mut().find(is_same) {
            Some(stray) if verdict == SnapshotVerdict::Unknown => stray.generation = generation,
            Some(stray) => *stray = Stray { slot, link, generation, answer },
            None => strays.push(Stray { slot, link, generation, answer }),
        }
    }

    /// Tells the senders where it is.
    pub(super) fn tend_receiving(&mut self) {
        for Stray { slot, link, generation, answer } in std::mem::take(&mut self.snapshots.transfers.strays) {
            self.send_answer(slot, link, generation, &answer);
        }
        let (now, give_up) = (self.io.now, self.beats(GIVE_UP_AFTER));
        let mut at = 0;
        while at < self.snapshots.transfers.receiving.len() {
            let receiving = &mut self.snapshots.transfers.receiving[at];
            if now.since(receiving.heard) >= give_up {
                let given_up = self.snapshots.transfers.receiving.swap_remove(at);
                self.give_up_reception(&given_up);
                continue;
            }
            at += 1;
            if std::mem::take(&mut receiving.wants_answer) {
                let (slot, link, generation) = (receiving.slot, receiving.link, receiving.generation);
                let answer = self.answer_of(at - 1);
                self.send_answer(slot, link, generation, &answer);
            }
        }
    }

    fn answer_of(&self, at: usize) -> SnapshotAnswer {
        let receiving = &self.snapshots.transfers.receiving[at];
        let Place { chunk, offset } = self.place_of(receiving);
        let window = u64::from(self.io.settings.snapshots.transfer_window_bytes);
        let is_resuming = self.snapshots.store.is_resuming(receiving.write);
        SnapshotAnswer {
            term: receiving.term,
            snapshot: receiving.header.id,
            attempt: receiving.attempt,
            // How far an earlier process came is being read.
            verdict: if is_resuming { SnapshotVerdict::Busy } else { SnapshotVerdict::Going },
            next: chunk,
            offset,
            window: window.saturating_sub(receiving.waiting_bytes) as u32,
        }
    }

    /// Everything before is here.
    fn place_of(&self, receiving: &Receiving) -> Place {
        let next = self.snapshots.store.progress(receiving.write).map_or(0, |progress| progress.next);
        let offset = if receiving.open.0 == next { receiving.open.1.len() as u32 } else { 0 };
        Place { chunk: next, offset }
    }

    fn send_answer(&mut self, slot: u32, link: usize, generation: u32, answer: &SnapshotAnswer) {
        let history = self.io.lanes[slot as usize].history;
        let Some(link) = self.link_of_transfer(link, generation) else { return };
        let Some(remote) = link.remote(slot).filter(|_| link.has_room()) else { return };
        link.builder.snapshot_answer(Address { slot: remote, history }, answer);
    }

    pub(super) fn next_of_reception(&self, receiving: &Receiving) -> Moment {
        match receiving.wants_answer {
            true => self.io.now,
            false => receiving.heard.after(self.beats(GIVE_UP_AFTER)),
        }
    }

    pub(super) fn reception_status(&self, receiving: &Receiving) -> TransferStatus {
        let total = receiving.header.file_bytes().saturating_sub(receiving.header.offset_of(0));
        let place = self.place_of(receiving);
        let is_whole = place.chunk == receiving.header.chunks();
        TransferStatus {
            peer: receiving.from,
            outgoing: false,
            step: if is_whole { TransferStep::Installing } else { TransferStep::Moving },
            index: receiving.header.index,
            bytes: place.bytes(&receiving.header).min(total),
            bytes_total: total,
        }
    }
}
