//! What is known to be lost: damaged entries, streams that may have lost more than anybody can tell, and what has been
//! repaired since. Empty on every sound log, and then it costs one comparison per append.

use std::collections::{BTreeMap, BTreeSet};

use super::{AppendError, EntryHeader, Kind, StreamId, StreamSlot, Ticket, Wal};
use crate::disk::Disk;
use crate::format::{Lsn, RECORD_OVERHEAD_MAX, RecordHeader};

/// Bit of a verdict's note: entries from its index on may be lost.
pub(crate) const VERDICT_TAINTED: u64 = 1;
/// Bit of a verdict's note: the newest state may be lost.
pub(crate) const VERDICT_STATE: u64 = 2;

/// What nothing on the disk tells about a stream that may have lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Entries from here on may be lost.
    pub(super) tainted_from: Option<u64>,
    pub(super) state: bool,
    /// Where the record that says so is; `None` until it is written.
    pub(super) at: Option<Lsn>,
}

/// One stream.
#[derive(Debug, Default)]
struct Loss {
    /// Damaged entries, inclusive, ascending, apart from each other.
    ranges: Vec<(u64, u64)>,
    /// Entries that were damaged and where their repair is.
    repaired: BTreeMap<u64, Lsn>,
    /// Entries that were damaged again after they were repaired.
    in_vain: BTreeSet<u64>,
    verdict: Option<Verdict>,
}

impl Loss {
    fn is_empty(&self) -> bool {
        self.ranges.is_empty()
            && self.repaired.is_empty()
            && self.in_vain.is_empty()
            && self.verdict.is_none()
    }

    /// Takes `first ..= last` out of the ranges.
    fn cut(&mut self, first: u64, last: u64) {
        let mut kept = Vec::with_capacity(self.ranges.len() + 1);
        for &(from, to) in &self.ranges {
            if from < first {
                kept.push((from, to.min(first - 1)));
            }
            if to > last {
                kept.push((from.max(last + 1), to));
            }
        }
        self.ranges = kept;
    }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    At(Lsn),
    Damaged,
    Nowhere,
}

/// All losses of a log, by stream.
#[derive(Debug, Default)]
pub(super) struct Losses {
    streams: BTreeMap<u32, Loss>,
    /// Streams that the log never named may have lost something, too.
    pub(super) unknown: bool,
    /// Streams whose verdict waits to be written.
    unwritten: Vec<u32>,
    /// A damaged place whose verdicts are those, to be noted behind them.
    pub(super) judged: Option<(Lsn, Lsn)>,
}

impl Losses {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn contains(&self, slot: StreamSlot) -> bool {
        self.streams.contains_key(&slot.0)
    }

