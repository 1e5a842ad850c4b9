//! A frame as it is received: validated once, then read in place.

use logdrive_shard::{
    Append, AppendOutcome, AppendReply, Heartbeat, HeartbeatReply, LogIndex, NodeId, ReadIndexReply,
    ReadIndexRequest, Term, TermQuery, TermReport, TimeoutNow, VoteReply, VoteRequest,
};
use rkyv::primitive::{ArchivedU32, ArchivedU64};
use rkyv::rancor::Failure;

use super::frame::{
    Address, COUNT_FETCHED, EntryKind, FRAME_BYTES_MAX, HEADER_LEN, KIND_SHIFT, LENGTH_MASK, MAGIC,
    NUMBER_LIMIT, OUTCOME_FETCH, OUTCOME_MATCHED, OUTCOME_REJECTED, Pulse,
};
use super::records::{
    ArchivedBody, ArchivedWireAppend, ArchivedWireAppendReply, ArchivedWireHint, TERM_ELSEWHERE,
};
use super::snapshots::{
    OFFER_BYTES_MAX, OFFSET_MAX, PART_BYTES_MAX, RelayWord, SnapshotAnswer, SnapshotOffer, SnapshotPart,
    SnapshotRelay, SnapshotVerdict,
};
use super::{FrameError, VERSION_MAX, VERSION_MIN};
use crate::snapshot::SnapshotId;

/// A field of the header.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[offset..offset + N]);
    value
}

/// The length of the whole frame, from its first [`HEADER_LEN`] bytes.
pub fn frame_len(header: &[u8], version: u16) -> Result<usize, FrameError> {
    if header.len() < HEADER_LEN {
        return Err(FrameError::Malformed { what: "the header is cut short" });
    }
    let found = u32::from_le_bytes(field(header, 0));
    if found != MAGIC {
        return Err(FrameError::Magic { found });
    }
    let found = u16::from_le_bytes(field(header, 8));
    if found != version || !(VERSION_MIN..=VERSION_MAX).contains(&found) {
        return Err(FrameError::Version { found, expected: version });
    }
    let len = u32::from_le_bytes(field(header, 12)) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { len: len as u64, limit: FRAME_BYTES_MAX as u64 });
    }
    if len < HEADER_LEN + size_of::<ArchivedBody>() {
        return Err(FrameError::Malformed { what: "shorter than an empty frame" });
    }
    Ok(len)
}

/// A frame as it was received: validated, read in place.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    receiver_boot: u64,
    payloads: &'a [u8],
    /// Headers of offers.
    offers: &'a [u8],
    /// Parts of chunks.
    parts: &'a [u8],
    body: &'a ArchivedBody,
}

