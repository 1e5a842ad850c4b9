//! Single troubles with a known end in the simulator, over a few seeds each. When one fails it prints the seed; `LOGDRIVE_SIM_SEED`
//! runs that one.

use logdrive::api::Error;
use logdrive_shard::{GroupId, LogIndex, NodeId};
use logdrive_tools::sim::clock::{MILLISECOND, Nanos, SECOND};
use logdrive_tools::sim::faults::{Fault, FaultId, FaultKind, FaultSet, Stop, TurnPoint, Ways, Whom};
use logdrive_tools::sim::ops::OpKind;
use logdrive_tools::sim::oracle;
use logdrive_tools::sim::plan::{MachineKind, Plan, Profile};
use logdrive_tools::sim::shape::Shape;
use logdrive_tools::sim::trace::Trace;
use logdrive_tools::sim::world::World;

const GROUP: GroupId = GroupId(1);
/// Three times the longest first election timeout of these worlds.
const PATIENCE: Nanos = 900 * MILLISECOND;

type Answer = Result<LogIndex, Error>;

/// Prints how to repeat a story if it ends in a panic.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with LOGDRIVE_SIM_SEED={}", self.0);
        }
    }
}

fn for_seeds(count: u64, run: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("LOGDRIVE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + count,
    };
    for seed in seeds {
        let _replay = Replay(seed);
        run(seed);
    }
}

fn plan(seed: u64, nodes: u32) -> Plan {
    Plan {
        nodes,
        cores: 2,
        groups: 5,
        clients: 8,
        machine: MachineKind::Register,
        only: Some(FaultSet::default()),
        ..Plan::new(Profile::Swarm, seed)
    }
}

/// A world under load, with all checks.
fn world(plan: Plan, change: impl FnOnce(&mut Shape)) -> World {
    let mut shape = Shape::of(&plan).brisk();
    shape.everybody_votes = true;
    change(&mut shape);
    let checks = oracle::all(&plan);
    let mut world = World::shaped(plan, shape, Trace::new(5, None));
    checks.into_iter().for_each(|check| world.observe(check));
    world.start().expect("all is well");
    world
}

/// A world at rest in which group 1 is led by the node that is returned, and no client interferes.
fn calm(plan: Plan) -> (World, NodeId) {
    let mut world = world(plan, |_| {});
    world.run_for(800 * MILLISECOND).expect("all is well");
    world.stop_clients();
    world.settle(5 * SECOND).expect("all is well");
    // Leaders that are being moved to where they belong arrive there.
    world.run_for(500 * MILLISECOND).expect("all is well");
    let leader = world.leader_seen_by(NodeId(1), GROUP);
    (world, leader)
}

fn place(node: NodeId) -> u32 {
    node.0 - 1
}

fn strike(world: &mut World, what: FaultKind) {
    world
        .strike(Fault { id: FaultId(u32::MAX), at: world.now(), span: 3_600 * SECOND, what })
        .expect("all is well");
}

fn ask(world: &mut World, kind: OpKind, node: NodeId, limit: Nanos) -> Option<Answer> {
    ask_group(world, kind, GROUP, node, limit)
}

fn ask_group(world: &mut World, kind: OpKind, group: GroupId, node: NodeId, limit: Nanos) -> Option<Answer> {
    let attempt = world.ask(kind, group, node).expect("all is well");
    let end = world.now() + limit;
    while world.answer(attempt).is_none() && world.now() < end {
        world.run_for(MILLISECOND).expect("all is well");
    }
    world.answer(attempt)
}

/// Writes at whoever is the leader, until one is acknowledged. Returns the leader and how long it took.
fn write_somewhere(world: &mut World, asking: &[NodeId], limit: Nanos) -> (NodeId, Nanos) {
    let start = world.now();
    loop {
        for &asked in asking {
            let leader = world.leader_seen_by(asked, GROUP);
            if asking.contains(&leader) && matches!(ask(world, OpKind::Propose, leader, limit), Some(Ok(_))) {
                return (leader, world.now() - start);
            }
        }
        assert!(world.now() - start < limit, "nodes {asking:?} took no write within {limit} ns");
        world.run_for(10 * MILLISECOND).expect("all is well");
    }
}

/// Everything heals, comes to rest and takes writes.
fn heal(world: &mut World) {
    world.heal().expect("all is well");
    world.stop_clients();
    world.settle(10 * SECOND).expect("all is well");
    world.every_group_takes_a_write(5 * SECOND).expect("all is well");
    world.settle(SECOND).expect("all is well");
}

fn all_but(world: &World, out: NodeId) -> Vec<NodeId> {
    world.founders(GROUP).iter().copied().filter(|&node| node != out).collect()
}

