//! `logdrive sim`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args as ClapArgs;

use super::faults::FaultSet;
use super::plan::{
    CLIENTS_MAX, CORES_MAX, GROUPS_MAX, MachineKind, NODES_MAX, Plan, Profile, Seeds, TICKS_DEFAULT,
};
use super::report;
use super::run::{Outcome, run, run_traced};

/// Run clusters of production code on a simulated clock, network and disk, with every fault, from one seed.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The seed of one run.
    #[arg(long, required_unless_present = "seeds", conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Many runs: seeds A to B, B excluded.
    #[arg(long, value_name = "A..B")]
    pub seeds: Option<Seeds>,
    /// Runs at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: u32,
    /// How long troubles go on, in milliseconds of the simulated clock.
    #[arg(long, default_value_t = TICKS_DEFAULT, value_name = "MS")]
    pub ticks: u64,
    /// Which troubles.
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// Everything that happens goes into this file.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub trace: Option<PathBuf>,
    /// Another number of nodes than the profile has.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub nodes: Option<u32>,
    /// Another number of cores.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(CORES_MAX)))]
    pub cores: Option<u32>,
    /// Another number of groups.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(GROUPS_MAX)))]
    pub groups: Option<u32>,
    /// Another number of clients.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(CLIENTS_MAX)))]
    pub clients: Option<u32>,
    /// Another state machine.
    #[arg(long, value_enum)]
    pub machine: Option<MachineKind>,
    /// Only these of the run's faults, as in `3,17-20`; `none` for a run without any.
    #[arg(long, value_name = "FAULTS")]
    pub only_faults: Option<FaultSet>,
    /// Print the run's list of faults and end.
    #[arg(long, requires = "seed")]
    pub list_faults: bool,
}

impl Args {
    /// The plan of one seed.
    pub fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(self.profile, seed);
        plan.ticks = self.ticks;
        plan.only = self.only_faults.clone();
        let mut set = |name: &str, value: Option<u32>, field: &mut u32| {
            if let Some(value) = value {
                *field = value;
                plan.overrides.push(format!("--{name} {value}"));
            }
        };
        set("nodes", self.nodes, &mut plan.nodes);
        set("cores", self.cores, &mut plan.cores);
        set("groups", self.groups, &mut plan.groups);
        set("clients", self.clients, &mut plan.clients);
        if let Some(machine) = self.machine {
            plan.machine = machine;
            plan.overrides.push(format!("--machine {}", machine.name()));
        }
        plan
    }
}

/// Why the command did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The trace cannot be written.
    #[error("the trace cannot be written to {}: {error}. Name a file in a directory that exists and can be written to", path.display())]
    Trace {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Runs the command. True if every run went well.
pub fn command(args: &Args, out: &mut (dyn Write + Send)) -> Result<bool, SimError> {
    if let Some(seed) = args.seed {
        return one(args, seed, out);
    }
    let seeds = args.seeds.clone().map_or(0..0, |seeds| seeds.0);
    Ok(many(args, seeds, out))
}

fn one(args: &Args, seed: u64, out: &mut dyn Write) -> Result<bool, SimError> {
    let plan = args.plan(seed);
    if args.list_faults {
        let shape = super::shape::Shape::of(&plan);
        for fault in super::mix::faults(&plan, &shape) {
            let _ = writeln!(out, "{fault}");
        }
        return Ok(true);
    }
    let file: Option<Box<dyn Write>> = match &args.trace {
        Some(path) => match std::fs::File::create(path) {
            Ok(file) => Some(Box::new(BufWriter::new(file))),
            Err(error) => return Err(SimError::Trace { path: path.clone(), error }),
        },
        None => None,
    };
    let start = stopwatch();
    let outcome = run_traced(&plan, file);
    let _ = write_outcome(out, &outcome, start());
    Ok(outcome.broken.is_none())
}

fn write_outcome(out: &mut dyn Write, outcome: &Outcome, took: Duration) -> std::io::Result<()> {
    if outcome.broken.is_some() {
        return write!(out, "{}", report::failure(outcome));
    }
    writeln!(out, "{}", report::success(outcome, took.as_secs_f64()))?;
    writeln!(out, "  faults: {:?}", outcome.injected)?;
    writeln!(out, "  met: {:?}", outcome.reached)
}

/// Runs seeds on several threads; each run has a thread of its own while it lasts.
fn many(args: &Args, seeds: std::ops::Range<u64>, out: &mut (dyn Write + Send)) -> bool {
    let next = AtomicU64::new(seeds.start);
    let start = stopwatch();
    let sums = std::sync::Mutex::new((0_u64, 0_u64, 0_f64, out));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(&args.plan(seed));
                    let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sums.0 += 1;
                    sums.2 += outcome.simulated as f64 / 1e9;
                    if outcome.broken.is_some() {
                        sums.1 += 1;
                        let _ = write!(sums.3, "{}", report::failure(&outcome));
                    }
                }
            });
        }
    });
    let (runs, broken, simulated, out) = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = start().as_secs_f64().max(1e-9);
    let _ = writeln!(
        out,
        "{runs} seeds, {broken} broken; {simulated:.0} s simulated in {seconds:.1} s: {:.2} seeds/s, {:.0}x",
        runs as f64 / seconds,
        simulated / seconds
    );
    broken == 0
}

/// How long it takes in the real world, for the rates that are printed.
#[allow(clippy::disallowed_methods, reason = "rates of real time are printed; no run sees it")]
fn stopwatch() -> impl Fn() -> Duration {
    let start = std::time::Instant::now();
    move || start.elapsed()
}
