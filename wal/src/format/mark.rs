//! Marks: what is durable, said outside of the segments, in two slots that are written in turn.

use super::{BLOCK, FORMAT_VERSION, Incarnation, Lsn, u32_at, u64_at};

/// Name of the file with the marks.
pub(crate) const MARKS_FILE: &str = "wal.marks";
/// Bytes of a slot. There are two, one behind the other.
pub(crate) const MARK_SLOT_BYTES: u64 = 64 << 10;
/// First bytes of a mark.
const MARK_MAGIC: [u8; 8] = *b"LDMARKS2";
/// Bytes in front of a mark's directory.
const MARK_HEADER_BYTES: usize = 80;

/// What a mark says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) log_id: u64,
    /// Marks are numbered; the number's lowest bit is the slot.
    pub(crate) sequence: u64,
    pub(crate) durable_end: Lsn,
    /// The segment that was written.
    pub(crate) incarnation: Incarnation,
    /// The log was closed in order: nothing follows `durable_end`.
    pub(crate) closed: bool,
    /// If the directory is known: bytes from the beginning of the last batch to `durable_end`. Else 0.
    pub(crate) back: u64,
    /// Directory of the last batch before `durable_end`.
    pub(crate) directory: Vec<u8>,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MarkSlot {
    Mark(Mark),
    /// Nothing was ever written there.
    Empty,
    /// A mark that is damaged or stands in the wrong slot, or something else.
    Damaged,
    /// A mark of another version.
    Version(u32),
}

impl Mark {
    /// Offset of the slot.
    pub(crate) fn offset(&self) -> u64 {
        (self.sequence & 1) * MARK_SLOT_BYTES
    }

    /// Writes the mark to the beginning of `out`, which has a slot's size, and returns its bytes, in whole blocks.
    pub(crate) fn encode(&self, directory: &[u8], out: &mut [u8]) -> u32 {
        let length = MARK_HEADER_BYTES + directory.len();
        let padded = (length as u64).next_multiple_of(BLOCK) as usize;
        out[..padded].fill(0);
        out[0..8].copy_from_slice(&MARK_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable_end.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.incarnation.0.to_le_bytes());
        out[48..52].copy_from_slice(&u32::from(self.closed).to_le_bytes());
        out[52..56].copy_from_slice(&(directory.len() as u32).to_le_bytes());
        out[56..64].copy_from_slice(&self.back.to_le_bytes());
        out[MARK_HEADER_BYTES..length].copy_from_slice(directory);
        let crc = mark_crc(&out[..length]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        padded as u32
    }

    /// Reads a slot's bytes.
    pub(crate) fn decode(slot: &[u8], number: u64) -> MarkSlot {
        Mark::fields(slot, number).unwrap_or(MarkSlot::Damaged)
    }

    fn fields(slot: &[u8], number: u64) -> Option<MarkSlot> {
        if slot.get(..BLOCK as usize)?.iter().all(|&b| b == 0) {
            return Some(MarkSlot::Empty);
        }
        let length = MARK_HEADER_BYTES + u32_at(slot, 52)? as usize;
        let mark = slot.get(..length)?;
        if mark[0..8] != MARK_MAGIC || u32_at(mark, 12)? != mark_crc(mark) {
            return None;
        }
        let version = u32_at(mark, 8)?;
        if version != FORMAT_VERSION {
            return Some(MarkSlot::Version(version));
        }
        let sequence = u64_at(mark, 24)?;
        if sequence & 1 != number {
            return None;
        }
        Some(MarkSlot::Mark(Mark {
            log_id: u64_at(mark, 16)?,
            sequence,
            durable_end: Lsn(u64_at(mark, 32)?),
            incarnation: Incarnation(u64_at(mark, 40)?),
            closed: u32_at(mark, 48)? != 0,
            back: u64_at(mark, 56)?,
            directory: mark[MARK_HEADER_BYTES..].to_vec(),
        }))
    }
}

fn mark_crc(mark: &[u8]) -> u32 {
    let crc = crate::crc::crc32c(&mark[..12]);
    let crc = crate::crc::crc32c_append(crc, &[0; 4]);
    crate::crc::crc32c_append(crc, &mark[16..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_as_written_and_only_in_its_slot() {
        let directory = vec![7; 5000];
        let mark = Mark {
            log_id: 9,
            sequence: 41,
            durable_end: Lsn(8192),
            incarnation: Incarnation(3),
            closed: true,
            back: 4096,
            directory: directory.clone(),
        };
        let mut slot = vec![0xee; MARK_SLOT_BYTES as usize];
        assert_eq!(mark.encode(&directory, &mut slot), 8192);
        assert_eq!(mark.offset(), MARK_SLOT_BYTES);
        assert_eq!(Mark::decode(&slot, 1), MarkSlot::Mark(mark));
        assert_eq!(Mark::decode(&slot, 0), MarkSlot::Damaged);
        for at in [0, 9, 13, 30, 56, 80, 5079] {
            slot[at] ^= 4;
            assert_eq!(Mark::decode(&slot, 1), MarkSlot::Damaged, "byte {at}");
            slot[at] ^= 4;
        }
        assert_eq!(Mark::decode(&[0; MARK_SLOT_BYTES as usize], 0), MarkSlot::Empty);
    }
}
