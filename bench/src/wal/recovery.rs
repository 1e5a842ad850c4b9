//! How long a log takes to open: how fast it is read, checked and indexed, and the memory that takes.

use anyhow::{Context, Result};
use logdrive_wal::{EntryHeader, Recovery, StreamId};
use serde::Serialize;

use super::compare::median;
use super::driver::{Driver, Load, Nothing};
use super::{open, options};
use crate::cli::{LogArgs, WalRecoveryArgs};
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, plural};
use crate::progress;
use crate::report::{self, CheckReport, FORMAT, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

const SEGMENT_MIB: u64 = 64;
/// Segments that are not filled: the reserve, and room for opening.
const SEGMENTS_SPARE: u32 = 8;
/// Appends in flight while the log is filled.
const FILL_IN_FLIGHT: u32 = 4096;

#[derive(Debug, Serialize)]
struct RecoveryReport {
    benchmark: &'static str,
    format: u32,
    log_bytes: u64,
    streams: u64,
    payload_bytes: u32,
    rounds: u32,
    seconds: f64,
    /// Of the files, as far as they are filled.
    bytes_per_s: f64,
    entries_per_s: f64,
    /// Memory of the index, per entry.
    index_bytes_per_entry: f64,
    progress_reports: u64,
    check: CheckReport,
    cpu: CpuUse,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for RecoveryReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench wal-recovery: opening a log of {}, {}, entries of {}",
            bytes(self.log_bytes as f64),
            plural(self.streams, "stream"),
            bytes(self.payload_bytes.into())
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            (
                "opened",
                format!(
                    "in {:.2} s (median of {}): {}/s, {} entries/s",
                    self.seconds,
                    self.rounds,
                    bytes(self.bytes_per_s),
                    count(self.entries_per_s)
                ),
            ),
            ("index", format!("{:.1} bytes per entry", self.index_bytes_per_entry)),
            ("progress", format!("reported {} times", self.progress_reports)),
        ];
        let gigabytes = self.log_bytes as f64 / 1e9;
        let per_gigabyte = self.cpu.seconds() / f64::from(self.rounds) / gigabytes.max(1e-9);
        rows.push(("cpu", format!("{per_gigabyte:.2} s per GB")));
        rows.extend(report::machine_rows(&self.cpu));
        rows.push(report::check_row(&self.check));
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
            "the owner takes the entries and keeps nothing of them; files are read with O_DIRECT, so nothing comes from \
             the page cache"
                .to_owned(),
            "the time is that of the whole open: reading, checking, indexing, flushing, and the first fresh segment"
                .to_owned(),
        ]
    }
}

/// Counts, as an owner that has nothing to do.
#[derive(Default)]
struct Count {
    entries: u64,
    lasts: Vec<u64>,
    reports: u64,
}

impl Recovery for Count {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, _: &[u8]) {
        self.entries += 1;
        if let Some(last) = self.lasts.get_mut(stream.0 as usize) {
            *last = header.index;
        }
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
    fn progress(&mut self, _: u64, _: u64) {
        self.reports += 1;
    }
}

/// `logdrive-bench wal-recovery`. False if an acknowledged entry was not recovered.
pub(crate) fn run(arguments: &WalRecoveryArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let wanted = (arguments.gib * (1u64 << 30) as f64) as u64;
    let segments = (wanted / (SEGMENT_MIB << 20)) as u32 + SEGMENTS_SPARE;
    space::check(directory.path(), u64::from(segments) * (SEGMENT_MIB << 20), "--gib")?;
    let (_, log_disk) = disk_probe::brief(directory.path(), false)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let path = directory.path().join("wal");
    std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let log = LogArgs {
        writes_in_flight: 4,
        batch_bytes: 256 << 10,
        batch_bytes_min: 0,
        segment_mib: SEGMENT_MIB,
        segments: Some(segments),
    };
    let mut settings = options(&log, segments);
    settings.segments_ahead = 2;
    let bar = progress::spinner("wal-recovery");
    bar.set_message(format!("writing {}", bytes(wanted as f64)));
    let mut driver = Driver::new(open(&path, &settings, &mut Nothing)?, arguments.seed);
    let load = Load { streams: arguments.groups, payload: arguments.payload, in_flight: FILL_IN_FLIGHT };
    driver.set_load(load, arguments.seed)?;
    let written = driver.fill(wanted, &mut |done| {
        bar.set_message(format!("wrote {} of {}", bytes(done as f64), bytes(wanted as f64)));
        bar.tick();
    })?;
    let lasts: Vec<u64> = driver.streams.iter().map(|stream| stream.last).collect();
    let acknowledged = driver.acknowledged;
    driver.close()?;

    let usage = Usage::now();
    let (mut seconds, mut wrong, mut count, mut index_bytes) = (Vec::new(), 0, Count::default(), 0);
    for round in 0..arguments.rounds {
        bar.set_message(format!("opening, round {}", round + 1));
        bar.tick();
        count = Count { lasts: vec![0; lasts.len()], ..Count::default() };
        let start = clock::now_nanos();
        let wal = open(&path, &settings, &mut count)?;
        seconds.push(clock::since(start).as_secs_f64());
        index_bytes = wal.index_bytes();
        wal.close(clock::now_nanos()).context("cannot close the log")?;
        wrong += count.lasts.iter().zip(&lasts).filter(|(found, last)| found != last).count();
        wrong += usize::from(count.entries != acknowledged);
    }
    let cpu = Usage::now().since(&usage);
    bar.finish_and_clear();
    let seconds = median(seconds);
    let mut warnings = environment.warnings();
    warnings.extend(report::machine_warnings(&cpu));
    let message =
        format!("{} of {acknowledged} entries recovered, {wrong} streams or rounds differ", count.entries);
    let report = RecoveryReport {
        benchmark: "wal-recovery",
        format: FORMAT,
        log_bytes: written,
        streams: arguments.groups,
        payload_bytes: arguments.payload,
        rounds: arguments.rounds,
        seconds,
        bytes_per_s: written as f64 / seconds,
        entries_per_s: count.entries as f64 / seconds,
        index_bytes_per_entry: index_bytes as f64 / (count.entries as f64).max(1.0),
        progress_reports: count.reports,
        check: CheckReport { ok: wrong == 0, message, acknowledged, found: vec![count.entries] },
        cpu,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(wrong == 0)
}
