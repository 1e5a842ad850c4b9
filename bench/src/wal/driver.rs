//! Load for a log: single-entry appends to streams chosen at random, closed loop or at a given rate.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use logdrive_shard::Random;
use logdrive_wal::{
    AppendError, EntryHeader, Health, Recovery, RingDisk, Stats, StreamId, StreamSlot, Ticket, Wal,
};

use crate::clock;
use crate::format::{bytes, count};
use crate::latency::Latencies;
use crate::payload::Payloads;
use crate::usage::{CpuUse, Usage};

/// Streams are compacted so often that what they keep stays below this share of the budget.
const KEPT_SHARE: f64 = 1.0 / 8.0;
/// Bytes that a record takes beside its payload, generously.
const RECORD_BYTES: f64 = 40.0;
/// Compactions per append: no more than so many, however little room there is, and no fewer however much.
const COMPACTIONS_MAX: f64 = 4.0;
const COMPACTIONS_MIN: f64 = 1.0 / 64.0;
/// Appends at a given rate that wait for the disk at most, and their bytes, of which a core has a bound, too; what would go above it is
/// late, and counted so.
const OPEN_LOOP_IN_FLIGHT: u64 = 1 << 17;
const OPEN_LOOP_BACKLOG_BYTES: u64 = 4 << 20;
/// Of these so many are handed over before the loop looks at the disk again, as a core looks between its turns.
const ROUND_APPENDS_MAX: usize = 256;
/// Streams are chosen so many appends ahead, and the log is asked to fetch what it knows of them: owners know their next
/// messages, too.
const AHEAD: usize = 8;
/// Compactions after an append that was refused, in one batch, and bytes of room that one takes.
const REFUSED_COMPACTIONS: u32 = 256;
const COMPACTION_BYTES: u64 = 64;
/// How long the log may refuse appends for lack of space before that is an error.
const REFUSED_NANOS_MAX: u64 = 10_000_000_000;

/// A new log has nothing to recover; one that is used again is not asked.
pub(super) struct Nothing;

impl Recovery for Nothing {
    fn entry(&mut self, _: StreamId, _: EntryHeader, _: &[u8]) {}
    fn state(&mut self, _: StreamId, _: &[u8]) {}
    fn compacted(&mut self, _: StreamId, _: u64) {}
}

/// What is asked of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) streams: u64,
    pub(super) payload: u32,
    pub(super) in_flight: u32,
}

impl Load {
    /// Compactions per append that keep a log of this budget from filling up, if every one gives up all entries of the next
    /// stream but its last.
    pub(super) fn compactions_per_append(&self, budget_bytes: u64) -> f64 {
        let sweep_bytes = self.streams as f64 * (f64::from(self.payload) + RECORD_BYTES);
        (sweep_bytes / (budget_bytes as f64 * KEPT_SHARE)).clamp(COMPACTIONS_MIN, COMPACTIONS_MAX)
    }
}

/// What came out of the measured time.
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) latencies: Latencies,
    pub(super) writes: Stats,
    /// Operations that the disk had at once, on average: the writes, but for a rename now and then.
    pub(super) mean_in_flight: f64,
    pub(super) cpu: CpuUse,
}

pub(super) struct Stream {
    slot: StreamSlot,
    pub(super) last: u64,
}

/// Appends that became durable together, or will, and whose latency is counted from the same moment.
struct Outstanding {
    ticket: Ticket,
    at: u64,
    appends: u64,
}

/// A log under load.
pub(super) struct Driver {
    pub(super) wal: Wal<RingDisk>,
    pub(super) streams: Vec<Stream>,
    load: Load,
    random: Random,
    payloads: Payloads,
    /// The streams of the next appends.
    chosen: VecDeque<usize>,
    /// Appends that are not durable yet; tickets ascend.
    outstanding: VecDeque<Outstanding>,
    in_flight: u64,
    pub(super) acknowledged: u64,
    /// Appends that were refused for lack of space, and tried again; since when the log has refused all of them.
    pub(super) refused: u64,
    refused_since: Option<u64>,
    /// The stream that is compacted next.
    compact_next: usize,
    compactions_per_append: f64,
    compactions_due: f64,
    /// Nanoseconds, each counted as often as operations were under way, up to a moment, and how many are since then.
    in_flight_nanos: u64,
    seen: (u64, u32),
}

