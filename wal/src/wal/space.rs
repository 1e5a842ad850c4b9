//! Segments: prepared in the background, started, reclaimed. The budget.

use std::collections::VecDeque;

use super::writer::RETRY_NANOS;
use super::{CLASS_SPACE, Health, Options, Wal, token};
use crate::buffer::Buffer;
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op, OpenMode};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, Incarnation, Lsn, RECORD_OVERHEAD_MAX, SegmentHeader, unfinished_name,
};
use crate::mutant;

/// Zeros are written in pieces of this many bytes: small enough not to hold up the log's own writes.
const ZERO_PIECE: u64 = 1 << 20;
/// Guess at the size of an entry whose batch has no segment yet.
const UNPLACED_BYTES: u64 = 1024;
/// Segments that entries may not use: one for what was let in already, one for votes, states and compactions, one for reclaim,
/// which has to move what is live before anything becomes free.
const RESERVE_SEGMENTS: u64 = 3;
/// Segments at least: one that is written, one ahead, and the reserve.
pub(super) const SEGMENTS_MIN: u64 = 2 + RESERVE_SEGMENTS;

/// Whether a segment ends with a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// Nobody has looked: an earlier process wrote the segment.
    Unknown,
    /// There is one.
    Written,
    /// There is none: the process that wrote it ended before the segment was full.
    Missing,
}

/// A segment with batches.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) incarnation: Incarnation,
    pub(super) file: FileId,
    pub(super) bytes: u64,
    /// As it is, or was meant to be, in the first block; `None` if opening could only tell where the segment starts.
    pub(super) header: Option<SegmentHeader>,
    pub(super) seal: Seal,
    pub(super) start: Lsn,
    /// Where its batches end so far.
    pub(super) end: Lsn,
    /// Reads under way: the file is not given away before they end.
    pub(super) readers: u32,
    /// Entries and copies in its batches, and how many of them do not count any more. What is live is estimated from these, as
    /// if all were of one size: a size per entry would cost more memory than it is worth.
    pub(super) entries: u32,
    pub(super) dead: u32,
    /// Bytes of all these entries and copies.
    pub(super) entry_bytes: u64,
}

impl Segment {
    /// A segment without batches.
    pub(super) fn empty(incarnation: Incarnation, file: FileId, bytes: u64, start: Lsn) -> Segment {
        Segment {
            incarnation,
            file,
            bytes,
            header: None,
            seal: Seal::Unknown,
            start,
            end: start,
            readers: 0,
            entries: 0,
            dead: 0,
            entry_bytes: 0,
        }
    }

    pub(super) fn offset(&self, lsn: Lsn) -> u64 {
        BLOCK + lsn.since(self.start)
    }

    /// About how many bytes of its batches no stream's entries need. Padding counts: what is rewritten is packed.
    fn dead_bytes(&self) -> u64 {
        let live = self.entry_bytes * u64::from(self.entries - self.dead) / u64::from(self.entries.max(1));
        self.end.since(self.start).saturating_sub(live)
    }
}

/// Bytes of a directory at most, in segments of this size.
pub(super) fn directory_bytes_max(segment_bytes: u64) -> u64 {
    (segment_bytes / 64).clamp(256, 32 << 10)
}

/// Bytes that are kept for the seal at the end of a segment of this size.
pub(super) fn seal_bytes(segment_bytes: u64) -> u64 {
    let head = (BATCH_HEADER_BYTES + RECORD_OVERHEAD_MAX) as u64;
    (head + directory_bytes_max(segment_bytes)).next_multiple_of(BLOCK)
}

/// Bytes for batches in a segment of this size.
pub(super) fn capacity(segment_bytes: u64) -> u64 {
    segment_bytes - BLOCK - seal_bytes(segment_bytes)
}

/// A file ready to become a segment: zeroed or recycled, its name durable, open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    pub(super) incarnation: Incarnation,
    pub(super) file: FileId,
    pub(super) bytes: u64,
}

/// A file whose content nobody needs.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: FileId,
    pub(super) bytes: u64,
}

