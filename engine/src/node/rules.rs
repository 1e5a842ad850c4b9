//! Who may connect: the rules by which a `Hello` is judged. Pure.

use logdrive_shard::NodeId;

use super::PeersMemory;
use crate::core::CoreId;
use crate::wire::{BootNames, Hello, Reject, Remembered, Versions};

/// The judging side.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its cluster.
    pub cluster: u64,
    /// It.
    pub node: NodeId,
    /// Incarnation of its data directory.
    pub incarnation: u64,
    /// Its boot.
    pub boot: u64,
    /// The names of that boot and of those before it.
    pub names: &'a BootNames,
    /// Its cores.
    pub cores: u16,
    /// The end of what is durable in the log of the core that the connection is for. Any value of this boot will do.
    pub durable_end: u64,
    /// The nodes of the cluster.
    pub members: &'a [NodeId],
    /// The node that was dialled, by the side that dialled.
    pub dialled: Option<(NodeId, CoreId)>,
}

/// A `Hello` that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The version to speak.
    pub version: u16,
}

/// Judges a `Hello`. Both sides judge each other, by the same rules.
///
/// Neither side may come with less than it once had. A durable end is held against a log only across boots: within one boot the
/// `Hello` may simply have been written before a pulse that arrived earlier on another connection. What lies above the
/// durable end may be lost in a crash (a torn tail), which nobody holds against anybody.
///
/// Boots of the same number are told apart by their names: the boot in which a node was met must be among those that it descends from. That
/// is what gives away a backup that was taken before that boot, whatever was started on it and written since.
pub fn judge(own: &Own<'_>, memory: &PeersMemory, hello: &Hello) -> Result<Accepted, Reject> {
    judge_address(own, hello)?;
    let Some(version) = Versions::OURS.highest_common(hello.versions) else {
        return Err(Reject::VersionMismatch {
            ours_min: Versions::OURS.min,
            ours_max: Versions::OURS.max,
            theirs_min: hello.versions.min,
            theirs_max: hello.versions.max,
        });
    };
    let mut remembered = memory.remembered(hello.node, hello.core);
    if memory.cores_changed(hello) {
        remembered.durable_end = 0;
    }
    let found = Found {
        incarnation: hello.incarnation,
        boot: hello.boot,
        names: &hello.names,
        durable_end: hello.durable_end,
    };
    judge_history(hello.node, hello.core.0, &remembered, &found)?;
    // And what the peer remembers of this node.
    let found = Found {
        incarnation: own.incarnation,
        boot: own.boot,
        names: own.names,
        durable_end: own.durable_end,
    };
    judge_history(own.node, hello.to_core.0, &hello.remembered, &found)?;
    Ok(Accepted { version })
}

/// Whether the right two have met.
fn judge_address(own: &Own<'_>, hello: &Hello) -> Result<(), Reject> {
    if hello.cluster != own.cluster {
        return Err(Reject::ForeignCluster { ours: own.cluster, theirs: hello.cluster });
    }
    if hello.to_node != own.node {
        return Err(Reject::WrongNode { here: own.node, wanted: hello.to_node });
    }
    if hello.node == own.node {
        return Err(Reject::SameNode { node: own.node });
    }
    match own.dialled {
        Some((wanted, _)) if hello.node != wanted => {
            return Err(Reject::WrongNode { here: hello.node, wanted });
        }
        Some((_, core)) if hello.core != core => {
            return Err(Reject::NoSuchCore { core: core.0, cores: hello.cores });
        }
        _ => {}
    }
    if !hello.node.is_some() || !own.members.contains(&hello.node) {
        return Err(Reject::UnknownNode { node: hello.node });
    }
    if hello.to_core.0 >= own.cores {
        return Err(Reject::NoSuchCore { core: hello.to_core.0, cores: own.cores });
    }
    if hello.core.0 >= hello.cores {
        return Err(Reject::NoSuchCore { core: hello.core.0, cores: hello.cores });
    }
    Ok(())
}

