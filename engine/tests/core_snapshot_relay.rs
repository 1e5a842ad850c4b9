//! A follower sends snapshots in the place of a leader that sends as many as it may.
mod common;

use common::{Cluster, Setup, ms, payload};
use logdrive::core::{Event, Slot, TransferStep};
use logdrive_shard::LogIndex;

const GROUPS: u64 = 4;
/// The leader of all groups, the follower that has what it has, and who needs it.
const LEADER: u32 = 1;
const HELPER: u32 = 2;
const AWAY: u32 = 3;

fn setup() -> Setup {
    let mut setup = Setup { groups: GROUPS, preferred: false, ..Setup::default() };
    setup.settings.balance_leaders = false;
    let snapshots = &mut setup.settings.snapshots;
    snapshots.keep_trailing_entries = 5;
    snapshots.transfers_max = 1;
    snapshots.transfer_bytes_per_s = 200_000;
    snapshots.transfer_window_bytes = 32 << 10;
    snapshots.transfer_bytes_per_turn = 16 << 10;
    snapshots.files.chunk_bytes = 4096;
    snapshots.files.space_reserve_bytes = 0;
    setup
}

fn snapshot(cluster: &mut Cluster, node: u32, slot: Slot) -> LogIndex {
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot });
    cluster.wait(node, token).result.expect("a snapshot is taken")
}

/// One node leads all groups and sends one snapshot at a time; another one has the same; the third needs them all.
fn all_groups_are_behind() -> Cluster {
    let mut cluster = away();
    cluster.heal();
    cluster
}

/// The same before the third is connected again.
fn away() -> Cluster {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    for group in 1..=GROUPS {
        let leader = cluster.leader(group);
        if leader != LEADER {
            let token = cluster.transfer(leader, group, LEADER);
            assert!(cluster.wait(leader, token).result.is_ok());
        }
    }
    cluster.settle();
    cluster.partition(&[&[LEADER, HELPER], &[AWAY]]);
    for group in 1..=GROUPS {
        assert_eq!(cluster.leader(group), LEADER);
        for n in 0..150 {
            assert!(cluster.write(group, &[&payload(n)[..], &[n as u8; 1000]].concat()).result.is_ok());
        }
        cluster.run_for(ms(50));
        for node in [LEADER, HELPER] {
            snapshot(&mut cluster, node, Cluster::slot(group));
        }
    }
    cluster
}

fn brought_up(cluster: &mut Cluster) -> u64 {
    cluster.core(AWAY).snapshot_counters().installed
}

fn relayed(cluster: &mut Cluster) -> Vec<u64> {
    let is_relayed = |group: &u64| {
        let status = cluster.core(LEADER).transfer_status(Cluster::slot(*group));
        status.iter().any(|status| status.step == TransferStep::Relayed)
    };
    (1..=GROUPS).filter(is_relayed).collect()
}

#[test]
fn a_follower_sends_when_its_leader_sends_as_many_as_it_may() {
    let mut cluster = all_groups_are_behind();
    cluster.run_until(ms(20_000), |cluster| cluster.core(HELPER).transfer_counters().bytes_sent > 0);
    let by_helper = relayed(&mut cluster);
    assert!(!by_helper.is_empty());
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster) == GROUPS);
    cluster.settle();
    let [leader, helper] = [LEADER, HELPER].map(|node| cluster.core(node).transfer_counters());
    assert!(leader.relayed >= 1 && helper.begun >= 1, "{leader:?} {helper:?}");
    assert_eq!(leader.begun + helper.begun, GROUPS, "nothing is sent twice: {leader:?} {helper:?}");
    cluster.run_for(ms(5_000));
    for node in 1..=3 {
        for group in 1..=GROUPS {
            assert_eq!(cluster.core(node).transfer_status(Cluster::slot(group)), []);
        }
    }
}

#[test]
fn what_a_follower_does_not_bring_to_an_end_its_leader_sends() {
    let mut cluster = all_groups_are_behind();
    cluster.run_until(ms(20_000), |cluster| cluster.core(HELPER).transfer_counters().bytes_sent > 50_000);
    cluster.kill(HELPER);
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster) == GROUPS);
    cluster.settle();
}

#[test]
fn a_follower_without_a_snapshot_that_helps_says_so() {
    let mut cluster = all_groups_are_behind();
    // What it has is too old for what is needed now.
    cluster.partition(&[&[LEADER, HELPER], &[AWAY]]);
    for group in 1..=GROUPS {
        for n in 150..200 {
            assert!(cluster.write(group, &payload(n)).result.is_ok());
        }
        snapshot(&mut cluster, LEADER, Cluster::slot(group));
    }
    let before = cluster.core(HELPER).transfer_counters().begun;
    cluster.heal();
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster) == GROUPS);
    cluster.settle();
    let [leader, helper] = [LEADER, HELPER].map(|node| cluster.core(node).transfer_counters());
    assert!(leader.relayed >= 1 && helper.begun == before, "{leader:?} {helper:?}");
}

#[test]
fn a_follower_that_could_not_send_at_first_is_asked_again() {
    let mut cluster = away();
    cluster.connect(LEADER, AWAY);
    cluster.run_until(ms(20_000), |cluster| {
        cluster.core(LEADER).transfer_counters().relayed > 0 && relayed(cluster).is_empty()
    });
    assert_eq!(cluster.core(HELPER).transfer_counters().begun, 0, "it has no way to the third");
    cluster.connect(HELPER, AWAY);
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster) == GROUPS);
    cluster.settle();
    let helper = cluster.core(HELPER).transfer_counters();
    assert!(helper.begun >= 1, "{helper:?}");
}

#[test]
fn a_new_leader_ends_what_was_sent_on_behalf_of_the_old_one() {
    let mut cluster = all_groups_are_behind();
    cluster.run_until(ms(20_000), |cluster| cluster.core(HELPER).transfer_counters().bytes_sent > 50_000);
    for group in relayed(&mut cluster) {
        let token = cluster.transfer(LEADER, group, HELPER);
        assert!(cluster.wait(LEADER, token).result.is_ok());
    }
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster) >= GROUPS);
    cluster.settle();
}
