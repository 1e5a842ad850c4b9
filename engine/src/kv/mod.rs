//! The in-memory key-value state machine.
//!
//! - [`Command`], [`Query`] and [`Reply`]: what is proposed, what is asked and what is answered, with their encoding. A
//!   program (the Redis front door is one) encodes a command, proposes it to the key's group, and decodes the reply.
//! - [`KvMachine`]: the [`StateMachine`](crate::api::StateMachine) that holds the keys of all groups of one core.
//!   [`KvView`] is a group of it as it was at one moment, [`KvLoading`] one that is being read from a snapshot.
//! - [`DigestMachine`]: the least a state machine can do, for benchmarks and simulations: a count and a digest.
//!
//! Deliberately absent: expiry (a clock would differ between replicas), routing of keys to groups (the front door's), types
//! beside strings.

mod codec;
mod digest;
mod garbage;
mod load;
mod machine;
mod reply;
mod saved;
mod table;
mod view;

pub use codec::{Command, CommandView, Condition, Malformed, Pairs, Query, QueryView, Strings};
pub use digest::DigestMachine;
pub use load::KvLoading;
pub use machine::KvMachine;
pub use reply::{Failure, Reply, Values};
pub use view::KvView;

#[cfg(test)]
mod snapshot_tests;
