//! Which faults a run is made of: the whole list follows from the plan, before anything runs.

use logdrive_shard::Random;

use super::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use super::disk_faults::{draw_fault, draw_rot};
use super::faults::{Fault, FaultId, FaultKind, LinkTrouble, Stop, TurnPoint, Ways, Whom};
use super::plan::{Plan, Profile, START};
use super::random::{Purpose, chance, stream, within};
use super::shape::Shape;
use super::traps::Trap;

/// Faults of a list, at most.
pub(super) const FAULTS_MAX: usize = 100_000;

/// Classes of faults, which a profile weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Crash,
    CrashInTurn,
    CrashSlowLeader,
    Blackout,
    Pause,
    SlowCore,
    Spoil,
    Partition,
    Bridge,
    Cut,
    Link,
    Clog,
    Reset,
    ClockStep,
    ClockDrift,
    Transfer,
    Change,
    DiskSlow,
    DiskFull,
    Disk,
    DiskGone,
    Rot,
    Snapshots,
    SnapshotRot,
    SnapshotDisk,
    CrashInStart,
    Trap,
}

const CLASSES: [Class; 27] = [
    Class::Crash,
    Class::CrashInTurn,
    Class::CrashSlowLeader,
    Class::Blackout,
    Class::Pause,
    Class::SlowCore,
    Class::Spoil,
    Class::Partition,
    Class::Bridge,
    Class::Cut,
    Class::Link,
    Class::Clog,
    Class::Reset,
    Class::ClockStep,
    Class::ClockDrift,
    Class::Transfer,
    Class::Change,
    Class::DiskSlow,
    Class::DiskFull,
    Class::Disk,
    Class::DiskGone,
    Class::Rot,
    Class::Snapshots,
    Class::SnapshotRot,
    Class::SnapshotDisk,
    Class::CrashInStart,
    Class::Trap,
];

/// How often each class comes, by profile; the order is that of [`CLASSES`].
fn weights(plan: &Plan) -> [u64; CLASSES.len()] {
    match plan.profile {
        //                     Cr CT SL Bl Pa SC Sp Pt Br Cu Li Cl Re CS CD Tr Ch DS DF Di DG Ro Sn SR SD CI Tp
        Profile::Default => [3, 2, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 0, 1, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 3],
        Profile::Disk => [3, 3, 2, 2, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1, 4, 3, 8, 1, 8, 6, 2, 4, 3, 4],
        Profile::Network => [1, 1, 0, 0, 1, 0, 0, 5, 2, 4, 6, 3, 4, 1, 1, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1],
        Profile::Membership => {
            [2, 2, 1, 1, 1, 0, 1, 2, 1, 1, 1, 0, 1, 0, 0, 6, 14, 1, 0, 0, 0, 1, 4, 1, 0, 1, 3]
        }
        Profile::Scale => [2, 1, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 2, 2, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0],
        Profile::Swarm => {
            let mut random = stream(plan.seed, Purpose::Faults, 1);
            let mut weights = [0; CLASSES.len()];
            weights.iter_mut().for_each(|weight| {
                let drawn = 1 + random.below(5);
                *weight = if chance(&mut random, 2) { drawn } else { 0 };
            });
            weights
        }
    }
}

/// Whether clocks may go wrong by more than leases stand.
pub(super) fn clocks_jump(plan: &Plan) -> bool {
    weights(plan)[CLASSES.iter().position(|class| *class == Class::ClockStep).unwrap_or(0)] > 0
}

/// The list of a plan.
pub fn faults(plan: &Plan, shape: &Shape) -> Vec<Fault> {
    let mut faults = match &plan.list {
        Some(list) => list.faults.to_vec(),
        None => draw(plan, shape),
    };
    if let Some(only) = &plan.only {
        faults.retain(|fault| only.0.contains(&fault.id));
    }
    faults
}

/// What the seed makes.
fn draw(plan: &Plan, shape: &Shape) -> Vec<Fault> {
    let weights = weights(plan);
    let total: u64 = weights.iter().sum();
    let mut times = stream(plan.seed, Purpose::Faults, 0);
    let mut faults = Vec::new();
    // Leaders are elected first, in most runs.
    let mut at = START + if chance(&mut times, 4) { 0 } else { 2 * shape.unit() };
    while total > 0 && faults.len() < FAULTS_MAX {
        at += times.below(2 * shape.calm).max(MICROSECOND);
        if at >= plan.faults_end() {
            break;
        }
        let id = FaultId(faults.len() as u32);
        let mut random = stream(plan.seed, Purpose::Faults, 2 + u64::from(id.0));
        let mut draw = random.below(total);
        let class = CLASSES.iter().zip(weights).find(|(_, weight)| match draw.checked_sub(*weight) {
            Some(left) => {
                draw = left;
                false
            }
            None => true,
        });
        let Some((class, _)) = class else { break };
        let (span, what) = make(*class, shape, &mut random);
        faults.push(Fault { id, at, span, what });
    }
    faults
}

