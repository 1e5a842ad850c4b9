//! The least a state machine can do.

use logdrive_shard::GroupId;

use crate::api::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies, StateMachine};

#[derive(Clone, Copy, Debug, Default)]
struct GroupDigest {
    digest: u64,
    entries: u64,
}

/// Keeps, per group, a rolling digest of every entry's index and payload, and their number. Replies are empty.
///
/// Two nodes that applied the same entries in the same order have the same digests, and no others have (but for accidents of one
/// in 2^64): what benchmarks and simulations compare at their end. A query replies with the digest and the count, 8 bytes
/// each, little-endian.
#[derive(Clone, Debug, Default)]
pub struct DigestMachine {
    groups: Vec<GroupDigest>,
}

impl DigestMachine {
    /// No groups yet.
    pub fn new() -> DigestMachine {
        DigestMachine::default()
    }

    /// Entries applied to a group.
    pub fn entries(&self, slot: u32) -> u64 {
        self.groups.get(slot as usize).map_or(0, |group| group.entries)
    }
}

impl StateMachine for DigestMachine {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups.clear();
        self.groups.resize(groups.len(), GroupDigest::default());
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = GroupDigest::default();
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            let group = &mut self.groups[entry.slot as usize];
            group.digest = mix(mix(group.digest ^ entry.index.0) ^ u64::from(crc32c::crc32c(entry.payload)));
            group.entries += 1;
            replies.push(&[]);
        }
    }

    fn query(&self, slot: u32, _request: &[u8], reply: &mut Vec<u8>) {
        let group = self.groups.get(slot as usize).copied().unwrap_or_default();
        reply.extend_from_slice(&group.digest.to_le_bytes());
        reply.extend_from_slice(&group.entries.to_le_bytes());
    }

    fn digest(&self, slot: u32) -> u64 {
        self.groups.get(slot as usize).map_or(0, |group| group.digest)
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        let group = self.groups[slot as usize];
        BytesView::new([group.digest.to_le_bytes(), group.entries.to_le_bytes()].concat())
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(16)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        let state = u128::from_le_bytes(loading.exactly()?);
        self.groups[slot as usize] = GroupDigest { digest: state as u64, entries: (state >> 64) as u64 };
        Ok(())
    }
}

/// The finaliser of SplitMix64: the same on every machine, which ahash is not.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use logdrive_shard::LogIndex;

    use super::*;

    fn applied(entries: &[(u64, &[u8])]) -> DigestMachine {
        let mut machine = DigestMachine::new();
        machine.open(&[GroupId(1), GroupId(2)]);
        let mut replies = Replies::default();
        for (index, payload) in entries {
            let index = LogIndex(*index);
            machine.apply(&[ApplyEntry { slot: 1, group: GroupId(2), index, payload }], &mut replies);
        }
        assert_eq!(replies.len(), entries.len());
        machine
    }

    #[test]
    fn digests_tell_order_index_and_payload_apart() {
        let base = applied(&[(1, b"a"), (2, b"b")]);
        assert_eq!(base.digest(1), applied(&[(1, b"a"), (2, b"b")]).digest(1));
        assert_eq!((base.entries(1), base.entries(0), base.digest(0)), (2, 0, 0));
        for other in
            [&[(1, &b"b"[..]), (2, b"a")][..], &[(1, b"a"), (3, b"b")], &[(1, b"a")], &[(2, b"b"), (1, b"a")]]
        {
            assert_ne!(base.digest(1), applied(other).digest(1));
        }
        let mut reply = Vec::new();
        base.query(1, b"", &mut reply);
        assert_eq!(reply[..8], base.digest(1).to_le_bytes());
        assert_eq!(reply[8..], 2_u64.to_le_bytes());
    }
}
