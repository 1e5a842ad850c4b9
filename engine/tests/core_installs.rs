//! Snapshots that come from another node: installed over a log that is behind, ahead or beside, whatever ends the process in between.
mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{Answer, Cluster, Setup, ms, payload};
use logdrive::api::{Error, ReadPolicy};
use logdrive::core::{Event, Offered, Slot};
use logdrive::snapshot::{Received, SnapshotId, StoreEvent, WriteId};
use logdrive::wire::{FrameView, VERSION_MAX};
use logdrive_shard::{LogIndex, NodeId, Term};
use logdrive_wal::FaultKind;

/// A file of a snapshot: its id, its header, its chunks.
type Fetched = (SnapshotId, Vec<u8>, Vec<Vec<u8>>);

const SLOT: Slot = Slot(0);

fn setup() -> Setup {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    // On order only.
    (setup.settings.snapshots.every_entries, setup.settings.snapshots.every_bytes) = (0, 0);
    setup.settings.snapshots.keep_trailing_entries = 0;
    setup.settings.snapshots.files.chunk_bytes = 4096;
    setup.settings.snapshots.files.space_reserve_bytes = 0;
    setup
}

fn snapshot(cluster: &mut Cluster, node: u32) -> LogIndex {
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot: SLOT });
    cluster.wait(node, token).result.expect("a snapshot is taken")
}

fn journal(cluster: &mut Cluster, node: u32) -> Vec<Vec<u8>> {
    cluster.core(node).machine().entries[0].iter().map(|entry| entry.1.clone()).collect()
}

fn term(cluster: &mut Cluster, node: u32) -> Term {
    cluster.core(node).group_status(SLOT).raft.term
}

/// The newest snapshot of a node: its header and its chunks.
fn fetch(cluster: &mut Cluster, node: u32) -> Fetched {
    let store = cluster.core(node).snapshots();
    let header = store.snapshots().max_by_key(|header| header.index).expect("there is one").clone();
    let read = store.begin_send(header.id).expect("it is there");
    let mut chunks = Vec::new();
    for number in 0..header.chunks() {
        assert!(cluster.core(node).snapshots().read_chunk(read, number).expect("it has it"));
        let mut events = Vec::new();
        cluster.wake(node);
        cluster.run_until(ms(5_000), |cluster| {
            cluster.core(node).take_transfer_events(&mut events);
            !events.is_empty()
        });
        let [StoreEvent::Chunk { bytes, .. }] = &events[..] else { panic!("{events:?}") };
        chunks.push(bytes.clone());
    }
    cluster.core(node).snapshots().end_read(read);
    cluster.wake(node);
    (header.id, header.encode(), chunks)
}

/// Hands a snapshot to a node, as its leader's transfer would. Nothing if it has no use for it.
fn hand_over(
    cluster: &mut Cluster,
    to: u32,
    (leader, term): (u32, Term),
    (id, header, chunks): &Fetched,
) -> Option<WriteId> {
    let offered = cluster.core(to).offer_snapshot(SLOT, NodeId(leader), term, header).expect("there is room");
    cluster.wake(to);
    let Offered::Receive(write) = offered else { return None };
    for (number, chunk) in (0..).zip(chunks) {
        if !cluster.is_up(to) {
            break;
        }
        // It fails with the disk, if that is what is tried; and it waits while it is read what came before a restart.
        for _ in 0..100 {
            let taken = cluster.core(to).snapshots().receive(write, *id, number, chunk);
            cluster.wake(to);
            cluster.run_for(ms(2));
            if taken != Ok(Received::Full) || !cluster.is_up(to) {
                break;
            }
        }
    }
    Some(write)
}

/// Three nodes; the last one is away while the others write and cut their logs. The leader, and its snapshot.
fn one_lags(setup: Setup) -> (Cluster, u32, u32, Fetched) {
    one_is_away(setup, Cluster::kill)
}

