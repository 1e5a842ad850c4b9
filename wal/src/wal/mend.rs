//! Blocks without records of streams: the headers and seals of segments, and the marks. The scrubber looks at them as at
//! everything else. Nothing is lost with one of them, but the next damage may need it, so it is written again in its place,
//! with the bytes that it had (a header), that it would have today (a seal), or with the next mark.
//!
//! What is damaged again after that is not mended a second time: the disk does not keep what is written to it.

use std::collections::BTreeSet;

use super::marks::mark_damage;
use super::space::{Seal, seal_bytes};
use super::writer::put_seal;
use super::{CLASS_SCRUB, Damage, DamageKind, Wal, token};
use crate::buffer::Buffer;
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, HeaderBlock, Incarnation, Kind, Lsn, MARK_SLOT_BYTES, Mark,
    MarkSlot, SegmentHeader, decode_record,
};

/// Parts that are remembered as told, and as mended.
const PARTS_MAX: usize = 4096;
/// Reads and writes of parts have tokens of this number.
const NUMBER: u64 = 1;

/// A block, or a few, that the log consists of beside its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Mark(u64),
    Header(Incarnation),
    Seal(Incarnation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    LookAgain,
    /// Reads the beginning of the next segment, which says what a seal would say.
    Source,
    /// Writes the part.
    Write,
}

#[derive(Clone, Copy, Debug)]
struct Work {
    part: Part,
    step: Step,
    /// The last checksum of the chain in front of a seal, if it is known.
    crc: Option<u32>,
    /// Number of the mark that a slot held when the read began.
    mark: Option<u64>,
    /// The segment that the operation under way keeps from being given away.
    held: Option<Incarnation>,
}

/// What the scrubber knows about parts.
#[derive(Debug, Default)]
pub(super) struct Mending {
    work: Option<Work>,
    /// Slots of the marks that were looked at in this pass.
    pub(super) slots: u64,
    told: BTreeSet<Part>,
    mended: BTreeSet<Part>,
}

impl Mending {
    pub(super) fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    pub(super) fn look_at(&mut self, part: Part, crc: Option<u32>) {
        self.work = Some(Work { part, step: Step::Look, crc, mark: None, held: None });
    }
}

/// What was read.
enum Read<'a> {
    Bytes(&'a [u8]),
    Unreadable,
}

/// What a part turned out to be.
enum Verdict {
    Sound,
    /// There is nothing that could be judged.
    Nothing,
    /// With the checksum stored and the one found, where that says something.
    Damaged(u32, u32),
}

impl<D: Disk> Wal<D> {
    /// Whether a seal may stand behind the batches of a segment, which end at `end`.
    pub(super) fn has_seal_at(&self, incarnation: Incarnation, end: Lsn) -> bool {
        let Some((segment, Some(next))) = self.segments.with_next(incarnation) else { return false };
        // The seal is durable when a batch behind it is.
        segment.seal != Seal::Missing && segment.end == end && next.start < self.durable_end
    }

    /// Begins the next operation for the part that is looked at.
    pub(super) fn step_part(&mut self) {
        let Some(mut work) = self.scrub.mending.work.take() else { return };
        let begun = match (work.step, work.part) {
            (Step::Look | Step::LookAgain, Part::Mark(slot)) => {
                work.mark = self.marks.in_slot(slot);
                let file = self.marks.file().filter(|_| work.mark.is_some());
                let read = |file| self.scrub_read(NUMBER, file, slot * MARK_SLOT_BYTES, MARK_SLOT_BYTES);
                file.map(read).is_some()
            }
            (Step::Look | Step::LookAgain, Part::Header(_)) => self.read_part(&mut work, 0, BLOCK),
            (Step::Look | Step::LookAgain, Part::Seal(incarnation)) => {
                let segment = self.segments.by_incarnation(incarnation);
                let place =
                    segment.map(|s| (s.offset(s.end), seal_bytes(s.bytes).min(s.bytes - s.offset(s.end))));
                place.is_some_and(|(offset, len)| len > 0 && self.read_part(&mut work, offset, len))
            }
            (Step::Source, part) => self.read_source(&mut work, part),
            (Step::Write, part) => self.write_header(&mut work, part),
        };
        match begun {
            true => self.scrub.mending.work = Some(work),
            // Nobody needs it any more, or nothing is known of it.
            false => self.finish_part(work.part),
        }
    }

