//! Turning the loops of cores.

use logdrive::core::{Event as CoreEvent, Slot};
use logdrive::wire::{FrameView, VERSION_MAX, frame_len};
use logdrive_shard::{AppendOutcome, GroupId, LogIndex, Moment, NodeId, Role, Term};

use super::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use super::faults::{Stop, TurnPoint};
use super::node::CoreAt;
use super::observer::{Broken, ChangedSlot, Verdict, ensure};
use super::trace::{Message, What};
use super::world::World;

/// The token of requests that no client waits for: transfers and changes.
pub(super) const NOBODYS: u64 = u64::MAX;

/// Whether a slot became leader in a turn.
pub(super) fn took_over(changed: &ChangedSlot) -> bool {
    let ChangedSlot { before, now, .. } = changed;
    now.role == Role::Leader && (before.role != Role::Leader || before.term != now.term)
}

impl World {
    /// An event for a core; its loop turns soon after, with whatever else has come by then. False if it was garbage.
    ///
    /// A core reads its clock when it turns: what comes in between, and while its process stands still, comes with the time of the turn before.
    pub(super) fn input(&mut self, at: CoreAt, event: CoreEvent<'_>) -> bool {
        let state = &mut self.cores[at.0];
        let now = state.read_clock;
        let Some(live) = &mut state.live else { return true };
        let taken = live.core.handle(now, event);
        self.wake(at);
        taken.is_ok()
    }

    /// The core's loop turns soon.
    pub(super) fn wake(&mut self, at: CoreAt) {
        let delay = self.random.schedule.below(40 * MICROSECOND);
        let state = &mut self.cores[at.0];
        state.turns_alone = 0;
        state.turn_at = state.turn_at.min(self.now + delay + state.turn_takes);
    }

