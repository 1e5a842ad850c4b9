//! What is printed of a run.

use std::fmt::Write;
use std::path::Path;

use logdrive_shard::GroupId;

use super::clock::{MILLISECOND, SECOND};
use super::minimise::Minimised;
use super::run::Outcome;
use super::story;
use super::world::World;

/// The commit that the simulator, and what it simulates, was built from.
pub const COMMIT: &str = env!("LOGDRIVE_BUILT_COMMIT");

/// The state of a group on a node, in one line.
pub fn state_on(world: &World, node: usize, group: GroupId) -> String {
    let (at, slot) = world.home(node, group);
    let id = world.node_id(at);
    let Some(core) = world.core(at) else { return format!("node {id}: down") };
    let status = core.group_status(slot);
    let raft = &status.raft;
    let snapshot = &status.snapshot;
    format!(
        "node {id} core {}: {:?} in term {}, follows {}, commit {}, applied {}, durable {}, last {}, counted {}, sessions {}, voters {:?}, log from {} with {} B behind snapshot {}{}{}{}{}{}",
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
        snapshot.log_first,
        snapshot.log_bytes,
        snapshot.index,
        if snapshot.is_busy { " (busy)" } else { "" },
        snapshot.failure.as_ref().map_or(String::new(), |why| format!(" (the last one failed: {why})")),
        if raft.membership.is_joint() { " (joint)" } else { "" },
        if raft.lost.is_any() { format!(", its disk lost something: {}", raft.lost) } else { String::new() },
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
        "  seed {} profile {} commit {COMMIT}, at {:.3} ms, after {} faults of {}",
        plan.seed,
        plan.profile,
        broken.at as f64 / MILLISECOND as f64,
        outcome.faults.iter().filter(|fault| fault.at <= broken.at).count(),
        outcome.faults.len(),
    );
    if let Some(node) = broken.node {
        let _ = writeln!(text, "  node {node}");
    }
    if let Some(group) = broken.group {
        let _ = writeln!(text, "  group {group}:");
    }
    for state in &outcome.states {
        let _ = writeln!(text, "    {state}");
    }
    let of = broken.group.map_or(String::new(), |group| format!(" of group {group}"));
    let _ = writeln!(text, "  last events{of}:");
    for line in story::sequence(&outcome.story, plan.nodes as usize) {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "  repeat with:   {}", plan.command());
    if plan.only.is_none() && plan.list.is_none() {
        let _ = writeln!(text, "  make smaller:  {} --minimise", plan.command());
    }
    text
}

/// A run for programs, in one line.
pub fn json(outcome: &Outcome) -> serde_json::Value {
    let plan = &outcome.plan;
    let broken = outcome.broken.as_ref().map(|broken| {
        serde_json::json!({
            "assertion": broken.assertion,
            "what": broken.what,
            "at_nanos": broken.at,
            "group": broken.group.map(|group| group.0),
            "node": broken.node.map(|node| node.0),
            "states": outcome.states,
            "events": story::sequence(&outcome.story, plan.nodes as usize),
        })
    });
    serde_json::json!({
        "kind": "run",
        "commit": COMMIT,
        "seed": plan.seed,
        "profile": plan.profile.name(),
        "command": plan.command(),
        "trace_hash": format!("{:016x}", outcome.hash),
        "simulated_nanos": outcome.simulated,
        "turns": outcome.turns,
        "faults": outcome.faults.len(),
        "struck": outcome.injected,
        "reached": outcome.reached,
        "broken": broken,
    })
}

/// The faults of a run, one per line.
pub fn list(outcome: &Outcome) -> String {
    outcome.faults.iter().map(|fault| format!("    {fault}\n")).collect()
}

/// What came of making a run smaller, with where its list of faults was written to.
pub fn minimised(small: &Minimised, list_path: &Path) -> String {
    let outcome = &small.outcome;
    let plan = &outcome.plan;
    let mut text = String::from("\nSMALLER:\n");
    text.push_str(&failure(outcome));
    let _ = writeln!(
        text,
        "  {} faults of {} are left, on {} nodes with {} cores, {} groups, {} clients ({} runs{}):",
        outcome.faults.len(),
        small.faults_before,
        plan.nodes,
        plan.cores,
        plan.groups,
        plan.clients,
        small.runs,
        if small.is_complete { "" } else { ", the most that are made: it may become smaller still" },
    );
    text.push_str(&list(outcome));
    let with_file = plan.with_list(list_path, &outcome.faults);
    let _ = writeln!(text, "  or, with the list in a file:  {}", with_file.command());
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
