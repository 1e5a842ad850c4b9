//! The store: what is there, what is kept, and the poll that moves everything.

use std::collections::BTreeMap;

use logdrive_shard::{GroupId, LogIndex, Moment};
use logdrive_wal::{Completion, Disk, Op};

use super::error::{BeginError, NoGoodSnapshot, ReadFailure, SnapshotOpenError, WriteFailure};
use super::format::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, SnapshotHeader, is_chunk_bytes};
use super::io::{For, Io};
use super::names::Key;
use super::output::{Output, Source, Stage};
use super::pace::Pace;
use super::read::Reading;
use super::types::{Opened, SnapshotFileSettings, SnapshotId, StoreEvent, StoreStats, WriteId};
use super::write::pump;

/// Rounds of submitting and collecting in one poll, at most.
const ROUNDS_MAX: u32 = 4;

/// A complete file.
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// Its header, or why it is not used.
    pub(super) header: Result<SnapshotHeader, ReadFailure>,
    /// It came from another node, and nothing rests on it yet: it may still go, so it makes no other file superfluous.
    pub(super) on_trial: bool,
}

/// A file that an earlier process was receiving.
pub(super) struct Partial {
    pub(super) bytes: u64,
    pub(super) header: SnapshotHeader,
}

/// The snapshots of one core's groups, on a directory of their own. The module's documentation says how it is used.
pub struct SnapshotStore<D: Disk> {
    pub(super) io: Io<D>,
    pub(super) settings: SnapshotFileSettings,
    files: BTreeMap<Key, Entry>,
    pub(super) partials: BTreeMap<Key, Partial>,
    pub(super) outputs: BTreeMap<u64, Output>,
    pub(super) reads: BTreeMap<u64, Reading>,
    pub(super) events: Vec<StoreEvent>,
    pub(super) stats: StoreStats,
    /// Something was asked for since the last poll.
    pub(super) moved: bool,
    /// Snapshots that got an id.
    pub(super) ids: u64,
    pace: Pace,
    /// A chunk waits for the pace.
    paced: bool,
    /// Whose chunk was written last: the next one is another's.
    served: u64,
    next: u64,
}

impl<D: Disk> SnapshotStore<D> {
    /// Opens a directory: removes what is half-written, keeps what is half-received, reads all headers. Waits for the disk, as opening a log does.
    ///
    /// # Errors
    /// The directory cannot be listed or changed, or a setting is out of its range. Files that are damaged are no error.
    pub fn open(
        disk: D,
        settings: SnapshotFileSettings,
    ) -> Result<(SnapshotStore<D>, Opened), SnapshotOpenError> {
        check_settings(&settings)?;
        let mut disk = disk;
        let (files, partials, opened) = super::open::scan(&mut disk, settings.receives_max)?;
        let damaged = opened.damaged.len() as u64;
        let pace = Pace::new(settings.snapshot_bytes_per_s, settings.chunk_bytes);
        let mut store = SnapshotStore {
            io: Io::new(disk),
            settings,
            files,
            partials,
            outputs: BTreeMap::new(),
            reads: BTreeMap::new(),
            events: Vec::new(),
            stats: StoreStats { damaged, ..StoreStats::default() },
            moved: true,
            ids: 0,
            pace,
            paced: false,
            served: 0,
            next: 1,
        };
        let lives: Vec<(GroupId, u32)> = store.files.keys().map(|key| (key.group, key.life)).collect();
        for (group, life) in lives {
            store.retain(group, life, false);
        }
        Ok((store, opened))
    }

    /// The newest good snapshot of a group's life; `None` if there never was one.
    ///
    /// # Errors
    /// There are files, and all of them are damaged.
    pub fn newest(&self, group: GroupId, life: u32) -> Result<Option<&SnapshotHeader>, NoGoodSnapshot> {
        let mut damages = Vec::new();
        for (_, entry) in self.of(group, life).rev() {
            match &entry.header {
                Ok(header) => return Ok(Some(header)),
                Err(failure) => damages.push(failure.clone()),
            }
        }
        if damages.is_empty() { Ok(None) } else { Err(NoGoodSnapshot { group, life, damages }) }
    }

    /// All good snapshots, by group, life and index.
    pub fn snapshots(&self) -> impl Iterator<Item = &SnapshotHeader> {
        self.files.values().filter_map(|entry| entry.header.as_ref().ok())
    }

