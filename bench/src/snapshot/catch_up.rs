//! A new node is brought up: two nodes of a cluster in this process, with everything that nodes have, over TCP on loopback. The first has
//! one group with all the keys, and the second joins and becomes a learner of it, while a client writes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_lite::future::block_on;
use logdrive::api::Error;
use logdrive::kv::{Command, Condition, KvMachine};
use logdrive::runtime::{Engine, Group, NodeSettings, PeerAddress};
use logdrive_shard::{GroupId, MemberStep, MembershipChange, NodeId, Random};
use serde::Serialize;

use super::subject::{KEY_BYTES, key};
use crate::cli::SnapshotArgs;
use crate::clock;
use crate::latency::{Latencies, LatencySummary};
use crate::payload::Payloads;

const GROUP: GroupId = GroupId(1);
/// What is filled in with one command, and how many of these are proposed at once.
const FILL_BYTES: u64 = 256 << 10;
const FILL_AT_ONCE: u64 = 8;
const POLL: Duration = Duration::from_millis(2);
/// Until the group has a leader; until the new node is there.
const ELECTION_MAX: Duration = Duration::from_secs(60);
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

/// What was measured between two nodes.
#[derive(Debug, Default, Serialize)]
pub(super) struct CatchUp {
    /// Of the chunks that the new node took.
    pub(super) transfer_bytes: u64,
    /// From the first byte that it took to the last.
    pub(super) transfer_seconds: f64,
    /// From the change that makes it a learner until it had applied what the leader had applied then: transfer, verification,
    /// installation, and what of the log came after the snapshot.
    pub(super) catch_up_seconds: f64,
    /// A snapshot as a core takes it by itself, in slices beside a client's writes.
    pub(super) beside_writes_seconds: f64,
    /// Of a durable write by a client that has one under way: nothing else going on; while snapshots are written; while the new node
    /// is brought up.
    pub(super) writes_us: LatencySummary,
    pub(super) writes_with_snapshots_us: LatencySummary,
    pub(super) writes_meanwhile_us: LatencySummary,
    /// The p99 without and with snapshots, round by round.
    pub(super) p99_rounds_us: Vec<(f64, f64)>,
    /// Both nodes had the same at the end.
    pub(super) ok: bool,
}

/// Two nodes, the second not started yet.
struct Pair {
    engines: Vec<Engine>,
    second: Option<NodeSettings>,
    address: PeerAddress,
}

pub(super) fn measure(path: &Path, keys: u64, arguments: &SnapshotArgs) -> Result<CatchUp> {
    let mut pair = Pair::start(path, keys, arguments)?;
    let first = pair.engines[0].group(GROUP)?;
    wait_for("a leader", ELECTION_MAX, || Ok((first.leader() == NodeId(1)).then_some(())))?;
    fill(&first, keys, arguments)?;
    let client = Client { group: first.clone(), keys, arguments };
    let mut found = client.beside_snapshots()?;
    let (meanwhile, ()) = client.while_busy(|| pair.bring_up(&mut found))?;
    found.writes_meanwhile_us = meanwhile.summary();
    found.ok = pair.are_equal()?;
    for engine in pair.engines {
        engine.shutdown().context("a node did not stop cleanly")?;
    }
    Ok(found)
}

impl Pair {
    fn start(path: &Path, keys: u64, arguments: &SnapshotArgs) -> Result<Pair> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut nodes = Vec::new();
        for node in [NodeId(1), NodeId(2)] {
            let listener = TcpListener::bind(any).context("cannot listen on loopback")?;
            let peer = listener.local_addr().context("cannot ask for a port")?.to_string();
            nodes.push((PeerAddress { node, client: peer.clone(), peer }, listener));
        }
        let known: Vec<PeerAddress> = nodes.iter().map(|node| node.0.clone()).collect();
        let address = known[1].clone();
        let bytes = keys * (u64::from(arguments.value) + KEY_BYTES as u64 + 64);
        let mut settings =
            nodes.into_iter().zip([&known[..1], &known[..]]).map(|((own, listener), known)| {
                let path = path.join(format!("node-{}", own.node));
                let mut settings =
                    NodeSettings::new(arguments.seed | 1, own.node, path, any, known.to_vec(), 1);
                settings.listener = Some(Arc::new(listener));
                (settings.bootstrap, settings.join) = (own.node == NodeId(1), own.node != NodeId(1));
                // All of the keys go through the log before the first snapshot is taken, which is on order.
                settings.core.wal.budget_bytes = (bytes * 2).max(1 << 30);
                let snapshots = &mut settings.core.snapshots;
                (snapshots.every_entries, snapshots.every_bytes) = (0, 0);
                snapshots.group_log_bytes_max = u64::MAX;
                snapshots.keep_trailing_entries = 1;
                // What a link and the machine give.
                snapshots.transfer_bytes_per_s = 0;
                settings
            });
        let (first, second) = (settings.next().context("two nodes")?, settings.next());
        drop(settings);
        let engine =
            Engine::start(first, |_| KvMachine::new(), Vec::new()).context("node 1 did not start")?;
        Ok(Pair { engines: vec![engine], second, address })
    }

    fn bring_up(&mut self, found: &mut CatchUp) -> Result<()> {
        self.engines[0].add_node(self.address.clone()).context("node 2 is not taken")?;
        let settings = self.second.take().context("node 2 is brought up once")?;
        let engine = Engine::start(settings, |_| KvMachine::new(), Vec::new());
        self.engines.push(engine.context("node 2 did not start")?);
        let [first, second] = [self.engines[0].group(GROUP)?, self.engines[1].group(GROUP)?];
        let way = |engine: &Engine| engine.status().iter().all(|core| core.links_alive > 0);
        wait_for("a connection between the nodes", ELECTION_MAX, || Ok(way(&self.engines[0]).then_some(())))?;
        let target = block_on(first.status())?.applied;
        let begin = clock::now_nanos();
        let change = MembershipChange::of(&[MemberStep::AddLearner(NodeId(2))]);
        block_on(first.change_membership(change)).context("node 2 was not made a learner")?;
        let (mut began, mut ended, mut looked) = (None, begin, begin);
        wait_for("the new node to be brought up", CATCH_UP_MAX, || {
            let taken = self.engines[1].status().iter().map(|core| core.transfer_bytes_taken).sum();
            if taken > found.transfer_bytes {
                (found.transfer_bytes, ended) = (taken, clock::now_nanos());
                // It came after the look before.
                began.get_or_insert(looked);
            }
            looked = clock::now_nanos();
            Ok((block_on(second.status())?.applied >= target).then_some(()))
        })?;
        found.catch_up_seconds = clock::since(begin).as_secs_f64();
        found.transfer_seconds = (ended - began.unwrap_or(ended)) as f64 / 1e9;
        Ok(())
    }

    /// Whether both have applied the same; nothing is written any more.
    fn are_equal(&self) -> Result<bool> {
        let [first, second] = [self.engines[0].group(GROUP)?, self.engines[1].group(GROUP)?];
        wait_for("the new node to apply all", CATCH_UP_MAX, || {
            let (ours, theirs) = (block_on(first.status())?.applied, block_on(second.status())?.applied);
            Ok((ours == theirs).then_some(()))
        })?;
        Ok(block_on(first.digest())?.digest == block_on(second.digest())?.digest)
    }
}

