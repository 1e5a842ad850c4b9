//! Stepping one group: what its steps write to, and the sink they write through.

use std::collections::VecDeque;

use logdrive_shard::{
    Append, AppendReply, Fit, HardState, Heartbeat, HeartbeatReply, LogIndex, Membership, Moment, NodeId,
    ReadIndexReply, ReadIndexRequest, Role, Route, Sink, SnapshotWanted, Support, Term, TermQuery,
    TermReport, TimeoutNow, TransferEnd, VoteReply, VoteRequest,
};
use logdrive_wal::{AppendError, Disk, EntryHeader, Point, StreamSlot, Ticket, Wal};

use super::cache::Cache;
use super::heal::Heal;
use super::lane::{Flags, Lane, unpack};
use super::links::Link;
use super::loads::{Loads, Purpose, Want};
use super::members::Change;
use super::parked::{Parked, ParkedBody, Waiting};
use super::patience::Watched;
use super::record::{encode_state, entry_note, note_kind};
use super::requests::{Ports, Proposals, Reads};
use super::snapshots::SnapshotOrder;
use super::status::Counters;
use super::transfers::TransferWait;
use super::waits::{LeaseReads, LocalReads};
use crate::api::CoreSettings;
use crate::wire::{Address, EntryKind};

/// Bytes of a log record beside its payload, for admission.
pub(super) const RECORD_BYTES: u64 = 64;

/// What the step under way did beside writing and sending.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    /// The group's commit index, as far as the step has told.
    pub(super) commit: LogIndex,
    /// It moved.
    pub(super) committed: bool,
    /// Leadership was lost, with this commit index: whatever the step commits later may have replaced what was proposed here.
    pub(super) lost: Option<LogIndex>,
    /// The leader was lost to which reads of this node were forwarded.
    pub(super) reads_lost: bool,
    /// Another configuration is in force.
    pub(super) members_changed: bool,
}

/// Something vital that the log refused for want of space.
#[derive(Clone, Debug)]
pub(super) enum Unwritten {
    State { slot: u32, state: HardState },
    Entry { slot: u32, place: Place, kind: EntryKind, payload: Box<[u8]> },
}

/// Where an entry belongs, and what goes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    index: LogIndex,
    term: Term,
    epoch: u32,
    commit: LogIndex,
}

/// Slots that something has to be done for, each queue holding a slot at most once (see [`Flags`]).
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) flush: Vec<u32>,
    pub(super) apply: VecDeque<u32>,
    pub(super) notices: VecDeque<(Moment, u32)>,
    pub(super) reads: Vec<u32>,
    pub(super) leader_changes: Vec<u32>,
    pub(super) misplaced: VecDeque<u32>,
    /// What groups ask for in the way of snapshots for their peers; taken in every turn.
    pub(super) snapshots: Vec<SnapshotOrder>,
}

/// Everything of a core that a step may touch, the groups themselves excepted.
pub(super) struct Io<D: Disk> {
    pub(super) me: NodeId,
    pub(super) now: Moment,
    /// When there was something to do that was not for snapshots: frames, requests, news of the log.
    pub(super) others_at: Moment,
    pub(super) settings: CoreSettings,
    pub(super) wal: Wal<D>,
    pub(super) lanes: Vec<Lane>,
    /// By slot: the stream, as in [`Lane::stream`], where looking ahead finds it without a cache miss.
    pub(super) streams: Vec<StreamSlot>,
    /// By slot: who should lead.
    pub(super) preferred: Vec<NodeId>,
    pub(super) cache: Cache,
    pub(super) loads: Loads,
    pub(super) links: Vec<Link>,
    pub(super) waiting: Waiting,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) lease_reads: LeaseReads,
    pub(super) local_reads: LocalReads,
    /// Groups with reads that are looked at again after a while, in that order; each at most once (see [`Flags::WATCHED`]).
    pub(super) watched: VecDeque<Watched>,
    pub(super) ports: Ports,
    /// Requests that wait, and their bytes.
    pub(super) requests: u32,
    pub(super) request_bytes: u64,
    pub(super) queues: Queues,
    pub(super) unwritten: Vec<Unwritten>,
    /// Changes of configurations that are not answered.
    pub(super) changes: Vec<Change>,
    /// Leader transfers whose end somebody waits for.
    pub(super) transfers: Vec<TransferWait>,
    /// The node is about to stop: whatever is led here should be led elsewhere.
    pub(super) handing_over: bool,
    /// An operator wants nothing to be led here until told otherwise.
    pub(super) draining: bool,
    pub(super) heal: Heal,
    pub(super) effects: Effects,
    pub(super) counters: Counters,
}

