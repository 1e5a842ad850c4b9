//! The files of snapshots: one directory per core, beside the log and on a ring of its own.
//!
//! A [`SnapshotStore`] writes snapshots of this node's groups, takes those of others in chunk by chunk, and reads both. It is
//! driven by completions, as the log is: no clock, no thread, no async. The bytes are described in FORMAT.md, beside this file.
//!
//! # Order of calls
//!
//! [`SnapshotStore::open`] removes what was left half-written, reads the headers, and says what is damaged. Then, once per turn
//! of the owner's loop, [`SnapshotStore::poll`] moves everything and says what happened ([`StoreEvent`]); if it answers `true`
//! there is more to do at once. Otherwise wait for the ring's eventfd, or until [`SnapshotStore::next_wake`]: only the limit of
//! bytes per second waits for time.
//!
//! - To write: [`begin_write`](SnapshotStore::begin_write), [`write`](SnapshotStore::write) as often as needed (it takes as much
//!   as it has room for; [`StoreEvent::Writable`] says that there is room again), [`finish`](SnapshotStore::finish), and then
//!   [`StoreEvent::Durable`] or [`StoreEvent::WriteFailed`].
//! - To load: [`newest`](SnapshotStore::newest), [`begin_read`](SnapshotStore::begin_read),
//!   [`read_part`](SnapshotStore::read_part) after each [`StoreEvent::Readable`]: first the sessions, then parts of the state, then
//!   the end. Only the end says that all of it was good. After [`StoreEvent::ReadFailed`] `newest` names the next older one.
//! - To send: [`header_of`](SnapshotStore::header_of) goes ahead, [`begin_send`](SnapshotStore::begin_send) and
//!   [`read_chunk`](SnapshotStore::read_chunk) give the chunks as they are in the file.
//! - To receive: [`begin_receive`](SnapshotStore::begin_receive) with the header, [`receive`](SnapshotStore::receive) for each
//!   chunk, in any order; [`progress`](SnapshotStore::progress) says which one is missing, after a reconnect as well. The last
//!   chunk ends it, by `Durable` or `WriteFailed`. What is done with it is the owner's decision: [`accept`](SnapshotStore::accept) when its
//!   state is in use, [`remove`](SnapshotStore::remove) if it is of no use.
//!
//! # When a file is complete
//!
//! Chunks and then the header go to a file with a temporary name; then fsync of the file, rename, fsync of the directory. What
//! was received is read back and verified as a whole before the rename. Only then is it a snapshot, and only then are older
//! ones removed; if it was received, only when it is accepted, because until then the older ones are what the group's log begins behind.
//! A file with a temporary name is never looked into, only removed.
//!
//! # Modules
//!
//! | module | what |
//! |---|---|
//! | `format` | header and chunk: bytes to values and back |
//! | `content`, `join` | sessions and state to chunks and back, compression; sums of pieces made into one |
//! | `names` | what the files are called |
//! | `error` | what can be wrong, and what to do then |
//! | `store`, `open` | the store: what is there, what is kept, poll |
//! | `io`, `types` | what is under way on the disk; the words |
//! | `output` | a file under way, from its first chunk to the fsync of the directory |
//! | `write`, `receive`, `read` | where its bytes come from and go to |
//! | `pace` | bytes per second |
//! | [`offline`] | files at rest: looked at and verified, never changed |
//!
//! # What is deliberately absent
//!
//! When to take a snapshot, whom to send it to and what to do with one: that is the core's. Resuming what was being received when
//! the process ended: it begins again.

mod content;
mod error;
mod format;
mod io;
mod join;
mod names;
pub mod offline;
mod open;
mod output;
pub(crate) mod pace;
mod read;
mod receive;
mod share;
mod store;
mod types;
mod write;

pub use self::error::{
    BeginError, Damage, DamageKind, NoGoodSnapshot, ReadFailure, ReceiveError, SnapshotOpenError, UnknownId,
    WriteFailure,
};
pub use self::format::{HEADER_BYTES, SnapshotHeader};
pub use self::share::Share;
pub use self::store::SnapshotStore;
pub use self::types::{
    Compression, Opened, Progress, ReadId, ReadPart, Received, SnapshotFileSettings, SnapshotId,
    SnapshotMeta, StoreEvent, StoreStats, WriteId,
};
