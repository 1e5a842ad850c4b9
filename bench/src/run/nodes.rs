//! The nodes of a run: started, waited for, asked, stopped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use logdrive::core::CoreStatus;
use logdrive::runtime::{CoreClient, Engine, Hooks, NodeSettings, PeerAddress, Service};
use logdrive_shard::NodeId;

use super::clients::{self, ClientSettings};
use super::control::Control;
use crate::cli::RunArgs;
use crate::clock;
use crate::directory;
use crate::environment;
use crate::format::{count, plural};
use crate::machine::Counted;

/// Until every group has a leader, and until leaders are spread over the nodes, beside a time for each group.
const ELECTIONS_MAX: Duration = Duration::from_secs(60);
const ELECTION_PER_GROUP_MAX: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(20);
/// At the end nobody needs the leaders any more.
const HAND_OVER_MAX: Duration = Duration::from_millis(1);

/// The nodes, running.
pub(super) struct Nodes {
    pub(super) engines: Vec<Engine>,
    /// Entries applied by each node.
    pub(super) applied: Vec<Arc<AtomicU64>>,
}

/// How many segments every log gets before the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    pub(super) segments: u32,
    pub(super) segment_bytes: u64,
}

/// Counters of all logs together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogCounts {
    pub(super) writes: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

/// Snapshots of all nodes together.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct SnapshotCounts {
    /// Since the start.
    pub(super) written: u64,
    pub(super) failed: u64,
    /// There now.
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Nodes {
    /// Starts all nodes at once: each prepares its logs.
    pub(super) fn start(
        arguments: &RunArgs,
        directory: &Path,
        prepared: Prepared,
        control: &Arc<Control>,
    ) -> Result<Nodes> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for node in 1..=arguments.nodes {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = TcpListener::bind(any).context("cannot listen on loopback")?;
            let peer = listener.local_addr().context("cannot ask for a port")?.to_string();
            addresses.push(PeerAddress { node: NodeId(node), client: peer.clone(), peer });
            listeners.push(listener);
        }
        let applied: Vec<_> = (0..arguments.nodes).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut engines = Vec::new();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (number, listener) in listeners.into_iter().enumerate() {
                let settings = node_settings(arguments, directory, prepared, number, listener, &addresses);
                let service = client_service(arguments, number, Arc::clone(control));
                let (applied, kind) = (Arc::clone(&applied[number]), arguments.machine);
                threads.push(scope.spawn(move || {
                    Engine::start(settings, move |_| Counted::new(kind, Arc::clone(&applied)), vec![service])
                }));
            }
            for (number, thread) in threads.into_iter().enumerate() {
                let engine = thread.join().map_err(|_| anyhow::anyhow!("starting a node panicked"))?;
                engines.push(engine.with_context(|| format!("node {} did not start", number + 1))?);
            }
            anyhow::Ok(())
        })?;
        Ok(Nodes { engines, applied })
    }

    /// Waits until every group has a leader and leaders are spread evenly. Tells in words if they are not.
    pub(super) fn wait_for_leaders(&self, groups: u64, bar: &ProgressBar) -> Result<Option<String>> {
        let start = clock::now_nanos();
        let patience = ELECTIONS_MAX + ELECTION_PER_GROUP_MAX * u32::try_from(groups).unwrap_or(u32::MAX);
        loop {
            let led: Vec<u64> = self.engines.iter().map(leaders).collect();
            let all: u64 = led.iter().sum();
            let fair = groups / self.engines.len() as u64;
            if all == groups && led.iter().all(|&l| l >= fair) {
                return Ok(None);
            }
            let text: Vec<String> = led.iter().map(|&l| count(l as f64)).collect();
            bar.set_message(format!(
                "groups led by each node: {} of {}",
                text.join(" + "),
                count(groups as f64)
            ));
            bar.tick();
            if clock::since(start) > patience {
                if all < groups {
                    bail!(
                        "after {:.0} s only {} have a leader ({}){}",
                        clock::since(start).as_secs_f64(),
                        plural(all, "group"),
                        text.join(" + "),
                        self.refusals()
                    );
                }
                let warning = format!(
                    "leaders are not spread evenly ({}): each client sends to groups led by its own node, so the load \
                     is uneven too",
                    text.join(" + ")
                );
                return Ok(Some(warning));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Why connections between nodes were refused, if some were.
    fn refusals(&self) -> String {
        let reasons: Vec<String> =
            self.engines.iter().flat_map(Engine::peers).filter_map(|p| p.refused).collect();
        if reasons.is_empty() { String::new() } else { format!("; refused: {}", reasons.join("; ")) }
    }

    pub(super) fn log_counts(&self) -> LogCounts {
        let mut counts = LogCounts::default();
        for core in self.engines.iter().flat_map(Engine::status) {
            counts.writes += core.log_writes;
            counts.bytes += core.log_write_bytes;
            counts.records += core.log_records;
        }
        counts
    }

    /// Bytes in the fullest log.
    pub(super) fn log_used_max(&self) -> u64 {
        self.engines.iter().flat_map(Engine::status).map(|core| core.log_used_bytes).max().unwrap_or(0)
    }

    pub(super) fn snapshot_counts(&self) -> SnapshotCounts {
        let mut counts = SnapshotCounts::default();
        for core in self.engines.iter().flat_map(Engine::status) {
            counts.written += core.snapshots_written;
            counts.failed += core.snapshots_failed;
            counts.files += core.snapshots;
            counts.bytes += core.snapshot_bytes;
        }
        counts
    }

    /// Stops all nodes at once.
    pub(super) fn stop(self) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.engines.into_iter().map(|engine| scope.spawn(move || engine.shutdown())).collect();
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("stopping a node panicked"))?
                    .context("a node did not stop cleanly")?;
            }
            Ok(())
        })
    }
}

