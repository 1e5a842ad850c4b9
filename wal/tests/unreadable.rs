//! Places that the device cannot read, met while the log opens: damage there, named, and no reason to refuse the rest.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, batches, header, payload, settle, small};
use logdrive_wal::{
    DamageKind, Fault, FaultKind, OpKind, OpenError, SimDisk, SimOptions, SimPlatter, StreamId, Wal,
};

/// A closed log of so many entries, each in a batch of its own.
fn log(entries: u64, len: usize) -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, small(), 0, &mut Streams::default()).unwrap();
    let (mut model, mut now) = (Streams::default(), 0);
    for index in 1..=entries {
        let slot = wal.stream(StreamId(1));
        let bytes = payload(1, index, len);
        wal.append(slot, header(index), &bytes).unwrap();
        model.append(1, header(index), &bytes);
        settle(&mut wal, &mut now);
    }
    wal.close(now).unwrap();
    (platter, model)
}

fn open(platter: &SimPlatter) -> Result<(Wal<SimDisk>, Told), OpenError> {
    let mut told = Told::default();
    let wal = Wal::open(platter.open().unwrap(), small(), 0, &mut told)?;
    Ok((wal, told))
}

#[test]
fn a_block_that_cannot_be_read_is_damage_in_its_place_and_the_log_opens() {
    let (platter, model) = log(30, 5000);
    for (number, (name, offset, _)) in batches(&platter).into_iter().enumerate() {
        for (block, errno) in [(0, libc::EIO), (1, libc::EILSEQ)] {
            let copy = platter.copy(1);
            assert!(copy.damage(&name, offset + block * 4096, FaultKind::Errno(errno)));
            let (wal, told) = open(&copy).unwrap();
            let what = format!("batch {number}, block {block}");
            assert!(told.missing(&model, &what) >= 1, "{what}");
            let index = number as u64 + 1;
            assert!(told.damaged.contains(&(1, index, index)), "{what}: {:?}", told.damaged);
            let damage = &wal.recovered().damage[0];
            assert_eq!((&damage.segment, damage.offset), (&name, offset), "{what}");
            assert_eq!(damage.kind, DamageKind::Unreadable, "{what}");
        }
    }
    assert_eq!(open(&platter).unwrap().1.streams, model);
}

#[test]
fn a_segment_header_that_cannot_be_read_costs_nothing_and_is_named() {
    let (platter, model) = log(30, 3900);
    let name = batches(&platter)[12].0.clone();
    platter.damage(&name, 0, FaultKind::Errno(libc::EIO));
    let (wal, told) = open(&platter).unwrap();
    assert_eq!(told.streams, model);
    assert!(told.is_calm());
    assert_eq!(wal.recovered().damage[0].segment, name);
}

/// It was renamed for its next use, and the process ended before it wrote its header: block 0 is what the device cannot read.
#[test]
fn an_unused_segment_whose_first_block_cannot_be_read_keeps_no_log_from_opening() {
    let (platter, model) = log(30, 3900);
    let used: Vec<String> = batches(&platter).into_iter().map(|batch| batch.0).collect();
    let is_unused = |name: &String| name.ends_with(".seg") && !used.contains(name);
    let unused: Vec<String> = platter.list().into_iter().map(|file| file.0).filter(is_unused).collect();
    assert!(!unused.is_empty(), "a segment is prepared ahead");
    for name in unused {
        let copy = platter.copy(1);
        assert!(copy.damage(&name, 0, FaultKind::Errno(libc::EIO)));
        let (_, told) = open(&copy).unwrap();
        assert_eq!(told.streams, model);
        assert!(told.is_calm());
        // If nothing of it can be read, the device may be gone.
        let copy = platter.copy(1);
        let blocks = copy.list().into_iter().find(|file| file.0 == name).map_or(0, |file| file.1 / 4096);
        (0..blocks).for_each(|block| assert!(copy.damage(&name, block * 4096, FaultKind::Errno(libc::EIO))));
        let Err(OpenError::Disk(error)) = open(&copy).map(|_| ()) else { panic!("it opened") };
        assert_eq!(error.errno, libc::EIO);
    }
}

#[test]
fn a_read_that_fails_once_is_tried_again_and_leaves_no_trace() {
    let (platter, model) = log(30, 3000);
    for skip in 0..12 {
        let copy = platter.copy(1);
        copy.inject(Fault::at(OpKind::Read, skip, FaultKind::Errno(libc::EIO)));
        let (wal, told) = open(&copy).unwrap();
        assert_eq!(told.streams, model, "read {skip}");
        assert!(told.is_calm() && wal.recovered().damage.is_empty(), "read {skip}");
    }
}

#[test]
fn a_device_that_reads_nothing_is_no_empty_log() {
    let (platter, model) = log(30, 3000);
    platter.inject(Fault { times: u32::MAX, ..Fault::next(OpKind::Read, FaultKind::Errno(libc::EIO)) });
    let Err(OpenError::Disk(error)) = open(&platter).map(|_| ()) else { panic!("it opened") };
    assert_eq!((error.op, error.errno), ("read", libc::EIO));
    platter.clear_faults();
    assert_eq!(open(&platter).unwrap().1.streams, model);
    // Nor is one whose failure is no matter of the medium.
    platter.inject(Fault::at(OpKind::Read, 4, FaultKind::Errno(libc::ENOMEM)));
    let Err(OpenError::Disk(error)) = open(&platter).map(|_| ()) else { panic!("it opened") };
    assert_eq!(error.errno, libc::ENOMEM);
}
