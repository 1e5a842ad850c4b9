//! Random changes of the configuration under random faults: nodes come and go, are learners, voters and again nobody, while
//! messages get lost and nodes crash. After every step the safety properties are checked (`common/checks.rs`, which counts
//! copies by the configuration in force); at the end all faults are lifted, and the members must come together.
//!
//! `LOGDRIVE_SEED=n` runs one seed with its trace, `LOGDRIVE_SEEDS=n` so many.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::changes::any_change;
use common::node::Start;
use common::{Cluster, ms};
use logdrive_shard::{
    Config, Group, HardState, LogIndex, LogState, MemberStep, Members, Membership, MembershipChange, Moment,
    NodeId, Random, Refused, Role, Setup, Term,
};

const STEPS: u32 = 800;

struct Run {
    cluster: Cluster,
    dice: Random,
    nodes: u32,
    calm: u64,
    accepted: u32,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Random::new(seed ^ 0x3e3b);
        let nodes = 3 + dice.below(5) as u32;
        let founders = 1 + dice.below(3) as u32;
        let config = Config {
            pre_vote: dice.below(6) > 0,
            check_quorum: dice.below(4) > 0,
            append_bytes_max: 200,
            inflight_messages_max: 1 + dice.below(5) as u16,
            promotion_lag_max: dice.below(10) as u32,
            ..Config::default()
        };
        let start = Start { fresh: true, voters: (1..=founders).collect(), ..Start::default() };
        let mut cluster = Cluster::dark(nodes, config, seed, &start);
        cluster.connect_all();
        cluster.elect();
        let calm = 1 + dice.below(10);
        Run { cluster, dice, nodes, calm, accepted: 0 }
    }

    fn any_node(&mut self) -> u32 {
        1 + self.dice.below(u64::from(self.nodes)) as u32
    }

    fn live_node(&mut self) -> Option<u32> {
        let id = self.any_node();
        self.cluster.is_up(id).then_some(id)
    }

    fn live_pair(&mut self) -> Option<(u32, u32)> {
        let (a, b) = (self.live_node()?, self.live_node()?);
        (a != b).then_some((a, b))
    }

    /// The leader usually, anybody sometimes.
    fn addressee(&mut self) -> Option<u32> {
        if self.dice.below(8) == 0 { self.live_node() } else { self.cluster.leader() }
    }

    fn step(&mut self) -> Option<()> {
        match self.dice.below(100) {
            0..54 => self.deliver_some(),
            54..72 => {
                let id = self.any_node();
                self.cluster.complete_write(id);
            }
            72..75 => self.pass_time(),
            75..82 => {
                let id = self.addressee()?;
                let count = 1 + self.dice.below(3) as u32;
                let _ = self.cluster.propose(id, count, 1);
            }
            82..84 => {
                let id = self.addressee()?;
                let _ = self.cluster.read(id);
            }
            84..90 => self.change()?,
            90.. if self.dice.below(self.calm) == 0 => self.fault()?,
            _ => {}
        }
        Some(())
    }

    fn change(&mut self) -> Option<()> {
        let id = self.addressee()?;
        let membership = self.cluster.group(id).membership().clone();
        let index = self.cluster.group(id).membership_index();
        let change = any_change(&mut self.dice, self.nodes, &membership, index);
        self.accepted += u32::from(self.cluster.change(id, &change).is_ok());
        Some(())
    }

    fn fault(&mut self) -> Option<()> {
        match self.dice.below(10) {
            0 => {
                let (id, to) = (self.addressee()?, self.any_node());
                let _ = self.cluster.transfer(id, to);
            }
            1 => {
                let id = self.live_node()?;
                self.cluster.plain(id, |group, env| group.campaign(env));
            }
            2 => {
                let id = self.live_node()?;
                let keep = self.dice.below(4) as usize;
                self.cluster.crash(id, keep);
            }
            3..5 => {
                let id = self.any_node();
                if !self.cluster.is_up(id) {
                    self.cluster.restart(id);
                }
            }
            5 => {
                let (a, b) = self.live_pair()?;
                let alive = self.dice.below(3) > 0;
                self.cluster.set_contact_one_way(a, b, alive);
            }
            6 => {
                let id = self.live_node()?;
                self.cluster.plain(id, |group, env| group.flush_commit(env));
            }
            7..9 => {
                let (a, b) = self.live_pair()?;
                if self.dice.below(2) == 0 { self.cluster.cut(a, b) } else { self.cluster.connect(a, b) }
            }
            _ => {
                let sides = self.dice.next_u64();
                let (left, right): (Vec<u32>, Vec<u32>) =
                    (1..=self.nodes).partition(|&id| sides >> id & 1 == 0);
                self.cluster.partition(&[&left, &right]);
            }
        }
        Some(())
    }

    fn deliver_some(&mut self) {
        for _ in 0..=self.dice.below(6) {
            let waiting = self.cluster.network.len() as u64;
            if waiting == 0 {
                return;
            }
            let at = if self.dice.below(3) > 0 { 0 } else { self.dice.below(waiting) as usize };
            let envelope = match self.dice.below(25) {
                0 => return drop(self.cluster.network.remove(at)),
                1 => self.cluster.network[at].clone(),
                _ => self.cluster.network.remove(at),
            };
            self.cluster.hand_over(envelope);
        }
        if self.cluster.network.len() > 200 {
            self.cluster.network.drain(..100);
        }
    }

    fn pass_time(&mut self) {
        if self.dice.below(4) == 0 {
            self.cluster.now = self.cluster.now.after(ms(self.dice.below(500)));
            return;
        }
        if let Some((id, at)) = self.cluster.next_deadline()
            && at.since(self.cluster.now) < ms(60_000)
        {
            self.cluster.fire_deadline(id);
        }
    }

    /// All faults end. The members have everything, a joint configuration that leaves by itself is left, and nobody disturbs.
    fn heal(&mut self) {
        self.cluster.network.clear();
        for id in 1..=self.nodes {
            self.cluster.complete_writes(id);
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
            }
        }
        self.cluster.connect_all();
        self.cluster.elect();
        self.cluster.run_for(ms(40_000));
        let leader = self.cluster.leader().expect("somebody leads");
        self.cluster.propose(leader, 1, 1).expect("a healthy leader accepts proposals");
        self.cluster.stabilize();
        self.cluster.plain(leader, |group, env| group.flush_commit(env));
        let term = self.cluster.group(leader).term();
        self.cluster.run_for(ms(40_000));
        let leader = self.cluster.leader().expect("somebody leads");
        let group = self.cluster.group(leader);
        let (last, membership) = (group.last_index(), group.membership().clone());
        if !self.cluster.config.pre_vote || !self.cluster.config.check_quorum {
            // Removed nodes that were never told may disturb, and do so until they happen to ask the leader.
            return;
        }
        assert!(group.is_leader() && group.term() == term, "nobody disturbs");
        for id in 1..=self.nodes {
            assert_eq!(self.cluster.group(id).next_deadline(), Moment::NEVER, "node {id} is silent");
        }
        assert!(!membership.auto_leave(), "a joint configuration that leaves by itself is left");
        assert!(membership.is_voter(NodeId(leader)));
        for node in membership.members() {
            let group = self.cluster.group(node.0);
            assert_eq!(group.leader(), NodeId(leader), "node {node} follows");
            assert_eq!((group.last_index(), group.applicable()), (last, last), "node {node} has everything");
            assert_eq!(group.membership(), &membership, "node {node} knows the configuration");
        }
        assert!(last > LogIndex(1));
        let stale = MembershipChange { expected: Some(LogIndex(u64::MAX)), ..MembershipChange::leave() };
        let refused = self.cluster.change(leader, &stale);
        assert!(matches!(refused, Err(Refused::MembershipMismatch { .. })));
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.heal();
    }
}

