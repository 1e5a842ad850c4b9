//! From what is written to what the engine takes; whatever cannot work is refused with its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use logdrive::api::CoreSettings;
use logdrive::runtime::{NodeSettings, PeerAddress};
use logdrive_shard::{NodeId, VOTERS_MAX};
use logdrive_tools::redis::FrontDoorConfig;
use toml::Spanned;

use super::file::{File, Limits, Log, Timing};
use super::units::{Bytes, is_loopback, split_address};
use super::{Invalid, NodeConfig, Problem, Source};

/// The Redis protocol has this many hash slots, and a group owns at least one.
pub(crate) const GROUPS_MAX: u64 = 16_384;
/// Cores of one node.
const CORES_MAX: u16 = 256;
/// A frame is bounded by 16 MiB; a payload leaves room for what goes beside it.
const PAYLOAD_BYTES_MAX: u64 = 8 << 20;
/// Spinning longer than this starves whatever shares the core.
const SPIN_US_MAX: u64 = 10_000;
/// What the groups keep in reserve and what is under way need at least so many segments.
const SEGMENTS_MIN: u64 = 4;

/// Checks a file. Problems are reported in the order of the file's tables.
pub(super) fn check(
    source: &Source,
    file: &File,
    base: &Path,
) -> Result<(NodeConfig, Vec<Problem>), Invalid> {
    let mut check = Check { source, problems: Vec::new() };
    let mut core = CoreSettings::default();
    let cluster = check.within("cluster", Some(&file.cluster), 0, 1, i64::MAX as u64);
    let node = check.within("node", Some(&file.node), 0, 1, u64::from(u32::MAX));
    let groups = check.within("groups", file.groups.as_ref(), 1024, 1, GROUPS_MAX);
    let cores = check.within("cores", file.cores.as_ref(), 1, 1, u64::from(CORES_MAX)) as u16;
    let spin_us = check.within("spin_us", file.spin_us.as_ref(), 0, 0, SPIN_US_MAX);
    check.pinning(file, cores);
    check.directory(&file.directory);
    let nodes = check.nodes(file);
    let own = nodes.iter().find(|peer| u64::from(peer.node.0) == node);
    let (peers, clients) = check.listen(file, own);
    check.timing(&file.timing, &mut core);
    check.limits(&file.limits, &mut core);
    let log_budget_bytes = check.log(&file.log, cores, &mut core);

    let (errors, warnings): (Vec<_>, Vec<_>) = check.problems.into_iter().partition(Problem::is_error);
    let (Some(listen), Some(clients), true) = (peers, clients, errors.is_empty()) else {
        return Err(Invalid { name: source.name().to_owned(), problems: errors });
    };
    let dir = base.join(file.directory.get_ref());
    let mut engine = NodeSettings::new(cluster, NodeId(node as u32), dir, listen, nodes, groups);
    engine.cores = cores;
    engine.pin_from = file.pin_from.as_ref().map(|cpu| usize::from(*cpu.get_ref()));
    engine.spin_us = spin_us;
    let front_door = FrontDoorConfig {
        cluster,
        listen: clients,
        cores,
        groups,
        payload_bytes_max: core.payload_bytes_max,
        limits: file.clients.clone(),
    };
    engine.core = core;
    Ok((NodeConfig { engine, front_door, log_budget_bytes }, warnings))
}

