//! What clients do and are told, and what the cluster looks like to them.

use std::time::Duration;

use logdrive::api::{Error, ReadPolicy};
use logdrive::core::{Event, Slot};
use logdrive_shard::{GroupId, LogIndex, NodeId};

use super::checker::Kind;
use super::cores::TRANSFER;
use super::world::{CLIENT_PATIENCE, Client, Happening, MILLISECOND, World};

impl World {
    pub(crate) fn voters(&self, group: GroupId) -> Vec<NodeId> {
        let mut setups = self.actors.iter().flat_map(|actor| &actor.groups);
        setups.find(|setup| setup.id == group).expect("a group of the plan").founders.clone()
    }

    /// The core of a node that holds a group, and its slot there.
    pub(super) fn home(&self, node: NodeId, group: GroupId) -> (usize, Slot) {
        let actors = &self.members[node.0 as usize - 1].actors;
        let slot = |actor: usize| self.actors[actor].groups.iter().position(|setup| setup.id == group);
        let found = actors.iter().find_map(|&actor| Some((actor, slot(actor)?)));
        let (actor, slot) = found.expect("the node is a voter of the group");
        (actor, Slot(slot as u32))
    }

    /// What became of an operation; `None` while it waits.
    pub(super) fn answer(&self, op: u64) -> Option<Result<LogIndex, Error>> {
        self.checker.borrow().ops[op as usize].answer
    }

    /// One operation of no client at a node, and what became of it within `limit`.
    pub(super) fn ask(
        &mut self,
        kind: Kind,
        group: GroupId,
        node: NodeId,
        limit: Duration,
    ) -> Option<Result<LogIndex, Error>> {
        let op = self.begin(kind, group, node, u32::MAX);
        let end = self.now + limit.as_nanos() as u64;
        while self.answer(op).is_none() && self.now < end {
            self.run_for(Duration::from_millis(1));
        }
        self.answer(op)
    }

    /// Writes at whoever is the leader, until one is acknowledged. Returns the leader and how long it took.
    pub(super) fn write_somewhere(
        &mut self,
        group: GroupId,
        asking: &[NodeId],
        limit: Duration,
    ) -> (NodeId, Duration) {
        let start = self.now;
        loop {
            for &asked in asking {
                let leader = self.leader_seen_by(asked, group);
                if asking.contains(&leader)
                    && matches!(self.ask(Kind::Propose, group, leader, limit), Some(Ok(_)))
                {
                    return (leader, Duration::from_nanos(self.now - start));
                }
            }
            let waited = Duration::from_nanos(self.now - start);
            assert!(waited < limit, "group {group}: nodes {asking:?} took no write within {limit:?}");
            self.run_for(Duration::from_millis(10));
        }
    }

    /// Who leads, as a node sees it; `NONE` if it does not run.
    pub(crate) fn leader_seen_by(&self, node: NodeId, group: GroupId) -> NodeId {
        let (actor, slot) = self.home(node, group);
        self.actors[actor].live.as_ref().map_or(NodeId::NONE, |live| live.core.leader_of(slot))
    }

    /// Begins an operation at a node that runs. Returns its number.
    pub(crate) fn begin(&mut self, kind: Kind, group: GroupId, node: NodeId, client: u32) -> u64 {
        let (actor, slot) = self.home(node, group);
        let token = self.checker.borrow_mut().begin(kind, group, node, client);
        let port = self.actors[actor].live.as_ref().expect("a node that runs").port;
        match kind {
            Kind::Propose => {
                let mut payload = token.to_le_bytes().to_vec();
                let padding = self.random.below(300) as usize;
                payload.resize(8 + padding, token as u8);
                self.input(actor, Event::Propose { port, token, slot, payload: &payload });
            }
            Kind::ReadLinearizable => {
                let policy = ReadPolicy::Linearizable;
                self.input(actor, Event::Read { port, token, slot, policy, request: b"" });
            }
            Kind::ReadLocal => {
                let policy = ReadPolicy::Local { min_index: LogIndex(0), max_wait: Duration::ZERO };
                self.input(actor, Event::Read { port, token, slot, policy, request: b"" });
            }
        }
        token
    }

