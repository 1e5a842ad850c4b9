//! Reading segments from front to back while the log opens: several reads under way, every batch checked, memory bounded.

use std::collections::VecDeque;

use super::{CLASS_OPEN, token};
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op};
use crate::format::{BLOCK, BatchHeader, HeaderBlock, Incarnation, Lsn, SegmentHeader};
use crate::mutant;

/// Bytes of one read.
const PIECE_BYTES: u64 = 1 << 20;
/// A segment whose header was lost and that has no batch in so many bytes was not used: more than that is never under way
/// when its header is not durable yet.
const UNUSED_BYTES: u64 = 8 << 20;
/// Reads under way.
const PIECES_AHEAD: usize = 6;
/// So often a read that the device refuses is tried, as a whole and then block by block.
const TRIES: u32 = 3;
/// A block that cannot be read comes as this byte all over: no batch, no header, no record looks like it.
const UNREADABLE: u8 = 0xee;

/// A segment file while the log opens.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// From the name.
    pub(super) incarnation: Incarnation,
    pub(super) file: FileId,
    pub(super) bytes: u64,
    pub(super) head: HeaderBlock,
    /// What the batches say of a header that is lost: where the segment starts, and little more.
    pub(super) rebuilt: Option<SegmentHeader>,
}

impl Found {
    /// The header, if the file is in use under its name.
    pub(super) fn header(&self) -> Option<&SegmentHeader> {
        match &self.head {
            HeaderBlock::Header(header) if header.incarnation == self.incarnation => Some(header),
            _ => self.rebuilt.as_ref(),
        }
    }
    /// The offset of a position.
    pub(super) fn offset(&self, lsn: Lsn) -> u64 {
        BLOCK + lsn.since(self.header().map_or(lsn, |h| h.start))
    }
    pub(super) fn name(&self) -> String {
        self.incarnation.file_name()
    }
}

/// Performs one operation and waits for it. Only while nothing else is under way.
pub(super) fn perform<D: Disk>(disk: &mut D, op: Op) -> Result<Completion, DiskError> {
    disk.submit(token(CLASS_OPEN, 0), op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        disk.wait(&mut completions);
    }
    let completion = completions.swap_remove(0);
    match completion.result {
        Ok(done) => Ok(Completion { result: Ok(done), ..completion }),
        Err(error) => {
            if let Some(buffer) = completion.buffer {
                disk.recycle(buffer);
            }
            Err(error)
        }
    }
}

/// Reads `offset .. end` of a file and hands the pieces over in order, until `each` answers false.
pub(super) fn read_pieces<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    end: u64,
    each: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> Result<(), DiskError> {
    let mut next = offset;
    let mut under_way: VecDeque<(u64, Option<Completion>)> = VecDeque::new();
    let mut base = 0u64;
    let mut failed = None;
    let mut stop = false;
    let mut completions = Vec::new();
    loop {
        while !stop && next < end && under_way.len() < PIECES_AHEAD {
            let len = PIECE_BYTES.min(end - next);
            let buffer = disk.buffer(len as usize);
            let number = base + under_way.len() as u64;
            disk.submit(token(CLASS_OPEN, number), Op::Read { file, offset: next, buffer, len: len as u32 });
            under_way.push_back((next, None));
            next += len;
        }
        if under_way.is_empty() {
            return failed.map_or(Ok(()), Err);
        }
        match under_way.front() {
            Some((_, None)) => disk.wait(&mut completions),
            // Hands the new read over; the next piece is here already.
            _ => disk.poll(&mut completions),
        }
        for completion in completions.drain(..) {
            let (_, number) = super::token_parts(completion.token);
            if let Some(piece) = under_way.get_mut((number - base) as usize) {
                piece.1 = Some(completion);
            }
        }
        // One at a time: the next read goes off before the next piece is looked at.
        let Some((at, Some(completion))) = under_way.pop_front_if(|(_, completed)| completed.is_some())
        else {
            continue;
        };
        base += 1;
        match (completion.result, &completion.buffer) {
            (Ok(Done::Transferred(len)), Some(buffer)) if !stop => {
                stop = !each(at, &buffer.as_slice()[..len as usize]);
            }
            (Err(error), _) if !stop && error.is_unreadable() => {
                finish(disk, base, &mut under_way);
                match read_around(disk, file, at, PIECE_BYTES.min(end - at)) {
                    Ok(bytes) => stop = !each(at, &bytes),
                    Err(error) => (failed, stop) = (Some(error), true),
                }
            }
            (Err(error), _) if !stop => {
                failed = Some(error);
                stop = true;
            }
            _ => {}
        }
        if let Some(buffer) = completion.buffer {
            disk.recycle(buffer);
        }
    }
}