struct Check<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn refuse(&mut self, span: Range<usize>, reason: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::error(self.source, span, reason));
        self.problems.last_mut().expect("one was pushed")
    }

    fn warn(&mut self, span: Range<usize>, reason: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::warning(self.source, span, reason));
        self.problems.last_mut().expect("one was pushed")
    }

    /// A number, or its default; refused outside `min ..= max`.
    fn within<T>(&mut self, key: &str, value: Option<&Spanned<T>>, default: u64, min: u64, max: u64) -> u64
    where
        T: Copy + Into<u64>,
    {
        let Some(value) = value else { return default };
        let number: u64 = (*value.get_ref()).into();
        if !(min..=max).contains(&number) {
            self.refuse(value.span(), format!("`{key}` is {number}, it must be from {min} to {max}"));
        }
        number
    }

    fn bytes(&mut self, key: &str, value: Option<&Spanned<Bytes>>, default: u64, min: u64, max: u64) -> u64 {
        let Some(value) = value else { return default };
        let bytes = value.get_ref().0;
        if !(min..=max).contains(&bytes) {
            let reason =
                format!("`{key}` is {}, it must be from {} to {}", Bytes(bytes), Bytes(min), Bytes(max));
            self.refuse(value.span(), reason);
        }
        bytes
    }

    fn directory(&mut self, directory: &Spanned<std::path::PathBuf>) {
        if directory.get_ref().as_os_str().is_empty() {
            self.refuse(directory.span(), "`directory` is empty: name the data directory");
        }
    }

    fn pinning(&mut self, file: &File, cores: u16) {
        let cpus = available_parallelism().map_or(1, |cpus| cpus.get());
        if let Some(pin_from) = &file.pin_from {
            let end = usize::from(*pin_from.get_ref()) + usize::from(cores);
            if end > cpus {
                let reason = format!(
                    "cores {} to {} are to be pinned, but there are {cpus} CPUs",
                    *pin_from.get_ref(),
                    end - 1
                );
                self.refuse(pin_from.span(), reason)
                    .set_help("leave `pin_from` out where nodes share CPUs, or lower `cores`");
            }
        } else if let Some(configured) = &file.cores
            && usize::from(cores) > cpus
        {
            self.warn(configured.span(), format!("{cores} cores on {cpus} CPUs: they will take turns"));
        }
    }

    fn nodes(&mut self, file: &File) -> Vec<PeerAddress> {
        let list = file.nodes.get_ref();
        let at = file.nodes.span();
        if list.is_empty() || list.len() > VOTERS_MAX {
            self.refuse(
                at.clone(),
                format!("`nodes` lists {} nodes, it must be 1 to {VOTERS_MAX}", list.len()),
            );
        } else if list.len().is_multiple_of(2) {
            let fewer = list.len() - 1;
            self.warn(at, format!("{} nodes survive no more failures than {fewer} do", list.len()));
        }
        let mut ids = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for node in list {
            let id = *node.id.get_ref();
            if id == 0 {
                self.refuse(node.id.span(), "node id 0 means nobody: count from 1");
            }
            if ids.insert(id, ()).is_some() {
                self.refuse(node.id.span(), format!("node {id} is listed twice"));
            }
            for (key, address) in [("peers", &node.peers), ("clients", &node.clients)] {
                if let Err(reason) = split_address(address.get_ref()) {
                    self.refuse(address.span(), reason);
                } else if let Some((other, other_key)) =
                    addresses.insert(address.get_ref().clone(), (id, key))
                {
                    let reason = format!("{} is `{other_key}` of node {other} already", address.get_ref());
                    self.refuse(address.span(), reason);
                }
            }
        }
        if !ids.contains_key(file.node.get_ref()) {
            let known: Vec<String> = ids.keys().map(u32::to_string).collect();
            let reason =
                format!("this is node {}, but `nodes` lists only {}", file.node.get_ref(), known.join(", "));
            self.refuse(file.node.span(), reason);
        }
        let to_address = |node: &super::file::Node| PeerAddress {
            node: NodeId(*node.id.get_ref()),
            peer: node.peers.get_ref().clone(),
            client: node.clients.get_ref().clone(),
        };
        list.iter().map(to_address).collect()
    }

    /// Where to listen: as written, else on loopback at the port that is advertised.
    fn listen(&mut self, file: &File, own: Option<&PeerAddress>) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let peers =
            self.listen_at(file, "peers", file.listen.peers.as_ref(), own.map(|own| own.peer.as_str()));
        let clients =
            self.listen_at(file, "clients", file.listen.clients.as_ref(), own.map(|own| own.client.as_str()));
        if let (Some(a), Some(b)) = (peers, clients) {
            let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
            if a.port() == b.port() && overlap {
                let span = file.listen.clients.as_ref().map_or(file.node.span(), Spanned::span);
                self.refuse(span, format!("peers ({a}) and clients ({b}) need two different ports"));
            }
        }
        (peers, clients)
    }

    fn listen_at(
        &mut self,
        file: &File,
        key: &str,
        written: Option<&Spanned<String>>,
        advertised: Option<&str>,
    ) -> Option<SocketAddr> {
        if let Some(written) = written {
            let address: Result<SocketAddr, _> = written.get_ref().parse();
            return match address {
                Ok(address) if address.port() != 0 => Some(address),
                _ => {
                    let reason =
                        format!("`{}` is not an IP address and port to listen on", written.get_ref());
                    self.refuse(written.span(), reason)
                        .set_help("for example \"0.0.0.0:7001\" or \"127.0.0.1:7001\"");
                    None
                }
            };
        }
        let (host, port) = split_address(advertised?).ok()?;
        if !is_loopback(host) {
            let reason = format!(
                "node {} is advertised as {host}, but `listen.{key}` is not set",
                file.node.get_ref()
            );
            self.refuse(file.node.span(), reason).set_help(format!(
                "there is no authentication and no encryption, so a node listens on loopback unless told otherwise; \
                 in a network you trust set [listen] {key} = \"0.0.0.0:{port}\""
            ));
            return None;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip = bare.parse().unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        Some(SocketAddr::new(ip, port))
    }

    fn timing(&mut self, timing: &Timing, core: &mut CoreSettings) {
        timing.preset.unwrap_or_default().apply_to(&mut core.shard);
        let preset = core.shard.clone();
        let millis = |duration: Duration| duration.as_millis() as u64;
        let base = self.within(
            "timing.election_base_ms",
            timing.election_base_ms.as_ref(),
            millis(preset.election_base),
            10,
            600_000,
        );
        let spread = self.within(
            "timing.election_spread_ms",
            timing.election_spread_ms.as_ref(),
            millis(preset.election_spread),
            1,
            600_000,
        );
        let heartbeat = self.within(
            "timing.heartbeat_ms",
            timing.heartbeat_ms.as_ref(),
            millis(preset.heartbeat_interval),
            1,
            60_000,
        );
        core.shard.election_base = Duration::from_millis(base);
        core.shard.election_spread = Duration::from_millis(spread);
        core.shard.heartbeat_interval = Duration::from_millis(heartbeat);
        // The defaults are consistent, so an inconsistency has at least one of these to point at.
        let written = [&timing.heartbeat_ms, &timing.election_base_ms].into_iter().flatten().next();
        if let Some(written) = written {
            if heartbeat >= base {
                let reason = format!(
                    "a heartbeat every {heartbeat} ms with elections after {base} ms: leaders could never stay"
                );
                self.refuse(written.span(), reason)
                    .set_help("the heartbeat should be at most a fifth of election_base_ms");
            } else if heartbeat * 5 > base {
                let reason = format!(
                    "a heartbeat every {heartbeat} ms is more than a fifth of election_base_ms ({base})"
                );
                self.warn(written.span(), reason)
                    .set_help("two or three lost heartbeats may end a leadership");
            }
        }
        if let Some(written) = &timing.election_spread_ms
            && spread * 4 < base
        {
            let reason = format!("elections are spread over {spread} ms only, beside a base of {base} ms");
            self.warn(written.span(), reason).set_help("with too little spread candidates split their votes");
        }
    }

    fn limits(&mut self, limits: &Limits, core: &mut CoreSettings) {
        let payload = self.bytes(
            "limits.payload_bytes",
            limits.payload_bytes.as_ref(),
            u64::from(core.payload_bytes_max),
            1024,
            PAYLOAD_BYTES_MAX,
        );
        core.payload_bytes_max = payload as u32;
        core.wal.payload_bytes_max = core.wal.payload_bytes_max.max(payload as u32);
        let narrow = u64::from(u32::MAX);
        core.requests_max = self.within(
            "limits.core_requests",
            limits.core_requests.as_ref(),
            core.requests_max.into(),
            16,
            1 << 24,
        ) as u32;
        core.request_bytes_max = self.bytes(
            "limits.core_request_bytes",
            limits.core_request_bytes.as_ref(),
            core.request_bytes_max,
            payload,
            1 << 40,
        );
        core.group_reads_max = self.within(
            "limits.group_reads",
            limits.group_reads.as_ref(),
            core.group_reads_max.into(),
            1,
            1 << 24,
        ) as u32;
        core.shard.uncommitted_entries_max = self.within(
            "limits.group_uncommitted_entries",
            limits.group_uncommitted_entries.as_ref(),
            core.shard.uncommitted_entries_max.into(),
            1,
            1 << 24,
        ) as u32;
        core.shard.uncommitted_bytes_max = self.bytes(
            "limits.group_uncommitted_bytes",
            limits.group_uncommitted_bytes.as_ref(),
            core.shard.uncommitted_bytes_max.into(),
            1024,
            narrow,
        ) as u32;
        core.cache_bytes_max = self.bytes(
            "limits.cache_bytes",
            limits.cache_bytes.as_ref(),
            core.cache_bytes_max,
            1 << 20,
            1 << 40,
        );
        core.peer_inflight_bytes_max = self.bytes(
            "limits.peer_inflight_bytes",
            limits.peer_inflight_bytes.as_ref(),
            core.peer_inflight_bytes_max,
            payload,
            1 << 40,
        );
        core.shard.append_bytes_max = self.bytes(
            "limits.append_bytes",
            limits.append_bytes.as_ref(),
            core.shard.append_bytes_max.into(),
            4096,
            PAYLOAD_BYTES_MAX,
        ) as u32;
    }

    /// Returns the budget as written; the engine's setting is per core.
    fn log(&mut self, log: &Log, cores: u16, core: &mut CoreSettings) -> u64 {
        let payload = u64::from(core.wal.payload_bytes_max);
        let segment = self.bytes(
            "log.segment_bytes",
            log.segment_bytes.as_ref(),
            core.wal.segment_bytes,
            1 << 20,
            4 << 30,
        );
        core.wal.segment_bytes = segment;
        core.wal.segments_ahead = self.within(
            "log.segments_ahead",
            log.segments_ahead.as_ref(),
            core.wal.segments_ahead.into(),
            0,
            64,
        ) as u32;
        core.wal.writes_in_flight = self.within(
            "log.writes_in_flight",
            log.writes_in_flight.as_ref(),
            core.wal.writes_in_flight.into(),
            1,
            64,
        ) as u32;
        core.wal.batch_bytes_max = self.bytes(
            "log.batch_bytes",
            log.batch_bytes.as_ref(),
            core.wal.batch_bytes_max.into(),
            4096,
            16 << 20,
        ) as u32;
        if let Some(written) = &log.segment_bytes
            && !segment.is_multiple_of(4096)
        {
            self.refuse(
                written.span(),
                format!("`log.segment_bytes` is {segment}, it must be a multiple of 4096"),
            );
        }
        let largest = payload.max(core.wal.batch_bytes_max.into());
        if let Some(written) = log.segment_bytes.as_ref()
            && segment < 2 * largest
        {
            let reason =
                format!("a segment of {} does not hold two batches of {}", Bytes(segment), Bytes(largest));
            self.refuse(written.span(), reason)
                .set_help("raise log.segment_bytes, or lower limits.payload_bytes and log.batch_bytes");
        }
        let Some(written) = &log.budget_bytes else { return 0 };
        let budget = written.get_ref().0;
        let need = segment * SEGMENTS_MIN * u64::from(cores);
        if budget < need {
            let reason = format!(
                "a budget of {} is too small: {cores} core(s) need at least {SEGMENTS_MIN} segments of {} each",
                Bytes(budget),
                Bytes(segment)
            );
            self.refuse(written.span(), reason).set_help("raise log.budget_bytes or lower log.segment_bytes");
        }
        core.wal.budget_bytes = budget / u64::from(cores);
        budget
    }
}
