//! The mesh between the cores of a node, and the clients that are connected to its cores. Ends and lanes of the mesh are those of
//! the product ([`logdrive::mesh`]); here is when a lane is served, and what is remembered beside it so that an answer that is lost, doubled,
//! late in its lane or somebody else's shows.

use std::collections::{BTreeSet, VecDeque};

use logdrive::api::{Busy, Completions, Error};
use logdrive::core::{CoreId, Event as CoreEvent, Held, Slot};
use logdrive::mesh::{Batch, Kind, Lane, Owner, PortKey};
use logdrive_shard::{GroupId, LogIndex, NodeId};

use super::clock::{MICROSECOND, MILLISECOND, Nanos};
use super::node::CoreAt;
use super::observer::{Broken, Verdict, ensure};
use super::operators::is_change;
use super::queue::Event;
use super::random::{chance, within};
use super::trace::What;
use super::turn::NOBODYS;
use super::world::World;

/// How long a lane takes, about: one of these in each life of a node.
const PACES: [Nanos; 4] = [2 * MICROSECOND, 20 * MICROSECOND, 200 * MICROSECOND, 2 * MILLISECOND];
/// Now and then a core is that late in serving one.
const RARELY: Nanos = 20 * MILLISECOND;
/// A client leaves a connection for a new one once in so many requests.
const LEAVES_ONE_IN: u64 = 16;
/// One request of so many is waited for no longer than a moment.
const HURRIES_ONE_IN: u64 = 32;

/// The client that is nobody in particular.
pub(super) const NOBODY: u32 = u32::MAX;

type Answer = Result<LogIndex, Error>;

/// The connection of a client to a core: a port there.
pub(super) struct Door {
    client: u32,
    at: CoreAt,
    key: PortKey,
    /// Attempts that were not answered.
    waits: BTreeSet<u64>,
}

/// A request on its way, as it was asked.
struct Sent {
    attempt: u64,
    slot: Slot,
    crc: u32,
}

/// An answer on its way, as the core gave it.
struct Told {
    attempt: u64,
    result: Answer,
    crc: u32,
}

/// A lane from one core to another, for one life of their node.
pub(super) struct SimLane {
    lane: Lane,
    pace: Nanos,
    /// Somebody will look into it.
    is_called: bool,
    requests: VecDeque<Sent>,
    answers: VecDeque<Told>,
}

fn ends_of(lane: usize, cores: usize) -> (usize, usize) {
    (lane / cores, lane % cores)
}

/// The bytes that a request brings beside its kind.
fn crc_of(event: &CoreEvent<'_>) -> (u64, Option<Slot>, u32) {
    use logdrive_shard::SessionOp;
    match *event {
        CoreEvent::Propose { token, slot, payload, .. } => (token, Some(slot), crc32c::crc32c(payload)),
        CoreEvent::Read { token, slot, request, .. } => (token, Some(slot), crc32c::crc32c(request)),
        CoreEvent::Session { token, slot, op: SessionOp::Command { command, .. }, .. } => {
            (token, Some(slot), crc32c::crc32c(command))
        }
        CoreEvent::Session { token, slot, .. } => (token, Some(slot), crc32c::crc32c(&[])),
        _ => (0, None, 0),
    }
}

impl World {
    // -- connections of clients ------------------------------------------------------------------------------------------

    /// The client's connection to a node, at whichever core; `None` if nobody is there.
    pub(super) fn door(&mut self, client: u32, node: usize) -> Option<u32> {
        let cores = self.nodes[node].cores.clone();
        let at = CoreAt(cores.start + self.random.mesh.below(cores.len() as u64) as usize);
        if let Some(&door) = self.doors_of.get(&(client, at)) {
            // Whoever is nobody in particular waits for all its answers.
            if client == NOBODY || !chance(&mut self.random.mesh, LEAVES_ONE_IN) {
                return Some(door);
            }
            self.close_door(door);
        }
        let live = self.cores[at.0].live.as_mut()?;
        let key = live.mesh.key(Some(live.core.add_port()));
        let door = self.doors_made;
        live.mesh.open(key, door);
        self.doors_made += 1;
        self.doors.insert(door, Door { client, at, key, waits: BTreeSet::new() });
        self.doors_of.insert((client, at), door);
        Some(door)
    }

