//! A cluster under load: all nodes in this process, with real sockets and real logs, and clients on their executors.

mod check;
mod clients;
mod control;
mod nodes;
mod result;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;

use self::check::Told;
use self::control::{Control, CoreResult, Phase, Refusals};
use self::nodes::{LogCounts, Nodes, Prepared};
use self::result::{Outcome, RunReport};
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
/// After the load ends, every proposal is answered within this time.
const DRAIN_MAX: Duration = Duration::from_secs(30);
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

    let mut outcome = load(arguments, &nodes, &control, &bar)?;
    outcome.prepare_seconds = prepare_seconds;
    outcome.election_seconds = election_seconds;
    bar.set_message("comparing the nodes");
    bar.tick();
    let told = Told { acknowledged: outcome.acknowledged, unknown: outcome.refusals.unknown };
    let check = check::check(&nodes.engines, &nodes.applied, arguments.groups, told)?;
    bar.set_message("stopping");
    nodes.stop()?;
    bar.finish_and_clear();

    let ok = check.ok;
    let report = RunReport::new(arguments, prepared, outcome, check, disk_probe, environment, warnings);
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(ok)
}

/// How many segments each log gets.
fn plan_log(arguments: &RunArgs) -> Prepared {
    let segment_bytes = arguments.log.segment_mib << 20;
    let estimate = || {
        let log_bytes = space::log_bytes(
            arguments.clients,
            arguments.cores_per_node,
            arguments.payload,
            arguments.seconds + arguments.warmup,
        );
        space::segments(log_bytes, segment_bytes)
    };
    let segments = arguments.log.segments.unwrap_or_else(estimate).max(space::SEGMENTS_MIN);
    Prepared { segments, segment_bytes }
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
fn load(arguments: &RunArgs, nodes: &Nodes, control: &Control, bar: &ProgressBar) -> Result<Outcome> {
    control.set_phase(Phase::Load);
    let nanos = |seconds: f64| (seconds * 1e9) as u64;
    let warm = clock::now_nanos() + nanos(arguments.warmup);
    wait_until(warm, "warming up", control, bar)?;
    if control.is_out_of_space() {
        bail!(
            "the logs were full before the measurement began: prepare more with --segments, or shorten --warmup"
        );
    }
    let before = Sample::take(nodes);
    let begin = clock::now_nanos();
    control.set_window(begin, begin + nanos(arguments.seconds));
    wait_until(begin + nanos(arguments.seconds), "measuring", control, bar)?;
    let window = control.window();
    let after = Sample::take(nodes);
    control.set_phase(Phase::Drain);
    bar.set_message("waiting for the last answers");
    bar.tick();
    drain(control)?;
    Outcome::new(window, &before, &after, control, nodes)
}

/// Waits until then, or until the log is full; shows the rate.
fn wait_until(until: u64, what: &str, control: &Control, bar: &ProgressBar) -> Result<()> {
    let start = clock::now_nanos();
    let first = control.acknowledged();
    loop {
        let now = clock::now_nanos();
        if let Some(failure) = control.failure() {
            bail!("{failure}");
        }
        if now >= until || control.is_out_of_space() {
            return Ok(());
        }
        let seconds = now.saturating_sub(start) as f64 / 1e9;
        if seconds > 0.2 {
            let rate = (control.acknowledged() - first) as f64 / seconds;
            let all = until.saturating_sub(start) as f64 / 1e9;
            bar.set_message(format!("{what}, {seconds:.1} of {all:.1} s, {} committed/s", count(rate)));
            bar.tick();
        }
        std::thread::sleep(POLL.min(Duration::from_nanos(until - now)));
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
            out_of_space: control.is_out_of_space(),
            prepare_seconds: 0.0,
            election_seconds: 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarce_cpus_and_locked_memory_are_said_aloud() {
        assert!(resource_warnings(3, 8, None).is_empty());
        assert!(resource_warnings(3, 8, Some(64 << 20)).is_empty());
        let all = resource_warnings(3, 2, Some(8 << 20)).join("\n");
        assert!(all.contains("3 cores") && all.contains("2 CPUs") && all.contains("ulimit -l"), "{all}");
    }
}