/// As [`one_lags`]; how it goes is up to `leaves`.
fn one_is_away(setup: Setup, leaves: impl FnOnce(&mut Cluster, u32)) -> (Cluster, u32, u32, Fetched) {
    let mut cluster = Cluster::new(setup);
    cluster.lose_snapshots();
    cluster.elect();
    for n in 0..10 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    cluster.settle();
    let leader = cluster.leader(1);
    let lags = leader % 3 + 1;
    leaves(&mut cluster, lags);
    for n in 10..60 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    let leader = cluster.leader(1);
    for node in cluster.running().into_iter().filter(|&node| node != lags) {
        snapshot(&mut cluster, node);
    }
    cluster.run_for(ms(50));
    assert!(cluster.core(leader).snapshot_status(SLOT).log_first > LogIndex(50));
    let file = fetch(&mut cluster, leader);
    (cluster, leader, lags, file)
}

#[test]
fn a_member_that_the_log_does_not_reach_any_more_goes_on_from_a_snapshot() {
    let (mut cluster, leader, lags, file) = one_lags(setup());
    cluster.start(lags);
    cluster.run_for(ms(1_000));
    assert!(journal(&mut cluster, lags).len() <= 10, "what it lacks is in no log");
    let term = term(&mut cluster, leader);
    hand_over(&mut cluster, lags, (leader, term), &file);
    cluster.run_until(ms(10_000), |cluster| cluster.core(lags).snapshot_counters().installed == 1);
    assert!(cluster.write(1, b"after").result.is_ok());
    cluster.settle();
    assert_eq!(journal(&mut cluster, lags).len(), 61);
    let digests = [leader, lags].map(|node| cluster.core(node).group_digest(SLOT));
    assert_eq!(digests[0], digests[1]);
    // Appends inside the snapshot are answered; the same file again is of no use.
    assert!(hand_over(&mut cluster, lags, (leader, term), &file).is_none());
    let token = cluster.read(lags, 1, ReadPolicy::Follower);
    assert!(cluster.wait(lags, token).result.is_ok());
    // And it is what a restart goes on from.
    cluster.kill(lags);
    cluster.start(lags);
    cluster.settle();
    assert_eq!(journal(&mut cluster, lags).len(), 61);
}

/// Ends the process of the member after so many operations of one of its disks while it takes in and installs a snapshot.
fn install_crash(operations: u64, of_snapshots: bool, power: bool) -> bool {
    let (mut cluster, leader, lags, file) = one_lags(setup());
    cluster.start(lags);
    cluster.run_for(ms(500));
    let term = term(&mut cluster, leader);
    let node = cluster.node(lags);
    if of_snapshots {
        node.snapshots.halt_after(operations)
    } else {
        node.platter.halt_after(operations)
    }
    hand_over(&mut cluster, lags, (leader, term), &file);
    for n in 60..70 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
        cluster.run_for(ms(5));
    }
    let node = cluster.node(lags);
    let halted = node.snapshots.halted() || node.platter.halted();
    if power {
        cluster.power_loss(lags)
    } else {
        cluster.kill(lags)
    }
    let node = cluster.node(lags);
    node.snapshots.revive();
    node.platter.revive();
    cluster.start(lags);
    cluster.run_for(ms(500));
    let context = format!("{operations} operations, snapshots {of_snapshots}, power {power}");
    let found = journal(&mut cluster, lags);
    assert!((0..).zip(&found).all(|(n, found)| *found == payload(n)), "{context}");
    if cluster.core(lags).applied(SLOT) < LogIndex(60) {
        // The last one may not be known to be committed.
        assert!(found.len() >= 9, "{context}");
        let leader = cluster.leader(1);
        let term = self::term(&mut cluster, leader);
        hand_over(&mut cluster, lags, (leader, term), &file);
    }
    cluster.run_until(ms(10_000), |cluster| cluster.core(lags).applied(SLOT) >= LogIndex(60));
    assert!(cluster.write(1, &payload(70)).result.is_ok(), "{context}");
    cluster.settle();
    assert_eq!(journal(&mut cluster, lags).len(), 71, "{context}");
    halted
}

#[test]
fn a_crash_after_any_operation_of_the_snapshots_disk_during_an_installation_recovers() {
    for power in [false, true] {
        let mut operations = 0;
        while install_crash(operations, true, power) {
            operations += 1;
        }
        assert!(operations >= 6, "{operations} operations were tried");
    }
}

