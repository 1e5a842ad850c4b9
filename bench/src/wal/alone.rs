//! The log alone: one thread appends single entries to many streams, each durable before it counts.

use std::path::Path;

use anyhow::{Context, Result};
use logdrive_wal::{EntryHeader, Options, Recovery, StreamId};
use serde::Serialize;

use super::driver::{Driver, Load, Nothing};
use super::{open, options};
use crate::cli::WalAloneArgs;
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, plural};
use crate::latency::LatencySummary;
use crate::progress;
use crate::report::{self, CheckReport, FORMAT, LogReport, ProbeReport, Report};
use crate::space;
use crate::usage::CpuUse;

/// Segments unless the user says otherwise. They are recycled, so that a few are enough however long the run is.
const SEGMENTS: u32 = 16;

#[derive(Debug, Serialize)]
struct WalReport {
    benchmark: &'static str,
    format: u32,
    groups: u64,
    payload_bytes: u32,
    in_flight: u32,
    seconds: f64,
    warmup_seconds: f64,
    seed: u64,
    appends_per_s: f64,
    /// Payload of the appends.
    bytes_per_s: f64,
    latency_us: LatencySummary,
    cpu_seconds_per_million: f64,
    cpu: CpuUse,
    log: LogReport,
    segments_recycled: u64,
    check: CheckReport,
    disk_probe: Vec<ProbeReport>,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for WalReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench wal-alone: one log, {}, {} of {} each in flight, {:.1} s after {:.1} s of warm-up",
            plural(self.groups, "stream"),
            plural(self.in_flight.into(), "append"),
            bytes(self.payload_bytes.into()),
            self.seconds,
            self.warmup_seconds
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let rate = format!("{}/s, {}/s of payload", count(self.appends_per_s), bytes(self.bytes_per_s));
        let mut rows = vec![("appends", rate), ("latency", report::latency_row(&self.latency_us))];
        rows.extend(report::cpu_rows(&self.cpu, self.cpu_seconds_per_million));
        rows.extend(report::log_rows(&self.log, 1));
        rows.push(("recycled", plural(self.segments_recycled, "segment")));
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
        vec![
            "an append counts when it and everything before it is durable; latency runs from handing it to the log \
             until then (clock read once before each round of appends and once after each wait)"
                .to_owned(),
            "closed loop: an append that takes long delays the next one, so a stall shows once per append in flight, \
             not once per append that would have come meanwhile (coordinated omission)"
                .to_owned(),
            "streams are chosen at random; streams are compacted in turn, so that segments are recycled".to_owned(),
        ]
    }
}

/// `logdrive-bench wal-alone`. False if the log did not hold what it acknowledged.
pub(crate) fn run(arguments: &WalAloneArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let segments = arguments.log.segments.unwrap_or(SEGMENTS).max(space::SEGMENTS_MIN);
    let segment_bytes = arguments.log.segment_mib << 20;
    space::check(directory.path(), u64::from(segments) * segment_bytes, "--segments or --segment-mib")?;
    let (disk_probe, log_disk) = disk_probe::brief(directory.path(), !arguments.no_probe)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let path = directory.path().join("wal");
    std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let options = options(&arguments.log, segments);

    let bar = progress::spinner("wal");
    bar.set_message(format!("preparing {segments} segments of {}", bytes(segment_bytes as f64)));
    let start = clock::now_nanos();
    let wal = open(&path, &options, &mut Nothing)?;
    let prepare_seconds = clock::since(start).as_secs_f64();
    let mut driver = Driver::new(wal, arguments.seed);
    let load = Load { streams: arguments.groups, payload: arguments.payload, in_flight: arguments.in_flight };
    driver.set_load(load, arguments.seed)?;
    let measured = driver.closed_loop(arguments.warmup, arguments.seconds, &mut |seconds, appends| {
        let rate = count(appends as f64 / seconds.max(1e-3));
        bar.set_message(format!("{seconds:.1} of {} s, {rate} appends/s", arguments.seconds));
        bar.tick();
    })?;
    let used_bytes = driver.wal.space().used_bytes;
    let refusals = driver.refusals();
    bar.set_message("reading the log back");
    let check = close_and_check(driver, &path, &options)?;
    bar.finish_and_clear();

    let mut log = LogReport::from_counts(
        measured.writes.writes,
        measured.writes.write_bytes,
        measured.writes.records,
        measured.seconds,
    );
    log.writes_in_flight = options.writes_in_flight;
    log.segment_bytes = segment_bytes;
    log.prepared_segments = u64::from(segments);
    log.prepare_seconds = prepare_seconds;
    log.used_bytes_max = used_bytes;
    let appends = measured.latencies.count() as f64;
    let mut warnings = environment.warnings();
    warnings.extend(refusals);
    warnings.extend(report::machine_warnings(&measured.cpu));
    let ok = check.ok;
    let report = WalReport {
        benchmark: "wal-alone",
        format: FORMAT,
        groups: arguments.groups,
        payload_bytes: arguments.payload,
        in_flight: arguments.in_flight,
        seconds: measured.seconds,
        warmup_seconds: arguments.warmup,
        seed: arguments.seed,
        appends_per_s: appends / measured.seconds,
        bytes_per_s: appends * f64::from(arguments.payload) / measured.seconds,
        latency_us: measured.latencies.summary(),
        cpu_seconds_per_million: measured.cpu.seconds() / appends.max(1.0) * 1e6,
        cpu: measured.cpu,
        log,
        segments_recycled: measured.writes.segments_recycled,
        check,
        disk_probe,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(ok)
}

/// What a reopened log holds, by stream.
struct Found {
    last: Vec<u64>,
    entries: u64,
}

impl Found {
    fn reach(&mut self, stream: StreamId, index: u64) {
        if let Some(last) = self.last.get_mut(stream.0 as usize) {
            *last = (*last).max(index);
        }
    }
}

impl Recovery for Found {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, _: &[u8]) {
        self.entries += 1;
        self.reach(stream, header.index);
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, stream: StreamId, index: u64) {
        self.reach(stream, index);
    }
}

/// Closes the log, opens it again and looks whether every stream reaches as far as was acknowledged.
fn close_and_check(driver: Driver, path: &Path, options: &Options) -> Result<CheckReport> {
    let Driver { wal, streams, acknowledged, .. } = driver;
    wal.close(clock::now_nanos()).context("cannot close the log")?;
    let mut found = Found { last: vec![0; streams.len()], entries: 0 };
    // Nothing needs to be prepared for reading.
    let options = Options { segments_ahead: 1, budget_bytes: 0, ..options.clone() };
    let start = clock::now_nanos();
    let wal = open(path, &options, &mut found)?;
    let seconds = clock::since(start).as_secs_f64();
    wal.close(clock::now_nanos()).context("cannot close the log again")?;
    let wrong = streams.iter().zip(&found.last).filter(|(stream, found)| stream.last != **found).count();
    let ok = wrong == 0;
    let message = if ok {
        format!(
            "read back in {seconds:.1} s: every stream ends at its last acknowledged append ({} of {} \
             not compacted)",
            count(found.entries as f64),
            plural(acknowledged, "append")
        )
    } else {
        format!("{} end elsewhere than at their last acknowledged append", plural(wrong as u64, "stream"))
    };
    Ok(CheckReport { ok, message, acknowledged, found: vec![found.last.iter().sum()] })
}
