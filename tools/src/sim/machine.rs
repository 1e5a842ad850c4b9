//! The replicated state: a counter per group and a digest of what was counted, alone or in front of the product's key-value
//! machine. It tells of everything it applies.
//!
//! A payload is the number of the attempt (8 bytes, little-endian), then padding (register) or a command (key-value). A reply is the
//! group's counter after the command (8 bytes), then the reply of the key-value machine.

use std::cell::RefCell;
use std::rc::Rc;

use logdrive::api::{ApplyEntry, BadSnapshot, Replies, StateMachine};
use logdrive::kv::KvMachine;
use logdrive_shard::{GroupId, LogIndex};

use super::plan::MachineKind;

/// An entry that a node applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The group.
    pub group: GroupId,
    /// Its slot on the core.
    pub slot: u32,
    /// How many the group had applied here before.
    pub place: u64,
    /// The entry's index.
    pub index: LogIndex,
    /// The attempt that proposed it; `None` if the payload is none of ours.
    pub attempt: Option<u64>,
    /// Checksum of the payload.
    pub crc: u32,
}

/// The digest of a group's commands after one more with this checksum.
pub fn next_digest(digest: u64, crc: u32) -> u64 {
    digest.rotate_left(7) ^ u64::from(crc)
}

/// What was applied since somebody looked.
pub type AppliedLog = Rc<RefCell<Vec<Applied>>>;

#[derive(Clone, Copy, Default)]
struct Counter {
    count: u64,
    digest: u64,
}

/// The state of all groups of a core.
pub struct Machine {
    applied: AppliedLog,
    groups: Vec<Counter>,
    kv: Option<KvMachine>,
    /// Bytes that follow the counter in snapshots.
    filler_bytes: u32,
    /// The key-value machine's replies of this call.
    replies: Replies,
}

impl Machine {
    /// A machine that tells into `applied`.
    pub fn new(kind: MachineKind, filler_bytes: u32, applied: AppliedLog) -> Machine {
        let kv = (kind == MachineKind::Kv).then(KvMachine::new);
        Machine { applied, groups: Vec::new(), kv, filler_bytes, replies: Replies::default() }
    }

    /// Commands counted in a group, and the digest of what was counted.
    pub fn counted(&self, slot: u32) -> (u64, u64) {
        let Counter { count, digest } = self.groups[slot as usize];
        (count, digest)
    }

    /// Commands counted in a group.
    pub fn count(&self, slot: u32) -> u64 {
        self.groups[slot as usize].count
    }

    fn count_up(&mut self, entry: &ApplyEntry<'_>) {
        let counter = &mut self.groups[entry.slot as usize];
        let attempt = entry.payload.first_chunk().copied().map(u64::from_le_bytes);
        let crc = crc32c::crc32c(entry.payload);
        self.applied.borrow_mut().push(Applied {
            group: entry.group,
            slot: entry.slot,
            place: counter.count,
            index: entry.index,
            attempt,
            crc,
        });
        counter.count += 1;
        counter.digest = next_digest(counter.digest, crc);
    }
}

/// Bytes of the counter in a snapshot, before what the key-value machine writes.
const HEADER: usize = 16;

/// Byte `at` of the filler of a state: a file that is put together from two states does not load.
fn filler(digest: u64, at: u32) -> u8 {
    (digest.rotate_left(at % 61) ^ u64::from(at)).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0]
}

/// A frozen state: the counter, and the view of the key-value machine.
pub struct View {
    counter: [u8; HEADER],
    digest: u64,
    /// Bytes of counter and filler that were written.
    written: u32,
    kv: Option<<KvMachine as StateMachine>::View>,
}

/// A state that is being loaded.
pub struct Loading {
    counter: Vec<u8>,
    /// Bytes of filler that came.
    filler: u32,
    kv: Option<<KvMachine as StateMachine>::Loading>,
}

