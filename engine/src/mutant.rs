//! Bugs that others have shipped, at the level of a core, to be compiled in one at a time (`--cfg mutant_<name>`, or see `build.rs`):
//! with any of them the tests must fail. All are off, and gone, in a normal build.

/// A write counts as durable as soon as it was handed to the log: the leader counts its own copy, a single voter answers
/// (etcd#14370).
pub(crate) const DURABLE_WHEN_WRITTEN: bool = cfg!(mutant_durable_when_written);
/// What vouches for a write leaves before the write is durable: append replies, votes (tikv#994).
pub(crate) const VOUCHES_EARLY: bool = cfg!(mutant_vouches_early);
/// A lease is judged by the clock as it was when the read was taken, which may have been before a pause.
pub(crate) const LEASE_BY_OLD_CLOCK: bool = cfg!(mutant_lease_by_old_clock);
/// What is committed is applied although the own log does not hold it durably.
pub(crate) const APPLIES_UNDURABLE: bool = cfg!(mutant_applies_undurable);
/// What the log says it lost is not told to the group.
pub(crate) const LOSS_UNNOTICED: bool = cfg!(mutant_loss_unnoticed);
/// A removed member that gives its log up forgets its term and vote as well.
pub(crate) const RETIRED_FORGETS_VOTE: bool = cfg!(mutant_retired_forgets_vote);
/// A joint change is answered when it was entered, not when it was left.
pub(crate) const JOINT_ANSWERED_EARLY: bool = cfg!(mutant_joint_answered_early);
/// A batch that meets another one in a lane of the mesh goes before it.
pub(crate) const LANE_REORDERED: bool = cfg!(mutant_lane_reordered);
/// An answer that came over the mesh goes to whoever has the port now.
pub(crate) const PORT_LIFE_IGNORED: bool = cfg!(mutant_port_life_ignored);
/// A refusal that came over the mesh does not give back what the request took of the lane's bound.
pub(crate) const REFUSAL_KEEPS_ROOM: bool = cfg!(mutant_refusal_keeps_room);
