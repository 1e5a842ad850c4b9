//! The disk alone: durable writes of several sizes, one or more in flight, through the same ring as the log. A reader needs it to
//! judge every other figure: a device that does 2,000 durable writes a second bounds them all.

use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use logdrive_shard::Random;
use logdrive_wal::{Buffer, Completion, Disk, Done, FileId, Op, OpenMode, RingDisk, RingOptions, Token};
use serde::Serialize;

use crate::cli::DiskArgs;
use crate::clock;
use crate::directory::DataDir;
use crate::environment::{self, Environment, LogDisk};
use crate::format::bytes;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{self, FORMAT, ProbeReport, Report};
use crate::usage::{CpuUse, Usage};

/// Sizes of writes, bytes.
const SIZES: [u32; 3] = [4 << 10, 16 << 10, 256 << 10];
/// Writes in flight.
const DEPTHS: [u32; 4] = [1, 2, 4, 8];
/// Writes while the file is made.
const FILL_BYTES: u32 = 1 << 20;
const FILL_IN_FLIGHT: u64 = 4;
const FILE: &str = "probe";
/// Before a long run the disk is measured for so long at each of [`BRIEF`].
const BRIEF_SECONDS: f64 = 0.4;
const BRIEF: [(u32, u32); 3] = [(4 << 10, 1), (16 << 10, 4), (256 << 10, 4)];
const BRIEF_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, Serialize)]
struct DiskReport {
    benchmark: &'static str,
    format: u32,
    seconds_each: f64,
    file_bytes: u64,
    disk_probe: Vec<ProbeReport>,
    cpu: CpuUse,
    environment: Environment,
    warnings: Vec<String>,
}

impl Report for DiskReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench disk: durable writes into {} of zeroed file, {} s each",
            bytes(self.file_bytes as f64),
            self.seconds_each
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = report::probe_rows(&self.disk_probe);
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
            "each write is on stable storage when it completes; `n x m`: writes of n bytes, m in flight".to_owned(),
            "writes go to ascending offsets of one file that was written before, around and around; the bytes are \
             random"
                .to_owned(),
        ]
    }
}

/// `logdrive-bench disk`.
pub(crate) fn run(arguments: &DiskArgs) -> Result<()> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let file_bytes = arguments.file_mib << 20;
    let free = environment::free_bytes(directory.path())?;
    if free < file_bytes * 2 {
        bail!(
            "{} has {} free, the probe wants twice its file of {}: name another directory with --dir, or a smaller \
             file with --file-mib",
            directory.path().display(),
            bytes(free as f64),
            bytes(file_bytes as f64)
        );
    }
    let (mut disk, log_disk) = open(directory.path())?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let combinations: Vec<(u32, u32)> =
        SIZES.iter().flat_map(|&size| DEPTHS.iter().map(move |&depth| (size, depth))).collect();
    let bar = progress::spinner("disk");
    let usage = Usage::now();
    let disk_probe = probe(&mut disk, &combinations, file_bytes, arguments.seconds, &bar)?;
    let cpu = Usage::now().since(&usage);
    bar.finish_and_clear();
    let mut warnings = environment.warnings();
    warnings.extend(report::machine_warnings(&cpu));
    let report = DiskReport {
        benchmark: "disk",
        format: FORMAT,
        seconds_each: arguments.seconds,
        file_bytes,
        disk_probe,
        cpu,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())
}

/// Measures the disk shortly, to print beside the result of a run; what was found out about it comes along.
pub(crate) fn brief(directory: &Path, measure: bool) -> Result<(Vec<ProbeReport>, LogDisk)> {
    let path = directory.join("probe");
    let (mut disk, log_disk) = open(&path)?;
    let mut probes = Vec::new();
    if measure {
        let bar = progress::spinner("disk");
        probes = probe(&mut disk, &BRIEF, BRIEF_FILE_BYTES, BRIEF_SECONDS, &bar)?;
        bar.finish_and_clear();
    }
    drop(disk);
    std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok((probes, log_disk))
}

fn open(directory: &Path) -> Result<(RingDisk, LogDisk)> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create the directory {}", directory.display()))?;
    let disk = RingDisk::open(directory, RingOptions::default())
        .with_context(|| format!("cannot open the disk under {}", directory.display()))?;
    let facts = disk.facts();
    let log_disk = LogDisk { o_direct: facts.direct, durable: facts.durable, description: disk.describe() };
    Ok((disk, log_disk))
}

/// Makes the file, measures every combination of write size and writes in flight for `seconds`, removes the file.
fn probe<D: Disk>(
    disk: &mut D,
    combinations: &[(u32, u32)],
    file_bytes: u64,
    seconds: f64,
    bar: &ProgressBar,
) -> Result<Vec<ProbeReport>> {
    let mut probe =
        Probe { disk, file: FileId(0), file_bytes, completions: Vec::new(), random: Random::new(1) };
    let open = Op::Open { name: FILE.to_owned(), mode: OpenMode::CreateNew };
    let Done::Opened { file, .. } = probe.call(open)? else { bail!("the disk opened no file") };
    probe.file = file;
    bar.set_message(format!("writing {} of zeros", bytes(file_bytes as f64)));
    probe.fill()?;
    let mut reports = Vec::with_capacity(combinations.len());
    for &(size, depth) in combinations {
        bar.set_message(format!("{} x {depth}", bytes(f64::from(size))));
        reports.push(probe.measure(size, depth, seconds, bar)?);
    }
    probe.call(Op::Close { file })?;
    probe.call(Op::Unlink { name: FILE.to_owned() })?;
    Ok(reports)
}

