//! The state machines that a run can be done with, and a count of what they applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use logdrive::api::{ApplyEntry, Replies, StateMachine};
use logdrive_shard::GroupId;

/// Folds every entry, with its index, into one number per group: two nodes whose numbers are equal applied the same entries in
/// the same order.
#[derive(Debug, Default)]
pub(super) struct Digest {
    groups: Vec<u64>,
}

impl Digest {
    fn fold(digest: u64, entry: &ApplyEntry<'_>) -> u64 {
        // The checksum is chained, so that it covers the order; the multiplication spreads it over all bits.
        let crc = crc32c::crc32c_append(digest as u32, entry.payload);
        let mixed = digest.rotate_left(29) ^ u64::from(crc) ^ entry.index.0.rotate_left(32);
        mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl StateMachine for Digest {
    fn open(&mut self, groups: &[GroupId]) {
        self.groups = vec![0; groups.len()];
    }
    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            let digest = &mut self.groups[entry.slot as usize];
            *digest = Digest::fold(*digest, entry);
            replies.push(&[]);
        }
    }
    fn query(&self, slot: u32, _: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.digest(slot).to_le_bytes());
    }
    fn digest(&self, slot: u32) -> u64 {
        self.groups[slot as usize]
    }
}

/// Counts what another machine applies, for the check at the end: the node's own counters are not asked.
pub(super) struct Counted<M> {
    machine: M,
    applied: Arc<AtomicU64>,
}

impl<M> Counted<M> {
    pub(super) fn new(machine: M, applied: Arc<AtomicU64>) -> Counted<M> {
        Counted { machine, applied }
    }
}

impl<M: StateMachine> StateMachine for Counted<M> {
    fn open(&mut self, groups: &[GroupId]) {
        self.machine.open(groups);
    }
    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        self.machine.apply(entries, replies);
        // One addition per turn of a core, not per entry.
        self.applied.fetch_add(entries.len() as u64, Ordering::Release);
    }
    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>) {
        self.machine.query(slot, request, reply);
    }
    fn digest(&self, slot: u32) -> u64 {
        self.machine.digest(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logdrive_shard::LogIndex;

    fn digest_of(payloads: &[(u64, &[u8])]) -> u64 {
        let applied = Arc::new(AtomicU64::new(0));
        let mut machine = Counted::new(Digest::default(), Arc::clone(&applied));
        machine.open(&[GroupId(1), GroupId(2)]);
        let entries: Vec<ApplyEntry<'_>> = payloads
            .iter()
            .map(|&(index, payload)| ApplyEntry { slot: 1, group: GroupId(2), index: LogIndex(index), payload })
            .collect();
        let mut replies = Replies::default();
        machine.apply(&entries, &mut replies);
        assert_eq!(replies.len(), payloads.len());
        assert_eq!(applied.load(Ordering::Acquire), payloads.len() as u64);
        assert_eq!(machine.digest(0), 0, "another group is not touched");
        machine.digest(1)
    }

    #[test]
    fn a_digest_tells_order_content_and_index() {
        let digest = digest_of(&[(1, b"a"), (2, b"b")]);
        assert_eq!(digest, digest_of(&[(1, b"a"), (2, b"b")]));
        assert_ne!(digest, digest_of(&[(1, b"b"), (2, b"a")]));
        assert_ne!(digest, digest_of(&[(1, b"a"), (3, b"b")]));
        assert_ne!(digest, digest_of(&[(1, b"a")]));
        assert_ne!(digest, digest_of(&[(1, b"a"), (2, b"b"), (3, b"b")]));
    }
}
