//! Clusters of nodes with front doors in this process, and a client that shows replies as they came.

// Every test file is a crate of its own and uses its part.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use logdrive::api::TimingPreset;
use logdrive::kv::KvMachine;
use logdrive::runtime::{Engine, NodeSettings, PeerAddress};
use logdrive_shard::{GroupId, NodeId};
use logdrive_tools::redis::{FrontDoorConfig, Limits, service, service_on};
use tempfile::TempDir;

const CLUSTER: u64 = 0x10_67;

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
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A node's settings, its front door's, and the node while it runs.
struct Node {
    settings: NodeSettings,
    front_door: FrontDoorConfig,
    client_listener: Option<TcpListener>,
    engine: Option<Engine>,
}

pub struct Cluster {
    nodes: Vec<Node>,
    _dir: TempDir,
}

impl Cluster {
    /// A running cluster whose groups all have leaders.
    pub fn start(nodes: u32, cores: u16, groups: u64) -> Cluster {
        Cluster::start_with(nodes, cores, groups, Limits::default())
    }

    pub fn start_with(nodes: u32, cores: u16, groups: u64, limits: Limits) -> Cluster {
        let dir = tempfile::Builder::new().prefix("redis-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let peers: Vec<TcpListener> = (0..nodes).map(|_| listen()).collect();
        let clients: Vec<TcpListener> = (0..nodes).map(|_| listen()).collect();
        let addresses: Vec<PeerAddress> = (1..=nodes)
            .zip(peers.iter().zip(&clients))
            .map(|(id, (peer, client))| PeerAddress {
                node: NodeId(id),
                peer: peer.local_addr().unwrap().to_string(),
                client: client.local_addr().unwrap().to_string(),
            })
            .collect();
        let nodes = (1..=nodes).zip(peers).zip(clients).map(|((id, peer), client)| {
            let path = dir.path().join(format!("node-{id}"));
            let listen = peer.local_addr().unwrap();
            let mut settings =
                NodeSettings::new(CLUSTER, NodeId(id), path, listen, addresses.clone(), groups);
            settings.listener = Some(Arc::new(peer));
            settings.cores = cores;
            settings.bootstrap = true;
            settings.runtime.dial_backoff_max = Duration::from_millis(100);
            settings.core.wal.segment_bytes = 4 << 20;
            settings.core.wal.budget_bytes = 256 << 20;
            TimingPreset::Lan.apply_to(&mut settings.core.shard);
            let front_door = FrontDoorConfig {
                cluster: CLUSTER,
                listen: client.local_addr().unwrap(),
                cores,
                groups,
                payload_bytes_max: settings.core.payload_bytes_max,
                limits: limits.clone(),
            };
            Node { settings, front_door, client_listener: Some(client), engine: None }
        });
        let mut cluster = Cluster { nodes: nodes.collect(), _dir: dir };
        for id in 1..=cluster.nodes.len() as u32 {
            cluster.start_node(id);
        }
        cluster.await_leaders();
        cluster
    }

    #[track_caller]
    pub fn start_node(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize - 1];
        let front_door = match node.client_listener.take() {
            Some(listener) => service_on(listener, node.front_door.clone()),
            None => service(node.front_door.clone()),
        };
        let services = vec![front_door.unwrap()];
        let engine = Engine::start(node.settings.clone(), |_| KvMachine::new(), services);
        node.engine = Some(engine.unwrap());
        node.settings.listener = None;
        node.settings.bootstrap = false;
    }

    /// Stops a node as a crash would.
    pub fn crash(&mut self, id: u32) {
        self.nodes[id as usize - 1].engine = None;
    }

    #[track_caller]
    pub fn shutdown(&mut self, id: u32) {
        self.nodes[id as usize - 1].engine.take().unwrap().shutdown().unwrap();
    }

    /// Where a node's clients connect.
    pub fn address(&self, id: u32) -> SocketAddr {
        self.nodes[id as usize - 1].front_door.listen
    }

