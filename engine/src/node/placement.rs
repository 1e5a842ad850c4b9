//! Which core holds which group.

use logdrive_shard::GroupId;

use crate::core::CoreId;
use crate::wire::bytes::{Put, Reader};

/// The core of every group of the cluster on this node. Groups are `1 ..= groups`.
///
/// It is a table in the data directory and not a rule in the program, so that another rule in a later version, or a group that is
/// moved, does not lose the way to what is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    cores: u16,
    /// By group id, from group 1 on.
    table: Vec<u16>,
}

impl Placement {
    /// The placement of a new node: groups go round the cores, so that neighbours (runs of keys) lie on different ones.
    pub fn round_robin(groups: u64, cores: u16) -> Placement {
        assert!(cores > 0, "a node has at least one core");
        let table = (0..groups).map(|group| (group % u64::from(cores)) as u16).collect();
        Placement { cores, table }
    }

    /// How many cores.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// How many groups.
    pub fn groups(&self) -> u64 {
        self.table.len() as u64
    }

    /// The core of a group; `None` if there is no such group.
    pub fn core_of(&self, group: GroupId) -> Option<CoreId> {
        let index = usize::try_from(group.0.checked_sub(1)?).ok()?;
        self.table.get(index).map(|core| CoreId(*core))
    }

    /// The groups of a core, ascending: a group's place in this order is its slot.
    pub fn groups_of(&self, core: CoreId) -> impl Iterator<Item = GroupId> + '_ {
        let all = self.table.iter().zip(1..);
        all.filter(move |(on, _)| **on == core.0).map(|(_, group)| GroupId(group))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(10 + 2 * self.table.len());
        out.put_u16(self.cores);
        out.put_u64(self.table.len() as u64);
        self.table.iter().for_each(|core| out.put_u16(*core));
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Placement> {
        let mut body = Reader::new(body);
        let (cores, groups) = (body.u16()?, body.u64()?);
        if cores == 0 || body.left() as u64 != groups.checked_mul(2)? {
            return None;
        }
        let mut table = Vec::with_capacity(groups as usize);
        for _ in 0..groups {
            table.push(body.u16().filter(|core| *core < cores)?);
        }
        Some(Placement { cores, table })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_go_round_the_cores() {
        let placement = Placement::round_robin(7, 3);
        assert_eq!(placement.core_of(GroupId(1)), Some(CoreId(0)));
        assert_eq!(placement.core_of(GroupId(6)), Some(CoreId(2)));
        assert_eq!(placement.core_of(GroupId(0)), None);
        assert_eq!(placement.core_of(GroupId(8)), None);
        let groups: Vec<u64> = placement.groups_of(CoreId(0)).map(|group| group.0).collect();
        assert_eq!(groups, [1, 4, 7]);
    }

    proptest! {
        #[test]
        fn placements_are_read_back(groups in 0..2000_u64, cores in 1..20_u16) {
            let placement = Placement::round_robin(groups, cores);
            prop_assert_eq!(Placement::decode(&placement.encode()), Some(placement));
        }

        #[test]
        fn arbitrary_bytes_are_no_placement_or_one_in_range(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(placement) = Placement::decode(&bytes) {
                prop_assert!(placement.table.iter().all(|core| *core < placement.cores));
            }
        }
    }
}
