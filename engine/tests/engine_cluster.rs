//! Three nodes in one process: what a program that embeds the engine sees.

mod engine_common;

use engine_common::{Cluster, eventually, log_to_stderr};
use logdrive::api::ReadPolicy;
use logdrive_shard::LogIndex;

const LOCAL: ReadPolicy = ReadPolicy::Local { min_index: LogIndex(0) };

#[test]
fn what_is_proposed_at_the_leader_is_read_under_every_policy_on_every_node() {
    log_to_stderr();
    let cluster = Cluster::start(3, 1, 8);
    for group in 1..=8 {
        cluster.set(group, "color", &format!("blue {group}"));
    }
    for group in 1..=8 {
        let expected = Some(format!("blue {group}"));
        assert_eq!(cluster.get(group, "color"), expected);
        let leader = cluster.leader(group);
        assert_eq!(cluster.read(leader, group, "color", ReadPolicy::LeaderLease), Ok(expected.clone()));
        for id in 1..=3 {
            let local = || cluster.read(id, group, "color", LOCAL).ok().filter(|value| *value == expected);
            eventually("the value is applied here too", local);
        }
        assert_eq!(cluster.get(group, "shape"), None);
    }
    cluster.await_equal();
}
