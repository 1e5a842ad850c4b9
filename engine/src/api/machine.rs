//! The replicated state machine an embedding program brings.

use logdrive_shard::{GroupId, LogIndex};

/// One committed entry.
#[derive(Clone, Copy, Debug)]
pub struct ApplyEntry<'a> {
    /// The group's dense slot on this core, below the number of groups given to [`StateMachine::open`].
    pub slot: u32,
    /// The group.
    pub group: GroupId,
    /// The entry's index.
    pub index: LogIndex,
    /// As proposed.
    pub payload: &'a [u8],
}

/// Replies to the entries of one [`StateMachine::apply`], one per entry and in their order.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Replies {
    /// Replies to the next entry.
    pub fn push(&mut self, reply: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(reply));
    }

    /// Replies to the next entry with what `write` appends. It must only append.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// How many were given.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The reply to entry `n`.
    pub fn get(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] as usize };
        &self.bytes[start..self.ends[n] as usize]
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// A deterministic state machine that holds the state of **all groups of one core**.
///
/// `apply` sees the committed entries of a turn, of many groups, in one call; entries of one group come in index order
/// without gaps (entries without payload, such as the no-op of a new leader, are left out). After a restart entries are applied
/// again from the start of the log (or the last snapshot): the result must depend on nothing but the entries. External effects
/// do not belong here: let whoever proposed act on the reply.
pub trait StateMachine: 'static {
    /// The groups of this core, by slot; called once before anything else.
    fn open(&mut self, groups: &[GroupId]);
    /// The group in this slot is not this node's any more: its state is given up. Should the node be made a member again, its
    /// entries come from the first one on.
    fn forget(&mut self, slot: u32);
    /// Applies `entries` and pushes exactly one reply (maybe empty) for each.
    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies);
    /// Answers a read of one group from the state as it is; appends the reply.
    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>);
    /// A digest of a group's whole state that is equal on nodes that applied the same entries.
    fn digest(&self, slot: u32) -> u64;
}
