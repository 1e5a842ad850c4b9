//! One group, from any thread.

use std::fmt;
use std::sync::Arc;

use logdrive_shard::{GroupId, LogIndex, MembershipChange, NodeId};

use crate::api::{Error, ReadPolicy, Session, SessionCall};
use crate::core::{GroupDigest, GroupStatus};
use crate::mesh::SessionKind;

use super::inbox::{Item, Outcome};
use super::reply::{Waiting, reply};
use super::session::SessionRequest;
use super::shared::{Node, Place};

/// One group, from any thread and under any async runtime; cheap to clone. The futures are `Send` and borrow nothing; what they ask
/// for is sent when they are first polled. Every method fails with `Stopped` once the engine has
/// stopped. A future may be dropped at any time: what it asked for may take effect all the same.
#[derive(Clone)]
pub struct Group {
    node: Arc<Node>,
    id: GroupId,
    place: Place,
}

impl Group {
    pub(crate) fn new(node: Arc<Node>, id: GroupId) -> Result<Group, Error> {
        let place = node.hosted(id)?;
        Ok(Group { node, id, place })
    }

    /// Its id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The leader, as last known here. `NONE` if unknown.
    pub fn leader(&self) -> NodeId {
        self.node.leader_of(self.id)
    }

    /// Proposes and waits for the reply of the state machine. Fails with `NotLeader` unless this node leads the group.
    pub fn propose(&self, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Error>> + Send + use<> {
        let batch = self.propose_batch(vec![payload]);
        async move { batch.await.pop().unwrap_or(Err(Error::Stopped)) }
    }

    /// Proposes several at once; one answer each, in order. They are appended in this order, but each is answered for itself: a
    /// later one can succeed where an earlier one failed.
    pub fn propose_batch(
        &self,
        payloads: Vec<Vec<u8>>,
    ) -> impl Future<Output = Vec<Result<Vec<u8>, Error>>> + Send + use<> {
        let group = self.clone();
        async move {
            let count = payloads.len();
            let (sender, waiting) = reply();
            let item = Item::Propose { slot: group.place.slot, payloads, reply: sender };
            let refusal = match group.put(item) {
                Err(error) => error,
                Ok(()) => match waiting.await {
                    Some(outcomes) => return outcomes,
                    // Dropped before the core took it.
                    None => Error::Stopped,
                },
            };
            vec![Err(refusal); count]
        }
    }

    /// Opens a session: commands in it are executed exactly once, however often they are proposed. A session whose opening was not
    /// answered ends by itself.
    pub fn open_session(&self) -> impl Future<Output = Result<Session, Error>> + Send + use<> {
        let opened = self.session(SessionKind::Open.into());
        async move {
            let id = opened.await?;
            let id = id.try_into().map(u64::from_le_bytes).map_err(|_| Error::SessionFormat)?;
            Ok(Session::new(id))
        }
    }

    /// Proposes a command of a session and waits for its reply: the one of its first execution, wherever and whenever that was. After
    /// `Indeterminate`, `Timeout`, `NotLeader` or a lost connection, repeat it under the same call, at the leader.
    ///
    /// `UnknownSession` if the session ended; `SessionSequence` if the number is not in its window.
    pub fn propose_in_session(
        &self,
        call: SessionCall,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send + use<> {
        self.session(SessionRequest { kind: SessionKind::Command(call), command: payload })
    }

    /// Keeps a session from expiring.
    pub fn keep_session(&self, session: u64) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let kept = self.session(SessionKind::KeepAlive(session).into());
        async move { kept.await.map(drop) }
    }

    /// Ends a session: the group forgets its replies.
    pub fn close_session(&self, session: u64) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let closed = self.session(SessionKind::Close(session).into());
        async move { closed.await.map(drop) }
    }