#[test]
fn nodes_come_and_go_under_faults_and_nothing_committed_is_lost() {
    let one = std::env::var("LOGDRIVE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    if let Some(seed) = one {
        let mut run = Run::new(seed);
        run.cluster.tracing = true;
        let result = catch_unwind(AssertUnwindSafe(|| run.run()));
        for line in &run.cluster.trace {
            println!("{line}");
        }
        for (id, node) in &run.cluster.nodes {
            println!("{id}: {:?}", node.group.as_ref().map(|group| group.report()));
        }
        return result.unwrap();
    }
    let seeds = std::env::var("LOGDRIVE_SEEDS").map_or(1_000, |seeds| seeds.parse().unwrap());
    let mut accepted = 0;
    for seed in 0..seeds {
        let mut run = Run::new(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run.run())) {
            eprintln!("seed {seed} fails: LOGDRIVE_SEED={seed} cargo test -p logdrive-shard --test members");
            std::panic::resume_unwind(panic);
        }
        accepted += run.accepted;
    }
    println!("{seeds} runs, {accepted} changes");
    assert!(u64::from(accepted) > seeds, "changes happen");
}

fn voters(ids: &[u32]) -> Membership {
    Membership::founding(&ids.iter().copied().map(NodeId).collect::<Vec<_>>()).unwrap()
}

