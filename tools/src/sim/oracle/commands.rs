//! Commands and their answers, over all nodes and all their lives: a group's state is the number of commands applied, a counter that
//! only grows, so that every reply names a place in the one sequence of the group's commands.

use std::collections::BTreeMap;

use logdrive::api::Error;
use logdrive_shard::{GroupId, LogIndex};

use crate::sim::machine::{Applied, next_digest};
use crate::sim::node::CoreAt;
use crate::sim::observer::{Broken, Observer, Verdict, ensure};
use crate::sim::ops::{OpKind, counter_of};
use crate::sim::world::World;

/// One group.
#[derive(Default)]
struct Sequence {
    /// What was applied, in order, by whoever applied it first: index, attempt, checksum.
    applied: Vec<(LogIndex, u64, u32)>,
    /// The highest counter that a client has been shown.
    floor: u64,
}

/// An operation, as far as it is known.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The counter that had been shown when it began.
    floor: u64,
    /// Its place in the group's sequence, once some node applied it.
    place: Option<u64>,
}

/// The check.
#[derive(Default)]
pub struct Commands {
    groups: BTreeMap<GroupId, Sequence>,
    /// By number of the operation.
    ops: Vec<Known>,
}

impl Commands {
    fn fits(&mut self, world: &World, applied: &Applied) -> Verdict {
        let Applied { group, place, index, attempt, crc, .. } = *applied;
        let Some(attempt) = attempt.filter(|&attempt| (attempt as usize) < world.history().attempts.len())
        else {
            return Err(Broken::new(
                "only what was proposed is applied",
                format!("index {index}: {attempt:?}"),
            ));
        };
        let sequence = self.groups.entry(group).or_default();
        if let Some(known) = sequence.applied.get(place as usize) {
            return ensure(*known == (index, attempt, crc), "all nodes apply the same", || {
                format!("place {place}: {:?} was applied, and now {:?}", known, (index, attempt, crc))
            });
        }
        ensure(sequence.applied.len() as u64 == place, "no entry is skipped", || {
            format!("place {place} is applied after {}", sequence.applied.len())
        })?;
        ensure(sequence.applied.last().is_none_or(|last| last.0 < index), "indexes of a group grow", || {
            format!("{index} after {:?}", sequence.applied.last())
        })?;
        sequence.applied.push((index, attempt, crc));
        let op = world.history().op_of(attempt);
        ensure(op.kind.is_write() && op.group == group, "a command is applied in its group", || {
            format!("attempt {attempt} is a {:?} in group {}", op.kind, op.group)
        })?;
        let refused = world.history().attempts[attempt as usize]
            .answer
            .is_some_and(|answer| answer.is_err_and(|error| error != Error::Indeterminate));
        ensure(!refused, "what was refused is not applied", || format!("attempt {attempt}"))?;
        let number = world.history().attempts[attempt as usize].op;
        let known = &mut self.ops[number as usize];
        ensure(known.place.is_none(), "a command is executed once", || {
            format!("attempt {attempt} of operation {number}, which has place {:?}", known.place)
        })?;
        known.place = Some(place);
        Ok(())
    }

