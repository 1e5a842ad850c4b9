//! What a core tells about itself.

use logdrive_shard::{LogIndex, Membership, NodeId, Role, Term};
use logdrive_wal::{Disk, Health, Wal};

use super::types::{CoreStatus, GroupDigest, GroupStatus, GroupSummary, Slot};
use super::{Core, CoreId};
use crate::api::StateMachine;

/// A log that refuses a proposal of this size counts as out of space.
const LARGE_BYTES: u32 = 64 << 10;

/// Counters of a core since it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps of groups: an idle core makes none.
    pub steps: u64,
    /// Entries applied.
    pub applied: u64,
    /// Proposals taken.
    pub proposals: u64,
    /// Reads taken.
    pub reads: u64,
    /// Of these, served under a lease.
    pub lease_reads: u64,
    /// Requests that met a bound.
    pub busy: u64,
    /// Frames from peers.
    pub frames_in: u64,
    /// Frames to peers.
    pub frames_out: u64,
    /// Frames and messages that were not for this boot, this group, or from a peer that has no part in it.
    pub ignored: u64,
    /// Messages to peers dropped: the link went down or was full.
    pub dropped: u64,
    /// Times that an append waited for a slow peer.
    pub held_back: u64,
    /// Appends of leaders that were not taken for want of space or because too much waits for the log.
    pub appends_refused: u64,
    /// Entries that had to be read back from the log.
    pub cold_entries: u64,
    /// Times that the log asked a group to give up old entries.
    pub log_pressure: u64,
    /// Groups of which the disk lost entries while the core ran, and got them all back.
    pub healed: u64,
    /// Groups that this core gave up because its node is no member of them any more.
    pub retired: u64,
    /// Linearizable reads that were ended because they got no further.
    pub reads_given_up: u64,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Counts over all groups: takes time in their number.
    pub fn status(&self) -> CoreStatus {
        let counters = self.io.counters;
        let (space, stats) = (self.io.wal.space(), self.io.wal.stats());
        let (files, snapshots) = (self.snapshots.store.stats(), self.snapshot_counters());
        let transfers = self.transfer_counters();
        let mut status = CoreStatus {
            core: self.core.0,
            groups: self.groups.len() as u32,
            applied: counters.applied,
            proposals: counters.proposals,
            reads: counters.reads,
            busy: counters.busy,
            log_used_bytes: space.used_bytes,
            log_budget_bytes: space.budget_bytes,
            log_out_of_space: *self.io.wal.health() == Health::OutOfSpace
                || self.refuses_proposals_of(self.io.settings.payload_bytes_max.min(LARGE_BYTES)),
            log_writes: stats.writes,
            log_write_bytes: stats.write_bytes,
            log_records: stats.records,
            cache_bytes: self.io.cache.bytes(),
            frames_in: counters.frames_in,
            frames_out: counters.frames_out,
            links_alive: self.io.links.iter().filter(|link| link.contact).count() as u32,
            draining: self.io.draining,
            disk_failing: self.io.heal.failing,
            snapshots: files.files,
            snapshot_bytes: files.file_bytes,
            snapshots_written: snapshots.written,
            snapshots_failed: snapshots.failed,
            snapshots_installed: snapshots.installed,
            transfer_bytes_sent: transfers.bytes_sent,
            transfer_bytes_taken: transfers.bytes_taken,
            transfers_resumed: transfers.resumed,
            transfers_relayed: transfers.relayed,
            transfers_refused: transfers.refused,
            group_logs_full: snapshots.logs_full,
            ..CoreStatus::default()
        };
        for ((slot, group), lane) in (0..).zip(&self.groups).zip(&self.io.lanes) {
            if !group.membership().contains(self.io.me) {
                continue;
            }
            match group.role() {
                Role::Leader => {
                    status.leaders += 1;
                    status.commit_lag += group.last_index().0 - group.commit().0;
                }
                Role::Follower => status.followers += 1,
                Role::PreCandidate | Role::Candidate => status.candidates += 1,
            }
            status.leaderless += u32::from(!group.leader().is_some());
            status.damaged += u32::from(group.lost().is_any() || self.io.heal.is_wounded(slot));
            status.apply_lag += group.commit().0 - lane.applied.0;
        }
        status
    }

    /// One group's state.
    pub fn group_status(&self, slot: Slot) -> GroupStatus {
        let at = slot.0 as usize;
        GroupStatus {
            id: self.ids[at],
            raft: self.groups[at].report(),
            applied: self.io.lanes[at].applied,
            unreadable: self.unreadable(slot),
            sessions: self.sessions.open(slot.0) as u32,
            snapshot: self.snapshot_status(slot),
            transfers: self.transfer_status(slot),
            preferred_leader: self.io.preferred[at],
            heard_nanos_ago: self.heard_nanos_ago(slot),
            history: self.groups[at]
                .history()
                .map(|entry| (self.io.now.since(entry.at).as_nanos() as u64, entry))
                .collect(),
        }
    }

    /// The first entries of a group that its log has and cannot read; cheap.
    pub fn unreadable(&self, slot: Slot) -> Option<(LogIndex, LogIndex)> {
        let ranges = self.io.wal.damaged_ranges(self.io.lanes[slot.0 as usize].stream);
        ranges.first().map(|(first, last)| (LogIndex(*first), LogIndex(*last)))
    }

    /// The digest of a group's state. Takes time in its size: whatever else the core does waits for it.
    pub fn group_digest(&self, slot: Slot) -> GroupDigest {
        let applied = self.io.lanes[slot.0 as usize].applied;
        GroupDigest { applied, digest: self.machine.digest(slot.0) ^ self.sessions.digest(slot.0) }
    }

    /// How long ago the peers that share a group were heard: the shortest of each node's links.
    fn heard_nanos_ago(&self, slot: Slot) -> Vec<(NodeId, u64)> {
        let mut heard: Vec<(NodeId, u64)> = Vec::new();
        for link in self.io.links.iter().filter(|link| link.up && link.shared.has(slot.0)) {
            let Some(at) = link.heard_at() else { continue };
            let ago = self.io.now.since(at).as_nanos() as u64;
            match heard.iter_mut().find(|(node, _)| *node == link.node) {
                Some((_, shortest)) => *shortest = ago.min(*shortest),
                None => heard.push((link.node, ago)),
            }
        }
        heard
    }

    /// All groups of the core, by slot, added to `list`.
    pub fn group_list(&self, list: &mut Vec<GroupSummary>) {
        list.extend(self.groups.iter().enumerate().map(|(at, group)| GroupSummary {
            id: self.ids[at],
            role: group.role(),
            term: group.term(),
            leader: group.leader(),
            commit: group.commit(),
            applied: self.io.lanes[at].applied,
            last: group.last_index(),
            durable: group.durable(),
        }));
    }

    /// Counters since the core opened.
    pub fn counters(&self) -> Counters {
        self.io.counters
    }

    /// Who leads the group, cheap. `NONE` if unknown.
    pub fn leader_of(&self, slot: Slot) -> NodeId {
        self.groups[slot.0 as usize].leader()
    }

    /// Whether this node leads the group.
    pub fn is_leader(&self, slot: Slot) -> bool {
        self.groups[slot.0 as usize].is_leader()
    }

    /// Applied here up to this index.
    pub fn applied(&self, slot: Slot) -> LogIndex {
        self.io.lanes[slot.0 as usize].applied
    }

    /// The log, to be looked at.
    pub fn log(&self) -> &Wal<D> {
        &self.io.wal
    }

    /// The term of an entry, if the group knows it: of what was compacted or is behind the end it does not.
    pub fn term_at(&self, slot: Slot, index: LogIndex) -> Option<Term> {
        self.groups[slot.0 as usize].term_at(index)
    }

    /// A group's configuration in force, and its index.
    pub fn membership(&self, slot: Slot) -> (&Membership, LogIndex) {
        let group = &self.groups[slot.0 as usize];
        (group.membership(), group.membership_index())
    }

    /// This core.
    pub fn id(&self) -> CoreId {
        self.core
    }

    /// Whether the log had no space even for a term, a vote or the no-op of a leader: the groups concerned take part in
    /// nothing until it has.
    pub fn holds_unwritten(&self) -> bool {
        !self.io.unwritten.is_empty()
    }

    /// Entries that the cache gave up because of its bound, and reads of the log that failed.
    pub fn cache_evictions_and_read_errors(&self) -> (u64, u64) {
        (self.io.cache.evictions(), self.io.loads.errors())
    }
}
