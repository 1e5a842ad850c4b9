//! A walk through a whole log at rest, past every damage: what is live where, and what each damage hit.

use std::collections::{BTreeMap, VecDeque};

use super::{Batch, Log, Record, RecordKind, Segment};
use crate::format::{BATCH_HEADER_BYTES, BLOCK, BatchFault, BatchHeader, Lsn, check_record, decode_record};

/// Streams and indexes that one damage names at most; the missing ranges of the streams name them all.
const CLAIMS_MAX: usize = 1024;

/// A place of a segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Byte offset of the damaged batch (0: the segment's header).
    pub offset: u64,
    /// Bytes up to the next place that can be read.
    pub bytes: u64,
    /// What is wrong, in words.
    pub what: String,
    /// Whether the place was known durable; if not, it is a torn tail, which nobody was told of.
    pub acknowledged: bool,
    /// Records that are wrong themselves, by what their own bytes claim: byte offset, stream, index. Damage may have hit the
    /// claim.
    pub claims: Vec<(u64, u64, u64)>,
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSurvey {
    /// Position of its first batch and the end of its last, if it was started.
    pub lsn: Option<(u64, u64)>,
    /// Intact batches.
    pub batches: u64,
    /// Their records.
    pub records: u64,
    /// Bytes of batches, padding included.
    pub written_bytes: u64,
    /// Of them, bytes behind the last record of each batch.
    pub padding_bytes: u64,
    /// Bytes of records that are still needed: entries that were neither replaced nor compacted, newest states and marks.
    pub live_bytes: u64,
}

/// What is known of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSurvey {
    /// First and last entry, if there are any.
    pub entries: Option<(u64, u64)>,
    /// Up to which entries were given up.
    pub compacted: u64,
    /// Bytes of its live entries, payloads and headers.
    pub entry_bytes: u64,
    /// Bytes of its newest state, payload and header; 0 if it has none.
    pub state_bytes: u64,
    /// Entries between others that are nowhere in the log.
    pub missing: Vec<(u64, u64)>,
}

/// What a log holds, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// In the order of [`Log::segments`].
    pub segments: Vec<SegmentSurvey>,
    /// By number.
    pub streams: BTreeMap<u64, StreamSurvey>,
    /// In the order of the log.
    pub damages: Vec<Damage>,
    /// The highest `durable_end` that anything in the log attests.
    pub durable_end: u64,
}

/// Where a live record is: segment, and bytes. No bytes: the entry is missing.
type Place = (u32, u32);

#[derive(Default)]
struct Stream {
    /// Live entries, from `first` on.
    entries: VecDeque<Place>,
    /// Copies of a rewrite whose end has not come.
    copies: Vec<Place>,
    first: u64,
    compacted: u64,
    state: Option<Place>,
    /// The state once more, in another segment.
    copy: Option<Place>,
    mark: Option<Place>,
}

/// The survey while it is made.
#[derive(Default)]
struct Surveyor {
    survey: Survey,
    streams: BTreeMap<u64, Stream>,
    /// Positions of `survey.damages`.
    damaged_at: Vec<Lsn>,
}

impl Log {
    /// Walks through the whole log, going on behind every damage. Takes about ten bytes of memory per live entry.
    pub fn survey(&self) -> Survey {
        let mut surveyor = Surveyor::default();
        // First what is attested anywhere: it tells damage from a torn tail, and behind a torn tail nothing counts.
        self.segments().iter().for_each(|segment| surveyor.attest_all(segment));
        for segment in self.segments() {
            surveyor.segment(segment);
        }
        surveyor.finish()
    }
}

impl Surveyor {
    fn segment(&mut self, segment: &Segment) {
        let number = self.survey.segments.len() as u32;
        self.survey.segments.push(SegmentSurvey::default());
        let Some(header) = segment.header else {
            if let super::SegmentUse::Damaged { expected_crc, found_crc } = segment.state() {
                let what = format!("its header has crc {found_crc:#010x} instead of {expected_crc:#010x}");
                self.damage(segment, Lsn(0), 0, segment.bytes(), what, Vec::new());
            }
            return;
        };
        let mut offset = BLOCK;
        let end = segment.end();
        loop {
            match batch_at(segment, offset, end) {
                Ok(batch) => {
                    self.batch(number, &batch);
                    offset += batch.padded_bytes();
                }
                Err(fault) => {
                    // Without a successor the log may simply end here; only what can be read further on shows that it does not.
                    let next = next_intact(segment, offset + BLOCK, end);
                    let Some(next) = next.or(segment.limit.map(|_| end).filter(|end| *end > offset)) else {
                        break;
                    };
                    let lsn = header.start.plus(offset - BLOCK);
                    let (what, claims) = describe(segment, offset, lsn, fault);
                    self.damage(segment, lsn, offset, next - offset, what, claims);
                    if segment.limit.is_none() && lsn.0 >= self.survey.durable_end {
                        break;
                    }
                    offset = next;
                }
            }
            if offset >= end {
                break;
            }
        }
        self.survey.segments[number as usize].lsn =
            Some((header.start.0, header.start.plus(offset.min(end) - BLOCK).0));
    }

