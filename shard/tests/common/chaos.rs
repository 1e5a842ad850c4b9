//! Everything that can happen to a cluster, in any order, from a seed: for random runs of all kinds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use logdrive_shard::{Config, LogIndex, Moment, NodeId, Random};

use super::changes::may_be_damaged;
use super::node::{Clock, Start};
use super::{Cluster, ms};

/// Small windows and limits, so that all of them are hit.
fn tight(random: &mut Random) -> Config {
    Config {
        pre_vote: random.below(4) > 0,
        check_quorum: random.below(4) > 0,
        append_bytes_max: 30,
        inflight_messages_max: 1 + random.below(5) as u16,
        inflight_bytes_max: 100,
        uncommitted_entries_max: 20,
        uncommitted_bytes_max: 200,
        ..Config::default()
    }
}

pub struct Chaos {
    pub cluster: Cluster,
    /// The test's own dice, so that its choices do not depend on how many numbers the groups draw.
    pub dice: Random,
    pub nodes: u32,
    /// One fault in so many occasions for one.
    calm: u64,
    /// Changes of the configuration that a leader accepted.
    pub changes: u64,
    /// Disks that were damaged.
    pub damages: u64,
    /// Reads served under a lease.
    pub leases: u64,
    /// Snapshots that were taken.
    pub taken: u64,
}

/// What clients do when it is their turn.
pub type Clients<'a> = &'a mut dyn FnMut(&mut Chaos) -> Option<()>;

impl Chaos {
    pub fn new(seed: u64) -> Chaos {
        let mut dice = Random::new(seed ^ 0x5eed);
        let nodes = [3, 3, 5, 2, 4, 7][dice.below(6) as usize];
        let start = Start { fresh: dice.below(2) == 0, preferred: dice.below(3) as u32, ..Start::default() };
        let mut cluster = Cluster::dark(nodes, tight(&mut dice), seed, &start);
        cluster.connect_all();
        if dice.below(2) == 0 {
            cluster.elect();
        }
        let calm = 1 + dice.below(12);
        Chaos { cluster, dice, nodes, calm, changes: 0, damages: 0, leases: 0, taken: 0 }
    }

    /// Three to seven nodes with everything at once: a few of them found the group, some are wanted more as the leader, clocks go
    /// as differently as they may, and they disagree whether pre-vote and check-quorum are on.
    pub fn with_everything(seed: u64) -> Chaos {
        let mut dice = Random::new(seed ^ 0xa11);
        let nodes = 3 + dice.below(5) as u32;
        let founders = 1 + dice.below(u64::from(nodes)).max(dice.below(u64::from(nodes))) as u32;
        let start = Start {
            fresh: dice.below(2) == 0,
            preferred: dice.below(u64::from(nodes) + 1) as u32,
            priorities: (1..=nodes).map(|id| (id, dice.below(3) as u8)).collect(),
            voters: (1..=founders).collect(),
            ..Start::default()
        };
        let config = Config { promotion_lag_max: dice.below(10) as u32, ..tight(&mut dice) };
        let mut cluster = Cluster::dark(nodes, config, seed, &start);
        let drift = u64::from(cluster.config.clock_drift_permille);
        for id in 1..=nodes {
            let permille = 1_000 - drift / 2 + dice.below(drift / 2 * 2 + 1);
            let (pre_vote, check_quorum) = (dice.below(4) > 0, dice.below(4) > 0);
            let settings = Config { pre_vote, check_quorum, ..cluster.config.clone() };
            cluster.replace(id, settings, Clock { permille, offset: dice.below(1 << 34) }, start.fresh);
        }
        cluster.connect_all();
        if dice.below(2) == 0 {
            cluster.elect();
        }
        let calm = 1 + dice.below(12);
        Chaos { cluster, dice, nodes, calm, changes: 0, damages: 0, leases: 0, taken: 0 }
    }

    /// Three to seven nodes of which a few found the group: for runs in which they come and go.
    pub fn with_few_founders(seed: u64) -> Chaos {
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
        Chaos { cluster, dice, nodes, calm, changes: 0, damages: 0, leases: 0, taken: 0 }
    }

    pub fn any_node(&mut self) -> u32 {
        1 + self.dice.below(u64::from(self.nodes)) as u32
    }

    pub fn live_node(&mut self) -> Option<u32> {
        let id = self.any_node();
        self.cluster.is_up(id).then_some(id)
    }

    pub fn live_pair(&mut self) -> Option<(u32, u32)> {
        let (a, b) = (self.live_node()?, self.live_node()?);
        (a != b).then_some((a, b))
    }

    /// The leader usually, anybody sometimes.
    pub fn addressee(&mut self) -> Option<u32> {
        if self.dice.below(8) == 0 { self.live_node() } else { self.cluster.leader() }
    }

