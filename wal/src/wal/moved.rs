//! Streams that were rewritten: what recovery makes of the records, and why it is safe.
//!
//! A rewrite is a begin record, a copy of every entry of the stream in the order of the indexes, and an end record, all at the
//! head of the log. Between begin and end the stream is neither overwritten nor compacted, else there is no end record; entries
//! appended behind meanwhile are copied too. So an end record says that the copies *are* the stream's entries at that place,
//! and a begin record without one says nothing.
//!
//! Old segments go only when a *trim* record is durable, and that one is written only when everything that it relies on is
//! durable: every rewrite, state and mark that moved live bytes out of them. Hence a trim record is true from the moment it
//! exists, whether it counts (is on the chain) or not, and there are three cases:
//!
//! - None of the segments with its old entries was given up. Then recovery meets all of them, in order, hands them to the
//!   owner, and collects only the positions of the copies, which it takes over at the end record. If the end record is not
//!   there, the old entries are, and the copies are forgotten.
//! - Some were given up. What is left of the old entries may begin anywhere (11 to 20, where 1 to 10 are gone), and
//!   to hand it out would put a stream without its head before the owner. But then the trim record that gave them up names the
//!   stream and the position of its last rewrite, and says that this rewrite is complete. Recovery, which reads the newest
//!   trim record first, skips the stream's entries before that position and hands out the copies as they come.
//! - All were given up, and the stream is empty when its begin record comes. Then the copies wait in memory, one stream
//!   at a time, for the end record, which is missing if the stream was compacted while it was rewritten.
//!
//! The same is done for a stream that was replaced from its first entry on: what it had before may lose its head first.
//!
//! So an owner sees a stream that was never compacted from its first entry on, each entry behind the one before it, and never
//! needs to hold anything back. A trim record names a
//! stream as long as an entry of it that was superseded lies behind the new beginning of the log; the newest position of such
//! an entry is that of the stream's last entry when the rewrite ended, because of all records of a stream's entries its last
//! entry is the newest. The begin record is kept as long as the stream's first entry lies in the rewrite.
//!
//! The newest trim record is found without reading the log: each segment header names the newest one that was durable when it
//! was submitted, and one that became durable later lies behind the `durable_end` of that header. So the newest header, and the
//! intact batches from its `durable_end` on, are all that has to be looked at.

use std::collections::BTreeMap;
use std::ops::Range;

use super::scan::{Found, perform, read_pieces};
use super::taken::Taken;
use super::{Kind, OpenError, Recovery, StreamId, StreamSlot};
use crate::disk::{Disk, DiskError, Done, Op};
use crate::format::{
    BLOCK, BatchHeader, Incarnation, Lsn, Record, RecordFault, RecordHeader, Records, decode_moves,
    decode_record,
};
use crate::index::Index;
use crate::wal::EntryHeader;

/// The last rewrite of a stream, or its last replacement as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) slot: StreamSlot,
    /// Position of its begin record, or of the entry that replaced the whole stream.
    pub(super) begin: Lsn,
    /// Position of its end record; `begin` if there is none.
    pub(super) end: Lsn,
    /// Entries that it superseded lie up to here at most.
    pub(super) dead_until: Lsn,
}

/// A trim record.
#[derive(Clone, Debug)]
struct Trim {
    lsn: Lsn,
    first_live: Incarnation,
    moves: Vec<(u64, Lsn)>,
}

/// A copy in memory; `None` if it is damaged.
type Held = Option<(EntryHeader, Vec<u8>)>;

/// A rewrite whose end was not seen yet.
#[derive(Debug)]
struct Open {
    stream: u64,
    begin: Lsn,
    /// A trim record says that it is complete.
    known: bool,
    first: u64,
    /// Of the copies so far, from `first` on.
    positions: Vec<Lsn>,
    /// A copy is damaged.
    lost: bool,
    /// The copies themselves, `None` for those that are damaged, if the owner may not have seen all the entries.
    held: Option<Vec<Held>>,
}

impl Open {
    /// The index of the next copy.
    fn next(&self) -> u64 {
        self.first + self.positions.len() as u64
    }
}