/// Preparing a segment, step by step; one at a time.
#[derive(Debug)]
enum Step {
    Idle,
    Opening {
        name: String,
    },
    Zeroing {
        name: String,
        file: FileId,
        offset: u64,
    },
    Syncing {
        name: String,
        file: FileId,
    },
    Renaming {
        name: String,
        file: FileId,
        bytes: u64,
        incarnation: Incarnation,
    },
    SyncingDir {
        file: FileId,
        bytes: u64,
        incarnation: Incarnation,
    },
    /// Giving up an unfinished file: closed already, its name goes.
    Removing,
}

/// All segment files of a log.
pub(super) struct Segments {
    list: VecDeque<Segment>,
    /// Bytes of the files of `list`.
    used_bytes: u64,
    /// Whether the last of `list` takes batches.
    active: bool,
    prepared: VecDeque<Prepared>,
    pub(super) spares: VecDeque<Spare>,
    /// Spares from when the next segment's header is durable.
    pub(super) held: Vec<Spare>,
    /// Names to be removed: spares that nobody will need.
    removals: u32,
    step: Step,
    next_incarnation: Incarnation,
    serial: u64,
    ahead: u32,
    pub(super) segment_bytes: u64,
    pub(super) budget_bytes: u64,
    /// Set while the disk has no room for another segment: the time of the next try.
    pub(super) blocked_until: Option<u64>,
    zeros: Option<Buffer>,
}

impl Segments {
    pub(super) fn new(options: &Options, budget_bytes: u64, next_incarnation: Incarnation) -> Segments {
        Segments {
            list: VecDeque::new(),
            used_bytes: 0,
            active: false,
            prepared: VecDeque::new(),
            spares: VecDeque::new(),
            held: Vec::new(),
            removals: 0,
            step: Step::Idle,
            next_incarnation,
            serial: 0,
            ahead: options.segments_ahead.max(1),
            segment_bytes: options.segment_bytes,
            budget_bytes,
            blocked_until: None,
            zeros: None,
        }
    }