struct Probe<'d, D: Disk> {
    disk: &'d mut D,
    file: FileId,
    file_bytes: u64,
    completions: Vec<Completion>,
    random: Random,
}

impl<D: Disk> Probe<'_, D> {
    /// One operation, nothing else under way.
    fn call(&mut self, op: Op) -> Result<Done> {
        self.disk.submit(Token(0), op);
        self.completions.clear();
        while self.completions.is_empty() {
            self.disk.wait(&mut self.completions);
        }
        let completion = self.completions.remove(0);
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
        completion.result.context("the disk failed")
    }

    fn fill(&mut self) -> Result<()> {
        let all = self.file_bytes / u64::from(FILL_BYTES);
        let (mut next, mut done) = (0, 0);
        while done < all {
            while next < all && next - done < FILL_IN_FLIGHT {
                let mut buffer = self.disk.buffer(FILL_BYTES as usize);
                buffer.as_mut_slice().fill(0);
                let offset = next * u64::from(FILL_BYTES);
                self.submit(next, offset, buffer, FILL_BYTES, false);
                next += 1;
            }
            self.completions.clear();
            self.disk.wait(&mut self.completions);
            for completion in std::mem::take(&mut self.completions) {
                self.disk.recycle(written(completion, FILL_BYTES)?);
                done += 1;
            }
        }
        self.call(Op::Sync { file: self.file })?;
        self.call(Op::SyncDir)?;
        Ok(())
    }

    fn submit(&mut self, token: u64, offset: u64, buffer: Buffer, len: u32, durable: bool) {
        self.disk.submit(Token(token), Op::Write { file: self.file, offset, buffer, len, durable });
    }

    fn random_buffer(&mut self, size: u32) -> Buffer {
        let mut buffer = self.disk.buffer(size as usize);
        for word in buffer.as_mut_slice().chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next_u64().to_le_bytes());
        }
        buffer
    }

    /// Keeps `depth` writes of `size` bytes in flight for `seconds`, then waits for the last ones, which do not count.
    fn measure(&mut self, size: u32, depth: u32, seconds: f64, bar: &ProgressBar) -> Result<ProbeReport> {
        let places = self.file_bytes / u64::from(size);
        let mut latencies = Latencies::new()?;
        let mut submitted = vec![0u64; depth as usize];
        let mut idle: Vec<(usize, Buffer)> =
            (0..depth as usize).map(|slot| (slot, self.random_buffer(size))).collect();
        let (mut place, mut in_flight) = (0, 0);
        let start = clock::now_nanos();
        let end = start + (seconds * 1e9) as u64;
        let mut now = start;
        loop {
            if now < end {
                in_flight += idle.len();
                for (slot, buffer) in idle.drain(..) {
                    submitted[slot] = now;
                    let offset = place * u64::from(size);
                    place = (place + 1) % places;
                    let op = Op::Write { file: self.file, offset, buffer, len: size, durable: true };
                    self.disk.submit(Token(slot as u64), op);
                }
            }
            if in_flight == 0 {
                break;
            }
            self.completions.clear();
            self.disk.wait(&mut self.completions);
            now = clock::now_nanos();
            for completion in std::mem::take(&mut self.completions) {
                let slot = completion.token.0 as usize;
                idle.push((slot, written(completion, size)?));
                in_flight -= 1;
                if now < end {
                    latencies.record(now - submitted[slot]);
                }
            }
            bar.tick();
        }
        for (_, buffer) in idle {
            self.disk.recycle(buffer);
        }
        let rate = latencies.count() as f64 / seconds;
        Ok(ProbeReport {
            write_bytes: u64::from(size),
            in_flight: depth,
            durable_writes_per_s: rate,
            bytes_per_s: rate * f64::from(size),
            latency_us: latencies.summary(),
        })
    }
}

/// The buffer of a write that ended well. A short write is a failure.
fn written(completion: Completion, len: u32) -> Result<Buffer> {
    match completion.result.context("the disk failed")? {
        Done::Transferred(bytes) if bytes == len => {}
        other => bail!("a write of {len} bytes ended with {other:?}"),
    }
    completion.buffer.context("the disk gave no buffer back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_probe_has_a_line_for_each_combination() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = open(directory.path()).unwrap();
        let bar = ProgressBar::hidden();
        let reports = probe(&mut disk, &[(4096, 1), (16384, 4)], 4 << 20, 0.1, &bar).unwrap();
        assert_eq!(reports.len(), 2);
        for report in &reports {
            assert!(report.durable_writes_per_s > 0.0, "{report:?}");
            assert!(report.latency_us.p50 > 0.0, "{report:?}");
            assert!(report.latency_us.p50 <= report.latency_us.max, "{report:?}");
        }
        assert_eq!((reports[1].write_bytes, reports[1].in_flight), (16384, 4));
        assert!(!directory.path().join(FILE).exists());
    }
}
