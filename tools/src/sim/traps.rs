//! Traps: several things in a row that come together by chance hardly ever, each of them harmless, and each of a kind that happens. A trap
//! catches the leader of a group.

use std::ops::Range;

use logdrive::core::{Event as CoreEvent, TransferStep};
use logdrive_shard::{GroupId, NodeId, Random};
use serde::{Deserialize, Serialize};

use super::clock::{MILLISECOND, Nanos};
use super::disk_faults::Rot;
use super::faults::{FaultKind, Stop, TurnPoint};
use super::node::CoreAt;
use super::observer::Verdict;
use super::ops::OpKind;
use super::queue::Event;
use super::random::within;
use super::strike::Active;
use super::world::World;

mod doubt;
pub(super) mod muted;
mod unheard;
mod wounds;

/// Steps of a trap, equally long but where something is watched for.
const STEPS: u64 = 24;
/// Time between two looks at what is watched for.
const LOOK: Nanos = MILLISECOND;
/// Times that a transfer is broken in one trap.
const BREAKS_MAX: u32 = 3;

/// Which things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trap {
    /// The leader's disk is slow. It takes writes while it is cut off, and is back while they are on their way to the disk still: what
    /// replaces them comes before they end.
    OldWrites,
    /// One follower does not hear the leader. The other one, by whose promise the leader holds a lease, ends and comes back at once; the
    /// leader does not notice. Then the first one campaigns.
    SupporterRestarts,
    /// The same, but its connection to the leader breaks, which only it notices.
    SupporterLeaves,
    /// The leader's disk stands still, so that its followers leave it, and everything else of it goes on.
    LeaderStalls,
    /// The leader gets no CPU. Another one is elected and acknowledges a write; then the old one is asked for a read under its lease.
    Sleeper,
    /// The leader's disk is full, and it loses power again and again with writes under way.
    FullDisk,
    /// A follower is away until what it lacks is in no log; the transfer that brings it up is broken: the connection, the
    /// receiver, or the leadership.
    Transfer,
    /// The leader alone has an entry, comes back with it, and its disk loses it.
    OnlyCopy,
    /// The leader hears a follower and is heard by it, as nodes; but what it says for one group does not arrive there. The follower leaves
    /// it, and the leader does not notice: it cannot hear the rest of the group.
    Unheard,
    /// A follower comes back with entries that it has not applied, and its disk loses them. What the others send to make up for them is lost on
    /// the way, and writes go on.
    Wounds,
    /// A follower votes, and comes back without that vote. Somebody whom it has to ask cannot be asked: the leader, while another one asks it for
    /// its vote; or a voter that it has not heard of.
    Doubt,
    /// The leader's process ends with writes under way, and the next ones end as soon as they have started, or while they start.
    LateWrites,
    /// A follower cannot read what it has to apply, and what it asks for is in no log any more.
    Unread,
}

/// What a trap has done.
#[derive(Debug, Default)]
pub(super) struct Sprung {
    step: u64,
    /// Nothing passes from one node to another.
    pub(super) cuts: Vec<(usize, usize)>,
    /// The disks of a node take up to so long.
    pub(super) slow: Option<(usize, Nanos)>,
    /// These frames are lost.
    pub(super) muted: Option<muted::Muted>,
    /// The caches of these cores keep nothing.
    pub(super) forgets: Range<usize>,
    /// The followers that it is about.
    pub(super) others: Vec<usize>,
    /// Parts of snapshots that each core has taken.
    parts: Vec<u64>,
    broken: u32,
}

