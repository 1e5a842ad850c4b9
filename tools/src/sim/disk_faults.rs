//! Faults of disks: their names, how they are drawn, and how blocks are damaged.

use logdrive_shard::Random;
use logdrive_wal::{ALIGNMENT, Fault, FaultKind, OpKind};
use serde::{Deserialize, Serialize};

use super::clock::{MILLISECOND, SECOND};
use super::node::CoreAt;
use super::random::within;
use super::world::World;

/// What happens to a block that was written long ago: what a write that went astray, was lost or torn leaves behind, and what time
/// does to a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rot {
    /// Bits of a byte flip.
    Flip {
        /// Byte of the block.
        at: u16,
        /// Bits.
        mask: u8,
    },
    /// A sector is garbage.
    Garbage {
        /// Sector of the block.
        sector: u8,
        /// Seed of the garbage.
        seed: u32,
    },
    /// A write that never came to the platter: zeros, where the file was fresh.
    Lost,
    /// A write that never came to the platter: what the block held before.
    Stale,
    /// A write of which only these sectors came to the platter.
    Torn {
        /// A bit for each.
        sectors: u8,
    },
    /// Another block's write went here.
    Misdirected {
        /// Which block of the file.
        block: u32,
    },
    /// The block cannot be read any more (EIO) until it is written again.
    Unreadable,
}

impl Rot {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rot::Flip { .. } => "block: bits flipped",
            Rot::Garbage { .. } => "block: garbage",
            Rot::Lost => "block: write lost",
            Rot::Stale => "block: stale",
            Rot::Torn { .. } => "block: write torn",
            Rot::Misdirected { .. } => "block: write misdirected",
            Rot::Unreadable => "block: unreadable",
        }
    }

    pub(super) fn kind(self) -> FaultKind {
        match self {
            Rot::Flip { at, mask } => FaultKind::Flip { at: at.into(), mask },
            Rot::Garbage { sector, seed } => FaultKind::Garbage { sector: sector.into(), seed },
            Rot::Lost => FaultKind::Lost,
            Rot::Stale => FaultKind::Stale,
            Rot::Torn { sectors } => FaultKind::Torn { sectors: sectors.into(), errno: 0 },
            Rot::Misdirected { block } => FaultKind::Misdirected { block },
            Rot::Unreadable => FaultKind::Errno(libc::EIO),
        }
    }
}

/// The name of a fault of an operation.
pub(super) fn name(fault: &Fault) -> &'static str {
    name_of(fault.on, fault.what)
}

/// The same, of one that struck.
pub(super) fn name_of(on: OpKind, what: FaultKind) -> &'static str {
    match (on, what) {
        (_, FaultKind::Delay(_) | FaultKind::Stall(_)) => "disk stall",
        (OpKind::Write, FaultKind::Errno(libc::ENOSPC)) => "write finds no room",
        (OpKind::Write, FaultKind::Errno(_)) => "write fails",
        (OpKind::Write, FaultKind::Short(_) | FaultKind::Torn { .. }) => "write short or torn",
        (OpKind::Sync, FaultKind::Forgets(_)) => "sync fails, then lies",
        (OpKind::Sync, _) => "sync fails",
        (OpKind::Read, FaultKind::Errno(_)) => "read fails",
        (OpKind::Read, FaultKind::Short(_)) => "read short",
        (OpKind::Read, _) => "read lies",
        _ => "disk fault",
    }
}

/// Whether a fault makes a disk say what is not so: only where the atlas allows it.
pub(super) fn is_lie(fault: &Fault) -> bool {
    let is_transient = fault.on == OpKind::Read && fault.times <= 2;
    match fault.what {
        FaultKind::Delay(_) | FaultKind::Stall(_) | FaultKind::Short(_) => false,
        FaultKind::Torn { errno, .. } => errno == 0,
        FaultKind::Errno(_) => fault.on == OpKind::Read && !is_transient,
        _ => true,
    }
}

/// A fault of an operation: what the log answers with an error, a retry or the end of the process.
pub(super) fn draw_fault(random: &mut Random) -> Fault {
    let skip = random.below(20) as u32;
    let stall = match random.below(6) {
        0 => within(random, SECOND..30 * SECOND),
        1 | 2 => within(random, 50 * MILLISECOND..SECOND),
        _ => within(random, MILLISECOND..50 * MILLISECOND),
    };
    let write = OpKind::Write;
    let sectors = random.next_u64();
    let (on, what) = match random.below(14) {
        0 | 1 => (write, FaultKind::Errno(libc::EIO)),
        2 => (write, FaultKind::Errno(libc::ENOSPC)),
        3 => (write, FaultKind::Short(ALIGNMENT as u32)),
        4 => (write, FaultKind::Torn { sectors, errno: libc::EIO }),
        5 => (OpKind::Sync, FaultKind::Errno(libc::EIO)),
        6 => (OpKind::Sync, FaultKind::Forgets(libc::EIO)),
        7 => (OpKind::Read, FaultKind::Errno(libc::EIO)),
        8 => (OpKind::Read, FaultKind::Short(ALIGNMENT as u32)),
        9 => (OpKind::Read, lie(random)),
        10 | 11 => (write, FaultKind::Delay(stall)),
        12 => (OpKind::Read, FaultKind::Delay(stall)),
        _ => (OpKind::Sync, FaultKind::Delay(stall)),
    };
    // Reads and syncs are rare.
    let skip = if on == write { skip } else { skip / 10 };
    Fault { skip, ..Fault::next(on, what) }
}

fn lie(random: &mut Random) -> FaultKind {
    match random.below(4) {
        0 => FaultKind::Stale,
        1 => FaultKind::Misdirected { block: random.below(64) as u32 },
        2 => FaultKind::Garbage { sector: random.below(64) as u32, seed: random.next_u64() as u32 },
        _ => FaultKind::Flip { at: random.below(1 << 16) as u32, mask: 1 << random.below(8) },
    }
}

