//! One connection: its state, its requests in order, its replies.

use super::admin::Request;
use super::backend::Backend;
use super::barrier::Barrier;
use super::hub::Hub;
use super::lanes::{LANES, Lane};
use super::reply::{Protocol, Writer};
use super::ring::{Kind, Pending, Ring, Seq, State};

/// Output buffer kept by a connection that has nothing to send.
const OUTPUT_KEPT: usize = 16 * 1024;

/// How large a value is taken to be before the first one was read.
const VALUE_BYTES_GUESS: u64 = 16 * 1024;
/// The guess never gets lower than this.
const VALUE_BYTES_MIN: u64 = 64;

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It is not.
    Open,
    /// No more requests are taken; it closes when all replies are sent.
    AfterReplies,
    /// The client is gone; only answers of the engine are awaited.
    Gone,
}

/// One connection, without its input.
pub(crate) struct Session {
    /// Its place among the connections of this core.
    pub(crate) key: u32,
    /// `CLIENT ID`.
    pub(crate) client: u64,
    pub(crate) protocol: Protocol,
    pub(crate) readonly: bool,
    pub(crate) name: Vec<u8>,
    pub(crate) closing: Closing,
    pub(crate) ring: Ring,
    pub(crate) lanes: Box<[Lane; LANES]>,
    pub(crate) barrier: Option<Barrier>,
    /// What the barrier asks, if it is an operator's.
    pub(crate) asked: Option<Request>,
    /// Answers that the engine owes.
    pub(crate) outstanding: u32,
    /// Values that requests under way will read, and how large they may be, judging by those read lately.
    values_awaited: u64,
    value_bytes: u64,
    output: Vec<u8>,
    sent: usize,
}

impl Session {
    pub(crate) fn new(key: u32, client: u64) -> Session {
        Session {
            key,
            client,
            protocol: Protocol::Resp2,
            readonly: false,
            name: Vec::new(),
            closing: Closing::Open,
            ring: Ring::default(),
            lanes: Box::new([Lane::default(); LANES]),
            barrier: None,
            asked: None,
            outstanding: 0,
            values_awaited: 0,
            value_bytes: VALUE_BYTES_GUESS,
            output: Vec::new(),
            sent: 0,
        }
    }

    /// Whether another request is taken now.
    pub(crate) fn accepts<B>(&self, hub: &Hub<B>) -> bool {
        let limits = &hub.limits;
        self.closing == Closing::Open
            && self.barrier.is_none()
            && self.ring.len() < limits.pipeline_requests_max as usize
            && self.ring.bytes() < u64::from(limits.pipeline_bytes_max)
            && self.reply_bytes_expected() < u64::from(limits.output_bytes_max)
    }

    /// Reply bytes that wait or are likely to come. Only a guess can bound them: a pipeline of reads is short, what it reads need
    /// not be. One request is always taken.
    fn reply_bytes_expected(&self) -> u64 {
        self.values_awaited.saturating_mul(self.value_bytes).saturating_add(self.output().len() as u64)
    }

    /// A request will read so many values.
    pub(crate) fn await_values(&mut self, values: u32) {
        self.values_awaited += u64::from(values);
    }

    /// A reply of so many bytes had so many values.
    pub(crate) fn on_values(&mut self, values: u32, bytes: usize) {
        if values > 0 {
            let smaller = (self.value_bytes - self.value_bytes / 8).max(VALUE_BYTES_MIN);
            self.value_bytes = smaller.max(bytes as u64 / u64::from(values));
        }
    }

    /// Reply bytes to be sent.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// So many of them were sent.
    pub(crate) fn on_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.output.len() {
            self.sent = 0;
            self.output.clear();
            self.output.shrink_to(OUTPUT_KEPT);
        } else if self.sent > self.output.len() / 2 && self.sent > OUTPUT_KEPT {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Everything is said.
    pub(crate) fn is_finished(&self) -> bool {
        match self.closing {
            Closing::Open => false,
            Closing::AfterReplies => self.ring.is_empty() && self.output().is_empty(),
            Closing::Gone => true,
        }
    }

    /// Nothing is asked that is not answered, nothing answered that is not sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.ring.is_empty() && self.output().is_empty()
    }

    pub(crate) fn token(&self, seq: Seq) -> u64 {
        u64::from(self.key) << 32 | u64::from(seq)
    }

    /// Replies to the request just read, at once if nothing is before it.
    pub(crate) fn reply<B: Backend>(&mut self, hub: &mut Hub<B>, write: impl FnOnce(&mut Writer<'_>)) {
        if self.ring.is_empty() {
            write(&mut Writer::new(&mut self.output, self.protocol));
        } else {
            let mut pending = Pending::plain(Kind::Plain, self.protocol);
            pending.answer = hub.take_buffer();
            write(&mut Writer::new(&mut pending.answer, self.protocol));
            self.ring.push(pending);
        }
    }

    pub(crate) fn error<B: Backend>(&mut self, hub: &mut Hub<B>, text: impl AsRef<[u8]>) {
        self.reply(hub, |writer| writer.error(text));
    }

    /// Gives a waiting request its reply: sent now if nothing is before it, kept otherwise.
    pub(crate) fn answer<B: Backend>(
        &mut self,
        hub: &mut Hub<B>,
        seq: Seq,
        executed: bool,
        write: impl FnOnce(&mut Writer<'_>),
    ) {
        let is_first = seq == self.ring.first();
        let pending = self.ring.expect(seq);
        pending.state = State::Done(executed);
        self.values_awaited -= u64::from(pending.values);
        if is_first {
            write(&mut Writer::new(&mut self.output, pending.protocol));
            self.ring.pop();
        } else {
            pending.answer = hub.take_buffer();
            write(&mut Writer::new(&mut pending.answer, pending.protocol));
        }
    }

    /// Sends the replies that no earlier request holds back any more, and starts a barrier that has become the oldest request.
    pub(crate) fn advance<B: Backend>(&mut self, hub: &mut Hub<B>) {
        while let Some(pending) = self.ring.get(self.ring.first()) {
            match (pending.kind, pending.state) {
                (_, State::Done(_)) => {
                    if let Some(done) = self.ring.pop() {
                        self.output.extend_from_slice(&done.answer);
                        hub.recycle(done.answer);
                    }
                }
                (Kind::Barrier, State::Held) => self.start_barrier(hub),
                _ => break,
            }
        }
    }

    /// The client is gone: nothing is written any more, and what never was appended is dropped.
    pub(crate) fn abandon<B: Backend>(&mut self, hub: &mut Hub<B>) {
        self.closing = Closing::Gone;
        self.drop_held(hub);
        self.ring = Ring::default();
        self.barrier = None;
        self.values_awaited = 0;
        self.output = Vec::new();
        self.sent = 0;
    }
}