    fn read_part(&mut self, work: &mut Work, offset: u64, len: u64) -> bool {
        let (Part::Header(incarnation) | Part::Seal(incarnation)) = work.part else { return false };
        let Some(file) = self.hold(work, incarnation) else { return false };
        self.scrub_read(NUMBER, file, offset, len);
        true
    }

    /// The file of a segment, which stays as long as the operation is under way.
    fn hold(&mut self, work: &mut Work, incarnation: Incarnation) -> Option<FileId> {
        let segment = self.segments.by_incarnation(incarnation)?;
        segment.readers += 1;
        work.held = Some(incarnation);
        Some(segment.file)
    }

    /// The header and the first batch of the segment behind the one that lost its seal.
    fn read_source(&mut self, work: &mut Work, part: Part) -> bool {
        let Part::Seal(incarnation) = part else { return false };
        let Some((segment, Some(next))) = self.segments.with_next(incarnation) else { return false };
        let (next, len) = (next.incarnation, (BLOCK + seal_bytes(segment.bytes)).min(next.bytes));
        let Some(file) = self.hold(work, next) else { return false };
        self.scrub_read(NUMBER, file, 0, len);
        true
    }

    fn write_header(&mut self, work: &mut Work, part: Part) -> bool {
        let Part::Header(incarnation) = part else { return false };
        let header = self.segments.by_incarnation(incarnation).and_then(|segment| segment.header);
        let (Some(header), Some(file)) = (header, self.hold(work, incarnation)) else { return false };
        let mut buffer = self.disk.buffer(BLOCK as usize);
        header.encode(buffer.as_mut_slice());
        self.write_part(file, 0, BLOCK as u32, buffer);
        true
    }

    fn write_part(&mut self, file: FileId, offset: u64, len: u32, buffer: Buffer) {
        self.scrub.under_way = Some(len.into());
        self.disk.submit(token(CLASS_SCRUB, NUMBER), Op::Write { file, offset, buffer, len, durable: true });
    }

    pub(super) fn on_part(&mut self, completion: Completion, now_nanos: u64) {
        self.scrub_rests(now_nanos);
        let Some(mut work) = self.scrub.mending.work.take() else { unreachable!("a read of no part ended") };
        if let Some(segment) = work.held.take().and_then(|held| self.segments.by_incarnation(held)) {
            segment.readers -= 1;
        }
        match work.step {
            Step::Look | Step::LookAgain => self.on_looked(work, &completion),
            Step::Source => self.on_source(work, &completion),
            Step::Write => self.on_mended(work.part, &completion.result),
        }
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
    }

    fn on_looked(&mut self, work: Work, completion: &Completion) {
        let read = match (&completion.result, &completion.buffer) {
            (Ok(Done::Transferred(bytes)), Some(buffer)) => {
                Read::Bytes(&buffer.as_slice()[..*bytes as usize])
            }
            (Err(error), _) if error.is_unreadable() => Read::Unreadable,
            (result, _) => {
                tracing::warn!(?result, "the scrubber cannot read a part of the log");
                return self.finish_part(work.part);
            }
        };
        let verdict = match work.part {
            Part::Mark(slot) => self.judge_mark(slot, work.mark, &read),
            Part::Header(incarnation) => self.judge_header(incarnation, &read),
            Part::Seal(incarnation) => self.judge_seal(incarnation, &read),
        };
        let Verdict::Damaged(expected_crc, found_crc) = verdict else {
            if let (Verdict::Sound, Part::Seal(incarnation)) = (verdict, work.part)
                && let Some(segment) = self.segments.by_incarnation(incarnation)
            {
                segment.seal = Seal::Written;
            }
            return self.finish_part(work.part);
        };
        if work.step == Step::Look {
            // The way from the medium may have done it: once more.
            self.scrub.mending.work = Some(Work { step: Step::LookAgain, ..work });
            return;
        }
        let mends = self.tell_part(work.part, expected_crc, found_crc);
        match work.part {
            Part::Mark(slot) if mends => {
                self.marks.replace(slot);
                self.note_mended(work.part);
                self.finish_part(work.part);
            }
            Part::Header(_) if mends => self.scrub.mending.work = Some(Work { step: Step::Write, ..work }),
            Part::Seal(_) if mends => self.scrub.mending.work = Some(Work { step: Step::Source, ..work }),
            part => self.finish_part(part),
        }
    }

