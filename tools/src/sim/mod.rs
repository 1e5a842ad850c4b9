//! The simulator: clusters of production code (`engine::core`, `shard`, `wal`, all codecs and recovery) on a simulated clock, network,
//! disk and mesh, in one thread, from one seed.
//!
//! # Order of calls
//!
//! A [`plan::Plan`] says what is simulated. [`run::run`] makes a [`world::World`] of it, lets the plan's faults strike, heals and checks,
//! and returns an [`run::Outcome`]; it never panics because something broke. Tests that want single troubles make a world themselves:
//! [`world::World::new`], [`world::World::observe`], [`world::World::start`], then [`world::World::strike`] and
//! [`world::World::run_for`] as they like, inside [`run::guard`].
//!
//! # What is where
//!
//! | file | |
//! |---|---|
//! | `plan`, `shape` | sizes and profile; what the seed makes of the settings |
//! | `faults`, `mix` | faults as values; the list that a plan makes |
//! | `strike`, `disk_faults` | what faults do when they strike and when they end |
//! | `atlas` | which blocks of which disks hold damage, and whether more may come |
//! | `snaps` | how snapshots are taken in a run, and the faults that are about them |
//! | `world`, `queue` | the world and its events |
//! | `node`, `lives`, `turn` | nodes: where groups live, how processes start and end, how cores turn |
//! | `network`, `disk`, `clock` | what lies between and below them |
//! | `mesh` | what lies between the cores of a node, and the connections of clients to cores |
//! | `clients`, `machine`, `ops` | the load, the replicated state, the history |
//! | `observer`, `oracle` | the places at which a run is looked at; the checks |
//! | `heal` | the end of a run: a quorum heals, then everybody |
//! | `run`, `trace`, `report`, `story` | one run, what is kept of it, how it is told |
//! | `many`, `summary` | many runs, and what they were made of |
//! | `minimise`, `listing` | a smaller run that breaks the same; lists of faults as files |
//! | `cli` | the command |
//!
//! `README.md` beside this file has the fault model, and how to add a fault or a check.

mod atlas;
pub mod buggify;
pub mod cli;
mod clients;
pub mod clock;
pub mod disk;
pub mod disk_faults;
pub mod faults;
mod heal;
pub mod listing;
mod lives;
mod log_traps;
pub mod machine;
pub mod many;
mod mesh;
pub mod minimise;
pub mod mix;
mod network;
pub mod node;
pub mod observer;
mod operators;
pub mod ops;
pub mod oracle;
pub mod plan;
mod queue;
pub mod random;
pub mod report;
pub mod run;
pub mod shape;
mod snaps;
pub mod story;
mod strike;
pub mod summary;
pub mod trace;
pub mod traps;
mod turn;
pub mod world;
