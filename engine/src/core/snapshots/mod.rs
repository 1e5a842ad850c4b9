//! Snapshots of this core's groups: when one is taken, how it is written beside everything else, what of the log may go then, what a
//! core starts from, and how one that came from another node takes the place of a group's log.
//!
//! | file | |
//! |---|---|
//! | `triggers` | which group needs one, and when |
//! | `slices` | when a slice of the work on a file is done, and where it ends |
//! | `writing` | from the frozen state to the durable file, step by step; compaction of the log |
//! | `load` | what a core starts from |
//! | `install` | a complete file takes the place of a group's log and state |
//! | `transfer` | snapshots on their way between nodes: what is common to both ends |
//! | `send` | a leader brings up a member that its log does not reach any more |
//! | `hold` | the log behind a snapshot stays for who has just got it |
//! | `asked` | members that ask by themselves, and those that do not take what they are offered |
//! | `relay` | a follower sends in the place of a leader that sends enough |
//! | `receive` | the other end |
//! | `status` | what is told about it |
//!
//! The files are [`SnapshotStore`]'s. Which configuration and which sessions belong to a state is known here: as entries are applied,
//! the configurations among them are noted.

mod asked;
mod hold;
mod install;
mod load;
mod receive;
mod relay;
mod send;
mod slices;
mod status;
mod transfer;
mod triggers;
mod writing;

use std::collections::VecDeque;

use logdrive_shard::{GroupId, LogIndex, Membership, Moment, Start};
use logdrive_wal::{Disk, Ticket};

use self::install::{Incoming, Install, Refusal};
use self::slices::Slices;
use self::transfer::Transfers;
use self::triggers::Failures;
use self::writing::Writing;
use super::Core;
use super::types::PortId;
use crate::api::{CoreSettings, StateMachine};
use crate::snapshot::{SnapshotFileSettings, SnapshotOpenError, SnapshotStore, StoreEvent};

pub use install::Offered;
pub(super) use load::load;
pub use status::{SnapshotCounters, SnapshotStatus};
pub(super) use transfer::SnapshotOrder;
pub use transfer::{TransferCounters, TransferStatus, TransferStep};

/// Requests for a snapshot that wait for it, for each group at most.
const ASKED_MAX: usize = 16;

/// Somebody who waits for a snapshot.
#[derive(Clone, Copy, Debug)]
struct Asked {
    port: PortId,
    token: u64,
    /// What was applied when it was asked for.
    index: LogIndex,
}

/// What is known of one group's snapshots.
#[derive(Debug, Default)]
struct GroupSnapshots {
    /// The newest durable one stands for the log up to here; 0 if there is none.
    index: LogIndex,
    /// Bytes of its file.
    file_bytes: u64,
    /// When it became durable; nothing of those that were there when the core opened.
    at: Option<Moment>,
    /// About how many bytes of entries were applied that it does not stand for.
    log_bytes: u64,
    /// About how many bytes an entry took between the last two snapshots.
    entry_bytes: u64,
    /// The configuration that was applied last, and the index of its entry.
    membership_index: LogIndex,
    membership: Membership,
    /// Waits for its turn.
    is_due: bool,
    /// Is being written, or installed.
    is_busy: bool,
    /// Is in [`Snapshots::uncut`].
    is_uncut: bool,
    /// The log asked for old entries: none are kept for slow followers.
    eased: bool,
    /// Who waits for a snapshot, and of what at least.
    asked: Vec<Asked>,
    /// Why the last one came to nothing.
    failure: Option<Box<str>>,
    /// The state machine could make nothing of one from another node.
    refusal: Option<Refusal>,
}

/// See the module.
pub(super) struct Snapshots<D: Disk, M: StateMachine> {
    pub(super) store: SnapshotStore<D>,
    groups: Vec<GroupSnapshots>,
    due: VecDeque<u32>,
    writings: Vec<Writing<M::View>>,
    incoming: Vec<Incoming>,
    installs: Vec<Install<M::Loading>>,
    slices: Slices,
    failures: Failures,
    /// Groups whose log could not be cut for want of room, to be tried again; each once.
    uncut: Vec<u32>,
    next_cut: Moment,
    /// The store has more to do at once.
    more: bool,
    events: Vec<StoreEvent>,
    /// Events of files that are sent or received.
    foreign: Vec<StoreEvent>,
    /// What is on its way to other nodes, or from them.
    transfers: Transfers,
    /// Lives of groups that are over: their files go when the log says so durably, which it does with these writes.
    over: Vec<(GroupId, u32, Ticket)>,
    /// When it is looked at next whether the log is half full.
    next_ease: Moment,
    /// Spreads the groups' thresholds.
    seed: u64,
    /// Entries of a group between two looks at its growth, as a power of two.
    look_shift: u32,
    counters: SnapshotCounters,
}