#[test]
fn a_crash_after_any_operation_of_the_log_during_an_installation_recovers() {
    for power in [false, true] {
        let mut operations = 0;
        while operations < 40 && install_crash(operations, false, power) {
            operations += 1;
        }
        assert!(operations >= 3, "{operations} operations were tried");
    }
}

/// The disk of a node, which leads and goes on leading, loses a place in its log of which nothing tells what it held.
fn damage_in_the_middle(cluster: &mut Cluster, node: u32) {
    cluster.kill(node);
    let platter = &cluster.node(node).platter;
    let used = |name: &str| {
        let bytes = platter.read_file(name).expect("it was listed");
        bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64)
    };
    let segments = platter.list().into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let (end, name) = segments.map(|(name, _)| (used(&name), name)).max().expect("there is a log");
    // Blocks of several batches in a row: the directories that would tell are among them.
    assert!(platter.overwrite(&name, (end / 2) / 4096 * 4096, &[0x5a; 4 * 4096]));
    cluster.start(node);
    assert!(cluster.core(node).status().damaged > 0);
    cluster.run_until(ms(20_000), |cluster| cluster.core(node).status().damaged == 0);
    cluster.settle();
    let leader = cluster.leader(1);
    if leader != node {
        let token = cluster.transfer(leader, 1, node);
        cluster.wait(leader, token).result.expect("it hands over");
        cluster.settle();
    }
    assert_eq!(cluster.leader(1), node);
}

/// A member whose log goes further than the snapshot, on a way that was given up: what lies behind the snapshot's end must not come back.
fn parted(damaged_before: bool, power_loss_before_the_move: bool) {
    let mut cluster = Cluster::new(setup());
    cluster.lose_snapshots();
    cluster.elect();
    for n in 0..10 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    cluster.settle();
    let old = cluster.leader(1);
    if damaged_before {
        damage_in_the_middle(&mut cluster, old);
    }
    let others: Vec<u32> = (1..=3).filter(|&node| node != old).collect();
    // It goes on alone for a while, and nothing of that is committed.
    for &other in &others {
        cluster.hold(old, other);
    }
    for n in 0..60 {
        cluster.propose(old, 1, format!("in vain {n}").as_bytes());
    }
    cluster.run_for(ms(20));
    cluster.partition(&[&[old], &others]);
    for &other in &others {
        cluster.unhold(old, other);
    }
    cluster.run_until(ms(20_000), |cluster| {
        cluster.find_leader(1).is_some_and(|leader| leader != old) && !cluster.core(old).is_leader(SLOT)
    });
    for n in 10..30 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    cluster.run_for(ms(500));
    let leader = cluster.leader(1);
    for &node in &others {
        snapshot(&mut cluster, node);
    }
    let file = fetch(&mut cluster, leader);
    let last = cluster.core(old).group_status(SLOT).raft.last;
    assert!(last > LogIndex(60), "its log is the longer one");
    let term = term(&mut cluster, leader);
    if power_loss_before_the_move {
        // The file is complete; the log's disk takes nothing any more.
        cluster.connect(old, leader);
        cluster.node(old).platter.halt_after(0);
        hand_over(&mut cluster, old, (leader, term), &file);
        cluster.run_for(ms(200));
        cluster.power_loss(old);
        cluster.node(old).platter.revive();
        cluster.start_alone(old);
        assert!(!cluster.node(old).snapshots.list().is_empty());
    } else {
        cluster.connect(old, leader);
        hand_over(&mut cluster, old, (leader, term), &file);
        cluster.run_until(ms(10_000), |cluster| cluster.core(old).snapshot_counters().installed == 1);
        if damaged_before {
            // The new log is durable.
            cluster.run_for(ms(100));
        }
        cluster.power_loss(old);
        cluster.start_alone(old);
        let lost = cluster.core(old).group_status(SLOT).raft.lost;
        assert!(
            !lost.is_any(),
            "the log that begins behind the snapshot is new, and has lost nothing: {lost}"
        );
    }
    let status = cluster.core(old).group_status(SLOT).raft;
    assert!(status.last < LogIndex(60), "what was given up is gone: {}", status.last);
    // Also after another restart, with nothing written in between.
    cluster.kill(old);
    cluster.start(old);
    cluster.heal();
    assert!(cluster.write(1, &payload(30)).result.is_ok());
    cluster.settle();
    assert_eq!(journal(&mut cluster, old), (0..31).map(payload).collect::<Vec<_>>());
    cluster.kill(old);
    cluster.start(old);
    cluster.settle();
    assert_eq!(journal(&mut cluster, old), (0..31).map(payload).collect::<Vec<_>>());
}

