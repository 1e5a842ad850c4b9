//! The numbers of the protocol, each with a type of its own.

use std::fmt;
use std::time::Duration;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A Raft group of the cluster; the same number on every node.
    GroupId(u64)
}
number! {
    /// A node of the cluster. Never reused: a node that lost its disk returns under a new one. 0 is nobody.
    NodeId(u32)
}
number! {
    /// A term of one group (Raft paper, 5.1). 0 before the first election.
    Term(u64)
}
number! {
    /// The position of an entry in one group's log. The first entry has index 1; 0 is "before the log".
    LogIndex(u64)
}
number! {
    /// The caller's name for the way to a peer of a group (link and remote slot, packed). Opaque here.
    Route(u64)
}

impl NodeId {
    /// Nobody: no vote cast, no leader known.
    pub const NONE: NodeId = NodeId(0);

    /// Whether this names a node at all.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl LogIndex {
    /// The index after this one.
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The index `count` after this one.
    pub fn plus(self, count: u64) -> LogIndex {
        LogIndex(self.0 + count)
    }
}

impl Route {
    /// No way to the peer is known (not connected, or it does not host the group).
    pub const NONE: Route = Route(u64::MAX);
}

/// A moment of the caller's monotonic clock, in nanoseconds since an origin of its own choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than every deadline: "never".
    pub const NEVER: Moment = Moment(u64::MAX);

    /// This moment plus `duration`, saturating at [`Moment::NEVER`].
    pub fn after(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
