//! `logdrive group`: shows groups, compares their states, moves their leaders, changes their members.

mod change;
mod cluster;
mod digest;
mod select;
mod show;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Refusal;
use crate::failure::{Exit, Failure};
use crate::output;
use change::{Goal, Way};
pub(crate) use cluster::{Cluster, Deadline, Failed};
use select::Groups;
use show::Configuration;

/// Seconds that a change may take without `--wait`: a leader that is new, or a learner that is behind, is asked again.
const CHANGE_S: u64 = 10;
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
    /// Compare the states of all members at the same applied index, by digest: exit code 5 if any differ.
    ///
    /// Groups that are written to are looked at again and again, for 10 seconds in all without `--wait`; exit code 7 if
    /// some were never seen at one index: let writers pause. A digest is a pass over all keys of the group on each member,
    /// and the core of the group does nothing else meanwhile: `logdrive-bench snapshot` tells how long that takes for
    /// how many keys.
    Digest {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        #[command(flatten)]
        wait: Wait,
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
        /// Call the transfers under way off instead: the leaders lead on. Where there is none nothing happens.
        #[arg(long, conflicts_with_all = ["to", "wait"])]
        cancel: bool,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        common: Common,
    },
    /// Make a node a learner of groups: it gets the log and decides nothing.
    AddLearner(Member),
    /// Make a node a voter of groups: a learner first, a voter when it has caught up.
    AddVoter(Member),
    /// Make learners voters, when they have caught up.
    Promote(Member),
    /// Remove a node from groups. It may be dead, and it may be the leader.
    Remove(Member),
    /// Replace a node by another one: the new one learns, then takes the old one's vote in one joint change.
    Replace {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        /// The node that goes; it may be dead.
        #[arg(value_name = "OLD")]
        old: u32,
        /// The node that comes.
        #[arg(value_name = "NEW")]
        new: u32,
        #[command(flatten)]
        way: WayArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Let nodes take snapshots of groups now, and wait until they are durable.
    Snapshot {
        /// Groups: `7`, `1-16,20` or `all`.
        #[arg(value_name = "GROUPS")]
        groups: Groups,
        /// On this node. By default on all nodes that answer.
        #[arg(long, value_name = "NODE")]
        node: Option<u32>,
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

/// Groups, and a node that becomes something else in them.
#[derive(Debug, clap::Args)]
pub(crate) struct Member {
    /// Groups: `7`, `1-16,20` or `all`.
    #[arg(value_name = "GROUPS")]
    groups: Groups,
    /// The node.
    #[arg(value_name = "NODE")]
    node: u32,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    common: Common,
}

/// How a configuration is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct WayArgs {
    /// Change it only if it is the configuration of this index (`group show` tells it); exit code 6 if it is not.
    #[arg(long, value_name = "INDEX")]
    expect: Option<u64>,
    /// Let nodes become voters whose logs are behind or unknown: the group may not commit until they have caught up.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: Wait,
}

impl WayArgs {
    fn way(&self) -> Way {
        Way {
            expected: self.expect,
            force: self.force,
            waits: self.wait.wait.is_some(),
            deadline: Deadline::after(Duration::from_secs(self.wait.wait.unwrap_or(CHANGE_S))),
        }
    }
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
    #[serde(flatten)]
    done: Done,
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

/// The answer to TRANSFER ... CANCEL.
#[derive(Deserialize)]
struct Cancelled {
    leader: u32,
    cancelled: u32,
}

/// Does what is asked; the exit code says how it went.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::List { common } => show::list(common),
        Command::Show { groups, node, common } => show::show(groups, *node, common),
        Command::Digest { groups, wait, common } => {
            let time = Duration::from_secs(wait.wait.unwrap_or(CHANGE_S));
            digest::digest(groups, Deadline::after(time), common)
        }
        Command::Transfer { groups, cancel: true, common, .. } => for_each(groups, common, cancel_transfer),
        Command::Transfer { groups, to, wait, common, .. } => {
            let deadline = wait.deadline();
            let act = |cluster: &mut Cluster, group| transfer(cluster, group, *to, deadline);
            for_each(groups, common, act)
        }
        Command::Campaign { groups, node, wait, common } => {
            let deadline = wait.deadline();
            let address = common.cluster()?.address_of(*node)?;
            for_each(groups, common, |cluster, group| campaign(cluster, group, &address, deadline))
        }
        Command::Snapshot { groups, node, common } => {
            let mut cluster = common.cluster()?;
            let addresses = match node {
                Some(node) => vec![cluster.address_of(*node)?],
                None => cluster.addresses(),
            };
            for_each(groups, common, |cluster, group| snapshot(cluster, group, &addresses))
        }
        Command::AddLearner(member) => reach_one(member, Goal::Learner),
        Command::AddVoter(member) => reach_one(member, Goal::Voter),
        Command::Promote(member) => reach_one(member, Goal::Promoted),
        Command::Remove(member) => reach_one(member, Goal::Gone),
        Command::Replace { groups, old, new, way, common } => {
            reach_all(groups, Goal::Replaced(*old, *new), way, common)
        }
    }
}

fn reach_one(member: &Member, goal: impl Fn(u32) -> Goal) -> Result<Exit, Failure> {
    reach_all(&member.groups, goal(member.node), &member.way, &member.common)
}