impl StateMachine for Machine {
    type View = View;
    type Loading = Loading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups = vec![Counter::default(); groups.len()];
        if let Some(kv) = &mut self.kv {
            kv.open(groups);
        }
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = Counter::default();
        if let Some(kv) = &mut self.kv {
            kv.forget(slot);
        }
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            self.count_up(entry);
            let count = self.groups[entry.slot as usize].count;
            let Some(kv) = &mut self.kv else {
                replies.push(&count.to_le_bytes());
                continue;
            };
            self.replies.clear();
            let payload = entry.payload.get(8..).unwrap_or_default();
            kv.apply(&[ApplyEntry { payload, ..*entry }], &mut self.replies);
            replies.push_with(|bytes| {
                bytes.extend_from_slice(&count.to_le_bytes());
                bytes.extend_from_slice(self.replies.get(0));
            });
        }
    }

    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.groups[slot as usize].count.to_le_bytes());
        if let Some(kv) = &self.kv
            && !request.is_empty()
        {
            kv.query(slot, request, reply);
        }
    }

    fn digest(&self, slot: u32) -> u64 {
        self.groups[slot as usize].digest ^ self.kv.as_ref().map_or(0, |kv| kv.digest(slot))
    }
    fn freeze(&mut self, slot: u32) -> View {
        let Counter { count, digest } = self.groups[slot as usize];
        let counter = (u128::from(count) | u128::from(digest) << 64).to_le_bytes();
        View { counter, digest, written: 0, kv: self.kv.as_mut().map(|kv| kv.freeze(slot)) }
    }

    fn write_view(&self, view: &mut View, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let own = HEADER as u32 + self.filler_bytes;
        if view.written < own {
            let end = own.min(view.written.saturating_add(bytes_max.max(HEADER) as u32));
            out.extend((view.written..end).map(|at| match at.checked_sub(HEADER as u32) {
                None => view.counter[at as usize],
                Some(at) => filler(view.digest, at),
            }));
            view.written = end;
            return end == own && view.kv.is_none();
        }
        match (&self.kv, &mut view.kv) {
            (Some(kv), Some(view)) => kv.write_view(view, bytes_max, out),
            _ => true,
        }
    }

    fn release(&mut self, view: View) {
        if let (Some(kv), Some(view)) = (&mut self.kv, view.kv) {
            kv.release(view);
        }
    }

    fn begin_load(&mut self, slot: u32) -> Loading {
        Loading { counter: Vec::new(), filler: 0, kv: self.kv.as_mut().map(|kv| kv.begin_load(slot)) }
    }

    fn load_part(&mut self, loading: &mut Loading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        let take = bytes.len().min(HEADER - loading.counter.len());
        let (counter, rest) = bytes.split_at(take);
        loading.counter.extend_from_slice(counter);
        let (own, rest) = rest.split_at(rest.len().min((self.filler_bytes - loading.filler) as usize));
        let digest = loading.counter.last_chunk().copied().map_or(0, u64::from_le_bytes);
        for &byte in own {
            if byte != filler(digest, loading.filler) {
                let at = HEADER as u64 + u64::from(loading.filler);
                return Err(BadSnapshot::Malformed {
                    at,
                    what: "a filler of another state",
                    found: byte.into(),
                });
            }
            loading.filler += 1;
        }
        match (&mut self.kv, &mut loading.kv) {
            (Some(kv), Some(loading)) if !rest.is_empty() => kv.load_part(loading, rest),
            (None, None) if !rest.is_empty() => Err(BadSnapshot::Trailing { at: HEADER as u64 }),
            _ => Ok(()),
        }
    }

    fn finish_load(&mut self, slot: u32, loading: Loading) -> Result<(), BadSnapshot> {
        let bytes = loading.counter.len() as u64 + u64::from(loading.filler);
        if loading.filler < self.filler_bytes {
            return Err(BadSnapshot::Truncated { bytes });
        }
        let Ok(counter) = <[u8; HEADER]>::try_from(loading.counter) else {
            return Err(BadSnapshot::Truncated { bytes });
        };
        if let (Some(kv), Some(loading)) = (&mut self.kv, loading.kv) {
            kv.finish_load(slot, loading)?;
        }
        let state = u128::from_le_bytes(counter);
        self.groups[slot as usize] = Counter { count: state as u64, digest: (state >> 64) as u64 };
        Ok(())
    }

    fn state_bytes(&self, slot: u32) -> u64 {
        HEADER as u64 + u64::from(self.filler_bytes) + self.kv.as_ref().map_or(0, |kv| kv.state_bytes(slot))
    }
}
