//! The replicated state: a counter per group, and a digest of what was counted.

use std::cell::RefCell;
use std::rc::Rc;

use logdrive::api::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies, StateMachine};
use logdrive_shard::{GroupId, NodeId};

use super::checker::Checker;

#[derive(Clone, Copy, Default)]
struct Counter {
    count: u64,
    digest: u64,
}

/// Tells the checker of everything it applies. Payloads begin with the operation's number.
pub(crate) struct Register {
    node: NodeId,
    checker: Rc<RefCell<Checker>>,
    groups: Vec<Counter>,
}

impl Register {
    pub(crate) fn new(node: NodeId, checker: Rc<RefCell<Checker>>) -> Register {
        Register { node, checker, groups: Vec::new() }
    }

    pub(crate) fn count(&self, slot: u32) -> u64 {
        self.groups[slot as usize].count
    }
}

impl StateMachine for Register {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups = vec![Counter::default(); groups.len()];
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = Counter::default();
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        let mut checker = self.checker.borrow_mut();
        for entry in entries {
            let counter = &mut self.groups[entry.slot as usize];
            let op = u64::from_le_bytes(entry.payload[..8].try_into().expect("eight bytes"));
            checker.on_apply(self.node, entry.group, counter.count, entry.index, op);
            counter.count += 1;
            counter.digest = counter.digest.rotate_left(7) ^ u64::from(crc32c::crc32c(entry.payload));
            replies.push(&counter.count.to_le_bytes());
        }
    }

    fn query(&self, slot: u32, _request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(&self.groups[slot as usize].count.to_le_bytes());
    }

    fn digest(&self, slot: u32) -> u64 {
        self.groups[slot as usize].digest
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        let counter = self.groups[slot as usize];
        BytesView::new([counter.count.to_le_bytes(), counter.digest.to_le_bytes()].concat())
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(16)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        let state = u128::from_le_bytes(loading.exactly()?);
        self.groups[slot as usize] = Counter { count: state as u64, digest: (state >> 64) as u64 };
        Ok(())
    }
}
