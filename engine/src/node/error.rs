//! Why a data directory cannot be used: what happened, where, what to do.

use std::io;
use std::path::PathBuf;

use logdrive_shard::NodeId;
use logdrive_wal::DiskError;

/// Why a data directory cannot be used. Nothing was changed in it, unless the disk failed in the middle of a change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The disk failed.
    #[error("{dir}: {error}. Look at the disk, then start again")]
    Disk {
        /// The directory.
        dir: String,
        /// What failed.
        error: DiskError,
    },
    /// An empty directory, and nobody said that this is a first start.
    #[error(
        "{dir} is empty: a node that ran before must not start without its data. If this is the first start of this member, \
         start it with bootstrap; if it ran before, give it back its directory"
    )]
    NotBootstrapped {
        /// The directory.
        dir: String,
    },
    /// Something else lives there, or the identity was lost.
    #[error(
        "{dir} holds {found} but no identity of a node: choose an empty directory, or restore the file `identity` if this was a node's \
         directory"
    )]
    NotANode {
        /// The directory.
        dir: String,
        /// The first thing found.
        found: String,
    },
    /// The directory of another cluster.
    #[error(
        "{dir} belongs to cluster {found}, this node is configured for cluster {expected}: correct the cluster id or the \
         directory in the configuration"
    )]
    ForeignCluster {
        /// The directory.
        dir: String,
        /// Its cluster.
        found: u64,
        /// The configured one.
        expected: u64,
    },
    /// The directory of another node.
    #[error(
        "{dir} belongs to node {found}, this node is configured as node {expected}: correct the node id or the directory in the \
         configuration"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Its node.
        found: NodeId,
        /// The configured one.
        expected: NodeId,
    },
    /// The number of cores changed.
    #[error(
        "{dir} was made for {found} cores and cannot be opened with {expected}: every core has a log of its own. Set cores = {found}, or \
         bring the node back as a new member with a new directory"
    )]
    CoresChanged {
        /// The directory.
        dir: String,
        /// Cores it was made for.
        found: u16,
        /// Cores configured.
        expected: u16,
    },
    /// The number of groups changed.
    #[error(
        "{dir} was made for {found} groups and cannot be opened with {expected}: the number of groups is fixed when a cluster is \
         made. Set groups = {found}"
    )]
    GroupsChanged {
        /// The directory.
        dir: String,
        /// Groups it was made for.
        found: u64,
        /// Groups configured.
        expected: u64,
    },
    /// A file of a later version.
    #[error(
        "{dir}/{file} has format version {found}, this program reads up to {supported}: start the program version that wrote it, or a \
         newer one"
    )]
    Version {
        /// The directory.
        dir: String,
        /// The file.
        file: &'static str,
        /// Its version.
        found: u16,
        /// The highest known here.
        supported: u16,
    },
    /// A file is missing or damaged.
    #[error(
        "{dir}/{file} is damaged ({what}): restore this file, or bring the node back as a new member with a new id"
    )]
    Damaged {
        /// The directory.
        dir: String,
        /// The file.
        file: &'static str,
        /// How.
        what: &'static str,
    },
    /// Another process works on the directory.
    #[error("{} is in use by another process: stop it first, or name another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory could not be made, opened or locked.
    #[error("{doing} {}: {error}. Check the path and its permissions", dir.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The directory.
        dir: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}
