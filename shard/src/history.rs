//! What happened to a member lately: campaigns, votes refused, leaderships lost, transfers. For whoever has to explain an
//! election at night.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::{Group, LogIndex, Moment, NodeId, Term};

/// Entries kept, at most; the oldest go first.
pub const HISTORY_MAX: usize = 32;

/// Why a vote, or the promise of one, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VoteRefusal {
    /// This member is in contact with a working leader, which may be itself.
    HasLeader(NodeId),
    /// A leader that it followed may hold a lease by its promise, or it has just restarted and may have promised before.
    Bound,
    /// The candidate's term is not later than its own.
    OldTerm,
    /// It voted for another one in this term, or knows the leader of it.
    VotedFor(NodeId),
    /// Its log goes further than the candidate's.
    LogBehind {
        /// The last index here.
        mine: LogIndex,
        /// The candidate's.
        theirs: LogIndex,
    },
    /// Its own term and vote may be lost: it votes again when all others have told their terms.
    StateInDoubt,
}

/// Why leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepDown {
    /// A later term was heard of.
    LaterTerm,
    /// Too few voters in contact, or this member was removed, or its log is damaged.
    NoQuorum,
    /// It could not read what the others wait for, and they can do without it: see `lost.rs`.
    Unreadable,
}

/// How a leader transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferEnd {
    /// The target leads.
    Done,
    /// The target did not take over in time. This member leads on, and the target may still win if it was told to campaign.
    TimedOut,
    /// The caller called it off, or the target is no voter any more. This member leads on; see [`TransferEnd::TimedOut`].
    Cancelled,
    /// Leadership was lost, and not to the target (`NONE`: nobody is known to lead).
    Elsewhere(NodeId),
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryEvent {
    /// It asked whether it would be elected.
    Rehearsed,
    /// It campaigned.
    Campaigned {
        /// By order of the leader.
        by_order: bool,
    },
    /// It was elected.
    Elected,
    /// It gave its vote.
    Voted {
        /// To whom.
        candidate: NodeId,
    },
    /// It refused its vote, or the promise of one.
    Refused {
        /// To whom.
        candidate: NodeId,
        /// It was only asked whether it would.
        pre_vote: bool,
        /// Why.
        why: VoteRefusal,
    },
    /// It leads no more.
    SteppedDown {
        /// Why.
        why: StepDown,
    },
    /// It began to hand over leadership.
    TransferBegan {
        /// To whom.
        to: NodeId,
    },
    /// That ended.
    TransferEnded {
        /// To whom it should have gone.
        to: NodeId,
        /// How.
        end: TransferEnd,
    },
    /// A snapshot took the place of its log.
    SnapshotInstalled {
        /// Where the snapshot ends.
        index: LogIndex,
    },
}

/// An entry: an event, or the same event several times in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When it happened last.
    pub at: Moment,
    /// In which term of this member.
    pub term: Term,
    /// How often, one after the other.
    pub count: u32,
    /// What.
    pub event: HistoryEvent,
}

const _: () = assert!(size_of::<HistoryEntry>() <= 56);

/// The ring. Empty, it holds no memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(VecDeque<HistoryEntry>);

/// What happened does not matter for what may happen next: models need not tell states apart by it.
impl Hash for History {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

impl History {
    fn note(&mut self, at: Moment, term: Term, event: HistoryEvent) {
        if let Some(last) = self.0.back_mut()
            && (last.term, last.event) == (term, event)
        {
            last.at = at;
            last.count = last.count.saturating_add(1);
            return;
        }
        if self.0.len() >= HISTORY_MAX {
            self.0.pop_front();
        }
        self.0.push_back(HistoryEntry { at, term, count: 1, event });
    }
}

impl Group {
    /// The last campaigns, votes, refusals, losses of leadership and transfers, oldest first; at most [`HISTORY_MAX`].
    pub fn history(&self) -> impl Iterator<Item = HistoryEntry> + '_ {
        self.cold.history.0.iter().copied()
    }

    pub(crate) fn note(&mut self, at: Moment, event: HistoryEvent) {
        self.cold.history.note(at, self.term, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_and_the_oldest_go_first() {
        let mut history = History::default();
        for at in 0..1_000 {
            history.note(Moment(at), Term(1), HistoryEvent::Rehearsed);
        }
        assert_eq!(history.0.len(), 1);
        assert_eq!((history.0[0].count, history.0[0].at), (1_000, Moment(999)));
        for term in 2..200 {
            history.note(Moment(term), Term(term), HistoryEvent::Elected);
        }
        assert_eq!(history.0.len(), HISTORY_MAX);
        assert_eq!(history.0[0].term.0, 200 - HISTORY_MAX as u64);
    }
}
