//! One member as its caller keeps it: the group, the log in memory, the journal of writes under way, the disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::Hash;

use super::pulses::Pulses;
use super::says::says;
use logdrive_shard::{
    Append, AppendReply, Fit, Group, HardState, Heartbeat, HeartbeatReply, LogEnd, LogIndex, LogState,
    Membership, Moment, NodeId, ReadIndexReply, ReadIndexRequest, Role, Route, Sink, SnapshotWanted, Support,
    Term, TermQuery, TermReport, TimeoutNow, VoteReply, VoteRequest,
};

use super::snapshots::Snapshot;

/// An entry: `data` stands for its payload and is unique per proposal (0: a no-op).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub term: Term,
    pub data: u32,
    /// Of a configuration entry. There are few, and they are kept for good, so that an entry can be copied.
    pub members: Option<&'static Membership>,
}

/// A message as the caller would frame it.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Message {
    Append(Append, Vec<Entry>),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    VoteRequest(VoteRequest),
    VoteReply(VoteReply),
    TimeoutNow(TimeoutNow),
    ReadIndexRequest(ReadIndexRequest),
    ReadIndexReply(ReadIndexReply),
    /// A snapshot with all its bytes, under the term of the leader that sends it.
    Snapshot(Term, Snapshot),
    TermQuery(TermQuery),
    TermReport(TermReport),
}

/// Something written.
#[derive(Clone, Debug, Hash)]
pub enum Write {
    Entries {
        first: u64,
        entries: Vec<Entry>,
        epoch: u32,
    },
    HardState(HardState),
    OwnVote(Term),
    /// Entries up to here are gone.
    Compact(LogIndex),
    /// The log is these entries, all of them part of a snapshot.
    Replace(Vec<Entry>),
}

/// The writes of a step, and the messages that wait for them.
#[derive(Clone, Debug, Default, Hash)]
pub struct Batch {
    pub writes: Vec<Write>,
    pub parked: Vec<(usize, Message)>,
}

/// What survives a crash.
#[derive(Clone, Debug, Default, Hash)]
pub struct Disk {
    pub log: Vec<Entry>,
    pub hard_state: HardState,
    /// The log begins behind so many entries.
    pub base: usize,
    pub snapshot: Option<Snapshot>,
    /// The hard state before, in models whose disks may lose the newest one.
    pub older_state: Option<HardState>,
}

impl Disk {
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Entries { first, entries, .. } => {
                    assert!(*first as usize <= self.log.len() + 1, "a gap in the log on disk before {first}");
                    self.log.truncate(*first as usize - 1);
                    self.log.extend_from_slice(entries);
                }
                Write::HardState(state) => {
                    if let Some(older) = &mut self.older_state {
                        *older = self.hard_state;
                    }
                    self.hard_state = *state;
                }
                Write::OwnVote(_) => {}
                Write::Compact(index) => self.base = self.base.max(index.0 as usize),
                Write::Replace(entries) => {
                    self.log.clone_from(entries);
                    self.base = entries.len();
                }
            }
        }
    }

    /// The log behind `keep` is unreadable, and if `state` the newest hard state as well. What a caller would find is written down.
    pub fn damage(&mut self, keep: usize, state: bool) {
        let term_of = |log: &[Entry]| log.last().map_or(Term(0), |entry| entry.term);
        if keep < self.log.len() {
            let end = LogEnd { term: term_of(&self.log), index: LogIndex(self.log.len() as u64) };
            self.log.truncate(keep);
            self.hard_state.lost.log = Some(end);
        }
        let lost = self.hard_state.lost;
        if let Some(older) = self.older_state.filter(|_| state) {
            self.hard_state = older;
            self.hard_state.lost.log = lost.log;
            self.hard_state.lost.state = true;
        }
        self.hard_state.term = self.hard_state.term.max(term_of(&self.log));
        self.hard_state.commit = self.hard_state.commit.min(LogIndex(self.log.len() as u64));
    }

    pub fn log_state(&self) -> LogState {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for (at, entry) in self.log.iter().enumerate().skip(self.base) {
            if term_runs.last().is_none_or(|&(_, term)| term != entry.term) {
                term_runs.push((LogIndex(at as u64 + 1), entry.term));
            }
        }
        let (first, last) = (LogIndex(self.base as u64 + 1), LogIndex(self.log.len() as u64));
        let prev_term = self.base.checked_sub(1).map_or(Term(0), |at| self.log[at].term);
        LogState { first, last, prev_term, term_runs }
    }
}

#[derive(Clone, Hash)]
pub struct Member {
    pub group: Group,
    /// In memory: entry `i` at `i - 1`.
    pub log: Vec<Entry>,
    pub disk: Disk,
    pub journal: VecDeque<Batch>,
    /// Reads that wait: `(round, length of what was committed anywhere when the read was registered)`.
    pub reads: Vec<(u64, usize)>,
    pub pulses: Pulses,
}

