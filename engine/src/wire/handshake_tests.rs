use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn hello_strategy() -> impl Strategy<Value = Hello> {
    let ids = (any::<u64>(), any::<u32>(), any::<u16>(), any::<u16>(), any::<u32>(), any::<u16>());
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (any::<u16>(), any::<u16>(), ids, numbers).prop_map(|(min, max, ids, numbers)| {
        let (cluster, node, core, cores, to_node, to_core) = ids;
        let (incarnation, boot, durable_end, known, known_boot, known_end) = numbers;
        let names = (0..boot % 40).fold(BootNames::default(), |names, n| names.begin(BootName(n ^ known)));
        Hello {
            versions: Versions { min, max },
            cluster,
            node: NodeId(node),
            core: CoreId(core),
            cores,
            incarnation,
            boot,
            names,
            durable_end,
            to_node: NodeId(to_node),
            to_core: CoreId(to_core),
            remembered: Remembered {
                incarnation: known,
                boot: known_boot,
                name: BootName(known_end ^ 1),
                durable_end_boot: known_boot / 2,
                durable_end: known_end,
            },
        }
    })
}

fn groups_strategy() -> impl Strategy<Value = PeerHello> {
    let group = (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(id, slot, history)| HelloGroup {
        id: GroupId(id),
        slot,
        history,
    });
    (any::<u32>(), any::<u16>(), any::<u64>(), vec(group, 0..20)).prop_map(|(node, core, boot, groups)| {
        PeerHello { node: NodeId(node), core: CoreId(core), boot, groups }
    })
}

fn reject_strategy() -> impl Strategy<Value = Reject> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u16>(), any::<[u16; 4]>());
    (0..13_u8, numbers).prop_map(|(which, (a, b, node, core, versions))| {
        let [ours_min, ours_max, theirs_min, theirs_max] = versions;
        let node = NodeId(node);
        match which {
            0 => Reject::ForeignCluster { ours: a, theirs: b },
            1 => Reject::WrongNode { here: node, wanted: NodeId(a as u32) },
            2 => Reject::UnknownNode { node },
            3 => Reject::SameNode { node },
            4 => Reject::NoSuchCore { core, cores: ours_min },
            5 => Reject::VersionMismatch { ours_min, ours_max, theirs_min, theirs_max },
            6 => Reject::OlderBoot { node, remembered: a, found: b },
            7 => Reject::OtherIncarnation { node, remembered: a, found: b },
            8 => Reject::LostData { node, core, acknowledged: a, found: b },
            9 => Reject::BadGroups { node, group: a },
            10 => Reject::Stopping,
            11 => {
                let (remembered, found) = (BootName(a), BootName(b));
                Reject::OtherBoot { node, boot: a ^ b, remembered, found }
            }
            _ => Reject::Unknown { code: core.max(100) },
        }
    })
}

fn message_strategy() -> impl Strategy<Value = Handshake> {
    prop_oneof![
        hello_strategy().prop_map(Handshake::Hello),
        groups_strategy().prop_map(Handshake::Groups),
        reject_strategy().prop_map(Handshake::Reject),
    ]
}

