//! Nodes that come and go while clients write: a fourth node joins, learns, votes; an old one leaves; nothing acknowledged is lost.

use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::process::Signal;

use crate::admin::{DONE, UNWELL, ask, say};
use crate::cluster::{Cluster, Shape, wait_for};
use crate::crash::{StopGuard, WRITERS, check_cluster, check_node, wait_for_writes, write};

pub(crate) const GROUPS: u64 = 12;
const MISMATCH: i32 = 6;

fn shape() -> Shape {
    Shape { groups: GROUPS, ..Shape::default() }
}

/// One more node that all others know, running and a member of nothing.
pub(crate) fn join_another(cluster: &mut Cluster) {
    let known_to = cluster.nodes.len();
    let at = cluster.add_node();
    let (id, clients, peers) = {
        let node = &cluster.nodes[at];
        (node.id.to_string(), node.clients.clone(), node.peers.clone())
    };
    let words = ["node", "add", &id, "--peers", &peers, "--clients", &clients];
    let (code, added) = ask(cluster, &words);
    assert_eq!((code, added["known_to"].as_array().unwrap().len()), (DONE, known_to), "{added}");
    cluster.nodes[at].spawn_to_join();
    cluster.nodes[at].wait_ready();
}

pub(crate) fn all_done(cluster: &Cluster, words: &[&str]) {
    let (code, outcome) = ask(cluster, words);
    assert_eq!((code, &outcome["done"]), (DONE, &GROUPS.into()), "{words:?}: {outcome}");
}

/// Every group has exactly these voters and no other member.
pub(crate) fn has_voters(cluster: &Cluster, expected: &[u64]) -> bool {
    let (_, shown) = ask(cluster, &["group", "show", "all"]);
    shown.as_array().unwrap().iter().all(|group| {
        let configuration = &group["configuration"];
        let voters: Vec<u64> =
            configuration["voters"].as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect();
        voters == expected
            && configuration["settled"] == true
            && configuration["learners"] == serde_json::json!([])
    })
}

/// Writes while `events` happen; returns what was acknowledged, by writer.
pub(crate) fn under_load(
    cluster: &mut Cluster,
    events: impl FnOnce(&mut Cluster, &AtomicU64),
) -> Vec<Vec<u64>> {
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let addresses = cluster.addresses();
    std::thread::scope(|scope| {
        let stop_at_end = StopGuard(&stop);
        let start = |writer| {
            let (addresses, acknowledged, stop) = (&addresses, &acknowledged, &stop);
            scope.spawn(move || write(addresses, writer, acknowledged, stop))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        wait_for_writes(&acknowledged);
        events(cluster, &acknowledged);
        wait_for_writes(&acknowledged);
        drop(stop_at_end);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

#[test]
fn a_fourth_node_takes_the_place_of_an_old_one_under_load_with_kills_in_between() {
    let mut cluster = Cluster::start(shape());
    let written = under_load(&mut cluster, |cluster, acknowledged| {
        join_another(cluster);
        all_done(cluster, &["group", "add-learner", "all", "4", "--wait"]);
        wait_for_writes(acknowledged);
        // The new node dies as soon as it votes.
        all_done(cluster, &["group", "promote", "all", "4", "--wait"]);
        cluster.nodes[3].kill();
        wait_for_writes(acknowledged);
        cluster.nodes[3].spawn(false);
        cluster.nodes[3].wait_ready();
        // An old one is removed, and killed at once.
        all_done(cluster, &["group", "remove", "all", "3", "--wait"]);
        cluster.nodes[2].signal(Signal::KILL);
        cluster.nodes[2].wait_end();
        wait_for_writes(acknowledged);
        // Of the new three one may be missing.
        cluster.nodes[1].kill();
        wait_for_writes(acknowledged);
        cluster.nodes[1].spawn(false);
        cluster.nodes[1].wait_ready();
    });
    assert!(has_voters(&cluster, &[1, 2, 4]));
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests_of(&[0, 1, 3]);
    check_cluster(&cluster.addresses(), &written);
    for node in [0, 1, 3] {
        check_node(&cluster.nodes[node], &written);
    }
    // The new one leads its share, and whoever comes back without membership disturbs nobody.
    wait_for("leaders on the new node", || cluster.nodes[3].count("leaders").filter(|leaders| *leaders > 0));
    cluster.nodes[2].spawn(false);
    cluster.nodes[2].wait_ready();
    cluster.wait_for_leaders();
    assert_eq!(cluster.nodes[2].count("leaders"), Some(0));
}

#[test]
fn a_dead_node_is_replaced_in_one_call() {
    let mut cluster = Cluster::start(shape());
    let written = under_load(&mut cluster, |cluster, acknowledged| {
        join_another(cluster);
        cluster.nodes[1].kill();
        wait_for_writes(acknowledged);
        all_done(cluster, &["group", "replace", "all", "2", "4", "--wait"]);
        // It was done; doing it again does nothing.
        all_done(cluster, &["group", "replace", "all", "2", "4"]);
    });
    assert!(has_voters(&cluster, &[1, 3, 4]));
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests_of(&[0, 2, 3]);
    check_cluster(&cluster.addresses(), &written);
    check_node(&cluster.nodes[3], &written);
    let (code, said) = say(&cluster, &["group", "show", "1"]);
    assert!(code == DONE && said.contains("voters 1 3 4"), "{said}");
    // All nodes are restarted: who belongs to what is in the logs.
    for node in [0, 2, 3] {
        cluster.nodes[node].stop();
        cluster.nodes[node].spawn(false);
        cluster.nodes[node].wait_ready();
    }
    cluster.wait_for_leaders();
    assert!(has_voters(&cluster, &[1, 3, 4]));
}

#[test]
fn changes_that_cannot_be_made_change_nothing() {
    let mut cluster = Cluster::start(shape());
    join_another(&mut cluster);
    let (code, refused) = ask(&cluster, &["group", "add-learner", "1", "4", "--expect", "5"]);
    let error = &refused["groups"][0]["error"];
    assert_eq!(
        (code, &error["code"], &error["expected"]),
        (MISMATCH, &"MISMATCH".into(), &5.into()),
        "{refused}"
    );
    let index = error["actual"].to_string();
    let (code, done) = ask(&cluster, &["group", "add-learner", "1", "4", "--expect", &index, "--wait"]);
    assert_eq!(
        (code, &done["groups"][0]["configuration"]["learners"]),
        (DONE, &serde_json::json!([4])),
        "{done}"
    );
    // A node that nobody has heard of cannot vote; nor can one be promoted that is no learner.
    let (code, refused) = ask(&cluster, &["group", "promote", "2", "4"]);
    assert_eq!((code, &refused["groups"][0]["error"]["code"]), (1, &"BADCHANGE".into()), "{refused}");
    let (code, refused) = ask(&cluster, &["group", "add-voter", "2", "9", "--wait", "1"]);
    assert_eq!((code, &refused["groups"][0]["error"]["code"]), (7, &"BEHIND".into()), "{refused}");
    let (code, said) = say(&cluster, &["group", "remove", "1", "4"]);
    assert!(code == DONE && said.contains("voters 1 2 3"), "{said}");
    cluster.nodes[1].kill();
    let (code, added) =
        ask(&cluster, &["node", "add", "5", "--peers", "127.0.0.1:1", "--clients", "127.0.0.1:2"]);
    assert_eq!((code, added["errors"].as_array().unwrap().len()), (UNWELL, 1), "{added}");
}
