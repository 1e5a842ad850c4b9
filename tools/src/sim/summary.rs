//! What many runs were made of: the faults that really struck, the code paths that were reached. What never was shows as a zero with
//! a mark, so that a profile that tests nothing is seen to.

use std::fmt::Write;

use super::clock::SECOND;
use super::faults::FaultKind;
use super::run::Outcome;
use super::world::Counts;

/// Paths that runs are expected to reach, over a number of them. Others are counted as they come.
pub const PATHS: [&str; 54] = [
    "appends held back",
    "appends refused",
    "buggify: appends of one entry",
    "buggify: cached entries given up",
    "buggify: early election timeouts",
    "buggify: log batches cut short",
    "buggify: one entry applied in a turn",
    "buggify: one part of a snapshot in a turn",
    "buggify: replication windows of one",
    "buggify: slices of snapshots of one byte",
    "busy",
    "cache evictions",
    "cold entries",
    "crashes inside a disk operation",
    "crashes inside a turn",
    "crashes while starting",
    "damage settled",
    "damaged frames refused",
    "entries applied",
    "frames",
    "frames damaged",
    "frames ignored",
    "handshakes refused",
    "healed with a node down",
    "healed with a node frozen",
    "leaders learned of",
    "lease reads",
    "logs cut",
    "logs poisoned",
    "losses healed while running",
    "members in doubt about their vote",
    "members with entries lost",
    "mesh: answers",
    "mesh: answers to clients that left",
    "mesh: batches that met in a lane",
    "mesh: lanes full",
    "mesh: lanes lost with a node",
    "mesh: requests",
    "messages dropped",
    "proposals",
    "reads",
    "snapshot parts refused",
    "snapshots failed",
    "snapshots installed",
    "snapshots that a log goes on behind",
    "snapshots written",
    "sockets full",
    "starts",
    "starts from a snapshot",
    "starts refused by a disk",
    "stops",
    "transfers begun",
    "transfers broken off",
    "transfers resumed",
];

/// Sums over runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Runs that broke.
    pub broken: u64,
    /// Seconds of the simulated clock.
    pub simulated: f64,
    /// Turns of all cores.
    pub turns: u64,
    /// Faults that were in the lists.
    pub planned: Counts,
    /// Faults that struck.
    pub struck: Counts,
    /// What was reached.
    pub reached: Counts,
}

impl Summary {
    /// One run more.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.broken += u64::from(outcome.broken.is_some());
        self.simulated += outcome.simulated as f64 / SECOND as f64;
        self.turns += outcome.turns;
        for fault in &outcome.faults {
            *self.planned.entry(fault.what.name()).or_default() += 1;
        }
        for (sums, counts) in [(&mut self.struck, &outcome.injected), (&mut self.reached, &outcome.reached)] {
            counts.iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
        }
    }

    /// Faults: name, how many were in the lists, how many struck.
    pub fn faults(&self) -> Vec<(&'static str, u64, u64)> {
        let mut names: Vec<&'static str> = FaultKind::NAMES.to_vec();
        names.extend(self.planned.keys().chain(self.struck.keys()));
        names.sort_unstable();
        names.dedup();
        let of = |counts: &Counts, name| counts.get(name).copied().unwrap_or(0);
        names.into_iter().map(|name| (name, of(&self.planned, name), of(&self.struck, name))).collect()
    }

    /// Paths, with how often each was reached.
    pub fn paths(&self) -> Vec<(&'static str, u64)> {
        let mut names: Vec<&'static str> = PATHS.to_vec();
        names.extend(self.reached.keys());
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| (name, self.reached.get(name).copied().unwrap_or(0))).collect()
    }

    /// As a table. A zero of what could have been is marked.
    pub fn table(&self) -> String {
        let mut text = String::from("faults that struck (of those in the lists):\n");
        let mut absent = Vec::new();
        for (name, planned, struck) in self.faults() {
            if planned == 0 && struck == 0 {
                absent.push(name);
                continue;
            }
            let mark = if struck == 0 { "   <- NEVER STRUCK" } else { "" };
            let _ = writeln!(text, "  {name:<36} {struck:>10} of {planned}{mark}");
        }
        if !absent.is_empty() {
            let _ = writeln!(text, "  in no list: {}", absent.join(", "));
        }
        text.push_str("paths reached:\n");
        for (name, count) in self.paths() {
            let mark = if count == 0 { "   <- NEVER REACHED" } else { "" };
            let _ = writeln!(text, "  {name:<36} {count:>10}{mark}");
        }
        text
    }

    /// The rates, in one line.
    pub fn rates(&self, seconds: f64) -> String {
        let seconds = seconds.max(1e-9);
        let Summary { runs, broken, simulated, .. } = self;
        format!(
            "{runs} seeds, {broken} broken; {simulated:.0} s simulated in {seconds:.1} s: {:.2} seeds/s, {:.0} simulated s/s",
            *runs as f64 / seconds,
            simulated / seconds
        )
    }

    /// For programs.
    pub fn json(&self, seconds: f64) -> serde_json::Value {
        let seconds = seconds.max(1e-9);
        let faults: serde_json::Map<_, _> = self
            .faults()
            .into_iter()
            .map(|(name, planned, struck)| {
                (name.to_owned(), serde_json::json!({ "planned": planned, "struck": struck }))
            })
            .collect();
        let paths: serde_json::Map<_, _> =
            self.paths().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        serde_json::json!({
            "kind": "summary",
            "commit": super::report::COMMIT,
            "runs": self.runs,
            "broken": self.broken,
            "simulated_seconds": self.simulated,
            "seconds": seconds,
            "seeds_per_second": self.runs as f64 / seconds,
            "simulated_seconds_per_second": self.simulated / seconds,
            "turns": self.turns,
            "faults": faults,
            "paths": paths,
        })
    }
}
