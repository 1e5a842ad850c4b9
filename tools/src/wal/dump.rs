//! `logdrive wal dump`: what was written, record by record.

use std::fmt::Write as _;
use std::path::PathBuf;

use logdrive_wal::offline::{Batch, Record, RecordKind, Segment};
use serde_json::json;

use super::{Named, describe_use, open};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

/// Text is printed when it has grown to this: a dump may be longer than memory.
const PRINT_BYTES: usize = 64 << 10;

/// Arguments of `wal dump`.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArgs {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
    /// Only the records of this group.
    #[arg(long)]
    group: Option<u64>,
    /// Only entries from this index on.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Only entries up to this index.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Only records of this kind: entry, state, compacted, trim, repair ...
    #[arg(long)]
    kind: Option<String>,
    /// Only this segment, by file name.
    #[arg(long)]
    segment: Option<String>,
    /// Print one JSON object per record instead of text.
    #[arg(long)]
    json: bool,
}

impl DumpArgs {
    /// Whether single records are asked for, so that batches and segments without one are not shown.
    fn is_filtered(&self) -> bool {
        self.group.is_some() || self.from.is_some() || self.to.is_some() || self.kind.is_some()
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let indexed = matches!(record.kind, RecordKind::Entry | RecordKind::Repair);
        let in_range =
            self.from.is_none_or(|from| record.index >= from) && self.to.is_none_or(|to| record.index <= to);
        self.group.is_none_or(|group| group == record.stream)
            && (in_range && indexed || self.from.is_none() && self.to.is_none())
            && self.kind.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case(&name_of(record.kind)))
    }
}

pub(super) fn dump(args: &DumpArgs) -> Result<Exit, Failure> {
    let mut is_sound = true;
    for Named { name, log } in open(&args.dir)? {
        for segment in log.segments() {
            if args.segment.as_deref().is_none_or(|wanted| wanted == segment.name()) {
                is_sound &= dump_segment(args, &name, segment)?;
            }
        }
        if !log.verify().is_sound() {
            is_sound = false;
            output::note(format_args!("{name} is not sound: `logdrive wal verify` says what is lost"));
        }
    }
    Ok(if is_sound { Exit::Done } else { Exit::Unwell })
}

/// Prints a segment; false if one of its records cannot be read.
fn dump_segment(args: &DumpArgs, log: &str, segment: &Segment) -> Result<bool, Failure> {
    let (mut is_sound, mut text) = (true, String::new());
    if !args.json {
        let (file, size) = (segment.name(), Bytes(segment.bytes()));
        // Writing to a string cannot fail; the same holds below.
        let _ = writeln!(text, "{log}/{file}: {size}, {}", describe_use(segment.state()));
    }
    let mut batches = segment.batches();
    for batch in batches.by_ref() {
        is_sound &= dump_batch(args, &mut text, segment.name(), &batch);
        if text.len() >= PRINT_BYTES {
            output::print(&text)?;
            text.clear();
        }
    }
    if !args.json {
        let _ = writeln!(text, "  no batch follows at byte {}", batches.offset());
    }
    output::print(&text)?;
    Ok(is_sound)
}

/// Adds a batch and its records; false if one of them cannot be read.
fn dump_batch(args: &DumpArgs, text: &mut String, segment: &str, batch: &Batch<'_>) -> bool {
    let mut is_sound = true;
    let mut described = args.json;
    if !described && !args.is_filtered() {
        describe_batch(text, batch);
        described = true;
    }
    for record in batch.records() {
        match record {
            Ok(record) if args.wants(&record) => {
                if !std::mem::replace(&mut described, true) {
                    describe_batch(text, batch);
                }
                if args.json {
                    let offset = batch.offset() + (record.lsn - batch.lsn());
                    dump_json(text, segment, offset, &record);
                } else {
                    dump_record(text, &record);
                }
            }
            Ok(_) => {}
            Err(bad) => {
                is_sound = false;
                let _ = writeln!(text, "    DAMAGED: {bad}");
            }
        }
    }
    is_sound
}

fn describe_batch(text: &mut String, batch: &Batch<'_>) {
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
}

/// The kind as `--kind` and the JSON have it.
fn name_of(kind: RecordKind) -> String {
    format!("{kind:?}").to_ascii_lowercase()
}

fn dump_json(text: &mut String, segment: &str, offset: u64, record: &Record<'_>) {
    let value = json!({
        "segment": segment,
        "offset": offset,
        "lsn": record.lsn,
        "kind": name_of(record.kind),
        "group": record.stream,
        "index": record.index,
        // The engine keeps the term of an entry in the tag.
        "term": record.tag,
        "note": record.note,
        "bytes": record.payload.len(),
    });
    let _ = writeln!(text, "{value}");
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
