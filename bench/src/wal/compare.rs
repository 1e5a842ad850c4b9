//! Our log, the limit of its disk and raft-engine side by side: the same load on the same disk, in turn, several times over.

use anyhow::{Context, Result};
use logdrive_wal::{DurableWrites, RingOptions};
use serde::Serialize;

use super::driver::{Driver, Load, Nothing};
use super::limit::{Limit, Writes};
use super::peer::{self, Peer};
use super::shapes::shapes;
use super::{open, options};
use crate::cli::WalArgs;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, micros};
use crate::progress;
use crate::report::{self, FORMAT, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// Segments unless the user says otherwise: of the log, as many of the limit, and as many bytes of raft-engine. With ten
/// thousand streams, one of them is chosen again only after 1.5 GiB of entries of 16 KiB: with less than that all three would have to
/// move what is live.
const SEGMENTS: u32 = 32;
/// Of a measurement: warm-up before it.
const WARMUP_SHARE: f64 = 0.25;

/// Medians of one shape.
#[derive(Clone, Debug, Default, Serialize)]
struct ShapeReport {
    in_flight: u32,
    payload_bytes: u32,
    streams: u64,
    appends_per_s: f64,
    payload_bytes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    durable_writes_per_s: f64,
    mean_write_bytes: f64,
    /// Writes under way at once, on average.
    mean_writes_in_flight: f64,
    /// Bytes of writes, padding included.
    written_bytes_per_s: f64,
    /// The same writes without a log.
    limit_bytes_per_s: f64,
    /// Median over the rounds of the share of the limit in the same round.
    share_of_limit: f64,
    cpu_us_per_append: f64,
    /// At half the rate of the closed loop, appends coming evenly.
    half_load_p50_us: f64,
    half_load_p99_us: f64,
    /// The limit's writes of the same size, coming evenly at half the rate of the log's.
    limit_half_load_p50_us: f64,
    limit_half_load_p99_us: f64,
    /// Every append by a thread of its own.
    raft_engine: Option<PeerReport>,
    /// A few threads that put batches together.
    raft_engine_batched: Option<PeerReport>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct PeerReport {
    threads: u32,
    appends_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// Median over the rounds of our appends over its appends in the same round.
    ours_times: f64,
}

#[derive(Debug, Serialize)]
struct CompareReport {
    benchmark: &'static str,
    format: u32,
    seconds_each: f64,
    rounds: u32,
    seed: u64,
    writes_in_flight: u32,
    batch_bytes_max: u32,
    durable_writes: String,
    segment_bytes: u64,
    segments: u32,
    shapes: Vec<ShapeReport>,
    cpu: CpuUse,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for CompareReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench wal: our log, the same writes without a log, raft-engine; medians of {} rounds of {} s each",
            self.rounds, self.seconds_each
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![(
            "",
            format!(
                "{:>6} {:>7} {:>7} | {:>10} {:>12} {:>8} {:>8} {:>7} | {:>10} {:>12} {:>6} | {:>8} {:>8} {:>5} {:>8} {:>8} | {:>10} {:>8} {:>6}",
                "in fl.",
                "bytes",
                "streams",
                "appends/s",
                "payload/s",
                "p50",
                "p99",
                "cpu us",
                "mean write",
                "limit/s",
                "of it",
                "half p50",
                "p99",
                "ratio",
                "lim. p50",
                "p99",
                "raft-eng/s",
                "p50",
                "ours x"
            ),
        )];
        rows.extend(self.shapes.iter().map(|shape| ("", shape_row(shape))));
        rows.push(("durable", format!("{} of the log and of the limit", self.durable_writes)));
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
                "in flight: single-entry appends outstanding at once, in a closed loop, to streams chosen at random; an append \
                 counts when it is durable. One thread; at most {} writes of at most {} under way",
                self.writes_in_flight,
                bytes(self.batch_bytes_max.into())
            ),
            "writes: how many the log had under way on average, and their mean size; limit: the same ring, segments prepared \
             in the same way, writes of this size, as many in flight (rounded up), nothing else; `of it`: the log's \
             written bytes/s over the limit's"
                .to_owned(),
            "half: latencies with appends coming evenly at half the rate of the closed loop, counted from when each was \
             due, by a thread that never sleeps but yields in each round; ratio: p99 / p50, only where the loop kept up; lim.: \
             single writes of the limit, as large, evenly at half the rate of the log's: what of the ratio is the machine's"
                .to_owned(),
            "raft-eng: raft-engine 0.4, no compression, prepared and recycled files; every append by a thread of its own \
             that waits for it, so that raft-engine puts the batches together, as our log does"
                .to_owned(),
            "batched: raft-engine with the work of group commit done by its callers: 1, 2, 4 or 16 threads, whichever \
             was fastest in a trial, each writes its share of the appends as one batch"
                .to_owned(),
            format!(
                "all of them keep {} segments of {} at most and give up old entries at the same pace; the shares and \
                 multiples are medians of those of each round in which both moved; NaN: the disk stood still in all of them",
                self.segments,
                bytes(self.segment_bytes as f64)
            ),
        ]
    }
}