    fn answer_fits(&mut self, world: &World, attempt: u64, reply: &[u8]) -> Verdict {
        let number = world.history().attempts[attempt as usize].op;
        let op = world.history().op_of(attempt);
        let known = self.ops[number as usize];
        let Some(answer) = world.history().attempts[attempt as usize].answer else { return Ok(()) };
        let sequence = self.groups.entry(op.group).or_default();
        let index = match answer {
            Ok(index) => index,
            Err(Error::Indeterminate) => {
                return ensure(
                    op.kind.is_write() || op.kind == OpKind::OpenSession,
                    "reads are not indeterminate",
                    || format!("attempt {attempt}"),
                );
            }
            Err(error) => {
                let executed = known.place.and_then(|place| sequence.applied.get(place as usize));
                return ensure(
                    executed.is_none_or(|executed| executed.1 != attempt),
                    "what was applied is not refused",
                    || format!("attempt {attempt}: {error}"),
                );
            }
        };
        if op.kind == OpKind::OpenSession {
            return Ok(());
        }
        let Some(counter) = counter_of(reply) else {
            return Err(Broken::new("an answer has a counter", format!("attempt {attempt}")));
        };
        if op.kind.is_write() {
            let Some(place) = known.place else {
                return Err(Broken::new("what is acknowledged was applied", format!("attempt {attempt}")));
            };
            let applied_at = sequence.applied[place as usize].0;
            ensure(
                (place + 1, applied_at) == (counter, index),
                "an answer names the command's place",
                || format!("attempt {attempt}: place {place} at {applied_at}, told {counter} at {index}"),
            )?;
            ensure(counter > known.floor, "a command takes effect after it began", || {
                format!("attempt {attempt} has place {counter}, {} was shown before it began", known.floor)
            })?;
        } else if op.kind.is_fresh_read() {
            ensure(counter >= known.floor, "a read sees what was acknowledged before it", || {
                format!(
                    "attempt {attempt} ({:?}) saw {counter}, {} was shown before it began",
                    op.kind, known.floor
                )
            })?;
        }
        ensure(counter <= sequence.applied.len() as u64, "no answer is ahead of the commands", || {
            format!("attempt {attempt} saw {counter} of {}", sequence.applied.len())
        })?;
        if op.kind != OpKind::ReadLocal {
            sequence.floor = sequence.floor.max(counter);
        }
        Ok(())
    }
}

impl Observer for Commands {
    fn name(&self) -> &'static str {
        "commands"
    }

    fn asked(&mut self, world: &World, attempt: u64) -> Verdict {
        let number = world.history().attempts[attempt as usize].op as usize;
        if self.ops.len() <= number {
            self.ops.resize(number + 1, Known::default());
            let group = world.history().ops[number].group;
            self.ops[number].floor = self.groups.get(&group).map_or(0, |sequence| sequence.floor);
        }
        Ok(())
    }

    fn applied(&mut self, world: &World, core: CoreAt, applied: &Applied) -> Verdict {
        if world.is_spoiled(world.node_of(core)) {
            return Ok(());
        }
        self.fits(world, applied)
            .map_err(|broken| broken.in_group(applied.group).on_node(world.node_id(core)))
    }

    fn answered(&mut self, world: &World, attempt: u64, reply: &[u8]) -> Verdict {
        let group = world.history().op_of(attempt).group;
        self.answer_fits(world, attempt, reply).map_err(|broken| broken.in_group(group))
    }

    /// Everything that was acknowledged or applied anywhere is applied everywhere, in one order.
    fn finished(&mut self, world: &World) -> Verdict {
        for (number, op) in (0..).zip(&world.history().ops) {
            let acknowledged = op.kind.is_write() && op.answer.is_some_and(|answer| answer.is_ok());
            let known: Option<&Known> = self.ops.get::<usize>(number);
            let is_there = known.is_some_and(|known| known.place.is_some());
            ensure(!acknowledged || is_there, "acknowledged writes are there at the end", || {
                format!("operation {number}: {:?}", op.answer)
            })
            .map_err(|broken| broken.in_group(op.group))?;
        }
        for (group, sequence) in &self.groups {
            let crcs = sequence.applied.iter().map(|applied| applied.2);
            let expected = (sequence.applied.len() as u64, crcs.fold(0, next_digest));
            let Some(leader) = world.leader_of(*group) else { continue };
            let (at, slot) = world.home(leader, *group);
            let Some(core) = world.core(at) else { continue };
            let members = core.membership(slot).0.members().map(|node| node.0 as usize - 1);
            for node in members.filter(|&node| world.is_up(node) && !world.is_spoiled(node)) {
                let (at, slot) = world.home(node, *group);
                let counted = world.core(at).map_or((0, 0), |core| core.machine().counted(slot.0));
                ensure(counted == expected, "what was applied stays applied", || {
                    format!("{expected:x?} are the commands and their digest, here they are {counted:x?}")
                })
                .map_err(|broken| broken.in_group(*group).on_node(world.node_id(at)))?;
            }
        }
        Ok(())
    }
}