#[test]
fn what_lies_behind_a_snapshot_on_another_way_is_gone_for_good() {
    parted(false, false);
}

#[test]
fn a_log_that_lost_what_it_cannot_name_suspects_no_stream_that_is_begun_later() {
    parted(true, false);
}

#[test]
fn a_log_that_parted_from_a_durable_snapshot_is_moved_by_the_next_start() {
    parted(false, true);
}

/// What a frame says in its sender's own term. (A vote may be asked for in a later one.)
fn says_in(frame: &FrameView<'_>, term: Term) -> bool {
    let appends = frame.append_replies().any(|(_, reply)| reply.term >= term);
    let beats = frame.heartbeat_replies().any(|(_, reply)| reply.term >= term);
    appends || beats || frame.vote_replies().any(|(_, reply)| !reply.pre_vote && reply.term >= term)
}

#[test]
fn a_term_that_only_a_snapshot_brought_is_in_the_log_before_anything_is_said_in_it() {
    // Whether the log's disk has its last write after all depends on the seed.
    for seed in 1..=8 {
        let setup = Setup { seed, disk_latency: 2_000_000..4_000_000, ..setup() };
        // While it is away another one is elected.
        let (mut cluster, leader, lags, file) = one_is_away(setup, |cluster, lags| {
            let old = cluster.leader(1);
            cluster.kill(lags);
            let token = cluster.transfer(old, 1, 6 - old - lags);
            cluster.wait(old, token).result.expect("it hands over");
            cluster.settle();
        });
        let later = term(&mut cluster, leader);
        // The file is complete; the log's disk takes nothing any more.
        cluster.start_alone(lags);
        let before = term(&mut cluster, lags);
        cluster.node(lags).platter.halt_after(0);
        cluster.connect(lags, leader);
        hand_over(&mut cluster, lags, (leader, later), &file);
        cluster.run_for(ms(200));
        cluster.power_loss(lags);
        cluster.node(lags).platter.revive();
        let files = cluster.node(lags).snapshots.list();
        assert!(before < later && !files.is_empty(), "{before} {later} {files:?}");

        cluster.start_alone(lags);
        assert_eq!(term(&mut cluster, lags), later);
        let said = Rc::new(Cell::new(false));
        let sees = said.clone();
        cluster.tamper = Some(Box::new(move |_, (from, _), frame| {
            let view = FrameView::parse(&frame, VERSION_MAX).expect("a core's own frame");
            sees.set(sees.get() || (from == lags && says_in(&view, later)));
            vec![frame]
        }));
        cluster.connect(lags, leader);
        let end = cluster.now + 5_000_000_000;
        while !said.get() {
            assert!(cluster.advance(end), "it says nothing");
        }
        // Whatever becomes of its snapshot, it stands by what it said.
        cluster.power_loss(lags);
        for (name, _) in files {
            cluster.node(lags).snapshots.remove(&name);
        }
        cluster.start_alone(lags);
        assert!(term(&mut cluster, lags) >= later);
    }
}

