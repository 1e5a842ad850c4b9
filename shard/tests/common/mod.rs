//! A cluster of groups in one thread: every message, every completed write and every moment is the test's to order.
//!
//! It plays the caller's part as the crate asks for it: what a step writes and what it parks become one batch of the node's
//! journal; parked messages leave when their batch and all before it are durable; a crash loses the batches that are not.
//! And it checks: each step is followed by the safety properties of the Raft paper (figure 3), from the outside.
#![allow(dead_code, unreachable_pub)]

pub mod changes;
pub mod chaos;
pub mod checks;
pub mod node;
pub mod pulses;
mod reading;
mod says;
pub mod show;
pub mod snapshot_chaos;
pub mod snapshots;

use std::collections::BTreeMap;
use std::time::Duration;

use logdrive_shard::{
    Append, AppendReply, Config, Env, Group, Heartbeat, HeartbeatReply, LeaseRefused, LogIndex, Membership,
    MembershipChange, Moment, NodeId, Proposed, Random, ReadIndexReply, ReadIndexRequest, Refused, Role,
    Route, Term, TermQuery, TermReport, TimeoutNow, VoteReply, VoteRequest,
};

use checks::Checks;
use node::{Batch, Clock, Entry, Node, Recorder, Start};

/// A message as the caller would frame it.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Append(Append, Vec<Entry>),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    ReadIndexRequest(ReadIndexRequest),
    ReadIndexReply(ReadIndexReply),
    VoteRequest(VoteRequest),
    VoteReply(VoteReply),
    TimeoutNow(TimeoutNow),
    TermQuery(TermQuery),
    TermReport(TermReport),
    /// A snapshot with all its bytes, under the term of the leader that offers it.
    Snapshot(Term, snapshots::Snapshot),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
}

pub struct Cluster {
    pub config: Config,
    pub now: Moment,
    pub random: Random,
    pub nodes: BTreeMap<u32, Node>,
    /// In the order they were sent.
    pub network: Vec<Envelope>,
    /// Answers to pulses on their way.
    pub answers: Vec<pulses::Answer>,
    pub checks: Checks,
    /// What happened, as text; scripts print it.
    pub trace: Vec<String>,
    pub tracing: bool,
    /// Snapshots that leaders want to be sent, oldest first.
    pub requests: Vec<snapshots::Request>,
    /// They are sent at once whenever everything else is.
    pub serving: bool,
    /// Snapshots that were installed.
    pub installed: u64,
    next_data: u64,
    next_route: u64,
}

