//! An engine for tests: it answers when and how the test says, with the real key-value machine; and a front door on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use logdrive::api::{ApplyEntry, Busy, Error, ReadPolicy, Replies, StateMachine};
use logdrive::kv::KvMachine;
use logdrive::runtime::PeerAddress;
use logdrive_shard::{GroupId, LogIndex, Moment, NodeId};

use super::backend::{Backend, Topology};
use super::barrier::NodeStatus;
use super::config::Limits;
use super::desk::Desk;
use super::hub::{Hub, Shared};

/// The node whose front door is tested.
pub(crate) const ME: NodeId = NodeId(1);
/// Groups of the fake cluster: two for each lane of a connection.
pub(crate) const GROUPS: u64 = 2 * super::lanes::LANES as u64;

/// One request the engine has.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) token: u64,
    pub(crate) group: GroupId,
    /// `None` for a proposal.
    pub(crate) policy: Option<ReadPolicy>,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    leaders: BTreeMap<GroupId, NodeId>,
    epoch: u64,
    asked: Vec<Asked>,
}

/// The engine's side.
#[derive(Clone, Default)]
pub(crate) struct Fake(Rc<RefCell<State>>);

impl Backend for Fake {
    fn leader_of(&self, group: GroupId) -> NodeId {
        self.0.borrow().leaders.get(&group).copied().unwrap_or(NodeId::NONE)
    }

    fn leadership_epoch(&self) -> u64 {
        self.0.borrow().epoch
    }

    fn propose(&mut self, token: u64, group: GroupId, payload: &[u8]) {
        self.0.borrow_mut().asked.push(Asked { token, group, policy: None, bytes: payload.to_vec() });
    }

    fn read(&mut self, token: u64, group: GroupId, policy: ReadPolicy, request: &[u8]) {
        let asked = Asked { token, group, policy: Some(policy), bytes: request.to_vec() };
        self.0.borrow_mut().asked.push(asked);
    }
}

/// A front door, the engine behind it, and a clock.
pub(crate) struct Bench {
    pub(crate) desk: Desk<Fake>,
    fake: Fake,
    machine: KvMachine,
    applied: u64,
    pub(crate) now: Moment,
}

pub(crate) const BUSY: Error = Error::Busy { why: Busy::CoreRequests, retry_after: Duration::from_millis(5) };
pub(crate) const NOBODY: Error = Error::NotLeader { leader: NodeId::NONE };

impl Bench {
    /// This node of three leads all groups.
    pub(crate) fn new(limits: Limits) -> Bench {
        let nodes: Vec<PeerAddress> = (1..=3)
            .map(|n| PeerAddress {
                node: NodeId(n),
                peer: format!("127.0.0.1:{}", 9000 + n),
                client: format!("127.0.0.1:{}", 7000 + n),
            })
            .collect();
        let topology = Topology::new(5, ME, &nodes, GROUPS).unwrap();
        let fake = Fake::default();
        let mut machine = KvMachine::new();
        machine.open(&(1..=GROUPS).map(GroupId).collect::<Vec<_>>());
        let hub = Hub::new(fake.clone(), topology, limits, 4_096, Arc::new(Shared::new(1)), 0);
        let mut bench = Bench { desk: Desk::new(hub), fake, machine, applied: 0, now: Moment(0) };
        (1..=GROUPS).for_each(|group| bench.lead(GroupId(group), ME));
        bench
    }

    pub(crate) fn lead(&mut self, group: GroupId, leader: NodeId) {
        let mut state = self.fake.0.borrow_mut();
        state.leaders.insert(group, leader);
        state.epoch += 1;
    }

    /// A connected client.
    pub(crate) fn connect(&mut self) -> u32 {
        self.desk.open().expect("there is room")
    }

    /// A client sends bytes.
    pub(crate) fn send(&mut self, key: u32, bytes: impl AsRef<[u8]>) {
        self.desk.on_input(self.now, key, bytes.as_ref());
    }

    /// All a client was sent since the last call.
    pub(crate) fn received(&mut self, key: u32) -> String {
        let mut text = String::new();
        let mut touched = Vec::new();
        self.desk.take_touched(&mut touched);
        for key in touched {
            self.desk.resume(self.now, key);
        }
        while !self.desk.output(key).is_empty() {
            let output = self.desk.output(key);
            text.push_str(&String::from_utf8_lossy(output));
            self.desk.on_sent(self.now, key, output.len());
        }
        text
    }

    /// Sends and receives, the engine answering everything at once and in order.
    pub(crate) fn ask(&mut self, key: u32, line: &str) -> String {
        self.send(key, format!("{line}\r\n"));
        self.answer_all();
        self.received(key)
    }

    /// What the engine has not answered.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.fake.0.borrow().asked.clone()
    }

    /// The engine executes and answers its `n`th request.
    pub(crate) fn answer(&mut self, n: usize) {
        let asked = self.fake.0.borrow_mut().asked.remove(n);
        let slot = asked.group.0 as u32 - 1;
        let mut reply = Vec::new();
        if asked.policy.is_some() {
            self.machine.query(slot, &asked.bytes, &mut reply);
        } else {
            self.applied += 1;
            let index = LogIndex(self.applied);
            let mut replies = Replies::default();
            let entry = ApplyEntry { slot, group: asked.group, index, payload: &asked.bytes };
            self.machine.apply(&[entry], &mut replies);
            reply.extend_from_slice(replies.get(0));
        }
        self.desk.on_answer(self.now, asked.token, Ok(LogIndex(self.applied)), &reply);
    }

    pub(crate) fn answer_all(&mut self) {
        while !self.asked().is_empty() {
            self.answer(0);
        }
    }

    /// The engine refuses its `n`th request.
    pub(crate) fn fail(&mut self, n: usize, error: Error) {
        let asked = self.fake.0.borrow_mut().asked.remove(n);
        self.desk.on_answer(self.now, asked.token, Err(error), &[]);
    }

    /// Time passes, and the front door looks at what waits.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        self.desk.on_tick(self.now);
    }

    /// The node tells its status to whoever wants it.
    pub(crate) fn tell_status(&mut self, status: &NodeStatus) -> usize {
        let wanted = self.desk.take_status_wanted();
        let count = wanted.len();
        wanted.into_iter().for_each(|(key, seq)| self.desk.on_status(key, seq, status));
        count
    }
}