impl<'a> FrameView<'a> {
    /// Validates a whole frame: magic, version, exact length, CRC, the archive, and that its arrays fit each other and
    /// the payload area. Whatever passes can be read without a further check.
    pub fn parse(bytes: &'a [u8], version: u16) -> Result<FrameView<'a>, FrameError> {
        if frame_len(bytes, version)? != bytes.len() {
            return Err(FrameError::Malformed { what: "not the announced length" });
        }
        let expected = u32::from_le_bytes(field(bytes, 4));
        let found = crc32c::crc32c(&bytes[8..]);
        if found != expected {
            return Err(FrameError::Crc { found, expected });
        }
        if field(bytes, 10) != [0; 2] || field(bytes, 28) != [0; 4] {
            return Err(FrameError::Malformed { what: "reserved bytes are not zero" });
        }
        let archive_offset = u32::from_le_bytes(field(bytes, 24)) as usize;
        if archive_offset < HEADER_LEN || archive_offset > bytes.len() - size_of::<ArchivedBody>() {
            return Err(FrameError::Malformed { what: "the archive lies outside the frame" });
        }
        let (head, archive) = bytes.split_at(archive_offset);
        let body = rkyv::api::low::access::<ArchivedBody, Failure>(archive)
            .map_err(|_| FrameError::Malformed { what: "the archive does not validate" })?;
        let payloads = &head[HEADER_LEN..];
        let malformed = |what| FrameError::Malformed { what };
        let (offer_bytes, part_bytes) = check_snapshots(body).map_err(malformed)?;
        let entry_bytes = (payloads.len() as u64).checked_sub(offer_bytes + part_bytes);
        let entry_bytes = entry_bytes.ok_or(malformed("snapshots and payload area do not fit each other"))?;
        check(body, entry_bytes).map_err(malformed)?;
        // All are parts of a frame, so they fit an address.
        let (payloads, rest) = payloads.split_at(entry_bytes as usize);
        let (offers, parts) = rest.split_at(offer_bytes as usize);
        let receiver_boot = u64::from_le_bytes(field(bytes, 16));
        Ok(FrameView { receiver_boot, payloads, offers, parts, body })
    }

    /// The boot of the receiver that the sender spoke to.
    pub fn receiver_boot(&self) -> u64 {
        self.receiver_boot
    }

    /// The pulse, if there is one.
    pub fn pulse(&self) -> Option<Pulse> {
        self.body.pulses.first().map(|pulse| Pulse {
            seq: pulse.seq.to_native(),
            echo: pulse.echo.to_native(),
            healthy: pulse.flags.to_native() & 1 != 0,
            full: pulse.flags.to_native() & 2 != 0,
            drained: pulse.flags.to_native() & 4 != 0,
            support_epoch: pulse.support_epoch.to_native(),
            promise_ms: pulse.promise_ms.to_native(),
            durable_end: pulse.durable_end.to_native(),
        })
    }

    /// The appends with their entries, in the order in which they were added.
    pub fn appends(&self) -> Appends<'a> {
        self.appends_of(false)
    }

