//! One Raft group, pure: no I/O, clock, thread, async, entropy or payload bytes.
//!
//! Skeleton; the module documentation comes with the implementation.
#![forbid(unsafe_code)]

mod config;
mod group;
mod message;
mod random;
mod sink;
mod types;

pub use config::{Config, HardState, LogState, Setup};
pub use group::{Accepted, Env, Group, PeerReport, Proposed, Refused, Report, Role, VOTERS_MAX};
pub use message::{
    Append, AppendOutcome, AppendReply, Heartbeat, HeartbeatReply, TimeoutNow, VoteReply, VoteRequest,
};
pub use random::Random;
pub use sink::{Fit, Sink};
pub use types::{GroupId, LogIndex, Moment, NodeId, Route, Term};
