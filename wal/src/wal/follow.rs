//! Following the chain of batches through all segments: every record is taken, a torn tail is cut, damage to what was durable
//! is named and passed over.

use super::hole::{Directory, Site};
use super::marks::FoundMarks;
use super::moved::Moves;
use super::scan::{Chain, Damage as Break, Found, attested, read_pieces, scan_segment};
use super::space::Segment;
use super::taken::Taken;
use super::{Damage, DamageKind, OpenError, Recovered, Recovery};
use crate::disk::{Disk, DiskError};
use crate::format::{BLOCK, BatchHeader, HeaderBlock, Incarnation, Kind, Lsn, Records, SegmentHeader};
use crate::mutant;

/// What following the chain came to.
pub(super) struct Replay {
    /// Segments of the chain that are kept, oldest first.
    pub(super) kept: Vec<Segment>,
    /// Segments of the chain that nobody needs and that were not read.
    pub(super) skipped: Vec<Segment>,
    /// The oldest segment that is needed, as headers say.
    pub(super) needed: Incarnation,
    pub(super) chain: Chain,
    /// The highest known end of the durable prefix.
    pub(super) durable_end: Lsn,
    /// Everything that attests a `durable_end` was looked at.
    attested: bool,
    pub(super) taken: Taken,
    pub(super) recovered: Recovered,
}

/// How a segment ended.
enum End {
    /// Where the next one starts.
    Reached,
    /// The log ends in it.
    Cut,
}

/// A segment of the chain on its way.
struct Stretch<'a> {
    found: &'a Found,
    header: SegmentHeader,
    /// Where the next segment starts.
    limit: Option<Lsn>,
    next: Option<&'a Found>,
}

impl Replay {
    pub(super) fn new() -> Replay {
        Replay {
            kept: Vec::new(),
            skipped: Vec::new(),
            needed: Incarnation::NONE,
            chain: Chain { lsn: Lsn(0), crc: None },
            durable_end: Lsn(0),
            attested: false,
            taken: Taken::new(),
            recovered: Recovered::default(),
        }
    }

