//! Order, parking, bounds and errors of the front door, on an engine that answers as the test says.

use logdrive::api::{Error, ReadPolicy};
use logdrive_shard::{GroupId, NodeId};
use proptest::prelude::*;

use crate::redis::config::Limits;
use crate::redis::fake::{BUSY, Bench, GROUPS, NOBODY};
use crate::redis::lanes::LANES;
use crate::redis::slots::{SlotMap, slot_of};

fn bench() -> (Bench, u32) {
    let mut bench = Bench::new(Limits::default());
    let key = bench.connect();
    (bench, key)
}

fn group_of(key: &str) -> GroupId {
    SlotMap::new(GROUPS).unwrap().group_of(slot_of(key.as_bytes()))
}

/// The `n`th key name of a group.
fn key_of(group: GroupId, n: usize) -> String {
    (0..).map(|i| format!("k{i}")).filter(|key| group_of(key) == group).nth(n).unwrap()
}

#[test]
fn replies_keep_the_order_of_requests_whatever_the_engine_answers_first() {
    let (mut bench, key) = bench();
    bench.send(key, "SET a 1\r\nPING\r\nSET b 2\r\nECHO hi\r\nINCR c\r\n");
    assert_eq!(bench.asked().len(), 3);
    bench.answer(2);
    assert_eq!(bench.received(key), "");
    bench.answer(1);
    assert_eq!(bench.received(key), "");
    bench.answer(0);
    assert_eq!(bench.received(key), "+OK\r\n+PONG\r\n+OK\r\n$2\r\nhi\r\n:1\r\n");
}

#[test]
fn a_get_waits_for_its_connections_last_write_to_that_group_and_for_no_other() {
    let (mut bench, key) = bench();
    let (one, other) = (key_of(GroupId(3), 0), key_of(GroupId(4), 0));
    bench.send(key, format!("SET {one} 1\r\nSET {one} 2\r\nGET {one}\r\nGET {other}\r\nSET {one} 3\r\n"));
    let asked = bench.asked();
    assert_eq!(asked.len(), 3, "two pipelined writes and the read of the other group: {asked:?}");
    assert_eq!(asked[2].group, GroupId(4));
    bench.answer(0);
    assert_eq!(bench.asked().len(), 2, "the second write is not answered yet");
    bench.answer(0);
    let asked = bench.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].policy, Some(ReadPolicy::Linearizable));
    bench.answer(1);
    assert_eq!(bench.asked().len(), 2, "the write behind the read came after it");
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n+OK\r\n$1\r\n2\r\n$-1\r\n+OK\r\n");
}

#[test]
fn another_node_leads_and_the_client_is_moved() {
    let (mut bench, key) = bench();
    bench.lead(group_of("foo"), NodeId(3));
    assert_eq!(bench.ask(key, "GET foo"), "-MOVED 12182 127.0.0.1:7003\r\n");
    assert_eq!(bench.ask(key, "MSET {foo}1 x {foo}2 y"), "-MOVED 12182 127.0.0.1:7003\r\n");
    bench.lead(group_of("foo"), NodeId(1));
    bench.send(key, "SET foo 1\r\n");
    bench.fail(0, Error::NotLeader { leader: NodeId(2) });
    assert_eq!(bench.received(key), "-MOVED 12182 127.0.0.1:7002\r\n");
}

#[test]
fn requests_without_a_leader_wait_for_one_and_keep_their_order() {
    let (mut bench, key) = bench();
    let group = group_of("foo");
    bench.lead(group, NodeId::NONE);
    bench.send(key, "SET foo 1\r\nINCR foo\r\nGET foo\r\nSET foo 9\r\n");
    assert!(bench.asked().is_empty() && bench.desk.is_waiting());
    bench.pass(50);
    assert!(bench.asked().is_empty());
    bench.lead(group, NodeId(1));
    bench.pass(2);
    assert_eq!(bench.asked().len(), 2, "the two writes; the read waits for them");
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n:2\r\n$1\r\n2\r\n+OK\r\n");
    assert!(!bench.desk.is_waiting());
    assert_eq!(bench.desk.hub.held_bytes, 0);
}

#[test]
fn requests_without_a_leader_are_moved_when_another_node_wins() {
    let (mut bench, key) = bench();
    bench.lead(group_of("foo"), NodeId::NONE);
    bench.send(key, "SET foo 1\r\nGET foo\r\n");
    bench.lead(group_of("foo"), NodeId(2));
    bench.pass(2);
    assert_eq!(bench.received(key), "-MOVED 12182 127.0.0.1:7002\r\n".repeat(2));
    assert!(!bench.desk.is_waiting());
}

