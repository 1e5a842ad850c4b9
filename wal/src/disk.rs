//! What the log needs of a disk: a flat directory of files and completions.
//!
//! Two implementations pass the same conformance suite: the io_uring ring and the simulated disk.

use crate::buffer::Buffer;
use crate::buggify::Buggify;

/// An open file of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Chosen by the caller, returned with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Alignment of every offset, length and address of a read or write, in bytes.
pub const ALIGNMENT: usize = 4096;

/// How a file is opened. All files are opened for direct I/O where the file system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must not exist; read and write.
    CreateNew,
    /// Must exist; read and write.
    ReadWrite,
    /// Must exist; read only.
    ReadOnly,
}

/// One operation. Paths are names inside the disk's directory, without `/`.
#[derive(Debug)]
pub enum Op {
    /// Completes with [`Done::Opened`].
    Open {
        /// File name.
        name: String,
        /// How.
        mode: OpenMode,
    },
    /// Closes; the id is not used again.
    Close {
        /// Which.
        file: FileId,
    },
    /// Writes `buffer[..len]` at `offset`. Completes with the bytes written, which may be fewer than asked: a failure that the
    /// caller must see. `durable`: as with O_DSYNC, on stable storage when it completes.
    Write {
        /// Which file.
        file: FileId,
        /// Byte offset, a multiple of [`ALIGNMENT`].
        offset: u64,
        /// Returned with the completion.
        buffer: Buffer,
        /// Bytes to write, a multiple of [`ALIGNMENT`].
        len: u32,
        /// On stable storage at completion.
        durable: bool,
    },
    /// Reads up to `len` bytes at `offset` into `buffer[..len]`. Fewer only at the end of the file.
    Read {
        /// Which file.
        file: FileId,
        /// Byte offset, a multiple of [`ALIGNMENT`].
        offset: u64,
        /// Returned with the completion.
        buffer: Buffer,
        /// Bytes to read, a multiple of [`ALIGNMENT`].
        len: u32,
    },
    /// Everything written to the file by completed writes is on stable storage when this completes.
    Sync {
        /// Which file.
        file: FileId,
    },
    /// Atomically gives a file another name, replacing what had it. Durable only after [`Op::SyncDir`].
    Rename {
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// Removes a name. Durable only after [`Op::SyncDir`].
    Unlink {
        /// Which.
        name: String,
    },
    /// The directory's entries are on stable storage when this completes.
    SyncDir,
    /// Lists the directory: completes with [`Done::Listed`], sorted by name.
    List,
}

/// How an operation ended well.
#[derive(Debug)]
pub enum Done {
    /// Open.
    Opened {
        /// The new id.
        file: FileId,
        /// Length in bytes.
        len: u64,
    },
    /// Read or Write: bytes transferred.
    Transferred(u32),
    /// List.
    Listed(Vec<(String, u64)>),
    /// Everything else.
    Ok,
}

/// How an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} {name}{}: {} (os error {errno})", offset.map(|o| format!(" at {o}")).unwrap_or_default(), std::io::Error::from_raw_os_error(*errno))]
pub struct DiskError {
    /// `write`, `sync`, ...
    pub op: &'static str,
    /// File name.
    pub name: String,
    /// Byte offset of reads and writes.
    pub offset: Option<u64>,
    /// errno of the failure.
    pub errno: i32,
}

impl DiskError {
    /// The file system is full (or a quota is).
    pub fn is_out_of_space(&self) -> bool {
        self.errno == libc::ENOSPC || self.errno == libc::EDQUOT
    }

    /// A read found a place that the device cannot give back: damage there, and no reason to distrust the rest.
    pub fn is_unreadable(&self) -> bool {
        let medium = [libc::EIO, libc::EILSEQ, libc::ENODATA, libc::EBADMSG, libc::EREMOTEIO];
        self.op == "read" && medium.contains(&self.errno)
    }
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Disk::submit`].
    pub token: Token,
    /// How it ended.
    pub result: Result<Done, DiskError>,
    /// The buffer of a read or write.
    pub buffer: Option<Buffer>,
}

/// A directory of files, all operations by completion, in any order unless said.
pub trait Disk: Buggify {
    /// Queues an operation. Operations under way at once may complete in any order.
    fn submit(&mut self, token: Token, op: Op);
    /// Hands queued operations to the device (one system call for all) and collects what completed, without waiting.
    fn poll(&mut self, completions: &mut Vec<Completion>);
    /// As `poll`, but waits for at least one completion if any operation is under way. For opening, closing and offline
    /// tools; never from a running core.
    fn wait(&mut self, completions: &mut Vec<Completion>);
    /// A buffer of at least `len` bytes, zeroed or not, aligned to [`ALIGNMENT`]; registered with the device if one is free.
    fn buffer(&mut self, len: usize) -> Buffer;
    /// Takes a buffer back for reuse.
    fn recycle(&mut self, buffer: Buffer);
    /// Bytes free for a new file, for budgets and messages.
    fn free_bytes(&mut self) -> u64;
    /// Total bytes of the file system.
    fn total_bytes(&mut self) -> u64;
    /// What to print about durability: device, file system, O_DIRECT, method.
    fn describe(&self) -> String;
    /// The directory, for messages.
    fn root(&self) -> String;
}