fn shape_row(shape: &ShapeReport) -> String {
    let ratio =
        if shape.half_load_p50_us > 0.0 { shape.half_load_p99_us / shape.half_load_p50_us } else { f64::NAN };
    let mut row = format!(
        "{:>6} {:>6} {:>7} | {:>10} {:>12} {:>8} {:>8} {:>7.2} | {:>14} {:>12} {:>4.0} % | {:>8} {:>8} {:>5.1} {:>8} {:>8} | ",
        shape.in_flight,
        shape.payload_bytes,
        shape.streams,
        count(shape.appends_per_s),
        bytes(shape.payload_bytes_per_s),
        micros(shape.p50_us),
        micros(shape.p99_us),
        shape.cpu_us_per_append,
        format!("{:.1} x {}", shape.mean_writes_in_flight, bytes(shape.mean_write_bytes)),
        bytes(shape.limit_bytes_per_s),
        100.0 * shape.share_of_limit,
        micros(shape.half_load_p50_us),
        micros(shape.half_load_p99_us),
        ratio,
        micros(shape.limit_half_load_p50_us),
        micros(shape.limit_half_load_p99_us),
    );
    match (&shape.raft_engine, &shape.raft_engine_batched) {
        (Some(peer), Some(batched)) => row.push_str(&format!(
            "{:>10} {:>6} {:>6.1} | {:>10} {:>6.1}",
            count(peer.appends_per_s),
            micros(peer.p50_us),
            peer.ours_times,
            count(batched.appends_per_s),
            batched.ours_times
        )),
        _ => row.push_str("not measured"),
    }
    row
}

/// All that takes part.
struct Field {
    ours: Driver,
    limit: Limit,
    peer: Option<Peer>,
    arguments: WalArgs,
    /// How the log and the limit make their writes durable.
    durable_writes: String,
}

