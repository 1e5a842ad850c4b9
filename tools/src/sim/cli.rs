//! `logdrive sim`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::faults::FaultSet;
use super::listing::{BadFaultList, FaultList};
use super::many::{Manner, run_many, stopwatch};
use super::minimise::minimise;
use super::plan::{
    CLIENTS_MAX, CORES_MAX, GROUPS_MAX, MachineKind, NODES_MAX, Plan, Profile, Seeds, Size, TICKS_DEFAULT,
};
use super::report;
use super::run::{Outcome, run, run_traced};
use super::summary::Summary;

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
    /// The faults of this file instead of those that the seed makes; `--write-faults` and `--minimise` write such files.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub faults: Option<PathBuf>,
    /// Only these of the run's faults, as in `3,17-20`; `none` for a run without any.
    #[arg(long, value_name = "FAULTS")]
    pub only_faults: Option<FaultSet>,
    /// Print the run's list of faults and end.
    #[arg(long, requires = "seed")]
    pub list_faults: bool,
    /// Write the run's list of faults into this file and end.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub write_faults: Option<PathBuf>,
    /// If a run breaks: find a smaller one that breaks the same assertion, with fewer faults, nodes, cores, groups and clients. Of several
    /// seeds the first one that breaks is made smaller, and no more are run.
    #[arg(long)]
    pub minimise: bool,
    /// Where `--minimise` writes the list of faults that are left; by default a file in this directory, named after profile and seed.
    #[arg(long, value_name = "FILE", requires = "minimise")]
    pub minimised: Option<PathBuf>,
    /// Seeds take turns with the profiles: seed 0 is `default`, seed 1 `disk`, and so on.
    #[arg(long, requires = "seeds", conflicts_with = "profile")]
    pub all_profiles: bool,
    /// For programs: one JSON object per line, for each run (of many: for each that breaks) and for the sums.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// The plan of one seed.
    pub fn plan(&self, seed: u64) -> Plan {
        let profile = match self.all_profiles {
            true => Profile::ALL[(seed % Profile::ALL.len() as u64) as usize],
            false => self.profile,
        };
        let mut plan = Plan::new(profile, seed);
        plan.ticks = self.ticks;
        plan.only = self.only_faults.clone();
        let sizes = [self.nodes, self.cores, self.groups, self.clients];
        let given = [Size::Nodes, Size::Cores, Size::Groups, Size::Clients].into_iter().zip(sizes);
        for (size, value) in given {
            if let Some(value) = value {
                plan.override_size(size, value);
            }
        }
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
    /// A list of faults.
    #[error(transparent)]
    Faults(#[from] BadFaultList),
}

/// Runs the command. True if every run went well.
pub fn command(args: &Args, out: &mut (dyn Write + Send)) -> Result<bool, SimError> {
    match args.seed {
        Some(seed) => one(args, seed, out),
        None => many(args, args.seeds.clone().map_or(0..0, |seeds| seeds.0), out),
    }
}

fn one(args: &Args, seed: u64, out: &mut dyn Write) -> Result<bool, SimError> {
    let mut plan = args.plan(seed);
    if let Some(path) = &args.faults {
        plan.list = Some(FaultList::read(path)?);
    }
    if args.list_faults || args.write_faults.is_some() {
        list_faults(args, &plan, out)?;
        return Ok(true);
    }
    let file: Option<Box<dyn Write>> = match &args.trace {
        Some(path) => match std::fs::File::create(path) {
            Ok(file) => Some(Box::new(BufWriter::new(file))),
            Err(error) => return Err(SimError::Trace { path: path.clone(), error }),
        },
        None => None,
    };
    let took = stopwatch();
    let outcome = run_traced(&plan, file);
    let seconds = took().as_secs_f64();
    // Whoever closed the output does not want to know.
    let _ = match (&outcome.broken, args.json) {
        (_, true) => writeln!(out, "{}", report::json(&outcome)),
        (Some(_), false) => write!(out, "{}", report::failure(&outcome)),
        (None, false) => {
            let mut summary = Summary::default();
            summary.add(&outcome);
            writeln!(out, "{}\n{}", report::success(&outcome, seconds), summary.table())
        }
    };
    if args.minimise {
        make_smaller(args, &outcome, out)?;
    }
    Ok(outcome.broken.is_none())
}

fn list_faults(args: &Args, plan: &Plan, out: &mut dyn Write) -> Result<(), SimError> {
    let shape = super::shape::Shape::of(plan);
    let faults = super::mix::faults(plan, &shape);
    if args.list_faults {
        for fault in &faults {
            let _ = writeln!(out, "{fault}");
        }
    }
    if let Some(path) = &args.write_faults {
        FaultList::write(path, &format!("the faults of: {}", plan.command()), &faults)?;
    }
    Ok(())
}

fn many(args: &Args, seeds: std::ops::Range<u64>, out: &mut (dyn Write + Send)) -> Result<bool, SimError> {
    let manner = Manner { jobs: args.jobs, until_broken: args.minimise, json: args.json };
    let (summary, first, took) = run_many(seeds, manner, &|seed| args.plan(seed), out);
    let seconds = took.as_secs_f64();
    let _ = match args.json {
        true => writeln!(out, "{}", summary.json(seconds)),
        false => writeln!(out, "{}\n{}", summary.table(), summary.rates(seconds)),
    };
    if let Some(first) = first.filter(|_| args.minimise) {
        make_smaller(args, &first, out)?;
    }
    Ok(summary.broken == 0)
}

fn make_smaller(args: &Args, broken: &Outcome, out: &mut dyn Write) -> Result<(), SimError> {
    let mut tell = |outcome: &Outcome, runs: u32| {
        let Plan { ticks, nodes, cores, groups, clients, .. } = &outcome.plan;
        eprintln!(
            "run {runs}: {} faults, {ticks} ms, {nodes} nodes, {cores} cores, {groups} groups, {clients} clients",
            outcome.faults.len()
        );
    };
    let Some(small) = minimise(broken, &mut run, &mut tell) else { return Ok(()) };
    let plan = &broken.plan;
    let default = || PathBuf::from(format!("sim-{}-{}.faults", plan.profile, plan.seed));
    let path = args.minimised.clone().unwrap_or_else(default);
    let about = format!(
        "{}\nrepeat with: {}",
        small.outcome.broken.as_ref().map(ToString::to_string).unwrap_or_default(),
        small.outcome.plan.with_list(&path, &small.outcome.faults).command()
    );
    FaultList::write(&path, &about, &small.outcome.faults)?;
    let _ = match args.json {
        true => writeln!(out, "{}", report::json(&small.outcome)),
        false => write!(out, "{}", report::minimised(&small, &path)),
    };
    Ok(())
}
