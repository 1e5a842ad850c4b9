//! `logdrive wal`: the logs of a stopped node, looked at without changing anything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use logdrive_wal::offline::{Batch, Log, OfflineError, Record, RecordKind, SegmentUse, Summary};

use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

/// Text is printed when it has grown to this: a dump may be longer than memory.
const PRINT_BYTES: usize = 64 << 10;

/// Subcommands of `wal`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check every segment, batch and record; exit code 5 if something is damaged.
    Verify(Args),
    /// Print segments, batches and records; one line each.
    Dump(DumpArgs),
}

/// Arguments of `wal verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
}

/// Arguments of `wal dump`.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArgs {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
    /// Only the records of this group.
    #[arg(long)]
    group: Option<u64>,
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Verify(args) => verify(&args.dir),
        Command::Dump(args) => dump(args),
    }
}

/// A log and the name it is shown under.
struct Named {
    name: String,
    log: Log,
}

fn verify(dir: &Path) -> Result<Exit, Failure> {
    let mut is_sound = true;
    for Named { name, log } in open(dir)? {
        let summary = log.verify();
        is_sound &= summary.is_sound();
        output::print(&describe(&name, &summary))?;
    }
    Ok(if is_sound { Exit::Done } else { Exit::Unwell })
}

/// What was found in one log, in lines.
fn describe(name: &str, summary: &Summary) -> String {
    let Summary { segments, batches, records, streams, bytes, .. } = summary;
    let bytes = Bytes(*bytes);
    let mut text = format!(
        "{name}: {segments} segments, {batches} batches, {records} records of {streams} groups, {bytes} of batches\n"
    );
    if let Some((segment, offset)) = &summary.end {
        // Writing to a string cannot fail; the same holds below.
        let _ = writeln!(text, "{name}: the log ends in {segment} at byte {offset}");
    }
    for (segment, bad) in &summary.bad_records {
        let _ = writeln!(text, "{name}: DAMAGED: {segment}: {bad}");
    }
    if let Some(damage) = &summary.damage {
        let _ = writeln!(text, "{name}: DAMAGED: {damage}");
    }
    let _ = writeln!(
        text,
        "{name}: {}",
        if summary.is_sound() { "sound" } else { "not sound; nothing was changed" }
    );
    text
}

fn dump(args: &DumpArgs) -> Result<Exit, Failure> {
    let mut is_sound = true;
    for Named { name, log } in open(&args.dir)? {
        for segment in log.segments() {
            let (file, size) = (segment.name(), Bytes(segment.bytes()));
            let mut text = format!("{name}/{file}: {size}, {}\n", describe_use(segment.state()));
            let mut batches = segment.batches();
            for batch in batches.by_ref() {
                is_sound &= dump_batch(&mut text, &batch, args.group);
                if text.len() >= PRINT_BYTES {
                    output::print(&text)?;
                    text.clear();
                }
            }
            let _ = writeln!(text, "  no batch follows at byte {}", batches.offset());
            output::print(&text)?;
        }
        let summary = log.verify();
        is_sound &= summary.is_sound();
        if !summary.is_sound() {
            output::print(&describe(&name, &summary))?;
        }
    }
    Ok(if is_sound { Exit::Done } else { Exit::Unwell })
}

/// Adds a batch and its records; false if one of them cannot be read.
fn dump_batch(text: &mut String, batch: &Batch<'_>, group: Option<u64>) -> bool {
    let _ = writeln!(
        text,
        "  batch at byte {} lsn {}: {} bytes, {} records, durable end {}, crc {:#010x}",
        batch.offset(),
        batch.lsn(),
        batch.bytes(),
        batch.record_count(),
        batch.durable_end(),
        batch.crc(),
    );
    let mut is_sound = true;
    for record in batch.records() {
        match record {
            Ok(record) if group.is_none_or(|group| group == record.stream) => dump_record(text, &record),
            Ok(_) => {}
            Err(bad) => {
                is_sound = false;
                let _ = writeln!(text, "    DAMAGED: {bad}");
            }
        }
    }
    is_sound
}

fn dump_record(text: &mut String, record: &Record<'_>) {
    let Record { lsn, stream, index, tag, note, payload, .. } = record;
    let bytes = payload.len();
    // The engine keeps the term of an entry in the tag.
    let _ = match record.kind {
        RecordKind::Entry => {
            writeln!(
                text,
                "    entry at {lsn}: group {stream} index {index} term {tag} note {note:#x}, {bytes} bytes"
            )
        }
        RecordKind::State => writeln!(text, "    state at {lsn}: group {stream}, {bytes} bytes"),
        RecordKind::Compacted => writeln!(text, "    compacted at {lsn}: group {stream} up to index {index}"),
        RecordKind::Trim => writeln!(text, "    trim at {lsn}: segments before {index} are not needed"),
        RecordKind::Repair => {
            writeln!(text, "    repair at {lsn}: group {stream} index {index}, {bytes} bytes")
        }
        RecordKind::StateCopy => writeln!(text, "    state copy at {lsn}: group {stream}, {bytes} bytes"),
        RecordKind::Verdict => writeln!(text, "    verdict at {lsn}: group {stream} from index {index}"),
        RecordKind::Healed => writeln!(text, "    healed at {lsn}: group {stream}"),
        RecordKind::Judged => writeln!(text, "    judged at {lsn}: damage from position {index}"),
        kind => writeln!(text, "    {kind:?} at {lsn}: group {stream} index {index}, {bytes} bytes"),
    };
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
