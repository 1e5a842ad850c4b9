//! After a run: did every node apply the same entries, and everything that was acknowledged?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_lite::future::block_on;
use logdrive::core::GroupStatus;
use logdrive::runtime::Engine;
use logdrive_shard::GroupId;

use crate::clock;
use crate::format::{count, plural};
use crate::report::CheckReport;

/// Followers learn of the last commits after the load has ended; how long that may take.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// Groups named in the message if they differ.
const NAMED_MAX: usize = 5;

/// What the clients were told in the whole run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) acknowledged: u64,
    /// May have been applied or not.
    pub(super) unknown: u64,
}

/// The end of a group on one node: how far it applied, and the digest of its state.
type GroupEnd = (u64, u64);

/// Waits for the followers, then compares nodes with each other and with what the clients were told.
pub(super) fn check(
    engines: &[Engine],
    applied: &[Arc<AtomicU64>],
    groups: u64,
    told: Told,
) -> Result<CheckReport> {
    let start = clock::now_nanos();
    let found = wait_for_followers(applied, told.acknowledged);
    let mut pending: Vec<GroupId> = (1..=groups).map(GroupId).collect();
    let differences = loop {
        // A new leader's first entry, which no client sent, may be on its way while nodes are asked one after the other: what
        // was not equal is asked for again. The digest covers clients' entries only.
        let differences = differences(&pending, &all_ends(engines, &pending)?);
        if differences.is_empty() || clock::since(start) > CATCH_UP_MAX {
            break differences;
        }
        pending = differences.iter().map(|d| d.group).collect();
        std::thread::sleep(POLL);
    };
    let mut report = judge(&found, groups, &differences, told);
    if let Some(first) = differences.first() {
        report.message.push_str(&describe(engines, first.group));
    }
    Ok(report)
}

/// A group that was not the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Difference {
    group: GroupId,
    in_index: bool,
    in_digest: bool,
}

/// `ends[node][n]` is how `groups[n]` is on a node.
fn differences(groups: &[GroupId], ends: &[Vec<GroupEnd>]) -> Vec<Difference> {
    let differs =
        |n: usize, of: fn(&GroupEnd) -> u64| ends.iter().any(|node| of(&node[n]) != of(&ends[0][n]));
    groups
        .iter()
        .enumerate()
        .map(|(n, &group)| Difference {
            group,
            in_index: differs(n, |end| end.0),
            in_digest: differs(n, |end| end.1),
        })
        .filter(|d| d.in_index || d.in_digest)
        .collect()
}

/// How a group is on every node, for whoever has to find out what went wrong.
fn describe(engines: &[Engine], group: GroupId) -> String {
    let mut text = format!("; group {group}:");
    for (node, engine) in engines.iter().enumerate() {
        let status = engine.group(group).and_then(|group| block_on(group.status()));
        let one = match status {
            Ok(GroupStatus { raft, applied, .. }) => format!(
                "{:?} of term {}, leader {}, commit {}, durable {}, last {}, applied {applied}",
                raft.role, raft.term, raft.leader, raft.commit, raft.durable, raft.last
            ),
            Err(error) => error.to_string(),
        };
        text.push_str(&format!(" node {}: {one};", node + 1));
    }
    text
}

fn all_ends(engines: &[Engine], groups: &[GroupId]) -> Result<Vec<Vec<GroupEnd>>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            engines.iter().map(|engine| scope.spawn(move || group_ends(engine, groups))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<GroupEnd>>>| {
            thread.join().map_err(|_| anyhow::anyhow!("the check of a node panicked"))?
        };
        threads.into_iter().map(join).collect()
    })
}

/// Entries applied by each node once all agree, or when the patience ends.
fn wait_for_followers(applied: &[Arc<AtomicU64>], acknowledged: u64) -> Vec<u64> {
    let start = clock::now_nanos();
    let mut quiet_since: Option<Vec<u64>> = None;
    loop {
        let found: Vec<u64> = applied.iter().map(|a| a.load(Ordering::Acquire)).collect();
        let same = found.iter().all(|&f| f == found[0] && f >= acknowledged);
        // The same twice: an entry whose outcome is unknown may be on its way still.
        if same && quiet_since.as_ref() == Some(&found) || clock::since(start) > CATCH_UP_MAX {
            return found;
        }
        quiet_since = Some(found);
        std::thread::sleep(POLL);
    }
}

