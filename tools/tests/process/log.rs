//! The log as its operators meet it: `logdrive wal` on a stopped node, and the end of the disk budget.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::cluster::{Cluster, Shape, logdrive, text, wait_for};

const DIRECTORY: i32 = 3;
const UNWELL: i32 = 5;

/// A log small enough to be filled in a moment.
const TINY: &str = "[limits]\npayload_bytes = \"64 KiB\"\n\
     [log]\nsegment_bytes = \"1 MiB\"\nbatch_bytes = \"64 KiB\"\nbudget_bytes = \"8 MiB\"\n";

/// The same, of a node whose groups give nothing of their logs up by themselves.
const TINY_WITHOUT_SNAPSHOTS: &str = "[limits]\npayload_bytes = \"64 KiB\"\n\
     [log]\nsegment_bytes = \"1 MiB\"\nbatch_bytes = \"64 KiB\"\nbudget_bytes = \"8 MiB\"\n\
     [snapshots]\nevery_entries = 0\nevery_bytes = 0\n";

fn one_node(more: &'static str) -> Shape {
    Shape { nodes: 1, groups: 4, more, ..Shape::default() }
}

/// The file below a directory that contains some bytes, and where.
fn find(dir: &std::path::Path, needle: &[u8]) -> (PathBuf, u64) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = if path.is_dir() {
            Some(find(&path, needle)).filter(|(path, _)| path.is_file())
        } else {
            let bytes = fs::read(&path).unwrap();
            bytes.windows(needle.len()).position(|window| window == needle).map(|at| (path, at as u64))
        };
        if let Some(found) = found {
            return found;
        }
    }
    (PathBuf::new(), 0)
}

#[test]
fn durable_writes_are_made_as_set_and_the_log_says_so() {
    for (setting, said) in [
        ("[log]\ndurable_writes = \"fsync\"\n", "write + fdatasync (as set)"),
        ("[log]\ndurable_writes = \"dsync\"\n", "RWF_DSYNC writes (as set)"),
        ("[log]\ndurable_writes = \"auto\"\n", "us with RWF_DSYNC"),
    ] {
        let cluster = Cluster::start(one_node(setting));
        let mut client = cluster.addresses().client();
        redis::cmd("SET").arg("a").arg("1").exec(&mut client).unwrap();
        let stderr = cluster.nodes[0].stderr();
        assert!(stderr.contains(said), "{setting}: {stderr}");
    }
}

#[test]
fn wal_verify_accepts_a_stopped_node_and_names_damage() {
    let mut cluster = Cluster::start(one_node(TINY));
    let mut client = cluster.addresses().client();
    for n in 0..200 {
        redis::cmd("SET")
            .arg(format!("key:{n}"))
            .arg(format!("needle-{n}-in-the-log"))
            .exec(&mut client)
            .unwrap();
    }
    let dir = cluster.nodes[0].dir.clone();
    let dir_text = dir.to_str().unwrap();

    let running = logdrive(&["wal", "verify", dir_text]);
    assert_eq!(running.status.code(), Some(DIRECTORY), "{}", text(&running.stderr));
    assert!(text(&running.stderr).contains("another process"), "{}", text(&running.stderr));

    cluster.nodes[0].stop();
    let clean = logdrive(&["wal", "verify", dir_text]);
    assert!(clean.status.success(), "{}{}", text(&clean.stdout), text(&clean.stderr));
    let dump = logdrive(&["wal", "dump", dir_text]);
    assert!(dump.status.success(), "{}", text(&dump.stderr));
    assert!(
        text(&dump.stdout).lines().filter(|line| line.contains("entry")).count() >= 200,
        "{}",
        text(&dump.stdout)
    );

    let (path, offset) = find(&dir, b"needle-100-in-the-log");
    looks_into_a_log(dir_text, path.file_name().unwrap().to_str().unwrap());
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_at(b"X", offset).unwrap();
    let damaged = logdrive(&["wal", "verify", dir_text]);
    let said = text(&damaged.stdout) + &text(&damaged.stderr);
    assert_eq!(damaged.status.code(), Some(UNWELL), "{said}");
    let segment = path.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(segment), "the file is not named: {said}");
    assert!(said.contains("by its own words the record of group"), "nor the group and index: {said}");

    // The same for programs: segment, offset, group and index of what was hit, and what is lost with it.
    let json = logdrive(&["wal", "verify", dir_text, "--json"]);
    assert_eq!(json.status.code(), Some(UNWELL));
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let damage = &report[0]["damages"][0];
    assert_eq!((&report[0]["sound"], &damage["segment"]), (&false.into(), &segment.into()), "{report:#}");
    let record = &damage["records"][0];
    let at = record["offset"].as_u64().unwrap();
    assert!(at < offset && offset < at + 200, "{report:#}");
    let (group, index) = (record["group"].as_u64().unwrap(), record["index"].as_u64().unwrap());
    let lost = report[0]["lost"].as_array().unwrap();
    let names = |lost: &serde_json::Value| {
        lost["group"] == group && (lost["first"].as_u64()..=lost["last"].as_u64()).contains(&Some(index))
    };
    assert!(lost.iter().any(names), "{report:#}");

    // The node starts on it, says which groups miss something, and serves the others. There is nobody who could make up for it.
    let node = &mut cluster.nodes[0];
    node.spawn(false);
    node.wait_ready();
    assert!(node.stderr().contains("the disk lost something"), "{}", node.stderr());
    let missing: BTreeSet<u64> = lost.iter().map(|lost| lost["group"].as_u64().unwrap()).collect();
    assert!(missing.len() < 4, "one record was damaged: {report:#}");
    wait_for("the damaged groups in the status", || {
        (cluster.nodes[0].count("damaged") == Some(missing.len() as u64)).then_some(())
    });
    wait_for("leaders of all other groups", || {
        (cluster.nodes[0].count("leaders") == Some(4 - missing.len() as u64)).then_some(())
    });
    let address = cluster.nodes[0].clients.to_string();
    let status = logdrive(&["status", "--addr", &address]);
    assert_eq!(status.status.code(), Some(UNWELL), "{}", text(&status.stdout));
    assert!(text(&status.stdout).contains("has lost a part of the logs of"), "{}", text(&status.stdout));
    let shown = logdrive(&["group", "show", &group.to_string(), "--node", "1", "--addr", &address]);
    assert!(text(&shown.stdout).contains("its disk has lost: entries"), "{}", text(&shown.stdout));
    // Nothing is cut, and the next start says the same.
    cluster.nodes[0].stop();
    assert_eq!(find(&dir, b"Xeedle-100-in-the-log"), (path, offset));
}

