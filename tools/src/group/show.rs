//! `logdrive group list` and `logdrive group show`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cluster, Common, Deadline, Failed, Groups, chosen, to_json, words};
use crate::client::AskError;
use crate::failure::{Exit, Failure};
use crate::output;

/// How long the leader of a group is looked for before another member's word counts.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct NodeList {
    node: u32,
    groups: Vec<Row>,
}

/// One group in a list. Unknown fields are ignored and missing ones have no value, so that the tools of one version can ask the nodes
/// of another.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Row {
    group: u64,
    /// The node whose word this is: the leader, if one is known.
    node: u32,
    role: String,
    term: u64,
    leader: u32,
    commit: u64,
    applied: u64,
    last: u64,
}

#[derive(Serialize)]
struct List {
    groups: Vec<Row>,
    without_leader: usize,
    nodes_unreachable: Vec<String>,
}

/// All groups: each as its leader sees it, or if it has none as the member with the highest term does.
pub(super) fn list(common: &Common) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let mut best: BTreeMap<u64, Row> = BTreeMap::new();
    let mut nodes_unreachable = Vec::new();
    for address in cluster.addresses() {
        match cluster.ask::<NodeList>(&address, &words(&["GROUP", "LIST"], &[])) {
            Ok(list) => {
                for row in list.groups {
                    let row = Row { node: list.node, ..row };
                    let rank = |row: &Row| (row.term, row.leader == row.node);
                    let known = best.entry(row.group).or_insert_with(|| row.clone());
                    if rank(&row) > rank(known) {
                        *known = row;
                    }
                }
            }
            Err(error) => nodes_unreachable.push(format!("{address}: {error}")),
        }
    }
    let groups: Vec<Row> = best.into_values().collect();
    let without_leader = groups.iter().filter(|row| row.leader == 0).count();
    let list = List { groups, without_leader, nodes_unreachable };
    output::print(&if common.json { to_json(&list)? } else { list.table() })?;
    let is_well = list.without_leader == 0 && list.nodes_unreachable.is_empty();
    Ok(if is_well { Exit::Done } else { Exit::Unwell })
}

impl List {
    fn table(&self) -> String {
        let heads = ["group", "leader", "term", "commit", "applied", "last"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.groups.iter().map(|row| {
            let numbers = [row.group, row.leader.into(), row.term, row.commit, row.applied, row.last];
            numbers.map(|number| number.to_string()).to_vec()
        }));
        let mut text = output::align(&rows);
        let _ = writeln!(text, "\n{} groups, {} without a leader", self.groups.len(), self.without_leader);
        for silent in &self.nodes_unreachable {
            let _ = writeln!(text, "unreachable: {silent}");
        }
        text
    }
}

/// A group as one node sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Shown {
    pub(super) node: u32,
    pub(super) group: u64,
    core: u16,
    role: String,
    term: u64,
    pub(super) leader: u32,
    leader_address: String,
    preferred_leader: u32,
    pub(super) commit: u64,
    pub(super) applied: u64,
    durable: u64,
    pub(super) last: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    pub(super) configuration: Configuration,
    sessions: u64,
    snapshot: Snapshots,
    transfers: Vec<Transfer>,
    pub(super) peers: Vec<Peer>,
    history: Vec<Happened>,
}

/// The group's snapshots on the node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Snapshots {
    index: u64,
    bytes: u64,
    ms_ago: Option<u64>,
    log_bytes: u64,
    log_first: u64,
    busy: bool,
    failure: Option<String>,
}

/// A snapshot on its way to or from another node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Transfer {
    peer: u32,
    outgoing: bool,
    step: String,
    index: u64,
    bytes: u64,
    bytes_total: u64,
}

impl Transfer {
    fn text(&self) -> String {
        let Transfer { peer, step, index, bytes, bytes_total, .. } = self;
        let way = if self.outgoing { "to" } else { "from" };
        match bytes_total {
            0 => format!("a snapshot {way} node {peer} is {step}"),
            total => format!(
                "a snapshot of entry {index} {way} node {peer} is {step}: {bytes} of {total} bytes ({} %)",
                bytes.saturating_mul(100) / total
            ),
        }
    }
}

/// What happened to a member.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Happened {
    ms_ago: u64,
    term: u64,
    count: u32,
    what: String,
}

/// Who belongs to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Configuration {
    pub(super) index: u64,
    pub(super) voters: Vec<u32>,
    pub(super) outgoing: Vec<u32>,
    pub(super) learners: Vec<u32>,
    pub(super) learners_next: Vec<u32>,
    pub(super) settled: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Peer {
    pub(super) node: u32,
    kind: String,
    #[serde(rename = "match")]
    pub(super) matched: u64,
    next: u64,
    state: String,
    in_flight: u32,
    in_flight_bytes: u64,
    pub(super) in_contact: bool,
    last_contact_ms: Option<u64>,
}

/// Shows groups one after the other.
pub(super) fn show(groups: &Groups, node: Option<u32>, common: &Common) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let groups = chosen(groups, &mut cluster, common)?;
    let at = node.map(|node| cluster.address_of(node)).transpose()?;
    let mut all = Vec::with_capacity(groups.len());
    for group in groups {
        let shown = match &at {
            Some(address) => ask(&mut cluster, address, group),
            None => at_leader(&mut cluster, group, Deadline::after(PATIENCE)),
        };
        all.push(shown.map_err(|failed| {
            Failure::said(
                failed.exit(),
                format!("group {group}: {failed}"),
                "`logdrive status` shows which nodes answer",
            )
        })?);
    }
    let is_well = all.iter().all(|shown| shown.leader != 0);
    let text =
        if common.json { to_json(&all)? } else { all.iter().map(Shown::text).collect::<Vec<_>>().join("\n") };
    output::print(&text)?;
    Ok(if is_well { Exit::Done } else { Exit::Unwell })
}

