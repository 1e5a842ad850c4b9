//! Elections: campaigns, votes, and the changes of role (Raft paper, 5.2 and 5.4.1; dissertation, 9.6).

use std::time::Duration;

use crate::group::NUMBER_MAX;
use crate::mutant;
use crate::progress::Progress;
use crate::quorum::PeerSet;
use crate::role::{Candidate, Flags, Follower, INLINE_PEERS, Leader, PreCandidate, RoleState};
use crate::sink::places;
use crate::{
    Config, Env, Group, HistoryEvent, Moment, NodeId, Role, Route, Sink, StepDown, Term, VoteRefusal,
    VoteReply, VoteRequest,
};

/// Backoff after so many failed campaigns, in thousandths: times 1.5 each, capped at 8.
const BACKOFF_MILLIS: [u64; 7] = [1_000, 1_500, 2_250, 3_375, 5_063, 7_594, 8_000];

/// An election timeout that is made to come early is so many times as short.
const EARLY_BY: u64 = 16;

impl Group {
    /// Campaigns now (with a pre-vote, if the settings say so), as an operator may order. Ignored by a leader, by a member
    /// that is no voter, and while a lease granted in an earlier life may be in force.
    pub fn campaign<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if !self.is_leader()
            && env.now >= self.cold.may_vote_from
            && self.may_campaign()
            && !self.has_losses()
            && !self.is_unfit()
        {
            self.start_campaign(env);
            self.save(env);
        }
    }

    /// Asks whether this node would be elected, or campaigns.
    pub(crate) fn start_campaign<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.settle_transfer(env);
        self.lose_leader(env);
        let alone = self.is_quorum(PeerSet::EMPTY);
        let bound = env.now < self.cold.may_vote_from;
        if self.term.0 >= NUMBER_MAX {
            self.deadline = Moment::NEVER;
        } else if alone
            || mutant::ELEVATED_TERM
            || (!env.config.pre_vote && !bound && self.may_lead(env.config))
        {
            self.become_candidate(env, false);
        } else {
            // Without contact to a quorum a campaign is futile and would only inflate the term, and while bound to the leader
            // of before it is not allowed. The question is asked all the same: it tells whoever still believes that this
            // node leads that it does not.
            self.become_pre_candidate(env);
        }
    }

    /// Whether this node could stay leader if it were elected.
    pub(crate) fn may_lead(&self, config: &Config) -> bool {
        !config.check_quorum || self.has_quorum_in_contact()
    }

    fn become_pre_candidate<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.note(env.now, HistoryEvent::Rehearsed);
        self.role = RoleState::PreCandidate(PreCandidate::default());
        self.arm_election(env);
        self.tell_role(env);
        self.request_votes(env, true, false);
    }

    /// Enters the next term, votes for itself and asks the others to. The own vote counts once it is durable.
    pub(crate) fn become_candidate<S: Sink>(&mut self, env: &mut Env<'_, S>, transfer: bool) {
        if self.term.0 >= NUMBER_MAX {
            return;
        }
        self.settle_transfer(env);
        self.lose_forwarded(env);
        self.role =
            RoleState::Candidate(Candidate { own_vote: mutant::OWN_VOTE_EARLY, ..Candidate::default() });
        self.leader = NodeId::NONE;
        self.term = Term(self.term.0 + 1);
        self.cold.vote = self.cold.me;
        self.flags.set(Flags::UNSAVED);
        self.note(env.now, HistoryEvent::Campaigned { by_order: transfer });
        self.save(env);
        self.arm_election(env);
        self.tell_role(env);
        env.sink.own_vote_written(self.term);
        self.request_votes(env, false, transfer);
    }

    pub(crate) fn request_votes<S: Sink>(&mut self, env: &mut Env<'_, S>, pre_vote: bool, transfer: bool) {
        let term = if pre_vote { Term(self.term.0 + 1) } else { self.term };
        let (last_index, last_term) = (self.tail.last, self.tail.run_term);
        // Asked in vain before, perhaps because it was removed and was not told: whoever leads now tells it, if it is asked.
        let ask_all = pre_vote && (self.cold.failed_campaigns > 0 || self.cold.members.asks_in_vain);
        for peer in 0..self.known_nodes() {
            let route = self.route(peer);
            if route != Route::NONE && (ask_all || self.is_voter(peer)) {
                env.sink.vote_request(route, VoteRequest { pre_vote, transfer, term, last_index, last_term });
            }
        }
    }

    /// Answer to [`Sink::own_vote_written`]: the vote for itself in `term` is durable.
    pub fn on_vote_durable<S: Sink>(&mut self, env: &mut Env<'_, S>, term: Term) {
        if let RoleState::Candidate(candidate) = &mut self.role
            && term == self.term
        {
            candidate.own_vote = true;
            self.maybe_win(env);
            self.save(env);
        }
    }

    /// Answer to [`VoteRequest`].
    pub fn on_vote_reply<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &VoteReply) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if !message.granted {
            // Refusals need no counting, the deadline ends a campaign that gets no majority. But the term of the one
            // who refused is real, also in answer to a pre-vote: without it a lagging term could never campaign.
            if message.term > self.term {
                let rehearsed = matches!(self.role, RoleState::PreCandidate(_));
                self.adopt_term(env, message.term);
                if rehearsed && !mutant::TERM_BEHIND {
                    // Asked again at once, in that term. Until the next deadline somebody whose log is too short, or who is no
                    // member any more, might have raised the terms of the others again, and so on: the one that can win would
                    // always be one term behind.
                    self.become_pre_candidate(env);
                }
            }
        } else if message.pre_vote {
            let is_mine = message.term.0 == self.term.0 + 1;
            if let RoleState::PreCandidate(pre) = &mut self.role
                && is_mine
            {
                pre.granted.insert(peer);
                let granted = pre.granted;
                let elected = self.is_quorum(granted);
                if elected && env.now < self.cold.may_vote_from {
                    // Bound to the leader of before: asked again as soon as it is not.
                    self.deadline = self.deadline.min(self.cold.may_vote_from);
                } else if elected && self.may_lead(env.config) {
                    self.become_candidate(env, false);
                }
            }
        } else if let RoleState::Candidate(candidate) = &mut self.role
            && message.term == self.term
        {
            candidate.granted.insert(peer);
            self.maybe_win(env);
        }
        self.save(env);
    }

    fn maybe_win<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let RoleState::Candidate(candidate) = self.role else { return };
        if candidate.own_vote && self.is_quorum(candidate.granted) && self.may_lead(env.config) {
            self.become_leader(env);
        }
    }

    fn become_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.forget_parting();
        let probe = Progress::probe(self.tail.last.next());
        self.role = RoleState::Leader(Leader { progress: [probe; INLINE_PEERS] });
        self.leader = self.cold.me;
        self.note(env.now, HistoryEvent::Elected);
        self.cold.failed_campaigns = 0;
        self.cold.leader.lease.begin();
        self.cold.leader.reads.forget_questions();
        self.adopt_forwarded();
        self.cold.leader.more_progress.fill(probe);
        self.cold.leader.rings.iter_mut().for_each(|ring| ring.clear());
        self.deadline = Moment::NEVER;
        self.told = PeerSet::EMPTY;
        self.uncommitted_bytes = 0;
        self.tail.append(&mut self.cold.older_runs, 1, self.term);
        self.tell_role(env);
        env.sink.append_empty(self.tail.last, self.term, self.epoch());
        for peer in 0..self.peers() {
            self.send_appends(env, peer);
        }
    }

    /// Enters a higher term without knowing its leader.
    pub(crate) fn adopt_term<S: Sink>(&mut self, env: &mut Env<'_, S>, term: Term) {
        debug_assert!(term > self.term);
        self.leave_leader(env);
        self.become_follower(env, term, NodeId::NONE);
    }

    /// Follows `leader` (or nobody yet) in `term`, which is at least the present one. Ends a leadership.
    pub(crate) fn become_follower<S: Sink>(&mut self, env: &mut Env<'_, S>, term: Term, leader: NodeId) {
        assert!(term >= self.term, "a term never goes back, not from {} to {term}", self.term);
        let was_leader = self.is_leader();
        let later = term > self.term;
        if later {
            self.term = term;
            self.cold.vote = NodeId::NONE;
            self.flags.set(Flags::UNSAVED);
        }
        if was_leader {
            self.leave_transfer();
            let why = match later {
                true => StepDown::LaterTerm,
                false if self.is_unfit() && self.may_lead(env.config) => StepDown::Unreadable,
                false => StepDown::NoQuorum,
            };
            self.note(env.now, HistoryEvent::SteppedDown { why });
            self.cold.members.asks_in_vain = !self.may_campaign() || self.is_unfit();
            self.cold.leader.reads.forget_questions();
            self.flags.clear(Flags::LEADERSHIP);
            self.uncommitted_bytes = 0;
            env.sink.leadership_lost(term);
        }
        self.role = RoleState::Follower(Follower::default());
        self.leader = leader;
        if !leader.is_some() {
            self.lose_forwarded(env);
        }
        if was_leader || self.deadline == Moment::NEVER {
            self.arm_election(env);
        }
        self.tell_role(env);
    }

    /// Whoever was believed to lead is given up: the group is bound to it as far as it promised.
    fn lose_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.leave_leader(env);
        self.lose_forwarded(env);
    }

    /// Whoever was believed to lead does not: wait for another, or campaign.
    pub(crate) fn forget_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.lose_forwarded(env);
        self.role = RoleState::Follower(Follower::default());
        self.leader = NodeId::NONE;
        self.arm_election(env);
        self.tell_role(env);
    }

    /// RequestVote or PreVote.
    pub fn on_vote_request<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &VoteRequest) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if self.leader == from && message.term > self.term {
            // It asks for votes in a later term than the one it led: it leads no more.
            self.forget_leader(env);
        }
        let sticks = message.term > self.term && self.sticks_to_leader(env.config) && !message.transfer;
        if !sticks && !message.pre_vote && message.term > self.term {
            if message.transfer {
                // The leader ordered it, and holds no lease since.
                self.become_follower(env, message.term, NodeId::NONE);
            } else {
                self.adopt_term(env, message.term);
            }
        }
        let bound = self.bound_until(env);
        let refusal = if sticks {
            Some(VoteRefusal::HasLeader(self.leader))
        } else if message.pre_vote && env.now < bound {
            Some(VoteRefusal::Bound)
        } else {
            self.vote_refusal(env.now, from, message)
        };
        let granted = refusal.is_none();
        if let Some(why) = refusal {
            self.note(env.now, HistoryEvent::Refused { candidate: from, pre_vote: message.pre_vote, why });
        } else if !message.pre_vote {
            self.note(env.now, HistoryEvent::Voted { candidate: from });
            if self.cold.vote != from {
                self.cold.vote = from;
                if !mutant::VOTE_UNSAVED {
                    self.flags.set(Flags::UNSAVED);
                }
            }
            self.arm_election(env);
        }
        self.save(env);
        let route = self.route(peer);
        if route != Route::NONE {
            let term = if granted { message.term } else { self.term };
            env.sink.vote_reply(route, VoteReply { pre_vote: message.pre_vote, granted, term });
        }
        if self.is_leader() {
            // It has lost its leader. Here I am; if its term is the higher one, its answer will say so.
            self.announce(env, peer);
            self.tell_of_removal(env, from);
            self.arm_repeat(env);
        }
    }

    /// Leader stickiness: whoever is in contact with a working leader helps nobody to depose it.
    fn sticks_to_leader(&self, config: &Config) -> bool {
        let in_contact = match self.role {
            RoleState::Leader(_) => self.has_quorum_in_contact(),
            RoleState::Follower(_) => self.peer(self.leader).is_some_and(|peer| self.alive.contains(peer)),
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => false,
        };
        config.check_quorum && in_contact && !mutant::ELEVATED_TERM
    }

    /// Why the candidate may not be voted for, if so: the votes of the term, and the logs as they are in memory. (Our answer and
    /// the candidate's question both wait until the logs they speak of are durable.)
    fn vote_refusal(&self, now: Moment, candidate: NodeId, message: &VoteRequest) -> Option<VoteRefusal> {
        let nobody = self.cold.vote == NodeId::NONE && self.leader == NodeId::NONE;
        let in_time = if message.pre_vote { message.term > self.term } else { message.term == self.term };
        if !in_time {
            return Some(VoteRefusal::OldTerm);
        }
        if !message.pre_vote && !nobody && self.cold.vote != candidate {
            let other = if self.cold.vote.is_some() { self.cold.vote } else { self.leader };
            return Some(VoteRefusal::VotedFor(other));
        }
        if (message.last_term, message.last_index) < (self.tail.run_term, self.tail.last) {
            return Some(VoteRefusal::LogBehind { mine: self.tail.last, theirs: message.last_index });
        }
        if self.is_in_doubt() {
            return Some(VoteRefusal::StateInDoubt);
        }
        if let Some(floor) = self.floor_above(message) {
            return Some(VoteRefusal::LogBehind { mine: floor.index, theirs: message.last_index });
        }
        (now < self.cold.may_vote_from).then_some(VoteRefusal::Bound)
    }

    /// How much a node is wanted as the leader.
    pub(crate) fn priority(&self, node: NodeId) -> u8 {
        self.cold.priorities.iter().find(|(named, _)| *named == node).map_or(0, |(_, priority)| *priority)
    }

    /// How many voters in contact are wanted more as the leader than this node, three at most.
    fn voters_before(&self) -> u64 {
        if self.cold.priorities.is_empty() {
            return 0;
        }
        let mine = self.priority(self.cold.me);
        let before = (0..self.peers()).filter(|&peer| {
            self.alive.contains(peer) && self.is_voter(peer) && self.priority(self.id(peer)) > mine
        });
        before.take(3).count() as u64
    }

    // -- the election deadline ------------------------------------------------------------------------------------

    /// Draws a new election deadline. Without a single peer in contact there is none: contact will wake the group.
    pub(crate) fn arm_election<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        // An isolated node that still believes in a leader needs the deadline to forget it.
        let may_campaign = self.may_campaign() || self.cold.members.asks_in_vain;
        if (self.is_isolated(env.config) || !may_campaign) && !self.leader.is_some() {
            // It may never hear who leads.
            self.settle_transfer(env);
            self.deadline = Moment::NEVER;
            return;
        }
        let base = nanos(env.config.election_base);
        let mut delay =
            base.saturating_add(env.random.below(nanos(env.config.election_spread).saturating_add(1)));
        let preferred = self.cold.preferred;
        if preferred == self.cold.me {
            delay /= 2;
        } else if self.peer(preferred).is_some_and(|peer| self.alive.contains(peer) && self.is_voter(peer)) {
            // A head start for the one that should lead, as long as it is there to use it.
            delay = delay.saturating_add(base);
        }
        let failed = usize::from(self.cold.failed_campaigns).min(BACKOFF_MILLIS.len() - 1);
        let mut delay = (delay / 1_000).saturating_mul(BACKOFF_MILLIS[failed]);
        if env.sink.strikes(places::EARLY_ELECTION) {
            delay /= EARLY_BY;
        }
        self.deadline = env.now.after(Duration::from_nanos(delay)).max(self.cold.may_vote_from);
    }

    /// Draws the deadline of a group that has just lost its leader, or has just come into contact: the preferred leader
    /// campaigns at once if it sees a quorum.
    pub(crate) fn arm_first_campaign<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let is_preferred = self.cold.preferred == self.cold.me && self.cold.failed_campaigns == 0;
        if !is_preferred || !self.may_campaign() || !self.may_lead(env.config) || self.is_isolated(env.config)
        {
            return self.arm_election(env);
        }
        // Almost at once: its many groups should not all do so in one turn, and the others may have started a little later and
        // may not vote yet.
        let delay = env.random.below(nanos(env.config.election_base) / 8 + 1);
        let bound = self.bound_until(env).max(self.cold.may_vote_from);
        self.deadline = env.now.max(bound).after(Duration::from_nanos(delay));
    }

    /// Whether the rehearsal would have led to a campaign, but for a promise to the leader of before.
    fn was_bound(&self) -> bool {
        matches!(self.role, RoleState::PreCandidate(pre) if self.is_quorum(pre.granted))
    }

    /// Whether nobody is in contact who could vote for this node or hear that it leads no more.
    fn is_isolated(&self, config: &Config) -> bool {
        let is_alone = self.alive.first(self.peers()).is_empty();
        is_alone && config.check_quorum && !self.is_quorum(PeerSet::EMPTY)
    }

    /// The election deadline passed.
    pub(crate) fn on_election_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.has_losses() {
            return self.on_lost_deadline(env);
        }
        if env.now < self.cold.may_vote_from {
            self.deadline = self.cold.may_vote_from;
            return;
        }
        if self.is_unfit() {
            // Somebody else has to lead; the next deadline comes when that has changed.
            self.leave_leader(env);
            self.forget_leader(env);
            if self.cold.members.asks_in_vain {
                self.ask_for_votes_in_vain(env);
            }
            return;
        }
        if let RoleState::Candidate(Candidate { own_vote: false, .. }) = self.role {
            // The disk is slower than the election: another term would only give it more to write.
            return self.arm_election(env);
        }
        let before = self.voters_before();
        if before > 0 && self.role() == Role::Follower && !self.cold.deferred {
            // Once: if those that are wanted more cannot win, this one must.
            self.cold.deferred = true;
            let delay = nanos(env.config.election_base).saturating_mul(before);
            self.deadline = env.now.after(Duration::from_nanos(delay));
            return;
        }
        if self.role() != Role::Follower && !self.was_bound() {
            self.cold.failed_campaigns = self.cold.failed_campaigns.saturating_add(1);
        }
        if self.is_isolated(env.config) || !self.may_campaign() {
            self.leave_leader(env);
            self.forget_leader(env);
            if self.cold.members.asks_in_vain {
                // More and more rarely, if nobody answers.
                self.cold.failed_campaigns = self.cold.failed_campaigns.saturating_add(1);
                self.ask_for_votes_in_vain(env);
            } else if !self.may_campaign() && self.membership().contains(self.cold.me) {
                self.cold.members.asks_in_vain = true;
                self.arm_election(env);
            }
        } else {
            self.start_campaign(env);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
