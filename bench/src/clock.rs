//! The clock of the measurements: one origin for all threads of the process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process; monotonic, the same on all threads.
#[allow(clippy::disallowed_methods)] // A benchmark measures time; this is the one place that reads it.
pub(crate) fn now_nanos() -> u64 {
    let origin = *ORIGIN.get_or_init(Instant::now);
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The time since `earlier`, a result of [`now_nanos`].
pub(crate) fn since(earlier: u64) -> Duration {
    Duration::from_nanos(now_nanos().saturating_sub(earlier))
}

/// Nanoseconds that this thread was given of a processor: time in which others ran instead is left out.
pub(crate) fn own_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Seconds of wall-clock time since the Unix epoch, to date a report.
#[allow(clippy::disallowed_methods)] // As above.
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let first = now_nanos();
        let second = now_nanos();
        assert!(second >= first);
        assert!(since(second) < Duration::from_secs(60));
    }
}
