//! `logdrive snapshot inspect`: what the files are of.

use std::fmt::Write as _;

use logdrive::snapshot::offline::{Depth, Examined};
use logdrive_shard::Membership;
use serde_json::json;

use super::{Args, files, half_written, look, to_json};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) fn inspect(args: &Args) -> Result<Exit, Failure> {
    let found = files(&args.path)?;
    let mut all = Vec::new();
    for path in &found.files {
        all.extend(look(path, Depth::Header)?);
    }
    let is_well = all.iter().all(|examined| examined.damages.is_empty());
    if args.json {
        let snapshots: Vec<_> = all.iter().map(to_json).collect();
        let value = json!({ "snapshots": snapshots, "half_written": half_written(&found) });
        output::print(&format!("{value:#}\n"))?;
    } else {
        let mut text = table(&all);
        for path in &found.half_written {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: half-written, removed when its node starts", path.display());
        }
        output::print(&text)?;
    }
    Ok(if is_well { Exit::Done } else { Exit::Unwell })
}

fn table(all: &[Examined]) -> String {
    let titles = ["group", "life", "index", "term", "members", "bytes", "content", "compression", "file"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for examined in all {
        let Some(header) = &examined.header else { continue };
        let compression = format!("{:?}", header.compression).to_lowercase();
        rows.push(vec![
            header.group.0.to_string(),
            header.life.to_string(),
            header.index.0.to_string(),
            header.term.0.to_string(),
            examined.membership.as_ref().map_or("-".to_owned(), members),
            Bytes(examined.bytes).to_string(),
            Bytes(header.content_bytes).to_string(),
            compression,
            examined.path.display().to_string(),
        ]);
    }
    let mut text = if rows.len() > 1 { output::align(&rows) } else { String::new() };
    for damage in all.iter().flat_map(|examined| &examined.damages) {
        let _ = writeln!(text, "DAMAGED: {damage}");
    }
    text
}

/// `1,2,3` and, behind a slash, those who do not vote.
fn members(membership: &Membership) -> String {
    let list = |nodes: Vec<u32>| nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut text = list(super::ids(membership.voters()));
    if membership.is_joint() {
        let _ = write!(text, " (from {})", list(super::ids(membership.outgoing())));
    }
    let learners = [membership.learners(), membership.learners_next()].concat();
    if !learners.is_empty() {
        let _ = write!(text, " / {}", list(super::ids(&learners)));
    }
    text
}
