//! What clients saw, and the question whether it can be explained.

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::machine::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write(u32),
    /// Adds to the sum, and returns it; nothing if nobody heard the answer.
    Add(u32, Option<u64>),
    /// Register and sum together.
    Read(Option<Value>),
}

/// What is expected of register and sum.
pub struct Expected;

impl Specification for Expected {
    type State = Value;
    type Operation = Op;

    fn init() -> Value {
        (0, 0)
    }

    fn apply(op: &Op, state: &Value) -> (bool, Value) {
        let (register, sum) = *state;
        match *op {
            Op::Write(value) => (true, (value, sum)),
            Op::Add(by, total) => {
                let after = sum + u64::from(by);
                (total.is_none_or(|total| total == after), (register, after))
            }
            Op::Read(seen) => (seen.is_none_or(|seen| seen == *state), *state),
        }
    }
}

impl Expected {
    /// The checker itself, on a read that does not see what was written before it began.
    pub fn sees_through_a_stale_read() -> bool {
        let mut recorded = Recorded::default();
        let write = recorded.begin(0, Op::Write(7));
        recorded.end(write, Op::Write(7));
        let read = recorded.begin(1, Op::Read(None));
        recorded.end(read, Op::Read(Some((0, 0))));
        !WGLChecker::<Expected>::is_linearizable(recorded.history())
    }
}

/// Calls and responses, in the order of time.
#[derive(Default)]
pub struct Recorded {
    actions: Vec<(usize, Action<Op>)>,
    /// By operation: its process. A process has one operation at a time; a client whose operation is abandoned goes on as
    /// another process.
    processes: Vec<usize>,
    /// By client: the process that it is now.
    now: Vec<usize>,
    running: Vec<Option<Op>>,
}

impl Recorded {
    /// Operations so far.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    pub fn begin(&mut self, client: usize, op: Op) -> usize {
        while self.now.len() <= client {
            self.now.push(self.running.len());
            self.running.push(None);
        }
        let process = self.now[client];
        assert!(self.running[process].is_none(), "one operation of a process at a time");
        self.running[process] = Some(op);
        self.actions.push((process, Action::Call(op)));
        self.processes.push(process);
        self.processes.len() - 1
    }

    pub fn end(&mut self, operation: usize, op: Op) {
        let process = self.processes[operation];
        assert!(self.running[process].take().is_some(), "an operation ends once");
        self.actions.push((process, Action::Response(op)));
    }

    /// Nobody will know what became of the client's operation: it may take effect at any time, or never.
    pub fn abandon(&mut self, client: usize) {
        self.now[client] = self.running.len();
        self.running.push(None);
    }

    /// With what is still under way answered at the very end, where it can do no harm.
    fn history(&mut self) -> History<Op> {
        for (process, running) in self.running.iter_mut().enumerate() {
            if let Some(op) = running.take() {
                self.actions.push((process, Action::Response(op)));
            }
        }
        History::from_actions(self.actions.clone())
    }

    pub fn assert_linearizable(&mut self) {
        if self.actions.is_empty() {
            return;
        }
        let history = self.history();
        if !WGLChecker::<Expected>::is_linearizable(history) {
            for (process, action) in &self.actions {
                eprintln!("{process:>3} {action:?}");
            }
            panic!("no order of these operations explains what the clients saw");
        }
    }
}