/// `logdrive-bench wal`.
pub(crate) fn run(arguments: &WalArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let segments = arguments.log.segments.unwrap_or(SEGMENTS).max(space::SEGMENTS_MIN);
    let segment_bytes = arguments.log.segment_mib << 20;
    let log_bytes = u64::from(segments) * segment_bytes;
    // The limit's segments, and raft-engine's prepared files and those in use.
    space::check(directory.path(), 4 * log_bytes, "--segments or --segment-mib")?;
    let (_, log_disk) = disk_probe::brief(directory.path(), false)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let one = Load { streams: arguments.groups, payload: arguments.payload, in_flight: arguments.in_flight };
    let shapes = shapes(arguments.shapes, one);
    let mut warnings = environment.warnings();
    let bar = progress::spinner("wal");
    bar.set_message("preparing segments");
    let mut field = prepare(arguments, &directory, segments, &mut warnings)?;
    let mut rounds: Vec<Vec<ShapeReport>> = vec![Vec::new(); shapes.len()];
    let mut threads = vec![0; shapes.len()];
    let usage = Usage::now();
    for round in 0..arguments.rounds {
        for (number, &shape) in shapes.iter().enumerate() {
            bar.set_message(format!(
                "round {} of {}, shape {} of {}",
                round + 1,
                arguments.rounds,
                number + 1,
                shapes.len()
            ));
            bar.tick();
            rounds[number].push(field.measure(shape, &mut threads[number])?);
        }
    }
    let cpu = Usage::now().since(&usage);
    let durable_writes = field.durable_writes.clone();
    warnings.extend(field.ours.refusals());
    drop(field);
    bar.finish_and_clear();
    warnings.extend(report::machine_warnings(&cpu));
    let report = CompareReport {
        benchmark: "wal",
        format: FORMAT,
        seconds_each: arguments.seconds,
        rounds: arguments.rounds,
        seed: arguments.seed,
        writes_in_flight: arguments.log.writes_in_flight,
        batch_bytes_max: arguments.log.batch_bytes,
        durable_writes,
        segment_bytes,
        segments,
        shapes: rounds.iter().map(|rounds| median_of(rounds)).collect(),
        cpu,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(true)
}

fn prepare(
    arguments: &WalArgs,
    directory: &DataDir,
    segments: u32,
    warnings: &mut Vec<String>,
) -> Result<Field> {
    let subdirectory = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        anyhow::Ok(path)
    };
    let options = options(&arguments.log, segments);
    let mut ours = Driver::new(open(&subdirectory("ours")?, &options, &mut Nothing)?, arguments.seed);
    let how = ours.wal.disk().facts().durable_writes;
    let ring = RingOptions {
        buffers: arguments.log.writes_in_flight,
        buffer_bytes: arguments.log.batch_bytes,
        // The same writes: a probe of its own might choose the other way of making them durable.
        durable_writes: if how.is_linked() { DurableWrites::Fsync } else { DurableWrites::Dsync },
        ..RingOptions::default()
    };
    let limit = Limit::new(&subdirectory("limit")?, segments, options.segment_bytes, ring)?;
    let peer = match peer::find() {
        _ if arguments.no_peers => None,
        Some(program) => Some(Peer::start(&program, &subdirectory("raft-engine")?, options.budget_bytes)?),
        None => {
            warnings.push(peer::advice());
            None
        }
    };
    let durable_writes = how.to_string();
    Ok(Field { ours, limit, peer, arguments: arguments.clone(), durable_writes })
}

impl Field {
    /// One shape, once. `threads` are those of raft-engine, found out in the first round.
    fn measure(&mut self, shape: Load, threads: &mut u32) -> Result<ShapeReport> {
        let (seconds, seed) = (self.arguments.seconds, self.arguments.seed);
        let warmup = seconds * WARMUP_SHARE;
        self.ours.set_load(shape, seed)?;
        let closed = self.ours.closed_loop(warmup, seconds, &mut |_, _| ())?;
        let writes = closed.writes.writes.max(1) as f64;
        let written = closed.writes.write_bytes as f64;
        let in_flight_mean = closed.mean_in_flight;
        // Rounded up, unless it is a whole number but for the time in which completions were on their way.
        let in_flight = ((in_flight_mean - 0.1).ceil() as u32).clamp(1, self.arguments.log.writes_in_flight);
        let of_limit = Writes { mean_bytes: written / writes, in_flight };
        let limit_bytes_per_s = self.limit.measure(of_limit, warmup, seconds)?;
        let appends_per_s = closed.latencies.count() as f64 / closed.seconds;
        let half = self.ours.open_loop(appends_per_s / 2.0, warmup, seconds)?.summary();
        let half_rate = writes / closed.seconds / 2.0;
        let limit_half = self.limit.open_loop(of_limit, half_rate, warmup, seconds)?.summary();
        let latency = closed.latencies.summary();
        let mut report = ShapeReport {
            in_flight: shape.in_flight,
            payload_bytes: shape.payload,
            streams: shape.streams,
            appends_per_s,
            payload_bytes_per_s: appends_per_s * f64::from(shape.payload),
            p50_us: latency.p50,
            p99_us: latency.p99,
            durable_writes_per_s: writes / closed.seconds,
            mean_write_bytes: written / writes,
            mean_writes_in_flight: in_flight_mean,
            written_bytes_per_s: written / closed.seconds,
            limit_bytes_per_s,
            share_of_limit: written / closed.seconds / limit_bytes_per_s,
            cpu_us_per_append: closed.cpu.seconds() * 1e6 / closed.latencies.count().max(1) as f64,
            half_load_p50_us: half.p50,
            half_load_p99_us: half.p99,
            limit_half_load_p50_us: limit_half.p50,
            limit_half_load_p99_us: limit_half.p99,
            raft_engine: None,
            raft_engine_batched: None,
        };
        if let Some(peer) = &mut self.peer {
            if *threads == 0 {
                *threads = peer.fastest_threads(shape, seconds / 2.0)?;
            }
            let mut with = |threads| -> Result<Option<PeerReport>> {
                let answer = peer.measure(shape, threads, warmup, seconds)?;
                let theirs = if answer.appends_per_s > 0.0 { answer.appends_per_s } else { f64::NAN };
                Ok(Some(PeerReport {
                    threads,
                    appends_per_s: answer.appends_per_s,
                    p50_us: answer.p50_us,
                    p99_us: answer.p99_us,
                    ours_times: appends_per_s / theirs,
                }))
            };
            report.raft_engine = with(Peer::callers(shape))?;
            report.raft_engine_batched = with(*threads)?;
        }
        Ok(report)
    }
}

