//! The front door of one core, without sockets and clocks: bytes of clients and answers of the engine in, requests to the engine and
//! bytes to clients out.

use logdrive::api::{Completions, Error};
use logdrive_shard::{LogIndex, Moment};

use super::admin::{Answer, Request};
use super::backend::Backend;
use super::barrier::NodeStatus;
use super::hub::Hub;
use super::request::{Parsed, Parser};
use super::ring::Seq;
use super::session::{Closing, Session};

/// Consumed input that may lie in front of what is kept before that is moved down.
const CONSUMED_SLACK: usize = 32 * 1024;

/// One connection with its input.
struct Connection {
    session: Session,
    parser: Parser,
    /// Input that is not consumed: an incomplete request, or requests the connection's bounds do not admit yet.
    kept: Vec<u8>,
    /// So much of `kept` is consumed.
    consumed: usize,
    /// Is in [`Desk::touched`].
    touched: bool,
}

/// The front door of one core.
pub(crate) struct Desk<B> {
    pub(crate) hub: Hub<B>,
    connections: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
    open: u32,
    touched: Vec<u32>,
}

impl<B: Backend> Desk<B> {
    pub(crate) fn new(hub: Hub<B>) -> Desk<B> {
        Desk { hub, connections: Vec::new(), free: Vec::new(), open: 0, touched: Vec::new() }
    }

    /// Takes a connection; `None` if there are too many.
    pub(crate) fn open(&mut self) -> Option<u32> {
        if self.open >= self.hub.limits.connections_max {
            self.hub.counters().connections_rejected.add(1);
            return None;
        }
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() as u32 - 1
        });
        self.connections[key as usize] = Some(Box::new(Connection {
            session: Session::new(key, self.hub.shared.client_id()),
            parser: Parser::new(self.hub.request_limits),
            kept: Vec::new(),
            consumed: 0,
            touched: false,
        }));
        self.open += 1;
        self.hub.counters().connections.add(1);
        self.hub.counters().connections_accepted.add(1);
        Some(key)
    }

    /// Bytes came from a client.
    pub(crate) fn on_input(&mut self, now: Moment, key: u32, input: &[u8]) {
        let Some(connection) = self.connections[key as usize].as_deref_mut() else { return };
        if connection.kept.is_empty() {
            let consumed = connection.process(&mut self.hub, now, input);
            if connection.session.closing == Closing::Open {
                connection.kept.extend_from_slice(&input[consumed..]);
            }
        } else {
            connection.kept.extend_from_slice(input);
            connection.process_kept(&mut self.hub, now);
        }
        self.touch(key);
    }

    /// The client sends nothing more; what it asked is still answered.
    pub(crate) fn on_end_of_input(&mut self, key: u32) {
        let Some(connection) = self.connections[key as usize].as_deref_mut() else { return };
        if connection.session.closing == Closing::Open {
            connection.session.closing = Closing::AfterReplies;
        }
        self.touch(key);
    }

    /// The engine answered.
    pub(crate) fn on_answers(&mut self, now: Moment, answers: &Completions) {
        for (answer, reply) in answers.iter() {
            self.on_answer(now, answer.token, answer.result, reply);
        }
    }

    /// The engine answered one request.
    pub(crate) fn on_answer(
        &mut self,
        now: Moment,
        token: u64,
        result: Result<LogIndex, Error>,
        reply: &[u8],
    ) {
        let (key, seq) = ((token >> 32) as u32, token as Seq);
        let connection = self.connections[key as usize].as_deref_mut();
        let connection = connection.expect("a connection stays until the engine answered it");
        connection.session.on_answer(&mut self.hub, now, seq, result, reply);
        self.after_answer(key);
    }

    /// Connections whose requests need the node's status, which goes to [`Desk::on_status`].
    pub(crate) fn take_status_wanted(&mut self) -> Vec<(u32, Seq)> {
        std::mem::take(&mut self.hub.status_wanted)
    }

    /// The status that a connection's request needs.
    pub(crate) fn on_status(&mut self, key: u32, seq: Seq, status: &NodeStatus) {
        let connection = self.connections[key as usize].as_deref_mut();
        let connection = connection.expect("a connection stays until it has its status");
        connection.session.on_status(&mut self.hub, seq, status);
        self.after_answer(key);
    }

    /// Requests of operators, whose answers go to [`Desk::on_admin`].
    pub(crate) fn take_admin_wanted(&mut self) -> Vec<(u32, Seq, Request)> {
        std::mem::take(&mut self.hub.admin_wanted)
    }

    /// The answer to an operator's request.
    pub(crate) fn on_admin(&mut self, key: u32, seq: Seq, answer: &Answer) {
        let connection = self.connections[key as usize].as_deref_mut();
        let connection = connection.expect("a connection stays until it has its answer");
        connection.session.on_admin(&mut self.hub, seq, answer);
        self.after_answer(key);
    }

    /// Looks after the requests that wait for a leader.
    pub(crate) fn on_tick(&mut self, now: Moment) {
        for lane in std::mem::take(&mut self.hub.blocked) {
            let Some(connection) = self.connections[lane.key as usize].as_deref_mut() else { continue };
            if connection.session.client == lane.client && connection.session.closing != Closing::Gone {
                connection.session.retry_lane(&mut self.hub, now, usize::from(lane.lane));
                self.touch(lane.key);
            }
        }
    }

    /// Whether any request waits for a leader or a busy engine, so that ticks should come often.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.hub.blocked.is_empty()
    }

    /// Connections something happened to since the last call, to be flushed.
    pub(crate) fn take_touched(&mut self, touched: &mut Vec<u32>) {
        touched.clear();
        std::mem::swap(touched, &mut self.touched);
        for &key in touched.iter() {
            if let Some(connection) = self.connections[key as usize].as_deref_mut() {
                connection.touched = false;
            }
        }
    }

    /// Bytes for a client.
    pub(crate) fn output(&self, key: u32) -> &[u8] {
        self.connections[key as usize].as_deref().map_or(&[], |connection| connection.session.output())
    }

    /// So many of them were sent. Requests that waited for room are taken.
    pub(crate) fn on_sent(&mut self, now: Moment, key: u32, bytes: usize) {
        let Some(connection) = self.connections[key as usize].as_deref_mut() else { return };
        connection.session.on_sent(bytes);
        connection.process_kept(&mut self.hub, now);
    }

    /// Takes requests that waited for room.
    pub(crate) fn resume(&mut self, now: Moment, key: u32) {
        let Some(connection) = self.connections[key as usize].as_deref_mut() else { return };
        connection.process_kept(&mut self.hub, now);
    }

    /// Whether a client may send more.
    pub(crate) fn wants_input(&self, key: u32) -> bool {
        self.connections[key as usize].as_deref().is_some_and(|c| c.session.accepts(&self.hub))
    }

    /// Whether everything is said to a client that is to be disconnected.
    pub(crate) fn is_finished(&self, key: u32) -> bool {
        self.connections[key as usize].as_deref().is_none_or(|c| c.session.is_finished())
    }

    /// Whether a client waits for nothing.
    pub(crate) fn is_idle(&self, key: u32) -> bool {
        self.connections[key as usize].as_deref().is_none_or(|c| c.session.is_idle())
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self, key: u32) {
        let Some(connection) = self.connections[key as usize].as_deref_mut() else { return };
        if connection.session.closing != Closing::Gone || connection.session.outstanding == 0 {
            self.open -= 1;
            self.hub.counters().connections.sub(1);
        }
        connection.session.abandon(&mut self.hub);
        connection.kept = Vec::new();
        self.release(key);
    }

    /// Connections open.
    pub(crate) fn connections(&self) -> u32 {
        self.open
    }

    fn after_answer(&mut self, key: u32) {
        let is_gone =
            self.connections[key as usize].as_deref().is_some_and(|c| c.session.closing == Closing::Gone);
        if is_gone { self.release(key) } else { self.touch(key) }
    }

    /// Frees the place of a connection that is gone and that the engine owes nothing any more.
    fn release(&mut self, key: u32) {
        let place = &mut self.connections[key as usize];
        if place.as_deref().is_some_and(|connection| connection.session.outstanding == 0) {
            *place = None;
            self.free.push(key);
        }
    }

    fn touch(&mut self, key: u32) {
        if let Some(connection) = self.connections[key as usize].as_deref_mut()
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(key);
        }
    }
}