impl Trap {
    /// All of them.
    pub const ALL: [Trap; 13] = [
        Trap::OldWrites,
        Trap::SupporterRestarts,
        Trap::SupporterLeaves,
        Trap::LeaderStalls,
        Trap::Sleeper,
        Trap::FullDisk,
        Trap::Transfer,
        Trap::OnlyCopy,
        Trap::Doubt,
        Trap::LateWrites,
        Trap::Unread,
        Trap::Unheard,
        Trap::Wounds,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Trap::OldWrites => "trap: writes of the leader of before",
            Trap::SupporterRestarts => "trap: supporter restarts",
            Trap::SupporterLeaves => "trap: supporter hears nothing",
            Trap::LeaderStalls => "trap: leader stalls",
            Trap::Sleeper => "trap: reads of a sleeper",
            Trap::FullDisk => "trap: crashes on a full disk",
            Trap::Transfer => "trap: transfer broken",
            Trap::OnlyCopy => "trap: entries only the leader had",
            Trap::Doubt => "trap: vote in doubt",
            Trap::LateWrites => "trap: writes of a process that is gone",
            Trap::Unread => "trap: entries that cannot be read",
            Trap::Unheard => "trap: leader not heard in one group",
            Trap::Wounds => "trap: repairs held back",
        }
    }

    /// How long it lasts, where an election timeout is `unit` at least.
    pub(super) fn span(self, unit: Nanos, random: &mut Random) -> Nanos {
        let halves = match self {
            Trap::OldWrites => 9..14,
            Trap::SupporterRestarts | Trap::SupporterLeaves => 8..12,
            Trap::LeaderStalls => 12..18,
            Trap::Sleeper => 9..13,
            Trap::FullDisk => 4..10,
            Trap::Transfer => 6..16,
            Trap::OnlyCopy => 14..20,
            Trap::Doubt => 12..17,
            Trap::LateWrites => 6..12,
            Trap::Unread => 5..12,
            Trap::Unheard => 9..13,
            Trap::Wounds => 6..12,
        };
        within(random, halves) * unit / 2
    }
}

/// Whether this is the name of a segment of a log.
fn is_segment(name: &str) -> bool {
    name.starts_with("wal-") && name.ends_with(".seg")
}

impl World {
    /// A trap is about a group that has a leader that runs, and that fits: the first one from the group of the list on.
    pub(super) fn aim(&self, what: &mut FaultKind) {
        let FaultKind::Trap { group, what, .. } = what else { return };
        let groups = || (0..self.plan.groups).map(|more| group.wrapping_add(more));
        let leader = |group: u32| {
            self.leader_of(self.group(group)).filter(|&leader| self.nodes[leader].responds(self.now))
        };
        let is_led = |&group: &u32| leader(group).is_some();
        let fits = |&group: &u32| {
            leader(group).is_some_and(|leader| {
                *what != Trap::Doubt || self.outsider(self.group(group), leader).is_some()
            })
        };
        if let Some(found) = groups().find(fits).or_else(|| groups().find(is_led)) {
            *group = found;
        }
    }

    /// The next step of a trap.
    pub(super) fn spring(&mut self, active: usize) -> Verdict {
        let Active { fault, node, is_over, sprung } = &mut self.active[active];
        let (node, span) = (*node, fault.span);
        let FaultKind::Trap { group, what, choice } = fault.what else { return Ok(()) };
        if *is_over {
            return Ok(());
        }
        let step = sprung.step;
        sprung.step += 1;
        let group = self.group(group);
        let mut pause = span / STEPS;
        match what {
            Trap::OldWrites => self.old_writes(active, step, group, node, span)?,
            Trap::SupporterRestarts | Trap::SupporterLeaves => {
                let at = 8 + u64::from(choice % 8);
                self.supporter(active, step, at, (group, node))?;
                if step >= at {
                    pause = self.unit() / 24;
                }
            }
            Trap::LeaderStalls => self.leader_stalls(active, step, group, node, choice)?,
            Trap::Sleeper => self.sleeper(step, group, node, span)?,
            Trap::FullDisk => self.full_disk(active, step, node, choice)?,
            Trap::Transfer => {
                self.break_transfer(active, step, group, node, choice)?;
                if step >= STEPS / 2 {
                    pause = LOOK;
                }
            }
            Trap::OnlyCopy => self.only_copy(active, step, group, node)?,
            Trap::LateWrites => self.late_writes(active, step, node, choice)?,
            Trap::Unread => self.unread(active, step, group, node, choice)?,
            Trap::Doubt => {
                self.doubt(active, step, group, node, choice)?;
                if step < 2 {
                    // The vote is to be among what is written last.
                    pause = doubt::VOTES_WITHIN;
                }
            }
            Trap::Unheard => self.unheard(active, step, group, node)?,
            Trap::Wounds => {
                self.wounds(active, step, group, node)?;
                pause = self.wounds_pause(active, step);
            }
        }
        self.queue.put(self.now + pause.max(LOOK), Event::Second { active: active as u32 });
        Ok(())
    }

    /// The trap is over.
    pub(super) fn release(&mut self, active: usize) {
        let node = self.active[active].node;
        self.work_out_ways();
        self.slow_disks();
        self.deliver_what_waited();
        self.empty_caches();
        match self.active[active].fault.what {
            FaultKind::Trap { what: Trap::Unheard | Trap::Wounds, .. } => self.reset_what_went_astray(),
            FaultKind::Trap { what: Trap::Sleeper, .. } if self.nodes[node].paused_until <= self.now => {
                self.resume(node);
            }
            FaultKind::Trap { what: Trap::FullDisk, .. } => self.empty_disks(node),
            _ => {}
        }
    }

