//! Where the entries of every stream are: about four bytes each, 48 for a range of evenly spaced ones.
//!
//! The worst case is the usual one, one entry per stream and batch, scattered. A stream keeps chunks of consecutive entries. A
//! chunk is the position of its first record and, per entry, the distance from it in units of eight bytes; or, as long as
//! the records lie at even distances (entries of one size written one behind the other, or one per batch in a steady
//! rhythm), that one distance, however many they are. The chunk that grows is inside the stream's own struct.

use std::collections::VecDeque;

use crate::format::Lsn;
use crate::wal::{StreamId, StreamSlot};

/// Distances of a chunk at most.
const CHUNK_ENTRIES: usize = 256;
/// Evenly spaced entries that are worth a chunk of their own when the next one breaks the rhythm: their distances would take
/// more than the chunk.
const EVEN_ENTRIES_MIN: u32 = 16;
/// log2 of the unit of distances: records are aligned to it.
const UNIT: u32 = crate::format::RECORD_ALIGN.trailing_zeros();
/// Buffers of dropped chunks that are kept for new ones.
const SPARE_CHUNKS_MAX: usize = 4096;

/// Consecutive entries. Evenly spaced as long as `distances` is empty.
#[derive(Debug, Default)]
struct Chunk {
    first: u64,
    base: Lsn,
    /// Entries; the length of `distances` where it is not empty.
    count: u32,
    /// Distance from one evenly spaced entry to the next, in units; nothing for a single one.
    stride: u32,
    distances: Vec<u32>,
}

const _: () = assert!(size_of::<Chunk>() == 48);

impl Chunk {
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    fn lsn(&self, index: u64) -> Option<Lsn> {
        let place = index.checked_sub(self.first)?;
        if place >= u64::from(self.count) {
            return None;
        }
        let distance = match self.distances.get(place as usize) {
            Some(distance) => u64::from(*distance),
            None => place * u64::from(self.stride),
        };
        Some(self.base.plus(distance << UNIT))
    }

    /// Begins anew with one entry.
    fn restart(&mut self, first: u64, base: Lsn) {
        self.distances.clear();
        (self.first, self.base, self.count, self.stride) = (first, base, 1, 0);
    }

    /// Keeps the first `count` entries.
    fn truncate(&mut self, count: u64) {
        self.distances.truncate(count as usize);
        self.count = self.count.min(count as u32);
    }

    /// Takes one more entry if it needs no memory for that.
    #[inline]
    fn extend(&mut self, lsn: Lsn) -> bool {
        let Some(distance) = lsn.0.checked_sub(self.base.0).map(|bytes| bytes >> UNIT) else { return false };
        if !self.distances.is_empty() {
            if self.distances.len() >= CHUNK_ENTRIES || distance > u64::from(u32::MAX) {
                return false;
            }
            self.distances.push(distance as u32);
        } else if self.count == 1 && distance <= u64::from(u32::MAX) {
            self.stride = distance as u32;
        } else if distance != u64::from(self.count) * u64::from(self.stride) || self.count == u32::MAX {
            return false;
        }
        self.count += 1;
        true
    }

    /// Turns a few evenly spaced entries into distances, so that others can follow them.
    fn spell_out(&mut self, distances: Vec<u32>) {
        self.distances = distances;
        self.distances.extend((0..self.count).map(|place| place * self.stride));
    }
}

/// One stream.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// First entry in the log; `next` if there is none.
    pub(crate) first: u64,
    /// One past the last entry.
    pub(crate) next: u64,
    /// Entries up to here are not needed. Invariant: `compacted < first`, or no entry was ever written.
    pub(crate) compacted: u64,
    /// Invariant: the entries of `full`, then `tail` are consecutive and end at `next`; they may start before `first`.
    tail: Chunk,
    full: VecDeque<Chunk>,
    /// The newest state and where its record is.
    pub(crate) state: Vec<u8>,
    pub(crate) state_at: Option<Lsn>,
    /// An older record of the same state, in another segment.
    pub(crate) state_copy_at: Option<Lsn>,
    /// Where the newest compaction record is.
    pub(crate) compacted_at: Option<Lsn>,
}

