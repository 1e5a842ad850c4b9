//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

/// Benchmarks of logdrive: a whole cluster, the log alone, snapshots alone, the disk alone.
///
/// Data goes to a temporary directory on a real disk, which is removed at the end, unless --dir names one. A directory
/// given with --dir is emptied at the start if an earlier benchmark made it, refused if it holds anything else, and kept.
#[derive(Debug, Parser)]
#[command(name = "logdrive-bench", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A cluster in this process under load: real TCP on loopback, real logs with durable writes.
    ///
    /// Every client has one proposal in flight (a closed loop). It is attached to a core of one node and sends each
    /// proposal to a random group that this node leads. Latency is measured from handing the proposal to the node until
    /// the client has the answer, which comes when the entry is durable on a majority and applied. At the end all nodes
    /// must have applied the same entries, else the exit code is 2.
    Run(RunArgs),
    /// The loops of all nodes' cores in one thread: real logs, no executors, no sockets. For profiles, beside `run`.
    Core(CoreArgs),
    /// The log beside the limit of its disk (the same writes without a log) and raft-engine, in one run, in many shapes.
    ///
    /// Everything is measured in turn, several times over; the figures are medians. Appends are of one entry each and
    /// count when they are durable. raft-engine is a program of its own, see bench/raft-engine-peer.
    Wal(WalArgs),
    /// The log alone in one shape, one thread, and whether what was acknowledged is read back.
    WalAlone(WalAloneArgs),
    /// How many writes of the log in flight, and of what size, are best on this disk.
    WalSweep(WalSweepArgs),
    /// Hot streams that write many times the log's budget, and cold ones that hold its oldest segments.
    WalSoak(WalSoakArgs),
    /// How long a log takes to open.
    WalRecovery(WalRecoveryArgs),
    /// Snapshots of the key-value machine: what freezing, writing to disk and loading cost, and what writes feel meanwhile.
    Snapshot(SnapshotArgs),
    /// The disk alone: durable writes of several sizes, one or more in flight.
    Disk(DiskArgs),
}

/// Where data and results go.
#[derive(Args, Clone, Debug)]
pub(crate) struct Output {
    /// Directory for the data (default: a temporary one on a real disk).
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Also write the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Settings of the log.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// Durable writes of one log under way at once.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=64))]
    pub(crate) writes_in_flight: u32,
    /// A batch of the log is closed at this size, bytes.
    #[arg(long, default_value_t = 256 << 10, value_parser = value_parser!(u32).range(4096..=16 << 20))]
    pub(crate) batch_bytes: u32,
    /// While a write is under way, a batch smaller than this waits a little for more, bytes. 0: it never waits.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=16 << 20))]
    pub(crate) batch_bytes_min: u32,
    /// Size of a segment file, MiB.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u64).range(2..=1024))]
    pub(crate) segment_mib: u64,
    /// Segments written with zeros before the measurement, per log (default: `wal` 32, `wal-alone` 16, others enough for
    /// the run at an assumed rate).
    #[arg(long, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) segments: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MachineKind {
    /// Folds every entry into a checksum of its group: the cheapest that can tell whether nodes agree.
    Digest,
    /// The in-memory key-value machine; every proposal sets a key.
    Kv,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Nodes, all in this process.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=7))]
    pub(crate) nodes: u32,
    /// Executors of each node.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    pub(crate) cores_per_node: u16,
    /// Raft groups, each replicated on every node.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Bytes of a proposal.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Clients, each with one proposal in flight.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Seconds under load before that.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// Seed of all random choices of the clients.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// State machine of the groups.
    #[arg(long, value_enum, default_value_t = MachineKind::Digest)]
    pub(crate) machine: MachineKind,
    /// Entries of a group from one snapshot to the next; 0: none are taken because of entries or bytes.
    #[arg(long, default_value_t = 10_000, value_name = "ENTRIES", value_parser = value_parser!(u64).range(0..=1 << 40))]
    pub(crate) snapshot_every: u64,
    /// A long run: prints a line per minute with throughput, latency, disk use, memory and file descriptors.
    ///
    /// The log must get by with what is prepared (--segments): old entries are given up once snapshots stand for them.
    #[arg(long)]
    pub(crate) soak: bool,
    /// Minutes measured, instead of --seconds.
    #[arg(long, value_parser = value_parser!(u32).range(1..=10_080), conflicts_with = "seconds")]
    pub(crate) minutes: Option<u32>,
    /// Spin so long before an executor parks, microseconds.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=1_000_000))]
    pub(crate) spin_us: u64,
    /// Do not measure the disk before the run.
    #[arg(long)]
    pub(crate) no_probe: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) output: Output,
}

