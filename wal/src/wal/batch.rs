//! The batch that is being filled.

use crate::buffer::Buffer;
use crate::format::{
    BATCH_HEADER_BYTES, Kind, Lsn, RECORD_OVERHEAD_MAX, RecordHeader, digest_append, encode_record,
};
use crate::wal::Ticket;

/// A batch in memory: open while it grows, then closed, then sealed when its place is known.
pub(crate) struct Batch {
    pub(crate) buffer: Buffer,
    /// Bytes of header and records.
    pub(crate) len: usize,
    /// Records are put in up to here.
    pub(crate) limit: usize,
    pub(crate) records: u32,
    /// Entries and copies among the records, and how many of them do not count any more.
    pub(crate) entries: u32,
    pub(crate) dead: u32,
    /// Bytes of entries and copies.
    pub(crate) entry_bytes: u32,
    /// Over the checksums of the records so far.
    pub(crate) digest: u32,
    /// Where it will be: right behind its predecessor.
    pub(crate) lsn: Lsn,
    pub(crate) ticket: Ticket,
    /// Counts of the log before this batch, see [`crate::format::BatchHeader`].
    pub(crate) states: u32,
    pub(crate) replaced: u32,
}

impl Batch {
    pub(crate) fn new(buffer: Buffer, limit: usize, lsn: Lsn, ticket: Ticket) -> Batch {
        let limit = limit.min(buffer.capacity());
        Batch {
            buffer,
            len: BATCH_HEADER_BYTES,
            limit,
            records: 0,
            digest: 0,
            lsn,
            ticket,
            states: 0,
            replaced: 0,
            entries: 0,
            dead: 0,
            entry_bytes: 0,
        }
    }

    /// Whether a record with so much payload fits.
    #[inline]
    pub(crate) fn fits(&self, payload_bytes: usize) -> bool {
        self.len + payload_bytes + RECORD_OVERHEAD_MAX <= self.limit
    }

    /// Puts a record in, which fits, and returns its position.
    #[inline]
    pub(crate) fn put(&mut self, header: &RecordHeader, payload: &[u8]) -> Lsn {
        let lsn = self.lsn.plus(self.len as u64);
        let out = &mut self.buffer.as_mut_slice()[self.len..];
        let (bytes, crc) = encode_record(out, lsn, header, payload);
        self.len += bytes;
        self.digest = digest_append(self.digest, crc);
        self.records += 1;
        if matches!(header.kind, Kind::Entry | Kind::Copy) {
            self.entries += 1;
            self.entry_bytes += bytes as u32;
        }
        lsn
    }

    /// Bytes on disk.
    pub(crate) fn padded(&self) -> u64 {
        (self.len as u64).next_multiple_of(crate::format::BLOCK)
    }

    pub(crate) fn end(&self) -> Lsn {
        self.lsn.plus(self.padded())
    }

    /// The bytes from a position on, if it lies in this batch.
    pub(crate) fn bytes_at(&self, lsn: Lsn) -> Option<&[u8]> {
        let at = usize::try_from(lsn.0.checked_sub(self.lsn.0)?).ok()?;
        if at >= self.len {
            return None;
        }
        Some(&self.buffer.as_slice()[at..self.len])
    }
}
