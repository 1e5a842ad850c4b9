//! A leader brings up a member that its log does not reach any more.

use std::collections::BTreeMap;

use logdrive_shard::{LogIndex, Moment, NodeId, Route, SnapshotStatus, SnapshotWanted};
use logdrive_wal::Disk;

use super::transfer::{Place, TransferStatus, TransferStep};
use crate::api::StateMachine;
use crate::core::Core;
use crate::core::buggify::ONE_PART;
use crate::core::lane::unpack;
use crate::core::lives::Life;
use crate::snapshot::{BeginError, ReadFailure, ReadId, SnapshotHeader};
use crate::wire::{Address, PART_BYTES_MAX, SnapshotAnswer, SnapshotOffer, SnapshotPart, SnapshotVerdict};

/// Chunks of one file that are held in memory, or are being read, at most.
const CHUNKS_READY_MAX: u64 = 2;
// Times, in heartbeat intervals.

/// A receiver that does not get on is asked where it is.
const ASK_AFTER: u32 = 10;
/// The group is told that the transfer goes on, or waits.
const REPORT_AFTER: u32 = 50;
/// A receiver of which nothing was heard for so long is given up.
pub(super) const SILENCE_MAX: u32 = 100;
/// A file is kept open for a receiver that there is no way to, and the log behind it for one that was just brought up.
pub(super) const KEEP_FOR: u32 = 100;
/// A receiver that answers and does not get on is given up after so long.
const STANDSTILL_MAX: u32 = 3_000;

/// Why a snapshot is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The group asked for it.
    Behind,
    /// The member lost entries that it had acknowledged: the group knows nothing of that.
    Heals,
    /// The leader, another node, asked for it.
    OnBehalf(NodeId),
}

/// A member that a group of this core brings up.
pub(super) struct Outgoing {
    pub(super) slot: u32,
    pub(super) life: Life,
    pub(super) to: NodeId,
    pub(super) wanted: SnapshotWanted,
    /// The way, and which connection that is.
    pub(super) link: usize,
    pub(super) remote: u32,
    pub(super) generation: u32,
    pub(super) cause: Cause,
    /// No follower is asked to send it before.
    pub(super) relay_from: Moment,
    /// Since when there is no way to it, or no leadership.
    pub(super) broken_at: Option<Moment>,
    /// When the group heard of it last.
    pub(super) reported: Moment,
    pub(super) file: Option<Box<Sending>>,
}

/// The file that is sent.
pub(super) struct Sending {
    pub(super) header: SnapshotHeader,
    read: ReadId,
    step: Step,
    /// Counts offers.
    attempt: u32,
    offered: Moment,
    /// When the receiver was heard last, and when it got on last.
    heard: Moment,
    moved: Moment,
    /// The receiver has everything before.
    arrived: Place,
    /// Everything before was sent.
    sent: Place,
    /// Bytes that the receiver has room for.
    window: u32,
    /// The next chunk to read.
    asked: u64,
    ready: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Is to be offered, or offered again, at once.
    Offer,
    /// Was offered: the answer tells where to go on.
    Asked,
    Going,
    Here,
}

impl Outgoing {
    pub(super) fn status(&self) -> TransferStatus {
        let file = self.file.as_deref();
        let step = match file.map(|file| file.step) {
            _ if self.broken_at.is_some() => TransferStep::Broken,
            None => TransferStep::Waiting,
            Some(Step::Offer | Step::Asked) => TransferStep::Asking,
            Some(Step::Going) => TransferStep::Moving,
            Some(Step::Here) => TransferStep::Installing,
        };
        TransferStatus {
            peer: self.to,
            outgoing: true,
            step,
            index: file.map_or(LogIndex(0), |file| file.header.index),
            bytes: file
                .map_or(0, |file| file.arrived.bytes(&file.header))
                .min(file.map_or(0, Sending::total)),
            bytes_total: file.map_or(0, Sending::total),
        }
    }
}

impl Sending {
    pub(super) fn total(&self) -> u64 {
        self.header.file_bytes().saturating_sub(self.header.offset_of(0))
    }

