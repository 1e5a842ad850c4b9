//! Printing. Whoever reads may stop reading at any time (`| head`, a closed terminal): that ends no node.

use std::fmt::{Display, Write as _};
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

/// Columns as wide as their widest field; a row's last field does not count, so that messages may be long.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, field) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
            if widths.len() <= at {
                widths.push(0);
            }
            widths[at] = widths[at].max(field.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (at, field) in row.iter().enumerate() {
            if at == last {
                text.push_str(field);
            } else {
                let _ = write!(text, "{field:<width$}  ", width = widths[at]);
            }
        }
        text.push('\n');
    }
    text
}
