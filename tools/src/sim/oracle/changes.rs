//! Configurations: the one in force is the last one in the log, and a leader changes it one step at a time, after an entry of its own
//! term is committed.

use logdrive::core::{GroupSummary, Slot};
use logdrive::wire::EntryKind;
use logdrive_shard::{LogIndex, Membership, Role, Term};

use super::member::Member;
use crate::sim::node::SimCore;
use crate::sim::observer::{ChangedSlot, Verdict, ensure};

/// What a core tells of a group's entries.
pub(super) trait Terms {
    /// The term of an entry, if it is there.
    fn term_at(&self, slot: Slot, index: LogIndex) -> Option<Term>;
}

impl Terms for SimCore {
    fn term_at(&self, slot: Slot, index: LogIndex) -> Option<Term> {
        SimCore::term_at(self, slot, index)
    }
}

/// Judges the configuration in force after a turn; `before` is the index of the one that was in force after the turn before.
pub(super) fn judge(
    member: &Member,
    core: &impl Terms,
    changed: &ChangedSlot,
    before: Option<LogIndex>,
    (membership, index): (&Membership, LogIndex),
) -> Verdict {
    let now = &changed.now;
    ensure(index <= now.last, "a configuration leaves with its entry", || {
        format!("that of {index} is in force, the log ends at {}", now.last)
    })?;
    let last = member.config();
    let stands = member.entry(last).is_some_and(|entry| core.term_at(changed.slot, last) == Some(entry.term));
    ensure(index >= last || !stands, "a configuration is in force as soon as it is in the log", || {
        format!("that of {index} is in force, {last} is in the log")
    })?;
    let same_entry =
        |at: LogIndex| member.entry(at).filter(|entry| core.term_at(changed.slot, at) == Some(entry.term));
    // Another entry may have come to its place since.
    if index > LogIndex(0)
        && let Some(entry) = same_entry(index)
    {
        let known = before == Some(index);
        let same =
            entry.kind == EntryKind::Config && (known || entry.crc == crc32c::crc32c(&membership.encode()));
        ensure(same, "a configuration is what its entry says", || {
            format!("{membership:?} of {index} is in force, the log has {entry:?}")
        })?;
    }
    match before {
        Some(before) if before < index => step(core, changed.slot, now, before, index),
        _ => Ok(()),
    }
}

/// A leader that changed the configuration.
fn step(core: &impl Terms, slot: Slot, now: &GroupSummary, before: LogIndex, index: LogIndex) -> Verdict {
    if now.role != Role::Leader || core.term_at(slot, index) != Some(now.term) {
        return Ok(());
    }
    ensure(before <= now.commit, "one change at a time", || {
        format!("{index} changes the members while {before} is not committed ({})", now.commit)
    })?;
    let own = core.term_at(slot, now.commit);
    ensure(own == Some(now.term), "a change waits for a commit in the leader's term", || {
        format!("{index} changes the members in term {}, committed is {} of {own:?}", now.term, now.commit)
    })
}

#[cfg(test)]
mod tests {
    use super::super::agreed::Agreed;
    use super::super::member::tests::member;
    use super::*;
    use logdrive_shard::{GroupId, NodeId};

    struct Log(Vec<u64>);

    impl Terms for Log {
        fn term_at(&self, _: Slot, index: LogIndex) -> Option<Term> {
            self.0.get((index.0 as usize).checked_sub(1)?).copied().map(Term)
        }
    }

    fn changed(commit: u64) -> ChangedSlot {
        let now = GroupSummary {
            id: GroupId(1),
            role: Role::Leader,
            term: Term(2),
            leader: NodeId(1),
            commit: LogIndex(commit),
            applied: LogIndex(0),
            last: LogIndex(4),
            durable: LogIndex(4),
        };
        ChangedSlot { slot: Slot(0), before: now, now }
    }

    fn assertion(commit: u64, before: u64, index: u64) -> Option<&'static str> {
        let terms = [1, 1, 2, 2];
        let member = member(&mut Agreed::default(), &terms[..2]);
        let membership = Membership::founding(&[NodeId(1)]).unwrap();
        let verdict = judge(
            &member,
            &Log(terms.to_vec()),
            &changed(commit),
            Some(LogIndex(before)),
            (&membership, LogIndex(index)),
        );
        verdict.err().map(|broken| broken.assertion)
    }

    #[test]
    fn configurations_that_break_the_rules_are_seen() {
        assert_eq!(assertion(3, 0, 4), None);
        assert_eq!(assertion(2, 0, 4), Some("a change waits for a commit in the leader's term"));
        assert_eq!(assertion(3, 0, 2), Some("a configuration is what its entry says"));
        assert_eq!(assertion(3, 0, 9), Some("a configuration leaves with its entry"));
        assert_eq!(assertion(2, 3, 4), Some("one change at a time"));
    }
}
