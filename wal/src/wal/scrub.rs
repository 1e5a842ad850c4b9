//! The scrubber: reads the log again, at leisure, and checks every checksum in it, so that damage is found while there are other
//! copies, and not when the last of them is needed.
//!
//! One read at a time, at a bounded rate, and only in turns in which no batch waits for a free write and nobody reads. A pass
//! begins with the marks; then it goes from segment to segment, the one that is written included, as far as it is durable.
//! Headers, seals and marks are the business of [`super::mend`]. Between them it walks from batch to batch as recovery does. What does not check is looked at once more; then it begins a *hole*, which ends
//! where the next batch with an intact header begins. The records of entries in a hole are read one by one, as any reader would
//! ([`super::reader`] judges them); states, compaction marks and verdicts in it are in memory and are written again.

use std::collections::BTreeSet;

use super::hole::kind_of;
use super::losses::{Place, Verdict};
use super::mend::{Mending, Part};
use super::space::Segment;
use super::{CLASS_SCRUB, Damage, DamageKind, Kind, StreamSlot, Wal, token};
use crate::disk::{Completion, Disk, Done, FileId, Op};
use crate::format::{BLOCK, BatchFault, BatchHeader, Incarnation, Lsn, RECORD_OVERHEAD_MAX, RecordHeader};

/// Bytes of one read, unless a batch is larger.
const PIECE_BYTES: u64 = 128 << 10;
/// Damage that waits for the owner, beyond which the scrubber waits, too.
const UNTOLD_MAX: usize = 256;
/// Places that are remembered as told.
const KNOWN_MAX: usize = 4096;

/// Where a walk through a segment stands.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) incarnation: Incarnation,
    /// Where the next batch begins.
    lsn: Lsn,
    /// Where it ends: with the segment, or where that was not durable when it began.
    end: Lsn,
    /// Checksum that it names as its predecessor's, where that is known.
    crc: Option<u32>,
    /// Bytes that the next read has to have, for a batch larger than a piece.
    wanted: u64,
    /// The place that was damaged when it was read first.
    tried: Option<Lsn>,
    hole: Option<Hole>,
}

#[derive(Clone, Debug)]
struct Hole {
    start: Lsn,
    kind: DamageKind,
    expected_crc: u32,
    found_crc: u32,
}

/// What a batch's place holds.
enum Found {
    /// An intact batch, of so many bytes, with this checksum.
    Batch(u64, u32),
    /// The beginning of a batch of so many bytes.
    Longer(u64),
    /// Damage over so many bytes; more may follow.
    Damage(u64, Hole),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scrub {
    bytes_per_s: u64,
    interval_nanos: u64,
    walk: Option<Walk>,
    pub(super) mending: Mending,
    /// Bytes of the read under way.
    pub(super) under_way: Option<u64>,
    /// The segment looked at last in this pass.
    pub(super) after: Incarnation,
    /// When the next read may begin.
    due_nanos: u64,
    began_nanos: u64,
    /// Where holes that were told begin.
    known: BTreeSet<Lsn>,
}

impl Scrub {
    pub(super) fn new(bytes_per_s: u64, interval_s: u32, now_nanos: u64) -> Scrub {
        let interval_nanos = u64::from(interval_s) * 1_000_000_000;
        Scrub {
            bytes_per_s,
            interval_nanos,
            walk: None,
            mending: Mending::default(),
            under_way: None,
            after: Incarnation::NONE,
            // All has just been read.
            due_nanos: now_nanos.saturating_add(interval_nanos),
            began_nanos: now_nanos,
            known: BTreeSet::new(),
        }
    }

    /// Looks at this segment next, whatever was planned: a read found damage in it.
    pub(super) fn hurry(&mut self, incarnation: Incarnation) {
        if self.walk.is_none() && !self.mending.is_busy() {
            self.after = Incarnation(incarnation.0.saturating_sub(1));
            self.due_nanos = 0;
        }
    }
}

impl<D: Disk> Wal<D> {
    /// When [`Wal::submit`] wants to be called for the scrubber to go on. `None` while it is off, reads, or has to wait for others.
    pub fn scrub_due_nanos(&self) -> Option<u64> {
        self.may_scrub().then_some(self.scrub.due_nanos)
    }

