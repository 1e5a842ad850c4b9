//! What production code is made to do less of, or sooner, than it would: [`logdrive_wal::Buggify`] with the seed behind it.
//!
//! Each run draws which places strike, and how often; each core of each boot has a stream of random numbers of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use logdrive_shard::Random;
use logdrive_wal::Point;

use super::plan::Plan;
use super::random::{Purpose, chance, stream};
use super::world::Counts;

/// The place that traps make strike.
const CACHE_EMPTIED: &str = "cached entries given up";

/// The places, as production code names them and as the summary does, and one in how many times they strike, mostly.
pub const PLACES: [(&str, &str, u64); 8] = [
    ("log batches cut short", "buggify: log batches cut short", 3),
    ("replication windows of one", "buggify: replication windows of one", 2),
    ("appends of one entry", "buggify: appends of one entry", 2),
    ("early election timeouts", "buggify: early election timeouts", 4),
    ("slices of snapshots of one byte", "buggify: slices of snapshots of one byte", 4),
    (CACHE_EMPTIED, "buggify: cached entries given up", 6),
    ("one entry applied in a turn", "buggify: one entry applied in a turn", 2),
    ("one part of a snapshot in a turn", "buggify: one part of a snapshot in a turn", 2),
];

/// What all cores of a run have in common.
#[derive(Debug)]
pub struct Whims {
    seed: u64,
    /// By place: it strikes one in so many times; 0: never.
    one_in: [u64; PLACES.len()],
    is_on: Cell<bool>,
    /// Cores whose caches give up what they hold in every turn, as bits.
    forgetful: Cell<u64>,
    struck: RefCell<[u64; PLACES.len()]>,
}

impl Whims {
    /// Of a run: in one of three nothing strikes, in the others about half of the places do.
    pub fn of(plan: &Plan, are_wanted: bool) -> Rc<Whims> {
        let mut random = stream(plan.seed, Purpose::Buggify, 0);
        let quiet = chance(&mut random, 3) || !are_wanted;
        let one_in = PLACES.map(|(.., mostly)| match random.below(6) {
            _ if quiet => 0,
            0 | 1 => mostly,
            2 => 10 * mostly,
            _ => 0,
        });
        let struck = RefCell::new([0; PLACES.len()]);
        Rc::new(Whims { seed: plan.seed, one_in, is_on: Cell::new(true), forgetful: Cell::new(0), struck })
    }

    /// Those of a core in one of its boots.
    pub(super) fn of_core(whims: &Rc<Whims>, core: usize, boot: u64) -> CoreWhims {
        let random = stream(whims.seed, Purpose::Buggify, 1 + ((core as u64) << 32 | boot));
        CoreWhims { whims: Rc::clone(whims), core, random }
    }

    /// From now on nothing strikes.
    pub(super) fn end(&self) {
        self.is_on.set(false);
        self.forgetful.set(0);
    }

    /// From now on the caches of these cores, and of no others, keep nothing.
    pub(super) fn empty_caches(&self, cores: impl Iterator<Item = usize>) {
        self.forgetful.set(cores.fold(0, |bits, core| bits | 1 << core));
    }

    /// Adds what struck to the paths that were reached.
    pub(super) fn count(&self, reached: &mut Counts) {
        for ((_, name, _), &count) in PLACES.iter().zip(self.struck.borrow().iter()) {
            if count > 0 {
                *reached.entry(name).or_default() += count;
            }
        }
    }
}

/// Those of one core.
#[derive(Debug)]
pub struct CoreWhims {
    whims: Rc<Whims>,
    core: usize,
    random: Random,
}

impl CoreWhims {
    pub(super) fn strikes(&mut self, point: Point) -> bool {
        let Some(place) = PLACES.iter().position(|(name, ..)| *name == point.0) else { return false };
        let one_in = self.whims.one_in[place];
        if PLACES[place].0 == CACHE_EMPTIED && self.whims.forgetful.get() >> self.core & 1 == 1 {
            // Nothing is drawn: whatever else strikes stays as it is.
            self.whims.struck.borrow_mut()[place] += 1;
            return true;
        }
        if one_in == 0 || !self.whims.is_on.get() || !chance(&mut self.random, one_in) {
            return false;
        }
        self.whims.struck.borrow_mut()[place] += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::plan::Profile;

    #[test]
    fn a_place_that_is_insisted_on_strikes_every_time_where_it_is() {
        let whims = Whims::of(&Plan::new(Profile::Swarm, 1), false);
        let mut cores = [3, 4].map(|core| Whims::of_core(&whims, core, 1));
        let mut strikes = || cores.each_mut().map(|core| core.strikes(Point(CACHE_EMPTIED)));
        assert_eq!(strikes(), [false, false]);
        whims.empty_caches(4..6);
        assert_eq!(strikes(), [false, true]);
        whims.empty_caches(0..0);
        assert_eq!(strikes(), [false, false]);
    }

    #[test]
    fn places_strike_in_some_runs_by_the_seed_alone_and_never_when_the_troubles_have_ended() {
        let strikes = |seed: u64| {
            let whims = Whims::of(&Plan::new(Profile::Swarm, seed), true);
            let mut core = Whims::of_core(&whims, 1, 1);
            let mut drawn: Vec<bool> = Vec::new();
            for (name, ..) in PLACES {
                drawn.extend((0..100).map(|_| core.strikes(Point(name))));
            }
            whims.end();
            assert!(!PLACES.iter().any(|(name, ..)| (0..100).any(|_| core.strikes(Point(name)))));
            let mut counts = Counts::new();
            whims.count(&mut counts);
            let struck = drawn.iter().filter(|struck| **struck).count() as u64;
            assert_eq!(counts.values().sum::<u64>(), struck);
            (drawn, counts)
        };
        let mut met = Counts::new();
        let mut quiet = 0;
        for seed in 0..40 {
            assert_eq!(strikes(seed), strikes(seed));
            let counts = strikes(seed).1;
            quiet += u32::from(counts.is_empty());
            met.extend(counts);
        }
        assert_eq!(met.len(), PLACES.len(), "{met:?}");
        assert!((4..30).contains(&quiet), "{quiet} of 40 without");
    }
}
