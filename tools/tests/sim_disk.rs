//! The fault atlas at work: blocks of one node may be damaged in any way, and nothing is lost by it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail the test")]

use logdrive_tools::sim::clock::{MILLISECOND, SECOND};
use logdrive_tools::sim::disk_faults::Rot;
use logdrive_tools::sim::faults::{Fault, FaultId, FaultKind, Stop};
use logdrive_tools::sim::observer::{Verdict, ensure};
use logdrive_tools::sim::oracle;
use logdrive_tools::sim::plan::{Plan, Profile, Size};
use logdrive_tools::sim::report;
use logdrive_tools::sim::run::{guard, outcome};
use logdrive_tools::sim::trace::Trace;
use logdrive_tools::sim::traps::Trap;
use logdrive_tools::sim::world::World;

/// Three nodes with two cores and a few groups, busy clients, no faults but those that a test strikes. What `play` does is checked as any run.
fn play(seed: u64, play: impl FnOnce(&mut World) -> Verdict) {
    let mut plan = Plan { only: Some("none".parse().unwrap()), ..Plan::new(Profile::Disk, seed) };
    for (size, value) in [(Size::Groups, 6), (Size::Clients, 40)] {
        plan.override_size(size, value);
    }
    let mut world = World::new(plan.clone(), Trace::new(plan.groups as usize, None));
    oracle::all(&plan).into_iter().for_each(|observer| world.observe(observer));
    let verdict = guard(&mut world, |world| {
        world.start()?;
        play(world)?;
        world.stop_clients();
        world.settle(world.longest_heal())
    });
    let outcome = outcome(world, verdict);
    assert!(outcome.broken.is_none(), "{}", report::failure(&outcome));
}

fn rot(world: &mut World, node: u32, place: u32, what: Rot) -> Verdict {
    for core in 0..2 {
        let what = FaultKind::Rot { node, core, place, what };
        world.strike(Fault { id: FaultId(place), at: world.now(), span: 0, what })?;
    }
    Ok(())
}

/// Runs until the logs of all nodes are long enough to be damaged, and until a node holds damage.
fn damage(world: &mut World, node: u32, what: Rot) -> Verdict {
    for place in 1..400 {
        world.run_for(100 * MILLISECOND)?;
        rot(world, node, place * 4 + 1, what)?;
        if world.holds_damage(node as usize) {
            return Ok(());
        }
    }
    ensure(false, "a block is damaged", String::new)
}

fn start_again(world: &mut World, node: usize, how: Stop) -> Verdict {
    world.stop_node(node, how)?;
    world.run_for(500 * MILLISECOND)?;
    if !world.is_up(node) {
        world.start_node(node)?;
    }
    world.run_for(8 * SECOND)
}

#[test]
fn blocks_of_one_node_are_damaged_at_a_time_and_of_another_one_when_that_is_settled() {
    play(5, |world| {
        damage(world, 0, Rot::Garbage { sector: 1, seed: 7 })?;
        // Its neighbours keep their copies, whatever strikes.
        for place in 0..40 {
            rot(world, 1, place, Rot::Unreadable)?;
            world.strike(Fault { id: FaultId(1_000), at: 0, span: 0, what: FaultKind::Wipe { node: 2 } })?;
        }
        ensure(!world.holds_damage(1) && !world.is_spoiled(2), "one node at a time", String::new)?;
        start_again(world, 0, Stop::PowerLoss)?;
        damage(world, 1, Rot::Lost)?;
        ensure(!world.holds_damage(0), "the first one got over its damage", String::new)?;
        start_again(world, 1, Stop::Kill)
    });
}

#[test]
fn every_kind_of_damage_is_made_up_for_by_the_other_members() {
    let kinds = [
        Rot::Flip { at: 40, mask: 4 },
        Rot::Garbage { sector: 0, seed: 3 },
        Rot::Lost,
        Rot::Stale,
        Rot::Torn { sectors: 0x55 },
        Rot::Misdirected { block: 3 },
        Rot::Unreadable,
    ];
    for (seed, what) in kinds.into_iter().enumerate() {
        play(20 + seed as u64, |world| {
            damage(world, 2, what)?;
            world.run_for(SECOND)?;
            start_again(world, 2, [Stop::PowerLoss, Stop::Kill, Stop::Clean][seed % 3])
        });
    }
}

#[test]
fn a_disk_that_is_gone_ends_its_node_and_comes_back() {
    play(40, |world| {
        world.run_for(2 * SECOND)?;
        let gone = Fault { id: FaultId(0), at: world.now(), span: 0, what: FaultKind::DiskGone { node: 1 } };
        world.strike(gone)?;
        world.run_for(5 * SECOND)?;
        let refused = world.reached.get("starts refused by a disk").copied().unwrap_or(0);
        ensure(world.is_up(1) && refused > 0, "the node was refused by its disk and started again", || {
            format!("refused {refused} times")
        })
    });
}

/// Reads fail while the scrubber repairs a header and looks at it again: it gives the disk up, and rightly so. Nobody can demand that such a node
/// comes to rest, until its operator has done what it says.
#[test]
fn a_node_that_gave_up_its_disk_is_started_anew_when_troubles_end() {
    let has_given_up =
        |world: &World| world.cores().any(|at| world.core(at).is_some_and(|core| core.status().disk_failing));
    play(60, |world| {
        for choice in 1..7 {
            let (group, span) = (choice, 20 * SECOND);
            let what = FaultKind::Trap { group, what: Trap::Unread, choice };
            world.strike(Fault { id: FaultId(choice), at: world.now(), span, what })?;
            world.run_for(span + SECOND)?;
            if has_given_up(world) {
                break;
            }
        }
        ensure(has_given_up(world), "a disk is given up", String::new)?;
        world.heal()?;
        ensure(!has_given_up(world), "disks are sound", String::new)
    });
}
