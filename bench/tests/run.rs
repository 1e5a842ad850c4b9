//! `logdrive-bench run`, as a user runs it. Speeds are not judged.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod common;

use common::{LATENCIES, LOG, assert_environment, assert_positive, report};

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
    // The smallest number of segments there is: few of them are left for entries.
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
        "32",
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
