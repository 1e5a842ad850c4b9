//! Peers' bytes are the outside: whatever a message says, in whatever state, no assertion trips.

use logdrive_shard::{
    Append, AppendOutcome, AppendReply, Config, Env, Fit, Group, HardState, Heartbeat, HeartbeatReply,
    LogIndex, LogState, MemberStep, Members, Membership, MembershipChange, Moment, NodeId, Random, Role,
    Route, Setup, Sink, SnapshotStatus, Term, TimeoutNow, Transition, VoteReply, VoteRequest,
};
use proptest::prelude::*;

/// Takes everything, remembers what is needed to complete writes.
#[derive(Default)]
struct Void {
    vote: Option<Term>,
}

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
    fn own_vote_written(&mut self, term: Term) {
        self.vote = Some(term);
    }
    fn committed(&mut self, _commit: LogIndex) {}
    fn reads_confirmed(&mut self, _round: u64, _index: LogIndex) {}
    fn leadership_lost(&mut self, _new_term: Term) {}
    fn role_changed(&mut self, _role: Role, _leader: NodeId, _term: Term) {}
    fn fit(&mut self, _to: Route, first: LogIndex, last: LogIndex, bytes_max: u32) -> Fit {
        match bytes_max {
            0 => Fit::Loading,
            _ => Fit::Ready { count: 1 + ((last.0 - first.0) / 2) as u32, bytes: 100 },
        }
    }
}

#[derive(Clone, Debug)]
enum Input {
    Append(u32, Append, Option<(LogIndex, Membership)>),
    AppendReply(u32, AppendReply),
    Heartbeat(u32, Heartbeat),
    HeartbeatReply(u32, HeartbeatReply),
    VoteRequest(u32, VoteRequest),
    VoteReply(u32, VoteReply),
    TimeoutNow(u32, TimeoutNow),
    // What an honest world does in between, so that all states are reached.
    Campaign,
    VotesAndDisk,
    Propose(u32),
    Read,
    Transfer(u32),
    Change(MembershipChange),
    Contact(u32, bool),
    Reroute(u32),
    Deadline,
    Flush,
    Compact,
    Snapshot(u32, Option<u64>),
}

/// Numbers around the real ones, and the ends of the range.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..8u64, 2 => 0..40u64, 1 => Just(u64::MAX), 1 => Just((1 << 62) - 1), 1 => any::<u64>()]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..6u32, 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

fn index() -> impl Strategy<Value = LogIndex> {
    number().prop_map(LogIndex)
}

fn node() -> impl Strategy<Value = u32> {
    0..7u32
}

/// A configuration of some of the nodes, joint or not; this node need not be in it.
fn membership() -> impl Strategy<Value = Membership> {
    let kinds = prop::collection::vec(0..7u8, 7);
    (kinds, any::<bool>()).prop_filter_map("contradicts itself", |(kinds, auto_leave)| {
        let mut members = Members { auto_leave, ..Members::default() };
        for (node, kind) in (1..).map(NodeId).zip(kinds) {
            match kind {
                0 => {}
                1 => members.learners.push(node),
                2 => members.outgoing.push(node),
                3 => {
                    members.voters.push(node);
                    members.outgoing.push(node);
                }
                _ => members.voters.push(node),
            }
        }
        members.auto_leave &= !members.outgoing.is_empty();
        Membership::new(members).ok()
    })
}

fn change() -> impl Strategy<Value = MembershipChange> {
    let step = (node(), 0..5u8).prop_map(|(node, kind)| {
        let node = NodeId(node);
        match kind {
            0 => MemberStep::AddLearner(node),
            1 => MemberStep::AddVoter(node),
            2 => MemberStep::Promote(node),
            3 => MemberStep::Demote(node),
            _ => MemberStep::Remove(node),
        }
    });
    let transition =
        prop::sample::select(vec![Transition::Auto, Transition::Joint, Transition::JointUntilLeft]);
    (prop::collection::vec(step, 0..4), transition, any::<bool>()).prop_map(
        |(steps, transition, even_if_behind)| MembershipChange {
            expected: None,
            steps,
            transition,
            even_if_behind,
        },
    )
}

