//! Snapshots between nodes: a member that the leader's log does not reach any more is brought up while the others serve, whatever
//! happens on the way.
mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{Cluster, Setup, ms, payload};
use logdrive::core::{Event, Slot, TransferStep};
use logdrive::wire::{FrameView, HEADER_LEN, VERSION_MAX};
use logdrive_shard::{LogIndex, MemberStep, MembershipChange, Moment, NodeId};

const SLOT: Slot = Slot(0);

/// Three nodes, small chunks, a small window, snapshots on order.
fn setup() -> Setup {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    let snapshots = &mut setup.settings.snapshots;
    snapshots.every_entries = 0;
    snapshots.keep_trailing_entries = 5;
    snapshots.transfer_window_bytes = 32 << 10;
    snapshots.transfer_bytes_per_turn = 16 << 10;
    // Slow enough for others to be seen meanwhile.
    snapshots.slice_interval = Duration::from_micros(500);
    snapshots.files.chunk_bytes = 4096;
    snapshots.files.space_reserve_bytes = 0;
    setup
}

fn large(n: u64) -> Vec<u8> {
    [&payload(n)[..], &[n as u8; 1000]].concat()
}

fn write_all(cluster: &mut Cluster, group: u64, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert!(cluster.write(group, &large(n)).result.is_ok(), "write {n}");
    }
}

/// Orders a snapshot at a node and waits until the log is cut behind it.
fn snapshot(cluster: &mut Cluster, node: u32, group: u64) -> LogIndex {
    let slot = Cluster::slot(group);
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot });
    cluster.wait(node, token).result.expect("a snapshot is taken")
}

/// One member is cut off; what is written meanwhile is in the others' snapshots and not in their logs. The leader and the member.
fn one_is_away(cluster: &mut Cluster, writes: u64) -> (u32, u32) {
    cluster.elect();
    write_all(cluster, 1, 0..20);
    cluster.settle();
    let leader = cluster.leader(1);
    let away = leader % 3 + 1;
    let others: Vec<u32> = (1..=3).filter(|&node| node != away).collect();
    cluster.partition(&[&others, &[away]]);
    write_all(cluster, 1, 20..writes);
    assert_eq!(cluster.leader(1), leader);
    for node in others {
        cluster.run_until(ms(10_000), |cluster| cluster.core(node).applied(SLOT).0 > writes);
        snapshot(cluster, node, 1);
    }
    let reaches = cluster.core(leader).snapshot_status(SLOT).log_first;
    assert!(reaches > cluster.core(away).group_status(SLOT).raft.last.next(), "the log begins at {reaches}");
    (leader, away)
}

fn is_bulk(frame: &[u8]) -> bool {
    let view = FrameView::parse(frame, VERSION_MAX).expect("our own frame");
    view.snapshot_parts().next().is_some()
}

/// Gives a frame that was tampered with a right checksum.
fn reseal(frame: &mut [u8]) {
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn brought_up(cluster: &mut Cluster, node: u32) -> u64 {
    cluster.core(node).snapshot_counters().installed
}

/// Runs until so many bytes of a snapshot have left a node.
fn run_until_sent(cluster: &mut Cluster, from: u32, bytes: u64) {
    cluster.run_until(ms(20_000), |cluster| cluster.core(from).transfer_counters().bytes_sent >= bytes);
}

#[test]
fn a_member_away_for_longer_than_the_log_reaches_is_brought_up_while_the_others_serve() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 300);
    cluster.heal();
    let mut written = 300;
    let mut steps = Vec::new();
    while brought_up(&mut cluster, away) == 0 {
        write_all(&mut cluster, 1, written..written + 1);
        written += 1;
        assert!(written < 2_000, "it is not brought up");
        for status in cluster.core(leader).transfer_status(SLOT) {
            assert!(status.outgoing && status.peer == NodeId(away) && status.bytes <= status.bytes_total);
            steps.push(status.step);
        }
    }
    steps.dedup();
    assert!(steps.contains(&TransferStep::Moving), "{steps:?}");
    assert!(written > 305, "writes went on");
    cluster.settle();
    let counters = cluster.core(leader).transfer_counters();
    assert_eq!(
        (counters.begun, counters.ended, counters.failed, counters.resumed),
        (1, 1, 0, 0),
        "{counters:?}"
    );
    assert_eq!(counters.bytes_sent, cluster.core(away).transfer_counters().bytes_taken);
    assert_eq!(cluster.core(leader).transfer_status(SLOT), []);
    assert_eq!(cluster.core(away).transfer_status(SLOT), []);
}

