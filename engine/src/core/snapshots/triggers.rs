//! Which group needs a snapshot, and when: growth of its log, the log's wish to have old entries given up, an order.
//!
//! Growth is looked at now and then while entries are applied, so that a group that nothing happens to costs nothing. Groups that grow
//! alike would all come at once: each has thresholds of its own, somewhat below those of the settings. What is due waits in
//! line for one of a few places.

use std::time::Duration;

use logdrive_shard::{LogIndex, Moment, Random};
use logdrive_wal::Disk;

use super::{ASKED_MAX, Asked, GroupSnapshots, Snapshots};
use crate::api::{Busy, Error, StateMachine};
use crate::core::lane::{Flags, Lane};
use crate::core::requests::busy;
use crate::core::{Core, PortId, Slot};

/// A group's growth is looked at so often on its way to a snapshot, at least, as far as entries go.
const LOOKS: u64 = 64;
/// Entries between two looks, at most: a power of two.
const LOOK_SHIFT_MAX: u32 = 10;
/// Bytes that are counted beside the group's hot state before its growth is looked at.
const LOOK_BYTES: u64 = 1 << 16;
/// The first pause after a failure; it doubles with each one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often the log is looked at whether it is half full.
const EASE_INTERVAL: Duration = Duration::from_millis(100);
/// How many groups are put in line then, at most.
const EASED_AT_ONCE: usize = 16;
/// How often cutting a log is tried again that had no room to note it.
pub(super) const CUT_RETRY: Duration = Duration::from_millis(100);

/// Failures in a row: what fails for one group (a full disk, most of the time) is likely to fail for the next one.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u32,
    /// Nothing is begun before.
    pub(super) pause_until: Moment,
}

impl Failures {
    pub(super) fn add(&mut self, now: Moment) {
        let pause = PAUSE_MIN * 2_u32.saturating_pow(self.count.min(16));
        self.pause_until = now.after(pause.min(PAUSE_MAX));
        self.count += 1;
    }

    pub(super) fn clear(&mut self) {
        *self = Failures::default();
    }
}

/// Entries between two looks at a group's growth, as a power of two; `every_entries` as in the settings.
pub(super) fn look_shift(every_entries: u64) -> u32 {
    let between = if every_entries == 0 { u64::MAX } else { every_entries / LOOKS };
    between.max(1).ilog2().min(LOOK_SHIFT_MAX)
}

