use std::collections::BTreeMap;

use logdrive_shard::{GroupId, LogIndex};
use proptest::collection::vec;
use proptest::prelude::*;

use super::view::{HEADER_BYTES, RECORD_HEADER_BYTES, TRAILER_BYTES};
use super::*;
use crate::api::{ApplyEntry, BadSnapshot, Replies, StateMachine, VIEWS_PER_GROUP_MAX};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn machine() -> KvMachine {
    let mut machine = KvMachine::new();
    machine.open(&[GroupId(1), GroupId(2)]);
    machine
}

fn apply(machine: &mut KvMachine, slot: u32, command: Command<'_>) {
    let mut payload = Vec::new();
    command.encode(&mut payload);
    let entry =
        ApplyEntry { slot, group: GroupId(u64::from(slot) + 1), index: LogIndex(1), payload: &payload };
    let mut replies = Replies::default();
    machine.apply(&[entry], &mut replies);
    assert_eq!(replies.len(), 1);
}

fn set(machine: &mut KvMachine, slot: u32, key: &[u8], value: &[u8]) {
    apply(machine, slot, Command::Set { key, value, condition: Condition::Always, get: false });
}

fn written(machine: &mut KvMachine, mut view: KvView, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !machine.write_view(&mut view, bytes_max, &mut bytes) {}
    machine.release(view);
    bytes
}

fn snapshot(machine: &mut KvMachine, slot: u32) -> Vec<u8> {
    let view = machine.freeze(slot);
    written(machine, view, 1 << 20)
}

fn load(machine: &mut KvMachine, slot: u32, bytes: &[u8], cut: usize) -> Result<(), BadSnapshot> {
    let mut loading = machine.begin_load(slot);
    for part in bytes.chunks(cut) {
        machine.load_part(&mut loading, part)?;
    }
    machine.finish_load(slot, loading)
}

/// A machine with these keys and no history.
fn fresh(model: &Model) -> KvMachine {
    let mut machine = machine();
    for (key, value) in model {
        set(&mut machine, 0, key, value);
    }
    machine
}

