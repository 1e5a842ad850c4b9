//! `logdrive`: runs nodes, clusters on one machine, and the tools around them.

mod allocator;
mod client;
mod config;
mod dev;
mod failure;
mod group;
mod node;
mod os;
mod output;
mod serve;
mod simulate;
mod snapshot;
mod status;
mod wal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use failure::{EXIT_CODES, Failure};

/// Thousands of Raft groups on one shared log per core, spoken to like a Redis Cluster.
#[derive(Debug, Parser)]
#[command(name = "logdrive", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until SIGTERM or Ctrl-C.
    Serve(serve::Args),
    /// Run a cluster of processes on this machine.
    Dev(dev::Args),
    /// Show the nodes of a running cluster, their groups and their logs.
    Status(status::Args),
    /// Show and change groups: leaders and members.
    #[command(subcommand)]
    Group(group::Command),
    /// Add nodes, drain them.
    #[command(subcommand)]
    Node(node::Command),
    /// Look into the logs of a stopped node, without changing anything.
    #[command(subcommand)]
    Wal(wal::Command),
    /// Look into snapshot files, without changing anything.
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Run clusters of production code on a simulated clock, network and disk, with every fault, from one seed.
    Sim(logdrive_tools::sim::cli::Args),
}

fn main() -> ExitCode {
    allocator::tune();
    failure::install_printer();
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Status(args) => status::run(args),
        Command::Group(command) => group::run(command),
        Command::Node(command) => node::run(command),
        Command::Wal(command) => wal::run(command),
        Command::Snapshot(command) => snapshot::run(command),
        Command::Sim(args) => simulate::run(args),
    };
    let exit = result.unwrap_or_else(|Failure { exit, report }| {
        output::note(format_args!("{report:?}"));
        exit
    });
    exit.into()
}

/// Log lines go to standard error; `RUST_LOG` chooses which. What glommio warns about in passing (buffers that are not
/// registered) the engine says itself, with what to do about it.
fn start_tracing() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,glommio=error"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only if a subscriber is there already, and then that one prints.
    let _ = subscriber.with_ansi(false).try_init();
}
