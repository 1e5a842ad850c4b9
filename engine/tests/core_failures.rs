//! What clients see when nodes, links and disks fail.
mod common;

use common::{Cluster, MS, Setup, ms, payload};
use logdrive::api::{Busy, Error, ReadPolicy};
use logdrive::core::{Event, Fatal};
use logdrive_shard::{LogIndex, Moment, NodeId};
use logdrive_wal::{Fault, FaultKind, OpKind};

fn one_group() -> Setup {
    Setup { groups: 1, ..Setup::default() }
}

#[test]
fn a_limit_of_10_pending_with_followers_delayed_3_s_gives_busy_appends_nothing_and_recovers() {
    let mut setup = one_group();
    setup.settings.shard.uncommitted_entries_max = 10;
    // The followers are slow, not gone: contact lasts.
    setup.settings.shard.election_base = ms(10_000);
    setup.settings.shard.election_spread = ms(1_000);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    for other in 1..=3 {
        cluster.set_delay(leader, other, ms(1_500));
        cluster.set_delay(other, leader, ms(1_500));
    }
    let taken: Vec<u64> = (0..10).map(|n| cluster.propose(leader, 1, &payload(n))).collect();
    let last = cluster.core(leader).group_status(Cluster::slot(1)).raft.last;
    let refused: Vec<u64> = (10..30).map(|n| cluster.propose(leader, 1, &payload(n))).collect();
    cluster.run_for(ms(1));
    for token in refused {
        let answer = cluster.answer(leader, token).expect("refused at once");
        assert!(matches!(answer.result, Err(Error::Busy { why: Busy::GroupUncommitted, .. })), "{answer:?}");
    }
    assert_eq!(cluster.core(leader).group_status(Cluster::slot(1)).raft.last, last);
    cluster.run_for(ms(2_900));
    assert!(taken.iter().all(|&token| cluster.answer(leader, token).is_none()));
    cluster.run_for(ms(200));
    for token in taken {
        assert!(cluster.answer(leader, token).expect("3 s have passed").result.is_ok());
    }
    assert_eq!(cluster.leader(1), leader);
    let again = cluster.propose(leader, 1, b"again");
    assert!(cluster.wait(leader, again).result.is_ok());
    cluster.run_for(ms(10_000));
    cluster.settle();
    assert_eq!(cluster.core(leader).machine().entries[0].len(), 11);
}

