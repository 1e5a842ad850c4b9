//! `logdrive status`: the nodes of a running cluster, their groups and their logs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::client::{AskError, Connection, NodeReport};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The client address of any node; the others are found through it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001")]
    addr: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// A node that does not answer within this time is shown as unreachable.
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
}

/// A cluster as its nodes tell it.
#[derive(Debug, Serialize)]
struct Cluster {
    groups: u64,
    /// Groups that no node leads, as far as the nodes that answered know.
    groups_without_leader: u64,
    nodes_unreachable: usize,
    out_of_space: bool,
    nodes: Vec<Node>,
}

/// One node; `report` or `error`.
#[derive(Debug, Serialize)]
struct Node {
    address: String,
    report: Option<NodeReport>,
    error: Option<String>,
}

/// Prints the status; the exit code says whether all is well.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let timeout = Duration::from_millis(args.timeout_ms);
    let addresses = discover(&args.addr, timeout).map_err(|error| {
        let help = "name the client address of a running node with --addr";
        Failure::said(Exit::Unwell, format!("{}: {error}", args.addr), help)
    })?;
    let cluster = Cluster::new(ask_all(addresses, timeout));
    let text = if args.json {
        serde_json::to_string_pretty(&cluster)
            .map_err(|error| Failure::said(Exit::Failed, error.to_string(), ""))?
    } else {
        cluster.table()
    };
    output::print(&text)?;
    Ok(if cluster.is_well() { Exit::Done } else { Exit::Unwell })
}

/// The client addresses of all nodes.
fn discover(address: &str, timeout: Duration) -> Result<Vec<String>, AskError> {
    Connection::open(address, timeout)?.node_addresses()
}

