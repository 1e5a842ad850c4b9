//! Snapshots in a run: how often they are taken, orders for them, damage to their files, crashes between the steps of their making, and
//! what is counted of all that.

use logdrive::api::SnapshotSettings;
use logdrive::core::{Event as CoreEvent, Slot};
use logdrive_shard::{LogIndex, Random};
use logdrive_wal::{ALIGNMENT, Fault, FaultKind, OpKind};

use super::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use super::disk_faults::{Rot, is_lie};
use super::faults::TurnPoint;
use super::node::CoreAt;
use super::observer::Broken;
use super::plan::Plan;
use super::turn::NOBODYS;
use super::world::World;

/// Settings of a run: thresholds, logs and chunks so small that everything happens often. In one run of eight nothing but orders and
/// followers make snapshots.
pub(super) fn settings(random: &mut Random) -> SnapshotSettings {
    let mut settings = SnapshotSettings::default();
    let mut pick = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
    (settings.every_entries, settings.every_bytes) = match pick(&[0, 1, 1, 1, 2, 2, 3, 3]) {
        0 => (0, 0),
        1 => (pick(&[8, 32, 100]), 0),
        2 => (0, pick(&[1 << 10, 8 << 10])),
        _ => (pick(&[32, 200]), 16 << 10),
    };
    settings.keep_trailing_entries = pick(&[0, 0, 1, 4, 16, 1_000]);
    settings.at_once = pick(&[1, 2]) as u32;
    settings.group_log_bytes_max = pick(&[4 << 10, 32 << 10, 256 << 20, 256 << 20]);
    settings.slice_bytes = pick(&[64, 1 << 10, 64 << 10]) as u32;
    settings.slice_interval = std::time::Duration::from_nanos(pick(&[
        50 * MICROSECOND,
        500 * MICROSECOND,
        5 * MILLISECOND as Nanos,
    ]));
    settings.loads_at_once = pick(&[1, 4]) as u32;
    settings.transfers_max = pick(&[1, 4, 4]) as u32;
    settings.transfer_bytes_per_s = pick(&[0, 256 << 10, 64 << 20]);
    settings.transfer_window_bytes = pick(&[4 << 10, 64 << 10, 1 << 20]) as u32;
    settings.transfer_bytes_per_turn = pick(&[4 << 10, 256 << 10]) as u32;
    settings.files.chunk_bytes = pick(&[4 << 10, 4 << 10, 8 << 10, 256 << 10]) as u32;
    settings.files.compression =
        [Default::default(), logdrive::snapshot::Compression::Lz4][pick(&[0, 0, 1]) as usize];
    settings.files.snapshots_kept = pick(&[0, 1, 1, 2]) as u32;
    settings.files.space_reserve_bytes = 0;
    settings
}

/// Time in which a core, with nothing else to do, makes a snapshot of each of its groups, and a node sends them all: what is
/// much slower would not come to rest in the time that a run has for it.
const TIMELY: Nanos = 3 * SECOND;

/// Raises what settings allow until snapshots of states of such a size are made, and travel, in time.
pub(super) fn make_timely(settings: &mut SnapshotSettings, plan: &Plan, filler_bytes: u32) {
    let node_bytes = (u64::from(filler_bytes) + 4096) * u64::from(plan.groups);
    let interval = settings.slice_interval.as_nanos() as Nanos;
    let core_bytes = node_bytes / u64::from(plan.cores.max(1));
    let slice_bytes = core_bytes / (TIMELY / interval.max(1)).max(1);
    settings.slice_bytes = settings.slice_bytes.max(u32::try_from(slice_bytes).unwrap_or(u32::MAX));
    if settings.transfer_bytes_per_s > 0 {
        let rate = node_bytes / (TIMELY / SECOND);
        settings.transfer_bytes_per_s = settings.transfer_bytes_per_s.max(rate);
    }
}

/// Bytes that states have in snapshots beside what they are: few where there are many groups.
pub(super) fn filler_bytes(plan: &Plan, random: &mut Random) -> u32 {
    let choices = match plan.groups {
        ..=40 => [0, 0, 3_000, 20_000, 150_000],
        _ => [0, 0, 0, 1_000, 10_000],
    };
    choices[random.below(choices.len() as u64) as usize]
}

/// Whether a fault of an operation makes a file of snapshots look damaged: one that cannot be read is put aside for an older one.
fn looks_damaged(fault: &Fault) -> bool {
    let fails = !matches!(fault.what, FaultKind::Delay(_) | FaultKind::Stall(_) | FaultKind::Short(_));
    is_lie(fault) || fault.on == OpKind::Read && fails
}

