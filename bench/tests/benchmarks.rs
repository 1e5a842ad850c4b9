//! The binary, run as a user runs it: what it prints, writes, refuses and leaves behind. Speeds are not judged.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

mod common;

use common::{BINARY, LATENCIES, LOG, assert_environment, assert_positive, bench, report};

#[test]
fn wal_reports_the_log_alone() {
    let arguments = ["wal-alone", "--seconds", "1", "--warmup", "0", "--groups", "16", "--segment-mib", "8"];
    let (json, table) = report(&arguments);
    assert_positive(&json, &["appends_per_s", "bytes_per_s"]);
    assert_positive(&json, &LATENCIES);
    assert_positive(&json, &LOG);
    assert_environment(&json);
    assert_eq!(json["check"]["ok"], true, "{:#}", json["check"]);
    assert!(table.contains("every stream ends at its last acknowledged append"), "{table}");
}

#[test]
fn wal_reports_our_log_beside_the_limit() {
    let arguments = [
        "wal",
        "--shapes",
        "one",
        "--groups",
        "16",
        "--in-flight",
        "32",
        "--seconds",
        "0.2",
        "--rounds",
        "2",
        "--segment-mib",
        "4",
        "--segments",
        "8",
        "--no-peers",
    ];
    let (json, table) = report(&arguments);
    let shapes = json["shapes"].as_array().unwrap();
    assert_eq!(shapes.len(), 1);
    assert_positive(
        &shapes[0],
        &["appends_per_s", "limit_bytes_per_s", "share_of_limit", "half_load_p50_us"],
    );
    assert_environment(&json);
    assert!(table.contains("of it"), "{table}");
}

#[test]
fn wal_recovery_reads_every_entry_back() {
    let (json, _) = report(&["wal-recovery", "--gib", "0.05", "--groups", "16", "--rounds", "1"]);
    assert_eq!(json["check"]["ok"], true, "{:#}", json["check"]);
    assert_positive(&json, &["bytes_per_s", "entries_per_s", "index_bytes_per_entry", "progress_reports"]);
}

#[test]
fn disk_reports_a_line_for_each_size_and_depth() {
    let (json, table) = report(&["disk", "--seconds", "0.1", "--file-mib", "16"]);
    let probes = json["disk_probe"].as_array().unwrap();
    assert_eq!(probes.len(), 12);
    for probe in probes {
        assert_positive(probe, &["write_bytes", "in_flight", "durable_writes_per_s", "latency_us.p50"]);
    }
    assert_environment(&json);
    assert!(table.contains("256.0 KiB x 8"), "{table}");
}

#[test]
fn a_directory_with_other_things_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious"), "x").unwrap();
    let output = bench(&["disk"], directory.path());
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("not empty"), "{errors}");
    assert!(directory.path().join("precious").exists());
}

#[test]
fn a_result_that_could_not_be_written_is_refused_before_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let output = bench(&["run", "--json", "/no/such/directory/result.json"], &directory.path().join("data"));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("there is no directory"), "{errors}");
    assert!(!directory.path().join("data").exists(), "nothing was begun");
}

#[test]
fn a_log_that_does_not_fit_on_the_disk_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = bench(&["run", "--segments", "65536", "--segment-mib", "1024"], directory.path());
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("free") && errors.contains("--segments"), "{errors}");
}

/// Ends a benchmark that a failed test leaves running.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupt_removes_the_temporary_data() {
    // Without --dir the data goes beside the build's output, where the binary lies.
    let target: PathBuf =
        Path::new(BINARY).ancestors().find(|p| p.join("CACHEDIR.TAG").is_file()).unwrap().to_owned();
    let mut command = Command::new(BINARY);
    command.args(["disk", "--seconds", "600"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let data = target.join(format!("logdrive-bench.tmp.{}", running.0.id()));
    while !data.join("probe").exists() {
        assert!(running.0.try_wait().unwrap().is_none(), "the benchmark ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    let process = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!data.exists());
}
