//! Bugs that others have shipped, to be compiled in one at a time (`--cfg mutant_<name>`, or see `build.rs`): with any of them the
//! tests must fail. All are off, and gone, in a normal build.

/// The leader counts its own copy before it is durable (etcd#14370).
pub(crate) const OWN_COPY_EARLY: bool = cfg!(mutant_own_copy_early);
/// A candidate counts its own vote before it is durable (tikv#994).
pub(crate) const OWN_VOTE_EARLY: bool = cfg!(mutant_own_vote_early);
/// A follower reports its own last index as matched (redpanda#3003).
pub(crate) const REPORTS_LAST: bool = cfg!(mutant_reports_last);
/// A follower commits past what it matched (scylla#9965).
pub(crate) const COMMITS_LAST: bool = cfg!(mutant_commits_last);
/// The leader commits an entry of an older term by counting copies (Raft paper, figure 8).
pub(crate) const COMMITS_OLDER_TERM: bool = cfg!(mutant_commits_older_term);
/// Reads are confirmed before a commit in the own term (etcd#7331).
pub(crate) const READS_BEFORE_COMMIT: bool = cfg!(mutant_reads_before_commit);
/// The completion of an old write vouches for what replaced it (etcd-io/raft 897e1cf).
pub(crate) const ABA: bool = cfg!(mutant_aba);
/// Votes at once after a restart (tikv#15035).
pub(crate) const VOTES_AFTER_RESTART: bool = cfg!(mutant_votes_after_restart);
/// A lease outlives the order to another member to campaign (tikv#4680).
pub(crate) const LEASE_AFTER_TRANSFER: bool = cfg!(mutant_lease_after_transfer);
/// A lease counts the support of a member that has withdrawn.
pub(crate) const LEASE_IGNORES_WITHDRAWAL: bool = cfg!(mutant_lease_ignores_withdrawal);
/// A member votes although a leader that it left may hold a lease by its promise.
pub(crate) const PROMISE_BROKEN: bool = cfg!(mutant_promise_broken);
/// No rehearsal and no stickiness: whoever returns with a higher term deposes the leader.
pub(crate) const ELEVATED_TERM: bool = cfg!(mutant_elevated_term);
/// A configuration is in force when it is committed, not when it is appended (redisraft#17).
pub(crate) const MEMBERS_AT_COMMIT: bool = cfg!(mutant_members_at_commit);
/// A configuration stays in force when its entry is cut off.
pub(crate) const MEMBERS_NOT_UNDONE: bool = cfg!(mutant_members_not_undone);
/// A change is appended while the one before is not committed.
pub(crate) const TWO_CHANGES: bool = cfg!(mutant_two_changes);
/// A leader changes the configuration before it has committed in its term (the bug of single-server changes of 2015).
pub(crate) const CHANGE_BEFORE_COMMIT: bool = cfg!(mutant_change_before_commit);
/// A vote given in a term that was saved before is not saved itself (tikv#8381).
pub(crate) const VOTE_UNSAVED: bool = cfg!(mutant_vote_unsaved);
/// A member whose hard state may be lost votes and acknowledges all the same.
pub(crate) const DOUBT_IGNORED: bool = cfg!(mutant_doubt_ignored);
/// A member in doubt asks only the voters that it knows itself.
pub(crate) const NAMED_IGNORED: bool = cfg!(mutant_named_ignored);
/// A member that lost entries votes for whoever is ahead of what it has left.
pub(crate) const FLOOR_IGNORED: bool = cfg!(mutant_floor_ignored);
/// A leader goes on counting what a peer acknowledged before it came back with less.
pub(crate) const MATCHED_REMEMBERED: bool = cfg!(mutant_matched_remembered);
/// A leader leads on although its followers wait for what its disk has lost, and could do without it.
pub(crate) const UNREADABLE_LEADS: bool = cfg!(mutant_unreadable_leads);
/// A member that cannot read all of its log goes on acknowledging what comes.
pub(crate) const VOUCHES_UNREADABLE: bool = cfg!(mutant_vouches_unreadable);
/// Whoever is refused for its term asks in the new one at its next deadline only.
pub(crate) const TERM_BEHIND: bool = cfg!(mutant_term_behind);
/// What became of a snapshot counts however often it is reported (etcd#18055).
pub(crate) const SNAPSHOT_TWICE: bool = cfg!(mutant_snapshot_twice);
/// A snapshot is installed with the term of the leader that sent it instead of its own.
pub(crate) const SNAPSHOT_WRONG_TERM: bool = cfg!(mutant_snapshot_wrong_term);
/// A snapshot is installed without its configuration.
pub(crate) const SNAPSHOT_WITHOUT_MEMBERS: bool = cfg!(mutant_snapshot_without_members);
/// A snapshot replaces the log although the log goes on behind it.
pub(crate) const SNAPSHOT_DROPS_LOG: bool = cfg!(mutant_snapshot_drops_log);