    pub(super) fn client_acts(&mut self, client: usize) {
        let Client { op, since } = self.clients[client];
        if !self.clients_run || (op.is_some() && self.now < since + CLIENT_PATIENCE) {
            return;
        }
        self.clients[client].op = None;
        let group = GroupId(1 + self.random.below(self.plan.groups));
        let voters = self.voters(group);
        let asked = voters[self.random.below(voters.len() as u64) as usize];
        let leader = self.leader_seen_by(asked, group);
        let known = leader.is_some() && self.random.below(10) > 0;
        let node = if known { leader } else { asked };
        let member = &self.members[node.0 as usize - 1];
        if !member.alive || member.paused_until > self.now {
            let at = self.now + MILLISECOND + self.random.below(20 * MILLISECOND);
            self.schedule(at, Happening::Client { client });
            return;
        }
        let kind = match self.random.below(10) {
            0..6 => Kind::Propose,
            6..9 => Kind::ReadLinearizable,
            _ => Kind::ReadLocal,
        };
        let op = self.begin(kind, group, node, client as u32);
        self.clients[client] = Client { op: Some(op), since: self.now };
        self.schedule(self.now + CLIENT_PATIENCE, Happening::Client { client });
    }

    pub(super) fn take_answers(&mut self, actor: usize) {
        let live = self.actors[actor].live.as_mut().expect("just turned");
        let mut ports = Vec::new();
        live.core.ports_with_answers(&mut ports);
        if ports.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        answers.clear();
        live.core.take_answers(live.port, &mut answers);
        for (completion, reply) in answers.iter().filter(|(completion, _)| completion.token != TRANSFER) {
            let counter = reply.try_into().ok().map(u64::from_le_bytes);
            let op = self.checker.borrow_mut().on_answer(completion.token, completion.result, counter);
            if let Err(error @ Error::OutOfSpace { .. }) = completion.result {
                self.note(|| format!("node {}: {error}", op.node));
            }
            let client = op.client as usize;
            if self.clients.get(client).is_some_and(|client| client.op == Some(completion.token)) {
                self.clients[client].op = None;
                let pause = match completion.result {
                    Ok(_) => self.random.below(6 * MILLISECOND),
                    Err(_) => 2 * MILLISECOND + self.random.below(20 * MILLISECOND),
                };
                self.schedule(self.now + pause, Happening::Client { client });
            }
        }
        self.answers = answers;
    }

    /// The connection of clients to a node that ended is gone: they will never know.
    pub(super) fn give_up_on(&mut self, node: usize) {
        let id = self.members[node].id;
        for client in 0..self.clients.len() {
            let at_node = |op: u64| self.checker.borrow().ops[op as usize].node == id;
            if self.clients[client].op.is_some_and(at_node) {
                self.clients[client].op = None;
                let at = self.now + self.random.below(20 * MILLISECOND);
                self.schedule(at, Happening::Client { client });
            }
        }
    }

    /// Why the cluster is not at rest and equal everywhere; `None` if it is.
    pub(crate) fn unrest(&self) -> Option<String> {
        for group in (1..=self.plan.groups).map(GroupId) {
            let voters = self.voters(group);
            let leader = self.leader_seen_by(voters[0], group);
            let mut states = Vec::new();
            for voter in voters {
                let (actor, slot) = self.home(voter, group);
                let Some(live) = &self.actors[actor].live else {
                    return Some(format!("node {voter} is down"));
                };
                let status = live.core.group_status(slot);
                if !leader.is_some() || status.raft.leader != leader {
                    return Some(format!("group {group}: node {voter} follows {}", status.raft.leader));
                }
                if live.core.requests_waiting() > 0 {
                    return Some(format!("node {voter}: requests wait"));
                }
                let count = live.core.machine().count(slot.0);
                states.push((status.applied, status.raft.last, status.digest, count));
            }
            let (applied, last, _, count) = states[0];
            let whole = applied == last && count == self.checker.borrow().count(group);
            if !whole || states.iter().any(|state| *state != states[0]) {
                return Some(format!("group {group}: {states:?}"));
            }
        }
        None
    }

    /// Runs until the cluster is at rest. What every group's members hold is then equal.
    pub(crate) fn settle(&mut self, limit: Duration) {
        let end = self.now + limit.as_nanos() as u64;
        while let Some(why) = self.unrest() {
            assert!(self.now < end, "not at rest {limit:?} after everything was healed: {why}");
            self.run_for(Duration::from_millis(20));
        }
    }

    /// Sums over all cores that run, to see what a run has exercised.
    pub(crate) fn totals(&self) -> [u64; 4] {
        let mut totals = [0; 4];
        for live in self.actors.iter().filter_map(|actor| actor.live.as_ref()) {
            let counters = live.core.counters();
            let some = [counters.cold_entries, counters.dropped, counters.held_back, counters.busy];
            totals.iter_mut().zip(some).for_each(|(total, some)| *total += some);
        }
        totals
    }
}
