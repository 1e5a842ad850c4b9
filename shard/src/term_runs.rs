//! The terms of a log, as runs of entries with the same term.
//!
//! The log's end and its last run are hot ([`Tail`]: a step that appends or checks the newest entries reads only
//! these); older runs are cold ([`OlderRuns`]). The position before the first entry (the snapshot's, or 0) is kept as
//! the start of the first run, so that its term is known like that of an entry.

use crate::{LogIndex, LogState, Term};

/// The end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tail {
    /// Last index.
    pub(crate) last: LogIndex,
    /// First index of the last run. Invariant: `base <= run_first <= last`.
    pub(crate) run_first: LogIndex,
    /// Term of the last run, which is the term of the entry at `last`.
    pub(crate) run_term: Term,
}

/// The start of the log, and every run but the last.
#[derive(Clone, Debug, Hash)]
pub(crate) struct OlderRuns {
    /// The position before the first entry that is still in the log. Its term is known, the entry is gone.
    pub(crate) base: LogIndex,
    /// `(first index, term)`, ascending in both; the first begins at `base`. Empty if the last run does.
    runs: Vec<(LogIndex, Term)>,
}

impl Tail {
    /// The runs of a recovered log.
    ///
    /// # Panics
    /// If the log state contradicts itself: recovery is broken, and nothing may be built on it.
    pub(crate) fn recovered(log: &LogState) -> (Tail, OlderRuns) {
        assert!(log.first.0 >= 1, "the first index of a log is at least 1, not {}", log.first);
        let base = LogIndex(log.first.0 - 1);
        assert!(log.last >= base, "log ends at {} before it begins at {}", log.last, log.first);
        let mut tail = Tail { last: base, run_first: base, run_term: log.prev_term };
        let mut older = OlderRuns { base, runs: Vec::new() };
        let ends = log.term_runs.iter().skip(1).map(|run| LogIndex(run.0.0.saturating_sub(1)));
        for (&(first, term), end) in log.term_runs.iter().zip(ends.chain([log.last])) {
            assert!(first == tail.last.next(), "a run of term {term} begins at {first} after {}", tail.last);
            assert!(term >= tail.run_term, "term {term} at {first} follows term {}", tail.run_term);
            assert!(first <= end, "the run of term {term} at {first} is empty");
            tail.append(&mut older, end.0 - first.0 + 1, term);
        }
        assert!(tail.last == log.last, "the runs end at {}, the log at {}", tail.last, log.last);
        (tail, older)
    }

    /// The term of the entry at `index` (or of the position before the first entry); `None` outside the log.
    pub(crate) fn term_at(&self, older: &OlderRuns, index: LogIndex) -> Option<Term> {
        if index > self.last {
            None
        } else if index >= self.run_first {
            Some(self.run_term)
        } else {
            older.term_at(index)
        }
    }

    /// The last index of the run that `index` belongs to. `index` is in the log.
    pub(crate) fn run_end(&self, older: &OlderRuns, index: LogIndex) -> LogIndex {
        if index >= self.run_first {
            return self.last;
        }
        let after = older.runs.partition_point(|&(first, _)| first <= index);
        let next_first = older.runs.get(after).map_or(self.run_first, |&(first, _)| first);
        LogIndex(next_first.0 - 1)
    }

    /// The last index, at most `index` and at most the log's last, whose term is at most `term`; the log's base if there is none.
    pub(crate) fn last_at_most(&self, older: &OlderRuns, index: LogIndex, term: Term) -> LogIndex {
        let index = index.min(self.last);
        if index >= self.run_first && self.run_term <= term {
            return index;
        }
        // The first run whose term is too high ends the search; everything before it qualifies.
        let before = older.runs.partition_point(|&(_, t)| t <= term);
        let end = older.runs.get(before).map_or(self.run_first, |&(first, _)| first);
        LogIndex(end.0.saturating_sub(1)).min(index).max(older.base)
    }

    /// Appends `count` entries of `term`, which is at least the last one's.
    pub(crate) fn append(&mut self, older: &mut OlderRuns, count: u64, term: Term) {
        assert!(term >= self.run_term, "an entry of term {term} after one of term {}", self.run_term);
        if term > self.run_term {
            older.runs.push((self.run_first, self.run_term));
            self.run_first = self.last.next();
            self.run_term = term;
        }
        self.last = self.last.plus(count);
    }

    /// Cuts the log behind `keep`, which is in it.
    pub(crate) fn truncate(&mut self, older: &mut OlderRuns, keep: LogIndex) {
        assert!(
            keep >= older.base && keep <= self.last,
            "keep {keep} of a log {}..={}",
            older.base,
            self.last
        );
        while self.run_first > keep {
            let (first, term) =
                older.runs.pop().expect("the first run begins at the base, which is at most `keep`");
            self.run_first = first;
            self.run_term = term;
        }
        self.last = keep;
    }

