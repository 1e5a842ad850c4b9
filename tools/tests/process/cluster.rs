//! Clusters of real processes for the tests. Whatever way a test ends, its processes are ended, by their ids.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for a machine that runs other things as well; nothing waits this long when all is well. `LOGDRIVE_PATIENCE_S` if
/// set, for tests that were made large.
pub(crate) fn patience() -> Duration {
    let seconds = std::env::var("LOGDRIVE_PATIENCE_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// The machine is shared: one cluster at a time, so that a test's timing is its own.
static ONE_CLUSTER: Mutex<()> = Mutex::new(());

#[allow(clippy::disallowed_methods, reason = "tests of processes wait in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks until there is an answer; fails the test if none comes.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + patience();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < deadline, "waited {} s for {what}", patience().as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory on the disk of the build, removed when dropped.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A port that nothing listens on, below those that the kernel gives to outgoing connections: a node that is restarted
/// finds its port free.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 12_000 + (std::process::id() % 1000) as u16 * 20;
    for _ in 0..20_000 {
        let port = 12_000 + (start - 12_000 + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// How a test wants its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: u32,
    pub(crate) groups: u64,
    pub(crate) cores: u16,
    pub(crate) timing: &'static str,
    /// Appended to every `node.toml`.
    pub(crate) more: &'static str,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { nodes: 3, groups: 64, cores: 1, timing: "lan", more: "" }
    }
}

/// One node: its places, and its process while it runs.
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) clients: String,
    pub(crate) peers: String,
    pub(crate) config: PathBuf,
    pub(crate) dir: PathBuf,
    stderr: PathBuf,
    process: Option<Process>,
}

struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts the process; `Node::wait_ready` waits for it.
    pub(crate) fn spawn(&mut self, bootstrap: bool) {
        self.spawn_with(if bootstrap { &["--bootstrap"] } else { &[] });
    }

    /// The first start of a node that joins a cluster.
    pub(crate) fn spawn_to_join(&mut self) {
        self.spawn_with(&["--join"]);
    }

    fn spawn_with(&mut self, arguments: &[&str]) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let stderr = File::options().create(true).append(true).open(&self.stderr).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_logdrive"));
        command.arg("serve").arg("--config").arg(&self.config).args(arguments);
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        self.process = Some(Process { child, lines });
    }

    pub(crate) fn wait_ready(&mut self) {
        let process = self.process.as_ref().unwrap();
        let line = process.lines.recv_timeout(patience());
        let line =
            line.unwrap_or_else(|error| panic!("node {} is not ready ({error}): {}", self.id, self.stderr()));
        assert!(line.starts_with(&format!("ready node={} ", self.id)), "{line}");
    }

    /// What it wrote to standard error since the first start.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = &self.process.as_ref().unwrap().child;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let what = format!("the end of node {}", self.id);
        let mut process = self.process.take().unwrap();
        wait_for(&what, || process.child.try_wait().unwrap())
    }

    /// `kill -9`: nothing is flushed, nothing is said.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// SIGTERM and a clean end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_end();
        assert!(status.success(), "node {}: {status}: {}", self.id, self.stderr());
    }

    /// A connection to this node alone, which follows no redirects.
    pub(crate) fn connect(&self) -> Option<redis::Connection> {
        let client = redis::Client::open(format!("redis://{}", self.clients)).unwrap();
        let connection = client.get_connection_with_timeout(Duration::from_secs(2)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Some(connection)
    }

    /// A count summed over the node's cores, if it answers.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        let json: String = redis::cmd("LOGDRIVE").arg("STATUS").query(&mut self.connect()?).ok()?;
        let status: serde_json::Value = serde_json::from_str(&json).unwrap();
        let cores = status["cores"].as_array().unwrap_or_else(|| panic!("no cores in {json}"));
        Some(
            cores
                .iter()
                .map(|core| core[name].as_u64().unwrap_or_else(|| panic!("no {name} in {json}")))
                .sum(),
        )
    }
}