#[test]
fn parked_requests_end_with_clusterdown_after_their_time() {
    let (mut bench, key) = bench();
    bench.lead(group_of("foo"), NodeId::NONE);
    bench.send(key, "SET foo 1\r\n");
    bench.pass(1_000);
    bench.send(key, "GET foo\r\n");
    bench.pass(3_999);
    assert_eq!(bench.received(key), "");
    bench.pass(1);
    assert_eq!(bench.received(key), "-CLUSTERDOWN Hash slot not served\r\n");
    bench.pass(1_000);
    assert_eq!(bench.received(key), "-CLUSTERDOWN Hash slot not served\r\n");
    assert!(!bench.desk.is_waiting());
    bench.lead(group_of("foo"), NodeId(1));
    assert_eq!(bench.ask(key, "GET foo"), "$-1\r\n", "nothing was written");
}

#[test]
fn parking_is_bounded_in_number_and_bytes() {
    let limits = Limits { parked_requests_max: 3, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let (one, other) = (bench.connect(), bench.connect());
    bench.lead(group_of("foo"), NodeId::NONE);
    bench.send(one, "SET foo 1\r\nSET foo 2\r\n");
    bench.send(other, "SET foo 3\r\nSET foo 4\r\nPING\r\n");
    assert_eq!(bench.received(other), "");
    bench.lead(group_of("foo"), NodeId(1));
    bench.pass(2);
    bench.answer_all();
    assert_eq!(bench.received(one), "+OK\r\n+OK\r\n");
    assert_eq!(bench.received(other), "+OK\r\n-CLUSTERDOWN Hash slot not served\r\n+PONG\r\n");

    let mut bench = Bench::new(Limits { parked_bytes_max: 1_000, ..Limits::default() });
    let key = bench.connect();
    bench.lead(group_of("foo"), NodeId::NONE);
    bench.send(key, format!("SET foo {}\r\nSET foo 2\r\n", "x".repeat(1_200)));
    bench.lead(group_of("foo"), NodeId(1));
    bench.pass(2);
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n-CLUSTERDOWN Hash slot not served\r\n");
}

#[test]
fn a_closed_connection_leaves_nothing_parked() {
    let (mut bench, key) = bench();
    bench.lead(group_of("foo"), NodeId::NONE);
    bench.send(key, "SET foo 1\r\nSET foo 2\r\nSET bar 1\r\n");
    bench.desk.close(key);
    assert_eq!(bench.desk.hub.held_bytes, 0);
    assert_eq!(bench.desk.connections(), 0);
    let next = bench.connect();
    assert_ne!(next, key, "the engine still owes the old connection an answer");
    bench.answer_all();
    assert_eq!(bench.connect(), key);
    bench.lead(group_of("foo"), NodeId(1));
    bench.pass(2);
    assert!(bench.asked().is_empty());
    assert_eq!(bench.ask(next, "GET foo"), "$-1\r\n");
}

#[test]
fn what_came_back_unappended_is_sent_again_in_order() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\nINCR foo\r\nINCR foo\r\n");
    bench.fail(2, NOBODY);
    bench.fail(0, NOBODY);
    assert_eq!(bench.asked().len(), 1, "nothing is sent again before all are back");
    bench.fail(0, NOBODY);
    bench.pass(2);
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n:2\r\n:3\r\n");
}

#[test]
fn what_came_back_is_not_sent_again_behind_a_later_request_that_was_taken() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\nSET foo 2\r\nSET foo 3\r\n");
    bench.fail(0, NOBODY);
    bench.answer(0);
    bench.fail(0, BUSY);
    assert_eq!(bench.received(key), "-CLUSTERDOWN Hash slot not served\r\n+OK\r\n");
    bench.pass(5);
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n");
    assert_eq!(bench.ask(key, "GET foo"), "$1\r\n3\r\n");
}

