//! Aligned memory for direct I/O.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;

use crate::disk::ALIGNMENT;

/// An owned block of memory, aligned to [`ALIGNMENT`], its capacity a multiple of it. It starts zeroed; when a disk hands it
/// out again it holds what its last use left.
///
/// A buffer may be registered with a ring, which makes its pages known to the kernel once instead of at every operation.
/// It owns its memory all the same: the ring's table of registered buffers only remembers the pages, and the kernel holds
/// its own reference to them.
pub struct Buffer {
    memory: NonNull<u8>,
    capacity: usize,
    registered: Option<u16>,
}

impl Buffer {
    /// A buffer of at least `len` bytes on the heap.
    pub fn heap(len: usize) -> Buffer {
        let capacity = len.max(1).next_multiple_of(ALIGNMENT);
        let layout = layout(capacity);
        // SAFETY: the layout's size is not zero, `capacity` is at least `ALIGNMENT`.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Buffer { memory, capacity, registered: None }
    }

    /// The bytes, all of the capacity.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory is `capacity` bytes, initialised since its allocation and owned by this value.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.capacity) }
    }

    /// The bytes, all of the capacity.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive. While the kernel reads or writes the memory,
        // the disk owns the buffer and nobody can call this.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.capacity) }
    }

    /// Size in bytes, a multiple of [`ALIGNMENT`].
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The index in the ring's table, if the buffer is registered.
    pub fn registered(&self) -> Option<u16> {
        self.registered
    }

    pub(crate) fn set_registered(&mut self, index: Option<u16>) {
        self.registered = index;
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGNMENT).expect("a buffer is far smaller than the address space")
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout in `heap`, the only constructor, and is freed once.
        unsafe { dealloc(self.memory.as_ptr(), layout(self.capacity)) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("capacity", &self.capacity)
            .field("registered", &self.registered)
            .finish()
    }
}

/// Heap buffers kept for reuse, so that the steady state allocates none: at most so many, of one size.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    free: Vec<Buffer>,
}

/// Spare buffers of a disk at most; what comes back beyond that is freed.
const SPARE_BUFFERS_MAX: usize = 64;
/// Bytes of one spare buffer at most: larger ones (of one large record) are freed.
const SPARE_BYTES_MAX: usize = 1 << 20;

impl Spares {
    /// The smallest spare that holds `len` bytes and is not more than four times as large.
    pub(crate) fn take(&mut self, len: usize) -> Option<Buffer> {
        let fits = |b: &Buffer| b.capacity >= len && b.capacity / 4 <= len.max(ALIGNMENT);
        let best =
            (0..self.free.len()).filter(|&i| fits(&self.free[i])).min_by_key(|&i| self.free[i].capacity)?;
        Some(self.free.swap_remove(best))
    }

    pub(crate) fn put(&mut self, buffer: Buffer) {
        if self.free.len() < SPARE_BUFFERS_MAX && buffer.capacity <= SPARE_BYTES_MAX {
            self.free.push(buffer);
        }
    }
}
