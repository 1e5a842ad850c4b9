//! The entry cache: payloads of recent entries of all groups, in chunks that are filled in order of arrival.
//!
//! An entry is released as soon as nobody is expected to ask for it, and a chunk without live entries is filled again
//! next: in the steady state a few chunks circulate and stay in the processor's caches. Over the bound the oldest chunk
//! is given up whatever is in it; the log has what was in it.
//!
//! A group's cached entries are one contiguous run that ends at its last entry, see [`Window`].

use std::collections::VecDeque;

use super::lane::{Lane, NIL};
use crate::wire::EntryKind;

/// Bytes of a chunk.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// A larger payload gets a chunk of its own.
const SHARED_PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES / 4;
/// References kept inside a window; more are kept aside.
const INLINE: usize = 4;
/// Entries made for one chunk, so that ones without payload fill it too.
const CHUNK_MEMBERS_MAX: usize = 4096;
/// Empty chunks whose memory is kept.
const CHUNKS_KEPT: usize = 64;

/// The cached entries of one group: `first .. first + count`. Few of them are referred to inline, more through a queue
/// on the side.
#[derive(Debug)]
pub(super) struct Window {
    first: u64,
    count: u32,
    /// Which queue of [`Cache::spills`] holds the references, or `NIL`: inline.
    spill: u32,
    inline: [u32; INLINE],
}

impl Default for Window {
    fn default() -> Window {
        Window { first: 0, count: 0, spill: NIL, inline: [NIL; INLINE] }
    }
}

impl Window {
    /// Whether nothing is cached.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first cached index; `None` if nothing is.
    pub(super) fn first(&self) -> Option<u64> {
        (self.count > 0).then_some(self.first)
    }

    /// Whether the entry at `index` is cached.
    pub(super) fn contains(&self, index: u64) -> bool {
        index.wrapping_sub(self.first) < u64::from(self.count)
    }

    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// An entry: where its payload is.
#[derive(Clone, Copy, Debug)]
struct Head {
    index: u64,
    slot: u32,
    /// `NIL` if this head is free.
    chunk: u32,
    offset: u32,
    len: u32,
    kind: EntryKind,
}

#[derive(Debug)]
struct Chunk {
    data: Vec<u8>,
    /// Entries in it that are in a window.
    live: u32,
    /// Heads that were made for it; some may have been released and used again since.
    members: Vec<u32>,
    /// Neighbours in order of age.
    older: u32,
    newer: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    heads: Vec<Head>,
    heads_free: Vec<u32>,
    chunks: Vec<Chunk>,
    /// Chunks in use by nobody, their memory kept.
    chunks_free: Vec<u32>,
    /// Chunks without memory.
    chunks_bare: Vec<u32>,
    oldest: u32,
    newest: u32,
    /// The chunk being filled.
    current: u32,
    spills: Vec<VecDeque<u32>>,
    spills_free: Vec<u32>,
    bytes: u64,
    bytes_max: u64,
    evictions: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Cache {
        Cache {
            heads: Vec::new(),
            heads_free: Vec::new(),
            chunks: Vec::new(),
            chunks_free: Vec::new(),
            chunks_bare: Vec::new(),
            oldest: NIL,
            newest: NIL,
            current: NIL,
            spills: Vec::new(),
            spills_free: Vec::new(),
            bytes: 0,
            bytes_max: bytes_max.max(4 * CHUNK_BYTES as u64),
            evictions: 0,
        }
    }

    /// Bytes of all chunks that hold something.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries given up because of the bound.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The bound that eviction keeps, but for the newest chunk.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether [`Cache::evict`] is due.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Adds a group's next entry.
    pub(super) fn push(
        &mut self,
        window: &mut Window,
        slot: u32,
        index: u64,
        kind: EntryKind,
        payload: &[u8],
    ) {
        if window.count == 0 {
            window.first = index;
        }
        assert_eq!(index, window.end(), "slot {slot}: entries are cached in order");
        let chunk = self.chunk_for(payload.len());
        let into = &mut self.chunks[chunk as usize];
        let head =
            Head { index, slot, chunk, offset: into.data.len() as u32, len: payload.len() as u32, kind };
        into.data.extend_from_slice(payload);
        into.live += 1;
        let reference = match self.heads_free.pop() {
            Some(free) => {
                self.heads[free as usize] = head;
                free
            }
            None => {
                self.heads.push(head);
                (self.heads.len() - 1) as u32
            }
        };
        self.chunks[chunk as usize].members.push(reference);
        self.refer(window, reference);
    }

    /// The entry at `index`, if it is cached.
    pub(super) fn get(&self, window: &Window, index: u64) -> Option<(EntryKind, &[u8])> {
        let head = self.head(window, index)?;
        let start = head.offset as usize;
        Some((head.kind, &self.chunks[head.chunk as usize].data[start..start + head.len as usize]))
    }

    /// Payload bytes of the entry at `index`, if it is cached.
    pub(super) fn len_of(&self, window: &Window, index: u64) -> Option<u32> {
        self.head(window, index).map(|head| head.len)
    }

    /// Releases the entries before `index`.
    pub(super) fn release(&mut self, window: &mut Window, index: u64) {
        while window.count > 0 && window.first < index {
            self.pop_first(window);
        }
    }

    /// Removes the entries from `index` on: they were replaced.
    pub(super) fn truncate(&mut self, window: &mut Window, index: u64) {
        while window.count > 0 && window.end() > index {
            let reference = self.reference(window, window.end() - 1);
            self.free(reference);
            window.count -= 1;
            if window.spill != NIL {
                self.spills[window.spill as usize].pop_back();
            }
        }
        self.maybe_unspill(window);
    }

