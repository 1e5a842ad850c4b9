//! A cluster under load: all nodes in this process, with real sockets and real logs, and clients on their executors.

mod check;
mod clients;
mod control;
mod nodes;
mod result;
mod soak;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;

use self::check::Told;
use self::control::{Control, CoreResult, Phase, Refusals};
use self::nodes::{LogCounts, Nodes, Prepared};
use self::result::{Outcome, RunReport};
use self::soak::{MinuteReport, Soak};
use crate::cli::RunArgs;
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::{self, Environment};
use crate::format::{bytes, count, plural};
use crate::latency::Latencies;
use crate::progress;
use crate::report;
use crate::space;
use crate::usage::Usage;

/// Between two looks at the clock and at the clients.
const POLL: Duration = Duration::from_millis(20);
/// Between two looks at the space that is left in the logs.
const SPACE_POLL: Duration = Duration::from_millis(60);
/// The load ends when so much is left of a log: what a fast disk writes until that is noticed.
const SPACE_LEFT_BYTES: u64 = 96 << 20;
/// After the load ends, every proposal is answered within this time.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// What an entry takes in the log beside its payload; generous.
const ENTRY_BYTES: u64 = 64;
/// Memory that an executor registers with io_uring: the log's buffers and the executor's own.
const LOCKED_BYTES_PER_CORE: u64 = 4 << 20;

/// `logdrive-bench run`. False if nodes disagree or lack what was acknowledged.
pub(crate) fn run(arguments: &RunArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let cores = arguments.nodes * u32::from(arguments.cores_per_node);
    if cores > u32::from(u16::MAX) {
        bail!("{} nodes of {} cores are too many for one process", arguments.nodes, arguments.cores_per_node);
    }
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let prepared = plan_log(arguments);
    let needed = u64::from(prepared.segments) * prepared.segment_bytes * u64::from(cores);
    space::check(directory.path(), needed, "--seconds, --segments or --clients")?;
    let (disk_probe, log_disk) = disk_probe::brief(directory.path(), !arguments.no_probe)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let mut warnings = environment.warnings();
    warnings.extend(resource_warnings(cores, environment::cores(), environment.memlock_bytes));
    // Before the run: whoever sees them may want to stop it.
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }

    let bar = progress::spinner("run");
    bar.set_message(format!(
        "preparing {} segments of {} for each of {} logs",
        prepared.segments,
        bytes(prepared.segment_bytes as f64),
        count(f64::from(cores))
    ));
    bar.tick();
    let control = Arc::new(Control::new(cores as usize));
    let start = clock::now_nanos();
    let nodes = Nodes::start(arguments, directory.path(), prepared, &control)?;
    let prepare_seconds = clock::since(start).as_secs_f64();
    let start = clock::now_nanos();
    warnings.extend(nodes.wait_for_leaders(arguments.groups, &bar)?);
    let election_seconds = clock::since(start).as_secs_f64();

    let path = directory.path();
    let mut outcome =
        Load { arguments, nodes: &nodes, control: &control, bar: &bar, prepared, path }.run()?;
    outcome.prepare_seconds = prepare_seconds;
    outcome.election_seconds = election_seconds;
    bar.set_message("comparing the nodes");
    bar.tick();
    let told = Told { acknowledged: outcome.acknowledged, unknown: outcome.refusals.unknown };
    let check = check::check(&nodes.engines, &nodes.applied, arguments.groups, told)?;
    bar.set_message("stopping");
    let stopped = nodes.stop();
    bar.finish_and_clear();

    let ok = check.ok;
    let report = RunReport::new(arguments, prepared, outcome, check, disk_probe, environment, warnings);
    report::deliver(&report, arguments.output.json.as_deref())?;
    stopped?;
    Ok(ok)
}

impl Prepared {
    /// Bytes in use, in whole segments, beyond which the load ends: before votes and followers lack the space to finish.
    fn used_bytes_max(self) -> u64 {
        let usable = self.segments.saturating_sub(space::SEGMENTS_RESERVED);
        let left = u32::try_from(SPACE_LEFT_BYTES.div_ceil(self.segment_bytes)).unwrap_or(u32::MAX);
        u64::from(usable - left.min(usable / 2)) * self.segment_bytes - self.segment_bytes
    }
}

