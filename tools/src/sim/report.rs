//! What is printed of a run.

use std::fmt::Write;

use logdrive_shard::GroupId;

use super::clock::{MILLISECOND, SECOND};
use super::run::Outcome;
use super::world::World;

/// The state of a group on a node, in one line.
pub fn state_on(world: &World, node: usize, group: GroupId) -> String {
    let (at, slot) = world.home(node, group);
    let id = world.node_id(at);
    let Some(core) = world.core(at) else { return format!("node {id}: down") };
    let status = core.group_status(slot);
    let raft = &status.raft;
    format!(
        "node {id} core {}: {:?} in term {}, follows {}, commit {}, applied {}, durable {}, last {}, counted {}, sessions {}, voters {:?}{}{}",
        core.id().0,
        raft.role,
        raft.term,
        raft.leader,
        raft.commit,
        status.applied,
        raft.durable,
        raft.last,
        core.machine().count(slot.0),
        status.sessions,
        raft.membership.voters(),
        if raft.membership.is_joint() { " (joint)" } else { "" },
        if world.is_spoiled(node) { ", came back with less than it had" } else { "" },
    )
}

/// The report of a run that broke.
pub fn failure(outcome: &Outcome) -> String {
    let mut text = String::new();
    let Some(broken) = &outcome.broken else { return text };
    let plan = &outcome.plan;
    let _ = writeln!(text, "BROKEN: {broken}");
    let _ = writeln!(
        text,
        "  seed {} profile {} at {:.3} ms",
        plan.seed,
        plan.profile,
        broken.at as f64 / MILLISECOND as f64
    );
    if let Some(group) = broken.group {
        let _ = writeln!(text, "  group {group}");
    }
    for state in &outcome.states {
        let _ = writeln!(text, "    {state}");
    }
    let _ = writeln!(text, "  last events:");
    for line in &outcome.story {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "  repeat with: {}", plan.command());
    text
}

/// One line on a run that went well.
pub fn success(outcome: &Outcome, seconds: f64) -> String {
    let simulated = outcome.simulated as f64 / SECOND as f64;
    format!(
        "seed {}: ok, {simulated:.1} s simulated in {seconds:.2} s ({:.0}x), {} turns, trace {:016x}",
        outcome.plan.seed,
        simulated / seconds.max(1e-9),
        outcome.turns,
        outcome.hash
    )
}
