use std::collections::BTreeMap;

use logdrive_shard::LogIndex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::kv::{Command, Query};

/// An owned reply, to compare with.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Ok,
    Nil,
    Integer(i64),
    Value(Vec<u8>),
    Values(Vec<Option<Vec<u8>>>),
    Failed(Failure),
}

fn answer(bytes: &[u8]) -> Answer {
    match Reply::decode(bytes).unwrap() {
        Reply::Ok => Answer::Ok,
        Reply::Nil => Answer::Nil,
        Reply::Integer(number) => Answer::Integer(number),
        Reply::Value(value) => Answer::Value(value.to_vec()),
        Reply::Values(values) => Answer::Values(values.map(|value| value.map(<[u8]>::to_vec)).collect()),
        Reply::Failed(failure) => Answer::Failed(failure),
    }
}

fn machine() -> KvMachine {
    let mut machine = KvMachine::new();
    machine.open(&[GroupId(1), GroupId(2)]);
    machine
}

fn apply_bytes(machine: &mut KvMachine, slot: u32, payload: &[u8]) -> Answer {
    let mut replies = Replies::default();
    let entry = ApplyEntry { slot, group: GroupId(u64::from(slot) + 1), index: LogIndex(1), payload };
    machine.apply(&[entry], &mut replies);
    assert_eq!(replies.len(), 1);
    answer(replies.get(0))
}

fn apply(machine: &mut KvMachine, command: Command<'_>) -> Answer {
    let mut payload = Vec::new();
    command.encode(&mut payload);
    apply_bytes(machine, 0, &payload)
}

fn ask(machine: &KvMachine, query: Query<'_>) -> Answer {
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    query.encode(&mut request);
    machine.query(0, &request, &mut reply);
    answer(&reply)
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Set { key, value, condition: Condition::Always, get: false }
}

fn value(text: &str) -> Answer {
    Answer::Value(text.as_bytes().to_vec())
}

#[test]
fn set_honours_nx_xx_and_get() {
    let mut m = machine();
    let conditional = |value, condition, get| Command::Set { key: b"k", value, condition, get };
    assert_eq!(apply(&mut m, conditional(b"1", Condition::IfPresent, false)), Answer::Nil);
    assert_eq!(ask(&m, Query::Get { key: b"k" }), Answer::Nil);
    assert_eq!(apply(&mut m, conditional(b"2", Condition::IfAbsent, true)), Answer::Nil);
    assert_eq!(ask(&m, Query::Get { key: b"k" }), value("2"));
    assert_eq!(apply(&mut m, conditional(b"3", Condition::IfAbsent, false)), Answer::Nil);
    assert_eq!(apply(&mut m, conditional(b"4", Condition::IfAbsent, true)), value("2"));
    assert_eq!(ask(&m, Query::Get { key: b"k" }), value("2"));
    assert_eq!(apply(&mut m, conditional(b"55", Condition::IfPresent, true)), value("2"));
    assert_eq!(apply(&mut m, conditional(b"66", Condition::Always, true)), value("55"));
    assert_eq!(apply(&mut m, conditional(b"77", Condition::IfPresent, false)), Answer::Ok);
    assert_eq!(ask(&m, Query::Get { key: b"k" }), value("77"));
}

#[test]
fn incrby_refuses_what_redis_refuses() {
    let mut m = machine();
    let by = |by| Command::Increment { key: b"n", by };
    assert_eq!(apply(&mut m, by(5)), Answer::Integer(5));
    assert_eq!(apply(&mut m, by(-8)), Answer::Integer(-3));
    assert_eq!(ask(&m, Query::Get { key: b"n" }), value("-3"));
    apply(&mut m, set(b"n", b"9223372036854775807"));
    assert_eq!(apply(&mut m, by(1)), Answer::Failed(Failure::Overflow));
    assert_eq!(apply(&mut m, by(-1)), Answer::Integer(i64::MAX - 1));
    apply(&mut m, set(b"n", b"-9223372036854775808"));
    assert_eq!(apply(&mut m, by(-1)), Answer::Failed(Failure::Overflow));
    for text in ["", " 1", "1 ", "+1", "01", "-0", "--1", "-", "1.0", "ten", "9223372036854775808", "\u{0}"] {
        apply(&mut m, set(b"n", text.as_bytes()));
        assert_eq!(apply(&mut m, by(1)), Answer::Failed(Failure::NotAnInteger), "{text:?}");
        assert_eq!(ask(&m, Query::Get { key: b"n" }), value(text));
    }
    apply(&mut m, set(b"n", b"0"));
    assert_eq!(apply(&mut m, by(0)), Answer::Integer(0));
}

