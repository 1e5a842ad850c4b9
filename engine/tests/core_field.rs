//! Bugs that others have shipped, at the level of a core: what is said and applied before it is durable. `tests/mutants.sh` compiles
//! them in, one at a time.
mod common;

use common::{Cluster, MS, Setup, ms};
use logdrive_shard::Role;

/// A write takes so long to be durable: two hundred times the way to another node.
const SLOW: u64 = 40 * MS;

fn slow_disks(nodes: u32) -> Cluster {
    let mut setup =
        Setup { nodes, groups: 1, preferred: false, disk_latency: SLOW..SLOW + 1, ..Setup::default() };
    setup.settings.balance_leaders = false;
    Cluster::new(setup)
}

#[test]
fn field_1_a_single_voter_acknowledges_when_its_own_log_is_durable() {
    let mut cluster = slow_disks(1);
    cluster.elect();
    for n in 0..5_u64 {
        cluster.settle();
        let asked = cluster.now;
        assert!(cluster.write(1, &n.to_le_bytes()).result.is_ok());
        let took = cluster.now - asked;
        assert!(took >= SLOW, "answered after {took} ns, a write takes {SLOW} ns");
    }
}

#[test]
fn field_2_an_append_reply_leaves_when_its_bytes_are_durable() {
    let mut cluster = slow_disks(3);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    let slot = Cluster::slot(1);
    let before = cluster.core(leader).group_status(slot).raft.commit;
    let asked = cluster.now;
    cluster.propose(leader, 1, b"slow");
    cluster.run_until(ms(1_000), |cluster| cluster.core(leader).group_status(slot).raft.commit > before);
    let took = cluster.now - asked;
    assert!(took >= SLOW, "committed after {took} ns, but no copy is durable before {SLOW} ns");
}

#[test]
fn field_2_a_vote_counts_when_it_is_durable() {
    let mut cluster = slow_disks(3);
    let slot = Cluster::slot(1);
    let role = |cluster: &mut Cluster, node: u32| {
        let raft = cluster.core(node).group_status(slot).raft;
        (raft.role, raft.term)
    };
    let mut began = std::collections::BTreeMap::new();
    let (mut led, mut at) = (None, 0);
    cluster.run_until(ms(20_000), |cluster| {
        at = cluster.now;
        for node in 1..=3 {
            match role(cluster, node) {
                (Role::Candidate, term) => {
                    began.entry((node, term)).or_insert(at);
                }
                (Role::Leader, term) => led = Some((node, term)),
                _ => {}
            }
        }
        led.is_some()
    });
    // Its own vote is written before it asks, the vote of another before that one answers.
    let took = at - began[&led.expect("somebody leads")];
    assert!(took >= 2 * SLOW, "elected {took} ns after the campaign began: two writes take {} ns", 2 * SLOW);
}