/// What recovery knows of rewrites.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Trim records that may be the newest, oldest first.
    trims: Vec<Trim>,
    /// Streams that the newest trim record names: where the rewrite begins, and the newest entry skipped.
    known: BTreeMap<u64, (Lsn, Lsn)>,
    open: Option<Open>,
    /// Complete rewrites, by slot.
    pub(super) found: BTreeMap<u32, Moved>,
}

impl Moves {
    /// Looks for the newest trim record of a chain of segments, oldest first; `missing` is the one before, if it is not there.
    /// `durable_end` is what marks and segment headers attest.
    pub(super) fn find<D: Disk>(
        disk: &mut D,
        chain: &[&Found],
        missing: Incarnation,
        durable_end: Lsn,
    ) -> Result<Moves, OpenError> {
        let mut moves = Moves::default();
        let intact = |found: &&&Found| found.rebuilt.is_none() && found.header().is_some();
        let newest = chain.iter().rev().find(intact).and_then(|found| found.header());
        let (trim, from) = newest.map_or((Lsn(0), Lsn(0)), |header| (header.trim, header.durable_end));
        let mut lost = false;
        if trim > Lsn(0) {
            let named = trim_at(disk, chain, trim)?;
            lost = named.is_none();
            moves.trims.extend(named);
        }
        each_batch(disk, chain, from, &mut |batch, bytes| {
            for (lsn, record) in Records::new(batch, bytes).flatten() {
                if record.header.kind == Kind::Trim && lsn > trim {
                    moves.trims.push(trim_of(lsn, &record));
                }
            }
        })?;
        moves.trims.sort_by_key(|trim| trim.lsn);
        if let Some(newest) = moves.trims.last() {
            moves.known = newest.moves.iter().map(|&(stream, begin)| (stream, (begin, Lsn(0)))).collect();
        }
        // Segments are gone, or half gone, and no trim record that can be read has given them up.
        let oldest = chain.first().map_or(Incarnation::NONE, |found| found.incarnation);
        let headers = chain.iter().filter_map(|found| found.header());
        let needed = headers.map(|header| header.first_live).max().unwrap_or(Incarnation::NONE);
        let trimmed = moves.first_live();
        if lost || (missing != Incarnation::NONE && oldest > trimmed) || needed > trimmed.max(oldest) {
            moves.known = Survey::of(disk, chain, durable_end)?;
        }
        Ok(moves)
    }

    /// The oldest segment that is needed.
    pub(super) fn first_live(&self) -> Incarnation {
        self.trims.last().map_or(Incarnation::NONE, |trim| trim.first_live)
    }

    /// The newest trim record before the end of the log, and what it says is needed.
    pub(super) fn counted(&self, end: Lsn) -> (Lsn, Incarnation) {
        let counted = self.trims.iter().rev().find(|trim| trim.lsn < end);
        counted.map_or((Lsn(0), Incarnation::NONE), |trim| (trim.lsn, trim.first_live))
    }

    /// Whether an entry's own record does not count, because a rewrite has superseded it.
    pub(super) fn skips(&mut self, stream: u64, lsn: Lsn) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let copying = self.open.as_ref().is_some_and(|open| open.known && open.stream == stream);
        match self.known.get_mut(&stream) {
            Some((begin, dead_until)) if lsn < *begin || copying => {
                *dead_until = (*dead_until).max(lsn);
                true
            }
            _ => false,
        }
    }

    /// The last rewrites of all streams: later trim records have to name them.
    pub(super) fn into_moved(mut self, index: &mut Index) -> Vec<Moved> {
        for (&stream, &(begin, dead_until)) in &self.known {
            let slot = index.slot(StreamId(stream));
            self.found.entry(slot.0).or_insert(Moved { slot, begin, end: begin, dead_until });
        }
        self.found.into_values().collect()
    }

    /// Whether entries of a stream that lie before `end` do not count.
    pub(super) fn supersedes(&self, stream: u64, end: Lsn) -> bool {
        let copying = self.open.as_ref().is_some_and(|open| open.known && open.stream == stream);
        copying || self.known.get(&stream).is_some_and(|(begin, _)| end <= *begin)
    }

    /// Something is damaged of which nothing tells what it was: perhaps the end of the rewrite that was under way. What
    /// comes of it behind the damage stands for itself.
    pub(super) fn interrupt(&mut self, index: &mut Index, at: Lsn) {
        let Some(open) = self.open.take() else { return };
        if open.known {
            let slot = index.slot(StreamId(open.stream));
            let dead_until = self.known.get(&open.stream).map_or(Lsn(0), |known| known.1);
            self.found.insert(slot.0, Moved { slot, begin: open.begin, end: at, dead_until });
        }
    }
}

