//! Files at rest: all damage is found, with its place, and nothing is changed.

use std::path::Path;

use logdrive::snapshot::offline::{Depth, examine, find};
use logdrive::snapshot::{Compression, DamageKind, SnapshotFileSettings};
use logdrive_shard::NodeId;

use crate::common::{Bench, meta, settings, sim, state};

/// Files of two groups in a directory below `dir`, as a core would have them.
fn write(dir: &Path, compression: Compression) -> Vec<std::path::PathBuf> {
    let mut bench = Bench::open(sim(1), SnapshotFileSettings { compression, ..settings() });
    for group in [1, 2] {
        bench.write(meta(group, 10), &state(group, 10, 30_000)).unwrap();
    }
    bench.settle();
    let platter = bench.store.close().platter();
    let below = dir.join("core-0/snapshots");
    std::fs::create_dir_all(&below).unwrap();
    let copy = |(name, _): (String, u64)| {
        let path = below.join(&name);
        std::fs::write(&path, platter.read_file(&name).unwrap()).unwrap();
        path
    };
    platter.list().into_iter().map(copy).collect()
}

#[test]
fn sound_files_are_found_wherever_they_are_and_say_what_is_in_them() {
    for compression in [Compression::Off, Compression::Lz4] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let files = write(dir.path(), compression);
        std::fs::write(dir.path().join("core-0/snapshots/x.snapshot-tmp"), b"").unwrap();
        let found = find(dir.path()).unwrap();
        assert_eq!((&found.files, found.half_written.len()), (&files, 1));
        for file in &files {
            let examined = examine(file, Depth::All).unwrap();
            assert_eq!((&examined.damages[..], examined.sessions), (&[][..], Some(1)));
            assert_eq!(examined.membership.unwrap().voters(), [NodeId(1), NodeId(2), NodeId(3)]);
            assert_eq!(find(file).unwrap().files, std::slice::from_ref(file));
        }
    }
}

#[test]
fn every_damage_is_named_with_its_place() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = write(dir.path(), Compression::Lz4).remove(0);
    let good = std::fs::read(&file).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        std::fs::write(&file, &bytes).unwrap();
        let examined = examine(&file, Depth::All).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was changed");
        assert!(examined.damages.iter().all(|damage| damage.file == file.display().to_string()));
        examined.damages.into_iter().map(|damage| (damage.offset, damage.kind)).collect::<Vec<_>>()
    };
    let two = damage(&|bytes| {
        bytes[4096 + 77] ^= 1;
        bytes[4096 * 4 + 4095] ^= 1;
    });
    let [(4096, DamageKind::ChunkCrc { chunk: 0, .. }), (16384, DamageKind::ChunkCrc { chunk: 3, .. })] =
        two[..]
    else {
        panic!("{two:?}");
    };
    let header = damage(&|bytes| bytes[30] ^= 1);
    assert!(matches!(header[..], [(0, DamageKind::HeaderCrc { .. })]), "{header:?}");
    let len = good.len() as u64;
    let cut = damage(&|bytes| bytes.truncate(good.len() - 4096));
    assert!(matches!(cut[..], [(at, DamageKind::Length { .. })] if at == len - 4096), "{cut:?}");
    let torn = damage(&|bytes| bytes.truncate(good.len() - 100));
    assert!(
        matches!(torn[..], [(_, DamageKind::Length { .. }), (_, DamageKind::ChunkLength { .. })]),
        "{torn:?}"
    );
    let longer = damage(&|bytes| bytes.push(0));
    assert!(matches!(longer[..], [(at, DamageKind::Length { .. })] if at == len), "{longer:?}");
    let empty = damage(&|bytes| bytes.clear());
    assert!(matches!(empty[..], [(0, DamageKind::Length { expected: 4096, found: 0 })]), "{empty:?}");
    for at in (0..good.len()).step_by(211) {
        assert_ne!(damage(&|bytes| bytes[at] ^= 0x40), [], "byte {at}");
    }
    assert_eq!(damage(&|_| ()), []);
    let renamed = dir.path().join(
        file.file_name().unwrap().to_str().unwrap().replace("-000000000000000a-", "-000000000000000b-"),
    );
    std::fs::copy(&file, &renamed).unwrap();
    assert!(matches!(examine(&renamed, Depth::Header).unwrap().damages[0].kind, DamageKind::Name));
    let elsewhere = dir.path().join("backup");
    std::fs::copy(&file, &elsewhere).unwrap();
    assert_eq!(examine(&elsewhere, Depth::All).unwrap().damages, []);
}
