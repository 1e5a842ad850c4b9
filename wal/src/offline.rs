//! Reading a log that no node has open: what is in it, and whether it is sound. Never writes.
//!
//! [`Log::open`] maps the segment files. [`Log::segments`] lists them, [`Segment::batches`] and [`Batch::records`] walk through
//! what is in them, and [`Log::verify`] judges the log exactly as opening it would, and checks every record besides. A file
//! that is cut short while it is mapped raises SIGBUS: use this on logs at rest, or on copies.

mod map;
mod survey;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::map::{MapDisk, MappedFile};
pub use self::survey::{Damage, SegmentSurvey, StreamSurvey, Survey};
use crate::format::{
    BLOCK, BatchHeader, FileName, HeaderBlock, Incarnation, Kind, Lsn, MARKS_FILE, RecordFault,
    SegmentHeader, decode_record, parse_file_name,
};
use crate::wal::{EntryHeader, OpenError, Recovery, StreamId, verify_log};

/// Why a log could not be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The directory or a file could not be read.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        source: std::io::Error,
    },
    /// There is no log.
    #[error("{} holds no log: no file is named wal-<number>.seg", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
}

/// What a segment file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentUse {
    /// Prepared, and no batch was ever written to it under this name.
    Prepared,
    /// In use.
    Started {
        /// Number of this use of the file.
        incarnation: u64,
        /// Position of its first batch.
        start: u64,
        /// Number of the segment before it; 0 for none.
        predecessor: u64,
        /// What was known durable when it was started.
        durable_end: u64,
        /// The log's number.
        log_id: u64,
    },
    /// The header is damaged.
    Damaged {
        /// Its checksum as stored.
        expected_crc: u32,
        /// Its checksum as computed.
        found_crc: u32,
    },
    /// Written in another version of the format.
    Version(u32),
    /// Not a segment, whatever its name says.
    Foreign,
}

/// A segment file.
pub struct Segment {
    name: String,
    file: MappedFile,
    state: SegmentUse,
    header: Option<SegmentHeader>,
    /// Where its successor begins, if that is known.
    limit: Option<Lsn>,
}

impl Segment {
    /// File name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }

    /// What it is used for.
    pub fn state(&self) -> SegmentUse {
        self.state
    }

    /// Its batches, as far as one follows the other.
    pub fn batches(&self) -> Batches<'_> {
        let (lsn, crc) = self.header.map_or((Lsn(0), 0), |h| (h.start, h.crc));
        let done = self.header.is_none();
        Batches { segment: self, lsn, crc, offset: BLOCK, done }
    }
}

/// The batches of a segment, in order. Ends at the first place where no batch follows: look at [`Batches::offset`].
pub struct Batches<'a> {
    segment: &'a Segment,
    lsn: Lsn,
    crc: u32,
    offset: u64,
    done: bool,
}

impl Batches<'_> {
    /// Byte offset of the next batch, or of the place where none followed.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Batch<'a>;

    fn next(&mut self) -> Option<Batch<'a>> {
        if self.done {
            return None;
        }
        self.done = true;
        let segment = self.segment;
        let expected = segment.header?.incarnation;
        let bytes = segment.file.bytes().get(usize::try_from(self.offset).ok()?..)?;
        let header = BatchHeader::decode(bytes)?;
        let end = header.lsn.0.checked_add(header.padded())?;
        let follows = !header.seal
            && header.incarnation == expected
            && header.lsn == self.lsn
            && header.previous_crc == self.crc;
        let inside = header.padded() <= bytes.len() as u64 && segment.limit.is_none_or(|l| end <= l.0);
        if !follows || !inside || header.check(bytes).is_err() {
            return None;
        }
        let batch = Batch { header, bytes: &bytes[..header.length as usize], offset: self.offset };
        self.offset += header.padded();
        (self.lsn, self.crc, self.done) = (Lsn(end), header.crc, false);
        Some(batch)
    }
}

/// A batch whose checksum is right.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
    offset: u64,
}

