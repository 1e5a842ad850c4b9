//! One state of a model, and the steps from it.

use std::hash::Hash;
use std::rc::Rc;

use ahash::RandomState;
use logdrive_shard::{
    Config, Env, Group, HardState, LogIndex, MembershipChange, Moment, NodeId, Random, Route, Setup, Term,
};

use super::member::{Batch, Disk, Effects, Entry, Member, Message, Recorder, Write, id, memberships};
use super::model::{Action, Budget, Model};
use super::properties::{self, Before, History};
use super::pulses::Pulses;

/// An answer to a pulse, under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PulseAnswer {
    from: usize,
    to: usize,
    epoch: u64,
    sent_at: Moment,
}

/// Messages under way from one member to another, oldest first.
type Link = Vec<Rc<Message>>;

#[derive(Clone)]
pub struct World {
    pub members: Vec<Rc<Member>>,
    /// Messages from member `a` to member `b` at `a * members + b`.
    links: Vec<Rc<Link>>,
    pub history: Rc<History>,
    pub budget: Budget,
    /// Who is in contact with whom, as each judges it: a bit per pair.
    contact: u64,
    /// The clock, in milliseconds; stands still in models without one.
    now: u64,
    answers: Vec<PulseAnswer>,
    pub founders: usize,
    changes: Rc<[MembershipChange]>,
    /// Hashes of members and links, kept because most steps change few of them.
    hashes: Vec<u64>,
}

/// The same in every run, so that every run visits the same states.
const HASHER: RandomState = RandomState::with_seeds(1, 2, 3, 4);

impl World {
    pub fn new(model: &Model, config: &Config) -> World {
        let count = model.members;
        let term = model.logs.iter().filter_map(|log| log.last()).max().copied().unwrap_or(0);
        let mut history = History::default();
        let mut members = Vec::new();
        for at in 0..count {
            let entry = |(index, &term): (usize, &u64)| Entry {
                term: Term(term),
                data: 10_000 + 100 * term as u32 + index as u32,
                members: None,
            };
            let log: Vec<Entry> = model.logs[at].iter().enumerate().map(entry).collect();
            let commit = LogIndex(model.commit.min(log.len() as u64));
            if commit.0 == model.commit {
                history.adopt(&log, model.commit);
            }
            let disk = Disk {
                log,
                hard_state: HardState {
                    term: Term(term),
                    vote: NodeId::NONE,
                    commit,
                    ..HardState::default()
                },
                older_state: (model.budget.damages > 0).then(HardState::default),
                ..Disk::default()
            };
            let mut member = boot(at, model.founders, config, disk, Moment(0), true);
            member.pulses.life = u64::from(model.leased);
            members.push(Rc::new(member));
        }
        let mut world = World {
            members,
            links: (0..count * count).map(|_| Rc::default()).collect(),
            history: Rc::new(history),
            budget: model.budget,
            contact: 0,
            now: 0,
            answers: Vec::new(),
            founders: model.founders,
            changes: model.changes.clone().into(),
            hashes: vec![0; count + count * count],
        };
        for at in 0..count {
            world.connect(config, at);
        }
        (0..world.hashes.len()).for_each(|part| world.rehash(part));
        if model.led {
            // Where there is a clock, the first deadlines are over.
            world.now = if model.leased { 100 } else { 0 };
            world.budget.deadlines += 1;
            world.apply(config, Action::Deadline(0));
            world.calm(model, config);
            assert!(world.members[0].group.is_leader());
        }
        if model.leased {
            world.take_lease(model, config);
        }
        for &action in &model.prefix {
            // The budget is for what is explored.
            world.budget = Budget { changes: 1, crashes: 1, deadlines: 1, ..Budget::default() };
            world.apply(config, action);
            if matches!(action, Action::Change { .. }) {
                (0..count * count).for_each(|link| world.clear(link));
            }
        }
        (0..world.hashes.len()).for_each(|part| world.rehash(part));
        world.budget = model.budget;
        world
    }

    /// Everybody answers a pulse of the leader, and a round shows that they follow.
    fn take_lease(&mut self, model: &Model, config: &Config) {
        self.budget = Budget { pulses: 2, reads: 1, ..Budget::default() };
        for to in 1..self.members.len() {
            self.apply(config, Action::Pulse { from: 0, to });
            self.apply(config, Action::Answer { from: to, to: 0 });
        }
        self.apply(config, Action::Read(0));
        self.calm(model, config);
        assert!(self.members[0].reads.is_empty() && self.lease_read(config, 0).is_some());
    }

