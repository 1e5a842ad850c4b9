//! `logdrive wal verify`: whether a log is sound, and if not, what is lost.

use std::fmt::Write as _;
use std::path::PathBuf;

use logdrive_wal::offline::{Damage, Summary, Survey};
use serde_json::{Value, json};

use super::survey::print_json;
use super::{Named, open};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

/// Records and ranges of one damage that are spelled out in the text; the JSON has them all.
const NAMED_MAX: usize = 20;

/// Arguments of `wal verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The data directory of a node, or the log directory of one core.
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let mut is_sound = true;
    let mut logs = Vec::new();
    for Named { name, log } in open(&args.dir)? {
        let (summary, survey) = (log.verify(), log.survey());
        let sound = summary.is_sound() && !survey.damages.iter().any(|d| d.acknowledged);
        is_sound &= sound;
        if args.json {
            logs.push(to_json(&name, &summary, &survey, sound));
        } else {
            output::print(&describe(&name, &summary, &survey, sound))?;
        }
    }
    if args.json {
        print_json(&Value::Array(logs))?;
    }
    Ok(if is_sound { Exit::Done } else { Exit::Unwell })
}

/// What was found in one log, in lines.
fn describe(name: &str, summary: &Summary, survey: &Survey, sound: bool) -> String {
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
    for damage in &survey.damages {
        describe_damage(&mut text, name, damage);
    }
    for (group, stream) in survey.streams.iter().filter(|(_, stream)| !stream.missing.is_empty()) {
        let ranges = stream.missing.iter().map(|(first, last)| range(*first, *last));
        let _ = writeln!(text, "{name}: group {group} lost {}", listed(ranges));
    }
    let verdict = if sound { "sound" } else { "not sound; nothing was changed" };
    let _ = writeln!(text, "{name}: {verdict}");
    text
}

fn describe_damage(text: &mut String, name: &str, damage: &Damage) {
    let Damage { segment, offset, bytes, what, acknowledged, claims } = damage;
    let bytes = Bytes(*bytes);
    if !acknowledged {
        let _ = writeln!(text, "{name}: torn tail in {segment} at byte {offset}, never acknowledged: {what}");
        return;
    }
    let _ = writeln!(text, "{name}: DAMAGED: {segment} at byte {offset}, {bytes}: {what}");
    if !claims.is_empty() {
        let records =
            claims.iter().map(|(at, group, index)| format!("group {group} index {index} at byte {at}"));
        let _ = writeln!(text, "{name}:   by its own words the record of {}", listed(records));
    }
}

fn range(first: u64, last: u64) -> String {
    if first == last { format!("index {first}") } else { format!("indexes {first} to {last}") }
}

/// The first few, and how many more there are.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let mut text = names.join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more (--json names them all)");
    }
    text
}

fn to_json(name: &str, summary: &Summary, survey: &Survey, sound: bool) -> Value {
    let damage = |damage: &Damage| {
        let claim =
            |(at, group, index): &(u64, u64, u64)| json!({ "offset": at, "group": group, "index": index });
        json!({
            "segment": damage.segment,
            "offset": damage.offset,
            "bytes": damage.bytes,
            "what": damage.what,
            "acknowledged": damage.acknowledged,
            "records": damage.claims.iter().map(claim).collect::<Value>(),
        })
    };
    let lost = survey.streams.iter().flat_map(|(group, stream)| {
        stream
            .missing
            .iter()
            .map(move |(first, last)| json!({ "group": group, "first": first, "last": last }))
    });
    json!({
        "log": name,
        "sound": sound,
        "segments": summary.segments,
        "batches": summary.batches,
        "records": summary.records,
        "groups": summary.streams,
        "bytes": summary.bytes,
        "end": summary.end.as_ref().map(|(segment, offset)| json!({ "segment": segment, "offset": offset })),
        "refused": summary.damage.as_ref().map(ToString::to_string),
        "bad_records": summary.bad_records.iter().map(|(s, bad)| json!({ "segment": s, "lsn": bad.lsn, "what": bad.why })).collect::<Value>(),
        "damages": survey.damages.iter().map(damage).collect::<Value>(),
        "lost": lost.collect::<Value>(),
    })
}