/// How many segments each log gets.
fn plan_log(arguments: &RunArgs) -> Prepared {
    let segment_bytes = arguments.log.segment_mib << 20;
    let estimate = || {
        let log_bytes = space::log_bytes(
            arguments.clients,
            arguments.cores_per_node,
            arguments.payload,
            arguments.seconds() + arguments.warmup,
        );
        space::segments(log_bytes.min(live_bytes(arguments)), segment_bytes)
    };
    let segments = arguments.log.segments.unwrap_or_else(estimate).max(space::SEGMENTS_MIN);
    Prepared { segments, segment_bytes }
}

/// What of a soak's log is needed at any time: entries that no snapshot stands for, those that stay for slow followers, and as much
/// again for what dies in segments where other entries live. No bound for runs of seconds, which never give anything up.
fn live_bytes(arguments: &RunArgs) -> u64 {
    if !arguments.soak || arguments.snapshot_every == 0 {
        return u64::MAX;
    }
    let trailing = logdrive::api::SnapshotSettings::default().keep_trailing_entries;
    let entries = arguments.snapshot_every.saturating_mul(5) / 4 + trailing;
    let groups = arguments.groups.div_ceil(arguments.cores_per_node.into());
    let bytes = groups.saturating_mul(entries).saturating_mul(u64::from(arguments.payload) + ENTRY_BYTES);
    bytes.saturating_mul(2)
}

fn resource_warnings(cores: u32, cpus: usize, memlock_bytes: Option<u64>) -> Vec<String> {
    let mut warnings = Vec::new();
    if cores as usize > cpus {
        warnings.push(format!(
            "{} of nodes share {}: executors are not pinned, and nodes slow each other down as they would not on \
             machines of their own",
            plural(cores.into(), "core"),
            plural(cpus as u64, "CPU")
        ));
    }
    let wanted = u64::from(cores) * LOCKED_BYTES_PER_CORE;
    if let Some(limit) = memlock_bytes
        && limit < wanted
    {
        warnings.push(format!(
            "this process may lock {} of memory, {} executors want up to {}: buffers are not registered with io_uring \
             and writes cost more CPU; raise it with `ulimit -l {}`",
            bytes(limit as f64),
            cores,
            bytes(wanted as f64),
            wanted >> 10
        ));
    }
    warnings
}

/// Warm-up, measured time and drain.
struct Load<'a> {
    arguments: &'a RunArgs,
    nodes: &'a Nodes,
    control: &'a Control,
    bar: &'a ProgressBar,
    prepared: Prepared,
    path: &'a std::path::Path,
}

impl Load<'_> {
    fn run(&self) -> Result<Outcome> {
        self.control.set_phase(Phase::Load);
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        self.wait_until(clock::now_nanos() + nanos(self.arguments.warmup), "warming up", None)?;
        if self.control.is_outgrown() {
            bail!(
                "the logs were used up before the measurement began: prepare more with --segments, or shorten --warmup"
            );
        }
        let before = Sample::take(self.nodes);
        let begin = clock::now_nanos();
        let end = begin + nanos(self.arguments.seconds());
        self.control.set_window(begin, end);
        let mut soak = self.arguments.soak.then(|| Soak::new(self.path, begin));
        if soak.is_some() {
            self.say(&MinuteReport::heads());
        }
        self.wait_until(end, "measuring", soak.as_mut())?;
        let window = self.control.window();
        let after = Sample::take(self.nodes);
        self.control.set_phase(Phase::Drain);
        self.bar.set_message("waiting for the last answers");
        self.bar.tick();
        drain(self.control)?;
        let mut minutes = Vec::new();
        if let Some(mut soak) = soak {
            if let Some(line) = soak.finish(self.control, self.nodes) {
                self.say(&line);
            }
            minutes = soak.minutes;
        }
        let outcome = Outcome::new(window, &before, &after, self.control, self.nodes)?;
        Ok(Outcome { minutes, ..outcome })
    }

    /// A line for whoever watches; the report repeats it.
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Waits until then, or until a log is nearly used up; shows the rate.
    fn wait_until(&self, until: u64, what: &str, mut soak: Option<&mut Soak<'_>>) -> Result<()> {
        let start = clock::now_nanos();
        let first = self.control.acknowledged();
        let mut looked = start;
        loop {
            let now = clock::now_nanos();
            if let Some(failure) = self.control.failure() {
                bail!("{failure}");
            }
            if now.saturating_sub(looked) > SPACE_POLL.as_nanos() as u64 {
                looked = now;
                // A soak's log gives up what is old when it is nearly full, and not before.
                if !self.arguments.soak && self.nodes.log_used_max() > self.prepared.used_bytes_max() {
                    self.control.set_outgrown(now);
                }
            }
            if let Some(line) = soak.as_mut().and_then(|soak| soak.look(self.control, self.nodes)) {
                self.say(&line);
            }
            if now >= until || self.control.is_outgrown() {
                return Ok(());
            }
            let seconds = now.saturating_sub(start) as f64 / 1e9;
            if seconds > 0.2 {
                let rate = (self.control.acknowledged() - first) as f64 / seconds;
                let all = until.saturating_sub(start) as f64 / 1e9;
                let rate = count(rate);
                self.bar.set_message(format!("{what}, {seconds:.1} of {all:.1} s, {rate} committed/s"));
                self.bar.tick();
            }
            std::thread::sleep(POLL.min(Duration::from_nanos(until - now)));
        }
    }
}