/// What a step produced, beside what it changed in the member.
#[derive(Default)]
pub struct Effects {
    pub writes: Vec<Write>,
    pub immediate: Vec<(usize, Message)>,
    pub parked: Vec<(usize, Message)>,
    pub reads_confirmed: Vec<(u64, LogIndex)>,
    pub leadership_lost: bool,
    pub snapshots_wanted: Vec<Route>,
}

/// The sink. Routes are the positions of the members.
pub struct Recorder<'a> {
    pub log: &'a mut Vec<Entry>,
    pub pulses: &'a mut Pulses,
    pub effects: Effects,
}

impl Recorder<'_> {
    fn now(&mut self, to: Route, message: Message) {
        self.effects.immediate.push((to.0 as usize, message));
    }

    fn park(&mut self, to: Route, message: Message) {
        self.effects.parked.push((to.0 as usize, message));
    }

    /// Entries up to `index` are gone.
    pub fn compacted(&mut self, index: LogIndex) {
        self.effects.writes.push(Write::Compact(index));
    }

    /// The log is these entries of a snapshot now.
    pub fn replace(&mut self, entries: &[Entry]) {
        *self.log = entries.to_vec();
        self.effects.writes.push(Write::Replace(entries.to_vec()));
    }

    /// Appends entries behind the log, and writes them.
    pub fn write_entries(&mut self, entries: Vec<Entry>, epoch: u32) {
        let first = self.log.len() as u64 + 1;
        self.log.extend_from_slice(&entries);
        self.effects.writes.push(Write::Entries { first, entries, epoch });
    }
}

impl Sink for Recorder<'_> {
    says!();

    fn snapshot_wanted(&mut self, _to: NodeId, route: Route, _wanted: SnapshotWanted) {
        self.effects.snapshots_wanted.push(route);
    }

    fn append(&mut self, to: Route, message: Append) {
        let first = message.prev_index.0 as usize;
        let entries = self.log[first..first + message.count as usize].to_vec();
        assert!(entries.iter().all(|e| e.term == message.entry_term), "entries of one append have one term");
        self.now(to, Message::Append(message, entries));
    }

    fn support(&mut self, from: Route) -> Option<Support> {
        self.pulses.support(from.0 as usize)
    }

    fn promised(&mut self, to: NodeId) -> Moment {
        self.pulses.promised(to.0 as usize - 1)
    }

    fn withdraw_support(&mut self, from: NodeId) {
        self.pulses.withdraw(from.0 as usize - 1);
    }

    fn forwarded_reads_lost(&mut self) {
        self.effects.leadership_lost = true;
    }

    fn save_hard_state(&mut self, state: HardState) {
        self.effects.writes.push(Write::HardState(state));
    }

    fn append_empty(&mut self, index: LogIndex, term: Term, epoch: u32) {
        assert_eq!(index.0, self.log.len() as u64 + 1);
        self.write_entries(vec![Entry { term, data: 0, members: None }], epoch);
    }

    fn append_membership(&mut self, index: LogIndex, term: Term, epoch: u32, membership: &Membership) {
        assert_eq!(index.0, self.log.len() as u64 + 1);
        self.write_entries(vec![Entry { term, data: 0, members: Some(kept(membership)) }], epoch);
    }
    fn own_vote_written(&mut self, term: Term) {
        self.effects.writes.push(Write::OwnVote(term));
    }

    fn committed(&mut self, _commit: LogIndex) {}

    fn reads_confirmed(&mut self, round: u64, index: LogIndex) {
        self.effects.reads_confirmed.push((round, index));
    }

    fn leadership_lost(&mut self, _new_term: Term) {
        self.effects.leadership_lost = true;
    }

    fn role_changed(&mut self, _role: Role, _leader: NodeId, _term: Term) {}

    fn fit(&mut self, _to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit {
        // An entry is a byte here.
        let count = (last.0 - first.0 + 1).min(u64::from(bytes_max)).max(1) as u32;
        Fit::Ready { count, bytes: count }
    }
}

/// The configuration, kept for good, once however often it is asked for.
pub fn kept(membership: &Membership) -> &'static Membership {
    thread_local! {
        static KEPT: RefCell<Vec<&'static Membership>> = const { RefCell::new(Vec::new()) };
    }
    KEPT.with_borrow_mut(|all| match all.iter().find(|known| **known == membership) {
        Some(known) => known,
        None => {
            all.push(Box::leak(Box::new(membership.clone())));
            all[all.len() - 1]
        }
    })
}

/// The configurations among entries, the first of which has an index.
pub fn memberships(first: u64, entries: &[Entry]) -> Vec<(LogIndex, Membership)> {
    let indexed = entries.iter().zip(first..);
    indexed.filter_map(|(entry, index)| Some((LogIndex(index), entry.members?.clone()))).collect()
}

/// The position of a member stands for its way, one more for its identity.
pub fn id(member: usize) -> NodeId {
    NodeId(member as u32 + 1)
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Message::Append(m, _) => write!(
                f,
                "append term {}, after {}@{}, {} of term {}, commit {}",
                m.term, m.prev_index, m.prev_term, m.count, m.entry_term, m.commit
            ),
            other => write!(f, "{other:?}"),
        }
    }
}