    /// Whether nobody else wants the disk's time.
    fn may_scrub(&self) -> bool {
        let disk_is_free = self.closed.is_empty() && self.retry_at.is_none() && self.reader.is_idle();
        let poisoned = matches!(self.health, super::Health::Poisoned(_));
        self.scrub.bytes_per_s > 0
            && self.scrub.under_way.is_none()
            && disk_is_free
            && !poisoned
            && self.damage.untold() < UNTOLD_MAX
    }

    /// Begins the next read, if it is time for it. After everything else that a turn submits.
    pub(super) fn maybe_scrub(&mut self, now_nanos: u64) {
        if now_nanos < self.scrub.due_nanos || !self.may_scrub() {
            return;
        }
        if self.scrub.walk.is_none() && !self.scrub.mending.is_busy() && !self.next_part(now_nanos) {
            return;
        }
        if self.scrub.mending.is_busy() {
            return self.step_part();
        }
        let Some(walk) = &self.scrub.walk else { return };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else {
            // Nobody needs it any more.
            self.scrub.walk = None;
            return;
        };
        let (offset, end) = (segment.offset(walk.lsn), segment.offset(walk.end));
        let len = walk.wanted.max(PIECE_BYTES).min(end - offset);
        segment.readers += 1;
        let file = segment.file;
        self.scrub_read(0, file, offset, len);
    }

    /// Begins a read. `number` tells what it is for.
    pub(super) fn scrub_read(&mut self, number: u64, file: FileId, offset: u64, len: u64) {
        self.scrub.under_way = Some(len);
        self.stats.scrub_bytes += len;
        let buffer = self.disk.buffer(len as usize);
        self.disk.submit(token(CLASS_SCRUB, number), Op::Read { file, offset, buffer, len: len as u32 });
    }

    /// An operation of the scrubber ended: the next one has time.
    pub(super) fn scrub_rests(&mut self, now_nanos: u64) -> u64 {
        let len = self.scrub.under_way.take().unwrap_or(0);
        let nanos = len.saturating_mul(1_000_000_000) / self.scrub.bytes_per_s.max(1);
        self.scrub.due_nanos = now_nanos.max(self.scrub.due_nanos).saturating_add(nanos);
        self.news = true;
        len
    }

    /// What comes next: a mark, or the header of the next segment; false if the pass is over.
    fn next_part(&mut self, now_nanos: u64) -> bool {
        let scrub = &mut self.scrub;
        if scrub.after == Incarnation::NONE && scrub.mending.slots == 0 {
            scrub.began_nanos = now_nanos;
        }
        while scrub.mending.slots < 2 {
            let slot = scrub.mending.slots;
            scrub.mending.slots += 1;
            if self.marks.in_slot(slot).is_some() {
                scrub.mending.look_at(Part::Mark(slot), None);
                return true;
            }
        }
        let Some(segment) = self.segments.begun_after(self.scrub.after, self.durable_end) else {
            let scrub = &mut self.scrub;
            if scrub.after > Incarnation::NONE {
                self.stats.scrub_passes += 1;
            }
            (scrub.after, scrub.mending.slots) = (Incarnation::NONE, 0);
            let next = scrub.began_nanos.saturating_add(scrub.interval_nanos);
            // Also where there is nothing to read, a look now and then.
            scrub.due_nanos = next.max(now_nanos.saturating_add(1_000_000_000));
            return false;
        };
        self.scrub.mending.look_at(Part::Header(segment.incarnation), None);
        true
    }

    /// The header of a segment was looked at: the batches follow, the first of which names this checksum if it is known.
    pub(super) fn begin_walk(&mut self, incarnation: Incarnation, crc: Option<u32>) {
        let durable_end = self.durable_end;
        let Some(segment) = self.segments.by_incarnation(incarnation) else { return };
        let (lsn, end) = (segment.start, segment.end.min(durable_end));
        self.scrub.walk = Some(Walk { incarnation, lsn, end, crc, wanted: 0, tried: None, hole: None });
    }

