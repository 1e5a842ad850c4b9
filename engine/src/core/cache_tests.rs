use std::collections::BTreeMap;

use logdrive_shard::{LogIndex, Random};
use logdrive_wal::StreamSlot;

use super::*;

fn lanes(count: u32) -> Vec<Lane> {
    (0..count).map(|n| Lane::new(StreamSlot(n), 1, LogIndex(0))).collect()
}

fn payload(random: &mut Random) -> Vec<u8> {
    let len = match random.below(20) {
        0 => random.below(100_000),
        1..5 => 0,
        _ => random.below(600),
    };
    let byte = random.next_u64() as u8;
    vec![byte; len as usize]
}

/// What the cache says agrees with plain maps under every mixture of pushing, releasing, truncating and evicting; what is
/// evicted is a prefix of each group.
#[test]
fn agrees_with_plain_maps() {
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let mut lanes = lanes(16);
        let mut cache = Cache::new(300_000);
        let mut model: Vec<BTreeMap<u64, Vec<u8>>> = vec![BTreeMap::new(); 16];
        let mut last = [0_u64; 16];
        for _ in 0..20_000 {
            let slot = random.below(16) as usize;
            let lane = &mut lanes[slot];
            match random.below(10) {
                0..6 => {
                    last[slot] += 1;
                    let bytes = payload(&mut random);
                    cache.push(&mut lane.window, slot as u32, last[slot], EntryKind::Payload, &bytes);
                    model[slot].insert(last[slot], bytes);
                    if cache.is_over() {
                        cache.evict(&mut lanes);
                    }
                }
                6..9 => {
                    let done = last[slot].saturating_sub(random.below(8));
                    cache.release(&mut lane.window, done);
                    model[slot].retain(|&index, _| index >= done);
                }
                _ => {
                    let from = last[slot].saturating_sub(random.below(4)) + 1;
                    cache.truncate(&mut lane.window, from);
                    model[slot].retain(|&index, _| index < from);
                    last[slot] = from - 1;
                }
            }
            assert!(cache.bytes() <= 300_000 + 100_000, "the bound, and the newest chunk on top");
            let window = &lanes[slot].window;
            let first = window.first().unwrap_or(last[slot] + 1);
            model[slot].retain(|&index, _| index >= first);
            assert_eq!(model[slot].len() as u64, last[slot] + 1 - first);
            for (&index, bytes) in &model[slot] {
                let (_, found) = cache.get(window, index).expect("cached");
                assert_eq!(found, bytes);
                assert_eq!(cache.len_of(window, index), Some(bytes.len() as u32));
            }
            assert!(cache.get(window, last[slot] + 1).is_none());
        }
        assert!(cache.evictions() > 0);
    }
}

#[test]
fn what_is_released_early_keeps_the_cache_small() {
    let mut lanes = lanes(1024);
    let mut cache = Cache::new(64 << 20);
    for index in 1..200 {
        for (slot, lane) in lanes.iter_mut().enumerate() {
            cache.release(&mut lane.window, index);
            cache.push(&mut lane.window, slot as u32, index, EntryKind::Payload, &[1; 128]);
        }
    }
    assert!(cache.bytes() <= 512 << 10, "{} bytes for 1,024 live entries of 128", cache.bytes());
    assert_eq!(cache.evictions(), 0);
}

#[test]
fn entries_without_payload_do_not_grow_a_chunk_for_ever() {
    let mut lanes = lanes(2);
    let mut cache = Cache::new(1 << 20);
    cache.push(&mut lanes[0].window, 0, 1, EntryKind::Payload, b"stays");
    for index in 1..100_000 {
        cache.release(&mut lanes[1].window, index);
        cache.push(&mut lanes[1].window, 1, index, EntryKind::Empty, &[]);
    }
    assert!(cache.chunks.iter().all(|chunk| chunk.members.len() <= CHUNK_MEMBERS_MAX));
    assert!(cache.heads.len() <= 4, "heads are used again: {}", cache.heads.len());
    assert_eq!(cache.get(&lanes[0].window, 1), Some((EntryKind::Payload, &b"stays"[..])));
}