#[test]
fn a_new_and_empty_learner_is_brought_up_by_a_snapshot() {
    let mut setup = setup();
    (setup.nodes, setup.founders) = (4, 3);
    // Large chunks, which go in parts.
    setup.settings.snapshots.files.chunk_bytes = 256 << 10;
    setup.settings.snapshots.transfer_window_bytes = 128 << 10;
    let mut cluster = Cluster::new(setup);
    cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some());
    write_all(&mut cluster, 1, 0..400);
    let leader = cluster.leader(1);
    snapshot(&mut cluster, leader, 1);
    assert!(cluster.core(leader).snapshot_status(SLOT).log_first > LogIndex(300));
    let add = MembershipChange::of(&[MemberStep::AddLearner(NodeId(4))]);
    let token = cluster.ask(leader, |port, token| Event::Change { port, token, slot: SLOT, change: &add });
    assert!(cluster.wait(leader, token).result.is_ok());
    cluster.settle();
    assert_eq!(brought_up(&mut cluster, 4), 1);
    let counters = cluster.core(leader).transfer_counters();
    assert!(counters.parts_sent >= 6, "{counters:?}");
    let status = cluster.core(4).group_status(SLOT);
    assert!(status.raft.membership.contains(NodeId(4)));
}

#[test]
fn parts_that_are_lost_doubled_and_overtaken_do_no_harm() {
    for seed in 1..=6_u64 {
        let mut cluster = Cluster::new(setup());
        let (_, away) = one_is_away(&mut cluster, 150);
        let (mut random, mut kept) = (seed, Vec::new());
        cluster.tamper = Some(Box::new(move |_, (_, to), frame| {
            if to != away || !is_bulk(&frame) {
                return vec![frame];
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match random >> 60 {
                0..3 => vec![],
                3..6 => vec![frame.clone(), frame],
                // Later, behind another one.
                6..9 => {
                    kept.push(frame);
                    vec![]
                }
                _ => std::iter::once(frame).chain(kept.pop()).collect(),
            }
        }));
        cluster.heal();
        cluster.run_until(ms(60_000), |cluster| brought_up(cluster, away) == 1);
        cluster.settle();
    }
}

#[test]
fn a_damaged_part_is_refused_and_comes_again() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 150);
    let mut seen = 0;
    cluster.tamper = Some(Box::new(move |_, (_, to), mut frame| {
        if to == away && is_bulk(&frame) {
            seen += 1;
            if seen % 3 == 1 && seen < 10 {
                frame[HEADER_LEN + 500] ^= 4;
                reseal(&mut frame);
            }
        }
        vec![frame]
    }));
    cluster.heal();
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
    assert!(cluster.core(away).transfer_counters().parts_refused >= 1);
    assert!(cluster.core(leader).transfer_counters().resumed >= 1);
}

#[test]
fn after_a_reconnect_it_goes_on_where_it_stopped() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 300);
    cluster.heal();
    run_until_sent(&mut cluster, leader, 150_000);
    cluster.disconnect(leader, away);
    cluster.run_for(ms(200));
    assert_eq!(brought_up(&mut cluster, away), 0);
    cluster.connect(leader, away);
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
    let counters = cluster.core(leader).transfer_counters();
    assert!(counters.resumed >= 1, "{counters:?}");
    // Twice is sent at most what was on the way.
    let once = cluster.core(leader).snapshot_status(SLOT).file_bytes;
    assert!(counters.bytes_sent <= once + (48 << 10), "{} of {once} bytes", counters.bytes_sent);
}

#[test]
fn a_receiver_that_was_killed_goes_on_where_it_stopped() {
    for in_order in [false, true] {
        let mut cluster = Cluster::new(setup());
        let (leader, away) = one_is_away(&mut cluster, 300);
        cluster.heal();
        run_until_sent(&mut cluster, leader, 150_000);
        if in_order {
            let now = Moment(cluster.now);
            cluster.node(away).core.take().expect("it runs").close(now).expect("the disk is sound");
        }
        cluster.kill(away);
        cluster.run_for(ms(200));
        cluster.start(away);
        cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
        cluster.settle();
        let counters = cluster.core(leader).transfer_counters();
        assert!(counters.resumed >= 1, "{counters:?}");
        // Twice is sent at most what was on the way to the receiver or its disk.
        let once = cluster.core(leader).snapshot_status(SLOT).file_bytes;
        assert!(counters.bytes_sent <= once + (64 << 10), "{} of {once} bytes", counters.bytes_sent);
        assert_eq!(cluster.core(away).snapshots().stats().resumed, 1);
    }
}

