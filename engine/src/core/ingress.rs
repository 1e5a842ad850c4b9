//! Taking what happened: requests of clients, orders, events of links.

use std::time::Duration;

use logdrive_shard::{Env, Group, LogIndex, Moment, NodeId, Refused, SessionOp};
use logdrive_wal::{AppendError, Disk};

use super::lane::Flags;
use super::requests::busy;
use super::step::{Effects, StepSink};
use super::waits::LeaseRead;
use super::{Core, Event, PortId, Slot};
use crate::api::{Busy, Error, ReadPolicy, StateMachine};
use crate::mutant;
use crate::wire::{EntryKind, FrameError};

/// A client's read.
struct ReadRequest<'a> {
    port: PortId,
    token: u64,
    slot: Slot,
    policy: ReadPolicy,
    request: &'a [u8],
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Takes one event. An error means: the peer sent garbage; drop it and close that connection.
    pub fn handle(&mut self, now: Moment, event: Event<'_>) -> Result<(), FrameError> {
        self.see(now);
        if !matches!(event, Event::SnapshotDisk) {
            self.io.others_at = self.io.now;
        }
        match event {
            Event::Frame { link, bytes } => self.on_frame(link, bytes)?,
            Event::LinkUp { hello } => self.on_link_up(hello),
            Event::LinkDown { link } => self.on_link_down(link),
            Event::Propose { port, token, slot, payload } => {
                self.on_propose(port, token, slot, (EntryKind::Payload, payload));
            }
            Event::Session { port, token, slot, op } => self.on_session(port, token, slot, op),
            Event::Read { port, token, slot, policy, request } => {
                self.on_read(ReadRequest { port, token, slot, policy, request });
            }
            Event::Disk => {}
            Event::SnapshotDisk => self.on_snapshot_disk(),
            Event::Transfer { port, token, slot, to } => self.on_transfer(port, token, slot, to),
            Event::CancelTransfer { port, token, slot } => self.on_cancel_transfer(port, token, slot),
            Event::Change { port, token, slot, change } => self.on_change(port, token, slot, change),
            Event::Snapshot { port, token, slot } => self.on_snapshot_order(port, token, slot),
            Event::Campaign { slot } => self.on_campaign(slot),
            Event::Drain(draining) => self.on_drain(draining),
            Event::HandOver => self.on_hand_over(),
        }
        if self.io.wal.wants_submit() {
            // The disk has nothing to do, and much has come: it does not wait for the end of a long turn.
            self.io.wal.submit(self.io.now.0);
        }
        Ok(())
    }

    /// Over a bound on bytes: the runtime takes no more input from sockets until it is false. A log that is out of space does
    /// not count: it takes nothing in anyway, and reads go on.
    pub fn is_saturated(&self) -> bool {
        self.io.wal.backlog_bytes() > self.io.settings.log_backlog_bytes_max
            && *self.io.wal.health() == logdrive_wal::Health::Running
    }

    /// The core's time never goes back.
    pub(super) fn see(&mut self, now: Moment) {
        self.io.now = self.io.now.max(now);
    }

    /// One step of one group. Every step is followed by [`Core::end_step`], with the writes that belong to it in between.
    pub(super) fn step<R>(
        &mut self,
        slot: u32,
        input: impl FnOnce(&mut Group, &mut Env<'_, StepSink<'_, D>>) -> R,
    ) -> R {
        let group = &mut self.groups[slot as usize];
        self.io.counters.steps += 1;
        self.io.effects = Effects { commit: group.commit(), ..Effects::default() };
        let now = self.io.now;
        let mut sink = StepSink { io: &mut self.io, slot };
        input(group, &mut Env { now, config: &self.config, random: &mut self.random, sink: &mut sink })
    }

    /// What follows from a step.
    pub(super) fn end_step(&mut self, slot: u32) {
        let group = &self.groups[slot as usize];
        let Effects { committed, lost, reads_lost, members_changed, .. } = self.io.effects;
        if reads_lost {
            self.io.fail_reads(slot);
        }
        if let Some(commit) = lost {
            self.io.fail_waiting(slot, commit, group.leader());
        }
        if self.io.lanes[slot as usize].flags.has(Flags::UNWRITTEN) {
            self.io.counters.dropped += self.io.waiting.drop_open();
        } else {
            self.io.waiting.seal(self.io.wal.last_ticket());
        }
        if committed {
            if group.applicable() > self.io.lanes[slot as usize].applied || mutant::APPLIES_UNDURABLE {
                self.io.queue_apply(slot);
            }
            if group.is_leader() && self.io.lanes[slot as usize].flags.raise(Flags::NOTICE) {
                let at = self.io.now.after(self.io.settings.commit_delay);
                self.io.queues.notices.push_back((at, slot));
            }
        }
        let deadline = group.next_deadline();
        if deadline != Moment::NEVER {
            self.timers.arm(slot, deadline);
        }
        if members_changed {
            self.on_members_changed(slot);
        }
    }

    // -- proposals ----------------------------------------------------------------------------------------------------

    fn on_propose(&mut self, port: PortId, token: u64, slot: Slot, entry: (EntryKind, &[u8])) {
        if !self.io.ports.is_open(port) {
            return;
        }
        if let Err(error) = self.propose(port, token, slot, entry) {
            self.refuse(port, token, error);
        }
    }

    fn on_session(&mut self, port: PortId, token: u64, slot: Slot, op: SessionOp<'_>) {
        let mut entry = std::mem::take(&mut self.scratch.entry);
        if (slot.0 as usize) < self.groups.len() {
            let expiry = u64::try_from(self.io.settings.session_expiry.as_millis()).unwrap_or(u64::MAX);
            self.sessions.encode(slot.0, self.io.now, expiry, op, &mut entry);
        }
        self.on_propose(port, token, slot, (EntryKind::Session, &entry));
        self.scratch.entry = entry;
    }

    pub(super) fn refuse(&mut self, port: PortId, token: u64, error: Error) {
        self.io.counters.busy += u64::from(matches!(error, Error::Busy { .. }));
        self.io.ports.refuse(port, token, error);
    }

    /// Whether one more request of `bytes` is within the bounds of the core.
    pub(super) fn admit_request(&self, bytes: usize) -> Result<(), Error> {
        if self.io.requests >= self.io.settings.requests_max {
            return Err(busy(Busy::CoreRequests));
        }
        if self.io.request_bytes + bytes as u64 > self.io.settings.request_bytes_max {
            return Err(busy(Busy::CoreBytes));
        }
        Ok(())
    }

    fn propose(
        &mut self,
        port: PortId,
        token: u64,
        slot: Slot,
        entry: (EntryKind, &[u8]),
    ) -> Result<(), Error> {
        let payload = entry.1;
        let at = slot.0;
        let group = self.groups.get(at as usize).ok_or(Error::NoSuchGroup)?;
        let limit = self.io.settings.payload_bytes_max;
        if payload.len() > limit as usize {
            return Err(Error::PayloadTooLarge { bytes: payload.len() as u64, limit: u64::from(limit) });
        }
        if !group.is_leader() || self.io.handing_over {
            return Err(self.not_leader(at));
        }
        self.admit_request(payload.len())?;
        if self.io.wal.backlog_bytes() > self.io.settings.log_backlog_bytes_max {
            return Err(busy(Busy::LogBacklog));
        }
        self.admit_entry(slot, payload.len() as u64)?;
        let proposed = self.step(at, |group, env| group.propose(env, 1, payload.len() as u32));
        let proposed = proposed.map_err(refused)?;
        let commit = self.io.effects.commit;
        self.io.write_entry(at, proposed.first, proposed.term, proposed.epoch, commit, entry);
        self.end_step(at);
        let lane = &mut self.io.lanes[at as usize];
        self.io.proposals.push(lane, port, token, proposed.first.0, payload.len() as u32);
        self.expect(port, payload.len());
        self.io.counters.proposals += 1;
        self.io.queue_flush(at);
        Ok(())
    }

    pub(super) fn expect(&mut self, port: PortId, bytes: usize) {
        self.io.ports.expect(port);
        self.io.requests += 1;
        self.io.request_bytes += bytes as u64;
    }

    /// Why a node that does not lead takes no proposals and reads.
    pub(super) fn not_leader(&self, slot: u32) -> Error {
        let leader = self.other_leader(slot);
        if !leader.is_some() && self.groups[slot as usize].lost().is_any() {
            return Error::GroupCorrupt;
        }
        Error::NotLeader { leader }
    }

    /// The leader to send a client to: not this node, which has just refused.
    pub(super) fn other_leader(&self, slot: u32) -> NodeId {
        let group = &self.groups[slot as usize];
        let leader = group.leader();
        if leader != self.io.me { leader } else { group.transferring().unwrap_or(NodeId::NONE) }
    }

    pub(super) fn log_error(&self, error: &AppendError) -> Error {
        match *error {
            AppendError::OutOfSpace { used, budget } => Error::OutOfSpace { used, budget },
            AppendError::PayloadTooLarge { bytes, limit } => Error::PayloadTooLarge { bytes, limit },
            // The node is about to end with the reason.
            _ => Error::Stopped,
        }
    }

    pub(super) fn out_of_space(&self) -> Error {
        let space = self.io.wal.space();
        Error::OutOfSpace { used: space.used_bytes, budget: space.budget_bytes }
    }

    // -- reads --------------------------------------------------------------------------------------------------------

    fn on_read(&mut self, read: ReadRequest<'_>) {
        if !self.io.ports.is_open(read.port) {
            return;
        }
        let (port, token) = (read.port, read.token);
        if let Err(error) = self.read(&read) {
            self.refuse(port, token, error);
        }
    }

    fn read(&mut self, read: &ReadRequest<'_>) -> Result<(), Error> {
        let at = read.slot.0;
        if at as usize >= self.groups.len() {
            return Err(Error::NoSuchGroup);
        }
        if let ReadPolicy::Local { min_index, max_wait } = read.policy {
            return self.read_local(read, min_index, max_wait);
        }
        let forwards = read.policy == ReadPolicy::Follower;
        if !self.groups[at as usize].is_leader() && !forwards {
            return Err(self.not_leader(at));
        }
        self.admit_request(read.request.len())?;
        if self.io.reads.count(at as usize) >= self.io.settings.group_reads_max {
            return Err(busy(Busy::GroupReads));
        }
        if read.policy == ReadPolicy::LeaderLease {
            // Decided when the turn has read the clock: a lease may have ended while this process stood still.
            self.expect(read.port, read.request.len());
            self.io.counters.reads += 1;
            self.io.lease_reads.push(read.port, read.token, at, read.request);
            if mutant::LEASE_BY_OLD_CLOCK {
                self.decide_lease_reads();
            }
            return Ok(());
        }
        let round = self.step(
            at,
            |group, env| {
                if forwards { group.forward_read(env) } else { group.read_index(env) }
            },
        );
        self.end_step(at);
        let round = round.map_err(refused)?;
        self.expect(read.port, read.request.len());
        self.io.counters.reads += 1;
        self.await_round(at, read.port, read.token, round, read.request);
        Ok(())
    }

    /// An admitted read waits for its round, or for the leader's answer.
    fn await_round(&mut self, slot: u32, port: PortId, token: u64, round: u64, request: &[u8]) {
        self.io.lanes[slot as usize].flags.raise(Flags::HAS_READS);
        if self.io.reads.push(slot as usize, (port, token), round, request, self.io.now) {
            self.io.queue_reads(slot);
        }
        self.io.watch_reads(slot);
        self.io.queue_flush(slot);
    }

    /// Whether the member would serve a read under its lease at `now`, for whoever watches cores. Changes nothing.
    pub fn holds_lease(&mut self, now: Moment, slot: Slot) -> bool {
        let group = &mut self.groups[slot.0 as usize];
        let mut sink = StepSink { io: &mut self.io, slot: slot.0 };
        let mut env = Env { now, config: &self.config, random: &mut self.random, sink: &mut sink };
        group.lease_read(&mut env).is_ok()
    }

    /// The turn has read the clock: reads that came before are served under a lease, or join a round.
    pub(super) fn decide_lease_reads(&mut self) {
        if self.io.lease_reads.reads.is_empty() {
            return;
        }
        let mut reads = std::mem::take(&mut self.io.lease_reads);
        for &LeaseRead { port, token, slot, request: (start, end) } in &reads.reads {
            let request = &reads.bytes[start..end];
            match self.step(slot, |group, env| group.lease_read(env)) {
                Ok(index) => {
                    self.io.counters.lease_reads += 1;
                    self.io.lanes[slot as usize].flags.raise(Flags::HAS_READS);
                    self.io.reads.push_confirmed(slot as usize, (port, token), index, request, self.io.now);
                    self.io.queue_reads(slot);
                    self.io.watch_reads(slot);
                }
                Err(_) => match self.step(slot, |group, env| group.read_index(env)) {
                    Ok(round) => self.await_round(slot, port, token, round, request),
                    Err(error) => {
                        self.io.requests -= 1;
                        self.io.request_bytes -= request.len() as u64;
                        self.io.ports.answer(port, token, Err(refused(error)), &[]);
                    }
                },
            }
            self.end_step(slot);
        }
        reads.clear();
        self.io.lease_reads = reads;
    }

    fn read_local(
        &mut self,
        read: &ReadRequest<'_>,
        min_index: LogIndex,
        max_wait: Duration,
    ) -> Result<(), Error> {
        let have = self.io.lanes[read.slot.0 as usize].applied;
        if have < min_index && !max_wait.is_zero() {
            self.admit_request(read.request.len())?;
            self.expect(read.port, read.request.len());
            let (until, slot) = (self.io.now.after(max_wait), read.slot.0);
            self.io.local_reads.push(slot, min_index, until, (read.port, read.token), read.request);
            self.io.lanes[slot as usize].flags.raise(Flags::HAS_READS);
            self.io.counters.reads += 1;
            return Ok(());
        }
        if have < min_index {
            return Err(Error::CommitLagging { have, want: min_index });
        }
        self.scratch.reply.clear();
        self.machine.query(read.slot.0, read.request, &mut self.scratch.reply);
        self.io.counters.reads += 1;
        self.io.ports.expect(read.port);
        self.io.ports.answer(read.port, read.token, Ok(have), &self.scratch.reply);
        Ok(())
    }
}

/// What a group's refusal means to a client.
fn refused(refused: Refused) -> Error {
    match refused {
        Refused::NotLeader { leader } => Error::NotLeader { leader },
        Refused::Transferring { .. } => busy(Busy::Transferring),
        Refused::TooMuchUncommitted { .. } => busy(Busy::GroupUncommitted),
        _ => Error::NotLeader { leader: NodeId::NONE },
    }
}
