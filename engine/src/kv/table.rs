//! The keys of one group.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::digest::mix;
use super::view::{Overlay, RECORD_HEADER_BYTES};
use crate::api::VIEWS_PER_GROUP_MAX;
use crate::core::prefetch_bytes;

/// Keys per chunk at which the next chunk is split off, on average. Smaller ones make shorter pauses (a split moves the keys of one
/// chunk) and more of them; at 128 a million keys have 8 thousand chunks, whose headers are 256 KiB.
const CHUNK_KEYS: usize = 128;

/// Chunks that a load makes in advance because the snapshot says how many keys it has: 2 MiB of headers if it lies.
const CHUNKS_IN_ADVANCE_MAX: usize = 1 << 16;

/// What a key costs beside its bytes and its value's, about: bucket, free buckets, the allocator's share.
const KEY_OVERHEAD_BYTES: u64 = 64;

/// Bytes of a record that are asked for ahead; the processor goes on by itself with what is longer.
const PREFETCH_BYTES: usize = 256;

/// Where epochs begin anew, once no view is alive.
const EPOCHS_MAX: u32 = u32::MAX / 2;

/// The value of a bucket of a chunk.
pub(super) type Chunk = HashTable<Record>;

/// Key and value in one allocation: a lookup costs one cache miss beside the table's own.
#[derive(Clone)]
pub(super) struct Record {
    key_len: u32,
    /// The table's epoch when the record got this value, or an earlier one if no view that was alive then had to keep the value
    /// before: a view sees the record if this is below the view's own epoch.
    born: u32,
    /// Of the key: a view that looks for what comes next need not look at the keys, each of which is somewhere else in memory.
    order: u32,
    bytes: Box<[u8]>,
}

/// Half a cache line: a look at a record is one miss at most.
const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    fn new(key: &[u8], value: &[u8], born: u32, order: u32) -> Record {
        let bytes = [key, value].concat().into_boxed_slice();
        Record { key_len: key.len() as u32, born, order, bytes }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }

    pub(super) fn born(&self) -> u32 {
        self.born
    }

    pub(super) fn order(&self) -> u32 {
        self.order
    }

    /// Of key and value together.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Asks the processor for the beginning of its bytes, which is all of most records.
    pub(super) fn prefetch(&self) {
        prefetch_bytes(&self.bytes[..self.bytes.len().min(PREFETCH_BYTES)]);
    }

    /// In place if the length stays the same.
    fn set_value(&mut self, value: &[u8]) {
        if self.value().len() == value.len() {
            self.bytes[self.key_len as usize..].copy_from_slice(value);
        } else {
            *self = Record::new(self.key(), value, self.born, self.order);
        }
    }

    pub(super) fn digest(&self) -> u64 {
        // Two checksums from different starts make 64 bits; the lengths tell where the key ends.
        let lengths = u64::from(self.key_len) << 32 | self.bytes.len() as u64;
        let low = u64::from(crc32c::crc32c(&self.bytes));
        let high = u64::from(crc32c::crc32c_append(0x9E37_79B9, self.value()));
        mix(mix(lengths) ^ (high << 32 | low))
    }
}

/// The same on every machine: the order of a snapshot comes from it.
fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// A key's place in the order in which views are written.
///
/// It is made of bits that a chunk's own table does not look at (that one takes the top seven, and the low ones for the bucket).
pub(super) fn order_of(key: &[u8]) -> u32 {
    order(hash_of(key))
}

fn order(hash: u64) -> u32 {
    address(hash).reverse_bits()
}

fn address(hash: u64) -> u32 {
    (hash >> 25) as u32
}

/// A table of keys that is cut into small hash tables ("chunks") by linear hashing: when the keys have become too many for the chunks,
/// one chunk is split in two, so that no insertion ever waits for all keys to move.
///
/// The chunk of a key is told by the low bits of its address. Seen in the order of the reversed bits, each chunk is a range, and a split cuts
/// a range in two: a position in this order stays good whatever the table does. Views are written along it. While views are alive,
/// a record that is changed or removed before they came to it goes to them (see [`Overlay`]); while none is, the price of all this
/// is one comparison per write.
#[derive(Default)]
pub(super) struct Table {
    /// Most groups have no other chunk.
    first: Chunk,
    /// Chunks 1 and up.
    rest: Vec<Chunk>,
    /// The number of chunks, rounded up to a power of two, less one.
    mask: u32,
    /// How often the group was frozen.
    epoch: u32,
    len: usize,
    /// Of keys and values.
    bytes: u64,
    views: Vec<Rc<RefCell<Overlay>>>,
}

