//! Every byte of a small log flipped in turn, every sector garbled, every block lost or replaced by another, and random bits of
//! larger logs: each outcome is a tail cut that nothing attested, damage that is named, or nothing at all where nothing was
//! used. Never a wrong entry, never silence.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Entry, Streams, header, payload, settle, small};
use logdrive_wal::{
    EntryHeader, FaultKind, OpenError, Options, ReadError, Recovery, SimDisk, SimOptions, SimPlatter,
    StreamId, Wal,
};

/// What a damaged log gave back, and what it said of the rest.
#[derive(Default)]
struct Found {
    streams: Streams,
    damaged: Vec<(u64, u64, u64)>,
    doubtful: BTreeSet<u64>,
    unknown: bool,
}

impl Found {
    fn is_damaged(&self, stream: u64, index: u64) -> bool {
        self.damaged.iter().any(|(s, first, last)| *s == stream && (*first..=*last).contains(&index))
    }
    fn is_tainted(&self, stream: u64, index: u64) -> bool {
        let from = |(s, first, last): &(u64, u64, u64)| *s == stream && *last == u64::MAX && *first <= index;
        self.unknown || self.damaged.iter().any(from)
    }
    fn is_named(&self, stream: u64) -> bool {
        self.unknown || self.doubtful.contains(&stream) || self.damaged.iter().any(|(s, ..)| *s == stream)
    }
    fn names_anything(&self) -> bool {
        self.unknown || !self.doubtful.is_empty() || !self.damaged.is_empty()
    }
}

impl Recovery for Found {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        self.streams.append(stream.0, header, payload);
    }
    fn state(&mut self, stream: StreamId, state: &[u8]) {
        self.streams.states.insert(stream.0, state.to_vec());
    }
    fn compacted(&mut self, stream: StreamId, index: u64) {
        self.streams.compact(stream.0, index);
    }
    fn damaged(&mut self, stream: StreamId, first: u64, last: u64) {
        self.damaged.push((stream.0, first, last));
        if last != u64::MAX {
            // In the place of the entries that are missing: it replaces the stream from there on, as they did.
            self.streams.entries.entry(stream.0).or_default().split_off(&first);
        }
    }
    fn state_in_doubt(&mut self, stream: StreamId) {
        self.doubtful.insert(stream.0);
    }
    fn streams_unknown(&mut self) {
        self.unknown = true;
    }
}

/// A log and everything that it should give back after each of its batches.
struct Log {
    platter: SimPlatter,
    options: Options,
    /// After each batch.
    prefixes: Vec<Streams>,
    /// All that was ever written at a place.
    written: BTreeMap<(u64, u64), Vec<Entry>>,
    /// The bytes that mean something: file, first and one past the last. Batches without their padding, headers of segments in use.
    used: Vec<(String, u64, u64)>,
    /// Where it ends if nothing is damaged: a log that was not closed always ends in a cut, of nothing.
    end: Option<(String, u64)>,
}

/// A damaged byte.
type Place<'a> = (&'a str, u64);

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// A log of so many batches: entries, some of them overwritten, states, compactions. The power goes at its end.
fn log(options: Options, batches: u64, streams: u64, bytes: u64) -> Log {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let mut wal = Wal::open(disk, options.clone(), 1, &mut Streams::default()).unwrap();
    let (mut prefixes, mut written) = (vec![Streams::default()], BTreeMap::<_, Vec<Entry>>::new());
    let (mut model, mut random, mut now) = (Streams::default(), Random(batches), 1);
    for batch in 1..=batches {
        let stream = batch % streams + 1;
        let slot = wal.stream(StreamId(stream));
        let (first, last) = wal.entries(slot).unwrap_or((1, 0));
        match batch % 11 {
            7 if last > first => {
                wal.compact(slot, first).unwrap();
                model.compact(stream, first);
            }
            kind => {
                let index = if kind == 9 && last > first { last } else { last + 1 };
                let place = EntryHeader { tag: batch, ..header(index) };
                let bytes = payload(stream, batch, random.below(bytes) as usize + 20);
                wal.append(slot, place, &bytes).unwrap();
                model.append(stream, place, &bytes);
                written.entry((stream, index)).or_default().push((place.tag, place.note, bytes));
            }
        }
        if batch % 4 == 0 {
            let state = payload(stream, batch, 12);
            wal.put_state(slot, &state).unwrap();
            model.states.insert(stream, state);
        }
        settle(&mut wal, &mut now);
        prefixes.push(model.clone());
    }
    drop(wal.into_disk().power_loss());
    let places = common::batches(&platter);
    let heads: BTreeSet<&String> = places.iter().map(|(name, ..)| name).collect();
    let heads = heads.into_iter().map(|name| (name.clone(), 0, 128));
    let used = places.iter().map(|(name, offset, len)| (name.clone(), *offset, offset + u64::from(*len)));
    let used = heads.chain(used).collect();
    let copy = platter.copy(1);
    let wal = Wal::open(copy.open().unwrap(), options.clone(), 1, &mut Streams::default()).unwrap();
    assert!(wal.recovered().damage.is_empty());
    let end = wal.recovered().cut.clone();
    Log { platter, options, prefixes, written, used, end }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Harmless,
    Cut,
    Named,
}

