//! The records of a log while it opens: into the index and to the owner.

use std::collections::BTreeSet;

use super::hole::{Directory as Directories, Hole};
use super::losses::{Losses, VERDICT_STATE, VERDICT_TAINTED, Verdict};
use super::moved::{Moved, Moves};
use super::{Damage, EntryHeader, Recovery, StreamId, StreamSlot};
use crate::format::{
    BatchHeader, Directory, Effect, Effects, Incarnation, Kind, Lsn, MARK_SLOT_BYTES, Record, RecordHeader,
};
use crate::index::Index;

/// What the records read so far amount to.
pub(super) struct Taken {
    pub(super) index: Index,
    pub(super) losses: Losses,
    pub(super) moves: Moves,
    /// Entries and copies of the segment that is being read.
    pub(super) entries: u32,
    /// Bytes of these.
    pub(super) entry_bytes: u64,
    /// The oldest segment that is needed, as the newest trim record or header says.
    pub(super) first_live: Incarnation,
    /// States put, and entries replaced, since the log began; they wrap.
    pub(super) states: u32,
    pub(super) replaced: u32,
    /// What the newest batch did.
    pub(super) directory: Directory,
    /// Where it begins; `None` behind damage.
    pub(super) last_batch: Option<Lsn>,
    /// Streams whose state was in a damaged place and was not written since.
    doubts: BTreeSet<u32>,
    /// A damaged place of which nothing tells what it held.
    unknown: Option<Unknown>,
    /// There was such a place: streams may have gaps.
    pub(super) gaps: bool,
}

/// A damaged place of which nothing tells what it held, and what came after it.
#[derive(Debug)]
struct Unknown {
    start: Lsn,
    end: Lsn,
    /// Whether it held states, and entries that replaced others: `None` until a batch behind it says so.
    held_states: Option<bool>,
    held_replacements: Option<bool>,
    /// Entries replaced before it.
    replaced: u32,
    /// Streams with an entry behind it, and with a state behind it.
    entries_after: BTreeSet<u32>,
    states_after: BTreeSet<u32>,
    /// Streams whose first record is behind it, and is not of the entry that a stream begins with.
    begun: BTreeSet<u32>,
}

impl Taken {
    pub(super) fn new() -> Taken {
        Taken {
            index: Index::new(),
            losses: Losses::default(),
            first_live: Incarnation::NONE,
            states: 0,
            replaced: 0,
            directory: Directory::new(MARK_SLOT_BYTES as usize / 2),
            last_batch: None,
            doubts: BTreeSet::new(),
            unknown: None,
            gaps: false,
            moves: Moves::default(),
            entries: 0,
            entry_bytes: 0,
        }
    }

    /// An intact batch begins.
    pub(super) fn begin(&mut self, batch: &BatchHeader) {
        self.directory.clear();
        self.last_batch = Some(batch.lsn);
        self.count(batch.states, batch.replaced);
    }

    /// What a header says was put before its batch: so many may have been lost.
    fn count(&mut self, states: u32, replaced: u32) {
        if let Some(unknown) = &mut self.unknown {
            unknown.held_states.get_or_insert(states != self.states);
            // What is known of the place since says nothing of this: an entry that replaces nothing seems to, if what was there before it
            // was replaced in the part that is not known.
            let before = unknown.replaced;
            unknown.held_replacements.get_or_insert(replaced != before);
        }
        (self.states, self.replaced) = (states, replaced);
    }