    // -- the traps -----------------------------------------------------------------------------------------------------------

    fn old_writes(&mut self, active: usize, step: u64, group: GroupId, node: usize, span: Nanos) -> Verdict {
        match step {
            0 => {
                let others: Vec<usize> = (0..self.nodes.len()).filter(|&other| other != node).collect();
                self.cut_off(active, node, &others);
                self.slow_down(active, node, 2 * span);
            }
            // Its disk stays slow, so that what replaces its writes is on its way when they end.
            16 => {
                self.active[active].sprung.cuts.clear();
                self.work_out_ways();
                self.deliver_what_waited();
            }
            _ => {}
        }
        match step {
            ..6 => self.ask_if_up(OpKind::Propose, group, node),
            _ => Ok(()),
        }
    }

    fn supporter(&mut self, active: usize, step: u64, at: u64, (group, leader): (GroupId, usize)) -> Verdict {
        if step == 0 {
            let others = self.other_voters(group, leader);
            self.cut_off(active, leader, &others[..others.len().min(1)]);
            self.active[active].sprung.others = others;
        }
        let [candidate, supporter, ..] = self.active[active].sprung.others[..] else { return Ok(()) };
        if step < at {
            // Rounds are what a lease begins with.
            return self.ask_if_up(OpKind::ReadLinearizable, group, leader);
        }
        let restarts =
            matches!(self.active[active].fault.what, FaultKind::Trap { what: Trap::SupporterRestarts, .. });
        if step > at {
            self.order_campaign(group, candidate);
        } else if restarts {
            self.slow_to_notice = Some(leader);
            let stopped = self.stop_node(supporter, Stop::PowerLoss);
            self.slow_to_notice = None;
            stopped?;
            self.start_later(supporter, MILLISECOND);
        } else {
            self.cut_off(active, leader, &[supporter]);
            for connection in 0..self.connections.len() {
                let nodes = self.nodes_of(connection);
                let notice = nodes.map(|end| if end == leader { 3 * self.unit() } else { 0 });
                if nodes.contains(&leader) && nodes.contains(&supporter) {
                    self.reset(connection, notice);
                }
            }
        }
        Ok(())
    }

    fn leader_stalls(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        node: usize,
        choice: u32,
    ) -> Verdict {
        match step {
            2 => {
                self.slow_down(active, node, self.unit() * Nanos::from(20 + choice % 30));
                self.active[active].sprung.others = self.other_voters(group, node);
            }
            // All of them leave it; one after the other may be elected when its promise is over.
            10 => {
                for other in self.active[active].sprung.others.clone() {
                    self.order_campaign(group, other);
                }
            }
            11.. => {
                if let Some(&first) = self.active[active].sprung.others.first() {
                    self.order_campaign(group, first);
                }
            }
            _ => {}
        }
        self.ask_if_up(OpKind::ReadLinearizable, group, node)?;
        self.ask_if_up(OpKind::Propose, group, node)
    }

    fn sleeper(&mut self, step: u64, group: GroupId, node: usize, span: Nanos) -> Verdict {
        match step {
            0 | 1 => self.ask_if_up(OpKind::ReadLinearizable, group, node),
            2 if self.nodes[node].responds(self.now) => {
                self.pause(node, self.now + span - 2 * (span / STEPS));
                Ok(())
            }
            16..23 => match self.leader_of(group).filter(|&leader| leader != node) {
                Some(leader) => self.ask_if_up(OpKind::Propose, group, leader),
                None => Ok(()),
            },
            23 if self.shape.leases_hold => self.ask_if_up(OpKind::ReadLease, group, node),
            _ => Ok(()),
        }
    }

    fn full_disk(&mut self, active: usize, step: u64, node: usize, choice: u32) -> Verdict {
        if step == 0 {
            self.fill_disks(node, u64::from(choice % 3) * 4096);
            self.slow_down(active, node, self.unit() / 16);
        }
        if step % 2 == 1 && self.nodes[node].is_up {
            let operations = (choice >> (step % 16)) as u16 % 8;
            self.doom(node, TurnPoint::InDisk(operations), Stop::PowerLoss, MILLISECOND);
        }
        self.write_everywhere(4, choice.wrapping_add(step as u32))
    }

