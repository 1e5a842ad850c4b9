//! Codecs with right, arbitrary and mutated bytes: what was written is read, anything else is an error, nothing panics.

use proptest::prelude::*;

use super::*;

fn header(kind: Kind, fields: [u64; 4]) -> RecordHeader {
    RecordHeader { kind, stream: fields[0], index: fields[1], tag: fields[2], note: fields[3] }
}

/// Numbers of every width.
fn field() -> impl Strategy<Value = u64> {
    (0u32..64, any::<u64>()).prop_map(|(shift, value)| value >> shift)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Entry,
        Kind::State,
        Kind::Compacted,
        Kind::Trim,
        Kind::RewriteBegin,
        Kind::Copy,
        Kind::RewriteEnd,
    ])
}

type Written = (RecordHeader, Vec<u8>);

fn record() -> impl Strategy<Value = Written> {
    let fields = [field(), field(), field(), field()];
    (kind(), fields, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(k, f, payload)| (header(k, f), payload))
}

fn batch(lsn: Lsn, records: &[Written]) -> (BatchHeader, Vec<u8>) {
    let room: usize = records.iter().map(|(_, p)| p.len() + RECORD_OVERHEAD_MAX).sum();
    let mut bytes = vec![0xaa; BATCH_HEADER_BYTES + room];
    let (mut at, mut digest) = (BATCH_HEADER_BYTES, 0);
    for (header, payload) in records {
        let (len, crc) = encode_record(&mut bytes[at..], lsn.plus(at as u64), header, payload);
        at += len;
        digest = digest_append(digest, crc);
    }
    bytes.truncate(at);
    let mut header = BatchHeader {
        length: at as u32,
        incarnation: Incarnation(3),
        lsn,
        durable_end: Lsn(lsn.0 / 2),
        previous_crc: 77,
        records: records.len() as u32,
        seal: false,
        states: 5,
        replaced: 6,
        digest,
        crc: 0,
    };
    header.crc = header.seal(&mut bytes);
    (header, bytes)
}

