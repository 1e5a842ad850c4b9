//! `logdrive serve`: one node, until it is told to stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use logdrive::core::{CoreId, Fatal};
use logdrive::kv::KvMachine;
use logdrive::node::NodeError;
use logdrive::runtime::{Engine, Hooks, StartError};
use logdrive_tools::redis::{self, FrontDoorError};
use miette::Report;

use crate::config::{self, Bytes, LoadError, NodeConfig};
use crate::failure::{Exit, Failure};
use crate::os;
use crate::output::{note, say};

/// The default log budget: a part of the file system, at most so many bytes for a node.
const BUDGET_PART: u64 = 10;
const BUDGET_BYTES_MAX: u64 = 64 << 30;

/// A log smaller than this is read back before anyone could ask how far it is.
const PROGRESS_BYTES_MIN: u64 = 256 << 20;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// This is the first start of this node: its data directory may be new.
    ///
    /// Without it a missing or empty directory is refused: a node that lost its disk must not come back under its old
    /// identity, it may have acknowledged what it no longer has.
    #[arg(long)]
    bootstrap: bool,
    /// This is the first start of a node that joins a cluster which is there already: its data directory may be new.
    ///
    /// The node is no member of any group until it is made one with `logdrive group add-learner`, `add-voter` or
    /// `replace`. The other nodes must know it: `logdrive node add`.
    #[arg(long, conflicts_with = "bootstrap")]
    join: bool,
    /// Check the configuration, start nothing.
    #[arg(long, conflicts_with_all = ["bootstrap", "join"])]
    check: bool,
}

/// Runs a node until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut config = load(&args.config)?;
    if args.check {
        say(format_args!("{}: ok", args.config.display()));
        return Ok(Exit::Done);
    }
    crate::start_tracing();
    config.engine.bootstrap = args.bootstrap;
    config.engine.join = args.join;
    set_budget(&mut config);
    config.engine.hooks = hooks();
    let stop = os::stop_signals().map_err(|error| Failure::io("signal handlers", &error))?;
    os::block_stop_signals().map_err(|error| Failure::io("blocking signals", &error))?;

    let (node, groups, cores) = (config.engine.node, config.engine.groups, config.engine.cores);
    let clients = config.front_door.listen;
    let front_door = redis::service(config.front_door).map_err(|error| front_door_failure(&error))?;
    let engine = Engine::start(config.engine, |_: CoreId| KvMachine::new(), vec![front_door])
        .map_err(|error| start_failure(&error))?;
    let peers = engine.peer_address();
    let pid = std::process::id();
    say(format_args!(
        "ready node={node} clients={clients} peers={peers} groups={groups} cores={cores} pid={pid}"
    ));
    // The sender lives as long as the thread of the signals, which is for ever.
    let signal = stop.recv().unwrap_or("the end of the signal thread");
    tracing::info!("{signal}: handing leaders over and stopping");
    engine.shutdown().map_err(|fatal| Failure::said(Exit::Failed, fatal.to_string(), ""))?;
    say(format_args!("stopped node={node}"));
    Ok(Exit::Done)
}

/// What the engine tells this process.
fn hooks() -> Hooks {
    let told = Mutex::new(BTreeMap::new());
    let on_progress = move |core: CoreId, done: u64, total: u64| {
        let tenths = done.saturating_mul(10) / total.max(1);
        // Poisoned only if another core's thread panicked, and then this process is about to end.
        let Ok(mut told) = told.lock() else { return };
        if total >= PROGRESS_BYTES_MIN && told.insert(core, tenths) != Some(tenths) {
            tracing::info!("core {}: {} of {} of the log read back", core.0, Bytes(done), Bytes(total));
        }
    };
    let on_fatal = |fatal: &Fatal| {
        let help = "what was acknowledged is safe on disk and on the other nodes";
        note(format_args!("{:?}", Failure::said(Exit::Failed, fatal.to_string(), help).report));
        std::process::exit(Exit::Failed as i32);
    };
    Hooks { on_fatal: Arc::new(on_fatal), on_progress: Arc::new(on_progress) }
}

fn load(path: &Path) -> Result<NodeConfig, Failure> {
    match config::load(path) {
        Ok((config, warnings)) => {
            for warning in warnings {
                note(format_args!("{:?}", Report::new(warning)));
            }
            Ok(config)
        }
        Err(LoadError::Invalid(invalid)) => Err(Failure::new(Exit::Refused, invalid)),
        Err(error @ LoadError::Unreadable { .. }) => {
            let help = "name an existing file with --config; README.md shows one";
            Err(Failure::said(Exit::Refused, error.to_string(), help))
        }
    }
}

/// The default budget depends on the file system and is divided between the node's cores.
fn set_budget(config: &mut NodeConfig) {
    if config.log_budget_bytes != 0 {
        return;
    }
    let existing = config.engine.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    // If the file system does not answer, the log's own default stays; it will meet the same error and say so.
    let Ok(space) = rustix::fs::statvfs(existing) else { return };
    let total = space.f_blocks.saturating_mul(space.f_frsize);
    let budget = (total / BUDGET_PART).min(BUDGET_BYTES_MAX);
    config.engine.core.wal.budget_bytes = budget / u64::from(config.engine.cores);
}

/// What to do about a front door that does not open.
fn front_door_failure(error: &FrontDoorError) -> Failure {
    let (exit, help) = match error {
        FrontDoorError::Listen { .. } => {
            (Exit::Machine, "end that process, or set another port under [[nodes]] and [listen]")
        }
        _ => (Exit::Refused, "change the configuration"),
    };
    Failure::said(exit, error.to_string(), help)
}

/// What to do about a node that does not start.
fn start_failure(error: &StartError) -> Failure {
    let (exit, help) = match error {
        StartError::Settings(_) => (Exit::Refused, "change the configuration"),
        StartError::IoUring { .. } | StartError::Memlock { .. } | StartError::Executor { .. } => {
            (Exit::Machine, "README.md lists what a node needs from the machine")
        }
        StartError::Listen { .. } => (
            Exit::Machine,
            "end the process that uses the address, or set another one under [[nodes]] and [listen]",
        ),
        StartError::Log { .. } => {
            (Exit::Directory, "`logdrive wal verify` shows the state of a log without changing it")
        }
        StartError::Node(node) if matches!(**node, NodeError::NotBootstrapped { .. }) => (
            Exit::Directory,
            "`logdrive serve --bootstrap` (of a new cluster) or `--join` (of a new node) is for the first start, and only for that",
        ),
        _ => (Exit::Directory, "nothing was changed in the directory"),
    };
    Failure::said(exit, error.to_string(), help)
}
