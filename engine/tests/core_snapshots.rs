//! Snapshots on one node: logs stay short, restarts find what there was, whatever a crash left behind.
mod common;

use common::{Cluster, Setup, ms, payload};
use logdrive::api::Error;
use logdrive::core::{Event, Slot};
use logdrive_shard::{LogIndex, MemberStep, MembershipChange, NodeId, SessionOp};

const SLOT: Slot = Slot(0);

/// One node, one group, a snapshot after every 64 entries or so.
fn setup() -> Setup {
    let mut setup = Setup { nodes: 1, groups: 1, preferred: false, ..Setup::default() };
    setup.settings.snapshots.every_entries = 64;
    setup.settings.snapshots.keep_trailing_entries = 10;
    setup.settings.snapshots.files.chunk_bytes = 4096;
    setup.settings.snapshots.files.space_reserve_bytes = 0;
    setup
}

fn write_all(cluster: &mut Cluster, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert!(cluster.write(1, &payload(n)).result.is_ok(), "write {n}");
    }
}

/// Waits until nothing is being written.
fn rest(cluster: &mut Cluster, node: u32) {
    cluster.run_until(ms(10_000), |cluster| !cluster.core(node).snapshot_status(SLOT).is_busy);
}

fn snapshot(cluster: &mut Cluster, node: u32) -> LogIndex {
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot: SLOT });
    cluster.wait(node, token).result.expect("a snapshot is taken")
}

fn numbers(cluster: &mut Cluster, node: u32) -> Vec<Vec<u8>> {
    cluster.core(node).machine().entries[0].iter().map(|entry| entry.1.clone()).collect()
}

#[test]
fn a_log_stays_short_under_endless_writes() {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    let mut longest = 0;
    for n in 0..1_000 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
        let status = cluster.core(1).snapshot_status(SLOT);
        longest = longest.max(cluster.core(1).applied(SLOT).0 - status.log_first.0);
    }
    rest(&mut cluster, 1);
    let counters = cluster.core(1).snapshot_counters();
    assert!(counters.written >= 10 && counters.logs_cut >= 10, "{counters:?}");
    assert!(longest < 200, "the log grew to {longest} entries");
    cluster.run_for(ms(100));
    assert!(cluster.node(1).snapshots.list().len() <= 3, "{:?}", cluster.node(1).snapshots.list());
}

#[test]
fn a_restart_finds_the_same_with_snapshots_and_without_sessions_and_members_included() {
    let run = |every_entries: u64| {
        let mut setup = setup();
        setup.nodes = 3;
        setup.founders = 2;
        setup.settings.snapshots.every_entries = every_entries;
        let mut cluster = Cluster::new(setup);
        cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some());
        let session = cluster.open_session(1);
        let command =
            |sequence, command| SessionOp::Command { session, sequence, answered_below: 1, command };
        let leader = cluster.leader(1);
        let token = cluster.session(leader, 1, command(1, b"first"));
        let first = cluster.wait(leader, token);
        write_all(&mut cluster, 0..100);
        let add = MembershipChange::of(&[MemberStep::AddLearner(NodeId(3))]);
        let token =
            cluster.ask(leader, |port, token| Event::Change { port, token, slot: SLOT, change: &add });
        assert!(cluster.wait(leader, token).result.is_ok());
        write_all(&mut cluster, 100..220);
        cluster.run_for(ms(1_000));
        let before: Vec<_> = [1, 2].map(|node| cluster.core(node).group_status(SLOT)).into();
        for node in [1, 2] {
            cluster.kill(node);
        }
        for node in [1, 2] {
            cluster.start(node);
        }
        cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some());
        // The command is known, and not executed again.
        let leader = cluster.leader(1);
        let token = cluster.session(leader, 1, command(1, b"first"));
        assert_eq!(cluster.wait(leader, token), first);
        cluster.run_for(ms(1_000));
        for (node, before) in [1, 2].into_iter().zip(&before) {
            let after = cluster.core(node).group_status(SLOT);
            assert_eq!(after.raft.membership, before.raft.membership);
            assert_eq!(after.raft.membership_index, before.raft.membership_index);
            assert_eq!(after.sessions, 1);
        }
        let found = numbers(&mut cluster, 1);
        assert_eq!(found, numbers(&mut cluster, 2));
        (found, cluster.core(1).snapshot_counters().written + cluster.core(1).snapshot_status(SLOT).index.0)
    };
    let (with, without) = (run(64), run(0));
    assert!(with.1 > 0 && without.1 == 0, "{} {}", with.1, without.1);
    assert_eq!(with.0, without.0);
}

