//! What a core does when its disk has no room even for votes.
mod common;

use common::{Cluster, Setup, TestCore, ms};
use logdrive::core::Event;
use logdrive::wire::{Address, FrameBuilder, VERSION_MAX};
use logdrive_shard::{LogIndex, Moment, Term, VoteRequest};
use logdrive_wal::{EntryHeader, StreamId};

const SPACE: u64 = 256 << 20;

fn setup(nodes: u32) -> Setup {
    Setup { nodes, groups: 1, preferred: false, ..Setup::default() }
}

fn vital_room(core: &mut TestCore) -> bool {
    core.wal().has_vital_room(96)
}

/// Writes at `leader` until `node`, whose disk gets no further space, has room for so many votes. All nodes have all entries.
fn exhaust(cluster: &mut Cluster, leader: u32, node: u32, votes: u64) {
    let used: u64 = cluster.node(node).platter.list().iter().map(|file| file.1).sum();
    cluster.node(node).platter.set_capacity(used);
    for _ in 0..5_000 {
        // A vote of its own turn takes a block.
        if !cluster.core(node).wal().has_vital_room(96 + votes * 4096) {
            return;
        }
        if cluster.core(node).wal().admit(64 + 1).is_err() {
            // The rest is kept for what is vital: a block of it.
            let stream = cluster.core(node).wal().stream(StreamId(1 << 40));
            let index = cluster.core(node).wal().entries(stream).map_or(1, |(_, last)| last + 1);
            let header = EntryHeader { index, tag: 1, note: 0 };
            cluster.core(node).wal().append(stream, header, &[]).expect("there is room for what is vital");
            cluster.wake(node);
            cluster.run_for(ms(5));
            continue;
        }
        let large = cluster.core(node).wal().admit(64 << 10).is_ok();
        let token = cluster.propose(leader, 1, &vec![1; if large { 20_000 } else { 1 }]);
        cluster.wait(leader, token);
        cluster.run_for(ms(300));
    }
    panic!("the disk never fills up");
}

/// Takes the last room of a node whose disk gets no further space, reserve included, for records that nobody needs.
fn take_last_room(cluster: &mut Cluster, node: u32) {
    let used: u64 = cluster.node(node).platter.list().iter().map(|file| file.1).sum();
    cluster.node(node).platter.set_capacity(used);
    let stream = cluster.core(node).wal().stream(StreamId(1 << 40));
    for index in 1..1_000_000 {
        let header = EntryHeader { index, tag: 1, note: 0 };
        if cluster.core(node).wal().append(stream, header, &[]).is_err() {
            return;
        }
        if index % 100 == 0 {
            cluster.wake(node);
            cluster.run_for(ms(5));
        }
    }
    panic!("the disk never fills up");
}

/// A frame that asks `node` for its vote in `term`.
fn vote_request(cluster: &mut Cluster, node: u32, term: Term) -> Vec<u8> {
    let hello = cluster.core(node).hello();
    let to = Address { slot: hello.groups[0].slot, history: hello.groups[0].history };
    let (last_index, last_term) = (LogIndex(1 << 40), Term(term.0 - 1));
    let mut builder = FrameBuilder::new();
    let request = VoteRequest { pre_vote: false, transfer: true, term, last_index, last_term };
    builder.vote_request(to, &request);
    let mut frame = Vec::new();
    builder.finish(hello.boot, VERSION_MAX, &mut frame);
    frame
}

#[test]
fn a_leaders_no_op_ends_the_process_of_a_follower_whose_disk_has_no_room_for_it() {
    let mut cluster = Cluster::new(setup(3));
    cluster.elect();
    let leader = cluster.leader(1);
    let (full, next) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // There is room for its vote, and then none for the no-op of the leader that it voted for.
    exhaust(&mut cluster, leader, full, 1);
    cluster.settle();
    cluster.transfer(leader, 1, next);
    cluster.run_until(ms(5_000), |cluster| cluster.core(next).is_leader(Cluster::slot(1)));
    cluster.run_for(ms(2_000));
    // It lost a message or two, no more; with space it follows.
    assert!(cluster.core(full).counters().appends_refused > 0);
    cluster.node(full).platter.set_capacity(SPACE);
    cluster.run_for(ms(2_000));
    cluster.elect();
    assert!(cluster.write(1, b"again").result.is_ok());
    cluster.settle();
}

