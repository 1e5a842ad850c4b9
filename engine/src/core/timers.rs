//! The timer wheel of a core: one armed deadline per slot, about a millisecond of resolution.
//!
//! Deadlines in Raft are nearly always pushed back before they pass. The wheel is therefore lazy: arming a slot that is
//! armed for an earlier moment does nothing. When that earlier moment passes, the slot is reported and disarmed, and its owner,
//! who knows the true deadline, arms it again. A heartbeat thus costs no work here.
//!
//! Hashed wheel (Varghese and Lauck, SOSP 1987, scheme 6): a deadline lies in the bucket of its tick modulo the number of
//! buckets; those of later rotations stay where they are when the hand passes. A bitmap of two levels finds the next
//! bucket that is not empty in constant time. Nothing is allocated after `new`.

use logdrive_shard::Moment;

/// A tick is 2^20 ns, 1.05 ms.
const TICK_SHIFT: u32 = 20;
/// Buckets: one rotation is 4.3 s. 64 words of 64 bits, so that one word summarises them.
const BUCKETS: usize = 64 * 64;
const NIL: u32 = u32::MAX;
const DISARMED: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Node {
    /// When it is due, in ticks; [`DISARMED`] if it is in no list.
    tick: u64,
    previous: u32,
    next: u32,
}

/// See the module.
pub struct TimerWheel {
    /// Ticks up to here have been looked at.
    hand: u64,
    nodes: Vec<Node>,
    heads: Vec<u32>,
    /// Bit per bucket: not empty.
    occupied: [u64; 64],
    /// Bit per word of `occupied`: not zero.
    summary: u64,
}

impl TimerWheel {
    /// A wheel for slots `0 .. slots`, none armed.
    pub fn new(now: Moment, slots: u32) -> TimerWheel {
        TimerWheel {
            hand: now.0 >> TICK_SHIFT,
            nodes: vec![Node { tick: DISARMED, previous: NIL, next: NIL }; slots as usize],
            heads: vec![NIL; BUCKETS],
            occupied: [0; 64],
            summary: 0,
        }
    }

