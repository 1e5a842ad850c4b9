//! `logdrive wal inspect` and `logdrive wal stats`: what lies where, and what it is made of.

use std::path::PathBuf;

use logdrive_wal::offline::{Log, SegmentUse, Survey};
use serde_json::{Value, json};

use super::{Named, open};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

/// Groups that `stats` shows unless all are asked for.
const GROUPS_SHOWN: usize = 10;

/// Arguments of `wal inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Arguments of `wal stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
    /// Print JSON instead of tables; it always has all groups.
    #[arg(long)]
    json: bool,
    /// Show every group, not only the ten that take most.
    #[arg(long)]
    all: bool,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    let mut logs = Vec::new();
    for Named { name, log } in open(&args.dir)? {
        let survey = log.survey();
        if args.json {
            logs.push(json!({ "log": name, "segments": segments_json(&log, &survey) }));
        } else {
            output::print(&format!("{name}:\n{}", segments_table(&log, &survey)))?;
        }
    }
    if args.json {
        print_json(&Value::Array(logs))?;
    }
    Ok(Exit::Done)
}

fn segments_table(log: &Log, survey: &Survey) -> String {
    let titles =
        ["segment", "incarnation", "lsn from", "to", "batches", "records", "written", "live", "state"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for (segment, found) in log.segments().iter().zip(&survey.segments) {
        let (from, to) = found
            .lsn
            .map_or(("-".to_owned(), "-".to_owned()), |(from, to)| (from.to_string(), to.to_string()));
        let live = match found.written_bytes {
            0 => "-".to_owned(),
            written => format!("{} ({} %)", Bytes(found.live_bytes), found.live_bytes * 100 / written),
        };
        rows.push(vec![
            segment.name().to_owned(),
            incarnation(segment.state()).map_or("-".to_owned(), |n| n.to_string()),
            from,
            to,
            found.batches.to_string(),
            found.records.to_string(),
            Bytes(found.written_bytes).to_string(),
            live,
            super::describe_use(segment.state()),
        ]);
    }
    output::align(&rows)
}

fn segments_json(log: &Log, survey: &Survey) -> Value {
    let one = |(segment, found): (&logdrive_wal::offline::Segment, &logdrive_wal::offline::SegmentSurvey)| {
        json!({
            "name": segment.name(),
            "file_bytes": segment.bytes(),
            "incarnation": incarnation(segment.state()),
            "lsn_from": found.lsn.map(|(from, _)| from),
            "lsn_to": found.lsn.map(|(_, to)| to),
            "batches": found.batches,
            "records": found.records,
            "written_bytes": found.written_bytes,
            "padding_bytes": found.padding_bytes,
            "live_bytes": found.live_bytes,
            "state": super::describe_use(segment.state()),
        })
    };
    log.segments().iter().zip(&survey.segments).map(one).collect()
}

fn incarnation(state: SegmentUse) -> Option<u64> {
    match state {
        SegmentUse::Started { incarnation, .. } => Some(incarnation),
        _ => None,
    }
}

pub(super) fn stats(args: &StatsArgs) -> Result<Exit, Failure> {
    let mut logs = Vec::new();
    for Named { name, log } in open(&args.dir)? {
        let survey = log.survey();
        if args.json {
            logs.push(stats_json(&name, &log, &survey));
        } else {
            output::print(&stats_text(&name, &log, &survey, args.all))?;
        }
    }
    if args.json {
        print_json(&Value::Array(logs))?;
    }
    Ok(Exit::Done)
}

/// Sums over the segments and streams of a log.
struct Totals {
    file_bytes: u64,
    written_bytes: u64,
    padding_bytes: u64,
    live_bytes: u64,
    batches: u64,
    records: u64,
    entries: u64,
}

impl Totals {
    fn of(log: &Log, survey: &Survey) -> Totals {
        let sum = |figure: fn(&logdrive_wal::offline::SegmentSurvey) -> u64| {
            survey.segments.iter().map(figure).sum()
        };
        let entries = |(first, last): (u64, u64)| last + 1 - first;
        Totals {
            file_bytes: log.segments().iter().map(|s| s.bytes()).sum(),
            written_bytes: sum(|s| s.written_bytes),
            padding_bytes: sum(|s| s.padding_bytes),
            live_bytes: sum(|s| s.live_bytes),
            batches: sum(|s| s.batches),
            records: sum(|s| s.records),
            entries: survey.streams.values().filter_map(|s| s.entries).map(entries).sum(),
        }
    }
}

fn stats_text(name: &str, log: &Log, survey: &Survey, all: bool) -> String {
    let t = Totals::of(log, survey);
    let percent = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or(0);
    let per_batch = |count: u64| count as f64 / t.batches.max(1) as f64;
    let mut text = format!(
        "{name}:\n  {} of files, {} written, {} live ({} % of it), {} of padding ({} %)\n  {} batches of {:.1} records \
         and {} on average\n  {} groups, {} live entries, durable end {}\n",
        Bytes(t.file_bytes),
        Bytes(t.written_bytes),
        Bytes(t.live_bytes),
        percent(t.live_bytes, t.written_bytes),
        Bytes(t.padding_bytes),
        percent(t.padding_bytes, t.written_bytes),
        t.batches,
        per_batch(t.records),
        Bytes(per_batch(t.written_bytes) as u64),
        survey.streams.len(),
        t.entries,
        survey.durable_end,
    );
    let mut groups: Vec<_> = survey.streams.iter().collect();
    groups.sort_by_key(|(id, s)| (std::cmp::Reverse(s.entry_bytes + s.state_bytes), **id));
    let shown = if all { groups.len() } else { GROUPS_SHOWN.min(groups.len()) };
    let mut rows =
        vec![["group", "first", "last", "compacted", "entries", "state"].map(str::to_owned).to_vec()];
    for (id, stream) in &groups[..shown] {
        let (first, last) =
            stream.entries.map_or(("-".to_owned(), "-".to_owned()), |(f, l)| (f.to_string(), l.to_string()));
        rows.push(vec![
            id.to_string(),
            first,
            last,
            stream.compacted.to_string(),
            Bytes(stream.entry_bytes).to_string(),
            Bytes(stream.state_bytes).to_string(),
        ]);
    }
    text.push_str(&output::align(&rows));
    if shown < groups.len() {
        text.push_str(&format!("{} more groups take less: --all shows them\n", groups.len() - shown));
    }
    text
}

fn stats_json(name: &str, log: &Log, survey: &Survey) -> Value {
    let t = Totals::of(log, survey);
    let group = |(id, s): (&u64, &logdrive_wal::offline::StreamSurvey)| {
        json!({
            "group": id,
            "first": s.entries.map(|(first, _)| first),
            "last": s.entries.map(|(_, last)| last),
            "compacted": s.compacted,
            "entry_bytes": s.entry_bytes,
            "state_bytes": s.state_bytes,
        })
    };
    json!({
        "log": name,
        "file_bytes": t.file_bytes,
        "written_bytes": t.written_bytes,
        "padding_bytes": t.padding_bytes,
        "live_bytes": t.live_bytes,
        "batches": t.batches,
        "records": t.records,
        "entries": t.entries,
        "durable_end": survey.durable_end,
        "groups": survey.streams.iter().map(group).collect::<Value>(),
    })
}

pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    // A value that was built from numbers and strings always has a text.
    output::print(&format!("{value:#}\n"))
}
