//! The files of snapshots, on the simulated disk and on a real one.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod basics;
mod common;
mod crash;
mod damage;
mod disks;
mod failures;
mod fixture;
mod offline;
mod random;
mod resume;
mod transfer;
