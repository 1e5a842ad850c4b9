//! Leader transfers that someone waits for.

use logdrive_shard::{Moment, NodeId};
use logdrive_wal::Disk;

use crate::api::{Error, StateMachine};
use crate::core::{Core, Event, Slot};

use super::reply::Reply;

struct Transfer {
    slot: Slot,
    to: NodeId,
    give_up: Moment,
    reply: Reply<Result<(), Error>>,
}

/// Transfers under way on one core.
#[derive(Default)]
pub(crate) struct Transfers {
    waiting: Vec<Transfer>,
}

/// Transfers that are waited for on one core, at most.
const TRANSFERS_MAX: usize = 4096;

impl Transfers {
    /// Begins a transfer, to the best successor if `to` is `NONE`. The reply comes when `to` leads, or when the group's members
    /// gave up.
    pub(crate) fn begin<D: Disk, M: StateMachine>(
        &mut self,
        now: Moment,
        core: &mut Core<D, M>,
        give_up: Moment,
        (slot, to): (Slot, NodeId),
        reply: Reply<Result<(), Error>>,
    ) {
        let leader = core.leader_of(slot);
        let to = if to.is_some() { to } else { core.best_successor(slot).unwrap_or(NodeId::NONE) };
        let refusal = if leader == to && to.is_some() {
            Some(Ok(()))
        } else if !core.is_leader(slot) {
            Some(Err(Error::NotLeader { leader }))
        } else if !core.group_status(slot).raft.peers.iter().any(|peer| peer.node == to) {
            Some(Err(Error::BadTransferee { to }))
        } else if self.waiting.len() >= TRANSFERS_MAX {
            Some(Err(Error::Busy {
                why: crate::api::Busy::Queue,
                retry_after: std::time::Duration::from_millis(10),
            }))
        } else {
            None
        };
        if let Some(result) = refusal {
            reply.send(result);
            return;
        }
        let taken = core.handle(now, Event::Transfer { slot, to });
        debug_assert!(taken.is_ok(), "only frames are refused");
        self.waiting.push(Transfer { slot, to, give_up, reply });
    }

    /// Begins a campaign of this node, `me`. The reply comes when it leads, or after so long that it lost.
    pub(crate) fn campaign<D: Disk, M: StateMachine>(
        &mut self,
        now: Moment,
        core: &mut Core<D, M>,
        give_up: Moment,
        (slot, me): (Slot, NodeId),
        reply: Reply<Result<(), Error>>,
    ) {
        if self.waiting.len() >= TRANSFERS_MAX {
            return reply.send(Err(Error::Busy {
                why: crate::api::Busy::Queue,
                retry_after: std::time::Duration::from_millis(10),
            }));
        }
        let taken = core.handle(now, Event::Campaign { slot });
        debug_assert!(taken.is_ok(), "only frames are refused");
        self.waiting.push(Transfer { slot, to: me, give_up, reply });
    }

    /// Answers those that ended.
    pub(crate) fn check<D: Disk, M: StateMachine>(&mut self, now: Moment, core: &Core<D, M>) {
        let mut next = 0;
        while let Some(transfer) = self.waiting.get(next) {
            let leader = core.leader_of(transfer.slot);
            let result = if leader == transfer.to {
                Ok(())
            } else if now >= transfer.give_up {
                Err(Error::Timeout)
            } else {
                next += 1;
                continue;
            };
            self.waiting.swap_remove(next).reply.send(result);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
