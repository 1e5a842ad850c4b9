//! The beginnings of a group's log on this node.
//!
//! A group that this node left and comes back to begins a new **life**: everything before is void but term and vote. Within a life its
//! log may have to begin anew behind a snapshot that it parted from, while state and snapshots of that life stay: that is
//! another **log** of the same life. Each is a stream of its own, so that a single record puts an end to all of the one before; the
//! upper half of the stream's id counts them. Recovery takes the latest.

use logdrive_shard::GroupId;
use logdrive_wal::StreamId;

/// Which beginning of a group's log; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    /// How often the group began anew here.
    pub(super) count: u16,
    /// How often its log did in this life.
    pub(super) log: u16,
}

impl Life {
    /// The group's next life; `None` after too many.
    pub(super) fn next(self) -> Option<Life> {
        Some(Life { count: self.count.checked_add(1)?, log: 0 })
    }

    /// The next log of this life; `None` after too many.
    pub(super) fn next_log(self) -> Option<Life> {
        Some(Life { log: self.log.checked_add(1)?, ..self })
    }

    /// As it is named in files of snapshots.
    pub(super) fn number(self) -> u32 {
        u32::from(self.count)
    }
}

/// The stream of a beginning of a group's log.
pub(super) fn stream_of(group: GroupId, life: Life) -> StreamId {
    StreamId(u64::from(life.log) << 48 | u64::from(life.count) << 32 | group.0)
}

/// The group and the beginning of its log that a stream is of.
pub(super) fn life_of(stream: StreamId) -> (GroupId, Life) {
    let life = Life { count: (stream.0 >> 32) as u16, log: (stream.0 >> 48) as u16 };
    (GroupId(stream.0 & u64::from(u32::MAX)), life)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_names_the_group_its_life_and_the_log_in_it() {
        for (group, count, log) in [(1, 0, 0), (1 << 20, 3, 1), (u64::from(u32::MAX), u16::MAX, u16::MAX)] {
            let life = Life { count, log };
            assert_eq!(life_of(stream_of(GroupId(group), life)), (GroupId(group), life));
        }
        let first = stream_of(GroupId(7), Life::default());
        assert_eq!(first, StreamId(7), "the first life is what it was before there were others");
        let second = stream_of(GroupId(7), Life { count: 1, log: 0 });
        assert_eq!(second, StreamId(1 << 32 | 7), "and so are the later ones");
    }

    #[test]
    fn every_life_and_log_comes_after_those_before_it() {
        let first = Life::default();
        let (log, life) = (first.next_log().unwrap(), first.next().unwrap());
        assert!(first < log && log < life && life < life.next_log().unwrap());
        assert_eq!(life.next_log().unwrap().number(), life.number(), "a new log is no new life");
        assert_eq!(Life { count: u16::MAX, log: 0 }.next(), None);
        assert_eq!(Life { count: 0, log: u16::MAX }.next_log(), None);
    }
}
