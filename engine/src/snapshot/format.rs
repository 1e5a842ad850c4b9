//! Header and chunk: bytes to values and back, see FORMAT.md. Little-endian, fixed widths.

use logdrive_shard::{GroupId, LogIndex, MEMBERSHIP_BYTES_MAX, Term};
use logdrive_wal::ALIGNMENT;

use super::error::DamageKind;
use super::names::Key;
use super::types::{Compression, SnapshotId};

/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// Bytes of the header at the beginning of a file.
pub const HEADER_BYTES: usize = ALIGNMENT;
const MAGIC: [u8; 8] = *b"LDSNAP\r\n";
/// Bytes of the header's numbers, in front of the configuration.
const NUMBERS_BYTES: usize = 128;
/// Bytes of a configuration, at most.
pub(super) const MEMBERSHIP_MAX: usize = 1024;
const _: () =
    assert!(MEMBERSHIP_BYTES_MAX <= MEMBERSHIP_MAX && NUMBERS_BYTES + MEMBERSHIP_MAX <= HEADER_BYTES);
/// Bytes of a session table, at most: it is handed out in one piece.
pub(super) const SESSIONS_MAX: u64 = 16 << 20;
// As many sessions as may be, with all the replies that are kept.
const _: () = assert!(
    SESSIONS_MAX > 4 * logdrive_shard::SESSION_REPLY_BYTES_MAX + 256 * logdrive_shard::SESSIONS_MAX as u64
);
/// Bytes of a chunk's head.
pub(super) const CHUNK_HEAD: usize = 32;
pub(super) const CHUNK_BYTES_MIN: u32 = ALIGNMENT as u32;
pub(super) const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// No file is longer, so that no sum of numbers from outside overflows.
const BYTES_MAX: u64 = 1 << 50;

/// The header of a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The file, among all that were ever written.
    pub id: SnapshotId,
    /// Whose.
    pub group: GroupId,
    /// The life of the group on the node that has the file.
    pub life: u32,
    /// The last entry that is in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The index of the entry that brought the configuration.
    pub membership_index: LogIndex,
    /// The configuration, encoded.
    pub membership: Vec<u8>,
    /// Bytes of the sessions, which are the first of the content.
    pub sessions_bytes: u64,
    /// Bytes of the content: sessions and state, as they were before compression.
    pub content_bytes: u64,
    /// CRC-32C of the content.
    pub content_crc: u32,
    /// How the content is compressed.
    pub compression: Compression,
    /// Bytes of the content as it is in the chunks.
    pub stored_bytes: u64,
    /// CRC-32C of all bytes of the file behind the header.
    pub chunks_crc: u32,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
}

impl SnapshotHeader {
    /// Chunks of the file.
    pub fn chunks(&self) -> u64 {
        self.stored_bytes.div_ceil(self.payload_max())
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + (0..self.chunks()).next_back().map_or(0, |last| self.end_of(last))
    }

    /// Content bytes of a full chunk.
    fn payload_max(&self) -> u64 {
        u64::from(self.chunk_bytes) - CHUNK_HEAD as u64
    }

    /// Where the chunk begins in the file.
    pub fn offset_of(&self, chunk: u64) -> u64 {
        HEADER_BYTES as u64 + chunk * u64::from(self.chunk_bytes)
    }

    /// Where the chunk ends, counted from the header's end.
    fn end_of(&self, chunk: u64) -> u64 {
        chunk * u64::from(self.chunk_bytes) + u64::from(self.len_of(chunk))
    }

    /// Content bytes of a chunk.
    pub(super) fn payload_of(&self, chunk: u64) -> u32 {
        let before = chunk * self.payload_max();
        (self.stored_bytes - before).min(self.payload_max()) as u32
    }

    /// Bytes of a chunk in the file. Only the last one is shorter than `chunk_bytes`.
    pub fn len_of(&self, chunk: u64) -> u32 {
        (CHUNK_HEAD as u32 + self.payload_of(chunk)).next_multiple_of(ALIGNMENT as u32)
    }

    pub(super) fn key(&self) -> Key {
        Key { group: self.group, life: self.life, index: self.index, id: self.id }
    }

