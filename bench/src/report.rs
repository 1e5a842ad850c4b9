//! Results: JSON for programs, a table for people.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::environment::Environment;
use crate::format::{bytes, count, micros};
use crate::latency::LatencySummary;
use crate::usage::{CpuUse, MachineUse};

/// Counts up when a field of the JSON changes its meaning or goes away.
pub(crate) const FORMAT: u32 = 1;

/// What a log wrote in the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LogReport {
    /// Durable writes a second; several logs are added up.
    pub(crate) durable_writes_per_s: f64,
    /// Bytes of one write, padding included.
    pub(crate) mean_batch_bytes: f64,
    pub(crate) bytes_per_s: f64,
    /// Records (entries, states, compactions) per write.
    pub(crate) mean_batch_records: f64,
    pub(crate) writes_in_flight: u32,
    pub(crate) segment_bytes: u64,
    /// Segments written with zeros before the measurement, per log.
    pub(crate) prepared_segments: u64,
    pub(crate) prepare_seconds: f64,
    /// In the fullest log at the end.
    pub(crate) used_bytes_max: u64,
    /// The run needed more than was prepared, and was cut short.
    pub(crate) outgrown: bool,
}

impl LogReport {
    /// From the counters of the measured time.
    pub(crate) fn from_counts(writes: u64, write_bytes: u64, records: u64, seconds: f64) -> LogReport {
        let per = |value: u64, by: f64| if by > 0.0 { value as f64 / by } else { 0.0 };
        LogReport {
            durable_writes_per_s: per(writes, seconds),
            mean_batch_bytes: per(write_bytes, writes as f64),
            bytes_per_s: per(write_bytes, seconds),
            mean_batch_records: per(records, writes as f64),
            ..LogReport::default()
        }
    }
}

/// One line of the disk's own figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbeReport {
    pub(crate) write_bytes: u64,
    pub(crate) in_flight: u32,
    pub(crate) durable_writes_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) latency_us: LatencySummary,
}

/// Whether what was acknowledged is there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CheckReport {
    pub(crate) ok: bool,
    /// What was compared, and the result, in words.
    pub(crate) message: String,
    /// Proposals or appends acknowledged in the whole run, warm-up and drain included.
    pub(crate) acknowledged: u64,
    /// Entries found, per node or log.
    pub(crate) found: Vec<u64>,
}

/// A report that can be printed and written.
pub(crate) trait Report: Serialize {
    /// What was run, in a line.
    fn title(&self) -> String;
    /// Label and text of each line of the table.
    fn rows(&self) -> Vec<(&'static str, String)>;
    fn environment(&self) -> &Environment;
    fn warnings(&self) -> &[String];
    /// How the figures are to be read.
    fn notes(&self) -> Vec<String>;
}

/// Prints the table, with the environment and everything a reader should know.
pub(crate) fn print(report: &impl Report, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}\n", report.title())?;
    for (label, text) in report.rows() {
        writeln!(out, "  {label:<14}{text}")?;
    }
    writeln!(out, "\nenvironment")?;
    for (label, text) in environment_rows(report.environment()) {
        writeln!(out, "  {label:<14}{text}")?;
    }
    writeln!(out, "\nhow to read this")?;
    for note in report.notes() {
        writeln!(out, "  - {note}")?;
    }
    for warning in report.warnings() {
        writeln!(out, "\nwarning: {warning}")?;
    }
    out.flush()
}

pub(crate) fn latency_row(latency: &LatencySummary) -> String {
    format!(
        "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
        micros(latency.p50),
        micros(latency.p90),
        micros(latency.p99),
        micros(latency.p999),
        micros(latency.max)
    )
}

pub(crate) fn log_rows(log: &LogReport, logs: u64) -> Vec<(&'static str, String)> {
    let of = if logs > 1 { format!(" ({logs} logs together)") } else { String::new() };
    let outgrown = if log.outgrown { ", NOT enough: see the warning" } else { ", and needed no more" };
    vec![
        (
            "log",
            format!(
                "{} durable writes/s of {} on average ({:.1} records), {}/s{of}, at most {} in flight",
                count(log.durable_writes_per_s),
                bytes(log.mean_batch_bytes),
                log.mean_batch_records,
                bytes(log.bytes_per_s),
                log.writes_in_flight
            ),
        ),
        (
            "prepared",
            format!(
                "{} segments of {} per log in {:.1} s, used {}{outgrown}",
                log.prepared_segments,
                bytes(log.segment_bytes as f64),
                log.prepare_seconds,
                bytes(log.used_bytes_max as f64)
            ),
        ),
    ]
}

pub(crate) fn cpu_rows(cpu: &CpuUse, per_million: f64) -> Vec<(&'static str, String)> {
    let mut text = format!("{per_million:.2} s per million");
    if cpu.seconds() > 0.0 {
        let share = 100.0 * cpu.system_seconds / cpu.seconds();
        text.push_str(&format!(" ({share:.0} % of it in the kernel)"));
    }
    let mut rows = vec![("cpu", text)];
    rows.extend(machine_rows(cpu));
    rows
}

/// What else the machine did meanwhile.
pub(crate) fn machine_rows(cpu: &CpuUse) -> Vec<(&'static str, String)> {
    let text = |machine: &MachineUse| {
        format!(
            "{:.0} % this process, {:.0} % others and kernel threads, {:.0} % idle, {:.0} % stolen",
            machine.ours_percent, machine.others_percent, machine.idle_percent, machine.stolen_percent
        )
    };
    cpu.machine.iter().map(|machine| ("machine", text(machine))).collect()
}

