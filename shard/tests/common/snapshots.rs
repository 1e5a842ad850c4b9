//! Snapshots in a cluster: taken, sent, received and started from. The state of a group is the list of its entries, so a snapshot is
//! the beginning of a log.
//!
//! Nodes keep the whole list in memory for the checks; what a group may send or start from begins behind `base`.

use logdrive_shard::{
    LogIndex, LogState, Membership, NodeId, SnapshotDecision, SnapshotMeta, SnapshotStatus, SnapshotWanted,
    Start, StartError, Term,
};

use super::node::{Disk, Entry, Node};
use super::{Cluster, Envelope, Message};

/// A file that is complete and durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    pub entries: Vec<Entry>,
}

/// A leader asked for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    pub leader: u32,
    pub to: u32,
    pub wanted: SnapshotWanted,
}

impl Disk {
    /// Where its newest snapshot ends.
    pub fn snapshot_index(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.entries.len())
    }

    /// Whether an entry survives a crash, in the log or as part of the snapshot.
    pub fn has(&self, index: usize, entry: &Entry) -> bool {
        let inside = self.snapshot.as_ref().and_then(|snapshot| snapshot.entries.get(index - 1));
        inside == Some(entry) || self.log.get(index - 1) == Some(entry)
    }

    /// The log as recovery finds it. The term of an entry that was forgotten is forgotten, too (`vague`).
    pub fn log_state(&self, vague: bool) -> LogState {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for (at, entry) in self.log.iter().enumerate().skip(self.base) {
            if term_runs.last().is_none_or(|&(_, term)| term != entry.term) {
                term_runs.push((LogIndex(at as u64 + 1), entry.term));
            }
        }
        let before = self.base.checked_sub(1).and_then(|at| self.log.get(at));
        let prev_term = before.filter(|_| !vague).map_or(Term(0), |entry| entry.term);
        let (first, last) = (LogIndex(self.base as u64 + 1), LogIndex(self.log.len() as u64));
        LogState { first, last, prev_term, term_runs }
    }

    /// What a node starts from, with its log moved to where the snapshot says.
    pub fn start(&mut self, founding: Option<&Membership>, vague: bool) -> Result<Start, StartError> {
        let in_log = self.log.iter().zip(1..).skip(self.base);
        let in_log = in_log.filter_map(|(entry, index)| Some((LogIndex(index), entry.members?.clone())));
        let founding = founding.map(|founding| (LogIndex(0), founding.clone()));
        let memberships = founding.into_iter().chain(in_log).collect();
        let meta = self.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let start = Start::join(meta, self.log_state(vague), self.hard_state, memberships)?;
        if let Some(snapshot) = &self.snapshot {
            let inside = snapshot.entries.len();
            if start.log_is_void {
                self.log.clone_from(&snapshot.entries);
                self.base = inside;
            }
            assert_eq!(self.log[..inside], snapshot.entries, "snapshot and log are of one history");
        }
        assert!(start.log.first.0 > self.base as u64 && start.log.last.0 == self.log.len() as u64);
        Ok(start)
    }
}

impl Node {
    /// A snapshot of the first `index` entries, which are applied; none without a configuration.
    fn snapshot(&self, index: usize) -> Option<Snapshot> {
        let entries = self.log[..index].to_vec();
        let at = entries.iter().rposition(|entry| entry.members.is_some());
        let in_log = at.and_then(|at| entries[at].members);
        let membership = in_log.or(self.founding.as_ref())?.clone();
        let membership_index = LogIndex(at.map_or(0, |at| at as u64 + 1));
        let term = entries.last()?.term;
        let meta = SnapshotMeta { index: LogIndex(index as u64), term, membership, membership_index };
        Some(Snapshot { meta, entries })
    }
}

impl Cluster {
    /// A node takes a snapshot of its first `index` entries, or of all that may be applied, and forgets them all but the last `keep`.
    pub fn take_snapshot(&mut self, id: u32, index: Option<u64>, keep: u64) -> bool {
        let applicable = self.group(id).applicable().0;
        let index = index.unwrap_or(applicable).min(applicable);
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        if index as usize <= node.disk.snapshot_index() {
            return false;
        }
        let Some(snapshot) = node.snapshot(index as usize) else { return false };
        node.disk.snapshot = Some(snapshot);
        let group = node.group.as_ref().expect("the node is up");
        if let Some(index) = group.compactable(LogIndex(index), keep) {
            self.compact(id, index);
        }
        true
    }

    /// A node forgets entries.
    pub fn compact(&mut self, id: u32, index: LogIndex) {
        self.plain(id, |group, env| {
            group.compacted(index);
            env.sink.compacted(index);
        });
    }

    /// Sends the snapshot that `source` has on its disk to whom a leader wants to have one, if it is of use.
    pub fn send_snapshot(&mut self, source: u32, request: Request) -> bool {
        let Some(snapshot) = self.nodes[&source].disk.snapshot.clone() else { return false };
        let is_enough = snapshot.meta.index >= request.wanted.at_least;
        if is_enough {
            let message = Message::Snapshot(request.wanted.term, snapshot);
            self.network.push(Envelope { from: NodeId(request.leader), to: NodeId(request.to), message });
        }
        is_enough
    }

    /// Every leader sends what it was asked for. Returns whether there was something.
    pub fn serve_snapshots(&mut self) -> bool {
        let requests = std::mem::take(&mut self.requests);
        for &request in &requests {
            let Request { leader, to, wanted } = request;
            if !self.is_up(leader) || !self.group(leader).is_leader() {
                continue;
            }
            if self.nodes[&leader].disk.snapshot_index() < wanted.at_least.0 as usize {
                self.take_snapshot(leader, None, u64::MAX);
            }
            if !self.send_snapshot(leader, request) {
                let failed = SnapshotStatus::Failed;
                self.plain(leader, |group, env| group.on_snapshot_report(env, NodeId(to), failed));
            }
        }
        !requests.is_empty()
    }

    /// Step 1 of an installation: a snapshot is complete and durable. If the process ends now, it starts with it.
    pub fn receive_snapshot(&mut self, id: u32, snapshot: &Snapshot) -> Option<Snapshot> {
        let disk = &mut self.nodes.get_mut(&id).expect("a node of the cluster").disk;
        let before = disk.snapshot.clone();
        if snapshot.entries.len() > disk.snapshot_index() {
            disk.snapshot = Some(snapshot.clone());
        }
        before
    }

    /// Steps 1 to 4.
    pub fn install_snapshot(&mut self, from: NodeId, id: u32, leader_term: Term, snapshot: &Snapshot) {
        let before = self.receive_snapshot(id, snapshot);
        let mut decision = SnapshotDecision::Refused;
        self.step(id, |group, env, _| {
            decision = group.on_snapshot(env, from, leader_term, &snapshot.meta);
            match decision {
                SnapshotDecision::Refused | SnapshotDecision::AlreadyHave => {}
                SnapshotDecision::FastForward => env.sink.compacted(snapshot.meta.index),
                SnapshotDecision::Replace { .. } => env.sink.replace(&snapshot.entries),
            }
            ((), Vec::new(), 0)
        });
        if self.tracing {
            self.trace.push(format!("  {id} decides: {decision:?}"));
        }
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        if decision.installs() {
            self.installed += 1;
            if snapshot.meta.membership_index.0 == 0 {
                node.founding = Some(snapshot.meta.membership.clone());
            }
        } else {
            node.disk.snapshot = before;
        }
    }
}
