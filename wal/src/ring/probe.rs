//! Which way of making writes durable is faster here, found out with a few writes of each into a scratch file.

use std::fs::File;
use std::time::{Duration, Instant};

use super::setup::{DurableChoice, DurableWrites, open_probe};
use super::{OpenFile, RingDisk};
use crate::disk::{ALIGNMENT, Completion, Disk, DiskError, Done, FileId, Op, Token};

/// Writes of each kind that are timed at most.
const ROUNDS: u64 = 8;
/// After this time the probe ends with what it has.
const TIME_MAX: Duration = Duration::from_millis(40);
/// An fdatasync is another operation of the kernel's, which a worker thread waits for: it must be faster by an eighth.
const MARGIN: u32 = 8;
/// Tokens of the probe; nothing else is under way.
const TOKEN: Token = Token(0);

impl RingDisk {
    /// What was asked for, or what a probe says. Without a probe (no room for the file, a file system in memory) RWF_DSYNC.
    pub(super) fn choose_durable_writes(&mut self, wanted: DurableWrites) -> DurableChoice {
        if wanted != DurableWrites::Auto {
            return DurableChoice::Set(wanted);
        }
        if !self.facts.durable {
            return DurableChoice::Unprobed;
        }
        let flags = if self.facts.direct { libc::O_DIRECT } else { 0 };
        let probed = match open_probe(&self.root, flags) {
            Ok(scratch) => self.probe(scratch),
            Err(_) => None,
        };
        probed.unwrap_or(DurableChoice::Unprobed)
    }

    fn probe(&mut self, scratch: File) -> Option<DurableChoice> {
        let Ok(Done::Opened { file, .. }) = self.opened(scratch, "probe".to_owned()) else { return None };
        let measured = self.measure(file);
        // The file has no name: it is gone with its descriptor.
        let closed: Option<OpenFile> = self.files.get_mut(file.0 as usize).and_then(Option::take);
        drop(closed);
        if file.0 < self.registered_files {
            // As in `close`: if this fails the kernel keeps a reference to a file that is not used again.
            let _ = self.ring.submitter().register_files_update(file.0, &[-1]);
        }
        let (dsync_us, fsync_us) = measured.ok()?;
        let faster = fsync_us < dsync_us - dsync_us / MARGIN;
        let chosen = if faster { DurableWrites::Fsync } else { DurableWrites::Dsync };
        Some(DurableChoice::Probed { chosen, dsync_us, fsync_us })
    }

    /// Median times in microseconds of one block's write, with RWF_DSYNC and with fdatasync. They take turns, so that a
    /// disturbance hits both.
    #[expect(
        clippy::disallowed_methods,
        reason = "opening a ring is a start-up operation that measures the device"
    )]
    fn measure(&mut self, file: FileId) -> Result<(u32, u32), DiskError> {
        let begin = Instant::now();
        // Segments are written in full before they are used: the first write to a block costs more.
        self.probe_write(file, 0, 2 * ROUNDS * ALIGNMENT as u64, false)?;
        self.probe_perform(Op::Sync { file })?;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (way, times) in [DurableWrites::Dsync, DurableWrites::Fsync].into_iter().zip(&mut times) {
                self.facts.durable_writes = DurableChoice::Set(way);
                let place = (2 * round + u64::from(way == DurableWrites::Fsync)) * ALIGNMENT as u64;
                let start = Instant::now();
                self.probe_write(file, place, ALIGNMENT as u64, true)?;
                times.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            if begin.elapsed() > TIME_MAX {
                break;
            }
        }
        let [dsync, fsync] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        });
        Ok((dsync, fsync))
    }

    fn probe_write(&mut self, file: FileId, offset: u64, bytes: u64, durable: bool) -> Result<(), DiskError> {
        let mut buffer = self.buffer(bytes as usize);
        buffer.as_mut_slice()[..bytes as usize].fill(0);
        let completion =
            self.probe_perform(Op::Write { file, offset, buffer, len: bytes as u32, durable })?;
        let whole =
            matches!(completion.result, Ok(Done::Transferred(written)) if u64::from(written) == bytes);
        if let Some(buffer) = completion.buffer {
            self.recycle(buffer);
        }
        let full =
            DiskError { op: "write", name: "probe".to_owned(), offset: Some(offset), errno: libc::ENOSPC };
        if whole { Ok(()) } else { Err(full) }
    }

    fn probe_perform(&mut self, op: Op) -> Result<Completion, DiskError> {
        self.submit(TOKEN, op);
        let mut completions = Vec::new();
        self.wait(&mut completions);
        let gone = || DiskError { op: "probe", name: "probe".to_owned(), offset: None, errno: libc::EIO };
        let completion = completions.pop().ok_or_else(gone)?;
        match completion.result {
            Ok(_) => Ok(completion),
            Err(error) => {
                if let Some(buffer) = completion.buffer {
                    self.recycle(buffer);
                }
                Err(error)
            }
        }
    }
}