    /// Entries `first ..= last` are damaged: the stream goes on behind them.
    pub(super) fn damage(&mut self, slot: StreamSlot, first: u64, last: u64) {
        self.replaced(slot, first);
        let ranges = &mut self.streams.entry(slot.0).or_default().ranges;
        match ranges.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => ranges.push((first, last)),
        }
    }

    /// Whether an entry is missing.
    pub(super) fn is_damaged(&self, slot: StreamSlot, index: u64) -> bool {
        let ranges = self.streams.get(&slot.0).map_or(&[][..], |loss| &loss.ranges);
        ranges.iter().any(|&(first, last)| (first..=last).contains(&index))
    }

    /// The record of one entry does not read any more. Whether it was a repair.
    pub(super) fn lose(&mut self, slot: StreamSlot, index: u64) -> bool {
        let loss = self.streams.entry(slot.0).or_default();
        let came_back = loss.repaired.remove(&index).is_some();
        if came_back {
            loss.in_vain.insert(index);
        }
        loss.cut(index, index);
        let at = loss.ranges.partition_point(|range| range.1 < index);
        loss.ranges.insert(at, (index, index));
        loss.ranges.dedup_by(|next, range| {
            let joined = range.1 + 1 == next.0;
            if joined {
                range.1 = next.1;
            }
            joined
        });
        came_back
    }

    /// Entries whose repair lies between two positions.
    pub(super) fn repairs_between(&self, slot: StreamSlot, start: Lsn, end: Lsn) -> Vec<u64> {
        let repaired = self.streams.get(&slot.0).map(|loss| &loss.repaired);
        let repaired = repaired.into_iter().flatten();
        repaired.filter(|(_, lsn)| **lsn >= start && **lsn < end).map(|(index, _)| *index).collect()
    }

    fn is_in_vain(&self, slot: StreamSlot, index: u64) -> bool {
        self.streams.get(&slot.0).is_some_and(|loss| loss.in_vain.contains(&index))
    }

    pub(super) fn ranges(&self, slot: StreamSlot) -> &[(u64, u64)] {
        self.streams.get(&slot.0).map_or(&[], |loss| &loss.ranges)
    }

    /// The entry is filled by the record at `lsn`.
    pub(super) fn repaired(&mut self, slot: StreamSlot, index: u64, lsn: Lsn) {
        let loss = self.streams.entry(slot.0).or_default();
        loss.cut(index, index);
        loss.repaired.insert(index, lsn);
    }

    /// Entries `first ..= last` have another intact record now.
    pub(super) fn rewritten(&mut self, slot: StreamSlot, first: u64, last: u64) {
        let Some(loss) = self.streams.get_mut(&slot.0) else { return };
        loss.cut(first, last);
        loss.repaired.retain(|index, _| !(first..=last).contains(index));
        self.forget_if_empty(slot);
    }

    /// Where the repair of an entry is.
    pub(super) fn repair_of(&self, slot: StreamSlot, index: u64) -> Option<Lsn> {
        self.streams.get(&slot.0)?.repaired.get(&index).copied()
    }

    /// The stream was replaced from `index` on.
    pub(super) fn replaced(&mut self, slot: StreamSlot, index: u64) {
        let Some(loss) = self.streams.get_mut(&slot.0) else { return };
        loss.cut(index, u64::MAX - 1);
        loss.repaired.split_off(&index);
        loss.in_vain.split_off(&index);
        self.forget_if_empty(slot);
    }

    /// Entries up to `index` are gone.
    pub(super) fn compacted(&mut self, slot: StreamSlot, index: u64) {
        let Some(loss) = self.streams.get_mut(&slot.0) else { return };
        loss.cut(0, index);
        loss.repaired = loss.repaired.split_off(&index.saturating_add(1));
        loss.in_vain = loss.in_vain.split_off(&index.saturating_add(1));
        self.forget_if_empty(slot);
    }

    fn forget_if_empty(&mut self, slot: StreamSlot) {
        if self.streams.get(&slot.0).is_some_and(Loss::is_empty) {
            self.streams.remove(&slot.0);
        }
    }

    pub(super) fn verdict(&self, slot: StreamSlot) -> Option<Verdict> {
        self.streams.get(&slot.0)?.verdict
    }

    /// Adds to what is held against a stream.
    pub(super) fn accuse(&mut self, slot: StreamSlot, new: Verdict) {
        let loss = self.streams.entry(slot.0).or_default();
        let old = loss.verdict.unwrap_or(Verdict { tainted_from: None, state: false, at: None });
        let tainted_from = match (old.tainted_from, new.tainted_from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        loss.verdict = Some(Verdict { tainted_from, state: old.state || new.state, at: new.at });
        if new.at.is_none() {
            self.unwritten.push(slot.0);
        }
    }

    /// As [`Losses::accuse`], unless a record says so much already.
    pub(super) fn accuse_once(&mut self, slot: StreamSlot, new: Verdict) {
        let known = self.verdict(slot).is_some_and(|old| {
            let tainted = new.tainted_from.is_none_or(|n| old.tainted_from.is_some_and(|o| o <= n));
            old.at.is_some() && tainted && (old.state || !new.state)
        });
        if !known {
            self.accuse(slot, new);
        }
    }

    /// The owner has dealt with the verdict.
    pub(super) fn heal(&mut self, slot: StreamSlot) {
        if let Some(loss) = self.streams.get_mut(&slot.0) {
            loss.verdict = None;
            self.forget_if_empty(slot);
        }
    }

    /// Streams with a verdict, and what it is.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = (StreamSlot, Verdict)> {
        self.streams.iter().filter_map(|(slot, loss)| Some((StreamSlot(*slot), loss.verdict?)))
    }

    /// The oldest verdict's record: it is needed until the owner has dealt with it.
    pub(super) fn oldest_verdict(&self) -> Option<Lsn> {
        self.verdicts().filter_map(|(_, verdict)| verdict.at).min()
    }
}

