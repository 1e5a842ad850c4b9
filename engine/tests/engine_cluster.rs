//! Three nodes in one process: what a program that embeds the engine sees.

#![allow(clippy::unwrap_used)]

mod engine_common;

use std::time::Duration;

use engine_common::{Cluster, eventually, get, increment, log_to_stderr, set};
use futures_lite::future::{block_on, poll_once};
use logdrive::api::{Busy, Error, ReadPolicy};
use logdrive::kv::Reply;
use logdrive::runtime::{Group, SettingsError, StartError};
use logdrive_shard::{GroupId, LogIndex, NodeId, Role};

const LOCAL: ReadPolicy = ReadPolicy::Local { min_index: LogIndex(0), max_wait: Duration::ZERO };

#[test]
fn what_is_proposed_at_the_leader_is_read_under_every_policy_on_every_node() {
    log_to_stderr();
    let cluster = Cluster::start(3, 1, 8);
    for group in 1..=8 {
        cluster.set(group, "color", &format!("blue {group}"));
    }
    for group in 1..=8 {
        let expected = Some(format!("blue {group}"));
        assert_eq!(cluster.get(group, "color"), expected);
        let leader = cluster.leader(group);
        assert_eq!(cluster.read(leader, group, "color", ReadPolicy::LeaderLease), Ok(expected.clone()));
        for id in 1..=3 {
            let local = || cluster.read(id, group, "color", LOCAL).ok().filter(|value| *value == expected);
            eventually("the value is applied here too", local);
        }
        assert_eq!(cluster.get(group, "shape"), None);
    }
    cluster.await_equal();
}

#[test]
fn a_follower_says_who_leads_and_a_read_of_the_future_says_how_far_it_is() {
    let cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "a", "1");
    let leader = cluster.leader(1);
    let follower = 1 + leader % 3;
    let known = || (cluster.engine(follower).leader_of(GroupId(1)) == NodeId(leader)).then_some(());
    eventually("the follower knows the leader", known);
    let refused = block_on(cluster.group(follower, 1).propose(set("a", "2")));
    assert_eq!(refused, Err(Error::NotLeader { leader: NodeId(leader) }));
    let far = ReadPolicy::Local { min_index: LogIndex(1_000_000), max_wait: Duration::ZERO };
    let lagging = cluster.read(follower, 1, "a", far);
    assert!(matches!(lagging, Err(Error::CommitLagging { want: LogIndex(1_000_000), .. })), "{lagging:?}");
    assert!(matches!(cluster.engine(1).group(GroupId(2)), Err(Error::NoSuchGroup)));
    assert!(matches!(cluster.engine(1).group(GroupId(0)), Err(Error::NoSuchGroup)));
}

#[test]
fn a_batch_is_answered_in_order_and_a_dropped_future_does_no_harm() {
    let cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "n", "0");
    let group = cluster.group(cluster.leader(1), 1);
    let payloads: Vec<_> = (0..100).map(|n| set("n", &n.to_string())).collect();
    let replies = block_on(group.propose_batch(payloads));
    assert_eq!(replies.len(), 100);
    for reply in replies {
        assert_eq!(Reply::decode(&reply.unwrap()).unwrap(), Reply::Ok);
    }
    assert_eq!(cluster.get(1, "n").as_deref(), Some("99"));
    assert_eq!(block_on(group.propose_batch(Vec::new())), []);

    let mut forgotten = Box::pin(group.propose(set("n", "forgotten")));
    assert!(block_on(poll_once(&mut forgotten)).is_none_or(|reply| reply.is_ok()));
    drop(forgotten);
    // It may take effect all the same: what is proposed behind it comes after it.
    cluster.set(1, "n", "last");
    assert_eq!(cluster.get(1, "n").as_deref(), Some("last"));
}

