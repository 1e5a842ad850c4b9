//! Links to peer cores: what is to be sent, and whether the peer lives.

use std::time::Duration;

use logdrive_shard::{Moment, NodeId, Support};

use super::types::CoreId;
use crate::wire::{FRAME_BYTES_MAX, FrameBuilder, Pulse};

/// Pulses remembered until they are echoed. Of pulses in quick succession only the first is: [`FINENESS`].
const PULSES: usize = 64;
/// Into so many parts the time is divided after which a peer that does not echo is taken for dead.
const FINENESS: u32 = 16;
/// Offers and parts of snapshots that wait for one frame; one part more may come on top.
pub(super) const BULK_BYTES_MAX: usize = 256 << 10;
/// Room in a frame that is left to messages without payload: beyond it they are dropped, as a lossy network would.
const FRAME_RESERVE_BYTES: usize = 1 << 20;

/// A pulse that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    seq: u64,
    at: Moment,
    /// Bytes sent on the link up to this pulse.
    bytes: u64,
}

/// What a core tells of itself in a pulse.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    pub(super) healthy: bool,
    /// Its log takes no more proposals.
    pub(super) full: bool,
    /// It wants no leadership.
    pub(super) drained: bool,
    pub(super) durable_end: u64,
}

/// A set of this core's slots.
#[derive(Debug, Default)]
pub(super) struct SlotSet(Vec<u64>);

impl SlotSet {
    fn new(slots: usize) -> SlotSet {
        SlotSet(vec![0; slots.div_ceil(64)])
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    fn insert(&mut self, slot: u32) -> bool {
        let was_absent = !self.has(slot);
        self.0[slot as usize / 64] |= 1 << (slot % 64);
        was_absent
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A peer that was not heard for so long, or did not echo, is out of contact.
    pub(super) timeout: Duration,
    /// How long a promise to the peer's leaders lasts; zero if none is made.
    pub(super) promise: Duration,
    /// Bytes that wait to be sent before appends are held back.
    pub(super) outbox_bytes_max: u64,
    /// Bytes sent and not known to have arrived before appends are held back.
    pub(super) inflight_bytes_max: u64,
}

/// A connection to a core of another node, and the next one after it ended.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) core: CoreId,
    limits: Limits,
    /// The peer's boot: frames for an earlier one do not reach it.
    pub(super) boot: u64,
    pub(super) up: bool,
    /// Counts connections: what was parked for an earlier one is dropped.
    pub(super) generation: u32,
    pub(super) builder: FrameBuilder,
    /// Snapshots: a frame of its own, which leaves behind that of everything else.
    pub(super) bulk: FrameBuilder,
    /// Our slots of the groups that both ends host.
    pub(super) slots: Vec<u32>,
    pub(super) shared: SlotSet,
    /// By our slot: the peer's slot of the same group, if it is in `shared`.
    remotes: Vec<u32>,
    /// In contact: it hears us, we hear it, and it is well.
    pub(super) contact: bool,
    /// Highest end of a durable log that the peer has told.
    pub(super) peer_durable_end: u64,
    /// Slots that wait for the way to drain.
    waiting: Vec<u32>,
    is_waiting: SlotSet,

    pulse_seq: u64,
    pulses: [Sent; PULSES],
    /// Place of the latest in `pulses`.
    latest: usize,
    /// Highest pulse of the peer that came.
    came: u64,
    /// Highest pulse of the peer that is echoed. It follows `came` when the turn has read the clock: an echo is a promise that
    /// lasts for a time ([`Link::promise`]), and what a pause delayed must not have been heard before the pause.
    seen: u64,
    /// When the youngest pulse of the peer that is echoed was heard. Outlives connections, as the promise does.
    promised_at: Moment,
    /// The epoch of our support for the peer's leaders, and whether a pulse told it.
    support_epoch: u32,
    epoch_is_told: bool,
    /// The same of the peer's support for ours, and how long its promise lasts; zero if it makes none.
    peer_epoch: u32,
    peer_promise: Duration,
    /// The peer should be answered in this turn.
    pub(super) wants_answer: bool,
    heard_at: Moment,
    peer_healthy: bool,
    /// Its log is about to take no more entries.
    pub(super) peer_full: bool,
    /// It wants no leadership.
    pub(super) peer_drained: bool,
    /// When the latest of our pulses that the peer has echoed was sent.
    echoed_sent_at: Moment,

    sent_bytes: u64,
    arrived_bytes: u64,
    received_since_pulse: u64,
    /// Sent up to the last pulse.
    bytes_at_pulse: u64,
}

impl Link {
    pub(super) fn new(node: NodeId, core: CoreId, slots: usize, limits: Limits) -> Link {
        Link {
            node,
            core,
            limits,
            boot: 0,
            up: false,
            generation: 0,
            builder: FrameBuilder::new(),
            bulk: FrameBuilder::new(),
            slots: Vec::new(),
            shared: SlotSet::new(slots),
            remotes: vec![0; slots],
            contact: false,
            peer_durable_end: 0,
            waiting: Vec::new(),
            is_waiting: SlotSet::new(slots),
            pulse_seq: 0,
            pulses: [Sent::default(); PULSES],
            latest: 0,
            came: 0,
            seen: 0,
            promised_at: Moment(0),
            support_epoch: 1,
            epoch_is_told: false,
            peer_epoch: 0,
            peer_promise: Duration::ZERO,
            wants_answer: false,
            heard_at: Moment(0),
            peer_healthy: false,
            peer_full: false,
            peer_drained: false,
            echoed_sent_at: Moment(0),
            sent_bytes: 0,
            arrived_bytes: 0,
            received_since_pulse: 0,
            bytes_at_pulse: 0,
        }
    }

