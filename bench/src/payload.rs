//! What proposals and entries carry: bytes that no layer can compress, each unlike all others.

use logdrive_shard::Random;

/// Payloads are slices of this many random bytes, plus their own length.
const POOL_BYTES: usize = 1 << 20;
/// A number is at the start of each payload.
pub(crate) const SEQUENCE_BYTES: usize = 8;
/// The source's number is above this bit of the sequence.
const SOURCE_SHIFT: u32 = 48;

/// A source of payloads of one size.
#[derive(Debug)]
pub(crate) struct Payloads {
    pool: Vec<u8>,
    len: usize,
    at: usize,
    sequence: u64,
}

impl Payloads {
    /// Payloads of `len` bytes, at least 8; those of different `source` (below 65,536) differ.
    pub(crate) fn new(seed: u64, source: u16, len: usize) -> Payloads {
        assert!(len >= SEQUENCE_BYTES, "a payload of {len} bytes has no room for its number");
        let mut random = Random::new(seed ^ u64::from(source).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut pool = vec![0; POOL_BYTES + len.next_multiple_of(8)];
        for word in pool.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        Payloads { pool, len, at: 0, sequence: u64::from(source) << SOURCE_SHIFT }
    }

    /// The next one. Its number is written over the pool, which costs no copy; scrambled, one to one, so that the pool stays
    /// as random as it was.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.sequence += 1;
        let number = Random::new(self.sequence).next_u64();
        self.at = (self.at + self.len + 8) & (POOL_BYTES - 1) & !7;
        let payload = &mut self.pool[self.at..self.at + self.len];
        payload[..SEQUENCE_BYTES].copy_from_slice(&number.to_le_bytes());
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn payloads_differ_and_repeat_with_the_seed() {
        let take = |source| {
            let mut payloads = Payloads::new(7, source, 40);
            (0..60_000).map(|_| payloads.next().to_vec()).collect::<Vec<_>>()
        };
        let (first, other) = (take(0), take(1));
        let distinct: BTreeSet<&Vec<u8>> = first.iter().chain(&other).collect();
        assert_eq!(distinct.len(), 120_000);
        assert!(first.iter().all(|p| p.len() == 40));
        assert!(take(0) == first, "the same seed gives the same bytes");
    }

    #[test]
    fn the_largest_and_the_smallest_fit() {
        for len in [SEQUENCE_BYTES, 1 << 20] {
            let mut payloads = Payloads::new(1, 0, len);
            for _ in 0..100 {
                assert_eq!(payloads.next().len(), len);
            }
        }
    }
}