#[test]
fn a_session_goes_on_at_the_next_leader_and_counts_once() {
    let mut cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "n", "0");
    let leader = cluster.leader(1);
    let group = cluster.group(leader, 1);
    let mut session = block_on(group.open_session()).unwrap();
    let first = session.next_call().unwrap();
    let one = block_on(group.propose_in_session(first, increment("n"))).unwrap();
    assert_eq!(Reply::decode(&one).unwrap(), Reply::Integer(1));
    // The client did not see the answer; the leader dies, and the same call goes to whoever leads next.
    cluster.crash(leader);
    let next = cluster.leader(1);
    let group = cluster.group(next, 1);
    let ask = |call, group: &Group| {
        eventually("the session's command is answered", || {
            match block_on(group.propose_in_session(call, increment("n"))) {
                Ok(reply) => Some(reply),
                Err(Error::NotLeader { .. } | Error::Busy { .. } | Error::Indeterminate) => None,
                Err(error) => panic!("{error}"),
            }
        })
    };
    assert_eq!(ask(first, &group), one);
    session.answered(first);
    let second = session.next_call().unwrap();
    let two = ask(second, &group);
    assert_eq!(Reply::decode(&two).unwrap(), Reply::Integer(2));
    assert_eq!(cluster.get(1, "n").as_deref(), Some("2"));
    block_on(group.keep_session(session.id())).unwrap();
    block_on(group.close_session(session.id())).unwrap();
    let ended = block_on(group.propose_in_session(second, increment("n")));
    assert_eq!(ended, Err(Error::UnknownSession { session: session.id() }));
    cluster.start_node(leader);
    cluster.await_equal();
}

#[test]
fn a_payload_over_the_limit_is_refused_and_nothing_is_appended() {
    let mut cluster = Cluster::new(3, 1, 1);
    for id in 1..=3 {
        cluster.settings(id).core.payload_bytes_max = 1000;
        cluster.start_node(id);
    }
    cluster.set(1, "a", "1");
    let group = cluster.group(cluster.leader(1), 1);
    let before = block_on(group.status()).unwrap();
    let refused = block_on(group.propose(vec![0; 1001]));
    assert_eq!(refused, Err(Error::PayloadTooLarge { bytes: 1001, limit: 1000 }));
    assert_eq!(block_on(group.status()).unwrap().raft.last, before.raft.last);
}

#[test]
fn what_does_not_fit_into_the_sockets_at_once_arrives_all_the_same() {
    let mut cluster = Cluster::new(3, 1, 2);
    for id in 1..=3 {
        // Little may wait for the log, which writes one batch at a time: readers pause and go on.
        cluster.settings(id).core.log_backlog_bytes_max = 64 << 10;
        cluster.settings(id).core.wal.writes_in_flight = 1;
        cluster.settings(id).runtime.socket_buffer_bytes = 64 << 10;
        cluster.settings(id).core.wal.budget_bytes = 512 << 20;
        cluster.start_node(id);
    }
    cluster.set(1, "k", "first");
    cluster.set(2, "k", "first");
    let value = "v".repeat(250 << 10);
    for round in 0..4 {
        // Far more than a socket holds, in one turn.
        let groups: Vec<_> =
            (1..=2).map(|group| (group, cluster.group(cluster.leader(group), group))).collect();
        for (group, handle) in groups {
            let payloads = (0..20).map(|n| set(&format!("{round}-{n}"), &value)).collect();
            let taken = block_on(handle.propose_batch(payloads)).into_iter().filter(Result::is_ok).count();
            assert!(taken > 0, "round {round}, group {group}");
        }
    }
    cluster.set(1, "k", "last");
    cluster.set(2, "k", "last");
    cluster.await_equal();
    assert_eq!(cluster.get(2, "k").as_deref(), Some("last"));
    let counters: Vec<_> = (1..=3).map(|id| cluster.engine(id).counters()).collect();
    assert!(counters.iter().any(|node| node.writes_blocked > 0), "{counters:?}");
    assert!(counters.iter().any(|node| node.reads_paused > 0), "{counters:?}");
    assert!(counters.iter().all(|node| node.frames_refused == 0), "{counters:?}");
}

#[test]
fn requests_beyond_the_queue_of_a_core_are_busy() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.settings(1).runtime.queue_requests_max = 10;
    cluster.start_node(1);
    cluster.set(1, "a", "1");
    let group = cluster.group(1, 1);
    // The core takes what is queued in no time: ask faster than it can look.
    let refused = eventually("the queue is full", || {
        let mut asked: Vec<_> = (0..100).map(|_| Box::pin(group.read(LOCAL, get("a")))).collect();
        let begun: Vec<_> = asked.iter_mut().filter_map(|read| block_on(poll_once(read))).collect();
        begun.into_iter().find_map(Result::err)
    });
    assert!(matches!(refused, Error::Busy { why: Busy::Queue, .. }), "{refused:?}");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
}

