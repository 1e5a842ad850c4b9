//! Nodes that are wanted more than others as leaders.
mod common;
#[path = "common/members.rs"]
mod members;

use common::{Cluster, Setup, ms};
use logdrive_shard::NodeId;

const GROUPS: u64 = 30;

/// Three nodes; nobody is preferred for any group, and no leader is moved.
fn with_priorities(priorities: &[(u32, u8)]) -> Cluster {
    let mut setup = Setup { groups: GROUPS, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    setup.settings.priorities = priorities.iter().map(|&(node, priority)| (NodeId(node), priority)).collect();
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster
}

/// How many groups each node leads.
fn led(cluster: &mut Cluster) -> [u64; 3] {
    let mut led = [0; 3];
    for group in 1..=GROUPS {
        led[cluster.leader(group) as usize - 1] += 1;
    }
    led
}

#[test]
fn who_is_wanted_most_leads_and_the_next_one_when_it_is_dead() {
    let mut cluster = with_priorities(&[(2, 200), (3, 100)]);
    assert_eq!(led(&mut cluster), [0, GROUPS, 0]);
    cluster.kill(2);
    cluster.elect();
    assert_eq!(led(&mut cluster), [0, 0, GROUPS], "node 1 would have been as able");
    cluster.start(2);
    cluster.run_for(ms(2_000));
    assert_eq!(led(&mut cluster), [0, 0, GROUPS], "nobody is deposed for it");
    // The one that nobody wants leads as well, when it is all there is.
    for group in 1..=GROUPS {
        assert!(cluster.write(group, b"kept").result.is_ok());
    }
    cluster.settle();
    cluster.kill(3);
    cluster.elect();
    assert_eq!(led(&mut cluster), [0, GROUPS, 0]);
}

#[test]
fn leaders_are_spread_over_those_that_are_wanted_most() {
    let mut setup = Setup { nodes: 4, founders: 3, groups: GROUPS, ..Setup::default() };
    setup.settings.priorities = vec![(NodeId(3), 7), (NodeId(4), 7)];
    let mut cluster = Cluster::new(setup);
    cluster.run_until(ms(60_000), |cluster| (1..=GROUPS).all(|group| cluster.find_leader(group).is_some()));
    let preferred =
        |cluster: &mut Cluster, group| cluster.core(1).group_status(Cluster::slot(group)).preferred_leader;
    let learn = logdrive_shard::MembershipChange::of(&[logdrive_shard::MemberStep::AddLearner(NodeId(4))]);
    let promote = logdrive_shard::MembershipChange::of(&[logdrive_shard::MemberStep::Promote(NodeId(4))]);
    for group in 1..=GROUPS {
        for change in [&learn, &promote] {
            cluster.must_change(group, change);
        }
    }
    cluster.run_until(ms(20_000), |cluster| {
        (1..=GROUPS).all(|group| [3, 4].contains(&preferred(cluster, group).0))
    });
    let third = (1..=GROUPS).filter(|&group| preferred(&mut cluster, group) == NodeId(3)).count();
    assert_eq!(third as u64, GROUPS / 2);
    cluster.run_until(ms(20_000), |cluster| {
        (1..=GROUPS).all(|group| cluster.find_leader(group) == Some(preferred(cluster, group).0))
    });
}
