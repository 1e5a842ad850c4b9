//! What the disk does without a log: the same ring, segments zeroed in the same way, durable writes of the same size, as many
//! in flight.

use std::path::Path;

use anyhow::{Context, Result, bail};
use logdrive_shard::Random;
use logdrive_wal::{Buffer, Completion, Disk, Done, FileId, Op, OpenMode, RingDisk, RingOptions, Token};

use crate::clock;
use crate::latency::Latencies;

const BLOCK: u64 = 4096;
/// Where batches begin in a segment: behind the header.
const FIRST: u64 = BLOCK;
/// Bytes of one write while segments are zeroed.
const FILL_BYTES: u64 = 1 << 20;

/// Writes that the limit is measured with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writes {
    /// Mean bytes of a write; each one is a whole number of blocks, and together they come to this.
    pub(super) mean_bytes: f64,
    pub(super) in_flight: u32,
}

/// Segments without a log in them.
pub(super) struct Limit {
    disk: RingDisk,
    files: Vec<FileId>,
    segment_bytes: u64,
    /// Where the next write goes: segment, and offset in it.
    at: (usize, u64),
    /// Bytes by which the writes so far stay behind the mean.
    owed: f64,
    idle: Vec<Buffer>,
    completions: Vec<Completion>,
}

impl Limit {
    /// Makes the segments.
    pub(super) fn new(path: &Path, segments: u32, segment_bytes: u64, options: RingOptions) -> Result<Limit> {
        let write_bytes_max = options.buffer_bytes as usize;
        let buffers = options.buffers;
        let disk = RingDisk::open(path, options).context("cannot open the disk of the limit")?;
        let mut limit = Limit {
            disk,
            files: Vec::new(),
            segment_bytes,
            at: (0, FIRST),
            owed: 0.0,
            idle: Vec::new(),
            completions: Vec::new(),
        };
        for number in 0..segments {
            let name = format!("limit-{number}");
            let Done::Opened { file, .. } = limit.call(Op::Open { name, mode: OpenMode::CreateNew })? else {
                bail!("the disk opened no file")
            };
            limit.files.push(file);
            limit.fill(file)?;
        }
        limit.call(Op::SyncDir)?;
        let mut random = Random::new(1);
        for _ in 0..buffers {
            let mut buffer = limit.disk.buffer(write_bytes_max);
            for word in buffer.as_mut_slice().chunks_exact_mut(8) {
                word.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            limit.idle.push(buffer);
        }
        Ok(limit)
    }

    fn fill(&mut self, file: FileId) -> Result<()> {
        let mut offset = 0;
        while offset < self.segment_bytes {
            let len = FILL_BYTES.min(self.segment_bytes - offset) as u32;
            let mut buffer = self.disk.buffer(len as usize);
            buffer.as_mut_slice().fill(0);
            self.call(Op::Write { file, offset, buffer, len, durable: false })?;
            offset += u64::from(len);
        }
        self.call(Op::Sync { file })?;
        Ok(())
    }

    /// One operation, nothing else under way.
    fn call(&mut self, op: Op) -> Result<Done> {
        self.disk.submit(Token(0), op);
        self.completions.clear();
        while self.completions.is_empty() {
            self.disk.wait(&mut self.completions);
        }
        let completion = self.completions.remove(0);
        if let Some(buffer) = completion.buffer {
            self.disk.recycle(buffer);
        }
        completion.result.context("the disk failed")
    }

    /// Writes for so many seconds, of which the first `warmup` do not count. Returns bytes a second.
    pub(super) fn measure(&mut self, writes: Writes, warmup: f64, seconds: f64) -> Result<f64> {
        let largest = self.idle.iter().map(Buffer::capacity).min().unwrap_or(0) as u64;
        let depth = (writes.in_flight as usize).min(self.idle.len());
        let begin = clock::now_nanos();
        let (measured, end) = (begin + (warmup * 1e9) as u64, begin + ((warmup + seconds) * 1e9) as u64);
        let (mut now, mut first, mut in_flight, mut bytes) = (begin, 0, 0, 0u64);
        loop {
            while now < end && in_flight < depth {
                let Some(buffer) = self.idle.pop() else { break };
                self.submit(buffer, writes.mean_bytes, largest, None);
                in_flight += 1;
            }
            if in_flight == 0 {
                break;
            }
            self.completions.clear();
            self.disk.wait(&mut self.completions);
            now = clock::now_nanos();
            for completion in std::mem::take(&mut self.completions) {
                let len = completion.token.0;
                match completion.result.context("the disk failed")? {
                    Done::Transferred(done) if u64::from(done) == len => {}
                    other => bail!("a write of {len} bytes ended with {other:?}"),
                }
                self.idle.push(completion.buffer.context("the disk gave no buffer back")?);
                in_flight -= 1;
                if now >= measured && first == 0 {
                    first = now;
                } else if first > 0 && now < end {
                    bytes += len;
                }
            }
        }
        let seconds = end.saturating_sub(first) as f64 / 1e9;
        // A disk that stood still all the time has shown no limit.
        Ok(if bytes == 0 { f64::NAN } else { bytes as f64 / seconds })
    }

    /// Writes that come evenly at half the rate at which the log made them. Latency runs from the moment a write was due.
    pub(super) fn open_loop(
        &mut self,
        writes: Writes,
        rate: f64,
        warmup: f64,
        seconds: f64,
    ) -> Result<Latencies> {
        let largest = self.idle.iter().map(Buffer::capacity).min().unwrap_or(0) as u64;
        let mut latencies = Latencies::new()?;
        let begin = clock::now_nanos();
        let (measured, end) = (begin + (warmup * 1e9) as u64, begin + ((warmup + seconds) * 1e9) as u64);
        let due_at = |number: u64| begin + (number as f64 / rate * 1e9) as u64;
        let (mut number, mut now, mut in_flight) = (0u64, begin, 0u32);
        while now < end || in_flight > 0 {
            while now < end && due_at(number) <= now {
                let Some(buffer) = self.idle.pop() else { break };
                self.submit(buffer, writes.mean_bytes, largest, Some(due_at(number)));
                (number, in_flight) = (number + 1, in_flight + 1);
            }
            self.completions.clear();
            self.disk.poll(&mut self.completions);
            // As the log's loop does, and for the same reason.
            std::thread::yield_now();
            now = clock::now_nanos();
            for completion in std::mem::take(&mut self.completions) {
                completion.result.context("the disk failed")?;
                self.idle.push(completion.buffer.context("the disk gave no buffer back")?);
                in_flight -= 1;
                if completion.token.0 >= measured {
                    latencies.record(now - completion.token.0);
                }
            }
        }
        Ok(latencies)
    }

    /// One write, right behind the last, named by its length or as said. Sizes are whole blocks, two sizes in turn where the
    /// mean lies between.
    fn submit(&mut self, buffer: Buffer, mean_bytes: f64, largest: u64, name: Option<u64>) {
        let wanted = mean_bytes + self.owed;
        let len = ((wanted / BLOCK as f64) as u64 * BLOCK).clamp(BLOCK, largest);
        self.owed = (wanted - len as f64).clamp(-(BLOCK as f64), BLOCK as f64);
        if self.at.1 + len > self.segment_bytes {
            self.at = ((self.at.0 + 1) % self.files.len(), FIRST);
        }
        let (segment, offset) = self.at;
        self.at.1 += len;
        let (file, len) = (self.files[segment], len as u32);
        let token = Token(name.unwrap_or(u64::from(len)));
        self.disk.submit(token, Op::Write { file, offset, buffer, len, durable: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_writes_around_its_segments() {
        let directory = tempfile::tempdir().unwrap();
        let options = RingOptions { buffers: 4, buffer_bytes: 64 << 10, ..RingOptions::default() };
        let mut limit = Limit::new(directory.path(), 2, 1 << 20, options).unwrap();
        let writes = Writes { mean_bytes: 10_000.0, in_flight: 4 };
        assert!(limit.measure(writes, 0.05, 0.3).unwrap() > 0.0);
        // More than fits: a write is never larger than a buffer.
        let writes = Writes { mean_bytes: 1e9, in_flight: 2 };
        assert!(limit.measure(writes, 0.0, 0.1).unwrap() > 0.0);
        let paced = limit.open_loop(Writes { mean_bytes: 8192.0, in_flight: 4 }, 500.0, 0.02, 0.1).unwrap();
        assert!((20..=50).contains(&paced.count()), "{}", paced.count());
        assert_eq!(limit.idle.len(), 4, "every buffer came back");
    }
}
