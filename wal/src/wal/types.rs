//! What the log takes and answers: settings, headers, errors, reports.

use crate::disk::DiskError;

/// A stream of records (one Raft group); the number on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A stream's dense handle in this open log: no hashing after [`Wal::stream`](crate::Wal::stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamSlot(pub u32);

/// Names a write: what was appended under a ticket is durable once [`Wal::durable`](crate::Wal::durable) is at or past it. Tickets are per batch,
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
    /// While a write is under way, a batch smaller than this waits for half the mean time of a write, or for a completion:
    /// a write costs the same CPU whatever its size. It delays nothing while the disk is idle. 0, the default: never wait.
    pub batch_bytes_min: u32,
    /// Largest payload of a record.
    pub payload_bytes_max: u32,
    /// All segment files together, the reserve included. 0: a tenth of the file system, at most 64 GiB.
    pub budget_bytes: u64,
    /// Segments zeroed before the log opens, and kept ready in the background.
    pub segments_ahead: u32,
    /// Segments kept ready at most, prepared or free to be used again; more than that are removed.
    pub segments_ready_max: u32,
    /// Bytes per second that the background may write to move live entries out of old segments. Not a limit when space is
    /// about to end.
    pub reclaim_bytes_per_s: u64,
    /// Streams with more live bytes than this are not rewritten: their owner is asked again to compact them
    /// ([`Wal::poll_pressure`](crate::Wal::poll_pressure)).
    pub rewrite_bytes_max: u64,
    /// How long the owner has, after it was asked, before streams are rewritten; while space is short it has no time.
    pub reclaim_patience_ms: u64,
    /// Reads of the disk under way at once. Further ones wait their turn.
    pub reads_in_flight: u32,
    /// Bytes per second that the scrubber reads at most, to check sealed segments in the background. 0: it is off.
    pub scrub_bytes_per_s: u64,
    /// Seconds from the beginning of one pass of the scrubber to that of the next, at least; the first begins so long after
    /// opening.
    pub scrub_interval_s: u32,
    /// A number that tells this log from others: every segment carries it, and a segment of another log is refused. 0: take
    /// the directory's own; a new log gets one made from `now_nanos`.
    pub log_id: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            writes_in_flight: 4,
            batch_bytes_max: 256 << 10,
            batch_bytes_min: 0,
            payload_bytes_max: 1 << 20,
            budget_bytes: 0,
            segments_ahead: 1,
            segments_ready_max: 8,
            reclaim_bytes_per_s: 64 << 20,
            rewrite_bytes_max: 16 << 20,
            reclaim_patience_ms: 1000,
            reads_in_flight: 64,
            scrub_bytes_per_s: 4 << 20,
            scrub_interval_s: 3600,
            log_id: 0,
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
    /// Entries `first ..= last` of the stream were acknowledged and cannot be read: the bytes are damaged. Called in the order
    /// of the log, in the place of the [`Recovery::entry`] calls that are missing: it replaces the stream from `first` on as
    /// they would have, and comes before every later entry of the stream. They stay members of the log: reads of them answer
    /// [`ReadError::Damaged`], [`Wal::repair`](crate::Wal::repair) fills them, and every open calls this again until they are
    /// filled, replaced or compacted.
    ///
    /// `last == u64::MAX`: the stream is *tainted*. Entries from `first` on, any number of them or none, may have been
    /// acknowledged and lost, and nothing on the disk tells. Called after the last record; each open calls it again until
    /// [`Wal::heal`](crate::Wal::heal).
    fn damaged(&mut self, stream: StreamId, first: u64, last: u64) {
        let _ = (stream, first, last);
    }
    /// An entry that an earlier [`Recovery::damaged`] named, as [`Wal::repair`](crate::Wal::repair) has filled it since. It
    /// replaces nothing behind it. Called in the order of the log: entries behind it have come before.
    fn repaired(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        let _ = (stream, header, payload);
    }
    /// Acknowledged bytes were lost in this place, and nothing says what they were: entries that have come so far may have been replaced
    /// there. Whether any were is told by [`Recovery::damaged`], after the last record. Until then a later record that calls an index
    /// committed may mean what stood in its place.
    fn unknown_lost_here(&mut self) {}
    /// The newest state of the stream may be lost: what [`Recovery::state`] said last, if anything, may be an older one.
    /// Called after the last record; each open calls it again until [`Wal::heal`](crate::Wal::heal).
    fn state_in_doubt(&mut self, stream: StreamId) {
        let _ = stream;
    }
    /// Acknowledged bytes are lost and so is the knowledge whose they were: streams that the log has no record of may have
    /// had some. The owner treats each of its streams that no other call has named as tainted and in doubt (after opening,
    /// [`Wal::is_tainted`](crate::Wal::is_tainted) says so of them). Called after the last record.
    fn streams_unknown(&mut self) {}
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
    /// A segment was written by another version of this software.
    #[error(
        "segment {segment} has format version {found}, this software reads version {supported}. Nothing was changed. \
             Use the version that wrote it"
    )]
    Version {
        /// File name.
        segment: String,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
    /// A file has the name of a segment and is none of this log.
    #[error(
        "{name} does not belong to this log: {why}. Nothing was changed. Move it away, or name another directory"
    )]
    ForeignFile {
        /// File name.
        name: String,
        /// What shows it.
        why: String,
    },
    /// A segment that is needed is not there.
    #[error(
        "segment {segment} is missing, and nothing says that it was reclaimed. Nothing was changed. Restore the file, or \
             replace this node"
    )]
    MissingSegment {
        /// File name.
        segment: String,
    },
    /// Bytes with a valid checksum make no sense: they were written by newer or faulty software.
    #[error(
        "segment {segment}: batch at byte {offset} is intact and cannot be understood ({why}). Nothing was changed"
    )]
    Malformed {
        /// File name.
        segment: String,
        /// Byte offset of the batch.
        offset: u64,
        /// What was found.
        why: String,
    },
    /// The owner cannot read what it wrote as a stream's state.
    #[error(
        "stream {stream}: its state has version {found}, this software reads version {supported}. Use the version that \
             wrote it"
    )]
    State {
        /// The stream.
        stream: u64,
        /// The version found; 0 if there is none.
        found: u8,
        /// Ours.
        supported: u8,
    },
    /// The options contradict each other.
    #[error("the log's options are impossible: {why}")]
    Options {
        /// Which.
        why: String,
    },
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
    /// The index leaves a gap behind the stream's last entry, or was compacted already.
    #[error("entry {index} does not follow: the stream's entries are {first} to {last}")]
    OutOfOrder {
        /// The index offered.
        index: u64,
        /// The stream's first entry.
        first: u64,
        /// The stream's last entry; `first - 1` if there is none.
        last: u64,
    },
    /// A repair of an entry that is not missing.
    #[error("entry {index} of stream {stream} is not damaged: there is nothing to repair")]
    NotDamaged {
        /// The stream.
        stream: u64,
        /// The index offered.
        index: u64,
    },
    /// A repair of an entry that was repaired before and was damaged again: another one would not last either.
    #[error(
        "entry {index} of stream {stream} was repaired and was damaged again: the disk does not keep what is written to it. \
             Replace the disk"
    )]
    RepairInVain {
        /// The stream.
        stream: u64,
        /// The index offered.
        index: u64,
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
    /// As given to [`Wal::read`](crate::Wal::read).
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
    /// The entry was acknowledged, and its bytes were found damaged before: [`Wal::repair`](crate::Wal::repair) fills it.
    #[error(
        "entry {index} of stream {stream} is damaged and was not repaired yet: it has to come from another copy"
    )]
    Damaged {
        /// The stream.
        stream: u64,
        /// The first index that is missing.
        index: u64,
    },
    /// The stored bytes are damaged, and were so when they were read once more. From now on the entry counts as damaged
    /// ([`Wal::poll_damage`](crate::Wal::poll_damage)).
    #[error(
        "segment {segment}: the record at byte {offset} is damaged: {kind} (expected crc {expected_crc:#010x}, found \
             {found_crc:#010x}). The entry has to come from another copy; look at the disk"
    )]
    Corrupt {
        /// What stands there.
        kind: DamageKind,
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

/// Entries of one stream that the running log found damaged: see [`Wal::poll_damage`](crate::Wal::poll_damage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostEntries {
    /// The stream.
    pub stream: StreamSlot,
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// They were repaired before: [`Wal::repair`](crate::Wal::repair) refuses to do it again.
    pub came_back: bool,
    /// Where, and what stands there.
    pub place: Damage,
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
    /// Streams rewritten at the head of the log.
    pub rewrites: u64,
    /// Rewrites given up because the stream was overwritten or compacted meanwhile, or could not be read, or had no room.
    pub rewrites_abandoned: u64,
    /// Rewrites not begun: the stream was too large for the options or for the room. Its owner was asked again.
    pub rewrites_refused: u64,
    /// Bytes written by rewriting.
    pub rewritten_bytes: u64,
    /// Batches that were closed because they were full: the writes in flight were the bottleneck.
    pub batches_full: u64,
    /// Appends refused for want of space.
    pub refused: u64,
    /// Writes repeated after the disk was full.
    pub writes_repeated: u64,
    /// Reads of the disk for entries.
    pub reads: u64,
    /// Marks written.
    pub marks: u64,
    /// Bytes read by the scrubber, passes that it completed, and places that it found damaged.
    pub scrub_bytes: u64,
    /// Headers, seals and marks that it wrote again in their places.
    pub scrub_mended: u64,
    /// See `scrub_bytes`.
    pub scrub_passes: u64,
    /// See `scrub_bytes`.
    pub scrub_damage: u64,
    /// Reads of entries that were repeated because what came was damaged or the device refused.
    pub reads_repeated: u64,
}

