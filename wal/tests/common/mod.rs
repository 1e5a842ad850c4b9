//! What the tests of the log share: a model of what was appended, and a workload that drives a log.
#![allow(dead_code)]

use std::collections::BTreeMap;

use logdrive_wal::{AppendError, Disk, EntryHeader, Options, Recovery, SimPlatter, StreamId, Wal};

/// Tag, note and payload.
pub(crate) type Entry = (u64, u64, Vec<u8>);

/// What a log gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) entries: BTreeMap<u64, BTreeMap<u64, Entry>>,
    pub(crate) states: BTreeMap<u64, Vec<u8>>,
    pub(crate) compacted: BTreeMap<u64, u64>,
}

impl Streams {
    pub(crate) fn append(&mut self, stream: u64, header: EntryHeader, payload: &[u8]) {
        let entries = self.entries.entry(stream).or_default();
        entries.split_off(&header.index);
        entries.insert(header.index, (header.tag, header.note, payload.to_vec()));
    }
    pub(crate) fn compact(&mut self, stream: u64, index: u64) {
        let mark = self.compacted.entry(stream).or_default();
        *mark = index.max(*mark);
        let entries = self.entries.entry(stream).or_default();
        *entries = entries.split_off(&(index + 1));
    }
}

impl Recovery for Streams {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        self.append(stream.0, header, payload);
    }
    fn state(&mut self, stream: StreamId, state: &[u8]) {
        self.states.insert(stream.0, state.to_vec());
    }
    fn compacted(&mut self, stream: StreamId, index: u64) {
        self.compact(stream.0, index);
    }
}

/// Small segments, so that tests cross them often.
pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        batch_bytes_max: 16 << 10,
        payload_bytes_max: 8 << 10,
        budget_bytes: 64 << 20,
        ..Options::default()
    }
}

pub(crate) fn header(index: u64) -> EntryHeader {
    EntryHeader { index, tag: index / 7 + 1, note: index * 3 }
}

pub(crate) fn payload(stream: u64, index: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (stream * 31 + index * 7 + i as u64) as u8).collect()
}

/// Drives the log until everything appended is durable.
pub(crate) fn settle<D: Disk>(wal: &mut Wal<D>, now: &mut u64) {
    while wal.durable() < wal.last_ticket() {
        *now += 1_000;
        wal.submit(*now);
        wal.poll(*now);
    }
}

/// What a log gave back and what it told of damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) streams: Streams,
    /// Stream, first and last index, in the order told; tainted streams end at `u64::MAX`.
    pub(crate) damaged: Vec<(u64, u64, u64)>,
    pub(crate) repaired: Vec<(u64, u64)>,
    pub(crate) in_doubt: Vec<u64>,
    pub(crate) unknown: bool,
    /// Entries that had been told when it was said that nobody knows what was lost.
    pub(crate) before_unknown: Vec<usize>,
}

impl Recovery for Told {
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
            self.streams.entries.entry(stream.0).or_default().split_off(&first);
        }
    }
    fn repaired(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        self.repaired.push((stream.0, header.index));
        let entry = (header.tag, header.note, payload.to_vec());
        self.streams.entries.entry(stream.0).or_default().insert(header.index, entry);
    }
    fn unknown_lost_here(&mut self) {
        self.before_unknown.push(self.streams.entries.values().map(|entries| entries.len()).sum());
    }
    fn state_in_doubt(&mut self, stream: StreamId) {
        self.in_doubt.push(stream.0);
    }
    fn streams_unknown(&mut self) {
        self.unknown = true;
    }
}

impl Told {
    /// Whether the log was found as if nothing had ever happened to it.
    pub(crate) fn is_calm(&self) -> bool {
        self.damaged.is_empty() && self.in_doubt.is_empty() && !self.unknown
    }

    /// Compares with what was written: no entry is wrong, and what is missing was told. Returns how many are missing.
    pub(crate) fn missing(&self, model: &Streams, what: &str) -> usize {
        let mut missing = 0;
        for (stream, entries) in &model.entries {
            for (index, entry) in entries {
                let found = self.streams.entries.get(stream).and_then(|found| found.get(index));
                let told =
                    |&(s, first, last): &(u64, u64, u64)| s == *stream && (first..=last).contains(index);
                match found {
                    Some(found) => assert!(found == entry, "{what}: stream {stream} entry {index} is wrong"),
                    None => {
                        let told = self.unknown || self.damaged.iter().any(told);
                        assert!(told, "{what}: stream {stream} entry {index} is missing in silence");
                        missing += 1;
                    }
                }
            }
        }
        for (stream, entries) in &self.streams.entries {
            for index in entries.keys() {
                let written = model.entries.get(stream).is_some_and(|e| e.contains_key(index));
                assert!(written, "{what}: stream {stream} entry {index} was never written");
            }
        }
        for (stream, state) in &model.states {
            let same = self.streams.states.get(stream) == Some(state);
            let told = self.unknown || self.in_doubt.contains(stream);
            assert!(same || told, "{what}: the state of stream {stream} is an old one in silence");
        }
        missing
    }
}

/// All files of a directory.
pub(crate) fn contents(platter: &SimPlatter) -> Vec<(String, Vec<u8>)> {
    platter.list().into_iter().map(|(name, _)| (name.clone(), platter.read_file(&name).unwrap())).collect()
}

/// Places of the batches of a log, in order: file, offset, bytes.
pub(crate) fn batches(platter: &SimPlatter) -> Vec<(String, u64, u32)> {
    let mut found = Vec::new();
    for (name, bytes) in contents(platter).into_iter().filter(|(name, _)| name.ends_with(".seg")) {
        let number = u64::from_str_radix(&name[4..20], 16).unwrap();
        for offset in (4096..bytes.len()).step_by(4096) {
            let word =
                |at: usize| u64::from_le_bytes(bytes[offset + at..offset + at + 8].try_into().unwrap());
            if &bytes[offset..offset + 4] == b"LDB2" && word(8) == number {
                found.push((word(16), name.clone(), offset as u64, (word(0) >> 32) as u32));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, name, offset, len)| (name, offset, len)).collect()
}

/// What is done to a log, to be done to its model when it was acknowledged.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Append(u64, EntryHeader, Vec<u8>),
    State(u64, Vec<u8>),
    Compact(u64, u64),
}

impl Op {
    pub(crate) fn apply(&self, model: &mut Streams) {
        match self {
            Op::Append(stream, header, payload) => model.append(*stream, *header, payload),
            Op::State(stream, state) => {
                model.states.insert(*stream, state.clone());
            }
            Op::Compact(stream, index) => model.compact(*stream, *index),
        }
    }
}

/// A number below `bound`, and the next state of the generator.
pub(crate) fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) % bound
}

/// Appends an entry of so many bytes to a log and, if it is taken, to the model.
pub(crate) fn append<D: Disk>(
    wal: &mut Wal<D>,
    model: &mut Streams,
    stream: u64,
    index: u64,
    len: usize,
) -> Result<(), AppendError> {
    let slot = wal.stream(StreamId(stream));
    let bytes = payload(stream, index, len);
    wal.append(slot, header(index), &bytes)?;
    model.append(stream, header(index), &bytes);
    Ok(())
}
