//! What the tests of the log share: a model of what was appended, and a workload that drives a log.
#![allow(dead_code)]

use std::collections::BTreeMap;

use logdrive_wal::{Disk, EntryHeader, Options, Recovery, StreamId, Wal};

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
