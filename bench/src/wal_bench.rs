//! The log alone: one thread appends single entries to many streams, each durable before it counts.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use logdrive_shard::Random;
use logdrive_wal::{
    EntryHeader, Health, Options, Recovery, RingDisk, RingOptions, Stats, StreamId, StreamSlot, Ticket, Wal,
};
use serde::Serialize;

use crate::cli::WalArgs;
use crate::clock;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, plural};
use crate::latency::{Latencies, LatencySummary};
use crate::payload::Payloads;
use crate::progress;
use crate::report::{self, CheckReport, FORMAT, LogReport, ProbeReport, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// Segments unless the user says otherwise. They are recycled, so that a few are enough however long the run is.
const SEGMENTS: u32 = 16;
/// After so many appends one stream, in turn, is compacted up to its last durable entry.
const APPENDS_PER_COMPACTION: u64 = 64;

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
            "logdrive-bench wal: one log, {}, {} of {} each in flight, {:.1} s after {:.1} s of warm-up",
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

/// `logdrive-bench wal`. False if the log did not hold what it acknowledged.
pub(crate) fn run(arguments: &WalArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let segments = arguments.log.segments.unwrap_or(SEGMENTS).max(space::SEGMENTS_MIN);
    let segment_bytes = arguments.log.segment_mib << 20;
    space::check(directory.path(), u64::from(segments) * segment_bytes, "--segments or --segment-mib")?;
    let (disk_probe, log_disk) = disk_probe::brief(directory.path(), !arguments.no_probe)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let path = directory.path().join("wal");
    std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let options = Options {
        segment_bytes,
        writes_in_flight: arguments.log.writes_in_flight,
        batch_bytes_max: arguments.log.batch_bytes,
        batch_bytes_min: arguments.log.batch_bytes_min,
        budget_bytes: u64::from(segments) * segment_bytes,
        segments_ahead: segments,
        ..Options::default()
    };

    let bar = progress::spinner("wal");
    bar.set_message(format!("preparing {segments} segments of {}", bytes(segment_bytes as f64)));
    let start = clock::now_nanos();
    let wal = open(&path, &options, &mut Nothing)?;
    let prepare_seconds = clock::since(start).as_secs_f64();
    let mut bench = Bench::new(wal, arguments)?;
    let measured = bench.measure(arguments, &bar)?;
    bar.set_message("reading the log back");
    let check = bench.close_and_check(&path, &options)?;
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
    log.used_bytes_max = measured.used_bytes;
    let appends = measured.latencies.count() as f64;
    let mut warnings = environment.warnings();
    warnings.extend(report::machine_warnings(&measured.cpu));
    let ok = check.ok;
    let report = WalReport {
        benchmark: "wal",
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

fn open(path: &Path, options: &Options, recovery: &mut dyn Recovery) -> Result<Wal<RingDisk>> {
    let ring_options = RingOptions {
        buffers: options.writes_in_flight + 2,
        buffer_bytes: options.batch_bytes_max,
        ..RingOptions::default()
    };
    let disk = RingDisk::open(path, ring_options).context("cannot open the log's disk")?;
    Wal::open(disk, options.clone(), clock::now_nanos(), recovery)
        .with_context(|| format!("cannot open the log in {}", path.display()))
}

/// A new log has nothing to recover.
struct Nothing;

impl Recovery for Nothing {
    fn entry(&mut self, _: StreamId, _: EntryHeader, _: &[u8]) {}
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
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

/// What came out of the measured time.
struct Measured {
    seconds: f64,
    latencies: Latencies,
    cpu: CpuUse,
    writes: Stats,
    /// In the log at the end.
    used_bytes: u64,
}

struct Stream {
    slot: StreamSlot,
    last: u64,
}

struct Bench {
    wal: Wal<RingDisk>,
    streams: Vec<Stream>,
    random: Random,
    payloads: Payloads,
    /// Appends that are not durable yet, with the time of their append; tickets ascend.
    outstanding: VecDeque<(Ticket, u64)>,
    in_flight: usize,
    appended: u64,
    acknowledged: u64,
    /// The stream that is compacted next.
    compact_next: usize,
}

impl Bench {
    fn new(mut wal: Wal<RingDisk>, arguments: &WalArgs) -> Result<Bench> {
        let streams =
            (0..arguments.groups).map(|id| Stream { slot: wal.stream(StreamId(id)), last: 0 }).collect();
        Ok(Bench {
            wal,
            streams,
            random: Random::new(arguments.seed),
            payloads: Payloads::new(arguments.seed, 0, arguments.payload as usize),
            outstanding: VecDeque::with_capacity(arguments.in_flight as usize),
            in_flight: arguments.in_flight as usize,
            appended: 0,
            acknowledged: 0,
            compact_next: 0,
        })
    }

    /// Warm-up, measured time, and waiting for the last appends, which do not count.
    fn measure(&mut self, arguments: &WalArgs, bar: &ProgressBar) -> Result<Measured> {
        bar.set_message("warming up");
        let start = clock::now_nanos() + (arguments.warmup * 1e9) as u64;
        let mut now = clock::now_nanos();
        while now < start {
            now = self.round(now, true, |_| ())?;
            bar.tick();
        }
        let mut latencies = Latencies::new()?;
        let (begin, usage, stats) = (now, Usage::now(), self.wal.stats());
        let end = begin + (arguments.seconds * 1e9) as u64;
        let mut shown = begin;
        while now < end {
            now = self.round(now, true, |nanos| latencies.record(nanos))?;
            if now - shown > 200_000_000 {
                shown = now;
                let seconds = (now - begin) as f64 / 1e9;
                bar.set_message(format!(
                    "{seconds:.1} of {} s, {} appends/s",
                    arguments.seconds,
                    count(latencies.count() as f64 / seconds)
                ));
                bar.tick();
            }
        }
        let seconds = (now - begin) as f64 / 1e9;
        let cpu = Usage::now().since(&usage);
        let writes = difference(&self.wal.stats(), &stats);
        let used_bytes = self.wal.space().used_bytes;
        while !self.outstanding.is_empty() {
            now = self.round(now, false, |_| ())?;
        }
        Ok(Measured { seconds, latencies, cpu, writes, used_bytes })
    }

    /// Appends up to the bound, submits, waits for the disk; calls `done` with the latency of each append that became durable.
    /// Returns the time after the wait.
    fn round(&mut self, now: u64, refill: bool, mut done: impl FnMut(u64)) -> Result<u64> {
        while refill && self.outstanding.len() < self.in_flight {
            let ticket = self.append()?;
            self.outstanding.push_back((ticket, now));
        }
        self.wal.submit(now);
        self.wal.wait(now);
        if *self.wal.health() != Health::Running {
            bail!("the log stopped: {:?}", self.wal.health());
        }
        let (after, durable) = (clock::now_nanos(), self.wal.durable());
        while let Some(&(ticket, at)) = self.outstanding.front()
            && ticket <= durable
        {
            self.outstanding.pop_front();
            self.acknowledged += 1;
            done(after - at);
        }
        Ok(after)
    }

    fn append(&mut self) -> Result<Ticket> {
        let chosen = self.random.below(self.streams.len() as u64) as usize;
        let stream = &mut self.streams[chosen];
        stream.last += 1;
        let header = EntryHeader { index: stream.last, tag: 1, note: 0 };
        let ticket = self.wal.append(stream.slot, header, self.payloads.next()).context(
            "the log took no append (more --segments may help: with many groups it takes long to compact all)",
        )?;
        self.appended += 1;
        if self.appended.is_multiple_of(APPENDS_PER_COMPACTION) {
            let stream = &self.streams[self.compact_next];
            self.compact_next = (self.compact_next + 1) % self.streams.len();
            if stream.last > 1 {
                self.wal.compact(stream.slot, stream.last - 1).context("the log took no compaction")?;
            }
        }
        Ok(ticket)
    }

    /// Closes the log, opens it again and looks whether every stream reaches as far as was acknowledged.
    fn close_and_check(self, path: &Path, options: &Options) -> Result<CheckReport> {
        let Bench { wal, streams, acknowledged, .. } = self;
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
}

fn difference(after: &Stats, before: &Stats) -> Stats {
    Stats {
        writes: after.writes - before.writes,
        write_bytes: after.write_bytes - before.write_bytes,
        records: after.records - before.records,
        segments_created: after.segments_created - before.segments_created,
        segments_recycled: after.segments_recycled - before.segments_recycled,
        ..*after
    }
}
