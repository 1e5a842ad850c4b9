//! A soak: a few hot streams write many times the log's budget, a thousand cold ones hold the oldest segments all the while. How
//! much disk does it take, and what does reclaim cost the writers? The same load runs in a log with so much budget that nothing is
//! ever reclaimed, for comparison.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logdrive_wal::{
    AppendError, EntryHeader, Health, Options, Recovery, RingDisk, StreamId, StreamSlot, Ticket, Wal,
};
use serde::Serialize;

use super::driver::Nothing;
use super::open;
use crate::cli::WalSoakArgs;
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, micros, plural};
use crate::latency::{Latencies, LatencySummary};
use crate::progress;
use crate::report::{self, FORMAT, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// Entries that a hot stream keeps when it is compacted, and appends between two compactions of it.
const KEPT: u64 = 64;
/// Bytes written between two looks at the files on the disk.
const LOOK_BYTES: u64 = 8 << 20;
/// The budget of the run without reclaim, as a multiple of what is written: less than half of it is ever used.
const WITHOUT_FACTOR: f64 = 2.6;
/// How long a writer that was refused waits if the log does nothing meanwhile.
const REFUSED_WAIT: Duration = Duration::from_millis(1);

/// One of the two runs.
#[derive(Clone, Debug, Default, Serialize)]
struct Run {
    seconds: f64,
    written_bytes: u64,
    appends_per_s: f64,
    latency_us: LatencySummary,
    /// Bytes of all segment files, at most, as listed from the directory.
    disk_bytes_max: u64,
    refused: u64,
    asked: u64,
    rewrites: u64,
    rewritten_bytes: u64,
    segments_recycled: u64,
}

#[derive(Debug, Serialize)]
struct SoakReport {
    benchmark: &'static str,
    format: u32,
    budget_bytes: u64,
    segment_bytes: u64,
    budgets: f64,
    hot: u64,
    cold: u64,
    cold_entries: u64,
    payload_bytes: u32,
    in_flight: u32,
    with: Run,
    without: Run,
    p99_ratio: f64,
    ok: bool,
    message: String,
    cpu: CpuUse,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for SoakReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench wal-soak: {} hot and {} cold streams, {} x the budget of {} in entries of {}, {} in flight",
            self.hot,
            count(self.cold as f64),
            self.budgets,
            bytes(self.budget_bytes as f64),
            bytes(self.payload_bytes.into()),
            self.in_flight
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let rate = |run: &Run| {
            format!(
                "{} in {:.1} s, {}/s; p50 {}, p99 {}, max {}",
                bytes(run.written_bytes as f64),
                run.seconds,
                count(run.appends_per_s),
                micros(run.latency_us.p50),
                micros(run.latency_us.p99),
                micros(run.latency_us.max)
            )
        };
        let disk = format!(
            "{} at most, the budget is {}; {} recycled",
            bytes(self.with.disk_bytes_max as f64),
            bytes(self.budget_bytes as f64),
            plural(self.with.segments_recycled, "segment")
        );
        let moved = format!(
            "{} of cold streams, {} in all; owners were asked {} times; {} refused",
            plural(self.with.rewrites, "rewrite"),
            bytes(self.with.rewritten_bytes as f64),
            count(self.with.asked as f64),
            plural(self.with.refused, "append")
        );
        let mut rows = vec![
            ("with reclaim", rate(&self.with)),
            ("without", rate(&self.without)),
            ("p99", format!("{:.2} x that without reclaim", self.p99_ratio)),
            ("disk", disk),
            ("reclaim", moved),
            ("check", self.message.clone()),
        ];
        rows.extend(report::machine_rows(&self.cpu));
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
            format!(
                "cold streams have {} entries each, written first and never again, and are never compacted; a hot stream \
                 keeps its last {KEPT} to {} entries",
                self.cold_entries,
                2 * KEPT
            ),
            "closed loop; an append counts when it is durable; of one that was refused, the latency runs from the first try"
                .to_owned(),
            "without: the same load in a log whose budget is never half used; all its segments were zeroed before".to_owned(),
        ]
    }
}