    fn damage(
        &mut self,
        segment: &Segment,
        lsn: Lsn,
        offset: u64,
        bytes: u64,
        what: String,
        claims: Vec<(u64, u64, u64)>,
    ) {
        let name = segment.name().to_owned();
        self.survey.damages.push(Damage { segment: name, offset, bytes, what, acknowledged: true, claims });
        self.damaged_at.push(lsn);
    }

    /// Takes what the headers of a segment and of its batches attest; a batch's header counts by itself.
    fn attest_all(&mut self, segment: &Segment) {
        let Some(header) = segment.header else { return };
        let mut best = header.durable_end;
        for offset in (BLOCK..segment.end()).step_by(BLOCK as usize) {
            let bytes = segment.bytes_at(offset);
            let Some(batch) = BatchHeader::decode(bytes) else { continue };
            let placed =
                batch.incarnation == header.incarnation && batch.lsn == header.start.plus(offset - BLOCK);
            if placed && batch.durable_end > best && batch.check_header(bytes).is_ok() {
                best = batch.durable_end;
            }
        }
        self.survey.durable_end = self.survey.durable_end.max(best.0);
    }

    fn batch(&mut self, number: u32, batch: &Batch<'_>) {
        let segment = &mut self.survey.segments[number as usize];
        segment.batches += 1;
        segment.written_bytes += batch.padded_bytes();
        segment.padding_bytes += batch.padded_bytes() - u64::from(batch.bytes());
        let mut records = batch.records();
        loop {
            let at = records.at;
            let Some(Ok(record)) = records.next() else { break };
            self.survey.segments[number as usize].records += 1;
            self.record(&record, (number, (records.at - at) as u32));
        }
    }

    fn record(&mut self, record: &Record<'_>, place: Place) {
        let live = |segments: &mut [SegmentSurvey], old: Option<Place>, new: Option<Place>| {
            if let Some((segment, bytes)) = old {
                segments[segment as usize].live_bytes -= u64::from(bytes);
            }
            if let Some((segment, bytes)) = new {
                segments[segment as usize].live_bytes += u64::from(bytes);
            }
        };
        let segments = &mut self.survey.segments;
        let stream = match record.kind {
            RecordKind::Entry
            | RecordKind::State
            | RecordKind::StateCopy
            | RecordKind::Compacted
            | RecordKind::Repair
            | RecordKind::RewriteBegin
            | RecordKind::Copy
            | RecordKind::RewriteEnd => self.streams.entry(record.stream).or_default(),
            _ => return,
        };
        match record.kind {
            RecordKind::Entry => {
                let end = stream.first + stream.entries.len() as u64;
                if stream.entries.is_empty() || record.index < stream.first {
                    stream.entries.drain(..).for_each(|old| live(segments, Some(old), None));
                    // Where nothing was given up an index above the mark is the stream's own choice of a beginning.
                    stream.first = record.index;
                } else if record.index < end {
                    let kept = (record.index - stream.first) as usize;
                    stream.entries.drain(kept..).for_each(|old| live(segments, Some(old), None));
                }
                let end = stream.first + stream.entries.len() as u64;
                stream.entries.extend((end..record.index).map(|_| (0, 0)));
                stream.entries.push_back(place);
                live(segments, None, Some(place));
            }
            RecordKind::RewriteBegin => stream.copies.clear(),
            RecordKind::Copy => stream.copies.push(place),
            RecordKind::RewriteEnd => {
                let copies = std::mem::take(&mut stream.copies);
                if record.tag.checked_sub(record.index) != Some((copies.len() as u64).wrapping_sub(1)) {
                    return;
                }
                let kept = record.index.saturating_sub(stream.first).min(stream.entries.len() as u64);
                stream.entries.drain(kept as usize..).for_each(|old| live(segments, Some(old), None));
                if stream.entries.is_empty() {
                    stream.first = record.index;
                }
                for copy in copies {
                    stream.entries.push_back(copy);
                    live(segments, None, Some(copy));
                }
            }
            RecordKind::Repair => {
                let at = record.index.checked_sub(stream.first).map(|at| at as usize);
                if let Some(entry) = at.and_then(|at| stream.entries.get_mut(at)) {
                    live(segments, Some(std::mem::replace(entry, place)), Some(place));
                }
            }
            RecordKind::State => {
                live(segments, stream.state.replace(place), Some(place));
            }
            RecordKind::StateCopy => {
                live(segments, stream.copy.replace(place), Some(place));
            }
            RecordKind::Compacted => {
                stream.compacted = stream.compacted.max(record.index);
                while stream.first <= stream.compacted && !stream.entries.is_empty() {
                    live(segments, stream.entries.pop_front(), None);
                    stream.first += 1;
                }
                live(segments, stream.mark.replace(place), Some(place));
            }
            _ => {}
        }
    }