/// A group whose log begins at 6, behind a snapshot, and ends at 9.
fn recovered(memberships: &[(LogIndex, Membership)], commit: u64) -> Group {
    let term_runs = vec![(LogIndex(6), Term(2))];
    let log = LogState { first: LogIndex(6), last: LogIndex(9), prev_term: Term(1), term_runs };
    let hard_state =
        HardState { term: Term(2), vote: NodeId::NONE, commit: LogIndex(commit), ..HardState::default() };
    let setup = Setup {
        me: NodeId(1),
        memberships,
        hard_state,
        log: &log,
        applied: LogIndex(5),
        fresh: false,
        preferred_leader: NodeId::NONE,
        ..Setup::default()
    };
    Group::new(Moment(0), &Config::default(), &mut Random::new(1), &setup)
}

/// FIELD 9: a snapshot without its configuration.
#[test]
fn the_configuration_of_a_snapshot_is_in_force_until_the_log_has_another() {
    let of_snapshot = (LogIndex(3), voters(&[1, 2, 3]));
    let group = recovered(std::slice::from_ref(&of_snapshot), 5);
    assert_eq!((group.membership(), group.membership_index()), (&of_snapshot.1, LogIndex(3)));
    assert!(group.membership_is_settled());
    let nodes: Vec<NodeId> = group.report().peers.iter().map(|peer| peer.node).collect();
    assert_eq!(nodes, [NodeId(2), NodeId(3)]);

    let in_log = (LogIndex(8), voters(&[1, 2, 3, 4]));
    let group = recovered(&[of_snapshot.clone(), in_log.clone()], 5);
    assert_eq!((group.membership(), group.membership_index()), (&in_log.1, LogIndex(8)));
    assert!(!group.membership_is_settled(), "8 is not known to be committed");
    let group = recovered(&[of_snapshot, in_log], 8);
    assert!(group.membership_is_settled());
}

#[test]
#[should_panic(expected = "a configuration of index 10 behind the log's last 9")]
fn a_configuration_behind_the_log_is_not_built_upon() {
    recovered(&[(LogIndex(10), voters(&[1]))], 5);
}

/// The founding configuration of nine, the most there can be; nine more cannot join it.
#[test]
fn nine_voters_elect_commit_and_are_the_most_there_can_be() {
    let mut cluster = Cluster::new(9, Config::default(), 1);
    let leader = cluster.elect();
    let others: Vec<u32> = cluster.ids().into_iter().filter(|&id| id != leader).collect();
    for &id in &others[..4] {
        cluster.crash(id, 0);
    }
    let proposed = cluster.propose(leader, 1, 1).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.group(leader).commit(), proposed.first, "by five of nine");
    let tenth = MembershipChange::of(&[MemberStep::AddVoter(NodeId(10))]);
    let refused = cluster.change(leader, &tenth).unwrap_err();
    assert_eq!(refused.to_string(), "10 voters and 10 members would be more than 9 and 14");
    cluster.crash(others[4], 0);
    assert_eq!(cluster.group(leader).role(), Role::Follower, "four of nine lead nothing");
    let nine: Vec<NodeId> = (1..=9).map(NodeId).collect();
    assert!(Membership::new(Members { voters: nine, ..Members::default() }).is_ok());
}
