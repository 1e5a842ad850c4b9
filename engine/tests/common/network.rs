//! Connections between the nodes, and what happens to frames on their way.

use std::time::Duration;

use logdrive::core::{CoreId, Event, LinkId};
use logdrive::wire::{FrameView, VERSION_MAX};
use logdrive_shard::{Moment, NodeId};

use super::Cluster;

impl Cluster {
    pub(super) fn pair(a: u32, b: u32) -> (u32, u32) {
        (a.min(b), a.max(b))
    }

    pub fn connect(&mut self, a: u32, b: u32) {
        self.disconnect(a, b);
        if !self.is_up(a) || !self.is_up(b) {
            return;
        }
        self.connections.insert(Cluster::pair(a, b), self.next_connection);
        self.next_connection += 1;
        for (from, to) in [(a, b), (b, a)] {
            let hello = self.core(from).hello();
            let now = Moment(self.now);
            self.core(to).handle(now, Event::LinkUp { hello: &hello }).expect("no frame");
            self.node(to).dirty = true;
        }
    }

    pub fn disconnect(&mut self, a: u32, b: u32) {
        self.wires.remove(&(a, b));
        self.wires.remove(&(b, a));
        if self.connections.remove(&Cluster::pair(a, b)).is_none() {
            return;
        }
        for (this, other) in [(a, b), (b, a)] {
            if self.is_up(this) {
                let now = Moment(self.now);
                let link = self.link(this, other);
                self.core(this).handle(now, Event::LinkDown { link }).expect("no frame");
                self.node(this).dirty = true;
            }
        }
    }

    pub fn link(&mut self, from: u32, to: u32) -> LinkId {
        self.core(from).link_of(NodeId(to), CoreId(0)).expect("connected before")
    }

    /// Frames from `from` to `to` take so long from now on.
    pub fn set_delay(&mut self, from: u32, to: u32, delay: Duration) {
        self.delay.insert((from, to), delay);
    }

    /// Frames from `from` to `to` stay on the way until [`Cluster::unhold`].
    pub fn hold(&mut self, from: u32, to: u32) {
        self.held.insert((from, to));
    }

    pub fn unhold(&mut self, from: u32, to: u32) {
        self.held.remove(&(from, to));
    }

    /// From now on snapshots do not travel by themselves: what nodes say about them is lost.
    pub fn lose_snapshots(&mut self) {
        self.tamper = Some(Box::new(|_, _, frame| {
            let view = FrameView::parse(&frame, VERSION_MAX).expect("a core's own frame");
            let is_lost = view.snapshot_offers().next().is_some() || view.snapshot_parts().next().is_some();
            if is_lost { Vec::new() } else { vec![frame] }
        }));
    }

    /// Takes away what is on the way from `from` to `to`.
    pub fn lose(&mut self, from: u32, to: u32) {
        self.wires.remove(&(from, to));
    }

    /// Nodes of different sides lose their connections.
    pub fn partition(&mut self, sides: &[&[u32]]) {
        for (n, side) in sides.iter().enumerate() {
            for other in &sides[n + 1..] {
                for &a in *side {
                    for &b in *other {
                        self.disconnect(a, b);
                    }
                }
            }
        }
    }

    /// Everybody who runs is connected to everybody.
    pub fn heal(&mut self) {
        for a in self.running() {
            for b in self.running() {
                if a < b && !self.connections.contains_key(&(a, b)) {
                    self.connect(a, b);
                }
            }
        }
    }
}
