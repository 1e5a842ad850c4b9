//! The allocator of the binaries. Of a library this is the choice of the program that embeds it.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// The C library's allocator looks through thousands of blocks that were freed before it gives out a large one, so that a core stands still
/// for milliseconds when the views of large groups come and go.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_generic_collect` of mimalloc 3: a thread that asked for so many blocks that were not at hand looks through all of its pages for
/// what can be given back. The bindings have no name for it.
const COLLECT_EVERY: mi_option_t = 34;

/// What it is if nobody has set it.
const COLLECT_EVERY_DEFAULT: c_long = 10_000;

/// The most that it takes. Pages that become empty are given back as they do, without this.
const COLLECT_SELDOM: c_long = 1_000_000;

/// To be called before anything else.
///
/// With ten million keys a thread has 25 thousand pages, and looking through them took 2 to 5 ms five times a second while a snapshot was
/// written: the p99 of writes. `MIMALLOC_GENERIC_COLLECT` in the environment says otherwise.
pub(crate) fn tune() {
    // SAFETY: both take any number; a number that is no option is refused there.
    unsafe {
        if mi_option_get(COLLECT_EVERY) == COLLECT_EVERY_DEFAULT {
            mi_option_set(COLLECT_EVERY, COLLECT_SELDOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version of mimalloc may number its options otherwise. No other option is 10,000 by default.
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        tune();
        // SAFETY: as above.
        let set = unsafe { mi_option_get(COLLECT_EVERY) };
        let wanted = std::env::var("MIMALLOC_GENERIC_COLLECT")
            .map_or(COLLECT_SELDOM, |set| set.parse().expect("a number"));
        assert_eq!(set, wanted);
    }
}