fn same(a: &Streams, b: &Streams) -> bool {
    let live = |s: &Streams| -> Vec<(u64, BTreeMap<u64, Entry>)> {
        s.entries.iter().filter(|(_, e)| !e.is_empty()).map(|(k, v)| (*k, v.clone())).collect()
    };
    live(a) == live(b) && a.states == b.states && a.compacted == b.compacted
}

impl Log {
    fn is_used(&self, (name, at): Place<'_>) -> bool {
        self.used.iter().any(|(file, first, end)| file == name && (*first..*end).contains(&at))
    }

    /// Opens a damaged copy, of which these bytes were hit: so many batches at the end may have lost what attested them. Each byte
    /// that means something is in a place that is named, or behind the place where the tail was cut; where none does, all
    /// is as it was and nothing is said.
    fn outcome(&self, copy: &SimPlatter, hits: &[Place<'_>]) -> Outcome {
        let damages = hits.len();
        let used: Vec<&Place<'_>> = hits.iter().filter(|place| self.is_used(**place)).collect();
        let mut found = Found::default();
        let opened = Wal::open(copy.open().unwrap(), self.options.clone(), 1, &mut found);
        let mut wal = match opened {
            Ok(wal) => wal,
            Err(
                error @ (OpenError::Corrupt { .. }
                | OpenError::ForeignFile { .. }
                | OpenError::Version { .. }
                | OpenError::MissingSegment { .. }),
            ) => {
                let text = error.to_string();
                let names = hits.iter().any(|(name, _)| text.contains(name));
                assert!(
                    names || matches!(error, OpenError::MissingSegment { .. }),
                    "{text} names none of {hits:?}"
                );
                return Outcome::Named;
            }
            Err(other) => panic!("{other}"),
        };
        for (stream, entries) in &found.streams.entries {
            for (index, entry) in entries {
                let known = self.written.get(&(*stream, *index)).is_some_and(|w| w.contains(entry));
                assert!(known, "entry {index} of stream {stream} was never written: {entry:?}");
            }
        }
        let last = self.prefixes.len() - 1;
        let shortest = last - damages.min(last);
        let allowed = (shortest..=last).rev().find(|n| same(&self.prefixes[*n], &found.streams));
        let outcome = match allowed {
            Some(n) if n == last && !found.names_anything() => Outcome::Harmless,
            Some(n) if !found.names_anything() => {
                assert_ne!(wal.recovered().cut, self.end, "{} batches less, and no cut", last - n);
                Outcome::Cut
            }
            _ => {
                let whys: Vec<String> =
                    (shortest..=last).filter_map(|n| unexplained(&self.prefixes[n], &found)).collect();
                assert!(whys.len() <= last - shortest, "silence: {}", whys.join("; or "));
                Outcome::Named
            }
        };
        let recovered = wal.recovered();
        for &&(name, at) in &used {
            let named = recovered.damage.iter().any(|damage| {
                damage.segment == name
                    && (damage.offset..damage.offset + damage.bytes.max(4096)).contains(&at)
            });
            let cut =
                recovered.cut.as_ref().is_some_and(|(file, offset)| file.as_str() == name && at >= *offset);
            // A segment behind the end of the log is none of it.
            let behind = recovered.cut.as_ref().is_some_and(|(file, _)| name > file.as_str());
            assert!(named || cut || behind, "byte {at} of {name} was hit and nothing says so: {recovered:?}");
        }
        if used.is_empty() {
            assert_eq!(outcome, Outcome::Harmless, "nothing that was hit means anything");
            assert!(recovered.damage.is_empty() && recovered.cut == self.end, "{recovered:?}");
        } else if outcome == Outcome::Harmless {
            assert!(
                !recovered.damage.is_empty(),
                "all is there, and the damage has to be named all the same"
            );
        }
        self.read_back(&mut wal, &found);
        outcome
    }

    /// A log that opened reads what it gave back; what is damaged is an error of the read.
    fn read_back(&self, wal: &mut Wal<SimDisk>, found: &Found) {
        for (stream, entries) in &found.streams.entries {
            let slot = wal.stream(StreamId(*stream));
            let Some((first, last)) = wal.entries(slot) else { continue };
            wal.read(*stream, slot, first, last, u32::MAX);
            let done = loop {
                wal.submit(2);
                wal.poll(2);
                if let Some(done) = wal.poll_read() {
                    break done;
                }
            };
            match done.result {
                Ok(read) => {
                    for (header, payload) in read {
                        let entry = (header.tag, header.note, payload);
                        assert_eq!(entries.get(&header.index), Some(&entry), "stream {stream}");
                    }
                }
                Err(_) if found.is_named(*stream) => {}
                Err(error) => panic!("stream {stream} opened and does not read: {error}"),
            }
        }
    }
}

/// The first difference from what was acknowledged that nothing names.
fn unexplained(model: &Streams, found: &Found) -> Option<String> {
    let none = BTreeMap::new();
    let streams: BTreeSet<u64> =
        [&model.entries, &found.streams.entries].iter().flat_map(|e| e.keys()).copied().collect();
    for stream in streams {
        let wanted = model.entries.get(&stream).unwrap_or(&none);
        let got = found.streams.entries.get(&stream).unwrap_or(&none);
        let indexes: BTreeSet<u64> = wanted.keys().chain(got.keys()).copied().collect();
        for index in indexes {
            let gone = found.unknown && !got.contains_key(&index);
            // A compaction that was lost brings entries back, and the stream is named.
            let compacted = model.compacted.get(&stream).is_some_and(|mark| index <= *mark);
            // What is given back is right, unless the log says that it cannot know.
            let explained = match got.get(&index) {
                Some(_) if wanted.contains_key(&index) => found.is_tainted(stream, index),
                _ => found.is_damaged(stream, index) || gone || (compacted && found.is_named(stream)),
            };
            if wanted.get(&index) != got.get(&index) && !explained {
                return Some(format!("entry {index} of stream {stream} (named: {:?})", found.damaged));
            }
        }
        let doubtful = found.unknown || found.doubtful.contains(&stream);
        if model.states.get(&stream) != found.streams.states.get(&stream) && !doubtful {
            return Some(format!("the state of stream {stream} (in doubt: {:?})", found.doubtful));
        }
        if model.compacted.get(&stream) != found.streams.compacted.get(&stream) && !found.is_named(stream) {
            return Some(format!("the compaction of stream {stream}"));
        }
    }
    None
}

fn tiny() -> Log {
    let options = Options {
        segment_bytes: 16 << 10,
        batch_bytes_max: 4096,
        payload_bytes_max: 3000,
        log_id: 7,
        ..small()
    };
    log(options, 5, 2, 60)
}

/// Names the damage if a check fails.
struct Damaged(String);

impl Drop for Damaged {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the damage was: {}", self.0);
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    harmless: u32,
    cut: u32,
    named: u32,
}

impl Counts {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Harmless => &mut self.harmless,
            Outcome::Cut => &mut self.cut,
            Outcome::Named => &mut self.named,
        } += 1;
    }
}

