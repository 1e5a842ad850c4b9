//! Places that cannot be read, in which entries may have been replaced.

use super::*;

#[test]
fn nothing_is_applied_that_may_have_been_replaced_in_a_place_that_cannot_be_read() {
    let committed = |commit| {
        let state = HardState { term: Term(2), commit: LogIndex(commit), ..HardState::default() };
        encode_state(state, 44)
    };
    for was_replaced in [true, false] {
        let (groups, applied, _) = replay(|replay| {
            for group in [5, 9] {
                for index in 1..=4 {
                    entry(replay, group, index, 1, index / 2);
                }
            }
            replay.unknown_lost_here();
            // What it says may be of entries of another leader; group 9 has all that was sent anew.
            replay.state(StreamId(5), &committed(4));
            entry(replay, 9, 3, 2, 2);
            entry(replay, 9, 4, 2, 3);
            assert_eq!([replay.groups[0].applied, replay.groups[1].applied], [2, 3]);
            if was_replaced {
                replay.damaged(StreamId(5), 1, u64::MAX);
            }
            replay.finish();
        });
        let kept = if was_replaced { 2 } else { 4 };
        assert_eq!(applied.iter().filter(|applied| applied.0 == 0).count(), kept);
        assert_eq!((groups[0].applied, groups[1].applied), (kept as u64, 3));
    }
}

#[test]
fn what_an_earlier_start_did_not_keep_is_not_applied_by_the_next_one() {
    let end = LogEnd { term: Term(2), index: LogIndex(u64::MAX) };
    let state = HardState { term: Term(2), commit: LogIndex(4), ..HardState::default() };
    let kept = HardState { commit: LogIndex(2), lost: Lost { log: Some(end), state: false }, ..state };
    for was_dealt_with in [true, false] {
        let (groups, applied, _) = replay(|replay| {
            for index in 1..=4 {
                entry(replay, 5, index, 1, index / 2);
            }
            replay.unknown_lost_here();
            replay.state(StreamId(5), &encode_state(state, 44));
            if was_dealt_with {
                replay.state(StreamId(5), &encode_state(kept, 44));
            }
            replay.finish();
        });
        let sure = if was_dealt_with { 2 } else { 4 };
        assert_eq!(applied.iter().filter(|applied| applied.0 == 0).count(), sure);
        assert_eq!((groups[0].applied, groups[0].log.last), (sure as u64, LogIndex(4)));
        assert_eq!(groups[0].hard_state().commit, LogIndex(sure as u64));
    }
}

#[test]
fn an_entry_of_the_same_leader_tells_that_nothing_before_it_was_replaced() {
    let (_, applied, _) = replay(|replay| {
        for group in [5, 9] {
            for index in 1..=4 {
                entry(replay, group, index, 1, index / 2);
            }
        }
        replay.unknown_lost_here();
        entry(replay, 5, 5, 1, 4);
        entry(replay, 9, 5, 2, 2);
        entry(replay, 9, 6, 2, 2);
        assert_eq!([replay.groups[0].applied, replay.groups[1].applied], [4, 2]);
        // Nor does it say anything of what a second place lost.
        replay.unknown_lost_here();
        entry(replay, 5, 6, 2, 5);
        assert_eq!(replay.groups[0].applied, 4);
        // What came instead of entries that are not known to be committed makes those before it sure in the same way.
        entry(replay, 9, 4, 1, 3);
        assert_eq!(replay.groups[1].applied, 3);
        replay.finish();
    });
    let of = |slot| applied.iter().filter(|applied| applied.0 == slot).count();
    assert_eq!([of(0), of(1)], [5, 3]);
}