/// Three nodes with one group, whose leader stays where it is.
fn unbalanced() -> (Cluster, u32, Group) {
    let mut cluster = Cluster::new(3, 1, 1);
    for id in 1..=3 {
        cluster.settings(id).core.balance_leaders = false;
        cluster.start_node(id);
    }
    cluster.set(1, "a", "1");
    let leader = cluster.leader(1);
    let group = cluster.group(leader, 1);
    (cluster, leader, group)
}

#[test]
fn leadership_is_transferred_to_a_voter_and_to_nobody_else() {
    let (cluster, leader, group) = unbalanced();
    let to = NodeId(1 + leader % 3);
    assert_eq!(block_on(group.transfer_leadership(NodeId(9))), Err(Error::BadTransferee { to: NodeId(9) }));
    assert_eq!(block_on(group.transfer_leadership(NodeId(leader))), Ok(()));
    assert_eq!(block_on(group.transfer_leadership(to)), Ok(()));
    eventually("the new leader says so itself", || (cluster.leader(1) == to.0).then_some(()));
    let refused = block_on(group.transfer_leadership(NodeId(leader)));
    assert_eq!(refused, Err(Error::NotLeader { leader: to }));
    cluster.set(1, "a", "2");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("2"));
}

#[test]
fn a_transfer_can_be_called_off() {
    let (mut cluster, leader, group) = unbalanced();
    let (gone, other) = (NodeId(1 + leader % 3), 1 + (leader + 1) % 3);
    assert_eq!(block_on(group.cancel_transfer()), Ok(None));
    let refused = block_on(cluster.group(other, 1).cancel_transfer());
    assert!(matches!(refused, Err(Error::NotLeader { .. })), "{refused:?}");
    cluster.shutdown(gone.0);
    eventually("a transfer that is called off", || {
        // A machine with much else to do may cost leaderships; then it is the other one's, and all is tried again.
        let group = cluster.group(cluster.leader(1), 1);
        let transfer = group.transfer_leadership(gone);
        let waits = std::thread::spawn(move || block_on(transfer));
        let was_cancelled = eventually("the transfer to be called off, or over", || {
            let cancelled = block_on(group.cancel_transfer()) == Ok(Some(gone));
            (cancelled || waits.is_finished()).then_some(cancelled)
        });
        let ended = waits.join().expect("the transfer ends");
        assert!(!was_cancelled || ended == Err(Error::TransferCancelled { to: gone }), "{ended:?}");
        was_cancelled.then_some(())
    });
    cluster.set(1, "a", "2");
}

#[test]
fn status_tells_roles_links_and_progress() {
    let cluster = Cluster::start(3, 1, 6);
    cluster.await_leaders();
    for group in 1..=6 {
        cluster.set(group, "k", "v");
    }
    eventually("six leaders, and everybody in contact", || {
        let all: Vec<_> = (1..=3).flat_map(|id| cluster.engine(id).status()).collect();
        let leaders: u32 = all.iter().map(|core| core.leaders).sum();
        let links: u32 = all.iter().map(|core| core.links_alive).sum();
        let followers: u32 = all.iter().map(|core| core.followers).sum();
        (leaders == 6 && followers == 12 && links == 6).then_some(())
    });
    for id in 1..=3 {
        let peers = cluster.engine(id).peers();
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|peer| peer.links == 1 && peer.cores == 1 && peer.refused.is_none()));
        let status = cluster.engine(id).status();
        assert_eq!(status.len(), 1);
        assert!(status[0].log_writes > 0 && status[0].log_used_bytes > 0);
    }
    let group = cluster.group(cluster.leader(1), 1);
    let status = block_on(group.status()).unwrap();
    assert_eq!((status.id, status.raft.role), (GroupId(1), Role::Leader));
    assert_eq!(status.raft.peers.len(), 2);
}

#[test]
fn a_restarted_node_catches_up_and_a_whole_cluster_comes_back_with_its_data() {
    log_to_stderr();
    let mut cluster = Cluster::start(3, 1, 4);
    for group in 1..=4 {
        cluster.set(group, "before", "crash");
    }
    cluster.crash(2);
    for group in 1..=4 {
        cluster.set(group, "while", "away");
    }
    cluster.start_node(2);
    cluster.await_equal();
    assert_eq!(cluster.read(2, 3, "while", LOCAL), Ok(Some("away".to_owned())));

    for id in 1..=3 {
        cluster.shutdown(id);
    }
    for id in 1..=3 {
        cluster.start_node(id);
    }
    for group in 1..=4 {
        assert_eq!(cluster.get(group, "before").as_deref(), Some("crash"));
        assert_eq!(cluster.get(group, "while").as_deref(), Some("away"));
    }
}

