//! Requests of the embedding program that a core works on: which batch each answer belongs to.

use crate::api::{Completion, Error};

use super::inbox::Outcome;
use super::reply::Reply;

struct Batch {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    reply: Reply<Vec<Outcome>>,
}

/// Batches that are not answered completely, by the upper half of the token.
#[derive(Default)]
pub(crate) struct Batches {
    batches: Vec<Option<Batch>>,
    free: Vec<u32>,
}

impl Batches {
    /// Begins a batch of `count` requests (at least one) and returns the token of the first; those of the others follow it.
    pub(crate) fn begin(&mut self, count: usize, reply: Reply<Vec<Outcome>>) -> u64 {
        let batch = Batch { outcomes: vec![None; count], missing: count, reply };
        let index = match self.free.pop() {
            Some(index) => {
                self.batches[index as usize] = Some(batch);
                index
            }
            None => {
                self.batches.push(Some(batch));
                self.batches.len() as u32 - 1
            }
        };
        u64::from(index) << 32
    }

    /// Takes one answer; the batch is answered with its last one.
    pub(crate) fn answer(&mut self, completion: &Completion, bytes: &[u8]) {
        let (index, item) = ((completion.token >> 32) as u32, completion.token as u32 as usize);
        let Some(batch) = &mut self.batches[index as usize] else { return };
        let outcome = completion.result.map(|_| bytes.to_vec());
        if batch.outcomes[item].replace(outcome).is_none() {
            batch.missing -= 1;
        }
        if batch.missing == 0
            && let Some(batch) = self.batches[index as usize].take()
        {
            self.free.push(index);
            finish(batch);
        }
    }

    /// The core goes away: what it took and did not answer may or may not commit.
    pub(crate) fn abandon(&mut self) {
        for batch in self.batches.drain(..).flatten() {
            finish(batch);
        }
        self.free.clear();
    }
}

fn finish(batch: Batch) {
    let outcomes = batch.outcomes.into_iter().map(|o| o.unwrap_or(Err(Error::Indeterminate))).collect();
    batch.reply.send(outcomes);
}
