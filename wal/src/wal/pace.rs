//! When the open batch is worth a write by itself, in the middle of an owner's turn.
//!
//! Without such writes all that is in flight falls into one batch, as soon as the owner once had nothing to do but wait for all of
//! it, and from then on disk and processor work in turns. Too many of them cost CPU that the owner may lack: a write costs as much as
//! appending a hundred entries, whatever its size.

/// Fewer bytes are no write of their own even for an idle disk.
const IDLE_BYTES_MIN: u64 = 8 << 10;
/// Fewer records and bytes are none while others are under way: they save less time.
const BUSY_RECORDS_MIN: u32 = 256;
const BUSY_BYTES_MIN: u64 = 64 << 10;
/// So many writes, in hundredths, have to be under way on average for the disk to be what the owner waits for. Below that more
/// of them would only cost CPU.
const BUSY_DEPTH_MIN: u64 = 150;
/// All this is looked at over so many batches, or until the disk is idle.
const WINDOW_BATCHES: u32 = 16;

#[derive(Debug)]
pub(super) struct Pace {
    /// What was under way or full at once lately, divided among as many writes as may be under way and one that is being filled.
    part_bytes: u64,
    /// Writes under way lately, on average, in hundredths.
    depth: u64,
    /// Of the window: the most bytes at once, batches, what they took together, and since when.
    peak_bytes: u64,
    batches: u32,
    write_nanos: u64,
    since_nanos: u64,
}

impl Pace {
    pub(super) fn new(now_nanos: u64) -> Pace {
        Pace {
            part_bytes: u64::MAX,
            depth: 0,
            peak_bytes: 0,
            batches: 0,
            write_nanos: 0,
            since_nanos: now_nanos,
        }
    }

    /// A batch was submitted; so many bytes are under way or full now.
    pub(super) fn on_submitted(&mut self, bytes: u64) {
        self.peak_bytes = self.peak_bytes.max(bytes);
    }

    /// A batch was written, in so much time; so many are still under way, of so many that may be.
    pub(super) fn on_written(&mut self, nanos: u64, under_way: u32, writes_in_flight: u32, now_nanos: u64) {
        self.batches += 1;
        self.write_nanos = self.write_nanos.saturating_add(nanos);
        if under_way > 0 && self.batches < WINDOW_BATCHES {
            return;
        }
        self.part_bytes = (self.peak_bytes / (u64::from(writes_in_flight) + 1)).max(IDLE_BYTES_MIN);
        let elapsed = now_nanos.saturating_sub(self.since_nanos).max(1);
        let depth = self.write_nanos.saturating_mul(100) / elapsed;
        // The mean of about the last hundred and thirty batches, fewer if the disk was idle meanwhile.
        self.depth = self.depth - self.depth / 8 + depth.min(100 * u64::from(writes_in_flight)) / 8;
        (self.peak_bytes, self.batches, self.write_nanos, self.since_nanos) = (0, 0, 0, now_nanos);
    }

    /// Whether an open batch of so many bytes and records had better go while so many writes are under way.
    #[inline]
    pub(super) fn is_worth_a_write(&self, bytes: u64, records: u32, under_way: u32) -> bool {
        let worth = under_way == 0
            || self.depth >= BUSY_DEPTH_MIN && (records >= BUSY_RECORDS_MIN || bytes >= BUSY_BYTES_MIN);
        worth && bytes >= self.part_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_writes_at_once_are_worth_it_where_the_disk_is_what_is_waited_for() {
        let mut pace = Pace::new(0);
        assert!(!pace.is_worth_a_write(1 << 20, 5_000, 0), "nobody knows yet how much comes at once");
        // One write after another.
        let mut now = 0;
        for _ in 0..200 {
            pace.on_submitted(100 << 10);
            now += 100_000;
            pace.on_written(100_000, 1, 4, now);
        }
        assert!(pace.is_worth_a_write(20 << 10, 10, 0), "the disk is idle, and a fifth is there");
        assert!(!pace.is_worth_a_write(19 << 10, 1_000, 0));
        assert!(!pace.is_worth_a_write(80 << 10, 1_000, 1), "one write at a time keeps up");
        // Two are always under way: the owner waits for them.
        for _ in 0..200 {
            pace.on_submitted(100 << 10);
            now += 50_000;
            pace.on_written(100_000, 1, 4, now);
        }
        assert!(pace.is_worth_a_write(20 << 10, 256, 1));
        assert!(!pace.is_worth_a_write(20 << 10, 255, 1), "a small one costs more than it saves");
        assert!(pace.is_worth_a_write(64 << 10, 5, 1));
    }
}
