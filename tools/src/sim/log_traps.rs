//! Traps for the log: what a process that is gone had under way, and what cannot be read any more when it is needed.

use logdrive_shard::GroupId;
use logdrive_wal::{Fault, FaultKind as DiskFaultKind, OpKind as DiskOpKind};

use super::disk_faults::is_lie;
use super::faults::Stop;
use super::observer::Verdict;
use super::world::World;

/// Operations at the end of a start among which it is cut short.
const LAST_OPERATIONS: u64 = 12;
/// Lives that end so, one after the other.
const ROUNDS: u32 = 4;
/// Reads that fail: each is tried a few times, as a whole and by blocks.
const READS: u32 = 200;
/// Writes of a disk of snapshots that fail.
const WRITES: u32 = 3;

impl World {
    /// The node's disk is slow, and its process ends with writes under way. The next one starts and ends before it writes anything; the one after
    /// that loses power while it starts; and so on. What they find as the end of the log stays so.
    pub(super) fn late_writes(&mut self, active: usize, step: u64, node: usize, choice: u32) -> Verdict {
        if step == 0 {
            self.slow_down(active, node, self.unit() / 4);
        }
        if step < 4 || !step.is_multiple_of(3) {
            return self.write_everywhere(8, choice.wrapping_add(step as u32));
        }
        for round in 0..ROUNDS {
            self.stop_node(node, Stop::Kill)?;
            if self.nodes[node].is_spoiled || self.nodes[node].stays_down {
                return Ok(());
            }
            self.start_and_stumble(node, choice.rotate_right(step as u32 + round))?;
        }
        Ok(())
    }

    /// The node starts, ends before it has done anything, and ends again while it starts.
    fn start_and_stumble(&mut self, node: usize, choice: u32) -> Verdict {
        let cores = self.nodes[node].cores.clone();
        let at = cores.start + (choice & 0xff) as usize % cores.len();
        let before = self.cores[at].platter.performed();
        self.start_node(node)?;
        if !self.nodes[node].is_up {
            return Ok(());
        }
        let operations = self.cores[at].platter.performed() - before;
        self.stop_node(node, Stop::Kill)?;
        // The core that stumbles is the one that the number of operations says.
        let mut ends_after = operations.saturating_sub(u64::from(choice >> 8) % LAST_OPERATIONS);
        while ends_after as usize % cores.len() != at - cores.start {
            ends_after = ends_after.saturating_sub(1);
        }
        self.nodes[node].stumbles = Some((ends_after as u16, Stop::PowerLoss, 1));
        self.start_node(node)
    }

    /// A follower cannot read what it has to apply. It asks for that, and is not heard before it is in no log any more; what comes after it still
    /// comes in.
    pub(super) fn unread(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        leader: usize,
        choice: u32,
    ) -> Verdict {
        let all = self.plan.groups.min(32);
        if step == 0 {
            self.catch_one(active, group, leader, choice);
        }
        let [caught] = self.active[active].sprung.others[..] else { return Ok(()) };
        match step {
            6 => {
                if !self.may_damage(caught) {
                    self.active[active].sprung.others.clear();
                    self.reach("damage not allowed by the atlas");
                    return Ok(());
                }
                self.lose_reads(caught, group);
                self.active[active].sprung.forgets = self.nodes[caught].cores.clone();
                self.empty_caches();
                let others = (0..self.nodes.len()).filter(|&node| node != caught);
                let deaf = others.map(|node| (caught, node)).collect();
                self.active[active].sprung.cuts = deaf;
                self.work_out_ways();
            }
            8 => {
                for node in (0..self.nodes.len()).filter(|&node| node != caught) {
                    self.order_snapshots(node, 0, all);
                }
            }
            9 => {
                self.find_reads(caught, group);
                if choice & 1 << 20 == 0 {
                    let (at, _) = self.home(caught, group);
                    let fails = Fault::next(DiskOpKind::Write, DiskFaultKind::Errno(libc::EIO));
                    self.cores[at.0].snapshots.inject(Fault { times: WRITES, ..fails });
                }
                self.active[active].sprung.cuts.clear();
                self.work_out_ways();
                self.deliver_what_waited();
            }
            16 => {
                self.active[active].sprung.forgets = 0..0;
                self.empty_caches();
            }
            _ => {}
        }
        self.write_everywhere(all, choice.wrapping_add(step as u32))
    }

    /// The log of a group on a node cannot be read for a while.
    fn lose_reads(&mut self, node: usize, group: GroupId) {
        let (at, _) = self.home(node, group);
        let fails = Fault::next(DiskOpKind::Read, DiskFaultKind::Errno(libc::EIO));
        self.note_damage(at, "whatever it is", 0, "read fails");
        // Of the marks nothing is to be applied, and the scrubber reads them in each round: what it repairs must not be lost at once again.
        let name_contains = ".seg".to_owned();
        self.cores[at.0].platter.inject(Fault { times: READS, name_contains, ..fails });
    }

    /// It can be read again. What was put back must not be lost once more, or else the disk is given up.
    fn find_reads(&mut self, node: usize, group: GroupId) {
        let (at, _) = self.home(node, group);
        let platter = &self.cores[at.0].platter;
        let mut rest = platter.faults();
        rest.retain(|fault| fault.on != DiskOpKind::Read || !is_lie(fault));
        platter.clear_faults();
        platter.inject_all(&rest);
    }
}
