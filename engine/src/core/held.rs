//! What a core holds of everything that is bounded, beside its bound: for tests, and for whoever asks where memory goes.

use logdrive_wal::Disk;

use super::Core;
use super::cache::CHUNK_BYTES;
use super::frames::BACKLOG_FACTOR;
use crate::api::StateMachine;
use crate::wire::FRAME_BYTES_MAX;

/// Something that a core holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What.
    pub what: &'static str,
    /// So much of it now.
    pub held: u64,
    /// Never more than this after a turn.
    pub at_most: u64,
}

impl<D: Disk, M: StateMachine> Core<D, M> {
    /// Everything that is bounded. Takes time in the number of links only.
    pub fn held(&self) -> [Held; 8] {
        let (io, settings) = (&self.io, &self.io.settings);
        let held = |what, held, at_most| Held { what, held, at_most };
        let payload = u64::from(settings.wal.payload_bytes_max).max(CHUNK_BYTES as u64);
        let groups = self.groups.len() as u64;
        let outbox = io.links.iter().map(|link| link.builder.bytes()).max().unwrap_or(0) as u64;
        let room = io.wal.space();
        // What is asked at the door is let in as a whole: the last one may pass the bound.
        let backlog = settings.log_backlog_bytes_max.saturating_mul(BACKLOG_FACTOR);
        [
            held("requests", io.requests.into(), settings.requests_max.into()),
            held("bytes of requests", io.request_bytes, settings.request_bytes_max),
            held("bytes of cached entries", io.cache.bytes(), io.cache.bytes_max() + 2 * payload),
            held("messages that wait for the log", io.waiting.parked(), io.waiting.parked_max(groups)),
            held("bytes that wait for the log", io.wal.backlog_bytes(), backlog + FRAME_BYTES_MAX as u64),
            held("bytes of a frame that waits for its link", outbox, FRAME_BYTES_MAX as u64),
            held("reads of the log", io.loads.under_way(), io.loads.at_most()),
            held("bytes of the log", room.used_bytes, room.budget_bytes),
        ]
    }
}
