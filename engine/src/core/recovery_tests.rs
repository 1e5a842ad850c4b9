use logdrive_shard::{Lost, Moment};

use super::*;
use crate::api::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies};
use crate::core::record::{encode_state, entry_note};
use crate::core::sessions::Sessions;

#[path = "recovery_unsure_tests.rs"]
mod unsure;

/// Slot, index, payload of what was applied.
type Applied = Vec<(u32, u64, Vec<u8>)>;

/// Keeps what it applied. Replays of a log know no snapshots: a view of it is empty.
#[derive(Default)]
struct Journal(Applied);

impl StateMachine for Journal {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, _groups: &[GroupId]) {}

    fn forget(&mut self, slot: u32) {
        self.0.retain(|applied| applied.0 != slot);
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            self.0.push((entry.slot, entry.index.0, entry.payload.to_vec()));
            replies.push(&[]);
        }
    }

    fn query(&self, _slot: u32, _request: &[u8], _reply: &mut Vec<u8>) {}

    fn digest(&self, _slot: u32) -> u64 {
        0
    }

    fn freeze(&mut self, _slot: u32) -> BytesView {
        BytesView::default()
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(0)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, _slot: u32, _loading: BytesLoading) -> Result<(), BadSnapshot> {
        Ok(())
    }
}

/// Feeds records to a replay of two groups and returns what became of them.
fn replay(feed: impl FnOnce(&mut Replay<'_, Journal>)) -> (Vec<Replayed>, Applied, u64) {
    let ids = [GroupId(5), GroupId(9)];
    let sorted = [(GroupId(5), 0), (GroupId(9), 1)];
    let applier = Applier::new(Journal::default(), Sessions::new(ids.len()), Moment(0));
    let mut replay = Replay {
        ids: &ids,
        sorted: &sorted,
        groups: ids.iter().map(|_| Replayed::new(1, &[NodeId(1)])).collect(),
        applier,
        strangers: 0,
        unknown: None,
        progress: &mut |_, _| (),
    };
    feed(&mut replay);
    assert!(replay.unknown.is_none());
    replay.applier.flush(&ids);
    (replay.groups, replay.applier.machine.0, replay.strangers)
}

fn entry(replay: &mut Replay<'_, Journal>, group: u64, index: u64, term: u64, commit: u64) {
    let note = entry_note(EntryKind::Payload, LogIndex(commit));
    let payload = format!("{index} of term {term}");
    replay.entry(StreamId(group), EntryHeader { index, tag: term, note }, payload.as_bytes());
}

#[test]
fn entries_are_applied_once_a_later_record_proves_them_committed() {
    let (groups, applied, strangers) = replay(|replay| {
        entry(replay, 5, 1, 1, 0);
        entry(replay, 5, 2, 1, 0);
        entry(replay, 9, 1, 1, 0);
        entry(replay, 5, 3, 1, 1);
        entry(replay, 5, 4, 1, 3);
        entry(replay, 77, 1, 1, 0);
    });
    let indexes: Vec<_> = applied.iter().map(|(slot, index, _)| (*slot, *index)).collect();
    assert_eq!(indexes, [(0, 1), (0, 2), (0, 3)]);
    assert_eq!((groups[0].applied, groups[0].tail.len(), groups[0].log.last), (3, 1, LogIndex(4)));
    assert_eq!((groups[1].applied, groups[1].tail.len()), (0, 1));
    assert_eq!(strangers, 1);
}

#[test]
fn a_hard_state_proves_too_and_the_last_one_counts() {
    let (groups, applied, _) = replay(|replay| {
        entry(replay, 5, 1, 1, 0);
        let state = HardState { term: Term(2), vote: NodeId(3), commit: LogIndex(0), ..HardState::default() };
        replay.state(StreamId(5), &encode_state(state, 44));
        assert!(replay.applier.entries.is_empty());
        let state = HardState { term: Term(4), vote: NodeId(1), commit: LogIndex(1), ..HardState::default() };
        replay.state(StreamId(5), &encode_state(state, 44));
    });
    assert_eq!(applied.len(), 1);
    assert_eq!((groups[0].state.term, groups[0].history, groups[0].fresh), (Term(4), 44, false));
    assert!(groups[1].fresh);
}

#[test]
fn replaced_entries_are_never_applied() {
    let (groups, applied, _) = replay(|replay| {
        for index in 1..=5 {
            entry(replay, 5, index, 1, 0);
        }
        // A new leader's entries replace the last three, and say that its entry 3 is committed.
        entry(replay, 5, 3, 2, 3);
        entry(replay, 5, 4, 2, 3);
        entry(replay, 5, 5, 3, 4);
    });
    let payloads: Vec<_> = applied.iter().map(|(.., payload)| String::from_utf8_lossy(payload)).collect();
    assert_eq!(payloads, ["1 of term 1", "2 of term 1", "3 of term 2", "4 of term 2"]);
    let runs = [(1, 1), (3, 2), (5, 3)].map(|(index, term)| (LogIndex(index), Term(term)));
    assert_eq!(groups[0].log.term_runs, runs);
}

/// An append that catches a follower up carries a commit index beyond its own entries; not all of it may have become durable.
#[test]
fn a_commit_index_beyond_the_log_applies_what_is_there() {
    let (groups, applied, _) = replay(|replay| {
        entry(replay, 5, 1, 1, 100);
        entry(replay, 5, 2, 1, 100);
    });
    assert_eq!(applied.len(), 2);
    assert_eq!((groups[0].applied, groups[0].log.last), (2, LogIndex(2)));
}

#[test]
fn the_no_op_of_a_leader_is_not_shown_to_the_machine() {
    let (groups, applied, _) = replay(|replay| {
        let note = entry_note(EntryKind::Empty, LogIndex(0));
        replay.entry(StreamId(5), EntryHeader { index: 1, tag: 1, note }, &[]);
        entry(replay, 5, 2, 1, 1);
        entry(replay, 5, 3, 1, 2);
    });
    assert_eq!(applied.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), [2]);
    assert_eq!(groups[0].applied, 2);
}

