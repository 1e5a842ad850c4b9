//! The scrubber: reads sealed segments again, at leisure, and checks every checksum in them, so that damage is found while there
//! are other copies, and not when the last of them is needed.
//!
//! One read at a time, at a bounded rate, and only in turns in which no batch waits for a free write and nobody reads. It walks
//! from batch to batch as recovery does. What does not check is looked at once more; then it begins a *hole*, which ends
//! where the next batch with an intact header begins. The records of entries in a hole are read one by one, as any reader would
//! ([`super::reader`] judges them); states, compaction marks and verdicts in it are in memory and are written again.

use std::collections::BTreeSet;

use super::hole::kind_of;
use super::losses::{Place, Verdict};
use super::space::Segment;
use super::{CLASS_SCRUB, Damage, DamageKind, Kind, StreamSlot, Wal, token};
use crate::disk::{Completion, Disk, Done, Op};
use crate::format::{
    BLOCK, BatchFault, BatchHeader, HeaderBlock, Incarnation, Lsn, RECORD_OVERHEAD_MAX, RecordHeader,
    SegmentHeader,
};

/// Bytes of one read, unless a batch is larger.
const PIECE_BYTES: u64 = 128 << 10;
/// Damage that waits for the owner, beyond which the scrubber waits, too.
const UNTOLD_MAX: usize = 256;
/// Places that are remembered as told.
const KNOWN_MAX: usize = 4096;

/// Where a walk through a segment stands.
#[derive(Debug)]
struct Walk {
    incarnation: Incarnation,
    /// The segment's first block was looked at.
    begun: bool,
    /// Where the next batch begins.
    lsn: Lsn,
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
    /// Bytes of the read under way.
    under_way: Option<u64>,
    /// The segment looked at last in this pass.
    after: Incarnation,
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
        if self.walk.is_none() {
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
        if self.scrub.walk.is_none() && !self.next_walk(now_nanos) {
            return;
        }
        let Some(walk) = &self.scrub.walk else { return };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else {
            // Nobody needs it any more.
            self.scrub.walk = None;
            return;
        };
        let (from, end) = (segment.offset(walk.lsn), segment.offset(segment.end));
        let offset = if walk.begun { from } else { 0 };
        let len = walk.wanted.max(PIECE_BYTES).min(end - offset);
        segment.readers += 1;
        let file = segment.file;
        self.scrub.under_way = Some(len);
        self.stats.scrub_bytes += len;
        let buffer = self.disk.buffer(len as usize);
        self.disk.submit(token(CLASS_SCRUB, 0), Op::Read { file, offset, buffer, len: len as u32 });
    }

    /// The next sealed segment; false if the pass is over.
    fn next_walk(&mut self, now_nanos: u64) -> bool {
        let Some(segment) = self.segments.sealed_after(self.scrub.after) else {
            let scrub = &mut self.scrub;
            if scrub.after > Incarnation::NONE {
                self.stats.scrub_passes += 1;
            }
            scrub.after = Incarnation::NONE;
            let next = scrub.began_nanos.saturating_add(scrub.interval_nanos);
            // Also where there is nothing to read, a look now and then.
            scrub.due_nanos = next.max(now_nanos.saturating_add(1_000_000_000));
            return false;
        };
        if self.scrub.after == Incarnation::NONE {
            self.scrub.began_nanos = now_nanos;
        }
        self.scrub.walk = Some(Walk {
            incarnation: segment.incarnation,
            begun: false,
            lsn: segment.start,
            crc: None,
            wanted: 0,
            tried: None,
            hole: None,
        });
        true
    }

    pub(super) fn on_scrubbed(&mut self, completion: Completion, now_nanos: u64) {
        let len = self.scrub.under_way.take().unwrap_or(0);
        let nanos = len.saturating_mul(1_000_000_000) / self.scrub.bytes_per_s.max(1);
        self.scrub.due_nanos = now_nanos.max(self.scrub.due_nanos).saturating_add(nanos);
        self.news = true;
        let Some(mut walk) = self.scrub.walk.take() else { unreachable!("a read of no walk ended") };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else {
            unreachable!("a segment with readers is not given away: {:?}", walk.incarnation)
        };
        segment.readers -= 1;
        let (start, end) = (segment.start, segment.end);
        let goes_on = match (completion.result, &completion.buffer) {
            (Ok(Done::Transferred(bytes)), Some(buffer)) => {
                self.scrub_piece(&mut walk, &buffer.as_slice()[..bytes as usize], start, end)
            }
            (Err(error), _) if error.is_unreadable() => self.scrub_gap(&mut walk, len, end),
            (result, _) => {
                tracing::warn!(?result, "the scrubber cannot read a segment");
                false
            }
        };
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
        if goes_on && walk.lsn < end {
            self.scrub.walk = Some(walk);
        } else {
            self.close_hole(&mut walk, end);
            self.scrub.after = walk.incarnation;
        }
    }