    /// The header as it is in the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(HEADER_BYTES);
        to.extend_from_slice(&MAGIC);
        to.extend_from_slice(&VERSION.to_le_bytes());
        // The place of the checksum.
        to.extend_from_slice(&[0; 4]);
        for number in [self.id.0, self.group.0, self.index.0, self.term.0, self.membership_index.0] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.sessions_bytes, self.content_bytes, self.stored_bytes, self.file_bytes()] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        let compression = match self.compression {
            Compression::Off => 0,
            Compression::Lz4 => 1,
        };
        let membership_bytes = self.membership.len() as u32;
        for number in
            [self.life, self.chunk_bytes, self.content_crc, self.chunks_crc, compression, membership_bytes]
        {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.resize(NUMBERS_BYTES, 0);
        to.extend_from_slice(&self.membership);
        assert!(to.len() <= HEADER_BYTES, "a configuration of {membership_bytes} bytes in a header");
        to.resize(HEADER_BYTES, 0);
        let crc = header_crc(&to);
        to[12..16].copy_from_slice(&crc.to_le_bytes());
        to
    }

    /// The header of some bytes: all of them, exactly as [`SnapshotHeader::encode`] writes them.
    ///
    /// # Errors
    /// What is wrong, whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHeader, DamageKind> {
        let short = DamageKind::Length { expected: HEADER_BYTES as u64, found: bytes.len() as u64 };
        if bytes.len() != HEADER_BYTES {
            return Err(short);
        }
        if bytes[..8] != MAGIC {
            return Err(DamageKind::Magic);
        }
        let mut at = Numbers { bytes, at: 8 };
        let version = at.u32();
        let (expected, found) = (header_crc(bytes), at.u32());
        if expected != found {
            return Err(DamageKind::HeaderCrc { expected, found });
        }
        if version != VERSION {
            return Err(DamageKind::Version { found: version });
        }
        let [id, group, index, term, membership_index] = std::array::from_fn(|_| at.u64());
        let [sessions_bytes, content_bytes, stored_bytes, file_bytes] = std::array::from_fn(|_| at.u64());
        let [life, chunk_bytes, content_crc, chunks_crc, compression, membership_bytes] =
            std::array::from_fn(|_| at.u32());
        let wrong = |field| DamageKind::Header { field };
        let membership_bytes = membership_bytes as usize;
        if membership_bytes > MEMBERSHIP_MAX {
            return Err(wrong("bytes of the configuration"));
        }
        let header = SnapshotHeader {
            id: SnapshotId(id),
            group: GroupId(group),
            life,
            index: LogIndex(index),
            term: Term(term),
            membership_index: LogIndex(membership_index),
            membership: bytes[NUMBERS_BYTES..NUMBERS_BYTES + membership_bytes].to_vec(),
            sessions_bytes,
            content_bytes,
            content_crc,
            compression: match compression {
                0 => Compression::Off,
                1 => Compression::Lz4,
                _ => return Err(wrong("compression")),
            },
            stored_bytes,
            chunks_crc,
            chunk_bytes,
        };
        header.check(file_bytes)?;
        // Zeros where nothing is: there is one way to write a header.
        if header.encode() != bytes {
            return Err(wrong("bytes that should be zero"));
        }
        Ok(header)
    }

    fn check(&self, file_bytes: u64) -> Result<(), DamageKind> {
        let wrong = |field| DamageKind::Header { field };
        if !is_chunk_bytes(self.chunk_bytes) {
            return Err(wrong("bytes of a chunk"));
        }
        if self.content_bytes > BYTES_MAX || self.stored_bytes > BYTES_MAX {
            return Err(wrong("bytes of the content"));
        }
        if self.sessions_bytes > self.content_bytes.min(SESSIONS_MAX) {
            return Err(wrong("bytes of the sessions"));
        }
        if self.compression == Compression::Off && self.stored_bytes != self.content_bytes {
            return Err(wrong("stored bytes"));
        }
        if self.membership_index > self.index {
            return Err(wrong("index of the configuration"));
        }
        if file_bytes != self.file_bytes() {
            return Err(wrong("bytes of the file"));
        }
        Ok(())
    }
}

/// Whether a chunk may have so many bytes.
pub(super) fn is_chunk_bytes(bytes: u32) -> bool {
    (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(ALIGNMENT as u32)
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// Takes numbers out of bytes that are long enough.
struct Numbers<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut number = [0; N];
        number.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        number
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Which chunk of which file, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkPlace {
    pub(super) id: SnapshotId,
    pub(super) number: u64,
    pub(super) offset: u64,
}

/// Writes a chunk's head, except for its CRC. The CRC of the rest of the head; it goes on with what is behind the head.
pub(super) fn seal_head(chunk: &mut [u8], payload: u32, place: ChunkPlace) -> u32 {
    chunk[4..8].copy_from_slice(&payload.to_le_bytes());
    chunk[8..16].copy_from_slice(&place.id.0.to_le_bytes());
    chunk[16..24].copy_from_slice(&place.number.to_le_bytes());
    chunk[24..32].copy_from_slice(&place.offset.to_le_bytes());
    crc32c::crc32c(&chunk[4..CHUNK_HEAD])
}

/// The payload of a chunk, if it is the chunk `number` of the file with this header.
pub(super) fn open<'c>(
    header: &SnapshotHeader,
    number: u64,
    chunk: &'c [u8],
) -> Result<&'c [u8], DamageKind> {
    let expected = u64::from(header.len_of(number));
    if chunk.len() as u64 != expected {
        return Err(DamageKind::ChunkLength { chunk: number, expected, found: chunk.len() as u64 });
    }
    let mut at = Numbers { bytes: chunk, at: 0 };
    let (found, expected) = (at.u32(), crc32c::crc32c(&chunk[4..]));
    if found != expected {
        return Err(DamageKind::ChunkCrc { chunk: number, expected, found });
    }
    let (payload, id, found, offset) = (at.u32(), at.u64(), at.u64(), at.u64());
    if id != header.id.0 {
        return Err(DamageKind::ChunkOfOther { chunk: number, expected: header.id.0, found: id });
    }
    if found != number || offset != header.offset_of(number) {
        return Err(DamageKind::ChunkPlace { chunk: number, found, offset });
    }
    let expected = header.payload_of(number);
    if payload != expected {
        let (expected, found) = (u64::from(expected), u64::from(payload));
        return Err(DamageKind::ChunkLength { chunk: number, expected, found });
    }
    Ok(&chunk[CHUNK_HEAD..CHUNK_HEAD + payload as usize])
}
