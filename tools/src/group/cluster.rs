//! A running cluster, as the operator's commands see it: every node by its client address, the leader of a group by redirects.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::client::{AskError, Connection, NodeReport, Refusal};
use crate::failure::{Exit, Failure};

/// Pause before a node is asked again that could not do it yet.
const PAUSE: Duration = Duration::from_millis(50);
/// Redirects followed in a row: leaders move, but not in circles for long.
const REDIRECTS_MAX: u32 = 16;

/// Time that runs out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    #[allow(clippy::disallowed_methods, reason = "a command that waits for a cluster lives in real time")]
    pub(crate) fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    #[allow(clippy::disallowed_methods, reason = "as above")]
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps for a moment; false if the time is over.
    pub(crate) fn pause(self) -> bool {
        if self.is_over() {
            return false;
        }
        std::thread::sleep(PAUSE);
        true
    }
}

/// How a request to a group or node failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The node that could do it refused.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Nobody answered who could do it.
    #[error("no node that could do it answered: {0}")]
    Unreachable(String),
}

impl Failed {
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Failed::Refused(refusal) => (**refusal).clone(),
            Failed::Unreachable(_) => {
                Refusal { code: "UNREACHABLE".to_owned(), message: self.to_string(), ..Refusal::default() }
            }
        }
    }

    /// The exit code of a command that failed like this.
    pub(crate) fn exit(&self) -> Exit {
        match self.refusal().code.as_str() {
            "MISMATCH" => Exit::Mismatch,
            "TIMEOUT" | "ELSEWHERE" | "BEHIND" => Exit::TimedOut,
            "UNREACHABLE" | "NOTLEADER" => Exit::Unwell,
            _ => Exit::Failed,
        }
    }
}

/// The nodes of a cluster.
pub(crate) struct Cluster {
    timeout: Duration,
    addresses: Vec<String>,
    connections: BTreeMap<String, Connection>,
    /// Where the leader of some group was found last: most likely it leads the next group as well.
    hint: String,
}

impl Cluster {
    /// Finds all nodes through any of them.
    pub(crate) fn find(address: &str, timeout: Duration) -> Result<Cluster, Failure> {
        let found = Connection::open(address, timeout).and_then(|mut node| node.node_addresses());
        let addresses = found.map_err(|error| {
            let help = "name the client address of a running node with --addr";
            Failure::said(Exit::Unwell, format!("{address}: {error}"), help)
        })?;
        Ok(Cluster { timeout, addresses, connections: BTreeMap::new(), hint: address.to_owned() })
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    fn connection(&mut self, address: &str) -> Result<&mut Connection, AskError> {
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, self.timeout)?;
            self.connections.insert(address.to_owned(), connection);
        }
        Ok(self.connections.get_mut(address).expect("it was just put there"))
    }

    /// Asks one node.
    pub(crate) fn ask<T: DeserializeOwned>(
        &mut self,
        address: &str,
        words: &[String],
    ) -> Result<T, AskError> {
        let answer = self.connection(address).and_then(|node| node.ask(words));
        if matches!(answer, Err(AskError::Redis(_))) {
            // It may be half-way through an answer: begin anew.
            self.connections.remove(address);
        }
        answer
    }

    /// What a node says of itself.
    pub(crate) fn status(&mut self, address: &str) -> Result<NodeReport, AskError> {
        self.connection(address)?.status()
    }

    /// The client address of a node.
    pub(crate) fn address_of(&mut self, node: u32) -> Result<String, Failure> {
        let mut silent = Vec::new();
        for address in self.addresses() {
            match self.status(&address) {
                Ok(report) if report.node == node => return Ok(address),
                Ok(_) => {}
                Err(error) => silent.push(format!("{address}: {error}")),
            }
        }
        let what = format!("no node that answers is node {node}");
        let help = match silent.is_empty() {
            true => "`logdrive status` lists the nodes".to_owned(),
            false => format!("these do not answer: {}", silent.join("; ")),
        };
        Err(Failure::said(Exit::Unwell, what, help))
    }

    /// Asks the leader of a group: whoever is not, names it. Until `deadline` a leader is waited for.
    pub(crate) fn ask_leader<T: DeserializeOwned>(
        &mut self,
        words: &[String],
        deadline: Deadline,
    ) -> Result<T, Failed> {
        let mut failed;
        loop {
            failed = match self.follow(words) {
                Err(failed) => failed,
                Ok(answer) => return Ok(answer),
            };
            let is_passing = match &failed {
                Failed::Refused(refusal) => ["NOTLEADER", "BUSY"].contains(&refusal.code.as_str()),
                Failed::Unreachable(_) => true,
            };
            if !is_passing || !deadline.pause() {
                return Err(failed);
            }
        }
    }

    /// Asks one node after the other, and whomever they name, until one does it or refuses for good.
    fn follow<T: DeserializeOwned>(&mut self, words: &[String]) -> Result<T, Failed> {
        let mut next = vec![self.hint.clone()];
        let mut others = self.addresses();
        let mut failed = Failed::Unreachable("no node was asked".to_owned());
        for _ in 0..REDIRECTS_MAX {
            let Some(address) = next.pop().or_else(|| others.pop()) else { break };
            match self.ask(&address, words) {
                Ok(answer) => {
                    self.hint = address;
                    return Ok(answer);
                }
                Err(AskError::Refused(refusal)) if refusal.code == "NOTLEADER" => {
                    next.extend(refusal.address.clone());
                    failed = Failed::Refused(refusal);
                }
                Err(AskError::Refused(refusal)) => return Err(Failed::Refused(refusal)),
                Err(error) => {
                    failed = Failed::Unreachable(format!("{address}: {error}"));
                }
            }
        }
        Err(failed)
    }
}