impl Unwritten {
    fn slot(&self) -> u32 {
        match *self {
            Unwritten::State { slot, .. } | Unwritten::Entry { slot, .. } => slot,
        }
    }
}

impl<D: Disk> Io<D> {
    /// Writes an entry that [`Wal::admit`] let in to the log and to the cache.
    pub(super) fn write_entry(
        &mut self,
        slot: u32,
        index: LogIndex,
        term: Term,
        epoch: u32,
        commit: LogIndex,
        entry: (EntryKind, &[u8]),
    ) {
        let (kind, payload) = entry;
        self.keep_entry(slot, index, kind, payload);
        if kind == EntryKind::Empty {
            self.write_vital(slot, Place { index, term, epoch, commit }, kind, payload);
            return;
        }
        let header = EntryHeader { index: index.0, tag: term.0, note: entry_note(kind, commit) };
        let lane = &mut self.lanes[slot as usize];
        match self.wal.append(lane.stream, header, payload) {
            Ok(ticket) => self.waiting.touch(lane, slot, ticket, epoch, index.0),
            // Nothing is acknowledged from here on: the turn ends with the reason.
            Err(AppendError::Poisoned(_)) => {}
            Err(error) => {
                panic!("slot {slot}: the log refused entry {index}, which it had admitted: {error}")
            }
        }
    }

    /// Puts an entry into the cache.
    pub(super) fn keep_entry(&mut self, slot: u32, index: LogIndex, kind: EntryKind, payload: &[u8]) {
        let window = &mut self.lanes[slot as usize].window;
        self.cache.push(window, slot, index.0, kind, payload);
        if self.cache.is_over() {
            self.cache.evict(&mut self.lanes);
        }
    }

    /// The group's log is replaced from `index` on.
    pub(super) fn truncate(&mut self, slot: u32, index: LogIndex) {
        self.cache.truncate(&mut self.lanes[slot as usize].window, index.0);
        self.loads.void(slot, index.0);
    }

    /// Writes a hard state. If the log has no space even for that, or for what the group wrote before, it is kept until it has:
    /// meanwhile nothing that the group says leaves.
    pub(super) fn write_state(&mut self, slot: u32, state: HardState) {
        let lane = &self.lanes[slot as usize];
        if !lane.flags.has(Flags::UNWRITTEN) {
            match self.wal.put_state(lane.stream, &encode_state(state, lane.history)) {
                Ok(_) | Err(AppendError::Poisoned(_)) => return,
                Err(_) => {}
            }
        }
        let same = |unwritten: &&mut Unwritten| matches!(unwritten, Unwritten::State { slot: of, .. } if *of == slot);
        match self.unwritten.iter_mut().find(same) {
            Some(Unwritten::State { state: older, .. }) => *older = state,
            _ => self.refused(Unwritten::State { slot, state }),
        }
    }

    /// Writes the no-op of a term or a leader's configuration, or keeps it as [`Io::write_state`] does.
    fn write_vital(&mut self, slot: u32, place: Place, kind: EntryKind, payload: &[u8]) {
        let Place { index, term, epoch, commit } = place;
        let note = entry_note(kind, commit);
        let lane = &mut self.lanes[slot as usize];
        if !lane.flags.has(Flags::UNWRITTEN) {
            match self.wal.append(lane.stream, EntryHeader { index: index.0, tag: term.0, note }, payload) {
                Ok(ticket) => return self.waiting.touch(lane, slot, ticket, epoch, index.0),
                Err(AppendError::Poisoned(_)) => return,
                Err(_) => {}
            }
        }
        self.refused(Unwritten::Entry { slot, place, kind, payload: payload.into() });
    }

    fn refused(&mut self, unwritten: Unwritten) {
        self.lanes[unwritten.slot() as usize].flags.raise(Flags::UNWRITTEN);
        self.unwritten.push(unwritten);
    }

