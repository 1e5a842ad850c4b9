//! The report of a run.

use serde::Serialize;

use super::control::Refusals;
use super::nodes::{Prepared, SnapshotCounts, pin_from};
use super::soak::MinuteReport;
use crate::cli::{MachineKind, RunArgs};
use crate::environment::Environment;
use crate::format::{bytes, count, plural};
use crate::latency::{Latencies, LatencySummary};
use crate::report::{self, CheckReport, FORMAT, LogReport, ProbeReport, Report};
use crate::usage::CpuUse;

/// Refused proposals, of all, above which the figures are doubtful.
const REFUSED_SHARE_MAX: f64 = 0.01;
/// Rates of single seconds further apart than this share of the mean are worth a warning.
const SPREAD_SHARE_MAX: f64 = 0.2;

/// What a run came to.
pub(super) struct Outcome {
    /// The measured time.
    pub(super) seconds: f64,
    /// Between the two samples of counters, which enclose the measured time.
    pub(super) sampled_seconds: f64,
    pub(super) latencies: Latencies,
    pub(super) per_second: Vec<u64>,
    /// In the whole run.
    pub(super) acknowledged: u64,
    pub(super) refusals: Refusals,
    pub(super) cpu: CpuUse,
    pub(super) log_writes: u64,
    pub(super) log_bytes: u64,
    pub(super) log_records: u64,
    pub(super) log_used_max: u64,
    pub(super) outgrown: bool,
    pub(super) snapshots: SnapshotCounts,
    /// Of a soak.
    pub(super) minutes: Vec<MinuteReport>,
    pub(super) prepare_seconds: f64,
    pub(super) election_seconds: f64,
}

