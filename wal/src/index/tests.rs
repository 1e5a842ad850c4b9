//! The index against a map, and the memory it takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u8, u16),
    /// As many, at uneven distances.
    Scatter(u8, u16),
    Replace(u8, u16),
    Compact(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 1u16..300).prop_map(|(s, n)| Step::Append(s, n)),
        4 => (0u8..3, 1u16..600).prop_map(|(s, n)| Step::Scatter(s, n)),
        2 => (0u8..3, any::<u16>()).prop_map(|(s, n)| Step::Replace(s, n)),
        2 => (0u8..3, any::<u16>()).prop_map(|(s, n)| Step::Compact(s, n)),
    ]
}

proptest! {
    #[test]
    fn positions_are_those_of_the_newest_records(steps in prop::collection::vec(step(), 1..60), stride in 1u64..(1 << 34)) {
        let mut index = Index::new();
        let mut model: Vec<BTreeMap<u64, Lsn>> = vec![BTreeMap::new(); 3];
        let mut compacted = [0u64; 3];
        let mut lsn = Lsn(64);
        for step in steps {
            match step {
                Step::Append(stream, count) | Step::Scatter(stream, count) => {
                    let slot = index.slot(StreamId(u64::from(stream)));
                    for n in 0..u64::from(count) {
                        let s = stream as usize;
                        let next = model[s].keys().last().copied().unwrap_or(compacted[s]) + 1;
                        prop_assert!(index.stream(slot).accepts(next));
                        index.push(slot, next, lsn);
                        model[s].insert(next, lsn);
                        // Large strides force new chunks.
                        let extra = if matches!(step, Step::Scatter(..)) { n * n % 7 * 8 } else { 0 };
                        lsn = lsn.plus((stride / 8 + 1) * 8 + extra);
                    }
                }
                Step::Replace(stream, at) => {
                    let s = stream as usize;
                    let Some((&first, _)) = model[s].first_key_value() else { continue };
                    let index_at = first + u64::from(at) % model[s].len() as u64;
                    let slot = index.slot(StreamId(u64::from(stream)));
                    prop_assert!(index.stream(slot).accepts(index_at));
                    index.push(slot, index_at, lsn);
                    model[s].split_off(&index_at);
                    model[s].insert(index_at, lsn);
                    lsn = lsn.plus(8);
                }
                Step::Compact(stream, at) => {
                    let s = stream as usize;
                    let last = model[s].keys().last().copied().unwrap_or(compacted[s]);
                    let to = u64::from(at) % (last + 3);
                    let slot = index.slot(StreamId(u64::from(stream)));
                    prop_assert_eq!(index.compact(slot, to), to > compacted[s]);
                    compacted[s] = compacted[s].max(to);
                    model[s] = model[s].split_off(&(compacted[s] + 1));
                }
            }
            for (s, entries) in model.iter().enumerate() {
                let slot = index.slot(StreamId(s as u64));
                let stream = index.stream(slot);
                prop_assert_eq!(stream.is_empty(), entries.is_empty());
                prop_assert_eq!(stream.first_at(), entries.values().next().copied());
                if let (Some((&first, _)), Some((&last, _))) = (entries.first_key_value(), entries.last_key_value()) {
                    prop_assert_eq!((stream.first, stream.next), (first, last + 1));
                    prop_assert_eq!(stream.lsn(last + 1), None);
                    prop_assert_eq!(stream.lsn(first.wrapping_sub(1)), None);
                }
                for (entry, lsn) in entries {
                    prop_assert_eq!(stream.lsn(*entry), Some(*lsn));
                }
                prop_assert!(!stream.accepts(compacted[s]));
            }
        }
    }
}

