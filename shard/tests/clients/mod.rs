//! Clients of a small state machine (a register and a sum) that runs on top of a cluster, and the record of what they saw.
#![allow(dead_code, unreachable_pub)]

pub mod history;
pub mod machine;

use std::collections::BTreeMap;

use logdrive_shard::{LogIndex, Term};

use crate::common::chaos::Chaos;

use history::{Op, Recorded};
use machine::{Command, Machine, Reply, Work};

/// Operations of one run, at most: the checker's time grows with them.
const OPERATIONS_MAX: usize = 60;

/// How often things happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    answered: u64,
    /// Ended as indeterminate, outside of sessions.
    unknown: u64,
    /// Proposed again in a session.
    retried: u64,
    /// Retries that were answered by the session, not executed.
    repeated: u64,
    round_reads: u64,
    forwarded_reads: u64,
    lease_reads: u64,
    local_reads: u64,
}

impl Counted {
    pub fn add(&mut self, other: &Counted) {
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.retried += other.retried;
        self.repeated += other.repeated;
        self.round_reads += other.round_reads;
        self.forwarded_reads += other.forwarded_reads;
        self.lease_reads += other.lease_reads;
        self.local_reads += other.local_reads;
    }

    /// Whether every kind happened in the runs, the usual ones in most of them.
    pub fn all_happened(&self, runs: u64) -> bool {
        self.answered >= 5 * runs
            && [self.round_reads, self.forwarded_reads, self.local_reads]
                .iter()
                .all(|&count| count >= runs / 2)
            && [self.unknown, self.retried, self.repeated, self.lease_reads]
                .iter()
                .all(|&count| count >= runs / 100)
    }
}

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// An entry, proposed on a node, at an index of a term.
    Entry { node: u32, index: u64, term: Term, data: u64 },
    /// A round of reads on a node, then its index.
    /// Confirmations before `since` in the node's list are older than the read.
    Round { node: u32, round: u64, since: usize },
    /// An index on a node.
    Applied { node: u32, index: LogIndex },
    /// The moment to try again.
    Retry,
}

struct Client {
    /// Its session once it is open.
    session: Option<u64>,
    wants_session: bool,
    sequence: u64,
    /// The operation under way: its number in the record, and what is proposed for it (nothing for a read).
    running: Option<(usize, Option<Command>)>,
    waits: Waits,
    /// The highest index it has seen the effect of, for local reads.
    seen: u64,
}

pub struct Clients {
    clients: Vec<Client>,
    /// What the data of an entry stands for.
    work: BTreeMap<u64, Work>,
    /// The machine of each node, and the life of the node that it belongs to.
    machines: BTreeMap<u32, Machine>,
    recorded: Recorded,
    next_value: u32,
    pub counted: Counted,
}

impl Clients {
    pub fn new(count: usize) -> Clients {
        let client = |at| Client {
            session: None,
            wants_session: at % 2 == 0,
            sequence: 0,
            running: None,
            waits: Waits::Retry,
            seen: 0,
        };
        Clients {
            clients: (0..count).map(client).collect(),
            work: BTreeMap::new(),
            machines: BTreeMap::new(),
            recorded: Recorded::default(),
            next_value: 1,
            counted: Counted::default(),
        }
    }

    /// One client does something: begins an operation, or tries again.
    pub fn turn(&mut self, chaos: &mut Chaos) -> Option<()> {
        let at = chaos.dice.below(self.clients.len() as u64) as usize;
        match (self.clients[at].running, self.clients[at].waits) {
            (None, _) if self.clients[at].wants_session && self.clients[at].session.is_none() => {
                self.propose(chaos, at, Command::Open)
            }
            (None, _) if self.recorded.len() < OPERATIONS_MAX => self.begin(chaos, at),
            (Some((_, Some(command))), Waits::Retry) => self.propose(chaos, at, command),
            // It has lost its patience. In a session it may ask again; a read has no effect.
            (Some((_, Some(command))), Waits::Entry { .. })
                if self.clients[at].session.is_some() && chaos.dice.below(8) == 0 =>
            {
                self.counted.retried += 1;
                self.propose(chaos, at, command)
            }
            (Some((_, None)), Waits::Retry) => self.read(chaos, at),
            _ => None,
        }
    }

    fn begin(&mut self, chaos: &mut Chaos, at: usize) -> Option<()> {
        if chaos.dice.below(2) == 0 {
            let operation = self.recorded.begin(at, Op::Read(None));
            self.clients[at].running = Some((operation, None));
            return self.read(chaos, at);
        }
        let value = self.next_value;
        self.next_value += 1;
        let op = if chaos.dice.below(2) == 0 { Op::Write(value) } else { Op::Add(value, None) };
        let operation = self.recorded.begin(at, op);
        let client = &mut self.clients[at];
        client.sequence += 1;
        let command = Command::Do { op, session: client.session.map(|session| (session, client.sequence)) };
        client.running = Some((operation, Some(command)));
        client.waits = Waits::Retry;
        self.propose(chaos, at, command)
    }

    fn propose(&mut self, chaos: &mut Chaos, at: usize, command: Command) -> Option<()> {
        let node = chaos.addressee()?;
        let proposed = chaos.cluster.propose(node, 1, 10).ok()?;
        let index = proposed.first.0;
        let data = chaos.cluster.nodes[&node].log[index as usize - 1].data;
        self.work.insert(data, Work { client: at, command });
        self.clients[at].waits = Waits::Entry { node, index, term: proposed.term, data };
        Some(())
    }

