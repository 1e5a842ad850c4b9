use super::*;

/// A log `first ..= last` by terms, and what is known of the term before it.
fn log(first: u64, prev_term: u64, terms: &[u64]) -> LogState {
    let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
    for (index, &term) in (first..).zip(terms) {
        if term_runs.last().is_none_or(|run| run.1 != Term(term)) {
            term_runs.push((LogIndex(index), Term(term)));
        }
    }
    let last = LogIndex(first + terms.len() as u64 - 1);
    LogState { first: LogIndex(first), last, prev_term: Term(prev_term), term_runs }
}

fn members(nodes: &[u32]) -> Membership {
    let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
    Membership::founding(&nodes).unwrap()
}

fn snapshot(index: u64, term: u64) -> SnapshotMeta {
    let (index, term) = (LogIndex(index), Term(term));
    SnapshotMeta { index, term, membership: members(&[1, 2, 3]), membership_index: LogIndex(2) }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: NodeId(2), commit: LogIndex(commit), ..HardState::default() }
}

fn join(snapshot: &SnapshotMeta, log: LogState, state: HardState) -> Result<Start, StartError> {
    Start::join(Some(snapshot), log, state, vec![(LogIndex(0), members(&[9]))])
}

/// What a group makes of it: where it begins, its terms from there on, its commit index and its term.
fn group(start: &Start) -> (u64, Vec<u64>, u64, u64) {
    let (config, mut random) = (crate::Config::default(), crate::Random::new(1));
    let group = crate::Group::new(crate::Moment(0), &config, &mut random, &start.setup(NodeId(1)));
    assert_eq!(group.membership_index(), start.memberships.last().unwrap().0);
    let first = group.first_index().0;
    let terms = (first - 1..=group.last_index().0).map(|index| group.term_at(LogIndex(index)).unwrap().0);
    (first, terms.collect(), group.commit().0, group.term().0)
}

#[test]
fn without_a_snapshot_the_log_is_everything() {
    let start =
        Start::join(None, log(1, 0, &[1, 1, 2]), state(2, 2), vec![(LogIndex(0), members(&[1]))]).unwrap();
    assert_eq!((start.applied, start.log_is_void), (LogIndex(0), false));
    assert_eq!(group(&start), (1, vec![0, 1, 1, 2], 2, 2));
}

#[test]
fn field_30_a_state_older_than_the_start_of_the_log_is_detected() {
    let error = Start::join(None, log(8, 1, &[1]), state(1, 7), Vec::new()).unwrap_err();
    assert_eq!(error, StartError::Gap { snapshot: LogIndex(0), first: LogIndex(8) });
    let error = join(&snapshot(5, 1), log(8, 1, &[1]), state(1, 7)).unwrap_err();
    assert_eq!(error, StartError::Gap { snapshot: LogIndex(5), first: LogIndex(8) });
    assert!(error.to_string().contains("entries 6 to 7 are nowhere"), "{error}");
}

#[test]
fn field_14_a_snapshot_ahead_of_the_whole_log_leaves_no_gap_behind_it() {
    for log in [log(1, 0, &[1, 1, 2]), log(3, 1, &[2]), log(1, 0, &[])] {
        let start = join(&snapshot(9, 4), log, state(2, 1)).unwrap();
        assert!(start.log_is_void, "entries 4 to 9 would be missing in it");
        assert_eq!(group(&start), (10, vec![4], 9, 4));
        assert_eq!(start.hard_state.vote, NodeId::NONE, "nobody had a vote in the snapshot's term");
    }
}

#[test]
fn a_log_that_parted_from_the_snapshot_before_its_end_is_void() {
    let start = join(&snapshot(3, 4), log(1, 0, &[1, 1, 2, 2, 2]), state(5, 2)).unwrap();
    assert!(start.log_is_void);
    assert_eq!(group(&start), (4, vec![4], 3, 5));
    assert_eq!(start.hard_state.vote, NodeId(2), "the term is later than the snapshot's: the vote is spent");
}

#[test]
fn a_committed_log_that_parted_from_the_snapshot_is_of_another_group() {
    let error = join(&snapshot(3, 4), log(1, 0, &[1, 1, 2, 2, 2]), state(5, 3)).unwrap_err();
    assert_eq!(error, StartError::Differs { index: LogIndex(3), snapshot: Term(4), log: Term(2) });
}

