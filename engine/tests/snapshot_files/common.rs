//! What the tests share: snapshots whose content is known, and a loop that polls until something happens.

use logdrive::snapshot::{
    ReadFailure, ReadId, ReadPart, ReceiveError, Received, SnapshotFileSettings, SnapshotId, SnapshotMeta,
    SnapshotStore, StoreEvent, WriteFailure, WriteId,
};
use logdrive_shard::{
    Admitted, GroupId, LogIndex, Members, Membership, Moment, NodeId, SessionEntry, SessionOp, SessionTable,
    Term,
};
use logdrive_wal::{Disk, SimDisk, SimOptions};

/// Polls without progress before a test gives up.
const POLLS_MAX: u32 = 100_000;

pub(crate) fn settings() -> SnapshotFileSettings {
    SnapshotFileSettings { chunk_bytes: 4096, space_reserve_bytes: 0, ..SnapshotFileSettings::default() }
}

pub(crate) fn sim(seed: u64) -> SimDisk {
    SimDisk::new(SimOptions { seed, capacity_bytes: 64 << 20 })
}

pub(crate) fn meta(group: u64, index: u64) -> SnapshotMeta {
    let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
    let membership = Membership::new(Members { voters, ..Members::default() }).unwrap();
    SnapshotMeta {
        group: GroupId(group),
        life: 0,
        index: LogIndex(index),
        term: Term(7),
        membership_index: LogIndex(index / 2),
        membership: membership.encode(),
        sessions: sessions(group ^ index),
    }
}

/// A table with one session and the reply to its command.
fn sessions(seed: u64) -> Vec<u8> {
    let mut table = SessionTable::default();
    let entry = |op| {
        let mut bytes = Vec::new();
        SessionEntry { time_millis: 1000, expires_after_millis: 60_000, op }.encode(&mut bytes);
        bytes
    };
    assert!(matches!(table.admit(1, &entry(SessionOp::Open)), Admitted::Opened(1)));
    let command = entry(SessionOp::Command { session: 1, sequence: 1, answered_below: 1, command: b"c" });
    let Admitted::Execute { key, .. } = table.admit(2, &command) else { panic!("not executed") };
    table.executed(key, &bytes(seed, 60));
    let mut encoded = Vec::new();
    table.encode(&mut encoded);
    encoded
}

/// Bytes that say where they come from.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

/// The state of a group's snapshot at an index.
pub(crate) fn state(group: u64, index: u64, len: usize) -> Vec<u8> {
    bytes(group * 1_000_003 + index, len)
}

/// A store, the time and the events that nobody has taken yet.
pub(crate) struct Bench<D: Disk> {
    pub(crate) store: SnapshotStore<D>,
    pub(crate) now: u64,
    pub(crate) events: Vec<StoreEvent>,
    /// What is done when only the disk can go on.
    pub(crate) pause: fn(&D),
}

impl<D: Disk> Bench<D> {
    pub(crate) fn open(disk: D, settings: SnapshotFileSettings) -> Bench<D> {
        let (store, _) = SnapshotStore::open(disk, settings).unwrap();
        Bench::of(store)
    }

    pub(crate) fn of(store: SnapshotStore<D>) -> Bench<D> {
        Bench { store, now: 0, events: Vec::new(), pause: |_| () }
    }

    pub(crate) fn poll(&mut self) {
        self.now += 1000;
        if !self.store.poll(Moment(self.now), &mut self.events) {
            (self.pause)(self.store.disk());
        }
    }

    /// A chunk as it is sent.
    pub(crate) fn chunk(&mut self, read: ReadId, number: u64) -> Vec<u8> {
        assert!(self.store.read_chunk(read, number).unwrap());
        self.until(|event| match event {
            StoreEvent::Chunk { read: of, number: which, bytes } if *of == read && *which == number => {
                Some(bytes.clone())
            }
            _ => None,
        })
    }

