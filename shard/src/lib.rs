//! One Raft group, pure: no I/O, clock, thread, async, entropy or payload bytes.
//!
//! A [`Group`] is one member of one Raft group (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", ATC 2014, called the Raft paper here; Ongaro, "Consensus: Bridging Theory and Practice", Stanford 2014,
//! called the dissertation). It is made to be one of many thousands: 256 bytes of hot state, no allocation in the steady
//! state, no tick. The caller feeds it messages, completions, contact and time; it answers through a [`Sink`].
//!
//! # What the caller does, in order
//!
//! 1. [`Group::new`] from what recovery found, the configurations in the log among it; with a snapshot, from what [`Start::join`]
//!    makes of it and the log. Then [`Group::on_route`] and
//!    [`Group::on_contact`], in this order, for every node that hosts the group too, when and whenever they change, and for
//!    the members again after [`Sink::members_changed`]. A new group has no routes and no contact, and does nothing without. A
//!    node need not be a member to be reported: a member that lags behind has to listen to a leader that it does not
//!    know yet, and a new node, which starts without any configuration, to the leader that adds it.
//! 2. In each turn: collect inputs, **then** read the clock, and step the groups that the inputs concern, each step with
//!    an [`Env`]. With an append of a peer, the configurations among its entries are handed in, decoded. After each step do what it asked of the sink:
//!    - *write* hard states ([`Sink::save_hard_state`]), no-ops ([`Sink::append_empty`]), configurations
//!      ([`Sink::append_membership`]), the entries of an accepted proposal ([`Proposed`]) and of an
//!      accepted append ([`Accepted`]), in the order of the steps, into one log. The first entry of a write replaces the log
//!      from its index on. Keep the payloads where [`Sink::fit`] finds them.
//!    - *send* immediate messages when it likes; *park* the others until everything written up to and including their step
//!      is durable ([`Sink`] says which is which).
//! 3. [`Group::flush`] once per turn for each group that was proposed to, read from or given another configuration
//!    ([`Group::change_membership`]).
//! 4. When writes are durable: [`Group::on_durable`] with the epoch and last index of the group's latest durable write of
//!    entries, [`Group::on_vote_durable`] if [`Sink::own_vote_written`] asked for it, and release what was parked on them.
//! 5. Apply entries up to [`Group::applicable`], which may have moved after [`Sink::committed`] and after
//!    [`Group::on_durable`]; report with [`Group::on_applied`]. The configuration that a snapshot needs is the last one that was
//!    *applied*, with its index: the caller keeps it, and hands it to [`Start::join`] with a log that begins behind it.
//! 6. Some milliseconds after [`Sink::committed`] on a leader: [`Group::flush_commit`].
//! 7. Keep a timer for [`Group::next_deadline`], which may have changed with any step, and call [`Group::on_deadline`].
//!    [`Moment::NEVER`] is the usual answer of a quiet group.
//! 8. Snapshots, if the log is not to grow for ever: take one of what is applied, with its configuration; when it is durable, write to
//!    the log that it is cut up to [`Group::compactable`] and call [`Group::compacted`]. Send one where [`Sink::snapshot_wanted`] says,
//!    tell [`Group::on_snapshot_report`] how that goes, and on the other side install what arrived with [`Group::on_snapshot`], in
//!    the order that `snapshot.rs` gives: **snapshot durable, log moved, state swapped, acknowledged**.
//!
//! # The house
//!
//! | file | what |
//! |---|---|
//! | `group.rs` | the state, hot and cold; where it starts from; questions |
//! | `role.rs` | follower, candidate, leader: the data that only they have |
//! | `election.rs` | campaigns, votes, changes of role, the election deadline |
//! | `replication.rs` | the leader: proposals, appends, acknowledgements, commit |
//! | `follower.rs` | the follower: appends and heartbeats |
//! | `progress.rs`, `inflights.rs` | how far a peer is, and the window of what is in flight to it |
//! | `term_runs.rs` | which entry has which term |
//! | `snapshot.rs` | compaction; a peer that needs a snapshot; installing one |
//! | `start.rs` | from a snapshot and a log, whichever of them is ahead |
//! | `read_index.rs`, `forward.rs` | linearizable reads in rounds; those of followers |
//! | `lease.rs` | reads under a lease, and why they are safe |
//! | `transfer.rs` | handing leadership over |
//! | `history.rs` | what happened lately, for people |
//! | `lost.rs` | a member whose disk lost what it had vouched for |
//! | `uncommitted.rs` | the limits on what is proposed and not committed |
//! | `contact.rs` | routes, contact, deadlines |
//! | `quorum.rs`, `joint.rs` | majorities, of one set of voters and of two |
//! | `membership.rs` | a configuration and its bytes |
//! | `confchange.rs` | from one configuration to the next |
//! | `members.rs` | the configuration in force, positions of peers, removed members |
//! | `sessions.rs` | exactly-once commands of clients: replicated state that the caller feeds |
//! | `mutant.rs` | bugs that can be compiled in, for the tests to catch |
//! | `message.rs`, `sink.rs`, `api.rs`, `config.rs`, `types.rs` | the interface |
//!
//! # What is deliberately absent
//!
//! - **Payloads.** The group knows indexes, terms and sizes. Entries lie in the caller's log and cache.
//! - **Heartbeats on a timer.** Whether a peer is there is one fact per pair of cores, not one per group: it comes in with
//!   [`Group::on_contact`]. A group's own heartbeats carry a read round, a commit index or an announcement, when there is
//!   one. (Tens of thousands of groups that heartbeat each for itself saturate a core.)
//! - **A tick.** The group names its next deadline.
//! - **Snapshots' bytes.** Files, parts and transfers are the caller's, as are the limits on them; the group knows what a snapshot
//!   says of the log: index, term, configuration.
//! - **Trust in peers.** What no correct member would send is ignored and counted ([`Group::refused_messages`]); it
//!   never trips an assertion. Assertions guard this crate's invariants and the caller's duties, and stay on in release.
#![forbid(unsafe_code)]

