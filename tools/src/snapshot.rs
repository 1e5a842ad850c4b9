//! `logdrive snapshot`: snapshot files, looked at without changing anything. Complete files never change, so the node may be running.

mod inspect;
mod verify;

use std::io::ErrorKind;
use std::path::Path;

use logdrive::snapshot::offline::{Depth, Examined, Found, examine, find};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};

/// Subcommands of `snapshot`. None ever writes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what the files are of: group, life, index, term, members, bytes. Only headers are read.
    Inspect(Args),
    /// Check every byte of the files; exit code 5 if something is damaged, with file and place of each damage.
    Verify(Args),
}

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A snapshot file, or a directory: of snapshots, or the data directory of a node.
    path: std::path::PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Inspect(args) => inspect::inspect(args),
        Command::Verify(args) => verify::verify(args),
    }
}

/// The files below a path.
fn files(path: &Path) -> Result<Found, Failure> {
    let found = find(path).map_err(|error| Failure::io(path.display(), &error))?;
    if found.files.is_empty() && found.half_written.is_empty() {
        let what = format!("{} holds no snapshots, and neither do the directories in it", path.display());
        let help = "name a snapshot file, a directory of them, or the data directory of a node";
        return Err(Failure::said(Exit::Directory, what, help));
    }
    Ok(found)
}

/// Looks at a file; nothing if its node has removed it since it was found.
fn look(path: &Path, depth: Depth) -> Result<Option<Examined>, Failure> {
    match examine(path, depth) {
        Ok(examined) => Ok(Some(examined)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io(path.display(), &error)),
    }
}

/// What both commands say of a file.
fn to_json(examined: &Examined) -> Value {
    let damage = |damage: &logdrive::snapshot::Damage| json!({ "offset": damage.offset, "what": damage.kind.to_string() });
    let members = examined.membership.as_ref().map(|membership| {
        json!({
            "voters": ids(membership.voters()),
            "outgoing": ids(membership.outgoing()),
            "learners": ids(membership.learners()),
            "learners_next": ids(membership.learners_next()),
        })
    });
    let header = examined.header.as_ref().map(|header| {
        json!({
            "id": format!("{:016x}", header.id.0),
            "group": header.group.0,
            "life": header.life,
            "index": header.index.0,
            "term": header.term.0,
            "membership_index": header.membership_index.0,
            "compression": header.compression,
            "content_bytes": header.content_bytes,
            "sessions_bytes": header.sessions_bytes,
            "chunks": header.chunks(),
            "chunk_bytes": header.chunk_bytes,
            "content_crc": header.content_crc,
        })
    });
    json!({
        "file": examined.path.display().to_string(),
        "bytes": examined.bytes,
        "header": header,
        "members": members,
        "sessions": examined.sessions,
        "damages": examined.damages.iter().map(damage).collect::<Value>(),
    })
}

fn ids(nodes: &[logdrive_shard::NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Of the files that are half-written, for JSON.
fn half_written(found: &Found) -> Value {
    found.half_written.iter().map(|path| path.display().to_string()).collect()
}
