//! What the log asks of groups: to give up old entries, for those hold segments that could be free otherwise.
//!
//! A group that is asked takes a snapshot, if it has anything new, and cuts its log without keeping entries for slow followers.
//!
//! To ask is all the log does at first. A group that has not compacted its stream after a while
//! ([`reclaim_patience_ms`](logdrive_wal::Options::reclaim_patience_ms)) has its entries written again at the head of the log, so
//! nothing depends on an answer; and a stream that is too large for that is asked for again.

use logdrive_wal::{Disk, StreamSlot};

use super::Core;
use super::lives::life_of;
use crate::api::StateMachine;

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Takes what the log asks for, once per turn.
    pub(super) fn take_pressure(&mut self) {
        while let Some((stream, bytes)) = self.io.wal.poll_pressure() {
            let (group, _) = life_of(self.io.wal.stream_id(stream));
            match super::find(&self.sorted, group) {
                Some(slot) if self.io.lanes[slot as usize].stream == stream => self.ease(slot, bytes),
                _ => self.give_up_stream(stream),
            }
        }
        self.ease_when_half_full();
    }

    /// A group holds old segments with about so many bytes of entries. If it is not done with them in time, the log moves them itself.
    fn ease(&mut self, slot: u32, bytes: u64) {
        self.io.counters.log_pressure += 1;
        tracing::debug!(group = %self.ids[slot as usize], bytes, "the log asks for old entries to be given up");
        self.ease_log(slot);
    }

    /// A stream of a group's former life, or of a group that does not live here: nobody will read it.
    fn give_up_stream(&mut self, stream: StreamSlot) {
        let Some((_, last)) = self.io.wal.entries(stream) else { return };
        let stream_id = self.io.wal.stream_id(stream);
        let (group, life) = life_of(stream_id);
        if super::find(&self.sorted, group).is_none_or(|slot| life >= self.lives[slot as usize]) {
            // Placed elsewhere by somebody: not this core's to throw away.
            return;
        }
        if let Err(error) = self.io.wal.compact(stream, last) {
            tracing::debug!(%group, ?life, %error, "what a former life of a group left cannot be given up yet");
        }
    }
}