/// Writes, snapshots and cuts, and ends after so many operations of one of the disks; then all that was acknowledged is there.
fn crash_after(operations: u64, of_snapshots: bool, power: bool) -> bool {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    write_all(&mut cluster, 0..40);
    let node = cluster.node(1);
    if of_snapshots {
        node.snapshots.halt_after(operations)
    } else {
        node.platter.halt_after(operations)
    }
    let mut acknowledged = 40;
    for n in 40..140 {
        let token = cluster.propose(1, 1, &payload(n));
        let end = cluster.now + 100_000_000;
        while cluster.is_up(1) && cluster.answer(1, token).is_none() && cluster.advance(end) {}
        if cluster.answer(1, token).is_none_or(|answer| answer.result.is_err()) {
            break;
        }
        acknowledged = n + 1;
    }
    let node = cluster.node(1);
    let halted = node.snapshots.halted() || node.platter.halted();
    if power {
        cluster.power_loss(1)
    } else {
        cluster.kill(1)
    }
    let node = cluster.node(1);
    node.snapshots.revive();
    node.platter.revive();
    cluster.start(1);
    cluster.elect();
    cluster.run_for(ms(200));
    let found = numbers(&mut cluster, 1);
    let context = format!("{operations} operations, snapshots {of_snapshots}, power {power}");
    assert!(found.len() as u64 >= acknowledged, "{context}: {} of {acknowledged}", found.len());
    assert!((0..).zip(&found).all(|(n, found)| *found == payload(n)), "{context}");
    let next = found.len() as u64;
    write_all(&mut cluster, next..next + 80);
    rest(&mut cluster, 1);
    assert_eq!(numbers(&mut cluster, 1).len() as u64, next + 80, "{context}");
    halted
}

#[test]
fn a_crash_after_any_operation_of_the_snapshots_disk_loses_nothing() {
    for power in [false, true] {
        let mut operations = 0;
        while crash_after(operations, true, power) {
            operations += 1;
        }
        assert!(operations > 10, "{operations} operations were tried");
    }
}

#[test]
fn a_crash_after_any_operation_of_the_log_around_a_snapshot_loses_nothing() {
    for power in [false, true] {
        // Enough for the snapshot and the cut, which come after about 64 entries.
        for operations in (0..110).step_by(3) {
            crash_after(operations, false, power);
        }
    }
}

/// So much that the segments of what was cut off are given up.
fn write_much(cluster: &mut Cluster) {
    for n in 0..300 {
        let bytes = [&payload(n)[..], &[0; 20_000]].concat();
        assert!(cluster.write(1, &bytes).result.is_ok(), "write {n}");
    }
    rest(cluster, 1);
    cluster.run_for(ms(2_000));
}

#[test]
fn field_14_a_gap_between_snapshot_and_log_after_a_restart_is_noticed() {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    write_much(&mut cluster);
    let files = cluster.node(1).snapshots.list();
    cluster.kill(1);
    // The newest file is gone; the log begins behind the older one.
    let newest = files.iter().map(|file| file.0.clone()).filter(|name| name.ends_with(".snapshot")).max();
    let newest = newest.unwrap_or_else(|| panic!("{files:?}"));
    let kept = cluster.node(1).snapshots.read_file(&newest);
    assert!(kept.is_some() && cluster.node(1).snapshots.remove(&newest));
    cluster.start(1);
    cluster.run_for(ms(5_000));
    let token = cluster.propose(1, 1, b"no");
    assert_eq!(cluster.wait(1, token).result, Err(Error::GroupCorrupt));
    assert!(!cluster.core(1).is_leader(SLOT));
    assert!(cluster.core(1).group_status(SLOT).raft.lost.is_any());
}

