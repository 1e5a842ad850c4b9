//! What clients do and are told: plain commands, commands of sessions that are repeated until they are answered, and reads of all kinds.

use logdrive::api::{Error, ReadPolicy, Session, SessionCall};
use logdrive::kv::{Command, Condition, Query};
use logdrive::mesh::{Kind, SessionKind};
use logdrive_shard::{GroupId, LogIndex, NodeId};
use std::time::Duration;

use super::clock::{MILLISECOND, Nanos};
use super::mesh::NOBODY;
use super::observer::{Broken, Verdict};
use super::ops::{Attempt, KeyAction, Op, OpKind};
use super::plan::MachineKind;
use super::queue::Event;
use super::random::chance;
use super::trace::What;
use super::world::World;

/// Keys of a group.
const KEYS: u64 = 5;
/// Errors after which a client gives its session up.
const SESSION_FAILURES_MAX: u32 = 50;

/// A session of a client, in the one group that it is for.
pub(super) struct InGroup {
    group: GroupId,
    session: Session,
    /// The command that is not answered yet, with its operation.
    open: Option<(SessionCall, u64)>,
    failures: u32,
}

/// A client: one operation at a time.
#[derive(Default)]
pub(super) struct Client {
    /// The attempt it waits for.
    pub(super) waits_for: Option<u64>,
    /// Until then.
    until: Nanos,
    /// When it acts next: what was queued for other times is void.
    acts_at: Nanos,
    pub(super) session: Option<InGroup>,
    /// Commands go through sessions.
    has_sessions: bool,
}

impl World {
    pub(super) fn start_clients(&mut self) {
        for client in 0..self.plan.clients {
            let has_sessions = client % 3 == 2;
            self.clients.push(Client { has_sessions, ..Client::default() });
            let pause = self.random.clients.below(100 * MILLISECOND);
            self.client_acts_later(client as usize, pause);
        }
    }

    pub(super) fn client_acts_later(&mut self, client: usize, pause: Nanos) {
        let at = self.now + pause;
        self.clients[client].acts_at = at;
        self.queue.put(at, Event::Client { client: client as u32 });
    }

    /// Begins an operation of the program that embeds a node, which asks the core that has the group. Returns its attempt.
    pub fn ask(&mut self, kind: OpKind, group: GroupId, node: NodeId) -> Result<u64, Box<Broken>> {
        self.ask_through(kind, group, node, None)
    }

    /// The same of nobody in particular who is connected to a core of the seed's choice.
    pub fn ask_somewhere(&mut self, kind: OpKind, group: GroupId, node: NodeId) -> Result<u64, Box<Broken>> {
        let door = self.door(NOBODY, node.0 as usize - 1);
        self.ask_through(kind, group, node, door)
    }

    fn ask_through(
        &mut self,
        kind: OpKind,
        group: GroupId,
        node: NodeId,
        door: Option<u32>,
    ) -> Result<u64, Box<Broken>> {
        let op = self.begin_op(kind, group, NOBODY);
        self.attempt(op, node, None, door)
    }

    /// What whoever asked was told; `None` while it waits.
    pub fn answer(&self, attempt: u64) -> Option<Result<LogIndex, Error>> {
        let Attempt { answer, told, .. } = self.history.attempts[attempt as usize];
        answer.filter(|_| told)
    }

    fn begin_op(&mut self, kind: OpKind, group: GroupId, client: u32) -> u64 {
        let number = self.history.ops.len() as u64;
        let random = &mut self.random.clients;
        let has_keys = self.plan.machine == MachineKind::Kv && kind != OpKind::OpenSession;
        let key = has_keys.then(|| {
            let key = random.below(KEYS) as u32;
            let action = match random.below(6) {
                _ if !kind.is_write() => KeyAction::Get,
                0 => KeyAction::Delete,
                1 | 2 => KeyAction::Increment(random.below(9) as i64 + 1),
                _ => KeyAction::Set(number),
            };
            (key, action)
        });
        let begun = (self.now, self.trace.number());
        self.history.ops.push(Op {
            group,
            kind,
            client,
            key,
            begun,
            attempt: 0,
            ended: None,
            answer: None,
            reply: Vec::new(),
        });
        number
    }

