//! Entries that a disk lost while the node ran, and that no log has any more: a snapshot stands for them.
mod common;

use common::{Cluster, Setup, ms, payload};
use logdrive::core::{Event, Slot};
use logdrive_shard::LogIndex;
use logdrive_wal::FaultKind;

const SLOT: Slot = Slot(0);

fn setup() -> Setup {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    let settings = &mut setup.settings;
    settings.snapshots.keep_trailing_entries = 20;
    settings.snapshots.files.chunk_bytes = 4096;
    settings.snapshots.files.space_reserve_bytes = 0;
    settings.wal.scrub_bytes_per_s = 64 << 20;
    settings.wal.scrub_interval_s = 2;
    settings.wal.segment_bytes = 64 << 10;
    settings.wal.payload_bytes_max = 16 << 10;
    settings.wal.batch_bytes_max = 16 << 10;
    settings.payload_bytes_max = 16 << 10;
    // As little as may be stays in memory.
    settings.cache_bytes_max = 1 << 10;
    setup
}

fn large(n: u64) -> Vec<u8> {
    [&payload(n)[..], &[n as u8; 10_000]].concat()
}

fn snapshot(cluster: &mut Cluster, node: u32) -> LogIndex {
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot: SLOT });
    cluster.wait(node, token).result.expect("a snapshot is taken")
}

/// Damages a node's log, a block in three.
fn damage(cluster: &mut Cluster, node: u32) {
    let platter = &cluster.node(node).platter;
    for (name, _) in platter.list().into_iter().filter(|(name, _)| name.ends_with(".seg")) {
        let bytes = platter.read_file(&name).expect("it was listed");
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1);
        for offset in (4096 * 2..end / 4096 * 4096).step_by(4096 * 3) {
            assert!(platter.damage(&name, offset, FaultKind::Garbage { sector: 0, seed: 5 }));
        }
    }
}

/// One member has acknowledged entries that it does not know to be committed, and is cut off; the others give their logs up, and then
/// its disk loses such entries. The leader and that member.
fn one_has_what_it_cannot_read(cluster: &mut Cluster) -> (u32, u32) {
    cluster.elect();
    for n in 0..10 {
        assert!(cluster.write(1, &large(n)).result.is_ok());
    }
    cluster.settle();
    let leader = cluster.leader(1);
    let away = leader % 3 + 1;
    let third = (1..=3).find(|node| ![leader, away].contains(node)).expect("there are three");
    // The answers are slow, and the word of the commit does not arrive.
    cluster.hold(away, leader);
    cluster.hold(third, leader);
    let last = (10..110).map(|n| cluster.propose(leader, 1, &large(n))).last().expect("a hundred");
    cluster.run_until(ms(100), |cluster| cluster.core(away).group_status(SLOT).raft.durable.0 == 111);
    cluster.hold(leader, away);
    cluster.unhold(away, leader);
    cluster.unhold(third, leader);
    assert!(cluster.wait(leader, last).result.is_ok());
    cluster.run_for(ms(5));
    cluster.partition(&[&[leader, third], &[away]]);
    cluster.unhold(leader, away);
    assert_eq!(cluster.leader(1), leader);
    for node in [leader, third] {
        cluster.run_until(ms(5_000), |cluster| cluster.core(node).applied(SLOT).0 >= 110);
        snapshot(cluster, node);
    }
    let status = cluster.core(away).group_status(SLOT).raft;
    let begins = cluster.core(leader).snapshot_status(SLOT).log_first;
    assert!(status.last >= begins, "its log ends at {}, the leader's begins at {begins}", status.last);
    assert!(cluster.core(away).applied(SLOT).0 < 60);
    damage(cluster, away);
    (leader, away)
}

#[test]
fn what_was_not_applied_and_no_log_has_any_more_comes_with_a_snapshot_of_the_leader() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_has_what_it_cannot_read(&mut cluster);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| cluster.core(away).wal().damaged_entries() > 0);
    cluster.run_until(ms(60_000), |cluster| cluster.core(away).status().damaged == 0);
    assert_eq!(cluster.core(away).snapshot_counters().installed, 1);
    assert!(cluster.write(1, b"after").result.is_ok());
    cluster.settle();
    let counters = cluster.core(leader).transfer_counters();
    assert_eq!((counters.begun, counters.ended, counters.failed), (1, 1, 0), "{counters:?}");
    assert_eq!(cluster.core(leader).transfer_status(SLOT), []);
    // It holds, and it is a full member: it can lead.
    cluster.kill(away);
    cluster.start(away);
    assert_eq!(cluster.core(away).status().damaged, 0);
    cluster.settle();
    cluster.run_for(ms(2_000));
    let leader = cluster.leader(1);
    let token = cluster.transfer(leader, 1, away);
    assert_eq!(cluster.wait(leader, token).result.err(), None);
    assert!(cluster.write(1, b"led by it").result.is_ok());
    cluster.settle();
}

#[test]
fn a_leader_that_changes_while_it_sends_for_a_damaged_log_is_followed_by_one_that_sends() {
    let mut setup = setup();
    setup.settings.snapshots.transfer_window_bytes = 8 << 10;
    setup.settings.snapshots.transfer_bytes_per_turn = 4 << 10;
    let mut cluster = Cluster::new(setup);
    let (leader, away) = one_has_what_it_cannot_read(&mut cluster);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| cluster.core(leader).transfer_counters().bytes_sent > 16 << 10);
    let third = (1..=3).find(|node| ![leader, away].contains(node)).expect("there are three");
    let token = cluster.transfer(leader, 1, third);
    assert!(cluster.wait(leader, token).result.is_ok());
    cluster.run_until(ms(60_000), |cluster| cluster.core(away).status().damaged == 0);
    assert!(cluster.write(1, b"after").result.is_ok());
    cluster.settle();
}

#[test]
fn what_was_applied_and_no_log_has_any_more_goes_with_a_snapshot_of_the_members_own() {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    for n in 0..110 {
        assert!(cluster.write(1, &large(n)).result.is_ok());
    }
    cluster.settle();
    let leader = cluster.leader(1);
    let victim = leader % 3 + 1;
    for node in (1..=3).filter(|&node| node != victim) {
        snapshot(&mut cluster, node);
    }
    damage(&mut cluster, victim);
    cluster.run_until(ms(20_000), |cluster| cluster.core(victim).wal().damaged_entries() > 0);
    cluster.run_until(ms(20_000), |cluster| cluster.core(victim).status().damaged == 0);
    let counters = cluster.core(victim).snapshot_counters();
    assert_eq!((counters.written, counters.installed), (1, 0));
    assert!(cluster.write(1, b"after").result.is_ok());
    cluster.settle();
    cluster.kill(victim);
    cluster.start(victim);
    assert_eq!(cluster.core(victim).status().damaged, 0);
    cluster.settle();
}
