//! The log of one core, shared by all its streams. Skeleton of the interface.

use crate::disk::{Disk, DiskError};

/// A stream of records (one Raft group); the number on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A stream's dense handle in this open log: no hashing after [`Wal::stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamSlot(pub u32);

/// Names a write: what was appended under a ticket is durable once [`Wal::durable`] is at or past it. Tickets are per batch,
/// consecutive, and become durable in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What an entry record carries beside its payload. `tag` and `note` are the owner's: logdrive keeps the term in `tag` and
/// `kind`-and-commit in `note`; the log compares neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Position in the stream. Writing an index at or below the last one replaces the stream's log from there on.
    pub index: u64,
    /// The owner's.
    pub tag: u64,
    /// The owner's.
    pub note: u64,
}

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Durable writes under way at once.
    pub writes_in_flight: u32,
    /// A batch is closed at this size (one record may make it larger).
    pub batch_bytes_max: u32,
    /// Largest payload of a record.
    pub payload_bytes_max: u32,
    /// All segment files together, the reserve included. 0: a tenth of the file system, at most 64 GiB.
    pub budget_bytes: u64,
    /// Segments zeroed before the log opens, and kept ready in the background.
    pub segments_ahead: u32,
    /// Bytes of the entry cache are the owner's business; this bounds reads under way.
    pub reads_in_flight: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            writes_in_flight: 4,
            batch_bytes_max: 256 << 10,
            payload_bytes_max: 1 << 20,
            budget_bytes: 0,
            segments_ahead: 1,
            reads_in_flight: 64,
        }
    }
}

/// Receives the recovered records in log order, while the log opens. A record at or below an index seen before replaces the
/// stream from there on.
pub trait Recovery {
    /// An entry.
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]);
    /// A state blob; the last one counts.
    fn state(&mut self, stream: StreamId, state: &[u8]);
    /// Entries up to `index` are not needed any more.
    fn compacted(&mut self, stream: StreamId, index: u64);
    /// So many bytes of so many are read, for progress.
    fn progress(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }
}

/// Why a log did not open. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(#[from] DiskError),
    /// Bytes that were acknowledged are damaged. Nothing was truncated.
    #[error(
        "segment {segment}: damaged at byte {offset} (expected crc {expected_crc:#010x}, found {found_crc:#010x}), \
             below {durable_end}, which was durable: acknowledged data is damaged. Nothing was changed. Replace this \
             node, or restore the file from the same disk"
    )]
    Corrupt {
        /// File name.
        segment: String,
        /// Byte offset in it.
        offset: u64,
        /// The stored checksum.
        expected_crc: u32,
        /// The checksum of the bytes found.
        found_crc: u32,
        /// The exclusive end of the prefix known durable.
        durable_end: u64,
    },
    // More: Locked { by }, ForeignFile { name }, Version { found, supported }, OutOfSpace { .. }, Ring { .. } ...
}

/// Why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk budget or the disk is used up.
    #[error("the log is out of space: {used} of {budget} bytes are used")]
    OutOfSpace {
        /// Bytes in segments.
        used: u64,
        /// The budget.
        budget: u64,
    },
    /// The payload is larger than `payload_bytes_max`.
    #[error("a payload of {bytes} bytes is larger than the limit of {limit}")]
    PayloadTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A write or sync failed: nothing later will be acknowledged. Restart is recovery.
    #[error("the log is poisoned: {0}")]
    Poisoned(DiskError),
}

/// Space, for limits and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of segment files in use (not counting ready ones).
    pub used_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Runs.
    Running,
    /// A write met a full disk; it is repeated at the same place until it succeeds. Reads go on.
    OutOfSpace,
    /// A write or sync failed.
    Poisoned(DiskError),
}

/// A read that ended: entries in order from the first asked for; fewer than asked if `bytes_max` was reached.
#[derive(Debug)]
pub struct ReadDone {
    /// As given to [`Wal::read`].
    pub token: u64,
    /// Headers and payloads, or why not (damage is named).
    pub result: Result<Vec<(EntryHeader, Vec<u8>)>, ReadError>,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Not in the log (compacted, replaced meanwhile, or never written).
    #[error("index {index} is not in the log")]
    NotFound {
        /// The first missing index.
        index: u64,
    },
    /// The stored bytes are damaged.
    #[error(
        "segment {segment}: record at byte {offset} is damaged (expected crc {expected_crc:#010x}, found {found_crc:#010x})"
    )]
    Corrupt {
        /// File name.
        segment: String,
        /// Byte offset in it.
        offset: u64,
        /// The stored checksum.
        expected_crc: u32,
        /// The checksum of the bytes found.
        found_crc: u32,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
}

