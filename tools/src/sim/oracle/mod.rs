//! The checks: each is an [`Observer`] that says what must never be seen.
//!
//! | file | what it asserts |
//! |---|---|
//! | `commands` | every node applies the same commands in the same order, once; answers tell what happened; reads see what was acknowledged |
//! | `raft` | one leader per term; votes and acknowledgements are kept over restarts; what is committed is durable on a quorum |
//! | `bounds` | queues and budgets are within their bounds |
//! | `linear` | histories are linearizable, key by key |
//! | `terms` | terms and commit indexes never go back; nobody campaigns without a rehearsal |
//! | `ledger` | what is durable: reads every log from its medium, and hands it to the checks below |
//! | `member` | the durable part of a member: term and vote never go back, what is committed is never replaced |
//! | `agreed` | logs match; what is committed is the same everywhere |
//! | `own_bytes` | no group reads another group's bytes |
//! | `promises` | no vote, acknowledgement or answer leaves before it is durable; leaders are elected by durable votes |
//! | `changes` | configurations are those of their entries; one change at a time |
//! | `rehearsals` | whoever is refused for its term asks again at once |
//! | `doubts` | who is in doubt about its vote vouches for nothing, and asks everybody who is named |
//! | `snapshot_answers` | what is said late of a snapshot changes nothing |
//! | `unreadable` | no commit rests on who cannot read its log; whoever leads and cannot send what others wait for makes way |
//! | `crash` | what a loss of power leaves at the end is what was durable |

mod agreed;
mod bounds;
mod changes;
mod commands;
mod crash;
mod doubts;
mod ledger;
mod linear;
mod member;
mod own_bytes;
mod promises;
mod raft;
mod rehearsals;
mod snapshot_answers;
mod terms;
mod unreadable;

pub use bounds::Bounds;
pub use commands::Commands;
pub use doubts::Doubts;
pub use ledger::Ledger;
pub use linear::Linear;
pub use own_bytes::OwnBytes;
pub use raft::Raft;
pub use rehearsals::Rehearsals;
pub use snapshot_answers::SnapshotAnswers;
pub use terms::Terms;
pub use unreadable::Unreadable;

use logdrive::core::Slot;
use logdrive::wire::FrameView;
use logdrive_shard::{AppendOutcome, GroupId, LogIndex, Term};

use super::node::CoreAt;
use super::observer::Observer;
use super::plan::Plan;
use super::world::World;

/// All checks that fit a plan.
pub fn all(_plan: &Plan) -> Vec<Box<dyn Observer>> {
    vec![
        Box::<Linear>::default(),
        Box::<Commands>::default(),
        Box::<Terms>::default(),
        Box::<Ledger>::default(),
        Box::<Raft>::default(),
        Box::<OwnBytes>::default(),
        Box::<Rehearsals>::default(),
        Box::<Doubts>::default(),
        Box::<SnapshotAnswers>::default(),
        Box::<Unreadable>::default(),
        Box::<Bounds>::default(),
    ]
}

/// What a frame acknowledges: the group and its slot on the node that sends the frame, the term in which, and the index up to which.
fn acknowledged(
    world: &World,
    (from, to): (CoreAt, CoreAt),
    frame: &FrameView<'_>,
) -> impl Iterator<Item = (GroupId, Slot, Term, LogIndex)> {
    frame.append_replies().filter_map(move |(address, reply)| {
        let AppendOutcome::Matched(index) = reply.outcome else { return None };
        let group = world.group_at(to, address.slot)?;
        let (_, slot) = world.home(world.node_of(from), group);
        Some((group, slot, reply.term, index))
    })
}
