//! A smaller run that breaks the same assertion: shorter, with fewer faults, smaller.
//!
//! The list of faults is explicit and each has its number, so that a part of it is a run as well. What is left out shifts what happens
//! afterwards; a smaller run therefore counts as the same only by the name of the assertion that it breaks (for a panic of production
//! code: by its place).

use super::clock::MILLISECOND;
use super::faults::{Fault, FaultId, FaultSet};
use super::observer::Broken;
use super::plan::{Plan, START, Size};
use super::run::Outcome;

/// Runs that are made, at most.
pub const RUNS_MAX: u32 = 600;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Minimised {
    /// The smallest run that breaks the same.
    pub outcome: Outcome,
    /// Faults of the run that was given.
    pub faults_before: usize,
    /// Runs that were made.
    pub runs: u32,
    /// Whether all that can be left out was tried.
    pub is_complete: bool,
}

/// What makes two broken runs the same.
pub fn signature(broken: &Broken) -> String {
    match broken.what.rsplit_once("(at ") {
        Some((_, place)) => format!("{} ({place}", broken.assertion),
        None => broken.assertion.to_owned(),
    }
}

struct Search<'a> {
    run: &'a mut dyn FnMut(&Plan) -> Outcome,
    tell: &'a mut dyn FnMut(&Outcome, u32),
    wanted: String,
    best: Outcome,
    runs: u32,
}

/// Makes a broken run smaller. `run` runs a plan; `tell` hears of each smaller run that breaks the same, and of how many runs were made.
/// `None` if the run is not broken.
pub fn minimise(
    broken: &Outcome,
    run: &mut dyn FnMut(&Plan) -> Outcome,
    tell: &mut dyn FnMut(&Outcome, u32),
) -> Option<Minimised> {
    let wanted = signature(broken.broken.as_ref()?);
    let mut search = Search { run, tell, wanted, best: broken.clone(), runs: 0 };
    search.cut_time();
    search.leave_out_faults();
    if search.shrink() {
        search.leave_out_faults();
    }
    search.cut_time();
    let (runs, outcome) = (search.runs, search.best);
    Some(Minimised { outcome, faults_before: broken.faults.len(), runs, is_complete: runs < RUNS_MAX })
}

impl Search<'_> {
    /// Whether a plan breaks the same; then it is the best one so far.
    fn breaks(&mut self, plan: &Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let outcome = (self.run)(plan);
        let same = outcome.broken.as_ref().is_some_and(|broken| signature(broken) == self.wanted);
        if same {
            (self.tell)(&outcome, self.runs);
            self.best = outcome;
        }
        same
    }

    /// Troubles end at the tick that breaks.
    fn cut_time(&mut self) {
        let Some(broken) = &self.best.broken else { return };
        let ticks = broken.at.saturating_sub(START).div_ceil(MILLISECOND).max(1);
        if ticks < self.best.plan.ticks {
            let plan = Plan { ticks, ..self.best.plan.clone() };
            self.breaks(&plan);
        }
    }

    /// Delta debugging of the list of faults. Those that come too late go first, all at once.
    fn leave_out_faults(&mut self) {
        let end = self.best.broken.as_ref().map_or(u64::MAX, |broken| broken.at);
        let ids = |faults: &[Fault]| faults.iter().map(|fault| fault.id).collect::<Vec<FaultId>>();
        let early: Vec<Fault> = self.best.faults.iter().filter(|fault| fault.at <= end).cloned().collect();
        if early.len() < self.best.faults.len() {
            self.breaks_with(&ids(&early));
        }
        if self.best.faults.is_empty() || self.breaks_with(&[]) {
            return;
        }
        let all = ids(&self.best.faults);
        let mut is_first = true;
        logdrive_wal::minimise(&all, |ids| {
            // The whole list is what broke.
            std::mem::replace(&mut is_first, false) || self.breaks_with(ids)
        });
    }

    fn breaks_with(&mut self, ids: &[FaultId]) -> bool {
        let only = Some(FaultSet(ids.iter().copied().collect()));
        let plan = Plan { only, ..self.best.plan.clone() };
        self.breaks(&plan)
    }

    /// Fewer nodes, cores, groups, clients: the fewest that break the same. True if something became smaller.
    fn shrink(&mut self) -> bool {
        let mut any = false;
        for size in Size::ALL {
            let now = self.best.plan.size(size);
            // Few are tried one by one, then doubles.
            let mut value = size.least();
            while value < now {
                let mut plan = self.best.plan.clone();
                plan.override_size(size, value);
                if self.breaks(&plan) {
                    any = true;
                    break;
                }
                value = (value + 1).max(if value >= 8 { value * 2 } else { 0 });
            }
        }
        any
    }
}
