//! One core on its executor: who may touch it, and what happens in a turn.
//!
//! Inputs (frames, completions of the disk, requests) go into the core at once, from whatever task has them, and wake the
//! turn task. It stands behind all tasks that are ready at that moment, so one turn serves all of them: this is where batches
//! come from. Nothing awaits while it holds the core, so the core is never found borrowed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use logdrive_shard::{GroupId, MembershipChange, Moment, NodeId};
use logdrive_wal::RingDisk;

use crate::api::{Completions, Error, ReadPolicy, StateMachine};
use crate::core::{Core, CoreId, Event, LinkId, PortId, Slot};
use crate::mesh::{Batch, Kind, Limits, Mesh, Owner};
use crate::wire::FrameError;

use super::campaign::Campaigns;
use super::clock;
use super::embedded::Batches;
use super::links::Links;
use super::notify::{Gate, Notify};
use super::port::PortState;
use super::shared::{Node, count};
use super::tasks::TaskSet;

/// The part of a core's surroundings that does not depend on the state machine.
pub(crate) struct Base {
    pub(crate) node: Arc<Node>,
    pub(crate) id: CoreId,
    pub(crate) tasks: Rc<TaskSet>,
    /// There is input for a turn.
    pub(crate) turn: Notify,
    /// Who waits for answers here, and what goes to other cores with this turn.
    pub(crate) mesh: RefCell<Mesh<Rc<PortState>>>,
    /// Opened when services are to stop.
    pub(crate) stopping: Gate,
}

/// What a [`super::CoreClient`] sees of its core.
pub(crate) trait LocalCore {
    fn base(&self) -> &Base;
    /// A request to a group of this core.
    fn request(&self, event: Event<'_>) -> Result<(), Error>;
    /// `None` if the core is gone.
    fn add_port(&self) -> Option<PortId>;
    fn remove_port(&self, port: PortId);
    fn take_answers(&self, port: PortId, answers: &mut Completions);
}

pub(crate) struct CoreCell<M: StateMachine> {
    pub(crate) base: Base,
    /// `None` once the core is closed or gave up.
    core: RefCell<Option<Core<RingDisk, M>>>,
    now: Cell<Moment>,
    now_is_fresh: Cell<bool>,
    /// What the core said last, and what the timer task is armed for.
    next_deadline: Cell<Moment>,
    armed_for: Cell<Moment>,
    pub(crate) rearm: Notify,
    /// Readers wait here while the core is over its bounds.
    saturated: Cell<bool>,
    unsaturated: Gate,
    pub(crate) links: Links,
    pub(crate) batches: RefCell<Batches>,
    embedded_port: Cell<PortId>,
    pub(crate) campaigns: RefCell<Campaigns>,
    /// Group ids by slot.
    pub(crate) groups: Vec<GroupId>,
}

/// Buffers of the turn task, reused.
#[derive(Default)]
pub(crate) struct Scratch {
    links: Vec<LinkId>,
    ports: Vec<PortId>,
    leaders: Vec<(Slot, NodeId)>,
    answers: Completions,
    batch: Batch,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The core waits for input, or for its next deadline.
    Done,
    /// A slice of the work on snapshots is due, once all that the turn has brought about has left.
    BeforeSlice,
    /// The core cannot go on.
    Over,
}

impl<M: StateMachine> CoreCell<M> {
    pub(crate) fn new(
        node: Arc<Node>,
        id: CoreId,
        mut core: Core<RingDisk, M>,
        groups: Vec<GroupId>,
    ) -> Rc<CoreCell<M>> {
        core.time_slices(clock::now);
        let embedded_port = core.add_port();
        let limits = Limits {
            requests_max: node.settings.runtime.mesh_requests_max,
            bytes_max: node.settings.runtime.mesh_bytes_max,
        };
        let mesh = Mesh::new(node.settings.cores, limits, embedded_port, || core.add_port());
        Rc::new(CoreCell {
            base: Base {
                node,
                id,
                tasks: Rc::default(),
                turn: Notify::default(),
                mesh: RefCell::new(mesh),
                stopping: Gate::default(),
            },
            core: RefCell::new(Some(core)),
            now: Cell::new(clock::now()),
            now_is_fresh: Cell::new(false),
            next_deadline: Cell::new(Moment::NEVER),
            armed_for: Cell::new(Moment::NEVER),
            rearm: Notify::default(),
            saturated: Cell::new(false),
            unsaturated: Gate::default(),
            links: Links::default(),
            batches: RefCell::default(),
            embedded_port: Cell::new(embedded_port),
            campaigns: RefCell::default(),
            groups,
        })
    }

    /// The time for inputs: read once after each turn, and then good until the next turn, which reads it again. An executor
    /// runs all that is ready within a millisecond or two.
    pub(crate) fn now(&self) -> Moment {
        if !self.now_is_fresh.replace(true) {
            self.now.set(clock::now());
        }
        self.now.get()
    }

    /// Runs `f` with the core, if it is still there.
    pub(crate) fn with_core<R>(&self, f: impl FnOnce(&mut Core<RingDisk, M>) -> R) -> Option<R> {
        self.core.borrow_mut().as_mut().map(f)
    }

