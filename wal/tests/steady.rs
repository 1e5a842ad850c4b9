//! In the steady state nothing is allocated per record.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Streams, header};
use logdrive_wal::{Disk, Options, RingDisk, RingOptions, StreamId, Wal};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator; counting touches a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Appends rounds of entries to all streams, each round durable before the next; compacts far behind.
fn rounds(wal: &mut Wal<RingDisk>, streams: u64, from: u64, to: u64) {
    let payload = [7u8; 128];
    let slots: Vec<_> = (0..streams).map(|id| wal.stream(StreamId(id))).collect();
    for index in from..=to {
        for slot in &slots {
            wal.append(*slot, header(index), &payload).unwrap();
        }
        if index.is_multiple_of(50) && index > 300 {
            for slot in &slots {
                wal.compact(*slot, index - 200).unwrap();
            }
        }
        let now = index * 1_000_000;
        let mut news = wal.submit(now);
        while wal.durable() < wal.last_ticket() {
            if !news {
                wait(wal.disk().event_fd());
            }
            wal.poll(now);
            news = wal.submit(now);
        }
    }
}

fn wait(event: i32) {
    let mut count = [0u8; 8];
    // SAFETY: the descriptor is open and the buffer has room for the eight bytes of an event counter.
    let read = unsafe { libc::read(event, count.as_mut_ptr().cast(), 8) };
    assert_eq!(read, 8);
}

#[test]
fn appending_allocates_nothing_per_record_once_it_runs() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = RingDisk::open(directory.path(), RingOptions::default()).unwrap();
    println!("{}", disk.describe());
    let options = Options { segment_bytes: 4 << 20, budget_bytes: 256 << 20, ..Options::default() };
    let mut wal = Wal::open(disk, options, 0, &mut Streams::default()).unwrap();
    let streams = 512;
    // Long enough for chunks, segments and queues to have come round.
    rounds(&mut wal, streams, 1, 700);
    let recycled = wal.stats().segments_recycled;
    let before = ALLOCATIONS.with(Cell::get);
    rounds(&mut wal, streams, 701, 1000);
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    let records = 300 * streams;
    let segments = wal.stats().segments_recycled - recycled;
    assert!(segments > 0);
    // Names of files that are recycled are allocated: some per segment, none per record or batch.
    assert!(allocations < 40 * segments + 200, "{allocations} for {records} records and {segments} segments");
    wal.close(0).unwrap();
}