mod api;
mod confchange;
mod config;
mod contact;
mod election;
mod follower;
mod forward;
mod group;
mod history;
mod inflights;
mod joint;
mod lease;
mod lost;
mod members;
mod membership;
mod message;
mod mutant;
mod progress;
mod quorum;
mod random;
mod read_index;
mod replication;
mod role;
mod sessions;
mod sink;
mod snapshot;
mod start;
mod term_runs;
#[cfg(test)]
mod testing;
mod transfer;
mod types;
mod uncommitted;

pub use api::{Accepted, Env, PeerReport, Proposed, Refused, Report, Role};
pub use confchange::{BadChange, MemberStep, MembershipChange, Transition};
pub use config::{Config, HardState, LogState, Setup};
pub use group::Group;
pub use history::{HISTORY_MAX, HistoryEntry, HistoryEvent, StepDown, TransferEnd, VoteRefusal};
pub use lease::{LeaseRefused, Support};
pub use lost::{LogEnd, Lost};
pub use membership::{
    InvalidMembership, MEMBERS_MAX, MEMBERSHIP_BYTES_MAX, MemberKind, Members, Membership, VOTERS_MAX,
};
pub use message::{
    Append, AppendOutcome, AppendReply, Heartbeat, HeartbeatReply, ReadIndexReply, ReadIndexRequest,
    TermQuery, TermReport, TimeoutNow, VoteReply, VoteRequest,
};
pub use random::Random;
pub use sessions::{
    Admitted, SESSION_HEADER_MAX, SESSION_REPLY_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX, SessionEntry,
    SessionFormatError, SessionKey, SessionOp, SessionRefused, SessionTable,
};
pub use sink::{Fit, Sink};
pub use snapshot::{
    SNAPSHOT_SILENCE_INTERVALS, SnapshotDecision, SnapshotMeta, SnapshotStatus, SnapshotWanted,
};
pub use start::{Start, StartError};
pub use types::{GroupId, LogIndex, Moment, NodeId, Route, Term};
