//! Campaigns by order that someone waits for.

use logdrive_shard::{Moment, NodeId};
use logdrive_wal::Disk;

use crate::api::{Busy, Error, StateMachine};
use crate::core::{Core, Event, Slot};

use super::reply::Reply;

struct Campaign {
    slot: Slot,
    me: NodeId,
    give_up: Moment,
    reply: Reply<Result<(), Error>>,
}

/// Campaigns under way on one core.
#[derive(Default)]
pub(crate) struct Campaigns {
    waiting: Vec<Campaign>,
}

/// Campaigns that are waited for on one core, at most.
const CAMPAIGNS_MAX: usize = 4096;

impl Campaigns {
    /// Begins a campaign of this node, `me`. The reply comes when it leads, or after so long that it lost.
    pub(crate) fn begin<D: Disk, M: StateMachine>(
        &mut self,
        now: Moment,
        core: &mut Core<D, M>,
        give_up: Moment,
        (slot, me): (Slot, NodeId),
        reply: Reply<Result<(), Error>>,
    ) {
        if self.waiting.len() >= CAMPAIGNS_MAX {
            return reply.send(Err(Error::Busy {
                why: Busy::Queue,
                retry_after: std::time::Duration::from_millis(10),
            }));
        }
        let taken = core.handle(now, Event::Campaign { slot });
        debug_assert!(taken.is_ok(), "only frames are refused");
        self.waiting.push(Campaign { slot, me, give_up, reply });
    }

    /// Answers those that ended.
    pub(crate) fn check<D: Disk, M: StateMachine>(&mut self, now: Moment, core: &Core<D, M>) {
        let mut next = 0;
        while let Some(campaign) = self.waiting.get(next) {
            let result = if core.leader_of(campaign.slot) == campaign.me {
                Ok(())
            } else if now >= campaign.give_up {
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
