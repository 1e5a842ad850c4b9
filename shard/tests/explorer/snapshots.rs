//! Snapshots of a model: the state is the list of the entries, so a snapshot is the beginning of a log. It is durable at once, with whoever
//! takes or receives it; the log is cut when the write that says so is.

use logdrive_shard::{Config, LogIndex, Membership, NodeId, SnapshotDecision, SnapshotMeta, Start, Term};

use super::member::{Disk, Entry, id, memberships};
use super::world::World;

/// A file that is complete and durable.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    pub entries: Vec<Entry>,
}

impl Disk {
    fn snapshot_index(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.entries.len())
    }

    /// Whether an entry survives a crash, in the log or as part of the snapshot.
    pub fn has(&self, index: usize, entry: &Entry) -> bool {
        let inside = self.snapshot.as_ref().and_then(|snapshot| snapshot.entries.get(index));
        inside == Some(entry) || self.log.get(index) == Some(entry)
    }

    /// What the member starts from, with its log moved to where the snapshot says.
    pub fn start(&mut self, at: usize, founders: usize) -> Start {
        let mut known = memberships(self.base as u64 + 1, &self.log[self.base..]);
        if at < founders {
            known.insert(0, (LogIndex(0), founding(founders)));
        }
        let meta = self.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let start = Start::join(meta, self.log_state(), self.hard_state, known).expect("what a crash left");
        if let Some(snapshot) = &self.snapshot {
            if start.log_is_void {
                self.log.clone_from(&snapshot.entries);
                self.base = snapshot.entries.len();
            }
            assert!(self.log.starts_with(&snapshot.entries), "snapshot and log are of one history");
        }
        start
    }
}

pub fn founding(founders: usize) -> Membership {
    let voters: Vec<NodeId> = (0..founders).map(id).collect();
    Membership::founding(&voters).expect("a few voters")
}

impl World {
    /// Everything that may be applied becomes a snapshot, and is gone from the log.
    pub fn take_snapshot(&mut self, config: &Config, at: usize) {
        let (founders, member) = (self.founders, self.member(at));
        let index = member.group.applicable();
        let entries = member.log[..index.0 as usize].to_vec();
        let known = memberships(1, &entries).pop();
        let Some((membership_index, membership)) =
            known.or_else(|| (at < founders).then(|| (LogIndex(0), founding(founders))))
        else {
            return;
        };
        let Some(last) = entries.last().filter(|_| entries.len() > member.disk.snapshot_index()) else {
            return;
        };
        let meta = SnapshotMeta { index, term: last.term, membership, membership_index };
        member.disk.snapshot = Some(Snapshot { meta, entries });
        self.step(config, at, |group, env| {
            group.compacted(index);
            env.sink.compacted(index);
        });
    }

    /// A snapshot arrived.
    pub fn install(&mut self, config: &Config, from: NodeId, to: usize, term: Term, snapshot: &Snapshot) {
        let disk = &mut self.member(to).disk;
        let before = disk.snapshot.clone();
        if snapshot.entries.len() > disk.snapshot_index() {
            disk.snapshot = Some(snapshot.clone());
        }
        let mut decision = SnapshotDecision::Refused;
        self.step(config, to, |group, env| {
            decision = group.on_snapshot(env, from, term, &snapshot.meta);
            match decision {
                SnapshotDecision::Refused | SnapshotDecision::AlreadyHave => {}
                SnapshotDecision::FastForward => env.sink.compacted(snapshot.meta.index),
                SnapshotDecision::Replace { .. } => env.sink.replace(&snapshot.entries),
            }
        });
        if !decision.installs() {
            self.member(to).disk.snapshot = before;
        }
    }
}
