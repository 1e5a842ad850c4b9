//! The world around a group: routes, contact, time.

use crate::role::{Follower, RoleState};
use crate::{Env, Group, Moment, NodeId, Route, Sink};

impl Group {
    /// The way to `peer` changed. With a way known, whatever was in flight on the old one is taken as lost: progress goes
    /// back to `Probe`, and a leader announces itself. A follower whose leader's way changed waits to hear it again, and
    /// campaigns if it does not; one that has no vote and is in contact with the leader goes on following it, for it has no
    /// way to ask who leads, and a leader with nothing to say says nothing. A node that is no member is listened to as well, as
    /// long as there is a way to it: it may know a configuration that this member has not heard of.
    pub fn on_route<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: NodeId, route: Route) {
        let known = self.peer(peer);
        if route == Route::NONE && !known.is_some_and(|at| self.has_route(at)) {
            return;
        }
        let Some(at) = known.or_else(|| self.add_guest(peer)) else { return };
        // A new way may bear the old one's name, so equal routes are no reason to do nothing.
        self.set_route(at, route);
        let waits = self.may_campaign() || route == Route::NONE || !self.alive.contains(at);
        match &mut self.role {
            RoleState::Leader(_) => self.forget_progress(env, at),
            RoleState::Follower(follower) if self.leader == peer && waits => {
                *follower = Follower { heard: false };
                self.arm_election(env);
            }
            _ => {}
        }
        if self.has_losses() {
            self.ask_term(env, at);
        }
    }

    /// Liveness of `peer`, from the one exchange that its core has with ours: in contact means it hears us and we hear it,
    /// its loop turns and its disk writes. While a follower is in contact with its leader it has no deadline and refuses
    /// votes; when contact ends it takes a random election deadline. A leader without contact to a quorum steps down.
    pub fn on_contact<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: NodeId, alive: bool) {
        let Some(at) = self.peer(peer) else { return };
        if self.alive.contains(at) == alive {
            return;
        }
        if alive {
            self.alive.insert(at);
            self.contact_began(env, at);
        } else {
            self.alive.remove(at);
            self.contact_ended(env, at);
        }
        self.save(env);
    }

    fn contact_began<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let is_leader_peer = self.leader == self.id(peer);
        match &self.role {
            RoleState::Leader(_) => self.reset_progress(env, peer),
            // Heard while contact was not established yet: now both hold.
            RoleState::Follower(follower) if is_leader_peer && follower.heard => {
                self.deadline = Moment::NEVER
            }
            RoleState::Follower(_) if !self.leader.is_some() => self.draw_earlier_deadline(env),
            // Another peer came, the leader is there as before: no reason to wake up.
            RoleState::Follower(follower) if follower.heard && self.is_leader_alive() => {}
            _ if self.deadline == Moment::NEVER => self.arm_election(env),
            _ => {}
        }
    }

    fn is_leader_alive(&self) -> bool {
        self.peer(self.leader).is_some_and(|peer| self.alive.contains(peer))
    }

    /// A leaderless group got another peer: it has a deadline from now on, and the preferred leader need not wait for the
    /// one it drew while it had no quorum.
    fn draw_earlier_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let before = self.deadline;
        if before == Moment::NEVER || self.cold.preferred == self.cold.me {
            self.arm_first_campaign(env);
            self.deadline = self.deadline.min(before);
        }
    }

    fn contact_ended<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let is_leader_peer = self.leader == self.id(peer);
        let may_lead = self.may_lead(env.config);
        match &mut self.role {
            RoleState::Leader(_) if !may_lead => self.become_follower(env, self.term, NodeId::NONE),
            RoleState::Leader(_) => self.reset_progress(env, peer),
            RoleState::Follower(follower) if is_leader_peer => {
                *follower = Follower { heard: false };
                self.arm_first_campaign(env);
            }
            _ => {}
        }
    }

    /// The deadline passed. May be called early or late; late calls only delay.
    pub fn on_deadline<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.maybe_ask_again(env);
        if env.now < self.deadline {
            return;
        }
        if self.is_leader() {
            self.on_leader_deadline(env);
        } else {
            self.on_election_deadline(env);
        }
        self.save(env);
    }
}
