//! Writes in flight and bytes of a batch: which are best on a disk, and what the others cost.

use anyhow::{Context, Result};
use serde::Serialize;

use super::compare::median;
use super::driver::{Driver, Load, Nothing};
use super::{open, options};
use crate::cli::{LogArgs, WalSweepArgs};
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, micros};
use crate::progress;
use crate::report::{self, FORMAT, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// Durable writes in flight.
const WRITES: [u32; 4] = [1, 2, 4, 8];
/// Bytes at which a batch is closed.
const BATCHES: [u32; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const SEGMENTS: u32 = 12;
const SEGMENT_MIB: u64 = 64;
/// The load that fills every batch: entries of so many bytes, enough of them to have one batch more than is in flight.
const FULL_PAYLOAD: u32 = 1024;
/// The load that lets batches be as large as they become.
const USUAL: Load = Load { streams: 1024, payload: 128, in_flight: 256 };

#[derive(Clone, Debug, Serialize)]
struct Cell {
    writes_in_flight: u32,
    batch_bytes_max: u32,
    /// With more to write than fits: batches are full.
    full_bytes_per_s: f64,
    full_p50_us: f64,
    full_p99_us: f64,
    /// With 256 appends of 128 bytes in flight.
    usual_appends_per_s: f64,
    usual_p50_us: f64,
    usual_p99_us: f64,
}

#[derive(Debug, Serialize)]
struct SweepReport {
    benchmark: &'static str,
    format: u32,
    seconds_each: f64,
    rounds: u32,
    seed: u64,
    cells: Vec<Cell>,
    cpu: CpuUse,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for SweepReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench wal-sweep: durable writes in flight x bytes of a batch; medians of {} rounds of {} s each",
            self.rounds, self.seconds_each
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let full = |c: &Cell| format!("{}/s {}", bytes(c.full_bytes_per_s), micros(c.full_p99_us));
        let usual = |c: &Cell| format!("{}/s {}", count(c.usual_appends_per_s), micros(c.usual_p99_us));
        for (label, text) in [("full batches", &full as &dyn Fn(&Cell) -> String), ("256 x 128 B", &usual)] {
            let head: String =
                WRITES.iter().map(|w| format!("{:>24}", format!("{w} in flight, p99"))).collect();
            rows.push((label, format!("{:>10}{head}", "batch")));
            for batch in BATCHES {
                let cells = self.cells.iter().filter(|c| c.batch_bytes_max == batch);
                let line: String = cells.map(|cell| format!("{:>24}", text(cell))).collect();
                rows.push(("", format!("{:>10}{line}", bytes(batch.into()))));
            }
        }
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
                "full batches: entries of {FULL_PAYLOAD} bytes in 1,024 streams, so many outstanding that there is always one \
                 full batch more than may be in flight; bytes/s as written, latency of an append"
            ),
            "256 x 128 B: so many appends outstanding, in 1,024 streams; a batch is what came while the writes before it \
             were under way, and the setting only bounds it"
                .to_owned(),
            format!("{SEGMENTS} segments of {SEGMENT_MIB} MiB, prepared before and recycled"),
        ]
    }
}

/// `logdrive-bench wal-sweep`.
pub(crate) fn run(arguments: &WalSweepArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    space::check(directory.path(), u64::from(SEGMENTS) * (SEGMENT_MIB << 20), "another disk")?;
    let (_, log_disk) = disk_probe::brief(directory.path(), false)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let bar = progress::spinner("wal-sweep");
    let usage = Usage::now();
    let (mut rounds, mut warnings) = (Vec::new(), environment.warnings());
    for round in 0..arguments.rounds {
        let mut cells = Vec::new();
        for batch in BATCHES {
            for writes in WRITES {
                bar.set_message(format!("round {}: {} x {writes}", round + 1, bytes(batch.into())));
                bar.tick();
                let (cell, refusals) = measure(arguments, &directory, writes, batch)?;
                cells.push(cell);
                warnings.extend(refusals);
            }
        }
        rounds.push(cells);
    }
    let cpu = Usage::now().since(&usage);
    bar.finish_and_clear();
    warnings.extend(report::machine_warnings(&cpu));
    let report = SweepReport {
        benchmark: "wal-sweep",
        format: FORMAT,
        seconds_each: arguments.seconds,
        rounds: arguments.rounds,
        seed: arguments.seed,
        cells: medians(&rounds),
        cpu,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(true)
}

/// One setting under both loads, on the one log of the sweep, which is opened again with it.
fn measure(
    arguments: &WalSweepArgs,
    directory: &DataDir,
    writes: u32,
    batch: u32,
) -> Result<(Cell, Option<String>)> {
    let path = directory.path().join("wal");
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let log = LogArgs {
        writes_in_flight: writes,
        batch_bytes: batch,
        batch_bytes_min: 0,
        segment_mib: SEGMENT_MIB,
        segments: Some(SEGMENTS),
    };
    let mut driver = Driver::new(open(&path, &options(&log, SEGMENTS), &mut Nothing)?, arguments.seed);
    driver.skip_recovered(1024)?;
    let outstanding = (u64::from(batch) * u64::from(writes + 1)).div_ceil(u64::from(FULL_PAYLOAD));
    let full = Load { streams: 1024, payload: FULL_PAYLOAD, in_flight: outstanding.max(8) as u32 };
    let warmup = arguments.seconds / 4.0;
    driver.set_load(full, arguments.seed)?;
    let full = driver.closed_loop(warmup, arguments.seconds, &mut |_, _| ())?;
    driver.set_load(USUAL, arguments.seed)?;
    let usual = driver.closed_loop(warmup, arguments.seconds, &mut |_, _| ())?;
    let refusals = driver.refusals();
    driver.close()?;
    let (of_full, of_usual) = (full.latencies.summary(), usual.latencies.summary());
    let cell = Cell {
        writes_in_flight: writes,
        batch_bytes_max: batch,
        full_bytes_per_s: full.writes.write_bytes as f64 / full.seconds,
        full_p50_us: of_full.p50,
        full_p99_us: of_full.p99,
        usual_appends_per_s: usual.latencies.count() as f64 / usual.seconds,
        usual_p50_us: of_usual.p50,
        usual_p99_us: of_usual.p99,
    };
    Ok((cell, refusals))
}

fn medians(rounds: &[Vec<Cell>]) -> Vec<Cell> {
    let Some(first) = rounds.first() else { return Vec::new() };
    let of = |number: usize, figure: fn(&Cell) -> f64| {
        median(rounds.iter().filter_map(|round| round.get(number)).map(figure).collect())
    };
    let cell = |(number, cell): (usize, &Cell)| Cell {
        full_bytes_per_s: of(number, |c| c.full_bytes_per_s),
        full_p50_us: of(number, |c| c.full_p50_us),
        full_p99_us: of(number, |c| c.full_p99_us),
        usual_appends_per_s: of(number, |c| c.usual_appends_per_s),
        usual_p50_us: of(number, |c| c.usual_p50_us),
        usual_p99_us: of(number, |c| c.usual_p99_us),
        ..cell.clone()
    };
    first.iter().enumerate().map(cell).collect()
}
