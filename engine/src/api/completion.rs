//! Answers, many at once.

use logdrive_shard::LogIndex;

use super::Error;

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As given with the request.
    pub token: u64,
    /// For a proposal, the index it was applied at; for a read, the index the state had.
    pub result: Result<LogIndex, Error>,
    /// Where the reply is in [`Completions`].
    reply: (u32, u32),
}

/// Answers of one turn to one port: an array and one buffer for all replies. Reused, so that answering allocates nothing.
#[derive(Debug, Default)]
pub struct Completions {
    items: Vec<Completion>,
    bytes: Vec<u8>,
}

impl Completions {
    /// Adds an answer with its reply (empty for errors).
    pub fn push(&mut self, token: u64, result: Result<LogIndex, Error>, reply: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(reply);
        self.items.push(Completion { token, result, reply: (start, self.bytes.len() as u32) });
    }

    /// Moves all of `other` behind these.
    pub fn append(&mut self, other: &mut Completions) {
        if self.items.is_empty() {
            std::mem::swap(self, other);
        } else {
            let base = self.bytes.len() as u32;
            self.bytes.extend_from_slice(&other.bytes);
            self.items.extend(
                other
                    .items
                    .iter()
                    .map(|item| Completion { reply: (item.reply.0 + base, item.reply.1 + base), ..*item }),
            );
        }
        other.clear();
    }

    /// The answers, in the order in which they came about, each with its reply.
    pub fn iter(&self) -> impl Iterator<Item = (&Completion, &[u8])> {
        self.items.iter().map(|item| (item, &self.bytes[item.reply.0 as usize..item.reply.1 as usize]))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
    }
}
