//! The configuration of a group: which one is in force, who is at which position, and how it changes (dissertation,
//! chapter 4).
//!
//! A configuration is in force from the moment its entry is appended, and is undone when its entry is cut off. Because a leader
//! appends one only when the one before is committed, no more than the last one of a log can be cut off; a few more
//! are kept, for members that learn of commits late.
//!
//! Peers have positions, which sets and arrays are indexed by: members first, then **parting** ones (removed, and the leader
//! sees to it that they learn of it), then **guests**: nodes that this one has a way to and that are no members as far as it
//! knows. A leader may be a guest to a node that lags behind, and so may a candidate: their messages count all the same.

use crate::joint::JointConfig;
use crate::mutant;
use crate::progress::{Progress, State};
use crate::quorum::{PEERS_MAX, PeerSet, SELF};
use crate::role::{Flags, INLINE_PEERS, RoleState};
use crate::{
    Env, Group, LogIndex, LogState, MemberKind, Membership, MembershipChange, NodeId, Proposed, Refused,
    Route, Sink, SnapshotMeta,
};

/// Configurations kept, at most: the committed one and what came after it. A log holds one uncommitted configuration at most
/// (see above), so what is dropped is committed, whether it is known here or not.
const KEPT_MAX: usize = 4;

/// What a group knows of its configurations.
#[derive(Clone, Debug, Hash)]
pub(crate) struct MembersState {
    /// Ascending, never empty. Invariant: the first is committed, and cannot be cut off.
    kept: Vec<(LogIndex, Membership)>,
    /// The voters of the one in force, by position.
    pub(crate) voters: JointConfig,
    /// Removed members that this leader still sends to.
    parting: PeerSet,
    /// Guests, behind the peers.
    guests: usize,
    /// This node may not campaign, does not know of a leader, and asks the others for votes now and then all the same: it led, and
    /// others may still take it for their leader; or it is a learner that lost its leader, which does not know that and is silent
    /// while it has nothing to say.
    pub(crate) asks_in_vain: bool,
}

impl MembersState {
    /// The configurations of a recovered log.
    ///
    /// # Panics
    /// If they are not in order, or behind the log's end: recovery is broken.
    pub(crate) fn recovered(
        found: &[(LogIndex, Membership)],
        log: &LogState,
        commit: LogIndex,
    ) -> MembersState {
        for pair in found.windows(2) {
            assert!(pair[0].0 < pair[1].0, "a configuration of {} before one of {}", pair[0].0, pair[1].0);
        }
        let end = found.last().map_or(LogIndex(0), |newest| newest.0);
        assert!(end <= log.last, "a configuration of index {end} behind the log's last {}", log.last);
        // A node that joined was never told the founding configuration; what it has may all be cut off.
        let begins_unknown = found.first().is_none_or(|oldest| oldest.0 >= log.first);
        let unknown = begins_unknown.then(|| (LogIndex(0), Membership::default()));
        let mut kept: Vec<_> = unknown.into_iter().chain(found.iter().cloned()).collect();
        kept.drain(..kept.len().saturating_sub(KEPT_MAX));
        let mut state = MembersState {
            kept,
            voters: JointConfig::default(),
            parting: PeerSet::EMPTY,
            guests: 0,
            asks_in_vain: false,
        };
        state.settle(commit);
        state
    }

    /// Forgets what is older than the newest committed one.
    fn settle(&mut self, commit: LogIndex) {
        let committed = self.kept.iter().rposition(|&(index, _)| index <= commit).unwrap_or(0);
        self.kept.drain(..committed);
    }

    /// Whether the newest configuration is known to be committed.
    pub(crate) fn is_settled(&self) -> bool {
        self.kept.len() == 1
    }

    fn in_force(&self, commit: LogIndex) -> &(LogIndex, Membership) {
        let newest = self.kept.last();
        let known = self.kept.iter().rfind(|(index, _)| *index <= commit);
        let chosen = if mutant::MEMBERS_AT_COMMIT { known.or(self.kept.first()) } else { newest };
        chosen.expect("never empty")
    }
}

