//! The steady path allocates nothing: propose, flush, append, write, answer, commit, apply.
mod steady;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use steady::Trio;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local integer that needs no
// allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn one_entry_at_a_time_allocates_nothing() {
    let mut trio = Trio::elected();
    assert!(allocations_of(|| drop(vec![1])) > 0, "the counter counts");
    let during = allocations_of(|| (0..10_000).for_each(|_| trio.commit_one()));
    assert_eq!(trio.applied(), 10_001);
    assert_eq!(during, 0);
}

#[test]
fn a_window_of_sixteen_allocates_nothing_once_it_was_that_wide() {
    let mut trio = Trio::elected();
    trio.commit_pipelined(16);
    let during = allocations_of(|| (0..1_000).for_each(|_| trio.commit_pipelined(16)));
    assert_eq!(trio.applied(), 16_017);
    assert_eq!(during, 0);
}

#[test]
fn reads_allocate_nothing() {
    let mut trio = Trio::elected();
    let during = allocations_of(|| (0..1_000).for_each(|_| trio.read()));
    assert_eq!(during, 0);
}