    /// Forgets everything: the log is empty and continues behind `index`, whose term is `term`.
    pub(crate) fn replace(&mut self, older: &mut OlderRuns, index: LogIndex, term: Term) {
        older.base = index;
        older.runs.clear();
        *self = Tail { last: index, run_first: index, run_term: term };
    }

    /// Forgets the entries up to `index`, which is in the log.
    pub(crate) fn compact(&mut self, older: &mut OlderRuns, index: LogIndex) {
        assert!(
            index >= older.base && index <= self.last,
            "compact {index} in {}..={}",
            older.base,
            self.last
        );
        older.base = index;
        if index >= self.run_first {
            older.runs.clear();
            self.run_first = index;
        } else {
            let gone = older.runs.partition_point(|&(first, _)| first <= index) - 1;
            older.runs.drain(..gone);
            older.runs[0].0 = index;
        }
    }
}

impl OlderRuns {
    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let after = self.runs.partition_point(|&(first, _)| first <= index);
        after.checked_sub(1).map(|run| self.runs[run].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(first: u64, prev_term: u64, terms: &[u64]) -> LogState {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for (offset, &term) in terms.iter().enumerate() {
            if term_runs.last().is_none_or(|&(_, last)| last != Term(term)) {
                term_runs.push((LogIndex(first + offset as u64), Term(term)));
            }
        }
        let last = LogIndex(first + terms.len() as u64 - 1);
        LogState { first: LogIndex(first), last, prev_term: Term(prev_term), term_runs }
    }

    fn terms(tail: &Tail, older: &OlderRuns) -> Vec<u64> {
        (older.base.0..=tail.last.0).map(|i| tail.term_at(older, LogIndex(i)).unwrap().0).collect()
    }

    #[test]
    fn an_empty_log_knows_the_term_before_it() {
        let (tail, older) = Tail::recovered(&log(1, 0, &[]));
        assert_eq!((tail.last, tail.term_at(&older, LogIndex(0))), (LogIndex(0), Some(Term(0))));
        let (tail, older) = Tail::recovered(&log(8, 3, &[]));
        assert_eq!(tail.term_at(&older, LogIndex(7)), Some(Term(3)));
        assert_eq!(tail.term_at(&older, LogIndex(6)), None);
        assert_eq!(tail.term_at(&older, LogIndex(8)), None);
    }

    #[test]
    fn every_operation_agrees_with_a_plain_list_of_terms() {
        let list = [2, 2, 3, 3, 3, 5, 7, 7];
        for prev_term in [0, 2] {
            let (tail, older) = Tail::recovered(&log(4, prev_term, &list));
            let all: Vec<u64> = [prev_term].into_iter().chain(list).collect();
            assert_eq!(terms(&tail, &older), all);
            for index in 3..=11u64 {
                let at = LogIndex(index);
                let mine = all[(index - 3) as usize];
                let end = (index..=11).take_while(|&i| all[(i - 3) as usize] == mine).last().unwrap();
                assert_eq!(tail.run_end(&older, at), LogIndex(end), "run end of {index}");
                for term in 0..9 {
                    let expected = (3..=index).rev().find(|&i| all[(i - 3) as usize] <= term).unwrap_or(3);
                    assert_eq!(
                        tail.last_at_most(&older, at, Term(term)),
                        LogIndex(expected),
                        "{index} {term}"
                    );
                }
                let (mut cut, mut runs) = (tail, older.clone());
                cut.truncate(&mut runs, at);
                assert_eq!(terms(&cut, &runs), all[..=(index - 3) as usize]);
                cut.append(&mut runs, 2, Term(9));
                assert_eq!(cut.term_at(&runs, at.plus(2)), Some(Term(9)));
                assert_eq!(cut.term_at(&runs, at), Some(Term(mine)));
                let (mut rest, mut runs) = (tail, older.clone());
                rest.compact(&mut runs, at);
                assert_eq!(terms(&rest, &runs), all[(index - 3) as usize..]);
                rest.truncate(&mut runs, at);
                assert_eq!((rest.run_first, rest.run_term), (at, Term(mine)));
            }
        }
    }

    #[test]
    #[should_panic(expected = "begins at 5 after 3")]
    fn a_gap_in_the_recovered_runs_is_not_built_upon() {
        let mut state = log(4, 0, &[1]);
        state.term_runs[0].0 = LogIndex(5);
        Tail::recovered(&state);
    }
}
