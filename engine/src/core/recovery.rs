//! Reading a log back, and applying what is known to be committed, on top of the snapshots that were loaded before.
//!
//! What is at or below a group's snapshot is looked at for the terms and configurations of the log only: it is applied already.

use std::collections::VecDeque;

use logdrive_shard::{
    GroupId, HardState, InvalidMembership, LogEnd, LogIndex, LogState, Membership, NodeId, SnapshotMeta,
    Start, StartError, Term,
};
use logdrive_wal::{EntryHeader, OpenError, Recovery, StreamId};

use super::applier::Applier;
use super::gap::Gap;
use super::lives::{Life, life_of};
use super::record::{STATE_VERSION, decode_state, note_commit, note_kind};
use super::step::RECORD_BYTES;
use crate::api::StateMachine;
use crate::mutant;
use crate::wire::EntryKind;

/// An entry that is not known to be committed yet.
pub(super) struct TailEntry {
    pub(super) kind: EntryKind,
    pub(super) payload: Box<[u8]>,
    term: Term,
}

/// What is known of a group so far.
pub(super) struct Replayed {
    state: HardState,
    pub(super) history: u32,
    pub(super) fresh: bool,
    /// The state is one of the present life.
    has_state: bool,
    log: LogState,
    /// The snapshot that was loaded before the log is read; or, once the log has led on from there, where its present beginning found
    /// the state.
    base: Option<SnapshotMeta>,
    /// Handed to the state machine up to here, the snapshot included.
    pub(super) applied: u64,
    /// The term of the entry at `applied`.
    applied_term: Term,
    /// The log tells that it is committed up to here.
    commit: u64,
    /// Entries `applied + 1 ..= log.last`, unless the log is detached.
    pub(super) tail: VecDeque<TailEntry>,
    /// The log begins behind `applied + 1`: nothing of it can be applied.
    detached: bool,
    /// Entries behind `log.last` that were acknowledged are damaged: the log is cut there.
    gap: Option<Gap>,
    /// Entries behind the first and up to the second may have been replaced in a place that cannot be read: what later records call committed
    /// may be what replaced them.
    unsure: Option<(u64, u64)>,
    /// The newest term and vote may be lost.
    in_doubt: bool,
    /// The founding configuration, if this node knows it, and those in the log.
    memberships: Vec<(LogIndex, Membership)>,
    /// Which beginning of its log this is.
    pub(super) life: Life,
    /// Bytes of the entries behind the snapshot.
    pub(super) log_bytes: u64,
}

fn empty_log() -> LogState {
    LogState { first: LogIndex(1), last: LogIndex(0), ..LogState::default() }
}

impl Replayed {
    pub(super) fn new(history: u32, founders: &[NodeId]) -> Replayed {
        let founding = (!founders.is_empty()).then(|| {
            Membership::founding(founders).expect("the founders were checked when the node started")
        });
        Replayed {
            state: HardState::default(),
            history,
            fresh: true,
            has_state: false,
            log: empty_log(),
            base: None,
            applied: 0,
            applied_term: Term(0),
            commit: 0,
            tail: VecDeque::new(),
            detached: false,
            gap: None,
            unsure: None,
            in_doubt: false,
            memberships: founding.into_iter().map(|founding| (LogIndex(0), founding)).collect(),
            life: Life::default(),
            log_bytes: 0,
        }
    }

    /// A snapshot of this life was loaded.
    pub(super) fn on_snapshot(&mut self, life: u16, snapshot: SnapshotMeta) {
        self.fresh = false;
        self.life = Life { count: life, log: 0 };
        (self.applied, self.applied_term) = (snapshot.index.0, snapshot.term);
        self.base = Some(snapshot);
    }

    /// A later beginning of the log: what was in the one before is void. In another life of the group so is everything but term and vote.
    fn begin_anew(&mut self, life: Life) {
        let same_life = life.count == self.life.count;
        if same_life {
            self.rebase();
            self.memberships.retain(|known| known.0 == LogIndex(0));
        } else {
            self.base = None;
            (self.applied, self.applied_term, self.memberships) = (0, Term(0), Vec::new());
        }
        self.life = life;
        self.state.commit = LogIndex(0);
        self.commit = 0;
        self.log = empty_log();
        self.tail.clear();
        (self.gap, self.detached, self.fresh, self.log_bytes) = (None, false, false, 0);
        self.unsure = None;
    }

