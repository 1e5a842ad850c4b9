//! What a core starts from: the newest good snapshot of each group, loaded before the log is read.
//!
//! A few files are read at the same time: that bounds the memory beside the states themselves, of which each is built once. A file
//! that turns out to be damaged is put aside, and the next older one is taken; whether the log still reaches back to
//! it, the log tells when it is read.

use std::collections::VecDeque;

use logdrive_shard::{GroupId, Membership, Moment, SessionTable, SnapshotMeta};
use logdrive_wal::Disk;

use crate::api::{CoreSettings, StateMachine};
use crate::core::sessions::Sessions;
use crate::snapshot::{ReadId, ReadPart, SnapshotHeader, SnapshotId, SnapshotStore, StoreEvent};

/// The life of the group that a snapshot is of, and what it says.
pub(in crate::core) type Loaded = Option<(u16, SnapshotMeta)>;

/// Slot, group and life.
type OfGroup = (u32, GroupId, u32);

/// A file that is being loaded.
struct Load<L> {
    slot: u32,
    read: ReadId,
    header: SnapshotHeader,
    meta: SnapshotMeta,
    loading: L,
    sessions: Option<SessionTable>,
}

struct Loader<'a, D: Disk, M: StateMachine> {
    store: &'a mut SnapshotStore<D>,
    machine: &'a mut M,
    sessions: &'a mut Sessions,
    loads: Vec<Load<M::Loading>>,
    /// Groups that have files, and their latest life that has.
    line: VecDeque<OfGroup>,
    /// Files that are not good, whatever the store thinks.
    bad: Vec<SnapshotId>,
    loaded: Vec<Loaded>,
    bytes: u64,
}

/// Loads the newest good snapshot of each group, by slot. Blocks on the disk.
pub(in crate::core) fn load<D: Disk, M: StateMachine>(
    store: &mut SnapshotStore<D>,
    machine: &mut M,
    sessions: &mut Sessions,
    (sorted, settings): (&[(GroupId, u32)], &CoreSettings),
    progress: &mut dyn FnMut(u64, u64),
) -> Vec<Loaded> {
    let of_group =
        |header: &SnapshotHeader| Some((crate::core::find(sorted, header.group)?, header.group, header.life));
    // By group and life.
    let mut line: Vec<OfGroup> = store.snapshots().filter_map(of_group).collect();
    line.reverse();
    line.dedup_by_key(|of| of.0);
    let mut loader = Loader {
        store,
        machine,
        sessions,
        loads: Vec::new(),
        line: line.into(),
        bad: Vec::new(),
        loaded: sorted.iter().map(|_| None).collect(),
        bytes: 0,
    };
    let newest = loader.line.iter().filter_map(|of| loader.choose(*of));
    let total: u64 = newest.map(|header| header.file_bytes()).sum();
    let mut events = Vec::new();
    loop {
        loader.begin(settings.snapshots.loads_at_once.max(1) as usize);
        if loader.loads.is_empty() {
            return loader.loaded;
        }
        loader.store.wait(Moment(0), &mut events);
        for event in events.drain(..) {
            match event {
                StoreEvent::Readable { read } => loader.read(read),
                StoreEvent::ReadFailed { read, failure, .. } => loader.give_up(read, &failure),
                other => tracing::debug!(?other, "nothing else was begun while a core opens"),
            }
        }
        progress(loader.bytes.min(total), total);
    }
}

impl<D: Disk, M: StateMachine> Loader<'_, D, M> {
    /// The newest file of a group's life that may be good.
    fn choose(&self, (_, group, life): OfGroup) -> Option<&SnapshotHeader> {
        let is_good = |header: &&SnapshotHeader| !self.bad.contains(&header.id);
        let newest = self.store.newest(group, life).ok()??;
        if is_good(&newest) {
            return Some(newest);
        }
        let others = self.store.snapshots().filter(|header| (header.group, header.life) == (group, life));
        others.filter(is_good).max_by_key(|header| (header.index, header.id))
    }

    fn begin(&mut self, at_once: usize) {
        while self.loads.len() < at_once {
            let Some(of) = self.line.pop_front() else { return };
            let Some(header) = self.choose(of).cloned() else { continue };
            let slot = of.0;
            let meta = Membership::decode(&header.membership).map(|membership| SnapshotMeta {
                index: header.index,
                term: header.term,
                membership,
                membership_index: header.membership_index,
            });
            let begun = meta.map_err(|error| error.to_string()).and_then(|meta| {
                Ok((meta, self.store.begin_read(header.id).map_err(|error| error.to_string())?))
            });
            match begun {
                Ok((meta, read)) => {
                    let loading = self.machine.begin_load(slot);
                    self.loads.push(Load { slot, read, header, meta, loading, sessions: None });
                }
                Err(error) => self.refuse(slot, &header, &error),
            }
        }
    }

    /// Takes what can be had of a file.
    fn read(&mut self, read: ReadId) {
        let Some(at) = self.loads.iter().position(|load| load.read == read) else { return };
        loop {
            let load = &mut self.loads[at];
            let part = match self.store.read_part(read) {
                Ok(Some(part)) => part,
                // More comes, or word of a failure.
                Ok(None) | Err(_) => return,
            };
            let taken = match part {
                ReadPart::Sessions(bytes) => decode_sessions(&bytes).map(|sessions| load.sessions = sessions),
                ReadPart::State(bytes) => {
                    self.bytes += bytes.len() as u64;
                    self.machine.load_part(&mut load.loading, &bytes).map_err(|error| error.to_string())
                }
                ReadPart::End => return self.finish(at),
            };
            if let Err(error) = taken {
                self.store.end_read(read);
                return self.give_up(read, &error);
            }
        }
    }

    fn finish(&mut self, at: usize) {
        let Load { slot, header, meta, loading, sessions, .. } = self.loads.swap_remove(at);
        if let Err(error) = self.machine.finish_load(slot, loading) {
            return self.refuse(slot, &header, &error);
        }
        self.sessions.install(slot, sessions);
        // Lives are counted in 16 bits; a file that names another was not written by any version of this software.
        let life = u16::try_from(header.life).unwrap_or(u16::MAX);
        self.loaded[slot as usize] = Some((life, meta));
    }

    fn give_up(&mut self, read: ReadId, why: &dyn std::fmt::Display) {
        let Some(at) = self.loads.iter().position(|load| load.read == read) else { return };
        let load = self.loads.swap_remove(at);
        self.refuse(load.slot, &load.header, why);
    }

    /// A file is no good: the next older one is tried.
    fn refuse(&mut self, slot: u32, header: &SnapshotHeader, why: &dyn std::fmt::Display) {
        tracing::error!(
            group = %header.group,
            index = %header.index,
            %why,
            "a snapshot cannot be loaded; an older one and the log take its place, or the group's leader"
        );
        self.bad.push(header.id);
        self.line.push_front((slot, header.group, header.life));
    }
}

/// The sessions of a snapshot; none if the group never had any.
pub(super) fn decode_sessions(bytes: &[u8]) -> Result<Option<SessionTable>, String> {
    match bytes {
        [] => Ok(None),
        bytes => SessionTable::decode(bytes).map(Some).map_err(|error| error.to_string()),
    }
}
