//! Printing. Whoever reads may stop reading at any time (`| head`, a closed terminal): that ends no node.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use crate::failure::Failure;

/// Prints a result on standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::io("standard output", &error)),
        _ => Ok(()),
    }
}

/// One line on standard output, at once.
pub(crate) fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    // Nobody listens: what is said is for people, and there is nobody else to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// One line on standard error.
pub(crate) fn note(line: impl Display) {
    // As in `say`.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
