//! Linearizable reads on a follower: it asks its leader for an index that a round has confirmed, and waits until that is applied.
//!
//! One question is out at a time; reads that come meanwhile share the next one. The leader answers all questions that came
//! while a round was out with the next round, as it does with reads of its own. A question that is repeated bears a new number,
//! never an old one: an answer to the old one may have been confirmed before the read came. Reads and rounds of one member
//! are counted by one counter whatever its role, so a ticket stays valid when the follower comes to lead.

use crate::role::{Flags, RoleState};
use crate::{Env, Group, Moment, NodeId, ReadIndexReply, ReadIndexRequest, Refused, Route, Sink};

/// A follower repeats a question that got no answer after so many heartbeat intervals.
const REPEAT_AFTER_INTERVALS: u32 = 3;

/// The questions of a follower.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Forward {
    /// Upper half of the questions' numbers: tells the questions of this life from those of earlier ones. 0: not drawn yet.
    life: u32,
    /// Reads wait for the next question.
    waiting: bool,
    /// The ticket of the question that is out; 0 if none is.
    out: u64,
    /// When to ask again.
    pub(crate) retry_at: Moment,
}

impl Forward {
    pub(crate) fn new() -> Forward {
        Forward { life: 0, waiting: false, out: 0, retry_at: Moment::NEVER }
    }

    /// The number on the wire.
    fn id(&self, ticket: u64) -> u64 {
        u64::from(self.life) << 32 | (ticket & 0xffff_ffff)
    }
}

impl Group {
    /// Registers a linearizable read on a follower and returns its ticket: it may be served when [`Sink::reads_confirmed`] names
    /// this ticket or a later one, and what it names is applied. Call [`Group::flush`] before the turn ends.
    /// [`Sink::forwarded_reads_lost`] ends all such reads that wait, when the leader is lost. On a leader it is
    /// [`Group::read_index`].
    ///
    /// # Errors
    /// [`Refused::NotLeader`] if no leader is known, or if this node is no member: its leader would not listen to it.
    pub fn forward_read<S: Sink>(&mut self, env: &mut Env<'_, S>) -> Result<u64, Refused> {
        if self.is_leader() {
            return self.read_index(env);
        }
        if !self.leader.is_some() {
            return Err(Refused::NotLeader { leader: NodeId::NONE });
        }
        if !self.membership().contains(self.cold.me) {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        self.flags.set(Flags::FORWARD);
        self.cold.forward.waiting = true;
        Ok(self.cold.leader.reads.collecting)
    }

    /// Asks the leader, if reads wait and no question is out.
    pub(crate) fn maybe_ask_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let forward = &self.cold.forward;
        if self.flags.has(Flags::FORWARD) && forward.waiting && forward.out == 0 {
            self.ask_leader(env);
        }
    }

    /// Asks the leader, under a new number, for all reads that wait.
    fn ask_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let reads = &mut self.cold.leader.reads;
        let forward = &mut self.cold.forward;
        while forward.life == 0 {
            forward.life = env.random.next_u64() as u32;
        }
        forward.out = reads.collecting;
        forward.waiting = false;
        forward.retry_at = env.now.after(env.config.heartbeat_interval * REPEAT_AFTER_INTERVALS);
        reads.collecting += 1;
        let id = forward.id(forward.out);
        let route = self.peer(self.leader).map_or(Route::NONE, |peer| self.route(peer));
        if route != Route::NONE {
            env.sink.read_index_request(route, ReadIndexRequest { term: self.term, id });
        }
    }

    /// The leader is another one, or the way to it: whatever was asked is asked anew.
    pub(crate) fn ask_again<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.flags.has(Flags::FORWARD) && !self.is_leader() {
            self.ask_leader(env);
        }
    }

    /// The deadline for an answer, if it passed.
    pub(crate) fn maybe_ask_again<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.cold.forward.out == 0 || env.now < self.cold.forward.retry_at {
            return;
        }
        match self.membership().contains(self.cold.me) {
            true => self.ask_again(env),
            // Removed since: the leader does not listen any more.
            false => self.lose_forwarded(env),
        }
    }

    /// This member leads now: reads that it forwarded take part in its next round.
    pub(crate) fn adopt_forwarded(&mut self) {
        if self.flags.has(Flags::FORWARD) {
            self.flags.set(Flags::READS_WAIT);
            self.forget_forwarded();
        }
    }

    /// The leader is lost, and nobody knows who will be the next one.
    pub(crate) fn lose_forwarded<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.flags.has(Flags::FORWARD) {
            self.forget_forwarded();
            env.sink.forwarded_reads_lost();
        }
    }

    /// Nobody waits any more for reads that were forwarded: the question that is out is not repeated, and its answer is ignored.
    pub fn forget_forwarded_reads(&mut self) {
        if self.flags.has(Flags::FORWARD) && !self.is_leader() {
            self.forget_forwarded();
        }
    }

    fn forget_forwarded(&mut self) {
        self.flags.clear(Flags::FORWARD);
        let forward = &mut self.cold.forward;
        forward.waiting = false;
        forward.out = 0;
        forward.retry_at = Moment::NEVER;
    }

    /// A follower asks for an index that is confirmed after its question came.
    pub fn on_read_index_request<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        message: &ReadIndexRequest,
    ) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if message.term > self.term {
            // Whom it takes for its leader has entered that term, durably: unless its disk has forgotten it since.
            if !self.is_in_doubt() {
                self.refuse_message();
            }
            return;
        }
        if !self.is_leader() {
            let route = self.route(peer);
            if route != Route::NONE {
                let refusal = ReadIndexReply { term: self.term, id: message.id, index: None };
                env.sink.read_index_reply(route, refusal);
            }
            return;
        }
        self.cold.leader.reads.ask(peer, message.id);
        self.flags.set(Flags::READS_WAIT);
        self.maybe_start_round(env);
    }

    /// Answer to [`ReadIndexRequest`].
    pub fn on_read_index_reply<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        from: NodeId,
        message: &ReadIndexReply,
    ) {
        let Some(peer) = self.sender(from, message.term) else { return };
        let forward = &mut self.cold.forward;
        let is_mine = forward.out != 0 && forward.id(forward.out) == message.id;
        if !is_mine || self.is_leader() || self.leader != self.id(peer) {
            return;
        }
        // A refusal: it does not lead (yet, or any more). The question is repeated in time, or ends with the leader.
        let Some(index) = message.index else { return };
        let forward = &mut self.cold.forward;
        let ticket = std::mem::take(&mut forward.out);
        forward.retry_at = Moment::NEVER;
        if !forward.waiting {
            self.flags.clear(Flags::FORWARD);
        }
        env.sink.reads_confirmed(ticket, index);
        self.maybe_ask_leader(env);
    }

    /// Answers the questions that took part in the round that is confirmed.
    pub(crate) fn answer_forwarded<S: Sink>(&mut self, env: &mut Env<'_, S>, index: crate::LogIndex) {
        debug_assert!(matches!(self.role, RoleState::Leader(_)));
        let mut questions = std::mem::take(&mut self.cold.leader.reads.in_round);
        for (peer, id) in questions.drain(..) {
            let route = self.route(usize::from(peer));
            if route != Route::NONE {
                env.sink.read_index_reply(route, ReadIndexReply { term: self.term, id, index: Some(index) });
            }
        }
        // Given back for its memory.
        self.cold.leader.reads.in_round = questions;
    }
}
