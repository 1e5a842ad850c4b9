//! The smallest group for unit tests beside the code: a single voter with a disk that does as it is told.

use crate::{
    Append, AppendReply, Config, Env, Fit, Group, HardState, Heartbeat, HeartbeatReply, LogIndex, LogState,
    Membership, Moment, NodeId, Proposed, Random, Refused, Role, Route, Setup, Sink, Term, TimeoutNow,
    VoteReply, VoteRequest,
};

pub(crate) struct Void;

impl Sink for Void {
    fn append(&mut self, _to: Route, _message: Append) {}
    fn heartbeat(&mut self, _to: Route, _message: Heartbeat) {}
    fn heartbeat_reply(&mut self, _to: Route, _message: HeartbeatReply) {}
    fn append_reply(&mut self, _to: Route, _message: AppendReply) {}
    fn vote_request(&mut self, _to: Route, _message: VoteRequest) {}
    fn vote_reply(&mut self, _to: Route, _message: VoteReply) {}
    fn timeout_now(&mut self, _to: Route, _message: TimeoutNow) {}
    fn save_hard_state(&mut self, _state: HardState) {}
    fn append_empty(&mut self, _index: LogIndex, _term: Term, _epoch: u32) {}
    fn append_membership(&mut self, _index: LogIndex, _term: Term, _epoch: u32, _membership: &Membership) {}
    fn own_vote_written(&mut self, _term: Term) {}
    fn committed(&mut self, _commit: LogIndex) {}
    fn reads_confirmed(&mut self, _round: u64, _index: LogIndex) {}
    fn leadership_lost(&mut self, _new_term: Term) {}
    fn role_changed(&mut self, _role: Role, _leader: NodeId, _term: Term) {}
    fn fit(&mut self, _to: Route, _first: LogIndex, _last: LogIndex, _bytes_max: u32) -> Fit {
        Fit::Loading
    }
}

/// A group of one, leading, with its no-op committed at index 1.
pub(crate) struct Alone {
    pub(crate) group: Group,
    random: Random,
}

impl Alone {
    pub(crate) fn leading() -> Alone {
        let (config, mut random) = (Config::default(), Random::new(1));
        let me = NodeId(1);
        let setup = Setup {
            me,
            memberships: &[(LogIndex(0), Membership::founding(&[me]).expect("one voter"))],
            hard_state: HardState::default(),
            log: &LogState { first: LogIndex(1), ..LogState::default() },
            applied: LogIndex(0),
            fresh: true,
            preferred_leader: NodeId::NONE,
            ..Setup::default()
        };
        let group = Group::new(Moment(0), &config, &mut random, &setup);
        let mut alone = Alone { group, random };
        alone.step(&config, |group, env| {
            group.on_deadline(env);
            group.on_vote_durable(env, Term(1));
            group.on_durable(env, 0, LogIndex(1));
        });
        assert_eq!(alone.group.commit(), LogIndex(1));
        alone
    }

    pub(crate) fn step<R>(
        &mut self,
        config: &Config,
        step: impl FnOnce(&mut Group, &mut Env<'_, Void>) -> R,
    ) -> R {
        let mut env = Env { now: Moment(0), config, random: &mut self.random, sink: &mut Void };
        step(&mut self.group, &mut env)
    }

    pub(crate) fn propose(&mut self, config: &Config, bytes: u32) -> Result<Proposed, Refused> {
        self.step(config, |group, env| group.propose(env, 1, bytes))
    }

    /// Everything up to `index` is durable, hence committed.
    pub(crate) fn durable(&mut self, index: u64) {
        self.step(&Config::default(), |group, env| group.on_durable(env, 0, LogIndex(index)));
    }
}
