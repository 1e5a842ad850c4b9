//! Small files, read and written whole through a [`Disk`].
//!
//! ```text
//! offset  bytes  little-endian
//!      0      4  magic of the file
//!      4      4  CRC32C of everything from offset 8 to the end of the body
//!      8      2  version
//!     10      2  zero
//!     12      4  length of the body
//!     16         body, then zeros up to a multiple of the disk's alignment
//! ```

use logdrive_wal::{ALIGNMENT, Buffer, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};

use super::NodeError;

const HEADER_LEN: usize = 16;
/// Largest file, in bytes: a placement of sixteen million groups.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// One kind of file.
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) temporary: &'static str,
    pub(super) magic: [u8; 4],
    /// That is written.
    pub(super) version: u16,
    /// The earliest that can be read.
    pub(super) oldest: u16,
}

/// A directory of such files.
pub(super) struct Files<D: Disk> {
    disk: D,
    last_token: u64,
    completions: Vec<Completion>,
}

impl<D: Disk> Files<D> {
    pub(super) fn new(disk: D) -> Files<D> {
        Files { disk, last_token: 0, completions: Vec::new() }
    }

    pub(super) fn root(&self) -> String {
        self.disk.root()
    }

    pub(super) fn into_disk(self) -> D {
        self.disk
    }

    /// Names in the directory.
    pub(super) fn list(&mut self) -> Result<Vec<String>, NodeError> {
        match self.run(Op::List)? {
            (Done::Listed(names), _) => Ok(names.into_iter().map(|(name, _)| name).collect()),
            (other, _) => unreachable!("a disk answered a listing with {other:?}"),
        }
    }

    /// The version and the body of a file that must exist.
    pub(super) fn read(&mut self, format: &Format) -> Result<(u16, Vec<u8>), NodeError> {
        let (file, len) = self.open(format.name, OpenMode::ReadOnly)?;
        let bytes = self.read_open(format, file, len);
        self.run(Op::Close { file })?;
        let bytes = bytes?;
        self.unseal(format, &bytes)
    }

    fn read_open(&mut self, format: &Format, file: FileId, len: u64) -> Result<Vec<u8>, NodeError> {
        if len > FILE_BYTES_MAX {
            return Err(self.damaged(format, "far too long"));
        }
        let padded = (len as usize).next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::with_capacity(padded);
        while bytes.len() < len as usize {
            let want = (padded - bytes.len()).min(1 << 20);
            let buffer = self.disk.buffer(want);
            let read = Op::Read { file, offset: bytes.len() as u64, buffer, len: want as u32 };
            match self.run(read)? {
                (Done::Transferred(count), Some(buffer)) => {
                    bytes.extend_from_slice(&buffer.as_slice()[..count as usize]);
                    self.disk.recycle(buffer);
                    if count == 0 || !(count as usize).is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                (other, _) => unreachable!("a disk answered a read with {other:?}"),
            }
        }
        Ok(bytes)
    }

    /// Replaces a file: afterwards the new one is durable; a failure or a crash leaves the old one.
    pub(super) fn write(&mut self, format: &Format, body: &[u8]) -> Result<(), NodeError> {
        let bytes = seal(format, body);
        assert!(bytes.len() as u64 <= FILE_BYTES_MAX, "{} would have {} bytes", format.name, bytes.len());
        if self.list()?.iter().any(|name| name == format.temporary) {
            self.run(Op::Unlink { name: format.temporary.to_owned() })?;
        }
        let (file, _) = self.open(format.temporary, OpenMode::CreateNew)?;
        let written = self.write_open(format, file, &bytes);
        self.run(Op::Close { file })?;
        written?;
        self.run(Op::Rename { from: format.temporary.to_owned(), to: format.name.to_owned() })?;
        self.run(Op::SyncDir)?;
        Ok(())
    }

    fn write_open(&mut self, format: &Format, file: FileId, bytes: &[u8]) -> Result<(), NodeError> {
        for (n, chunk) in bytes.chunks(1 << 20).enumerate() {
            let offset = (n as u64) << 20;
            let len = chunk.len().next_multiple_of(ALIGNMENT);
            let mut buffer = self.disk.buffer(len);
            buffer.as_mut_slice()[..chunk.len()].copy_from_slice(chunk);
            buffer.as_mut_slice()[chunk.len()..len].fill(0);
            let write = Op::Write { file, offset, buffer, len: len as u32, durable: false };
            match self.run(write)? {
                (Done::Transferred(count), buffer) => {
                    buffer.into_iter().for_each(|buffer| self.disk.recycle(buffer));
                    if count as usize != len {
                        // A short write is what a full disk looks like before ENOSPC.
                        let name = format.temporary.to_owned();
                        let offset = Some(offset + u64::from(count));
                        return Err(self.failed(DiskError {
                            op: "write",
                            name,
                            offset,
                            errno: libc::ENOSPC,
                        }));
                    }
                }
                (other, _) => unreachable!("a disk answered a write with {other:?}"),
            }
        }
        self.run(Op::Sync { file })?;
        Ok(())
    }

    fn open(&mut self, name: &'static str, mode: OpenMode) -> Result<(FileId, u64), NodeError> {
        match self.run(Op::Open { name: name.to_owned(), mode })? {
            (Done::Opened { file, len }, _) => Ok((file, len)),
            (other, _) => unreachable!("a disk answered an open with {other:?}"),
        }
    }

    /// One operation, start to end.
    fn run(&mut self, op: Op) -> Result<(Done, Option<Buffer>), NodeError> {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.disk.submit(token, op);
        loop {
            self.disk.wait(&mut self.completions);
            if let Some(completion) = self.completions.pop() {
                assert!(completion.token == token && self.completions.is_empty(), "one operation at a time");
                return match completion.result {
                    Ok(done) => Ok((done, completion.buffer)),
                    Err(error) => Err(self.failed(error)),
                };
            }
        }
    }

    fn failed(&self, error: DiskError) -> NodeError {
        NodeError::Disk { dir: self.disk.root(), error }
    }

    pub(super) fn damaged(&self, format: &Format, what: &'static str) -> NodeError {
        NodeError::Damaged { dir: self.disk.root(), file: format.name, what }
    }

    /// Checks the header and takes the version and the body out.
    fn unseal(&self, format: &Format, bytes: &[u8]) -> Result<(u16, Vec<u8>), NodeError> {
        let Some((header, rest)) = bytes.split_at_checked(HEADER_LEN) else {
            return Err(self.damaged(format, "cut short"));
        };
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..4] != format.magic {
            return Err(self.damaged(format, "bad magic"));
        }
        let Some(body) = rest.get(..number(12) as usize) else {
            return Err(self.damaged(format, "cut short"));
        };
        if crc32c::crc32c(&bytes[8..HEADER_LEN + body.len()]) != number(4) {
            return Err(self.damaged(format, "bad checksum"));
        }
        let found = number(8) as u16;
        if !(format.oldest..=format.version).contains(&found) {
            let (dir, file, supported) = (self.disk.root(), format.name, format.version);
            return Err(NodeError::Version { dir, file, found, supported });
        }
        Ok((found, body.to_vec()))
    }
}

fn seal(format: &Format, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&format.magic);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&format.version.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}
