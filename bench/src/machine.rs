//! The state machines that a run can be done with, and a count of what they applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use logdrive::api::{ApplyEntry, BadSnapshot, Replies, StateMachine};
use logdrive::kv::{Command, Condition, DigestMachine, KvMachine};
use logdrive_shard::GroupId;

use crate::cli::MachineKind;

enum Machine {
    Digest(DigestMachine),
    Kv(Box<KvMachine>),
}

/// One of the machines; it counts what it applies, so that the check at the end need not ask the node's own counters.
pub(crate) struct Counted {
    machine: Machine,
    applied: Arc<AtomicU64>,
}

impl Counted {
    pub(crate) fn new(kind: MachineKind, applied: Arc<AtomicU64>) -> Counted {
        let machine = match kind {
            MachineKind::Digest => Machine::Digest(DigestMachine::new()),
            MachineKind::Kv => Machine::Kv(Box::new(KvMachine::new())),
        };
        Counted { machine, applied }
    }

    /// Entries applied so far.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }
}

/// Keys of a group that the key-value machine's clients set: few, so that the machine's memory does not grow with the run.
pub(crate) const KEYS_PER_GROUP: u64 = 64;

/// Encodes setting a key, which `random` chooses, to `value`.
pub(crate) fn kv_command(value: &[u8], random: u64, out: &mut Vec<u8>) {
    let key = (random % KEYS_PER_GROUP).to_be_bytes();
    out.clear();
    Command::Set { key: &key, value, condition: Condition::Always, get: false }.encode(out);
}

/// A view of either machine.
pub(crate) enum View {
    Digest(<DigestMachine as StateMachine>::View),
    Kv(<KvMachine as StateMachine>::View),
}

/// A state that is being loaded into either machine.
pub(crate) enum Loading {
    Digest(<DigestMachine as StateMachine>::Loading),
    Kv(<KvMachine as StateMachine>::Loading),
}

/// A run has one kind of machine, and all its views and loads are of this kind.
const OTHER_KIND: &str = "a view or load goes back to the machine it came from";

impl StateMachine for Counted {
    type View = View;
    type Loading = Loading;

    fn open(&mut self, groups: &[GroupId]) {
        match &mut self.machine {
            Machine::Digest(machine) => machine.open(groups),
            Machine::Kv(machine) => machine.open(groups),
        }
    }
    fn forget(&mut self, slot: u32) {
        match &mut self.machine {
            Machine::Digest(machine) => machine.forget(slot),
            Machine::Kv(machine) => machine.forget(slot),
        }
    }
    fn apply(&mut self, entries: &[ApplyEntry<'_>], replies: &mut Replies) {
        match &mut self.machine {
            Machine::Digest(machine) => machine.apply(entries, replies),
            Machine::Kv(machine) => machine.apply(entries, replies),
        }
        // One addition per turn of a core, not per entry.
        self.applied.fetch_add(entries.len() as u64, Ordering::Release);
    }
    fn query(&self, slot: u32, request: &[u8], reply: &mut Vec<u8>) {
        match &self.machine {
            Machine::Digest(machine) => machine.query(slot, request, reply),
            Machine::Kv(machine) => machine.query(slot, request, reply),
        }
    }
    fn digest(&self, slot: u32) -> u64 {
        match &self.machine {
            Machine::Digest(machine) => machine.digest(slot),
            Machine::Kv(machine) => machine.digest(slot),
        }
    }
    fn freeze(&mut self, slot: u32) -> View {
        match &mut self.machine {
            Machine::Digest(machine) => View::Digest(machine.freeze(slot)),
            Machine::Kv(machine) => View::Kv(machine.freeze(slot)),
        }
    }
    fn write_view(&self, view: &mut View, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        match (&self.machine, view) {
            (Machine::Digest(machine), View::Digest(view)) => machine.write_view(view, bytes_max, out),
            (Machine::Kv(machine), View::Kv(view)) => machine.write_view(view, bytes_max, out),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }
    fn release(&mut self, view: View) {
        match (&mut self.machine, view) {
            (Machine::Digest(machine), View::Digest(view)) => machine.release(view),
            (Machine::Kv(machine), View::Kv(view)) => machine.release(view),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }
    fn begin_load(&mut self, slot: u32) -> Loading {
        match &mut self.machine {
            Machine::Digest(machine) => Loading::Digest(machine.begin_load(slot)),
            Machine::Kv(machine) => Loading::Kv(machine.begin_load(slot)),
        }
    }
    fn load_part(&mut self, loading: &mut Loading, bytes: &[u8]) -> Result<(), BadSnapshot> {
        match (&mut self.machine, loading) {
            (Machine::Digest(machine), Loading::Digest(loading)) => machine.load_part(loading, bytes),
            (Machine::Kv(machine), Loading::Kv(loading)) => machine.load_part(loading, bytes),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }
    fn finish_load(&mut self, slot: u32, loading: Loading) -> Result<(), BadSnapshot> {
        match (&mut self.machine, loading) {
            (Machine::Digest(machine), Loading::Digest(loading)) => machine.finish_load(slot, loading),
            (Machine::Kv(machine), Loading::Kv(loading)) => machine.finish_load(slot, loading),
            _ => unreachable!("{OTHER_KIND}"),
        }
    }
    fn state_bytes(&self, slot: u32) -> u64 {
        match &self.machine {
            Machine::Digest(machine) => machine.state_bytes(slot),
            Machine::Kv(machine) => machine.state_bytes(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logdrive_shard::LogIndex;

    #[test]
    fn both_machines_count_and_digest_what_they_apply() {
        for kind in [MachineKind::Digest, MachineKind::Kv] {
            let applied = Arc::new(AtomicU64::new(0));
            let mut machine = Counted::new(kind, Arc::clone(&applied));
            machine.open(&[GroupId(1), GroupId(2)]);
            let empty = machine.digest(1);
            let mut command = Vec::new();
            kv_command(b"value", 7, &mut command);
            let entry = ApplyEntry { slot: 1, group: GroupId(2), index: LogIndex(1), payload: &command };
            let mut replies = Replies::default();
            machine.apply(&[entry], &mut replies);
            assert_eq!(replies.len(), 1);
            assert_eq!(applied.load(Ordering::Acquire), 1);
            assert_ne!(machine.digest(1), empty, "{kind:?}");
        }
    }
}