fn leaders(engine: &Engine) -> u64 {
    engine.status().iter().map(|core: &CoreStatus| u64::from(core.leaders)).sum()
}

fn node_settings(
    arguments: &RunArgs,
    directory: &Path,
    prepared: Prepared,
    number: usize,
    listener: TcpListener,
    addresses: &[PeerAddress],
) -> NodeSettings {
    let address = &addresses[number];
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let path = directory.join(format!("node-{}", address.node));
    let cluster = arguments.seed | 1;
    let mut settings =
        NodeSettings::new(cluster, address.node, path, listen, addresses.to_vec(), arguments.groups);
    settings.listener = Some(Arc::new(listener));
    settings.cores = arguments.cores_per_node;
    settings.bootstrap = true;
    settings.pin_from = pin_from(arguments, number);
    settings.spin_us = arguments.spin_us;
    settings.core.wal.writes_in_flight = arguments.log.writes_in_flight;
    settings.core.wal.batch_bytes_max = arguments.log.batch_bytes;
    settings.core.wal.batch_bytes_min = arguments.log.batch_bytes_min;
    settings.core.wal.segment_bytes = prepared.segment_bytes;
    // The budget is what was prepared: a run never measures the writing of zeros, it ends instead, and says so.
    settings.core.wal.segments_ahead = prepared.segments;
    settings.core.wal.budget_bytes = u64::from(prepared.segments) * prepared.segment_bytes;
    settings.core.snapshots.every_entries = arguments.snapshot_every;
    if arguments.snapshot_every == 0 {
        settings.core.snapshots.every_bytes = 0;
    }
    settings.runtime.hand_over_max = HAND_OVER_MAX;
    settings.hooks = Hooks {
        on_fatal: Arc::new(|fatal| {
            eprintln!("logdrive-bench: {fatal}");
            directory::remove_temporary();
            std::process::exit(logdrive::runtime::EXIT_FATAL);
        }),
        ..Hooks::default()
    };
    settings
}

/// The first CPU of a node, if every executor can have one of its own.
pub(super) fn pin_from(arguments: &RunArgs, number: usize) -> Option<usize> {
    let per_node = usize::from(arguments.cores_per_node);
    let wanted = arguments.nodes as usize * per_node;
    (wanted <= environment::cores()).then_some(number * per_node)
}

/// The clients of one node.
fn client_service(arguments: &RunArgs, number: usize, control: Arc<Control>) -> Box<Service> {
    let cores = u32::from(arguments.cores_per_node);
    let all = arguments.nodes * cores;
    let (clients, payload) = (arguments.clients, arguments.payload);
    let (seed, machine, soak) = (arguments.seed, arguments.machine, arguments.soak);
    Box::new(move |client: CoreClient| {
        let core = number as u32 * cores + u32::from(client.core().0);
        let settings = ClientSettings {
            clients: share(clients, core, all),
            payload,
            seed,
            core: core as u16,
            machine,
            soak,
        };
        Box::pin(clients::run(client, settings, Arc::clone(&control)))
    })
}

/// The clients of core `core` of `all`: as even as can be.
fn share(clients: u32, core: u32, all: u32) -> u32 {
    clients / all + u32::from(core < clients % all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_shared_out_evenly_and_completely() {
        for (clients, all) in [(1, 3), (3, 3), (1_024, 3), (1_024, 6), (7, 12)] {
            let shares: Vec<u32> = (0..all).map(|core| share(clients, core, all)).collect();
            assert_eq!(shares.iter().sum::<u32>(), clients);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }
}