#[test]
fn what_follows_the_snapshot_is_kept_and_so_is_what_trails() {
    // Cut exactly behind the snapshot, whose term tells what the log does not.
    for prev_term in [0, 2] {
        let start = join(&snapshot(4, 2), log(5, prev_term, &[2, 3]), state(3, 4)).unwrap();
        assert_eq!((group(&start), start.log_is_void), ((5, vec![2, 2, 3], 4, 3), false));
    }
    // Entries trail, and the term before them is known.
    let start = join(&snapshot(4, 2), log(3, 1, &[2, 2, 2, 3]), state(3, 5)).unwrap();
    assert_eq!(group(&start), (3, vec![1, 2, 2, 2, 3], 5, 3));
    assert_eq!(start.applied, LogIndex(4));
    // It is not known: the first of them stands for it.
    let start = join(&snapshot(4, 2), log(3, 0, &[1, 2, 2, 3]), state(3, 5)).unwrap();
    assert_eq!(group(&start), (4, vec![1, 2, 2, 3], 5, 3));
    let start = join(&snapshot(4, 2), log(3, 0, &[2, 2]), state(3, 4)).unwrap();
    assert_eq!(group(&start), (4, vec![2, 2], 4, 3));
    let start = join(&snapshot(4, 2), log(4, 0, &[2]), state(3, 4)).unwrap();
    assert_eq!(group(&start), (5, vec![2], 4, 3));
}

#[test]
fn field_9_a_configuration_is_recovered_from_snapshot_and_log() {
    let in_log =
        |indexes: &[u64]| indexes.iter().map(|&at| (LogIndex(at), members(&[at as u32]))).collect::<Vec<_>>();
    let join = |found: &[u64]| {
        Start::join(Some(&snapshot(4, 2)), log(1, 0, &[1, 2, 2, 2, 3, 3]), state(3, 4), in_log(found))
    };
    let start = join(&[2, 5]).unwrap();
    let indexes: Vec<u64> = start.memberships.iter().map(|found| found.0.0).collect();
    assert_eq!(indexes, [2, 5]);
    assert_eq!(start.memberships[0].1, members(&[1, 2, 3]), "the snapshot's, not the log's");
    assert_eq!(group(&start).1.len(), 7);
    let error = join(&[2, 3, 5]).unwrap_err();
    let expected =
        StartError::OtherConfiguration { index: LogIndex(4), snapshot: LogIndex(2), log: LogIndex(3) };
    assert_eq!(error, expected);
    // A snapshot ahead of the log has the last word: what is in the log may never have been committed.
    let start = Start::join(Some(&snapshot(9, 4)), log(1, 0, &[1]), state(1, 0), in_log(&[1])).unwrap();
    assert_eq!(start.memberships.len(), 1);
}

#[test]
fn field_9_a_snapshot_without_its_configuration_or_its_term_is_not_started_from() {
    let mut bare = snapshot(4, 2);
    bare.membership = Membership::default();
    let senseless =
        |snapshot: &SnapshotMeta| StartError::Senseless { index: snapshot.index, term: snapshot.term };
    assert_eq!(join(&bare, log(1, 0, &[]), state(2, 0)).unwrap_err(), senseless(&bare));
    let bare = snapshot(4, 0);
    assert_eq!(join(&bare, log(1, 0, &[]), state(2, 0)).unwrap_err(), senseless(&bare));
    let mut later = snapshot(4, 2);
    later.membership_index = LogIndex(5);
    assert_eq!(join(&later, log(1, 0, &[]), state(2, 0)).unwrap_err(), senseless(&later));
}

#[test]
fn a_snapshot_that_reaches_what_was_lost_makes_up_for_it() {
    let damaged = |floor: (u64, u64)| {
        let end = LogEnd { term: Term(floor.0), index: LogIndex(floor.1) };
        HardState { lost: crate::Lost { log: Some(end), state: true }, ..state(4, 1) }
    };
    for (floor, is_whole) in
        [((2, 12), true), ((4, 9), true), ((4, 10), false), ((5, 3), false), ((4, u64::MAX), false)]
    {
        let start = join(&snapshot(9, 4), log(1, 0, &[1]), damaged(floor)).unwrap();
        assert_eq!(start.hard_state.lost.log.is_none(), is_whole, "{floor:?}");
        assert!(start.hard_state.lost.state, "a snapshot says nothing of votes");
    }
}
