//! What the simulator tells of a run that breaks, and how it makes it smaller: with bugs that are planted here.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail the test")]

use std::cell::RefCell;
use std::rc::Rc;

use clap::Parser;
use logdrive_shard::GroupId;
use logdrive_tools::sim::cli::Args;
use logdrive_tools::sim::faults::{Fault, FaultId, FaultKind};
use logdrive_tools::sim::listing::FaultList;
use logdrive_tools::sim::minimise::minimise;
use logdrive_tools::sim::observer::{Broken, Observer, Verdict};
use logdrive_tools::sim::plan::{Plan, Profile, Size};
use logdrive_tools::sim::report;
use logdrive_tools::sim::run::{Outcome, run_observed};
use logdrive_tools::sim::summary::Summary;
use logdrive_tools::sim::world::World;

/// Faults that struck.
type Struck = Rc<RefCell<Vec<Fault>>>;

/// Breaks when two faults have struck, in whatever order.
struct Planted {
    struck: Struck,
    both: Option<[FaultId; 2]>,
}

impl Observer for Planted {
    fn name(&self) -> &'static str {
        "planted"
    }

    fn struck(&mut self, _: &World, fault: &Fault) -> Verdict {
        self.struck.borrow_mut().push(fault.clone());
        let has = |id: FaultId| self.struck.borrow().iter().any(|fault| fault.id == id);
        match self.both {
            Some([one, other]) if has(one) && has(other) => {
                let what = format!(
                    "faults {} and {}, in a run with {} of them",
                    one.0,
                    other.0,
                    self.struck.borrow().len()
                );
                Err(Broken::new("two faults never meet", what).in_group(GroupId(1)))
            }
            _ => Ok(()),
        }
    }
}

/// A small run. Production code has its own tests: here only what is planted breaks.
fn plan() -> Plan {
    let mut plan = Plan { ticks: 6_000, ..Plan::new(Profile::Network, 11) };
    for (size, value) in [(Size::Nodes, 3), (Size::Cores, 2), (Size::Groups, 4), (Size::Clients, 3)] {
        plan.override_size(size, value);
    }
    plan
}

fn run_planted(plan: &Plan, both: Option<[FaultId; 2]>) -> (Outcome, Vec<Fault>) {
    let struck = Struck::default();
    let planted = Planted { struck: Rc::clone(&struck), both };
    let outcome = run_observed(plan, None, vec![Box::new(planted)]);
    (outcome, struck.take())
}

/// Two faults that strike in any world, one early and one late.
fn two_faults(plan: &Plan) -> [FaultId; 2] {
    let (_, struck) = run_planted(plan, None);
    let sure: Vec<FaultId> = struck
        .iter()
        .filter(|fault| {
            use FaultKind::{Bridge, ClockDrift, Partition, SlowCore};
            matches!(fault.what, Partition { .. } | Bridge { .. } | ClockDrift { .. } | SlowCore { .. })
        })
        .map(|fault| fault.id)
        .collect();
    assert!(sure.len() >= 4, "{struck:?}");
    [sure[1], sure[sure.len() - 2]]
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sim: Args,
}

/// The plan of a command line as reports print it.
fn read_command(command: &str) -> Plan {
    let words = command.split(' ').skip(1);
    let args = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}")).sim;
    let mut plan = args.plan(args.seed.unwrap());
    plan.list = args.faults.map(|path| FaultList::read(&path).unwrap());
    plan
}

#[test]
fn a_planted_bug_is_reduced_to_the_two_faults_that_it_takes() {
    let plan = plan();
    let both = two_faults(&plan);
    let (broken, struck) = run_planted(&plan, Some(both));
    assert!(broken.broken.is_some() && struck.len() > 4);
    let mut steps = 0;
    let small =
        minimise(&broken, &mut |plan| run_planted(plan, Some(both)).0, &mut |_, _| steps += 1).unwrap();
    let ids: Vec<FaultId> = small.outcome.faults.iter().map(|fault| fault.id).collect();
    assert_eq!(ids, both, "after {} runs", small.runs);
    assert!(steps >= 2 && small.is_complete);
    let smaller = &small.outcome.plan;
    assert!(smaller.ticks < plan.ticks, "cut to the tick that breaks");
    // Nothing of the bug needs more than the least.
    assert_eq!((smaller.nodes, smaller.cores, smaller.groups, smaller.clients), (1, 1, 1, 0));

    // Both commands that are printed are this run: with the numbers of the faults, and with their list in a file.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("two.faults");
    FaultList::write(&path, "two faults", &small.outcome.faults).unwrap();
    let text = report::minimised(&small, &path);
    assert!(text.contains("2 faults of"), "{text}");
    for command in [smaller.command(), smaller.with_list(&path, &small.outcome.faults).command()] {
        assert!(text.contains(&command), "{command} is not in {text}");
        let (again, _) = run_planted(&read_command(&command), Some(both));
        assert_eq!(
            (again.hash, again.broken),
            (small.outcome.hash, small.outcome.broken.clone()),
            "{command}"
        );
    }
}

#[test]
fn a_report_has_all_that_it_takes_to_repeat_and_to_understand() {
    let plan = plan();
    let both = two_faults(&plan);
    let (outcome, _) = run_planted(&plan, Some(both));
    let text = report::failure(&outcome);
    for expected in [
        "BROKEN: two faults never meet",
        "seed 11 profile network commit ",
        report::COMMIT,
        "group 1:",
        "node 1 core ",
        "node 2 core ",
        "node 3 core ",
        "last events of group 1:",
        "n1   n2   n3",
        &format!("fault #{}: ", both[1].0),
        &plan.command(),
        "--minimise",
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let events = outcome.story.len();
    assert!((30..=50).contains(&events), "{events} events");
    assert_eq!(read_command(&plan.command()), plan);
    let json = report::json(&outcome);
    assert_eq!(json["broken"]["assertion"], "two faults never meet");
    assert_eq!(json["command"], plan.command());
    assert_eq!(json["seed"], 11);
}

#[test]
fn a_summary_marks_what_never_struck_and_what_was_never_reached() {
    let plan = Plan { only: Some("none".parse().unwrap()), ticks: 1_000, ..plan() };
    let (mut outcome, _) = run_planted(&plan, None);
    assert!(outcome.injected.is_empty() && outcome.faults.is_empty());
    // A fault in the list that hits nothing, and one that does.
    let fault = |id: u32, what: FaultKind| Fault { id: FaultId(id), at: 0, span: 0, what };
    outcome.faults = vec![fault(0, FaultKind::Blackout), fault(1, FaultKind::Wipe { node: 0 })];
    outcome.injected.insert("blackout", 1);
    let mut summary = Summary::default();
    summary.add(&outcome);
    let table = summary.table();
    let line = |name: &str| table.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    assert!(line("blackout").ends_with("1 of 1"), "{table}");
    assert!(line("disk wiped").contains("0 of 1   <- NEVER STRUCK"), "{table}");
    assert!(line("in no list:").contains("partition"), "{table}");
    assert!(line("logs poisoned").contains("<- NEVER REACHED"), "{table}");
    assert!(!line("starts").contains("NEVER"), "{table}");
    let json = summary.json(1.0);
    assert_eq!(json["faults"]["disk wiped"], serde_json::json!({ "planned": 1, "struck": 0 }));
}
