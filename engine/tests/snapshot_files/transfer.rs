//! From one node to another: chunk by chunk, in any order, with breaks, and never a mixture.

use logdrive::snapshot::{
    BeginError, Compression, DamageKind, ReceiveError, Received, SnapshotFileSettings, SnapshotHeader,
    SnapshotMeta,
};
use logdrive_shard::{GroupId, LogIndex};

use crate::common::{Bench, meta, settings, sim, state};

#[test]
fn a_copy_is_the_same_file_but_for_the_life_and_can_be_sent_on() {
    for compression in [Compression::Off, Compression::Lz4] {
        let mut from = Bench::open(sim(1), SnapshotFileSettings { compression, ..settings() });
        let id = from.write(meta(5, 70), &state(5, 70, 60_000)).unwrap();
        let (header, chunks) = from.chunks(id);
        // The receiver's settings are others: the file says how it is made.
        let mut to = Bench::open(sim(2), SnapshotFileSettings { chunk_bytes: 8192, ..settings() });
        let write = to.store.begin_receive(&header, 3).unwrap();
        for (number, chunk) in (0..).zip(&chunks) {
            assert_eq!(to.give(write, id, number, chunk).unwrap(), Received::Taken);
        }
        assert_eq!(to.wait(write).unwrap(), id);
        let copy = to.store.newest(GroupId(5), 3).unwrap().unwrap().clone();
        assert_eq!(SnapshotHeader { life: 0, ..copy }, *from.store.header(id).unwrap());
        assert_eq!(to.read(id).unwrap(), from.read(id).unwrap());
        let (_, again) = to.chunks(id);
        assert_eq!(again, chunks);
        // Received twice: the second time is refused, by name.
        assert_eq!(to.store.begin_receive(&header, 3).unwrap_err(), BeginError::Here(id));
    }
}

#[test]
fn chunks_come_in_any_order_twice_and_after_a_reconnect_where_it_stopped() {
    let mut from = Bench::open(sim(1), settings());
    let id = from.write(meta(1, 10), &state(1, 10, 40_000)).unwrap();
    let (header, chunks) = from.chunks(id);
    let mut to = Bench::open(sim(2), settings());
    let write = to.store.begin_receive(&header, 0).unwrap();
    for number in [1, 0, 4] {
        assert_eq!(to.give(write, id, number, &chunks[number as usize]).unwrap(), Received::Taken);
    }
    to.poll();
    // The connection is gone; another one begins with the same header.
    assert_eq!(to.store.begin_receive(&header, 0).unwrap(), write);
    let progress = to.store.progress(write).unwrap();
    assert_eq!((progress.next, progress.here, progress.chunks), (2, 3, chunks.len() as u64));
    assert_eq!(to.store.receptions_of(GroupId(1)).collect::<Vec<_>>(), [(write, progress)]);
    for (number, chunk) in chunks.iter().enumerate().rev() {
        let number = number as u64;
        let wanted = if [0, 1, 4].contains(&number) { Received::Duplicate } else { Received::Taken };
        assert_eq!(to.give(write, id, number, chunk).unwrap(), wanted, "{number}");
    }
    assert_eq!(to.wait(write).unwrap(), id);
    assert_eq!(to.store.receive(write, id, 0, &chunks[0]), Err(ReceiveError::Unknown));
    assert_eq!(to.read(id).unwrap().1, state(1, 10, 40_000));
}

