//! The promises of Raft, as they are seen from outside: states after each turn, and messages that leave.

use std::collections::BTreeMap;

use logdrive::core::GroupStatus;
use logdrive::wire::FrameView;
use logdrive_shard::{AppendOutcome, GroupId, LogIndex, Membership, NodeId, Role, Term};

use crate::sim::node::CoreAt;
use crate::sim::observer::{ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// A member as it was seen last.
#[derive(Clone, Debug, Default)]
struct Seen {
    durable: LogIndex,
    last: LogIndex,
    membership: Option<Membership>,
    /// The term it leads in, its commit index when that began, and the first index of the term.
    leads: Option<(Term, LogIndex, LogIndex)>,
}

/// What a member has promised with messages that left it.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// The highest term in which it voted or acknowledged.
    term: Term,
    /// The last index it acknowledged in `term`.
    matched: LogIndex,
}

impl Promise {
    fn in_term(&mut self, term: Term) {
        if self.term < term {
            *self = Promise { term, matched: LogIndex(0) };
        }
    }
}

#[derive(Default)]
struct Group {
    leaders: BTreeMap<Term, NodeId>,
    /// The highest commit index of any leader.
    commit: LogIndex,
    members: BTreeMap<NodeId, Seen>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    promises: BTreeMap<NodeId, Promise>,
    /// Members whose last entry is of the term that they are in: term and index.
    in_term: BTreeMap<NodeId, (Term, LogIndex)>,
}

/// The check.
#[derive(Default)]
pub struct Raft {
    groups: BTreeMap<GroupId, Group>,
}

impl Group {
    /// `lied`: nodes whose disks may have lost what they held.
    fn see(&mut self, node: NodeId, status: &GroupStatus, lied: impl Fn(NodeId) -> bool) -> Verdict {
        let raft = &status.raft;
        ensure(status.applied <= raft.commit, "only what is committed is applied", || {
            format!("applied {}, commit {}", status.applied, raft.commit)
        })?;
        ensure(status.applied <= raft.durable, "only what is durable is applied", || {
            format!("applied {}, durable {}", status.applied, raft.durable)
        })?;
        let before = self.members.entry(node).or_default().clone();
        let mut seen = Seen {
            durable: raft.durable,
            last: raft.last,
            membership: Some(raft.membership.clone()),
            leads: None,
        };
        if raft.role == Role::Leader {
            let first = *self.leaders.entry(raft.term).or_insert(node);
            ensure(first == node, "one leader per term", || {
                format!("nodes {first} and {node} in term {}", raft.term)
            })?;
            let leads = match before.leads {
                Some(leads) if leads.0 == raft.term => leads,
                _ => (raft.term, raft.commit, before.last.next()),
            };
            // Raft paper, figure 8.
            let own_term = raft.commit <= leads.1 || raft.commit >= leads.2;
            ensure(own_term, "entries of older terms are committed by one of the own term", || {
                format!("leads {leads:?} and commits {}", raft.commit)
            })?;
            seen.leads = Some(leads);
        }
        self.members.insert(node, seen);
        if raft.role == Role::Leader && raft.commit > self.commit {
            self.commit = raft.commit;
            // A configuration that was appended after the commit index moved, in the same turn, was not asked.
            let quorum = self.holds_quorum(&raft.membership, raft.commit, &lied)
                || before
                    .membership
                    .is_some_and(|membership| self.holds_quorum(&membership, raft.commit, &lied));
            ensure(quorum, "what is committed is durable on a quorum", || {
                format!("{} is committed under {:?}; {:?}", raft.commit, raft.membership, self.members)
            })?;
        }
        Ok(())
    }

    fn holds_quorum(&self, membership: &Membership, index: LogIndex, lied: &impl Fn(NodeId) -> bool) -> bool {
        let holds = |voters: &[NodeId]| {
            let has = |node: &&NodeId| {
                lied(**node) || self.members.get(node).is_some_and(|seen| seen.durable >= index)
            };
            voters.is_empty() || voters.iter().filter(has).count() > voters.len() / 2
        };
        holds(membership.voters()) && holds(membership.outgoing())
    }

    fn vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) -> Verdict {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        self.promises.entry(voter).or_default().in_term(term);
        ensure(first == candidate, "one vote per term", || {
            format!("node {voter} voted for {first} and {candidate} in term {term}")
        })
    }

    fn matched(&mut self, node: NodeId, term: Term, matched: LogIndex) {
        let promise = self.promises.entry(node).or_default();
        promise.in_term(term);
        if promise.term == term {
            promise.matched = promise.matched.max(matched);
        }
    }

    /// A member's log ends with `last`, of the term `of`. What the leader of a term sent is in that leader's log, which only grows: it stays
    /// as long as the member is in that term, whatever else comes.
    fn keeps(&mut self, node: NodeId, term: Term, last: LogIndex, of: Option<Term>) -> Verdict {
        let before = self.in_term.remove(&node).filter(|before| before.0 == term);
        if of == Some(term) {
            self.in_term.insert(node, (term, last));
        }
        ensure(before.is_none_or(|before| last >= before.1), "entries of a term stay while it lasts", || {
            format!("the log ends with {last} of {of:?} in term {term}; it had {before:?}")
        })
    }

    fn begins_anew(&mut self, node: NodeId) {
        self.in_term.remove(&node);
        if let Some(promise) = self.promises.get_mut(&node) {
            promise.matched = LogIndex(0);
        }
    }

    /// A node comes back with this state: whatever it has promised must be in it.
    fn came_back(&mut self, node: NodeId, status: &GroupStatus) -> Verdict {
        let Some(promise) = self.promises.get(&node) else { return Ok(()) };
        let (term, last) = (status.raft.term, status.raft.last);
        ensure(term >= promise.term, "terms are kept over a restart", || {
            format!("came back in term {term} after {promise:?}")
        })?;
        // In a later term another leader may have replaced what was acknowledged.
        let kept = term > promise.term || last >= promise.matched;
        ensure(kept, "what was acknowledged is kept over a restart", || {
            format!("came back with {last} after {promise:?}")
        })
    }
}

