//! Reads that are not served on the spot and take part in no round: those that a lease may serve, decided once per turn by a
//! clock that was read after they came, and local reads that wait for an index.

use std::collections::{BTreeMap, BTreeSet};

use logdrive_shard::{LogIndex, Moment};

use super::types::PortId;

/// A read that a lease may serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseRead {
    pub(super) port: PortId,
    pub(super) token: u64,
    pub(super) slot: u32,
    /// Where its request lies in [`LeaseReads::bytes`].
    pub(super) request: (usize, usize),
}

/// The reads of this turn that a lease may serve. Bounded like all requests; the memory is kept from turn to turn.
#[derive(Debug, Default)]
pub(super) struct LeaseReads {
    pub(super) reads: Vec<LeaseRead>,
    pub(super) bytes: Vec<u8>,
}

impl LeaseReads {
    pub(super) fn push(&mut self, port: PortId, token: u64, slot: u32, request: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(request);
        self.reads.push(LeaseRead { port, token, slot, request: (start, self.bytes.len()) });
    }

    pub(super) fn clear(&mut self) {
        self.reads.clear();
        self.bytes.clear();
    }
}

/// A local read that waits for an index to be applied.
#[derive(Debug)]
pub(super) struct LocalRead {
    pub(super) port: PortId,
    pub(super) token: u64,
    pub(super) request: Vec<u8>,
    until: Moment,
}

/// Slot, index, and a running number.
type Key = (u32, u64, u64);

/// The local reads that wait. Bounded like all requests.
#[derive(Debug, Default)]
pub(super) struct LocalReads {
    waiting: BTreeMap<Key, LocalRead>,
    by_time: BTreeSet<(Moment, Key)>,
    next: u64,
}

impl LocalReads {
    /// Waits for `index` in `slot`, until `until`.
    pub(super) fn push(
        &mut self,
        slot: u32,
        index: LogIndex,
        until: Moment,
        (port, token): (PortId, u64),
        request: &[u8],
    ) {
        let key = (slot, index.0, self.next);
        self.next += 1;
        self.by_time.insert((until, key));
        self.waiting.insert(key, LocalRead { port, token, request: request.to_vec(), until });
    }

    /// Whether any wait for `slot`.
    pub(super) fn wait_for(&self, slot: u32) -> bool {
        self.waiting.range((slot, 0, 0)..=(slot, u64::MAX, u64::MAX)).next().is_some()
    }

    /// The next one of `slot` that `applied` serves.
    pub(super) fn pop_served(&mut self, slot: u32, applied: LogIndex) -> Option<LocalRead> {
        let (&key, _) = self.waiting.range((slot, 0, 0)..=(slot, applied.0, u64::MAX)).next()?;
        let read = self.waiting.remove(&key)?;
        self.by_time.remove(&(read.until, key));
        Some(read)
    }

    /// The next one whose time is over: its slot, the index it waited for, and itself.
    pub(super) fn pop_late(&mut self, now: Moment) -> Option<(u32, LogIndex, LocalRead)> {
        let &(until, key) = self.by_time.first()?;
        if until > now {
            return None;
        }
        self.by_time.remove(&(until, key));
        let read = self.waiting.remove(&key)?;
        Some((key.0, LogIndex(key.1), read))
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Moment {
        self.by_time.first().map_or(Moment::NEVER, |first| first.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_served_by_index_and_given_up_by_time() {
        let mut reads = LocalReads::default();
        for (slot, index, until) in [(1, 5, 30), (1, 3, 20), (2, 1, 10), (1, 3, 40)] {
            let token = u64::from(slot) * 100 + index * 10 + until;
            reads.push(slot, LogIndex(index), Moment(until), (PortId(0), token), b"x");
        }
        assert_eq!(reads.next_deadline(), Moment(10));
        assert!(reads.pop_served(1, LogIndex(2)).is_none());
        assert_eq!(reads.pop_served(1, LogIndex(4)).expect("served").token, 150);
        assert_eq!(reads.pop_served(1, LogIndex(4)).expect("served").token, 170);
        assert!(reads.pop_served(1, LogIndex(4)).is_none() && reads.wait_for(1) && !reads.wait_for(3));
        assert!(reads.pop_late(Moment(9)).is_none());
        let (slot, index, read) = reads.pop_late(Moment(35)).expect("late");
        assert_eq!((slot, index, read.token), (2, LogIndex(1), 220));
        assert_eq!(reads.pop_late(Moment(35)).expect("late").2.token, 180);
        assert_eq!(reads.next_deadline(), Moment::NEVER);
    }
}
