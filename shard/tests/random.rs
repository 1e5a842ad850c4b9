//! Random runs: everything that can happen to a cluster, in any order, from a seed. After every step the safety
//! properties are checked (`common/checks.rs`); at the end all faults are lifted and the cluster must come together.
//!
//! `LOGDRIVE_SEED=n` runs one seed with its trace, `LOGDRIVE_SEEDS=n` so many.
mod common;

use common::chaos::{Chaos, for_seeds, for_seeds_of};
use common::ms;
use logdrive_shard::{MemberStep, MembershipChange, NodeId};

const STEPS: u32 = 2_000;

/// Proposals and reads of all kinds, to the leader usually, to anybody sometimes. Stale reads are noticed by the cluster.
fn clients(chaos: &mut Chaos) -> Option<()> {
    let id = chaos.addressee()?;
    match chaos.dice.below(14) {
        0..9 => {
            let count = 1 + chaos.dice.below(4) as u32;
            let bytes = chaos.dice.below(40) as u32;
            let _ = chaos.cluster.propose(id, count, bytes);
        }
        9..11 => drop(chaos.cluster.read(id)),
        11..13 => {
            let id = chaos.live_node()?;
            let _ = chaos.cluster.forward_read(id);
        }
        _ => chaos.leases += u64::from(chaos.cluster.lease_read(id).is_ok()),
    }
    Some(())
}

#[test]
fn random_runs_keep_the_safety_properties_and_heal() {
    let (mut runs, mut committed, mut terms, mut installed) = (0, 0, 0, 0);
    for_seeds("random", 2_500, |chaos| {
        for _ in 0..STEPS {
            chaos.step(&mut clients);
        }
        runs += 1;
        committed += chaos.cluster.checks.committed_len();
        terms += chaos.highest_term();
        chaos.heal();
        installed += chaos.cluster.installed;
    });
    println!(
        "{runs} runs of {STEPS} steps: {committed} entries committed, {terms} terms, {installed} snapshots installed"
    );
    let enough = committed >= 10 * runs && terms >= 3 * runs as u64 && 2 * installed >= runs as u64;
    assert!(runs < 10 || enough, "too little happens to prove anything");
}

/// All faults and all features: membership changes, damaged disks, priorities, leases under clocks that differ, forwarded reads, transfers,
/// restarts, partitions, and nodes that disagree whether pre-vote and check-quorum are on.
#[test]
fn random_runs_with_everything_at_once_keep_the_safety_properties_and_heal() {
    let (mut runs, mut committed, mut terms, mut changes, mut damages, mut leases) = (0, 0, 0, 0, 0, 0);
    let (mut taken, mut installed) = (0, 0);
    for_seeds_of(Chaos::with_everything, "random everything", 700, |chaos| {
        for _ in 0..2 * STEPS {
            chaos.step(&mut |chaos| match chaos.dice.below(80) {
                0..8 => chaos.change(),
                8 => chaos.fail_and_return(),
                _ => clients(chaos),
            });
        }
        runs += 1;
        committed += chaos.cluster.checks.committed_len();
        terms += chaos.highest_term();
        (changes, damages, leases) =
            (changes + chaos.changes, damages + chaos.damages, leases + chaos.leases);
        chaos.heal_members();
        (taken, installed) = (taken + chaos.taken, installed + chaos.cluster.installed);
    });
    println!(
        "{runs} runs of {} steps: {committed} entries committed, {terms} terms, {changes} changes of the configuration, \
         {damages} damaged disks, {leases} reads under a lease, {taken} snapshots taken and {installed} installed",
        2 * STEPS
    );
    let enough =
        committed >= 10 * runs && [changes, 2 * damages, leases, installed].iter().all(|&n| n >= runs as u64);
    assert!(runs < 10 || enough, "too little happens to prove anything");
}

/// A leader is cut off from what goes on, as by a pause or a slow link, while the others are made to elect another one: whoever
/// believes that it leads is asked again and again.
fn against_leases(chaos: &mut Chaos, served: &mut u64) {
    let leader = chaos.cluster.elect();
    chaos.cluster.pulse_all();
    let _ = chaos.cluster.read(leader);
    chaos.cluster.stabilize();
    let frozen = if chaos.dice.below(4) == 0 { chaos.any_node() } else { leader };
    for _ in 0..40 {
        behind_its_back(chaos, leader, frozen);
        for id in 1..=chaos.nodes {
            if chaos.cluster.group(id).is_leader() {
                *served += u64::from(chaos.cluster.lease_read(id).is_ok());
            }
        }
    }
    for (a, b) in (1..=chaos.nodes).flat_map(|a| (a + 1..=chaos.nodes).map(move |b| (a, b))) {
        chaos.cluster.set_contact(a, b, true);
    }
}

fn behind_its_back(chaos: &mut Chaos, leader: u32, frozen: u32) -> Option<()> {
    let id = chaos.any_node();
    let other = Some(id).filter(|&id| id != frozen);
    match chaos.dice.below(17) {
        0 => chaos.cluster.pulse(leader, id),
        1 => chaos.cluster.answer(id, leader),
        2 => drop(chaos.cluster.read(leader)),
        3..7 => drop(chaos.cluster.deliver(|envelope| envelope.to.0 != frozen)),
        7..10 => chaos.cluster.complete_writes(id),
        10 => chaos.cluster.set_contact_one_way(other?, leader, false),
        11 => chaos.cluster.plain(other?, |group, env| group.campaign(env)),
        12 => chaos.cluster.now = chaos.cluster.now.after(ms(chaos.dice.below(200))),
        13 => drop(chaos.cluster.propose(other?, 1, 1)),
        14 if chaos.dice.below(3) == 0 => {
            chaos.cluster.crash_unnoticed(other?, 9);
            chaos.cluster.restart(id);
        }
        15 if chaos.dice.below(3) == 0 => change(chaos, leader, id)?,
        _ => drop(chaos.cluster.transfer(leader, id)),
    }
    Some(())
}

/// A voter goes, or comes back.
fn change(chaos: &mut Chaos, leader: u32, id: u32) -> Option<()> {
    let membership = chaos.cluster.group(leader).membership().clone();
    let step = match membership.is_voter(NodeId(id)) {
        true if membership.voters().len() > 2 => MemberStep::Remove(NodeId(id)),
        true => return None,
        false => MemberStep::AddVoter(NodeId(id)),
    };
    let change = MembershipChange { even_if_behind: true, ..MembershipChange::of(&[step]) };
    let _ = chaos.cluster.change(leader, &change);
    Some(())
}

#[test]
fn random_runs_never_serve_a_stale_read_under_a_lease() {
    let (mut runs, mut served) = (0, 0);
    for_seeds("random", 800, |chaos| {
        for _ in 0..30 {
            against_leases(chaos, &mut served);
        }
        runs += 1;
    });
    println!("{runs} runs: {served} reads under a lease");
    assert!(runs < 10 || served >= 50 * runs, "too few reads under a lease to prove anything: {served}");
}