/// Settings that make arithmetic easy: elections after 1000 ms and up to 1000 more, heartbeats each 100 ms.
pub fn config() -> Config {
    Config::default()
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Cluster {
    /// Nodes `1..=count`, new, all in contact with each other.
    pub fn new(count: u32, config: Config, seed: u64) -> Cluster {
        let mut cluster = Cluster::dark(count, config, seed, &Start::default());
        cluster.connect_all();
        cluster
    }

    /// Nodes that know nothing of each other yet.
    pub fn dark(count: u32, config: Config, seed: u64, start: &Start) -> Cluster {
        let mut cluster = Cluster {
            config,
            now: Moment(0),
            random: Random::new(seed),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            answers: Vec::new(),
            checks: Checks::new(),
            trace: Vec::new(),
            tracing: false,
            requests: Vec::new(),
            serving: false,
            installed: 0,
            next_data: 1,
            next_route: 1,
        };
        let all: Vec<u32> = (1..=count).collect();
        let voters = if start.voters.is_empty() { &all } else { &start.voters };
        let nodes: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
        for id in 1..=count {
            let mut node = Node::new(NodeId(id), start);
            if voters.contains(&id) {
                node.founding = Some(Membership::founding(&nodes).expect("voters that can found a group"));
            }
            cluster.checks.adopt_log(&node.disk);
            cluster.nodes.insert(id, node);
            cluster.boot(id, start.fresh);
        }
        cluster
    }

    pub fn ids(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    pub fn group(&self, id: u32) -> &Group {
        self.nodes[&id].group.as_ref().expect("the node is up")
    }

    pub fn is_up(&self, id: u32) -> bool {
        self.nodes[&id].group.is_some()
    }

    /// Runs one step of a node and does the caller's duties after it.
    pub fn step<R>(
        &mut self,
        id: u32,
        step: impl FnOnce(&mut Group, &mut Env<'_, Recorder<'_>>, &mut Vec<Entry>) -> (R, Vec<Entry>, u32),
    ) -> R {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let mut group = node.group.take().expect("the node is up");
        let (was_commit, was_state) = (group.commit(), group.hard_state());
        let was_refused = group.refused_messages();
        let config = node.settings.as_ref().unwrap_or(&self.config);
        let mut recorder = Recorder::new(
            (&mut node.log, &mut node.base),
            &node.routes,
            node.cold_below.max(node.lost_below),
            &mut node.pulses,
            config.election_base,
        );
        let mut env =
            Env { now: node.clock.at(self.now), config, random: &mut self.random, sink: &mut recorder };
        let mut replaced = Vec::new();
        let (result, entries, epoch) = step(&mut group, &mut env, &mut replaced);
        let effects = recorder.finish();
        // What on_append accepted is kept before anything else happens.
        let mut writes = effects.writes;
        if !entries.is_empty() {
            node.write_entries(entries, epoch, &mut writes);
        }
        assert_eq!(group.last_index().0, node.log.len() as u64, "group and caller agree on the log");
        assert!(group.commit() >= was_commit, "the commit index went back");
        let state = group.hard_state();
        if (state.term, state.vote) != (was_state.term, was_state.vote) {
            let saves = |write: &node::Write| matches!(write, node::Write::HardState(s) if (s.term, s.vote) == (state.term, state.vote));
            assert!(writes.iter().any(saves), "node {id} changed term or vote and did not save it");
        }
        node.wants_load |= effects.wants_load;
        for envelope in effects.immediate {
            self.network.push(envelope.from(NodeId(id)));
        }
        let parked = effects.parked.into_iter().map(|p| p.from(NodeId(id))).collect();
        node.journal.push_back(Batch { writes, parked });
        node.reads_confirmed.extend(effects.reads_confirmed.iter().copied());
        if effects.forwarded_lost {
            node.reads_waiting.clear();
        }
        if let Some(lost) = effects.leadership_lost {
            node.reads_waiting.clear();
            node.lost.push(lost);
        }
        for &(to, wanted) in &effects.snapshots_wanted {
            node.snapshots_wanted.push(to);
            self.requests.push(snapshots::Request { leader: id, to: to.0, wanted });
        }
        let is_refused = group.refused_messages() > was_refused;
        if self.tracing {
            self.trace.extend(is_refused.then(|| format!("  {id} refuses a message")));
            self.trace.extend(effects.trace.iter().map(|line| format!("  {id} {line}")));
        }
        node.group = Some(group);
        self.release(id);
        self.check(id, &effects.reads_confirmed);
        result
    }

    fn check(&mut self, id: u32, reads_confirmed: &[(u64, LogIndex)]) {
        let disks = self.nodes.values().map(|node| (node.id, &node.disk)).collect();
        let node = &self.nodes[&id];
        self.checks.after_step(id, node, &disks);
        for &(round, index) in reads_confirmed {
            self.checks.reads_confirmed(node, round, index);
        }
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        for &(round, _) in reads_confirmed {
            node.reads_waiting.retain(|&(waiting, _)| waiting > round);
        }
    }

    /// Sends what is parked behind nothing that still has to be written.
    fn release(&mut self, id: u32) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        while node.journal.front().is_some_and(|batch| batch.writes.is_empty()) {
            let batch = node.journal.pop_front().expect("seen just now");
            for envelope in batch.parked {
                self.checks.sent(&envelope);
                self.network.push(envelope);
            }
        }
    }

    // -- inputs ---------------------------------------------------------------------------------------------------

    /// A step that brings no entries to write.
    pub fn plain<R>(&mut self, id: u32, step: impl FnOnce(&mut Group, &mut Env<'_, Recorder<'_>>) -> R) -> R {
        self.step(id, |group, env, _| (step(group, env), Vec::new(), 0))
    }

    pub fn propose(&mut self, id: u32, count: u32, bytes: u32) -> Result<Proposed, Refused> {
        let first_data = self.next_data;
        self.next_data += u64::from(count);
        let result = self.step(id, |group, env, _| {
            let result = group.propose(env, count, bytes * count);
            let (term, epoch) = result.map_or((Term(0), 0), |p| (p.term, p.epoch));
            let made = if result.is_ok() { u64::from(count) } else { 0 };
            let entries =
                (0..made).map(|i| Entry { term, data: first_data + i, bytes, members: None }).collect();
            (result, entries, epoch)
        });
        self.plain(id, |group, env| group.flush(env));
        result
    }

    pub fn read(&mut self, id: u32) -> Result<u64, Refused> {
        let committed = self.checks.committed_len();
        let result = self.plain(id, |group, env| group.read_index(env));
        if let Ok(round) = result {
            self.nodes.get_mut(&id).expect("a node").reads_waiting.push((round, committed));
        }
        self.plain(id, |group, env| group.flush(env));
        result
    }

    /// A read on a follower that asks its leader.
    pub fn forward_read(&mut self, id: u32) -> Result<u64, Refused> {
        let committed = self.checks.committed_len();
        let result = self.plain(id, |group, env| group.forward_read(env));
        if let Ok(round) = result {
            self.nodes.get_mut(&id).expect("a node").reads_waiting.push((round, committed));
        }
        self.plain(id, |group, env| group.flush(env));
        result
    }

    /// Asks for another configuration.
    pub fn change(&mut self, id: u32, change: &MembershipChange) -> Result<Proposed, Refused> {
        let result = self.plain(id, |group, env| group.change_membership(env, change));
        self.plain(id, |group, env| group.flush(env));
        result
    }

    /// A read under a lease, served at once; what it returns is checked like a confirmed round.
    pub fn lease_read(&mut self, id: u32) -> Result<LogIndex, LeaseRefused> {
        let result = self.plain(id, |group, env| group.lease_read(env));
        if let Ok(index) = result {
            let committed = self.checks.committed_len();
            assert!(
                index.0 as usize >= committed,
                "node {id}: a stale read under a lease at {index}, {committed} were committed"
            );
        }
        result
    }

    pub fn transfer(&mut self, id: u32, to: u32) -> Result<(), Refused> {
        self.plain(id, |group, env| group.transfer_leadership(env, NodeId(to)))
    }

    /// Hands a message to its receiver, if it is up and knows the way (which stands for: the connection exists).
    pub fn hand_over(&mut self, envelope: Envelope) {
        if !self.is_up(envelope.to.0) {
            return;
        }
        if self.tracing {
            self.trace.push(envelope.to_string());
        }
        let Envelope { from, to, message } = envelope;
        if let Message::Snapshot(leader_term, snapshot) = &message {
            return self.install_snapshot(from, to.0, *leader_term, snapshot);
        }
        self.step(to.0, |group, env, _| {
            let mut written = Vec::new();
            let mut epoch = 0;
            match &message {
                Message::Append(append, entries) => {
                    let indexed = entries.iter().zip(append.prev_index.0 + 1..);
                    let memberships: Vec<_> = indexed
                        .filter_map(|(entry, index)| Some((LogIndex(index), entry.members?.clone())))
                        .collect();
                    let accepted = group.on_append(env, from, append, &memberships);
                    epoch = accepted.epoch;
                    let range = accepted.skip as usize..(accepted.skip + accepted.take) as usize;
                    if accepted.take > 0 {
                        written = entries[range].to_vec();
                        env.sink.truncate(append.prev_index.0 + u64::from(accepted.skip));
                    }
                }
                Message::AppendReply(reply) => group.on_append_reply(env, from, reply),
                Message::Heartbeat(heartbeat) => group.on_heartbeat(env, from, heartbeat),
                Message::HeartbeatReply(reply) => group.on_heartbeat_reply(env, from, reply),
                Message::ReadIndexRequest(request) => group.on_read_index_request(env, from, request),
                Message::ReadIndexReply(reply) => group.on_read_index_reply(env, from, reply),
                Message::VoteRequest(request) => group.on_vote_request(env, from, request),
                Message::VoteReply(reply) => group.on_vote_reply(env, from, reply),
                Message::TermQuery(query) => group.on_term_query(env, from, query),
                Message::TermReport(report) => group.on_term_report(env, from, report),
                Message::TimeoutNow(order) => group.on_timeout_now(env, from, order),
                Message::Snapshot(..) => unreachable!("installed above"),
            }
            ((), written, epoch)
        });
    }

    /// Completes the oldest write of a node. Returns whether there was one.
    pub fn complete_write(&mut self, id: u32) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let Some(batch) = node.journal.pop_front() else { return false };
        if self.tracing {
            let writes: Vec<String> = batch.writes.iter().map(|write| write.to_string()).collect();
            self.trace.push(format!("{id} has written: {}", writes.join("; ")));
        }
        let (durable, votes) = node.disk.apply(&batch.writes);
        if node.group.is_none() {
            return true;
        }
        // Completion first, then what was parked on it: either order must do.
        for (epoch, last) in durable {
            self.plain(id, |group, env| group.on_durable(env, epoch, last));
        }
        for term in votes {
            self.plain(id, |group, env| group.on_vote_durable(env, term));
        }
        for envelope in batch.parked {
            self.checks.sent(&envelope);
            self.network.push(envelope);
        }
        self.release(id);
        true
    }

    pub fn complete_writes(&mut self, id: u32) {
        while self.complete_write(id) {}
    }

    pub fn set_contact(&mut self, a: u32, b: u32, alive: bool) {
        for (me, peer) in [(a, b), (b, a)] {
            self.set_contact_one_way(me, peer, alive);
        }
    }

    /// Contact as one side judges it.
    pub fn set_contact_one_way(&mut self, me: u32, peer: u32, alive: bool) {
        if self.is_up(me) {
            self.plain(me, |group, env| group.on_contact(env, NodeId(peer), alive));
        }
    }

    /// A new connection between two nodes: what was in flight on the old one is lost, both get new routes.
    pub fn reroute(&mut self, a: u32, b: u32) {
        self.network.retain(|e| !((e.from.0 == a && e.to.0 == b) || (e.from.0 == b && e.to.0 == a)));
        self.end_support(a, b);
        for (me, peer) in [(a, b), (b, a)] {
            self.next_route += 1;
            let route = Route(self.next_route);
            if self.is_up(me) {
                self.nodes.get_mut(&me).expect("a node").routes.insert(route.0, NodeId(peer));
                self.plain(me, |group, env| group.on_route(env, NodeId(peer), route));
            }
        }
    }

    pub fn connect(&mut self, a: u32, b: u32) {
        if self.is_up(a) && self.is_up(b) {
            self.reroute(a, b);
            self.set_contact(a, b, true);
        }
    }

    pub fn connect_all(&mut self) {
        let ids = self.ids();
        for (at, &a) in ids.iter().enumerate() {
            for &b in &ids[at + 1..] {
                self.connect(a, b);
            }
        }
    }

    /// Connections between nodes of different sides break, and contact ends.
    pub fn partition(&mut self, sides: &[&[u32]]) {
        let side_of = |id: u32| sides.iter().position(|side| side.contains(&id));
        let ids = self.ids();
        for (at, &a) in ids.iter().enumerate() {
            for &b in &ids[at + 1..] {
                if side_of(a) != side_of(b) {
                    self.cut(a, b);
                }
            }
        }
    }

    pub fn cut(&mut self, a: u32, b: u32) {
        self.network.retain(|e| !((e.from.0 == a && e.to.0 == b) || (e.from.0 == b && e.to.0 == a)));
        self.set_contact(a, b, false);
        self.end_support(a, b);
        for (me, peer) in [(a, b), (b, a)] {
            if self.is_up(me) {
                self.plain(me, |group, env| group.on_route(env, NodeId(peer), Route::NONE));
            }
        }
    }

    /// Loses the node's memory, and of its journal all but the first `keep` batches. The others' contact to it ends.
    pub fn crash(&mut self, id: u32, keep: usize) {
        self.crash_unnoticed(id, keep);
        for other in self.ids() {
            if other != id {
                self.set_contact_one_way(other, id, false);
            }
        }
    }

    /// The same, so quickly restarted (it must be) that nobody's contact to it ended.
    pub fn crash_unnoticed(&mut self, id: u32, keep: usize) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        node.group = None;
        for batch in node.journal.drain(..).take(keep) {
            node.disk.apply(&batch.writes);
        }
        node.reads_waiting.clear();
        self.network.retain(|e| e.from.0 != id && e.to.0 != id);
    }

    /// Starts a node from its disk, without any contact.
    pub fn boot(&mut self, id: u32, fresh: bool) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let settings = node.settings.clone();
        let config = settings.as_ref().unwrap_or(&self.config);
        node.boot(node.clock.at(self.now), config, &mut self.random, fresh);
        if node.lost_below > 1 {
            self.plain(id, |group, env| group.set_fit(env, false));
        }
    }

    /// Starts a node anew that has done nothing yet, with settings and a clock of its own.
    pub fn replace(&mut self, id: u32, settings: Config, clock: Clock, fresh: bool) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        (node.group, node.settings, node.clock) = (None, Some(settings), clock);
        self.boot(id, fresh);
    }

    pub fn restart(&mut self, id: u32) {
        self.boot(id, false);
        for other in self.ids() {
            if other != id {
                self.connect(id, other);
            }
        }
    }

    // -- time and delivery ----------------------------------------------------------------------------------------

    /// Delivers the messages now in flight that match, in order; what they cause stays in flight.
    pub fn deliver(&mut self, matches: impl Fn(&Envelope) -> bool) -> usize {
        let (chosen, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.network).into_iter().partition(matches);
        self.network = rest;
        let count = chosen.len();
        for envelope in chosen {
            self.hand_over(envelope);
        }
        count
    }

    pub fn discard(&mut self, matches: impl Fn(&Envelope) -> bool) -> usize {
        let before = self.network.len();
        self.network.retain(|e| !matches(e));
        before - self.network.len()
    }

    /// Delivers and writes until nothing is left to do; time stands still.
    pub fn stabilize(&mut self) {
        for _ in 0..10_000 {
            for id in self.ids() {
                self.complete_writes(id);
            }
            self.load_all();
            if self.serving && self.serve_snapshots() {
                continue;
            }
            if self.deliver(|_| true) == 0 && self.nodes.values().all(|n| n.journal.is_empty()) {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// The node whose deadline is next, and when.
    pub fn next_deadline(&self) -> Option<(u32, Moment)> {
        let deadline = |node: &Node| node.group.as_ref().map(|group| group.next_deadline());
        let armed = |node: &Node| deadline(node).filter(|&at| at != Moment::NEVER);
        let all = self.nodes.iter().filter_map(|(&id, node)| Some((id, node.clock.when(armed(node)?))));
        all.min_by_key(|&(id, at)| (at, id))
    }

    pub fn fire_deadline(&mut self, id: u32) {
        let deadline = self.group(id).next_deadline();
        assert_ne!(deadline, Moment::NEVER, "node {id} has no deadline");
        self.now = self.now.max(self.nodes[&id].clock.when(deadline));
        self.plain(id, |group, env| group.on_deadline(env));
    }

    /// Lets time pass, with everything delivered and written at once and every deadline kept.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        self.stabilize();
        while let Some((id, at)) = self.next_deadline().filter(|&(_, at)| at <= end) {
            self.now = self.now.max(at);
            self.plain(id, |group, env| group.on_deadline(env));
            self.stabilize();
        }
        self.now = end;
    }

    /// Runs until somebody leads; returns who.
    pub fn elect(&mut self) -> u32 {
        for _ in 0..100 {
            self.run_for(ms(500));
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody was elected in 50 s");
    }

    /// Makes `id` the leader by its own campaign.
    pub fn lead(&mut self, id: u32) {
        self.plain(id, |group, env| group.campaign(env));
        self.stabilize();
        assert_eq!(self.group(id).role(), Role::Leader, "node {id} was not elected");
    }

    /// So many nodes, led by node 1, and all is quiet.
    pub fn led(nodes: u32) -> Cluster {
        let start = node::Start { fresh: true, ..node::Start::default() };
        let mut cluster = Cluster::dark(nodes, config(), 7, &start);
        cluster.connect_all();
        cluster.lead(1);
        cluster.plain(1, |group, env| group.flush_commit(env));
        cluster.run_for(ms(2_000));
        cluster
    }

    /// The leader with the highest term.
    pub fn leader(&self) -> Option<u32> {
        let up = self.nodes.iter().filter_map(|(&id, node)| Some((id, node.group.as_ref()?)));
        up.filter(|(_, group)| group.is_leader()).max_by_key(|(_, group)| group.term()).map(|(id, _)| id)
    }

    /// The terms of a node's log.
    pub fn terms(&self, id: u32) -> Vec<u64> {
        self.nodes[&id].log.iter().map(|entry| entry.term.0).collect()
    }
}
