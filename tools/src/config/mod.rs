//! `node.toml`: one node of a cluster, read and checked before anything is started.
//!
//! [`load`] reads the file, [`check`] turns what is written into what the engine takes, and collects every problem with its
//! place: a file is put right in one go, not one error at a time. Whatever is refused here was never started.

mod check;
mod file;
mod problem;
mod settings;
mod snapshots;
mod units;

use std::path::Path;

use logdrive::runtime::NodeSettings;
use logdrive_tools::redis::FrontDoorConfig;

pub(crate) use check::GROUPS_MAX;
pub(crate) use problem::{Invalid, Problem, Source};
pub(crate) use units::Bytes;

/// A node as configured.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// For the engine.
    pub(crate) engine: NodeSettings,
    /// For the Redis front door.
    pub(crate) front_door: FrontDoorConfig,
    /// The log's budget as written, for the whole node; 0: the default, which depends on the file system.
    pub(crate) log_budget_bytes: u64,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file could not be read.
    #[error("{name}: {error}")]
    Unreadable {
        /// As the user gave it.
        name: String,
        /// Why.
        error: std::io::Error,
    },
    /// Something in it was refused.
    #[error(transparent)]
    Invalid(Invalid),
}

/// Reads and checks a file. The warnings come with it; they are for whoever starts the node.
pub(crate) fn load(path: &Path) -> Result<(NodeConfig, Vec<Problem>), LoadError> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| LoadError::Unreadable { name: name.clone(), error })?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&name, text, base).map_err(LoadError::Invalid)
}

/// Checks the text of a file. `base` is what a relative data directory is relative to.
pub(crate) fn parse(name: &str, text: String, base: &Path) -> Result<(NodeConfig, Vec<Problem>), Invalid> {
    let source = Source::new(name, text);
    let file: file::File = toml::from_str(source.text()).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        // The message may continue on further lines; one reason is one line.
        let reason = error.message().trim().replace('\n', ", ");
        Invalid { name: name.to_owned(), problems: vec![Problem::error(&source, span, reason)] }
    })?;
    check::check(&source, &file, base)
}
