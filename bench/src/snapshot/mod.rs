//! What snapshots of the key-value machine cost: freezing, writing to a real disk, loading, and what foreground writes feel of it.
//!
//! One group on one thread, with the state machine, the store of snapshots and the disk of the product, and without consensus: what
//! is seen there is the share of the snapshot. Then two whole nodes, one of which is new and is brought up. `run --machine kv
//! --snapshot-every` shows a cluster under load with snapshots.

mod catch_up;
mod subject;

use anyhow::{Context, Result};
use serde::Serialize;

use self::catch_up::CatchUp;
use self::subject::{Foreground, Subject};
use crate::cli::SnapshotArgs;
use crate::directory::DataDir;
use crate::disk_probe;
use crate::environment::Environment;
use crate::format::{bytes, count, micros, nanos, plural};
use crate::latency::LatencySummary;
use crate::progress;
use crate::report::{self, FORMAT, ProbeReport, Report};
use crate::space;
use crate::usage::{CpuUse, Usage};

/// What a key has beside its value in memory and in a file, bytes; generous.
const KEY_OVERHEAD_BYTES: u64 = 64;
/// Files at once: the newest, the one that replaces it.
const FILES: u64 = 2;
/// And between nodes: the logs of both, which hold all keys and more, two files on one node and one on the other.
const FILES_OF_NODES: u64 = 7;

/// What was measured with one number of keys.
#[derive(Debug, Default, Serialize)]
struct KeysReport {
    keys: u64,
    /// Of the state machine, as it accounts for it.
    state_bytes: u64,
    file_bytes: u64,
    freeze_us: LatencySummary,
    digest_ms: f64,
    /// From `freeze` until the file is durable under its name, nothing else going on.
    write_seconds: f64,
    write_bytes_per_s: f64,
    /// From opening the file until the loaded state is in place.
    load_seconds: f64,
    load_bytes_per_s: f64,
    /// Of a single write, from when it was due until it was applied.
    foreground_us: LatencySummary,
    /// The same while one snapshot after the other is written.
    foreground_with_snapshots_us: LatencySummary,
    /// The p99 without and with snapshots in each round, and how many times one is the other.
    p99_rounds_us: Vec<(f64, f64)>,
    p99_ratios: Vec<f64>,
    foreground_per_s: f64,
    foreground_with_snapshots_per_s: f64,
    snapshots_meanwhile: u64,
    /// What one slice took.
    slices_us: LatencySummary,
    /// At most while snapshots were written and keys changed.
    state_bytes_max: u64,
    /// The loaded state has the same digest.
    ok: bool,
    catch_up: CatchUp,
}

#[derive(Debug, Serialize)]
struct SnapshotReport {
    benchmark: &'static str,
    format: u32,
    value_bytes: u32,
    rate: u64,
    seconds_each: f64,
    rounds: u32,
    own_time: bool,
    keys: Vec<KeysReport>,
    cpu: CpuUse,
    disk_probe: Vec<ProbeReport>,
    environment: Environment,
    warnings: Vec<String>,
}

