//! The follower's side: appends and heartbeats of the leader.

use crate::group::NUMBER_MAX;
use crate::mutant;
use crate::role::{Flags, Follower, RoleState};
use crate::{
    Accepted, Append, AppendOutcome, AppendReply, Env, Group, Heartbeat, HeartbeatReply, LogIndex,
    Membership, Moment, NodeId, Route, Sink, Term,
};

impl Group {
    /// AppendEntries. What is returned must be written (and kept for sending and applying) before any other call.
    ///
    /// `memberships` are the configurations among the entries carried, each with its index, ascending: the caller decodes
    /// them, and passes over an append with one that cannot be decoded. They are in force when this returns, if they are
    /// among the entries taken.
    pub fn on_append<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        message: &Append,
        memberships: &[(LogIndex, Membership)],
    ) -> Accepted {
        let nothing = Accepted { skip: message.count, take: 0, epoch: self.epoch() };
        let Some(peer) = self.sender(from, message.term) else { return nothing };
        if self.is_in_doubt() {
            return nothing;
        }
        if message.term < self.term {
            // A leader of the past. The term in the answer tells it.
            let outcome = self.rejection(message);
            self.reply_append(env, peer, outcome);
            return nothing;
        }
        if !is_sane(message, memberships) || !self.follow(env, peer, message.term) {
            self.refuse_message();
            self.save(env);
            return nothing;
        }
        self.save(env);
        self.append_entries(env, peer, message, memberships).unwrap_or_else(|Conflict| {
            self.refuse_message();
            nothing
        })
    }

    fn append_entries<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        mut peer: usize,
        message: &Append,
        memberships: &[(LogIndex, Membership)],
    ) -> Result<Accepted, Conflict> {
        let end = message.prev_index.plus(u64::from(message.count));
        // Up to the base everything is committed and gone, so it matches. The last run begins at the base or behind it: the
        // steady path need not look at the cold base.
        let base =
            if message.prev_index >= self.tail.run_first { LogIndex(0) } else { self.cold.older_runs.base };
        if message.prev_index >= base && self.term_at(message.prev_index) != Some(message.prev_term) {
            if message.prev_index <= self.commit {
                return Err(Conflict);
            }
            let outcome = self.rejection(message);
            self.reply_append(env, peer, outcome);
            return Ok(Accepted { skip: message.count, take: 0, epoch: self.epoch() });
        }
        let present = self.present_until(message.prev_index.max(base.min(end)), end, message.entry_term);
        if present < end {
            // Below the commit index nothing is replaced, and terms never fall along a log.
            if present < self.commit || self.term_at(present) > Some(message.entry_term) {
                return Err(Conflict);
            }
            let is_cut = present < self.tail.last;
            if is_cut && !self.may_truncate_members(present) {
                return Err(Conflict);
            }
            self.replace_from(present, end, message.entry_term);
            if is_cut || !memberships.is_empty() {
                let from = self.id(peer);
                self.members_replaced(env, present, memberships);
                peer = self.peer(from).expect("the leader that is followed has a position");
            }
        }
        let commit = message.commit.min(if mutant::COMMITS_LAST { self.tail.last } else { end });
        if commit > self.commit {
            self.commit_to(env, commit);
        }
        if self.has_losses() {
            self.see_commit(env, message.commit, end);
        }
        let matched = if mutant::REPORTS_LAST { self.tail.last } else { self.vouched_until(end) };
        self.reply_append(env, peer, AppendOutcome::Matched(matched));
        let skip = (present.0 - message.prev_index.0) as u32;
        Ok(Accepted { skip, take: message.count - skip, epoch: self.epoch() })
    }

    /// The last index up to which the entries after `from`, at most to `end`, are in the log with `term`.
    fn present_until(&self, from: LogIndex, end: LogIndex, term: Term) -> LogIndex {
        let older = &self.cold.older_runs;
        if from >= self.tail.last || from == end || self.tail.term_at(older, from.next()) != Some(term) {
            return from;
        }
        self.tail.run_end(older, from.next()).min(end)
    }

    /// Appends entries of `term` behind `keep` up to `end`, and cuts off what was there. Completions of the writes of what
    /// was cut must not vouch for what replaces it: a new epoch begins.
    fn replace_from(&mut self, keep: LogIndex, end: LogIndex, term: Term) {
        if keep < self.tail.last {
            assert!(keep >= self.commit, "truncation to {keep} below the commit index {}", self.commit);
            self.tail.truncate(&mut self.cold.older_runs, keep);
            self.durable = self.durable.min(keep);
            if self.flags.has(Flags::SPECIAL) {
                self.cold.vouched = self.cold.vouched.map(|vouched| vouched.min(keep));
            }
            self.epoch = self.epoch.wrapping_add(1);
        }
        self.tail.append(&mut self.cold.older_runs, end.0 - keep.0, term);
    }

    fn rejection(&self, message: &Append) -> AppendOutcome {
        let older = &self.cold.older_runs;
        // At most what was refused, minus one: asking for the same again would lead nowhere.
        let below = LogIndex(message.prev_index.0.saturating_sub(1));
        let hint_index = self.tail.last_at_most(older, below, message.prev_term);
        let hint_term = self.tail.term_at(older, hint_index).unwrap_or_default();
        AppendOutcome::Rejected { prev_index: message.prev_index, hint_index, hint_term }
    }

    fn reply_append<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, outcome: AppendOutcome) {
        let route = self.route(peer);
        if route != Route::NONE {
            env.sink.append_reply(route, AppendReply { term: self.term, outcome });
        }
    }

    /// "I lead this term", perhaps with a commit index and a round to confirm.
    pub fn on_heartbeat<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &Heartbeat) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if self.is_in_doubt() {
            return;
        }
        let is_stale = message.term < self.term;
        if !is_stale && !self.follow(env, peer, message.term) {
            return self.refuse_message();
        }
        self.save(env);
        if !is_stale && message.commit > self.commit {
            if message.commit <= self.tail.last {
                self.commit_to(env, message.commit);
            } else {
                // It names what we acknowledged, and we do not have it.
                self.refuse_message();
            }
        }
        if (is_stale || message.round != 0) && self.has_route(peer) {
            env.sink
                .heartbeat_reply(self.route(peer), HeartbeatReply { term: self.term, round: message.round });
        }
    }

    /// A message of the leader of `term`, which is at least the own one, came from `peer`: follow it. Returns false if
    /// that cannot be, because the term has another leader.
    pub(crate) fn follow<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize, term: Term) -> bool {
        let from = self.id(peer);
        if term > self.term {
            self.become_follower(env, term, from);
        }
        match &self.role {
            RoleState::Leader(_) => return false,
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => self.become_follower(env, term, from),
            RoleState::Follower(_) if self.leader == from => {}
            RoleState::Follower(_) if self.leader.is_some() => return false,
            RoleState::Follower(_) => {
                self.leader = from;
                self.tell_role(env);
            }
        }
        self.hear_leader(env, peer);
        true
    }

    fn hear_leader<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let RoleState::Follower(follower) = &mut self.role else { return };
        if !follower.heard {
            *follower = Follower { heard: true };
            self.cold.failed_campaigns = 0;
            self.cold.deferred = false;
            self.cold.members.asks_in_vain = false;
            self.settle_transfer(env);
            self.ask_again(env);
        }
        if self.alive.contains(peer) {
            self.deadline = Moment::NEVER;
        } else {
            self.arm_election(env);
        }
    }
}

/// An append contradicts what is committed here.
struct Conflict;

/// Whether an append makes sense in itself.
fn is_sane(message: &Append, memberships: &[(LogIndex, Membership)]) -> bool {
    let end = message.prev_index.0.checked_add(u64::from(message.count));
    let entry_term = if message.count == 0 { message.term } else { message.entry_term };
    end.is_some_and(|end| end <= NUMBER_MAX)
        && message.prev_term <= entry_term
        && entry_term <= message.term
        && (message.prev_index.0 > 0 || message.prev_term.0 == 0)
        && memberships.iter().all(|(index, _)| message.prev_index < *index && Some(index.0) <= end)
        && memberships.windows(2).all(|pair| pair[0].0 < pair[1].0)
}