/// `logdrive-bench wal-soak`. False if the log did not hold what it acknowledged.
pub(crate) fn run(arguments: &WalSoakArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let (segment_bytes, budget_bytes) = (arguments.segment_mib << 20, arguments.budget_mib << 20);
    let total = (budget_bytes as f64 * arguments.budgets) as u64;
    let written = (total + 2 * budget_bytes) as f64;
    let zeroed = written as u64 * 5 / 4;
    space::check(directory.path(), zeroed, "--budgets or --budget-mib")?;
    let (_, log_disk) = disk_probe::brief(directory.path(), false)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let bar = progress::spinner("wal-soak");
    let usage = Usage::now();
    let (with, found) = {
        let options = Options { segment_bytes, budget_bytes, ..Options::default() };
        measure(arguments, &directory.path().join("with"), &options, total, &mut |done| {
            bar.set_message(format!("with reclaim: {} of {}", bytes(done as f64), bytes(total as f64)));
            bar.tick();
        })?
    };
    let (without, _) = {
        let options = Options {
            segment_bytes,
            budget_bytes: (written * WITHOUT_FACTOR) as u64,
            segments_ahead: u32::try_from(zeroed / segment_bytes).unwrap_or(u32::MAX),
            ..Options::default()
        };
        measure(arguments, &directory.path().join("without"), &options, total, &mut |done| {
            bar.set_message(format!("without: {} of {}", bytes(done as f64), bytes(total as f64)));
            bar.tick();
        })?
    };
    let cpu = Usage::now().since(&usage);
    bar.finish_and_clear();
    let p99_ratio = with.latency_us.p99 / without.latency_us.p99.max(1.0);
    let mut warnings = environment.warnings();
    warnings.extend(report::machine_warnings(&cpu));
    warnings.extend(misses(&with, &without, budget_bytes, p99_ratio));
    let report = SoakReport {
        benchmark: "wal-soak",
        format: FORMAT,
        budget_bytes,
        segment_bytes,
        budgets: arguments.budgets,
        hot: arguments.hot,
        cold: arguments.cold,
        cold_entries: arguments.cold_entries,
        payload_bytes: arguments.payload,
        in_flight: arguments.in_flight,
        with,
        without,
        p99_ratio,
        ok: found.ok,
        message: found.message,
        cpu,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(report.ok)
}

/// What was wanted and is not so.
fn misses(with: &Run, without: &Run, budget_bytes: u64, p99_ratio: f64) -> Vec<String> {
    let mut misses = Vec::new();
    if with.disk_bytes_max > budget_bytes {
        misses.push(format!("the disk use of {} passed the budget", bytes(with.disk_bytes_max as f64)));
    }
    if p99_ratio > 2.0 {
        misses.push(format!("p99 with reclaim is {p99_ratio:.2} x that without: 2 is wanted"));
    }
    if without.segments_recycled > 0 {
        misses.push("the run without reclaim recycled segments: it is no comparison".to_owned());
    }
    misses
}

struct Checked {
    ok: bool,
    message: String,
}

/// One run: cold streams first, then a budget's worth of load that does not count, then the rest.
fn measure(
    arguments: &WalSoakArgs,
    path: &Path,
    options: &Options,
    total: u64,
    shown: &mut dyn FnMut(u64),
) -> Result<(Run, Checked)> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut soak = Soak::new(open(path, options, &mut Nothing)?, path, arguments);
    soak.write_cold()?;
    soak.load(arguments.budget_mib << 20, &mut |_| (), &mut |_| ())?;
    let mut latencies = Latencies::new()?;
    let (before, begin) = (soak.wal.stats(), clock::now_nanos());
    (soak.refused, soak.asked) = (0, 0);
    soak.load(total, &mut |nanos| latencies.record(nanos), shown)?;
    let seconds = clock::since(begin).as_secs_f64();
    let after = soak.wal.stats();
    let run = Run {
        seconds,
        written_bytes: after.write_bytes - before.write_bytes,
        appends_per_s: latencies.count() as f64 / seconds,
        latency_us: latencies.summary(),
        disk_bytes_max: soak.disk_bytes_max,
        refused: soak.refused,
        asked: soak.asked,
        rewrites: after.rewrites - before.rewrites,
        rewritten_bytes: after.rewritten_bytes - before.rewritten_bytes,
        segments_recycled: after.segments_recycled,
    };
    soak.wal.close(clock::now_nanos()).context("cannot close the log")?;
    let checked = check(arguments, path, options)?;
    std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok((run, checked))
}

struct Soak<'a> {
    wal: Wal<RingDisk>,
    path: &'a Path,
    arguments: &'a WalSoakArgs,
    hot: Vec<(StreamSlot, u64)>,
    next_hot: usize,
    payload: Vec<u8>,
    outstanding: VecDeque<(Ticket, u64)>,
    /// When the append that is refused was tried first.
    refused_since: Option<u64>,
    refused: u64,
    asked: u64,
    disk_bytes_max: u64,
}

