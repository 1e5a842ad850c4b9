//! Damage in logs whose streams were rewritten: in copies, in what they are copies of, in the begin and end of a rewrite, in
//! trim records and headers. Nothing is wrong, nothing is missing in silence, and the log opens (FIELD 24, 26).
#![allow(clippy::unwrap_used)]

mod common;

use common::{Streams, Told, batches, header, payload, settle};
use logdrive_wal::{AppendError, Options, SimDisk, SimOptions, SimPlatter, StreamId, Wal};

/// The stream that writes on and is compacted.
const HOT: u64 = 100;
const COLD_STREAMS: u64 = 6;

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        batch_bytes_max: 8 << 10,
        payload_bytes_max: 6 << 10,
        budget_bytes: 8 * (64 << 10),
        reclaim_patience_ms: 100,
        ..Options::default()
    }
}

fn append(
    wal: &mut Wal<SimDisk>,
    model: &mut Streams,
    stream: u64,
    index: u64,
    len: usize,
) -> Result<(), AppendError> {
    let slot = wal.stream(StreamId(stream));
    let bytes = payload(stream, index, len);
    wal.append(slot, header(index), &bytes)?;
    model.append(stream, header(index), &bytes);
    Ok(())
}

/// A log whose cold streams were rewritten `rewrites` times in all and more, as a power loss leaves it, and what it holds.
fn rewritten(rewrites: u64) -> (SimPlatter, Streams) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let mut wal = Wal::open(disk, options(), 1, &mut Streams::default()).unwrap();
    let (mut model, mut now) = (Streams::default(), 1);
    for index in 1..=4 {
        for stream in 1..=COLD_STREAMS {
            append(&mut wal, &mut model, stream, index, 400).unwrap();
        }
        settle(&mut wal, &mut now);
    }
    let (hot, cold) = (wal.stream(StreamId(HOT)), wal.stream(StreamId(1)));
    let mut index = 0;
    while wal.stats().rewrites < rewrites {
        index += 1;
        assert!(index < 5000, "{:?}", wal.stats());
        while append(&mut wal, &mut model, HOT, index, 2500).is_err() {
            now += 20_000_000;
            wal.submit(now);
            wal.poll(now);
        }
        if index % 8 == 0 {
            wal.compact(hot, index - 4).unwrap();
            model.compact(HOT, index - 4);
        }
        if index % 40 == 0 {
            // Cold, and not dead.
            let (_, last) = wal.entries(cold).unwrap();
            let _ = append(&mut wal, &mut model, 1, last + 1, 400);
        }
        for _ in 0..4 {
            now += 5_000_000;
            wal.submit(now);
            wal.poll(now);
        }
    }
    settle(&mut wal, &mut now);
    now += 3_000_000;
    wal.submit(now);
    wal.poll(now);
    drop(wal.into_disk().power_loss());
    (platter, model)
}

/// Opens a damaged copy: it opens, and nothing is wrong or missing in silence. Again from what that opening left. Returns how
/// many entries are missing, which are no more the second time after a `single` damage.
fn check(copy: &SimPlatter, model: &Streams, single: bool, what: &str) -> usize {
    let mut told = Told::default();
    let opened = Wal::open(copy.open().unwrap(), options(), 1, &mut told);
    let mut wal = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let missing = told.missing(model, what);
    let mut now = 2;
    for _ in 0..20 {
        settle(&mut wal, &mut now);
        now += 20_000_000;
    }
    drop(wal.into_disk().power_loss());
    let mut again = Told::default();
    drop(Wal::open(copy.open().unwrap(), options(), 1, &mut again).unwrap());
    let later = again.missing(model, &format!("{what}, opened again"));
    assert!(
        later <= missing || !single,
        "{what}: {later} entries are missing later, {missing} were at first"
    );
    missing
}

#[test]
fn field_26_each_damaged_batch_of_a_log_with_rewrites_is_named_or_harmless() {
    for rewrites in [3, COLD_STREAMS, 2 * COLD_STREAMS + 2] {
        let (platter, model) = rewritten(rewrites);
        assert_eq!(check(&platter.copy(1), &model, true, "sound"), 0);
        let places = batches(&platter);
        for (number, (name, offset, len)) in places.iter().enumerate() {
            for at in [0, 41, 100, u64::from(*len) / 2, u64::from(*len) - 9] {
                let copy = platter.copy(number as u64);
                copy.flip(name, offset + at, 0x10);
                let what = format!("{rewrites} rewrites, batch {number} of {}, byte {at}", places.len());
                let missing = check(&copy, &model, true, &what);
                assert!(missing <= 40, "{what}: {missing} entries are missing");
            }
        }
    }
}

#[test]
fn field_26_two_damaged_batches_and_damaged_headers_of_a_log_with_rewrites_are_named_or_harmless() {
    let (platter, model) = rewritten(COLD_STREAMS + 3);
    let places = batches(&platter);
    for pair in places.windows(2) {
        let copy = platter.copy(7);
        for (name, offset, _) in pair {
            (0..8).for_each(|sector| {
                copy.flip(name, offset + sector * 512 + 70, 1);
            });
            copy.flip(name, offset + 8, 0x80);
        }
        check(&copy, &model, false, &format!("batches at {:?} and behind", (&pair[0].0, pair[0].1)));
    }
    for (name, _) in platter.list().iter().filter(|(name, _)| places.iter().any(|place| place.0 == *name)) {
        let copy = platter.copy(8);
        copy.flip(name, 82, 1);
        check(&copy, &model, true, &format!("the header of {name}"));
    }
}
