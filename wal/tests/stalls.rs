//! A disk that stands still, from a millisecond to half a minute: nothing is acknowledged meanwhile, the owner can tell, also while
//! there is nothing to write, and afterwards all goes on in order.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, header, payload, small};
use logdrive_wal::{Fault, FaultKind, Health, OpKind, SimDisk, SimOptions, StreamId, Wal};

const MS: u64 = 1_000_000;
const STALLS_MS: [u64; 6] = [1, 10, 100, 1_000, 10_000, 30_000];

/// A log on a disk with a clock: operations take 100 us.
fn timed(now: u64) -> Wal<SimDisk> {
    let disk = SimDisk::new(SimOptions::default());
    disk.platter().calm();
    let mut wal = Wal::open(disk, small(), now, &mut Streams::default()).unwrap();
    wal.disk().advance(now);
    wal.disk().set_latency(100_000..100_001);
    wal
}

/// One turn at the next moment at which the disk ends something or the log wants one; not beyond `end`.
fn turn(wal: &mut Wal<SimDisk>, now: &mut u64, end: u64) {
    let due = [wal.disk().next_due(), wal.mark_due_nanos()].into_iter().flatten().min().unwrap_or(end);
    *now = due.clamp(*now + 1, end);
    wal.disk().advance(*now);
    wal.poll(*now);
    wal.submit(*now);
}

#[test]
fn a_write_that_stalls_holds_back_what_comes_behind_it_and_is_told_by_its_age() {
    for stall in STALLS_MS {
        let mut now = 5 * MS;
        let mut wal = timed(now);
        let slot = wal.stream(StreamId(1));
        let stalled =
            Fault { durable: Some(true), ..Fault::next(OpKind::Write, FaultKind::Delay(stall * MS)) };
        wal.disk().platter().inject(Fault { name_contains: ".seg".to_owned(), ..stalled });
        let began = now;
        let mut tickets = Vec::new();
        for index in 1..=3 {
            tickets.push(wal.append(slot, header(index), &payload(1, index, 100)).unwrap());
            wal.submit(now);
        }
        let end = began + stall * MS;
        while now < end {
            turn(&mut wal, &mut now, end);
            assert!(now < end || wal.durable() < tickets[0], "acknowledged after {} ns", now - began);
            if now < end {
                assert_eq!(wal.oldest_write_nanos(), Some(began), "{stall} ms");
            }
        }
        assert_eq!(*wal.health(), Health::Running);
        while wal.durable() < tickets[2] {
            turn(&mut wal, &mut now, u64::MAX);
        }
        assert!(now < end + 5 * MS, "{stall} ms");
        assert!(wal.stats().write_nanos >= stall * MS);
        assert_eq!(wal.stats().writes_repeated, 0);
    }
}

#[test]
fn a_log_that_has_nothing_to_write_tells_all_the_same_that_its_disk_stands_still() {
    for stall in STALLS_MS {
        let mut now = 5 * MS;
        let mut wal = timed(now);
        // It rests; each second it writes a mark.
        let rested = now + 2_500 * MS;
        while now < rested {
            turn(&mut wal, &mut now, rested);
        }
        let heard = wal.last_write_nanos().unwrap();
        assert!(rested - heard <= 1_001 * MS, "heard of {} ns ago", rested - heard);
        wal.disk().platter().inject(Fault::next(OpKind::Write, FaultKind::Delay(stall * MS)));
        let end = heard + 1_000 * MS + stall * MS;
        let mut oldest = 0;
        while now < end {
            turn(&mut wal, &mut now, end);
            oldest = oldest.max(wal.oldest_write_nanos().map_or(0, |since| now - since));
        }
        assert!(oldest + 2 * MS >= stall * MS, "{stall} ms: the oldest write was {oldest} ns old at most");
        let end = now + 10 * MS;
        while now < end {
            turn(&mut wal, &mut now, end);
        }
        assert_eq!(wal.oldest_write_nanos(), None, "{stall} ms");
    }
}

#[test]
fn waiting_for_the_disk_books_what_completed_with_the_time_after_the_wait() {
    let mut wal = timed(0);
    let slot = wal.stream(StreamId(1));
    let ticket = wal.append(slot, header(1), b"waits").unwrap();
    let now = std::cell::Cell::new(10 * MS);
    while wal.durable() < ticket {
        wal.submit(now.get());
        wal.wait(|| {
            now.set(now.get() + 7 * MS);
            now.get()
        });
    }
    assert!(wal.stats().write_nanos >= 7 * MS, "{}", wal.stats().write_nanos);
    assert_eq!(wal.last_write_nanos(), Some(now.get()));
}
