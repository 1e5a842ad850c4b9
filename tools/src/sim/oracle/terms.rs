//! Terms, commit indexes and campaigns, as they are seen after each turn and in what leaves.

use std::collections::BTreeSet;

use logdrive::core::GroupSummary;
use logdrive::wire::FrameView;
use logdrive_shard::{GroupId, LogIndex, NodeId, Term};

use crate::sim::node::CoreAt;
use crate::sim::observer::{ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// The check.
#[derive(Default)]
pub struct Terms {
    /// Campaigns that were rehearsed.
    rehearsed: BTreeSet<(GroupId, NodeId, Term)>,
}

/// From one turn of a life to the next.
fn grows(before: &GroupSummary, now: &GroupSummary) -> Verdict {
    ensure(now.term >= before.term, "terms never go back", || format!("{} after {}", now.term, before.term))?;
    // A member that was removed gives its log up, and begins anew in the same term.
    let anew = now.last == LogIndex(0) && now.commit == LogIndex(0);
    ensure(now.commit >= before.commit || anew, "commit indexes never go back", || {
        format!("{} after {}", now.commit, before.commit)
    })?;
    ensure(now.applied >= before.applied || anew, "what is applied stays applied", || {
        format!("{} after {}", now.applied, before.applied)
    })?;
    let ordered = now.applied <= now.commit && now.commit <= now.last && now.durable <= now.last;
    ensure(ordered, "applied, committed, written: in this order", || format!("{now:?}"))
}

impl Observer for Terms {
    fn name(&self) -> &'static str {
        "terms"
    }

    fn turned(&mut self, world: &World, core: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        for ChangedSlot { before, now, .. } in changed {
            grows(before, now).map_err(|broken| broken.in_group(now.id).on_node(world.node_id(core)))?;
        }
        Ok(())
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        let node = world.node_id(from);
        for (address, vote) in frame.vote_requests() {
            let Some(group) = world.group_at(to, address.slot) else { continue };
            self.campaigns(group, node, vote.term, vote.pre_vote, vote.transfer)
                .map_err(|broken| broken.in_group(group).on_node(node))?;
        }
        Ok(())
    }
}

impl Terms {
    fn campaigns(
        &mut self,
        group: GroupId,
        node: NodeId,
        term: Term,
        rehearses: bool,
        ordered: bool,
    ) -> Verdict {
        let campaign = (group, node, term);
        if rehearses {
            self.rehearsed.insert(campaign);
        }
        ensure(
            ordered || self.rehearsed.contains(&campaign),
            "nobody campaigns without a rehearsal or an order",
            || format!("in term {term}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logdrive_shard::Role;

    fn summary() -> GroupSummary {
        GroupSummary {
            id: GroupId(1),
            role: Role::Follower,
            term: Term(3),
            leader: NodeId(1),
            commit: LogIndex(5),
            applied: LogIndex(4),
            last: LogIndex(7),
            durable: LogIndex(6),
        }
    }

    #[test]
    fn what_goes_back_is_seen() {
        let before = summary();
        let assertion = |now: GroupSummary| grows(&before, &now).err().map(|broken| broken.assertion);
        assert_eq!(assertion(before), None);
        assert_eq!(assertion(GroupSummary { term: Term(2), ..before }), Some("terms never go back"));
        let back = GroupSummary { commit: LogIndex(4), ..before };
        assert_eq!(assertion(back), Some("commit indexes never go back"));
        let back = GroupSummary { applied: LogIndex(3), ..before };
        assert_eq!(assertion(back), Some("what is applied stays applied"));
        let wrong = GroupSummary { commit: LogIndex(8), ..before };
        assert_eq!(assertion(wrong), Some("applied, committed, written: in this order"));
        let anew = GroupSummary {
            commit: LogIndex(0),
            applied: LogIndex(0),
            last: LogIndex(0),
            durable: LogIndex(0),
            ..before
        };
        assert_eq!(assertion(anew), None);
    }

    #[test]
    fn a_campaign_out_of_nothing_is_seen() {
        let mut terms = Terms::default();
        let (group, node) = (GroupId(1), NodeId(2));
        terms.campaigns(group, node, Term(4), true, false).unwrap();
        terms.campaigns(group, node, Term(4), false, false).unwrap();
        terms.campaigns(group, node, Term(6), false, true).unwrap();
        let broken = terms.campaigns(group, node, Term(5), false, false).unwrap_err();
        assert_eq!(broken.assertion, "nobody campaigns without a rehearsal or an order");
    }
}
