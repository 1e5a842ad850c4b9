//! A long run, minute by minute: what must stay flat.

use std::path::Path;

use serde::Serialize;

use super::control::Control;
use super::nodes::Nodes;
use crate::clock;
use crate::environment;
use crate::format::{bytes, count, micros};
use crate::latency::LatencySummary;

pub(super) const MINUTE_NANOS: u64 = 60_000_000_000;
/// Clients hand in a minute's latencies with their first answers after it.
const LATE_NANOS: u64 = 500_000_000;

/// One minute of the measured time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MinuteReport {
    /// From 1 on.
    minute: usize,
    committed_per_s: f64,
    latency_us: LatencySummary,
    /// In the fullest log at the end of the minute.
    log_used_bytes_max: u64,
    /// Of all nodes, since the start.
    snapshots_written: u64,
    /// Files of all nodes.
    snapshot_bytes: u64,
    /// What the directory of all nodes takes on disk, segments that wait for use included.
    disk_bytes: u64,
    resident_bytes: u64,
    file_descriptors: usize,
}

/// The minutes so far.
pub(super) struct Soak<'a> {
    directory: &'a Path,
    begin: u64,
    pub(super) minutes: Vec<MinuteReport>,
}

impl<'a> Soak<'a> {
    pub(super) fn new(directory: &'a Path, begin: u64) -> Soak<'a> {
        Soak { directory, begin, minutes: Vec::new() }
    }

    /// Takes down a minute that is over; its line.
    pub(super) fn look(&mut self, control: &Control, nodes: &Nodes) -> Option<String> {
        let over = self.begin + (self.minutes.len() as u64 + 1) * MINUTE_NANOS + LATE_NANOS;
        (clock::now_nanos() >= over).then(|| self.take(control, nodes))
    }

    /// Takes down the last minute, if it is a whole one: all clients have their answers.
    pub(super) fn finish(&mut self, control: &Control, nodes: &Nodes) -> Option<String> {
        let next = self.begin + (self.minutes.len() as u64 + 1) * MINUTE_NANOS;
        (control.window().end >= next).then(|| self.take(control, nodes))
    }

    fn take(&mut self, control: &Control, nodes: &Nodes) -> String {
        let minute = self.minutes.len();
        let latencies = control.take_minute(minute);
        let snapshots = nodes.snapshot_counts();
        let report = MinuteReport {
            minute: minute + 1,
            committed_per_s: latencies.as_ref().map_or(0.0, |all| all.count() as f64 / 60.0),
            latency_us: latencies.map_or_else(LatencySummary::default, |all| all.summary()),
            log_used_bytes_max: nodes.log_used_max(),
            snapshots_written: snapshots.written,
            snapshot_bytes: snapshots.bytes,
            disk_bytes: environment::disk_use_bytes(self.directory),
            resident_bytes: environment::resident_bytes(),
            file_descriptors: environment::file_descriptors(),
        };
        let line = report.line();
        self.minutes.push(report);
        line
    }
}

impl MinuteReport {
    /// The names of a line's columns.
    pub(super) fn heads() -> String {
        line([
            "minute",
            "committed/s",
            "p50",
            "p99",
            "p99.9",
            "log used",
            "snapshots",
            "their bytes",
            "on disk",
            "memory",
            "files",
        ])
    }

    pub(super) fn line(&self) -> String {
        let latency = &self.latency_us;
        let texts = [
            self.minute.to_string(),
            count(self.committed_per_s),
            micros(latency.p50),
            micros(latency.p99),
            micros(latency.p999),
            bytes(self.log_used_bytes_max as f64),
            count(self.snapshots_written as f64),
            bytes(self.snapshot_bytes as f64),
            bytes(self.disk_bytes as f64),
            bytes(self.resident_bytes as f64),
            self.file_descriptors.to_string(),
        ];
        line(texts.each_ref().map(String::as_str))
    }
}

fn line(texts: [&str; 11]) -> String {
    const WIDTHS: [usize; 11] = [6, 12, 10, 10, 10, 10, 11, 12, 10, 10, 6];
    texts.iter().zip(WIDTHS).map(|(text, width)| format!("{text:>width$}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_a_line_under_its_heads() {
        let report = MinuteReport {
            minute: 3,
            committed_per_s: 1_234_567.0,
            latency_us: LatencySummary {
                p50: 812.0,
                p99: 4_310.0,
                p999: 12_000.0,
                ..LatencySummary::default()
            },
            log_used_bytes_max: 1 << 30,
            snapshots_written: 12_345,
            snapshot_bytes: 5 << 20,
            disk_bytes: 4 << 30,
            resident_bytes: 512 << 20,
            file_descriptors: 77,
        };
        let (heads, line) = (MinuteReport::heads(), report.line());
        assert_eq!(heads.len(), line.len());
        for text in ["1,234,567", "812 us", "4.31 ms", "12.00 ms", "1.0 GiB", "12,345", "4.0 GiB", "77"] {
            assert!(line.contains(text), "{text} is not in {line}");
        }
    }
}
