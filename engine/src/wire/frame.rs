//! The frame: what one core has to say to another after a turn, for all groups they share.
//!
//! ```text
//! offset  bytes  header, little-endian
//!      0      4  magic "LDF\x1a"
//!      4      4  CRC32C of everything from offset 8 to the end of the frame
//!      8      2  version
//!     10      2  zero
//!     12      4  length of the whole frame
//!     16      8  boot of the receiver: a frame meant for an earlier life of it is not delivered
//!     24      4  offset of the archive
//!     28      4  zero
//!     32         payload area: the payloads of all entries of all appends, one behind the other; then the headers of all offers of
//!                snapshots; then the bytes of all parts of chunks
//!      a         archive (rkyv, unaligned, little-endian, 32-bit pointers), its root at the end of the frame
//! ```
//!
//! Payloads come before the archive so that each is copied once, straight into the frame under construction. The archive
//! is validated before anything in it is looked at; the length is exact, because an archive's root is found from its end.

use logdrive_shard::{
    Append, AppendOutcome, AppendReply, Heartbeat, HeartbeatReply, LogIndex, ReadIndexReply,
    ReadIndexRequest, Term, TermQuery, TermReport, TimeoutNow, VoteReply, VoteRequest,
};
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;

use super::records::{
    Body, TERM_ELSEWHERE, WireAppend, WireAppendReply, WireHeartbeat, WireHeartbeatReply, WireHint,
    WirePulse, WireReadIndex, WireSnapshotAnswer, WireSnapshotOffer, WireSnapshotPart, WireTerm,
    WireTermReport, WireTimeoutNow, WireVoteReply, WireVoteRequest,
};
use super::snapshots::{
    OFFER_BYTES_MAX, PART_BYTES_MAX, SnapshotAnswer, SnapshotOffer, SnapshotPart, SnapshotRelay,
};
use super::{VERSION_MAX, VERSION_MIN};

/// Bytes of the header.
pub const HEADER_LEN: usize = 32;
/// A longer frame is refused before anything of it is read. A sender closes a frame well before that:
/// see [`FrameBuilder::bytes`].
pub const FRAME_BYTES_MAX: usize = 16 << 20;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"LDF\x1a");
pub(super) const OUTCOME_MATCHED: u64 = 0;
pub(super) const OUTCOME_REJECTED: u64 = 1;
pub(super) const OUTCOME_FETCH: u64 = 2;
/// See [`WireAppend::count`].
pub(super) const COUNT_FETCHED: u32 = 1 << 31;
pub(super) const KIND_SHIFT: u32 = 28;
pub(super) const LENGTH_MASK: u32 = (1 << KIND_SHIFT) - 1;
/// Terms, indexes and rounds from the wire are below this, so that sums of them cannot overflow.
pub(super) const NUMBER_LIMIT: u64 = 1 << 62;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A proposal.
    Payload = 0,
    /// The no-op at the start of a term.
    Empty = 1,
    /// A configuration.
    Config = 2,
    /// A command or an event of a client session.
    Session = 3,
}

impl EntryKind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Payload),
            1 => Some(EntryKind::Empty),
            2 => Some(EntryKind::Config),
            3 => Some(EntryKind::Session),
            _ => None,
        }
    }
}

/// The liveness exchange of two cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Counts the sender's pulses on this link.
    pub seq: u64,
    /// Highest `seq` of the receiver's pulses that the sender has seen: "I hear you".
    pub echo: u64,
    /// The sender's loop turns and its disk writes.
    pub healthy: bool,
    /// The sender's log is about to take no more entries: a leader that needs its copy lets no proposals in.
    pub full: bool,
    /// The sender gives leadership away and wants none: nobody hands any over to it.
    pub drained: bool,
    /// The epoch of the sender's support for the receiver's leaders: another one when a group of the sender has withdrawn it.
    pub support_epoch: u32,
    /// How many milliseconds after hearing the pulse that it echoes the sender stands by its support. 0: it gives none.
    pub promise_ms: u32,
    /// The end of what is durable in the sender's log; see the peers memory of [`crate::node`].
    pub durable_end: u64,
}

