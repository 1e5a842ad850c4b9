//! Benchmarks of logdrive: a cluster under load, the log alone, snapshots alone, the disk alone.
//!
//! Every figure comes with what a reader needs to believe it: the machine, the disk and what it does alone, whether writes are
//! durable, the revision, what else the machine did meanwhile, and a check that what was acknowledged is there.

/// As in the `logdrive` binary: what is measured here is what runs there.
#[path = "../../tools/src/allocator.rs"]
mod allocator;
mod cli;
mod clock;
mod core_bench;
mod directory;
mod disk_probe;
mod environment;
mod format;
mod latency;
mod machine;
mod payload;
mod progress;
mod report;
mod run;
mod signals;
mod snapshot;
mod space;
mod usage;
mod wal;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// Exit code of a benchmark that ran, and whose data was wrong at the end.
const CHECK_FAILED: u8 = 2;

fn main() -> ExitCode {
    allocator::tune();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let result = signals::install().and_then(|()| match &cli.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Core(arguments) => core_bench::run(arguments),
        Command::Wal(arguments) => wal::run_compare(arguments),
        Command::WalAlone(arguments) => wal::run_alone(arguments),
        Command::WalSweep(arguments) => wal::run_sweep(arguments),
        Command::WalSoak(arguments) => wal::run_soak(arguments),
        Command::WalRecovery(arguments) => wal::run_recovery(arguments),
        Command::Snapshot(arguments) => snapshot::run(arguments),
        Command::Disk(arguments) => disk_probe::run(arguments).map(|()| true),
    });
    directory::remove_temporary();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(CHECK_FAILED),
        Err(error) => {
            eprintln!("logdrive-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
