//! INFO, CONFIG GET and LOGDRIVE STATUS.

use std::fmt::Write;

use logdrive::core::CoreStatus;
use logdrive::runtime::{PeerStatus, RuntimeCounters};
use serde::Serialize;

use super::backend::Backend;
use super::barrier::NodeStatus;
use super::hub::Hub;
use super::reply::Writer;

/// The version of Redis whose behaviour the commands have; clients choose what they send by it.
pub(crate) const REDIS_VERSION: &str = "7.0.15";

const NAMES: [&str; 9] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cluster", "keyspace", "logdrive"];

/// A set of INFO's sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections(u16);

impl Sections {
    /// The sections named; all if none is. Names that Redis or we do not know are ignored, as in Redis.
    pub(crate) fn named<'n>(names: impl ExactSizeIterator<Item = &'n [u8]>) -> Sections {
        let all = Sections((1 << NAMES.len()) - 1);
        if names.len() == 0 {
            return all;
        }
        let mut set = 0;
        for name in names {
            let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
            if is("default") || is("all") || is("everything") {
                return all;
            }
            if let Some(n) = NAMES.iter().position(|section| is(section)) {
                set |= 1 << n;
            }
        }
        Sections(set)
    }

    fn has(self, name: &str) -> bool {
        NAMES.iter().position(|section| *section == name).is_some_and(|n| self.0 & 1 << n != 0)
    }

    /// Whether the keys must be counted.
    pub(crate) fn need_keys(self) -> bool {
        self.has("keyspace")
    }
}

/// Counts of all cores of a node, summed.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    groups: u64,
    leaders: u64,
    leaderless: u64,
    damaged: u64,
    snapshots: u64,
    snapshot_bytes: u64,
    snapshots_written: u64,
    snapshots_failed: u64,
    snapshots_installed: u64,
    group_logs_full: u64,
    commit_lag: u64,
    apply_lag: u64,
    applied: u64,
    proposals: u64,
    reads: u64,
    busy: u64,
    log_used: u64,
    log_budget: u64,
    out_of_space: bool,
    disk_failing: bool,
    links: u64,
}

impl Sums {
    fn of(cores: &[CoreStatus]) -> Sums {
        cores.iter().fold(Sums::default(), |sums, core| Sums {
            groups: sums.groups + u64::from(core.groups),
            leaders: sums.leaders + u64::from(core.leaders),
            leaderless: sums.leaderless + u64::from(core.leaderless),
            damaged: sums.damaged + u64::from(core.damaged),
            snapshots: sums.snapshots + core.snapshots,
            snapshot_bytes: sums.snapshot_bytes + core.snapshot_bytes,
            snapshots_written: sums.snapshots_written + core.snapshots_written,
            snapshots_failed: sums.snapshots_failed + core.snapshots_failed,
            snapshots_installed: sums.snapshots_installed + core.snapshots_installed,
            group_logs_full: sums.group_logs_full + core.group_logs_full,
            commit_lag: sums.commit_lag + core.commit_lag,
            apply_lag: sums.apply_lag + core.apply_lag,
            applied: sums.applied + core.applied,
            proposals: sums.proposals + core.proposals,
            reads: sums.reads + core.reads,
            busy: sums.busy + core.busy,
            log_used: sums.log_used + core.log_used_bytes,
            log_budget: sums.log_budget + core.log_budget_bytes,
            out_of_space: sums.out_of_space || core.log_out_of_space,
            disk_failing: sums.disk_failing || core.disk_failing,
            links: sums.links + u64::from(core.links_alive),
        })
    }
}

/// The text of INFO: CRLF lines, sections separated by an empty one. Counts are of the whole node, all cores.
pub(crate) fn text<B: Backend>(hub: &Hub<B>, sections: Sections, status: &NodeStatus, keys: i64) -> Vec<u8> {
    let sums = Sums::of(&status.cores);
    let mut out = String::new();
    for name in NAMES.iter().filter(|name| sections.has(name)) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let title = name[..1].to_ascii_uppercase() + &name[1..];
        let _ = write!(out, "# {title}\r\n");
        for (field, value) in fields(hub, name, status, &sums, keys) {
            let _ = write!(out, "{field}:{value}\r\n");
        }
    }
    out.into_bytes()
}

