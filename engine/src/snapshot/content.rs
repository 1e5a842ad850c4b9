//! Sessions and state to chunks and back.

use std::collections::VecDeque;

use logdrive_wal::{ALIGNMENT, Buffer};

use super::error::DamageKind;
use super::format::{CHUNK_HEAD, ChunkPlace, HEADER_BYTES, SnapshotHeader, open, seal_head};
use super::join::Join;
use super::types::{Compression, SnapshotId};

/// Bytes of content in a compressed block, at most: as far as LZ4 looks back.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// Content that is made of a chunk in one go.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of a chunk's CRC, in front of all that it is of.
const CRC_BYTES: usize = 4;
/// Bytes of a block's head: bytes of its content, bytes of what follows.
const BLOCK_HEAD: usize = 8;

/// A sealed chunk that is to be written.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) buffer: Buffer,
    pub(super) len: u32,
}

/// What the header says of the content when all of it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) content_bytes: u64,
    pub(super) content_crc: u32,
    pub(super) stored_bytes: u64,
    pub(super) chunks_crc: u32,
}

/// Makes chunks of content.
pub(super) struct Encoder {
    id: SnapshotId,
    chunk_bytes: u32,
    compression: Compression,
    /// Of the block that is not compressed yet.
    block: Vec<u8>,
    packed: Vec<u8>,
    /// The chunk that is not full yet.
    open: Option<Chunk>,
    number: u64,
    totals: Totals,
    /// What is behind the head of a full chunk.
    full: Join,
}

/// A chunk that is being filled.
struct Chunk {
    buffer: Buffer,
    /// Where its payload ends.
    end: usize,
    /// Of its payload so far: all of a chunk need not be looked at in the moment in which it is full.
    crc: u32,
}

impl Encoder {
    pub(super) fn new(id: SnapshotId, chunk_bytes: u32, compression: Compression) -> Encoder {
        let totals = Totals { content_bytes: 0, content_crc: 0, stored_bytes: 0, chunks_crc: 0 };
        let (block, packed) = (Vec::new(), Vec::new());
        let full = Join::new(chunk_bytes as usize - CHUNK_HEAD);
        Encoder { id, chunk_bytes, compression, block, packed, open: None, number: 0, totals, full }
    }

    /// Content that fits without more than one more chunk becoming full, whatever it is.
    pub(super) fn room(&self) -> usize {
        match self.compression {
            Compression::Off => {
                let used = self.open.as_ref().map_or(CHUNK_HEAD, |chunk| chunk.end);
                self.chunk_bytes as usize - used
            }
            Compression::Lz4 => BLOCK_BYTES - self.block.len(),
        }
    }

