//! So much of a core's time: slices of work that end when their budget is used, and pauses that pay for them. Time is an argument.

use std::time::Duration;

use logdrive_shard::Moment;

/// A slice is not begun for less than this part of the budget: beginning costs something as well.
const GRANTS_PER_BUDGET: u64 = 8;
/// A slice that took longer than so many budgets was not at work all the time (the machine had put its thread aside): no more is
/// held against it.
const BUDGETS_OWED_MAX: u64 = 64;

/// Work on snapshots takes at most `budget` of each `interval` of a core, in slices of at most `budget`.
///
/// Time is earned as it goes by and spent by slices. Whoever comes often, because there is much else to do, gets small slices; whoever comes
/// only for that gets whole ones. A slice that took longer than it was granted, on a slow machine or because a step of it could not be
/// cut, is paid for by a longer pause: the share holds whatever the machine gives.
#[derive(Clone, Debug)]
pub struct Share {
    budget: u64,
    interval: u64,
    /// Nanoseconds earned and not spent, times `interval` so that nothing is rounded. Below zero: more was taken than was there.
    earned: i128,
    at: Moment,
}

impl Share {
    /// An interval shorter than two budgets counts as two: what snapshots take is less than what they leave.
    pub fn new(budget: Duration, interval: Duration) -> Share {
        let budget = (budget.as_nanos() as u64).max(1);
        let interval = (interval.as_nanos() as u64).max(2 * budget);
        Share { budget, interval, earned: i128::from(budget) * i128::from(interval), at: Moment(0) }
    }

    /// How long a slice that begins now may take; nothing if it would be too short.
    pub fn grant(&mut self, now: Moment) -> Option<Duration> {
        let nanos = i128::from(now.0.saturating_sub(self.at.0));
        self.at = self.at.max(now);
        self.earned = self.full().min(self.earned + nanos * i128::from(self.budget));
        let granted = self.earned / i128::from(self.interval);
        let least = i128::from((self.budget / GRANTS_PER_BUDGET).max(1));
        // At most the budget, which came from 64 bits.
        (granted >= least).then(|| Duration::from_nanos(granted as u64))
    }

    /// A slice took so long.
    pub fn spend(&mut self, took: Duration) {
        let most = self.budget.saturating_mul(BUDGETS_OWED_MAX);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(most);
        self.earned -= i128::from(nanos) * i128::from(self.interval);
    }

    /// When a whole budget will have been earned: nobody needs to come earlier only for a slice.
    pub fn full_at(&self) -> Moment {
        let missing = self.full() - self.earned;
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

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Takes slices for a tenth of a second, coming every `every` microseconds at least; each overruns what it was granted `times`.
    /// What all of them took, and how many there were.
    fn take(share: &mut Share, every: u64, times: u32) -> (u64, u64) {
        let (mut now, mut took, mut slices) = (Moment(0), 0, 0);
        while now.0 < 100_000 * US {
            now = now.after(us(every));
            if let Some(granted) = share.grant(now) {
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
        let share = || Share::new(us(50), us(250));
        let (often, many) = take(&mut share(), 1, 1);
        let (rarely, few) = take(&mut share(), 300, 1);
        assert!((19_000 * US..=20_050 * US).contains(&often), "{often} ns of 100 ms");
        assert!(many > 2_000, "{many} slices");
        assert!(rarely <= 100_000 / 300 * 50 * US && few <= 100_000 / 300, "{rarely} ns in {few} slices");
        let mut whole = share();
        assert_eq!(whole.grant(Moment(1)), Some(us(50)), "never more than a budget");
        whole.spend(us(50));
        assert_eq!(whole.grant(Moment(1)), None);
        assert_eq!(whole.full_at(), Moment(1 + 250 * US));
        assert_eq!(whole.grant(whole.full_at()), Some(us(50)));
    }

    #[test]
    fn slices_that_take_longer_than_granted_are_paid_for_by_pauses() {
        let (took, _) = take(&mut Share::new(us(50), us(250)), 1, 5);
        assert!(took <= 20_500 * US, "{took} ns of 100 ms, with slices five times too long");
        let mut share = Share::new(us(50), us(250));
        assert!(share.grant(Moment(0)).is_some());
        // A thread that was put aside for a second does not hold a snapshot up for five.
        share.spend(Duration::from_secs(1));
        assert_eq!(share.full_at(), Moment(64 * 250 * US));
    }

    #[test]
    fn snapshots_get_no_more_than_half_of_a_core_whatever_the_settings_say() {
        for interval in [0, 1, 50, 99] {
            let (took, _) = take(&mut Share::new(us(50), us(interval)), 1, 1);
            assert!(took <= 50_050 * US, "{took} ns of 100 ms");
        }
    }
}
