//! Marks: what is durable, written outside of the segments once the log has come to rest, and once a second: the next open
//! knows then that damage below it is damage, and the owner that the disk still writes.

use super::scan::{perform, read_around};
use super::tail::write_piece;
use super::{CLASS_MARK, Damage, DamageKind, Health, OpenError, Wal, token};
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op, OpenMode};
use crate::format::{FORMAT_VERSION, Lsn, MARK_SLOT_BYTES, MARKS_FILE, Mark, MarkSlot};

/// Without writes for so long the log is at rest.
const REST_NANOS: u64 = 2_000_000;
/// Between two marks at most: also the probe that the disk still writes.
const PROBE_NANOS: u64 = 1_000_000_000;

/// The marks of a log.
#[derive(Debug)]
pub(super) struct Marks {
    file: Option<FileId>,
    /// Number of the newest mark.
    sequence: u64,
    /// What it says.
    marked: Lsn,
    /// When it was complete, or the log opened.
    probed_nanos: u64,
    /// The mark under way: when it was submitted, what it says, and its bytes.
    under_way: Option<(u64, Lsn, u32)>,
    /// The number of the mark that each slot holds, as far as that is known: nothing is while it is written.
    slots: [Option<u64>; 2],
    /// A slot that was found damaged: marks are written at once until it has a new one.
    damaged: Option<u64>,
}

/// What the slots said when the log opened.
#[derive(Debug, Default)]
pub(super) struct FoundMarks {
    pub(super) file: Option<FileId>,
    /// The newest of the valid ones.
    pub(super) newest: Option<Mark>,
    /// The numbers of both, where they are valid.
    pub(super) slots: [Option<u64>; 2],
    /// The highest `durable_end` of both.
    pub(super) durable_end: Lsn,
    /// Slots that are neither valid nor empty: the last mark before a crash may be torn, or its block is damaged.
    pub(super) damaged: [bool; 2],
}

impl FoundMarks {
    /// Slots that are damaged for certain: they are written in turn, so that a crash tears one of them at most, and none if the
    /// log was closed.
    pub(super) fn certain_damage(&self) -> impl Iterator<Item = Damage> {
        let closed = self.newest.as_ref().is_some_and(|mark| mark.closed);
        let certain = self.damaged == [true; 2] || closed;
        let slots = (0..2).filter(move |&slot| certain && self.damaged[slot as usize]);
        slots.map(|slot| mark_damage(slot, (0, 0)))
    }
}

/// A damaged slot, with the checksum stored and the one found.
pub(super) fn mark_damage(slot: u64, (expected_crc, found_crc): (u32, u32)) -> Damage {
    Damage {
        segment: MARKS_FILE.to_owned(),
        offset: slot * MARK_SLOT_BYTES,
        bytes: MARK_SLOT_BYTES,
        kind: DamageKind::Mark,
        expected_crc,
        found_crc,
        entries: Vec::new(),
        states: Vec::new(),
        is_exact: true,
    }
}

impl Marks {
    pub(super) fn new(found: &FoundMarks, now_nanos: u64) -> Marks {
        let newest = found.newest.as_ref();
        // A damaged slot is written next; its number is not used again for the slot that is sound.
        let sequence = newest.map_or(0, |mark| mark.sequence);
        let (marked, probed_nanos) = (found.durable_end, now_nanos);
        let (file, slots) = (found.file, found.slots);
        Marks { file, sequence, marked, probed_nanos, under_way: None, slots, damaged: None }
    }

    pub(super) fn file(&self) -> Option<FileId> {
        self.file
    }

    /// The number of the mark in a slot; `None` if that is not known or about to change.
    pub(super) fn in_slot(&self, slot: u64) -> Option<u64> {
        self.slots[slot as usize & 1]
    }

    /// The slot is to be written anew.
    pub(super) fn replace(&mut self, slot: u64) {
        self.damaged = Some(slot);
    }

    pub(super) fn under_way_since(&self) -> Option<u64> {
        self.under_way.map(|(nanos, ..)| nanos)
    }
}

/// Reads the marks; a log without any has none.
pub(super) fn find_marks<D: Disk>(disk: &mut D, listed: bool) -> Result<FoundMarks, OpenError> {
    let mut found = FoundMarks::default();
    if !listed {
        return Ok(found);
    }
    let name = MARKS_FILE.to_owned();
    let opened = perform(disk, Op::Open { name, mode: OpenMode::ReadWrite })?;
    let Ok(Done::Opened { file, .. }) = opened.result else { unreachable!("an open answers with a file") };
    found.file = Some(file);
    for slot in 0..2 {
        let bytes = match read_around(disk, file, slot * MARK_SLOT_BYTES, MARK_SLOT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                // One that cannot be read says nothing.
                tracing::warn!(%error, slot, "a mark cannot be read");
                found.damaged[slot as usize] = true;
                continue;
            }
        };
        match Mark::decode(&bytes, slot) {
            MarkSlot::Mark(mark) => {
                found.durable_end = found.durable_end.max(mark.durable_end);
                found.slots[slot as usize] = Some(mark.sequence);
                if found.newest.as_ref().is_none_or(|newest| newest.sequence < mark.sequence) {
                    found.newest = Some(mark);
                }
            }
            MarkSlot::Empty => {}
            // Not even zeros were written before the disk was full.
            MarkSlot::Damaged if bytes.is_empty() => {}
            MarkSlot::Damaged => found.damaged[slot as usize] = true,
            MarkSlot::Version(version) => {
                let segment = MARKS_FILE.to_owned();
                return Err(OpenError::Version { segment, found: version, supported: FORMAT_VERSION });
            }
        }
    }
    Ok(found)
}

