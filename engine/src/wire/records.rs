//! The records of a frame of version 1, as they lie on the wire. Frozen: another layout is another version.
//!
//! Every record is a multiple of 8 bytes with the wide fields first, so that its layout in memory (on little-endian machines) and
//! on the wire are the same and an array is serialised with one copy.

use rkyv::{Archive, Serialize};

/// An append: 48 bytes.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireAppend {
    pub(super) term: u64,
    pub(super) prev_index: u64,
    pub(super) prev_term: u64,
    pub(super) commit: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// Bit 31: the entries were asked for with outcome 2 of [`WireAppendReply`], and the append is no append.
    pub(super) count: u32,
    /// `term - entry_term`, or [`TERM_ELSEWHERE`]: then the entries' term is the next of [`Body::entry_terms`].
    pub(super) entry_term_gap: u32,
}

/// See [`WireAppend::entry_term_gap`].
pub(super) const TERM_ELSEWHERE: u32 = u32::MAX;

/// An append reply: 32 bytes.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireAppendReply {
    pub(super) term: u64,
    /// What matched, or the `prev_index` that was rejected.
    pub(super) index: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// 0: matched. 1: rejected, the hint is the next of [`Body::hints`]. 2: no reply to an append, but a member that asks for
    /// entries which its disk has lost: from `index` to that of the next hint.
    pub(super) outcome: u64,
}

/// Where a follower that rejected an append guesses that its log agrees.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireHint {
    pub(super) index: u64,
    pub(super) term: u64,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireHeartbeat {
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) round: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireHeartbeatReply {
    pub(super) term: u64,
    pub(super) round: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireVoteRequest {
    pub(super) term: u64,
    pub(super) last_index: u64,
    pub(super) last_term: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// Bit 0: pre-vote. Bit 1: ordered by the leader.
    pub(super) flags: u64,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireVoteReply {
    pub(super) term: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// Bit 0: pre-vote. Bit 1: granted.
    pub(super) flags: u64,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireTimeoutNow {
    pub(super) term: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
}

/// The answer to a question for a term.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireTermReport {
    pub(super) term: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// So many of [`Body::report_voters`] are the next.
    pub(super) voters: u64,
}

/// A question for a term.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireTerm {
    pub(super) term: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
}

#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WirePulse {
    pub(super) seq: u64,
    pub(super) echo: u64,
    pub(super) durable_end: u64,
    /// Bit 0: healthy. Bit 1: full. Bit 2: drained.
    pub(super) flags: u64,
    /// The sender's support for the receiver's leaders: another epoch when a group has withdrawn it, and how many milliseconds
    /// the promise lasts from hearing the pulse that is echoed. 0: none is made.
    pub(super) support_epoch: u32,
    pub(super) promise_ms: u32,
}

/// A question for, or an answer with, an index that is confirmed.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireReadIndex {
    pub(super) term: u64,
    pub(super) id: u64,
    /// Answer: the index, or 0 from who does not lead. Question: 0.
    pub(super) index: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
}

/// An offer of a snapshot: 32 bytes. The file's header is the next piece of the area of offers.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireSnapshotOffer {
    pub(super) term: u64,
    pub(super) snapshot: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    pub(super) attempt: u32,
    /// Of the header.
    pub(super) bytes: u32,
}

/// A part of a chunk of a snapshot: 40 bytes. Its bytes are the next piece of the area of chunks.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireSnapshotPart {
    pub(super) term: u64,
    pub(super) snapshot: u64,
    pub(super) number: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    /// Where in the chunk.
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// How far a receiver is: 48 bytes.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
#[repr(C)]
#[rkyv(derive(Debug))]
pub(super) struct WireSnapshotAnswer {
    pub(super) term: u64,
    pub(super) snapshot: u64,
    pub(super) next: u64,
    pub(super) slot: u32,
    pub(super) history: u32,
    pub(super) offset: u32,
    pub(super) window: u32,
    pub(super) attempt: u32,
    pub(super) verdict: u32,
}

