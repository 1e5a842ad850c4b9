//! `[snapshots]`: its shape as written, and its checks.

use std::time::Duration;

use logdrive::api::{CoreSettings, SnapshotSettings};
use logdrive::snapshot::Compression;
use serde::Deserialize;
use toml::Spanned;

use super::check::Check;
use super::units::Bytes;

const MIB: u64 = 1 << 20;
/// More would be a typing error.
const BYTES_MAX: u64 = 1 << 40;
const ENTRIES_MAX: u64 = 1 << 40;

/// `[snapshots]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshots {
    pub(crate) every_entries: Option<Spanned<u64>>,
    pub(crate) every_bytes: Option<Spanned<Bytes>>,
    pub(crate) keep_trailing_entries: Option<Spanned<u64>>,
    pub(crate) keep_trailing_bytes: Option<Spanned<Bytes>>,
    pub(crate) group_log_bytes: Option<Spanned<Bytes>>,
    pub(crate) at_once: Option<Spanned<u32>>,
    pub(crate) bytes_per_s: Option<Spanned<Bytes>>,
    pub(crate) kept: Option<Spanned<u32>>,
    pub(crate) compression: Option<Compression>,
    pub(crate) slice_bytes: Option<Spanned<Bytes>>,
    pub(crate) slice_time_us: Option<Spanned<u64>>,
    pub(crate) slice_interval_us: Option<Spanned<u64>>,
    pub(crate) loads_at_once: Option<Spanned<u32>>,
    pub(crate) transfers: Option<Spanned<u32>>,
    pub(crate) transfer_bytes_per_s: Option<Spanned<Bytes>>,
    pub(crate) transfer_window: Option<Spanned<Bytes>>,
}

impl Check<'_> {
    /// `[snapshots]`; 0 for `every_entries` or `every_bytes` says that they do not count.
    pub(super) fn snapshots(&mut self, written: &Snapshots, core: &mut CoreSettings, cores: u16) {
        let settings = &mut core.snapshots;
        let (entries, trailing) = (&mut settings.every_entries, &mut settings.keep_trailing_entries);
        self.number("snapshots.every_entries", &written.every_entries, 0, ENTRIES_MAX, entries);
        let key = "snapshots.keep_trailing_entries";
        self.number(key, &written.keep_trailing_entries, 0, ENTRIES_MAX, trailing);
        let trailing = &mut settings.keep_trailing_bytes;
        self.size("snapshots.keep_trailing_bytes", &written.keep_trailing_bytes, 0, BYTES_MAX, trailing);
        self.size("snapshots.every_bytes", &written.every_bytes, 0, BYTES_MAX, &mut settings.every_bytes);
        let bound = &mut settings.group_log_bytes_max;
        self.size("snapshots.group_log_bytes", &written.group_log_bytes, MIB, BYTES_MAX, bound);
        self.number("snapshots.at_once", &written.at_once, 1, 64, &mut settings.at_once);
        let files = &mut settings.files;
        let rate = &mut files.snapshot_bytes_per_s;
        self.size("snapshots.bytes_per_s", &written.bytes_per_s, 0, BYTES_MAX, rate);
        self.number("snapshots.kept", &written.kept, 0, 16, &mut files.snapshots_kept);
        files.compression = written.compression.unwrap_or(files.compression);
        let slice = &mut settings.slice_bytes;
        self.size("snapshots.slice_bytes", &written.slice_bytes, 4096, 16 * MIB, slice);
        let mut time = settings.slice_time.as_micros() as u64;
        self.number("snapshots.slice_time_us", &written.slice_time_us, 1, 100_000, &mut time);
        settings.slice_time = Duration::from_micros(time);
        let mut interval = settings.slice_interval.as_micros() as u64;
        self.number("snapshots.slice_interval_us", &written.slice_interval_us, 0, 1_000_000, &mut interval);
        settings.slice_interval = Duration::from_micros(interval);
        let loads = &mut settings.loads_at_once;
        self.number("snapshots.loads_at_once", &written.loads_at_once, 1, 64, loads);
        self.transfers(written, settings, cores);
        self.snapshots_fit(written, core);
    }

    /// Snapshots sent to other nodes. The limit in bytes per second is the node's, and each core has its share of it.
    fn transfers(&mut self, written: &Snapshots, settings: &mut SnapshotSettings, cores: u16) {
        self.number("snapshots.transfers", &written.transfers, 1, 64, &mut settings.transfers_max);
        let cores = u64::from(cores.max(1));
        let mut rate = settings.transfer_bytes_per_s * cores;
        self.size("snapshots.transfer_bytes_per_s", &written.transfer_bytes_per_s, 0, BYTES_MAX, &mut rate);
        settings.transfer_bytes_per_s = rate.div_ceil(cores);
        let window = &mut settings.transfer_window_bytes;
        self.size("snapshots.transfer_window", &written.transfer_window, 64 << 10, 64 * MIB, window);
    }

    fn snapshots_fit(&mut self, written: &Snapshots, core: &CoreSettings) {
        let settings = &core.snapshots;
        if let Some(every) = &written.every_entries
            && settings.every_entries == 0
            && settings.every_bytes == 0
        {
            self.warn(every.span(), "neither entries nor bytes make a group take a snapshot").set_help(
                "logs grow up to snapshots.group_log_bytes of each group, and restarts take longer",
            );
        }
        if let Some(bound) = &written.group_log_bytes
            && settings.group_log_bytes_max < settings.every_bytes
        {
            let reason = format!(
                "groups take no proposals above {}, and a snapshot only after {}",
                Bytes(settings.group_log_bytes_max),
                Bytes(settings.every_bytes)
            );
            self.warn(bound.span(), reason)
                .set_help("snapshots.group_log_bytes should be some times snapshots.every_bytes");
        }
    }
}
