//! Opening a core: reading its log back, applying what is known to be committed, making the groups.

use std::collections::VecDeque;

use logdrive_shard::{
    Group, GroupId, HardState, InvalidMembership, LogEnd, LogIndex, LogState, Membership, Moment, NodeId,
    Random, Setup, Term,
};
use logdrive_wal::{Disk, EntryHeader, OpenError, Recovery, StreamId, Wal};

use super::balance::Balance;
use super::cache::Cache;
use super::gap::Gap;
use super::heal::Heal;
use super::lane::{Flags, Lane};
use super::loads::Loads;
use super::parked::Waiting;
use super::record::{STATE_VERSION, decode_state, first_history, note_commit, note_kind};
use super::requests::{Ports, Proposals, Reads};
use super::retire::{life_of, stream_of};
use super::room::Room;
use super::sessions::Sessions;
use super::status::Counters;
use super::step::{Effects, Io, Queues};
use super::timers::TimerWheel;
use super::waits::{LeaseReads, LocalReads};
use super::{Core, CoreOptions, GroupSetup, Scratch};
use crate::api::{ApplyEntry, CoreSettings, Replies, StateMachine};
use crate::mutant;
use crate::wire::{EntryKind, FRAME_BYTES_MAX};

/// Payload bytes applied in one call while the log is read back.
const REPLAY_BYTES: usize = 256 << 10;

/// An entry that is not known to be committed yet.
struct TailEntry {
    kind: EntryKind,
    payload: Box<[u8]>,
}

/// What is known of a group so far.
struct Replayed {
    state: HardState,
    history: u32,
    fresh: bool,
    log: LogState,
    /// Handed to the state machine up to here.
    applied: u64,
    /// Known to be committed up to here.
    commit: u64,
    /// Entries `applied + 1 ..= log.last`.
    tail: VecDeque<TailEntry>,
    /// Entries behind `log.last` that were acknowledged are damaged: the log is cut there.
    gap: Option<Gap>,
    /// The newest term and vote may be lost.
    in_doubt: bool,
    /// The founding configuration, if this node knows it, and those in the log.
    memberships: Vec<(LogIndex, Membership)>,
    /// How often the group began anew here.
    life: u32,
}

impl Replayed {
    fn new(history: u32, founders: &[NodeId]) -> Replayed {
        let founding = (!founders.is_empty()).then(|| {
            Membership::founding(founders).expect("the founders were checked when the node started")
        });
        Replayed {
            state: HardState::default(),
            history,
            fresh: true,
            log: LogState { first: LogIndex(1), last: LogIndex(0), ..LogState::default() },
            applied: 0,
            commit: 0,
            tail: VecDeque::new(),
            gap: None,
            in_doubt: false,
            memberships: founding.into_iter().map(|founding| (LogIndex(0), founding)).collect(),
            life: 0,
        }
    }

    /// Takes the next entry; one at or below an earlier index replaces the log from there on.
    fn entry(
        &mut self,
        group: GroupId,
        header: EntryHeader,
        payload: &[u8],
    ) -> Result<(), InvalidMembership> {
        let index = header.index;
        self.fresh = false;
        if index > self.log.last.0 + 1
            && let Some(gap) = &mut self.gap
        {
            // Behind the damage. It cannot be used without what is missing, but it was acknowledged.
            (gap.last, gap.term) = (index, Some(Term(header.tag)));
            gap.held.split_off(&index);
            gap.hold(header, payload);
            return Ok(());
        }
        self.gap = None;
        assert!(
            index > self.applied && index <= self.log.last.0 + 1,
            "group {group}: entry {index} after {} with {} committed",
            self.log.last,
            self.applied
        );
        self.cut(index);
        self.log.last = LogIndex(index);
        let runs = &mut self.log.term_runs;
        if runs.last().is_none_or(|run| run.1.0 != header.tag) {
            runs.push((LogIndex(index), Term(header.tag)));
        }
        let kind = note_kind(header.note);
        if kind == EntryKind::Config {
            self.memberships.push((LogIndex(index), Membership::decode(payload)?));
        }
        self.tail.push_back(TailEntry { kind, payload: payload.into() });
        self.commit = self.commit.max(note_commit(header.note).0);
        Ok(())
    }