impl<'a> Soak<'a> {
    fn new(mut wal: Wal<RingDisk>, path: &'a Path, arguments: &'a WalSoakArgs) -> Soak<'a> {
        let ids = arguments.cold..arguments.cold + arguments.hot;
        let hot = ids.map(|id| (wal.stream(StreamId(id)), 0)).collect();
        Soak {
            wal,
            path,
            arguments,
            hot,
            next_hot: 0,
            payload: vec![0x5a; arguments.payload as usize],
            outstanding: VecDeque::new(),
            refused_since: None,
            refused: 0,
            asked: 0,
            disk_bytes_max: 0,
        }
    }

    fn write_cold(&mut self) -> Result<()> {
        for index in 1..=self.arguments.cold_entries {
            for id in 0..self.arguments.cold {
                let slot = self.wal.stream(StreamId(id));
                let header = EntryHeader { index, tag: id, note: 0 };
                cold_payload(&mut self.payload, id, index);
                self.wal.append(slot, header, &self.payload).context("a cold stream's entry")?;
                if self.wal.backlog_bytes() > 1 << 20 {
                    self.turn(&mut |_| ())?;
                }
            }
        }
        while self.wal.durable() < self.wal.last_ticket() {
            self.turn(&mut |_| ())?;
        }
        Ok(())
    }

    /// A closed loop until so many bytes more are written.
    fn load(&mut self, total: u64, done: &mut dyn FnMut(u64), shown: &mut dyn FnMut(u64)) -> Result<()> {
        let before = self.wal.stats().write_bytes;
        let mut next_look = 0;
        loop {
            let written = self.wal.stats().write_bytes - before;
            if written >= next_look {
                next_look = written + LOOK_BYTES;
                self.look()?;
                shown(written);
            }
            if written >= total {
                return Ok(());
            }
            self.append_all()?;
            self.turn(done)?;
        }
    }

    fn append_all(&mut self) -> Result<()> {
        let now = clock::now_nanos();
        while self.outstanding.len() < self.arguments.in_flight as usize {
            let (slot, last) = self.hot[self.next_hot];
            match self.wal.admit(self.payload.len() as u64 + 64) {
                Ok(()) => {}
                Err(AppendError::OutOfSpace { .. }) => {
                    self.refused += u64::from(self.refused_since.is_none());
                    self.refused_since.get_or_insert(now);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let header = EntryHeader { index: last + 1, tag: 1, note: 0 };
            let ticket = self.wal.append(slot, header, &self.payload)?;
            self.outstanding.push_back((ticket, self.refused_since.take().unwrap_or(now)));
            self.hot[self.next_hot].1 = last + 1;
            if last % KEPT == 0 && last > KEPT {
                self.wal.compact(slot, last - KEPT)?;
            }
            self.next_hot = (self.next_hot + 1) % self.hot.len();
        }
        Ok(())
    }

    fn turn(&mut self, done: &mut dyn FnMut(u64)) -> Result<()> {
        self.wal.submit(clock::now_nanos());
        while self.wal.poll_pressure().is_some() {
            self.asked += 1;
        }
        if !self.wal.wait(clock::now_nanos) && self.refused_since.is_some() {
            std::thread::sleep(REFUSED_WAIT);
        }
        if let Health::Poisoned(error) = self.wal.health() {
            bail!("the log stopped: {error}");
        }
        let (now, durable) = (clock::now_nanos(), self.wal.durable());
        while let Some((_, at)) = self.outstanding.pop_front_if(|(ticket, _)| *ticket <= durable) {
            done(now - at);
        }
        Ok(())
    }

    /// What the log has on the disk, prepared and recycled files included.
    fn look(&mut self) -> Result<()> {
        let mut sum = 0;
        for entry in std::fs::read_dir(self.path).context("cannot list the log")? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("wal-") {
                // It may be renamed or removed meanwhile.
                sum += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        self.disk_bytes_max = self.disk_bytes_max.max(sum);
        Ok(())
    }
}

fn cold_payload(payload: &mut [u8], stream: u64, index: u64) {
    let mixed = (stream << 20 | index).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    for (byte, mixed) in payload.iter_mut().zip(mixed.iter().cycle()) {
        *byte = *mixed;
    }
}

/// Cold entries as they come back.
struct Found {
    /// By stream: the next index that is expected.
    next: Vec<u64>,
    wrong: u64,
    expected: Vec<u8>,
}

impl Recovery for Found {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        let Some(next) = self.next.get_mut(stream.0 as usize) else { return };
        cold_payload(&mut self.expected, stream.0, header.index);
        if header.index != *next || payload != self.expected {
            self.wrong += 1;
        }
        *next = header.index + 1;
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
}

/// Opens the log again and compares every entry of the cold streams.
fn check(arguments: &WalSoakArgs, path: &Path, options: &Options) -> Result<Checked> {
    let expected = vec![0; arguments.payload as usize];
    let mut found = Found { next: vec![1; arguments.cold as usize], wrong: 0, expected };
    let options = Options { segments_ahead: 1, ..options.clone() };
    let wal = open(path, &options, &mut found)?;
    wal.close(clock::now_nanos()).context("cannot close the log again")?;
    let short = found.next.iter().filter(|&&next| next != arguments.cold_entries + 1).count();
    let ok = found.wrong == 0 && short == 0;
    let message = if ok {
        let entries = count((arguments.cold * arguments.cold_entries) as f64);
        format!("read back: all {entries} entries of the cold streams are there, as written")
    } else {
        format!("{} are wrong or out of order, {} short", found.wrong, plural(short as u64, "stream"))
    };
    Ok(Checked { ok, message })
}