    fn end(&self) -> Place {
        Place { chunk: self.header.chunks(), offset: 0 }
    }

    /// Whether a part may leave, as far as the receiver and the file are concerned.
    fn has_part(&self, window_max: u32) -> bool {
        let on_the_way = self.sent.bytes(&self.header).saturating_sub(self.arrived.bytes(&self.header));
        self.step == Step::Going
            && self.ready.contains_key(&self.sent.chunk)
            && on_the_way < u64::from(self.window.min(window_max))
    }

    /// The answer to an offer: here it goes on.
    fn go_on(&mut self, place: Place) {
        self.step = Step::Going;
        (self.arrived, self.sent) = (place, place);
        self.asked = place.chunk;
        self.ready.retain(|&chunk, _| chunk >= place.chunk);
    }
}

/// Whether a newer file is worth beginning anew with: it costs about as little as the rest of the old one, and spares the log between
/// them; or nothing else helps.
fn is_cheaper(newer_bytes: u64, left_bytes: u64, reaches: bool) -> bool {
    !reaches || newer_bytes <= left_bytes.saturating_add(left_bytes / 8)
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    // -- what the group says ------------------------------------------------------------------------------------------

    pub(super) fn want_transfer(&mut self, slot: u32, to: NodeId, route: Route, wanted: SnapshotWanted) {
        let Some((link, remote)) = unpack(route) else { return };
        let Some(generation) = self.io.links.get(link).map(|link| link.generation) else { return };
        let now = self.io.now;
        let life = self.lives[slot as usize];
        let transfers = &mut self.snapshots.transfers;
        transfers.is_stirred = true;
        let known = transfers.outgoing.iter_mut().find(|outgoing| (outgoing.slot, outgoing.to) == (slot, to));
        let Some(known) = known else {
            let waiting = Outgoing {
                slot,
                life,
                to,
                wanted,
                link,
                remote,
                generation,
                cause: Cause::Behind,
                relay_from: Moment(0),
                broken_at: None,
                reported: now,
                file: None,
            };
            transfers.line.insert((slot, to), waiting);
            return;
        };
        known.cause = Cause::Behind;
        (known.link, known.remote, known.generation) = (link, remote, generation);
        (known.wanted, known.broken_at, known.reported) = (wanted, None, now);
        if let Some(file) = known.file.as_deref_mut() {
            file.step = Step::Offer;
            (file.heard, file.moved) = (now, now);
        }
    }

    // -- what the receiver says ---------------------------------------------------------------------------------------

    pub(in crate::core) fn on_snapshot_answer(&mut self, link: usize, slot: u32, answer: &SnapshotAnswer) {
        let (now, generation) = (self.io.now, self.io.links[link].generation);
        let outgoing = self.snapshots.transfers.outgoing.iter_mut();
        let sent = outgoing.enumerate().find(|(_, outgoing)| {
            (outgoing.slot, outgoing.link, outgoing.generation) == (slot, link, generation)
                && outgoing.wanted.term == answer.term
                && outgoing.file.as_deref().is_some_and(|file| file.header.id == answer.snapshot)
        });
        let Some((at, Outgoing { file: Some(file), cause, .. })) = sent else {
            self.io.counters.ignored += 1;
            return;
        };
        self.snapshots.more = true;
        file.heard = now;
        let (place, end) = (Place { chunk: answer.next, offset: answer.offset }, file.end());
        match answer.verdict {
            SnapshotVerdict::Going if place > end => self.io.counters.ignored += 1,
            SnapshotVerdict::Going => {
                file.window = answer.window;
                if file.step == Step::Asked && answer.attempt == file.attempt {
                    let is_resumed = place > Place::default();
                    self.snapshots.transfers.counters.resumed += u64::from(is_resumed);
                    if place > file.arrived {
                        file.moved = now;
                    }
                    file.go_on(place);
                } else if place > file.arrived && file.step == Step::Going {
                    (file.arrived, file.moved) = (place, now);
                    if place > file.sent {
                        file.go_on(place);
                    }
                }
            }
            SnapshotVerdict::Here | SnapshotVerdict::Unneeded if *cause != Cause::Behind => {
                file.step = Step::Here;
                // If it comes to nothing there, the member asks again.
                let Outgoing { slot, to, .. } = self.remove_outgoing(at);
                self.snapshots.transfers.refused.remove(&(slot, to));
                self.snapshots.transfers.counters.ended += 1;
            }
            SnapshotVerdict::Here => {
                (file.step, file.arrived, file.sent, file.moved) = (Step::Here, end, end, now);
                file.ready.clear();
            }
            SnapshotVerdict::Busy => {
                self.snapshots.transfers.counters.waited += 1;
                (file.step, file.moved) = (Step::Asked, now);
            }
            SnapshotVerdict::Unknown if matches!(file.step, Step::Going | Step::Here) => {
                file.step = Step::Offer
            }
            SnapshotVerdict::Unknown => {}
            SnapshotVerdict::Unneeded | SnapshotVerdict::Failed => {
                self.fail_outgoing(at, SnapshotStatus::Failed)
            }
            SnapshotVerdict::NoRoom | SnapshotVerdict::Refused => {
                self.note_refused(at, answer.verdict);
                self.fail_outgoing(at, SnapshotStatus::Refused);
            }
        }
    }

    // -- the file -----------------------------------------------------------------------------------------------------

    pub(super) fn on_chunk_read(&mut self, read: ReadId, number: u64, bytes: Vec<u8>) {
        let mut files = self.snapshots.transfers.outgoing.iter_mut().filter_map(|o| o.file.as_deref_mut());
        let Some(file) = files.find(|file| file.read == read) else { return };
        let wanted = file.sent.chunk..file.sent.chunk + CHUNKS_READY_MAX;
        if wanted.contains(&number) {
            file.ready.insert(number, bytes);
        }
    }

    pub(super) fn on_send_failed(&mut self, read: ReadId, failure: &ReadFailure) {
        let outgoing = &self.snapshots.transfers.outgoing;
        let is_of = |outgoing: &Outgoing| outgoing.file.as_deref().is_some_and(|file| file.read == read);
        let Some(at) = outgoing.iter().position(is_of) else { return };
        let slot = outgoing[at].slot;
        let group = self.group_name(slot);
        tracing::error!(%group, %failure, "a snapshot cannot be sent; another one is taken if there is none");
        self.snapshots.groups[slot as usize].failure =
            Some(format!("it could not be sent: {failure}").into());
        self.fail_outgoing(at, SnapshotStatus::Failed);
    }

    pub(super) fn remove_outgoing(&mut self, at: usize) -> Outgoing {
        let outgoing = self.snapshots.transfers.outgoing.swap_remove(at);
        self.snapshots.transfers.is_stirred = true;
        if let Some(file) = &outgoing.file {
            self.snapshots.store.end_read(file.read);
            self.snapshots.more = true;
            self.end_on_behalf(&outgoing, file.step == Step::Here);
        }
        outgoing
    }

    fn fail_outgoing(&mut self, at: usize, status: SnapshotStatus) {
        let Outgoing { slot, to, .. } = self.remove_outgoing(at);
        self.snapshots.transfers.counters.failed += 1;
        self.report_transfer(slot, to, status);
    }

    fn report_transfer(&mut self, slot: u32, to: NodeId, status: SnapshotStatus) {
        if !self.groups[slot as usize].is_leader() {
            return self.report_on_behalf(slot, to);
        }
        self.step(slot, |group, env| group.on_snapshot_report(env, to, status));
        self.end_step(slot);
    }

    // -- a turn -------------------------------------------------------------------------------------------------------

    pub(super) fn tend_outgoing(&mut self) {
        let transfers = &self.snapshots.transfers;
        if transfers.outgoing.is_empty() && transfers.line.is_empty() {
            return;
        }
        let mut at = 0;
        while at < self.snapshots.transfers.outgoing.len() {
            at += usize::from(self.tend_one(at));
        }
        let (now, written) = (self.io.now, self.snapshots.counters.written);
        let transfers = &mut self.snapshots.transfers;
        let has_news = transfers.is_stirred || transfers.written != written;
        if !transfers.line.is_empty() && (has_news || now >= transfers.next_look) {
            (transfers.is_stirred, transfers.written) = (false, written);
            self.tend_line();
        }
        self.offer_outgoing();
        self.read_ahead();
        self.send_parts();
    }

    /// Looks after one transfer; false if it is over (another one has its place).
    fn tend_one(&mut self, at: usize) -> bool {
        let now = self.io.now;
        let (ask, report) = (self.beats(ASK_AFTER), self.beats(REPORT_AFTER));
        let (silence, keep, standstill) =
            (self.beats(SILENCE_MAX), self.beats(KEEP_FOR), self.beats(STANDSTILL_MAX));
        let outgoing = &mut self.snapshots.transfers.outgoing[at];
        let slot = outgoing.slot as usize;
        let group = &self.groups[slot];
        let link = self.io.links.get(outgoing.link);
        let has_way = link.is_some_and(|link| link.up && link.generation == outgoing.generation);
        let is_on_behalf = matches!(outgoing.cause, Cause::OnBehalf(_));
        let leads = match outgoing.cause {
            Cause::OnBehalf(leader) => group.leader() == leader,
            Cause::Behind | Cause::Heals => group.is_leader(),
        };
        let leads = leads && group.term() == outgoing.wanted.term;
        let newest = self.snapshots.groups[slot].index;
        if self.lives[slot] != outgoing.life {
            self.remove_outgoing(at);
            return false;
        }
        if !has_way || !leads {
            // The group has ended the attempt; it asks again if it must, and then this goes on where it was.
            let since = *outgoing.broken_at.get_or_insert(now);
            let is_over = outgoing.file.is_none() || is_on_behalf || now.since(since) >= keep;
            if is_over {
                self.remove_outgoing(at);
            }
            return !is_over;
        }
        let mut is_alive = true;
        if let Some(file) = outgoing.file.as_deref_mut() {
            let reaches = file.header.index.next() >= group.first_index();
            let left = file.total() - file.arrived.bytes(&file.header).min(file.total());
            let newer_bytes = self.snapshots.groups[slot].file_bytes;
            let supersedes = newest > file.header.index && file.step != Step::Here && !is_on_behalf;
            if supersedes && is_cheaper(newer_bytes, left, reaches) {
                let superseded = self.remove_outgoing(at);
                self.snapshots.transfers.counters.superseded += 1;
                let (slot, to) = (superseded.slot, superseded.to);
                self.snapshots.transfers.line.insert((slot, to), Outgoing { file: None, ..superseded });
                return false;
            }
            if now.since(file.heard) >= silence || now.since(file.moved) >= standstill {
                self.fail_outgoing(at, SnapshotStatus::Failed);
                return false;
            }
            let stands = now.since(file.moved.max(file.offered)) >= ask;
            if stands && file.step != Step::Offer {
                file.step = Step::Offer;
            }
            is_alive = now.since(file.heard) < ask;
        }
        if is_alive && now.since(outgoing.reported) >= report {
            outgoing.reported = now;
            let (slot, to) = (outgoing.slot, outgoing.to);
            self.report_transfer(slot, to, SnapshotStatus::Moving);
        }
        true
    }

    /// Looks after those who wait, which may be as many as there are groups: now and then, and when something has happened.
    fn tend_line(&mut self) {
        let now = self.io.now;
        self.snapshots.transfers.next_look = now.after(self.beats(ASK_AFTER));
        let report = self.beats(REPORT_AFTER);
        let places = self.io.settings.snapshots.transfers_max.max(1) as usize;
        let mut line = std::mem::take(&mut self.snapshots.transfers.line);
        line.retain(|&(slot, to), waiting| {
            let of = slot as usize;
            let link = self.io.links.get(waiting.link);
            let has_way = link.is_some_and(|link| link.up && link.generation == waiting.generation);
            let leads = self.groups[of].is_leader() && self.groups[of].term() == waiting.wanted.term;
            if !has_way || !leads || self.lives[of] != waiting.life {
                // The group has ended the attempt, and asks again if it must.
                return false;
            }
            let has_place = self.snapshots.transfers.outgoing.len() < places;
            if !self.is_relayed(waiting, has_place)
                && has_place
                && let Some(file) = self.begin_file(slot, waiting.wanted)
            {
                let begun = Outgoing { file: Some(Box::new(file)), ..*waiting };
                self.snapshots.transfers.outgoing.push(begun);
                return false;
            }
            if now.since(waiting.reported) >= report {
                waiting.reported = now;
                self.report_transfer(slot, to, SnapshotStatus::Moving);
            }
            true
        });
        // Reporting asks for nothing new, so nobody came into the line meanwhile.
        self.snapshots.transfers.counters.waited +=
            u64::from(self.snapshots.transfers.outgoing.len() >= places);
        self.snapshots.transfers.relays.retain(|of, _| line.contains_key(of));
        self.snapshots.transfers.line = line;
    }

    /// Begins to send the newest file of a group, if there is one that helps; otherwise sees to it that there will be.
    pub(super) fn begin_file(&mut self, slot: u32, wanted: SnapshotWanted) -> Option<Sending> {
        let (of, now) = (slot as usize, self.io.now);
        let needed = wanted.at_least.max(LogIndex(self.groups[of].first_index().0 - 1));
        let newest = self.snapshots.store.newest(self.ids[of], self.lives[of].number());
        let newest = newest.ok().flatten().cloned();
        let Some(header) = newest.clone().filter(|header| header.index >= needed) else {
            // A file that turned out to be damaged is not there any more.
            let state = &mut self.snapshots.groups[of];
            state.index = state.index.min(newest.map_or(LogIndex(0), |header| header.index));
            self.want_snapshot(slot, true);
            return None;
        };
        let read = match self.snapshots.store.begin_send(header.id) {
            Ok(read) => read,
            Err(BeginError::TooMany { .. }) => {
                self.snapshots.transfers.counters.waited += 1;
                return None;
            }
            Err(error) => {
                tracing::warn!(group = %self.ids[of], %error, "a snapshot cannot be sent at present");
                return None;
            }
        };
        self.snapshots.more = true;
        self.snapshots.transfers.counters.begun += 1;
        Some(Sending {
            header,
            read,
            step: Step::Offer,
            attempt: 0,
            offered: now,
            heard: now,
            moved: now,
            arrived: Place::default(),
            sent: Place::default(),
            window: 0,
            asked: 0,
            ready: BTreeMap::new(),
        })
    }

    fn offer_outgoing(&mut self) {
        let now = self.io.now;
        for outgoing in &mut self.snapshots.transfers.outgoing {
            let Some(file) = outgoing.file.as_deref_mut() else { continue };
            let link = &mut self.io.links[outgoing.link];
            if file.step != Step::Offer || outgoing.broken_at.is_some() || !link.takes_bulk() {
                continue;
            }
            let on_behalf = matches!(outgoing.cause, Cause::OnBehalf(_));
            let flag = if on_behalf { SnapshotOffer::ON_BEHALF } else { 0 };
            file.attempt = (file.attempt.wrapping_add(1) % SnapshotOffer::ON_BEHALF) | flag;
            (file.step, file.offered) = (Step::Asked, now);
            let (term, snapshot, attempt) = (outgoing.wanted.term, file.header.id, file.attempt);
            let history = self.io.lanes[outgoing.slot as usize].history;
            let to = Address { slot: outgoing.remote, history };
            link.bulk.snapshot_offer(to, &SnapshotOffer { term, snapshot, attempt }, &file.header.encode());
            self.snapshots.transfers.counters.offers_sent += 1;
        }
    }

    /// Asks the disk for what is to be sent next.
    fn read_ahead(&mut self) {
        let super::Snapshots { store, transfers, more, .. } = &mut self.snapshots;
        for file in transfers.outgoing.iter_mut().filter_map(|outgoing| outgoing.file.as_deref_mut()) {
            if file.step != Step::Going {
                continue;
            }
            let end = (file.sent.chunk + CHUNKS_READY_MAX).min(file.header.chunks());
            file.asked = file.asked.max(file.sent.chunk);
            while file.asked < end {
                // If the read is over, word of that comes as an event.
                let is_asked = file.ready.contains_key(&file.asked)
                    || store.read_chunk(file.read, file.asked) == Ok(true);
                if !is_asked {
                    break;
                }
                *more = true;
                file.asked += 1;
            }
        }
    }

    /// Parts for this turn: one of each transfer after the other, until the turn's share is used up.
    fn send_parts(&mut self) {
        let settings = &self.io.settings.snapshots;
        let window = settings.transfer_window_bytes;
        let mut left = u64::from(settings.transfer_bytes_per_turn.max(1));
        if self.io.strikes(ONE_PART) {
            left = 1;
        }
        let transfers = &mut self.snapshots.transfers;
        transfers.pace.advance(self.io.now);
        let (mut idle, count) = (0, transfers.outgoing.len());
        while idle < count && left > 0 && transfers.pace.is_open() {
            transfers.turn = (transfers.turn + 1) % count;
            let outgoing = &mut transfers.outgoing[transfers.turn];
            let link = &mut self.io.links[outgoing.link];
            let Some(file) = outgoing.file.as_deref_mut() else {
                idle += 1;
                continue;
            };
            let may_send = outgoing.broken_at.is_none() && link.takes_bulk() && file.has_part(window);
            let chunk = file.ready.get(&file.sent.chunk).filter(|_| may_send);
            let Some(chunk) = chunk else {
                idle += 1;
                continue;
            };
            let Place { chunk: number, offset } = file.sent;
            let from = chunk.len().min(offset as usize);
            let part = &chunk[from..chunk.len().min(from + PART_BYTES_MAX as usize)];
            let history = self.io.lanes[outgoing.slot as usize].history;
            let to = Address { slot: outgoing.remote, history };
            let message =
                SnapshotPart { term: outgoing.wanted.term, snapshot: file.header.id, number, offset };
            link.bulk.snapshot_part(to, &message, part);
            let bytes = part.len() as u32;
            transfers.pace.take(bytes);
            left = left.saturating_sub(u64::from(bytes));
            transfers.counters.parts_sent += 1;
            transfers.counters.bytes_sent += u64::from(bytes);
            idle = 0;
            file.sent.offset += bytes;
            if file.sent.offset as usize >= chunk.len() {
                file.ready.remove(&number);
                file.sent = Place { chunk: number + 1, offset: 0 };
            }
        }
    }

    /// When the next turn must be for the sake of what is sent.
    pub(super) fn next_of_outgoing(&self) -> Moment {
        let transfers = &self.snapshots.transfers;
        let window = self.io.settings.snapshots.transfer_window_bytes;
        let (ask, report, keep) = (self.beats(ASK_AFTER), self.beats(REPORT_AFTER), self.beats(KEEP_FOR));
        let mut next = if transfers.line.is_empty() { Moment::NEVER } else { transfers.next_look };
        for outgoing in &transfers.outgoing {
            if let Some(since) = outgoing.broken_at {
                next = next.min(since.after(keep));
                continue;
            }
            next = next.min(outgoing.reported.after(report).max(self.io.now.after(ask)));
            let Some(file) = outgoing.file.as_deref() else { continue };
            let link = &self.io.links[outgoing.link];
            if file.step != Step::Offer {
                next = next.min(file.moved.max(file.offered).after(ask));
            } else if link.takes_bulk() {
                next = next.min(self.io.now);
            }
            if link.takes_bulk() && file.has_part(window) {
                next = next.min(transfers.pace.opens_at());
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_snapshot_supersedes_a_transfer_only_when_that_costs_no_more_or_nothing_else_helps() {
        assert!(is_cheaper(1_000, 1_000, true), "nothing was sent yet");
        assert!(is_cheaper(1_100, 1_000, true), "it has grown a little, and spares the log between");
        assert!(!is_cheaper(1_000, 500, true), "half of the old one is there");
        assert!(is_cheaper(1_000, 1, false), "the log does not continue the old one");
    }
}