/// FIELD 21: two snapshots of one group in quick succession, their chunks interleaved.
#[test]
fn chunks_of_two_snapshots_never_become_one() {
    let mut from = Bench::open(sim(1), SnapshotFileSettings { snapshots_kept: 3, ..settings() });
    // The second pair has the same index and term: two members took a snapshot of the same state, or one took it twice.
    for (first, second) in [(10, 11), (20, 20)] {
        let a = from.write(meta(1, first), &state(1, first, 40_000)).unwrap();
        let b = from.write(meta(1, second), &state(1, second, 40_000)).unwrap();
        assert_ne!(a, b);
        let ((header_a, chunks_a), (header_b, chunks_b)) = (from.chunks(a), from.chunks(b));
        let mut to = Bench::open(sim(2), settings());
        let (write_a, write_b) =
            (to.store.begin_receive(&header_a, 0).unwrap(), to.store.begin_receive(&header_b, 0).unwrap());
        assert_ne!(write_a, write_b);
        for number in 0..chunks_a.len() {
            let (chunk_a, chunk_b) = (&chunks_a[number], &chunks_b[number]);
            let n = number as u64;
            // Under the other's name, and under a false one.
            let refused = to.store.receive(write_a, b, n, chunk_b).unwrap_err();
            assert_eq!(refused, ReceiveError::OtherSnapshot { expected: a, found: b });
            let refused = to.store.receive(write_a, a, n, chunk_b).unwrap_err();
            let kind = DamageKind::ChunkOfOther { chunk: n, expected: a.0, found: b.0 };
            assert_eq!(refused, ReceiveError::Damaged(kind));
            // In another's place.
            let other = (number + 1) % (chunks_a.len() - 1);
            let refused = to.store.receive(write_a, a, other as u64, chunk_a);
            assert!(refused.is_err() || refused == Ok(Received::Duplicate), "{refused:?}");
            assert_eq!(to.give(write_a, a, n, chunk_a).unwrap(), Received::Taken);
            assert_eq!(to.give(write_b, b, n, chunk_b).unwrap(), Received::Taken);
        }
        assert_eq!((to.wait(write_a).unwrap(), to.wait(write_b).unwrap()), (a, b));
        assert_eq!(to.read(a).unwrap().1, state(1, first, 40_000));
        assert_eq!(to.read(b).unwrap().1, state(1, second, 40_000));
        assert!(to.store.stats().chunks_refused >= 2 * chunks_a.len() as u64);
    }
}

#[test]
fn no_byte_of_a_chunk_or_header_may_be_another_one_on_the_way() {
    let mut from = Bench::open(sim(1), settings());
    let id = from.write(meta(1, 10), &state(1, 10, 5_000)).unwrap();
    let (header, chunks) = from.chunks(id);
    let mut to = Bench::open(sim(2), settings());
    for at in 0..header.len() {
        let mut bad = header.clone();
        bad[at] ^= 0x10;
        let error = to.store.begin_receive(&bad, 0).unwrap_err();
        assert!(matches!(error, BeginError::Header(_)), "byte {at}: {error}");
    }
    assert!(to.store.begin_receive(&header[1..], 0).is_err());
    let write = to.store.begin_receive(&header, 0).unwrap();
    for (number, chunk) in (0..).zip(&chunks) {
        for at in 0..chunk.len() {
            let mut bad = chunk.clone();
            bad[at] ^= 0x10;
            let error = to.store.receive(write, id, number, &bad).unwrap_err();
            assert!(matches!(error, ReceiveError::Damaged(_)), "byte {at}: {error}");
        }
        assert!(to.store.receive(write, id, number, &chunk[..chunk.len() - 1]).is_err());
        assert_eq!(to.give(write, id, number, chunk).unwrap(), Received::Taken);
    }
    let (number, chunks) = (chunks.len() as u64, chunks.len() as u64);
    assert_eq!(to.store.receive(write, id, number, &[]), Err(ReceiveError::NoSuchChunk { number, chunks }));
    to.wait(write).unwrap();
}

/// All chunks are good and of this snapshot, and the header is not theirs: only the check of the whole can see it.
#[test]
fn a_whole_that_is_not_what_its_header_says_is_not_used() {
    let mut from = Bench::open(sim(1), settings());
    let id = from.write(meta(1, 10), &state(1, 10, 20_000)).unwrap();
    let (header, chunks) = from.chunks(id);
    let good = SnapshotHeader::decode(&header).unwrap();
    let others = [
        SnapshotHeader { content_crc: good.content_crc ^ 1, ..good.clone() },
        SnapshotHeader { chunks_crc: good.chunks_crc ^ 1, ..good },
    ];
    for other in others {
        let mut to = Bench::open(sim(2), settings());
        to.write(meta(1, 5), &state(1, 5, 3000)).unwrap();
        let write = to.store.begin_receive(&other.encode(), 0).unwrap();
        for (number, chunk) in (0..).zip(&chunks) {
            to.give(write, id, number, chunk).unwrap();
        }
        let failure = to.wait(write).unwrap_err();
        assert!(failure.to_string().contains("the whole is damaged"), "{failure}");
        assert_eq!(to.newest_index(1), Some(5));
        assert_eq!(to.store.disk().platter().list().len(), 1);
    }
}

