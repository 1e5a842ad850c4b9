//! Three cores elect, commit, apply, answer, read, restart, catch up.
mod common;

use common::{Cluster, Setup, ms, payload};
use logdrive::api::{Error, ReadPolicy};
use logdrive_shard::{LogIndex, NodeId};

#[test]
fn three_cores_elect_commit_apply_and_answer() {
    let mut cluster = Cluster::new(Setup::default());
    cluster.elect();
    let mut tokens = Vec::new();
    for n in 0..640 {
        let group = n % 64 + 1;
        let leader = cluster.leader(group);
        tokens.push((leader, cluster.propose(leader, group, &payload(n)), n));
    }
    cluster.run_for(ms(100));
    for (leader, token, n) in tokens {
        let answer = cluster.answer(leader, token).expect("answered");
        assert!(answer.result.is_ok(), "{:?}", answer.result);
        assert_eq!(answer.reply, payload(n));
    }
    cluster.settle();
}

#[test]
fn proposals_are_pipelined_many_in_one_round_trip() {
    let mut cluster = Cluster::new(Setup { groups: 1, ..Setup::default() });
    cluster.elect();
    let leader = cluster.leader(1);
    for other in 1..=3 {
        cluster.set_delay(leader, other, ms(10));
        cluster.set_delay(other, leader, ms(10));
    }
    // One turn each: every millisecond a proposal, none waits for the one before.
    let mut tokens = Vec::new();
    for n in 0..40 {
        tokens.push(cluster.propose(leader, 1, &payload(n)));
        cluster.run_for(ms(1));
    }
    cluster.run_for(ms(25));
    for token in tokens {
        assert!(cluster.answer(leader, token).expect("within 25 ms of the last").result.is_ok());
    }
}

#[test]
fn a_restarted_node_replays_what_its_disk_has_and_catches_up() {
    let mut cluster = Cluster::new(Setup::default());
    cluster.elect();
    for n in 0..256 {
        let group = n % 64 + 1;
        let leader = cluster.leader(group);
        cluster.propose(leader, group, &payload(n));
        if n % 64 == 63 {
            cluster.settle();
        }
    }
    cluster.kill(2);
    cluster.elect();
    for n in 256..384 {
        let group = n % 64 + 1;
        let leader = cluster.leader(group);
        cluster.propose(leader, group, &payload(n));
    }
    cluster.settle();
    cluster.start_alone(2);
    let replayed: usize = cluster.core(2).machine().entries.iter().map(Vec::len).sum();
    assert!((192..=256).contains(&replayed), "nearly all was known committed before: {replayed}");
    for other in [1, 3] {
        cluster.connect(2, other);
    }
    cluster.elect();
    cluster.settle();
    let applied: usize = cluster.core(2).machine().entries.iter().map(Vec::len).sum();
    assert_eq!(applied, 384);
}

#[test]
fn all_nodes_may_lose_power_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(Setup { groups: 16, ..Setup::default() });
    cluster.elect();
    let mut sent = Vec::new();
    for n in 0..400 {
        let group = n % 16 + 1;
        let leader = cluster.leader(group);
        sent.push((group, leader, cluster.propose(leader, group, &payload(n)), payload(n)));
        if n % 16 == 15 {
            cluster.run_for(ms(0) + std::time::Duration::from_micros(150));
        }
    }
    for node in 1..=3 {
        cluster.power_loss(node);
    }
    for node in 1..=3 {
        cluster.start(node);
    }
    cluster.elect();
    cluster.settle();
    let mut acknowledged = 0;
    for (group, leader, token, payload) in sent {
        if cluster.answer(leader, token).is_some_and(|answer| answer.result.is_ok()) {
            acknowledged += 1;
            let entries = &cluster.core(1).machine().entries[group as usize - 1];
            assert_eq!(entries.iter().filter(|entry| entry.1 == payload).count(), 1);
        }
    }
    assert!(acknowledged > 100, "{acknowledged}");
}

#[test]
fn a_follower_catches_up_from_cold_log_reads() {
    let mut setup = Setup { groups: 4, ..Setup::default() };
    // Far less than what is written: catching up needs the log.
    setup.settings.cache_bytes_max = 1;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.kill(3);
    cluster.elect();
    for n in 0..2000_u64 {
        let group = n % 4 + 1;
        let leader = cluster.leader(group);
        let mut bytes = payload(n);
        bytes.resize(1000, 7);
        cluster.propose(leader, group, &bytes);
        if n % 100 == 99 {
            cluster.settle();
        }
    }
    let (evicted, _) = cluster.core(1).cache_evictions_and_read_errors();
    assert!(evicted > 0, "the cache kept its bound");
    assert!(cluster.core(1).status().cache_bytes <= 256 << 10);
    cluster.start(3);
    cluster.elect();
    cluster.settle();
    assert_eq!(cluster.core(3).machine().entries.iter().map(Vec::len).sum::<usize>(), 2000);
    let cold: u64 = [1, 2].map(|node| cluster.core(node).counters().cold_entries).iter().sum();
    assert!(cold >= 1000, "{cold} entries came from the log");
}