    /// Hands an operation to a node, through a connection if it has one.
    fn attempt(
        &mut self,
        op: u64,
        node: NodeId,
        call: Option<SessionCall>,
        door: Option<u32>,
    ) -> Result<u64, Box<Broken>> {
        let token = self.history.attempts.len() as u64;
        self.history.attempts.push(Attempt { op, node, answer: None, door: None, told: false });
        let what = &mut self.history.ops[op as usize];
        what.attempt = token;
        let (kind, group, key) = (what.kind, what.group, what.key);
        let (at, slot) = self.home(node.0 as usize - 1, group);
        self.trace.tell(self.now, node, Some(group), What::Asks { attempt: token, kind: kind_name(kind) });
        self.tell(|observer, world| observer.asked(world, token))?;
        let payload = self.payload(token, kind, key);
        let kind = match (kind, call) {
            (OpKind::InSession, Some(call)) => Kind::Session(SessionKind::Command(call)),
            (OpKind::OpenSession, _) => Kind::Session(SessionKind::Open),
            (OpKind::Propose | OpKind::InSession, _) => Kind::Propose,
            (OpKind::ReadLinearizable, _) => Kind::Read(ReadPolicy::Linearizable),
            (OpKind::ReadLease, _) => Kind::Read(ReadPolicy::LeaderLease),
            (OpKind::ReadFollower, _) => Kind::Read(ReadPolicy::Follower),
            (OpKind::ReadLocal, _) => {
                Kind::Read(ReadPolicy::Local { min_index: LogIndex(0), max_wait: Duration::ZERO })
            }
        };
        if let Some(door) = door {
            self.ask_at(door, token, (at, slot), kind, &payload);
        } else if let Some(port) = self.cores[at.0].live.as_ref().map(|live| live.port) {
            self.input(at, kind.event(port, token, slot, &payload));
        }
        Ok(token)
    }

    /// A command's payload, or a read's request.
    fn payload(&mut self, token: u64, kind: OpKind, key: Option<(u32, KeyAction)>) -> Vec<u8> {
        let mut out = Vec::new();
        if kind.is_write() {
            out.extend_from_slice(&token.to_le_bytes());
        }
        let Some((key, action)) = key else {
            if kind.is_write() {
                let padding = self.random.clients.below(self.shape.padding) as usize;
                out.resize(8 + padding, token as u8);
            }
            return out;
        };
        let key = key.to_le_bytes();
        match action {
            KeyAction::Set(value) => {
                let value = value.to_string();
                let value = value.as_bytes();
                Command::Set { key: &key, value, condition: Condition::Always, get: false }.encode(&mut out);
            }
            KeyAction::Increment(by) => Command::Increment { key: &key, by }.encode(&mut out),
            KeyAction::Delete => Command::Delete { keys: &[&key] }.encode(&mut out),
            KeyAction::Get => Query::Get { key: &key }.encode(&mut out),
        }
        out
    }

    // -- clients that go on by themselves ----------------------------------------------------------------------------------

    pub(super) fn client_acts(&mut self, at: usize) -> Verdict {
        let client = &self.clients[at];
        if !self.clients_run || client.acts_at != self.now {
            return Ok(());
        }
        if client.waits_for.is_some() && self.now < client.until {
            return Ok(());
        }
        if let Some(attempt) = self.clients[at].waits_for.take() {
            self.tired_of(attempt);
        }
        let group = match &self.clients[at].session {
            Some(session) => session.group,
            None => GroupId(1 + self.random.clients.below(self.plan.groups.into())),
        };
        let node = self.whom_to_ask(group);
        // The sockets of a process that stands still take what comes; it is read when the process goes on.
        let (responds, is_up) = (self.nodes[node].responds(self.now), self.nodes[node].is_up);
        let takes = responds || (is_up && chance(&mut self.random.clients, 3));
        if !takes {
            let pause = MILLISECOND + self.random.clients.below(20 * MILLISECOND).max(self.shape.think / 10);
            self.client_acts_later(at, pause);
            return Ok(());
        }
        let door = self.door(at as u32, node);
        let node = self.nodes[node].id;
        let (op, call) = self.next_op(at, group);
        let attempt = self.attempt(op, node, call, door)?;
        self.clients[at].waits_for = Some(attempt);
        let patience = self.patience();
        self.clients[at].until = self.now + patience;
        self.client_acts_later(at, patience);
        Ok(())
    }

    /// Whom some node takes for the leader, or now and then any node.
    fn whom_to_ask(&mut self, group: GroupId) -> usize {
        let asked = self.random.clients.below(self.nodes.len() as u64) as usize;
        let leader = self.leader_seen_by(self.nodes[asked].id, group);
        let known = leader.is_some() && self.random.clients.below(10) > 0;
        if known { leader.0 as usize - 1 } else { asked }
    }