#[test]
fn a_snapshot_is_sent_to_its_end_while_newer_ones_replace_it() {
    let mut from = Bench::open(sim(1), SnapshotFileSettings { snapshots_kept: 0, ..settings() });
    let id = from.write(meta(1, 10), &state(1, 10, 40_000)).unwrap();
    let header = from.store.header_of(id).unwrap();
    let chunks = from.store.header(id).unwrap().chunks();
    let read = from.store.begin_send(id).unwrap();
    let first = from.chunk(read, 0);
    from.write(meta(1, 20), &state(1, 20, 40_000)).unwrap();
    let mut to = Bench::open(sim(2), settings());
    let write = to.store.begin_receive(&header, 0).unwrap();
    to.give(write, id, 0, &first).unwrap();
    for number in 1..chunks {
        let chunk = from.chunk(read, number);
        to.give(write, id, number, &chunk).unwrap();
    }
    to.wait(write).unwrap();
    assert_eq!(to.read(id).unwrap().1, state(1, 10, 40_000));
    assert_eq!(from.store.disk().platter().list().len(), 2, "it stays while it is read");
    from.store.end_read(read);
    from.settle();
    assert_eq!(from.store.disk().platter().list().len(), 1);
    assert_eq!(from.newest_index(1), Some(20));
}

#[test]
fn what_is_received_counts_against_its_own_limit_and_the_space_there_is() {
    let mut from = Bench::open(sim(1), settings());
    let a = from.write(meta(1, 10), &state(1, 10, 400_000)).unwrap();
    let b = from.write(SnapshotMeta { index: LogIndex(11), ..meta(2, 10) }, &state(2, 11, 400_000)).unwrap();
    let headers = [from.store.header_of(a).unwrap(), from.store.header_of(b).unwrap()];
    let mut to = Bench::open(sim(2), SnapshotFileSettings { receives_max: 1, ..settings() });
    to.store.disk().platter().set_capacity(300_000);
    let error = to.store.begin_receive(&headers[0], 0).unwrap_err();
    assert!(matches!(error, BeginError::NoSpace { needed: 400_000.., free: 300_000, .. }), "{error}");
    to.store.disk().platter().set_capacity(3_000_000);
    to.store.begin_receive(&headers[0], 0).unwrap();
    let error = to.store.begin_receive(&headers[1], 0).unwrap_err();
    assert!(matches!(error, BeginError::TooMany { setting: "receives_max", .. }), "{error}");
}

/// Whoever received it may find that it is of no use, or cannot be loaded: then the older one must still be there, for the log begins
/// behind it.
#[test]
fn what_was_received_makes_older_files_superfluous_only_when_something_rests_on_it() {
    let mut from = Bench::open(sim(1), settings());
    let id = from.write(meta(1, 20), &state(1, 20, 40_000)).unwrap();
    let (header, chunks) = from.chunks(id);
    let mut to = Bench::open(sim(2), SnapshotFileSettings { snapshots_kept: 0, ..settings() });
    let receive = |to: &mut Bench<_>| {
        let write = to.store.begin_receive(&header, 0).unwrap();
        for (number, chunk) in (0..).zip(&chunks) {
            to.give(write, id, number, chunk).unwrap();
        }
        assert_eq!(to.wait(write).unwrap(), id);
        to.settle();
    };
    let indexes = |to: &Bench<_>| to.store.snapshots().map(|header| header.index.0).collect::<Vec<_>>();
    to.write(meta(1, 7), &state(1, 7, 10_000)).unwrap();
    receive(&mut to);
    assert_eq!(to.read(id).unwrap().1, state(1, 20, 40_000));
    to.settle();
    assert_eq!(indexes(&to), [7, 20], "also after it was read");
    assert!(to.store.remove(id));
    to.settle();
    assert_eq!(indexes(&to), [7]);
    receive(&mut to);
    to.store.accept(id);
    to.settle();
    assert_eq!(indexes(&to), [20]);
    // One that nothing ever rested on goes when a newer one is written here.
    to.store.remove(id);
    to.write(meta(1, 7), &state(1, 7, 10_000)).unwrap();
    receive(&mut to);
    to.write(meta(1, 30), &state(1, 30, 10_000)).unwrap();
    to.settle();
    assert_eq!(indexes(&to), [30]);
}
