//! Why a node did not start: what happened, where, what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use logdrive_shard::NodeId;
use logdrive_wal::RingError;

use crate::core::OpenError;
use crate::node::NodeError;

/// Why a node did not start. What happened, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict themselves.
    #[error("the settings are not usable: {0}")]
    Settings(#[from] SettingsError),
    /// The limit on locked memory is too low for the executors.
    #[error(
        "the limit on locked memory (RLIMIT_MEMLOCK) is {limit} bytes, this node needs {needed}: raise it with \
         `ulimit -l {}`, or LimitMEMLOCK= in the systemd unit, or --ulimit memlock= in a container", needed.div_ceil(1024)
    )]
    Memlock {
        /// The soft limit.
        limit: u64,
        /// What the executors of this node register.
        needed: u64,
    },
    /// An executor could not be made.
    #[error("the executor of core {core} did not start: {error}")]
    Executor {
        /// Which core.
        core: u16,
        /// Why.
        error: io::Error,
    },
    /// The data directory was refused: it is another node's, or another cluster's, or empty, or in use, or damaged.
    #[error("the data directory was refused: {0}")]
    Node(Box<NodeError>),
    /// A directory could not be used.
    #[error("{}: {error}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel has no io_uring, or does not let this process use it.
    #[error("core {core}: {error}")]
    IoUring {
        /// Which core.
        core: u16,
        /// What the kernel said, and what to do about it.
        error: RingError,
    },
    /// The directory of a core's log could not be used: another process has it, ...
    #[error("core {core}: {error}")]
    Disk {
        /// Which core.
        core: u16,
        /// Why, and what to do.
        error: RingError,
    },
    /// The log of a core, or its snapshots, did not open.
    #[error("{} of core {core} in {} did not open: {error}", match error {
        OpenError::Snapshots(_) => "the snapshots",
        _ => "the log",
    }, dir.display())]
    Log {
        /// Which core.
        core: u16,
        /// Its directory.
        dir: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The address for peers could not be listened on.
    #[error("cannot listen for peers on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

impl StartError {
    /// A ring that could not be set up: the machine's fault, or the directory's.
    pub(crate) fn ring(core: u16, error: RingError) -> StartError {
        match error {
            RingError::Missing { .. } | RingError::Forbidden { .. } | RingError::LockedMemory { .. } => {
                StartError::IoUring { core, error }
            }
            error => StartError::Disk { core, error },
        }
    }
}

/// What is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Node ids start at 1.
    #[error("0 is not a node id: ids start at 1")]
    NodeZero,
    /// Cluster ids start at 1.
    #[error("0 is not a cluster id")]
    ClusterZero,
    /// The list of nodes does not contain this node.
    #[error("node {node} is not in the list of nodes")]
    SelfMissing {
        /// This node.
        node: NodeId,
    },
    /// A node is listed twice.
    #[error("node {node} is listed twice")]
    DuplicateNode {
        /// Which.
        node: NodeId,
    },
    /// More nodes than a group can have voters.
    #[error("{nodes} nodes are more than the {max} voters that a group may have")]
    TooManyNodes {
        /// Nodes listed.
        nodes: usize,
        /// The limit.
        max: usize,
    },
    /// No cores.
    #[error("a node needs at least one core")]
    NoCores,
    /// No groups, or more than the engine can number.
    #[error("{groups} groups: a cluster has between 1 and {max}")]
    Groups {
        /// As set.
        groups: u64,
        /// The limit.
        max: u64,
    },
    /// Pinning to CPUs that do not exist.
    #[error("{cores} cores pinned from CPU {first} on do not fit on the {cpus} CPUs of this machine")]
    Pinning {
        /// First CPU.
        first: usize,
        /// Cores of the node.
        cores: u16,
        /// CPUs online.
        cpus: usize,
    },
}
