//! One node: the caller's memory, its journal and its disk, and the sink that a step writes into.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use logdrive_shard::{
    Append, Config, Fit, Group, HardState, LogEnd, LogIndex, Membership, Moment, NodeId, Random, Role, Route,
    Setup, Sink, SnapshotWanted, Support, Term, TransferEnd,
};

use super::pulses::Pulses;
use super::says::says;
use super::snapshots::Snapshot;
use super::{Envelope, Message};

/// An entry: `data` stands for its payload and is unique per proposal (0: a no-op).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub data: u64,
    pub bytes: u32,
    /// A configuration entry. Leaked, so that entries can be copied: a test has few.
    pub members: Option<&'static Membership>,
}

/// What the nodes of a cluster start from.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Terms of the entries in each node's log.
    pub logs: BTreeMap<u32, Vec<u64>>,
    pub commit: u64,
    /// At least the last term of the log.
    pub term: u64,
    /// Never ran before.
    pub fresh: bool,
    pub preferred: u32,
    pub priorities: Vec<(u32, u8)>,
    /// The voters of the founding configuration; all nodes if none are named. Other nodes know no configuration.
    pub voters: Vec<u32>,
}

/// Something written.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub writes: Vec<Write>,
    pub parked: Vec<Envelope>,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub log: Vec<Entry>,
    pub hard_state: HardState,
    /// Hard states that were durable before, oldest first.
    pub older_states: Vec<HardState>,
    /// The log begins behind so many entries.
    pub base: usize,
    pub snapshot: Option<Snapshot>,
}

impl Disk {
    /// The disk turns out to be damaged: of the log only the first `keep` entries can be read, and if `back` is given, the newest
    /// hard state that can be is so many writes old. What it says of that is what a caller would find: the floor exactly, or
    /// (`vague`) only that there may have been more.
    pub fn damage(&mut self, keep: usize, vague: bool, back: Option<usize>) {
        let mut lost = self.hard_state.lost;
        let keep = keep.max(self.base);
        if let Some(back) = back
            && let Some(&older) = self.older_states.iter().rev().nth(back)
        {
            // What was written down of losses is as old as the rest; the caller finds the same damage again.
            self.hard_state = older;
            lost.state = true;
        }
        if keep < self.log.len() {
            // The term of an entry that cannot be read is not known; it is at most the one in the hard state.
            let last = self.log[self.log.len() - 1].term;
            let end = LogEnd { term: last, index: LogIndex(self.log.len() as u64) };
            let term = self.hard_state.term.max(last);
            let floor = if vague { LogEnd { term, index: LogIndex(u64::MAX) } } else { end };
            lost.log = Some(lost.log.map_or(floor, |older| older.max(floor)));
            self.log.truncate(keep);
        }
        let term = self.log.last().map_or(Term(0), |entry| entry.term);
        self.hard_state.term = self.hard_state.term.max(term);
        self.hard_state.commit = self.hard_state.commit.min(LogIndex(self.log.len() as u64));
        self.hard_state.lost = lost;
    }

    /// Makes writes durable; returns the completions to report: `(epoch, last)`, and own votes by term.
    pub fn apply(&mut self, writes: &[Write]) -> (Vec<(u32, LogIndex)>, Vec<Term>) {
        let (mut durable, mut votes) = (Vec::new(), Vec::new());
        for write in writes {
            match write {
                Write::Entries { first, entries, epoch } => {
                    assert!(*first as usize <= self.log.len() + 1, "a gap in the log on disk before {first}");
                    self.log.truncate(*first as usize - 1);
                    self.log.extend_from_slice(entries);
                    durable.push((*epoch, LogIndex(self.log.len() as u64)));
                }
                Write::HardState(state) => {
                    self.older_states.push(self.hard_state);
                    self.hard_state = *state;
                }
                Write::OwnVote(term) => votes.push(*term),
                Write::Compact(index) => self.base = self.base.max(index.0 as usize),
                Write::Replace(entries) => {
                    self.log.clone_from(entries);
                    self.base = entries.len();
                }
            }
        }
        (durable, votes)
    }
}

