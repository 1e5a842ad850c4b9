//! Snapshots on their way between processes: one that goes on where it stopped when either end is killed, and one that a follower sends
//! in its leader's place. What was sent is read from the status.

use redis::Commands;
use serde_json::Value;

use crate::admin::{DONE, ask};
use crate::cluster::{Cluster, Node, Shape, edit, wait_for};
use crate::members::join_another;

const MIB: u64 = 1 << 20;
const VALUE_BYTES: usize = 64 << 10;
/// Slow enough to be met on its way several times; snapshots on order only.
const SLOW: &str = "[snapshots]\nevery_entries = 0\nevery_bytes = 0\nkeep_trailing_entries = 2\n\
     transfer_bytes_per_s = \"6 MiB\"\ntransfer_window = \"256 KiB\"\n";
/// What an end that is killed may have to send or get again: chunks that were not whole or not on disk, and what was on the way.
const AGAIN_MAX: u64 = 3 * MIB;

/// What does not compress and is another one for each key.
fn value(n: u64) -> Vec<u8> {
    let mut state = n;
    let word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 29).to_le_bytes()
    };
    std::iter::repeat_with(word).take(VALUE_BYTES / 8).flatten().collect()
}

pub(crate) fn write(cluster: &Cluster, keys: std::ops::Range<u64>) {
    let mut client = cluster.addresses().client();
    for n in keys {
        client.set::<_, _, ()>(format!("key {n}"), value(n)).unwrap();
    }
}

/// A group as a node shows it, if it answers.
pub(crate) fn show(node: &Node, group: u64) -> Option<Value> {
    let shown = redis::cmd("LOGDRIVE").arg("GROUP").arg("SHOW").arg(group).query(&mut node.connect()?);
    let shown: String = shown.ok()?;
    Some(serde_json::from_str(&shown).unwrap())
}

/// Bytes of a group's snapshot that the node has got so far, and of how many.
fn received(node: &Node) -> Option<(u64, u64)> {
    let shown = show(node, 1)?;
    let received = shown["transfers"].as_array()?.iter().find(|transfer| transfer["outgoing"] == false)?;
    Some((received["bytes"].as_u64()?, received["bytes_total"].as_u64()?))
}

/// Takes a snapshot of a group on one node: the log is cut behind it.
pub(crate) fn snapshot(node: &Node, group: u64) {
    let taken: redis::RedisResult<String> =
        redis::cmd("LOGDRIVE").arg("GROUP").arg("SNAPSHOT").arg(group).query(&mut node.connect().unwrap());
    taken.unwrap();
}

/// Waits until a node has got so many percent: how many bytes, and of how many.
fn wait_for_percent(node: &Node, percent: u64) -> (u64, u64) {
    wait_for(&format!("{percent} % of a snapshot to arrive"), || {
        received(node).filter(|(bytes, total)| *total > 0 && bytes * 100 >= total * percent)
    })
}

fn sent(node: &Node) -> u64 {
    wait_for("a node's status", || node.count("transfer_bytes_sent"))
}

#[test]
fn a_transfer_goes_on_where_it_stopped_when_the_receiver_and_then_the_sender_is_killed() {
    let mut cluster = Cluster::start(Shape { nodes: 1, groups: 1, more: SLOW, ..Shape::default() });
    write(&cluster, 0..384);
    snapshot(&cluster.nodes[0], 1);
    join_another(&mut cluster);
    let (code, added) = ask(&cluster, &["group", "add-learner", "1", "2"]);
    assert_eq!(code, DONE, "{added}");

    let (first, total) = wait_for_percent(&cluster.nodes[1], 35);
    assert!(total > 24 * MIB, "{total} bytes");
    let sent_first = sent(&cluster.nodes[0]);
    cluster.nodes[1].kill();
    cluster.nodes[1].spawn(false);
    cluster.nodes[1].wait_ready();
    wait_for_percent(&cluster.nodes[1], 60);
    let sent_second = sent(&cluster.nodes[0]);
    let (second, _) = received(&cluster.nodes[1]).expect("it is not there yet");
    let again = (sent_second - sent_first).saturating_sub(second - first);
    assert!(again <= AGAIN_MAX, "{again} bytes again: {first} of {total} were there, then {second}");
    // Without going on, it would have been all that was there before.
    assert!(first > 2 * AGAIN_MAX);

    cluster.nodes[0].kill();
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    wait_for("the snapshot to be installed", || {
        cluster.nodes[1].count("snapshots_installed").filter(|installed| *installed == 1)
    });
    let again = sent(&cluster.nodes[0]).saturating_sub(total - second);
    assert!(again <= AGAIN_MAX, "{again} bytes again: {second} of {total} were there");
    assert!(cluster.nodes[0].count("transfers_resumed") >= Some(1));
    cluster.wait_for_leaders();
    write(&cluster, 384..390);
    cluster.wait_for_equal_digests();
}

#[test]
fn a_follower_sends_in_the_place_of_a_leader_that_sends_as_many_as_it_may() {
    const ONE_AT_A_TIME: &str = "[snapshots]\nevery_entries = 0\nevery_bytes = 0\nkeep_trailing_entries = 2\n\
         transfers = 1\ntransfer_bytes_per_s = \"4 MiB\"\n";
    let mut cluster = Cluster::prepare(Shape { groups: 3, more: ONE_AT_A_TIME, ..Shape::default() });
    for node in &cluster.nodes {
        edit(&node.config, "[[nodes]]\nid = 1\n", "[[nodes]]\nid = 1\npriority = 9\n");
    }
    cluster.nodes.iter_mut().for_each(|node| node.spawn(true));
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    wait_for("node 1 to lead all groups", || cluster.nodes[0].count("leaders").filter(|led| *led == 3));
    write(&cluster, 0..30);
    cluster.nodes[2].kill();
    write(&cluster, 30..330);
    for (node, group) in (0..2).flat_map(|node| (1..=3).map(move |group| (node, group))) {
        let applied_all = || {
            let (leader, this) = (show(&cluster.nodes[0], group)?, show(&cluster.nodes[node], group)?);
            (leader["last"] == this["applied"]).then_some(())
        };
        wait_for("what the leader has", applied_all);
        snapshot(&cluster.nodes[node], group);
    }
    cluster.nodes[2].spawn(false);
    cluster.nodes[2].wait_ready();
    wait_for("all groups to be brought up", || {
        cluster.nodes[2].count("snapshots_installed").filter(|installed| *installed >= 3)
    });
    cluster.wait_for_equal_digests();
    let relayed = cluster.nodes[0].count("transfers_relayed").unwrap();
    let by_follower = cluster.nodes[1].count("transfer_bytes_sent").unwrap();
    assert!(relayed >= 1, "the leader asked nobody; {by_follower} bytes by the follower");
    assert_eq!(cluster.nodes[1].count("leaders"), Some(0), "it sent as a follower");
    // Nothing was sent by both.
    let taken = cluster.nodes[2].count("transfer_bytes_taken").unwrap();
    let by_leader = cluster.nodes[0].count("transfer_bytes_sent").unwrap();
    assert!(
        by_leader > MIB && by_leader + by_follower <= taken + MIB,
        "{by_leader} + {by_follower}, {taken} taken"
    );
    // It may have had no connection to the restarted node when it was asked first; it is asked again.
    assert!(
        by_follower > MIB,
        "{relayed} relayed, {by_follower} bytes by the follower, {by_leader} by the leader"
    );
}