/// What opening found, for people and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments read.
    pub segments: u32,
    /// Batches read.
    pub batches: u64,
    /// Records read.
    pub records: u64,
    /// Bytes read in batches.
    pub bytes: u64,
    /// Where a torn tail was cut: file name and byte offset. Nothing of it was ever acknowledged.
    pub cut: Option<(String, u64)>,
    /// Damage to what was acknowledged, in the order of the log.
    pub damage: Vec<Damage>,
}

/// A damaged place of what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File name.
    pub segment: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes that are damaged or cannot be attributed; 0 for a segment's header alone.
    pub bytes: u64,
    /// What stands there.
    pub kind: DamageKind,
    /// The stored checksum, if that is known.
    pub expected_crc: u32,
    /// The checksum of the bytes found.
    pub found_crc: u32,
    /// Entries that are lost with it: stream, first and last index.
    pub entries: Vec<(u64, u64, u64)>,
    /// Streams that lost a state with it, not necessarily their newest one.
    pub states: Vec<u64>,
    /// Whether this is all that is lost. If not, nothing tells what else the place held: streams without a later record may
    /// have lost entries.
    pub is_exact: bool,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { segment, offset, bytes, kind, expected_crc, found_crc, .. } = self;
        write!(f, "segment {segment}: {bytes} bytes at {offset} are damaged: {kind} ")?;
        write!(f, "(expected crc {expected_crc:#010x}, found {found_crc:#010x})")?;
        for (stream, first, last) in &self.entries {
            write!(f, "; stream {stream} lost entries {first} to {last}")?;
        }
        for stream in &self.states {
            write!(f, "; stream {stream} lost a state")?;
        }
        if !self.is_exact {
            write!(f, "; what else it held is not known")?;
        }
        Ok(())
    }
}