    fn base_index(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.index.0)
    }

    /// The configuration in force at `index`.
    fn membership_at(&self, index: u64) -> Option<(LogIndex, &Membership)> {
        let base = self.base.iter().map(|base| (base.membership_index, &base.membership));
        let known = self.memberships.iter().map(|known| (known.0, &known.1));
        known.chain(base).filter(|known| known.0.0 <= index).max_by_key(|known| known.0)
    }

    /// The state went on from the snapshot: it is as if there were one of where it is now. Its term is that of what was applied last: the log
    /// may be cut behind that, and then what it knows of terms is of later entries.
    fn rebase(&mut self) {
        let index = LogIndex(self.applied);
        if index.0 <= self.base_index() {
            return;
        }
        let term = self.applied_term;
        let Some((membership_index, membership)) = self.membership_at(self.applied) else { return };
        let membership = membership.clone();
        self.base = Some(SnapshotMeta { index, term, membership, membership_index });
    }

    /// What the group starts with: snapshot and log joined.
    pub(super) fn start(&mut self) -> Result<Start, StartError> {
        let reached = self.log.first.0 <= self.applied + 1;
        if reached && self.base_index() + 1 < self.log.first.0 {
            // An older snapshot than the one that the log was cut for; but all that was cut off was still there to be read.
            self.rebase();
        }
        if self.log.last.0 < self.applied {
            // What is applied was being written again when the process ended.
            self.rebase();
        }
        Start::join(self.base.as_ref(), self.log.clone(), self.hard_state(), self.memberships.clone())
    }

    /// What the group starts with when snapshot and log do not belong together: the snapshot alone, if it can be trusted and there is
    /// one, and the knowledge of how far the log once went.
    pub(super) fn start_without_log(&mut self, trusts_snapshot: bool) -> Start {
        if trusts_snapshot {
            // What is committed and was read before the log was cut is in the state already.
            self.rebase();
        } else {
            self.base = None;
        }
        let mut hard_state = self.hard_state();
        let last = self.log.term_runs.last().map_or(self.log.prev_term, |run| run.1);
        let term = if last.0 > 0 { last } else { hard_state.term };
        let floor = LogEnd { term, index: self.log.last };
        hard_state.lost.log = hard_state.lost.log.max(Some(floor));
        let base = self.base.as_ref();
        let (index, prev_term) = base.map_or_else(Default::default, |base| (base.index, base.term));
        let founding = self.memberships.iter().find(|known| known.0 == LogIndex(0)).cloned();
        let own = base.map(|base| (base.membership_index, base.membership.clone()));
        hard_state.commit = index;
        hard_state.term = hard_state.term.max(prev_term);
        self.tail.clear();
        (self.applied, self.applied_term) = (index.0, prev_term);
        Start {
            log: LogState { first: index.next(), last: index, prev_term, term_runs: Vec::new() },
            hard_state,
            applied: index,
            memberships: own.or(founding).into_iter().collect(),
            log_is_void: true,
        }
    }

    /// The term that the log tells of.
    pub(super) fn saved_term(&self) -> Term {
        self.state.term
    }

    /// The last entry of the log as it was found.
    pub(super) fn log_last(&self) -> LogIndex {
        self.log.last
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
        if self.log.last < self.log.first && index > self.log.last.0 + 1 {
            // The first one that is left of the log.
            (self.log.first, self.log.last) = (LogIndex(index), LogIndex(index - 1));
            self.log.prev_term = Term(0);
            self.detached = index > self.applied + 1;
        }
        assert!(
            index <= self.log.last.0 + 1 && self.may_replace(index, Term(header.tag)),
            "group {group}: entry {index} of term {} after {} with {} committed",
            header.tag,
            self.log.last,
            self.applied
        );
        self.cut(index);
        if index < self.log.first.0 {
            // It was damaged, a snapshot stands for it, and the leader sent it again all the same: the log begins with it.
            (self.log.first, self.log.prev_term) = (LogIndex(index), Term(0));
        }
        self.log.last = LogIndex(index);
        let runs = &mut self.log.term_runs;
        if runs.last().is_none_or(|run| run.1.0 != header.tag) {
            runs.push((LogIndex(index), Term(header.tag)));
        } else if self.unsure.is_some_and(|unsure| unsure.1 + 1 == index) {
            // Both are of one leader: whoever has this entry has the one before it, and all before that (Log Matching). Without this a
            // group would hold back all that follows a hole, which may be long.
            self.unsure = None;
        }
        let kind = note_kind(header.note);
        let is_known = self.memberships.last().is_some_and(|newest| newest.0.0 >= index);
        if kind == EntryKind::Config && !is_known {
            self.memberships.push((LogIndex(index), Membership::decode(payload)?));
        }
        if index > self.applied && !self.detached {
            self.tail.push_back(TailEntry { kind, payload: payload.into(), term: Term(header.tag) });
            self.log_bytes += payload.len() as u64 + RECORD_BYTES;
        }
        self.commit = self.commit.max(note_commit(header.note).0);
        Ok(())
    }

    /// Bytes of whatever streams were lost here: an entry that is not known to be committed may have been replaced.
    fn unknown_lost(&mut self) {
        let known = self.unsure.map_or(self.commit.max(self.applied), |unsure| unsure.0);
        self.unsure = (known < self.log.last.0).then_some((known, self.log.last.0));
    }

    /// How far what is known to be committed may be applied.
    fn sure_until(&self) -> u64 {
        let known = self.unsure.filter(|unsure| self.applied <= unsure.1).map_or(u64::MAX, |unsure| unsure.0);
        self.commit.min(self.log.last.0).min(known)
    }

    /// Entries `first ..= last` were acknowledged and cannot be read. What a follower needs is an unbroken log: it is cut before
    /// them, and the group is told how far it once went.
    fn damaged(&mut self, first: u64, last: u64) {
        self.fresh = false;
        let base = self.base_index();
        if self.log.last.0 < base && first <= base {
            // What the snapshot stands for is not missing.
            let prev_term =
                if last >= base { self.base.as_ref().map_or(Term(0), |base| base.term) } else { Term(0) };
            let index = LogIndex(last.min(base));
            self.log = LogState { first: index.next(), last: index, prev_term, term_runs: Vec::new() };
        }
        if last <= base {
            return;
        }
        let first = if self.went_on() { first } else { first.max(self.applied + 1) };
        let first = first.max(self.log.first.0);
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
        self.close_gap(group)
    }

    /// If all that was missing behind the log is there now, the log goes on.
    fn close_gap(&mut self, group: GroupId) -> Result<(), InvalidMembership> {
        let last = self.log.last.0;
        let Some(gap) = self.gap.as_mut().filter(|gap| gap.last != u64::MAX && gap.last > last) else {
            return Ok(());
        };
        // What was cut off meanwhile, or is in a snapshot, is no part of it.
        gap.held = gap.held.split_off(&(last + 1));
        if gap.held.len() as u64 != gap.last - last {
            return Ok(());
        }
        let held = std::mem::take(&mut gap.held);
        self.gap = None;
        for (header, payload) in held.into_values() {
            self.entry(group, header, &payload)?;
        }
        Ok(())
    }

    /// Entries of this log are applied: it is what is committed, up to there.
    fn went_on(&self) -> bool {
        self.applied > self.base_index()
    }

    /// Whether an entry of the log may be an entry of this term. What is committed may come once more, as it was: if the disk could not
    /// read it at an earlier start, the log was cut there and the leader sent it again; now the disk can. The state keeps what it
    /// has; and if the log ends before that, it is as if a snapshot were ahead of it.
    fn may_replace(&self, index: u64, term: Term) -> bool {
        if index > self.applied || !self.went_on() {
            return true;
        }
        let run = self.log.term_runs.iter().rfind(|run| run.0.0 <= index);
        run.filter(|_| index <= self.log.last.0).is_none_or(|run| run.1 == term)
    }

    /// Takes the log back before `index`. Configurations that were applied stay.
    fn cut(&mut self, index: u64) {
        self.tail.truncate(index.saturating_sub(self.applied + 1) as usize);
        self.unsure = self
            .unsure
            .map(|(known, last)| (known, last.min(index - 1)))
            .filter(|(known, last)| known < last);
        let committed = if self.went_on() { self.applied } else { 0 };
        while self.memberships.last().is_some_and(|newest| newest.0.0 >= index && newest.0.0 > committed) {
            self.memberships.pop();
        }
        self.log.last = LogIndex(index - 1);
        while self.log.term_runs.last().is_some_and(|run| run.0.0 >= index) {
            self.log.term_runs.pop();
        }
    }

    /// The hard state that the group starts with, and what it lost.
    pub(super) fn hard_state(&self) -> HardState {
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

    /// What is cut off within the log was committed: a snapshot stood for it. (One that took the place of the log, or ends it, is
    /// noted behind the last entry, or in a stream whose successor is known by then.)
    fn committed_if_cut(&mut self, index: u64) {
        if index <= self.log.last.0 {
            self.commit = self.commit.max(index);
        }
    }

    /// Entries up to `index` are gone.
    fn compacted(&mut self, index: u64) {
        let went_on = self.went_on();
        let log = &mut self.log;
        if index < log.first.0 {
            return;
        }
        let run = log.term_runs.iter().rev().find(|run| run.0.0 <= index);
        // The term of an entry that was never here is not known: a snapshot took its place.
        let is_known = index <= log.last.0;
        if !is_known {
            // Nor are those of its configurations right that were not committed: the snapshot may have parted from this log before them.
            let applied = if went_on { self.applied } else { 0 };
            let committed = self.commit.min(log.last.0).max(applied);
            self.memberships.retain(|known| known.0.0 <= committed);
        }
        log.prev_term = run.filter(|_| is_known).map_or(Term(0), |run| run.1);
        log.first = LogIndex(index + 1);
        log.last = log.last.max(LogIndex(index));
        let kept = log.term_runs.partition_point(|run| run.0.0 <= index + 1).saturating_sub(1);
        log.term_runs.drain(..kept);
        match log.term_runs.first_mut() {
            Some(run) if log.last >= log.first => run.0 = run.0.max(log.first),
            _ => log.term_runs.clear(),
        }
        if index > self.applied {
            self.detached = true;
            self.tail.clear();
        }
    }
}

