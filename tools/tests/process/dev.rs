//! `logdrive dev`: a cluster of processes under one supervisor.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{logdrive, temp_dir, text, wait_for};

/// What is said once the leaders are spread.
const EVEN: &str = "all 48 groups have a leader: node 1 leads 16, node 2 leads 16, node 3 leads 16";

/// A supervisor and what it says.
struct Dev {
    child: Child,
    output: PathBuf,
    _dir: tempfile::TempDir,
    temporary: tempfile::TempDir,
}

impl Drop for Dev {
    /// SIGTERM, not SIGKILL: it stops its nodes.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal);
}

/// Whether a process still runs (one that has ended and waits to be reaped does not).
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

impl Dev {
    fn start(arguments: &[&str]) -> Dev {
        let (dir, temporary) = (temp_dir(), temp_dir());
        let output = dir.path().join("output");
        let file = File::create(&output).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_logdrive"))
            .args(["dev", "--port", "0", "--groups", "48", "--timing", "lan"])
            .args(arguments)
            .env("NO_COLOR", "1")
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Dev { child, output, _dir: dir, temporary }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until a line starts with this for the `n`-th time, and returns its rest.
    fn wait_for_line(&mut self, start: &str, n: usize) -> String {
        wait_for(&format!("`{start}` ({n})"), || {
            let said = self.said();
            let rest = said.lines().filter_map(|line| line.strip_prefix(start)).nth(n - 1).map(str::to_owned);
            assert!(rest.is_some() || self.child.try_wait().unwrap().is_none(), "dev ended: {said}");
            rest
        })
    }

    /// The client addresses, once the cluster is ready.
    fn wait_ready(&mut self) -> Vec<String> {
        let rest = self.wait_for_line("ready: ", 1);
        rest.split(' ').filter(|word| word.starts_with("127.")).map(str::to_owned).collect()
    }

    /// The process ids of the nodes, in the order of their numbers, as they said them when they started.
    fn pids(&self) -> Vec<u32> {
        let said = self.said();
        let field = |line: &str, name: &str| {
            let rest = line.split(name).nth(1)?;
            rest.split(' ').next()?.parse().ok()
        };
        let lines = said.lines().filter(|line| line.contains("| ready node="));
        let mut pids: Vec<(u32, u32)> =
            lines.filter_map(|line| Some((field(line, "node=")?, field(line, "pid=")?))).collect();
        pids.sort_unstable();
        pids.into_iter().map(|(_, pid)| pid).collect()
    }

    fn wait_end(&mut self) -> ExitStatus {
        wait_for("the end of dev", || self.child.try_wait().unwrap())
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_cluster_starts_serves_and_stops_without_a_trace() {
    let mut dev = Dev::start(&[]);
    let addresses = dev.wait_ready();
    assert_eq!(addresses.len(), 3);
    dev.wait_for_line(EVEN, 1);
    let urls: Vec<String> = addresses.iter().map(|address| format!("redis://{address}")).collect();
    let mut client = redis::cluster::ClusterClient::new(urls).unwrap().get_connection().unwrap();
    redis::cmd("SET").arg("key").arg("value").exec(&mut client).unwrap();
    let value: String = redis::cmd("GET").arg("key").query(&mut client).unwrap();
    assert_eq!(value, "value");
    let status = logdrive(&["status", "--addr", &addresses[1]]);
    assert!(status.status.success(), "{}", text(&status.stdout));
    assert!(text(&status.stdout).contains("48 groups, 0 without a leader; 3 of 3 nodes answer"));

    let pids = dev.pids();
    assert_eq!(pids.len(), 3);
    assert!(!is_empty(dev.temporary.path()));
    signal(dev.child.id(), Signal::INT);
    assert!(dev.wait_end().success(), "{}", dev.said());
    assert!(pids.iter().all(|pid| !runs(*pid)));
    assert!(is_empty(dev.temporary.path()), "the data was not removed");
}

#[test]
fn a_dead_node_is_reported_restarted_and_leads_again() {
    let mut dev = Dev::start(&["--restart"]);
    dev.wait_ready();
    signal(dev.pids()[1], Signal::KILL);
    dev.wait_for_line("node 2 (pid", 1);
    dev.wait_for_line("node 2: starting it again", 1);
    dev.wait_for_line("a node is back: 3 of 3 answer", 1);
    dev.wait_for_line(EVEN, 2);
    signal(dev.child.id(), Signal::TERM);
    assert!(dev.wait_end().success(), "{}", dev.said());
}

#[test]
fn nodes_do_not_outlive_a_killed_supervisor() {
    let mut dev = Dev::start(&[]);
    dev.wait_ready();
    let pids = dev.pids();
    assert!(pids.len() == 3 && pids.iter().all(|pid| runs(*pid)));
    signal(dev.child.id(), Signal::KILL);
    dev.wait_end();
    wait_for("the end of all nodes", || pids.iter().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn a_kept_directory_is_used_again() {
    let kept = temp_dir();
    let dir = kept.path().to_str().unwrap();
    let mut dev = Dev::start(&["--dir", dir]);
    let address = dev.wait_ready().remove(0);
    let set = |address: &str, command: &str| -> Option<String> {
        let mut client = redis::cluster::ClusterClient::new([format!("redis://{address}")])
            .unwrap()
            .get_connection()
            .ok()?;
        redis::cmd(command).arg("key").arg((command == "SET").then_some("kept")).query(&mut client).ok()
    };
    set(&address, "SET").unwrap();
    signal(dev.child.id(), Signal::TERM);
    assert!(dev.wait_end().success(), "{}", dev.said());

    let mut dev = Dev::start(&["--dir", dir]);
    let address = dev.wait_ready().remove(0);
    assert_eq!(set(&address, "GET").as_deref(), Some("kept"));
    signal(dev.child.id(), Signal::TERM);
    assert!(dev.wait_end().success(), "{}", dev.said());

    let other = logdrive(&["dev", "--port", "0", "--dir", dir, "--nodes", "5"]);
    assert_eq!(other.status.code(), Some(3));
    assert!(
        text(&other.stderr).contains("holds a cluster of 3 nodes and 48 groups"),
        "{}",
        text(&other.stderr)
    );
}

#[test]
fn a_foreign_directory_and_a_used_port_are_refused() {
    let dir = temp_dir();
    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let refused = logdrive(&["dev", "--port", "0", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("is not empty and holds no cluster"), "{}", text(&refused.stderr));

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = logdrive(&["dev", "--port", &port.to_string()]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(text(&refused.stderr).contains(&format!("127.0.0.1:{port}: Address already in use")));
}