/// Which group of the receiver a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The receiver's slot of the group.
    pub slot: u32,
    /// The group's history id, which a group created anew under the same id does not share.
    pub history: u32,
}

/// Collects the messages of a turn for one link. Its buffers are reused: building allocates nothing once they have grown.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// Room for the header, then the payload area; the archive is appended by `finish`. Empty if there are no payloads yet.
    frame: Vec<u8>,
    /// Headers of snapshots, and parts of them: they follow the payloads.
    offers: Vec<u8>,
    parts: Vec<u8>,
    body: Body,
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new() -> FrameBuilder {
        FrameBuilder::default()
    }

    /// Adds an append with its entries: exactly `m.count`, each shorter than 256 MiB.
    pub fn append<'p>(
        &mut self,
        to: Address,
        m: &Append,
        entries: impl Iterator<Item = (EntryKind, &'p [u8])>,
    ) {
        self.start();
        let before = self.body.entries.len();
        for (kind, payload) in entries {
            assert!(payload.len() <= LENGTH_MASK as usize, "a payload of {} bytes", payload.len());
            self.body.entries.push((kind as u32) << KIND_SHIFT | payload.len() as u32);
            self.frame.extend_from_slice(payload);
        }
        let added = self.body.entries.len() - before;
        assert!(added == m.count as usize, "an append of {} entries was given {added}", m.count);
        self.close_append(to, m, 0);
    }

    /// Adds entries that a member asked for because its disk has lost them: one behind the other from `first` on, all of one
    /// term, each shorter than 256 MiB.
    pub fn fetched<'p>(
        &mut self,
        to: Address,
        first: LogIndex,
        term: Term,
        entries: impl Iterator<Item = (EntryKind, &'p [u8])>,
    ) {
        self.start();
        let mut count = 0;
        for (kind, payload) in entries {
            assert!(payload.len() <= LENGTH_MASK as usize, "a payload of {} bytes", payload.len());
            self.body.entries.push((kind as u32) << KIND_SHIFT | payload.len() as u32);
            self.frame.extend_from_slice(payload);
            count += 1;
        }
        let prev_index = LogIndex(first.0.saturating_sub(1));
        let (prev_term, commit) = (Term(0), LogIndex(0));
        let message = Append { term, prev_index, prev_term, entry_term: term, count, commit };
        self.close_append(to, &message, COUNT_FETCHED);
    }

    /// Asks for entries that this member's disk has lost.
    pub fn fetch(&mut self, to: Address, first: LogIndex, last: LogIndex) {
        self.body.hints.push(WireHint { index: last.0, term: 0 });
        let Address { slot, history } = to;
        let question = WireAppendReply { term: 0, index: first.0, slot, history, outcome: OUTCOME_FETCH };
        self.body.append_replies.push(question);
    }

    fn close_append(&mut self, to: Address, m: &Append, flag: u32) {
        let entry_term_gap = match m.term.0.checked_sub(m.entry_term.0) {
            Some(gap) if gap < u64::from(TERM_ELSEWHERE) => gap as u32,
            _ => {
                self.body.entry_terms.push(m.entry_term.0);
                TERM_ELSEWHERE
            }
        };
        self.body.appends.push(WireAppend {
            term: m.term.0,
            prev_index: m.prev_index.0,
            prev_term: m.prev_term.0,
            commit: m.commit.0,
            slot: to.slot,
            history: to.history,
            count: m.count | flag,
            entry_term_gap,
        });
    }

    /// Adds an append reply.
    pub fn append_reply(&mut self, to: Address, m: &AppendReply) {
        let (outcome, index) = match m.outcome {
            AppendOutcome::Matched(index) => (OUTCOME_MATCHED, index),
            AppendOutcome::Rejected { prev_index, hint_index, hint_term } => {
                self.body.hints.push(WireHint { index: hint_index.0, term: hint_term.0 });
                (OUTCOME_REJECTED, prev_index)
            }
        };
        let Address { slot, history } = to;
        let reply = WireAppendReply { term: m.term.0, index: index.0, slot, history, outcome };
        self.body.append_replies.push(reply);
    }

    /// Adds a heartbeat.
    pub fn heartbeat(&mut self, to: Address, m: &Heartbeat) {
        let Address { slot, history } = to;
        let heartbeat = WireHeartbeat { term: m.term.0, commit: m.commit.0, round: m.round, slot, history };
        self.body.heartbeats.push(heartbeat);
    }

    /// Adds a heartbeat reply.
    pub fn heartbeat_reply(&mut self, to: Address, m: &HeartbeatReply) {
        let Address { slot, history } = to;
        self.body.heartbeat_replies.push(WireHeartbeatReply {
            term: m.term.0,
            round: m.round,
            slot,
            history,
        });
    }

    /// Adds a vote request.
    pub fn vote_request(&mut self, to: Address, m: &VoteRequest) {
        self.body.vote_requests.push(WireVoteRequest {
            term: m.term.0,
            last_index: m.last_index.0,
            last_term: m.last_term.0,
            slot: to.slot,
            history: to.history,
            flags: flags(m.pre_vote, m.transfer),
        });
    }

    /// Adds a vote reply.
    pub fn vote_reply(&mut self, to: Address, m: &VoteReply) {
        self.body.vote_replies.push(WireVoteReply {
            term: m.term.0,
            slot: to.slot,
            history: to.history,
            flags: flags(m.pre_vote, m.granted),
        });
    }

    /// Adds the order to campaign.
    pub fn timeout_now(&mut self, to: Address, m: &TimeoutNow) {
        self.body.timeouts.push(WireTimeoutNow { term: m.term.0, slot: to.slot, history: to.history });
    }

    /// Adds a follower's question for a confirmed index.
    pub fn read_index_request(&mut self, to: Address, m: &ReadIndexRequest) {
        let Address { slot, history } = to;
        self.body.read_requests.push(WireReadIndex { term: m.term.0, id: m.id, index: 0, slot, history });
    }

    /// Adds the answer to a follower's question.
    pub fn read_index_reply(&mut self, to: Address, m: &ReadIndexReply) {
        let Address { slot, history } = to;
        let index = m.index.map_or(0, |index| index.0);
        self.body.read_replies.push(WireReadIndex { term: m.term.0, id: m.id, index, slot, history });
    }

    /// Adds a question for a term.
    pub fn term_query(&mut self, to: Address, m: &TermQuery) {
        self.body.term_queries.push(WireTerm { term: m.term.0, slot: to.slot, history: to.history });
    }

    /// Adds the answer to one.
    pub fn term_report(&mut self, to: Address, m: &TermReport) {
        let Address { slot, history } = to;
        self.body.report_voters.extend(m.voters.iter().map(|voter| voter.0));
        let voters = m.voters.len() as u64;
        self.body.term_reports.push(WireTermReport { term: m.term.0, slot, history, voters });
    }

    /// Adds an offer of a snapshot with the header of its file: [`crate::snapshot::HEADER_BYTES`] at most.
    pub fn snapshot_offer(&mut self, to: Address, m: &SnapshotOffer, header: &[u8]) {
        let bytes = header.len() as u32;
        assert!(bytes <= OFFER_BYTES_MAX, "a header of {bytes} bytes");
        self.offers.extend_from_slice(header);
        let Address { slot, history } = to;
        let (term, snapshot, attempt) = (m.term.0, m.snapshot.0, m.attempt);
        let offer = WireSnapshotOffer { term, snapshot, slot, history, attempt, bytes };
        self.body.snapshot_offers.push(offer);
    }

    /// Adds a part of a chunk: [`PART_BYTES_MAX`] bytes at most.
    pub fn snapshot_part(&mut self, to: Address, m: &SnapshotPart, part: &[u8]) {
        let bytes = part.len() as u32;
        assert!(bytes <= PART_BYTES_MAX, "a part of {bytes} bytes");
        self.parts.extend_from_slice(part);
        let Address { slot, history } = to;
        let SnapshotPart { term, snapshot, number, offset } = *m;
        let (term, snapshot) = (term.0, snapshot.0);
        let part = WireSnapshotPart { term, snapshot, number, slot, history, offset, bytes };
        self.body.snapshot_parts.push(part);
    }

    /// Adds what a receiver says.
    pub fn snapshot_answer(&mut self, to: Address, m: &SnapshotAnswer) {
        let Address { slot, history } = to;
        let SnapshotAnswer { term, snapshot, attempt, verdict, next, offset, window } = *m;
        let (term, snapshot, verdict) = (term.0, snapshot.0, verdict as u32);
        let answer =
            WireSnapshotAnswer { term, snapshot, next, slot, history, offset, window, attempt, verdict };
        self.body.snapshot_answers.push(answer);
    }

    /// Adds what a leader and a follower say about a snapshot that the follower sends.
    pub fn snapshot_relay(&mut self, to: Address, m: &SnapshotRelay) {
        let Address { slot, history } = to;
        let SnapshotRelay { term, to, at_least, word } = *m;
        self.body.snapshot_answers.push(WireSnapshotAnswer {
            term: term.0,
            snapshot: 0,
            next: at_least.0,
            slot,
            history,
            offset: 0,
            window: to.0,
            attempt: 0,
            verdict: word as u32,
        });
    }

    /// Sets the frame's pulse; the last one counts.
    pub fn pulse(&mut self, pulse: Pulse) {
        let Pulse { seq, echo, healthy, full, drained, support_epoch, promise_ms, durable_end } = pulse;
        let flags = flags(healthy, full) | u64::from(drained) << 2;
        self.body.pulses.clear();
        self.body.pulses.push(WirePulse { seq, echo, durable_end, flags, support_epoch, promise_ms });
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Bytes that the frame would have now. Finish it before this plus the next message could pass [`FRAME_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.frame.len().max(HEADER_LEN) + self.offers.len() + self.parts.len() + self.body.bytes()
    }

    /// Appends the whole frame to `out` (by a swap of buffers if `out` is empty) and leaves the builder empty.
    pub fn finish(&mut self, receiver_boot: u64, version: u16, out: &mut Vec<u8>) {
        assert!((VERSION_MIN..=VERSION_MAX).contains(&version), "frame version {version} was not negotiated");
        self.start();
        self.frame.extend_from_slice(&self.offers);
        self.frame.extend_from_slice(&self.parts);
        let archive_offset = self.frame.len();
        let frame = std::mem::take(&mut self.frame);
        let written =
            rkyv::api::low::to_bytes_in_with_alloc::<_, _, Failure>(&self.body, frame, SubAllocator::empty());
        self.frame = written.expect("records have no parts of their own, so no scratch space is asked for");
        assert!(self.frame.len() <= FRAME_BYTES_MAX, "a frame of {} bytes was built", self.frame.len());
        self.write_header(receiver_boot, version, archive_offset as u32);
        if out.is_empty() {
            std::mem::swap(out, &mut self.frame);
        } else {
            out.extend_from_slice(&self.frame);
        }
        self.clear();
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.frame.clear();
        self.offers.clear();
        self.parts.clear();
        self.body.clear();
    }

    /// Makes room for the header.
    fn start(&mut self) {
        if self.frame.is_empty() {
            self.frame.resize(HEADER_LEN, 0);
        }
    }

    fn write_header(&mut self, receiver_boot: u64, version: u16, archive_offset: u32) {
        let length = self.frame.len() as u32;
        let header = &mut self.frame[..HEADER_LEN];
        header.fill(0);
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..10].copy_from_slice(&version.to_le_bytes());
        header[12..16].copy_from_slice(&length.to_le_bytes());
        header[16..24].copy_from_slice(&receiver_boot.to_le_bytes());
        header[24..28].copy_from_slice(&archive_offset.to_le_bytes());
        let crc = crc32c::crc32c(&self.frame[8..]);
        self.frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn flags(bit0: bool, bit1: bool) -> u64 {
    u64::from(bit0) | u64::from(bit1) << 1
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