    pub(super) fn last(&self) -> Option<&Segment> {
        self.list.back()
    }
    pub(super) fn last_incarnation(&self) -> Incarnation {
        self.last().map_or(Incarnation::NONE, |s| s.incarnation)
    }
    pub(super) fn first_incarnation(&self) -> Option<Incarnation> {
        self.list.front().map(|s| s.incarnation)
    }
    /// Largest batch that fits into a segment.
    pub(super) fn batch_bytes_max(&self) -> usize {
        capacity(self.segment_bytes) as usize
    }
    /// Bytes left for batches in the segment that is written.
    pub(super) fn active_room(&self) -> u64 {
        match (self.active, self.last()) {
            (true, Some(last)) => (last.bytes - last.offset(last.end)).saturating_sub(seal_bytes(last.bytes)),
            _ => 0,
        }
    }
    pub(super) fn take_prepared(&mut self) -> Option<Prepared> {
        self.prepared.pop_front()
    }
    pub(super) fn prepared_count(&self) -> u32 {
        self.prepared.len() as u32
    }
    /// The next segment, with its header.
    pub(super) fn start(&mut self, prepared: Prepared, header: SegmentHeader) {
        let Prepared { incarnation, file, bytes } = prepared;
        let segment = Segment::empty(incarnation, file, bytes, header.start);
        self.push(Segment { header: Some(header), ..segment });
        self.active = true;
    }
    /// The last segment takes batches again, if it has room for any.
    pub(super) fn resume(&mut self) -> bool {
        self.active = true;
        self.active = self.active_room() >= BLOCK;
        self.active
    }
    /// The last segment takes no batches.
    pub(super) fn suspend(&mut self) {
        self.active = false;
    }
    /// A segment behind the others.
    pub(super) fn push(&mut self, segment: Segment) {
        assert!(segment.incarnation > self.last_incarnation(), "segments are numbered in order");
        self.used_bytes += segment.bytes;
        self.list.push_back(segment);
    }
    /// The segment before the last one.
    pub(super) fn before_last(&self) -> Incarnation {
        let number = self.list.len().checked_sub(2);
        number.map_or(Incarnation::NONE, |n| self.list[n].incarnation)
    }
    pub(super) fn next_prepared(&self) -> Option<Prepared> {
        self.prepared.front().copied()
    }
    /// The next prepared file has taken over the batches of the last segment, and is active.
    pub(super) fn replace_last(&mut self, prepared: Prepared, header: SegmentHeader, end: Lsn) {
        assert!(!self.active, "a segment that is written is not moved");
        self.prepared.pop_front();
        if let Some(old) = self.list.pop_back() {
            self.used_bytes -= old.bytes;
            self.spares.push_back(Spare {
                name: old.incarnation.file_name(),
                file: old.file,
                bytes: old.bytes,
            });
        }
        self.spares.extend(self.held.drain(..));
        self.start(prepared, header);
        if let Some(last) = self.list.back_mut() {
            last.end = end;
        }
    }
    /// The first segment behind an incarnation that has a batch before a position.
    pub(super) fn begun_after(&self, incarnation: Incarnation, before: Lsn) -> Option<&Segment> {
        let number = self.list.partition_point(|s| s.incarnation <= incarnation);
        self.list.iter().skip(number).find(|s| s.start < before && s.start < s.end)
    }
    /// A segment and the one behind it.
    pub(super) fn with_next(&self, incarnation: Incarnation) -> Option<(&Segment, Option<&Segment>)> {
        let number = self.list.partition_point(|s| s.incarnation < incarnation);
        let segment = self.list.get(number).filter(|s| s.incarnation == incarnation)?;
        Some((segment, self.list.get(number + 1)))
    }
    /// The last segment has got its seal.
    pub(super) fn note_seal(&mut self) {
        if let Some(last) = self.list.back_mut() {
            last.seal = Seal::Written;
        }
    }
    /// Names of unfinished files begin behind this number: an earlier process left some that could not be removed.
    pub(super) fn skip_serials(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }
    pub(super) fn get(&self, number: usize) -> &Segment {
        &self.list[number]
    }
    pub(super) fn is_active(&self) -> bool {
        self.active
    }
    /// Takes the next so many bytes of the active segment, which has them.
    pub(super) fn place(&mut self, bytes: u64) -> (FileId, Incarnation, u64) {
        let last = self.list.back_mut().expect("a segment is active");
        let offset = last.offset(last.end);
        assert!(offset + bytes <= last.bytes, "{bytes} bytes at {offset} of {}", last.bytes);
        last.end = last.end.plus(bytes);
        (last.file, last.incarnation, offset)
    }
    /// The segment that a position lies in.
    pub(super) fn at(&self, lsn: Lsn) -> Option<usize> {
        let number = self.list.partition_point(|s| s.start <= lsn).checked_sub(1)?;
        (lsn < self.list[number].end).then_some(number)
    }
    pub(super) fn by_incarnation(&mut self, incarnation: Incarnation) -> Option<&mut Segment> {
        let number = self.list.partition_point(|s| s.incarnation < incarnation);
        self.list.get_mut(number).filter(|s| s.incarnation == incarnation)
    }
    pub(super) fn front(&self) -> Option<&Segment> {
        self.list.front()
    }
    pub(super) fn pop_front(&mut self) -> Option<Segment> {
        let segment = self.list.pop_front()?;
        self.used_bytes -= segment.bytes;
        Some(segment)
    }
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }
    /// The first segment that is needed if nothing before a position is; the last one always is.
    pub(super) fn first_needed(&self, low: Lsn) -> Incarnation {
        let last = self.last_incarnation();
        let sealed = self.list.iter().filter(|s| s.incarnation < last);
        sealed.into_iter().find(|s| s.end > low).map_or(last, |s| s.incarnation)
    }
    pub(super) fn start_of(&self, incarnation: Incarnation) -> Lsn {
        let number = self.list.partition_point(|s| s.incarnation < incarnation);
        self.list.get(number).map_or(Lsn(0), |s| s.start)
    }
    /// The batch just placed has so many entries.
    pub(super) fn count_entries(&mut self, entries: u32, dead: u32, entry_bytes: u64) {
        if let Some(last) = self.list.back_mut() {
            last.entries += entries;
            last.dead += dead;
            last.entry_bytes += entry_bytes;
        }
    }
    /// The entry at a position does not count any more. False if it lies in no segment yet.
    pub(super) fn note_dead(&mut self, lsn: Lsn) -> bool {
        let Some(number) = self.at(lsn) else { return false };
        let segment = &mut self.list[number];
        segment.dead = (segment.dead + 1).min(segment.entries);
        true
    }
    /// Every entry is dead until [`Segments::note_live`] says otherwise.
    pub(super) fn all_dead(&mut self) {
        self.list.iter_mut().for_each(|segment| segment.dead = segment.entries);
    }
    pub(super) fn note_live(&mut self, lsn: Lsn) {
        if let Some(number) = self.at(lsn) {
            let segment = &mut self.list[number];
            segment.dead = segment.dead.saturating_sub(1);
        }
    }
    /// About how many bytes of all segments but the last no stream's entries need.
    pub(super) fn dead_bytes(&self) -> u64 {
        let sealed = self.list.len().saturating_sub(1);
        self.list.iter().take(sealed).map(Segment::dead_bytes).sum()
    }
    /// About how many bytes the entry at a position takes.
    pub(super) fn mean_entry_bytes(&self, lsn: Lsn) -> u64 {
        let Some(segment) = self.at(lsn).map(|number| &self.list[number]) else { return UNPLACED_BYTES };
        segment.entry_bytes / u64::from(segment.entries.max(1))
    }
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }
    pub(super) fn reserve_bytes(&self) -> u64 {
        RESERVE_SEGMENTS * self.segment_bytes
    }
    fn files_bytes(&self) -> u64 {
        let prepared: u64 = self.prepared.iter().map(|p| p.bytes).sum();
        let spares: u64 = self.spares.iter().chain(&self.held).map(|s| s.bytes).sum();
        self.used_bytes() + prepared + spares
    }
    /// Bytes for batches within a limit: what is left of the active segment and whole segments beside it. On a full disk
    /// there is no more than the files that are there, of which so many quarters of a segment are kept back.
    pub(super) fn room(&self, limit_bytes: u64, quarters: u64) -> u64 {
        let used = self.used_bytes();
        if used > limit_bytes {
            return 0;
        }
        let allowed = (limit_bytes - used) / self.segment_bytes;
        let capacity = capacity(self.segment_bytes);
        if self.blocked_until.is_none() {
            return self.active_room() + allowed * capacity;
        }
        let ready = self.prepared.len() as u64 + self.spares.len() as u64;
        (self.active_room() + allowed.min(ready) * capacity).saturating_sub(capacity / 4 * quarters)
    }
    /// What nobody but the log itself may use: the record that frees segments, and what is lost where a batch does not fit
    /// into the rest of a segment.
    fn own_bytes(&self, batch_bytes_max: u32) -> u64 {
        (u64::from(batch_bytes_max) + 16 * BLOCK).min(capacity(self.segment_bytes) / 2)
    }
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle) && self.removals == 0
    }
}