proptest! {
    #[test]
    fn records_come_back_as_written((header, payload) in record(), position in any::<u32>()) {
        let lsn = Lsn(u64::from(position) * 8);
        let mut out = vec![0xbb; payload.len() + RECORD_OVERHEAD_MAX];
        let (bytes, _) = encode_record(&mut out, lsn, &header, &payload);
        prop_assert!(bytes.is_multiple_of(RECORD_ALIGN));
        prop_assert!(bytes <= payload.len() + RECORD_OVERHEAD_MAX);
        let record = decode_record(&out[..bytes], Some(lsn));
        prop_assert_eq!(record, Ok(Record { header, payload: &payload, bytes }));
        // The same bytes are no record of another place.
        let elsewhere = decode_record(&out[..bytes], Some(lsn.plus(8)));
        prop_assert!(matches!(elsewhere, Err(RecordFault::Crc { .. })), "{:?}", elsewhere);
    }

    #[test]
    fn batches_come_back_as_written(records in prop::collection::vec(record(), 0..20), block in any::<u32>()) {
        let lsn = Lsn(u64::from(block) * BLOCK);
        let (header, bytes) = batch(lsn, &records);
        prop_assert_eq!(BatchHeader::decode(&bytes), Some(header));
        prop_assert_eq!(header.check(&bytes), Ok(()));
        let read: Vec<_> = Records::new(&header, &bytes)
            .map(|r| r.map(|(_, r)| (r.header, r.payload.to_vec())))
            .collect();
        let expected: Vec<Result<Written, RecordFault>> = records.into_iter().map(Ok).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn a_changed_byte_of_a_batch_is_noticed(
        records in prop::collection::vec(record(), 1..8),
        at in any::<prop::sample::Index>(),
        mask in 1u8..,
    ) {
        let (_, mut bytes) = batch(Lsn(8 * BLOCK), &records);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let intact = BatchHeader::decode(&bytes).is_some_and(|header| header.check(&bytes).is_ok());
        prop_assert!(!intact, "byte {}", at);
    }

    #[test]
    fn arbitrary_bytes_are_no_batch_and_nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
        if magic && bytes.len() >= 8 {
            bytes[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
            let len = bytes.len() as u32;
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
        }
        if let Some(header) = BatchHeader::decode(&bytes) {
            let _ = (header.check(&bytes), header.check_header(&bytes));
            // Even if the checksum were right, by chance or malice: the records are walked without a panic.
            for record in Records::new(&header, &bytes) {
                let _ = record;
            }
        }
        let _ = decode_record(&bytes, None);
        let _ = decode_record(&bytes, Some(Lsn(64)));
        let _ = SegmentHeader::decode(&bytes);
    }

    #[test]
    fn mutated_records_in_a_batch_with_a_right_checksum_do_not_panic(
        records in prop::collection::vec(record(), 1..8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        let (mut header, mut bytes) = batch(Lsn(0), &records);
        for (at, value) in changes {
            let at = BATCH_HEADER_BYTES + at.index(bytes.len() - BATCH_HEADER_BYTES);
            bytes[at] = value;
        }
        header.crc = header.seal(&mut bytes);
        let mut end = BATCH_HEADER_BYTES;
        for record in Records::new(&header, &bytes) {
            match record {
                Ok((lsn, record)) => {
                    prop_assert_eq!(lsn.0 as usize, end);
                    end += record.bytes;
                }
                Err(_) => break,
            }
        }
    }

    #[test]
    fn segment_headers_come_back_and_changes_are_noticed(
        numbers in prop::array::uniform7(any::<u64>()),
        previous_crc in any::<u32>(),
        at in 0..SEGMENT_HEADER_BYTES,
        mask in 1u8..,
    ) {
        let mut header = SegmentHeader {
            log_id: numbers[0],
            incarnation: Incarnation(numbers[1]),
            segment_bytes: numbers[2],
            start: Lsn(numbers[3]),
            predecessor: Incarnation(numbers[4]),
            previous_crc,
            durable_end: Lsn(numbers[5]),
            first_live: Incarnation(numbers[6]),
            trim: Lsn(numbers[0] ^ numbers[6]),
            crc: 0,
        };
        let mut block = vec![0xcc; BLOCK as usize];
        header.crc = header.encode(&mut block);
        prop_assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Header(header));
        block[at] ^= mask;
        let changed = SegmentHeader::decode(&block);
        prop_assert!(!matches!(changed, HeaderBlock::Header(_)), "{:?}", changed);
    }

    #[test]
    fn file_names_come_back(number in 1u64.., other in "[a-z0-9.-]{0,30}") {
        let name = Incarnation(number).file_name();
        prop_assert_eq!(parse_file_name(&name), Some(FileName::Segment(Incarnation(number))));
        if let Some(FileName::Segment(incarnation)) = parse_file_name(&other) {
            prop_assert_eq!(incarnation.file_name(), other);
        }
    }
}

#[test]
fn names_that_are_not_quite_segments_are_left_alone() {
    for name in [
        "wal-.seg",
        "wal-1.seg",
        "wal-000000000000000G.seg",
        "wal-000000000000000A.seg",
        "WAL-0000000000000001.seg",
    ] {
        assert_eq!(parse_file_name(name), None, "{name}");
    }
    assert_eq!(parse_file_name("wal-0000000000000000.seg"), None);
    assert_eq!(parse_file_name("wal-0000000000000007.new"), Some(FileName::Unfinished));
}

#[test]
fn a_small_record_takes_few_bytes_beside_its_payload() {
    let mut out = vec![0; 256];
    let (bytes, _) =
        encode_record(&mut out, Lsn(64), &header(Kind::Entry, [1000, 100_000, 5, 99_990]), &[1; 128]);
    assert!(bytes <= 128 + 24, "{bytes}");
}

#[test]
fn large_payloads_are_copied_in_pieces_and_checked_as_a_whole() {
    for len in [COPY_PIECE_BYTES, COPY_PIECE_BYTES + 1, 2 * COPY_PIECE_BYTES + 5, 100_000] {
        let payload: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
        let header = header(Kind::Entry, [3, 70_000, 1, 2]);
        let mut out = vec![0xbb; len + RECORD_OVERHEAD_MAX];
        let (bytes, crc) = encode_record(&mut out, Lsn(4096), &header, &payload);
        assert_eq!(check_record(&out, Lsn(4096)), Ok((crc, bytes)));
        assert_eq!(decode_record(&out, Some(Lsn(4096))), Ok(Record { header, payload: &payload, bytes }));
    }
}

#[test]
fn records_that_were_written_for_another_batch_are_noticed() {
    let lsn = Lsn(8 * BLOCK);
    let one = (header(Kind::Entry, [1, 2, 3, 4]), vec![5; 40]);
    let other = (header(Kind::Entry, [1, 2, 3, 4]), vec![6; 40]);
    let (header, mut bytes) = batch(lsn, &[one.clone(), one.clone()]);
    let (_, stale) = batch(lsn, &[other, one]);
    // Every record is right where it stands; only the digest knows that it is not the one that was written.
    bytes[BATCH_HEADER_BYTES..].copy_from_slice(&stale[BATCH_HEADER_BYTES..]);
    assert!(matches!(header.check(&bytes), Err(BatchFault::Digest { .. })), "{:?}", header.check(&bytes));
    assert_eq!(header.check_header(&bytes), Ok(()));
}

#[test]
fn zeros_are_an_unused_segment_and_other_bytes_a_foreign_file() {
    assert_eq!(SegmentHeader::decode(&[0; 4096]), HeaderBlock::Zeros);
    assert_eq!(SegmentHeader::decode(&[1; 4096]), HeaderBlock::Foreign);
    assert_eq!(SegmentHeader::decode(&[0; 100]), HeaderBlock::Foreign);
}
