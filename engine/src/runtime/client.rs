//! The batched API of one core, for what runs on its executor.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use logdrive_shard::{GroupId, LogIndex, MembershipChange, NodeId};

use crate::api::{Completions, Error, ReadPolicy, SessionCall};
use crate::core::{CoreId, CoreStatus, GroupDigest, GroupStatus, GroupSummary};
use crate::mesh::{Kind, SessionKind};

use super::cell::{Base, LocalCore};
use super::clock;
use super::identity::AddNodeError;
use super::inbox::Item;
use super::port::PortState;
use super::reply::reply;
use super::settings::PeerAddress;
use super::shared::Place;
use super::{PeerStatus, RuntimeCounters};

/// The batched API of one core, for what runs on its executor (not `Send`; cheap to clone).
///
/// Requests to a group on another core of this node go through the mesh; answers come back to the same port in the order in which
/// they come about.
#[derive(Clone)]
pub struct CoreClient {
    core: Rc<dyn LocalCore>,
}

/// A consumer of answers on a core. Dropping it closes the port: answers that come later are dropped.
pub struct Port {
    core: Rc<dyn LocalCore>,
    state: Rc<PortState>,
}

impl CoreClient {
    pub(crate) fn new(core: Rc<dyn LocalCore>) -> CoreClient {
        CoreClient { core }
    }

    fn base(&self) -> &Base {
        self.core.base()
    }

    /// This core.
    pub fn core(&self) -> CoreId {
        self.base().id
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.base().node.settings.node
    }

    /// The cores of this node.
    pub fn cores(&self) -> u16 {
        self.base().node.settings.cores
    }

    /// The number of groups of the cluster: ids 1 ..= groups.
    pub fn groups(&self) -> u64 {
        self.base().node.settings.groups
    }

    /// All nodes with their addresses, as they are known at present.
    pub fn nodes(&self) -> Arc<[PeerAddress]> {
        self.base().node.roll.nodes()
    }

    /// Counts the changes of [`CoreClient::nodes`].
    pub fn nodes_epoch(&self) -> u64 {
        self.base().node.roll.epoch()
    }

    /// As [`super::Engine::add_node`].
    pub async fn add_node(&self, node: PeerAddress) -> Result<(), AddNodeError> {
        let (sender, waiting) = reply();
        let item = Item::AddNode(node, sender);
        self.base().node.inbox(self.base().id).put(item).map_err(|_| AddNodeError::Stopped)?;
        waiting.await.unwrap_or(Err(AddNodeError::Stopped))
    }

    /// The core of this node that a group lives on; `None` if this node does not host it. Requests from another core work too, at
    /// the price of the mesh.
    pub fn core_of(&self, group: GroupId) -> Option<CoreId> {
        self.base().node.place(group).map(|place| place.core)
    }

    /// The leader of any group of this node, as last known here (shared table, no mesh round trip). `NONE` if unknown.
    pub fn leader_of(&self, group: GroupId) -> NodeId {
        self.base().node.leader_of(group)
    }

    /// Counts the changes of leadership seen by this node: cached answers about leaders are valid while it stays the same.
    pub fn leadership_epoch(&self) -> u64 {
        self.base().node.leadership_epoch()
    }

    /// A new consumer of answers.
    pub fn open_port(&self) -> Port {
        let id = self.core.add_port();
        let mut mesh = self.base().mesh.borrow_mut();
        let state = PortState::new(mesh.key(id));
        // Without a number (the core is gone) it only ever hears `Stopped`.
        if id.is_some() {
            mesh.open(state.key, state.clone());
        }
        drop(mesh);
        Port { core: self.core.clone(), state }
    }

    /// Status of this node's cores, by core (through the mesh). Cores that ended meanwhile are left out.
    pub async fn node_status(&self) -> Vec<CoreStatus> {
        self.ask_cores(Item::Status).await
    }