    /// One record. An error says what makes no sense about it.
    pub(super) fn take(
        &mut self,
        recovery: &mut dyn Recovery,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let header = &record.header;
        let id = StreamId(header.stream);
        if header.kind != Kind::Directory {
            self.directory.push(header.kind, header.stream, header.index);
        }
        if matches!(header.kind, Kind::Entry | Kind::Copy) {
            self.entries += 1;
            self.entry_bytes += record.bytes as u64;
        }
        if matches!(header.kind, Kind::Entry | Kind::Repair) && self.moves.skips(header.stream, lsn) {
            return Ok(());
        }
        match header.kind {
            Kind::RewriteBegin => self.rewrite_begins(header.stream, lsn..lsn.plus(1), header.index),
            Kind::Copy => self.copy(recovery, lsn, record)?,
            Kind::RewriteEnd => {
                self.rewrite_ends(recovery, header.stream, lsn, header.index, Some(header.tag));
            }
            Kind::Entry => self.entry(recovery, id, lsn, record)?,
            Kind::State | Kind::StateCopy => {
                let slot = self.index.slot(id);
                let stream = self.index.stream_mut(slot);
                stream.state.clear();
                stream.state.extend_from_slice(record.payload);
                let copied = stream.state_at.filter(|_| header.kind == Kind::StateCopy);
                (stream.state_copy_at, stream.state_at) = (copied, Some(lsn));
                self.states = self.states.wrapping_add(u32::from(header.kind == Kind::State));
                self.doubts.remove(&slot.0);
                if let Some(unknown) = &mut self.unknown {
                    unknown.states_after.insert(slot.0);
                }
                recovery.state(id, record.payload);
            }
            Kind::Compacted => {
                let slot = self.index.slot(id);
                self.index.compact(slot, header.index);
                self.losses.compacted(slot, header.index);
                self.index.stream_mut(slot).compacted_at = Some(lsn);
                recovery.compacted(id, header.index);
            }
            Kind::Trim => self.first_live = self.first_live.max(Incarnation(header.index)),
            Kind::Repair => self.repair(recovery, id, lsn, record)?,
            Kind::Verdict => {
                let slot = self.index.slot(id);
                let tainted_from = (header.note & VERDICT_TAINTED != 0).then_some(header.index);
                let state = header.note & VERDICT_STATE != 0;
                self.losses.accuse(slot, Verdict { tainted_from, state, at: Some(lsn) });
            }
            Kind::Healed => {
                let slot = self.index.slot(id);
                self.losses.heal(slot);
                self.doubts.remove(&slot.0);
                if let Some(unknown) = &mut self.unknown {
                    unknown.begun.remove(&slot.0);
                }
            }
            // Whatever could be known about damage up to there has become verdicts: what came later is no evidence.
            Kind::Judged => {
                if self.unknown.as_ref().is_some_and(|unknown| unknown.end.0 <= header.tag) {
                    self.unknown = None;
                }
                self.losses.unknown |= header.note != 0;
            }
            Kind::Directory => {}
        }
        Ok(())
    }

    pub(super) fn entry(
        &mut self,
        recovery: &mut dyn Recovery,
        id: StreamId,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let header = &record.header;
        let slot = self.index.slot(id);
        if self.gaps {
            self.fill_gap(recovery, slot, lsn, header.index);
        }
        let stream = self.index.stream(slot);
        if !stream.accepts(header.index) {
            let (first, next, compacted) = (stream.first, stream.next, stream.compacted);
            return Err(format!(
                "entry {} of stream {} does not follow {first}..{next}, compacted up to {compacted}",
                header.index, id.0
            ));
        }
        let replaces = header.kind == Kind::Entry && header.index < stream.next;
        self.replaced = self.replaced.wrapping_add(u32::from(replaces));
        if replaces
            && header.index <= stream.first
            && let Some(dead_until) = stream.lsn(stream.next.saturating_sub(1))
        {
            self.moves.found.insert(slot.0, Moved { slot, begin: lsn, end: lsn, dead_until });
        }
        self.index.push(slot, header.index, lsn);
        self.note_after(slot);
        if !self.losses.is_empty() {
            self.losses.replaced(slot, header.index);
        }
        let header = EntryHeader { index: header.index, tag: header.tag, note: header.note };
        recovery.entry(id, header, record.payload);
        Ok(())
    }

    /// The stream has an entry behind the damaged place of which nothing tells what it held.
    pub(super) fn note_after(&mut self, slot: StreamSlot) {
        if let Some(unknown) = &mut self.unknown {
            unknown.entries_after.insert(slot.0);
        }
    }

    fn repair(
        &mut self,
        recovery: &mut dyn Recovery,
        id: StreamId,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let header = &record.header;
        let slot = self.index.slot(id);
        let stream = self.index.stream(slot);
        if stream.lsn(header.index).is_none() {
            // Further on the log says that the entry was let go, or replaced, and its segment was recycled since: nobody needs it.
            tracing::debug!(stream = id.0, index = header.index, "a repair of an entry that is gone");
            return Ok(());
        }
        self.losses.repaired(slot, header.index, lsn);
        let header = EntryHeader { index: header.index, tag: header.tag, note: header.note };
        recovery.repaired(id, header, record.payload);
        Ok(())
    }

    /// A stream goes on at `index` behind a place of which nothing tells what it held: what lies between is lost.
    fn fill_gap(&mut self, recovery: &mut dyn Recovery, slot: StreamSlot, lsn: Lsn, index: u64) {
        let stream = self.index.stream(slot);
        if stream.next == 0 && stream.compacted == 0 {
            // Never seen: where it began is lost, too, unless the place was judged when that could still be read.
            if let Some(unknown) = self.unknown.as_mut().filter(|_| index > 1) {
                unknown.begun.insert(slot.0);
            }
        } else if index > stream.next {
            self.lose_entries(recovery, slot, lsn, stream.next, index - 1);
        }
    }

