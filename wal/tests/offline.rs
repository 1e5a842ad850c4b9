//! Looking at a log at rest.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::offline::{Log, OfflineError, RecordKind, SegmentUse};
use logdrive_wal::{DamageKind, RingDisk, RingOptions, StreamId, Wal};

fn write(directory: &Path) -> Streams {
    let disk = RingDisk::open(directory, RingOptions::default()).unwrap();
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    let mut model = Streams::default();
    let mut now = 0;
    for index in 1..=60 {
        for stream in 1..=7 {
            let slot = wal.stream(StreamId(stream));
            let payload = payload(stream, index, 300);
            wal.append(slot, header(index), &payload).unwrap();
            model.append(stream, header(index), &payload);
        }
        let slot = wal.stream(StreamId(index % 7 + 1));
        wal.put_state(slot, b"state").unwrap();
        model.states.insert(index % 7 + 1, b"state".to_vec());
        settle(&mut wal, &mut now);
    }
    wal.close(now).unwrap();
    model
}

#[test]
fn every_record_of_a_log_at_rest_is_listed_and_the_log_is_sound() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = write(directory.path());
    let log = Log::open(directory.path()).unwrap();
    assert!(!log.in_use());
    let mut found = Streams::default();
    let mut copies = 0;
    for segment in log.segments() {
        for batch in segment.batches() {
            for record in batch.records() {
                let record = record.unwrap();
                match record.kind {
                    RecordKind::Entry => {
                        let header = logdrive_wal::EntryHeader {
                            index: record.index,
                            tag: record.tag,
                            note: record.note,
                        };
                        found.append(record.stream, header, record.payload);
                    }
                    RecordKind::State => {
                        found.states.insert(record.stream, record.payload.to_vec());
                    }
                    RecordKind::Directory => {}
                    RecordKind::StateCopy => copies += 1,
                    _ => panic!("{record:?}"),
                }
            }
        }
    }
    assert_eq!(found, model);
    let summary = log.verify();
    assert!(summary.is_sound(), "{summary:?}");
    assert_eq!((summary.records, summary.streams), (60 * 8 + copies, 7));
    assert!(log.segments().iter().any(|s| s.state() == SegmentUse::Prepared));
}

#[test]
fn damage_of_acknowledged_bytes_is_found_and_nothing_is_written() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(directory.path());
    let (name, offset) = {
        let log = Log::open(directory.path()).unwrap();
        let segment = &log.segments()[0];
        let batch = segment.batches().nth(3).unwrap();
        (segment.name().to_owned(), batch.offset())
    };
    let path = directory.path().join(&name);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, offset + 200).unwrap();
    file.write_at(&[byte[0] ^ 4], offset + 200).unwrap();
    let before = std::fs::read(&path).unwrap();
    let summary = Log::open(directory.path()).unwrap().verify();
    assert!(!summary.is_sound());
    assert!(summary.damage.is_none(), "{:?}", summary.damage);
    let [damage] = &summary.damaged[..] else { panic!("{:?}", summary.damaged) };
    assert_eq!((&damage.segment, damage.offset, &damage.entries[..]), (&name, offset, &summary.missing[..]));
    assert_eq!(damage.entries.len(), 1, "{damage}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_log_in_use_and_an_empty_directory_are_told_apart() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assert!(matches!(Log::open(directory.path()), Err(OfflineError::NoLog { .. })));
    let disk = RingDisk::open(directory.path(), RingOptions::default()).unwrap();
    let wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    assert!(Log::open(directory.path()).unwrap().in_use());
    wal.close(0).unwrap();
    assert!(!Log::open(directory.path()).unwrap().in_use());
}