/// Receives the log's records.
pub(super) struct Replay<'a, M> {
    pub(super) ids: &'a [GroupId],
    pub(super) sorted: &'a [(GroupId, u32)],
    pub(super) groups: Vec<Replayed>,
    pub(super) applier: Applier<M>,
    /// Records of groups that do not live here.
    pub(super) strangers: u64,
    /// A state that this software does not understand.
    pub(super) unknown: Option<OpenError>,
    pub(super) progress: &'a mut dyn FnMut(u64, u64),
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
            if life.count > self.groups[at].life.count {
                // The node was no member any more: what it had of the group is void.
                self.applier.forget(self.ids, slot);
            }
            self.groups[at].begin_anew(life);
        }
        (life == self.groups[at].life).then_some(at)
    }

    /// Something that this software does not understand.
    fn refuse(&mut self, stream: StreamId, bytes: &[u8]) {
        let found = bytes.first().copied().unwrap_or(0);
        self.unknown = Some(OpenError::State { stream: stream.0, found, supported: STATE_VERSION });
    }

    /// Everything was read, and what may have been replaced is cut off: what is left is what it was.
    pub(super) fn finish(&mut self) {
        for slot in 0..self.groups.len() {
            if self.groups[slot].unsure.take().is_some() {
                self.advance(slot);
            }
        }
    }

    /// Applies what is known to be committed of a group.
    fn advance(&mut self, slot: usize) {
        let group = &mut self.groups[slot];
        while !group.detached && group.applied < group.sure_until() {
            let Some(entry) = group.tail.pop_front() else { break };
            group.applied += 1;
            group.applied_term = entry.term;
            self.applier.push(self.ids, slot as u32, group.applied, &entry);
        }
    }
}

