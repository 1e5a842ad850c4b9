//! What a leader has proposed and not committed: entries are counted by index, bytes in two parts.
//!
//! Sizes are not kept per entry. The bytes of the older part (up to `older_end`) are let go when all of it is committed;
//! then what came since becomes the older part. The sum is never too low, and too high by no more than what was
//! proposed during two commits. When everything is committed, the usual case, it is exactly zero without a look at
//! the cold state.

use crate::role::Flags;
use crate::{Config, Group, Refused};

impl Group {
    /// Whether `count` more entries may be proposed.
    pub(crate) fn check_uncommitted(&self, config: &Config, count: u32) -> Result<(), Refused> {
        let entries = self.tail.last.0 - self.commit.0;
        let too_many = entries + u64::from(count) > u64::from(config.uncommitted_entries_max);
        if too_many || self.uncommitted_bytes >= config.uncommitted_bytes_max {
            return Err(Refused::TooMuchUncommitted { entries, bytes: u64::from(self.uncommitted_bytes) });
        }
        Ok(())
    }

    /// The commit index moved.
    pub(crate) fn release_uncommitted(&mut self) {
        if self.commit == self.tail.last {
            self.uncommitted_bytes = 0;
            self.flags.clear(Flags::OLDER_BYTES);
            return;
        }
        let cold = &mut self.cold.leader;
        if self.flags.has(Flags::OLDER_BYTES) {
            if self.commit < cold.older_end {
                return;
            }
            self.uncommitted_bytes -= cold.older_bytes;
        }
        cold.older_bytes = self.uncommitted_bytes;
        cold.older_end = self.tail.last;
        self.flags.set(Flags::OLDER_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Alone;
    use crate::{Config, Random, Refused};

    /// What is counted is never below the truth, and zero when everything is committed.
    #[test]
    fn the_count_of_uncommitted_bytes_is_never_too_low() {
        let mut random = Random::new(3);
        let mut alone = Alone::leading();
        let mut sizes: Vec<u32> = vec![0];
        for _ in 0..20_000 {
            if random.below(2) == 0 {
                let bytes = random.below(1_000) as u32;
                alone.propose(&Config::default(), bytes).expect("far below the limit");
                sizes.push(bytes);
            } else {
                let last = alone.group.last_index().0;
                let to = alone.group.commit().0 + random.below(last - alone.group.commit().0 + 1);
                alone.durable(to);
            }
            let truth: u32 = sizes[alone.group.commit().0 as usize..].iter().sum();
            let full = Config { uncommitted_bytes_max: 0, ..Config::default() };
            let Err(Refused::TooMuchUncommitted { entries, bytes }) = alone.propose(&full, 1) else {
                panic!("the limit is zero");
            };
            assert_eq!(entries, alone.group.last_index().0 - alone.group.commit().0);
            assert!(bytes >= u64::from(truth));
            assert!(entries > 0 || bytes == 0);
        }
    }
}