fn messages() -> impl Strategy<Value = Input> {
    let configuration = prop::option::weighted(0.2, (index(), membership()));
    let append = (node(), term(), index(), term(), term(), count(), index(), configuration).prop_map(
        |(from, term, prev_index, prev_term, entry_term, count, commit, configuration)| {
            let append = Append { term, prev_index, prev_term, entry_term, count, commit };
            Input::Append(from, append, configuration)
        },
    );
    let outcome = prop_oneof![
        index().prop_map(AppendOutcome::Matched),
        (index(), index(), term()).prop_map(|(prev_index, hint_index, hint_term)| {
            AppendOutcome::Rejected { prev_index, hint_index, hint_term }
        }),
    ];
    prop_oneof![
        4 => append,
        4 => (node(), term(), outcome).prop_map(|(from, term, outcome)| {
            Input::AppendReply(from, AppendReply { term, outcome })
        }),
        2 => (node(), term(), index(), number()).prop_map(|(from, term, commit, round)| {
            Input::Heartbeat(from, Heartbeat { term, commit, round })
        }),
        1 => (node(), term(), number())
            .prop_map(|(from, term, round)| Input::HeartbeatReply(from, HeartbeatReply { term, round })),
        2 => (node(), any::<bool>(), any::<bool>(), term(), index(), term()).prop_map(
            |(from, pre_vote, transfer, term, last_index, last_term)| {
                Input::VoteRequest(from, VoteRequest { pre_vote, transfer, term, last_index, last_term })
            }
        ),
        2 => (node(), any::<bool>(), any::<bool>(), term()).prop_map(|(from, pre_vote, granted, term)| {
            Input::VoteReply(from, VoteReply { pre_vote, granted, term })
        }),
        1 => (node(), term()).prop_map(|(from, term)| Input::TimeoutNow(from, TimeoutNow { term })),
    ]
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        10 => messages(),
        1 => Just(Input::Campaign),
        3 => Just(Input::VotesAndDisk),
        2 => (1..5u32).prop_map(Input::Propose),
        1 => Just(Input::Read),
        1 => node().prop_map(Input::Transfer),
        2 => change().prop_map(Input::Change),
        1 => (node(), prop::bool::weighted(0.8)).prop_map(|(peer, alive)| Input::Contact(peer, alive)),
        1 => node().prop_map(Input::Reroute),
        1 => Just(Input::Deadline),
        1 => Just(Input::Flush),
        1 => Just(Input::Compact),
        1 => (node(), prop::option::of(number())).prop_map(|(peer, index)| Input::Snapshot(peer, index)),
    ]
}

struct Subject {
    group: Group,
    sink: Void,
    config: Config,
    random: Random,
    now: Moment,
    routes: u64,
}

impl Subject {
    fn new(voters: u32, config: Config) -> Subject {
        let voters: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        let term_runs = vec![(LogIndex(3), Term(1)), (LogIndex(5), Term(3))];
        let log = LogState { first: LogIndex(3), last: LogIndex(6), prev_term: Term(1), term_runs };
        let mut random = Random::new(1);
        let setup = Setup {
            me: NodeId(1),
            memberships: &[(LogIndex(0), Membership::founding(&voters).expect("up to six voters"))],
            hard_state: HardState {
                term: Term(3),
                vote: NodeId::NONE,
                commit: LogIndex(4),
                ..HardState::default()
            },
            log: &log,
            applied: LogIndex(3),
            fresh: true,
            preferred_leader: NodeId(2),
            ..Setup::default()
        };
        let group = Group::new(Moment(0), &config, &mut random, &setup);
        let mut subject = Subject { group, sink: Void::default(), config, random, now: Moment(0), routes: 0 };
        for &peer in &voters[1..] {
            subject.apply(&Input::Reroute(peer.0));
            subject.apply(&Input::Contact(peer.0, true));
        }
        subject
    }

