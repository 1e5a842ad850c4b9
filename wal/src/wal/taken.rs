//! The records of a log while it opens: into the index and to the owner.

use super::losses::{Losses, VERDICT_STATE, VERDICT_TAINTED, Verdict};
use super::{EntryHeader, Recovery, StreamId};
use crate::format::{Incarnation, Kind, Lsn, Record};
use crate::index::Index;

/// What the records read so far amount to.
pub(super) struct Taken {
    pub(super) index: Index,
    pub(super) losses: Losses,
    /// The oldest segment that is needed, as the newest trim record or header says.
    pub(super) first_live: Incarnation,
}

impl Taken {
    pub(super) fn new() -> Taken {
        Taken { index: Index::new(), losses: Losses::default(), first_live: Incarnation::NONE }
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
        match header.kind {
            Kind::Entry => self.entry(recovery, id, lsn, record)?,
            Kind::State | Kind::StateCopy => {
                let slot = self.index.slot(id);
                let stream = self.index.stream_mut(slot);
                stream.state.clear();
                stream.state.extend_from_slice(record.payload);
                stream.state_at = Some(lsn);
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
            }
            Kind::Judged => {}
        }
        Ok(())
    }

    fn entry(
        &mut self,
        recovery: &mut dyn Recovery,
        id: StreamId,
        lsn: Lsn,
        record: &Record<'_>,
    ) -> Result<(), String> {
        let header = &record.header;
        let slot = self.index.slot(id);
        let stream = self.index.stream(slot);
        if !stream.accepts(header.index) {
            let (first, next, compacted) = (stream.first, stream.next, stream.compacted);
            return Err(format!(
                "entry {} of stream {} does not follow {first}..{next}, compacted up to {compacted}",
                header.index, id.0
            ));
        }
        self.index.push(slot, header.index, lsn);
        if !self.losses.is_empty() {
            self.losses.replaced(slot, header.index);
        }
        let header = EntryHeader { index: header.index, tag: header.tag, note: header.note };
        recovery.entry(id, header, record.payload);
        Ok(())
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
            let (first, next) = (stream.first, stream.next);
            return Err(format!(
                "repair of entry {} of stream {}, which has {first}..{next}",
                header.index, id.0
            ));
        }
        self.losses.repaired(slot, header.index, lsn);
        let header = EntryHeader { index: header.index, tag: header.tag, note: header.note };
        recovery.repaired(id, header, record.payload);
        Ok(())
    }

    /// Tells the owner what nothing on the disk tells for certain. After the last record.
    pub(super) fn tell_verdicts(&self, recovery: &mut dyn Recovery) {
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