    /// Tries again what the log refused: each group's in its order, until the log refuses again.
    pub(super) fn retry_unwritten(&mut self) {
        let unwritten = std::mem::take(&mut self.unwritten);
        for retried in &unwritten {
            self.lanes[retried.slot() as usize].flags.lower(Flags::UNWRITTEN);
        }
        for retried in unwritten {
            match retried {
                Unwritten::State { slot, state } => {
                    self.write_state(slot, state);
                    let written = !self.lanes[slot as usize].flags.has(Flags::UNWRITTEN);
                    if written && state.vote == self.me {
                        // What the candidate's step parked was dropped, its vote for itself as well.
                        self.waiting.park(Parked::own_vote(slot, state.term));
                        self.waiting.seal(self.wal.last_ticket());
                    }
                }
                Unwritten::Entry { slot, place, kind, payload } => {
                    self.write_vital(slot, place, kind, &payload);
                }
            }
        }
    }

    /// Whether `node` is in contact on any link and takes leadership.
    pub(super) fn takes_leadership(&self, node: NodeId) -> bool {
        self.links.iter().any(|link| link.node == node && link.contact && !link.peer_drained)
    }

    /// Whether leadership is given away to whoever takes it.
    pub(super) fn gives_away(&self) -> bool {
        self.handing_over || self.draining || self.heal.failing
    }

    /// Queues a slot for [`logdrive_shard::Group::flush`] at the end of the turn.
    pub(super) fn queue_flush(&mut self, slot: u32) {
        if self.lanes[slot as usize].flags.raise(Flags::FLUSH) {
            self.queues.flush.push(slot);
        }
    }

    /// Queues a slot that has something to apply.
    pub(super) fn queue_apply(&mut self, slot: u32) {
        if self.lanes[slot as usize].flags.raise(Flags::APPLY) {
            self.queues.apply.push_back(slot);
        }
    }

    /// Queues a slot whose reads may be served.
    pub(super) fn queue_reads(&mut self, slot: u32) {
        if self.lanes[slot as usize].flags.raise(Flags::READS) {
            self.queues.reads.push(slot);
        }
    }

    /// Lets everything go whose ticket is durable; votes for itself are left to `own_vote`.
    pub(super) fn release(&mut self, durable: Ticket) -> Option<(u32, Term)> {
        while let Some(parked) = self.waiting.pop_parked(durable) {
            if let ParkedBody::OwnVote(term) = parked.body {
                return Some((parked.slot, term));
            }
            let Some((link, remote)) = unpack(parked.to) else { continue };
            let link = &mut self.links[link];
            if link.generation != parked.generation || !link.has_room() {
                self.counters.dropped += 1;
                continue;
            }
            let to = Address { slot: remote, history: parked.history };
            match parked.body {
                ParkedBody::AppendReply(message) => link.builder.append_reply(to, &message),
                ParkedBody::HeartbeatReply(message) => link.builder.heartbeat_reply(to, &message),
                ParkedBody::VoteRequest(message) => link.builder.vote_request(to, &message),
                ParkedBody::VoteReply(message) => link.builder.vote_reply(to, &message),
                ParkedBody::TermReport(message) => link.builder.term_report(to, &message),
                ParkedBody::OwnVote(_) => {}
            }
        }
        None
    }
}

/// The sink of one step of one group.
pub(super) struct StepSink<'a, D: Disk> {
    pub(super) io: &'a mut Io<D>,
    pub(super) slot: u32,
}

impl<D: Disk> StepSink<'_, D> {
    /// Where an immediate message goes, if there is a way and room.
    fn out(&mut self, to: Route) -> Option<(&mut Link, Address)> {
        let (link, remote) = unpack(to)?;
        let history = self.io.lanes[self.slot as usize].history;
        let link = &mut self.io.links[link];
        if !link.has_room() {
            self.io.counters.dropped += 1;
            return None;
        }
        Some((link, Address { slot: remote, history }))
    }

    fn park(&mut self, to: Route, body: ParkedBody) {
        let Some((link, _)) = unpack(to) else { return };
        if self.io.waiting.is_full() {
            self.io.counters.dropped += 1;
            return;
        }
        let generation = self.io.links[link].generation;
        let history = self.io.lanes[self.slot as usize].history;
        let (slot, ticket) = (self.slot, Ticket(u64::MAX));
        self.io.waiting.park(Parked { ticket, slot, history, generation, to, body });
    }

    /// Cold entries: offered ones are ready, others are put in line.
    fn fit_cold(&mut self, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit {
        let io = &mut *self.io;
        let loaded = |index: u64| {
            let (_, payload) = io.loads.get(self.slot, Purpose::Send, index)?;
            Some(payload.len() as u32)
        };
        if let Some(fit) = measure(first, last, bytes_max, loaded) {
            return fit;
        }
        let lane = &mut io.lanes[self.slot as usize];
        let last = lane.window.first().map_or(last.0, |cached| last.0.min(cached - 1));
        let want = Want { slot: self.slot, purpose: Purpose::Send, first: first.0, last, bytes_max };
        if lane.flags.raise(Flags::SEND_LOAD) {
            io.loads.want(want);
        } else if io.loads.next.is_none() {
            io.loads.next = Some(want);
        }
        Fit::Loading
    }
}

