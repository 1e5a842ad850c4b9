//! Disks that stand still for a while: a leader keeps its groups through a short stall and sheds them in a long one, also while there
//! is nothing to write, and nothing acknowledged is lost.
mod common;

use common::{Cluster, MS, Setup, ms, payload};
use logdrive_wal::{Fault, FaultKind, OpKind};

const GROUPS: u64 = 8;

fn cluster(seed: u64) -> Cluster {
    let mut setup = Setup { groups: GROUPS, seed, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    setup.settings.disk_stall = ms(500);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    cluster
}

/// From now on, until it is over, every operation of the node's disk takes so much longer.
fn stall(cluster: &mut Cluster, node: u32, stall: u64) {
    for on in [OpKind::Write, OpKind::Sync, OpKind::Read] {
        let fault = Fault { times: u32::MAX, ..Fault::next(on, FaultKind::Delay(stall)) };
        cluster.node(node).platter.inject(fault);
    }
}

#[test]
fn field_19_a_leader_whose_disk_stands_still_sheds_leadership_also_when_nobody_writes() {
    let mut cluster = cluster(3);
    let leader = cluster.leader(1);
    let led: Vec<u64> = (1..=GROUPS).filter(|&group| cluster.leader(group) == leader).collect();
    stall(&mut cluster, leader, 100_000 * MS);
    // Nothing is proposed: it is the mark of each second that does not come back.
    cluster.run_for(ms(1_000 + 500 + 2_000));
    for &group in &led {
        assert!(!cluster.core(leader).is_leader(Cluster::slot(group)), "group {group}");
        let next = cluster.find_leader(group);
        assert!(next.is_some_and(|next| next != leader), "group {group} is led by {next:?}");
    }
    for group in 1..=GROUPS {
        let next = cluster.leader(group);
        let token = cluster.propose(next, group, b"goes on");
        assert!(cluster.wait(next, token).result.is_ok());
    }
}

#[test]
fn stalls_from_a_millisecond_to_half_a_minute_cost_no_acknowledged_write_and_only_long_ones_the_leadership() {
    for (seed, length) in (10..).zip([1, 10, 100, 1_000, 10_000, 30_000]) {
        let mut cluster = cluster(seed);
        let mut acknowledged: Vec<(u64, Vec<u8>)> = Vec::new();
        for n in 0..32 {
            assert!(cluster.write(n % GROUPS + 1, &payload(n)).result.is_ok());
            acknowledged.push((n % GROUPS + 1, payload(n)));
        }
        cluster.settle();
        let leader = cluster.leader(1);
        stall(&mut cluster, leader, length * MS);
        let began = cluster.now;
        let mut kept = true;
        for n in 32..96 {
            let group = n % GROUPS + 1;
            if let Some(leader) = cluster.find_leader(group) {
                let token = cluster.propose(leader, group, &payload(n));
                cluster.run_for(ms(length / 32 + 1));
                if cluster.answer(leader, token).is_some_and(|answer| answer.result.is_ok()) {
                    acknowledged.push((group, payload(n)));
                }
            }
            kept &= cluster.core(leader).is_leader(Cluster::slot(1));
        }
        assert_eq!(kept, length < 500, "{length} ms, after {} ms", (cluster.now - began) / MS);
        cluster.node(leader).platter.clear_faults();
        cluster.run_for(ms(length + 5_000));
        cluster.settle();
        for node in 1..=3 {
            for (group, write) in &acknowledged {
                let applied = &cluster.core(node).machine().entries[*group as usize - 1];
                assert!(applied.iter().any(|(_, payload)| payload == write), "{length} ms, node {node}");
            }
        }
        assert!(cluster.write(1, b"and on").result.is_ok());
    }
}
