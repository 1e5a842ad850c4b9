//! Who may take part: directories and connections that are refused.

#![allow(clippy::unwrap_used)]

mod engine_common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use engine_common::{Cluster, eventually};
use logdrive::node::NodeError;
use logdrive::runtime::StartError;

#[track_caller]
fn refusal(cluster: &mut Cluster, id: u32) -> NodeError {
    match cluster.try_start(id, Vec::new()) {
        Err(StartError::Node(error)) => *error,
        other => panic!("expected the directory to be refused, got {other:?}"),
    }
}

#[test]
fn a_new_directory_needs_an_explicit_first_start() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.settings(1).bootstrap = false;
    assert!(matches!(refusal(&mut cluster, 1), NodeError::NotBootstrapped { .. }));
    cluster.settings(1).bootstrap = true;
    cluster.start_node(1);
    cluster.set(1, "a", "1");
}

#[test]
fn a_wiped_directory_under_a_known_identity_is_refused_by_the_others() {
    let mut cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "a", "1");
    cluster.await_equal();
    cluster.await_links();
    cluster.crash(3);
    std::fs::remove_dir_all(&cluster.settings(3).dir).unwrap();
    cluster.settings(3).bootstrap = true;
    cluster.start_node(3);
    let reason = eventually("the refusal is visible on both sides", || {
        let here = cluster.engine(1).peers().into_iter().find(|peer| peer.node == 3)?.refused?;
        let there = cluster.engine(3).peers().into_iter().find(|peer| peer.node == 1)?.refused?;
        Some((here, there))
    });
    assert!(reason.0.contains("wiped"), "{reason:?}");
    assert!(reason.1.contains("wiped"), "{reason:?}");
    assert_eq!(cluster.engine(3).peers().iter().map(|peer| peer.links).sum::<u32>(), 0);
    // The others go on without it.
    cluster.set(1, "a", "2");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A copy is taken in boot 1; the node acknowledges more in boot 2; then it begins its boot 2 again, on the copy.
#[test]
fn field_29_a_restored_backup_is_refused_even_in_a_boot_that_was_met() {
    let mut cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "a", "1");
    cluster.await_equal();
    cluster.await_links();
    cluster.crash(3);
    let dir = cluster.settings(3).dir.clone();
    let backup = cluster.path().join("backup");
    copy(&dir, &backup);
    cluster.start_node(3);
    cluster.set(1, "a", "2");
    cluster.await_equal();
    cluster.await_links();
    cluster.crash(3);
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&backup, &dir);
    // The second start of the copy begins a boot that nobody has met: it descends from the wrong one.
    for boot in [2, 3] {
        cluster.start_node(3);
        let reason = eventually("the refusal is visible on both sides", || {
            let here = cluster.engine(1).peers().into_iter().find(|peer| peer.node == 3)?.refused?;
            let there = cluster.engine(3).peers().into_iter().find(|peer| peer.node == 1)?.refused?;
            Some((here, there))
        });
        for reason in [&reason.0, &reason.1] {
            assert!(reason.contains("boot 2 of node 3 was met as"), "in boot {boot}: {reason}");
            assert!(reason.contains("replace it by a new member"), "in boot {boot}: {reason}");
        }
        assert_eq!(cluster.engine(3).peers().iter().map(|peer| peer.links).sum::<u32>(), 0);
        cluster.crash(3);
    }
    // The others go on without it.
    cluster.set(1, "a", "3");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("3"));
}

#[test]
fn a_log_that_is_gone_is_noticed_at_home() {
    let mut cluster = Cluster::start(1, 1, 1);
    cluster.set(1, "a", "1");
    cluster.shutdown(1);
    std::fs::remove_dir_all(cluster.settings(1).dir.join("core-0")).unwrap();
    let refused = cluster.try_start(1, Vec::new());
    assert!(matches!(refused, Err(StartError::Directory { .. })), "{refused:?}");
}