    /// Follows the whole log, without changing anything on the disk.
    pub(super) fn follow<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        marks: &FoundMarks,
        recovery: &mut dyn Recovery,
    ) -> Result<(), OpenError> {
        let (mut chain, missing) = chain_of(segments);
        let oldest = chain.first().map_or(Incarnation::NONE, |f| f.incarnation);
        self.durable_end = marks.durable_end;
        self.recovered.damage.extend(marks.certain_damage());
        for header in chain.iter().filter_map(|f| f.header()) {
            self.durable_end = self.durable_end.max(header.durable_end);
            self.taken.first_live = self.taken.first_live.max(header.first_live);
        }
        self.needed = self.taken.first_live;
        self.taken.moves = Moves::find(disk, &chain, missing, self.durable_end)?;
        self.skip_segments(&mut chain);
        let total: u64 = chain.iter().map(|f| f.bytes).sum();
        let mut done = 0;
        for (number, &found) in chain.iter().enumerate() {
            let next = chain.get(number + 1).copied();
            let Some(header) = found.header().copied() else {
                let at = head_damage(found);
                if !self.is_tail(disk, segments, found, &at)? {
                    return Err(self.corrupt(found, &at));
                }
                self.recovered.cut = Some((found.name(), 0));
                break;
            };
            if number == 0 {
                let crc = found.rebuilt.is_none().then_some(header.previous_crc);
                self.chain = Chain { lsn: header.start, crc };
            }
            if self.enter(disk, segments, found, &header)? {
                break;
            }
            let successor = next.filter(|n| follows(n, found)).and_then(Found::header);
            let stretch = Stretch { found, header, limit: successor.map(|h| h.start), next };
            let end = self.segment(disk, segments, &stretch, marks, recovery)?;
            self.kept.push(Segment {
                header: found.rebuilt.is_none().then_some(header),
                end: self.chain.lsn,
                entries: std::mem::take(&mut self.taken.entries),
                entry_bytes: std::mem::take(&mut self.taken.entry_bytes),
                ..Segment::empty(found.incarnation, found.file, found.bytes, header.start)
            });
            self.recovered.segments += 1;
            done += found.bytes;
            recovery.progress(done, total);
            if let End::Cut = end {
                break;
            }
        }
        self.check_end(disk, segments, &chain)?;
        if missing != Incarnation::NONE && self.taken.first_live < oldest {
            return Err(OpenError::MissingSegment { segment: missing.file_name() });
        }
        Ok(())
    }

    /// Takes segments off the front of a chain that are not needed: without the others of their streams' records, which are
    /// gone, they would make no sense.
    fn skip_segments(&mut self, chain: &mut Vec<&Found>) {
        self.taken.first_live = self.taken.first_live.max(self.taken.moves.first_live());
        let first_live = self.taken.first_live;
        let kept = chain.split_off(chain.partition_point(|found| found.incarnation < first_live));
        let skipped = std::mem::replace(chain, kept);
        let ends = skipped.iter().skip(1).chain(chain.first()).map(|next| next.header().map(|h| h.start));
        for (found, end) in skipped.iter().zip(ends) {
            let (Some(header), Some(end)) = (found.header(), end) else { continue };
            let segment = Segment::empty(found.incarnation, found.file, found.bytes, header.start);
            self.skipped.push(Segment { end, ..segment });
        }
    }

    /// Begins a segment, which has to begin where the last one ended. Returns whether the log ends before it.
    fn enter<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        found: &Found,
        header: &SegmentHeader,
    ) -> Result<bool, OpenError> {
        let rebuilt = found.rebuilt.is_some();
        let links = rebuilt || self.chain.crc.is_none_or(|crc| crc == header.previous_crc);
        if header.start == self.chain.lsn && links && !rebuilt {
            self.chain.crc = Some(header.crc);
            return Ok(false);
        }
        let (expected_crc, found_crc) = match found.head {
            HeaderBlock::Damaged { stored, computed } => (stored, computed),
            _ => (self.chain.crc.unwrap_or(0), header.previous_crc),
        };
        let at = Break { offset: 0, expected_crc, found_crc };
        // A header that is lost was not durable, unless something says so.
        if self.is_tail(disk, segments, found, &at)? {
            self.recovered.cut = Some((found.name(), 0));
            return Ok(true);
        }
        if header.start != self.chain.lsn || !links {
            return Err(self.corrupt(found, &at));
        }
        self.recovered.damage.push(Damage {
            segment: found.name(),
            offset: 0,
            bytes: 0,
            kind: DamageKind::Header,
            expected_crc,
            found_crc,
            entries: Vec::new(),
            states: Vec::new(),
            is_exact: true,
        });
        self.chain.crc = None;
        Ok(false)
    }

    /// Takes one segment's batches, over damage, to its end or the end of the log.
    fn segment<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        stretch: &Stretch<'_>,
        marks: &FoundMarks,
        recovery: &mut dyn Recovery,
    ) -> Result<End, OpenError> {
        let found = stretch.found;
        while let Some(at) = self.scan(disk, stretch, recovery)? {
            if self.is_tail(disk, segments, found, &at)? {
                self.recovered.cut = Some((found.name(), at.offset));
                return Ok(End::Cut);
            }
            // How far the damage reaches must not depend on a mark that the next open does not find any more.
            self.look_behind(disk, segments, found, &at)?;
            let site = Site {
                found,
                chain: self.chain,
                limit: stretch.limit,
                next: stretch.next,
                durable_end: self.durable_end,
                mark: marks.newest.as_ref(),
            };
            if stretch.limit.is_none() && site.is_sealed(disk)? {
                // The log went on in a segment that is not there.
                return Err(OpenError::MissingSegment { segment: found.incarnation.next().file_name() });
            }
            let hole = site.survey(disk)?;
            let elsewhere = stretch.limit.is_none() && stretch.next.is_some();
            if elsewhere || found.offset(hole.end) > found.bytes {
                return Err(self.corrupt(found, &at));
            }
            let (expected_crc, found_crc) = match hole.checksums() {
                (0, 0) => (at.expected_crc, at.found_crc),
                checksums => checksums,
            };
            let mut damage = Damage {
                segment: found.name(),
                offset: at.offset,
                bytes: hole.end.since(hole.start),
                kind: hole.kind,
                expected_crc,
                found_crc,
                entries: Vec::new(),
                states: Vec::new(),
                is_exact: matches!(hole.directory, Directory::Whole(_)),
            };
            self.taken.take_hole(recovery, &hole, &mut damage);
            self.recovered.damage.push(damage);
            self.chain = Chain { lsn: hole.end, crc: hole.head.map(|head| head.crc) };
        }
        Ok(End::Reached)
    }

    fn scan<D: Disk>(
        &mut self,
        disk: &mut D,
        stretch: &Stretch<'_>,
        recovery: &mut dyn Recovery,
    ) -> Result<Option<Break>, OpenError> {
        let mut chain = self.chain;
        let found = stretch.found;
        let mut on_batch = |batch: &BatchHeader, bytes: &[u8], offset: u64| -> Result<(), OpenError> {
            self.durable_end = self.durable_end.max(batch.durable_end);
            self.recovered.batches += 1;
            self.recovered.bytes += batch.padded();
            self.taken.begin(batch);
            let mut records = 0;
            for record in Records::new(batch, bytes) {
                let malformed = |why: String| OpenError::Malformed { segment: found.name(), offset, why };
                let (lsn, record) =
                    record.map_err(|fault| malformed(format!("record {records}: {fault:?}")))?;
                self.taken.take(recovery, lsn, &record).map_err(malformed)?;
                records += u64::from(record.header.kind != Kind::Directory);
            }
            self.recovered.records += records;
            Ok(())
        };
        let (header, limit) = (&stretch.header, stretch.limit);
        let damage = scan_segment(disk, found, header, limit, &mut chain, &mut on_batch)??;
        self.chain = chain;
        Ok(damage)
    }

    /// Whether nothing was durable from the place on where the chain stands. Everything behind it is looked through for what it
    /// attests, once.
    fn is_tail<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        found: &Found,
        at: &Break,
    ) -> Result<bool, OpenError> {
        if self.chain.lsn < self.durable_end && !mutant::CUT_ACKNOWLEDGED {
            return Ok(false);
        }
        self.look_behind(disk, segments, found, at)?;
        Ok(self.chain.lsn >= self.durable_end || mutant::CUT_ACKNOWLEDGED)
    }

    /// Looks through everything behind the place for what it attests, once.
    fn look_behind<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        found: &Found,
        at: &Break,
    ) -> Result<(), OpenError> {
        if self.attested {
            return Ok(());
        }
        self.attested = true;
        for later in segments.iter().filter(|f| f.incarnation >= found.incarnation) {
            let offset = if later.incarnation == found.incarnation { at.offset } else { BLOCK };
            self.durable_end = self.durable_end.max(attested(disk, later, offset)?);
            if let Some(header) = later.header() {
                self.durable_end = self.durable_end.max(header.durable_end);
            }
        }
        Ok(())
    }

    /// Nothing that was durable may lie behind the end that was found.
    fn check_end<D: Disk>(
        &mut self,
        disk: &mut D,
        segments: &[Found],
        chain: &[&Found],
    ) -> Result<(), OpenError> {
        let end = chain.last().map_or(Incarnation::NONE, |f| f.incarnation);
        let next = segments.iter().find(|f| f.incarnation > end);
        if self.recovered.cut.is_none()
            && let Some(next) = next
        {
            // The last segment was full to its end, or no header is intact: what lies behind still has to be looked at.
            self.is_tail(disk, segments, next, &Break { offset: BLOCK, ..Break::default() })?;
        }
        if self.chain.lsn >= self.durable_end || mutant::CUT_ACKNOWLEDGED {
            return Ok(());
        }
        match next.filter(|f| matches!(f.head, HeaderBlock::Damaged { .. })) {
            Some(found) => Err(self.corrupt(found, &head_damage(found))),
            None => Err(OpenError::MissingSegment { segment: end.next().file_name() }),
        }
    }

    fn corrupt(&self, found: &Found, at: &Break) -> OpenError {
        OpenError::Corrupt {
            segment: found.name(),
            offset: at.offset,
            expected_crc: at.expected_crc,
            found_crc: at.found_crc,
            durable_end: self.durable_end.0,
        }
    }
}

