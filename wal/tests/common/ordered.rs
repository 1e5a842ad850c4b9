//! Streams of which some are never compacted, and a recovery that insists on their order.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use logdrive_wal::{EntryHeader, Recovery, StreamId};

use crate::common::{Entry, Streams};

/// Streams from here on are compacted; those below never are.
pub const HOT: u64 = 100;

/// Takes what the log gives back, and insists on order: a stream that was never compacted begins at 1, and each entry is the
/// next one or replaces one that was seen.
#[derive(Default)]
pub struct Ordered(pub Streams);

impl Recovery for Ordered {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        let entries = self.0.entries.get(&stream.0);
        let last = entries.and_then(|e| e.last_key_value()).map_or(0, |(index, _)| *index);
        if stream.0 < HOT {
            assert!(header.index <= last + 1, "stream {}: {} comes after {last}", stream.0, header.index);
        }
        self.0.entry(stream, header, payload);
    }
    fn state(&mut self, stream: StreamId, state: &[u8]) {
        self.0.state(stream, state);
    }
    fn compacted(&mut self, stream: StreamId, index: u64) {
        self.0.compacted(stream, index);
    }
}

pub fn same(model: &Streams, found: &Streams) -> bool {
    let live = |s: &Streams| -> Vec<_> {
        s.entries.iter().filter(|(_, e)| !e.is_empty()).map(|(k, v)| (*k, v.clone())).collect()
    };
    live(model) == live(found) && model.states == found.states && model.compacted == found.compacted
}

/// What is there, for people: the first and last entry of each stream, states, compactions.
pub fn summary(streams: &Streams) -> String {
    let ends = |e: &BTreeMap<u64, Entry>| {
        let (first, last) = (e.first_key_value()?, e.last_key_value()?);
        Some((*first.0, *last.0, first.1.2.len(), last.1.2.len()))
    };
    let entries: Vec<_> = streams.entries.iter().map(|(stream, e)| (*stream, ends(e), e.len())).collect();
    let states: Vec<_> = streams.states.iter().map(|(stream, state)| (*stream, state.len())).collect();
    format!("{entries:?}, states {states:?}, compacted {:?}", streams.compacted)
}
