//! `logdrive wal`: the logs of a stopped node, looked at without changing anything.

mod dump;
mod survey;
mod verify;

use std::path::{Path, PathBuf};

use logdrive_wal::offline::{Log, OfflineError, SegmentUse};

use crate::failure::{Exit, Failure};

/// Subcommands of `wal`. All of them work on a stopped node or on a copy of its files, and none ever writes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the segments: incarnation, range of positions, what is written and what of it is live.
    Inspect(survey::InspectArgs),
    /// Print batches and records, one line each.
    Dump(dump::DumpArgs),
    /// Check every segment, batch and record; exit code 5 if something is damaged, with what each damage hit.
    Verify(verify::VerifyArgs),
    /// Show what the log is made of: live bytes, padding, batches, and what each group takes.
    Stats(survey::StatsArgs),
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Inspect(args) => survey::inspect(args),
        Command::Dump(args) => dump::dump(args),
        Command::Verify(args) => verify::verify(args),
        Command::Stats(args) => survey::stats(args),
    }
}

/// A log and the name it is shown under.
struct Named {
    name: String,
    log: Log,
}

fn describe_use(state: SegmentUse) -> String {
    match state {
        SegmentUse::Prepared => "prepared, not used yet".to_owned(),
        SegmentUse::Started { incarnation, start, predecessor, durable_end, log_id } => format!(
            "use {incarnation} of log {log_id:#x}, starts at {start} after segment {predecessor}, durable end {durable_end}"
        ),
        SegmentUse::Damaged { expected_crc, found_crc } => {
            format!("DAMAGED header (expected crc {expected_crc:#010x}, found {found_crc:#010x})")
        }
        SegmentUse::Version(version) => {
            format!("written in format version {version}, which this program does not read")
        }
        SegmentUse::Foreign => "not a segment".to_owned(),
    }
}

/// The log of a directory, or those of its subdirectories (a node has one per core), in order of their names.
fn open(dir: &Path) -> Result<Vec<Named>, Failure> {
    let listed = std::fs::read_dir(dir).map_err(|error| Failure::io(dir.display(), &error))?;
    let mut paths: Vec<PathBuf> =
        listed.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    paths.sort();
    let mut logs = Vec::new();
    for path in std::iter::once(dir.to_owned()).chain(paths) {
        match Log::open(&path) {
            Ok(log) => logs.push(Named { name: path.display().to_string(), log }),
            Err(OfflineError::NoLog { .. }) => {}
            Err(error) => return Err(Failure::said(Exit::Failed, error.to_string(), "")),
        }
    }
    if logs.is_empty() {
        let what = format!("{} holds no log, and neither do the directories in it", dir.display());
        return Err(Failure::said(
            Exit::Directory,
            what,
            "name the data directory of a node, or the log directory of a core",
        ));
    }
    if let Some(used) = logs.iter().find(|named| named.log.in_use()) {
        let what = format!("{} is in use by another process", used.name);
        return Err(Failure::said(
            Exit::Directory,
            what,
            "stop the node first: while it writes, the end of its log moves",
        ));
    }
    Ok(logs)
}