#[test]
fn field_30_a_state_older_than_the_start_of_the_log_is_noticed_and_the_only_copy_is_left_as_it_is() {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    write_much(&mut cluster);
    cluster.kill(1);
    let backup = cluster.node(1).snapshots.copy(9);
    for (name, _) in backup.list() {
        cluster.node(1).snapshots.remove(&name);
    }
    cluster.start(1);
    cluster.run_for(ms(5_000));
    let token = cluster.propose(1, 1, b"no");
    assert_eq!(cluster.wait(1, token).result, Err(Error::GroupCorrupt));
    cluster.kill(1);
    // The operator gives the directory back what it had.
    cluster.node(1).snapshots = backup;
    cluster.start(1);
    cluster.elect();
    cluster.run_for(ms(200));
    assert_eq!(numbers(&mut cluster, 1).len(), 300);
    write_all(&mut cluster, 300..310);
}

#[test]
fn a_damaged_newest_file_is_not_loaded_and_the_older_one_serves_if_the_log_reaches_back_to_it() {
    let mut setup = setup();
    setup.settings.snapshots.every_entries = 0;
    setup.settings.snapshots.keep_trailing_entries = 1_000;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    write_all(&mut cluster, 0..50);
    let older = snapshot(&mut cluster, 1);
    write_all(&mut cluster, 50..100);
    let newer = snapshot(&mut cluster, 1);
    assert!(newer > older && older > LogIndex(40));
    write_all(&mut cluster, 100..120);
    cluster.kill(1);
    let files = cluster.node(1).snapshots.list();
    let newest = files.iter().map(|file| file.0.clone()).filter(|name| name.ends_with(".snapshot")).max();
    let newest = newest.expect("there are two");
    assert!(cluster.node(1).snapshots.flip(&newest, 4096 + 200, 0x10));
    cluster.start(1);
    assert_eq!(cluster.core(1).snapshot_status(SLOT).index, older);
    cluster.elect();
    cluster.run_for(ms(200));
    assert_eq!(numbers(&mut cluster, 1).len(), 120);
}

#[test]
fn a_full_disk_of_the_snapshots_stops_no_writes_and_is_tried_again() {
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    cluster.node(1).snapshots.set_capacity(0);
    write_all(&mut cluster, 0..200);
    let counters = cluster.core(1).snapshot_counters();
    assert!(counters.failed > 0 && counters.written == 0, "{counters:?}");
    let status = cluster.core(1).snapshot_status(SLOT);
    assert!(status.failure.is_some());
    cluster.node(1).snapshots.set_capacity(1 << 30);
    cluster.run_until(ms(120_000), |cluster| cluster.core(1).snapshot_counters().written > 0);
    write_all(&mut cluster, 200..210);
    assert_eq!(cluster.core(1).snapshot_status(SLOT).failure, None);
}

#[test]
fn a_groups_log_at_its_bound_takes_no_proposals_until_a_snapshot_is_durable() {
    let mut setup = setup();
    setup.settings.snapshots.every_entries = 0;
    setup.settings.snapshots.group_log_bytes_max = 256 << 10;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.node(1).snapshots.set_capacity(0);
    let mut busy = None;
    for _ in 0..100 {
        let answer = cluster.write(1, &[7; 10_000]);
        if answer.result.is_err() {
            busy = Some(answer.result);
            break;
        }
    }
    let Some(Err(Error::Busy { why, .. })) = busy else { panic!("{busy:?}") };
    assert_eq!(why, logdrive::api::Busy::GroupLog);
    assert_eq!(cluster.core(1).snapshot_counters().logs_full, 1);
    cluster.node(1).snapshots.set_capacity(1 << 30);
    cluster.run_until(ms(120_000), |cluster| cluster.core(1).snapshot_counters().written > 0);
    assert!(cluster.write(1, b"again").result.is_ok());
}