#[test]
fn a_compacted_log_starts_later() {
    let (groups, ..) = replay(|replay| {
        for index in 1..=6 {
            entry(replay, 5, index, 1 + index / 4, index - 1);
        }
        replay.compacted(StreamId(5), 4);
    });
    let log = &groups[0].log;
    assert_eq!((log.first, log.last, log.prev_term), (LogIndex(5), LogIndex(6), Term(2)));
    assert_eq!(log.term_runs, [(LogIndex(5), Term(2))]);
}

fn floor(group: &Replayed) -> Option<(u64, u64)> {
    group.hard_state().lost.log.map(|end| (end.term.0, end.index.0))
}

#[test]
fn a_damaged_range_cuts_the_log_and_its_floor_is_what_was_acknowledged_behind_it() {
    let (groups, applied, _) = replay(|replay| {
        for index in 1..=3 {
            entry(replay, 5, index, 1, 2);
        }
        let state = HardState { term: Term(4), commit: LogIndex(8), ..HardState::default() };
        replay.state(StreamId(5), &encode_state(state, 44));
        replay.damaged(StreamId(5), 4, 5);
        for index in 6..=8 {
            entry(replay, 5, index, 2, 7);
        }
        entry(replay, 9, 1, 1, 0);
    });
    assert_eq!(applied.len(), 3, "what lies behind the gap is not applied");
    let state = groups[0].hard_state();
    assert_eq!((groups[0].log.last, state.commit), (LogIndex(3), LogIndex(3)));
    assert_eq!(floor(&groups[0]), Some((2, 8)));
    assert!(!state.lost.state && !groups[1].hard_state().lost.is_any());
}

#[test]
fn damage_at_the_end_takes_the_term_of_the_hard_state_and_taint_has_no_end() {
    let (groups, ..) = replay(|replay| {
        for group in [5, 9] {
            let state = HardState { term: Term(4), ..HardState::default() };
            replay.state(StreamId(group), &encode_state(state, 44));
            entry(replay, group, 1, 1, 0);
        }
        replay.damaged(StreamId(5), 2, 6);
        replay.damaged(StreamId(9), 2, u64::MAX);
        replay.state_in_doubt(StreamId(9));
    });
    assert_eq!(floor(&groups[0]), Some((4, 6)));
    assert_eq!(floor(&groups[1]), Some((4, u64::MAX)));
    assert!(groups[1].hard_state().lost.state);
}

