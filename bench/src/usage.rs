//! What the process and the machine spent: CPU time of ours, and how much of the machine others used meanwhile.

use std::mem::MaybeUninit;

use serde::Serialize;

/// CPU time of this process, all threads, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessCpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl ProcessCpu {
    pub(crate) fn now() -> ProcessCpu {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage fills the one struct it is given.
        let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        if result != 0 {
            return ProcessCpu::default();
        }
        // SAFETY: the call succeeded, and the value was zeroed before, a valid rusage by itself.
        let usage = unsafe { usage.assume_init() };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        ProcessCpu { user: seconds(usage.ru_utime), system: seconds(usage.ru_stime) }
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    fn since(self, earlier: ProcessCpu) -> ProcessCpu {
        ProcessCpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// The machine's counters of CPU time (proc_stat(5)), in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MachineTicks {
    busy: u64,
    idle: u64,
    steal: u64,
}

/// Reads the `cpu` line: user nice system idle iowait irq softirq steal. Guest time is inside user.
fn parse_stat(text: &str) -> Option<MachineTicks> {
    let line = text.lines().find(|l| l.starts_with("cpu "))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
    let at = |n: usize| fields.get(n).copied().unwrap_or(0);
    if fields.len() < 4 {
        return None;
    }
    Some(MachineTicks { busy: at(0) + at(1) + at(2) + at(5) + at(6), idle: at(3) + at(4), steal: at(7) })
}

/// Both at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    process: ProcessCpu,
    machine: Option<MachineTicks>,
}

impl Usage {
    pub(crate) fn now() -> Usage {
        let machine = std::fs::read_to_string("/proc/stat").ok().and_then(|text| parse_stat(&text));
        Usage { process: ProcessCpu::now(), machine }
    }

    /// What was spent between `earlier` and this.
    pub(crate) fn since(&self, earlier: &Usage) -> CpuUse {
        let ours = self.process.since(earlier.process);
        let share = |before: MachineTicks, after: MachineTicks| {
            let delta = |get: fn(MachineTicks) -> u64| get(after).saturating_sub(get(before)) as f64;
            let (busy, idle, steal) = (delta(|t| t.busy), delta(|t| t.idle), delta(|t| t.steal));
            let all = (busy + idle + steal).max(1.0);
            let own = ours.total() * ticks_per_second();
            MachineUse {
                ours_percent: 100.0 * own.min(busy) / all,
                others_percent: 100.0 * (busy - own).max(0.0) / all,
                idle_percent: 100.0 * idle / all,
                stolen_percent: 100.0 * steal / all,
            }
        };
        let machine = earlier.machine.zip(self.machine).map(|(before, after)| share(before, after));
        CpuUse { user_seconds: ours.user, system_seconds: ours.system, machine }
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// CPU spent in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CpuUse {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Absent where /proc/stat is.
    pub(crate) machine: Option<MachineUse>,
}

impl CpuUse {
    pub(crate) fn seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Shares of all CPUs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct MachineUse {
    pub(crate) ours_percent: f64,
    /// Other processes, and the kernel's own threads and interrupts, which may have worked for us.
    pub(crate) others_percent: f64,
    pub(crate) idle_percent: f64,
    /// Taken by the hypervisor.
    pub(crate) stolen_percent: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_cpu_line() {
        let text = "cpu  10 1 20 300 40 2 3 5 0 0\ncpu0 1 2 3 4\n";
        assert_eq!(parse_stat(text), Some(MachineTicks { busy: 36, idle: 340, steal: 5 }));
        assert_eq!(parse_stat("cpu0 1 2 3 4\n"), None);
        assert_eq!(parse_stat("cpu  1 2\n"), None);
    }

    #[test]
    fn shares_add_up_to_everything() {
        let ticks = |busy, idle, steal| Some(MachineTicks { busy, idle, steal });
        let before = Usage { process: ProcessCpu::default(), machine: ticks(0, 0, 0) };
        let process = ProcessCpu { user: 30.0 / ticks_per_second(), system: 20.0 / ticks_per_second() };
        let after = Usage { process, machine: ticks(80, 15, 5) };
        let machine = after.since(&before).machine.unwrap();
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-6;
        assert!(near(machine.ours_percent, 50.0), "{machine:?}");
        assert!(near(machine.others_percent, 30.0), "{machine:?}");
        assert!(near(machine.idle_percent, 15.0), "{machine:?}");
        assert!(near(machine.stolen_percent, 5.0), "{machine:?}");
    }
}
