//! The keys of all groups of one core.

use std::io::Write;

use ahash::RandomState;
use hashbrown::HashTable;
use logdrive_shard::GroupId;

use super::codec::{CommandView, Condition, Pairs, QueryView, Strings, put_string};
use super::digest::mix;
use super::reply::{Failure, Reply, put_values};
use crate::api::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies, StateMachine};

/// Key and value in one allocation: a lookup costs one cache miss beside the table's own.
struct Record {
    key_len: u32,
    bytes: Box<[u8]>,
}

impl Record {
    fn new(key: &[u8], value: &[u8]) -> Record {
        Record { key_len: key.len() as u32, bytes: [key, value].concat().into_boxed_slice() }
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }

    /// In place if the length stays the same.
    fn set_value(&mut self, value: &[u8]) {
        if self.value().len() == value.len() {
            self.bytes[self.key_len as usize..].copy_from_slice(value);
        } else {
            *self = Record::new(self.key(), value);
        }
    }
}

/// A [`StateMachine`] of keys and values: see [`Command`](super::Command) and [`Query`](super::Query) for what it understands. A payload that
/// it does not understand is answered with [`Failure::Malformed`] and changes nothing.
pub struct KvMachine {
    /// By slot.
    groups: Vec<HashTable<Record>>,
    hasher: RandomState,
}

impl Default for KvMachine {
    fn default() -> KvMachine {
        KvMachine::new()
    }
}

impl KvMachine {
    /// No groups yet.
    pub fn new() -> KvMachine {
        // Fixed seeds, so that a run repeats. The order of a table is read by nobody.
        let hasher = RandomState::with_seeds(
            0x243F_6A88_85A3_08D3,
            0x1319_8A2E_0370_7344,
            0xA409_3822_299F_31D0,
            0x082E_FA98_EC4E_6C89,
        );
        KvMachine { groups: Vec::new(), hasher }
    }

    /// A key's value, for tests and embedding programs that look inside.
    pub fn get(&self, slot: u32, key: &[u8]) -> Option<&[u8]> {
        let hash = self.hasher.hash_one(key);
        self.groups.get(slot as usize)?.find(hash, |record| record.key() == key).map(Record::value)
    }

    /// Keys of a group.
    pub fn len(&self, slot: u32) -> usize {
        self.groups.get(slot as usize).map_or(0, HashTable::len)
    }

    /// Whether a group has no keys.
    pub fn is_empty(&self, slot: u32) -> bool {
        self.len(slot) == 0
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
        let hash = self.hasher.hash_one(key);
        let group = &mut self.groups[slot as usize];
        let set = match group.find_mut(hash, |record| record.key() == key) {
            Some(record) => {
                if get {
                    Reply::Value(record.value()).encode(reply);
                }
                let set = condition != Condition::IfAbsent;
                if set {
                    record.set_value(value);
                }
                set
            }
            None => {
                if get {
                    Reply::Nil.encode(reply);
                }
                let set = condition != Condition::IfPresent;
                if set {
                    insert(group, &self.hasher, hash, Record::new(key, value));
                }
                set
            }
        };
        if !get {
            let outcome = if set { Reply::Ok } else { Reply::Nil };
            outcome.encode(reply);
        }
    }

    fn delete(&mut self, slot: u32, keys: Strings<'_>) -> Reply<'static> {
        let mut removed = 0;
        for key in keys {
            let hash = self.hasher.hash_one(key);
            if let Ok(found) = self.groups[slot as usize].find_entry(hash, |record| record.key() == key) {
                found.remove();
                removed += 1;
            }
        }
        Reply::Integer(removed)
    }

    fn increment(&mut self, slot: u32, key: &[u8], by: i64) -> Reply<'static> {
        let hash = self.hasher.hash_one(key);
        let group = &mut self.groups[slot as usize];
        let Some(record) = group.find_mut(hash, |record| record.key() == key) else {
            insert(group, &self.hasher, hash, Record::new(key, decimal(by, &mut [0; 20])));
            return Reply::Integer(by);
        };
        let Some(value) = integer(record.value()) else {
            return Reply::Failed(Failure::NotAnInteger);
        };
        let Some(sum) = value.checked_add(by) else {
            return Reply::Failed(Failure::Overflow);
        };
        record.set_value(decimal(sum, &mut [0; 20]));
        Reply::Integer(sum)
    }

    fn set_many(&mut self, slot: u32, pairs: Pairs<'_>) -> Reply<'static> {
        for (key, value) in pairs {
            let hash = self.hasher.hash_one(key);
            let group = &mut self.groups[slot as usize];
            match group.find_mut(hash, |record| record.key() == key) {
                Some(record) => record.set_value(value),
                None => insert(group, &self.hasher, hash, Record::new(key, value)),
            }
        }
        Reply::Ok
    }
}

fn insert(group: &mut HashTable<Record>, hasher: &RandomState, hash: u64, record: Record) {
    group.insert_unique(hash, record, |record| hasher.hash_one(record.key()));
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
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups.clear();
        self.groups.resize_with(groups.len(), HashTable::new);
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = HashTable::new();
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
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
        group.iter().fold(0, |sum: u64, record| {
            // Two checksums from different starts make 64 bits; the lengths tell where the key ends.
            let lengths = u64::from(record.key_len) << 32 | record.bytes.len() as u64;
            let low = u64::from(crc32c::crc32c(&record.bytes));
            let high = u64::from(crc32c::crc32c_append(0x9E37_79B9, record.value()));
            sum.wrapping_add(mix(mix(lengths) ^ (high << 32 | low)))
        })
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        let mut records: Vec<&Record> = self.groups[slot as usize].iter().collect();
        records.sort_unstable_by_key(|record| record.key());
        let mut bytes = Vec::new();
        for record in records {
            put_string(&mut bytes, record.key());
            put_string(&mut bytes, record.value());
        }
        bytes.extend_from_slice(&self.digest(slot).to_le_bytes());
        BytesView::new(bytes)
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(usize::MAX)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        let truncated = BadSnapshot::Truncated { bytes: loading.bytes().len() as u64 };
        let Some((bytes, expected)) = loading.bytes().split_last_chunk() else { return Err(truncated) };
        let expected = u64::from_le_bytes(*expected);
        let pairs = Pairs::checked(bytes).map_err(|_| truncated)?;
        let before = std::mem::take(&mut self.groups[slot as usize]);
        self.set_many(slot, pairs);
        let found = self.digest(slot);
        if found != expected {
            self.groups[slot as usize] = before;
            return Err(BadSnapshot::Digest { expected, found });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