#[test]
fn what_a_leader_replaced_is_not_missing_any_more() {
    let (groups, ..) = replay(|replay| {
        for index in 1..=3 {
            entry(replay, 5, index, 1, 0);
        }
        replay.damaged(StreamId(5), 3, 4);
        entry(replay, 5, 5, 1, 0);
        // The leader sends the range again, in a later life of this node, which had written down what it lost.
        let end = LogEnd { term: Term(1), index: LogIndex(5) };
        let lost = Lost { log: Some(end), state: false };
        let state = HardState { term: Term(1), lost, ..HardState::default() };
        replay.state(StreamId(5), &encode_state(state, 44));
        for index in 3..=4 {
            entry(replay, 5, index, 1, 0);
        }
    });
    assert_eq!(groups[0].log.last, LogIndex(4));
    assert!(groups[0].gap.is_none());
    assert_eq!(floor(&groups[0]), Some((1, 5)), "the log tells of no damage now; the hard state still does");
}

#[test]
fn streams_that_nothing_is_known_of_may_have_had_anything() {
    let (groups, ..) = replay(|replay| {
        entry(replay, 5, 1, 1, 0);
        replay.streams_unknown();
    });
    assert!(!groups[0].hard_state().lost.is_any());
    assert_eq!(floor(&groups[1]), Some((0, u64::MAX)));
    assert!(groups[1].hard_state().lost.state && !groups[1].fresh);
}

fn put_back(replay: &mut Replay<'_, Journal>, group: u64, index: u64, term: u64, commit: u64) {
    let note = entry_note(EntryKind::Payload, LogIndex(commit));
    replay.repaired(StreamId(group), EntryHeader { index, tag: term, note }, &index.to_le_bytes());
}

#[test]
fn a_log_whose_missing_entries_were_put_back_later_is_whole() {
    let (groups, applied, _) = replay(|replay| {
        (1..=3).for_each(|index| entry(replay, 5, index, 1, 0));
        replay.damaged(StreamId(5), 4, 5);
        (6..=8).for_each(|index| entry(replay, 5, index, 2, 0));
        replay.damaged(StreamId(5), 9, 9);
        entry(replay, 5, 10, 2, 0);
        put_back(replay, 5, 9, 2, 7);
        put_back(replay, 5, 5, 2, 7);
        assert_eq!(replay.groups[0].log.last, LogIndex(3));
        put_back(replay, 5, 4, 1, 7);
    });
    assert_eq!(groups[0].log.last, LogIndex(10));
    assert!(!groups[0].hard_state().lost.is_any());
    let indexes: Vec<u64> = applied.iter().map(|applied| applied.1).collect();
    assert_eq!(indexes, (1..=7).collect::<Vec<_>>());
    assert_eq!(groups[0].log.term_runs, [(LogIndex(1), Term(1)), (LogIndex(5), Term(2))]);
}

#[test]
fn a_log_of_which_only_a_part_was_put_back_ends_before_the_damage_and_knows_how_far_it_went() {
    let (groups, ..) = replay(|replay| {
        (1..=3).for_each(|index| entry(replay, 5, index, 1, 0));
        replay.damaged(StreamId(5), 4, 6);
        (7..=8).for_each(|index| entry(replay, 5, index, 2, 0));
        put_back(replay, 5, 4, 1, 0);
        put_back(replay, 5, 6, 1, 0);
    });
    assert_eq!(groups[0].log.last, LogIndex(3));
    let lost = groups[0].hard_state().lost.log.unwrap();
    assert_eq!((lost.index, lost.term), (LogIndex(8), Term(2)));
}

#[test]
fn what_was_put_back_and_replaced_afterwards_stays_replaced() {
    let (groups, ..) = replay(|replay| {
        (1..=3).for_each(|index| entry(replay, 5, index, 1, 0));
        replay.damaged(StreamId(5), 2, 2);
        entry(replay, 5, 3, 1, 0);
        // A leader of a later term replaced all from the missing entry on.
        entry(replay, 5, 2, 4, 0);
        put_back(replay, 5, 2, 1, 0);
    });
    assert_eq!(groups[0].log.last, LogIndex(2));
    assert_eq!(groups[0].log.term_runs.last(), Some(&(LogIndex(2), Term(4))));
    assert!(!groups[0].hard_state().lost.is_any());
}