/// `inspect`, `stats` and the filters of `dump`, on a sound log; none of them changes it.
fn looks_into_a_log(dir: &str, segment: &str) {
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = logdrive(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let inspected = json(&["wal", "inspect", dir, "--json"]);
    let segments = inspected[0]["segments"].as_array().unwrap();
    let used = segments.iter().find(|s| s["name"] == segment).unwrap();
    assert!(used["live_bytes"].as_u64().unwrap() > 200 * 20, "{used:#}");
    assert!(used["lsn_to"].as_u64() > used["lsn_from"].as_u64(), "{used:#}");
    let table = logdrive(&["wal", "inspect", dir]);
    assert!(text(&table.stdout).contains("incarnation") && text(&table.stdout).contains(segment));

    let stats = json(&["wal", "stats", dir, "--json"]);
    let groups = stats[0]["groups"].as_array().unwrap();
    let live: u64 = groups.iter().map(|g| g["last"].as_u64().unwrap_or(0)).sum();
    assert!(live >= 200, "{stats:#}");
    let group = groups.iter().max_by_key(|g| g["last"].as_u64()).unwrap()["group"].to_string();
    assert!(text(&logdrive(&["wal", "stats", dir]).stdout).contains("durable end"));

    let filtered =
        ["wal", "dump", dir, "--group", &group, "--from", "5", "--to", "9", "--kind", "entry", "--json"];
    let lines = text(&logdrive(&filtered).stdout);
    let indexes: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .inspect(|record| assert_eq!(record["group"].to_string(), group))
        .map(|record| record["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indexes, [5, 6, 7, 8, 9], "{lines}");
}

#[test]
fn at_the_end_of_the_budget_writes_are_refused_and_reads_go_on() {
    let mut cluster = Cluster::start(Shape { nodes: 3, ..one_node(TINY_WITHOUT_SNAPSHOTS) });
    let mut client = cluster.addresses().client();
    let value = "v".repeat(8 << 10);
    let (mut written, mut refused) = (0, 0);
    let status = loop {
        let set: redis::RedisResult<()> =
            redis::cmd("SET").arg(format!("key:{written}")).arg(&value).query(&mut client);
        match set {
            Ok(()) => written += 1,
            Err(error) => {
                assert_eq!(error.code(), Some("OUTOFSPACE"), "{error}");
                refused += 1;
                let status = logdrive(&["status", "--addr", &cluster.nodes[0].clients]);
                // While the log moves what is live it takes less for a moment; at the end of the budget it stays so.
                if status.status.code() == Some(UNWELL) {
                    break status;
                }
                assert!(
                    refused < 200,
                    "{refused} writes are refused by a log with room: {}",
                    text(&status.stdout)
                );
            }
        }
        assert!(written < 2000, "16 MiB were written into a budget of 8 MiB");
    };
    assert!(written > 100, "only {written} writes fitted into the budget");

    let check = |client: &mut redis::cluster::ClusterConnection| {
        for n in 0..written {
            let found: Option<String> = redis::cmd("GET").arg(format!("key:{n}")).query(client).unwrap();
            assert_eq!(found.as_deref(), Some(value.as_str()), "key:{n}");
        }
    };
    check(&mut client);
    assert!(text(&status.stdout).contains("out of space"), "{}", text(&status.stdout));

    // A restart changes nothing about it: there are leaders, reads and refusals.
    cluster.nodes.iter_mut().for_each(|node| node.stop());
    cluster.nodes.iter_mut().for_each(|node| node.spawn(false));
    cluster.nodes.iter_mut().for_each(|node| node.wait_ready());
    cluster.wait_for_leaders();
    let mut client = cluster.addresses().client();
    check(&mut client);
    // What is left of the segment that was begun takes a few more.
    let refused = (0..200).find_map(|n| {
        let set: redis::RedisResult<()> =
            redis::cmd("SET").arg(format!("more:{n}")).arg(&value).query(&mut client);
        set.err()
    });
    assert_eq!(refused.and_then(|error| error.code().map(str::to_owned)).as_deref(), Some("OUTOFSPACE"));
}
