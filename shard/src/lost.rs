//! A member whose disk lost something that it had vouched for.
//!
//! Raft's safety rests on two promises that a member keeps across restarts: entries it acknowledged stay, and it votes once per term. A
//! damaged disk breaks them, so the member must not go on as if nothing had happened, nor start over as if it were new.
//! It comes back with [`HardState::lost`](crate::HardState::lost) set, which is itself durable, so that another restart does not forget it.
//!
//! # The log is incomplete
//!
//! The caller cuts the log before the damage and names a *floor*: nothing that was ever acknowledged is further than it, in the
//! order that votes compare, `(term, index)`. Until the log is whole again the member
//!
//! - does not campaign: as a leader it would lack what it acknowledged;
//! - votes only for candidates whose log reaches the floor. It is then as if the log were undamaged: whoever the undamaged
//!   member would have refused is refused;
//! - follows and acknowledges what it gets: its rejection of an append behind its end asks the leader for the missing range, and
//!   what it acknowledges anew is durable anew.
//!
//! The log is whole when it is durable up to the floor. Everything in it came from leaders of terms at or above all that the member
//! ever acknowledged in; such leaders have all entries `e` that this member helped to commit, at their indexes. If the last
//! entry has a later term than the floor, `e` lies before it because terms never fall along a log; if it has the floor's term
//! and reaches its index, so does every `e`.
//!
//! The floor may be unknown in its index: a leader that stays for long might never get past its term. So the log is whole, too, when
//! it holds the commit index that its leader announced **after this member came back**, in the leader's own term: that leader has
//! counted everything that the member acknowledged before. It must not count that later: a leader forgets what a peer matched
//! when the way to it changes ([`Group::on_route`]).
//!
//! # Term and vote are in doubt
//!
//! The newest hard state may be lost, and with it a vote. Until it is settled the member neither votes, campaigns nor acknowledges. It
//! asks every other voter for its term. Whoever it may have voted for had that vote's term then and has at least it now;
//! so the highest of the answers is at least the term of any vote that was given to another. (A vote for itself in a campaign that
//! nobody heard of ended with that campaign.) The member enters the highest term with its vote spent. A member
//! that is itself in doubt does not answer, because its own term may have gone back. If a voter never answers, the member has
//! to be replaced.
//!
//! The voters it knows may be those of an older configuration: the same damage may have taken a newer one, or it may have voted for a
//! candidate of one that it never had. So every report names the voters of its sender's configuration, and all who are
//! named are asked as well. That finds whoever could have been elected with the vote: its configuration was appended by a leader that
//! is a voter of the one before, which goes back, configuration by configuration, to the one that this member has. That leader's
//! log still has it, and its report names the candidate, or its log has something newer instead, which somebody in the
//! candidate's majority had to have as well, and did not vote. Therefore a member whose log is incomplete does not report before it is whole: its
//! newer configurations may be what it lost.
//!
//! # The log is known and cannot be read everywhere
//!
//! A disk may lose entries while the member runs ([`Group::set_fit`]). Indexes and terms are in memory, so the member keeps both
//! promises as if nothing had happened: it refuses whom it would have refused, and what it acknowledged stays acknowledged, for after a
//! restart the range counts as lost and the floor of above holds. What it cannot do is to hand on what it cannot read. So it does not
//! campaign, is not handed leadership, and as a leader hands over.
//!
//! Nor does any further commit rest on a disk that has just shown what it is: until the range is back it takes entries, as a follower
//! and as a leader, but does not acknowledge them before others have committed them. (To acknowledge would break no promise, but a
//! commit that rests on it has a copy less than it seems to have as soon as the node restarts.) A leader notices nothing but a peer whose
//! answers lag behind. Where a quorum needs this member, writes wait for the repair.
//!
//! As long as handing over does not succeed it leads on. To step down at once would save no commit, since leadership commits nothing
//! that a quorum does not hold. And it would cost: reads need a leader and not the missing range; writes go on if a quorum of others is
//! there (only who is far behind has to wait); and if all others are unfit as well, nobody would lead in its place although every
//! state machine is complete, and the snapshot that makes the range superfluous could not be sent.
//!
//! One leader must go: the one whose followers wait for the very entries that it cannot read. Nobody may have them (they were not
//! committed, and its disk was the only one), so nothing will ever bring them back; it cannot hand over, for its successor would have to
//! have them; and its followers stick to it. Hence a leader steps down ([`Group::is_in_the_way`]) when during a whole transfer
//!
//! - nothing was committed although something was to be,
//! - a voter in contact waited for entries that could not be read, and
//! - the voters in contact are a quorum **without** it.
//!
//! By the last of these they can elect one of them, who goes on from what they have: if that lacks an entry, no quorum had
//! it, and it was not committed. Where they need this member's vote they would not get it, because its log goes further than theirs
//! and may be what was committed; then its leadership is worth more than none, and the group waits for whoever is missing.
//!
//! Contact does not end with a leadership. So the member says that it leads no more, as one does that was removed, until somebody
//! else leads.
//!
//! Source: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage" (FAST 2018), for the problem and for never
//! treating damage as a crash.