/// A cluster; only one at a time.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) shape: Shape,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// A second process for a node's directory and identity, with listening addresses of its own.
    pub(crate) fn twin(node: &Node) -> Node {
        let config = node.config.with_extension("twin.toml");
        let (clients, peers) = (free_port(), free_port());
        let listen = format!(
            "[listen]\nclients = \"127.0.0.1:{clients}\"\npeers = \"127.0.0.1:{peers}\"\n[[nodes]]\n"
        );
        let text = std::fs::read_to_string(&node.config).unwrap();
        std::fs::write(&config, text.replacen("[[nodes]]\n", &listen, 1)).unwrap();
        let stderr = node.stderr.with_extension("twin.stderr");
        Node {
            id: node.id,
            clients: format!("127.0.0.1:{clients}"),
            peers: format!("127.0.0.1:{peers}"),
            config,
            dir: node.dir.clone(),
            stderr,
            process: None,
        }
    }

    /// The directories and files of a cluster, nothing started.
    pub(crate) fn prepare(shape: Shape) -> Cluster {
        let alone = ONE_CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = temp_dir();
        let ports: Vec<(u16, u16)> = (0..shape.nodes).map(|_| (free_port(), free_port())).collect();
        let list: String = (1..).zip(&ports).map(|(id, ports)| node_entry(id, *ports)).collect();
        let node = |(id, (clients, peers)): (u32, &(u16, u16))| {
            let config = dir.path().join(format!("node-{id}.toml"));
            std::fs::write(&config, node_file(7, id, &shape, &list)).unwrap();
            Node {
                id,
                clients: format!("127.0.0.1:{clients}"),
                peers: format!("127.0.0.1:{peers}"),
                config,
                dir: dir.path().join(format!("node-{id}")),
                stderr: dir.path().join(format!("node-{id}.stderr")),
                process: None,
            }
        };
        let nodes = (1..).zip(&ports).map(node).collect();
        Cluster { nodes, shape, dir, _alone: alone }
    }

    /// A further node that is to join; its place among the nodes. Nothing is started.
    pub(crate) fn add_node(&mut self) -> usize {
        let (id, ports) = (self.nodes.len() as u32 + 1, (free_port(), free_port()));
        let dir = self.dir.path();
        let config = dir.join(format!("node-{id}.toml"));
        let port = |address: &str| address.rsplit_once(':').unwrap().1.parse().unwrap();
        let known =
            self.nodes.iter().map(|node| node_entry(node.id, (port(&node.clients), port(&node.peers))));
        let list: String = known.chain([node_entry(id, ports)]).collect();
        std::fs::write(&config, node_file(7, id, &self.shape, &list)).unwrap();
        self.nodes.push(Node {
            id,
            clients: format!("127.0.0.1:{}", ports.0),
            peers: format!("127.0.0.1:{}", ports.1),
            config,
            dir: dir.join(format!("node-{id}")),
            stderr: dir.join(format!("node-{id}.stderr")),
            process: None,
        });
        self.nodes.len() - 1
    }

    /// A cluster that runs and has a leader for every group.
    pub(crate) fn start(shape: Shape) -> Cluster {
        let mut cluster = Cluster::prepare(shape);
        cluster.nodes.iter_mut().for_each(|node| node.spawn(true));
        cluster.nodes.iter_mut().for_each(Node::wait_ready);
        cluster.wait_for_leaders();
        cluster
    }

    /// Leaders on all nodes that answer.
    pub(crate) fn leaders(&self) -> u64 {
        self.nodes.iter().filter(|node| node.process.is_some()).filter_map(|node| node.count("leaders")).sum()
    }

    pub(crate) fn wait_for_leaders(&self) {
        wait_for("a leader of every group", || (self.leaders() == self.shape.groups).then_some(()));
    }

    /// Where clients find the nodes.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses(self.nodes.iter().map(|node| format!("redis://{}", node.clients)).collect())
    }

    /// One digest per group, as this node has it.
    pub(crate) fn digests(&self, node: usize) -> Vec<String> {
        let mut connection = self.nodes[node].connect().unwrap();
        let mut digest = |group: u64| {
            let answer = redis::cmd("LOGDRIVE").arg("DIGEST").arg(group).query(&mut connection);
            answer.unwrap_or_else(|error| panic!("digest of group {group}: {error}"))
        };
        (1..=self.shape.groups).map(&mut digest).collect()
    }

    /// All nodes have applied the same.
    pub(crate) fn wait_for_equal_digests(&self) {
        self.wait_for_equal_digests_of(&(0..self.nodes.len()).collect::<Vec<_>>());
    }

    /// These nodes have applied the same.
    pub(crate) fn wait_for_equal_digests_of(&self, nodes: &[usize]) {
        wait_for("equal digests on all nodes", || {
            let first = self.digests(nodes[0]);
            nodes[1..].iter().all(|node| self.digests(*node) == first).then_some(())
        });
    }
}

/// The client addresses of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(Vec<String>);

impl Addresses {
    /// A client that knows the whole cluster, as applications use it.
    pub(crate) fn client(&self) -> redis::cluster::ClusterConnection {
        let client = redis::cluster::ClusterClientBuilder::new(self.0.clone())
            .connection_timeout(Duration::from_secs(2))
            .response_timeout(Duration::from_secs(8))
            .build()
            .unwrap();
        wait_for("a connection to the cluster", || client.get_connection().ok())
    }
}

fn node_entry(id: u32, (clients, peers): (u16, u16)) -> String {
    format!("[[nodes]]\nid = {id}\nclients = \"127.0.0.1:{clients}\"\npeers = \"127.0.0.1:{peers}\"\n")
}

fn node_file(cluster: u64, id: u32, shape: &Shape, list: &str) -> String {
    let Shape { groups, cores, timing, more, .. } = shape;
    format!(
        "cluster = {cluster}\nnode = {id}\ndirectory = \"node-{id}\"\ngroups = {groups}\ncores = {cores}\n{list}\
         [timing]\npreset = \"{timing}\"\n{more}"
    )
}

/// Runs the binary to its end.
pub(crate) fn logdrive(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_logdrive")).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

/// As text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Replaces a text in a file.
pub(crate) fn edit(path: &Path, from: &str, to: &str) {
    let old = std::fs::read_to_string(path).unwrap();
    assert!(old.contains(from), "{from} is not in {}", path.display());
    std::fs::write(path, old.replace(from, to)).unwrap();
}
