//! What all members of a group agree on: entries of the same index and term are the same, and what is committed is the same everywhere.

use std::collections::{BTreeMap, BTreeSet};

use logdrive::wire::EntryKind;
use logdrive_shard::{LogIndex, Term};

use super::member::Entry;
use crate::sim::observer::{Verdict, ensure};

/// One group, over all its members and their lives.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    /// By index and term, each with the term of the entry before it, where that is known.
    seen: BTreeMap<(LogIndex, Term), (Entry, Option<Term>)>,
    committed: BTreeMap<LogIndex, Entry>,
    /// Indexes of configurations that are committed.
    changes: BTreeSet<LogIndex>,
    /// Checksums of configurations, by index and term of their entries.
    configs: BTreeMap<(LogIndex, Term), u32>,
}

impl Agreed {
    /// Some member has this entry, after one of the term `previous`.
    pub(super) fn appended(&mut self, index: LogIndex, entry: Entry, previous: Option<Term>) -> Verdict {
        let first = self.seen.entry((index, entry.term)).or_insert((entry, previous));
        first.1 = first.1.or(previous);
        let matches = first.0 == entry && previous.is_none_or(|previous| first.1 == Some(previous));
        ensure(matches, "logs match", || {
            format!("{entry:?} at {index} after {previous:?}; elsewhere {:?} after {:?}", first.0, first.1)
        })?;
        match entry.kind {
            EntryKind::Config => self.configured(index, entry.term, entry.crc),
            _ => Ok(()),
        }
    }

    /// The configuration with this checksum is in force somewhere, or on a disk, as that of the entry of this index and term.
    pub(super) fn configured(&mut self, index: LogIndex, term: Term, crc: u32) -> Verdict {
        let first = *self.configs.entry((index, term)).or_insert(crc);
        ensure(first == crc, "a configuration is the same everywhere", || {
            format!("checksum {crc:#x} at {index} of term {term}; elsewhere {first:#x}")
        })
    }

    /// Some member takes this entry for committed.
    pub(super) fn commits(&mut self, index: LogIndex, entry: Entry) -> Verdict {
        let first = *self.committed.entry(index).or_insert(entry);
        if first.kind == EntryKind::Config {
            self.changes.insert(index);
        }
        ensure(first == entry, "what is committed is the same everywhere", || {
            format!("{first:?} and {entry:?} at {index}")
        })
    }

    /// A member that takes everything up to `commit` for committed has the configuration of `in_force`: none that is committed comes after it.
    pub(super) fn in_force(&self, in_force: LogIndex, commit: LogIndex) -> Verdict {
        let newest = self.changes.range(..=commit).next_back().copied().unwrap_or_default();
        ensure(in_force >= newest, "a configuration that is committed is in force", || {
            format!(
                "that of {in_force} is in force, that of {newest} is committed, as everything up to {commit} is"
            )
        })
    }

    /// What is committed at an index, as far as a member that has it said so.
    pub(super) fn committed(&self, index: LogIndex) -> Option<Entry> {
        self.committed.get(&index).copied()
    }

    /// Whether exactly this entry is committed.
    pub(super) fn is_committed(&self, index: LogIndex, entry: Entry) -> bool {
        self.committed(index) == Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::{entry, member};
    use super::*;

    #[test]
    fn logs_that_do_not_match_are_seen() {
        let mut agreed = Agreed::default();
        member(&mut agreed, &[1, 1, 2]);
        member(&mut agreed, &[1, 1, 1]);
        let other = agreed.appended(LogIndex(2), entry(1, 77), Some(Term(1))).unwrap_err();
        assert_eq!(other.assertion, "logs match");
        let after = agreed.appended(LogIndex(3), entry(2, 3), Some(Term(2))).unwrap_err();
        assert_eq!(after.assertion, "logs match");
    }

    #[test]
    fn two_things_committed_at_one_index_are_seen() {
        let mut agreed = Agreed::default();
        let (mut one, mut other) = (member(&mut agreed, &[1, 1, 2]), member(&mut agreed, &[1, 1, 1]));
        one.commits(&mut agreed, LogIndex(3), LogIndex(1), |_| None).unwrap();
        other.commits(&mut agreed, LogIndex(2), LogIndex(1), |_| None).unwrap();
        other.commits(&mut agreed, LogIndex(3), LogIndex(1), |_| Some(Term(2))).unwrap();
        let broken = other.commits(&mut agreed, LogIndex(3), LogIndex(1), |_| None).unwrap_err();
        assert_eq!(broken.assertion, "what is committed is the same everywhere");
    }

    #[test]
    fn two_configurations_of_one_entry_are_seen() {
        let mut agreed = Agreed::default();
        agreed.configured(LogIndex(3), Term(2), 7).unwrap();
        agreed.configured(LogIndex(3), Term(3), 8).unwrap();
        let broken = agreed.configured(LogIndex(3), Term(2), 9).unwrap_err();
        assert_eq!(broken.assertion, "a configuration is the same everywhere");
        let other = Entry { kind: EntryKind::Config, ..entry(3, 9) };
        let broken = agreed.appended(LogIndex(3), other, None).unwrap_err();
        assert_eq!(broken.assertion, "a configuration is the same everywhere");
    }

    #[test]
    fn a_member_that_does_not_know_a_committed_configuration_is_seen() {
        let mut agreed = Agreed::default();
        agreed.commits(LogIndex(3), Entry { kind: EntryKind::Config, ..entry(1, 3) }).unwrap();
        agreed.commits(LogIndex(4), entry(1, 4)).unwrap();
        agreed.in_force(LogIndex(0), LogIndex(2)).unwrap();
        agreed.in_force(LogIndex(3), LogIndex(4)).unwrap();
        let broken = agreed.in_force(LogIndex(0), LogIndex(4)).unwrap_err();
        assert_eq!(broken.assertion, "a configuration that is committed is in force");
    }
}
