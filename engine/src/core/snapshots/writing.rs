//! From the frozen state to the durable file; and what of the log may go then.

use logdrive_shard::LogIndex;
use logdrive_wal::Disk;

use super::Snapshots;
use super::slices::Step;
use super::triggers::CUT_RETRY;
use crate::api::{Error, StateMachine};
use crate::core::Core;
use crate::core::lane::Flags;
use crate::snapshot::{SnapshotMeta, WriteId};

/// A snapshot that is being written.
pub(super) struct Writing<V> {
    slot: u32,
    /// Nothing once all of it is handed out.
    view: Option<V>,
    write: WriteId,
    index: LogIndex,
    /// What the log had of the group when the state was frozen.
    log_bytes: u64,
    /// What was not counted in that yet.
    uncounted_bytes: u64,
    /// Handed out by the state machine, and from where on the store has not taken it.
    rest: Vec<u8>,
    from: usize,
    /// The store has no room at present.
    pub(super) is_stuck: bool,
    is_finished: bool,
}

impl<V> Writing<V> {
    pub(super) fn wants_slice(&self) -> bool {
        !self.is_stuck && !self.is_finished
    }
}

impl<D: Disk, M: StateMachine> Snapshots<D, M> {
    pub(super) fn writing(&self, write: WriteId) -> Option<usize> {
        self.writings.iter().position(|writing| writing.write == write)
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Freezes a group's state and begins its file, if there is anything new.
    pub(super) fn begin_snapshot(&mut self, slot: u32) {
        let at = slot as usize;
        let applied = self.io.lanes[at].applied;
        let state = &self.snapshots.groups[at];
        if state.is_busy {
            return;
        }
        let term = self.groups[at].term_at(applied);
        let (Some(term), true) = (term, applied > state.index && !state.membership.is_empty()) else {
            // Nothing new; perhaps the log may be cut all the same.
            self.cut_log(slot);
            let newest = self.snapshots.groups[at].index;
            let is_newest = newest >= applied;
            return self.answer_asked(slot, if is_newest { Ok(newest) } else { Err(Error::SnapshotFailed) });
        };
        let meta = SnapshotMeta {
            group: self.ids[at],
            life: self.lives[at].number(),
            index: applied,
            term,
            membership_index: state.membership_index,
            membership: state.membership.encode(),
            sessions: self.sessions.encoded(slot),
        };
        let write = match self.snapshots.store.begin_write(meta, self.machine.state_bytes(slot)) {
            Ok(write) => write,
            Err(error) => return self.on_snapshot_failed(slot, &error.to_string()),
        };
        let state = &mut self.snapshots.groups[at];
        state.is_busy = true;
        let log_bytes = state.log_bytes;
        self.snapshots.writings.push(Writing {
            slot,
            view: Some(self.machine.freeze(slot)),
            write,
            index: applied,
            log_bytes,
            uncounted_bytes: u64::from(self.io.lanes[at].uncounted_bytes),
            rest: Vec::new(),
            from: 0,
            is_stuck: false,
            is_finished: false,
        });
        self.snapshots.counters.begun += 1;
    }

    /// Hands the next bytes of a frozen state to the store.
    pub(super) fn write_step(&mut self, at: usize, bytes_max: usize) -> Step {
        let (snapshots, machine) = (&mut self.snapshots, &mut self.machine);
        let writing = &mut snapshots.writings[at];
        if writing.from == writing.rest.len()
            && let Some(mut view) = writing.view.take()
        {
            writing.rest.clear();
            writing.from = 0;
            match machine.write_view(&mut view, bytes_max, &mut writing.rest) {
                true => machine.release(view),
                false => writing.view = Some(view),
            }
        }
        snapshots.more = true;
        let written = snapshots.store.write(writing.write, &writing.rest[writing.from..]);
        // If it failed, the store says so with an event.
        let Ok(taken) = written else {
            writing.is_finished = true;
            return Step::Over;
        };
        writing.from += taken;
        writing.is_stuck = writing.from < writing.rest.len();
        if !writing.is_stuck && writing.view.is_none() {
            writing.is_finished = true;
            // As above.
            let _ = snapshots.store.finish(writing.write);
        }
        if writing.wants_slice() { Step::Done(taken as u64) } else { Step::Over }
    }

    /// The file is durable under its name.
    pub(super) fn on_written(&mut self, at: usize) {
        let writing = self.snapshots.writings.swap_remove(at);
        let (slot, index) = (writing.slot, writing.index);
        let at = slot as usize;
        let newest = self.snapshots.store.newest(self.ids[at], self.lives[at].number());
        let file_bytes = newest.ok().flatten().map_or(0, |header| header.file_bytes());
        self.snapshots.counters.written += 1;
        self.snapshots.failures.clear();
        let state = &mut self.snapshots.groups[at];
        state.is_busy = false;
        state.failure = None;
        if index > state.index {
            let entries = index.0 - state.index.0;
            state.entry_bytes = (writing.log_bytes + writing.uncounted_bytes) / entries;
            (state.index, state.file_bytes, state.at) = (index, file_bytes, Some(self.io.now));
            state.log_bytes = state.log_bytes.saturating_sub(writing.log_bytes);
        }
        self.cut_log(slot);
        self.maybe_log_full(slot);
        self.answer_asked(slot, Ok(index));
    }

    /// Whether the group takes proposals again.
    pub(super) fn maybe_log_full(&mut self, slot: u32) {
        let at = slot as usize;
        if self.snapshots.groups[at].log_bytes < self.io.settings.snapshots.group_log_bytes_max {
            self.io.lanes[at].flags.lower(Flags::LOG_FULL);
        } else {
            self.want_snapshot(slot, true);
        }
    }

    /// Entries that a durable snapshot stands for leave the log, except the last ones, which followers may want.
    pub(super) fn cut_log(&mut self, slot: u32) {
        let at = slot as usize;
        let settings = &self.io.settings.snapshots;
        // A member that is being brought up continues with the log behind its snapshot.
        let held = self.held_for_transfers(slot);
        let state = &mut self.snapshots.groups[at];
        let (trailing, upto) = match std::mem::take(&mut state.eased) {
            true => (0, state.index),
            false => {
                let within_bytes = settings.keep_trailing_bytes / state.entry_bytes.max(1);
                (settings.keep_trailing_entries.min(within_bytes), state.index.min(held))
            }
        };
        let Some(index) = self.groups[at].compactable(upto, trailing) else { return };
        if let Err(error) = self.io.wal.compact(self.io.lanes[at].stream, index.0) {
            tracing::warn!(group = %self.ids[at], %error, "the log could not be cut behind a snapshot; it is tried again");
            state.eased = trailing == 0;
            if !std::mem::replace(&mut state.is_uncut, true) {
                self.snapshots.uncut.push(slot);
            }
            self.snapshots.next_cut = self.io.now.after(CUT_RETRY);
            return;
        }
        self.groups[at].compacted(index);
        self.io.cache.release(&mut self.io.lanes[at].window, index.0 + 1);
        self.snapshots.counters.logs_cut += 1;
    }

    pub(super) fn cut_logs_again(&mut self) {
        if self.io.now < self.snapshots.next_cut {
            return;
        }
        self.snapshots.next_cut = logdrive_shard::Moment::NEVER;
        for slot in std::mem::take(&mut self.snapshots.uncut) {
            self.snapshots.groups[slot as usize].is_uncut = false;
            self.cut_log(slot);
        }
    }

    pub(super) fn on_write_failed(&mut self, at: usize, why: &str) {
        let writing = self.snapshots.writings.swap_remove(at);
        writing.view.into_iter().for_each(|view| self.machine.release(view));
        self.snapshots.groups[writing.slot as usize].is_busy = false;
        self.on_snapshot_failed(writing.slot, why);
    }

    /// Consensus goes on as before; the group comes again later.
    fn on_snapshot_failed(&mut self, slot: u32, why: &str) {
        tracing::error!(
            group = %self.ids[slot as usize],
            why,
            "a snapshot could not be written; it is tried again after a pause. The group goes on; its log grows meanwhile, up to \
             group_log_bytes_max"
        );
        self.snapshots.counters.failed += 1;
        self.snapshots.failures.add(self.io.now);
        self.snapshots.groups[slot as usize].failure = Some(why.into());
        self.answer_asked(slot, Err(Error::SnapshotFailed));
        self.want_snapshot(slot, false);
    }

    /// The group is another one now: its snapshot under way is given up.
    pub(super) fn abandon_writing(&mut self, slot: u32) {
        let Some(at) = self.snapshots.writings.iter().position(|writing| writing.slot == slot) else {
            return;
        };
        let writing = self.snapshots.writings.swap_remove(at);
        self.snapshots.groups[slot as usize].is_busy = false;
        writing.view.into_iter().for_each(|view| self.machine.release(view));
        // It may be over already; then nothing is left of it to be given up.
        let _ = self.snapshots.store.abort(writing.write);
    }

    /// Answers who waits for a snapshot of the group; those who want a later one go on waiting.
    pub(super) fn answer_asked(&mut self, slot: u32, result: Result<LogIndex, Error>) {
        for asked in std::mem::take(&mut self.snapshots.groups[slot as usize].asked) {
            if result.is_ok_and(|index| index < asked.index) {
                self.snapshots.groups[slot as usize].asked.push(asked);
            } else {
                self.answer_snapshot(asked, result);
            }
        }
        if !self.snapshots.groups[slot as usize].asked.is_empty() {
            self.want_snapshot(slot, true);
        }
    }
}
