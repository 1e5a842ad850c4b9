//! A file under way: chunks, header, fsync, verification of what was received, rename, fsync of the directory; and out of the way
//! again if something fails.

use std::collections::VecDeque;

use logdrive_wal::{Buffer, Completion, Disk, Done, FileId, Op, OpenMode};

use super::content::{Decoder, Encoder, Piece};
use super::error::{Damage, DamageKind, WriteFailure};
use super::format::{HEADER_BYTES, SnapshotHeader, open};
use super::io::{For, Io, Place};
use super::names::Key;
use super::receive::Reception;

/// Chunks of one file that are full and not on disk, at most; one block of compressed content may come on top.
pub(super) const CHUNKS_QUEUED_MAX: usize = 4;

/// Where a file's bytes come from.
pub(super) enum Source {
    /// From this node's state machine.
    Local(Box<Writing>),
    /// From another node.
    Remote(Box<Reception>),
}

/// A snapshot of this node while it is written.
pub(super) struct Writing {
    pub(super) encoder: Encoder,
    pub(super) sessions: Vec<u8>,
    /// How much of the sessions went to the encoder.
    pub(super) fed: usize,
    /// No more of the state comes.
    pub(super) finished: bool,
    /// Becomes the header of the file when its totals are known.
    pub(super) header: SnapshotHeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    /// What is received has its header first, so that it can be gone on with after a restart.
    Begin,
    /// What an earlier process received is read, chunk by chunk, as far as it is good.
    Resume,
    Body,
    Header,
    Sync,
    /// What was received is read back.
    Verify,
    Closing,
    Renaming,
    SyncDir,
    /// Durable.
    Done,
    /// It failed: what is under way ends, then the file is closed and removed.
    Failing,
    CleanClose,
    CleanUnlink,
    /// Failed, and out of the way.
    Gone,
}

pub(super) struct Output {
    pub(super) number: u64,
    pub(super) key: Key,
    pub(super) source: Source,
    pub(super) stage: Stage,
    pub(super) file: Option<FileId>,
    /// Chunks that wait for the file, for bytes per second, or for those before them.
    pub(super) queue: VecDeque<Piece>,
    pub(super) in_flight: u32,
    pub(super) failure: Option<WriteFailure>,
    /// The owner was told that there is no room.
    pub(super) wants_room: bool,
    /// Known when the body is complete.
    pub(super) header: Option<SnapshotHeader>,
    renamed: bool,
    /// The file stays where it is if this comes to an end before it is complete.
    pub(super) stays: bool,
    decoder: Decoder,
    scratch: Vec<u8>,
}

