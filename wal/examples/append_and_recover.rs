//! A log in a directory: append, see it durable, close, open again and get it back.
//!
//! `cargo run -p logdrive-wal --example append_and_recover [DIRECTORY]`

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use logdrive_wal::{EntryHeader, Options, Recovery, RingDisk, RingOptions, StreamId, Wal};

/// Prints what comes back.
struct Print;

impl Recovery for Print {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        println!("  stream {} entry {}: {}", stream.0, header.index, String::from_utf8_lossy(payload));
    }
    fn state(&mut self, stream: StreamId, state: &[u8]) {
        println!("  stream {} state: {}", stream.0, String::from_utf8_lossy(state));
    }
    fn compacted(&mut self, stream: StreamId, index: u64) {
        println!("  stream {} is compacted up to {index}", stream.0);
    }
}

fn open(directory: &std::path::Path) -> Result<Wal<RingDisk>, Box<dyn Error>> {
    let options = Options { segment_bytes: 4 << 20, budget_bytes: 64 << 20, ..Options::default() };
    Ok(Wal::open(RingDisk::open(directory, RingOptions::default())?, options, 1, &mut Print)?)
}

#[allow(clippy::disallowed_methods)] // The log reads no clock; the program that uses it does.
fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("logdrive-wal-example"), PathBuf::from);
    std::fs::create_dir_all(&directory)?;
    println!("opening {}:", directory.display());
    let mut wal = open(&directory)?;
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;

    let stream = wal.stream(StreamId(7));
    let first = wal.entries(stream).map_or(1, |(_, last)| last + 1);
    for index in first..first + 3 {
        let payload = format!("entry {index}, written at {:?}", start.elapsed());
        wal.append(stream, EntryHeader { index, tag: 1, note: 0 }, payload.as_bytes())?;
    }
    let ticket = wal.put_state(stream, b"all is well")?;
    // Three entries and a state are one batch, and one durable write.
    while wal.durable() < ticket {
        wal.submit(now());
        wal.wait(now);
    }
    println!("entries {first} to {} are durable after {:?}", first + 2, start.elapsed());
    wal.close(now())?;

    println!("opening it again:");
    open(&directory)?.close(now())?;
    Ok(())
}
