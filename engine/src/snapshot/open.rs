//! What is in the directory when the store is opened.

use std::collections::BTreeMap;

use logdrive_wal::{Buffer, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};

use super::error::{Damage, DamageKind, ReadFailure, SnapshotOpenError};
use super::format::{HEADER_BYTES, SnapshotHeader};
use super::names::{Key, is_partial, is_temporary};
use super::store::{Entry, Partial};
use super::types::Opened;

/// Headers that are read at once.
const AT_ONCE: usize = 64;

/// What a directory has: complete files, and those that were being received.
type Scanned = (BTreeMap<Key, Entry>, BTreeMap<Key, Partial>, Opened);

/// Removes temporary files, and reads the headers of the others. Of files that were being received no more than `partials_max` stay.
pub(super) fn scan<D: Disk>(disk: &mut D, partials_max: u32) -> Result<Scanned, SnapshotOpenError> {
    let root = disk.root();
    let fail = |source| SnapshotOpenError::Disk { root: root.clone(), source };
    let mut opened = Opened::default();
    let listed = run(disk, vec![Op::List]).pop().map(|completion| completion.result);
    let names = match listed {
        Some(Ok(Done::Listed(names))) => names,
        Some(Err(error)) => return Err(fail(error)),
        other => unreachable!("a listing ended with {other:?}"),
    };
    let (mut keys, mut part_keys) = (Vec::new(), Vec::new());
    for (name, bytes) in names {
        if is_temporary(&name) {
            opened.half_written.push(name);
        } else if is_partial(&name) {
            match Key::parse_partial(&name).filter(|_| part_keys.len() < partials_max as usize) {
                Some(key) => part_keys.push((key, bytes)),
                None => opened.half_written.push(name),
            }
        } else if let Some(key) = Key::parse(&name) {
            keys.push((key, bytes));
        }
    }
    let mut partials = BTreeMap::new();
    let mut parts = BTreeMap::new();
    read_headers(disk, &part_keys, Key::partial, &mut parts);
    for (key, Entry { bytes, header, .. }) in parts {
        match header {
            Ok(header) => {
                opened.half_received.push(key.partial());
                partials.insert(key, Partial { bytes, header });
            }
            Err(_) => opened.half_written.push(key.partial()),
        }
    }
    let removals = opened.half_written.iter().map(|name| Op::Unlink { name: name.clone() }).collect();
    for completion in run(disk, removals) {
        let is_gone = |error: &DiskError| error.errno == libc::ENOENT;
        completion.result.map(drop).or_else(|e| if is_gone(&e) { Ok(()) } else { Err(fail(e)) })?;
    }
    // What is listed may not be durable yet, if the one who wrote it was killed: nothing is built on it before.
    for completion in run(disk, vec![Op::SyncDir]) {
        completion.result.map_err(fail)?;
    }
    let mut files = BTreeMap::new();
    for some in keys.chunks(AT_ONCE) {
        read_headers(disk, some, Key::name, &mut files);
    }
    for entry in files.values() {
        match &entry.header {
            Ok(_) => opened.snapshots += 1,
            Err(failure) => opened.damaged.push(failure.clone()),
        }
    }
    Ok((files, partials, opened))
}

fn read_headers<D: Disk>(
    disk: &mut D,
    keys: &[(Key, u64)],
    name_of: fn(Key) -> String,
    files: &mut BTreeMap<Key, Entry>,
) {
    let opens = keys.iter().map(|(key, _)| Op::Open { name: name_of(*key), mode: OpenMode::ReadOnly });
    let mut open: Vec<(Key, u64, FileId)> = Vec::new();
    for (completion, (key, bytes)) in run(disk, opens.collect()).into_iter().zip(keys) {
        match completion.result {
            Ok(Done::Opened { file, .. }) => open.push((*key, *bytes, file)),
            // Its removal was under way when the process was killed.
            Err(error) if error.errno == libc::ENOENT => {}
            Err(error) => {
                let header = Err(ReadFailure::Disk(error));
                files.insert(*key, Entry { bytes: *bytes, header, on_trial: false });
            }
            Ok(other) => unreachable!("an open ended with {other:?}"),
        }
    }
    let reads = open.iter().map(|(_, _, file)| {
        let buffer = disk.buffer(HEADER_BYTES);
        Op::Read { file: *file, offset: 0, buffer, len: HEADER_BYTES as u32 }
    });
    let reads = reads.collect();
    for (completion, (key, bytes, _)) in run(disk, reads).into_iter().zip(&open) {
        let header = header_of((*key, name_of(*key)), *bytes, &completion.result, completion.buffer.as_ref());
        files.insert(*key, Entry { bytes: *bytes, header, on_trial: false });
        completion.buffer.into_iter().for_each(|buffer| disk.recycle(buffer));
    }
    // A file that does not close takes a descriptor, no more.
    run(disk, open.iter().map(|(_, _, file)| Op::Close { file: *file }).collect());
}

/// The header of a file of so many bytes, if it is that of the snapshot that the name says.
fn header_of(
    (key, name): (Key, String),
    bytes: u64,
    result: &Result<Done, DiskError>,
    buffer: Option<&Buffer>,
) -> Result<SnapshotHeader, ReadFailure> {
    let (len, buffer) = match (result, buffer) {
        (Ok(Done::Transferred(len)), Some(buffer)) => (*len as usize, buffer),
        (Err(error), _) => return Err(ReadFailure::Disk(error.clone())),
        other => unreachable!("a read ended with {other:?}"),
    };
    let checked = SnapshotHeader::decode(&buffer.as_slice()[..len]).and_then(|header| {
        let expected = header.file_bytes();
        if header.key() != key {
            return Err(DamageKind::Name);
        }
        // One that was being received is as long as it got.
        if expected != bytes && !(is_partial(&name) && bytes < expected) {
            return Err(DamageKind::Length { expected, found: bytes });
        }
        Ok(header)
    });
    checked.map_err(|kind| ReadFailure::Damaged(Damage { file: name, offset: 0, kind }))
}

/// Performs operations and waits for all; what became of them, in their order.
fn run<D: Disk>(disk: &mut D, ops: Vec<Op>) -> Vec<Completion> {
    let count = ops.len();
    for (number, op) in ops.into_iter().enumerate() {
        disk.submit(Token(number as u64), op);
    }
    let mut ended = Vec::new();
    while ended.len() < count {
        let before = ended.len();
        disk.wait(&mut ended);
        assert!(ended.len() > before, "a disk answers every operation: {} of {count}", ended.len());
    }
    ended.sort_by_key(|completion| completion.token);
    ended
}
