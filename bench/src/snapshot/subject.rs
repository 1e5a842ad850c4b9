//! One group with many keys, its snapshots on a disk, and the loop that a core would be.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logdrive::api::{ApplyEntry, Replies, SnapshotSettings, StateMachine};
use logdrive::kv::{Command, Condition, KvMachine};
use logdrive::snapshot::{ReadPart, SnapshotFileSettings, SnapshotMeta, SnapshotStore, StoreEvent, WriteId};
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
    pub(super) slice_max_nanos: u64,
    pub(super) state_bytes_max: u64,
}

impl Foreground {
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
    writing: Option<Writing>,
    last_slice: u64,
    slice_max_nanos: u64,
}

impl Subject {
    pub(super) fn new(directory: &Path, keys: u64, arguments: &SnapshotArgs) -> Result<Subject> {
        let ring = RingOptions { buffers: 0, ..RingOptions::default() };
        let disk = RingDisk::open(directory, ring).context("cannot open the disk of the snapshots")?;
        let settings = SnapshotSettings {
            // The files of before are of no use here.
            files: SnapshotFileSettings { snapshots_kept: 0, ..SnapshotFileSettings::default() },
            ..SnapshotSettings::default()
        };
        let (store, _) = SnapshotStore::open(disk, settings.files.clone())
            .context("cannot open the store of snapshots")?;
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
            writing: None,
            last_slice: 0,
            slice_max_nanos: 0,
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
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(b"bench:k:");
        key[8..].copy_from_slice(&number.to_be_bytes());
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
        while self.writing.is_some() {
            let moved = self.slice()?;
            if !self.poll()? && !moved {
                self.wait();
            }
        }
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

    /// Writes at a fixed rate, in turns as a core takes them, with snapshots in between or without.
    pub(super) fn foreground(&mut self, rate: u64, seconds: f64, snapshots: bool) -> Result<Foreground> {
        let mut latencies = Latencies::new()?;
        let (mut sent, mut taken, mut state_bytes_max) = (0, 0, 0);
        let due_nanos = |n: u64| (u128::from(n) * 1_000_000_000 / u128::from(rate)) as u64;
        let length = (seconds * 1e9) as u64;
        self.slice_max_nanos = 0;
        let start = clock::now_nanos();
        loop {
            let now = clock::now_nanos() - start;
            if now >= length {
                break;
            }
            let turn = sent + WRITES_PER_TURN;
            while sent < turn && due_nanos(sent) <= now {
                self.set_any();
                latencies.record((clock::now_nanos() - start).saturating_sub(due_nanos(sent)));
                sent += 1;
            }
            if !snapshots {
                continue;
            }
            if self.writing.is_none() {
                state_bytes_max = state_bytes_max.max(self.state_bytes());
                self.begin_snapshot()?;
            } else if now.saturating_sub(self.last_slice) >= self.settings.slice_interval.as_nanos() as u64 {
                self.last_slice = now;
                state_bytes_max = state_bytes_max.max(self.state_bytes());
                self.slice()?;
            }
            self.poll()?;
            taken += u64::from(self.writing.is_none());
        }
        let seconds = clock::since(start).as_secs_f64();
        self.give_up()?;
        let slice_max_nanos = self.slice_max_nanos;
        Ok(Foreground { latencies, seconds, snapshots: taken, slice_max_nanos, state_bytes_max })
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
        self.last_slice = 0;
        self.writing = Some(Writing { write, view: Some(view), rest: Vec::new(), from: 0 });
        Ok(())
    }

    /// The next part of the view goes to the store. False if the store has no room now, or has all.
    fn slice(&mut self) -> Result<bool> {
        let Some(writing) = &mut self.writing else { return Ok(false) };
        let start = clock::now_nanos();
        let had_view = writing.view.is_some();
        if writing.from == writing.rest.len()
            && let Some(mut view) = writing.view.take()
        {
            writing.rest.clear();
            writing.from = 0;
            match self.machine.write_view(&mut view, self.settings.slice_bytes as usize, &mut writing.rest) {
                true => self.machine.release(view),
                false => writing.view = Some(view),
            }
        }
        let left = writing.rest.len() - writing.from;
        if left == 0 && !had_view {
            return Ok(false);
        }
        let taken = self.store.write(writing.write, &writing.rest[writing.from..])?;
        writing.from += taken;
        if writing.view.is_none() && writing.from == writing.rest.len() {
            self.store.finish(writing.write)?;
            (writing.rest, writing.from) = (Vec::new(), 0);
        }
        self.slice_max_nanos = self.slice_max_nanos.max(clock::now_nanos() - start);
        Ok(taken > 0)
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

    /// Ends the snapshot that is under way: writes it to its end, so that the next measurement begins with nothing under way.
    fn give_up(&mut self) -> Result<()> {
        while self.writing.is_some() {
            let moved = self.slice()?;
            if !self.poll()? && !moved {
                self.wait();
            }
        }
        Ok(())
    }

    /// Until the disk has something to say.
    fn wait(&mut self) {
        let raw = self.store.disk().event_fd();
        // SAFETY: the descriptor is that of the store's disk, which outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: WAIT_MAX_NANOS };
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        // Whether it timed out or not: the next poll looks at everything.
        let _ = rustix::event::poll(&mut polled, Some(&timeout));
        if polled[0].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }
}