impl<'a> Batch<'a> {
    /// A batch that was checked, at the beginning of `bytes`.
    pub(crate) fn read(header: BatchHeader, bytes: &'a [u8]) -> Batch<'a> {
        Batch { header, bytes: &bytes[..header.length as usize], offset: 0 }
    }

    /// Byte offset in the segment.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// Position in the log.
    pub fn lsn(&self) -> u64 {
        self.header.lsn.0
    }
    /// Bytes of header and records.
    pub fn bytes(&self) -> u32 {
        self.header.length
    }
    /// Bytes on disk, padding included.
    pub fn padded_bytes(&self) -> u64 {
        self.header.padded()
    }
    /// What was known durable when it was submitted.
    pub fn durable_end(&self) -> u64 {
        self.header.durable_end.0
    }
    /// Its checksum.
    pub fn crc(&self) -> u32 {
        self.header.crc
    }
    /// Records in it.
    pub fn record_count(&self) -> u32 {
        self.header.records
    }
    /// The records. One that cannot be understood ends the iteration as an error.
    pub fn records(&self) -> Records<'a> {
        Records { batch: *self, at: crate::format::BATCH_HEADER_BYTES, left: self.header.records }
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordKind {
    /// An entry of a stream.
    Entry,
    /// The state of a stream.
    State,
    /// Entries of the stream up to `index` are not needed any more.
    Compacted,
    /// Segments before number `index` are not needed any more.
    Trim,
    /// Entry `index` of the stream, whose own record is damaged.
    Repair,
    /// The state of the stream once more, in another segment.
    StateCopy,
    /// The stream may have lost entries from `index` on (bit 0 of `note`) or its newest state (bit 1).
    Verdict,
    /// The owner has dealt with that.
    Healed,
    /// Damage from position `index` to `tag` was judged.
    Judged,
    /// What the batch did that begins `index` bytes before this one.
    Directory,
    /// The entries of the stream are written again from here on.
    RewriteBegin,
    /// Entry `index` of the stream, written again.
    Copy,
    /// Entries `index ..= tag` of the stream were written again: the copies count.
    RewriteEnd,
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Position in the log.
    pub lsn: u64,
    /// What it is.
    pub kind: RecordKind,
    /// Its stream.
    pub stream: u64,
    /// Index of an entry, or up to which was compacted.
    pub index: u64,
    /// The owner's.
    pub tag: u64,
    /// The owner's.
    pub note: u64,
    /// Payload or state.
    pub payload: &'a [u8],
}

/// Why the bytes at a place of an intact batch are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record at {lsn} cannot be read: {why}")]
pub struct BadRecord {
    /// Position in the log.
    pub lsn: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// The records of a batch, their own checksums checked.
pub struct Records<'a> {
    batch: Batch<'a>,
    at: usize,
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let lsn = self.batch.header.lsn.plus(self.at as u64);
        let bytes = self.batch.bytes.get(self.at..).unwrap_or(&[]);
        match decode_record(bytes, Some(lsn)) {
            Ok(record) => {
                self.at += record.bytes;
                let header = record.header;
                Some(Ok(Record {
                    lsn: lsn.0,
                    kind: match header.kind {
                        Kind::Entry => RecordKind::Entry,
                        Kind::State => RecordKind::State,
                        Kind::Compacted => RecordKind::Compacted,
                        Kind::Trim => RecordKind::Trim,
                        Kind::Repair => RecordKind::Repair,
                        Kind::StateCopy => RecordKind::StateCopy,
                        Kind::Verdict => RecordKind::Verdict,
                        Kind::Healed => RecordKind::Healed,
                        Kind::Judged => RecordKind::Judged,
                        Kind::Directory => RecordKind::Directory,
                        Kind::RewriteBegin => RecordKind::RewriteBegin,
                        Kind::Copy => RecordKind::Copy,
                        Kind::RewriteEnd => RecordKind::RewriteEnd,
                    },
                    stream: header.stream,
                    index: header.index,
                    tag: header.tag,
                    note: header.note,
                    payload: record.payload,
                }))
            }
            Err(fault) => {
                self.left = 0;
                let why = match fault {
                    RecordFault::Short { .. } => "it goes on behind the batch",
                    RecordFault::Crc { .. } => "its checksum is wrong",
                    RecordFault::Kind(_) => "its kind is unknown",
                };
                Some(Err(BadRecord { lsn: lsn.0, why }))
            }
        }
    }
}

/// What a log holds and whether it is sound.
#[derive(Debug)]
pub struct Summary {
    /// Segment files with batches.
    pub segments: u32,
    /// Batches, from the first to the end of the log.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Streams seen.
    pub streams: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Where a torn tail begins that opening would cut: file and byte offset. Nothing of it was acknowledged, and every log
    /// has such a place: where its last batch ends.
    pub end: Option<(String, u64)>,
    /// What keeps the log from being opened: a missing or foreign file, another version, damage that cannot be attributed.
    pub damage: Option<OpenError>,
    /// Damage to acknowledged data that the log opens with: places, streams and indexes.
    pub damaged: Vec<crate::wal::Damage>,
    /// Entries that are damaged or may be lost (to `u64::MAX`) and were not repaired or healed: stream, first and last index.
    pub missing: Vec<(u64, u64, u64)>,
    /// Streams whose newest state may be lost.
    pub in_doubt: Vec<u64>,
    /// Records that are wrong inside batches that are intact: segment and what is wrong.
    pub bad_records: Vec<(String, BadRecord)>,
}

impl Summary {
    /// Whether the log is sound.
    pub fn is_sound(&self) -> bool {
        let whole = self.damage.is_none() && self.damaged.is_empty() && self.bad_records.is_empty();
        whole && self.missing.is_empty() && self.in_doubt.is_empty()
    }
}

/// A log at rest.
pub struct Log {
    directory: PathBuf,
    segments: Vec<Segment>,
    marks: Option<MappedFile>,
    in_use: bool,
}

impl Log {
    /// Maps the segment files of a directory.
    pub fn open(directory: &Path) -> Result<Log, OfflineError> {
        let io = |op, path: &Path| {
            let path = path.to_owned();
            move |source| OfflineError::Io { op, path, source }
        };
        let mut segments = Vec::new();
        let mut marks = None;
        for entry in std::fs::read_dir(directory).map_err(io("list", directory))? {
            let entry = entry.map_err(io("list", directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name == MARKS_FILE {
                marks = Some(MappedFile::open(&entry.path()).map_err(io("map", &entry.path()))?);
            }
            let Some(FileName::Segment(incarnation)) = parse_file_name(&name) else { continue };
            let file = MappedFile::open(&entry.path()).map_err(io("map", &entry.path()))?;
            segments.push((incarnation, segment(name, incarnation, file)));
        }
        if segments.is_empty() {
            return Err(OfflineError::NoLog { path: directory.to_owned() });
        }
        segments.sort_by_key(|(incarnation, _)| *incarnation);
        let mut segments: Vec<Segment> = segments.into_iter().map(|(_, segment)| segment).collect();
        let starts: Vec<(Incarnation, Lsn)> =
            segments.iter().filter_map(|s| s.header.map(|h| (h.predecessor, h.start))).collect();
        for segment in &mut segments {
            let Some(header) = segment.header else { continue };
            // The newest successor counts: an older one was cut away with the tail it followed.
            segment.limit =
                starts.iter().rev().find(|(p, _)| *p == header.incarnation).map(|(_, start)| *start);
        }
        Ok(Log { directory: directory.to_owned(), segments, marks, in_use: map::in_use(directory) })
    }

    /// The segments, by number.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether a process has the directory open: then the end of the log moves, and may look damaged.
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Follows the whole log as opening it would, and checks every record.
    pub fn verify(&self) -> Summary {
        let mut count = Count::default();
        let mut files: Vec<(String, MappedFile)> =
            self.segments.iter().map(|s| (s.name.clone(), s.file.clone())).collect();
        files.extend(self.marks.iter().map(|file| (MARKS_FILE.to_owned(), file.clone())));
        let mut disk = MapDisk::new(self.directory.clone(), files);
        let (recovered, missing, damage) = verify_log(&mut disk, &mut count);
        let bad = |segment: &Segment| -> Vec<(String, BadRecord)> {
            let records = segment.batches().flat_map(|batch| batch.records());
            records.filter_map(|r| r.err().map(|bad| (segment.name.clone(), bad))).collect()
        };
        Summary {
            segments: recovered.segments,
            batches: recovered.batches,
            records: recovered.records,
            streams: count.streams.len() as u64,
            bytes: recovered.bytes,
            end: recovered.cut,
            damage,
            damaged: recovered.damage,
            missing,
            in_doubt: count.in_doubt,
            bad_records: self.segments.iter().flat_map(bad).collect(),
        }
    }
}

/// What verifying wants to know of the records.
#[derive(Default)]
struct Count {
    streams: BTreeSet<u64>,
    in_doubt: Vec<u64>,
}

impl Recovery for Count {
    fn entry(&mut self, stream: StreamId, _: EntryHeader, _: &[u8]) {
        self.streams.insert(stream.0);
    }
    fn state(&mut self, stream: StreamId, _: &[u8]) {
        self.streams.insert(stream.0);
    }
    fn compacted(&mut self, stream: StreamId, _: u64) {
        self.streams.insert(stream.0);
    }
    fn damaged(&mut self, stream: StreamId, _: u64, _: u64) {
        self.streams.insert(stream.0);
    }
    fn state_in_doubt(&mut self, stream: StreamId) {
        self.in_doubt.push(stream.0);
    }
}

fn segment(name: String, incarnation: Incarnation, file: MappedFile) -> Segment {
    let block = SegmentHeader::decode(file.bytes());
    let header = match &block {
        HeaderBlock::Header(header) if header.incarnation == incarnation => Some(*header),
        _ => None,
    };
    let state = match block {
        HeaderBlock::Header(header) if header.incarnation == incarnation => SegmentUse::Started {
            incarnation: header.incarnation.0,
            start: header.start.0,
            predecessor: header.predecessor.0,
            durable_end: header.durable_end.0,
            log_id: header.log_id,
        },
        HeaderBlock::Header(_) | HeaderBlock::Zeros => SegmentUse::Prepared,
        HeaderBlock::Damaged { stored, computed } => {
            SegmentUse::Damaged { expected_crc: stored, found_crc: computed }
        }
        HeaderBlock::Version(version) => SegmentUse::Version(version),
        HeaderBlock::Foreign => SegmentUse::Foreign,
    };
    Segment { name, file, state, header, limit: None }
}