    fn next_op(&mut self, at: usize, group: GroupId) -> (u64, Option<SessionCall>) {
        let draw = self.random.clients.below(20);
        let client = at as u32;
        if let Some(session) = &mut self.clients[at].session {
            if let Some((call, op)) = session.open {
                return (op, Some(call));
            }
            if draw < 13
                && let Some(call) = session.session.next_call()
            {
                let op = self.begin_op(OpKind::InSession, group, client);
                if let Some(session) = &mut self.clients[at].session {
                    session.open = Some((call, op));
                }
                return (op, Some(call));
            }
        } else if self.clients[at].has_sessions && draw < 6 {
            return (self.begin_op(OpKind::OpenSession, group, client), None);
        }
        let kind = match draw {
            0..12 => OpKind::Propose,
            12..16 => OpKind::ReadLinearizable,
            16..18 => OpKind::ReadLocal,
            18 => OpKind::ReadFollower,
            _ if self.shape.leases_hold => OpKind::ReadLease,
            _ => OpKind::ReadLinearizable,
        };
        (self.begin_op(kind, group, client), None)
    }

    /// The core that has the group answers: here its part is judged. The answer may still have a way to go.
    pub(super) fn core_answers(
        &mut self,
        token: u64,
        result: Result<LogIndex, Error>,
        reply: &[u8],
    ) -> Verdict {
        let number = self.history.attempts[token as usize].op;
        let node = self.history.attempts[token as usize].node;
        let (now, place) = (self.now, self.trace.number());
        let op = &mut self.history.ops[number as usize];
        let first = self.history.attempts[token as usize].answer.replace(result).is_none();
        let decided = op.answer.is_some_and(|answer| answer.is_ok());
        if !decided {
            op.answer = Some(result);
            op.ended = Some((now, place));
            op.reply.clear();
            op.reply.extend_from_slice(reply);
        }
        let (group, kind) = (op.group, op.kind);
        super::observer::ensure(first, "an attempt is answered once", || format!("attempt {token} again"))?;
        self.trace.tell(self.now, node, Some(group), What::Told { attempt: token, result });
        self.reach(match result {
            Ok(_) if kind.is_write() => "commands acknowledged",
            Ok(_) => "reads and sessions answered",
            Err(Error::Indeterminate) => "answers indeterminate",
            Err(_) => "requests refused",
        });
        self.tell(|observer, world| observer.answered(world, token, reply))
    }

    /// An answer comes to whoever asked.
    pub(super) fn client_hears(&mut self, token: u64, result: Result<LogIndex, Error>) {
        let op = self.history.op_of(token);
        let (group, kind, client) = (op.group, op.kind, op.client as usize);
        if self.clients.get(client).is_some_and(|client| client.waits_for == Some(token)) {
            self.client_is_told(client, kind, group, result);
        }
    }

    fn client_is_told(&mut self, at: usize, kind: OpKind, group: GroupId, result: Result<LogIndex, Error>) {
        let client = &mut self.clients[at];
        client.waits_for = None;
        match (kind, result, &mut client.session) {
            (OpKind::OpenSession, Ok(index), session) => {
                *session = Some(InGroup { group, session: Session::new(index.0), open: None, failures: 0 });
            }
            (OpKind::InSession, Ok(_), Some(session)) => {
                if let Some((call, _)) = session.open.take() {
                    session.session.answered(call);
                }
                session.failures = 0;
            }
            (OpKind::InSession, Err(error), Some(session)) => {
                session.failures += 1;
                let is_lost = matches!(error, Error::UnknownSession { .. });
                if is_lost || session.failures > SESSION_FAILURES_MAX {
                    client.session = None;
                }
            }
            _ => {}
        }
        let pause = match result {
            Ok(_) => self.random.clients.below(self.shape.think),
            Err(_) => {
                2 * MILLISECOND + self.random.clients.below(20 * MILLISECOND).max(self.shape.think / 10)
            }
        };
        self.client_acts_later(at, pause);
    }

    /// The connection of clients to a node that ended is gone: they will never know.
    pub(super) fn give_up_on(&mut self, node: usize) {
        let id = self.nodes[node].id;
        for client in 0..self.clients.len() {
            let waits = self.clients[client].waits_for;
            if waits.is_some_and(|attempt| self.history.attempts[attempt as usize].node == id) {
                self.clients[client].waits_for = None;
                let pause = self.random.clients.below(20 * MILLISECOND);
                self.client_acts_later(client, pause);
            }
        }
    }
}

fn kind_name(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Propose => "proposes",
        OpKind::InSession => "proposes in a session",
        OpKind::OpenSession => "opens a session",
        OpKind::ReadLinearizable => "reads",
        OpKind::ReadLease => "reads under a lease",
        OpKind::ReadFollower => "reads at a follower",
        OpKind::ReadLocal => "reads locally",
    }
}
