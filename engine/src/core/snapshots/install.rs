//! A snapshot that came from another node takes the place of a group's log and state.
//!
//! The order is that of `shard`'s `snapshot.rs`. The file is complete and durable before anything else, and its state is built beside the one
//! in use, slice by slice. Then, in one turn: the group decides, the log is moved, state and sessions are swapped, and the answer is
//! parked until the log is durable. If the process ends in between, the next start finds a snapshot that is ahead of the log,
//! or beside it, and moves the log then.

use std::time::Duration;

use logdrive_shard::{
    Append, AppendReply, Env, Fit, Group, HardState, Heartbeat, HeartbeatReply, LogIndex, Membership, Moment,
    NodeId, Role, Route, SessionTable, Sink, SnapshotDecision, Term, TimeoutNow, VoteReply, VoteRequest,
};
use logdrive_wal::Disk;

use super::Snapshots;
use super::load::decode_sessions;
use super::slices::Step;
use super::triggers::CUT_RETRY;
use crate::api::StateMachine;
use crate::core::lane::Flags;
use crate::core::lives::Life;
use crate::core::loads::Purpose;
use crate::core::record::STATE_BYTES;
use crate::core::step::RECORD_BYTES;
use crate::core::{Core, Slot};
use crate::snapshot::{BeginError, ReadId, ReadPart, SnapshotHeader, SnapshotId, StoreEvent, WriteId};

/// What a log takes that is moved, at most: two compactions and two states.
const MOVE_BYTES: u64 = 4 * (STATE_BYTES as u64 + RECORD_BYTES);

/// Who sent a snapshot, and for which group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    slot: u32,
    life: Life,
    from: NodeId,
    leader_term: Term,
}

/// A snapshot that could not be loaded is not taken again for long: what was wrong with it is most likely wrong with it the next time.
/// Others are tried after a pause, which doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    snapshot: SnapshotId,
    count: u32,
    at: Moment,
    until: Moment,
}

impl Refusal {
    fn holds(&self, snapshot: SnapshotId, now: Moment) -> bool {
        now < self.until || (snapshot == self.snapshot && now.since(self.at) < REFUSE_MAX)
    }
}

/// The first pause after a snapshot that could not be loaded.
const REFUSE_MIN: Duration = Duration::from_secs(1);
/// The longest.
const REFUSE_MAX: Duration = Duration::from_secs(600);

/// A file that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) write: WriteId,
    origin: Origin,
}

/// A complete file whose state is being built.
pub(super) struct Install<L> {
    origin: Origin,
    header: SnapshotHeader,
    read: ReadId,
    loading: L,
    sessions: Option<SessionTable>,
    /// Read, and from where on the state machine has not taken it.
    rest: Vec<u8>,
    from: usize,
    pub(super) is_stuck: bool,
    /// All of it was good.
    is_built: bool,
    /// The log had no room: not before.
    not_before: Moment,
}

impl<L> Install<L> {
    pub(super) fn wants_slice(&self, now: Moment) -> bool {
        self.wants_slice_at().is_some_and(|at| at <= now)
    }

    /// When it goes on by itself.
    pub(super) fn wants_slice_at(&self) -> Option<Moment> {
        (!self.is_stuck).then_some(self.not_before)
    }
}

/// What became of the offer of a snapshot.
#[derive(Debug)]
pub enum Offered {
    /// It is being received: its chunks go to the store under this name. When all are here it is installed without further ado.
    Receive(WriteId),
    /// It is here already, complete, and is being installed.
    Here,
    /// This member has no use for it: its log is as far, or the offer is of a leader of the past.
    Unneeded,
    /// The state machine could make nothing of it before, or of another one a moment ago.
    Refused,
}

impl<D: Disk, M: StateMachine> Snapshots<D, M> {
    pub(super) fn is_incoming(&self, write: WriteId) -> bool {
        self.incoming.iter().any(|incoming| incoming.write == write)
    }