    /// Looks at what was read: from the segment's first block, or from where the next batch begins. False: the segment is over.
    fn scrub_piece(&mut self, walk: &mut Walk, data: &[u8], start: Lsn, end: Lsn) -> bool {
        let mut data = data;
        if !walk.begun {
            let Some((block, rest)) = data.split_at_checked(BLOCK as usize) else { return false };
            data = rest;
            match SegmentHeader::decode(block) {
                HeaderBlock::Header(header) if header.incarnation == walk.incarnation => {
                    walk.crc = Some(header.crc)
                }
                head => {
                    if walk.tried.replace(start).is_none() {
                        return true;
                    }
                    self.tell_header(walk.incarnation, &head);
                }
            }
            (walk.begun, walk.tried) = (true, None);
        }
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
                    return true;
                }
                Found::Longer(_) => return true,
                Found::Batch(bytes, crc) => {
                    self.close_hole(walk, walk.lsn);
                    (walk.lsn, walk.crc) = (walk.lsn.plus(bytes), Some(crc));
                    at += bytes as usize;
                }
                // The way from the medium may have done it: once more.
                Found::Damage(..) if walk.hole.is_none() && walk.tried != Some(walk.lsn) => {
                    walk.tried = Some(walk.lsn);
                    return true;
                }
                Found::Damage(bytes, hole) => {
                    walk.hole.get_or_insert(hole);
                    (walk.lsn, walk.crc) = (walk.lsn.plus(bytes), None);
                    at += bytes as usize;
                }
            }
        }
        true
    }

    /// The device cannot read a piece: all of it is looked at entry by entry.
    fn scrub_gap(&mut self, walk: &mut Walk, len: u64, end: Lsn) -> bool {
        if walk.tried != Some(walk.lsn) {
            walk.tried = Some(walk.lsn);
            return true;
        }
        let kind = DamageKind::Unreadable;
        walk.hole.get_or_insert(Hole { start: walk.lsn, kind, expected_crc: 0, found_crc: 0 });
        let head = if walk.begun { 0 } else { BLOCK };
        walk.begun = true;
        (walk.lsn, walk.crc, walk.wanted) = (walk.lsn.plus(len - head).min(end), None, 0);
        true
    }

    fn tell_header(&mut self, incarnation: Incarnation, head: &HeaderBlock) {
        let (expected_crc, found_crc) = match head {
            HeaderBlock::Damaged { stored, computed } => (*stored, *computed),
            _ => (0, 0),
        };
        let damage = Damage {
            segment: incarnation.file_name(),
            offset: 0,
            bytes: BLOCK,
            kind: DamageKind::Header,
            expected_crc,
            found_crc,
            entries: Vec::new(),
            states: Vec::new(),
            is_exact: true,
        };
        tracing::error!(%damage, disk = %self.disk.describe(), "the scrubber found damage; nothing is lost");
        self.stats.scrub_damage += 1;
    }

    /// Ends a hole where an intact batch begins, or the segment ends: what is live in it is looked at or written again.
    fn close_hole(&mut self, walk: &mut Walk, end: Lsn) {
        let Some(hole) = walk.hole.take() else { return };
        let Some(segment) = self.segments.by_incarnation(walk.incarnation) else { return };
        let place = hole.place(segment, end);
        let entries = self.entries_between(hole.start, end);
        for &(slot, first, last) in &entries {
            self.reader.begin_check(slot, first, last, hole.kind);
        }
        let written = self.write_again(hole.start, end);
        if self.scrub.known.len() < KNOWN_MAX && self.scrub.known.insert(hole.start) {
            let streams = entries.len();
            tracing::error!(
                damage = %place, streams, written, disk = %self.disk.describe(), directory = %self.disk.root(),
                "the scrubber found damage: the entries there are looked at one by one"
            );
            self.stats.scrub_damage += 1;
        }
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