#[derive(Debug, Serialize)]
struct RunSettings {
    nodes: u32,
    cores_per_node: u16,
    groups: u64,
    payload_bytes: u32,
    clients: u32,
    seconds: f64,
    warmup_seconds: f64,
    seed: u64,
    machine: MachineKind,
    /// Entries of a group; 0: no snapshots because of entries or bytes.
    snapshot_every: u64,
    pinned: bool,
    spin_us: u64,
    batch_bytes_max: u32,
    batch_bytes_min: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct RunReport {
    benchmark: &'static str,
    format: u32,
    settings: RunSettings,
    /// Proposals committed, applied and answered in the measured time, per second.
    committed_per_s: f64,
    committed: u64,
    measured_seconds: f64,
    /// In each whole second of the measured time.
    committed_each_second: Vec<u64>,
    latency_us: LatencySummary,
    /// User and system time of the whole process: nodes and clients.
    cpu_seconds_per_million: f64,
    cpu: CpuUse,
    log: LogReport,
    /// In the whole run.
    refused: Refusals,
    /// In the whole run, of all nodes.
    snapshots: SnapshotCounts,
    /// Of a soak.
    minutes: Vec<MinuteReport>,
    election_seconds: f64,
    memory_peak_bytes: u64,
    check: CheckReport,
    disk_probe: Vec<ProbeReport>,
    environment: Environment,
    warnings: Vec<String>,
}

impl RunReport {
    pub(super) fn new(
        arguments: &RunArgs,
        prepared: Prepared,
        outcome: Outcome,
        check: CheckReport,
        disk_probe: Vec<ProbeReport>,
        environment: Environment,
        mut warnings: Vec<String>,
    ) -> RunReport {
        let committed = outcome.latencies.count();
        let rate = if outcome.seconds > 0.0 { committed as f64 / outcome.seconds } else { 0.0 };
        // Counters are sampled around the measured time: what they grew by is set in relation to what was committed between
        // the samples, at the measured rate.
        let millions = rate * outcome.sampled_seconds / 1e6;
        let per_million = if millions > 0.0 { outcome.cpu.seconds() / millions } else { 0.0 };
        let mut log = LogReport::from_counts(
            outcome.log_writes,
            outcome.log_bytes,
            outcome.log_records,
            outcome.sampled_seconds,
        );
        log.writes_in_flight = arguments.log.writes_in_flight;
        log.segment_bytes = prepared.segment_bytes;
        log.prepared_segments = prepared.segments.into();
        log.prepare_seconds = outcome.prepare_seconds;
        log.used_bytes_max = outcome.log_used_max;
        log.outgrown = outcome.outgrown;
        warnings.extend(doubts(arguments, prepared, &outcome, committed));
        RunReport {
            benchmark: "run",
            format: FORMAT,
            settings: settings(arguments),
            committed_per_s: rate,
            committed,
            measured_seconds: outcome.seconds,
            committed_each_second: outcome.per_second,
            latency_us: outcome.latencies.summary(),
            cpu_seconds_per_million: per_million,
            cpu: outcome.cpu,
            log,
            refused: outcome.refusals,
            snapshots: outcome.snapshots,
            minutes: outcome.minutes,
            election_seconds: outcome.election_seconds,
            memory_peak_bytes: crate::environment::memory_peak_bytes(),
            check,
            disk_probe,
            environment,
            warnings,
        }
    }
}

fn settings(arguments: &RunArgs) -> RunSettings {
    RunSettings {
        nodes: arguments.nodes,
        cores_per_node: arguments.cores_per_node,
        groups: arguments.groups,
        payload_bytes: arguments.payload,
        clients: arguments.clients,
        seconds: arguments.seconds(),
        warmup_seconds: arguments.warmup,
        seed: arguments.seed,
        machine: arguments.machine,
        snapshot_every: arguments.snapshot_every,
        pinned: pin_from(arguments, 0).is_some(),
        spin_us: arguments.spin_us,
        batch_bytes_max: arguments.log.batch_bytes,
        batch_bytes_min: arguments.log.batch_bytes_min,
    }
}

/// What in the outcome itself makes the figures doubtful.
fn doubts(arguments: &RunArgs, prepared: Prepared, outcome: &Outcome, committed: u64) -> Vec<String> {
    let mut warnings = report::machine_warnings(&outcome.cpu);
    if outcome.outgrown {
        let share = (outcome.seconds + arguments.warmup) / (arguments.seconds() + arguments.warmup);
        let needed = f64::from(prepared.segments) / share.max(0.01) * 1.1;
        warnings.push(format!(
            "the run outgrew its logs: they were nearly full after {:.1} s, and the figures are of that time only; repeat \
             it with --segments {needed:.0}",
            outcome.seconds
        ));
    }
    if committed == 0 {
        warnings.push("nothing was committed in the measured time".to_owned());
    }
    let refused = outcome.refusals.busy + outcome.refusals.not_leader + outcome.refusals.unknown;
    if refused as f64 > REFUSED_SHARE_MAX * outcome.acknowledged as f64 {
        warnings.push(format!(
            "{} of the proposals were refused or have an unknown outcome, {} acknowledged: the nodes were over their \
             limits or leaders changed",
            count(refused as f64),
            count(outcome.acknowledged as f64)
        ));
    }
    if let (Some(&low), Some(&high)) = (outcome.per_second.iter().min(), outcome.per_second.iter().max()) {
        let mean = outcome.per_second.iter().sum::<u64>() as f64 / outcome.per_second.len() as f64;
        if (high - low) as f64 > SPREAD_SHARE_MAX * mean {
            warnings.push(format!(
                "the rate was not steady: between {} and {} in single seconds; run longer, several times, and look at \
                 the median",
                count(low as f64),
                count(high as f64)
            ));
        }
    }
    warnings
}

impl RunReport {
    fn snapshots_row(&self) -> String {
        let (every, s) = (self.settings.snapshot_every, &self.snapshots);
        let when = match every {
            0 => "only where a log grew too long".to_owned(),
            every => format!("every {} entries of a group", count(every as f64)),
        };
        format!(
            "{when}: {} written, {} failed (whole run, all nodes), {} there with {}",
            count(s.written as f64),
            count(s.failed as f64),
            count(s.files as f64),
            bytes(s.bytes as f64)
        )
    }
}

impl Report for RunReport {
    fn title(&self) -> String {
        let s = &self.settings;
        format!(
            "logdrive-bench run: {} of {}, {}, {} with one proposal of {} in flight each, {:.1} s after {:.1} s of \
             warm-up",
            plural(s.nodes.into(), "node"),
            plural(s.cores_per_node.into(), "core"),
            plural(s.groups, "group"),
            plural(s.clients.into(), "client"),
            bytes(s.payload_bytes.into()),
            self.measured_seconds,
            s.warmup_seconds
        )
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut committed = format!("{}/s", count(self.committed_per_s));
        let each = &self.committed_each_second;
        if let (Some(&low), Some(&high)) = (each.iter().min(), each.iter().max()) {
            committed.push_str(&format!(
                "  (in single seconds {} to {})",
                count(low as f64),
                count(high as f64)
            ));
        }
        let logs = u64::from(self.settings.nodes) * u64::from(self.settings.cores_per_node);
        let mut rows = vec![("committed", committed), ("latency", report::latency_row(&self.latency_us))];
        rows.extend(report::cpu_rows(&self.cpu, self.cpu_seconds_per_million));
        rows.push(("memory", format!("{} at most", bytes(self.memory_peak_bytes as f64))));
        rows.extend(report::log_rows(&self.log, logs));
        let r = &self.refused;
        rows.push((
            "refused",
            format!(
                "{} busy, {} not leader, {} unknown outcome, {} out of space (whole run)",
                count(r.busy as f64),
                count(r.not_leader as f64),
                count(r.unknown as f64),
                count(r.out_of_space as f64)
            ),
        ));
        rows.push(("snapshots", self.snapshots_row()));
        if !self.minutes.is_empty() {
            rows.push(("minutes", MinuteReport::heads()));
            rows.extend(self.minutes.iter().map(|minute| ("", minute.line())));
        }
        rows.push(report::check_row(&self.check));
        rows.extend(report::probe_rows(&self.disk_probe));
        rows
    }