    /// Names a damaged part. Whether it is to be mended: not if that was done before.
    fn tell_part(&mut self, part: Part, expected_crc: u32, found_crc: u32) -> bool {
        let (incarnation, kind) = match part {
            Part::Mark(_) => (Incarnation::NONE, DamageKind::Mark),
            Part::Header(incarnation) => (incarnation, DamageKind::Header),
            Part::Seal(incarnation) => (incarnation, DamageKind::Seal),
        };
        let mut place = mark_damage(0, (expected_crc, found_crc));
        match (part, self.segments.by_incarnation(incarnation)) {
            (Part::Mark(slot), _) => place = mark_damage(slot, (expected_crc, found_crc)),
            (_, Some(segment)) => {
                let offset = if kind == DamageKind::Header { 0 } else { segment.offset(segment.end) };
                place = Damage { segment: incarnation.file_name(), offset, bytes: BLOCK, kind, ..place };
            }
            (_, None) => return false,
        }
        let mending = &mut self.scrub.mending;
        let came_back = mending.mended.contains(&part);
        let new = mending.told.len() < PARTS_MAX && mending.told.insert(part);
        if new {
            tracing::error!(
                damage = %place, came_back, disk = %self.disk.describe(), directory = %self.disk.root(),
                "the scrubber found damage; nothing is lost"
            );
            self.stats.scrub_damage += 1;
            self.tell_place(place.clone());
        }
        if came_back {
            self.give_up_disk(&place);
        }
        !came_back && self.scrub.mending.mended.len() < PARTS_MAX
    }

    /// The beginning of the next segment was read: the seal that belongs in front of it is written.
    fn on_source(&mut self, work: Work, completion: &Completion) {
        let Part::Seal(incarnation) = work.part else { return };
        let source = match (&completion.result, &completion.buffer) {
            (Ok(Done::Transferred(bytes)), Some(buffer)) => &buffer.as_slice()[..*bytes as usize],
            _ => &[],
        };
        let durable_end = self.durable_end;
        let place = self
            .segments
            .by_incarnation(incarnation)
            .map(|segment| (segment.offset(segment.end), segment.bytes, segment.end));
        let Some((offset, bytes, end)) = place else { return };
        let mut buffer = self.disk.buffer(seal_bytes(bytes) as usize);
        let len = match seal_of(source, incarnation, end, work.crc) {
            Some((header, record)) if record.len() + BATCH_HEADER_BYTES <= seal_bytes(bytes) as usize => {
                put_seal(BatchHeader { durable_end, ..header }, record, buffer.as_mut_slice())
            }
            _ => 0,
        };
        let mut work = Work { step: Step::Write, ..work };
        match self.hold(&mut work, incarnation) {
            Some(file) if len > 0 && offset + u64::from(len) <= bytes => {
                self.write_part(file, offset, len, buffer);
                self.scrub.mending.work = Some(work);
            }
            held => {
                if let (Some(_), Some(segment)) = (held, self.segments.by_incarnation(incarnation)) {
                    segment.readers -= 1;
                }
                self.disk.recycle(buffer);
            }
        }
    }

    fn on_mended(&mut self, part: Part, result: &Result<Done, DiskError>) {
        match result {
            Ok(_) => {
                if let Part::Seal(incarnation) = part
                    && let Some(segment) = self.segments.by_incarnation(incarnation)
                {
                    segment.seal = Seal::Written;
                }
                self.note_mended(part);
            }
            // The next pass tries it again.
            Err(error) if error.is_out_of_space() => {}
            Err(error) => self.poison(error.clone()),
        }
        self.finish_part(part);
    }

    fn note_mended(&mut self, part: Part) {
        self.scrub.mending.told.remove(&part);
        self.scrub.mending.mended.insert(part);
        self.stats.scrub_mended += 1;
    }

    /// A part is done with; behind a header come the batches.
    fn finish_part(&mut self, part: Part) {
        if let Part::Header(incarnation) = part {
            let header = self.segments.by_incarnation(incarnation).and_then(|segment| segment.header);
            self.scrub.after = incarnation;
            self.begin_walk(incarnation, header.map(|header| header.crc));
        }
    }