    /// Entries that this node asked for because its disk has lost them. Index and term of the first are `prev_index + 1` and
    /// `entry_term`; the rest of the message says nothing.
    pub fn fetched(&self) -> Appends<'a> {
        self.appends_of(true)
    }

    fn appends_of(&self, fetched: bool) -> Appends<'a> {
        Appends {
            fetched,
            appends: self.body.appends.iter(),
            entries: &self.body.entries,
            terms: self.body.entry_terms.iter(),
            payloads: self.payloads,
        }
    }

    /// The receiver's slot of the `n`th append, for a look ahead; `None` behind the last.
    pub fn append_slot(&self, n: usize) -> Option<u32> {
        Some(self.body.appends.get(n)?.slot.to_native())
    }

    /// The receiver's slot of the `n`th append reply, for a look ahead; `None` behind the last.
    pub fn append_reply_slot(&self, n: usize) -> Option<u32> {
        Some(self.body.append_replies.get(n)?.slot.to_native())
    }

    /// The append replies.
    pub fn append_replies(&self) -> AppendReplies<'a> {
        AppendReplies { replies: self.body.append_replies.iter(), hints: self.body.hints.iter() }
    }

    /// Questions for entries that the sender's disk has lost: the first and the last.
    pub fn fetches(&self) -> impl Iterator<Item = (Address, LogIndex, LogIndex)> + use<'a> {
        let mut hints = self.body.hints.iter();
        self.body.append_replies.iter().filter_map(move |m| {
            let outcome = m.outcome.to_native();
            let hint = if outcome == OUTCOME_MATCHED { None } else { hints.next() }?;
            let range = (LogIndex(m.index.to_native()), LogIndex(hint.index.to_native()));
            (outcome == OUTCOME_FETCH).then(|| (address(m.slot, m.history), range.0, range.1))
        })
    }

    /// The heartbeats.
    pub fn heartbeats(&self) -> impl Iterator<Item = (Address, Heartbeat)> + use<'a> {
        self.body.heartbeats.iter().map(|m| {
            let (term, commit) = (Term(m.term.to_native()), LogIndex(m.commit.to_native()));
            (address(m.slot, m.history), Heartbeat { term, commit, round: m.round.to_native() })
        })
    }

    /// The heartbeat replies.
    pub fn heartbeat_replies(&self) -> impl Iterator<Item = (Address, HeartbeatReply)> + use<'a> {
        self.body.heartbeat_replies.iter().map(|m| {
            let (term, round) = (Term(m.term.to_native()), m.round.to_native());
            (address(m.slot, m.history), HeartbeatReply { term, round })
        })
    }

    /// The vote requests.
    pub fn vote_requests(&self) -> impl Iterator<Item = (Address, VoteRequest)> + use<'a> {
        self.body.vote_requests.iter().map(|m| {
            let flags = m.flags.to_native();
            let request = VoteRequest {
                pre_vote: flags & 1 != 0,
                transfer: flags & 2 != 0,
                term: Term(m.term.to_native()),
                last_index: LogIndex(m.last_index.to_native()),
                last_term: Term(m.last_term.to_native()),
            };
            (address(m.slot, m.history), request)
        })
    }

    /// The vote replies.
    pub fn vote_replies(&self) -> impl Iterator<Item = (Address, VoteReply)> + use<'a> {
        self.body.vote_replies.iter().map(|m| {
            let flags = m.flags.to_native();
            let term = Term(m.term.to_native());
            let reply = VoteReply { pre_vote: flags & 1 != 0, granted: flags & 2 != 0, term };
            (address(m.slot, m.history), reply)
        })
    }

    /// The orders to campaign.
    pub fn timeout_nows(&self) -> impl Iterator<Item = (Address, TimeoutNow)> + use<'a> {
        let timeouts = self.body.timeouts.iter();
        timeouts.map(|m| (address(m.slot, m.history), TimeoutNow { term: Term(m.term.to_native()) }))
    }

    /// Questions for confirmed indexes.
    pub fn read_index_requests(&self) -> impl Iterator<Item = (Address, ReadIndexRequest)> + use<'a> {
        self.body.read_requests.iter().map(|m| {
            let (term, id) = (Term(m.term.to_native()), m.id.to_native());
            (address(m.slot, m.history), ReadIndexRequest { term, id })
        })
    }

    /// Answers to such questions.
    pub fn read_index_replies(&self) -> impl Iterator<Item = (Address, ReadIndexReply)> + use<'a> {
        self.body.read_replies.iter().map(|m| {
            let (term, id) = (Term(m.term.to_native()), m.id.to_native());
            let index = Some(LogIndex(m.index.to_native())).filter(|index| index.0 > 0);
            (address(m.slot, m.history), ReadIndexReply { term, id, index })
        })
    }

    /// Questions for terms.
    pub fn term_queries(&self) -> impl Iterator<Item = (Address, TermQuery)> + use<'a> {
        let queries = self.body.term_queries.iter();
        queries.map(|m| (address(m.slot, m.history), TermQuery { term: Term(m.term.to_native()) }))
    }

    /// Answers to them.
    pub fn term_reports(&self) -> impl Iterator<Item = (Address, TermReport)> + use<'a> {
        let mut voters = self.body.report_voters.iter();
        self.body.term_reports.iter().map(move |m| {
            // That they are there was checked.
            let count = m.voters.to_native() as usize;
            let voters = voters.by_ref().take(count).map(|voter| NodeId(voter.to_native())).collect();
            (address(m.slot, m.history), TermReport { term: Term(m.term.to_native()), voters })
        })
    }
}