    fn break_transfer(
        &mut self,
        active: usize,
        step: u64,
        group: GroupId,
        leader: usize,
        choice: u32,
    ) -> Verdict {
        if step == 0 {
            self.catch_one(active, group, leader, choice);
        }
        let [away] = self.active[active].sprung.others[..] else { return Ok(()) };
        if step == 0 {
            return self.stop_node(away, Stop::Kill);
        }
        if step < STEPS / 2 {
            self.write_everywhere(3, choice.wrapping_add(step as u32))?;
            if step + 4 == STEPS / 2 {
                let groups = self.plan.groups;
                for node in (0..self.nodes.len()).filter(|&node| node != away) {
                    self.order_snapshots(node, 0, groups);
                }
            }
            return Ok(());
        }
        if step == STEPS / 2 {
            self.start_later(away, LOOK);
        }
        match self.active[active].sprung.broken {
            ..BREAKS_MAX => self.break_what_moves(active, away, choice),
            _ => Ok(()),
        }
    }

    /// Breaks a transfer to the node, if one has just moved on.
    fn break_what_moves(&mut self, active: usize, away: usize, choice: u32) -> Verdict {
        let mut parts = std::mem::take(&mut self.active[active].sprung.parts);
        let cores = self.nodes[away].cores.clone();
        parts.resize(cores.len(), 0);
        let mut moving = None;
        for (seen, at) in parts.iter_mut().zip(cores) {
            let Some(live) = &self.cores[at].live else { continue };
            let taken = live.core.transfer_counters().parts_taken;
            if std::mem::replace(seen, taken) != taken && moving.is_none() {
                moving = self.reception_of(CoreAt(at));
            }
        }
        let sprung = &mut self.active[active].sprung;
        sprung.parts = parts;
        let Some((at, group, sender)) = moving else { return Ok(()) };
        let how = (choice >> 8).wrapping_add(sprung.broken) % 3;
        sprung.broken += 1;
        match how {
            0 => {
                let ends = |connection: &super::network::Connection| {
                    connection.ends.contains(&at)
                        && connection.ends.iter().any(|end| self.cores[end.0].node == sender)
                };
                if let Some(connection) = self.connections.iter().position(ends) {
                    self.reset(connection, [0, 0]);
                }
            }
            1 => {
                self.stop_node(away, Stop::Kill)?;
                self.start_later(away, LOOK);
            }
            _ => {
                let third = self.other_voters(group, sender).into_iter().find(|&node| node != away);
                if let Some(third) = third {
                    self.transfer(group, sender, third as u32);
                }
            }
        }
        Ok(())
    }

    /// A snapshot that comes in at a core and is not complete: its group, and who sends it.
    fn reception_of(&self, at: CoreAt) -> Option<(CoreAt, GroupId, usize)> {
        let core = self.core(at)?;
        let slots = (0..self.cores[at.0].groups.len() as u32).map(logdrive::core::Slot);
        slots.into_iter().find_map(|slot| {
            let all = core.transfer_status(slot);
            let coming = all.into_iter().find(|transfer| {
                !transfer.outgoing && transfer.step == TransferStep::Moving && transfer.bytes > 0
            });
            let group = self.cores[at.0].groups[slot.0 as usize].id;
            coming.map(|transfer| (at, group, transfer.peer.0 as usize - 1))
        })
    }