    fn judge_mark(&self, slot: u64, expected: Option<u64>, read: &Read<'_>) -> Verdict {
        if expected.is_none() || self.marks.in_slot(slot) != expected {
            // It was written meanwhile.
            return Verdict::Nothing;
        }
        match read {
            Read::Bytes(bytes) => match Mark::decode(bytes, slot) {
                MarkSlot::Mark(mark) if Some(mark.sequence) == expected => Verdict::Sound,
                _ => Verdict::Damaged(0, 0),
            },
            Read::Unreadable => Verdict::Damaged(0, 0),
        }
    }

    fn judge_header(&mut self, incarnation: Incarnation, read: &Read<'_>) -> Verdict {
        let known = self.segments.by_incarnation(incarnation).and_then(|segment| segment.header);
        // One that was lost when the log was opened was named then, and nobody knows what it said.
        let Some(known) = known else { return Verdict::Nothing };
        match read {
            Read::Bytes(bytes) => match SegmentHeader::decode(bytes) {
                HeaderBlock::Header(header) if header.crc == known.crc => Verdict::Sound,
                HeaderBlock::Damaged { stored, computed } => Verdict::Damaged(stored, computed),
                HeaderBlock::Header(header) => Verdict::Damaged(known.crc, header.crc),
                _ => Verdict::Damaged(known.crc, 0),
            },
            Read::Unreadable => Verdict::Damaged(known.crc, 0),
        }
    }

    /// A seal that nobody knows of is missed only where something of it is left: an earlier process may have ended before it
    /// came to write one.
    fn judge_seal(&mut self, incarnation: Incarnation, read: &Read<'_>) -> Verdict {
        let Some(segment) = self.segments.by_incarnation(incarnation) else { return Verdict::Nothing };
        let Read::Bytes(bytes) = read else {
            return if segment.seal == Seal::Written { Verdict::Damaged(0, 0) } else { Verdict::Nothing };
        };
        let header = BatchHeader::decode(bytes);
        let fault = header.map(|header| header.check(bytes));
        let is_ours = |h: &BatchHeader| h.seal && h.incarnation == incarnation && h.lsn == segment.end;
        if let (Some(header), Some(Ok(()))) = (&header, fault)
            && is_ours(header)
        {
            return Verdict::Sound;
        }
        let word = |at: usize| {
            bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or([0; 8])))
        };
        let (names, stands) = (word(8) == Some(incarnation.0), word(16) == Some(segment.end.0));
        // A batch that was cut may stand there, and a seal of the file's former life.
        let trace = match header {
            Some(header) => header.seal && (names || stands),
            None => names && stands,
        };
        if segment.seal == Seal::Written || trace {
            let (expected, found) = fault.and_then(Result::err).map_or((0, 0), |fault| fault.checksums());
            return Verdict::Damaged(expected, found);
        }
        segment.seal = Seal::Missing;
        Verdict::Nothing
    }
}

/// The seal in front of a segment, of which the first bytes are at hand: its header, and the record of the directory.
fn seal_of(
    source: &[u8],
    incarnation: Incarnation,
    end: Lsn,
    crc: Option<u32>,
) -> Option<(BatchHeader, &[u8])> {
    let (block, batch) = source.split_at_checked(BLOCK as usize)?;
    let first = BatchHeader::decode(batch).filter(|first| first.lsn == end && !first.seal)?;
    first.check_header(batch).ok()?;
    let bytes = &batch[BATCH_HEADER_BYTES..];
    let record = decode_record(bytes, Some(end.plus(BATCH_HEADER_BYTES as u64))).ok()?;
    // Without a directory a seal says nothing.
    if record.header.kind != Kind::Directory || record.header.index == 0 {
        return None;
    }
    let linked = match SegmentHeader::decode(block) {
        HeaderBlock::Header(header) => Some(header.previous_crc),
        _ => None,
    };
    let header = BatchHeader {
        incarnation,
        lsn: end,
        previous_crc: crc.or(linked).unwrap_or(0),
        states: first.states,
        replaced: first.replaced,
        ..BatchHeader::default()
    };
    Some((header, &bytes[..record.bytes]))
}
