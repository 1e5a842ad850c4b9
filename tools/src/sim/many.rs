//! Many runs, on several threads: each run has a thread to itself while it lasts, and nothing of a run depends on the others.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Plan;
use super::report;
use super::run::{Outcome, run};
use super::summary::Summary;

/// Broken runs that are told in full, at most. The others are counted.
const TOLD_MAX: u64 = 20;

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
    std::thread::scope(|scope| {
        for _ in 0..manner.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(&plan(seed));
                    stop.fetch_or(manner.until_broken && outcome.broken.is_some(), Ordering::Relaxed);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    bar.suspend(|| told.take(outcome, manner.json));
                    show(&bar, &told.summary, took());
                }
            });
        }
    });
    bar.finish_and_clear();
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    (told.summary, told.first, took())
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
