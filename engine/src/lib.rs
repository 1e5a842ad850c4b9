//! logdrive: a multi-Raft storage engine. Skeleton; the module documentation comes with the implementation.

pub mod api;
pub mod core;
pub mod kv;
pub mod node;
pub mod runtime;
pub mod wire;
