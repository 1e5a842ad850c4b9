//! The binary, run as a user runs it: what it prints, writes, refuses and leaves behind. Speeds are not judged.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_logdrive-bench");

fn bench(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--dir").arg(directory).stdin(Stdio::null());
    command.output().unwrap()
}

/// Runs a benchmark that must end well; its JSON and its table.
fn report(arguments: &[&str]) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    let data = directory.path().join("data");
    let mut arguments = arguments.to_vec();
    arguments.extend(["--json", json.to_str().unwrap()]);
    let output = bench(&arguments, &data);
    let table = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}\n{errors}");
    assert!(data.is_dir(), "a directory that was given is kept");
    let json = std::fs::read_to_string(json).unwrap();
    (serde_json::from_str(&json).unwrap(), table)
}

fn assert_positive(json: &Value, fields: &[&str]) {
    for field in fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = json.pointer(&pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|v| v > 0.0), "{field} is {value:?} in {json:#}");
    }
}

const LATENCIES: [&str; 5] =
    ["latency_us.p50", "latency_us.p90", "latency_us.p99", "latency_us.p999", "latency_us.max"];
const LOG: [&str; 3] = ["log.durable_writes_per_s", "log.mean_batch_bytes", "log.bytes_per_s"];

fn assert_environment(json: &Value) {
    let environment = &json["environment"];
    for field in ["kernel", "cpu_model", "disk", "file_system", "commit", "version", "build", "log_disk"] {
        assert!(environment[field].is_string(), "{field} in {environment:#}");
    }
    for field in ["o_direct", "durable"] {
        assert!(environment[field].is_boolean(), "{field} in {environment:#}");
    }
    assert!(environment["cores"].as_u64().unwrap() > 0);
    assert!(environment["command_line"].as_array().unwrap().len() > 1);
}

#[test]
fn run_reports_a_small_cluster() {
    let arguments =
        ["run", "--seconds", "1", "--warmup", "0", "--groups", "16", "--clients", "16", "--segment-mib", "8"];
    let (json, table) = report(&arguments);
    assert_positive(&json, &["committed_per_s", "cpu_seconds_per_million", "committed", "measured_seconds"]);
    assert_positive(&json, &LATENCIES);
    assert_positive(&json, &LOG);
    assert_environment(&json);
    assert_eq!(json["benchmark"], "run");
    assert_eq!(json["settings"]["groups"], 16);
    assert_eq!(json["settings"]["clients"], 16);
    let check = &json["check"];
    assert_eq!(check["ok"], true, "{check:#}");
    let found: Vec<u64> =
        check["found"].as_array().unwrap().iter().map(|found| found.as_u64().unwrap()).collect();
    assert_eq!(found.len(), 3);
    assert!(
        found.iter().all(|&f| f == found[0] && f >= check["acknowledged"].as_u64().unwrap()),
        "{check:#}"
    );
    for words in ["committed", "p99.9", "every one of 3 nodes applied the same", "closed loop"] {
        assert!(table.contains(words), "{words} is not in\n{table}");
    }
}

#[test]
fn run_with_the_key_value_machine_and_two_cores_per_node_agrees() {
    let arguments = [
        "run",
        "--seconds",
        "0.5",
        "--warmup",
        "0",
        "--groups",
        "8",
        "--clients",
        "12",
        "--segment-mib",
        "8",
        "--machine",
        "kv",
        "--cores-per-node",
        "2",
        "--no-probe",
    ];
    let (json, _) = report(&arguments);
    assert_eq!(json["check"]["ok"], true, "{:#}", json["check"]);
    assert_positive(&json, &["committed_per_s"]);
    assert_eq!(json["disk_probe"].as_array().unwrap().len(), 0);
}

#[test]
fn a_run_that_outgrows_its_log_ends_early_and_says_so() {
    // The smallest log there is: a few megabytes of it are left for entries.
    let arguments = [
        "run",
        "--seconds",
        "60",
        "--warmup",
        "0",
        "--groups",
        "4",
        "--clients",
        "64",
        "--payload",
        "16384",
        "--segment-mib",
        "1",
        "--segments",
        "6",
        "--no-probe",
    ];
    let (json, table) = report(&arguments);
    assert_eq!(json["log"]["outgrown"], true);
    assert!(json["measured_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!(json["check"]["ok"], true, "{:#}", json["check"]);
    assert!(table.contains("outgrew") && table.contains("--segments"), "{table}");
}

#[test]
fn wal_reports_the_log_alone() {
    let arguments = ["wal", "--seconds", "1", "--warmup", "0", "--groups", "16", "--segment-mib", "8"];
    let (json, table) = report(&arguments);
    assert_positive(&json, &["appends_per_s", "bytes_per_s"]);
    assert_positive(&json, &LATENCIES);
    assert_positive(&json, &LOG);
    assert_environment(&json);
    assert_eq!(json["check"]["ok"], true, "{:#}", json["check"]);
    assert!(table.contains("every stream ends at its last acknowledged append"), "{table}");
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