    /// The header of a good snapshot.
    pub fn header(&self, snapshot: SnapshotId) -> Option<&SnapshotHeader> {
        self.snapshots().find(|header| header.id == snapshot)
    }

    /// The header of a good snapshot as it is sent, ahead of the chunks.
    pub fn header_of(&self, snapshot: SnapshotId) -> Option<Vec<u8>> {
        self.header(snapshot).map(SnapshotHeader::encode)
    }

    /// The state of a group rests on a snapshot that was received: older ones are superfluous from now on, as the settings say.
    pub fn accept(&mut self, snapshot: SnapshotId) {
        let Some((&key, entry)) = self.files.iter_mut().find(|(key, _)| key.id == snapshot) else { return };
        entry.on_trial = false;
        self.retain(key.group, key.life, true);
    }

    /// Removes a snapshot that is not wanted any more, whatever the settings keep. False if there is none, or it is being read.
    pub fn remove(&mut self, snapshot: SnapshotId) -> bool {
        let Some(key) = self.files.keys().find(|key| key.id == snapshot).copied() else { return false };
        !self.is_read(key) && self.remove_file(key)
    }

    /// Removes all snapshots of a group in this life of it and the earlier ones, and gives up those that are being written. A read
    /// that has its file open comes to its end all the same.
    pub fn forget(&mut self, group: GroupId, life: u32) {
        self.forget_partials(|key| key.group == group && key.life <= life);
        let keys: Vec<Key> =
            self.files.keys().filter(|k| k.group == group && k.life <= life).copied().collect();
        for key in keys {
            self.remove_file(key);
        }
        for output in self.outputs.values_mut().filter(|o| o.key.group == group && o.key.life <= life) {
            output.fail(&mut self.io, WriteFailure::Aborted);
        }
        self.moved = true;
    }

    /// Moves everything: takes completions, writes what may be written now, and says what happened. True: there is more to do at
    /// once.
    pub fn poll(&mut self, now: Moment, events: &mut Vec<StoreEvent>) -> bool {
        self.pace.advance(now);
        self.moved = false;
        let mut completions = Vec::new();
        for _ in 0..ROUNDS_MAX {
            self.io.fresh = false;
            self.io.disk.poll(&mut completions);
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
            self.move_outputs();
            if !self.io.fresh {
                break;
            }
        }
        events.append(&mut self.events);
        self.io.fresh || self.moved
    }

    /// As [`SnapshotStore::poll`], but waits for the disk if nothing has happened and something is under way. For opening a core; never
    /// from a running one.
    pub fn wait(&mut self, now: Moment, events: &mut Vec<StoreEvent>) {
        let before = events.len();
        if self.poll(now, events) || events.len() > before || self.io.is_idle() {
            return;
        }
        let mut completions = Vec::new();
        self.io.disk.wait(&mut completions);
        for completion in completions.drain(..) {
            self.on_completion(completion);
        }
        events.append(&mut self.events);
    }

    /// When to poll again even if the disk has nothing to say: when bytes per second allow the next chunk.
    pub fn next_wake(&self) -> Moment {
        if self.paced { self.pace.opens_at() } else { Moment::NEVER }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.io.is_idle() && self.outputs.is_empty() && self.reads.is_empty() && self.events.is_empty()
    }

    /// Counters, and what there is now.
    pub fn stats(&self) -> StoreStats {
        let files = self.snapshots().count() as u64;
        let file_bytes = self.files.values().map(|entry| entry.bytes).sum();
        StoreStats { files, file_bytes, ..self.stats }
    }

    /// The disk, for what only its kind has: an eventfd, say.
    pub fn disk(&self) -> &D {
        &self.io.disk
    }

