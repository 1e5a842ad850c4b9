use logdrive_shard::GroupId;
use logdrive_wal::{Fault, FaultKind, OpKind, SimDisk, SimOptions, SimPlatter};

use super::*;
use crate::core::CoreId;
use crate::node::Remember;
use crate::wire::{BootName, BootNames, Hello, Remembered, Versions};

const START: Start<'static> = Start {
    cluster: 0xC1,
    node: NodeId(2),
    cores: 2,
    groups: 5,
    bootstrap: true,
    founders: &[NodeId(1), NodeId(2), NodeId(3)],
    incarnation: 77,
    boot_name: BootName(1000),
    occupied: false,
};
/// As a restart does it: another random incarnation, which an existing directory ignores, and another name.
const AGAIN: Start<'static> = Start { bootstrap: false, incarnation: 78, boot_name: BootName(2000), ..START };

fn empty() -> SimDisk {
    SimDisk::new(SimOptions::default())
}

/// A directory that was bootstrapped and started once.
fn bootstrapped() -> SimPlatter {
    let node = NodeDirectory::open(empty(), &START).unwrap();
    node.into_disk().platter()
}

fn refused(platter: &SimPlatter, start: &Start<'_>) -> NodeError {
    match NodeDirectory::open(platter.open().unwrap(), start) {
        Ok(node) => panic!("{:?} was accepted", node.identity()),
        Err(error) => error,
    }
}

fn hello(boot: u64) -> Hello {
    Hello {
        versions: Versions::OURS,
        cluster: START.cluster,
        node: NodeId(1),
        core: CoreId(0),
        cores: 2,
        incarnation: 5,
        boot,
        names: BootNames::default().begin(BootName(boot * 3)),
        durable_end: 4096,
        to_node: START.node,
        to_core: CoreId(0),
        remembered: Remembered::default(),
    }
}

#[test]
fn every_start_counts_a_boot_and_keeps_the_rest() {
    let platter = bootstrapped();
    let mut names = BootNames::default().begin(BootName(1000));
    for boot in 2..5 {
        let boot_name = BootName(2000 + boot);
        let start = Start { boot_name, ..AGAIN };
        let node = NodeDirectory::open(platter.open().unwrap(), &start).unwrap();
        names = names.begin(boot_name);
        let expected = Identity { cluster: 0xC1, node: NodeId(2), incarnation: 77, boot, names };
        assert_eq!(node.identity(), expected);
        assert_eq!(node.placement(), &Placement::round_robin(5, 2));
        assert_eq!(node.placement().core_of(GroupId(2)), Some(CoreId(1)));
        drop(node);
        platter.power_loss();
    }
}

#[test]
fn bootstrap_on_an_existing_directory_changes_nothing() {
    let platter = bootstrapped();
    let node = NodeDirectory::open(platter.open().unwrap(), &Start { bootstrap: true, ..AGAIN }).unwrap();
    assert_eq!((node.identity().incarnation, node.identity().boot), (77, 2));
}

#[test]
fn an_empty_directory_without_bootstrap_is_refused() {
    let platter = empty().platter();
    let error = refused(&platter, &AGAIN);
    assert!(matches!(error, NodeError::NotBootstrapped { .. }), "{error}");
    assert_eq!(platter.list(), []);
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let mut disk = empty();
    let name = "photo.jpg".to_owned();
    disk.submit(
        logdrive_wal::Token(1),
        logdrive_wal::Op::Open { name, mode: logdrive_wal::OpenMode::CreateNew },
    );
    disk.run();
    let platter = disk.platter();
    drop(disk);
    match refused(&platter, &START) {
        NodeError::NotANode { found, .. } => assert_eq!(found, "photo.jpg"),
        error => panic!("{error}"),
    }
    assert_eq!(platter.list().len(), 1);
}

#[test]
fn logs_without_an_identity_are_refused() {
    let platter = empty().platter();
    let error = refused(&platter, &Start { occupied: true, ..START });
    assert!(matches!(error, NodeError::NotANode { .. }), "{error}");
}

#[test]
fn the_directory_of_a_foreign_cluster_or_another_node_is_refused() {
    let platter = bootstrapped();
    match refused(&platter, &Start { cluster: 0xC2, ..AGAIN }) {
        NodeError::ForeignCluster { found: 0xC1, expected: 0xC2, .. } => {}
        error => panic!("{error}"),
    }
    match refused(&platter, &Start { node: NodeId(3), bootstrap: true, ..AGAIN }) {
        NodeError::OtherNode { found: NodeId(2), expected: NodeId(3), .. } => {}
        error => panic!("{error}"),
    }
    let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
    assert_eq!(node.identity().boot, 2, "what was refused counts no boot");
}

