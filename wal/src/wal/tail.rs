//! The last segment of an unclean shutdown, moved: writing always starts in a fresh file, and without this every restart
//! would leave a mostly empty one behind.

use super::scan::{Chain, Found, perform, scan_segment};
use super::space::capacity;
use super::{OpenError, Wal};
use crate::disk::{Disk, DiskError, Done, FileId, Op};
use crate::format::{BLOCK, BatchHeader, Incarnation, Lsn, SegmentHeader};

/// Bytes of one write.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Moves the batches of the last segment, if they fill at most half of one, to the front of the next prepared file and makes
/// that the active segment. Positions stay what they were. The batches are durable before the header that makes the file
/// count: until then the old segment is the one that counts. Returns whether it was done; a full disk is no error.
pub(super) fn move_tail<D: Disk>(wal: &mut Wal<D>, segments: &[Found]) -> Result<bool, OpenError> {
    let (Some(prepared), Some(last)) = (wal.segments.next_prepared(), wal.segments.last()) else {
        return Ok(false);
    };
    let (start, end, incarnation) = (last.start, last.end, last.incarnation);
    let len = end.since(start);
    // What is left must do for the log's own needs and some votes.
    if len + 2 * BLOCK > capacity(prepared.bytes) / 2 {
        return Ok(false);
    }
    let Some(found) = segments.iter().find(|f| f.incarnation == incarnation) else { return Ok(false) };
    // What is damaged stays where it is.
    if found.rebuilt.is_some() || wal.recovered.damage.iter().any(|d| d.segment == found.name()) {
        return Ok(false);
    }
    let Some(old) = found.header().copied() else { return Ok(false) };
    let predecessor = wal.segments.before_last();
    let mut header = SegmentHeader {
        log_id: wal.log_id,
        incarnation: prepared.incarnation,
        segment_bytes: prepared.bytes,
        start,
        predecessor,
        previous_crc: old.previous_crc,
        durable_end: wal.durable_end,
        first_live: match predecessor {
            Incarnation::NONE => prepared.incarnation,
            _ => wal.segments.first_incarnation().unwrap_or(prepared.incarnation),
        },
        trim: wal.reclaim.trimmed_at,
        crc: 0,
    };
    let mut block = vec![0; BLOCK as usize];
    header.crc = header.encode(&mut block);
    let Some((bytes, chain)) = resealed(&mut wal.disk, found, &old, &header, end)? else { return Ok(false) };
    match write(&mut wal.disk, prepared.file, &bytes, &block) {
        Ok(()) => {}
        Err(error) if error.is_out_of_space() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    wal.segments.replace_last(prepared, header, end);
    wal.chain = chain;
    Ok(true)
}

/// The batches of a segment as they look under another header, and the end of their chain; `None` if they do not read any more.
fn resealed<D: Disk>(
    disk: &mut D,
    found: &Found,
    old: &SegmentHeader,
    new: &SegmentHeader,
    end: Lsn,
) -> Result<Option<(Vec<u8>, u32)>, OpenError> {
    let mut bytes: Vec<u8> = Vec::with_capacity(end.since(old.start) as usize);
    let mut crc = new.crc;
    let mut chain = Chain { lsn: old.start, crc: Some(old.crc) };
    let mut on_batch = |batch: &BatchHeader, source: &[u8], _: u64| -> Result<(), OpenError> {
        let at = bytes.len();
        bytes.extend_from_slice(&source[..batch.padded() as usize]);
        let moved = BatchHeader { incarnation: new.incarnation, previous_crc: crc, ..*batch };
        crc = moved.seal(&mut bytes[at..]);
        Ok(())
    };
    let damage = scan_segment(disk, found, old, Some(end), &mut chain, &mut on_batch)??;
    if let Some(damage) = damage {
        // It was intact a moment ago, and has been taken: it stays where it is, for the scrubber to find.
        tracing::error!(
            segment = found.name(),
            damage.offset,
            "a batch that was read a moment ago is damaged"
        );
        return Ok(None);
    }
    Ok(Some((bytes, crc)))
}

fn write<D: Disk>(disk: &mut D, file: FileId, batches: &[u8], header: &[u8]) -> Result<(), DiskError> {
    for (number, piece) in batches.chunks(PIECE_BYTES).enumerate() {
        write_piece(disk, file, BLOCK + (number * PIECE_BYTES) as u64, piece)?;
    }
    perform(disk, Op::Sync { file })?;
    write_piece(disk, file, 0, header)
}

pub(super) fn write_piece<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    piece: &[u8],
) -> Result<(), DiskError> {
    let mut buffer = disk.buffer(piece.len());
    buffer.as_mut_slice()[..piece.len()].copy_from_slice(piece);
    let len = piece.len() as u32;
    let written = perform(disk, Op::Write { file, offset, buffer, len, durable: true })?;
    if let Some(buffer) = written.buffer {
        disk.recycle(buffer);
    }
    match written.result {
        Ok(Done::Transferred(bytes)) if bytes == len => Ok(()),
        _ => Err(DiskError { op: "write", name: String::new(), offset: Some(offset), errno: libc::ENOSPC }),
    }
}
