//! The world: nodes, their cores and disks, the connections between them and the clients, in one thread and on one clock.

use std::collections::BTreeMap;
use std::rc::Rc;

use logdrive::api::{Completions, CoreSettings};
use logdrive::core::{GroupSetup, GroupSummary, Slot};
use logdrive::mesh::Batch;
use logdrive_shard::{GroupId, NodeId, Random};

use super::atlas::Atlas;
use super::buggify::Whims;
use super::clients::Client;
use super::clock::{MILLISECOND, Nanos, SECOND};
use super::faults::Fault;
use super::mesh::Door;
use super::mix;
use super::network::{Connection, Way};
use super::node::{CoreAt, CoreState, Node, SimCore};
use super::observer::{Broken, Observer, Verdict, ensure};
use super::operators::Operators;
use super::ops::History;
use super::plan::{Plan, START};
use super::queue::{Event, Queue};
use super::random::{Purpose, stream};
use super::shape::Shape;
use super::strike::Active;
use super::trace::{Trace, What};
use super::traps::muted::Muted;

/// The cluster's number.
pub(super) const CLUSTER: u64 = 0x5EED;
/// Turns that a core may make in a row without anything from outside.
const TURNS_ALONE_MAX: u32 = 20_000;
/// Events waiting, at most: more means that something is never taken.
const EVENTS_MAX: usize = 4_000_000;

/// The random numbers of a run, one stream per purpose.
pub(super) struct Streams {
    pub(super) strike: Random,
    pub(super) network: Random,
    pub(super) schedule: Random,
    pub(super) clients: Random,
    pub(super) lives: Random,
    pub(super) heal: Random,
    pub(super) boots: Random,
    pub(super) mesh: Random,
}

/// Counts of what happened, by name.
pub type Counts = BTreeMap<&'static str, u64>;

/// Everything that is simulated.
pub struct World {
    pub(super) plan: Plan,
    pub(super) shape: Shape,
    pub(super) settings: CoreSettings,
    pub(super) now: Nanos,
    pub(super) random: Streams,
    pub(super) queue: Queue,
    pub(super) cores: Vec<CoreState>,
    pub(super) nodes: Vec<Node>,
    pub(super) connections: Vec<Connection>,
    /// What the network does from one node to another: `from * nodes + to`.
    pub(super) ways: Vec<Way>,
    /// Frames that traps want to be lost.
    pub(super) muted: Vec<Muted>,
    /// Where each group lives: `node * groups + group - 1`.
    pub(super) homes: Vec<(CoreAt, Slot)>,
    /// Of each group, in order.
    pub(super) founders: Vec<Vec<NodeId>>,
    pub(super) clients: Vec<Client>,
    pub(super) clients_run: bool,
    /// Connections of clients to cores, by number; and which one a client (`u32::MAX`: nobody in particular) has to a core.
    pub(super) doors: BTreeMap<u32, Door>,
    pub(super) doors_of: BTreeMap<(u32, CoreAt), u32>,
    pub(super) doors_made: u32,
    pub(super) history: History,
    pub(super) faults: Vec<Fault>,
    /// Faults that are active, and those that were.
    pub(super) active: Vec<Active>,
    pub(super) observers: Vec<Box<dyn Observer>>,
    pub(super) watch_disks: bool,
    pub(super) atlas: Atlas,
    /// The trace of the run.
    pub trace: Trace,
    /// Faults that did strike, by name.
    pub injected: Counts,
    /// What was met on the way.
    pub reached: Counts,
    pub(super) operators: Operators,
    pub(super) whims: Rc<Whims>,
    /// Of the nodes that a node has connections to when it ends, this one alone learns of it late.
    pub(super) slow_to_notice: Option<usize>,
    pub(super) turns: u64,
    pub(super) scratch: Scratch,
}

/// Buffers kept for their memory.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) frames: Vec<u8>,
    pub(super) answers: Completions,
    pub(super) batch: Batch,
    pub(super) summaries: Vec<GroupSummary>,
    pub(super) spare: Vec<Vec<u8>>,
}

impl World {
    /// A world in which nothing runs yet; [`World::start`] starts it.
    pub fn new(plan: Plan, trace: Trace) -> World {
        let shape = Shape::of(&plan);
        World::shaped(plan, shape, trace)
    }

