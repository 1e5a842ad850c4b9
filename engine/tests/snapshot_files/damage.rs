//! Damaged files are never loaded: an older good one is offered, or it is said that there is none.

use logdrive::snapshot::{Compression, DamageKind, ReadFailure, SnapshotFileSettings, SnapshotStore};
use logdrive_shard::GroupId;
use logdrive_wal::{Fault, FaultKind, OpKind, SimPlatter};

use crate::common::{Bench, meta, settings, sim, state};

/// A disk with snapshots of group 1 at 10 and 20, and the newer one's name.
fn two(compression: Compression, len: usize) -> (SimPlatter, String) {
    let mut bench = Bench::open(sim(1), SnapshotFileSettings { compression, ..settings() });
    bench.write(meta(1, 10), &state(1, 10, 100)).unwrap();
    let mut content = state(1, 20, len);
    content[len / 2..].fill(1);
    bench.write(meta(1, 20), &content).unwrap();
    bench.settle();
    let platter = bench.store.close().platter();
    let name = platter.list().pop().unwrap().0;
    (platter, name)
}

/// What is loaded of group 1: the newest that can be read.
fn load(platter: &SimPlatter) -> (u64, Vec<u8>) {
    let mut bench = Bench::open(platter.open().unwrap(), settings());
    for _ in 0..3 {
        let newest = bench.store.newest(GroupId(1), 0).unwrap().unwrap().clone();
        if let Ok((sessions, state)) = bench.read(newest.id) {
            assert_eq!(sessions, meta(1, newest.index.0).sessions);
            return (newest.index.0, state);
        }
    }
    panic!("nothing can be loaded");
}

#[test]
fn whichever_byte_is_flipped_the_older_snapshot_is_loaded() {
    for compression in [Compression::Off, Compression::Lz4] {
        let (platter, name) = two(compression, 6000);
        assert_eq!(load(&platter).0, 20);
        let len = platter.read_file(&name).unwrap().len() as u64;
        assert!(len >= 8192);
        for at in 0..len {
            platter.flip(&name, at, 1 << (at % 8));
            assert_eq!(load(&platter), (10, state(1, 10, 100)), "byte {at} of {name}");
            platter.flip(&name, at, 1 << (at % 8));
        }
        assert_eq!(load(&platter).0, 20, "all is as it was");
    }
}

#[test]
fn damage_names_file_and_place_and_when_nothing_is_good_that_is_said() {
    let (platter, name) = two(Compression::Off, 30_000);
    let old = platter.list().remove(0).0;
    let place = 4096 + 3 * 4096;
    platter.flip(&name, place + 2000, 4);
    platter.flip(&old, 700, 1);
    let (store, opened) = SnapshotStore::open(platter.open().unwrap(), settings()).unwrap();
    assert_eq!(opened.snapshots, 1);
    let [ReadFailure::Damaged(damage)] = &opened.damaged[..] else { panic!("{opened:?}") };
    assert_eq!((&damage.file, damage.offset), (&old, 0));
    assert!(matches!(damage.kind, DamageKind::HeaderCrc { .. }));
    store.close();
    let mut bench = Bench::open(platter.open().unwrap(), settings());
    let id = bench.store.newest(GroupId(1), 0).unwrap().unwrap().id;
    let ReadFailure::Damaged(damage) = bench.read(id).unwrap_err() else { panic!("not damaged") };
    assert_eq!((&damage.file, damage.offset), (&name, place));
    assert!(matches!(damage.kind, DamageKind::ChunkCrc { chunk: 3, .. }), "{damage}");
    let error = bench.store.newest(GroupId(1), 0).unwrap_err();
    assert_eq!(error.damages.len(), 2);
    let text = error.to_string();
    assert!(text.contains(&name) && text.contains(&old) && text.contains("from its leader"), "{text}");
    // A new one makes the group whole, and the damaged ones go.
    bench.write(meta(1, 30), &state(1, 30, 100)).unwrap();
    bench.settle();
    assert_eq!(bench.newest_index(1), Some(30));
    assert_eq!(bench.store.disk().platter().list().len(), 1);
    assert_eq!(bench.store.stats().damaged, 2);
}

#[test]
fn a_damaged_chunk_is_not_sent() {
    let (platter, name) = two(Compression::Off, 30_000);
    platter.flip(&name, 4096 + 2 * 4096 + 50, 1);
    let mut bench = Bench::open(platter.open().unwrap(), settings());
    let id = bench.store.newest(GroupId(1), 0).unwrap().unwrap().id;
    let read = bench.store.begin_send(id).unwrap();
    bench.chunk(read, 1);
    assert!(bench.store.read_chunk(read, 2).unwrap());
    let failed = bench.until(|event| match event {
        logdrive::snapshot::StoreEvent::ReadFailed { snapshot, failure, .. } => {
            Some((*snapshot, failure.clone()))
        }
        _ => None,
    });
    assert_eq!(failed.0, id);
    assert!(failed.1.to_string().contains("chunk 2 is damaged"), "{}", failed.1);
    assert_eq!(bench.newest_index(1), Some(10));
}

#[test]
fn files_that_are_cut_swapped_or_of_another_version_are_not_used() {
    let (platter, name) = two(Compression::Off, 30_000);
    let old = platter.list().remove(0).0;
    // The older one's bytes under the newer one's name.
    let swapped = platter.copy(1);
    let bytes = platter.read_file(&old).unwrap();
    swapped.overwrite(&name, 0, &bytes);
    let (_, opened) = SnapshotStore::open(swapped.open().unwrap(), settings()).unwrap();
    assert!(opened.damaged[0].to_string().contains("another snapshot than the name"), "{:?}", opened.damaged);
    // A chunk of the older one in the newer one.
    let mixed = platter.copy(1);
    mixed.overwrite(&name, 4096, &bytes[4096..]);
    assert_eq!(load(&mixed).0, 10);
    // Two chunks of one file exchanged.
    let exchanged = platter.copy(1);
    let bytes = platter.read_file(&name).unwrap();
    exchanged.overwrite(&name, 8192, &bytes[4096..8192]);
    exchanged.overwrite(&name, 4096, &bytes[8192..12288]);
    assert_eq!(load(&exchanged).0, 10);
    // A version to come, with a good checksum.
    let newer = platter.copy(1);
    let mut header = bytes[..4096].to_vec();
    header[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    newer.overwrite(&name, 0, &header);
    let (_, opened) = SnapshotStore::open(newer.open().unwrap(), settings()).unwrap();
    assert!(opened.damaged[0].to_string().contains("format version 9"), "{:?}", opened.damaged);
}

#[test]
fn a_file_that_cannot_be_read_is_not_offered_and_the_older_one_is() {
    let (platter, name) = two(Compression::Off, 30_000);
    let mut bench = Bench::open(platter.open().unwrap(), settings());
    let id = bench.store.newest(GroupId(1), 0).unwrap().unwrap().id;
    platter.inject(Fault::at(OpKind::Read, 2, FaultKind::Errno(libc::EIO)));
    let failure = bench.read(id).unwrap_err();
    assert!(matches!(failure, ReadFailure::Disk(_)) && failure.to_string().contains(&name), "{failure}");
    assert_eq!(bench.newest_index(1), Some(10));
    // Short reads are damage, wherever they happen.
    let mut bench = Bench::open(platter.copy(3).open().unwrap(), settings());
    bench.store.disk_mut().inject(Fault::at(OpKind::Read, 1, FaultKind::Short(512)));
    assert!(matches!(bench.read(id).unwrap_err(), ReadFailure::Damaged(_)));
}
