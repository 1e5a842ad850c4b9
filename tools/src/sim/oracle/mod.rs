//! The checks: each is an [`Observer`] that says what must never be seen.
//!
//! | file | what it asserts |
//! |---|---|
//! | `commands` | every node applies the same commands in the same order, once; answers tell what happened; reads see what was acknowledged |
//! | `raft` | one leader per term; votes and acknowledgements are kept over restarts; what is committed is durable on a quorum |

mod commands;
mod raft;

pub use commands::Commands;
pub use raft::Raft;

use super::observer::Observer;
use super::plan::Plan;

/// All checks that fit a plan.
pub fn all(_plan: &Plan) -> Vec<Box<dyn Observer>> {
    vec![Box::<Commands>::default(), Box::<Raft>::default()]
}
