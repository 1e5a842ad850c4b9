//! The smallest groups for unit tests beside the code: a single voter, and a leader of three whose peers say what they are told to say.

use crate::{
    Append, AppendOutcome, AppendReply, Config, Env, Fit, Group, HardState, Heartbeat, HeartbeatReply,
    LogIndex, LogState, Membership, Moment, NodeId, Proposed, Random, Refused, Role, Route, Setup, Sink,
    Term, TimeoutNow, TransferEnd, VoteReply, VoteRequest,
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

/// The first of these voters, new.
fn founded(voters: &[NodeId]) -> (Group, Random) {
    let mut random = Random::new(1);
    let setup = Setup {
        me: voters[0],
        memberships: &[(LogIndex(0), Membership::founding(voters).expect("voters"))],
        hard_state: HardState::default(),
        log: &LogState { first: LogIndex(1), ..LogState::default() },
        applied: LogIndex(0),
        fresh: true,
        preferred_leader: NodeId::NONE,
        ..Setup::default()
    };
    (Group::new(Moment(0), &Config::default(), &mut random, &setup), random)
}

impl Alone {
    pub(crate) fn leading() -> Alone {
        let config = Config::default();
        let (group, random) = founded(&[NodeId(1)]);
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

/// What a group said, as far as somebody asks.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) heartbeats: Vec<(Route, Heartbeat)>,
    /// Whom it told to campaign.
    pub(crate) orders: Vec<Route>,
    pub(crate) confirmed: Vec<(u64, LogIndex)>,
    pub(crate) ended: Vec<(NodeId, TransferEnd)>,
}

impl Sink for Said {
    fn append(&mut self, _to: Route, _message: Append) {}
    fn heartbeat(&mut self, to: Route, message: Heartbeat) {
        self.heartbeats.push((to, message));
    }
    fn heartbeat_reply(&mut self, _to: Route, _message: HeartbeatReply) {}
    fn append_reply(&mut self, _to: Route, _message: AppendReply) {}
    fn vote_request(&mut self, _to: Route, _message: VoteRequest) {}
    fn vote_reply(&mut self, _to: Route, _message: VoteReply) {}
    fn timeout_now(&mut self, to: Route, _message: TimeoutNow) {
        self.orders.push(to);
    }
    fn save_hard_state(&mut self, _state: HardState) {}
    fn append_empty(&mut self, _index: LogIndex, _term: Term, _epoch: u32) {}
    fn append_membership(&mut self, _index: LogIndex, _term: Term, _epoch: u32, _membership: &Membership) {}
    fn own_vote_written(&mut self, _term: Term) {}
    fn committed(&mut self, _commit: LogIndex) {}
    fn reads_confirmed(&mut self, round: u64, index: LogIndex) {
        self.confirmed.push((round, index));
    }
    fn leadership_lost(&mut self, _new_term: Term) {}
    fn role_changed(&mut self, _role: Role, _leader: NodeId, _term: Term) {}
    fn transfer_ended(&mut self, to: NodeId, end: TransferEnd) {
        self.ended.push((to, end));
    }
    fn fit(&mut self, _to: Route, first: LogIndex, last: LogIndex, _bytes_max: u32) -> Fit {
        let count = (last.0 - first.0 + 1) as u32;
        Fit::Ready { count, bytes: count }
    }
}

/// The leader of term 1 among three, with its no-op at index 1 committed; node `n` is behind route `n`.
pub(crate) struct Led {
    pub(crate) group: Group,
    pub(crate) said: Said,
    pub(crate) now: Moment,
    random: Random,
}

impl Led {
    pub(crate) fn of_three() -> Led {
        let (group, random) = founded(&[NodeId(1), NodeId(2), NodeId(3)]);
        let mut led = Led { group, said: Said::default(), now: Moment(0), random };
        led.step(|group, env| {
            for peer in [2, 3] {
                group.on_route(env, NodeId(peer), Route(u64::from(peer)));
                group.on_contact(env, NodeId(peer), true);
            }
            group.campaign(env);
            for pre_vote in [true, false] {
                let reply = VoteReply { pre_vote, granted: true, term: Term(1) };
                group.on_vote_durable(env, Term(1));
                group.on_vote_reply(env, NodeId(2), &reply);
            }
        });
        led.durable(1);
        led.matched(2, 1);
        led.matched(3, 1);
        assert_eq!((led.group.is_leader(), led.group.commit()), (true, LogIndex(1)));
        led.said = Said::default();
        led
    }

    pub(crate) fn step<R>(&mut self, step: impl FnOnce(&mut Group, &mut Env<'_, Said>) -> R) -> R {
        let config = Config::default();
        let Led { group, said, now, random } = self;
        step(group, &mut Env { now: *now, config: &config, random, sink: said })
    }

    pub(crate) fn propose(&mut self) -> Result<Proposed, Refused> {
        self.step(|group, env| group.propose(env, 1, 1))
    }

    pub(crate) fn flush(&mut self) {
        self.step(|group, env| group.flush(env));
    }

    /// Its own copy is durable up to `index`.
    pub(crate) fn durable(&mut self, index: u64) {
        self.step(|group, env| group.on_durable(env, 0, LogIndex(index)));
    }

    /// A peer says that it has everything up to `index`.
    pub(crate) fn matched(&mut self, from: u32, index: u64) {
        let outcome = AppendOutcome::Matched(LogIndex(index));
        let reply = AppendReply { term: Term(1), outcome };
        self.step(|group, env| group.on_append_reply(env, NodeId(from), &reply));
    }

    /// Time passes until the group's deadline.
    pub(crate) fn wait_for_deadline(&mut self) {
        self.now = self.group.next_deadline();
        self.step(|group, env| group.on_deadline(env));
    }
}
