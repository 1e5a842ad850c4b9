//! Reading snapshots: to load them here, or to send them chunk by chunk.

use std::collections::{BTreeMap, VecDeque};

use logdrive_wal::{Buffer, Completion, Disk, Done, FileId, Op, OpenMode};

use super::content::Decoder;
use super::error::{BeginError, Damage, DamageKind, ReadFailure, UnknownId};
use super::format::{SnapshotHeader, open};
use super::io::{For, Io};
use super::names::Key;
use super::store::SnapshotStore;
use super::types::{ReadId, ReadPart, SnapshotId, StoreEvent};

/// Chunks of one file that are read ahead, or asked for and not yet delivered, at most.
const CHUNKS_AHEAD_MAX: usize = 2;

pub(super) struct Reading {
    snapshot: SnapshotId,
    name: String,
    header: SnapshotHeader,
    file: Option<FileId>,
    in_flight: u32,
    mode: Mode,
    /// Nobody wants it any more: it ends when nothing is under way.
    ending: bool,
}

enum Mode {
    Load(Box<Load>),
    /// Chunks that were asked for before the file was open.
    Send(VecDeque<u64>),
}

struct Load {
    decoder: Decoder,
    /// The next chunk that is to be read.
    ahead: u64,
    /// Chunks that were read, by number: they come in any order.
    ready: BTreeMap<u64, (Buffer, u32)>,
    /// The chunk that is being taken apart, and what of its payload is left.
    open: Option<(Buffer, std::ops::Range<usize>)>,
    /// The sessions as far as they have come; nothing once they are handed out.
    sessions: Option<Vec<u8>>,
    /// Of the state, what came in one piece with the end of the sessions.
    state: Vec<u8>,
    /// The owner waits for a part.
    starved: bool,
}

impl<D: Disk> SnapshotStore<D> {
    /// Begins to read a snapshot, to load it.
    ///
    /// # Errors
    /// [`BeginError`]; nothing was begun.
    pub fn begin_read(&mut self, snapshot: SnapshotId) -> Result<ReadId, BeginError> {
        let load = Load {
            decoder: Decoder::new(),
            ahead: 0,
            ready: BTreeMap::new(),
            open: None,
            sessions: Some(Vec::new()),
            state: Vec::new(),
            starved: true,
        };
        self.begin(snapshot, Mode::Load(Box::new(load)))
    }

    /// Begins to read a snapshot chunk by chunk, to send it.
    ///
    /// # Errors
    /// [`BeginError`]; nothing was begun.
    pub fn begin_send(&mut self, snapshot: SnapshotId) -> Result<ReadId, BeginError> {
        self.begin(snapshot, Mode::Send(VecDeque::new()))
    }

    fn begin(&mut self, snapshot: SnapshotId, mode: Mode) -> Result<ReadId, BeginError> {
        let header = self.header(snapshot).ok_or(BeginError::Gone(snapshot))?.clone();
        self.check_reads()?;
        let read = self.next_number();
        let name = header.key().name();
        let op = Op::Open { name: name.clone(), mode: OpenMode::ReadOnly };
        self.io.submit(For::Read { read }, op);
        let reading = Reading { snapshot, name, header, file: None, in_flight: 1, mode, ending: false };
        self.reads.insert(read, reading);
        Ok(ReadId(read))
    }

    /// Asks for a chunk as it is in the file: [`StoreEvent::Chunk`] brings it, in any order. False if two are under way for
    /// this read: ask again when one has come.
    ///
    /// # Errors
    /// The read is over, or is one to load; or the file has no such chunk.
    pub fn read_chunk(&mut self, read: ReadId, number: u64) -> Result<bool, UnknownId> {
        let unknown = UnknownId(read.0);
        let reading = self.reads.get_mut(&read.0).filter(|r| !r.ending).ok_or(unknown)?;
        let Mode::Send(waiting) = &mut reading.mode else { return Err(unknown) };
        if number >= reading.header.chunks() {
            return Err(unknown);
        }
        let opening = u32::from(reading.file.is_none());
        if waiting.len() + (reading.in_flight - opening) as usize >= CHUNKS_AHEAD_MAX {
            return Ok(false);
        }
        waiting.push_back(number);
        reading.ask(read.0, &mut self.io);
        Ok(true)
    }