#[test]
fn field_9_a_snapshot_has_its_own_term_and_the_configuration_that_was_in_force_at_its_end() {
    let mut setup = setup();
    setup.nodes = 4;
    setup.founders = 3;
    let mut cluster = Cluster::new(setup);
    cluster.lose_snapshots();
    cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some());
    for n in 0..10 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    let leader = cluster.leader(1);
    let first = snapshot(&mut cluster, leader);
    let header = |cluster: &mut Cluster, index: LogIndex| {
        let store = cluster.core(leader).snapshots();
        store.snapshots().find(|header| header.index == index).expect("it is there").clone()
    };
    let before = header(&mut cluster, first);
    let add = logdrive_shard::MembershipChange::of(&[logdrive_shard::MemberStep::AddLearner(NodeId(4))]);
    let token = cluster.ask(leader, |port, token| Event::Change { port, token, slot: SLOT, change: &add });
    let changed = cluster.wait(leader, token).result.expect("it is changed");
    assert!(cluster.write(1, &payload(10)).result.is_ok());
    let second = snapshot(&mut cluster, leader);
    let after = header(&mut cluster, second);
    assert_eq!((before.membership_index, after.membership_index), (LogIndex(0), changed));
    assert_ne!(before.membership, after.membership);
    let status = cluster.core(leader).group_status(SLOT).raft;
    assert_eq!(after.membership, status.membership.encode());
    assert_eq!(after.term, status.term);
    // A restart from it has both.
    for node in cluster.running() {
        cluster.kill(node);
    }
    for node in 1..=4 {
        cluster.start(node);
    }
    let status = cluster.core(leader).group_status(SLOT).raft;
    assert_eq!((status.membership_index, status.membership.encode()), (changed, after.membership));
}

#[test]
fn a_snapshot_that_was_given_up_for_an_installation_that_cannot_begin_is_taken_later() {
    let mut setup = setup();
    setup.settings.snapshots.files.reads_max = 1;
    setup.settings.snapshots.loads_at_once = 1;
    // A snapshot takes many turns.
    setup.settings.snapshots.slice_bytes = 1;
    setup.settings.snapshots.slice_interval = std::time::Duration::from_micros(250);
    let mut old = None;
    let (mut cluster, leader, lags, file) = one_is_away(setup, |cluster, node| {
        snapshot(cluster, node);
        // The only read there may be.
        let id = cluster.core(node).snapshots().snapshots().next().expect("it was taken").id;
        old = Some(cluster.core(node).snapshots().begin_read(id).expect("it is there"));
        assert!(cluster.write(1, &[7; 8000]).result.is_ok());
        cluster.settle();
        let others: Vec<u32> = cluster.running().into_iter().filter(|&other| other != node).collect();
        cluster.partition(&[&others, &[node]]);
    });
    // It writes a snapshot when another one arrives.
    let token = cluster.ask(lags, |port, token| Event::Snapshot { port, token, slot: SLOT });
    cluster.run_for(ms(1));
    let term = term(&mut cluster, leader);
    assert!(hand_over(&mut cluster, lags, (leader, term), &file).is_some());
    cluster.run_for(ms(1_000));
    let counters = cluster.core(lags).snapshot_counters();
    assert_eq!((counters.written, counters.installs_failed, counters.installed), (1, 1, 0), "{counters:?}");
    cluster.core(lags).snapshots().end_read(old.expect("it was begun"));
    cluster.heal();
    cluster.wake(lags);
    let answer = cluster.wait(lags, token).result;
    assert!(answer.is_ok(), "{answer:?}");
    hand_over(&mut cluster, lags, (leader, term), &file);
    cluster.run_until(ms(10_000), |cluster| cluster.core(lags).snapshot_counters().installed == 1);
    cluster.settle();
    assert_eq!(journal(&mut cluster, lags), journal(&mut cluster, leader));
}

/// Its log comes to its bound while a snapshot is being installed, and nothing comes of that: the log was faster.
#[test]
fn a_log_that_is_full_when_an_installation_comes_to_nothing_gets_its_snapshot() {
    let mut setup = setup();
    let snapshots = &mut setup.settings.snapshots;
    snapshots.keep_trailing_entries = 1_000;
    snapshots.group_log_bytes_max = 64 << 10;
    // So slow that the log is there first.
    snapshots.slice_interval = std::time::Duration::from_millis(300);
    let mut cluster = Cluster::new(setup);
    cluster.lose_snapshots();
    cluster.elect();
    assert!(cluster.write(1, &payload(0)).result.is_ok());
    cluster.settle();
    let leader = cluster.leader(1);
    let lags = leader % 3 + 1;
    let others: Vec<u32> = (1..=3).filter(|&node| node != lags).collect();
    cluster.partition(&[&others, &[lags]]);
    for n in 1..21 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    snapshot(&mut cluster, leader);
    let (file, term) = (fetch(&mut cluster, leader), term(&mut cluster, leader));
    hand_over(&mut cluster, lags, (leader, term), &file);
    assert!(cluster.core(lags).snapshot_status(SLOT).is_busy);
    cluster.heal();
    for _ in 0..20 {
        while cluster.write(1, &[0; 4_000]).result.is_err() {
            // The leader's own log is full, and its snapshot takes as long.
            cluster.run_for(ms(100));
        }
    }
    cluster.run_until(ms(5_000), |cluster| cluster.core(lags).snapshot_counters().logs_full > 0);
    let status = cluster.core(lags).snapshot_status(SLOT);
    assert!(status.is_busy && status.index == LogIndex(0), "{status:?}");
    cluster.run_until(ms(20_000), |cluster| cluster.core(lags).snapshot_status(SLOT).index > LogIndex(20));
    let counters = cluster.core(lags).snapshot_counters();
    assert_eq!(counters.installed, 0);
    assert!(cluster.core(lags).snapshot_status(SLOT).log_bytes < 64 << 10);
}

