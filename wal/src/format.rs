//! The bytes on disk, as FORMAT.md describes them: segment headers, batches, records. Hand-written, little endian.
//!
//! Everything here takes bytes from outside and answers with values or errors; nothing panics on them.

mod directory;
mod kind;
mod mark;
mod moves;

pub(crate) use self::directory::{Directory, Effect, Effects};
pub(crate) use self::kind::Kind;
pub(crate) use self::mark::{MARK_SLOT_BYTES, MARKS_FILE, Mark, MarkSlot};
pub(crate) use self::moves::{MOVE_BYTES, decode_moves, encode_moves};

/// Version of the format, in every segment header.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// Blocks of this many bytes are written; batches are padded to them.
pub(crate) const BLOCK: u64 = 4096;
/// First bytes of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"LDSEGMNT";
/// First bytes of a batch: `LDB2`.
pub(crate) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"LDB2");
/// First bytes of a seal: `LDS2`.
pub(crate) const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"LDS2");
/// Bytes of a segment header that its checksum covers. The rest of the block is zero.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 128;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
/// Bytes of a record's fixed part: crc, length and kind, widths.
pub(crate) const RECORD_FIXED_BYTES: usize = 9;
/// Bytes a record takes beside its payload at most, alignment included, and the slack that the encoder scribbles over.
pub(crate) const RECORD_OVERHEAD_MAX: usize = 64;
/// Records start at multiples of this.
pub(crate) const RECORD_ALIGN: usize = 8;
/// A payload is copied and checksummed in pieces of this many bytes, so that the checksum finds them in the first cache.
const COPY_PIECE_BYTES: usize = 6 << 10;
/// Largest payload that the format can express.
pub(crate) const PAYLOAD_MAX: u32 = (1 << 28) - 1;

/// A position in the log: bytes since its beginning, segment headers not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub u64);

impl Lsn {
    pub(crate) fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
    /// Bytes from `earlier` to here; 0 if `earlier` is later.
    pub(crate) fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One use of a segment file. Each use has a number of its own, ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation(pub u64);

impl Incarnation {
    /// Before the first.
    pub(crate) const NONE: Incarnation = Incarnation(0);
    pub(crate) fn next(self) -> Incarnation {
        Incarnation(self.0 + 1)
    }
    /// The file's name while it is used as this.
    pub(crate) fn file_name(self) -> String {
        format!("wal-{:016x}.seg", self.0)
    }
}

/// A file name of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// A segment, used or prepared for use.
    Segment(Incarnation),
    /// Being created; of no value after a crash.
    Unfinished,
}

/// What a file name says; `None` for files that are not the log's.
pub(crate) fn parse_file_name(name: &str) -> Option<FileName> {
    if name.starts_with("wal-") && name.ends_with(".new") {
        return Some(FileName::Unfinished);
    }
    let digits = name.strip_prefix("wal-")?.strip_suffix(".seg")?;
    let plain =
        digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let number = u64::from_str_radix(digits, 16).ok()?;
    (plain && number > 0).then_some(FileName::Segment(Incarnation(number)))
}

/// The name of a file while it is filled with zeros.
pub(crate) fn unfinished_name(serial: u64) -> String {
    format!("wal-{serial:016x}.new")
}

/// The number in such a name.
pub(crate) fn unfinished_serial(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("wal-")?.strip_suffix(".new")?, 16).ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) segment_bytes: u64,
    /// Position of the first batch, which is where the predecessor ends, whatever else it contains.
    pub(crate) start: Lsn,
    pub(crate) predecessor: Incarnation,
    /// Link of the chain at the predecessor's end.
    pub(crate) previous_crc: u32,
    pub(crate) durable_end: Lsn,
    /// The oldest segment that was still needed.
    pub(crate) first_live: Incarnation,
    /// Position of the newest trim record that was durable when the header was submitted; 0 if there was none.
    pub(crate) trim: Lsn,
    /// Of these bytes: the link that the first batch names.
    pub(crate) crc: u32,
}

