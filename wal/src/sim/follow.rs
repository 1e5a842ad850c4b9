//! What a loss of power would leave of a log at this moment, read batch by batch while the log grows: the independent witness of what the
//! log says is durable.

use super::SimPlatter;
use crate::disk::ALIGNMENT;
use crate::format::{BATCH_HEADER_BYTES, BLOCK, BatchHeader, FileName, HeaderBlock, Incarnation, Lsn};
use crate::format::{SegmentHeader, parse_file_name};
use crate::offline::{Batch, Record};

/// What a log says of itself is not so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// The log says that something is durable, and it is not on the medium.
    #[error("the log is durable up to {said} by what it says; on the medium no batch follows at {at}")]
    NotDurable {
        /// Where the next batch is missing.
        at: u64,
        /// Up to where the log says that it is durable.
        said: u64,
    },
    /// A batch that follows another one than that before it counts.
    #[error(
        "the log counts the batch at {at}, which follows one of checksum {follows:#x}; before it is one of {before:#x}"
    )]
    Unchained {
        /// Where it is.
        at: u64,
        /// What it names.
        follows: u32,
        /// What is there.
        before: u32,
    },
    /// What an open cut off counts again.
    #[error(
        "the log counts the batch at {at} in {segment}; an open had found the end of the log at {end}, and began {begun}"
    )]
    CameBack {
        /// Where it is.
        at: u64,
        /// In this file.
        segment: String,
        /// The end that was found.
        end: u64,
        /// The file in which the log went on there.
        begun: String,
    },
}

/// A segment, as it is on the medium.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    start: Lsn,
    incarnation: Incarnation,
    /// Checksum of its header.
    crc: u32,
}

/// Reads what is durable of a log on a simulated disk, from one position to the next. Only bytes count that are on the medium, in files
/// whose names are durable.
#[derive(Clone, Debug, Default)]
pub struct DurableLog {
    lsn: u64,
    place: Option<Place>,
    /// Checksum of the batch before the position, or of the header of the segment that begins there, if it is known.
    chain: Option<u32>,
    /// The end that an open found, and the segment in which the log went on there: the end is final, in older segments nothing that is
    /// behind it counts any more.
    found: Option<(u64, Incarnation)>,
    bytes: Vec<u8>,
}

impl DurableLog {
    /// The position up to which it was read.
    pub fn position(&self) -> u64 {
        self.lsn
    }

    /// Another process has the log open now: where it goes on is looked for anew. What was cut off may still lie behind the position in
    /// the old segment.
    pub fn reopened(&mut self) {
        (self.place, self.chain) = (None, None);
    }

    /// A process has opened the log, and found its end at `end`.
    pub fn opened(&mut self, platter: &SimPlatter, end: u64) {
        self.reopened();
        self.found = segments(platter).map(|place| place.incarnation).max().map(|newest| (end, newest));
    }

    /// Where the oldest segment on the medium begins: everything before it is gone.
    pub fn oldest(platter: &SimPlatter) -> Option<u64> {
        segments(platter).map(|place| place.start.0).min()
    }

