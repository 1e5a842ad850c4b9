//! Snapshots and compaction: what they mean to the protocol (Raft paper, section 7; dissertation, chapter 5).
//!
//! A snapshot stands for the committed log up to an index. The group knows of one what a log would tell at that index: the term, and
//! the configuration in force. Bytes, files and transfers are the caller's.
//!
//! # On the leader
//!
//! A peer that needs entries which the log no longer has is sent nothing but a snapshot: [`Sink::snapshot_wanted`] asks for it, once
//! per attempt. An attempt ends when the peer is found to have what it needs ([`Sink::snapshot_unneeded`]: it acknowledges the
//! start of the log or more, however it got there), when the caller reports its end ([`Group::on_snapshot_report`]), when the way
//! to the peer or contact with it changes, with the leadership, or when nothing was heard of it for [`SNAPSHOT_SILENCE_INTERVALS`]; if
//! the peer still needs a snapshot then, that is the next attempt. Now and then the peer is asked whether it has the start of the
//! log by now, so no lost word leaves it waiting for ever.
//!
//! # On the receiver
//!
//! Whatever the process is doing when it ends, it must come back consistent, so the caller goes in this order:
//!
//! 1. The snapshot is **complete and durable** under its final name, and its state has been built beside the one in use.
//!    ([`Group::needs_snapshot`] says at its first byte whether it is worth the effort.)
//! 2. [`Group::on_snapshot`] decides, and moves the group's log. The caller moves its own accordingly, in the log's writing order:
//!    [`SnapshotDecision::FastForward`] forgets the entries up to the index, [`SnapshotDecision::Replace`] all of them, also those
//!    behind the index: the next entry is `index + 1`, and what was behind must not come back with a restart.
//! 3. State, sessions and the last applied configuration are swapped before anything else is applied.
//! 4. The answer that step 2 gave to the sink is **parked** like any other, so it leaves when the log is durable.
//!
//! A process that ended in between finds with [`Start::join`] where it was: a snapshot ahead of its log, or beside a log that parted
//! from it, is the end of step 1; the log is moved then as step 2 would have.
//!
//! A snapshot is sent, or kept to start from, only with the configuration that was **applied** last at its index; a member that
//! has not applied any yet takes none.

use crate::group::NUMBER_MAX;
use crate::history::HistoryEvent;
use crate::mutant;
use crate::progress::State;
use crate::role::RoleState;
use crate::{
    Append, AppendOutcome, AppendReply, Env, Group, LogIndex, Membership, NodeId, Route, Sink, Term,
};

#[cfg(doc)]
use crate::Start;

/// The leader asks a peer so often, in heartbeat intervals, whether it has the start of the log by now.
const ASK_AFTER_INTERVALS: u32 = 30;

/// An attempt of which nothing was heard for so many heartbeat intervals is over, and the peer is looked at anew. Callers that make
/// transfers wait for their turn report [`SnapshotStatus::Moving`] more often.
pub const SNAPSHOT_SILENCE_INTERVALS: u32 = 300;

/// What the group has to know of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry that it stands for.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// The configuration in force at `index`: the last one applied.
    pub membership: Membership,
    /// The index of its entry; 0 for the founding one.
    pub membership_index: LogIndex,
}

/// What a peer needs: see [`Sink::snapshot_wanted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// The leader's term: it goes along with every part of the snapshot, and to [`Group::on_snapshot`] with the whole.
    pub term: Term,
    /// A snapshot of this index or a later one is of use; with an earlier one entries would be missing behind it.
    pub at_least: LogIndex,
}

/// How it goes with a snapshot for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// The transfer waits for its turn or goes on: the peer answers.
    Moving,
    /// The peer said that it has installed a snapshot up to here. (Its [`AppendReply`] says the same and suffices.)
    Installed(LogIndex),
    /// The transfer broke off: no connection, the file is gone. Tried again soon.
    Failed,
    /// The peer does not take it: its disk is full, its own state is in doubt, it cannot read the format. Tried again later.
    Refused,
}

/// What a receiver does with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotDecision {
    /// Nothing: it comes from a leader of the past, contradicts what is committed here, or this member vouches for nothing at
    /// present. The caller forgets it.
    Refused,
    /// Nothing: what it stands for is committed here. The leader was told how far the log is. The caller forgets it.
    AlreadyHave,
    /// The log has the entry that the snapshot ends with. It begins behind it now, and keeps what follows.
    FastForward,
    /// The log is empty now and continues behind the snapshot; entries are written in this epoch from here on.
    Replace {
        /// For [`Group::on_durable`].
        epoch: u32,
    },
}

impl SnapshotDecision {
    /// Whether the caller's log and state have to be moved.
    pub fn installs(self) -> bool {
        matches!(self, SnapshotDecision::FastForward | SnapshotDecision::Replace { .. })
    }
}