impl RunArgs {
    /// Seconds measured.
    pub(crate) fn seconds(&self) -> f64 {
        self.minutes.map_or(self.seconds, |minutes| f64::from(minutes) * 60.0)
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CoreArgs {
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=7))]
    pub(crate) nodes: u32,
    /// Raft groups, each replicated on every node.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Bytes of a proposal.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Clients, each with one proposal in flight.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) clients: u32,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Seconds under load before that.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which shapes of load are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeSet {
    /// 256 appends of 128 bytes to 1,024 streams in flight, and each of the three numbers varied: 11 shapes.
    Default,
    /// Every combination of 1, 16, 64, 256, 1,024 in flight, 16 to 16,384 bytes, 1 to 10,000 streams: 80 shapes.
    All,
    /// The one that --in-flight, --payload and --groups name.
    One,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WalArgs {
    /// Shapes of load.
    #[arg(long, value_enum, default_value_t = ShapeSet::Default)]
    pub(crate) shapes: ShapeSet,
    /// Of the one shape: streams that share the log.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Of the one shape: bytes of an entry.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Of the one shape: appends outstanding at once, each of one entry to a random stream.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight: u32,
    /// Seconds of each single measurement; each has a quarter of it as warm-up.
    #[arg(long, default_value_t = 0.5, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Times that everything is measured; medians are reported.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Leave raft-engine out.
    #[arg(long)]
    pub(crate) no_peers: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WalSweepArgs {
    /// Seconds of each single measurement.
    #[arg(long, default_value_t = 0.5, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Times that everything is measured; medians are reported.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WalSoakArgs {
    /// How much is written, as a multiple of the budget.
    #[arg(long, default_value_t = 20.0, value_parser = multiple)]
    pub(crate) budgets: f64,
    /// Budget of the log, MiB.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(16..=65_536))]
    pub(crate) budget_mib: u64,
    /// Size of a segment file, MiB.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u64).range(1..=1024))]
    pub(crate) segment_mib: u64,
    /// Streams that are written, and compacted.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=100_000))]
    pub(crate) hot: u64,
    /// Streams that are written once, in the beginning, and never compacted.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(0..=1_000_000))]
    pub(crate) cold: u64,
    /// Entries of each cold stream.
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u64).range(1..=100_000))]
    pub(crate) cold_entries: u64,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Appends outstanding at once.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WalRecoveryArgs {
    /// Size of the log, GiB.
    #[arg(long, default_value_t = 4.0, value_parser = gibibytes)]
    pub(crate) gib: f64,
    /// Streams in it.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Times that the log is opened; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WalAloneArgs {
    /// Streams that share the log.
    #[arg(long, default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) groups: u64,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) payload: u32,
    /// Appends outstanding at once, each of one entry to a random stream.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight: u32,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Seconds under load before that.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) warmup: f64,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Do not measure the disk before the run.
    #[arg(long)]
    pub(crate) no_probe: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SnapshotArgs {
    /// Keys of the group; several numbers with commas, up to 10 million and more as memory allows.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000", value_parser = value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: Vec<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(8..=1_000_000))]
    pub(crate) value: u32,
    /// Foreground writes that are due each second.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: u64,
    /// Seconds of foreground writes without snapshots, and as many with, in each round.
    #[arg(long, default_value_t = 2.0, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Rounds of that.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Time these writes and the slices between them by the processor time of their thread, so that what others take of the machine
    /// does not count: on a machine that is shared, and only there, the better measure.
    #[arg(long)]
    pub(crate) own_time: bool,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Do not measure the disk before.
    #[arg(long)]
    pub(crate) no_probe: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DiskArgs {
    /// Seconds for each combination of size and writes in flight.
    #[arg(long, default_value_t = 0.5, value_parser = positive_seconds)]
    pub(crate) seconds: f64,
    /// Size of the file that is written over and over, MiB.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u64).range(16..=65_536))]
    pub(crate) file_mib: u64,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Longest run, seconds: a week.
const SECONDS_MAX: f64 = 604_800.0;

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.0..=SECONDS_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(format!("must be within 0..={SECONDS_MAX}"))
    }
}

fn gibibytes(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of GiB"))?;
    if (0.05..=1024.0).contains(&value) { Ok(value) } else { Err("must be within 0.05..=1024".to_owned()) }
}

fn multiple(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.5..=10_000.0).contains(&value) { Ok(value) } else { Err("must be within 0.5..=10000".to_owned()) }
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    let value = seconds(text)?;
    if value >= 0.1 { Ok(value) } else { Err("must be at least 0.1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Command::Run(run) = Cli::parse_from(["logdrive-bench", "run"]).command else { panic!("not run") };
        assert_eq!((run.nodes, run.cores_per_node, run.groups), (3, 1, 1024));
        assert_eq!((run.payload, run.clients), (128, 1024));
        assert_eq!((run.seconds, run.warmup), (10.0, 3.0));
        assert_eq!((run.machine, run.snapshot_every, run.soak), (MachineKind::Digest, 10_000, false));
        let line = ["logdrive-bench", "run", "--soak", "--minutes", "20", "--snapshot-every", "500"];
        let Command::Run(run) = Cli::parse_from(line).command else { panic!("not run") };
        assert_eq!((run.seconds(), run.snapshot_every, run.soak), (1200.0, 500, true));
        let Command::WalAlone(wal) = Cli::parse_from(["logdrive-bench", "wal-alone"]).command else {
            panic!("not wal-alone")
        };
        assert_eq!((wal.groups, wal.payload, wal.in_flight, wal.seconds), (1024, 128, 256, 5.0));
        let Command::Wal(wal) = Cli::parse_from(["logdrive-bench", "wal"]).command else { panic!("not wal") };
        assert_eq!((wal.shapes, wal.rounds, wal.seconds), (ShapeSet::Default, 3, 0.5));
    }

    #[test]
    fn impossible_values_are_refused() {
        for bad in [["--seconds", "0"], ["--seconds", "nan"], ["--warmup", "-1"], ["--groups", "0"]] {
            let arguments = ["logdrive-bench", "run", bad[0], bad[1]];
            assert!(Cli::try_parse_from(arguments).is_err(), "{bad:?} was taken");
        }
    }
}