// Three lines of the cache; were it not aligned it would lie in four, of which the last was never asked for ahead.
const _: () = assert!(size_of::<Stream>() == 192);

impl Stream {
    fn new(id: StreamId) -> Stream {
        Stream {
            id,
            first: 0,
            next: 0,
            compacted: 0,
            tail: Chunk::default(),
            full: VecDeque::new(),
            state: Vec::new(),
            state_at: None,
            state_copy_at: None,
            compacted_at: None,
        }
    }

    /// The oldest record of the newest state that is counted on.
    pub(crate) fn state_low(&self) -> Option<Lsn> {
        self.state_copy_at.or(self.state_at)
    }

    /// Whether the stream has entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Whether an entry may be written at `index`: right behind the others, or in place of one of them.
    pub(crate) fn accepts(&self, index: u64) -> bool {
        index > self.compacted && (self.is_empty() || index <= self.next)
    }

    /// Where the record of an entry is.
    pub(crate) fn lsn(&self, index: u64) -> Option<Lsn> {
        if index < self.first || index >= self.next {
            return None;
        }
        if index >= self.tail.first {
            return self.tail.lsn(index);
        }
        let chunk = self.full.partition_point(|c| c.first <= index).checked_sub(1)?;
        self.full.get(chunk)?.lsn(index)
    }

    /// Hands out where the records of entries `first .. end` are, as far as the stream has them.
    pub(crate) fn each_lsn(&self, first: u64, end: u64, each: &mut dyn FnMut(Lsn)) {
        let (first, end) = (first.max(self.first), end.min(self.next));
        let from = self.full.partition_point(|chunk| chunk.end() <= first);
        for chunk in self.full.iter().skip(from).chain([&self.tail]) {
            (first.max(chunk.first)..end.min(chunk.end()))
                .filter_map(|index| chunk.lsn(index))
                .for_each(&mut *each);
        }
    }

    /// The end of what is written for each entry, if something is.
    pub(crate) fn end_of_index(&self) -> Option<&u32> {
        self.tail.distances.last()
    }

    /// Takes the entry behind the tail, which has no room for it as it is.
    fn grow(&mut self, spare: &mut Vec<Vec<u32>>, index: u64, lsn: Lsn) {
        let tail = &mut self.tail;
        let near = lsn.0.checked_sub(tail.base.0).is_some_and(|bytes| bytes >> UNIT <= u64::from(u32::MAX));
        if tail.distances.is_empty() && tail.count < EVEN_ENTRIES_MIN && near {
            // A stream of a few entries takes no more than they need; one that has grown has full chunks before long.
            let room = if self.full.is_empty() { 0 } else { CHUNK_ENTRIES };
            let distances = match std::mem::take(&mut tail.distances) {
                kept if kept.capacity() > 0 => kept,
                _ => spare.pop().unwrap_or_else(|| Vec::with_capacity(room)),
            };
            tail.spell_out(distances);
            if tail.extend(lsn) {
                return;
            }
        }
        let mut chunk = Chunk::default();
        if tail.distances.is_empty() {
            // Evenly spaced entries need no memory; what was kept for distances goes on to the next chunk.
            chunk.distances = std::mem::take(&mut tail.distances);
        }
        chunk.restart(index, lsn);
        self.full.push_back(std::mem::replace(tail, chunk));
    }

    /// The oldest entry's record.
    pub(crate) fn first_at(&self) -> Option<Lsn> {
        self.lsn(self.first)
    }
}

/// Asks the processor for all cache lines of `value`.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>()).step_by(64) {
        let line = std::ptr::from_ref(value).cast::<i8>().wrapping_add(offset);
        // SAFETY: a prefetch reads nothing and faults on no address; this one lies within `value` besides.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// All streams of a log.
pub(crate) struct Index {
    pub(crate) streams: Vec<Stream>,
    slots: ahash::AHashMap<u64, u32>,
    spare: Vec<Vec<u32>>,
}

impl Index {
    pub(crate) fn new() -> Index {
        // Fixed seeds: nothing reads the map in hash order, and runs stay equal all the same.
        let hasher = ahash::RandomState::with_seeds(0x6c6f_6764, 0x7269_7665, 0x7761_6c00, 1);
        Index { streams: Vec::new(), slots: ahash::AHashMap::with_hasher(hasher), spare: Vec::new() }
    }

