//! The shapes of `node.toml`, as written. Every table refuses unknown keys; values that are checked keep their place.

use std::path::PathBuf;

use logdrive::api::TimingPreset;
use serde::Deserialize;
use toml::Spanned;

use super::units::Bytes;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The cluster's number.
    pub(crate) cluster: Spanned<u64>,
    /// This node's number.
    pub(crate) node: Spanned<u32>,
    /// The data directory; relative to the file's own directory.
    pub(crate) directory: Spanned<PathBuf>,
    /// Groups of the cluster.
    pub(crate) groups: Option<Spanned<u64>>,
    /// Executors.
    pub(crate) cores: Option<Spanned<u16>>,
    /// First CPU to pin to.
    pub(crate) pin_from: Option<Spanned<u16>>,
    /// Microseconds of spinning before an idle core parks.
    pub(crate) spin_us: Option<Spanned<u64>>,
    /// Where this node listens.
    #[serde(default)]
    pub(crate) listen: Listen,
    /// All nodes, this one included.
    pub(crate) nodes: Spanned<Vec<Node>>,
    /// Raft timing.
    #[serde(default)]
    pub(crate) timing: Timing,
    /// The log.
    #[serde(default)]
    pub(crate) log: Log,
    /// Snapshots.
    #[serde(default)]
    pub(crate) snapshots: super::snapshots::Snapshots,
    /// Bounds.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Bounds of the front door.
    #[serde(default)]
    pub(crate) clients: logdrive_tools::redis::Limits,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// For the cores of other nodes.
    pub(crate) peers: Option<Spanned<String>>,
    /// For clients.
    pub(crate) clients: Option<Spanned<String>>,
}

/// `[[nodes]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// Its number.
    pub(crate) id: Spanned<u32>,
    /// Where its peers reach it.
    pub(crate) peers: Spanned<String>,
    /// Where its clients reach it.
    pub(crate) clients: Spanned<String>,
    /// How much it is wanted as a leader.
    pub(crate) priority: Option<Spanned<u64>>,
}

/// `[timing]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timing {
    pub(crate) preset: Option<TimingPreset>,
    pub(crate) election_base_ms: Option<Spanned<u64>>,
    pub(crate) election_spread_ms: Option<Spanned<u64>>,
    pub(crate) heartbeat_ms: Option<Spanned<u64>>,
    pub(crate) clock_drift_permille: Option<Spanned<u64>>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) budget_bytes: Option<Spanned<Bytes>>,
    pub(crate) segment_bytes: Option<Spanned<Bytes>>,
    pub(crate) segments_ahead: Option<Spanned<u32>>,
    pub(crate) writes_in_flight: Option<Spanned<u32>>,
    pub(crate) scrub_bytes_per_s: Option<Spanned<Bytes>>,
    pub(crate) scrub_interval_s: Option<Spanned<u32>>,
    pub(crate) reclaim_bytes_per_s: Option<Spanned<Bytes>>,
    pub(crate) reclaim_patience_ms: Option<Spanned<u64>>,
    pub(crate) rewrite_bytes: Option<Spanned<Bytes>>,
    pub(crate) batch_bytes: Option<Spanned<Bytes>>,
    pub(crate) durable_writes: Option<DurableWrites>,
}

/// How the log makes its writes durable.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DurableWrites {
    /// What a probe at the start finds faster.
    Auto,
    /// RWF_DSYNC.
    Dsync,
    /// A linked fdatasync.
    Fsync,
}

impl From<DurableWrites> for logdrive_wal::DurableWrites {
    fn from(written: DurableWrites) -> logdrive_wal::DurableWrites {
        match written {
            DurableWrites::Auto => logdrive_wal::DurableWrites::Auto,
            DurableWrites::Dsync => logdrive_wal::DurableWrites::Dsync,
            DurableWrites::Fsync => logdrive_wal::DurableWrites::Fsync,
        }
    }
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) payload_bytes: Option<Spanned<Bytes>>,
    pub(crate) core_requests: Option<Spanned<u32>>,
    pub(crate) core_request_bytes: Option<Spanned<Bytes>>,
    pub(crate) group_reads: Option<Spanned<u32>>,
    pub(crate) session_expiry_s: Option<Spanned<u64>>,
    pub(crate) group_uncommitted_entries: Option<Spanned<u32>>,
    pub(crate) group_uncommitted_bytes: Option<Spanned<Bytes>>,
    pub(crate) cache_bytes: Option<Spanned<Bytes>>,
    pub(crate) peer_inflight_bytes: Option<Spanned<Bytes>>,
    pub(crate) append_bytes: Option<Spanned<Bytes>>,
}