/// Records of rewrites, in the order of the log.
impl Taken {
    /// A rewrite begins, at a position in `at`.
    pub(super) fn rewrite_begins(&mut self, stream: u64, at: Range<Lsn>, first: u64) {
        let named = self.moves.known.get(&stream).map(|(begin, _)| *begin);
        if named.is_some_and(|begin| begin >= at.end) {
            // An older rewrite than the one that a trim record names: what it copied was superseded.
            return;
        }
        let known = named.is_some_and(|begin| at.contains(&begin));
        let slot = self.index.slot(StreamId(stream));
        let unseen = self.index.stream(slot).is_empty() || self.losses.contains(slot) || self.gaps;
        let held = (!known && unseen).then(Vec::new);
        let begin = named.filter(|_| known).unwrap_or(at.start);
        self.moves.open =
            Some(Open { stream, begin, known, first, positions: Vec::new(), lost: false, held });
    }

    /// A copy. The index takes it when it counts; the owner is told of an entry that it has not seen.
    pub(super) fn copy(
        &mut self,
        recovery: &mut dyn Recovery,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let RecordHeader { stream, index, tag, note, .. } = record.header;
        let Some(open) = self.moves.open.as_mut().filter(|open| open.stream == stream) else {
            return self.stray_copy(recovery, lsn, record);
        };
        if open.known || crate::mutant::REWRITE_NOT_ATOMIC {
            return self.entry(recovery, StreamId(stream), lsn, record);
        }
        if index != open.next() {
            self.moves.open = None;
            return Ok(());
        }
        open.positions.push(lsn);
        if let Some(held) = &mut open.held {
            held.push(Some((EntryHeader { index, tag, note }, record.payload.to_vec())));
        }
        Ok(())
    }

    /// A copy whose beginning is not there, or does not count.
    fn stray_copy(
        &mut self,
        recovery: &mut dyn Recovery,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let RecordHeader { stream, index, tag, note, .. } = record.header;
        if !self.gaps {
            return Ok(());
        }
        // Whatever became of the stream, it is there, and the judgement at the end concerns it.
        let slot = self.index.slot(StreamId(stream));
        if self.moves.known.get(&stream).is_none_or(|(begin, _)| lsn <= *begin) {
            return Ok(());
        }
        if index >= self.index.stream(slot).next {
            return self.entry(recovery, StreamId(stream), lsn, record);
        }
        if self.losses.is_damaged(slot, index) {
            self.losses.repaired(slot, index, lsn);
            recovery.repaired(StreamId(stream), EntryHeader { index, tag, note }, record.payload);
        }
        Ok(())
    }

    /// Copies `first ..= last` are in a damaged place that begins at `at`.
    pub(super) fn lose_copies(
        &mut self,
        recovery: &mut dyn Recovery,
        stream: u64,
        at: Lsn,
        first: u64,
        last: u64,
    ) {
        let Some(open) = self.moves.open.as_mut().filter(|open| open.stream == stream) else { return };
        if open.known {
            let slot = self.index.slot(StreamId(stream));
            return self.lose_entries(recovery, slot, at, first, last);
        }
        if first != open.next() {
            self.moves.open = None;
            return;
        }
        open.lost = true;
        for _ in first..=last {
            open.positions.push(at);
            if let Some(held) = &mut open.held {
                held.push(None);
            }
        }
    }

