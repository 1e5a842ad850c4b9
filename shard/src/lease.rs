//! Leader leases: reads without a round, while no other leader can exist.
//!
//! # What a follower promises
//!
//! Liveness is one exchange per pair of cores ([`Group::on_contact`]), so the promise is made there, too, and holds for all
//! groups of the pair: *a group that follows a leader on your core when I answer your pulse helps nobody else to be elected
//! until my election base after I heard that pulse.* The caller answers pulses; the group keeps the promise:
//!
//! - A follower that leaves its leader asks [`Sink::promised`] until when it is bound, and neither votes nor campaigns
//!   before. In the same step it calls [`Sink::withdraw_support`]: every pulse that the caller sends to that node from then on
//!   carries a later *epoch* of support. Until it leaves, it votes for nobody, for a vote in a later term is a way to leave.
//! - A member that restarts gives no vote within one election base: whatever it promised before has ended by then.
//! - It leaves freely, unbound and without withdrawal, when the leader itself says that it leads no more (asks for votes, or
//!   ordered the campaign that makes the follower leave), and when it meets the leader of a later term: see below.
//!
//! # What a leader believes
//!
//! A round of ReadIndex that this group's member on a peer answered in the leader's term proves that it followed then. The
//! epoch of the peer's support as it was known when that round was **sent** is noted. As long as the caller reports the same
//! epoch ([`Sink::support`]), the member has not withdrawn since, so each later answer of its core to a pulse speaks for this
//! group, too. The lease runs from the **sending** of the youngest pulse that a quorum has answered under these epochs, for
//! `min(own base, promised base) x (1 - drift)`.
//!
//! # Why no other leader exists while the lease lasts
//!
//! Suppose M is the first to be elected in a later term. Its voters and the lease's quorum share a member V. V followed this
//! leader when it answered the pulse, for its epoch had not changed; so it left after that and before it voted. If it left
//! bound, its vote came a whole base, on its clock, after it heard the pulse, hence after the pulse was sent: the lease had
//! ended. If it left because the leader asked for votes itself, this leadership had ended. If it left by the leader's order,
//! the lease was off: a leader that has ordered a campaign has none for the rest of its term. It cannot have left because it
//! met M or a later leader, for it voted before M was elected. A restart of V is covered by its first election base.
//! Members that leave without withdrawing because they met M cannot revive the lease either: V is still missing.
//!
//! During a change of the configuration there is no lease, and no evidence from before it counts after it.
//!
//! `now` must have been read after the read arrived, on a clock that counts the time of a pause: otherwise a lease that ended
//! during the pause would serve a read that came after it.

use std::time::Duration;

use crate::mutant;
use crate::quorum::{PEERS_MAX, PeerSet};
use crate::role::Flags;
use crate::{Config, Env, Group, LogIndex, Moment, NodeId, Sink};

/// The youngest answer of a peer's core to a pulse of ours, and what it promises with its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// Of the peer's support: another one whenever a group there has withdrawn, or the connection or the peer is a new one.
    /// Never 0.
    pub epoch: u64,
    /// When the pulse that it answered was sent, by the clock of this node.
    pub sent_at: Moment,
    /// How long after it heard the pulse it stands by its promise: its election base.
    pub promised: Duration,
}

/// Why there is no lease to read under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseRefused {
    /// Not the leader.
    #[error("not the leader (leader: node {leader}, 0 if unknown)")]
    NotLeader {
        /// The leader, if known.
        leader: NodeId,
    },
    /// The leader has no lease at present: [`Group::read_index`] serves the read, and its round brings a lease if there can
    /// be one.
    #[error("no lease at present")]
    NoLease,
}

/// The leader's evidence.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Lease {
    /// By peer: the epoch of its support when the round that is out was sent. 0: none.
    asked: [u64; PEERS_MAX],
    /// By peer: the epoch under which it is known to follow in this term. 0: unknown.
    confirmed: [u64; PEERS_MAX],
    /// Another member was ordered to campaign in this term: no lease any more.
    off: bool,
}

