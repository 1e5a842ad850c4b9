//! Linearizable reads without log entries: ReadIndex (dissertation, 6.4), in rounds.
//!
//! A round asks every peer whether this node still leads. One round is out at a time; reads that come meanwhile share
//! the next one. What a round confirms is the commit index at the moment the round *started*, after all its reads were
//! registered; and no round starts before the leader has committed an entry of its own term, because until then its
//! commit index may be behind what earlier leaders acknowledged.

use crate::members::Moves;
use crate::mutant;
use crate::quorum::PeerSet;
use crate::role::{Flags, RoleState};
use crate::{Env, Group, Heartbeat, HeartbeatReply, LogIndex, NodeId, Refused, Route, Sink};

/// The rounds of a leader. Numbers are never used twice in a group's life, so replies to old rounds are recognised.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Reads {
    /// The round that reads registered now belong to: the one after the round that is out, or after the last one.
    pub(crate) collecting: u64,
    /// The commit index when the round that is out started.
    index: LogIndex,
    /// Peers that confirmed it.
    confirmed: PeerSet,
    /// An answer came since the leader's deadline last passed.
    answered: bool,
    /// Questions of followers for the next round, one per peer at most: position and number.
    asked: Vec<(u8, u64)>,
    /// Those that take part in the round that is out.
    pub(crate) in_round: Vec<(u8, u64)>,
}

impl Reads {
    pub(crate) fn new() -> Reads {
        let (asked, in_round) = (Vec::new(), Vec::new());
        Reads {
            collecting: 1,
            index: LogIndex(0),
            confirmed: PeerSet::EMPTY,
            answered: false,
            asked,
            in_round,
        }
    }

    /// A follower's question takes part in the next round. A later one of the same follower stands for its earlier ones.
    pub(crate) fn ask(&mut self, peer: usize, id: u64) {
        match self.asked.iter_mut().find(|question| usize::from(question.0) == peer) {
            Some(question) => question.1 = id,
            None => self.asked.push((peer as u8, id)),
        }
    }

    /// Leadership begins or ends: questions to it get no answer.
    pub(crate) fn forget_questions(&mut self) {
        self.asked.clear();
        self.in_round.clear();
    }

    /// Peers have other positions now.
    pub(crate) fn move_peers(&mut self, moves: &Moves) {
        self.confirmed = moves.set(self.confirmed);
        for questions in [&mut self.asked, &mut self.in_round] {
            let moved = |(peer, id): (u8, u64)| Some((moves.position(usize::from(peer))? as u8, id));
            *questions = questions.drain(..).filter_map(moved).collect();
        }
    }

    /// The round that is out, if one is.
    fn open_round(&self) -> u64 {
        self.collecting - 1
    }
}

impl Group {
    /// Registers a linearizable read and returns its round. All reads registered while a round is in flight share the
    /// next one. Confirmed through [`Sink::reads_confirmed`]. Call [`Group::flush`] before the turn ends.
    ///
    /// # Errors
    /// [`Refused::NotLeader`].
    pub fn read_index<S: Sink>(&mut self, _env: &mut Env<'_, S>) -> Result<u64, Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        self.flags.set(Flags::READS_WAIT);
        Ok(self.cold.leader.reads.collecting)
    }