    fn apply(&mut self, input: &Input) {
        let Subject { group, sink, config, random, now, routes } = self;
        let mut env = Env { now: *now, config, random, sink };
        let env = &mut env;
        match input {
            Input::Append(from, message, configuration) => {
                let _ = group.on_append(env, NodeId(*from), message, configuration.as_slice());
            }
            Input::Change(change) => {
                let _ = group.change_membership(env, change);
                group.flush(env);
            }
            Input::AppendReply(from, message) => group.on_append_reply(env, NodeId(*from), message),
            Input::Heartbeat(from, message) => group.on_heartbeat(env, NodeId(*from), message),
            Input::HeartbeatReply(from, message) => group.on_heartbeat_reply(env, NodeId(*from), message),
            Input::VoteRequest(from, message) => group.on_vote_request(env, NodeId(*from), message),
            Input::VoteReply(from, message) => group.on_vote_reply(env, NodeId(*from), message),
            Input::TimeoutNow(from, message) => group.on_timeout_now(env, NodeId(*from), message),
            Input::Campaign => group.campaign(env),
            Input::VotesAndDisk => {
                let term = group.term();
                for peer in 2..7 {
                    let pre_vote = group.role() == Role::PreCandidate;
                    let asked = if pre_vote { Term(term.0 + 1) } else { group.term() };
                    group.on_vote_reply(
                        env,
                        NodeId(peer),
                        &VoteReply { pre_vote, granted: true, term: asked },
                    );
                }
                if let Some(term) = env.sink.vote.take() {
                    group.on_vote_durable(env, term);
                }
                let last = group.last_index();
                group.on_durable(env, group.epoch(), last);
            }
            Input::Propose(count) => {
                let _ = group.propose(env, *count, 100);
                group.flush(env);
            }
            Input::Read => {
                let _ = group.read_index(env);
                group.flush(env);
            }
            Input::Transfer(to) => drop(group.transfer_leadership(env, NodeId(*to))),
            Input::Contact(peer, alive) => group.on_contact(env, NodeId(*peer), *alive),
            Input::Reroute(peer) => {
                *routes += 1;
                group.on_route(env, NodeId(*peer), Route(*routes));
            }
            Input::Deadline => {
                if group.next_deadline() != Moment::NEVER {
                    env.now = env.now.max(group.next_deadline());
                    *now = env.now;
                    group.on_deadline(env);
                }
            }
            Input::Flush => {
                group.flush_commit(env);
                group.on_entries_loaded(env);
            }
            Input::Compact => {
                let index = group.applicable();
                if index >= group.first_index() {
                    group.compacted(index);
                }
            }
            Input::Snapshot(peer, index) => {
                group.on_snapshot_report(
                    env,
                    NodeId(*peer),
                    index.map_or(SnapshotStatus::Failed, |index| SnapshotStatus::Installed(LogIndex(index))),
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_trips_an_assertion(
        voters in 1..=6u32,
        check_quorum: bool,
        pre_vote: bool,
        append_bytes_max in prop_oneof![Just(0u32), Just(1000)],
        inputs in prop::collection::vec(inputs(), 1..80),
    ) {
        let config = Config { check_quorum, pre_vote, append_bytes_max, inflight_messages_max: 4, ..Config::default() };
        let mut subject = Subject::new(voters, config);
        for input in &inputs {
            let (term, commit) = (subject.group.term(), subject.group.commit());
            subject.apply(input);
            let group = &subject.group;
            prop_assert!(group.term() >= term && group.commit() >= commit);
            prop_assert!(group.commit() <= group.last_index() && group.durable() <= group.last_index());
            prop_assert!(group.term_at(group.last_index()) <= Some(group.term()));
            let report = group.report();
            prop_assert!(report.role != Role::Leader || report.peers.iter().all(|peer| peer.matched < peer.next));
        }
    }
}
