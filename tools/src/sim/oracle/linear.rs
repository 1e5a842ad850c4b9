//! Histories of the key-value machine are linearizable, key by key, by the checker that the tests of consensus use. What it takes grows with the
//! number of operations that were never answered, so keys with many of them are left out, and long histories are cut into windows where
//! nothing was under way. At the end of a run only.

use std::collections::BTreeMap;

use logdrive::api::Error;
use logdrive::kv::Reply;
use logdrive_shard::GroupId;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Recorded};
use todc_utils::specifications::Specification;

use crate::sim::observer::{Observer, Verdict, ensure};
use crate::sim::ops::{KeyAction, Op, OpKind};
use crate::sim::world::World;

/// Operations of a key that are looked at, at most: those that were begun first.
const OPS_MAX: usize = 48;
/// Keys with more operations of unknown outcome among these are left out.
const UNKNOWN_MAX: usize = 6;

/// An operation on a key and what it was answered; `None`: nobody knows.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    action: KeyAction,
    reply: Option<Vec<u8>>,
}

/// One key: the bytes of its value.
struct Key;

impl Specification for Key {
    type State = Option<Vec<u8>>;
    type Operation = Step;

    fn init() -> Self::State {
        None
    }

    fn apply(step: &Step, state: &Self::State) -> (bool, Self::State) {
        let mut expected = Vec::new();
        let after = take(step.action, state, &mut expected);
        (step.reply.as_ref().is_none_or(|reply| *reply == expected), after)
    }
}

/// What an action answers, into `reply`, and the value after it.
fn take(action: KeyAction, state: &Option<Vec<u8>>, reply: &mut Vec<u8>) -> Option<Vec<u8>> {
    let state = state.clone();
    let (answer, after) = match action {
        KeyAction::Set(value) => (Reply::Ok, Some(value.to_string().into_bytes())),
        KeyAction::Delete => (Reply::Integer(i64::from(state.is_some())), None),
        KeyAction::Get => {
            match &state {
                Some(value) => Reply::Value(value).encode(reply),
                None => Reply::Nil.encode(reply),
            }
            return state;
        }
        KeyAction::Increment(by) => {
            // All values are numbers that are far from the largest.
            let before = state.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok());
            let sum = before.unwrap_or(0_i64) + by;
            (Reply::Integer(sum), Some(sum.to_string().into_bytes()))
        }
    };
    answer.encode(reply);
    after
}

/// An operation of a key with its beginning and, if it was answered, its end, in the order of all things that happened.
struct Timed {
    step: Step,
    begun: u64,
    ended: Option<u64>,
}

/// What a history says of an operation; `None` if it says nothing, or the operation did nothing for certain.
fn timed(op: &Op) -> Option<Timed> {
    let (_, action) = op.key?;
    let begun = op.begun.1;
    let unknown = Timed { step: Step { action, reply: None }, begun, ended: None };
    match (op.kind, op.answer) {
        (OpKind::ReadLocal | OpKind::OpenSession, _) => None,
        (_, Some(Ok(_))) => {
            let reply = op.reply.get(8..).map(<[u8]>::to_vec);
            Some(Timed { step: Step { action, reply }, begun, ended: op.ended.map(|(_, place)| place) })
        }
        (OpKind::Propose, Some(Err(error))) if error != Error::Indeterminate => None,
        (kind, _) if kind.is_write() => Some(unknown),
        _ => None,
    }
}

/// The longest beginning of a key's operations, sorted by when they began, that can be judged by itself: whatever comes behind it began
/// after all of it that was answered. `None` if too much of it is unknown.
fn window(ops: &[Timed]) -> Option<&[Timed]> {
    let (mut end, mut latest) = (0, 0);
    for (count, op) in ops.iter().enumerate() {
        if op.begun > latest {
            end = count;
        }
        if count == OPS_MAX {
            break;
        }
        latest = latest.max(op.ended.unwrap_or(0));
        if count + 1 == ops.len() {
            end = ops.len();
        }
    }
    let window = &ops[..end];
    let unknown = window.iter().filter(|op| op.ended.is_none()).count();
    (unknown <= UNKNOWN_MAX && !window.is_empty()).then_some(window)
}

