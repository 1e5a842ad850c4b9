//! Slices of the work on snapshots: they end when their time is used, pauses pay for them, and consensus goes first. The clock is one
//! that goes on by so much at every look, so that a step of a slice takes as long as a test says.
mod common;

use std::time::Duration;

use common::{Cluster, Setup, Slice, ms, payload};
use logdrive::core::{Event, Slot};

const SLOT: Slot = Slot(0);
/// As the settings say.
const TIME: u64 = 50_000;
const INTERVAL: u64 = 250_000;
/// A core that has nothing else to do takes so many times as long, and rests for a quarter of that.
const ALONE: u64 = 4;
/// The bytes of a slice, two KiB for each step.
const STEPS_MAX: u64 = 32;

fn setup() -> Setup {
    let mut setup = Setup { groups: 1, preferred: false, ..Setup::default() };
    let snapshots = &mut setup.settings.snapshots;
    snapshots.every_entries = 0;
    snapshots.keep_trailing_entries = 5;
    snapshots.slice_bytes = 64 << 10;
    snapshots.slice_time = Duration::from_nanos(TIME);
    snapshots.slice_interval = Duration::from_nanos(INTERVAL);
    snapshots.files.space_reserve_bytes = 0;
    setup
}

fn write_all(cluster: &mut Cluster, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let large = [&payload(n)[..], &[n as u8; 8 << 10]].concat();
        assert!(cluster.write(1, &large).result.is_ok(), "write {n}");
    }
}

/// The slices of a node since its clock was set.
fn slices_of(cluster: &mut Cluster, node: u32) -> Vec<Slice> {
    cluster.node(node).timed.as_mut().map_or(Vec::new(), |timed| std::mem::take(&mut timed.slices))
}

/// Takes a snapshot at a node whose clock goes on by so much in each step: its slices.
fn snapshot(cluster: &mut Cluster, node: u32, step: u64, is_busy: bool) -> Vec<Slice> {
    match is_busy {
        true => cluster.time_slices_when_busy(node, Duration::from_nanos(step)),
        false => cluster.time_slices(node, Duration::from_nanos(step)),
    }
    let token = cluster.ask(node, |port, token| Event::Snapshot { port, token, slot: SLOT });
    assert!(cluster.wait(node, token).result.is_ok());
    slices_of(cluster, node)
}

/// Steps of a slice that ended because its time was up: each ended with a look at the clock, and there was one before the first and one
/// after the last.
fn steps(slice: &Slice, step: u64) -> u64 {
    slice.took / step - 2
}

/// In any stretch of time slices took no more than their share, and what one of them was too long.
fn check_share(slices: &[Slice], step: u64, is_busy: bool) {
    let longest = if is_busy { TIME } else { ALONE * TIME };
    for first in 0..slices.len() {
        let mut took = 0;
        for slice in &slices[first..] {
            let elapsed = slice.at - slices[first].at;
            let share = if is_busy { elapsed * TIME / INTERVAL } else { elapsed * 4 / 5 };
            // The look before the first step is not the slice's any more.
            assert!(took <= share + longest + step, "{took} ns of {elapsed} ns: {slices:?}");
            took += slice.took - step;
        }
    }
}

/// Snapshots on machines that are slower and slower: how many slices each took.
fn slices_of_ever_slower_machines(is_busy: bool) -> Vec<usize> {
    let mut cluster = Cluster::new(Setup { nodes: 1, ..setup() });
    cluster.elect();
    let mut counts = Vec::new();
    for (round, step) in [100, 9_000, 20_000, 200_000, 1_000_000].into_iter().enumerate() {
        write_all(&mut cluster, round as u64 * 40..round as u64 * 40 + 40);
        let slices = snapshot(&mut cluster, 1, step, is_busy);
        check_share(&slices, step, is_busy);
        let longest = slices.iter().map(|slice| steps(slice, step)).max().unwrap_or_default();
        // As many steps as fit, the last of which may end late; not more bytes than may be, on the fastest machine.
        let time = if is_busy { TIME } else { ALONE * TIME };
        let fit = time.div_ceil(step).min(STEPS_MAX);
        assert_eq!(longest, fit, "steps of {step} ns: {slices:?}");
        counts.push(slices.len());
    }
    assert!(counts.is_sorted(), "a slower machine takes more slices, not longer ones: {counts:?}");
    let written = cluster.core(1).applied(SLOT);
    cluster.kill(1);
    cluster.start(1);
    cluster.elect();
    assert!(cluster.core(1).snapshot_status(SLOT).index >= written, "what slices wrote is a snapshot");
    assert_eq!(cluster.core(1).machine().entries[0].len(), 200);
    counts
}

#[test]
fn a_slice_ends_when_its_time_is_used_whatever_the_machine_gives_and_a_core_with_nothing_else_to_do_takes_longer_ones()
 {
    let busy = slices_of_ever_slower_machines(true);
    let alone = slices_of_ever_slower_machines(false);
    assert!(alone[1] * 2 < busy[1], "{alone:?} slices, and {busy:?} on a busy core");
}

#[test]
fn a_state_is_built_from_a_snapshot_in_slices_that_end_when_their_time_is_used() {
    let step = 20_000;
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    write_all(&mut cluster, 0..20);
    let leader = cluster.leader(1);
    let away = leader % 3 + 1;
    let others: Vec<u32> = (1..=3).filter(|&node| node != away).collect();
    cluster.partition(&[&others, &[away]]);
    write_all(&mut cluster, 20..200);
    for node in others {
        cluster.run_until(ms(10_000), |cluster| cluster.core(node).applied(SLOT).0 > 200);
        snapshot(&mut cluster, node, step, false);
    }
    cluster.time_slices(away, Duration::from_nanos(step));
    cluster.heal();
    cluster.settle();
    assert!(cluster.core(away).snapshot_counters().installed > 0);
    let slices = slices_of(&mut cluster, away);
    check_share(&slices, step, false);
    let fit = (ALONE * TIME).div_ceil(step);
    assert_eq!(slices.iter().map(|slice| steps(slice, step)).max(), Some(fit), "{slices:?}");
    assert!(slices.len() > 10, "{slices:?}");
}

#[test]
fn the_frames_of_a_turn_leave_before_its_slice_and_writes_go_on_between_slices() {
    let step = 400_000;
    let mut cluster = Cluster::new(setup());
    cluster.elect();
    write_all(&mut cluster, 0..60);
    let leader = cluster.leader(1);
    cluster.time_slices(leader, Duration::from_nanos(step));
    let token = cluster.ask(leader, |port, token| Event::Snapshot { port, token, slot: SLOT });
    let (mut n, begin) = (60, cluster.now);
    while cluster.answer(leader, token).is_none() {
        write_all(&mut cluster, n..n + 1);
        n += 1;
    }
    assert!(cluster.answer(leader, token).unwrap().result.is_ok());
    let slices = slices_of(&mut cluster, leader);
    check_share(&slices, step, false);
    // (That a turn itself does nothing of a slice is what the cluster checks in each one.)
    assert!(slices.iter().any(|slice| slice.frames > 0), "no slice came in a turn with frames: {slices:?}");
    let each = (cluster.now - begin) / (n - 60);
    assert!(n - 60 > 50 && each < 5_000_000, "{} writes, {each} ns each", n - 60);
    assert_eq!(cluster.leader(1), leader);
    cluster.settle();
}
