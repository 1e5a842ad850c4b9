//! What a member says of a snapshot that it is sent concerns its leader as long as that waits for the snapshot. Said late, or of a
//! transfer that consensus knows nothing of, it changes nothing: a leader that pipelines entries to the member goes on with that.

use logdrive::core::Slot;
use logdrive::wire::FrameView;
use logdrive_shard::{LogIndex, NodeId, PeerReport, Term};

use crate::sim::node::{CoreAt, SimCore};
use crate::sim::observer::{Observer, Verdict, ensure};
use crate::sim::world::World;

/// How a leader sends to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    term: Term,
    matched: LogIndex,
    next: LogIndex,
    state: &'static str,
    /// In contact. The frame may have a pulse with which contact begins: a leader asks everybody anew then, whatever else it was told.
    alive: bool,
}

/// The check.
#[derive(Default)]
pub struct SnapshotAnswers {
    /// Leaders that are about to be told of a snapshot to a member that they pipeline entries to.
    told: Vec<(Slot, Seen)>,
}

/// Whether the frame has nothing else for the slot that concerns how its leader sends.
fn is_all_for(frame: &FrameView<'_>, slot: u32) -> bool {
    !frame.append_replies().any(|(to, _)| to.slot == slot)
        && !frame.appends().any(|(to, ..)| to.slot == slot)
        && !frame.heartbeats().any(|(to, _)| to.slot == slot)
        && !frame.heartbeat_replies().any(|(to, _)| to.slot == slot)
        && !frame.vote_requests().any(|(to, _)| to.slot == slot)
        && !frame.vote_replies().any(|(to, _)| to.slot == slot)
        && !frame.snapshot_offers().any(|(to, ..)| to.slot == slot)
}

fn seen(core: &SimCore, slot: Slot, peer: NodeId) -> Option<Seen> {
    let raft = core.group_status(slot).raft;
    let peer = raft.peers.into_iter().find(|report| report.node == peer);
    peer.filter(|_| core.is_leader(slot)).map(|PeerReport { matched, next, state, alive, .. }| Seen {
        term: raft.term,
        matched,
        next,
        state,
        alive,
    })
}

fn judge(before: Seen, after: Option<Seen>) -> Verdict {
    // The frame may show that there is room on the way again, so that more is sent, and it turns out that more than the log has is missing.
    let is_same = |after: Seen| after.matched == before.matched && after.state != "probe";
    let same = after.is_none_or(|after| after.alive != before.alive || is_same(after));
    ensure(same, "what is said late of a snapshot changes nothing", || {
        format!("{before:?} before it, {after:?} then")
    })
}

impl Observer for SnapshotAnswers {
    fn name(&self) -> &'static str {
        "snapshot answers"
    }

    fn frame_comes(&mut self, world: &World, from: CoreAt, to: CoreAt, bytes: &[u8]) -> Verdict {
        self.told.clear();
        let (Some(core), Ok(frame)) = (world.core(to), World::read_own(bytes)) else { return Ok(()) };
        for (address, _) in frame.snapshot_answers() {
            let slot = Slot(address.slot);
            let is_new = self.told.iter().all(|(known, _)| *known != slot);
            if (address.slot as usize) < world.groups_of(to).len()
                && is_new
                && is_all_for(&frame, address.slot)
                && let Some(seen) = seen(core, slot, world.node_id(from))
                && seen.state == "replicate"
            {
                self.told.push((slot, seen));
            }
        }
        Ok(())
    }

    fn frame_taken(&mut self, world: &World, from: CoreAt, to: CoreAt, _bytes: &[u8]) -> Verdict {
        let Some(core) = world.core(to) else { return Ok(()) };
        std::mem::take(&mut self.told).into_iter().try_for_each(|(slot, before)| {
            judge(before, seen(core, slot, world.node_id(from)))
                .map_err(|broken| broken.in_group(core.group_status(slot).id).on_node(world.node_id(to)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_begins_anew_for_what_was_said_late_is_seen() {
        let before =
            Seen { term: Term(2), matched: LogIndex(5), next: LogIndex(9), state: "replicate", alive: true };
        judge(before, Some(before)).unwrap();
        judge(before, Some(Seen { next: LogIndex(12), ..before })).unwrap();
        let broken = judge(before, Some(Seen { state: "probe", ..before })).unwrap_err();
        assert_eq!(broken.assertion, "what is said late of a snapshot changes nothing");
    }

    #[test]
    fn a_leader_asks_anew_whom_it_is_in_contact_with_again_by_the_same_frame() {
        let before =
            Seen { term: Term(2), matched: LogIndex(8), next: LogIndex(9), state: "replicate", alive: false };
        judge(before, Some(Seen { state: "probe", alive: true, ..before })).unwrap();
        judge(before, Some(Seen { state: "probe", ..before })).unwrap_err();
    }
}
