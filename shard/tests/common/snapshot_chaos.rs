//! Snapshots in random runs: taken at any time, of any applied index; sent by the leader or in its name, at once, later, twice or never;
//! received by a process that ends in between.

use logdrive_shard::{NodeId, SnapshotStatus};

use super::chaos::Chaos;
use super::snapshots::Request;
use super::{Envelope, Message};

/// Requests kept for later, at most.
const REQUESTS_MAX: usize = 20;

impl Chaos {
    pub fn snapshots(&mut self) -> Option<()> {
        let excess = self.cluster.requests.len().saturating_sub(REQUESTS_MAX);
        self.cluster.requests.drain(..excess);
        match self.dice.below(8) {
            0..3 => {
                let id = self.live_node()?;
                let applicable = self.cluster.group(id).applicable().0;
                let below = if self.dice.below(2) == 0 { 0 } else { self.dice.below(6) };
                let keep = [0, 0, self.dice.below(8), u64::MAX][self.dice.below(4) as usize];
                let index = applicable.saturating_sub(below);
                self.taken += u64::from(self.cluster.take_snapshot(id, Some(index), keep));
            }
            3 => self.report()?,
            4 => self.receive_and_end()?,
            _ => {
                let request = self.request()?;
                // A follower may be the source.
                let source = if self.dice.below(3) == 0 { self.any_node() } else { request.leader };
                if !self.cluster.send_snapshot(source, request) && self.cluster.is_up(request.leader) {
                    self.taken += u64::from(self.cluster.take_snapshot(request.leader, None, u64::MAX));
                    self.cluster.send_snapshot(request.leader, request);
                }
            }
        }
        Some(())
    }

    /// What some leader asked for, lately or long ago. It may be answered again.
    fn request(&mut self) -> Option<Request> {
        let waiting = self.cluster.requests.len() as u64;
        let at = if waiting == 0 { return None } else { self.dice.below(waiting) as usize };
        Some(if self.dice.below(3) == 0 {
            self.cluster.requests[at]
        } else {
            self.cluster.requests.remove(at)
        })
    }

    /// Somebody is told how a transfer goes; what it is told may be old. A report of success is true.
    fn report(&mut self) -> Option<()> {
        let Request { leader, to, wanted } = self.request()?;
        let statuses = [SnapshotStatus::Moving, SnapshotStatus::Failed, SnapshotStatus::Refused];
        let mut status = statuses[self.dice.below(3) as usize];
        let end = self.cluster.nodes[&to].disk.snapshot_index() as u64;
        if self.dice.below(2) == 0 && end >= wanted.at_least.0 {
            status = SnapshotStatus::Installed(logdrive_shard::LogIndex(end));
        }
        if self.cluster.is_up(leader) {
            self.cluster.plain(leader, |group, env| group.on_snapshot_report(env, NodeId(to), status));
        }
        Some(())
    }

    /// A snapshot on its way is durable with its receiver, whose process ends before it can do anything with it, or soon after.
    fn receive_and_end(&mut self) -> Option<()> {
        let is_snapshot = |envelope: &Envelope| matches!(envelope.message, Message::Snapshot(..));
        let at = self.cluster.network.iter().position(is_snapshot)?;
        let envelope = self.cluster.network.remove(at);
        let id = envelope.to.0;
        if !self.cluster.is_up(id) {
            return None;
        }
        if self.dice.below(2) == 0 {
            let Message::Snapshot(_, snapshot) = &envelope.message else { return None };
            self.cluster.receive_snapshot(id, snapshot);
        } else {
            self.cluster.hand_over(envelope);
        }
        let keep = self.dice.below(4) as usize;
        self.cluster.crash_unnoticed(id, keep);
        self.cluster.restart(id);
        Some(())
    }
}
