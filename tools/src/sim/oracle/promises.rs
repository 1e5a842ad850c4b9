//! What leaves a member rests on what is on its medium: votes, acknowledgements, answers, leadership. Judged by the member's durable part.

use logdrive_shard::{LogIndex, Membership, NodeId, Term};

use super::member::Member;
use crate::sim::observer::{Verdict, ensure};

/// A vote for `candidate` in `term` leaves the member, or its own candidacy.
pub(super) fn vote(member: &Member, term: Term, candidate: NodeId) -> Verdict {
    ensure(member.voted(term, candidate) || member.in_doubt, "no vote leaves before it is durable", || {
        format!("for node {candidate} in term {term}; durable: {:?} in {}", member, member.term())
    })
}

/// An acknowledgement of everything up to `index` leaves the member in `term`. `own` is the term of that entry as the member has it in
/// memory, `leaders` as the leader does that it goes to, if that still leads.
pub(super) fn matched(
    member: &Member,
    term: Term,
    index: LogIndex,
    own: Option<Term>,
    leaders: Option<Option<Term>>,
) -> Verdict {
    let last = member.last();
    ensure(last >= index, "no acknowledgement leaves before it is durable", || {
        format!("{index} is acknowledged, durable is {last}")
    })?;
    ensure(member.term() >= term, "no acknowledgement leaves before its term is durable", || {
        format!("{index} is acknowledged in term {term}, durable is {}", member.term())
    })?;
    let same = |other: Option<Term>| other.is_none_or(|term| member.holds(index, term));
    ensure(same(own), "what is acknowledged is what is durable", || {
        format!(
            "{index} is acknowledged, of term {own:?} in memory and {:?} on the disk",
            member.entry(index)
        )
    })?;
    let Some(leaders) = leaders else { return Ok(()) };
    ensure(index == LogIndex(0) || leaders.is_some(), "only what the leader has is acknowledged", || {
        format!("{index} is acknowledged, which the leader does not have")
    })?;
    ensure(same(leaders), "what is acknowledged is what the leader has", || {
        format!("{index} is {:?} here and of term {leaders:?} at the leader", member.entry(index))
    })
}

/// The member counts its own log as durable up to `index`, an entry of this term as it has it in memory.
pub(super) fn durable(member: &Member, index: LogIndex, term: Option<Term>) -> Verdict {
    let holds = index <= member.last() && term.is_none_or(|term| member.holds(index, term));
    ensure(holds, "what a member counts as durable is", || {
        format!("{index} of term {term:?}; on the disk it is {:?} of {}", member.entry(index), member.last())
    })
}

/// Whether those for whom `has` holds are a quorum.
pub(super) fn is_quorum(membership: &Membership, has: impl Fn(NodeId) -> bool) -> bool {
    let majority = |voters: &[NodeId]| {
        voters.is_empty() || voters.iter().filter(|voter| has(**voter)).count() > voters.len() / 2
    };
    majority(membership.voters()) && majority(membership.outgoing())
}

#[cfg(test)]
mod tests {
    use super::super::agreed::Agreed;
    use super::super::member::tests::member;
    use super::*;

    #[test]
    fn votes_that_are_not_durable_are_seen() {
        let broken = vote(&Member::default(), Term(1), NodeId(2)).unwrap_err();
        assert_eq!(broken.assertion, "no vote leaves before it is durable");
        let later = member(&mut Agreed::default(), &[2]);
        vote(&later, Term(1), NodeId(2)).unwrap();
    }

    #[test]
    fn acknowledgements_that_rest_on_nothing_are_seen() {
        let member = member(&mut Agreed::default(), &[1, 1, 2]);
        let (two, three, four) = (LogIndex(2), LogIndex(3), LogIndex(4));
        let assertion = |verdict: Verdict| verdict.unwrap_err().assertion;
        matched(&member, Term(2), three, Some(Term(2)), Some(Some(Term(2)))).unwrap();
        matched(&member, Term(2), two, Some(Term(1)), None).unwrap();
        assert_eq!(
            assertion(matched(&member, Term(2), four, None, None)),
            "no acknowledgement leaves before it is durable"
        );
        assert_eq!(
            assertion(matched(&member, Term(3), three, None, None)),
            "no acknowledgement leaves before its term is durable"
        );
        assert_eq!(
            assertion(matched(&member, Term(2), two, Some(Term(2)), None)),
            "what is acknowledged is what is durable"
        );
        assert_eq!(
            assertion(matched(&member, Term(2), three, None, Some(None))),
            "only what the leader has is acknowledged"
        );
        assert_eq!(
            assertion(matched(&member, Term(2), two, None, Some(Some(Term(2))))),
            "what is acknowledged is what the leader has"
        );
    }

    #[test]
    fn what_is_only_thought_to_be_durable_is_seen() {
        let member = member(&mut Agreed::default(), &[1, 1, 2]);
        durable(&member, LogIndex(0), None).unwrap();
        durable(&member, LogIndex(3), Some(Term(2))).unwrap();
        for (index, term) in [(4, 2), (3, 3)] {
            let broken = durable(&member, LogIndex(index), Some(Term(term))).unwrap_err();
            assert_eq!(broken.assertion, "what a member counts as durable is");
        }
    }

    #[test]
    fn a_quorum_is_one_of_both_configurations() {
        let nodes = [1, 2, 3].map(NodeId);
        let membership = Membership::founding(&nodes).unwrap();
        assert!(is_quorum(&membership, |node| node.0 < 3));
        assert!(!is_quorum(&membership, |node| node.0 < 2));
    }
}
