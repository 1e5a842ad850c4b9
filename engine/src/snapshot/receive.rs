//! Snapshots from other nodes, taken in chunk by chunk.

use logdrive_shard::GroupId;
use logdrive_wal::Disk;

use super::content::Piece;
use super::error::{BeginError, ReceiveError};
use super::format::{SnapshotHeader, open};
use super::output::{Output, Source};
use super::store::SnapshotStore;
use super::types::{Progress, Received, SnapshotId, WriteId};

/// Chunks of a file that can be received, at most: one bit each is kept.
const CHUNKS_MAX: u64 = 1 << 26;

/// What has come of a snapshot.
pub(super) struct Reception {
    /// As it will be in the file: with this node's life of the group.
    pub(super) header: SnapshotHeader,
    here: Vec<u64>,
    count: u64,
    /// All chunks below are here.
    next: u64,
    /// An earlier process began it, and it is being read how far that one came.
    pub(super) resumes: bool,
}

impl Reception {
    pub(super) fn is_complete(&self) -> bool {
        self.count == self.header.chunks()
    }

    pub(super) fn next_missing(&self) -> u64 {
        self.next
    }

    fn has(&self, chunk: u64) -> bool {
        self.here.get((chunk / 64) as usize).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, chunk: u64) {
        let word = (chunk / 64) as usize;
        if word >= self.here.len() {
            self.here.resize(word + 1, 0);
        }
        self.here[word] |= 1 << (chunk % 64);
        self.count += 1;
        while self.has(self.next) {
            self.next += 1;
        }
    }
}

impl<D: Disk> SnapshotStore<D> {
    /// Begins to receive the snapshot with this header, as [`SnapshotStore::header_of`] of the sender gave it, for this node's
    /// life of the group: the file will say so. If it is being received already, as after a reconnect, it goes on: see
    /// [`SnapshotStore::progress`].
    ///
    /// # Errors
    /// [`BeginError`]; nothing was begun.
    pub fn begin_receive(&mut self, header: &[u8], life: u32) -> Result<WriteId, BeginError> {
        let header = SnapshotHeader::decode(header).map_err(BeginError::Header)?;
        let header = SnapshotHeader { life, ..header };
        if let Some((write, _)) = self.reception_of(&header) {
            return Ok(write);
        }
        let key = header.key();
        if self.is_good(key) {
            return Err(BeginError::Here(header.id));
        }
        if header.chunks() > CHUNKS_MAX {
            let field = super::error::DamageKind::Header { field: "number of chunks" };
            return Err(BeginError::Header(field));
        }
        self.check_receives()?;
        // Whatever else there is of the group is of an older offer.
        self.forget_partials(|other| other.group == key.group && other != key);
        let there = self.partials.get(&key);
        if there.is_some_and(|partial| partial.header != header) {
            // Nobody writes two different snapshots under one id; it is gone before the next offer.
            self.forget_partials(|other| other == key);
            return Err(BeginError::Header(super::error::DamageKind::Name));
        }
        let there_bytes = there.map_or(0, |partial| partial.bytes);
        if let Err(error) = self.check_space(header.file_bytes().saturating_sub(there_bytes)) {
            // What nobody goes on with makes room for the next attempt.
            self.forget_partials(|other| other != key);
            return Err(error);
        }
        let resumes = self.partials.remove(&key).is_some();
        self.stats.resumed += u64::from(resumes);
        let reception = Reception { header, here: Vec::new(), count: 0, next: 0, resumes };
        let write = self.begin_output(key, Source::Remote(Box::new(reception)));
        if let Some(output) = self.outputs.get_mut(&write.0) {
            output.wants_room = resumes;
        }
        Ok(write)
    }

    /// Whether it is still being read what an earlier process received: [`super::StoreEvent::Writable`] comes when that is known.
    pub fn is_resuming(&self, write: WriteId) -> bool {
        self.outputs.get(&write.0).is_some_and(Output::resumes)
    }

    /// The reception of exactly this file, if it is under way.
    fn reception_of(&self, header: &SnapshotHeader) -> Option<(WriteId, &Reception)> {
        self.receptions().find(|(_, reception)| reception.header == *header)
    }

    fn receptions(&self) -> impl Iterator<Item = (WriteId, &Reception)> {
        self.outputs.values().filter(|output| output.failure.is_none()).filter_map(|output| {
            match &output.source {
                Source::Remote(reception) => Some((WriteId(output.number), &**reception)),
                Source::Local(_) => None,
            }
        })
    }

    /// What is being received for a group.
    pub fn receptions_of(&self, group: GroupId) -> impl Iterator<Item = (WriteId, Progress)> {
        self.receptions().filter(move |(_, r)| r.header.group == group).map(|(write, r)| (write, progress(r)))
    }

    /// How far a reception is; nothing if it is over.
    pub fn progress(&self, write: WriteId) -> Option<Progress> {
        self.receptions().find(|(other, _)| *other == write).map(|(_, reception)| progress(reception))
    }

    /// A chunk that came, in any order. It is checked before it is written. With the last one the file is completed, and
    /// [`super::StoreEvent::Durable`] comes.
    ///
    /// # Errors
    /// [`ReceiveError`]; the chunk was not taken, and the reception goes on with what it has.
    pub fn receive(
        &mut self,
        write: WriteId,
        snapshot: SnapshotId,
        number: u64,
        bytes: &[u8],
    ) -> Result<Received, ReceiveError> {
        let output = self.outputs.get_mut(&write.0).filter(|o| o.failure.is_none());
        let output = output.ok_or(ReceiveError::Unknown)?;
        let refused = match check(output, snapshot, number, bytes) {
            Ok(true) => return Ok(Received::Duplicate),
            Ok(false) if !output.has_room() => {
                output.wants_room = true;
                self.stats.full += 1;
                return Ok(Received::Full);
            }
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            self.stats.chunks_refused += 1;
            return Err(error);
        }
        let Source::Remote(reception) = &mut output.source else { return Err(ReceiveError::Unknown) };
        let mut buffer = self.io.disk.buffer(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        let offset = reception.header.offset_of(number);
        reception.set(number);
        output.queue.push_back(Piece { offset, buffer, len: bytes.len() as u32 });
        self.moved = true;
        Ok(Received::Taken)
    }
}

/// Whether the chunk is here already.
fn check(output: &Output, snapshot: SnapshotId, number: u64, bytes: &[u8]) -> Result<bool, ReceiveError> {
    let Source::Remote(reception) = &output.source else { return Err(ReceiveError::Unknown) };
    let header = &reception.header;
    if snapshot != header.id {
        return Err(ReceiveError::OtherSnapshot { expected: header.id, found: snapshot });
    }
    if number >= header.chunks() {
        return Err(ReceiveError::NoSuchChunk { number, chunks: header.chunks() });
    }
    if reception.has(number) {
        return Ok(true);
    }
    open(header, number, bytes).map_err(ReceiveError::Damaged)?;
    Ok(false)
}

fn progress(reception: &Reception) -> Progress {
    let header = &reception.header;
    Progress { snapshot: header.id, next: reception.next, here: reception.count, chunks: header.chunks() }
}
