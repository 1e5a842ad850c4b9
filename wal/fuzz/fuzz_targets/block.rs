//! See `src/fuzzing.rs` of the crate.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| logdrive_wal::fuzzing::block(input));
