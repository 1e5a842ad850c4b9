//! Sessions: a command is executed once, whatever is lost, repeated, restarted or handed over in between.
mod common;

use std::time::Duration;

use common::{Cluster, Setup, ms};
use logdrive::api::Error;
use logdrive_shard::{LogIndex, SESSION_WINDOW, SessionOp};

fn command(session: u64, sequence: u64, command: &[u8]) -> SessionOp<'_> {
    SessionOp::Command { session, sequence, answered_below: 1, command }
}

fn one_group() -> Cluster {
    let mut cluster = Cluster::new(Setup { groups: 1, preferred: false, ..Setup::default() });
    cluster.elect();
    cluster
}

/// How often each node applied `payload` in group 1.
fn times_applied(cluster: &mut Cluster, payload: &[u8]) -> Vec<usize> {
    cluster.settle();
    let running = cluster.running();
    running
        .into_iter()
        .map(|node| cluster.core(node).machine().entries[0].iter().filter(|(_, p)| p == payload).count())
        .collect()
}

fn digests(cluster: &mut Cluster) -> Vec<u64> {
    cluster.settle();
    let running = cluster.running();
    running.into_iter().map(|node| cluster.core(node).group_digest(Cluster::slot(1)).digest).collect()
}

#[test]
fn a_retry_after_a_lost_reply_applies_once_in_a_session_and_twice_outside() {
    let mut cluster = one_group();
    let session = cluster.open_session(1);
    let leader = cluster.leader(1);
    // The followers get the entries; that they have them does not come back before the leader dies.
    for follower in (1..=3).filter(|&node| node != leader) {
        cluster.hold(follower, leader);
    }
    cluster.session(leader, 1, command(session, 1, b"inside"));
    cluster.propose(leader, 1, b"outside");
    cluster.run_for(ms(20));
    cluster.kill(leader);
    for follower in 1..=3 {
        cluster.unhold(follower, leader);
    }
    cluster.elect();
    let next = cluster.leader(1);
    let token = cluster.session(next, 1, command(session, 1, b"inside"));
    let first = cluster.wait(next, token);
    assert_eq!(first.reply, b"inside");
    assert!(cluster.write(1, b"outside").result.is_ok());
    let token = cluster.session(next, 1, command(session, 1, b"inside"));
    assert_eq!(cluster.wait(next, token), first, "the index and the reply of the first execution");
    cluster.start(leader);
    cluster.elect();
    assert_eq!(times_applied(&mut cluster, b"inside"), [1, 1, 1]);
    assert_eq!(times_applied(&mut cluster, b"outside"), [2, 2, 2]);
}

#[test]
fn members_stay_equal_though_a_leader_was_asked_for_a_session_that_never_came_about() {
    let mut cluster = one_group();
    let leader = cluster.leader(1);
    let others = [leader % 3 + 1, (leader + 1) % 3 + 1];
    for other in others {
        cluster.hold(leader, other);
    }
    cluster.session(leader, 1, SessionOp::Open);
    cluster.run_until(ms(10_000), |cluster| cluster.find_leader(1).is_some_and(|now| now != leader));
    for other in others {
        cluster.lose(leader, other);
        cluster.unhold(leader, other);
    }
    cluster.elect();
    assert!(cluster.write(1, b"next").result.is_ok());
    let digests = digests(&mut cluster);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:x?}");
}

#[test]
fn copies_that_meet_in_one_turn_are_executed_once_and_answered_alike_in_order() {
    let mut cluster = one_group();
    let (one, other) = (cluster.open_session(1), cluster.open_session(1));
    let leader = cluster.leader(1);
    let before = cluster.propose(leader, 1, b"before");
    let copies: Vec<u64> = (0..3).map(|_| cluster.session(leader, 1, command(one, 1, b"a"))).collect();
    let between = cluster.propose(leader, 1, b"between");
    let again = cluster.session(leader, 1, command(one, 1, b"a"));
    let stranger = cluster.session(leader, 1, command(other, 1, b"b"));
    let closed = cluster.session(leader, 1, SessionOp::Close { session: other });
    let late = cluster.session(leader, 1, command(other, 2, b"c"));
    let kept = cluster.session(leader, 1, SessionOp::KeepAlive { session: one });
    cluster.wait(leader, kept);
    let first = cluster.answer(leader, copies[0]).unwrap();
    assert_eq!(first.reply, b"a");
    for token in [copies[1], copies[2], again] {
        assert_eq!(cluster.answer(leader, token).unwrap(), first);
    }
    for (token, reply) in [(before, &b"before"[..]), (between, b"between"), (stranger, b"b"), (closed, b"")] {
        let answer = cluster.answer(leader, token).unwrap();
        assert!(answer.result.is_ok());
        assert_eq!(answer.reply, reply);
    }
    let late = cluster.answer(leader, late).unwrap();
    assert_eq!(late.result, Err(Error::UnknownSession { session: other }));
    for (payload, times) in [(&b"a"[..], 1), (b"b", 1), (b"c", 0), (b"between", 1)] {
        assert_eq!(times_applied(&mut cluster, payload), [times; 3]);
    }
    assert_eq!(cluster.core(leader).requests_waiting(), 0);
}

