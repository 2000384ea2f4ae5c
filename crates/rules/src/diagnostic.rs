//! What is wrong with a rule's text: where, why, and what was probably meant.

use std::fmt::{self, Write as _};

/// More errors than this are not reported at once: the first ones cause the rest.
pub const MAX_DIAGNOSTICS: usize = 20;

/// Characters of a source line shown around a caret; a rule pasted as one long line stays readable.
const SHOWN_LINE_CHARS: usize = 120;

/// A range of bytes in the source text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that holds both.
    pub(crate) fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Line and column (in characters) of the first byte, both counted from 1.
    pub fn line_column(self, source: &str) -> (usize, usize) {
        let before = &source.as_bytes()[..self.start.min(source.len())];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

/// Whether a diagnostic stops the rule from loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The text can't be compiled.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

/// One thing that is wrong, at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stops the rule from loading.
    pub severity: Severity,
    /// Where.
    pub span: Span,
    /// What is wrong, in one line without a full stop.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span, message: message.into(), hint: None }
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, span, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The message with the line it is about and a caret under the place, for a terminal.
    ///
    /// `source_name` is what the reader knows the text by (a file, a rule's name); `source` is the text that was
    /// compiled.
    pub fn render(&self, source_name: &str, source: &str) -> String {
        let (line, column) = self.span.line_column(source);
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let text = source.split('\n').nth(line - 1).unwrap_or_default();
        let (shown, caret_at) = window(text, column - 1);
        let room = shown.chars().count().saturating_sub(caret_at).max(1);
        let wanted = source.get(self.span.start..self.span.end).map_or(1, |s| s.chars().count()).max(1);
        let carets = "^".repeat(wanted.min(room));
        let gutter = " ".repeat(line.to_string().len());

        let mut out = String::new();
        let indent = " ".repeat(caret_at);
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "{severity}: {message}\n{gutter}--> {source_name}:{line}:{column}\n{gutter} |\n\
             {line} | {shown}\n{gutter} | {indent}{carets}",
            message = self.message,
        );
        if let Some(hint) = &self.hint {
            let _ = write!(out, "\n{gutter} = help: {hint}");
        }
        out
    }
}

/// The part of a line around a character, with everything that could move a terminal's cursor made a space, and
/// where in it that character stands.
fn window(line: &str, at: usize) -> (String, usize) {
    let start = at.saturating_sub(SHOWN_LINE_CHARS / 2);
    let shown = line.trim_end().chars().skip(start).take(SHOWN_LINE_CHARS);
    (shown.map(|c| if c.is_control() { ' ' } else { c }).collect(), at - start)
}

/// Why a rule or a template was not compiled: at least one error, with every place that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    diagnostics: Vec<Diagnostic>,
    line: usize,
    column: usize,
}

impl CompileError {
    pub(crate) fn new(mut diagnostics: Vec<Diagnostic>, source: &str) -> Self {
        diagnostics.sort_by_key(|d| d.span.start);
        diagnostics.truncate(MAX_DIAGNOSTICS);
        let (line, column) = diagnostics.first().map_or((1, 1), |d| d.span.line_column(source));
        Self { diagnostics, line, column }
    }

    /// What is wrong, in the order of the text.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Every diagnostic with its line and caret, separated by empty lines.
    pub fn render(&self, source_name: &str, source: &str) -> String {
        let rendered: Vec<_> = self.diagnostics.iter().map(|d| d.render(source_name, source)).collect();
        rendered.join("\n\n")
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.diagnostics.first() else { return f.write_str("the text can't be compiled") };
        write!(f, "line {}, column {}: {}", self.line, self.column, first.message)?;
        if let Some(hint) = &first.hint {
            write!(f, " ({hint})")?;
        }
        match self.diagnostics.len() {
            1 => Ok(()),
            n => write!(f, ", and {} more", n - 1),
        }
    }
}

/// The candidate that a mistyped name was probably meant to be.
pub(crate) fn closest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST_NAME: usize = 64; // the distance costs the product of both lengths
    if name.len() > LONGEST_NAME {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let allowed = (lower.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_ascii_lowercase()), c))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, c)| c)
}

/// "did you mean `x`?", where there is something close.
pub(crate) fn did_you_mean<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    closest(name, candidates).map(|c| format!("did you mean `{c}`?"))
}
