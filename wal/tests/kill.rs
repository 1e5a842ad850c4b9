//! `kill -9` while a process appends to a real disk: nothing it was told to be durable is lost.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Streams, header, payload, small};
use logdrive_wal::{Options, RingDisk, RingOptions, StreamId, Wal};

/// Tells the test binary, started again, that it is the one to be killed.
const CHILD: &str = "LOGDRIVE_WAL_TEST_CHILD";
const STREAMS: u64 = 8;

fn options() -> Options {
    Options { segment_bytes: 256 << 10, batch_bytes_max: 32 << 10, ..small() }
}

fn open(directory: &Path) -> (Wal<RingDisk>, Streams) {
    let disk =
        RingDisk::open(directory, RingOptions { lock_wait_ms: 10_000, ..RingOptions::default() }).unwrap();
    let mut found = Streams::default();
    let wal = Wal::open(disk, options(), 0, &mut found).unwrap();
    (wal, found)
}

fn len(stream: u64, index: u64) -> usize {
    ((stream * 7919 + index * 104_729) % 3000) as usize
}

/// Appends for ever, several batches under way, and prints what is durable: one number per line, the last index of all streams.
fn child(directory: &Path) -> ! {
    let (mut wal, found) = open(directory);
    let mut index = found.entries.values().filter_map(|e| e.keys().last().copied()).max().unwrap_or(0);
    // Rounds that were cut in the middle are completed first.
    let slots: Vec<_> = (1..=STREAMS).map(|id| wal.stream(StreamId(id))).collect();
    let mut pending = std::collections::VecDeque::new();
    let mut now = 0;
    let complete = |slot: usize, wal: &Wal<RingDisk>, index: u64| {
        wal.entries(slots[slot]).is_some_and(|(_, l)| l >= index)
    };
    loop {
        for (number, slot) in slots.iter().enumerate() {
            let stream = number as u64 + 1;
            while !complete(number, &wal, index) {
                let next = wal.entries(*slot).map_or(1, |(_, last)| last + 1);
                wal.append(*slot, header(next), &payload(stream, next, len(stream, next))).unwrap();
            }
        }
        pending.push_back((wal.last_ticket(), index));
        index += 1;
        now += 1000;
        wal.submit(now);
        wal.poll(now);
        while pending.front().is_some_and(|(ticket, _)| *ticket <= wal.durable()) {
            println!("durable {}", pending.pop_front().unwrap().1);
        }
    }
}

#[test]
fn killed_while_appending_nothing_acknowledged_is_lost() {
    if let Ok(directory) = std::env::var(CHILD) {
        child(Path::new(&directory));
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut acknowledged = 0;
    for round in 0..5 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_while_appending_nothing_acknowledged_is_lost", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // Killed in the middle of it, after it made some progress.
        let mut progress = 0;
        while progress < 40 + round * 17 {
            let line = lines.next().unwrap().unwrap();
            if let Some(index) = line.strip_prefix("durable ") {
                acknowledged = acknowledged.max(index.parse::<u64>().unwrap());
                progress += 1;
            }
        }
        process.kill().unwrap();
        // What was printed before it died counts, too; the last line may be torn.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in rest.iter().take(rest.len().saturating_sub(1)) {
            if let Some(index) = line.strip_prefix("durable ") {
                acknowledged = acknowledged.max(index.parse::<u64>().unwrap());
            }
        }
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        let (wal, found) = open(directory.path());
        for stream in 1..=STREAMS {
            let entries = &found.entries[&stream];
            assert!(entries.keys().copied().eq(1..=entries.len() as u64), "stream {stream} has gaps");
            assert!(
                entries.len() as u64 >= acknowledged,
                "stream {stream}: {} of {acknowledged}",
                entries.len()
            );
            for (index, (_, _, bytes)) in entries {
                assert!(
                    *bytes == payload(stream, *index, len(stream, *index)),
                    "entry {index} of stream {stream}"
                );
            }
        }
        drop(wal);
    }
}