impl Table {
    /// An empty table that has the chunks for so many keys, within reason.
    pub(super) fn with_keys(keys: u64) -> Table {
        let chunks = keys.div_ceil(CHUNK_KEYS as u64).clamp(1, CHUNKS_IN_ADVANCE_MAX as u64) as usize;
        let mut table = Table::default();
        table.rest.resize_with(chunks - 1, Chunk::new);
        table.mask = mask_of(chunks);
        table
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// About the memory taken, with what views made it keep.
    pub(super) fn state_bytes(&self) -> u64 {
        let kept: u64 = self.views.iter().map(|view| view.borrow().saved_bytes()).sum();
        self.bytes + self.len as u64 * KEY_OVERHEAD_BYTES + kept
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let hash = hash_of(key);
        self.chunk(place(address(hash), self.mask, self.chunks()))
            .find(hash, |record| record.key() == key)
            .map(Record::value)
    }

    /// Shows a key's value to `decide` and stores what it returns, if it returns something.
    pub(super) fn change<'v, R>(
        &mut self,
        key: &[u8],
        decide: impl FnOnce(Option<&[u8]>) -> (Option<&'v [u8]>, R),
    ) -> R {
        let hash = hash_of(key);
        let place = place(address(hash), self.mask, self.chunks());
        let chunk = chunk_mut(&mut self.first, &mut self.rest, place);
        let Some(record) = chunk.find_mut(hash, |record| record.key() == key) else {
            let (value, result) = decide(None);
            if let Some(value) = value {
                let record = Record::new(key, value, self.epoch, order(hash));
                self.insert(hash, place, record);
            }
            return result;
        };
        let (value, result) = decide(Some(record.value()));
        if let Some(value) = value {
            self.bytes = self.bytes + value.len() as u64 - record.value().len() as u64;
            if self.views.is_empty() || !seen(&self.views, record) {
                record.set_value(value);
            } else {
                let before = std::mem::replace(record, Record::new(key, value, self.epoch, record.order));
                save(&self.views, before);
            }
        }
        result
    }

    /// Whether there was such a key.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let hash = hash_of(key);
        let place = place(address(hash), self.mask, self.chunks());
        let chunk = chunk_mut(&mut self.first, &mut self.rest, place);
        let Ok(found) = chunk.find_entry(hash, |record| record.key() == key) else { return false };
        let (record, _) = found.remove();
        self.len -= 1;
        self.bytes -= record.len() as u64;
        if !self.views.is_empty() {
            save(&self.views, record);
        }
        true
    }

    /// Adds a key that the table does not have; returns its part of the digest.
    pub(super) fn insert_new(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let hash = hash_of(key);
        let record = Record::new(key, value, self.epoch, order(hash));
        let digest = record.digest();
        self.insert(hash, place(address(hash), self.mask, self.chunks()), record);
        digest
    }

    fn insert(&mut self, hash: u64, place: usize, record: Record) {
        self.len += 1;
        self.bytes += record.len() as u64;
        let chunk = chunk_mut(&mut self.first, &mut self.rest, place);
        chunk.insert_unique(hash, record, |record| hash_of(record.key()));
        if self.len > self.chunks() * CHUNK_KEYS {
            self.split();
        }
    }

    /// Adds a chunk, which takes its keys from one other.
    fn split(&mut self) {
        let added = self.chunks();
        self.mask = mask_of(added + 1);
        self.rest.push(Chunk::new());
        let from = added & (self.mask >> 1) as usize;
        let keys = std::mem::take(chunk_mut(&mut self.first, &mut self.rest, from));
        let mut halves = [Chunk::with_capacity(keys.len() / 2), Chunk::with_capacity(keys.len() / 2)];
        for record in keys {
            let hash = hash_of(record.key());
            let half = usize::from(place(address(hash), self.mask, added + 1) == added);
            halves[half].insert_unique(hash, record, |record| hash_of(record.key()));
        }
        let [stay, go] = halves;
        *chunk_mut(&mut self.first, &mut self.rest, from) = stay;
        *chunk_mut(&mut self.first, &mut self.rest, added) = go;
    }

