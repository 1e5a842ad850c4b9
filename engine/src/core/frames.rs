//! Messages of peers, read in place.

use logdrive_shard::{Append, LogIndex};
use logdrive_wal::{Disk, Health};

use super::lane::Flags;
use super::prefetch::AHEAD;
use super::record::STATE_BYTES;
use super::step::RECORD_BYTES;
use super::{Core, LinkId};
use crate::api::StateMachine;
use crate::wire::{Address, Entries, EntryKind, FrameError, FrameView, VERSION_MAX};

/// A leader's append is not taken while this many times the bound on the log's backlog waits: the runtime should have stopped
/// reading before.
pub(super) const BACKLOG_FACTOR: u64 = 4;

/// The hard state that an append of a new term writes before its entries.
const STATE_RECORD_BYTES: u64 = STATE_BYTES as u64 + RECORD_BYTES;

impl<D: Disk, M: StateMachine> Core<D, M> {
    pub(super) fn on_frame(&mut self, link: LinkId, bytes: &[u8]) -> Result<(), FrameError> {
        let at = link.0 as usize;
        let frame = FrameView::parse(bytes, VERSION_MAX)?;
        self.io.counters.frames_in += 1;
        if !self.io.links.get(at).is_some_and(|link| link.up) || frame.receiver_boot() != self.boot {
            self.io.counters.ignored += 1;
            return Ok(());
        }
        let mut pulse_back = self.io.links[at].on_frame(bytes.len());
        if let Some(pulse) = frame.pulse() {
            pulse_back |= self.io.links[at].on_pulse(self.io.now, pulse);
        }
        self.io.links[at].wants_answer |= pulse_back;
        if frame.pulse().is_some() {
            self.see_peers_room();
            self.judge_link(at);
        }
        self.on_replies(at, &frame);
        self.on_requests(at, &frame);
        Ok(())
    }

    /// Our slot, if the message is for a group that both ends have in common.
    fn addressed(&mut self, link: usize, to: Address) -> Option<u32> {
        let ours =
            self.io.links[link].shared.has(to.slot) && self.io.lanes[to.slot as usize].history == to.history;
        if !ours {
            self.io.counters.ignored += 1;
        }
        ours.then_some(to.slot)
    }

    /// Answers to what this node sent.
    fn on_replies(&mut self, link: usize, frame: &FrameView<'_>) {
        let from = self.io.links[link].node;
        for (n, (to, message)) in frame.append_replies().enumerate() {
            if let Some(next) = frame.append_reply_slot(n + AHEAD) {
                self.prefetch_slot(next);
            }
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_append_reply(env, from, &message));
            self.end_step(slot);
            self.release_cache(slot);
        }
        for (to, message) in frame.heartbeat_replies() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_heartbeat_reply(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.vote_replies() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_vote_reply(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.read_index_replies() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_read_index_reply(env, from, &message));
            self.end_step(slot);
        }
        for (to, answer) in frame.snapshot_answers() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_snapshot_answer(link, slot, &answer);
        }
        for (to, relay) in frame.snapshot_relays() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_snapshot_relay(link, slot, &relay);
        }
    }

    /// What others ask of this node.
    fn on_requests(&mut self, link: usize, frame: &FrameView<'_>) {
        let from = self.io.links[link].node;
        for (to, message) in frame.vote_requests() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_vote_request(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.read_index_requests() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_read_index_request(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.heartbeats() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_heartbeat(env, from, &message));
            self.end_step(slot);
        }
        for (n, (to, message, entries)) in frame.appends().enumerate() {
            if let Some(next) = frame.append_slot(n + 2 * AHEAD) {
                self.prefetch_slot(next);
                self.prefetch_log(next);
            }
            if let Some(next) = frame.append_slot(n + AHEAD) {
                self.prefetch_log_end(next);
            }
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_append(link, slot, &message, entries);
        }
        for (to, first, last) in frame.fetches() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_fetch(link, slot, first, last);
        }
        for (to, message, entries) in frame.fetched() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_fetched(slot, &message, entries);
        }
        for (to, message) in frame.timeout_nows() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_timeout_now(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.term_queries() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_term_query(env, from, &message));
            self.end_step(slot);
        }
        for (to, message) in frame.term_reports() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.step(slot, |group, env| group.on_term_report(env, from, &message));
            self.end_step(slot);
        }
        for (to, offer, header) in frame.snapshot_offers() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_snapshot_offer(link, slot, &offer, header);
        }
        for (to, part, bytes) in frame.snapshot_parts() {
            let Some(slot) = self.addressed(link, to) else { continue };
            self.on_snapshot_part(link, slot, &part, bytes);
        }
    }

    /// Whether the log would take the entries of an append. If not, the append is as good as lost on the way: nothing of it is
    /// acknowledged, and the leader repeats it. A leader's no-op is let in even without space, so that reads go on; but nothing
    /// is that the reserve has no room for either, together with the hard state of its term.
    fn has_space(&mut self, slot: u32, entries: &Entries<'_>) -> bool {
        let wal = &self.io.wal;
        let bytes = entries.payload_bytes() as u64 + entries.len() as u64 * RECORD_BYTES;
        let payload_bytes_max = self.io.settings.wal.payload_bytes_max as usize;
        let fits = entries.payload_bytes() <= payload_bytes_max
            || entries.clone().all(|(_, payload)| payload.len() <= payload_bytes_max);
        let vital = || entries.clone().all(|(kind, _)| kind == EntryKind::Empty);
        let backlog_bytes_max = self.io.settings.log_backlog_bytes_max.saturating_mul(BACKLOG_FACTOR);
        let taken = !self.io.lanes[slot as usize].flags.has(Flags::UNWRITTEN)
            && !matches!(wal.health(), Health::Poisoned(_))
            && fits
            && (wal.admit(bytes).is_ok() || vital())
            && wal.has_vital_room(bytes + STATE_RECORD_BYTES)
            && wal.backlog_bytes() <= backlog_bytes_max;
        if !taken {
            self.io.counters.appends_refused += 1;
        }
        taken
    }

    fn on_append(&mut self, link: usize, slot: u32, message: &Append, entries: Entries<'_>) {
        if message.count > 0 && !self.has_space(slot, &entries) {
            return;
        }
        let first = message.prev_index.next();
        let configs = || entries.clone().enumerate().filter(|(_, (kind, _))| *kind == EntryKind::Config);
        let is_read = match entries.has(EntryKind::Config) {
            true => self.read_memberships(first, configs().map(|(n, (_, bytes))| (n, bytes))),
            false => true,
        };
        if !is_read {
            self.io.counters.ignored += 1;
            return;
        }
        let from = self.io.links[link].node;
        let memberships = std::mem::take(&mut self.scratch.memberships);
        let accepted = self.step(slot, |group, env| group.on_append(env, from, message, &memberships));
        self.scratch.memberships = memberships;
        self.scratch.memberships.clear();
        if accepted.take > 0 {
            let first = LogIndex(message.prev_index.0 + 1 + u64::from(accepted.skip));
            let commit = self.groups[slot as usize].commit();
            self.io.truncate(slot, first);
            let taken = entries.skip(accepted.skip as usize).take(accepted.take as usize);
            for (n, (kind, payload)) in taken.enumerate() {
                let (index, term) = (first.plus(n as u64), message.entry_term);
                self.io.write_entry(slot, index, term, accepted.epoch, commit, (kind, payload));
            }
        }
        self.end_step(slot);
    }
}