    /// The slot of a stream, a new one if it was never seen.
    pub(crate) fn slot(&mut self, id: StreamId) -> StreamSlot {
        if let Some(&slot) = self.slots.get(&id.0) {
            return StreamSlot(slot);
        }
        let slot = self.streams.len() as u32;
        self.streams.push(Stream::new(id));
        self.slots.insert(id.0, slot);
        StreamSlot(slot)
    }

    pub(crate) fn stream(&self, slot: StreamSlot) -> &Stream {
        &self.streams[slot.0 as usize]
    }

    pub(crate) fn stream_mut(&mut self, slot: StreamSlot) -> &mut Stream {
        &mut self.streams[slot.0 as usize]
    }

    /// Notes an entry, replacing the stream from its index on. [`Stream::accepts`] was asked.
    #[inline]
    pub(crate) fn push(&mut self, slot: StreamSlot, index: u64, lsn: Lsn) {
        let stream = &mut self.streams[slot.0 as usize];
        if index == stream.next && stream.tail.count > 0 && stream.tail.extend(lsn) {
            stream.next += 1;
            return;
        }
        self.push_slow(slot, index, lsn);
    }

    fn push_slow(&mut self, slot: StreamSlot, index: u64, lsn: Lsn) {
        let spare = &mut self.spare;
        let stream = &mut self.streams[slot.0 as usize];
        debug_assert!(stream.accepts(index), "entry {index} of {:?}", stream.id);
        if stream.is_empty() || index <= stream.first {
            // The whole log of the stream is replaced.
            stream.full.drain(..).for_each(|chunk| keep_spare(spare, chunk.distances));
            stream.tail.truncate(0);
            (stream.first, stream.next) = (index, index);
        } else if index < stream.next {
            while index < stream.tail.first {
                let Some(chunk) = stream.full.pop_back() else { break };
                keep_spare(spare, std::mem::replace(&mut stream.tail, chunk).distances);
            }
            stream.tail.truncate(index - stream.tail.first);
            stream.next = index;
        }
        if stream.tail.count == 0 {
            stream.tail.restart(index, lsn);
        } else if !stream.tail.extend(lsn) {
            stream.grow(spare, index, lsn);
        }
        stream.next = index + 1;
    }

    /// Forgets the entries up to `index`. Returns whether that changed anything.
    pub(crate) fn compact(&mut self, slot: StreamSlot, index: u64) -> bool {
        let spare = &mut self.spare;
        let stream = &mut self.streams[slot.0 as usize];
        if index <= stream.compacted {
            return false;
        }
        stream.compacted = index;
        if stream.is_empty() || index < stream.first {
            if stream.is_empty() {
                (stream.first, stream.next) = (index + 1, index + 1);
            }
            return true;
        }
        stream.first = index + 1;
        while stream.full.front().is_some_and(|c| c.end() <= stream.first) {
            if let Some(chunk) = stream.full.pop_front() {
                keep_spare(spare, chunk.distances);
            }
        }
        if stream.first >= stream.next {
            stream.next = stream.first;
            stream.tail.truncate(0);
        }
        true
    }

    /// Bytes of memory that the positions take, as allocated.
    pub(crate) fn position_bytes(&self) -> u64 {
        let chunk = size_of::<Chunk>();
        let stream_bytes = |s: &Stream| {
            let chunks: usize = s.full.iter().map(|c| c.distances.capacity() * 4).sum();
            s.tail.distances.capacity() * 4 + chunks + s.full.capacity() * chunk
        };
        let spare: usize = self.spare.iter().map(|s| s.capacity() * 4).sum();
        (self.streams.iter().map(stream_bytes).sum::<usize>() + spare) as u64
    }
}

fn keep_spare(spare: &mut Vec<Vec<u32>>, mut distances: Vec<u32>) {
    if distances.capacity() >= CHUNK_ENTRIES && spare.len() < SPARE_CHUNKS_MAX {
        distances.clear();
        spare.push(distances);
    }
}

#[cfg(test)]
mod tests;
