//! Latencies: recorded in nanoseconds, one histogram per core, added at the end, reported in microseconds.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart, nanoseconds. Longer ones count as this.
const LATENCY_NANOS_MAX: u64 = 100_000_000_000;
/// Significant digits: a recorded value is at most 0.1 % off.
const DIGITS: u8 = 3;

/// Latencies of one core.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    /// The histogram's own figure for the maximum is rounded up; this one is exact.
    max_nanos: u64,
}

impl Latencies {
    pub(crate) fn new() -> Result<Latencies> {
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, DIGITS).context("cannot set up a histogram")?;
        Ok(Latencies { histogram, max_nanos: 0 })
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.record_n(nanos, 1);
    }

    /// So many of the same latency.
    pub(crate) fn record_n(&mut self, nanos: u64, count: u64) {
        self.histogram.saturating_record_n(nanos.max(1), count);
        self.max_nanos = self.max_nanos.max(nanos);
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        // Both have the same bounds, so that adding cannot fail; a lost histogram would be a wrong report.
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    /// Forgets all, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.histogram.reset();
        self.max_nanos = 0;
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        let at = |quantile: f64| {
            // A bucket's upper end may be above the largest value in it.
            self.histogram.value_at_quantile(quantile).min(self.max_nanos) as f64 / 1_000.0
        };
        LatencySummary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max_nanos as f64 / 1_000.0,
            mean: if self.histogram.is_empty() { 0.0 } else { self.histogram.mean() / 1_000.0 },
        }
    }
}

/// Quantiles, microseconds. All zero if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut latencies = Latencies::new().unwrap();
        for micros in 1..=1_000u64 {
            latencies.record(micros * 1_000);
        }
        let summary = latencies.summary();
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.002;
        assert!(near(summary.p50, 500.0), "{summary:?}");
        assert!(near(summary.p90, 900.0), "{summary:?}");
        assert!(near(summary.p99, 990.0), "{summary:?}");
        assert!(near(summary.p999, 999.0), "{summary:?}");
        assert!(near(summary.mean, 500.5), "{summary:?}");
        assert_eq!(summary.max, 1_000.0);
    }

    #[test]
    fn cores_add_up() {
        let mut all = Latencies::new().unwrap();
        for core in 1..=3u64 {
            let mut one = Latencies::new().unwrap();
            one.record(core * 1_000_000);
            all.add(&one);
        }
        assert_eq!(all.count(), 3);
        assert_eq!(all.summary().max, 3_000.0);
    }

    #[test]
    fn nothing_recorded_is_all_zero_and_too_long_is_kept() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.summary(), LatencySummary::default());
        latencies.record(3 * LATENCY_NANOS_MAX);
        assert_eq!(latencies.count(), 1);
        assert_eq!(latencies.summary().max, 3.0 * LATENCY_NANOS_MAX as f64 / 1_000.0);
    }

    #[test]
    fn quantiles_never_exceed_the_maximum() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(123_456_789);
        let summary = latencies.summary();
        assert!(summary.p999 <= summary.max, "{summary:?}");
    }
}