/// Everything of a frame but its payloads: parallel arrays, one per kind of message.
#[derive(Archive, Serialize, Debug, Default)]
#[rkyv(derive(Debug))]
pub(super) struct Body {
    /// At most one.
    pub(super) pulses: Vec<WirePulse>,
    pub(super) appends: Vec<WireAppend>,
    /// One word per entry, over all appends: its kind in the upper four bits, its length in the others.
    pub(super) entries: Vec<u32>,
    /// Terms of entries that [`WireAppend::entry_term_gap`] cannot express.
    pub(super) entry_terms: Vec<u64>,
    pub(super) append_replies: Vec<WireAppendReply>,
    /// One for each rejection and each question for entries.
    pub(super) hints: Vec<WireHint>,
    pub(super) heartbeats: Vec<WireHeartbeat>,
    pub(super) heartbeat_replies: Vec<WireHeartbeatReply>,
    pub(super) vote_requests: Vec<WireVoteRequest>,
    pub(super) vote_replies: Vec<WireVoteReply>,
    pub(super) timeouts: Vec<WireTimeoutNow>,
    pub(super) read_requests: Vec<WireReadIndex>,
    pub(super) read_replies: Vec<WireReadIndex>,
    pub(super) term_queries: Vec<WireTerm>,
    pub(super) term_reports: Vec<WireTermReport>,
    /// The voters that reports name.
    pub(super) report_voters: Vec<u32>,
    pub(super) snapshot_offers: Vec<WireSnapshotOffer>,
    pub(super) snapshot_parts: Vec<WireSnapshotPart>,
    pub(super) snapshot_answers: Vec<WireSnapshotAnswer>,
}

const _: () = assert!(size_of::<ArchivedWireAppend>() <= 48);
const _: () = assert!(size_of::<ArchivedWireAppendReply>() <= 32);
const _: () = assert!(size_of::<ArchivedWireHeartbeat>() <= 32);
const _: () = assert!(align_of::<ArchivedBody>() == 1, "frames are read in place at any address");
// One copy per array: memory and wire have the same layout.
const _: () = assert!(size_of::<ArchivedWireAppend>() == size_of::<WireAppend>());
const _: () = assert!(size_of::<ArchivedWireAppendReply>() == size_of::<WireAppendReply>());
const _: () = assert!(<WireAppend as Archive>::COPY_OPTIMIZATION.is_enabled() || cfg!(target_endian = "big"));
const _: () =
    assert!(<WireAppendReply as Archive>::COPY_OPTIMIZATION.is_enabled() || cfg!(target_endian = "big"));

impl Body {
    pub(super) fn is_empty(&self) -> bool {
        self.pulses.is_empty()
            && self.appends.is_empty()
            && self.append_replies.is_empty()
            && self.heartbeats.is_empty()
            && self.heartbeat_replies.is_empty()
            && self.vote_requests.is_empty()
            && self.vote_replies.is_empty()
            && self.timeouts.is_empty()
            && self.read_requests.is_empty()
            && self.read_replies.is_empty()
            && self.term_queries.is_empty()
            && self.term_reports.is_empty()
            && self.snapshot_offers.is_empty()
            && self.snapshot_parts.is_empty()
            && self.snapshot_answers.is_empty()
    }

    /// Forgets all, keeps the memory.
    pub(super) fn clear(&mut self) {
        self.pulses.clear();
        self.appends.clear();
        self.entries.clear();
        self.entry_terms.clear();
        self.append_replies.clear();
        self.hints.clear();
        self.heartbeats.clear();
        self.heartbeat_replies.clear();
        self.vote_requests.clear();
        self.vote_replies.clear();
        self.timeouts.clear();
        self.read_requests.clear();
        self.read_replies.clear();
        self.term_queries.clear();
        self.term_reports.clear();
        self.report_voters.clear();
        self.snapshot_offers.clear();
        self.snapshot_parts.clear();
        self.snapshot_answers.clear();
    }

    /// Bytes on the wire.
    pub(super) fn bytes(&self) -> usize {
        size_of::<ArchivedBody>()
            + size_of_val(&self.pulses[..])
            + size_of_val(&self.appends[..])
            + size_of_val(&self.entries[..])
            + size_of_val(&self.entry_terms[..])
            + size_of_val(&self.append_replies[..])
            + size_of_val(&self.hints[..])
            + size_of_val(&self.heartbeats[..])
            + size_of_val(&self.heartbeat_replies[..])
            + size_of_val(&self.vote_requests[..])
            + size_of_val(&self.vote_replies[..])
            + size_of_val(&self.timeouts[..])
            + size_of_val(&self.read_requests[..])
            + size_of_val(&self.read_replies[..])
            + size_of_val(&self.term_queries[..])
            + size_of_val(&self.term_reports[..])
            + size_of_val(&self.report_voters[..])
            + size_of_val(&self.snapshot_offers[..])
            + size_of_val(&self.snapshot_parts[..])
            + size_of_val(&self.snapshot_answers[..])
    }
}
