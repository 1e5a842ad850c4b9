//! What snapshots of the key-value machine cost: `cargo bench -p logdrive --bench kv_snapshot`.
//!
//! `LOGDRIVE_KV_KEYS` names the numbers of keys, such as `10000,10000000`. Keys have 16 bytes and values 128. Times are of single calls:
//! a SET goes through `apply` with one entry.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::{Duration, Instant};

use logdrive::api::{ApplyEntry, Replies, StateMachine};
use logdrive::kv::{Command, Condition, KvMachine};
use logdrive_shard::{GroupId, LogIndex};

const WRITES: usize = 200_000;
const PART_BYTES: usize = 64 << 10;
/// Writes between two parts: a tenth of the time or so goes into the snapshot.
const WRITES_PER_PART: usize = 500;

fn main() {
    let counts = std::env::var("LOGDRIVE_KV_KEYS").unwrap_or_else(|_| "10000,100000,1000000".to_owned());
    for count in counts.split(',') {
        match count.parse() {
            Ok(keys) => measure(keys),
            Err(error) => eprintln!("LOGDRIVE_KV_KEYS: {count:?} is not a number of keys: {error}"),
        }
    }
}

fn measure(keys: u64) {
    let mut writer = Writer::new(keys);
    let longest = (0..keys).map(|number| writer.set(number)).max().unwrap_or_default();
    println!("{keys} keys, {} MiB; the longest insertion took {longest:?}", writer.mebibytes());
    let quiet = (0..WRITES).map(|_| writer.set_any()).collect();
    println!("  SET, no view             {}", percentiles(quiet));

    let mut freezes = Vec::new();
    for _ in 0..1000 {
        // Something in between, so that not all is in the cache.
        writer.set_any();
        let start = Instant::now();
        let view = writer.machine.freeze(0);
        freezes.push(start.elapsed());
        writer.machine.release(view);
    }
    println!("  freeze                   {}", percentiles(freezes));

    let (bytes, parts) = writer.snapshot();
    println!("  write, parts of 64 KiB   {}, {}", rate(bytes.len(), parts.iter().sum()), percentiles(parts));
    let mut loading = writer.machine.begin_load(1);
    let start = Instant::now();
    for part in bytes.chunks(PART_BYTES) {
        writer.machine.load_part(&mut loading, part).expect("what was written can be loaded");
    }
    let loaded = start.elapsed();
    let start = Instant::now();
    writer.machine.finish_load(1, loading).expect("what was written can be loaded");
    println!("  load                     {}, the swap took {:?}", rate(bytes.len(), loaded), start.elapsed());
    assert_eq!(writer.machine.digest(0), writer.machine.digest(1));

    writer.machine.forget(1);
    writer.under_views();
    let view = writer.machine.freeze(0);
    let kept = (0..WRITES).map(|_| writer.set_any()).collect();
    println!("  SET, none of it written  {}, {} MiB", percentiles(kept), writer.mebibytes());
    writer.machine.release(view);
}

struct Writer {
    machine: KvMachine,
    replies: Replies,
    payload: Vec<u8>,
    keys: u64,
    random: u64,
}

impl Writer {
    fn new(keys: u64) -> Writer {
        let mut machine = KvMachine::new();
        machine.open(&[GroupId(1), GroupId(2)]);
        Writer {
            machine,
            replies: Replies::default(),
            payload: Vec::new(),
            keys,
            random: 0x2545_F491_4F6C_DD1D,
        }
    }

    fn set(&mut self, number: u64) -> Duration {
        let key = format!("key:{number:012}");
        self.payload.clear();
        let (value, condition) = (&[number as u8; 128], Condition::Always);
        Command::Set { key: key.as_bytes(), value, condition, get: false }.encode(&mut self.payload);
        let entry = ApplyEntry { slot: 0, group: GroupId(1), index: LogIndex(1), payload: &self.payload };
        self.replies.clear();
        let start = Instant::now();
        self.machine.apply(&[entry], &mut self.replies);
        start.elapsed()
    }

    fn set_any(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.set(self.random % self.keys)
    }

    /// One view from beginning to end: its bytes, and what each part took.
    fn snapshot(&mut self) -> (Vec<u8>, Vec<Duration>) {
        let (mut bytes, mut parts) = (Vec::new(), Vec::new());
        let mut view = self.machine.freeze(0);
        let mut out = Vec::with_capacity(2 * PART_BYTES);
        loop {
            out.clear();
            let start = Instant::now();
            let all = self.machine.write_view(&mut view, PART_BYTES, &mut out);
            parts.push(start.elapsed());
            bytes.extend_from_slice(&out);
            if all {
                break;
            }
        }
        self.machine.release(view);
        (bytes, parts)
    }

    /// Writes while one view after the other is written out.
    fn under_views(&mut self) {
        let (mut sets, mut parts, mut most) = (Vec::new(), Vec::new(), 0);
        let mut out = Vec::with_capacity(2 * PART_BYTES);
        while sets.len() < WRITES {
            let mut view = self.machine.freeze(0);
            loop {
                sets.extend((0..WRITES_PER_PART).map(|_| self.set_any()));
                most = most.max(self.mebibytes());
                out.clear();
                let start = Instant::now();
                let all = self.machine.write_view(&mut view, PART_BYTES, &mut out);
                parts.push(start.elapsed());
                if all {
                    break;
                }
            }
            self.machine.release(view);
        }
        println!("  SET, a view is written   {}, at most {most} MiB", percentiles(sets));
        println!("  parts meanwhile          {}", percentiles(parts));
    }

    fn mebibytes(&self) -> u64 {
        self.machine.state_bytes(0) >> 20
    }
}

fn rate(bytes: usize, time: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / time.as_secs_f64())
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000];
    format!("p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}", at(500), at(990), at(999), at(1000))
}