    /// The same with another shape than the seed gives.
    pub fn shaped(plan: Plan, shape: Shape, trace: Trace) -> World {
        let seed = plan.seed;
        let faults = mix::faults(&plan, &shape);
        let purpose = |purpose| stream(seed, purpose, 0);
        World {
            settings: shape.settings(),
            now: START,
            random: Streams {
                strike: purpose(Purpose::Strike),
                network: purpose(Purpose::Network),
                schedule: purpose(Purpose::Schedule),
                clients: purpose(Purpose::Clients),
                lives: purpose(Purpose::Lives),
                heal: purpose(Purpose::Heal),
                boots: purpose(Purpose::Boots),
                mesh: purpose(Purpose::Mesh),
            },
            queue: Queue::new(stream(seed, Purpose::Schedule, 1)),
            cores: Vec::new(),
            nodes: Vec::new(),
            connections: Vec::new(),
            muted: Vec::new(),
            ways: vec![Way::default(); (plan.nodes * plan.nodes) as usize],
            homes: Vec::new(),
            founders: Vec::new(),
            clients: Vec::new(),
            clients_run: true,
            doors: BTreeMap::new(),
            doors_of: BTreeMap::new(),
            doors_made: 0,
            history: History::default(),
            faults,
            active: Vec::new(),
            observers: Vec::new(),
            watch_disks: false,
            atlas: Atlas::default(),
            trace,
            injected: Counts::new(),
            reached: Counts::new(),
            operators: Operators::default(),
            whims: Whims::of(&plan, shape.has_whims),
            slow_to_notice: None,
            turns: 0,
            scratch: Scratch::default(),
            shape,
            plan,
        }
    }

