//! One group with many keys, its snapshots on a disk, and the loop that a core would be.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logdrive::api::{ApplyEntry, Replies, SnapshotSettings, StateMachine};
use logdrive::kv::{Command, Condition, KvMachine};
use logdrive::snapshot::{
    ReadPart, Share, SnapshotFileSettings, SnapshotMeta, SnapshotStore, StoreEvent, WriteId,
};
use logdrive_shard::{GroupId, LogIndex, Moment, Random, Term};
use logdrive_wal::{RingDisk, RingOptions};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cli::SnapshotArgs;
use crate::clock;
use crate::latency::{Latencies, LatencySummary};
use crate::payload::Payloads;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 16;
const GROUP: GroupId = GroupId(1);
/// Where the group is, and where its snapshot is loaded.
const SLOT: u32 = 0;
const LOADED: u32 = 1;
const FREEZES: u32 = 1_000;
/// Writes that are applied before anything else has its turn.
const WRITES_PER_TURN: u64 = 256;
/// Bytes between two looks at the clock in a slice, as in a core.
const STEP_BYTES: usize = 2 << 10;
/// Between slices the disk is asked for news so often: a core is woken for them and need not ask.
const LOOK_NANOS: u64 = 20_000;
/// A disk that says nothing for so long is asked again.
const WAIT_MAX_NANOS: i64 = 5_000_000;

type View = <KvMachine as StateMachine>::View;

/// A snapshot under way.
struct Writing {
    write: WriteId,
    view: Option<View>,
    /// What the store has not taken yet begins at `from`.
    rest: Vec<u8>,
    from: usize,
}

/// What foreground writes felt.
pub(super) struct Foreground {
    pub(super) latencies: Latencies,
    pub(super) seconds: f64,
    pub(super) snapshots: u64,
    pub(super) slices: Latencies,
    pub(super) state_bytes_max: u64,
}

impl Foreground {
    pub(super) fn none() -> Result<Foreground> {
        let (latencies, slices) = (Latencies::new()?, Latencies::new()?);
        Ok(Foreground { latencies, seconds: 0.0, snapshots: 0, slices, state_bytes_max: 0 })
    }

    /// Another round of the same.
    pub(super) fn add(&mut self, other: &Foreground) {
        self.latencies.add(&other.latencies);
        self.seconds += other.seconds;
        self.snapshots += other.snapshots;
        self.slices.add(&other.slices);
        self.state_bytes_max = self.state_bytes_max.max(other.state_bytes_max);
    }

    pub(super) fn per_s(&self) -> f64 {
        self.latencies.count() as f64 / self.seconds
    }
}

pub(super) struct Subject {
    machine: KvMachine,
    replies: Replies,
    command: Vec<u8>,
    payloads: Payloads,
    random: Random,
    keys: u64,
    index: u64,
    store: SnapshotStore<RingDisk>,
    events: Vec<StoreEvent>,
    settings: SnapshotSettings,
    share: Share,
    writing: Option<Writing>,
    own_time: bool,
}

/// The key with this number.
pub(super) fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(b"bench:k:");
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

impl Subject {
    pub(super) fn new(directory: &Path, keys: u64, arguments: &SnapshotArgs) -> Result<Subject> {
        let ring = RingOptions { buffers: 0, background: true, ..RingOptions::default() };
        let disk = RingDisk::open(directory, ring).context("cannot open the disk of the snapshots")?;
        let settings = SnapshotSettings {
            // The files of before are of no use here.
            files: SnapshotFileSettings { snapshots_kept: 0, ..SnapshotFileSettings::default() },
            ..SnapshotSettings::default()
        };
        let (store, _) = SnapshotStore::open(disk, settings.files.clone())
            .context("cannot open the store of snapshots")?;
        let share = Share::new(settings.slice_time, settings.slice_interval);
        let mut machine = KvMachine::new();
        machine.open(&[GROUP, GroupId(2)]);
        Ok(Subject {
            machine,
            replies: Replies::default(),
            command: Vec::new(),
            payloads: Payloads::new(arguments.seed, 0, arguments.value as usize),
            random: Random::new(arguments.seed),
            keys,
            index: 0,
            store,
            events: Vec::new(),
            settings,
            share,
            writing: None,
            own_time: arguments.own_time,
        })
    }

    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    pub(super) fn state_bytes(&self) -> u64 {
        self.machine.state_bytes(SLOT)
    }

    pub(super) fn fill(&mut self) {
        (0..self.keys).for_each(|number| self.set(number));
    }