impl Output {
    pub(super) fn new(number: u64, key: Key, source: Source) -> Output {
        Output {
            number,
            key,
            source,
            stage: Stage::Opening,
            file: None,
            queue: VecDeque::new(),
            in_flight: 0,
            failure: None,
            wants_room: false,
            header: None,
            renamed: false,
            stays: false,
            decoder: Decoder::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn open<D: Disk>(&mut self, io: &mut Io<D>) {
        let mode = if self.resumes() { OpenMode::ReadWrite } else { OpenMode::CreateNew };
        self.submit(io, Op::Open { name: self.working_name(), mode });
    }

    /// What the file is called until it is complete.
    pub(super) fn working_name(&self) -> String {
        match self.source {
            Source::Local(_) => self.key.temporary(),
            Source::Remote(_) => self.key.partial(),
        }
    }

    /// Whether it is still being found out what an earlier process received.
    pub(super) fn resumes(&self) -> bool {
        matches!(&self.source, Source::Remote(reception) if reception.resumes)
    }

    fn submit<D: Disk>(&mut self, io: &mut Io<D>, op: Op) {
        let place = match op {
            Op::Write { offset, len, .. } => Place { offset, len },
            _ => Place::default(),
        };
        self.in_flight += 1;
        io.submit(For::Output { output: self.number, place }, op);
    }

    /// Whether it takes more chunks.
    pub(super) fn has_room(&self) -> bool {
        !self.resumes() && self.queue.len() + (self.in_flight as usize) < CHUNKS_QUEUED_MAX
    }

    /// Whether a chunk may be written now.
    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Body && !self.queue.is_empty()
    }

    /// Writes the chunk that waits longest. Its bytes.
    pub(super) fn write_next<D: Disk>(&mut self, io: &mut Io<D>) -> u32 {
        let (Some(file), Some(piece)) = (self.file, self.queue.pop_front()) else { return 0 };
        let Piece { offset, buffer, len } = piece;
        self.submit(io, Op::Write { file, offset, buffer, len, durable: false });
        len
    }

    /// From now on it only gets out of the way.
    pub(super) fn fail<D: Disk>(&mut self, io: &mut Io<D>, failure: WriteFailure) {
        if matches!(self.stage, Stage::Failing | Stage::CleanClose | Stage::CleanUnlink | Stage::Gone) {
            return;
        }
        self.stage = Stage::Failing;
        self.failure = Some(failure);
        for piece in self.queue.drain(..) {
            io.disk.recycle(piece.buffer);
        }
        if let Source::Local(writing) = &mut self.source
            && let Some(buffer) = writing.encoder.take_buffer()
        {
            io.disk.recycle(buffer);
        }
    }

    /// An operation ended. `place`: what it should have written.
    pub(super) fn on_completion<D: Disk>(&mut self, io: &mut Io<D>, completion: Completion, place: Place) {
        self.in_flight -= 1;
        if matches!(self.stage, Stage::Closing | Stage::CleanClose) {
            // However that ended: the number may be another file's by now.
            self.file = None;
        }
        if let Some(buffer) = completion.buffer {
            io.disk.recycle(buffer);
        }
        match completion.result {
            Ok(Done::Opened { file, .. }) => self.file = Some(file),
            Ok(Done::Transferred(written)) if written != place.len => {
                let (file, offset, asked) = (self.working_name(), place.offset, place.len);
                self.fail(io, WriteFailure::Short { file, offset, asked, written });
            }
            Ok(_) => {}
            // Whoever gets out of the way does what can be done: what stays behind is removed when the store is opened next.
            Err(error) => self.fail(io, WriteFailure::Disk(error)),
        }
    }

    /// A chunk of what an earlier process received was read. The first one that is not good, or not there, is where it goes on.
    fn on_resumed<D: Disk>(&mut self, io: &mut Io<D>, completion: Completion) {
        let Source::Remote(reception) = &mut self.source else { return };
        let number = reception.next_missing();
        let is_good = match (&completion.result, &completion.buffer) {
            (Ok(Done::Transferred(len)), Some(buffer)) => {
                open(&reception.header, number, &buffer.as_slice()[..*len as usize]).is_ok()
            }
            _ => false,
        };
        if is_good {
            reception.set(number);
        }
        reception.resumes = is_good;
        if let Some(buffer) = completion.buffer {
            io.disk.recycle(buffer);
        }
    }

    /// A chunk was read back.
    pub(super) fn on_verified<D: Disk>(&mut self, io: &mut Io<D>, completion: Completion) {
        self.in_flight -= 1;
        if self.header.is_none() {
            return self.on_resumed(io, completion);
        }
        let Some(header) = &self.header else { unreachable!("verified before the header was written") };
        let number = self.decoder.next();
        let checked = match (&completion.result, &completion.buffer) {
            (Err(error), _) => Err(WriteFailure::Disk(error.clone())),
            (Ok(Done::Transferred(len)), Some(buffer)) => {
                let chunk = &buffer.as_slice()[..*len as usize];
                check(&mut self.decoder, header, chunk, &mut self.scratch).map_err(|kind| {
                    let (file, offset) = (self.working_name(), header.offset_of(number));
                    WriteFailure::Damaged(Damage { file, offset, kind })
                })
            }
            other => unreachable!("a read ended with {other:?}"),
        };
        if let Some(buffer) = completion.buffer {
            io.disk.recycle(buffer);
        }
        if let Err(failure) = checked {
            self.fail(io, failure);
        }
    }

    /// Goes on to the next stages, as far as nothing is under way.
    pub(super) fn advance<D: Disk>(&mut self, io: &mut Io<D>) {
        while self.in_flight == 0 {
            match self.stage {
                Stage::Opening => match &self.source {
                    Source::Local(_) => self.stage = Stage::Body,
                    Source::Remote(reception) if reception.resumes => self.stage = Stage::Resume,
                    Source::Remote(reception) => {
                        let header = reception.header.encode();
                        self.write_header(io, &header, Stage::Begin);
                    }
                },
                Stage::Begin => self.stage = Stage::Body,
                Stage::Resume => self.resume_next(io),
                Stage::Body => match self.body_is_complete() {
                    Some(header) => {
                        self.write_header(io, &header.encode(), Stage::Header);
                        self.header = Some(header);
                    }
                    None => return,
                },
                Stage::Header => self.on_file(io, Stage::Sync, |file| Op::Sync { file }),
                Stage::Sync => match self.source {
                    Source::Local(_) => self.on_file(io, Stage::Closing, |file| Op::Close { file }),
                    Source::Remote(_) => self.stage = Stage::Verify,
                },
                Stage::Verify => self.verify_next(io),
                Stage::Closing => {
                    self.stage = Stage::Renaming;
                    // Even if it fails it may have happened.
                    self.renamed = true;
                    self.submit(io, Op::Rename { from: self.working_name(), to: self.key.name() });
                }
                Stage::Renaming => {
                    self.stage = Stage::SyncDir;
                    self.submit(io, Op::SyncDir);
                }
                Stage::SyncDir => self.stage = Stage::Done,
                Stage::Failing if self.file.is_some() => {
                    self.on_file(io, Stage::CleanClose, |file| Op::Close { file });
                }
                Stage::Failing | Stage::CleanClose if self.stays && !self.renamed => self.stage = Stage::Gone,
                Stage::Failing | Stage::CleanClose => {
                    self.stage = Stage::CleanUnlink;
                    self.submit(io, Op::Unlink { name: self.working_name() });
                    if self.renamed {
                        self.submit(io, Op::Unlink { name: self.key.name() });
                    }
                }
                Stage::CleanUnlink => self.stage = Stage::Gone,
                Stage::Done | Stage::Gone => return,
            }
        }
    }

    fn on_file<D: Disk>(&mut self, io: &mut Io<D>, stage: Stage, op: impl FnOnce(FileId) -> Op) {
        let file = self.file.expect("the file is open from the first chunk until it is closed");
        self.stage = stage;
        self.submit(io, op(file));
    }

    /// The header, when all chunks are written.
    fn body_is_complete(&self) -> Option<SnapshotHeader> {
        match &self.source {
            _ if !self.queue.is_empty() => None,
            Source::Local(_) => self.header.clone(),
            Source::Remote(reception) => reception.is_complete().then(|| reception.header.clone()),
        }
    }

    fn write_header<D: Disk>(&mut self, io: &mut Io<D>, header: &[u8], stage: Stage) {
        let mut buffer: Buffer = io.disk.buffer(HEADER_BYTES);
        buffer.as_mut_slice()[..HEADER_BYTES].copy_from_slice(header);
        let len = HEADER_BYTES as u32;
        self.on_file(io, stage, |file| Op::Write { file, offset: 0, buffer, len, durable: false });
    }

    /// Reads the next chunk that an earlier process may have received.
    fn resume_next<D: Disk>(&mut self, io: &mut Io<D>) {
        let (Source::Remote(reception), Some(file)) = (&mut self.source, self.file) else {
            unreachable!("only what is received is gone on with, and its file is open")
        };
        reception.resumes &= !reception.is_complete();
        if !reception.resumes {
            self.stage = Stage::Body;
            return;
        }
        let number = reception.next_missing();
        let (offset, len) = (reception.header.offset_of(number), reception.header.len_of(number));
        let buffer = io.disk.buffer(len as usize);
        self.in_flight += 1;
        io.submit(For::Verify { output: self.number }, Op::Read { file, offset, buffer, len });
    }

    /// Reads the next chunk back, or goes on if that was all and all was well.
    fn verify_next<D: Disk>(&mut self, io: &mut Io<D>) {
        let (Some(header), Some(file)) = (&self.header, self.file) else {
            unreachable!("verified too early")
        };
        let number = self.decoder.next();
        if number < header.chunks() {
            let (offset, len) = (header.offset_of(number), header.len_of(number));
            let buffer = io.disk.buffer(len as usize);
            self.in_flight += 1;
            return io.submit(For::Verify { output: self.number }, Op::Read { file, offset, buffer, len });
        }
        match self.decoder.finish(header) {
            Ok(()) => self.on_file(io, Stage::Closing, |file| Op::Close { file }),
            Err(kind) => {
                let damage = Damage { file: self.working_name(), offset: 0, kind };
                self.fail(io, WriteFailure::Damaged(damage));
            }
        }
    }
}

fn check(
    decoder: &mut Decoder,
    header: &SnapshotHeader,
    chunk: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), DamageKind> {
    let payload = decoder.push(header, chunk)?;
    let mut rest = &chunk[payload];
    while !rest.is_empty() {
        scratch.clear();
        let taken = decoder.content(header, rest, scratch)?;
        rest = &rest[taken..];
    }
    Ok(())
}
