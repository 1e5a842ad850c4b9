//! Every queue and budget of a core, and of its end of the mesh, is within its bound. Looked at after one turn of each core in sixteen, and after the last.

use logdrive::core::Held;

use crate::sim::node::CoreAt;
use crate::sim::observer::{ChangedSlot, Observer, Verdict, ensure};
use crate::sim::world::World;

/// One turn of so many is looked at; a bound that is passed stays so for a while.
const ONE_IN: u64 = 16;

/// The check.
#[derive(Default)]
pub struct Bounds {
    turns: u64,
}

fn judge(held: &[Held]) -> Verdict {
    held.iter().try_for_each(|held| {
        ensure(held.held <= held.at_most, "queues and budgets are within their bounds", || {
            format!("{}: {} of {}", held.what, held.held, held.at_most)
        })
    })
}

impl Bounds {
    fn look(&self, world: &World, at: CoreAt) -> Verdict {
        let Some(core) = world.core(at) else { return Ok(()) };
        judge(&core.held())
            .and_then(|()| judge(&world.mesh_held(at)))
            .map_err(|broken| broken.on_node(world.node_id(at)))
    }
}

impl Observer for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn turned(&mut self, world: &World, core: CoreAt, _changed: &[ChangedSlot]) -> Verdict {
        self.turns += 1;
        if !self.turns.is_multiple_of(ONE_IN) {
            return Ok(());
        }
        self.look(world, core)
    }

    fn finished(&mut self, world: &World) -> Verdict {
        world.cores().try_for_each(|at| self.look(world, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_its_bound_is_seen() {
        let held = |held| [Held { what: "requests", held, at_most: 3 }];
        judge(&held(3)).unwrap();
        assert_eq!(judge(&held(4)).unwrap_err().what, "requests: 4 of 3");
    }
}
