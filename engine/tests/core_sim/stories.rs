//! Single troubles with a known end, over a few seeds each.

use std::time::Duration;

use logdrive::api::Error;
use logdrive_shard::{GroupId, NodeId};

use super::chaos::every_group_takes_a_write;
use super::checker::Kind;
use super::cores::Stop;
use super::world::{MILLISECOND, Plan, World};
use super::{for_seeds, plan};

const GROUP: GroupId = GroupId(1);
/// Three times the longest first election timeout of these worlds.
const PATIENCE: Duration = Duration::from_millis(900);

/// A world at rest in which group 1 is led by the node that is returned, and no client interferes.
fn calm(plan: Plan) -> (World, NodeId) {
    let mut world = World::new(plan);
    world.run_for(Duration::from_millis(800));
    world.clients_run = false;
    world.settle(Duration::from_secs(5));
    // Leaders that are being moved to where they belong arrive there.
    world.run_for(Duration::from_millis(500));
    let leader = world.leader_seen_by(world.voters(GROUP)[0], GROUP);
    (world, leader)
}

fn place(node: NodeId) -> usize {
    node.0 as usize - 1
}

#[test]
fn the_leader_of_a_minority_steps_down_and_the_majority_goes_on() {
    for_seeds("the_leader_of_a_minority_steps_down", 1, 20, |seed| {
        // All five vote in every group, so that 2|3 is a minority of each.
        let (mut world, leader) = calm(Plan { three_voter_groups: false, ..plan(seed, 5) });
        let voters = world.voters(GROUP);
        let mut others = voters.clone();
        others.retain(|&voter| voter != leader);
        let (companion, majority) = others.split_first().expect("five voters");

        world.part(&[place(leader), place(*companion)]);
        if seed % 2 == 0 {
            world.break_blocked();
        }
        let stranded = world.begin(Kind::Propose, GROUP, leader, u32::MAX);
        let read = world.begin(Kind::ReadLinearizable, GROUP, leader, u32::MAX);
        let (new_leader, took) = world.write_somewhere(GROUP, majority, PATIENCE * 4);
        assert!(majority.contains(&new_leader));
        assert!(took < PATIENCE * 4, "{took:?}");
        world.run_for(PATIENCE);

        let ended = world.answer(stranded).expect("it was answered when the leader stepped down");
        assert!(matches!(ended, Err(Error::Indeterminate | Error::NotLeader { .. })), "{ended:?}");
        assert!(matches!(world.answer(read), Some(Err(Error::NotLeader { .. }))), "{:?}", world.answer(read));
        assert_ne!(
            world.leader_seen_by(leader, GROUP),
            leader,
            "the minority's leader still believes in itself"
        );
        let refused = world.ask(Kind::Propose, GROUP, leader, PATIENCE);
        assert!(matches!(refused, Some(Err(Error::NotLeader { .. }))), "{refused:?}");
        let local = world.ask(Kind::ReadLocal, GROUP, leader, PATIENCE);
        assert!(matches!(local, Some(Ok(_))), "local reads go on without a leader: {local:?}");

        world.heal();
        world.settle(Duration::from_secs(10));
        every_group_takes_a_write(&mut world);
    });
}

#[test]
fn a_power_loss_of_all_nodes_under_load_loses_nothing_acknowledged() {
    for_seeds("a_power_loss_of_all_nodes", 1, 20, |seed| {
        let mut world = World::new(plan(seed, 3));
        for _ in 0..4 {
            let load = world.random.below(900);
            world.run_for(Duration::from_millis(300 + load));
            // What was promised is checked against what each node comes back with.
            for node in 0..3 {
                world.stop(node, Stop::PowerLoss);
            }
            for node in 0..3 {
                world.restart(node);
            }
        }
        world.clients_run = false;
        world.settle(Duration::from_secs(10));
        every_group_takes_a_write(&mut world);
        assert!(world.checker.borrow().acknowledged > 100);
    });
}

