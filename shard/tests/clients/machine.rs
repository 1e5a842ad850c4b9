//! The state machine: a register, a sum, and the session table of the crate.

use std::collections::BTreeMap;

use logdrive_shard::{Admitted, SessionEntry, SessionOp, SessionTable};

use super::history::Op;
use crate::common::node::Entry;

/// What an entry stands for.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    Open,
    Do {
        op: Op,
        /// The session and the number in it.
        session: Option<(u64, u64)>,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub client: usize,
    pub command: Command,
}

#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Opened(u64),
    Done {
        op: Op,
        /// By the session, without a second execution.
        again: bool,
    },
}

/// Register and sum.
pub type Value = (u32, u64);

#[derive(Default)]
pub struct Machine {
    applied: u64,
    value: Value,
    sessions: SessionTable,
    replies: BTreeMap<u64, Reply>,
}

impl Machine {
    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn value(&self) -> Value {
        self.value
    }

    /// What became of the entry with this data.
    pub fn reply(&self, data: u64) -> Option<Reply> {
        self.replies.get(&data).copied()
    }

    /// Applies the log up to an index. A machine that is ahead (its node restarted) starts over.
    pub fn apply(&mut self, log: &[Entry], until: u64, work: &BTreeMap<u64, Work>) {
        if self.applied > until {
            *self = Machine::default();
        }
        for index in self.applied + 1..=until {
            let data = log[index as usize - 1].data;
            if let Some(work) = work.get(&data)
                && let Some(reply) = self.apply_one(index, work.command)
            {
                self.replies.insert(data, reply);
            }
        }
        self.applied = until;
    }

    fn apply_one(&mut self, index: u64, command: Command) -> Option<Reply> {
        let Command::Do { op, session } = command else {
            let Admitted::Opened(session) = self.sessions.admit(index, &bytes(SessionOp::Open)) else {
                panic!("a session is opened")
            };
            return Some(Reply::Opened(session));
        };
        let Some((session, sequence)) = session else {
            return Some(Reply::Done { op: self.execute(op), again: false });
        };
        let command = SessionOp::Command { session, sequence, answered_below: sequence, command: &[] };
        let key = match self.sessions.admit(index, &bytes(command)) {
            Admitted::Execute { key, .. } => key,
            Admitted::Again { reply, .. } => {
                let total = u64::from_le_bytes(reply.try_into().unwrap());
                let op = if let Op::Add(by, _) = op { Op::Add(by, Some(total)) } else { op };
                return Some(Reply::Done { op, again: true });
            }
            // A copy that arrives after the client went on is refused, not executed.
            Admitted::Refused(_) => return None,
            other => panic!("{other:?} for a command that is executed at once"),
        };
        let op = self.execute(op);
        self.sessions.executed(key, &self.value.1.to_le_bytes());
        Some(Reply::Done { op, again: false })
    }

    fn execute(&mut self, op: Op) -> Op {
        match op {
            Op::Write(value) => {
                self.value.0 = value;
                op
            }
            Op::Add(by, _) => {
                self.value.1 += u64::from(by);
                Op::Add(by, Some(self.value.1))
            }
            Op::Read(_) => unreachable!("reads are not proposed"),
        }
    }
}

fn bytes(op: SessionOp<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    SessionEntry { time_millis: 1, expires_after_millis: u64::MAX, op }.encode(&mut bytes);
    bytes
}