impl Driver {
    pub(super) fn new(wal: Wal<RingDisk>, seed: u64) -> Driver {
        let load = Load { streams: 0, payload: 8, in_flight: 0 };
        Driver {
            wal,
            streams: Vec::new(),
            load,
            random: Random::new(seed),
            payloads: Payloads::new(seed, 0, 8),
            chosen: VecDeque::new(),
            outstanding: VecDeque::new(),
            in_flight: 0,
            acknowledged: 0,
            refused: 0,
            refused_since: None,
            compact_next: 0,
            compactions_per_append: 0.0,
            compactions_due: 0.0,
            in_flight_nanos: 0,
            seen: (0, 0),
        }
    }

    /// Changes the load. What an earlier one left in the log is given up first.
    pub(super) fn set_load(&mut self, load: Load, seed: u64) -> Result<()> {
        self.drain()?;
        for stream in 0..self.streams.len() {
            self.compact(stream, 0)?;
            if stream % 1024 == 1023 {
                self.drain()?;
            }
        }
        self.drain()?;
        for id in self.streams.len() as u64..load.streams {
            let slot = self.wal.stream(StreamId(id));
            self.streams.push(Stream { slot, last: 0 });
        }
        if load.payload != self.load.payload {
            self.payloads = Payloads::new(seed, 0, load.payload as usize);
        }
        self.compactions_per_append = load.compactions_per_append(self.wal.space().budget_bytes);
        (self.load, self.compact_next, self.compactions_due) = (load, 0, 0.0);
        self.chosen.clear();
        Ok(())
    }

    /// A closed loop for so many seconds, of which the first `warmup` do not count; `shown` is called now and then with the
    /// measured seconds and the appends so far.
    pub(super) fn closed_loop(
        &mut self,
        warmup: f64,
        seconds: f64,
        shown: &mut dyn FnMut(f64, u64),
    ) -> Result<Measured> {
        let mut latencies = Latencies::new()?;
        let mut now = clock::now_nanos();
        let start = now + (warmup * 1e9) as u64;
        while now < start {
            now = self.round(now, &mut |_, _| ())?;
        }
        let (begin, stats, usage) = (now, self.wal.stats(), Usage::now());
        self.see(begin);
        self.in_flight_nanos = 0;
        let end = begin + (seconds * 1e9) as u64;
        let mut next_shown = begin;
        while now < end {
            now = self.round(now, &mut |nanos, appends| latencies.record_n(nanos, appends))?;
            if now >= next_shown {
                next_shown = now + 200_000_000;
                shown((now - begin) as f64 / 1e9, latencies.count());
            }
        }
        let seconds = (now - begin) as f64 / 1e9;
        let (cpu, writes) = (Usage::now().since(&usage), difference(&self.wal.stats(), &stats));
        let mean_in_flight = self.in_flight_nanos as f64 / 1e9 / seconds;
        self.drain()?;
        Ok(Measured { seconds, latencies, writes, mean_in_flight, cpu })
    }

    /// Appends that come at a given rate, evenly, whatever the disk does. Latency runs from the moment an append was due, so
    /// that a stall counts for every append that came meanwhile. As a core whose peers send all the time, the loop goes on
    /// while writes are under way: it never sleeps.
    pub(super) fn open_loop(&mut self, rate: f64, warmup: f64, seconds: f64) -> Result<Latencies> {
        let mut latencies = Latencies::new()?;
        let begin = clock::now_nanos();
        let (measured, end) = (begin + (warmup * 1e9) as u64, begin + ((warmup + seconds) * 1e9) as u64);
        let due_at = |number: u64| begin + (number as f64 / rate * 1e9) as u64;
        let (mut number, mut now) = (0u64, begin);
        while now < end {
            for _ in 0..ROUND_APPENDS_MAX {
                let due = due_at(number);
                let full = self.in_flight >= OPEN_LOOP_IN_FLIGHT
                    || self.wal.backlog_bytes() >= OPEN_LOOP_BACKLOG_BYTES;
                if due > now || full || !self.append(now, due)? {
                    break;
                }
                number += 1;
                if self.wal.wants_submit() {
                    break;
                }
            }
            self.wal.submit(now);
            self.wal.poll(now);
            // The kernel ends writes on this processor, too, and would wait for the end of a slice of milliseconds.
            std::thread::yield_now();
            now = clock::now_nanos();
            self.settle(&mut |due, appends| {
                if due >= measured {
                    latencies.record_n(now - due, appends);
                }
            })?;
        }
        self.drain()?;
        Ok(latencies)
    }