    /// A new connection: nothing of the last one counts.
    pub(super) fn begin(&mut self, boot: u64) {
        self.reset();
        self.boot = boot;
        self.up = true;
    }

    /// The connection ended.
    pub(super) fn end(&mut self) {
        self.reset();
    }

    fn reset(&mut self) {
        self.up = false;
        self.contact = false;
        self.generation = self.generation.wrapping_add(1);
        self.builder.clear();
        self.bulk.clear();
        self.slots.clear();
        self.shared.clear();
        self.waiting.clear();
        self.is_waiting.clear();
        self.pulse_seq = 0;
        self.pulses = [Sent::default(); PULSES];
        self.came = 0;
        self.seen = 0;
        self.support_epoch = 1;
        self.epoch_is_told = false;
        self.peer_epoch = 0;
        self.peer_promise = Duration::ZERO;
        self.wants_answer = false;
        self.peer_healthy = false;
        self.peer_full = false;
        self.peer_drained = false;
        self.heard_at = Moment(0);
        self.echoed_sent_at = Moment(0);
        self.sent_bytes = 0;
        self.arrived_bytes = 0;
        self.received_since_pulse = 0;
        self.bytes_at_pulse = 0;
    }

    /// Both ends host the group in `slot`, the peer in its slot `remote`.
    pub(super) fn share(&mut self, slot: u32, remote: u32) {
        if self.shared.insert(slot) {
            self.slots.push(slot);
        }
        self.remotes[slot as usize] = remote;
    }

    /// The peer's slot of the group in our `slot`, if both ends host it.
    pub(super) fn remote(&self, slot: u32) -> Option<u32> {
        self.shared.has(slot).then(|| self.remotes[slot as usize])
    }

    /// Whether a message without payload still has room.
    pub(super) fn has_room(&self) -> bool {
        self.up && self.builder.bytes() < FRAME_BYTES_MAX - FRAME_RESERVE_BYTES
    }

    /// Whether appends are held back: too much waits to be sent, or was sent and has not arrived.
    pub(super) fn is_full(&self) -> bool {
        self.builder.bytes() as u64 >= self.limits.outbox_bytes_max || self.is_window_full()
    }

    /// Whether there is anything to send.
    pub(super) fn has_frames(&self) -> bool {
        self.up && !(self.builder.is_empty() && self.bulk.is_empty())
    }

    /// Whether parts of snapshots may be sent: the last ones have left, and appends have half of the window to themselves.
    pub(super) fn takes_bulk(&self) -> bool {
        self.up
            && self.bulk.bytes() < BULK_BYTES_MAX
            && self.bytes() - self.arrived_bytes < self.limits.inflight_bytes_max / 2
    }

    /// Bytes sent, and those that wait to be.
    fn bytes(&self) -> u64 {
        let bulk = if self.bulk.is_empty() { 0 } else { self.bulk.bytes() };
        self.sent_bytes + (self.builder.bytes() + bulk) as u64
    }

    fn is_window_full(&self) -> bool {
        self.bytes() - self.arrived_bytes >= self.limits.inflight_bytes_max
    }

    /// `slot` has something for this peer and waits until there is room.
    pub(super) fn wait(&mut self, slot: u32) {
        if self.is_waiting.insert(slot) {
            self.waiting.push(slot);
        }
    }

    /// Whether slots wait and there is room again.
    pub(super) fn has_drained(&self) -> bool {
        !self.waiting.is_empty()
            && self.builder.bytes() as u64 <= self.limits.outbox_bytes_max / 2
            && !self.is_window_full()
    }

    /// The slots that wait, swapped into `slots` (empty).
    pub(super) fn take_waiting(&mut self, slots: &mut Vec<u32>) {
        std::mem::swap(&mut self.waiting, slots);
        self.is_waiting.clear();
    }

    // -- liveness -----------------------------------------------------------------------------------------------------