fn snapshot_of(index: u64, term: u64) -> SnapshotMeta {
    let membership = Membership::founding(&[NodeId(1)]).unwrap();
    SnapshotMeta { index: LogIndex(index), term: Term(term), membership, membership_index: LogIndex(0) }
}

#[test]
fn what_a_snapshot_stands_for_is_not_applied_again() {
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(3, 1));
        for index in 1..=5 {
            entry(replay, 5, index, 1, index - 1);
        }
    });
    assert_eq!(applied.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), [4]);
    let start = groups[0].start().unwrap();
    assert!(!start.log_is_void);
    assert_eq!((start.log.first, start.log.last, groups[0].tail.len()), (LogIndex(1), LogIndex(5), 1));
}

#[test]
fn a_log_that_begins_behind_its_mark_and_its_snapshot_is_joined_to_it() {
    // The segments before entry 3 are given up; the mark was written again at the end.
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(4, 2));
        for index in 3..=6 {
            entry(replay, 5, index, 2, index - 1);
        }
        replay.compacted(StreamId(5), 2);
    });
    assert_eq!(applied.len(), 1, "entry 5");
    let start = groups[0].start().unwrap();
    assert!(!start.log_is_void && start.log.first <= LogIndex(5));
    assert_eq!(start.log.last, LogIndex(6));
}

#[test]
fn an_older_snapshot_serves_if_what_was_cut_off_can_still_be_read_and_else_not() {
    let (mut groups, applied, _) = replay(|replay| {
        for (slot, group) in [(0, 5), (1, 9)] {
            replay.groups[slot].on_snapshot(0, snapshot_of(2, 1));
            for index in if group == 5 { 1..=6 } else { 4..=6 } {
                entry(replay, group, index, 1, index - 1);
            }
            replay.compacted(StreamId(group), 4);
        }
    });
    assert!(applied.iter().all(|(slot, ..)| *slot == 0) && applied.len() == 3, "{applied:?}");
    let start = groups[0].start().unwrap();
    assert_eq!((start.applied, start.log.first), (LogIndex(5), LogIndex(5)));
    let gap = groups[1].start();
    assert!(matches!(gap, Err(StartError::Gap { snapshot: LogIndex(2), .. })), "{gap:?}");
    let start = groups[1].start_without_log(true);
    assert_eq!((start.applied, start.log.last), (LogIndex(2), LogIndex(2)));
    assert_eq!(start.hard_state.lost.log, Some(LogEnd { term: Term(1), index: LogIndex(6) }));
}

#[test]
fn what_is_cut_off_and_can_be_read_was_committed_whatever_the_log_knew_then() {
    let (mut groups, applied, _) = replay(|replay| {
        for index in 1..=6 {
            entry(replay, 5, index, index.div_ceil(2), 0);
        }
        // The snapshot of 4 is lost.
        replay.compacted(StreamId(5), 4);
    });
    assert_eq!(applied.len(), 4, "{applied:?}");
    let start = groups[0].start().unwrap();
    assert_eq!((start.applied, start.log.last, start.log_is_void), (LogIndex(4), LogIndex(6), false));
}

#[test]
fn a_log_that_begins_anew_goes_on_from_the_term_of_what_was_applied_and_not_from_that_of_what_was_cut_off() {
    let second = super::super::lives::stream_of(GroupId(5), Life::default().next_log().unwrap());
    let (mut groups, applied, _) = replay(|replay| {
        // Entry 1 is applied; what the log is cut for is of a later term, and nowhere.
        entry(replay, 5, 1, 1, 0);
        replay.state(
            StreamId(5),
            &encode_state(HardState { term: Term(2), commit: LogIndex(1), ..HardState::default() }, 44),
        );
        replay.compacted(StreamId(5), 3);
        entry(replay, 5, 4, 2, 3);
        replay.compacted(StreamId(5), 4);
        let state = HardState { term: Term(3), commit: LogIndex(0), ..HardState::default() };
        replay.state(second, &encode_state(state, 44));
        for (index, term) in [(1, 1), (2, 2), (3, 3)] {
            entry(replay, second.0, index, term, 0);
        }
    });
    assert_eq!(applied.len(), 1, "{applied:?}");
    let start = groups[0].start().unwrap();
    assert_eq!((start.log.last, start.log_is_void), (LogIndex(3), false), "what was acknowledged is kept");
}

