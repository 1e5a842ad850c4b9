use proptest::prelude::*;

use super::*;

fn nodes(ids: &[u32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn lists(voters: &[u32], outgoing: &[u32], learners: &[u32], learners_next: &[u32]) -> Members {
    Members {
        voters: nodes(voters),
        outgoing: nodes(outgoing),
        learners: nodes(learners),
        learners_next: nodes(learners_next),
        auto_leave: false,
    }
}

#[test]
fn lists_are_sorted_and_members_named_once() {
    let membership = Membership::new(lists(&[4, 1, 3], &[3, 2, 1], &[9, 7], &[2])).unwrap();
    assert_eq!(membership.voters(), nodes(&[1, 3, 4]));
    assert_eq!(membership.members().collect::<Vec<_>>(), nodes(&[1, 3, 4, 2, 7, 9]));
    assert!(membership.is_joint() && membership.is_voter(NodeId(2)) && !membership.is_voter(NodeId(7)));
    assert_eq!(membership.kind(NodeId(2)), MemberKind::Outgoing);
    assert_eq!(membership.kind(NodeId(5)), MemberKind::Stranger);
    assert_eq!(membership.to_string(), "voters 1 3 4, outgoing 1 2 3, learners 7 9, learners to be 2");
}

#[test]
fn what_contradicts_itself_is_no_configuration() {
    use InvalidMembership::{Contradiction, NoVoters, NotJoint, TooMany};
    let refused = |members| Membership::new(members).unwrap_err();
    let twice = |id| Contradiction { node: NodeId(id) };
    assert_eq!(refused(lists(&[], &[1], &[], &[])), NoVoters);
    assert_eq!(refused(lists(&[1, 1], &[], &[], &[])), twice(1));
    assert_eq!(refused(lists(&[0, 1], &[], &[], &[])), twice(0));
    assert_eq!(refused(lists(&[1], &[], &[1], &[])), twice(1));
    assert_eq!(refused(lists(&[1], &[2], &[2], &[])), twice(2));
    assert_eq!(refused(lists(&[1, 2], &[1, 2], &[], &[2])), twice(2));
    assert_eq!(refused(lists(&[1], &[], &[], &[2])), NotJoint);
    assert_eq!(refused(Members { auto_leave: true, ..lists(&[1], &[], &[], &[]) }), NotJoint);
    let many: Vec<u32> = (1..=10).collect();
    assert_eq!(refused(lists(&many, &[], &[], &[])), TooMany { voters: 10, members: 10 });
    let joint = lists(&many[..8], &[11, 12, 13, 14, 15, 16, 17, 18], &[], &[]);
    assert_eq!(refused(joint), TooMany { voters: 8, members: 16 });
}

/// The bytes lie in logs and snapshots: they stay readable.
#[test]
fn the_bytes_of_version_one() {
    let joint = Members { auto_leave: true, ..lists(&[1, 300], &[1, 2], &[5], &[2]) };
    let membership = Membership::new(joint).unwrap();
    let bytes = [1, 1, 2, 2, 1, 1, 1, 0, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(membership.encode(), bytes);
    assert_eq!(Membership::decode(&bytes), Ok(membership));
    assert_eq!(Membership::decode(&[2, 0]), Err(InvalidMembership::Version { version: 2 }));
    for len in 0..bytes.len() {
        assert!(Membership::decode(&bytes[..len]).is_err(), "{len} bytes of it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes say: an error, or a configuration that has exactly these bytes.
    #[test]
    fn garbage_is_an_error(
        counts in prop::array::uniform4(0..5u8),
        flags in 0..3u8,
        ids in prop::collection::vec(0..6u32, 0..12),
    ) {
        let mut bytes = vec![VERSION, flags];
        bytes.extend(counts);
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        if let Ok(membership) = Membership::decode(&bytes) {
            prop_assert_eq!(membership.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        drop(Membership::decode(&bytes));
    }
}