#[test]
fn a_cold_group_that_holds_old_segments_takes_a_snapshot_and_gives_its_log_up() {
    let mut setup = setup();
    setup.groups = 2;
    setup.settings.wal.budget_bytes = 8 << 20;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    write_all(&mut cluster, 0..20);
    for _ in 0..600 {
        // Without room for a moment it is told so.
        if cluster.write(2, &[7; 20_000]).result.is_err() {
            cluster.run_for(ms(100));
        }
    }
    cluster.run_for(ms(2_000));
    let status = cluster.core(1).snapshot_status(SLOT);
    assert!(status.index >= LogIndex(20), "{status:?}");
    assert_eq!(status.log_first, status.index.next(), "nothing is kept for slow followers");
    assert!(cluster.core(1).counters().log_pressure > 0);
    cluster.kill(1);
    cluster.start(1);
    cluster.elect();
    cluster.run_for(ms(200));
    assert_eq!(numbers(&mut cluster, 1).len(), 20);
}

#[test]
fn many_groups_below_their_thresholds_do_not_fill_the_log() {
    let mut setup = setup();
    setup.groups = 16;
    setup.settings.snapshots.every_entries = 1_000;
    setup.settings.wal.budget_bytes = 8 << 20;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    for n in 0..1_200 {
        let written = (0..100).any(|_| {
            let written = cluster.write(n % 16 + 1, &[7; 20_000]).result.is_ok();
            if !written {
                cluster.run_for(ms(100));
            }
            written
        });
        assert!(written, "write {n}: {:?}", cluster.core(1).wal().space());
    }
}

#[test]
fn a_group_that_left_this_node_leaves_no_snapshots_behind() {
    let mut setup = setup();
    setup.nodes = 3;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    write_all(&mut cluster, 0..100);
    let leader = cluster.leader(1);
    let gone = leader % 3 + 1;
    snapshot(&mut cluster, gone);
    let remove = MembershipChange::of(&[MemberStep::Remove(NodeId(gone))]);
    let token = cluster.ask(leader, |port, token| Event::Change { port, token, slot: SLOT, change: &remove });
    assert!(cluster.wait(leader, token).result.is_ok());
    cluster.run_until(ms(60_000), |cluster| cluster.core(gone).applied(SLOT) == LogIndex(0));
    cluster.run_for(ms(200));
    let files = cluster.node(gone).snapshots.list();
    assert!(files.iter().all(|file| !file.0.ends_with(".snapshot")), "{files:?}");
    cluster.kill(gone);
    cluster.start(gone);
    assert_eq!(cluster.core(gone).snapshot_status(SLOT).index, LogIndex(0));
    write_all(&mut cluster, 100..110);
}

#[test]
fn what_stays_in_the_log_for_slow_followers_is_bounded_in_entries_and_in_bytes() {
    let stays = |entry: usize| {
        let mut setup = setup();
        setup.settings.snapshots.every_entries = 0;
        setup.settings.snapshots.keep_trailing_entries = 50;
        setup.settings.snapshots.keep_trailing_bytes = 100_000;
        let mut cluster = Cluster::new(setup);
        cluster.elect();
        for _ in 0..200 {
            assert!(cluster.write(1, &vec![7; entry]).result.is_ok());
        }
        snapshot(&mut cluster, 1);
        cluster.run_for(ms(50));
        let status = cluster.core(1).snapshot_status(SLOT);
        status.index.0 + 1 - status.log_first.0
    };
    assert_eq!(stays(100), 50, "small ones are counted");
    let large = stays(10_000);
    assert!((8..=10).contains(&large), "{large} of 10 kB");
}