impl<'a> FrameView<'a> {
    /// Offers of snapshots, each with the header of its file.
    pub fn snapshot_offers(&self) -> impl Iterator<Item = (Address, SnapshotOffer, &'a [u8])> + use<'a> {
        let mut headers = self.offers;
        self.body.snapshot_offers.iter().map(move |m| {
            // That they are there was checked.
            let (header, rest) = headers.split_at(m.bytes.to_native() as usize);
            headers = rest;
            let (term, snapshot) = (Term(m.term.to_native()), SnapshotId(m.snapshot.to_native()));
            let offer = SnapshotOffer { term, snapshot, attempt: m.attempt.to_native() };
            (address(m.slot, m.history), offer, header)
        })
    }

    /// Parts of chunks, each with its bytes.
    pub fn snapshot_parts(&self) -> impl Iterator<Item = (Address, SnapshotPart, &'a [u8])> + use<'a> {
        let mut parts = self.parts;
        self.body.snapshot_parts.iter().map(move |m| {
            // As above.
            let (bytes, rest) = parts.split_at(m.bytes.to_native() as usize);
            parts = rest;
            let part = SnapshotPart {
                term: Term(m.term.to_native()),
                snapshot: SnapshotId(m.snapshot.to_native()),
                number: m.number.to_native(),
                offset: m.offset.to_native(),
            };
            (address(m.slot, m.history), part, bytes)
        })
    }

    /// What leaders and followers say about snapshots that the followers send.
    pub fn snapshot_relays(&self) -> impl Iterator<Item = (Address, SnapshotRelay)> + use<'a> {
        self.body.snapshot_answers.iter().filter_map(|m| {
            let relay = SnapshotRelay {
                term: Term(m.term.to_native()),
                to: NodeId(m.window.to_native()),
                at_least: LogIndex(m.next.to_native()),
                word: RelayWord::from_number(m.verdict.to_native())?,
            };
            Some((address(m.slot, m.history), relay))
        })
    }

    /// What receivers of snapshots say.
    pub fn snapshot_answers(&self) -> impl Iterator<Item = (Address, SnapshotAnswer)> + use<'a> {
        self.body.snapshot_answers.iter().filter_map(|m| {
            let answer = SnapshotAnswer {
                term: Term(m.term.to_native()),
                snapshot: SnapshotId(m.snapshot.to_native()),
                attempt: m.attempt.to_native(),
                verdict: SnapshotVerdict::from_number(m.verdict.to_native())?,
                next: m.next.to_native(),
                offset: m.offset.to_native(),
                window: m.window.to_native(),
            };
            Some((address(m.slot, m.history), answer))
        })
    }
}

fn address(slot: ArchivedU32, history: ArchivedU32) -> Address {
    Address { slot: slot.to_native(), history: history.to_native() }
}

/// Voters of a configuration, outgoing ones included, at most.
const REPORT_VOTERS_MAX: u64 = 2 * logdrive_shard::VOTERS_MAX as u64;

/// Whether the arrays of a validated archive fit each other and the payload area, and every number is in its range.
fn check(body: &ArchivedBody, payload_bytes: u64) -> Result<(), &'static str> {
    let mut numbers = 0;
    let (mut count, mut elsewhere) = (0_u64, 0);
    for m in body.appends.iter() {
        numbers |= m.term.to_native() | m.prev_index.to_native() | m.prev_term.to_native();
        numbers |= m.commit.to_native();
        count += u64::from(m.count.to_native() & !COUNT_FETCHED);
        let gap = m.entry_term_gap.to_native();
        elsewhere += usize::from(gap == TERM_ELSEWHERE);
        if gap != TERM_ELSEWHERE && u64::from(gap) > m.term.to_native() {
            return Err("a term below zero");
        }
    }
    numbers = body.entry_terms.iter().fold(numbers, |all, term| all | term.to_native());
    if count != body.entries.len() as u64 || elsewhere != body.entry_terms.len() {
        return Err("appends and entries do not fit each other");
    }
    let mut bytes = 0_u64;
    for word in body.entries.iter() {
        let word = word.to_native();
        bytes += u64::from(word & LENGTH_MASK);
        if EntryKind::from_number((word >> KIND_SHIFT) as u8).is_none() {
            return Err("an entry of an unknown kind");
        }
    }
    if bytes != payload_bytes {
        return Err("entries and payload area do not fit each other");
    }
    numbers |= check_replies(body)?;
    for m in body.heartbeats.iter() {
        numbers |= m.term.to_native() | m.commit.to_native() | m.round.to_native();
    }
    for m in body.heartbeat_replies.iter() {
        numbers |= m.term.to_native() | m.round.to_native();
    }
    numbers |= check_votes(body)?;
    numbers = body.timeouts.iter().fold(numbers, |all, m| all | m.term.to_native());
    for m in body.read_requests.iter().chain(body.read_replies.iter()) {
        numbers |= m.term.to_native() | m.index.to_native();
    }
    numbers = body.term_queries.iter().fold(numbers, |all, m| all | m.term.to_native());
    let mut voters = 0_u64;
    for m in body.term_reports.iter() {
        numbers |= m.term.to_native();
        if m.voters.to_native() > REPORT_VOTERS_MAX {
            return Err("a report that names more voters than there can be");
        }
        voters += m.voters.to_native();
    }
    if voters != body.report_voters.len() as u64 {
        return Err("reports and voters do not fit each other");
    }
    if body.pulses.len() > 1 || body.pulses.iter().any(|pulse| pulse.flags.to_native() > 7) {
        return Err("a pulse of an unknown form");
    }
    if numbers >= NUMBER_LIMIT {
        return Err("a term, index or round beyond all bounds");
    }
    Ok(())
}