    /// Appends up to the bound, submits, waits for the disk; calls `done` with the latency of appends that became durable and how
    /// many had it. Returns the time after the wait.
    fn round(&mut self, now: u64, done: &mut dyn FnMut(u64, u64)) -> Result<u64> {
        while self.in_flight < u64::from(self.load.in_flight) {
            if !self.append(now, now)? {
                break;
            }
            if self.wal.wants_submit() {
                self.submit(clock::now_nanos());
            }
        }
        self.turn(clock::now_nanos(), done)
    }

    fn submit(&mut self, now: u64) {
        self.see(now);
        self.wal.submit(now);
        self.seen.1 = self.wal.disk().in_flight();
    }

    /// What is under way until now was so since the last look: what the disk has done meanwhile is not known before.
    fn see(&mut self, now: u64) {
        let (since, in_flight) = self.seen;
        self.in_flight_nanos += (now - since) * u64::from(in_flight);
        self.seen = (now, self.wal.disk().in_flight());
    }

    fn turn(&mut self, now: u64, done: &mut dyn FnMut(u64, u64)) -> Result<u64> {
        self.submit(now);
        self.wal.wait(clock::now_nanos);
        let after = clock::now_nanos();
        self.see(after);
        self.settle(&mut |at, appends| done(after - at, appends))?;
        Ok(after)
    }

    /// Counts what is durable: from when, and how many appends.
    fn settle(&mut self, done: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let durable = self.durable()?;
        while let Some(run) = self.outstanding.pop_front_if(|run| run.ticket <= durable) {
            self.acknowledged += run.appends;
            self.in_flight -= run.appends;
            done(run.at, run.appends);
        }
        Ok(())
    }

    fn durable(&self) -> Result<Ticket> {
        if *self.wal.health() != Health::Running {
            bail!("the log stopped: {:?}", self.wal.health());
        }
        Ok(self.wal.durable())
    }

    /// Takes over what an earlier driver left in the log: so many streams, each going on where it ended.
    pub(super) fn skip_recovered(&mut self, streams: u64) -> Result<()> {
        for id in 0..streams {
            let slot = self.wal.stream(StreamId(id));
            let last = self.wal.entries(slot).map_or(0, |(_, last)| last);
            self.streams.push(Stream { slot, last: last.max(self.wal.compacted(slot)) });
        }
        Ok(())
    }

    /// Appends without giving anything up until the log has grown by so many bytes; returns by how many it did.
    pub(super) fn fill(&mut self, bytes: u64, shown: &mut dyn FnMut(u64)) -> Result<u64> {
        self.compactions_per_append = 0.0;
        let before = self.wal.stats().write_bytes;
        let mut now = clock::now_nanos();
        let mut next_shown = now;
        let mut done = 0;
        while done < bytes {
            now = self.round(now, &mut |_, _| ())?;
            done = self.wal.stats().write_bytes - before;
            if now >= next_shown {
                next_shown = now + 200_000_000;
                shown(done);
            }
        }
        self.drain()?;
        Ok(self.wal.stats().write_bytes - before)
    }

    /// Closes the log, with what is in it.
    pub(super) fn close(mut self) -> Result<()> {
        self.drain()?;
        self.wal.close(clock::now_nanos()).context("cannot close the log")
    }

    /// Waits until everything is durable.
    pub(super) fn drain(&mut self) -> Result<()> {
        while self.wal.durable() < self.wal.last_ticket() {
            self.turn(clock::now_nanos(), &mut |_, _| ())?;
        }
        Ok(())
    }