fn fields<B: Backend>(
    hub: &Hub<B>,
    section: &str,
    status: &NodeStatus,
    sums: &Sums,
    keys: i64,
) -> Vec<(&'static str, String)> {
    let shared = &hub.shared;
    let me = &hub.topology.nodes()[hub.topology.me()];
    match section {
        "server" => vec![
            ("redis_version", REDIS_VERSION.to_owned()),
            ("redis_mode", "cluster".to_owned()),
            ("server_name", "logdrive".to_owned()),
            ("logdrive_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("os", std::env::consts::OS.to_owned()),
            ("arch_bits", usize::BITS.to_string()),
            ("process_id", std::process::id().to_string()),
            ("run_id", me.id.clone()),
            ("tcp_port", me.port.to_string()),
            ("uptime_in_seconds", status.uptime_s.to_string()),
            ("uptime_in_days", (status.uptime_s / 86_400).to_string()),
        ],
        "clients" => vec![
            ("connected_clients", shared.sum(|c| &c.connections).to_string()),
            ("maxclients", (u64::from(hub.limits.connections_max) * shared.cores.len() as u64).to_string()),
            ("blocked_clients", "0".to_owned()),
        ],
        "memory" => vec![
            ("used_memory", status.memory_bytes.to_string()),
            ("used_memory_rss", status.memory_bytes.to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory_policy", "noeviction".to_owned()),
        ],
        "persistence" => {
            vec![
                ("loading", "0".to_owned()),
                ("async_loading", "0".to_owned()),
                ("aof_enabled", "1".to_owned()),
            ]
        }
        "stats" => vec![
            ("total_connections_received", shared.sum(|c| &c.connections_accepted).to_string()),
            ("total_commands_processed", shared.sum(|c| &c.commands).to_string()),
            ("rejected_connections", shared.sum(|c| &c.connections_rejected).to_string()),
        ],
        "replication" => vec![
            ("role", "master".to_owned()),
            ("connected_slaves", status.peers.iter().filter(|peer| peer.links > 0).count().to_string()),
            ("master_replid", me.id.clone()),
            ("master_repl_offset", sums.applied.to_string()),
        ],
        "cluster" => vec![("cluster_enabled", "1".to_owned())],
        "keyspace" if keys > 0 => vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
        "logdrive" => logdrive_fields(hub, status, sums),
        _ => Vec::new(),
    }
}

fn logdrive_fields<B: Backend>(
    hub: &Hub<B>,
    status: &NodeStatus,
    sums: &Sums,
) -> Vec<(&'static str, String)> {
    let (shared, runtime) = (&hub.shared, &status.runtime);
    vec![
        ("node", hub.topology.my_id().to_string()),
        ("cores", shared.cores.len().to_string()),
        ("groups", sums.groups.to_string()),
        ("groups_led", sums.leaders.to_string()),
        ("groups_without_leader", sums.leaderless.to_string()),
        ("groups_damaged", sums.damaged.to_string()),
        // How far a read after READONLY may be behind: entries known committed that are not applied here.
        ("stale_entries", sums.apply_lag.to_string()),
        ("uncommitted_entries", sums.commit_lag.to_string()),
        ("applied_entries", sums.applied.to_string()),
        ("proposals", sums.proposals.to_string()),
        ("reads", sums.reads.to_string()),
        ("log_used_bytes", sums.log_used.to_string()),
        ("log_budget_bytes", sums.log_budget.to_string()),
        ("log_out_of_space", u8::from(sums.out_of_space).to_string()),
        // Damaged again where it was repaired: replace it.
        ("disk_failing", u8::from(sums.disk_failing).to_string()),
        ("snapshots", sums.snapshots.to_string()),
        ("snapshot_bytes", sums.snapshot_bytes.to_string()),
        ("snapshots_written", sums.snapshots_written.to_string()),
        ("snapshots_failed", sums.snapshots_failed.to_string()),
        ("snapshots_installed", sums.snapshots_installed.to_string()),
        ("group_logs_full", sums.group_logs_full.to_string()),
        ("peer_links", sums.links.to_string()),
        ("peer_handshakes_failed", runtime.handshakes_failed.to_string()),
        ("peer_frames_refused", runtime.frames_refused.to_string()),
        ("peer_reads_paused", runtime.reads_paused.to_string()),
        // Not awake when they were to be: the machine has too little processor time for them, or they slept with work to do.
        ("cores_roused", runtime.executors_roused.to_string()),
        ("refused_busy", (sums.busy).to_string()),
        ("answered_moved", shared.sum(|c| &c.moved).to_string()),
        ("answered_busy", shared.sum(|c| &c.busy).to_string()),
        ("answered_clusterdown", shared.sum(|c| &c.cluster_down).to_string()),
        ("answered_indeterminate", shared.sum(|c| &c.indeterminate).to_string()),
        ("held_requests", shared.sum(|c| &c.held).to_string()),
        ("parked_requests_total", shared.sum(|c| &c.parked).to_string()),
        ("parked_rejected", shared.sum(|c| &c.parked_rejected).to_string()),
        ("protocol_errors", shared.sum(|c| &c.protocol_errors).to_string()),
        ("reading_paused", shared.sum(|c| &c.paused).to_string()),
    ]
}

/// What `LOGDRIVE STATUS` answers.
#[derive(Serialize)]
struct StatusJson<'a> {
    node: u32,
    version: &'static str,
    client: String,
    groups: u32,
    leaderless: u64,
    uptime_s: u64,
    memory_bytes: u64,
    connections: u64,
    commands: u64,
    cores: &'a [CoreStatus],
    peers: &'a [PeerStatus],
    runtime: RuntimeCounters,
}

/// The node's counts as JSON.
pub(crate) fn status_json<B: Backend>(hub: &Hub<B>, status: &NodeStatus) -> Vec<u8> {
    let me = &hub.topology.nodes()[hub.topology.me()];
    let json = StatusJson {
        node: me.node.0,
        version: env!("CARGO_PKG_VERSION"),
        client: format!("{}:{}", me.host, me.port),
        groups: hub.topology.slots().groups(),
        leaderless: Sums::of(&status.cores).leaderless,
        uptime_s: status.uptime_s,
        memory_bytes: status.memory_bytes,
        connections: hub.shared.sum(|c| &c.connections),
        commands: hub.shared.sum(|c| &c.commands),
        cores: &status.cores,
        peers: &status.peers,
        runtime: status.runtime,
    };
    serde_json::to_vec(&json).expect("numbers and strings always serialize")
}

/// `CONFIG GET pattern...`: the settings Redis has that mean something here.
pub(crate) fn write_config<'n, B: Backend>(
    hub: &Hub<B>,
    writer: &mut Writer<'_>,
    patterns: impl Iterator<Item = &'n [u8]> + Clone,
) {
    let port = hub.topology.nodes()[hub.topology.me()].port.to_string();
    let settings = [
        // Every write is in a log that is durable before it is acknowledged.
        ("appendonly", "yes".to_owned()),
        ("appendfsync", "always".to_owned()),
        ("save", String::new()),
        ("databases", "1".to_owned()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("maxclients", (u64::from(hub.limits.connections_max) * hub.shared.cores.len() as u64).to_string()),
        ("proto-max-bulk-len", hub.request_limits.argument_bytes_max.to_string()),
        ("client-query-buffer-limit", hub.request_limits.request_bytes_max.to_string()),
        ("timeout", "0".to_owned()),
        ("port", port),
        ("cluster-enabled", "yes".to_owned()),
        ("cluster-require-full-coverage", "no".to_owned()),
        ("io-threads", hub.shared.cores.len().to_string()),
    ];
    let wanted: Vec<_> = settings
        .iter()
        .filter(|(name, _)| patterns.clone().any(|pattern| matches(pattern, name.as_bytes())))
        .collect();
    writer.map(wanted.len());
    for (name, value) in wanted {
        writer.bulk(name);
        writer.bulk(value);
    }
}

/// Glob matching with `*`, `?` and `\`, ignoring case. Linear in the product of the lengths: only the last star is tried again.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'\\') if pattern.get(p + 1).is_some_and(|c| c.eq_ignore_ascii_case(&text[t])) => Some(2),
            Some(c) if c.eq_ignore_ascii_case(&text[t]) => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(step), _) => {
                p += step;
                t += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_globs_do() {
        for (pattern, text, expected) in [
            ("save", "save", true),
            ("SAVE", "save", true),
            ("append*", "appendonly", true),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?ave", "save", true),
            ("sav", "save", false),
            ("save?", "save", false),
            ("s\\ave", "save", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn sections_are_named_as_in_redis() {
        let named = |names: &[&str]| Sections::named(names.iter().map(|name| name.as_bytes()));
        assert!(named(&[]).has("logdrive") && named(&["everything"]).need_keys());
        let two = named(&["Clients", "nonsense", "cluster"]);
        assert!(two.has("clients") && two.has("cluster") && !two.has("server") && !two.need_keys());
    }
}