#[test]
fn a_lane_shared_with_a_leaderless_group_fails_the_requests_of_neither() {
    let (mut bench, key) = bench();
    let (sick, well) = (GroupId(5), GroupId(5 + LANES as u64));
    let (one, two, three) = (key_of(sick, 0), key_of(well, 0), key_of(sick, 1));
    bench.send(key, format!("SET {one} 1\r\nSET {two} 2\r\nSET {three} 3\r\n"));
    bench.lead(sick, NodeId::NONE);
    bench.fail(0, NOBODY);
    bench.fail(1, NOBODY);
    bench.answer(0);
    bench.pass(100);
    assert_eq!(bench.received(key), "", "the later request of the other group has not overtaken anything");
    bench.lead(sick, NodeId(1));
    bench.pass(2);
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n+OK\r\n+OK\r\n");
}

#[test]
fn busy_is_retried_briefly_and_then_told() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\n");
    bench.fail(0, BUSY);
    bench.pass(4);
    assert!(bench.asked().is_empty(), "not before the pause the engine asked for");
    bench.pass(1);
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n");

    bench.send(key, "SET foo 2\r\n");
    for _ in 0..40 {
        if !bench.asked().is_empty() {
            bench.fail(0, BUSY);
        }
        bench.pass(5);
    }
    assert!(bench.received(key).starts_with("-BUSY "));
    assert_eq!(bench.ask(key, "GET foo"), "$1\r\n1\r\n");
}

#[test]
fn errors_of_the_engine_have_codes_of_their_own() {
    let (mut bench, key) = bench();
    for (error, code) in [
        (Error::Indeterminate, "-INDETERMINATE "),
        (Error::Timeout, "-INDETERMINATE "),
        (Error::OutOfSpace { used: 9, budget: 10 }, "-OUTOFSPACE "),
        (Error::PayloadTooLarge { bytes: 9, limit: 8 }, "-ERR a payload of 9 bytes"),
        (Error::Stopped, "-CLUSTERDOWN "),
    ] {
        bench.send(key, "SET foo 1\r\n");
        bench.fail(0, error);
        let answer = bench.received(key);
        assert!(answer.starts_with(code), "{error:?}: {answer}");
    }
}

#[test]
fn after_readonly_a_follower_answers_from_its_own_state() {
    let (mut bench, key) = bench();
    bench.lead(group_of("foo"), NodeId(2));
    assert!(bench.ask(key, "GET foo").starts_with("-MOVED"));
    assert_eq!(bench.ask(key, "READONLY"), "+OK\r\n");
    bench.send(key, "GET foo\r\nGET bar\r\nSET foo 1\r\n");
    let policies: Vec<_> = bench.asked().iter().map(|asked| asked.policy).collect();
    let stale =
        ReadPolicy::Local { min_index: logdrive_shard::LogIndex(0), max_wait: std::time::Duration::ZERO };
    assert_eq!(policies, [Some(stale), Some(ReadPolicy::Linearizable)]);
    bench.answer_all();
    assert_eq!(bench.received(key), "$-1\r\n$-1\r\n-MOVED 12182 127.0.0.1:7002\r\n");
    bench.lead(group_of("foo"), NodeId::NONE);
    assert_eq!(bench.ask(key, "GET foo"), "$-1\r\n", "without a leader, too");
    assert_eq!(bench.ask(key, "READWRITE"), "+OK\r\n");
    bench.lead(group_of("foo"), NodeId(2));
    assert!(bench.ask(key, "GET foo").starts_with("-MOVED"));
}

#[test]
fn dbsize_counts_what_was_written_before_it_on_the_groups_led_here() {
    let (mut bench, key) = bench();
    bench.lead(GroupId(2), NodeId(3));
    let (one, two) = (key_of(GroupId(3), 0), key_of(GroupId(4), 0));
    bench.send(key, format!("SET {one} 1\r\nDBSIZE\r\nSET {two} 2\r\nDBSIZE\r\n"));
    assert_eq!(bench.asked().len(), 1, "the count waits for the write, and the second write for the count");
    bench.answer(0);
    assert_eq!(bench.asked().len() as u64, GROUPS - 1);
    bench.answer_all();
    let mut answers = bench.received(key);
    bench.answer_all();
    answers += &bench.received(key);
    bench.answer_all();
    answers += &bench.received(key);
    assert_eq!(answers, "+OK\r\n:1\r\n+OK\r\n:2\r\n");
}

#[test]
fn wait_answers_when_the_writes_before_it_are_acknowledged() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\nWAIT 1 0\r\nPING\r\n");
    assert_eq!(bench.received(key), "");
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n:1\r\n+PONG\r\n");
}

