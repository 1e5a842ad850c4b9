use logdrive_shard::{LogIndex, NodeId, Term};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::snapshot::SnapshotId;
use crate::wire::{FrameError, FrameView, RelayWord, SnapshotRelay, SnapshotVerdict, VERSION_MAX, frame_len};

/// Any message of a frame.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Append(Append, Vec<(u8, Vec<u8>)>),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    VoteRequest(VoteRequest),
    VoteReply(VoteReply),
    TimeoutNow(TimeoutNow),
    ReadIndexRequest(ReadIndexRequest),
    ReadIndexReply(ReadIndexReply),
    TermQuery(TermQuery),
    TermReport(TermReport),
    SnapshotOffer(SnapshotOffer, Vec<u8>),
    SnapshotPart(SnapshotPart, Vec<u8>),
    SnapshotAnswer(SnapshotAnswer),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_u64, 0..NUMBER_LIMIT, Just(NUMBER_LIMIT - 1)]
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn append() -> impl Strategy<Value = Message> {
    let entry = (0..3_u8, vec(any::<u8>(), 0..200));
    (term(), index(), term(), term(), index(), vec(entry, 0..5)).prop_map(
        |(term, prev_index, prev_term, entry_term, commit, entries)| {
            let count = entries.len() as u32;
            Message::Append(Append { term, prev_index, prev_term, entry_term, count, commit }, entries)
        },
    )
}

