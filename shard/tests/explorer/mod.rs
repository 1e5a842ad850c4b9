//! An explorer of small models: every state that a group of a few members can reach, whatever order the messages, the disk,
//! the timers and the faults take, with the safety properties checked in each of them.
//!
//! | file | what |
//! |---|---|
//! | `model.rs` | what a model is made of, and the steps that there can be |
//! | `world.rs` | one state of the model: members, links, what is spent; and the steps from it |
//! | `member.rs` | one member as its caller keeps it: group, log, journal, disk |
//! | `properties.rs` | the five safety properties of the Raft paper (figure 3), and what this crate promises beyond them |
//! | `pulses.rs` | what cores say to each other for leases, in models with clocks |
//! | `search.rs` | depth first through all states, each once; a path that fails is shortened before it is shown |
//! | `snapshots.rs` | snapshots of a member: taken, received, started from |
//! | `show.rs` | a state as text |
//!
//! Time is abstracted: all durations are zero, the clock stands at zero, and a deadline is either armed or not. So "a timeout
//! may happen at any moment" needs no clock in the state, and equal situations are equal states. Models of leases have a clock of a few
//! ticks, the same for all.
#![allow(dead_code, unreachable_pub)]

pub mod member;
pub mod model;
pub mod properties;
mod pulses;
#[path = "../common/says.rs"]
mod says;
pub mod search;
mod show;
pub mod snapshots;
pub mod world;