    /// Something happens: a fault sometimes, the clients' turn sometimes.
    pub fn step(&mut self, clients: Clients<'_>) -> Option<()> {
        match self.dice.below(100) {
            0..50 => self.deliver_some(),
            50..64 => {
                let id = self.any_node();
                self.cluster.complete_write(id);
            }
            64..69 => self.pass_time(),
            69..81 => clients(self)?,
            81..83 => self.pulses(),
            83..85 => self.snapshots()?,
            85 => {
                self.cluster.load_all();
                self.snapshots()?;
            }
            86.. if self.dice.below(self.calm) == 0 => self.fault()?,
            _ => {}
        }
        Some(())
    }

    /// A pulse between two nodes in contact, and its answer, now or later.
    fn pulses(&mut self) {
        let (from, to) = (self.any_node(), self.any_node());
        match self.dice.below(4) {
            0 => self.cluster.pulse_all(),
            1 => self.cluster.answer(from, to),
            _ if self.cluster.is_up(from) && self.cluster.nodes[&from].in_contact(to) => {
                self.cluster.pulse(from, to);
                if self.dice.below(2) == 0 {
                    self.cluster.answer(to, from);
                }
            }
            _ => {}
        }
    }

    fn fault(&mut self) -> Option<()> {
        match self.dice.below(17) + 86 {
            86 => {
                let (id, to) = (self.addressee()?, self.any_node());
                let _ = self.cluster.transfer(id, to);
            }
            87..89 => {
                let id = self.live_node()?;
                self.cluster.plain(id, |group, env| group.flush_commit(env));
            }
            89 => {
                let id = self.live_node()?;
                self.cluster.plain(id, |group, env| group.campaign(env));
            }
            90 => {
                let id = self.live_node()?;
                let keep = self.dice.below(4) as usize;
                if self.dice.below(3) == 0 {
                    self.cluster.crash_unnoticed(id, keep);
                    self.maybe_damage(id);
                    self.cluster.restart(id);
                } else {
                    self.cluster.crash(id, keep);
                }
            }
            91..93 => {
                let id = self.any_node();
                if !self.cluster.is_up(id) {
                    self.maybe_damage(id);
                    self.cluster.restart(id);
                }
            }
            93 => {
                let (a, b) = self.live_pair()?;
                let alive = self.dice.below(3) > 0;
                self.cluster.set_contact(a, b, alive);
            }
            94 => {
                let (a, b) = self.live_pair()?;
                let alive = self.dice.below(3) > 0;
                self.cluster.set_contact_one_way(a, b, alive);
            }
            95..97 => {
                let (a, b) = self.live_pair()?;
                if self.dice.below(2) == 0 { self.cluster.cut(a, b) } else { self.cluster.connect(a, b) }
            }
            97 => {
                // A new connection, while old messages still arrive.
                let (a, b) = self.live_pair()?;
                let old = self.cluster.network.clone();
                self.cluster.reroute(a, b);
                let new = self.cluster.network.split_off(0);
                self.cluster.network = old.into_iter().chain(new).collect();
            }
            98 => {
                let id = self.any_node();
                let node = self.cluster.nodes.get_mut(&id)?;
                node.cold_below = node.log.len() as u64;
            }
            100 => self.repair(),
            102 => self.lose_or_find_entries()?,
            _ => {
                let sides = self.dice.next_u64();
                let (left, right): (Vec<u32>, Vec<u32>) =
                    (1..=self.nodes).partition(|&id| sides >> id & 1 == 0);
                self.cluster.partition(&[&left, &right]);
            }
        }
        Some(())
    }

    /// The highest term that anybody is in.
    pub fn highest_term(&self) -> u64 {
        let up = self.cluster.nodes.values().filter_map(|node| node.group.as_ref());
        up.map(|group| group.term().0).max().unwrap_or(0)
    }

    /// A node fails, perhaps with its disk, and is back at once.
    pub fn fail_and_return(&mut self) -> Option<()> {
        let id = self.live_node()?;
        let keep = self.dice.below(4) as usize;
        self.cluster.crash_unnoticed(id, keep);
        self.maybe_damage(id);
        self.cluster.restart(id);
        Some(())
    }

    /// Now and then a disk has lost what it had made durable. One at a time: with two, what both of three had is nowhere any more.
    fn maybe_damage(&mut self, id: u32) {
        if self.dice.below(3) > 0 {
            return;
        }
        if !may_be_damaged(&self.cluster, id) {
            return;
        }
        let disk = &mut self.cluster.nodes.get_mut(&id).expect("a node of the cluster").disk;
        let keep = self.dice.below(disk.log.len() as u64 + 1) as usize;
        let back = (self.dice.below(2) == 0).then(|| self.dice.below(3) as usize);
        if back.is_some() {
            self.cluster.checks.forget_own_votes(id);
        }
        self.damages += 1;
        disk.damage(keep, self.dice.below(2) == 0, back);
    }

    /// A disk loses entries of a log while the node runs, or they are put back.
    fn lose_or_find_entries(&mut self) -> Option<()> {
        let id = self.live_node()?;
        let below = match self.cluster.nodes[&id].lost_below {
            0 if self.dice.below(3) == 0 => 1 + self.dice.below(self.cluster.nodes[&id].log.len() as u64 + 1),
            _ => 0,
        };
        self.cluster.set_unreadable(id, below);
        Some(())
    }

