//! Debian's redis-tools against a cluster of nodes in this process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod redis_common;

use std::process::{Command, Output};

use redis_common::{Client, Cluster, Reply};

/// Runs one of the programs of the package.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program} does not start ({error}); install it with: apt-get install redis-tools")
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_cli_follows_leaders() {
    let cluster = Cluster::start(3, 1, 12);
    let port = cluster.address(1).port().to_string();
    let cli = |arguments: &[&str]| stdout(&run("redis-cli", &[&["-c", "-p", &port], arguments].concat()));
    for n in 0..20 {
        let (key, value) = (format!("key{n}"), n.to_string());
        assert_eq!(cli(&["SET", &key, &value]), "OK\n");
        assert_eq!(cli(&["GET", &key]), format!("{value}\n"));
    }
    assert_eq!(cli(&["-3", "GET", "nothing"]), "\n");
    assert!(cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    assert_eq!(cli(&["CLUSTER", "NODES"]).lines().count(), 3);
    assert!(cli(&["INFO", "server"]).contains("redis_version:7"));
    assert!(cli(&["COMMAND", "DOCS", "GET"]).contains("Get the value of a key"));
    assert!(stdout(&run("redis-cli", &["-p", &port, "NOSUCH", "x"])).contains("unknown command 'NOSUCH'"));
    // What the cluster manager of redis-cli makes of it.
    let check = stdout(&run("redis-cli", &["--cluster", "check", &format!("127.0.0.1:{port}")]));
    assert!(check.contains("[OK] All 16384 slots covered"), "{check}");
}

#[test]
fn redis_benchmark_runs_in_cluster_mode() {
    let cluster = Cluster::start(3, 1, 48);
    let port = cluster.address(1).port().to_string();
    let requests = "20000";
    let output = run(
        "redis-benchmark",
        &[
            "--cluster",
            "-p",
            &port,
            "-t",
            "set,get,incr",
            "-n",
            requests,
            "-c",
            "20",
            "-P",
            "8",
            "-r",
            "1000",
            "-d",
            "64",
            "--csv",
        ],
    );
    let text = stdout(&output);
    for test in ["\"SET\"", "\"GET\"", "\"INCR\""] {
        assert!(text.contains(test), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let moved: u64 = cluster
        .ids()
        .map(|id| {
            let info = Client::connect(cluster.address(id)).ask(&["INFO", "logdrive"]);
            let line =
                info.text().lines().find(|line| line.starts_with("answered_moved:")).unwrap().to_owned();
            line["answered_moved:".len()..].parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(moved, 0, "every request went to the leader of its slot");
    let keys: i64 = cluster
        .ids()
        .map(|id| match Client::connect(cluster.address(id)).ask(&["DBSIZE"]) {
            Reply::Integer(keys) => keys,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(keys > 0);
}
