//! Requests cross the mesh between the cores of a node in simulated runs: lanes fill, are served late and are lost with a node, clients
//! leave before their answers come, and every request that is waited for is answered once.

use logdrive::mesh::Limits;
use logdrive_tools::sim::clock::{MILLISECOND, SECOND};
use logdrive_tools::sim::faults::{Fault, FaultId, FaultKind, FaultSet, Stop};
use logdrive_tools::sim::many::{Manner, run_many};
use logdrive_tools::sim::oracle;
use logdrive_tools::sim::plan::{MachineKind, Plan, Profile};
use logdrive_tools::sim::run::guard;
use logdrive_tools::sim::shape::Shape;
use logdrive_tools::sim::trace::Trace;
use logdrive_tools::sim::world::World;

/// What must be met; a run of which one is missing tests less than it seems to.
const PATHS: [&str; 6] = [
    "mesh: requests",
    "mesh: answers",
    "mesh: batches that met in a lane",
    "mesh: lanes full",
    "mesh: lanes lost with a node",
    "mesh: answers to clients that left",
];

#[test]
fn requests_cross_the_mesh_whatever_strikes_and_every_path_of_it_is_reached() {
    let plan = |seed| Plan {
        ticks: 3_000,
        ..Plan::new([Profile::Membership, Profile::Disk, Profile::Network][seed as usize % 3], seed)
    };
    let mut told = Vec::new();
    let manner = Manner { jobs: 2, until_broken: false, json: false };
    let (summary, first, _) = run_many(40..64, manner, &plan, &mut told);
    assert!(first.is_none(), "{}", String::from_utf8_lossy(&told));
    for path in PATHS {
        let count = summary.reached.get(path).copied().unwrap_or(0);
        assert!(count > 0, "{path} was never met:\n{}", summary.table());
    }
}

/// A world of three nodes with three cores each under load, in which nothing goes wrong by itself.
fn world(seed: u64, mesh: Limits) -> World {
    let plan = Plan {
        nodes: 3,
        cores: 3,
        groups: 9,
        clients: 40,
        machine: MachineKind::Kv,
        only: Some(FaultSet::default()),
        ..Plan::new(Profile::Swarm, seed)
    };
    let mut shape = Shape::of(&plan).brisk();
    (shape.everybody_votes, shape.mesh) = (true, mesh);
    let checks = oracle::all(&plan);
    let mut world = World::shaped(plan, shape, Trace::new(9, None));
    checks.into_iter().for_each(|check| world.observe(check));
    world
}

fn met(world: &World, path: &str) -> u64 {
    world.reached.get(path).copied().unwrap_or(0)
}

#[test]
fn the_lanes_to_a_slow_core_fill_and_empty_again_and_a_crash_takes_what_is_in_them() {
    let (mut full, mut lost) = (0, 0);
    for seed in 1..9 {
        let mut world = world(seed, Limits { requests_max: 2, bytes_max: 4 << 10 });
        let verdict = guard(&mut world, |world| {
            world.start()?;
            world.run_for(SECOND)?;
            let before = met(world, "mesh: lanes full");
            for node in 0..3 {
                let slow = FaultKind::SlowCore { node, core: 1, turn: 5 * MILLISECOND };
                world.strike(Fault { id: FaultId(node), at: world.now(), span: SECOND, what: slow })?;
            }
            world.run_for(SECOND)?;
            full += met(world, "mesh: lanes full") - before;
            for node in 0..3 {
                world.stop_node(node, Stop::Kill)?;
                world.start_node(node)?;
                world.run_for(300 * MILLISECOND)?;
            }
            lost += met(world, "mesh: lanes lost with a node");
            world.heal()?;
            world.stop_clients();
            world.settle(10 * SECOND)?;
            world.every_group_takes_a_write(5 * SECOND)?;
            world.settle(SECOND)
        });
        assert_eq!(verdict, Ok(()), "seed {seed}");
        assert!(met(&world, "mesh: requests") > 1_000, "seed {seed}: {:?}", world.reached);
    }
    assert!(full > 100 && lost > 0, "{full} requests found no room, {lost} lanes were lost");
}