#[test]
fn dropped_chunks_are_used_again() {
    let mut index = Index::new();
    let slot = index.slot(StreamId(1));
    let mut lsn = Lsn(64);
    let mut most = 0;
    for entry in 1..200_000u64 {
        index.push(slot, entry, lsn);
        lsn = lsn.plus(160);
        if entry % 1000 == 0 {
            index.compact(slot, entry - 10);
        }
        most = most.max(index.position_bytes());
    }
    assert!(most < 16 << 10, "{most} bytes for a thousand entries");
}

/// Counts the bytes that a thread has allocated and not freed.
struct Counting;

thread_local! {
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // Not while the thread ends: nothing is measured then.
    let _ = BYTES.try_with(|n| n.set(n.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator; counting touches a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Fills an index and returns the bytes that were allocated for it.
fn allocated(fill: impl FnOnce(&mut Index)) -> f64 {
    let before = BYTES.with(Cell::get);
    let mut index = Index::new();
    fill(&mut index);
    let bytes = BYTES.with(Cell::get) - before;
    assert!(index.position_bytes() as i64 <= bytes, "{} of {bytes}", index.position_bytes());
    bytes as f64
}

#[test]
fn ten_million_scattered_entries_take_less_than_64_mib() {
    const STREAMS: u64 = 1024;
    const ENTRIES: u64 = 10_000_000;
    let bytes = allocated(|index| {
        let slots: Vec<StreamSlot> = (0..STREAMS).map(|id| index.slot(StreamId(id))).collect();
        let mut lsn = Lsn(64);
        for number in 0..ENTRIES {
            // One entry per stream and batch; records of uneven size, so that no rhythm helps.
            let size = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60;
            index.push(slots[(number % STREAMS) as usize], number / STREAMS + 1, lsn);
            lsn = lsn.plus(24 + 8 * size);
        }
    });
    let per_entry = bytes / ENTRIES as f64;
    println!("{:.1} MiB, {per_entry:.2} bytes per entry", bytes / f64::from(1 << 20));
    assert!(bytes < f64::from(64 << 20) && per_entry <= 7.0, "{bytes} bytes, {per_entry} per entry");
}

#[test]
fn a_range_of_entries_of_one_size_takes_48_bytes() {
    const STREAMS: u64 = 1024;
    // Every stream gets ranges of 100 entries, each range one behind the other in a batch of its own.
    const RANGES: u64 = 64;
    let empty = allocated(|index| (0..STREAMS).for_each(|id| _ = index.slot(StreamId(id))));
    let bytes = allocated(|index| {
        let slots: Vec<StreamSlot> = (0..STREAMS).map(|id| index.slot(StreamId(id))).collect();
        let mut lsn = Lsn(64);
        for range in 0..RANGES {
            for slot in &slots {
                for entry in 1..=100 {
                    index.push(*slot, range * 100 + entry, lsn);
                    lsn = lsn.plus(152);
                }
                lsn = lsn.plus(4096 - lsn.0 % 4096 + 64);
            }
        }
    });
    let per_range = (bytes - empty) / (STREAMS * RANGES) as f64;
    println!("{per_range:.1} bytes per range");
    // The newest range of each stream is inside its struct; the others lie in a queue without slack at this number.
    assert!(per_range <= 48.0, "{per_range} bytes per range of 100 entries");
}

#[test]
fn neither_rhythm_nor_its_end_makes_entries_cost_more_than_seven_bytes() {
    for run in [1, 2, 3, 8, 15, 16, 17, 40, 255, 256, 257] {
        const ENTRIES: u64 = 300_000;
        let bytes = allocated(|index| {
            let slot = index.slot(StreamId(1));
            let mut lsn = Lsn(64);
            for number in 0..ENTRIES {
                index.push(slot, number + 1, lsn);
                lsn = lsn.plus(if number % run == 0 { 8 * (2 + number % 11) } else { 160 });
            }
        });
        let per_entry = bytes / ENTRIES as f64;
        assert!(per_entry <= 7.0, "{per_entry} bytes per entry where {run} in a row are evenly spaced");
    }
}
