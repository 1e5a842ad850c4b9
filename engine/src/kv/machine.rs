//! The keys of all groups of one core.

use std::io::Write;
use std::rc::Rc;

use logdrive_shard::GroupId;

use super::codec::{CommandView, Condition, Pairs, QueryView, Strings};
use super::garbage::Garbage;
use super::load::KvLoading;
use super::reply::{Failure, Reply, put_values};
use super::table::{Record, Table};
use super::view::KvView;
use crate::api::{ApplyEntry, BadSnapshot, Replies, StateMachine};

/// A [`StateMachine`] of keys and values: see [`Command`](super::Command) and [`Query`](super::Query) for what it understands. A payload that
/// it does not understand is answered with [`Failure::Malformed`] and changes nothing.
///
/// A group is frozen in constant time. While a view of it is alive, the first change of a key that the view has not written keeps
/// the value before; a view that is written drops what was kept as it goes. Views that are given up, states that were replaced and
/// groups that were forgotten are freed bit by bit with the calls that follow.
#[derive(Default)]
pub struct KvMachine {
    /// By slot.
    groups: Vec<Table>,
    garbage: Garbage,
}

impl KvMachine {
    /// No groups yet.
    pub fn new() -> KvMachine {
        KvMachine::default()
    }

    /// A key's value, for tests and embedding programs that look inside.
    pub fn get(&self, slot: u32, key: &[u8]) -> Option<&[u8]> {
        self.groups.get(slot as usize)?.get(key)
    }

    /// Keys of a group.
    pub fn len(&self, slot: u32) -> usize {
        self.groups.get(slot as usize).map_or(0, Table::len)
    }

    /// Whether a group has no keys.
    pub fn is_empty(&self, slot: u32) -> bool {
        self.len(slot) == 0
    }

    /// Whether anything waits to be freed.
    #[cfg(test)]
    pub(super) fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    fn execute(&mut self, slot: u32, payload: &[u8], reply: &mut Vec<u8>) {
        match CommandView::decode(payload) {
            Ok(CommandView::Set { key, value, condition, get }) => {
                self.set(slot, key, value, condition, get, reply);
            }
            Ok(CommandView::Delete { keys }) => self.delete(slot, keys).encode(reply),
            Ok(CommandView::Increment { key, by }) => self.increment(slot, key, by).encode(reply),
            Ok(CommandView::SetMany { pairs }) => self.set_many(slot, pairs).encode(reply),
            Err(_) => Reply::Failed(Failure::Malformed).encode(reply),
        }
    }

    fn set(
        &mut self,
        slot: u32,
        key: &[u8],
        value: &[u8],
        condition: Condition,
        get: bool,
        reply: &mut Vec<u8>,
    ) {
        let set = self.groups[slot as usize].change(key, |before| {
            if get {
                before.map_or(Reply::Nil, Reply::Value).encode(reply);
            }
            let set = match condition {
                Condition::Always => true,
                Condition::IfAbsent => before.is_none(),
                Condition::IfPresent => before.is_some(),
            };
            (set.then_some(value), set)
        });
        if !get {
            let outcome = if set { Reply::Ok } else { Reply::Nil };
            outcome.encode(reply);
        }
    }

    fn delete(&mut self, slot: u32, keys: Strings<'_>) -> Reply<'static> {
        let group = &mut self.groups[slot as usize];
        Reply::Integer(keys.filter(|key| group.remove(key)).count() as i64)
    }

    fn increment(&mut self, slot: u32, key: &[u8], by: i64) -> Reply<'static> {
        let buffer = &mut [0; 20];
        self.groups[slot as usize].change(key, move |before| {
            let Some(value) = before.map_or(Some(0), integer) else {
                return (None, Reply::Failed(Failure::NotAnInteger));
            };
            match value.checked_add(by) {
                Some(sum) => (Some(decimal(sum, buffer)), Reply::Integer(sum)),
                None => (None, Reply::Failed(Failure::Overflow)),
            }
        })
    }

    fn set_many(&mut self, slot: u32, pairs: Pairs<'_>) -> Reply<'static> {
        let group = &mut self.groups[slot as usize];
        for (key, value) in pairs {
            group.change(key, |_| (Some(value), ()));
        }
        Reply::Ok
    }

    /// Gives a group another state; views of the one before keep it.
    fn replace(&mut self, slot: u32, table: Table) {
        let before = std::mem::replace(&mut self.groups[slot as usize], table);
        if let Some(table) = before.retire() {
            self.garbage.add_table(table);
        }
    }
}

/// An integer's decimal form, of at most 20 bytes, without an allocation.
fn decimal(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut left = &mut buffer[..];
    write!(left, "{number}").expect("an integer of 64 bits has at most 19 digits and a sign");
    let len = 20 - left.len();
    &buffer[..len]
}

/// An integer as Redis reads it: the shortest decimal form and nothing else.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let shortest = match digits {
        [b'0'] => text.len() == 1,
        [first, ..] => *first != b'0' && digits.iter().all(u8::is_ascii_digit),
        [] => false,
    };
    if shortest { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

impl StateMachine for KvMachine {
    type View = KvView;
    type Loading = KvLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups.clear();
        self.groups.resize_with(groups.len(), Table::default);
    }

    fn forget(&mut self, slot: u32) {
        self.replace(slot, Table::default());
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        if !self.garbage.is_empty() {
            self.garbage.sweep();
        }
        for entry in entries {
            replies.push_with(|reply| self.execute(entry.slot, entry.payload, reply));
        }
    }

    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>) {
        match QueryView::decode(request) {
            Ok(QueryView::Get { key }) => {
                self.get(slot, key).map_or(Reply::Nil, Reply::Value).encode(reply);
            }
            Ok(QueryView::GetMany { keys }) => put_values(reply, keys.map(|key| self.get(slot, key))),
            Ok(QueryView::Exists { keys }) => {
                let count = keys.filter(|key| self.get(slot, key).is_some()).count();
                Reply::Integer(count as i64).encode(reply);
            }
            Ok(QueryView::Count) => Reply::Integer(self.len(slot) as i64).encode(reply),
            Ok(QueryView::Digest) => Reply::Integer(self.digest(slot) as i64).encode(reply),
            Err(_) => Reply::Failed(Failure::Malformed).encode(reply),
        }
    }

    /// A sum over all keys and values, so that the order of the table does not matter. Costs a pass over the group.
    fn digest(&self, slot: u32) -> u64 {
        let Some(group) = self.groups.get(slot as usize) else { return 0 };
        group.iter().map(Record::digest).fold(0, u64::wrapping_add)
    }

    fn freeze(&mut self, slot: u32) -> KvView {
        self.garbage.sweep();
        KvView::new(slot, self.groups[slot as usize].freeze())
    }

    fn write_view(&self, view: &mut KvView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(&self.groups[view.slot as usize], bytes_max, out)
    }

    fn release(&mut self, view: KvView) {
        self.groups[view.slot as usize].release(&view.overlay);
        if let Some(overlay) = Rc::into_inner(view.overlay) {
            self.garbage.add_view(overlay.into_inner());
        }
    }

    fn begin_load(&mut self, _slot: u32) -> KvLoading {
        KvLoading::new()
    }

    fn load_part(&mut self, loading: &mut KvLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        self.garbage.sweep();
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: KvLoading) -> Result<(), BadSnapshot> {
        self.replace(slot, loading.finish()?);
        Ok(())
    }

    fn state_bytes(&self, slot: u32) -> u64 {
        self.groups.get(slot as usize).map_or(0, Table::state_bytes)
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