/// Creates the file with empty slots, if there is none: zeros first, so that a mark changes no metadata. A full disk is no
/// error: the log runs without marks until the next open.
pub(super) fn create_marks<D: Disk>(disk: &mut D, found: &mut FoundMarks) -> Result<(), OpenError> {
    if found.file.is_some() {
        return Ok(());
    }
    let name = MARKS_FILE.to_owned();
    let opened = match perform(disk, Op::Open { name: name.clone(), mode: OpenMode::CreateNew }) {
        Ok(opened) => opened,
        Err(error) if error.is_out_of_space() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Ok(Done::Opened { file, .. }) = opened.result else { unreachable!("an open answers with a file") };
    match write_slots(disk, file) {
        Ok(()) => found.file = Some(file),
        Err(error) if error.is_out_of_space() => {
            perform(disk, Op::Close { file })?;
            // Where not even a name can be removed the file stays: empty slots, or none, say nothing.
            match perform(disk, Op::Unlink { name }) {
                Err(error) if error.is_out_of_space() => {}
                other => drop(other?),
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn write_slots<D: Disk>(disk: &mut D, file: FileId) -> Result<(), DiskError> {
    write_piece(disk, file, 0, &[0; 2 * MARK_SLOT_BYTES as usize])?;
    perform(disk, Op::Sync { file })?;
    perform(disk, Op::SyncDir)?;
    Ok(())
}

impl<D: Disk> Wal<D> {
    /// When [`Wal::submit`] wants to be called for the next mark, whatever else happens: 2 ms after the last write, else a
    /// second after the last mark. `None` while one is under way or the log is poisoned.
    pub fn mark_due_nanos(&self) -> Option<u64> {
        let poisoned = matches!(self.health, Health::Poisoned(_));
        if poisoned || self.marks.file.is_none() || self.marks.under_way.is_some() {
            return None;
        }
        if self.marks.damaged.is_some() {
            return Some(0);
        }
        let probe = self.marks.probed_nanos.saturating_add(PROBE_NANOS);
        let at_rest = self.flights.is_empty() && self.marks.marked < self.durable_end;
        let last = self.last_write_nanos.unwrap_or(self.marks.probed_nanos);
        let rest = last.saturating_add(REST_NANOS);
        Some(if at_rest { probe.min(rest) } else { probe })
    }

    /// Writes a mark if one is due.
    pub(super) fn maybe_mark(&mut self, now_nanos: u64) {
        if self.mark_due_nanos().is_some_and(|due| due <= now_nanos) {
            self.write_mark(false, now_nanos);
        }
    }

    fn write_mark(&mut self, closed: bool, now_nanos: u64) {
        let Some(file) = self.marks.file else { return };
        // The directory is that of the newest batch; it is of use if nothing is behind what is marked.
        let at_rest = self.flights.is_empty() && self.open.is_none() && self.closed.is_empty();
        let previous = self.previous_batch.filter(|_| at_rest);
        let directory = if previous.is_some() { self.directory.finish() } else { &[] };
        let mark = Mark {
            log_id: self.log_id,
            sequence: self.marks.sequence + 1,
            durable_end: self.durable_end,
            incarnation: self.segments.last_incarnation(),
            closed,
            back: previous.map_or(0, |at| self.durable_end.since(at)),
            directory: Vec::new(),
        };
        let mut buffer = self.disk.buffer(MARK_SLOT_BYTES as usize);
        let len = mark.encode(directory, buffer.as_mut_slice());
        self.marks.sequence = mark.sequence;
        self.marks.under_way = Some((now_nanos, mark.durable_end, len));
        self.marks.slots[mark.sequence as usize & 1] = None;
        let offset = mark.offset();
        self.disk.submit(token(CLASS_MARK, 0), Op::Write { file, offset, buffer, len, durable: true });
    }

    pub(super) fn on_marked(&mut self, completion: Completion, now_nanos: u64) {
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
        let Some((_, marked, len)) = self.marks.under_way.take() else {
            unreachable!("no mark is under way")
        };
        self.marks.probed_nanos = now_nanos;
        match completion.result {
            // A short one is torn, no more: the other slot stands, and what it says is still to be said.
            Ok(Done::Transferred(bytes)) if bytes < len => {
                self.marks.damaged = None;
                self.last_write_nanos = Some(now_nanos);
            }
            Ok(_) => {
                let slot = self.marks.sequence & 1;
                self.marks.slots[slot as usize] = Some(self.marks.sequence);
                self.marks.damaged = self.marks.damaged.filter(|damaged| *damaged != slot);
                self.marks.marked = marked;
                self.last_write_nanos = Some(now_nanos);
                self.stats.marks += 1;
            }
            // The next try is the next mark's: not at once, the disk is full.
            Err(error) if error.is_out_of_space() => self.marks.damaged = None,
            Err(error) => self.poison(error),
        }
    }

    /// The last mark of an orderly end.
    pub(super) fn mark_closed(&mut self, now_nanos: u64) -> Result<(), DiskError> {
        for last in [false, true] {
            while self.marks.under_way.is_some() {
                self.wait_once(now_nanos);
                if let Health::Poisoned(error) = &self.health {
                    return Err(error.clone());
                }
            }
            if !last {
                self.write_mark(true, now_nanos);
            }
        }
        Ok(())
    }
}