/// A threshold of a group: up to `spread` 1024ths below that of the settings.
fn spread_out(threshold: u64, seed: u64, group: u64, spread: u64) -> u64 {
    let less = Random::new(seed ^ group).next_u64() % spread;
    (threshold - (u128::from(threshold) * u128::from(less) / 1024) as u64).max(1)
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Entries `first ..= last` of a group, of so many bytes, are applied.
    #[inline]
    pub(in crate::core) fn count_applied(&mut self, slot: u32, first: u64, last: u64, bytes: u64) {
        let lane = &mut self.io.lanes[slot as usize];
        let bytes = u64::from(lane.uncounted_bytes) + bytes;
        lane.uncounted_bytes = (bytes % LOOK_BYTES) as u16;
        let shift = self.snapshots.look_shift;
        if bytes >= LOOK_BYTES || (first - 1) >> shift != last >> shift {
            self.look_at_growth(slot, bytes - bytes % LOOK_BYTES);
        }
    }

    #[cold]
    fn look_at_growth(&mut self, slot: u32, bytes: u64) {
        let at = slot as usize;
        self.snapshots.groups[at].log_bytes += bytes;
        let state = &self.snapshots.groups[at];
        let settings = &self.io.settings.snapshots;
        let is_full = state.log_bytes >= settings.group_log_bytes_max;
        // The first snapshots of groups that were created together are spread the most.
        let spread = if state.index == LogIndex(0) { 768 } else { 256 };
        let threshold = |threshold| spread_out(threshold, self.snapshots.seed, self.ids[at].0, spread);
        let entries = self.io.lanes[at].applied.0 - state.index.0;
        let is_due = is_full
            || (settings.every_entries > 0 && entries >= threshold(settings.every_entries))
            || (settings.every_bytes > 0 && state.log_bytes >= threshold(settings.every_bytes));
        if is_full && self.io.lanes[at].flags.raise(Flags::LOG_FULL) {
            self.snapshots.counters.logs_full += 1;
        }
        if is_due {
            self.want_snapshot(slot, is_full);
        }
    }

    /// Puts a group in line, or ahead of the line.
    pub(in crate::core) fn want_snapshot(&mut self, slot: u32, urgent: bool) {
        let Snapshots { groups, due, .. } = &mut self.snapshots;
        let state = &mut groups[slot as usize];
        if state.is_busy || std::mem::replace(&mut state.is_due, true) {
            return;
        }
        if urgent { due.push_front(slot) } else { due.push_back(slot) }
    }

    /// Nobody has entries that the disk lost and that were applied here: a snapshot stands for them.
    pub(in crate::core) fn outlive_log(&mut self, slot: u32) {
        self.snapshots.groups[slot as usize].eased = true;
        self.want_snapshot(slot, true);
    }

    /// The log wants the group's old entries to be given up.
    pub(in crate::core) fn ease_log(&mut self, slot: u32) {
        let settings = &self.io.settings.snapshots;
        if settings.every_entries == 0 && settings.every_bytes == 0 {
            // Snapshots are taken on order only.
            return;
        }
        let state = &mut self.snapshots.groups[slot as usize];
        state.eased = true;
        if !state.is_uncut {
            self.want_snapshot(slot, false);
        }
        // Else there is no room even to note that the log is cut. It is tried again after a pause, however often the log asks.
    }

    /// The log asks for old entries when that frees more than it costs to move what is live. A log that many groups fill below their
    /// thresholds is live all over, and would ask nobody until it is full: when half of it is used, those with the longest
    /// logs take their snapshots earlier.
    pub(in crate::core) fn ease_when_half_full(&mut self) {
        if self.io.now < self.snapshots.next_ease {
            return;
        }
        self.snapshots.next_ease = self.io.now.after(EASE_INTERVAL);
        let space = self.io.wal.space();
        if space.used_bytes < space.budget_bytes / 2 || !self.snapshots.due.is_empty() {
            return;
        }
        // A group that holds less than its share is not what fills the log.
        let share = space.used_bytes / (2 * self.groups.len().max(1) as u64);
        let lanes = &self.io.lanes;
        let length = |(lane, state): (&Lane, &GroupSnapshots)| {
            let has_news = lane.applied > state.index && !state.is_busy && !state.is_due;
            if has_news { state.log_bytes + u64::from(lane.uncounted_bytes) } else { 0 }
        };
        let lengths = lanes.iter().zip(&self.snapshots.groups).map(length);
        let mut longest: Vec<(u64, u32)> = lengths.zip(0..).filter(|&(bytes, _)| bytes > share).collect();
        longest.sort_unstable_by_key(|&(bytes, slot)| (std::cmp::Reverse(bytes), slot));
        for (_, slot) in longest.into_iter().take(EASED_AT_ONCE) {
            self.ease_log(slot);
        }
    }

    pub(in crate::core) fn on_snapshot_order(&mut self, port: PortId, token: u64, slot: Slot) {
        if !self.io.ports.is_open(port) {
            return;
        }
        let at = slot.0 as usize;
        if at >= self.groups.len() {
            return self.refuse(port, token, Error::NoSuchGroup);
        }
        if self.snapshots.groups[at].asked.len() >= ASKED_MAX {
            return self.refuse(port, token, busy(Busy::CoreRequests));
        }
        if let Err(error) = self.admit_request(0) {
            return self.refuse(port, token, error);
        }
        self.expect(port, 0);
        let index = self.io.lanes[at].applied;
        self.snapshots.groups[at].asked.push(Asked { port, token, index });
        self.want_snapshot(slot.0, true);
    }

    pub(super) fn answer_snapshot(&mut self, asked: Asked, result: Result<LogIndex, Error>) {
        let Asked { port, token, .. } = asked;
        self.io.requests -= 1;
        let index = result.unwrap_or_default();
        self.io.ports.answer(port, token, result, &index.0.to_le_bytes());
    }

    pub(super) fn snapshots_at_once(&self) -> usize {
        self.io.settings.snapshots.at_once.max(1) as usize
    }

    /// Begins what is due while there are free places.
    pub(super) fn begin_due_snapshots(&mut self) {
        while self.snapshots.failures.pause_until <= self.io.now
            && self.snapshots.writings.len() < self.snapshots_at_once()
        {
            let Some(slot) = self.snapshots.due.pop_front() else { return };
            self.snapshots.groups[slot as usize].is_due = false;
            self.begin_snapshot(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_looked_at_often_enough_for_the_setting_and_not_more() {
        assert_eq!([0, 1, 60, 10_000, u64::MAX].map(look_shift), [LOOK_SHIFT_MAX, 0, 0, 7, LOOK_SHIFT_MAX]);
    }

    #[test]
    fn thresholds_are_spread_below_those_of_the_settings_and_stay_the_same() {
        let of = |group| spread_out(10_000, 7, group, 256);
        let mut all: Vec<u64> = (1..=1000).map(of).collect();
        assert!(all.iter().all(|&entries| (7_500..=10_000).contains(&entries)));
        assert_eq!(all, (1..=1000).map(of).collect::<Vec<_>>());
        all.sort_unstable();
        let crowded = (0..900).map(|n| all[n + 100] - all[n]).min();
        assert!(crowded >= Some(100), "a hundred of a thousand groups within {crowded:?} entries");
        assert_eq!(spread_out(u64::MAX, 1, 2, 1024) / 2, spread_out(u64::MAX, 1, 2, 1024) / 2);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut failures = Failures::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            failures.add(Moment(0));
            pauses.push(failures.pause_until.0 / 1_000_000_000);
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(pauses[39], 60);
        failures.clear();
        assert_eq!(failures.pause_until, Moment(0));
    }
}