#[test]
fn a_node_that_shuts_down_hands_its_groups_over_and_ends_what_it_was_asked() {
    let mut cluster = Cluster::start(3, 1, 6);
    cluster.await_leaders();
    for group in 1..=6 {
        cluster.set(group, "k", "v");
    }
    let orphan: Group = cluster.group(1, 1);
    cluster.shutdown(1);
    assert_eq!(block_on(orphan.propose(set("k", "w"))), Err(Error::Stopped));
    assert_eq!(block_on(orphan.read(LOCAL, get("k"))), Err(Error::Stopped));
    assert!(block_on(orphan.status()).is_err());
    for group in 1..=6 {
        assert_ne!(cluster.leader(group), 1);
        cluster.set(group, "k", "later");
    }
}

#[test]
fn a_single_node_needs_nobody() {
    let mut cluster = Cluster::start(1, 1, 2);
    cluster.set(1, "a", "1");
    cluster.set(2, "a", "2");
    cluster.shutdown(1);
    cluster.start_node(1);
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
    assert_eq!(cluster.get(2, "a").as_deref(), Some("2"));
}

#[test]
fn settings_that_contradict_themselves_are_refused_with_the_reason() {
    #[track_caller]
    fn refused(change: impl FnOnce(&mut Cluster)) -> SettingsError {
        let mut cluster = Cluster::new(3, 1, 1);
        change(&mut cluster);
        match cluster.try_start(1, Vec::new()) {
            Err(StartError::Settings(error)) => error,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    let node = NodeId(1);
    assert_eq!(refused(|c| c.settings(1).node = NodeId(0)), SettingsError::NodeZero);
    assert_eq!(refused(|c| c.settings(1).cluster = 0), SettingsError::ClusterZero);
    assert_eq!(
        refused(|c| c.settings(1).nodes.retain(|n| n.node != node)),
        SettingsError::SelfMissing { node }
    );
    assert_eq!(refused(|c| c.settings(1).nodes[1].node = node), SettingsError::DuplicateNode { node });
    assert_eq!(refused(|c| c.settings(1).cores = 0), SettingsError::NoCores);
    assert!(matches!(refused(|c| c.settings(1).groups = 0), SettingsError::Groups { groups: 0, .. }));
    assert!(matches!(refused(|c| c.settings(1).pin_from = Some(100_000)), SettingsError::Pinning { .. }));
}

#[test]
fn an_address_in_use_is_named() {
    let mut cluster = Cluster::new(1, 1, 1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    cluster.settings(1).listener = None;
    cluster.settings(1).listen = wanted;
    match cluster.try_start(1, Vec::new()) {
        Err(StartError::Listen { address, error }) => {
            assert_eq!(address, wanted);
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        }
        other => panic!("expected the address to be refused, got {other:?}"),
    }
    // Nothing is left behind: the directory is free again.
    drop(taken);
    cluster.start_node(1);
    cluster.set(1, "a", "1");
}

#[test]
fn two_of_three_are_enough_and_one_is_not() {
    let mut cluster = Cluster::start(3, 1, 1);
    cluster.set(1, "a", "1");
    let leader = cluster.leader(1);
    let (second, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
    cluster.crash(second);
    cluster.set(1, "a", "2");
    cluster.crash(third);
    let group = cluster.group(leader, 1);
    // The last one cannot commit: what it took is not known to be committed, later ones are refused.
    let failed = eventually("the minority gives up", || block_on(group.propose(set("a", "3"))).err());
    assert!(matches!(failed, Error::Indeterminate | Error::NotLeader { .. }), "{failed:?}");
    assert_eq!(cluster.read(leader, 1, "a", LOCAL), Ok(Some("2".to_owned())));
    cluster.start_node(second);
    cluster.set(1, "a", "4");
    assert_eq!(cluster.get(1, "a").as_deref(), Some("4"));
    let stopping = std::thread::spawn(move || cluster.shutdown(second));
    eventually("a shutdown that cannot hand over ends all the same", || {
        stopping.is_finished().then_some(Duration::ZERO)
    });
    stopping.join().unwrap();
}