/// `logdrive-bench snapshot`. False if a loaded state was not the one that was written.
pub(crate) fn run(arguments: &SnapshotArgs) -> Result<bool> {
    report::check_json_path(arguments.output.json.as_deref())?;
    let directory = DataDir::prepare(arguments.output.dir.as_deref())?;
    let most = arguments.keys.iter().copied().max().unwrap_or(0);
    let file_bytes = most * (u64::from(arguments.value) + KEY_OVERHEAD_BYTES);
    space::check(directory.path(), file_bytes * FILES.max(FILES_OF_NODES), "--keys or --value")?;
    let (disk_probe, log_disk) = disk_probe::brief(directory.path(), !arguments.no_probe)?;
    let environment = Environment::collect(directory.path(), &log_disk);
    let mut warnings = environment.warnings();
    warnings.extend(memory_warning(file_bytes, environment.memory_bytes));
    // Before the run: whoever sees them may want to stop it.
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let bar = progress::spinner("snapshot");
    let usage = Usage::now();
    let mut keys = Vec::new();
    for &number in &arguments.keys {
        let path = directory.path().join(format!("snapshots-{number}"));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut found = measure(Subject::new(&path, number, arguments)?, arguments, &bar)?;
        bar.set_message(format!("{}: a new node is brought up", plural(number, "key")));
        bar.tick();
        found.catch_up = catch_up::measure(&path, number, arguments)?;
        keys.push(found);
        std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let cpu = Usage::now().since(&usage);
    bar.finish_and_clear();
    warnings.extend(report::machine_warnings(&cpu));
    warnings.extend(keys.iter().filter_map(|keys| keys.doubt(arguments.rate)));
    let ok = keys.iter().all(|keys| keys.ok && keys.catch_up.ok);
    let report = SnapshotReport {
        benchmark: "snapshot",
        format: FORMAT,
        value_bytes: arguments.value,
        rate: arguments.rate,
        seconds_each: arguments.seconds,
        rounds: arguments.rounds,
        own_time: arguments.own_time,
        keys,
        cpu,
        disk_probe,
        environment,
        warnings,
    };
    report::deliver(&report, arguments.output.json.as_deref())?;
    Ok(ok)
}

fn measure(
    mut subject: Subject,
    arguments: &SnapshotArgs,
    bar: &indicatif::ProgressBar,
) -> Result<KeysReport> {
    let keys = subject.keys();
    let say = |what: &str| {
        bar.set_message(format!("{}: {what}", plural(keys, "key")));
        bar.tick();
    };
    say("filling");
    subject.fill();
    say("freezing");
    let freeze_us = subject.freeze()?;
    let digest_ms = subject.digest().as_secs_f64() * 1e3;
    let state_bytes = subject.state_bytes();
    say("writing");
    let (written, file_bytes) = subject.write()?;
    say("loading");
    let (loaded, ok) = subject.load()?;
    let (mut quiet, mut busy, mut rounds) = (Foreground::none()?, Foreground::none()?, Vec::new());
    for round in 1..=arguments.rounds {
        say(&format!("writes without a snapshot, round {round}"));
        let without = subject.foreground(arguments.rate, arguments.seconds, false)?;
        say(&format!("writes with snapshots, round {round}"));
        let with = subject.foreground(arguments.rate, arguments.seconds, true)?;
        rounds.push((without.latencies.summary().p99, with.latencies.summary().p99));
        quiet.add(&without);
        busy.add(&with);
    }
    Ok(KeysReport {
        keys,
        state_bytes,
        file_bytes,
        freeze_us,
        digest_ms,
        write_seconds: written.as_secs_f64(),
        write_bytes_per_s: file_bytes as f64 / written.as_secs_f64(),
        load_seconds: loaded.as_secs_f64(),
        load_bytes_per_s: file_bytes as f64 / loaded.as_secs_f64(),
        foreground_us: quiet.latencies.summary(),
        foreground_with_snapshots_us: busy.latencies.summary(),
        p99_ratios: rounds.iter().map(|(without, with)| with / without.max(0.001)).collect(),
        p99_rounds_us: rounds,
        foreground_per_s: quiet.per_s(),
        foreground_with_snapshots_per_s: busy.per_s(),
        snapshots_meanwhile: busy.snapshots,
        slices_us: busy.slices.summary(),
        state_bytes_max: busy.state_bytes_max,
        ok,
        catch_up: CatchUp::default(),
    })
}

/// How many times the p99 without snapshots the one with them was, in the middle of all rounds.
fn times(rounds: &[(f64, f64)]) -> String {
    let ratios: Vec<f64> = rounds.iter().map(|(without, with)| with / without.max(1e-3)).collect();
    let mut sorted = ratios.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let ratios: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    format!("p99 {median:.2} x (median of {})", ratios.join(", "))
}

/// The state is there twice while one is loaded.
fn memory_warning(state_bytes: u64, memory_bytes: u64) -> Option<String> {
    (state_bytes * 3 > memory_bytes).then(|| {
        format!(
            "the largest state takes {} or so, twice while it is loaded, and the machine has {}: it may swap",
            bytes(state_bytes as f64 * 1.5),
            bytes(memory_bytes as f64)
        )
    })
}

impl KeysReport {
    /// What makes its latencies worth nothing.
    fn doubt(&self, rate: u64) -> Option<String> {
        let (quiet, busy) = (self.foreground_per_s, self.foreground_with_snapshots_per_s);
        if quiet < rate as f64 * 0.98 {
            return Some(format!(
                "with {} this machine did {} writes/s of the {} that were due, without any snapshot: latencies are \
                 those of a queue that grows; repeat with a lower --rate",
                plural(self.keys, "key"),
                count(quiet),
                count(rate as f64)
            ));
        }
        (busy < quiet * 0.98).then(|| {
            format!(
                "with {} snapshots took so much of the core that writes fell behind: {} instead of {} a second",
                plural(self.keys, "key"),
                count(busy),
                count(quiet)
            )
        })
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let latency = |latency: &LatencySummary| {
            let [p50, p99, p999, max] =
                [latency.p50, latency.p99, latency.p999, latency.max].map(|us| nanos(us * 1e3));
            format!("p50 {p50}, p99 {p99}, p99.9 {p999}, longest {max}")
        };
        let moved = &self.catch_up;
        let rate = |seconds: f64, rate: f64| format!("{} ({}/s)", micros(seconds * 1e6), bytes(rate));
        vec![
            ("keys", format!("{}, {} in memory", count(self.keys as f64), bytes(self.state_bytes as f64))),
            ("  freeze", latency(&self.freeze_us)),
            (
                "  write",
                rate(self.write_seconds, self.write_bytes_per_s)
                    + &format!(", a file of {}", bytes(self.file_bytes as f64)),
            ),
            ("  load", rate(self.load_seconds, self.load_bytes_per_s)),
            ("  digest", micros(self.digest_ms * 1e3)),
            ("  writes", latency(&self.foreground_us)),
            (
                "  meanwhile",
                format!(
                    "{}; {}; {}; {} in memory at most",
                    latency(&self.foreground_with_snapshots_us),
                    times(&self.p99_rounds_us),
                    plural(self.snapshots_meanwhile, "snapshot"),
                    bytes(self.state_bytes_max as f64)
                ),
            ),
            ("  slices", latency(&self.slices_us)),
            (
                "  transfer",
                rate(moved.transfer_seconds, moved.transfer_bytes as f64 / moved.transfer_seconds.max(1e-3))
                    + &format!(", {}", bytes(moved.transfer_bytes as f64)),
            ),
            ("  catch-up", micros(moved.catch_up_seconds * 1e6)),
            ("  durable", latency(&moved.writes_us)),
            (
                "  snapshots",
                format!(
                    "{}; {}; {} each",
                    latency(&moved.writes_with_snapshots_us),
                    times(&moved.p99_rounds_us),
                    micros(moved.beside_writes_seconds * 1e6)
                ),
            ),
            (
                "  new node",
                format!(
                    "{}; p99 {:.2} x",
                    latency(&moved.writes_meanwhile_us),
                    moved.writes_meanwhile_us.p99 / moved.writes_us.p99.max(1e-3)
                ),
            ),
            (
                "  check",
                if self.ok && moved.ok { "ok: loaded as it was written" } else { "FAILED: another state" }
                    .to_owned(),
            ),
        ]
    }
}

impl Report for SnapshotReport {
    fn title(&self) -> String {
        format!(
            "logdrive-bench snapshot: one group, keys of {}, values of {}, {} writes/s for {} s without and {} s with \
             snapshots, {}",
            bytes(subject::KEY_BYTES as f64),
            bytes(self.value_bytes.into()),
            count(self.rate as f64),
            self.seconds_each,
            self.seconds_each,
            plural(self.rounds.into(), "round")
        )
    }
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows: Vec<_> = self.keys.iter().flat_map(KeysReport::rows).collect();
        rows.extend(report::machine_rows(&self.cpu));
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
        let slices = logdrive::api::SnapshotSettings::default();
        let own_time = "writes, meanwhile and slices are in the processor time of their thread: what others took of the machine is not in it";
        let own_time = self.own_time.then(|| own_time.to_owned());
        let notes = vec![
            "freeze: a single call, with a write before each; write: from freezing until the file is durable under its \
             name, as fast as it goes; load: from opening the file until the state is in use"
                .to_owned(),
            format!(
                "meanwhile: one snapshot after the other, in slices that take at most {} of each {} together, which is what \
                 a busy core does by default; its rate is bound by that, and `write` is not. Rounds without and with are turn about. \
                 slices: how long these took, which is what a write may have to wait for",
                micros(slices.slice_time.as_secs_f64() * 1e6),
                micros(slices.slice_interval.as_secs_f64() * 1e6)
            ),
            "writes set keys at random and come at a fixed rate whatever happens (open loop): latency counts from when \
             a write was due, so a stall shows in all that came meanwhile"
                .to_owned(),
            "so far one thread with the state machine, the snapshot files and their disk, no consensus: see `run --machine kv \
             --snapshot-every` for a cluster under load"
                .to_owned(),
            "transfer to the end: two whole nodes in this process, TCP on loopback, no limit in bytes per second. transfer: from \
             the first byte that a new learner takes to the last; catch-up: from the change that makes it one until it has \
             applied what its leader had then; durable: writes of a client with one under way, alone; the same while snapshots are \
             written one after the other, in rounds turn about; and while the new node starts and is brought up"
                .to_owned(),
            "digest: the pass over all keys that `logdrive group digest` takes on each member, on the core of the group"
                .to_owned(),
        ];
        own_time.into_iter().chain(notes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_small_snapshot_is_measured_from_freezing_to_loading() {
        let directory = tempfile::tempdir().unwrap();
        let line = ["logdrive-bench", "snapshot", "--keys", "3000", "--rate", "1000", "--seconds", "0.2"];
        let Command::Snapshot(arguments) = Cli::parse_from(line).command else { panic!("not snapshot") };
        let subject = Subject::new(directory.path(), 3000, &arguments).unwrap();
        let found = measure(subject, &arguments, &indicatif::ProgressBar::hidden()).unwrap();
        assert!(found.ok, "{found:?}");
        assert_eq!(found.keys, 3000);
        assert!(found.file_bytes > 3000 * 144, "{found:?}");
        assert!(found.write_bytes_per_s > 0.0 && found.load_bytes_per_s > 0.0, "{found:?}");
        assert!(found.freeze_us.max > 0.0 && found.foreground_us.p50 > 0.0, "{found:?}");
        assert!(found.snapshots_meanwhile > 0, "{found:?}");
        let rows = found.rows();
        assert!(rows.iter().any(|(label, text)| *label == "  meanwhile" && text.contains("snapshot")));
    }

    #[test]
    fn a_new_node_is_brought_up_by_a_snapshot_and_that_is_measured() {
        // Where the build is there is a real disk.
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let line = ["logdrive-bench", "snapshot", "--keys", "3000", "--seconds", "0.2"];
        let Command::Snapshot(arguments) = Cli::parse_from(line).command else { panic!("not snapshot") };
        let found = catch_up::measure(directory.path(), 3000, &arguments).unwrap();
        assert!(found.ok && found.transfer_bytes > 3000 * 144, "{found:?}");
        assert!(found.catch_up_seconds > 0.0 && found.beside_writes_seconds > 0.0, "{found:?}");
        assert!(found.writes_us.p50 > 0.0 && found.writes_meanwhile_us.p50 > 0.0, "{found:?}");
    }

    #[test]
    fn writes_that_fell_behind_and_scarce_memory_are_said_aloud() {
        let report = |quiet, busy| KeysReport {
            keys: 10,
            foreground_per_s: quiet,
            foreground_with_snapshots_per_s: busy,
            ..KeysReport::default()
        };
        assert_eq!(report(1000.0, 999.0).doubt(1000), None);
        assert!(report(500.0, 500.0).doubt(1000).unwrap().contains("--rate"));
        assert!(report(1000.0, 900.0).doubt(1000).unwrap().contains("900 instead of 1,000"));
        assert!(memory_warning(1 << 30, 2 << 30).unwrap().contains("swap"));
        assert_eq!(memory_warning(1 << 20, 2 << 30), None);
    }
}