    /// The next part of a snapshot that is being loaded. `None`: not yet, [`StoreEvent::Readable`] comes; or never, and then
    /// [`StoreEvent::ReadFailed`] comes. With [`ReadPart::End`] the read is over.
    ///
    /// # Errors
    /// The read is over, or is one to send.
    pub fn read_part(&mut self, read: ReadId) -> Result<Option<ReadPart>, UnknownId> {
        let unknown = UnknownId(read.0);
        let reading = self.reads.get_mut(&read.0).filter(|r| !r.ending).ok_or(unknown)?;
        let Mode::Load(load) = &mut reading.mode else { return Err(unknown) };
        match load.part(&reading.header, &mut self.io) {
            Ok(part) => {
                reading.ask(read.0, &mut self.io);
                if part == Some(ReadPart::End) {
                    self.end_read(read);
                }
                Ok(part)
            }
            Err(damage) => {
                self.fail_read(read.0, damage);
                Ok(None)
            }
        }
    }

    /// Nothing more is wanted of a read. No event of it comes any more.
    pub fn end_read(&mut self, read: ReadId) {
        if let Some(reading) = self.reads.get_mut(&read.0) {
            reading.ending = true;
            self.moved = true;
            reading.drop_buffers(&mut self.io);
        }
        self.maybe_forget_read(read.0);
    }

    fn fail_read(&mut self, read: u64, (offset, kind): (u64, DamageKind)) {
        let Some(reading) = self.reads.get(&read) else { return };
        let damage = Damage { file: reading.name.clone(), offset, kind };
        self.give_up_read(read, ReadFailure::Damaged(damage));
    }

    fn give_up_read(&mut self, read: u64, failure: ReadFailure) {
        let Some(snapshot) = self.reads.get(&read).filter(|r| !r.ending).map(|r| r.snapshot) else { return };
        self.distrust(snapshot, &failure);
        self.events.push(StoreEvent::ReadFailed { read: ReadId(read), snapshot, failure });
        self.end_read(ReadId(read));
    }

    /// The file was opened.
    pub(super) fn on_read_opened(&mut self, read: u64, completion: Completion) {
        let Some(reading) = self.reads.get_mut(&read) else { return };
        reading.in_flight -= 1;
        match completion.result {
            Ok(Done::Opened { file, len }) => {
                reading.file = Some(file);
                let expected = reading.header.file_bytes();
                if len == expected {
                    reading.ask(read, &mut self.io);
                    self.feed_read(read);
                } else {
                    self.fail_read(read, (0, DamageKind::Length { expected, found: len }));
                }
            }
            Ok(other) => unreachable!("an open ended with {other:?}"),
            Err(error) => self.give_up_read(read, ReadFailure::Disk(error)),
        }
        self.maybe_forget_read(read);
    }

    /// A chunk was read.
    pub(super) fn on_chunk_read(&mut self, read: u64, number: u64, completion: Completion) {
        let Some(reading) = self.reads.get_mut(&read) else { return };
        reading.in_flight -= 1;
        let (len, buffer) = match (completion.result, completion.buffer) {
            (Ok(Done::Transferred(len)), Some(buffer)) => (len, buffer),
            (Err(error), buffer) => {
                buffer.into_iter().for_each(|buffer| self.io.disk.recycle(buffer));
                self.give_up_read(read, ReadFailure::Disk(error));
                return self.maybe_forget_read(read);
            }
            other => unreachable!("a read ended with {other:?}"),
        };
        self.stats.read_bytes += u64::from(len);
        if reading.ending {
            self.io.disk.recycle(buffer);
            return self.maybe_forget_read(read);
        }
        match &mut reading.mode {
            Mode::Load(load) => {
                load.ready.insert(number, (buffer, len));
                self.feed_read(read);
            }
            Mode::Send(_) => {
                let chunk = &buffer.as_slice()[..len as usize];
                match open(&reading.header, number, chunk) {
                    Ok(_) => {
                        let bytes = chunk.to_vec();
                        self.events.push(StoreEvent::Chunk { read: ReadId(read), number, bytes });
                    }
                    Err(kind) => {
                        let offset = reading.header.offset_of(number);
                        self.fail_read(read, (offset, kind));
                    }
                }
                self.io.disk.recycle(buffer);
            }
        }
        self.maybe_forget_read(read);
    }

    /// Tells the owner that there is a part, if it waits for one.
    fn feed_read(&mut self, read: u64) {
        let Some(reading) = self.reads.get_mut(&read) else { return };
        let Mode::Load(load) = &mut reading.mode else { return };
        let next = load.decoder.next();
        let is_ready = next == reading.header.chunks() || load.ready.contains_key(&next);
        if is_ready && std::mem::take(&mut load.starved) {
            self.events.push(StoreEvent::Readable { read: ReadId(read) });
        }
    }

