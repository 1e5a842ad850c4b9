//! Nodes that the others' logs do not reach any more: one that was away for too long, and one that is new and empty. Both are brought up by
//! snapshots while clients write.

use crate::admin::{DONE, ask, say};
use crate::cluster::{Cluster, Shape, wait_for};
use crate::crash::{check_cluster, check_node, wait_for_writes};
use crate::members::{all_done, has_voters, join_another, under_load};

/// Logs are cut behind snapshots that come soon.
fn shape() -> Shape {
    Shape {
        groups: crate::members::GROUPS,
        more: "[snapshots]\nevery_entries = 60\nkeep_trailing_entries = 5\n",
        ..Shape::default()
    }
}

/// Of each group: where the log begins on its leader, and where it ends.
pub(crate) fn logs(cluster: &Cluster) -> Vec<(u64, u64)> {
    let (_, shown) = ask(cluster, &["group", "show", "all"]);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let groups = shown.as_array().unwrap().iter();
    groups.map(|group| (number(&group["snapshot"]["log_first"]), number(&group["last"]))).collect()
}

/// Waits until no log begins below what `before` ended with.
pub(crate) fn wait_for_cuts(cluster: &Cluster, before: &[(u64, u64)]) {
    wait_for("all logs to be cut", || {
        let now = logs(cluster);
        now.iter().zip(before).all(|(now, before)| now.0 > before.1 + 1).then_some(())
    });
}

#[test]
fn a_node_killed_and_away_for_longer_than_the_logs_reach_is_brought_up_by_snapshots_under_load() {
    let mut cluster = Cluster::start(shape());
    let written = under_load(&mut cluster, |cluster, acknowledged| {
        cluster.nodes[2].kill();
        wait_for_writes(acknowledged);
        wait_for_cuts(cluster, &logs(cluster));
        cluster.nodes[2].spawn(false);
        cluster.nodes[2].wait_ready();
        wait_for("snapshots to be installed", || {
            cluster.nodes[2].count("snapshots_installed").filter(|installed| *installed > 0)
        });
        wait_for_writes(acknowledged);
    });
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests();
    check_cluster(&cluster.addresses(), &written);
    check_node(&cluster.nodes[2], &written);
    let installed = cluster.nodes[2].count("snapshots_installed");
    assert!(installed >= Some(crate::members::GROUPS), "{installed:?} groups were brought up by snapshots");
    let (code, said) = say(&cluster, &["group", "show", "1"]);
    assert!(code == DONE && said.contains("the log begins at"), "{said}");
}

#[test]
fn a_member_is_replaced_by_a_new_and_empty_one_that_only_snapshots_bring_up() {
    let mut cluster = Cluster::start(shape());
    let written = under_load(&mut cluster, |cluster, acknowledged| {
        wait_for_cuts(cluster, &logs(cluster));
        join_another(cluster);
        cluster.nodes[1].kill();
        wait_for_writes(acknowledged);
        all_done(cluster, &["group", "replace", "all", "2", "4", "--wait"]);
    });
    assert!(has_voters(&cluster, &[1, 3, 4]));
    cluster.wait_for_leaders();
    cluster.wait_for_equal_digests_of(&[0, 2, 3]);
    check_cluster(&cluster.addresses(), &written);
    check_node(&cluster.nodes[3], &written);
    let installed = cluster.nodes[3].count("snapshots_installed");
    assert!(installed >= Some(crate::members::GROUPS), "{installed:?} groups were brought up by snapshots");
}
