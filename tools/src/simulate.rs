//! `logdrive sim`: the simulator is in the library; here is how its command ends.

use logdrive_tools::sim::cli::{Args, command};

use crate::failure::{Exit, Failure};

/// Runs the command: exit code 1 if a run broke. What nodes log is shown if `RUST_LOG` asks for it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    if std::env::var_os("RUST_LOG").is_some() {
        crate::start_tracing();
    }
    match command(args, &mut std::io::stdout()) {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => Ok(Exit::Failed),
        Err(error) => Err(Failure::said(Exit::Refused, error.to_string(), "nothing was run")),
    }
}