#[test]
fn the_directory_of_another_cluster_or_node_or_shape_is_refused() {
    let mut cluster = Cluster::start(1, 1, 4);
    cluster.set(1, "a", "1");
    cluster.shutdown(1);
    let good = cluster.settings(1).clone();

    cluster.settings(1).cluster += 1;
    assert!(matches!(refusal(&mut cluster, 1), NodeError::ForeignCluster { .. }));
    *cluster.settings(1) = good.clone();
    cluster.settings(1).node.0 = 2;
    cluster.settings(1).nodes[0].node.0 = 2;
    assert!(matches!(refusal(&mut cluster, 1), NodeError::OtherNode { .. }));
    *cluster.settings(1) = good.clone();
    cluster.settings(1).cores = 2;
    assert!(matches!(refusal(&mut cluster, 1), NodeError::CoresChanged { .. }));
    *cluster.settings(1) = good.clone();
    cluster.settings(1).groups = 5;
    assert!(matches!(refusal(&mut cluster, 1), NodeError::GroupsChanged { .. }));

    *cluster.settings(1) = good;
    cluster.start_node(1);
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
}

#[test]
fn two_engines_on_one_directory_are_refused() {
    let mut cluster = Cluster::start(1, 1, 1);
    cluster.set(1, "a", "1");
    let mut second = cluster.settings(1).clone();
    second.listen.set_port(0);
    let refused = logdrive::runtime::Engine::start(second, |_| logdrive::kv::KvMachine::new(), Vec::new());
    match refused {
        Err(StartError::Node(error)) => assert!(matches!(*error, NodeError::Locked { .. }), "{error}"),
        other => panic!("expected the directory to be locked, got {other:?}"),
    }
    cluster.set(1, "a", "2");
}

#[test]
fn a_cluster_does_not_talk_to_another() {
    let mut cluster = Cluster::new(3, 1, 1);
    // Node 3 was set up for another cluster under the addresses of this one.
    cluster.settings(3).cluster += 1;
    for id in 1..=3 {
        cluster.start_node(id);
    }
    cluster.set(1, "a", "1");
    eventually("the refusal is visible", || {
        let peer = cluster.engine(1).peers().into_iter().find(|peer| peer.node == 3)?;
        peer.refused.filter(|reason| reason.contains("cluster"))
    });
    assert_eq!(cluster.engine(3).peers().iter().map(|peer| peer.links).sum::<u32>(), 0);
}

#[test]
fn garbage_at_the_address_for_peers_does_no_harm() {
    let cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "a", "1");
    let connected = || cluster.engine(2).peers().iter().all(|peer| peer.links == 1);
    eventually("node 2 is connected", || connected().then_some(()));
    let mut stranger = TcpStream::connect(cluster.engine(2).peer_address()).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: logdrive\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed without an answer; a reset is as good.
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    // One that says nothing and goes.
    drop(TcpStream::connect(cluster.engine(2).peer_address()).unwrap());
    // One with the right magic and nonsense behind it.
    let mut stranger = TcpStream::connect(cluster.engine(2).peer_address()).unwrap();
    stranger.write_all(b"LDS\x1a0123456789abcdefghijklmnopqrstuvwxyz").unwrap();
    let _ = stranger.read_to_end(&mut answer);
    eventually("the strangers are counted", || {
        (cluster.engine(2).counters().handshakes_failed >= 3).then_some(())
    });
    cluster.set(1, "a", "2");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("2"));
    assert!(connected());
}

#[test]
fn handshakes_under_way_are_bounded() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.settings(1).runtime.handshakes_max = 4;
    cluster.start_node(1);
    let address = cluster.engine(1).peer_address();
    let silent: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("those over the bound are closed", || {
        (cluster.engine(1).counters().handshakes_over_limit >= 4).then_some(())
    });
    drop(silent);
    cluster.set(1, "a", "1");
}
