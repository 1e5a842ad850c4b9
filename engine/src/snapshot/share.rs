//! So much of a core's time: slices of work that end when their budget is used, and pauses that pay for them. Time is an argument.

use std::time::Duration;

use logdrive_shard::Moment;

/// A slice is not begun for less than this part of the budget: beginning costs something as well.
const GRANTS_PER_BUDGET: u64 = 2;
/// A slice that took longer than so many budgets was not at work all the time (the machine had put its thread aside): no more is
/// held against it.
const BUDGETS_OWED_MAX: u64 = 320;
/// Budgets in a slice of a core that has nothing else to do: what comes waits so long at most, and coming to a slice costs such a core
/// some microseconds each time.
const BUDGETS_ALONE: u64 = 4;
/// Such a core rests for this part of what a slice took before the next one, to see what has come.
const RESTS_PER_SLICE: u64 = 4;

/// Work on snapshots takes at most `budget` of each `interval` of a core that has other things to do, in slices of at most `budget`.
///
/// Time is earned as it goes by and spent by slices. Whoever comes often, because there is much else to do, gets small slices; whoever comes
/// only for that gets whole ones. A slice that took longer than it was granted, on a slow machine or because a step of it could not be
/// cut, is paid for by a longer pause: the share holds whatever the machine gives.
///
/// A core that has had nothing else to do for an interval need not earn anything: it takes one slice of four budgets after the other, with
/// short rests. Only what these take beyond what they were granted is owed.
#[derive(Clone, Debug)]
pub struct Share {
    budget: u64,
    interval: u64,
    /// Nanoseconds earned and not spent, times `interval` so that nothing is rounded. Below zero: more was taken than was there.
    earned: i128,
    at: Moment,
    /// What was granted last, if that need not be earned.
    free: Option<u64>,
    /// A core that has nothing else to do rests until then.
    rests_until: Moment,
}

impl Share {
    /// An interval shorter than two budgets counts as two: what snapshots take is less than what they leave.
    pub fn new(budget: Duration, interval: Duration) -> Share {
        let budget = (budget.as_nanos() as u64).max(1);
        let interval = (interval.as_nanos() as u64).max(2 * budget);
        let earned = i128::from(budget) * i128::from(interval);
        Share { budget, interval, earned, at: Moment(0), free: None, rests_until: Moment(0) }
    }

    /// How long a slice that begins now may take; nothing if it would be too short. `others_at`: when the core had something else to do
    /// last.
    pub fn grant(&mut self, now: Moment, others_at: Moment) -> Option<Duration> {
        let nanos = i128::from(now.0.saturating_sub(self.at.0));
        self.at = self.at.max(now);
        self.earned = self.full().min(self.earned + nanos * i128::from(self.budget));
        let is_alone = now >= self.alone_at(others_at) && self.earned >= 0;
        self.free = is_alone.then_some(BUDGETS_ALONE * self.budget);
        if let Some(free) = self.free {
            return Some(Duration::from_nanos(free));
        }
        let granted = self.earned / i128::from(self.interval);
        let least = i128::from((self.budget / GRANTS_PER_BUDGET).max(1));
        // At most the budget, which came from 64 bits.
        (granted >= least).then(|| Duration::from_nanos(granted as u64))
    }

    /// The slice that was granted took so long.
    pub fn spend(&mut self, took: Duration) {
        let most = self.budget.saturating_mul(BUDGETS_OWED_MAX);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(most);
        self.rests_until = Moment(self.at.0.saturating_add(nanos + nanos / RESTS_PER_SLICE));
        let owed = match self.free.take() {
            // Nothing was earned meanwhile: whoever comes next is not met by another slice at once.
            Some(free) => {
                self.earned = self.earned.min(0);
                self.at = Moment(self.at.0.saturating_add(nanos));
                nanos.saturating_sub(free)
            }
            None => nanos,
        };
        self.earned -= i128::from(owed) * i128::from(self.interval);
    }

    /// When to come for the next slice, if nothing else comes up: nobody needs to come earlier only for that.
    pub fn due_at(&self, others_at: Moment) -> Moment {
        let alone_at = self.alone_at(others_at).max(self.earned_at(0));
        self.earned_at(self.full()).min(alone_at)
    }

    /// From when on the core has had nothing else to do for long enough, and has rested.
    fn alone_at(&self, others_at: Moment) -> Moment {
        self.rests_until.max(Moment(others_at.0.saturating_add(self.interval)))
    }