    pub(super) fn on_scrubbed(&mut self, completion: Completion, now_nanos: u64) {
        let len = self.scrub_rests(now_nanos);
        let Some(mut walk) = self.scrub.walk.take() else { unreachable!("a read of no walk ended") };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else {
            unreachable!("a segment with readers is not given away: {:?}", walk.incarnation)
        };
        segment.readers -= 1;
        let start = segment.start;
        let goes_on = match (completion.result, &completion.buffer) {
            (Ok(Done::Transferred(bytes)), Some(buffer)) => {
                self.scrub_piece(&mut walk, &buffer.as_slice()[..bytes as usize], start);
                true
            }
            (Err(error), _) if error.is_unreadable() => {
                scrub_gap(&mut walk, len);
                true
            }
            (result, _) => {
                tracing::warn!(?result, "the scrubber cannot read a segment");
                false
            }
        };
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
        if goes_on && walk.lsn < walk.end {
            self.scrub.walk = Some(walk);
            return;
        }
        let end = walk.end;
        self.close_hole(&mut walk, end);
        self.scrub.after = walk.incarnation;
        if self.has_seal_at(walk.incarnation, end) {
            self.scrub.mending.look_at(Part::Seal(walk.incarnation), walk.crc);
        }
    }

    /// Looks at what was read from where the next batch begins.
    fn scrub_piece(&mut self, walk: &mut Walk, data: &[u8], start: Lsn) {
        let end = walk.end;
        walk.wanted = 0;
        if walk.lsn < end && data.len() < BLOCK as usize {
            // The file is shorter than it was.
            let kind = DamageKind::LostWrite;
            walk.hole.get_or_insert(Hole { start: walk.lsn, kind, expected_crc: 0, found_crc: 0 });
            walk.lsn = end;
        }
        let mut at = 0;
        while walk.lsn < end && data.len() - at >= BLOCK as usize {
            match judge(walk, &data[at..], start, end) {
                Found::Longer(bytes) if at == 0 && bytes > data.len() as u64 => {
                    walk.wanted = bytes;
                    return;
                }
                Found::Longer(_) => return,
                Found::Batch(bytes, crc) => {
                    self.close_hole(walk, walk.lsn);
                    (walk.lsn, walk.crc) = (walk.lsn.plus(bytes), Some(crc));
                    at += bytes as usize;
                }
                // The way from the medium may have done it: once more.
                Found::Damage(..) if walk.hole.is_none() && walk.tried != Some(walk.lsn) => {
                    walk.tried = Some(walk.lsn);
                    return;
                }
                Found::Damage(bytes, hole) => {
                    walk.hole.get_or_insert(hole);
                    (walk.lsn, walk.crc) = (walk.lsn.plus(bytes), None);
                    at += bytes as usize;
                }
            }
        }
    }

    /// Ends a hole where an intact batch begins, or the segment ends: what is live in it is looked at or written again.
    fn close_hole(&mut self, walk: &mut Walk, end: Lsn) {
        let Some(hole) = walk.hole.take() else { return };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else { return };
        let mut place = hole.place(segment, end);
        let entries = self.entries_between(hole.start, end);
        for &(slot, first, last) in &entries {
            self.reader.begin_check(slot, first, last, hole.kind);
        }
        place.states = self.states_between(hole.start, end);
        let written = self.write_again(hole.start, end);
        if self.scrub.known.len() < KNOWN_MAX && self.scrub.known.insert(hole.start) {
            let streams = entries.len();
            tracing::error!(
                damage = %place, streams, written, disk = %self.disk.describe(), directory = %self.disk.root(),
                "the scrubber found damage: the entries there are looked at one by one"
            );
            self.stats.scrub_damage += 1;
            if entries.is_empty() {
                self.tell_place(place);
            }
        }
    }

    /// Streams whose state or its copy lies between two positions.
    fn states_between(&self, start: Lsn, end: Lsn) -> Vec<u64> {
        let inside = |at: Option<Lsn>| at.is_some_and(|at| at >= start && at < end);
        let streams = self.index.streams.iter();
        let hit = streams.filter(|stream| inside(stream.state_at) || inside(stream.state_copy_at));
        hit.map(|stream| stream.id.0).collect()
    }

    /// The entries whose records lie between two positions: stream, first and last index.
    fn entries_between(&self, start: Lsn, end: Lsn) -> Vec<(StreamSlot, u64, u64)> {
        let mut found = Vec::new();
        for slot in (0..self.index.streams.len() as u32).map(StreamSlot) {
            let stream = self.index.stream(slot);
            // Positions ascend with the indexes.
            let first_from = |limit: Lsn| {
                let (mut low, mut high) = (stream.first, stream.next);
                while low < high {
                    let middle = low + (high - low) / 2;
                    match stream.lsn(middle) {
                        Some(lsn) if lsn >= limit => high = middle,
                        _ => low = middle + 1,
                    }
                }
                low
            };
            let (first, next) = (first_from(start), first_from(end));
            if first < next {
                found.push((slot, first, next - 1));
            }
            for index in self.losses.repairs_between(slot, start, end) {
                found.push((slot, index, index));
            }
        }
        found.retain(|&(slot, first, last)| {
            (first..=last)
                .any(|index| matches!(self.place_of(slot, index), Place::At(at) if at >= start && at < end))
        });
        found
    }

