//! A line that shows that something goes on. Only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A line on standard error; hidden where that is no terminal.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(what);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg}") {
        bar.set_style(style);
    }
    bar
}