/// A leader knows that entries are committed, and cannot read them to apply them; before anybody sends them again, the others have cut their
/// logs.
#[test]
fn what_a_leader_cannot_read_is_answered_when_a_snapshot_stands_for_it_and_so_is_what_comes_after() {
    let mut setup = setup();
    // What is to be applied, and is more than this, is read from the disk.
    setup.settings.cache_bytes_max = 1 << 10;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    for n in 0..10 {
        assert!(cluster.write(1, &payload(n)).result.is_ok());
    }
    cluster.settle();
    let leader = cluster.leader(1);
    let others = [leader % 3 + 1, (leader + 1) % 3 + 1];
    // The others have it; what they say of it is on its way.
    others.iter().for_each(|&other| cluster.hold(other, leader));
    let waiting: Vec<u64> = (0..48).map(|n| cluster.propose(leader, 1, &[n; 15_000])).collect();
    cluster.run_for(ms(20));
    let commit = |cluster: &mut Cluster| cluster.core(leader).group_status(SLOT).raft.commit;
    let committed = commit(&mut cluster);
    for (name, bytes) in cluster.node(leader).platter.list() {
        for offset in (4096..bytes).step_by(4096).filter(|_| name.ends_with(".seg")) {
            cluster.node(leader).platter.damage(&name, offset, FaultKind::Garbage { sector: 1, seed: 3 });
        }
    }
    others.iter().for_each(|&other| cluster.unhold(other, leader));
    cluster.run_until(ms(1_000), |cluster| commit(cluster) >= LogIndex(committed.0 + 48));
    cluster.partition(&[&[leader], &others]);
    cluster.run_until(ms(20_000), |cluster| cluster.find_leader(1).is_some_and(|now| now != leader));
    assert!(cluster.write(1, b"meanwhile").result.is_ok());
    for other in others {
        snapshot(&mut cluster, other);
    }
    let unanswered = |cluster: &mut Cluster| {
        waiting.iter().filter(|&&token| cluster.answer(leader, token).is_none()).count()
    };
    cluster.run_for(ms(2_000));
    assert!(unanswered(&mut cluster) > 0, "it could read them");
    cluster.heal();
    cluster.run_until(ms(60_000), |cluster| cluster.core(leader).snapshot_counters().installed > 0);
    cluster.run_for(ms(50));
    assert_eq!(unanswered(&mut cluster), 0);
    let answers: Vec<Answer> = waiting.iter().filter_map(|&token| cluster.answer(leader, token)).collect();
    assert!(answers.iter().any(|answer| answer.result == Err(Error::Indeterminate)), "{answers:?}");
    // The ones that come after it do not wait for them.
    cluster.run_until(ms(60_000), |cluster| cluster.core(leader).status().damaged == 0);
    cluster.settle();
    let now = cluster.leader(1);
    let token = cluster.transfer(now, 1, leader);
    cluster.wait(now, token).result.expect("it hands over");
    cluster.settle();
    let token = cluster.propose(leader, 1, b"after");
    assert!(cluster.wait(leader, token).result.is_ok());
    cluster.settle();
    assert_eq!(journal(&mut cluster, leader).len(), 60);
}