    /// Takes the core out, to close or to drop it.
    pub(crate) fn take_core(&self) -> Option<Core<RingDisk, M>> {
        self.core.borrow_mut().take()
    }

    /// An input. `Err`: a peer sent garbage.
    pub(crate) fn input(&self, event: Event<'_>) -> Result<(), FrameError> {
        let now = self.now();
        let result = self.with_core(|core| core.handle(now, event));
        self.base.turn.notify();
        result.unwrap_or(Ok(()))
    }

    /// Waits while the core is over its bounds.
    pub(crate) async fn admitted(&self) {
        let saturated = || {
            let saturated = self.with_core(|core| core.is_saturated()).unwrap_or(false);
            if saturated && !self.saturated.replace(true) {
                count(&self.base.node.counters.reads_paused);
            }
            saturated
        };
        self.unsaturated.wait_while(saturated).await;
    }

    /// One turn: takes the core's outputs to where they belong.
    pub(crate) fn turn(&self, scratch: &mut Scratch) -> Turned {
        let mut guard = self.core.borrow_mut();
        let Some(core) = guard.as_mut() else { return Turned::Over };
        let now = clock::now();
        self.now_is_fresh.set(false);
        if let Err(fatal) = core.turn(now) {
            drop(guard);
            self.fail(&fatal);
            return Turned::Over;
        }
        core.links_with_frames(&mut scratch.links);
        for link in scratch.links.drain(..) {
            if self.links.flush(link, core) {
                count(&self.base.node.counters.writes_blocked);
            }
        }
        core.leadership_changes(&mut scratch.leaders);
        if !scratch.leaders.is_empty() {
            for (slot, leader) in scratch.leaders.drain(..) {
                self.base.node.set_leader(self.groups[slot.0 as usize], leader);
            }
            self.base.node.leaders_changed();
        }
        core.ports_with_answers(&mut scratch.ports);
        for port in scratch.ports.drain(..) {
            self.deliver(port, core, &mut scratch.answers);
        }
        self.campaigns.borrow_mut().check(now, core);
        if self.saturated.get() && !core.is_saturated() {
            self.saturated.set(false);
            self.unsaturated.open();
        }
        let turned = if core.wants_slice(now) { Turned::BeforeSlice } else { Turned::Done };
        if turned == Turned::Done {
            self.set_deadline(now, core.next_deadline());
        }
        drop(guard);
        self.flush_mesh();
        turned
    }

    /// A slice of the work on snapshots, between turns.
    pub(crate) fn slice(&self) {
        let Some((now, next)) = self.with_core(|core| {
            core.work_on_snapshots(clock::now());
            (clock::now(), core.next_deadline())
        }) else {
            return;
        };
        self.now_is_fresh.set(false);
        self.set_deadline(now, next);
    }

    fn deliver(&self, port: PortId, core: &mut Core<RingDisk, M>, answers: &mut Completions) {
        let mut mesh = self.base.mesh.borrow_mut();
        match mesh.owner(port) {
            Owner::Client(state) => {
                state.ready.set(true);
                state.wake.notify();
            }
            Owner::Embedder => {
                core.take_answers(port, answers);
                let mut batches = self.batches.borrow_mut();
                for (completion, bytes) in answers.iter() {
                    batches.answer(completion, bytes);
                }
            }
            &Owner::Core(other) => {
                core.take_answers(port, answers);
                mesh.answered(other, answers);
            }
            Owner::Nobody => core.take_answers(port, answers),
        }
        answers.clear();
    }

    /// Hands this turn's batches to the other cores, one wake each.
    fn flush_mesh(&self) {
        self.base.mesh.borrow_mut().leave(|to, batch| {
            let inbox = self.base.node.inbox(to);
            inbox.lane(usize::from(self.base.id.0)).put(batch);
            inbox.signal();
        });
    }

    /// Takes what the other cores sent.
    pub(crate) fn take_lanes(&self, scratch: &mut Scratch) {
        let inbox = self.base.node.inbox(self.base.id);
        for other in 0..inbox.lanes() {
            if inbox.lane(other).take(&mut scratch.batch) {
                self.take_batch(CoreId(other as u16), &scratch.batch);
                scratch.batch.clear();
            }
        }
    }

    fn take_batch(&self, other: CoreId, batch: &Batch) {
        let refused = self.base.mesh.borrow_mut().take(
            other,
            batch,
            |event| self.request(event),
            |client, answer, reply| {
                if let Some(client) = client {
                    client.answer(answer.token, answer.result, reply);
                }
            },
        );
        if refused {
            self.base.turn.notify();
        }
    }

    /// Proposals of the embedding program.
    pub(crate) fn propose_batch(
        &self,
        slot: Slot,
        payloads: &[Vec<u8>],
        reply: super::reply::Reply<Vec<super::inbox::Outcome>>,
    ) {
        if payloads.is_empty() {
            reply.send(Vec::new());
            return;
        }
        let first = self.batches.borrow_mut().begin(payloads.len(), reply);
        for (token, payload) in (first..).zip(payloads) {
            // Without a core nothing is inserted here: the inbox is closed before the core is taken out.
            let _ = self.request(Kind::Propose.event(self.embedded_port.get(), token, slot, payload));
        }
    }

