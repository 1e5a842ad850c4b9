//! A member of a group as a loss of power would leave it: its log, its term and its vote, read from what is on the medium.

use std::collections::VecDeque;

use logdrive::wire::EntryKind;
use logdrive_shard::{GroupId, LogIndex, NodeId, Term};
use logdrive_wal::offline::{Record, RecordKind};

use super::agreed::Agreed;
use crate::sim::observer::{Verdict, ensure};

/// An entry, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its term.
    pub(super) term: Term,
    /// Its kind.
    pub(super) kind: EntryKind,
    /// Checksum of its payload.
    pub(super) crc: u32,
}

/// The group that a stream is of, and which beginning of the group's log on its node it is; later ones are greater. (The number of a stream:
/// the group, above that how often it began anew, above that how often its log did since.)
pub(super) fn life_of(stream: u64) -> (GroupId, u32) {
    let (lives, logs) = ((stream >> 32) as u16, (stream >> 48) as u16);
    (GroupId(stream & u64::from(u32::MAX)), u32::from(lives) << 16 | u32::from(logs))
}

/// The stream of a group's life.
pub(super) fn stream_of(group: GroupId, life: u32) -> u64 {
    u64::from(life & 0xFFFF) << 48 | u64::from(life >> 16) << 32 | group.0
}

/// The kind of an entry, in the lowest bits of its note.
pub(super) fn kind_of(record: &Record<'_>) -> EntryKind {
    EntryKind::from_number((record.note & 3) as u8).unwrap_or(EntryKind::Payload)
}

/// The durable part of a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// How often the group began anew here.
    life: u32,
    /// Entries up to here are given up.
    compacted: u64,
    /// Where the newest record is that says so. Without it entries that are given up may come back, or a log not know where it begins.
    compacted_at: Option<u64>,
    /// A snapshot that is durable stands for everything up to here. It may be ahead of the log: one that was installed.
    snapshot: u64,
    /// From the one after `compacted` on, each with its place in the log.
    entries: VecDeque<(Entry, u64)>,
    /// Places of entries that are being written again; they count all together.
    copies: Vec<(u64, u64)>,
    /// Term and vote, and where they are.
    term: Term,
    vote: NodeId,
    state_at: Option<u64>,
    /// The member's disk lost something: what it promised before does not bind it, it has to ask.
    pub(super) in_doubt: bool,
    /// The entries of the log before this one in the same life, until it is known where this one begins.
    left: Vec<(LogIndex, Entry)>,
    /// Compared with what is committed up to here.
    compared: u64,
    /// Index of the last configuration in the log.
    config: u64,
}

impl Member {
    /// How often the group began anew here.
    pub(super) fn life(&self) -> u32 {
        self.life
    }

    /// Entries up to here are given up.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The last entry of the log.
    pub(super) fn log_last(&self) -> LogIndex {
        LogIndex(self.compacted + self.entries.len() as u64)
    }

    /// The last entry, or the last one that a snapshot stands for.
    pub(super) fn last(&self) -> LogIndex {
        self.log_last().max(LogIndex(self.snapshot))
    }

    /// The newest snapshot that is durable.
    pub(super) fn has_snapshot(&mut self, index: LogIndex) {
        self.snapshot = index.0;
    }

    /// An entry.
    pub(super) fn entry(&self, index: LogIndex) -> Option<Entry> {
        let place = index.0.checked_sub(self.compacted + 1)?;
        self.entries.get(usize::try_from(place).ok()?).map(|(entry, _)| *entry)
    }

    /// Has this entry of this term, or had it and needs it no more.
    pub(super) fn holds(&self, index: LogIndex, term: Term) -> bool {
        index.0 <= self.compacted.max(self.snapshot)
            || self.entry(index).is_some_and(|entry| entry.term == term)
    }

    /// The term that it comes back in, at least.
    pub(super) fn term(&self) -> Term {
        self.term.max(self.entries.back().map_or(Term(0), |(last, _)| last.term))
    }

    /// Whether it would come back knowing that it voted for `candidate` in `term`, or in a later term.
    pub(super) fn voted(&self, term: Term, candidate: NodeId) -> bool {
        self.term() > term || (self.term == term && self.vote == candidate)
    }

    /// Index of the last configuration in the log; 0 if none is known.
    pub(super) fn config(&self) -> LogIndex {
        LogIndex(self.config)
    }

