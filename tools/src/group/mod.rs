//! `logdrive group`: shows groups, moves their leaders.

mod cluster;
mod select;
mod show;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Refusal;
use crate::failure::{Exit, Failure};
use crate::output;
pub(crate) use cluster::{Cluster, Deadline, Failed};
use select::Groups;

/// Seconds that `--wait` without a number waits.
pub(crate) const WAIT_S: &str = "60";

/// `logdrive group ...`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List all groups with their leaders.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show groups in detail: role, term, indexes, and how far each peer is.
    Show {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        /// As this node sees them. By default as their leaders do.
        #[arg(long, value_name = "NODE")]
        node: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// Move the leadership of groups to another voter.
    Transfer {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        /// The node that is to lead. By default the voter that can take over at once and has the longest log.
        #[arg(long, value_name = "NODE")]
        to: Option<u32>,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        common: Common,
    },
    /// Let a member of groups ask for votes now: for tests and repair. Where a leader is in office nobody votes for it.
    Campaign {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        /// The node that is to campaign.
        #[arg(long, value_name = "NODE")]
        node: u32,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        common: Common,
    },
}

/// What all commands have.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The client address of any node; the others are found through it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001")]
    pub(crate) addr: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// A node that does not answer within this time counts as unreachable.
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout_ms: u64,
}

impl Common {
    pub(crate) fn cluster(&self) -> Result<Cluster, Failure> {
        Cluster::find(&self.addr, Duration::from_millis(self.timeout_ms))
    }
}

/// Whether to try on.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Go on trying and wait until it has come about, so many seconds at most (60 if no number is given).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = WAIT_S)]
    pub(crate) wait: Option<u64>,
}

impl Wait {
    /// Until when; at once over without `--wait`.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(Duration::from_secs(self.wait.unwrap_or(0)))
    }
}

/// What came of it, for one group.
#[derive(Debug, Serialize)]
struct Outcome {
    group: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Debug, Serialize)]
struct Outcomes {
    done: usize,
    failed: usize,
    groups: Vec<Outcome>,
}

/// The answer to TRANSFER and CAMPAIGN.
#[derive(Deserialize)]
struct Led {
    leader: u32,
}

/// Does what is asked; the exit code says how it went.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::List { common } => show::list(common),
        Command::Show { groups, node, common } => show::show(groups, *node, common),
        Command::Transfer { groups, to, wait, common } => {
            let deadline = wait.deadline();
            for_each(groups, common, |cluster, group| transfer(cluster, group, *to, deadline))
        }
        Command::Campaign { groups, node, wait, common } => {
            let (deadline, mut at) = (wait.deadline(), None);
            for_each(groups, common, |cluster, group| {
                let address = match at.take() {
                    Some(address) => address,
                    None => cluster
                        .address_of(*node)
                        .map_err(|failure| Failed::Unreachable(failure.report.to_string()))?,
                };
                at = Some(address.clone());
                campaign(cluster, group, &address, deadline)
            })
        }
    }
}

/// Does something to each of the groups; prints what came of it.
fn for_each(
    groups: &Groups,
    common: &Common,
    mut act: impl FnMut(&mut Cluster, u64) -> Result<u32, Failed>,
) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let groups = chosen(groups, &mut cluster, common)?;
    let outcomes: Vec<Outcome> = groups
        .into_iter()
        .map(|group| match act(&mut cluster, group) {
            Ok(leader) => Outcome { group, leader: Some(leader), error: None, exit: Exit::Done },
            Err(failed) => {
                Outcome { group, leader: None, error: Some(failed.refusal()), exit: failed.exit() }
            }
        })
        .collect();
    report(outcomes, common)
}

/// The groups that are meant, checked against the cluster.
fn chosen(groups: &Groups, cluster: &mut Cluster, common: &Common) -> Result<Vec<u64>, Failure> {
    let status = cluster.status(&common.addr).map_err(|error| {
        let help = "name the client address of a running node with --addr";
        Failure::said(Exit::Unwell, format!("{}: {error}", common.addr), help)
    })?;
    groups.of(status.groups).map_err(|group| {
        let what = format!("there is no group {group}: the cluster has groups 1 to {}", status.groups);
        Failure::said(Exit::Refused, what, "`logdrive group list` lists them")
    })
}

fn report(outcomes: Vec<Outcome>, common: &Common) -> Result<Exit, Failure> {
    let exit = outcomes.iter().map(|outcome| outcome.exit).find(|exit| *exit != Exit::Done);
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    let outcomes = Outcomes { done: outcomes.len() - failed, failed, groups: outcomes };
    let text = if common.json { to_json(&outcomes)? } else { outcomes.table() };
    output::print(&text)?;
    Ok(exit.unwrap_or(Exit::Done))
}

impl Outcomes {
    fn table(&self) -> String {
        let mut rows = vec![vec!["group".to_owned(), "leader".to_owned(), String::new()]];
        rows.extend(self.groups.iter().map(|outcome| {
            let leader = outcome.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string());
            let said = outcome.error.as_ref().map(|error| format!("{}: {}", error.code, error.message));
            vec![outcome.group.to_string(), leader, said.unwrap_or_else(|| "done".to_owned())]
        }));
        output::align(&rows) + &format!("\n{} done, {} failed\n", self.done, self.failed)
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Failure::said(Exit::Failed, error.to_string(), ""))?;
    Ok(text + "\n")
}

pub(crate) fn words(words: &[&str], numbers: &[u64]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).chain(numbers.iter().map(u64::to_string)).collect()
}

/// Moves one group; the leader then.
fn transfer(cluster: &mut Cluster, group: u64, to: Option<u32>, deadline: Deadline) -> Result<u32, Failed> {
    let words = words(
        &["GROUP", "TRANSFER"],
        &[&[group][..], &to.map(u64::from).into_iter().collect::<Vec<_>>()].concat(),
    );
    loop {
        match cluster.ask_leader::<Led>(&words, deadline) {
            Ok(led) => return Ok(led.leader),
            // It was not able to take over yet.
            Err(Failed::Refused(refusal))
                if ["TIMEOUT", "BADTARGET"].contains(&refusal.code.as_str()) && !deadline.is_over() =>
            {
                deadline.pause();
            }
            Err(failed) => return Err(failed),
        }
    }
}

fn campaign(cluster: &mut Cluster, group: u64, address: &str, deadline: Deadline) -> Result<u32, Failed> {
    let words = words(&["GROUP", "CAMPAIGN"], &[group]);
    loop {
        let failed = match cluster.ask::<Led>(address, &words) {
            Ok(led) => return Ok(led.leader),
            Err(crate::client::AskError::Refused(refusal)) => Failed::Refused(refusal),
            Err(error) => Failed::Unreachable(format!("{address}: {error}")),
        };
        if !deadline.pause() {
            return Err(failed);
        }
    }
}
