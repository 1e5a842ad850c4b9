//! So many bytes per second: a bucket that time fills and writes empty. Time is an argument.

use logdrive_shard::Moment;

const SECOND: i128 = 1_000_000_000;
/// The bucket holds what this share of a second brings, and at least one chunk.
const BURST_SHARE: u64 = 20;

pub(crate) struct Pace {
    bytes_per_s: u64,
    /// Bytes, times nanoseconds of a second so that nothing is rounded. Below zero: the last write took more than there was.
    level: i128,
    full: i128,
    at: Moment,
}

impl Pace {
    /// 0: no limit.
    pub(crate) fn new(bytes_per_s: u64, chunk_bytes: u32) -> Pace {
        let full = i128::from((bytes_per_s / BURST_SHARE).max(u64::from(chunk_bytes))) * SECOND;
        Pace { bytes_per_s, level: full, full, at: Moment(0) }
    }

    /// Time goes on; it never goes back.
    pub(crate) fn advance(&mut self, now: Moment) {
        let nanos = i128::from(now.0.saturating_sub(self.at.0));
        self.at = self.at.max(now);
        self.level = self.full.min(self.level + nanos * i128::from(self.bytes_per_s));
    }

    pub(crate) fn is_open(&self) -> bool {
        self.bytes_per_s == 0 || self.level > 0
    }

    pub(crate) fn take(&mut self, bytes: u32) {
        if self.bytes_per_s > 0 {
            self.level -= i128::from(bytes) * SECOND;
        }
    }

    /// When it is open again.
    pub(crate) fn opens_at(&self) -> Moment {
        if self.is_open() {
            return self.at;
        }
        let nanos = -self.level / i128::from(self.bytes_per_s) + 1;
        Moment(self.at.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_than_the_limit_goes_through_and_no_less() {
        let (rate, chunk) = (1_000_000, 65_536_u32);
        let mut pace = Pace::new(rate, chunk);
        let (mut now, mut sent) = (Moment(0), 0);
        while now.0 < 10_000_000_000 {
            pace.advance(now);
            if pace.is_open() {
                pace.take(chunk);
                sent += u64::from(chunk);
            } else {
                now = pace.opens_at();
            }
        }
        assert!(
            (10_000_000..=10_000_000 + 2 * u64::from(chunk)).contains(&sent),
            "{sent} bytes in ten seconds"
        );
    }

    #[test]
    fn without_a_limit_it_is_always_open() {
        let mut pace = Pace::new(0, 4096);
        pace.take(u32::MAX);
        pace.advance(Moment(5));
        assert!(pace.is_open());
        assert_eq!(pace.opens_at(), Moment(5));
    }
}
