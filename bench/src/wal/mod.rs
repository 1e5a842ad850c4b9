//! Benchmarks of the log by itself, without Raft and without a network.

mod alone;
mod compare;
mod driver;
mod limit;
mod peer;
mod recovery;
mod shapes;
mod soak;
mod sweep;

use std::path::Path;

use anyhow::{Context, Result};
use logdrive_wal::{Options, Recovery, RingDisk, RingOptions, Wal};

pub(crate) use self::alone::run as run_alone;
pub(crate) use self::compare::run as run_compare;
pub(crate) use self::recovery::run as run_recovery;
pub(crate) use self::soak::run as run_soak;
pub(crate) use self::sweep::run as run_sweep;
use crate::cli::LogArgs;
use crate::clock;

/// Opens the log in `path`, with registered buffers for the writes of its settings.
fn open(path: &Path, options: &Options, recovery: &mut dyn Recovery) -> Result<Wal<RingDisk>> {
    let ring_options = RingOptions {
        buffers: options.writes_in_flight + 2,
        buffer_bytes: options.batch_bytes_max,
        ..RingOptions::default()
    };
    let disk = RingDisk::open(path, ring_options).context("cannot open the log's disk")?;
    Wal::open(disk, options.clone(), clock::now_nanos(), recovery)
        .with_context(|| format!("cannot open the log in {}", path.display()))
}

/// Settings of a log whose `segments` segments are all prepared before it is measured.
fn options(log: &LogArgs, segments: u32) -> Options {
    let segment_bytes = log.segment_mib << 20;
    Options {
        segment_bytes,
        writes_in_flight: log.writes_in_flight,
        batch_bytes_max: log.batch_bytes,
        batch_bytes_min: log.batch_bytes_min,
        budget_bytes: u64::from(segments) * segment_bytes,
        segments_ahead: segments,
        ..Options::default()
    }
}