    /// The end record of a rewrite, which says what was rewritten: `first` to `last`, or all there is if the record itself is
    /// damaged and only known to have been.
    pub(super) fn rewrite_ends(
        &mut self,
        recovery: &mut dyn Recovery,
        stream: u64,
        end: Lsn,
        first: u64,
        last: Option<u64>,
    ) {
        let Some(open) = self.moves.open.take().filter(|open| open.stream == stream) else { return };
        let slot = self.index.slot(StreamId(stream));
        let begin = open.begin;
        if open.known {
            let dead_until = self.moves.known.get(&stream).map_or(Lsn(0), |known| known.1);
            self.moves.found.insert(slot.0, Moved { slot, begin, end, dead_until });
            return;
        }
        let last = last.unwrap_or(open.next() - 1);
        if open.first != first || open.next() != last + 1 {
            // Copies are missing of which nothing tells; what can be read of the entries stays.
            return;
        }
        let there = self.index.stream(slot);
        let dead_until = there.lsn(last).unwrap_or(Lsn(0));
        if there.is_empty() && first > there.compacted {
            let Some(held) = open.held else { return };
            for ((index, held), at) in (first..).zip(held).zip(&open.positions) {
                match held {
                    Some((header, payload)) => {
                        self.index.push(slot, index, *at);
                        recovery.entry(StreamId(stream), header, &payload);
                    }
                    None => self.lose_entries(recovery, slot, *at, index, index),
                }
            }
        } else if !self.take_over(recovery, slot, &open, end, last) {
            return;
        }
        self.note_after(slot);
        self.moves.found.insert(slot.0, Moved { slot, begin, end, dead_until });
    }

    /// Copies of a stream that has its entries, all or some of them damaged, take their place. False if they cannot, because
    /// some are damaged themselves: then those that are not repair what they can.
    fn take_over(
        &mut self,
        recovery: &mut dyn Recovery,
        slot: StreamSlot,
        open: &Open,
        end: Lsn,
        last: u64,
    ) -> bool {
        let there = self.index.stream(slot);
        let (id, first, next) = (there.id, open.first, there.next);
        let lacks_end = self.gaps && next <= last && next >= first;
        if there.first > first || !(next == last + 1 || lacks_end) {
            return false;
        }
        if lacks_end {
            self.lose_entries(recovery, slot, end, next, last);
        }
        for (copy, at) in open.held.iter().flatten().zip(&open.positions) {
            let Some((header, payload)) = copy else { continue };
            if self.losses.is_damaged(slot, header.index) {
                self.losses.repaired(slot, header.index, *at);
                recovery.repaired(id, *header, payload);
            }
        }
        if open.lost {
            return false;
        }
        self.losses.rewritten(slot, first, last);
        for (index, at) in (first..).zip(&open.positions) {
            self.index.push(slot, index, *at);
        }
        true
    }
}

fn trim_of(lsn: Lsn, record: &Record<'_>) -> Trim {
    Trim { lsn, first_live: Incarnation(record.header.index), moves: decode_moves(record.payload).collect() }
}

/// The trim record that a header names; `None` if it is damaged.
fn trim_at<D: Disk>(disk: &mut D, chain: &[&Found], lsn: Lsn) -> Result<Option<Trim>, DiskError> {
    let holds = |found: &&&Found| found.header().is_some_and(|header| header.start <= lsn);
    let Some(found) = chain.iter().rev().find(holds) else { return Ok(None) };
    let offset = found.offset(lsn);
    let mut bytes = BLOCK;
    loop {
        let first = offset / BLOCK * BLOCK;
        let end = (offset + bytes).next_multiple_of(BLOCK).min(found.bytes);
        let mut data = Vec::new();
        if first < end {
            read_pieces(disk, found.file, first, end, &mut |_, piece| {
                data.extend_from_slice(piece);
                true
            })?;
        }
        match decode_record(data.get((offset - first) as usize..).unwrap_or(&[]), Some(lsn)) {
            Ok(record) if record.header.kind == Kind::Trim => return Ok(Some(trim_of(lsn, &record))),
            Err(RecordFault::Short { bytes: more }) if end < found.bytes && more as u64 > bytes => {
                bytes = more as u64;
            }
            Ok(_) | Err(_) => return Ok(None),
        }
    }
}

/// What a trim record would say, made out of the whole log because the record is damaged: which streams were rewritten or
/// replaced as a whole, and where.
#[derive(Default)]
struct Survey {
    /// First index of each stream.
    first: BTreeMap<u64, u64>,
    /// The rewrite under way.
    begun: Option<(u64, Lsn)>,
    moves: BTreeMap<u64, (Lsn, Lsn)>,
}

