//! The state of one member of one group, where it starts from, and the questions it answers.

use crate::forward::Forward;
use crate::history::History;
use crate::lost::Recovering;
use crate::members::MembersState;
use crate::mutant;
use crate::progress::Progress;
use crate::quorum::{PEERS_MAX, PeerSet};
use crate::role::{Flags, Follower, INLINE_PEERS, LeaderCold, RoleState};
use crate::term_runs::{OlderRuns, Tail};
use crate::{
    Config, Env, HardState, LogIndex, Moment, NodeId, PeerReport, Random, Report, Role, Route, Setup, Sink,
    Term,
};

/// Terms and indexes above are taken for garbage when a peer names them, so that arithmetic on them cannot overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// One member of one Raft group.
///
/// Four cache lines, of which the steady path of a group of three touches three, and a cold part that it does not
/// touch. Callers keep groups in a dense array.
///
/// A clone is the same member twice: for models that explore what may happen next, never for a running system. Equal states
/// have equal hashes, so that a model recognises a state it has been in.
#[derive(Clone, Hash)]
#[repr(C, align(64))]
pub struct Group {
    // -- first line: the log --
    /// Latest term seen.
    pub(crate) term: Term,
    /// The log's end.
    pub(crate) tail: Tail,
    /// Committed up to here. Never goes back. Invariant: `commit <= tail.last`.
    pub(crate) commit: LogIndex,
    /// Durable on this node up to here. Invariant: `durable <= tail.last`.
    pub(crate) durable: LogIndex,
    /// When to be called.
    pub(crate) deadline: Moment,
    /// What the steady path does not need.
    pub(crate) cold: Box<Cold>,
    // -- second line: who is who --
    /// Payload bytes proposed in this leadership and not committed, rounded up: see `uncommitted.rs`.
    pub(crate) uncommitted_bytes: u32,
    /// The leader, if known.
    pub(crate) leader: NodeId,
    /// Counts the truncations of the log: completions of writes before the last one are stale.
    /// In 16 bits: a completion is never 65,536 truncations late, because each of them is a write of its own.
    pub(crate) epoch: u16,
    /// Peers in contact, guests too.
    pub(crate) alive: PeerSet,
    /// Leader: peers that were sent the present commit index with something that lets them reach it.
    pub(crate) told: PeerSet,
    /// Peers that get the log: members, and removed ones that a leader still tells of their removal. Guests lie behind them.
    pub(crate) peer_count: u8,
    pub(crate) flags: Flags,
    /// The first peers, and the ways to them.
    pub(crate) ids: [NodeId; INLINE_PEERS],
    pub(crate) routes: [Route; INLINE_PEERS],
    // -- third and fourth line: the role --
    pub(crate) role: RoleState,
}

const _: () = assert!(size_of::<Group>() <= 256);

/// The part of a group that elections, reads, transfers and old entries need.
#[derive(Clone, Hash)]
pub(crate) struct Cold {
    pub(crate) me: NodeId,
    /// Candidate voted for in the present term.
    pub(crate) vote: NodeId,
    /// The node that should lead when all are equal.
    pub(crate) preferred: NodeId,
    pub(crate) more_ids: [NodeId; PEERS_MAX - INLINE_PEERS],
    pub(crate) more_routes: [Route; PEERS_MAX - INLINE_PEERS],
    /// The configurations, and the voters by position.
    pub(crate) members: MembersState,
    /// No vote is given and no campaign begins before: a lease granted in an earlier life, or to a leader that this member
    /// has left, may be in force.
    pub(crate) may_vote_from: Moment,
    /// Campaigns that ended without a leader since one was heard last.
    pub(crate) failed_campaigns: u8,
    /// This member has let its election deadline pass once for those that are wanted more, since a leader was heard last.
    pub(crate) deferred: bool,
    /// Messages that no correct member would have sent.
    pub(crate) refused_messages: u64,
    pub(crate) older_runs: OlderRuns,
    pub(crate) forward: Forward,
    pub(crate) history: History,
    /// Priorities of the voters that have one above 0, this node's too: see [`Setup::priorities`].
    pub(crate) priorities: Vec<(NodeId, u8)>,
    /// Leadership was lost while it was being handed to this node: how that ends shows itself with the next leader.
    pub(crate) handed_to: NodeId,
    pub(crate) leader: LeaderCold,
    /// Meaningful with [`Flags::LOST`].
    pub(crate) recovering: Recovering,
    /// The caller cannot read all of the log: what had been vouched for when it said so. See [`Group::set_fit`].
    pub(crate) vouched: Option<LogIndex>,
}