#[test]
fn the_leader_of_a_minority_steps_down_and_the_majority_goes_on() {
    for_seeds(10, |seed| {
        let (mut world, leader) = calm(plan(seed, 5));
        let others = all_but(&world, leader);
        let (companion, majority) = others.split_first().expect("five voters");
        let inside = 1 << place(leader) | 1 << place(*companion);
        strike(&mut world, FaultKind::Partition { inside, ways: Ways::Both, breaks: seed % 2 == 0 });
        let stranded = world.ask(OpKind::Propose, GROUP, leader).expect("all is well");
        let read = world.ask(OpKind::ReadLinearizable, GROUP, leader).expect("all is well");
        let (new_leader, _) = write_somewhere(&mut world, majority, PATIENCE * 4);
        assert!(majority.contains(&new_leader));
        world.run_for(PATIENCE).expect("all is well");

        let ended = world.answer(stranded).expect("it was answered when the leader stepped down");
        assert!(matches!(ended, Err(Error::Indeterminate | Error::NotLeader { .. })), "{ended:?}");
        assert!(matches!(world.answer(read), Some(Err(Error::NotLeader { .. }))), "{:?}", world.answer(read));
        assert_ne!(
            world.leader_seen_by(leader, GROUP),
            leader,
            "the minority's leader still believes in itself"
        );
        let refused = ask(&mut world, OpKind::Propose, leader, PATIENCE);
        assert!(matches!(refused, Some(Err(Error::NotLeader { .. }))), "{refused:?}");
        let local = ask(&mut world, OpKind::ReadLocal, leader, PATIENCE);
        assert!(matches!(local, Some(Ok(_))), "local reads go on without a leader: {local:?}");
        heal(&mut world);
    });
}

#[test]
fn a_power_loss_of_all_nodes_under_load_loses_nothing_acknowledged() {
    for_seeds(8, |seed| {
        let mut world = world(plan(seed, 3), |_| {});
        for round in 0..4 {
            world.run_for((300 + (seed * 97 + round * 211) % 900) * MILLISECOND).expect("all is well");
            // What was promised is checked against what each node comes back with.
            (0..3).for_each(|node| world.stop_node(node, Stop::PowerLoss).expect("all is well"));
            (0..3).for_each(|node| world.start_node(node).expect("all is well"));
        }
        heal(&mut world);
        assert!(world.reached["commands acknowledged"] > 100);
    });
}

#[test]
fn a_one_way_partition_does_not_stop_the_group() {
    for_seeds(10, |seed| {
        let (mut world, leader) = calm(plan(seed, 3));
        let voters = world.founders(GROUP).to_vec();
        let other = all_but(&world, leader)[0];
        let (from, to) = if seed % 2 == 0 { (leader, other) } else { (other, leader) };
        strike(&mut world, FaultKind::Cut { from: place(from), to: place(to) });
        world.run_for(PATIENCE).expect("all is well");
        let leaders: Vec<NodeId> = (0..20)
            .map(|_| {
                world.run_for(100 * MILLISECOND).expect("all is well");
                write_somewhere(&mut world, &voters, PATIENCE * 4).0
            })
            .collect();
        let changes = leaders.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 2, "leadership never came to rest: {leaders:?}");
        heal(&mut world);
    });
}

#[test]
fn a_leader_whose_disk_is_stuck_is_replaced() {
    for_seeds(8, |seed| {
        let (mut world, leader) = calm(plan(seed, 3));
        strike(&mut world, FaultKind::DiskSlow { node: place(leader), up_to: 600 * SECOND });
        let stuck = world.ask(OpKind::Propose, GROUP, leader).expect("all is well");
        let others = all_but(&world, leader);
        let (new_leader, _) = write_somewhere(&mut world, &others, PATIENCE * 5);
        assert_ne!(new_leader, leader);
        world.run_for(PATIENCE).expect("all is well");
        assert!(!matches!(world.answer(stuck), Some(Ok(_))), "its own copy is not durable");
    });
}