/// Checks what is about snapshots; returns the bytes of headers and of parts.
fn check_snapshots(body: &ArchivedBody) -> Result<(u64, u64), &'static str> {
    let (mut numbers, mut offer_bytes, mut part_bytes) = (0, 0_u64, 0_u64);
    for m in body.snapshot_offers.iter() {
        numbers |= m.term.to_native();
        if m.bytes.to_native() > OFFER_BYTES_MAX {
            return Err("an offer with a header longer than headers are");
        }
        offer_bytes += u64::from(m.bytes.to_native());
    }
    for m in body.snapshot_parts.iter() {
        numbers |= m.term.to_native() | m.number.to_native();
        if m.bytes.to_native() > PART_BYTES_MAX || m.offset.to_native() > OFFSET_MAX {
            return Err("a part of a chunk beyond all bounds");
        }
        part_bytes += u64::from(m.bytes.to_native());
    }
    for m in body.snapshot_answers.iter() {
        numbers |= m.term.to_native() | m.next.to_native();
        let verdict = m.verdict.to_native();
        let is_known =
            SnapshotVerdict::from_number(verdict).is_some() || RelayWord::from_number(verdict).is_some();
        if !is_known || m.offset.to_native() > OFFSET_MAX {
            return Err("an answer about a snapshot of an unknown form");
        }
    }
    if numbers >= NUMBER_LIMIT {
        return Err("a term or chunk of a snapshot beyond all bounds");
    }
    Ok((offer_bytes, part_bytes))
}

/// Checks the append replies; returns all their numbers or-ed together.
fn check_replies(body: &ArchivedBody) -> Result<u64, &'static str> {
    let (mut numbers, mut rejected) = (0, 0);
    for m in body.append_replies.iter() {
        numbers |= m.term.to_native() | m.index.to_native();
        match m.outcome.to_native() {
            OUTCOME_MATCHED => {}
            OUTCOME_REJECTED | OUTCOME_FETCH => rejected += 1,
            _ => return Err("an append reply of an unknown kind"),
        }
    }
    if rejected != body.hints.len() {
        return Err("rejections and hints do not fit each other");
    }
    Ok(body.hints.iter().fold(numbers, |all, hint| all | hint.index.to_native() | hint.term.to_native()))
}

/// Checks vote requests and replies; returns all their numbers or-ed together.
fn check_votes(body: &ArchivedBody) -> Result<u64, &'static str> {
    let (mut numbers, mut flags) = (0, 0);
    for m in body.vote_requests.iter() {
        numbers |= m.term.to_native() | m.last_index.to_native() | m.last_term.to_native();
        flags |= m.flags.to_native();
    }
    for m in body.vote_replies.iter() {
        numbers |= m.term.to_native();
        flags |= m.flags.to_native();
    }
    if flags > 3 {
        return Err("a vote with unknown flags");
    }
    Ok(numbers)
}