impl Raft {
    fn forget(&mut self, node: NodeId) {
        for group in self.groups.values_mut() {
            group.promises.remove(&node);
        }
    }
}

/// Whether a node's disk ever held damage: it may have lost what it held when something was committed, and knows it.
fn lied(world: &World, node: NodeId) -> bool {
    world.disk_lied(node.0 as usize - 1)
}

/// A member that cannot know whom it voted for does not vote.
fn gives_no_vote_in_doubt(world: &World, from: CoreAt, group: GroupId) -> Verdict {
    let (_, slot) = world.home(world.node_of(from), group);
    let in_doubt = world.core(from).is_some_and(|core| core.group_status(slot).raft.lost.state);
    ensure(!in_doubt, "who is in doubt about its vote gives none", || format!("group {group}"))
}

impl Observer for Raft {
    fn name(&self) -> &'static str {
        "raft"
    }

    fn opened(&mut self, world: &World, core: CoreAt) -> Verdict {
        let (Some(live), node) = (world.core(core), world.node_id(core)) else { return Ok(()) };
        if world.is_spoiled(world.node_of(core)) {
            return Ok(());
        }
        if world.disk_lied(world.node_of(core)) {
            // It may come back with less than it promised, and knows it. What it holds is not asked for any more.
            self.forget(node);
        }
        for slot in 0..world.groups_of(core).len() as u32 {
            let status = live.group_status(logdrive::core::Slot(slot));
            let group = self.groups.entry(status.id).or_default();
            // What was not durable may be gone.
            group.in_term.remove(&node);
            let verdict = group
                .came_back(node, &status)
                .and_then(|()| group.see(node, &status, |node| lied(world, node)));
            verdict.map_err(|broken| broken.in_group(status.id).on_node(node))?;
        }
        Ok(())
    }

    fn turned(&mut self, world: &World, core: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        let (Some(live), node) = (world.core(core), world.node_id(core)) else { return Ok(()) };
        if world.is_spoiled(world.node_of(core)) {
            return Ok(());
        }
        for changed in changed {
            if changed.now.last == LogIndex(0) && changed.before.last > LogIndex(0) {
                // It was removed and is no member any more: the group begins anew here, with term and vote.
                self.groups.entry(changed.now.id).or_default().begins_anew(node);
            }
            let status = live.group_status(changed.slot);
            let group = self.groups.entry(status.id).or_default();
            let of = live.term_at(changed.slot, status.raft.last);
            group
                .see(node, &status, |node| lied(world, node))
                .and_then(|()| group.keeps(node, status.raft.term, status.raft.last, of))
                .map_err(|broken| broken.in_group(status.id).on_node(node))?;
        }
        Ok(())
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        let (node, peer) = (world.node_id(from), world.node_id(to));
        let mut vote = |slot: u32, term, candidate| {
            let Some(id) = world.group_at(to, slot) else { return Ok(()) };
            let group = self.groups.entry(id).or_default();
            group.vote(node, term, candidate).map_err(|broken| broken.in_group(id).on_node(node))
        };
        for (address, request) in frame.vote_requests().filter(|(_, vote)| !vote.pre_vote) {
            vote(address.slot, request.term, node)?;
        }
        for (address, reply) in frame.vote_replies().filter(|(_, vote)| vote.granted && !vote.pre_vote) {
            vote(address.slot, reply.term, peer)?;
            if let Some(id) = world.group_at(to, address.slot) {
                gives_no_vote_in_doubt(world, from, id)
                    .map_err(|broken| broken.in_group(id).on_node(node))?;
            }
        }
        for (address, reply) in frame.append_replies() {
            if let (AppendOutcome::Matched(index), Some(id)) =
                (reply.outcome, world.group_at(to, address.slot))
            {
                self.groups.entry(id).or_default().matched(node, reply.term, index);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_term_that_go_are_seen() {
        let (mut group, node) = (Group::default(), NodeId(1));
        let mut keeps = |term, last, of| group.keeps(node, Term(term), LogIndex(last), Some(Term(of)));
        keeps(3, 7, 2).unwrap();
        keeps(3, 5, 3).unwrap();
        keeps(3, 9, 3).unwrap();
        assert_eq!(keeps(3, 8, 3).unwrap_err().assertion, "entries of a term stay while it lasts");
        keeps(3, 9, 3).unwrap();
        keeps(4, 6, 2).unwrap();
    }
}