/// What the first block of a segment file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderBlock {
    /// A header.
    Header(SegmentHeader),
    /// Zeros: prepared, never used.
    Zeros,
    /// A header of another version.
    Version(u32),
    /// Neither zeros nor a segment's first bytes.
    Foreign,
    /// A segment's first bytes, and a wrong checksum: the stored one and the one computed.
    Damaged { stored: u32, computed: u32 },
}

impl SegmentHeader {
    /// Writes the block and returns the header's checksum.
    pub(crate) fn encode(&self, block: &mut [u8]) -> u32 {
        block[..BLOCK as usize].fill(0);
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        block[24..32].copy_from_slice(&self.incarnation.0.to_le_bytes());
        block[32..40].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[40..48].copy_from_slice(&self.start.0.to_le_bytes());
        block[48..56].copy_from_slice(&self.predecessor.0.to_le_bytes());
        block[56..60].copy_from_slice(&self.previous_crc.to_le_bytes());
        block[64..72].copy_from_slice(&self.durable_end.0.to_le_bytes());
        block[72..80].copy_from_slice(&self.first_live.0.to_le_bytes());
        block[80..88].copy_from_slice(&self.trim.0.to_le_bytes());
        let crc = segment_crc(block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads the first block of a file.
    pub(crate) fn decode(block: &[u8]) -> HeaderBlock {
        if block.len() < BLOCK as usize {
            return HeaderBlock::Foreign;
        }
        if block[..BLOCK as usize].iter().all(|&b| b == 0) {
            return HeaderBlock::Zeros;
        }
        let (Some(version), Some(stored)) = (u32_at(block, 8), u32_at(block, 12)) else {
            return HeaderBlock::Foreign;
        };
        let computed = segment_crc(block);
        if block[0..8] == [0; 8] {
            // Was prepared, and has lost some zeros since.
            return HeaderBlock::Damaged { stored, computed };
        }
        if block[0..8] != SEGMENT_MAGIC {
            return HeaderBlock::Foreign;
        }
        if stored != computed {
            return HeaderBlock::Damaged { stored, computed };
        }
        if version != FORMAT_VERSION {
            return HeaderBlock::Version(version);
        }
        let field = |at| u64_at(block, at).unwrap_or(0);
        HeaderBlock::Header(SegmentHeader {
            log_id: field(16),
            incarnation: Incarnation(field(24)),
            segment_bytes: field(32),
            start: Lsn(field(40)),
            predecessor: Incarnation(field(48)),
            previous_crc: u32_at(block, 56).unwrap_or(0),
            durable_end: Lsn(field(64)),
            first_live: Incarnation(field(72)),
            trim: Lsn(field(80)),
            crc: stored,
        })
    }
}

fn segment_crc(block: &[u8]) -> u32 {
    let crc = crate::crc::crc32c(&block[..12]);
    let crc = crate::crc::crc32c_append(crc, &[0; 4]);
    crate::crc::crc32c_append(crc, &block[16..SEGMENT_HEADER_BYTES])
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Bytes of header and records; the padding to whole blocks is not counted.
    pub(crate) length: u32,
    pub(crate) incarnation: Incarnation,
    pub(crate) lsn: Lsn,
    /// Exclusive end of what was durable when the batch was submitted.
    pub(crate) durable_end: Lsn,
    /// Checksum of the predecessor: a batch, or the header of the segment.
    pub(crate) previous_crc: u32,
    pub(crate) records: u32,
    /// States put since the log began, before this batch; it wraps.
    pub(crate) states: u32,
    /// Entries that replaced others since the log began, before this batch; it wraps.
    pub(crate) replaced: u32,
    /// Over the checksums of the records, which cover the records: see [`digest_append`].
    pub(crate) digest: u32,
    /// Not a batch but the seal of a segment: only a directory, outside of the chain.
    pub(crate) seal: bool,
    /// Of the header. Through the digest it stands for every byte of the batch.
    pub(crate) crc: u32,
}

/// Why a batch is not intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchFault {
    /// The header's checksum is wrong.
    Header { stored: u32, computed: u32 },
    /// A record, `at` bytes from the beginning of the batch, is wrong by itself.
    Record { at: u32, fault: RecordFault },
    /// Every record is right, and together they are not those that the header names.
    Digest { stored: u32, computed: u32 },
}

impl BatchFault {
    /// The checksum as stored and as computed; zeros where something else is wrong.
    pub(crate) fn checksums(self) -> (u32, u32) {
        match self {
            BatchFault::Header { stored, computed }
            | BatchFault::Digest { stored, computed }
            | BatchFault::Record { fault: RecordFault::Crc { stored, computed }, .. } => (stored, computed),
            BatchFault::Record { .. } => (0, 0),
        }
    }
}

/// Continues the digest of a batch, which begins with 0, by the checksum of its next record. Every step is one to one in both, so
/// that one record in the place of another is always noticed; several are with the certainty of 32 bits. Which bytes a
/// record has is the business of its own checksum.
#[inline]
pub(crate) fn digest_append(digest: u32, record_crc: u32) -> u32 {
    (digest.rotate_left(5) ^ record_crc).wrapping_mul(0x9E37_79B1)
}

impl BatchHeader {
    /// Writes the header in front of records that are in place, and returns its checksum.
    pub(crate) fn seal(&self, batch: &mut [u8]) -> u32 {
        let head = &mut batch[..BATCH_HEADER_BYTES];
        head.fill(0);
        let magic = if self.seal { SEAL_MAGIC } else { BATCH_MAGIC };
        head[0..4].copy_from_slice(&magic.to_le_bytes());
        head[4..8].copy_from_slice(&self.length.to_le_bytes());
        head[8..16].copy_from_slice(&self.incarnation.0.to_le_bytes());
        head[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        head[24..32].copy_from_slice(&self.durable_end.0.to_le_bytes());
        head[32..36].copy_from_slice(&self.previous_crc.to_le_bytes());
        head[40..44].copy_from_slice(&self.records.to_le_bytes());
        head[44..48].copy_from_slice(&self.digest.to_le_bytes());
        head[48..52].copy_from_slice(&self.states.to_le_bytes());
        head[52..56].copy_from_slice(&self.replaced.to_le_bytes());
        let crc = batch_header_crc(head);
        head[36..40].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The fields of what looks like a batch header. Its checksum is not checked.
    pub(crate) fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let magic = u32_at(bytes, 0)?;
        if bytes.len() < BATCH_HEADER_BYTES || (magic != BATCH_MAGIC && magic != SEAL_MAGIC) {
            return None;
        }
        let header = BatchHeader {
            length: u32_at(bytes, 4)?,
            incarnation: Incarnation(u64_at(bytes, 8)?),
            lsn: Lsn(u64_at(bytes, 16)?),
            durable_end: Lsn(u64_at(bytes, 24)?),
            previous_crc: u32_at(bytes, 32)?,
            crc: u32_at(bytes, 36)?,
            records: u32_at(bytes, 40)?,
            seal: magic == SEAL_MAGIC,
            digest: u32_at(bytes, 44)?,
            states: u32_at(bytes, 48)?,
            replaced: u32_at(bytes, 52)?,
        };
        (header.length as usize >= BATCH_HEADER_BYTES).then_some(header)
    }

    /// Bytes on disk, padding included.
    pub(crate) fn padded(&self) -> u64 {
        u64::from(self.length).next_multiple_of(BLOCK)
    }

    /// Checks the header alone, at the beginning of `bytes`: what it says was submitted, whatever became of the records.
    pub(crate) fn check_header(&self, bytes: &[u8]) -> Result<(), BatchFault> {
        let head = bytes.get(..BATCH_HEADER_BYTES).unwrap_or(&[]);
        let computed = if head.is_empty() { !self.crc } else { batch_header_crc(head) };
        if computed == self.crc { Ok(()) } else { Err(BatchFault::Header { stored: self.crc, computed }) }
    }

    /// Checks a whole batch, every byte of it.
    pub(crate) fn check(&self, batch: &[u8]) -> Result<(), BatchFault> {
        self.check_header(batch)?;
        let batch = batch.get(..self.length as usize).unwrap_or(batch);
        let (mut at, mut digest) = (BATCH_HEADER_BYTES, 0);
        for _ in 0..self.records {
            let bytes = batch.get(at..).unwrap_or(&[]);
            let (crc, record_bytes) = check_record(bytes, self.lsn.plus(at as u64))
                .map_err(|fault| BatchFault::Record { at: at as u32, fault })?;
            digest = digest_append(digest, crc);
            at += record_bytes;
        }
        if digest == self.digest && at == self.length as usize {
            Ok(())
        } else {
            Err(BatchFault::Digest { stored: self.digest, computed: digest })
        }
    }
}

fn batch_header_crc(head: &[u8]) -> u32 {
    let crc = crate::crc::crc32c(&head[..36]);
    let crc = crate::crc::crc32c_append(crc, &[0; 4]);
    crate::crc::crc32c_append(crc, &head[40..BATCH_HEADER_BYTES])
}

/// The fields of a record beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) stream: u64,
    pub(crate) index: u64,
    pub(crate) tag: u64,
    pub(crate) note: u64,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// The record goes on behind the bytes at hand; it has so many in all, as far as can be told.
    Short { bytes: usize },
    /// Another checksum than the stored one.
    Crc { stored: u32, computed: u32 },
    /// A kind that this version does not know.
    Kind(u32),
}

/// What stands in the place of a record's checksum while it is computed: it binds the record to its position, so that it is
/// valid nowhere else.
fn record_seed(lsn: Lsn) -> u32 {
    (lsn.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

/// The checksum of a record as read, `bytes` from its beginning to its aligned end.
#[inline]
fn record_crc(bytes: &[u8], lsn: Lsn) -> u32 {
    let mut first = [0u8; 8];
    first.copy_from_slice(&bytes[..8]);
    first[..4].copy_from_slice(&record_seed(lsn).to_le_bytes());
    crate::crc::crc32c_append(crate::crc::crc32c(&first), &bytes[8..])
}

/// log2 of the bytes that a field takes: 1, 2, 4 or 8.
#[inline]
fn width_code(value: u64) -> u8 {
    const CODES: [u8; 9] = [0, 0, 1, 2, 2, 3, 3, 3, 3];
    CODES[(71 - (value | 1).leading_zeros()) as usize / 8]
}

/// Writes a record at the beginning of `out` and returns its bytes, alignment included, and its checksum. The payload is
/// copied once, and the checksum computed while it is in the cache. `out` must have room for the payload and
/// [`RECORD_OVERHEAD_MAX`].
#[inline]
pub(crate) fn encode_record(out: &mut [u8], lsn: Lsn, header: &RecordHeader, payload: &[u8]) -> (usize, u32) {
    assert!(out.len() >= payload.len() + RECORD_OVERHEAD_MAX && payload.len() <= PAYLOAD_MAX as usize);
    out[0..4].copy_from_slice(&record_seed(lsn).to_le_bytes());
    out[4..8].copy_from_slice(&(payload.len() as u32 | header.kind.code() << 28).to_le_bytes());
    let fields = [header.stream, header.index, header.tag, header.note];
    let mut at = RECORD_FIXED_BYTES;
    let mut widths = 0u8;
    for (number, value) in fields.into_iter().enumerate() {
        let code = width_code(value);
        widths |= code << (2 * number);
        // Eight bytes are stored whatever the width: the next field or the payload overwrites the surplus.
        out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        at += 1 << code;
    }
    out[8] = widths;
    let end = at + payload.len();
    let padded = end.next_multiple_of(RECORD_ALIGN);
    let crc = if payload.len() <= COPY_PIECE_BYTES {
        out[at..end].copy_from_slice(payload);
        out[end..end + RECORD_ALIGN].fill(0);
        crate::crc::crc32c(&out[..padded])
    } else {
        copy_in_pieces(out, at, payload)
    };
    out[0..4].copy_from_slice(&crc.to_le_bytes());
    (padded, crc)
}

/// Copies a large payload to `at` and returns the checksum of `out` up to the aligned end.
fn copy_in_pieces(out: &mut [u8], at: usize, payload: &[u8]) -> u32 {
    let padded = (at + payload.len()).next_multiple_of(RECORD_ALIGN);
    let (mut at, mut crc, mut summed) = (at, 0, 0);
    for piece in payload.chunks(COPY_PIECE_BYTES) {
        out[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
        // Whole words only: the rest of a word goes with the next piece.
        let end = at / RECORD_ALIGN * RECORD_ALIGN;
        crc = crate::crc::crc32c_append(crc, &out[summed..end]);
        summed = end;
    }
    out[at..at + RECORD_ALIGN].fill(0);
    crate::crc::crc32c_append(crc, &out[summed..padded])
}

/// A record as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
    /// Bytes in the batch, alignment included.
    pub(crate) bytes: usize,
}

/// Where the fields of a record and its payload begin, where the payload ends, and the aligned end.
#[derive(Clone, Copy)]
struct Layout {
    starts: [usize; 5],
    end: usize,
    padded: usize,
}

#[inline]
fn layout(bytes: &[u8]) -> Result<Layout, RecordFault> {
    let (Some(length), Some(&widths)) = (u32_at(bytes, 4), bytes.get(8)) else {
        return Err(RecordFault::Short { bytes: RECORD_FIXED_BYTES });
    };
    let mut starts = [0usize; 5];
    starts[0] = RECORD_FIXED_BYTES;
    for number in 0..4 {
        starts[number + 1] = starts[number] + (1 << (widths >> (2 * number) & 3));
    }
    let end = starts[4] + (length & PAYLOAD_MAX) as usize;
    let padded = end.next_multiple_of(RECORD_ALIGN);
    if bytes.len() < padded {
        return Err(RecordFault::Short { bytes: padded });
    }
    Ok(Layout { starts, end, padded })
}

/// Checks the record at the beginning of `bytes` and returns its checksum and its bytes, alignment included.
#[inline]
pub(crate) fn check_record(bytes: &[u8], lsn: Lsn) -> Result<(u32, usize), RecordFault> {
    let padded = layout(bytes)?.padded;
    let stored = u32_at(bytes, 0).unwrap_or(0);
    let computed = record_crc(&bytes[..padded], lsn);
    if computed == stored { Ok((stored, padded)) } else { Err(RecordFault::Crc { stored, computed }) }
}

/// Reads the record at the beginning of `bytes`. With `lsn` its checksum is checked too; inside a batch that was checked
/// as a whole this is not needed.
pub(crate) fn decode_record(bytes: &[u8], lsn: Option<Lsn>) -> Result<Record<'_>, RecordFault> {
    let Layout { starts, end, padded } = layout(bytes)?;
    if let Some(lsn) = lsn {
        check_record(bytes, lsn)?;
    }
    let field = |number: usize| {
        let mut value = [0u8; 8];
        let source = &bytes[starts[number]..starts[number + 1]];
        value[..source.len()].copy_from_slice(source);
        u64::from_le_bytes(value)
    };
    let code = u32_at(bytes, 4).unwrap_or(0) >> 28;
    let kind = Kind::from_code(code).ok_or(RecordFault::Kind(code))?;
    let header = RecordHeader { kind, stream: field(0), index: field(1), tag: field(2), note: field(3) };
    Ok(Record { header, payload: &bytes[starts[4]..end], bytes: padded })
}

/// The records of a batch that was checked, with their positions.
pub(crate) struct Records<'a> {
    batch: &'a [u8],
    at: usize,
    lsn: Lsn,
    left: u32,
}

impl<'a> Records<'a> {
    /// `batch` starts with its header.
    pub(crate) fn new(header: &BatchHeader, batch: &'a [u8]) -> Records<'a> {
        let batch = batch.get(..header.length as usize).unwrap_or(batch);
        Records { batch, at: BATCH_HEADER_BYTES, lsn: header.lsn, left: header.records }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Lsn, Record<'a>), RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let at = self.at;
        match decode_record(self.batch.get(at..).unwrap_or(&[]), None) {
            Ok(record) => {
                self.at += record.bytes;
                Some(Ok((self.lsn.plus(at as u64), record)))
            }
            Err(fault) => {
                self.left = 0;
                Some(Err(fault))
            }
        }
    }
}

#[cfg(test)]
mod tests;
