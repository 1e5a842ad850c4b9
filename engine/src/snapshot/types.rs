//! The words of the store.

use logdrive_shard::{GroupId, LogIndex, Term};

use super::error::{ReadFailure, WriteFailure};

/// Names one snapshot file among all that were ever written, on all nodes: chosen when it is begun, the same in the file, its name
/// and every chunk, and kept when it is copied to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// A file that is being written or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub(super) u64);

/// A file that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub(super) u64);

/// What a snapshot is of: everything but the state itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Whose.
    pub group: GroupId,
    /// The life of the group on this node, which each has a stream of the log of its own.
    pub life: u32,
    /// The last entry that is in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The index of the entry that brought the configuration; 0 for the first one of a group.
    pub membership_index: LogIndex,
    /// The configuration at `index`, as [`logdrive_shard::Membership::encode`] writes it.
    pub membership: Vec<u8>,
    /// The sessions at `index`, as their table writes itself.
    pub sessions: Vec<u8>,
}

/// What the content of a file goes through on its way to the chunks.
///
/// LZ4 and not zstd: a core writes snapshots beside its consensus, and what compression takes it takes from that. LZ4 is several
/// times as fast for somewhat longer files, and there is an implementation without C and without `unsafe` (`lz4_flex`). Off by default: disks are
/// larger than cores are fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// As it is.
    #[default]
    Off,
    /// Blocks of LZ4.
    Lz4,
}

/// Settings of a core's store. Every bound that was hit is counted in [`StoreStats`].
#[derive(Clone, Debug)]
pub struct SnapshotFileSettings {
    /// Bytes of a chunk in the file, its head included: a multiple of 4096, from 4 KiB to 16 MiB.
    pub chunk_bytes: u32,
    /// How new files are compressed. Files are read however they are compressed.
    pub compression: Compression,
    /// Snapshots of a group's life that are kept beside the newest one.
    pub snapshots_kept: u32,
    /// Bytes per second that are written to disk, by all writes and receptions together; 0: no limit.
    pub snapshot_bytes_per_s: u64,
    /// Bytes of the file system that snapshots leave to others.
    pub space_reserve_bytes: u64,
    /// Files being written at once.
    pub writes_max: u32,
    /// Files being received at once.
    pub receives_max: u32,
    /// Files being read at once.
    pub reads_max: u32,
    /// Sets the ids of this process's snapshots apart from those of all others: a random number, another one at each start.
    pub id_seed: u64,
}

impl Default for SnapshotFileSettings {
    fn default() -> SnapshotFileSettings {
        SnapshotFileSettings {
            chunk_bytes: 256 << 10,
            compression: Compression::Off,
            snapshots_kept: 1,
            snapshot_bytes_per_s: 0,
            space_reserve_bytes: 64 << 20,
            writes_max: 4,
            receives_max: 8,
            reads_max: 16,
            id_seed: 0,
        }
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Snapshots with a good header, of all groups.
    pub snapshots: u64,
    /// Files that were being written when the process ended, and are removed.
    pub half_written: Vec<String>,
    /// Files that were being received, and are gone on with if they are offered again.
    pub half_received: Vec<String>,
    /// Files that are not used. They stay until a newer snapshot of their group is durable.
    pub damaged: Vec<ReadFailure>,
}

/// What happened to what was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// Written or received, verified if received, and durable with its name.
    Durable {
        /// What was begun.
        write: WriteId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// It failed. Its temporary file is gone, all else is as it was.
    WriteFailed {
        /// What was begun.
        write: WriteId,
        /// Why.
        failure: WriteFailure,
    },
    /// A write that took less than it was given, or a reception that took nothing, has room again.
    Writable {
        /// Which.
        write: WriteId,
    },
    /// There is a part to be had, see [`super::SnapshotStore::read_part`].
    Readable {
        /// Of which read.
        read: ReadId,
    },
    /// A chunk as it is in the file, checked.
    Chunk {
        /// For which read.
        read: ReadId,
        /// Its number.
        number: u64,
        /// All of it, its head and its padding.
        bytes: Vec<u8>,
    },
    /// The file cannot be read and is not offered any more. The read is over.
    ReadFailed {
        /// Which read.
        read: ReadId,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Why.
        failure: ReadFailure,
    },
}

/// The next part of what a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPart {
    /// First and once: the sessions.
    Sessions(Vec<u8>),
    /// The next bytes of the state.
    State(Vec<u8>),
    /// That was all, and all of it was as it was written.
    End,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Taken.
    Taken,
    /// It was there already.
    Duplicate,
    /// No room now: once more after [`StoreEvent::Writable`].
    Full,
}

/// How far a reception is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// The first chunk that is not here; the number of chunks if all are.
    pub next: u64,
    /// Chunks that are here.
    pub here: u64,
    /// Chunks of the file.
    pub chunks: u64,
}

/// Counters since the store was opened, and what is held now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes written to disk.
    pub written_bytes: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Snapshots that became durable.
    pub durable: u64,
    /// Writes and receptions that failed.
    pub failed: u64,
    /// Files removed because newer ones are durable.
    pub removed: u64,
    /// Files found damaged, at open or while they were read.
    pub damaged: u64,
    /// Chunks refused: of another snapshot, damaged, or of no file.
    pub chunks_refused: u64,
    /// Times that `writes_max`, `receives_max` or `reads_max` was hit.
    pub too_many: u64,
    /// Times that there was no room for more bytes of a write or reception.
    pub full: u64,
    /// Receptions that an earlier process had begun.
    pub resumed: u64,
    /// Chunks that waited for `snapshot_bytes_per_s`.
    pub paced: u64,
    /// Snapshots that are offered.
    pub files: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
}