    fn set(&mut self, number: u64) {
        let key = key(number);
        let value = self.payloads.next();
        self.command.clear();
        Command::Set { key: &key, value, condition: Condition::Always, get: false }.encode(&mut self.command);
        self.index += 1;
        let entry =
            ApplyEntry { slot: SLOT, group: GROUP, index: LogIndex(self.index), payload: &self.command };
        self.replies.clear();
        self.machine.apply(&[entry], &mut self.replies);
    }

    fn set_any(&mut self) {
        let number = self.random.below(self.keys);
        self.set(number);
    }

    pub(super) fn freeze(&mut self) -> Result<LatencySummary> {
        let mut latencies = Latencies::new()?;
        for _ in 0..FREEZES {
            // Something in between, so that not all is in the caches.
            self.set_any();
            let start = clock::now_nanos();
            let view = self.machine.freeze(SLOT);
            latencies.record(clock::now_nanos() - start);
            self.machine.release(view);
        }
        Ok(latencies.summary())
    }

    pub(super) fn digest(&self) -> Duration {
        let start = clock::now_nanos();
        std::hint::black_box(self.machine.digest(SLOT));
        clock::since(start)
    }

    /// One snapshot as fast as it goes: how long it took, and the bytes of its file.
    pub(super) fn write(&mut self) -> Result<(Duration, u64)> {
        let start = clock::now_nanos();
        self.begin_snapshot()?;
        self.write_to_the_end()?;
        let took = clock::since(start);
        let header = self.store.newest(GROUP, 0).context("the snapshot is not good")?;
        Ok((took, header.context("there is no snapshot")?.file_bytes()))
    }

    /// Loads the newest snapshot into another slot: how long it took, and whether it is the same state.
    pub(super) fn load(&mut self) -> Result<(Duration, bool)> {
        let newest = self.store.newest(GROUP, 0).context("the snapshot is not good")?;
        let snapshot = newest.context("there is no snapshot")?.id;
        let start = clock::now_nanos();
        let read = self.store.begin_read(snapshot)?;
        let mut loading = self.machine.begin_load(LOADED);
        loop {
            match self.store.read_part(read)? {
                Some(ReadPart::Sessions(_)) => {}
                Some(ReadPart::State(bytes)) => self.machine.load_part(&mut loading, &bytes)?,
                Some(ReadPart::End) => break,
                None => {
                    if !self.poll()? {
                        self.wait();
                    }
                }
            }
        }
        self.machine.finish_load(LOADED, loading)?;
        let took = clock::since(start);
        let same = self.machine.digest(LOADED) == self.machine.digest(SLOT);
        self.machine.forget(LOADED);
        // What was given up is taken down beside the next writes, a few hundred keys with each: not while others are measured.
        (0..self.keys / 128).for_each(|_| self.set_any());
        Ok((took, same))
    }

    /// What foreground writes and slices are timed by.
    fn now(&self) -> u64 {
        if self.own_time { clock::own_nanos() } else { clock::now_nanos() }
    }

    /// Writes at a fixed rate, in turns as a core takes them, with snapshots in between or without.
    pub(super) fn foreground(&mut self, rate: u64, seconds: f64, snapshots: bool) -> Result<Foreground> {
        let (mut latencies, mut slices) = (Latencies::new()?, Latencies::new()?);
        let (mut sent, mut taken, mut state_bytes_max, mut next_look) = (0, 0, 0, 0);
        let due_nanos = |n: u64| (u128::from(n) * 1_000_000_000 / u128::from(rate)) as u64;
        let length = (seconds * 1e9) as u64;
        self.share = Share::new(self.settings.slice_time, self.settings.slice_interval);
        let (wall, start) = (clock::now_nanos(), self.now());
        let mut written_at = start;
        loop {
            let now = self.now() - start;
            if now >= length {
                break;
            }
            let turn = sent + WRITES_PER_TURN;
            while sent < turn && due_nanos(sent) <= now {
                self.set_any();
                written_at = self.now();
                latencies.record((written_at - start).saturating_sub(due_nanos(sent)));
                sent += 1;
            }
            if !snapshots {
                continue;
            }
            if self.writing.is_none() {
                state_bytes_max = state_bytes_max.max(self.state_bytes());
                self.begin_snapshot()?;
            } else if let Some(granted) = self.share.grant(Moment(self.now()), Moment(written_at)) {
                state_bytes_max = state_bytes_max.max(self.state_bytes());
                let began = self.now();
                self.slice(granted)?;
                self.poll()?;
                let took = self.now() - began;
                self.share.spend(Duration::from_nanos(took));
                slices.record(took);
            } else if now >= next_look {
                next_look = now + LOOK_NANOS;
                if self.disk_has_news() {
                    self.poll()?;
                }
            }
            taken += u64::from(self.writing.is_none());
        }
        let seconds = if self.own_time { seconds } else { clock::since(wall).as_secs_f64() };
        // So that the next measurement begins with nothing under way.
        self.write_to_the_end()?;
        Ok(Foreground { latencies, seconds, snapshots: taken, slices, state_bytes_max })
    }

