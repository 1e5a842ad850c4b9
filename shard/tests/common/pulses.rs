//! Pulses between nodes, as cores of different nodes exchange them, for leases: a node that hears a pulse promises, and its
//! answer carries the epoch of its support.

use std::collections::BTreeMap;

use logdrive_shard::{Moment, Support};

use super::Cluster;

/// What one node knows of pulses. Lost in a crash.
#[derive(Clone, Debug, Default)]
pub struct Pulses {
    /// When the youngest pulse of a peer was heard. Outlives connections.
    pub heard: BTreeMap<u32, Moment>,
    /// The epoch of the support for each peer.
    pub epochs: BTreeMap<u32, u64>,
    /// The youngest answer of each peer on the present connection.
    pub support: BTreeMap<u32, Support>,
    /// Renews epochs; unique over all nodes and lives.
    next_epoch: u64,
}

/// An answer on its way.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub from: u32,
    pub to: u32,
    pub support: Support,
}

impl Pulses {
    /// Of a new life that begins at `now`.
    pub fn new(id: u32, now: Moment) -> Pulses {
        Pulses { next_epoch: now.0 << 8 | u64::from(id) << 4, ..Pulses::default() }
    }

    /// The epoch of the support for `peer` is a new one.
    pub fn renew(&mut self, peer: u32) {
        self.next_epoch += 1;
        self.epochs.insert(peer, self.next_epoch);
    }

    fn epoch(&mut self, peer: u32) -> u64 {
        if !self.epochs.contains_key(&peer) {
            self.renew(peer);
        }
        self.epochs[&peer]
    }
}

impl Cluster {
    /// A pulse of `from`, sent and heard now; the answer stays on its way.
    pub fn pulse(&mut self, from: u32, to: u32) {
        if self.is_up(from) && self.is_up(to) && self.config.clock_drift_permille < 1_000 {
            let sent_at = self.nodes[&from].clock.at(self.now);
            let hearer = self.nodes.get_mut(&to).expect("a node");
            let (heard, pulses) = (hearer.clock.at(self.now), &mut hearer.pulses);
            pulses.heard.insert(from, heard);
            let promised = self.config.election_base;
            let support = Support { epoch: pulses.epoch(from), sent_at, promised };
            self.answers.push(Answer { from: to, to: from, support });
        }
    }

    /// The answers of `from` to `to` arrive.
    pub fn answer(&mut self, from: u32, to: u32) {
        let (arrived, rest) = self.answers.drain(..).partition(|a| a.from == from && a.to == to);
        self.answers = rest;
        let arrived: Vec<Answer> = arrived;
        for answer in arrived {
            let pulses = &mut self.nodes.get_mut(&to).expect("a node").pulses;
            pulses.support.insert(from, answer.support);
        }
    }

    /// Pulses and answers between all pairs of nodes that are up.
    pub fn pulse_all(&mut self) {
        for from in self.ids() {
            for to in self.ids() {
                if from != to && self.nodes[&from].in_contact(to) {
                    self.pulse(from, to);
                    self.answer(to, from);
                }
            }
        }
    }

    /// The connection of two nodes ended: answers on it are lost, and no support counts any more.
    pub fn end_support(&mut self, a: u32, b: u32) {
        let between = |x: u32, y: u32| (x == a && y == b) || (x == b && y == a);
        self.answers.retain(|answer| !between(answer.from, answer.to));
        for (me, peer) in [(a, b), (b, a)] {
            let pulses = &mut self.nodes.get_mut(&me).expect("a node").pulses;
            pulses.support.remove(&peer);
            pulses.renew(peer);
        }
    }
}