/// What happens to a block.
pub(super) fn draw_rot(random: &mut Random) -> Rot {
    match random.below(7) {
        0 => Rot::Flip { at: random.below(ALIGNMENT as u64) as u16, mask: 1 << random.below(8) },
        1 => Rot::Garbage { sector: random.below(8) as u8, seed: random.next_u64() as u32 },
        2 => Rot::Lost,
        3 => Rot::Stale,
        4 => Rot::Torn { sectors: random.next_u64() as u8 },
        5 => Rot::Misdirected { block: random.below(64) as u32 },
        _ => Rot::Unreadable,
    }
}

impl World {
    /// An operation of a core's disk goes wrong, if the atlas allows it.
    pub(super) fn spoil_operation(&mut self, node: usize, core: u32, fault: &Fault) {
        let lies = is_lie(fault);
        if lies && !self.may_damage(node) {
            return self.reach("damage not allowed by the atlas");
        }
        self.nodes[node].disk_is_suspect = true;
        let at = self.core_at(node, core);
        if lies {
            self.note_damage(at, "whatever it is", 0, name(fault));
        }
        self.cores[at.0].platter.inject(fault.clone());
    }

    /// Every operation of a node's disks fails, until its process has ended and was refused once.
    pub(super) fn lose_disk(&mut self, node: usize) {
        self.nodes[node].disk_is_suspect = true;
        let every = [OpKind::List, OpKind::Open, OpKind::Read, OpKind::Write, OpKind::Sync, OpKind::SyncDir];
        for at in self.nodes[node].cores.clone() {
            for on in every {
                let fault = Fault { times: u32::MAX, ..Fault::next(on, FaultKind::Errno(libc::EIO)) };
                self.cores[at].platter.inject(fault.clone());
                self.cores[at].snapshots.inject(fault);
            }
        }
    }

    /// A block of a core's disk is damaged at rest, if the atlas allows it.
    ///
    /// Blocks that were written last are left alone: a log whose newest batches are damaged before anything later attests them looks
    /// like one with a torn tail, which is the hole that the log's format admits.
    pub(super) fn rot(&mut self, node: usize, core: u32, place: u32, rot: Rot) {
        if !self.may_damage(node) {
            return self.reach("damage not allowed by the atlas");
        }
        let at = self.core_at(node, core);
        let Some(live) = &mut self.cores[at.0].live else { return };
        let Some((file, block)) = live.core.wal().disk().settled_block(place) else {
            return self.reach("nothing to damage yet");
        };
        if self.cores[at.0].platter.damage(&file, block * ALIGNMENT as u64, rot.kind()) {
            self.note_damage(at, &file, block, rot.name());
            *self.injected.entry(rot.name()).or_default() += 1;
        }
    }

    pub(super) fn core_at(&self, node: usize, core: u32) -> CoreAt {
        let cores = &self.nodes[node].cores;
        CoreAt(cores.start + core as usize % cores.len())
    }

    /// Counts the faults that operations of a core's disk really met. A disk that is gone counts once, and not for each operation.
    pub(super) fn count_disk_faults(&mut self, at: CoreAt) {
        let of_one = [OpKind::Read, OpKind::Write, OpKind::Sync];
        for (on, what) in self.cores[at.0].platter.take_struck() {
            if of_one.contains(&on) {
                *self.injected.entry(name_of(on, what)).or_default() += 1;
            }
        }
    }

    /// A process that ends takes the lies that its reads would have met with it: to an opener, a tail that it cannot read is a torn one.
    pub(super) fn drop_lies(&mut self, node: usize) {
        for at in self.nodes[node].cores.clone() {
            self.cores[at].snapshots.clear_faults();
            let platter = &self.cores[at].platter;
            let faults = platter.faults();
            if faults.iter().any(is_lie) {
                platter.clear_faults();
                let rest: Vec<Fault> =
                    faults.into_iter().filter(|fault| !is_lie(fault) || fault.on == OpKind::Sync).collect();
                platter.inject_all(&rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::faults;
    use super::*;

    #[test]
    fn everything_that_is_drawn_has_a_name_in_the_summary_and_every_name_is_drawn() {
        let mut random = Random::new(5);
        let mut drawn: BTreeSet<&str> =
            (0..2_000).flat_map(|_| [name(&draw_fault(&mut random)), draw_rot(&mut random).name()]).collect();
        assert!(drawn.iter().all(|name| faults::FaultKind::NAMES.contains(name)), "{drawn:?}");
        drawn.insert("disk gone");
        let first = faults::FaultKind::NAMES.iter().position(|name| name.starts_with("block")).unwrap();
        assert_eq!(faults::FaultKind::NAMES[first..].iter().copied().collect::<BTreeSet<_>>(), drawn);
    }

    #[test]
    fn what_only_fails_is_no_lie() {
        let of = |on, what| is_lie(&Fault::next(on, what));
        assert!(
            !of(OpKind::Write, FaultKind::Errno(libc::EIO)) && !of(OpKind::Read, FaultKind::Errno(libc::EIO))
        );
        assert!(!of(OpKind::Sync, FaultKind::Delay(5)) && !of(OpKind::Write, FaultKind::Short(4096)));
        assert!(!of(OpKind::Write, FaultKind::Torn { sectors: 5, errno: libc::EIO }));
        assert!(
            of(OpKind::Write, FaultKind::Torn { sectors: 5, errno: 0 }) && of(OpKind::Write, FaultKind::Lost)
        );
        assert!(of(OpKind::Sync, FaultKind::Forgets(libc::EIO)) && of(OpKind::Read, FaultKind::Stale));
    }
}