impl<D: Disk> Wal<D> {
    /// Computes anew what may be appended, and whether the log is out of space.
    pub(super) fn update_room(&mut self) {
        if matches!(self.health, Health::Poisoned(_)) {
            return;
        }
        let backlog = self.closed_bytes + self.open.as_ref().map_or(0, |b| b.padded());
        let budget = self.segments.budget_bytes;
        let own = self.segments.own_bytes(self.options.batch_bytes_max);
        let reserve = self.segments.reserve_bytes();
        self.entry_room = self.segments.room(budget - reserve, 4).saturating_sub(backlog + own);
        let segment = self.segments.segment_bytes;
        self.append_room = self.segments.room(budget - 2 * segment, 3).saturating_sub(backlog);
        // A start at the budget adds a segment over it rather than leave the node without a vote.
        let used = self.segments.used_bytes();
        self.vital_room = self.segments.room((budget - segment).max(used), 2).saturating_sub(backlog + own);
        self.reclaim.room = self.segments.room(budget.max(used), 0).saturating_sub(backlog + own / 2);
        if self.retry_at.is_some() {
            self.entry_room = 0;
        }
        let full = self.segments.blocked_until.is_some() && self.entry_room < BLOCK;
        if self.retry_at.is_some() || full {
            self.set_health(Health::OutOfSpace);
        } else {
            self.set_health(Health::Running);
        }
    }

