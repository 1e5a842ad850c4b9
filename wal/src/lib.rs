//! The disk: the `Disk` trait, the ring, the shared log, group commit. Knows bytes, not Raft.
//!
//! Skeleton; the module documentation comes with the implementation.

mod buffer;
mod disk;
mod format;
mod index;
mod ring;
mod sim;
mod wal;

pub use buffer::Buffer;
pub use disk::{ALIGNMENT, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};
pub use ring::{DiskFacts, RingDisk, RingError, RingOptions};
pub use sim::{Fault, FaultKind, OpKind, SimDisk, SimOptions, SimPlatter};
pub use wal::{
    AppendError, EntryHeader, Health, OpenError, Options, ReadDone, ReadError, Recovered, Recovery, Space,
    Stats, StreamId, StreamSlot, Ticket, Wal,
};