#[test]
fn a_survey_says_what_is_live_in_which_segment() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(directory.path());
    let log = Log::open(directory.path()).unwrap();
    let survey = log.survey();
    assert_eq!(survey.damages, []);
    assert_eq!(survey.streams.len(), 7);
    assert!(survey.streams.values().all(|s| s.entries == Some((1, 60)) && s.missing.is_empty()));
    let live: u64 = survey.segments.iter().map(|s| s.live_bytes).sum();
    let of_streams: u64 = survey.streams.values().map(|s| s.entry_bytes + s.state_bytes).sum();
    // The newest state of a stream is live in both its places.
    assert!(live >= of_streams && live < of_streams + 7 * 64, "{live} {of_streams}");
    let mut end = None;
    for segment in &survey.segments {
        assert!(segment.live_bytes <= segment.written_bytes - segment.padding_bytes);
        // One segment begins where the other ends.
        if let Some((first, last)) = segment.lsn {
            assert!(end.is_none_or(|end| end == first), "{segment:?} after {end:?}");
            end = Some(last);
        }
    }

    // Giving up half of a stream moves what is live.
    let disk = RingDisk::open(directory.path(), RingOptions::default()).unwrap();
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    let slot = wal.stream(StreamId(1));
    wal.compact(slot, 30).unwrap();
    wal.close(1).unwrap();
    let after = Log::open(directory.path()).unwrap().survey();
    assert_eq!(after.streams[&1].entries, Some((31, 60)));
    assert_eq!(after.streams[&1].compacted, 30);
    assert!(after.segments.iter().map(|s| s.live_bytes).sum::<u64>() < live - 29 * 300);
}

#[test]
fn a_survey_goes_on_behind_damage_and_names_what_it_hit() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(directory.path());
    let log = Log::open(directory.path()).unwrap();
    let mut entries = Vec::new();
    for segment in log.segments() {
        for batch in segment.batches() {
            for record in batch.records().map(|r| r.unwrap()).filter(|r| r.kind == RecordKind::Entry) {
                let at = batch.offset() + (record.lsn - batch.lsn());
                entries.push((segment.name().to_owned(), batch.offset(), at, record.stream, record.index));
            }
        }
    }
    drop(log);
    let (name, batch, at, stream, index) = entries[entries.len() / 2].clone();
    let file = std::fs::File::options().write(true).open(directory.path().join(&name)).unwrap();
    // Into the payload: the record still says whose it is.
    file.write_at(b"#", at + 100).unwrap();
    let survey = Log::open(directory.path()).unwrap().survey();
    assert_eq!(survey.damages.len(), 1, "{:?}", survey.damages);
    let damage = &survey.damages[0];
    assert_eq!((damage.segment.as_str(), damage.offset, damage.acknowledged), (name.as_str(), batch, true));
    assert_eq!(damage.claims, [(at, stream, index)]);
    // The batch is lost as a whole, one entry of each stream.
    for (stream, found) in &survey.streams {
        assert_eq!(found.entries, Some((1, 60)), "stream {stream}");
        assert_eq!(found.missing, [(index, index)], "stream {stream}");
    }
}

#[test]
fn a_damaged_header_and_a_damaged_mark_of_a_closed_log_are_named_though_nothing_is_lost() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(directory.path());
    let verify = || Log::open(directory.path()).unwrap().verify();
    let flip = |name: &str, offset: u64| {
        let path = directory.path().join(name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 16], offset).unwrap();
    };
    let log = Log::open(directory.path()).unwrap();
    let used = |segment: &&logdrive_wal::offline::Segment| segment.batches().next().is_some();
    let names: Vec<String> = log.segments().iter().filter(used).map(|s| s.name().to_owned()).collect();
    assert!(names.len() > 3, "{names:?}");
    for name in &names {
        // Of the magic, the position, the last field.
        for offset in [0, 42, 81] {
            flip(name, offset);
            let summary = verify();
            let named = (&summary.damaged[0].segment, summary.damaged[0].offset, summary.damaged[0].kind);
            assert_eq!((summary.damaged.len(), named), (1, (name, 0, DamageKind::Header)));
            assert!(!summary.is_sound() && summary.damage.is_none() && summary.missing.is_empty());
            flip(name, offset);
        }
    }
    let marks = std::fs::read(directory.path().join("wal.marks")).unwrap();
    let number = |slot: usize| u64::from_le_bytes(marks[slot + 24..slot + 32].try_into().unwrap());
    let older = if number(0) < number(65536) { 0 } else { 65536 };
    flip("wal.marks", older + 33);
    let summary = verify();
    let named = (summary.damaged[0].segment.as_str(), summary.damaged[0].offset, summary.damaged[0].kind);
    assert_eq!((summary.damaged.len(), named), (1, ("wal.marks", older, DamageKind::Mark)));
    assert!(!summary.is_sound() && summary.missing.is_empty());
    flip("wal.marks", older + 33);
    assert!(verify().is_sound());
}
