//! What goes from one core to another: batches, and the lanes that they wait in.

use std::sync::{Mutex, PoisonError};

use logdrive_shard::LogIndex;

use super::{Kind, PortKey};
use crate::api::Error;
use crate::core::Slot;
use crate::mutant;

/// A request on its way to the core that has the group. Its payload is beside it in the [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who waits for the answer.
    pub from: PortKey,
    /// Returned with the answer.
    pub token: u64,
    /// The group, on the core that the request goes to.
    pub slot: Slot,
    /// What is asked.
    pub kind: Kind,
    bytes: (usize, usize),
}

/// An answer on its way back. Its reply is beside it in the [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Who waits for it.
    pub to: PortKey,
    /// As in the request.
    pub token: u64,
    /// What came of it.
    pub result: Result<LogIndex, Error>,
    /// Payload bytes of the request, given back to the asking core's budget.
    pub request_bytes: u32,
    bytes: (usize, usize),
}

/// Requests and answers on their way to one core.
#[derive(Debug, Default)]
pub struct Batch {
    requests: Vec<Request>,
    answers: Vec<Answer>,
    bytes: Vec<u8>,
}

impl Batch {
    /// Whether there is neither a request nor an answer.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty()
    }

    pub(super) fn push_request(&mut self, from: PortKey, token: u64, slot: Slot, kind: Kind, payload: &[u8]) {
        let bytes = self.add_bytes(payload);
        self.requests.push(Request { from, token, slot, kind, bytes });
    }

    pub(super) fn push_answer(
        &mut self,
        to: PortKey,
        token: u64,
        result: Result<LogIndex, Error>,
        request_bytes: u32,
        reply: &[u8],
    ) {
        let bytes = self.add_bytes(reply);
        self.answers.push(Answer { to, token, result, request_bytes, bytes });
    }

    fn add_bytes(&mut self, bytes: &[u8]) -> (usize, usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (start, self.bytes.len())
    }

    /// The requests in their order, each with its payload.
    pub fn requests(&self) -> impl Iterator<Item = (&Request, &[u8])> {
        self.requests.iter().map(|r| (r, &self.bytes[r.bytes.0..r.bytes.1]))
    }

    /// The answers in their order, each with its reply.
    pub fn answers(&self) -> impl Iterator<Item = (&Answer, &[u8])> {
        self.answers.iter().map(|a| (a, &self.bytes[a.bytes.0..a.bytes.1]))
    }

    /// Forgets all, and keeps a reasonable amount of memory.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.answers.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes.shrink_to(KEEP_BYTES);
        }
    }

    fn append(&mut self, other: &mut Batch) {
        let base = self.bytes.len();
        let moved = |(start, end): (usize, usize)| (start + base, end + base);
        self.requests.extend(other.requests.iter().map(|r| Request { bytes: moved(r.bytes), ..*r }));
        self.answers.extend(other.answers.iter().map(|a| Answer { bytes: moved(a.bytes), ..*a }));
        self.bytes.extend_from_slice(&other.bytes);
        other.clear();
    }
}

/// A batch that grew beyond this gives the memory back.
const KEEP_BYTES: usize = 4 << 20;

/// The way from one core to another: what the receiver has not taken yet.
#[derive(Debug, Default)]
pub struct Lane {
    batch: Mutex<Batch>,
}

impl Lane {
    /// Hands `batch` over, behind what waits already; it is empty afterwards.
    pub fn put(&self, batch: &mut Batch) {
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, batch);
            return;
        }
        if mutant::LANE_REORDERED {
            std::mem::swap(&mut *waiting, batch);
        }
        waiting.append(batch);
    }

    /// Takes what waits into `batch`, which must be empty. False if nothing waits.
    pub fn take(&self, batch: &mut Batch) -> bool {
        debug_assert!(batch.is_empty());
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return false;
        }
        std::mem::swap(&mut *waiting, batch);
        true
    }

    /// How many requests and answers wait.
    pub fn waiting(&self) -> (usize, usize) {
        let waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting.requests.len(), waiting.answers.len())
    }
}
