//! What the core writes into log records beside payloads.
//!
//! The `tag` of an entry is its term. The `note` is `commit << 2 | kind`: the commit index known when the entry was
//! written, so that replay can apply in one pass what was known to be committed.
//!
//! A stream's state is 32 bytes, little-endian: version (1 byte, 1), 3 bytes of zero, history id (4), term (8), commit (8),
//! vote (4), 4 bytes of zero. Of a member whose disk lost something it is 48: version 2, a byte with bit 0 (term and vote are in doubt)
//! and bit 1 (the log is incomplete), then as above, then the floor of the log: term (8) and index (8).

use logdrive_shard::{GroupId, HardState, LogEnd, LogIndex, Lost, NodeId, Random, Term};

use crate::wire::EntryKind;

/// Highest version of the state blob.
pub(super) const STATE_VERSION: u8 = 2;
const WHOLE_BYTES: usize = 32;
const LOST_BYTES: usize = 48;
/// Bytes of a state blob, at most.
pub(super) const STATE_BYTES: usize = LOST_BYTES;
const LOST_STATE: u8 = 1;
const LOST_LOG: u8 = 2;

/// A group's state blob.
pub(super) struct StateBlob {
    bytes: [u8; LOST_BYTES],
    len: usize,
}

impl std::ops::Deref for StateBlob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

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
pub(super) fn encode_state(state: HardState, history: u32) -> StateBlob {
    let HardState { term, vote, commit, lost } = state;
    let mut blob = [0; LOST_BYTES];
    blob[4..8].copy_from_slice(&history.to_le_bytes());
    blob[8..16].copy_from_slice(&term.0.to_le_bytes());
    blob[16..24].copy_from_slice(&commit.0.to_le_bytes());
    blob[24..28].copy_from_slice(&vote.0.to_le_bytes());
    blob[0] = 1;
    if lost.is_any() {
        let floor = lost.log.unwrap_or_default();
        blob[0] = 2;
        blob[1] = (u8::from(lost.state) * LOST_STATE) | (u8::from(lost.log.is_some()) * LOST_LOG);
        blob[32..40].copy_from_slice(&floor.term.0.to_le_bytes());
        blob[40..48].copy_from_slice(&floor.index.0.to_le_bytes());
    }
    StateBlob { bytes: blob, len: if lost.is_any() { LOST_BYTES } else { WHOLE_BYTES } }
}

/// The hard state and the history id in a blob; `None` if it is not one of a known version.
pub(super) fn decode_state(blob: &[u8]) -> Option<(HardState, u32)> {
    let lost = match (blob.first()?, blob.len()) {
        (1, WHOLE_BYTES) => 0,
        (2, LOST_BYTES) => blob[1],
        _ => return None,
    };
    let u32_at = |at: usize| u32::from_le_bytes([blob[at], blob[at + 1], blob[at + 2], blob[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let floor =
        (lost & LOST_LOG != 0).then(|| LogEnd { term: Term(u64_at(32)), index: LogIndex(u64_at(40)) });
    let lost = Lost { log: floor, state: lost & LOST_STATE != 0 };
    let (term, commit) = (Term(u64_at(8)), LogIndex(u64_at(16)));
    Some((HardState { term, vote: NodeId(u32_at(24)), commit, lost }, u32_at(4)))
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
        let state = HardState {
            term: Term(3 << 40),
            vote: NodeId(7),
            commit: LogIndex(1 << 50),
            lost: Lost::NOTHING,
        };
        let mut blob = encode_state(state, 0xdead_beef).to_vec();
        assert_eq!(decode_state(&blob), Some((state, 0xdead_beef)));
        assert_eq!(decode_state(&blob[..31]), None);
        blob[0] = 2;
        assert_eq!(decode_state(&blob), None);
        blob[0] = 3;
        assert_eq!(decode_state(&blob), None);
    }

    /// The bytes of version 1, so that they stay what they are.
    #[test]
    fn the_state_of_version_1_is_these_bytes() {
        let state = HardState { term: Term(2), vote: NodeId(3), commit: LogIndex(4), lost: Lost::NOTHING };
        let expected = [
            1, 0, 0, 0, 5, 0, 0, 0, // version, history
            2, 0, 0, 0, 0, 0, 0, 0, // term
            4, 0, 0, 0, 0, 0, 0, 0, // commit
            3, 0, 0, 0, 0, 0, 0, 0, // vote
        ];
        assert_eq!(*encode_state(state, 5), expected);
    }

    /// The bytes of version 2, so that they stay what they are.
    #[test]
    fn the_state_of_version_2_is_these_bytes_and_reads_back() {
        let floor = LogEnd { term: Term(6), index: LogIndex(7) };
        let lost = Lost { log: Some(floor), state: true };
        let state = HardState { term: Term(2), vote: NodeId(3), commit: LogIndex(4), lost };
        let expected = [
            2, 3, 0, 0, 5, 0, 0, 0, // version, what is lost, history
            2, 0, 0, 0, 0, 0, 0, 0, // term
            4, 0, 0, 0, 0, 0, 0, 0, // commit
            3, 0, 0, 0, 0, 0, 0, 0, // vote
            6, 0, 0, 0, 0, 0, 0, 0, // term of the floor
            7, 0, 0, 0, 0, 0, 0, 0, // index of the floor
        ];
        assert_eq!(*encode_state(state, 5), expected);
        assert_eq!(decode_state(&expected), Some((state, 5)));
        let state = HardState { lost: Lost { log: None, state: true }, ..state };
        assert_eq!(decode_state(&encode_state(state, 5)), Some((state, 5)));
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