/// The bytes of a file that differ.
fn changes(a: &SimPlatter, b: &SimPlatter, name: &str) -> Vec<u64> {
    let (a, b) = (a.read_file(name).unwrap(), b.read_file(name).unwrap());
    (0..).zip(a.iter().zip(&b)).filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
}

fn hit(log: &Log, name: &str, offset: u64, what: FaultKind) -> Outcome {
    let damaged = Damaged(format!("{what:?} at {offset} of {name}"));
    let copy = log.platter.copy(1);
    assert!(copy.damage(name, offset, what));
    let outcome = if copy.read_file(name) == log.platter.read_file(name) {
        Outcome::Harmless
    } else {
        // One hit damages a block at most.
        let changed = changes(&log.platter, &copy, name);
        let changed: Vec<Place<'_>> = changed.into_iter().map(|at| (name, at)).collect();
        let used = changed.iter().find(|place| log.is_used(**place));
        log.outcome(&copy, &[*used.unwrap_or(&changed[0])])
    };
    drop(damaged);
    outcome
}

#[test]
fn every_flipped_byte_of_a_small_log_is_cut_named_or_harmless() {
    let log = tiny();
    let mut counts = Counts::default();
    for (name, len) in log.platter.list() {
        let bytes = log.platter.read_file(&name).unwrap();
        for offset in 0..len {
            let block = &bytes[offset as usize / 4096 * 4096..]
                [..4096.min(bytes.len() - offset as usize / 4096 * 4096)];
            // Blocks that nothing was written to are all alike.
            if block.iter().all(|b| *b == 0) && !offset.is_multiple_of(512) {
                continue;
            }
            let mask = 1 << ((offset * 5 + 3) % 8);
            counts.count(hit(&log, &name, offset, FaultKind::Flip { at: 0, mask }));
        }
    }
    println!("{counts:?}");
    assert!(counts.named > 300 && counts.harmless > 1000, "{counts:?}");
}

