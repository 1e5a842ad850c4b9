//! Disks that lose what they had made durable: the node opens, its groups make up for what is missing, nothing acknowledged is lost.
mod common;

use std::collections::BTreeMap;

use common::{Cluster, Setup, ms, payload};
use logdrive::core::Event;
use logdrive_shard::{HistoryEvent, Random, StepDown};
use logdrive_wal::{Fault, FaultKind, OpKind};

const GROUPS: u64 = 16;

/// A cluster with writes in every group, and what of them was acknowledged, by group.
fn written(seed: u64, writes: u64) -> (Cluster, BTreeMap<u64, Vec<Vec<u8>>>) {
    let mut cluster = Cluster::new(Setup { groups: GROUPS, seed, ..Setup::default() });
    cluster.elect();
    let mut acknowledged: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for n in 0..writes {
        let group = n % GROUPS + 1;
        let answer = cluster.write(group, &payload(n));
        assert!(answer.result.is_ok());
        acknowledged.entry(group).or_default().push(payload(n));
    }
    cluster.settle();
    (cluster, acknowledged)
}

/// The used part of a node's segments: file names with the end of their last batch.
fn used(cluster: &mut Cluster, node: u32) -> Vec<(String, u64)> {
    let platter = &cluster.node(node).platter;
    let segments = platter.list().into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let end = |name: &str| {
        let bytes = platter.read_file(name).expect("it was listed");
        bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
    };
    segments.map(|(name, _)| (name.clone(), end(&name))).filter(|(_, end)| *end > 4096).collect()
}

