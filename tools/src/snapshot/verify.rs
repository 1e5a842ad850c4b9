//! `logdrive snapshot verify`: whether files are what was written, and if not, where.

use std::fmt::Write as _;

use logdrive::snapshot::offline::{Depth, Examined};
use serde_json::{Value, json};

use super::{Args, files, half_written, look, to_json};
use crate::config::Bytes;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) fn verify(args: &Args) -> Result<Exit, Failure> {
    let found = files(&args.path)?;
    let (mut sound, mut damaged) = (0_u64, 0_u64);
    let mut snapshots: Vec<Value> = Vec::new();
    for path in &found.files {
        let Some(examined) = look(path, Depth::All)? else { continue };
        let is_sound = examined.damages.is_empty();
        *(if is_sound { &mut sound } else { &mut damaged }) += 1;
        if args.json {
            let mut value = to_json(&examined);
            value["sound"] = is_sound.into();
            snapshots.push(value);
        } else {
            output::print(&describe(&examined))?;
        }
    }
    if args.json {
        let value = json!({
            "sound": damaged == 0,
            "snapshots": snapshots,
            "half_written": half_written(&found),
        });
        output::print(&format!("{value:#}\n"))?;
    } else {
        let mut text = String::new();
        for path in &found.half_written {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: half-written, removed when its node starts", path.display());
        }
        let _ = writeln!(text, "{sound} sound, {damaged} damaged; nothing was changed");
        output::print(&text)?;
    }
    Ok(if damaged == 0 { Exit::Done } else { Exit::Unwell })
}

fn describe(examined: &Examined) -> String {
    let mut text = String::new();
    for damage in &examined.damages {
        let _ = writeln!(text, "DAMAGED: {damage}");
    }
    if let Some(header) = examined.header.as_ref().filter(|_| examined.damages.is_empty()) {
        let _ = writeln!(
            text,
            "{}: sound: group {} life {} up to index {} of term {}, {} of content, {} sessions",
            examined.path.display(),
            header.group.0,
            header.life,
            header.index.0,
            header.term.0,
            Bytes(header.content_bytes),
            examined.sessions.unwrap_or(0),
        );
    }
    text
}