#[test]
fn a_log_at_its_budget_refuses_writes_and_goes_on_reading() {
    for_seeds(4, |seed| {
        let mut world = world(Plan { clients: 30, ..plan(seed, 3) }, |shape| {
            shape.log_bytes = 3 << 19;
            // There is no room for the snapshots that would keep the logs short.
            shape.snapshots.files.space_reserve_bytes = 1 << 60;
            shape.snapshots.group_log_bytes_max = 1 << 40;
        });
        let full = |world: &mut World, group| {
            let leader = world.leader_seen_by(NodeId(1), group);
            let answer = leader.is_some().then(|| ask_group(world, OpKind::Propose, group, leader, PATIENCE));
            matches!(answer, Some(Some(Err(Error::OutOfSpace { .. }))))
        };
        let groups: Vec<GroupId> = world.groups().collect();
        let mut rounds = 0;
        while !groups.iter().all(|&group| full(&mut world, group)) {
            world.run_for(200 * MILLISECOND).expect("all is well");
            rounds += 1;
            assert!(rounds < 300, "the logs never fill");
        }
        world.stop_clients();
        world.run_for(300 * MILLISECOND).expect("all is well");
        everything_can_be_read(&mut world);
        // Room for votes and for the first entry of a term is held in reserve. (Reads need a quorum of voters that have
        // everything: while one node is away that is not certain, as another one may have been full before.)
        for node in 0..3 {
            world.stop_node(node, Stop::Kill).expect("all is well");
            world.run_for(20 * MILLISECOND).expect("all is well");
            world.start_node(node).expect("all is well");
            everything_can_be_read(&mut world);
        }
    });
}

/// Every group answers a linearizable read before long.
fn everything_can_be_read(world: &mut World) {
    for group in world.groups() {
        let end = world.now() + PATIENCE * 4;
        loop {
            let leader = world.leader_seen_by(NodeId(1), group);
            if leader.is_some()
                && world.is_up(place(leader) as usize)
                && matches!(ask_group(world, OpKind::ReadLinearizable, group, leader, PATIENCE), Some(Ok(_)))
            {
                break;
            }
            assert!(world.now() < end, "group {group}: no reads");
            world.run_for(10 * MILLISECOND).expect("all is well");
        }
    }
}

#[test]
fn a_new_leader_finds_a_follower_whose_disk_is_full() {
    for_seeds(8, |seed| {
        let (mut world, leader) = calm(plan(seed, 3));
        let others = all_but(&world, leader);
        let (full, next) = (others[0], others[1]);
        strike(&mut world, FaultKind::DiskFull { node: place(full), left: 0 });
        // Every start takes a fresh segment, until there is none.
        for _ in 0..4 {
            let node = place(full) as usize;
            world.stop_node(node, Stop::Kill).expect("all is well");
            if !world.is_up(node) {
                world.start_node(node).expect("all is well");
            }
            world.run_for(300 * MILLISECOND).expect("all is well");
        }
        // The first entry of the new term finds no room at all on the full disk, not even the reserve's.
        strike(&mut world, FaultKind::Transfer { group: 0, to: place(next) });
        world.run_for(PATIENCE).expect("all is well");
        write_somewhere(&mut world, &[leader, next], PATIENCE);
        heal(&mut world);
    });
}

#[test]
fn who_comes_back_with_less_than_it_had_is_refused() {
    for_seeds(10, |seed| {
        let (mut world, _) = calm(plan(seed, 3));
        strike(&mut world, FaultKind::Wipe { node: 1 });
        world.run_for(SECOND).expect("all is well");
        assert!(world.is_spoiled(1) && world.reached["handshakes refused"] > 0);
        assert_eq!(world.leader_seen_by(NodeId(2), GROUP), NodeId::NONE, "nobody talks to it");
        let (leader, _) = write_somewhere(&mut world, &[NodeId(1), NodeId(3)], PATIENCE * 4);
        assert_ne!(leader, NodeId(2));
    });
}

/// The boot that begins on the copy has the number of one that all others have met, and not its name.
#[test]
fn a_backup_that_begins_a_boot_again_is_refused() {
    for_seeds(10, |seed| {
        let (mut world, _) = calm(plan(seed, 3));
        let what = FaultKind::Restore { node: 1 };
        let restored = Fault { id: FaultId(u32::MAX), at: world.now(), span: 3 * SECOND, what };
        world.strike(restored).expect("all is well");
        world.run_for(200 * MILLISECOND).expect("all is well");
        world.stop_node(1, Stop::Kill).expect("all is well");
        world.start_node(1).expect("all is well");
        world.run_for(PATIENCE).expect("all is well");
        write_somewhere(&mut world, &[NodeId(1), NodeId(2), NodeId(3)], PATIENCE);
        assert!(!world.is_spoiled(1));
        world.run_for(4 * SECOND).expect("nobody takes it");
        assert!(world.is_spoiled(1) && world.reached["handshakes refused"] > 0);
        assert_eq!(world.leader_seen_by(NodeId(2), GROUP), NodeId::NONE, "nobody talks to it");
        let (leader, _) = write_somewhere(&mut world, &[NodeId(1), NodeId(3)], PATIENCE * 4);
        assert_ne!(leader, NodeId(2));
    });
}

