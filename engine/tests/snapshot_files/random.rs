//! Random work on a disk that lies, forgets, mixes up and dies: what is read to its end is what was written, always.

use logdrive::snapshot::{Compression, SnapshotFileSettings, SnapshotStore};
use logdrive_shard::GroupId;
use logdrive_wal::{Fault, FaultKind, OpKind, SimDisk};

use crate::common::{Bench, bytes, meta, settings, sim, state};

/// Numbers of a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let number = bytes(self.0, 8).try_into().unwrap();
        u64::from_le_bytes(number) % bound
    }
}

fn fault(numbers: &mut Numbers) -> Fault {
    let (at, number) = (numbers.below(5000) as u32, numbers.below(8) as u32);
    let kinds = [OpKind::Write, OpKind::Read];
    let (on, what) = match numbers.below(10) {
        0 => (OpKind::Write, FaultKind::Lost),
        1 => (OpKind::Write, FaultKind::Torn { sectors: numbers.below(u64::MAX), errno: 0 }),
        2 => (kinds[number as usize % 2], FaultKind::Flip { at, mask: 1 << number }),
        3 => (kinds[number as usize % 2], FaultKind::Garbage { sector: number, seed: at }),
        4 => (kinds[number as usize % 2], FaultKind::Misdirected { block: number }),
        5 => (OpKind::Read, FaultKind::Stale),
        6 => (OpKind::Sync, FaultKind::Forgets(libc::EIO)),
        7 => (kinds[number as usize % 2], FaultKind::Short(512 * number)),
        8 => (OpKind::Rename, FaultKind::Errno(libc::EIO)),
        _ => (OpKind::Read, FaultKind::Errno(libc::EIO)),
    };
    Fault::at(on, numbers.below(12) as u32, what)
}

/// Loads the newest of a group that can be loaded, and checks it.
fn load(bench: &mut Bench<SimDisk>, group: u64, place: &str) -> bool {
    while let Ok(Some(header)) = bench.store.newest(GroupId(group), 0) {
        let header = header.clone();
        let index = header.index.0;
        if let Ok(read) = bench.read(header.id) {
            let content = state(group, index, (index * 997 % 20_000) as usize);
            assert!(read == (meta(group, index).sessions, content), "{place}: group {group} index {index}");
            return true;
        }
    }
    false
}

#[test]
fn whatever_the_disk_does_what_is_loaded_is_what_was_written() {
    let seeds = std::env::var("LOGDRIVE_SNAPSHOT_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let (mut loaded, mut refused) = (0, 0);
    for seed in 0..seeds {
        let mut numbers = Numbers(seed << 20);
        let compression = [Compression::Off, Compression::Lz4][seed as usize % 2];
        let settings = SnapshotFileSettings { compression, id_seed: seed, ..settings() };
        let mut bench = Bench::open(sim(seed), settings.clone());
        for step in 1..=12 {
            let place = format!("seed {seed}, step {step}");
            let platter = bench.store.disk().platter();
            if numbers.below(3) == 0 {
                platter.inject(fault(&mut numbers));
            }
            let (group, index) = (1 + numbers.below(2), step * 10);
            let content = state(group, index, (index * 997 % 20_000) as usize);
            let written = bench.write(meta(group, index), &content);
            if numbers.below(3) == 0
                && let Ok(id) = written
                && bench.store.header(id).is_some()
            {
                bench.read(id).ok();
            }
            if numbers.below(4) == 0 {
                drop(bench);
                if numbers.below(2) == 0 {
                    platter.power_loss();
                }
                platter.clear_faults();
                let (store, _) = SnapshotStore::open(
                    platter.open().unwrap(),
                    SnapshotFileSettings { id_seed: seed << 8 | step, ..settings.clone() },
                )
                .unwrap();
                bench = Bench::of(store);
                let left = platter.list();
                assert!(left.iter().all(|(name, _)| name.ends_with(".snapshot")), "{place}: {left:?}");
            }
            for group in [1, 2] {
                *(if load(&mut bench, group, &place) { &mut loaded } else { &mut refused }) += 1;
            }
        }
    }
    assert!(loaded > 4 * refused, "{loaded} loaded, {refused} not");
}
