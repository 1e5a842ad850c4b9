//! One turn: what is done, in which order.

use std::time::Duration;

use logdrive_shard::Moment;
use logdrive_wal::{Disk, Health, ReadError};

use super::buggify::CACHE_EMPTIED;
use super::heal::Heal;
use super::lane::Flags;
use super::loads::Purpose;
use super::prefetch::AHEAD;
use super::{Core, Fatal};
use crate::api::StateMachine;
use crate::mutant;

/// How often a log that is out of space is tried again.
const LOG_RETRY: Duration = Duration::from_millis(100);
/// How long after a failed read of the log the entries are asked for again.
const READ_RETRY: Duration = Duration::from_secs(1);

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Ends a turn: due deadlines, flush of touched groups, log submission, release of what became durable, apply, answers, one
    /// frame per link. `now` is read after the inputs of the turn were taken.
    pub fn turn(&mut self, now: Moment) -> Result<(), Fatal> {
        self.see(now);
        self.answer_pulses();
        self.poll_log()?;
        self.take_pressure();
        self.expire_deadlines();
        self.decide_lease_reads();
        self.resume_drained();
        self.flush_groups();
        self.tell_room();
        self.begin_loads();
        self.log_news = self.io.wal.submit(self.io.now.0);
        let backlog_bytes = self.io.wal.backlog_bytes();
        if self.io.strikes(CACHE_EMPTIED) {
            self.io.cache.evict_oldest(&mut self.io.lanes);
        }
        self.apply_committed();
        self.serve_reads();
        self.give_up_local_reads();
        self.give_up_stalled_reads();
        self.tend_snapshots();
        self.release_parked();
        if self.io.wal.backlog_bytes() != backlog_bytes {
            // Something was released that led to new writes (a vote for itself that nobody else is needed for).
            self.log_news |= self.io.wal.submit(self.io.now.0);
        }
        Ok(())
    }

    /// When [`Core::turn`] must be called at the latest if nothing happens.
    pub fn next_deadline(&self) -> Moment {
        if self.goes_on().iter().any(|(_, goes_on)| *goes_on) {
            return self.io.now;
        }
        self.deadlines().iter().fold(Moment::NEVER, |next, (_, at)| next.min(*at))
    }

    /// What the next turn is for, if it is due at once: to be told why a core does not come to rest.
    pub fn due(&self) -> Vec<&'static str> {
        let goes_on = self.goes_on().into_iter().filter(|(_, goes_on)| *goes_on).map(|(name, _)| name);
        let deadlines = self.deadlines().into_iter().filter(|(_, at)| *at <= self.io.now);
        goes_on.chain(deadlines.map(|(name, _)| name)).collect()
    }

    /// What was left for the next turn.
    #[inline]
    fn goes_on(&self) -> [(&'static str, bool); 5] {
        let queues = &self.io.queues;
        [
            ("entries to apply", !queues.apply.is_empty()),
            ("groups to flush", !queues.flush.is_empty()),
            ("reads", !queues.reads.is_empty()),
            ("news of the log", self.log_news),
            ("links that drained", self.any_drained()),
        ]
    }

    #[inline]
    fn deadlines(&self) -> [(&'static str, Moment); 14] {
        let notice = self.io.queues.notices.front().map_or(Moment::NEVER, |first| first.0);
        let at = |nanos: Option<u64>| nanos.map_or(Moment::NEVER, Moment);
        [
            ("a group's timer", self.timers.next()),
            ("pulses", self.next_pulse),
            ("notices", notice),
            ("a full log", self.next_log_retry),
            ("the log's mark", at(self.io.wal.mark_due_nanos())),
            ("local reads", self.io.local_reads.next_deadline()),
            ("stalled reads", self.next_stall()),
            ("loads", self.io.loads.next_retry()),
            ("balance", self.next_balance()),
            ("retirement", self.next_retirement()),
            ("healing", self.next_healing()),
            ("the scrubber", at(self.io.wal.scrub_due_nanos())),
            ("reclaim", at(self.io.wal.reclaim_due_nanos())),
            ("snapshots", self.next_snapshot_work()),
        ]
    }

    // -- the log ------------------------------------------------------------------------------------------------------

    /// Takes what the log has finished. A poisoned log ends it all: nothing more is acknowledged.
    fn poll_log(&mut self) -> Result<(), Fatal> {
        self.io.wal.poll(self.io.now.0);
        match self.io.wal.health() {
            Health::Poisoned(error) => {
                return Err(Fatal::LogPoisoned { core: self.core.0, error: error.clone() });
            }
            Health::OutOfSpace => self.next_log_retry = self.io.now.after(LOG_RETRY),
            Health::Running if self.io.unwritten.is_empty() => self.next_log_retry = Moment::NEVER,
            Health::Running => {}
        }
        self.finish_loads();
        self.take_damage();
        let written = self.io.wal.last_ticket();
        let durable = if mutant::DURABLE_WHEN_WRITTEN { written } else { self.io.wal.durable() };
        while let Some(touch) = self.io.waiting.pop_touch(durable) {
            if let Some(next) = self.io.waiting.peek_touch(AHEAD) {
                self.prefetch_slot(next);
            }
            let (slot, epoch, last) = (touch.slot, touch.epoch, logdrive_shard::LogIndex(touch.last));
            self.step(slot, |group, env| group.on_durable(env, epoch, last));
            self.end_step(slot);
            if self.groups[slot as usize].applicable() > self.io.lanes[slot as usize].applied {
                self.io.queue_apply(slot);
            }
        }
        self.release_parked();
        if !self.io.unwritten.is_empty() {
            self.io.retry_unwritten();
            self.next_log_retry = match self.io.unwritten.is_empty() {
                true => Moment::NEVER,
                false => self.io.now.after(LOG_RETRY),
            };
        }
        Ok(())
    }

    /// Sends what waited for the log and is covered by what is durable.
    fn release_parked(&mut self) {
        let written = self.io.wal.last_ticket();
        let durable = if mutant::VOUCHES_EARLY { written } else { self.io.wal.durable() };
        while let Some((slot, term)) = self.io.release(durable) {
            self.step(slot, |group, env| group.on_vote_durable(env, term));
            self.end_step(slot);
        }
    }

    // -- cold entries -------------------------------------------------------------------------------------------------

    fn begin_loads(&mut self) {
        while let Some((token, want)) = self.io.loads.begin() {
            let stream = self.io.lanes[want.slot as usize].stream;
            self.io.wal.read(token, stream, want.first, want.last, want.bytes_max);
        }
    }

    fn finish_loads(&mut self) {
        while let Some(done) = self.io.wal.poll_read() {
            if Heal::is_token(done.token) {
                self.on_served(done);
                continue;
            }
            let entries = done.result.as_ref().map_or(0, Vec::len) as u64;
            let (want, result) = self.io.loads.on_read(done);
            self.io.counters.cold_entries += entries;
            match (result, want.purpose) {
                (Ok(()), Purpose::Send) => self.offer_load(want.slot),
                (Ok(()), Purpose::Apply) => self.continue_apply(want.slot),
                (Err(ReadError::NotFound { index }), purpose) => self.look_again(want.slot, index, purpose),
                (Err(error), purpose) => {
                    let slot = want.slot;
                    let group = self.ids[slot as usize];
                    // What is damaged is on its way already.
                    if !matches!(error, ReadError::Damaged { .. }) {
                        tracing::error!(%group, %error, "reading the log failed");
                    }
                    self.io.loads.retry_at(self.io.now.after(READ_RETRY), slot, purpose);
                }
            }
        }
        while let Some((slot, purpose)) = self.io.loads.pop_retry(self.io.now) {
            match purpose {
                Purpose::Send => self.offer_load(slot),
                Purpose::Apply => self.continue_apply(slot),
            }
        }
    }

    /// The log does not have what a group asked for. As a rule it was cut or replaced meanwhile, and the group decides anew at once. An entry
    /// that waits for room in the log, and that the cache has given up, comes with the room: asking at once would go on for ever.
    fn look_again(&mut self, slot: u32, index: u64, purpose: Purpose) {
        let group = &self.groups[slot as usize];
        if (group.first_index().0..=group.last_index().0).contains(&index) {
            return self.io.loads.retry_at(self.io.now.after(LOG_RETRY), slot, purpose);
        }
        match purpose {
            Purpose::Send => self.offer_load(slot),
            Purpose::Apply => self.continue_apply(slot),
        }
    }

    /// A group's cold entries are there, or are to be asked for again: its peers take what they can, then it may ask on.
    fn offer_load(&mut self, slot: u32) {
        self.io.loads.next = None;
        self.step(slot, |group, env| group.on_entries_loaded(env));
        self.end_step(slot);
        self.io.loads.drop_load(slot, Purpose::Send);
        match self.io.loads.next.take() {
            Some(want) => self.io.loads.want(want),
            None => self.io.lanes[slot as usize].flags.lower(Flags::SEND_LOAD),
        }
    }

    fn continue_apply(&mut self, slot: u32) {
        self.io.lanes[slot as usize].flags.lower(Flags::APPLY_LOAD);
        self.io.queue_apply(slot);
    }

    // -- deadlines ----------------------------------------------------------------------------------------------------

    fn expire_deadlines(&mut self) {
        let mut slots = std::mem::take(&mut self.scratch.slots);
        self.timers.expired(self.io.now, &mut slots);
        for slot in slots.drain(..) {
            let deadline = self.groups[slot as usize].next_deadline();
            if deadline <= self.io.now {
                self.step(slot, |group, env| group.on_deadline(env));
                self.end_step(slot);
            } else if deadline != Moment::NEVER {
                self.timers.arm(slot, deadline);
            }
        }
        self.scratch.slots = slots;
        while let Some(&(at, slot)) = self.io.queues.notices.front() {
            if at > self.io.now {
                break;
            }
            self.io.queues.notices.pop_front();
            self.io.lanes[slot as usize].flags.lower(Flags::NOTICE);
            self.step(slot, |group, env| group.flush_commit(env));
            self.end_step(slot);
        }
        self.pulse_when_due();
        self.balance_when_due();
        self.retire_when_due();
        self.heal_when_due();
    }

    fn flush_groups(&mut self) {
        let mut slots = std::mem::take(&mut self.io.queues.flush);
        for slot in slots.drain(..) {
            self.io.lanes[slot as usize].flags.lower(Flags::FLUSH);
            self.step(slot, |group, env| group.flush(env));
            self.end_step(slot);
        }
        // Nothing that a flush does asks for another one.
        assert!(self.io.queues.flush.is_empty());
        self.io.queues.flush = slots;
    }
}
