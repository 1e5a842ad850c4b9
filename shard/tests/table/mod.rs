//! A group's sessions as scripts see them: entries are admitted in log order, commands are counted by a state machine that does nothing else.

#![allow(unreachable_pub)]
use datadriven::TestCase;
use logdrive_shard::{Admitted, SessionEntry, SessionOp, SessionTable};

/// The table of one member, and how often anything was executed.
#[derive(Default)]
pub struct Table {
    table: SessionTable,
    index: u64,
    executed: u32,
}

impl Table {
    /// One command of a script.
    pub fn run(&mut self, case: &mut TestCase) -> String {
        let number = |case: &mut TestCase, name: &str| case.try_take_arg::<u64>(name).unwrap();
        let (time, expires) = (number(case, "time").unwrap_or(0), number(case, "expires").unwrap_or(10_000));
        let session = number(case, "of").unwrap_or(0);
        let (sequence, below) =
            (number(case, "number").unwrap_or(1), number(case, "answered-below").unwrap_or(1));
        if case.take_flag("snapshot").unwrap() {
            let mut bytes = Vec::new();
            self.table.encode(&mut bytes);
            let before = self.table.digest();
            self.table = SessionTable::decode(&bytes).unwrap();
            assert_eq!(self.table.digest(), before);
            return "written and loaded\n".to_owned();
        }
        if case.take_flag("show").unwrap() {
            let (open, bytes, time) = (self.table.len(), self.table.bytes(), self.table.now_millis());
            return format!("{open} open, {bytes} bytes of replies, the log's time is {time}\n");
        }
        if let Some(count) = number(case, "opens") {
            let said: Vec<String> = (0..count).map(|_| self.admit(time, expires, SessionOp::Open)).collect();
            return said.last().cloned().unwrap_or_default();
        }
        let op = if case.take_flag("open").unwrap() {
            SessionOp::Open
        } else if case.take_flag("close").unwrap() {
            SessionOp::Close { session }
        } else if case.take_flag("keep").unwrap() {
            SessionOp::KeepAlive { session }
        } else {
            assert!(case.take_flag("command").unwrap(), "what is asked of a session?");
            SessionOp::Command { session, sequence, answered_below: below, command: b"add" }
        };
        self.admit(time, expires, op)
    }

    fn admit(&mut self, time_millis: u64, expires_after_millis: u64, op: SessionOp<'_>) -> String {
        let mut entry = Vec::new();
        SessionEntry { time_millis, expires_after_millis, op }.encode(&mut entry);
        self.index += 1;
        let index = self.index;
        let said = match self.table.admit(index, &entry) {
            Admitted::Execute { key, .. } => {
                self.executed += 1;
                let reply = format!("sum {}", self.executed);
                self.table.executed(key, reply.as_bytes());
                format!("executed: {reply}")
            }
            Admitted::Again { index, reply } => {
                format!("executed at {index} before: {}", String::from_utf8_lossy(reply))
            }
            Admitted::Opened(session) => format!("session {session}"),
            Admitted::Refused(refused) => format!("refused: {refused}"),
            other => format!("{other:?}"),
        };
        format!("entry {index}: {said}\n")
    }
}