#[test]
fn a_state_that_went_on_from_an_older_snapshot_is_not_taken_back_to_it_when_the_log_has_a_gap() {
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(2, 1));
        entry(replay, 5, 3, 1, 2);
        entry(replay, 5, 4, 1, 3);
        replay.compacted(StreamId(5), 7);
    });
    assert_eq!(applied.len(), 1, "entry 3");
    assert!(matches!(groups[0].start(), Err(StartError::Gap { .. })));
    let start = groups[0].start_without_log(true);
    assert_eq!((start.applied, start.log.last), (LogIndex(3), LogIndex(3)), "entry 3 is applied once");
}

/// Entries 1 to 3, of which two are committed; then what a leader sent again because a start in between could not read entry 1.
fn sent_again(replay: &mut Replay<'_, Journal>, last: u64) {
    for (index, commit) in [(1, 0), (2, 1), (3, 2)] {
        entry(replay, 5, index, 1, commit);
    }
    let floor = LogEnd { term: Term(1), index: LogIndex(3) };
    let lost = Lost { log: Some(floor), state: false };
    replay.state(StreamId(5), &encode_state(HardState { term: Term(1), lost, ..HardState::default() }, 44));
    for index in 1..=last {
        entry(replay, 5, index, 1, 2);
    }
}

#[test]
fn what_was_committed_and_sent_again_after_a_start_that_could_not_read_it_is_applied_once() {
    for last in 2..=5 {
        let (mut groups, applied, _) = replay(|replay| sent_again(replay, last));
        assert_eq!(applied.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), [1, 2]);
        let start = groups[0].start().unwrap();
        assert_eq!((start.log.last, start.log_is_void, groups[0].applied), (LogIndex(last), false, 2));
        assert_eq!(start.log.term_runs, [(LogIndex(1), Term(1))]);
        assert_eq!(groups[0].tail.len() as u64, last - 2);
    }
}

#[test]
fn a_log_that_ends_while_what_is_applied_is_sent_again_begins_anew_behind_it() {
    let (mut groups, applied, _) = replay(|replay| sent_again(replay, 1));
    assert_eq!(applied.len(), 2, "{applied:?}");
    let start = groups[0].start().unwrap();
    assert_eq!((start.applied, start.log.last, start.log_is_void), (LogIndex(2), LogIndex(2), true));
    assert_eq!(start.hard_state.commit, LogIndex(2));
    // Entry 3 was acknowledged, and is to be had of the leader.
    assert_eq!(start.hard_state.lost.log, Some(LogEnd { term: Term(1), index: LogIndex(3) }));
    // As it is if what was sent again is damaged in its turn.
    let (mut groups, applied, _) = replay(|replay| {
        sent_again(replay, 0);
        replay.damaged(StreamId(5), 1, 1);
        entry(replay, 5, 2, 1, 2);
    });
    assert_eq!(applied.len(), 2, "{applied:?}");
    let start = groups[0].start().unwrap();
    assert_eq!((start.applied, start.log.last, start.log_is_void), (LogIndex(2), LogIndex(2), true));
}

#[test]
#[should_panic(expected = "entry 1 of term 2 after 3 with 2 committed")]
fn what_was_committed_is_never_another_entry() {
    replay(|replay| {
        sent_again(replay, 0);
        entry(replay, 5, 1, 2, 2);
    });
}

#[test]
fn another_log_of_the_same_life_keeps_the_snapshot_and_voids_the_log_before_it() {
    let second = super::super::lives::stream_of(GroupId(5), Life::default().next_log().unwrap());
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(4, 5));
        for index in 1..=9 {
            entry(replay, 5, index, 2, 1);
        }
        let state = HardState { term: Term(6), vote: NodeId(3), commit: LogIndex(4), ..HardState::default() };
        replay.state(second, &encode_state(state, 44));
        entry(replay, second.0, 5, 6, 5);
        entry(replay, 5, 10, 2, 1);
    });
    assert_eq!(applied.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), [5]);
    let start = groups[0].start().unwrap();
    assert_eq!((start.log.last, start.hard_state.vote), (LogIndex(5), NodeId(3)));
    assert!(!start.log_is_void);
}