impl SnapshotMeta {
    /// Whether it makes sense in itself.
    pub(crate) fn is_sane(&self) -> bool {
        (1..=NUMBER_MAX).contains(&self.index.0)
            && (1..=NUMBER_MAX).contains(&self.term.0)
            && self.membership_index <= self.index
            && !self.membership.voters().is_empty()
    }
}

// -- the log's start --------------------------------------------------------------------------------------------------

impl Group {
    /// Up to where the log may be forgotten when a snapshot up to `snapshot` is durable and `keep_trailing` of the entries that it
    /// stands for stay for peers that are a little behind. `None`: there is nothing to forget. A leader's caller that wants
    /// to wait for a peer compares with [`Group::needed_from`].
    pub fn compactable(&self, snapshot: LogIndex, keep_trailing: u64) -> Option<LogIndex> {
        let index = LogIndex(snapshot.min(self.applicable()).0.saturating_sub(keep_trailing));
        (index > self.cold.older_runs.base).then_some(index)
    }

    /// The log was compacted: entries up to `index`, which are applied and part of a durable snapshot, are gone. Nothing happens if
    /// they were gone before.
    ///
    /// # Panics
    /// If `index` is not applicable: something uncommitted, or not durable here, would be forgotten.
    pub fn compacted(&mut self, index: LogIndex) {
        assert!(index <= self.applicable(), "compacted to {index}, applicable is {}", self.applicable());
        if index > self.cold.older_runs.base {
            self.tail.compact(&mut self.cold.older_runs, index);
        }
    }
}

// -- the leader -------------------------------------------------------------------------------------------------------

impl Group {
    /// How it goes with the snapshot that [`Sink::snapshot_wanted`] asked for. Reports that come late, or twice, change nothing.
    pub fn on_snapshot_report<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        peer: NodeId,
        status: SnapshotStatus,
    ) {
        let Some(peer) = self.peer(peer).filter(|&peer| peer < self.peers()) else { return };
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        if progress.state != State::Snapshot && !mutant::SNAPSHOT_TWICE {
            return;
        }
        match status {
            SnapshotStatus::Moving => progress.snapshot_moved(env.now),
            SnapshotStatus::Installed(index) => {
                progress.become_probe_at(ring, LogIndex(index.0.min(self.tail.last.0)).next());
                self.send_appends(env, peer);
            }
            SnapshotStatus::Failed => {
                // Not again at once: the repeat deadline probes, and asks for another snapshot if it must.
                let next = progress.next;
                progress.become_probe_at(ring, next);
                progress.set_probe_sent(true);
                progress.take_answered();
                self.arm_repeat(env);
            }
            SnapshotStatus::Refused => {
                let early = SNAPSHOT_SILENCE_INTERVALS - ASK_AFTER_INTERVALS;
                progress.snapshot_refused(env.now, env.config.heartbeat_interval * early);
                self.arm_snapshot(env);
            }
        }
    }

    /// A peer needs entries that the log no longer has.
    #[cold]
    pub(crate) fn begin_snapshot<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let at_least = self.cold.older_runs.base;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        progress.become_snapshot(ring, at_least, env.now);
        self.arm_snapshot(env);
        let wanted = SnapshotWanted { term: self.term, at_least };
        env.sink.snapshot_wanted(self.id(peer), self.route(peer), wanted);
    }

    /// The leader's deadline, for a peer that waits for a snapshot.
    pub(crate) fn tend_snapshot<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let interval = env.config.heartbeat_interval;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        let (moved, asked) = progress.snapshot_since(env.now);
        if moved >= interval * SNAPSHOT_SILENCE_INTERVALS {
            progress.become_probe(ring);
            self.send_appends(env, peer);
        } else if asked >= interval * ASK_AFTER_INTERVALS {
            progress.snapshot_asked(env.now);
            let prev_index = self.cold.older_runs.base;
            let prev_term = self.term_at(prev_index).expect("the term before the first entry is known");
            let (term, commit) = (self.term, self.commit);
            let message = Append { term, prev_index, prev_term, entry_term: term, count: 0, commit };
            env.sink.append(self.route(peer), message);
        }
    }

    /// Sees to it that the leader's deadline comes for a peer that waits for a snapshot.
    pub(crate) fn arm_snapshot<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let at = env.now.after(env.config.heartbeat_interval * ASK_AFTER_INTERVALS);
        self.deadline = self.deadline.min(at);
    }
}

// -- the receiver -----------------------------------------------------------------------------------------------------