/// Opens the directory of snapshots.
pub(super) fn open_store<D: Disk>(
    disk: D,
    settings: &CoreSettings,
    seed: u64,
) -> Result<SnapshotStore<D>, SnapshotOpenError> {
    let snapshots = &settings.snapshots;
    let files = SnapshotFileSettings {
        id_seed: seed,
        writes_max: snapshots.files.writes_max.max(snapshots.at_once),
        reads_max: snapshots.files.reads_max.max(snapshots.loads_at_once),
        ..snapshots.files.clone()
    };
    let (store, opened) = SnapshotStore::open(disk, files)?;
    for file in &opened.half_written {
        tracing::info!(file, "a snapshot that was not complete when the process ended is removed");
    }
    for file in &opened.half_received {
        tracing::info!(
            file,
            "a snapshot that was being received when the process ended is gone on with if it is offered again"
        );
    }
    for damage in &opened.damaged {
        tracing::error!(%damage, "a snapshot is not used; an older one and the log take its place, or the group's leader");
    }
    Ok(store)
}

impl<D: Disk, M: StateMachine> Snapshots<D, M> {
    pub(super) fn new(
        store: SnapshotStore<D>,
        slots: usize,
        seed: u64,
        settings: &CoreSettings,
    ) -> Snapshots<D, M> {
        Snapshots {
            store,
            groups: (0..slots).map(|_| GroupSnapshots::default()).collect(),
            due: VecDeque::new(),
            writings: Vec::new(),
            incoming: Vec::new(),
            installs: Vec::new(),
            slices: Slices::default(),
            failures: Failures::default(),
            uncut: Vec::new(),
            over: Vec::new(),
            next_cut: Moment::NEVER,
            more: true,
            events: Vec::new(),
            foreign: Vec::new(),
            transfers: Transfers::new(settings.snapshots.transfer_bytes_per_s),
            next_ease: Moment(0),
            seed,
            look_shift: triggers::look_shift(settings.snapshots.every_entries),
            counters: SnapshotCounters::default(),
        }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// What opening found of a group.
    pub(super) fn snapshots_found(&mut self, slot: u32, start: &Start, log_bytes: u64) {
        let at = slot as usize;
        let applied = self.io.lanes[at].applied;
        let newest = self.snapshots.store.newest(self.ids[at], self.lives[at].number());
        let newest = newest.ok().flatten().map(|header| (header.index, header.file_bytes()));
        if let Some(before) = self.lives[at].number().checked_sub(1) {
            // What was not removed when the group began anew.
            self.snapshots.store.forget(self.ids[at], before);
        }
        let state = &mut self.snapshots.groups[at];
        (state.index, state.file_bytes) = newest.unwrap_or_default();
        state.log_bytes = log_bytes;
        let in_force =
            start.memberships.iter().filter(|known| known.0 <= applied).max_by_key(|known| known.0);
        if let Some((index, membership)) = in_force {
            (state.membership_index, state.membership) = (*index, membership.clone());
        }
        if self.groups[at].first_index() > state.index.next() {
            // The log was cut behind a snapshot that cannot be used any more. Only entries that had been given up, and that nothing keeps
            // from being recycled, brought the state back this time.
            self.want_snapshot(slot, true);
        }
    }

    /// A configuration is applied.
    #[cold]
    pub(super) fn note_membership(&mut self, slot: u32, index: LogIndex, bytes: &[u8]) {
        // It was decoded once before, when it was appended.
        if let Ok(membership) = Membership::decode(bytes) {
            let state = &mut self.snapshots.groups[slot as usize];
            (state.membership_index, state.membership) = (index, membership);
        }
    }

    /// The group begins a new life here: its snapshots are void.
    pub(super) fn forget_snapshots(&mut self, slot: u32) {
        let at = slot as usize;
        if let Some(before) = self.lives[at].number().checked_sub(1) {
            self.snapshots.over.push((self.ids[at], before, self.io.wal.last_ticket()));
        }
        self.abandon_writing(slot);
        self.abandon_installs(slot);
        let state = &mut self.snapshots.groups[at];
        let asked = std::mem::take(&mut state.asked);
        // What waits in the queue finds nothing to do.
        *state =
            GroupSnapshots { is_due: state.is_due, is_uncut: state.is_uncut, ..GroupSnapshots::default() };
        for asked in asked {
            self.answer_snapshot(asked, Err(crate::api::Error::NoSuchGroup));
        }
    }

    /// Removes the files of lives that are durably over. Without them, and without word of the end, the next start would find that the disk
    /// has lost something.
    fn forget_what_is_over(&mut self) {
        let durable = self.io.wal.durable();
        while let Some(at) = self.snapshots.over.iter().position(|over| over.2 <= durable) {
            let (group, life, _) = self.snapshots.over.swap_remove(at);
            self.snapshots.store.forget(group, life);
            self.snapshots.more = true;
        }
    }

    /// What is done for snapshots in a turn, after everything that clients and peers wait for.
    pub(super) fn tend_snapshots(&mut self) {
        self.forget_what_is_over();
        if self.snapshots.is_quiet() && self.io.queues.snapshots.is_empty() {
            return;
        }
        self.tend_transfers();
        self.cut_logs_again();
        self.begin_due_snapshots();
        self.slice_in_turn();
        self.poll_store();
    }

    /// When the next turn must be for the sake of snapshots.
    pub(super) fn next_snapshot_work(&self) -> Moment {
        let snapshots = &self.snapshots;
        if snapshots.is_quiet() && self.io.queues.snapshots.is_empty() {
            return Moment::NEVER;
        }
        if snapshots.more || !self.io.queues.snapshots.is_empty() {
            return self.io.now;
        }
        let mut next = snapshots.store.next_wake().min(snapshots.next_cut);
        next = next.min(snapshots.next_slice(self.io.others_at));
        if !snapshots.due.is_empty() && snapshots.writings.len() < self.snapshots_at_once() {
            next = next.min(snapshots.failures.pause_until);
        }
        next.min(self.next_transfer_work()).max(self.io.now)
    }

    /// The disk of the snapshots, for what only its kind has.
    pub fn snapshot_disk(&mut self) -> &mut D {
        self.snapshots.store.disk_mut()
    }

    /// The store of this core's snapshots, for their transfer, and for tests.
    pub fn snapshots(&mut self) -> &mut SnapshotStore<D> {
        self.snapshots.more = true;
        &mut self.snapshots.store
    }

    pub(super) fn on_snapshot_disk(&mut self) {
        self.snapshots.more = true;
    }

    fn poll_store(&mut self) {
        let snapshots = &mut self.snapshots;
        let mut events = std::mem::take(&mut snapshots.events);
        snapshots.more = snapshots.store.poll(self.io.now, &mut events) || !events.is_empty();
        for event in events.drain(..) {
            self.on_store_event(event);
        }
        self.snapshots.events = events;
    }

    fn on_store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Durable { write, snapshot } => match self.snapshots.writing(write) {
                Some(at) => self.on_written(at),
                None => self.on_received(write, snapshot),
            },
            StoreEvent::WriteFailed { write, ref failure } => match self.snapshots.writing(write) {
                Some(at) => self.on_write_failed(at, &failure.to_string()),
                None if self.snapshots.is_incoming(write) => {
                    self.snapshots.incoming.retain(|incoming| incoming.write != write);
                    self.snapshots.foreign.push(event);
                }
                // It was given up, and nobody waits for that.
                None => {}
            },
            StoreEvent::Writable { write } => match self.snapshots.writing(write) {
                Some(at) => self.snapshots.writings[at].is_stuck = false,
                None if self.snapshots.is_incoming(write) => self.snapshots.foreign.push(event),
                None => {}
            },
            StoreEvent::Readable { read } => {
                if let Some(at) = self.snapshots.install(read) {
                    self.snapshots.installs[at].is_stuck = false;
                }
            }
            StoreEvent::ReadFailed { read, ref failure, .. } => match self.snapshots.install(read) {
                Some(at) => self.give_up_install(at, &failure.to_string()),
                None => self.snapshots.foreign.push(event),
            },
            StoreEvent::Chunk { .. } => self.snapshots.foreign.push(event),
        }
    }
}

impl<D: Disk, M: StateMachine> Snapshots<D, M> {
    /// Whether there is nothing to do: the usual case, which costs a turn as little as possible.
    fn is_quiet(&self) -> bool {
        !self.more
            && self.due.is_empty()
            && self.uncut.is_empty()
            && self.installs.is_empty()
            && self.transfers.is_quiet()
            && self.foreign.is_empty()
            && self.store.is_idle()
    }
}
