//! One group, from any thread.

use std::fmt;
use std::sync::Arc;

use logdrive_shard::{GroupId, NodeId};

use crate::api::{Error, ReadPolicy};
use crate::core::GroupStatus;

use super::inbox::{Item, Outcome};
use super::reply::{Waiting, reply};
use super::shared::{Node, Place};

/// One group, from any thread and under any async runtime; cheap to clone. Every method fails with `Stopped` once the engine has
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
    pub async fn propose(&self, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut outcomes = self.propose_batch(vec![payload]).await;
        outcomes.pop().unwrap_or(Err(Error::Stopped))
    }

    /// Proposes several at once; one answer each, in order. They are appended in this order, but each is answered for itself: a
    /// later one can succeed where an earlier one failed.
    pub async fn propose_batch(&self, payloads: Vec<Vec<u8>>) -> Vec<Result<Vec<u8>, Error>> {
        let count = payloads.len();
        let (sender, waiting) = reply();
        let item = Item::Propose { slot: self.place.slot, payloads, reply: sender };
        let refusal = match self.put(item) {
            Err(error) => error,
            Ok(()) => match waiting.await {
                Some(outcomes) => return outcomes,
                // Dropped before the core took it.
                None => Error::Stopped,
            },
        };
        vec![Err(refusal); count]
    }

    /// Asks the state machine, under a policy that says how fresh the answer must be.
    pub async fn read(&self, policy: ReadPolicy, request: Vec<u8>) -> Result<Vec<u8>, Error> {
        let (sender, waiting): (_, Waiting<Vec<Outcome>>) = reply();
        self.put(Item::Read { slot: self.place.slot, policy, request, reply: sender })?;
        waiting.await.and_then(|mut outcomes| outcomes.pop()).unwrap_or(Err(Error::Stopped))
    }

    /// The group's state on this node.
    pub async fn status(&self) -> Result<GroupStatus, Error> {
        let (sender, waiting) = reply();
        self.put(Item::GroupStatus(self.place.slot, sender))?;
        waiting.await.ok_or(Error::Stopped)
    }

    /// Moves leadership from this node to another voter and waits until it leads. `NotLeader` unless this node leads;
    /// `BadTransferee` if `to` is no voter; `Timeout` if it did not take over in time (leadership may be anywhere then).
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), Error> {
        let (sender, waiting) = reply();
        self.put(Item::Transfer { slot: self.place.slot, to, reply: sender })?;
        waiting.await.ok_or(Error::Stopped)?
    }

    fn put(&self, item: Item) -> Result<(), Error> {
        self.node.inbox(self.place.core).put(item)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("place", &self.place).finish()
    }
}
