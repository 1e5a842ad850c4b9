//! The shapes of load that logs are compared in.

use super::driver::Load;
use crate::cli::ShapeSet;

/// Appends in flight.
const IN_FLIGHT: [u32; 5] = [1, 16, 64, 256, 1024];
/// Bytes of an entry.
const PAYLOAD: [u32; 4] = [16, 128, 1024, 16384];
/// Streams that share the log.
const STREAMS: [u64; 4] = [1, 64, 1024, 10_000];
/// The shape that the others are variations of.
pub(super) const BASE: Load = Load { streams: 1024, payload: 128, in_flight: 256 };

/// The shapes of a set, each once, the base first where it is among them.
pub(super) fn shapes(set: ShapeSet, one: Load) -> Vec<Load> {
    match set {
        ShapeSet::One => vec![one],
        ShapeSet::All => {
            let mut all = Vec::new();
            for streams in STREAMS {
                for payload in PAYLOAD {
                    all.extend(IN_FLIGHT.map(|in_flight| Load { streams, payload, in_flight }));
                }
            }
            all
        }
        ShapeSet::Default => {
            let mut shapes = vec![BASE];
            shapes.extend(IN_FLIGHT.map(|in_flight| Load { in_flight, ..BASE }));
            shapes.extend(PAYLOAD.map(|payload| Load { payload, ..BASE }));
            shapes.extend(STREAMS.map(|streams| Load { streams, ..BASE }));
            let mut number = 0;
            // The base is in each of the three rows.
            shapes.retain(|shape| {
                number += 1;
                number == 1 || *shape != BASE
            });
            shapes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_there_once() {
        for (set, count) in [(ShapeSet::One, 1), (ShapeSet::Default, 11), (ShapeSet::All, 80)] {
            let shapes = shapes(set, BASE);
            assert_eq!(shapes.len(), count);
            assert!(shapes.iter().enumerate().all(|(n, a)| shapes[..n].iter().all(|b| a != b)), "{shapes:?}");
            assert!(shapes.contains(&BASE));
        }
    }
}
