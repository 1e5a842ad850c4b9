//! Bugs that others have shipped, to be compiled in one at a time (`--cfg mutant_<name>`, or see `build.rs`): with any of them the
//! tests must fail. All are off, and gone, in a normal build.

/// A write or sync that failed is tried again, and what it says then is believed (cockroach#37102).
pub(crate) const FAILED_WRITE_REPEATED: bool = cfg!(mutant_failed_write_repeated);
/// What is complete in a new segment is acknowledged while writes to the old one are under way (raft-engine#219).
pub(crate) const OLD_SEGMENT_UNSYNCED: bool = cfg!(mutant_old_segment_unsynced);
/// A segment is used before its name in the directory is durable (etcd#6368).
pub(crate) const DIRECTORY_UNSYNCED: bool = cfg!(mutant_directory_unsynced);
/// A damaged batch is taken for the end of the log, whatever attests that it was durable (FAST'18).
pub(crate) const CUT_ACKNOWLEDGED: bool = cfg!(mutant_cut_acknowledged);
/// Batches do not name their predecessors. (Only where a segment is gone on with can one follow another than it was written behind, and what
/// is left there is erased: that is left out as well.)
pub(crate) const UNCHAINED: bool = cfg!(mutant_unchained);
/// What recovery read is not flushed before it is used.
pub(crate) const RECOVERY_UNFLUSHED: bool = cfg!(mutant_recovery_unflushed);
/// The file of an empty last segment is used again before the next one's header is durable: a tail that was cut comes back.
pub(crate) const EMPTY_SEGMENT_RECYCLED: bool = cfg!(mutant_empty_segment_recycled);
/// Copies of a stream that is rewritten count one by one, and not all together with the end record (raft-engine#288).
pub(crate) const REWRITE_NOT_ATOMIC: bool = cfg!(mutant_rewrite_not_atomic);
/// Segments are given up although the compaction of a stream is said only there: what it buried comes back.
pub(crate) const TOMBSTONES_LOST: bool = cfg!(mutant_tombstones_lost);
/// What a trim record relies on may still be on its way when it is written.
pub(crate) const TRIM_UNSETTLED: bool = cfg!(mutant_trim_unsettled);