    fn environment(&self) -> &Environment {
        &self.environment
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn notes(&self) -> Vec<String> {
        let pinned = if self.settings.pinned { "pinned, each to a CPU of its own" } else { "not pinned" };
        let machine = match self.settings.machine {
            MachineKind::Digest => {
                "the state machine folds every entry into a checksum of its group".to_owned()
            }
            MachineKind::Kv => format!(
                "the state machine is the key-value machine; every proposal sets one of {} keys of its group",
                crate::machine::KEYS_PER_GROUP
            ),
        };
        vec![
            "committed: durable in the logs of a majority, applied by the leader, and the answer seen by the client"
                .to_owned(),
            "all nodes are in this process and talk TCP over loopback, each has logs of its own on the same disk; \
             executors are "
                .to_owned()
                + pinned,
            "clients run on the nodes' executors and cost CPU there; each client sends to groups led by the node it is \
             attached to, at random, payloads do not compress"
                .to_owned(),
            "closed loop: a client waits for its answer before it proposes again, so a stall shows once per client, \
             not once per proposal that would have come meanwhile (coordinated omission)"
                .to_owned(),
            "latency: from handing over the proposal to seeing the answer; the clock is read once per turn's answers, \
             before new proposals are sent; a proposal that is sent again after a refusal counts from the first time"
                .to_owned(),
            "cpu: user and system time of the whole process, nodes and clients; kernel threads are not in it"
                .to_owned(),
            machine,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::environment::LogDisk;
    use clap::Parser;

    fn report(outgrown: bool, per_second: Vec<u64>) -> RunReport {
        let Command::Run(arguments) = Cli::parse_from(["logdrive-bench", "run"]).command else {
            panic!("not run")
        };
        let mut latencies = Latencies::new().unwrap();
        (1..=1_000_000u64).for_each(|n| latencies.record(n * 1_000));
        let outcome = Outcome {
            seconds: 2.0,
            sampled_seconds: 2.5,
            latencies,
            per_second,
            acknowledged: 2_000_000,
            refusals: Refusals::default(),
            cpu: CpuUse { user_seconds: 2.0, system_seconds: 0.5, machine: None },
            log_writes: 1_000,
            log_bytes: 16_000_000,
            log_records: 3_000_000,
            log_used_max: 1 << 30,
            outgrown,
            snapshots: SnapshotCounts::default(),
            minutes: Vec::new(),
            prepare_seconds: 1.5,
            election_seconds: 0.5,
        };
        let prepared = Prepared { segments: 48, segment_bytes: 64 << 20 };
        let check = CheckReport { ok: true, message: "fine".to_owned(), acknowledged: 1, found: vec![1] };
        let log_disk = LogDisk { o_direct: true, durable: true, description: "disk".to_owned() };
        let environment = Environment::collect(std::path::Path::new("."), &log_disk);
        RunReport::new(&arguments, prepared, outcome, check, Vec::new(), environment, Vec::new())
    }

    #[test]
    fn rates_use_the_time_they_were_counted_in() {
        let report = report(false, vec![500_000, 500_000]);
        assert_eq!(report.committed_per_s, 500_000.0);
        // 2.5 CPU seconds in 2.5 s at half a million a second.
        assert_eq!(report.cpu_seconds_per_million, 2.0);
        assert_eq!(report.log.durable_writes_per_s, 400.0);
        assert_eq!(report.log.mean_batch_bytes, 16_000.0);
        assert!(!report.warnings.iter().any(|w| w.contains("outgrew") || w.contains("steady")));
    }

    #[test]
    fn a_run_that_outgrew_its_log_says_how_to_repeat_it() {
        let report = report(true, vec![100, 200]);
        let all = report.warnings.join("\n");
        // 5 of 13 seconds took 48 segments.
        assert!(all.contains("--segments 137"), "{all}");
        assert!(all.contains("not steady"), "{all}");
        assert!(report.log.outgrown);
    }

    #[test]
    fn the_json_has_the_promised_fields_and_the_table_the_promised_words() {
        let report = report(false, vec![500_000]);
        let json = serde_json::to_value(&report).unwrap();
        for field in ["committed_per_s", "cpu_seconds_per_million", "measured_seconds", "memory_peak_bytes"] {
            assert!(json[field].is_number(), "{field}");
        }
        for field in ["p50", "p90", "p99", "p999", "max"] {
            assert!(json["latency_us"][field].is_number(), "{field}");
        }
        for field in ["durable_writes_per_s", "mean_batch_bytes", "bytes_per_s"] {
            assert!(json["log"][field].is_number(), "{field}");
        }
        for field in
            ["kernel", "cores", "disk", "file_system", "o_direct", "durable", "commit", "command_line"]
        {
            assert!(!json["environment"][field].is_null(), "{field}");
        }
        let mut table = Vec::new();
        crate::report::print(&report, &mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        for words in [
            "closed loop",
            "coordinated omission",
            "groups led by the node it is attached to",
            "500,000/s",
            "prepared",
            "commit ",
        ] {
            assert!(table.contains(words), "{words} is not in\n{table}");
        }
    }
}