#[test]
fn reading_pauses_at_the_pipeline_bounds_and_goes_on() {
    let limits = Limits { pipeline_requests_max: 4, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let key = bench.connect();
    let requests: String = (0..20).map(|n| format!("SET k{n} {n}\r\n")).collect();
    bench.send(key, requests);
    assert_eq!(bench.asked().len(), 4);
    assert!(!bench.desk.wants_input(key));
    let mut replies = String::new();
    while !bench.asked().is_empty() {
        bench.answer(0);
        replies += &bench.received(key);
        assert!(bench.asked().len() <= 4);
    }
    assert_eq!(replies, "+OK\r\n".repeat(20));
    assert!(bench.desk.wants_input(key));
}

#[test]
fn reading_pauses_while_the_client_does_not_take_its_replies() {
    let limits = Limits { output_bytes_max: 100, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let key = bench.connect();
    bench.send(key, "PING\r\n".repeat(50));
    assert!(bench.desk.output(key).len() < 110);
    assert!(!bench.desk.wants_input(key));
    assert_eq!(bench.received(key), "+PONG\r\n".repeat(50));
    assert!(bench.desk.wants_input(key));
}

#[test]
fn reading_pauses_while_large_values_are_awaited() {
    let mut bench = Bench::new(Limits { output_bytes_max: 32 * 1024, ..Limits::default() });
    let key = bench.connect();
    let value = "x".repeat(4_000);
    assert_eq!(bench.ask(key, &format!("SET foo {value}")), "+OK\r\n");
    let reply = format!("$4000\r\n{value}\r\n");
    let mut asked_max = Vec::new();
    for _ in 0..20 {
        bench.send(key, "GET foo\r\n".repeat(100));
        let (mut received, mut most) = (String::new(), 0);
        while !bench.asked().is_empty() {
            most = most.max(bench.asked().len());
            bench.answer(0);
            received += &bench.received(key);
        }
        assert_eq!(received, reply.repeat(100));
        asked_max.push(most);
    }
    assert!(asked_max.iter().all(|most| (2..=12).contains(most)), "about 32 KiB under way: {asked_max:?}");
    bench.ask(key, "SET foo x");
    for _ in 0..100 {
        bench.ask(key, "GET foo");
    }
    bench.send(key, "GET foo\r\n".repeat(100));
    assert_eq!(bench.asked().len(), 100, "small ones are not held back");
}

#[test]
fn a_protocol_error_is_told_behind_the_earlier_replies_and_ends_the_connection() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\n*1\r\nPING\r\nGET foo\r\n");
    assert!(!bench.desk.is_finished(key));
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n-ERR Protocol error: expected '$', got 'P'\r\n");
    assert!(bench.desk.is_finished(key));
}

#[test]
fn quit_answers_and_ends_the_connection() {
    let (mut bench, key) = bench();
    bench.send(key, "SET foo 1\r\nQUIT\r\nSET foo 2\r\n");
    bench.answer_all();
    assert_eq!(bench.received(key), "+OK\r\n+OK\r\n");
    assert!(bench.desk.is_finished(key));
}

#[test]
fn one_connection_too_many_is_refused() {
    let mut bench = Bench::new(Limits { connections_max: 2, ..Limits::default() });
    let key = bench.connect();
    bench.connect();
    assert_eq!(bench.desk.open(), None);
    bench.desk.close(key);
    assert_eq!(bench.desk.open(), Some(key));
}

/// What a client may do to one of a few keys.
#[derive(Clone, Debug)]
enum Op {
    Set(u8, u8),
    Incr(u8),
    Get(u8),
    Del(u8),
}

/// What the engine does next: to which of its requests (by fraction), and what.
#[derive(Clone, Debug)]
enum Deed {
    Answer(prop::sample::Index),
    Busy(prop::sample::Index),
    Nobody(prop::sample::Index),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..6u8;
    prop_oneof![
        (key.clone(), any::<u8>()).prop_map(|(k, v)| Op::Set(k, v)),
        key.clone().prop_map(Op::Incr),
        key.clone().prop_map(Op::Get),
        key.prop_map(Op::Del),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => any::<prop::sample::Index>().prop_map(Deed::Answer),
        1 => any::<prop::sample::Index>().prop_map(Deed::Busy),
        2 => any::<prop::sample::Index>().prop_map(Deed::Nobody),
        2 => Just(Deed::Pass),
    ]
}

impl Op {
    fn request(&self) -> String {
        match self {
            Op::Set(k, v) => format!("SET key{k} {v}\r\n"),
            Op::Incr(k) => format!("INCR key{k}\r\n"),
            Op::Get(k) => format!("GET key{k}\r\n"),
            Op::Del(k) => format!("DEL key{k}\r\n"),
        }
    }

    /// What a single-threaded Redis would reply.
    fn execute(&self, state: &mut [Option<i64>; 6]) -> String {
        match *self {
            Op::Set(k, v) => {
                state[k as usize] = Some(i64::from(v));
                "+OK".to_owned()
            }
            Op::Incr(k) => {
                let value = state[k as usize].unwrap_or(0) + 1;
                state[k as usize] = Some(value);
                format!(":{value}")
            }
            Op::Get(k) => match state[k as usize] {
                Some(value) => format!("${}\r\n{value}", value.to_string().len()),
                None => "$-1".to_owned(),
            },
            Op::Del(k) => format!(":{}", u8::from(state[k as usize].take().is_some())),
        }
    }
}

/// The engine's choice among its requests: a group's writes take effect in the order they were proposed, reads at any time.
fn choose(bench: &Bench, index: &prop::sample::Index) -> Option<usize> {
    let asked = bench.asked();
    let allowed: Vec<usize> = (0..asked.len())
        .filter(|&n| {
            asked[n].policy.is_some()
                || asked[..n].iter().all(|a| a.policy.is_some() || a.group != asked[n].group)
        })
        .collect();
    if allowed.is_empty() { None } else { Some(*index.get(&allowed)) }
}

proptest! {
    /// One connection sees what a single-threaded Redis would show it, whatever the engine does first, gives back or delays; only
    /// refused requests have no effect.
    #[test]
    fn a_connection_sees_its_requests_in_order(
        ops in prop::collection::vec(op(), 1..40),
        deeds in prop::collection::vec(deed(), 0..120),
    ) {
        let (mut bench, key) = bench();
        bench.send(key, ops.iter().map(Op::request).collect::<String>());
        for deed in &deeds {
            match deed {
                Deed::Answer(index) => choose(&bench, index).into_iter().for_each(|n| bench.answer(n)),
                Deed::Busy(index) => choose(&bench, index).into_iter().for_each(|n| bench.fail(n, BUSY)),
                Deed::Nobody(index) => choose(&bench, index).into_iter().for_each(|n| bench.fail(n, NOBODY)),
                Deed::Pass => bench.pass(3),
            }
        }
        for _ in 0..2_000 {
            bench.answer_all();
            bench.pass(5);
        }
        let received = bench.received(key);
        let mut rest = received.as_str();
        let mut state = [None; 6];
        for op in &ops {
            if rest.starts_with("-CLUSTERDOWN") || rest.starts_with("-BUSY") {
                rest = &rest[rest.find("\r\n").unwrap() + 2..];
                continue;
            }
            let expected = op.execute(&mut state) + "\r\n";
            prop_assert!(rest.starts_with(&expected), "{op:?}: expected {expected:?} at {rest:?}");
            rest = &rest[expected.len()..];
        }
        prop_assert_eq!(rest, "");
        prop_assert!(bench.desk.is_idle(key) && !bench.desk.is_waiting());
        prop_assert_eq!(bench.desk.hub.held_bytes, 0);
    }

    /// Whatever bytes come, in whatever pieces: replies, an error, never a panic; and nothing is left behind.
    #[test]
    fn arbitrary_input_never_panics(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::sample::select(vec![
                "SET a 1\r\n", "GET a\r\n", "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n", "x\r\n", "*2\r\n$3\r\nGET\r\n", "$1\r\na\r\n",
                "MGET {a}1 {a}2\r\n", "DBSIZE\r\n", "HELLO 3\r\n", "CLUSTER SLOTS\r\n", "CLUSTER NODES\r\n", "INFO\r\n", "QUIT\r\n",
                "COMMAND DOCS\r\n", "CONFIG GET *\r\n", "WAIT 0 0\r\n", "LOGDRIVE STATUS\r\n", "*-1\r\n", "\r\n", "SET a b GET NX\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..30),
    ) {
        let (mut bench, key) = bench();
        for piece in &pieces {
            bench.send(key, piece);
            bench.answer_all();
            bench.tell_status(&Default::default());
            bench.received(key);
        }
        bench.answer_all();
        bench.desk.close(key);
        prop_assert_eq!(bench.desk.connections(), 0);
        prop_assert_eq!(bench.connect(), key);
    }
}