impl<M: StateMachine> Recovery for Replay<'_, M> {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        if let Some(slot) = self.slot(stream) {
            if self.groups[slot].entry(self.ids[slot], header, payload).is_err() {
                return self.refuse(stream, payload);
            }
            self.advance(slot);
        }
    }

    fn state(&mut self, stream: StreamId, state: &[u8]) {
        let (group, life) = life_of(stream);
        let known = super::find(self.sorted, group).map(|slot| slot as usize);
        if let Some(slot) = known.filter(|&slot| life < self.groups[slot].life) {
            // A snapshot of the present life was loaded, and nothing of it has been read yet: term and vote go on from life to life.
            if let Some((state, history)) = decode_state(state).filter(|_| !self.groups[slot].has_state) {
                let group = &mut self.groups[slot];
                group.state = HardState { commit: LogIndex(0), ..state };
                group.history = history;
            }
            return;
        }
        let Some(slot) = self.slot(stream) else { return };
        let Some((state, history)) = decode_state(state) else {
            return self.refuse(stream, state);
        };
        let group = &mut self.groups[slot];
        (group.fresh, group.has_state) = (false, true);
        group.state = state;
        group.history = history;
        if group.unsure.is_some() && state.lost.log.is_some() {
            // An earlier start found out that entries were lost, and kept what it was sure of: what had been called committed before
            // may be what was lost, and the entries that it did not keep can still be read.
            group.commit = group.applied;
        }
        group.commit = group.commit.max(state.commit.0);
        self.advance(slot);
    }

    fn compacted(&mut self, stream: StreamId, index: u64) {
        if let Some(slot) = self.slot(stream) {
            // Entries that can still be read make up for a snapshot that is damaged.
            self.groups[slot].committed_if_cut(index);
            self.advance(slot);
            self.groups[slot].compacted(index);
            if self.groups[slot].close_gap(self.ids[slot]).is_err() {
                return self.refuse(stream, &[]);
            }
            self.advance(slot);
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
                return self.refuse(stream, payload);
            }
            self.advance(slot);
        }
    }

    fn unknown_lost_here(&mut self) {
        self.groups.iter_mut().for_each(Replayed::unknown_lost);
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

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
