//! Settings of the front door: where it listens and every bound it has.

use std::net::SocketAddr;
use std::time::Duration;

/// What the front door of one node is started with. Where the other nodes' clients connect comes from the engine's node table.
#[derive(Clone, Debug)]
pub struct FrontDoorConfig {
    /// The cluster; part of the 40 hex digits clients know a node by.
    pub cluster: u64,
    /// Listens here for clients, one listener per core.
    pub listen: SocketAddr,
    /// Executors of this node.
    pub cores: u16,
    /// Groups of the cluster, 1 ..= groups; each owns a run of the 16,384 slots.
    pub groups: u64,
    /// The engine's limit for one proposal; also the longest argument accepted.
    pub payload_bytes_max: u32,
    /// The bounds.
    pub limits: Limits,
}

/// Every bound of the front door. Per core unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections of one core; one more is told `-ERR max number of clients reached`.
    pub connections_max: u32,
    /// Requests of one connection that are not answered yet; reading pauses there.
    pub pipeline_requests_max: u32,
    /// Bytes of them; reading pauses there (one request is always taken).
    pub pipeline_bytes_max: u32,
    /// Answer bytes waiting for a client that does not read; reading from it pauses there.
    pub output_bytes_max: u32,
    /// Arguments of one request.
    pub arguments_max: u32,
    /// Bytes of one request.
    pub request_bytes_max: u32,
    /// Requests waiting for a leader or for a busy group.
    pub parked_requests_max: u32,
    /// Bytes of them.
    pub parked_bytes_max: u64,
    /// A request whose group has no leader is answered `-CLUSTERDOWN` this long after it came, milliseconds.
    pub park_ms: u64,
    /// A request over a limit of the engine is answered `-BUSY` after this, milliseconds.
    pub busy_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 10_000,
            pipeline_requests_max: 1_024,
            pipeline_bytes_max: 1 << 20,
            output_bytes_max: 1 << 20,
            arguments_max: 65_536,
            request_bytes_max: 8 << 20,
            parked_requests_max: 16_384,
            parked_bytes_max: 32 << 20,
            park_ms: 5_000,
            busy_ms: 200,
        }
    }
}

impl Limits {
    /// [`Limits::park_ms`] as a duration.
    pub fn park(&self) -> Duration {
        Duration::from_millis(self.park_ms)
    }

    /// [`Limits::busy_ms`] as a duration.
    pub fn busy(&self) -> Duration {
        Duration::from_millis(self.busy_ms)
    }
}

/// Why the front door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontDoorError {
    /// The client address cannot be listened on.
    #[error("cannot listen for clients on {address}: {error}; is another process using the address?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// A group needs at least one slot.
    #[error("{groups} groups cannot share 16384 slots; use 1 to 16384 groups")]
    Groups {
        /// As configured.
        groups: u64,
    },
    /// A node without a core.
    #[error("a node needs at least one core")]
    Cores,
    /// A bound that makes no sense.
    #[error("front door setting {name} is {value}; it must be at least {min}")]
    Limit {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least value that works.
        min: u64,
    },
}

impl FrontDoorConfig {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), FrontDoorError> {
        if super::slots::SlotMap::new(self.groups).is_none() {
            return Err(FrontDoorError::Groups { groups: self.groups });
        }
        if self.cores == 0 {
            return Err(FrontDoorError::Cores);
        }
        let limits = &self.limits;
        let bounds = [
            ("connections_max", u64::from(limits.connections_max), 1),
            ("pipeline_requests_max", u64::from(limits.pipeline_requests_max), 1),
            ("pipeline_bytes_max", u64::from(limits.pipeline_bytes_max), 1),
            ("output_bytes_max", u64::from(limits.output_bytes_max), 1),
            // The longest command every client sends: HELLO 3 AUTH user password SETNAME name.
            ("arguments_max", u64::from(limits.arguments_max), 16),
            ("request_bytes_max", u64::from(limits.request_bytes_max), 64 * 1024),
            ("payload_bytes_max", u64::from(self.payload_bytes_max), 64),
        ];
        match bounds.into_iter().find(|(_, value, min)| value < min) {
            Some((name, value, min)) => Err(FrontDoorError::Limit { name, value, min }),
            None => Ok(()),
        }
    }
}