    /// A session's request of the embedding program.
    pub(crate) fn session_one(
        &self,
        slot: Slot,
        op: &super::session::SessionRequest,
        reply: super::reply::Reply<Vec<super::inbox::Outcome>>,
    ) {
        let token = self.batches.borrow_mut().begin(1, reply);
        let kind = Kind::Session(op.kind);
        let _ = self.request(kind.event(self.embedded_port.get(), token, slot, &op.command));
    }

    /// A read of the embedding program.
    pub(crate) fn read_one(
        &self,
        slot: Slot,
        policy: ReadPolicy,
        request: &[u8],
        reply: super::reply::Reply<Vec<super::inbox::Outcome>>,
    ) {
        let token = self.batches.borrow_mut().begin(1, reply);
        let _ = self.request(Kind::Read(policy).event(self.embedded_port.get(), token, slot, request));
    }

    /// A change of a group's configuration.
    pub(crate) fn change_one(
        &self,
        slot: Slot,
        change: &MembershipChange,
        reply: super::reply::Reply<Vec<super::inbox::Outcome>>,
    ) {
        let (port, token) = (self.embedded_port.get(), self.batches.borrow_mut().begin(1, reply));
        // Without a core nothing is inserted here: the inbox is closed before the core is taken out.
        let _ = self.input(Event::Change { port, token, slot, change });
    }

    /// A transfer of a group's leadership.
    pub(crate) fn transfer_one(
        &self,
        slot: Slot,
        to: NodeId,
        reply: super::reply::Reply<Vec<super::inbox::Outcome>>,
    ) {
        let (port, token) = (self.embedded_port.get(), self.batches.borrow_mut().begin(1, reply));
        // As for changes.
        let _ = self.input(Event::Transfer { port, token, slot, to });
    }

    /// The end of a transfer.
    pub(crate) fn cancel_transfer(&self, slot: Slot, reply: super::reply::Reply<Vec<super::inbox::Outcome>>) {
        let (port, token) = (self.embedded_port.get(), self.batches.borrow_mut().begin(1, reply));
        // As for changes.
        let _ = self.input(Event::CancelTransfer { port, token, slot });
    }

    /// A snapshot of a group.
    pub(crate) fn snapshot_one(&self, slot: Slot, reply: super::reply::Reply<Vec<super::inbox::Outcome>>) {
        let (port, token) = (self.embedded_port.get(), self.batches.borrow_mut().begin(1, reply));
        // As for changes.
        let _ = self.input(Event::Snapshot { port, token, slot });
    }

    fn set_deadline(&self, now: Moment, next: Moment) {
        self.next_deadline.set(next);
        if next <= now {
            self.base.turn.notify();
        } else if next < self.armed_for.get() {
            self.rearm.notify();
        }
    }

    /// For the timer task: wakes the turn if it is due, and says how long to sleep.
    pub(crate) fn arm(&self) -> std::time::Duration {
        let now = clock::now();
        let mut armed_for = now.after(self.base.node.settings.runtime.wake_interval);
        if self.next_deadline.get() <= now || self.saturated.get() || !self.campaigns.borrow().is_empty() {
            // The turn says anew when the next one must be.
            self.base.turn.notify();
        } else {
            armed_for = armed_for.min(self.next_deadline.get());
        }
        self.armed_for.set(armed_for);
        self.base.node.inbox(self.base.id).awake_by(armed_for);
        armed_for.since(now)
    }

    fn fail(&self, fatal: &crate::core::Fatal) {
        tracing::error!(core = self.base.id.0, %fatal, "the core cannot go on");
        let node = &self.base.node;
        node.set_fatal(fatal);
        (node.settings.hooks.on_fatal)(fatal);
        for inbox in &node.inboxes {
            // A core that ended already has nothing to abandon.
            let _ = inbox.put(super::inbox::Item::Abandon);
        }
    }

    /// Requests to other cores that are not answered.
    pub(crate) fn mesh_unanswered(&self) -> u32 {
        self.base.mesh.borrow().unanswered()
    }
}

impl<M: StateMachine> LocalCore for CoreCell<M> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn request(&self, event: Event<'_>) -> Result<(), Error> {
        let now = self.now();
        self.with_core(|core| {
            let taken = core.handle(now, event);
            debug_assert!(taken.is_ok(), "only frames are refused");
        })
        .ok_or(Error::Stopped)?;
        self.base.turn.notify();
        Ok(())
    }

    fn add_port(&self) -> Option<PortId> {
        self.with_core(Core::add_port)
    }

    fn remove_port(&self, port: PortId) {
        self.with_core(|core| core.remove_port(port));
    }

    fn take_answers(&self, port: PortId, answers: &mut Completions) {
        self.with_core(|core| core.take_answers(port, answers));
    }
}