/// A node's clock: it starts somewhere, and its seconds are not quite as long as others'.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub permille: u64,
    pub offset: u64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { permille: 1_000, offset: 0 }
    }
}

impl Clock {
    /// What it shows.
    pub fn at(&self, now: Moment) -> Moment {
        Moment(now.0 * self.permille / 1_000 + self.offset)
    }

    /// When it shows `at`, or has just passed it.
    pub fn when(&self, at: Moment) -> Moment {
        Moment((at.0.saturating_sub(self.offset) * 1_000).div_ceil(self.permille))
    }
}

pub struct Node {
    pub id: NodeId,
    /// Down if `None`.
    pub group: Option<Group>,
    /// In memory: entry `i` at `i - 1`.
    pub log: Vec<Entry>,
    /// The group does not know of so many entries any more.
    pub base: usize,
    pub disk: Disk,
    pub journal: VecDeque<Batch>,
    pub routes: BTreeMap<u64, NodeId>,
    /// Entries before this index have to be loaded before they are sent.
    pub cold_below: u64,
    /// Entries before this index cannot be read at all: the disk lost them while the node ran.
    pub lost_below: u64,
    pub wants_load: bool,
    /// `(round, globally committed when the read was registered)`.
    pub reads_waiting: Vec<(u64, usize)>,
    pub reads_confirmed: Vec<(u64, LogIndex)>,
    /// Terms in which leadership was lost.
    pub lost: Vec<Term>,
    pub snapshots_wanted: Vec<NodeId>,
    pub pulses: Pulses,
    preferred: NodeId,
    priorities: Vec<(NodeId, u8)>,
    /// The founding configuration, if this node was told it.
    pub founding: Option<Membership>,
    /// Where this node is set up otherwise than the cluster.
    pub settings: Option<Config>,
    pub clock: Clock,
}

impl Node {
    /// Entries given by term alone are the same entry wherever index and term are the same.
    pub fn entry_given_by_term(term: u64, index: u64) -> Entry {
        Entry { term: Term(term), data: (1 << 40) + term * 1000 + index - 1, bytes: 1, members: None }
    }

    pub fn new(id: NodeId, start: &Start) -> Node {
        let terms = start.logs.get(&id.0).cloned().unwrap_or_default();
        let log: Vec<Entry> =
            terms.iter().zip(1..).map(|(&term, index)| Node::entry_given_by_term(term, index)).collect();
        let term = Term(start.term.max(terms.last().copied().unwrap_or(0)));
        let hard_state =
            HardState { term, vote: NodeId::NONE, commit: LogIndex(start.commit), ..HardState::default() };
        Node {
            id,
            group: None,
            log: Vec::new(),
            disk: Disk { log, hard_state, ..Disk::default() },
            base: 0,
            journal: VecDeque::new(),
            routes: BTreeMap::new(),
            cold_below: 0,
            lost_below: 0,
            wants_load: false,
            reads_waiting: Vec::new(),
            reads_confirmed: Vec::new(),
            lost: Vec::new(),
            snapshots_wanted: Vec::new(),
            pulses: Pulses::default(),
            preferred: NodeId(start.preferred),
            priorities: start.priorities.iter().map(|&(node, priority)| (NodeId(node), priority)).collect(),
            founding: None,
            settings: None,
            clock: Clock::default(),
        }
    }

    pub fn boot(&mut self, now: Moment, config: &Config, random: &mut Random, fresh: bool) {
        assert!(self.group.is_none(), "node {} is up", self.id);
        let founding = self.founding.clone();
        let start =
            self.disk.start(founding.as_ref(), self.id.0.is_multiple_of(2)).expect("what a crash left");
        let setup = Setup {
            fresh,
            preferred_leader: self.preferred,
            priorities: &self.priorities,
            ..start.setup(self.id)
        };
        self.log = self.disk.log.clone();
        self.base = start.log.first.0 as usize - 1;
        self.journal.clear();
        self.routes.clear();
        self.wants_load = false;
        self.pulses = Pulses::new(self.id.0, now);
        self.group = Some(Group::new(now, config, random, &setup));
    }