    /// Whether the node ends at this point; it does so then.
    fn ends_here(&mut self, node: usize, point: TurnPoint) -> Result<bool, Box<Broken>> {
        match self.nodes[node].doomed {
            Some((doom, how, down)) if doom == point => {
                self.nodes[node].doomed = None;
                self.reach("crashes inside a turn");
                self.stop_node(node, how)?;
                self.start_later(node, down);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn turn(&mut self, at: CoreAt) -> Verdict {
        let node = self.cores[at.0].node;
        if self.nodes[node].paused_until > self.now {
            self.cores[at.0].turn_at = self.nodes[node].paused_until;
            return Ok(());
        }
        self.trace.mix(self.now ^ 2 << 62 ^ at.0 as u64);
        self.count_turn(at)?;
        if self.ends_here(node, TurnPoint::BeforeTurn)? {
            return Ok(());
        }
        let clock = &self.nodes[node].clock;
        let now = Moment(clock.shows(self.now));
        let state = &mut self.cores[at.0];
        state.read_clock = now;
        let Some(live) = &mut state.live else { return Ok(()) };
        live.core.wal().disk().inner.advance(self.now);
        let _ = live.core.handle(now, CoreEvent::Disk);
        if live.core.snapshot_disk().inner.next_due().is_some_and(|due| due <= self.now) {
            live.core.snapshot_disk().inner.advance(self.now);
            let _ = live.core.handle(now, CoreEvent::SnapshotDisk);
        }
        let turned = live.core.turn(now);
        let due = live.core.wal().disk().inner.next_due().unwrap_or(Nanos::MAX);
        let due = due.min(live.core.snapshot_disk().inner.next_due().unwrap_or(Nanos::MAX));
        let next = clock.moment(live.core.next_deadline().0).min(due);
        // A turn takes its time, so that the clock moves whatever happens.
        state.turn_at = next.max(self.now + MICROSECOND + state.turn_takes);
        if turned.is_ok() {
            self.show_turn(at)?;
        }
        if let Err(fatal) = turned {
            return self.log_failed(node, &fatal.to_string());
        }
        if self.ends_here(node, TurnPoint::AfterTurn)? || self.ends_in_snapshot(at)? {
            return Ok(());
        }
        if self.send_frames(at)? || self.ends_here(node, TurnPoint::BeforeAnswers)? {
            return Ok(());
        }
        self.take_answers(at)
    }

    /// A log that is poisoned ends the process, which is started again.
    fn log_failed(&mut self, node: usize, fatal: &str) -> Verdict {
        // A later order to crash elsewhere in a turn may have come in between.
        let is_halted = self.cores_of(node).any(|at| self.cores[at.0].platter.halted());
        if is_halted {
            let doomed = self.nodes[node].doomed.take();
            let (how, down) = doomed.map_or((Stop::Kill, SECOND), |(_, how, down)| (how, down));
            self.reach("crashes inside a disk operation");
            self.stop_node(node, how)?;
            self.start_later(node, down);
            return Ok(());
        }
        let id = self.nodes[node].id;
        if !self.nodes[node].disk_is_suspect {
            return Err(Broken::new("a log fails for a reason", fatal).on_node(id));
        }
        self.reach("logs poisoned");
        self.note(Some(node), || fatal.to_owned());
        self.stop_node(node, Stop::Kill)?;
        let pause = 50 * MILLISECOND + self.random.schedule.below(200 * MILLISECOND);
        self.start_later(node, pause);
        Ok(())
    }

    /// Whether more of a core's log is durable than after the turn before.
    fn log_moved(&mut self, at: CoreAt) -> bool {
        let Some(live) = &mut self.cores[at.0].live else { return false };
        let durable_end = live.core.log().durable_end();
        std::mem::replace(&mut live.durable_end, durable_end) != durable_end
    }

    /// Tells the observers what a turn did.
    fn show_turn(&mut self, at: CoreAt) -> Verdict {
        self.show_disk(at)?;
        let applied = match &self.cores[at.0].live {
            Some(live) => std::mem::take(&mut *live.applied.borrow_mut()),
            None => return Ok(()),
        };
        for applied in &applied {
            self.trace.mix(applied.index.0 ^ u64::from(applied.crc) << 32);
            self.tell(|observer, world| observer.applied(world, at, applied))?;
        }
        let changed = self.find_changes(at);
        if !changed.is_empty() || self.log_moved(at) {
            self.trace_changes(at, &changed);
            self.tell(|observer, world| observer.turned(world, at, &changed))?;
            self.judge_leases(at, &changed)?;
            self.orders_for_new_leaders(at, &changed);
        }
        self.trace_leaders(at);
        Ok(())
    }

    /// Whoever is elected is so after all leases of other leaders have ended, by the clocks of those. Otherwise they would serve reads that miss
    /// what is written from now on. A leader of a later term may have a lease: who is elected with votes that come that late gets nothing
    /// committed.
    fn judge_leases(&mut self, at: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        if !self.shape.leases_hold {
            return Ok(());
        }
        for now in changed.iter().filter(|changed| took_over(changed)).map(|changed| changed.now) {
            for node in (0..self.nodes.len()).filter(|&node| !self.nodes[node].is_spoiled) {
                let (other, slot) = self.home(node, now.id);
                let is_later =
                    self.summaries(other).get(slot.0 as usize).is_some_and(|it| it.term > now.term);
                let shows = Moment(self.nodes[node].clock.shows(self.now));
                let live = self.cores[other.0].live.as_mut().filter(|_| other != at && !is_later);
                let Some(live) = live else { continue };
                let holds = live.core.holds_lease(shows, slot);
                ensure(!holds, "leases end before the next leader is elected", || {
                    format!("node {} holds one while term {} has a leader", self.nodes[node].id, now.term)
                })
                .map_err(|broken| broken.in_group(now.id).on_node(self.node_id(at)))?;
            }
        }
        Ok(())
    }

    pub(super) fn show_disk(&mut self, at: CoreAt) -> Verdict {
        let events = match self.cores[at.0].live.as_ref().and_then(|live| live.disk_events.as_ref()) {
            Some(events) if !events.borrow().is_empty() => std::mem::take(&mut *events.borrow_mut()),
            _ => return Ok(()),
        };
        events.iter().try_for_each(|event| self.tell(|observer, world| observer.disk(world, at, event)))
    }

    /// The slots whose state changed since this was asked last. Without a step of a group, and nothing applied or
    /// given up, nothing did.
    pub(super) fn find_changes(&mut self, at: CoreAt) -> Vec<ChangedSlot> {
        let Some(live) = &mut self.cores[at.0].live else { return Vec::new() };
        let counters = live.core.counters();
        let steps = [counters.steps, counters.applied, counters.retired];
        if live.steps == steps {
            return Vec::new();
        }
        live.steps = steps;
        let mut list = std::mem::take(&mut self.scratch.summaries);
        list.clear();
        live.core.group_list(&mut list);
        let pairs = live.summaries.iter().zip(&list).enumerate();
        let changed = pairs
            .filter(|(_, (before, now))| before != now)
            .map(|(slot, (before, now))| ChangedSlot { slot: Slot(slot as u32), before: *before, now: *now })
            .collect();
        std::mem::swap(&mut live.summaries, &mut list);
        self.scratch.summaries = list;
        changed
    }

    fn trace_changes(&mut self, at: CoreAt, changed: &[ChangedSlot]) {
        let node = self.node_id(at);
        for ChangedSlot { now, .. } in changed {
            let what = What::State {
                role: now.role,
                term: now.term,
                leader: now.leader,
                commit: now.commit,
                applied: now.applied,
                last: now.last,
            };
            self.trace.tell(self.now, node, Some(now.id), what);
        }
    }

    fn trace_leaders(&mut self, at: CoreAt) {
        let Some(live) = &mut self.cores[at.0].live else { return };
        let mut changes = Vec::new();
        live.core.leadership_changes(&mut changes);
        let led = changes.iter().filter(|(_, leader)| leader.is_some()).count() as u64;
        if led > 0 {
            *self.reached.entry("leaders learned of").or_default() += led;
        }
    }

    /// Takes the frames of all links. True if the node ended in the middle of it.
    fn send_frames(&mut self, at: CoreAt) -> Result<bool, Box<Broken>> {
        let mut links = Vec::new();
        let Some(live) = &mut self.cores[at.0].live else { return Ok(true) };
        live.core.links_with_frames(&mut links);
        if links.is_empty() {
            return Ok(false);
        }
        let node = self.cores[at.0].node;
        let mut frames = std::mem::take(&mut self.scratch.frames);
        for (sent, link) in links.into_iter().enumerate() {
            if self.ends_here(node, TurnPoint::AfterFrames(sent as u8))? {
                return Ok(true);
            }
            let Some(live) = &mut self.cores[at.0].live else { return Ok(true) };
            let connection = live.connections[usize::from(link.0)];
            let ends = self.connections[connection].ends;
            let to = usize::from(ends[0] == at);
            let state = &self.connections[connection];
            if state.is_open && state.is_stuffed(to, self.shape.socket_bytes) {
                self.reach("sockets full");
                continue;
            }
            frames.clear();
            while live.core.take_frames(link, &mut frames) {}
            let mut rest = &frames[..];
            while !rest.is_empty() {
                let len = frame_len(rest, VERSION_MAX)
                    .map_err(|error| Broken::new("frames have a length", error.to_string()))?;
                let (frame, later) = rest.split_at(len);
                rest = later;
                let view = World::read_own(frame)?;
                self.trace_frame(at, ends[to], &view);
                self.tell(|observer, world| observer.frame_left(world, at, ends[to], &view))?;
                if self.connections[connection].is_open {
                    self.send_frame(connection, to, frame);
                }
            }
        }
        self.scratch.frames = frames;
        Ok(false)
    }

    /// The group of a slot of a core.
    pub fn group_at(&self, core: CoreAt, slot: u32) -> Option<GroupId> {
        self.cores[core.0].groups.get(slot as usize).map(|setup| setup.id)
    }

    fn trace_frame(&mut self, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) {
        let (node, peer) = (self.node_id(from), self.node_id(to));
        let (now, groups) = (self.now, &self.cores[to.0].groups);
        let trace = &mut self.trace;
        let mut tell = |slot: u32, message: Message, term: Term, index: LogIndex, count: u64| {
            let Some(group) = groups.get(slot as usize).map(|setup| setup.id) else { return };
            trace.tell(now, node, Some(group), What::Sends { to: peer, message, term, index, count });
        };
        for (address, append, _) in frame.appends() {
            tell(address.slot, Message::Append, append.term, append.prev_index, append.count.into());
        }
        for (address, reply) in frame.append_replies() {
            let (message, index) = match reply.outcome {
                AppendOutcome::Matched(index) => (Message::Matched, index),
                AppendOutcome::Rejected { prev_index, .. } => (Message::Rejected, prev_index),
            };
            tell(address.slot, message, reply.term, index, 0);
        }
        for (address, beat) in frame.heartbeats() {
            tell(address.slot, Message::Heartbeat, beat.term, beat.commit, beat.round);
        }
        for (address, reply) in frame.heartbeat_replies() {
            tell(address.slot, Message::HeartbeatReply, reply.term, LogIndex(0), reply.round);
        }
        for (address, vote) in frame.vote_requests() {
            let message = if vote.pre_vote { Message::PreVoteRequest } else { Message::VoteRequest };
            tell(address.slot, message, vote.term, vote.last_index, 0);
        }
        for (address, vote) in frame.vote_replies() {
            let message = match (vote.granted, vote.pre_vote) {
                (true, true) => Message::PreVoteGranted,
                (true, false) => Message::VoteGranted,
                (false, _) => Message::VoteRefused,
            };
            tell(address.slot, message, vote.term, LogIndex(0), 0);
        }
        for (address, order) in frame.timeout_nows() {
            tell(address.slot, Message::TimeoutNow, order.term, LogIndex(0), 0);
        }
        for (address, offer, _) in frame.snapshot_offers() {
            tell(address.slot, Message::SnapshotOffer, offer.term, LogIndex(0), offer.attempt.into());
        }
        for (address, part, _) in frame.snapshot_parts() {
            tell(address.slot, Message::SnapshotPart, part.term, LogIndex(part.offset.into()), part.number);
        }
        for (address, answer) in frame.snapshot_answers() {
            let next = LogIndex(answer.offset.into());
            tell(address.slot, Message::SnapshotAnswer, answer.term, next, answer.next);
        }
    }

    /// Who leads, as a node sees it; `NONE` if it does not run.
    pub fn leader_seen_by(&self, node: NodeId, group: GroupId) -> NodeId {
        let (at, slot) = self.home(node.0 as usize - 1, group);
        self.core(at).map_or(NodeId::NONE, |core| core.leader_of(slot))
    }

    /// The node that leads a group in the highest term, if one says that it does.
    pub fn leader_of(&self, group: GroupId) -> Option<usize> {
        let led = |node: usize| {
            let (at, slot) = self.home(node, group);
            let summary = self.summaries(at).get(slot.0 as usize)?;
            let leads = self.core(at)?.is_leader(slot);
            leads.then_some((summary.term, node))
        };
        (0..self.nodes.len()).filter_map(led).max().map(|(_, node)| node)
    }
}