    /// Writes states, compaction marks and verdicts again whose records lie between two positions. How many there were.
    fn write_again(&mut self, start: Lsn, end: Lsn) -> usize {
        let inside = |at: Option<Lsn>| at.is_some_and(|at| at >= start && at < end);
        let mut written = 0;
        for slot in (0..self.index.streams.len() as u32).map(StreamSlot) {
            let stream = self.index.stream(slot);
            let (state, copy) = (inside(stream.state_at), inside(stream.state_copy_at));
            let mark = inside(stream.compacted_at);
            if !(state || copy || mark) {
                continue;
            }
            if self.vital_room < (stream.state.len() + 2 * RECORD_OVERHEAD_MAX) as u64 {
                // The next pass finds it again.
                return written;
            }
            let (id, index) = (stream.id, stream.compacted);
            if mark {
                let record = RecordHeader { kind: Kind::Compacted, stream: id.0, index, tag: 0, note: 0 };
                let (lsn, _) = self.put(&record, &[]);
                self.index.stream_mut(slot).compacted_at = Some(lsn);
            }
            if state || copy {
                let stream = self.index.stream_mut(slot);
                if state {
                    stream.state_at = stream.state_copy_at.filter(|_| !copy);
                }
                stream.state_copy_at = None;
                self.copy_state(slot);
            }
            written += 1;
        }
        let verdicts: Vec<(StreamSlot, Verdict)> =
            self.losses.verdicts().filter(|(_, verdict)| inside(verdict.at)).collect();
        for (slot, verdict) in verdicts {
            self.losses.accuse(slot, Verdict { at: None, ..verdict });
            written += 1;
        }
        written
    }
}

/// The device cannot read a piece: all of it is looked at entry by entry.
fn scrub_gap(walk: &mut Walk, len: u64) {
    if walk.tried != Some(walk.lsn) {
        walk.tried = Some(walk.lsn);
        return;
    }
    let kind = DamageKind::Unreadable;
    walk.hole.get_or_insert(Hole { start: walk.lsn, kind, expected_crc: 0, found_crc: 0 });
    (walk.lsn, walk.crc, walk.wanted) = (walk.lsn.plus(len).min(walk.end), None, 0);
}

impl Hole {
    fn place(&self, segment: &Segment, end: Lsn) -> Damage {
        Damage {
            segment: segment.incarnation.file_name(),
            offset: segment.offset(self.start),
            bytes: end.since(self.start),
            kind: self.kind,
            expected_crc: self.expected_crc,
            found_crc: self.found_crc,
            entries: Vec::new(),
            states: Vec::new(),
            is_exact: true,
        }
    }
}

/// What stands where a walk's next batch should begin.
fn judge(walk: &Walk, data: &[u8], start: Lsn, end: Lsn) -> Found {
    let block = &data[..BLOCK as usize];
    let hole = |kind, (expected_crc, found_crc)| Hole { start: walk.lsn, kind, expected_crc, found_crc };
    let damage = |kind| Found::Damage(BLOCK, hole(kind, (0, 0)));
    let Some(header) = BatchHeader::decode(block) else { return damage(kind_of(block)) };
    if let Err(fault) = header.check_header(block) {
        return Found::Damage(BLOCK, hole(DamageKind::Checksum, fault.checksums()));
    }
    if header.incarnation != walk.incarnation {
        return damage(DamageKind::Recycled);
    }
    if header.lsn != walk.lsn || header.seal || header.lsn < start || header.lsn.plus(header.padded()) > end {
        return damage(DamageKind::Misdirected);
    }
    if let Some(crc) = walk.crc.filter(|crc| *crc != header.previous_crc) {
        return Found::Damage(BLOCK, hole(DamageKind::OtherHistory, (crc, header.previous_crc)));
    }
    let bytes = header.padded();
    match data.get(..bytes as usize) {
        None => Found::Longer(bytes),
        Some(batch) => match header.check(batch).map_err(BatchFault::checksums) {
            Ok(()) => Found::Batch(bytes, header.crc),
            Err(checksums) => Found::Damage(bytes, hole(DamageKind::Checksum, checksums)),
        },
    }
}
