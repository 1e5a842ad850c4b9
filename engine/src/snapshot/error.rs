//! What can be wrong with a snapshot, said with file, place and what to do.

use logdrive_shard::{GroupId, InvalidMembership, SessionFormatError};
use logdrive_wal::DiskError;

use super::types::SnapshotId;

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot {file} at offset {offset}: {kind}")]
pub struct Damage {
    /// Its name.
    pub file: String,
    /// Where in it: the beginning of the header or chunk that is wrong.
    pub offset: u64,
    /// What.
    pub kind: DamageKind,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// The file's length is not the one that its header names.
    #[error("the file has {found} bytes and should have {expected}")]
    Length {
        /// By the header.
        expected: u64,
        /// Of the file.
        found: u64,
    },
    /// The file does not begin as a snapshot does.
    #[error("this is not the header of a snapshot")]
    Magic,
    /// Of another version of the format. The file may be good.
    #[error("format version {found}, this software reads version {}", super::format::VERSION)]
    Version {
        /// The file's.
        found: u32,
    },
    /// The header is not the one that was written.
    #[error("the header is damaged (expected crc {expected:#010x}, found {found:#010x})")]
    HeaderCrc {
        /// By what is in it.
        expected: u32,
        /// In it.
        found: u32,
    },
    /// Numbers that no writer writes.
    #[error("the header contradicts itself or its limits: {field}")]
    Header {
        /// Where.
        field: &'static str,
    },
    /// The name is that of another snapshot.
    #[error("the header is that of another snapshot than the name says")]
    Name,
    /// A chunk is not the one that was written.
    #[error("chunk {chunk} is damaged (expected crc {expected:#010x}, found {found:#010x})")]
    ChunkCrc {
        /// Which.
        chunk: u64,
        /// By what is in it.
        expected: u32,
        /// In it.
        found: u32,
    },
    /// A good chunk, of another snapshot.
    #[error("chunk {chunk} belongs to snapshot {found:016x} and not to {expected:016x}")]
    ChunkOfOther {
        /// Which place.
        chunk: u64,
        /// The file's snapshot.
        expected: u64,
        /// The chunk's.
        found: u64,
    },
    /// A good chunk of this snapshot, in another one's place.
    #[error("in the place of chunk {chunk} is chunk {found}, which belongs at offset {offset}")]
    ChunkPlace {
        /// Which place.
        chunk: u64,
        /// Which chunk.
        found: u64,
        /// Where it says that it belongs.
        offset: u64,
    },
    /// A chunk of another length than its place.
    #[error("chunk {chunk} has {found} bytes and should have {expected}")]
    ChunkLength {
        /// Which.
        chunk: u64,
        /// By the header.
        expected: u64,
        /// By the chunk.
        found: u64,
    },
    /// All chunks are good by themselves, and not as a whole.
    #[error("the whole is damaged (expected crc {expected:#010x} over the {what}, found {found:#010x})")]
    Total {
        /// Chunks or content.
        what: &'static str,
        /// By the header.
        expected: u32,
        /// Of what is there.
        found: u32,
    },
    /// A compressed block is none.
    #[error("in chunk {chunk} is a compressed block that cannot be read")]
    Block {
        /// Where the block ends, or should.
        chunk: u64,
    },
    /// The device cannot read it.
    #[error("it cannot be read: {}", std::io::Error::from_raw_os_error(*errno))]
    Unreadable {
        /// errno of the failure.
        errno: i32,
    },
    /// The bytes are those that were written, and are no configuration.
    #[error("the configuration in the header is none: {0}")]
    Membership(InvalidMembership),
    /// The bytes are those that were written, and are no sessions.
    #[error("the sessions are none: {0}")]
    Sessions(SessionFormatError),
    /// There is more or less content than the header says.
    #[error("the content has {found} bytes and should have {expected}")]
    ContentLength {
        /// By the header.
        expected: u64,
        /// So far.
        found: u64,
    },
}

/// The directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotOpenError {
    /// An operation failed.
    #[error(
        "the snapshots in {root} cannot be opened: {source}; check the device and the permissions, then start again"
    )]
    Disk {
        /// The directory.
        root: String,
        /// Which operation, and how.
        source: DiskError,
    },
    /// Settings that cannot be.
    #[error("snapshot setting {setting} is {value}: {rule}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it is.
        value: u64,
        /// What it should be.
        rule: &'static str,
    },
}

