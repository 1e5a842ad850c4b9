//! Handing leadership over (dissertation, 3.10): the target catches up, then is told to campaign at once.

use crate::role::Flags;
use crate::{Env, Group, Moment, NodeId, Refused, Route, Sink, TimeoutNow};

/// A transfer under way.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Transfer {
    /// Position of the target among the peers.
    peer: usize,
    /// When to give up and go on leading.
    until: Moment,
}

impl Group {
    /// Hands leadership to `to` as soon as it has caught up; gives up after one election timeout. Meanwhile proposals are
    /// refused, reads go on.
    ///
    /// # Errors
    /// [`Refused::NotLeader`], [`Refused::BadTransferee`], or [`Refused::Transferring`] to another node. Asking for the
    /// same target again changes nothing.
    pub fn transfer_leadership<S: Sink>(&mut self, env: &mut Env<'_, S>, to: NodeId) -> Result<(), Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        let Some(peer) = self.peer(to).filter(|&peer| self.is_voter(peer)) else {
            return Err(Refused::BadTransferee { to });
        };
        match self.transferring() {
            Some(other) if other == to => return Ok(()),
            Some(to) => return Err(Refused::Transferring { to }),
            None => {}
        }
        let until = env.now.after(env.config.election_base);
        self.cold.leader.transfer = Some(Transfer { peer, until });
        self.flags.set(Flags::TRANSFER);
        self.arm_repeat(env);
        self.deadline = self.deadline.min(until);
        self.send_appends(env, peer);
        self.maybe_order_campaign(env, peer);
        Ok(())
    }

    /// The target of the leader transfer under way, if one is.
    pub fn transferring(&self) -> Option<NodeId> {
        if !self.flags.has(Flags::TRANSFER) {
            return None;
        }
        self.cold.leader.transfer.map(|transfer| self.id(transfer.peer))
    }

    /// The leader's order to campaign now.
    pub fn on_timeout_now<S: Sink>(&mut self, env: &mut Env<'_, S>, from: NodeId, message: &TimeoutNow) {
        let Some(peer) = self.sender(from, message.term) else { return };
        if message.term < self.term {
            return;
        }
        if !self.follow(env, peer, message.term) {
            return self.refuse_message();
        }
        if env.now >= self.cold.may_vote_from && self.may_campaign() {
            self.become_candidate(env, true);
        }
        self.save(env);
    }

    /// Orders the target to campaign if it is `peer` and has the whole log.
    pub(crate) fn maybe_order_campaign<S: Sink>(&mut self, env: &mut Env<'_, S>, peer: usize) {
        let is_target = self.cold.leader.transfer.is_some_and(|transfer| transfer.peer == peer);
        let is_equal = self.progress(peer).is_some_and(|progress| progress.matched == self.tail.last);
        let route = self.route(peer);
        if is_target && is_equal && route != Route::NONE {
            self.cold.leader.lease.give_up();
            env.sink.timeout_now(route, TimeoutNow { term: self.term });
        }
    }

    /// At the leader's deadline: gives up in time, or repeats an order that may have been lost.
    pub(crate) fn repeat_transfer<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let Some(transfer) = self.cold.leader.transfer else { return };
        if env.now >= transfer.until {
            self.end_transfer();
        } else {
            self.maybe_order_campaign(env, transfer.peer);
            self.deadline = self.deadline.min(transfer.until);
        }
    }

    /// Peers have other positions now. A target that is a peer no longer cannot take over.
    pub(crate) fn move_transfer(&mut self, moved: impl Fn(usize) -> Option<usize>) {
        if let Some(transfer) = &mut self.cold.leader.transfer {
            match moved(transfer.peer) {
                Some(peer) => transfer.peer = peer,
                None => self.end_transfer(),
            }
        }
    }

    pub(crate) fn end_transfer(&mut self) {
        self.cold.leader.transfer = None;
        self.flags.clear(Flags::TRANSFER);
    }
}