    /// URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("redis://{}", node.front_door.listen)).collect()
    }

    pub fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.nodes.len() as u32
    }

    fn groups(&self) -> u64 {
        self.nodes[0].settings.groups
    }

    fn engine(&self, id: u32) -> Option<&Engine> {
        self.nodes[id as usize - 1].engine.as_ref()
    }

    /// Waits until every running node knows one and the same running leader of each group.
    #[track_caller]
    pub fn await_leaders(&self) {
        for group in (1..=self.groups()).map(GroupId) {
            eventually("every node knows the group's leader", || {
                let seen: Vec<NodeId> = self
                    .ids()
                    .filter_map(|id| self.engine(id))
                    .map(|engine| engine.leader_of(group))
                    .collect();
                let leader = *seen.first()?;
                let runs = leader.is_some() && self.engine(leader.0).is_some();
                (runs && seen.iter().all(|seen| *seen == leader)).then_some(())
            });
        }
    }

    /// The group a key belongs to.
    pub fn group_of(&self, key: &str) -> GroupId {
        let slot = self.ids().find_map(|id| {
            self.engine(id)?;
            match Client::connect(self.address(id)).ask(&["CLUSTER", "KEYSLOT", key]) {
                Reply::Integer(slot) => Some(slot as u64),
                other => panic!("{other:?}"),
            }
        });
        let (slot, groups) = (slot.unwrap(), self.groups());
        GroupId(
            (1..=groups).find(|g| (g - 1) * 16_384 / groups <= slot && slot < g * 16_384 / groups).unwrap(),
        )
    }

    /// The node that leads a key's group.
    #[track_caller]
    pub fn leader_of(&self, key: &str) -> u32 {
        let group = self.group_of(key);
        eventually("a leader", || {
            self.ids()
                .find(|id| self.engine(*id).is_some_and(|engine| engine.leader_of(group) == NodeId(*id)))
        })
    }

    /// A node that does not lead a key's group.
    pub fn follower_of(&self, key: &str) -> u32 {
        let leader = self.leader_of(key);
        self.ids().find(|id| *id != leader && self.engine(*id).is_some()).unwrap()
    }

    /// Keys whose groups a node leads.
    pub fn keys_led_by(&self, id: u32, count: usize) -> Vec<String> {
        let mut client = Client::connect(self.address(id));
        let mut led = [false; 16_384];
        let Reply::Array(runs) = client.ask(&["CLUSTER", "SLOTS"]) else { panic!("no slots") };
        for run in runs {
            let Reply::Array(run) = run else { panic!("no run") };
            let (Reply::Integer(start), Reply::Integer(end), Reply::Array(node)) =
                (&run[0], &run[1], &run[2])
            else {
                panic!("{run:?}")
            };
            if node[1] == Reply::Integer(i64::from(self.address(id).port())) {
                led[*start as usize..=*end as usize].fill(true);
            }
        }
        let mut keys = Vec::new();
        for n in 0.. {
            let key = format!("key:{n}");
            client.send(&["CLUSTER", "KEYSLOT", &key]);
            let Reply::Integer(slot) = client.receive() else { panic!("no slot") };
            if led[slot as usize] {
                keys.push(key);
                if keys.len() == count {
                    break;
                }
            }
        }
        keys
    }
}

/// A reply of RESP2 or RESP3.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(String),
    Nil,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
}

impl Reply {
    pub fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    pub fn ok() -> Reply {
        Reply::Simple("OK".to_owned())
    }

    #[track_caller]
    pub fn error(&self) -> &str {
        match self {
            Reply::Error(text) => text,
            other => panic!("no error: {other:?}"),
        }
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        match self {
            Reply::Bulk(bytes) => std::str::from_utf8(bytes).unwrap(),
            Reply::Verbatim(text) | Reply::Simple(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }
}

/// A client that follows no redirect and hides nothing.
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Client {
        let writer = TcpStream::connect(address).unwrap();
        writer.set_nodelay(true).unwrap();
        writer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client { reader: BufReader::new(writer.try_clone().unwrap()), writer }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.writer
    }

    pub fn encode(arguments: &[&str]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            out.extend(format!("${}\r\n{argument}\r\n", argument.len()).bytes());
        }
        out
    }

    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    #[track_caller]
    pub fn send(&mut self, arguments: &[&str]) {
        self.send_bytes(&Client::encode(arguments));
    }

    #[track_caller]
    pub fn ask(&mut self, arguments: &[&str]) -> Reply {
        self.send(arguments);
        self.receive()
    }

    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        self.try_receive().expect("a reply")
    }

    /// `None` when the connection ends.
    pub fn try_receive(&mut self) -> Option<Reply> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let (kind, text) = line.trim_end().split_at(1);
        let len = || text.parse::<i64>().unwrap();
        Some(match kind {
            "+" => Reply::Simple(text.to_owned()),
            "-" => Reply::Error(text.to_owned()),
            ":" => Reply::Integer(len()),
            "_" => Reply::Nil,
            "$" | "*" if len() < 0 => Reply::Nil,
            "$" => Reply::Bulk(self.bytes(len() as usize)?),
            "=" => Reply::Verbatim(String::from_utf8(self.bytes(len() as usize)?.split_off(4)).unwrap()),
            "*" => Reply::Array((0..len()).map(|_| self.try_receive()).collect::<Option<_>>()?),
            "~" => Reply::Set((0..len()).map(|_| self.try_receive()).collect::<Option<_>>()?),
            "%" => Reply::Map(
                (0..len())
                    .map(|_| Some((self.try_receive()?, self.try_receive()?)))
                    .collect::<Option<_>>()?,
            ),
            other => panic!("not a reply: {other}{text}"),
        })
    }

    fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len + 2];
        self.reader.read_exact(&mut bytes).ok()?;
        assert_eq!(bytes.split_off(len), b"\r\n");
        Some(bytes)
    }
}