/// See [`FrameView::appends`].
#[derive(Clone, Debug)]
pub struct Appends<'a> {
    /// Entries that were asked for, instead of appends.
    fetched: bool,
    appends: std::slice::Iter<'a, ArchivedWireAppend>,
    /// What the appends to come have.
    entries: &'a [ArchivedU32],
    terms: std::slice::Iter<'a, ArchivedU64>,
    payloads: &'a [u8],
}

impl<'a> Iterator for Appends<'a> {
    type Item = (Address, Append, Entries<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (is_fetched, item) = self.step()?;
            if is_fetched == self.fetched {
                return Some(item);
            }
        }
    }
}

impl<'a> Appends<'a> {
    /// The next record with its entries, and whether they were asked for.
    fn step(&mut self) -> Option<(bool, (Address, Append, Entries<'a>))> {
        let m = self.appends.next()?;
        let term = m.term.to_native();
        let entry_term = match m.entry_term_gap.to_native() {
            TERM_ELSEWHERE => self.terms.next().map_or(0, |term| term.to_native()),
            gap => term - u64::from(gap),
        };
        let append = Append {
            term: Term(term),
            prev_index: LogIndex(m.prev_index.to_native()),
            prev_term: Term(m.prev_term.to_native()),
            entry_term: Term(entry_term),
            count: m.count.to_native() & !COUNT_FETCHED,
            commit: LogIndex(m.commit.to_native()),
        };
        let (words, later) = self.entries.split_at(append.count as usize);
        let bytes = words.iter().map(|word| (word.to_native() & LENGTH_MASK) as usize).sum();
        let (payloads, later_payloads) = self.payloads.split_at(bytes);
        (self.entries, self.payloads) = (later, later_payloads);
        let is_fetched = m.count.to_native() & COUNT_FETCHED != 0;
        Some((is_fetched, (address(m.slot, m.history), append, Entries { words: words.iter(), payloads })))
    }
}

/// The entries of one append, in order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    words: std::slice::Iter<'a, ArchivedU32>,
    payloads: &'a [u8],
}

impl Entries<'_> {
    /// Payload bytes of the entries that are left.
    pub fn payload_bytes(&self) -> usize {
        self.payloads.len()
    }

    /// Whether one of the entries that are left is of this kind.
    pub fn has(&self, kind: EntryKind) -> bool {
        self.words.clone().any(|word| word.to_native() >> KIND_SHIFT == kind as u32)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (EntryKind, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let word = self.words.next()?.to_native();
        let (payload, later) = self.payloads.split_at((word & LENGTH_MASK) as usize);
        self.payloads = later;
        let kind = EntryKind::from_number((word >> KIND_SHIFT) as u8);
        Some((kind.expect("checked when the frame was parsed"), payload))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.words.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// See [`FrameView::append_replies`].
#[derive(Clone, Debug)]
pub struct AppendReplies<'a> {
    replies: std::slice::Iter<'a, ArchivedWireAppendReply>,
    hints: std::slice::Iter<'a, ArchivedWireHint>,
}

impl Iterator for AppendReplies<'_> {
    type Item = (Address, AppendReply);

    fn next(&mut self) -> Option<Self::Item> {
        let m = loop {
            let m = self.replies.next()?;
            if m.outcome.to_native() != OUTCOME_FETCH {
                break m;
            }
            self.hints.next()?;
        };
        let index = LogIndex(m.index.to_native());
        let outcome = if m.outcome.to_native() == OUTCOME_MATCHED {
            AppendOutcome::Matched(index)
        } else {
            let hint = self.hints.next()?;
            AppendOutcome::Rejected {
                prev_index: index,
                hint_index: LogIndex(hint.index.to_native()),
                hint_term: Term(hint.term.to_native()),
            }
        };
        Some((address(m.slot, m.history), AppendReply { term: Term(m.term.to_native()), outcome }))
    }
}