    fn finish(self) -> Survey {
        let Surveyor { mut survey, streams, damaged_at } = self;
        for (damage, lsn) in survey.damages.iter_mut().zip(damaged_at) {
            damage.acknowledged = damage.offset == 0 || lsn.0 < survey.durable_end;
        }
        survey.streams = streams.into_iter().map(|(id, stream)| (id, stream.survey())).collect();
        survey
    }
}

impl Stream {
    fn survey(&self) -> StreamSurvey {
        let mut missing: Vec<(u64, u64)> = Vec::new();
        for (index, (_, bytes)) in (self.first..).zip(&self.entries) {
            match missing.last_mut() {
                _ if *bytes > 0 => {}
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => missing.push((index, index)),
            }
        }
        let last = self.first + self.entries.len() as u64;
        StreamSurvey {
            entries: (!self.entries.is_empty()).then(|| (self.first, last - 1)),
            compacted: self.compacted,
            entry_bytes: self.entries.iter().map(|(_, bytes)| u64::from(*bytes)).sum(),
            state_bytes: self.state.map_or(0, |(_, bytes)| u64::from(bytes)),
            missing,
        }
    }
}

impl Segment {
    /// Where its batches end at most: where its successor begins, or the end of the file.
    fn end(&self) -> u64 {
        let start = self.header.map_or(Lsn(0), |h| h.start);
        self.limit.map_or(self.bytes(), |limit| (BLOCK + limit.since(start)).min(self.bytes()))
    }

    fn bytes_at(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|at| self.file.bytes().get(at..)).unwrap_or(&[])
    }
}

/// Why there is no batch at a place.
enum NoBatch {
    /// Nothing there looks like one of this segment's batches.
    None,
    Fault(BatchHeader, BatchFault),
}

/// The batch at a place, if it is one of this use of the segment, whole, and inside it.
fn batch_at(segment: &Segment, offset: u64, end: u64) -> Result<Batch<'_>, NoBatch> {
    let header = segment.header.ok_or(NoBatch::None)?;
    let bytes = segment.bytes_at(offset);
    let batch = BatchHeader::decode(bytes).ok_or(NoBatch::None)?;
    let placed = batch.incarnation == header.incarnation && batch.lsn == header.start.plus(offset - BLOCK);
    if !placed || offset + batch.padded() > end {
        return Err(NoBatch::None);
    }
    batch.check(bytes).map_err(|fault| NoBatch::Fault(batch, fault))?;
    Ok(Batch { header: batch, bytes: &bytes[..batch.length as usize], offset })
}

fn next_intact(segment: &Segment, from: u64, end: u64) -> Option<u64> {
    (from..end).step_by(BLOCK as usize).find(|offset| batch_at(segment, *offset, end).is_ok())
}

/// What is wrong with the batch at a place, and which of its records are.
fn describe(segment: &Segment, offset: u64, lsn: Lsn, fault: NoBatch) -> (String, Vec<(u64, u64, u64)>) {
    let NoBatch::Fault(header, fault) = fault else {
        return ("there is no batch of this segment where one was written".to_owned(), Vec::new());
    };
    let (stored, computed) = fault.checksums();
    let what = match fault {
        BatchFault::Header { .. } => {
            format!("the batch's header has crc {computed:#010x} instead of {stored:#010x}")
        }
        BatchFault::Record { at, .. } => {
            format!("the record {at} bytes into the batch has crc {computed:#010x} instead of {stored:#010x}")
        }
        BatchFault::Digest { .. } => {
            "every record is right, and they are not those that the batch was written with".to_owned()
        }
    };
    if let BatchFault::Header { .. } = fault {
        return (what, Vec::new());
    }
    let start = offset as usize;
    let batch = &segment.file.bytes()[start..start + header.length as usize];
    let (mut at, mut claims) = (BATCH_HEADER_BYTES, Vec::new());
    for _ in 0..header.records {
        let bytes = batch.get(at..).unwrap_or(&[]);
        // A record whose length was hit leads nowhere; what follows it cannot be told.
        let Ok(record) = decode_record(bytes, None) else { break };
        if check_record(bytes, lsn.plus(at as u64)).is_err() && claims.len() < CLAIMS_MAX {
            claims.push((offset + at as u64, record.header.stream, record.header.index));
        }
        at += record.bytes;
    }
    (what, claims)
}
