//! One core's end of the way to another one: what it asked there, and what it works on for it.

use std::time::Duration;

use logdrive_shard::LogIndex;

use super::lane::{Answer, Batch};
use super::{Kind, Limits, PortKey};
use crate::api::{Busy, Error};
use crate::core::Slot;
use crate::mutant;

/// The asking side: the batch of this turn, and what is not answered.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) batch: Batch,
    requests: u32,
    bytes: u64,
}

impl Outgoing {
    pub(super) fn ask(
        &mut self,
        limits: Limits,
        from: PortKey,
        token: u64,
        slot: Slot,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), Error> {
        let bytes = payload.len() as u64;
        // A request larger than the bound must be possible at some time: the core that has the group says what it thinks of it.
        let over = self.requests > 0 && self.bytes + bytes > limits.bytes_max;
        if self.requests >= limits.requests_max || over {
            return Err(Error::Busy { why: Busy::Mesh, retry_after: Duration::from_millis(1) });
        }
        self.requests += 1;
        self.bytes += bytes;
        self.batch.push_request(from, token, slot, kind, payload);
        Ok(())
    }

    pub(super) fn answered(&mut self, answer: &Answer) {
        if mutant::REFUSAL_KEEPS_ROOM && answer.result.is_err() {
            return;
        }
        assert!(self.requests > 0, "an answer that nobody asked for came over the mesh: {answer:?}");
        self.requests -= 1;
        self.bytes -= u64::from(answer.request_bytes);
    }

    pub(super) fn unanswered(&self) -> (u32, u64) {
        (self.requests, self.bytes)
    }
}

/// A request that another core waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    from: PortKey,
    token: u64,
    request_bytes: u32,
}

/// The answering side: requests of another core that this core works on, by the token that the core of groups knows.
#[derive(Debug, Default)]
pub(super) struct Asked {
    slots: Vec<Waiting>,
    free: Vec<u32>,
}

impl Asked {
    pub(super) fn insert(&mut self, from: PortKey, token: u64, request_bytes: u32) -> u64 {
        let entry = Waiting { from, token, request_bytes };
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

    /// The answer to the request of this token leaves with `batch`.
    pub(super) fn answer(
        &mut self,
        token: u64,
        result: Result<LogIndex, Error>,
        reply: &[u8],
        batch: &mut Batch,
    ) {
        self.free.push(token as u32);
        let Waiting { from, token, request_bytes } = self.slots[token as usize];
        batch.push_answer(from, token, result, request_bytes, reply);
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_asked_requests_are_reused_and_give_the_request_back() {
        let from = PortKey { port: 3, generation: 9 };
        let (mut asked, mut batch) = (Asked::default(), Batch::default());
        let a = asked.insert(from, 100, 1);
        let b = asked.insert(from, 101, 2);
        assert_ne!(a, b);
        asked.answer(a, Ok(LogIndex(1)), b"one", &mut batch);
        assert_eq!((asked.len(), asked.insert(from, 102, 3)), (1, a));
        asked.answer(b, Ok(LogIndex(2)), b"two", &mut batch);
        let answers: Vec<_> =
            batch.answers().map(|(a, reply)| (a.to, a.token, a.request_bytes, reply.to_vec())).collect();
        assert_eq!(answers, [(from, 100, 1, b"one".to_vec()), (from, 101, 2, b"two".to_vec())]);
    }
}
