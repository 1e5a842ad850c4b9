//! Entries that a member's disk has lost while it runs: no further commit rests on that member until it has them back, and if it leads, it
//! does not keep the others from what they could do without it.

use std::collections::{BTreeMap, BTreeSet};

use logdrive::core::{GroupSummary, Slot};
use logdrive::wire::FrameView;
use logdrive_shard::{LogIndex, NodeId, Role, Term};

use super::acknowledged;
use super::promises::is_quorum;
use crate::sim::clock::{MILLISECOND, Nanos};
use crate::sim::node::{CoreAt, SimCore};
use crate::sim::observer::{ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// Time between two looks at a core.
const LOOK: Nanos = 5 * MILLISECOND;
/// A core begins to hand over what it should not lead so long after it learned of it, at the latest.
const HANDS_OVER_WITHIN: Nanos = 100 * MILLISECOND;
/// A leader makes way when one transfer has come to nothing. It has the time of so many.
const TRANSFERS: Nanos = 3;

/// A leadership in which nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standstill {
    term: Term,
    commit: LogIndex,
    since: Nanos,
}

/// The check.
#[derive(Default)]
pub struct Unreadable {
    /// Members that cannot read all of their logs: the last entry that each had when that was seen.
    unfit: BTreeMap<(CoreAt, Slot), LogIndex>,
    /// Those whose logs were so when they were opened: they are cut there, and what comes is as good as new.
    since_start: BTreeSet<(CoreAt, Slot)>,
    looked_at: BTreeMap<CoreAt, Nanos>,
    standstills: BTreeMap<(CoreAt, Slot), Standstill>,
}

/// Nothing that was acknowledged for the first time by a member that cannot read all of its log is behind what it knows to be committed.
fn rests_on_nothing_new(last: LogIndex, commit: LogIndex, acknowledged: LogIndex) -> Verdict {
    ensure(acknowledged <= last.max(commit), "no commit rests on who cannot read its log", || {
        format!(
            "{acknowledged} is acknowledged; it had {last} when entries were lost, and {commit} is committed"
        )
    })
}

/// Whether others wait for entries that this leader cannot read, and could do without it.
fn keeps_from_going_on(core: &SimCore, slot: Slot, me: NodeId) -> bool {
    let Some((_, last)) = core.unreadable(slot) else { return false };
    let raft = core.group_status(slot).raft;
    let is_alive = |node: NodeId| raft.peers.iter().any(|peer| peer.node == node && peer.alive);
    let waits = raft.peers.iter().any(|peer| {
        let is_sent_entries = peer.state != "snapshot" && peer.next <= last;
        peer.alive && is_sent_entries && raft.membership.is_voter(peer.node)
    });
    waits && is_quorum(&raft.membership, |node| node != me && is_alive(node))
}

impl Unreadable {
    /// Notes whether a member can read its log.
    fn see(&mut self, world: &World, at: CoreAt, slot: Slot, now: &GroupSummary) {
        let place = (at, slot);
        let Some(core) = world.core(at) else { return };
        if core.unreadable(slot).is_none() {
            self.unfit.remove(&place);
            self.since_start.remove(&place);
        } else if !self.since_start.contains(&place) {
            self.unfit.entry(place).or_insert(now.last);
        }
    }

    fn look_at_leaders(&mut self, world: &World, at: CoreAt) -> Verdict {
        let (Some(core), now) = (world.core(at), world.now()) else { return Ok(()) };
        let before = self.looked_at.insert(at, now);
        let base = world.settings().shard.election_base.as_nanos() as Nanos;
        // A core that did nothing for so long had no time to do anything about it either.
        let was_away = before.is_none_or(|before| now - before > base / 2);
        for (slot, summary) in (0..).map(Slot).zip(world.summaries(at)) {
            let leads = summary.role == Role::Leader && summary.commit < summary.last;
            if was_away || !leads || !keeps_from_going_on(core, slot, world.node_id(at)) {
                self.standstills.remove(&(at, slot));
                continue;
            }
            let (term, commit) = (summary.term, summary.commit);
            let seen = self.standstills.entry((at, slot)).or_insert(Standstill { term, commit, since: now });
            if (seen.term, seen.commit) != (term, commit) {
                *seen = Standstill { term, commit, since: now };
            }
            let for_nanos = now - seen.since;
            ensure(
                for_nanos < TRANSFERS * (base + HANDS_OVER_WITHIN),
                "whoever cannot read what the others wait for makes way",
                || {
                    format!(
                        "leads in term {term} and commits nothing behind {commit} for {} ms",
                        for_nanos / MILLISECOND
                    )
                },
            )
            .map_err(|broken| broken.in_group(summary.id).on_node(world.node_id(at)))?;
        }
        Ok(())
    }
}

impl Observer for Unreadable {
    fn name(&self) -> &'static str {
        "unreadable"
    }

    fn opened(&mut self, world: &World, at: CoreAt) -> Verdict {
        self.unfit.retain(|(core, _), _| *core != at);
        self.since_start.retain(|(core, _)| *core != at);
        self.standstills.retain(|(core, _), _| *core != at);
        self.looked_at.remove(&at);
        let Some(core) = world.core(at) else { return Ok(()) };
        let slots = (0..world.groups_of(at).len() as u32).map(Slot);
        let lost = slots.filter(|&slot| core.unreadable(slot).is_some());
        self.since_start.extend(lost.map(|slot| (at, slot)));
        Ok(())
    }

    fn turned(&mut self, world: &World, at: CoreAt, changed: &[ChangedSlot]) -> Verdict {
        if world.disk_lied(world.node_of(at)) {
            changed.iter().for_each(|changed| self.see(world, at, changed.slot, &changed.now));
        }
        Ok(())
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        let node = world.node_of(from);
        if !world.disk_lied(node) || world.is_spoiled(node) {
            return Ok(());
        }
        for (group, slot, term, index) in acknowledged(world, (from, to), frame) {
            let Some(now) = world.summaries(from).get(slot.0 as usize) else { continue };
            self.see(world, from, slot, now);
            let Some(&last) = self.unfit.get(&(from, slot)).filter(|_| now.term == term) else {
                continue;
            };
            let me = world.node_id(from);
            let is_alone = |core: &SimCore| is_quorum(core.membership(slot).0, |node| node == me);
            if !world.core(from).is_some_and(is_alone) {
                rests_on_nothing_new(last, now.commit, index)
                    .map_err(|broken| broken.in_group(group).on_node(me))?;
            }
        }
        if self.looked_at.get(&from).is_none_or(|&before| world.now() >= before + LOOK) {
            self.look_at_leaders(world, from)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_of_what_came_after_the_loss_is_seen_unless_others_have_committed_it() {
        let (four, six, seven) = (LogIndex(4), LogIndex(6), LogIndex(7));
        rests_on_nothing_new(six, four, six).unwrap();
        rests_on_nothing_new(four, seven, seven).unwrap();
        let broken = rests_on_nothing_new(six, four, seven).unwrap_err();
        assert_eq!(broken.assertion, "no commit rests on who cannot read its log");
    }
}
