//! One run: a world, its troubles, the healing; and what came of it as a value. Nothing panics here: an assertion of production code
//! that does not hold is one more way for a run to be broken.

use std::cell::RefCell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::clock::Nanos;
use super::faults::Fault;
use super::observer::{Broken, Observer, Verdict};
use super::oracle;
use super::plan::{Plan, START};
use super::trace::{Line, Trace};
use super::world::{Counts, World};

/// Lines told of the group in which an assertion broke.
const STORY_LINES: usize = 50;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// What broke first, if anything did.
    pub broken: Option<Box<Broken>>,
    /// The same for the same plan, always.
    pub hash: u64,
    /// Time simulated.
    pub simulated: Nanos,
    /// Turns of all cores.
    pub turns: u64,
    /// Faults that struck, by name.
    pub injected: Counts,
    /// What was met.
    pub reached: Counts,
    /// The list of faults.
    pub faults: Vec<Fault>,
    /// If it broke: the last events of the group.
    pub story: Vec<Line>,
    /// If it broke: the state of the group on all nodes.
    pub states: Vec<String>,
}

thread_local! {
    /// What a panic said, while a run is under way on this thread.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNS: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics of runs are kept for their outcome instead of being printed.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNS.with_borrow(|runs| *runs) {
                return before(info);
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let text = info.payload_as_str().unwrap_or("a panic without a message");
            let told = format!("{text} (at {place})");
            if cfg!(panic = "abort") {
                // Nobody can catch it: it is told while there is time.
                eprintln!("a production assertion broke: {told}");
            }
            PANIC.with_borrow_mut(|panic| *panic = Some(told));
        }));
    });
}

/// Runs `what` on a world; a panic becomes a broken assertion.
pub fn guard(world: &mut World, what: impl FnOnce(&mut World) -> Verdict) -> Verdict {
    catch_panics();
    RUNS.with_borrow_mut(|runs| *runs = true);
    let caught = catch_unwind(AssertUnwindSafe(|| what(world)));
    RUNS.with_borrow_mut(|runs| *runs = false);
    let mut verdict = match caught {
        Ok(verdict) => verdict,
        Err(_) => {
            let text = PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            Err(Broken::new("production code keeps its assertions", text))
        }
    };
    if let Err(broken) = &mut verdict {
        broken.at = world.now();
    }
    verdict
}

/// Runs a plan with all checks.
pub fn run(plan: &Plan) -> Outcome {
    run_traced(plan, None)
}

/// The same; every event goes to `file` as well.
pub fn run_traced(plan: &Plan, file: Option<Box<dyn Write>>) -> Outcome {
    run_observed(plan, file, Vec::new())
}

/// The same, with more checks than there are.
pub fn run_observed(plan: &Plan, file: Option<Box<dyn Write>>, more: Vec<Box<dyn Observer>>) -> Outcome {
    let trace = Trace::new(plan.groups as usize, file);
    let mut world = World::new(plan.clone(), trace);
    for observer in oracle::all(plan).into_iter().chain(more) {
        world.observe(observer);
    }
    let verdict = guard(&mut world, phases);
    outcome(world, verdict)
}

/// Troubles, a healed quorum, then everybody.
fn phases(world: &mut World) -> Verdict {
    world.start()?;
    world.run_until(world.plan().faults_end())?;
    world.heal_a_quorum()?;
    world.come_to_rest()?;
    world.heal_the_rest()?;
    world.come_to_rest()?;
    world.tell(|observer, world| observer.finished(world))
}

/// What is told of a world when it ended.
pub fn outcome(mut world: World, verdict: Verdict) -> Outcome {
    for at in world.cores() {
        world.keep_counts(at);
        world.count_disk_faults(at);
    }
    let whims = std::rc::Rc::clone(&world.whims);
    whims.count(&mut world.reached);
    let broken = verdict.err();
    let (mut story, mut states) = (Vec::new(), Vec::new());
    if let Some(broken) = &broken {
        story = world.trace.last(broken.group, STORY_LINES);
        if let Some(group) = broken.group {
            states = (0..world.nodes()).map(|node| super::report::state_on(&world, node, group)).collect();
        }
    }
    // A core whose code panicked may do so again when it is dropped.
    let outcome = Outcome {
        plan: world.plan().clone(),
        broken,
        hash: world.trace.hash(),
        simulated: world.now() - START,
        turns: world.turns(),
        injected: std::mem::take(&mut world.injected),
        reached: std::mem::take(&mut world.reached),
        faults: world.faults().to_vec(),
        story,
        states,
    };
    RUNS.with_borrow_mut(|runs| *runs = true);
    let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
    RUNS.with_borrow_mut(|runs| *runs = false);
    outcome
}