#[test]
fn lists_of_keys_count_as_in_redis() {
    let mut m = machine();
    assert_eq!(
        apply(&mut m, Command::SetMany { pairs: &[(b"a", b"1"), (b"b", b"2"), (b"a", b"3")] }),
        Answer::Ok
    );
    assert_eq!(ask(&m, Query::Exists { keys: &[b"a", b"a", b"x"] }), Answer::Integer(2));
    assert_eq!(ask(&m, Query::Count), Answer::Integer(2));
    let values = vec![Some(b"3".to_vec()), None, Some(b"2".to_vec())];
    assert_eq!(ask(&m, Query::GetMany { keys: &[b"a", b"x", b"b"] }), Answer::Values(values));
    assert_eq!(apply(&mut m, Command::Delete { keys: &[b"a", b"a", b"x"] }), Answer::Integer(1));
    assert_eq!(ask(&m, Query::Count), Answer::Integer(1));
    assert_eq!(ask(&m, Query::Digest), Answer::Integer(m.digest(0) as i64));
}

#[test]
fn groups_do_not_share_keys() {
    let mut m = machine();
    apply(&mut m, set(b"k", b"v"));
    assert!(m.is_empty(1) && m.digest(1) == 0);
    assert_eq!((m.get(0, b"k"), m.get(1, b"k")), (Some(&b"v"[..]), None));
}

#[test]
fn what_is_not_a_command_is_answered_and_changes_nothing() {
    let mut m = machine();
    apply(&mut m, set(b"k", b"v"));
    let before = m.digest(0);
    for payload in [&b""[..], b"hello", &[1, 1, 3], &[1, 99, 0], &[2, 1, 0], &[1, 1, 0, 255, 255, 255, 255]] {
        assert_eq!(apply_bytes(&mut m, 0, payload), Answer::Failed(Failure::Malformed));
    }
    assert_eq!(m.digest(0), before);
    let mut reply = Vec::new();
    m.query(0, b"hello", &mut reply);
    assert_eq!(answer(&reply), Answer::Failed(Failure::Malformed));
}

#[test]
fn a_value_of_the_same_length_is_replaced_in_place() {
    let mut m = machine();
    apply(&mut m, set(b"key", &[1; 128]));
    let place = m.get(0, b"key").unwrap().as_ptr();
    apply(&mut m, set(b"key", &[2; 128]));
    assert_eq!(m.get(0, b"key").unwrap().as_ptr(), place);
    assert_eq!(m.get(0, b"key"), Some(&[2; 128][..]));
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<u8>, u8, bool),
    Delete(Vec<u8>),
    Increment(u8, i64),
    SetMany(Vec<(u8, Vec<u8>)>),
    Garbage(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let text = || prop_oneof![vec(any::<u8>(), 0..4), (-20..20_i64).prop_map(|n| n.to_string().into_bytes())];
    prop_oneof![
        3 => (0..6_u8, text(), 0..3_u8, any::<bool>()).prop_map(|(k, v, c, g)| Step::Set(k, v, c, g)),
        1 => vec(0..6_u8, 0..4).prop_map(Step::Delete),
        2 => (0..6_u8, prop_oneof![-9..9_i64, any::<i64>()]).prop_map(|(k, by)| Step::Increment(k, by)),
        1 => vec((0..6_u8, text()), 0..4).prop_map(Step::SetMany),
        1 => vec(any::<u8>(), 0..12).prop_map(|mut bytes| {
            bytes.insert(0, 0); // No version: never a command by accident.
            Step::Garbage(bytes)
        }),
    ]
}