    /// Entries `first ..= last` were acknowledged and cannot be read. What a follower needs is an unbroken log: it is cut before
    /// them, and the group is told how far it once went.
    fn damaged(&mut self, first: u64, last: u64) {
        self.fresh = false;
        let first = first.max(self.applied + 1);
        if first <= self.log.last.0 {
            self.cut(first);
        }
        let gap = self.gap.get_or_insert_default();
        gap.held.split_off(&first);
        if last > gap.last {
            (gap.last, gap.term) = (last, None);
        }
    }

    /// An entry that was damaged was put back later. With the last one that is missing the log goes on to its end.
    fn repaired(
        &mut self,
        group: GroupId,
        header: EntryHeader,
        payload: &[u8],
    ) -> Result<(), InvalidMembership> {
        let Some(gap) = self.gap.as_mut().filter(|gap| gap.last != u64::MAX) else { return Ok(()) };
        if header.index <= self.log.last.0 || header.index > gap.last {
            return Ok(());
        }
        gap.hold(header, payload);
        if gap.held.len() as u64 != gap.last - self.log.last.0 {
            return Ok(());
        }
        let held = std::mem::take(&mut gap.held);
        self.gap = None;
        for (header, payload) in held.into_values() {
            self.entry(group, header, &payload)?;
        }
        Ok(())
    }

    /// Takes the log back before `index`, which is not applied.
    fn cut(&mut self, index: u64) {
        self.tail.truncate((index - self.applied - 1) as usize);
        while self.memberships.last().is_some_and(|newest| newest.0.0 >= index) {
            self.memberships.pop();
        }
        self.log.last = LogIndex(index - 1);
        while self.log.term_runs.last().is_some_and(|run| run.0.0 >= index) {
            self.log.term_runs.pop();
        }
    }

    /// The hard state that the group starts with, and what it lost.
    fn hard_state(&self) -> HardState {
        let log = &self.log;
        let mut state = self.state;
        if mutant::LOSS_UNNOTICED {
            state.commit = LogIndex(self.commit.min(log.last.0));
            return state;
        }
        let found = self.gap.as_ref().map(|gap| LogEnd {
            // The term of an entry that cannot be read is at most the one of the hard state.
            term: gap.term.unwrap_or(state.term).max(log.term_runs.last().map_or(Term(0), |run| run.1)),
            index: LogIndex(gap.last),
        });
        state.lost.log = state.lost.log.max(found);
        state.lost.state |= self.in_doubt;
        if state.lost.state {
            state.term = state.term.max(log.term_runs.last().map_or(log.prev_term, |run| run.1));
        }
        state.commit = LogIndex(self.commit.min(log.last.0)).max(state.commit);
        if state.lost.log.is_some() {
            state.commit = state.commit.min(log.last);
        }
        state
    }

    /// Entries up to `index` are gone.
    fn compacted(&mut self, index: u64) {
        let log = &mut self.log;
        if index < log.first.0 {
            return;
        }
        let run = log.term_runs.iter().rev().find(|run| run.0.0 <= index);
        log.prev_term = run.map_or(log.prev_term, |run| run.1);
        log.first = LogIndex(index + 1);
        log.last = log.last.max(LogIndex(index));
        let kept = log.term_runs.partition_point(|run| run.0.0 <= index + 1).saturating_sub(1);
        log.term_runs.drain(..kept);
        match log.term_runs.first_mut() {
            Some(run) if log.last >= log.first => run.0 = run.0.max(log.first),
            _ => log.term_runs.clear(),
        }
    }
}

/// Applies in large batches.
struct Applier<M> {
    machine: M,
    bytes: Vec<u8>,
    /// Slot, index, end of the payload in `bytes`.
    entries: Vec<(u32, u64, usize)>,
    replies: Replies,
    sessions: Sessions,
    now: Moment,
    applied: u64,
}

