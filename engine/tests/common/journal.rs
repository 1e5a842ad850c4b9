//! The state machine of the cluster.

use std::cell::Cell;

use logdrive::api::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies, StateMachine};
use logdrive_shard::GroupId;

/// A state machine that keeps all it applied.
#[derive(Default)]
pub struct Journal {
    pub entries: Vec<Vec<(u64, Vec<u8>)>>,
    /// So many snapshots cannot be loaded.
    pub refuses: Cell<u32>,
    /// States being built from snapshots, and how many there were at the same time at most.
    pub loads: (u32, u32),
}

impl StateMachine for Journal {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.entries = groups.iter().map(|_| Vec::new()).collect();
    }

    fn forget(&mut self, slot: u32) {
        self.entries[slot as usize].clear();
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            let journal = &mut self.entries[entry.slot as usize];
            assert!(journal.last().is_none_or(|last| last.0 < entry.index.0), "entries come in order");
            journal.push((entry.index.0, entry.payload.to_vec()));
            replies.push(entry.payload);
        }
    }

    /// The payloads applied, `request` is ignored: their number and the last one.
    fn query(&self, slot: u32, _request: &[u8], reply: &mut Vec<u8>) {
        let journal = &self.entries[slot as usize];
        reply.extend_from_slice(&(journal.len() as u64).to_le_bytes());
        reply.extend_from_slice(journal.last().map_or(&[][..], |last| &last.1));
    }

    fn digest(&self, slot: u32) -> u64 {
        self.entries[slot as usize].iter().fold(0, |digest, (index, payload)| {
            payload
                .iter()
                .fold(digest ^ index, |d, &byte| (d ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        })
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        let mut bytes = Vec::new();
        for (index, payload) in &self.entries[slot as usize] {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(payload);
        }
        BytesView::new(bytes)
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        let (now, most) = self.loads;
        self.loads = (now + 1, most.max(now + 1));
        BytesLoading::new(64 << 20)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        self.loads.0 -= 1;
        let bytes = loading.bytes();
        let truncated = || BadSnapshot::Truncated { bytes: bytes.len() as u64 };
        if let Some(left) = self.refuses.get().checked_sub(1) {
            self.refuses.set(left);
            return Err(truncated());
        }
        let (mut entries, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (index, after) = rest.split_first_chunk().ok_or_else(truncated)?;
            let (len, after) = after.split_first_chunk().ok_or_else(truncated)?;
            let len = u32::from_le_bytes(*len) as usize;
            let (payload, after) = after.split_at_checked(len).ok_or_else(truncated)?;
            entries.push((u64::from_le_bytes(*index), payload.to_vec()));
            rest = after;
        }
        self.entries[slot as usize] = entries;
        Ok(())
    }
}
