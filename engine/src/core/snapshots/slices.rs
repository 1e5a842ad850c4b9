//! When a slice of the work on a file is done, and where it ends.
//!
//! Writing a frozen state and building one from a file cost a core about as much per key as applying it did. They are done in slices,
//! each for one file. Whoever drives the core with a **stopwatch** takes slices between turns, when all that a turn let go has gone: a slice
//! ends when the time that it was granted is used, whatever the machine gives, and a [`Share`] says how soon the next one may come: that
//! depends on whether the core has anything else to do. Without a stopwatch (a simulation) time stands still within a turn: a slice is
//! `slice_bytes`, one in each `slice_interval`.

use logdrive_shard::Moment;
use logdrive_wal::Disk;

use super::Snapshots;
use super::install::Install;
use super::writing::Writing;
use crate::api::StateMachine;
use crate::core::Core;
use crate::core::buggify::TINY_SLICE;
use crate::snapshot::Share;

/// Bytes between two looks at the stopwatch: some microseconds of work.
const STEP_BYTES: u64 = 2 << 10;

/// Reads a clock.
type Stopwatch = Box<dyn FnMut() -> Moment>;

/// Slices of a core.
#[derive(Default)]
pub(super) struct Slices {
    /// The file that had the last one.
    turn: usize,
    /// Without a stopwatch: when the next one may be.
    next: Moment,
    timed: Option<Timed>,
}

struct Timed {
    stopwatch: Stopwatch,
    share: Share,
}

/// What a step of a slice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes, and there may be more.
    Done(u64),
    /// There is nothing more to do on this file at present.
    Over,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// From now on slices of the work on snapshots are not part of a turn: the caller does them with [`Core::work_on_snapshots`] after it
    /// took a turn's frames and answers to where they belong. `stopwatch` reads the clock that turns get their time from.
    pub fn time_slices(&mut self, stopwatch: impl FnMut() -> Moment + 'static) {
        let settings = &self.io.settings.snapshots;
        let share = Share::new(settings.slice_time, settings.slice_interval);
        self.snapshots.slices.timed = Some(Timed { stopwatch: Box::new(stopwatch), share });
    }

    /// Whether a slice is due that is not part of a turn.
    pub fn wants_slice(&self, now: Moment) -> bool {
        self.snapshots.slices.timed.as_ref().is_some_and(|timed| {
            self.snapshots.slice_wanted_at() <= now
                && timed.share.clone().grant(now, self.io.others_at).is_some()
        })
    }

    /// One slice of the work on snapshots, if it is time for one and there is such work. It ends when its time is used; what it leaves for
    /// the other members and the log goes with the next turn.
    pub fn work_on_snapshots(&mut self, now: Moment) {
        self.see(now);
        let Some(mut timed) = self.snapshots.slices.timed.take() else { return };
        if self.snapshots.slice_wanted_at() <= self.io.now
            && let Some(granted) = timed.share.grant(self.io.now, self.io.others_at)
        {
            let began = (timed.stopwatch)();
            let step = self.slice(STEP_BYTES, || (timed.stopwatch)().since(began) >= granted);
            // Handing chunks to the disk is work as well.
            self.poll_store();
            // Whatever came to an end may have left something for the log and the others, which leaves with a turn.
            self.snapshots.more |= step == Step::Over;
            timed.share.spend((timed.stopwatch)().since(began));
        }
        self.snapshots.slices.timed = Some(timed);
    }

    /// The slice of a turn, if nobody times them.
    pub(super) fn slice_in_turn(&mut self) {
        let slices = &self.snapshots.slices;
        if slices.timed.is_none() && self.snapshots.slice_wanted_at().max(slices.next) <= self.io.now {
            self.snapshots.slices.next = self.io.now.after(self.io.settings.snapshots.slice_interval);
            self.slice(u64::MAX, || false);
        }
    }

    /// Steps of the work on one file, until there is no more to do, `slice_bytes` are done, or the time is up.
    fn slice(&mut self, step_max: u64, mut is_up: impl FnMut() -> bool) -> Step {
        let snapshots = &self.snapshots;
        let (writings, all) = (snapshots.writings.len(), snapshots.writings.len() + snapshots.installs.len());
        let first = snapshots.slices.turn;
        let ready = (1..=all).map(|n| (first + n) % all).find(|&at| match at.checked_sub(writings) {
            None => snapshots.writings[at].wants_slice(),
            Some(at) => snapshots.installs[at].wants_slice(self.io.now),
        });
        let Some(at) = ready else { return Step::Over };
        self.snapshots.slices.turn = at;
        let mut left = u64::from(self.io.settings.snapshots.slice_bytes.max(1));
        if self.io.strikes(TINY_SLICE) {
            left = 1;
        }
        loop {
            let bytes_max = left.min(step_max) as usize;
            let step = match at.checked_sub(writings) {
                None => self.write_step(at, bytes_max),
                Some(at) => self.load_step(at, bytes_max),
            };
            let Step::Done(bytes) = step else { return step };
            left = left.saturating_sub(bytes.max(1));
            if is_up() || left == 0 || step_max == u64::MAX {
                return step;
            }
        }
    }
}

impl<D: Disk, M: StateMachine> Snapshots<D, M> {
    /// When there is work for a slice: an installation that the log has no room for waits.
    fn slice_wanted_at(&self) -> Moment {
        let writes = self.writings.iter().any(Writing::wants_slice).then_some(Moment(0));
        let installs = self.installs.iter().filter_map(Install::wants_slice_at);
        writes.into_iter().chain(installs).min().unwrap_or(Moment::NEVER)
    }

    /// When the next slice is due, if the core had something else to do at `others_at` and nothing comes up.
    pub(super) fn next_slice(&self, others_at: Moment) -> Moment {
        let may = match &self.slices.timed {
            None => self.slices.next,
            Some(timed) => timed.share.due_at(others_at),
        };
        self.slice_wanted_at().max(may)
    }
}