    /// Adds a pulse to the frame under construction.
    pub(super) fn pulse(&mut self, now: Moment, news: News) {
        let News { healthy, full, drained, durable_end } = news;
        self.pulse_seq += 1;
        self.received_since_pulse = 0;
        // What waits behind the frame of the pulse has not arrived with it.
        self.bytes_at_pulse = self.sent_bytes + self.builder.bytes() as u64;
        let (seq, echo) = (self.pulse_seq, self.seen);
        let support_epoch = self.support_epoch;
        let promise_ms = u32::try_from(self.limits.promise.as_millis()).unwrap_or(u32::MAX);
        self.epoch_is_told = true;
        self.builder.pulse(Pulse {
            seq,
            echo,
            healthy,
            full,
            drained,
            support_epoch,
            promise_ms,
            durable_end,
        });
        let latest = self.pulses[self.latest];
        let is_later = now.since(latest.at) >= self.limits.timeout / FINENESS;
        let has_more = self.bytes_at_pulse >= latest.bytes + self.pulse_bytes();
        if latest.seq == 0 || is_later || has_more {
            self.latest = (self.latest + 1) % PULSES;
            self.pulses[self.latest] = Sent { seq: self.pulse_seq, at: now, bytes: self.bytes_at_pulse };
        }
    }

    /// Takes the peer's pulse. Whether it is its first and wants an answer at once.
    pub(super) fn on_pulse(&mut self, now: Moment, pulse: Pulse) -> bool {
        let first = self.came == 0;
        self.came = self.came.max(pulse.seq);
        self.peer_epoch = pulse.support_epoch;
        self.peer_promise = Duration::from_millis(u64::from(pulse.promise_ms));
        self.heard_at = now;
        self.peer_healthy = pulse.healthy;
        self.peer_full = pulse.full;
        self.peer_drained = pulse.drained;
        self.peer_durable_end = self.peer_durable_end.max(pulse.durable_end);
        // The latest remembered that the peer has seen: not later than the one it echoes.
        let seen = self.pulses.iter().filter(|sent| sent.seq != 0 && sent.seq <= pulse.echo);
        if let Some(sent) = seen.max_by_key(|sent| sent.seq) {
            self.echoed_sent_at = self.echoed_sent_at.max(sent.at);
            self.arrived_bytes = self.arrived_bytes.max(sent.bytes);
        }
        first
    }

    /// The turn has read the clock: from now on the pulses that came are echoed, and each echo is a promise from now on.
    pub(super) fn promise(&mut self, now: Moment) {
        if self.came > self.seen {
            self.seen = self.came;
            self.promised_at = self.promised_at.max(now);
        }
    }

    /// Until when what was promised to the peer lasts.
    pub(super) fn promised(&self) -> Moment {
        match self.promised_at {
            Moment(0) => Moment(0),
            at => at.after(self.limits.promise),
        }
    }

    /// A group left its leader there: later pulses carry a later epoch.
    pub(super) fn withdraw_support(&mut self) {
        if std::mem::take(&mut self.epoch_is_told) {
            self.support_epoch = self.support_epoch.wrapping_add(1);
        }
    }

    /// The youngest pulse of ours that the peer has answered on this connection, and what it promises.
    pub(super) fn support(&self) -> Option<Support> {
        let promises = self.up && !self.peer_promise.is_zero() && self.echoed_sent_at != Moment(0);
        // Every connection has another generation, none the first one.
        let epoch = u64::from(self.generation) << 32 | u64::from(self.peer_epoch);
        let (sent_at, promised) = (self.echoed_sent_at, self.peer_promise);
        promises.then_some(Support { epoch, sent_at, promised })
    }

    /// Whether the peer hears us, we hear it, and it is well, each lately.
    pub(super) fn judge(&self, now: Moment) -> bool {
        let recent = |at: Moment| at != Moment(0) && now.since(at) < self.limits.timeout;
        self.up && self.peer_healthy && recent(self.heard_at) && recent(self.echoed_sent_at)
    }

    /// When the peer was heard last; `None` if it was not since the connection began.
    pub(super) fn heard_at(&self) -> Option<Moment> {
        (self.heard_at != Moment(0)).then_some(self.heard_at)
    }

    /// A frame of `bytes` arrived. Whether so much has arrived since our last pulse that the peer should be told.
    pub(super) fn on_frame(&mut self, bytes: usize) -> bool {
        self.received_since_pulse += bytes as u64;
        self.received_since_pulse >= self.pulse_bytes()
    }

    /// Whether so much was sent since the last pulse that the peer should be asked what has arrived.
    pub(super) fn wants_pulse(&self) -> bool {
        let bytes = self.sent_bytes + self.builder.bytes() as u64;
        bytes.saturating_sub(self.bytes_at_pulse) >= self.pulse_bytes()
    }

    /// One pulse per so many bytes, either way.
    fn pulse_bytes(&self) -> u64 {
        self.limits.inflight_bytes_max.div_ceil(8)
    }

    /// Ends the frame under construction and appends it to `out`; if there is none, that of snapshots.
    pub(super) fn finish(&mut self, version: u16, out: &mut Vec<u8>) {
        let builder = if self.builder.is_empty() { &mut self.bulk } else { &mut self.builder };
        self.sent_bytes += builder.bytes() as u64;
        builder.finish(self.boot, version, out);
    }
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
