//! What the `logdrive` binary is made of, as a library so that tests can start the parts in their own process.

pub mod redis;
pub mod sim;