#[test]
fn another_number_of_cores_or_groups_is_refused_with_the_way_out() {
    let platter = bootstrapped();
    let error = refused(&platter, &Start { cores: 3, ..AGAIN });
    assert!(matches!(error, NodeError::CoresChanged { found: 2, expected: 3, .. }), "{error}");
    assert!(error.to_string().contains("Set cores = 2"), "{error}");
    let error = refused(&platter, &Start { groups: 6, ..AGAIN });
    assert!(matches!(error, NodeError::GroupsChanged { found: 5, expected: 6, .. }), "{error}");
}

#[test]
fn a_flipped_bit_in_any_file_is_refused() {
    for name in ["identity", "placement", "peers"] {
        let body = if name == "peers" { 4 } else { 20 };
        for offset in (0..10).chain(12..16 + body) {
            let platter = bootstrapped();
            assert!(platter.flip(name, offset, 0x10));
            match refused(&platter, &AGAIN) {
                NodeError::Damaged { file, .. } => assert_eq!(file, name),
                error => panic!("{name} at {offset}: {error}"),
            }
        }
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_as_such() {
    const LATER: Format = Format { version: 3, ..IDENTITY };
    let platter = bootstrapped();
    Files::new(platter.open().unwrap()).write(&LATER, b"something else").unwrap();
    match refused(&platter, &AGAIN) {
        NodeError::Version { file: "identity", found: 3, supported: 2, .. } => {}
        error => panic!("{error}"),
    }
}

/// The files as version 1 wrote them: without names of boots.
#[test]
fn a_directory_from_before_boots_had_names_is_opened_and_its_next_boot_has_one() {
    const IDENTITY_1: Format = Format { version: 1, ..IDENTITY };
    const PEERS_1: Format = Format { version: 1, ..PEERS };
    let platter = bootstrapped();
    let mut files = Files::new(platter.open().unwrap());
    let mut identity = Vec::new();
    identity.put_u64(START.cluster);
    identity.put_u32(START.node.0);
    identity.put_u64(77);
    identity.put_u64(6);
    files.write(&IDENTITY_1, &identity).unwrap();
    let mut peers = Vec::new();
    peers.put_u32(1);
    peers.put_u32(1);
    peers.put_u64(5);
    peers.put_u64(9);
    peers.put_u16(1);
    peers.put_u64(9);
    peers.put_u64(4096);
    files.write(&PEERS_1, &peers).unwrap();
    drop(files);
    let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
    let names = BootNames::default().begin(BootName(2000));
    assert_eq!((node.identity().boot, node.identity().names), (7, names));
    let known = node.peers().remembered(NodeId(1), CoreId(0));
    let expected =
        Remembered { incarnation: 5, boot: 9, name: BootName::NONE, durable_end_boot: 9, durable_end: 4096 };
    assert_eq!(known, expected);
    drop(node);
    platter.power_loss();
    let next = Start { boot_name: BootName(3000), ..AGAIN };
    let node = NodeDirectory::open(platter.open().unwrap(), &next).unwrap();
    assert_eq!(node.identity().names, names.begin(BootName(3000)));
    assert_eq!(node.peers().remembered(NodeId(1), CoreId(0)), expected);
}

#[test]
fn what_was_saved_of_peers_is_there_after_a_power_loss() {
    let platter = bootstrapped();
    let mut node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
    let mut peers = node.peers().clone();
    assert_eq!(peers.remember(&hello(9)), Remember::Now);
    node.save_peers(&peers).unwrap();
    drop(node);
    platter.power_loss();
    let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
    assert_eq!(node.peers(), &peers);
    assert_eq!(node.peers().remembered(NodeId(1), CoreId(0)).boot, 9);
}

/// Runs `work` on `platter` until its n-th disk operation, where the process dies, and the power goes if `power`.
fn dies_at(platter: &SimPlatter, n: u64, power: bool, work: impl FnOnce(SimDisk)) -> bool {
    let disk = platter.open().unwrap();
    platter.halt_after(n);
    work(disk);
    let died = platter.halted();
    platter.revive();
    if power {
        platter.power_loss();
    }
    died
}

#[test]
fn a_crash_at_any_point_of_the_bootstrap_leaves_an_empty_or_a_whole_directory() {
    for power in [false, true] {
        let mut n = 0;
        loop {
            let platter = empty().platter();
            let died = dies_at(&platter, n, power, |disk| drop(NodeDirectory::open(disk, &START)));
            let node =
                NodeDirectory::open(platter.open().unwrap(), &Start { bootstrap: true, ..AGAIN }).unwrap();
            assert!([77, 78].contains(&node.identity().incarnation), "after {n} operations");
            assert_eq!(node.placement(), &Placement::round_robin(5, 2));
            if !died {
                break;
            }
            n += 1;
        }
        assert!(n > 20, "the bootstrap took only {n} operations");
    }
}

#[test]
fn a_boot_that_was_reported_is_never_reported_again() {
    for power in [false, true] {
        let mut n = 0;
        loop {
            let platter = bootstrapped();
            let mut reported = (1, BootName(1000));
            let died = dies_at(&platter, n, power, |disk| {
                if let Ok(node) = NodeDirectory::open(disk, &AGAIN) {
                    reported = (node.identity().boot, node.identity().names.newest());
                }
            });
            let next = Start { boot_name: BootName(3000), ..AGAIN };
            let node = NodeDirectory::open(platter.open().unwrap(), &next).unwrap();
            let Identity { boot, names, .. } = node.identity();
            assert!(boot > reported.0, "after {n} operations");
            assert_eq!(names.before(boot - reported.0), Some(reported.1), "after {n} operations");
            if !died {
                break;
            }
            n += 1;
        }
    }
}

#[test]
fn a_crash_while_peers_are_saved_leaves_the_old_or_the_new_memory() {
    for power in [false, true] {
        let mut n = 0;
        loop {
            let platter = bootstrapped();
            let mut peers = PeersMemory::default();
            assert_eq!(peers.remember(&hello(9)), Remember::Now);
            let mut saved = false;
            let died = dies_at(&platter, n, power, |disk| {
                let Ok(mut node) = NodeDirectory::open(disk, &AGAIN) else { return };
                saved = node.save_peers(&peers).is_ok();
            });
            let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
            assert!(node.peers() == &peers || (!saved && node.peers() == &PeersMemory::default()));
            if !died {
                assert!(saved);
                break;
            }
            n += 1;
        }
    }
}

#[test]
fn a_full_disk_and_a_failed_write_are_named() {
    for fault in [FaultKind::Errno(libc::ENOSPC), FaultKind::Short(0)] {
        let platter = bootstrapped();
        platter.inject(Fault::next(OpKind::Write, fault));
        match refused(&platter, &AGAIN) {
            NodeError::Disk { error, .. } => assert!(error.is_out_of_space(), "{error}"),
            error => panic!("{error}"),
        }
        let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
        assert_eq!(node.identity().boot, 2);
    }
    let platter = bootstrapped();
    platter.inject(Fault::next(OpKind::Sync, FaultKind::Errno(libc::EIO)));
    assert!(refused(&platter, &AGAIN).to_string().contains("Look at the disk"));
}

#[test]
fn the_founders_are_those_of_the_first_start_and_added_nodes_stay() {
    let platter = bootstrapped();
    let others = Start { founders: &[NodeId(2), NodeId(9)], ..AGAIN };
    let mut node = NodeDirectory::open(platter.open().unwrap(), &others).unwrap();
    assert_eq!(node.roster().founders, START.founders);
    let mut roster = node.roster().clone();
    let new =
        crate::runtime::PeerAddress { node: NodeId(4), peer: "a:1".to_owned(), client: "a:2".to_owned() };
    assert!(roster.add(new));
    node.save_roster(&roster).unwrap();
    drop(node);
    platter.power_loss();
    let node = NodeDirectory::open(platter.open().unwrap(), &others).unwrap();
    assert_eq!(*node.roster(), roster);
}

#[test]
fn a_directory_of_an_earlier_version_gets_the_founders_of_its_configuration() {
    let platter = bootstrapped();
    platter.remove("nodes");
    let node = NodeDirectory::open(platter.open().unwrap(), &AGAIN).unwrap();
    assert_eq!(node.roster().founders, START.founders);
    drop(node);
    let others = Start { founders: &[NodeId(2), NodeId(9)], ..AGAIN };
    let node = NodeDirectory::open(platter.open().unwrap(), &others).unwrap();
    assert_eq!(node.roster().founders, START.founders);
}