    /// Writes and delivers until nothing is under way.
    fn calm(&mut self, model: &Model, config: &Config) {
        let mut actions = Vec::new();
        loop {
            actions.clear();
            self.actions(model, &mut actions);
            let harmless =
                |a: &&Action| matches!(a, Action::Write(_) | Action::Deliver { at: 0, keep: false, .. });
            match actions.iter().find(harmless) {
                Some(&action) => self.apply(config, action),
                None => return,
            }
        }
    }

    /// Tells a member that has just started the ways and the contact it has.
    fn connect(&mut self, config: &Config, at: usize) {
        for peer in (0..self.members.len()).filter(|&peer| peer != at) {
            self.step(config, at, |group, env| group.on_route(env, id(peer), Route(peer as u64)));
            self.contact |= self.pair(at, peer);
            self.step(config, at, |group, env| group.on_contact(env, id(peer), true));
            if !config.check_quorum {
                // Contact has armed the deadline. If it lasted, nobody who has heard a leader would ever campaign.
                self.step(config, at, |group, env| group.on_contact(env, id(peer), false));
            }
        }
    }

    fn pair(&self, member: usize, peer: usize) -> u64 {
        1 << (member * self.members.len() + peer)
    }

    fn rehash(&mut self, part: usize) {
        let members = self.members.len();
        self.hashes[part] = match part.checked_sub(members) {
            None => HASHER.hash_one(&*self.members[part]),
            Some(link) => HASHER.hash_one(&*self.links[link]),
        };
    }

    /// Equal worlds have equal keys, and (with a probability that is known) no others do.
    pub fn key(&self) -> u64 {
        let clock = (self.now, &self.answers);
        HASHER.hash_one((&self.hashes, &*self.history, &self.budget, self.contact, clock))
    }

    // -- what may happen --------------------------------------------------------------------------------------------

