//! What a group was at one moment, written out piece by piece.
//!
//! ```text
//! header    magic "LDKV", version (u32), number of keys (u64)
//! records   key length (u32), value length (u32), key, value; ascending by (order, key), no key twice
//! trailer   digest (u64)
//! ```
//!
//! Integers are little-endian. The order of a key is a 32-bit number from its XXH3 hash, the bits 25 to 56 reversed: the same on every
//! machine, so that equal states are equal bytes.

use std::cell::RefCell;
use std::rc::Rc;

use super::saved::Saved;
use super::table::{Chunk, Record, Table};

pub(super) const MAGIC: [u8; 4] = *b"LDKV";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const RECORD_HEADER_BYTES: usize = 8;
pub(super) const TRAILER_BYTES: usize = 8;

/// The end of all orders.
const END: u64 = 1 << 32;

/// A chunk is looked through so many times at most.
const PARTS_PER_CHUNK_MAX: u64 = 16;

/// Records are asked for so many places before they are written.
const AHEAD: usize = 6;

/// Records that are asked for before they are put in order.
const PREFETCHED_MAX: usize = 16;

/// What looking at a record that the view does not write costs the part's budget.
const LOOK_BYTES: usize = 16;

/// What a table and a view of it share: how far the view is written, and what changed before it was.
///
/// A view sees the records of the table that were born before it, and the ones saved here: these were born before it too, and were
/// changed or removed since. What is saved is dropped as it is written. So a view makes the table keep at most what it held
/// when it was frozen, and that only if everything is changed before anything is written.
pub(super) struct Overlay {
    /// Records born at this epoch or later are not seen.
    epoch: u32,
    /// Keys at the freeze.
    keys: u64,
    /// All keys of a lower order are written.
    next: u64,
    saved: Saved,
    /// The table, if it is not the group's any more.
    detached: Option<Rc<Table>>,
}

impl Overlay {
    pub(super) fn new(epoch: u32, keys: u64) -> Overlay {
        Overlay { epoch, keys, next: 0, saved: Saved::new(keys), detached: None }
    }

    /// Whether it sees the record and has not written it yet.
    pub(super) fn awaits(&self, record: &Record) -> bool {
        record.born() < self.epoch && u64::from(record.order()) >= self.next
    }

    pub(super) fn save(&mut self, record: Record) {
        self.saved.push(record);
    }

    pub(super) fn saved_bytes(&self) -> u64 {
        self.saved.bytes()
    }

    pub(super) fn detach(&mut self, table: Rc<Table>) {
        self.detached = Some(table);
    }

    /// The records of a chunk that it sees and has not written, as far as `end`, in their order.
    fn unwritten<'a>(&'a self, chunk: &'a Chunk, end: u64) -> Vec<&'a Record> {
        let is_next = |record: &&Record| {
            record.born() < self.epoch && (self.next..end).contains(&u64::from(record.order()))
        };
        let mut records: Vec<&Record> = Vec::with_capacity(2 * PREFETCHED_MAX);
        records.extend(chunk.iter().filter(is_next));
        records.extend(self.saved.range(self.next, end));
        // Each is somewhere else in memory: the first are on their way while they are put in order.
        records.iter().take(PREFETCHED_MAX).for_each(|record| record.prefetch());
        records.sort_unstable_by(|a, b| a.order().cmp(&b.order()).then_with(|| a.key().cmp(b.key())));
        records
    }

    /// How far to go for about so many bytes in a chunk of so many, whose keys are spread over a range of that length: what is not
    /// written now need not be put in order.
    fn end_for(&self, bytes: usize, chunk_bytes: u64, range: u64) -> u64 {
        // Not less than some records, however large they are.
        let bytes = u128::from((bytes as u64).max(chunk_bytes / PARTS_PER_CHUNK_MAX).max(1));
        let part = u128::from(range) * bytes / u128::from(chunk_bytes.max(1));
        self.next + part.clamp(1, u128::from(range)) as u64
    }

    /// All keys of an order below are written.
    fn advance(&mut self, next: u64) {
        self.next = next;
        self.saved.drop_below(next);
    }

    /// What is left of it, for whoever takes it down piece by piece.
    pub(super) fn into_parts(self) -> (Saved, Option<Rc<Table>>) {
        (self.saved, self.detached)
    }
}

/// A group of a [`KvMachine`](super::KvMachine) as it was at one moment.
///
/// Equal states are written as equal bytes, on every machine. A part is longer than it should be only if one key and its value are, and
/// may be empty if many keys were added since.
pub struct KvView {
    pub(super) slot: u32,
    pub(super) overlay: Rc<RefCell<Overlay>>,
    begun: bool,
    keys: u64,
    digest: u64,
}

impl KvView {
    pub(super) fn new(slot: u32, overlay: Rc<RefCell<Overlay>>) -> KvView {
        KvView { slot, overlay, begun: false, keys: 0, digest: 0 }
    }

    /// Appends the next part; `table` is what the group has now. Whether it was the last.
    pub(super) fn write(&mut self, table: &Table, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let overlay = Rc::clone(&self.overlay);
        let mut overlay = overlay.borrow_mut();
        let detached = overlay.detached.clone();
        let table = detached.as_deref().unwrap_or(table);
        let start = out.len();
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&VERSION.to_le_bytes());
            out.extend_from_slice(&overlay.keys.to_le_bytes());
        }
        let mut looked = 0;
        while overlay.next < END {
            let (chunk, end, range) = table.range_from(overlay.next as u32);
            let left = bytes_max.saturating_sub(out.len() - start);
            let end = end.min(overlay.end_for(left, table.chunk_bytes(chunk), range));
            let records = overlay.unwritten(chunk, end);
            looked += chunk.len().saturating_sub(records.len());
            let next = self.put(&records, start + bytes_max, start, out).unwrap_or(end);
            overlay.advance(next);
            if next < end || out.len() - start + looked * LOOK_BYTES >= bytes_max {
                break;
            }
        }
        if overlay.next < END {
            return false;
        }
        assert_eq!(self.keys, overlay.keys, "a view writes what was there when it was frozen");
        out.extend_from_slice(&self.digest.to_le_bytes());
        true
    }

    /// Appends records until `out` has `len_max` bytes; at least one if it had only `start`. Returns the order of the first that was left.
    fn put(&mut self, records: &[&Record], len_max: usize, start: usize, out: &mut Vec<u8>) -> Option<u64> {
        let mut at = 0;
        // The position is an order, so that keys of one order (hardly ever two) are not torn apart.
        for same in records.chunk_by(|a, b| a.order() == b.order()) {
            let bytes: usize = same.iter().map(|record| RECORD_HEADER_BYTES + record.len()).sum();
            if out.len() + bytes > len_max && out.len() > start {
                return Some(u64::from(same[0].order()));
            }
            for record in same {
                at += 1;
                if let Some(next) = records.get(at + AHEAD) {
                    next.prefetch();
                }
                let (key, value) = (record.key(), record.value());
                out.extend_from_slice(&(key.len() as u32).to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
                self.keys += 1;
                self.digest = self.digest.wrapping_add(record.digest());
            }
        }
        None
    }
}