impl Group {
    /// A group as recovery found it. Routes are unknown and nobody is in contact: the caller reports both.
    ///
    /// # Panics
    /// If `setup` contradicts itself (a commit index or an applied index outside the log, configurations that are not in
    /// order): nothing may be built on such a recovery.
    pub fn new(now: Moment, config: &Config, _random: &mut Random, setup: &Setup<'_>) -> Group {
        let (tail, older_runs) = Tail::recovered(setup.log);
        let commit = setup.hard_state.commit.max(setup.applied);
        assert!(
            setup.applied >= older_runs.base,
            "applied {} before the log's first {}",
            setup.applied,
            setup.log.first
        );
        assert!(commit <= tail.last, "commit {commit} behind the log's last {}", tail.last);
        assert!(setup.hard_state.term >= tail.run_term, "term {} below the log's", setup.hard_state.term);
        let mut group = Group {
            term: setup.hard_state.term,
            tail,
            commit,
            durable: tail.last,
            deadline: Moment::NEVER,
            cold: Box::new(Cold {
                me: setup.me,
                vote: setup.hard_state.vote,
                preferred: setup.preferred_leader,
                more_ids: [NodeId::NONE; PEERS_MAX - INLINE_PEERS],
                more_routes: [Route::NONE; PEERS_MAX - INLINE_PEERS],
                members: MembersState::recovered(setup.memberships, setup.log, commit),
                may_vote_from: if setup.fresh || mutant::VOTES_AFTER_RESTART {
                    now
                } else {
                    now.after(config.election_base)
                },
                failed_campaigns: 0,
                deferred: false,
                refused_messages: 0,
                older_runs,
                forward: Forward::new(),
                history: History::default(),
                priorities: setup.priorities.iter().copied().filter(|(_, priority)| *priority > 0).collect(),
                handed_to: NodeId::NONE,
                leader: LeaderCold::new(),
                recovering: Recovering::new(setup.hard_state.lost),
                vouched: None,
            }),
            epoch: 0,
            uncommitted_bytes: 0,
            leader: NodeId::NONE,
            peer_count: 0,
            alive: PeerSet::EMPTY,
            told: PeerSet::EMPTY,
            flags: Flags::default(),
            ids: [NodeId::NONE; INLINE_PEERS],
            routes: [Route::NONE; INLINE_PEERS],
            role: RoleState::Follower(Follower::default()),
        };
        group.number_members();
        if group.is_quorum(PeerSet::EMPTY) {
            // Nobody to ask.
            if group.cold.members.is_settled() {
                // And nobody who could hold a lease but an earlier self.
                group.cold.may_vote_from = now;
            }
            group.deadline = group.cold.may_vote_from;
        }
        if setup.hard_state.lost.is_any() {
            group.flags.set(Flags::LOST);
            group.deadline = now;
        }
        group
    }

    /// Another node should lead when all are equal, from the next election on.
    pub fn prefer(&mut self, leader: NodeId) {
        self.cold.preferred = leader;
    }

    // -- questions ------------------------------------------------------------------------------------------------