/// The start before could not read entry 10 and had an older snapshot or none: it was sent again.
#[test]
fn a_log_that_was_sent_again_from_a_damaged_entry_on_begins_with_it_though_a_snapshot_stands_for_it() {
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(14, 12));
        replay.damaged(StreamId(5), 10, 10);
        for (index, term) in [(10, 10), (11, 11), (12, 11), (13, 11), (14, 12), (15, 12)] {
            entry(replay, 5, index, term, index - 1);
        }
    });
    assert_eq!(applied.len(), 0, "{applied:?}");
    let start = groups[0].start().expect("they belong together");
    let log = &start.log;
    assert!(!start.log_is_void);
    assert_eq!((log.first, log.last, log.prev_term), (LogIndex(11), LogIndex(15), Term(10)));
    assert_eq!(log.term_runs, [(LogIndex(11), Term(11)), (LogIndex(14), Term(12))]);
}

/// A leader whose last entry, a configuration, nobody else got; another leader's snapshot took the place of its log, which ended before it.
#[test]
fn a_configuration_that_a_snapshot_parted_from_is_none_of_the_log_that_begins_behind_it() {
    let configuration = Membership::founding(&[NodeId(1), NodeId(4)]).expect("two voters").encode();
    let config = |replay: &mut Replay<'_, Journal>, index, term, commit| {
        let note = entry_note(EntryKind::Config, LogIndex(commit));
        replay.entry(StreamId(5), EntryHeader { index, tag: term, note }, &configuration);
    };
    let (mut groups, applied, _) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(21, 3));
        entry(replay, 5, 19, 2, 18);
        config(replay, 20, 2, 19);
        replay.compacted(StreamId(5), 21);
        entry(replay, 5, 22, 3, 21);
        config(replay, 23, 3, 21);
    });
    assert_eq!(applied.len(), 0, "{applied:?}");
    let start = groups[0].start().expect("they belong together");
    assert!(!start.log_is_void);
    assert_eq!((start.applied, start.log.first, start.log.last), (LogIndex(21), LogIndex(22), LogIndex(23)));
    let at: Vec<u64> = start.memberships.iter().map(|(index, _)| index.0).collect();
    assert_eq!(at, [0, 23], "that of the snapshot, and the one that came after it");
    // What was committed before the log was replaced stays: an older snapshot may have to do.
    let (groups, ..) = replay(|replay| {
        config(replay, 1, 1, 0);
        entry(replay, 5, 2, 1, 1);
        config(replay, 3, 1, 1);
        replay.compacted(StreamId(5), 9);
    });
    let at: Vec<u64> = groups[0].memberships.iter().map(|(index, _)| index.0).collect();
    assert_eq!(at, [0, 1]);
}

#[test]
fn term_and_vote_of_an_earlier_life_go_on_when_a_snapshot_of_the_present_one_is_all_there_is_of_it() {
    let (groups, ..) = replay(|replay| {
        replay.groups[0].on_snapshot(1, snapshot_of(4, 5));
        entry(replay, 5, 1, 7, 1);
        let state = HardState { term: Term(7), vote: NodeId(3), commit: LogIndex(1), ..HardState::default() };
        replay.state(StreamId(5), &encode_state(state, 44));
    });
    let state = groups[0].hard_state();
    assert_eq!((state.term, state.vote, groups[0].log_last()), (Term(7), NodeId(3), LogIndex(0)));
}

/// Damage comes first in what is left of the log; then the entries before it, from another leader, and behind it; then a cut between them.
#[test]
fn entries_that_are_cut_off_are_no_part_of_what_follows_damage() {
    let (mut groups, ..) = replay(|replay| {
        replay.groups[0].on_snapshot(0, snapshot_of(5, 3));
        replay.damaged(StreamId(5), 6, 6);
        entry(replay, 5, 4, 2, 1);
        entry(replay, 5, 5, 3, 1);
        for index in 6..=8 {
            entry(replay, 5, index, 3, 5);
        }
        replay.compacted(StreamId(5), 5);
        entry(replay, 5, 9, 3, 8);
    });
    let start = groups[0].start().unwrap();
    assert_eq!((start.log.first, start.log.last), (LogIndex(6), LogIndex(9)));
    assert_eq!(start.log.term_runs, [(LogIndex(6), Term(3))]);
    assert_eq!(start.hard_state.lost, Lost::NOTHING);
}