impl Lease {
    pub(crate) fn new() -> Lease {
        Lease { asked: [0; PEERS_MAX], confirmed: [0; PEERS_MAX], off: false }
    }

    /// A leadership begins.
    pub(crate) fn begin(&mut self) {
        self.off = false;
        self.forget();
    }

    /// The peer answered the round that is out.
    pub(crate) fn on_answer(&mut self, peer: usize) {
        self.confirmed[peer] = self.asked[peer];
    }

    /// No lease for the rest of the term.
    pub(crate) fn give_up(&mut self) {
        self.off = true;
    }

    /// What is known of the peers no longer holds: the configuration changed, or a leadership begins.
    pub(crate) fn forget(&mut self) {
        self.asked = [0; PEERS_MAX];
        self.confirmed = [0; PEERS_MAX];
    }
}

impl Group {
    /// Whether a linearizable read that has arrived may be served now, once the returned index is applied. `env.now` must have
    /// been read **after** the read arrived. Without a lease, take [`Group::read_index`].
    ///
    /// # Errors
    /// [`LeaseRefused`].
    pub fn lease_read<S: Sink>(&mut self, env: &mut Env<'_, S>) -> Result<LogIndex, LeaseRefused> {
        if !self.is_leader() {
            return Err(LeaseRefused::NotLeader { leader: self.leader });
        }
        if !self.membership_is_settled() {
            return Err(LeaseRefused::NoLease);
        }
        let transferring = self.flags.has(Flags::TRANSFER) || self.cold.leader.lease.off;
        if (transferring && !mutant::LEASE_AFTER_TRANSFER) || !self.has_committed_in_term() {
            return Err(LeaseRefused::NoLease);
        }
        let mut supporters = PeerSet::EMPTY;
        for peer in 0..self.peers() {
            if self.supports_now(env, peer) {
                supporters.insert(peer);
            }
        }
        if !self.is_quorum(supporters) {
            return Err(LeaseRefused::NoLease);
        }
        Ok(self.commit)
    }

    /// Whether the peer's promise holds for this leadership at present.
    fn supports_now<S: Sink>(&self, env: &mut Env<'_, S>, peer: usize) -> bool {
        let confirmed = self.cold.leader.lease.confirmed[peer];
        let support = env.sink.support(self.route(peer));
        support.is_some_and(|support| {
            let same = support.epoch == confirmed || mutant::LEASE_IGNORES_WITHDRAWAL;
            let lasts = env.config.lease_of(support.promised);
            confirmed != 0 && same && env.now < support.sent_at.after(lasts)
        })
    }

    /// A round is sent: notes the support under which its answers will count.
    pub(crate) fn note_support<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        for peer in 0..self.peers() {
            let epoch = env.sink.support(self.route(peer)).map_or(0, |support| support.epoch);
            self.cold.leader.lease.asked[peer] = epoch;
        }
    }

    /// This member leaves the leader that it follows, if it follows one, and keeps what it promised: see the module.
    pub(crate) fn leave_leader<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if !self.leader.is_some() || self.leader == self.cold.me {
            return;
        }
        let bound = env.sink.promised(self.leader);
        env.sink.withdraw_support(self.leader);
        if !mutant::PROMISE_BROKEN {
            self.cold.may_vote_from = self.cold.may_vote_from.max(bound);
        }
        self.leader = NodeId::NONE;
    }

    /// Until when this member is bound to the leader it follows, were it to leave now.
    pub(crate) fn bound_until<S: Sink>(&self, env: &mut Env<'_, S>) -> Moment {
        if !self.leader.is_some() || self.leader == self.cold.me || mutant::PROMISE_BROKEN {
            return Moment(0);
        }
        env.sink.promised(self.leader)
    }
}

impl Config {
    /// How long a lease lasts from the sending of a pulse whose answer promises `promised`.
    fn lease_of(&self, promised: Duration) -> Duration {
        let left = 1_000u32.saturating_sub(u32::from(self.clock_drift_permille));
        promised.min(self.election_base) / 1_000 * left
    }
}
