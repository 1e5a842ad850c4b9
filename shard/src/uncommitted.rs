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
