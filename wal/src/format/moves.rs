//! The payload of a trim record: which streams were rewritten and have old records behind it.

use super::{Lsn, u64_at};

/// Bytes of one pair in the payload of a trim record.
pub(crate) const MOVE_BYTES: usize = 16;

/// The payload of a trim record: streams, each with the position where its last complete rewrite begins.
pub(crate) fn encode_moves(moves: impl Iterator<Item = (u64, Lsn)>) -> Vec<u8> {
    let pair = |(stream, begin): (u64, Lsn)| [stream.to_le_bytes(), begin.0.to_le_bytes()].concat();
    moves.flat_map(pair).collect()
}

/// Reads what [`encode_moves`] wrote.
pub(crate) fn decode_moves(payload: &[u8]) -> impl Iterator<Item = (u64, Lsn)> {
    payload.chunks_exact(MOVE_BYTES).filter_map(|pair| Some((u64_at(pair, 0)?, Lsn(u64_at(pair, 8)?))))
}
