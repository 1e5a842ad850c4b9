//! What a loss of power at the end of the run would leave, as the log's own recovery reads it, against the ledger: once per run and core.

use std::collections::BTreeMap;

use logdrive_shard::GroupId;
use logdrive_wal::{EntryHeader, Recovery, StreamId, Wal};

use super::ledger::Ledger;
use super::member::{Member, stream_of};
use crate::sim::node::CoreAt;
use crate::sim::observer::{Broken, Verdict, ensure};
use crate::sim::world::World;

/// What recovery tells.
#[derive(Default)]
struct Recovered {
    /// By stream and index: term and checksum.
    entries: BTreeMap<(u64, u64), (u64, u32)>,
    /// By stream: what was given up.
    compacted: BTreeMap<u64, u64>,
    damaged: bool,
}

impl Recovery for Recovered {
    fn entry(&mut self, stream: StreamId, header: EntryHeader, payload: &[u8]) {
        let from = (stream.0, header.index);
        let behind = self.entries.range(from..=(stream.0, u64::MAX)).map(|(at, _)| *at);
        for at in behind.collect::<Vec<_>>() {
            self.entries.remove(&at);
        }
        self.entries.insert(from, (header.tag, crc32c::crc32c(payload)));
    }

    fn state(&mut self, _: StreamId, _: &[u8]) {}

    fn compacted(&mut self, stream: StreamId, index: u64) {
        let given_up = (stream.0, 0)..=(stream.0, index);
        let old: Vec<_> = self.entries.range(given_up).map(|(at, _)| *at).collect();
        for at in old {
            self.entries.remove(&at);
        }
        let compacted = self.compacted.entry(stream.0).or_default();
        *compacted = index.max(*compacted);
    }

    fn damaged(&mut self, _: StreamId, _: u64, _: u64) {
        self.damaged = true;
    }
}

/// All cores that can be judged.
pub(super) fn judge_all(ledger: &mut Ledger, world: &World) -> Verdict {
    for at in world.cores() {
        if ledger.catch_up(world, at)? {
            judge(ledger, world, at).map_err(|broken| broken.on_node(world.node_id(at)))?;
        }
    }
    Ok(())
}

fn judge(ledger: &Ledger, world: &World, at: CoreAt) -> Verdict {
    let platter = world.platter(at).copy(1);
    platter.calm();
    platter.power_loss();
    let unreadable = |error: String| Broken::new("the log opens after a loss of power", error);
    let disk = platter.open().map_err(|error| unreadable(error.to_string()))?;
    let mut recovered = Recovered::default();
    let options = logdrive_wal::Options { log_id: 0, ..world.settings().wal.clone() };
    let log = Wal::open(disk, options, world.now(), &mut recovered);
    drop(log.map_err(|error| unreadable(error.to_string()))?);
    for (group, member) in &ledger.cores[at.0].members {
        let (_, slot) = world.home(world.node_of(at), *group);
        // A cut may be durable, and the log has not been told yet.
        let cut = world.core(at).map_or(0, |core| core.snapshot_status(slot).log_first.0.saturating_sub(1));
        compare(*group, member, &recovered, cut).map_err(|broken| broken.in_group(*group))?;
    }
    Ok(())
}

/// `cut`: up to here the log was cut, as far as its owner is concerned.
fn compare(group: GroupId, member: &Member, recovered: &Recovered, cut: u64) -> Verdict {
    let stream = stream_of(group, member.life());
    let cut = cut.min(recovered.compacted.get(&stream).copied().unwrap_or(0));
    for (index, entry) in member.entries().filter(|(index, _)| index.0 > cut) {
        let found = recovered.entries.get(&(stream, index.0)).copied();
        let same = found == Some((entry.term.0, entry.crc)) || recovered.damaged;
        ensure(same, "a loss of power leaves what was durable", || {
            let there: Vec<u64> =
                recovered.entries.range((stream, 0)..=(stream, u64::MAX)).map(|(at, _)| at.1).collect();
            let given_up = recovered.compacted.get(&stream);
            format!(
                "{entry:?} at {index} was durable, {found:?} comes back; given up {given_up:?}, there are {:?} to {:?}",
                there.first(),
                there.last()
            )
        })?;
    }
    // Without entries nothing else says where the log goes on.
    let (last, given_up) = (member.log_last().0, recovered.compacted.get(&stream).copied().unwrap_or(0));
    let is_known = member.entries().next().is_some() || given_up == last || recovered.damaged;
    ensure(is_known, "what was given up is known after a loss of power", || {
        format!("everything up to {last} was given up, {given_up} comes back")
    })?;
    let before = recovered.entries.range((stream, 0)..=(stream, member.compacted())).next();
    ensure(before.is_none() || recovered.damaged, "what was given up does not come back", || {
        format!("{before:?} at or before {}", member.compacted())
    })?;
    let behind = (stream, member.log_last().next().0)..=(stream, u64::MAX);
    let more = recovered.entries.range(behind).next();
    ensure(more.is_none(), "nothing comes back that was not durable", || {
        format!("{more:?} behind {}", member.log_last())
    })
}

#[cfg(test)]
mod tests {
    use super::super::agreed::Agreed;
    use super::super::member::tests::member;
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_too_much_after_a_crash_is_seen() {
        let member = member(&mut Agreed::default(), &[1, 1, 2]);
        let mut recovered = Recovered::default();
        for (index, term) in [(1, 1), (2, 1), (3, 2)] {
            recovered.entries.insert((5, index), (term, index as u32));
        }
        compare(GroupId(5), &member, &recovered, 0).unwrap();
        recovered.entries.insert((5, 4), (2, 4));
        let broken = compare(GroupId(5), &member, &recovered, 0).unwrap_err();
        assert_eq!(broken.assertion, "nothing comes back that was not durable");
        recovered.entries.remove(&(5, 4));
        recovered.entries.remove(&(5, 2));
        let broken = compare(GroupId(5), &member, &recovered, 0).unwrap_err();
        assert_eq!(broken.assertion, "a loss of power leaves what was durable");
        recovered.entries.remove(&(5, 1));
        recovered.compacted(StreamId(5), 2);
        compare(GroupId(5), &member, &recovered, 0).unwrap_err();
        compare(GroupId(5), &member, &recovered, 2).unwrap();
    }

    #[test]
    fn what_was_given_up_and_comes_back_or_is_not_known_to_be_gone_is_seen() {
        let mut agreed = Agreed::default();
        let mut member = member(&mut agreed, &[1, 1]);
        let compacted = |index| logdrive_wal::offline::Record {
            lsn: 900,
            kind: logdrive_wal::offline::RecordKind::Compacted,
            stream: 5,
            index,
            tag: 0,
            note: 0,
            payload: &[],
        };
        member.take(&mut agreed, 0, &compacted(1)).unwrap();
        let mut recovered = Recovered::default();
        recovered.entries.insert((5, 2), (1, 2));
        compare(GroupId(5), &member, &recovered, 0).unwrap();
        recovered.entries.insert((5, 1), (1, 1));
        let broken = compare(GroupId(5), &member, &recovered, 0).unwrap_err();
        assert_eq!(broken.assertion, "what was given up does not come back");
        member.take(&mut agreed, 0, &compacted(2)).unwrap();
        recovered.entries.clear();
        let broken = compare(GroupId(5), &member, &recovered, 0).unwrap_err();
        assert_eq!(broken.assertion, "what was given up is known after a loss of power");
        recovered.compacted(StreamId(5), 2);
        compare(GroupId(5), &member, &recovered, 0).unwrap();
    }
}
