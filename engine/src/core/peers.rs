//! Links that come and go, pulses and what they prove, frames on their way out.

use std::time::Duration;

use logdrive_shard::{Moment, NodeId, Route};
use logdrive_wal::{Disk, Health};

use super::lane::route;
use super::links::{Limits, Link, News};
use super::{Core, CoreId, LinkId};
use crate::api::StateMachine;
use crate::wire::{HelloGroup, PeerHello, VERSION_MAX};

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// The table the peer needs: every group here with its slot. Who is a member of what may change while the connection lasts.
    pub fn hello(&self) -> PeerHello {
        let groups = (0..self.ids.len()).map(|slot| HelloGroup {
            id: self.ids[slot],
            slot: slot as u32,
            history: self.io.lanes[slot].history,
        });
        PeerHello { node: self.io.me, core: self.core, boot: self.boot, groups: groups.collect() }
    }

    /// The link to a peer core, after [`super::Event::LinkUp`].
    pub fn link_of(&self, node: NodeId, core: CoreId) -> Option<LinkId> {
        let at = self.io.links.iter().position(|link| (link.node, link.core) == (node, core))?;
        Some(LinkId(at as u16))
    }

    /// The highest `durable_end` that the pulses of a link told of the peer core's log; remembered by the node to refuse a peer
    /// that comes back with less.
    pub fn peer_durable_end(&self, link: LinkId) -> u64 {
        self.io.links[link.0 as usize].peer_durable_end
    }

    pub(super) fn on_link_up(&mut self, hello: &PeerHello) {
        let link = self.link_of(hello.node, hello.core).unwrap_or_else(|| {
            let settings = &self.io.settings;
            let limits = Limits {
                timeout: self.config.election_base,
                promise: match self.config.clock_drift_permille {
                    0..1_000 => self.config.election_base,
                    _ => Duration::ZERO,
                },
                outbox_bytes_max: settings.outbox_bytes_max,
                inflight_bytes_max: settings.peer_inflight_bytes_max,
            };
            let link = Link::new(hello.node, hello.core, self.groups.len(), limits);
            assert!(self.io.links.len() < usize::from(u16::MAX), "so many cores are no cluster");
            self.io.links.push(link);
            LinkId((self.io.links.len() - 1) as u16)
        });
        self.on_link_down(link);
        let at = link.0 as usize;
        self.io.links[at].begin(hello.boot);
        self.send_pulse(at);
        if self.next_pulse == Moment::NEVER {
            self.next_pulse = self.io.now.after(self.config.heartbeat_interval);
        }
        for group in &hello.groups {
            let Some(slot) = self.slot_of(group.id) else { continue };
            let slot = slot.0;
            if self.io.lanes[slot as usize].history != group.history {
                self.io.counters.ignored += 1;
                continue;
            }
            self.io.links[at].share(slot, group.slot);
            let to = route(link, group.slot);
            self.step(slot, |member, env| member.on_route(env, hello.node, to));
            self.end_step(slot);
        }
    }

    pub(super) fn on_link_down(&mut self, link: LinkId) {
        let at = link.0 as usize;
        if !self.io.links.get(at).is_some_and(|link| link.up) {
            return;
        }
        let (node, in_contact) = (self.io.links[at].node, self.io.links[at].contact);
        let slots = std::mem::take(&mut self.io.links[at].slots);
        self.io.links[at].end();
        for &slot in &slots {
            if in_contact {
                self.step(slot, |group, env| group.on_contact(env, node, false));
                self.end_step(slot);
            }
            self.step(slot, |group, env| group.on_route(env, node, Route::NONE));
            self.end_step(slot);
        }
        if !self.io.links.iter().any(|link| link.up) {
            self.next_pulse = Moment::NEVER;
        }
    }

    // -- liveness -----------------------------------------------------------------------------------------------------

    /// Whether this core's disk has written lately, or had nothing to write.
    fn is_healthy(&self) -> bool {
        let stalled = self
            .io
            .wal
            .oldest_write_nanos()
            .is_some_and(|since| self.io.now.since(Moment(since)) >= self.io.settings.disk_stall);
        !stalled || *self.io.wal.health() == Health::OutOfSpace
    }

    pub(super) fn send_pulse(&mut self, link: usize) {
        let healthy = self.is_healthy() && !self.has_handed_over();
        let (full, durable_end) = (self.is_log_full(), self.io.wal.durable_end());
        let news = News { healthy, full, drained: self.io.gives_away(), durable_end };
        self.io.links[link].pulse(self.io.now, news);
    }

    /// The clock was read after the pulses of this turn came: echoes of them are promises from now on, and those that want an
    /// answer get it.
    pub(super) fn answer_pulses(&mut self) {
        for at in 0..self.io.links.len() {
            self.io.links[at].promise(self.io.now);
            if std::mem::take(&mut self.io.links[at].wants_answer) {
                self.send_pulse(at);
            }
        }
    }

    /// Finds out whether the peer core is in contact, and tells the groups when that changes.
    pub(super) fn judge_link(&mut self, at: usize) {
        let link = &self.io.links[at];
        let alive = self.is_healthy() && link.judge(self.io.now);
        if alive == link.contact {
            return;
        }
        let node = link.node;
        self.io.links[at].contact = alive;
        let slots = std::mem::take(&mut self.io.links[at].slots);
        for &slot in &slots {
            self.step(slot, |group, env| group.on_contact(env, node, alive));
            self.end_step(slot);
        }
        self.io.links[at].slots = slots;
    }

    /// Sends the pulses that are due and judges all links.
    pub(super) fn pulse_when_due(&mut self) {
        if self.io.now < self.next_pulse {
            return;
        }
        self.next_pulse = self.io.now.after(self.config.heartbeat_interval);
        for at in 0..self.io.links.len() {
            if self.io.links[at].up {
                self.send_pulse(at);
                self.judge_link(at);
            }
        }
    }

    // -- output -------------------------------------------------------------------------------------------------------

    /// Groups that waited for a full way go on when it has drained.
    pub(super) fn resume_drained(&mut self) {
        for at in 0..self.io.links.len() {
            if !self.io.links[at].has_drained() {
                continue;
            }
            let mut slots = std::mem::take(&mut self.scratch.slots);
            self.io.links[at].take_waiting(&mut slots);
            for slot in slots.drain(..) {
                self.step(slot, |group, env| group.on_entries_loaded(env));
                self.end_step(slot);
            }
            self.scratch.slots = slots;
        }
    }

    /// Whether [`Core::resume_drained`] has something to do.
    pub(super) fn any_drained(&self) -> bool {
        self.io.links.iter().any(Link::has_drained)
    }

    /// Takes the next frame to send on a link, appended to `out`. False if there is none. To be called until it is: behind the frame of
    /// a turn may be one with parts of snapshots, which must not be sent while a socket is full.
    pub fn take_frames(&mut self, link: LinkId, out: &mut Vec<u8>) -> bool {
        let at = link.0 as usize;
        if !self.io.links.get(at).is_some_and(Link::has_frames) {
            return false;
        }
        if self.io.links[at].wants_pulse() {
            self.send_pulse(at);
        }
        self.io.links[at].finish(VERSION_MAX, out);
        self.io.counters.frames_out += 1;
        true
    }

    /// Links that have frames to send, added to `links`.
    pub fn links_with_frames(&mut self, links: &mut Vec<LinkId>) {
        for (at, link) in self.io.links.iter().enumerate() {
            if link.has_frames() {
                links.push(LinkId(at as u16));
            }
        }
    }
}
