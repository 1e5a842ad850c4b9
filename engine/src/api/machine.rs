//! The replicated state machine an embedding program brings.

use logdrive_shard::{GroupId, LogIndex};

use super::BadSnapshot;

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

/// How many views of one group may be alive at once. One is being written; another may be asked for meanwhile.
pub const VIEWS_PER_GROUP_MAX: usize = 4;

/// A deterministic state machine that holds the state of **all groups of one core**.
///
/// [`PerGroup`](super::PerGroup) makes one out of the state of a single small group; [`KvMachine`](crate::kv::KvMachine) is a large one.
///
/// # What it may rely on
///
/// One thread calls it, one call at a time, and no call is made from within another. `open` comes first and once. `apply` sees the
/// committed entries of a turn, of many groups, in one call; entries of one group come in index order without gaps (entries without
/// payload, such as the no-op of a new leader, are left out). After a restart the newest good snapshot is loaded and the entries
/// after it are applied again, or all entries from the first if there is none: the result must depend on nothing but the entries.
/// External effects do not belong here: let whoever proposed act on the reply.
///
/// # Snapshots
///
/// Writing one: `freeze`, then `write_view` until it says that this was all, each call in a turn of its own, then `release`; `apply`,
/// `query` and all else go on in between, also for the same group. A view that is given up is released as well. At most
/// [`VIEWS_PER_GROUP_MAX`] views of a group are alive at once, and `forget` and `finish_load` come while some are: these
/// views stay what they were.
///
/// Loading one: `begin_load`, then `load_part` for all its bytes in order, then `finish_load`. Until then the group answers and applies
/// from the state it has. A load that is given up, or was refused with an error, is dropped. The parts are cut by whoever reads
/// them, anywhere, and not as `write_view` wrote them.
///
/// # What others rely on
///
/// - What a view writes is the state at its `freeze`, whatever is applied afterwards.
/// - Loaded, it gives a state with the same `digest` that goes on in the same way: same replies, same digests, on any node and machine.
/// - Bytes that were truncated, changed, put in another order or made up give [`BadSnapshot`] and no panic, and no more memory than
///   in proportion to the bytes that came. (Files and transfers have checksums of their own; this is the last door.)
pub trait StateMachine: 'static {
    /// A point-in-time state of one group, which stays as it is while the machine goes on applying.
    type View: 'static;
    /// A state that is being built from a snapshot beside the one in use.
    type Loading: 'static;

    /// The groups of this core, by slot; called once before anything else.
    fn open(&mut self, groups: &[GroupId]);
    /// The group in this slot is not this node's any more: its state is given up. Should the node be made a member again, its
    /// entries come from the first one on, or after a snapshot.
    fn forget(&mut self, slot: u32);
    /// Applies `entries` and pushes exactly one reply (maybe empty) for each.
    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies);
    /// Answers a read of one group from the state as it is; appends the reply.
    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>);
    /// A digest of a group's whole state that is equal on nodes that applied the same entries up to the same index, whether one by
    /// one or by way of a snapshot. It is about the state only: how it came about, the order of a table or the machine it is
    /// computed on do not count. May cost a pass over the group.
    fn digest(&self, slot: u32) -> u64;

    /// Freezes the state of a group. Must be cheap whatever the size of the state: below a millisecond for a million keys.
    fn freeze(&mut self, slot: u32) -> Self::View;
    /// Appends the next part of the view to `out` and says whether this was all. A part has about `bytes_max` bytes: more only if
    /// something that cannot be cut is larger. It may be less, and even nothing while there is more to come, as when a call would
    /// take too long to find the next bytes (the key-value machine does so where many keys came after the freeze); but each call
    /// must come nearer to the end. Parts need not be equal on nodes or in runs, but should be.
    fn write_view(&self, view: &mut Self::View, bytes_max: usize, out: &mut Vec<u8>) -> bool;
    /// The view is written, or given up.
    fn release(&mut self, view: Self::View);

    /// Begins to load the state of a group, beside the one in use.
    fn begin_load(&mut self, slot: u32) -> Self::Loading;
    /// Takes the next bytes. After an error the load is dropped.
    fn load_part(&mut self, loading: &mut Self::Loading, bytes: &[u8]) -> Result<(), BadSnapshot>;
    /// All bytes were given: the group's state is now the loaded one. After an error it is the one it was.
    fn finish_load(&mut self, slot: u32, loading: Self::Loading) -> Result<(), BadSnapshot>;

    /// About how many bytes of memory the state of a group takes, without a pass over it: for triggers, budgets and the status.
    /// 0 if the machine does not know.
    fn state_bytes(&self, _slot: u32) -> u64 {
        0
    }
}