    /// Gives up the oldest chunks until the bound holds.
    pub(super) fn evict(&mut self, lanes: &mut [Lane]) {
        while self.bytes > self.bytes_max && self.oldest != NIL && self.oldest != self.newest {
            self.give_up(self.oldest, lanes);
        }
    }

    /// Gives up the oldest chunk, were it the only one.
    pub(super) fn evict_oldest(&mut self, lanes: &mut [Lane]) {
        if self.oldest != NIL {
            self.give_up(self.oldest, lanes);
        }
    }

    /// Gives up a chunk and whatever is in it.
    fn give_up(&mut self, chunk: u32, lanes: &mut [Lane]) {
        if chunk == self.current {
            self.current = NIL;
        }
        if self.chunks[chunk as usize].live == 0 {
            return self.retire(chunk);
        }
        let mut members = std::mem::take(&mut self.chunks[chunk as usize].members);
        for reference in members.drain(..) {
            let Head { index, slot, chunk: home, .. } = self.heads[reference as usize];
            if home != chunk {
                continue;
            }
            let window = &mut lanes[slot as usize].window;
            while window.count > 0 && window.first <= index {
                self.pop_first(window);
                self.evictions += 1;
            }
        }
        // The last entry to go has retired the chunk.
        let emptied = &mut self.chunks[chunk as usize];
        assert_eq!(emptied.live, 0, "every live entry of a chunk is in a window");
        emptied.members = members;
    }

    fn head(&self, window: &Window, index: u64) -> Option<&Head> {
        window.contains(index).then(|| {
            let head = &self.heads[self.reference(window, index) as usize];
            debug_assert_eq!(head.index, index);
            head
        })
    }

    fn reference(&self, window: &Window, index: u64) -> u32 {
        if window.spill == NIL {
            window.inline[index as usize % INLINE]
        } else {
            self.spills[window.spill as usize][(index - window.first) as usize]
        }
    }

    /// Adds a reference at the end of a window.
    fn refer(&mut self, window: &mut Window, reference: u32) {
        if window.spill == NIL && window.count as usize == INLINE {
            let spill = self.spills_free.pop().unwrap_or_else(|| {
                self.spills.push(VecDeque::new());
                (self.spills.len() - 1) as u32
            });
            let queue = &mut self.spills[spill as usize];
            queue.extend((window.first..window.end()).map(|index| window.inline[index as usize % INLINE]));
            window.spill = spill;
        }
        if window.spill == NIL {
            window.inline[window.end() as usize % INLINE] = reference;
        } else {
            self.spills[window.spill as usize].push_back(reference);
        }
        window.count += 1;
    }

    fn pop_first(&mut self, window: &mut Window) {
        let reference = self.reference(window, window.first);
        self.free(reference);
        if window.spill != NIL {
            self.spills[window.spill as usize].pop_front();
        }
        window.first += 1;
        window.count -= 1;
        self.maybe_unspill(window);
    }

    /// An empty window gives its queue back.
    fn maybe_unspill(&mut self, window: &mut Window) {
        if window.count == 0 && window.spill != NIL {
            self.spills_free.push(window.spill);
            window.spill = NIL;
        }
    }

    fn free(&mut self, reference: u32) {
        let head = &mut self.heads[reference as usize];
        let chunk = head.chunk;
        head.chunk = NIL;
        self.heads_free.push(reference);
        let home = &mut self.chunks[chunk as usize];
        home.live -= 1;
        if home.live == 0 {
            if chunk == self.current {
                // Nothing refers to it: it is filled again from its start.
                home.data.clear();
                home.members.clear();
            } else {
                self.retire(chunk);
            }
        }
    }

    /// A chunk with room for `len` more bytes.
    fn chunk_for(&mut self, len: usize) -> u32 {
        if len > SHARED_PAYLOAD_BYTES_MAX {
            return self.open_chunk(len);
        }
        if self.current != NIL {
            let current = &self.chunks[self.current as usize];
            if current.data.len() + len <= CHUNK_BYTES && current.members.len() < CHUNK_MEMBERS_MAX {
                return self.current;
            }
        }
        self.current = self.open_chunk(CHUNK_BYTES);
        self.current
    }

    /// Takes an empty chunk into use, as the newest.
    fn open_chunk(&mut self, capacity: usize) -> u32 {
        let reused = if capacity == CHUNK_BYTES { self.chunks_free.pop() } else { None };
        let chunk = reused.or_else(|| self.chunks_bare.pop()).unwrap_or_else(|| {
            let (data, members) = (Vec::new(), Vec::new());
            self.chunks.push(Chunk { data, live: 0, members, older: NIL, newer: NIL });
            (self.chunks.len() - 1) as u32
        });
        let opened = &mut self.chunks[chunk as usize];
        opened.data.reserve_exact(capacity);
        opened.older = self.newest;
        opened.newer = NIL;
        self.bytes += opened.data.capacity() as u64;
        match self.newest {
            NIL => self.oldest = chunk,
            newest => self.chunks[newest as usize].newer = chunk,
        }
        self.newest = chunk;
        chunk
    }

    /// Takes an empty chunk out of use.
    fn retire(&mut self, chunk: u32) {
        let Chunk { older, newer, .. } = self.chunks[chunk as usize];
        match older {
            NIL => self.oldest = newer,
            older => self.chunks[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.chunks[newer as usize].older = older,
        }
        let retired = &mut self.chunks[chunk as usize];
        self.bytes -= retired.data.capacity() as u64;
        retired.members.clear();
        if retired.data.capacity() == CHUNK_BYTES && self.chunks_free.len() < CHUNKS_KEPT {
            retired.data.clear();
            self.chunks_free.push(chunk);
        } else {
            retired.data = Vec::new();
            self.chunks_bare.push(chunk);
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
