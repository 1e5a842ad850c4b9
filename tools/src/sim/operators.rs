//! What operators order beside what they are asked for: a second change of members before the first is done, a change at whoever takes itself
//! for the leader, a change as soon as there is a leader, a change that
//! the leader does not outlive. And what they are told: a change is answered when it is done.

use logdrive::api::Error;
use logdrive_shard::{GroupId, LogIndex};

use super::clock::{MICROSECOND, Nanos};
use super::faults::{Stop, TurnPoint};
use super::node::CoreAt;
use super::observer::{ChangedSlot, Verdict, ensure};
use super::turn::took_over;
use super::world::World;

/// Tokens of changes have this bit; the rest is the group.
const CHANGE: u64 = 1 << 63;
/// Orders that wait for a leader, at most.
const WAITING_MAX: usize = 64;

/// The token of a change in a group.
pub(super) fn change_token(group: GroupId) -> u64 {
    CHANGE | group.0
}

/// Whether an answer is one to a change.
pub(super) fn is_change(token: u64) -> bool {
    token & CHANGE != 0
}

/// Orders that are not dealt with.
#[derive(Debug, Default)]
pub(super) struct Operators {
    /// For the next leader of a group, with what is drawn for the change.
    waiting: Vec<(GroupId, u32)>,
    /// Changes given to a core and not answered.
    open: Vec<(CoreAt, GroupId)>,
}

/// How an operator who does not wait gives the next order.
enum Haste {
    /// He does.
    Patient,
    /// So soon after the first.
    Again(Nanos),
    /// At everybody else who takes itself for the leader.
    Everywhere,
    /// He does, and the leader is lost when it has told so many.
    Dies { frames: u8 },
    /// At the next leader, when it has just been elected.
    NextLeader,
}

fn haste(choice: u32) -> Haste {
    match choice >> 24 & 7 {
        0 | 1 => Haste::Again(MICROSECOND * Nanos::from(choice >> 27) * 20),
        2 => Haste::Everywhere,
        3 | 4 => Haste::NextLeader,
        5 => Haste::Dies { frames: 1 + (choice >> 27 & 1) as u8 },
        _ => Haste::Patient,
    }
}

impl World {
    /// A change of members is ordered. Returns when the operator comes again, if he does.
    pub(super) fn order_change(&mut self, group: GroupId, leader: usize, choice: u32) -> Option<Nanos> {
        self.change(group, leader, choice);
        match haste(choice) {
            Haste::Patient => {}
            Haste::Again(after) => return Some(after),
            Haste::Everywhere => {
                for node in (0..self.nodes.len()).filter(|&node| node != leader) {
                    let believes = self
                        .live_home(node, group)
                        .is_some_and(|(at, slot)| self.core(at).is_some_and(|core| core.is_leader(slot)));
                    if believes {
                        self.reach("changes ordered from a leader of the past");
                        self.change(group, node, choice / 3);
                    }
                }
            }
            Haste::Dies { frames } => {
                self.reach("leaders lost with a change that few have");
                self.doom(leader, TurnPoint::AfterFrames(frames), Stop::Kill, 4 * self.unit());
            }
            Haste::NextLeader if self.operators.waiting.len() < WAITING_MAX => {
                self.operators.waiting.push((group, choice / 3));
            }
            Haste::NextLeader => {}
        }
        None
    }

    /// Who waits for a leader has one.
    pub(super) fn orders_for_new_leaders(&mut self, at: CoreAt, changed: &[ChangedSlot]) {
        if self.operators.waiting.is_empty() {
            return;
        }
        let node = self.node_of(at);
        for changed in changed.iter().filter(|changed| took_over(changed)) {
            let group = changed.now.id;
            let Some(place) = self.operators.waiting.iter().position(|waiting| waiting.0 == group) else {
                continue;
            };
            let (_, choice) = self.operators.waiting.swap_remove(place);
            self.reach("changes ordered from a new leader");
            self.change(group, node, choice);
        }
    }

    /// A change was handed to a core.
    pub(super) fn change_asked(&mut self, at: CoreAt, group: GroupId) {
        self.operators.open.push((at, group));
    }

    /// The core is gone, and with it what it was asked for.
    pub(super) fn forget_changes(&mut self, at: CoreAt) {
        self.operators.open.retain(|open| open.0 != at);
    }

    /// A change is answered.
    pub(super) fn change_answered(
        &mut self,
        at: CoreAt,
        token: u64,
        result: Result<LogIndex, Error>,
    ) -> Verdict {
        let group = GroupId(token & !CHANGE);
        if let Some(place) = self.operators.open.iter().position(|open| *open == (at, group)) {
            self.operators.open.swap_remove(place);
        }
        let Ok(index) = result else {
            self.reach("changes refused");
            return Ok(());
        };
        self.reach("changes answered");
        let others = self.operators.open.contains(&(at, group));
        let (_, slot) = self.home(self.node_of(at), group);
        let Some(core) = self.core(at) else { return Ok(()) };
        let (_, in_force) = core.membership(slot);
        let commit = core.group_status(slot).raft.commit;
        ensure(others || in_force <= commit, "a change is answered when it is done", || {
            format!("answered with {index}; {in_force} is in force, {commit} is committed")
        })
        .map_err(|broken| broken.in_group(group).on_node(self.node_id(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_known_by_its_token_and_operators_hurry_now_and_then() {
        let token = change_token(GroupId(7));
        assert!(is_change(token) && !is_change(12));
        let hurried = |haste| !matches!(haste, Haste::Patient);
        let count = (0..256_u32).filter(|drawn| hurried(haste(drawn << 24))).count();
        assert_eq!(count, 192, "six of eight");
        assert!(matches!(haste(3 << 27), Haste::Again(after) if after == 60 * MICROSECOND));
    }
}