    /// Begins to prepare a segment if one is wanted and allowed.
    pub(super) fn maybe_prepare(&mut self, now_nanos: u64) {
        if !self.segments.is_idle() || self.segments.blocked_until.is_some_and(|at| now_nanos < at) {
            return;
        }
        let wanted = self.segments.ahead;
        if self.segments.prepared_count() >= wanted {
            return self.drop_spare();
        }
        if let Some(spare) = self.segments.spares.pop_front() {
            if spare.bytes != self.segments.segment_bytes {
                self.segments.spares.push_front(spare);
                return self.drop_spare();
            }
            return self.rename_prepared(spare.name, spare.file, spare.bytes);
        }
        let over = self.segments.files_bytes() + self.segments.segment_bytes > self.segments.budget_bytes;
        if over && (self.segments.active || self.segments.prepared_count() > 0) {
            return;
        }
        self.segments.serial += 1;
        let name = unfinished_name(self.segments.serial);
        self.segments.step = Step::Opening { name: name.clone() };
        self.disk.submit(token(CLASS_SPACE, 0), Op::Open { name, mode: OpenMode::CreateNew });
    }

    /// Removes a recycled file that is one too many.
    fn drop_spare(&mut self) {
        let keep = self.options.segments_ready_max.saturating_sub(self.options.segments_ahead) as usize;
        let wrong_size = |s: &Spare| s.bytes != self.segments.segment_bytes;
        if self.segments.spares.len() <= keep && !self.segments.spares.front().is_some_and(wrong_size) {
            return;
        }
        let Some(spare) = self.segments.spares.pop_front() else { return };
        self.segments.removals = 2;
        self.disk.submit(token(CLASS_SPACE, 1), Op::Close { file: spare.file });
        self.disk.submit(token(CLASS_SPACE, 1), Op::Unlink { name: spare.name });
    }

    fn rename_prepared(&mut self, from: String, file: FileId, bytes: u64) {
        let incarnation = self.segments.next_incarnation;
        self.segments.next_incarnation = incarnation.next();
        self.segments.step = Step::Renaming { name: from.clone(), file, bytes, incarnation };
        self.disk.submit(token(CLASS_SPACE, 0), Op::Rename { from, to: incarnation.file_name() });
    }

    fn write_zeros(&mut self, name: String, file: FileId, offset: u64) {
        let len = ZERO_PIECE.min(self.segments.segment_bytes - offset);
        // Kept between pieces, so that its zeros are written once: nothing else uses it.
        let buffer = self.segments.zeros.take().unwrap_or_else(|| Buffer::heap(len as usize));
        self.segments.step = Step::Zeroing { name, file, offset };
        let op = Op::Write { file, offset, buffer, len: len as u32, durable: false };
        self.disk.submit(token(CLASS_SPACE, 0), op);
    }