    /// A client leaves: it will never know what was not answered.
    pub(super) fn close_door(&mut self, door: u32) {
        let Some(Door { client, at, key, .. }) = self.doors.remove(&door) else { return };
        self.doors_of.remove(&(client, at));
        if let Some(live) = &mut self.cores[at.0].live
            && live.mesh.close(key)
        {
            live.core.remove_port(key.port());
        }
    }

    /// How long a client waits for an answer: now and then it has gone before one can come.
    pub(super) fn patience(&mut self) -> Nanos {
        match chance(&mut self.random.mesh, HURRIES_ONE_IN) {
            true => within(&mut self.random.mesh, 1..20 * MILLISECOND),
            false => self.shape.patience,
        }
    }

    /// A client that waited for too long leaves, or asks again on the same connection.
    pub(super) fn tired_of(&mut self, attempt: u64) {
        if let Some(door) = self.history.attempts[attempt as usize].door
            && chance(&mut self.random.mesh, 2)
        {
            self.close_door(door);
        }
    }

    /// The process of a node ends, and with it what was in its lanes and whoever was connected.
    pub(super) fn end_mesh(&mut self, node: usize) {
        let cores = self.nodes[node].cores.clone();
        self.doors_of.retain(|(_, at), _| !cores.contains(&at.0));
        self.doors.retain(|_, door| !cores.contains(&door.at.0));
        let lanes = std::mem::take(&mut self.nodes[node].lanes);
        let lost = lanes.iter().filter(|lane| lane.lane.waiting() != (0, 0)).count() as u64;
        self.reach_often("mesh: lanes lost with a node", lost);
    }

    /// The lanes of a new life.
    pub(super) fn begin_mesh(&mut self, node: usize) {
        let cores = self.nodes[node].cores.len();
        let random = &mut self.random.mesh;
        self.nodes[node].lanes = (0..cores * cores)
            .map(|_| SimLane {
                lane: Lane::default(),
                pace: PACES[random.below(PACES.len() as u64) as usize],
                is_called: false,
                requests: VecDeque::new(),
                answers: VecDeque::new(),
            })
            .collect();
    }

    // -- requests --------------------------------------------------------------------------------------------------------

    /// A client asks at the core that it is connected to; whether that has the group is no business of the client.
    pub(super) fn ask_at(
        &mut self,
        door: u32,
        attempt: u64,
        home: (CoreAt, Slot),
        kind: Kind,
        payload: &[u8],
    ) {
        let Some(Door { at, key, waits, .. }) = self.doors.get_mut(&door) else { return };
        let ((owner, slot), at, key) = (home, *at, *key);
        waits.insert(attempt);
        self.history.attempts[attempt as usize].door = Some(door);
        if at == owner {
            self.input(at, kind.event(key.port(), attempt, slot, payload));
            return;
        }
        let (from, to) = (self.cores[at.0].id, self.cores[owner.0].id);
        let Some(live) = &mut self.cores[at.0].live else { return };
        match live.mesh.ask(to, slot, key, attempt, kind, payload) {
            Ok(()) => {
                let crc = crc32c::crc32c(payload);
                self.lane(at, from, to).requests.push_back(Sent { attempt, slot, crc });
            }
            Err(error) => live.refusals.push((door, attempt, error)),
        }
        self.wake(at);
    }

    fn lane(&mut self, at: CoreAt, from: CoreId, to: CoreId) -> &mut SimLane {
        let node = &mut self.nodes[self.cores[at.0].node];
        &mut node.lanes[usize::from(from.0) * node.cores.len() + usize::from(to.0)]
    }