/// Each figure's median over the rounds.
fn median_of(rounds: &[ShapeReport]) -> ShapeReport {
    let of = |figure: fn(&ShapeReport) -> f64| median(rounds.iter().map(figure).collect());
    let first = rounds.first().cloned().unwrap_or_default();
    ShapeReport {
        appends_per_s: of(|r| r.appends_per_s),
        payload_bytes_per_s: of(|r| r.payload_bytes_per_s),
        p50_us: of(|r| r.p50_us),
        p99_us: of(|r| r.p99_us),
        durable_writes_per_s: of(|r| r.durable_writes_per_s),
        mean_write_bytes: of(|r| r.mean_write_bytes),
        mean_writes_in_flight: of(|r| r.mean_writes_in_flight),
        written_bytes_per_s: of(|r| r.written_bytes_per_s),
        limit_bytes_per_s: of(|r| r.limit_bytes_per_s),
        share_of_limit: of(|r| r.share_of_limit),
        cpu_us_per_append: of(|r| r.cpu_us_per_append),
        half_load_p50_us: of(|r| r.half_load_p50_us),
        half_load_p99_us: of(|r| r.half_load_p99_us),
        limit_half_load_p50_us: of(|r| r.limit_half_load_p50_us),
        limit_half_load_p99_us: of(|r| r.limit_half_load_p99_us),
        raft_engine: median_of_peer(rounds.iter().filter_map(|r| r.raft_engine.as_ref())),
        raft_engine_batched: median_of_peer(rounds.iter().filter_map(|r| r.raft_engine_batched.as_ref())),
        ..first
    }
}

fn median_of_peer<'a>(rounds: impl Iterator<Item = &'a PeerReport>) -> Option<PeerReport> {
    let rounds: Vec<&PeerReport> = rounds.collect();
    let of = |figure: fn(&PeerReport) -> f64| median(rounds.iter().map(|r| figure(r)).collect());
    rounds.first().map(|first| PeerReport {
        threads: first.threads,
        appends_per_s: of(|r| r.appends_per_s),
        p50_us: of(|r| r.p50_us),
        p99_us: of(|r| r.p99_us),
        ours_times: of(|r| r.ours_times),
    })
}

/// The middle one, or the mean of the two in the middle. What could not be measured (`NaN`) is left out; of nothing the median is that.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median(vec![]).is_nan());
        assert_eq!(median(vec![f64::NAN, 3.0, f64::NAN]), 3.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        let round = |appends_per_s, ours_times| ShapeReport {
            appends_per_s,
            raft_engine: Some(PeerReport { ours_times, ..PeerReport::default() }),
            ..ShapeReport::default()
        };
        let middle = median_of(&[round(5.0, 9.0), round(1.0, 2.0), round(3.0, 4.0)]);
        assert_eq!(middle.appends_per_s, 3.0);
        assert_eq!(middle.raft_engine.map(|p| p.ours_times), Some(4.0));
    }
}
