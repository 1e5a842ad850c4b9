//! Whoever sleeps after [`Wal::submit`] said that there is no news must have nothing that the disk was not told of: nobody would
//! wake it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, small};
use logdrive_wal::{Buffer, Completion, Disk, Op, SimDisk, SimOptions, StreamId, Token, Wal};

/// Operations reach the device with the next poll, as with a ring, and end at once, as in a page cache.
struct Queued {
    inner: SimDisk,
    queue: Vec<(Token, Op)>,
}

impl Queued {
    fn hand_over(&mut self) {
        for (token, op) in self.queue.drain(..) {
            self.inner.submit(token, op);
        }
    }
}

impl logdrive_wal::Buggify for Queued {}

impl Disk for Queued {
    fn submit(&mut self, token: Token, op: Op) {
        self.queue.push((token, op));
    }
    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.hand_over();
        self.inner.poll(completions);
    }
    fn wait(&mut self, completions: &mut Vec<Completion>) {
        self.hand_over();
        self.inner.wait(completions);
    }
    fn buffer(&mut self, len: usize) -> Buffer {
        self.inner.buffer(len)
    }
    fn recycle(&mut self, buffer: Buffer) {
        self.inner.recycle(buffer);
    }
    fn free_bytes(&mut self) -> u64 {
        self.inner.free_bytes()
    }
    fn total_bytes(&mut self) -> u64 {
        self.inner.total_bytes()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn root(&self) -> String {
        self.inner.root()
    }
}

/// Turns until the log says that it may sleep.
fn turn_until_quiet(wal: &mut Wal<Queued>) {
    for _ in 0..10_000 {
        wal.poll(0);
        if !wal.submit(0) {
            return;
        }
    }
    panic!("the log never rests");
}

#[test]
fn the_owner_sleeps_while_a_step_of_preparing_a_segment_or_a_read_was_never_handed_to_the_disk() {
    let disk = Queued { inner: SimDisk::new(SimOptions::default()), queue: Vec::new() };
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    let slot = wal.stream(StreamId(1));
    for index in 1..=200 {
        wal.append(slot, header(index), &payload(1, index, 3000)).unwrap();
        turn_until_quiet(&mut wal);
        assert!(wal.disk().queue.is_empty(), "entry {index}: nobody will hand over {:?}", wal.disk().queue);
        assert_eq!(
            wal.durable(),
            wal.last_ticket(),
            "entry {index}: the log sleeps, its batch waits for a segment"
        );
    }
    wal.read(7, slot, 1, 200, u32::MAX);
    turn_until_quiet(&mut wal);
    assert!(wal.disk().queue.is_empty(), "nobody will hand over {:?}", wal.disk().queue);
    assert_eq!(wal.poll_read().unwrap().result.unwrap().len(), 200);
}
