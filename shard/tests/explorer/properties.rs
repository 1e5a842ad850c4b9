//! What must hold in every state. A property that fails panics; the search shows the way there.

use std::rc::Rc;

use logdrive_shard::{Group, LogIndex, NodeId, Term};

use super::member::{Entry, Member};

/// What happened that the members themselves may have forgotten. Part of the state: two situations with different pasts are
/// different.
#[derive(Clone, Debug, Default, Hash)]
pub struct History {
    /// Who was seen to lead which term.
    leaders: Vec<(Term, usize)>,
    /// What was committed anywhere, and in which term it was.
    committed: Vec<(Entry, Term)>,
}

impl History {
    pub fn committed_len(&self) -> usize {
        self.committed.len()
    }

    /// The log that all start from is committed so far.
    pub fn adopt(&mut self, log: &[Entry], commit: u64) {
        self.committed = log[..commit as usize].iter().map(|&entry| (entry, entry.term)).collect();
    }
}

/// What is compared with the state after a step.
pub struct Before {
    leads: Option<Term>,
    log: Vec<Entry>,
    term: Term,
    commit: LogIndex,
    saved: (Term, NodeId),
}

impl Before {
    pub fn of(member: &Member) -> Before {
        let group = &member.group;
        let hard_state = group.hard_state();
        Before {
            leads: group.is_leader().then(|| group.term()),
            log: member.log.clone(),
            term: group.term(),
            commit: group.commit(),
            saved: (hard_state.term, hard_state.vote),
        }
    }

    /// Whether term or vote changed and has to be in the step's writes.
    pub fn must_save(&self, group: &Group) -> Option<(Term, NodeId)> {
        let state = group.hard_state();
        let now = (state.term, state.vote);
        (now != self.saved).then_some(now)
    }
}

/// After a step of member `at`.
pub fn check(before: &Before, at: usize, members: &[Rc<Member>], history: &mut Rc<History>) {
    let member = &members[at];
    let group = &member.group;
    assert!(group.term() >= before.term, "the term of {at} went back");
    assert!(group.commit() >= before.commit, "the commit index of {at} went back");
    assert_eq!(group.last_index().0, member.log.len() as u64, "group and caller agree on the log");
    if before.leads == Some(group.term()) && group.is_leader() {
        assert!(member.log.starts_with(&before.log), "leader append-only: {at} changed its log");
    }
    for index in group.first_index().0 - 1..=group.last_index().0 {
        let term = index.checked_sub(1).map_or(Term(0), |at| member.log[at as usize].term);
        assert_eq!(group.term_at(LogIndex(index)), Some(term), "{at}: the term of entry {index}");
    }
    disk_holds_what_is_called_durable(at, member);
    log_matching(at, members);
    state_machine_safety(at, members, history);
    if group.is_leader() {
        election_safety(at, group.term(), history);
    }
    for (leader, member) in members.iter().enumerate() {
        leader_completeness(leader, member, history);
    }
}

/// At most one leader can be elected in a given term.
fn election_safety(at: usize, term: Term, history: &mut Rc<History>) {
    match history.leaders.iter().find(|leader| leader.0 == term) {
        Some(&(_, other)) => assert_eq!(other, at, "election safety: two leaders in term {term}"),
        None => Rc::make_mut(history).leaders.push((term, at)),
    }
}

/// If two logs contain an entry with the same index and term, then the logs are identical up to it.
fn log_matching(at: usize, members: &[Rc<Member>]) {
    let one = &members[at].log;
    for other in members {
        for two in [&other.log, &other.disk.log] {
            let same = one.iter().zip(two).rposition(|(a, b)| a.term == b.term);
            let equal = same.is_none_or(|last| one[..=last] == two[..=last]);
            assert!(equal, "log matching: {one:?} and {two:?}");
        }
    }
}

/// What is committed in a term is in the logs of the leaders of all higher terms.
fn leader_completeness(at: usize, member: &Member, history: &History) {
    if !member.group.is_leader() {
        return;
    }
    let term = member.group.term();
    for (index, &(entry, committed_in)) in history.committed.iter().enumerate() {
        assert!(
            committed_in >= term || member.log.get(index) == Some(&entry),
            "leader completeness: {at} leads term {term} without entry {} of term {committed_in}",
            index + 1
        );
    }
}

/// No two members ever apply different entries at one index; and what is committed is durable on a majority
/// (of both configurations while they are joint).
fn state_machine_safety(at: usize, members: &[Rc<Member>], history: &mut Rc<History>) {
    let member = &members[at];
    let commit = member.group.commit().0 as usize;
    for index in 0..commit {
        let entry = member.log[index];
        if let Some(&(committed, _)) = history.committed.get(index) {
            assert_eq!(committed, entry, "state machine safety: {at} at index {}", index + 1);
            continue;
        }
        let membership = member.group.membership();
        for voters in [membership.voters(), membership.outgoing()] {
            let has = |voter: &&NodeId| members[voter.0 as usize - 1].disk.has(index, &entry);
            let copies = voters.iter().filter(has).count();
            assert!(
                voters.is_empty() || copies > voters.len() / 2,
                "{at} committed {} with {copies} durable copies among {voters:?}",
                index + 1
            );
        }
        Rc::make_mut(history).committed.push((entry, member.group.term()));
    }
}

fn disk_holds_what_is_called_durable(at: usize, member: &Member) {
    let durable = member.group.durable().0 as usize;
    assert!(
        (0..durable).all(|index| member.disk.has(index, &member.log[index])),
        "{at} takes {durable} for durable, the disk has {:?}",
        member.disk.log
    );
    assert!(member.group.applicable().0 as usize <= durable);
}

/// A read is confirmed at an index that covers everything committed anywhere when it was registered.
pub fn reads_are_fresh(member: &mut Member, confirmed: &[(u64, LogIndex)]) {
    for &(round, index) in confirmed {
        for &(waiting, committed) in &member.reads {
            assert!(
                waiting > round || index.0 as usize >= committed,
                "a stale read at {index}, {committed} were committed when it came"
            );
        }
        member.reads.retain(|&(waiting, _)| waiting > round);
    }
}
