//! Hash slots: which slot a key has and which group owns a slot.
//!
//! As in the Redis Cluster specification ("Key distribution model", "Hash tags"): CRC16/XMODEM of the key, or of its hash tag, modulo
//! 16,384.

use std::ops::Range;

use logdrive_shard::GroupId;

/// Slots of a cluster, whatever the number of its groups.
pub(crate) const SLOTS: u32 = 16_384;

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
const CRC_TABLE: [u16; 256] = crc_table();

const fn crc_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The part of a key that decides its slot: what is between the first `{` and the first `}` after it, if that is not empty.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&byte| byte == b'}') {
        Some(len) if len > 0 => &tail[..len],
        _ => key,
    }
}

/// The slot of a key.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS as u16 - 1)
}

/// How the slots are shared out: group `g` of `G` owns `[(g-1)*16384/G, g*16384/G)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotMap {
    groups: u32,
}

impl SlotMap {
    /// `None` unless every group gets at least one slot.
    pub(crate) fn new(groups: u64) -> Option<SlotMap> {
        (1..=u64::from(SLOTS)).contains(&groups).then_some(SlotMap { groups: groups as u32 })
    }

    pub(crate) fn groups(self) -> u32 {
        self.groups
    }

    /// The owner of a slot.
    pub(crate) fn group_of(self, slot: u16) -> GroupId {
        // The largest g with floor((g-1) * SLOTS / G) <= slot, that is (g-1) * SLOTS < (slot + 1) * G.
        let bound = (u32::from(slot) + 1) * self.groups - 1;
        GroupId(u64::from(bound / SLOTS) + 1)
    }

    /// The slots of a group.
    pub(crate) fn slots_of(self, group: GroupId) -> Range<u32> {
        let index = group.0 as u32 - 1;
        index * SLOTS / self.groups..(index + 1) * SLOTS / self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") & 0x3FFF);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") & 0x3FFF);
    }

    #[test]
    fn every_slot_belongs_to_the_group_whose_run_contains_it() {
        for groups in [1u64, 2, 3, 5, 7, 1000, 1024, 5461, 16383, 16384] {
            let map = SlotMap::new(groups).unwrap();
            let mut next = 0;
            for group in 1..=groups {
                let range = map.slots_of(GroupId(group));
                assert_eq!(range.start, next, "group {group} of {groups}");
                assert!(!range.is_empty(), "group {group} of {groups} owns nothing");
                for slot in range.clone() {
                    assert_eq!(map.group_of(slot as u16), GroupId(group), "slot {slot} of {groups} groups");
                }
                next = range.end;
            }
            assert_eq!(next, SLOTS);
        }
        assert!(SlotMap::new(0).is_none());
        assert!(SlotMap::new(16_385).is_none());
    }
}
