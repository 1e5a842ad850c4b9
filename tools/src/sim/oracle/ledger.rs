//! What is durable, over all nodes: the witness against everything that nodes say. It reads each log from the medium, batch by batch, as
//! far as the log says that it is durable, and judges by that what members commit, apply, acknowledge and answer.
//!
//! A core whose disk lies (writes that are lost or go astray, damage at rest) is not judged any more: what its medium holds is no
//! longer what it was told.

use std::collections::BTreeMap;

use logdrive::core::Slot;
use logdrive::wire::{EntryKind, FrameView};
use logdrive_shard::{AppendOutcome, GroupId, LogIndex, Membership, NodeId, Role, Term};
use logdrive_wal::offline::{Record, RecordKind};
use logdrive_wal::{DurableLog, Untrue};

use super::agreed::Agreed;
use super::changes;
use super::member::{Member, kind_of, life_of};
use super::own_bytes;
use super::promises::{self, is_quorum};
use crate::sim::machine::Applied;
use crate::sim::node::CoreAt;
use crate::sim::observer::{Broken, ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// A core's log and the durable part of its members.
#[derive(Default)]
pub(super) struct CoreLedger {
    log: DurableLog,
    pub(super) members: BTreeMap<GroupId, Member>,
    /// Told and not judged yet.
    applied: Vec<Applied>,
    /// By group: the configuration in force as it was seen last, and its index.
    memberships: BTreeMap<GroupId, (Membership, LogIndex)>,
}

/// The check.
#[derive(Default)]
pub struct Ledger {
    pub(super) cores: Vec<CoreLedger>,
    groups: BTreeMap<GroupId, Agreed>,
    /// Who gave a vote, by group, term and candidate.
    votes: BTreeMap<(GroupId, Term, NodeId), Vec<NodeId>>,
}

impl Ledger {
    /// Reads what became durable on a core. True if it can be judged.
    pub(super) fn catch_up(&mut self, world: &World, at: CoreAt) -> Result<bool, Box<Broken>> {
        if self.cores.len() <= at.0 {
            self.cores.resize_with(at.0 + 1, CoreLedger::default);
        }
        let Some(core) = world.core(at).filter(|_| sees(world, at)) else { return Ok(false) };
        let (said, node) = (core.log().durable_end(), world.node_id(at));
        let Ledger { cores, groups, .. } = self;
        let CoreLedger { log, members, .. } = &mut cores[at.0];
        let read = log.position();
        if read == said {
            return Ok(true);
        }
        ensure(said > read, "what is durable stays durable", || format!("up to {read}, now {said}"))
            .map_err(|broken| broken.on_node(node))?;
        let mut verdict = Ok(());
        let followed = log.follow(world.platter(at), said, &mut |record| {
            let (id, life) = life_of(record.stream);
            if verdict.is_err() || id.0 == 0 {
                return;
            }
            let (member, agreed) = (members.entry(id).or_default(), groups.entry(id).or_default());
            verdict = own_bytes(world, id, record)
                .and_then(|()| member.take(agreed, life, record))
                .map_err(|broken| broken.in_group(id).on_node(node));
        });
        verdict?;
        let moved_on = followed.map_err(|untrue| {
            let assertion = match untrue {
                Untrue::NotDurable { .. } => "what the log calls durable is on the medium",
                Untrue::Unchained { .. } => "each batch of a log follows the one before it",
                Untrue::CameBack { .. } => "the end that an open found is final",
            };
            Broken::new(assertion, untrue.to_string()).on_node(node)
        })?;
        if moved_on {
            self.judge_segments(world, at)?;
        }
        Ok(true)
    }

    /// Looked at whenever a segment is left behind: what is needed is in segments that are still there.
    fn judge_segments(&self, world: &World, at: CoreAt) -> Verdict {
        let Some(oldest) = DurableLog::oldest(world.platter(at)) else { return Ok(()) };
        for (group, member) in &self.cores[at.0].members {
            let needs = member.needs_from();
            ensure(
                needs.is_none_or(|needs| needs >= oldest),
                "a segment is recycled when nothing needs it",
                || format!("something at {needs:?} is needed, the oldest segment begins at {oldest}"),
            )
            .map_err(|broken| broken.in_group(*group).on_node(world.node_id(at)))?;
        }
        Ok(())
    }

    /// The member of a group on a core.
    fn member(&mut self, at: CoreAt, group: GroupId) -> &mut Member {
        self.cores[at.0].members.entry(group).or_default()
    }

    fn judge(&mut self, world: &World, at: CoreAt, changed: &ChangedSlot) -> Verdict {
        let (group, now, node) = (changed.now.id, changed.now, world.node_id(at));
        let Some(core) = world.core(at) else { return Ok(()) };
        let agreed = self.groups.entry(group).or_default();
        let member = self.cores[at.0].members.entry(group).or_default();
        let snapshot = core.snapshot_status(changed.slot);
        member.has_snapshot(snapshot.index);
        member.commits(agreed, now.commit, snapshot.log_first, |index| core.term_at(changed.slot, index))?;
        if now.durable > snapshot.index {
            promises::durable(member, now.durable, core.term_at(changed.slot, now.durable))?;
        }
        if now.role == Role::Candidate {
            let votes = core.group_status(changed.slot).raft.votes;
            self.campaigns(at, group, node, now.term, &votes)?;
        }
        let seen = self.cores[at.0].memberships.get(&group);
        let (membership, index) = core.membership(changed.slot);
        if now.role == Role::Leader && now.term > Term(0) {
            let took_over = changed.before.role != Role::Leader || changed.before.term != now.term;
            if took_over {
                self.elected(at, group, node, now.term, membership)?;
            }
            if now.commit > changed.before.commit {
                // A configuration that came after the commit index moved, in the same turn, was not asked.
                let quorum = self.is_held(
                    world,
                    group,
                    membership,
                    now.commit,
                    core.term_at(changed.slot, now.commit),
                ) || seen.is_some_and(|(before, _)| {
                    self.is_held(world, group, before, now.commit, core.term_at(changed.slot, now.commit))
                });
                ensure(quorum, "what is committed is on the disks of a quorum", || {
                    format!("{} is committed under {membership:?}", now.commit)
                })?;
            }
        }
        self.groups.entry(group).or_default().in_force(index, now.commit)?;
        let member = &self.cores[at.0].members[&group];
        let before = self.cores[at.0].memberships.get(&group);
        changes::judge(member, core, changed, before.map(|(_, index)| *index), (membership, index))?;
        if before.is_none_or(|(_, before)| *before != index) {
            if let Some(term) = core.term_at(changed.slot, index).filter(|_| index > LogIndex(0)) {
                let agreed = self.groups.entry(group).or_default();
                agreed.configured(index, term, crc32c::crc32c(&membership.encode()))?;
            }
            self.cores[at.0].memberships.insert(group, (membership.clone(), index));
        }
        Ok(())
    }

    /// Whether a vote for `candidate` is one that counts: its own if it is durable, another one if it was given.
    fn counts(&self, at: CoreAt, group: GroupId, candidate: NodeId, term: Term, voter: NodeId) -> bool {
        if voter == candidate {
            let member = self.cores[at.0].members.get(&group);
            return member.is_some_and(|member| member.voted(term, candidate));
        }
        self.votes.get(&(group, term, candidate)).is_some_and(|given| given.contains(&voter))
    }

    /// A candidate counts no vote, its own neither, before that is given for good.
    fn campaigns(&self, at: CoreAt, group: GroupId, node: NodeId, term: Term, votes: &[NodeId]) -> Verdict {
        let early = votes.iter().find(|&&voter| !self.counts(at, group, node, term, voter));
        ensure(early.is_none(), "a candidate counts votes that are durable", || {
            format!("term {term}: that of node {early:?} is not, counted are {votes:?}")
        })
    }

    /// A candidate won: with votes that were given, its own among them if it is durable.
    fn elected(
        &self,
        at: CoreAt,
        group: GroupId,
        node: NodeId,
        term: Term,
        membership: &Membership,
    ) -> Verdict {
        let has = |voter: NodeId| self.counts(at, group, node, term, voter);
        ensure(is_quorum(membership, has), "a leader has the votes of a quorum, durably", || {
            let (own, given) = (has(node), self.votes.get(&(group, term, node)));
            format!("term {term}: votes of {given:?}, its own durable: {own}, members {membership:?}")
        })
    }

    /// Whether an entry is on the disks of a quorum. Disks that are not judged count as if they had it.
    fn is_held(
        &self,
        world: &World,
        group: GroupId,
        membership: &Membership,
        index: LogIndex,
        term: Option<Term>,
    ) -> bool {
        let Some(term) = term else { return true };
        is_quorum(membership, |voter| {
            let (at, _) = world.home(voter.0 as usize - 1, group);
            let member = self.cores.get(at.0).and_then(|core| core.members.get(&group));
            !sees(world, at) || member.is_some_and(|member| member.holds(index, term))
        })
    }

    fn judge_applied_here(&mut self, at: CoreAt, applied: &Applied) -> Verdict {
        let last = self.member(at, applied.group).last();
        ensure(last >= applied.index, "only what is durable here is applied", || {
            format!("index {} is applied, durable is {last}", applied.index)
        })?;
        self.judge_applied(applied)
    }

    fn judge_applied(&mut self, applied: &Applied) -> Verdict {
        let agreed = self.groups.entry(applied.group).or_default();
        let committed = agreed.committed(applied.index);
        let same = committed.is_some_and(|entry| match entry.kind {
            EntryKind::Payload => entry.crc == applied.crc,
            // The command is a part of the entry.
            EntryKind::Session => true,
            EntryKind::Empty | EntryKind::Config => false,
        });
        ensure(same, "what is applied is what is committed and durable", || {
            format!("index {}, checksum {:#x}; committed there: {committed:?}", applied.index, applied.crc)
        })
    }

    /// Votes count whoever gave them; only those of nodes whose disks can be judged are judged.
    fn count_votes(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) {
        for (address, vote) in frame.vote_replies().filter(|(_, vote)| vote.granted && !vote.pre_vote) {
            let Some(group) = world.group_at(to, address.slot) else { continue };
            let candidate = world.node_id(to);
            self.votes.entry((group, vote.term, candidate)).or_default().push(world.node_id(from));
        }
    }

    fn judge_votes(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        let (node, peer) = (world.node_id(from), world.node_id(to));
        for (address, vote) in frame.vote_requests().filter(|(_, vote)| !vote.pre_vote) {
            let Some(group) = world.group_at(to, address.slot) else { continue };
            promises::vote(self.member(from, group), vote.term, node)
                .map_err(|broken| broken.in_group(group).on_node(node))?;
        }
        for (address, vote) in frame.vote_replies().filter(|(_, vote)| vote.granted && !vote.pre_vote) {
            let Some(group) = world.group_at(to, address.slot) else { continue };
            promises::vote(self.member(from, group), vote.term, peer)
                .map_err(|broken| broken.in_group(group).on_node(node))?;
        }
        Ok(())
    }

    fn judge_replies(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        for (address, reply) in frame.append_replies() {
            let (AppendOutcome::Matched(index), Some(group)) =
                (reply.outcome, world.group_at(to, address.slot))
            else {
                continue;
            };
            let node = world.node_of(from);
            let (_, slot) = world.home(node, group);
            let Some(own) = world.summaries(from).get(slot.0 as usize) else { continue };
            if own.term != reply.term {
                // It waited for its way out, and another leader may have replaced it.
                continue;
            }
            let own = world.core(from).and_then(|core| core.term_at(slot, index));
            let leaders = leaders_term(world, to, Slot(address.slot), reply.term, index);
            promises::matched(self.member(from, group), reply.term, index, own, leaders)
                .map_err(|broken| broken.in_group(group).on_node(world.node_id(from)))?;
        }
        Ok(())
    }
}

/// Whether what is on a core's medium is what was written there.
fn sees(world: &World, at: CoreAt) -> bool {
    let node = world.node_of(at);
    !world.is_spoiled(node) && !world.disk_lied(node)
}

/// An entry, in whatever record, is one of its group.
fn own_bytes(world: &World, group: GroupId, record: &Record<'_>) -> Verdict {
    match record.kind {
        RecordKind::Entry | RecordKind::Copy | RecordKind::Repair => {
            let kind = kind_of(record);
            own_bytes::judge(kind, record.payload, group, |attempt| own_bytes::group_of(world, attempt))
        }
        _ => Ok(()),
    }
}

/// The term of an entry as the leader of `term` has it, if that leads there; `Some(None)` if its log ends before it.
fn leaders_term(world: &World, at: CoreAt, slot: Slot, term: Term, index: LogIndex) -> Option<Option<Term>> {
    let core = world.core(at)?;
    let leader = world.summaries(at).get(slot.0 as usize)?;
    if !core.is_leader(slot)
        || leader.role != Role::Leader
        || leader.term != term
        || world.is_spoiled(world.node_of(at))
    {
        return None;
    }
    if index > leader.last {
        return Some(None);
    }
    core.term_at(slot, index).map(Some)
}

impl Observer for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }

    /// What comes back is what was durable, to the last entry.
    fn opened(&mut self, world: &World, at: CoreAt) -> Verdict {
        if !self.catch_up(world, at)? {
            return Ok(());
        }
        let (Some(core), node) = (world.core(at), world.node_id(at)) else { return Ok(()) };
        self.cores[at.0].memberships.clear();
        self.cores[at.0].log.opened(world.platter(at), core.log().durable_end());
        // What was applied of a life that is over by the end of the log is void.
        let summaries = world.summaries(at);
        let stands = |applied: &Applied| applied.index <= summaries[applied.slot as usize].applied;
        self.cores[at.0].applied.retain(stands);
        for (slot, now) in (0..).map(Slot).zip(world.summaries(at)) {
            let member = self.cores[at.0].members.entry(now.id).or_default();
            // A snapshot that was installed may be ahead of the log, or beside it: the log begins anew behind it then.
            let snapshot = core.snapshot_status(slot).index;
            member.has_snapshot(snapshot);
            if snapshot > LogIndex(0) && now.last == snapshot {
                continue;
            }
            let (last, term) = (member.last(), member.term());
            let here = core.term_at(slot, last);
            let same = now.last == last && member.entry(last).is_none_or(|entry| Some(entry.term) == here);
            ensure(same || member.in_doubt, "what comes back is what was durable", || {
                format!("came back with {}, of term {here:?}; durable was {member:?}", now.last)
            })
            .and_then(|()| {
                ensure(now.term >= term || member.in_doubt, "terms are kept over a restart", || {
                    format!("came back in {}, durable was {term}", now.term)
                })
            })
            .and_then(|()| {
                let agreed = self.groups.entry(now.id).or_default();
                let first = core.snapshot_status(slot).log_first;
                member.commits(agreed, now.commit, first, |index| core.term_at(slot, index))
            })
            .map_err(|broken| broken.in_group(now.id).on_node(node))?;
        }
        // What was replayed may be of a log that ends further on: the group began anew behind it.
        for applied in std::mem::take(&mut self.cores[at.0].applied) {
            self.judge_applied(&applied).map_err(|broken| broken.in_group(applied.group).on_node(node))?;
        }
        Ok(())
    }

    fn stopped(&mut self, world: &World, node: usize) -> Verdict {
        for at in world.cores_of(node) {
            if let Some(core) = self.cores.get_mut(at.0) {
                core.applied.clear();
                core.log.reopened();
            }
        }
        Ok(())
    }

    fn turned(&mut self, world: &World, at: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        if !self.catch_up(world, at)? {
            self.cores[at.0].applied.clear();
            return Ok(());
        }
        let node = world.node_id(at);
        for changed in changed {
            self.judge(world, at, changed).map_err(|broken| broken.in_group(changed.now.id).on_node(node))?;
        }
        for applied in std::mem::take(&mut self.cores[at.0].applied) {
            self.judge_applied_here(at, &applied)
                .map_err(|broken| broken.in_group(applied.group).on_node(node))?;
        }
        Ok(())
    }

    fn applied(&mut self, world: &World, at: CoreAt, applied: &Applied) -> Verdict {
        if self.catch_up(world, at)? {
            self.cores[at.0].applied.push(*applied);
        }
        Ok(())
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        self.count_votes(world, from, to, frame);
        if !self.catch_up(world, from)? {
            return Ok(());
        }
        self.judge_votes(world, from, to, frame)?;
        self.judge_replies(world, from, to, frame)
    }

    fn answered(&mut self, world: &World, attempt: u64, _reply: &[u8]) -> Verdict {
        let what = world.history().attempts[attempt as usize];
        let op = world.history().op_of(attempt);
        let (Some(Ok(index)), true) = (what.answer, op.kind.is_write()) else { return Ok(()) };
        let (at, _) = world.home(what.node.0 as usize - 1, op.group);
        if !self.catch_up(world, at)? {
            return Ok(());
        }
        let last = self.member(at, op.group).last();
        let committed = self.groups.get(&op.group).and_then(|agreed| agreed.committed(index));
        ensure(last >= index && committed.is_some(), "no answer leaves before it is durable", || {
            format!(
                "attempt {attempt} took effect at {index}; durable is {last}, committed there {committed:?}"
            )
        })
        .map_err(|broken| broken.in_group(op.group).on_node(what.node))
    }

    fn finished(&mut self, world: &World) -> Verdict {
        super::crash::judge_all(self, world)
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::member;
    use super::*;

    #[test]
    fn a_candidate_that_counts_votes_too_early_is_seen() {
        let (group, at, [one, two]) = (GroupId(1), CoreAt(0), [1, 2].map(NodeId));
        let mut ledger = Ledger { cores: vec![CoreLedger::default()], ..Ledger::default() };
        ledger.campaigns(at, group, one, Term(2), &[]).unwrap();
        for voter in [one, two] {
            let broken = ledger.campaigns(at, group, one, Term(2), &[voter]).unwrap_err();
            assert_eq!(broken.assertion, "a candidate counts votes that are durable");
        }
        ledger.votes.insert((group, Term(2), one), vec![two]);
        ledger.cores[0].members.insert(group, member(&mut Agreed::default(), &[3]));
        ledger.campaigns(at, group, one, Term(2), &[one, two]).unwrap();
    }
}
