//! What is wrong with a configuration, and where in the file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

/// The text of a configuration file, shared by all problems found in it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    text: Arc<NamedSource<String>>,
}

impl Source {
    /// A file's name as the user gave it, and its text.
    pub(crate) fn new(name: &str, text: String) -> Source {
        let text = Arc::new(NamedSource::new(name, text).with_language("TOML"));
        Source { name: name.to_owned(), text }
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        self.text.inner()
    }

    /// The file's name as the user gave it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Line and column of a byte, both counted from 1; the column counts characters.
    fn place(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text().len());
        while !self.text().is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text()[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One thing that is wrong, or not wise, in a configuration file.
#[derive(Debug)]
pub(crate) struct Problem {
    source: Source,
    span: Range<usize>,
    reason: String,
    help: String,
    severity: Severity,
}

impl Problem {
    /// A value that is refused.
    pub(crate) fn error(source: &Source, span: Range<usize>, reason: impl Into<String>) -> Problem {
        Problem {
            source: source.clone(),
            span,
            reason: reason.into(),
            help: String::new(),
            severity: Severity::Error,
        }
    }

    /// A value that works but is likely not what is wanted.
    pub(crate) fn warning(source: &Source, span: Range<usize>, reason: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(source, span, reason) }
    }

    /// What to do about it.
    pub(crate) fn set_help(&mut self, help: impl Into<String>) {
        self.help = help.into();
    }

    /// Whether the node must not start.
    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.source.place(self.span.start);
        write!(f, "{}:{line}:{column}: {}", self.source.name, self.reason)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(None, self.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// Everything that is wrong with a file; printed together, so that it can be put right in one go.
#[derive(Debug)]
pub(crate) struct Invalid {
    /// The file's name.
    pub(crate) name: String,
    /// At least one.
    pub(crate) problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{}: {count} problem{}, nothing was started", self.name, if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Invalid {}

impl Diagnostic for Invalid {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_file_line_column_and_reason() {
        let source = Source::new("node.toml", "node = 1\nname = \"ü\" cores = 0\n".to_owned());
        let at = source.text().find("cores").expect("it is there");
        let problem = Problem::error(&source, at..at + 5, "no cores");
        assert_eq!(problem.to_string(), "node.toml:2:12: no cores");
        let end = Problem::error(&source, 4000..4000, "past the end");
        assert_eq!(end.to_string(), "node.toml:3:1: past the end");
    }
}