    /// When [`Group::on_deadline`] wants to be called; [`Moment::NEVER`] for a quiet group.
    pub fn next_deadline(&self) -> Moment {
        if self.flags.has(Flags::FORWARD) {
            self.deadline.min(self.cold.forward.retry_at)
        } else {
            self.deadline
        }
    }

    /// The last index that may be applied: `min(commit, durable here)`. It moves with [`Sink::committed`] and with
    /// [`Group::on_durable`]: ask after either.
    pub fn applicable(&self) -> LogIndex {
        self.commit.min(self.durable)
    }

    /// What this member is at present.
    pub fn role(&self) -> Role {
        self.role.name()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    /// The leader, if known; this node itself if it leads.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// The latest term seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The commit index: entries up to it are final.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The log's last index in memory, durable or not.
    pub fn last_index(&self) -> LogIndex {
        self.tail.last
    }

    /// Durable here up to this index.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// The epoch that writes of entries belong to at present: see [`Group::on_durable`].
    pub fn epoch(&self) -> u32 {
        u32::from(self.epoch)
    }

    /// First index of the log: entries before it are gone.
    pub fn first_index(&self) -> LogIndex {
        self.cold.older_runs.base.next()
    }

    /// The term of the entry at `index` (also at `first_index - 1`); `None` outside the log.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.tail.term_at(&self.cold.older_runs, index)
    }

