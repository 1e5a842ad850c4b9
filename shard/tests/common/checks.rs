//! The safety properties, seen from the outside, after every step.

use std::collections::BTreeMap;

use logdrive_shard::{LogIndex, NodeId, Term};

use super::node::{Disk, Entry, Node};
use super::{Envelope, Message};

pub struct Checks {
    /// Election safety: at most one leader per term.
    leaders: BTreeMap<Term, u32>,
    /// Log matching, by induction: index and term name one entry and its predecessor's term.
    entries: BTreeMap<(u64, Term), (u64, Term)>,
    /// What any node has committed: never changes.
    committed: Vec<Entry>,
    /// Votes that left a node: one candidate per node and term, through all crashes.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// How far each node's log was seen, in which state, and where its last configuration is (0: not in the log), so that only what
    /// is new is looked at.
    seen: BTreeMap<u32, (usize, Option<Entry>, usize)>,
}

impl Checks {
    pub fn new() -> Checks {
        Checks {
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: Vec::new(),
            votes: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Length of what is committed anywhere.
    pub fn committed_len(&self) -> usize {
        self.committed.len()
    }

    pub fn committed(&self) -> &[Entry] {
        &self.committed
    }

    /// A log that the cluster starts with.
    pub fn adopt_log(&mut self, disk: &Disk) {
        self.match_log(&disk.log, 0);
        let commit = disk.log.len().min(disk.hard_state.commit.0 as usize);
        if commit > self.committed.len() {
            self.committed = disk.log[..commit].to_vec();
        }
    }

    fn match_log(&mut self, log: &[Entry], from: usize) {
        for at in from..log.len() {
            let prev = if at == 0 { Term(0) } else { log[at - 1].term };
            let key = (at as u64 + 1, log[at].term);
            let known = *self.entries.entry(key).or_insert((log[at].data, prev));
            assert_eq!(
                known,
                (log[at].data, prev),
                "log matching fails at index {} of term {}",
                key.0,
                key.1
            );
        }
    }

    pub fn after_step(&mut self, id: u32, node: &Node, disks: &BTreeMap<NodeId, &Disk>) {
        let group = node.group.as_ref().expect("it was stepped");
        let log = &node.log;
        let (len, last, configuration) = self.seen.get(&id).copied().unwrap_or((0, None, 0));
        let unchanged = len <= log.len() && len.checked_sub(1).map(|at| log[at]) == last;
        let from = if unchanged { len } else { 0 };
        self.match_log(log, from);
        let newer = log[from..].iter().rposition(|entry| entry.members.is_some()).map(|at| from + at + 1);
        let configuration = newer.unwrap_or(if unchanged { configuration } else { 0 });
        self.seen.insert(id, (log.len(), log.last().copied(), configuration));
        let in_log = configuration.checked_sub(1).and_then(|at| log[at].members);
        if let Some(in_force) = in_log.or(node.founding.as_ref()) {
            let is = (group.membership_index().0 as usize, group.membership());
            assert_eq!(
                is,
                (configuration, in_force),
                "node {id} is in another configuration than its log says"
            );
        }

        let commit = group.commit().0 as usize;
        let common = commit.min(self.committed.len());
        let from = common.saturating_sub(8);
        assert_eq!(log[from..common], self.committed[from..common], "node {id} committed something else");
        for (at, entry) in log.iter().enumerate().take(commit).skip(self.committed.len()) {
            let membership = group.membership();
            for voters in [membership.voters(), membership.outgoing()] {
                let has = |voter: &&NodeId| disks.get(voter).is_some_and(|disk| disk.has(at + 1, entry));
                let copies = voters.iter().filter(has).count();
                assert!(
                    voters.is_empty() || copies > voters.len() / 2,
                    "node {id} committed {}, durable on {copies} of {voters:?}",
                    at + 1
                );
            }
        }
        if commit > self.committed.len() {
            self.committed.extend_from_slice(&log[self.committed.len()..commit]);
        }
        assert!(group.applicable() <= group.durable().min(group.commit()));
        let disk_len = node.disk.log.len().max(node.disk.snapshot_index()) as u64;
        assert!(
            group.durable().0 <= disk_len,
            "node {id} takes {} for durable, {disk_len} are",
            group.durable()
        );
        assert_eq!(group.first_index().0, node.base as u64 + 1, "node {id}: where the log begins");
        let before = node.base.checked_sub(1).map_or(Term(0), |at| log[at].term);
        assert_eq!(
            group.term_at(LogIndex(node.base as u64)),
            Some(before),
            "node {id}: the term before the log"
        );
        for index in 1..=log.len().min(group.durable().0 as usize) {
            debug_assert!(node.disk.has(index, &log[index - 1]), "node {id}: {index} is not what is durable");
        }

        if group.is_leader() {
            let leader = *self.leaders.entry(group.term()).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", group.term());
            if self.entries_before(group.term(), log) {
                assert!(log.len() >= self.committed.len(), "leader {id} lacks committed entries");
                assert_eq!(log[..self.committed.len()], self.committed[..], "leader {id} has other entries");
            }
        }
    }

    /// Leader completeness concerns what was committed in earlier terms than the leader's.
    fn entries_before(&self, term: Term, _log: &[Entry]) -> bool {
        self.committed.last().is_none_or(|entry| entry.term <= term)
    }

    /// A message left a node for good.
    pub fn sent(&mut self, envelope: &Envelope) {
        if let Message::VoteReply(reply) = &envelope.message
            && reply.granted
            && !reply.pre_vote
        {
            self.vote(envelope.from, reply.term, envelope.to);
        }
        if let Message::VoteRequest(request) = &envelope.message
            && !request.pre_vote
        {
            self.vote(envelope.from, request.term, envelope.from);
        }
    }

    /// A node's disk lost its hard state. That it voted for itself in a campaign which nobody heard of is known to nobody any more, and
    /// need not be: that campaign is over. What it won is not forgotten.
    pub fn forget_own_votes(&mut self, id: u32) {
        let leaders = &self.leaders;
        self.votes.retain(|&(voter, term), &mut candidate| {
            voter.0 != id || candidate != voter || leaders.get(&term) == Some(&id)
        });
    }

    fn vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) {
        let voted = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(voted, candidate, "node {voter} voted twice in term {term}");
    }

    /// A read may be served at `index`: everything that was committed anywhere when it was registered is in.
    pub fn reads_confirmed(&self, node: &Node, round: u64, index: LogIndex) {
        for &(waiting, committed) in &node.reads_waiting {
            if waiting <= round {
                assert!(
                    index.0 as usize >= committed,
                    "node {}: a stale read at {index}, {committed} were committed",
                    node.id
                );
            }
        }
    }
}
