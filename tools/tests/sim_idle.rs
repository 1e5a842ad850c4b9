//! A cluster that nobody asks anything does not grow: what is allocated after a while of simulated time is all that is ever allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

use logdrive_tools::sim::clock::SECOND;
use logdrive_tools::sim::plan::{Plan, Profile};
use logdrive_tools::sim::trace::Trace;
use logdrive_tools::sim::world::World;

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Counts the bytes that are in use.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only an atomic integer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of a run that may come and go: buffers that are kept for their size.
const SLACK: i64 = 64 << 10;

#[test]
fn an_idle_cluster_does_not_grow() {
    let before = LIVE.load(Ordering::Relaxed);
    let kept = std::hint::black_box(vec![1_u8; 1 << 20]);
    assert!(LIVE.load(Ordering::Relaxed) - before >= 1 << 20, "the counter counts");
    drop(kept);

    let mut plan = Plan { groups: 8, clients: 0, ticks: 1_000_000, ..Plan::new(Profile::Default, 11) };
    plan.only = Some("none".parse().unwrap());
    let groups = plan.groups as usize;
    let mut world = World::new(plan, Trace::new(groups, None));
    world.start().unwrap();
    world.run_for(60 * SECOND).unwrap();
    assert!(world.groups().all(|group| world.leader_of(group).is_some()));
    let warm = LIVE.load(Ordering::Relaxed);
    for minute in 1..=5 {
        world.run_for(60 * SECOND).unwrap();
        let grown = LIVE.load(Ordering::Relaxed) - warm;
        assert!(grown < SLACK, "{grown} bytes more after {minute} idle minutes");
    }
}