    // -- what a turn has for whom ----------------------------------------------------------------------------------------

    /// The answers of a turn go to whoever waits at the core's ports, and what is for other cores into the lanes.
    pub(super) fn take_answers(&mut self, at: CoreAt) -> Verdict {
        let Some(live) = &mut self.cores[at.0].live else { return Ok(()) };
        let mut ports = Vec::new();
        live.core.ports_with_answers(&mut ports);
        let mut answers = std::mem::take(&mut self.scratch.answers);
        for port in ports {
            let Some(live) = &mut self.cores[at.0].live else { break };
            answers.clear();
            live.core.take_answers(port, &mut answers);
            match *live.mesh.owner(port) {
                Owner::Embedder => self.embedder_is_told(at, &answers)?,
                Owner::Client(door) => {
                    for (completion, reply) in answers.iter() {
                        self.core_answers(completion.token, completion.result, reply)?;
                        self.client_reached(Some(door), completion.token, completion.result)?;
                    }
                }
                Owner::Core(other) => self.answers_leave(at, other, &answers)?,
                Owner::Nobody => self.reach("answers to nobody"),
            }
        }
        answers.clear();
        self.scratch.answers = answers;
        self.tell_refusals(at)?;
        self.fill_lanes(at)
    }

    fn embedder_is_told(&mut self, at: CoreAt, answers: &Completions) -> Verdict {
        for (completion, reply) in answers.iter().filter(|(completion, _)| completion.token != NOBODYS) {
            if is_change(completion.token) {
                self.change_answered(at, completion.token, completion.result)?;
                continue;
            }
            self.core_answers(completion.token, completion.result, reply)?;
            self.history.attempts[completion.token as usize].told = true;
        }
        Ok(())
    }

    fn answers_leave(&mut self, at: CoreAt, other: CoreId, answers: &Completions) -> Verdict {
        let id = self.cores[at.0].id;
        for (completion, reply) in answers.iter() {
            let Some(live) = &mut self.cores[at.0].live else { return Ok(()) };
            let Some(attempt) = live.works.remove(&(other, completion.token)) else {
                let what = format!("token {} of core {}", completion.token, other.0);
                return Err(Broken::new("a core answers what it was asked", what).on_node(self.node_id(at)));
            };
            self.core_answers(attempt, completion.result, reply)?;
            let (result, crc) = (completion.result, crc32c::crc32c(reply));
            self.lane(at, id, other).answers.push_back(Told { attempt, result, crc });
        }
        if let Some(live) = &mut self.cores[at.0].live {
            live.mesh.answered(other, answers);
        }
        Ok(())
    }

    /// What the mesh had no room for.
    fn tell_refusals(&mut self, at: CoreAt) -> Verdict {
        let refusals = match &mut self.cores[at.0].live {
            Some(live) if !live.refusals.is_empty() => std::mem::take(&mut live.refusals),
            _ => return Ok(()),
        };
        for (door, attempt, error) in refusals {
            ensure(
                matches!(error, Error::Busy { why: Busy::Mesh, .. }),
                "the mesh refuses only what it has no room for",
                || error.to_string(),
            )?;
            self.reach("mesh: lanes full");
            // Whoever left meanwhile does not hear of it.
            if self.doors.contains_key(&door) {
                self.core_answers(attempt, Err(error), &[])?;
                self.client_reached(Some(door), attempt, Err(error))?;
            }
        }
        Ok(())
    }