    /// Entries `first ..= last` of a stream were in a damaged place: they stay members of the log, without their bytes.
    pub(super) fn lose_entries(
        &mut self,
        recovery: &mut dyn Recovery,
        slot: StreamSlot,
        lsn: Lsn,
        first: u64,
        last: u64,
    ) {
        let stream = self.index.stream(slot);
        let id = stream.id;
        let mut first = first.max(stream.compacted + 1);
        if !stream.is_empty() {
            // What lies between is lost as well.
            first = first.min(stream.next);
        }
        if first > last {
            return;
        }
        for index in first..=last {
            let replaces = index < self.index.stream(slot).next;
            self.replaced = self.replaced.wrapping_add(u32::from(replaces && index == first));
            self.index.push(slot, index, lsn);
        }
        self.losses.damage(slot, first, last);
        recovery.damaged(id, first, last);
    }

    /// Takes a damaged place: what can be saved of it, and what it did according to the directory behind it.
    pub(super) fn take_hole(&mut self, recovery: &mut dyn Recovery, hole: &Hole, damage: &mut Damage) {
        self.last_batch = None;
        self.directory.clear();
        if let Some(head) = &hole.head {
            self.count(head.states, head.replaced);
        }
        let counted = (self.states, self.replaced);
        let mut saved = hole.salvage().into_iter().peekable();
        let (effects, whole) = match &hole.directory {
            Directories::Whole(bytes) => (Effects::new(bytes), true),
            Directories::Last(bytes) => (Effects::new(bytes), false),
            Directories::Lost => (Effects::new(&[]), false),
        };
        damage.is_exact = whole;
        if !whole {
            self.begin_unknown(recovery, hole, counted.1);
            // Without a complete directory what is saved comes first: it cannot be put in its place among the rest.
            for (lsn, record) in saved.by_ref() {
                let _ = self.take(recovery, lsn, &record);
            }
        }
        for effect in effects {
            let mut lost: Option<(u64, u64)> = None;
            for index in effect.first..=effect.last {
                let of =
                    |r: &RecordHeader| (r.kind, r.stream, r.index) == (effect.kind, effect.stream, index);
                match saved.next_if(|(_, record)| of(&record.header)) {
                    Some((lsn, record)) => {
                        self.lose(recovery, hole, damage, &effect, lost.take());
                        let _ = self.take(recovery, lsn, &record);
                    }
                    None => lost = Some((lost.map_or(index, |(first, _)| first), index)),
                }
            }
            self.lose(recovery, hole, damage, &effect, lost);
        }
        if !whole {
            return;
        }
        if saved.peek().is_some() {
            // The directory is another batch's: it tells nothing.
            damage.is_exact = false;
            self.states = counted.0;
            self.begin_unknown(recovery, hole, counted.1);
        } else if let Directories::Whole(bytes) = &hole.directory {
            // If nothing was written behind it, the next batch says it once more: what told it now may be gone by then.
            self.directory.set(bytes);
            self.last_batch = Some(hole.start);
        }
    }

    /// `replaced`: how many entries had been when the place began.
    fn begin_unknown(&mut self, recovery: &mut dyn Recovery, hole: &Hole, replaced: u32) {
        recovery.unknown_lost_here();
        let before = self.unknown.take();
        self.gaps = true;
        self.moves.interrupt(&mut self.index, hole.start);
        self.unknown = Some(Unknown {
            start: before.as_ref().map_or(hole.start, |b| b.start),
            end: hole.end,
            held_states: before.as_ref().and_then(|b| b.held_states).filter(|&held| held),
            held_replacements: before.as_ref().and_then(|b| b.held_replacements).filter(|&held| held),
            replaced: before
                .as_ref()
                .filter(|b| b.held_replacements.is_none())
                .map_or(replaced, |b| b.replaced),
            entries_after: BTreeSet::new(),
            states_after: BTreeSet::new(),
            begun: before.map(|b| b.begun).unwrap_or_default(),
        });
    }