    fn only_copy(&mut self, active: usize, step: u64, group: GroupId, leader: usize) -> Verdict {
        match step {
            0 => {
                let others = self.other_voters(group, leader);
                self.cut_off(active, leader, &others);
                self.active[active].sprung.others = others;
                self.ask_if_up(OpKind::Propose, group, leader)
            }
            1 | 2 => self.ask_if_up(OpKind::Propose, group, leader),
            // The others are away, so that nobody is elected meanwhile; it comes back with what it has, and with nothing in memory.
            3 => {
                for other in self.active[active].sprung.others.clone() {
                    self.stop_node(other, Stop::Kill)?;
                }
                self.stop_node(leader, Stop::Kill)?;
                self.start_later(leader, LOOK);
                Ok(())
            }
            5 => {
                self.active[active].sprung.cuts.clear();
                self.work_out_ways();
                self.deliver_what_waited();
                self.rot_last_life(leader, group);
                // What it has to send it has to read.
                self.active[active].sprung.forgets = self.home_alone(leader, group);
                self.empty_caches();
                for other in self.active[active].sprung.others.clone() {
                    self.start_later(other, LOOK);
                }
                Ok(())
            }
            6..14 => {
                self.order_campaign(group, leader);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The blocks that the life before the present one wrote to last cannot be read any more, if the atlas allows it. They are not too new if
    /// the header of the segment that this life began with says that they are there. A log that went on in its last segment, because the disk
    /// was full, has no such header, and the marks are what says it then: neither is touched.
    fn rot_last_life(&mut self, node: usize, group: GroupId) {
        if !self.may_damage(node) {
            return self.reach("damage not allowed by the atlas");
        }
        let (at, _) = self.home(node, group);
        let last = self.cores[at.0].last_blocks.clone();
        let names = self.cores[at.0].platter.list().into_iter().map(|(name, _)| name);
        let Some(live) = &mut self.cores[at.0].live else { return };
        let disk = live.core.wal().disk();
        let began = names.filter(|name| is_segment(name) && disk.was_written(name, 0)).max();
        let is_attested = |file: &str| is_segment(file) && Some(file) < began.as_deref();
        let blocks: Vec<_> = last
            .into_iter()
            // Without the header of a segment a node does not start.
            .filter(|(file, block)| *block > 0 && is_attested(file) && !disk.was_written(file, *block))
            .collect();
        for (file, block) in blocks {
            let rot = Rot::Unreadable;
            if self.cores[at.0].platter.damage(&file, block * logdrive_wal::ALIGNMENT as u64, rot.kind()) {
                self.note_damage(at, &file, block, rot.name());
                *self.injected.entry(rot.name()).or_default() += 1;
            }
        }
    }

    // -- what they are made of -----------------------------------------------------------------------------------------------

    /// Nothing passes between a node and others; connections hang.
    fn cut_off(&mut self, active: usize, node: usize, others: &[usize]) {
        let both = others.iter().flat_map(|&other| [(node, other), (other, node)]);
        self.active[active].sprung.cuts.extend(both);
        self.work_out_ways();
    }

    /// The core of a node that has the group.
    fn home_alone(&self, node: usize, group: GroupId) -> Range<usize> {
        let (at, _) = self.home(node, group);
        at.0..at.0 + 1
    }

    /// Caches keep nothing as long as a trap wants that.
    pub(super) fn empty_caches(&self) {
        let trapped = self.active.iter().filter(|active| !active.is_over);
        self.whims.empty_caches(trapped.flat_map(|active| active.sprung.forgets.clone()));
    }

    pub(super) fn slow_down(&mut self, active: usize, node: usize, up_to: Nanos) {
        self.active[active].sprung.slow = Some((node, up_to));
        self.slow_disks();
    }

    /// The voters of a group beside its leader that run, by what the leader knows.
    pub(super) fn other_voters(&self, group: GroupId, leader: usize) -> Vec<usize> {
        let (at, slot) = self.home(leader, group);
        let Some(core) = self.core(at) else { return Vec::new() };
        let voters = core.membership(slot).0.voters().iter().map(|voter| voter.0 as usize - 1);
        voters.filter(|&voter| voter != leader && self.nodes[voter].responds(self.now)).collect()
    }

    /// One of the voters beside the leader that run is what the trap is about; none if there is none.
    pub(super) fn catch_one(&mut self, active: usize, group: GroupId, leader: usize, choice: u32) {
        let others = self.other_voters(group, leader);
        let caught = others.get(choice as usize % others.len().max(1));
        self.active[active].sprung.others = caught.copied().into_iter().collect();
    }

    fn order_campaign(&mut self, group: GroupId, node: usize) {
        if let Some((at, slot)) = self.live_home(node, group) {
            self.input(at, CoreEvent::Campaign { slot });
        }
    }

    fn ask_if_up(&mut self, kind: OpKind, group: GroupId, node: usize) -> Verdict {
        if self.nodes[node].is_up {
            self.ask(kind, group, NodeId(node as u32 + 1))?;
        }
        Ok(())
    }

    /// Some groups take a write at their leaders.
    pub(super) fn write_everywhere(&mut self, count: u32, first: u32) -> Verdict {
        for group in 0..count.min(self.plan.groups) {
            let group = self.group(first.wrapping_add(group));
            if let Some(leader) =
                self.leader_of(group).filter(|&leader| self.nodes[leader].responds(self.now))
            {
                self.ask_if_up(OpKind::Propose, group, leader)?;
            }
        }
        Ok(())
    }
}
