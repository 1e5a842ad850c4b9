//! Configuration files that are refused, and what is said about them.

use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = r#"cluster = 7
node = 1
directory = "data"
groups = 64

[[nodes]]
id = 1
peers = "127.0.0.1:17001"
clients = "127.0.0.1:7001"

[[nodes]]
id = 2
peers = "127.0.0.1:17002"
clients = "127.0.0.1:7002"

[[nodes]]
id = 3
peers = "127.0.0.1:17003"
clients = "127.0.0.1:7003"
"#;

fn check(dir: &Path, text: &str) -> Output {
    let path = dir.join("node.toml");
    std::fs::write(&path, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_logdrive"))
        .current_dir(dir)
        .args(["serve", "--check", "--config", "node.toml"])
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// What is changed in the good file, and what must be said, place included.
const REFUSED: &[(&str, &str, &str)] = &[
    ("node = 1", "node = 1\nnodee = 2", "node.toml:3:1: unknown field `nodee`"),
    ("cluster = 7", "", "missing field `cluster`"),
    ("cluster = 7", "cluster = 0", "node.toml:1:11: `cluster` is 0, it must be from 1 to"),
    ("cluster = 7", "cluster = \"seven\"", "node.toml:1:11: invalid type: string \"seven\", expected u64"),
    ("cluster = 7", "cluster = ", "node.toml:1:"),
    ("node = 1", "node = 4", "node.toml:2:8: this is node 4, but `nodes` lists only 1, 2, 3"),
    ("node = 1", "node = -1", "node.toml:2:8: invalid value: integer `-1`"),
    ("\"data\"", "\"\"", "node.toml:3:13: `directory` is empty"),
    ("groups = 64", "groups = 0", "node.toml:4:10: `groups` is 0, it must be from 1 to 16384"),
    ("groups = 64", "groups = 16385", "node.toml:4:10: `groups` is 16385, it must be from 1 to 16384"),
    ("groups = 64", "cores = 0", "node.toml:4:9: `cores` is 0, it must be from 1 to 256"),
    (
        "groups = 64",
        "pin_from = 60000",
        "node.toml:4:12: cores 60000 to 60000 are to be pinned, but there are",
    ),
    ("groups = 64", "spin_us = 1000000", "node.toml:4:11: `spin_us` is 1000000, it must be from 0 to 10000"),
    ("id = 2", "id = 1", "node.toml:12:6: node 1 is listed twice"),
    ("id = 2", "id = 0", "node.toml:12:6: node id 0 means nobody"),
    ("id = 2", "id = 2\nrack = \"a\"", "node.toml:13:1: unknown field `rack`"),
    ("id = 2", "id = 2\npriority = 256", "node.toml:13:12: `priority` is 256, it must be from 0 to 255"),
    ("127.0.0.1:17002", "127.0.0.1:17001", "node.toml:13:9: 127.0.0.1:17001 is `peers` of node 1 already"),
    ("127.0.0.1:7002", "127.0.0.1:17001", "node.toml:14:11: 127.0.0.1:17001 is `peers` of node 1 already"),
    ("127.0.0.1:7002", "127.0.0.1", "node.toml:14:11: `127.0.0.1` is not an address: a port is missing"),
    (
        "127.0.0.1:7002",
        "127.0.0.1:0",
        "node.toml:14:11: `127.0.0.1:0` is not an address: others could not find port 0",
    ),
    (
        "127.0.0.1:7001",
        "10.1.2.3:7001",
        "node.toml:2:8: node 1 is advertised as 10.1.2.3, but `listen.clients` is not set",
    ),
    (
        "[[nodes]]\nid = 1",
        "[listen]\npeers = \"anywhere\"\n[[nodes]]\nid = 1",
        "node.toml:7:9: `anywhere` is not an IP address",
    ),
    (
        "[[nodes]]\nid = 1",
        "[listen]\npeers = \"0.0.0.0:7001\"\n[[nodes]]\nid = 1",
        "peers (0.0.0.0:7001) and clients (127.0.0.1:7001) need two different ports",
    ),
    (
        "[[nodes]]\nid = 1",
        "[timing]\nheartbeat_ms = 1000\n[[nodes]]\nid = 1",
        "node.toml:7:16: a heartbeat every 1000 ms with elections after 1000 ms: leaders could never stay",
    ),
    (
        "[[nodes]]\nid = 1",
        "[timing]\npreset = \"moon\"\n[[nodes]]\nid = 1",
        "node.toml:7:10: unknown variant `moon`",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nbudget_bytes = \"64 MB\"\n[[nodes]]\nid = 1",
        "node.toml:7:16: `MB` is not a unit",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nbudget_bytes = -1\n[[nodes]]\nid = 1",
        "node.toml:7:16: a size of -1 bytes is negative",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nbudget_bytes = \"100 MiB\"\n[[nodes]]\nid = 1",
        "node.toml:7:16: a budget of 100 MiB is too small: 1 core(s) need at least 5 segments of 64 MiB each",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nwrites_in_flight = 0\n[[nodes]]\nid = 1",
        "node.toml:7:20: `log.writes_in_flight` is 0",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nreclaim_bytes_per_s = 0\n[[nodes]]\nid = 1",
        "node.toml:7:23: `log.reclaim_bytes_per_s` is 0 B, it must be from 1 MiB",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nreclaim_patience_ms = \"1 s\"\n[[nodes]]\nid = 1",
        "node.toml:7:23: invalid type: string \"1 s\"",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\ndurable_writes = \"maybe\"\n[[nodes]]\nid = 1",
        "node.toml:7:18: unknown variant `maybe`",
    ),
    (
        "[[nodes]]\nid = 1",
        "[log]\nsegment_bytes = 1048577\n[[nodes]]\nid = 1",
        "it must be a multiple of 4096",
    ),
    (
        "[[nodes]]\nid = 1",
        "[limits]\npayload_bytes = \"1 GiB\"\n[[nodes]]\nid = 1",
        "node.toml:7:17: `limits.payload_bytes` is 1 GiB, it must be from 1 KiB to 8 MiB",
    ),
    (
        "[[nodes]]\nid = 1",
        "[clients]\nparking = 1\n[[nodes]]\nid = 1",
        "node.toml:7:1: unknown field `parking`",
    ),
];

#[test]
fn bad_files_are_refused_with_place_and_reason() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (from, to, expected) in REFUSED {
        assert!(GOOD.contains(from), "{from} is not in the good file");
        let output = check(dir.path(), &GOOD.replacen(from, to, 1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{to}: {stderr}");
        assert!(stderr.contains(expected), "{to}: expected {expected}, got {stderr}");
    }
}

#[test]
fn all_problems_are_said_at_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = check(dir.path(), &GOOD.replace("groups = 64", "groups = 0").replace("id = 3", "id = 2"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for expected in ["2 problems", "node.toml:4:10", "node.toml:17:6"] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
}

#[test]
fn a_good_file_is_accepted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = "segments_ahead = 2\nreclaim_bytes_per_s = \"8 MiB\"\nreclaim_patience_ms = 500\nrewrite_bytes = \"1 MiB\"\n\
               scrub_bytes_per_s = 0\nscrub_interval_s = 60\nbatch_bytes = \"64 KiB\"\nsegment_bytes = \"8 MiB\"\n";
    for good in [
        GOOD.to_owned(),
        GOOD.replace("id = 2", "id = 2\npriority = 255"),
        format!("{GOOD}\n[log]\nbudget_bytes = \"1 GiB\"\n{log}"),
    ] {
        let output = check(dir.path(), &good);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_heartbeat_over_a_fifth_of_the_election_time_is_warned_about() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = check(dir.path(), &format!("{GOOD}\n[timing]\npreset = \"lan\"\nheartbeat_ms = 31\n"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("a heartbeat every 31 ms is more than a fifth of election_base_ms (150)"),
        "{stderr}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_logdrive"))
        .current_dir(dir.path())
        .args(["serve", "--config", "nowhere.toml"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("nowhere.toml: No such file or directory"), "{stderr}");
}
