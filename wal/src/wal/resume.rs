//! Opening on a disk that has no room for another segment, and none to spare.
//!
//! Writing starts in a fresh segment as a rule: its header makes the end that was found final. Where no file can be had for that, the
//! log would have no place for the compactions that free its own segments, and would stay full for ever. So it goes on in its last
//! segment, right behind the end that was found. That is sound, only less simple:
//!
//! - What lies there may be a torn batch, or whole ones behind a torn one. They were never acknowledged, and are overwritten with
//!   zeros first: else a later reader that finds the batch before them damaged might follow them.
//! - A write of a dead process may land there late. The lock of the directory is not given away before the last of them has ended
//!   (see [`crate::RingDisk`]), and what a disk may have kept back was flushed just now.
//!
//! Not done where the segment is damaged or lost its header: its place in the chain is not known well enough.

use super::Wal;
use super::scan::Found;
use super::space::Segment;
use super::tail::{PIECE_BYTES, write_piece};
use crate::disk::{Disk, DiskError};
use crate::format::{HeaderBlock, Incarnation};
use crate::mutant;

/// Makes the last segment the active one. False if that cannot be done.
pub(super) fn resume_last<D: Disk>(wal: &mut Wal<D>, segments: &[Found]) -> Result<bool, DiskError> {
    // A file that waits to be used, or a later segment that was cut away, means that there is something better.
    if wal.segments.is_active() || wal.segments.prepared_count() > 0 || !wal.segments.spares.is_empty() {
        return Ok(false);
    }
    let sound = |incarnation: Incarnation| {
        let found = segments.iter().find(|found| found.incarnation == incarnation)?;
        let damaged = wal.recovered.damage.iter().any(|damage| damage.segment == found.name());
        match &found.head {
            HeaderBlock::Header(header) if found.rebuilt.is_none() && !damaged => Some((*header, found)),
            _ => None,
        }
    };
    // Segments without a batch are still there: the newest one says where the log ends.
    let mut held: Vec<Incarnation> = segments.iter().map(|found| found.incarnation).collect();
    held.retain(|incarnation| wal.segments.held.iter().any(|spare| spare.name == incarnation.file_name()));
    if let Some(newest) = held.last() {
        let Some((header, _)) = sound(*newest) else { return Ok(false) };
        if held.iter().any(|&incarnation| sound(incarnation).is_none()) || header.start != wal.next_lsn {
            return Ok(false);
        }
        let files: Vec<_> = held.iter().filter_map(|&incarnation| sound(incarnation)).collect();
        let (start, chain) = (wal.next_lsn, header.crc);
        let files: Vec<_> =
            files.iter().map(|(_, found)| (found.incarnation, found.file, found.bytes)).collect();
        for (incarnation, file, bytes) in files {
            wal.segments.push(Segment::empty(incarnation, file, bytes, start));
        }
        wal.segments.held.clear();
        wal.chain = chain;
    } else if sound(wal.segments.last_incarnation()).is_none() {
        return Ok(false);
    }
    let resumed = wal.segments.resume() && erase_rest(wal)?;
    if resumed {
        tracing::warn!(
            "no room for another segment: the log goes on in its last one, for compactions and votes"
        );
    } else {
        wal.segments.suspend();
    }
    Ok(resumed)
}

/// Writes zeros from the end of the active segment to the end of its file. False if even that finds no room.
fn erase_rest<D: Disk>(wal: &mut Wal<D>) -> Result<bool, DiskError> {
    let Some(last) = wal.segments.last() else { return Ok(false) };
    if mutant::UNCHAINED {
        return Ok(true);
    }
    let (file, from, to) = (last.file, last.offset(last.end), last.bytes);
    let zeros = vec![0; PIECE_BYTES];
    for offset in (from..to).step_by(PIECE_BYTES) {
        let len = (to - offset).min(PIECE_BYTES as u64) as usize;
        match write_piece(&mut wal.disk, file, offset, &zeros[..len]) {
            Ok(()) => {}
            Err(error) if error.is_out_of_space() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
