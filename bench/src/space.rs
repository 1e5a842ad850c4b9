//! How much log a run needs, and whether the disk has it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::environment;
use crate::format::bytes;

/// Segments of its budget that a log keeps for votes, states and moving what is live.
pub(crate) const SEGMENTS_RESERVED: u32 = 3;
/// Segments of a log at least: the reserve, the one that is written, one ahead, and two to be left when a run ends.
pub(crate) const SEGMENTS_MIN: u32 = 4 + SEGMENTS_RESERVED;
/// Left free on the file system, beside what a run needs.
const SPARE_BYTES: u64 = 1 << 30;
/// What an entry takes in the log beside its payload, bytes; generous.
const OVERHEAD_BYTES: f64 = 48.0;
/// A durable write is padded to a block: so much is lost a second and log on a fast disk.
const PADDING_BYTES_PER_S: f64 = 32e6;
/// A closed loop is not faster than one answer per client in this time.
const LATENCY_SECONDS_MIN: f64 = 300e-6;
/// Proposals a second and core of a node, and bytes a second and log, above which no run is expected.
const RATE_PER_CORE_MAX: f64 = 1_500_000.0;
const LOG_BYTES_PER_S_MAX: f64 = 700e6;
/// The entries of leaders' terms, the drain, the start.
const EXTRA_SECONDS: f64 = 1.0;

/// What one log of a cluster writes in a run at most, as far as one can tell beforehand.
pub(crate) fn log_bytes(clients: u32, cores_per_node: u16, payload: u32, seconds: f64) -> u64 {
    let cores = f64::from(cores_per_node);
    let rate = (f64::from(clients) / LATENCY_SECONDS_MIN).min(RATE_PER_CORE_MAX * cores) / cores;
    let per_second = rate * (f64::from(payload) + OVERHEAD_BYTES) + PADDING_BYTES_PER_S;
    (per_second.min(LOG_BYTES_PER_S_MAX) * (seconds + EXTRA_SECONDS)) as u64
}

/// Segments for so many bytes, the ones that the log keeps back included.
pub(crate) fn segments(log_bytes: u64, segment_bytes: u64) -> u32 {
    let segments = log_bytes.div_ceil(segment_bytes).saturating_add(u64::from(SEGMENTS_MIN));
    u32::try_from(segments).unwrap_or(u32::MAX)
}

/// Refuses to start what the disk cannot hold.
pub(crate) fn check(directory: &Path, needed: u64, options: &str) -> Result<()> {
    let free = environment::free_bytes(directory)?;
    if free < needed.saturating_add(SPARE_BYTES) {
        bail!(
            "{} has {} free, this benchmark needs {} for its logs and leaves {} alone: name another directory with \
             --dir, or ask for less with {options}",
            directory.display(),
            bytes(free as f64),
            bytes(needed as f64),
            bytes(SPARE_BYTES as f64)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_load_needs_more_log_up_to_what_a_disk_can_write() {
        let few = log_bytes(16, 1, 128, 10.0);
        let default = log_bytes(1_024, 1, 128, 13.0);
        let many = log_bytes(100_000, 1, 128, 13.0);
        assert!(few < default, "{few} {default}");
        assert_eq!(default, many, "the rate is bounded by the core");
        assert!(log_bytes(1_024, 1, 1 << 20, 10.0) <= (LOG_BYTES_PER_S_MAX * 11.0) as u64);
        assert!(log_bytes(1_024, 4, 128, 13.0) <= default, "four cores share the load on four logs");
    }

    #[test]
    fn segments_are_rounded_up_and_leave_the_reserve() {
        assert_eq!(segments(1, 64 << 20), 1 + SEGMENTS_MIN);
        assert_eq!(segments(64 << 20, 64 << 20), 1 + SEGMENTS_MIN);
        assert_eq!(segments((64 << 20) + 1, 64 << 20), 2 + SEGMENTS_MIN);
        assert_eq!(segments(u64::MAX, 1), u32::MAX);
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_with_the_option_to_change() {
        let directory = tempfile::tempdir().unwrap();
        check(directory.path(), 0, "--seconds").unwrap();
        let error = check(directory.path(), 1 << 60, "--seconds").unwrap_err().to_string();
        assert!(error.contains("free") && error.contains("--seconds") && error.contains("--dir"), "{error}");
    }
}
