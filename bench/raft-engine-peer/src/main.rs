//! `raft-engine`, the log of TiKV, under the load of `logdrive-bench wal`: single-entry appends to streams chosen at random, each
//! durable before it counts.
//!
//! Arguments: directory, bytes of log that are kept. It says `ready` and then answers each line of standard input
//! (`threads in_flight payload streams compactions_per_append warmup_seconds seconds`) by a line
//! (`appends_per_second p50_us p99_us`), until the input ends.

use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone)]
struct Raft;

impl MessageExt for Raft {
    type Entry = Entry;
    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

struct Load {
    threads: u64,
    in_flight: u64,
    payload: usize,
    streams: u64,
    compactions_per_append: f64,
    warmup: f64,
    seconds: f64,
}

fn parse(line: &str) -> Result<Load, Failure> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().ok_or("seven numbers are needed");
    Ok(Load {
        threads: next()?.parse()?,
        in_flight: next()?.parse()?,
        payload: next()?.parse()?,
        streams: next()?.parse()?,
        compactions_per_append: next()?.parse()?,
        warmup: next()?.parse()?,
        seconds: next()?.parse()?,
    })
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(bytes)) = (arguments.next(), arguments.next()) else {
        return Err("usage: DIRECTORY BYTES".into());
    };
    let bytes = ReadableSize(bytes.parse()?);
    // As a user would set it up who wants it fast: no compression (the payloads cannot be compressed), files prepared
    // beforehand and recycled.
    let config = Config {
        dir: directory,
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize::mb(64),
        purge_threshold: bytes,
        enable_log_recycle: true,
        prefill_for_recycle: true,
        prefill_limit: Some(bytes),
        ..Config::default()
    };
    let engine = Arc::new(Engine::open(config)?);
    let lasts: Arc<Mutex<Vec<u64>>> = Arc::default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let load = parse(&line?)?;
        let (rate, latencies) = run(&engine, &lasts, &load)?;
        let at = |quantile: f64| {
            let place = (latencies.len() as f64 * quantile) as usize;
            latencies.get(place.min(latencies.len().saturating_sub(1))).map_or(0.0, |l| l.as_secs_f64() * 1e6)
        };
        writeln!(out, "{rate} {} {}", at(0.5), at(0.99))?;
        out.flush()?;
    }
    Ok(())
}

/// Appends per second, and the latencies of the batches in the measured time, sorted.
fn run(
    engine: &Arc<Engine>,
    lasts: &Arc<Mutex<Vec<u64>>>,
    load: &Load,
) -> Result<(f64, Vec<Duration>), Failure> {
    let mut all = lasts.lock().map_err(|_| "a thread panicked")?;
    let streams = load.streams as usize;
    // What another load left is given up, so that every load begins with an empty log.
    let mut batch = LogBatch::default();
    for (id, last) in all.iter().enumerate().filter(|(_, last)| **last > 0) {
        batch.add_command(id as u64 + 1, Command::Compact { index: last + 1 });
    }
    engine.write(&mut batch, true)?;
    engine.purge_expired_files()?;
    let threads = load.threads.min(load.in_flight).max(1);
    let stop = AtomicBool::new(false);
    let begin = Instant::now() + Duration::from_secs_f64(load.warmup);
    let end = begin + Duration::from_secs_f64(load.seconds);
    // A stream belongs to one writer, as entries of one stream must come in order. Where there are more writers than streams,
    // the others get streams of their own: as many are written as there are writers.
    let streams = streams.max(threads as usize);
    let reach = all.len().max(streams);
    all.resize(reach, 0);
    let mut parts: Vec<Vec<(u64, u64)>> = vec![Vec::new(); threads as usize];
    for (id, last) in all.iter().enumerate().take(streams) {
        parts[id % threads as usize].push((id as u64 + 1, *last));
    }
    let (mut done, mut latencies) = (0, Vec::new());
    std::thread::scope(|scope| -> Result<(), Failure> {
        let purge = scope.spawn(|| -> Result<(), Failure> {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                engine.purge_expired_files()?;
            }
            Ok(())
        });
        let writers: Vec<_> = parts
            .iter_mut()
            .enumerate()
            .map(|(number, part)| {
                scope.spawn(move || write(engine, part, load, threads, number as u64, begin, end))
            })
            .collect();
        let mut failed = None;
        for writer in writers {
            match writer.join().map_err(|_| "a writer panicked")? {
                Ok((count, mut times)) => {
                    done += count;
                    latencies.append(&mut times);
                }
                Err(error) => failed = Some(error),
            }
        }
        stop.store(true, Ordering::Relaxed);
        purge.join().map_err(|_| "the purge panicked")??;
        failed.map_or(Ok(()), Err)
    })?;
    for (id, last) in parts.into_iter().flatten() {
        all[id as usize - 1] = last;
    }
    latencies.sort();
    Ok((done as f64 / load.seconds, latencies))
}

/// One thread: batches of its share of the appends in flight, each durable before the next. Returns the appends of the
/// measured time and the latencies of its batches.
fn write(
    engine: &Engine,
    streams: &mut [(u64, u64)],
    load: &Load,
    threads: u64,
    number: u64,
    begin: Instant,
    end: Instant,
) -> Result<(u64, Vec<Duration>), Failure> {
    let share = load.in_flight / threads + u64::from(number < load.in_flight % threads);
    let mut random = 0x9E37_79B9_7F4A_7C15u64 ^ (number + 1);
    let mut next_random = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let data: Vec<u8> = (0..load.payload).map(|_| next_random() as u8).collect();
    let mut entry = Entry { term: 1, data: data.into(), ..Entry::default() };
    let mut batch = LogBatch::with_capacity(share as usize);
    let (mut done, mut latencies) = (0, Vec::with_capacity(1 << 16));
    let (mut compactions_due, mut compact_next) = (0.0, 0);
    let mut now = Instant::now();
    while now < end {
        let started = now;
        for _ in 0..share {
            let chosen = (next_random() % streams.len() as u64) as usize;
            let (id, last) = &mut streams[chosen];
            *last += 1;
            entry.index = *last;
            batch.add_entries::<Raft>(*id, std::slice::from_ref(&entry))?;
        }
        engine.write(&mut batch, true)?;
        now = Instant::now();
        if started >= begin && now < end {
            done += share;
            latencies.push(now - started);
        }
        compactions_due += load.compactions_per_append * share as f64;
        while compactions_due >= 1.0 {
            compactions_due -= 1.0;
            let (id, last) = streams[compact_next % streams.len()];
            compact_next += 1;
            if last > 1 {
                batch.add_command(id, Command::Compact { index: last });
            }
        }
    }
    Ok((done, latencies))
}