impl<M: StateMachine> Applier<M> {
    fn new(machine: M, slots: usize, now: Moment) -> Applier<M> {
        let (replies, sessions) = (Replies::default(), Sessions::new(slots));
        Applier { machine, bytes: Vec::new(), entries: Vec::new(), replies, sessions, now, applied: 0 }
    }

    fn push(&mut self, ids: &[GroupId], slot: u32, index: u64, entry: &TailEntry) {
        let payload = match entry.kind {
            EntryKind::Payload => &entry.payload[..],
            EntryKind::Session => {
                match self.sessions.admit(slot, index, &entry.payload, self.entries.len(), self.now) {
                    Some(command) => command,
                    None => return,
                }
            }
            EntryKind::Empty | EntryKind::Config => return,
        };
        self.bytes.extend_from_slice(payload);
        self.entries.push((slot, index, self.bytes.len()));
        if self.bytes.len() + self.entries.len() * 64 >= REPLAY_BYTES {
            self.flush(ids);
        }
    }

    /// What was applied of a group is void.
    fn forget(&mut self, ids: &[GroupId], slot: u32) {
        self.flush(ids);
        self.machine.forget(slot);
        self.sessions.forget(slot);
    }

    fn flush(&mut self, ids: &[GroupId]) {
        let mut start = 0;
        let entries = self.entries.iter().map(|&(slot, index, end)| {
            let payload = &self.bytes[start..end];
            start = end;
            ApplyEntry { slot, group: ids[slot as usize], index: LogIndex(index), payload }
        });
        let entries: Vec<_> = entries.collect();
        if !entries.is_empty() {
            self.machine.apply(&entries, &mut self.replies);
        }
        if self.sessions.has_unsettled() {
            // Nobody waits for the answers; the replies are kept as they were in the life before.
            for n in 0..entries.len() {
                while self.sessions.next_before(n).is_some() {}
                self.sessions.executed(n, self.replies.get(n));
            }
            while self.sessions.next_before(entries.len()).is_some() {}
            self.sessions.end_batch();
        }
        self.applied += entries.len() as u64;
        self.replies.clear();
        self.entries.clear();
        self.bytes.clear();
    }
}

/// Receives the log's records.
struct Replay<'a, M> {
    ids: &'a [GroupId],
    sorted: &'a [(GroupId, u32)],
    groups: Vec<Replayed>,
    applier: Applier<M>,
    /// Records of groups that do not live here.
    strangers: u64,
    /// A state that this software does not understand.
    unknown: Option<OpenError>,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<M: StateMachine> Replay<'_, M> {
    /// The slot of a stream; `None` for groups that do not live here, and for lives of groups that are over.
    fn slot(&mut self, stream: StreamId) -> Option<usize> {
        let (group, life) = life_of(stream);
        let Some(slot) = super::find(self.sorted, group) else {
            self.strangers += 1;
            return None;
        };
        let at = slot as usize;
        if life > self.groups[at].life {
            // The node was no member any more: what it had of the group is void.
            self.applier.forget(self.ids, slot);
            self.groups[at] = Replayed { life, ..Replayed::new(self.groups[at].history, &[]) };
        }
        (life == self.groups[at].life).then_some(at)
    }

    /// Applies what is known to be committed of a group.
    fn advance(&mut self, slot: usize) {
        let group = &mut self.groups[slot];
        while group.applied < group.commit.min(group.log.last.0) {
            let Some(entry) = group.tail.pop_front() else { break };
            group.applied += 1;
            self.applier.push(self.ids, slot as u32, group.applied, &entry);
        }
    }
}