/// Waits for all pieces under way.
fn finish<D: Disk>(disk: &mut D, base: u64, under_way: &mut VecDeque<(u64, Option<Completion>)>) {
    while under_way.iter().any(|(_, completion)| completion.is_none()) {
        let mut completions = Vec::new();
        disk.wait(&mut completions);
        for completion in completions {
            let (_, number) = super::token_parts(completion.token);
            if let Some(piece) = under_way.get_mut((number - base) as usize) {
                piece.1 = Some(completion);
            }
        }
    }
}

/// Reads a piece that the device refused: once more as a whole, then block by block. What cannot be read at all is damage in its
/// place, and comes as [`UNREADABLE`]. Other errors are errors. Only while nothing else is under way.
pub(super) fn read_around<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, DiskError> {
    if let Ok(bytes) = read_stubbornly(disk, file, offset, len)? {
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(len as usize);
    let mut refused = 0;
    for at in (offset..offset + len).step_by(BLOCK as usize) {
        match read_stubbornly(disk, file, at, BLOCK)? {
            Ok(block) => bytes.extend_from_slice(&block),
            Err(error) => {
                if refused == 0 {
                    tracing::error!(%error, "the device cannot read what was written there");
                }
                refused += 1;
                bytes.resize(bytes.len() + BLOCK as usize, UNREADABLE);
            }
        }
    }
    Ok(bytes)
}

/// The inner error: the device cannot read this.
fn read_stubbornly<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    len: u64,
) -> Result<Result<Vec<u8>, DiskError>, DiskError> {
    let mut refusal = None;
    for _ in 0..TRIES {
        let buffer = disk.buffer(len as usize);
        match perform(disk, Op::Read { file, offset, buffer, len: len as u32 }) {
            Ok(Completion { result: Ok(Done::Transferred(bytes)), buffer: Some(buffer), .. }) => {
                let read = buffer.as_slice()[..bytes as usize].to_vec();
                disk.recycle(buffer);
                return Ok(Ok(read));
            }
            Ok(done) => unreachable!("a read ended as {:?}", done.result),
            Err(error) if error.is_unreadable() => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    let unknown = || DiskError { op: "read", name: String::new(), offset: Some(offset), errno: libc::EIO };
    Ok(Err(refusal.unwrap_or_else(unknown)))
}

/// Whether a block stands for one that the device cannot read.
pub(super) fn is_unreadable(block: &[u8]) -> bool {
    !block.is_empty() && block.iter().all(|&byte| byte == UNREADABLE)
}

/// Why a scan ended before the end it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Byte offset in the segment.
    pub(super) offset: u64,
    pub(super) expected_crc: u32,
    pub(super) found_crc: u32,
}

/// Where a chain of batches stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// Where the next batch begins.
    pub(super) lsn: Lsn,
    /// Checksum that it names as its predecessor's; `None` behind damage, where it is not known.
    pub(super) crc: Option<u32>,
}

/// Receives checked batches; an answer other than `Ok` ends the scan.
pub(super) type OnBatch<'a, E> = &'a mut dyn FnMut(&BatchHeader, &[u8], u64) -> Result<(), E>;

/// What a batch must be, to be the next one of the chain.
struct Follower<'a> {
    incarnation: Incarnation,
    start: Lsn,
    /// End of the file.
    bytes: u64,
    /// Nothing at or behind this position counts.
    limit: Option<Lsn>,
    chain: &'a mut Chain,
}

enum Next {
    /// The next batch, of so many bytes with padding.
    Batch(BatchHeader),
    End(Damage),
}

impl Follower<'_> {
    fn offset(&self) -> u64 {
        BLOCK + self.chain.lsn.since(self.start)
    }

    /// The header of the next batch, at the beginning of `bytes`.
    fn header(&self, bytes: &[u8]) -> Next {
        let offset = self.offset();
        let end = |expected_crc, found_crc| Next::End(Damage { offset, expected_crc, found_crc });
        let Some(header) = BatchHeader::decode(bytes) else { return end(0, 0) };
        let placed = header.incarnation == self.incarnation && header.lsn == self.chain.lsn && !header.seal;
        let fits = offset + header.padded() <= self.bytes;
        if !placed || !fits {
            return end(0, 0);
        }
        if let Some(crc) = self.chain.crc.filter(|&crc| crc != header.previous_crc && !mutant::UNCHAINED) {
            return end(crc, header.previous_crc);
        }
        Next::Batch(header)
    }
}