/// A group has snapshots and none of them is good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "group {} has no good snapshot in life {life}: {}; if its log does not begin at 1 it must get one from its leader. \
     `logdrive snapshot verify` lists all damage",
    group.0,
    damages.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
)]
pub struct NoGoodSnapshot {
    /// Which group.
    pub group: GroupId,
    /// In which life.
    pub life: u32,
    /// What is wrong with each of its files.
    pub damages: Vec<ReadFailure>,
}

/// A write, reception or read cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// As many as may be are under way.
    #[error("{under_way} {what} are under way, which is the limit ({setting}): try again when one has ended")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        under_way: u32,
        /// The setting that says so.
        setting: &'static str,
    },
    /// The file system is too full.
    #[error(
        "{root} has {free} bytes free, the snapshot needs {needed} and {reserve} are kept in reserve: make room, or lower \
         snapshots_kept"
    )]
    NoSpace {
        /// The directory.
        root: String,
        /// Bytes that the file will have, as far as is known.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// `space_reserve_bytes`.
        reserve: u64,
    },
    /// A configuration longer than a header.
    #[error("a configuration of {bytes} bytes does not fit the header, which has room for {max}")]
    Membership {
        /// Its bytes.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// More sessions than a table can have.
    #[error("sessions of {bytes} bytes: no table has more than {max}")]
    Sessions {
        /// Their bytes.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// What the peer sent is not the header of a snapshot.
    #[error("the header that was received cannot be used: {0}")]
    Header(DamageKind),
    /// This snapshot is here and complete.
    #[error("snapshot {:016x} is here already", .0.0)]
    Here(SnapshotId),
    /// There is no such snapshot, or it is damaged.
    #[error("snapshot {:016x} is not among those that can be read", .0.0)]
    Gone(SnapshotId),
}

/// A file was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFailure {
    /// An operation failed. What was written is given up: a failed write or sync is never tried again.
    #[error(
        "writing a snapshot failed: {0}; its file is removed, older snapshots and the log are as they were"
    )]
    Disk(DiskError),
    /// A write came out shorter than it was asked.
    #[error(
        "writing a snapshot failed: of {asked} bytes at {offset} of {file} only {written} were written; its file is removed. Is \
         the disk full?"
    )]
    Short {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// How many bytes were to be written.
        asked: u32,
        /// How many were.
        written: u32,
    },
    /// The file system ran full.
    #[error(
        "writing snapshot {file} stopped at {offset}: {free} bytes are free and {reserve} are kept in reserve; its file is \
         removed. Make room, or lower snapshots_kept"
    )]
    NoSpace {
        /// Which file.
        file: String,
        /// Bytes that were written.
        offset: u64,
        /// Bytes free.
        free: u64,
        /// `space_reserve_bytes`.
        reserve: u64,
    },
    /// What was received is not what its header says.
    #[error(
        "a received snapshot is not used: {0}; its file is removed. Fetch it again, from another member if there is one"
    )]
    Damaged(Damage),
    /// The owner gave it up.
    #[error("writing the snapshot was given up")]
    Aborted,
}

impl WriteFailure {
    /// Whether the disk is full (or a quota, or the reserve is reached).
    pub fn is_out_of_space(&self) -> bool {
        match self {
            WriteFailure::Disk(error) => error.is_out_of_space(),
            WriteFailure::NoSpace { .. } => true,
            _ => false,
        }
    }
}

/// A chunk was not taken. The reception goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The reception is over, or never was.
    #[error("nothing is being received under this number")]
    Unknown,
    /// The chunk is of another snapshot.
    #[error("a chunk of snapshot {:016x} does not belong to snapshot {:016x}", found.0, expected.0)]
    OtherSnapshot {
        /// The one that is being received.
        expected: SnapshotId,
        /// The chunk's.
        found: SnapshotId,
    },
    /// The file has no such chunk.
    #[error("there is no chunk {number} in a file of {chunks} chunks")]
    NoSuchChunk {
        /// Its number.
        number: u64,
        /// How many there are.
        chunks: u64,
    },
    /// The bytes are not those of the chunk.
    #[error("the chunk that was received is not used: {0}")]
    Damaged(DamageKind),
}

/// A file cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFailure {
    /// An operation failed.
    #[error("reading a snapshot failed: {0}; the file is not used until the next start")]
    Disk(DiskError),
    /// The file is not what was written.
    #[error(
        "{0}; the file is not used: an older one with the log behind it takes its place, or one from the leader. `logdrive \
         snapshot verify` lists all damage"
    )]
    Damaged(Damage),
}

/// There is nothing under way under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing of snapshots is under way under number {0}")]
pub struct UnknownId(pub u64);
