//! Many runs, on several threads: each run has a thread to itself while it lasts, and nothing of a run depends on the others.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Plan;
use super::report;
use super::run::{Outcome, run};
use super::summary::Summary;

/// Broken runs that are told in full, at most. The others are counted.
const TOLD_MAX: u64 = 20;

/// A run takes seconds. One that takes so long stands still within one call of production code, where no check of the run looks, unless
/// its world is very large.
const STANDS_STILL: Duration = Duration::from_secs(300);
/// How often that is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// How many runs are made and told.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Runs at once.
    pub jobs: u32,
    /// Stop at the first one that breaks.
    pub until_broken: bool,
    /// Tell it to a program: one JSON object per line.
    pub json: bool,
}

struct Told<'a> {
    summary: Summary,
    /// Of the broken run with the lowest seed.
    first: Option<Outcome>,
    out: &'a mut (dyn Write + Send),
}

/// Runs the plans of all seeds. Broken runs are told to `out` as they come; returned are the sums, and the broken run with the lowest seed.
pub fn run_many(
    seeds: std::ops::Range<u64>,
    manner: Manner,
    plan: &(dyn Fn(u64) -> Plan + Sync),
    out: &mut (dyn Write + Send),
) -> (Summary, Option<Outcome>, Duration) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let took = stopwatch();
    let bar = bar(seeds.end - seeds.start);
    let told = Mutex::new(Told { summary: Summary::default(), first: None, out });
    let running = Mutex::new(Running::default());
    // The watch ends when the last of the jobs has dropped its end.
    let (job, jobs) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            watch(jobs, LOOK, &running, &took, &|seed| {
                bar.suspend(|| eprintln!("{}", stands_still(&plan(seed))));
            });
        });
        for job in vec![job; manner.jobs as usize] {
            let (running, told, next, stop, bar, took) = (&running, &told, &next, &stop, &bar, &took);
            scope.spawn(move || {
                let _job = job;
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    running.lock().unwrap_or_else(PoisonError::into_inner).begins(seed, took());
                    let outcome = run(&plan(seed));
                    running.lock().unwrap_or_else(PoisonError::into_inner).ends(seed);
                    stop.fetch_or(manner.until_broken && outcome.broken.is_some(), Ordering::Relaxed);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    bar.suspend(|| told.take(outcome, manner.json));
                    show(bar, &told.summary, took());
                }
            });
        }
    });
    bar.finish_and_clear();
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    (told.summary, told.first, took())
}

/// Tells each seed that stands still, until nobody works any more.
fn watch(
    jobs: Receiver<()>,
    look: Duration,
    running: &Mutex<Running>,
    took: &dyn Fn() -> Duration,
    tell: &dyn Fn(u64),
) {
    while jobs.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
        let late = running.lock().unwrap_or_else(PoisonError::into_inner).stands_still(took());
        late.into_iter().for_each(tell);
    }
}

/// The seeds that run, and since when; nothing of those that were told of.
#[derive(Default)]
struct Running(BTreeMap<u64, Duration>);

impl Running {
    fn begins(&mut self, seed: u64, now: Duration) {
        self.0.insert(seed, now);
    }

    fn ends(&mut self, seed: u64) {
        self.0.remove(&seed);
    }

    /// Those that have run for too long, once each.
    fn stands_still(&mut self, now: Duration) -> Vec<u64> {
        let late: Vec<u64> =
            self.0.iter().filter(|(_, since)| now - **since >= STANDS_STILL).map(|(seed, _)| *seed).collect();
        late.iter().for_each(|seed| self.ends(*seed));
        late
    }
}

fn stands_still(plan: &Plan) -> String {
    format!(
        "seed {} of profile {} has run for {} s: unless its world is very large it stands still, which is a failure. Look where (gdb -p {}), end it, and repeat with: {}",
        plan.seed,
        plan.profile,
        STANDS_STILL.as_secs(),
        std::process::id(),
        plan.command()
    )
}

impl Told<'_> {
    fn take(&mut self, outcome: Outcome, json: bool) {
        self.summary.add(&outcome);
        if outcome.broken.is_none() {
            return;
        }
        if self.summary.broken <= TOLD_MAX {
            // Whoever closed the output does not want to know.
            let _ = match json {
                true => writeln!(self.out, "{}", report::json(&outcome)),
                false => write!(self.out, "{}", report::failure(&outcome)),
            };
        }
        if self.first.as_ref().is_none_or(|first| outcome.plan.seed < first.plan.seed) {
            self.first = Some(outcome);
        }
    }
}

/// A bar on the standard error output, if that is a terminal; otherwise nothing.
fn bar(runs: u64) -> ProgressBar {
    let bar = ProgressBar::new(runs);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {msg}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, summary: &Summary, took: Duration) {
    let seconds = took.as_secs_f64().max(1e-9);
    let Summary { runs, broken, simulated, .. } = summary;
    let broken = match broken {
        0 => String::new(),
        count => format!("{count} BROKEN, "),
    };
    let (seeds, times) = (*runs as f64 / seconds, simulated / seconds);
    bar.set_message(format!("{broken}{seeds:.2} seeds/s, {times:.0} simulated s/s"));
    bar.set_position(*runs);
}

/// How long it takes in the real world, for the rates that are printed.
#[allow(clippy::disallowed_methods, reason = "rates of real time are printed; no run sees it")]
pub(super) fn stopwatch() -> impl Fn() -> Duration + Sync {
    let start = std::time::Instant::now();
    move || start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_stands_still_is_told_of_once() {
        let at = Duration::from_secs;
        let mut running = Running::default();
        running.begins(7, at(0));
        running.begins(8, at(200));
        running.begins(9, at(0));
        running.ends(9);
        assert!(running.stands_still(at(299)).is_empty());
        assert_eq!(running.stands_still(at(300)), [7]);
        assert!(running.stands_still(at(499)).is_empty());
        assert_eq!(running.stands_still(at(500)), [8]);
    }

    #[test]
    fn the_watch_tells_of_it_while_the_job_lasts_and_ends_with_it() {
        let running = Mutex::new(Running::default());
        running.lock().unwrap().begins(7, Duration::ZERO);
        let (job, jobs) = channel();
        // Ended by what it tells: if it told nothing it would not end.
        let job = Mutex::new(Some(job));
        let told = Mutex::new(Vec::new());
        watch(jobs, Duration::from_millis(1), &running, &|| STANDS_STILL, &|seed| {
            told.lock().unwrap().push(seed);
            job.lock().unwrap().take();
        });
        assert_eq!(*told.lock().unwrap(), [7]);
    }
}