impl<D: Disk> Wal<D> {
    /// Fills one entry inside a damaged range ([`Recovery::damaged`](crate::Recovery::damaged)) and replaces nothing behind it:
    /// `header` and payload are what a peer or a backup has at this index. Indexes can be filled in any order. It is durable
    /// with the ticket; from then on reads give the entry, and opening tells it with
    /// [`Recovery::repaired`](crate::Recovery::repaired).
    ///
    /// To give up the damaged entries instead, append at the first of them, which replaces the stream from there on, or compact
    /// beyond them.
    pub fn repair(
        &mut self,
        stream: StreamSlot,
        header: EntryHeader,
        payload: &[u8],
    ) -> Result<Ticket, AppendError> {
        let bytes = payload.len() + RECORD_OVERHEAD_MAX;
        if bytes as u64 > self.append_room || payload.len() > self.options.payload_bytes_max as usize {
            return Err(self.refuse(payload.len() as u64, true));
        }
        let id = self.index.stream(stream).id;
        let EntryHeader { index, tag, note } = header;
        if !self.losses.is_damaged(stream, index) {
            return Err(AppendError::NotDamaged { stream: id.0, index });
        }
        if self.losses.is_in_vain(stream, index) {
            return Err(AppendError::RepairInVain { stream: id.0, index });
        }
        let record = RecordHeader { kind: Kind::Repair, stream: id.0, index, tag, note };
        let (lsn, ticket) = self.put(&record, payload);
        self.losses.repaired(stream, index, lsn);
        Ok(ticket)
    }

    /// The owner has dealt with a stream that was tainted or whose state was in doubt
    /// ([`Recovery::state_in_doubt`](crate::Recovery::state_in_doubt), `last == u64::MAX` of
    /// [`Recovery::damaged`](crate::Recovery::damaged)): later opens do not name it again. Put the state that settles it
    /// first. Damaged ranges with an end are not meant: those are repaired.
    pub fn heal(&mut self, stream: StreamSlot) -> Result<Ticket, AppendError> {
        if self.losses.verdict(stream).is_none() {
            return Ok(self.last_ticket());
        }
        self.admit_vital(0)?;
        let id = self.index.stream(stream).id;
        let record = RecordHeader { kind: Kind::Healed, stream: id.0, index: 0, tag: 0, note: 0 };
        let (_, ticket) = self.put(&record, &[]);
        self.losses.heal(stream);
        self.reclaim.wanted = true;
        Ok(ticket)
    }

    /// Damaged entries of a stream that are not repaired yet: inclusive ranges, ascending.
    pub fn damaged_ranges(&self, stream: StreamSlot) -> &[(u64, u64)] {
        self.losses.ranges(stream)
    }

    /// From which index on the stream may have lost entries that nothing tells of; see
    /// [`Recovery::damaged`](crate::Recovery::damaged).
    pub fn is_tainted(&self, stream: StreamSlot) -> Option<u64> {
        self.losses.verdict(stream)?.tainted_from
    }

    /// Whether the newest state of the stream may be lost; see
    /// [`Recovery::state_in_doubt`](crate::Recovery::state_in_doubt).
    pub fn is_state_in_doubt(&self, stream: StreamSlot) -> bool {
        self.losses.verdict(stream).is_some_and(|verdict| verdict.state)
    }