pub(super) fn ask(cluster: &mut Cluster, address: &str, group: u64) -> Result<Shown, Failed> {
    cluster.ask(address, &words(&["GROUP", "SHOW"], &[group])).map_err(|error| match error {
        AskError::Refused(refusal) => Failed::Refused(refusal),
        error => Failed::Unreachable(format!("{address}: {error}")),
    })
}

/// A group as its leader sees it; if none is found in time, as the member with the highest term does.
pub(super) fn at_leader(cluster: &mut Cluster, group: u64, deadline: Deadline) -> Result<Shown, Failed> {
    loop {
        let mut best: Option<Shown> = None;
        let mut failed = Failed::Unreachable("no node was asked".to_owned());
        let mut next: Vec<String> = cluster.addresses();
        next.reverse();
        while let Some(address) = next.pop() {
            match ask(cluster, &address, group) {
                Ok(shown) if shown.leader == shown.node => return Ok(shown),
                Ok(shown) => {
                    if let Some(known) = next.iter().position(|other| *other == shown.leader_address) {
                        let leader = next.remove(known);
                        next.push(leader);
                    }
                    if best.as_ref().is_none_or(|best| best.term < shown.term) {
                        best = Some(shown);
                    }
                }
                Err(error) => failed = error,
            }
        }
        if !deadline.pause() {
            return best.ok_or(failed);
        }
    }
}

impl Shown {
    fn text(&self) -> String {
        let Shown { group, node, core, role, term, leader, preferred_leader, .. } = self;
        let mut text = format!("group {group} on node {node} (core {core}): {role} in term {term}, ");
        let _ = match leader {
            0 => writeln!(text, "no leader is known (preferred: node {preferred_leader})"),
            _ => writeln!(text, "led by node {leader} (preferred: node {preferred_leader})"),
        };
        let Shown { commit, applied, durable, last, sessions, .. } = self;
        let _ = writeln!(
            text,
            "commit {commit}, applied {applied}, durable {durable}, last {last}; {sessions} sessions"
        );
        if let Some(lost) = &self.lost {
            let _ = writeln!(text, "its disk has lost: {lost}; the other members make up for it if they can");
        }
        let Snapshots { index, bytes, log_bytes, log_first, .. } = self.snapshot;
        let _ = match index {
            0 => write!(text, "no snapshot"),
            _ => write!(text, "snapshot of entry {index} ({bytes} bytes)"),
        };
        let ago = self.snapshot.ms_ago.map(|ms| format!(", {:.1} s ago", ms as f64 / 1000.0));
        let busy = if self.snapshot.busy { "; another is under way" } else { "" };
        let failure = self.snapshot.failure.as_ref().map(|why| format!("; the last one failed: {why}"));
        let _ = writeln!(
            text,
            "{}; the log begins at {log_first}, {log_bytes} bytes of it in no snapshot{busy}{}",
            ago.unwrap_or_default(),
            failure.unwrap_or_default()
        );
        for transfer in &self.transfers {
            let _ = writeln!(text, "{}", transfer.text());
        }
        let _ = writeln!(text, "configuration of index {}: {}", self.configuration.index, self.configuration);
        let heads = ["peer", "kind", "match", "next", "state", "in flight", "bytes", "last contact"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.peers.iter().map(Peer::row));
        text += &output::align(&rows);
        for Happened { ms_ago, term, count, what } in &self.history {
            let often = if *count > 1 { format!(" ({count} times)") } else { String::new() };
            let _ = writeln!(text, "{:.3} s ago, term {term}: {what}{often}", *ms_ago as f64 / 1000.0);
        }
        text
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |nodes: &[u32]| nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "voters {}", list(&self.voters))?;
        let others = [
            ("outgoing", &self.outgoing),
            ("learners", &self.learners),
            ("learners to be", &self.learners_next),
        ];
        for (name, nodes) in others.into_iter().filter(|(_, nodes)| !nodes.is_empty()) {
            write!(f, "; {name} {}", list(nodes))?;
        }
        if self.settled { Ok(()) } else { f.write_str(" (being changed)") }
    }
}

impl Peer {
    fn row(&self) -> Vec<String> {
        let contact = match (self.in_contact, self.last_contact_ms) {
            (true, Some(ms)) => format!("{ms} ms ago"),
            (false, Some(ms)) => format!("{ms} ms ago, out of contact"),
            (_, None) => "never in this connection".to_owned(),
        };
        let or_dash = |known: bool, text: String| if known { text } else { "-".to_owned() };
        // Only the leader knows how far its peers are.
        let leads = !self.state.is_empty();
        vec![
            self.node.to_string(),
            self.kind.clone(),
            or_dash(leads, self.matched.to_string()),
            or_dash(leads, self.next.to_string()),
            or_dash(leads, self.state.clone()),
            or_dash(leads, self.in_flight.to_string()),
            or_dash(leads, self.in_flight_bytes.to_string()),
            contact,
        ]
    }
}
