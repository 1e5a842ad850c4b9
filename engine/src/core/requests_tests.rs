use logdrive_wal::StreamSlot;

use super::*;

fn answers(ports: &mut Ports, port: PortId) -> Vec<u64> {
    let mut answers = Completions::default();
    ports.take(port, &mut answers);
    answers.iter().map(|(completion, _)| completion.token).collect()
}

#[test]
fn a_port_is_listed_once_and_its_id_is_used_again_when_all_its_answers_came() {
    let mut ports = Ports::default();
    let (a, b) = (ports.add(), ports.add());
    for token in 0..3 {
        ports.expect(a);
        ports.answer(a, token, Ok(LogIndex(1)), b"x");
    }
    ports.expect(b);
    let mut listed = Vec::new();
    ports.with_answers(&mut listed);
    assert_eq!(listed, [a]);
    assert_eq!(answers(&mut ports, a), [0, 1, 2]);
    ports.remove(b);
    assert!(!ports.is_open(b));
    let c = ports.add();
    assert_ne!(c, b, "an answer to the old owner is on its way");
    ports.answer(b, 9, Ok(LogIndex(1)), b"");
    assert_eq!(ports.add(), b);
    listed.clear();
    ports.with_answers(&mut listed);
    assert!(listed.is_empty());
    assert!(answers(&mut ports, b).is_empty(), "the new owner sees nothing of the old one");
}

#[test]
fn a_port_removed_with_answers_untaken_is_listed_for_its_next_owner() {
    let mut ports = Ports::default();
    let a = ports.add();
    ports.refuse(a, 1, Error::Stopped);
    ports.remove(a);
    let mut listed = Vec::new();
    ports.with_answers(&mut listed);
    assert!(listed.is_empty());
    assert_eq!(ports.add(), a);
    ports.refuse(a, 2, Error::Stopped);
    ports.with_answers(&mut listed);
    assert_eq!(listed, [a]);
    assert_eq!(answers(&mut ports, a), [2]);
}

#[test]
fn proposals_are_answered_by_index_and_those_behind_the_commit_index_fail() {
    let mut lane = Lane::new(StreamSlot(0), 1, LogIndex(0));
    let mut proposals = Proposals::default();
    for index in [2, 3, 5, 6] {
        proposals.push(&mut lane, PortId(0), index * 10, index, 1);
    }
    assert!(proposals.pop_at(&mut lane, 1).is_none());
    assert_eq!(proposals.pop_at(&mut lane, 2).expect("first").token, 20);
    let mut gone = Vec::new();
    proposals.cut_after(&mut lane, 3, |pending| gone.push(pending.index));
    assert_eq!(gone, [5, 6]);
    proposals.push(&mut lane, PortId(0), 77, 9, 1);
    assert_eq!(proposals.pop_at(&mut lane, 3).expect("kept").token, 30);
    assert_eq!(proposals.pop_at(&mut lane, 9).expect("new").token, 77);
    assert_eq!(lane.pending_head, NIL);
    proposals.push(&mut lane, PortId(0), 1, 10, 1);
    gone.clear();
    proposals.cut_after(&mut lane, 0, |pending| gone.push(pending.index));
    assert_eq!(gone, [10]);
    assert_eq!((lane.pending_head, lane.pending_tail), (NIL, NIL));
    assert!(proposals.slab.len() <= 4, "the slab is used again");
}

#[test]
fn proposals_that_a_snapshot_stands_for_do_not_hold_up_those_behind_them() {
    let mut lane = Lane::new(StreamSlot(0), 1, LogIndex(0));
    let mut proposals = Proposals::default();
    for index in [2, 3, 5] {
        proposals.push(&mut lane, PortId(0), index * 10, index, 1);
    }
    assert!(proposals.pop_at(&mut lane, 5).is_none(), "what was proposed first is answered first");
    let mut gone = Vec::new();
    proposals.cut_until(&mut lane, 1, |pending| gone.push(pending.index));
    assert!(gone.is_empty());
    proposals.cut_until(&mut lane, 4, |pending| gone.push(pending.index));
    assert_eq!(gone, [2, 3]);
    assert_eq!(proposals.pop_at(&mut lane, 5).expect("behind the snapshot").token, 50);
    proposals.push(&mut lane, PortId(0), 60, 6, 1);
    proposals.cut_until(&mut lane, 6, |pending| gone.push(pending.index));
    assert_eq!((gone.len(), lane.pending_head), (3, NIL));
    proposals.push(&mut lane, PortId(0), 70, 7, 1);
    assert_eq!(proposals.pop_at(&mut lane, 7).expect("new").token, 70);
}