#[test]
fn a_restart_replays_the_sessions_with_their_replies() {
    let mut cluster = one_group();
    let session = cluster.open_session(1);
    let leader = cluster.leader(1);
    let mut answers = Vec::new();
    for sequence in 1..=5 {
        let payload = [sequence as u8; 40];
        let token = cluster.session(leader, 1, command(session, sequence, &payload));
        answers.push(cluster.wait(leader, token));
    }
    let before = digests(&mut cluster);
    assert!(before.iter().all(|&digest| digest == before[0]));
    for node in 1..=3 {
        cluster.power_loss(node);
    }
    for node in 1..=3 {
        cluster.start(node);
    }
    cluster.elect();
    let after = digests(&mut cluster);
    assert!(after.iter().all(|&digest| digest == after[0]));
    let leader = cluster.leader(1);
    for sequence in 1..=5 {
        let payload = [sequence as u8; 40];
        let token = cluster.session(leader, 1, command(session, sequence, &payload));
        assert_eq!(cluster.wait(leader, token), answers[sequence as usize - 1]);
        assert_eq!(times_applied(&mut cluster, &payload), [1; 3]);
    }
    assert_eq!(cluster.core(leader).group_status(Cluster::slot(1)).sessions, 1);
}

#[test]
fn what_a_session_may_not_do_is_refused_by_name() {
    let mut cluster = one_group();
    let session = cluster.open_session(1);
    let leader = cluster.leader(1);
    let token = cluster.session(leader, 1, command(session, SESSION_WINDOW + 1, b"far"));
    let refused = Error::SessionSequence { sequence: SESSION_WINDOW + 1, from: 1 };
    assert_eq!(cluster.wait(leader, token).result, Err(refused));
    let token = cluster.session(leader, 1, command(session + 7, 1, b"stranger"));
    assert_eq!(cluster.wait(leader, token).result, Err(Error::UnknownSession { session: session + 7 }));
    let follower = leader % 3 + 1;
    let token = cluster.session(follower, 1, command(session, 1, b"elsewhere"));
    let answer = cluster.wait(follower, token);
    assert!(matches!(answer.result, Err(Error::NotLeader { leader: node }) if node.0 == leader));
    assert!(cluster.core(leader).machine().entries[0].is_empty());
}

#[test]
fn sessions_expire_by_the_log_under_whichever_leader() {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.session_expiry = Duration::from_secs(10);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let (idle, busy) = (cluster.open_session(1), cluster.open_session(1));
    // Time passes, and leaders with it: none of the clocks starts again.
    for round in 1..=4_u64 {
        cluster.run_for(ms(4_000));
        let leader = cluster.leader(1);
        let token = cluster.session(leader, 1, command(busy, round, b"busy"));
        assert!(cluster.wait(leader, token).result.is_ok());
        cluster.kill(leader);
        cluster.elect();
        cluster.start(leader);
        cluster.elect();
    }
    let leader = cluster.leader(1);
    let token = cluster.session(leader, 1, command(idle, 1, b"idle"));
    assert_eq!(cluster.wait(leader, token).result, Err(Error::UnknownSession { session: idle }));
    let token = cluster.session(leader, 1, command(busy, 5, b"busy"));
    assert!(cluster.wait(leader, token).result.is_ok());
    let all = digests(&mut cluster);
    assert!(all.iter().all(|&digest| digest == all[0]));
}

#[test]
fn an_idle_group_keeps_its_sessions_however_long_it_is_idle() {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    setup.settings.session_expiry = Duration::from_secs(60);
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let session = cluster.open_session(1);
    cluster.run_for(ms(50_000));
    let leader = cluster.leader(1);
    let token = cluster.session(leader, 1, command(session, 1, b"a"));
    assert!(matches!(cluster.wait(leader, token).result, Ok(LogIndex(_))));
}
