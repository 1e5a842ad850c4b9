//! `logdrive snapshot`: files of snapshots as their operators look at them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{logdrive, text};

const REFUSED: i32 = 3;
const UNWELL: i32 = 5;

/// The snapshots that the engine's tests keep of format version 1, as a core of a node would have them; their paths.
fn a_node(dir: &Path) -> Vec<PathBuf> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/snapshot-v1");
    let core = dir.join("core-0/snapshots");
    fs::create_dir_all(&core).unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        files.push(core.join(entry.file_name()));
        fs::copy(entry.path(), files.last().unwrap()).unwrap();
    }
    files.sort();
    files
}

#[test]
fn snapshot_verify_and_inspect_show_sound_files_and_name_the_place_of_damage() {
    let dir = tempfile::tempdir().unwrap();
    let files = a_node(dir.path());
    let dir_text = dir.path().to_str().unwrap();
    let clean = logdrive(&["snapshot", "verify", dir_text]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean.stderr));
    assert!(text(&clean.stdout).contains("2 sound, 0 damaged"), "{}", text(&clean.stdout));
    let table = text(&logdrive(&["snapshot", "inspect", dir_text]).stdout);
    assert!(table.starts_with("group") && table.contains("1,2,3") && table.contains("lz4"), "{table}");
    let json = logdrive(&["snapshot", "inspect", files[0].to_str().unwrap(), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let header = &json["snapshots"][0]["header"];
    assert_eq!((&header["group"], &header["index"], &header["term"]), (&1.into(), &33.into(), &7.into()));

    let mut bytes = fs::read(&files[0]).unwrap();
    for at in [5000, 9000] {
        bytes[at] ^= 1;
    }
    fs::write(&files[0], &bytes).unwrap();
    fs::write(files[0].with_extension("snapshot-tmp"), b"half").unwrap();
    let damaged = logdrive(&["snapshot", "verify", dir_text]);
    assert_eq!(damaged.status.code(), Some(UNWELL));
    let said = text(&damaged.stdout);
    for place in ["at offset 4096: chunk 0", "at offset 8192: chunk 1", "1 sound, 1 damaged", "half-written"]
    {
        assert!(said.contains(place), "{place} is not in {said}");
    }
    assert_eq!(said.matches(&format!("{} at offset", files[0].display())).count(), 2, "{said}");
    let json = logdrive(&["snapshot", "verify", dir_text, "--json"]);
    assert_eq!(json.status.code(), Some(UNWELL));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["sound"], false);
    let offsets: Vec<_> =
        json["snapshots"][0]["damages"].as_array().unwrap().iter().map(|d| &d["offset"]).collect();
    assert_eq!(offsets, [4096, 8192]);
    assert_eq!(fs::read(&files[0]).unwrap(), bytes, "nothing was changed");

    let empty = tempfile::tempdir().unwrap();
    let nothing = logdrive(&["snapshot", "verify", empty.path().to_str().unwrap()]);
    assert_eq!(nothing.status.code(), Some(REFUSED));
    assert!(text(&nothing.stderr).contains("holds no snapshots"), "{}", text(&nothing.stderr));
}