#[test]
fn reads_are_served_in_order_once_confirmed_and_applied() {
    let mut reads = Reads::new(1);
    assert!(!reads.push(0, (PortId(0), 1), 1, b"a", Moment(1)));
    assert!(!reads.push(0, (PortId(0), 2), 2, b"b", Moment(2)));
    assert!(reads.pop_served(0, LogIndex(100)).is_none());
    reads.confirm(0, 1, LogIndex(10));
    assert!(reads.pop_served(0, LogIndex(9)).is_none());
    let read = reads.pop_served(0, LogIndex(10)).expect("served");
    assert_eq!((reads.get(read).token, &reads.get(read).request[..]), (1, &b"a"[..]));
    reads.recycle(read);
    assert!(reads.pop_served(0, LogIndex(10)).is_none());
    assert_eq!(reads.count(0), 1);
    // A round that was confirmed while the read was registered: a group with one voter.
    reads.confirm(0, 3, LogIndex(11));
    assert!(reads.push(0, (PortId(0), 3), 3, b"c", Moment(3)));
    for token in [2, 3] {
        let read = reads.pop_served(0, LogIndex(11)).expect("served");
        assert_eq!(reads.get(read).token, token);
        reads.recycle(read);
    }
}

#[test]
fn losing_leadership_ends_unconfirmed_reads_only_and_rounds_may_start_anew() {
    let mut reads = Reads::new(1);
    reads.push(0, (PortId(0), 1), 8, b"a", Moment(1));
    reads.push(0, (PortId(0), 2), 9, b"bc", Moment(2));
    reads.confirm(0, 8, LogIndex(5));
    let mut gone = Vec::new();
    reads.cut_unconfirmed(0, |_, token, bytes| gone.push((token, bytes)));
    assert_eq!(gone, [(2, 2)]);
    assert!(
        !reads.push(0, (PortId(0), 3), 1, b"", Moment(3)),
        "the old round says nothing about the new one"
    );
    reads.confirm(0, 1, LogIndex(6));
    for token in [1, 3] {
        let read = reads.pop_served(0, LogIndex(6)).expect("served");
        assert_eq!(reads.get(read).token, token);
        reads.recycle(read);
    }
    assert_eq!(reads.count(0), 0);
}

#[test]
fn reads_that_came_long_ago_are_taken_from_the_front_until_one_that_may_wait_on() {
    let cut = |reads: &mut Reads, until, all| {
        let mut gone = Vec::new();
        reads.cut_older(0, Moment(until), all, |read, index| gone.push((read.token, index)));
        gone
    };
    let mut reads = Reads::new(1);
    for token in 1..=4 {
        reads.push(0, (PortId(0), token), token, b"", Moment(token * 10));
    }
    reads.confirm(0, 2, LogIndex(7));
    assert_eq!(cut(&mut reads, 9, true), []);
    assert_eq!(cut(&mut reads, 19, true), [(1, Some(LogIndex(7)))]);
    assert_eq!(cut(&mut reads, 35, false), [(2, Some(LogIndex(7)))], "the third is not confirmed");
    assert_eq!(cut(&mut reads, 35, true), [(3, None)]);
    assert_eq!(reads.count(0), 1);
    assert_eq!(cut(&mut reads, 100, true), [(4, None)]);
    // The queue goes on from empty.
    reads.push(0, (PortId(0), 5), 9, b"", Moment(200));
    reads.confirm(0, 9, LogIndex(8));
    let read = reads.pop_served(0, LogIndex(8)).expect("served");
    assert_eq!((reads.get(read).token, reads.count(0)), (5, 0));
}