    /// Whether this node judges `peer` to be in contact.
    pub fn in_contact(&self, peer: u32) -> bool {
        let report = self.group.as_ref().map(|group| group.report());
        report.is_some_and(|report| report.peers.iter().any(|p| p.node.0 == peer && p.alive))
    }

    /// Appends entries to the log in memory and to the step's writes.
    pub fn write_entries(&mut self, entries: Vec<Entry>, epoch: u32, writes: &mut Vec<Write>) {
        let first = self.log.len() as u64 + 1;
        self.log.extend_from_slice(&entries);
        writes.push(Write::Entries { first, entries, epoch });
    }
}

/// A message and the peer it goes to.
pub struct Outgoing {
    to: NodeId,
    message: Message,
}

impl Outgoing {
    pub fn from(self, from: NodeId) -> Envelope {
        Envelope { from, to: self.to, message: self.message }
    }
}

/// What a step produced.
#[derive(Default)]
pub struct Effects {
    pub writes: Vec<Write>,
    pub immediate: Vec<Outgoing>,
    pub parked: Vec<Outgoing>,
    pub reads_confirmed: Vec<(u64, LogIndex)>,
    pub leadership_lost: Option<Term>,
    pub snapshots_wanted: Vec<(NodeId, SnapshotWanted)>,
    pub wants_load: bool,
    pub forwarded_lost: bool,
    pub transfers_ended: Vec<(NodeId, TransferEnd)>,
    pub trace: Vec<String>,
}

/// The sink.
pub struct Recorder<'a> {
    log: &'a mut Vec<Entry>,
    /// The log begins behind so many entries.
    base: &'a mut usize,
    routes: &'a BTreeMap<u64, NodeId>,
    cold_below: u64,
    pulses: &'a mut Pulses,
    election_base: Duration,
    effects: Effects,
}

impl<'a> Recorder<'a> {
    pub fn new(
        (log, base): (&'a mut Vec<Entry>, &'a mut usize),
        routes: &'a BTreeMap<u64, NodeId>,
        cold_below: u64,
        pulses: &'a mut Pulses,
        election_base: Duration,
    ) -> Recorder<'a> {
        Recorder { log, base, routes, cold_below, pulses, election_base, effects: Effects::default() }
    }

    pub fn finish(self) -> Effects {
        self.effects
    }

    /// Entries up to `index` are gone.
    pub fn compacted(&mut self, index: LogIndex) {
        *self.base = index.0 as usize;
        self.effects.writes.push(Write::Compact(index));
    }

    /// The log is these entries of a snapshot now.
    pub fn replace(&mut self, entries: &[Entry]) {
        *self.log = entries.to_vec();
        *self.base = entries.len();
        self.effects.writes.push(Write::Replace(entries.to_vec()));
    }

    /// Cuts the log in memory behind `keep`.
    pub fn truncate(&mut self, keep: u64) {
        self.log.truncate(keep as usize);
    }

    fn peer(&self, route: Route) -> NodeId {
        self.routes[&route.0]
    }

    fn now(&mut self, to: Route, message: Message) {
        let to = self.peer(to);
        self.effects.immediate.push(Outgoing { to, message });
    }

    fn park(&mut self, to: Route, message: Message) {
        let to = self.peer(to);
        self.effects.parked.push(Outgoing { to, message });
    }
}