/// One fault of a class, with its span.
fn make(class: Class, shape: &Shape, random: &mut Random) -> (Nanos, FaultKind) {
    let unit = shape.unit();
    let down = 20 * MILLISECOND + random.below(5 * unit);
    let span = within(random, unit / 5..8 * unit);
    let node = random.below(840) as u32;
    let other = random.below(840) as u32;
    let group = random.below(1_000_000) as u32;
    let core = random.below(12) as u32;
    match class {
        Class::Crash => (down, FaultKind::Crash { whom: whom(random), how: how(random) }),
        Class::CrashInTurn => {
            let point = match random.below(8) {
                0 => TurnPoint::BeforeTurn,
                1 => TurnPoint::AfterTurn,
                2 => TurnPoint::AfterFrames(random.below(4) as u8),
                3 => TurnPoint::BeforeAnswers,
                4 | 5 => TurnPoint::InSnapshotDisk(random.below(24) as u16),
                _ => TurnPoint::InDisk(random.below(40) as u16),
            };
            let how = if chance(random, 2) { Stop::Kill } else { Stop::PowerLoss };
            (down, FaultKind::CrashInTurn { whom: whom(random), point, how })
        }
        Class::CrashSlowLeader => {
            let slow = MILLISECOND + random.below(unit / 4);
            let how = if chance(random, 4) { Stop::Kill } else { Stop::PowerLoss };
            let companion = chance(random, 2).then_some(node);
            (down, FaultKind::CrashSlowLeader { group, slow, how, companion })
        }
        Class::Blackout => (down, FaultKind::Blackout),
        Class::Pause => (random.below(4 * unit), FaultKind::Pause { whom: whom(random) }),
        Class::SlowCore => {
            let turn = [100 * MICROSECOND, MILLISECOND, 20 * MILLISECOND][random.below(3) as usize];
            (span, FaultKind::SlowCore { node, core, turn })
        }
        Class::Spoil if chance(random, 2) => (span, FaultKind::Restore { node }),
        Class::Spoil => (0, FaultKind::Wipe { node }),
        Class::Partition => {
            let ways = [Ways::Both, Ways::Both, Ways::Inward, Ways::Outward][random.below(4) as usize];
            let breaks = chance(random, 2);
            (span, FaultKind::Partition { inside: random.next_u64() as u16, ways, breaks })
        }
        Class::Bridge => (span, FaultKind::Bridge { node, inside: random.next_u64() as u16 }),
        Class::Cut => (span, FaultKind::Cut { from: node, to: other }),
        Class::Link => (span, FaultKind::Link { from: node, to: other, trouble: link_trouble(random, unit) }),
        Class::Clog => (span, FaultKind::Clog { from: node, to: other }),
        Class::Reset => (0, FaultKind::Reset { connection: random.next_u64() as u32 }),
        Class::ClockStep => (0, FaultKind::ClockStep { node, ahead: random.below(10 * SECOND) }),
        Class::ClockDrift => {
            // Two clocks may differ by the sum: within what leases rest on (5 %).
            (span, FaultKind::ClockDrift { node, ppm: random.below(40_000) as i32 - 20_000 })
        }
        Class::Transfer => (0, FaultKind::Transfer { group, to: node }),
        Class::Change => (0, FaultKind::Change { group, choice: random.next_u64() as u32 }),
        Class::DiskSlow => {
            let up_to = match random.below(8) {
                0 => within(random, SECOND..30 * SECOND),
                1..4 => within(random, 50 * MILLISECOND..SECOND),
                _ => within(random, MILLISECOND..50 * MILLISECOND),
            };
            (span, FaultKind::DiskSlow { node, up_to })
        }
        Class::DiskFull => (span, FaultKind::DiskFull { node, left: random.below(64) as u32 * 4096 }),
        Class::Disk => (0, FaultKind::Disk { node, core, fault: draw_fault(random) }),
        Class::DiskGone => (0, FaultKind::DiskGone { node }),
        Class::Rot => {
            let place = random.next_u64() as u32;
            (0, FaultKind::Rot { node, core, place, what: draw_rot(random) })
        }
        Class::Snapshots => {
            let count = [1, 4, 1_000][random.below(3) as usize];
            (0, FaultKind::Snapshots { node, group, count })
        }
        Class::SnapshotRot => {
            let place = random.next_u64() as u32;
            (0, FaultKind::SnapshotRot { node, core, place, what: draw_rot(random) })
        }
        Class::SnapshotDisk => (0, FaultKind::SnapshotDisk { node, core, fault: draw_fault(random) }),
        Class::CrashInStart => {
            let (operations, times) = (random.below(24) as u16, 1 + random.below(4) as u8);
            let down = 1 + random.below(100 * MILLISECOND);
            (down, FaultKind::CrashInStart { whom: whom(random), how: how(random), operations, times })
        }
        Class::Trap => {
            let what = Trap::ALL[random.below(Trap::ALL.len() as u64) as usize];
            let choice = random.next_u64() as u32;
            (what.span(unit, random), FaultKind::Trap { group, what, choice })
        }
    }
}

fn whom(random: &mut Random) -> Whom {
    match random.below(2) {
        0 => Whom::Node(random.below(840) as u32),
        _ => Whom::LeaderOf(random.below(1_000_000) as u32),
    }
}

fn how(random: &mut Random) -> Stop {
    [Stop::Kill, Stop::PowerLoss, Stop::Clean][random.below(3) as usize]
}

fn link_trouble(random: &mut Random, unit: Nanos) -> LinkTrouble {
    let mut trouble = LinkTrouble::default();
    let mut rate = || [0, 0, 10, 100][random.below(4) as usize];
    trouble.lost_permille = rate();
    trouble.twice_permille = rate();
    trouble.overtakes_permille = rate();
    trouble.damaged_permille = rate() / 5;
    trouble.delay = random.below(unit / 2);
    trouble
}