/// Whether a segment is the one behind another, as far as its header tells.
fn follows(next: &Found, found: &Found) -> bool {
    next.rebuilt.is_some() || next.header().is_some_and(|h| h.predecessor == found.incarnation)
}

/// A segment without an intact header of its own, as damage.
fn head_damage(found: &Found) -> Break {
    match found.head {
        HeaderBlock::Damaged { stored, computed } => {
            Break { offset: 0, expected_crc: stored, found_crc: computed }
        }
        _ => Break::default(),
    }
}

/// The segments that the newest header leads back to, oldest first, and the first one that is missing.
fn chain_of(segments: &[Found]) -> (Vec<&Found>, Incarnation) {
    let Some(newest) = segments.iter().rev().find(|f| f.header().is_some()) else {
        return (Vec::new(), Incarnation::NONE);
    };
    let mut chain = vec![newest];
    let mut at = newest;
    loop {
        let below = segments.partition_point(|f| f.incarnation < at.incarnation);
        let before = match at.header() {
            Some(header) if at.rebuilt.is_none() => {
                let found = segments.binary_search_by_key(&header.predecessor, |f| f.incarnation);
                found.map_err(|_| header.predecessor)
            }
            // A header that was lost cannot name its predecessor: it is the one that ends where this one starts.
            _ => {
                let before = (0..below).rev().find(|&n| segments[n].header().is_some());
                before.ok_or(Incarnation(at.incarnation.0 - 1))
            }
        };
        match before {
            Ok(number) if number < below => {
                at = &segments[number];
                chain.push(at);
            }
            Ok(_) => break (chain.into_iter().rev().collect(), at.incarnation),
            Err(missing) => break (chain.into_iter().rev().collect(), missing),
        }
    }
}

