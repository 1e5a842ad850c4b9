//! A damaged place below what was durable: what it is, where the log goes on behind it, what can be saved of it, and what it
//! did, as the directory behind it tells.

use super::DamageKind;
use super::scan::{Chain, Found, is_unreadable, read_pieces};
use crate::disk::{Disk, DiskError};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchFault, BatchHeader, Kind, Lsn, MARK_SLOT_BYTES, Mark, RECORD_ALIGN,
    Record, check_record, decode_record,
};

/// Bytes of a damaged place that are looked through for records that are intact.
const SALVAGE_BYTES_MAX: u64 = 16 << 20;
/// Bytes whose checksum is computed while looking for records at places that may not be the beginning of one.
const SEARCH_BYTES_MAX: u64 = 64 << 20;

/// A damaged place.
pub(super) struct Hole {
    pub(super) start: Lsn,
    /// Where the log goes on.
    pub(super) end: Lsn,
    /// The header of the batch there, if it is intact: only records are damaged.
    pub(super) head: Option<BatchHeader>,
    pub(super) kind: DamageKind,
    /// What it did.
    pub(super) directory: Directory,
    /// The bytes, as read.
    bytes: Vec<u8>,
}

/// What is known of the batches in a hole.
pub(super) enum Directory {
    /// All: it was one batch, and this is its directory.
    Whole(Vec<u8>),
    /// Only of the last one.
    Last(Vec<u8>),
    Lost,
}

/// The place that is looked at: the chain stands at its beginning.
pub(super) struct Site<'a> {
    pub(super) found: &'a Found,
    pub(super) chain: Chain,
    /// Where the next segment starts.
    pub(super) limit: Option<Lsn>,
    pub(super) next: Option<&'a Found>,
    pub(super) durable_end: Lsn,
    pub(super) mark: Option<&'a Mark>,
}

impl Site<'_> {
    /// Whether a seal says that the segment ends here.
    pub(super) fn is_sealed<D: Disk>(&self, disk: &mut D) -> Result<bool, DiskError> {
        let block = read(disk, self.found, self.found.offset(self.chain.lsn), BLOCK)?;
        Ok(BatchHeader::decode(&block).is_some_and(|h| {
            let here = h.incarnation == self.found.incarnation && h.lsn == self.chain.lsn;
            h.seal && here && h.check_header(&block).is_ok()
        }))
    }

    /// Looks at the damage.
    pub(super) fn survey<D: Disk>(&self, disk: &mut D) -> Result<Hole, DiskError> {
        let start = self.chain.lsn;
        let offset = self.found.offset(start);
        let block = read(disk, self.found, offset, BLOCK)?;
        let (head, kind) = self.classify(&block);
        let end = match head {
            Some(head) => start.plus(head.padded()),
            None => self.go_on(disk, offset + BLOCK)?.or(self.limit).unwrap_or(self.durable_end),
        };
        // What begins behind the end of the durable prefix follows from nothing that can be read.
        let end = end.min(self.durable_end);
        let directory = self.directory(disk, start, end)?;
        let last = self.found.offset(end).min(self.found.bytes).min(offset + SALVAGE_BYTES_MAX);
        let bytes = read(disk, self.found, offset, last.saturating_sub(offset))?;
        let unreadable = bytes.chunks(BLOCK as usize).any(is_unreadable);
        let kind = if unreadable { DamageKind::Unreadable } else { kind };
        Ok(Hole { start, end, head, kind, directory, bytes })
    }

    /// What stands in the place of a batch, and its header if that is intact.
    fn classify(&self, block: &[u8]) -> (Option<BatchHeader>, DamageKind) {
        let Some(header) = BatchHeader::decode(block).filter(|h| h.check_header(block).is_ok()) else {
            return (None, kind_of(block));
        };
        if header.incarnation != self.found.incarnation {
            return (None, DamageKind::Recycled);
        }
        if header.lsn != self.chain.lsn || header.seal {
            return (None, DamageKind::Misdirected);
        }
        if self.chain.crc.is_some_and(|crc| crc != header.previous_crc) {
            return (None, DamageKind::OtherHistory);
        }
        let end = header.lsn.plus(header.padded());
        let inside = end <= self.durable_end && self.limit.is_none_or(|limit| end <= limit);
        (inside.then_some(header), DamageKind::Checksum)
    }

    /// The first place behind the damage where a batch begins: its header is intact, or its directory.
    fn go_on<D: Disk>(&self, disk: &mut D, from: u64) -> Result<Option<Lsn>, DiskError> {
        let to = self.limit.map_or(self.found.bytes, |limit| self.found.offset(limit));
        let mut place = None;
        read_pieces(disk, self.found.file, from, to.min(self.found.bytes), &mut |at, piece| {
            for block in (0..piece.len()).step_by(BLOCK as usize) {
                let lsn = self.chain.lsn.plus(at + block as u64 - self.found.offset(self.chain.lsn));
                if begins_batch(&piece[block..], self.found, lsn) {
                    place = Some(lsn);
                    return false;
                }
            }
            true
        })?;
        Ok(place)
    }

    /// The directory that the batch behind the damage repeats; else that of the seal, of the next segment's first batch, of
    /// the mark.
    fn directory<D: Disk>(&self, disk: &mut D, start: Lsn, end: Lsn) -> Result<Directory, DiskError> {
        let here = read_directory(disk, self.found, self.found.offset(end), end)?;
        let mut copies = vec![here];
        if self.limit == Some(end)
            && let Some(next) = self.next
        {
            copies.push(read_directory(disk, next, BLOCK, end)?);
        }
        // A mark is soon overwritten. Only at the end of the log may it tell anything, for there the next batch repeats it: else the
        // next open would know less than this one.
        let at_end = |mark: &&Mark| mark.durable_end == end && end == self.durable_end;
        if let Some(mark) = self.mark.filter(at_end) {
            copies.push(Some((mark.back, mark.directory.clone())));
        }
        let mut known = copies.into_iter().flatten().filter(|(back, _)| *back != 0);
        let known = known.find(|(back, _)| end.0.checked_sub(*back).is_some_and(|at| at >= start.0));
        Ok(match known {
            Some((back, bytes)) if back == end.since(start) => Directory::Whole(bytes),
            Some((_, bytes)) => Directory::Last(bytes),
            None => Directory::Lost,
        })
    }
}