/// Counters since open, for metrics and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Durable writes completed.
    pub writes: u64,
    /// Bytes written by them, padding included.
    pub write_bytes: u64,
    /// Records appended.
    pub records: u64,
    /// Sum of the latencies of writes, in nanoseconds, and the age of the oldest one in flight is asked separately.
    pub write_nanos: u64,
    /// Segments created by writing zeros.
    pub segments_created: u64,
    /// Segments recycled.
    pub segments_recycled: u64,
}

/// The log. Skeleton.
pub struct Wal<D: Disk> {
    _disk: D,
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl<D: Disk> Wal<D> {
    /// Opens (or creates, if the directory is empty) the log of a disk: reads everything back into `recovery`, flushes what
    /// was read, prepares a fresh segment. Blocks on [`Disk::wait`]; a start-up operation.
    pub fn open(
        disk: D,
        options: Options,
        now_nanos: u64,
        recovery: &mut dyn Recovery,
    ) -> Result<Wal<D>, OpenError> {
        todo!()
    }
    /// The handle of a stream, made if it is new. Hashes; once per stream.
    pub fn stream(&mut self, id: StreamId) -> StreamSlot {
        todo!()
    }

    // -- writing: into the open batch ---------------------------------------------------------------------------------
    /// Copies an entry into the open batch. An entry without payload is vital, as a state is (the no-op of a new leader:
    /// reads go on when space is used up): the reserve may be used. What [`Wal::admit`] let in is not refused.
    pub fn append(
        &mut self,
        stream: StreamSlot,
        header: EntryHeader,
        payload: &[u8],
    ) -> Result<Ticket, AppendError> {
        todo!()
    }
    /// Copies the stream's state into the open batch (vital: the reserve may be used).
    pub fn put_state(&mut self, stream: StreamSlot, state: &[u8]) -> Result<Ticket, AppendError> {
        todo!()
    }
    /// Entries up to `index` are not needed any more.
    pub fn compact(&mut self, stream: StreamSlot, index: u64) -> Result<Ticket, AppendError> {
        todo!()
    }
    /// Submits closed and open batches while fewer than `writes_in_flight` are under way; otherwise the open batch goes on
    /// growing. Once per turn.
    pub fn submit(&mut self, now_nanos: u64) {
        todo!()
    }
    /// Takes the disk's completions; returns whether [`Wal::durable`] moved, a read ended or the health changed.
    pub fn poll(&mut self, now_nanos: u64) -> bool {
        todo!()
    }
    /// Ticket of the last record appended: what is parked now waits for this. `Ticket(0)` is durable from the start.
    pub fn last_ticket(&self) -> Ticket {
        todo!()
    }
    /// Everything up to this ticket is durable, in order.
    pub fn durable(&self) -> Ticket {
        todo!()
    }
    /// Bytes waiting in batches that are not submitted: the owner stops taking input above a bound of its own.
    pub fn backlog_bytes(&self) -> u64 {
        todo!()
    }
    /// Whether entries of `bytes` together (payloads plus 64 for each entry's header) would be taken now; the owner asks
    /// before it lets a proposal in.
    pub fn admit(&self, bytes: u64) -> Result<(), AppendError> {
        todo!()
    }

    // -- reading ------------------------------------------------------------------------------------------------------
    /// Begins to read entries `first ..= last` of a stream (written ones, durable or not), at most `bytes_max` but at least one.
    pub fn read(&mut self, token: u64, stream: StreamSlot, first: u64, last: u64, bytes_max: u32) {
        todo!()
    }
    /// A read that ended.
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        todo!()
    }

    // -- questions ----------------------------------------------------------------------------------------------------
    pub fn health(&self) -> &Health {
        todo!()
    }
    pub fn space(&self) -> Space {
        todo!()
    }
    pub fn stats(&self) -> Stats {
        todo!()
    }
    /// The exclusive end (LSN, bytes) of the prefix known durable: peers remember it.
    pub fn durable_end(&self) -> u64 {
        todo!()
    }
    /// When the oldest write under way was submitted, and when the last one completed (nanoseconds of the caller's clock):
    /// the disk's part of liveness.
    pub fn oldest_write_nanos(&self) -> Option<u64> {
        todo!()
    }
    pub fn disk(&mut self) -> &mut D {
        todo!()
    }
    /// Writes what is open, waits until all is durable, syncs, and closes. Blocks; for a clean shutdown.
    pub fn close(self, now_nanos: u64) -> Result<(), DiskError> {
        todo!()
    }
}
