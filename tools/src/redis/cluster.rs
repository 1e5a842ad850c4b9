//! What CLUSTER says about nodes and slots. The answers are long with many groups (1,024 of them led in turn make 1,024 runs of
//! slots), so that they are kept until a leader changes.

use std::fmt::Write;
use std::ops::Range;

use super::backend::{Backend, NodeInfo, Topology};
use super::reply::{Protocol, Writer};
use super::slots::SLOTS;

/// Adjacent slots of one node.
type Run = (Range<u32>, usize);

/// The cluster as this core's clients are told.
#[derive(Debug)]
pub(crate) struct Views {
    /// The leadership they were made at.
    epoch: Option<u64>,
    /// By group: the position of the node that leads, or was the last known to, or is first in turn to.
    owners: Vec<usize>,
    leaderless_slots: u32,
    runs: Vec<Run>,
    /// Encoded answers, made when they are asked for first: CLUSTER SLOTS and SHARDS in both protocols, and the text of NODES.
    slots: [Vec<u8>; 2],
    shards: [Vec<u8>; 2],
    nodes: Vec<u8>,
}

impl Views {
    pub(crate) fn new(topology: &Topology) -> Views {
        let nodes = topology.nodes().len();
        Views {
            epoch: None,
            // A group without a leader yet still needs an owner, since clients want every slot covered: whoever it is
            // answers MOVED or parks.
            owners: topology.groups().map(|group| (group.0 - 1) as usize % nodes).collect(),
            leaderless_slots: 0,
            runs: Vec::new(),
            slots: [const { Vec::new() }; 2],
            shards: [const { Vec::new() }; 2],
            nodes: Vec::new(),
        }
    }

    /// Looks at all leaders again if one has changed.
    pub(crate) fn refresh(&mut self, topology: &Topology, backend: &impl Backend) {
        let epoch = backend.leadership_epoch();
        if self.epoch == Some(epoch) {
            return;
        }
        self.epoch = Some(epoch);
        self.leaderless_slots = 0;
        self.runs.clear();
        for (owner, group) in self.owners.iter_mut().zip(topology.groups()) {
            let slots = topology.slots().slots_of(group);
            match topology.position(backend.leader_of(group)) {
                Some(leader) => *owner = leader,
                None => self.leaderless_slots += slots.end - slots.start,
            }
            match self.runs.last_mut() {
                Some((run, last)) if *last == *owner => run.end = slots.end,
                _ => self.runs.push((slots, *owner)),
            }
        }
        self.nodes.clear();
        self.slots.iter_mut().chain(&mut self.shards).for_each(Vec::clear);
    }

    /// CLUSTER SLOTS, encoded: leaders only.
    pub(crate) fn slots(&mut self, topology: &Topology, protocol: Protocol) -> &[u8] {
        let out = &mut self.slots[protocol as usize];
        if out.is_empty() {
            let mut writer = Writer::new(out, protocol);
            writer.array(self.runs.len());
            for (run, owner) in &self.runs {
                let node = &topology.nodes()[*owner];
                writer.array(3);
                writer.integer(i64::from(run.start));
                writer.integer(i64::from(run.end - 1));
                writer.array(4);
                writer.bulk(&node.host);
                writer.integer(i64::from(node.port));
                writer.bulk(&node.id);
                writer.map(0);
            }
        }
        out
    }

    /// CLUSTER SHARDS, encoded: one shard per node that leads.
    pub(crate) fn shards(&mut self, topology: &Topology, protocol: Protocol) -> &[u8] {
        let out = &mut self.shards[protocol as usize];
        if out.is_empty() {
            let runs = runs_by_node(&self.runs, topology.nodes().len());
            let mut writer = Writer::new(out, protocol);
            writer.array(runs.iter().filter(|runs| !runs.is_empty()).count());
            for (node, runs) in topology.nodes().iter().zip(&runs).filter(|(_, runs)| !runs.is_empty()) {
                write_shard(&mut writer, node, runs);
            }
        }
        out
    }

    /// The text of CLUSTER NODES: one line per node.
    pub(crate) fn nodes(&mut self, topology: &Topology) -> &[u8] {
        if self.nodes.is_empty() {
            let mut text = String::new();
            let runs = runs_by_node(&self.runs, topology.nodes().len());
            for (n, node) in topology.nodes().iter().enumerate() {
                let NodeInfo { id, host, port, peer_port, .. } = node;
                let flags = if n == topology.me() { "myself,master" } else { "master" };
                // Ping and pong times are of a protocol that does not run here; the epoch tells nodes apart as in Redis.
                let _ = write!(text, "{id} {host}:{port}@{peer_port} {flags} - 0 0 {} connected", node.node);
                for run in &runs[n] {
                    let _ = match run.end - run.start {
                        1 => write!(text, " {}", run.start),
                        _ => write!(text, " {}-{}", run.start, run.end - 1),
                    };
                }
                text.push('\n');
            }
            self.nodes = text.into_bytes();
        }
        &self.nodes
    }

    /// The text of CLUSTER INFO.
    pub(crate) fn info(&self, topology: &Topology) -> String {
        let nodes = topology.nodes().len();
        let with_slots = (0..nodes).filter(|n| self.owners.contains(n)).count();
        let state = if self.leaderless_slots == 0 { "ok" } else { "fail" };
        let down = self.leaderless_slots;
        let fields = [
            ("cluster_state", state.to_owned()),
            ("cluster_slots_assigned", SLOTS.to_string()),
            ("cluster_slots_ok", (SLOTS - down).to_string()),
            ("cluster_slots_pfail", "0".to_owned()),
            ("cluster_slots_fail", down.to_string()),
            ("cluster_known_nodes", nodes.to_string()),
            ("cluster_size", with_slots.to_string()),
            ("cluster_current_epoch", self.epoch.unwrap_or(0).to_string()),
            ("cluster_my_epoch", topology.my_id().to_string()),
            ("cluster_stats_messages_sent", "0".to_owned()),
            ("cluster_stats_messages_received", "0".to_owned()),
            ("total_cluster_links_buffer_limit_exceeded", "0".to_owned()),
        ];
        fields.iter().map(|(field, value)| format!("{field}:{value}\r\n")).collect()
    }
}

fn runs_by_node(runs: &[Run], nodes: usize) -> Vec<Vec<Range<u32>>> {
    let mut by_node = vec![Vec::new(); nodes];
    for (run, owner) in runs {
        by_node[*owner].push(run.clone());
    }
    by_node
}

fn write_shard(writer: &mut Writer<'_>, node: &NodeInfo, runs: &[Range<u32>]) {
    writer.map(2);
    writer.bulk("slots");
    writer.array(runs.len() * 2);
    for run in runs {
        writer.integer(i64::from(run.start));
        writer.integer(i64::from(run.end - 1));
    }
    writer.bulk("nodes");
    writer.array(1);
    writer.map(7);
    writer.bulk("id");
    writer.bulk(&node.id);
    writer.bulk("port");
    writer.integer(i64::from(node.port));
    writer.bulk("ip");
    writer.bulk(&node.host);
    writer.bulk("endpoint");
    writer.bulk(&node.host);
    writer.bulk("role");
    writer.bulk("master");
    writer.bulk("replication-offset");
    writer.integer(0);
    writer.bulk("health");
    writer.bulk("online");
}