    /// One append, whose latency counts from `at`; false if the log has no space for it now.
    fn append(&mut self, now: u64, at: u64) -> Result<bool> {
        let chosen = self.choose();
        let stream = &mut self.streams[chosen];
        let header = EntryHeader { index: stream.last + 1, tag: 1, note: 0 };
        let ticket = match self.wal.append(stream.slot, header, self.payloads.next()) {
            Ok(ticket) => ticket,
            Err(AppendError::OutOfSpace { .. })
                if self.compactions_per_append > 0.0
                    && now - *self.refused_since.get_or_insert(now) < REFUSED_NANOS_MAX =>
            {
                // More is given up then, as far as there is space to say so, and it is tried again.
                self.refused += 1;
                for _ in 0..REFUSED_COMPACTIONS {
                    if !self.wal.has_vital_room(COMPACTION_BYTES) {
                        break;
                    }
                    self.compact_one()?;
                }
                return Ok(false);
            }
            Err(error) => return Err(error).context(
                "the log takes no appends (more --segments may help: with many groups it takes long to compact all)",
            ),
        };
        stream.last += 1;
        self.refused_since = None;
        self.in_flight += 1;
        match self.outstanding.back_mut() {
            Some(run) if (run.ticket, run.at) == (ticket, at) => run.appends += 1,
            _ => self.outstanding.push_back(Outstanding { ticket, at, appends: 1 }),
        }
        self.compactions_due += self.compactions_per_append;
        while self.compactions_due >= 1.0 {
            self.compactions_due -= 1.0;
            self.compact_one()?;
        }
        Ok(true)
    }

    /// What a report says of appends that were refused, if any were.
    pub(super) fn refusals(&mut self) -> Option<String> {
        let space = self.wal.space();
        (self.refused > 0).then(|| {
            format!(
                "the log refused an append {} times, for its {} were used up, and it was tried again: the streams were given up \
                 more slowly than the log grew",
                count(self.refused as f64),
                bytes(space.budget_bytes as f64)
            )
        })
    }

    /// The stream of the next append.
    fn choose(&mut self) -> usize {
        while self.chosen.len() <= AHEAD {
            let stream = self.random.below(self.load.streams) as usize;
            self.wal.prefetch(self.streams[stream].slot);
            self.chosen.push_back(stream);
        }
        self.wal.prefetch_end(self.streams[self.chosen[AHEAD / 2]].slot);
        self.chosen.pop_front().unwrap_or(0)
    }

    /// Gives up all entries but the last of the stream whose turn it is.
    fn compact_one(&mut self) -> Result<()> {
        let next = self.compact_next;
        self.compact_next = (next + 1) % self.load.streams as usize;
        self.compact(next, 1)
    }

    /// Gives up all entries of a stream but the last `kept`.
    fn compact(&mut self, stream: usize, kept: u64) -> Result<()> {
        let stream = &self.streams[stream];
        if stream.last > kept {
            self.wal.compact(stream.slot, stream.last - kept).context("the log took no compaction")?;
        }
        Ok(())
    }
}

fn difference(after: &Stats, before: &Stats) -> Stats {
    Stats {
        writes: after.writes - before.writes,
        write_bytes: after.write_bytes - before.write_bytes,
        records: after.records - before.records,
        segments_created: after.segments_created - before.segments_created,
        segments_recycled: after.segments_recycled - before.segments_recycled,
        ..*after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_is_tried_again_but_not_filled_by_giving_up_what_is_to_be_recovered() {
        let directory = tempfile::tempdir().unwrap();
        let options = logdrive_wal::Options {
            segment_bytes: 4 << 20,
            budget_bytes: 32 << 20,
            segments_ahead: 8,
            ..logdrive_wal::Options::default()
        };
        let wal = crate::wal::open(directory.path(), &options, &mut Nothing).unwrap();
        let mut driver = Driver::new(wal, 1);
        driver.set_load(Load { streams: 2000, payload: 4096, in_flight: 64 }, 1).unwrap();
        let error = driver.fill(1 << 30, &mut |_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("out of space"), "{error:#}");
        assert_eq!(driver.refused, 0);
        // Now streams may be given up.
        driver.compactions_per_append = 1.0;
        let before = driver.acknowledged;
        while driver.acknowledged < before + 10_000 {
            driver.closed_loop(0.0, 0.05, &mut |_, _| ()).unwrap();
        }
        assert!(driver.refused > 0 && driver.refusals().is_some());
    }

    #[test]
    fn streams_are_compacted_as_often_as_the_budget_asks() {
        let load = |streams, payload| Load { streams, payload, in_flight: 1 };
        let small = load(1, 16).compactions_per_append(1 << 30);
        assert_eq!(small, COMPACTIONS_MIN);
        // 10,000 entries of 16 KiB are more than an eighth of a GiB: more than one compaction per append.
        let large = load(10_000, 16 << 10).compactions_per_append(1 << 30);
        assert!(large > 1.0 && large < COMPACTIONS_MAX, "{large}");
    }
}
