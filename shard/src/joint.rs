//! Decisions of one set of voters or of two (dissertation, 4.3).

use crate::LogIndex;
use crate::quorum::{PEERS_MAX, PeerSet, quorum, reached_by_quorum};

/// The voters of any configuration, joint or not, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct JointConfig {
    /// The voters. Empty in a node that knows no configuration: then nothing is ever a quorum.
    pub(crate) incoming: PeerSet,
    /// The outgoing voters of a joint configuration.
    pub(crate) outgoing: PeerSet,
}

impl JointConfig {
    /// Whether `peer` takes part in decisions.
    pub(crate) fn decides(self, peer: usize) -> bool {
        self.incoming.union(self.outgoing).contains(peer)
    }

    /// Whether `agreed` holds a majority of the voters, and of the outgoing voters if there are any.
    pub(crate) fn is_quorum(self, agreed: PeerSet) -> bool {
        let majority = |voters: PeerSet| voters.intersection(agreed).count() >= quorum(voters.count());
        majority(self.incoming) && (self.outgoing.is_empty() || majority(self.outgoing))
    }

    /// The highest index that a quorum has reached.
    pub(crate) fn reached(self, index_of: impl Fn(usize) -> LogIndex) -> LogIndex {
        let by = |voters: PeerSet| {
            let mut indexes = [LogIndex(0); PEERS_MAX + 1];
            let count = voters.count();
            for (slot, peer) in indexes.iter_mut().zip(voters.iter()) {
                *slot = index_of(peer);
            }
            reached_by_quorum(&mut indexes[..count])
        };
        let reached = by(self.incoming);
        if self.outgoing.is_empty() { reached } else { reached.min(by(self.outgoing)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::SELF;

    fn set(positions: &[usize]) -> PeerSet {
        let mut set = PeerSet::EMPTY;
        positions.iter().for_each(|&position| set.insert(position));
        set
    }

    #[test]
    fn a_joint_configuration_takes_both_majorities_not_one_of_the_union() {
        let joint = JointConfig { incoming: set(&[0, 1, 2]), outgoing: set(&[SELF, 3, 4]) };
        assert!(!joint.is_quorum(set(&[0, 1, 2, 3])), "four of six, but one of three");
        assert!(joint.is_quorum(set(&[0, 1, 3]).with_self()));
        assert!(joint.decides(4) && joint.decides(SELF) && !joint.decides(5));
        let index = |peer: usize| LogIndex([9, 8, 1, 7, 2][..].get(peer).copied().unwrap_or(5));
        assert_eq!(joint.reached(index), LogIndex(5), "8 by the one, 5 by the other");
        let left = JointConfig { outgoing: PeerSet::EMPTY, ..joint };
        assert_eq!(left.reached(index), LogIndex(8));
        assert!(
            left.is_quorum(set(&[0, 1])) && !left.is_quorum(set(&[0]).with_self()),
            "this node is no voter"
        );
    }

    #[test]
    fn without_a_configuration_nothing_is_a_quorum() {
        let none = JointConfig::default();
        assert!(!none.is_quorum(set(&[0, 1, 2]).with_self()));
        assert_eq!(none.reached(|_| LogIndex(9)), LogIndex(0));
    }
}
