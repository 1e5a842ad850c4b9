//! The fuzz targets on a stable compiler: the corpus, and mutations of it from a seed. `LOGDRIVE_FUZZ_SECONDS` runs them for longer,
//! `LOGDRIVE_SEED` differently, `LOGDRIVE_WRITE_CORPUS=1` writes the seeds of the corpus anew.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Streams, header, payload, settle, small};
use logdrive_wal::{SimDisk, SimOptions, StreamId, Wal, fuzzing};

/// Mutations of each target unless a time is given.
const ROUNDS: u64 = 3000;
/// Inputs are not longer.
const INPUT_MAX: usize = 16 << 10;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 31
    }
    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound.max(1)
    }
}

const NUMBERS: [u64; 8] = [0, 1, 63, 4095, 1 << 28, u32::MAX as u64, i64::MAX as u64, u64::MAX];

fn mutate(random: &mut Random, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + random.below(6) {
        let len = input.len().max(1);
        input.resize(len, 0);
        let at = random.below(len);
        match random.below(8) {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.next() as u8,
            2 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let bytes = [1, 2, 4, 8][random.below(4)].min(len - at);
                input[at..at + bytes].copy_from_slice(&number[..bytes]);
            }
            3 => input.truncate(at),
            4 => {
                let from = random.below(len);
                let part = input[from..(from + random.below(64)).min(len)].to_vec();
                input.splice(at..at, part);
            }
            5 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let part = &other[from..(from + random.below(256)).min(other.len())];
                let end = (at + part.len()).min(len);
                input[at..end].copy_from_slice(&part[..end - at]);
            }
            6 => drop(input.drain(at..(at + random.below(32)).min(len))),
            _ => input[0] ^= 1,
        }
    }
    input.truncate(INPUT_MAX);
}

/// The corpus, then mutations; returns how many inputs were run.
#[expect(clippy::disallowed_methods, reason = "a run of so many seconds needs a clock")]
fn fuzz(target: &str, run: fn(&[u8])) -> u64 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("LOGDRIVE_SEED").unwrap_or(1);
    let time = number("LOGDRIVE_FUZZ_SECONDS").map(Duration::from_secs);
    let begin = std::time::Instant::now();
    let seeds = inputs(target);
    assert!(seeds.len() >= 5, "{} seeds of {target}", seeds.len());
    seeds.iter().for_each(|input| run(input));
    let mut random = Random(seed);
    let mut executed = seeds.len() as u64;
    let go_on = |n: u64| time.map_or(n < ROUNDS, |time| !n.is_multiple_of(64) || begin.elapsed() < time);
    while go_on(executed) {
        let mut input = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut input, &seeds);
        if let Err(panic) = std::panic::catch_unwind(|| run(&input)) {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
            std::fs::write(&path, &input).unwrap();
            eprintln!("seed {seed}, execution {executed}: the input is in {}", path.display());
            std::panic::resume_unwind(panic);
        }
        executed += 1;
    }
    println!("{target}: {executed} executions from seed {seed} in {:?}", begin.elapsed());
    executed
}

#[test]
fn blocks_of_any_bytes_are_parsed_or_refused() {
    write_corpus();
    assert!(fuzz("block", fuzzing::block) >= ROUNDS);
}

#[test]
fn records_of_any_bytes_are_parsed_or_refused() {
    write_corpus();
    assert!(fuzz("record", fuzzing::record) >= ROUNDS);
}

#[test]
fn a_log_with_any_edits_opens_or_is_refused_and_gives_back_what_was_written() {
    write_corpus();
    assert!(fuzz("log", fuzzing::log) >= ROUNDS);
}

/// The seeds: blocks and records of a log with everything in it, and a few lists of edits.
fn write_corpus() {
    if std::env::var("LOGDRIVE_WRITE_CORPUS").is_err() {
        return;
    }
    let write = |target: &str, name: String, bytes: &[u8]| {
        std::fs::create_dir_all(corpus(target)).unwrap();
        std::fs::write(corpus(target).join(name), bytes).unwrap();
    };
    let disk = SimDisk::new(SimOptions::default());
    let platter = disk.platter();
    platter.calm();
    let mut wal = Wal::open(disk, small(), 1, &mut Streams::default()).unwrap();
    let mut now = 1;
    for index in 1..=12u64 {
        let slot = wal.stream(StreamId(index << (index * 5 % 50)));
        for next in 1..=index % 4 + 1 {
            wal.append(slot, header(next), &payload(index, next, (index * 11) as usize)).unwrap();
        }
        wal.put_state(slot, &payload(index, 1, index as usize)).unwrap();
        if index % 3 == 0 {
            wal.compact(slot, 1).unwrap();
        }
        settle(&mut wal, &mut now);
    }
    drop(wal);
    let (name, _) = platter.list()[0].clone();
    let bytes = platter.read_file(&name).unwrap();
    for (number, block) in bytes.chunks(4096).take_while(|block| block.iter().any(|b| *b != 0)).enumerate() {
        let used = block.iter().rposition(|b| *b != 0).unwrap() + 8;
        let block = &block[..used.min(4096)];
        write("block", format!("seed-{number:02}"), &[&[number as u8 & 1], block].concat());
        if number > 0 {
            let position = u64::from_le_bytes(block[16..24].try_into().unwrap()) + 64;
            let record = &block[64..block.len().min(512)];
            let input = [&[number as u8 & 1], position.to_le_bytes().as_slice(), record].concat();
            write("record", format!("seed-{number:02}"), &input);
        }
    }
    for number in 0..8u8 {
        let edits = (0..=number).flat_map(|n| [n, n.wrapping_mul(37), n * 7, n, 1 << (n % 8)]);
        write(
            "log",
            format!("seed-{number:02}"),
            &[number & 1].into_iter().chain(edits).collect::<Vec<u8>>(),
        );
    }
}
