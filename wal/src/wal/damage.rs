//! Damage that the running log comes upon, by a read or by the scrubber: what is lost with it, told once, and when to stop
//! believing in the disk.

use std::collections::VecDeque;

use super::losses::Place;
use super::{Damage, LostEntries, StreamSlot, Wal};
use crate::disk::Disk;

/// Damaged entries found by one open log, beyond which its disk is given up: each of them may be repaired, and yet it is no place
/// to keep anything.
const ENTRIES_MAX: u64 = 4096;
/// Damaged places without entries that wait for the owner; beyond that they are only counted and written to the program's log.
const PLACES_MAX: usize = 256;

/// What the running log found.
#[derive(Debug, Default)]
pub(super) struct FoundDamage {
    /// To be told.
    queue: VecDeque<LostEntries>,
    /// Places without entries, to be told.
    places: VecDeque<Damage>,
    /// Entries found damaged since the log was opened.
    entries: u64,
    /// Why the disk is not to be trusted any more.
    failing: Option<Damage>,
}

impl FoundDamage {
    /// How much the owner has not been told.
    pub(super) fn untold(&self) -> usize {
        self.queue.len()
    }

    fn tell(&mut self, lost: LostEntries) {
        if let Some(last) = self.queue.back_mut()
            && (last.stream, last.last + 1, last.came_back) == (lost.stream, lost.first, lost.came_back)
            && (&last.place.segment, last.place.kind) == (&lost.place.segment, lost.place.kind)
        {
            last.last = lost.last;
            last.place.bytes = (lost.place.offset + lost.place.bytes)
                .saturating_sub(last.place.offset)
                .max(last.place.bytes);
            if let Some(range) = last.place.entries.last_mut() {
                range.2 = lost.last;
            }
            return;
        }
        self.queue.push_back(lost);
    }
}

impl<D: Disk> Wal<D> {
    /// Entries that a read or the scrubber found damaged while the log runs, with the place: they are acknowledged, members of the log,
    /// and cannot be read any more ([`ReadError::Damaged`](crate::ReadError)); [`Wal::repair`] fills them. Every open tells them
    /// as [`Recovery::damaged`](crate::Recovery::damaged) until that is done. [`Wal::poll`] says that there is news.
    ///
    /// States, compactions and verdicts that lie in a damaged place are written again at once: the log has them in memory.
    pub fn poll_damage(&mut self) -> Option<LostEntries> {
        self.damage.queue.pop_front()
    }

    /// A place that the scrubber found damaged and that holds no entry that is needed: a segment's header or seal, a mark, states,
    /// compactions. The log has what was there and writes it again by itself, in its place or at its end; the owner may want to
    /// know about its disk. [`Wal::poll`] says that there is news.
    pub fn poll_damaged_place(&mut self) -> Option<Damage> {
        self.damage.places.pop_front()
    }

    pub(super) fn tell_place(&mut self, place: Damage) {
        if self.damage.places.len() < PLACES_MAX {
            self.damage.places.push_back(place);
        }
        self.news = true;
    }

    /// The disk does not keep what is written to it.
    pub(super) fn give_up_disk(&mut self, place: &Damage) {
        if self.damage.failing.is_some() {
            return;
        }
        tracing::error!(
            damage = %place,
            disk = %self.disk.describe(),
            directory = %self.disk.root(),
            "the disk loses what is written to it, also after it was repaired: nothing more is repaired there. Replace it"
        );
        self.damage.failing = Some(place.clone());
        self.news = true;
    }

    /// Why nothing more should be entrusted to this disk, if that is so: a place was damaged again after it was repaired, or so much
    /// was damaged that repairing is no answer. The log goes on; the owner had better move away.
    pub fn failing(&self) -> Option<&Damage> {
        self.damage.failing.as_ref()
    }

    /// How many entries were found damaged since the log was opened.
    pub fn damaged_entries(&self) -> u64 {
        self.damage.entries
    }

    /// The record of an entry cannot be read, and could not when it was tried again.
    pub(super) fn lose_entry(&mut self, stream: StreamSlot, index: u64, mut place: Damage) {
        if !matches!(self.place_of(stream, index), Place::At(_)) {
            // Replaced, given up, or known to be damaged.
            return;
        }
        let id = self.index.stream(stream).id.0;
        place.entries = vec![(id, index, index)];
        let came_back = self.losses.lose(stream, index);
        self.damage.entries += 1;
        tracing::error!(
            stream = id,
            index,
            damage = %place,
            came_back,
            disk = %self.disk.describe(),
            directory = %self.disk.root(),
            "an acknowledged entry is damaged"
        );
        if came_back || self.damage.entries > ENTRIES_MAX {
            self.give_up_disk(&place);
        }
        self.damage.tell(LostEntries { stream, first: index, last: index, came_back, place });
        self.news = true;
    }
}
