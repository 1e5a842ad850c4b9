//! Reading back what left the entry cache: to send it to a peer that is behind, or to apply it.
//!
//! A group has at most one load of each kind; a bounded number is under way and the others wait in line. A load for
//! sending is offered to its group once, when it has arrived, and then forgotten: the peers copy what they can use.

use std::collections::VecDeque;

use logdrive_shard::Moment;
use logdrive_wal::{EntryHeader, ReadDone, ReadError};

/// Loads under way or held, at most.
const LOADS_MAX: usize = 32;

/// What a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Send,
    Apply,
}

/// A range of a group's entries that somebody needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) slot: u32,
    pub(super) purpose: Purpose,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes_max: u32,
}

#[derive(Debug)]
struct Load {
    want: Want,
    /// The log replaced what is being read: the result is void.
    void: bool,
    entries: Option<Vec<(EntryHeader, Vec<u8>)>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Loads {
    slab: Vec<Option<Load>>,
    line: VecDeque<Want>,
    failed: VecDeque<(Moment, u32, Purpose)>,
    /// What a group that was offered a load asked for next.
    pub(super) next: Option<Want>,
    errors: u64,
}

impl Loads {
    /// Reads under way.
    pub(super) fn under_way(&self) -> u64 {
        self.slab.iter().flatten().count() as u64
    }

    /// So many at most.
    pub(super) fn at_most(&self) -> u64 {
        LOADS_MAX as u64
    }

    /// Puts a range in line. The caller sees to it that a group has one per purpose.
    pub(super) fn want(&mut self, want: Want) {
        self.line.push_back(want);
    }

    /// The next range to begin reading, with its token.
    pub(super) fn begin(&mut self) -> Option<(u64, Want)> {
        self.line.front()?;
        let at = match self.slab.iter().position(Option::is_none) {
            Some(at) => at,
            None if self.slab.len() < LOADS_MAX => {
                self.slab.push(None);
                self.slab.len() - 1
            }
            None => return None,
        };
        let want = self.line.pop_front()?;
        self.slab[at] = Some(Load { want, void: false, entries: None });
        Some((at as u64, want))
    }

    /// A read ended. Returns for whom, and whether entries have come.
    pub(super) fn on_read(&mut self, done: ReadDone) -> (Want, Result<(), ReadError>) {
        let at = done.token as usize;
        let load = self.slab[at].as_mut().expect("a load stays until its read has ended");
        let want = load.want;
        match done.result {
            Ok(entries) if !load.void => {
                load.entries = Some(entries);
                return (want, Ok(()));
            }
            Ok(_) => {}
            Err(ReadError::NotFound { .. }) if load.void => {}
            Err(error) => {
                self.errors += u64::from(!matches!(error, ReadError::NotFound { .. }));
                self.slab[at] = None;
                return (want, Err(error));
            }
        }
        self.slab[at] = None;
        (want, Ok(()))
    }

    /// The loaded entry at `index`.
    pub(super) fn get(&self, slot: u32, purpose: Purpose, index: u64) -> Option<&(EntryHeader, Vec<u8>)> {
        let load = self.slab.iter().flatten().find(|load| load.is(slot, purpose))?;
        let entries = load.entries.as_ref()?;
        entries.get(index.checked_sub(load.want.first)? as usize)
    }

    /// Forgets a group's load.
    pub(super) fn drop_load(&mut self, slot: u32, purpose: Purpose) {
        for load in &mut self.slab {
            if load.as_ref().is_some_and(|load| load.is(slot, purpose) && load.entries.is_some()) {
                *load = None;
            }
        }
    }

    /// A group's entries up to `last` are applied: what was loaded for that is forgotten when there is no more of it, however much
    /// the cache had behind it. What stayed would keep its place from all other groups.
    pub(super) fn drop_applied(&mut self, slot: u32, last: u64) {
        for place in &mut self.slab {
            let Some(load) = place.as_ref().filter(|load| load.is(slot, Purpose::Apply)) else { continue };
            if load.entries.as_ref().is_some_and(|entries| load.want.first + entries.len() as u64 <= last + 1)
            {
                *place = None;
            }
        }
    }

    /// The group's log was replaced from `index` on: what is being read of that is void.
    pub(super) fn void(&mut self, slot: u32, index: u64) {
        for load in self.slab.iter_mut().flatten() {
            load.void |= load.want.slot == slot && load.want.last >= index;
        }
    }

    /// Tries a failed load again at `at`.
    pub(super) fn retry_at(&mut self, at: Moment, slot: u32, purpose: Purpose) {
        self.failed.push_back((at, slot, purpose));
    }

    /// A failed load whose time has come.
    pub(super) fn pop_retry(&mut self, now: Moment) -> Option<(u32, Purpose)> {
        if self.failed.front()?.0 > now {
            return None;
        }
        self.failed.pop_front().map(|(_, slot, purpose)| (slot, purpose))
    }

    /// When the next failed load is tried again.
    pub(super) fn next_retry(&self) -> Moment {
        self.failed.front().map_or(Moment::NEVER, |first| first.0)
    }

    /// Reads that failed.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }
}

impl Load {
    fn is(&self, slot: u32, purpose: Purpose) -> bool {
        (self.want.slot, self.want.purpose) == (slot, purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(loads: &mut Loads, slot: u32, first: u64, count: u64) {
        let (purpose, last) = (Purpose::Apply, first + count - 1);
        loads.want(Want { slot, purpose, first, last, bytes_max: 1 << 20 });
        let (token, _) = loads.begin().expect("there is a place");
        let entry = |index| (EntryHeader { index, tag: 1, note: 0 }, Vec::new());
        let result = Ok((first..=last).map(entry).collect());
        assert_eq!(loads.on_read(ReadDone { token, result }).1, Ok(()));
    }

    #[test]
    fn what_was_applied_together_with_cached_entries_behind_it_gives_its_place_back() {
        let mut loads = Loads::default();
        for slot in 0..10 * LOADS_MAX as u32 {
            loaded(&mut loads, slot, 4, 3);
            loads.drop_applied(slot, 5);
            assert!(loads.get(slot, Purpose::Apply, 6).is_some(), "one is left to apply");
            // Up to 6 was loaded, and what follows was in the cache.
            loads.drop_applied(slot, 9);
            assert_eq!(loads.under_way(), 0);
        }
    }

    #[test]
    fn what_the_log_does_not_have_is_no_load_that_ended_well_unless_it_was_replaced_meanwhile() {
        for replaced in [false, true] {
            let mut loads = Loads::default();
            loads.want(Want { slot: 1, purpose: Purpose::Send, first: 3, last: 3, bytes_max: 1 << 20 });
            let (token, _) = loads.begin().expect("there is a place");
            if replaced {
                loads.void(1, 2);
            }
            let missing = ReadError::NotFound { index: 3 };
            let expected = if replaced { Ok(()) } else { Err(missing.clone()) };
            assert_eq!(loads.on_read(ReadDone { token, result: Err(missing) }).1, expected);
            assert_eq!((loads.under_way(), loads.errors()), (0, 0));
        }
    }
}