fn fill(group: &Group, keys: u64, arguments: &SnapshotArgs) -> Result<()> {
    let mut payloads = Payloads::new(arguments.seed, 1, arguments.value as usize);
    let each = (FILL_BYTES / (u64::from(arguments.value) + KEY_BYTES as u64 + 8)).max(1);
    let mut next = 0;
    while next < keys {
        let mut commands = Vec::new();
        for _ in 0..FILL_AT_ONCE {
            let part = next..keys.min(next + each);
            next = part.end;
            let pairs: Vec<_> = part.map(|number| (key(number), payloads.next().to_vec())).collect();
            let pairs: Vec<(&[u8], &[u8])> =
                pairs.iter().map(|(key, value)| (&key[..], &value[..])).collect();
            let mut command = Vec::new();
            Command::SetMany { pairs: &pairs }.encode(&mut command);
            commands.push(command);
        }
        for answer in block_on(group.propose_batch(commands)) {
            answer.context("the keys could not be written")?;
        }
    }
    Ok(())
}

/// Sets keys at random, one after the other.
struct Client<'a> {
    group: Group,
    keys: u64,
    arguments: &'a SnapshotArgs,
}

impl Client<'_> {
    /// Writes without and with snapshots, turn about: what the machine and its disk do meanwhile meets both.
    fn beside_snapshots(&self) -> Result<CatchUp> {
        let seconds = Duration::from_secs_f64(self.arguments.seconds);
        let (mut quiet, mut busy) = (Latencies::new()?, Latencies::new()?);
        let (mut rounds, mut snapshots, mut took) = (Vec::new(), 0, Duration::ZERO);
        for _ in 0..self.arguments.rounds {
            let (without, ()) = self.while_busy(|| {
                std::thread::sleep(seconds);
                Ok(())
            })?;
            let begin = clock::now_nanos();
            let (with, taken) = self.while_busy(|| {
                let mut taken = 0;
                while taken == 0 || clock::since(begin) < seconds {
                    block_on(self.group.snapshot()).context("a snapshot was not taken")?;
                    taken += 1;
                }
                Ok(taken)
            })?;
            took += clock::since(begin);
            snapshots += taken;
            rounds.push((without.summary().p99, with.summary().p99));
            quiet.add(&without);
            busy.add(&with);
        }
        Ok(CatchUp {
            beside_writes_seconds: took.as_secs_f64() / f64::from(snapshots),
            writes_us: quiet.summary(),
            writes_with_snapshots_us: busy.summary(),
            p99_rounds_us: rounds,
            ..CatchUp::default()
        })
    }

    /// The client writes until `work` is done.
    fn while_busy<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(Latencies, R)> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| self.write(&stop));
            let result = work();
            stop.store(true, Ordering::Relaxed);
            let latencies = writes.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
            Ok((latencies?, result?))
        })
    }

    fn write(&self, stop: &AtomicBool) -> Result<Latencies> {
        let mut latencies = Latencies::new()?;
        let mut payloads = Payloads::new(self.arguments.seed, 2, self.arguments.value as usize);
        let mut random = Random::new(self.arguments.seed);
        while !stop.load(Ordering::Relaxed) {
            let (key, value) = (key(random.below(self.keys)), payloads.next());
            let mut command = Vec::new();
            Command::Set { key: &key, value, condition: Condition::Always, get: false }.encode(&mut command);
            let begin = clock::now_nanos();
            match block_on(self.group.propose(command)) {
                Ok(_) => latencies.record(clock::now_nanos() - begin),
                Err(Error::Busy { .. }) => std::thread::sleep(POLL),
                Err(error) => return Err(error).context("a write was not acknowledged"),
            }
        }
        Ok(latencies)
    }
}

fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = clock::now_nanos();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if clock::since(begin) > patience {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
