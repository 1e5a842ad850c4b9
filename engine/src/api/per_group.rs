//! A state machine out of the state of one small group.

use logdrive_shard::GroupId;

use super::{ApplyEntry, BadSnapshot, BytesLoading, BytesView, Replies, StateMachine};

/// The state of one group that is small enough to be copied whenever a snapshot is taken or a digest is asked for: some
/// kilobytes. [`PerGroup`] makes a [`StateMachine`] of it.
pub trait GroupState: Default + 'static {
    /// What [`save`](GroupState::save) may write at most; a snapshot that is longer is refused before it fills the memory.
    const BYTES_MAX: usize = 1 << 20;

    /// Applies an entry and appends the reply. The result depends on nothing but the entries.
    fn apply(&mut self, entry: &ApplyEntry<'_>, reply: &mut Vec<u8>);
    /// Answers a read; appends the reply.
    fn query(&self, request: &[u8], reply: &mut Vec<u8>);
    /// Appends the state. Equal states append equal bytes: the digest is computed from them.
    fn save(&self, out: &mut Vec<u8>);
    /// The state that was saved. The bytes may be anybody's: check them ([`exactly`](super::exactly) helps with fixed sizes).
    fn load(bytes: &[u8]) -> Result<Self, BadSnapshot>;
}

/// One [`GroupState`] per group, each beginning as its default.
#[derive(Clone, Debug, Default)]
pub struct PerGroup<S> {
    groups: Vec<S>,
}

impl<S> PerGroup<S> {
    /// The state of a group; `None` before [`StateMachine::open`] and beyond the groups it was given.
    pub fn state(&self, slot: u32) -> Option<&S> {
        self.groups.get(slot as usize)
    }
}

impl<S: GroupState> PerGroup<S> {
    fn saved(&self, slot: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.groups[slot as usize].save(&mut bytes);
        bytes
    }
}

impl<S: GroupState> StateMachine for PerGroup<S> {
    type View = BytesView;
    type Loading = BytesLoading;

    fn open(&mut self, groups: &[GroupId]) {
        self.groups.clear();
        self.groups.resize_with(groups.len(), S::default);
    }

    fn forget(&mut self, slot: u32) {
        self.groups[slot as usize] = S::default();
    }

    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        for entry in entries {
            let group = &mut self.groups[entry.slot as usize];
            replies.push_with(|reply| group.apply(entry, reply));
        }
    }

    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>) {
        self.groups[slot as usize].query(request, reply);
    }

    fn digest(&self, slot: u32) -> u64 {
        let bytes = self.saved(slot);
        // Two checksums from different starts make 64 bits.
        u64::from(crc32c::crc32c(&bytes)) | u64::from(crc32c::crc32c_append(!0x9E37_79B9, &bytes[..])) << 32
    }

    fn freeze(&mut self, slot: u32) -> BytesView {
        BytesView::new(self.saved(slot))
    }

    fn write_view(&self, view: &mut BytesView, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        view.write(bytes_max, out)
    }

    fn release(&mut self, _view: BytesView) {}

    fn begin_load(&mut self, _slot: u32) -> BytesLoading {
        BytesLoading::new(S::BYTES_MAX)
    }

    fn load_part(&mut self, loading: &mut BytesLoading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        loading.push(bytes)
    }

    fn finish_load(&mut self, slot: u32, loading: BytesLoading) -> Result<(), BadSnapshot> {
        self.groups[slot as usize] = S::load(loading.bytes())?;
        Ok(())
    }

    fn state_bytes(&self, _slot: u32) -> u64 {
        size_of::<S>() as u64
    }
}

#[cfg(test)]
mod tests {
    use logdrive_shard::LogIndex;

    use super::*;
    use crate::api::exactly;

    #[derive(Default)]
    struct Sum(u64);

    impl GroupState for Sum {
        const BYTES_MAX: usize = 8;

        fn apply(&mut self, entry: &ApplyEntry<'_>, reply: &mut Vec<u8>) {
            self.0 += entry.payload.len() as u64;
            self.save(reply);
        }

        fn query(&self, _request: &[u8], reply: &mut Vec<u8>) {
            self.save(reply);
        }

        fn save(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0.to_le_bytes());
        }

        fn load(bytes: &[u8]) -> Result<Sum, BadSnapshot> {
            Ok(Sum(u64::from_le_bytes(exactly(bytes)?)))
        }
    }

    fn add(machine: &mut PerGroup<Sum>, payload: &[u8]) {
        let mut replies = Replies::default();
        let entry = ApplyEntry { slot: 1, group: GroupId(2), index: LogIndex(1), payload };
        machine.apply(&[entry], &mut replies);
        assert_eq!(replies.get(0), machine.state(1).unwrap().0.to_le_bytes());
    }

    #[test]
    fn a_view_keeps_its_state_and_loads_into_another_machine() {
        let (mut from, mut to) = (PerGroup::<Sum>::default(), PerGroup::<Sum>::default());
        from.open(&[GroupId(1), GroupId(2)]);
        to.open(&[GroupId(1), GroupId(2)]);
        add(&mut from, b"abc");
        let digest = from.digest(1);
        let mut view = from.freeze(1);
        add(&mut from, b"de");
        let mut bytes = Vec::new();
        while !from.write_view(&mut view, 3, &mut bytes) {}
        from.release(view);

        let mut loading = to.begin_load(1);
        for part in bytes.chunks(5) {
            to.load_part(&mut loading, part).unwrap();
        }
        assert_eq!(to.state(1).unwrap().0, 0, "the old state is in use until the load is finished");
        to.finish_load(1, loading).unwrap();
        assert_eq!((to.state(1).unwrap().0, to.state(0).unwrap().0, to.digest(1)), (3, 0, digest));
        assert_ne!(digest, from.digest(1));
    }

    #[test]
    fn a_bad_snapshot_leaves_the_old_state() {
        let mut machine = PerGroup::<Sum>::default();
        machine.open(&[GroupId(1), GroupId(2)]);
        add(&mut machine, b"abc");
        let mut loading = machine.begin_load(1);
        machine.load_part(&mut loading, &[7; 5]).unwrap();
        assert_eq!(machine.finish_load(1, loading), Err(BadSnapshot::Truncated { bytes: 5 }));
        let mut loading = machine.begin_load(1);
        assert!(matches!(machine.load_part(&mut loading, &[7; 9]), Err(BadSnapshot::TooLarge { .. })));
        assert_eq!(machine.state(1).unwrap().0, 3);
        machine.forget(1);
        assert_eq!(machine.state(1).unwrap().0, 0);
    }
}
