//! Groups that this node is no member of any more: what they leave behind is given up, so that it pins no log and no memory.
//!
//! A removed member keeps its log for a while (it may be made a member again, or its leader may not have told it yet that the
//! removal is committed). Then its group begins anew, as on a node that was never a member: an empty log, no members, the
//! state machine's part forgotten. Term and vote stay: whoever counted on them may still do so.
//!
//! On disk each life of a group is a stream of its own, see `lives.rs`.

use std::time::Duration;

use logdrive_shard::{Group, HardState, LogIndex, LogState, Moment, NodeId, Setup};
use logdrive_wal::Disk;

use super::Core;
use super::lane::Flags;
use super::lives::stream_of;
use super::record::encode_state;
use crate::api::StateMachine;
use crate::mutant;

/// Retirements that are begun in one turn, at most: each writes a record and tells all links.
const RETIRED_PER_TURN: usize = 64;
/// What keeps a group from being retired now: something of it is on its way.
const BUSY: [Flags; 5] =
    [Flags::UNWRITTEN, Flags::APPLY, Flags::SEND_LOAD, Flags::APPLY_LOAD, Flags::HAS_READS];

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// How long a removed member keeps what it has.
    fn keeps_for(&self) -> Duration {
        (self.config.election_base + self.config.election_spread) * 8
    }

    /// Notes a group that this node is no member of.
    pub(super) fn maybe_retire(&mut self, slot: u32) {
        let membership = self.groups[slot as usize].membership();
        let is_removed = !membership.is_empty() && !membership.contains(self.io.me);
        if is_removed && self.io.lanes[slot as usize].flags.raise(Flags::RETIRING) {
            self.retiring.push_back((self.io.now.after(self.keeps_for()), slot));
        }
    }

    /// When the next removed group is looked at.
    pub(super) fn next_retirement(&self) -> Moment {
        self.retiring.front().map_or(Moment::NEVER, |first| first.0)
    }

    pub(super) fn retire_when_due(&mut self) {
        for _ in 0..RETIRED_PER_TURN {
            let Some(&(_, slot)) = self.retiring.front().filter(|first| first.0 <= self.io.now) else {
                return;
            };
            self.retiring.pop_front();
            self.io.lanes[slot as usize].flags.lower(Flags::RETIRING);
            if self.is_removed_for_good(slot) {
                // A leader may have said what they wait for before it forgot this member.
                self.io.fail_all_reads(slot);
            }
            if !self.is_retirable(slot) || !self.retire(slot) {
                // Looked at again later, unless it is a member by now.
                self.maybe_retire(slot);
            }
        }
    }

    /// Whether the removal is final.
    fn is_removed_for_good(&self, slot: u32) -> bool {
        let group = &self.groups[slot as usize];
        let membership = group.membership();
        !membership.is_empty()
            && !membership.contains(self.io.me)
            && group.membership_is_settled()
            && group.membership_index() <= group.commit()
            && !group.is_leader()
    }

    /// Whether the removal is final, and nothing of the group is on its way.
    fn is_retirable(&self, slot: u32) -> bool {
        let (group, lane) = (&self.groups[slot as usize], &self.io.lanes[slot as usize]);
        self.is_removed_for_good(slot)
            && !group.hard_state().lost.is_any()
            && group.durable() == group.last_index()
            && lane.applied == group.applicable()
            && BUSY.iter().all(|flag| !lane.flags.has(*flag))
    }

    /// Begins the group anew. False if the log has no room for that now.
    fn retire(&mut self, slot: u32) -> bool {
        let at = slot as usize;
        let (id, history, old) = (self.ids[at], self.io.lanes[at].history, self.io.lanes[at].stream);
        let state = match mutant::RETIRED_FORGETS_VOTE {
            true => HardState::default(),
            false => HardState { commit: LogIndex(0), ..self.groups[at].hard_state() },
        };
        let Some(life) = self.lives[at].next() else { return false };
        let Ok(new) = self.begin_stream(stream_of(id, life), &encode_state(state, history)) else {
            return false;
        };
        // The new life's record is before this one in the log: recovery sees it whenever it sees that.
        if let Err(error) = self.io.wal.compact(old, self.groups[at].last_index().0) {
            tracing::warn!(group = %id, %error, "the log of a group that left this node could not be given up yet");
        }
        self.lives[at] = life;
        self.io.truncate(slot, LogIndex(1));
        self.io.lanes[at].stream = new;
        self.io.lanes[at].applied = LogIndex(0);
        self.io.streams[at] = new;
        self.io.preferred[at] = NodeId::NONE;
        self.io.abandon_transfers(slot);
        self.machine.forget(slot);
        self.sessions.forget(slot);
        self.forget_snapshots(slot);
        let setup = Setup {
            me: self.io.me,
            memberships: &[],
            hard_state: state,
            log: &LogState { first: LogIndex(1), ..LogState::default() },
            applied: LogIndex(0),
            fresh: false,
            preferred_leader: NodeId::NONE,
            priorities: &self.io.settings.priorities,
        };
        self.groups[at] = Group::new(self.io.now, &self.config, &mut self.random, &setup);
        if self.io.lanes[at].flags.raise(Flags::LEADER_CHANGED) {
            self.io.queues.leader_changes.push(slot);
        }
        self.io.counters.retired += 1;
        tracing::info!(group = %id, "this node is no member of the group any more: its log and state are given up");
        self.tell_ways(slot);
        true
    }
}