fn is_linearizable(ops: &[Timed]) -> bool {
    let mut events: Vec<(u64, usize, Action<Step>)> = Vec::new();
    for (process, op) in ops.iter().enumerate() {
        events.push((op.begun, process, Action::Call(Step { reply: None, ..op.step.clone() })));
        // What was never answered ends at the very end, where it does no harm.
        events.push((op.ended.unwrap_or(u64::MAX), process, Action::Response(op.step.clone())));
    }
    events.sort_by_key(|(place, process, action)| (*place, *process, matches!(action, Action::Response(_))));
    let actions = events.into_iter().map(|(_, process, action)| (process, action)).collect();
    WGLChecker::<Key>::is_linearizable(Recorded::from_actions(actions))
}

/// The check.
#[derive(Default)]
pub struct Linear;

impl Observer for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn finished(&mut self, world: &World) -> Verdict {
        let mut keys: BTreeMap<(GroupId, u32), Vec<Timed>> = BTreeMap::new();
        for op in &world.history().ops {
            if let (Some((key, _)), Some(timed)) = (op.key, timed(op)) {
                keys.entry((op.group, key)).or_default().push(timed);
            }
        }
        for ((group, key), ops) in keys {
            let Some(ops) = window(&ops) else { continue };
            ensure(is_linearizable(ops), "what clients saw of a key has an order", || {
                let told = ops.iter().map(|op| format!("{}..{:?} {:?}", op.begun, op.ended, op.step));
                format!("key {key}: {}", told.collect::<Vec<_>>().join("; "))
            })
            .map_err(|broken| broken.in_group(group))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(action: KeyAction, value: Option<Reply<'_>>, begun: u64, ended: u64) -> Timed {
        let reply = value.map(|value| {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            bytes
        });
        let ended = reply.is_some().then_some(ended);
        Timed { step: Step { action, reply }, begun, ended }
    }

    #[test]
    fn a_read_that_misses_a_write_is_seen() {
        let set = timed(KeyAction::Set(7), Some(Reply::Ok), 1, 2);
        assert!(is_linearizable(&[set, timed(KeyAction::Get, Some(Reply::Value(b"7")), 3, 4)]));
        let set = timed(KeyAction::Set(7), Some(Reply::Ok), 1, 2);
        assert!(!is_linearizable(&[set, timed(KeyAction::Get, Some(Reply::Nil), 3, 4)]));
    }

    #[test]
    fn an_unknown_outcome_may_be_either_and_nothing_else() {
        for (seen, holds) in [(&b"1"[..], true), (b"4", true), (b"3", false)] {
            let ops = [
                timed(KeyAction::Increment(1), Some(Reply::Integer(1)), 1, 2),
                timed(KeyAction::Increment(3), None, 3, 0),
                timed(KeyAction::Get, Some(Reply::Value(seen)), 5, 6),
            ];
            assert_eq!(is_linearizable(&ops), holds, "{seen:?}");
        }
    }

    #[test]
    fn windows_end_where_nothing_is_under_way() {
        let mut ops = vec![timed(KeyAction::Delete, Some(Reply::Integer(0)), 1, 1_000)];
        for number in 0..OPS_MAX as u64 + 10 {
            let begun = 2 + 2 * number;
            ops.push(timed(KeyAction::Set(number), Some(Reply::Ok), begun, begun + 1));
        }
        assert!(window(&ops).is_none(), "one that takes all the time");
        assert_eq!(window(&ops[1..]).unwrap().len(), OPS_MAX);
        assert_eq!(window(&ops[1..8]).unwrap().len(), 7);
    }
}
