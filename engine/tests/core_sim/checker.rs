//! What must hold whatever happens: observed from outside, over all nodes and all their lives.

use std::collections::BTreeMap;

use logdrive::api::Error;
use logdrive::core::GroupStatus;
use logdrive_shard::{GroupId, LogIndex, NodeId, Role, Term};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Propose,
    ReadLinearizable,
    ReadLocal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Not answered, or answered with "may or may not commit".
    Open,
    Acknowledged,
    /// "Nothing was appended."
    Refused,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) group: GroupId,
    pub(crate) kind: Kind,
    pub(crate) client: u32,
    pub(crate) node: NodeId,
    pub(crate) answer: Option<Result<LogIndex, Error>>,
    outcome: Outcome,
    /// The group's counter that was known to everybody when the operation began.
    floor: u64,
    /// Place in the group's sequence, once some node has applied it.
    place: Option<u64>,
}

/// One group: its state is the number of operations applied, a counter that only grows.
#[derive(Default)]
struct GroupHistory {
    /// What was applied, in order, by whoever applied it first.
    sequence: Vec<(LogIndex, u64)>,
    /// The highest counter that a client has been shown.
    floor: u64,
    leaders: BTreeMap<Term, NodeId>,
    /// The highest commit index of any member.
    commit: LogIndex,
    members: BTreeMap<NodeId, Seen>,
}

/// A member as it was seen last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    durable: LogIndex,
    last: LogIndex,
    /// The term it leads in, its commit index when that began, and the first index of the term.
    leads: Option<(Term, LogIndex, LogIndex)>,
}

/// What a member has promised with messages that left it.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// The highest term in which it voted or acknowledged.
    term: Term,
    /// The last index it acknowledged in `term`.
    matched: LogIndex,
}

impl Promise {
    fn in_term(&mut self, term: Term) {
        if self.term < term {
            *self = Promise { term, matched: LogIndex(0) };
        }
    }
}

#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) ops: Vec<Op>,
    groups: BTreeMap<GroupId, GroupHistory>,
    votes: BTreeMap<(GroupId, NodeId, Term), NodeId>,
    promises: BTreeMap<(GroupId, NodeId), Promise>,
    pub(crate) acknowledged: u64,
    pub(crate) indeterminate: u64,
    pub(crate) refused: u64,
    pub(crate) reads: u64,
}

impl Checker {
    /// A client begins an operation.
    pub(crate) fn begin(&mut self, kind: Kind, group: GroupId, node: NodeId, client: u32) -> u64 {
        let floor = self.groups.entry(group).or_default().floor;
        let (outcome, place) = (Outcome::Open, None);
        self.ops.push(Op { group, kind, client, node, answer: None, outcome, floor, place });
        self.ops.len() as u64 - 1
    }

    /// A node applies entry `index` of `group`, after `count` others.
    pub(crate) fn on_apply(&mut self, node: NodeId, group: GroupId, count: u64, index: LogIndex, op: u64) {
        let history = self.groups.entry(group).or_default();
        if let Some(known) = history.sequence.get(count as usize) {
            assert_eq!(
                *known,
                (index, op),
                "group {group}: node {node} applied something else at place {count}"
            );
            return;
        }
        assert_eq!(history.sequence.len() as u64, count, "group {group}: node {node} skipped entries");
        assert!(history.sequence.last().is_none_or(|last| last.0 < index), "group {group}: indexes go back");
        history.sequence.push((index, op));
        let begun = self.ops.get_mut(op as usize).expect("an entry that nobody proposed was applied");
        assert_eq!((begun.kind, begun.group), (Kind::Propose, group), "operation {op}");
        assert_eq!(begun.place, None, "operation {op} was applied twice");
        assert_ne!(begun.outcome, Outcome::Refused, "operation {op} was refused, and applied all the same");
        begun.place = Some(count);
    }

