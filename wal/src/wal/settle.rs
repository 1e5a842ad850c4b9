//! What opening read back is made durable before anybody acts on it: it may have come from caches.
//!
//! As a rule by flushing every file. A file system that is full may refuse even that, and a flush that failed is not asked again: it
//! may have dropped what it could not write. But little depends on it. What the log itself attests to be durable is so, and
//! the rest, which is what was under way when the last process ended, was just read: the same bytes are written once more at
//! the same place, as everywhere when space is short.

use super::follow::Replay;
use super::recovery::Listing;
use super::scan::{perform, read_around};
use super::space::Segment;
use super::tail::{PIECE_BYTES, write_piece};
use crate::disk::{Disk, DiskError, Op};
use crate::format::BLOCK;

/// Makes everything that was read durable. Fails for want of space only if even writing in place finds none.
pub(super) fn settle<D: Disk>(disk: &mut D, listing: &Listing, replay: &Replay) -> Result<(), DiskError> {
    let mut refused = false;
    for found in &listing.segments {
        match perform(disk, Op::Sync { file: found.file }) {
            Err(error) if error.is_out_of_space() => refused = true,
            other => drop(other?),
        }
    }
    // Names are durable before anything is written under them: a full disk may refuse this without harm.
    match perform(disk, Op::SyncDir) {
        Err(error) if error.is_out_of_space() => {}
        other => drop(other?),
    }
    if refused {
        tracing::warn!("the file system has no space to flush: what nothing attests is written once more");
        for segment in &replay.kept {
            write_again(disk, segment, replay)?;
        }
    }
    Ok(())
}

/// Writes the part of a segment that nothing attests to be durable once more in its place, its first block included.
fn write_again<D: Disk>(disk: &mut D, segment: &Segment, replay: &Replay) -> Result<(), DiskError> {
    let attested = replay.durable_end;
    if segment.end <= attested {
        return Ok(());
    }
    let head = (attested <= segment.start).then_some((0, BLOCK));
    let (from, to) = (segment.offset(attested.max(segment.start)), segment.offset(segment.end));
    let pieces = (from..to).step_by(PIECE_BYTES).map(|at| (at, (to - at).min(PIECE_BYTES as u64)));
    for (offset, len) in head.into_iter().chain(pieces) {
        let bytes = read_around(disk, segment.file, offset, len)?;
        write_piece(disk, segment.file, offset, &bytes)?;
    }
    Ok(())
}
