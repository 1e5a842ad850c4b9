//! logdrive: a multi-Raft storage engine. Thousands of Raft groups per node, one thread per core, one shared group-commit log per
//! core.
//!
//! # For a program that embeds it
//!
//! Bring a [`api::StateMachine`] (or take [`kv::KvMachine`]), fill in [`runtime::NodeSettings`], and call
//! [`runtime::Engine::start`]. Then, from any thread and under any async runtime:
//!
//! 1. [`runtime::Engine::group`] gives a handle to a group; [`runtime::Group::propose`] replicates a payload and answers with the
//!    state machine's reply, [`runtime::Group::read`] asks the state machine under an [`api::ReadPolicy`].
//! 2. A request that did not succeed says so with an [`api::Error`]; [`api::Error::retry`] says whether and where to try again.
//!    Proposals are taken by the leader only: [`api::Retry::At`] names it.
//! 3. [`runtime::Engine::shutdown`] hands leadership over, answers what is under way and closes the logs.
//!
//! What has thousands of requests in flight runs on the cores themselves, as a [`runtime::Service`]: its
//! [`runtime::CoreClient`] opens a [`runtime::Port`] that takes requests by token and hands answers back a turn at a time, without
//! an allocation or a future per request.
//!
//! `examples/embed.rs` is a three-node cluster in one process in under a hundred lines.
//!
//! # Modules
//!
//! - [`api`]: outcomes, state machines, settings of a core: the words that all others share.
//! - [`core`]: the loop of one core over all its groups, a deterministic state machine. No async, no clock, no socket.
//! - [`wire`]: what cores of different nodes say to each other: the handshake and the frame.
//! - [`node`]: a node's data directory: identity, placement of groups on cores, memory of peers, and the rules of who may connect.
//! - [`mesh`]: requests between the cores of one node, deterministic as well.
//! - [`runtime`]: executors, sockets, timers, wake-ups, start and stop; the embedding API.
//! - [`kv`]: the key-value state machine.
//!
//! The consensus of one group is `logdrive-shard`, the log is `logdrive-wal`; they know nothing of each other.
//!
//! # What is deliberately absent
//!
//! Clients' protocols (they are services: the Redis front door is one), routing of keys to groups, and any way to read or
//! change a state machine around its log.

pub mod api;
pub mod core;
pub mod kv;
pub mod mesh;
mod mutant;
pub mod node;
pub mod runtime;
pub mod snapshot;
pub mod wire;
