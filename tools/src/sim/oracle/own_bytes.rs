//! No group reads another group's bytes: every payload is of an attempt in the group in whose log it is, in whose appends it travels.
//! (What is applied is judged by `commands`, what lies on the media by `ledger`, which asks here.)

use logdrive::wire::{EntryKind, FrameView};
use logdrive_shard::{GroupId, SessionEntry, SessionOp};

use crate::sim::node::CoreAt;
use crate::sim::observer::{Observer, Verdict, ensure};
use crate::sim::world::World;

/// The check of what travels.
#[derive(Default)]
pub struct OwnBytes;

/// The attempt that a payload is of; `None` if it is of none, as a new session.
fn attempt_of(kind: EntryKind, payload: &[u8]) -> Option<u64> {
    let command = match kind {
        EntryKind::Payload => payload,
        EntryKind::Session => match SessionEntry::decode(payload).ok()?.op {
            SessionOp::Command { command, .. } => command,
            SessionOp::Open | SessionOp::Close { .. } | SessionOp::KeepAlive { .. } => return None,
        },
        EntryKind::Empty | EntryKind::Config => return None,
    };
    command.first_chunk().copied().map(u64::from_le_bytes)
}

/// Judges a payload in something that is of `group`; `group_of` knows the group of an attempt.
pub(super) fn judge(
    kind: EntryKind,
    payload: &[u8],
    group: GroupId,
    group_of: impl FnOnce(u64) -> Option<GroupId>,
) -> Verdict {
    let Some(attempt) = attempt_of(kind, payload) else { return Ok(()) };
    let proposed = group_of(attempt);
    ensure(proposed == Some(group), "no group reads another group's bytes", || {
        format!("attempt {attempt} was proposed in group {proposed:?}")
    })
}

/// The group that an attempt was made in.
pub(super) fn group_of(world: &World, attempt: u64) -> Option<GroupId> {
    let known = (attempt as usize) < world.history().attempts.len();
    known.then(|| world.history().op_of(attempt).group)
}

impl Observer for OwnBytes {
    fn name(&self) -> &'static str {
        "own bytes"
    }

    fn frame_left(&mut self, world: &World, from: CoreAt, to: CoreAt, frame: &FrameView<'_>) -> Verdict {
        for (address, _, entries) in frame.appends().chain(frame.fetched()) {
            let Some(group) = world.group_at(to, address.slot) else { continue };
            for (kind, payload) in entries {
                judge(kind, payload, group, |attempt| group_of(world, attempt))
                    .map_err(|broken| broken.in_group(group).on_node(world.node_id(from)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_of_another_group_is_seen() {
        let group_of = |attempt| (attempt == 7).then_some(GroupId(3));
        let mut payload = 7_u64.to_le_bytes().to_vec();
        payload.extend_from_slice(b"padding");
        judge(EntryKind::Payload, &payload, GroupId(3), group_of).unwrap();
        judge(EntryKind::Config, &payload, GroupId(4), group_of).unwrap();
        let broken = judge(EntryKind::Payload, &payload, GroupId(4), group_of).unwrap_err();
        assert_eq!(broken.assertion, "no group reads another group's bytes");
        payload[0] = 8;
        let broken = judge(EntryKind::Payload, &payload, GroupId(3), group_of).unwrap_err();
        assert_eq!(broken.assertion, "no group reads another group's bytes");
    }
}