/// A core of a node, as it presents itself.
struct Found<'a> {
    incarnation: u64,
    boot: u64,
    names: &'a BootNames,
    durable_end: u64,
}

/// Compares what is remembered of a core with what is found.
fn judge_history(node: NodeId, core: u16, known: &Remembered, found: &Found<'_>) -> Result<(), Reject> {
    if known.incarnation == 0 {
        return Ok(()); // Never met.
    }
    if found.incarnation != known.incarnation {
        let (remembered, found) = (known.incarnation, found.incarnation);
        return Err(Reject::OtherIncarnation { node, remembered, found });
    }
    let Some(later) = found.boot.checked_sub(known.boot) else {
        return Err(Reject::OlderBoot { node, remembered: known.boot, found: found.boot });
    };
    match found.names.before(later) {
        Some(name) if known.name.is_some() && name != known.name => {
            return Err(Reject::OtherBoot { node, boot: known.boot, remembered: known.name, found: name });
        }
        _ => {}
    }
    if found.boot > known.durable_end_boot && found.durable_end < known.durable_end {
        let (acknowledged, found) = (known.durable_end, found.durable_end);
        return Err(Reject::LostData { node, core, acknowledged, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Remember;
    use crate::wire::BootName;

    const MEMBERS: &[NodeId] = &[NodeId(1), NodeId(2), NodeId(3)];

    /// The names of boots up to `boot`, each named `salt` plus its number.
    fn names(salt: u64, boot: u64) -> BootNames {
        (1..=boot).fold(BootNames::default(), |names, boot| names.begin(BootName(salt + boot)))
    }

    fn own() -> Own<'static> {
        static NAMES: std::sync::LazyLock<BootNames> = std::sync::LazyLock::new(|| names(40, 4));
        Own {
            cluster: 9,
            node: NodeId(1),
            incarnation: 100,
            boot: 4,
            names: &NAMES,
            cores: 2,
            durable_end: 5000,
            members: MEMBERS,
            dialled: None,
        }
    }

    fn hello() -> Hello {
        hello_of(7)
    }

    fn hello_of(boot: u64) -> Hello {
        Hello {
            versions: Versions::OURS,
            cluster: 9,
            node: NodeId(2),
            core: CoreId(1),
            cores: 2,
            incarnation: 200,
            boot,
            names: names(70, boot),
            durable_end: 8000,
            to_node: NodeId(1),
            to_core: CoreId(0),
            remembered: Remembered::default(),
        }
    }

    /// A memory in which `hello()` was accepted, and the log reported 9000 later.
    fn memory() -> PeersMemory {
        let mut memory = PeersMemory::default();
        assert_eq!(memory.remember(&hello()), Remember::Now);
        assert_eq!(memory.remember_end(NodeId(2), CoreId(1), 7, 9000), Remember::Later);
        memory
    }

    #[test]
    fn a_stranger_of_the_cluster_is_accepted_and_remembered() {
        assert_eq!(
            judge(&own(), &PeersMemory::default(), &hello()),
            Ok(Accepted { version: Versions::OURS.max })
        );
        let mut memory = memory();
        let known = memory.remembered(NodeId(2), CoreId(1));
        assert_eq!(
            known,
            Remembered {
                incarnation: 200,
                boot: 7,
                name: BootName(77),
                durable_end_boot: 7,
                durable_end: 9000,
            }
        );
        assert_eq!(memory.remembered(NodeId(2), CoreId(0)).durable_end, 0);
        assert_eq!(memory.remembered(NodeId(3), CoreId(0)), Remembered::default());
        assert_eq!(memory.remember(&hello()), Remember::Unchanged);
        let next = Hello { durable_end: 9000, ..hello_of(8) };
        assert_eq!(judge(&own(), &memory, &next), Ok(Accepted { version: Versions::OURS.max }));
        assert_eq!(memory.remember(&next), Remember::Now);
    }

    #[test]
    fn those_who_meant_somebody_else_are_refused() {
        let refused = |hello: Hello| judge(&own(), &PeersMemory::default(), &hello).unwrap_err();
        assert_eq!(refused(Hello { cluster: 8, ..hello() }), Reject::ForeignCluster { ours: 9, theirs: 8 });
        assert_eq!(
            refused(Hello { to_node: NodeId(3), ..hello() }),
            Reject::WrongNode { here: NodeId(1), wanted: NodeId(3) }
        );
        assert_eq!(refused(Hello { node: NodeId(1), ..hello() }), Reject::SameNode { node: NodeId(1) });
        assert_eq!(refused(Hello { node: NodeId(4), ..hello() }), Reject::UnknownNode { node: NodeId(4) });
        assert_eq!(
            refused(Hello { to_core: CoreId(2), ..hello() }),
            Reject::NoSuchCore { core: 2, cores: 2 }
        );
        assert_eq!(refused(Hello { core: CoreId(2), ..hello() }), Reject::NoSuchCore { core: 2, cores: 2 });
        let versions = Versions { min: 90, max: 91 };
        assert!(matches!(refused(Hello { versions, ..hello() }), Reject::VersionMismatch { .. }));
    }

    #[test]
    fn a_dialler_that_reached_another_node_or_core_is_told_so() {
        let dialled = |node, core| Own { dialled: Some((NodeId(node), CoreId(core))), ..own() };
        let memory = PeersMemory::default();
        assert!(judge(&dialled(2, 1), &memory, &hello()).is_ok());
        assert_eq!(
            judge(&dialled(3, 1), &memory, &hello()),
            Err(Reject::WrongNode { here: NodeId(2), wanted: NodeId(3) })
        );
        assert_eq!(judge(&dialled(2, 0), &memory, &hello()), Err(Reject::NoSuchCore { core: 0, cores: 2 }));
    }

    #[test]
    fn a_wiped_disk_under_a_known_identity_is_refused() {
        let wiped = Hello { incarnation: 201, boot: 1, durable_end: 0, ..hello() };
        let expected = Reject::OtherIncarnation { node: NodeId(2), remembered: 200, found: 201 };
        assert_eq!(judge(&own(), &memory(), &wiped), Err(expected));
    }

    #[test]
    fn a_restored_backup_is_refused() {
        let older = hello_of(6);
        let expected = Reject::OlderBoot { node: NodeId(2), remembered: 7, found: 6 };
        assert_eq!(judge(&own(), &memory(), &older), Err(expected));
        // The counter caught up, by restarts, but the log did not.
        let older = Hello { durable_end: 8999, ..hello_of(8) };
        let expected = Reject::LostData { node: NodeId(2), core: 1, acknowledged: 9000, found: 8999 };
        assert_eq!(judge(&own(), &memory(), &older), Err(expected));
    }

    #[test]
    fn field_29_a_restored_backup_that_begins_the_same_boot_again_is_refused() {
        // A copy of boot 6: its boot 7 is another one, and so is all that descends from it, however much is written.
        let copy = |boot: u64| {
            let anew = (7..=boot).fold(names(70, 6), |names, boot| names.begin(BootName(500 + boot)));
            Hello { names: anew, durable_end: 50_000, ..hello_of(boot) }
        };
        let (remembered, found) = (BootName(77), BootName(507));
        let expected = Reject::OtherBoot { node: NodeId(2), boot: 7, remembered, found };
        for boot in [7, 8, 20, 38] {
            assert_eq!(judge(&own(), &memory(), &copy(boot)), Err(expected), "boot {boot}");
        }
        let said = expected.to_string();
        for part in ["node 2", "000000000000004d", "00000000000001fb", "backup", "replace it"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        // Its real successors are welcome.
        for boot in [8, 20, 38, 39, 1000] {
            let next = Hello { durable_end: 9000, ..hello_of(boot) };
            assert!(judge(&own(), &memory(), &next).is_ok(), "boot {boot}");
        }
        // The copy learns it from those who remember its node, too.
        let told =
            Remembered { incarnation: 100, boot: 4, name: BootName(9), durable_end_boot: 4, durable_end: 0 };
        let judged = judge(&own(), &PeersMemory::default(), &Hello { remembered: told, ..hello() });
        let (remembered, found) = (BootName(9), BootName(44));
        assert_eq!(judged, Err(Reject::OtherBoot { node: NodeId(1), boot: 4, remembered, found }));
    }

    #[test]
    fn boots_that_were_met_before_they_had_names_are_judged_by_their_numbers() {
        let mut memory = PeersMemory::default();
        let unnamed = |boot| Hello { names: BootNames::default(), ..hello_of(boot) };
        assert_eq!(memory.remember(&unnamed(6)), Remember::Now);
        // The node was upgraded: the next boot is the first that has a name.
        let first = Hello { names: BootNames::default().begin(BootName(77)), ..hello_of(7) };
        assert!(judge(&own(), &memory, &first).is_ok());
        assert_eq!(memory.remember(&first), Remember::Now);
        // From there on there is no way back to boots without.
        let found = BootName::NONE;
        let expected = Err(Reject::OtherBoot { node: NodeId(2), boot: 7, remembered: BootName(77), found });
        assert_eq!(judge(&own(), &memory, &unnamed(7)), expected);
        assert_eq!(judge(&own(), &memory, &unnamed(9)), expected);
        let later = Hello { names: first.names.begin(BootName(78)), ..hello_of(8) };
        assert!(judge(&own(), &memory, &later).is_ok());
    }

    #[test]
    fn a_hello_overtaken_by_a_pulse_of_the_same_boot_is_accepted() {
        let late = Hello { durable_end: 8500, ..hello() };
        assert!(judge(&own(), &memory(), &late).is_ok());
        let mut memory = memory();
        assert_eq!(memory.remember(&late), Remember::Unchanged);
        assert_eq!(memory.remembered(NodeId(2), CoreId(1)).durable_end, 9000);
    }

    #[test]
    fn the_second_core_of_a_restarted_node_is_judged_like_the_first() {
        let mut memory = memory();
        let first = Hello { core: CoreId(0), durable_end: 100, ..hello_of(8) };
        assert!(judge(&own(), &memory, &first).is_ok());
        assert_eq!(memory.remember(&first), Remember::Now);
        // By now the boot is known; the log of core 1 is behind all the same.
        let second = Hello { durable_end: 8999, ..hello_of(8) };
        assert!(matches!(judge(&own(), &memory, &second), Err(Reject::LostData { .. })));
    }

    #[test]
    fn a_node_learns_from_its_peers_that_it_is_a_restored_backup() {
        let told = |remembered| judge(&own(), &PeersMemory::default(), &Hello { remembered, ..hello() });
        let same = Remembered {
            incarnation: 100,
            boot: 4,
            name: BootName(44),
            durable_end_boot: 4,
            durable_end: 6000,
        };
        assert!(told(same).is_ok(), "of the same boot: this side's figure is merely older");
        let node = NodeId(1);
        assert_eq!(
            told(Remembered { incarnation: 99, ..same }),
            Err(Reject::OtherIncarnation { node, remembered: 99, found: 100 })
        );
        assert_eq!(
            told(Remembered { boot: 5, ..same }),
            Err(Reject::OlderBoot { node, remembered: 5, found: 4 })
        );
        assert_eq!(
            told(Remembered { boot: 3, name: BootName(43), durable_end_boot: 3, ..same }),
            Err(Reject::LostData { node, core: 0, acknowledged: 6000, found: 5000 })
        );
    }

    #[test]
    fn another_number_of_cores_is_another_set_of_logs() {
        let mut memory = memory();
        let more = Hello { cores: 4, durable_end: 10, ..hello_of(8) };
        assert!(judge(&own(), &memory, &more).is_ok());
        assert_eq!(memory.remember(&more), Remember::Now);
        assert_eq!(memory.remembered(NodeId(2), CoreId(1)).durable_end, 10);
    }
}