#[test]
fn a_one_way_partition_does_not_stop_the_group() {
    for_seeds("a_one_way_partition", 1, 20, |seed| {
        let (mut world, leader) = calm(plan(seed, 3));
        let voters = world.voters(GROUP);
        let other = voters.iter().copied().find(|&voter| voter != leader).expect("three voters");
        let (from, to) = if seed % 2 == 0 { (leader, other) } else { (other, leader) };
        world.block(place(from), place(to));
        world.run_for(PATIENCE);
        let leaders: Vec<NodeId> = (0..20)
            .map(|_| {
                world.run_for(Duration::from_millis(100));
                world.write_somewhere(GROUP, &voters, PATIENCE * 4).0
            })
            .collect();
        let changes = leaders.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 2, "leadership never came to rest: {leaders:?}");
        world.heal();
        world.settle(Duration::from_secs(10));
    });
}

#[test]
fn a_leader_whose_disk_is_stuck_is_replaced() {
    for_seeds("a_leader_whose_disk_is_stuck", 1, 20, |seed| {
        let (mut world, leader) = calm(plan(seed, 3));
        world.set_disk_latency(place(leader), 60_000 * MILLISECOND..61_000 * MILLISECOND);
        let stuck = world.begin(Kind::Propose, GROUP, leader, u32::MAX);
        let mut others = world.voters(GROUP);
        others.retain(|&voter| voter != leader);
        let (new_leader, _) = world.write_somewhere(GROUP, &others, PATIENCE * 5);
        assert_ne!(new_leader, leader);
        world.run_for(PATIENCE);
        assert!(!matches!(world.answer(stuck), Some(Ok(_))), "its own copy is not durable");
    });
}

#[test]
fn a_log_at_its_budget_refuses_writes_and_goes_on_reading() {
    for_seeds("a_log_at_its_budget", 1, 10, |seed| {
        let mut world = World::new(Plan { log_bytes: 3 << 19, clients: 30, ..plan(seed, 3) });
        let full = |world: &mut World, group| {
            let asked = world.voters(group)[0];
            let leader = world.leader_seen_by(asked, group);
            leader.is_some()
                && matches!(
                    world.ask(Kind::Propose, group, leader, PATIENCE),
                    Some(Err(Error::OutOfSpace { .. }))
                )
        };
        let mut rounds = 0;
        while !(1..=world.plan.groups).all(|group| full(&mut world, GroupId(group))) {
            world.run_for(Duration::from_millis(200));
            rounds += 1;
            assert!(rounds < 300, "the logs never fill");
        }
        world.clients_run = false;
        world.run_for(Duration::from_millis(300));
        everything_can_be_read(&mut world);
        // Room for votes and for the first entry of a term is held in reserve. (Reads need a quorum of voters that have
        // everything: while one node is away that is not certain, as another one may have been full before.)
        for node in world.voters(GROUP) {
            world.stop(place(node), Stop::Kill);
            world.run_for(Duration::from_millis(20));
            world.restart(place(node));
            everything_can_be_read(&mut world);
        }
    });
}

#[test]
fn a_new_leader_finds_a_follower_whose_disk_is_full() {
    for_seeds("a_new_leader_finds_a_follower", 1, 20, |seed| {
        let (mut world, leader) = calm(Plan { disks_fail: true, ..plan(seed, 3) });
        let mut others = world.voters(GROUP);
        others.retain(|&voter| voter != leader);
        let (full, next) = (others[0], others[1]);
        world.fill_disk(place(full), 0);
        // Every start takes a fresh segment, until there is none.
        for _ in 0..4 {
            world.stop(place(full), Stop::Kill);
            world.restart(place(full));
            world.run_for(Duration::from_millis(300));
        }
        // The first entry of the new term finds no room at all on the full disk, not even the reserve's.
        world.transfer(GROUP, next);
        world.run_for(PATIENCE);
        world.write_somewhere(GROUP, &[leader, next], PATIENCE);
        world.heal();
        world.settle(Duration::from_secs(10));
        every_group_takes_a_write(&mut world);
    });
}

/// Every group answers a linearizable read before long.
fn everything_can_be_read(world: &mut World) {
    for group in (1..=world.plan.groups).map(GroupId) {
        let end = world.now + PATIENCE.as_nanos() as u64 * 4;
        loop {
            let leader = world.leader_seen_by(world.voters(group)[0], group);
            let able = leader.is_some() && world.is_alive(place(leader));
            if able && matches!(world.ask(Kind::ReadLinearizable, group, leader, PATIENCE), Some(Ok(_))) {
                break;
            }
            assert!(world.now < end, "group {group}: no reads");
            world.run_for(Duration::from_millis(10));
        }
    }
}
