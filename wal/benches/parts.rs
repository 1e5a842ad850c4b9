//! The parts of the log that cost CPU, one by one: `cargo bench -p logdrive-wal`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logdrive_wal::parts::{Batches, Positions};
use logdrive_wal::{EntryHeader, Options, Recovery, SimDisk, SimOptions, SimPlatter, StreamId, Wal};

const STREAMS: u64 = 1024;

fn entry(index: u64) -> EntryHeader {
    EntryHeader { index, tag: 5, note: index * 2 }
}

/// One entry per stream and batch, and the streams' own ranges.
fn index(c: &mut Criterion) {
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(STREAMS));
    for (name, uneven) in [("push, scattered", true), ("push, evenly spaced", false)] {
        let mut positions = Positions::new(STREAMS);
        let mut number = 0u64;
        group.bench_function(name, |b| {
            b.iter(|| {
                for stream in 0..STREAMS as usize {
                    number += 1;
                    let extra =
                        if uneven { 8 * (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) } else { 0 };
                    positions.push(stream, 152 + extra);
                }
                if number.is_multiple_of(STREAMS * 512) {
                    (0..STREAMS as usize).for_each(|stream| positions.compact(stream, 256));
                }
            });
        });
    }
    let mut positions = Positions::new(STREAMS);
    for number in 0..STREAMS * 4096 {
        positions.push((number % STREAMS) as usize, 152 + 8 * (number.wrapping_mul(31) % 13));
    }
    group.throughput(Throughput::Elements(1));
    let mut number = 0u64;
    group.bench_function("find", |b| {
        b.iter(|| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            black_box(positions.find((number >> 40) as usize % STREAMS as usize, (number >> 50) % 4096 + 1))
        });
    });
    group.finish();
}

/// Copying records into a batch, checksums included.
fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for payload in [16usize, 128, 1024, 16384] {
        let bytes = vec![7u8; payload];
        let mut batches = Batches::new(256 << 10);
        let mut index = 0;
        group.throughput(Throughput::Bytes(payload as u64));
        group.bench_function(BenchmarkId::new("put", payload), |b| {
            b.iter(|| {
                index += 1;
                black_box(batches.put(StreamId(index % STREAMS), entry(index), &bytes))
            });
        });
    }
    group.finish();
}

/// Checking a whole batch, as recovery does, and one record, as a read does.
fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc");
    for payload in [16usize, 128, 1024, 16384] {
        let bytes = vec![7u8; payload];
        let mut batches = Batches::new(256 << 10);
        let mut index = 1;
        while batches.bytes() + (payload as u64) + 128 < 256 << 10 {
            batches.put(StreamId(index % STREAMS), entry(index), &bytes);
            index += 1;
        }
        let sealed = batches.seal();
        assert!(batches.check(&sealed) && batches.check_first());
        group.throughput(Throughput::Bytes(batches.bytes()));
        group.bench_function(BenchmarkId::new("batch of records of", payload), |b| {
            b.iter(|| black_box(batches.check(&sealed)));
        });
        group.throughput(Throughput::Bytes(payload as u64));
        group.bench_function(BenchmarkId::new("one record of", payload), |b| {
            b.iter(|| black_box(batches.check_first()));
        });
    }
    group.finish();
}

struct Nothing;

impl Recovery for Nothing {
    fn entry(&mut self, _: StreamId, _: EntryHeader, payload: &[u8]) {
        black_box(payload);
    }
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
}

fn options() -> Options {
    Options {
        segment_bytes: 4 << 20,
        budget_bytes: 128 << 20,
        payload_bytes_max: 64 << 10,
        ..Options::default()
    }
}

/// A log of about 32 MiB on a simulated disk.
fn written(payload: usize) -> (SimPlatter, u64) {
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    let mut wal = Wal::open(disk, options(), 0, &mut Nothing).expect("a new log opens");
    let slots: Vec<_> = (0..STREAMS).map(|id| wal.stream(StreamId(id))).collect();
    let (bytes, mut now) = (vec![7u8; payload], 0);
    let rounds = (32 << 20) / (STREAMS * (payload as u64 + 24));
    for index in 1..=rounds {
        for slot in &slots {
            wal.append(*slot, entry(index), &bytes).expect("there is room");
        }
        while wal.durable() < wal.last_ticket() {
            now += 1000;
            wal.submit(now);
            wal.poll(now);
        }
    }
    let end = wal.durable_end();
    wal.close(now).expect("the log closes");
    (platter, end)
}

/// Opening a log: reading (from memory here), checking, indexing.
fn recovery(c: &mut Criterion) {
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10);
    for payload in [128usize, 4096] {
        let (platter, bytes) = written(payload);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(BenchmarkId::new("scan of records of", payload), |b| {
            b.iter_batched(
                || platter.copy(1).open().expect("a copy opens"),
                |disk| Wal::open(disk, options(), 1, &mut Nothing).expect("the log opens"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(parts, index, batch, checksums, recovery);
criterion_main!(parts);
