//! `kill -9` while a process appends to a real disk, fifty times, some of them while it was stopped: nothing it was told to be
//! durable is lost. `LOGDRIVE_KILLS` kills it more often.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Streams, header, payload, small};
use logdrive_wal::{DurableWrites, Options, RingDisk, RingError, RingOptions, StreamId, Wal};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Tells the test binary, started again, that it is the one to be killed, and where.
const CHILD: &str = "LOGDRIVE_WAL_TEST_CHILD";
/// Set if the child makes its writes durable by linked syncs.
const LINKED: &str = "LOGDRIVE_WAL_TEST_LINKED";
const STREAMS: u64 = 8;
/// Entries that a stream keeps, at least, when it is compacted.
const KEEP: u64 = 24;

fn options() -> Options {
    Options { segment_bytes: 256 << 10, batch_bytes_max: 32 << 10, budget_bytes: 8 << 20, ..small() }
}

fn open(directory: &Path, durable_writes: DurableWrites) -> (Wal<RingDisk>, Streams) {
    let ring = RingOptions { lock_wait_ms: 10_000, durable_writes, ..RingOptions::default() };
    let mut found = Streams::default();
    let wal = Wal::open(RingDisk::open(directory, ring).unwrap(), options(), 0, &mut found).unwrap();
    (wal, found)
}

fn len(stream: u64, index: u64) -> usize {
    ((stream * 7919 + index * 104_729) % 3000) as usize
}

/// Appends for ever, several batches under way, and prints what is durable: one number per line, the last index of all streams.
fn child(directory: &Path) -> ! {
    let linked = std::env::var(LINKED).is_ok();
    let (mut wal, found) = open(directory, if linked { DurableWrites::Fsync } else { DurableWrites::Dsync });
    let mut index = found.entries.values().filter_map(|e| e.keys().last().copied()).max().unwrap_or(0);
    let slots: Vec<_> = (1..=STREAMS).map(|id| wal.stream(StreamId(id))).collect();
    let mut pending = VecDeque::new();
    let mut now = 0;
    loop {
        // Rounds that were cut in the middle are completed first.
        for (slot, stream) in slots.iter().zip(1..) {
            let mut last = wal.entries(*slot).map_or(0, |(_, last)| last);
            while last < index {
                last += 1;
                wal.append(*slot, header(last), &payload(stream, last, len(stream, last))).unwrap();
            }
            if index.is_multiple_of(16) && index > KEEP {
                wal.compact(*slot, index - KEEP).unwrap();
            }
        }
        pending.push_back((wal.last_ticket(), index));
        index += 1;
        now += 1_000_000;
        wal.submit(now);
        wal.poll(now);
        while wal.backlog_bytes() > 256 << 10 {
            now += 1_000_000;
            wal.submit(now);
            wal.wait(|| now);
        }
        while pending.front().is_some_and(|(ticket, _)| *ticket <= wal.durable()) {
            println!("durable {}", pending.pop_front().unwrap().1);
        }
    }
}

/// The process to be killed.
struct Writer {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    acknowledged: u64,
}

impl Writer {
    fn start(directory: &Path, linked: bool) -> Writer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "killed_fifty_times_while_appending_nothing_acknowledged_is_lost",
            "--nocapture",
        ]);
        command.env(CHILD, directory).stdout(Stdio::piped());
        if linked {
            command.env(LINKED, "1");
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Writer { process, lines, acknowledged: 0 }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn heard(&mut self, line: &str) -> bool {
        let Some(index) = line.strip_prefix("durable ") else { return false };
        self.acknowledged = self.acknowledged.max(index.parse().unwrap());
        true
    }

    /// Until it has told of so many rounds.
    fn progress(&mut self, rounds: u64) {
        let mut told = 0;
        while told < rounds {
            let line = self.lines.next().expect("the writer runs").unwrap();
            told += u64::from(self.heard(&line));
        }
    }

    fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Kills it and returns what it acknowledged. What was printed before it died counts, too; the last line may be torn.
    fn kill(mut self) -> u64 {
        self.process.kill().unwrap();
        let rest: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        for line in rest.iter().take(rest.len().saturating_sub(1)) {
            self.heard(line);
        }
        assert_eq!(self.process.wait().unwrap().signal(), Some(9));
        self.acknowledged
    }
}

fn check(found: &Streams, acknowledged: u64, round: u64) {
    for stream in 1..=STREAMS {
        let entries = &found.entries[&stream];
        let first = found.compacted.get(&stream).map_or(1, |index| index + 1);
        let last = first + entries.len() as u64 - 1;
        assert!(entries.keys().copied().eq(first..=last), "round {round}: stream {stream} has gaps");
        assert!(last >= acknowledged, "round {round}: stream {stream} ends at {last} of {acknowledged}");
        assert!(
            first == 1 || last + 1 >= first + KEEP,
            "round {round}: stream {stream} is {first} to {last}"
        );
        for (index, (tag, note, bytes)) in entries {
            let wanted = header(*index);
            assert!(
                (*tag, *note) == (wanted.tag, wanted.note)
                    && *bytes == payload(stream, *index, len(stream, *index)),
                "round {round}: entry {index} of stream {stream}"
            );
        }
    }
}

fn is_locked(directory: &Path) -> bool {
    let options =
        RingOptions { lock_wait_ms: 0, durable_writes: DurableWrites::Dsync, ..RingOptions::default() };
    matches!(RingDisk::open(directory, options), Err(RingError::Locked { .. }))
}

#[test]
fn killed_fifty_times_while_appending_nothing_acknowledged_is_lost() {
    if let Ok(directory) = std::env::var(CHILD) {
        child(Path::new(&directory));
    }
    let rounds = std::env::var("LOGDRIVE_KILLS").map_or(50, |text| text.parse().unwrap());
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut acknowledged = 0;
    for round in 0..rounds {
        let mut writer = Writer::start(directory.path(), round % 2 == 1);
        writer.progress(2 + round * 7 % 19);
        match round % 5 {
            // Stopped in the middle of its writes, which the kernel ends without it; then it goes on as if nothing were.
            1 => {
                writer.stop();
                assert!(
                    round > 1 || is_locked(directory.path()),
                    "a process that is stopped has the directory"
                );
                writer.go_on();
                writer.progress(3);
            }
            // Killed while it is stopped.
            3 => writer.stop(),
            _ => {}
        }
        let heard = writer.kill();
        assert!(heard >= acknowledged, "round {round}: {heard} after {acknowledged}");
        acknowledged = heard;
        let (wal, found) = open(directory.path(), DurableWrites::Dsync);
        check(&found, acknowledged, round);
        drop(wal);
    }
    assert!(acknowledged > rounds * 5, "{acknowledged}");
}