    /// A view of the table as it is now.
    pub(super) fn freeze(&mut self) -> Rc<RefCell<Overlay>> {
        self.views.retain(is_alive);
        assert!(
            self.views.len() < VIEWS_PER_GROUP_MAX,
            "{VIEWS_PER_GROUP_MAX} views of a group are alive already"
        );
        if self.epoch >= EPOCHS_MAX && self.views.is_empty() {
            // Once in two billion snapshots of a group.
            std::iter::once(&mut self.first)
                .chain(&mut self.rest)
                .for_each(|chunk| chunk.iter_mut().for_each(|record| record.born = 0));
            self.epoch = 0;
        }
        assert!(
            self.epoch < u32::MAX,
            "two billion snapshots of a group were taken with never a moment without a view"
        );
        self.epoch += 1;
        let view = Rc::new(RefCell::new(Overlay::new(self.epoch, self.len as u64)));
        self.views.push(Rc::clone(&view));
        view
    }

    /// The view needs nothing any more.
    pub(super) fn release(&mut self, view: &Rc<RefCell<Overlay>>) {
        self.views.retain(|other| !Rc::ptr_eq(other, view));
    }

    /// The table is not the group's any more: gives it to its views, or back if it has none.
    pub(super) fn retire(mut self) -> Option<Table> {
        let mut views = std::mem::take(&mut self.views);
        views.retain(is_alive);
        if views.is_empty() {
            return Some(self);
        }
        let table = Rc::new(self);
        for view in views {
            view.borrow_mut().detach(Rc::clone(&table));
        }
        None
    }

    /// The chunk that has the keys from `order` on, the order at which they end, and how long the whole range is.
    pub(super) fn range_from(&self, order: u32) -> (&Chunk, u64, u64) {
        let chunks = self.chunks();
        let low = order.reverse_bits() & (self.mask >> 1);
        let half = (self.mask as usize).div_ceil(2);
        // The half of the address space that this chunk was split from has a chunk of its own, or not yet.
        let split = self.mask > 0 && low as usize + half < chunks;
        let mask = if split { self.mask } else { self.mask >> 1 };
        let bits = 32 - mask.count_ones();
        let end = ((u64::from(order) >> bits) + 1) << bits;
        (self.chunk((order.reverse_bits() & mask) as usize), end, 1 << bits)
    }

    /// About the bytes of what is in a chunk, as a view writes it.
    pub(super) fn chunk_bytes(&self, chunk: &Chunk) -> u64 {
        let each = self.bytes / self.len.max(1) as u64 + RECORD_HEADER_BYTES as u64;
        chunk.len() as u64 * each
    }

    /// All records.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.first.iter().chain(self.rest.iter().flatten())
    }

    /// Its chunks, for whoever takes it down piece by piece.
    pub(super) fn into_chunks(mut self) -> Vec<Chunk> {
        self.rest.push(self.first);
        self.rest
    }

    fn chunks(&self) -> usize {
        self.rest.len() + 1
    }

    fn chunk(&self, place: usize) -> &Chunk {
        if place == 0 { &self.first } else { &self.rest[place - 1] }
    }
}

fn chunk_mut<'a>(first: &'a mut Chunk, rest: &'a mut [Chunk], place: usize) -> &'a mut Chunk {
    if place == 0 { first } else { &mut rest[place - 1] }
}

fn mask_of(chunks: usize) -> u32 {
    (chunks.next_power_of_two() - 1) as u32
}

/// Linear hashing: the low bits that all chunks together need, or one fewer where the chunk is not split yet.
fn place(address: u32, mask: u32, chunks: usize) -> usize {
    let place = (address & mask) as usize;
    if place < chunks { place } else { (address & (mask >> 1)) as usize }
}

/// Whether somebody else holds the view still.
fn is_alive(view: &Rc<RefCell<Overlay>>) -> bool {
    Rc::strong_count(view) > 1
}

/// Whether any view has yet to write the record.
#[inline(never)]
fn seen(views: &[Rc<RefCell<Overlay>>], record: &Record) -> bool {
    views.iter().any(|view| is_alive(view) && view.borrow().awaits(record))
}

/// Gives a record that was changed or removed to the views that have yet to write it.
#[inline(never)]
fn save(views: &[Rc<RefCell<Overlay>>], record: Record) {
    let mut waiting = views.iter().filter(|view| is_alive(view) && view.borrow().awaits(&record));
    let Some(last) = waiting.next_back() else { return };
    for view in waiting {
        view.borrow_mut().save(record.clone());
    }
    last.borrow_mut().save(record);
}
