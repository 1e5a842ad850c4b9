//! Runs the binary as a user runs it.
#![allow(dead_code)] // Each test file uses some of it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_logdrive-bench");

pub(crate) fn bench(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--dir").arg(directory).stdin(Stdio::null());
    command.output().unwrap()
}

/// Runs a benchmark that must end well; its JSON and its table.
pub(crate) fn report(arguments: &[&str]) -> (Value, String) {
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

pub(crate) fn assert_positive(json: &Value, fields: &[&str]) {
    for field in fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = json.pointer(&pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|v| v > 0.0), "{field} is {value:?} in {json:#}");
    }
}

pub(crate) const LATENCIES: [&str; 5] =
    ["latency_us.p50", "latency_us.p90", "latency_us.p99", "latency_us.p999", "latency_us.max"];
pub(crate) const LOG: [&str; 3] = ["log.durable_writes_per_s", "log.mean_batch_bytes", "log.bytes_per_s"];

pub(crate) fn assert_environment(json: &Value) {
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