/// Follows the chain through one segment from where it stands: up to `limit` if its successor names one, else as far as it
/// goes. Returns the damage (or the end) it came to; `None` if it reached the limit or the end of the file.
pub(super) fn scan_segment<D: Disk, E>(
    disk: &mut D,
    found: &Found,
    header: &SegmentHeader,
    limit: Option<Lsn>,
    chain: &mut Chain,
    on_batch: OnBatch<'_, E>,
) -> Result<Result<Option<Damage>, E>, DiskError> {
    let end = limit.map_or(found.bytes, |l| (BLOCK + l.0.saturating_sub(header.start.0)).min(found.bytes));
    let mut follower =
        Follower { incarnation: found.incarnation, start: header.start, bytes: found.bytes, limit, chain };
    let mut carry: Vec<u8> = Vec::new();
    let mut outcome: Result<Option<Damage>, E> = Ok(None);
    let from = follower.offset();
    read_pieces(disk, found.file, from, end, &mut |_, piece| {
        outcome = feed(&mut follower, &mut carry, piece, on_batch);
        matches!(outcome, Ok(None))
    })?;
    if let Ok(None) = outcome {
        let reached = limit.map_or(follower.offset() == found.bytes, |l| follower.chain.lsn == l);
        if !reached || !carry.is_empty() {
            outcome = Ok(Some(Damage { offset: follower.offset(), ..Damage::default() }));
        }
    }
    Ok(outcome)
}

/// Takes the batches of one piece; what does not end in it is carried over to the next.
fn feed<E>(
    follower: &mut Follower<'_>,
    carry: &mut Vec<u8>,
    mut piece: &[u8],
    on_batch: OnBatch<'_, E>,
) -> Result<Option<Damage>, E> {
    while !piece.is_empty() {
        let source: &[u8] = if carry.is_empty() { piece } else { carry };
        let header = match follower.header(source) {
            Next::Batch(header) => header,
            Next::End(damage) => return Ok(Some(damage)),
        };
        if follower.limit.is_some_and(|l| header.lsn.plus(header.padded()) > l) {
            return Ok(Some(Damage { offset: follower.offset(), ..Damage::default() }));
        }
        let padded = header.padded() as usize;
        if carry.len() + piece.len() < padded {
            carry.extend_from_slice(piece);
            return Ok(None);
        }
        let take = padded - carry.len();
        let batch = if carry.is_empty() {
            &piece[..padded]
        } else {
            carry.extend_from_slice(&piece[..take]);
            &carry[..]
        };
        if let Err(fault) = header.check(batch) {
            let (expected_crc, found_crc) = fault.checksums();
            return Ok(Some(Damage { offset: follower.offset(), expected_crc, found_crc }));
        }
        on_batch(&header, batch, follower.offset())?;
        *follower.chain = Chain { lsn: header.lsn.plus(header.padded()), crc: Some(header.crc) };
        carry.clear();
        piece = &piece[take..];
    }
    Ok(None)
}

/// Looks at every block of a segment from `offset` on for intact headers of batches of this incarnation, and returns the highest
/// `durable_end` that they attest. A file that does not look used is given up after a while: prepared segments are many.
pub(super) fn attested<D: Disk>(disk: &mut D, found: &Found, offset: u64) -> Result<Lsn, DiskError> {
    let mut best = Lsn(0);
    let mut used = found.header().is_some();
    read_pieces(disk, found.file, offset.max(BLOCK), found.bytes, &mut |at, piece| {
        for block in (0..piece.len()).step_by(BLOCK as usize) {
            let Some(header) = BatchHeader::decode(&piece[block..]) else { continue };
            let place = at + block as u64;
            let start = found.header().map(|h| h.start.plus(place - BLOCK));
            let wrong_place = start.is_some_and(|lsn| lsn != header.lsn);
            used |= header.incarnation == found.incarnation;
            if header.incarnation != found.incarnation || wrong_place || header.durable_end <= best {
                continue;
            }
            // A header that is right is believed in what it says of itself, whatever became of its records.
            if header.check_header(&piece[block..]).is_ok() {
                best = header.durable_end;
            }
        }
        used || at < UNUSED_BYTES
    })?;
    Ok(best)
}
