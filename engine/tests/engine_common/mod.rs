//! Clusters of real engines in this process: loopback TCP, real directories.

// Every test file is a crate of its own and uses its part.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use logdrive::api::{Error, ReadPolicy, Retry, TimingPreset};
use logdrive::kv::{Command, Condition, KvMachine, Query, Reply};
use logdrive::runtime::{Engine, Group, NodeSettings, PeerAddress, Service, StartError};
use logdrive_shard::{GroupId, NodeId};
use tempfile::TempDir;

pub const CLUSTER: u64 = 0x10_67;

/// Polls until `done` says something, for a minute at most.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "a test waits for the real world")]
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub struct Cluster {
    pub settings: Vec<NodeSettings>,
    pub engines: Vec<Option<Engine>>,
    /// Dropped after the engines.
    dir: TempDir,
}

impl Cluster {
    /// Settings for `nodes` nodes that know each other; none is started.
    pub fn new(nodes: u32, cores: u16, groups: u64) -> Cluster {
        let dir = tempfile::Builder::new().prefix("engine-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let listeners: Vec<TcpListener> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let peers: Vec<PeerAddress> = (1..=nodes)
            .map(|id| PeerAddress {
                node: NodeId(id),
                peer: addresses[id as usize - 1].to_string(),
                client: String::new(),
            })
            .collect();
        let settings = (1..=nodes).zip(listeners).map(|(id, listener)| {
            let address = addresses[id as usize - 1];
            let dir = dir.path().join(format!("node-{id}"));
            let mut settings = NodeSettings::new(CLUSTER, NodeId(id), dir, address, peers.clone(), groups);
            settings.listener = Some(Arc::new(listener));
            settings.cores = cores;
            settings.bootstrap = true;
            small(&mut settings);
            settings
        });
        let settings: Vec<NodeSettings> = settings.collect();
        Cluster { dir, engines: settings.iter().map(|_| None).collect(), settings }
    }

    /// A running cluster.
    pub fn start(nodes: u32, cores: u16, groups: u64) -> Cluster {
        let mut cluster = Cluster::new(nodes, cores, groups);
        for id in 1..=nodes {
            cluster.start_node(id);
        }
        cluster
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn settings(&mut self, id: u32) -> &mut NodeSettings {
        &mut self.settings[id as usize - 1]
    }

    pub fn try_start(&mut self, id: u32, services: Vec<Box<Service>>) -> Result<(), StartError> {
        let at = id as usize - 1;
        let engine = Engine::start(self.settings[at].clone(), |_| KvMachine::new(), services)?;
        // From now on the directory must be there. The listener stays open while the node is down: another test could take the
        // port.
        self.settings[at].bootstrap = false;
        self.engines[at] = Some(engine);
        Ok(())
    }

    #[track_caller]
    pub fn start_node(&mut self, id: u32) {
        self.try_start(id, Vec::new()).unwrap();
    }

    /// Stops a node as a crash would.
    pub fn crash(&mut self, id: u32) {
        self.engines[id as usize - 1] = None;
    }

    #[track_caller]
    pub fn shutdown(&mut self, id: u32) {
        self.engines[id as usize - 1].take().unwrap().shutdown().unwrap();
    }

    #[track_caller]
    pub fn engine(&self, id: u32) -> &Engine {
        self.engines[id as usize - 1].as_ref().unwrap()
    }

    #[track_caller]
    pub fn group(&self, id: u32, group: u64) -> Group {
        self.engine(id).group(GroupId(group)).unwrap()
    }

    pub fn running(&self) -> impl Iterator<Item = (u32, &Engine)> {
        self.engines.iter().zip(1..).filter_map(|(engine, id)| engine.as_ref().map(|engine| (id, engine)))
    }

    /// The running node that leads a group, once there is one.
    #[track_caller]
    pub fn leader(&self, group: u64) -> u32 {
        eventually("a leader", || {
            let leads = |(id, engine): &(u32, &Engine)| engine.leader_of(GroupId(group)) == NodeId(*id);
            self.running().find(leads).map(|(id, _)| id)
        })
    }

    /// Waits until all nodes are connected. Until then one may not have met another in its present boot, and would not refuse
    /// an earlier one.
    #[track_caller]
    pub fn await_links(&self) {
        eventually("all nodes are connected", || {
            let connected = |engine: &Engine| engine.peers().iter().all(|peer| peer.links > 0);
            self.running().all(|(_, engine)| connected(engine)).then_some(())
        });
    }

    /// Waits until every group has a leader.
    #[track_caller]
    pub fn await_leaders(&self) {
        for group in 1..=self.settings[0].groups {
            self.leader(group);
        }
    }

    /// Proposes at the leader, again after refusals of which nothing was appended.
    #[track_caller]
    pub fn propose(&self, group: u64, payload: &[u8]) -> Vec<u8> {
        eventually("the proposal is taken", || {
            let leader = self.leader(group);
            match block_on(self.group(leader, group).propose(payload.to_vec())) {
                Ok(reply) => Some(reply),
                Err(error) => match error.retry() {
                    Retry::At(_) | Retry::After(_) => None,
                    _ => panic!("the proposal failed: {error}"),
                },
            }
        })
    }

    #[track_caller]
    pub fn set(&self, group: u64, key: &str, value: &str) {
        let reply = self.propose(group, &set(key, value));
        assert_eq!(Reply::decode(&reply).unwrap(), Reply::Ok);
    }

    /// Reads at one node under a policy.
    pub fn read(&self, id: u32, group: u64, key: &str, policy: ReadPolicy) -> Result<Option<String>, Error> {
        let reply = block_on(self.group(id, group).read(policy, get(key)))?;
        Ok(match Reply::decode(&reply).unwrap() {
            Reply::Value(value) => Some(String::from_utf8(value.to_vec()).unwrap()),
            Reply::Nil => None,
            other => panic!("an unexpected reply: {other:?}"),
        })
    }

    /// Reads at the leader, linearizable.
    #[track_caller]
    pub fn get(&self, group: u64, key: &str) -> Option<String> {
        eventually("the read is answered", || {
            self.read(self.leader(group), group, key, ReadPolicy::Linearizable).ok()
        })
    }

    /// Waits until every running node has applied the same state of all groups.
    #[track_caller]
    pub fn await_equal(&self) {
        for group in 1..=self.settings[0].groups {
            eventually("all nodes applied the same", || {
                let state = |(id, _): (u32, &Engine)| block_on(self.group(id, group).digest()).unwrap();
                let states: Vec<_> = self.running().map(state).collect();
                states.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
            });
        }
    }
}

/// Small files and quick elections.
pub fn small(settings: &mut NodeSettings) {
    TimingPreset::Lan.apply_to(&mut settings.core.shard);
    settings.core.wal.segment_bytes = 2 << 20;
    settings.core.wal.budget_bytes = 64 << 20;
    settings.runtime.dial_backoff_max = Duration::from_millis(100);
}

pub fn set(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (key, value) = (key.as_bytes(), value.as_bytes());
    Command::Set { key, value, condition: Condition::Always, get: false }.encode(&mut out);
    out
}

pub fn increment(key: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Command::Increment { key: key.as_bytes(), by: 1 }.encode(&mut out);
    out
}

pub fn get(key: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Query::Get { key: key.as_bytes() }.encode(&mut out);
    out
}

/// Log lines of the engine on stderr, for `--nocapture`; as RUST_LOG says.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Another test of this process may have done it.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