impl Group {
    /// The configuration in force: the last one in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        &self.cold.members.in_force(self.commit).1
    }

    /// The index of the configuration in force: what a change names as expected. 0 for the founding one.
    pub fn membership_index(&self) -> LogIndex {
        self.cold.members.in_force(self.commit).0
    }

    /// Whether the configuration in force is known to be committed, and no joint one.
    pub fn membership_is_settled(&self) -> bool {
        !self.flags.has(Flags::SPECIAL) || (self.cold.members.is_settled() && !self.membership().is_joint())
    }

    /// Asks for another configuration. It is in force at once, and permanent when the entry that is returned is committed; a
    /// joint one is left by itself then, if the change says so. The entry goes to [`Sink::append_membership`]: the
    /// caller writes it, and calls [`Group::flush`] before the turn ends, as after a proposal.
    ///
    /// # Errors
    /// [`Refused`]: nothing was appended.
    pub fn change_membership<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        change: &MembershipChange,
    ) -> Result<Proposed, Refused> {
        if !self.is_leader() {
            return Err(Refused::NotLeader { leader: self.leader });
        }
        if let Some(to) = self.transferring() {
            return Err(Refused::Transferring { to });
        }
        let actual = self.membership_index();
        if let Some(expected) = change.expected.filter(|&expected| expected != actual) {
            return Err(Refused::MembershipMismatch { expected, actual });
        }
        let newest = self.cold.members.kept.last().expect("never empty").0;
        if newest > self.commit && !mutant::TWO_CHANGES {
            return Err(Refused::ChangePending { index: newest });
        }
        let is_known = self.tail.run_term == self.term && self.commit >= self.tail.run_first;
        if !is_known && !mutant::CHANGE_BEFORE_COMMIT {
            return Err(Refused::NotCommittedInTerm);
        }
        let next = self.membership().changed(change).map_err(Refused::BadChange)?;
        if !change.even_if_behind {
            self.check_new_voters(env, &next)?;
        }
        Ok(self.append_membership(env, next))
    }

    /// Refuses voters that would keep the group from committing: those whose logs are behind (by what they have acknowledged
    /// to this leader; dissertation, 4.2.1), and so many that are out of contact that the rest is no majority.
    fn check_new_voters<S: Sink>(&self, env: &Env<'_, S>, next: &Membership) -> Result<(), Refused> {
        let new = next.voters().iter().filter(|&&node| !self.membership().is_voter(node));
        for &node in new {
            let unknown = Refused::LearnerUnknown { node };
            let peer = self.peer(node).filter(|&peer| peer < self.peers()).ok_or(unknown)?;
            let progress = self.progress(peer).ok_or(unknown)?;
            let (lag, limit) =
                (self.tail.last.0 - progress.matched.0, u64::from(env.config.promotion_lag_max));
            if progress.state == State::Snapshot || lag > limit {
                return Err(Refused::LearnerBehind { node, lag, limit });
            }
            if progress.state != State::Replicate || !self.is_reachable(env.config, peer) {
                return Err(unknown);
            }
        }
        let here = |node: NodeId| {
            node == self.cold.me || self.peer(node).is_some_and(|peer| self.alive.contains(peer))
        };
        let majority = |voters: &[NodeId]| {
            let alive = voters.iter().filter(|&&node| here(node)).count();
            voters.is_empty() || alive >= crate::quorum::quorum(voters.len())
        };
        if env.config.check_quorum && !(majority(next.voters()) && majority(next.outgoing())) {
            return Err(Refused::NoQuorum);
        }
        Ok(())
    }

    fn append_membership<S: Sink>(&mut self, env: &mut Env<'_, S>, next: Membership) -> Proposed {
        let index = self.tail.last.next();
        // The last run is this term's since its no-op.
        self.tail.last = index;
        env.sink.append_membership(index, self.term, self.epoch(), &next);
        let proposed = Proposed { first: index, term: self.term, epoch: self.epoch() };
        self.membership_appended(index, next);
        self.members_changed(env);
        proposed
    }

    fn membership_appended(&mut self, index: LogIndex, membership: Membership) {
        let kept = &mut self.cold.members.kept;
        assert!(kept.last().is_none_or(|newest| newest.0 < index), "configurations come in order");
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        kept.push((index, membership));
    }

    /// Whether the log may be cut behind `keep` as far as configurations are concerned.
    pub(crate) fn may_truncate_members(&self, keep: LogIndex) -> bool {
        mutant::MEMBERS_NOT_UNDONE || self.cold.members.kept[0].0 <= keep
    }

    /// A follower's log was cut behind `keep`, and these entries of what was appended instead are configurations.
    pub(crate) fn members_replaced<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        keep: LogIndex,
        appended: &[(LogIndex, Membership)],
    ) {
        let before = self.membership_index();
        if !mutant::MEMBERS_NOT_UNDONE {
            self.cold.members.kept.retain(|&(index, _)| index <= keep);
        }
        let mut is_new = self.membership_index() != before;
        for (index, membership) in appended.iter().filter(|&&(index, _)| index > keep) {
            if mutant::MEMBERS_NOT_UNDONE && self.cold.members.kept.iter().any(|kept| kept.0 >= *index) {
                continue;
            }
            self.membership_appended(*index, membership.clone());
            is_new = true;
        }
        if is_new {
            self.members_changed(env);
        }
    }

    /// The index of the configuration in force at `index`. Below the commit index it may be forgotten.
    pub(crate) fn membership_index_at(&self, index: LogIndex) -> Option<LogIndex> {
        self.cold.members.kept.iter().rfind(|kept| kept.0 <= index).map(|kept| kept.0)
    }

    /// A snapshot took the place of the log up to its index, and of what is behind it unless that is kept.
    pub(crate) fn members_installed<S: Sink>(
        &mut self,
        env: &mut Env<'_, S>,
        snapshot: &SnapshotMeta,
        keeps_newer: bool,
    ) {
        if mutant::SNAPSHOT_WITHOUT_MEMBERS {
            return self.settle_members();
        }
        let kept = &mut self.cold.members.kept;
        let before = kept.last().cloned();
        kept.retain(|(index, _)| keeps_newer && *index > snapshot.index);
        kept.insert(0, (snapshot.membership_index, snapshot.membership.clone()));
        if kept.last() == before.as_ref() {
            self.settle_members();
        } else {
            self.members_changed(env);
        }
    }

    /// The commit index moved, and the configuration is not the plainest: it may be settled now.
    #[cold]
    pub(crate) fn settle_members(&mut self) {
        self.cold.members.settle(self.commit);
        self.mark_special();
    }

    /// What a leader does about the configuration when something was committed: it leaves a joint one, steps down if it is a
    /// voter no longer, and lets removed members go that know of it. Positions may change.
    #[cold]
    pub(crate) fn tend_members<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if mutant::MEMBERS_AT_COMMIT {
            self.members_changed(env);
        }
        let is_known = self.tail.run_term == self.term && self.commit >= self.tail.run_first;
        if !self.is_leader() || !is_known || self.membership_index() > self.commit {
            return;
        }
        let membership = self.membership();
        if membership.auto_leave() {
            let next = membership.left();
            self.append_membership(env, next);
            self.flush(env);
        } else if !membership.is_voter(self.cold.me) {
            self.resign(env);
        } else {
            self.let_part(env);
        }
    }

    /// A leader that was removed has committed that: whoever has the whole log may campaign at once, and this node leads no more.
    fn resign<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        for peer in 0..self.peers() {
            self.send_heartbeat(env, peer);
        }
        let is_equal = |&peer: &usize| {
            self.is_voter(peer)
                && self.is_reachable(env.config, peer)
                && self.progress(peer).is_some_and(|progress| progress.matched == self.tail.last)
        };
        if let Some(peer) = (0..self.peers()).find(is_equal) {
            env.sink.timeout_now(self.route(peer), crate::TimeoutNow { term: self.term });
        }
        self.become_follower(env, self.term, NodeId::NONE);
        self.ask_for_votes_in_vain(env);
        self.save(env);
    }

    /// Who asks for votes in a later term does not lead the one it led: so the others learn it. And whoever leads answers that it
    /// does.
    pub(crate) fn ask_for_votes_in_vain<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        self.request_votes(env, true, false);
        self.arm_election(env);
    }

    /// Lets removed members go that know of it, or cannot be told.
    fn let_part<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        let index = self.membership_index();
        let before = self.cold.members.parting;
        for peer in before.iter() {
            let progress = self.progress(peer).copied();
            let knows = progress.is_some_and(|progress| progress.matched >= index);
            let is_lost = progress.is_none_or(|progress| progress.state == State::Snapshot);
            if knows {
                self.send_heartbeat(env, peer);
            }
            if knows || is_lost || !self.is_reachable(env.config, peer) {
                self.cold.members.parting.remove(peer);
            }
        }
        if self.cold.members.parting != before {
            self.number_members();
        }
    }

    /// A node that is no member asks for votes: it does not know that it was removed, so it is sent the log until it does.
    pub(crate) fn tell_of_removal<S: Sink>(&mut self, env: &mut Env<'_, S>, node: NodeId) {
        if let Some(peer) = self.peer(node).filter(|&peer| peer >= self.peers()) {
            self.cold.members.parting.insert(peer);
            self.number_members();
            if let Some(peer) = self.peer(node) {
                self.reset_progress(env, peer);
            }
        }
    }

    /// Whether this member may campaign: it is a voter of the configuration in force, or that one is not known to be committed and
    /// it was a voter before. (A leader may have removed itself, and hold the only log that can win; dissertation, 4.2.2.)
    pub(crate) fn may_campaign(&self) -> bool {
        !self.flags.has(Flags::SPECIAL)
            || self.cold.members.kept.iter().any(|(_, membership)| membership.is_voter(self.cold.me))
    }

    /// Whether a peer takes part in decisions.
    pub(crate) fn is_voter(&self, peer: usize) -> bool {
        if self.flags.has(Flags::SPECIAL) {
            self.cold.members.voters.decides(peer)
        } else {
            peer < self.peers()
        }
    }

    /// Whether a peer is no member, and still sent to.
    pub(crate) fn is_parting(&self, peer: usize) -> bool {
        self.flags.has(Flags::SPECIAL) && self.cold.members.parting.contains(peer)
    }

    /// A new leadership begins: nobody parts from it yet.
    pub(crate) fn forget_parting(&mut self) {
        if !self.cold.members.parting.is_empty() {
            self.cold.members.parting = PeerSet::EMPTY;
            self.number_members();
        }
    }

    /// Another configuration is in force.
    fn members_changed<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.is_leader() {
            for peer in 0..self.peers() {
                let is_removed = !self.membership().contains(self.id(peer));
                if is_removed && self.is_reachable(env.config, peer) {
                    self.cold.members.parting.insert(peer);
                }
            }
        }
        self.number_members();
        let (index, membership) = self.cold.members.in_force(self.commit);
        env.sink.members_changed(*index, membership);
    }

    pub(crate) fn mark_special(&mut self) {
        let members = &self.cold.members;
        let (_, membership) = members.in_force(self.commit);
        let is_plain = members.is_settled()
            && !membership.is_joint()
            && membership.learners().is_empty()
            && membership.kind(self.cold.me) == MemberKind::Voter
            && members.parting.is_empty()
            && self.cold.vouched.is_none();
        self.flags.put(Flags::SPECIAL, !is_plain);
    }

    // -- positions ------------------------------------------------------------------------------------------------

    /// Peers and guests have the positions below.
    pub(crate) fn known_nodes(&self) -> usize {
        self.peers() + self.cold.members.guests
    }

    /// The way to a node that is no peer became known: it is a guest from now on, if there is room.
    pub(crate) fn add_guest(&mut self, node: NodeId) -> Option<usize> {
        let (first, guests) = (self.peers(), self.cold.members.guests);
        if !node.is_some() || node == self.cold.me {
            return None;
        }
        if first + guests < PEERS_MAX {
            self.cold.members.guests += 1;
            self.set_id(first + guests, node);
            return Some(first + guests);
        }
        // One that is gone makes room, never the leader that is followed.
        let is_gone = |&guest: &usize| {
            !self.has_route(guest) && !self.alive.contains(guest) && self.id(guest) != self.leader
        };
        let guest = (first..first + guests).find(is_gone)?;
        self.set_id(guest, node);
        Some(guest)
    }

    /// Gives every peer its position by the configuration in force. **Everything that is kept by position moves along, here.**
    pub(crate) fn number_members(&mut self) {
        let old: Vec<NodeId> = (0..self.known_nodes()).map(|at| self.id(at)).collect();
        let (me, leader) = (self.cold.me, self.leader);
        let membership = self.membership();
        let members: Vec<NodeId> = membership.members().filter(|&node| node != me).collect();
        let is_member = |node: &NodeId| members.contains(node);
        let parting: Vec<NodeId> =
            self.cold.members.parting.iter().map(|at| old[at]).filter(|node| !is_member(node)).collect();
        let is_here = |at: usize| self.has_route(at) || self.alive.contains(at);
        let mut guests: Vec<NodeId> = (0..old.len())
            .filter(|&at| is_here(at) || old[at] == leader)
            .map(|at| old[at])
            .filter(|node| !is_member(node) && !parting.contains(node))
            .collect();
        // There is always room for the leader that is followed.
        guests.sort_by_key(|&node| node != leader);
        let new: Vec<NodeId> =
            members.iter().chain(&parting).chain(&guests).copied().take(PEERS_MAX).collect();
        let peers = (members.len() + parting.len()).min(PEERS_MAX);

        let set_of = |nodes: &[NodeId]| {
            let mut set = PeerSet::EMPTY;
            for node in nodes {
                let at = if *node == me { Some(SELF) } else { new.iter().position(|other| other == node) };
                set.insert(at.expect("every member has a position"));
            }
            set
        };
        let voters =
            JointConfig { incoming: set_of(membership.voters()), outgoing: set_of(membership.outgoing()) };
        let mut parting = PeerSet::EMPTY;
        (members.len()..peers).for_each(|at| parting.insert(at));
        let from: Vec<Option<usize>> =
            new.iter().map(|node| old.iter().position(|other| other == node)).collect();
        self.move_peers(&new, &Moves { from }, self.peers());
        self.peer_count = peers as u8;
        let state = &mut self.cold.members;
        (state.voters, state.parting, state.guests) = (voters, parting, new.len() - peers);
        self.mark_special();
    }

    /// Moves what is kept by position. `old_peers` of the old positions had progress that means something.
    fn move_peers(&mut self, new: &[NodeId], moves: &Moves, old_peers: usize) {
        let routes: Vec<Route> =
            moves.from.iter().map(|from| from.map_or(Route::NONE, |old| self.route(old))).collect();
        for at in 0..PEERS_MAX {
            self.set_id(at, new.get(at).copied().unwrap_or(NodeId::NONE));
            self.set_route(at, routes.get(at).copied().unwrap_or(Route::NONE));
        }
        self.alive = moves.set(self.alive);
        self.told = moves.set(self.told);
        match &mut self.role {
            RoleState::Follower(_) => {}
            RoleState::PreCandidate(pre) => pre.granted = moves.set(pre.granted),
            RoleState::Candidate(candidate) => candidate.granted = moves.set(candidate.granted),
            RoleState::Leader(leader) => {
                let cold = &mut self.cold.leader;
                let mut old = Vec::with_capacity(PEERS_MAX);
                for at in 0..PEERS_MAX {
                    let (progress, ring) = leader.progress(cold, at);
                    old.push((*progress, std::mem::take(ring)));
                }
                for at in 0..PEERS_MAX {
                    let known = moves.from.get(at).copied().flatten().filter(|&from| from < old_peers);
                    let fresh = (Progress::probe(self.tail.last.max(LogIndex(1))), Default::default());
                    let (progress, ring) = leader.progress(cold, at);
                    (*progress, *ring) = known.map_or(fresh, |from| old[from].clone());
                }
            }
        }
        self.cold.leader.lease.forget();
        self.cold.leader.reads.move_peers(moves);
        self.move_transfer(|peer| moves.position(peer));
    }

    fn set_id(&mut self, peer: usize, node: NodeId) {
        match peer.checked_sub(INLINE_PEERS) {
            None => self.ids[peer] = node,
            Some(spilled) => self.cold.more_ids[spilled] = node,
        }
    }
}

/// Where each new position's peer was before.
pub(crate) struct Moves {
    from: Vec<Option<usize>>,
}

impl Moves {
    pub(crate) fn position(&self, old: usize) -> Option<usize> {
        self.from.iter().position(|&from| from == Some(old))
    }

    pub(crate) fn set(&self, old: PeerSet) -> PeerSet {
        let mut set = PeerSet::EMPTY;
        for (new, _) in
            self.from.iter().enumerate().filter(|(_, from)| from.is_some_and(|old_at| old.contains(old_at)))
        {
            set.insert(new);
        }
        set
    }
}
