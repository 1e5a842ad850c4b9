//! The `logdrive` binary as its users run it: real processes, real sockets on loopback, real files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail the test")]

mod admin;
mod catchup;
mod cluster;
mod config;
mod crash;
mod dev;
mod grown;
mod identity;
mod log;
mod members;
mod refusals;
mod snapshot;
mod snapshots;
mod stop;
mod transfers;