    fn session(&self, op: SessionRequest) -> impl Future<Output = Outcome> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting): (_, Waiting<Vec<Outcome>>) = reply();
            group.put(Item::Session { slot: group.place.slot, op, reply: sender })?;
            waiting.await.and_then(|mut outcomes| outcomes.pop()).unwrap_or(Err(Error::Stopped))
        }
    }

    /// Asks the state machine, under a policy that says how fresh the answer must be.
    pub fn read(
        &self,
        policy: ReadPolicy,
        request: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting): (_, Waiting<Vec<Outcome>>) = reply();
            group.put(Item::Read { slot: group.place.slot, policy, request, reply: sender })?;
            waiting.await.and_then(|mut outcomes| outcomes.pop()).unwrap_or(Err(Error::Stopped))
        }
    }

    /// The group's state on this node.
    pub fn status(&self) -> impl Future<Output = Result<GroupStatus, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::GroupStatus(group.place.slot, sender))?;
            waiting.await.ok_or(Error::Stopped)
        }
    }

    /// The digest of the group's state on this node, for comparing nodes at the same applied index: see
    /// [`StateMachine::digest`](crate::api::StateMachine::digest). It may cost a pass over the state, during which the core of
    /// the group does nothing else.
    pub fn digest(&self) -> impl Future<Output = Result<GroupDigest, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::GroupDigest(group.place.slot, sender))?;
            waiting.await.ok_or(Error::Stopped)
        }
    }

    /// Moves leadership from this node to another voter and waits until the group tells how that ended. Proposals meanwhile are
    /// `Busy`.
    ///
    /// `NotLeader` unless this node leads; `BadTransferee` if `to` is no voter; `Busy` while a transfer to another node is under
    /// way; `TransferTimedOut` if `to` did not take over in time and this node leads on; `TransferCancelled`, for example
    /// because `to` is no voter any more; `TransferElsewhere` if another node leads now, or nobody.
    pub fn transfer_leadership(&self, to: NodeId) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::Transfer { slot: group.place.slot, to, reply: sender })?;
            led(waiting).await.map(drop)
        }
    }

    /// Asks for another configuration of the group's members and waits until it is committed; the index of the configuration,
    /// which a later change can name as the one it expects. If the way there is a joint configuration that the leader leaves by itself,
    /// that was left: the index is that of the final configuration.
    ///
    /// `NotLeader` unless this node leads; `MembershipMismatch` if the configuration is not the expected one;
    /// `LearnerBehind`, `LearnerUnknown` and `NoQuorum` for what would keep the group from committing; `Busy` while an
    /// earlier change or a transfer is under way; `Indeterminate` if leadership was lost before the final configuration was committed.
    pub fn change_membership(
        &self,
        change: MembershipChange,
    ) -> impl Future<Output = Result<LogIndex, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::Change { slot: group.place.slot, change, reply: sender })?;
            changed(waiting).await
        }
    }

    /// Moves leadership to the voter that suits best: one in contact that is not being drained and has what is committed, then the
    /// preferred one, then the one with the longest log. The node that leads then. As [`Group::transfer_leadership`], and
    /// `NobodyToTakeOver`.
    pub fn transfer_to_best(&self) -> impl Future<Output = Result<NodeId, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::Transfer { slot: group.place.slot, to: NodeId::NONE, reply: sender })?;
            led(waiting).await
        }
    }

    /// Calls the leader transfer under way off, whoever began it: proposals are taken again, and whoever waits for the transfer gets
    /// `TransferCancelled`. The node that it went to; `None` if there was none. If that node has been told to campaign, it may take over
    /// all the same. A transfer that this node began by itself (the leader belongs elsewhere, the node is drained) is begun again
    /// after a while.
    ///
    /// `NotLeader` unless this node leads.
    pub fn cancel_transfer(&self) -> impl Future<Output = Result<Option<NodeId>, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::CancelTransfer { slot: group.place.slot, reply: sender })?;
            led(waiting).await.map(|to| to.is_some().then_some(to))
        }
    }

    /// Takes a snapshot of the group's state on this node, whatever its role, and waits until it is durable; the last index that it
    /// stands for. If nothing was applied since the last one, that one is it. What the log need not keep any more it may give up
    /// then.
    ///
    /// `SnapshotFailed` if it could not be written; it is tried again later then.
    pub fn snapshot(&self) -> impl Future<Output = Result<LogIndex, Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::Snapshot { slot: group.place.slot, reply: sender })?;
            changed(waiting).await
        }
    }

    /// Makes this node's member campaign, for tests and repair, and waits until it leads; `Timeout` if it was not elected: where a
    /// leader is in contact with a quorum, nobody votes for another.
    pub fn campaign(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let group = self.clone();
        async move {
            let (sender, waiting) = reply();
            group.put(Item::Campaign { slot: group.place.slot, reply: sender })?;
            waiting.await.ok_or(Error::Stopped)?
        }
    }

    fn put(&self, item: Item) -> Result<(), Error> {
        self.node.inbox(self.place.core).put(item)
    }
}

/// The index of a configuration, or of a snapshot, that was asked for.
pub(crate) async fn changed(waiting: Waiting<Vec<Outcome>>) -> Result<LogIndex, Error> {
    let reply = waiting.await.and_then(|mut outcomes| outcomes.pop()).unwrap_or(Err(Error::Stopped))?;
    let index = reply.try_into().map(u64::from_le_bytes);
    Ok(LogIndex(index.expect("the core answers changes and snapshots with an index")))
}

/// The node that leads after a transfer.
pub(crate) async fn led(waiting: Waiting<Vec<Outcome>>) -> Result<NodeId, Error> {
    let reply = waiting.await.and_then(|mut outcomes| outcomes.pop()).unwrap_or(Err(Error::Stopped))?;
    let node = reply.try_into().map(u32::from_le_bytes);
    Ok(NodeId(node.expect("the core answers transfers with a node")))
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("place", &self.place).finish()
    }
}
