//! Sets of peers and majorities of voters.

use crate::LogIndex;

/// Other nodes that a group knows, at most: members, and guests that are none.
pub(crate) const PEERS_MAX: usize = 15;

/// A set of peers, by position in the group's list of peers, and perhaps this node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PeerSet(u16);

/// Where this node itself is in a set.
pub(crate) const SELF: usize = PEERS_MAX;

const _: () = assert!(SELF < u16::BITS as usize && PEERS_MAX > crate::membership::MEMBERS_MAX);

impl PeerSet {
    /// No peer.
    pub(crate) const EMPTY: PeerSet = PeerSet(0);

    pub(crate) fn contains(self, peer: usize) -> bool {
        self.0 >> peer & 1 == 1
    }

    pub(crate) fn insert(&mut self, peer: usize) {
        self.0 |= 1 << peer;
    }

    pub(crate) fn remove(&mut self, peer: usize) {
        self.0 &= !(1 << peer);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of the first `count` positions.
    pub(crate) fn first(self, count: usize) -> PeerSet {
        PeerSet(self.0 & ((1 << count) - 1))
    }

    pub(crate) fn with_self(self) -> PeerSet {
        PeerSet(self.0 | 1 << SELF)
    }

    pub(crate) fn union(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 | other.0)
    }

    /// The positions, ascending.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..u16::BITS as usize).filter(move |&peer| self.contains(peer))
    }

    /// Those that are in both.
    pub(crate) fn intersection(self, other: PeerSet) -> PeerSet {
        PeerSet(self.0 & other.0)
    }

    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether these peers, of which only the first `peer_count` count, plus this node itself, are a majority of
    /// `peer_count + 1` voters.
    pub(crate) fn is_quorum_with_self(self, peer_count: usize) -> bool {
        self.first(peer_count).count() + 1 >= quorum(peer_count + 1)
    }

    /// Whether these of `peer_count` peers are a majority of the group without this node.
    pub(crate) fn is_quorum_of_others(self, peer_count: usize) -> bool {
        self.first(peer_count).count() >= quorum(peer_count + 1)
    }
}

/// How many of `voters` are a majority.
pub(crate) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest index that a majority of `indexes` has reached: the upper median's lower neighbour, so to speak.
/// `indexes` holds one index per voter and is reordered.
pub(crate) fn reached_by_quorum(indexes: &mut [LogIndex]) -> LogIndex {
    match *indexes {
        [] => LogIndex(0),
        [only] => only,
        // Three voters are the usual case, and their median needs no sort.
        [a, b, c] => a.max(b).min(c).max(a.min(b)),
        _ => {
            indexes.sort_unstable();
            indexes[indexes.len() - quorum(indexes.len())]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(indexes: &[u64]) -> u64 {
        let mut indexes: Vec<LogIndex> = indexes.iter().map(|&i| LogIndex(i)).collect();
        reached_by_quorum(&mut indexes).0
    }

    #[test]
    fn a_majority_of_one_to_seven() {
        assert_eq!((1..=7).map(quorum).collect::<Vec<_>>(), [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn the_index_a_majority_reached() {
        assert_eq!(reached(&[5]), 5);
        assert_eq!(reached(&[5, 3]), 3);
        assert_eq!(reached(&[9, 1, 2, 3]), 2);
        assert_eq!(reached(&[9, 1, 8, 2, 3]), 3);
        assert_eq!(reached(&[7, 6, 5, 4, 3, 2, 1]), 4);
    }

    #[test]
    fn the_median_of_three_agrees_with_sorting() {
        for a in 0..3 {
            for b in 0..3 {
                for c in 0..3 {
                    let mut sorted = [a, b, c];
                    sorted.sort_unstable();
                    assert_eq!(reached(&[a, b, c]), sorted[1], "{a} {b} {c}");
                }
            }
        }
    }

    #[test]
    fn peers_and_self_make_a_quorum() {
        let mut peers = PeerSet::EMPTY;
        assert!(peers.is_quorum_with_self(0));
        assert!(!peers.is_quorum_with_self(1));
        peers.insert(1);
        assert!(peers.contains(1) && peers.is_quorum_with_self(2) && !peers.is_quorum_with_self(4));
        peers.insert(9);
        assert!(!peers.is_quorum_with_self(4), "who is no peer does not count");
        assert_eq!(peers.iter().collect::<Vec<_>>(), [1, 9]);
        peers.remove(1);
        peers.remove(9);
        assert!(peers.is_empty());
    }
}