fn holds(machine: &KvMachine, slot: u32, model: &Model) {
    assert_eq!(machine.len(slot), model.len());
    for (key, value) in model {
        assert_eq!(machine.get(slot, key), Some(&value[..]), "key {key:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u16, u8),
    Increment(u16),
    Delete(u16),
    /// Sets so many keys from one on: enough of them split chunks.
    Grow(u16, u16),
    /// Removes so many keys from one on.
    Shrink(u16, u16),
    Freeze,
    /// Writes parts of one of the views.
    Write(usize, usize),
    GiveUp(usize),
    Forget,
    /// Loads what was written last, cut like this.
    Load(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..2000_u16;
    let step = prop_oneof![
        12 => (key.clone(), any::<u8>()).prop_map(|(key, len)| Step::Set(key, len)),
        4 => key.clone().prop_map(Step::Increment),
        6 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), 0..700_u16).prop_map(|(key, count)| Step::Grow(key, count)),
        1 => (key, 0..700_u16).prop_map(|(key, count)| Step::Shrink(key, count)),
        3 => Just(Step::Freeze),
        12 => (any::<usize>(), 1..9000_usize).prop_map(|(view, bytes)| Step::Write(view, bytes)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        1 => Just(Step::Forget),
        1 => (1..5000_usize).prop_map(Step::Load),
    ];
    vec(step, 1..120)
}

fn key(number: u16) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// A view that is being written, and what it must be.
struct Open {
    view: KvView,
    bytes: Vec<u8>,
    model: Model,
    digest: u64,
}

impl Open {
    /// The written bytes are the state at the freeze, and no other bytes are.
    fn check(&self) {
        let mut expected = fresh(&self.model);
        assert_eq!(self.bytes, snapshot(&mut expected, 0), "equal states are equal bytes");
        let mut loaded = machine();
        load(&mut loaded, 1, &self.bytes, 777).unwrap();
        holds(&loaded, 1, &self.model);
        assert_eq!(loaded.digest(1), self.digest);
        assert_eq!(self.bytes, snapshot(&mut loaded, 1), "loaded and written again");
    }
}

/// A machine beside a sorted map, with views of it.
struct Run {
    machine: KvMachine,
    model: Model,
    open: Vec<Open>,
    /// What was written last, and what it was.
    last: Option<(Vec<u8>, Model)>,
}

impl Run {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Set(number, len) => self.set(&key(number), &vec![len; usize::from(len)]),
            Step::Increment(number) => self.increment(&key(number)),
            Step::Delete(number) => self.delete(number..number + 1),
            Step::Grow(from, count) => {
                (from..from + count).for_each(|number| self.set(&key(number), &number.to_le_bytes()));
            }
            Step::Shrink(from, count) => self.delete(from..from + count),
            Step::Freeze => self.freeze(),
            Step::Write(view, bytes_max) => self.write(view, bytes_max),
            Step::GiveUp(view) if !self.open.is_empty() => {
                let open = self.open.swap_remove(view % self.open.len());
                self.machine.release(open.view);
            }
            Step::GiveUp(_) => (),
            Step::Forget => {
                self.machine.forget(0);
                self.model.clear();
            }
            Step::Load(cut) => {
                if let Some((bytes, model)) = &self.last {
                    load(&mut self.machine, 0, bytes, cut).unwrap();
                    self.model.clone_from(model);
                }
            }
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        set(&mut self.machine, 0, key, value);
        self.model.insert(key.to_vec(), value.to_vec());
    }

    fn increment(&mut self, key: &[u8]) {
        apply(&mut self.machine, 0, Command::Increment { key, by: 7 });
        let value = self.model.get(key).map_or(&b"0"[..], |value| value);
        if let Some(number) = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()) {
            self.model.insert(key.to_vec(), (number + 7).to_string().into_bytes());
        }
    }

    fn delete(&mut self, numbers: std::ops::Range<u16>) {
        let keys: Vec<Vec<u8>> = numbers.map(key).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        apply(&mut self.machine, 0, Command::Delete { keys: &keys });
        keys.iter().for_each(|key| drop(self.model.remove(*key)));
    }

    fn freeze(&mut self) {
        if self.open.len() < VIEWS_PER_GROUP_MAX {
            let (view, digest) = (self.machine.freeze(0), self.machine.digest(0));
            self.open.push(Open { view, bytes: Vec::new(), model: self.model.clone(), digest });
        }
    }

    fn write(&mut self, view: usize, bytes_max: usize) {
        if self.open.is_empty() {
            return;
        }
        let place = view % self.open.len();
        let open = &mut self.open[place];
        let before = open.bytes.len();
        let all = self.machine.write_view(&mut open.view, bytes_max, &mut open.bytes);
        let largest = bytes_max.max(RECORD_HEADER_BYTES + 300).max(HEADER_BYTES) + TRAILER_BYTES;
        assert!(open.bytes.len() - before <= largest + HEADER_BYTES, "{} bytes", open.bytes.len() - before);
        if all {
            let open = self.open.swap_remove(place);
            open.check();
            self.machine.release(open.view);
            self.last = Some((open.bytes, open.model));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_view_is_the_state_at_its_freeze_whatever_is_applied_meanwhile(steps in steps()) {
        let mut run = Run { machine: machine(), model: Model::new(), open: Vec::new(), last: None };
        steps.iter().for_each(|step| run.step(step));
        holds(&run.machine, 0, &run.model);
        while !run.open.is_empty() {
            run.write(0, 5000);
        }
        holds(&run.machine, 0, &run.model);
        prop_assert_eq!(run.machine.digest(0), fresh(&run.model).digest(0));
        prop_assert_eq!(run.machine.state_bytes(0), fresh(&run.model).state_bytes(0));
    }

    #[test]
    fn damaged_bytes_are_an_error(
        damage in vec((0..4_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 1..4),
        cut in 1..400_usize,
        keys in 0..60_u32,
    ) {
        let mut from = machine();
        for number in 0..keys {
            set(&mut from, 0, &number.to_le_bytes(), &vec![number as u8; number as usize]);
        }
        let bytes = snapshot(&mut from, 0);
        let mut damaged = bytes.clone();
        for (kind, one, other, bit) in damage {
            let (one, other) = (one.index(damaged.len()), other.index(damaged.len()));
            let (low, high) = (one.min(other), one.max(other));
            match kind {
                0 => damaged[one] ^= 1_u8 << bit,
                1 => damaged.truncate(one.max(1)),
                2 => damaged[low..].rotate_left(high - low),
                _ => damaged.insert(one, bit),
            }
        }
        let mut to = machine();
        set(&mut to, 0, b"old", b"state");
        match load(&mut to, 0, &damaged, cut) {
            Ok(()) => prop_assert_eq!(&damaged, &bytes),
            Err(error) => {
                prop_assert_ne!(&damaged, &bytes, "{}", error);
                prop_assert_eq!(to.get(0, b"old"), Some(&b"state"[..]), "the old state stays");
            }
        }
    }

    #[test]
    fn made_up_bytes_are_an_error(mut bytes in vec(any::<u8>(), 0..200), cut in 1..50_usize, headed in any::<bool>()) {
        if headed && bytes.len() > 16 {
            bytes[..4].copy_from_slice(b"LDKV");
            bytes[4..16].copy_from_slice(&[1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        }
        prop_assert!(load(&mut machine(), 0, &bytes, cut).is_err());
    }
}

/// More with `LOGDRIVE_KV_CASES`.
fn cases() -> u32 {
    std::env::var("LOGDRIVE_KV_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

#[test]
fn records_in_another_order_or_twice_are_an_error() {
    let mut from = machine();
    (0..20_u32).for_each(|number| set(&mut from, 0, &number.to_le_bytes(), b"same"));
    let bytes = snapshot(&mut from, 0);
    let record = RECORD_HEADER_BYTES + 8;
    let mut swapped = bytes.clone();
    swapped[HEADER_BYTES..HEADER_BYTES + 2 * record].rotate_left(record);
    let mut twice = bytes.clone();
    twice.copy_within(HEADER_BYTES..HEADER_BYTES + record, HEADER_BYTES + record);
    for bad in [swapped, twice] {
        let error = load(&mut machine(), 0, &bad, bad.len()).unwrap_err();
        assert!(matches!(error, BadSnapshot::Malformed { at, .. } if at == (HEADER_BYTES + record) as u64));
    }
    let mut newer = bytes.clone();
    newer[4] = 2;
    let error = load(&mut machine(), 0, &newer, 5).unwrap_err();
    assert_eq!(error, BadSnapshot::Version { found: 2, known: 1 });
    let error = load(&mut machine(), 0, &bytes[..bytes.len() - 1], 100).unwrap_err();
    assert_eq!(error, BadSnapshot::Truncated { bytes: bytes.len() as u64 - 1 });
    let longer = [&bytes[..], &[0]].concat();
    let error = load(&mut machine(), 0, &longer, 7).unwrap_err();
    assert_eq!(error, BadSnapshot::Trailing { at: bytes.len() as u64 });
    load(&mut machine(), 0, &bytes, 1).unwrap();
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let mut bytes = snapshot(&mut machine(), 0);
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes.truncate(HEADER_BYTES);
    bytes.extend_from_slice(&(1_u32 << 27).to_le_bytes());
    bytes.extend_from_slice(&(1_u32 << 27).to_le_bytes());
    bytes.extend_from_slice(&[7; 1000]);
    let mut loading = KvLoading::new();
    loading.push(&bytes).unwrap();
    assert!(loading.pending_bytes() < 4096, "{} bytes", loading.pending_bytes());
    let end = HEADER_BYTES + 4;
    bytes[end..end + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = KvLoading::new().push(&bytes).unwrap_err();
    assert!(matches!(error, BadSnapshot::TooLarge { at: 16, .. }), "{error}");
}

#[test]
fn what_a_view_keeps_is_dropped_as_it_is_written_and_when_it_is_given_up() {
    let mut machine = machine();
    let keys: Vec<[u8; 4]> = (0..5000_u32).map(u32::to_le_bytes).collect();
    keys.iter().for_each(|key| set(&mut machine, 0, key, &[1; 100]));
    let quiet = machine.state_bytes(0);
    let mut view = machine.freeze(0);
    let given_up = machine.freeze(0);
    assert_eq!(machine.state_bytes(0), quiet, "freezing copies nothing");
    keys.iter().for_each(|key| set(&mut machine, 0, key, &[2; 100]));
    let busy = machine.state_bytes(0);
    assert!(busy > quiet + 2 * 5000 * 104 && busy < quiet + 2 * 5000 * 150, "{quiet} {busy}");
    machine.release(given_up);
    assert!(machine.state_bytes(0) < quiet + 5000 * 150);
    let mut bytes = Vec::new();
    let mut kept = machine.state_bytes(0);
    while !machine.write_view(&mut view, 50_000, &mut bytes) {
        assert!(machine.state_bytes(0) < kept, "what is written is dropped");
        kept = machine.state_bytes(0);
    }
    assert_eq!(machine.state_bytes(0), quiet);
    keys.iter().for_each(|key| set(&mut machine, 0, key, &[3; 100]));
    assert_eq!(machine.state_bytes(0), quiet, "a written view keeps nothing");
    machine.release(view);
}

#[test]
fn what_is_given_up_is_freed_by_the_calls_that_follow() {
    let mut machine = machine();
    (0..3000_u32).for_each(|number| set(&mut machine, 0, &number.to_le_bytes(), b"value"));
    let bytes = snapshot(&mut machine, 0);
    let views = [machine.freeze(0), machine.freeze(0)];
    machine.forget(0);
    assert!(machine.is_empty(0));
    assert!(!machine.has_garbage(), "the views have the table");
    for view in views {
        machine.release(view);
    }
    assert!(machine.has_garbage());
    for number in 0..40_u32 {
        set(&mut machine, 1, &number.to_le_bytes(), b"value");
    }
    assert!(!machine.has_garbage());
    load(&mut machine, 0, &bytes, 1000).unwrap();
    assert_eq!(machine.len(0), 3000);
}

#[test]
fn views_that_were_dropped_instead_of_released_keep_nothing_for_ever() {
    let mut machine = machine();
    set(&mut machine, 0, b"key", b"value");
    for _ in 0..2 * VIEWS_PER_GROUP_MAX {
        drop(machine.freeze(0));
        set(&mut machine, 0, b"key", b"other");
    }
    let quiet = machine.state_bytes(0);
    set(&mut machine, 0, b"key", b"again");
    assert_eq!(machine.state_bytes(0), quiet);
}