impl Hole {
    /// The records in it that are intact by themselves, in order.
    pub(super) fn salvage(&self) -> Vec<(Lsn, Record<'_>)> {
        let mut records = Vec::new();
        let (mut at, mut budget) = (BATCH_HEADER_BYTES, SEARCH_BYTES_MAX);
        while at + RECORD_ALIGN <= self.bytes.len() && budget > 0 {
            let (lsn, bytes) = (self.start.plus(at as u64), &self.bytes[at..]);
            let size = decode_record(bytes, None).map_or(RECORD_ALIGN, |record| record.bytes);
            budget = budget.saturating_sub(size as u64);
            match check_record(bytes, lsn).ok().and_then(|_| decode_record(bytes, None).ok()) {
                Some(record) => {
                    at += record.bytes;
                    if record.header.kind != Kind::Directory {
                        records.push((lsn, record));
                    }
                }
                None => at += RECORD_ALIGN,
            }
        }
        records
    }

    /// The checksum stored and the one computed, where that says something.
    pub(super) fn checksums(&self) -> (u32, u32) {
        let Some(header) = self.head.or_else(|| BatchHeader::decode(&self.bytes)) else { return (0, 0) };
        header.check(&self.bytes).map_err(BatchFault::checksums).err().unwrap_or((header.crc, header.crc))
    }
}

/// What stands in a block without a valid header.
pub(super) fn kind_of(block: &[u8]) -> DamageKind {
    match () {
        () if block.iter().all(|&byte| byte == 0) => DamageKind::LostWrite,
        () if is_unreadable(block) => DamageKind::Unreadable,
        () => DamageKind::Checksum,
    }
}

/// Whether a batch of the segment begins at the beginning of `bytes`, position `lsn`.
fn begins_batch(bytes: &[u8], found: &Found, lsn: Lsn) -> bool {
    let header = BatchHeader::decode(bytes).filter(|h| h.incarnation == found.incarnation && h.lsn == lsn);
    header.is_some_and(|h| !h.seal && h.check_header(bytes).is_ok()) || directory_at(bytes, lsn).is_some()
}

/// The directory that a batch at `lsn` repeats, and how far before it begins what it describes.
fn directory_at(bytes: &[u8], lsn: Lsn) -> Option<(u64, &[u8])> {
    let at = lsn.plus(BATCH_HEADER_BYTES as u64);
    let record = decode_record(bytes.get(BATCH_HEADER_BYTES..)?, Some(at)).ok()?;
    (record.header.kind == Kind::Directory).then_some((record.header.index, record.payload))
}

fn read_directory<D: Disk>(
    disk: &mut D,
    found: &Found,
    offset: u64,
    lsn: Lsn,
) -> Result<Option<(u64, Vec<u8>)>, DiskError> {
    let len = MARK_SLOT_BYTES.min(found.bytes.saturating_sub(offset));
    let bytes = read(disk, found, offset, len)?;
    Ok(directory_at(&bytes, lsn).map(|(back, directory)| (back, directory.to_vec())))
}

fn read<D: Disk>(disk: &mut D, found: &Found, offset: u64, len: u64) -> Result<Vec<u8>, DiskError> {
    let mut bytes = Vec::with_capacity(len as usize);
    read_pieces(disk, found.file, offset, offset + len, &mut |_, piece| {
        bytes.extend_from_slice(piece);
        true
    })?;
    Ok(bytes)
}
