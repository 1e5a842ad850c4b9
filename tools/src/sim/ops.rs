//! What clients asked for and were told: the history that the checks judge.

use logdrive::api::Error;
use logdrive_shard::{GroupId, LogIndex, NodeId};

use super::clock::Nanos;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// A command, executed at most once for each attempt.
    Propose,
    /// A command of a session: executed exactly once, however often it is repeated.
    InSession,
    /// A new session.
    OpenSession,
    /// A read that sees everything acknowledged before it.
    ReadLinearizable,
    /// The same under the leader's lease.
    ReadLease,
    /// The same at a follower.
    ReadFollower,
    /// A read of what a node happens to have.
    ReadLocal,
}

impl OpKind {
    /// Changes the group's state.
    pub fn is_write(self) -> bool {
        matches!(self, OpKind::Propose | OpKind::InSession)
    }

    /// A read that must see all that was acknowledged before it.
    pub fn is_fresh_read(self) -> bool {
        matches!(self, OpKind::ReadLinearizable | OpKind::ReadLease | OpKind::ReadFollower)
    }
}

/// What is done to the key-value machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAction {
    /// SET to this value.
    Set(u64),
    /// INCRBY.
    Increment(i64),
    /// DEL.
    Delete,
    /// GET.
    Get,
}

/// An operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    /// The group.
    pub group: GroupId,
    /// Kind.
    pub kind: OpKind,
    /// Who asked; `u32::MAX` for nobody in particular.
    pub client: u32,
    /// Of the key-value machine.
    pub key: Option<(u32, KeyAction)>,
    /// When, and its place in the order of all things that happened.
    pub begun: (Nanos, u64),
    /// Its last attempt.
    pub attempt: u64,
    /// When the client was told, and its place in the order of all things that happened.
    pub ended: Option<(Nanos, u64)>,
    /// What it was told, by its last attempt that was answered.
    pub answer: Option<Result<LogIndex, Error>>,
    /// The reply, with the group's counter first.
    pub reply: Vec<u8>,
}

/// One attempt at an operation: what was asked of one node.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Of which operation.
    pub op: u64,
    /// The node that was asked.
    pub node: NodeId,
    /// What the core that has the group answered; `None` while it did not, or because it ended.
    pub answer: Option<Result<LogIndex, Error>>,
    /// The client's connection, by number; `None` for requests of the embedding program.
    pub door: Option<u32>,
    /// The answer came to whoever asked.
    pub told: bool,
}

/// Everything that clients did in a run.
#[derive(Debug, Default)]
pub struct History {
    /// By number.
    pub ops: Vec<Op>,
    /// By number, which is also the token of the request and the head of the payload.
    pub attempts: Vec<Attempt>,
}

impl History {
    /// The operation of an attempt.
    pub fn op_of(&self, attempt: u64) -> &Op {
        &self.ops[self.attempts[attempt as usize].op as usize]
    }
}

/// The group's counter in a reply.
pub fn counter_of(reply: &[u8]) -> Option<u64> {
    reply.first_chunk().copied().map(u64::from_le_bytes)
}