    /// The state of one group on this node.
    pub async fn group_status(&self, group: GroupId) -> Result<GroupStatus, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::GroupStatus(place.slot, sender))?;
        waiting.await.ok_or(Error::Stopped)
    }

    /// As [`super::Group::digest`].
    pub async fn group_digest(&self, group: GroupId) -> Result<GroupDigest, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::GroupDigest(place.slot, sender))?;
        waiting.await.ok_or(Error::Stopped)
    }

    /// Moves a group's leadership from this node to another voter, or with `NONE` to the best; see
    /// [`super::Group::transfer_leadership`]. The node that leads then.
    pub async fn transfer_leadership(&self, group: GroupId, to: NodeId) -> Result<NodeId, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::Transfer { slot: place.slot, to, reply: sender })?;
        super::group::led(waiting).await
    }

    /// As [`super::Group::cancel_transfer`].
    pub async fn cancel_transfer(&self, group: GroupId) -> Result<Option<NodeId>, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::CancelTransfer { slot: place.slot, reply: sender })?;
        super::group::led(waiting).await.map(|to| to.is_some().then_some(to))
    }

    /// As [`super::Group::change_membership`].
    pub async fn change_membership(
        &self,
        group: GroupId,
        change: MembershipChange,
    ) -> Result<LogIndex, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        let item = Item::Change { slot: place.slot, change, reply: sender };
        self.base().node.inbox(place.core).put(item)?;
        super::group::changed(waiting).await
    }

    /// As [`super::Group::snapshot`].
    pub async fn snapshot(&self, group: GroupId) -> Result<LogIndex, Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::Snapshot { slot: place.slot, reply: sender })?;
        super::group::changed(waiting).await
    }

    /// As [`super::Group::campaign`].
    pub async fn campaign(&self, group: GroupId) -> Result<(), Error> {
        let place = self.base().node.hosted(group)?;
        let (sender, waiting) = reply();
        self.base().node.inbox(place.core).put(Item::Campaign { slot: place.slot, reply: sender })?;
        waiting.await.ok_or(Error::Stopped)?
    }

    /// All groups of this node, by id. Cores that ended meanwhile are left out.
    pub async fn group_list(&self) -> Vec<GroupSummary> {
        let mut list: Vec<GroupSummary> =
            self.ask_cores(Item::GroupList).await.into_iter().flatten().collect();
        list.sort_unstable_by_key(|group| group.id);
        list
    }

    /// Moves all leaders off this node and keeps them off, or with `false` lets them come back. It ends with the process at
    /// the latest: a node that starts is not drained.
    pub async fn drain(&self, draining: bool) {
        self.ask_cores(|reply| Item::Drain(draining, reply)).await;
    }

    async fn ask_cores<T>(&self, item: impl Fn(super::reply::Reply<T>) -> Item) -> Vec<T> {
        let asked: Vec<_> = self
            .base()
            .node
            .inboxes
            .iter()
            .filter_map(|inbox| {
                let (sender, waiting) = reply();
                inbox.put(item(sender)).is_ok().then_some(waiting)
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for waiting in asked {
            answers.extend(waiting.await);
        }
        answers
    }

    /// How the connections to the other nodes are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.base().node.peer_status()
    }

    /// Counts of the node's connections.
    pub fn counters(&self) -> RuntimeCounters {
        self.base().node.counters()
    }

    /// Sleeps (so that users need not depend on the runtime's timers).
    pub async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    /// The engine stops: services end their connections and return.
    pub fn is_stopping(&self) -> bool {
        self.base().node.is_stopping()
    }

    /// Waits until the engine stops.
    pub async fn stopping(&self) {
        let base = self.base();
        base.stopping.wait_while(|| !base.node.is_stopping()).await;
    }

    /// Nanoseconds of the monotonic clock, for latency.
    pub fn now_nanos(&self) -> u64 {
        clock::now().0
    }

    /// Runs a task on this core's executor. It is cancelled when the engine has stopped, if it did not end by itself.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.base().tasks.spawn(task);
    }
}

impl Port {
    /// Queues a proposal; the answer carries `token`. Taken with this turn; never blocks; over a bound the answer is `Busy`.
    pub fn propose(&self, token: u64, group: GroupId, payload: &[u8]) {
        self.ask(token, group, Kind::Propose, payload);
    }

    /// Queues the opening of a session, in which commands are executed exactly once. The reply is its number in 8 bytes,
    /// little-endian, for [`crate::api::Session::new`].
    pub fn open_session(&self, token: u64, group: GroupId) {
        self.ask(token, group, Kind::Session(SessionKind::Open), &[]);
    }

    /// Queues a command of a session. The reply is that of its first execution, wherever and whenever that was; see
    /// [`super::Group::propose_in_session`].
    pub fn propose_in_session(&self, token: u64, group: GroupId, call: SessionCall, payload: &[u8]) {
        self.ask(token, group, Kind::Session(SessionKind::Command(call)), payload);
    }

    /// Queues something that keeps a session from expiring.
    pub fn keep_session(&self, token: u64, group: GroupId, session: u64) {
        self.ask(token, group, Kind::Session(SessionKind::KeepAlive(session)), &[]);
    }

    /// Queues the end of a session: the group forgets its replies.
    pub fn close_session(&self, token: u64, group: GroupId, session: u64) {
        self.ask(token, group, Kind::Session(SessionKind::Close(session)), &[]);
    }

    /// Queues a read.
    pub fn read(&self, token: u64, group: GroupId, policy: ReadPolicy, request: &[u8]) {
        self.ask(token, group, Kind::Read(policy), request);
    }

    fn ask(&self, token: u64, group: GroupId, kind: Kind, bytes: &[u8]) {
        let base = self.core.base();
        let taken = match base.node.place(group) {
            None => Err(Error::NoSuchGroup),
            Some(Place { core, slot }) if core == base.id => {
                self.core.request(kind.event(self.state.id(), token, slot, bytes))
            }
            Some(Place { core, slot }) => {
                base.turn.notify();
                base.mesh.borrow_mut().ask(core, slot, self.state.key, token, kind, bytes)
            }
        };
        if let Err(error) = taken {
            self.state.answer(token, Err(error), &[]);
        }
    }

    /// Waits until there are answers and swaps them into `answers` (cleared first).
    pub async fn answers(&self, answers: &mut Completions) {
        // A second borrow of the same `answers` per poll; the cell is only how a closure may do that.
        let answers = RefCell::new(answers);
        poll_fn(|context| self.poll_answers(context, &mut answers.borrow_mut())).await;
    }

    /// As [`Port::answers`], for a future of one's own that waits for other things too. One waiter per port.
    pub fn poll_answers(&self, context: &mut Context<'_>, answers: &mut Completions) -> Poll<()> {
        loop {
            if self.take(answers) {
                return Poll::Ready(());
            }
            // Ready here means only that answers came that were taken already.
            if self.state.wake.poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Swaps what answers there are into `answers` (cleared first); false if there are none.
    pub fn take(&self, answers: &mut Completions) -> bool {
        answers.clear();
        if self.state.ready.replace(false) {
            self.core.take_answers(self.state.id(), answers);
        }
        let mut elsewhere = self.state.elsewhere.borrow_mut();
        if !elsewhere.is_empty() {
            answers.append(&mut elsewhere);
        }
        !answers.is_empty()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let base = self.core.base();
        let was_open = base.mesh.borrow_mut().close(self.state.key);
        if was_open {
            self.core.remove_port(self.state.id());
        }
    }
}
