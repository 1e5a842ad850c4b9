//! Whoever asked whether it would be elected and is refused for its term asks again at once, in the new one. Otherwise somebody who cannot win might
//! raise the terms of the others again before its next deadline, and so on: a group without leader that nothing is wrong with.

use logdrive::core::Slot;
use logdrive::wire::FrameView;
use logdrive_shard::{NodeId, Role, Term};

use crate::sim::node::CoreAt;
use crate::sim::observer::{Observer, Verdict, ensure};
use crate::sim::world::World;

/// A refusal that is about to be taken by somebody who rehearses in an earlier term.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    slot: Slot,
    term: Term,
}

/// The check.
#[derive(Default)]
pub struct Rehearsals {
    refusals: Vec<Refusal>,
}

/// Whether the frame has nothing else for the slot that could make the member a follower.
fn is_all_for(frame: &FrameView<'_>, slot: u32) -> bool {
    let votes = frame.vote_replies().filter(|(to, _)| to.slot == slot).count();
    votes == 1
        && !frame.appends().any(|(to, ..)| to.slot == slot)
        && !frame.append_replies().any(|(to, _)| to.slot == slot)
        && !frame.heartbeats().any(|(to, _)| to.slot == slot)
        && !frame.heartbeat_replies().any(|(to, _)| to.slot == slot)
        && !frame.vote_requests().any(|(to, _)| to.slot == slot)
        && !frame.timeout_nows().any(|(to, _)| to.slot == slot)
        && !frame.snapshot_offers().any(|(to, ..)| to.slot == slot)
}

fn asks_again(role: Role, leader: NodeId, refusal: Term, before: Term) -> Verdict {
    let gave_up = role == Role::Follower && !leader.is_some();
    ensure(!gave_up, "whoever is refused for its term asks again at once", || {
        format!("rehearsed in {before}, was refused in {refusal}, and does nothing")
    })
}

impl Observer for Rehearsals {
    fn name(&self) -> &'static str {
        "rehearsals"
    }

    fn frame_comes(&mut self, world: &World, _from: CoreAt, to: CoreAt, bytes: &[u8]) -> Verdict {
        self.refusals.clear();
        let (Some(core), Ok(frame)) = (world.core(to), World::read_own(bytes)) else { return Ok(()) };
        for (address, vote) in frame.vote_replies().filter(|(_, vote)| !vote.granted) {
            let slot = Slot(address.slot);
            if (address.slot as usize) < world.groups_of(to).len() && is_all_for(&frame, address.slot) {
                let raft = core.group_status(slot).raft;
                if raft.role == Role::PreCandidate && raft.term < vote.term {
                    self.refusals.push(Refusal { slot, term: raft.term });
                }
            }
        }
        Ok(())
    }

    fn frame_taken(&mut self, world: &World, _from: CoreAt, to: CoreAt, _bytes: &[u8]) -> Verdict {
        let Some(core) = world.core(to) else { return Ok(()) };
        for Refusal { slot, term } in std::mem::take(&mut self.refusals) {
            let status = core.group_status(slot);
            if status.raft.term > term {
                asks_again(status.raft.role, status.raft.leader, status.raft.term, term)
                    .map_err(|broken| broken.in_group(status.id).on_node(world.node_id(to)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gives_up_when_it_is_refused_for_its_term_is_seen() {
        let broken = asks_again(Role::Follower, NodeId::NONE, Term(7), Term(4)).unwrap_err();
        assert_eq!(broken.assertion, "whoever is refused for its term asks again at once");
        asks_again(Role::PreCandidate, NodeId::NONE, Term(7), Term(4)).unwrap();
        asks_again(Role::Follower, NodeId(2), Term(7), Term(4)).unwrap();
    }
}
