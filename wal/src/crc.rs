//! CRC-32C of what lies in the log.
//!
//! Most records are short, and for those the ceremony of a general implementation (finding the aligned middle, choosing among
//! kernels) costs more than the sum: here they take one instruction per eight bytes. Long pieces go to the `crc32c` crate,
//! which runs three sums at a time.

/// From so many bytes on three sums at a time are worth their overhead.
const LONG_BYTES: usize = 1536;

/// Continues the checksum `crc`.
#[inline]
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < LONG_BYTES && std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instructions that the function is compiled for, as was just asked.
        return unsafe { short(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

/// The checksum of `bytes`.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn short(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = u64::from(!crc);
    for word in words {
        state = _mm_crc32_u64(state, u64::from_le_bytes(*word));
    }
    // The instruction leaves the upper half zero.
    let mut state = state as u32;
    for byte in rest {
        state = _mm_crc32_u8(state, *byte);
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_pieces_have_the_checksums_of_the_crate() {
        let bytes: Vec<u8> = (0..4 * LONG_BYTES).map(|n| (n * 131 % 251) as u8).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        for len in (0..100).chain([LONG_BYTES - 1, LONG_BYTES, LONG_BYTES + 1, bytes.len()]) {
            for at in [0, 1, 3, 7, 8] {
                let piece = &bytes[at.min(bytes.len() - len)..][..len];
                assert_eq!(crc32c_append(77, piece), crc32c::crc32c_append(77, piece), "{len} bytes at {at}");
            }
        }
    }
}