impl<M: StateMachine> Recovery for Replay<'_, M> {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        if let Some(slot) = self.slot(stream) {
            if self.groups[slot].entry(self.ids[slot], header, payload).is_err() {
                let found = payload.first().copied().unwrap_or(0);
                self.unknown = Some(OpenError::State { stream: stream.0, found, supported: STATE_VERSION });
                return;
            }
            self.advance(slot);
        }
    }

    fn state(&mut self, stream: StreamId, state: &[u8]) {
        let Some(slot) = self.slot(stream) else { return };
        let Some((state, history)) = decode_state(state) else {
            let found = state.first().copied().unwrap_or(0);
            self.unknown = Some(OpenError::State { stream: stream.0, found, supported: STATE_VERSION });
            return;
        };
        let group = &mut self.groups[slot];
        group.fresh = false;
        group.state = state;
        group.history = history;
        group.commit = group.commit.max(state.commit.0);
        self.advance(slot);
    }

    fn compacted(&mut self, stream: StreamId, index: u64) {
        if let Some(slot) = self.slot(stream) {
            self.groups[slot].compacted(index);
        }
    }

    fn damaged(&mut self, stream: StreamId, first: u64, last: u64) {
        if let Some(slot) = self.slot(stream) {
            self.groups[slot].damaged(first, last);
        }
    }

    fn repaired(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        if let Some(slot) = self.slot(stream) {
            if self.groups[slot].repaired(self.ids[slot], header, payload).is_err() {
                let found = payload.first().copied().unwrap_or(0);
                self.unknown = Some(OpenError::State { stream: stream.0, found, supported: STATE_VERSION });
                return;
            }
            self.advance(slot);
        }
    }

    fn state_in_doubt(&mut self, stream: StreamId) {
        if let Some(slot) = self.slot(stream) {
            self.groups[slot].fresh = false;
            self.groups[slot].in_doubt = true;
        }
    }

    fn streams_unknown(&mut self) {
        for group in self.groups.iter_mut().filter(|group| group.fresh) {
            group.damaged(1, u64::MAX);
            group.in_doubt = true;
        }
    }

    fn progress(&mut self, done: u64, total: u64) {
        (self.progress)(done, total);
    }
}

/// Settings that fit each other whatever was asked for.
fn clamp(mut settings: CoreSettings) -> CoreSettings {
    settings.payload_bytes_max = settings.payload_bytes_max.min(settings.wal.payload_bytes_max);
    // A frame never outgrows its limit: the outbox, one append on top of it, and messages without payload.
    let largest = u64::from(settings.payload_bytes_max.max(settings.shard.append_bytes_max));
    let room = (FRAME_BYTES_MAX as u64 - (2 << 20)).saturating_sub(largest);
    settings.outbox_bytes_max = settings.outbox_bytes_max.clamp(1, room.max(1));
    settings
}

impl<D: Disk> Io<D> {
    fn new(
        now: Moment,
        me: NodeId,
        settings: CoreSettings,
        wal: Wal<D>,
        lanes: Vec<Lane>,
        preferred: Vec<NodeId>,
        applied: u64,
    ) -> Io<D> {
        Io {
            me,
            now,
            wal,
            streams: lanes.iter().map(|lane| lane.stream).collect(),
            preferred,
            cache: Cache::new(settings.cache_bytes_max),
            loads: Loads::default(),
            links: Vec::new(),
            waiting: Waiting::default(),
            proposals: Proposals::default(),
            reads: Reads::new(lanes.len()),
            lease_reads: LeaseReads::default(),
            local_reads: LocalReads::default(),
            ports: Ports::default(),
            requests: 0,
            request_bytes: 0,
            queues: Queues::default(),
            unwritten: Vec::new(),
            changes: Vec::new(),
            transfers: Vec::new(),
            handing_over: false,
            draining: false,
            heal: Heal::new(),
            effects: Effects::default(),
            counters: Counters { applied, ..Counters::default() },
            lanes,
            settings,
        }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Opens the log, replays what is known committed into `machine`, and creates the groups. Blocks on the disk: start-up.
    pub fn open(
        now: Moment,
        options: CoreOptions,
        disk: D,
        mut machine: M,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let settings = clamp(options.settings);
        let ids: Vec<GroupId> = options.groups.iter().map(|group| group.id).collect();
        let mut sorted: Vec<(GroupId, u32)> =
            ids.iter().enumerate().map(|(slot, &id)| (id, slot as u32)).collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[0].0 != pair[1].0), "a group is named twice");
        machine.open(&ids);
        let mut replay = Replay {
            ids: &ids,
            sorted: &sorted,
            groups: options
                .groups
                .iter()
                .map(|group| Replayed::new(first_history(options.cluster, group.id), &group.founders))
                .collect(),
            applier: Applier::new(machine, ids.len(), now),
            strangers: 0,
            unknown: None,
            progress,
        };
        let mut wal = Wal::open(disk, settings.wal.clone(), now.0, &mut replay)?;
        if let Some(unknown) = replay.unknown {
            return Err(unknown);
        }
        replay.applier.flush(&ids);
        if replay.strangers > 0 {
            tracing::warn!(records = replay.strangers, "the log has records of groups that do not live here");
        }
        let Replay { groups: replayed, applier, .. } = replay;

