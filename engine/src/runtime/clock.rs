//! The one place of the engine that reads a clock.

use logdrive_shard::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Now, on a clock that goes on while the machine is suspended: elections and leases must see that time (`CLOCK_BOOTTIME`,
/// clock_gettime(2); answered by the vdso, without a system call).
pub(crate) fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
