//! The parsers as fuzzers see them: bytes go in, and whatever they are, nothing panics, and what was understood can be written and
//! understood again. For `fuzz/` and `tests/fuzz.rs`; no part of the crate's interface.
//!
//! The first byte of an input says whether checksums are put right first: random bytes would never get past them.

use crate::disk::ALIGNMENT;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchFault, BatchHeader, HeaderBlock, Lsn, RECORD_OVERHEAD_MAX, RecordFault,
    Records, SegmentHeader, decode_record, encode_record, parse_file_name,
};
use crate::sim::{SimDisk, SimOptions, SimPlatter};
use crate::wal::{EntryHeader, Options, Recovery, StreamId, Wal};

/// Checksums of one input that are put right at most.
const REPAIRS_MAX: u32 = 64;

fn split(input: &[u8]) -> (bool, &[u8]) {
    input.split_first().map_or((false, input), |(flags, bytes)| (flags & 1 == 1, bytes))
}

fn patch(bytes: &mut [u8], at: usize, crc: u32) -> bool {
    let place = bytes.get_mut(at..at + 4);
    place.is_some_and(|place| {
        place.copy_from_slice(&crc.to_le_bytes());
        true
    })
}

/// A block as a segment's first, as a file's name and as the beginning of a batch.
pub fn block(input: &[u8]) {
    let (repair, bytes) = split(input);
    let _ = parse_file_name(&String::from_utf8_lossy(bytes));
    let mut bytes = bytes.to_vec();
    segment_header(&mut bytes.clone(), repair);
    batch(&mut bytes, repair);
}

fn segment_header(bytes: &mut Vec<u8>, repair: bool) {
    let _ = SegmentHeader::decode(bytes);
    bytes.resize(bytes.len().max(ALIGNMENT), 0);
    if let (true, HeaderBlock::Damaged { computed, .. }) = (repair, SegmentHeader::decode(bytes)) {
        patch(bytes, 12, computed);
    }
    if let HeaderBlock::Header(header) = SegmentHeader::decode(bytes) {
        let mut block = vec![0xff; BLOCK as usize];
        let crc = header.encode(&mut block);
        let again = SegmentHeader { crc, ..header };
        assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Header(again));
    }
}

fn batch(bytes: &mut [u8], repair: bool) {
    let repairs = if repair { REPAIRS_MAX } else { 0 };
    for _ in 0..=repairs {
        let Some(header) = BatchHeader::decode(bytes) else { return };
        let patched = match header.check(bytes) {
            Ok(()) => return sound_batch(&header, bytes),
            Err(BatchFault::Header { computed, .. }) => patch(bytes, 36, computed),
            Err(BatchFault::Record { at, fault: RecordFault::Crc { computed, .. } }) => {
                patch(bytes, at as usize, computed)
            }
            Err(BatchFault::Digest { computed, .. }) => patch(bytes, 44, computed),
            Err(BatchFault::Record { .. }) => false,
        };
        if !patched {
            return;
        }
    }
}

/// What passed all checks: its records lie in it, one behind the other.
fn sound_batch(header: &BatchHeader, bytes: &[u8]) {
    let mut end = header.lsn.plus(BATCH_HEADER_BYTES as u64);
    for record in Records::new(header, bytes) {
        match record {
            Ok((lsn, record)) => {
                assert_eq!(lsn, end);
                end = lsn.plus(record.bytes as u64);
            }
            Err(fault) => {
                assert!(matches!(fault, RecordFault::Kind(_)), "a batch that was checked has {fault:?}");
                return;
            }
        }
    }
    assert_eq!(end, header.lsn.plus(u64::from(header.length)));
}

/// Bytes as a record at the position that the first eight of them say.
pub fn record(input: &[u8]) {
    let (repair, bytes) = split(input);
    let Some((position, bytes)) = bytes.split_at_checked(8) else { return };
    let lsn = Lsn(u64::from_le_bytes(position.try_into().unwrap_or_default()));
    let mut bytes = bytes.to_vec();
    let _ = decode_record(&bytes, None);
    if let (true, Err(RecordFault::Crc { computed, .. })) = (repair, decode_record(&bytes, Some(lsn))) {
        patch(&mut bytes, 0, computed);
    }
    let Ok(record) = decode_record(&bytes, Some(lsn)) else { return };
    let mut out = vec![0xff; record.payload.len() + RECORD_OVERHEAD_MAX];
    let (written, _) = encode_record(&mut out, lsn, &record.header, record.payload);
    let again = decode_record(&out[..written], Some(lsn));
    assert!(
        again.is_ok_and(|again| again.header == record.header && again.payload == record.payload),
        "{:?} is written as something else",
        record.header
    );
}