    fn fill_lanes(&mut self, at: CoreAt) -> Verdict {
        let state = &mut self.cores[at.0];
        let (node, from) = (state.node, usize::from(state.id.0));
        let Some(live) = &mut state.live else { return Ok(()) };
        let cores = self.nodes[node].cores.len();
        let lanes = &mut self.nodes[node].lanes;
        let (mut called, mut met, mut most) = (Vec::new(), 0, 0);
        live.mesh.leave(|to, batch| {
            let number = from * cores + usize::from(to.0);
            let lane = &mut lanes[number];
            met += u64::from(lane.lane.waiting() != (0, 0));
            lane.lane.put(batch);
            let (requests, answers) = lane.lane.waiting();
            most = most.max(requests).max(answers);
            if !std::mem::replace(&mut lane.is_called, true) {
                called.push(number);
            }
        });
        let at_most = self.shape.mesh.requests_max as usize;
        ensure(most <= at_most, "queues and budgets are within their bounds", || {
            format!("requests or answers in a lane: {most} of {at_most}")
        })
        .map_err(|broken| broken.on_node(self.node_id(at)))?;
        self.reach_often("mesh: batches that met in a lane", met);
        called.into_iter().for_each(|lane| self.call(node, lane));
        Ok(())
    }

    /// Whoever is at the end of a lane is woken: it looks when it comes to it.
    fn call(&mut self, node: usize, lane: usize) {
        let (_, to) = ends_of(lane, self.nodes[node].cores.len());
        let slow = self.cores[self.nodes[node].cores.start + to].turn_takes;
        let pace = self.nodes[node].lanes[lane].pace;
        let random = &mut self.random.mesh;
        let delay = within(random, 0..2 * pace) + if chance(random, 64) { random.below(RARELY) } else { 0 };
        self.queue.put(self.now + delay + slow, Event::Lane { node: node as u32, lane: lane as u32 });
    }

    /// A process goes on that stood still.
    pub(super) fn call_again(&mut self, node: usize) {
        for lane in 0..self.nodes[node].lanes.len() {
            if self.nodes[node].lanes[lane].lane.waiting() != (0, 0) {
                self.nodes[node].lanes[lane].is_called = true;
                self.call(node, lane);
            }
        }
    }

    // -- what comes ------------------------------------------------------------------------------------------------------

    /// A core looks into a lane.
    pub(super) fn serve_lane(&mut self, node: usize, number: usize) -> Verdict {
        let paused_until = self.nodes[node].paused_until;
        let cores = self.nodes[node].cores.clone();
        // It may have been called by a life of the node that has ended.
        let Some(lane) = self.nodes[node].lanes.get_mut(number) else { return Ok(()) };
        if paused_until > self.now {
            if paused_until < Nanos::MAX {
                self.queue.put(paused_until, Event::Lane { node: node as u32, lane: number as u32 });
            }
            return Ok(());
        }
        lane.is_called = false;
        let mut batch = std::mem::take(&mut self.scratch.batch);
        if lane.lane.take(&mut batch) {
            let (from, to) = ends_of(number, cores.len());
            self.trace.mix(self.now ^ 3 << 62 ^ number as u64);
            self.take_batch(CoreId(from as u16), CoreAt(cores.start + to), number, &batch)?;
        }
        batch.clear();
        self.scratch.batch = batch;
        Ok(())
    }