    /// Reads on up to `end`, the [`Wal::durable_end`](crate::Wal::durable_end) of the log. True if a segment was left behind on the way.
    pub fn follow(
        &mut self,
        platter: &SimPlatter,
        end: u64,
        record: &mut dyn FnMut(&Record<'_>),
    ) -> Result<bool, Untrue> {
        let mut moved_on = false;
        while self.lsn < end {
            let mut header = self.read_batch(platter);
            if header.is_none() {
                self.find(platter);
                moved_on = true;
                header = self.read_batch(platter);
            }
            let Some(header) = header else { return Err(Untrue::NotDurable { at: self.lsn, said: end }) };
            self.judge(&header)?;
            let batch = Batch::read(header, &self.bytes);
            for found in batch.records().flatten() {
                record(&found);
            }
            self.lsn += header.padded();
            self.chain = Some(header.crc);
        }
        Ok(moved_on)
    }

    /// Whether what a segment has at the position was behind the end that an open found.
    fn is_cut(&self, incarnation: Incarnation) -> bool {
        self.found.is_some_and(|(end, newest)| self.lsn >= end && incarnation < newest)
    }

    /// Whether the batch at the position may be the next one of the log.
    fn judge(&self, header: &BatchHeader) -> Result<(), Untrue> {
        let (at, follows) = (self.lsn, header.previous_crc);
        if let Some(before) = self.chain.filter(|before| *before != follows) {
            return Err(Untrue::Unchained { at, follows, before });
        }
        match self.found {
            Some((end, newest)) if self.is_cut(header.incarnation) => Err(Untrue::CameBack {
                at,
                segment: header.incarnation.file_name(),
                end,
                begun: newest.file_name(),
            }),
            _ => Ok(()),
        }
    }

    /// The batch at the position, checked; its bytes are in `bytes`.
    fn read_batch(&mut self, platter: &SimPlatter) -> Option<BatchHeader> {
        let place = self.place.as_ref()?;
        let offset = BLOCK + Lsn(self.lsn).since(place.start);
        self.bytes.resize(ALIGNMENT, 0);
        if platter.read_durable(&place.name, offset, &mut self.bytes) < BATCH_HEADER_BYTES {
            return None;
        }
        let header = BatchHeader::decode(&self.bytes)?;
        let here = header.incarnation == place.incarnation && header.lsn.0 == self.lsn && !header.seal;
        if !here || header.check_header(&self.bytes).is_err() {
            return None;
        }
        let len = header.length as usize;
        self.bytes.resize(len.max(ALIGNMENT), 0);
        let read = platter.read_durable(&place.name, offset, &mut self.bytes);
        (read >= len && header.check(&self.bytes).is_ok()).then_some(header)
    }

    /// The segment that has the batch at the position.
    fn find(&mut self, platter: &SimPlatter) {
        if self.lsn == 0 {
            self.lsn = DurableLog::oldest(platter).unwrap_or(0);
        }
        let candidates = segments(platter).filter(|place| place.start.0 <= self.lsn);
        let mut candidates: Vec<Place> = candidates.collect();
        // The one that begins last has it, if it is there at all; of an empty segment and its successor, which begin at the same
        // place, the successor. What an open cut off may begin later than where the log went on, and has it only if the log is wrong.
        candidates.sort_by_key(|place| (!self.is_cut(place.incarnation), place.start.0, place.incarnation.0));
        while let Some(place) = candidates.pop() {
            self.place = Some(place);
            if self.read_batch(platter).is_some() {
                self.chain = self.chain_before(platter);
                return;
            }
        }
        (self.place, self.chain) = (None, None);
    }

    /// The checksum that the batch at the position has to name, read from the beginning of its segment.
    fn chain_before(&mut self, platter: &SimPlatter) -> Option<u32> {
        let end = self.lsn;
        let Place { start, crc, .. } = *self.place.as_ref()?;
        self.lsn = start.0;
        let mut chain = Some(crc);
        while self.lsn < end && chain.is_some() {
            let header = self.read_batch(platter);
            self.lsn += header.map_or(0, |header| header.padded());
            chain = header.map(|header| header.crc);
        }
        let is_there = self.lsn == end;
        self.lsn = end;
        chain.filter(|_| is_there)
    }
}

/// The segments on the medium.
fn segments(platter: &SimPlatter) -> impl Iterator<Item = Place> {
    let mut block = vec![0; BLOCK as usize];
    platter.durable_names().into_iter().filter_map(move |name| {
        let Some(FileName::Segment(incarnation)) = parse_file_name(&name) else { return None };
        block.fill(0);
        platter.read_durable(&name, 0, &mut block);
        match SegmentHeader::decode(&block) {
            HeaderBlock::Header(header) if header.incarnation == incarnation => {
                Some(Place { name, start: header.start, incarnation, crc: header.crc })
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::RecordKind;
    use crate::{EntryHeader, Options, Recovery, SimDisk, SimOptions, StreamId, Wal};

    struct Nothing;

    impl Recovery for Nothing {
        fn entry(&mut self, _: StreamId, _: EntryHeader, _: &[u8]) {}
        fn state(&mut self, _: StreamId, _: &[u8]) {}
        fn compacted(&mut self, _: StreamId, _: u64) {}
    }

    fn log() -> Wal<SimDisk> {
        let options =
            Options { segment_bytes: 64 << 10, payload_bytes_max: 8 << 10, log_id: 1, ..Options::default() };
        Wal::open(SimDisk::new(SimOptions::default()), options, 0, &mut Nothing).unwrap()
    }

    fn append(log: &mut Wal<SimDisk>, index: u64) {
        let stream = log.stream(StreamId(7));
        let ticket =
            log.append(stream, EntryHeader { index, tag: 3, note: 0 }, &[index as u8; 3000]).unwrap();
        while log.durable() < ticket {
            log.submit(1);
            log.poll(1);
        }
    }

    #[test]
    fn what_the_log_says_is_durable_is_on_the_medium_over_many_segments() {
        let mut log = log();
        let platter = log.disk().platter();
        let mut follower = DurableLog::default();
        let (mut seen, mut segments) = (Vec::new(), 0);
        for index in 1..=100 {
            append(&mut log, index);
            let left = follower.follow(&platter, log.durable_end(), &mut |record| {
                if record.kind == RecordKind::Entry {
                    assert_eq!((record.stream, record.tag, record.payload.len()), (7, 3, 3000));
                    seen.push(record.index);
                }
            });
            segments += u32::from(left.unwrap());
            assert_eq!(follower.position(), log.durable_end());
        }
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
        assert!(segments > 3, "{segments}");
    }

    #[test]
    fn what_is_only_said_to_be_durable_is_named() {
        let mut log = log();
        let platter = log.disk().platter();
        let mut follower = DurableLog::default();
        append(&mut log, 1);
        follower.follow(&platter, log.durable_end(), &mut |_| {}).unwrap();
        let at = log.durable_end();
        let missing = follower.follow(&platter, at + 4096, &mut |_| {}).unwrap_err();
        assert_eq!(missing, Untrue::NotDurable { at, said: at + 4096 });
    }

    /// A log of a few entries, read up to its end.
    fn read_log() -> (SimPlatter, DurableLog, u64) {
        let mut log = log();
        let platter = log.disk().platter();
        let mut follower = DurableLog::default();
        (1..4).for_each(|index| append(&mut log, index));
        follower.follow(&platter, log.durable_end(), &mut |_| {}).unwrap();
        let end = log.durable_end();
        (1..4).for_each(|index| append(&mut log, index + 3));
        (platter, follower, end)
    }

    #[test]
    fn a_batch_that_follows_another_one_is_seen() {
        let (platter, mut follower, at) = read_log();
        let before = follower.chain.unwrap();
        follower.chain = Some(before ^ 1);
        let broken = follower.clone().follow(&platter, at + 4096, &mut |_| {}).unwrap_err();
        assert_eq!(broken, Untrue::Unchained { at, follows: before, before: before ^ 1 });
        follower.reopened();
        follower.follow(&platter, at + 4096, &mut |_| {}).unwrap();
        assert!(follower.chain.is_some_and(|chain| chain != before), "read from the segment's beginning");
    }

    #[test]
    fn what_older_segments_have_behind_the_end_that_an_open_found_is_cut_off_and_nothing_else() {
        let (platter, mut follower, at) = read_log();
        follower.opened(&platter, at);
        follower.find(&platter);
        let newest = follower.place.clone().unwrap().incarnation;
        assert!(!follower.is_cut(newest));
        follower.found = Some((at, newest.next()));
        assert!(follower.is_cut(newest));
        follower.lsn -= 4096;
        assert!(!follower.is_cut(newest), "before the end nothing is");
    }

    #[test]
    fn a_tail_that_was_cut_and_comes_back_is_seen() {
        let (platter, mut follower, at) = read_log();
        let newest = segments(&platter).map(|place| place.incarnation).max().unwrap();
        follower.opened(&platter, at);
        follower.clone().follow(&platter, at + 4096, &mut |_| {}).unwrap();
        follower.found = Some((at, newest.next()));
        let broken = follower.follow(&platter, at + 4096, &mut |_| {}).unwrap_err();
        assert!(matches!(broken, Untrue::CameBack { at: there, .. } if there == at), "{broken}");
    }
}