    pub fn actions(&self, model: &Model, actions: &mut Vec<Action>) {
        let count = self.members.len();
        let budget = &self.budget;
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            let waiting = self.links[from * count + to].len();
            if waiting == 0 {
                continue;
            }
            actions.push(Action::Deliver { from, to, at: 0, keep: false });
            if budget.duplicates > 0 {
                actions.push(Action::Deliver { from, to, at: 0, keep: true });
            }
            if budget.losses > 0 {
                actions.push(Action::Lose { from, to });
            }
            if budget.reorders > 0 {
                actions.extend((1..waiting).map(|at| Action::Deliver { from, to, at, keep: false }));
            }
        }
        for (at, member) in self.members.iter().enumerate() {
            self.member_actions(model, at, member, actions);
        }
        if budget.ticks > 0 {
            actions.push(Action::Tick);
        }
        actions.extend(self.answers.iter().map(|answer| Action::Answer { from: answer.from, to: answer.to }));
    }

    fn member_actions(&self, model: &Model, at: usize, member: &Member, actions: &mut Vec<Action>) {
        let (budget, group) = (&self.budget, &member.group);
        let peers = || (0..self.members.len()).filter(move |&peer| peer != at);
        if !member.journal.is_empty() {
            actions.push(Action::Write(at));
        }
        let is_armed = match model.leased {
            true => group.next_deadline() <= self.time(),
            false => group.next_deadline() != Moment::NEVER,
        };
        let may_campaign = group.term().0 < model.term_max
            && model.campaigners.contains(&at)
            && (at == 0 || !self.is_untouched(model));
        if budget.deadlines > 0 && is_armed && (group.is_leader() || may_campaign) {
            actions.push(Action::Deadline(at));
        }
        if group.is_leader() {
            if budget.proposals > 0 {
                actions.push(Action::Propose(at));
            }
            if budget.changes > 0 {
                actions.extend((0..model.changes.len()).map(|which| Action::Change { member: at, which }));
            }
            if budget.transfers > 0 && group.term().0 < model.term_max {
                actions.extend(peers().map(|to| Action::Transfer { from: at, to }));
            }
        }
        if budget.reads > 0 && group.leader().is_some() && model.readers.contains(&at) {
            actions.push(Action::Read(at));
        }
        if budget.snapshots > 0 && group.applicable() >= group.first_index() {
            actions.push(Action::Snapshot(at));
        }
        if budget.crashes > 0 {
            for writes in 0..=member.journal.len() {
                actions.push(Action::Crash { member: at, writes, late: false });
                if model.late {
                    actions.push(Action::Crash { member: at, writes, late: true });
                }
            }
        }
        if budget.damages > 0 && model.damaged.contains(&at) {
            for keep in 0..=member.disk.log.len() {
                let choices =
                    [false, true].into_iter().filter(|&state| state || keep < member.disk.log.len());
                actions.extend(choices.map(|state| Action::Damage { member: at, keep, state }));
            }
        }
        if budget.pulses > 0 && group.is_leader() {
            let is_out = |to| self.answers.iter().any(|answer| (answer.from, answer.to) == (to, at));
            let pulses = peers().filter(|&to| !is_out(to)).map(|to| Action::Pulse { from: at, to });
            actions.extend(pulses);
        }
        if budget.contacts > 0 {
            actions.extend(peers().map(|peer| {
                let alive = self.contact & self.pair(at, peer) == 0;
                Action::Contact { member: at, peer, alive }
            }));
        }
    }

    /// While nothing has happened and all members are alike, the first to campaign may be called number 0: what follows if
    /// another one does is the same under other names.
    fn is_untouched(&self, model: &Model) -> bool {
        let logs = &model.logs;
        !model.led && self.budget == model.budget && logs.iter().all(|log| *log == logs[0])
    }

    /// Whether the action may happen here. For paths that are shortened.
    pub fn allows(&self, model: &Model, action: Action) -> bool {
        let mut actions = Vec::new();
        self.actions(model, &mut actions);
        actions.contains(&action)
    }

    // -- what happens -------------------------------------------------------------------------------------------------

    pub fn apply(&mut self, config: &Config, action: Action) {
        let budget = &mut self.budget;
        match action {
            Action::Deliver { at, keep, .. } => {
                budget.reorders -= u8::from(at > 0);
                budget.duplicates -= u8::from(keep);
            }
            Action::Lose { .. } => budget.losses -= 1,
            Action::Write(_) => {}
            Action::Deadline(_) => budget.deadlines -= 1,
            Action::Propose(_) => budget.proposals -= 1,
            Action::Read(_) => budget.reads -= 1,
            Action::Transfer { .. } => budget.transfers -= 1,
            Action::Change { .. } => budget.changes -= 1,
            Action::Snapshot(_) => budget.snapshots -= 1,
            Action::Crash { .. } => budget.crashes -= 1,
            Action::Contact { .. } => budget.contacts -= 1,
            Action::Damage { .. } => budget.damages -= 1,
            Action::Tick => budget.ticks -= 1,
            Action::Pulse { .. } => budget.pulses -= 1,
            Action::Answer { .. } => {}
        }
        match action {
            Action::Deliver { from, to, at, keep } => self.deliver(config, from, to, at, keep),
            Action::Lose { from, to } => drop(self.take(from, to, 0)),
            Action::Write(at) => self.complete_write(config, at),
            Action::Deadline(at) => self.step(config, at, |group, env| group.on_deadline(env)),
            Action::Propose(at) => self.propose(config, at),
            Action::Read(at) => self.read(config, at),
            Action::Transfer { from, to } => self.step(config, from, |group, env| {
                let _ = group.transfer_leadership(env, id(to));
            }),
            Action::Change { member, which } => {
                let change = self.changes[which].clone();
                self.step(config, member, |group, env| {
                    let _ = group.change_membership(env, &change);
                    group.flush(env);
                });
            }
            Action::Snapshot(at) => self.take_snapshot(config, at),
            Action::Crash { member, writes, late } => self.crash(config, member, writes, late, None),
            Action::Damage { member, keep, state } => {
                self.crash(config, member, 0, false, Some((keep, state)));
            }
            Action::Tick => self.now += 1,
            Action::Pulse { from, to } => {
                let sent_at = self.time();
                let epoch = self.member(to).pulses.hear(from, sent_at);
                self.answers.push(PulseAnswer { from: to, to: from, epoch, sent_at });
                self.answers.sort_unstable();
            }
            Action::Answer { from, to } => {
                let arrived = self.answers.iter().position(|answer| (answer.from, answer.to) == (from, to));
                let answer = self.answers.remove(arrived.expect("it is under way"));
                self.member(to).pulses.on_answer(from, answer.epoch, answer.sent_at);
            }
            Action::Contact { member, peer, alive } => {
                self.contact ^= self.pair(member, peer);
                self.step(config, member, |group, env| group.on_contact(env, id(peer), alive));
            }
        }
        for part in 0..self.hashes.len() {
            if self.hashes[part] == 0 {
                self.rehash(part);
            }
        }
        for at in 0..self.members.len() {
            if let Some(index) = self.lease_read(config, at) {
                let committed = self.history.committed_len() as u64;
                assert!(index.0 >= committed, "{at} would serve a stale read at {index} under its lease");
            }
        }
    }

    fn time(&self) -> Moment {
        Moment(self.now * 1_000_000)
    }

    /// What a read would be served with under a member's lease, if it has one.
    fn lease_read(&self, config: &Config, at: usize) -> Option<LogIndex> {
        let member = &self.members[at];
        if member.pulses.life == 0 || !member.group.is_leader() {
            return None;
        }
        let mut member = Member::clone(member);
        let mut recorder =
            Recorder { log: &mut member.log, pulses: &mut member.pulses, effects: Effects::default() };
        let mut random = Random::new(0);
        let mut env = Env { now: self.time(), config, random: &mut random, sink: &mut recorder };
        member.group.lease_read(&mut env).ok()
    }

    fn take(&mut self, from: usize, to: usize, at: usize) -> Rc<Message> {
        let link = from * self.members.len() + to;
        self.hashes[self.members.len() + link] = 0;
        Rc::make_mut(&mut self.links[link]).remove(at)
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let link = from * self.members.len() + to;
        self.hashes[self.members.len() + link] = 0;
        Rc::make_mut(&mut self.links[link]).push(Rc::new(message));
    }

    fn deliver(&mut self, config: &Config, from: usize, to: usize, at: usize, keep: bool) {
        let message = if keep {
            self.links[from * self.members.len() + to][at].clone()
        } else {
            self.take(from, to, at)
        };
        let from = id(from);
        if let Message::Snapshot(term, snapshot) = &*message {
            return self.install(config, from, to, *term, snapshot);
        }
        self.step(config, to, |group, env| match &*message {
            Message::Append(append, entries) => {
                let known = memberships(append.prev_index.0 + 1, entries);
                let accepted = group.on_append(env, from, append, &known);
                if accepted.take > 0 {
                    env.sink.log.truncate((append.prev_index.0 + u64::from(accepted.skip)) as usize);
                    let range = accepted.skip as usize..(accepted.skip + accepted.take) as usize;
                    env.sink.write_entries(entries[range].to_vec(), accepted.epoch);
                }
            }
            Message::AppendReply(reply) => group.on_append_reply(env, from, reply),
            Message::Heartbeat(heartbeat) => group.on_heartbeat(env, from, heartbeat),
            Message::HeartbeatReply(reply) => group.on_heartbeat_reply(env, from, reply),
            Message::VoteRequest(request) => group.on_vote_request(env, from, request),
            Message::VoteReply(reply) => group.on_vote_reply(env, from, reply),
            Message::TimeoutNow(order) => group.on_timeout_now(env, from, order),
            Message::ReadIndexRequest(request) => group.on_read_index_request(env, from, request),
            Message::ReadIndexReply(reply) => group.on_read_index_reply(env, from, reply),
            Message::Snapshot(..) => unreachable!("installed above"),
            Message::TermQuery(query) => group.on_term_query(env, from, query),
            Message::TermReport(report) => group.on_term_report(env, from, report),
        });
    }

    fn propose(&mut self, config: &Config, at: usize) {
        let data = 100 * (at as u32 + 1) + u32::from(self.budget.proposals);
        self.step(config, at, |group, env| {
            if let Ok(proposed) = group.propose(env, 1, 1) {
                env.sink
                    .write_entries(vec![Entry { term: proposed.term, data, members: None }], proposed.epoch);
            }
            group.flush(env);
        });
    }

    fn read(&mut self, config: &Config, at: usize) {
        let committed = self.history.committed_len();
        let mut round = None;
        self.step(config, at, |group, env| round = group.forward_read(env).ok());
        if let Some(round) = round {
            self.member(at).reads.push((round, committed));
        }
        self.step(config, at, |group, env| group.flush(env));
    }

    fn complete_write(&mut self, config: &Config, at: usize) {
        let member = self.member(at);
        let batch = member.journal.pop_front().expect("a write is under way");
        member.disk.apply(&batch.writes);
        for write in &batch.writes {
            match *write {
                Write::Entries { first, ref entries, epoch } => {
                    let last = LogIndex(first + entries.len() as u64 - 1);
                    self.step(config, at, |group, env| group.on_durable(env, epoch, last));
                }
                Write::OwnVote(term) => self.step(config, at, |group, env| group.on_vote_durable(env, term)),
                Write::HardState(_) | Write::Compact(_) | Write::Replace(_) => {}
            }
        }
        for (to, message) in batch.parked {
            self.send(at, to, message);
        }
    }

    fn crash(
        &mut self,
        config: &Config,
        at: usize,
        writes: usize,
        late: bool,
        damage: Option<(usize, bool)>,
    ) {
        let mut disk = self.members[at].disk.clone();
        for batch in self.members[at].journal.iter().take(writes) {
            disk.apply(&batch.writes);
        }
        if let Some((keep, state)) = damage {
            disk.damage(keep, state);
        }
        let pulses = self.members[at].pulses.next();
        // Where there are clocks a member that restarts has promises to keep.
        let booted = boot(at, self.founders, config, disk, self.time(), pulses.life == 0);
        self.members[at] = Rc::new(Member { pulses, ..booted });
        self.hashes[at] = 0;
        let count = self.members.len();
        self.answers.retain(|answer| answer.from != at && answer.to != at);
        if self.members[at].pulses.life > 0 {
            (0..count).filter(|&peer| peer != at).for_each(|peer| self.member(peer).pulses.forget(at));
        }
        for peer in (0..count).filter(|&peer| peer != at) {
            self.clear(peer * count + at);
            if !late {
                self.clear(at * count + peer);
            }
        }
        self.connect(config, at);
        for peer in (0..count).filter(|&peer| peer != at) {
            self.step(config, peer, |group, env| group.on_route(env, id(at), Route(at as u64)));
        }
    }

    fn clear(&mut self, link: usize) {
        if !self.links[link].is_empty() {
            self.links[link] = Rc::new(Link::new());
            self.hashes[self.members.len() + link] = 0;
        }
    }

    pub fn member(&mut self, at: usize) -> &mut Member {
        self.hashes[at] = 0;
        Rc::make_mut(&mut self.members[at])
    }

    /// One step of a member, the caller's duties after it, and the properties.
    pub fn step(
        &mut self,
        config: &Config,
        at: usize,
        step: impl FnOnce(&mut Group, &mut Env<'_, Recorder<'_>>),
    ) {
        let now = self.time();
        let before = Before::of(&self.members[at]);
        let member = self.member(at);
        let mut recorder =
            Recorder { log: &mut member.log, pulses: &mut member.pulses, effects: Effects::default() };
        let mut random = Random::new(0);
        let mut env = Env { now, config, random: &mut random, sink: &mut recorder };
        step(&mut member.group, &mut env);
        let mut effects = recorder.effects;
        for to in std::mem::take(&mut effects.snapshots_wanted) {
            let snapshot = member.disk.snapshot.clone().expect("the log was cut behind one");
            effects.immediate.push((to.0 as usize, Message::Snapshot(member.group.term(), snapshot)));
        }
        if let Some((term, vote)) = before.must_save(&member.group) {
            let saves = |w: &Write| matches!(w, Write::HardState(s) if (s.term, s.vote) == (term, vote));
            assert!(effects.writes.iter().any(saves), "{at} changed term or vote and did not save it");
        }
        let mut free = Vec::new();
        match member.journal.back_mut() {
            // Nothing to write, nothing to wait for.
            None if effects.writes.is_empty() => free = effects.parked,
            Some(last) if effects.writes.is_empty() => last.parked.extend(effects.parked),
            _ => member.journal.push_back(Batch { writes: effects.writes, parked: effects.parked }),
        }
        properties::reads_are_fresh(member, &effects.reads_confirmed);
        if effects.leadership_lost {
            member.reads.clear();
        }
        for (to, message) in effects.immediate.into_iter().chain(free) {
            self.send(at, to, message);
        }
        properties::check(&before, at, &self.members, &mut self.history);
    }

    /// The oldest messages, logs and roles, for whoever reads a path.
    pub fn describe(&self, action: Action) -> String {
        let count = self.members.len();
        match action {
            Action::Deliver { from, to, at, .. } => {
                format!("{action:?}: {}", self.links[from * count + to][at])
            }
            _ => format!("{action:?}"),
        }
    }
}

fn boot(at: usize, founders: usize, config: &Config, mut disk: Disk, now: Moment, fresh: bool) -> Member {
    let start = disk.start(at, founders);
    let setup = Setup { fresh, ..start.setup(id(at)) };
    let group = Group::new(now, config, &mut Random::new(0), &setup);
    let log = disk.log.clone();
    Member { group, log, disk, journal: Default::default(), reads: Vec::new(), pulses: Pulses::default() }
}