    /// Takes content. Full chunks go to `pieces`.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        new: &mut impl FnMut() -> Buffer,
        pieces: &mut VecDeque<Piece>,
    ) {
        self.totals.content_bytes += bytes.len() as u64;
        match self.compression {
            // What is stored is the content: the sums of the chunks make the content's.
            Compression::Off => self.store(bytes, new, pieces),
            Compression::Lz4 => {
                self.totals.content_crc = crc32c::crc32c_append(self.totals.content_crc, bytes);
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block.len()));
                    self.block.extend_from_slice(now);
                    rest = later;
                    if self.block.len() == BLOCK_BYTES {
                        self.pack(new, pieces);
                    }
                }
            }
        }
    }

    /// The last chunk goes to `pieces`.
    pub(super) fn finish(
        &mut self,
        new: &mut impl FnMut() -> Buffer,
        pieces: &mut VecDeque<Piece>,
    ) -> Totals {
        if !self.block.is_empty() {
            self.pack(new, pieces);
        }
        self.seal(pieces);
        self.totals
    }

    /// Takes the open chunk's buffer back, when the file is given up.
    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        self.open.take().map(|chunk| chunk.buffer)
    }

    /// Compresses the block; as it is if that does not make it shorter.
    fn pack(&mut self, new: &mut impl FnMut() -> Buffer, pieces: &mut VecDeque<Piece>) {
        let block = std::mem::take(&mut self.block);
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(lz4_flex::block::get_maximum_output_size(BLOCK_BYTES), 0);
        // It cannot fail: the output has room for the worst case.
        let len = lz4_flex::block::compress_into(&block, &mut packed).unwrap_or(usize::MAX);
        let stored = if len < block.len() { &packed[..len] } else { &block[..] };
        let mut head = [0; BLOCK_HEAD];
        head[..4].copy_from_slice(&(block.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        self.store(&head, new, pieces);
        self.store(stored, new, pieces);
        (self.block, self.packed) = (block, packed);
        self.block.clear();
    }

    fn store(&mut self, bytes: &[u8], new: &mut impl FnMut() -> Buffer, pieces: &mut VecDeque<Piece>) {
        let (mut rest, len) = (bytes, self.chunk_bytes as usize);
        while !rest.is_empty() {
            let chunk = self.open.get_or_insert_with(|| Chunk { buffer: new(), end: CHUNK_HEAD, crc: 0 });
            let (now, later) = rest.split_at(rest.len().min(len - chunk.end));
            chunk.buffer.as_mut_slice()[chunk.end..chunk.end + now.len()].copy_from_slice(now);
            chunk.crc = crc32c::crc32c_append(chunk.crc, now);
            chunk.end += now.len();
            rest = later;
            self.totals.stored_bytes += now.len() as u64;
            if chunk.end == len {
                self.seal(pieces);
            }
        }
    }

    /// Of the chunk that is being filled.
    fn place(&self) -> ChunkPlace {
        let offset = HEADER_BYTES as u64 + self.number * u64::from(self.chunk_bytes);
        ChunkPlace { id: self.id, number: self.number, offset }
    }

    fn seal(&mut self, pieces: &mut VecDeque<Piece>) {
        let place = self.place();
        let Some(Chunk { mut buffer, end, crc }) = self.open.take() else { return };
        let (payload, len) = (end - CHUNK_HEAD, end.next_multiple_of(ALIGNMENT));
        let is_full = end == self.chunk_bytes as usize;
        let chunk = &mut buffer.as_mut_slice()[..len];
        chunk[end..].fill(0);
        let behind = crc32c::crc32c_append(crc, &chunk[end..]);
        let join = if is_full { self.full } else { Join::new(len - CHUNK_HEAD) };
        let head = seal_head(chunk, payload as u32, place);
        chunk[..CRC_BYTES].copy_from_slice(&join.join(head, behind).to_le_bytes());
        let totals = &mut self.totals;
        let front = crc32c::crc32c_append(totals.chunks_crc, &chunk[..CHUNK_HEAD]);
        totals.chunks_crc = join.join(front, behind);
        if self.compression == Compression::Off {
            let join = if is_full { self.full } else { Join::new(payload) };
            totals.content_crc = join.join(totals.content_crc, crc);
        }
        self.number += 1;
        pieces.push_back(Piece { offset: place.offset, buffer, len: len as u32 });
    }
}

/// Makes content of chunks, in their order, and checks everything on the way.
pub(super) struct Decoder {
    next: u64,
    totals: Totals,
    /// Of a block whose end is in a later chunk: its head and what there is of it.
    block: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        let totals = Totals { content_bytes: 0, content_crc: 0, stored_bytes: 0, chunks_crc: 0 };
        Decoder { next: 0, totals, block: Vec::new() }
    }

    /// The chunk that is to come.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next chunk and checks it. Where its payload lies; [`Decoder::content`] makes content of that.
    pub(super) fn push(
        &mut self,
        header: &SnapshotHeader,
        chunk: &[u8],
    ) -> Result<std::ops::Range<usize>, DamageKind> {
        let payload = open(header, self.next, chunk)?.len();
        // The chunk's CRC stands in its first bytes, and is right: the others are summed already.
        let (stored, others) = chunk.split_at(CRC_BYTES);
        let sum = stored.first_chunk().map_or(0, |stored| u32::from_le_bytes(*stored));
        let front = crc32c::crc32c_append(self.totals.chunks_crc, stored);
        self.totals.chunks_crc = Join::new(others.len()).join(front, sum);
        self.totals.stored_bytes += payload as u64;
        self.next += 1;
        Ok(CHUNK_HEAD..CHUNK_HEAD + payload)
    }

    /// Adds content to `out`, and answers how much of the payload that took: what is left comes with the next call, because
    /// a short payload may be much content, and a long one much work. At least [`PIECE_BYTES`] of content, or all there is.
    pub(super) fn content(
        &mut self,
        header: &SnapshotHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, DamageKind> {
        let before = out.len();
        let taken = match header.compression {
            Compression::Off => {
                let piece = &payload[..payload.len().min(PIECE_BYTES)];
                out.extend_from_slice(piece);
                piece.len()
            }
            Compression::Lz4 => self.unpack(payload, out)?,
        };
        let content = &out[before..];
        self.totals.content_crc = crc32c::crc32c_append(self.totals.content_crc, content);
        self.totals.content_bytes += content.len() as u64;
        if self.totals.content_bytes > header.content_bytes {
            let (expected, found) = (header.content_bytes, self.totals.content_bytes);
            return Err(DamageKind::ContentLength { expected, found });
        }
        Ok(taken)
    }

    fn unpack(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<usize, DamageKind> {
        let bad = DamageKind::Block { chunk: self.next.saturating_sub(1) };
        let before = out.len();
        let mut rest = payload;
        while !rest.is_empty() && out.len() - before < PIECE_BYTES {
            let have = self.block.len();
            let wanted = match self.block.first_chunk::<BLOCK_HEAD>() {
                None => BLOCK_HEAD - have,
                Some(head) => BLOCK_HEAD + lengths(head).1 - have,
            };
            let (now, later) = rest.split_at(rest.len().min(wanted));
            self.block.extend_from_slice(now);
            rest = later;
            let Some(head) = self.block.first_chunk::<BLOCK_HEAD>() else { continue };
            let (content, stored) = lengths(head);
            if content == 0 || content > BLOCK_BYTES || stored == 0 || stored > content {
                return Err(bad);
            }
            if self.block.len() < BLOCK_HEAD + stored {
                continue;
            }
            let stored = &self.block[BLOCK_HEAD..];
            let at = out.len();
            if stored.len() == content {
                out.extend_from_slice(stored);
            } else {
                out.resize(at + content, 0);
                let len = lz4_flex::block::decompress_into(stored, &mut out[at..]);
                if len.ok() != Some(content) {
                    return Err(bad);
                }
            }
            self.block.clear();
        }
        Ok(payload.len() - rest.len())
    }

    /// After the last chunk: whether the whole is what the header says.
    pub(super) fn finish(&self, header: &SnapshotHeader) -> Result<(), DamageKind> {
        let totals = &self.totals;
        if self.next != header.chunks() || totals.stored_bytes != header.stored_bytes {
            let (expected, found) = (header.file_bytes(), header.offset_of(self.next));
            return Err(DamageKind::Length { expected, found });
        }
        if !self.block.is_empty() {
            return Err(DamageKind::Block { chunk: self.next.saturating_sub(1) });
        }
        if totals.content_bytes != header.content_bytes {
            let (expected, found) = (header.content_bytes, totals.content_bytes);
            return Err(DamageKind::ContentLength { expected, found });
        }
        let sums = [
            ("chunks", header.chunks_crc, totals.chunks_crc),
            ("content", header.content_crc, totals.content_crc),
        ];
        match sums.into_iter().find(|(_, expected, found)| expected != found) {
            Some((what, expected, found)) => Err(DamageKind::Total { what, expected, found }),
            None => Ok(()),
        }
    }
}

/// Bytes of a block's content and of what is stored of it.
fn lengths(head: &[u8; BLOCK_HEAD]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = *head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize)
}
