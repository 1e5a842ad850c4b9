//! Directories: what a batch did to which stream, said once more by the batch behind it, so that a batch that was damaged is
//! known by its effects. Three to four bytes for an entry in the usual case.

use super::Kind;

/// One effect takes so many bytes at most.
const EFFECT_BYTES_MAX: usize = 10 + 10 + 10 + 1;

/// What records of one kind did to one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) kind: Kind,
    pub(crate) stream: u64,
    /// Indexes of the records, one for each; both 0 for states.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// One entry.
const WHAT_ENTRY: u8 = 0;
/// Entries of consecutive indexes.
const WHAT_ENTRIES: u8 = 1;
/// A state.
const WHAT_STATE: u8 = 2;
/// Another kind, named behind.
const WHAT_OTHER: u8 = 3;

/// The directory of the batch that is being filled. Its memory is taken once.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The directory, and room behind it that one more effect fits into.
    bytes: Vec<u8>,
    len: usize,
    max: usize,
    /// Not written yet: it may still grow.
    pending: Option<Effect>,
    previous_stream: u64,
    previous_index: u64,
}

impl Directory {
    /// For batches whose directories take `max` bytes at most.
    pub(crate) fn new(max: usize) -> Directory {
        let bytes = vec![0; max + 2 * EFFECT_BYTES_MAX];
        Directory { bytes, len: 0, max, pending: None, previous_stream: 0, previous_index: 0 }
    }

    /// Whether a batch with this directory must take no more records.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len + 2 * EFFECT_BYTES_MAX > self.max
    }

    /// Notes a record.
    #[inline]
    pub(crate) fn push(&mut self, kind: Kind, stream: u64, index: u64) {
        if let Some(pending) = &mut self.pending {
            let follows = pending.kind == kind && pending.stream == stream && kind != Kind::State;
            if follows && pending.last.checked_add(1) == Some(index) {
                pending.last = index;
                return;
            }
            let effect = *pending;
            self.write(&effect);
        }
        self.pending = Some(Effect { kind, stream, first: index, last: index });
    }

    /// The whole directory so far.
    pub(crate) fn finish(&mut self) -> &[u8] {
        if let Some(effect) = self.pending.take() {
            self.write(&effect);
        }
        &self.bytes[..self.len]
    }

    /// Takes the content of another one; false if it is larger than this one may be.
    pub(crate) fn take_over(&mut self, mut other: Directory) -> bool {
        other.finish();
        self.clear();
        let fits = other.len <= self.max;
        if fits {
            self.set(&other.bytes[..other.len]);
        }
        fits
    }

    /// Takes a finished directory.
    pub(crate) fn set(&mut self, finished: &[u8]) {
        self.clear();
        self.make_room(finished.len());
        self.bytes[..finished.len()].copy_from_slice(finished);
        self.len = finished.len();
    }

    /// Room for so many bytes more and one effect. A directory that is read may be longer than one that is written.
    fn make_room(&mut self, bytes: usize) {
        let wanted = self.len + bytes + EFFECT_BYTES_MAX;
        if self.bytes.len() < wanted {
            self.bytes.resize(2 * wanted, 0);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.pending = None;
        (self.previous_stream, self.previous_index) = (0, 0);
    }

    fn write(&mut self, effect: &Effect) {
        let what = match effect.kind {
            Kind::Entry if effect.first == effect.last => WHAT_ENTRY,
            Kind::Entry => WHAT_ENTRIES,
            Kind::State => WHAT_STATE,
            _ => WHAT_OTHER,
        };
        self.make_room(0);
        let out = &mut self.bytes[self.len..];
        let stream = zigzag(effect.stream.wrapping_sub(self.previous_stream));
        self.previous_stream = effect.stream;
        let mut at = match stream < 1 << 62 {
            true => put_varint(out, 0, stream << 2 | u64::from(what)),
            false => put_wide_head(out, stream, what),
        };
        if what != WHAT_STATE {
            if what == WHAT_OTHER {
                out[at] = effect.kind.code() as u8;
                at += 1;
            }
            at = put_varint(out, at, zigzag(effect.last.wrapping_sub(self.previous_index)));
            self.previous_index = effect.last;
            if what != WHAT_ENTRY {
                at = put_varint(out, at, effect.last - effect.first);
            }
        }
        self.len += at;
    }
}

fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    (signed << 1 ^ signed >> 63) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// Writes a number at `at` and returns where it ends. One or two bytes are the rule.
#[inline]
fn put_varint(out: &mut [u8], at: usize, mut value: u64) -> usize {
    if value < 0x80 {
        out[at] = value as u8;
        return at + 1;
    }
    if value < 0x4000 {
        out[at..at + 2].copy_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
        return at + 2;
    }
    let mut at = at;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        (at, value) = (at + 1, value >> 7);
    }
    out[at] = value as u8;
    at + 1
}

/// The first number of an effect, where it has more than 64 bits: the lowest seven by themselves, then the rest.
#[cold]
fn put_wide_head(out: &mut [u8], stream: u64, what: u8) -> usize {
    out[0] = (stream << 2) as u8 & 0x7f | what | 0x80;
    put_varint(out, 1, stream >> 5)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u128> {
    let mut value = 0u128;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u128::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The effects in a directory, in the order of the records. Ends early if the bytes make no sense.
pub(crate) struct Effects<'a> {
    bytes: &'a [u8],
    previous_stream: u64,
    previous_index: u64,
}

impl<'a> Effects<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Effects<'a> {
        Effects { bytes, previous_stream: 0, previous_index: 0 }
    }

    fn read(&mut self) -> Option<Effect> {
        let head = take_varint(&mut self.bytes)?;
        let what = (head & 3) as u8;
        let stream = self.previous_stream.wrapping_add(unzigzag(u64::try_from(head >> 2).ok()?));
        self.previous_stream = stream;
        if what == WHAT_STATE {
            return Some(Effect { kind: Kind::State, stream, first: 0, last: 0 });
        }
        let mut kind = Kind::Entry;
        if what == WHAT_OTHER {
            let (&code, rest) = self.bytes.split_first()?;
            kind = Kind::from_code(u32::from(code))?;
            self.bytes = rest;
        }
        let index = u64::try_from(take_varint(&mut self.bytes)?).ok()?;
        let last = self.previous_index.wrapping_add(unzigzag(index));
        self.previous_index = last;
        let count = if what == WHAT_ENTRY { 0 } else { u64::try_from(take_varint(&mut self.bytes)?).ok()? };
        Some(Effect { kind, stream, first: last.checked_sub(count)?, last })
    }
}

impl Iterator for Effects<'_> {
    type Item = Effect;

    fn next(&mut self) -> Option<Effect> {
        if self.bytes.is_empty() {
            return None;
        }
        let effect = self.read();
        if effect.is_none() {
            self.bytes = &[];
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn effects(records: &[(Kind, u64, u64)]) -> Vec<u8> {
        let mut directory = Directory::new(1 << 20);
        records.iter().for_each(|&(kind, stream, index)| directory.push(kind, stream, index));
        directory.finish().to_vec()
    }

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn effects_expand_to_the_records_they_were_made_of(
            records in proptest::collection::vec(
                (prop_oneof![
                    Just(Kind::Entry), Just(Kind::State), Just(Kind::Compacted), Just(Kind::Repair)
                ], any_number(), any_number()), 0..50)
        ) {
            let records: Vec<(Kind, u64, u64)> = records
                .into_iter()
                .map(|(kind, stream, index)| (kind, stream, if kind == Kind::State { 0 } else { index }))
                .collect();
            let bytes = effects(&records);
            let mut expanded = Vec::new();
            for effect in Effects::new(&bytes) {
                expanded.extend((effect.first..=effect.last).map(|index| (effect.kind, effect.stream, index)));
            }
            prop_assert_eq!(expanded, records);
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Effects::new(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn an_entry_takes_few_bytes_in_the_usual_shape() {
        // One entry each of 390 of 1,024 streams, in no order, at indexes that are near each other and not small.
        let records: Vec<(Kind, u64, u64)> =
            (0..390).map(|n| (Kind::Entry, n * 619 % 1024, 1_000_000 + n * 37 % 100)).collect();
        let bytes = effects(&records).len() as f64 / 390.0;
        println!("{bytes:.2} bytes per entry");
        assert!(bytes <= 4.5, "{bytes}");
    }
}
