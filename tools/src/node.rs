//! `logdrive node`: what is done to a whole node.

use serde::{Deserialize, Serialize};

use crate::client::AskError;
use crate::failure::{Exit, Failure};
use crate::group::{Common, Wait, to_json, words};
use crate::output;

/// `logdrive node ...`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Move all leaders off a node and keep them off, before it is stopped or while it is looked into.
    ///
    /// The node goes on to follow and to vote. It stays drained until `--undo`, or until it is restarted. A group that
    /// nobody else can lead is led by it all the same.
    Drain {
        /// The node.
        #[arg(value_name = "NODE")]
        node: u32,
        /// Let leaders come back.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        common: Common,
    },
    /// Make a new node known to all nodes, durably, so that it can connect and be made a member of groups.
    ///
    /// It is started with `logdrive serve --join` and a configuration that lists all nodes and itself. Nodes that do not
    /// answer now have to be told later: repeat it. The node's priority as a leader is 0 until each node was started again with a
    /// configuration that says otherwise: priorities are read when a node starts, and are in no group's log.
    Add {
        /// Its id: one that no node of this cluster ever had.
        #[arg(value_name = "NODE")]
        node: u32,
        /// Where the other nodes reach it.
        #[arg(long, value_name = "HOST:PORT")]
        peers: String,
        /// Where clients reach it.
        #[arg(long, value_name = "HOST:PORT")]
        clients: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Serialize)]
struct Added {
    node: u32,
    /// Nodes that know it now.
    known_to: Vec<u32>,
    /// Nodes that do not, and why.
    errors: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct AddedTo {
    node: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Drained {
    node: u32,
    draining: bool,
    /// Groups it still leads.
    #[serde(default)]
    leaders: u64,
}

/// Does what is asked; the exit code says how it went.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Drain { node, undo, wait, common } => drain(*node, *undo, wait, common),
        Command::Add { node, peers, clients, common } => add(*node, peers, clients, common),
    }
}

fn add(node: u32, peers: &str, clients: &str, common: &Common) -> Result<Exit, Failure> {
    let mut cluster = common.cluster()?;
    let request = ["NODE", "ADD", &node.to_string(), peers, clients].map(str::to_owned);
    let mut added = Added { node, known_to: Vec::new(), errors: Vec::new() };
    for address in cluster.addresses() {
        match cluster.ask::<AddedTo>(&address, &request) {
            Ok(to) => added.known_to.push(to.node),
            // The new one itself may be started later; then it knows itself.
            Err(_) if address == clients => {}
            Err(error) => added.errors.push(format!("{address}: {error}")),
        }
    }
    output::print(&if common.json { to_json(&added)? } else { added.text() })?;
    Ok(if added.errors.is_empty() { Exit::Done } else { Exit::Unwell })
}

impl Added {
    fn text(&self) -> String {
        let known: Vec<String> = self.known_to.iter().map(u32::to_string).collect();
        let mut text = format!("node {} is known to node {}\n", self.node, known.join(", "));
        for error in &self.errors {
            text += &format!("not told: {error}\n");
        }
        text
    }
}

fn drain(node: u32, undo: bool, wait: &Wait, common: &Common) -> Result<Exit, Failure> {
    let deadline = wait.deadline();
    let unwell = |address: &str, error: &AskError| {
        Failure::said(Exit::Unwell, format!("node {node} at {address}: {error}"), "")
    };
    let mut cluster = common.cluster()?;
    let address = cluster.address_of(node)?;
    let words = words(if undo { &["NODE", "DRAIN", "UNDO"] } else { &["NODE", "DRAIN"] }, &[]);
    let mut drained: Drained = cluster.ask(&address, &words).map_err(|error| unwell(&address, &error))?;
    // Undone, leaders come back when the others find the time: that is not waited for.
    loop {
        let status = cluster.status(&address).map_err(|error| unwell(&address, &error))?;
        drained.leaders = status.sum(|core| core.leaders);
        if undo || drained.leaders == 0 || !deadline.pause() {
            break;
        }
    }
    let text = if common.json { to_json(&drained)? } else { drained.text() };
    output::print(&text)?;
    Ok(if undo || drained.leaders == 0 || wait.wait.is_none() { Exit::Done } else { Exit::TimedOut })
}

impl Drained {
    fn text(&self) -> String {
        let Drained { node, leaders, .. } = self;
        match (self.draining, leaders) {
            (true, 0) => format!("node {node} is drained: it leads nothing\n"),
            (true, _) => format!("node {node} is being drained: it leads {leaders} groups still\n"),
            (false, _) => format!("node {node} is not drained any more: leaders come back\n"),
        }
    }
}