/// Makes a header out of the batches of a segment that has lost its own: they name their position. `bytes` from the beginning
/// of the file are looked through.
pub(super) fn rebuild_header<D: Disk>(
    disk: &mut D,
    found: &Found,
    bytes: u64,
) -> Result<Option<SegmentHeader>, DiskError> {
    let mut rebuilt = None;
    read_pieces(disk, found.file, BLOCK, bytes.min(found.bytes), &mut |at, piece| {
        for block in (0..piece.len()).step_by(BLOCK as usize) {
            let Some(batch) = BatchHeader::decode(&piece[block..]) else { continue };
            let offset = at + block as u64 - BLOCK;
            if batch.incarnation != found.incarnation
                || batch.seal
                || batch.lsn.0 < offset
                || batch.check_header(&piece[block..]).is_err()
            {
                continue;
            }
            rebuilt = Some(SegmentHeader {
                log_id: 0,
                incarnation: found.incarnation,
                segment_bytes: found.bytes,
                start: Lsn(batch.lsn.0 - offset),
                predecessor: Incarnation::NONE,
                previous_crc: 0,
                durable_end: Lsn(0),
                first_live: Incarnation::NONE,
                trim: Lsn(0),
                crc: 0,
            });
            return false;
        }
        true
    })?;
    Ok(rebuilt)
}