impl Sink for Recorder<'_> {
    says!();

    fn append(&mut self, to: Route, message: Append) {
        let first = message.prev_index.0 as usize;
        assert!(first >= *self.base, "append after {first}, the log begins behind {}", self.base);
        let entries = self.log[first..first + message.count as usize].to_vec();
        assert!(entries.iter().all(|e| e.term == message.entry_term), "entries of one append have one term");
        self.now(to, Message::Append(message, entries));
    }

    fn support(&mut self, from: Route) -> Option<Support> {
        let peer = self.routes.get(&from.0)?;
        self.pulses.support.get(&peer.0).copied()
    }

    fn promised(&mut self, to: NodeId) -> Moment {
        self.pulses.heard.get(&to.0).map_or(Moment(0), |heard| heard.after(self.election_base))
    }

    fn withdraw_support(&mut self, from: NodeId) {
        self.pulses.renew(from.0);
    }

    fn transfer_ended(&mut self, to: NodeId, end: TransferEnd) {
        self.effects.trace.push(format!("transfer to {to} ended: {end:?}"));
        self.effects.transfers_ended.push((to, end));
    }

    fn forwarded_reads_lost(&mut self) {
        self.effects.trace.push("loses the reads that it forwarded".to_owned());
        self.effects.forwarded_lost = true;
    }

    fn save_hard_state(&mut self, state: HardState) {
        let HardState { term, vote, commit, lost } = state;
        let lost = if lost.is_any() { format!(", lost: {lost}") } else { String::new() };
        self.effects.trace.push(format!("saves term {term}, vote {vote}, commit {commit}{lost}"));
        self.effects.writes.push(Write::HardState(state));
    }

    fn append_empty(&mut self, index: LogIndex, term: Term, epoch: u32) {
        assert_eq!(index.0, self.log.len() as u64 + 1);
        let entry = Entry { term, data: 0, bytes: 0, members: None };
        self.log.push(entry);
        self.effects.writes.push(Write::Entries { first: index.0, entries: vec![entry], epoch });
    }

    fn append_membership(&mut self, index: LogIndex, term: Term, epoch: u32, membership: &Membership) {
        assert_eq!(index.0, self.log.len() as u64 + 1);
        let bytes = membership.encode();
        let read = Membership::decode(&bytes).expect("what was encoded");
        assert_eq!(&read, membership);
        let members: Option<&'static Membership> = Some(Box::leak(Box::new(read)));
        let entry = Entry { term, data: 0, bytes: bytes.len() as u32, members };
        self.log.push(entry);
        self.effects.writes.push(Write::Entries { first: index.0, entries: vec![entry], epoch });
    }

    fn members_changed(&mut self, index: LogIndex, membership: &Membership) {
        self.effects.trace.push(format!("is in configuration {index}: {membership}"));
    }

    fn own_vote_written(&mut self, term: Term) {
        self.effects.writes.push(Write::OwnVote(term));
    }

    fn committed(&mut self, commit: LogIndex) {
        self.effects.trace.push(format!("commits {commit}"));
    }

    fn reads_confirmed(&mut self, round: u64, index: LogIndex) {
        self.effects.trace.push(format!("confirms reads of round {round} at {index}"));
        self.effects.reads_confirmed.push((round, index));
    }

    fn leadership_lost(&mut self, new_term: Term) {
        self.effects.trace.push(format!("loses leadership, term {new_term}"));
        self.effects.leadership_lost = Some(new_term);
    }

    fn role_changed(&mut self, role: Role, leader: NodeId, term: Term) {
        let leader = if leader.is_some() { format!("leader {leader}") } else { "no leader".to_owned() };
        self.effects.trace.push(format!("becomes {role:?}, term {term}, {leader}"));
    }

    fn fit(&mut self, _to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit {
        if first.0 < self.cold_below {
            self.effects.wants_load = true;
            return Fit::Loading;
        }
        let (mut count, mut bytes) = (0u32, 0u32);
        for entry in &self.log[first.0 as usize - 1..last.0 as usize] {
            if count > 0 && bytes + entry.bytes > bytes_max {
                break;
            }
            count += 1;
            bytes += entry.bytes;
        }
        Fit::Ready { count, bytes }
    }

    fn snapshot_wanted(&mut self, to: NodeId, _route: Route, wanted: SnapshotWanted) {
        let SnapshotWanted { term, at_least } = wanted;
        self.effects.trace.push(format!("wants a snapshot for {to}, of {at_least} at least, in term {term}"));
        self.effects.snapshots_wanted.push((to, wanted));
    }

    fn snapshot_unneeded(&mut self, to: NodeId) {
        self.effects.trace.push(format!("has no need of a snapshot for {to}"));
    }
}
