//! Ten thousand streams on one simulated disk, a power loss in the middle of the writes, and what is left: everything that was
//! acknowledged, for every stream.
//!
//! `cargo run -p logdrive-wal --example many_streams`

use std::collections::BTreeMap;
use std::error::Error;

use logdrive_wal::{EntryHeader, Options, Recovery, SimDisk, SimOptions, StreamId, Wal};

const STREAMS: u64 = 10_000;

/// The last entry of each stream.
#[derive(Default)]
struct Lasts(BTreeMap<u64, u64>);

impl Recovery for Lasts {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, _: &[u8]) {
        self.0.insert(stream.0, header.index);
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options { segment_bytes: 4 << 20, budget_bytes: 256 << 20, ..Options::default() };
    let disk = SimDisk::new(SimOptions { seed: 42, ..SimOptions::default() });
    let mut wal = Wal::open(disk, options.clone(), 0, &mut Lasts::default())?;
    let slots: Vec<_> = (0..STREAMS).map(|id| wal.stream(StreamId(id))).collect();

    let mut now = 0;
    for index in 1..=20 {
        let mut ticket = wal.last_ticket();
        for slot in &slots {
            ticket = wal.append(*slot, EntryHeader { index, tag: 1, note: 0 }, &[index as u8; 100])?;
        }
        while wal.durable() < ticket {
            now += 1000;
            wal.submit(now);
            wal.poll(now);
        }
    }
    let stats = wal.stats();
    println!(
        "{} entries of {STREAMS} streams in {} durable writes, {:.1} bytes of index each",
        stats.records,
        stats.writes,
        wal.index_bytes() as f64 / stats.records as f64
    );
    // One more round, which is not waited for: it is with the disk, and half in its cache, when the power goes.
    for slot in &slots {
        wal.append(*slot, EntryHeader { index: 21, tag: 1, note: 0 }, b"never acknowledged")?;
    }
    wal.disk().hold();
    wal.submit(now);
    let platter = wal.into_disk().power_loss();

    let mut found = Lasts::default();
    let wal = Wal::open(platter.open()?, options, now, &mut found)?;
    let kept = found.0.values().filter(|last| **last >= 20).count();
    let more = found.0.values().filter(|last| **last == 21).count();
    println!(
        "after a power loss: {kept} streams have all that was acknowledged, {more} of them one entry more"
    );
    assert_eq!(kept as u64, STREAMS);
    wal.close(now)?;
    Ok(())
}
