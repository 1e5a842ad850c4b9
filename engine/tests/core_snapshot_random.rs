//! Snapshots all the time, and trouble of every kind: in the end everybody has the same.
mod common;

use common::{Cluster, Setup, ms, payload};
use logdrive::core::Event;
use logdrive_shard::Random;

const GROUPS: u64 = 3;

fn setup(seed: u64) -> Setup {
    let mut setup = Setup { groups: GROUPS, seed, preferred: false, ..Setup::default() };
    let snapshots = &mut setup.settings.snapshots;
    snapshots.every_entries = 30;
    snapshots.keep_trailing_entries = 5;
    snapshots.transfers_max = 1;
    snapshots.transfer_bytes_per_s = 400_000;
    snapshots.transfer_window_bytes = 16 << 10;
    snapshots.transfer_bytes_per_turn = 8 << 10;
    snapshots.files.chunk_bytes = 4096;
    snapshots.files.space_reserve_bytes = 0;
    setup
}

/// What happens next. One node is down at most.
fn trouble(cluster: &mut Cluster, random: &mut Random, written: &mut u64) {
    let node = random.below(3) as u32 + 1;
    let other = node % 3 + 1;
    let group = random.below(GROUPS) + 1;
    match random.below(12) {
        0..4 => {
            for _ in 0..random.below(30) {
                *written += 1;
                if let Some(leader) = cluster.find_leader(group) {
                    cluster.propose(leader, group, &[&payload(*written)[..], &[7; 900]].concat());
                }
                cluster.run_for(ms(2));
            }
        }
        4 if cluster.running().len() == 3 => cluster.kill(node),
        5 if cluster.running().len() == 3 => cluster.power_loss(node),
        4..8 if !cluster.is_up(node) => cluster.start(node),
        8 => cluster.disconnect(node, other),
        9 => cluster.connect(node, other),
        10 if cluster.is_up(node) => {
            if random.below(2) == 0 {
                let slot = Cluster::slot(group);
                cluster.ask(node, |port, token| Event::Snapshot { port, token, slot });
            } else {
                cluster.core(node).machine().refuses.set(1);
            }
        }
        11 => {
            if let Some(leader) = cluster.find_leader(group).filter(|leader| *leader != other) {
                cluster.transfer(leader, group, other);
            }
        }
        _ => {}
    }
}

#[test]
fn whatever_happens_while_snapshots_are_taken_and_sent_all_come_together() {
    let seeds = std::env::var("LOGDRIVE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let (mut installed, mut resumed, mut relayed, mut refused) = (0, 0, 0, 0);
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(setup(seed));
        cluster.elect();
        let mut written = 0;
        for _ in 0..120 {
            trouble(&mut cluster, &mut random, &mut written);
            cluster.run_for(ms(random.below(400)));
            for node in cluster.running() {
                let core = cluster.core(node);
                resumed += core.snapshots().stats().resumed;
                let transfers = core.transfer_counters();
                (relayed, refused) = (relayed.max(transfers.relayed), refused.max(transfers.refused));
                installed = installed.max(core.snapshot_counters().installed);
            }
        }
        for node in 1..=3 {
            if !cluster.is_up(node) {
                cluster.start(node);
            }
            cluster.core(node).machine().refuses.set(0);
        }
        cluster.heal();
        cluster.elect();
        for group in 1..=GROUPS {
            let is_written = (0..20).any(|_| {
                cluster.run_for(ms(200));
                cluster.find_leader(group).is_some() && cluster.write(group, b"the last one").result.is_ok()
            });
            assert!(is_written, "seed {seed}");
        }
        cluster.settle();
    }
    if seeds >= 20 {
        assert!(
            installed > 0 && resumed > 0 && relayed > 0 && refused > 0,
            "{installed} installed, {resumed} resumed, {relayed} relayed, {refused} refused"
        );
    }
}