    /// An operation is answered. `counter` is the group's counter in the reply.
    pub(crate) fn on_answer(&mut self, op: u64, result: Result<LogIndex, Error>, counter: Option<u64>) -> Op {
        let begun = &mut self.ops[op as usize];
        assert_eq!(begun.answer, None, "operation {op} was answered twice");
        begun.answer = Some(result);
        let (group, kind) = (begun.group, begun.kind);
        let history = self.groups.get_mut(&group).expect("made when the operation began");
        match (result, counter) {
            (Ok(index), Some(counter)) => {
                let floor = begun.floor;
                match kind {
                    Kind::Propose => {
                        let place = begun.place.expect("acknowledged without having been applied");
                        assert_eq!((place + 1, history.sequence[place as usize].0), (counter, index));
                        assert!(counter > floor, "operation {op} took effect before it began");
                        begun.outcome = Outcome::Acknowledged;
                        self.acknowledged += 1;
                    }
                    Kind::ReadLinearizable => {
                        assert!(
                            counter >= floor,
                            "group {group}: a read saw {counter} after {floor} was shown (operation {op})"
                        );
                        self.reads += 1;
                    }
                    Kind::ReadLocal => {}
                }
                assert!(counter <= history.sequence.len() as u64);
                if kind != Kind::ReadLocal {
                    history.floor = history.floor.max(counter);
                }
            }
            (Err(Error::Indeterminate), _) => {
                assert_eq!(kind, Kind::Propose, "a read cannot be indeterminate");
                self.indeterminate += 1;
            }
            (Err(error), _) => {
                assert_eq!(begun.place, None, "operation {op} was applied and is refused: {error}");
                begun.outcome = Outcome::Refused;
                self.refused += 1;
            }
            (Ok(_), None) => panic!("operation {op}: an answer without a counter"),
        }
        self.ops[op as usize]
    }

    /// A member's state after a turn of its core, or as it starts.
    pub(crate) fn on_state(&mut self, node: NodeId, voters: usize, status: &GroupStatus) {
        let (group, raft) = (status.id, &status.raft);
        assert!(status.applied <= raft.commit, "group {group}: node {node} applied what is not committed");
        assert!(
            status.applied <= raft.durable,
            "group {group}: node {node} applied what is not durable there"
        );
        let history = self.groups.entry(group).or_default();
        let seen = history.members.entry(node).or_default();
        let before = std::mem::replace(seen, Seen { durable: raft.durable, last: raft.last, leads: None });
        if raft.role == Role::Leader {
            let first = *history.leaders.entry(raft.term).or_insert(node);
            assert_eq!(first, node, "group {group}: two leaders in term {}", raft.term);
            let leads = match before.leads {
                Some(leads) if leads.0 == raft.term => leads,
                _ => (raft.term, raft.commit, before.last.next()),
            };
            // Raft paper, figure 8: entries of older terms are committed by one of the own term.
            let own_term = raft.commit <= leads.1 || raft.commit >= leads.2;
            assert!(own_term, "group {group}: node {node} leads {leads:?} and commits {}", raft.commit);
            seen.leads = Some(leads);
        }
        if raft.commit > history.commit {
            history.commit = raft.commit;
            let holders = history.members.values().filter(|member| member.durable >= raft.commit).count();
            let members = &history.members;
            let commit = raft.commit;
            assert!(
                holders > voters / 2,
                "group {group}: {commit} is committed and durable on {holders}: {members:?}"
            );
        }
    }

    /// A vote leaves a node (its own one with its request).
    pub(crate) fn on_vote(&mut self, voter: NodeId, group: GroupId, term: Term, candidate: NodeId) {
        let first = *self.votes.entry((group, voter, term)).or_insert(candidate);
        assert_eq!(first, candidate, "group {group}: node {voter} voted twice in term {term}");
        self.promises.entry((group, voter)).or_default().in_term(term);
    }

    /// An acknowledgement of entries leaves a node.
    pub(crate) fn on_matched(&mut self, node: NodeId, group: GroupId, term: Term, matched: LogIndex) {
        let promise = self.promises.entry((group, node)).or_default();
        promise.in_term(term);
        if promise.term == term {
            promise.matched = promise.matched.max(matched);
        }
    }

    /// A node comes back with this term and last index: whatever it has promised must be in them.
    pub(crate) fn on_restart(&self, node: NodeId, group: GroupId, term: Term, last: LogIndex) {
        let Some(promise) = self.promises.get(&(group, node)) else { return };
        assert!(
            term >= promise.term,
            "group {group}: node {node} came back in term {term} after {promise:?}"
        );
        // In a later term another leader may have replaced what was acknowledged.
        let kept = term > promise.term || last >= promise.matched;
        assert!(kept, "group {group}: node {node} came back with {last} after {promise:?}");
    }

    /// Operations applied in a group so far.
    pub(crate) fn count(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(0, |history| history.sequence.len() as u64)
    }
}