#[test]
fn the_bounds_of_a_core_give_busy_before_anything_is_appended() {
    let mut setup = one_group();
    setup.settings.requests_max = 5;
    setup.settings.request_bytes_max = 1000;
    setup.settings.group_reads_max = 3;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    let why = |cluster: &mut Cluster, token| match cluster.answer(leader, token).expect("at once").result {
        Err(Error::Busy { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let reads: Vec<u64> = (0..4).map(|_| cluster.read(leader, 1, ReadPolicy::Linearizable)).collect();
    let bytes: Vec<u64> = (0..2).map(|_| cluster.propose(leader, 1, &[0; 600])).collect();
    let count: Vec<u64> = (0..2).map(|_| cluster.propose(leader, 1, b"x")).collect();
    let last = cluster.core(leader).group_status(Cluster::slot(1)).raft.last;
    cluster.run_for(ms(0));
    assert_eq!(why(&mut cluster, reads[3]), Busy::GroupReads);
    assert_eq!(why(&mut cluster, bytes[1]), Busy::CoreBytes);
    assert_eq!(why(&mut cluster, count[1]), Busy::CoreRequests);
    assert_eq!(cluster.core(leader).counters().busy, 3);
    assert_eq!(last, LogIndex(3), "the no-op and two proposals");
    for token in [reads[0], reads[2], bytes[0], count[0]] {
        assert!(cluster.wait(leader, token).result.is_ok());
    }
    assert_eq!(cluster.core(leader).requests_waiting(), 0);
}

#[test]
fn replies_blocked_leader_killed_the_clients_retry_applies_twice() {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    for other in 1..=3 {
        cluster.hold(other, leader);
    }
    let token = cluster.propose(leader, 1, b"once?");
    cluster.run_for(ms(50));
    assert_eq!(cluster.answer(leader, token), None);
    cluster.kill(leader);
    for other in 1..=3 {
        cluster.unhold(other, leader);
    }
    cluster.elect();
    // The client does not know what became of it, and its request has no session.
    assert!(cluster.write(1, b"once?").result.is_ok());
    cluster.start(leader);
    cluster.elect();
    cluster.settle();
    let applied = cluster.core(leader).machine().entries[0].clone();
    assert_eq!(applied.iter().filter(|entry| entry.1 == b"once?").count(), 2);
}

#[test]
fn two_of_three_killed_pending_is_indeterminate_new_is_refused_local_reads_work_a_restart_heals() {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    assert!(cluster.write(1, b"before").result.is_ok());
    cluster.settle();
    let leader = cluster.leader(1);
    let others: Vec<u32> = (1..=3).filter(|&node| node != leader).collect();
    let pending = cluster.propose(leader, 1, b"pending");
    let read = cluster.read(leader, 1, ReadPolicy::Linearizable);
    cluster.kill(others[0]);
    cluster.kill(others[1]);
    assert_eq!(cluster.wait(leader, pending).result, Err(Error::Indeterminate));
    let error = cluster.wait(leader, read).result;
    assert_eq!(error, Err(Error::NotLeader { leader: NodeId::NONE }));
    let refused = cluster.propose(leader, 1, b"refused");
    let error = cluster.wait(leader, refused).result;
    assert_eq!(error, Err(Error::NotLeader { leader: NodeId::NONE }));
    let read = cluster.read(
        leader,
        1,
        ReadPolicy::Local { min_index: LogIndex(2), max_wait: std::time::Duration::ZERO },
    );
    let answer = cluster.wait(leader, read);
    assert_eq!((answer.result, &answer.reply[8..]), (Ok(LogIndex(2)), &b"before"[..]));
    cluster.start(others[0]);
    cluster.elect();
    assert!(cluster.write(1, b"after").result.is_ok());
    cluster.start(others[1]);
    cluster.elect();
    cluster.settle();
    let payloads: Vec<_> = cluster.core(leader).machine().entries[0].iter().map(|e| e.1.clone()).collect();
    assert_eq!(payloads.first().map(Vec::as_slice), Some(&b"before"[..]));
    assert_eq!(payloads.last().map(Vec::as_slice), Some(&b"after"[..]));
    assert!(!payloads.contains(&b"refused".to_vec()));
}

#[test]
fn a_leader_cut_off_steps_down_and_its_uncommitted_entries_are_replaced() {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    cluster.settle();
    let old = cluster.leader(1);
    let others: Vec<u32> = (1..=3).filter(|&node| node != old).collect();
    let lost = cluster.propose(old, 1, b"lost");
    cluster.partition(&[&[old], &others]);
    assert_eq!(cluster.wait(old, lost).result, Err(Error::Indeterminate));
    cluster.run_until(ms(10_000), |cluster| {
        others.iter().any(|&node| cluster.core(node).is_leader(Cluster::slot(1)))
    });
    assert!(cluster.write(1, b"kept").result.is_ok());
    cluster.heal();
    cluster.elect();
    cluster.settle();
    let entries = cluster.core(old).machine().entries[0].clone();
    assert_eq!(entries.iter().map(|entry| entry.1.clone()).collect::<Vec<_>>(), [b"kept".to_vec()]);
}

#[test]
fn out_of_space_proposals_say_so_reads_go_on_and_a_restart_still_works() {
    let mut setup = Setup { groups: 4, ..Setup::default() };
    setup.settings.wal.budget_bytes = 5 << 20;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let leader = cluster.leader(1);
    let mut written = 0_u64;
    loop {
        let token = cluster.propose(leader, 1, &vec![1; 20_000]);
        match cluster.wait(leader, token).result {
            Ok(_) => written += 1,
            Err(Error::OutOfSpace { used, budget }) => {
                assert!(used <= budget && budget == 5 << 20, "{used} of {budget}");
                break;
            }
            // A follower may be full first: then nothing more commits.
            Err(error) => panic!("{error}"),
        }
        assert!(written < 1000, "the budget was passed");
    }
    assert!(written > 50, "{written}");
    assert!(cluster.core(leader).status().log_out_of_space);
    let read = cluster.read(leader, 1, ReadPolicy::Linearizable);
    let answer = cluster.wait(leader, read);
    assert!(answer.result.is_ok());
    assert_eq!(answer.reply[..8], written.to_le_bytes());
    // Elections still go through, and reads at the new leader.
    cluster.kill(leader);
    cluster.elect();
    let next = cluster.leader(1);
    let read = cluster.read(next, 1, ReadPolicy::Linearizable);
    assert_eq!(cluster.wait(next, read).reply[..8], written.to_le_bytes());
    cluster.start(leader);
    cluster.elect();
    cluster.settle();
    assert_eq!(cluster.core(leader).machine().entries[0].len() as u64, written);
}

#[test]
fn a_full_disk_stops_writes_and_space_that_returns_resumes_them() {
    let mut cluster = Cluster::new(Setup { groups: 2, disk_bytes: 6 << 20, ..Setup::default() });
    cluster.elect();
    let leader = cluster.leader(1);
    let mut refused = None;
    for _ in 0..2000 {
        let token = cluster.propose(leader, 1, &vec![1; 20_000]);
        cluster.run_for(ms(20));
        if let Some(answer) = cluster.answer(leader, token)
            && answer.result.is_err()
        {
            refused = Some(answer.result);
            break;
        }
    }
    assert!(matches!(refused, Some(Err(Error::OutOfSpace { .. }))), "{refused:?}");
    let read = cluster.read(leader, 1, ReadPolicy::Linearizable);
    assert!(cluster.wait(leader, read).result.is_ok());
    for node in 1..=3 {
        cluster.node(node).platter.set_capacity(256 << 20);
    }
    cluster.run_for(ms(2_000));
    cluster.elect();
    assert!(cluster.write(1, b"again").result.is_ok());
    cluster.settle();
}

#[test]
fn a_poisoned_log_ends_the_core_and_nothing_more_is_acknowledged() {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    let mut fault = Fault::next(OpKind::Write, FaultKind::Errno(libc::EIO));
    fault.durable = Some(true);
    cluster.node(leader).platter.inject(fault);
    for other in 1..=3 {
        cluster.hold(other, leader);
    }
    let token = cluster.propose(leader, 1, b"never acknowledged by this node");
    cluster.run_until(ms(1_000), |cluster| cluster.node(leader).fatal.is_some());
    let Some(Fatal::LogPoisoned { error, .. }) = cluster.node(leader).fatal.clone() else {
        panic!("the log is poisoned")
    };
    assert_eq!(error.errno, libc::EIO);
    assert_eq!(cluster.answer(leader, token), None);
}

#[test]
fn frames_for_another_boot_or_group_are_ignored_and_counted() {
    let mut cluster = Cluster::new(Setup::default());
    cluster.elect();
    cluster.settle();
    // A frame from node 1 to node 2, delivered to the next life of node 2.
    cluster.stuffed.insert((1, 2));
    cluster.run_for(ms(50));
    let mut stale = Vec::new();
    let link = cluster.link(1, 2);
    assert!(cluster.core(1).take_frames(link, &mut stale));
    cluster.stuffed.clear();
    cluster.kill(2);
    cluster.start(2);
    let ignored = cluster.core(2).counters().ignored;
    let now = cluster.now;
    cluster.receive(2, 1, &stale, now);
    assert_eq!(cluster.core(2).counters().ignored, ignored + 1);
    // Bytes that are no frame are an error, for the connection to be closed.
    let link = cluster.link(2, 1);
    let last = stale.len() - 1;
    stale[last] ^= 1;
    let garbage = Event::Frame { link, bytes: &stale };
    assert!(cluster.core(2).handle(Moment(now), garbage).is_err());
    cluster.elect();
    cluster.settle();
}

#[test]
fn a_group_created_anew_under_the_same_id_is_not_joined() {
    let mut cluster = Cluster::new(one_group());
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    let other = leader % 3 + 1;
    cluster.disconnect(leader, other);
    let mut hello = cluster.core(other).hello();
    hello.groups[0].history ^= 2;
    let now = Moment(cluster.now);
    let ignored = cluster.core(leader).counters().ignored;
    cluster.core(leader).handle(now, Event::LinkUp { hello: &hello }).expect("no frame");
    assert_eq!(cluster.core(leader).counters().ignored, ignored + 1);
}

#[test]
fn a_slow_peer_neither_holds_back_others_nor_grows_memory() {
    let mut setup = Setup { groups: 8, ..Setup::default() };
    setup.settings.outbox_bytes_max = 200_000;
    setup.settings.shard.election_base = ms(60_000);
    setup.settings.shard.election_spread = ms(1_000);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let slow = 3;
    for from in 1..=2 {
        cluster.stuffed.insert((from, slow));
    }
    let mut proposed = 0;
    for round in 0..50 {
        for group in 1..=8 {
            let leader = cluster.leader(group);
            if leader == slow {
                continue;
            }
            let token = cluster.propose(leader, group, &vec![round; 5_000]);
            proposed += 1;
            assert!(cluster.wait(leader, token).result.is_ok(), "the other follower is enough");
        }
    }
    for from in 1..=2 {
        let link = cluster.link(from, slow);
        assert!(cluster.core(from).counters().held_back > 0);
        cluster.stuffed.remove(&(from, slow));
        let mut bytes = Vec::new();
        assert!(cluster.core(from).take_frames(link, &mut bytes));
        assert!(bytes.len() < 400_000, "{} bytes were queued", bytes.len());
        let now = cluster.now;
        cluster.receive(slow, from, &bytes, now);
    }
    cluster.settle();
    let applied: usize = cluster.core(slow).machine().entries.iter().map(Vec::len).sum();
    assert_eq!(applied, proposed);
}

#[test]
fn bytes_in_flight_to_a_peer_are_bounded_and_the_rest_follows_as_they_arrive() {
    let mut setup = Setup { groups: 8, ..Setup::default() };
    setup.settings.peer_inflight_bytes_max = 200_000;
    setup.settings.shard.election_base = ms(60_000);
    setup.settings.shard.election_spread = ms(1_000);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    for other in 1..=3 {
        cluster.set_delay(leader, other, ms(20));
        cluster.set_delay(other, leader, ms(20));
    }
    let mut tokens = Vec::new();
    for n in 0..200_u8 {
        tokens.push(cluster.propose(leader, 1, &vec![n; 5_000]));
        cluster.run_for(std::time::Duration::from_micros(100));
    }
    assert!(cluster.core(leader).counters().held_back > 0);
    for token in tokens {
        assert!(cluster.wait(leader, token).result.is_ok());
    }
}

#[test]
fn a_core_whose_disk_is_stuck_is_not_alive() {
    let mut setup = one_group();
    setup.settings.disk_stall = ms(300);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    cluster.settle();
    let leader = cluster.leader(1);
    // Its writes take for ever from now on, its loop turns.
    cluster.core(leader).wal().disk().set_latency(100_000 * MS..100_001 * MS);
    let token = cluster.propose(leader, 1, b"stuck here, durable elsewhere");
    cluster.run_until(ms(5_000), |cluster| {
        (1..=3).any(|node| node != leader && cluster.core(node).is_leader(Cluster::slot(1)))
    });
    assert!(!cluster.core(leader).is_leader(Cluster::slot(1)));
    // It is committed, as the core knows: it is answered when it is applied here, and not before.
    assert_eq!(cluster.answer(leader, token), None);
    let next = cluster.leader(1);
    let token = cluster.propose(next, 1, b"without it");
    assert!(cluster.wait(next, token).result.is_ok());
}

/// Terms and no-ops that the log has no space for, not even in its reserve, are not vouched for; with more budget all goes on.
#[test]
fn elections_beyond_the_reserve_vouch_for_nothing_and_heal_with_more_budget() {
    let mut setup = Setup { groups: 200, preferred: false, ..Setup::default() };
    setup.settings.wal.budget_bytes = 5 << 20;
    setup.settings.balance_leaders = false;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let leader = cluster.leader(1);
    let mut written = 0;
    loop {
        let token = cluster.propose(leader, 1, &vec![1; 20_000]);
        match cluster.wait(leader, token).result {
            Ok(_) => written += 1,
            Err(_) => break,
        }
    }
    let refused = |cluster: &mut Cluster| (1..=3).any(|node| cluster.core(node).holds_unwritten());
    let mut rounds = 0;
    while !refused(&mut cluster) {
        for group in 1..=200 {
            let Some(from) = cluster.find_leader(group) else { continue };
            cluster.transfer(from, group, from % 3 + 1);
        }
        cluster.run_for(ms(20));
        rounds += 1;
        assert!(rounds < 2_000, "the reserve lasts for ever");
    }
    cluster.run_for(ms(5_000));
    cluster.setup.settings.wal.budget_bytes = 64 << 20;
    for node in 1..=3 {
        cluster.kill(node);
        cluster.start(node);
    }
    cluster.elect();
    assert!(cluster.write(1, b"again").result.is_ok());
    cluster.settle();
    assert_eq!(cluster.core(1).machine().entries[0].len(), written + 1);
}