fn encoded(message: &Handshake) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn messages_are_read_back(message in message_strategy(), before in vec(any::<u8>(), 0..4)) {
        let mut bytes = before.clone();
        message.encode(&mut bytes);
        let bytes = &bytes[before.len()..];
        prop_assert_eq!(handshake_len(&bytes[..HANDSHAKE_HEADER_LEN]), Ok(bytes.len()));
        prop_assert_eq!(Handshake::decode(bytes), Ok(message));
    }

    #[test]
    fn a_flipped_bit_is_an_error(message in message_strategy(), bit in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Handshake::decode(&bytes).is_err());
    }

    #[test]
    fn tampered_messages_with_a_right_checksum_are_errors_or_messages(
        message in message_strategy(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0..40_usize,
    ) {
        let mut bytes = encoded(&message);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate((bytes.len() - cut.min(bytes.len())).max(HANDSHAKE_HEADER_LEN));
        let len = (bytes.len() - HANDSHAKE_HEADER_LEN) as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        reseal(&mut bytes);
        let _ = Handshake::decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_errors(bytes in vec(any::<u8>(), 0..100)) {
        prop_assert!(Handshake::decode(&bytes).is_err());
    }
}

#[test]
fn ten_thousand_groups_fit_and_too_many_are_refused_by_the_header() {
    let groups =
        (0..10_000_u32).map(|n| HelloGroup { id: GroupId(u64::from(n) + 1), slot: n, history: 1 }).collect();
    let message = Handshake::Groups(PeerHello { node: NodeId(1), core: CoreId(0), boot: 1, groups });
    let mut bytes = encoded(&message);
    assert_eq!(Handshake::decode(&bytes), Ok(message));
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = handshake_len(&bytes[..HANDSHAKE_HEADER_LEN]).unwrap_err();
    assert!(matches!(error, HandshakeError::TooLong { len, .. } if len == u64::from(u32::MAX)));
}

fn a_hello() -> Hello {
    Hello {
        versions: Versions::OURS,
        cluster: 1,
        node: NodeId(2),
        core: CoreId(0),
        cores: 1,
        incarnation: 5,
        boot: 3,
        names: BootNames::default().begin(BootName(8)).begin(BootName(9)),
        durable_end: 0,
        to_node: NodeId(1),
        to_core: CoreId(0),
        remembered: Remembered::default(),
    }
}

#[test]
fn a_hello_with_fields_of_a_later_version_is_understood() {
    let mut bytes = encoded(&Handshake::Hello(a_hello()));
    bytes.extend_from_slice(b"later fields");
    let len = (bytes.len() - HANDSHAKE_HEADER_LEN) as u32;
    bytes[12..16].copy_from_slice(&len.to_le_bytes());
    reseal(&mut bytes);
    assert_eq!(Handshake::decode(&bytes), Ok(Handshake::Hello(a_hello())));
}

#[test]
fn a_hello_of_an_earlier_version_has_no_names_of_boots() {
    let remembered = Remembered { name: BootName(77), ..Remembered::default() };
    let mut bytes = encoded(&Handshake::Hello(Hello { remembered, ..a_hello() }));
    // One name remembered, a count, and two names.
    bytes.truncate(bytes.len() - (8 + 2 + 2 * 8));
    let len = (bytes.len() - HANDSHAKE_HEADER_LEN) as u32;
    bytes[12..16].copy_from_slice(&len.to_le_bytes());
    reseal(&mut bytes);
    let unnamed = Hello { names: BootNames::default(), ..a_hello() };
    assert_eq!(Handshake::decode(&bytes), Ok(Handshake::Hello(unnamed)));
}

#[test]
fn the_highest_common_version_is_taken() {
    let versions = |min, max| Versions { min, max };
    assert_eq!(versions(1, 3).highest_common(versions(2, 5)), Some(3));
    assert_eq!(versions(2, 5).highest_common(versions(1, 3)), Some(3));
    assert_eq!(versions(1, 1).highest_common(versions(1, 9)), Some(1));
    assert_eq!(versions(1, 2).highest_common(versions(3, 4)), None);
    assert_eq!(versions(3, 4).highest_common(versions(1, 2)), None);
    assert_eq!(versions(4, 3).highest_common(versions(1, 9)), None);
}

#[test]
fn contradictory_tables_of_groups_are_refused() {
    let group = |id, slot| HelloGroup { id: GroupId(id), slot, history: 1 };
    let table = |groups| PeerHello { node: NodeId(2), core: CoreId(0), boot: 3, groups };
    let hello = a_hello();
    assert_eq!(table(vec![group(7, 1), group(3, 0)]).check(&hello), Ok(()));
    let bad = |group| Err(Reject::BadGroups { node: NodeId(2), group });
    assert_eq!(table(vec![group(7, 1), group(3, 0), group(7, 2)]).check(&hello), bad(7));
    assert_eq!(table(vec![group(7, 1), group(9, 1)]).check(&hello), bad(9));
    let later = PeerHello { boot: 4, ..table(vec![]) };
    assert_eq!(later.check(&hello), bad(0));
}

#[test]
fn a_client_that_calls_the_wrong_port_is_told_apart() {
    let error = handshake_len(b"*1\r\n$4\r\nPING\r\n  ").unwrap_err();
    assert!(error.to_string().contains("client's address"), "{error}");
}