    pub(super) fn install(&self, read: ReadId) -> Option<usize> {
        self.installs.iter().position(|install| install.read == read)
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// The leader `from` of `leader_term` offers a snapshot, whose header (as in the file) comes ahead of its chunks.
    ///
    /// # Errors
    /// The store cannot take it now, or never.
    pub fn offer_snapshot(
        &mut self,
        slot: Slot,
        from: NodeId,
        leader_term: Term,
        header: &[u8],
    ) -> Result<Offered, BeginError> {
        let at = slot.0 as usize;
        let named = SnapshotHeader::decode(header).map_err(BeginError::Header)?;
        if named.group != self.ids[at] || !self.is_of_use(slot.0, leader_term, named.index) {
            return Ok(Offered::Unneeded);
        }
        let now = self.io.now;
        if self.snapshots.groups[at].refusal.is_some_and(|refusal| refusal.holds(named.id, now)) {
            return Ok(Offered::Refused);
        }
        let life = self.lives[at];
        let origin = Origin { slot: slot.0, life, from, leader_term };
        self.snapshots.more = true;
        let write = match self.snapshots.store.begin_receive(header, life.number()) {
            Ok(write) => write,
            Err(BeginError::Here(snapshot)) => {
                self.begin_install(origin, snapshot);
                return Ok(Offered::Here);
            }
            Err(error) => return Err(error),
        };
        // A leader of a later term may go on with the same file.
        self.snapshots.incoming.retain(|incoming| incoming.write != write);
        self.snapshots.incoming.push(Incoming { write, origin });
        Ok(Offered::Receive(write))
    }

    /// Whether a snapshot up to `index` would be installed.
    fn is_of_use(&self, slot: u32, leader_term: Term, index: LogIndex) -> bool {
        let at = slot as usize;
        index > self.io.lanes[at].applied && self.groups[at].needs_snapshot(leader_term, index)
    }

    /// Whether a snapshot of the group comes from another node, or is being installed.
    pub(in crate::core) fn is_brought_up(&self, slot: u32) -> bool {
        self.is_receiving(slot) || self.snapshots.installs.iter().any(|install| install.origin.slot == slot)
    }

    /// Events of files that are being received or sent: those that concern nobody else here.
    pub fn take_transfer_events(&mut self, events: &mut Vec<StoreEvent>) {
        events.append(&mut self.snapshots.foreign);
    }

    /// A file is complete and durable.
    pub(super) fn on_received(&mut self, write: WriteId, snapshot: SnapshotId) {
        let incoming = &mut self.snapshots.incoming;
        let Some(at) = incoming.iter().position(|incoming| incoming.write == write) else { return };
        let Incoming { origin, .. } = incoming.swap_remove(at);
        self.snapshots.foreign.push(StoreEvent::Durable { write, snapshot });
        self.begin_install(origin, snapshot);
    }

    fn begin_install(&mut self, origin: Origin, snapshot: SnapshotId) {
        let at = origin.slot as usize;
        let same = |install: &Install<M::Loading>| install.header.id == snapshot;
        if let Some(install) = self.snapshots.installs.iter_mut().find(|install| same(install)) {
            install.origin = origin;
            return;
        }
        let Some(header) = self.snapshots.store.header(snapshot).cloned() else { return };
        let is_needed = self.is_of_use(origin.slot, origin.leader_term, header.index);
        if self.lives[at].count != origin.life.count || !is_needed {
            self.snapshots.store.remove(snapshot);
            return;
        }
        // One at a time: an older one that is being built is not worth going on with.
        self.abandon_installs(origin.slot);
        self.abandon_writing(origin.slot);
        match self.snapshots.store.begin_read(snapshot) {
            Ok(read) => {
                let loading = self.machine.begin_load(origin.slot);
                self.snapshots.groups[at].is_busy = true;
                self.snapshots.more = true;
                self.snapshots.installs.push(Install {
                    origin,
                    header,
                    read,
                    loading,
                    sessions: None,
                    rest: Vec::new(),
                    from: 0,
                    is_stuck: false,
                    is_built: false,
                    not_before: Moment(0),
                });
            }
            Err(error) => self.on_install_failed(origin.slot, &error.to_string()),
        }
    }

    /// Builds the next part of a state.
    pub(super) fn load_step(&mut self, at: usize, bytes_max: usize) -> Step {
        self.snapshots.more = true;
        let install = &mut self.snapshots.installs[at];
        if install.is_built {
            self.finish_install(at);
            return Step::Over;
        }
        if install.from < install.rest.len() {
            let end = install.rest.len().min(install.from + bytes_max);
            let bytes = end - install.from;
            let taken = self.machine.load_part(&mut install.loading, &install.rest[install.from..end]);
            install.from = end;
            if let Err(error) = taken {
                self.give_up_bad(at, &error.to_string());
                return Step::Over;
            }
            return Step::Done(bytes as u64);
        }
        match self.snapshots.store.read_part(install.read) {
            Ok(Some(ReadPart::State(bytes))) => (install.rest, install.from) = (bytes, 0),
            Ok(Some(ReadPart::Sessions(bytes))) => match decode_sessions(&bytes) {
                Ok(sessions) => install.sessions = sessions,
                Err(error) => {
                    self.give_up_bad(at, &error);
                    return Step::Over;
                }
            },
            Ok(Some(ReadPart::End)) => install.is_built = true,
            // There is more soon, or word of a failure.
            Ok(None) | Err(_) => {
                install.is_stuck = true;
                return Step::Over;
            }
        }
        Step::Done(0)
    }

    /// The state is built: the group decides, and everything is moved in this turn.
    fn finish_install(&mut self, at: usize) {
        let Origin { slot, life, from, leader_term } = self.snapshots.installs[at].origin;
        let of = slot as usize;
        let has_room = self.io.wal.has_vital_room(MOVE_BYTES) && self.lives[of].next_log().is_some();
        if !has_room || self.io.lanes[of].flags.has(Flags::UNWRITTEN) {
            self.snapshots.installs[at].not_before = self.io.now.after(CUT_RETRY);
            return;
        }
        let Install { header, loading, sessions, .. } = self.snapshots.installs.swap_remove(at);
        self.snapshots.groups[of].is_busy = false;
        let membership = match Membership::decode(&header.membership) {
            Ok(membership) => membership,
            Err(error) => {
                return self.refuse_install((slot, from, leader_term), header.id, &error.to_string());
            }
        };
        let meta = logdrive_shard::SnapshotMeta {
            index: header.index,
            term: header.term,
            membership,
            membership_index: header.membership_index,
        };
        assert_eq!(self.lives[of].count, life.count, "slot {slot}: a new life gives up what is being built");
        if meta.index <= self.io.lanes[of].applied {
            // The entries that this member could not read are back, and applied.
            self.snapshots.store.remove(header.id);
            return self.want_what_was_put_off(slot);
        }
        let installs = self.would_install(slot, from, leader_term, &meta);
        if installs && let Err(error) = self.machine.finish_load(slot, loading) {
            return self.refuse_install((slot, from, leader_term), header.id, &error.to_string());
        }
        let last = self.groups[of].last_index();
        let decision = self.step(slot, |group, env| group.on_snapshot(env, from, leader_term, &meta));
        assert_eq!(decision.installs(), installs, "slot {slot}: what a copy of the group has just decided");
        if installs {
            self.move_log(slot, meta.index, last, decision);
            self.swap_state(slot, &header, meta, sessions);
        } else {
            self.snapshots.store.remove(header.id);
            self.want_what_was_put_off(slot);
        }
        self.end_step(slot);
    }

    /// Nothing comes of an installation. Whoever waits for a snapshot, whose writing was given up for it, gets another one; and so does a
    /// group whose log came to its bound meanwhile: it takes no proposals, so that nothing else would ever ask for one.
    fn want_what_was_put_off(&mut self, slot: u32) {
        let at = slot as usize;
        if self.io.lanes[at].flags.has(Flags::LOG_FULL) || !self.snapshots.groups[at].asked.is_empty() {
            self.want_snapshot(slot, true);
        }
    }

    /// What the group will decide, asked of a copy: after its decision nothing may fail any more.
    fn would_install(
        &self,
        slot: u32,
        from: NodeId,
        leader_term: Term,
        meta: &logdrive_shard::SnapshotMeta,
    ) -> bool {
        let mut copy: Group = self.groups[slot as usize].clone();
        let mut random = self.random.clone();
        let mut env = Env { now: self.io.now, config: &self.config, random: &mut random, sink: &mut Nowhere };
        copy.on_snapshot(&mut env, from, leader_term, meta).installs()
    }

    /// Carries the group's decision out in the log and in what is cached of it.
    fn move_log(&mut self, slot: u32, index: LogIndex, last: LogIndex, decision: SnapshotDecision) {
        let at = slot as usize;
        let keeps = decision == SnapshotDecision::FastForward;
        let moved = match keeps {
            true => self.io.wal.compact(self.io.lanes[at].stream, index.0).map(|_| ()),
            false => self.begin_log(slot, index, last, self.groups[at].hard_state()),
        };
        if let Err(error) = moved {
            let poisoned = matches!(error, logdrive_wal::AppendError::Poisoned(_));
            assert!(poisoned, "slot {slot}: the log had room to be moved: {error}");
        }
        if keeps {
            self.snapshots.counters.fast_forwards += 1;
            self.io.cache.release(&mut self.io.lanes[at].window, index.0 + 1);
            self.io.loads.void(slot, 0);
        } else {
            self.io.truncate(slot, LogIndex(1));
        }
        self.io.loads.drop_load(slot, Purpose::Apply);
    }

    fn swap_state(
        &mut self,
        slot: u32,
        header: &SnapshotHeader,
        meta: logdrive_shard::SnapshotMeta,
        sessions: Option<SessionTable>,
    ) {
        let at = slot as usize;
        self.sessions.install(slot, sessions);
        self.io.lanes[at].applied = meta.index;
        self.io.skip_waiting(slot, meta.index);
        self.io.lanes[at].flags.lower(Flags::LOG_FULL);
        self.groups[at].on_applied(meta.index);
        tracing::info!(group = %self.ids[at], index = %meta.index, "a snapshot from another node is installed");
        self.snapshots.counters.installed += 1;
        self.snapshots.store.accept(header.id);
        let state = &mut self.snapshots.groups[at];
        (state.index, state.file_bytes, state.at) = (meta.index, header.file_bytes(), Some(self.io.now));
        (state.membership_index, state.membership) = (meta.membership_index, meta.membership);
        (state.log_bytes, state.failure, state.refusal) = (0, None, None);
        self.answer_asked(slot, Ok(header.index));
        if self.groups[at].applicable() > meta.index {
            self.io.queue_apply(slot);
        }
        if self.io.lanes[at].flags.has(Flags::HAS_READS) {
            self.io.queue_reads(slot);
        }
    }

    /// A file cannot be read to its end.
    pub(super) fn give_up_install(&mut self, at: usize, why: &str) {
        let install = self.end_install(at);
        self.snapshots.store.remove(install.header.id);
        self.on_install_failed(install.origin.slot, why);
    }

    /// What a file holds cannot be loaded.
    fn give_up_bad(&mut self, at: usize, why: &str) {
        let install = self.end_install(at);
        let Origin { slot, from, leader_term, .. } = install.origin;
        self.refuse_install((slot, from, leader_term), install.header.id, why);
    }

    fn end_install(&mut self, at: usize) -> Install<M::Loading> {
        let install = self.snapshots.installs.swap_remove(at);
        self.snapshots.store.end_read(install.read);
        self.snapshots.groups[install.origin.slot as usize].is_busy = false;
        install
    }

    /// The file is of no use, and its leader is told.
    fn refuse_install(&mut self, (slot, from, term): (u32, NodeId, Term), snapshot: SnapshotId, why: &str) {
        self.snapshots.store.remove(snapshot);
        let now = self.io.now;
        let refusal = &mut self.snapshots.groups[slot as usize].refusal;
        let count = refusal.map_or(0, |refusal| refusal.count);
        let pause = REFUSE_MIN * 2_u32.saturating_pow(count.min(16));
        *refusal =
            Some(Refusal { snapshot, count: count + 1, at: now, until: now.after(pause.min(REFUSE_MAX)) });
        self.on_install_failed(slot, why);
        self.tell_refusal(slot, from, term, snapshot);
    }

    fn on_install_failed(&mut self, slot: u32, why: &str) {
        tracing::error!(
            group = %self.ids[slot as usize],
            why,
            "a snapshot from another node could not be installed; the group goes on as it was, and is behind until its leader has sent \
             another one that can be. If that does not help: does this node run the same version and settings as its leader?"
        );
        self.snapshots.counters.installs_failed += 1;
        let state = &mut self.snapshots.groups[slot as usize];
        state.failure = Some(why.into());
        self.want_what_was_put_off(slot);
    }

    /// What is being built of a group is not wanted any more.
    pub(super) fn abandon_installs(&mut self, slot: u32) {
        while let Some(at) = self.snapshots.installs.iter().position(|install| install.origin.slot == slot) {
            let install = self.snapshots.installs.swap_remove(at);
            self.snapshots.store.end_read(install.read);
            self.snapshots.groups[slot as usize].is_busy = false;
        }
    }
}

/// Takes what a copy of a group says: nothing of it happens.
struct Nowhere;

impl Sink for Nowhere {
    fn append(&mut self, _: Route, _: Append) {}
    fn heartbeat(&mut self, _: Route, _: Heartbeat) {}
    fn heartbeat_reply(&mut self, _: Route, _: HeartbeatReply) {}
    fn append_reply(&mut self, _: Route, _: AppendReply) {}
    fn vote_request(&mut self, _: Route, _: VoteRequest) {}
    fn vote_reply(&mut self, _: Route, _: VoteReply) {}
    fn timeout_now(&mut self, _: Route, _: TimeoutNow) {}
    fn save_hard_state(&mut self, _: HardState) {}
    fn append_empty(&mut self, _: LogIndex, _: Term, _: u32) {}
    fn append_membership(&mut self, _: LogIndex, _: Term, _: u32, _: &Membership) {}
    fn own_vote_written(&mut self, _: Term) {}
    fn committed(&mut self, _: LogIndex) {}
    fn reads_confirmed(&mut self, _: u64, _: LogIndex) {}
    fn leadership_lost(&mut self, _: Term) {}
    fn role_changed(&mut self, _: Role, _: NodeId, _: Term) {}
    fn fit(&mut self, _: Route, _: LogIndex, _: LogIndex, _: u32) -> Fit {
        Fit::Loading
    }
}
