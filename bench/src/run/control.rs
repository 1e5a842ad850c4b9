//! What the main thread and the clients on the nodes' executors share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::latency::Latencies;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing: the groups have no leaders yet.
    Waiting = 0,
    /// Keep one proposal each in flight.
    Load = 1,
    /// Begin nothing new; what is in flight ends.
    Drain = 2,
}

/// Counts of the clients of one core, in the whole run. Alone on their cache lines: another core's clients write theirs at the
/// same time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct CoreCounters {
    pub(super) acknowledged: AtomicU64,
    /// Proposals without an answer so far.
    pub(super) outstanding: AtomicU64,
}

/// How proposals ended that were not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Refusals {
    /// Over a limit; nothing was appended; sent again after a pause.
    pub(super) busy: u64,
    /// The node did not lead the group any more; nothing was appended; sent to another group.
    pub(super) not_leader: u64,
    /// Leadership was lost after the proposal was appended: it may be applied or not.
    pub(super) unknown: u64,
    /// The log was full.
    pub(super) out_of_space: u64,
}

impl Refusals {
    pub(super) fn add(&mut self, other: &Refusals) {
        self.busy += other.busy;
        self.not_leader += other.not_leader;
        self.unknown += other.unknown;
        self.out_of_space += other.out_of_space;
    }
}

/// What the clients of one core saw.
#[derive(Debug)]
pub(super) struct CoreResult {
    /// In the measured time.
    pub(super) latencies: Latencies,
    /// In each second of the measured time.
    pub(super) per_second: Vec<u64>,
    /// In the whole run.
    pub(super) acknowledged: u64,
    pub(super) refusals: Refusals,
}

/// Shared by all.
#[derive(Debug)]
pub(super) struct Control {
    phase: AtomicU8,
    /// The measured time, nanoseconds of [`crate::clock`]: from here, and not any more from there.
    begin: AtomicU64,
    end: AtomicU64,
    /// The prepared log is about to be used up: the load ends.
    outgrown: AtomicBool,
    pub(super) cores: Vec<CoreCounters>,
    pub(super) results: Mutex<Vec<CoreResult>>,
    /// Of a soak, by minute of the measured time, as far as nobody took them.
    minutes: Mutex<BTreeMap<usize, Latencies>>,
    /// Something no client should see ended the run.
    failure: Mutex<Option<String>>,
}

impl Control {
    pub(super) fn new(cores: usize) -> Control {
        Control {
            phase: AtomicU8::new(Phase::Waiting as u8),
            begin: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
            outgrown: AtomicBool::new(false),
            cores: (0..cores).map(|_| CoreCounters::default()).collect(),
            results: Mutex::new(Vec::new()),
            minutes: Mutex::new(BTreeMap::new()),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Waiting,
            1 => Phase::Load,
            _ => Phase::Drain,
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Sets the measured time, which may begin now at the earliest.
    pub(super) fn set_window(&self, begin: u64, end: u64) {
        // The end first: nobody may see a window that is open for ever.
        self.end.store(end, Ordering::Release);
        self.begin.store(begin, Ordering::Release);
    }

    /// The measured time.
    pub(super) fn window(&self) -> std::ops::Range<u64> {
        let begin = self.begin.load(Ordering::Acquire);
        begin..self.end.load(Ordering::Acquire)
    }

    /// The prepared log is about to be used up: the measured time ends at `now`, if it had not ended before.
    pub(super) fn set_outgrown(&self, now: u64) {
        self.end.fetch_min(now, Ordering::AcqRel);
        self.outgrown.store(true, Ordering::Release);
    }

    pub(super) fn is_outgrown(&self) -> bool {
        self.outgrown.load(Ordering::Acquire)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.cores.iter().map(|c| c.acknowledged.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.cores.iter().map(|c| c.outstanding.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn fail(&self, message: String) {
        lock(&self.failure).get_or_insert(message);
    }

    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    pub(super) fn push_result(&self, result: CoreResult) {
        lock(&self.results).push(result);
    }

    pub(super) fn take_results(&self) -> Vec<CoreResult> {
        std::mem::take(&mut lock(&self.results))
    }

    /// What the clients of one core saw in a minute.
    pub(super) fn add_minute(&self, minute: usize, latencies: &Latencies) {
        let mut minutes = lock(&self.minutes);
        match minutes.get_mut(&minute) {
            Some(all) => all.add(latencies),
            None => _ = minutes.insert(minute, latencies.clone()),
        }
    }

    pub(super) fn take_minute(&self, minute: usize) -> Option<Latencies> {
        lock(&self.minutes).remove(&minute)
    }

    pub(super) fn result_count(&self) -> usize {
        lock(&self.results).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic ends the process; what a lock protects is whole at any rate.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outgrown_log_ends_the_measured_time_and_never_prolongs_it() {
        let control = Control::new(1);
        assert!(!control.window().contains(&5), "no window before it is set");
        control.set_window(10, 100);
        assert!(control.window().contains(&10) && !control.window().contains(&100));
        control.set_outgrown(60);
        control.set_outgrown(80);
        assert_eq!(control.window(), 10..60);
        assert!(control.is_outgrown());
    }

    #[test]
    fn the_first_failure_is_kept() {
        let control = Control::new(1);
        control.fail("first".to_owned());
        control.fail("second".to_owned());
        assert_eq!(control.failure().as_deref(), Some("first"));
    }
}