/// Adds up entries from `first` on while they fit; `None` if the first is not there.
fn measure(
    first: LogIndex,
    last: LogIndex,
    bytes_max: u32,
    len_of: impl Fn(u64) -> Option<u32>,
) -> Option<Fit> {
    let mut bytes = len_of(first.0)?;
    let mut count = 1;
    for index in first.0 + 1..=last.0 {
        let Some(len) = len_of(index) else { break };
        if bytes.saturating_add(len) > bytes_max {
            break;
        }
        bytes += len;
        count += 1;
    }
    Some(Fit::Ready { count, bytes })
}

impl<D: Disk> Sink for StepSink<'_, D> {
    #[inline(always)]
    fn strikes(&mut self, place: &'static str) -> bool {
        self.io.strikes(Point(place))
    }

    fn append(&mut self, to: Route, message: Append) {
        let slot = self.slot;
        let Some((link, remote)) = unpack(to) else { return };
        let Io { links, lanes, cache, loads, counters, .. } = &mut *self.io;
        let (link, lane) = (&mut links[link], &lanes[slot as usize]);
        if !link.has_room() {
            counters.dropped += 1;
            return;
        }
        let address = Address { slot: remote, history: lane.history };
        let first = message.prev_index.0 + 1;
        let entries = (first..first + u64::from(message.count)).map(|index| {
            cache.get(&lane.window, index).or_else(|| {
                let (header, payload) = loads.get(slot, Purpose::Send, index)?;
                Some((note_kind(header.note), payload.as_slice()))
            })
        });
        // `fit` has just said that they are at hand.
        let entries = entries.map(|entry| entry.expect("an append carries entries that were said to fit"));
        link.builder.append(address, &message, entries);
    }

    fn heartbeat(&mut self, to: Route, message: Heartbeat) {
        if let Some((link, address)) = self.out(to) {
            link.builder.heartbeat(address, &message);
        }
    }

    fn heartbeat_reply(&mut self, to: Route, message: HeartbeatReply) {
        self.park(to, ParkedBody::HeartbeatReply(message));
    }

    fn append_reply(&mut self, to: Route, message: AppendReply) {
        self.park(to, ParkedBody::AppendReply(message));
    }

    fn vote_request(&mut self, to: Route, message: VoteRequest) {
        if !message.pre_vote {
            self.park(to, ParkedBody::VoteRequest(message));
        } else if let Some((link, address)) = self.out(to) {
            link.builder.vote_request(address, &message);
        }
    }

    fn vote_reply(&mut self, to: Route, message: VoteReply) {
        if !message.pre_vote {
            self.park(to, ParkedBody::VoteReply(message));
        } else if let Some((link, address)) = self.out(to) {
            link.builder.vote_reply(address, &message);
        }
    }

    fn timeout_now(&mut self, to: Route, message: TimeoutNow) {
        if let Some((link, address)) = self.out(to) {
            link.builder.timeout_now(address, &message);
        }
    }

    fn read_index_request(&mut self, to: Route, message: ReadIndexRequest) {
        if let Some((link, address)) = self.out(to) {
            link.builder.read_index_request(address, &message);
        }
    }

    fn read_index_reply(&mut self, to: Route, message: ReadIndexReply) {
        if let Some((link, address)) = self.out(to) {
            link.builder.read_index_reply(address, &message);
        }
    }

    fn forwarded_reads_lost(&mut self) {
        self.io.effects.reads_lost = true;
    }

    fn support(&mut self, from: Route) -> Option<Support> {
        let (link, _) = unpack(from)?;
        self.io.links[link].support()
    }

    fn promised(&mut self, to: NodeId) -> Moment {
        let to_it = self.io.links.iter().filter(|link| link.node == to);
        to_it.map(Link::promised).max().unwrap_or(Moment(0))
    }

    fn withdraw_support(&mut self, from: NodeId) {
        self.io.links.iter_mut().filter(|link| link.node == from).for_each(Link::withdraw_support);
    }

    fn term_query(&mut self, to: Route, message: TermQuery) {
        if let Some((link, address)) = self.out(to) {
            link.builder.term_query(address, &message);
        }
    }

    fn term_report(&mut self, to: Route, message: TermReport) {
        self.park(to, ParkedBody::TermReport(message));
    }

    fn save_hard_state(&mut self, state: HardState) {
        self.io.write_state(self.slot, state);
    }

    fn append_empty(&mut self, index: LogIndex, term: Term, epoch: u32) {
        let commit = self.io.effects.commit;
        self.io.keep_entry(self.slot, index, EntryKind::Empty, &[]);
        self.io.write_vital(self.slot, Place { index, term, epoch, commit }, EntryKind::Empty, &[]);
    }

    fn append_membership(&mut self, index: LogIndex, term: Term, epoch: u32, membership: &Membership) {
        let (commit, payload) = (self.io.effects.commit, membership.encode());
        self.io.leave_joint(self.slot, index);
        self.io.keep_entry(self.slot, index, EntryKind::Config, &payload);
        self.io.write_vital(self.slot, Place { index, term, epoch, commit }, EntryKind::Config, &payload);
    }

    fn snapshot_wanted(&mut self, to: NodeId, route: Route, wanted: SnapshotWanted) {
        let slot = self.slot;
        self.io.queues.snapshots.push(SnapshotOrder::Wanted { slot, to, route, wanted });
    }

    fn snapshot_unneeded(&mut self, to: NodeId) {
        self.io.queues.snapshots.push(SnapshotOrder::Unneeded { slot: self.slot, to });
    }

    fn members_changed(&mut self, _index: LogIndex, _membership: &Membership) {
        self.io.effects.members_changed = true;
    }

    fn own_vote_written(&mut self, term: Term) {
        self.io.waiting.park(Parked::own_vote(self.slot, term));
    }

    fn committed(&mut self, commit: LogIndex) {
        self.io.effects.commit = commit;
        self.io.effects.committed = true;
    }

    fn reads_confirmed(&mut self, round: u64, index: LogIndex) {
        self.io.reads.confirm(self.slot as usize, round, index);
        self.io.queue_reads(self.slot);
    }

    fn leadership_lost(&mut self, _new_term: Term) {
        self.io.effects.lost = Some(self.io.effects.commit);
    }

    fn transfer_ended(&mut self, to: NodeId, end: TransferEnd) {
        self.io.end_transfer(self.slot, to, end);
    }

    fn takes_leadership(&mut self, node: NodeId) -> bool {
        self.io.takes_leadership(node)
    }

    fn role_changed(&mut self, role: Role, _leader: NodeId, _term: Term) {
        let io = &mut *self.io;
        let away = io.gives_away() || io.heal.is_wounded(self.slot);
        let flags = &mut io.lanes[self.slot as usize].flags;
        if flags.raise(Flags::LEADER_CHANGED) {
            io.queues.leader_changes.push(self.slot);
        }
        let preferred = io.preferred[self.slot as usize];
        let elsewhere = preferred.is_some() && preferred != io.me;
        let misplaced = role == Role::Leader && (elsewhere || away);
        if misplaced && flags.raise(Flags::MISPLACED) {
            io.queues.misplaced.push_back(self.slot);
        }
    }

    fn fit(&mut self, to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit {
        let Some((link, _)) = unpack(to) else { return Fit::Loading };
        let Io { links, lanes, cache, counters, .. } = &mut *self.io;
        let link = &mut links[link];
        if link.is_full() {
            link.wait(self.slot);
            counters.held_back += 1;
            return Fit::Loading;
        }
        let window = &lanes[self.slot as usize].window;
        match measure(first, last, bytes_max, |index| cache.len_of(window, index)) {
            Some(fit) => fit,
            None => self.fit_cold(first, last, bytes_max),
        }
    }
}