/// What stands in a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// Bytes that no longer match their checksum.
    Checksum,
    /// Zeros: the write never arrived.
    LostWrite,
    /// What an earlier use of the file left there: the write never arrived.
    Recycled,
    /// A valid block of this segment that belongs elsewhere: it was written to the wrong place.
    Misdirected,
    /// A valid block for this place that follows another predecessor.
    OtherHistory,
    /// A segment's header; nothing else is lost with it.
    Header,
    /// The seal at the end of a segment; nothing else is lost with it.
    Seal,
    /// A slot of the marks; nothing else is lost with it.
    Mark,
    /// The device cannot read the place (EIO and its like), and could not when asked again.
    Unreadable,
}

impl std::fmt::Display for DamageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DamageKind::Checksum => "the checksum is wrong",
            DamageKind::LostWrite => "zeros, the write was lost",
            DamageKind::Recycled => "bytes of an earlier use of the file, the write was lost",
            DamageKind::Misdirected => "a valid block that belongs elsewhere, misdirected",
            DamageKind::OtherHistory => "a valid block that follows another predecessor",
            DamageKind::Header => "the segment's header, nothing else",
            DamageKind::Seal => "the segment's seal, nothing else",
            DamageKind::Mark => "a mark, nothing else",
            DamageKind::Unreadable => "the device cannot read it",
        })
    }
}