    fn read(&mut self, chaos: &mut Chaos, at: usize) -> Option<()> {
        let node = chaos.live_node()?;
        let leads = chaos.cluster.group(node).is_leader();
        let since = chaos.cluster.nodes[&node].reads_confirmed.len();
        self.clients[at].waits = match chaos.dice.below(3) {
            0 if leads => Waits::Applied { node, index: chaos.cluster.lease_read(node).ok()? },
            _ if leads => Waits::Round { node, round: chaos.cluster.read(node).ok()?, since },
            _ => Waits::Round { node, round: chaos.cluster.forward_read(node).ok()?, since },
        };
        match self.clients[at].waits {
            Waits::Applied { .. } => self.counted.lease_reads += 1,
            _ if leads => self.counted.round_reads += 1,
            _ => self.counted.forwarded_reads += 1,
        }
        self.watch_client(chaos, at);
        Some(())
    }

    /// Applies what may be applied, and answers whoever waited for it.
    pub fn watch(&mut self, chaos: &mut Chaos) {
        for id in 1..=chaos.nodes {
            let Some(group) = &chaos.cluster.nodes[&id].group else {
                self.machines.remove(&id);
                continue;
            };
            let machine = self.machines.entry(id).or_default();
            machine.apply(&chaos.cluster.nodes[&id].log, group.applicable().0, &self.work);
        }
        for at in 0..self.clients.len() {
            self.watch_client(chaos, at);
        }
        if chaos.dice.below(16) == 0 {
            self.read_locally(chaos);
        }
    }

    fn watch_client(&mut self, chaos: &mut Chaos, at: usize) {
        match self.clients[at].waits {
            Waits::Retry => {}
            Waits::Entry { node, index, term, data } => {
                self.watch_entry(chaos, at, (node, index, term, data))
            }
            Waits::Round { node, round, since } => {
                let state = &chaos.cluster.nodes[&node];
                let confirmed = state.reads_confirmed[since..].iter().find(|confirmed| confirmed.0 >= round);
                if let Some(&(_, index)) = confirmed {
                    self.clients[at].waits = Waits::Applied { node, index };
                    self.watch_client(chaos, at);
                } else if !state.reads_waiting.iter().any(|waiting| waiting.0 == round) {
                    // The node has lost it. It was a question, so it may be asked again.
                    self.clients[at].waits = Waits::Retry;
                }
            }
            Waits::Applied { node, index } => match self.machines.get(&node) {
                Some(machine) if machine.applied() >= index.0 => {
                    let (operation, _) = self.clients[at].running.take().unwrap();
                    self.recorded.end(operation, Op::Read(Some(machine.value())));
                    self.clients[at].seen = self.clients[at].seen.max(machine.applied());
                    self.clients[at].waits = Waits::Retry;
                    self.counted.answered += 1;
                }
                Some(_) => {}
                None => self.clients[at].waits = Waits::Retry,
            },
        }
    }

    /// An entry that was proposed is applied, or gone, or nobody will ever tell.
    fn watch_entry(&mut self, chaos: &Chaos, at: usize, entry: (u32, u64, Term, u64)) {
        let (node, index, term, data) = entry;
        let group = chaos.cluster.nodes[&node].group.as_ref();
        let leads_still = group.is_some_and(|group| group.is_leader() && group.term() == term);
        let machine = self.machines.get(&node).filter(|machine| leads_still && machine.applied() >= index);
        if let Some(reply) = machine.and_then(|machine| machine.reply(data)) {
            return self.answered(at, index, reply);
        }
        if leads_still {
            return;
        }
        // The leader is no more: the entry may be committed by the next one, or not.
        let client = &mut self.clients[at];
        client.waits = Waits::Retry;
        match client.running {
            Some((_, Some(Command::Do { session: None, .. }))) => {
                client.running = None;
                self.recorded.abandon(at);
                self.counted.unknown += 1;
            }
            Some((_, Some(Command::Do { .. }))) => self.counted.retried += 1,
            _ => {}
        }
    }

    fn answered(&mut self, at: usize, index: u64, reply: Reply) {
        let client = &mut self.clients[at];
        client.waits = Waits::Retry;
        client.seen = client.seen.max(index);
        self.counted.answered += 1;
        match reply {
            Reply::Opened(session) => {
                client.session = Some(session);
                client.sequence = 0;
            }
            Reply::Done { op, again } => {
                let (operation, _) = client.running.take().unwrap();
                self.recorded.end(operation, op);
                self.counted.repeated += u64::from(again);
            }
        }
    }

    /// `Local { min_index }` on every node: older than what is committed, but never older than what the client has seen, and
    /// always a state that there was.
    fn read_locally(&mut self, chaos: &Chaos) {
        let client = &mut self.clients[chaos.cluster.network.len() % 4];
        for machine in self.machines.values() {
            if machine.applied() >= client.seen {
                let committed = chaos.cluster.checks.committed();
                let mut then = Machine::default();
                then.apply(&committed[..machine.applied() as usize], machine.applied(), &self.work);
                assert_eq!(machine.value(), then.value(), "a local read shows a state that never was");
                client.seen = machine.applied();
                self.counted.local_reads += 1;
                return;
            }
        }
    }

    pub fn assert_linearizable(&mut self) {
        self.recorded.assert_linearizable();
    }
}