#[test]
fn a_no_op_that_waits_for_room_and_is_in_no_cache_is_not_looked_for_without_end() {
    let mut setup = setup(3);
    setup.settings.cache_bytes_max = 0;
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let slot = Cluster::slot(1);
    let leader = cluster.leader(1);
    let (full, next) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // There is room for its vote for itself, and then none for its no-op.
    exhaust(&mut cluster, leader, full, 1);
    cluster.settle();
    cluster.kill(leader);
    cluster.hold(next, full);
    cluster.run_for(ms(300));
    for _ in 0..100 {
        let now = Moment(cluster.now);
        let _ = cluster.core(full).handle(now, Event::Campaign { slot });
        cluster.wake(full);
        cluster.run_for(ms(20));
        cluster.unhold(next, full);
        cluster.run_for(ms(20));
        if cluster.core(full).is_leader(slot) {
            break;
        }
    }
    assert!(cluster.core(full).is_leader(slot) && cluster.core(full).holds_unwritten());
    // It asks its log for what it is to send now and then, and has time to turn for other things.
    let turns = cluster.core(full).counters().cold_entries;
    cluster.run_for(ms(2_000));
    assert_eq!(cluster.core(full).counters().cold_entries, turns);
    cluster.node(full).platter.set_capacity(SPACE);
    cluster.run_for(ms(2_000));
    cluster.elect();
    assert!(cluster.write(1, b"again").result.is_ok());
    cluster.start(leader);
    cluster.settle();
}

#[test]
fn a_candidate_whose_vote_for_itself_found_no_space_stays_a_candidate_for_ever() {
    let mut cluster = Cluster::new(setup(1));
    cluster.elect();
    take_last_room(&mut cluster, 1);
    cluster.kill(1);
    cluster.start(1);
    cluster.run_for(ms(2_000));
    assert!(!cluster.core(1).is_leader(Cluster::slot(1)), "there is no room for its vote");
    cluster.node(1).platter.set_capacity(SPACE);
    cluster.run_until(ms(10_000), |cluster| cluster.core(1).is_leader(Cluster::slot(1)));
    assert!(cluster.write(1, b"again").result.is_ok());
}

#[test]
fn a_hard_state_that_found_no_space_is_written_after_a_newer_one_and_undoes_a_vote() {
    let mut cluster = Cluster::new(setup(3));
    cluster.elect();
    let leader = cluster.leader(1);
    let (full, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    exhaust(&mut cluster, leader, full, 0);
    cluster.settle();
    // The leader dies: the full node campaigns, or is asked for its vote, and cannot write it.
    let before = cluster.core(full).group_status(Cluster::slot(1)).raft.term;
    cluster.kill(leader);
    cluster.run_until(ms(10_000), |cluster| {
        cluster.core(full).group_status(Cluster::slot(1)).raft.term > before
    });
    let refused = cluster.core(full).group_status(Cluster::slot(1)).raft.term;
    // Space returns, and the log notices while a turn submits: every operation ends at the next look from now on.
    cluster.node(full).platter.set_capacity(SPACE);
    cluster.core(full).wal().disk().release();
    let mut now = cluster.now;
    while !vital_room(cluster.core(full)) {
        now += 101_000_000;
        cluster.core(full).wal().poll(now);
        cluster.core(full).wal().submit(now);
        assert!(now < cluster.now + 60_000_000_000, "no room within a minute");
    }
    // Before the next turn the node is asked for its vote in a later term.
    let later = Term(refused.0 + 5);
    let frame = vote_request(&mut cluster, full, later);
    cluster.receive(full, other, &frame, now);
    for _ in 0..20 {
        now += 1_000_000;
        cluster.core(full).turn(Moment(now)).expect("it runs");
    }
    let (term, durable) = {
        let core = cluster.core(full);
        let term = core.group_status(Cluster::slot(1)).raft.term;
        (term, core.wal().durable() == core.wal().last_ticket())
    };
    assert!(durable, "everything is written");
    assert!(term >= later);
    cluster.kill(full);
    cluster.start_alone(full);
    let found = cluster.core(full).group_status(Cluster::slot(1)).raft.term;
    assert!(found >= term, "recovered term {found}, the node had told others of term {term}");
    assert!(cluster.core(full).applied(Cluster::slot(1)) > LogIndex(0));
}