/// Waits until the clients of all cores have their last answers.
fn drain(control: &Control) -> Result<()> {
    let start = clock::now_nanos();
    while control.result_count() < control.cores.len() {
        if let Some(failure) = control.failure() {
            bail!("{failure}");
        }
        if clock::since(start) > DRAIN_MAX {
            bail!(
                "{} were not answered within {} s after the load ended",
                plural(control.outstanding(), "proposal"),
                DRAIN_MAX.as_secs()
            );
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Counters at one moment.
struct Sample {
    at: u64,
    usage: Usage,
    log: LogCounts,
}

impl Sample {
    fn take(nodes: &Nodes) -> Sample {
        // The nodes are asked first, which takes a little while under load; the rest is read at one moment.
        let log = nodes.log_counts();
        Sample { at: clock::now_nanos(), usage: Usage::now(), log }
    }
}

impl Outcome {
    fn new(
        window: std::ops::Range<u64>,
        before: &Sample,
        after: &Sample,
        control: &Control,
        nodes: &Nodes,
    ) -> Result<Outcome> {
        let mut latencies = Latencies::new()?;
        let (mut acknowledged, mut refusals) = (0, Refusals::default());
        let mut per_second: Vec<u64> = Vec::new();
        for CoreResult { latencies: one, per_second: seconds, acknowledged: count, refusals: refused } in
            control.take_results()
        {
            latencies.add(&one);
            acknowledged += count;
            refusals.add(&refused);
            per_second.resize(per_second.len().max(seconds.len()), 0);
            for (sum, count) in per_second.iter_mut().zip(seconds) {
                *sum += count;
            }
        }
        let seconds = window.end.saturating_sub(window.start) as f64 / 1e9;
        // The last second is there only in part if the time is no whole number.
        per_second.truncate(seconds as usize);
        Ok(Outcome {
            seconds,
            sampled_seconds: (after.at - before.at) as f64 / 1e9,
            latencies,
            per_second,
            acknowledged,
            refusals,
            cpu: after.usage.since(&before.usage),
            log_writes: after.log.writes - before.log.writes,
            log_bytes: after.log.bytes - before.log.bytes,
            log_records: after.log.records - before.log.records,
            log_used_max: nodes.log_used_max(),
            outgrown: control.is_outgrown(),
            snapshots: nodes.snapshot_counts(),
            minutes: Vec::new(),
            prepare_seconds: 0.0,
            election_seconds: 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_ends_before_a_log_is_full() {
        let used = |segments, mib: u64| {
            let prepared = Prepared { segments, segment_bytes: mib << 20 };
            prepared.used_bytes_max() / prepared.segment_bytes
        };
        assert_eq!(used(48, 64), 42, "three of the reserve, two to be left, and the one that is written");
        assert_eq!(used(space::SEGMENTS_MIN, 64), 1);
        assert_eq!(used(space::SEGMENTS_MIN, 2), 1);
        assert_eq!(used(200, 2), 148);
    }

    #[test]
    fn scarce_cpus_and_locked_memory_are_said_aloud() {
        assert!(resource_warnings(3, 8, None).is_empty());
        assert!(resource_warnings(3, 8, Some(64 << 20)).is_empty());
        let all = resource_warnings(3, 2, Some(8 << 20)).join("\n");
        assert!(all.contains("3 cores") && all.contains("2 CPUs") && all.contains("ulimit -l"), "{all}");
    }
}