    /// Has `slot` reported at `at` or up to two ticks later, unless it is armed for an earlier moment already.
    pub fn arm(&mut self, slot: u32, at: Moment) {
        // Rounded up, so that nothing is reported early; what is due already is reported with the next tick.
        let tick = (at.0 >> TICK_SHIFT).saturating_add(1).max(self.hand + 1);
        if at == Moment::NEVER || tick >= self.nodes[slot as usize].tick {
            return;
        }
        self.unlink(slot);
        let bucket = bucket_of(tick);
        let head = self.heads[bucket];
        self.nodes[slot as usize] = Node { tick, previous: NIL, next: head };
        if head != NIL {
            self.nodes[head as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.summary |= 1 << (bucket / 64);
    }

    /// When [`TimerWheel::expired`] should be called at the latest: no armed deadline is missed by sleeping until then. It
    /// may find nothing (a deadline of a later rotation). `NEVER` if nothing is armed.
    pub fn next(&self) -> Moment {
        let from = bucket_of(self.hand + 1);
        match self.occupied_from(from) {
            None => Moment::NEVER,
            Some(bucket) => {
                let ahead = (bucket + BUCKETS - from) % BUCKETS;
                Moment((self.hand + 1 + ahead as u64) << TICK_SHIFT)
            }
        }
    }

    /// Appends every slot that is due at `now` to `slots` and disarms it.
    pub fn expired(&mut self, now: Moment, slots: &mut Vec<u32>) {
        let target = now.0 >> TICK_SHIFT;
        if target <= self.hand {
            return;
        }
        // The buckets passed, each once however long the pause was.
        let mut left = (target - self.hand).min(BUCKETS as u64) as usize;
        let mut from = bucket_of(self.hand + 1);
        self.hand = target;
        while let Some(bucket) = self.occupied_from(from) {
            let ahead = (bucket + BUCKETS - from) % BUCKETS;
            if ahead >= left {
                break;
            }
            left -= ahead + 1;
            from = (bucket + 1) % BUCKETS;
            let mut slot = self.heads[bucket];
            while slot != NIL {
                let node = self.nodes[slot as usize];
                if node.tick <= target {
                    self.unlink(slot);
                    slots.push(slot);
                }
                slot = node.next;
            }
        }
    }

    /// Takes a slot out of its list, if it is in one.
    fn unlink(&mut self, slot: u32) {
        let node = self.nodes[slot as usize];
        if node.tick == DISARMED {
            return;
        }
        self.nodes[slot as usize].tick = DISARMED;
        if node.next != NIL {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous != NIL {
            self.nodes[node.previous as usize].next = node.next;
            return;
        }
        let bucket = bucket_of(node.tick);
        self.heads[bucket] = node.next;
        if node.next == NIL {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            if self.occupied[bucket / 64] == 0 {
                self.summary &= !(1 << (bucket / 64));
            }
        }
    }

    /// The first bucket that is not empty, going round from `from`.
    fn occupied_from(&self, from: usize) -> Option<usize> {
        let (word, bit) = (from / 64, from % 64);
        let here = self.occupied[word] & (!0 << bit);
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        // The words behind this one, then from the start up to this one: its bits below `bit` are the last ones.
        let later = if word == 63 { 0 } else { self.summary & (!0 << (word + 1)) };
        let words = if later != 0 { later } else { self.summary };
        if words == 0 {
            return None;
        }
        let word = words.trailing_zeros() as usize;
        Some(word * 64 + self.occupied[word].trailing_zeros() as usize)
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: u64 = 1_000_000;
    const TICK: u64 = 1 << TICK_SHIFT;

    fn expired(wheel: &mut TimerWheel, now: u64) -> Vec<u32> {
        let mut slots = Vec::new();
        wheel.expired(Moment(now), &mut slots);
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_deadline_is_reported_once_and_not_early() {
        let start = 77 * MILLISECOND;
        let mut wheel = TimerWheel::new(Moment(start), 4);
        assert_eq!(wheel.next(), Moment::NEVER);
        wheel.arm(2, Moment(start + 10 * MILLISECOND));
        assert!(expired(&mut wheel, start + 10 * MILLISECOND - 1).is_empty());
        let next = wheel.next().0;
        assert!((start + 10 * MILLISECOND..=start + 10 * MILLISECOND + TICK).contains(&next));
        assert_eq!(expired(&mut wheel, next), [2]);
        assert!(expired(&mut wheel, next + 100 * MILLISECOND).is_empty());
        assert_eq!(wheel.next(), Moment::NEVER);
    }

    #[test]
    fn only_an_earlier_deadline_replaces_an_armed_one() {
        let mut wheel = TimerWheel::new(Moment(0), 1);
        wheel.arm(0, Moment(100 * MILLISECOND));
        wheel.arm(0, Moment(200 * MILLISECOND));
        wheel.arm(0, Moment::NEVER);
        assert!(wheel.next().0 < 102 * MILLISECOND);
        wheel.arm(0, Moment(50 * MILLISECOND));
        assert!(wheel.next().0 < 52 * MILLISECOND);
        assert_eq!(expired(&mut wheel, 60 * MILLISECOND), [0]);
        assert_eq!(wheel.next(), Moment::NEVER);
        wheel.arm(0, Moment(200 * MILLISECOND));
        assert!(expired(&mut wheel, 150 * MILLISECOND).is_empty());
        assert_eq!(expired(&mut wheel, 203 * MILLISECOND), [0]);
    }

    #[test]
    fn what_is_due_already_comes_with_the_next_tick() {
        let now = 500 * MILLISECOND;
        let mut wheel = TimerWheel::new(Moment(now), 1);
        wheel.arm(0, Moment(3));
        assert!(wheel.next().0 <= now + TICK);
        assert_eq!(expired(&mut wheel, now + TICK), [0]);
    }

    #[test]
    fn a_deadline_many_rotations_ahead_is_not_reported_early() {
        let hour = 3_600_000 * MILLISECOND;
        let mut wheel = TimerWheel::new(Moment(0), 1);
        wheel.arm(0, Moment(hour));
        let mut wakes = 0;
        loop {
            let next = wheel.next().0;
            if !expired(&mut wheel, next).is_empty() {
                assert!((hour..=hour + TICK).contains(&next));
                break;
            }
            wakes += 1;
        }
        assert!(wakes < 1000, "one wake per rotation at most, not {wakes}");
    }

    #[test]
    fn a_pause_of_many_rotations_reports_everything() {
        let mut wheel = TimerWheel::new(Moment(0), 10_000);
        for slot in 0..10_000_u32 {
            wheel.arm(slot, Moment(u64::from(slot) * 3 * MILLISECOND));
        }
        assert_eq!(expired(&mut wheel, 60_000 * MILLISECOND).len(), 10_000);
        assert_eq!(wheel.next(), Moment::NEVER);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm { slot: u32, ahead: u64 },
        Advance(u64),
        ToNext,
    }

    fn step() -> impl Strategy<Value = Step> {
        let ahead = prop_oneof![0..3 * TICK, 0..10_000 * MILLISECOND, 0..100_000 * MILLISECOND];
        let advance = prop_oneof![0..2 * TICK, 0..300 * MILLISECOND, 0..20_000 * MILLISECOND];
        prop_oneof![
            5 => (0..16_u32, ahead).prop_map(|(slot, ahead)| Step::Arm { slot, ahead }),
            2 => advance.prop_map(Step::Advance),
            2 => Just(Step::ToNext),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_model(start in 0..u64::MAX / 4, steps in prop::collection::vec(step(), 1..200)) {
            let mut now = start;
            let mut wheel = TimerWheel::new(Moment(now), 16);
            let mut model = BTreeMap::<u32, u64>::new();
            for step in steps {
                match step {
                    Step::Arm { slot, ahead } => {
                        wheel.arm(slot, Moment(now + ahead));
                        let due = model.entry(slot).or_insert(u64::MAX);
                        *due = (*due).min(now + ahead);
                        continue;
                    }
                    Step::Advance(by) => now += by,
                    Step::ToNext if wheel.next() == Moment::NEVER => prop_assert!(model.is_empty()),
                    Step::ToNext => now = now.max(wheel.next().0),
                }
                let reported = expired(&mut wheel, now);
                for slot in &reported {
                    prop_assert!(model.remove(slot).is_some_and(|due| due <= now), "slot {slot} was early");
                }
                for (slot, due) in &model {
                    prop_assert!(now < due + 2 * TICK, "slot {slot} due at {due} was missed at {now}");
                    prop_assert!(wheel.next().0 <= due + 2 * TICK, "slot {slot} would be missed");
                }
            }
        }
    }
}