/// Asks all nodes at once: one that is out of reach does not delay the others.
fn ask_all(addresses: Vec<String>, timeout: Duration) -> Vec<Node> {
    let ask = |address: String| match Connection::open(&address, timeout).and_then(|mut node| node.status()) {
        Ok(report) => Node { address, report: Some(report), error: None },
        Err(error) => Node { address, report: None, error: Some(error.to_string()) },
    };
    let mut nodes: Vec<Node> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            addresses.into_iter().map(|address| scope.spawn(move || ask(address))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    nodes.sort_by_key(|node| {
        (node.report.as_ref().map_or(u32::MAX, |report| report.node), node.address.clone())
    });
    nodes
}

impl Cluster {
    fn new(nodes: Vec<Node>) -> Cluster {
        let reports = || nodes.iter().filter_map(|node| node.report.as_ref());
        let nodes_unreachable = nodes.len() - reports().count();
        let groups = reports().map(|report| report.groups).max().unwrap_or(0);
        let led: u64 = reports().map(|report| report.sum(|core| core.leaders)).sum();
        // A node out of reach may lead groups: then the others' word counts.
        let groups_without_leader = match nodes_unreachable {
            0 => groups.saturating_sub(led),
            _ => reports().map(|report| report.sum(|core| core.leaderless)).max().unwrap_or(0),
        };
        let out_of_space = reports().any(|report| report.cores.iter().any(|core| core.log_out_of_space));
        Cluster { groups, groups_without_leader, nodes_unreachable, out_of_space, nodes }
    }

    fn is_well(&self) -> bool {
        let is_sound = self.groups_without_leader == 0 && !self.out_of_space;
        let is_whole = self.damages().next().is_none();
        let keeps = self.failing_disks().next().is_none();
        is_sound && is_whole && keeps && self.nodes_unreachable == 0 && self.refusals().next().is_none()
    }

    /// Nodes whose disk lost something, and in how many groups it is not made up for.
    fn damages(&self) -> impl Iterator<Item = (u32, u64)> {
        let reports = self.nodes.iter().filter_map(|node| node.report.as_ref());
        let damages = reports.map(|report| (report.node, report.sum(|core| core.damaged)));
        damages.filter(|(_, damaged)| *damaged > 0)
    }

    /// Nodes with a disk that was damaged again where it had been repaired.
    fn failing_disks(&self) -> impl Iterator<Item = u32> {
        let reports = self.nodes.iter().filter_map(|node| node.report.as_ref());
        reports.filter(|report| report.cores.iter().any(|core| core.disk_failing)).map(|report| report.node)
    }

    /// Nodes that refuse each other: who says it, about whom, and why.
    fn refusals(&self) -> impl Iterator<Item = (u32, u32, &str)> {
        let reports = self.nodes.iter().filter_map(|node| node.report.as_ref());
        reports.flat_map(|report| {
            report.peers.iter().filter_map(|peer| Some((report.node, peer.node, peer.refused.as_deref()?)))
        })
    }

    fn table(&self) -> String {
        let heads = [
            "node",
            "clients at",
            "cores",
            "leader of",
            "follows",
            "votes",
            "no leader",
            "commit lag",
            "apply lag",
            "log",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.nodes.iter().map(Node::row));
        let mut text = output::align(&rows);
        let _ = writeln!(
            text,
            "\n{} groups, {} without a leader; {} of {} nodes answer{}",
            self.groups,
            self.groups_without_leader,
            self.nodes.len() - self.nodes_unreachable,
            self.nodes.len(),
            if self.out_of_space { "; a log is out of space: writes are refused, reads go on" } else { "" },
        );
        for (node, damaged) in self.damages() {
            let _ = writeln!(
                text,
                "node {node} has lost a part of the logs of {damaged} groups, which their other members have not made up for \
                 yet: check its disk"
            );
        }
        for node in self.failing_disks() {
            let _ = writeln!(
                text,
                "node {node} has a disk that loses what is written to it, also after it was repaired (its log names file and place): \
                 replace it"
            );
        }
        for (node, peer, reason) in self.refusals() {
            let _ = writeln!(text, "node {node} has no connection to node {peer}: {reason}");
        }
        text
    }
}

impl Node {
    fn row(&self) -> Vec<String> {
        let Some(report) = &self.report else {
            let error = self.error.as_deref().unwrap_or("no answer");
            return vec!["?".to_owned(), self.address.clone(), format!("unreachable: {error}")];
        };
        let sum = |of: fn(&crate::client::CoreReport) -> u64| report.sum(of).to_string();
        let (used, budget) =
            (report.sum(|core| core.log_used_bytes), report.sum(|core| core.log_budget_bytes));
        let full = if report.cores.iter().any(|core| core.log_out_of_space) { ", OUT OF SPACE" } else { "" };
        vec![
            report.node.to_string(),
            self.address.clone(),
            report.cores.len().to_string(),
            sum(|core| core.leaders),
            sum(|core| core.followers),
            sum(|core| core.candidates),
            sum(|core| core.leaderless),
            sum(|core| core.commit_lag),
            sum(|core| core.apply_lag),
            format!("{} of {}{full}", Bytes(used), Bytes(budget)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{CoreReport, PeerReport};

    fn node(number: u32, leaders: u64, leaderless: u64) -> Node {
        let core = CoreReport { leaders, leaderless, log_budget_bytes: 1 << 30, ..CoreReport::default() };
        let report = NodeReport { node: number, groups: 8, cores: vec![core], peers: Vec::new() };
        Node { address: format!("127.0.0.1:700{number}"), report: Some(report), error: None }
    }

    fn lost() -> Node {
        Node { address: "127.0.0.1:7009".to_owned(), report: None, error: Some("refused".to_owned()) }
    }

    #[test]
    fn groups_without_a_leader_are_counted_over_all_nodes() {
        let cluster = Cluster::new(vec![node(1, 3, 0), node(2, 3, 0), node(3, 1, 0)]);
        assert_eq!((cluster.groups_without_leader, cluster.is_well()), (1, false));
        assert!(Cluster::new(vec![node(1, 3, 0), node(2, 3, 0), node(3, 2, 0)]).is_well());
    }

    #[test]
    fn a_refused_node_is_not_well() {
        let mut refusing = node(1, 8, 0);
        let peer = PeerReport { node: 2, links: 0, refused: Some("another incarnation".to_owned()) };
        refusing.report.as_mut().expect("it has one").peers.push(peer);
        let cluster = Cluster::new(vec![refusing]);
        assert!(!cluster.is_well());
        assert!(cluster.table().contains("node 1 has no connection to node 2: another incarnation"));
    }

    #[test]
    fn a_disk_that_does_not_keep_what_is_written_is_not_well() {
        let mut failing = node(2, 0, 0);
        failing.report.as_mut().expect("it has one").cores[0].disk_failing = true;
        let cluster = Cluster::new(vec![node(1, 8, 0), failing]);
        assert!(!cluster.is_well());
        assert!(cluster.table().contains("node 2 has a disk that loses what is written to it"));
    }

    #[test]
    fn with_a_node_out_of_reach_the_others_word_counts() {
        let cluster = Cluster::new(vec![node(1, 3, 0), node(2, 3, 2), lost()]);
        assert_eq!((cluster.groups_without_leader, cluster.nodes_unreachable), (2, 1));
        assert!(!cluster.is_well());
        let table = cluster.table();
        assert!(table.contains("127.0.0.1:7009  unreachable: refused"), "{table}");
        assert!(table.contains("8 groups, 2 without a leader; 2 of 3 nodes answer"), "{table}");
    }
}
