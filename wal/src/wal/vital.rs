//! States in two places: what was put into a segment is copied once the next segment has begun, so that the damage of one
//! block cannot make a stream forget its newest state. Until then the directory of the batch behind it tells that there was
//! one.

use super::{Kind, StreamSlot, Wal};
use crate::disk::Disk;
use crate::format::{Lsn, RECORD_OVERHEAD_MAX, RecordHeader};

/// Streams that are looked at in one turn at most.
const STREAMS_PER_TURN: u32 = 1024;

impl<D: Disk> Wal<D> {
    /// A segment has begun: states from before it are copied.
    pub(super) fn copy_states_from(&mut self, first: StreamSlot) {
        self.copy_from = Some(first);
    }

    /// Copies states into the segment that is written, a bounded number at a time.
    pub(super) fn copy_states(&mut self) {
        let Some(StreamSlot(from)) = self.copy_from else { return };
        let Some(limit) = self.segments.last().map(|s| s.start).filter(|_| self.segments.is_active()) else {
            return;
        };
        let to = (self.index.streams.len() as u32).min(from.saturating_add(STREAMS_PER_TURN));
        for slot in from..to {
            let stream = &self.index.streams[slot as usize];
            let alone = stream.state_copy_at.is_none() && stream.state_at.is_some_and(|at| at < limit);
            if !alone {
                continue;
            }
            if self.vital_room < (stream.state.len() + RECORD_OVERHEAD_MAX) as u64 {
                self.copy_from = Some(StreamSlot(slot));
                return;
            }
            self.copy_state(StreamSlot(slot));
        }
        self.copy_from = ((to as usize) < self.index.streams.len()).then_some(StreamSlot(to));
    }

    /// Writes a stream's state once more.
    pub(super) fn copy_state(&mut self, slot: StreamSlot) -> Lsn {
        let state = std::mem::take(&mut self.index.stream_mut(slot).state);
        let stream = self.index.stream(slot).id.0;
        let record = RecordHeader { kind: Kind::StateCopy, stream, index: 0, tag: 0, note: 0 };
        let (lsn, _) = self.put(&record, &state);
        let stream = self.index.stream_mut(slot);
        stream.state = state;
        (stream.state_copy_at, stream.state_at) = (stream.state_at, Some(lsn));
        lsn
    }
}