#[test]
fn a_sender_that_was_killed_goes_on_with_the_same_file() {
    let mut setup = setup();
    (setup.nodes, setup.founders) = (2, 1);
    let mut cluster = Cluster::new(setup);
    cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some());
    write_all(&mut cluster, 1, 0..300);
    snapshot(&mut cluster, 1, 1);
    let add = MembershipChange::of(&[MemberStep::AddLearner(NodeId(2))]);
    let token = cluster.ask(1, |port, token| Event::Change { port, token, slot: SLOT, change: &add });
    assert!(cluster.wait(1, token).result.is_ok());
    run_until_sent(&mut cluster, 1, 150_000);
    cluster.kill(1);
    cluster.run_for(ms(200));
    cluster.start(1);
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, 2) == 1);
    cluster.settle();
    let counters = cluster.core(1).transfer_counters();
    let once = cluster.core(1).snapshot_status(SLOT).file_bytes;
    assert!(counters.resumed >= 1 && counters.bytes_sent < once - 100_000, "{counters:?} of {once} bytes");
}

#[test]
fn a_newer_snapshot_does_not_take_the_place_of_one_that_is_half_way() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 300);
    cluster.heal();
    run_until_sent(&mut cluster, leader, 200_000);
    write_all(&mut cluster, 1, 300..310);
    snapshot(&mut cluster, leader, 1);
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
    let counters = cluster.core(leader).transfer_counters();
    assert_eq!((counters.superseded, counters.begun), (0, 1), "{counters:?}");
}

#[test]
fn field_21_a_leader_change_in_the_middle_and_parts_of_the_old_one_make_no_mixture() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 300);
    // What the old leader sends is noted, to come again later.
    let noted = Rc::new(RefCell::new(Vec::new()));
    let notes = noted.clone();
    cluster.tamper = Some(Box::new(move |_, direction, frame| {
        if direction == (leader, away) && is_bulk(&frame) {
            notes.borrow_mut().push(frame.clone());
        }
        vec![frame]
    }));
    cluster.heal();
    run_until_sent(&mut cluster, leader, 150_000);
    let next = (1..=3).find(|node| ![leader, away].contains(node)).expect("there are three");
    let token = cluster.transfer(leader, 1, next);
    assert!(cluster.wait(leader, token).result.is_ok());
    assert_eq!(cluster.leader(1), next);
    // The snapshots of two nodes have different names.
    cluster.run_until(ms(20_000), |cluster| cluster.core(next).transfer_counters().bytes_sent > 60_000);
    let refused = cluster.core(away).transfer_counters().parts_refused;
    for frame in noted.take() {
        let now = cluster.now;
        cluster.receive(away, leader, &frame, now);
    }
    assert!(cluster.core(away).transfer_counters().parts_refused > refused + 10);
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
}

#[test]
fn a_source_file_that_is_damaged_is_replaced_by_another_snapshot() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 200);
    let files = cluster.node(leader).snapshots.list();
    let name = files.iter().map(|file| file.0.clone()).filter(|name| name.ends_with(".snapshot")).max();
    assert!(cluster.node(leader).snapshots.flip(&name.expect("there is one"), 100_000, 0x10));
    cluster.heal();
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
    let counters = cluster.core(leader).transfer_counters();
    assert!(counters.failed >= 1 && counters.begun >= 2, "{counters:?}");
}

#[test]
fn a_receiver_whose_disk_is_full_is_brought_up_when_it_has_room() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 200);
    cluster.node(away).snapshots.set_capacity(60_000);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| cluster.core(leader).transfer_counters().failed > 0);
    write_all(&mut cluster, 1, 200..210);
    assert_eq!(brought_up(&mut cluster, away), 0);
    cluster.node(away).snapshots.set_capacity(1 << 30);
    cluster.run_until(ms(60_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
}

#[test]
fn a_snapshot_that_the_state_machine_refuses_is_not_sent_again_and_both_ends_say_so() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 200);
    cluster.core(away).machine().refuses.set(u32::MAX);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| cluster.core(leader).transfer_counters().refused > 0);
    let once = cluster.core(leader).snapshot_status(SLOT).file_bytes;
    cluster.run_for(ms(30_000));
    let counters = cluster.core(leader).transfer_counters();
    assert!(counters.refused > 5, "it is offered from time to time: {counters:?}");
    assert!(counters.bytes_sent <= once, "{} of {once} bytes", counters.bytes_sent);
    let status = cluster.core(leader).transfer_status(SLOT);
    assert!(matches!(status[..], [status] if status.step == TransferStep::Refused && status.peer.0 == away));
    let status = cluster.core(away).snapshot_status(SLOT);
    assert!(status.failure.is_some_and(|why| why.contains("bytes")) && !status.is_busy);
    assert_eq!(cluster.core(away).snapshot_counters().installs_failed, 1);
    // Another one is tried, once.
    write_all(&mut cluster, 1, 200..210);
    snapshot(&mut cluster, leader, 1);
    cluster.run_for(ms(30_000));
    assert_eq!(cluster.core(away).snapshot_counters().installs_failed, 2);
    cluster.core(away).machine().refuses.set(0);
    write_all(&mut cluster, 1, 210..220);
    snapshot(&mut cluster, leader, 1);
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
    cluster.run_for(ms(2_000));
    assert_eq!(cluster.core(leader).transfer_status(SLOT), []);
    assert_eq!(cluster.core(away).snapshot_status(SLOT).failure, None);
}