use std::fmt;

use crate::mutant;
use crate::quorum::PeerSet;
use crate::role::{Flags, RoleState};
use crate::{Env, Group, LogIndex, Moment, NodeId, Route, Sink, Term, TermQuery, TermReport, VoteRequest};

/// Nodes that report, or are named in reports, at most: more than any history of configurations has that is worth waiting for. A member that
/// would have to ask more of them stays in doubt, and is replaced.
const NAMED_MAX: usize = 64;

/// The end of a log, in the order that votes compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: Term,
    /// Index of the last entry.
    pub index: LogIndex,
}

/// What a member's disk lost. See the module's file for what follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lost {
    /// Entries that were acknowledged may be missing behind the end of the log; nothing that was acknowledged is further than
    /// this. Index `u64::MAX`: not known how far.
    pub log: Option<LogEnd>,
    /// The newest term and vote may be missing.
    pub state: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.log {
            None => {}
            Some(LogEnd { index: LogIndex(u64::MAX), .. }) => write!(f, "entries behind the end of the log")?,
            Some(LogEnd { index, term }) => write!(f, "entries up to {index} of term {term} at most")?,
        }
        if self.state {
            write!(f, "{}term and vote", if self.log.is_some() { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl Lost {
    /// Nothing.
    pub const NOTHING: Lost = Lost { log: None, state: false };

    /// Whether something is.
    pub fn is_any(self) -> bool {
        self != Lost::NOTHING
    }
}

/// How far a member with losses is on its way back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Recovering {
    pub(crate) lost: Lost,
    /// The log is whole when it is durable up to here.
    whole_at: Option<LogIndex>,
    /// Who reported a term, and the highest of the terms.
    reported: Vec<NodeId>,
    reported_term: Term,
    /// Who decides by the configurations of those that reported.
    named: Vec<NodeId>,
}

impl Recovering {
    pub(crate) fn new(lost: Lost) -> Recovering {
        Recovering { lost, ..Recovering::default() }
    }
}

impl Group {
    /// What this member's disk lost and is not made up for yet.
    pub fn lost(&self) -> Lost {
        if self.has_losses() { self.cold.recovering.lost } else { Lost::NOTHING }
    }

    /// Whether the caller can read all entries that this member has. One that cannot (a disk lost them while it ran, and they are
    /// being fetched from the others) knows its log as well as before: it votes and follows as it would. But no commit rests on it
    /// any more, and it does not campaign, for it could not send what it lacks; as a leader the caller has it hand over. Alone it has
    /// no choice. The module's file has the argument.
    pub fn set_fit<S: Sink>(&mut self, env: &mut Env<'_, S>, fit: bool) {
        if fit == self.cold.vouched.is_none() {
            return;
        }
        self.cold.vouched = if fit { None } else { Some(self.durable) };
        self.mark_special();
        // What waited for the own copy. (The others' leader asks again for what it got no answer to.)
        if fit {
            self.maybe_commit(env);
        }
    }

    /// See [`Group::set_fit`].
    pub(crate) fn is_unfit(&self) -> bool {
        self.cold.vouched.is_some() && !self.is_quorum(PeerSet::EMPTY)
    }

    /// How much of its log up to `end` this member vouches for. Behind what it vouched for before it could not read all of it, that is
    /// what others have committed: then nothing rests on its word.
    #[inline]
    pub(crate) fn vouched_until(&self, end: LogIndex) -> LogIndex {
        if self.flags.has(Flags::SPECIAL) { self.vouched_if_unfit(end) } else { end }
    }

    #[cold]
    fn vouched_if_unfit(&self, end: LogIndex) -> LogIndex {
        match self.cold.vouched {
            Some(vouched) if self.is_unfit() && !mutant::VOUCHES_UNREADABLE => {
                end.min(vouched.max(self.commit))
            }
            _ => end,
        }
    }

    /// Whether this leader keeps the others from committing what they could commit without it; see the module. `commit` is what it
    /// was when the transfer began that comes to nothing now.
    pub(crate) fn is_in_the_way(&self, commit: LogIndex) -> bool {
        let has_stalled = self.is_unfit() && self.commit == commit && commit < self.tail.last;
        let waits = |peer: usize| self.progress(peer).is_some_and(|progress| progress.is_loading());
        has_stalled
            && !mutant::UNREADABLE_LEADS
            && self.alive.iter().any(|peer| peer < self.peers() && self.is_voter(peer) && waits(peer))
            && self.is_quorum_without_self(self.alive)
    }

    /// Leads no more, and says so.
    pub(crate) fn make_way<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.become_follower(env, self.term, NodeId::NONE);
        self.ask_for_votes_in_vain(env);
    }

    /// Whether its disk lost something that is not made up for yet. Such a member never leads.
    #[inline]
    pub(crate) fn has_losses(&self) -> bool {
        self.flags.has(Flags::LOST) && !self.is_leader()
    }

    /// Whether this member's term and vote are in doubt: it vouches for nothing.
    #[inline]
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.has_losses() && self.cold.recovering.lost.state && !mutant::DOUBT_IGNORED
    }

    /// The floor, if the candidate's log does not reach it: the undamaged member could have refused it.
    pub(crate) fn floor_above(&self, message: &VoteRequest) -> Option<LogEnd> {
        let candidate = LogEnd { term: message.last_term, index: message.last_index };
        self.lost().log.filter(|floor| candidate < *floor && !mutant::FLOOR_IGNORED)
    }

    /// Instead of an election: a member with losses does not campaign. One in doubt asks again.
    pub(crate) fn on_lost_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.leader.is_some() {
            self.forget_leader(env);
        }
        self.deadline = Moment::NEVER;
        if self.cold.recovering.lost.state {
            self.settle_state(env);
        }
        if self.cold.recovering.lost.state {
            self.ask_terms(env);
            self.deadline = env.now.after(env.config.election_base);
        }
    }

    /// Whether a node's term must be known: it decides by this member's configuration, or by that of somebody who reported.
    fn must_report(&self, node: NodeId) -> bool {
        let recovering = &self.cold.recovering;
        let is_voter = self.membership().is_voter(node) || recovering.named.contains(&node);
        is_voter && node != self.cold.me && !recovering.reported.contains(&node)
    }

    fn ask_terms<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        for at in 0..self.known_nodes() {
            self.ask_term(env, at);
        }
    }

    /// Asks a node for its term, if that is still needed.
    pub(crate) fn ask_term<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let route = self.route(peer);
        if self.cold.recovering.lost.state && self.must_report(self.id(peer)) && route != Route::NONE {
            env.sink.term_query(route, TermQuery { term: self.term });
        }
    }

    /// A peer whose hard state is in doubt asks for the term.
    pub fn on_term_query<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &TermQuery) {
        let Some(peer) = self.sender(from, message.term) else { return };
        let route = self.route(peer);
        let is_sound = !self.has_losses() || mutant::DOUBT_IGNORED;
        if is_sound && route != Route::NONE {
            let membership = self.membership();
            let voters = membership.members().filter(|&node| membership.is_voter(node)).collect();
            env.sink.term_report(route, TermReport { term: self.term, voters });
        }
    }

    /// Answer to [`TermQuery`].
    pub fn on_term_report<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &TermReport) {
        if self.sender(from, message.term).is_none() || !self.is_in_doubt() {
            return;
        }
        let recovering = &mut self.cold.recovering;
        if recovering.reported.len() >= NAMED_MAX || recovering.named.len() + message.voters.len() > NAMED_MAX
        {
            return self.refuse_message();
        }
        if !recovering.reported.contains(&from) {
            recovering.reported.push(from);
        }
        recovering.reported_term = recovering.reported_term.max(message.term);
        let mut has_more = false;
        if !mutant::NAMED_IGNORED {
            for voter in &message.voters {
                if !recovering.named.contains(voter) {
                    recovering.named.push(*voter);
                    has_more = true;
                }
            }
        }
        if has_more {
            self.ask_terms(env);
        }
        self.settle_state(env);
    }

    /// Enters the highest term reported with its vote spent, once every other voter has reported.
    fn settle_state<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let reported_term = self.cold.recovering.reported_term;
        let named = self.cold.recovering.named.iter().copied();
        if self.membership().members().chain(named).any(|node| self.must_report(node)) {
            return;
        }
        if reported_term > self.term {
            self.adopt_term(env, reported_term);
        }
        self.cold.vote = self.cold.me;
        self.cold.recovering.lost.state = false;
        self.made_up(env);
    }

    /// The leader of the present term announced `commit` with an append that matched up to `end`.
    pub(crate) fn see_commit<S: Sink>(&mut self, env: &mut Env<'_, S>, commit: LogIndex, end: LogIndex) {
        if commit <= end && self.term_at(commit) == Some(self.term) {
            self.cold.recovering.whole_at.get_or_insert(commit);
        }
        self.maybe_whole(env);
    }

    /// Ends the state of an incomplete log, if it is complete.
    pub(crate) fn maybe_whole<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let Recovering { lost, whole_at, .. } = &self.cold.recovering;
        let Some(floor) = lost.log else { return };
        let durable = LogEnd { term: self.term_at(self.durable).unwrap_or_default(), index: self.durable };
        if durable >= floor || whole_at.is_some_and(|at| self.durable >= at) {
            self.cold.recovering.lost.log = None;
            self.made_up(env);
        }
    }

    /// Something lost is made up for: that is saved, and the member has an election deadline again if it has lost nothing else.
    fn made_up<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.flags.set(Flags::UNSAVED);
        if !self.cold.recovering.lost.is_any() {
            self.flags.clear(Flags::LOST);
        }
        let follows = matches!(self.role, RoleState::Follower(follower) if follower.heard)
            && self.peer(self.leader).is_some_and(|peer| self.alive.contains(peer));
        if self.deadline == Moment::NEVER && !follows {
            self.arm_election(env);
        }
        self.save(env);
    }
}