pub(crate) fn probe_rows(probes: &[ProbeReport]) -> Vec<(&'static str, String)> {
    let text = |p: &ProbeReport| {
        format!(
            "{:>8} x {:<2} {:>8} durable writes/s {:>12}/s   p50 {:>8}  p99 {:>8}  max {:>8}",
            bytes(p.write_bytes as f64),
            p.in_flight,
            count(p.durable_writes_per_s),
            bytes(p.bytes_per_s),
            micros(p.latency_us.p50),
            micros(p.latency_us.p99),
            micros(p.latency_us.max)
        )
    };
    let label = |n: usize| if n == 0 { "disk alone" } else { "" };
    probes.iter().enumerate().map(|(n, probe)| (label(n), text(probe))).collect()
}

pub(crate) fn check_row(check: &CheckReport) -> (&'static str, String) {
    let verdict = if check.ok { "ok" } else { "FAILED" };
    ("check", format!("{verdict}: {}", check.message))
}

fn environment_rows(environment: &Environment) -> Vec<(&'static str, String)> {
    let e = environment;
    let virtual_machine = if e.virtual_machine { ", virtual" } else { "" };
    let governor = e.governor.as_ref().map(|g| format!(", governor {g}")).unwrap_or_default();
    let memlock = e.memlock_bytes.map_or("no limit".to_owned(), |b| bytes(b as f64));
    let model = e.disk_model.as_ref().map(|m| format!(" {m}")).unwrap_or_default();
    let rotational = if e.disk_rotational == Some(true) { ", rotational" } else { "" };
    let cache = e.disk_write_cache.as_ref().map(|c| format!(", cache {c}")).unwrap_or_default();
    let yes = |yes: bool| if yes { "yes" } else { "NO" };
    vec![
        ("kernel", e.kernel.clone()),
        ("cpu", format!("{} x {}{virtual_machine}{governor}", e.cores, e.cpu_model)),
        ("load before", format!("{:.2}", e.load_average_before)),
        ("memory", format!("{}, locked memory: {memlock}", bytes(e.memory_bytes as f64))),
        ("disk", format!("{}{model}{rotational}{cache}", e.disk)),
        ("file system", format!("{} ({}), {}", e.file_system, e.mount_options, e.directory)),
        ("log on disk", e.log_disk.clone()),
        ("O_DIRECT", yes(e.o_direct).to_owned()),
        ("durable", yes(e.durable).to_owned()),
        ("build", format!("{} {}, commit {}", e.build, e.version, e.commit)),
        ("command", e.command_line.join(" ")),
    ]
}

/// Prints the report and writes it where the user wants it.
pub(crate) fn deliver(report: &impl Report, json: Option<&Path>) -> Result<()> {
    // The file first: whoever reads standard output may be gone.
    if let Some(path) = json {
        write_json(report, path)?;
    }
    print(report, &mut std::io::stdout().lock()).context("cannot print the report")
}

/// Says before a long run that its result could not be written.
pub(crate) fn check_json_path(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() || path.file_name().is_none() {
        bail!("--json {}: is a directory; name a file", path.display());
    }
    if !parent.is_dir() {
        bail!("--json {}: there is no directory {}", path.display(), parent.display());
    }
    Ok(())
}

/// Writes the report; an earlier file is replaced at once or not at all.
pub(crate) fn write_json(report: &impl Report, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report).context("cannot turn the report into JSON")?;
    text.push('\n');
    // A pipe or a device is written to; it must not be replaced by a file.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What the use of the machine says about the figures.
pub(crate) fn machine_warnings(cpu: &CpuUse) -> Vec<String> {
    /// Shares of the machine above which a figure is doubtful.
    const OTHERS_PERCENT_MAX: f64 = 15.0;
    const STOLEN_PERCENT_MAX: f64 = 2.0;
    let mut warnings = Vec::new();
    let Some(machine) = &cpu.machine else { return warnings };
    if machine.others_percent > OTHERS_PERCENT_MAX {
        warnings.push(format!(
            "other processes and kernel threads used {:.0} % of the machine meanwhile: the figures are lower than \
             they would be on a quiet one",
            machine.others_percent
        ));
    }
    if machine.stolen_percent > STOLEN_PERCENT_MAX {
        warnings.push(format!(
            "the hypervisor took {:.0} % of the machine away meanwhile: repeat the run at another time",
            machine.stolen_percent
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_counts() {
        let log = LogReport::from_counts(1_000, 16_384_000, 50_000, 2.0);
        assert_eq!(log.durable_writes_per_s, 500.0);
        assert_eq!(log.mean_batch_bytes, 16_384.0);
        assert_eq!(log.bytes_per_s, 8_192_000.0);
        assert_eq!(log.mean_batch_records, 50.0);
        let nothing = LogReport::from_counts(0, 0, 0, 0.0);
        assert_eq!(nothing, LogReport::default(), "no division by zero");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_found_before_the_run() {
        let directory = tempfile::tempdir().unwrap();
        assert!(check_json_path(None).is_ok());
        assert!(check_json_path(Some(Path::new("result.json"))).is_ok());
        assert!(check_json_path(Some(&directory.path().join("result.json"))).is_ok());
        assert!(check_json_path(Some(directory.path())).is_err());
        let error = check_json_path(Some(&directory.path().join("no/result.json"))).unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
    }

    #[test]
    fn a_busy_machine_is_said_aloud() {
        let use_of = |others_percent, stolen_percent| CpuUse {
            user_seconds: 1.0,
            system_seconds: 1.0,
            machine: Some(MachineUse {
                ours_percent: 50.0,
                others_percent,
                idle_percent: 0.0,
                stolen_percent,
            }),
        };
        assert!(machine_warnings(&use_of(5.0, 0.0)).is_empty());
        assert!(machine_warnings(&use_of(40.0, 0.0))[0].contains("40 %"));
        assert!(machine_warnings(&use_of(5.0, 30.0))[0].contains("hypervisor"));
    }
}