    /// Adds a check. Before [`World::start`].
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.watch_disks |= observer.wants_disk();
        self.observers.push(observer);
    }

    /// Starts all nodes, the clients and the list of faults.
    pub fn start(&mut self) -> Verdict {
        self.place();
        self.make_connections();
        for node in 0..self.nodes.len() {
            self.start_node(node)?;
        }
        self.start_clients();
        for at in 0..self.faults.len() {
            self.queue.put(self.faults[at].at, Event::Strike { fault: at as u32 });
        }
        Ok(())
    }

    // -- what observers look at ------------------------------------------------------------------------------------------

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the seed made of the settings.
    pub fn settings(&self) -> &CoreSettings {
        &self.settings
    }

    /// The world's clock.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// All cores.
    pub fn cores(&self) -> impl Iterator<Item = CoreAt> + use<> {
        (0..self.cores.len()).map(CoreAt)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The cores of a node.
    pub fn cores_of(&self, node: usize) -> impl Iterator<Item = CoreAt> + use<> {
        self.nodes[node].cores.clone().map(CoreAt)
    }

    /// A core, if it runs.
    pub fn core(&self, at: CoreAt) -> Option<&SimCore> {
        self.cores[at.0].live.as_ref().map(|live| &live.core)
    }

    /// The node of a core, from 0.
    pub fn node_of(&self, at: CoreAt) -> usize {
        self.cores[at.0].node
    }

    /// The id of a core's node.
    pub fn node_id(&self, at: CoreAt) -> NodeId {
        self.nodes[self.cores[at.0].node].id
    }

    /// The groups of a core, by slot.
    pub fn groups_of(&self, at: CoreAt) -> &[GroupSetup] {
        &self.cores[at.0].groups
    }

    /// The states of a core's groups after its last turn, by slot; empty if it does not run.
    pub fn summaries(&self, at: CoreAt) -> &[GroupSummary] {
        self.cores[at.0].live.as_ref().map_or(&[], |live| &live.summaries)
    }

    /// Where a group lives on a node.
    pub fn home(&self, node: usize, group: GroupId) -> (CoreAt, Slot) {
        self.homes[node * self.plan.groups as usize + group.0 as usize - 1]
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=u64::from(self.plan.groups)).map(GroupId)
    }

    /// The members that a group was founded with.
    pub fn founders(&self, group: GroupId) -> &[NodeId] {
        &self.founders[group.0 as usize - 1]
    }

    /// Whether a node's process runs (it may get no CPU).
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_up
    }

    /// Whether a node came back with less than it had, so that its peers must have nothing to do with it.
    pub fn is_spoiled(&self, node: usize) -> bool {
        self.nodes[node].is_spoiled
    }

    /// What clients did.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The list of faults.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The simulated disk of a core, whether or not the core runs.
    pub fn platter(&self, at: CoreAt) -> &logdrive_wal::SimPlatter {
        &self.cores[at.0].platter
    }

    /// What a node's clock shows now.
    pub fn node_time(&self, node: usize) -> Nanos {
        self.nodes[node].clock.shows(self.now)
    }

    /// Turns of all cores so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    // -- time ------------------------------------------------------------------------------------------------------------

    pub(super) fn note(&mut self, node: Option<usize>, text: impl FnOnce() -> String) {
        let node = node.map_or(NodeId::NONE, |node| self.nodes[node].id);
        self.trace.tell(self.now, node, None, What::Note(text()));
    }

    /// Counts something that was met.
    pub(super) fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    pub(super) fn reach_often(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.reached.entry(what).or_default() += times;
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, nanos: Nanos) -> Verdict {
        self.run_until(self.now + nanos)
    }

    /// Runs until the world's clock shows `end`. Nothing is looked at between two things that happen.
    pub fn run_until(&mut self, end: Nanos) -> Verdict {
        loop {
            let mut turn_at = Nanos::MAX;
            let mut turn = 0;
            for (at, core) in self.cores.iter().enumerate() {
                if core.turn_at < turn_at {
                    (turn_at, turn) = (core.turn_at, at);
                }
            }
            let next = self.queue.next();
            if next.min(turn_at) > end {
                self.now = end;
                return Ok(());
            }
            self.now = self.now.max(next.min(turn_at));
            if next <= turn_at {
                let Some(event) = self.queue.pop() else { return Ok(()) };
                self.happen(event)?;
            } else {
                self.turn(CoreAt(turn))?;
            }
        }
    }

    fn happen(&mut self, event: Event) -> Verdict {
        if self.queue.len() > EVENTS_MAX {
            return Err(Broken::new("events are taken", format!("{} wait", self.queue.len())));
        }
        match event {
            Event::Arrive { connection, generation, to } => {
                self.trace.mix(self.now ^ 1 << 62 ^ u64::from(connection) << 1 ^ u64::from(to));
                self.arrive(connection as usize, generation, to.into())
            }
            Event::Down { connection, generation, side } => {
                self.side_down(connection as usize, generation, side.into())
            }
            Event::Connect { connection } => self.connect(connection as usize),
            Event::Lane { node, lane } => self.serve_lane(node as usize, lane as usize),
            Event::Client { client } => self.client_acts(client as usize),
            Event::Start { node } => self.start_if_due(node as usize),
            Event::Strike { fault } => self.strike_listed(fault as usize),
            Event::Ends { active } => self.end_fault(active as usize),
            Event::Second { active } => self.second_part(active as usize),
        }
    }

    /// A core that turns for ever without anything from outside is a livelock.
    pub(super) fn count_turn(&mut self, at: CoreAt) -> Verdict {
        self.turns += 1;
        let state = &mut self.cores[at.0];
        state.turns_alone += 1;
        let (alone, core, node) = (state.turns_alone, state.id.0, self.nodes[state.node].id);
        ensure(alone < TURNS_ALONE_MAX, "a core comes to rest", || {
            let due = state.live.as_ref().map(|live| live.core.due());
            format!(
                "core {core} of node {node} turned {alone} times without anything from outside; due: {due:?}"
            )
        })
    }

    /// Tells all observers.
    pub(super) fn tell(&mut self, tell: impl Fn(&mut dyn Observer, &World) -> Verdict) -> Verdict {
        let mut observers = std::mem::take(&mut self.observers);
        let verdict = observers.iter_mut().try_for_each(|observer| tell(observer.as_mut(), self));
        self.observers = observers;
        verdict
    }

    /// Time is up for the troubles and what follows them: what a run takes at most if all goes well.
    pub fn longest_heal(&self) -> Nanos {
        let shard = &self.settings.shard;
        let election = (shard.election_base + shard.election_spread).as_nanos() as Nanos;
        20 * election + 10 * SECOND
    }

    /// The time between two elections that fail, about.
    pub(super) fn unit(&self) -> Nanos {
        (self.settings.shard.election_base.as_nanos() as Nanos).max(MILLISECOND)
    }
}
