//! Parts of the log by themselves, for the benchmarks of this crate. Not an interface: nothing here is promised to stay.

use crate::buffer::Buffer;
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, Incarnation, Kind, Lsn, RecordHeader, check_record};
use crate::index::Index;
use crate::wal::batch::Batch;
use crate::wal::{EntryHeader, StreamId, StreamSlot, Ticket};

/// Where streams' entries are.
pub struct Positions {
    index: Index,
    slots: Vec<StreamSlot>,
    at: Lsn,
}

impl Positions {
    /// Of so many streams without entries.
    pub fn new(streams: u64) -> Positions {
        let mut index = Index::new();
        let slots = (0..streams).map(|id| index.slot(StreamId(id))).collect();
        Positions { index, slots, at: Lsn(BATCH_HEADER_BYTES as u64) }
    }

    /// The next entry of a stream, `bytes` behind the last of any stream.
    pub fn push(&mut self, stream: usize, bytes: u64) {
        let slot = self.slots[stream];
        let next = self.index.stream(slot).next.max(1);
        self.index.push(slot, next, self.at);
        self.at = self.at.plus(bytes);
    }

    /// Gives up all but the last `kept` entries of a stream.
    pub fn compact(&mut self, stream: usize, kept: u64) {
        let slot = self.slots[stream];
        let next = self.index.stream(slot).next;
        self.index.compact(slot, next.saturating_sub(kept + 1));
    }

    /// Where an entry is.
    pub fn find(&self, stream: usize, index: u64) -> Option<u64> {
        self.index.stream(self.slots[stream]).lsn(index).map(|lsn| lsn.0)
    }
}

/// A batch that is filled, sealed and checked over and over.
pub struct Batches {
    batch: Batch,
    limit: usize,
}

impl Batches {
    /// Of so many bytes at most.
    pub fn new(limit: usize) -> Batches {
        Batches { batch: Batch::new(Buffer::heap(limit), limit, Lsn(0), Ticket(1)), limit }
    }

    /// Puts an entry in; false if it does not fit, and then the batch is begun anew.
    pub fn put(&mut self, stream: StreamId, entry: EntryHeader, payload: &[u8]) -> bool {
        if !self.batch.fits(payload.len()) {
            let empty = Batch::new(Buffer::heap(0), 0, Lsn(0), Ticket(1));
            let buffer = std::mem::replace(&mut self.batch, empty).buffer;
            self.batch = Batch::new(buffer, self.limit, Lsn(0), Ticket(1));
            return false;
        }
        let EntryHeader { index, tag, note } = entry;
        let header = RecordHeader { kind: Kind::Entry, stream: stream.0, index, tag, note };
        self.batch.put(&header, payload);
        true
    }

    /// Writes the header in front of what is in.
    pub fn seal(&mut self) -> Sealed {
        let header = BatchHeader {
            length: self.batch.len as u32,
            incarnation: Incarnation(1),
            lsn: Lsn(0),
            durable_end: Lsn(0),
            previous_crc: 0,
            records: self.batch.records,
            states: 0,
            replaced: 0,
            seal: false,
            digest: self.batch.digest,
            crc: 0,
        };
        let crc = header.seal(self.batch.buffer.as_mut_slice());
        Sealed { header: BatchHeader { crc, ..header } }
    }

    /// Checks every byte of the batch.
    pub fn check(&self, sealed: &Sealed) -> bool {
        sealed.header.check(self.batch.buffer.as_slice()).is_ok()
    }

    /// Checks the first record alone, as a read of one entry does.
    pub fn check_first(&self) -> bool {
        let at = BATCH_HEADER_BYTES;
        check_record(&self.batch.buffer.as_slice()[at..self.batch.len], Lsn(at as u64)).is_ok()
    }

    /// Bytes of header and records.
    pub fn bytes(&self) -> u64 {
        self.batch.len as u64
    }
}

/// A batch's header.
pub struct Sealed {
    header: BatchHeader,
}
