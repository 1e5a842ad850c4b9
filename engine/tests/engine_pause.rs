//! A node in a process of its own is stopped for longer than its leases last, and goes on in the middle of what it did.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
mod engine_common;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use engine_common::{CLUSTER, Cluster, eventually, get, small};
use futures_lite::future::block_on;
use logdrive::api::ReadPolicy;
use logdrive::kv::{KvMachine, Reply};
use logdrive::runtime::{Engine, NodeSettings, PeerAddress};
use logdrive_shard::{GroupId, NodeId};
use rustix::process::{Pid, Signal, kill_process};

/// Set for the process of the node: its directory, and the addresses of all nodes.
const PLACES: &str = "LOGDRIVE_TEST_PAUSED_NODE";
const NODE: &str = "the_node_that_is_stopped";
/// Reads that lie in its pipe when it goes on.
const READS: usize = 20;

/// Node 1, in a process of its own. Ended when dropped.
struct Paused {
    child: Child,
    asks: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Paused {
    fn start(places: String) -> Paused {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NODE, "--exact", "--nocapture"])
            .env(PLACES, places)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asks, says) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Paused { child, asks, says: BufReader::new(says).lines() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn ask(&mut self) {
        writeln!(self.asks, "read").unwrap();
    }

    /// What it says of the key, or why it does not.
    fn answer(&mut self) -> String {
        loop {
            let line = self.says.next().expect("it goes on").unwrap();
            if let Some((_, answer)) = line.split_once("answer: ") {
                return answer.to_owned();
            }
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_leader_that_was_stopped_longer_than_its_lease_does_not_trust_it() {
    let mut cluster = Cluster::new(3, 1, 1);
    let addresses: Vec<String> = cluster.settings.iter().map(|node| node.listen.to_string()).collect();
    let dir = cluster.path().join("node-1");
    // The address is its own from now on.
    cluster.settings(1).listener = None;
    for id in [2, 3] {
        cluster.settings(id).core.balance_leaders = false;
        cluster.start_node(id);
    }
    cluster.set(1, "k", "old");
    let mut paused = Paused::start(format!("{};{}", dir.display(), addresses.join(";")));
    eventually("the node to lead", || {
        let leader = cluster.engine(2).leader_of(GroupId(1));
        if [2, 3].contains(&leader.0) {
            // How it ended is seen by who leads.
            let _ = block_on(cluster.group(leader.0, 1).transfer_leadership(NodeId(1)));
        }
        (leader == NodeId(1)).then_some(())
    });
    for _ in 0..READS {
        paused.ask();
        assert_eq!(paused.answer(), "old");
    }

    paused.signal(Signal::STOP);
    // The others give it up, elect another one, and go on.
    cluster.set(1, "k", "new");
    (0..READS).for_each(|_| paused.ask());
    paused.signal(Signal::CONT);
    let answers: Vec<String> = (0..READS).map(|_| paused.answer()).collect();
    assert!(answers.iter().all(|answer| answer != "old"), "a stale read: {answers:?}");
    eventually("the node to know who leads", || {
        paused.ask();
        paused.answer().contains("not the leader").then_some(())
    });
}

/// Not a test but the other process: it does nothing unless it was started for that.
#[test]
fn the_node_that_is_stopped() {
    let Ok(places) = std::env::var(PLACES) else { return };
    let mut places = places.split(';');
    let dir = places.next().expect("a directory");
    let peers: Vec<PeerAddress> = (1..)
        .zip(places)
        .map(|(id, peer)| PeerAddress { node: NodeId(id), peer: peer.to_owned(), client: String::new() })
        .collect();
    let address: SocketAddr = peers[0].peer.parse().unwrap();
    let mut settings = NodeSettings::new(CLUSTER, NodeId(1), dir, address, peers, 1);
    settings.bootstrap = true;
    small(&mut settings);
    settings.core.balance_leaders = false;
    let engine = Engine::start(settings, |_| KvMachine::new(), Vec::new()).unwrap();
    let group = engine.group(GroupId(1)).unwrap();
    for line in std::io::stdin().lines() {
        assert_eq!(line.unwrap(), "read");
        let answer = match block_on(group.read(ReadPolicy::LeaderLease, get("k"))) {
            Ok(reply) => match Reply::decode(&reply).unwrap() {
                Reply::Value(value) => String::from_utf8(value.to_vec()).unwrap(),
                other => format!("{other:?}"),
            },
            Err(error) => error.to_string(),
        };
        println!("answer: {answer}");
    }
}