#[test]
fn entries_that_left_the_cache_before_they_were_applied_are_read_back() {
    let mut setup = Setup { groups: 2, ..Setup::default() };
    setup.settings.cache_bytes_max = 1;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let leader = cluster.leader(1);
    // 1 MB in one turn, through a cache of 256 KiB.
    let tokens: Vec<u64> = (0..100).map(|n| cluster.propose(leader, 1, &vec![n; 10_000])).collect();
    for token in tokens {
        assert!(cluster.wait(leader, token).result.is_ok());
    }
    cluster.settle();
    assert!(cluster.core(leader).counters().cold_entries > 0);
}

#[test]
fn a_linearizable_read_sees_every_write_acknowledged_before_it() {
    let mut cluster = Cluster::new(Setup { groups: 4, ..Setup::default() });
    cluster.elect();
    for n in 0..50_u64 {
        let group = n % 4 + 1;
        assert!(cluster.write(group, &payload(n)).result.is_ok());
        let leader = cluster.leader(group);
        let policy = if n % 2 == 0 { ReadPolicy::Linearizable } else { ReadPolicy::LeaderLease };
        let read = cluster.read(leader, group, policy);
        let answer = cluster.wait(leader, read);
        assert!(answer.result.is_ok());
        assert_eq!(answer.reply[8..], payload(n));
        let follower = leader % 3 + 1;
        let refused = cluster.read(follower, group, policy);
        let leader = NodeId(leader);
        assert_eq!(cluster.wait(follower, refused).result, Err(Error::NotLeader { leader }));
    }
}

#[test]
fn many_reads_share_one_round() {
    let mut cluster = Cluster::new(Setup { groups: 1, ..Setup::default() });
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    let frames = cluster.core(leader).counters().frames_out;
    let reads: Vec<u64> = (0..1000).map(|_| cluster.read(leader, 1, ReadPolicy::Linearizable)).collect();
    cluster.run_for(ms(5));
    for read in reads {
        assert!(cluster.answer(leader, read).expect("answered").result.is_ok());
    }
    assert!(cluster.core(leader).counters().frames_out - frames <= 6);
}

#[test]
fn a_local_read_names_the_index_it_needs() {
    let mut cluster = Cluster::new(Setup { groups: 1, ..Setup::default() });
    cluster.elect();
    let written = cluster.write(1, b"x").result.expect("written");
    let follower = cluster.leader(1) % 3 + 1;
    let early = cluster.read(
        follower,
        1,
        ReadPolicy::Local { min_index: written.next(), max_wait: std::time::Duration::ZERO },
    );
    let Err(Error::CommitLagging { have, want }) = cluster.wait(follower, early).result else {
        panic!("nothing beyond the last entry can be applied")
    };
    assert!(have <= written && want == written.next());
    cluster.settle();
    let read = cluster.read(
        follower,
        1,
        ReadPolicy::Local { min_index: written, max_wait: std::time::Duration::ZERO },
    );
    let answer = cluster.wait(follower, read);
    assert_eq!(answer.result, Ok(written));
    assert_eq!(answer.reply[8..], *b"x");
}

#[test]
fn requests_to_groups_that_do_not_live_here_and_oversized_payloads_are_refused() {
    let mut setup = Setup { groups: 1, ..Setup::default() };
    setup.settings.payload_bytes_max = 100;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let token = cluster.propose(1, 99, b"x");
    assert_eq!(cluster.wait(1, token).result, Err(Error::NoSuchGroup));
    let token = cluster.read(1, 99, ReadPolicy::Linearizable);
    assert_eq!(cluster.wait(1, token).result, Err(Error::NoSuchGroup));
    let leader = cluster.leader(1);
    let token = cluster.propose(leader, 1, &[0; 101]);
    let error = Error::PayloadTooLarge { bytes: 101, limit: 100 };
    assert_eq!(cluster.wait(leader, token).result, Err(error));
    let token = cluster.propose(leader, 1, &[0; 100]);
    assert!(cluster.wait(leader, token).result.is_ok());
    let token = cluster.propose(leader, 1, &[]);
    assert!(cluster.wait(leader, token).result.is_ok(), "an empty payload is a payload");
    cluster.settle();
    assert_eq!(cluster.core(leader).machine().entries[0].len(), 2);
}

#[test]
fn a_single_voter_needs_nobody() {
    let mut cluster = Cluster::new(Setup { nodes: 1, groups: 3, ..Setup::default() });
    cluster.elect();
    let token = cluster.propose(1, 2, b"alone");
    assert_eq!(cluster.wait(1, token).result, Ok(LogIndex(2)));
    let read = cluster.read(1, 2, ReadPolicy::Linearizable);
    assert_eq!(cluster.wait(1, read).result, Ok(LogIndex(2)));
}
