//! What the tools ask running nodes, over the same protocol that clients use.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One node's answer to `LOGDRIVE STATUS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct NodeReport {
    /// Its id.
    pub(crate) node: u32,
    /// Groups of the cluster.
    pub(crate) groups: u64,
    /// One entry per core.
    pub(crate) cores: Vec<CoreReport>,
    /// One entry per other node.
    #[serde(default)]
    pub(crate) peers: Vec<PeerReport>,
}

/// How a node's connections to another one are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct PeerReport {
    /// The other node.
    pub(crate) node: u32,
    /// Connections that are up.
    pub(crate) links: u64,
    /// Why the last handshake was refused, by either side.
    pub(crate) refused: Option<String>,
}

/// One core in a [`NodeReport`]: the counts the tools show. Unknown ones are ignored and missing ones are 0, so that
/// the tools of one version can ask the nodes of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub(crate) struct CoreReport {
    pub(crate) core: u16,
    pub(crate) groups: u64,
    pub(crate) leaders: u64,
    pub(crate) followers: u64,
    pub(crate) candidates: u64,
    pub(crate) leaderless: u64,
    pub(crate) damaged: u64,
    pub(crate) commit_lag: u64,
    pub(crate) apply_lag: u64,
    pub(crate) applied: u64,
    pub(crate) busy: u64,
    pub(crate) log_used_bytes: u64,
    pub(crate) log_budget_bytes: u64,
    pub(crate) log_out_of_space: bool,
    pub(crate) links_alive: u64,
    pub(crate) draining: bool,
    pub(crate) disk_failing: bool,
}

impl NodeReport {
    /// A count summed over the cores.
    pub(crate) fn sum(&self, of: impl Fn(&CoreReport) -> u64) -> u64 {
        self.cores.iter().map(of).sum()
    }
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Not reached, or it did not answer in time.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// The node refused, with a reason.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Something answers there, but not a logdrive node of a version we know.
    #[error("not the answer of a logdrive node: {0}")]
    Strange(String),
}

/// Why a node did not do what an operator asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, thiserror::Error)]
#[serde(default)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// `NOTLEADER`, `BUSY` and so on.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// The leader, if it is known, and where its clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) leader: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// When to ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_ms: Option<u64>,
    /// Indexes of configurations: the expected one and the one in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<u64>,
}

impl Refusal {
    /// From the first word of an error and the rest; `None` if the rest is not what a node says to operators.
    fn parse(code: &str, rest: &str) -> Option<Refusal> {
        let refusal: Refusal = serde_json::from_str(rest).ok()?;
        Some(Refusal { code: code.to_owned(), ..refusal })
    }
}

/// A connection to one node.
pub(crate) struct Connection {
    inner: redis::Connection,
}

impl Connection {
    /// Connects; `timeout` bounds this and every answer.
    pub(crate) fn open(address: &str, timeout: Duration) -> Result<Connection, AskError> {
        let client = redis::Client::open(format!("redis://{address}"))?;
        let inner = client.get_connection_with_timeout(timeout)?;
        inner.set_read_timeout(Some(timeout))?;
        inner.set_write_timeout(Some(timeout))?;
        Ok(Connection { inner })
    }

    /// Asks for the node's counts.
    pub(crate) fn status(&mut self) -> Result<NodeReport, AskError> {
        let json: String = redis::cmd("LOGDRIVE").arg("STATUS").query(&mut self.inner)?;
        serde_json::from_str(&json).map_err(|error| AskError::Strange(format!("{error} in {json:.200}")))
    }

    /// Asks what an operator asks: the words after `LOGDRIVE`.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, words: &[String]) -> Result<T, AskError> {
        let json: String = redis::cmd("LOGDRIVE").arg(words).query(&mut self.inner).map_err(|error| {
            let refusal =
                error.code().zip(error.detail()).and_then(|(code, rest)| Refusal::parse(code, rest));
            refusal.map_or(AskError::Redis(error), |refusal| AskError::Refused(Box::new(refusal)))
        })?;
        serde_json::from_str(&json).map_err(|error| AskError::Strange(format!("{error} in {json:.200}")))
    }

    /// The client addresses of all nodes of the cluster, in the order of the answer.
    pub(crate) fn node_addresses(&mut self) -> Result<Vec<String>, AskError> {
        let text: String = redis::cmd("CLUSTER").arg("NODES").query(&mut self.inner)?;
        let addresses: Option<Vec<String>> = text.lines().map(address_of).collect();
        addresses.filter(|all| !all.is_empty()).ok_or(AskError::Strange(text))
    }
}

/// The address in one line of `CLUSTER NODES`: `id host:port@cport[,hostname] flags ...`.
fn address_of(line: &str) -> Option<String> {
    let field = line.split(' ').nth(1)?;
    let (address, _) = field.split_once('@')?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_cluster_nodes() {
        let line = "07c3 127.0.0.1:7001@17001,host myself,master - 0 0 1 connected 0-5460";
        assert_eq!(address_of(line).as_deref(), Some("127.0.0.1:7001"));
        assert_eq!(address_of("garbage"), None);
        assert_eq!(address_of(""), None);
    }

    #[test]
    fn a_report_tolerates_other_versions() {
        let json =
            r#"{"node":2,"groups":4,"boot":9,"cores":[{"core":0,"leaders":3,"new_count":1},{"leaders":1}]}"#;
        let report: NodeReport = serde_json::from_str(json).expect("it parses");
        assert_eq!((report.node, report.sum(|core| core.leaders)), (2, 4));
    }
}
