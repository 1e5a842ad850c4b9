//! Linearizable reads that get no further: they are ended after a time, because what they wait for may never come.
//!
//! A read of a follower waits for the leader's answer, and then until this node has applied what the answer names. If the node was
//! removed from the group and whoever leads now knows nothing of it, neither may ever happen, and nobody tells. A read that a
//! leader has confirmed waits for the leader's own log, which may hang. Nothing was executed for such a read, so it may be ended at any
//! time; its client asks the leader.
//!
//! Not every read is timed. A group with reads is looked at after a while: if nothing was applied meanwhile, those end that had
//! come before the look before.

use std::time::Duration;

use logdrive_shard::{LogIndex, Moment};
use logdrive_wal::Disk;

use super::Core;
use super::lane::Flags;
use super::step::Io;
use crate::api::{Error, StateMachine};

/// Reads wait for so many of the longest election timeouts without progress, and at most for twice as many: time for another
/// leader to be elected and to bring its followers on.
const ELECTIONS: u32 = 3;

/// A group with reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    slot: u32,
    since: Moment,
    /// What was applied then.
    applied: LogIndex,
}

impl<D: Disk> Io<D> {
    /// A group has reads: it is looked at again after a while, if it is not already.
    pub(super) fn watch_reads(&mut self, slot: u32) {
        let lane = &mut self.lanes[slot as usize];
        if lane.flags.raise(Flags::WATCHED) {
            self.watched.push_back(Watched { slot, since: self.now, applied: lane.applied });
        }
    }
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    fn reads_wait_for(&self) -> Duration {
        (self.config.election_base + self.config.election_spread) * ELECTIONS
    }

    /// When the next group with reads is looked at.
    pub(super) fn next_stall(&self) -> Moment {
        self.io.watched.front().map_or(Moment::NEVER, |first| first.since.after(self.reads_wait_for()))
    }

    /// Looks at the groups whose time has come.
    pub(super) fn give_up_stalled_reads(&mut self) {
        let patience = self.reads_wait_for();
        // What is put back comes after that time.
        for _ in 0..self.io.watched.len() {
            let due = |first: &&Watched| first.since.after(patience) <= self.io.now;
            let Some(&Watched { slot, since, applied }) = self.io.watched.front().filter(due) else { return };
            self.io.watched.pop_front();
            let lane = &mut self.io.lanes[slot as usize];
            lane.flags.lower(Flags::WATCHED);
            if lane.applied == applied {
                self.give_up_reads(slot, since);
            }
            if self.io.reads.count(slot as usize) > 0 {
                self.io.watch_reads(slot);
            }
        }
    }

    /// Ends the reads of a group that came until `until`. Those that a leader has not confirmed yet stay: it confirms them or steps down.
    fn give_up_reads(&mut self, slot: u32, until: Moment) {
        let (at, leads) = (slot as usize, self.groups[slot as usize].is_leader());
        if self.io.reads.count(at) == 0 {
            return;
        }
        let not_leader = self.not_leader(slot);
        let Io { reads, ports, requests, request_bytes, lanes, counters, .. } = &mut self.io;
        let have = lanes[at].applied;
        let before = counters.reads_given_up;
        reads.cut_older(at, until, !leads, |read, index| {
            *requests -= 1;
            *request_bytes -= read.request.len() as u64;
            counters.reads_given_up += 1;
            let error = match index {
                Some(want) if leads => Error::CommitLagging { have, want },
                _ => not_leader,
            };
            ports.answer(read.port, read.token, Err(error), &[]);
        });
        let given_up = self.io.counters.reads_given_up - before;
        if given_up > 0 {
            tracing::debug!(group = %self.ids[at], applied = %have, given_up, "reads that got no further are ended");
        }
        if self.io.reads.count(at) > 0 {
            return;
        }
        if !leads {
            // An answer that comes yet is for nobody; no more need be asked for.
            self.groups[at].forget_forwarded_reads();
        }
        if !self.io.local_reads.wait_for(slot) {
            self.io.lanes[at].flags.lower(Flags::HAS_READS);
        }
    }
}