#[test]
fn every_sector_of_garbage_and_every_lost_or_misdirected_block_is_cut_named_or_harmless() {
    let log = tiny();
    let mut counts = Counts::default();
    for (name, len) in log.platter.list() {
        for offset in (0..len).step_by(512) {
            let garbage = FaultKind::Garbage { sector: 0, seed: offset as u32 + 1 };
            counts.count(hit(&log, &name, offset, garbage));
        }
        for offset in (0..len).step_by(4096) {
            counts.count(hit(&log, &name, offset, FaultKind::Lost));
            for block in 0..(len / 4096) as u32 {
                counts.count(hit(&log, &name, offset, FaultKind::Misdirected { block }));
            }
        }
    }
    assert!(counts.named > 10 && counts.harmless > 20, "{counts:?}");
}

#[test]
fn random_bits_of_large_logs_are_cut_named_or_harmless() {
    let trials = std::env::var("LOGDRIVE_SEEDS").map_or(60, |text| text.parse::<u64>().unwrap());
    let mut counts = Counts::default();
    for (streams, batches) in [(3, 150), (40, 400)] {
        let log = log(Options { log_id: 7, ..small() }, batches, streams, 2500);
        let files: Vec<(String, u64)> = log.platter.list();
        for trial in 0..trials {
            let mut random = Random(trial * 7919 + streams);
            let copy = log.platter.copy(1);
            let flips = 1 + trial as usize % 3;
            let (mut text, mut hits) = (String::new(), Vec::new());
            for _ in 0..flips {
                let (name, len) = &files[random.below(files.len() as u64) as usize];
                let (offset, mask) = (random.below(*len), 1 << random.below(8));
                copy.flip(name, offset, mask);
                hits.push((name.as_str(), offset));
                text += &format!("trial {trial}: bits {mask:#x} at {offset} of {name}; ");
            }
            let damaged = Damaged(text);
            counts.count(log.outcome(&copy, &hits));
            drop(damaged);
        }
    }
    println!("{counts:?}");
    assert!(u64::from(counts.named) > trials / 2, "{counts:?}");
}

#[test]
fn bits_that_flip_under_a_running_log_are_errors_of_the_reads_that_meet_them() {
    let mut errors = 0;
    for trial in 0..40u64 {
        let log = log(Options { log_id: 7, ..small() }, 60, 3, 2500);
        let mut wal =
            Wal::open(log.platter.open().unwrap(), log.options.clone(), 1, &mut Streams::default()).unwrap();
        let files = log.platter.list();
        let mut random = Random(trial + 1);
        for _ in 0..6 {
            let (name, len) = &files[random.below(files.len() as u64) as usize];
            log.platter.flip(name, random.below(*len), 1 << random.below(8));
        }
        let model = &log.prefixes[log.prefixes.len() - 1];
        for (stream, entries) in &model.entries {
            let slot = wal.stream(StreamId(*stream));
            for index in entries.keys() {
                wal.read(*index, slot, *index, *index, u32::MAX);
                let done = loop {
                    wal.submit(2);
                    wal.poll(2);
                    if let Some(done) = wal.poll_read() {
                        break done;
                    }
                };
                match done.result {
                    Ok(read) => {
                        let (header, payload) = read.into_iter().next().unwrap();
                        assert_eq!(entries[index], (header.tag, header.note, payload), "entry {index}");
                    }
                    Err(ReadError::Corrupt { segment, .. }) => {
                        assert!(files.iter().any(|(name, _)| *name == segment), "{segment}");
                        errors += 1;
                    }
                    Err(other) => panic!("trial {trial}: {other}"),
                }
            }
        }
    }
    assert!(errors > 10, "{errors}");
}
