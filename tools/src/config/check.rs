//! From what is written to what the engine takes; whatever cannot work is refused with its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::thread::available_parallelism;

use logdrive::api::CoreSettings;
use logdrive::runtime::{NodeSettings, PeerAddress};
use logdrive_shard::{NodeId, VOTERS_MAX};
use logdrive_tools::redis::FrontDoorConfig;
use toml::Spanned;

use super::file::File;
use super::units::{Bytes, is_loopback, split_address};
use super::{Invalid, NodeConfig, Problem, Source};

/// The Redis protocol has this many hash slots, and a group owns at least one.
pub(crate) const GROUPS_MAX: u64 = 16_384;
/// Cores of one node.
const CORES_MAX: u64 = 256;
/// Spinning longer than this starves whatever shares the core.
const SPIN_US_MAX: u64 = 10_000;

/// Checks a file. Problems are reported in the order of the file's tables.
pub(super) fn check(
    source: &Source,
    file: &File,
    base: &Path,
) -> Result<(NodeConfig, Vec<Problem>), Invalid> {
    let mut check = Check { source, problems: Vec::new() };
    let mut core = CoreSettings::default();
    let (mut cluster, mut node, mut groups, mut cores, mut spin_us) = (0_u64, 0_u32, 1024_u64, 1_u16, 0_u64);
    check.number("cluster", &Some(file.cluster.clone()), 1, i64::MAX as u64, &mut cluster);
    check.number("node", &Some(file.node.clone()), 1, u64::from(u32::MAX), &mut node);
    check.number("groups", &file.groups, 1, GROUPS_MAX, &mut groups);
    check.number("cores", &file.cores, 1, CORES_MAX, &mut cores);
    check.number("spin_us", &file.spin_us, 0, SPIN_US_MAX, &mut spin_us);
    check.pinning(file, cores);
    check.directory(&file.directory);
    let nodes = check.nodes(file);
    core.priorities = check.priorities(file);
    let own = nodes.iter().find(|peer| peer.node.0 == node);
    let (peers, clients) = check.listen(file, own);
    check.timing(&file.timing, &mut core);
    check.limits(&file.limits, &mut core);
    check.snapshots(&file.snapshots, &mut core, cores);
    let log_budget_bytes = check.log(&file.log, cores, &mut core);

    let (errors, warnings): (Vec<_>, Vec<_>) = check.problems.into_iter().partition(Problem::is_error);
    let (Some(listen), Some(clients), true) = (peers, clients, errors.is_empty()) else {
        return Err(Invalid { name: source.name().to_owned(), problems: errors });
    };
    let dir = base.join(file.directory.get_ref());
    let mut engine = NodeSettings::new(cluster, NodeId(node), dir, listen, nodes, groups);
    engine.cores = cores;
    engine.pin_from = file.pin_from.as_ref().map(|cpu| usize::from(*cpu.get_ref()));
    engine.spin_us = spin_us;
    if let Some(written) = file.log.durable_writes {
        engine.runtime.durable_writes = written.into();
    }
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

/// The checks of a file, as far as they are done.
pub(super) struct Check<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

impl Check<'_> {
    /// Something that cannot work.
    pub(super) fn refuse(&mut self, span: Range<usize>, reason: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::error(self.source, span, reason));
        self.problems.last_mut().expect("one was pushed")
    }

    /// Something that is not wise.
    pub(super) fn warn(&mut self, span: Range<usize>, reason: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::warning(self.source, span, reason));
        self.problems.last_mut().expect("one was pushed")
    }

    /// A number: what is written replaces `field`, unless it is outside `min ..= max`.
    pub(super) fn number<T, F>(
        &mut self,
        key: &str,
        value: &Option<Spanned<T>>,
        min: u64,
        max: u64,
        field: &mut F,
    ) where
        T: Copy + Into<u64>,
        F: TryFrom<u64>,
    {
        let Some(value) = value else { return };
        let number: u64 = (*value.get_ref()).into();
        match F::try_from(number) {
            Ok(fits) if (min..=max).contains(&number) => *field = fits,
            _ => {
                self.refuse(value.span(), format!("`{key}` is {number}, it must be from {min} to {max}"));
            }
        }
    }

    /// A number of bytes, as [`Check::number`].
    pub(super) fn size<F>(
        &mut self,
        key: &str,
        value: &Option<Spanned<Bytes>>,
        min: u64,
        max: u64,
        field: &mut F,
    ) where
        F: TryFrom<u64>,
    {
        let Some(value) = value else { return };
        let bytes = *value.get_ref();
        match F::try_from(bytes.0) {
            Ok(fits) if (min..=max).contains(&bytes.0) => *field = fits,
            _ => {
                let reason = format!("`{key}` is {bytes}, it must be from {} to {}", Bytes(min), Bytes(max));
                self.refuse(value.span(), reason);
            }
        }
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

    /// How much each node is wanted as a leader, 0 unless written.
    fn priorities(&mut self, file: &File) -> Vec<(NodeId, u8)> {
        let mut priorities = Vec::new();
        for node in file.nodes.get_ref() {
            let mut priority = 0_u8;
            self.number("priority", &node.priority, 0, u64::from(u8::MAX), &mut priority);
            if priority > 0 {
                priorities.push((NodeId(*node.id.get_ref()), priority));
            }
        }
        priorities
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
}