    /// The place of the oldest thing that is needed.
    pub(super) fn needs_from(&self) -> Option<u64> {
        self.entries.iter().map(|(_, at)| *at).chain(self.state_at).chain(self.compacted_at).min()
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = (LogIndex, Entry)> {
        (self.compacted + 1..).map(LogIndex).zip(self.entries.iter().map(|(entry, _)| *entry))
    }

    /// A record of the group became durable.
    pub(super) fn take(&mut self, agreed: &mut Agreed, life: u32, record: &Record<'_>) -> Verdict {
        if life < self.life {
            return Ok(());
        }
        if life > self.life {
            // The old log is given up; term and vote are not.
            let is_new_log = life >> 16 == self.life >> 16;
            let left = if is_new_log { self.entries().collect() } else { Vec::new() };
            let Member { term, vote, snapshot, .. } = *self;
            *self = Member { life, term, vote, snapshot, left, ..Member::default() };
        }
        match record.kind {
            RecordKind::Entry => {
                let kind = kind_of(record);
                let crc = crc32c::crc32c(record.payload);
                self.append(agreed, record.index, Entry { term: Term(record.tag), kind, crc }, record.lsn)
            }
            RecordKind::State => self.put_state(record.payload, record.lsn),
            RecordKind::StateCopy => {
                self.state_at = Some(record.lsn);
                Ok(())
            }
            RecordKind::Compacted => {
                self.compact(record.index);
                self.compacted_at = Some(record.lsn);
                let left = std::mem::take(&mut self.left);
                let behind = left.iter().filter(|(index, _)| index.0 > record.index);
                behind.clone().try_for_each(|&(index, entry)| {
                    ensure(!agreed.is_committed(index, entry), "what is committed is never replaced", || {
                        format!("{entry:?} at {index} is committed, a new log begins behind {}", record.index)
                    })
                })
            }
            RecordKind::RewriteBegin => {
                self.copies.clear();
                Ok(())
            }
            RecordKind::Copy => {
                self.copies.push((record.index, record.lsn));
                let same = self.entry(LogIndex(record.index)).is_none_or(|entry| {
                    entry.term.0 == record.tag && entry.crc == crc32c::crc32c(record.payload)
                });
                ensure(same, "a copy of an entry is equal to it", || format!("index {}", record.index))
            }
            RecordKind::RewriteEnd => {
                for (index, at) in std::mem::take(&mut self.copies) {
                    if let Some(place) = index.checked_sub(self.compacted + 1)
                        && let Some(entry) = self.entries.get_mut(place as usize)
                    {
                        entry.1 = at;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, agreed: &mut Agreed, index: u64, entry: Entry, at: u64) -> Verdict {
        let last = self.log_last().0;
        if index > last + 1 {
            // Behind a snapshot.
            (self.compacted, self.compared) = (index - 1, self.compared.max(index - 1));
            self.entries.clear();
        }
        for replaced in index.max(self.compacted + 1)..=last {
            let old = self.entry(LogIndex(replaced));
            let stays = replaced == index && old == Some(entry);
            let was_agreed = old.is_some_and(|old| agreed.is_committed(LogIndex(replaced), old));
            ensure(stays || !was_agreed, "what is committed is never replaced", || {
                format!("{old:?} at {replaced} is committed, {entry:?} comes to {index}")
            })?;
        }
        if index <= self.compacted {
            self.compacted = index.saturating_sub(1);
        }
        self.entries.truncate((index - 1 - self.compacted) as usize);
        self.compared = self.compared.min(index - 1);
        if self.config >= index {
            let configs = self.entries().filter(|(_, entry)| entry.kind == EntryKind::Config);
            self.config = configs.last().map_or(0, |(index, _)| index.0);
        }
        if entry.kind == EntryKind::Config {
            self.config = index;
        }
        let previous = self.entries.back().map(|(previous, _)| previous.term);
        self.entries.push_back((entry, at));
        ensure(previous.is_none_or(|previous| previous <= entry.term), "terms grow along a log", || {
            format!("{:?} at {index} after {previous:?}", entry.term)
        })?;
        agreed.appended(LogIndex(index), entry, previous)
    }

    /// The bytes of version 1 and 2: history (4) at 4, term (8), commit (8), vote (4).
    fn put_state(&mut self, blob: &[u8], at: u64) -> Verdict {
        let term = blob.get(8..16).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let vote = blob.get(24..28).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
        let (Some(term), Some(vote)) = (term.map(Term), vote.map(NodeId)) else {
            return ensure(false, "a state can be read", || format!("{blob:?}"));
        };
        self.in_doubt |= blob[0] > 1 && blob[1] != 0;
        let before = (self.term, self.vote);
        (self.term, self.vote, self.state_at) = (term, vote, Some(at));
        let grows = term > before.0 || term == before.0 && (before.1 == vote || !before.1.is_some());
        ensure(grows || self.in_doubt, "term and vote never go back", || {
            format!("{before:?} on the disk is followed by {:?}", (term, vote))
        })
    }

    fn compact(&mut self, index: u64) {
        while self.compacted < index {
            if self.entries.pop_front().is_none() {
                self.compacted = index;
                return;
            }
            self.compacted += 1;
        }
    }

    /// The member takes everything up to `commit` for committed: what of it is durable must be the same everywhere. `term_at` is its log
    /// in memory, which begins at `first`: what is to be replaced by something that is on its way to the disk does not count, be it
    /// entries or a snapshot.
    pub(super) fn commits(
        &mut self,
        agreed: &mut Agreed,
        commit: LogIndex,
        first: LogIndex,
        term_at: impl Fn(LogIndex) -> Option<Term>,
    ) -> Verdict {
        let end = commit.min(self.log_last()).0;
        // What a snapshot stands for may be something else than what is still in a log whose end is on its way to the disk.
        let from = self.compared.max(self.compacted).max(self.snapshot).max(first.0.saturating_sub(1));
        for index in from + 1..=end {
            let Some(entry) = self.entry(LogIndex(index)) else { continue };
            if term_at(LogIndex(index)).is_some_and(|term| term != entry.term) {
                break;
            }
            agreed.commits(LogIndex(index), entry)?;
            self.compared = index;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn entry(term: u64, crc: u32) -> Entry {
        Entry { term: Term(term), kind: EntryKind::Payload, crc }
    }

    /// A member with entries of these terms, their checksums equal to their indexes.
    pub(in super::super) fn member(agreed: &mut Agreed, terms: &[u64]) -> Member {
        let mut member = Member::default();
        for (index, &term) in (1..).zip(terms) {
            member.append(agreed, index, entry(term, index as u32), index * 100).unwrap();
        }
        member
    }

    fn state(term: u64, vote: u32) -> Vec<u8> {
        let mut blob = vec![0; 32];
        blob[0] = 1;
        blob[8..16].copy_from_slice(&term.to_le_bytes());
        blob[24..28].copy_from_slice(&vote.to_le_bytes());
        blob
    }

    #[test]
    fn a_term_or_a_vote_that_goes_back_is_seen() {
        let mut member = Member::default();
        for (term, vote) in [(1, 0), (1, 2), (1, 2), (3, 1)] {
            member.put_state(&state(term, vote), 0).unwrap();
        }
        assert!(member.voted(Term(3), NodeId(1)) && !member.voted(Term(3), NodeId(2)));
        for (term, vote) in [(3, 2), (3, 0), (2, 1)] {
            let broken = member.clone().put_state(&state(term, vote), 0).unwrap_err();
            assert_eq!(broken.assertion, "term and vote never go back");
        }
    }

    #[test]
    fn a_committed_entry_that_is_replaced_is_seen() {
        let mut agreed = Agreed::default();
        let mut member = member(&mut agreed, &[1, 1, 1]);
        member.commits(&mut agreed, LogIndex(2), LogIndex(1), |_| None).unwrap();
        member.clone().append(&mut agreed, 3, entry(2, 9), 0).unwrap();
        for index in [1, 2] {
            let broken = member.clone().append(&mut agreed, index, entry(2, 9), 0).unwrap_err();
            assert_eq!(broken.assertion, "what is committed is never replaced");
        }
    }

    #[test]
    fn a_new_life_comes_after_a_new_log_of_the_old_one() {
        let (life, log) = (1 << 32 | 7, 1 << 48 | 7);
        assert!(life_of(7) < life_of(log) && life_of(log) < life_of(life));
        for stream in [7, life, log, 3 << 48 | 2 << 32 | 9] {
            let (group, life) = life_of(stream);
            assert_eq!(stream_of(group, life), stream);
        }
    }

    #[test]
    fn places_follow_entries_that_are_compacted_and_written_again() {
        let mut agreed = Agreed::default();
        let mut member = member(&mut agreed, &[1, 1, 2]);
        assert_eq!(member.needs_from(), Some(100));
        member.compact(1);
        assert_eq!((member.needs_from(), member.last()), (Some(200), LogIndex(3)));
        assert!(member.holds(LogIndex(1), Term(9)) && !member.holds(LogIndex(3), Term(1)));
        member.copies = vec![(2, 900), (3, 950)];
        let end = Record {
            lsn: 1_000,
            kind: RecordKind::RewriteEnd,
            stream: 1,
            index: 2,
            tag: 3,
            note: 0,
            payload: &[],
        };
        member.take(&mut agreed, 0, &end).unwrap();
        assert_eq!(member.needs_from(), Some(900));
        let compacted = |index, lsn| Record { lsn, kind: RecordKind::Compacted, index, ..end };
        member.take(&mut agreed, 0, &compacted(1, 800)).unwrap();
        assert_eq!(member.needs_from(), Some(800), "what says where the log begins");
        member.take(&mut agreed, 0, &compacted(3, 1_100)).unwrap();
        assert_eq!((member.needs_from(), member.last()), (Some(1_100), LogIndex(3)));
    }
}
