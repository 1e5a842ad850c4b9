//! The `logdrive` binary as its users run it: real processes, real sockets on loopback, real files.

mod config;
