//! Files mapped for reading, and a disk made of them that refuses every change.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::buffer::Buffer;
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op, Token};

/// A file mapped for reading.
#[derive(Clone)]
pub(super) struct MappedFile {
    /// Nothing for empty files, which cannot be mapped.
    map: Option<Arc<Mmap>>,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile { map: None });
        }
        // SAFETY: the map is read-only and the bytes are only ever parsed. Somebody who changes the file meanwhile makes the
        // parse fail, and one who cuts it short kills this process, which the module's documentation says.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile { map: Some(Arc::new(map)) })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| map)
    }
}

/// Whether a process holds the directory's lock.
pub(super) fn in_use(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join(crate::ring::LOCK_FILE)) else { return false };
    let shared = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    matches!(shared, Err(rustix::io::Errno::WOULDBLOCK))
}

/// The files of a log as a disk.
pub(super) struct MapDisk {
    directory: PathBuf,
    files: Vec<(String, MappedFile)>,
    complete: Vec<Completion>,
}

impl MapDisk {
    pub(super) fn new(directory: PathBuf, files: Vec<(String, MappedFile)>) -> MapDisk {
        MapDisk { directory, files, complete: Vec::new() }
    }

    fn read(&self, file: FileId, offset: u64, out: &mut [u8]) -> Option<usize> {
        let bytes = self.files.get(file.0 as usize)?.1.bytes();
        let source = bytes.get(usize::try_from(offset).ok()?..)?;
        let len = source.len().min(out.len());
        out[..len].copy_from_slice(&source[..len]);
        Some(len)
    }
}

impl crate::Buggify for MapDisk {}

impl Disk for MapDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let fail = |op: &'static str, errno| DiskError { op, name: String::new(), offset: None, errno };
        let mut returned = None;
        let result = match op {
            Op::List => Ok(Done::Listed(
                self.files.iter().map(|(n, f)| (n.clone(), f.bytes().len() as u64)).collect(),
            )),
            Op::Open { name, .. } => match self.files.iter().position(|(n, _)| *n == name) {
                Some(file) => {
                    let len = self.files[file].1.bytes().len() as u64;
                    Ok(Done::Opened { file: FileId(file as u32), len })
                }
                None => Err(fail("open", libc::ENOENT)),
            },
            Op::Read { file, offset, mut buffer, len } => {
                let read = self.read(file, offset, &mut buffer.as_mut_slice()[..len as usize]);
                returned = Some(buffer);
                read.map(|len| Done::Transferred(len as u32)).ok_or_else(|| fail("read", libc::EINVAL))
            }
            Op::Close { .. } => Ok(Done::Ok),
            Op::Write { buffer, .. } => {
                returned = Some(buffer);
                Err(fail("write", libc::EROFS))
            }
            Op::Sync { .. } | Op::Rename { .. } | Op::Unlink { .. } | Op::SyncDir => {
                Err(fail("change", libc::EROFS))
            }
        };
        self.complete.push(Completion { token, result, buffer: returned });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.complete);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        self.poll(completions);
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        Buffer::heap(len)
    }

    fn recycle(&mut self, buffer: Buffer) {
        drop(buffer);
    }

    fn free_bytes(&mut self) -> u64 {
        0
    }

    fn total_bytes(&mut self) -> u64 {
        0
    }

    fn describe(&self) -> String {
        "files mapped for reading".to_owned()
    }

    fn root(&self) -> String {
        self.directory.display().to_string()
    }
}
