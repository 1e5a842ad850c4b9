//! Sets of peers and majorities of voters.

use crate::{LogIndex, VOTERS_MAX};

/// Other voters of a group, at most.
pub(crate) const PEERS_MAX: usize = VOTERS_MAX - 1;

/// A set of peers, by position in the group's list of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PeerSet(u8);

const _: () = assert!(PEERS_MAX <= u8::BITS as usize);

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

    /// Whether these peers, plus this node itself, are a majority of `peer_count + 1` voters.
    pub(crate) fn is_quorum_with_self(self, peer_count: usize) -> bool {
        self.0.count_ones() as usize + 1 >= quorum(peer_count + 1)
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
        peers.insert(3);
        assert!(peers.contains(3) && peers.is_quorum_with_self(2) && !peers.is_quorum_with_self(4));
        peers.remove(3);
        assert!(peers.is_empty());
    }
}