    /// A better hour: everybody is up and connected, for now.
    fn repair(&mut self) {
        for id in 1..=self.nodes {
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
            }
            self.cluster.set_unreadable(id, 0);
        }
        let is_cut =
            |cluster: &Cluster, a, b| !cluster.nodes[&a].in_contact(b) || !cluster.nodes[&b].in_contact(a);
        for (a, b) in (1..=self.nodes).flat_map(|a| (a + 1..=self.nodes).map(move |b| (a, b))) {
            if is_cut(&self.cluster, a, b) {
                self.cluster.connect(a, b);
            }
        }
    }

    fn deliver_some(&mut self) {
        for _ in 0..=self.dice.below(4) {
            self.deliver_one();
        }
    }

    fn deliver_one(&mut self) {
        let waiting = self.cluster.network.len() as u64;
        if waiting == 0 {
            return;
        }
        // The oldest usually; any other one is a reordering.
        let at = if self.dice.below(3) > 0 { 0 } else { self.dice.below(waiting) as usize };
        let envelope = match self.dice.below(20) {
            0 => return drop(self.cluster.network.remove(at)),
            1 => self.cluster.network[at].clone(),
            _ => self.cluster.network.remove(at),
        };
        self.cluster.hand_over(envelope);
        if self.cluster.network.len() > 200 {
            self.cluster.network.drain(..100);
        }
    }

    fn pass_time(&mut self) {
        if self.dice.below(4) == 0 {
            self.cluster.now = self.cluster.now.after(ms(self.dice.below(500)));
            return;
        }
        let Some((id, at)) = self.cluster.next_deadline() else { return };
        if at.since(self.cluster.now) < ms(60_000) {
            self.cluster.fire_deadline(id);
        }
    }

    /// All faults end.
    pub fn mend(&mut self) {
        self.cluster.network.clear();
        self.cluster.serving = true;
        for id in 1..=self.nodes {
            self.cluster.complete_writes(id);
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
            }
            self.cluster.set_unreadable(id, 0);
        }
        self.cluster.connect_all();
    }

    /// All faults end. Everything proposed and still in a leader's log is committed everywhere, and silence returns.
    pub fn heal(&mut self) {
        self.mend();
        let leader = self.cluster.elect();
        // A transfer or a late campaign may still be under way.
        self.cluster.run_for(ms(20_000));
        let leader = self.cluster.leader().unwrap_or(leader);
        self.cluster.propose(leader, 1, 1).expect("a healthy leader accepts proposals");
        let round = self.cluster.read(leader).expect("and reads");
        self.cluster.stabilize();
        assert!(
            self.cluster.nodes[&leader].reads_confirmed.iter().any(|r| r.0 >= round),
            "the read is confirmed"
        );
        self.cluster.plain(leader, |group, env| group.flush_commit(env));
        self.cluster.run_for(ms(20_000));
        let last = self.cluster.group(leader).last_index();
        for id in 1..=self.nodes {
            let group = self.cluster.group(id);
            assert_eq!(group.leader(), NodeId(leader), "node {id} follows");
            assert_eq!((group.last_index(), group.applicable()), (last, last), "node {id} has everything");
            assert_eq!(group.next_deadline(), Moment::NEVER, "node {id} is silent");
            assert_eq!(group.refused_messages(), 0, "no correct member's message is refused");
            assert!(last > LogIndex(1));
        }
    }
}

/// Runs a test for many seeds, or for the one in `LOGDRIVE_SEED` with its trace; `LOGDRIVE_SEEDS` says how many.
///
/// # Panics
/// If the test does, after the seed was printed.
pub fn for_seeds(name: &str, default: u64, test: impl FnMut(&mut Chaos)) {
    for_seeds_of(Chaos::new, name, default, test);
}

/// The same for runs that begin otherwise.
///
/// # Panics
/// If the test does, after the seed was printed.
pub fn for_seeds_of(new: fn(u64) -> Chaos, name: &str, default: u64, mut test: impl FnMut(&mut Chaos)) {
    if let Ok(seed) = std::env::var("LOGDRIVE_SEED") {
        let mut chaos = new(seed.parse().expect("LOGDRIVE_SEED is a number"));
        chaos.cluster.tracing = true;
        let result = catch_unwind(AssertUnwindSafe(|| test(&mut chaos)));
        for line in &chaos.cluster.trace {
            println!("{line}");
        }
        for (id, node) in &chaos.cluster.nodes {
            println!("{id}: {:?}", node.group.as_ref().map(|group| group.report()));
        }
        return result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    let seeds = std::env::var("LOGDRIVE_SEEDS").map_or(default, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&mut new(seed)))) {
            eprintln!("seed {seed} fails: LOGDRIVE_SEED={seed} cargo test -p logdrive-shard --test {name}");
            std::panic::resume_unwind(panic);
        }
    }
}