impl Connection {
    /// Takes requests from `input`, which starts with a request; how many bytes were taken.
    fn process<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment, input: &[u8]) -> usize {
        let mut taken = 0;
        while taken < input.len() {
            if !self.session.accepts(hub) {
                hub.counters().paused.add(1);
                break;
            }
            let rest = &input[taken..];
            match self.parser.parse(rest) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Request(bytes)) => {
                    let arguments = self.parser.arguments(rest);
                    if arguments.len() > 0 {
                        self.session.execute(hub, now, arguments);
                    }
                    taken += bytes;
                }
                Err(error) => {
                    hub.counters().protocol_errors.add(1);
                    self.session.error(hub, format!("ERR Protocol error: {error}"));
                    self.session.closing = Closing::AfterReplies;
                    return input.len();
                }
            }
        }
        taken
    }

    fn process_kept<B: Backend>(&mut self, hub: &mut Hub<B>, now: Moment) {
        if self.consumed == self.kept.len() || !self.session.accepts(hub) {
            return;
        }
        let kept = std::mem::take(&mut self.kept);
        self.consumed += self.process(hub, now, &kept[self.consumed..]);
        self.kept = kept;
        if self.consumed == self.kept.len() || self.session.closing != Closing::Open {
            self.kept = Vec::new();
            self.consumed = 0;
        } else if self.consumed > CONSUMED_SLACK && self.consumed > self.kept.len() / 2 {
            self.kept.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