        let lanes = ids
            .iter()
            .zip(&replayed)
            .map(|(id, group)| (wal.stream(stream_of(*id, group.life)), group))
            .map(|(stream, group)| Lane::new(stream, group.history, LogIndex(group.applied)));
        let lanes: Vec<Lane> = lanes.collect();
        let prefers = |group: &GroupSetup| group.preferred_leader.is_some() || group.founders.is_empty();
        let prefers = options.groups.iter().map(prefers).collect();
        let preferred = options.groups.iter().map(|group| group.preferred_leader).collect();
        let config = settings.shard.clone();
        let room = Room::new(&settings, wal.space().budget_bytes);
        let mut core = Core {
            core: options.core,
            boot: options.boot,
            prefers,
            lives: replayed.iter().map(|group| group.life).collect(),
            retiring: VecDeque::new(),
            groups: Vec::with_capacity(ids.len()),
            random: Random::new(options.seed),
            timers: TimerWheel::new(now, ids.len() as u32),
            io: Io::new(now, options.node, settings, wal, lanes, preferred, applier.applied),
            ids,
            sorted,
            config,
            machine: applier.machine,
            sessions: applier.sessions,
            balance: Balance::new(),
            room,
            next_pulse: Moment::NEVER,
            next_log_retry: Moment::NEVER,
            log_news: false,
            scratch: Scratch::default(),
        };
        for (slot, group) in replayed.into_iter().enumerate() {
            core.create_group(slot as u32, group);
        }
        Ok(core)
    }

    fn create_group(&mut self, slot: u32, replayed: Replayed) {
        let at = slot as usize;
        let hard_state = replayed.hard_state();
        let setup = Setup {
            me: self.io.me,
            memberships: &replayed.memberships,
            hard_state,
            log: &replayed.log,
            applied: LogIndex(replayed.applied),
            fresh: replayed.fresh,
            preferred_leader: self.io.preferred[at],
            priorities: &self.io.settings.priorities,
        };
        let group = Group::new(self.io.now, &self.config, &mut self.random, &setup);
        let deadline = group.next_deadline();
        if deadline != Moment::NEVER {
            self.timers.arm(slot, deadline);
        }
        self.groups.push(group);
        if hard_state.lost.is_any() {
            self.write_losses(slot, hard_state);
        }
        self.prefer_a_voter(slot);
        self.maybe_retire(slot);
        // What is not known to be committed is what will be asked for first.
        for (n, entry) in replayed.tail.into_iter().enumerate() {
            let index = LogIndex(replayed.applied + 1 + n as u64);
            self.io.keep_entry(slot, index, entry.kind, &entry.payload);
        }
    }

    /// What a group lost is written down before the group does anything: the log tells of damage only until something replaces it.
    fn write_losses(&mut self, slot: u32, state: HardState) {
        let (id, lost) = (self.ids[slot as usize], state.lost);
        tracing::error!(
            group = id.0,
            %lost,
            "the disk lost something that this node had acknowledged for the group; until the other members have made up for it, \
             this node neither leads the group nor elects a leader who lacks it. Check the disk"
        );
        self.io.write_state(slot, state);
        let lane = &self.io.lanes[slot as usize];
        if !lane.flags.has(Flags::UNWRITTEN)
            && let Err(error) = self.io.wal.heal(lane.stream)
        {
            // The next start finds the same again.
            tracing::warn!(group = id.0, %error, "the log keeps its verdict");
        }
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
