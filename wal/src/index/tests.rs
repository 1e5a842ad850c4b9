//! The index against a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u8, u16),
    Replace(u8, u16),
    Compact(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 1u16..300).prop_map(|(s, n)| Step::Append(s, n)),
        2 => (0u8..3, any::<u16>()).prop_map(|(s, n)| Step::Replace(s, n)),
        2 => (0u8..3, any::<u16>()).prop_map(|(s, n)| Step::Compact(s, n)),
    ]
}

proptest! {
    #[test]
    fn positions_are_those_of_the_newest_records(steps in prop::collection::vec(step(), 1..60), stride in 1u64..(1 << 34)) {
        let mut index = Index::new();
        let mut model: Vec<BTreeMap<u64, Lsn>> = vec![BTreeMap::new(); 3];
        let mut compacted = [0u64; 3];
        let mut lsn = Lsn(64);
        for step in steps {
            match step {
                Step::Append(stream, count) => {
                    let slot = index.slot(StreamId(u64::from(stream)));
                    for _ in 0..count {
                        let s = stream as usize;
                        let next = model[s].keys().last().copied().unwrap_or(compacted[s]) + 1;
                        prop_assert!(index.stream(slot).accepts(next));
                        index.push(slot, next, lsn);
                        model[s].insert(next, lsn);
                        // Large strides force new chunks.
                        lsn = lsn.plus((stride / 8 + 1) * 8);
                    }
                }
                Step::Replace(stream, at) => {
                    let s = stream as usize;
                    let Some((&first, _)) = model[s].first_key_value() else { continue };
                    let index_at = first + u64::from(at) % model[s].len() as u64;
                    let slot = index.slot(StreamId(u64::from(stream)));
                    prop_assert!(index.stream(slot).accepts(index_at));
                    index.push(slot, index_at, lsn);
                    model[s].split_off(&index_at);
                    model[s].insert(index_at, lsn);
                    lsn = lsn.plus(8);
                }
                Step::Compact(stream, at) => {
                    let s = stream as usize;
                    let last = model[s].keys().last().copied().unwrap_or(compacted[s]);
                    let to = u64::from(at) % (last + 3);
                    let slot = index.slot(StreamId(u64::from(stream)));
                    prop_assert_eq!(index.compact(slot, to), to > compacted[s]);
                    compacted[s] = compacted[s].max(to);
                    model[s] = model[s].split_off(&(compacted[s] + 1));
                }
            }
            for (s, entries) in model.iter().enumerate() {
                let slot = index.slot(StreamId(s as u64));
                let stream = index.stream(slot);
                prop_assert_eq!(stream.is_empty(), entries.is_empty());
                prop_assert_eq!(stream.first_at(), entries.values().next().copied());
                if let (Some((&first, _)), Some((&last, _))) = (entries.first_key_value(), entries.last_key_value()) {
                    prop_assert_eq!((stream.first, stream.next), (first, last + 1));
                    prop_assert_eq!(stream.lsn(last + 1), None);
                    prop_assert_eq!(stream.lsn(first.wrapping_sub(1)), None);
                }
                for (entry, lsn) in entries {
                    prop_assert_eq!(stream.lsn(*entry), Some(*lsn));
                }
                prop_assert!(!stream.accepts(compacted[s]));
            }
        }
    }
}

#[test]
fn dropped_chunks_are_used_again() {
    let mut index = Index::new();
    let slot = index.slot(StreamId(1));
    let mut lsn = Lsn(64);
    let mut most = 0;
    for entry in 1..200_000u64 {
        index.push(slot, entry, lsn);
        lsn = lsn.plus(160);
        if entry % 1000 == 0 {
            index.compact(slot, entry - 10);
        }
        most = most.max(index.position_bytes());
    }
    assert!(most < 16 << 10, "{most} bytes for a thousand entries");
}
