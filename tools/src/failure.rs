//! How a command ends: exit codes, and errors that say what happened, where, and what to do.

use std::fmt;
use std::process::ExitCode;

use miette::{Diagnostic, MietteHandlerOpts, Report};

/// How the process ends. The numbers are part of the interface: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, and all was well.
    Done = 0,
    /// It ran, and failed while running.
    Failed = 1,
    /// The command line or the configuration was refused. Nothing was started. (clap uses this number as well.)
    Refused = 2,
    /// The data directory was refused: locked, foreign, wiped, or damaged. Nothing was changed in it.
    Directory = 3,
    /// The machine lacks something: io_uring, locked memory, a free address.
    Machine = 4,
    /// What was looked at is not well: nodes out of reach, groups without a leader, a damaged log or snapshot.
    Unwell = 5,
    /// The configuration of a group is not the one that was expected: look at it again.
    Mismatch = 6,
    /// What was waited for did not come about in time. It may still.
    TimedOut = 7,
}

/// Printed below `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done, and all is well
  1  it ran and failed while running (the message says why)
  2  the command line or the configuration was refused; nothing was started
  3  the data directory was refused (locked, foreign, wiped, damaged); nothing was changed in it
  4  the machine lacks something (io_uring, locked memory, a free address)
  5  what was looked at is not well (nodes out of reach, groups without a leader, damaged files)
  6  the configuration of a group is not the one that was expected; nothing was changed in it
  7  what was waited for did not come about in time; it may still";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command that did not succeed: the code it ends with and the report to print.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What to print.
    pub(crate) report: Report,
}

impl Failure {
    /// A failure with a diagnostic of its own.
    pub(crate) fn new(exit: Exit, diagnostic: impl Diagnostic + Send + Sync + 'static) -> Failure {
        Failure { exit, report: Report::new(diagnostic) }
    }

    /// A failure in plain words: what happened (and where), and what to do about it.
    pub(crate) fn said(exit: Exit, what: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::new(exit, Said { what: what.into(), help: help.into() })
    }

    /// An operation on a path or address failed.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Failure {
        Failure::said(Exit::Failed, format!("{what}: {error}"), "")
    }
}

/// A failure without a place in a file.
#[derive(Debug)]
struct Said {
    what: String,
    help: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Said {}

impl Diagnostic for Said {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }
}

/// Sets how reports are printed. Lines are not wrapped: messages stay greppable, terminals wrap by themselves.
pub(crate) fn install_printer() {
    // Fails only if a hook is there already, and then that one prints.
    let _ = miette::set_hook(Box::new(|_| Box::new(MietteHandlerOpts::new().wrap_lines(false).build())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Refused,
            Exit::Directory,
            Exit::Machine,
            Exit::Unwell,
            Exit::Mismatch,
            Exit::TimedOut,
        ] {
            let line = format!("\n  {}  ", exit as u8);
            assert!(EXIT_CODES.contains(&line), "{exit:?} is missing from the help");
        }
    }
}
