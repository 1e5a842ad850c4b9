//! Snapshots of this node's groups, written as the state machine hands them out.

use logdrive_wal::Disk;

use super::content::Encoder;
use super::error::{BeginError, UnknownId, WriteFailure};
use super::format::{HEADER_BYTES, MEMBERSHIP_MAX, SESSIONS_MAX, SnapshotHeader};
use super::io::Io;
use super::output::{Output, Source, Stage, Writing};
use super::store::SnapshotStore;
use super::types::{SnapshotId, SnapshotMeta, WriteId};

impl<D: Disk> SnapshotStore<D> {
    /// Begins a file. `state_bytes`: how long the state is about, as far as the caller knows (the last snapshot's length is a
    /// good guess), to find out now and not later that there is no room.
    ///
    /// # Errors
    /// [`BeginError`]; nothing was begun.
    pub fn begin_write(&mut self, meta: SnapshotMeta, state_bytes: u64) -> Result<WriteId, BeginError> {
        let (bytes, max) = (meta.membership.len() as u64, MEMBERSHIP_MAX as u64);
        if bytes > max {
            return Err(BeginError::Membership { bytes, max });
        }
        let (bytes, max) = (meta.sessions.len() as u64, SESSIONS_MAX);
        if bytes > max {
            return Err(BeginError::Sessions { bytes, max });
        }
        self.check_writes()?;
        self.check_space((HEADER_BYTES as u64 + bytes).saturating_add(state_bytes))?;
        let id = self.new_id(&meta);
        let header = SnapshotHeader {
            id,
            group: meta.group,
            life: meta.life,
            index: meta.index,
            term: meta.term,
            membership_index: meta.membership_index,
            membership: meta.membership,
            sessions_bytes: meta.sessions.len() as u64,
            content_bytes: 0,
            content_crc: 0,
            compression: self.settings.compression,
            stored_bytes: 0,
            chunks_crc: 0,
            chunk_bytes: self.settings.chunk_bytes,
        };
        let encoder = Encoder::new(id, header.chunk_bytes, header.compression);
        let key = header.key();
        let writing = Writing { encoder, sessions: meta.sessions, fed: 0, finished: false, header };
        Ok(self.begin_output(key, Source::Local(Box::new(writing))))
    }

    /// The next bytes of the state. How many were taken, from the front: if not all, [`super::StoreEvent::Writable`] comes when
    /// there is room for more.
    ///
    /// # Errors
    /// The write has failed ([`super::StoreEvent::WriteFailed`] comes or came), or was finished.
    pub fn write(&mut self, write: WriteId, bytes: &[u8]) -> Result<usize, UnknownId> {
        let unknown = UnknownId(write.0);
        let output = self.outputs.get_mut(&write.0).ok_or(unknown)?;
        if output.failure.is_some() {
            return Err(unknown);
        }
        feed_sessions(output, &mut self.io);
        let sessions_are_in = match &output.source {
            Source::Local(writing) if !writing.finished => writing.fed == writing.sessions.len(),
            _ => return Err(unknown),
        };
        let mut taken = 0;
        while sessions_are_in && taken < bytes.len() && output.has_room() {
            taken += feed(output, &mut self.io, &bytes[taken..]);
        }
        if taken < bytes.len() {
            output.wants_room = true;
            self.stats.full += 1;
        }
        Ok(taken)
    }

    /// That was all of the state. [`super::StoreEvent::Durable`] comes when the file is complete.
    ///
    /// # Errors
    /// The write has failed, or was finished before.
    pub fn finish(&mut self, write: WriteId) -> Result<(), UnknownId> {
        let unknown = UnknownId(write.0);
        let output = self.outputs.get_mut(&write.0).filter(|o| o.failure.is_none()).ok_or(unknown)?;
        match &mut output.source {
            Source::Local(writing) if !writing.finished => writing.finished = true,
            _ => return Err(unknown),
        }
        output.wants_room = false;
        self.moved = true;
        Ok(())
    }

    /// Gives up a write or a reception; [`super::StoreEvent::WriteFailed`] comes when its file is gone.
    ///
    /// # Errors
    /// It is over.
    pub fn abort(&mut self, write: WriteId) -> Result<(), UnknownId> {
        let output = self.outputs.get_mut(&write.0).ok_or(UnknownId(write.0))?;
        output.fail(&mut self.io, WriteFailure::Aborted);
        self.moved = true;
        Ok(())
    }

    /// An id that no other snapshot has, as far as 64 bits go.
    fn new_id(&mut self, meta: &SnapshotMeta) -> SnapshotId {
        let parts = [meta.group.0, u64::from(meta.life), meta.index.0, meta.term.0, self.ids];
        self.ids += 1;
        SnapshotId(parts.into_iter().fold(self.settings.id_seed, |state, part| mix(state ^ part)))
    }
}

/// The finalizer of SplitMix64: a permutation, so that different numbers stay different at each step.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Gives a front part of some bytes to the encoder.
fn feed<D: Disk>(output: &mut Output, io: &mut Io<D>, bytes: &[u8]) -> usize {
    let Source::Local(writing) = &mut output.source else { return 0 };
    let taken = bytes.len().min(writing.encoder.room());
    let chunk_bytes = writing.header.chunk_bytes as usize;
    writing.encoder.push(&bytes[..taken], &mut || io.disk.buffer(chunk_bytes), &mut output.queue);
    taken
}

fn feed_sessions<D: Disk>(output: &mut Output, io: &mut Io<D>) {
    let Source::Local(writing) = &mut output.source else { return };
    let sessions = std::mem::take(&mut writing.sessions);
    let mut fed = writing.fed;
    while fed < sessions.len() && output.has_room() {
        fed += feed(output, io, &sessions[fed..]);
    }
    if let Source::Local(writing) = &mut output.source {
        (writing.sessions, writing.fed) = (sessions, fed);
    }
}

/// The sessions go ahead of the state; the last chunk follows when no more comes.
pub(super) fn pump<D: Disk>(output: &mut Output, io: &mut Io<D>) {
    if output.failure.is_some() || !matches!(output.stage, Stage::Opening | Stage::Body) {
        return;
    }
    feed_sessions(output, io);
    let Source::Local(writing) = &mut output.source else { return };
    if !writing.finished || writing.fed < writing.sessions.len() || output.header.is_some() {
        return;
    }
    let chunk_bytes = writing.header.chunk_bytes as usize;
    let totals = writing.encoder.finish(&mut || io.disk.buffer(chunk_bytes), &mut output.queue);
    output.header = Some(SnapshotHeader {
        content_bytes: totals.content_bytes,
        content_crc: totals.content_crc,
        stored_bytes: totals.stored_bytes,
        chunks_crc: totals.chunks_crc,
        ..writing.header.clone()
    });
}
