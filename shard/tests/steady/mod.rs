//! Three groups and the leanest caller there can be: messages in fixed arrays, no payloads, a disk that is always done.
//! For the proof that a step allocates nothing, and for what a step costs (`examples/step_cost.rs`).
#![allow(dead_code, unreachable_pub)]

use logdrive_shard::{
    Append, AppendReply, Config, Env, Fit, Group, HardState, Heartbeat, HeartbeatReply, LogIndex, LogState,
    Membership, Moment, NodeId, Random, Role, Route, Setup, Sink, Term, TimeoutNow, VoteReply, VoteRequest,
};

/// Messages to one peer in one turn, at most.
const BOX: usize = 64;

#[derive(Clone, Copy)]
enum Message {
    Append(Append),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    VoteRequest(VoteRequest),
    VoteReply(VoteReply),
}

/// The routes are the peers' positions.
struct Outbox {
    messages: [Option<(usize, Message)>; BOX],
    len: usize,
    vote: Option<Term>,
    written: Option<(u32, LogIndex)>,
    confirmed: u64,
}

impl Outbox {
    fn new() -> Outbox {
        Outbox { messages: [None; BOX], len: 0, vote: None, written: None, confirmed: 0 }
    }

    fn push(&mut self, to: Route, message: Message) {
        self.messages[self.len] = Some((to.0 as usize, message));
        self.len += 1;
    }
}

impl Sink for Outbox {
    fn append(&mut self, to: Route, message: Append) {
        self.push(to, Message::Append(message));
    }
    fn heartbeat(&mut self, to: Route, message: Heartbeat) {
        self.push(to, Message::Heartbeat(message));
    }
    fn heartbeat_reply(&mut self, to: Route, message: HeartbeatReply) {
        self.push(to, Message::HeartbeatReply(message));
    }
    fn append_reply(&mut self, to: Route, message: AppendReply) {
        self.push(to, Message::AppendReply(message));
    }
    fn vote_request(&mut self, to: Route, message: VoteRequest) {
        self.push(to, Message::VoteRequest(message));
    }
    fn vote_reply(&mut self, to: Route, message: VoteReply) {
        self.push(to, Message::VoteReply(message));
    }
    fn timeout_now(&mut self, _to: Route, _message: TimeoutNow) {}
    fn save_hard_state(&mut self, _state: HardState) {}
    fn append_empty(&mut self, index: LogIndex, _term: Term, epoch: u32) {
        self.written = Some((epoch, index));
    }
    fn append_membership(&mut self, _index: LogIndex, _term: Term, _epoch: u32, _membership: &Membership) {}
    fn own_vote_written(&mut self, term: Term) {
        self.vote = Some(term);
    }
    fn committed(&mut self, _commit: LogIndex) {}
    fn reads_confirmed(&mut self, round: u64, _index: LogIndex) {
        self.confirmed = round;
    }
    fn leadership_lost(&mut self, _new_term: Term) {}
    fn role_changed(&mut self, _role: Role, _leader: NodeId, _term: Term) {}
    fn fit(&mut self, _to: Route, first: LogIndex, last: LogIndex, _bytes_max: u32) -> Fit {
        let count = (last.0 - first.0 + 1) as u32;
        Fit::Ready { count, bytes: count * 128 }
    }
}

/// A group of three, the first of which leads.
pub struct Trio {
    groups: [Group; 3],
    outboxes: [Outbox; 3],
    config: Config,
    random: Random,
    now: Moment,
    /// Steps taken.
    pub steps: u64,
}

