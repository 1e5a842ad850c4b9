//! The places of a core that a simulator may make do their worst; see [`logdrive_wal::Buggify`]. What strikes is always something that the
//! settings or the load could bring about as well.

use logdrive_wal::{Disk, Point};

use super::step::Io;

/// A slice of a snapshot has one byte, or as little as there can be.
pub(super) const TINY_SLICE: Point = Point("slices of snapshots of one byte");
/// The cache gives up its oldest chunk although there is room.
pub(super) const CACHE_EMPTIED: Point = Point("cached entries given up");
/// A turn applies one entry, whatever waits.
pub(super) const APPLY_ONE: Point = Point("one entry applied in a turn");
/// A turn sends one part of a snapshot at most.
pub(super) const ONE_PART: Point = Point("one part of a snapshot in a turn");

impl<D: Disk> Io<D> {
    /// Whether the place is to do its worst this time.
    #[inline(always)]
    pub(super) fn strikes(&mut self, point: Point) -> bool {
        self.wal.disk().strikes(point)
    }
}