impl Group {
    /// Whether a snapshot up to `index` that a leader of `leader_term` offers would be installed as things are now: for the first
    /// part of it. If not, [`Group::on_snapshot`] with what was announced says so to the leader; nothing is installed then.
    ///
    /// A member that cannot read all of its log ([`Group::set_fit`]) takes one of what is committed here, too: the entries that it
    /// cannot apply may be in no log any more. Its caller offers it none that is not ahead of what it has applied.
    pub fn needs_snapshot(&self, leader_term: Term, index: LogIndex) -> bool {
        let is_news = index > self.commit || self.cannot_read(index);
        leader_term >= self.term && is_news && !self.is_in_doubt()
    }

    /// Whether the entry at `index` may be one of those that the caller cannot read.
    fn cannot_read(&self, index: LogIndex) -> bool {
        self.cold.vouched.is_some() && (self.first_index()..=self.tail.last).contains(&index)
    }

    /// A snapshot that the leader `from` of `leader_term` offered, wherever its bytes came from, is complete and durable. What the
    /// caller does in which order is told at the top of this module's file; the decision is to be carried out before any
    /// other call.
    pub fn on_snapshot<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        leader_term: Term,
        snapshot: &SnapshotMeta,
    ) -> SnapshotDecision {
        let Some(peer) = self.sender(from, leader_term) else { return SnapshotDecision::Refused };
        if self.is_in_doubt() {
            return SnapshotDecision::Refused;
        }
        if leader_term < self.term {
            // A leader of the past. The term in the answer tells it.
            let hint_index = self.commit.min(LogIndex(snapshot.index.0.saturating_sub(1)));
            let hint_term = self.term_at(hint_index).unwrap_or_default();
            let prev_index = snapshot.index;
            self.answer_snapshot(env, peer, AppendOutcome::Rejected { prev_index, hint_index, hint_term });
            return SnapshotDecision::Refused;
        }
        let is_sane = snapshot.is_sane() && snapshot.term <= leader_term;
        if !is_sane || !self.follow(env, peer, leader_term) {
            self.refuse_message();
            self.save(env);
            return SnapshotDecision::Refused;
        }
        self.save(env);
        let known = self.term_at(snapshot.index);
        let has_it = known == Some(snapshot.term);
        // What is committed here and cannot be read is of use once more.
        let is_news = snapshot.index > self.commit || (has_it && self.cannot_read(snapshot.index));
        let contradicts =
            if is_news { has_it && self.is_stale(snapshot) } else { known.is_some() && !has_it };
        if contradicts {
            self.refuse_message();
            return SnapshotDecision::Refused;
        }
        if !is_news {
            // What is committed here is in the log of every later leader, so the logs are equal up to there.
            self.answer_snapshot(env, peer, AppendOutcome::Matched(self.commit));
            return SnapshotDecision::AlreadyHave;
        }
        let decision = if has_it && !mutant::SNAPSHOT_DROPS_LOG {
            self.fast_forward(snapshot);
            SnapshotDecision::FastForward
        } else {
            self.replace_log(snapshot, leader_term);
            SnapshotDecision::Replace { epoch: self.epoch() }
        };
        let keeps = decision == SnapshotDecision::FastForward;
        self.members_installed(env, snapshot, keeps);
        self.note(env.now, HistoryEvent::SnapshotInstalled { index: snapshot.index });
        if self.has_losses() {
            self.maybe_whole(env);
        }
        let peer = self.peer(from).expect("the leader that is followed has a position");
        self.answer_snapshot(env, peer, AppendOutcome::Matched(snapshot.index));
        decision
    }

    /// Whether a snapshot comes with another configuration than the one in force at its index in this log, which has its last entry
    /// and hence all before it. What was in force before the newest committed configuration is not remembered: of a snapshot from
    /// there, which only a member wants that cannot read its log, nothing says so.
    fn is_stale(&self, snapshot: &SnapshotMeta) -> bool {
        let known = self.membership_index_at(snapshot.index);
        known.map_or(snapshot.index >= self.commit, |known| known != snapshot.membership_index)
    }

    fn fast_forward(&mut self, snapshot: &SnapshotMeta) {
        self.commit = self.commit.max(snapshot.index);
        self.durable = self.durable.max(snapshot.index);
        self.tail.compact(&mut self.cold.older_runs, snapshot.index);
    }

    /// Completions of the writes of what is gone must not vouch for what follows: a new epoch begins.
    fn replace_log(&mut self, snapshot: &SnapshotMeta, leader_term: Term) {
        let term = if mutant::SNAPSHOT_WRONG_TERM { leader_term } else { snapshot.term };
        self.tail.replace(&mut self.cold.older_runs, snapshot.index, term);
        (self.commit, self.durable) = (snapshot.index, snapshot.index);
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn answer_snapshot<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, outcome: AppendOutcome) {
        let route = self.route(peer);
        if route != Route::NONE {
            env.sink.append_reply(route, AppendReply { term: self.term, outcome });
        }
    }
}
