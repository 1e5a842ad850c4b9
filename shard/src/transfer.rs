//! Handing leadership over (dissertation, 3.10): the target catches up, then is told to campaign at once.

use crate::role::Flags;
use crate::{
    Env, Group, HistoryEvent, LogIndex, Moment, NodeId, Refused, Route, Sink, TimeoutNow, TransferEnd,
};

/// A transfer under way.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Transfer {
    /// Position of the target among the peers.
    peer: usize,
    to: NodeId,
    /// When to give up and go on leading.
    until: Moment,
    /// The commit index when it began.
    commit: LogIndex,
}

impl Group {
    /// Hands leadership to `to` as soon as it has caught up; gives up after one election timeout. Meanwhile proposals are
    /// refused, reads go on. [`Sink::transfer_ended`] tells how it ended.
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
        self.cold.leader.transfer = Some(Transfer { peer, to, until, commit: self.commit });
        self.flags.set(Flags::TRANSFER);
        self.note(env.now, HistoryEvent::TransferBegan { to });
        self.arm_repeat(env);
        self.deadline = self.deadline.min(until);
        self.send_appends(env, peer);
        self.maybe_order_campaign(env, peer);
        Ok(())
    }

    /// Hands leadership to the voter in contact that suits best: whose log goes as far as what is committed, then the one most
    /// wanted ([`crate::Setup::priorities`], the preferred leader), then the one whose log goes furthest. Returns who it is.
    ///
    /// # Errors
    /// As [`Group::transfer_leadership`], and [`Refused::NobodyToTakeOver`].
    pub fn transfer_to_best<S: Sink>(&mut self, env: &mut Env<'_, S>) -> Result<NodeId, Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        if let Some(to) = self.transferring() {
            return Ok(to);
        }
        let candidates = (0..self.peers())
            .filter(|&peer| self.is_voter(peer) && self.alive.contains(peer) && self.has_route(peer))
            .filter(|&peer| env.sink.takes_leadership(self.id(peer)));
        let best = candidates.max_by_key(|&peer| {
            let (node, matched) = (self.id(peer), self.progress(peer).map_or(LogIndex(0), |p| p.matched));
            let wanted = (self.priority(node), node == self.cold.preferred);
            (matched >= self.commit, wanted, matched, std::cmp::Reverse(node))
        });
        let to = self.id(best.ok_or(Refused::NobodyToTakeOver)?);
        self.transfer_leadership(env, to)?;
        Ok(to)
    }

    /// Calls the leader transfer under way off. Whether there was one. If the target has been told to campaign, it may take over
    /// all the same.
    pub fn cancel_transfer<S: Sink>(&mut self, env: &mut Env<'_, S>) -> bool {
        self.finish_transfer(env, TransferEnd::Cancelled)
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
        if env.now >= self.cold.may_vote_from && self.may_campaign() && !self.has_losses() && !self.is_unfit()
        {
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
        let gone = std::mem::replace(&mut self.cold.handed_to, NodeId::NONE);
        if gone.is_some() {
            return self.tell_transfer(env, gone, TransferEnd::Cancelled);
        }
        let Some(transfer) = self.cold.leader.transfer else { return };
        if env.now >= transfer.until {
            if self.is_in_the_way(transfer.commit) {
                return self.make_way(env);
            }
            self.finish_transfer(env, TransferEnd::TimedOut);
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
                // It is told at the leader's deadline, which is armed while a transfer is under way.
                None => {
                    self.cold.handed_to = transfer.to;
                    self.end_transfer();
                }
            }
        }
    }

    /// A transfer ended while this node leads.
    fn finish_transfer<S: Sink>(&mut self, env: &mut Env<'_, S>, end: TransferEnd) -> bool {
        let Some(to) = self.transferring() else { return false };
        self.end_transfer();
        self.tell_transfer(env, to, end);
        true
    }

    fn tell_transfer<S: Sink>(&mut self, env: &mut Env<'_, S>, to: NodeId, end: TransferEnd) {
        self.note(env.now, HistoryEvent::TransferEnded { to, end });
        env.sink.transfer_ended(to, end);
    }

    /// Leadership ends while it may be being handed over: the next leader shows how that ended.
    pub(crate) fn leave_transfer(&mut self) {
        if let Some(to) = self.transferring() {
            self.cold.handed_to = to;
        }
        self.end_transfer();
    }

    /// A leader is known after leadership was lost while it was being handed over, or this member gives up waiting for one.
    pub(crate) fn settle_transfer<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let to = std::mem::replace(&mut self.cold.handed_to, NodeId::NONE);
        if to.is_some() {
            let end = if self.leader == to { TransferEnd::Done } else { TransferEnd::Elsewhere(self.leader) };
            self.tell_transfer(env, to, end);
        }
    }

    pub(crate) fn end_transfer(&mut self) {
        self.cold.leader.transfer = None;
        self.flags.clear(Flags::TRANSFER);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Alone, Led};
    use crate::{Config, NodeId, Refused, Route, TransferEnd};

    #[test]
    fn a_single_voter_has_nobody_to_hand_over_to() {
        let (config, mut alone) = (Config::default(), Alone::leading());
        let to_a_stranger = alone.step(&config, |group, env| group.transfer_leadership(env, NodeId(2)));
        assert_eq!(to_a_stranger, Err(Refused::BadTransferee { to: NodeId(2) }));
        let to_itself = alone.step(&config, |group, env| group.transfer_leadership(env, NodeId(1)));
        assert!(to_itself.is_err());
        let to_the_best = alone.step(&config, |group, env| group.transfer_to_best(env));
        assert_eq!(to_the_best.err(), Some(Refused::NobodyToTakeOver));
        let transferring = alone.step(&config, |group, _| group.transferring());
        assert_eq!(transferring, None);
        assert!(alone.propose(&config, 1).is_ok(), "nothing is held up");
    }

    fn to(led: &mut Led, node: u32) -> Result<(), Refused> {
        led.step(|group, env| group.transfer_leadership(env, NodeId(node)))
    }

    #[test]
    fn the_target_is_told_to_campaign_when_it_has_everything_and_told_again() {
        let mut led = Led::of_three();
        led.propose().expect("it leads");
        led.flush();
        led.durable(2);
        assert_eq!(to(&mut led, 2), Ok(()));
        assert!(led.said.orders.is_empty(), "it lacks entry 2");
        led.matched(3, 2);
        assert!(led.said.orders.is_empty(), "that was the other one");
        led.matched(2, 2);
        assert_eq!(led.said.orders, [Route(2)]);
        led.wait_for_deadline();
        assert_eq!(led.said.orders, [Route(2), Route(2)], "the first may have been lost");
    }

    #[test]
    fn proposals_wait_and_one_transfer_is_made_at_a_time_until_its_time_is_over() {
        let mut led = Led::of_three();
        assert_eq!(to(&mut led, 2), Ok(()));
        assert_eq!(to(&mut led, 2), Ok(()), "asking again changes nothing");
        let transferring = Err(Refused::Transferring { to: NodeId(2) });
        assert_eq!(to(&mut led, 3), transferring);
        assert_eq!(led.propose().map(|_| ()), transferring);
        assert!(led.step(|group, env| group.read_index(env)).is_ok(), "reads go on");
        let until = led.now.after(Config::default().election_base);
        while led.now < until {
            led.wait_for_deadline();
        }
        assert_eq!(led.said.ended, [(NodeId(2), TransferEnd::TimedOut)]);
        assert!(led.propose().is_ok() && led.group.is_leader());
        assert_eq!(to(&mut led, 3), Ok(()));
    }

    #[test]
    fn what_is_called_off_ends_once_and_at_once() {
        let mut led = Led::of_three();
        assert!(!led.step(|group, env| group.cancel_transfer(env)), "there is none");
        assert_eq!(to(&mut led, 2), Ok(()));
        assert!(led.step(|group, env| group.cancel_transfer(env)));
        assert!(!led.step(|group, env| group.cancel_transfer(env)));
        assert_eq!(led.said.ended, [(NodeId(2), TransferEnd::Cancelled)]);
        assert!(led.propose().is_ok());
    }

    #[test]
    fn the_best_is_in_contact_and_has_what_is_committed() {
        let mut led = Led::of_three();
        led.propose().expect("it leads");
        led.flush();
        led.durable(2);
        led.matched(3, 2);
        let best = led.step(|group, env| group.transfer_to_best(env));
        assert_eq!(best, Ok(NodeId(3)), "node 2 lacks what is committed");
        led.step(|group, env| group.cancel_transfer(env));
        led.step(|group, env| group.on_contact(env, NodeId(3), false));
        let best = led.step(|group, env| group.transfer_to_best(env));
        assert_eq!(best, Ok(NodeId(2)), "node 3 is out of contact");
    }
}
