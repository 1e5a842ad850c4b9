//! The CRC-32C of two pieces, one behind the other, from those of each: a sum over all of a chunk need not be made in the moment
//! in which the chunk is full, and no byte is summed twice because two sums cover it.
//!
//! A CRC is the remainder of a polynomial over two elements. Bytes behind others multiply these by a power of x, and sums of pieces are added
//! without carries: `crc(front ++ back) = crc(front) * x^(8 * len(back)) + crc(back)`, with the inversions at both ends cancelling out.

/// The polynomial of CRC-32C without its highest term; as all numbers here the lowest power is the highest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// 1.
const ONE: u32 = 1 << 31;
/// x to the eighth: one byte further.
const BYTE: u32 = 1 << 23;

/// Joins pieces to others that are so many bytes long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    /// What these bytes multiply the sum of whatever is in front of them by.
    factor: u32,
}

impl Join {
    /// For a piece of so many bytes behind another.
    pub(super) fn new(bytes: usize) -> Join {
        let (mut bytes, mut power, mut factor) = (bytes, BYTE, ONE);
        while bytes > 0 {
            if bytes & 1 == 1 {
                factor = multiply(factor, power);
            }
            power = multiply(power, power);
            bytes >>= 1;
        }
        Join { factor }
    }

    /// The sum of both.
    pub(super) fn join(self, front: u32, back: u32) -> u32 {
        multiply(self.factor, front) ^ back
    }
}

fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a & ONE != 0 {
            product ^= b;
        }
        a <<= 1;
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_pieces_make_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n * 131 % 251) as u8).collect();
        for len in [0, 1, 2, 7, 31, 32, 4096, 65_535, 65_536, 70_000] {
            let join = Join::new(len);
            for front in [0, 1, 4, 100, 4096] {
                let Some((whole, _)) = bytes.split_at_checked(front + len) else { continue };
                let (front, back) = whole.split_at(front);
                let joined = join.join(crc32c::crc32c(front), crc32c::crc32c(back));
                assert_eq!(joined, crc32c::crc32c(whole), "{} and {len} bytes", front.len());
            }
        }
    }
}
