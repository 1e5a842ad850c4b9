//! The shortest stories.
mod common;

use common::{Cluster, config, ms};
use logdrive_shard::{LogIndex, Moment, NodeId, Role};

#[test]
fn three_nodes_elect_replicate_and_fall_silent() {
    let mut cluster = Cluster::new(3, config(), 1);
    let leader = cluster.elect();
    cluster.propose(leader, 3, 100).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(leader).commit(), LogIndex(4));
    cluster.plain(leader, |group, env| group.flush_commit(env));
    cluster.run_for(ms(10_000));
    for id in 1..=3 {
        assert_eq!(cluster.group(id).applicable(), LogIndex(4));
        assert_eq!(cluster.group(id).next_deadline(), Moment::NEVER, "an idle group costs nothing");
        assert_eq!(cluster.group(id).leader().0, leader);
    }
    let round = cluster.read(leader).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.nodes[&leader].reads_confirmed, [(round, LogIndex(4))]);
    cluster.crash(leader, 0);
    let next = cluster.elect();
    assert_ne!(leader, next);
    cluster.restart(leader);
    cluster.run_for(ms(10_000));
    assert_eq!(cluster.group(leader).role(), Role::Follower);
    assert_eq!(cluster.group(leader).applicable(), LogIndex(5));
}

#[test]
fn a_single_voter_elects_itself() {
    let mut cluster = Cluster::new(1, config(), 1);
    cluster.run_for(ms(0));
    cluster.propose(1, 1, 10).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(1).applicable(), LogIndex(2));
    assert_eq!(cluster.group(1).next_deadline(), Moment::NEVER);
}

/// It once named the dead leader for ever, so that clients were sent there instead of being told that nobody leads.
#[test]
fn the_last_node_in_contact_with_nobody_forgets_its_leader() {
    for first in 1..=3 {
        let mut cluster = Cluster::new(3, config(), 1);
        let leader = cluster.elect();
        cluster.run_for(ms(1_000));
        let others: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        // In either order: the other follower dies before the leader, or after it.
        let (one, two) = if first == leader { (leader, others[0]) } else { (others[0], leader) };
        cluster.crash(one, 0);
        cluster.crash(two, 0);
        cluster.run_for(ms(10_000));
        assert_eq!(cluster.group(others[1]).leader(), NodeId::NONE);
        assert_eq!(cluster.group(others[1]).next_deadline(), Moment::NEVER, "nobody would hear it campaign");
    }
}

#[test]
fn field_33_the_window_is_bounded_in_bytes() {
    let mut cluster = Cluster::new(3, config(), 1);
    let leader = cluster.elect();
    cluster.config.inflight_bytes_max = 1_000;
    cluster.config.append_bytes_max = 400;
    for _ in 0..20 {
        cluster.propose(leader, 1, 300).unwrap();
    }
    let report = cluster.group(leader).report();
    assert!(
        report.peers.iter().all(|peer| peer.inflight == 4),
        "four of 300 bytes: the fourth began below 1,000"
    );
    cluster.stabilize();
    assert_eq!(cluster.group(leader).commit(), LogIndex(21));
}