/// What the commands mean, without encoding and without hashing.
fn model(state: &mut BTreeMap<Vec<u8>, Vec<u8>>, step: &Step) -> Option<Answer> {
    Some(match step {
        Step::Set(key, value, condition, get) => {
            let old = state.get(&vec![*key]).cloned();
            let set = *condition == 0 || (*condition == 1) == old.is_none();
            if set {
                state.insert(vec![*key], value.clone());
            }
            match (get, set) {
                (true, _) => old.map_or(Answer::Nil, Answer::Value),
                (false, true) => Answer::Ok,
                (false, false) => Answer::Nil,
            }
        }
        Step::Delete(keys) => {
            Answer::Integer(keys.iter().filter(|key| state.remove(&vec![**key]).is_some()).count() as i64)
        }
        Step::Increment(key, by) => {
            let old = state.get(&vec![*key]).map_or(Some(0), |text| {
                let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
                (number.to_string().as_bytes() == text).then_some(number)
            });
            match old.map(|old| old.checked_add(*by)) {
                None => Answer::Failed(Failure::NotAnInteger),
                Some(None) => Answer::Failed(Failure::Overflow),
                Some(Some(sum)) => {
                    state.insert(vec![*key], sum.to_string().into_bytes());
                    Answer::Integer(sum)
                }
            }
        }
        Step::SetMany(pairs) => {
            state.extend(pairs.iter().map(|(key, value)| (vec![*key], value.clone())));
            Answer::Ok
        }
        Step::Garbage(_) => return None,
    })
}

fn encode(step: &Step) -> Vec<u8> {
    let mut out = Vec::new();
    match step {
        Step::Set(key, value, condition, get) => {
            let condition =
                [Condition::Always, Condition::IfAbsent, Condition::IfPresent][*condition as usize];
            Command::Set { key: &[*key], value, condition, get: *get }.encode(&mut out);
        }
        Step::Delete(keys) => {
            let keys: Vec<&[u8]> = keys.iter().map(std::slice::from_ref).collect();
            Command::Delete { keys: &keys }.encode(&mut out);
        }
        Step::Increment(key, by) => Command::Increment { key: &[*key], by: *by }.encode(&mut out),
        Step::SetMany(pairs) => {
            let pairs: Vec<(&[u8], &[u8])> =
                pairs.iter().map(|(key, value)| (std::slice::from_ref(key), &value[..])).collect();
            Command::SetMany { pairs: &pairs }.encode(&mut out);
        }
        Step::Garbage(bytes) => out.extend_from_slice(bytes),
    }
    out
}

proptest! {
    #[test]
    fn agrees_with_a_sorted_map(steps in vec(step(), 0..60)) {
        let (mut machine, mut again) = (machine(), machine());
        let mut state = BTreeMap::new();
        for step in &steps {
            let payload = encode(step);
            let got = apply_bytes(&mut machine, 0, &payload);
            if let Some(expected) = model(&mut state, step) {
                prop_assert_eq!(&got, &expected, "{:?}", step);
            }
            prop_assert_eq!(got, apply_bytes(&mut again, 0, &payload));
        }
        prop_assert_eq!(machine.len(0), state.len());
        for (key, value) in &state {
            prop_assert_eq!(machine.get(0, key), Some(&value[..]));
        }
        // The digest depends on the state alone, not on how it came about or the order of the table.
        let mut rebuilt = self::machine();
        for (key, value) in state.iter().rev() {
            apply(&mut rebuilt, set(key, value));
        }
        prop_assert_eq!(rebuilt.digest(0), machine.digest(0));
        apply(&mut rebuilt, set(b"one more", b""));
        prop_assert_ne!(rebuilt.digest(0), machine.digest(0));
    }
}
