//! The disk: the `Disk` trait, the ring, the shared log, group commit. Knows bytes, not Raft.
//!
//! Skeleton; the module documentation comes with the implementation.

mod disk;
mod wal;

pub use disk::{ALIGNMENT, Buffer, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};
pub use wal::{
    AppendError, EntryHeader, Health, OpenError, Options, ReadDone, ReadError, Recovery, Space, Stats,
    StreamId, StreamSlot, Ticket, Wal,
};