    fn begin_snapshot(&mut self) -> Result<()> {
        let view = self.machine.freeze(SLOT);
        let meta = SnapshotMeta {
            group: GROUP,
            life: 0,
            index: LogIndex(self.index),
            term: Term(1),
            membership_index: LogIndex(0),
            membership: Vec::new(),
            sessions: Vec::new(),
        };
        let write = self.store.begin_write(meta, 0)?;
        self.writing = Some(Writing { write, view: Some(view), rest: Vec::new(), from: 0 });
        Ok(())
    }

    /// The next parts of the view go to the store, until the time is up or a slice is full. Whether there may be more now.
    ///
    /// Between two steps the cheap clock is read, as a core does: that of the processor time is a system call.
    fn slice(&mut self, granted: Duration) -> Result<bool> {
        let began = clock::now_nanos();
        let mut left = self.settings.slice_bytes as usize;
        while left > 0 {
            let taken = self.step(left.min(STEP_BYTES))?;
            if taken == 0 {
                return Ok(false);
            }
            left = left.saturating_sub(taken);
            if clock::since(began) >= granted {
                break;
            }
        }
        Ok(true)
    }

    /// The next bytes of the view go to the store. 0 if the store has no room now, or has all.
    fn step(&mut self, bytes_max: usize) -> Result<usize> {
        let Some(writing) = &mut self.writing else { return Ok(0) };
        if writing.from == writing.rest.len()
            && let Some(mut view) = writing.view.take()
        {
            writing.rest.clear();
            writing.from = 0;
            match self.machine.write_view(&mut view, bytes_max, &mut writing.rest) {
                true => self.machine.release(view),
                false => writing.view = Some(view),
            }
        }
        if writing.rest.is_empty() {
            return Ok(0);
        }
        let taken = self.store.write(writing.write, &writing.rest[writing.from..])?;
        writing.from += taken;
        if writing.view.is_none() && writing.from == writing.rest.len() {
            self.store.finish(writing.write)?;
            (writing.rest, writing.from) = (Vec::new(), 0);
        }
        Ok(taken)
    }

    /// Moves the files; whether there is more to do at once.
    fn poll(&mut self) -> Result<bool> {
        let more = self.store.poll(Moment(clock::now_nanos()), &mut self.events);
        for event in self.events.drain(..) {
            match event {
                StoreEvent::Durable { .. } => self.writing = None,
                StoreEvent::WriteFailed { failure, .. } => bail!("a snapshot was not written: {failure}"),
                StoreEvent::ReadFailed { failure, .. } => bail!("a snapshot was not read: {failure}"),
                StoreEvent::Writable { .. } | StoreEvent::Readable { .. } | StoreEvent::Chunk { .. } => {}
            }
        }
        Ok(more)
    }

    /// Writes the snapshot that is under way as fast as it goes.
    fn write_to_the_end(&mut self) -> Result<()> {
        while self.writing.is_some() {
            let moved = self.slice(Duration::MAX)?;
            if !self.poll()? && !moved {
                self.wait();
            }
        }
        Ok(())
    }

    /// Whether the disk has completed something.
    fn disk_has_news(&self) -> bool {
        self.poll_disk(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// Until the disk has something to say.
    fn wait(&mut self) {
        self.poll_disk(Timespec { tv_sec: 0, tv_nsec: WAIT_MAX_NANOS });
    }

    fn poll_disk(&self, timeout: Timespec) -> bool {
        let raw = self.store.disk().event_fd();
        // SAFETY: the descriptor is that of the store's disk, which outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        // Whether it timed out or not: the next poll looks at everything.
        let _ = rustix::event::poll(&mut polled, Some(&timeout));
        let has_news = polled[0].revents().contains(PollFlags::IN);
        if has_news {
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
        has_news
    }
}
