//! What the core writes into log records beside payloads.
//!
//! The `tag` of an entry is its term. The `note` is `commit << 2 | kind`: the commit index known when the entry was
//! written, so that replay can apply in one pass what was known to be committed.
//!
//! A stream's state is 32 bytes, little-endian: version (1 byte, 1), 3 bytes of zero, history id (4), term (8), commit (8),
//! vote (4), 4 bytes of zero.

use logdrive_shard::{GroupId, HardState, LogIndex, NodeId, Random, Term};

use crate::wire::EntryKind;

/// Version of the state blob.
pub(super) const STATE_VERSION: u8 = 1;
pub(super) const STATE_BYTES: usize = 32;

/// The note of an entry.
pub(super) fn entry_note(kind: EntryKind, commit: LogIndex) -> u64 {
    commit.0 << 2 | kind as u64
}

/// The commit index in a note.
pub(super) fn note_commit(note: u64) -> LogIndex {
    LogIndex(note >> 2)
}

/// The kind in a note: two bits, of which every value has a meaning.
pub(super) fn note_kind(note: u64) -> EntryKind {
    EntryKind::from_number((note & 3) as u8).unwrap_or(EntryKind::Payload)
}

/// A group's state blob.
pub(super) fn encode_state(state: HardState, history: u32) -> [u8; STATE_BYTES] {
    let mut blob = [0; STATE_BYTES];
    blob[0] = STATE_VERSION;
    blob[4..8].copy_from_slice(&history.to_le_bytes());
    blob[8..16].copy_from_slice(&state.term.0.to_le_bytes());
    blob[16..24].copy_from_slice(&state.commit.0.to_le_bytes());
    blob[24..28].copy_from_slice(&state.vote.0.to_le_bytes());
    blob
}

/// The hard state and the history id in a blob; `None` if it is not one of a known version.
pub(super) fn decode_state(blob: &[u8]) -> Option<(HardState, u32)> {
    let blob: &[u8; STATE_BYTES] = blob.try_into().ok()?;
    if blob[0] != STATE_VERSION {
        return None;
    }
    let u32_at = |at: usize| u32::from_le_bytes([blob[at], blob[at + 1], blob[at + 2], blob[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let (term, commit) = (Term(u64_at(8)), LogIndex(u64_at(16)));
    Some((HardState { term, vote: NodeId(u32_at(24)), commit }, u32_at(4)))
}

/// The history id of a group that was created with its cluster: the same on every node, never 0.
pub(super) fn first_history(cluster: u64, group: GroupId) -> u32 {
    let mixed = Random::new(cluster ^ Random::new(group.0).next_u64()).next_u64();
    (mixed >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_other_versions_and_lengths_do_not() {
        let state = HardState { term: Term(3 << 40), vote: NodeId(7), commit: LogIndex(1 << 50) };
        let mut blob = encode_state(state, 0xdead_beef);
        assert_eq!(decode_state(&blob), Some((state, 0xdead_beef)));
        assert_eq!(decode_state(&blob[..31]), None);
        blob[0] = 2;
        assert_eq!(decode_state(&blob), None);
    }

    /// The bytes of version 1, so that they stay what they are.
    #[test]
    fn the_state_of_version_1_is_these_bytes() {
        let state = HardState { term: Term(2), vote: NodeId(3), commit: LogIndex(4) };
        let expected = [
            1, 0, 0, 0, 5, 0, 0, 0, // version, history
            2, 0, 0, 0, 0, 0, 0, 0, // term
            4, 0, 0, 0, 0, 0, 0, 0, // commit
            3, 0, 0, 0, 0, 0, 0, 0, // vote
        ];
        assert_eq!(encode_state(state, 5), expected);
    }

    #[test]
    fn a_note_carries_kind_and_commit() {
        for kind in [EntryKind::Payload, EntryKind::Empty, EntryKind::Config, EntryKind::Session] {
            let note = entry_note(kind, LogIndex(77));
            assert_eq!((note_kind(note), note_commit(note)), (kind, LogIndex(77)));
        }
    }

    #[test]
    fn first_histories_are_the_same_everywhere_and_differ_by_cluster() {
        assert_eq!(first_history(1, GroupId(5)), first_history(1, GroupId(5)));
        assert_ne!(first_history(1, GroupId(5)), first_history(2, GroupId(5)));
        assert!((0..1000).all(|group| first_history(0, GroupId(group)) != 0));
    }
}
