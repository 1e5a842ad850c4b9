//! Data directories that are not what the configuration says: refused, with a message that says what to do.

use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, Shape, edit, logdrive, text, wait_for};

/// The exit code for a refused data directory.
const DIRECTORY: i32 = 3;
/// And for a cluster that is not well.
const UNWELL: i32 = 5;

fn one_node() -> Shape {
    Shape { nodes: 1, groups: 4, ..Shape::default() }
}

/// Starts node 0, which must refuse, and returns what it says.
fn refusal(cluster: &mut Cluster, bootstrap: bool) -> String {
    let before = cluster.nodes[0].stderr().len();
    cluster.nodes[0].spawn(bootstrap);
    let status = cluster.nodes[0].wait_end();
    let said = cluster.nodes[0].stderr()[before..].to_owned();
    assert_eq!(status.code(), Some(DIRECTORY), "{said}");
    said
}

fn assert_says(said: &str, expected: &[&str]) {
    for expected in expected {
        assert!(said.contains(expected), "`{expected}` is not in: {said}");
    }
}

#[test]
fn a_first_start_needs_bootstrap() {
    let mut cluster = Cluster::prepare(one_node());
    let said = refusal(&mut cluster, false);
    assert_says(&said, &["node-1", "--bootstrap"]);
}

#[test]
fn a_wiped_directory_is_refused() {
    let mut cluster = Cluster::start(one_node());
    cluster.nodes[0].stop();
    fs::remove_dir_all(&cluster.nodes[0].dir).unwrap();
    fs::create_dir(&cluster.nodes[0].dir).unwrap();
    let said = refusal(&mut cluster, false);
    assert_says(&said, &["node-1", "--bootstrap"]);
}

#[test]
fn another_clusters_directory_is_refused() {
    let mut cluster = Cluster::start(one_node());
    cluster.nodes[0].stop();
    edit(&cluster.nodes[0].config, "cluster = 7", "cluster = 8");
    for bootstrap in [false, true] {
        let said = refusal(&mut cluster, bootstrap);
        assert_says(&said, &["node-1", "belongs to cluster 7", "cluster 8"]);
    }
}

#[test]
fn another_nodes_directory_is_refused() {
    let mut cluster = Cluster::start(Shape { nodes: 3, ..one_node() });
    cluster.nodes.iter_mut().for_each(|node| node.stop());
    edit(&cluster.nodes[0].config, "\"node-1\"", "\"node-2\"");
    let said = refusal(&mut cluster, false);
    assert_says(&said, &["node-2", "belongs to node 2", "node 1"]);
}

#[test]
fn two_processes_on_one_directory_are_refused() {
    let mut cluster = Cluster::start(Shape { nodes: 2, ..one_node() });
    // The second node gets the directory and the identity of the first, but keeps its addresses free of conflicts.
    let (first, second) = cluster.nodes.split_at_mut(1);
    first[0].stop();
    second[0].stop();
    let mut other = Cluster::twin(&first[0]);
    first[0].spawn(false);
    first[0].wait_ready();
    other.spawn(false);
    let status = other.wait_end();
    let said = other.stderr();
    assert_eq!(status.code(), Some(DIRECTORY), "{said}");
    assert_says(&said, &["node-1", "another process"]);
    first[0].stop();
}

#[test]
fn a_node_that_lost_its_disk_is_refused_by_its_peers() {
    let mut cluster = Cluster::start(Shape { nodes: 3, ..one_node() });
    let mut client = cluster.addresses().client();
    let mut set = |n: u32| redis::cmd("SET").arg(format!("key:{n}")).arg(n).exec(&mut client);
    set(1).unwrap();
    cluster.nodes[0].kill();
    fs::remove_dir_all(&cluster.nodes[0].dir).unwrap();
    // Somebody insists: a first start, under the identity of a node that the others know.
    cluster.nodes[0].spawn(true);
    cluster.nodes[0].wait_ready();
    wait_for("the refusal in the logs", || {
        let said: String = cluster.nodes.iter().map(|node| node.stderr()).collect();
        said.contains("refuses").then_some(())
    });
    let status = logdrive(&["status", "--addr", &cluster.nodes[1].clients]);
    assert_eq!(status.status.code(), Some(UNWELL), "{}", text(&status.stdout));
    assert_says(&text(&status.stdout), &["node 2 has no connection to node 1", "refuse"]);
    // The others go on without it, and it never leads anything.
    cluster.wait_for_leaders();
    wait_for("a write", || set(2).ok());
    assert_eq!(cluster.nodes[0].count("leaders"), Some(0));
    assert_eq!(cluster.nodes[0].count("applied"), Some(0));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn field_29_a_backup_that_was_put_back_is_refused_by_the_peers_of_its_node() {
    let mut cluster = Cluster::start(Shape { nodes: 3, ..one_node() });
    let set = |cluster: &Cluster, n: u32| {
        cluster.wait_for_leaders();
        let mut client = cluster.addresses().client();
        redis::cmd("SET").arg(format!("key:{n}")).arg(n).exec(&mut client).unwrap();
    };
    set(&cluster, 1);
    cluster.nodes[0].stop();
    let backup = cluster.nodes[0].dir.with_extension("backup");
    copy(&cluster.nodes[0].dir, &backup);
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    set(&cluster, 2);
    cluster.wait_for_equal_digests();
    cluster.nodes[0].kill();
    fs::remove_dir_all(&cluster.nodes[0].dir).unwrap();
    copy(&backup, &cluster.nodes[0].dir);
    cluster.nodes[0].spawn(false);
    cluster.nodes[0].wait_ready();
    wait_for("the refusal in the logs", || {
        let said: String = cluster.nodes.iter().map(|node| node.stderr()).collect();
        said.contains("boot 2 of node 1 was met as").then_some(())
    });
    let status = logdrive(&["status", "--addr", &cluster.nodes[1].clients]);
    assert_eq!(status.status.code(), Some(UNWELL), "{}", text(&status.stdout));
    assert_says(&text(&status.stdout), &["node 2 has no connection to node 1", "restored backup"]);
    // The others go on without it, and it leads nothing.
    let leaders = |node: usize| cluster.nodes[node].count("leaders");
    wait_for("leaders", || (leaders(1)? + leaders(2)? == cluster.shape.groups).then_some(()));
    assert_eq!(leaders(0), Some(0));
}