impl World {
    /// An operator orders snapshots of some groups of a node.
    pub(super) fn order_snapshots(&mut self, node: usize, first: u32, count: u32) {
        for after in 0..count.min(self.plan.groups) {
            let (at, slot) = self.home(node, self.group(first.wrapping_add(after)));
            if let Some(port) = self.cores[at.0].live.as_ref().map(|live| live.port) {
                self.input(at, CoreEvent::Snapshot { port, token: NOBODYS, slot });
            }
        }
    }

    /// An operation of a core's disk of snapshots goes wrong, if the atlas allows it.
    pub(super) fn spoil_snapshot_operation(&mut self, node: usize, core: u32, fault: &Fault) {
        let lies = looks_damaged(fault);
        if lies && !self.may_damage(node) {
            return self.reach("damage not allowed by the atlas");
        }
        self.nodes[node].disk_is_suspect = true;
        let at = self.core_at(node, core);
        if lies {
            self.note_damage(at, "a file of snapshots", 0, "snapshot disk fault");
        }
        self.cores[at.0].snapshots.inject(fault.clone());
    }

    /// A block of a file of snapshots is damaged at rest, if the atlas allows it.
    pub(super) fn rot_snapshot(&mut self, node: usize, core: u32, place: u32, rot: Rot) {
        if !self.may_damage(node) {
            return self.reach("damage not allowed by the atlas");
        }
        let at = self.core_at(node, core);
        let Some(live) = &mut self.cores[at.0].live else { return };
        let Some((file, block)) = live.core.snapshot_disk().snapshot_block(place) else {
            return self.reach("nothing to damage yet");
        };
        if self.cores[at.0].snapshots.damage(&file, block * ALIGNMENT as u64, rot.kind()) {
            self.note_damage(at, &file, block, rot.name());
            *self.injected.entry("snapshot damaged").or_default() += 1;
        }
    }

    /// Whether the node ends because a disk of its snapshots has come to the operation it was to end at; it does so then.
    pub(super) fn ends_in_snapshot(&mut self, at: CoreAt) -> Result<bool, Box<Broken>> {
        let node = self.cores[at.0].node;
        match self.nodes[node].doomed {
            Some((TurnPoint::InSnapshotDisk(_), how, down)) if self.cores[at.0].snapshots.halted() => {
                self.nodes[node].doomed = None;
                self.reach("crashes between steps of a snapshot");
                self.stop_node(node, how)?;
                self.start_later(node, down);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    // -- counts ------------------------------------------------------------------------------------------------------------

    /// Counts the faults that operations of a core's disk of snapshots really met.
    pub(super) fn count_snapshot_faults(&mut self, at: CoreAt) {
        let of_one = [OpKind::Read, OpKind::Write, OpKind::Sync];
        for (on, _) in self.cores[at.0].snapshots.take_struck() {
            if of_one.contains(&on) {
                *self.injected.entry("snapshot disk fault").or_default() += 1;
            }
        }
    }

    /// Counts the groups of a core that start from a snapshot.
    pub(super) fn count_snapshot_start(&mut self, at: CoreAt) {
        let Some(live) = &self.cores[at.0].live else { return };
        let slots = 0..self.cores[at.0].groups.len() as u32;
        let started = slots.filter(|&slot| live.core.snapshot_status(Slot(slot)).index > LogIndex(0)).count();
        if started > 0 {
            *self.reached.entry("starts from a snapshot").or_default() += started as u64;
        }
    }

    /// What the core's counters say of snapshots goes into the report.
    pub(super) fn keep_snapshot_counts(&mut self, at: CoreAt) {
        let Some(live) = &self.cores[at.0].live else { return };
        let (snapshots, transfers) = (live.core.snapshot_counters(), live.core.transfer_counters());
        let counts = [
            ("snapshots written", snapshots.written),
            ("snapshots failed", snapshots.failed),
            ("logs cut", snapshots.logs_cut),
            ("snapshots installed", snapshots.installed),
            ("snapshots that a log goes on behind", snapshots.fast_forwards),
            ("installations given up", snapshots.installs_failed),
            ("logs of groups full", snapshots.logs_full),
            ("transfers begun", transfers.begun),
            ("transfers broken off", transfers.failed),
            ("transfers superseded", transfers.superseded),
            ("transfers resumed", transfers.resumed),
            ("transfers that waited", transfers.waited),
            ("snapshot parts taken", transfers.parts_taken),
            ("snapshot parts refused", transfers.parts_refused),
            ("snapshot parts dropped", transfers.parts_dropped),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            *self.reached.entry(name).or_default() += count;
        }
    }
}