/// Removes a follower from the group of four, and runs until it has given up its log, which is looked at so often.
fn remove(world: &mut World, leader: NodeId, out: NodeId, look: Nanos) {
    let membership = |world: &World| {
        let (at, slot) = world.home(place(leader) as usize, GROUP);
        world.core(at).expect("it runs").membership(slot).0.clone()
    };
    let removal = membership(world).voters().iter().position(|&voter| voter == out).expect("a voter");
    // Eight changes are possible: removals, then demotions. The operator waits for the answer.
    strike(world, FaultKind::Change { group: 0, choice: 7 << 24 | removal as u32 });
    world.run_for(PATIENCE).expect("all is well");
    assert!(!membership(world).contains(out), "{:?}", membership(world));
    let log_end = |world: &World| {
        let (at, slot) = world.home(place(out) as usize, GROUP);
        world.summaries(at)[slot.0 as usize].last
    };
    let end = world.now() + 10 * SECOND;
    while log_end(world) > LogIndex(0) && world.now() < end {
        world.run_for(look).expect("all is well");
    }
    assert_eq!(log_end(world), LogIndex(0), "it was given up, and that was told");
}

/// The files of snapshots go when the log says durably that the group was given up.
#[test]
fn a_node_that_ends_while_it_gives_up_a_group_has_lost_nothing() {
    for_seeds(6, |seed| {
        let mut world = world(plan(seed, 4), |shape| {
            shape.snapshots.every_entries = 4;
            shape.snapshots.keep_trailing_entries = 0;
        });
        world.run_for(3 * SECOND).expect("all is well");
        world.stop_clients();
        world.settle(5 * SECOND).expect("all is well");
        world.run_for(500 * MILLISECOND).expect("all is well");
        let leader = world.leader_seen_by(NodeId(1), GROUP);
        let out = all_but(&world, leader)[0];
        strike(&mut world, FaultKind::DiskSlow { node: place(out), up_to: 50 * MILLISECOND });
        remove(&mut world, leader, out, 100 * MILLISECOND / 1_000);
        world.run_for(5 * MILLISECOND).expect("all is well");
        world.stop_node(place(out) as usize, Stop::Kill).expect("all is well");
        world.start_node(place(out) as usize).expect("what was durable is there");
        let (at, slot) = world.home(place(out) as usize, GROUP);
        let lost = world.core(at).expect("it runs").group_status(slot).raft.lost;
        assert!(!lost.is_any(), "{lost}");
        heal(&mut world);
    });
}

/// A group that gave up its log kept term and vote, and nothing else was promised any more.
#[test]
fn a_node_that_a_group_left_may_come_back_without_its_log() {
    for_seeds(6, |seed| {
        let (mut world, leader) = calm(plan(seed, 4));
        let out = all_but(&world, leader)[0];
        remove(&mut world, leader, out, 100 * MILLISECOND);
        world.stop_node(place(out) as usize, Stop::PowerLoss).expect("all is well");
        world.start_node(place(out) as usize).expect("what it has not is not asked for");
        heal(&mut world);
    });
}

/// A disk that halts in the middle of an operation is that crash, also if a crash elsewhere was ordered since.
#[test]
fn a_disk_that_halts_is_a_crash_whatever_was_ordered_since() {
    for_seeds(6, |seed| {
        let mut world = world(plan(seed, 3), |_| {});
        for point in [TurnPoint::InDisk(seed as u16 * 3), TurnPoint::AfterFrames(u8::MAX)] {
            let how = if seed % 2 == 0 { Stop::Kill } else { Stop::PowerLoss };
            strike(&mut world, FaultKind::CrashInTurn { whom: Whom::Node(1), point, how });
        }
        world.run_for(2 * SECOND).expect("the log did not fail for no reason");
        assert!(world.reached["crashes inside a disk operation"] > 0);
        heal(&mut world);
    });
}

#[test]
fn a_node_whose_log_has_no_room_for_a_snapshot_that_arrived_waits_without_turning_for_ever() {
    let mut installed = 0;
    for seed in 1..=8 {
        let _replay = Replay(seed);
        let mut world = world(Plan { groups: 1, cores: 1, ..plan(seed, 3) }, |shape| {
            shape.snapshots.every_entries = 8;
            shape.snapshots.keep_trailing_entries = 0;
            shape.filler_bytes = 0;
        });
        world.run_for(800 * MILLISECOND).expect("all is well");
        let leader = world.leader_seen_by(NodeId(1), GROUP);
        let full = all_but(&world, leader)[0];
        strike(&mut world, FaultKind::DiskFull { node: place(full), left: 0 });
        world.run_for(3 * SECOND).expect("every core comes to rest between two events");
        heal(&mut world);
        let (at, _) = world.home(full.0 as usize - 1, GROUP);
        installed += world.core(at).map_or(0, |core| core.snapshot_counters().installed);
    }
    assert!(installed > 0, "no node fell behind the logs of the others");
}
