//! Time: the one clock of the world, and the clocks of the nodes that go too fast, too slow, or jump.

/// A moment of the world's clock, in nanoseconds.
pub type Nanos = u64;

/// In nanoseconds.
pub const MICROSECOND: Nanos = 1_000;
/// In nanoseconds.
pub const MILLISECOND: Nanos = 1_000_000;
/// In nanoseconds.
pub const SECOND: Nanos = 1_000_000_000;

/// Never.
pub const NEVER: Nanos = Nanos::MAX;

/// What a node takes for the time. The engine reads CLOCK_BOOTTIME, which may go at a wrong speed and jump ahead (a virtual
/// machine that was suspended) but never goes back; a node that is started anew may begin anywhere.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// At this moment of the world ...
    world: Nanos,
    /// ... the node's clock showed this.
    shown: Nanos,
    /// Parts per million by which it goes too fast.
    drift_ppm: i64,
}

impl NodeClock {
    /// A clock that shows `shown` at `world`.
    pub fn new(world: Nanos, shown: Nanos) -> NodeClock {
        NodeClock { world, shown, drift_ppm: 0 }
    }

    /// What the node's clock shows at a moment of the world.
    pub fn shows(&self, world: Nanos) -> Nanos {
        let passed = world.saturating_sub(self.world);
        if self.drift_ppm == 0 {
            return self.shown + passed;
        }
        let speed = 1_000_000 + i128::from(self.drift_ppm);
        self.shown + (i128::from(passed) * speed / 1_000_000) as Nanos
    }

    /// The first moment of the world at which the clock shows `shown` or more.
    pub fn moment(&self, shown: Nanos) -> Nanos {
        if shown == NEVER {
            return NEVER;
        }
        let ahead = shown.saturating_sub(self.shown);
        if self.drift_ppm == 0 {
            return self.world.saturating_add(ahead);
        }
        let speed = 1_000_000 + i128::from(self.drift_ppm);
        let passed = (i128::from(ahead) * 1_000_000 + speed - 1) / speed;
        self.world.saturating_add(Nanos::try_from(passed).unwrap_or(NEVER))
    }

    /// From `now` on the clock goes too fast by so many parts per million (too slow if negative).
    pub fn drift(&mut self, now: Nanos, ppm: i64) {
        *self = NodeClock { world: now, shown: self.shows(now), drift_ppm: ppm };
    }

    /// The clock jumps ahead.
    pub fn step(&mut self, now: Nanos, ahead: Nanos) {
        *self = NodeClock { world: now, shown: self.shows(now) + ahead, drift_ppm: self.drift_ppm };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_and_jumps_never_goes_back_and_names_moments_it_has_reached() {
        let mut clock = NodeClock::new(1_000, 77);
        let mut last = 0;
        for (n, ppm) in [0, 40_000, -40_000, 3, -7].into_iter().enumerate() {
            let now = 1_000 + n as u64 * 10_000;
            clock.drift(now, ppm);
            clock.step(now + 5, n as u64 * 13);
            for at in (now + 5..now + 9_000).step_by(777) {
                let shown = clock.shows(at);
                assert!(shown >= last, "{shown} after {last}");
                last = shown;
                let wanted = shown + 1234;
                let moment = clock.moment(wanted);
                assert!(clock.shows(moment) >= wanted);
                assert!(moment == at || clock.shows(moment - 1) < wanted);
            }
        }
        assert_eq!(clock.moment(NEVER), NEVER);
    }
}
