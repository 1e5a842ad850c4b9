//! Random failures over small caches and windows: nothing acknowledged is lost, all nodes apply the same.
mod common;

use std::time::Duration;

use common::{Cluster, MS, Setup, ms};
use logdrive_shard::Random;

struct Sent {
    group: u64,
    node: u32,
    boot: u64,
    token: u64,
    payload: Vec<u8>,
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut setup = Setup { groups: 6, seed, ..Setup::default() };
    if random.below(2) == 0 {
        setup.settings.cache_bytes_max = 1;
    }
    if random.below(2) == 0 {
        setup.settings.outbox_bytes_max = 30_000;
        setup.settings.peer_inflight_bytes_max = 60_000;
    }
    if random.below(2) == 0 {
        setup.settings.apply_bytes_per_turn = 2_000;
    }
    if random.below(3) == 0 {
        setup.settings.shard.append_bytes_max = 3_000;
        setup.settings.shard.inflight_messages_max = 3;
    }
    if random.below(3) == 0 {
        setup.nodes = 5;
    }
    setup.settings.wal.budget_bytes = 128 << 20;
    let nodes = setup.nodes;
    let mut cluster = Cluster::new(setup);
    let mut sent: Vec<Sent> = Vec::new();
    for step in 0..400_u64 {
        for _ in 0..random.below(12) {
            let group = random.below(6) + 1;
            let running = cluster.running();
            let Some(node) = cluster.find_leader(group).or_else(|| running.first().copied()) else {
                continue;
            };
            let mut payload = format!("{seed} {step} {}", sent.len()).into_bytes();
            let len = payload.len() + random.below(2_000) as usize;
            payload.resize(len, b'.');
            let token = cluster.propose(node, group, &payload);
            let boot = cluster.node(node).boot;
            sent.push(Sent { group, node, boot, token, payload });
        }
        match random.below(40) {
            0 => {
                let node = random.below(u64::from(nodes)) as u32 + 1;
                if cluster.is_up(node) {
                    if random.below(2) == 0 { cluster.kill(node) } else { cluster.power_loss(node) }
                }
            }
            1..4 => {
                let node = random.below(u64::from(nodes)) as u32 + 1;
                if !cluster.is_up(node) {
                    cluster.start(node);
                }
            }
            4 => {
                let a = random.below(u64::from(nodes)) as u32 + 1;
                let b = a % nodes + 1;
                cluster.disconnect(a, b);
            }
            5..8 => cluster.heal(),
            8 => {
                let from = random.below(u64::from(nodes)) as u32 + 1;
                let to = from % nodes + 1;
                cluster.set_delay(from, to, Duration::from_micros(random.below(20_000)));
            }
            9 => {
                let node = random.below(u64::from(nodes)) as u32 + 1;
                if cluster.is_up(node) {
                    let low = random.below(5 * MS);
                    cluster.core(node).wal().disk().set_latency(low..low + 1 + random.below(20 * MS));
                }
            }
            _ => {}
        }
        let micros = if random.below(8) == 0 { 400_000 } else { 8_000 };
        cluster.run_for(Duration::from_micros(random.below(micros)));
    }
    for node in 1..=nodes {
        if !cluster.is_up(node) {
            cluster.start(node);
        }
    }
    cluster.heal();
    cluster.run_for(ms(1_000));
    cluster.elect();
    cluster.settle();
    let mut acknowledged = 0;
    for sent in &sent {
        let Some(answer) = cluster.answer(sent.node, sent.token) else {
            // Unanswered only if the node that was asked died.
            assert_ne!(cluster.node(sent.node).boot, sent.boot, "seed {seed}: {} has no answer", sent.token);
            continue;
        };
        let entries = &cluster.core(1).machine().entries[sent.group as usize - 1];
        let times = entries.iter().filter(|entry| entry.1 == sent.payload).count();
        match answer.result {
            Ok(index) => {
                acknowledged += 1;
                assert!(entries.iter().any(|e| e.0 == index.0 && e.1 == sent.payload), "seed {seed}");
                assert_eq!(times, 1, "seed {seed}");
            }
            Err(error) => {
                let maybe = matches!(error, logdrive::api::Error::Indeterminate);
                assert!(times == 0 || maybe, "seed {seed}: refused with {error} and applied");
            }
        }
    }
    assert!(acknowledged > 100, "seed {seed}: only {acknowledged} of {}", sent.len());
    for node in 1..=nodes {
        assert_eq!(cluster.core(node).requests_waiting(), 0, "seed {seed}, node {node}");
    }
}

#[test]
fn nothing_acknowledged_is_lost_under_random_failures() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let first = std::env::var("FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        run(seed);
    }
}