#[test]
fn groups_that_grow_alike_take_their_snapshots_one_after_the_other_and_a_few_at_a_time() {
    let mut setup = setup();
    setup.groups = 48;
    setup.settings.snapshots.at_once = 2;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let (mut most, mut begun) = (0, Vec::new());
    for n in 0..140 {
        for group in 1..=48 {
            let token = cluster.propose(1, group, &payload(n));
            while cluster.answer(1, token).is_none() {
                let end = cluster.now + 1_000_000_000;
                assert!(cluster.advance(end));
                let is_busy = |n: &u64| cluster.core(1).snapshot_status(Cluster::slot(*n)).is_busy;
                most = most.max((1..=48).filter(is_busy).count());
            }
        }
        begun.push(cluster.core(1).snapshot_counters().begun);
    }
    assert!(most <= 2, "{most} at the same time");
    assert!(*begun.last().expect("many") >= 48);
    let largest = begun.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(largest <= Some(16), "{largest:?} of 48 in one round of writes: {begun:?}");
}

#[test]
fn a_start_loads_a_few_snapshots_at_a_time_and_tells_how_far_it_is() {
    let mut setup = setup();
    setup.groups = 12;
    setup.settings.snapshots.every_entries = 0;
    setup.settings.snapshots.loads_at_once = 3;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    for group in 1..=12 {
        for n in 0..30 {
            assert!(cluster.write(group, &[n; 2_000]).result.is_ok());
        }
        let slot = Cluster::slot(group);
        let token = cluster.ask(1, |port, token| Event::Snapshot { port, token, slot });
        assert!(cluster.wait(1, token).result.is_ok());
    }
    cluster.kill(1);
    cluster.start(1);
    let (now, most) = cluster.core(1).machine().loads;
    assert_eq!((now, most), (0, 3));
    // First of the snapshots, then of the log: each comes to its end, and never goes back.
    let told = cluster.node(1).told.clone();
    let total = told[0].1;
    let of_snapshots: Vec<_> = told.iter().take_while(|told| told.1 == total).map(|told| told.0).collect();
    assert!(total >= 12 * 60_000 && of_snapshots.len() >= 4, "{told:?}");
    assert!(of_snapshots.is_sorted() && of_snapshots.last() >= Some(&(12 * 60_000)), "{told:?}");
    cluster.elect();
    for group in 1..=12 {
        assert_eq!(cluster.core(1).machine().entries[group - 1].len(), 30);
    }
}

#[test]
fn so_many_bytes_make_a_group_take_a_snapshot_as_well() {
    let mut setup = setup();
    setup.settings.snapshots.every_entries = 0;
    setup.settings.snapshots.every_bytes = 400 << 10;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let write = |cluster: &mut Cluster, count| {
        (0..count).for_each(|_| assert!(cluster.write(1, &[7; 10_000]).result.is_ok()));
        cluster.run_for(ms(100));
        cluster.core(1).snapshot_counters().written
    };
    // The first one comes after a quarter of that at least.
    assert_eq!(write(&mut cluster, 8), 0);
    assert_eq!(write(&mut cluster, 42), 1);
}

#[test]
fn a_state_that_its_snapshot_does_not_stand_for_any_more_gets_another_one_at_once() {
    let mut setup = Setup { groups: 1, ..Setup::default() };
    let snapshots = &mut setup.settings.snapshots;
    (snapshots.every_entries, snapshots.every_bytes, snapshots.keep_trailing_entries) = (0, 0, 0);
    snapshots.files.space_reserve_bytes = 0;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    for n in 0..20 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    cluster.settle();
    let slot = Cluster::slot(1);
    let token = cluster.ask(2, |port, token| Event::Snapshot { port, token, slot });
    let index = cluster.wait(2, token).result.expect("it is taken");
    cluster.run_for(ms(50));
    let status = cluster.core(2).snapshot_status(slot);
    assert_eq!(status.log_first, index.next(), "the log is cut: {status:?}");
    // The file is damaged. What was cut off has not been recycled yet.
    cluster.kill(2);
    let files = cluster.node(2).snapshots.list();
    let (name, _) = files.into_iter().find(|(name, _)| name.ends_with(".snapshot")).expect("it is there");
    assert!(cluster.node(2).snapshots.flip(&name, 4096 + 20, 1));
    cluster.start_alone(2);
    assert_eq!(cluster.core(2).applied(slot), index);
    cluster.run_until(ms(5_000), |cluster| cluster.core(2).snapshot_status(slot).index == index);
}
