//! Snapshots that must not be used, between processes: one whose state its receiver can make nothing of although every checksum is right,
//! and one that rotted on the disk of its source while that ran. The status says what is wrong, and another one brings the member up.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::admin::{DONE, ask};
use crate::cluster::{Cluster, Node, Shape, logdrive, text, wait_for};
use crate::members::join_another;
use crate::transfers::{show, snapshot, write};

/// Snapshots on order only, and logs that are cut behind them.
const ON_ORDER: &str = "[snapshots]\nevery_entries = 0\nevery_bytes = 0\nkeep_trailing_entries = 2\nkept = 0\ncompression = \"off\"\n";
/// Where things are in a file (`engine/src/snapshot/FORMAT.md`).
const HEADER_BYTES: u64 = 4096;
const SESSIONS_BYTES_AT: u64 = 56;
const CHUNK_BYTES_AT: u64 = 92;
const CHUNK_HEAD_BYTES: u64 = 32;
/// The polynomial of CRC-32C itself, as bytes: no such sum changes if these bits are flipped.
const UNSEEN: [u8; 5] = [0xf1, 0x76, 0xec, 0x05, 0x01];
const FLIPPED: [u8; 1] = [0x10];

/// The only complete snapshot below a directory.
fn snapshot_file(dir: &Path) -> PathBuf {
    let files_below = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let (mut directories, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(directory) = directories.pop() {
        for path in files_below(&directory) {
            match path.is_dir() {
                true => directories.push(path),
                false if path.extension().is_some_and(|suffix| suffix == "snapshot") => found.push(path),
                false => {}
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn number(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

/// Flips bits of a file that lies still.
fn flip(path: &Path, at: impl Fn(&File) -> u64, pattern: &[u8]) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let at = at(&file);
    let mut bytes = vec![0; pattern.len()];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes.iter_mut().zip(pattern).for_each(|(byte, flip)| *byte ^= flip);
    file.write_all_at(&bytes, at).unwrap();
    file.sync_all().unwrap();
}

/// Whether the file passes all checks that can be made of a file.
fn is_intact(path: &Path) -> bool {
    let verified = logdrive(&["snapshot", "verify", path.to_str().unwrap()]);
    let said = text(&verified.stdout) + &text(&verified.stderr);
    assert!(said.contains("damaged"), "{said}");
    verified.status.code() == Some(DONE)
}

/// Node 1 with a group that only its snapshot can bring up on another node, and where that is.
fn one_node() -> (Cluster, PathBuf) {
    let cluster = Cluster::start(Shape { nodes: 1, groups: 1, more: ON_ORDER, ..Shape::default() });
    write(&cluster, 0..40);
    snapshot(&cluster.nodes[0], 1);
    let file = snapshot_file(&cluster.nodes[0].dir);
    assert!(is_intact(&file));
    (cluster, file)
}

fn add_learner(cluster: &mut Cluster) {
    join_another(cluster);
    let (code, added) = ask(cluster, &["group", "add-learner", "1", "2"]);
    assert_eq!(code, DONE, "{added}");
}

/// What a node says of why a group's last snapshot came to nothing.
fn failure(node: &Node) -> Option<String> {
    Some(show(node, 1)?["snapshot"]["failure"].as_str()?.to_owned())
}

/// Node 2 has what node 1 has, from one snapshot, and neither finds anything wrong any more.
fn is_brought_up(cluster: &Cluster) {
    wait_for("a snapshot to be installed", || {
        cluster.nodes[1].count("snapshots_installed").filter(|installed| *installed > 0)
    });
    assert_eq!(cluster.nodes[1].count("snapshots_installed"), Some(1));
    cluster.wait_for_leaders();
    write(cluster, 40..44);
    cluster.wait_for_equal_digests();
    wait_for("both to find nothing wrong", || {
        cluster.nodes.iter().all(|node| failure(node).is_none()).then_some(())
    });
}

/// The sender took another one, and does not have this one any more.
fn is_replaced(file: &Path) {
    wait_for("the file to be removed", || (!file.exists()).then_some(()));
}

#[test]
fn a_snapshot_that_the_receiver_can_make_nothing_of_is_refused_and_both_ends_say_so_until_another_one_comes()
{
    let (mut cluster, file) = one_node();
    // The first bytes of the state, which say what it is.
    let state_at = |file: &File| HEADER_BYTES + CHUNK_HEAD_BYTES + number(file, SESSIONS_BYTES_AT);
    flip(&file, state_at, &UNSEEN);
    assert!(is_intact(&file), "no checksum sees it");
    add_learner(&mut cluster);

    let why = wait_for("the receiver to say why", || failure(&cluster.nodes[1]));
    assert!(why.contains("magic"), "{why}");
    let is_refused = |transfer: &Value| {
        transfer["outgoing"] == true && transfer["peer"] == 2 && transfer["step"] == "refused"
    };
    wait_for("the sender to say that it is refused", || {
        let shown = show(&cluster.nodes[0], 1)?;
        shown["transfers"].as_array()?.iter().any(is_refused).then_some(())
    });
    assert!(cluster.nodes[0].count("transfers_refused") >= Some(1));
    is_brought_up(&cluster);
    assert!(cluster.nodes[1].stderr().contains("could not be installed"));
    is_replaced(&file);
}

#[test]
fn a_snapshot_that_rotted_on_the_disk_of_its_sender_is_not_sent_to_its_end_and_another_one_is() {
    let (mut cluster, file) = one_node();
    // In the third chunk: what comes before it is good, and is sent.
    let third = |file: &File| HEADER_BYTES + 2 * (number(file, CHUNK_BYTES_AT) & 0xffff_ffff) + 1000;
    flip(&file, third, &FLIPPED);
    assert!(!is_intact(&file));
    add_learner(&mut cluster);

    is_brought_up(&cluster);
    let said = cluster.nodes[0].stderr();
    assert!(said.contains("a snapshot cannot be sent"), "{said}");
    is_replaced(&file);
    // What is good of a damaged one is not mixed with another: that was sent from its beginning.
    let sent = cluster.nodes[0].count("transfer_bytes_sent").unwrap();
    let whole = snapshot_file(&cluster.nodes[0].dir).metadata().unwrap().len();
    assert!(sent > whole - HEADER_BYTES, "{sent} bytes sent, {whole} in the file");
}

#[test]
fn the_pattern_that_no_checksum_sees_is_one() {
    let bytes: Vec<u8> = (0..100).collect();
    let mut other = bytes.clone();
    other[17..].iter_mut().zip(UNSEEN).for_each(|(byte, flip)| *byte ^= flip);
    assert_ne!(bytes, other);
    assert_eq!(crc32c::crc32c(&bytes), crc32c::crc32c(&other));
}