    /// Answer to [`Heartbeat`].
    pub fn on_heartbeat_reply<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        message: &HeartbeatReply,
    ) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if message.term > self.term {
            self.adopt_term(env, message.term);
            self.save(env);
            return;
        }
        let is_open = self.is_leader() && self.flags.has(Flags::ROUND_OPEN);
        let reads = &mut self.cold.leader.reads;
        if message.term < self.term || !is_open || message.round != reads.open_round() {
            return;
        }
        reads.confirmed.insert(peer);
        reads.answered = true;
        self.cold.leader.lease.on_answer(peer);
        self.maybe_confirm_reads(env);
    }

    /// Starts a round if reads wait, none is out, and an entry of this term is committed.
    pub(crate) fn maybe_start_round<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let may_start = self.flags.has(Flags::READS_WAIT) && !self.flags.has(Flags::ROUND_OPEN);
        if !may_start || !self.has_committed_in_term() {
            return;
        }
        self.flags.clear(Flags::READS_WAIT);
        self.flags.set(Flags::ROUND_OPEN);
        let reads = &mut self.cold.leader.reads;
        reads.collecting += 1;
        reads.index = self.commit;
        reads.confirmed = PeerSet::EMPTY;
        reads.answered = false;
        debug_assert!(reads.in_round.is_empty());
        std::mem::swap(&mut reads.asked, &mut reads.in_round);
        self.note_support(env);
        for peer in 0..self.peers() {
            self.send_heartbeat(env, peer);
        }
        self.maybe_confirm_reads(env);
        if self.flags.has(Flags::ROUND_OPEN) {
            self.arm_repeat(env);
        }
    }

    /// Whether the leader has committed an entry of its own term. The last run of its log is that term's.
    pub(crate) fn has_committed_in_term(&self) -> bool {
        mutant::READS_BEFORE_COMMIT || (self.tail.run_term == self.term && self.commit >= self.tail.run_first)
    }

    fn maybe_confirm_reads<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let reads = &self.cold.leader.reads;
        if !self.is_quorum(reads.confirmed) {
            return;
        }
        self.flags.clear(Flags::ROUND_OPEN);
        let (round, index) = (reads.open_round(), reads.index);
        env.sink.reads_confirmed(round, index);
        self.answer_forwarded(env, index);
        // Reads came while the round was out: theirs starts now. A single voter's ended at once, so this ends too.
        self.maybe_start_round(env);
    }

    /// At the leader's deadline: asks those again that have not confirmed the round that is out.
    pub(crate) fn repeat_round<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if !self.flags.has(Flags::ROUND_OPEN) || std::mem::take(&mut self.cold.leader.reads.answered) {
            return;
        }
        for peer in 0..self.peers() {
            if !self.cold.leader.reads.confirmed.contains(peer) {
                self.send_heartbeat(env, peer);
            }
        }
    }

    /// "I lead this term", to one peer in contact, with the commit index as far as the peer's log is known to match, and
    /// with the round that is out.
    pub(crate) fn send_heartbeat<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        if self.is_reachable(env.config, peer) {
            self.announce(env, peer);
        }
    }

    /// The same, to whoever asks, in contact or not.
    pub(crate) fn announce<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        debug_assert!(matches!(self.role, RoleState::Leader(_)));
        let route = self.route(peer);
        if route == Route::NONE {
            return;
        }
        let matched = self.progress(peer).map_or(LogIndex(0), |progress| progress.matched);
        let round = if self.flags.has(Flags::ROUND_OPEN) { self.cold.leader.reads.open_round() } else { 0 };
        if matched >= self.commit {
            self.told.insert(peer);
        }
        env.sink.heartbeat(route, Heartbeat { term: self.term, commit: self.commit.min(matched), round });
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Alone, Led};
    use crate::{Config, HeartbeatReply, LogIndex, NodeId, Refused, Term};

    #[test]
    fn reads_of_a_turn_share_a_round_and_later_ones_get_a_later_round() {
        let (config, mut alone) = (Config::default(), Alone::leading());
        let rounds = alone.step(&config, |group, env| {
            let first = (group.read_index(env), group.read_index(env));
            group.flush(env);
            (first, group.read_index(env))
        });
        let ((one, other), later) = rounds;
        assert_eq!(one, other);
        assert!(later.is_ok_and(|later| one.is_ok_and(|one| later > one)), "{rounds:?}");
    }

    fn answer(led: &mut Led, from: u32, term: u64, round: u64) {
        let reply = HeartbeatReply { term: Term(term), round };
        led.step(|group, env| group.on_heartbeat_reply(env, NodeId(from), &reply));
    }

    #[test]
    fn a_round_is_confirmed_by_a_majority_at_the_commit_index_that_it_began_with() {
        let mut led = Led::of_three();
        let round = led.step(|group, env| group.read_index(env)).expect("it leads");
        assert!(led.said.heartbeats.is_empty(), "with the end of the turn");
        led.flush();
        assert_eq!(led.said.heartbeats.iter().filter(|(_, beat)| beat.round == round).count(), 2);
        // What is committed while the round is out does not belong to it.
        led.propose().expect("it leads");
        led.durable(2);
        led.matched(2, 2);
        assert_eq!(led.group.commit(), LogIndex(2));
        assert!(led.said.confirmed.is_empty());
        answer(&mut led, 2, 1, round);
        assert_eq!(led.said.confirmed, [(round, LogIndex(1))]);
        answer(&mut led, 3, 1, round);
        assert_eq!(led.said.confirmed.len(), 1, "once");
    }

    #[test]
    fn answers_to_other_rounds_and_of_other_terms_confirm_nothing() {
        let mut led = Led::of_three();
        let first = led.step(|group, env| group.read_index(env)).expect("it leads");
        led.flush();
        answer(&mut led, 2, 1, first);
        let second = led.step(|group, env| group.read_index(env)).expect("it leads");
        led.flush();
        assert!(second > first);
        answer(&mut led, 3, 1, first);
        answer(&mut led, 3, 0, second);
        answer(&mut led, 3, 1, second + 1);
        assert_eq!(led.said.confirmed.len(), 1, "only the first");
        // A later term ends the leadership, and the reads with it.
        answer(&mut led, 3, 2, second);
        assert_eq!(led.said.confirmed.len(), 1);
        let refused = led.step(|group, env| group.read_index(env));
        assert_eq!(refused, Err(Refused::NotLeader { leader: NodeId::NONE }));
    }
}