impl Survey {
    fn of<D: Disk>(
        disk: &mut D,
        chain: &[&Found],
        durable_end: Lsn,
    ) -> Result<BTreeMap<u64, (Lsn, Lsn)>, DiskError> {
        let mut durable_end = durable_end;
        each_batch(disk, chain, Lsn(0), &mut |batch, _| durable_end = durable_end.max(batch.durable_end))?;
        let mut survey = Survey::default();
        each_batch(disk, chain, Lsn(0), &mut |batch, bytes| {
            for (lsn, record) in Records::new(batch, bytes).flatten().filter(|(lsn, _)| *lsn < durable_end) {
                survey.take(lsn, &record.header);
            }
        })?;
        Ok(survey.moves)
    }

    fn take(&mut self, lsn: Lsn, header: &RecordHeader) {
        let stream = header.stream;
        match header.kind {
            Kind::Entry => {
                let first = self.first.entry(stream).or_insert(u64::MAX);
                if *first != u64::MAX && header.index <= *first {
                    self.moves.insert(stream, (lsn, Lsn(0)));
                }
                *first = header.index.min(*first);
            }
            Kind::RewriteBegin => self.begun = Some((stream, lsn)),
            Kind::RewriteEnd => {
                if let Some((_, begin)) = self.begun.take().filter(|begun| begun.0 == stream) {
                    self.moves.insert(stream, (begin, Lsn(0)));
                    self.first.insert(stream, header.index);
                }
            }
            _ => {}
        }
    }
}

/// Hands over the intact batches of a chain from a position on, in order.
fn each_batch<D: Disk>(
    disk: &mut D,
    chain: &[&Found],
    from: Lsn,
    each: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<(), DiskError> {
    for (number, found) in chain.iter().enumerate() {
        let Some(header) = found.header() else { continue };
        let successor = chain.get(number + 1).and_then(|next| next.header());
        let file_end = header.start.plus(found.bytes - BLOCK);
        let limit = successor.map_or(file_end, |next| next.start.min(file_end));
        if limit <= from {
            continue;
        }
        let offset = BLOCK + from.0.saturating_sub(header.start.0) / BLOCK * BLOCK;
        intact_batches(disk, found, offset, found.offset(limit), header.start, each)?;
    }
    Ok(())
}

/// Hands over the intact batches of a segment in a range of offsets, whether they follow each other or not.
fn intact_batches<D: Disk>(
    disk: &mut D,
    found: &Found,
    offset: u64,
    end: u64,
    start: Lsn,
    each: &mut dyn FnMut(&BatchHeader, &[u8]),
) -> Result<(), DiskError> {
    let mut over_edges: Vec<(u64, BatchHeader)> = Vec::new();
    read_pieces(disk, found.file, offset.max(BLOCK), end, &mut |at, piece| {
        for block in (0..piece.len()).step_by(BLOCK as usize) {
            let place = at + block as u64;
            let Some(header) = BatchHeader::decode(&piece[block..]) else { continue };
            let here = header.incarnation == found.incarnation && header.lsn == start.plus(place - BLOCK);
            if !here || place + header.padded() > end || header.seal {
                continue;
            }
            match piece.get(block..block + header.length as usize) {
                Some(batch) if header.check(batch).is_ok() => each(&header, batch),
                Some(_) => {}
                None => over_edges.push((place, header)),
            }
        }
        true
    })?;
    for (place, header) in over_edges {
        let buffer = disk.buffer(header.padded() as usize);
        let (file, len) = (found.file, header.padded() as u32);
        let read = match perform(disk, Op::Read { file, offset: place, buffer, len }) {
            Err(error) if error.is_unreadable() => continue,
            read => read?,
        };
        let Some(buffer) = read.buffer else { continue };
        let whole = matches!(read.result, Ok(Done::Transferred(bytes)) if bytes == len);
        let batch = &buffer.as_slice()[..header.length as usize];
        if whole && header.check(batch).is_ok() {
            each(&header, batch);
        }
        disk.recycle(buffer);
    }
    Ok(())
}