    /// Records of an effect that are lost.
    fn lose(
        &mut self,
        recovery: &mut dyn Recovery,
        hole: &Hole,
        damage: &mut Damage,
        effect: &Effect,
        lost: Option<(u64, u64)>,
    ) {
        let Some((first, last)) = lost else { return };
        let id = StreamId(effect.stream);
        let superseded = self.moves.supersedes(effect.stream, hole.end);
        match effect.kind {
            Kind::Entry | Kind::Repair if superseded => {}
            Kind::RewriteBegin => self.rewrite_begins(id.0, hole.start..hole.end, last),
            Kind::Copy => {
                damage.entries.push((id.0, first, last));
                self.lose_copies(recovery, id.0, hole.start, first, last);
            }
            Kind::RewriteEnd => self.rewrite_ends(recovery, id.0, hole.end, last, None),
            Kind::Entry => {
                let slot = self.index.slot(id);
                damage.entries.push((id.0, first, last));
                self.lose_entries(recovery, slot, hole.start, first, last);
            }
            Kind::State => {
                let slot = self.index.slot(id);
                self.states = self.states.wrapping_add(1);
                damage.states.push(id.0);
                self.doubts.insert(slot.0);
            }
            // The copy is lost, and what it was a copy of is there.
            Kind::StateCopy => {}
            // All that these say is in the directory.
            Kind::Compacted => {
                let slot = self.index.slot(id);
                self.index.compact(slot, last);
                self.losses.compacted(slot, last);
                self.index.stream_mut(slot).compacted_at = Some(hole.start);
                recovery.compacted(id, last);
            }
            Kind::Trim => self.first_live = self.first_live.max(Incarnation(last)),
            // Still damaged.
            Kind::Repair => damage.entries.push((id.0, first, last)),
            Kind::Verdict => {
                let slot = self.index.slot(id);
                let verdict = Verdict { tainted_from: Some(first), state: true, at: Some(hole.start) };
                self.losses.accuse(slot, verdict);
            }
            // The verdict stands.
            Kind::Healed | Kind::Judged | Kind::Directory => {}
        }
    }

    /// Judges what nothing on the disk tells for certain, after the last record, and tells the owner. Returns the damaged place
    /// that was judged, to be noted once the verdicts are written.
    pub(super) fn finish(&mut self, recovery: &mut dyn Recovery) -> Option<(Lsn, Lsn)> {
        let mut new: Vec<(StreamSlot, Verdict)> = Vec::new();
        for &slot in &self.doubts {
            new.push((StreamSlot(slot), Verdict { tainted_from: None, state: true, at: None }));
        }
        let judged = self.unknown.take().map(|unknown| {
            for &slot in &unknown.begun {
                new.push((StreamSlot(slot), Verdict { tainted_from: Some(1), state: true, at: None }));
            }
            for slot in 0..self.index.streams.len() as u32 {
                let stream = self.index.stream(StreamSlot(slot));
                let tainted_from = if unknown.held_replacements != Some(false) {
                    Some(stream.first.max(stream.compacted + 1))
                } else {
                    let next = stream.next.max(stream.compacted + 1);
                    (!unknown.entries_after.contains(&slot)).then_some(next)
                };
                let state = unknown.held_states != Some(false) && !unknown.states_after.contains(&slot);
                if tainted_from.is_some() || state {
                    new.push((StreamSlot(slot), Verdict { tainted_from, state, at: None }));
                }
            }
            self.losses.unknown = true;
            (unknown.start, unknown.end)
        });
        new.into_iter().for_each(|(slot, verdict)| self.losses.accuse_once(slot, verdict));
        self.tell_verdicts(recovery);
        judged
    }

    /// Entries that are damaged and not repaired, and those that may be lost: stream, first and last index.
    pub(super) fn missing(&self) -> Vec<(u64, u64, u64)> {
        let slots = (0..self.index.streams.len() as u32).map(StreamSlot);
        slots
            .flat_map(|slot| {
                let id = self.index.stream(slot).id.0;
                let tainted = self.losses.verdict(slot).and_then(|verdict| verdict.tainted_from);
                let ranges = self.losses.ranges(slot).iter().map(move |&(first, last)| (id, first, last));
                ranges.chain(tainted.map(|first| (id, first, u64::MAX)))
            })
            .collect()
    }

    /// Tells the owner what nothing on the disk tells for certain.
    fn tell_verdicts(&self, recovery: &mut dyn Recovery) {
        for (slot, verdict) in self.losses.verdicts() {
            let id = self.index.stream(slot).id;
            if let Some(first) = verdict.tainted_from {
                recovery.damaged(id, first, u64::MAX);
            }
            if verdict.state {
                recovery.state_in_doubt(id);
            }
        }
        if self.losses.unknown {
            recovery.streams_unknown();
        }
    }
}
