//! One log on one disk, shared by thousands of streams: group commit with several durable writes in flight, acknowledged in
//! order; recovery that tells a torn tail from damage. It knows bytes, not Raft.
//!
//! # Order of calls
//!
//! Open a [`Disk`] ([`RingDisk`] on a directory, [`SimDisk`] in tests), then a [`Wal`] on it: everything that was
//! acknowledged comes back through [`Recovery`], in order. From then on, once per turn of the owner's loop:
//!
//! 1. [`Wal::poll`] takes the disk's completions: [`Wal::durable`] may have moved, [`Wal::poll_read`] may have reads. What is
//!    full and waits for a free write goes to the disk.
//! 2. [`Wal::append`], [`Wal::put_state`], [`Wal::compact`] copy records into the open batch and name the [`Ticket`] that
//!    they become durable with. [`Wal::read`] asks for entries. [`Wal::poll_pressure`] names streams that the owner had
//!    better compact, for they hold old segments.
//! 3. [`Wal::submit`] sends batches off while fewer than [`Options::writes_in_flight`] are under way; otherwise the open
//!    batch goes on growing. No timer is involved. In the middle of a long turn [`Wal::wants_submit`] says when to
//!    call it. If it answers `true` there is something to poll for at once; otherwise wait for the ring's eventfd
//!    ([`RingDisk::event_fd`]), or 100 ms while [`Wal::health`] is `OutOfSpace`.
//!
//! Time is an argument everywhere; there is no clock, thread or lock inside.
//!
//! ```
//! use logdrive_wal::{EntryHeader, Options, Recovery, SimDisk, SimOptions, StreamId, Wal};
//!
//! struct Print;
//! impl Recovery for Print {
//!     fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
//!         println!("stream {} entry {}: {} bytes", stream.0, header.index, payload.len());
//!     }
//!     fn state(&mut self, _stream: StreamId, _state: &[u8]) {}
//!     fn compacted(&mut self, _stream: StreamId, _index: u64) {}
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On a directory: RingDisk::open(path, RingOptions::default())?
//! let disk = SimDisk::new(SimOptions::default());
//! let options = Options { segment_bytes: 1 << 20, payload_bytes_max: 64 << 10, ..Options::default() };
//! let mut wal = Wal::open(disk, options, 0, &mut Print)?;
//! let stream = wal.stream(StreamId(7));
//! let mut now_nanos = 1;
//!
//! let ticket = wal.append(stream, EntryHeader { index: 1, tag: 1, note: 0 }, b"hello")?;
//! while wal.durable() < ticket {
//!     now_nanos += 1;
//!     wal.submit(now_nanos);
//!     wal.poll(now_nanos);
//! }
//!
//! wal.read(42, stream, 1, 1, 1 << 20);
//! let read = loop {
//!     wal.submit(now_nanos);
//!     wal.poll(now_nanos);
//!     if let Some(read) = wal.poll_read() {
//!         break read;
//!     }
//! };
//! assert_eq!(read.result?[0].1, b"hello");
//! wal.close(now_nanos)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | module | what |
//! |---|---|
//! | `disk` | the [`Disk`] trait: a flat directory and completions |
//! | `buffer` | aligned memory, on the heap or registered with the ring |
//! | `buggify` | places that a simulator may make do their worst |
//! | `ring` | [`RingDisk`]: io_uring, O_DIRECT, registered buffers and files |
//! | `sim` | [`SimDisk`]: memory that fails like a disk |
//! | `format` | the bytes, see FORMAT.md |
//! | `fuzzing` | the parsers as fuzzers see them |
//! | `index` | where the entries are, about four bytes each |
//! | `mutant` | bugs that can be compiled in, for the tests to catch |
//! | `wal` | the log: batches, group commit, segments and budget, reads, recovery |
//! | [`offline`] | a log at rest: list, survey and verify, never write |
//!
//! # What is deliberately absent
//!
//! Terms, votes, commit indexes (`tag` and `note` are the owner's), a cache of entries, threads, clocks, callbacks, retries
//! of failed syncs, and any way to open a damaged log without being told what is missing.

mod buffer;
mod buggify;
mod crc;
mod disk;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod mutant;
pub mod offline;
#[doc(hidden)]
pub mod parts;
mod ring;
mod sim;
mod wal;

pub use buffer::Buffer;
pub use buggify::{Buggify, CUT_BATCH, Point};
pub use disk::{ALIGNMENT, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};
pub use ring::{DiskFacts, DurableChoice, DurableWrites, RingDisk, RingError, RingOptions};
pub use sim::{
    DurableLog, Fault, FaultKind, OpKind, SimDisk, SimOptions, SimPlatter, Untrue, list_faults, minimise,
};
pub use wal::{
    AppendError, Damage, DamageKind, EntryHeader, Health, LostEntries, OpenError, Options, ReadDone,
    ReadError, Recovered, Recovery, Space, Stats, StreamId, StreamSlot, Ticket, Wal,
};