    /// The handle of a stream that the log did not know while it knows that it lost unknown streams.
    #[cold]
    pub(super) fn accuse_stranger(&mut self, slot: StreamSlot) {
        self.losses.accuse(slot, Verdict { tainted_from: Some(0), state: true, at: None });
        self.write_verdicts();
    }

    /// Writes verdicts that are not on disk, so that they outlive what this process will write to their streams.
    pub(super) fn write_verdicts(&mut self) {
        while let Some(&slot) = self.losses.unwritten.last() {
            if self.vital_room < RECORD_OVERHEAD_MAX as u64 {
                return;
            }
            self.losses.unwritten.pop();
            let slot = StreamSlot(slot);
            let Some(verdict) = self.losses.verdict(slot) else { continue };
            let at = self.put_verdict(self.index.stream(slot).id, verdict);
            self.losses.accuse(slot, Verdict { at: Some(at), ..verdict });
        }
        if self.vital_room >= RECORD_OVERHEAD_MAX as u64
            && let Some((start, end)) = self.losses.judged.take()
        {
            let record = RecordHeader { kind: Kind::Judged, stream: 0, index: start.0, tag: end.0, note: 1 };
            self.put(&record, &[]);
        }
    }

    fn put_verdict(&mut self, id: StreamId, verdict: Verdict) -> Lsn {
        let tainted = if verdict.tainted_from.is_some() { VERDICT_TAINTED } else { 0 };
        let note = tainted | if verdict.state { VERDICT_STATE } else { 0 };
        let index = verdict.tainted_from.unwrap_or(0);
        let record = RecordHeader { kind: Kind::Verdict, stream: id.0, index, tag: 0, note };
        self.put(&record, &[]).0
    }

    pub(super) fn has_unwritten_verdicts(&self) -> bool {
        !self.losses.unwritten.is_empty() || self.losses.judged.is_some()
    }

    /// Where the record of an entry is.
    pub(super) fn place_of(&self, slot: StreamSlot, index: u64) -> Place {
        let Some(lsn) = self.index.stream(slot).lsn(index) else { return Place::Nowhere };
        if self.losses.is_empty() {
            return Place::At(lsn);
        }
        match self.losses.repair_of(slot, index) {
            Some(lsn) => Place::At(lsn),
            None if self.losses.is_damaged(slot, index) => Place::Damaged,
            None => Place::At(lsn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_shrink_by_repair_replacement_and_compaction() {
        let mut losses = Losses::default();
        let slot = StreamSlot(3);
        losses.damage(slot, 10, 14);
        losses.damage(slot, 15, 16);
        losses.damage(slot, 20, 22);
        assert_eq!(losses.ranges(slot), [(10, 16), (20, 22)]);
        losses.repaired(slot, 12, Lsn(8));
        assert_eq!(losses.ranges(slot), [(10, 11), (13, 16), (20, 22)]);
        assert_eq!((losses.repair_of(slot, 12), losses.is_damaged(slot, 12)), (Some(Lsn(8)), false));
        losses.compacted(slot, 10);
        assert_eq!(losses.ranges(slot), [(11, 11), (13, 16), (20, 22)]);
        losses.replaced(slot, 21);
        assert_eq!(losses.ranges(slot), [(11, 11), (13, 16), (20, 20)]);
        losses.compacted(slot, 20);
        assert!(losses.is_empty());
    }

    #[test]
    fn verdicts_add_up_until_they_are_healed() {
        let mut losses = Losses::default();
        let slot = StreamSlot(0);
        losses.accuse(slot, Verdict { tainted_from: Some(9), state: false, at: Some(Lsn(8)) });
        losses.accuse(slot, Verdict { tainted_from: None, state: true, at: Some(Lsn(64)) });
        let both = Verdict { tainted_from: Some(9), state: true, at: Some(Lsn(64)) };
        assert_eq!(losses.verdict(slot), Some(both));
        assert_eq!(losses.oldest_verdict(), Some(Lsn(64)));
        losses.heal(slot);
        assert!(losses.is_empty());
    }
}