fn group_ends(engine: &Engine, groups: &[GroupId]) -> Result<Vec<GroupEnd>> {
    let end = |&id: &GroupId| {
        let group = engine.group(id).with_context(|| format!("cannot ask for group {id}"))?;
        let digest =
            block_on(group.digest()).with_context(|| format!("group {id} does not tell its digest"))?;
        Ok((digest.applied.0, digest.digest))
    };
    groups.iter().map(end).collect()
}

fn judge(found: &[u64], groups: u64, differences: &[Difference], told: Told) -> CheckReport {
    let mut faults = Vec::new();
    for (node, &entries) in found.iter().enumerate() {
        let node = node + 1;
        if entries < told.acknowledged {
            let lost = count((told.acknowledged - entries) as f64);
            faults.push(format!("node {node} lacks {lost} of the acknowledged entries"));
        }
        if entries > told.acknowledged + told.unknown {
            faults.push(format!(
                "node {node} applied {} entries, more than the {} that clients sent",
                count(entries as f64),
                count((told.acknowledged + told.unknown) as f64)
            ));
        }
    }
    let mut name = |what: &str, differs: fn(&Difference) -> bool| {
        let differ: Vec<&Difference> = differences.iter().filter(|d| differs(d)).collect();
        if differ.is_empty() {
            return;
        }
        let named: Vec<String> = differ.iter().take(NAMED_MAX).map(|d| d.group.to_string()).collect();
        let more = if differ.len() > NAMED_MAX { ", ..." } else { "" };
        let (differ, groups) = (count(differ.len() as f64), plural(groups, "group"));
        faults.push(format!(
            "{differ} of {groups} differ between nodes in {what} (group {}{more})",
            named.join(", ")
        ));
    };
    name("the index applied", |d| d.in_index);
    name("the digest of their state", |d| d.in_digest);
    let ok = faults.is_empty();
    let message = if ok {
        let unknown = match told.unknown {
            0 => String::new(),
            unknown => format!(", {} of unknown outcome", count(unknown as f64)),
        };
        format!(
            "every one of {} applied the same {} entries (index and digest of {} are equal); {} were acknowledged{unknown}",
            plural(found.len() as u64, "node"),
            count(found.first().copied().unwrap_or(0) as f64),
            plural(groups, "group"),
            count(told.acknowledged as f64)
        )
    } else {
        faults.join("; ")
    };
    CheckReport { ok, message, acknowledged: told.acknowledged, found: found.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Told = Told { acknowledged: 10, unknown: 2 };

    #[test]
    fn equal_nodes_with_everything_acknowledged_are_well() {
        for found in [10, 11, 12] {
            let report = judge(&[found; 3], 2, &[], TOLD);
            assert!(report.ok, "{}", report.message);
            assert!(
                report.message.contains("3 nodes") && report.message.contains("unknown"),
                "{}",
                report.message
            );
        }
    }

    #[test]
    fn lost_and_invented_entries_are_faults() {
        let lost = judge(&[10, 9, 10], 2, &[], TOLD);
        assert!(!lost.ok && lost.message.contains("node 2 lacks 1 "), "{}", lost.message);
        let invented = judge(&[13, 13, 13], 2, &[], TOLD);
        assert!(!invented.ok && invented.message.contains("more than the 12"), "{}", invented.message);
    }

    #[test]
    fn groups_that_differ_are_named() {
        let groups = [GroupId(1), GroupId(2)];
        let ends = [vec![(5, 50), (6, 60)], vec![(5, 50), (6, 60)], vec![(5, 50), (6, 61)]];
        assert!(differences(&groups, &ends[..2]).is_empty());
        let found = differences(&groups, &ends);
        assert_eq!(found, [Difference { group: GroupId(2), in_index: false, in_digest: true }]);
        let report = judge(&[10; 3], 2, &found, TOLD);
        assert!(!report.ok, "{}", report.message);
        assert!(
            report.message.contains("1 of 2 groups differ between nodes in the digest"),
            "{}",
            report.message
        );
        assert!(
            report.message.contains("(group 2)") && !report.message.contains("index"),
            "{}",
            report.message
        );
    }
}
