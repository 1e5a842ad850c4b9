//! Snapshot files at rest: looked at and verified, never changed. All damage of a file is found, not only the first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use logdrive_shard::{Membership, SessionTable};

use super::content::Decoder;
use super::error::{Damage, DamageKind};
use super::format::{HEADER_BYTES, SnapshotHeader, open};
use super::names::{Key, is_partial, is_temporary};

/// How deep directories are searched for snapshots: a node's, a core's, the snapshots'.
const DEPTH_MAX: u32 = 4;

/// What is below a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Complete files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// Files that are being written, or were when their process ended.
    pub half_written: Vec<PathBuf>,
}

/// How much of a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Length and header.
    Header,
    /// Every byte, and that sessions and configuration can be read.
    All,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its header, if that is good.
    pub header: Option<SnapshotHeader>,
    /// The configuration in it, if that can be read.
    pub membership: Option<Membership>,
    /// Sessions in it: only of a file that was looked at as a whole and is good.
    pub sessions: Option<u64>,
    /// All that is wrong with it, in order of the place.
    pub damages: Vec<Damage>,
}

/// The snapshots in a directory and those in it; or the one file, whatever its name is.
///
/// # Errors
/// Something cannot be listed.
pub fn find(path: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    if std::fs::metadata(path)?.is_dir() {
        search(path, DEPTH_MAX, &mut found)?;
    } else {
        found.files.push(path.to_owned());
    }
    Ok(found)
}

fn search(dir: &Path, depth: u32, found: &mut Found) -> io::Result<()> {
    let mut paths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if Key::parse(name).is_some() {
            found.files.push(path);
        } else if is_temporary(name) || is_partial(name) {
            found.half_written.push(path);
        } else if depth > 1 && path.is_dir() {
            search(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Looks at one file.
///
/// # Errors
/// The file cannot be opened. What cannot be read in it is damage.
pub fn examine(path: &Path, depth: Depth) -> io::Result<Examined> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut examined = Examined {
        path: path.to_owned(),
        bytes,
        header: None,
        membership: None,
        sessions: None,
        damages: Vec::new(),
    };
    let header = read(&file, 0, HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(usize::MAX)))
        .and_then(|bytes| SnapshotHeader::decode(&bytes));
    let header = match header {
        Ok(header) => header,
        Err(kind) => {
            examined.damaged(0, kind);
            return Ok(examined);
        }
    };
    examined.check_header(&header);
    if depth == Depth::All {
        examined.check_chunks(&file, &header);
    }
    examined.header = Some(header);
    Ok(examined)
}

impl Examined {
    fn damaged(&mut self, offset: u64, kind: DamageKind) {
        self.damages.push(Damage { file: self.path.display().to_string(), offset, kind });
    }

    fn check_header(&mut self, header: &SnapshotHeader) {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A copy may be called otherwise.
        if Key::parse(name).is_some_and(|key| key != header.key()) {
            self.damaged(0, DamageKind::Name);
        }
        match Membership::decode(&header.membership) {
            Ok(membership) => self.membership = Some(membership),
            Err(error) => self.damaged(0, DamageKind::Membership(error)),
        }
        let (expected, found) = (header.file_bytes(), self.bytes);
        if expected != found {
            self.damaged(expected.min(found), DamageKind::Length { expected, found });
        }
    }

    fn check_chunks(&mut self, file: &File, header: &SnapshotHeader) {
        let mut content = Content { decoder: Decoder::new(), sessions: Vec::new(), scratch: Vec::new() };
        // The whole can only be judged when no part is damaged.
        let mut is_whole = true;
        for number in 0..header.chunks() {
            let offset = header.offset_of(number);
            if offset >= self.bytes {
                // The length said so already.
                is_whole = false;
                break;
            }
            let chunk = read(file, offset, header.len_of(number) as usize);
            let checked = chunk.and_then(|chunk| match is_whole {
                true => content.take(header, &chunk),
                false => open(header, number, &chunk).map(drop),
            });
            if let Err(kind) = checked {
                is_whole = false;
                self.damaged(offset, kind);
            }
        }
        if !is_whole {
            return;
        }
        if let Err(kind) = content.decoder.finish(header) {
            return self.damaged(0, kind);
        }
        match SessionTable::decode(&content.sessions) {
            Ok(table) => self.sessions = Some(table.len() as u64),
            // An engine without sessions writes none.
            Err(_) if content.sessions.is_empty() => self.sessions = Some(0),
            Err(error) => self.damaged(HEADER_BYTES as u64, DamageKind::Sessions(error)),
        }
    }
}

struct Content {
    decoder: Decoder,
    sessions: Vec<u8>,
    scratch: Vec<u8>,
}

impl Content {
    fn take(&mut self, header: &SnapshotHeader, chunk: &[u8]) -> Result<(), DamageKind> {
        let payload = self.decoder.push(header, chunk)?;
        let mut rest = &chunk[payload];
        while !rest.is_empty() {
            self.scratch.clear();
            let taken = self.decoder.content(header, rest, &mut self.scratch)?;
            rest = &rest[taken..];
            let missing = usize::try_from(header.sessions_bytes).unwrap_or(usize::MAX) - self.sessions.len();
            self.sessions.extend_from_slice(&self.scratch[..missing.min(self.scratch.len())]);
        }
        Ok(())
    }
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, DamageKind> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(DamageKind::Unreadable { errno: error.raw_os_error().unwrap_or(libc::EIO) });
            }
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}