    fn earned_at(&self, earned: i128) -> Moment {
        let missing = (earned - self.earned).max(0);
        let nanos = (missing + i128::from(self.budget) - 1) / i128::from(self.budget);
        Moment(self.at.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn full(&self) -> i128 {
        i128::from(self.budget) * i128::from(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;
    /// Much later: the core never had nothing else to do.
    const BUSY: Moment = Moment(u64::MAX);

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Takes slices for a tenth of a second, coming every `every` microseconds at least; each overruns what it was granted `times`.
    /// What all of them took, and how many there were.
    fn take(share: &mut Share, (every, times): (u64, u32), others_at: Moment) -> (u64, u64) {
        let (mut now, mut took, mut slices) = (Moment(0), 0, 0);
        while now.0 < 100_000 * US {
            now = now.after(us(every));
            if let Some(granted) = share.grant(now, others_at) {
                let slice = granted * times;
                share.spend(slice);
                now = now.after(slice);
                took += slice.as_nanos() as u64;
                slices += 1;
            }
        }
        (took, slices)
    }

    #[test]
    fn whoever_comes_often_gets_small_slices_and_whoever_comes_rarely_whole_ones_of_the_same_share() {
        let share = || Share::new(us(10), us(50));
        let (often, many) = take(&mut share(), (1, 1), BUSY);
        let (rarely, few) = take(&mut share(), (60, 1), BUSY);
        assert!((19_000 * US..=20_050 * US).contains(&often), "{often} ns of 100 ms");
        assert!(many > 3_500, "{many} slices");
        assert!(rarely <= 100_000 / 60 * 10 * US && few <= 100_000 / 60, "{rarely} ns in {few} slices");
        let mut whole = share();
        assert_eq!(whole.grant(Moment(1), BUSY), Some(us(10)), "never more than a budget");
        whole.spend(us(10));
        assert_eq!(whole.grant(Moment(1), BUSY), None);
        assert_eq!(whole.due_at(BUSY), Moment(1 + 50 * US));
        assert_eq!(whole.grant(whole.due_at(BUSY), BUSY), Some(us(10)));
    }

    #[test]
    fn slices_that_take_longer_than_granted_are_paid_for_by_pauses() {
        let (took, _) = take(&mut Share::new(us(10), us(50)), (1, 5), BUSY);
        assert!(took <= 20_500 * US, "{took} ns of 100 ms, with slices five times too long");
        let mut share = Share::new(us(10), us(50));
        assert!(share.grant(Moment(0), BUSY).is_some());
        // A thread that was put aside for a second does not hold a snapshot up for five.
        share.spend(Duration::from_secs(1));
        assert_eq!(share.due_at(BUSY), Moment(320 * 50 * US));
    }

    #[test]
    fn snapshots_get_no_more_than_half_of_a_busy_core_whatever_the_settings_say() {
        for interval in [0, 1, 10, 19] {
            let (took, _) = take(&mut Share::new(us(10), us(interval)), (1, 1), BUSY);
            assert!(took <= 50_050 * US, "{took} ns of 100 ms");
        }
    }

    #[test]
    fn a_core_that_has_nothing_else_to_do_takes_one_short_slice_after_the_other() {
        let (took, slices) = take(&mut Share::new(us(10), us(50)), (1, 1), Moment(0));
        assert!((75_000 * US..=80_100 * US).contains(&took), "{took} ns of 100 ms");
        assert!(took / slices <= 40 * US, "{took} ns in {slices} slices");
        // It says itself when to come, without rounds in vain, and rests a little before each.
        let (mut share, mut now) = (Share::new(us(10), us(50)), Moment(1_000 * US));
        for _ in 0..10 {
            assert_eq!(share.grant(now, Moment(0)), Some(us(40)));
            share.spend(us(40));
            assert_eq!(share.due_at(Moment(0)), now.after(us(50)));
            assert_eq!(share.clone().grant(now.after(us(49)), Moment(0)), None);
            now = share.due_at(Moment(0));
        }
    }

    #[test]
    fn whatever_comes_up_meets_no_other_slice_at_once_and_takes_the_larger_share_away() {
        let mut share = Share::new(us(10), us(50));
        let start = Moment(1_000 * US);
        assert_eq!(share.grant(start, Moment(0)), Some(us(40)));
        share.spend(us(42));
        // A frame came meanwhile.
        let (came, now) = (start.after(us(20)), start.after(us(42)));
        assert_eq!(share.grant(now, came), None);
        assert_eq!(
            share.due_at(came),
            came.after(us(50)),
            "nothing more came: a core with nothing else to do"
        );
        let mut busy = share.clone();
        let (mut now, mut took) = (now, 0);
        while now < start.after(us(10_000)) {
            // Something comes every 30 microseconds.
            let came = Moment(now.0 / (30 * US) * 30 * US);
            if let Some(granted) = busy.grant(now, came) {
                assert!(granted <= us(10), "{granted:?}");
                busy.spend(granted);
                took += granted.as_nanos() as u64;
                now = now.after(granted);
            }
            now = now.after(us(1));
        }
        assert!((1_900 * US..=2_010 * US).contains(&took), "{took} ns of 10 ms");
    }

    #[test]
    fn a_core_alone_that_is_put_aside_again_and_again_pays_for_that() {
        // Others want the machine: what a slice takes longer than it should is not what snapshots may take.
        let (took, slices) = take(&mut Share::new(us(10), us(50)), (1, 10), Moment(0));
        assert!(took <= 26_000 * US, "{took} ns of 100 ms in {slices} slices");
    }
}