/// The receiver ends after so many operations of one of its disks while it is brought up. Whether it came to that.
fn crash_after(operations: u64, of_snapshots: bool, power: bool) -> bool {
    let mut cluster = Cluster::new(setup());
    let (_, away) = one_is_away(&mut cluster, 60);
    let node = cluster.node(away);
    match of_snapshots {
        true => node.snapshots.halt_after(operations),
        false => node.platter.halt_after(operations),
    }
    cluster.heal();
    let end = cluster.now + 2_000_000_000;
    let halted = |cluster: &mut Cluster| {
        let node = cluster.node(away);
        node.snapshots.halted() || node.platter.halted() || node.core.is_none()
    };
    while !halted(&mut cluster) && cluster.advance(end) {
        if cluster.is_up(away) && cluster.core(away).applied(SLOT).0 > 60 {
            cluster.run_for(ms(50));
            break;
        }
    }
    let came_to_it = halted(&mut cluster);
    match power {
        true => cluster.power_loss(away),
        false => cluster.kill(away),
    }
    let node = cluster.node(away);
    node.snapshots.revive();
    node.platter.revive();
    cluster.run_for(ms(20));
    cluster.start(away);
    cluster.settle();
    write_all(&mut cluster, 1, 60..65);
    cluster.settle();
    came_to_it
}

#[test]
fn a_receiver_that_ends_at_any_step_is_brought_up_after_its_restart() {
    for power in [false, true] {
        let mut operations = 0;
        while crash_after(operations, true, power) {
            operations += 1 + operations / 4;
        }
        assert!(operations > 10, "{operations} operations were tried");
        for operations in (0..8).step_by(2) {
            crash_after(operations, false, power);
        }
    }
}

#[test]
fn parts_leave_behind_everything_else_of_a_turn_and_in_bounds_and_appends_flow() {
    let mut cluster = Cluster::new(setup());
    let (leader, away) = one_is_away(&mut cluster, 400);
    #[derive(Default)]
    struct Seen {
        bulk: u64,
        others_beside: u64,
        last_bulk_at: u64,
    }
    let seen = Rc::new(RefCell::new(Seen::default()));
    let notes = seen.clone();
    cluster.tamper = Some(Box::new(move |now, direction, frame| {
        if direction != (leader, away) {
            return vec![frame];
        }
        let view = FrameView::parse(&frame, VERSION_MAX).expect("our own frame");
        let bytes: usize = view.snapshot_parts().map(|(_, _, bytes)| bytes.len()).sum();
        let mut seen = notes.borrow_mut();
        if bytes > 0 || view.snapshot_offers().next().is_some() {
            let others = view.appends().count() + view.heartbeats().count() + view.append_replies().count();
            assert_eq!((others, view.pulse()), (0, None), "snapshots have a frame of their own");
            assert!(bytes <= (16 << 10) + 4096, "{bytes} bytes in one turn");
            (seen.bulk, seen.last_bulk_at) = (seen.bulk + 1, now);
        } else if seen.bulk > 0 {
            seen.others_beside += 1;
        }
        vec![frame]
    }));
    cluster.heal();
    run_until_sent(&mut cluster, leader, 1);
    // To every part belongs a proposal, whose append goes to both others as if there were no transfer.
    let mut written = 400;
    while brought_up(&mut cluster, away) == 0 {
        write_all(&mut cluster, 1, written..written + 1);
        written += 1;
        let link = cluster.core(leader).group_status(SLOT).heard_nanos_ago;
        assert!(link.iter().all(|(_, ago)| *ago < 100_000_000), "{link:?}");
    }
    let seen = seen.borrow();
    assert!(
        seen.bulk > 20 && seen.others_beside > 3 && written > 410,
        "{} {}",
        seen.bulk,
        seen.others_beside
    );
    let now = Moment(cluster.now);
    assert!(now.0 >= seen.last_bulk_at);
    assert_eq!(cluster.leader(1), leader);
}

