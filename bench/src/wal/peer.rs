//! Another log under the same load, as a program of its own: raft-engine, the log of TiKV.
//!
//! It is built apart from the workspace (bench/raft-engine-peer says why), so it may be missing: then it is left out, and the
//! report says how to get it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::driver::Load;

/// Name of the program.
const PROGRAM: &str = "logdrive-bench-raft-engine";
/// Where its source is, in the tree that this program was built from.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/raft-engine-peer");
/// Threads of the peer at its best: each writes its share of the appends as one batch that its caller put together. The number
/// that is fastest for a load is the one that is measured.
const THREADS: [u32; 4] = [1, 2, 4, 16];
/// Threads at most when every append has a caller of its own.
const CALLERS_MAX: u32 = 1024;

/// What the peer answers for one load.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) appends_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// The program, running.
pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    budget_bytes: u64,
}

/// The program, if it was built: beside this one, or where its own build puts it.
pub(super) fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(PROGRAM)));
    let built = Path::new(SOURCE).join("target/release").join(PROGRAM);
    [beside, Some(built)].into_iter().flatten().find(|path| path.is_file())
}

/// How to get the program.
pub(super) fn advice() -> String {
    format!(
        "raft-engine is left out: its program was not built. Once: cargo build --release --manifest-path {SOURCE}/Cargo.toml"
    )
}

impl Peer {
    /// Starts the program on an empty directory, to keep at most so many bytes of log.
    pub(super) fn start(program: &Path, directory: &Path, budget_bytes: u64) -> Result<Peer> {
        let mut child = Command::new(program)
            .arg(directory)
            .arg(budget_bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{} has no pipes", program.display())
        };
        let mut peer = Peer { child, input, output: BufReader::new(output), budget_bytes };
        let line = peer.line()?;
        if line != "ready" {
            bail!("{} said `{line}` instead of `ready`", program.display());
        }
        Ok(peer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read from raft-engine's program")?;
        if line.is_empty() {
            let status = self.child.wait().context("cannot wait for raft-engine's program")?;
            bail!("raft-engine's program ended: {status}");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Every append by a caller of its own, who waits for it: the peer puts batches together itself, as our log does.
    pub(super) fn callers(load: Load) -> u32 {
        load.in_flight.min(CALLERS_MAX)
    }

    /// The threads that are fastest for a load, each tried for so many seconds.
    pub(super) fn fastest_threads(&mut self, load: Load, seconds: f64) -> Result<u32> {
        let mut best = (0.0, 1);
        for threads in
            THREADS.into_iter().filter(|&t| t == 1 || (t <= load.in_flight && u64::from(t) <= load.streams))
        {
            let answer = self.measure(load, threads, seconds / 4.0, seconds)?;
            if answer.appends_per_s > best.0 {
                best = (answer.appends_per_s, threads);
            }
        }
        Ok(best.1)
    }

    /// The load for so many seconds, after a warm-up.
    pub(super) fn measure(&mut self, load: Load, threads: u32, warmup: f64, seconds: f64) -> Result<Answer> {
        let Load { streams, payload, in_flight } = load;
        let compactions = load.compactions_per_append(self.budget_bytes);
        writeln!(self.input, "{threads} {in_flight} {payload} {streams} {compactions} {warmup} {seconds}")
            .and_then(|()| self.input.flush())
            .context("cannot write to raft-engine's program")?;
        let line = self.line()?;
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [appends_per_s, p50_us, p99_us] = numbers[..] else {
            bail!("raft-engine's program answered `{line}`")
        };
        Ok(Answer { appends_per_s, p50_us, p99_us })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has nothing to lose: its directory is removed next.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
