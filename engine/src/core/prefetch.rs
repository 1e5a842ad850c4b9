//! Asking the processor for memory before it is needed.
//!
//! A turn touches a few cache lines each of hundreds of groups, and with thousands of groups most of them are not in the nearest
//! cache. The order of the touches is known in advance (a frame's messages, the entries of a queue), so the lines of
//! the next few groups are asked for while one is stepped.

/// So many groups ahead.
pub(super) const AHEAD: usize = 4;

/// Asks for all cache lines of `value`.
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    prefetch_lines(std::ptr::from_ref(value).cast(), size_of::<T>());
}

/// Asks for all cache lines of some bytes.
#[inline(always)]
pub(crate) fn prefetch_bytes(bytes: &[u8]) {
    prefetch_lines(bytes.as_ptr(), bytes.len());
}

#[inline(always)]
fn prefetch_lines(begin: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..len).step_by(64) {
        let line = begin.cast::<i8>().wrapping_add(offset);
        // SAFETY: a prefetch reads nothing and faults on no address; this one lies within a live value besides.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (begin, len);
}
