//! Requests between the cores of one node, and their answers: one batch per turn and pair of cores, swapped through a lane.
//!
//! A batch is arrays and one byte area; batches are swapped, not sent, so that the steady state allocates nothing. What is not
//! answered is counted at the core that asks, which bounds both directions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use logdrive_shard::LogIndex;

use super::session::SessionKind;
use crate::api::{Busy, Error, ReadPolicy};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Propose,
    Session(SessionKind),
    Read(ReadPolicy),
}

/// Which port of the asking core waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortKey {
    pub(crate) port: u32,
    /// Port numbers are reused: an answer to an earlier life of the port is dropped.
    pub(crate) generation: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) from: PortKey,
    pub(crate) token: u64,
    pub(crate) slot: u32,
    pub(crate) kind: Kind,
    bytes: (usize, usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) to: PortKey,
    pub(crate) token: u64,
    pub(crate) result: Result<LogIndex, Error>,
    /// Payload bytes of the request, given back to the asking core's budget.
    pub(crate) request_bytes: u32,
    bytes: (usize, usize),
}

/// Requests and answers on their way to one core.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    requests: Vec<Request>,
    answers: Vec<Answer>,
    bytes: Vec<u8>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty()
    }

    pub(crate) fn push_request(&mut self, from: PortKey, token: u64, slot: u32, kind: Kind, payload: &[u8]) {
        let bytes = self.add_bytes(payload);
        self.requests.push(Request { from, token, slot, kind, bytes });
    }

    pub(crate) fn push_answer(
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

    pub(crate) fn requests(&self) -> impl Iterator<Item = (&Request, &[u8])> {
        self.requests.iter().map(|r| (r, &self.bytes[r.bytes.0..r.bytes.1]))
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = (&Answer, &[u8])> {
        self.answers.iter().map(|a| (a, &self.bytes[a.bytes.0..a.bytes.1]))
    }

    pub(crate) fn clear(&mut self) {
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
pub(crate) struct Lane {
    batch: Mutex<Batch>,
}

impl Lane {
    /// Hands `batch` over; it is empty afterwards.
    pub(crate) fn put(&self, batch: &mut Batch) {
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, batch);
        } else {
            waiting.append(batch);
        }
    }

    /// Takes what waits into `batch`, which must be empty. False if nothing waits.
    pub(crate) fn take(&self, batch: &mut Batch) -> bool {
        debug_assert!(batch.is_empty());
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return false;
        }
        std::mem::swap(&mut *waiting, batch);
        true
    }
}

/// The asking side of one pair of cores: the batch of this turn, and what is not answered.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) batch: Batch,
    requests: u32,
    bytes: u64,
}

/// Bounds of what one core may have asked another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) requests_max: u32,
    pub(crate) bytes_max: u64,
}

impl Outgoing {
    pub(crate) fn ask(
        &mut self,
        limits: Limits,
        from: PortKey,
        token: u64,
        slot: u32,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), Error> {
        let bytes = payload.len() as u64;
        if self.requests >= limits.requests_max || self.bytes + bytes > limits.bytes_max {
            return Err(Error::Busy { why: Busy::Mesh, retry_after: Duration::from_millis(1) });
        }
        self.requests += 1;
        self.bytes += bytes;
        self.batch.push_request(from, token, slot, kind, payload);
        Ok(())
    }

    pub(crate) fn answered(&mut self, answer: &Answer) {
        self.requests -= 1;
        self.bytes -= u64::from(answer.request_bytes);
    }

    pub(crate) fn unanswered(&self) -> u32 {
        self.requests
    }
}

/// The answering side: requests of another core that this core works on, by the token that the core of groups knows.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    slots: Vec<(PortKey, u64, u32)>,
    free: Vec<u32>,
}

impl Asked {
    pub(crate) fn insert(&mut self, from: PortKey, token: u64, request_bytes: u32) -> u64 {
        let entry = (from, token, request_bytes);
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                u64::from(slot)
            }
            None => {
                self.slots.push(entry);
                self.slots.len() as u64 - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, token: u64) -> (PortKey, u64, u32) {
        self.free.push(token as u32);
        self.slots[token as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: PortKey = PortKey { port: 3, generation: 9 };

    #[test]
    fn batches_that_meet_in_a_lane_keep_their_order_and_bytes() {
        let lane = Lane::default();
        let mut batch = Batch::default();
        batch.push_request(FROM, 1, 10, Kind::Propose, b"one");
        lane.put(&mut batch);
        assert!(batch.is_empty());
        batch.push_request(FROM, 2, 11, Kind::Read(ReadPolicy::Linearizable), b"two");
        batch.push_answer(FROM, 3, Ok(LogIndex(5)), 7, b"three");
        lane.put(&mut batch);

        assert!(lane.take(&mut batch));
        let requests: Vec<_> =
            batch.requests().map(|(r, bytes)| (r.token, r.slot, r.kind, bytes.to_vec())).collect();
        assert_eq!(
            requests,
            [
                (1, 10, Kind::Propose, b"one".to_vec()),
                (2, 11, Kind::Read(ReadPolicy::Linearizable), b"two".to_vec())
            ]
        );
        let answers: Vec<_> = batch.answers().map(|(a, bytes)| (a.token, a.result, bytes.to_vec())).collect();
        assert_eq!(answers, [(3, Ok(LogIndex(5)), b"three".to_vec())]);
        batch.clear();
        assert!(!lane.take(&mut batch));
    }

    #[test]
    fn what_is_not_answered_is_bounded_in_number_and_bytes() {
        let limits = Limits { requests_max: 2, bytes_max: 10 };
        let mut out = Outgoing::default();
        assert!(out.ask(limits, FROM, 1, 0, Kind::Propose, &[0; 8]).is_ok());
        assert!(matches!(
            out.ask(limits, FROM, 2, 0, Kind::Propose, &[0; 8]),
            Err(Error::Busy { why: Busy::Mesh, .. })
        ));
        assert!(out.ask(limits, FROM, 3, 0, Kind::Propose, &[0; 2]).is_ok());
        assert!(out.ask(limits, FROM, 4, 0, Kind::Propose, &[]).is_err());

        let mut back = Batch::default();
        back.push_answer(FROM, 1, Ok(LogIndex(1)), 8, b"");
        for (answer, _) in back.answers() {
            out.answered(answer);
        }
        assert!(out.ask(limits, FROM, 5, 0, Kind::Propose, &[0; 8]).is_ok());
        assert_eq!(out.unanswered(), 2);
    }

    #[test]
    fn tokens_of_asked_requests_are_reused_and_give_the_request_back() {
        let mut asked = Asked::default();
        let a = asked.insert(FROM, 100, 1);
        let b = asked.insert(FROM, 101, 2);
        assert_ne!(a, b);
        assert_eq!(asked.remove(a), (FROM, 100, 1));
        assert_eq!(asked.insert(FROM, 102, 3), a);
        assert_eq!(asked.remove(b), (FROM, 101, 2));
    }
}