/// Everybody has everything that was acknowledged, and nobody misses anything.
fn assert_whole(cluster: &mut Cluster, acknowledged: &BTreeMap<u64, Vec<Vec<u8>>>) {
    cluster.settle();
    for node in 1..=3 {
        assert_eq!(cluster.core(node).status().damaged, 0, "node {node}");
        for (&group, writes) in acknowledged {
            let applied = &cluster.core(node).machine().entries[group as usize - 1];
            let mut found = applied.iter().map(|(_, payload)| payload);
            for write in writes {
                assert!(found.any(|payload| payload == write), "node {node}, group {group} lost a write");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_middle_of_a_log_is_made_up_for_by_the_leaders() {
    let (mut cluster, acknowledged) = written(3, 320);
    cluster.kill(2);
    let (name, end) = used(&mut cluster, 2).remove(0);
    // In the middle of what is used: batches lie before it and behind it.
    assert!(cluster.node(2).platter.flip(&name, (end / 2) / 4096 * 4096 + 100, 0x10));
    cluster.start(2);
    assert!(cluster.core(2).status().damaged > 0, "somebody's bytes were there");
    cluster.elect();
    cluster.run_for(ms(5_000));
    assert_whole(&mut cluster, &acknowledged);
    // And it holds: the next start finds nothing.
    cluster.kill(2);
    cluster.start(2);
    assert_eq!(cluster.core(2).status().damaged, 0);
    cluster.elect();
    assert_whole(&mut cluster, &acknowledged);
}

#[test]
fn groups_without_a_byte_in_the_damaged_place_run_on() {
    let (mut cluster, _) = written(4, 64);
    cluster.kill(2);
    let (name, end) = used(&mut cluster, 2).remove(0);
    assert!(cluster.node(2).platter.flip(&name, end - 4096 * 20, 0x01));
    cluster.start_alone(2);
    let status = cluster.core(2).status();
    assert!(
        status.damaged > 0 && status.damaged < GROUPS as u32,
        "{} of {GROUPS} are damaged",
        status.damaged
    );
}

#[test]
fn whatever_one_disk_loses_nothing_acknowledged_is_lost_and_all_come_together() {
    let seeds = std::env::var("LOGDRIVE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let (mut cluster, mut acknowledged) = written(seed, 100 + random.below(200));
        let victim = random.below(3) as u32 + 1;
        cluster.kill(victim);
        let files = used(&mut cluster, victim);
        for _ in 0..=random.below(4) {
            let (name, end) = &files[random.below(files.len() as u64) as usize];
            let at = 4096 + random.below(end - 4096);
            cluster.node(victim).platter.flip(name, at, 1 << random.below(8));
        }
        cluster.start(victim);
        cluster.elect();
        for n in 1_000..1_032 {
            let group = n % GROUPS + 1;
            let answer = cluster.write(group, &payload(n));
            assert!(answer.result.is_ok(), "seed {seed}: {answer:?}");
            acknowledged.entry(group).or_default().push(payload(n));
        }
        cluster.run_for(ms(10_000));
        assert_whole(&mut cluster, &acknowledged);
        for node in 1..=3 {
            cluster.kill(node);
        }
        for node in 1..=3 {
            cluster.start(node);
        }
        cluster.elect();
        assert_whole(&mut cluster, &acknowledged);
    }
}

/// Turns cold: the log reads what it gives from the disk, and looks at what it has while it rests.
fn cold(seed: u64, scrub_interval_s: u32) -> Setup {
    let mut setup = Setup { groups: GROUPS, seed, ..Setup::default() };
    setup.settings.wal.segment_bytes = 64 << 10;
    setup.settings.wal.payload_bytes_max = 16 << 10;
    setup.settings.wal.batch_bytes_max = 16 << 10;
    setup.settings.payload_bytes_max = 16 << 10;
    setup.settings.wal.scrub_bytes_per_s = 64 << 20;
    setup.settings.wal.scrub_interval_s = scrub_interval_s;
    setup
}

fn fill(cluster: &mut Cluster, writes: std::ops::Range<u64>) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut acknowledged: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for n in writes {
        let (group, mut bytes) = (n % GROUPS + 1, payload(n));
        bytes.resize(700, n as u8);
        let answer = cluster.write(group, &bytes);
        assert!(answer.result.is_ok(), "{answer:?}");
        acknowledged.entry(group).or_default().push(bytes);
    }
    cluster.settle();
    acknowledged
}

/// Damages some blocks of one of a node's segments that is full of entries.
fn damage(cluster: &mut Cluster, node: u32, what: FaultKind) {
    let (name, end) = used(cluster, node).remove(4);
    for offset in (4096 * 3..end / 4096 * 4096).step_by(4096 * 3) {
        assert!(cluster.node(node).platter.damage(&name, offset, what));
    }
}

#[test]
fn damage_while_running_is_found_by_the_scrubber_and_fetched_without_a_restart() {
    let kinds = [
        FaultKind::Garbage { sector: 0, seed: 5 },
        FaultKind::Lost,
        FaultKind::Errno(libc::EIO),
        FaultKind::Flip { at: 300, mask: 2 },
    ];
    for (seed, what) in (11..).zip(kinds) {
        let mut cluster = Cluster::new(cold(seed, 2));
        cluster.elect();
        let mut acknowledged = fill(&mut cluster, 0..320);
        let victim = seed as u32 % 3 + 1;
        damage(&mut cluster, victim, what);
        cluster.run_until(ms(20_000), |cluster| cluster.core(victim).counters().healed > 0);
        cluster.run_for(ms(10_000));
        let status = cluster.core(victim).status();
        assert_eq!((status.damaged, status.disk_failing), (0, false), "{what:?}");
        assert!(cluster.core(victim).wal().damaged_entries() > 0, "{what:?}");
        let more = fill(&mut cluster, 320..352);
        more.into_iter().for_each(|(group, writes)| acknowledged.entry(group).or_default().extend(writes));
        assert_whole(&mut cluster, &acknowledged);
        // What was put back outlives the process, and the other two do not have to be there.
        for node in 1..=3 {
            cluster.kill(node);
        }
        cluster.start_alone(victim);
        assert_eq!(cluster.core(victim).status().damaged, 0, "{what:?}");
        for node in 1..=3 {
            if node != victim {
                cluster.start(node);
            }
        }
        cluster.elect();
        assert_whole(&mut cluster, &acknowledged);
    }
}

#[test]
fn a_leader_that_cannot_read_what_it_must_send_hands_over_and_is_whole_again() {
    let mut setup = cold(21, 3_600);
    // Nothing stays in memory: what a peer lacks is read from the disk.
    setup.settings.cache_bytes_max = 1 << 10;
    setup.preferred = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let leader = cluster.leader(1);
    let behind = leader % 3 + 1;
    let mut acknowledged = fill(&mut cluster, 0..32);
    cluster.partition(&[&[behind], &[leader, behind % 3 + 1]]);
    for group in 1..=GROUPS {
        cluster.run_until(ms(20_000), |cluster| {
            cluster.find_leader(group).is_some_and(|leader| leader != behind)
        });
    }
    for n in 32..480 {
        let (group, mut bytes) = (n % GROUPS + 1, payload(n));
        bytes.resize(700, n as u8);
        let leader = cluster.leader(group);
        let token = cluster.propose(leader, group, &bytes);
        let answer = cluster.wait(leader, token);
        assert!(answer.result.is_ok(), "{answer:?}");
        acknowledged.entry(group).or_default().push(bytes);
    }
    let leads = (1..=GROUPS).filter(|&group| cluster.leader(group) == leader).collect::<Vec<_>>();
    assert!(leads.contains(&1));
    for (name, end) in used(&mut cluster, leader) {
        for offset in (4096..end / 4096 * 4096).step_by(4096 * 2) {
            cluster.node(leader).platter.damage(&name, offset, FaultKind::Garbage { sector: 1, seed: 3 });
        }
    }
    cluster.heal();
    // It finds what it lacks when it reads for the one behind; somebody leads all the time, and nobody misses anything in the end.
    cluster.run_until(ms(30_000), |cluster| cluster.core(leader).wal().damaged_entries() > 0);
    cluster.run_until(ms(30_000), |cluster| {
        leads.iter().any(|&group| cluster.find_leader(group).is_some_and(|now| now != leader))
    });
    cluster.run_until(ms(60_000), |cluster| cluster.core(leader).status().damaged == 0);
    assert_whole(&mut cluster, &acknowledged);
    assert!(cluster.core(leader).counters().healed > 0);
}

/// The disk of a leader loses the only copies of what it proposed: nothing brings them back, and nobody can be handed leadership.
#[test]
fn a_leader_that_cannot_read_what_all_others_wait_for_makes_way() {
    let mut setup = cold(41, 3_600);
    setup.settings.cache_bytes_max = 1 << 10;
    setup.preferred = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let mut acknowledged = fill(&mut cluster, 0..64);
    let leader = cluster.leader(1);
    let others = [leader % 3 + 1, (leader + 1) % 3 + 1];
    others.iter().for_each(|&other| cluster.hold(leader, other));
    // More than the cache keeps.
    for n in 0..48u8 {
        cluster.propose(leader, 1, &[n; 15_000]);
    }
    cluster.run_for(ms(50));
    (1..=3).for_each(|node| cluster.kill(node));
    others.iter().for_each(|&other| cluster.unhold(leader, other));
    // It comes back with a sound log, which is damaged while it runs.
    cluster.start_alone(leader);
    for (name, end) in used(&mut cluster, leader) {
        for offset in (4096..end.next_multiple_of(4096)).step_by(4096) {
            cluster.node(leader).platter.damage(&name, offset, FaultKind::Garbage { sector: 1, seed: 3 });
        }
    }
    // With one other it leads, for its log is the longer one, and goes on leading although it gets nowhere.
    cluster.start(others[0]);
    cluster.run_until(ms(30_000), |cluster| cluster.core(leader).wal().damaged_entries() > 0);
    cluster.run_for(ms(20_000));
    assert_eq!(cluster.find_leader(1), Some(leader));
    cluster.start(others[1]);
    cluster.run_until(ms(60_000), |cluster| cluster.find_leader(1).is_some_and(|now| now != leader));
    let history = cluster.core(leader).group_status(Cluster::slot(1)).history;
    let stepped_down = HistoryEvent::SteppedDown { why: StepDown::Unreadable };
    assert!(history.iter().any(|(_, entry)| entry.event == stepped_down), "{history:?}");
    let answer = cluster.write(1, b"onward");
    assert!(answer.result.is_ok(), "{answer:?}");
    acknowledged.entry(1).or_default().push(b"onward".to_vec());
    cluster.run_until(ms(60_000), |cluster| cluster.core(leader).status().damaged == 0);
    assert_whole(&mut cluster, &acknowledged);
}

#[test]
fn damage_that_comes_back_stops_the_repairing_and_sheds_leadership_and_the_group_goes_on() {
    let mut cluster = Cluster::new(cold(31, 1));
    cluster.elect();
    let acknowledged = fill(&mut cluster, 0..320);
    let victim = 2;
    assert!((1..=GROUPS).any(|group| cluster.leader(group) == victim));
    // Whatever is written to this disk from now on rots.
    damage(&mut cluster, victim, FaultKind::Garbage { sector: 0, seed: 9 });
    let rot = Fault {
        name_contains: ".seg".to_owned(),
        durable: Some(true),
        times: u32::MAX,
        ..Fault::next(OpKind::Write, FaultKind::Garbage { sector: 1, seed: 4 })
    };
    cluster.node(victim).platter.inject(rot);
    for n in 0..400u64 {
        if cluster.core(victim).status().disk_failing {
            break;
        }
        let group = n % GROUPS + 1;
        if let Some(leader) = cluster.find_leader(group) {
            cluster.propose(leader, group, &[n as u8; 900]);
        }
        cluster.run_for(ms(250));
    }
    assert!(cluster.core(victim).status().disk_failing);
    let place = cluster.core(victim).wal().failing().expect("it fails").to_string();
    assert!(place.contains(".seg"), "{place}");
    cluster.run_until(ms(30_000), |cluster| cluster.core(victim).status().leaders == 0);
    // The repairing has ended, the groups go on.
    let (found, asked) = (cluster.core(victim).wal().damaged_entries(), cluster.core(victim).counters());
    for group in 1..=GROUPS {
        let answer = cluster.write(group, b"onward");
        assert!(answer.result.is_ok());
    }
    cluster.run_for(ms(5_000));
    assert_eq!(cluster.core(victim).counters().healed, asked.healed);
    assert!(cluster.core(victim).wal().damaged_entries() >= found);
    for (group, writes) in &acknowledged {
        let applied = &cluster.core(1).machine().entries[*group as usize - 1];
        assert!(writes.iter().all(|write| applied.iter().any(|(_, payload)| payload == write)));
    }
    // No commit rests on that disk: with one of the others away, writes wait.
    cluster.kill(3);
    cluster.elect();
    let waiting: Vec<u64> = (1..=GROUPS).map(|group| cluster.propose(1, group, b"waits")).collect();
    cluster.run_for(ms(5_000));
    let unanswered: Vec<u64> =
        waiting.into_iter().filter(|&token| cluster.answer(1, token).is_none()).collect();
    assert!(!unanswered.is_empty());
    cluster.start(3);
    for token in unanswered {
        assert!(cluster.wait(1, token).result.is_ok());
    }
}

/// The end of a group's log is lost on one disk, blocks `before ..= before + blocks` from the end, and the group's snapshot stands for it.
fn end_of_a_log_is_lost(before: u64, blocks: usize) {
    let mut setup = Setup { groups: 2, ..Setup::default() };
    let snapshots = &mut setup.settings.snapshots;
    (snapshots.every_entries, snapshots.every_bytes, snapshots.keep_trailing_entries) = (0, 0, 1_000);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let mut acknowledged: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    let mut write = |cluster: &mut Cluster, group: u64, n: u64| {
        assert!(cluster.write(group, &payload(n)).result.is_ok());
        acknowledged.entry(group).or_default().push(payload(n));
    };
    (0..20).for_each(|n| write(&mut cluster, 1, n));
    cluster.settle();
    let victim = cluster.leader(1) % 3 + 1;
    let slot = Cluster::slot(1);
    let token = cluster.ask(victim, |port, token| Event::Snapshot { port, token, slot });
    let index = cluster.wait(victim, token).result.expect("it is taken");
    assert_eq!(cluster.core(victim).group_status(slot).raft.last, index, "all of the log is in the snapshot");
    // Another group goes on: what nothing tells of this one is no torn tail.
    (20..26).for_each(|n| write(&mut cluster, 2, n));
    cluster.settle();
    cluster.run_for(ms(100));
    cluster.kill(victim);
    let (name, end) = used(&mut cluster, victim).pop().expect("there is a log");
    let at = (end - 1) / 4096 * 4096 - before * 4096;
    assert!(cluster.node(victim).platter.overwrite(&name, at, &vec![0x5a; blocks * 4096]));
    cluster.start(victim);
    cluster.elect();
    (26..32).for_each(|n| write(&mut cluster, n % 2 + 1, n));
    cluster.run_for(ms(5_000));
    assert_whole(&mut cluster, &acknowledged);
    cluster.kill(victim);
    cluster.start(victim);
    cluster.elect();
    assert_whole(&mut cluster, &acknowledged);
}

#[test]
fn the_end_of_a_log_that_a_snapshot_stands_for_may_be_lost_and_the_log_goes_on_behind_it() {
    for before in 4..14 {
        (2..5).for_each(|blocks| end_of_a_log_is_lost(before, blocks));
    }
}