    /// All chunks of a snapshot, and its header.
    pub(crate) fn chunks(&mut self, snapshot: SnapshotId) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (header, count) =
            (self.store.header_of(snapshot).unwrap(), self.store.header(snapshot).unwrap().chunks());
        let read = self.store.begin_send(snapshot).unwrap();
        let chunks = (0..count).map(|number| self.chunk(read, number)).collect();
        self.store.end_read(read);
        (header, chunks)
    }

    /// Gives a chunk to a reception, when there is room.
    pub(crate) fn give(
        &mut self,
        write: WriteId,
        snapshot: SnapshotId,
        number: u64,
        bytes: &[u8],
    ) -> Result<Received, ReceiveError> {
        for _ in 0..POLLS_MAX {
            match self.store.receive(write, snapshot, number, bytes) {
                Ok(Received::Full) => self.poll(),
                other => return other,
            }
        }
        panic!("there never was room");
    }

    /// Polls until an event is there for which the function answers something.
    pub(crate) fn until<T>(&mut self, mut wanted: impl FnMut(&StoreEvent) -> Option<T>) -> T {
        for _ in 0..POLLS_MAX {
            if let Some((at, found)) =
                self.events.iter().enumerate().find_map(|(at, event)| Some((at, wanted(event)?)))
            {
                self.events.remove(at);
                return found;
            }
            self.poll();
        }
        panic!("it never came; what came: {:?}", self.events);
    }

    pub(crate) fn feed(&mut self, write: WriteId, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..POLLS_MAX {
            let Ok(taken) = self.store.write(write, rest) else { return };
            rest = &rest[taken..];
            if rest.is_empty() {
                return;
            }
            self.poll();
        }
        panic!("there never was room");
    }

    pub(crate) fn wait(&mut self, write: WriteId) -> Result<SnapshotId, WriteFailure> {
        self.until(|event| match event {
            StoreEvent::Durable { write: of, snapshot } if *of == write => Some(Ok(*snapshot)),
            StoreEvent::WriteFailed { write: of, failure } if *of == write => Some(Err(failure.clone())),
            _ => None,
        })
    }

    /// Writes a whole snapshot.
    pub(crate) fn write(&mut self, meta: SnapshotMeta, state: &[u8]) -> Result<SnapshotId, WriteFailure> {
        let write = self.store.begin_write(meta, state.len() as u64).unwrap();
        self.feed(write, state);
        let _ = self.store.finish(write);
        self.wait(write)
    }

    /// Reads a whole snapshot: sessions and state.
    pub(crate) fn read(&mut self, snapshot: SnapshotId) -> Result<(Vec<u8>, Vec<u8>), ReadFailure> {
        let read = self.store.begin_read(snapshot).unwrap();
        let (mut sessions, mut state) = (None, Vec::new());
        for _ in 0..POLLS_MAX {
            match self.store.read_part(read) {
                Ok(Some(ReadPart::Sessions(bytes))) => assert!(sessions.replace(bytes).is_none()),
                Ok(Some(ReadPart::State(mut bytes))) => state.append(&mut bytes),
                Ok(Some(ReadPart::End)) => return Ok((sessions.unwrap(), state)),
                Ok(None) | Err(_) => self.poll(),
            }
            let failed = self.events.iter().find_map(|event| match event {
                StoreEvent::ReadFailed { read: of, failure, .. } if *of == read => Some(failure.clone()),
                _ => None,
            });
            if let Some(failure) = failed {
                return Err(failure);
            }
        }
        panic!("it was never read");
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..POLLS_MAX {
            self.poll();
            self.events.clear();
            if self.store.is_idle() {
                return;
            }
        }
        panic!("it never came to rest");
    }

    pub(crate) fn newest_index(&self, group: u64) -> Option<u64> {
        self.store.newest(GroupId(group), 0).unwrap().map(|header| header.index.0)
    }
}
