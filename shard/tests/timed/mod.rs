//! A cluster on a network with distances: a discrete-event simulation. Messages take their time, some are lost; contact comes
//! from pulses that take the same ways. Disks need no time.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::time::Duration;

use logdrive_shard::{Moment, Random};

use crate::common::{Cluster, Envelope};

/// What is on its way.
enum Due {
    Message(Envelope),
    /// "I am here, and this is when you sent the youngest pulse of yours that I heard."
    Pulse {
        from: u32,
        to: u32,
        sent_at: Moment,
        heard: Moment,
    },
    /// A node sends its pulses, and judges who is in contact.
    Beat(u32),
}

/// What a node knows of a peer.
#[derive(Clone, Copy, Default)]
struct Peer {
    /// When the peer sent the youngest pulse heard.
    heard: Moment,
    /// When this node sent the youngest pulse that the peer is known to have heard.
    answered: Moment,
}

pub struct Timed {
    pub cluster: Cluster,
    /// Of messages and pulses, so many thousandths.
    pub lose_permille: u64,
    delay: Box<dyn Fn(u32, u32) -> Duration>,
    due: BTreeMap<(Moment, u64), Due>,
    next: u64,
    dice: Random,
    peers: BTreeMap<(u32, u32), Peer>,
    /// Cut off from all others until then.
    out: Option<(u32, Moment)>,
}

impl Timed {
    pub fn new(cluster: Cluster, delay: impl Fn(u32, u32) -> Duration + 'static) -> Timed {
        Timed {
            cluster,
            lose_permille: 0,
            delay: Box::new(delay),
            due: BTreeMap::new(),
            next: 0,
            dice: Random::new(11),
            peers: BTreeMap::new(),
            out: None,
        }
    }

    /// Contact follows from pulses from now on, one per heartbeat interval.
    pub fn pulses(&mut self) {
        let now = self.cluster.now;
        for id in self.cluster.ids() {
            for peer in self.cluster.ids() {
                self.peers.insert((id, peer), Peer { heard: now, answered: now });
            }
            self.at(now, Due::Beat(id));
        }
    }

    /// A node, or some node, is cut off from all others for a while.
    pub fn outage(&mut self, length: Duration, node: Option<u32>) {
        let nodes = self.cluster.ids().len() as u64;
        let id = node.unwrap_or(1 + self.dice.below(nodes) as u32);
        self.out = Some((id, self.cluster.now.after(length)));
    }

    fn at(&mut self, when: Moment, due: Due) {
        self.next += 1;
        self.due.insert((when, self.next), due);
    }

    /// Puts something on its way, unless it is lost.
    fn send(&mut self, from: u32, to: u32, due: Due) {
        let now = self.cluster.now;
        let is_out = self.out.is_some_and(|(id, until)| (id == from || id == to) && now < until);
        if is_out || self.dice.below(1_000) < self.lose_permille {
            return;
        }
        let when = now.after((self.delay)(from, to));
        self.at(when, due);
    }

    /// What the last step caused goes on its way.
    fn pump(&mut self) {
        for id in self.cluster.ids() {
            self.cluster.complete_writes(id);
        }
        for envelope in std::mem::take(&mut self.cluster.network) {
            self.send(envelope.from.0, envelope.to.0, Due::Message(envelope));
        }
    }

    /// Goes to the next event. Returns false if there is none.
    pub fn advance(&mut self) -> bool {
        self.pump();
        let event = self.due.first_key_value().map(|(&(at, _), _)| at);
        let deadline = self.cluster.next_deadline();
        match (event, deadline) {
            (None, None) => return false,
            (Some(event), Some((_, at))) if event <= at => self.handle_event(),
            (Some(_), None) => self.handle_event(),
            (_, Some((id, _))) => self.cluster.fire_deadline(id),
        }
        self.pump();
        true
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.cluster.now.after(duration);
        self.pump();
        loop {
            let event = self.due.first_key_value().map(|(&(at, _), _)| at);
            let deadline = self.cluster.next_deadline().map(|(_, at)| at);
            let next = event.into_iter().chain(deadline).min();
            if next.is_none_or(|next| next > end) {
                break;
            }
            self.advance();
        }
        self.cluster.now = end;
    }

    fn handle_event(&mut self) {
        let ((at, _), due) = self.due.pop_first().expect("there is an event");
        self.cluster.now = self.cluster.now.max(at);
        match due {
            Due::Message(envelope) => self.cluster.hand_over(envelope),
            Due::Pulse { from, to, sent_at, heard } => {
                let peer = self.peers.entry((to, from)).or_default();
                peer.heard = peer.heard.max(sent_at);
                peer.answered = peer.answered.max(heard);
                self.judge(to, from);
            }
            Due::Beat(id) => self.beat(id),
        }
    }

    fn beat(&mut self, id: u32) {
        let now = self.cluster.now;
        for peer in self.cluster.ids() {
            if peer != id {
                let heard = self.peers[&(id, peer)].heard;
                self.send(id, peer, Due::Pulse { from: id, to: peer, sent_at: now, heard });
                self.judge(id, peer);
            }
        }
        let next = now.after(self.cluster.config.heartbeat_interval);
        self.at(next, Due::Beat(id));
    }

    /// In contact means: the peer has answered a pulse that was sent less than an election base ago.
    fn judge(&mut self, id: u32, peer: u32) {
        let silent = self.cluster.now.since(self.peers[&(id, peer)].answered);
        let alive = silent < self.cluster.config.election_base;
        if self.cluster.nodes[&id].in_contact(peer) != alive {
            self.cluster.set_contact_one_way(id, peer, alive);
        }
    }
}