    /// What has to be durable of term and vote; the commit index rides along as far as the log is durable here, so that
    /// it never leads beyond the log that is recovered with it.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.cold.vote, commit: self.applicable(), lost: self.lost() }
    }

    /// Lowest index that some member is not known to have, for the caller's entry cache. A member that does not lead
    /// sends nothing: the index after its last.
    pub fn needed_from(&self) -> LogIndex {
        if !self.is_leader() {
            return self.tail.last.next();
        }
        let members = (0..self.peers()).filter(|&peer| !self.is_parting(peer));
        let matched = members.map(|peer| self.progress(peer).map_or(LogIndex(0), |p| p.matched));
        matched.min().unwrap_or(self.tail.last).next()
    }

    /// Whether this node leads, is in contact with `peer` and knows its log to be equal up to the commit index at least: it
    /// could take over at once. For balancing leaders; cheap.
    pub fn peer_caught_up(&self, peer: NodeId) -> bool {
        let Some(peer) = self.peer(peer) else { return false };
        self.alive.contains(peer)
            && self.is_voter(peer)
            && self.progress(peer).is_some_and(|progress| progress.matched >= self.commit)
    }

    /// Messages ignored because no correct member of the group would have sent them: a second leader in one term, a
    /// conflict below the commit index, numbers out of range, a sender that this
    /// node has no way to.
    pub fn refused_messages(&self) -> u64 {
        self.cold.refused_messages
    }

    /// The group's state, for people.
    pub fn report(&self) -> Report {
        let peers = (0..self.peers()).map(|peer| {
            let progress = self.progress(peer);
            PeerReport {
                node: self.id(peer),
                matched: progress.map_or(LogIndex(0), |p| p.matched),
                next: progress.map_or(LogIndex(0), |p| p.next),
                state: progress.map_or("", |p| p.state.name()),
                inflight: progress.map_or(0, |p| u32::from(p.inflight_count)),
                inflight_bytes: progress.map_or(0, |p| p.inflight_bytes),
                alive: self.alive.contains(peer),
                kind: self.membership().kind(self.id(peer)),
            }
        });
        Report {
            role: self.role(),
            term: self.term,
            leader: self.leader,
            commit: self.commit,
            durable: self.durable,
            last: self.tail.last,
            membership: self.membership().clone(),
            membership_index: self.membership_index(),
            votes: self.counted_votes(),
            lost: self.lost(),
            peers: peers.collect(),
        }
    }

    /// Whose votes count in the campaign that this member is in, if it is in one.
    fn counted_votes(&self) -> Vec<NodeId> {
        let RoleState::Candidate(candidate) = self.role else { return Vec::new() };
        let own = candidate.own_vote.then_some(self.cold.me);
        own.into_iter().chain(candidate.granted.iter().map(|peer| self.id(peer))).collect()
    }

    // -- peers ----------------------------------------------------------------------------------------------------

    pub(crate) fn peers(&self) -> usize {
        usize::from(self.peer_count)
    }

    /// The position of `node` among the peers and guests.
    pub(crate) fn peer(&self, node: NodeId) -> Option<usize> {
        if !node.is_some() {
            return None;
        }
        // Unused places hold nobody.
        let inline = self.ids.iter().position(|&id| id == node);
        inline.or_else(|| {
            let spilled = self.cold.more_ids.iter().position(|&id| id == node)?;
            Some(INLINE_PEERS + spilled)
        })
    }

    pub(crate) fn id(&self, peer: usize) -> NodeId {
        match peer.checked_sub(INLINE_PEERS) {
            None => self.ids[peer],
            Some(spilled) => self.cold.more_ids[spilled],
        }
    }

    pub(crate) fn route(&self, peer: usize) -> Route {
        match peer.checked_sub(INLINE_PEERS) {
            None => self.routes[peer],
            Some(spilled) => self.cold.more_routes[spilled],
        }
    }

    pub(crate) fn set_route(&mut self, peer: usize, route: Route) {
        match peer.checked_sub(INLINE_PEERS) {
            None => self.routes[peer] = route,
            Some(spilled) => self.cold.more_routes[spilled] = route,
        }
    }

    /// Whether sending to the peer makes sense: a way is known, and it is in contact where contact is what counts.
    pub(crate) fn is_reachable(&self, config: &Config, peer: usize) -> bool {
        self.route(peer) != Route::NONE && (self.alive.contains(peer) || !config.check_quorum)
    }

    /// Whether these peers, and this node itself if it is a voter, can decide.
    #[inline]
    pub(crate) fn is_quorum(&self, agreed: PeerSet) -> bool {
        if self.flags.has(Flags::SPECIAL) {
            self.cold.members.voters.is_quorum(agreed.with_self())
        } else {
            agreed.is_quorum_with_self(self.peers())
        }
    }

    /// Whether these peers can decide without this node.
    pub(crate) fn is_quorum_without_self(&self, agreed: PeerSet) -> bool {
        if self.flags.has(Flags::SPECIAL) {
            self.cold.members.voters.is_quorum(agreed)
        } else {
            agreed.is_quorum_of_others(self.peers())
        }
    }

    /// Whether this node and the peers in contact can decide.
    pub(crate) fn has_quorum_in_contact(&self) -> bool {
        self.is_quorum(self.alive)
    }

    /// Progress of a peer, if this member leads.
    pub(crate) fn progress(&self, peer: usize) -> Option<&Progress> {
        let RoleState::Leader(leader) = &self.role else { return None };
        Some(match peer.checked_sub(INLINE_PEERS) {
            None => &leader.progress[peer],
            Some(spilled) => &self.cold.leader.more_progress[spilled],
        })
    }

    // -- effects --------------------------------------------------------------------------------------------------

    /// A message was ignored that no correct member would have sent.
    pub(crate) fn refuse_message(&mut self) {
        self.cold.refused_messages = self.cold.refused_messages.saturating_add(1);
    }

    /// Hands a changed term or vote to the log. Every step that may have changed them ends with this, or calls it before.
    pub(crate) fn save<S: Sink>(&mut self, env: &mut Env<'_, S>) {
        if self.flags.has(Flags::UNSAVED) {
            self.flags.clear(Flags::UNSAVED);
            env.sink.save_hard_state(self.hard_state());
        }
    }

    /// Tells the caller who this member is now.
    pub(crate) fn tell_role<S: Sink>(&self, env: &mut Env<'_, S>) {
        env.sink.role_changed(self.role(), self.leader, self.term);
    }
}
