//! The leader's side of log replication: proposals, appends, acknowledgements, commit (Raft paper, 5.3 and 5.4).

use crate::group::NUMBER_MAX;
use crate::inflights::APPEND_ENTRIES_MAX;
use crate::mutant;
use crate::progress::State;
use crate::quorum::{PeerSet, SELF, reached_by_quorum};
use crate::role::{Flags, INLINE_PEERS, RoleState};
use crate::sink::places;
use crate::{
    Append, AppendOutcome, AppendReply, Env, Fit, Group, LogIndex, NodeId, Proposed, Refused, Route, Sink,
    Term, VOTERS_MAX,
};

/// A leader repeats what got no answer after so many heartbeat intervals.
const REPEAT_AFTER_INTERVALS: u32 = 3;

impl Group {
    /// Appends `count` entries of `bytes` payload bytes together, if this node leads. The caller writes them, then calls
    /// [`Group::flush`] once per turn and group.
    ///
    /// # Errors
    /// [`Refused::NotLeader`], [`Refused::Transferring`], [`Refused::TooMuchUncommitted`]: nothing was appended.
    pub fn propose<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        count: u32,
        bytes: u32,
    ) -> Result<Proposed, Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        if let Some(to) = self.transferring() {
            return Err(Refused::Transferring { to });
        }
        self.check_uncommitted(env.config, count)?;
        let proposed = Proposed { first: self.tail.last.next(), term: self.term, epoch: self.epoch() };
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_add(bytes);
        // The last run is this term's since its no-op.
        self.tail.last = self.tail.last.plus(u64::from(count));
        Ok(proposed)
    }

    /// Sends what the turn left to send: appends to every peer whose window is open, the next read round or question to the
    /// leader. Once per turn for each group that was proposed to or read from.
    pub fn flush<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if !self.is_leader() {
            return self.maybe_ask_leader(env);
        }
        for peer in 0..self.peers() {
            self.send_appends(env, peer);
        }
        self.maybe_start_round(env);
    }

    /// Tells followers the commit index if no append has told them since it moved. The caller calls it ~5 ms after
    /// [`Sink::committed`] on a leader.
    pub fn flush_commit<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if !self.is_leader() {
            return;
        }
        self.flags.set(Flags::COMMIT_FLUSHED);
        for peer in 0..self.peers() {
            // Who has not acknowledged so far is told when it does.
            let has_it = self.progress(peer).is_some_and(|progress| progress.matched >= self.commit);
            if has_it && !self.told.contains(peer) {
                self.send_heartbeat(env, peer);
            }
        }
    }

    /// Entries that [`Sink::fit`] reported as loading are in memory.
    pub fn on_entries_loaded<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        for peer in 0..self.peers() {
            let RoleState::Leader(leader) = &mut self.role else { return };
            leader.progress(&mut self.cold.leader, peer).0.set_loading(false);
            self.send_appends(env, peer);
        }
    }

    // -- sending --------------------------------------------------------------------------------------------------

    /// Sends to a peer in contact whatever its state allows: one probe, or all that the window lets through.
    pub(crate) fn send_appends<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        if !self.is_reachable(env.config, peer) {
            return;
        }
        while self.send_append(env, peer) {}
    }

    /// Sends one append, if it may. Returns whether another may follow.
    fn send_append<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) -> bool {
        let route = self.route(peer);
        let RoleState::Leader(leader) = &mut self.role else { return false };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        let has_entries = progress.next <= self.tail.last;
        let is_probe = match progress.state {
            State::Snapshot => return false,
            State::Probe if progress.probe_is_sent() => return false,
            State::Probe => true,
            State::Replicate if !has_entries || progress.is_loading() => return false,
            State::Replicate if !progress.window_is_open(env.config) => return false,
            // Its answer opens the window again.
            State::Replicate if progress.inflight_count > 0 && env.sink.strikes(places::WINDOW_OF_ONE) => {
                return false;
            }
            State::Replicate => false,
        };
        let older = &self.cold.older_runs;
        let prev_index = LogIndex(progress.next.0 - 1);
        // The last run begins at the base or behind it: the steady path need not look at the cold base.
        if prev_index < self.tail.run_first && prev_index < older.base {
            self.begin_snapshot(env, peer);
            return false;
        }
        let prev_term = self.tail.term_at(older, prev_index).expect("between the base and the last index");
        let (mut count, mut bytes, mut entry_term) = (0, 0, self.term);
        if has_entries && !progress.is_loading() {
            let run_end = self.tail.run_end(older, progress.next);
            let last = run_end.min(prev_index.plus(APPEND_ENTRIES_MAX));
            let bytes_max =
                if env.sink.strikes(places::APPEND_OF_ONE) { 1 } else { env.config.append_bytes_max };
            match env.sink.fit(route, progress.next, last, bytes_max) {
                Fit::Ready { count: fits, bytes: of } => {
                    let asked = last.0 - prev_index.0;
                    assert!(fits >= 1 && u64::from(fits) <= asked, "{fits} of {asked} entries fit");
                    entry_term = self.tail.term_at(older, progress.next).expect("in the log");
                    (count, bytes) = (fits, of);
                }
                Fit::Loading => progress.set_loading(true),
            }
        }
        if is_probe {
            progress.set_probe_sent(true);
        } else if count == 0 {
            return false;
        } else {
            progress.sent(ring, u64::from(count), bytes);
        }
        let message =
            Append { term: self.term, prev_index, prev_term, entry_term, count, commit: self.commit };
        if prev_index.plus(u64::from(count)) >= self.commit {
            self.told.insert(peer);
        }
        env.sink.append(route, message);
        self.arm_repeat(env);
        !is_probe
    }

    /// Asks a peer again that has not answered, without entries: do you have what was sent? The answer frees the window or
    /// shows what got lost.
    fn repeat_append<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let Some(progress) = self.progress(peer) else { return };
        let prev_index = LogIndex(progress.next.0 - 1);
        let Some(prev_term) = self.term_at(prev_index) else {
            // The log was compacted beyond what is in flight.
            return self.reset_progress(env, peer);
        };
        let (term, commit) = (self.term, self.commit);
        let message = Append { term, prev_index, prev_term, entry_term: term, count: 0, commit };
        env.sink.append(self.route(peer), message);
    }

    /// Starts over with a peer: what was in flight may be lost. A peer in contact is probed at once, which also tells it
    /// who leads.
    pub(crate) fn reset_progress<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        if peer >= self.peers() {
            return;
        }
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        progress.become_probe(ring);
        self.told.remove(peer);
        self.send_appends(env, peer);
        if self.flags.has(Flags::ROUND_OPEN) {
            self.send_heartbeat(env, peer);
        }
    }

    /// Starts over with a peer that may be in another life: what it acknowledged in the life before is not counted any more. (Its
    /// disk may have lost it, see `lost.rs`.) It is asked where it is, beginning where it was.
    pub(crate) fn forget_progress<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        progress.become_probe(ring);
        if !mutant::MATCHED_REMEMBERED {
            progress.matched = LogIndex(0);
        }
        self.reset_progress(env, peer);
    }

    /// Sees to it that the leader's deadline comes while there is something that may have to be repeated. It is not moved
    /// with every append: it comes, finds that answers came, and moves on.
    pub(crate) fn arm_repeat<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let at = env.now.after(env.config.heartbeat_interval * REPEAT_AFTER_INTERVALS);
        self.deadline = self.deadline.min(at);
    }

    /// The leader's deadline: repeats what got no answer since the last one, and stays armed while answers are awaited.
    pub(crate) fn on_leader_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.deadline = crate::Moment::NEVER;
        let (mut is_waiting, mut awaits_snapshot) = (self.flags.has(Flags::ROUND_OPEN), false);
        for peer in 0..self.peers() {
            let reachable = self.is_reachable(env.config, peer);
            let RoleState::Leader(leader) = &mut self.role else { return };
            let (progress, _) = leader.progress(&mut self.cold.leader, peer);
            if progress.state == State::Snapshot {
                awaits_snapshot |= reachable;
                self.tend_snapshot(env, peer);
                continue;
            }
            let answered = progress.take_answered();
            if !reachable || !progress.awaits_answer() {
                continue;
            }
            is_waiting = true;
            if !answered {
                self.repeat_append(env, peer);
            }
        }
        self.repeat_round(env);
        self.repeat_transfer(env);
        if !self.is_leader() {
            return;
        }
        if is_waiting || self.flags.has(Flags::TRANSFER) {
            self.arm_repeat(env);
        }
        if awaits_snapshot {
            self.arm_snapshot(env);
        }
    }

    // -- acknowledgements -----------------------------------------------------------------------------------------

    /// Answer to [`Append`].
    pub fn on_append_reply<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &AppendReply) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if message.term > self.term {
            self.adopt_term(env, message.term);
            self.save(env);
            return;
        }
        if message.term < self.term || !self.is_leader() || peer >= self.peers() {
            return;
        }
        if self.flags.has(Flags::SPECIAL) {
            return self.on_special_outcome(env, peer, message.outcome);
        }
        self.on_outcome(env, peer, message.outcome);
    }

    #[inline]
    fn on_outcome<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, outcome: AppendOutcome) {
        match outcome {
            AppendOutcome::Matched(index) => self.on_matched(env, peer, index),
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                self.on_rejected(env, peer, prev_index, hint_index, hint_term);
            }
        }
    }

    /// The same, and then what a leader does about the configuration; last, because positions may change.
    #[cold]
    fn on_special_outcome<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, outcome: AppendOutcome) {
        self.on_outcome(env, peer, outcome);
        self.tend_members(env);
    }

    /// Inlined: the plain way of [`Group::on_append_reply`] is the hottest there is, and the other one is rare.
    #[inline(always)]
    fn on_matched<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, index: LogIndex) {
        if index > self.tail.last {
            return self.refuse_message();
        }
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        let advanced = index > progress.matched;
        progress.set_answered();
        match progress.state {
            State::Replicate => progress.arrived(ring, index),
            // A late answer from before the probe says nothing about the way as it is now, unless it is news.
            State::Probe if !advanced && index < progress.matched => return,
            State::Probe => {
                progress.matched = index;
                progress.become_replicate(ring);
            }
            State::Snapshot if index < self.cold.older_runs.base => return,
            State::Snapshot => {
                progress.matched = progress.matched.max(index);
                progress.become_replicate(ring);
                let spilled = peer.checked_sub(INLINE_PEERS);
                let node = spilled.map_or_else(|| self.ids[peer], |at| self.cold.more_ids[at]);
                env.sink.snapshot_unneeded(node);
            }
        }
        if advanced {
            progress.matched = index;
            progress.next = progress.next.max(index.next());
            self.maybe_commit(env);
        }
        self.send_appends(env, peer);
        if self.flags.has(Flags::TRANSFER) {
            self.maybe_order_campaign(env, peer);
        }
        if self.flags.has(Flags::COMMIT_FLUSHED) && !self.told.contains(peer) && index >= self.commit {
            self.send_heartbeat(env, peer);
        }
    }

    fn on_rejected<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        peer: usize,
        prev_index: LogIndex,
        hint_index: LogIndex,
        hint_term: Term,
    ) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (progress, ring) = leader.progress(&mut self.cold.leader, peer);
        let is_current = match progress.state {
            State::Probe => prev_index.0 == progress.next.0 - 1,
            State::Replicate => prev_index < progress.next,
            State::Snapshot => false,
        };
        // Matched once is matched for good in one term: a refusal of that came late (or the peer lost its log).
        if !is_current || prev_index <= progress.matched {
            return;
        }
        if hint_index > prev_index {
            return self.refuse_message();
        }
        progress.set_answered();
        // Whole terms are skipped: nothing of a term above the hint's can match at or before the hint. A hint before the
        // log's start stays as it is, and calls for a snapshot.
        let jump = self.tail.last_at_most(&self.cold.older_runs, hint_index, hint_term);
        let next =
            if hint_index < self.cold.older_runs.base { hint_index } else { jump }.next().min(prev_index);
        progress.become_probe_at(ring, next);
        self.told.remove(peer);
        self.send_appends(env, peer);
    }

    // -- commit ---------------------------------------------------------------------------------------------------

    /// Commits what is durable on a majority, if it is of this term (Raft paper, 5.4.2). The own copy counts by `durable`.
    pub(crate) fn maybe_commit<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let RoleState::Leader(leader) = &self.role else { return };
        let own = if mutant::OWN_COPY_EARLY { self.tail.last } else { self.durable };
        let index = if self.flags.has(Flags::SPECIAL) {
            self.reached_by_voters(self.vouched_until(own))
        } else {
            let peers = self.peers();
            let mut reached = [LogIndex(0); VOTERS_MAX];
            let all = leader.progress.iter().chain(&self.cold.leader.more_progress);
            for (slot, progress) in reached.iter_mut().zip(all.take(peers)) {
                *slot = progress.matched;
            }
            reached[peers] = own;
            reached_by_quorum(&mut reached[..=peers])
        };
        if index > self.commit && (index >= self.tail.run_first || mutant::COMMITS_OLDER_TERM) {
            self.commit_to(env, index);
            self.told = PeerSet::EMPTY;
            self.flags.clear(Flags::COMMIT_FLUSHED);
            self.release_uncommitted();
            self.maybe_start_round(env);
        }
    }

    /// The index that a quorum has reached, if not every peer is a voter, or more than one majority decides.
    #[cold]
    fn reached_by_voters(&self, own: LogIndex) -> LogIndex {
        let matched = |peer: usize| self.progress(peer).map_or(LogIndex(0), |progress| progress.matched);
        self.cold.members.voters.reached(|peer| if peer == SELF { own } else { matched(peer) })
    }

    pub(crate) fn commit_to<S: Sink>(&mut self, env: &mut Env<'_, S>, index: LogIndex) {
        assert!(index > self.commit && index <= self.tail.last, "commit {} to {index}", self.commit);
        self.commit = index;
        if self.flags.has(Flags::SPECIAL) {
            self.settle_members();
        }
        env.sink.committed(index);
    }

    /// Everything this group wrote up to the write of `epoch` that ended at `last` is durable. Completions of an epoch that
    /// ended (the log was truncated since) are ignored: the truncating write's own completion covers what stayed. On any
    /// member [`Group::applicable`] may have moved afterwards.
    ///
    /// # Panics
    /// If `last` is beyond the log: the caller reports a write that the group never asked for.
    pub fn on_durable<S: Sink>(&mut self, env: &mut Env<'_, S>, epoch: u32, last: LogIndex) {
        let last = if mutant::ABA { last.min(self.tail.last) } else { last };
        if (epoch != self.epoch() && !mutant::ABA) || last <= self.durable {
            return;
        }
        assert!(last <= self.tail.last, "durable {last} beyond the last index {}", self.tail.last);
        self.durable = last;
        if last > self.commit {
            self.maybe_commit(env);
            if self.flags.has(Flags::SPECIAL) {
                self.tend_members(env);
            }
        }
        if self.has_losses() {
            self.maybe_whole(env);
        }
    }

    /// The caller applied up to `index`.
    ///
    /// # Panics
    /// If `index` was not applicable: something uncommitted, or not durable here, was applied.
    pub fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.applicable(), "applied {index}, applicable is {}", self.applicable());
    }

    /// The position of a message's sender, if there is a way to it and the term is sane; otherwise the message is counted.
    #[inline]
    pub(crate) fn sender(&mut self, from: NodeId, term: Term) -> Option<usize> {
        let peer = self.peer(from).filter(|_| term.0 <= NUMBER_MAX);
        if peer.is_none() {
            self.refuse_message();
        }
        peer
    }

    /// Whether the way to a peer is known.
    pub(crate) fn has_route(&self, peer: usize) -> bool {
        self.route(peer) != Route::NONE
    }
}
