//! What others have paid for in changes of the configuration, continued from `field.rs`: each bug by a test that says its name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use common::{Cluster, ms};
use logdrive_shard::{LeaseRefused, LogIndex, MemberStep, MembershipChange, NodeId, Refused, Role, Route};

fn remove(node: u32) -> MembershipChange {
    MembershipChange::of(&[MemberStep::Remove(NodeId(node))])
}

fn voters(cluster: &Cluster, id: u32) -> Vec<u32> {
    cluster.group(id).membership().voters().iter().map(|node| node.0).collect()
}

#[test]
fn field_09_a_configuration_that_is_cut_off_is_undone_also_after_a_restart() {
    let mut cluster = Cluster::led(3);
    cluster.change(1, &remove(3)).unwrap();
    cluster.complete_writes(1);
    cluster.network.clear();
    cluster.crash(1, 9);
    let next = cluster.elect();
    cluster.propose(next, 1, 1).unwrap();
    cluster.restart(1);
    assert_eq!(voters(&cluster, 1), [1, 2], "recovered with the log that has it");
    cluster.run_for(ms(10_000));
    assert_eq!(voters(&cluster, 1), [1, 2, 3], "and undone with the entry");
    cluster.crash(1, 9);
    cluster.restart(1);
    assert_eq!(voters(&cluster, 1), [1, 2, 3], "on disk as well");
}

#[test]
fn field_12_a_change_during_a_partition_loses_no_update() {
    let mut cluster = Cluster::led(5);
    // The leader and one follower, cut off, shrink the group to themselves: the configuration is in force at once, but the
    // majority that has to commit it is one of the new configuration and not enough alone for a joint one.
    let shrink = MembershipChange::of(&[3, 4, 5].map(|node| MemberStep::Remove(NodeId(node))));
    cluster.config.check_quorum = false;
    cluster.partition(&[&[1, 2], &[3, 4, 5]]);
    let at = cluster.change(1, &shrink).unwrap().first;
    assert!(
        cluster.group(1).membership().is_joint(),
        "more than one voter goes: through a joint configuration"
    );
    cluster.run_for(ms(2_000));
    assert!(cluster.group(1).commit() < at, "two of five are no majority of the outgoing voters");
    cluster.config.check_quorum = true;
    cluster.run_for(ms(20_000));
    let other =
        cluster.ids().into_iter().filter(|&id| id > 2).find(|&id| cluster.group(id).is_leader()).unwrap();
    let kept = cluster.propose(other, 1, 1).unwrap().first;
    let data = cluster.nodes[&other].log[kept.0 as usize - 1].data;
    cluster.run_for(ms(2_000));
    assert!(cluster.group(other).commit() >= kept);
    cluster.connect_all();
    cluster.run_for(ms(30_000));
    for id in 1..=5 {
        assert_eq!(cluster.nodes[&id].log[kept.0 as usize - 1].data, data, "node {id} has the update");
        assert_eq!(voters(&cluster, id), [1, 2, 3, 4, 5]);
    }
}

#[test]
fn field_13_one_change_at_a_time_and_none_before_a_commit_in_the_own_term() {
    let mut cluster = Cluster::led(4);
    let first = cluster.change(1, &remove(4)).unwrap().first;
    assert_eq!(cluster.change(1, &remove(3)), Err(Refused::ChangePending { index: first }));
    cluster.stabilize();
    cluster.change(1, &remove(3)).expect("the first one is committed");
    cluster.stabilize();

    let mut cluster = Cluster::led(3);
    cluster.crash(1, 9);
    for _ in 0..200 {
        if (2..=3).any(|id| cluster.group(id).is_leader()) {
            break;
        }
        (2..=3).for_each(|id| cluster.complete_writes(id));
        if cluster.network.is_empty() {
            let (id, _) = cluster.next_deadline().unwrap();
            cluster.fire_deadline(id);
        }
        cluster.deliver(|_| true);
    }
    let new = (2..=3).find(|&id| cluster.group(id).role() == Role::Leader).unwrap();
    assert_eq!(cluster.change(new, &remove(1)), Err(Refused::NotCommittedInTerm));
    cluster.stabilize();
    assert!(cluster.change(new, &remove(1)).is_ok());
}

#[test]
fn field_17_a_lease_does_not_survive_a_change_of_the_configuration() {
    let mut cluster = Cluster::led(3);
    cluster.pulse_all();
    cluster.read(1).unwrap();
    cluster.stabilize();
    assert!(cluster.lease_read(1).is_ok());
    cluster.change(1, &remove(3)).unwrap();
    assert_eq!(cluster.lease_read(1), Err(LeaseRefused::NoLease), "during the change");
    cluster.stabilize();
    assert_eq!(
        cluster.lease_read(1),
        Err(LeaseRefused::NoLease),
        "evidence from before it does not count after it"
    );
    cluster.pulse_all();
    cluster.read(1).unwrap();
    cluster.stabilize();
    assert!(cluster.lease_read(1).is_ok_and(|index| index > LogIndex(1)));
}

#[test]
fn an_idle_learner_that_is_told_its_ways_again_goes_on_following_its_leader() {
    let mut cluster = Cluster::led(3);
    cluster.change(1, &MembershipChange::of(&[MemberStep::Demote(NodeId(3))])).unwrap();
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(3).membership().learners(), [NodeId(3)]);
    let leader = cluster.leader().unwrap();
    let routes = &cluster.nodes[&3].routes;
    let route = routes.iter().find(|(_, node)| node.0 == leader).map(|(route, _)| Route(*route));
    // As a core does when another configuration is in force. Nothing changed for the leader, so it says nothing.
    cluster.plain(3, |group, env| group.on_route(env, NodeId(leader), route.unwrap()));
    assert!(cluster.network.is_empty());
    assert_eq!(cluster.group(3).leader(), NodeId(leader), "it has no way to ask who leads");
    cluster.run_for(ms(60_000));
    assert_eq!(cluster.group(3).leader(), NodeId(leader));
    // It does wait to hear the leader of a way that is new.
    cluster.cut(3, leader);
    cluster.run_for(ms(60_000));
    assert_ne!(cluster.group(3).leader(), NodeId(leader));
    cluster.connect(3, leader);
    cluster.run_for(ms(1_000));
    assert_eq!(cluster.group(3).leader(), NodeId(leader));
}

#[test]
fn an_idle_learner_that_missed_its_leader_for_a_while_asks_who_leads() {
    let mut cluster = Cluster::led(3);
    cluster.change(1, &MembershipChange::of(&[MemberStep::Demote(NodeId(3))])).unwrap();
    cluster.run_for(ms(5_000));
    let leader = cluster.leader().unwrap();
    // It knows that this is committed, and would not be elected.
    cluster.plain(leader, |group, env| group.flush_commit(env));
    cluster.run_for(ms(1_000));
    // Only the learner misses the others: the leader sees no reason to say anything.
    (1..=2).for_each(|other| cluster.set_contact_one_way(3, other, false));
    cluster.run_for(ms(60_000));
    assert_eq!(cluster.group(3).leader(), NodeId::NONE);
    let term = cluster.group(leader).term();
    (1..=2).for_each(|other| cluster.set_contact_one_way(3, other, true));
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.group(3).leader(), NodeId(leader));
    // Then all are silent again, and nobody was deposed.
    cluster.run_for(ms(60_000));
    assert!(cluster.network.is_empty());
    assert_eq!((cluster.leader(), cluster.group(leader).term()), (Some(leader), term));
}