impl Trio {
    pub fn elected() -> Trio {
        let config = Config::default();
        let mut random = Random::new(1);
        let voters = [NodeId(1), NodeId(2), NodeId(3)];
        let memberships = [(LogIndex(0), Membership::founding(&voters).expect("three voters"))];
        let log = LogState { first: LogIndex(1), ..LogState::default() };
        let groups = voters.map(|me| {
            let setup = Setup {
                me,
                memberships: &memberships,
                hard_state: HardState::default(),
                log: &log,
                applied: LogIndex(0),
                fresh: true,
                preferred_leader: NodeId::NONE,
                ..Setup::default()
            };
            Group::new(Moment(0), &config, &mut random, &setup)
        });
        let outboxes = [Outbox::new(), Outbox::new(), Outbox::new()];
        let mut trio = Trio { groups, outboxes, config, random, now: Moment(1), steps: 0 };
        for at in 0..3 {
            for peer in (0..3).filter(|&peer| peer != at) {
                trio.step(at, |group, env| {
                    group.on_route(env, NodeId(peer as u32 + 1), Route(peer as u64));
                    group.on_contact(env, NodeId(peer as u32 + 1), true);
                });
            }
        }
        trio.step(0, |group, env| group.campaign(env));
        trio.settle();
        assert!(trio.groups[0].is_leader());
        trio
    }

    fn step<R>(&mut self, at: usize, step: impl FnOnce(&mut Group, &mut Env<'_, Outbox>) -> R) -> R {
        let sink = &mut self.outboxes[at];
        let mut env = Env { now: self.now, config: &self.config, random: &mut self.random, sink };
        self.steps += 1;
        step(&mut self.groups[at], &mut env)
    }

    /// Writes and delivers until nothing is left.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            for at in 0..3 {
                if let Some(term) = self.outboxes[at].vote.take() {
                    self.step(at, |group, env| group.on_vote_durable(env, term));
                }
                if let Some((epoch, last)) = self.outboxes[at].written.take() {
                    self.step(at, |group, env| group.on_durable(env, epoch, last));
                    let applicable = self.groups[at].applicable();
                    self.groups[at].on_applied(applicable);
                }
                let len = std::mem::take(&mut self.outboxes[at].len);
                idle &= len == 0;
                for slot in 0..len {
                    let Some((to, message)) = self.outboxes[at].messages[slot].take() else { continue };
                    self.deliver(to, NodeId(at as u32 + 1), message);
                }
            }
            if idle && self.outboxes.iter().all(|outbox| outbox.len == 0 && outbox.written.is_none()) {
                return;
            }
        }
    }

    fn deliver(&mut self, to: usize, from: NodeId, message: Message) {
        let written = self.step(to, |group, env| match &message {
            Message::Append(append) => {
                let accepted = group.on_append(env, from, append, &[]);
                (accepted.take > 0).then(|| (accepted.epoch, group.last_index()))
            }
            Message::AppendReply(reply) => {
                group.on_append_reply(env, from, reply);
                let applicable = group.applicable();
                group.on_applied(applicable);
                None
            }
            Message::Heartbeat(heartbeat) => {
                group.on_heartbeat(env, from, heartbeat);
                None
            }
            Message::HeartbeatReply(reply) => {
                group.on_heartbeat_reply(env, from, reply);
                None
            }
            Message::VoteRequest(request) => {
                group.on_vote_request(env, from, request);
                None
            }
            Message::VoteReply(reply) => {
                group.on_vote_reply(env, from, reply);
                None
            }
        });
        if written.is_some() {
            self.outboxes[to].written = written;
        }
    }

    fn propose(&mut self) {
        let (epoch, last) = self.step(0, |group, env| {
            let proposed = group.propose(env, 1, 128).expect("a healthy leader");
            group.flush(env);
            (proposed.epoch, proposed.first)
        });
        assert_ne!(self.groups[0].next_deadline(), Moment::NEVER, "an append is in flight");
        self.outboxes[0].written = Some((epoch, last));
    }

    /// One proposal, from the client to the application on the leader.
    pub fn commit_one(&mut self) {
        self.propose();
        self.settle();
    }

    /// So many proposals, each sent before the one before is answered.
    pub fn commit_pipelined(&mut self, count: u32) {
        for _ in 0..count {
            self.propose();
        }
        self.settle();
    }

    pub fn read(&mut self) {
        let round = self.step(0, |group, env| {
            let round = group.read_index(env).expect("a healthy leader");
            group.flush(env);
            round
        });
        self.settle();
        assert_eq!(self.outboxes[0].confirmed, round);
    }

    /// What the leader may have applied.
    pub fn applied(&self) -> u64 {
        self.groups[0].applicable().0
    }
}