    fn maybe_forget_read(&mut self, read: u64) {
        let over = |reading: &Reading| reading.ending && reading.in_flight == 0;
        if self.reads.get(&read).is_some_and(over)
            && let Some(reading) = self.reads.remove(&read)
        {
            reading.file.into_iter().for_each(|file| self.io.close(file));
            let key = reading.key();
            self.retain(key.group, key.life, false);
        }
    }
}

impl Reading {
    pub(super) fn key(&self) -> Key {
        self.header.key()
    }

    /// Asks the disk for what is wanted next.
    fn ask<D: Disk>(&mut self, read: u64, io: &mut Io<D>) {
        let Some(file) = self.file else { return };
        loop {
            let number = match &mut self.mode {
                Mode::Send(waiting) => match waiting.pop_front() {
                    Some(number) => number,
                    None => return,
                },
                Mode::Load(load) => {
                    let held = load.ready.len() + usize::from(load.open.is_some());
                    let number = load.ahead;
                    if held + self.in_flight as usize >= CHUNKS_AHEAD_MAX || number >= self.header.chunks() {
                        return;
                    }
                    load.ahead += 1;
                    number
                }
            };
            let (offset, len) = (self.header.offset_of(number), self.header.len_of(number));
            let buffer = io.disk.buffer(len as usize);
            self.in_flight += 1;
            io.submit(For::Chunk { read, number }, Op::Read { file, offset, buffer, len });
        }
    }

    fn drop_buffers<D: Disk>(&mut self, io: &mut Io<D>) {
        let Mode::Load(load) = &mut self.mode else { return };
        let ready = std::mem::take(&mut load.ready).into_values().map(|(buffer, _)| buffer);
        ready.chain(load.open.take().map(|open| open.0)).for_each(|buffer| io.disk.recycle(buffer));
    }
}

impl Load {
    /// The next part, or where in the file what is wrong.
    fn part<D: Disk>(
        &mut self,
        header: &SnapshotHeader,
        io: &mut Io<D>,
    ) -> Result<Option<ReadPart>, (u64, DamageKind)> {
        loop {
            if let Some(sessions) = &mut self.sessions
                && sessions.len() as u64 == header.sessions_bytes
            {
                let sessions = std::mem::take(sessions);
                self.sessions = None;
                return Ok(Some(ReadPart::Sessions(sessions)));
            }
            if !self.state.is_empty() && self.sessions.is_none() {
                return Ok(Some(ReadPart::State(std::mem::take(&mut self.state))));
            }
            let next = self.decoder.next();
            if self.open.is_none() {
                if next == header.chunks() {
                    self.decoder.finish(header).map_err(|kind| (0, kind))?;
                    return Ok(Some(ReadPart::End));
                }
                let Some((buffer, len)) = self.ready.remove(&next) else {
                    self.starved = true;
                    return Ok(None);
                };
                match self.decoder.push(header, &buffer.as_slice()[..len as usize]) {
                    Ok(payload) => self.open = Some((buffer, payload)),
                    Err(kind) => {
                        io.disk.recycle(buffer);
                        return Err((header.offset_of(next), kind));
                    }
                }
            }
            let mut content = Vec::new();
            self.take_apart(header, &mut content, io)?;
            if let Some(sessions) = &mut self.sessions {
                let missing = header.sessions_bytes - sessions.len() as u64;
                let rest =
                    content.split_off(content.len().min(usize::try_from(missing).unwrap_or(usize::MAX)));
                sessions.append(&mut content);
                self.state = rest;
            } else if !content.is_empty() {
                return Ok(Some(ReadPart::State(content)));
            }
        }
    }

    fn take_apart<D: Disk>(
        &mut self,
        header: &SnapshotHeader,
        content: &mut Vec<u8>,
        io: &mut Io<D>,
    ) -> Result<(), (u64, DamageKind)> {
        let Some((buffer, payload)) = &mut self.open else { return Ok(()) };
        let place = header.offset_of(self.decoder.next() - 1);
        let taken = self.decoder.content(header, &buffer.as_slice()[payload.clone()], content);
        payload.start += taken.map_err(|kind| (place, kind))?;
        if payload.start == payload.end
            && let Some((buffer, _)) = self.open.take()
        {
            io.disk.recycle(buffer);
        }
        Ok(())
    }
}