    fn take_batch(&mut self, from: CoreId, to: CoreAt, number: usize, batch: &Batch) -> Verdict {
        let state = &mut self.cores[to.0];
        let (node, now, id) = (state.node, state.read_clock, self.nodes[state.node].id);
        let Some(live) = &mut state.live else { return Ok(()) };
        let SimLane { requests, answers, .. } = &mut self.nodes[node].lanes[number];
        let (core, works) = (&mut live.core, &mut live.works);
        let (mut wrong, mut wrong_answer) = (None, None);
        let (mut crossed, mut told) = (Vec::new(), Vec::new());
        live.mesh.take(
            from,
            batch,
            |event| {
                let (token, slot, crc) = crc_of(&event);
                match requests.pop_front() {
                    Some(sent) if (Some(sent.slot), sent.crc) == (slot, crc) => {
                        works.insert((from, token), sent.attempt);
                        crossed.push(sent.attempt);
                    }
                    Some(sent) => wrong = Some(format!("attempt {} was to come", sent.attempt)),
                    None => wrong = Some(format!("nothing was to come for slot {slot:?}")),
                }
                let taken = core.handle(now, event);
                debug_assert!(taken.is_ok(), "only frames are refused");
                Ok(())
            },
            |door, answer, reply| match answers.pop_front() {
                Some(Told { attempt, result, crc })
                    if (attempt, result, crc) == (answer.token, answer.result, crc32c::crc32c(reply)) =>
                {
                    told.push((door.copied(), attempt, result));
                }
                Some(sent) => {
                    wrong_answer = Some(format!("the answer to attempt {} was to come", sent.attempt))
                }
                None => wrong_answer = Some(format!("no answer to attempt {} was to come", answer.token)),
            },
        );
        let wrong = wrong.or(wrong_answer);
        ensure(wrong.is_none(), "lanes keep what they carry, in its order", || wrong.unwrap_or_default())
            .map_err(|broken| broken.on_node(id))?;
        self.reach_often("mesh: requests", crossed.len() as u64);
        self.reach_often("mesh: answers", told.len() as u64);
        for attempt in crossed {
            let group = self.history.op_of(attempt).group;
            self.trace.tell(self.now, id, Some(group), What::Crosses { attempt, from: from.0 });
        }
        told.into_iter()
            .try_for_each(|(door, attempt, result)| self.client_reached(door, attempt, result))?;
        self.wake(to);
        Ok(())
    }

    /// An answer comes to the client of a door; `None`: the product found nobody who waits for it.
    fn client_reached(&mut self, door: Option<u32>, attempt: u64, result: Answer) -> Verdict {
        let what = self.history.attempts[attempt as usize];
        let (group, node) = (self.history.op_of(attempt).group, what.node);
        let broken =
            |assertion, what: String| Err(Broken::new(assertion, what).in_group(group).on_node(node));
        let asked_by = what.door.filter(|door| self.doors.contains_key(door));
        if door.is_none() && asked_by.is_none() {
            self.reach("mesh: answers to clients that left");
            return Ok(());
        }
        let waited = asked_by == door
            && asked_by
                .and_then(|door| self.doors.get_mut(&door))
                .is_some_and(|door| door.waits.remove(&attempt));
        if !waited || what.told {
            let text =
                format!("attempt {attempt} was asked through {asked_by:?}, its answer came to {door:?}");
            return broken("answers come to whoever asked, once", text);
        }
        if what.answer != Some(result) {
            let text = format!("attempt {attempt}: {:?} was said, {result:?} came", what.answer);
            return broken("clients are told what cores answer", text);
        }
        self.history.attempts[attempt as usize].told = true;
        self.client_hears(attempt, result);
        Ok(())
    }

    // -- looking at it ---------------------------------------------------------------------------------------------------

    /// What the mesh holds of everything that is bounded, at a core.
    pub fn mesh_held(&self, at: CoreAt) -> Vec<Held> {
        self.cores[at.0].live.as_ref().map_or_else(Vec::new, |live| live.mesh.held().to_vec())
    }

    /// Requests that are on their way, or that nobody has answered, at a node.
    pub(super) fn mesh_unrest(&self, node: usize) -> Option<(Option<GroupId>, String)> {
        let id: NodeId = self.nodes[node].id;
        for at in self.cores_of(node) {
            let live = self.cores[at.0].live.as_ref()?;
            let (asks, asked) = (live.mesh.unanswered(), live.mesh.asked());
            if asks > 0 || asked > 0 {
                let core = self.cores[at.0].id.0;
                let what =
                    format!("core {core} of node {id} waits for {asks} answers of other cores, owes {asked}");
                return Some((None, what));
            }
        }
        let cores = &self.nodes[node].cores;
        let door = self.doors.values().find(|door| cores.contains(&door.at.0) && !door.waits.is_empty())?;
        let attempt = *door.waits.first()?;
        let group = self.history.op_of(attempt).group;
        Some((Some(group), format!("attempt {attempt} at node {id} is not answered")))
    }
}
