//! The checks of `[timing]`, `[limits]` and `[log]`: what they say replaces the engine's defaults.

use std::time::Duration;

use logdrive::api::CoreSettings;

use super::check::Check;
use super::file::{Limits, Log, Timing};
use super::units::Bytes;

/// A frame is bounded by 16 MiB; a payload leaves room for what goes beside it.
const PAYLOAD_BYTES_MAX: u64 = 8 << 20;
/// What is under way, what is kept ready and the reserve for votes need at least so many segments.
const SEGMENTS_MIN: u64 = 5;
const MIB: u64 = 1 << 20;
/// More would be a typing error.
const BYTES_MAX: u64 = 1 << 40;
const COUNT_MAX: u64 = 1 << 24;

impl Check<'_> {
    /// `[timing]`
    pub(super) fn timing(&mut self, timing: &Timing, core: &mut CoreSettings) {
        let shard = &mut core.shard;
        timing.preset.unwrap_or_default().apply_to(shard);
        let millis = |duration: Duration| duration.as_millis() as u64;
        let (mut base, mut spread) = (millis(shard.election_base), millis(shard.election_spread));
        let mut heartbeat = millis(shard.heartbeat_interval);
        self.number("timing.election_base_ms", &timing.election_base_ms, 10, 600_000, &mut base);
        self.number("timing.election_spread_ms", &timing.election_spread_ms, 1, 600_000, &mut spread);
        self.number("timing.heartbeat_ms", &timing.heartbeat_ms, 1, 60_000, &mut heartbeat);
        let drift = &mut shard.clock_drift_permille;
        self.number("timing.clock_drift_permille", &timing.clock_drift_permille, 0, 1_000, drift);
        shard.election_base = Duration::from_millis(base);
        shard.election_spread = Duration::from_millis(spread);
        shard.heartbeat_interval = Duration::from_millis(heartbeat);
        self.timing_fits(timing, base, spread, heartbeat);
    }

    /// The three times beside each other. The presets are consistent, so what is not has something written to point at.
    fn timing_fits(&mut self, timing: &Timing, base: u64, spread: u64, heartbeat: u64) {
        let written = [&timing.heartbeat_ms, &timing.election_base_ms].into_iter().flatten().next();
        if let Some(written) = written {
            if heartbeat >= base {
                let reason = format!(
                    "a heartbeat every {heartbeat} ms with elections after {base} ms: leaders could never stay"
                );
                let help = "the heartbeat should be at most a fifth of election_base_ms";
                self.refuse(written.span(), reason).set_help(help);
            } else if heartbeat * 5 > base {
                let reason = format!(
                    "a heartbeat every {heartbeat} ms is more than a fifth of election_base_ms ({base})"
                );
                self.warn(written.span(), reason)
                    .set_help("two or three lost heartbeats may end a leadership");
            }
        }
        if let Some(written) = &timing.election_spread_ms
            && spread * 4 < base
        {
            let reason = format!("elections are spread over {spread} ms only, beside a base of {base} ms");
            self.warn(written.span(), reason).set_help("with too little spread candidates split their votes");
        }
    }

    /// `[limits]`
    pub(super) fn limits(&mut self, limits: &Limits, core: &mut CoreSettings) {
        let shard = &mut core.shard;
        let narrow = u64::from(u32::MAX);
        self.size(
            "limits.payload_bytes",
            &limits.payload_bytes,
            1024,
            PAYLOAD_BYTES_MAX,
            &mut core.payload_bytes_max,
        );
        let payload = u64::from(core.payload_bytes_max);
        self.number("limits.core_requests", &limits.core_requests, 16, COUNT_MAX, &mut core.requests_max);
        let request_bytes = &mut core.request_bytes_max;
        self.size("limits.core_request_bytes", &limits.core_request_bytes, payload, BYTES_MAX, request_bytes);
        self.number("limits.group_reads", &limits.group_reads, 1, COUNT_MAX, &mut core.group_reads_max);
        let mut expiry = core.session_expiry.as_secs();
        self.number("limits.session_expiry_s", &limits.session_expiry_s, 1, 31_536_000, &mut expiry);
        core.session_expiry = Duration::from_secs(expiry);
        let entries = &mut shard.uncommitted_entries_max;
        self.number(
            "limits.group_uncommitted_entries",
            &limits.group_uncommitted_entries,
            1,
            COUNT_MAX,
            entries,
        );
        let bytes = &mut shard.uncommitted_bytes_max;
        self.size("limits.group_uncommitted_bytes", &limits.group_uncommitted_bytes, 1024, narrow, bytes);
        self.size("limits.cache_bytes", &limits.cache_bytes, MIB, BYTES_MAX, &mut core.cache_bytes_max);
        let inflight = &mut core.peer_inflight_bytes_max;
        self.size("limits.peer_inflight_bytes", &limits.peer_inflight_bytes, payload, BYTES_MAX, inflight);
        let append = &mut shard.append_bytes_max;
        self.size("limits.append_bytes", &limits.append_bytes, 4096, PAYLOAD_BYTES_MAX, append);
    }

    /// `[log]`. Returns the node's budget as written (0: not written); the engine's setting is per core.
    pub(super) fn log(&mut self, log: &Log, cores: u16, core: &mut CoreSettings) -> u64 {
        let wal = &mut core.wal;
        wal.payload_bytes_max = core.payload_bytes_max;
        self.size("log.segment_bytes", &log.segment_bytes, MIB, 4096 * MIB, &mut wal.segment_bytes);
        self.number("log.segments_ahead", &log.segments_ahead, 0, 64, &mut wal.segments_ahead);
        self.number("log.writes_in_flight", &log.writes_in_flight, 1, 64, &mut wal.writes_in_flight);
        let scrub = &mut wal.scrub_bytes_per_s;
        self.size("log.scrub_bytes_per_s", &log.scrub_bytes_per_s, 0, 4096 * MIB, scrub);
        self.number("log.scrub_interval_s", &log.scrub_interval_s, 1, 31_536_000, &mut wal.scrub_interval_s);
        let reclaim = &mut wal.reclaim_bytes_per_s;
        self.size("log.reclaim_bytes_per_s", &log.reclaim_bytes_per_s, MIB, 65_536 * MIB, reclaim);
        let patience = &mut wal.reclaim_patience_ms;
        self.number("log.reclaim_patience_ms", &log.reclaim_patience_ms, 0, 3_600_000, patience);
        let rewrite = &mut wal.rewrite_bytes_max;
        self.size("log.rewrite_bytes", &log.rewrite_bytes, 0, 65_536 * MIB, rewrite);
        self.size("log.batch_bytes", &log.batch_bytes, 4096, 16 * MIB, &mut wal.batch_bytes_max);
        let segment = wal.segment_bytes;
        if let Some(written) = &log.segment_bytes {
            let largest = wal.payload_bytes_max.max(wal.batch_bytes_max);
            if !segment.is_multiple_of(4096) {
                self.refuse(
                    written.span(),
                    format!("`log.segment_bytes` is {segment}, it must be a multiple of 4096"),
                );
            } else if segment < 2 * u64::from(largest) {
                let largest = Bytes(largest.into());
                let reason =
                    format!("a segment of {} does not hold two batches of {largest}", Bytes(segment));
                let help = "raise log.segment_bytes, or lower limits.payload_bytes and log.batch_bytes";
                self.refuse(written.span(), reason).set_help(help);
            }
        }
        let mut budget = 0;
        let least = segment.saturating_mul(SEGMENTS_MIN).saturating_mul(cores.into());
        if let Some(written) = &log.budget_bytes
            && written.get_ref().0 < least
        {
            let reason = format!(
                "a budget of {} is too small: {cores} core(s) need at least {SEGMENTS_MIN} segments of {} each",
                written.get_ref(),
                Bytes(segment)
            );
            self.refuse(written.span(), reason).set_help("raise log.budget_bytes or lower log.segment_bytes");
        } else {
            self.size("log.budget_bytes", &log.budget_bytes, least, i64::MAX as u64, &mut budget);
            wal.budget_bytes = budget / u64::from(cores.max(1));
        }
        budget
    }
}
