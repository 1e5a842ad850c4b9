//! Where a member starts from when it has a snapshot and a log, whichever of them is ahead.

use crate::snapshot::SnapshotMeta;
use crate::{HardState, LogEnd, LogIndex, LogState, Membership, NodeId, Setup, Term};

/// A snapshot and a log that belong together: see [`Start::join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What is left of the log. It may begin one entry later than it was handed in.
    pub log: LogState,
    /// The hard state to start with.
    pub hard_state: HardState,
    /// The snapshot's index: what is behind it has to be applied again.
    pub applied: LogIndex,
    /// For [`Setup::memberships`].
    pub memberships: Vec<(LogIndex, Membership)>,
    /// The log that was handed in is void: the process ended after the snapshot was durable and before the log was moved. The caller
    /// forgets all entries, also those behind `applied`, **before** it writes anything else to this log.
    pub log_is_void: bool,
}

/// A snapshot and a log do not belong together. Nothing may be built on them: another snapshot is needed, or the member is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state would be older than the start of the log.
    #[error(
        "the log begins at {first} and the newest good snapshot ends at {snapshot}: entries {} to {} are nowhere; \
         fetch a newer snapshot from the leader, or replace this member", .snapshot.next(), .first.0 - 1
    )]
    Gap {
        /// Where the snapshot ends; 0 without one.
        snapshot: LogIndex,
        /// First index of the log.
        first: LogIndex,
    },
    /// The snapshot and the committed log differ.
    #[error(
        "the snapshot's entry {index} is of term {snapshot}, the committed one in the log of term {log}: one of them is not of this group"
    )]
    Differs {
        /// Where the snapshot ends.
        index: LogIndex,
        /// Its term.
        snapshot: Term,
        /// The log's.
        log: Term,
    },
    /// The snapshot has not the configuration that was in force at its index.
    #[error(
        "the snapshot of {index} has the configuration of {snapshot}, the log has one of {log} before it"
    )]
    OtherConfiguration {
        /// Where the snapshot ends.
        index: LogIndex,
        /// Its configuration's index.
        snapshot: LogIndex,
        /// That of the log.
        log: LogIndex,
    },
    /// The snapshot has no configuration, or numbers that no snapshot has.
    #[error(
        "the snapshot of index {index} and term {term} makes no sense: it needs both, and a configuration not later than itself"
    )]
    Senseless {
        /// Where it ends.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
}

impl Start {
    /// Joins the newest good snapshot and what was found in the log: the entries, the hard state, and the configurations (the founding
    /// one first, if this node was told it; then those in the log).
    ///
    /// Every state that a crash can leave is taken for what it is: a snapshot taken here, with a log that begins before, at or behind its
    /// end; one that was received and is ahead of the whole log, or parted from it.
    ///
    /// In `log`, a `prev_term` of 0 says that it is not known (unless the log begins at 1).
    ///
    /// # Errors
    /// [`StartError`]: they do not belong together.
    pub fn join(
        snapshot: Option<&SnapshotMeta>,
        log: LogState,
        hard_state: HardState,
        memberships: Vec<(LogIndex, Membership)>,
    ) -> Result<Start, StartError> {
        let Some(snapshot) = snapshot else {
            if log.first.0 > 1 {
                return Err(StartError::Gap { snapshot: LogIndex(0), first: log.first });
            }
            return Ok(Start { log, hard_state, applied: LogIndex(0), memberships, log_is_void: false });
        };
        let (index, term) = (snapshot.index, snapshot.term);
        if !snapshot.is_sane() {
            return Err(StartError::Senseless { index, term });
        }
        if log.first > index.next() {
            return Err(StartError::Gap { snapshot: index, first: log.first });
        }
        let known = term_in(&log, index);
        let log_is_void = log.last < index || known.is_some_and(|known| known != term);
        if let Some(known) = known.filter(|&known| known != term)
            && hard_state.commit >= index
        {
            return Err(StartError::Differs { index, snapshot: term, log: known });
        }
        let mut start = Start { log, hard_state, applied: index, memberships: Vec::new(), log_is_void };
        let own = (snapshot.membership_index, snapshot.membership.clone());
        start.memberships.push(own);
        if log_is_void {
            start.log = LogState { first: index.next(), last: index, prev_term: term, term_runs: Vec::new() };
        } else {
            start.log.know_prev_term(index, term);
            let is_between =
                |found: &&(LogIndex, Membership)| snapshot.membership_index < found.0 && found.0 <= index;
            if let Some((log, _)) = memberships.iter().find(is_between) {
                let snapshot = snapshot.membership_index;
                return Err(StartError::OtherConfiguration { index, snapshot, log: *log });
            }
            start.memberships.extend(memberships.into_iter().filter(|found| found.0 > index));
        }
        start.join_hard_state(index, term);
        Ok(start)
    }

    /// A leader of the snapshot's term has been, and this member may not have written that down: a snapshot is durable before anything
    /// that its arrival changes. Its vote in that term was not given, or it would have been written.
    fn join_hard_state(&mut self, index: LogIndex, term: Term) {
        let state = &mut self.hard_state;
        if term > state.term {
            (state.term, state.vote) = (term, NodeId::NONE);
        }
        state.commit = state.commit.min(self.log.last).max(index);
        // What was acknowledged and lost is part of what the snapshot stands for: `lost.rs` says why.
        if state.lost.log.is_some_and(|floor| LogEnd { term, index } >= floor) {
            state.lost.log = None;
        }
    }

    /// For [`crate::Group::new`], of this node; the rest as by default.
    pub fn setup(&self, me: NodeId) -> Setup<'_> {
        Setup {
            me,
            memberships: &self.memberships,
            hard_state: self.hard_state,
            log: &self.log,
            applied: self.applied,
            ..Setup::default()
        }
    }
}

impl LogState {
    /// The log begins at or before the entry behind a snapshot of `index` and `term`: the term before its first entry must be
    /// known. If it is not, the first entry takes that place.
    fn know_prev_term(&mut self, index: LogIndex, term: Term) {
        if self.first == index.next() {
            self.prev_term = term;
        } else if self.first.0 > 1 && self.prev_term.0 == 0 {
            // The log reaches to the snapshot's index at least, so it has a first entry.
            self.prev_term = self.term_runs[0].1;
            self.first = self.first.next();
            match self.term_runs.get(1) {
                Some(second) if second.0 == self.first => drop(self.term_runs.remove(0)),
                _ if self.first > self.last => self.term_runs.clear(),
                _ => self.term_runs[0].0 = self.first,
            }
        }
    }
}

/// The term at `index`, if the log tells.
fn term_in(log: &LogState, index: LogIndex) -> Option<Term> {
    if index > log.last {
        return None;
    }
    if index < log.first {
        return Some(log.prev_term).filter(|term| term.0 > 0 && index.next() == log.first);
    }
    let run = log.term_runs.iter().rfind(|run| run.0 <= index);
    run.map(|run| run.1)
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
