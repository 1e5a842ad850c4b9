//! Depth first through all states of a model, each once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ahash::RandomState;
use logdrive_shard::Config;

use super::model::{Action, Model};
use super::world::World;

/// What an exploration saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Different states.
    pub states: u64,
    /// Steps taken, each of them checked.
    pub steps: u64,
    /// Longest path.
    pub depth: usize,
    /// Whether all states were seen.
    pub complete: bool,
}

struct Frame {
    world: World,
    actions: Vec<Action>,
}

/// Visits all states of the model, or the first `states_max`.
///
/// # Panics
/// If a property fails, with the shortest path found that leads there.
pub fn explore(model: &Model, states_max: u64) -> Seen {
    let config = model.config();
    let mut path = Vec::new();
    let result = catch_unwind(AssertUnwindSafe(|| walk(model, &config, states_max, &mut path)));
    match result {
        Ok(seen) => seen,
        Err(panic) => {
            let short = shorten(model, &config, path);
            eprintln!("model {}: a property fails after {} steps", model.name, short.len());
            show(model, &config, &short);
            std::panic::resume_unwind(panic)
        }
    }
}

/// What is in the set was visited. Keys are hashes already.
type Visited = hashbrown::HashSet<u64, RandomState>;

fn walk(model: &Model, config: &Config, states_max: u64, path: &mut Vec<Action>) -> Seen {
    let root = World::new(model, config);
    let mut visited = Visited::with_hasher(RandomState::with_seeds(5, 6, 7, 8));
    visited.insert(root.key());
    let mut seen = Seen { states: 1, complete: true, ..Seen::default() };
    let mut stack = vec![frame(model, root)];
    while let Some(top) = stack.last_mut() {
        let Some(action) = top.actions.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut world = top.world.clone();
        path.push(action);
        world.apply(config, action);
        seen.steps += 1;
        if visited.insert(world.key()) {
            seen.states += 1;
            seen.depth = seen.depth.max(path.len());
            if seen.states >= states_max {
                seen.complete = false;
                return seen;
            }
            stack.push(frame(model, world));
        } else {
            path.pop();
        }
    }
    seen
}

fn frame(model: &Model, world: World) -> Frame {
    let mut actions = Vec::new();
    world.actions(model, &mut actions);
    Frame { world, actions }
}

/// Whether the path is possible and ends in a failure, and after how many steps it does.
fn fails(model: &Model, config: &Config, path: &[Action]) -> Option<usize> {
    let mut done = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(model, config);
        for &action in path {
            if !world.allows(model, action) {
                return;
            }
            done += 1;
            world.apply(config, action);
        }
    }));
    outcome.is_err().then_some(done)
}

/// Leaves out whatever the failure does not need.
fn shorten(model: &Model, config: &Config, mut path: Vec<Action>) -> Vec<Action> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut width = path.len().div_ceil(2);
    while width > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < path.len() {
            let mut candidate = path.clone();
            candidate.drain(at..(at + width).min(path.len()));
            match fails(model, config, &candidate) {
                Some(length) => {
                    candidate.truncate(length);
                    path = candidate;
                    shorter = true;
                }
                None => at += width,
            }
        }
        width = if shorter && width == 1 { 1 } else { width / 2 };
    }
    std::panic::set_hook(hook);
    path
}

fn show(model: &Model, config: &Config, path: &[Action]) {
    let mut world = World::new(model, config);
    eprint!("{world}");
    for (at, &action) in path.iter().enumerate() {
        eprintln!("  {}", world.describe(action));
        if at + 1 < path.len() {
            world.apply(config, action);
        }
    }
    eprint!("before the last step:\n{world}");
}

/// A line for the log of a run.
pub fn report(model: &Model, seen: Seen, took: Duration) {
    let Seen { states, steps, depth, complete } = seen;
    let how = if complete { "all" } else { "the first" };
    println!(
        "{:<28} {how} {states} states, {steps} steps, longest path {depth}, {:.1} s",
        model.name,
        took.as_secs_f64()
    );
}