/// Collects what a log gives back.
#[derive(Default)]
struct Found(Vec<(u64, u64, u64, Vec<u8>)>);

impl Recovery for Found {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        self.0.push((stream.0, header.index, header.tag, payload.to_vec()));
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
}

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        batch_bytes_max: 4096,
        payload_bytes_max: 2000,
        budget_bytes: 1 << 20,
        log_id: 7,
        ..Options::default()
    }
}

/// A log of a few segments with three streams, and its entries.
fn sample() -> Option<(SimPlatter, Found)> {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let mut wal = Wal::open(disk, options(), 1, &mut Found::default()).ok()?;
    let mut now = 1;
    for number in 1..=24u64 {
        let slot = wal.stream(StreamId(number % 3));
        let header = EntryHeader { index: number.div_ceil(3), tag: number, note: 0 };
        wal.append(slot, header, &[number as u8; 700]).ok()?;
        if number % 5 == 0 {
            wal.put_state(slot, &[number as u8; 20]).ok()?;
        }
        while wal.durable() < wal.last_ticket() {
            now += 1;
            wal.submit(now);
            wal.poll(now);
        }
    }
    drop(wal);
    platter.power_loss();
    let mut found = Found::default();
    drop(Wal::open(platter.copy(1).open().ok()?, options(), 1, &mut found).ok()?);
    Some((platter, found))
}

thread_local! {
    static SAMPLE: Option<(SimPlatter, Found)> = sample();
}

/// Edits of a small log (five bytes each: file, place, what, value), which then opens or does not: every entry that it gives back is
/// one that was written, unless checksums were put right.
pub fn log(input: &[u8]) {
    let (repair, edits) = split(input);
    SAMPLE.with(|sample| {
        let Some((original, entries)) = sample else { unreachable!("the sample log opens") };
        let platter = original.copy(1);
        let files: Vec<(String, u64)> = platter.list();
        for edit in edits.chunks_exact(5) {
            let (name, len) = &files[edit[0] as usize % files.len()];
            let place = u64::from(u16::from_le_bytes([edit[1], edit[2]])) % len;
            match edit[3] % 4 {
                0 => platter.flip(name, place, edit[4]),
                1 => platter.overwrite(name, place, &[edit[4]]),
                2 => platter.overwrite(name, place, &u64::from(edit[4]).to_le_bytes()),
                _ => platter.overwrite(name, place / BLOCK * BLOCK, &[edit[4]; 512]),
            };
            if repair {
                repair_block(&platter, name, place / BLOCK * BLOCK);
            }
        }
        let mut found = Found::default();
        let Ok(disk) = platter.open() else { unreachable!("nobody has the copy open") };
        let opened = Wal::open(disk, options(), 1, &mut found);
        if !repair && opened.is_ok() {
            let wrong = found.0.iter().find(|entry| !entries.0.contains(entry));
            assert!(wrong.is_none(), "an entry that was never written: {wrong:?}");
        }
    });
}

/// Puts the checksums of one block right, as a segment's first or as a batch.
fn repair_block(platter: &SimPlatter, name: &str, offset: u64) {
    let Some(file) = platter.read_file(name) else { return };
    let Some(from) = usize::try_from(offset).ok().filter(|from| *from < file.len()) else { return };
    let mut bytes = file[from..].to_vec();
    if offset == 0 {
        if let HeaderBlock::Damaged { computed, .. } = SegmentHeader::decode(&bytes) {
            patch(&mut bytes, 12, computed);
        }
    } else {
        batch(&mut bytes, true);
    }
    platter.overwrite(name, offset, &bytes[..bytes.len().min(4 * ALIGNMENT)]);
}