fn outcome() -> impl Strategy<Value = AppendOutcome> {
    prop_oneof![
        index().prop_map(AppendOutcome::Matched),
        (index(), index(), term()).prop_map(|(prev_index, hint_index, hint_term)| {
            AppendOutcome::Rejected { prev_index, hint_index, hint_term }
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => append(),
        3 => (term(), outcome()).prop_map(|(term, outcome)| Message::AppendReply(AppendReply { term, outcome })),
        1 => (term(), index(), number())
            .prop_map(|(term, commit, round)| Message::Heartbeat(Heartbeat { term, commit, round })),
        1 => (term(), number()).prop_map(|(term, round)| Message::HeartbeatReply(HeartbeatReply { term, round })),
        1 => (any::<bool>(), any::<bool>(), term(), index(), term()).prop_map(
            |(pre_vote, transfer, term, last_index, last_term)| {
                Message::VoteRequest(VoteRequest { pre_vote, transfer, term, last_index, last_term })
            }
        ),
        1 => (any::<bool>(), any::<bool>(), term())
            .prop_map(|(pre_vote, granted, term)| Message::VoteReply(VoteReply { pre_vote, granted, term })),
        1 => term().prop_map(|term| Message::TimeoutNow(TimeoutNow { term })),
        1 => (term(), any::<u64>()).prop_map(|(term, id)| Message::ReadIndexRequest(ReadIndexRequest { term, id })),
        1 => (term(), any::<u64>(), index()).prop_map(|(term, id, index)| {
            let index = Some(index).filter(|index| index.0 > 0);
            Message::ReadIndexReply(ReadIndexReply { term, id, index })
        }),
        1 => term().prop_map(|term| Message::TermQuery(TermQuery { term })),
        1 => (term(), vec(any::<u32>().prop_map(logdrive_shard::NodeId), 0..=18))
            .prop_map(|(term, voters)| Message::TermReport(TermReport { term, voters })),
        2 => about_snapshots(),
    ]
}

fn about_snapshots() -> impl Strategy<Value = Message> {
    let snapshot = || any::<u64>().prop_map(SnapshotId);
    let verdicts = [
        SnapshotVerdict::Going,
        SnapshotVerdict::Here,
        SnapshotVerdict::Unneeded,
        SnapshotVerdict::Busy,
        SnapshotVerdict::NoRoom,
        SnapshotVerdict::Failed,
        SnapshotVerdict::Unknown,
        SnapshotVerdict::Refused,
    ];
    let verdict = prop::sample::select(verdicts.to_vec());
    let (offset, window) = (0..=16_u32 << 20, any::<u32>());
    prop_oneof![
        (term(), snapshot(), any::<u32>(), vec(any::<u8>(), 0..=300)).prop_map(
            |(term, snapshot, attempt, header)| {
                Message::SnapshotOffer(SnapshotOffer { term, snapshot, attempt }, header)
            }
        ),
        (term(), snapshot(), number(), 0..=16_u32 << 20, vec(any::<u8>(), 0..=300)).prop_map(
            |(term, snapshot, number, offset, bytes)| {
                Message::SnapshotPart(SnapshotPart { term, snapshot, number, offset }, bytes)
            }
        ),
        (term(), snapshot(), any::<u32>(), verdict, number(), offset, window).prop_map(
            |(term, snapshot, attempt, verdict, next, offset, window)| {
                let answer = SnapshotAnswer { term, snapshot, attempt, verdict, next, offset, window };
                Message::SnapshotAnswer(answer)
            }
        ),
    ]
}

fn messages() -> impl Strategy<Value = Vec<(Address, Message)>> {
    let to = (any::<u32>(), any::<u32>()).prop_map(|(slot, history)| Address { slot, history });
    vec((to, message()), 0..40)
}

fn pulse() -> impl Strategy<Value = Option<Pulse>> {
    proptest::option::of(
        (any::<u64>(), any::<u64>(), any::<[bool; 3]>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
            |(seq, echo, [healthy, full, drained], support_epoch, promise_ms, durable_end)| Pulse {
                seq,
                echo,
                healthy,
                full,
                drained,
                support_epoch,
                promise_ms,
                durable_end,
            },
        ),
    )
}

fn add(builder: &mut FrameBuilder, to: Address, message: &Message) {
    match message {
        Message::Append(m, entries) => {
            let entries = entries.iter();
            builder.append(to, m, entries.map(|(kind, p)| (EntryKind::from_number(*kind).unwrap(), &p[..])));
        }
        Message::AppendReply(m) => builder.append_reply(to, m),
        Message::Heartbeat(m) => builder.heartbeat(to, m),
        Message::HeartbeatReply(m) => builder.heartbeat_reply(to, m),
        Message::VoteRequest(m) => builder.vote_request(to, m),
        Message::VoteReply(m) => builder.vote_reply(to, m),
        Message::TimeoutNow(m) => builder.timeout_now(to, m),
        Message::ReadIndexRequest(m) => builder.read_index_request(to, m),
        Message::ReadIndexReply(m) => builder.read_index_reply(to, m),
        Message::TermQuery(m) => builder.term_query(to, m),
        Message::TermReport(m) => builder.term_report(to, m),
        Message::SnapshotOffer(m, header) => builder.snapshot_offer(to, m, header),
        Message::SnapshotPart(m, bytes) => builder.snapshot_part(to, m, bytes),
        Message::SnapshotAnswer(m) => builder.snapshot_answer(to, m),
    }
}

/// Everything in a frame, grouped by kind of message.
fn read(frame: &FrameView<'_>) -> Vec<(Address, Message)> {
    let mut all = Vec::new();
    all.extend(frame.appends().map(|(to, m, entries)| {
        assert_eq!(entries.len(), m.count as usize);
        (to, Message::Append(m, entries.map(|(kind, payload)| (kind as u8, payload.to_vec())).collect()))
    }));
    all.extend(frame.append_replies().map(|(to, m)| (to, Message::AppendReply(m))));
    all.extend(frame.heartbeats().map(|(to, m)| (to, Message::Heartbeat(m))));
    all.extend(frame.heartbeat_replies().map(|(to, m)| (to, Message::HeartbeatReply(m))));
    all.extend(frame.vote_requests().map(|(to, m)| (to, Message::VoteRequest(m))));
    all.extend(frame.vote_replies().map(|(to, m)| (to, Message::VoteReply(m))));
    all.extend(frame.timeout_nows().map(|(to, m)| (to, Message::TimeoutNow(m))));
    all.extend(frame.read_index_requests().map(|(to, m)| (to, Message::ReadIndexRequest(m))));
    all.extend(frame.read_index_replies().map(|(to, m)| (to, Message::ReadIndexReply(m))));
    all.extend(frame.term_queries().map(|(to, m)| (to, Message::TermQuery(m))));
    all.extend(frame.term_reports().map(|(to, m)| (to, Message::TermReport(m))));
    let offers = frame.snapshot_offers();
    all.extend(offers.map(|(to, m, header)| (to, Message::SnapshotOffer(m, header.to_vec()))));
    let parts = frame.snapshot_parts();
    all.extend(parts.map(|(to, m, bytes)| (to, Message::SnapshotPart(m, bytes.to_vec()))));
    all.extend(frame.snapshot_answers().map(|(to, m)| (to, Message::SnapshotAnswer(m))));
    all
}

fn rank(message: &Message) -> u8 {
    match message {
        Message::Append(..) => 0,
        Message::AppendReply(_) => 1,
        Message::Heartbeat(_) => 2,
        Message::HeartbeatReply(_) => 3,
        Message::VoteRequest(_) => 4,
        Message::VoteReply(_) => 5,
        Message::TimeoutNow(_) => 6,
        Message::ReadIndexRequest(_) => 7,
        Message::ReadIndexReply(_) => 8,
        Message::TermQuery(_) => 9,
        Message::TermReport(_) => 10,
        Message::SnapshotOffer(..) => 11,
        Message::SnapshotPart(..) => 12,
        Message::SnapshotAnswer(_) => 13,
    }
}

fn build(messages: &[(Address, Message)], pulse: Option<Pulse>, boot: u64) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for (to, message) in messages {
        add(&mut builder, *to, message);
    }
    if let Some(pulse) = pulse {
        builder.pulse(pulse);
    }
    assert_eq!(builder.is_empty(), messages.is_empty() && pulse.is_none());
    let bytes = builder.bytes();
    let mut out = Vec::new();
    builder.finish(boot, VERSION_MAX, &mut out);
    assert!(builder.is_empty());
    assert_eq!(bytes, out.len());
    out
}

/// Gives a frame that was tampered with a right checksum, so that the checks behind it are reached.
fn reseal(frame: &mut [u8]) {
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_added_is_read_back_in_order(mut all in messages(), pulse in pulse(), boot in any::<u64>()) {
        let bytes = build(&all, pulse, boot);
        let frame = FrameView::parse(&bytes, VERSION_MAX).unwrap();
        prop_assert_eq!(frame.receiver_boot(), boot);
        prop_assert_eq!(frame.pulse(), pulse);
        all.sort_by_key(|(_, message)| rank(message)); // Stable: the order within a kind stays.
        prop_assert_eq!(read(&frame), all);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_an_error(all in messages(), bit in any::<prop::sample::Index>()) {
        let mut bytes = build(&all, None, 7);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(FrameView::parse(&bytes, VERSION_MAX).is_err());
    }

    #[test]
    fn tampered_frames_with_a_right_checksum_are_errors_or_messages(
        all in messages(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = build(&all, None, 7);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        reseal(&mut bytes);
        if let Ok(frame) = FrameView::parse(&bytes, VERSION_MAX) {
            let _ = read(&frame);
        }
    }

    #[test]
    fn tampered_archives_are_errors_or_messages(
        all in messages(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = build(&all, None, 7);
        let len = bytes.len();
        // The root lies in the last bytes: pointers and lengths of all arrays.
        for (at, value) in changes {
            bytes[len - 1 - at.index(152.min(len))] = value;
        }
        reseal(&mut bytes);
        if let Ok(frame) = FrameView::parse(&bytes, VERSION_MAX) {
            let _ = read(&frame);
        }
    }

    #[test]
    fn arbitrary_bytes_are_errors(mut bytes in vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        if magic && bytes.len() >= HEADER_LEN {
            let len = bytes.len() as u32;
            bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[8..12].copy_from_slice(&[VERSION_MAX as u8, 0, 0, 0]);
            bytes[12..16].copy_from_slice(&len.to_le_bytes());
            bytes[24..28].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
            bytes[28..32].fill(0);
            reseal(&mut bytes);
        }
        if let Ok(frame) = FrameView::parse(&bytes, VERSION_MAX) {
            let _ = read(&frame);
        }
        let _ = frame_len(&bytes, VERSION_MAX);
    }

    #[test]
    fn a_cut_or_padded_frame_is_an_error(all in messages(), cut in any::<prop::sample::Index>()) {
        let mut bytes = build(&all, None, 7);
        prop_assert!(FrameView::parse(&bytes[..cut.index(bytes.len())], VERSION_MAX).is_err());
        bytes.push(0);
        prop_assert!(FrameView::parse(&bytes, VERSION_MAX).is_err());
    }
}

fn one_append(count: u32) -> Append {
    Append {
        term: Term(3),
        prev_index: LogIndex(9),
        prev_term: Term(2),
        entry_term: Term(3),
        count,
        commit: LogIndex(9),
    }
}

const TO: Address = Address { slot: 4, history: 5 };

#[test]
fn frames_are_read_at_any_address() {
    let mut builder = FrameBuilder::new();
    builder.append(TO, &one_append(1), [(EntryKind::Payload, &b"hello"[..])].into_iter());
    let mut out = vec![0xEE];
    builder.finish(1, VERSION_MAX, &mut out);
    builder.heartbeat(TO, &Heartbeat { term: Term(1), commit: LogIndex(0), round: 2 });
    builder.finish(1, VERSION_MAX, &mut out);
    let first = frame_len(&out[1..], VERSION_MAX).unwrap();
    let frame = FrameView::parse(&out[1..1 + first], VERSION_MAX).unwrap();
    let (to, m, mut entries) = frame.appends().next().unwrap();
    assert_eq!((to, m.count, entries.payload_bytes()), (TO, 1, 5));
    assert_eq!(entries.next(), Some((EntryKind::Payload, &b"hello"[..])));
    let second = FrameView::parse(&out[1 + first..], VERSION_MAX).unwrap();
    assert_eq!(second.heartbeats().count(), 1);
    assert_eq!(second.appends().count(), 0);
}

#[test]
fn buffers_are_swapped_and_reused() {
    let mut builder = FrameBuilder::new();
    let mut out = Vec::new();
    let payload = [7_u8; 1000];
    for _ in 0..3 {
        builder.append(TO, &one_append(1), [(EntryKind::Payload, &payload[..])].into_iter());
        out.clear();
        builder.finish(1, VERSION_MAX, &mut out);
    }
    let before = (out.as_ptr(), out.capacity());
    for _ in 0..2 {
        builder.append(TO, &one_append(1), [(EntryKind::Payload, &payload[..])].into_iter());
        out.clear();
        builder.finish(1, VERSION_MAX, &mut out);
    }
    assert_eq!((out.as_ptr(), out.capacity()), before, "two buffers take turns, none is allocated anew");
}

#[test]
fn the_last_pulse_counts() {
    let pulse = |seq| Pulse {
        seq,
        echo: 1,
        healthy: true,
        full: false,
        drained: false,
        support_epoch: 1,
        promise_ms: 7,
        durable_end: 4096,
    };
    let mut builder = FrameBuilder::new();
    builder.pulse(pulse(1));
    builder.pulse(pulse(2));
    let mut out = Vec::new();
    builder.finish(1, VERSION_MAX, &mut out);
    assert_eq!(FrameView::parse(&out, VERSION_MAX).unwrap().pulse(), Some(pulse(2)));
}

#[test]
fn another_version_and_a_foreign_protocol_are_named() {
    let bytes = build(&[], None, 1);
    let (found, expected) = (VERSION_MAX, VERSION_MAX + 1);
    assert_eq!(FrameView::parse(&bytes, expected).unwrap_err(), FrameError::Version { found, expected });
    let mut http = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec();
    http.resize(64, b' ');
    assert!(matches!(frame_len(&http, VERSION_MAX), Err(FrameError::Magic { .. })));
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header() {
    let mut bytes = build(&[], None, 1);
    bytes[12..16].copy_from_slice(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
    let error = frame_len(&bytes[..HEADER_LEN], VERSION_MAX).unwrap_err();
    let len = FRAME_BYTES_MAX as u64 + 1;
    assert_eq!(error, FrameError::TooLong { len, limit: FRAME_BYTES_MAX as u64 });
}

#[test]
fn entry_counts_that_do_not_fit_are_refused() {
    // A frame with one append of one entry, whose count is then raised to two.
    let mut builder = FrameBuilder::new();
    builder.append(TO, &one_append(1), [(EntryKind::Payload, &b"hello"[..])].into_iter());
    let mut bytes = Vec::new();
    builder.finish(1, VERSION_MAX, &mut bytes);
    let needle = [4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0];
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at + 8] = 2;
    reseal(&mut bytes);
    let error = FrameView::parse(&bytes, VERSION_MAX).unwrap_err();
    assert_eq!(error, FrameError::Malformed { what: "appends and entries do not fit each other" });
}

#[test]
fn numbers_that_could_overflow_are_refused() {
    let mut builder = FrameBuilder::new();
    builder.append_reply(
        TO,
        &AppendReply { term: Term(1), outcome: AppendOutcome::Matched(LogIndex(NUMBER_LIMIT)) },
    );
    let mut bytes = Vec::new();
    builder.finish(1, VERSION_MAX, &mut bytes);
    let error = FrameView::parse(&bytes, VERSION_MAX).unwrap_err();
    assert_eq!(error, FrameError::Malformed { what: "a term, index or round beyond all bounds" });
}

#[test]
fn questions_for_lost_entries_and_their_answers_do_not_mix_with_appends_and_replies() {
    let to = |slot| Address { slot, history: 7 };
    let append = |count, prev_index| Append {
        term: Term(9),
        prev_index: LogIndex(prev_index),
        prev_term: Term(8),
        entry_term: Term(9),
        count,
        commit: LogIndex(3),
    };
    let rejected = |index| AppendReply {
        term: Term(9),
        outcome: AppendOutcome::Rejected {
            prev_index: LogIndex(index),
            hint_index: LogIndex(index - 1),
            hint_term: Term(2),
        },
    };
    let payloads: [&[u8]; 3] = [b"one", b"", b"three"];
    let entries = |kind| payloads.iter().map(move |payload| (kind, *payload));
    let mut builder = FrameBuilder::new();
    builder.append(to(1), &append(3, 10), entries(EntryKind::Payload));
    builder.fetched(to(2), LogIndex(40), Term(5), entries(EntryKind::Config));
    builder.append(to(3), &append(3, 20), entries(EntryKind::Session));
    builder.append_reply(to(4), &rejected(30));
    builder.fetch(to(5), LogIndex(50), LogIndex(59));
    builder.append_reply(to(6), &rejected(31));
    builder.fetch(to(7), LogIndex(1), LogIndex(1));
    assert!(!builder.is_empty());
    let mut bytes = Vec::new();
    builder.finish(1, VERSION_MAX, &mut bytes);
    let frame = FrameView::parse(&bytes, VERSION_MAX).unwrap();

    let appends = frame.appends().map(|(to, m, entries)| (to.slot, m.prev_index.0, entries.collect()));
    let appends: Vec<(u32, u64, Vec<_>)> = appends.collect();
    let all = |kind| entries(kind).collect::<Vec<_>>();
    assert_eq!(appends, [(1, 10, all(EntryKind::Payload)), (3, 20, all(EntryKind::Session))]);
    let (at, message, fetched) = frame.fetched().next().unwrap();
    assert_eq!(
        (at, message.prev_index, message.entry_term, message.count),
        (to(2), LogIndex(39), Term(5), 3)
    );
    assert_eq!(fetched.collect::<Vec<_>>(), all(EntryKind::Config));
    assert_eq!(frame.fetched().count(), 1);
    let replies: Vec<_> = frame.append_replies().map(|(to, m)| (to.slot, m)).collect();
    assert_eq!(replies, [(4, rejected(30)), (6, rejected(31))]);
    let fetches: Vec<_> = frame.fetches().map(|(to, first, last)| (to.slot, first.0, last.0)).collect();
    assert_eq!(fetches, [(5, 50, 59), (7, 1, 1)]);
}

/// A frame with one part, whose record then gets another length or place.
fn part_with(offset: u32, bytes: u32) -> FrameError {
    let mut builder = FrameBuilder::new();
    let part = SnapshotPart { term: Term(1), snapshot: SnapshotId(2), number: 3, offset: 0x0077_7777 };
    builder.snapshot_part(TO, &part, b"hello");
    let mut frame = Vec::new();
    builder.finish(1, VERSION_MAX, &mut frame);
    let needle = [0x77, 0x77, 0x77, 0, 5, 0, 0, 0];
    let at = frame.windows(needle.len()).position(|window| window == needle).unwrap();
    frame[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    frame[at + 4..at + 8].copy_from_slice(&bytes.to_le_bytes());
    reseal(&mut frame);
    FrameView::parse(&frame, VERSION_MAX).unwrap_err()
}

#[test]
fn parts_of_chunks_that_do_not_fit_are_refused() {
    let beyond = FrameError::Malformed { what: "a part of a chunk beyond all bounds" };
    assert_eq!(part_with(0, PART_BYTES_MAX + 1), beyond);
    assert_eq!(part_with(u32::MAX, 5), beyond);
    let unfit = FrameError::Malformed { what: "snapshots and payload area do not fit each other" };
    assert_eq!(part_with(0, 6), unfit);
    let entries = FrameError::Malformed { what: "entries and payload area do not fit each other" };
    assert_eq!(part_with(0, 4), entries);
}

#[test]
fn what_leaders_and_followers_say_about_snapshots_that_these_send_is_no_answer_of_a_receiver() {
    let words = [RelayWord::Send, RelayWord::Going, RelayWord::Done, RelayWord::Failed];
    let relay = |word| SnapshotRelay { term: Term(3), to: NodeId(u32::MAX), at_least: LogIndex(77), word };
    let mut builder = FrameBuilder::new();
    words.iter().for_each(|word| builder.snapshot_relay(TO, &relay(*word)));
    let mut bytes = Vec::new();
    builder.finish(1, VERSION_MAX, &mut bytes);
    let frame = FrameView::parse(&bytes, VERSION_MAX).unwrap();
    let found: Vec<_> = frame.snapshot_relays().collect();
    assert_eq!(found, words.map(|word| (TO, relay(word))));
    assert_eq!(frame.snapshot_answers().count(), 0);
}