    /// The disk, for what only its kind has: faults, say. Operations that the store did not ask for must not complete on it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.io.disk
    }

    /// Gives up what is under way, removes the files that were being written (those that were being received are gone on with by the
    /// next process), and hands the disk back. Waits for the disk.
    pub fn close(mut self) -> D {
        for output in self.outputs.values_mut() {
            output.stays = output.failure.is_none() && matches!(output.source, Source::Remote(_));
            output.fail(&mut self.io, WriteFailure::Aborted);
        }
        let reads: Vec<u64> = self.reads.keys().copied().collect();
        for read in reads {
            self.end_read(super::types::ReadId(read));
        }
        let mut completions = Vec::new();
        loop {
            self.move_outputs();
            if self.io.is_idle() {
                return self.io.disk;
            }
            self.io.disk.wait(&mut completions);
            if completions.is_empty() {
                tracing::warn!(
                    root = self.io.disk.root(),
                    "the disk of the snapshots does not answer any more"
                );
                return self.io.disk;
            }
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match self.io.ended(&completion) {
            For::Output { output, place } => {
                if let Some(output) = self.outputs.get_mut(&output) {
                    self.stats.written_bytes += u64::from(place.len);
                    output.on_completion(&mut self.io, completion, place);
                }
            }
            For::Verify { output } => {
                if let Some(output) = self.outputs.get_mut(&output) {
                    output.on_verified(&mut self.io, completion);
                }
            }
            For::Read { read } => self.on_read_opened(read, completion),
            For::Chunk { read, number } => self.on_chunk_read(read, number, completion),
            For::Removal { name } => {
                if let Err(error) = completion.result {
                    tracing::warn!(name, %error, "an old snapshot was not removed; it is tried again at the next start");
                }
                self.io.submit(For::Removed, Op::SyncDir);
            }
            // A close or a sync of removals that failed changes nothing that anybody counts on.
            For::Removed | For::Close => {}
        }
    }

    fn move_outputs(&mut self) {
        for output in self.outputs.values_mut() {
            pump(output, &mut self.io);
            output.advance(&mut self.io);
        }
        self.write_chunks();
        let mut over = Vec::new();
        for output in self.outputs.values_mut() {
            output.advance(&mut self.io);
            if matches!(output.stage, Stage::Done | Stage::Gone) {
                over.push(output.number);
            } else if output.failure.is_none() && output.has_room() && std::mem::take(&mut output.wants_room)
            {
                self.events.push(StoreEvent::Writable { write: WriteId(output.number) });
            }
        }
        for number in over {
            self.end_output(number);
        }
    }

    /// Chunks that wait go to the disk, one of each file in turn, as far as bytes per second allow.
    fn write_chunks(&mut self) {
        self.paced = false;
        loop {
            let after = self.outputs.range(self.served + 1..);
            let mut ready = after.chain(self.outputs.range(..=self.served)).filter(|(_, o)| o.is_ready());
            let Some(number) = ready.next().map(|(number, _)| *number) else { return };
            drop(ready);
            if !self.pace.is_open() {
                self.stats.paced += 1;
                self.paced = true;
                return;
            }
            self.served = number;
            let Some(output) = self.outputs.get_mut(&number) else { return };
            let (free, reserve) = (self.io.disk.free_bytes(), self.settings.space_reserve_bytes);
            let needed = output.queue.front().map_or(0, |piece| u64::from(piece.len));
            if free < needed.saturating_add(reserve) {
                let offset = output.queue.front().map_or(0, |piece| piece.offset);
                let file = output.working_name();
                output.fail(&mut self.io, WriteFailure::NoSpace { file, offset, free, reserve });
                continue;
            }
            let len = output.write_next(&mut self.io);
            self.pace.take(len);
        }
    }

    fn end_output(&mut self, number: u64) {
        let Some(output) = self.outputs.remove(&number) else { return };
        let write = WriteId(number);
        match (output.failure, output.header) {
            (None, Some(header)) => {
                let key = output.key;
                self.stats.durable += 1;
                self.events.push(StoreEvent::Durable { write, snapshot: header.id });
                let on_trial = matches!(output.source, Source::Remote(_));
                self.files.insert(key, Entry { bytes: header.file_bytes(), header: Ok(header), on_trial });
                self.retain(key.group, key.life, true);
            }
            (failure, _) => {
                self.stats.failed += 1;
                let failure = failure.unwrap_or(WriteFailure::Aborted);
                self.events.push(StoreEvent::WriteFailed { write, failure });
            }
        }
    }

    /// Removes what the newest good snapshot of a group's life and the settings make superfluous.
    /// `damaged`: those that could not be read as well, because there is a newer one that was just written. Before that they may
    /// be needed: a device that could not read them may do so at the next start.
    pub(super) fn retain(&mut self, group: GroupId, life: u32, damaged: bool) {
        let newest = self.newest(group, life).ok().flatten().map_or(LogIndex(0), |header| header.index);
        self.forget_partials(|key| key.group == group && key.life == life && key.index <= newest);
        let kept = self.settings.snapshots_kept as usize + 1;
        let mut good = 0;
        let mut superfluous = Vec::new();
        for (key, entry) in self.of(group, life).rev() {
            match entry.header {
                Ok(_) if entry.on_trial && good == 0 => {}
                Ok(_) if good < kept => good += 1,
                Ok(_) => superfluous.push(*key),
                Err(_) if damaged && good > 0 => superfluous.push(*key),
                Err(_) => {}
            }
        }
        for key in superfluous {
            if !self.is_read(key) {
                self.remove_file(key);
                self.stats.removed += 1;
            }
        }
    }

    /// What an earlier process received and nobody will go on with.
    pub(super) fn forget_partials(&mut self, which: impl Fn(Key) -> bool) {
        let keys: Vec<Key> = self.partials.keys().copied().filter(|key| which(*key)).collect();
        for key in keys {
            self.partials.remove(&key);
            let name = key.partial();
            self.io.submit(For::Removal { name: name.clone() }, Op::Unlink { name });
            self.moved = true;
        }
    }

    fn remove_file(&mut self, key: Key) -> bool {
        let removed = self.files.remove(&key).is_some();
        if removed {
            let name = key.name();
            self.io.submit(For::Removal { name: name.clone() }, Op::Unlink { name });
            self.moved = true;
        }
        removed
    }

    /// A file that could not be read is not offered any more.
    pub(super) fn distrust(&mut self, snapshot: SnapshotId, failure: &ReadFailure) {
        let entry = self.files.iter_mut().find(|(key, _)| key.id == snapshot);
        if let Some((_, entry)) = entry.filter(|(_, entry)| entry.header.is_ok()) {
            entry.header = Err(failure.clone());
            self.stats.damaged += 1;
        }
    }

    fn of(&self, group: GroupId, life: u32) -> impl DoubleEndedIterator<Item = (&Key, &Entry)> {
        let key = |index, id| Key { group, life, index: LogIndex(index), id: SnapshotId(id) };
        self.files.range(key(0, 0)..=key(u64::MAX, u64::MAX))
    }

    pub(super) fn is_good(&self, key: Key) -> bool {
        self.files.get(&key).is_some_and(|entry| entry.header.is_ok())
    }

    fn is_read(&self, key: Key) -> bool {
        self.reads.values().any(|reading| reading.key() == key)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn begin_output(&mut self, key: Key, source: Source) -> WriteId {
        let number = self.next_number();
        let mut output = Output::new(number, key, source);
        output.open(&mut self.io);
        self.outputs.insert(number, output);
        self.moved = true;
        WriteId(number)
    }

    pub(super) fn check_writes(&mut self) -> Result<(), BeginError> {
        let writes = self.outputs.values().filter(|o| matches!(o.source, Source::Local(_))).count();
        self.check_count("writes", writes, self.settings.writes_max, "writes_max")
    }

    pub(super) fn check_receives(&mut self) -> Result<(), BeginError> {
        let receives = self.outputs.values().filter(|o| matches!(o.source, Source::Remote(_))).count();
        self.check_count("receptions", receives, self.settings.receives_max, "receives_max")
    }

    pub(super) fn check_reads(&mut self) -> Result<(), BeginError> {
        self.check_count("reads", self.reads.len(), self.settings.reads_max, "reads_max")
    }

    fn check_count(
        &mut self,
        what: &'static str,
        count: usize,
        max: u32,
        setting: &'static str,
    ) -> Result<(), BeginError> {
        if count < max as usize {
            return Ok(());
        }
        self.stats.too_many += 1;
        Err(BeginError::TooMany { what, under_way: max, setting })
    }

    pub(super) fn check_space(&mut self, needed: u64) -> Result<(), BeginError> {
        let (free, reserve) = (self.io.disk.free_bytes(), self.settings.space_reserve_bytes);
        if free >= needed.saturating_add(reserve) {
            return Ok(());
        }
        Err(BeginError::NoSpace { root: self.io.disk.root(), needed, free, reserve })
    }
}

fn check_settings(settings: &SnapshotFileSettings) -> Result<(), SnapshotOpenError> {
    let value = u64::from(settings.chunk_bytes);
    if is_chunk_bytes(settings.chunk_bytes) {
        return Ok(());
    }
    const { assert!(CHUNK_BYTES_MIN == 4096 && CHUNK_BYTES_MAX == 16 << 20, "as the message says") };
    let rule = "a multiple of 4096, from 4096 to 16777216";
    Err(SnapshotOpenError::Setting { setting: "chunk_bytes", value, rule })
}