#[test]
fn while_a_socket_is_full_no_more_parts_are_made_than_one_frame_holds() {
    let mut setup = setup();
    setup.settings.snapshots.transfer_window_bytes = 64 << 20;
    setup.settings.snapshots.transfer_bytes_per_turn = 1 << 20;
    let mut cluster = Cluster::new(setup);
    let (leader, away) = one_is_away(&mut cluster, 900);
    cluster.heal();
    run_until_sent(&mut cluster, leader, 1);
    cluster.stuffed.insert((leader, away));
    cluster.run_for(ms(60));
    let before = cluster.core(leader).transfer_counters().bytes_sent;
    cluster.run_for(ms(40));
    assert_eq!(cluster.core(leader).transfer_counters().bytes_sent, before);
    cluster.stuffed.clear();
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    cluster.settle();
}

/// All groups need a snapshot on one node, which is away.
fn many_groups(mut setup: Setup, groups: u64, writes: u64) -> (Cluster, u32) {
    setup.groups = groups;
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let away = 3;
    for group in 1..=groups {
        let leader = cluster.leader(group);
        if leader != 1 {
            let token = cluster.transfer(leader, group, 1);
            cluster.wait(leader, token);
        }
    }
    cluster.settle();
    cluster.partition(&[&[1, 2], &[away]]);
    for group in 1..=groups {
        assert_eq!(cluster.leader(group), 1);
        write_all(&mut cluster, group, 0..writes);
        snapshot(&mut cluster, 1, group);
    }
    (cluster, away)
}

#[test]
fn transfers_of_several_groups_are_fair_to_each_other() {
    let (mut cluster, away) = many_groups(setup(), 4, 150);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) > 0);
    for group in 1..=4 {
        let status = cluster.core(1).transfer_status(Cluster::slot(group));
        let Some(status) = status.first() else { continue };
        assert!(status.bytes * 2 > status.bytes_total, "group {group}: {status:?}");
    }
    cluster.settle();
    assert_eq!(brought_up(&mut cluster, away), 4);
}

#[test]
fn transfers_over_the_limit_wait_for_their_turn() {
    let mut setup = setup();
    setup.settings.snapshots.transfers_max = 1;
    setup.settings.snapshots.transfer_bytes_per_s = 200_000;
    let (mut cluster, away) = many_groups(setup, 4, 150);
    cluster.heal();
    let (begun_at, mut most) = (cluster.now, 0);
    while brought_up(&mut cluster, away) < 4 {
        let end = cluster.now + 60_000_000_000;
        assert!(cluster.advance(end));
        let under_way = (1..=4).filter(|&group| {
            let status = cluster.core(1).transfer_status(Cluster::slot(group));
            status.iter().any(|status| status.step == TransferStep::Moving)
        });
        most = most.max(under_way.count());
    }
    assert_eq!(most, 1);
    // 600 kB and more at 200 kB per second.
    let seconds = (cluster.now - begun_at) as f64 / 1e9;
    assert!(seconds > 2.0, "{seconds} s");
    let counters = cluster.core(1).transfer_counters();
    assert_eq!((counters.begun, counters.failed), (4, 0), "{counters:?}");
    cluster.settle();
}

#[test]
fn parts_that_come_slower_than_the_receiver_is_asked_where_it_is_make_up_a_chunk_all_the_same() {
    let mut setup = setup();
    let snapshots = &mut setup.settings.snapshots;
    snapshots.files.chunk_bytes = 1 << 20;
    (snapshots.transfer_window_bytes, snapshots.transfer_bytes_per_turn) = (256 << 10, 256 << 10);
    // A part a second.
    snapshots.transfer_bytes_per_s = 60_000;
    let mut cluster = Cluster::new(setup);
    let (leader, away) = one_is_away(&mut cluster, 300);
    cluster.heal();
    cluster.run_until(ms(20_000), |cluster| brought_up(cluster, away) == 1);
    let counters = cluster.core(leader).transfer_counters();
    assert!(counters.offers_sent > 3, "it was asked in between: {counters:?}");
    assert_eq!((counters.begun, counters.failed), (1, 0), "{counters:?}");
    assert_eq!(counters.bytes_sent, cluster.core(away).transfer_counters().bytes_taken);
    cluster.settle();
}