    pub(super) fn on_space(&mut self, number: u64, completion: Completion, now_nanos: u64) {
        // What follows is handed to the disk with the next `submit` or `poll`: the owner must not sleep before that.
        self.news = true;
        if number == 1 {
            // A spare was closed or its name removed. That it stays behind costs space until the next open, no more.
            self.segments.removals -= 1;
            if let Err(error) = completion.result {
                tracing::warn!(%error, "a segment that is not needed could not be removed");
            }
            return;
        }
        if completion.buffer.is_some() {
            self.segments.zeros = completion.buffer;
        }
        let step = std::mem::replace(&mut self.segments.step, Step::Idle);
        match (completion.result, step) {
            (Ok(Done::Opened { file, .. }), Step::Opening { name }) => self.write_zeros(name, file, 0),
            (Ok(Done::Transferred(bytes)), Step::Zeroing { name, file, offset }) => {
                let end = offset + u64::from(bytes);
                if bytes == 0 || !end.is_multiple_of(BLOCK) {
                    return self.give_up(name, Some(file), now_nanos);
                }
                if end < self.segments.segment_bytes {
                    return self.write_zeros(name, file, end);
                }
                self.segments.zeros = None;
                self.segments.step = Step::Syncing { name, file };
                self.disk.submit(token(CLASS_SPACE, 0), Op::Sync { file });
            }
            (Ok(_), Step::Syncing { name, file }) => {
                self.stats.segments_created += 1;
                self.rename_prepared(name, file, self.segments.segment_bytes);
            }
            (Ok(_), Step::Renaming { file, bytes, incarnation, .. }) => {
                self.segments.step = Step::SyncingDir { file, bytes, incarnation };
                let op = if mutant::DIRECTORY_UNSYNCED { Op::List } else { Op::SyncDir };
                self.disk.submit(token(CLASS_SPACE, 0), op);
            }
            (Ok(_), Step::SyncingDir { file, bytes, incarnation }) => {
                self.segments.prepared.push_back(Prepared { incarnation, file, bytes });
                self.segments.blocked_until = None;
            }
            (_, Step::Removing) => {}
            (Err(error), Step::Opening { name }) if error.is_out_of_space() => {
                self.give_up(name, None, now_nanos)
            }
            (Err(error), Step::Zeroing { name, file, .. } | Step::Syncing { name, file })
                if error.is_out_of_space() =>
            {
                self.give_up(name, Some(file), now_nanos);
            }
            (Err(error), Step::Renaming { name, file, bytes, .. }) if error.is_out_of_space() => {
                self.postpone(name, file, bytes, now_nanos);
            }
            // What the directory holds is not known: it is renamed once more, and synced.
            (Err(error), Step::SyncingDir { file, bytes, incarnation }) if error.is_out_of_space() => {
                self.postpone(incarnation.file_name(), file, bytes, now_nanos);
            }
            (Err(error), _) => self.poison(error),
            (Ok(done), step) => unreachable!("{done:?} while a segment was prepared: {step:?}"),
        }
    }

    /// The disk has no room for a segment: removes what there is of it and tries again later.
    fn give_up(&mut self, name: String, file: Option<FileId>, now_nanos: u64) {
        self.segments.blocked_until = Some(now_nanos.saturating_add(RETRY_NANOS));
        if let Some(file) = file {
            self.segments.removals += 1;
            self.disk.submit(token(CLASS_SPACE, 1), Op::Close { file });
            self.segments.step = Step::Removing;
            self.disk.submit(token(CLASS_SPACE, 0), Op::Unlink { name });
        }
    }

    /// The directory has no room for a name: the file waits.
    fn postpone(&mut self, name: String, file: FileId, bytes: u64, now_nanos: u64) {
        self.segments.blocked_until = Some(now_nanos.saturating_add(RETRY_NANOS));
        self.segments.spares.push_front(Spare { name, file, bytes });
    }

    /// Waits for what runs in the background, so that nothing is under way when the log closes.
    pub(super) fn finish_background(&mut self, now_nanos: u64) -> Result<(), DiskError> {
        while !self.segments.is_idle() || !self.flights.is_empty() {
            let any = self.wait_once(now_nanos);
            if let Health::Poisoned(error) = &self.health {
                return Err(error.clone());
            }
            if !any {
                return Err(self.nothing_comes());
            }
        }
        Ok(())
    }

    /// Why a log that closes waits in vain. Mostly a write found no space, be it one that no record waits for (of a segment's header, of a
    /// seal); a disk that does not tell of what is under way is broken.
    pub(super) fn nothing_comes(&self) -> DiskError {
        let is_idle = self.flights.is_empty() && self.segments.is_idle();
        if is_idle || self.health == Health::OutOfSpace {
            return self.out_of_space_error();
        }
        DiskError { op: "wait", name: self.disk.root(), offset: None, errno: libc::EIO }
    }
}