/// Changes the members of each of the groups. New members learn in all of them at once, before the first becomes a voter.
fn reach_all(groups: &Groups, goal: Goal, way: &WayArgs, common: &Common) -> Result<Exit, Failure> {
    let way = way.way();
    let newcomer = match goal {
        Goal::Voter(new) | Goal::Replaced(_, new) if way.expected.is_none() => Some(new),
        _ => None,
    };
    if let Some(new) = newcomer {
        let mut cluster = common.cluster()?;
        for group in chosen(groups, &mut cluster, common)? {
            // What fails here fails below as well, and is told then.
            let _ = change::reach(&mut cluster, group, Goal::Learner(new), Way { waits: false, ..way });
        }
    }
    for_each(groups, common, |cluster, group| {
        let reached = change::reach(cluster, group, goal, way)?;
        let (leader, configuration) = (Some(reached.leader), Some(reached.configuration));
        Ok(Done { leader, configuration, ..Done::default() })
    })
}

/// What came of it where all went well.
#[derive(Debug, Default, Serialize)]
struct Done {
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u32>,
    /// The node that a transfer went to which was called off.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<Configuration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<Taken>,
}

/// A snapshot of a group on a node.
#[derive(Debug, Deserialize, Serialize)]
struct Taken {
    node: u32,
    index: u64,
}

/// Does something to each of the groups; prints what came of it.
fn for_each(
    groups: &Groups,
    common: &Common,
    mut act: impl FnMut(&mut Cluster, u64) -> Result<Done, Failed>,
) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let groups = chosen(groups, &mut cluster, common)?;
    let outcome = |group| match act(&mut cluster, group) {
        Ok(done) => Outcome { group, done, error: None, exit: Exit::Done },
        Err(failed) => {
            let (error, exit) = (Some(failed.refusal()), failed.exit());
            Outcome { group, done: Done::default(), error, exit }
        }
    };
    report(groups.into_iter().map(outcome).collect(), common)
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
            let done = &outcome.done;
            let leader = done.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string());
            let said = outcome.error.as_ref().map(|error| format!("{}: {}", error.code, error.message));
            let members = done.configuration.as_ref().map(Configuration::to_string);
            let snapshots = done.snapshots.iter();
            let snapshots: Vec<String> = snapshots
                .map(|taken| format!("snapshot of entry {} on node {}", taken.index, taken.node))
                .collect();
            let taken = (!snapshots.is_empty()).then(|| snapshots.join(", "));
            let cancelled = done.cancelled.map(|to| format!("its transfer to node {to} was called off"));
            let said = said.or(cancelled).or(members).or(taken).unwrap_or_else(|| "done".to_owned());
            vec![outcome.group.to_string(), leader, said]
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
fn transfer(cluster: &mut Cluster, group: u64, to: Option<u32>, deadline: Deadline) -> Result<Done, Failed> {
    let words = words(
        &["GROUP", "TRANSFER"],
        &[&[group][..], &to.map(u64::from).into_iter().collect::<Vec<_>>()].concat(),
    );
    loop {
        match cluster.ask_leader::<Led>(&words, deadline) {
            Ok(led) => return Ok(Done { leader: Some(led.leader), ..Done::default() }),
            // It was not able to take over yet.
            Err(Failed::Refused(refusal))
                if ["TIMEOUT", "BADTARGET", "ELSEWHERE"].contains(&refusal.code.as_str())
                    && !deadline.is_over() =>
            {
                deadline.pause();
            }
            Err(failed) => return Err(failed),
        }
    }
}

/// Calls the transfer of one group off, if one is under way.
fn cancel_transfer(cluster: &mut Cluster, group: u64) -> Result<Done, Failed> {
    let mut words = words(&["GROUP", "TRANSFER"], &[group]);
    words.push("CANCEL".to_owned());
    let answer = cluster.ask_leader::<Cancelled>(&words, Deadline::after(Duration::ZERO))?;
    let cancelled = (answer.cancelled > 0).then_some(answer.cancelled);
    Ok(Done { leader: Some(answer.leader), cancelled, ..Done::default() })
}

fn campaign(cluster: &mut Cluster, group: u64, address: &str, deadline: Deadline) -> Result<Done, Failed> {
    let words = words(&["GROUP", "CAMPAIGN"], &[group]);
    loop {
        let failed = match cluster.ask::<Led>(address, &words) {
            Ok(led) => return Ok(Done { leader: Some(led.leader), ..Done::default() }),
            Err(crate::client::AskError::Refused(refusal)) => Failed::Refused(refusal),
            Err(error) => Failed::Unreachable(format!("{address}: {error}")),
        };
        if !deadline.pause() {
            return Err(failed);
        }
    }
}

/// Lets each of the nodes take a snapshot of one group.
fn snapshot(cluster: &mut Cluster, group: u64, addresses: &[String]) -> Result<Done, Failed> {
    let words = words(&["GROUP", "SNAPSHOT"], &[group]);
    let mut done = Done::default();
    for address in addresses {
        match cluster.ask::<Taken>(address, &words) {
            Ok(taken) => done.snapshots.push(taken),
            Err(crate::client::AskError::Refused(refusal)) => return Err(Failed::Refused(refusal)),
            Err(error) => return Err(Failed::Unreachable(format!("{address}: {error}"))),
        }
    }
    Ok(done)
}
