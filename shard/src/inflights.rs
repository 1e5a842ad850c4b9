//! The window of one peer: which appends are in flight, by last index and bytes.
//!
//! With one or two messages in flight, the usual case, everything is inline: the newest always ends at `next - 1`, so
//! only the oldest of two has to be written down. From three on, all but the oldest lie in a [`Ring`] among the cold
//! state, which is kept and reused.

use std::collections::VecDeque;

use crate::progress::Progress;
use crate::{Config, LogIndex};

/// Entries of one append message, at most. Together with the at most 65,535 messages of a window it keeps all indexes in
/// flight within 2^31 of each other, so that the lower 32 bits name them.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 32_768;

/// Messages in flight behind the oldest, while there are three or more: last index (lower half) and bytes.
pub(crate) type Ring = VecDeque<(u32, u32)>;

impl Progress {
    /// Whether another append may be sent.
    pub(crate) fn window_is_open(&self, config: &Config) -> bool {
        self.inflight_count == 0
            || (self.inflight_count < config.inflight_messages_max
                && self.inflight_bytes < config.inflight_bytes_max)
    }

    /// An append with the `count` entries from `next` on was sent: it is in flight, and `next` moves behind it.
    pub(crate) fn sent(&mut self, ring: &mut Ring, count: u64, bytes: u32) {
        let newest = low(self.next.0 - 1);
        let last = self.next.0 + count - 1;
        match self.inflight_count {
            0 => {}
            1 => (self.oldest_last, self.oldest_bytes) = (newest, self.inflight_bytes),
            2 => {
                ring.push_back((newest, self.inflight_bytes.saturating_sub(self.oldest_bytes)));
                ring.push_back((low(last), bytes));
            }
            _ => ring.push_back((low(last), bytes)),
        }
        self.inflight_count += 1;
        self.inflight_bytes = self.inflight_bytes.saturating_add(bytes);
        self.next = LogIndex(last + 1);
    }

    /// Everything up to `index` arrived: messages that end there or before are in flight no more.
    pub(crate) fn arrived(&mut self, ring: &mut Ring, index: LogIndex) {
        while self.inflight_count > 0 && self.oldest_inflight() <= index {
            self.inflight_count -= 1;
            if self.inflight_count == 0 {
                self.inflight_bytes = 0;
                return;
            }
            self.inflight_bytes = self.inflight_bytes.saturating_sub(self.oldest_bytes);
            if self.inflight_count >= 2 {
                (self.oldest_last, self.oldest_bytes) =
                    ring.pop_front().expect("three were in flight, two in the ring");
            }
            if self.inflight_count == 2 {
                // The newest is known from `next` again.
                ring.clear();
            }
        }
    }

    /// Nothing is in flight.
    pub(crate) fn forget_inflights(&mut self, ring: &mut Ring) {
        self.inflight_count = 0;
        self.inflight_bytes = 0;
        ring.clear();
    }

    /// Last index of the oldest message in flight; there is one.
    fn oldest_inflight(&self) -> LogIndex {
        let newest = self.next.0 - 1;
        if self.inflight_count == 1 {
            return LogIndex(newest);
        }
        LogIndex(newest - u64::from(low(newest).wrapping_sub(self.oldest_last)))
    }
}

/// The lower half of an index.
fn low(index: u64) -> u32 {
    index as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends and acknowledges in every mixture and compares with a plain list.
    #[test]
    fn the_window_agrees_with_a_plain_list() {
        let mut random = crate::Random::new(7);
        for start in [1u64, u64::from(u32::MAX) - 5] {
            let mut progress = Progress::probe(LogIndex(start));
            let mut ring = Ring::new();
            let mut model: VecDeque<(u64, u32)> = VecDeque::new();
            for _ in 0..20_000 {
                if random.below(2) == 0 && model.len() < 9 {
                    let (count, bytes) = (1 + random.below(3), random.below(100) as u32);
                    progress.sent(&mut ring, count, bytes);
                    model.push_back((progress.next.0 - 1, bytes));
                } else if let Some(&(last, _)) = model.get(random.below(4) as usize) {
                    let index = last - random.below(2);
                    progress.arrived(&mut ring, LogIndex(index));
                    model.retain(|&(last, _)| last > index);
                }
                assert_eq!(usize::from(progress.inflight_count), model.len());
                assert_eq!(progress.inflight_bytes, model.iter().map(|m| m.1).sum::<u32>());
                assert!(ring.len() <= 9);
            }
        }
    }

    #[test]
    fn the_window_closes_by_messages_and_by_bytes() {
        let config = Config { inflight_messages_max: 3, inflight_bytes_max: 100, ..Config::default() };
        let mut ring = Ring::new();
        let mut progress = Progress::probe(LogIndex(1));
        for _ in 0..3 {
            assert!(progress.window_is_open(&config));
            progress.sent(&mut ring, 1, 10);
        }
        assert!(!progress.window_is_open(&config));
        progress.arrived(&mut ring, LogIndex(1));
        assert!(progress.window_is_open(&config));
        progress.sent(&mut ring, 1, 90);
        progress.arrived(&mut ring, LogIndex(2));
        assert!(!progress.window_is_open(&config));
        progress.arrived(&mut ring, LogIndex(4));
        assert!(progress.window_is_open(&config));
    }
}
